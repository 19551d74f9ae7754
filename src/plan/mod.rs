//! The decision: it returns the steps from the observed to the desired state as a value.
//!
//! [`plan`] has no IO, no async, no clock and no randomness, and leaves nothing to decide while acting. It
//! never waits. A long operation (a build, a pull, a health check) is part of the observed state, and a
//! later call continues from there. So if a reconcile is cut short, the next one plans from the state that
//! it finds.
//!
//! In reading order: `supply` brings the image, `target` chooses the version to enforce, `serve` gets it running,
//! `needs` waits for other members of the group, `restart` decides when to restart, `rollback` gives a version up,
//! `difference` compares options, and `explain` describes the plan. `workload` plans an environment that an
//! orchestrator runs. Apart from these, [`gates`] judges promotions.

pub(crate) mod checks;
mod difference;
pub(crate) mod explain;
pub mod gates;
mod hold;
pub(crate) mod left;
mod needs;
mod notes;
mod ports;
mod restart;
mod rollback;
mod serve;
mod serving;
pub(crate) mod signatures;
mod step;
mod supply;
mod target;
#[cfg(test)]
mod tests;
mod turn;
mod volumes;
mod workload;

use std::collections::BTreeMap;
use std::time::Duration;

use crate::model::canary::{CanaryOrder, CanaryPercent, CanarySpec};
use crate::model::container::ContainerOptions;
use crate::model::declared::Declared;
use crate::model::desired::{Bad, Entry, Hold, Outcome};
use crate::model::group::MemberNeeds;
use crate::model::job::JobSpec;
use crate::model::memory::Memory;
use crate::model::name::{CommitId, Digest, EnvironmentName, Generation, JobName, NetworkName};
use crate::model::observed::Observed;
use crate::model::one_off::Hooks;
use crate::model::spec::{HealthSpec, RestartMode, Update};
use crate::model::status::{Condition, Reason, VolumeView};
use crate::model::time::Timestamp;
use crate::model::workload::SwarmSpec;

pub(crate) use hold::{AfterHold, held_back};
pub(crate) use notes::{StepFailure, after_failure};
pub use restart::backoff;
pub(crate) use serve::without_secrets;
pub(crate) use serving::{must_be_stored, serving};
pub(crate) use step::{ContainerTarget, PlannedStep, RecordStep, Step};
pub(crate) use supply::{Need, need};
pub(crate) use target::wanted as recorded;
pub(crate) use turn::{is_upkeep, releases_turn, starts_command, takes_turn};
pub(crate) use volumes::{is_start_first, sources_needed, volumes_needed};
pub(crate) use workload::{nodes as workload_nodes, running as running_workload};

/// The desired state: the record of one environment, and how its containers are made.
#[derive(Clone, Debug)]
pub struct Intent {
    /// The environment.
    pub environment: EnvironmentName,
    /// The valid generation: the record's newest, or the one that a hold keeps.
    pub entry: Entry,
    /// Set while a user holds the environment.
    pub hold: Option<Hold>,
    /// The time of the last `sync`: earlier failures are cleared.
    pub sync: Option<Timestamp>,
    /// Images that failed and were rolled back from, the newest last.
    pub bad: Vec<Bad>,
    /// Whether a rollback from this generation is already proposed to the deciding record.
    pub proposed: bool,
    /// The source of its images.
    pub supply: SupplyKind,
    /// Whether images may come from a registry.
    pub may_pull: bool,
    /// The options of its containers; an error if a secret cannot be read.
    pub options: Result<ContainerOptions, String>,
    /// The declaration of the options; `None` only if none is known.
    pub declared: Option<Box<Declared>>,
    /// The state that would be enforced without the hold; `None`: the environment is not held.
    pub after_hold: Option<Box<AfterHold>>,
    /// The members of the group that a new version waits for.
    pub needs: MemberNeeds,
    /// The commands that run once for each image.
    pub hooks: Hooks,
    /// The commands that run at scheduled times.
    pub jobs: BTreeMap<JobName, JobSpec>,
    /// The health check that decides readiness.
    pub health: HealthSpec,
    /// The order in which a container is replaced; `None`: not declared.
    pub update: Option<Update>,
    /// When an ended container is started again.
    pub restart: RestartMode,
    /// Whether containers join the network namespace of a sandbox.
    pub holder: bool,
    /// Whether a spare sandbox is kept for the next version.
    pub spare: bool,
    /// How a new version begins; `None`: it takes over once it is ready.
    pub canary: Option<CanarySpec>,
    /// The last decision of a person about a canary.
    pub canary_order: Option<CanaryOrder>,
    /// How long a replaced container keeps running for its last requests, if a proxy passes new requests to
    /// its replacement.
    pub drain: Option<Duration>,
    /// How an orchestrator runs it; `None`: it is one container on this host.
    pub workload: Option<WorkloadIntent>,
    /// Whether the record may be an old copy and the controller cannot confirm it. Running containers are
    /// kept unchanged then.
    pub keeps_what_runs: bool,
}

