//! Notifications about a plan before it is carried out, and previews.

use super::reconciler::{PassError, Planned, Reconciler};
use super::report::status;
use super::stopwatch::is_well;
use crate::controller::clock::now;
use crate::controller::guard::GuardGroup;
use crate::model::desired::Entry;
use crate::model::name::EnvironmentName;
use crate::model::spec::RestartMode;
use crate::model::status::Status;
use crate::model::view::PlanView;
use crate::plan::{self, PlannedStep};

impl Reconciler {
    /// Sends the guard the container that is meant to run: the serving one, or without one, the next to
    /// serve.
    pub(in crate::controller) fn update_guard(&self, planned: &Planned) {
        let serving = planned.plan.serving.as_ref();
        let mut containers = planned.observed.containers.iter();
        let serving = serving.and_then(|id| containers.find(|seen| seen.id == *id));
        let is_beside = plan::is_start_first(&planned.intent, &planned.observed);
        let may_end = planned.intent.restart == RestartMode::OnFailure;
        let group = serving.and_then(|seen| GuardGroup::of(seen, is_beside, may_end));
        self.guard.set(&planned.intent.environment, group);
    }

    /// Sends the proxy the address of a sandbox whose container is to serve next. If the sandbox cannot be
    /// inspected now, the proxy gets the address once there is a container to switch to.
    pub(in crate::controller) async fn announce(&self, planned: &Planned, holder: &str) {
        let environment = &planned.intent.environment;
        let _ = self.cache.look(&self.engine, holder).await;
        let holders = self.cache.holders(environment);
        let seen = holders.iter().find(|seen| seen.id == holder);
        if let Some(address) = seen.and_then(|seen| planned.address_of(seen)) {
            self.front.announce(environment, address);
        }
    }

    /// Returns the plan as it would be now.
    pub(in crate::controller) async fn preview(
        &self,
        environment: &EnvironmentName,
    ) -> Result<Option<PlanView>, PassError> {
        let planned = self.plan(environment).await?;
        Ok(planned.map(|planned| {
            let held_back = plan::held_back(&planned.intent, &planned.observed, &planned.plan.memory);
            let held_back = held_back.into_iter().map(|what| format!("held; {what}"));
            let (upkeep, steps) = planned
                .plan
                .steps
                .iter()
                .partition::<Vec<_>, _>(|step| plan::is_upkeep(&planned.plan, &step.step));
            let sentences =
                |steps: Vec<&PlannedStep>| steps.into_iter().map(plan::explain::sentence).collect();
            PlanView {
                environment: environment.clone(),
                steps: sentences(steps),
                upkeep: sentences(upkeep),
                differences: planned.plan.differences.into_iter().chain(held_back).collect(),
                message: planned.plan.verdict.message,
                differs: false,
            }
        }))
    }

    /// Withdraws Ready and similar statuses while steps are taken: a container that they stop or start
    /// serves again only once that is observed. The plan's state is stored after the steps, so the stored
    /// state stays the earlier one, with the news that are stored before the steps.
    pub(in crate::controller) async fn no_longer_ready(
        &self,
        planned: &Planned,
        before: Option<&Status>,
    ) -> Result<(), PassError> {
        let was_well = before.is_some_and(|before| is_well(before.condition));
        if planned.plan.steps.is_empty() || !was_well || is_well(planned.plan.verdict.condition) {
            return Ok(());
        }
        let memory = planned.kept_memory();
        let status = status(planned, before, now(), memory);
        self.stopwatch.status_changed(planned.lost_at(), before, &status);
        Ok(self.writer.report(&status, memory).await?)
    }

    /// Notes that an environment has been reconciled and that the result is recorded. The first time since the
    /// process started, or after one that was not recorded, even an unchanged status counts as news, although the
    /// store sends no wakeup for it.
    pub(in crate::controller) fn observed(&self, environment: &EnvironmentName) {
        if self.poll_state.observed(environment) {
            self.writer.notify(environment);
        }
    }
}

/// Describes the origin of a generation in a sentence.
pub(in crate::controller) fn record_words(entry: &Entry) -> String {
    let what = match (&entry.revision, &entry.image) {
        (Some(revision), _) => format!("commit {}", revision.short()),
        (None, Some(image)) => {
            format!("image {}", image.shown_digest().map_or("unknown", |digest| digest.short()))
        }
        (None, None) => "nothing".to_owned(),
    };
    let origin = entry.origin.map_or("", |origin| origin.as_str());
    let by = entry.by.as_ref().map(|by| format!(" by {by}")).unwrap_or_default();
    let note = entry.note.as_ref().map(|note| format!(", {note}")).unwrap_or_default();
    format!("generation {}: {what} ({origin}{by}{note})", entry.generation)
}
