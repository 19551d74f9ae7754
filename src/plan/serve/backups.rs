//! Backups and restores: the parts of jobs that read or write a volume, and what they mean for the environment's own
//! containers.

use super::RolloutContext;
use super::hooks::is_active;
use super::jobs::{key_of, place_of};
use super::parts::stop_all_running;
use crate::model::backup::ArchiveName;
use crate::model::job::{JobPart, JobRunKey, JobSpec};
use crate::model::memory::Memory;
use crate::model::observed::{ContainerState, Observed, ObservedContainer};
use crate::model::one_off::OneOffSpec;
use crate::plan::{PartialPlan, Step, target};

/// Why a backup without a command has failed.
pub(super) const AWAKE: &str = "the environment's container did not stay paused while its volume was read";
/// Whether a program runs that should be paused: what the archive holds may not fit together.
pub(super) fn is_awake(key: &JobRunKey, observed: &Observed) -> bool {
    key.part == JobPart::PausedArchive
        && observed.containers.iter().any(|seen| seen.state == ContainerState::Running)
}

impl RolloutContext<'_> {
    /// The same for a part that only reads or writes the volume. A volume that was lost is made again for its
    /// restore only.
    pub(super) fn make_volume_run(
        &self,
        key: &JobRunKey,
        (archive, spec): (Option<&ArchiveName>, &JobSpec),
        memory: &Memory,
    ) -> Result<PartialPlan, String> {
        let backup = spec.backup.as_ref().ok_or_else(|| format!("job {} has no `backup`", key.job))?;
        let wanted = self.good_version(memory).or_else(|why| {
            let recorded = target::wanted(self.intent, self.observed, memory);
            recorded.ok_or(why)
        })?;
        let volume = backup.volume.as_str();
        let mut partial = PartialPlan::default();
        if !self.observed.volumes.contains(volume) {
            if key.part != JobPart::Restore {
                return Err(format!("the volume {volume} does not exist"));
            }
            partial = partial.then(Step::CreateVolume { name: volume.to_owned() }, "it is restored");
        }
        if let Some(why) = self.observed.refused_sources.get(&backup.folder) {
            return Err(why.clone());
        }
        if self.observed.missing_sources.contains(&backup.folder) {
            let path = backup.folder.clone();
            partial = partial.then(Step::CreateFolder { path }, "backups are stored in it");
        }
        let name = self.name_of_run(&wanted.options.name, &key.job);
        let one_off = OneOffSpec::of_volume(&wanted, name, key, (backup, archive), spec.timeout)?;
        Ok(partial.then(Step::CreateOneOff { spec: Box::new(one_off) }, "it is due"))
    }

    /// Whether the environment's containers are in a state in which the part may begin.
    pub(super) fn may_begin(&self, part: JobPart) -> bool {
        let mut states = self.containers.iter().chain(&self.draining).map(|seen| &seen.state);
        match part {
            JobPart::Command | JobPart::Archive => true,
            // A paused one is left from an earlier attempt, and is resumed first.
            JobPart::PausedArchive => {
                states.all(|state| !matches!(state, ContainerState::Paused | ContainerState::InTransit))
            }
            JobPart::Restore => states.all(|state| !is_active(state)),
        }
    }

    pub(super) fn pause_for(&self, partial: PartialPlan, key: &JobRunKey) -> PartialPlan {
        let all = self.containers.iter().chain(&self.draining);
        let running = all.filter(|seen| seen.state == ContainerState::Running);
        running.filter(|_| key.part == JobPart::PausedArchive).fold(partial, |partial, seen| {
            partial.then(Step::Pause { id: seen.id.clone() }, format!("job {} reads its volume", key.job))
        })
    }

    /// The plan of the environment's own containers while a job has its volume: they stay paused during a
    /// backup without a command, and stopped during a restore. `None`: no such job runs.
    pub(super) fn volume_in_use(&self, memory: &Memory) -> Option<PartialPlan> {
        let goes_on = |key: &JobRunKey| {
            let state = memory.jobs.get(&key.job)?;
            state.runs.get(place_of(state, key)?).filter(|run| !run.result.is_settled())
        };
        let in_use = |(key, seen): &(JobRunKey, &ObservedContainer)| match key.part {
            JobPart::Command | JobPart::Archive => false,
            JobPart::PausedArchive => is_active(&seen.state) && goes_on(key).is_some(),
            JobPart::Restore => goes_on(key).is_some(),
        };
        let keyed = self.observed.one_offs.iter().filter_map(|seen| Some((key_of(seen)?, seen)));
        let (key, _) = keyed.filter(|one| in_use(one)).min_by(|one, other| one.0.cmp(&other.0))?;
        let (partial, what) = match key.part {
            JobPart::Restore => {
                let why = format!("job {} restores its volume", key.job);
                let all: Vec<_> = self.containers.iter().chain(&self.draining).copied().collect();
                (stop_all_running(PartialPlan::default(), &all, &why), format!("stopped while {why}"))
            }
            _ => (PartialPlan::default(), format!("paused while job {} backs up its volume", key.job)),
        };
        Some(self.with_verdict(partial, what))
    }
}
