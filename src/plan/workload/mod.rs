//! The plan of an environment that an orchestrator runs, such as a service of Docker Swarm.
//!
//! The orchestrator places replicas, replaces them and restarts what died. abide decides which version runs: it
//! writes the recorded one, judges it by its replicas, and writes the previous one back as soon as the new one fails.
//! The orchestrator itself never rolls back, because the record would not know.

mod goal;
mod judge;
mod nodes;

use std::collections::BTreeMap;
use std::time::Duration;

pub(super) use self::goal::must_begin;
use self::goal::{GoalRole, WorkloadGoal};
use super::{
    Intent, PartialPlan, Plan, PlannedStatus, Step, WorkloadIntent, backoff, combine, explain, needs, notes,
    rollback, serving, supply,
};
use crate::model::desired::{Entry, Outcome};
use crate::model::memory::{Good, Memory, Overwritten};
use crate::model::name::{Digest, Generation};
use crate::model::observed::Observed;
use crate::model::spec::Update;
use crate::model::status::{Condition, Reason, RunningContainer};
use crate::model::time::Timestamp;
use crate::model::workload::{
    NodeView, PortMode, Rollout, SeenWorkload, TaskFailure, TaskFailureKind, Workload, WorkloadSight,
};

/// How soon a converged workload is observed again: an orchestrator announces no change of its tasks.
const LOOK: Duration = Duration::from_secs(5);
/// The same behind the proxy, which forwards requests to the replicas that were observed last.
const LOOK_PROXIED: Duration = Duration::from_secs(1);
/// How soon a workload that is being updated is observed again. A failed update must be answered at once, because
/// Swarm replaces every replica that dies meanwhile by the failed version.
const LOOK_CLOSELY: Duration = Duration::from_millis(500);
/// How long after the last change by somebody else the count of such changes begins again.
const PEACE: Duration = Duration::from_secs(600);
/// How often in a row abide overwrites changes by somebody else without a pause.
const OVERWRITES: u32 = 3;
/// How long a failed update without a previous version is kept before it is written again.
const RETRY: Duration = Duration::from_secs(60);

/// The input of a plan.
struct WorkloadContext<'a> {
    intent: &'a Intent,
    placed: &'a WorkloadIntent,
    observed: &'a Observed,
    now: Timestamp,
}

pub(super) fn plan(
    intent: &Intent,
    placed: &WorkloadIntent,
    observed: &Observed,
    memory: &Memory,
    now: Timestamp,
) -> Plan {
    let context = WorkloadContext { intent, placed, observed, now };
    let memory = notes::refresh(memory, intent, observed, now);
    let memory = rollback::recall(memory, intent, |_| Some(context.recorded()?.fingerprint()));
    let crashes = memory.crashes.clone();
    let supplied = supply::plan(intent, observed, now).and(needs::plan(intent, observed, &memory));
    let (served, words, warnings) = context.decide(memory);
    let plan = combine(intent, observed, &words, supplied, served);
    let plan = Plan { warnings, ..plan };
    let plan = notes::delay_after_failures(plan, intent, &crashes, now);
    notes::delay_repeats(plan, intent, &crashes, now)
}

/// The running workload, as a status shows it: its id, with the image of the version that is ready.
pub fn running(observed: &Observed, memory: &Memory) -> Option<RunningContainer> {
    let Some(WorkloadSight::Seen(seen)) = &observed.workload else { return None };
    let is_ready = memory.workload.as_ref().is_some_and(|of| of.ready.as_ref() == Some(&seen.fingerprint));
    let image: Option<Digest> =
        memory.good.as_ref().filter(|_| is_ready).and_then(|good| good.image.id.clone());
    (seen.counts.values().any(|count| count.ready > 0)).then(|| RunningContainer {
        container_id: seen.id.clone(),
        image_id: image,
        started_at: seen.started_at,
        restarts: 0,
    })
}

/// The nodes of the cluster that runs a workload; none while they are unknown.
pub fn nodes(observed: &Observed) -> Vec<NodeView> {
    match &observed.workload {
        Some(WorkloadSight::Seen(seen)) => seen.node_views(),
        _ => Vec::new(),
    }
}

