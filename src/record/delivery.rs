//! Deliveries of webhooks: remembered, so that one that comes again is known again.

use std::time::Duration;

use sha2::{Digest as _, Sha256};

use super::draft::Draft;
use super::error::RecordError;
use super::keys;
use super::store::Kind;
use crate::model::desired::Hint;
use crate::model::name::{EnvironmentName, RepositoryName};
use crate::model::time::Timestamp;

/// How long a delivery is remembered: longer than any provider sends one again.
const REMEMBERED_FOR: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// How many are remembered, so that a flood does not fill the disk.
pub(super) const REMEMBERED: usize = 24_000;
/// How many are forgotten with one delivery, so that none takes long.
const FORGOTTEN_AT_ONCE: usize = 64;

/// A push as a webhook delivered it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// The provider's id of the delivery, where it has one.
    pub id: Option<String>,
    /// To which repository's webhook it came; ids of one provider say nothing of another's.
    pub repository: RepositoryName,
    /// What it says.
    pub hint: Hint,
}

/// What became of a delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PushOutcome {
    /// The environments that will look at the branch because of it.
    pub recorded: Vec<EnvironmentName>,
    /// Whether a delivery with this id came before.
    pub repeated: bool,
}

/// Remembers the delivery, and says whether it is known already.
pub(super) fn remember(draft: &mut Draft<'_>, delivery: &Delivery) -> Result<bool, RecordError> {
    let Some(id) = &delivery.id else { return Ok(false) };
    let hash = hash(&delivery.repository, id);
    if draft.store().get(Kind::Deliveries, &hash)?.is_some() {
        return Ok(true);
    }
    let at = delivery.hint.at.as_millis().to_be_bytes().to_vec();
    draft.put_bytes(Kind::DeliveryTimes, by_age(&at, &hash), Vec::new());
    draft.put_bytes(Kind::Deliveries, hash, at);
    draft.counters.deliveries += 1;
    forget(draft, delivery.hint.at)?;
    Ok(false)
}

/// Forgets the oldest deliveries, where they are too old or too many.
fn forget(draft: &mut Draft<'_>, now: Timestamp) -> Result<(), RecordError> {
    let oldest = draft.store().pairs(Kind::DeliveryTimes, b"").take(FORGOTTEN_AT_ONCE);
    for pair in oldest {
        let (key, _) = pair?;
        let Some((at, hash)) = key.split_at_checked(8) else { continue };
        let at = keys::number(at).map(Timestamp::from_millis).unwrap_or_default();
        if draft.counters.deliveries <= REMEMBERED && now.since(at) <= REMEMBERED_FOR {
            break;
        }
        draft.remove(Kind::Deliveries, hash.to_vec());
        draft.remove(Kind::DeliveryTimes, key);
        draft.counters.deliveries = draft.counters.deliveries.saturating_sub(1);
    }
    Ok(())
}

fn by_age(at: &[u8], hash: &[u8]) -> Vec<u8> {
    [at, hash].concat()
}

/// The id comes from the network, so a hash of it is kept: of one length, and of no other use.
fn hash(repository: &RepositoryName, id: &str) -> Vec<u8> {
    let mut hash = Sha256::new();
    hash.update(repository.as_str());
    hash.update([0]);
    hash.update(id);
    hash.finalize().to_vec()
}
