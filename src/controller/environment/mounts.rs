//! The mounts of an environment's containers: their state in each reconcile, and warnings about them.

use tracing::warn;

use super::reconciler::{PassError, Reconciler};
use crate::model::event::EventKind;
use crate::model::memory::Memory;
use crate::model::observed::Observed;
use crate::model::status::Status;
use crate::model::time::Timestamp;
use crate::plan::{self, Intent};

impl Reconciler {
    /// Checks the volumes and the host paths that containers of this environment need.
    pub(in crate::controller) async fn observe_mounts(
        &self,
        intent: &Intent,
        memory: &Memory,
        observed: &mut Observed,
    ) -> Result<(), PassError> {
        let volumes = plan::volumes_needed(intent, observed, memory);
        let paths = plan::sources_needed(intent, observed);
        observed.volumes = self.cache.volumes(&self.engine, volumes).await?;
        observed.refused_sources = self.mount_policy.objections(paths.clone()).await;
        observed.missing_sources = self.cache.missing_sources(&self.engine, paths).await?;
        Ok(())
    }

    /// Logs each warning once, when it first appears.
    pub(in crate::controller) async fn log_warnings(
        &self,
        before: Option<&Status>,
        status: &Status,
        at: Timestamp,
    ) -> Result<(), PassError> {
        let environment = &status.environment;
        let is_new = |warning: &&String| before.is_none_or(|before| !before.warnings.contains(warning));
        for warning in status.warnings.iter().filter(is_new) {
            warn!(%environment, %warning, "warning");
            self.writer.event(environment, EventKind::Status, format!("warning: {warning}"), at).await?;
        }
        Ok(())
    }
}
