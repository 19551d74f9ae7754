//! The state of a commit in an environment, as a forge shows it.

use serde::{Deserialize, Serialize};

use crate::model::desired::{Desired, Entry, Outcome};
use crate::model::name::Generation;
use crate::model::status::{Condition, Reason, Status};

/// The state of a commit in an environment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommitState {
    /// The phase.
    pub phase: Phase,
    /// The phase as a sentence for people.
    pub description: String,
}

/// The phase of a commit. Each forge has its own words for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// It waits: for a hold, an approval, a build slot.
    Pending,
    /// It is being built, pulled or started.
    Running,
    /// It is Ready.
    Success,
    /// It failed or was rolled back.
    Failure,
    /// It could not be attempted.
    Error,
    /// A newer commit came before it was Ready.
    Superseded,
    /// It was Ready, and a newer version serves now.
    Replaced,
}

impl Phase {
    /// The word, as stored.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Success => "success",
            Self::Failure => "failure",
            Self::Error => "error",
            Self::Superseded => "superseded",
            Self::Replaced => "replaced",
        }
    }
}

impl CommitState {
    /// A state.
    pub fn new(phase: Phase, description: impl Into<String>) -> Self {
        Self { phase, description: description.into() }
    }
}

/// The state of the recorded commit.
pub fn current(desired: &Desired, status: Option<&Status>, outcome: Option<&Outcome>) -> CommitState {
    let generation = desired.entry.generation;
    let held_back = desired.hold.as_ref().filter(|hold| hold.generation != Some(generation));
    if let Some(hold) = held_back {
        return CommitState::new(Phase::Pending, format!("held by {}: {}", hold.by, hold.reason));
    }
    let Some(status) = status.filter(|status| status.observed_generation == generation) else {
        return CommitState::new(Phase::Pending, format!("generation {generation} is waiting"));
    };
    let described = |phase| CommitState::new(phase, status.message.clone());
    let was_ready = outcome == Some(&Outcome::Ready);
    match status.condition {
        Condition::Ready => described(Phase::Success),
        Condition::RolledBack => described(Phase::Success),
        // Once a version was ready, only what its program does counts against it.
        Condition::Degraded | Condition::Blocked if was_ready && !is_of_the_program(status.reason) => {
            CommitState::new(Phase::Success, format!("generation {generation} is deployed"))
        }
        Condition::Progressing | Condition::Held if was_ready => {
            CommitState::new(Phase::Success, format!("generation {generation} is deployed"))
        }
        Condition::Held => described(Phase::Pending),
        Condition::Progressing if is_working(status.reason) => described(Phase::Running),
        Condition::Progressing => described(Phase::Pending),
        Condition::Degraded | Condition::Blocked if is_of_the_program(status.reason) => {
            described(Phase::Failure)
        }
        Condition::Degraded | Condition::Blocked => described(Phase::Error),
    }
}

/// The state of a commit after a newer one is recorded; `None` if it does not change. `serves` names the generation
/// that is Ready now, if any.
pub fn former(
    generation: Generation,
    before: Phase,
    outcome: Option<&Outcome>,
    recorded: &Entry,
    serves: bool,
) -> Option<CommitState> {
    let newer = recorded.revision.as_ref().map_or_else(
        || format!("generation {}", recorded.generation),
        |revision| format!("{} (generation {})", revision.short(), recorded.generation),
    );
    match outcome {
        Some(Outcome::Failed(why)) if before != Phase::Replaced => {
            Some(CommitState::new(Phase::Failure, why.clone()))
        }
        Some(Outcome::Superseded) => {
            Some(CommitState::new(Phase::Superseded, format!("superseded by {newer}")))
        }
        Some(Outcome::Ready) if serves => {
            Some(CommitState::new(Phase::Replaced, format!("replaced by {newer}")))
        }
        Some(Outcome::Ready) if before != Phase::Success && before != Phase::Replaced => {
            Some(CommitState::new(Phase::Success, format!("generation {generation} was deployed")))
        }
        Some(_) | None => None,
    }
}

/// Whether a reason is a step towards Ready.
fn is_working(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::Building
            | Reason::Pulling
            | Reason::Pushing
            | Reason::Updating
            | Reason::Releasing
            | Reason::AwaitingNeeds
            | Reason::AwaitingPort
            | Reason::AwaitingHealth
            | Reason::Canary
            | Reason::RolledBack
    )
}

/// Whether a reason is about the version itself, and not about the host or a service.
pub fn is_of_the_program(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::BuildFailed
            | Reason::StartFailed
            | Reason::NeverReady
            | Reason::CanaryFailed
            | Reason::ReleaseFailed
            | Reason::Unhealthy
            | Reason::CrashLoop
            | Reason::RolledBack
    )
}
