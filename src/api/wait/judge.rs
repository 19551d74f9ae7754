//! Decides whether a goal is reached, pending or unreachable. Pure.

use crate::api::view::StatusView;
use crate::model::checks::UncheckedHead;
use crate::model::desired::{Hold, Outcome};
use crate::model::name::{CommitId, Digest, Generation};
use crate::model::poll::{PollStatus, SourceTrouble};
use crate::model::status::{Condition, Reason};
use crate::model::time::Timestamp;
use crate::model::view::WaitState;

/// The goal; if it is empty, everything that was recorded, declared and pushed when the wait began.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct WaitGoal {
    pub(super) commit: Option<CommitId>,
    pub(super) digest: Option<Digest>,
    pub(super) generation: Option<Generation>,
    /// Whether the state Held with this version counts as Ready.
    pub(super) held: bool,
}

impl WaitGoal {
    pub(super) fn is_plain(&self) -> bool {
        self.commit.is_none() && self.digest.is_none() && self.generation.is_none()
    }

    fn words(&self) -> String {
        let commit = self.commit.as_ref().map(|commit| format!("commit {}", commit.short()));
        let digest = self.digest.as_ref().map(|digest| format!("image {}", digest.short()));
        let generation = self.generation.map(|generation| format!("generation {generation}"));
        let all: Vec<_> = [commit, digest, generation].into_iter().flatten().collect();
        all.join(" with ")
    }
}

/// The generation that satisfies the goal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum GoalGeneration {
    /// The newest one.
    Current,
    /// An earlier one, with its outcome.
    Earlier { generation: Generation, outcome: Option<Outcome> },
    /// None in the stored history.
    None,
    /// Unknown, because two commits cannot be compared now.
    Unknown,
}

/// The input of the decision.
#[derive(Clone, Debug)]
pub(super) struct WaitEvidence {
    /// The status without regard to a head that is still unknown.
    pub(super) settled: StatusView,
    /// The pending query to git or the registry, as a clause.
    pub(super) unanswered: Option<String>,
    /// The source of the head; `None` if nothing is tracked.
    pub(super) follows: Option<&'static str>,
    pub(super) look: PollStatus,
    /// When the wait began.
    pub(super) asked: Timestamp,
    pub(super) hold: Option<Hold>,
    /// The newest generation.
    pub(super) current: Generation,
    /// Whether a container runs.
    pub(super) running: bool,
    /// Why a newer edit of the manifest is rejected.
    pub(super) problem: Option<String>,
    pub(super) carrier: GoalGeneration,
}

/// Returns the decision and its reason.
pub(super) fn judge(goal: &WaitGoal, evidence: &WaitEvidence) -> (WaitState, String) {
    let message = evidence.settled.message.clone();
    if let Some(held) = of_a_hold(goal, evidence) {
        return held;
    }
    match evidence.settled.reason {
        // Only a user can resolve this, by setting the version to run.
        Reason::RecordBehind => return (WaitState::Ended, message),
        // The last report of a disconnected agent is not final, because the agent may return with
        // another.
        Reason::Unknown | Reason::AgentAway => return (WaitState::Waiting, message),
        _ => {}
    }
    if goal.is_plain() {
        return plain(evidence);
    }
    match &evidence.carrier {
        GoalGeneration::Current => of_status(&evidence.settled),
        GoalGeneration::Unknown => {
            (WaitState::Waiting, format!("whether this generation has {} is not known yet", goal.words()))
        }
        GoalGeneration::Earlier { generation, outcome } => {
            (WaitState::Ended, became_of(goal, *generation, outcome, evidence))
        }
        GoalGeneration::None => not_there(goal, evidence),
    }
}

/// A hold is an end, because only a user ends it. If the hold has already ended, `Held` is only the
/// result of the last reconcile and does not predict the next.
fn of_a_hold(goal: &WaitGoal, evidence: &WaitEvidence) -> Option<(WaitState, String)> {
    if evidence.settled.condition != Condition::Held {
        return None;
    }
    let message = evidence.settled.message.clone();
    let Some(hold) = &evidence.hold else { return Some((WaitState::Waiting, message)) };
    let keeps_it = hold.generation == Some(evidence.current) && evidence.carrier == GoalGeneration::Current;
    let is_reached = goal.held && evidence.running && keeps_it;
    Some((if is_reached { WaitState::Reached } else { WaitState::Ended }, message))
}

/// Every push or edit before the wait began counts, so the current head must be known first.
fn plain(evidence: &WaitEvidence) -> (WaitState, String) {
    if let Some(problem) = &evidence.problem {
        return (WaitState::Ended, format!("the edited manifest is invalid: {problem}"));
    }
    let Some(who) = evidence.follows.filter(|_| !evidence.is_answered()) else {
        return match &evidence.look.unchecked {
            // The container is ready, but not with what was pushed.
            Some(unchecked) if evidence.follows.is_some() => of_checks(unchecked),
            _ => of_status(&evidence.settled),
        };
    };
    match evidence.fresh_trouble() {
        Some(trouble) if !trouble.may_pass() => (WaitState::Ended, trouble.message.clone()),
        Some(_) if evidence.settled.is_of_source => (WaitState::Ended, evidence.settled.message.clone()),
        Some(trouble) => (WaitState::Waiting, format!("the newest head is unknown: {}", trouble.message)),
        None => {
            let waits = || format!("querying {who} for the newest head");
            (WaitState::Waiting, evidence.unanswered.clone().unwrap_or_else(waits))
        }
    }
}

