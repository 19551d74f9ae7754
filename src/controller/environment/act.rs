//! Acting: each step of a plan is one call. This module decides nothing.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::future::join_all;
use tracing::info;

use super::images::pull_rule;
use super::reconciler::{Planned, Reconciler};
use crate::controller::clock::now;
use crate::controller::docker::{EngineError, OneOffStreams, backup, holder};
use crate::controller::jobs::JobKey;
use crate::controller::jobs::pull::{EnvironmentPull, host_of, pull_declared};
use crate::failpoint;
use crate::model::cause::{self, Cause};
use crate::model::error::chain;
use crate::model::event::EventKind;
use crate::model::mount::{AbsolutePath, Mount};
use crate::model::name::{EnvironmentName, NetworkName};
use crate::model::network::Attachments;
use crate::model::observed::{ContainerState, Observed};
use crate::model::spec::{EnvironmentSpec, HolderImage};
use crate::plan::{ContainerTarget, Intent, Need, PlannedStep, RecordStep, Step, explain};
use crate::record::{RecordError, RollbackRequest};

/// A failed step and its error.
pub(in crate::controller) struct FailedStep {
    pub(in crate::controller) step: Step,
    pub(in crate::controller) why: StepError,
}

/// The reason why a step failed.
#[derive(Debug, thiserror::Error)]
pub(in crate::controller) enum StepError {
    /// The engine refused it, or did not answer.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The record could not be written.
    #[error("{}", chain(.0))]
    Record(#[from] RecordError),
    /// The policy of this host does not allow it.
    #[error("{0}")]
    NotAllowed(String),
    /// A step refers to a container that no earlier step created.
    #[error("no earlier step created the container")]
    NothingMade,
}

impl FailedStep {
    /// The cause of the failure.
    pub(in crate::controller) fn cause(&self) -> Cause {
        match &self.why {
            StepError::Engine(error) => error.cause(),
            // The policy belongs to the host.
            StepError::NotAllowed(_) => Cause::Host,
            StepError::Record(_) | StepError::NothingMade => Cause::Unknown,
        }
    }
}

impl std::fmt::Display for FailedStep {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let why = self.why.to_string();
        let why = cause::advice(&why).unwrap_or(why);
        match &self.step {
            Step::TryOptions { .. } => write!(f, "the new options were rejected: {why}"),
            step => write!(f, "cannot {}: {why}", explain::words(step)),
        }
    }
}

/// The containers that the steps of a plan created so far.
#[derive(Default)]
struct CreatedContainers {
    holder: Option<String>,
    container: Option<String>,
}

/// Returns the ID of a step's target; `made` is the container of the preceding step.
fn of(target: &ContainerTarget, made: Option<&String>) -> Result<String, StepError> {
    match target {
        ContainerTarget::Seen(id) => Ok(id.clone()),
        ContainerTarget::Created => made.cloned().ok_or(StepError::NothingMade),
    }
}

/// The host paths that are mounted in a container.
fn mounted_in<'o>(observed: &'o Observed, id: &str) -> impl Iterator<Item = &'o AbsolutePath> {
    let all = observed.containers.iter().chain(&observed.one_offs);
    let seen = all.into_iter().find(|seen| seen.id == id);
    seen.into_iter().flat_map(|seen| seen.mounts.host_paths())
}

impl Reconciler {
    /// Takes the steps of a plan in order, until one fails, or until a container has to be healed before the
    /// steps of jobs. Then inspects the containers that were touched again, so that the next plan never relies on
    /// an outdated state.
    pub(in crate::controller) async fn act(&self, planned: &Planned) -> Result<(), FailedStep> {
        let mut touched = BTreeSet::new();
        let mut made = CreatedContainers::default();
        let mut result = Ok(());
        for (place, planned_step) in planned.plan.steps.iter().enumerate() {
            if place >= planned.plan.before_jobs
                && self.has_lost_a_container(&planned.intent.environment, &planned.observed)
            {
                break;
            }
            self.log_step(&planned.intent, planned_step).await;
            let step = &planned_step.step;
            failpoint::before(step.point());
            let taken = self.take(planned, step, &mut made, &mut touched).await;
            failpoint::after(step.point());
            if let Err(why) = taken {
                result = Err(FailedStep { step: step.clone(), why });
                break;
            }
        }
        // If an inspection fails now, the resync repeats it.
        join_all(touched.iter().map(|id| self.cache.look(&self.engine, id))).await;
        result
    }

