//! What is said of an environment: manifest, record and status put together. Pure.

use std::time::Duration;

use super::agent::Presence;
use crate::model::desired::Desired;
use crate::model::name::{AgentName, EnvironmentName};
use crate::model::spec::EnvironmentSpec;
use crate::model::status::{Condition, Reason, Status};
use crate::model::time::Timestamp;
use crate::model::view::{BuildProgress, EnvironmentView};

/// The condition, the reason, the sentence, and since when.
struct Said {
    condition: Condition,
    reason: Reason,
    message: String,
    since: Option<Timestamp>,
}

/// The view of an environment. `spec`: `None` where the manifest does not declare it any more.
pub(super) fn environment(
    spec: Option<&EnvironmentSpec>,
    desired: Desired,
    status: Option<Status>,
    presence: Option<Presence>,
) -> EnvironmentView {
    let host = spec.and_then(|spec| spec.host.as_ref());
    let said = say(spec.is_some(), host, &desired, status.as_ref());
    let said = match (host, presence) {
        (Some(host), Some(Presence { connected: false, last_seen })) => said.of_the_away(host, last_seen),
        _ => said,
    };
    let Desired { environment, entry, hold, sync, .. } = desired;
    EnvironmentView {
        environment,
        container: spec.map(|spec| spec.container.to_string()),
        port: spec.and_then(|spec| spec.publish.map(|publish| publish.port).or(spec.port)),
        host: host.map(ToString::to_string),
        last_seen: presence.and_then(|presence| presence.last_seen),
        generation: entry.generation,
        observed_generation: status.as_ref().map(|status| status.observed_generation),
        status: said.condition,
        reason: said.reason,
        message: said.message,
        since: said.since,
        origin: entry.origin,
        revision: entry.revision,
        image: entry.image,
        held: hold,
        next_retry: status.as_ref().and_then(|status| status.next_retry),
        sync,
        observed_sync: status.as_ref().and_then(|status| status.observed_sync),
        warnings: status.as_ref().map(|status| status.warnings.clone()).unwrap_or_default(),
        running: status.and_then(|status| status.running),
        build: None,
    }
}

/// The view of an environment for which `build` is under way, with how long it has taken by `now`.
pub(super) fn with_build(
    view: EnvironmentView,
    build: Option<BuildProgress>,
    now: Timestamp,
) -> EnvironmentView {
    let Some(build) = build.filter(|_| view.reason == Reason::Building) else { return view };
    let length = |seconds| humantime::format_duration(Duration::from_secs(seconds));
    let taken = length(now.since(build.started).as_secs());
    let message = format!("{} ({taken} of at most {})", view.message, length(build.timeout_seconds));
    EnvironmentView { message, build: Some(build), ..view }
}

/// The view of an environment of which a document cannot be read; `why`: a sentence.
pub(super) fn unreadable(
    spec: Option<&EnvironmentSpec>,
    name: EnvironmentName,
    why: String,
) -> EnvironmentView {
    let view = environment(spec, Desired::empty(name), None, None);
    EnvironmentView { status: Condition::Blocked, reason: Reason::Unknown, message: why, ..view }
}

impl Said {
    /// The same of an environment whose agent is away: nobody can tell whether it is still so.
    fn of_the_away(self, host: &AgentName, last_seen: Option<Timestamp>) -> Self {
        let message = match last_seen {
            // Whatever else there is to say is not from there.
            None => format!(
                "the agent {host} has never connected: run `abide agent` on its host, with the token that `abide \
                 token create --agent {host}` makes"
            ),
            Some(at) => {
                format!("the agent {host} is away and was last heard {at}; until then: {}", self.message)
            }
        };
        Self { reason: Reason::AgentAway, message, ..self }
    }
}

