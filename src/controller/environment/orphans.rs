//! Environments that left the manifest and whose containers are still here. abide leaves these as they are, because a
//! removal after an edit would turn a typing error into an outage, and reports them.

use tracing::warn;

use super::reconciler::Reconciler;
use crate::controller::clock::now;
use crate::model::error::chain;
use crate::model::name::EnvironmentName;
use crate::model::observed::{ContainerState, ObservedContainer};
use crate::model::status::{Condition, Reason, RunningContainer, Status};

impl Reconciler {
    /// Reports every environment that the manifest does not declare and that has containers here.
    pub(in crate::controller) async fn report_orphans(&self) {
        for environment in self.cache.environments() {
            if self.manifest.borrow().environments.contains_key(&environment) {
                continue;
            }
            let before = self.status.status(&environment).ok().flatten();
            let status = orphaned(&environment, &self.cache.all_of(&environment), before);
            let memory = self.status.memory(&environment).unwrap_or_default();
            if let Err(error) = self.writer.report(&status, &memory).await {
                warn!(%environment, error = %chain(&error), "cannot report the container of a removed \
                    environment");
            }
        }
    }
}

/// The status of an environment that left the manifest, after the status `before`.
fn orphaned(
    environment: &EnvironmentName,
    containers: &[ObservedContainer],
    before: Option<Status>,
) -> Status {
    let runs = |running: &RunningContainer| {
        let is_it = |seen: &&ObservedContainer| seen.id == running.container_id;
        containers.iter().find(is_it).is_some_and(|seen| seen.state == ContainerState::Running)
    };
    let same = before.as_ref().filter(|before| before.reason == Reason::NotInManifest);
    Status {
        environment: environment.clone(),
        observed_generation: before.as_ref().map(|before| before.observed_generation).unwrap_or_default(),
        condition: Condition::Blocked,
        reason: Reason::NotInManifest,
        message: format!(
            "{environment} is no longer in the manifest. abide leaves its containers as they are: {}. `abide forget \
             {environment} --stop` removes them and the record, and keeps the volumes",
            listed(containers.iter().map(|seen| (seen.name.as_str(), &seen.state)))
        ),
        since: same.map_or_else(now, |same| same.since),
        running: before.as_ref().and_then(|before| before.running.clone()).filter(runs),
        next_retry: None,
        plan: Vec::new(),
        observed_sync: before.as_ref().and_then(|before| before.observed_sync),
        certificate_until: None,
        volumes: before.as_ref().map(|before| before.volumes.clone()).unwrap_or_default(),
        warnings: Vec::new(),
        observed_declaration: None,
        canary: before.as_ref().and_then(|before| before.canary.clone()),
        jobs: before.map(|before| before.jobs).unwrap_or_default(),
        nodes: Vec::new(),
    }
}

/// The names of containers, each with its state.
fn listed<'a>(containers: impl Iterator<Item = (&'a str, &'a ContainerState)>) -> String {
    let named = containers.map(|(name, state)| format!("{name} {}", state.clause()));
    named.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::container::Exit;

    #[test]
    fn the_state_of_each_container_is_named() {
        let ended = ContainerState::Exited(Exit { code: 0, out_of_memory: false, at: now() });
        let containers = [
            ("web", &ContainerState::Running),
            ("web.next", &ContainerState::Created),
            ("web.old-3", &ended),
        ];
        assert_eq!(
            listed(containers.into_iter()),
            "web keeps running, web.next was never started, web.old-3 does not run"
        );
    }
}