    /// Whether a container of the environment has ended since it was `observed` for the plan.
    fn has_lost_a_container(&self, environment: &EnvironmentName, observed: &Observed) -> bool {
        let now = self.cache.containers(environment);
        let mut were_up = observed.containers.iter().filter(|seen| seen.state.has_process());
        were_up.any(|before| !now.iter().any(|seen| seen.id == before.id && seen.state.has_process()))
    }

    async fn log_step(&self, intent: &Intent, step: &PlannedStep) {
        let environment = &intent.environment;
        let sentence = explain::sentence(step);
        info!(%environment, generation = %intent.entry.generation, step = %sentence, "step");
        // If the event cannot be stored, the log line above has it.
        let _ = self.writer.event(environment, EventKind::Step, sentence, now()).await;
    }

    async fn take(
        &self,
        planned: &Planned,
        step: &Step,
        made: &mut CreatedContainers,
        touched: &mut BTreeSet<String>,
    ) -> Result<(), StepError> {
        match step {
            Step::CancelJob => {
                self.jobs.cancel(&planned.intent.environment);
                Ok(())
            }
            Step::Acquire(need) => {
                self.acquire(planned, need);
                Ok(())
            }
            Step::Record(step) => Ok(self.record(&planned.intent.environment, step).await?),
            Step::CreateHolder { name, spec, purpose } => {
                let id = self.engine.create_holder(name, spec, *purpose, &self.holder_image()).await?;
                touched.insert(id.clone());
                made.holder = Some(id);
                Ok(())
            }
            Step::StartHolder { holder, .. } => {
                let id = of(holder, made.holder.as_ref())?;
                touched.insert(id.clone());
                Ok(self
                    .engine
                    .start_again(&id, &self.record, &self.attachments(&planned.spec, &planned.intent))
                    .await?)
            }
            Step::Announce { holder } => {
                let id = of(holder, made.holder.as_ref())?;
                self.announce(planned, &id).await;
                Ok(())
            }
            Step::TryOptions { spec, .. } => {
                self.judge(spec.mounts().filter_map(Mount::host_path)).await?;
                Ok(self.engine.try_options(spec).await?)
            }
            Step::Create { name, spec, joins } => {
                self.judge(spec.mounts().filter_map(Mount::host_path)).await?;
                let joins = joins.as_ref().map(|holder| of(holder, made.holder.as_ref())).transpose()?;
                let id = self.engine.create(name, spec, joins.as_deref()).await?;
                touched.insert(id.clone());
                made.container = Some(id);
                Ok(())
            }
            Step::Start { container: container @ ContainerTarget::Created, .. } => {
                let id = of(container, made.container.as_ref())?;
                self.write_secrets(&planned.intent, &id).await?;
                Ok(self.engine.start(&id).await?)
            }
            Step::Start { container: ContainerTarget::Seen(id), .. } => {
                self.judge(mounted_in(&planned.observed, id)).await?;
                touched.insert(id.clone());
                let mut seen = planned.observed.containers.iter();
                // If abide was killed before the first start, the files may be missing.
                if seen.any(|seen| seen.id == *id && seen.state == ContainerState::Created) {
                    self.write_secrets(&planned.intent, id).await?;
                }
                Ok(self
                    .engine
                    .start_again(id, &self.record, &self.attachments(&planned.spec, &planned.intent))
                    .await?)
            }
            Step::CreateFolder { path } => {
                self.judge(std::iter::once(path)).await?;
                let image = self.any_image(planned.intent.holder, &planned.observed);
                Ok(self.engine.create_folder(&self.record, path, &image).await?)
            }
            Step::Restart { id } => {
                self.judge(mounted_in(&planned.observed, id)).await?;
                touched.insert(id.clone());
                Ok(self.engine.restart(id, planned.spec.stop_timeout).await?)
            }
            Step::CreateNetwork => {
                self.cache.forget_things();
                Ok(self
                    .engine
                    .create_network(&self.network(&planned.spec, &planned.intent), &self.record)
                    .await?)
            }
            Step::LoadHolder => Ok(self.load_holder().await?),
            Step::CreateVolume { name } => Ok(self.engine.create_volume(name, &self.record).await?),
            Step::CreateOneOff { spec } => {
                self.judge(spec.container.mounts().filter_map(Mount::host_path)).await?;
                if spec.is_of_volume && self.engine.image_id(&backup::PROGRAM.image()).await?.is_none() {
                    self.engine.load_program(&backup::PROGRAM).await?;
                }
                touched.insert(self.engine.create_one_off(spec, OneOffStreams::Logged).await?);
                Ok(())
            }
            Step::StartOneOff { id, key } => {
                self.judge(mounted_in(&planned.observed, id)).await?;
                touched.insert(id.clone());
                if !key.is_of_volume() {
                    self.write_secrets(&planned.intent, id).await?;
                }
                Ok(self.engine.start(id).await?)
            }
            Step::Stop { id } => {
                touched.insert(id.clone());
                Ok(self.engine.stop(id, planned.spec.stop_timeout).await?)
            }
            Step::Remove { id } => {
                touched.insert(id.clone());
                Ok(self.remove(&planned.observed, &planned.desired.environment, id).await?)
            }
            Step::Rename { id, name } => {
                touched.insert(id.clone());
                Ok(self.engine.rename(id, name).await?)
            }
            Step::Pause { id } => {
                touched.insert(id.clone());
                Ok(self.engine.pause(id).await?)
            }
            Step::Unpause { id } => {
                touched.insert(id.clone());
                Ok(self.engine.unpause(id).await?)
            }
            Step::Connect { id } => {
                touched.insert(id.clone());
                let network = self.network(&planned.spec, &planned.intent);
                let attachment =
                    self.attachments(&planned.spec, &planned.intent).remove(&network).unwrap_or_default();
                Ok(self.engine.connect(id, &network, &attachment).await?)
            }
            Step::Disconnect { holder } => {
                let id = of(holder, made.holder.as_ref())?;
                touched.insert(id.clone());
                Ok(self.engine.disconnect(&id, &self.network(&planned.spec, &planned.intent)).await?)
            }
            Step::ApplyWorkload { workload, over } => self.apply_workload(workload, over.as_ref()).await,
            Step::RemoveWorkload { id } => {
                Ok(self.engine.remove_workload(&self.record, &planned.intent.environment, id).await?)
            }
            Step::Adjust { id, memory, nano_cpus, pids } => {
                touched.insert(id.clone());
                let swap = planned.spec.run.settings.memory_swap();
                Ok(self.engine.adjust(id, *memory, swap, *nano_cpus, *pids).await?)
            }
        }
    }

