//! The known state of tracked branches and tags, and requests for new answers. It is kept in memory: after a
//! restart, each poller asks first.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::mpsc;

use crate::controller::clock::now;
use crate::model::checks::UncheckedHead;
use crate::model::name::EnvironmentName;
use crate::model::poll::{PollStatus, QueryPeriod, SourceTrouble};
use crate::model::status::Reason;
use crate::model::time::Timestamp;

/// The maximum number of requests that wait for a poller; beyond that, the next poll answers.
const MOST_QUESTIONS: usize = 256;

/// One [`PollStatus`] for each environment, shared by pollers, reconciles and the API.
#[derive(Clone)]
pub(crate) struct PollState {
    all: Arc<Mutex<BTreeMap<EnvironmentName, PollRecord>>>,
    questions: mpsc::Sender<EnvironmentName>,
}

#[derive(Clone, Default)]
struct PollRecord {
    look: PollStatus,
    /// Set while a client waits for an answer to a request from this time or later.
    awaited: Option<Timestamp>,
}

/// The effect of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PollChange {
    /// An error began, changed or ended.
    pub(crate) of_trouble: bool,
    /// A client waited for the answer.
    pub(crate) is_awaited: bool,
}

/// The reason why the head of a branch or the digest of a tag is unknown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PollFailure {
    pub(crate) reason: Reason,
    pub(crate) message: String,
    /// Whether git or the registry answered that it does not exist.
    pub(crate) is_answer: bool,
}

impl PollState {
    /// An empty state. The supervisor reads the requests.
    pub(crate) fn new() -> (Self, mpsc::Receiver<EnvironmentName>) {
        let (questions, asked) = mpsc::channel(MOST_QUESTIONS);
        (Self { all: Arc::default(), questions }, asked)
    }

    /// The known state of one environment.
    pub(crate) fn of(&self, environment: &EnvironmentName) -> PollStatus {
        self.all().get(environment).map(|noted| noted.look.clone()).unwrap_or_default()
    }

    /// Makes the poller of an environment ask at once.
    pub(crate) fn ask(&self, environment: &EnvironmentName) {
        self.all().entry(environment.clone()).or_default().awaited = Some(now());
        // If the queue is full, many requests are about to be answered; the poll covers this one.
        let _ = self.questions.try_send(environment.clone());
    }

    /// Notes that an environment has been reconciled and that the result is recorded. Returns whether this is news.
    pub(crate) fn observed(&self, environment: &EnvironmentName) -> bool {
        let mut all = self.all();
        let look = &mut all.entry(environment.clone()).or_default().look;
        let was_recorded = look.unrecorded.take().is_none();
        !std::mem::replace(&mut look.is_observed, true) || !was_recorded
    }

    /// Notes that the result of a reconcile could not be recorded, and why.
    pub(crate) fn unrecorded(&self, environment: &EnvironmentName, why: String) {
        self.all().entry(environment.clone()).or_default().look.unrecorded = Some(why);
    }

    /// Notes an answer.
    pub(crate) fn answered(&self, environment: &EnvironmentName, asked: QueryPeriod) -> PollChange {
        let mut all = self.all();
        let PollRecord { look, awaited } = all.entry(environment.clone()).or_default();
        look.answered = Some(asked.from);
        let is_awaited = awaited.take_if(|since| asked.covers(*since)).is_some();
        PollChange { of_trouble: look.trouble.take().is_some(), is_awaited }
    }

    /// Notes a missing or unusable answer.
    pub(crate) fn unknown(
        &self,
        environment: &EnvironmentName,
        asked: QueryPeriod,
        why: &PollFailure,
        next_retry: Timestamp,
    ) -> PollChange {
        let mut all = self.all();
        let PollRecord { look, awaited } = all.entry(environment.clone()).or_default();
        if why.is_answer {
            look.answered = Some(asked.from);
        } else {
            look.failed = Some(asked.from);
        }
        // It is not known any more whether they have passed.
        look.unchecked = None;
        let before = look.trouble.take();
        let same = before.as_ref().filter(|before| before.reason == why.reason);
        let since = same.map_or(asked.to, |same| same.since);
        let of_trouble = before.as_ref().is_none_or(|before| before.message != why.message);
        let message = why.message.clone();
        look.trouble = Some(SourceTrouble { reason: why.reason, message, since, next_retry });
        let is_awaited = awaited.take_if(|since| asked.covers(*since)).is_some();
        PollChange { of_trouble, is_awaited }
    }

