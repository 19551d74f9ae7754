//! Getting a container running: make, replace, heal, tidy up.
//!
//! A replacement is made under a name of its own (`dev-server.next`) and takes the final name only
//! once it is ready; the container before it is stopped to free port and volumes, and removed only
//! then. So whatever is cut short, what is found tells how to go on, and there is always a
//! container to go back to.
//!
//! In reading order: [`make`] where the container is not there, [`replace`] while it is on trial
//! beside the one before, [`settle`] once it is the one, [`keep`] where nothing better can be had.

mod health;
mod keep;
mod make;
mod parts;
mod replace;
mod settle;

use super::target::{self, Choice};
use super::{Half, Intent, TRANSIT, Verdict};
use crate::model::container::ContainerSpec;
use crate::model::memory::Memory;
use crate::model::observed::{ContainerState, NetworkPresence, Observed, SeenContainer};
use crate::model::status::{Condition, Reason};
use crate::model::time::Timestamp;

use super::Step;

/// The steps and words for the container, and the notes after them.
pub(super) fn plan(
    intent: &Intent,
    observed: &Observed,
    choice: &Choice,
    memory: Memory,
    now: Timestamp,
) -> (Half, Memory) {
    let pass = Pass { intent, observed, choice, now };
    match choice {
        Choice::Wanted(spec) | Choice::Insist(spec) | Choice::Fallback(spec) => pass.enforce(spec, memory),
        Choice::Keep { id, why } => pass.keep(id, why, memory),
        Choice::Nothing => (pass.nothing(), memory),
    }
}

/// All that a decision about containers rests on, but for the notes.
struct Pass<'a> {
    intent: &'a Intent,
    observed: &'a Observed,
    choice: &'a Choice,
    now: Timestamp,
}

impl Pass<'_> {
    fn nothing(&self) -> Half {
        match &self.intent.options {
            Err(why) => Half::say(Condition::Blocked, Reason::SecretMissing, why.clone()),
            Ok(_) => Half::default(),
        }
    }

    fn enforce(&self, spec: &ContainerSpec, memory: Memory) -> (Half, Memory) {
        let containers = self.observed.containers.iter();
        let (exact, mut others): (Vec<_>, Vec<_>) =
            containers.partition(|container| target::is_made_as(container, spec));
        let Some(current) = target::best(exact.iter().copied(), &memory) else {
            return self.make(spec, &others, memory);
        };
        let on_trial = is_on_trial(spec, current, &others, &memory);
        others.extend(exact.into_iter().filter(|container| container.id != current.id));
        if on_trial {
            self.replacing(spec, current, &others, memory)
        } else {
            self.settled(spec, current, &others, memory)
        }
    }

    fn network_first(&self, half: Half) -> Half {
        match self.observed.network {
            NetworkPresence::Missing => half.then(Step::CreateNetwork, "containers join it"),
            NetworkPresence::Ours | NetworkPresence::Foreign => half,
        }
    }

    fn unpause(&self, mut half: Half, container: &SeenContainer) -> Half {
        half.differences.push("it is paused".to_owned());
        let half = half.then(Step::Unpause { id: container.id.clone() }, "it was paused");
        self.with_verdict(half, format!("unpausing {}", self.choice.words()))
    }

    fn in_transit(&self) -> Half {
        let message = "the engine is restarting or removing the container";
        Half::say(Condition::Progressing, Reason::Updating, message).look_again_at(self.now.after(TRANSIT))
    }

    fn updating(&self, message: String) -> Verdict {
        Verdict::new(Condition::Progressing, Reason::Updating, message)
    }

    fn with_verdict(&self, mut half: Half, message: String) -> Half {
        half.verdict.get_or_insert_with(|| self.updating(message));
        half
    }
}

/// Whether `current` still has to prove itself while there is something to go back to. Names alone
/// do not say: people rename containers.
fn is_on_trial(
    spec: &ContainerSpec,
    current: &SeenContainer,
    others: &[&SeenContainer],
    memory: &Memory,
) -> bool {
    let Some(before) = target::to_go_back_to(others.iter().copied(), memory) else { return false };
    let has_final_name = current.name == spec.options.name.as_str();
    !target::is_proven(current, memory) && (!has_final_name || target::is_proven(before, memory))
}

/// Whether the engine is busy with one of them, so that nothing can be said of port and name.
fn is_any_in_transit(containers: &[&SeenContainer]) -> bool {
    containers.iter().any(|container| container.state == ContainerState::InTransit)
}
