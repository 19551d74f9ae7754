//! Pruning images of earlier builds.
//!
//! Only images with the labels of this record are considered, and of those only the ones that no environment
//! could need: each keeps its newest ones, so that a rollback stays quick.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tracing::{info, warn};

use super::docker::{Engine, EngineError, FoundImage, Urgency};
use super::jobs::Jobs;
use crate::controller::jobs::builder::{ASIDE, name_of, tag_prefix};
use crate::controller::jobs::pull::keep_name;
use crate::model::build::{BuildRecord, BuildResult};
use crate::model::container::label;
use crate::model::desired::{HistoryEntry, Image, Outcome};
use crate::model::error::chain;
use crate::model::name::{Digest, EnvironmentName, NetworkName};
use crate::model::reference::pushed_tag;
use crate::model::spec::Manifest;
use crate::record::{DesiredReader, RecordError, StatusReader};

/// The number of images that each environment keeps, besides the recorded and running ones.
const IMAGES_KEPT: usize = 5;
/// The prefix of the image names that abide gives; an image with another name belongs to someone else.
const OURS: &str = "abide/";
/// Environments often become ready together; one pruning is enough for all of them.
const SETTLE: Duration = Duration::from_secs(2);
/// The longest interval between prunings, even without deployments.
const AT_THE_LATEST: Duration = Duration::from_secs(30 * 60);

/// Prunes each time an environment has become ready.
#[derive(Clone)]
pub(super) struct ImagePruner {
    pub(super) engine: Arc<Engine>,
    pub(super) record: String,
    pub(super) desired: DesiredReader,
    pub(super) status: StatusReader,
    pub(super) jobs: Jobs,
    pub(super) deployed: Arc<Notify>,
    pub(super) manifest: watch::Receiver<Arc<Manifest>>,
}