impl WaitEvidence {
    /// Whether the head is known as of the beginning of the wait.
    fn is_answered(&self) -> bool {
        self.look.answered.is_some_and(|answered| answered >= self.asked) && self.unanswered.is_none()
    }

    /// A problem found since the wait began.
    fn fresh_trouble(&self) -> Option<&SourceTrouble> {
        let asked_since = self.look.failed.max(self.look.answered).is_some_and(|at| at >= self.asked);
        self.look.trouble.as_ref().filter(|_| asked_since)
    }
}

fn of_checks(unchecked: &UncheckedHead) -> (WaitState, String) {
    let state = if unchecked.is_pending { WaitState::Waiting } else { WaitState::Ended };
    (state, unchecked.sentence.clone())
}

fn of_status(status: &StatusView) -> (WaitState, String) {
    let state = match status.condition {
        Condition::Ready => WaitState::Reached,
        Condition::Progressing => WaitState::Waiting,
        Condition::Degraded if status.is_of_source => WaitState::Ended,
        // The controller queries the engine continuously, so a status names no next attempt.
        Condition::Degraded if status.reason == Reason::EngineUnavailable => WaitState::Waiting,
        Condition::Degraded if status.next_retry.is_some() && !is_verdict(status.reason) => {
            WaitState::Waiting
        }
        Condition::Degraded | Condition::Blocked | Condition::RolledBack | Condition::Held => {
            WaitState::Ended
        }
    };
    (state, status.message.clone())
}

/// The outcome of a goal that a later generation does not satisfy.
fn became_of(
    goal: &WaitGoal,
    generation: Generation,
    outcome: &Option<Outcome>,
    evidence: &WaitEvidence,
) -> String {
    let (what, current) = (goal.words(), evidence.current);
    match outcome {
        Some(Outcome::Failed(why)) => {
            format!(
                "generation {generation}, which had {what}, failed: {why}; generation {current} replaced it"
            )
        }
        Some(Outcome::Ready | Outcome::Superseded) | None => {
            format!(
                "generation {generation}, which had {what}, was replaced by generation {current}, which \
                does not have it"
            )
        }
    }
}

/// No recorded generation satisfies the goal: it may still come, unless nothing can bring it.
fn not_there(goal: &WaitGoal, evidence: &WaitEvidence) -> (WaitState, String) {
    let what = goal.words();
    if goal.generation.is_some_and(|wanted| wanted <= evidence.current) {
        return (
            WaitState::Ended,
            format!("generation {} is recorded, and it does not have {what}", evidence.current),
        );
    }
    if let (Some(unchecked), Some(commit)) = (&evidence.look.unchecked, &goal.commit)
        && unchecked.head == *commit
        && evidence.unanswered.is_none()
    {
        return of_checks(unchecked);
    }
    let trouble = evidence.fresh_trouble();
    match trouble {
        Some(trouble) if goal.commit.is_some() && !trouble.may_pass() => {
            (WaitState::Ended, format!("{what} cannot be deployed: {}", trouble.message))
        }
        Some(_) if evidence.settled.is_of_source => (WaitState::Ended, evidence.settled.message.clone()),
        _ => (WaitState::Waiting, format!("{what} is not recorded yet; {}", evidence.settled.message)),
    }
}

/// Whether the reason concerns the requested version, instead of a temporary problem around it.
fn is_verdict(reason: Reason) -> bool {
    match reason {
        Reason::BuildFailed
        | Reason::RevisionNotFound
        | Reason::StartFailed
        | Reason::NeverReady
        | Reason::CanaryFailed
        | Reason::ReleaseFailed
        | Reason::HealthUnknown
        | Reason::ImageNotFound
        | Reason::CrashLoop
        | Reason::NoPlace
        | Reason::NotConverging
        | Reason::SourceDenied
        | Reason::SourceMissing
        | Reason::SourceUnreachable
        | Reason::BranchMissing
        | Reason::ChecksFailed
        | Reason::ForgeUnavailable
        | Reason::ForgeDenied => true,
        Reason::AsRecorded
        | Reason::Completed
        | Reason::NothingRecorded
        | Reason::Building
        | Reason::Pulling
        | Reason::Updating
        | Reason::Releasing
        | Reason::AwaitingNeeds
        | Reason::AwaitingPort
        | Reason::AwaitingHealth
        | Reason::Canary
        | Reason::SourceUnavailable
        | Reason::HeadUnknown
        | Reason::WaitingForChecks
        | Reason::FrontUnavailable
        | Reason::Unhealthy
        | Reason::Interrupted
        | Reason::HeldByPerson
        | Reason::NameConflict
        | Reason::VolumeMissing
        | Reason::BindSourceMissing
        | Reason::OptionRefused
        | Reason::SecretMissing
        | Reason::Pushing
        | Reason::RegistryUnavailable
        | Reason::RegistryDenied
        | Reason::TagMoved
        | Reason::EngineUnavailable
        | Reason::NotInManifest
        | Reason::RolledBack
        | Reason::AgentAway
        | Reason::PolicyRefused
        | Reason::RecordBehind
        | Reason::Unknown => false,
    }
}