/// How an orchestrator runs an environment.
#[derive(Clone, Debug)]
pub struct WorkloadIntent {
    /// Number and places of its replicas.
    pub placement: SwarmSpec,
    /// The network of its group.
    pub network: Option<NetworkName>,
    /// The declaration under which it became ready last, if that differs from the current one.
    pub before: Option<Box<DeclaredWorkload>>,
}

/// A declaration of a workload, without its image.
#[derive(Clone, Debug)]
pub struct DeclaredWorkload {
    /// The options of its containers.
    pub options: ContainerOptions,
    /// The health check.
    pub health: HealthSpec,
    /// Number and places of its replicas.
    pub placement: SwarmSpec,
    /// The network of its group.
    pub network: Option<NetworkName>,
    /// The order in which a replica is replaced; `None`: not declared.
    pub update: Option<Update>,
}

/// The source of an environment's images, as far as it changes the plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SupplyKind {
    /// Built here from a branch.
    Build,
    /// The image of a tag in a registry.
    Tag,
    /// Only images that a promotion or a user names.
    Named,
}

/// The steps to take now, and the status to report.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// The differences between the record and the running containers, in sentences.
    pub differences: Vec<String>,
    /// The steps, in order.
    pub steps: Vec<PlannedStep>,
    /// The number of steps before the first one of a job. The steps of jobs come last, and can wait.
    pub before_jobs: usize,
    /// The status of the environment.
    pub verdict: PlannedStatus,
    /// When to reconcile again even without a wakeup.
    pub requeue_at: Option<Timestamp>,
    /// The ID of the container that gets the proxy's traffic, if there is a proxy.
    pub serving: Option<String>,
    /// The container that gets a part of that traffic.
    pub canary: Option<CanaryShare>,
    /// The reconcile state for the next reconcile.
    pub memory: Memory,
    /// The outcome of a generation.
    pub outcome: Option<(Generation, Outcome)>,
    /// The mounted volumes, and volumes that are kept besides.
    pub volumes: Vec<VolumeView>,
    /// Warnings for the operator about problems that do not keep anything from running.
    pub warnings: Vec<String>,
    /// The next scheduled time of each job; `None`: there is none in the next years.
    pub next_jobs: BTreeMap<JobName, Option<Timestamp>>,
    /// When to reconcile again for the jobs.
    pub jobs_requeue_at: Option<Timestamp>,
}

/// The share of a canary in the proxy's traffic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CanaryShare {
    /// The ID of its container.
    pub container: String,
    /// The share of the visitors.
    pub percent: CanaryPercent,
    /// Its generation.
    pub generation: Generation,
}

/// The status of an environment, as planned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedStatus {
    /// A word from the closed set of conditions.
    pub condition: Condition,
    /// The reason, in one word.
    pub reason: Reason,
    /// The reason, in a sentence.
    pub message: String,
}

impl PlannedStatus {
    pub(crate) fn new(condition: Condition, reason: Reason, message: impl Into<String>) -> Self {
        Self { condition, reason, message: message.into() }
    }

    /// Whether the serving container has a problem, which is reported before anything else.
    fn is_bad(&self) -> bool {
        matches!(self.condition, Condition::Degraded | Condition::Blocked)
    }
}

/// How often abide acts on the same difference before it reports that the environment does not converge.
const REPEATS_BEFORE_GIVING_UP: u32 = 3;

/// How long to wait before inspecting a container in transit (restarting, removing) again.
pub(crate) const TRANSIT: Duration = Duration::from_millis(500);

/// Plans the steps from the desired state, the observed state, the reconcile state and the time.
pub fn plan(intent: &Intent, observed: &Observed, memory: &Memory, now: Timestamp) -> Plan {
    if let Some(placed) = &intent.workload {
        return workload::plan(intent, placed, observed, memory, now);
    }
    let mut memory = notes::refresh(memory, intent, observed, now);
    volumes::settle(&mut memory, intent, observed);
    let (memory, succeeded) = serving::recognise(memory, intent, observed, now);
    let memory = rollback::recall(memory, intent, |memory| {
        Some(target::wanted(intent, observed, memory)?.fingerprint())
    });
    let memory = serve::canary::recall(memory, intent);
    let memory = serve::hooks::recall(memory, intent, observed, now);
    let memory = serve::jobs::recall(memory, intent, observed, now);
    let crashes = memory.crashes.clone();
    let supplied = supply::plan(intent, observed, now);
    let choice = target::choose(intent, observed, &memory);
    let (served, mut memory) = serve::plan(intent, observed, &choice, memory, now);
    let hooks = serve::hooks::plan(intent, observed, &choice, &mut memory, now);
    let waiting = needs::plan(intent, observed, &memory);
    let (supplied, served) = (supplied.and(waiting).and(hooks), (served, memory));
    let mut plan =
        volumes::add(combine(intent, observed, &choice.words(), supplied, served), intent, observed, &choice);
    plan.outcome = plan.outcome.or(succeeded);
    plan.warnings.extend(serve::canary::warning(intent, observed));
    let plan = notes::delay_after_failures(plan, intent, &crashes, now);
    let plan = notes::delay_repeats(plan, intent, &crashes, now);
    let plan = serve::jobs::add(plan, intent, observed, &choice, now);
    notes::remember_stops(plan, observed, now)
}

