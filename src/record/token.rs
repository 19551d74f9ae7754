//! Tokens: who has access. The store keeps only the SHA-256 of a token's text, so a reader of the store can
//! use none of them.
//!
//! Neither [`Export`](super::Export) nor the backup file contains tokens. A restored backup therefore cannot
//! bring back a revoked token, and a stolen one is worthless. A lost store loses its tokens: create new ones
//! on the socket, which needs none.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq as _;
use tokio::sync::watch;

use super::draft::RecordDraft;
use super::error::{BoxedCause, RecordError};
use super::keys;
use super::reader::documents;
use super::shared::RecordInner;
use super::store::{DocumentKind, RecordStore};
use crate::model::access::{AuditStamp, Role, Token};
use crate::model::credential::Credential;
use crate::model::name::{TokenId, TokenName};
use crate::model::time::Timestamp;

/// Time that an expired or revoked token stays in the list.
const LISTED_FOR: Duration = Duration::from_secs(90 * 24 * 60 * 60);
/// The precision of a token's last use. Each update is a write.
const USE_NOTED_EVERY: Duration = Duration::from_secs(60 * 60);

/// A token as stored.
#[derive(Serialize, Deserialize)]
pub(super) struct StoredToken {
    #[serde(flatten)]
    pub(super) token: Token,
    /// The SHA-256 of its text, in hexadecimal digits.
    hash: String,
}

impl StoredToken {
    fn has_hash(&self, hash: &[u8]) -> bool {
        // Both are hashes, so the length of a common prefix reveals nothing about the token. Comparing in
        // constant time costs nothing, though.
        self.hash.as_bytes().ct_eq(hash).into()
    }
}

/// The properties of a new token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewToken {
    /// The name that operators use.
    pub name: TokenName,
    /// Its permissions.
    pub role: Role,
    /// When it expires; `None`: never.
    pub expires: Option<Timestamp>,
}

/// The reason why no token was created.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// A valid token has the same name.
    #[error("a valid token named `{0}` already exists: choose another name, or revoke that token first")]
    NameTaken(TokenName),
    /// The system has no random numbers.
    #[error("the system returned no random numbers")]
    NoRandomness(#[source] BoxedCause),
    /// The store failed.
    #[error(transparent)]
    Record(#[from] RecordError),
}

/// Creates and revokes tokens. Every method returns once the write is on disk.
#[derive(Clone)]
pub struct TokenWriter {
    pub(super) shared: Arc<RecordInner>,
}

impl TokenWriter {
    /// Creates a token. The returned credential is the only copy of its secret.
    ///
    /// # Errors
    /// Returns [`TokenError`] if no token was created.
    pub async fn create(
        &self,
        new: NewToken,
        created: AuditStamp,
    ) -> Result<(Token, Credential), TokenError> {
        let (id, secret) = random()?;
        let credential = Credential::new(id.clone(), secret);
        let NewToken { name, role, expires } = new;
        let token = Token { id, name, role, created, expires, used: None, revoked: None };
        let kept = StoredToken { token: token.clone(), hash: hex::encode(credential.hash()) };
        self.write(move |draft| put_new(draft, &kept)).await?;
        Ok((token, credential))
    }

    /// Revokes the token with this id. Returns `None` if it does not exist. A token that was revoked before
    /// is unchanged.
    ///
    /// # Errors
    /// Returns [`RecordError`] if nothing was revoked.
    pub async fn revoke(&self, id: &TokenId, revoked: AuditStamp) -> Result<Option<Token>, RecordError> {
        let id = id.clone();
        let work = move |draft: &mut RecordDraft<'_>| {
            let Some(mut kept) = kept(draft.store(), &id)? else { return Ok(None) };
            if kept.token.revoked.is_none() {
                kept.token.revoked = Some(revoked);
                put(draft, &kept)?;
            }
            Ok(Some(kept.token))
        };
        self.write(work).await
    }

    /// Records the use of a token, to the hour, so that most uses write nothing.
    ///
    /// # Errors
    /// Returns [`RecordError`] if the write failed.
    pub async fn used(&self, id: &TokenId, at: Timestamp) -> Result<(), RecordError> {
        let id = id.clone();
        let work = move |draft: &mut RecordDraft<'_>| {
            let is_known = kept(draft.store(), &id)?.is_some();
            if is_known && is_worth_recording(last_use(draft.store(), &id)?, at) {
                draft.put_bytes(DocumentKind::TokenUses, key(&id), at.as_millis().to_be_bytes().to_vec());
            }
            Ok(())
        };
        self.shared.write(work).await
    }

    /// Writes, and notifies those who wait for changes.
    pub(super) async fn write<T, E>(
        &self,
        work: impl FnOnce(&mut RecordDraft<'_>) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<RecordError> + Send + 'static,
    {
        let done = self.shared.write(work).await?;
        self.shared.tokens.send_modify(|count| *count = count.wrapping_add(1));
        Ok(done)
    }
}

/// Reads and verifies tokens.
#[derive(Clone)]
pub struct TokenReader {
    pub(super) shared: Arc<RecordInner>,
}

impl TokenReader {
    /// Every token that is valid or ended recently, oldest first.
    ///
    /// # Errors
    /// Returns [`RecordError`] if the store cannot be read.
    pub fn all(&self) -> Result<Vec<Token>, RecordError> {
        let mut all = Vec::new();
        for kept in documents::<StoredToken>(&self.shared.store, DocumentKind::Tokens, b"") {
            all.push(self.with_use(kept?.token)?);
        }
        all.sort_by(|one, other| (one.created.at, &one.id).cmp(&(other.created.at, &other.id)));
        Ok(all)
    }

    /// The token with this id.
    ///
    /// # Errors
    /// Returns [`RecordError`] if it cannot be read.
    pub fn get(&self, id: &TokenId) -> Result<Option<Token>, RecordError> {
        kept(&self.shared.store, id)?.map(|kept| self.with_use(kept.token)).transpose()
    }

    /// The token for the credential `shown`, if it is valid at `now`. Returns `None` for every other case,
    /// without the reason.
    ///
    /// # Errors
    /// Returns [`RecordError`] if the store cannot be read: nobody gets access then.
    pub fn verify(&self, shown: &Credential, now: Timestamp) -> Result<Option<Token>, RecordError> {
        let hash = hex::encode(shown.hash());
        let Some(kept) = kept(&self.shared.store, shown.id())? else { return Ok(None) };
        if !kept.has_hash(hash.as_bytes()) || !kept.token.is_in_force(now) {
            return Ok(None);
        }
        self.with_use(kept.token).map(Some)
    }

    /// Whether the use of `token` at `now` is worth recording with [`TokenWriter::used`].
    pub fn is_worth_noting(token: &Token, now: Timestamp) -> bool {
        is_worth_recording(token.used, now)
    }

    /// Changes with every token that is created or revoked, and every session that begins or ends.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.shared.tokens.subscribe()
    }

    fn with_use(&self, token: Token) -> Result<Token, RecordError> {
        let used = last_use(&self.shared.store, &token.id)?;
        Ok(Token { used, ..token })
    }
}