    async fn load_holder(&self) -> Result<(), EngineError> {
        self.cache.forget_things();
        let choice = self.manifest.borrow().holder.clone();
        match choice {
            HolderImage::Named(name) => pull_declared(&self.engine, &self.registries, &name).await,
            HolderImage::Own | HolderImage::Off => self.engine.load_program(&holder::PROGRAM).await,
        }
    }

    async fn remove(
        &self,
        observed: &Observed,
        environment: &EnvironmentName,
        id: &str,
    ) -> Result<(), EngineError> {
        self.secret_files.forget(id);
        let mut without_data = observed.holders.iter().chain(&observed.one_offs);
        if without_data.any(|seen| seen.id == *id) {
            return self.engine.remove_scratch(id).await;
        }
        self.previous.keep(&self.engine, environment, id).await;
        self.engine.remove(id).await
    }

    async fn write_secrets(&self, intent: &Intent, id: &str) -> Result<(), EngineError> {
        let files = intent.options.as_ref().map_or(&[][..], |options| &options.files);
        self.secret_files.wrote(id, files);
        self.engine.write_files(id, files).await
    }

    /// The names and addresses of an environment's containers. If a secret cannot be read, only the name is known.
    fn attachments(&self, spec: &EnvironmentSpec, intent: &Intent) -> Attachments {
        match &intent.options {
            Ok(options) => options.attachments(),
            Err(_) => spec.run.attachments(&self.network(spec, intent), &spec.container),
        }
    }