/// A partial plan: either for bringing the image, or for getting a container running.
#[derive(Debug, Default)]
struct PartialPlan {
    differences: Vec<String>,
    steps: Vec<PlannedStep>,
    verdict: Option<PlannedStatus>,
    requeue_at: Option<Timestamp>,
    outcome: Option<(Generation, Outcome)>,
    serving: Option<String>,
    canary: Option<CanaryShare>,
}

impl PartialPlan {
    fn with_status(condition: Condition, reason: Reason, message: impl Into<String>) -> Self {
        Self { verdict: Some(PlannedStatus::new(condition, reason, message)), ..Self::default() }
    }

    fn then(mut self, step: Step, reason: impl Into<String>) -> Self {
        self.steps.push(PlannedStep { step, reason: reason.into() });
        self
    }

    /// Joins both. The status is that of the first part that has one.
    fn and(mut self, second: Self) -> Self {
        self.differences.extend(second.differences);
        self.steps.extend(second.steps);
        self.verdict = self.verdict.or(second.verdict);
        self.outcome = self.outcome.or(second.outcome);
        self.serving = self.serving.or(second.serving);
        self.canary = self.canary.or(second.canary);
        self.requeue_at = [self.requeue_at, second.requeue_at].into_iter().flatten().min();
        self
    }

    fn requeue_by(mut self, at: Timestamp) -> Self {
        self.requeue_at = Some(self.requeue_at.map_or(at, |earlier| earlier.min(at)));
        self
    }
}

/// Combines the statuses, with `choice` as words for the serving version: a problem of the serving container comes
/// first, work in progress second, everything else last.
fn combine(
    intent: &Intent,
    observed: &Observed,
    choice: &str,
    supply: PartialPlan,
    (serve, memory): (PartialPlan, Memory),
) -> Plan {
    let is_bad = serve.verdict.as_ref().is_some_and(PlannedStatus::is_bad);
    let verdict = match (serve.verdict, supply.verdict) {
        (Some(serve), _) if is_bad => serve,
        (Some(serve), Some(supply)) => while_serving(&supply, choice, &serve),
        (None, Some(supply)) => supply,
        (Some(serve), None) => serve,
        (None, None) => PlannedStatus::new(Condition::Progressing, Reason::Updating, "in progress"),
    };
    let verdict = status_while_held(intent, observed, &memory, verdict);
    let requeue_at = [serve.requeue_at, supply.requeue_at].into_iter().flatten().min();
    let steps: Vec<_> = supply.steps.into_iter().chain(serve.steps).collect();
    Plan {
        differences: supply.differences.into_iter().chain(serve.differences).collect(),
        before_jobs: steps.len(),
        steps,
        verdict,
        requeue_at,
        serving: serve.serving,
        canary: serve.canary,
        memory,
        outcome: serve.outcome.or(supply.outcome),
        volumes: Vec::new(),
        warnings: Vec::new(),
        next_jobs: BTreeMap::new(),
        jobs_requeue_at: None,
    }
}

/// An environment is not reported as blocked as long as a container serves.
fn while_serving(supply: &PlannedStatus, choice: &str, serve: &PlannedStatus) -> PlannedStatus {
    let condition = match (supply.condition, serve.condition) {
        (Condition::Blocked, Condition::Ready | Condition::RolledBack) => Condition::Degraded,
        (condition, _) => condition,
    };
    let message = match serve.condition {
        Condition::Ready => format!("{}; {choice} keeps serving", supply.message),
        Condition::Progressing
        | Condition::Degraded
        | Condition::RolledBack
        | Condition::Held
        | Condition::Blocked => format!("{}; {}", supply.message, serve.message),
    };
    PlannedStatus { condition, reason: supply.reason, message }
}

fn status_while_held(
    intent: &Intent,
    observed: &Observed,
    memory: &Memory,
    verdict: PlannedStatus,
) -> PlannedStatus {
    let at_rest = matches!(verdict.condition, Condition::Ready | Condition::RolledBack)
        || verdict.reason == Reason::NothingRecorded;
    match &intent.hold {
        Some(hold) if at_rest => {
            let held_back = held_back(intent, observed, memory);
            let held_back: String = held_back.iter().map(|what| format!("; {what}")).collect();
            let (by, reason, environment) = (&hold.by, &hold.reason, &intent.environment);
            let message =
                format!("held by {by}: {reason}{held_back}; `abide resume {environment}` ends the hold");
            PlannedStatus::new(Condition::Held, Reason::HeldByPerson, message)
        }
        _ => verdict,
    }
}

/// The image ID that an entry names, if it is known.
fn image_id(entry: &Entry) -> Option<&Digest> {
    entry.image.as_ref().and_then(|image| image.id.as_ref())
}

/// Describes a generation for sentences.
fn generation_words(generation: Generation, revision: Option<&CommitId>) -> String {
    match revision {
        Some(revision) => format!("generation {generation} (commit {})", revision.short()),
        None => format!("generation {generation}"),
    }
}
