//! One reconcile of one environment: snapshot, observe, plan, act, report.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use tokio::sync::{Notify, Semaphore, watch};

use super::authority::Authority;
use super::group_turns::GroupTurns;
use super::images::{of_other_platforms, pull_rule};
use super::intent;
use super::jobs::JobRequests;
use super::last_output::SecretFileCache;
use super::mount_policy::MountPolicy;
use super::previous::PreviousOutput;
use super::probe::{ProbeTarget, Prober};
use super::stopwatch::Stopwatch;
use super::turns::Turns;
use crate::controller::cache::containers::ContainerCache;
use crate::controller::cache::watch::EngineState;
use crate::controller::clock::{now, wall};
use crate::controller::docker::{Engine, EngineError, holder};
use crate::controller::front::FrontHandle;
use crate::controller::guard::Guard;
use crate::controller::jobs::builder::{Builder, Inputs, Task};
use crate::controller::jobs::push::Pusher;
use crate::controller::jobs::registries::Registries;
use crate::controller::jobs::{JobKey, Jobs};
use crate::controller::polling::checks::Checks;
use crate::controller::polling::poll_state::PollState;
use crate::model::build::{Acquisition, BuildRecord, BuildResult};
use crate::model::container::ContainerOptions;
use crate::model::desired::{Desired, Entry, Image};
use crate::model::error::chain;
use crate::model::front::{CanaryRoute, Route};
use crate::model::memory::Memory;
use crate::model::name::{Digest, EnvironmentName, NetworkName};
use crate::model::observed::{ContainerState, Neighbour, Observed, ObservedContainer, RegistryPresence};
use crate::model::spec::Manifest;
use crate::model::spec::{EnvironmentSpec, HolderImage, Supply};
use crate::model::status::Reason;
use crate::model::time::Timestamp;
use crate::plan::{self, CanaryShare, Intent, Need, Plan};
use crate::record::{DesiredReader, RecordError, Resolver, StatusReader, StatusWriter};

/// Rounds of plan and act in one reconcile. A deployment takes three. Further rounds are left to the next
/// reconcile, so that one environment never spins.
const ROUNDS: usize = 10;

/// The shared state of reconciles. There is one for each daemon, shared by all workers.
pub(in crate::controller) struct Reconciler {
    pub(in crate::controller) engine: Arc<Engine>,
    pub(in crate::controller) cache: Arc<ContainerCache>,
    pub(in crate::controller) jobs: Jobs,
    pub(in crate::controller) turns: Turns,
    pub(in crate::controller) group_turns: GroupTurns,
    pub(in crate::controller) prober: Prober,
    pub(in crate::controller) front: FrontHandle,
    pub(in crate::controller) guard: Guard,
    pub(in crate::controller) builder: Arc<Builder>,
    pub(in crate::controller) registries: Arc<Registries>,
    pub(in crate::controller) pusher: Pusher,
    pub(in crate::controller) previous: PreviousOutput,
    pub(in crate::controller) secret_files: SecretFileCache,
    pub(in crate::controller) manifest: watch::Receiver<Arc<Manifest>>,
    pub(in crate::controller) desired: DesiredReader,
    pub(in crate::controller) resolver: Resolver,
    pub(in crate::controller) status: StatusReader,
    pub(in crate::controller) writer: StatusWriter,
    /// Whether the containers of the host are known: an unreachable engine does not mean an empty host.
    pub(in crate::controller) engine_state: watch::Receiver<EngineState>,
    /// Notified when an environment has become ready.
    pub(in crate::controller) deployed: Arc<Notify>,
    pub(in crate::controller) poll_state: PollState,
    /// The checks of commits.
    pub(in crate::controller) checks: Checks,
    pub(in crate::controller) mount_policy: MountPolicy,
    pub(in crate::controller) stopwatch: Stopwatch,
    /// The authority to act on the record.
    pub(in crate::controller) authority: watch::Receiver<Authority>,
    pub(in crate::controller) record: String,
    /// The permits of commands that people run.
    pub(in crate::controller) sessions: Arc<Semaphore>,
    /// The runs of jobs that people wait for.
    pub(in crate::controller) job_requests: JobRequests,
}

