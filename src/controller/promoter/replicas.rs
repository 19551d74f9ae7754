//! Replicas: every slot follows the record of the first one.

use std::collections::BTreeSet;

use tracing::info;

use super::Promoter;
use crate::controller::clock::now;
use crate::model::name::EnvironmentName;
use crate::model::spec::Manifest;
use crate::record::RecordError;

impl Promoter {
    /// Gives the other slots of changed environments the image of the first one.
    pub(super) async fn follow(
        &self,
        manifest: &Manifest,
        changed: &BTreeSet<EnvironmentName>,
    ) -> Result<(), RecordError> {
        let first = |name: &EnvironmentName| manifest.first_slot(manifest.slot(name)?.of.as_str());
        let firsts: BTreeSet<_> = changed.iter().filter_map(first).collect();
        for first in firsts {
            if let Some(before) = self.before_replicas(manifest, first)? {
                self.give(&before, vec![first.clone()]).await?;
            }
            let of_first = self.input.desired.get(first)?.entry;
            let mut late = Vec::new();
            for follower in manifest.followers(first) {
                if self.input.desired.get(follower)?.lacks_image_of(&of_first) {
                    late.push(follower.clone());
                }
            }
            if !late.is_empty() {
                self.give(first, late).await?;
            }
        }
        Ok(())
    }

    /// The environment that had the name of the declaration before it had replicas, if the first slot has nothing yet.
    fn before_replicas(
        &self,
        manifest: &Manifest,
        first: &EnvironmentName,
    ) -> Result<Option<EnvironmentName>, RecordError> {
        let declared = manifest.slot(first).and_then(|slot| EnvironmentName::new(slot.of.as_str()).ok());
        let Some(declared) = declared else { return Ok(None) };
        let is_new = self.input.desired.get(first)?.entry == Default::default();
        Ok((is_new && self.input.desired.has(&declared)?).then_some(declared))
    }

    async fn give(&self, from: &EnvironmentName, to: Vec<EnvironmentName>) -> Result<(), RecordError> {
        for environment in self.input.resolver.follow(from, to, now()).await? {
            info!(%environment, %from, "follows the other slot");
        }
        Ok(())
    }
}
