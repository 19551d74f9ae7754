//! Acting: each step of a plan is one call. Nothing is decided here.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tracing::info;

use super::builder::chain;
use super::docker::{Engine, EngineError};
use super::jobs::{Ended, JobKey};
use super::pass::{Pass, Planned, now};
use crate::model::event::EventKind;
use crate::model::status::Reason;
use crate::plan::{Need, PlannedStep, Step, Target, explain};
use crate::record::RecordError;

/// A step that failed, and how.
pub(super) struct Failed {
    step: Step,
    why: Why,
}

/// Why a step failed.
struct Why {
    words: String,
    /// Nobody answered, which says nothing about what was asked for.
    is_unanswered: bool,
}

impl From<EngineError> for Why {
    fn from(error: EngineError) -> Self {
        Self { words: error.to_string(), is_unanswered: error.is_unreachable() }
    }
}

impl From<RecordError> for Why {
    fn from(error: RecordError) -> Self {
        Self { words: chain(&error), is_unanswered: false }
    }
}

impl Failed {
    /// The step as it is to be judged: an engine that did not answer is no verdict on the options
    /// of a replacement that it was to start.
    pub(super) fn step(&self) -> Step {
        match &self.step {
            Step::Start { container, .. } if self.why.is_unanswered => {
                Step::Start { container: container.clone(), replacement: None }
            }
            step => step.clone(),
        }
    }
}

impl std::fmt::Display for Failed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "cannot {}: {}", explain::words(&self.step), self.why.words)
    }
}

/// How long a pull may take.
const PULL: Duration = Duration::from_secs(30 * 60);

impl Pass {
    /// Takes the steps of a plan in order, until one fails. Containers that were touched are
    /// looked at again, so that the next plan never rests on what was seen before.
    pub(super) async fn act(&self, planned: &Planned) -> Result<(), Failed> {
        let mut touched = BTreeSet::new();
        let mut created = None;
        let mut result = Ok(());
        for planned_step in &planned.plan.steps {
            self.tell(planned, planned_step).await;
            let step = &planned_step.step;
            if let Err(why) = self.take(planned, step, &mut created, &mut touched).await {
                result = Err(Failed { step: step.clone(), why });
                break;
            }
        }
        for id in touched {
            // One that cannot be looked at now is found by the resync.
            let _ = self.fleet.look(&self.engine, &id).await;
        }
        result
    }

    async fn tell(&self, planned: &Planned, step: &PlannedStep) {
        let environment = &planned.intent.environment;
        let sentence = explain::sentence(step);
        info!(%environment, generation = %planned.intent.entry.generation, step = %sentence, "step");
        // An event that cannot be kept is in the log line above.
        let _ = self.writer.event(environment, EventKind::Step, sentence, now()).await;
    }

    async fn take(
        &self,
        planned: &Planned,
        step: &Step,
        created: &mut Option<String>,
        touched: &mut BTreeSet<String>,
    ) -> Result<(), Why> {
        match step {
            Step::CancelJob => {
                self.jobs.cancel(&planned.intent.environment);
                Ok(())
            }
            Step::Acquire(need) => {
                self.acquire(planned, need);
                Ok(())
            }
            Step::RecordImage { .. } | Step::RecordRebuilt { .. } => Ok(self.record(planned, step).await?),
            Step::Create { name, spec } => {
                let id = self.engine.create(name, spec).await?;
                touched.insert(id.clone());
                *created = Some(id);
                Ok(())
            }
            Step::Start { container: Target::Created, .. } => match created {
                Some(id) => Ok(self.engine.start(id).await?),
                None => {
                    Err(Why { words: "no container was made before it".to_owned(), is_unanswered: false })
                }
            },
            Step::Start { container: Target::Seen(id), .. } => {
                touched.insert(id.clone());
                let network = self.manifest.borrow().network.clone();
                Ok(self.engine.start_again(id, &network, &planned.spec.container).await?)
            }
            _ => Ok(self.engine_step(planned, step, touched).await?),
        }
    }

    async fn engine_step(
        &self,
        planned: &Planned,
        step: &Step,
        touched: &mut BTreeSet<String>,
    ) -> Result<(), EngineError> {
        let engine: &Engine = &self.engine;
        let network = self.manifest.borrow().network.clone();
        match step {
            Step::CreateNetwork => {
                self.fleet.forget_things();
                engine.create_network(&network, &self.record).await
            }
            Step::CreateVolume { name } => engine.create_volume(name, &self.record).await,
            Step::Stop { id } => {
                touched.insert(id.clone());
                engine.stop(id, planned.spec.stop_timeout).await
            }
            Step::Remove { id } => {
                touched.insert(id.clone());
                engine.remove(id).await
            }
            Step::Rename { id, name } => {
                touched.insert(id.clone());
                engine.rename(id, name).await
            }
            Step::Unpause { id } => {
                touched.insert(id.clone());
                engine.unpause(id).await
            }
            Step::Connect { id } => {
                touched.insert(id.clone());
                engine.connect(id, &network, &planned.spec.container).await
            }
            Step::Adjust { id, memory, nano_cpus, pids } => {
                touched.insert(id.clone());
                engine.adjust(id, *memory, *nano_cpus, *pids).await
            }
            Step::CancelJob
            | Step::Acquire(_)
            | Step::RecordImage { .. }
            | Step::RecordRebuilt { .. }
            | Step::Create { .. }
            | Step::Start { .. } => Ok(()),
        }
    }

    fn acquire(&self, planned: &Planned, need: &Need) {
        let environment = &planned.intent.environment;
        match (need, &planned.task, &planned.job) {
            (Need::Build { .. }, Some(task), Some(key @ JobKey::Build(inputs))) => {
                let (builder, task, inputs) = (Arc::clone(&self.builder), task.clone(), inputs.clone());
                self.jobs.begin(environment, key.clone(), |progress| builder.run(task, inputs, progress));
            }
            (Need::Pull { reference, digest }, _, Some(key)) => {
                let (engine, reference, digest) =
                    (Arc::clone(&self.engine), reference.clone(), digest.clone());
                self.jobs.begin(environment, key.clone(), |progress| async move {
                    let mut say = |line: String| progress.say(line);
                    let pull = engine.pull(&reference, &digest, &mut say);
                    match tokio::time::timeout(PULL, pull).await {
                        Ok(Ok(image)) => Ended::Got(image),
                        Ok(Err(error)) => pull_failed(&error),
                        Err(_) => Ended::Unavailable {
                            reason: Reason::ImageNotFound,
                            message: format!("the pull of {reference}@{digest} took too long"),
                        },
                    }
                });
            }
            _ => {}
        }
    }

    async fn record(&self, planned: &Planned, step: &Step) -> Result<(), RecordError> {
        let environment = &planned.intent.environment;
        match step {
            Step::RecordImage { generation, image } => {
                self.resolver.resolve_image(environment, *generation, image.clone()).await?;
            }
            Step::RecordRebuilt { generation, image } => {
                let note = Some(format!("the image of generation {generation} was gone"));
                self.resolver.rebuilt(environment, *generation, image.clone(), note, now()).await?;
            }
            _ => {}
        }
        Ok(())
    }
}

/// A digest that no registry has is a verdict; a registry that does not answer is none.
fn pull_failed(error: &EngineError) -> Ended {
    let (reason, message) = (Reason::ImageNotFound, error.to_string());
    match error {
        EngineError::NotFound(_) => Ended::Failed { reason, message },
        _ => Ended::Unavailable { reason, message },
    }
}
