//! Following registries: one task a registry asks for the digests of tags, when a push was announced
//! and now and then anyway, and whether what was pushed there is still there.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use super::clock::now;
use super::follow::{FollowTrouble, until_next_poll};
use super::registries::Registries;
use super::supervise::supervised;
use super::wake::Wake;
use crate::model::desired::Image;
use crate::model::error::chain;
use crate::model::event::EventKind;
use crate::model::name::EnvironmentName;
use crate::model::reference::{ImageRepository, RegistryHost, TaggedImage};
use crate::model::spec::{Manifest, Supply};
use crate::record::{DesiredReader, Resolver, StatusWriter};
use crate::registry::RegistryError;

/// However fast pushes are announced, a registry is asked at most this often.
const AT_LEAST_BETWEEN: Duration = Duration::from_millis(200);

/// What followers of all registries work with.
#[derive(Clone)]
pub(super) struct Tools {
    pub(super) registries: Arc<Registries>,
    pub(super) desired: DesiredReader,
    pub(super) wake: Wake,
    pub(super) trouble: FollowTrouble,
    pub(super) resolver: Resolver,
    pub(super) writer: StatusWriter,
}

/// The followers that run.
#[derive(Default)]
pub(super) struct RegistryFollowers {
    running: HashMap<RegistryHost, (Followed, DropGuard)>,
    /// What rings each.
    announced: HashMap<RegistryHost, Arc<Notify>>,
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
                let announced = Arc::clone(self.announced.entry(host.clone()).or_default());
                let follower = Follower { host, followed: followed.clone(), announced, tools: tools.clone() };
                let begin = move || follower.clone().run();
                tasks.spawn(supervised("follower of a registry", stop.clone(), begin));
                (followed, stop.drop_guard())
            });
        }
    }
}

impl RegistryFollowers {
    /// Rings the follower of an environment's tag, where it follows one.
    pub(super) fn announce(&self, manifest: &Manifest, environment: &EnvironmentName) {
        let spec = manifest.environments.get(environment);
        if let Some(Supply::Tag { image }) = spec.map(|spec| &spec.supply)
            && let Some(announced) = self.announced.get(image.repository.host())
        {
            announced.notify_one();
        }
    }

    /// Rings all: bells were missed.
    pub(super) fn announce_all(&self) {
        self.announced.values().for_each(|announced| announced.notify_one());
    }
}

/// What is followed at one registry. Another one is another follower.
#[derive(Clone, Debug, Default, PartialEq)]
struct Followed {
    poll: Duration,
    /// Who pushes there, and where to.
    pushers: Vec<(EnvironmentName, ImageRepository)>,
    /// Who follows which tag there.
    followers: Vec<(EnvironmentName, TaggedImage)>,
}

fn followed(manifest: &Manifest) -> HashMap<RegistryHost, Followed> {
    let mut all: HashMap<RegistryHost, Followed> = HashMap::new();
    for (environment, spec) in &manifest.environments {
        if let Some(repository) = &spec.push {
            let of = all.entry(repository.host().clone()).or_default();
            of.pushers.push((environment.clone(), repository.clone()));
        }
        if let Supply::Tag { image } = &spec.supply {
            let of = all.entry(image.repository.host().clone()).or_default();
            of.followers.push((environment.clone(), image.clone()));
        }
    }
    for (host, followed) in &mut all {
        followed.poll = manifest.registries.get(host).cloned().unwrap_or_default().poll;
    }
    all
}

#[derive(Clone)]
struct Follower {
    host: RegistryHost,
    followed: Followed,
    /// Rung when a push was announced.
    announced: Arc<Notify>,
    tools: Tools,
}

impl Follower {
    /// Follows until dropped.
    async fn run(self) {
        let mut failures = 0;
        loop {
            failures = match self.ask().await {
                Ok(()) => self.over_trouble(),
                Err(why) => self.in_trouble(&why, failures + 1).await,
            };
            tokio::time::sleep(AT_LEAST_BETWEEN).await;
            tokio::select! {
                () = self.announced.notified() => {}
                () = until_next_poll(self.followed.poll, failures, self.host.as_str()) => {}
            }
        }
    }

    async fn ask(&self) -> Result<(), String> {
        for (environment, repository) in &self.followed.pushers {
            self.look_for_pushed(environment, repository).await?;
        }
        let mut missing = Vec::new();
        for (environment, image) in &self.followed.followers {
            if !self.ask_for_tag(environment, image).await? {
                missing.push(image.to_string());
            }
        }
        match missing.as_slice() {
            [] => Ok(()),
            missing => Err(format!("it has no {}; what follows it keeps what it has", missing.join(", "))),
        }
    }

    /// Takes the digest of a tag into the record; `false` where there is no such tag.
    async fn ask_for_tag(&self, environment: &EnvironmentName, image: &TaggedImage) -> Result<bool, String> {
        let digest = match self.tools.registries.digest(image).await {
            Ok(digest) => digest,
            Err(RegistryError::NotFound { .. }) => return Ok(false),
            Err(error) => return Err(error.to_string()),
        };
        let named = Image { reference: Some(image.repository.to_string()), digest: Some(digest), id: None };
        let moved = self.tools.resolver.advance_tag(environment, named, format!("tag {image}"), now()).await;
        if let Some(generation) = moved.map_err(|error| chain(&error))? {
            info!(%environment, %generation, tag = %image, "the tag moved");
        }
        Ok(true)
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

    async fn in_trouble(&self, why: &str, failures: u32) -> u32 {
        warn!(registry = %self.host, why, failures, "what is followed at the registry is not known");
        let sentence = format!("{}: {why}", self.name());
        let known = {
            let mut trouble = self.tools.trouble.lock().unwrap_or_else(PoisonError::into_inner);
            trouble.insert(self.name(), sentence.clone())
        };
        if known.as_ref() != Some(&sentence) {
            for (environment, _) in &self.followed.followers {
                // An event that cannot be kept is in the log line above.
                let _ = self.tools.writer.event(environment, EventKind::Failure, &sentence, now()).await;
            }
        }
        failures
    }

    fn name(&self) -> String {
        format!("registry {}", self.host)
    }
}