    /// Notes the head whose checks have not passed. Returns whether that is news.
    pub(crate) fn unchecked(&self, environment: &EnvironmentName, unchecked: Option<UncheckedHead>) -> bool {
        let mut all = self.all();
        let before = &mut all.entry(environment.clone()).or_default().look.unchecked;
        let sentence = |head: &Option<UncheckedHead>| head.as_ref().map(|head| head.sentence.clone());
        let has_changed = sentence(before) != sentence(&unchecked);
        let since =
            before.as_ref().filter(|before| Some(&before.head) == unchecked.as_ref().map(|new| &new.head));
        let since = since.map(|before| before.since);
        *before = unchecked.map(|new| UncheckedHead { since: since.unwrap_or(new.since), ..new });
        has_changed
    }

    /// Forgets the known branch or tag of an environment, which tracks another one now.
    pub(crate) fn forget(&self, environment: &EnvironmentName) {
        if let Some(PollRecord { look, .. }) = self.all().get_mut(environment) {
            let PollStatus { is_observed, unrecorded, .. } = std::mem::take(look);
            *look = PollStatus { is_observed, unrecorded, ..PollStatus::default() };
        }
    }

    fn all(&self) -> MutexGuard<'_, BTreeMap<EnvironmentName, PollRecord>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unreachable(message: &str) -> PollFailure {
        PollFailure { reason: Reason::SourceUnreachable, message: message.to_owned(), is_answer: false }
    }

    #[test]
    fn a_recorded_result_is_news_after_one_that_was_not() {
        let (poll_state, _questions) = PollState::new();
        let dev = EnvironmentName::new("dev").unwrap();
        assert!(poll_state.observed(&dev));
        assert!(!poll_state.observed(&dev));
        poll_state.unrecorded(&dev, "the disk is full".to_owned());
        poll_state.forget(&dev);
        assert_eq!(poll_state.of(&dev).unrecorded.as_deref(), Some("the disk is full"));
        assert!(poll_state.observed(&dev));
        assert_eq!(poll_state.of(&dev).unrecorded, None);
    }

    #[test]
    fn the_newest_polling_problem_is_kept_and_cleared_by_an_answer() {
        let (poll_state, _questions) = PollState::new();
        let (dev, at) = (EnvironmentName::new("dev").unwrap(), Timestamp::from_millis);
        assert!(poll_state.unknown(&dev, at(1).into(), &unreachable("down"), at(2)).of_trouble);
        assert!(!poll_state.unknown(&dev, at(2).into(), &unreachable("down"), at(3)).of_trouble);
        let denied = PollFailure { reason: Reason::SourceDenied, ..unreachable("no") };
        assert!(poll_state.unknown(&dev, at(3).into(), &denied, at(4)).of_trouble);
        let trouble = poll_state.of(&dev).trouble.unwrap();
        assert_eq!((trouble.reason, trouble.since, trouble.next_retry), (Reason::SourceDenied, at(3), at(4)));
        assert_eq!(poll_state.of(&dev).answered, None);
        poll_state.ask(&dev);
        let before = QueryPeriod { from: at(5), to: Timestamp::from_millis(u64::MAX) };
        assert_eq!(poll_state.answered(&dev, before), PollChange { of_trouble: true, is_awaited: false });
        let after = QueryPeriod { from: now(), ..before };
        assert_eq!(poll_state.answered(&dev, after), PollChange { of_trouble: false, is_awaited: true });
        assert_eq!(poll_state.answered(&dev, after), PollChange { of_trouble: false, is_awaited: false });
        assert_eq!((poll_state.of(&dev).answered, poll_state.of(&dev).trouble), (Some(after.from), None));
        assert_eq!(poll_state.of(&EnvironmentName::new("test").unwrap()), PollStatus::default());
    }
}