    /// The network of an environment's containers.
    pub(in crate::controller) fn network(&self, spec: &EnvironmentSpec, intent: &Intent) -> NetworkName {
        match &intent.options {
            Ok(options) => options.network.clone(),
            Err(_) => spec.network(&self.manifest.borrow().network),
        }
    }

    /// Checks the paths again before they are mounted: since the plan was made, one may have been replaced
    /// by a link.
    pub(in crate::controller) async fn judge(
        &self,
        paths: impl Iterator<Item = &AbsolutePath>,
    ) -> Result<(), StepError> {
        let objections = self.mount_policy.objections(paths.cloned().collect()).await;
        objections.into_values().next().map_or(Ok(()), |why| Err(StepError::NotAllowed(why)))
    }

    /// Returns the name of any image that is here, for an auxiliary container whose environment runs none.
    fn any_image(&self, has_holder: bool, observed: &Observed) -> String {
        let Observed { images, containers, holder_image, .. } = observed;
        if has_holder && *holder_image {
            return self.holder_image();
        }
        let here = images.iter().chain(containers.iter().filter_map(|seen| seen.image.as_ref())).next();
        here.map_or_else(|| self.holder_image(), ToString::to_string)
    }

    fn acquire(&self, planned: &Planned, need: &Need) {
        let environment = &planned.intent.environment;
        match (need, &planned.task, &planned.job) {
            (Need::Build { .. } | Need::Rebuild { .. }, Some(task), Some(key @ JobKey::Build(inputs))) => {
                let (builder, task, inputs) = (Arc::clone(&self.builder), task.clone(), inputs.clone());
                let origin = task.url.clone();
                self.jobs
                    .begin(environment, key.clone(), &origin, |progress| builder.run(task, inputs, progress));
            }
            (Need::Pull { reference, digest }, _, Some(key)) => {
                let pull = EnvironmentPull {
                    engine: Arc::clone(&self.engine),
                    registries: Arc::clone(&self.registries),
                    environment: environment.clone(),
                    reference: reference.clone(),
                    digest: digest.clone(),
                    rule: pull_rule(&planned.intent),
                    metrics: self.stopwatch.metrics().clone(),
                };
                let origin = host_of(reference).map(|host| host.to_string()).unwrap_or_default();
                self.jobs.begin(environment, key.clone(), &origin, |progress| pull.run(progress));
            }
            (Need::Push { id, repository }, _, Some(key)) => {
                let (pusher, id, repository) = (self.pusher.clone(), id.clone(), repository.clone());
                let origin = repository.host().to_string();
                self.jobs.begin(environment, key.clone(), &origin, |progress| {
                    pusher.run(id, repository, progress)
                });
            }
            // There is nothing to bring, or the inputs of the build are not known yet.
            (Need::Nothing | Need::Unobtainable { .. }, ..)
            | (Need::Build { .. } | Need::Rebuild { .. } | Need::Pull { .. } | Need::Push { .. }, ..) => {}
        }
    }

    async fn record(&self, environment: &EnvironmentName, step: &RecordStep) -> Result<(), RecordError> {
        match step {
            RecordStep::Image { generation, image, recipe } => {
                let (image, recipe) = (image.clone(), recipe.clone());
                self.resolver.resolve_built(environment, *generation, image, recipe).await?;
            }
            RecordStep::Recipe { generation, recipe } => {
                self.resolver.note_recipe(environment, *generation, recipe.clone()).await?;
            }
            RecordStep::Edited { generation, image, recipe } => {
                let (image, recipe) = (image.clone(), recipe.clone());
                self.resolver.edited(environment, *generation, image, recipe, now()).await?;
            }
            RecordStep::Rebuilt { generation, image } => {
                let note = Some(format!("the image of generation {generation} was removed"));
                self.resolver.rebuilt(environment, *generation, image.clone(), note, now()).await?;
            }
            RecordStep::RollBack { from, to, note, reason, message } => {
                let back = RollbackRequest {
                    from: *from,
                    image: to.image.clone(),
                    revision: to.revision.clone(),
                    note: note.clone(),
                    reason: *reason,
                    message: message.clone(),
                    at: now(),
                };
                self.resolver.roll_back(environment, back).await?;
            }
        }
        Ok(())
    }
}