/// The reason why pruning failed.
#[derive(Debug, thiserror::Error)]
enum PruneError {
    /// The needed images are unknown.
    #[error("the record")]
    Record(#[from] RecordError),
    /// An image could not be listed or removed.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

impl ImagePruner {
    /// Prunes whenever an environment has become ready.
    pub(super) async fn run(self) {
        let mut pruned_after = None;
        loop {
            // Failed builds fill the cache, too, and deploy nothing.
            let _ = tokio::time::timeout(AT_THE_LATEST, self.deployed.notified()).await;
            tokio::time::sleep(SETTLE).await;
            if let Err(error) = self.build_cache(&mut pruned_after).await {
                warn!(error = %chain(&error), "failed to prune the build cache");
            }
            // Nothing depends on it, and it is tried again after the next deployment.
            if let Err(error) = Urgency::Upkeep.scope(self.images()).await {
                warn!(error = %chain(&error), "failed to prune images of earlier builds");
            }
            if let Err(error) = Urgency::Upkeep.scope(self.networks()).await {
                warn!(error = %chain(&error), "failed to remove networks of earlier groups");
            }
        }
    }

    /// Keeps the engine's build cache within its budget, if anything was built here since the last time.
    async fn build_cache(&self, pruned_after: &mut Option<u64>) -> Result<(), PruneError> {
        let budget = self.manifest.borrow().build_cache;
        let counts = self.status.build_counts()?;
        let builds = counts.built + counts.failed;
        let (Some(budget), false) = (budget, builds == 0 || *pruned_after == Some(builds)) else {
            return Ok(());
        };
        let freed = self.engine.prune_build_cache(budget).await?;
        *pruned_after = Some(builds);
        if freed > 0 {
            info!(freed, budget, "pruned the least recently used part of the build cache");
        }
        Ok(())
    }

    /// Removes the networks of groups that the manifest no longer declares, once no service or container uses
    /// them, running or not.
    async fn networks(&self) -> Result<(), PruneError> {
        let manifest = Arc::clone(&self.manifest.borrow());
        let declared = manifest.networks();
        let also = manifest.environments.values().flat_map(|spec| spec.run.networks.keys());
        let needed: BTreeSet<&NetworkName> = declared.iter().chain(also).collect();
        let of_groups = format!("{}-", manifest.network);
        for network in self.engine.networks_of_record(&self.record).await? {
            if network.as_str().starts_with(&of_groups)
                && !needed.contains(&network)
                && self.engine.remove_unused_network(&network).await?
            {
                info!(%network, "removed the network of a group that is no longer declared");
            }
        }
        Ok(())
    }

    async fn images(&self) -> Result<(), PruneError> {
        let ours = |label: &str| format!("{label}={}", self.record);
        // Those of earlier versions, which labeled the images of builds.
        let labelled = self.engine.images_by("label", ours(label::BUILT_BY)).await?;
        let of_steps = self.engine.images_by("label", ours(label::STEP)).await?;
        let named = self.engine.images_by("reference", format!("{OURS}*")).await?;
        // After the lists: the image of a finished build is already in the record when the build is no
        // longer listed here.
        let is_building = !self.jobs.builds().is_empty();
        let mut needed = self.engine.images_in_use().await?;
        for environment in self.environments()? {
            needed.extend(self.needed_by(&environment)?);
        }
        for image in &labelled {
            self.remove_unless(&needed, image).await?;
        }
        // The newest image of a step has a name, and is the cache of the next build. While builds run, an
        // image that lost its name may still have to be run.
        for image in of_steps.iter().filter(|image| image.names.is_empty() && !is_building) {
            self.remove_unless(&needed, image).await?;
        }
        let given = self.given()?;
        for image in named.iter().filter(|image| !needed.contains(&image.id)) {
            self.take_names(image, &given, is_building).await?;
        }
        Ok(())
    }

    async fn remove_unless(&self, needed: &BTreeSet<Digest>, image: &FoundImage) -> Result<(), PruneError> {
        if needed.contains(&image.id) || image.names.iter().any(|name| !is_ours(name, &image.id)) {
            return Ok(());
        }
        info!(image = image.id.short(), names = ?image.names, "removing an unused image");
        for name in &image.names {
            self.engine.remove_image(name).await?;
        }
        // Removing the last name removes the image, if it had a name.
        Ok(self.engine.remove_image(image.id.as_str()).await?)
    }

    /// Removes the names that this record gave to an image that it no longer needs. An image without other
    /// names is removed with them. Names from a script or another record stay.
    async fn take_names(
        &self,
        image: &FoundImage,
        given: &BTreeMap<String, NamedImage>,
        is_building: bool,
    ) -> Result<(), PruneError> {
        let prefix = tag_prefix(&self.record);
        for name in &image.names {
            let known = given.get(name).filter(|given| given.id == image.id);
            // While builds run, a name that is not recorded yet may belong to one of them.
            let tag = name.rsplit_once(':').and_then(|(_, tag)| tag.strip_prefix(&prefix));
            // An image that was set aside does not belong to a build, and will get its own name back.
            let is_of_a_build = tag.is_some_and(|tag| !tag.starts_with(ASIDE));
            if known.is_none() && (is_building || !is_of_a_build) {
                continue;
            }
            info!(image = image.id.short(), %name, "removing an unused image");
            for name in known.iter().flat_map(|given| &given.along).chain([name]) {
                self.engine.remove_image(name).await?;
            }
        }
        Ok(())
    }

    /// The names that this record gave to images.
    fn given(&self) -> Result<BTreeMap<String, NamedImage>, PruneError> {
        let mut given = BTreeMap::new();
        for environment in self.environments()? {
            for build in self.status.builds(&environment, usize::MAX)? {
                given.extend(built(&self.record, &build));
            }
            for HistoryEntry { entry, .. } in self.status.history(&environment)? {
                given.extend(pulled(&environment, entry.image));
            }
        }
        Ok(given)
    }

    fn environments(&self) -> Result<BTreeSet<EnvironmentName>, PruneError> {
        let all = self.desired.all()?;
        Ok(all.into_iter().map(|desired| desired.environment).collect())
    }

    /// The images that an environment runs, is to run, or may roll back to.
    fn needed_by(&self, environment: &EnvironmentName) -> Result<BTreeSet<Digest>, PruneError> {
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

/// An image that abide named, and its names in registries, which are removed with that name.
struct NamedImage {
    id: Digest,
    along: Vec<String>,
}

/// The name that keeps the image of a build here.
fn built(record: &str, build: &BuildRecord) -> Option<(String, NamedImage)> {
    let BuildResult::Built(Image { id: Some(id), .. }) = &build.result else { return None };
    let along = build.pushed.keys().map(|to| format!("{to}:{}", pushed_tag(id))).collect();
    let name = match &build.content {
        Some(content) => name_of(record, &build.environment, content),
        // The name from an earlier version.
        None => format!("{OURS}{}:{}", build.environment, build.key.short()),
    };
    Some((name, NamedImage { id: id.clone(), along }))
}

/// The name that keeps a pulled image here.
fn pulled(environment: &EnvironmentName, image: Option<Image>) -> Option<(String, NamedImage)> {
    let Image { reference, digest, id } = image?;
    let (digest, id) = (digest?, id?);
    let (name, tag) = keep_name(environment, &digest);
    let along = reference.map(|reference| format!("{reference}@{digest}")).into_iter().collect();
    Some((format!("{name}:{tag}"), NamedImage { id, along }))
}

/// Whether abide gave the name: a local one, or the one under which it pushed the image.
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
    fn repeated_images_count_once_among_the_newest() {
        let history = [7, 7, 6, 7, 5, 4, 3, 2, 1].map(image);
        let ids = newest(history.iter());
        let expected: Vec<Digest> = [7, 6, 5, 4, 3].into_iter().filter_map(|n| image(n).id).collect();
        assert_eq!(ids, expected);
    }
}
