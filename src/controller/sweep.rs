//! What nobody needs any more: images of earlier builds.
//!
//! Only images that carry the labels of this record are looked at, and of those only the ones that
//! no environment could want: each keeps its newest ones, so that going back stays quick.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tracing::{info, warn};

use super::builder::name_of;
use super::docker::{Engine, EngineError, FoundImage};
use super::jobs::Jobs;
use super::pull::keep_name;
use crate::model::build::{BuildKey, BuildResult};
use crate::model::container::label;
use crate::model::desired::{HistoryEntry, Image, Outcome};
use crate::model::error::chain;
use crate::model::name::{Digest, EnvironmentName};
use crate::model::reference::pushed_tag;
use crate::record::{DesiredReader, RecordError, StatusReader};

/// Images of each environment that are kept, beside what is recorded or runs.
const IMAGES_KEPT: usize = 5;
/// Names that abide gives to images begin so; an image with another name is someone's.
const OURS: &str = "abide/";
/// Environments often become ready together; one sweep is enough for all of them.
const SETTLE: Duration = Duration::from_secs(2);

/// Takes away what is no longer needed, each time an environment has become ready.
#[derive(Clone)]
pub(super) struct Sweeper {
    pub(super) engine: Arc<Engine>,
    pub(super) record: String,
    pub(super) desired: DesiredReader,
    pub(super) status: StatusReader,
    pub(super) jobs: Jobs,
    pub(super) deployed: Arc<Notify>,
}

