//! Getting a container running: create, replace, heal, tidy up.
//!
//! A replacement is made under a name of its own (`dev-server.next`) and takes the final name only
//! once it is ready; the container before it is stopped to free port and volumes, and removed only
//! then. So whatever is cut short, what is found tells how to go on, and there is always a
//! container to go back to.

use super::difference;
use super::explain::short;
use super::restart;
use super::target::{self, Choice, KeepReason};
use super::{Half, Intent, Step, TRANSIT, Target, Verdict, generation_words};
use crate::model::container::{ContainerSpec, Exit};
use crate::model::desired::Outcome;
use crate::model::memory::{Crashes, Good, Memory, Refused};
use crate::model::name::ContainerName;
use crate::model::observed::{ContainerState, NetworkPresence, Observed, Readiness, SeenContainer};
use crate::model::spec::Probe;
use crate::model::status::{Condition, Reason};
use crate::model::time::Timestamp;

/// Misses in a row after which a container that was ready is called unhealthy (the kubelet's
/// default failure threshold).
const MISSES: u32 = 3;

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

/// How a container does.
enum Health {
    Ready,
    /// Not ready yet, and the time has not run out.
    Awaited {
        until: Timestamp,
    },
    /// It should be ready by now.
    Overdue(String),
    /// It was ready and answers no more.
    Lost(String),
}

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
        let (exact, others): (Vec<_>, Vec<_>) = self
            .observed
            .containers
            .iter()
            .partition(|container| difference::structural(spec, container).is_empty());
        let Some(current) = target::best(exact.iter().copied(), &memory) else {
            return (self.make(spec, &others, &memory), memory);
        };
        let surplus = exact.iter().filter(|container| container.id != current.id);
        let others: Vec<_> = others.iter().chain(surplus).copied().collect();
        let final_name = current.name == spec.options.name.as_str();
        if !final_name && !others.is_empty() {
            return self.replacing(spec, current, &others, memory);
        }
        self.settled(spec, current, &others, memory)
    }

    // --- making -------------------------------------------------------------------------------

    fn make(&self, spec: &ContainerSpec, others: &[&SeenContainer], memory: &Memory) -> Half {
        let name = &spec.options.name;
        if let Some(foreign) = &self.observed.name_holder {
            return self.name_conflict(name, &foreign.whose, &foreign.id);
        }
        match self.prerequisites(spec, memory) {
            Err(blocked) => blocked,
            Ok(half) => match target::best(others.iter().copied(), memory) {
                None => self.make_first(spec, others, half),
                Some(before) => self.make_beside(spec, before, others, half),
            },
        }
    }

    fn make_first(&self, spec: &ContainerSpec, dead: &[&SeenContainer], half: Half) -> Half {
        let half =
            dead.iter().fold(half, |half, container| remove(half, container, "the engine calls it dead"));
        let create = Step::Create { name: spec.options.name.clone(), spec: Box::new(spec.clone()) };
        let half = half.then(create, "no container of this environment is there");
        let mut half = start_created(half, "it should run", None);
        half.differences.push(format!("container {} is missing", spec.options.name));
        half.verdict = Some(self.updating(format!("starting {}", self.choice.words())));
        half
    }

    /// Creates the replacement before the container before it is stopped, so that what cannot even
    /// be created costs nothing.
    fn make_beside(
        &self,
        spec: &ContainerSpec,
        before: &SeenContainer,
        others: &[&SeenContainer],
        mut half: Half,
    ) -> Half {
        let name = &spec.options.name;
        for left in others.iter().filter(|container| container.id != before.id) {
            half = remove(half, left, "it is a leftover");
        }
        if before.name != name.as_str() {
            let rename = Step::Rename { id: before.id.clone(), name: name.clone() };
            half = half.then(rename, "it has this name until it is replaced");
        }
        let differences = difference::structural(spec, before);
        let why = differences.join("; ");
        let create = Step::Create { name: replacement_name(name), spec: Box::new(spec.clone()) };
        half = half.then(create, why);
        half = stop_running(half, before, "its port and volumes go to the new container");
        half = start_created(half, "it replaces the one before", Some(spec.fingerprint()));
        half.differences.extend(differences);
        half.verdict = Some(self.updating(format!("replacing the container by {}", self.choice.words())));
        half
    }

    fn prerequisites(&self, spec: &ContainerSpec, memory: &Memory) -> Result<Half, Half> {
        let mut half = self.network_first(Half::default());
        for name in spec.options.volumes.iter().filter_map(|mount| mount.volume()) {
            if self.observed.volumes.contains(name) {
                continue;
            }
            if memory.volumes.contains(name) {
                return Err(Half::say(
                    Condition::Blocked,
                    Reason::VolumeMissing,
                    format!(
                        "volume {name}, which held data, is gone; restore it, or accept an empty one by \
                         `docker volume create {name}`"
                    ),
                ));
            }
            half =
                half.then(Step::CreateVolume { name: name.to_owned() }, "it is declared and was never there");
        }
        Ok(half)
    }

    fn network_first(&self, half: Half) -> Half {
        match self.observed.network {
            NetworkPresence::Missing => half.then(Step::CreateNetwork, "containers join it"),
            NetworkPresence::Ours | NetworkPresence::Foreign => half,
        }
    }

    fn name_conflict(&self, name: &ContainerName, whose: &str, id: &str) -> Half {
        Half::say(
            Condition::Blocked,
            Reason::NameConflict,
            format!(
                "container {} has the name {name} and is {whose}; rename or remove it, or give the \
                 environment another name",
                short(id)
            ),
        )
    }

    fn updating(&self, message: String) -> Verdict {
        Verdict::new(Condition::Progressing, Reason::Updating, message)
    }

    // --- replacing ----------------------------------------------------------------------------

    /// A replacement is there beside the container before it.
    fn replacing(
        &self,
        spec: &ContainerSpec,
        new: &SeenContainer,
        others: &[&SeenContainer],
        memory: Memory,
    ) -> (Half, Memory) {
        match &new.state {
            ContainerState::Created => (self.start_replacement(spec, new, others), memory),
            ContainerState::Running => match self.health(new, &memory) {
                Health::Ready => (self.take_over(spec, new, others), memory),
                Health::Awaited { until } => (self.await_health(new, until), memory),
                Health::Overdue(why) | Health::Lost(why) => {
                    self.refuse(spec, new, Reason::NeverReady, &why, memory)
                }
            },
            ContainerState::Exited(exit) => {
                self.refuse(spec, new, Reason::StartFailed, &restart::how(exit), memory)
            }
            ContainerState::Paused => (self.unpause(Half::default(), new), memory),
            ContainerState::InTransit => (self.in_transit(), memory),
            ContainerState::Dead => (remove(Half::default(), new, "the engine calls it dead"), memory),
        }
    }

    fn start_replacement(
        &self,
        spec: &ContainerSpec,
        new: &SeenContainer,
        others: &[&SeenContainer],
    ) -> Half {
        let why = "its port and volumes go to the new container";
        let half = others
            .iter()
            .fold(self.network_first(Half::default()), |half, other| stop_running(half, other, why));
        let start =
            Step::Start { container: Target::Seen(new.id.clone()), replacement: Some(spec.fingerprint()) };
        let mut half = half.then(start, "it replaces the one before");
        half.verdict = Some(self.updating(format!("replacing the container by {}", self.choice.words())));
        half
    }

    fn take_over(&self, spec: &ContainerSpec, new: &SeenContainer, others: &[&SeenContainer]) -> Half {
        let half = others
            .iter()
            .fold(Half::default(), |half, other| remove(half, other, "the new container is ready"));
        let rename = Step::Rename { id: new.id.clone(), name: spec.options.name.clone() };
        let mut half = half.then(rename, "it has taken over");
        half.verdict = Some(self.updating(format!("{} takes over", self.choice.words())));
        half
    }

    fn await_health(&self, container: &SeenContainer, until: Timestamp) -> Half {
        let readiness = self.observed.probes.get(&container.id);
        let seen = match readiness.and_then(|readiness| readiness.last_miss.as_deref()) {
            Some(miss) => format!("; the last probe: {miss}"),
            None => String::new(),
        };
        let message = format!("{} runs and its health is awaited{seen}", self.choice.words());
        Half::say(Condition::Progressing, Reason::AwaitingHealth, message).look_again_at(until)
    }

    /// Notes that these options fail and plans anew, which goes back to what served.
    fn refuse(
        &self,
        spec: &ContainerSpec,
        new: &SeenContainer,
        reason: Reason,
        what: &str,
        mut memory: Memory,
    ) -> (Half, Memory) {
        let output = match new.last_output.as_deref().map(str::trim) {
            Some(output) if !output.is_empty() => format!("; its last output: {output}"),
            _ => String::new(),
        };
        let who = generation_words(spec.generation, spec.revision.as_ref());
        memory.refused = Some(Refused {
            fingerprint: spec.fingerprint(),
            generation: spec.generation,
            reason,
            message: format!("the container of {who} {what}{output}"),
            at: self.now,
        });
        let failed = memory.refused.as_ref().map(|refused| Outcome::Failed(refused.message.clone()));
        let choice = target::choose(self.intent, self.observed, &memory);
        let (mut half, memory) = plan(self.intent, self.observed, &choice, memory, self.now);
        half.outcome = failed.map(|failed| (spec.generation, failed));
        (half, memory)
    }

    // --- settled ------------------------------------------------------------------------------

    /// The container is the one that should run: keep it running, named, connected and limited.
    fn settled(
        &self,
        spec: &ContainerSpec,
        current: &SeenContainer,
        others: &[&SeenContainer],
        mut memory: Memory,
    ) -> (Half, Memory) {
        let half = self.mend(spec, current, Half::default());
        let half = match &current.state {
            ContainerState::Running => self.running(current, others, half, &mut memory),
            ContainerState::Exited(_) if !others.is_empty() => self.go_back(current, others, half),
            ContainerState::Exited(exit) => self.restart(current, exit, half, &mut memory),
            ContainerState::Created => {
                let half = self.network_first(half);
                let half = start_seen(half, current, "it was created and never started");
                self.with_verdict(half, format!("starting {}", self.choice.words()))
            }
            ContainerState::Paused => self.unpause(half, current),
            ContainerState::InTransit => self.in_transit(),
            ContainerState::Dead => remove(half, current, "the engine calls it dead"),
        };
        (half, memory)
    }

    /// What can be set right on the container as it stands.
    fn mend(&self, spec: &ContainerSpec, current: &SeenContainer, mut half: Half) -> Half {
        let name = &spec.options.name;
        if current.name != name.as_str() {
            match &self.observed.name_holder {
                Some(foreign) => return self.name_conflict(name, &foreign.whose, &foreign.id),
                None => {
                    half.differences.push(format!("the name is {}, should be {name}", current.name));
                    let rename = Step::Rename { id: current.id.clone(), name: name.clone() };
                    half = half.then(rename, "it was renamed");
                }
            }
        }
        if !current.networks.contains_key(spec.options.network.as_str()) {
            half.differences.push(format!("it is not connected to network {}", spec.options.network));
            half = self.network_first(half);
            half = half.then(Step::Connect { id: current.id.clone() }, "others reach it there");
        }
        let limits = difference::limits(spec, current);
        if !limits.is_empty() {
            let adjust = Step::Adjust {
                id: current.id.clone(),
                memory: spec.options.memory,
                nano_cpus: spec.options.nano_cpus,
                pids: spec.options.pids,
            };
            half = half.then(adjust, limits.join("; "));
            half.differences.extend(limits);
        }
        half
    }

    fn running(
        &self,
        current: &SeenContainer,
        others: &[&SeenContainer],
        half: Half,
        memory: &mut Memory,
    ) -> Half {
        match self.health(current, memory) {
            Health::Ready => {
                let half = others.iter().fold(half, |half, other| remove(half, other, "it is a leftover"));
                self.ready(current, half, memory)
            }
            Health::Awaited { until } => {
                let awaited = self.await_health(current, until);
                merge(half, awaited)
            }
            Health::Overdue(why) => {
                let message = format!("the container of {} {why}", self.choice.words());
                let mut late = Half::say(Condition::Degraded, Reason::NeverReady, message.clone());
                let generation = self.intent.entry.generation;
                if memory.good.as_ref().is_none_or(|good| good.generation != generation) {
                    late.outcome = Some((generation, Outcome::Failed(message)));
                }
                merge(half, late)
            }
            Health::Lost(why) => {
                let message = format!("the container of {} {why}", self.choice.words());
                merge(half, Half::say(Condition::Degraded, Reason::Unhealthy, message))
            }
        }
    }

    fn ready(&self, current: &SeenContainer, mut half: Half, memory: &mut Memory) -> Half {
        if half.verdict.is_some() {
            return half;
        }
        if let Choice::Wanted(_) | Choice::Insist(_) = self.choice {
            let entry = &self.intent.entry;
            if let Some(image) = &entry.image {
                memory.good = Some(self.good(current, image, memory));
                half.outcome = Some((entry.generation, Outcome::Ready));
            }
            memory.refused = None;
        }
        half.verdict = Some(self.rest(memory));
        half
    }

    fn good(&self, current: &SeenContainer, image: &crate::model::desired::Image, memory: &Memory) -> Good {
        let entry = &self.intent.entry;
        let since = match &memory.good {
            Some(good) if good.container == current.id && current.started_at <= Some(good.at) => good.at,
            _ => self.now,
        };
        Good {
            generation: entry.generation,
            image: image.clone(),
            revision: entry.revision.clone(),
            container: current.id.clone(),
            at: since,
        }
    }

    /// What to say when what can run runs well.
    fn rest(&self, memory: &Memory) -> Verdict {
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
    fn go_back(&self, current: &SeenContainer, others: &[&SeenContainer], half: Half) -> Half {
        let back = "what was to replace the container is no longer wanted";
        let half = others.iter().fold(half, |half, other| stop_running(half, other, back));
        let half = start_seen(self.network_first(half), current, back);
        let half = others.iter().fold(half, |half, other| remove_stopped(half, other, back));
        self.with_verdict(half, format!("going back to {}", self.choice.words()))
    }

    fn restart(&self, current: &SeenContainer, exit: &Exit, half: Half, memory: &mut Memory) -> Half {
        memory.crashes = restart::count(&memory.crashes, current, exit);
        let forgiven = self.intent.sync.is_some_and(|sync| sync > exit.at);
        let due = memory.crashes.next_restart.filter(|due| *due > self.now && !forgiven);
        let Crashes { count, .. } = memory.crashes;
        let how = restart::how(exit);
        if let Some(due) = due {
            let message = format!("the container {how}, {count} times in a row");
            let waiting = Half::say(Condition::Degraded, Reason::CrashLoop, message).look_again_at(due);
            return merge(half, waiting);
        }
        memory.crashes.restarts = memory.crashes.restarts.saturating_add(1);
        let half = self.network_first(half);
        let half = start_seen(half, current, &format!("it {how}"));
        self.with_verdict(half, format!("starting {} again, which {how}", self.choice.words()))
    }

    // --- keeping ------------------------------------------------------------------------------

    /// Goes on with a container as it is, and takes away what was to replace it.
    fn keep(&self, id: &str, why: &KeepReason, mut memory: Memory) -> (Half, Memory) {
        let Some(kept) = self.observed.containers.iter().find(|container| container.id == id) else {
            return (self.nothing(), memory);
        };
        let others = self.observed.containers.iter().filter(|container| container.id != id);
        let remove_others = *why == KeepReason::Refused;
        let others: Vec<_> = others.filter(|_| remove_others).collect();
        let back = "what was to replace it failed";
        let half = others.iter().fold(Half::default(), |half, other| stop_running(half, other, back));
        let half = match &kept.state {
            ContainerState::Running => half,
            ContainerState::Paused => self.unpause(half, kept),
            ContainerState::Exited(exit) if others.is_empty() => self.restart(kept, exit, half, &mut memory),
            ContainerState::Exited(_) | ContainerState::Created => {
                start_seen(self.network_first(half), kept, back)
            }
            ContainerState::InTransit => return (self.in_transit(), memory),
            ContainerState::Dead => half,
        };
        let half = others.iter().fold(half, |half, other| remove_stopped(half, other, back));
        let verdict = self.kept(why, &memory);
        (Half { verdict: half.verdict.filter(Verdict::is_bad).or(verdict), ..half }, memory)
    }

    fn kept(&self, why: &KeepReason, memory: &Memory) -> Option<Verdict> {
        match why {
            KeepReason::NoOptions(why) => Some(Verdict::new(
                Condition::Blocked,
                Reason::SecretMissing,
                format!("{why}; the container before goes on as it is"),
            )),
            KeepReason::Refused => Some(self.rest(memory)),
            // Whoever brings the image says how far that is.
            KeepReason::NoImage => None,
        }
    }

    // --- small things -------------------------------------------------------------------------

    fn health(&self, container: &SeenContainer, memory: &Memory) -> Health {
        let health = &self.intent.health;
        if health.probe == Probe::None {
            return Health::Ready;
        }
        let unknown = Readiness::default();
        let seen = self.observed.probes.get(&container.id).unwrap_or(&unknown);
        let started = container.started_at.unwrap_or(container.created_at);
        let proven = memory.good.as_ref().filter(|good| good.container == container.id);
        let miss = seen.last_miss.as_deref().unwrap_or("nothing answered yet");
        if let Some(good) = proven {
            // What was ready stays ready until probes say otherwise: not being able to tell, as
            // just after the daemon was started, is no verdict.
            if seen.misses >= MISSES && started <= good.at {
                return Health::Lost(format!("missed {} probes in a row: {miss}", seen.misses));
            }
            if started <= good.at || seen.answered_once {
                return Health::Ready;
            }
        } else if let Some(since) = seen.answering_since {
            let ripe = since.after(health.healthy_for);
            return if self.now >= ripe { Health::Ready } else { Health::Awaited { until: ripe } };
        }
        let deadline = started.after(health.start_deadline);
        if self.now < deadline {
            return Health::Awaited { until: deadline };
        }
        let patience = humantime::format_duration(health.start_deadline);
        Health::Overdue(format!("was not ready {patience} after its start: {miss}"))
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

    fn with_verdict(&self, mut half: Half, message: String) -> Half {
        half.verdict.get_or_insert_with(|| self.updating(message));
        half
    }
}

/// The name of a container that is to replace the one called `name`.
pub(super) fn replacement_name(name: &ContainerName) -> ContainerName {
    let longest = name.as_str().len().min(120);
    ContainerName::new(format!("{}.next", &name.as_str()[..longest])).unwrap_or_else(|_| name.clone())
}

fn stop_running(half: Half, container: &SeenContainer, why: &str) -> Half {
    match container.state {
        ContainerState::Running | ContainerState::Paused => {
            half.then(Step::Stop { id: container.id.clone() }, why)
        }
        _ => half,
    }
}

/// Stops it first where it runs, so that its program can end in peace.
fn remove(half: Half, container: &SeenContainer, why: &str) -> Half {
    remove_stopped(stop_running(half, container, why), container, why)
}

fn remove_stopped(half: Half, container: &SeenContainer, why: &str) -> Half {
    half.then(Step::Remove { id: container.id.clone() }, why)
}

fn start_seen(half: Half, container: &SeenContainer, why: &str) -> Half {
    let start = Step::Start { container: Target::Seen(container.id.clone()), replacement: None };
    half.then(start, why)
}

fn start_created(half: Half, why: &str, replacement: Option<String>) -> Half {
    half.then(Step::Start { container: Target::Created, replacement }, why)
}

/// The steps of `first` with the words of `second`, unless the first already has bad news.
fn merge(mut first: Half, second: Half) -> Half {
    first.differences.extend(second.differences);
    first.steps.extend(second.steps);
    first.verdict = first.verdict.or(second.verdict);
    first.outcome = first.outcome.or(second.outcome);
    first.look_again = [first.look_again, second.look_again].into_iter().flatten().min();
    first
}