/// A plan and its complete input.
pub(in crate::controller) struct Planned {
    pub(in crate::controller) spec: EnvironmentSpec,
    pub(in crate::controller) desired: Desired,
    pub(in crate::controller) intent: Intent,
    pub(in crate::controller) observed: Observed,
    pub(in crate::controller) task: Option<Task>,
    pub(in crate::controller) job: Option<JobKey>,
    pub(in crate::controller) plan: Plan,
    /// The warnings of the entry's build and of its certificates.
    pub(in crate::controller) warnings: Vec<String>,
    /// When the first of its certificates expires.
    pub(in crate::controller) certificate_until: Option<Timestamp>,
    /// The mark of the declaration behind the plan.
    pub(in crate::controller) mark: Option<String>,
    /// The reconcile state before the plan.
    pub(in crate::controller) memory: Memory,
}

impl Planned {
    /// The reconcile state that is stored while the steps are taken.
    pub(in crate::controller) fn kept_memory(&self) -> &Memory {
        if plan::must_be_stored(&self.memory, &self.plan.memory) { &self.plan.memory } else { &self.memory }
    }

    /// The end of the serving container, by the engine's clock; `None` if it did not end.
    pub(in crate::controller) fn lost_at(&self) -> Option<Timestamp> {
        let good = &self.memory.good.as_ref()?.container;
        let serving = self.observed.containers.iter().find(|seen| seen.id == *good)?;
        if let ContainerState::Exited(exit) = &serving.state { Some(exit.at) } else { None }
    }

    /// The address of the program, through the network attachment of `seen`.
    pub(in crate::controller) fn address_of(&self, seen: &ObservedContainer) -> Option<SocketAddr> {
        let network = &self.intent.options.as_ref().ok()?.network;
        Some((address_in(&self.spec, network, seen)?, self.spec.port?).into())
    }
}

