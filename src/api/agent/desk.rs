//! Where agents report: who is connected, what each is to be told, and what it was asked.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::api::{ControllerError, LogStream, ManifestState};
use crate::model::link::{Ask, Hello, Question};
use crate::model::name::{AgentName, EnvironmentName};
use crate::model::time::Timestamp;
use crate::record::{Bell, Bells, Hearer};

/// How long an agent may take to begin an answer.
const PATIENCE: Duration = Duration::from_secs(15);
/// Questions that wait for one agent; more are refused.
const MOST_QUESTIONS: usize = 32;

/// Everything that is known of agents while this process lives. Cheap to clone.
#[derive(Clone)]
pub struct Desk {
    hearer: Hearer,
    manifest: watch::Receiver<Arc<ManifestState>>,
    clock: fn() -> Timestamp,
    seats: Arc<Mutex<HashMap<AgentName, Seat>>>,
    answers: Arc<Mutex<HashMap<String, Awaited>>>,
    closed: CancellationToken,
    /// How many documents were read to find out when an agent was last heard.
    #[cfg(test)]
    pub(in crate::api) looked_up: Arc<std::sync::atomic::AtomicUsize>,
}

/// An agent that is or was connected.
#[derive(Default)]
struct Seat {
    session: Option<Live>,
    last_seen: Option<Timestamp>,
    /// Whether [`Self::last_seen`] was looked for in the record.
    is_looked_up: bool,
}

impl Seat {
    /// What is known of the agent without the record; `None`: nothing.
    fn presence(&self, clock: fn() -> Timestamp) -> Option<Presence> {
        match (&self.session, self.last_seen) {
            (Some(_), _) => Some(Presence { connected: true, last_seen: Some(clock()) }),
            (None, None) if !self.is_looked_up => None,
            (None, last_seen) => Some(Presence { connected: false, last_seen }),
        }
    }
}

/// The session of an agent.
struct Live {
    instance: String,
    epoch: u64,
    bell: Arc<Notify>,
    questions: mpsc::Sender<Ask>,
    superseded: CancellationToken,
}

/// Who waits for an answer, and from whom.
struct Awaited {
    agent: AgentName,
    told: oneshot::Sender<Answer>,
}

/// How an agent answers: output as it comes, or a sentence that says why not.
pub(super) type Answer = Result<LogStream, ControllerError>;

/// Whether an agent can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Presence {
    /// Whether it is connected.
    pub connected: bool,
    /// When it was last heard; `None`: never.
    pub last_seen: Option<Timestamp>,
}

/// A session that was let in. It ends with this value.
pub(super) struct Session {
    desk: Desk,
    pub(super) agent: AgentName,
    epoch: u64,
    /// Rung when something may have changed for the agent.
    pub(super) bell: Arc<Notify>,
    /// What it is to be asked.
    pub(super) questions: mpsc::Receiver<Ask>,
    /// Cancelled when another session took over.
    pub(super) superseded: CancellationToken,
    /// Cancelled when the controller ends.
    pub(super) closed: CancellationToken,
}

/// Why a session is not let in: another agent with the same token is connected, and stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Outranked;

impl Desk {
    /// Nobody is connected yet.
    pub fn new(
        hearer: Hearer,
        manifest: watch::Receiver<Arc<ManifestState>>,
        clock: fn() -> Timestamp,
    ) -> Self {
        let (seats, answers) = Default::default();
        let closed = CancellationToken::new();
        #[cfg(test)]
        let looked_up = Arc::default();
        Self {
            hearer,
            manifest,
            clock,
            seats,
            answers,
            closed,
            #[cfg(test)]
            looked_up,
        }
    }

    /// What agents report is kept with this.
    pub(super) fn hearer(&self) -> &Hearer {
        &self.hearer
    }

    /// Tells each agent of what changes for it, until the desk is closed. One task for all: a bell
    /// wakes whom it concerns, and not a thousand others.
    pub async fn dispatch(self, bells: Bells) {
        let closed = self.closed.clone();
        closed.run_until_cancelled(self.listen(bells)).await;
    }

    async fn listen(&self, bells: Bells) {
        let (mut bells, mut manifest) = (bells.subscribe(), self.manifest.clone());
        loop {
            tokio::select! {
                bell = bells.recv() => match bell {
                    Ok(Bell::Desired(environment)) => self.ring_for(&environment),
                    Ok(Bell::Status(_) | Bell::Event(_)) => {}
                    Err(RecvError::Lagged(_)) => self.ring_all(),
                    Err(RecvError::Closed) => return,
                },
                changed = manifest.changed() => match changed {
                    Ok(()) => self.ring_all(),
                    Err(_) => return,
                },
            }
        }
    }

    /// Ends every session, so that nobody waits for an agent when the controller ends.
    pub fn close(&self) {
        self.closed.cancel();
    }

    /// Whether the agent of this name can be asked.
    pub fn presence(&self, agent: &AgentName) -> Presence {
        if let Some(known) = self.seats().get(agent).and_then(|seat| seat.presence(self.clock)) {
            return known;
        }
        // Without the lock, because it reads a document for each environment of the agent; and once,
        // because the answer only changes with a session.
        let heard = self.last_heard(agent);
        let mut seats = self.seats();
        let seat = seats.entry(agent.clone()).or_default();
        seat.is_looked_up = true;
        seat.last_seen = seat.last_seen.max(heard);
        seat.presence(self.clock).unwrap_or(Presence { connected: false, last_seen: heard })
    }

    /// When an agent was last heard, as the record has it.
    fn last_heard(&self, agent: &AgentName) -> Option<Timestamp> {
        let environments = self.environments(agent).into_iter();
        #[cfg(test)]
        let environments = environments.inspect(|_| {
            self.looked_up.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        });
        environments.filter_map(|one| Some(self.hearer.heard(&one).ok()??.at)).max()
    }

