//! The states of the other members of a group that an environment needs.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::reconciler::Reconciler;
use crate::model::group::MemberState;
use crate::model::memory::Memory;
use crate::model::name::EnvironmentName;
use crate::model::observed::ContainerState;
use crate::model::spec::Manifest;
use crate::plan::Intent;
use crate::record::RecordError;

impl Reconciler {
    /// The states of the members that an environment needs.
    pub(super) async fn members(
        &self,
        intent: &Intent,
        memory: &Memory,
    ) -> Result<BTreeMap<EnvironmentName, MemberState>, RecordError> {
        let manifest = Arc::clone(&self.manifest.borrow());
        let mut states = BTreeMap::new();
        for member in intent.needs.keys() {
            // The status comes first, so that a change between the two reads makes it outdated.
            let status = self.status.status(member)?;
            let desired = self.desired.get(member)?;
            let mut state = MemberState::of(&desired, status.as_ref(), manifest.mark(member).as_ref());
            if state.is_healthy && are_replicas(&manifest, &intent.environment, member) {
                state.is_healthy = self.has_same_secrets(member, intent, memory).await;
            }
            states.insert(member.clone(), state);
        }
        Ok(states)
    }

    /// Whether another replica runs with the secrets that are valid now. A changed secret changes neither the record
    /// nor the manifest, so no status shows it.
    async fn has_same_secrets(&self, replica: &EnvironmentName, intent: &Intent, memory: &Memory) -> bool {
        let Ok(options) = &intent.options else { return true };
        let containers = self.with_secrets(self.cache.containers(replica), intent, memory).await;
        let mut running = containers.iter().filter(|seen| seen.state == ContainerState::Running);
        running.any(|seen| seen.has_secrets_of(options))
    }
}

fn are_replicas(manifest: &Manifest, one: &EnvironmentName, other: &EnvironmentName) -> bool {
    let of = |name| manifest.slot(name).map(|slot| &slot.of);
    of(one).is_some() && of(one) == of(other)
}
