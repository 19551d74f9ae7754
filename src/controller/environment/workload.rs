//! Environments that an orchestrator runs: observation, writes, and output.

use super::act::StepError;
use super::reconciler::{Planned, Reconciler};
use crate::controller::Controller;
use crate::controller::clock::now;
use crate::controller::docker::EngineError;
use crate::controller::environment::output::{ShownStream, shown};
use crate::controller::jobs::pull::{host_of, refused};
use crate::model::front::Route;
use crate::model::logs::LogOptions;
use crate::model::name::EnvironmentName;
use crate::model::spec::EnvironmentSpec;
use crate::model::workload::{Workload, WorkloadSight, WriteToken, settles_after};
use crate::plan::Intent;

impl Reconciler {
    /// Observes the workload of an environment; `None`: no orchestrator runs it.
    pub(in crate::controller) async fn observe_workload(
        &self,
        spec: &EnvironmentSpec,
        intent: &Intent,
    ) -> Result<Option<WorkloadSight>, EngineError> {
        if intent.workload.is_none() {
            return Ok(None);
        }
        let settle = settles_after(&intent.health);
        let seen = self.engine.workload(&self.record, &intent.environment, &spec.container, settle, now());
        seen.await.map(Some)
    }

    /// Sends the proxy the addresses of the replicas that serve. While they are unknown, it keeps its targets.
    pub(in crate::controller) fn route_workload(&self, planned: &Planned) {
        let environment = &planned.intent.environment;
        self.front.maintain(environment, planned.desired.maintenance.is_some());
        let route = match &planned.observed.workload {
            None | Some(WorkloadSight::Unknown(_)) => return,
            // The service with the earlier name serves until the one with the new name does.
            Some(WorkloadSight::Missing { leftovers }) if !leftovers.is_empty() => return,
            Some(WorkloadSight::Seen(seen)) if seen.serving.is_empty() && !seen.leftovers.is_empty() => {
                return;
            }
            Some(WorkloadSight::Missing { .. } | WorkloadSight::Foreign(_)) => None,
            Some(WorkloadSight::Seen(seen)) => Route::to_service(&seen.id, &seen.serving),
        };
        // The container that ran before the manifest placed the environment on the swarm serves until a replica does.
        if route.is_some() || planned.observed.containers.is_empty() {
            self.front.route(environment, route);
        }
    }

    /// Writes a workload, with the credentials with which nodes pull its image.
    pub(in crate::controller) async fn apply_workload(
        &self,
        workload: &Workload,
        over: Option<&(String, WriteToken)>,
    ) -> Result<(), StepError> {
        let proof = match host_of(&workload.image) {
            Some(host) => self.registries.proof(&host).await.map_err(refused)?,
            None => None,
        };
        Ok(self.engine.apply_workload(workload, over, proof.as_ref(), now()).await?)
    }
}

impl Controller {
    /// Whether an orchestrator runs an environment.
    pub(in crate::controller) fn is_workload(&self, environment: &EnvironmentName) -> bool {
        let manifest = self.reconciler.manifest.borrow();
        manifest.environments.get(environment).is_some_and(|spec| spec.swarm.is_some())
    }

    /// The output of all replicas of an environment.
    pub(in crate::controller) async fn workload_output(
        &self,
        environment: &EnvironmentName,
        options: &LogOptions,
    ) -> Result<ShownStream, String> {
        let Reconciler { engine, record, .. } = &*self.reconciler;
        let found = engine.workloads(record, environment).await.map_err(|error| error.to_string())?;
        let service = found.first().ok_or_else(|| format!("{environment} has no service"))?;
        let pieces = engine.workload_logs(&service.id, options).await.map_err(|error| error.to_string())?;
        Ok(shown(pieces, options))
    }
}
