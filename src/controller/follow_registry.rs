//! Following registries: one task a registry asks whether what was pushed there is still there.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use super::follow::FollowTrouble;
use super::registries::Registries;
use super::wake::Wake;
use crate::model::desired::Image;
use crate::model::error::chain;
use crate::model::name::EnvironmentName;
use crate::model::reference::{ImageRepository, RegistryHost};
use crate::model::spec::Manifest;
use crate::plan::backoff;
use crate::record::DesiredReader;

/// What followers of all registries work with.
#[derive(Clone)]
pub(super) struct Tools {
    pub(super) registries: Arc<Registries>,
    pub(super) desired: DesiredReader,
    pub(super) wake: Wake,
    pub(super) trouble: FollowTrouble,
}

/// The followers that run.
#[derive(Default)]
pub(super) struct RegistryFollowers {
    running: HashMap<RegistryHost, (Followed, DropGuard)>,
}

impl RegistryFollowers {
    /// Starts those that the manifest asks for and ends the others.
    pub(super) fn staff(
        &mut self,
        manifest: &Manifest,
        tools: &Tools,
        tasks: &TaskTracker,
        stop: &CancellationToken,
    ) {
        let wanted = followed(manifest);
        self.running.retain(|host, (followed, _)| wanted.get(host) == Some(followed));
        for (host, followed) in wanted {
            self.running.entry(host.clone()).or_insert_with(|| {
                let stop = stop.child_token();
                let follower = Follower { host, followed: followed.clone(), tools: tools.clone() };
                let stopped = stop.clone();
                tasks.spawn(async move { stopped.run_until_cancelled(follower.run()).await });
                (followed, stop.drop_guard())
            });
        }
    }
}

/// What is followed at one registry. Another one is another follower.
#[derive(Clone, Debug, Default, PartialEq)]
struct Followed {
    poll: Duration,
    /// Who pushes there, and where to.
    pushers: Vec<(EnvironmentName, ImageRepository)>,
}

fn followed(manifest: &Manifest) -> HashMap<RegistryHost, Followed> {
    let mut all: HashMap<RegistryHost, Followed> = HashMap::new();
    for (environment, spec) in &manifest.environments {
        if let Some(repository) = &spec.push {
            let of = all.entry(repository.host().clone()).or_default();
            of.pushers.push((environment.clone(), repository.clone()));
        }
    }
    for (host, followed) in &mut all {
        followed.poll = manifest.registries.get(host).cloned().unwrap_or_default().poll;
    }
    all
}

struct Follower {
    host: RegistryHost,
    followed: Followed,
    tools: Tools,
}

impl Follower {
    /// Follows until dropped.
    async fn run(self) {
        let mut failures = 0;
        loop {
            failures = match self.ask().await {
                Ok(()) => self.over_trouble(),
                Err(why) => self.in_trouble(&why, failures + 1),
            };
            match self.pause(failures) {
                Some(pause) => tokio::time::sleep(pause).await,
                None => std::future::pending().await,
            }
        }
    }

    /// Until the next poll; sooner where the last one failed. `None`: for ever.
    fn pause(&self, failures: u32) -> Option<Duration> {
        let poll = self.followed.poll;
        let retry = (failures > 0).then(|| backoff(failures + 1, self.host.as_str()));
        match retry {
            Some(retry) if !poll.is_zero() => Some(retry.min(poll)),
            Some(retry) => Some(retry),
            None => (!poll.is_zero()).then_some(poll),
        }
    }

    async fn ask(&self) -> Result<(), String> {
        for (environment, repository) in &self.followed.pushers {
            self.look_for_pushed(environment, repository).await?;
        }
        Ok(())
    }

    /// Whether the recorded image is still where it was pushed. Registries lose what was deployed
    /// by a garbage collection or a lost disk, and nobody notices before the next pull.
    async fn look_for_pushed(
        &self,
        environment: &EnvironmentName,
        to: &ImageRepository,
    ) -> Result<(), String> {
        let desired = self.tools.desired.get(environment).map_err(|error| chain(&error))?;
        let Some(Image { reference: Some(reference), digest: Some(digest), .. }) = desired.entry.image else {
            return Ok(());
        };
        let registries = &self.tools.registries;
        if reference != to.to_string() {
            return Ok(());
        }
        let was_lost = registries.is_lost(&reference, &digest);
        let is_there = registries.look_for(to, &digest).await.map_err(|error| error.to_string())?;
        if !is_there && !was_lost {
            warn!(%environment, %reference, %digest, "the registry does not have the recorded image any more");
            self.tools.wake.ring(environment);
        }
        Ok(())
    }

    fn over_trouble(&self) -> u32 {
        let mut trouble = self.tools.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        if trouble.remove(&self.name()).is_some() {
            info!(registry = %self.host, "the registry answers again");
        }
        0
    }

    fn in_trouble(&self, why: &str, failures: u32) -> u32 {
        warn!(registry = %self.host, why, failures, "the registry cannot be asked");
        let mut trouble = self.tools.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        trouble.insert(self.name(), why.to_owned());
        failures
    }

    fn name(&self) -> String {
        format!("registry {}", self.host)
    }
}