    /// The environments that the manifest gives to an agent.
    pub(super) fn environments(&self, agent: &AgentName) -> BTreeSet<EnvironmentName> {
        let state = self.manifest.borrow();
        let all = state.manifest.environments.iter();
        all.filter(|(_, spec)| spec.host.as_ref() == Some(agent)).map(|(name, _)| name.clone()).collect()
    }

    /// Lets a session in. Of two agents with one token the one with the higher epoch stays, so that
    /// they do not throw each other out in turn; the same agent takes over from its own stale session.
    pub(super) fn enter(&self, agent: AgentName, hello: &Hello) -> Result<Session, Outranked> {
        let mut seats = self.seats();
        let seat = seats.entry(agent.clone()).or_default();
        if let Some(live) = seat.session.take_if(|live| live.epoch < hello.epoch) {
            let is_other = live.instance != hello.instance;
            warn!(%agent, epoch = live.epoch, by = hello.epoch, is_other, "a newer session takes over");
            live.superseded.cancel();
        }
        if seat.session.is_some() {
            return Err(Outranked);
        }
        let (asker, questions) = mpsc::channel(MOST_QUESTIONS);
        let (bell, superseded) = (Arc::new(Notify::new()), CancellationToken::new());
        seat.session = Some(Live {
            instance: hello.instance.clone(),
            epoch: hello.epoch,
            bell: Arc::clone(&bell),
            questions: asker,
            superseded: superseded.clone(),
        });
        drop(seats);
        info!(%agent, epoch = hello.epoch, software = %hello.software.escape_debug(), "an agent is connected");
        self.hearer.tell_of_presence(self.environments(&agent));
        let (desk, closed) = (self.clone(), self.closed.clone());
        Ok(Session { desk, agent, epoch: hello.epoch, bell, questions, superseded, closed })
    }

    /// Whether this is the session of an agent: another one has no say.
    pub(super) fn is_live(&self, agent: &AgentName, instance: &str, epoch: u64) -> bool {
        let seats = self.seats();
        let live = seats.get(agent).and_then(|seat| seat.session.as_ref());
        live.is_some_and(|live| live.instance == instance && live.epoch == epoch)
    }

    /// Asks an agent, and waits until it begins to answer.
    ///
    /// # Errors
    /// A sentence, where it is away, busy, silent, or cannot tell.
    pub async fn ask(
        &self,
        agent: &AgentName,
        environment: EnvironmentName,
        question: Question,
    ) -> Result<LogStream, ControllerError> {
        let id = uuid::Uuid::new_v4().simple().to_string();
        let (told, answer) = oneshot::channel();
        self.answers().insert(id.clone(), Awaited { agent: agent.clone(), told });
        let forget = Forget { desk: self, id: id.clone() };
        self.put(agent, Ask { id, environment, question })?;
        let answered = tokio::time::timeout(PATIENCE, answer).await;
        drop(forget);
        match answered {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(ControllerError(format!("the agent {agent} went away"))),
            Err(_) => Err(ControllerError(format!(
                "the agent {agent} did not answer within {}",
                humantime::format_duration(PATIENCE)
            ))),
        }
    }

    fn put(&self, agent: &AgentName, ask: Ask) -> Result<(), ControllerError> {
        let seats = self.seats();
        let Some(live) = seats.get(agent).and_then(|seat| seat.session.as_ref()) else {
            drop(seats);
            let seen = self.presence(agent).last_seen;
            let since = seen.map_or_else(|| "never connected".to_owned(), |at| format!("last heard {at}"));
            return Err(ControllerError(format!(
                "the agent {agent} is away ({since}), so it cannot be asked"
            )));
        };
        let full = |_| ControllerError(format!("the agent {agent} has too many questions to answer already"));
        live.questions.try_send(ask).map_err(full)
    }

    /// Takes an answer in; `false` where nobody waits for it, or from this agent.
    pub(super) fn answer(&self, agent: &AgentName, id: &str, answer: Answer) -> bool {
        let mut answers = self.answers();
        if answers.get(id).is_none_or(|awaited| awaited.agent != *agent) {
            return false;
        }
        answers.remove(id).is_some_and(|awaited| awaited.told.send(answer).is_ok())
    }

    fn ring_for(&self, environment: &EnvironmentName) {
        let host =
            self.manifest.borrow().manifest.environments.get(environment).and_then(|spec| spec.host.clone());
        if let Some(live) = host.and_then(|host| self.seats().get(&host)?.session.as_ref().map(Live::bell)) {
            live.notify_one();
        }
    }

    fn ring_all(&self) {
        let seats = self.seats();
        seats.values().filter_map(|seat| seat.session.as_ref()).for_each(|live| live.bell.notify_one());
    }

    fn seats(&self) -> MutexGuard<'_, HashMap<AgentName, Seat>> {
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answers(&self) -> MutexGuard<'_, HashMap<String, Awaited>> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Live {
    fn bell(&self) -> Arc<Notify> {
        Arc::clone(&self.bell)
    }
}

/// Takes a question from the desk, whether it was answered or not.
struct Forget<'a> {
    desk: &'a Desk,
    id: String,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.desk.answers().remove(&self.id);
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let mut seats = self.desk.seats();
        if let Some(seat) = seats.get_mut(&self.agent)
            && seat.session.as_ref().is_some_and(|live| live.epoch == self.epoch)
        {
            seat.session = None;
            seat.last_seen = Some((self.desk.clock)());
            info!(agent = %self.agent, epoch = self.epoch, "an agent is away");
        }
        drop(seats);
        self.desk.hearer.tell_of_presence(self.desk.environments(&self.agent));
    }
}
