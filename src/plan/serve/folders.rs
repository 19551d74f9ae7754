//! Host paths that are mounted. A missing one is created only if the manifest declares that: the engine
//! would create an empty folder, and a database would start empty.

use std::collections::BTreeSet;

use super::RolloutContext;
use crate::model::mount::{AbsolutePath, Mount};
use crate::model::status::{Condition, Reason};
use crate::plan::{ContainerTarget, PartialPlan, PlannedStatus, PlannedStep, Step};

impl RolloutContext<'_> {
    /// Creates the missing ones of `paths` that may be created, before anything else.
    pub(super) fn folders_first<'p>(
        &self,
        partial: PartialPlan,
        paths: impl Iterator<Item = &'p AbsolutePath>,
    ) -> Result<PartialPlan, PlannedStatus> {
        let paths: BTreeSet<&AbsolutePath> = paths.collect();
        if let Some(why) = paths.iter().find_map(|path| self.observed.refused_sources.get(*path)) {
            return Err(PlannedStatus::new(Condition::Blocked, Reason::PolicyRefused, why.clone()));
        }
        let mut missing = paths;
        missing.retain(|path| self.observed.missing_sources.contains(*path));
        if let Some(path) = missing.iter().find(|path| !self.may_create(path)) {
            return Err(source_missing(path));
        }
        Ok(missing.into_iter().fold(partial, |partial, path| {
            partial.then(Step::CreateFolder { path: path.clone() }, "it is missing, and `create` is set")
        }))
    }

    fn may_create(&self, path: &AbsolutePath) -> bool {
        let options = self.intent.options.as_ref().ok();
        let mut declared = options.into_iter().flat_map(|options| &options.volumes);
        declared.any(|mount| mount.creates() && mount.host_path() == Some(path))
    }

    /// The same steps, with the folders that they need created first. If a container to be started lacks a
    /// folder, no step is taken, so that the container that would be stopped for it keeps running.
    pub(super) fn only_with_folders(&self, partial: PartialPlan) -> PartialPlan {
        let paths: Vec<&AbsolutePath> = partial.steps.iter().flat_map(|step| self.mounted_by(step)).collect();
        let has_step = |path: &AbsolutePath| {
            partial.steps.iter().any(|planned| planned.step == Step::CreateFolder { path: path.clone() })
        };
        let paths: Vec<_> = paths.into_iter().filter(|path| !has_step(path)).cloned().collect();
        match self.folders_first(PartialPlan::default(), paths.iter()) {
            Ok(mut first) => {
                first.steps.extend(partial.steps);
                PartialPlan { steps: first.steps, ..partial }
            }
            Err(blocked) => {
                PartialPlan { steps: Vec::new(), verdict: Some(blocked), outcome: None, ..partial }
            }
        }
    }

    /// The host paths that the engine mounts because of a step.
    fn mounted_by<'s>(&'s self, planned: &'s PlannedStep) -> Vec<&'s AbsolutePath> {
        let seen = |id: &String| self.observed.containers.iter().find(|seen| seen.id == *id);
        match &planned.step {
            Step::Create { spec, .. } | Step::TryOptions { spec, .. } => {
                spec.options.volumes.iter().filter_map(Mount::host_path).collect()
            }
            Step::Start { container: ContainerTarget::Seen(id), .. } | Step::Restart { id } => {
                seen(id).map(|seen| seen.mounts.host_paths().collect()).unwrap_or_default()
            }
            Step::CancelJob
            | Step::Acquire(_)
            | Step::Record(_)
            | Step::CreateNetwork
            | Step::CreateVolume { .. }
            | Step::CreateFolder { .. }
            | Step::LoadHolder
            | Step::CreateHolder { .. }
            | Step::StartHolder { .. }
            | Step::Announce { .. }
            | Step::Start { container: ContainerTarget::Created, .. }
            | Step::CreateOneOff { .. }
            | Step::StartOneOff { .. }
            | Step::Stop { .. }
            | Step::Remove { .. }
            | Step::Rename { .. }
            | Step::Pause { .. }
            | Step::Unpause { .. }
            | Step::Connect { .. }
            | Step::Disconnect { .. }
            | Step::Adjust { .. }
            | Step::ApplyWorkload { .. }
            | Step::RemoveWorkload { .. } => Vec::new(),
        }
    }
}

/// The status if the engine does not find a path to be mounted.
pub(in crate::plan) fn source_missing(path: &AbsolutePath) -> PlannedStatus {
    let message = format!(
        "the folder {path} to mount does not exist: create it, mount its file system, or set `create = \
        true` for a new, empty folder"
    );
    PlannedStatus::new(Condition::Blocked, Reason::BindSourceMissing, message)
}
