//! The world as a reconcile observes it.

use super::*;

impl World {
    pub(in crate::plan::tests) fn seen(&self) -> Observed {
        let mut seen = self.observed.clone();
        seen.wall_clock = self.wall_clock();
        let holders = seen.holders.clone();
        seen.containers =
            seen.containers.into_iter().map(|container| container.with_holder(&holders)).collect();
        seen.front = self.front_seen();
        let running = seen.containers.iter().filter(|container| container.state == ContainerState::Running);
        seen.probes = running
            .filter_map(|container| Some((container.id.clone(), self.readiness(container)?)))
            .collect();
        let wanted = self.intent.entry.revision.as_ref();
        let running = self.job.as_ref().filter(|job| Some(&job.revision) == wanted);
        seen.superseded_job = self.job.is_some() && running.is_none();
        seen.acquisition = match (running, wanted) {
            (Some(_), _) => Acquisition::Running { step: "building".to_owned() },
            (None, Some(revision)) => self.verdicts.get(revision).cloned().unwrap_or(Acquisition::Untried),
            (None, None) => Acquisition::NotNeeded,
        };
        seen
    }

    pub(in crate::plan::tests) fn wall_clock(&self) -> Timestamp {
        let since_epoch = self.now.since(Timestamp::default());
        Timestamp::default().after(since_epoch.saturating_sub(self.wall_clock_behind))
    }

    pub(in crate::plan::tests) fn readiness(&self, container: &ObservedContainer) -> Option<Readiness> {
        let asked = container.started_at?.max(self.prober_since).after(BOOT_TIME);
        if self.now < asked {
            return None;
        }
        let unanswered = self.now.since(asked).saturating_sub(self.set_forward);
        let last_miss = Some("refused".to_owned());
        let miss = Readiness { misses: 5, last_miss, unanswered, ..Readiness::default() };
        if self.hung.contains_key(&container.id) {
            return Some(Readiness { answered_once: true, ..miss });
        }
        match self.answers(container) {
            Some(at) => {
                let answering_since = Some(at.max(self.prober_since));
                Some(Readiness { answering_since, answered_once: true, ..Readiness::default() })
            }
            None => Some(miss),
        }
    }

    pub(in crate::plan::tests) fn program_of(&self, container: &ObservedContainer) -> Program {
        let image = container.image.as_ref().and_then(|image| self.programs.get(image));
        match image {
            // It was built before, while it could be built.
            None | Some(Program::DoesNotBuild) => Program::Good,
            Some(program) => *program,
        }
    }

    pub(in crate::plan::tests) fn ends(&self, container: &ObservedContainer) -> Option<Timestamp> {
        match (self.program_of(container), &container.state) {
            (Program::Ends { after, .. }, ContainerState::Running) => {
                Some(container.started_at?.after(after))
            }
            _ => None,
        }
    }

    pub(in crate::plan::tests) fn answers(&self, container: &ObservedContainer) -> Option<Timestamp> {
        let asked = container.started_at?.max(self.prober_since).after(BOOT_TIME);
        if self.is_cut_off(container) {
            return None;
        }
        matches!(self.program_of(container), Program::Good | Program::Ends { .. }).then_some(asked)
    }

    /// The containers that run a good program.
    pub(in crate::plan::tests) fn serving(&self) -> Vec<&ObservedContainer> {
        let is_good = |container: &&ObservedContainer| {
            container.state == ContainerState::Running
                && self.program_of(container) == Program::Good
                && !self.is_cut_off(container)
        };
        self.observed.containers.iter().filter(is_good).collect()
    }

    /// Whether exactly one container exists, under its name, with image `number`, and the world is at rest.
    pub(in crate::plan::tests) fn is_ready_with(&self, number: u8) -> bool {
        let plan = self.plan();
        let [only] = self.observed.containers.as_slice() else { return false };
        let in_use = usize::from(only.joined.is_some());
        let is_start_first = crate::plan::is_start_first(&self.intent, &self.observed);
        let spares = usize::from(self.intent.spare && is_start_first && only.joined.is_some());
        let has_its_holder = self.observed.holders.len() == in_use + spares && self.spares() == spares;
        has_its_holder
            && plan.steps.is_empty()
            && plan.verdict.condition == Condition::Ready
            && only.name == NAME
            && only.state == ContainerState::Running
            && only.image == Some(digest(number))
    }

    pub(in crate::plan::tests) fn only(&self) -> &ObservedContainer {
        let [only] = self.observed.containers.as_slice() else {
            panic!("not one container: {:#?}", self.observed.containers)
        };
        only
    }

    /// The kinds of all steps since the last call, in order.
    pub(in crate::plan::tests) fn take_done(&mut self) -> Vec<&'static str> {
        std::mem::take(&mut self.done).iter().map(kind).collect()
    }
}
