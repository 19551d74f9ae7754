//! The container is the one that should run: keep it running, named, connected and limited.

use super::Pass;
use super::health::Health;
use super::parts::{merge, remove, remove_all, remove_all_stopped, start_seen, stop_all_running};
use crate::model::container::{ContainerSpec, Exit};
use crate::model::desired::Outcome;
use crate::model::memory::{Good, Memory};
use crate::model::observed::{ContainerState, SeenContainer};
use crate::model::status::{Condition, Reason};
use crate::model::time::Timestamp;
use crate::plan::target::Choice;
use crate::plan::{Half, Step, Verdict, difference, restart};

impl Pass<'_> {
    pub(super) fn settled(
        &self,
        spec: &ContainerSpec,
        current: &SeenContainer,
        others: &[&SeenContainer],
        mut memory: Memory,
    ) -> (Half, Memory) {
        let state = match &current.state {
            ContainerState::Running => self.running(current, others, &mut memory),
            ContainerState::Exited(_) | ContainerState::Created if !others.is_empty() => {
                self.go_back(current, others)
            }
            ContainerState::Exited(exit) => self.restart(current, exit, &mut memory),
            ContainerState::Created => {
                let half = start_seen(Half::default(), current, "it was created and never started");
                self.with_verdict(half, format!("starting {}", self.choice.words()))
            }
            ContainerState::Paused => self.unpause(Half::default(), current),
            ContainerState::InTransit => return (self.in_transit(), memory),
            ContainerState::Dead => {
                return (remove(Half::default(), current, "the engine calls it dead"), memory);
            }
        };
        // It cannot be started without its network; whereas a name or a limit that the engine will
        // not take is no reason to leave it down.
        let half = merge(self.connect(current), state);
        let mut half = merge(half, self.set_right(spec, current, others));
        if let Some(conflict) = self.name_conflict(&spec.options.name) {
            (half.verdict, half.outcome) = (Some(conflict), None);
        }
        (half, memory)
    }

    /// The name and the limits, on the container as it stands.
    fn set_right(&self, spec: &ContainerSpec, current: &SeenContainer, others: &[&SeenContainer]) -> Half {
        let name = &spec.options.name;
        let mut half = Half::default();
        let is_free = others.iter().all(|other| other.name != name.as_str());
        if current.name != name.as_str() && is_free && self.observed.name_holder.is_none() {
            half.differences.push(format!("the name is {}, should be {name}", current.name));
            half = half.then(Step::Rename { id: current.id.clone(), name: name.clone() }, "it was renamed");
        }
        let limits = difference::limits(spec, current);
        if limits.is_empty() {
            return half;
        }
        let adjust = Step::Adjust {
            id: current.id.clone(),
            memory: spec.options.memory,
            nano_cpus: spec.options.nano_cpus,
            pids: spec.options.pids,
        };
        let mut half = half.then(adjust, limits.join("; "));
        half.differences.extend(limits);
        half
    }

    fn running(&self, current: &SeenContainer, others: &[&SeenContainer], memory: &mut Memory) -> Half {
        match self.health(current, memory) {
            Health::Ready => self.ready(current, others, memory),
            Health::Awaited { until } => self.await_health(current, until),
            Health::Overdue(why) => {
                let message = format!("the container of {} {why}", self.choice.words());
                let is_of_the_record = !matches!(self.choice, Choice::Fallback(_));
                let outcome = self.failed_unless_good(&message, memory).filter(|_| is_of_the_record);
                Half { outcome, ..Half::say(Condition::Degraded, Reason::NeverReady, message) }
            }
            Health::Lost(why) => {
                let message = format!("the container of {} {why}", self.choice.words());
                Half::say(Condition::Degraded, Reason::Unhealthy, message)
            }
        }
    }

    fn ready(&self, current: &SeenContainer, others: &[&SeenContainer], memory: &mut Memory) -> Half {
        let mut half = remove_all(Half::default(), others, "it is a leftover");
        let entry = &self.intent.entry;
        match (self.choice, &entry.image) {
            (Choice::Wanted(_) | Choice::Insist(_), Some(image)) => {
                memory.good = Some(Good {
                    generation: entry.generation,
                    image: image.clone(),
                    revision: entry.revision.clone(),
                    container: current.id.clone(),
                    at: self.ready_since(current, memory),
                });
                memory.refused = None;
                half.outcome = Some((entry.generation, Outcome::Ready));
            }
            // The same good generation, in a container that was made anew.
            _ => {
                let at = self.ready_since(current, memory);
                memory.good.iter_mut().for_each(|good| {
                    good.container.clone_from(&current.id);
                    good.at = at;
                });
            }
        }
        half.verdict = Some(self.rest(memory));
        half
    }

    fn ready_since(&self, current: &SeenContainer, memory: &Memory) -> Timestamp {
        match &memory.good {
            Some(good) if good.container == current.id && current.started_at <= Some(good.at) => good.at,
            _ => self.now,
        }
    }

    /// What to say when what can run runs well.
    pub(super) fn rest(&self, memory: &Memory) -> Verdict {
        match (self.choice, &memory.refused) {
            (Choice::Fallback(_) | Choice::Keep { .. }, Some(refused)) => Verdict::new(
                Condition::Degraded,
                refused.reason,
                format!("{}; {} goes on serving", refused.message, self.choice.words()),
            ),
            _ => Verdict::new(
                Condition::Ready,
                Reason::AsRecorded,
                format!("{} runs and is ready", self.choice.words()),
            ),
        }
    }

    /// What was to replace this container is no longer wanted: it gives back port and volumes. That
    /// this one was stopped for it is no crash.
    fn go_back(&self, current: &SeenContainer, others: &[&SeenContainer]) -> Half {
        if super::is_any_in_transit(others) {
            return self.in_transit();
        }
        let back = "what was to replace the container is no longer wanted";
        let half = stop_all_running(Half::default(), others, back);
        let half = start_seen(half, current, back);
        let half = remove_all_stopped(half, others, back);
        self.with_verdict(half, format!("going back to {}", self.choice.words()))
    }

    /// Starts a container that ended, once its time has come.
    pub(super) fn restart(&self, current: &SeenContainer, exit: &Exit, memory: &mut Memory) -> Half {
        memory.crashes = restart::count(&memory.crashes, current, exit);
        let failed_at = memory.crashes.tried.map_or(exit.at, |tried| tried.max(exit.at));
        let forgiven = self.intent.sync.is_some_and(|sync| sync > failed_at);
        let due = memory.crashes.next_restart.filter(|due| *due > self.now && !forgiven);
        let how = restart::how(exit);
        if let Some(due) = due {
            let message = format!("the container {how}, {} times in a row", memory.crashes.count);
            return Half::say(Condition::Degraded, Reason::CrashLoop, message).look_again_at(due);
        }
        memory.crashes = restart::started(&memory.crashes, current, self.now);
        let half = start_seen(Half::default(), current, &format!("it {how}"));
        self.with_verdict(half, format!("starting {} again, which {how}", self.choice.words()))
    }
}