/// Reads from the system's random source, the only one to trust with secrets.
fn random() -> Result<(TokenId, [u8; 32]), TokenError> {
    let (mut public, mut secret) = ([0; 6], [0; 32]);
    getrandom::fill(&mut public).and_then(|()| getrandom::fill(&mut secret)).map_err(no_randomness)?;
    let id = TokenId::new(hex::encode(public)).map_err(no_randomness)?;
    Ok((id, secret))
}

pub(super) fn no_randomness(error: impl Into<BoxedCause>) -> TokenError {
    TokenError::NoRandomness(error.into())
}

fn put_new(draft: &mut RecordDraft<'_>, new: &StoredToken) -> Result<(), TokenError> {
    let now = new.token.created.at;
    for old in documents::<StoredToken>(draft.store(), DocumentKind::Tokens, b"") {
        let old = old?.token;
        if old.is_in_force(now) && old.name == new.token.name {
            return Err(TokenError::NameTaken(old.name));
        }
        if is_forgotten(&old, now) {
            draft.remove(DocumentKind::Tokens, key(&old.id));
            draft.remove(DocumentKind::TokenUses, key(&old.id));
        }
    }
    Ok(put(draft, new)?)
}

/// Whether a token ended so long ago that it leaves the list.
fn is_forgotten(token: &Token, now: Timestamp) -> bool {
    let revoked = token.revoked.as_ref().map(|revocation| revocation.at);
    let ended = revoked.into_iter().chain(token.expires).min();
    ended.is_some_and(|ended| now.since(ended) > LISTED_FOR)
}

fn put(draft: &mut RecordDraft<'_>, kept: &StoredToken) -> Result<(), RecordError> {
    draft.put(DocumentKind::Tokens, key(&kept.token.id), kept)
}

fn kept(store: &RecordStore, id: &TokenId) -> Result<Option<StoredToken>, RecordError> {
    store.document(DocumentKind::Tokens, &key(id), || format!("token {id}"))
}

fn last_use(store: &RecordStore, id: &TokenId) -> Result<Option<Timestamp>, RecordError> {
    let found = store.get(DocumentKind::TokenUses, &key(id))?;
    Ok(found.as_deref().and_then(keys::number).map(Timestamp::from_millis))
}

fn is_worth_recording(used: Option<Timestamp>, now: Timestamp) -> bool {
    used.is_none_or(|used| now.since(used) >= USE_NOTED_EVERY)
}

fn key(id: &TokenId) -> Vec<u8> {
    id.as_str().as_bytes().to_vec()
}
