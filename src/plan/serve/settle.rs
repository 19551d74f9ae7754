//! The container is the one that should run: keep it running, named, connected and limited.

use super::Pass;
use super::health::Health;
use super::parts::{merge, remove, remove_all, remove_all_stopped, start_seen, stop, stop_all_running};
use crate::model::container::{ContainerSpec, Exit};
use crate::model::declared::Declared;
use crate::model::desired::{Image, Outcome};
use crate::model::memory::{Good, Memory};
use crate::model::observed::{ContainerState, SeenContainer};
use crate::model::status::{Condition, Reason};
use crate::model::time::Timestamp;
use crate::plan::target::{self, Choice};
use crate::plan::{Half, Step, Verdict, difference, restart, rollback};

impl Pass<'_> {
    pub(super) fn settled(
        &self,
        spec: &ContainerSpec,
        current: &SeenContainer,
        others: &[&SeenContainer],
        mut memory: Memory,
    ) -> (Half, Memory) {
        if let (ContainerState::Exited(exit), []) = (&current.state, others) {
            memory.crashes = restart::count(&memory.crashes, current, exit, self.ended_by(current), self.now);
            if let Some(memory) = rollback::given_up(self.intent, self.observed, &memory) {
                return self.give_up(spec, current, exit, memory);
            }
        }
        let state = match &current.state {
            ContainerState::Running => self.running(spec, current, others, &mut memory),
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
        if current.name != name.as_str() && is_free && self.name_conflict(name).is_none() {
            half.differences.push(format!("the name is {}, should be {name}", current.name));
            let rename = Step::Rename { id: current.id.clone(), name: name.clone() };
            half = self.make_way(half, name).then(rename, "this is the name of what serves");
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

    fn running(
        &self,
        spec: &ContainerSpec,
        current: &SeenContainer,
        others: &[&SeenContainer],
        memory: &mut Memory,
    ) -> Half {
        match self.health(current, memory) {
            Health::Ready => {
                memory.crashes.stopped = None;
                self.ready(spec, current, others, memory)
            }
            Health::Awaited { until } => self.await_health(current, until),
            Health::Overdue(why) => {
                let message = format!("the container of {} {why}", self.choice.words());
                let is_of_the_record = !matches!(self.choice, Choice::Fallback(_));
                let outcome = self.failed_unless_good(&message, memory).filter(|_| is_of_the_record);
                Half { outcome, ..Half::say(Condition::Degraded, Reason::NeverReady, message) }
            }
            Health::Lost(why) => self.unwell(current, &why, memory),
        }
    }

    fn ready(
        &self,
        spec: &ContainerSpec,
        current: &SeenContainer,
        others: &[&SeenContainer],
        memory: &mut Memory,
    ) -> Half {
        let declared = self.declared(spec, current, memory);
        let half = remove_all(Half::default(), others, "it is a leftover");
        let mut half = self.remove_holders_but(half, &[current]);
        let entry = &self.intent.entry;
        match (self.choice, &entry.image) {
            (Choice::Wanted(_) | Choice::Insist(_), Some(image)) => {
                self.becomes_good(current, image, memory);
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
        memory.good.iter_mut().for_each(|good| good.declared.clone_from(&declared));
        half.verdict = Some(self.said_of_front(current, self.rest(memory)));
        half
    }

    /// What the record wants is what is good now. What was good before is remembered, in case this
    /// does not last.
    fn becomes_good(&self, current: &SeenContainer, image: &Image, memory: &mut Memory) {
        let at = self.ready_since(current, memory);
        let same = memory.good.as_ref().filter(|good| good.image.is_same(image));
        let first_ready = same.map(|good| good.first_ready);
        if first_ready.is_none() {
            memory.before = memory.good.take();
        }
        memory.good = Some(Good {
            generation: self.intent.entry.generation,
            image: image.clone(),
            revision: self.intent.entry.revision.clone(),
            container: current.id.clone(),
            at,
            first_ready: first_ready.unwrap_or(at),
            declared: None,
        });
        (memory.refused, memory.interrupted) = (None, None);
    }

    /// How a container that is ready was declared: as now, unless a hold keeps it as it was made.
    fn declared(
        &self,
        spec: &ContainerSpec,
        current: &SeenContainer,
        memory: &Memory,
    ) -> Option<Box<Declared>> {
        if target::is_made_as(current, spec) {
            return self.intent.declared.clone();
        }
        let same = memory.good.as_ref().filter(|good| good.container == current.id);
        same.and_then(|good| good.declared.clone())
    }

    fn ready_since(&self, current: &SeenContainer, memory: &Memory) -> Timestamp {
        match &memory.good {
            Some(good) if good.container == current.id && current.started_at <= Some(good.at) => good.at,
            _ => self.now,
        }
    }

    /// What to say when what can run runs well.
    pub(super) fn rest(&self, memory: &Memory) -> Verdict {
        let serves = || format!("{} goes on serving", self.choice.words());
        if let Some((_, refused)) = rollback::destination(self.intent, self.choice, memory) {
            let verdict = Verdict::new(Condition::Ready, Reason::AsRecorded, serves());
            return rollback::said_on_the_way(refused, &verdict);
        }
        match (self.choice, &memory.refused, rollback::led_here(self.intent)) {
            (Choice::Fallback(_) | Choice::Keep { .. }, Some(refused), _) => Verdict::new(
                Condition::Degraded,
                refused.reason,
                format!("{}; {}", refused.message, serves()),
            ),
            (Choice::Wanted(_) | Choice::Insist(_), _, Some(why)) => Verdict::new(
                Condition::RolledBack,
                Reason::RolledBack,
                format!("{why}; went back to {}, which serves", self.choice.words()),
            ),
            _ => {
                let without = match &memory.no_holder {
                    Some(no_holder) => format!(", without a network holder ({})", no_holder.message),
                    None => String::new(),
                };
                let message = format!("{} runs and is ready{without}", self.choice.words());
                Verdict::new(Condition::Ready, Reason::AsRecorded, message)
            }
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
        let half = self.free_ports_of(current, half);
        let half = start_seen(half, current, back);
        let half = remove_all_stopped(half, others, back);
        self.with_verdict(half, format!("going back to {}", self.choice.words()))
    }

    /// Goes back to what was good before a version that does not last.
    fn give_up(
        &self,
        spec: &ContainerSpec,
        current: &SeenContainer,
        exit: &Exit,
        memory: Memory,
    ) -> (Half, Memory) {
        let how = restart::how_last(&memory.crashes, exit);
        let within = humantime::format_duration(rollback::PROBATION);
        let what = format!(
            "crashed {} times within {within} of becoming ready, and last {how}",
            memory.crashes.exits
        );
        self.refuse(spec, current, Reason::CrashLoop, &what, memory)
    }

    /// Restarts a container that was ready and answers no more, once its time has come: it is
    /// stopped here, and started like any other that ended.
    pub(super) fn unwell(&self, current: &SeenContainer, why: &str, memory: &mut Memory) -> Half {
        let message = format!("the container of {} {why}", self.choice.words());
        let half = Half::say(Condition::Degraded, Reason::Unhealthy, message);
        if !self.is_connected(current) {
            // It cannot be reached; once it can, it is asked afresh.
            return half;
        }
        let due = restart::due(&memory.crashes, current);
        let started = current.started_at.unwrap_or(current.created_at);
        let is_forgiven = self.intent.sync.is_some_and(|sync| sync > started);
        // One that was started in the future was started before the clock was set back.
        if due > self.now && started <= self.now && !is_forgiven {
            return half.look_again_at(due);
        }
        memory.crashes = restart::stopping(&memory.crashes, current, why);
        stop(half.look_again_at(self.now), current, &format!("it {why}"))
    }

    /// Starts a container that ended, once its time has come.
    pub(super) fn restart(&self, current: &SeenContainer, exit: &Exit, memory: &mut Memory) -> Half {
        memory.crashes = restart::count(&memory.crashes, current, exit, self.ended_by(current), self.now);
        let failed_at = memory.crashes.tried.map_or(exit.at, |tried| tried.max(exit.at));
        let forgiven = self.intent.sync.is_some_and(|sync| sync > failed_at);
        let due = memory.crashes.next_restart.filter(|due| *due > self.now && !forgiven);
        let how = restart::how_last(&memory.crashes, exit);
        if let Some(due) = due {
            let message = format!("the container {how}, {} times in a row", memory.crashes.count);
            return Half::say(Condition::Degraded, Reason::CrashLoop, message).look_again_at(due);
        }
        memory.crashes = restart::started(&memory.crashes, current, self.now);
        let half = start_seen(Half::default(), current, &format!("it {how}"));
        self.with_verdict(half, format!("starting {} again, which {how}", self.choice.words()))
    }
}