fn say(is_declared: bool, host: Option<&AgentName>, desired: &Desired, status: Option<&Status>) -> Said {
    let Some(status) = status else {
        return Said {
            condition: Condition::Progressing,
            reason: if is_declared { Reason::Unknown } else { Reason::NotInManifest },
            message: match host {
                Some(host) => format!("nothing was heard of it from the agent {host} yet"),
                None => "no pass has run yet".to_owned(),
            },
            since: None,
        };
    };
    let (condition, since) = (status.condition, Some(status.since));
    if !is_declared && status.reason != Reason::NotInManifest {
        let message = "the manifest does not declare it any more".to_owned();
        return Said { condition, reason: Reason::NotInManifest, message, since };
    }
    if is_outdated(desired, status) {
        let (recorded, seen) = (desired.entry.generation, status.observed_generation);
        return Said {
            condition: Condition::Progressing,
            reason: Reason::Updating,
            message: format!("generation {recorded} is recorded; {} has seen {seen}", seer(host)),
            since: Some(desired.entry.at),
        };
    }
    Said { condition, reason: status.reason, message: status.message.clone(), since }
}

/// Who looks at it.
fn seer(host: Option<&AgentName>) -> String {
    host.map_or_else(|| "the loop".to_owned(), |host| format!("the agent {host}"))
}

/// Whether the status is the end of something that is no longer wanted. What is held keeps what
/// it has, whatever is recorded meanwhile; and an engine that does not answer does so for every
/// generation.
fn is_outdated(desired: &Desired, status: &Status) -> bool {
    desired.entry.generation > status.observed_generation
        && desired.hold.is_none()
        && status.condition != Condition::Progressing
        && status.reason != Reason::EngineUnavailable
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::tests::{at, hold, name, status};
    use crate::model::desired::Entry;
    use crate::model::name::Generation;

    fn desired(generation: u64) -> Desired {
        let entry = Entry { generation: Generation(generation), at: at(9), ..Entry::default() };
        Desired { entry, ..Desired::empty(name("dev")) }
    }

    fn said(desired: &Desired, status: Option<&Status>) -> (Condition, Reason, String) {
        let Said { condition, reason, message, .. } = say(true, None, desired, status);
        (condition, reason, message)
    }

    #[test]
    fn before_the_first_pass_nothing_is_known() {
        let expected = (Condition::Progressing, Reason::Unknown, "no pass has run yet".to_owned());
        assert_eq!(said(&desired(0), None), expected);
    }

    #[test]
    fn of_an_agent_that_never_connected_it_is_told_how_to_start_it() {
        let host = AgentName::new("online").unwrap();
        let said = say(true, Some(&host), &desired(0), None).of_the_away(&host, None);
        assert_eq!(said.reason, Reason::AgentAway);
        assert!(said.message.contains("online has never connected"), "{}", said.message);
        assert!(said.message.contains("`abide token create --agent online`"), "{}", said.message);
    }

    #[test]
    fn a_status_of_an_older_generation_is_no_verdict_on_the_newer() {
        let old = |condition| Status { condition, ..status("dev", 4) };
        for condition in [Condition::Ready, Condition::Degraded, Condition::RolledBack, Condition::Blocked] {
            let (condition, reason, message) = said(&desired(5), Some(&old(condition)));
            assert_eq!((condition, reason), (Condition::Progressing, Reason::Updating));
            assert_eq!(message, "generation 5 is recorded; the loop has seen 4");
        }
    }

    #[test]
    fn what_is_held_keeps_its_word() {
        let mut held = desired(5);
        held.hold = Some(hold());
        let status = Status { condition: Condition::Held, reason: Reason::HeldByPerson, ..status("dev", 4) };
        assert_eq!(said(&held, Some(&status)).0, Condition::Held);
        assert_eq!(said(&desired(5), Some(&status)).0, Condition::Progressing, "resumed a moment ago");
    }

    #[test]
    fn an_engine_that_does_not_answer_is_told_of_generations_that_no_pass_has_seen() {
        let (condition, reason) = (Condition::Degraded, Reason::EngineUnavailable);
        let lost = Status { condition, reason, ..status("dev", 4) };
        assert_eq!(said(&desired(5), Some(&lost)), (condition, reason, lost.message.clone()));
    }

    #[test]
    fn a_status_of_the_current_generation_is_repeated() {
        let current = status("dev", 5);
        assert_eq!(
            said(&desired(5), Some(&current)),
            (current.condition, current.reason, current.message.clone())
        );
    }

    #[test]
    fn what_is_not_declared_says_so() {
        let Said { condition, reason, .. } = say(false, None, &desired(5), Some(&status("dev", 5)));
        assert_eq!((condition, reason), (Condition::Ready, Reason::NotInManifest));
    }
}