impl WorkloadContext<'_> {
    /// Returns the partial plan and the reconcile state, words for the version that serves, and warnings.
    fn decide(&self, memory: Memory) -> ((PartialPlan, Memory), String, Vec<String>) {
        let unobserved = WorkloadSight::Unknown("the cluster was not observed".to_owned());
        let sight = self.observed.workload.as_ref().unwrap_or(&unobserved);
        let (seen, earlier) = match sight {
            WorkloadSight::Unknown(why) => {
                let partial = status(Condition::Degraded, Reason::EngineUnavailable, why.clone());
                let partial = partial.requeue_by(self.now.after(LOOK));
                return ((partial, memory), "the service".to_owned(), Vec::new());
            }
            WorkloadSight::Foreign(whose) => {
                let name = self.intent.options.as_ref().map(|options| options.name.to_string());
                let message = format!(
                    "the service {} exists and {whose}: remove it with `docker service rm`, or choose another \
                     `container`",
                    name.unwrap_or_default()
                );
                let partial = status(Condition::Blocked, Reason::NameConflict, message);
                let partial = partial.requeue_by(self.now.after(LOOK));
                return ((partial, memory), "nothing".to_owned(), Vec::new());
            }
            WorkloadSight::Missing { leftovers } => (None, leftovers),
            WorkloadSight::Seen(seen) => (Some(&**seen), &seen.leftovers),
        };
        let memory = match seen {
            Some(seen) => self.judge(seen, memory),
            None => memory,
        };
        let warnings = seen.map(nodes::warnings).unwrap_or_default();
        let Some(goal) = self.goal(seen, &memory) else {
            let partial = self.nothing(seen).requeue_by(self.now.after(LOOK));
            return ((partial, memory), "the previous version".to_owned(), warnings);
        };
        let words = goal.words();
        let served = match seen {
            None => self.create(&goal, earlier, memory),
            Some(seen) => self.converge(&goal, seen, memory),
        };
        (served, words, warnings)
    }

    /// Nothing can be written: the workload stays as it is.
    fn nothing(&self, seen: Option<&SeenWorkload>) -> PartialPlan {
        if let Err(why) = &self.intent.options {
            let condition = if seen.is_some() { Condition::Degraded } else { Condition::Blocked };
            return status(condition, Reason::SecretMissing, why.clone());
        }
        let is_local =
            self.intent.entry.image.as_ref().is_some_and(|image| {
                image.id.is_some() && (image.reference.is_none() || image.digest.is_none())
            });
        if is_local {
            let environment = &self.intent.environment;
            let message = format!(
                "the recorded image is in one engine only, and the nodes of a swarm pull from a registry: \
                 `abide set {environment} REPOSITORY@sha256:DIGEST` records one that is in a registry"
            );
            return status(Condition::Blocked, Reason::ImageNotFound, message);
        }
        PartialPlan::default()
    }

    /// Creates the service. `earlier` are the services that the environment had under other names.
    fn create(&self, goal: &WorkloadGoal, earlier: &[String], mut memory: Memory) -> (PartialPlan, Memory) {
        let name = goal.workload.name();
        let mut partial = PartialPlan::default();
        partial.differences.push(format!("the service {name} does not exist"));
        let step = Step::ApplyWorkload { workload: Box::new(goal.workload.clone()), over: None };
        // Remembered even if it never becomes ready, so that a request to forget the environment removes it.
        let was_ready = memory.workload.get_or_insert_default().ready.is_some();
        let partial = if !earlier.is_empty() {
            let ended = earlier.iter().filter(|_| must_end_first(&goal.workload));
            let partial = ended.fold(partial, |partial, id| {
                let step = Step::RemoveWorkload { id: id.clone() };
                partial.then(step, "the service with the new name needs its ports or volumes")
            });
            partial.then(step, "the manifest names it so")
        } else if was_ready {
            let what = format!("the service {name} was removed");
            self.overwrite(partial, step, &what, &mut memory)
        } else {
            partial.then(step, "it is recorded and does not exist")
        };
        (self.updating(partial, format!("creating the service for {}", goal.words())), memory)
    }

    fn converge(
        &self,
        goal: &WorkloadGoal,
        seen: &SeenWorkload,
        mut memory: Memory,
    ) -> (PartialPlan, Memory) {
        let mut partial = PartialPlan::default();
        let step = || Step::ApplyWorkload {
            workload: Box::new(goal.workload.clone()),
            over: Some((seen.id.clone(), seen.token)),
        };
        let fingerprint = goal.workload.fingerprint();
        if seen.fingerprint != fingerprint {
            let is_other_version = seen.version != goal.workload.version();
            let what = if is_other_version { "image or options" } else { "number or places of the replicas" };
            partial.differences.push(format!("the service has other {what} than {}", goal.words()));
            let partial = self.updating(partial, format!("updating the service to {}", goal.words()));
            let partial = self.while_rolling_back(partial.then(step(), self.reason(goal, &memory)), &memory);
            return (PartialPlan { outcome: self.failed(goal, &memory), ..partial }, memory);
        }
        if !seen.changes.is_empty() {
            let changed: Vec<&str> = seen.changes.iter().map(String::as_str).collect();
            let what = format!("somebody else changed {} of the service", changed.join(", "));
            partial.differences.push(what.clone());
            let partial = self.overwrite(partial, step(), &what, &mut memory);
            return (self.updating(partial, format!("{what}; writing it again")), memory);
        }
        if let Rollout::Settled = seen.rollout {
            return self.settled(goal, seen, memory);
        }
        let is_proven = memory.workload.as_ref().is_some_and(|of| of.ready.as_ref() == Some(&fingerprint));
        let (partial, outcome) = if is_proven || self.is_known(seen, &memory) {
            (self.healing(goal, seen), None)
        } else {
            self.trial(goal, seen)
        };
        let is_paused = matches!(&seen.rollout, Rollout::Failed(failure) if failure.is_paused);
        // A paused update replaces nothing any more, until it is written again.
        let due = seen.written_at.after(RETRY);
        let partial = match is_paused {
            true if self.now >= due => {
                partial.then(step(), "the update was paused, and nothing else can run")
            }
            true => partial.requeue_by(due),
            false => partial,
        };
        let partial = partial.requeue_by(self.now.after(LOOK_CLOSELY));
        (self.while_rolling_back(PartialPlan { outcome, ..partial }, &memory), memory)
    }

    /// Why the goal is written.
    fn reason(&self, goal: &WorkloadGoal, memory: &Memory) -> String {
        match (&goal.role, &memory.refused) {
            (GoalRole::Fallback, Some(refused)) => format!("generation {} failed", refused.generation),
            (GoalRole::Fallback, None) => "the recorded version cannot run yet".to_owned(),
            (GoalRole::Wanted | GoalRole::Insist, _) => "it is recorded".to_owned(),
        }
    }

    /// The outcome of the recorded generation, if it is to blame and was never ready.
    fn failed(&self, goal: &WorkloadGoal, memory: &Memory) -> Option<(Generation, Outcome)> {
        let generation = self.intent.entry.generation;
        let refused = memory.refused.as_ref().filter(|_| goal.role == GoalRole::Fallback)?;
        let was_ready = memory.good.as_ref().is_some_and(|good| good.generation == generation);
        let is_failed = refused.generation == generation && !refused.of_the_host && !was_ready;
        is_failed.then(|| (generation, Outcome::Failed(refused.message.clone())))
    }

    /// The status while the previous version comes back.
    fn while_rolling_back(&self, mut partial: PartialPlan, memory: &Memory) -> PartialPlan {
        if let (Some(refused), Some(verdict)) = (&memory.refused, &partial.verdict)
            && verdict.condition == Condition::Progressing
        {
            let status = rollback::rollback_status(refused, verdict);
            // If the cluster is at fault, the version is tried again.
            let reason = if refused.of_the_host { refused.reason } else { status.reason };
            partial.verdict = Some(PlannedStatus { reason, ..status });
        }
        partial
    }

    /// Overwrites a change by somebody else, at once a few times and then with pauses: another controller may write
    /// the workload too.
    fn overwrite(&self, partial: PartialPlan, step: Step, what: &str, memory: &mut Memory) -> PartialPlan {
        let of = memory.workload.get_or_insert_default();
        let is_forgiven = |before: &Overwritten| self.intent.sync.is_some_and(|sync| sync > before.at);
        let before = of.overwritten.clone().filter(|before| {
            self.now < before.at.after(PEACE) && before.at <= self.now && !is_forgiven(before)
        });
        let count = before.as_ref().map_or(0, |before| before.count);
        if let Some(before) = before.filter(|before| before.count >= OVERWRITES) {
            let due = before.at.after(backoff(count + 3, self.intent.environment.as_str()));
            if self.now < due {
                let message = format!("{what}, {count} times in a row: something else writes it too");
                let paused = status(Condition::Degraded, Reason::NotConverging, message).requeue_by(due);
                return PartialPlan { differences: partial.differences, ..paused };
            }
        }
        of.overwritten = Some(Overwritten { count: count.saturating_add(1), at: self.now });
        partial.then(step, what)
    }

    fn updating(&self, mut partial: PartialPlan, message: String) -> PartialPlan {
        partial
            .verdict
            .get_or_insert_with(|| PlannedStatus::new(Condition::Progressing, Reason::Updating, message));
        partial.requeue_by(self.now.after(LOOK_CLOSELY))
    }

    /// All replicas of the goal are ready, and nothing else runs.
    fn settled(&self, goal: &WorkloadGoal, seen: &SeenWorkload, mut memory: Memory) -> (PartialPlan, Memory) {
        let outcome = self.note_ready(goal, seen, &mut memory);
        let mut partial =
            PartialPlan { verdict: Some(self.rest(goal, seen, &memory)), ..PartialPlan::default() };
        partial.outcome = outcome;
        if let Some(verdict) = self.behind_front(goal, seen) {
            partial.verdict = Some(verdict);
        }
        for id in &seen.leftovers {
            let step = Step::RemoveWorkload { id: id.clone() };
            partial = partial.then(step, "it has an earlier name of this environment");
        }
        // What served before the manifest placed it on the cluster.
        let containers = self.observed.containers.iter().chain(&self.observed.holders);
        for container in containers {
            let why = "the service serves in its place";
            partial = partial
                .then(Step::Stop { id: container.id.clone() }, why)
                .then(Step::Remove { id: container.id.clone() }, why);
        }
        if let Some((good, refused)) = self.destination(goal, &memory) {
            partial = rollback::move_record(partial, self.intent, good, refused);
        }
        let look = if self.is_proxied() { LOOK_PROXIED } else { LOOK };
        (partial.requeue_by(self.now.after(look)), memory)
    }

    /// Whether the proxy may forward requests to the replicas.
    fn is_proxied(&self) -> bool {
        self.placed.placement.ports == PortMode::Dynamic && self.observed.front.is_some()
    }

    /// The status of ready replicas that the proxy does not forward requests to yet; `None`: it does.
    fn behind_front(&self, goal: &WorkloadGoal, seen: &SeenWorkload) -> Option<PlannedStatus> {
        let front = self.observed.front.as_ref().filter(|_| self.is_proxied())?;
        let ready = format!("{} is running and ready", goal.words());
        if let Some(why) = &front.trouble {
            let message = format!("{ready}, but the proxy has a problem: {why}");
            return Some(PlannedStatus::new(Condition::Degraded, Reason::FrontUnavailable, message));
        }
        let is_behind = front.addresses.as_ref().is_some_and(|addresses| *addresses != seen.serving);
        let message = format!("{ready}; the proxy is switching to its replicas");
        is_behind.then(|| PlannedStatus::new(Condition::Progressing, Reason::Updating, message))
    }

    /// Notes that the goal is ready. Returns the outcome of the recorded generation.
    fn note_ready(
        &self,
        goal: &WorkloadGoal,
        seen: &SeenWorkload,
        memory: &mut Memory,
    ) -> Option<(Generation, Outcome)> {
        let of = memory.workload.get_or_insert_default();
        let fingerprint = Some(seen.fingerprint.clone());
        let is_new = of.ready != fingerprint;
        of.ready = fingerprint;
        let container = seen.id.clone();
        if goal.role == GoalRole::Fallback {
            let good = memory.good.clone()?;
            let at = if is_new { self.now } else { good.at };
            memory.good = Some(Good { container, at, ..good });
            return None;
        }
        let Entry { generation, image, revision, .. } = self.intent.entry.clone();
        let known = memory.good.as_ref().filter(|good| !is_new && good.container == container);
        let at = known.map_or(self.now, |good| good.at);
        let declared = self.intent.declared.clone();
        let ready = Good { generation, image: image?, revision, container, at, first_ready: at, declared };
        serving::succeed(memory, ready);
        (memory.refused, memory.interrupted) = (None, None);
        Some((generation, Outcome::Ready))
    }

    /// The status of a converged workload.
    fn rest(&self, goal: &WorkloadGoal, seen: &SeenWorkload, memory: &Memory) -> PlannedStatus {
        let count = explain::replicas(seen.ready());
        let places: Vec<String> = seen.endpoints.iter().map(ToString::to_string).collect();
        let on = format!("{count} on {}", in_words(&places));
        let serves = format!("{} keeps serving ({on})", goal.words());
        if let Some((_, refused)) = self.destination(goal, memory) {
            let verdict = PlannedStatus::new(Condition::Ready, Reason::AsRecorded, serves);
            return rollback::rollback_status(refused, &verdict);
        }
        match (&goal.role, &memory.refused, rollback::led_here(self.intent)) {
            (GoalRole::Fallback, Some(refused), _) => {
                let message = format!("{}; {serves}", refused.message);
                PlannedStatus::new(Condition::Degraded, refused.reason, message)
            }
            (GoalRole::Wanted | GoalRole::Insist, _, Some(why)) => {
                let message = format!("{why}; rolled back to {}, which is serving ({on})", goal.words());
                PlannedStatus::new(Condition::RolledBack, Reason::RolledBack, message)
            }
            (GoalRole::Fallback, None, _) | (GoalRole::Wanted | GoalRole::Insist, _, None) => {
                let message = format!("{} is running and ready: {on}", goal.words());
                PlannedStatus::new(Condition::Ready, Reason::AsRecorded, message)
            }
        }
    }

    /// The status of a version that was ready, while the orchestrator replaces replicas of it.
    fn healing(&self, goal: &WorkloadGoal, seen: &SeenWorkload) -> PartialPlan {
        let count = format!("{} of {} replicas of {}", seen.ready(), seen.replicas, goal.words());
        let last = seen.failures.last().filter(|failure| self.now < failure.at.after(PEACE));
        match (&seen.rollout, last) {
            (Rollout::Stuck(why), _) => {
                let message = format!("{count} are ready; the others find no node: {why}");
                status(Condition::Degraded, Reason::NoPlace, message)
            }
            (_, Some(failure)) => {
                let message = format!("{count} are ready; the last failure: {}", failure.why);
                status(Condition::Degraded, reason_of(failure), message)
            }
            // The number of replicas was edited, or a node was lost.
            (Rollout::Moving { .. } | Rollout::Settled | Rollout::Failed(_), None) => {
                let message = format!("{count} are ready");
                // A service with an earlier name serves until this one is ready.
                let is_all_down = seen.ready() == 0 && seen.leftovers.is_empty();
                let condition = if is_all_down { Condition::Degraded } else { Condition::Progressing };
                let reason = if is_all_down { Reason::Unhealthy } else { Reason::Updating };
                status(condition, reason, message)
            }
        }
    }

    /// The status of a version that was never ready, while nothing else can run in its place.
    fn trial(
        &self,
        goal: &WorkloadGoal,
        seen: &SeenWorkload,
    ) -> (PartialPlan, Option<(Generation, Outcome)>) {
        let count = format!("{} of {} replicas of {} are ready", seen.ready(), seen.replicas, goal.words());
        let Some(failed) = self.failed_trial(goal, seen) else {
            return (status(Condition::Progressing, Reason::AwaitingHealth, count), None);
        };
        let message = format!("{count}; {}", failed.why);
        let is_verdict = failed.is_verdict && goal.role != GoalRole::Fallback;
        let outcome = is_verdict.then(|| (self.intent.entry.generation, Outcome::Failed(message.clone())));
        (status(Condition::Degraded, failed.reason, message), outcome)
    }
}