/// The reason why a reconcile failed.
#[derive(Debug, thiserror::Error)]
pub(in crate::controller) enum PassError {
    /// The record cannot be read or written.
    #[error("the record")]
    Record(#[from] RecordError),
    /// The engine does not answer.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

impl Reconciler {
    /// Reconciles one environment until nothing is left to do now. Returns the latest time to run again, if
    /// something is pending.
    pub(in crate::controller) async fn run(
        &self,
        environment: &EnvironmentName,
    ) -> Result<Option<Timestamp>, PassError> {
        for _ in 0..ROUNDS {
            let Some(planned) = self.plan(environment).await? else { return Ok(None) };
            self.log_generations(&planned.desired).await?;
            let before = self.status.status(environment)?;
            let (planned, urgency) = self.in_turn(planned)?;
            let planned = self.in_group_turn(planned)?;
            self.record_job_events(&planned).await?;
            self.store_changes(&planned).await?;
            self.update_front(&planned);
            self.update_guard(&planned);
            let (announced, acted) = tokio::join!(
                self.no_longer_ready(&planned, before.as_ref()),
                urgency.scope(self.act(&planned))
            );
            announced?;
            let requeue_at =
                [planned.plan.requeue_at, planned.plan.jobs_requeue_at].into_iter().flatten().min();
            let is_at_rest = planned.plan.steps.is_empty();
            self.report(planned, before, acted.err()).await?;
            if is_at_rest {
                return Ok(requeue_at);
            }
        }
        Ok(Some(now().after(plan::backoff(4, environment.as_str()))))
    }

    // --- snapshot -----------------------------------------------------------------------------

    pub(in crate::controller) async fn plan(
        &self,
        environment: &EnvironmentName,
    ) -> Result<Option<Planned>, PassError> {
        self.engine_is_known().await?;
        let keeps_what_runs = self.is_alone().await;
        // Read after the wait: the controller may have sent another declaration meanwhile.
        let manifest = Arc::clone(&self.manifest.borrow());
        if !manifest.environments.contains_key(environment) {
            return Ok(None);
        }
        let desired = self.desired.get(environment)?;
        let memory = self.status.memory(environment)?;
        let entry = self.entry_that_counts(&desired)?;
        self.plan_for(environment, &manifest, desired, entry, memory, keeps_what_runs).await
    }

    /// The plan for a state that was read before.
    pub(in crate::controller) async fn plan_for(
        &self,
        environment: &EnvironmentName,
        manifest: &Manifest,
        desired: Desired,
        entry: Entry,
        memory: Memory,
        keeps_what_runs: bool,
    ) -> Result<Option<Planned>, PassError> {
        let proposed = self.desired.proposed(environment)?;
        let Some(declared) = intent::declared(manifest, &desired, &entry, &memory) else { return Ok(None) };
        let intent = intent::of(&declared, &desired, entry, &self.record, manifest, proposed.as_ref());
        let workload = intent::workload(&declared, &desired, &memory, &self.record);
        let intent = Intent { keeps_what_runs, workload, ..intent };
        let spec = declared.spec;
        let task = self.task(environment, &spec, &intent);
        let inputs = match &task {
            Some(task) => Some(self.builder.inputs(task).await),
            None => None,
        };
        let mut warnings = self.warnings(inputs.as_ref())?;
        let certificate = self.front.certificate(environment);
        warnings.extend(certificate.problem.map(|problem| format!("HTTPS: {problem}")));
        let certificate_until = certificate.until;
        let build = task.as_ref().zip(inputs);
        let (observed, job) = self.observe(&spec, &intent, &memory, build).await?;
        let plan = plan::plan(&intent, &observed, &memory, now());
        let mark = manifest.mark(environment);
        Ok(Some(Planned {
            spec,
            desired,
            intent,
            observed,
            task,
            job,
            plan,
            warnings,
            certificate_until,
            mark,
            memory,
        }))
    }

    /// Waits for the authority to act on the record. Returns whether it only extends to keeping the running
    /// containers.
    pub(in crate::controller) async fn is_alone(&self) -> bool {
        let mut authority = self.authority.clone();
        let known = authority.wait_for(|authority| *authority != Authority::Awaited).await;
        known.is_ok_and(|authority| *authority == Authority::Alone)
    }

    /// Waits until the engine's first answer or failure.
    pub(in crate::controller) async fn engine_is_known(&self) -> Result<(), EngineError> {
        let mut state = self.engine_state.clone();
        let asked = state.wait_for(|state| *state != EngineState::Unasked).await;
        match asked.as_deref() {
            Ok(EngineState::Known) => Ok(()),
            Ok(EngineState::Lost(why)) => Err(why.clone()),
            Ok(EngineState::Unasked) | Err(_) => {
                Err(EngineError::Unreachable("its environment is no longer in the manifest".to_owned()))
            }
        }
    }

    fn entry_that_counts(&self, desired: &Desired) -> Result<Entry, RecordError> {
        match &desired.hold {
            None => Ok(desired.entry.clone()),
            Some(hold) => match hold.generation {
                Some(kept) if kept == desired.entry.generation => Ok(desired.entry.clone()),
                Some(kept) => Ok(self.desired.entry(&desired.environment, kept)?.unwrap_or_default()),
                None => Ok(Entry::default()),
            },
        }
    }

    /// The build of the valid entry, if it has to be built here.
    fn task(&self, environment: &EnvironmentName, spec: &EnvironmentSpec, intent: &Intent) -> Option<Task> {
        let Supply::Branch { repository, branch } = &spec.supply else { return None };
        Some(Task {
            environment: environment.clone(),
            url: self.manifest.borrow().repositories.get(repository)?.url.clone(),
            branch: branch.clone(),
            revision: intent.entry.revision.clone()?,
            spec: spec.build.clone()?,
            push: spec.push.clone(),
        })
    }

    /// The warnings of the latest build of these inputs.
    fn warnings(&self, inputs: Option<&Result<Inputs, String>>) -> Result<Vec<String>, RecordError> {
        let Some(Ok(inputs)) = inputs else { return Ok(Vec::new()) };
        let build = self.status.build(&inputs.key)?;
        Ok(build.map(|build| build.warnings).unwrap_or_default())
    }

    // --- observe ------------------------------------------------------------------------------

    async fn observe(
        &self,
        spec: &EnvironmentSpec,
        intent: &Intent,
        memory: &Memory,
        build: Option<(&Task, Result<Inputs, String>)>,
    ) -> Result<(Observed, Option<JobKey>), PassError> {
        let engine = &*self.engine;
        if let Some(why) = self.cache.unseen(&intent.environment) {
            return Err(why.into());
        }
        let containers = self.cache.containers(&intent.environment);
        let of_entry = intent.entry.image.iter().filter_map(|image| image.id.clone());
        let of_good = memory.good.iter().chain(&memory.before).filter_map(|good| good.image.id.clone());
        let ids: BTreeSet<Digest> = of_entry.chain(of_good).collect();
        let held = self.cache.images(engine, ids).await?;
        let platform = match &intent.options {
            Ok(options) => &options.run.platform,
            Err(_) => &spec.run.platform,
        };
        let other_platforms = of_other_platforms(&held, platform.as_ref());
        let images: BTreeSet<Digest> =
            held.keys().filter(|id| !other_platforms.contains_key(*id)).cloned().collect();
        let image_volumes = held.into_iter().map(|(id, held)| (id, held.volumes)).collect();
        let registry_presence = self.registry_presence(spec, &intent.entry);
        let recipe = build.as_ref().and_then(|(_, inputs)| Some(inputs.as_ref().ok()?.recipe.clone()));
        let need = plan::need(intent, &images, &registry_presence, recipe.as_ref());
        let (acquisition, job) = self.acquisition(&need, intent, build).await?;
        let jobs = self.jobs.state(&intent.environment, job.as_ref());
        let network = self.network(spec, intent);
        let targets = probe_targets(spec, &network, intent, &containers);
        let probes = self.prober.watch(&intent.environment, targets);
        let one_offs = self.cache.one_offs(&intent.environment);
        let mut ended_by = self.cache.ended_by(&containers, now());
        ended_by.extend(self.cache.ended_by(&one_offs, now()));
        let holder_image = !intent.holder || self.cache.has_image(engine, &self.holder_image()).await?;
        let ports_of_others = self.cache.ports_of_others(&intent.environment);
        let mut observed = Observed {
            wall_clock: wall(),
            holders: self.cache.holders(&intent.environment),
            one_offs: self
                .with_secrets(self.one_offs_with_output(one_offs, memory).await, intent, memory)
                .await,
            attended: engine.attended(),
            job_requests: self.job_requests.of(&intent.environment),
            members: self.members(intent, memory).await?,
            holder_image,
            front: self.front.seen(&intent.environment),
            name_holder: self.cache.name_holder(&intent.environment, spec.container.as_str()),
            taken_names: self.cache.names_from(&intent.environment, &format!("{}.", spec.container)),
            neighbours: self.neighbours(intent, &ports_of_others)?,
            ports_of_others: ports_of_others.into_values().flatten().collect(),
            images,
            image_volumes,
            other_platforms,
            network: self.cache.network(engine, &network).await?,
            registry_presence,
            recipe,
            acquisition: acquisition.or(jobs.acquisition).unwrap_or(Acquisition::Untried),
            superseded_job: jobs.is_superseded,
            burst_since: jobs.burst_since,
            containers: self
                .with_secrets(self.with_output(containers, &probes, intent, memory).await, intent, memory)
                .await,
            workload: self.observe_workload(spec, intent).await?,
            probes,
            ended_by,
            ..Observed::default()
        };
        self.observe_mounts(intent, memory, &mut observed).await?;
        Ok((observed, job))
    }

    /// The other environments of this host with published ports, if one of them publishes a port that this one needs.
    fn neighbours(
        &self,
        intent: &Intent,
        ports_of_others: &BTreeMap<EnvironmentName, BTreeSet<String>>,
    ) -> Result<BTreeMap<EnvironmentName, Neighbour>, RecordError> {
        let wanted: Vec<_> = intent.options.iter().flat_map(ContainerOptions::ports).collect();
        let mut taken = ports_of_others.values().flatten().filter_map(|port| port.parse().ok());
        if !taken.any(|taken| wanted.iter().any(|wanted| wanted.conflicts(&taken))) {
            return Ok(BTreeMap::new());
        }
        let manifest = Arc::clone(&self.manifest.borrow());
        let neighbour = |(other, publishes): (&EnvironmentName, &BTreeSet<String>)| {
            let is_held = self.desired.get(other)?.hold.is_some();
            let declared = manifest.environments.get(other).filter(|spec| !is_held && spec.host.is_none());
            let wants = declared.map(|spec| spec.ports().collect());
            let is_waiting = self.status.status(other)?.is_some_and(|status| {
                status.reason == Reason::AwaitingPort && status.observed_declaration == manifest.mark(other)
            });
            Ok((other.clone(), Neighbour { publishes: publishes.clone(), wants, is_waiting }))
        };
        ports_of_others.iter().map(neighbour).collect()
    }

    /// The name of the image of sandboxes.
    pub(in crate::controller) fn holder_image(&self) -> String {
        match &self.manifest.borrow().holder {
            HolderImage::Named(name) => name.clone(),
            HolderImage::Own | HolderImage::Off => holder::PROGRAM.image(),
        }
    }

    /// The recorded progress of the needed image, and the key of the job that brings it.
    async fn acquisition(
        &self,
        need: &Need,
        intent: &Intent,
        build: Option<(&Task, Result<Inputs, String>)>,
    ) -> Result<(Option<Acquisition>, Option<JobKey>), PassError> {
        match (need, build) {
            (Need::Pull { reference, digest }, _) => {
                Ok((None, Some(JobKey::pull(reference, digest, &pull_rule(intent)))))
            }
            (Need::Push { id, repository }, _) => {
                Ok((None, Some(JobKey::Push(format!("{id} {repository}")))))
            }
            (Need::Build { .. } | Need::Rebuild { .. }, Some((task, inputs))) => {
                let key = match inputs {
                    Ok(inputs) => inputs.key,
                    Err(message) => return Ok((Some(no_overlay(message)), None)),
                };
                let known = match self.status.build(&key)? {
                    Some(build) => self.built(build, task).await?,
                    None => None,
                };
                Ok((known, Some(JobKey::Build(key))))
            }
            // An image may be here before its pull has ended. That pull must not be cancelled as unwanted.
            (Need::Nothing, _) => Ok((Some(Acquisition::NotNeeded), pull_of(intent))),
            (Need::Unobtainable { .. } | Need::Build { .. } | Need::Rebuild { .. }, _) => {
                Ok((Some(Acquisition::NotNeeded), None))
            }
        }
    }

    /// Whether the recorded image is in the registry to which the manifest wants it pushed. Only images built here
    /// are pushed.
    fn registry_presence(&self, spec: &EnvironmentSpec, entry: &Entry) -> RegistryPresence {
        let (Some(image), Some(_)) = (&entry.image, &entry.revision) else {
            return RegistryPresence::default();
        };
        let reference = image.reference.as_deref().unwrap_or_default();
        let is_lost = image.digest.as_ref().is_some_and(|digest| self.registries.is_lost(reference, digest));
        let push_to = spec
            .push
            .clone()
            .filter(|repository| is_lost || image.digest.is_none() || reference != repository.to_string());
        RegistryPresence { is_lost, push_to }
    }

    /// A build whose image is missing does not count: the same inputs have to be built again.
    async fn built(&self, build: BuildRecord, task: &Task) -> Result<Option<Acquisition>, PassError> {
        match build.result {
            BuildResult::Failed(message) => {
                let (reason, at) = (Reason::BuildFailed, build.finished);
                Ok(Some(Acquisition::Failed { reason, message, at }))
            }
            BuildResult::Built(image) => {
                let there = !self.cache.images(&self.engine, image.id.clone()).await?.is_empty();
                let image = match &task.push {
                    None => Some(image),
                    // An image that is missing in its registry has still to be pushed.
                    Some(repository) => {
                        build.pushed.get(repository).map(|digest| image.pushed(repository, digest))
                    }
                };
                Ok(image.filter(|_| there).map(Acquisition::Got))
            }
        }
    }

    /// Stores a new readiness and the containers that are about to be stopped, before the proxy gets its
    /// target and before any step: if the daemon is killed then, the next one has these notes.
    async fn store_changes(&self, planned: &Planned) -> Result<(), RecordError> {
        if !plan::must_be_stored(&planned.memory, &planned.plan.memory) {
            return Ok(());
        }
        self.writer.notes(&planned.intent.environment, &planned.plan.memory).await
    }

    /// Sends the proxy the target of the plan. While the state of the proxy is unknown, it keeps its target.
    pub(in crate::controller) fn update_front(&self, planned: &Planned) {
        if planned.intent.workload.is_some() {
            return self.route_workload(planned);
        }
        if planned.intent.drain.is_some() && planned.observed.front.is_none() {
            return;
        }
        let serving = planned.plan.serving.as_ref();
        let mut containers = planned.observed.containers.iter();
        let serving = serving.and_then(|id| containers.find(|seen| seen.id == *id));
        let canary = planned.plan.canary.as_ref().and_then(|share| {
            let seen = planned.observed.containers.iter().find(|seen| seen.id == share.container)?;
            let (container, address) = (seen.id.clone(), planned.address_of(seen)?);
            let CanaryShare { percent, generation, .. } = *share;
            Some(CanaryRoute { container, address, percent, generation })
        });
        let route = |seen: &ObservedContainer| {
            let canary = canary.filter(|canary| canary.container != seen.id);
            Some(Route { canary, ..Route::to_container(seen.id.clone(), planned.address_of(seen)?) })
        };
        self.front.maintain(&planned.intent.environment, planned.desired.maintenance.is_some());
        self.front.route(&planned.intent.environment, serving.and_then(route));
    }
}

fn pull_of(intent: &Intent) -> Option<JobKey> {
    let Image { reference, digest, .. } = intent.entry.image.as_ref()?;
    Some(JobKey::pull(reference.as_ref()?, digest.as_ref()?, &pull_rule(intent)))
}

fn no_overlay(message: String) -> Acquisition {
    // It is checked again with every resync, so adding the missing file is sufficient.
    Acquisition::Unavailable {
        reason: Reason::SecretMissing,
        message,
        retry_at: Timestamp::from_millis(u64::MAX),
    }
}

/// The address at which this host reaches the program of a container: the prober, and the proxy, which is in the
/// host's network.
fn address_in(spec: &EnvironmentSpec, network: &NetworkName, seen: &ObservedContainer) -> Option<IpAddr> {
    match spec.run.settings.network_mode() {
        Some("host") => Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        Some(_) => None,
        None => seen.networks.get(network.as_str()).copied().flatten(),
    }
}

fn probe_targets(
    spec: &EnvironmentSpec,
    network: &NetworkName,
    intent: &Intent,
    containers: &[ObservedContainer],
) -> Vec<ProbeTarget> {
    let running = containers.iter().filter(|container| container.state == ContainerState::Running);
    // With a proxy, the proxy answers on the published port, whatever the state of the container.
    let published = intent.options.as_ref().ok().and_then(|options| options.publish);
    let target = |container: &ObservedContainer| ProbeTarget {
        environment: intent.environment.clone(),
        container: container.id.clone(),
        started_at: container.started_at,
        address: address_in(spec, network, container),
        port: spec.health.port.or(spec.port),
        publish: published.filter(|_| spec.health.port.is_none_or(|port| Some(port) == spec.port)),
        hostname: spec.first_host_name().map(ToString::to_string),
        health: intent.health.clone(),
    };
    running.map(target).collect()
}

impl From<&PassError> for String {
    fn from(error: &PassError) -> Self {
        chain(error)
    }
}
