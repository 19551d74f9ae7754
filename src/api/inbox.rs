//! The webhook inbox on the record: looks up hooks and polling environments, and records pushes.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::sync::{Notify, watch};

use super::ManifestState;
use super::webhook::registry::TagInbox;
use super::webhook::{Inbox, StoreError, WebhookConfig};
use crate::model::container::Secret;
use crate::model::desired::TagHint;
use crate::model::name::{BranchName, EnvironmentName, RepositoryName};
use crate::model::reference::{RegistryHost, TaggedImage};
use crate::model::spec::{FollowedManifest, Supply};
use crate::record::{DesiredWriter, Push, PushOutcome};
use crate::secret;

/// The current manifest, and the handle that updates the record.
#[derive(Clone)]
pub struct RecordInbox {
    /// The manifest as it is edited.
    pub manifest: watch::Receiver<Arc<ManifestState>>,
    /// Records pushes.
    pub writer: DesiredWriter,
    /// Makes abide fetch the manifest from its branch.
    pub manifest_pushed: Arc<Notify>,
    /// Requests the checks of an environment's commits from the forge.
    pub ask_checks: Arc<dyn Fn(&EnvironmentName) + Send + Sync>,
}

impl TagInbox for RecordInbox {
    fn token(&self, host: &RegistryHost) -> Option<Secret> {
        let state = self.manifest.borrow();
        let named = state.manifest.registries.get(host)?.webhook.as_ref()?;
        Some(secret::read(named).unwrap_or_else(|error| {
            tracing::error!(registry = %host, %error, "cannot read the token for registry notifications");
            Secret::default()
        }))
    }

    fn followers(&self, image: &TaggedImage) -> Vec<EnvironmentName> {
        let state = self.manifest.borrow();
        let environments = state.manifest.environments.iter();
        let following = environments.filter(|(_, spec)| {
            matches!(&spec.supply, Supply::Tag { image: followed } if followed == image)
                && spec.pull_policy.follows_announcements()
        });
        following.map(|(name, _)| name.clone()).collect()
    }

    async fn announce(
        &self,
        environments: Vec<EnvironmentName>,
        hint: TagHint,
    ) -> Result<Vec<EnvironmentName>, StoreError> {
        self.writer.announce_tag(environments, hint).await.map_err(|error| StoreError(Box::new(error)))
    }
}

impl Inbox for RecordInbox {
    fn hook(&self, repository: &str) -> Option<WebhookConfig> {
        let name = RepositoryName::new(repository).ok()?;
        let state = self.manifest.borrow();
        let of_manifest = state.manifest.followed.as_ref().filter(|_| repository == FollowedManifest::HOOK);
        let of_manifest = of_manifest.and_then(|followed| followed.repository.webhook.as_ref());
        let of_repository = || state.manifest.repositories.get(&name)?.webhook.as_ref();
        let webhook = of_manifest.or_else(of_repository)?;
        // The secret is read again each time, so that a rotated secret needs no restart. If it
        // cannot be read, the secret is empty, and no delivery is authentic.
        let secret = secret::read(&webhook.secret).unwrap_or_else(|error| {
            tracing::error!(repository = %name, %error, "cannot read the webhook's secret");
            Secret::default()
        });
        Some(WebhookConfig { provider: webhook.provider, secret, name })
    }

    fn followers(&self, repository: &RepositoryName, branch: &BranchName) -> Vec<EnvironmentName> {
        let state = self.manifest.borrow();
        let environments = state.manifest.environments.iter();
        let following = environments.filter(|(_, spec)| {
            matches!(&spec.supply, Supply::Branch { repository: of, branch: followed }
                if of == repository && followed == branch)
        });
        following.map(|(name, _)| name.clone()).collect()
    }

    fn fetch_manifest(&self, repository: &RepositoryName, branch: &BranchName) -> bool {
        let state = self.manifest.borrow();
        let Some(followed) = &state.manifest.followed else { return false };
        let is_hook = repository.as_str() == FollowedManifest::HOOK && followed.repository.webhook.is_some();
        let declared = state.manifest.repositories.get(repository);
        let is_same = declared.is_some_and(|declared| declared.url == followed.repository.url);
        let is_pushed = followed.branch == *branch && (is_hook || is_same);
        if is_pushed {
            self.manifest_pushed.notify_one();
        }
        is_pushed
    }

    fn ask_checks(&self, repository: &RepositoryName) -> Vec<EnvironmentName> {
        let state = self.manifest.borrow();
        let manifest = &state.manifest;
        let of_commits = manifest.environments.iter().filter(|(_, spec)| spec.checks.is_some());
        let of_commits = of_commits.map(|(name, _)| name);
        let gated = manifest.environments.iter().filter(|(_, spec)| !spec.gates.checks.is_empty());
        let of_gates = gated.filter_map(|(name, _)| manifest.promoted_from(name));
        let is_built_there = |name: &&EnvironmentName| {
            manifest.built_in(name).is_some_and(|(built_in, _)| built_in == repository)
        };
        let all: BTreeSet<&EnvironmentName> = of_commits.chain(of_gates).filter(is_built_there).collect();
        all.iter().for_each(|name| (self.ask_checks)(name));
        all.into_iter().cloned().collect()
    }

    async fn record(
        &self,
        push: Push,
        environments: Vec<EnvironmentName>,
    ) -> Result<PushOutcome, StoreError> {
        self.writer.push(push, &environments).await.map_err(|error| StoreError(Box::new(error)))
    }
}