fn status(condition: Condition, reason: Reason, message: impl Into<String>) -> PartialPlan {
    PartialPlan::with_status(condition, reason, message)
}

/// Whether a service with an earlier name has to end before this one can start.
fn must_end_first(workload: &Workload) -> bool {
    let has_port = workload.placement.ports != PortMode::Dynamic && workload.options.publish.is_some();
    has_port || workload.update == Update::StopFirst
}

fn reason_of(failure: &TaskFailure) -> Reason {
    match failure.kind {
        TaskFailureKind::Exited => Reason::CrashLoop,
        TaskFailureKind::NotStarted => Reason::StartFailed,
        TaskFailureKind::Unhealthy => Reason::NeverReady,
        TaskFailureKind::NoImage => Reason::RegistryUnavailable,
        TaskFailureKind::Outside => Reason::Interrupted,
    }
}

/// Places in words, each with its count: `n1, n2 (2)`.
fn in_words(places: &[String]) -> String {
    let mut counted: BTreeMap<&str, u32> = BTreeMap::new();
    for place in places {
        *counted.entry(place).or_default() += 1;
    }
    let words = counted.iter().map(|(place, count)| match count {
        1 => (*place).to_owned(),
        count => format!("{place} ({count})"),
    });
    let words: Vec<String> = words.collect();
    if words.is_empty() { "no node".to_owned() } else { words.join(", ") }
}
