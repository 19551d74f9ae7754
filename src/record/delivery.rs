//! Webhook deliveries: recorded, so that a repeated delivery is recognized.

use std::time::Duration;

use sha2::{Digest as _, Sha256};

use super::draft::RecordDraft;
use super::error::RecordError;
use super::keys;
use super::store::DocumentKind;
use crate::model::desired::Hint;
use crate::model::name::{EnvironmentName, RepositoryName};
use crate::model::time::Timestamp;

/// Retention of a delivery: longer than any provider resends one.
const REMEMBERED_FOR: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// The maximum number of recorded deliveries, so that a flood does not fill the disk.
pub(super) const REMEMBERED: usize = 24_000;
/// Deliveries that are removed with each new one. The limit keeps every delivery fast.
const FORGOTTEN_AT_ONCE: usize = 64;

/// A push of one branch as a webhook delivered it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Push {
    /// The provider's id of the delivery, if it has one. A later branch of the same delivery has an id of its
    /// own.
    pub id: Option<String>,
    /// The repository of the webhook. Ids are unique only within one repository's webhook.
    pub repository: RepositoryName,
    /// The hint of the push.
    pub hint: Hint,
}

/// The result of recording a push.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PushOutcome {
    /// The environments that did not know the commit, and will check the branch because of it.
    pub recorded: Vec<EnvironmentName>,
    /// Whether a delivery with this id came before.
    pub repeated: bool,
}

/// Records the delivery, and returns whether it was known already.
pub(super) fn remember(draft: &mut RecordDraft<'_>, push: &Push) -> Result<bool, RecordError> {
    let Some(id) = &push.id else { return Ok(false) };
    let hash = hash(&push.repository, id);
    if draft.store().get(DocumentKind::Deliveries, &hash)?.is_some() {
        return Ok(true);
    }
    let at = push.hint.at.as_millis().to_be_bytes().to_vec();
    draft.put_bytes(DocumentKind::DeliveryTimes, by_age(&at, &hash), Vec::new());
    draft.put_bytes(DocumentKind::Deliveries, hash, at);
    draft.counters.deliveries += 1;
    forget(draft, push.hint.at)?;
    Ok(false)
}

/// Removes the oldest deliveries if they are too old or too many.
fn forget(draft: &mut RecordDraft<'_>, now: Timestamp) -> Result<(), RecordError> {
    let oldest = draft.store().pairs(DocumentKind::DeliveryTimes, b"").take(FORGOTTEN_AT_ONCE);
    for pair in oldest {
        let (key, _) = pair?;
        let Some((at, hash)) = key.split_at_checked(8) else { continue };
        let at = keys::number(at).map(Timestamp::from_millis).unwrap_or_default();
        if draft.counters.deliveries <= REMEMBERED && now.since(at) <= REMEMBERED_FOR {
            break;
        }
        draft.remove(DocumentKind::Deliveries, hash.to_vec());
        draft.remove(DocumentKind::DeliveryTimes, key);
        draft.counters.deliveries = draft.counters.deliveries.saturating_sub(1);
    }
    Ok(())
}

fn by_age(at: &[u8], hash: &[u8]) -> Vec<u8> {
    [at, hash].concat()
}

/// Hashes the id, because it comes from the network: the hash has a fixed length and no other use.
fn hash(repository: &RepositoryName, id: &str) -> Vec<u8> {
    let mut hash = Sha256::new();
    hash.update(repository.as_str());
    hash.update([0]);
    hash.update(id);
    hash.finalize().to_vec()
}
