//! The tags in one registry, and whether pushed images still exist there.

use std::collections::{BTreeSet, HashMap};
use std::sync::PoisonError;
use std::time::Duration;

use tracing::{info, warn};

use super::Tools;
use super::poll_state::PollFailure;
use super::results::unrecorded;
use crate::controller::clock::now;
use crate::model::desired::{AskedTag, Image};
use crate::model::error::chain;
use crate::model::name::EnvironmentName;
use crate::model::poll::QueryPeriod;
use crate::model::pull::PullPolicy;
use crate::model::reference::{ImageRepository, RegistryHost, TaggedImage};
use crate::model::spec::{Manifest, Supply};
use crate::model::status::Reason;
use crate::model::time::Timestamp;
use crate::registry::RegistryError;

/// The tracked tags and pushed images of one registry.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Tags {
    pub(super) host: RegistryHost,
    pub(super) interval: Duration,
    /// The environments that push there, each with its repository.
    pub(super) pushers: Vec<(EnvironmentName, ImageRepository)>,
    /// The environments that track a tag there, each with its policy.
    pub(super) tracking: Vec<(EnvironmentName, TaggedImage, PullPolicy)>,
}

/// The tracked tags of every registry.
pub(super) fn all(manifest: &Manifest) -> HashMap<RegistryHost, Tags> {
    let mut all: HashMap<RegistryHost, Tags> = HashMap::new();
    let empty = |host: &RegistryHost| Tags {
        host: host.clone(),
        interval: manifest.registries.get(host).cloned().unwrap_or_default().poll,
        pushers: Vec::new(),
        tracking: Vec::new(),
    };
    for (environment, spec) in &manifest.environments {
        if let Some(repository) = &spec.push {
            let host = repository.host();
            let tags = all.entry(host.clone()).or_insert_with(|| empty(host));
            tags.pushers.push((environment.clone(), repository.clone()));
        }
        if let Supply::Tag { image } = &spec.supply {
            let host = image.repository.host();
            let tags = all.entry(host.clone()).or_insert_with(|| empty(host));
            tags.tracking.push((environment.clone(), image.clone(), spec.pull_policy));
        }
    }
    all
}

impl Tags {
    /// Asks for the digest of each tag that is due and records it. Returns whether all of them are known now.
    pub(super) async fn ask(&self, tools: &Tools, pause: Duration) -> bool {
        let mut all_known = true;
        for (environment, image, policy) in &self.tracking {
            let from = now();
            let found = match is_due(environment, image, *policy, from, tools) {
                true => record(environment, image, *policy, from, tools).await,
                false => Ok(()),
            };
            let asked = QueryPeriod { from, to: now() };
            all_known &= tools.findings.note(environment, asked, found, pause).await;
        }
        all_known
    }

    /// Checks whether the recorded images still exist in their registries, and reports errors that keep this
    /// unknown. Returns whether the answer is known for all images.
    pub(super) async fn look_for_pushed(&self, tools: &Tools) -> bool {
        let mut errors = BTreeSet::new();
        for (environment, repository) in &self.pushers {
            errors.extend(is_present(environment, repository, tools).await.err());
        }
        let (is_known, name) = (errors.is_empty(), format!("registry {}", self.host));
        let why = errors.into_iter().collect::<Vec<_>>().join("; ");
        let mut all = tools.errors.lock().unwrap_or_else(PoisonError::into_inner);
        if is_known {
            if all.remove(&name).is_some() {
                info!(registry = %self.host, "registry is reachable again");
            }
        } else {
            let sentence = format!("{name}: {why}");
            if all.insert(name, sentence.clone()).as_ref() != Some(&sentence) {
                warn!(registry = %self.host, why, "cannot check the pushed images in the registry");
            }
        }
        is_known
    }
}

/// Whether the registry is to be asked about a tag now: by the policy, by a user, or because of an announced push.
fn is_due(
    environment: &EnvironmentName,
    image: &TaggedImage,
    policy: PullPolicy,
    now: Timestamp,
    tools: &Tools,
) -> bool {
    let Ok(desired) = tools.desired.get(environment) else { return true };
    let answered = desired.asked_tag.filter(|asked| asked.image == image.to_string());
    let is_old = match policy {
        PullPolicy::Every(interval) => answered.is_none_or(|asked| now >= asked.at.after(interval)),
        PullPolicy::Missing => answered.is_none(),
        PullPolicy::Always | PullPolicy::Never | PullPolicy::Build => true,
    };
    is_old || desired.asked.is_some() || desired.tag_hint.is_some()
}

/// Applies the digest of a tag to the record.
async fn record(
    environment: &EnvironmentName,
    image: &TaggedImage,
    policy: PullPolicy,
    from: Timestamp,
    tools: &Tools,
) -> Result<(), PollFailure> {
    let digest = tools.registries.digest(image).await.map_err(|error| unknown(&error))?;
    let named = Image { reference: Some(image.repository.to_string()), digest: Some(digest), id: None };
    let (note, asked) = (format!("tag {image}"), QueryPeriod { from, to: now() });
    let moved = tools.findings.resolver.advance_tag(environment, named, note, asked).await;
    if let Some(generation) = moved.map_err(|error| unrecorded(&error))? {
        info!(%environment, %generation, tag = %image, "tag updated");
    }
    if policy != PullPolicy::Always {
        let asked = AskedTag { image: image.to_string(), at: from };
        let noted = tools.findings.resolver.note_tag(environment, asked).await;
        noted.map_err(|error| unrecorded(&error))?;
    }
    Ok(())
}

/// Checks whether the registry still has the recorded image that was pushed to it. Registries lose deployed images by
/// garbage collection or a lost disk, and nobody notices before the next pull.
async fn is_present(
    environment: &EnvironmentName,
    to: &ImageRepository,
    tools: &Tools,
) -> Result<(), String> {
    let desired = tools.desired.get(environment).map_err(|error| chain(&error))?;
    let Some(Image { reference: Some(reference), digest: Some(digest), .. }) = desired.entry.image else {
        return Ok(());
    };
    if reference != to.to_string() {
        return Ok(());
    }
    let was_lost = tools.registries.is_lost(&reference, &digest);
    let is_there = tools.registries.look_for(to, &digest).await.map_err(|error| error.to_string())?;
    if !is_there && !was_lost {
        warn!(%environment, %reference, %digest, "the recorded image is missing in the registry");
        tools.wake.wake(environment);
    }
    Ok(())
}

/// The reason why a registry returned no digest for a tag.
fn unknown(error: &RegistryError) -> PollFailure {
    let (reason, is_answer) = match error {
        RegistryError::Unavailable { .. } => (Reason::RegistryUnavailable, false),
        RegistryError::Denied { .. } => (Reason::RegistryDenied, false),
        RegistryError::NotFound { .. } => (Reason::ImageNotFound, true),
    };
    PollFailure { reason, message: error.to_string(), is_answer }
}