/// Why a sweep was not carried through.
#[derive(Debug, thiserror::Error)]
enum SweepError {
    /// What is needed cannot be told.
    #[error("the record")]
    Record(#[from] RecordError),
    /// An image could not be listed or removed.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

impl Sweeper {
    /// Sweeps whenever an environment has become ready.
    pub(super) async fn run(self) {
        loop {
            self.deployed.notified().await;
            tokio::time::sleep(SETTLE).await;
            // Nothing depends on it, and the next deployment tries again.
            if let Err(error) = self.images().await {
                warn!(error = %chain(&error), "images of earlier builds could not be swept");
            }
        }
    }

    async fn images(&self) -> Result<(), SweepError> {
        let ours = |label: &str| format!("{label}={}", self.record);
        let built = self.engine.images_by("label", ours(label::BUILT_BY)).await?;
        let of_steps = self.engine.images_by("label", ours(label::STEP)).await?;
        // After the lists: what a build has made by now is in the record when it is no longer here.
        let running = self.jobs.builds();
        let mut needed = self.engine.images_in_use().await?;
        for environment in self.environments()? {
            needed.extend(self.needed_by(&environment)?);
        }
        let is_being_built =
            |image: &FoundImage| running.iter().any(|key| image.key.as_ref() == Some(&key.0));
        for image in built.iter().filter(|image| !is_being_built(image)) {
            self.remove_unless(&needed, image).await?;
        }
        // The newest image of a step has a name, and is the cache of the next build. While builds
        // run, one that has lost its name may still have to be run.
        let unnamed = of_steps.iter().filter(|image| image.names.is_empty() && running.is_empty());
        for image in unnamed {
            self.remove_unless(&needed, image).await?;
        }
        self.names(&needed, &running).await
    }

    async fn remove_unless(&self, needed: &BTreeSet<Digest>, image: &FoundImage) -> Result<(), SweepError> {
        if needed.contains(&image.id) || image.names.iter().any(|name| !is_ours(name, &image.id)) {
            return Ok(());
        }
        info!(image = image.id.short(), names = ?image.names, "removing an image that nobody needs any more");
        for name in &image.names {
            self.engine.remove_image(name).await?;
        }
        // The last name takes the image with it, where there was one.
        Ok(self.engine.remove_image(image.id.as_str()).await?)
    }

    /// Takes our names from images that carry none of our labels: those that scripts made, and those
    /// that were pulled. One that has no other name goes with it; a script's own names are its own.
    async fn names(&self, needed: &BTreeSet<Digest>, running: &HashSet<BuildKey>) -> Result<(), SweepError> {
        let mut given = BTreeMap::new();
        for environment in self.environments()? {
            for build in self.status.builds(&environment, usize::MAX)? {
                if let BuildResult::Built(Image { id: Some(id), .. }) = build.result
                    && !running.contains(&build.key)
                {
                    let pushed = build.pushed.keys().map(|to| format!("{to}:{}", pushed_tag(&id))).collect();
                    given.insert(name_of(&environment, &build.key), Given { id, along: pushed });
                }
            }
            for HistoryEntry { entry, .. } in self.status.history(&environment)? {
                given.extend(pulled(&environment, entry.image));
            }
        }
        given.retain(|_, given| !needed.contains(&given.id));
        for image in self.engine.images_by("reference", format!("{OURS}*")).await? {
            for name in &image.names {
                let Some(given) = given.get(name).filter(|given| given.id == image.id) else { continue };
                info!(image = image.id.short(), %name, "taking the name from an image of an earlier deployment");
                for name in given.along.iter().chain([name]) {
                    self.engine.remove_image(name).await?;
                }
            }
        }
        Ok(())
    }

    fn environments(&self) -> Result<BTreeSet<EnvironmentName>, SweepError> {
        let all = self.desired.all()?;
        Ok(all.into_iter().map(|desired| desired.environment).collect())
    }

    /// What an environment runs, is to run, or may go back to.
    fn needed_by(&self, environment: &EnvironmentName) -> Result<BTreeSet<Digest>, SweepError> {
        let desired = self.desired.get(environment)?;
        let kept = desired.hold.and_then(|hold| hold.generation);
        let kept = kept.map(|kept| self.desired.entry(environment, kept)).transpose()?.flatten();
        let memory = self.status.memory(environment)?;
        let good = memory.good.into_iter().chain(memory.before).map(|good| good.image);
        let history = self.status.history(environment)?;
        let ready = history.iter().filter(|earlier| earlier.outcome == Some(Outcome::Ready));
        let builds = self.status.builds(environment, usize::MAX)?;
        let built = builds.iter().filter_map(|build| match &build.result {
            BuildResult::Built(image) => Some(image),
            BuildResult::Failed(_) => None,
        });
        let now = [desired.entry.image, kept.and_then(|kept| kept.image)].into_iter().flatten();
        let mut needed: BTreeSet<Digest> = now.chain(good).filter_map(|image| image.id).collect();
        needed.extend(newest(history.iter().filter_map(|earlier| earlier.entry.image.as_ref())));
        needed.extend(newest(ready.filter_map(|earlier| earlier.entry.image.as_ref())));
        needed.extend(newest(built));
        Ok(needed)
    }
}

/// An image that got a name of ours, and its names in registries, which go along with that.
struct Given {
    id: Digest,
    along: Vec<String>,
}

/// The name that keeps a pulled image here.
fn pulled(environment: &EnvironmentName, image: Option<Image>) -> Option<(String, Given)> {
    let Image { reference, digest, id } = image?;
    let (digest, id) = (digest?, id?);
    let (name, tag) = keep_name(environment, &digest);
    let along = reference.map(|reference| format!("{reference}@{digest}")).into_iter().collect();
    Some((format!("{name}:{tag}"), Given { id, along }))
}

/// Whether abide gave the name: one of its own, or the one under which it pushed the image.
fn is_ours(name: &str, id: &Digest) -> bool {
    name.starts_with(OURS) || name.rsplit_once(':').is_some_and(|(_, tag)| tag == pushed_tag(id))
}

/// The IDs of the first few different images; they come newest first.
fn newest<'a>(images: impl Iterator<Item = &'a Image>) -> Vec<Digest> {
    let mut ids = Vec::new();
    for id in images.filter_map(|image| image.id.clone()) {
        if !ids.contains(&id) {
            ids.push(id);
        }
        if ids.len() == IMAGES_KEPT {
            break;
        }
    }
    ids
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(digit: u32) -> Image {
        let id = Digest::new(format!("sha256:{digit:064}")).ok();
        Image { reference: None, digest: None, id }
    }

    #[test]
    fn the_newest_images_are_counted_without_those_that_came_twice() {
        let history = [7, 7, 6, 7, 5, 4, 3, 2, 1].map(image);
        let ids = newest(history.iter());
        let expected: Vec<Digest> = [7, 6, 5, 4, 3].into_iter().filter_map(|n| image(n).id).collect();
        assert_eq!(ids, expected);
    }
}
