//! Tokens: who may come in. What is kept of one is the SHA-256 of its text, so whoever reads the
//! store can use none of them.
//!
//! Neither [`Export`](super::Export) nor the mirror has them. A backup that is put back can so never
//! bring back a token that was revoked since, and is worth nothing to a thief. A lost store costs
//! its tokens: they are made anew on the socket, which needs none.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq as _;
use tokio::sync::watch;

use super::draft::Draft;
use super::error::{Cause, RecordError};
use super::keys;
use super::reader::documents;
use super::shared::Shared;
use super::store::{Kind, Store};
use crate::model::access::{Deed, Role, Token};
use crate::model::credential::Credential;
use crate::model::name::{TokenId, TokenName};
use crate::model::time::Timestamp;

/// How long one that is not in force any more stays in the list.
const LISTED_FOR: Duration = Duration::from_secs(90 * 24 * 60 * 60);
/// How exactly it is known when a token was last used. Each note of it is a write.
const USE_NOTED_EVERY: Duration = Duration::from_secs(60 * 60);

/// A token as the store has it.
#[derive(Serialize, Deserialize)]
pub(super) struct Kept {
    #[serde(flatten)]
    pub(super) token: Token,
    /// The SHA-256 of its text, in hexadecimal digits.
    hash: String,
}

impl Kept {
    fn has_hash(&self, hash: &[u8]) -> bool {
        // Both are hashes, so how far they agree tells nothing of the token; it costs nothing to
        // tell nothing at all.
        self.hash.as_bytes().ct_eq(hash).into()
    }
}

/// What a new token is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewToken {
    /// What people will call it.
    pub name: TokenName,
    /// What it may do.
    pub role: Role,
    /// When it ends; `None`: it does not.
    pub expires: Option<Timestamp>,
}

/// Why no token was made.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// One that is in force has the name.
    #[error("a token called `{0}` is in force: choose another name, or revoke it first")]
    NameTaken(TokenName),
    /// The system has no random numbers.
    #[error("the system gave no random numbers")]
    NoRandomness(#[source] Cause),
    /// The store failed.
    #[error(transparent)]
    Record(#[from] RecordError),
}

/// Makes and revokes tokens. Every method returns once the write is on disk.
#[derive(Clone)]
pub struct TokenWriter {
    pub(super) shared: Arc<Shared>,
}

impl TokenWriter {
    /// Makes a token. The credential is all there will ever be of its secret.
    ///
    /// # Errors
    /// [`TokenError`]; then there is no token.
    pub async fn create(&self, new: NewToken, created: Deed) -> Result<(Token, Credential), TokenError> {
        let (id, secret) = random()?;
        let credential = Credential::new(id.clone(), secret);
        let NewToken { name, role, expires } = new;
        let token = Token { id, name, role, created, expires, used: None, revoked: None };
        let kept = Kept { token: token.clone(), hash: hex::encode(credential.hash()) };
        self.write(move |draft| put_new(draft, &kept)).await?;
        Ok((token, credential))
    }

    /// Revokes the token with this id; `None`: there is none. One that is revoked already stays as
    /// it is.
    ///
    /// # Errors
    /// [`RecordError`] where nothing was revoked.
    pub async fn revoke(&self, id: &TokenId, revoked: Deed) -> Result<Option<Token>, RecordError> {
        let id = id.clone();
        let work = move |draft: &mut Draft<'_>| {
            let Some(mut kept) = kept(draft.store(), &id)? else { return Ok(None) };
            if kept.token.revoked.is_none() {
                kept.token.revoked = Some(revoked);
                put(draft, &kept)?;
            }
            Ok(Some(kept.token))
        };
        self.write(work).await
    }

    /// Notes that a token was shown. To the hour, so that most uses write nothing.
    ///
    /// # Errors
    /// [`RecordError`] where it could not be noted.
    pub async fn used(&self, id: &TokenId, at: Timestamp) -> Result<(), RecordError> {
        let id = id.clone();
        let work = move |draft: &mut Draft<'_>| {
            let is_known = kept(draft.store(), &id)?.is_some();
            if is_known && is_news(last_use(draft.store(), &id)?, at) {
                draft.put_bytes(Kind::TokenUses, key(&id), at.as_millis().to_be_bytes().to_vec());
            }
            Ok(())
        };
        self.shared.write(work).await
    }

    /// Writes, and tells those who wait for changes.
    async fn write<T, E>(
        &self,
        work: impl FnOnce(&mut Draft<'_>) -> Result<T, E> + Send + 'static,
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

/// Reads what is known of tokens, and tells a good one from any other.
#[derive(Clone)]
pub struct TokenReader {
    pub(super) shared: Arc<Shared>,
}

impl TokenReader {
    /// Every token that is in force, or was until lately, the oldest first.
    ///
    /// # Errors
    /// [`RecordError`] where the store cannot be read.
    pub fn all(&self) -> Result<Vec<Token>, RecordError> {
        let mut all = Vec::new();
        for kept in documents::<Kept>(&self.shared.store, Kind::Tokens, b"") {
            all.push(self.with_use(kept?.token)?);
        }
        all.sort_by(|one, other| (one.created.at, &one.id).cmp(&(other.created.at, &other.id)));
        Ok(all)
    }

    /// The token with this id.
    ///
    /// # Errors
    /// [`RecordError`] where it cannot be read.
    pub fn get(&self, id: &TokenId) -> Result<Option<Token>, RecordError> {
        kept(&self.shared.store, id)?.map(|kept| self.with_use(kept.token)).transpose()
    }

    /// The token that is shown, where it is in force at `now`; `None` for every other reason alike.
    ///
    /// # Errors
    /// [`RecordError`] where the store cannot be read: nobody is let in then.
    pub fn verify(&self, shown: &Credential, now: Timestamp) -> Result<Option<Token>, RecordError> {
        let hash = hex::encode(shown.hash());
        let Some(kept) = kept(&self.shared.store, shown.id())? else { return Ok(None) };
        if !kept.has_hash(hash.as_bytes()) || !kept.token.is_in_force(now) {
            return Ok(None);
        }
        self.with_use(kept.token).map(Some)
    }

    /// Whether the use of `token` at `now` is worth a note, by [`TokenWriter::used`].
    pub fn is_worth_noting(token: &Token, now: Timestamp) -> bool {
        is_news(token.used, now)
    }

    /// Changes with every token that is made or revoked.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.shared.tokens.subscribe()
    }

    fn with_use(&self, token: Token) -> Result<Token, RecordError> {
        let used = last_use(&self.shared.store, &token.id)?;
        Ok(Token { used, ..token })
    }
}

/// The system's own source is the one to trust with secrets.
fn random() -> Result<(TokenId, [u8; 32]), TokenError> {
    let (mut public, mut secret) = ([0; 6], [0; 32]);
    getrandom::fill(&mut public).and_then(|()| getrandom::fill(&mut secret)).map_err(no_randomness)?;
    let id = TokenId::new(hex::encode(public)).map_err(no_randomness)?;
    Ok((id, secret))
}

fn no_randomness(error: impl Into<Cause>) -> TokenError {
    TokenError::NoRandomness(error.into())
}

fn put_new(draft: &mut Draft<'_>, new: &Kept) -> Result<(), TokenError> {
    let now = new.token.created.at;
    for old in documents::<Kept>(draft.store(), Kind::Tokens, b"") {
        let old = old?.token;
        if old.is_in_force(now) && old.name == new.token.name {
            return Err(TokenError::NameTaken(old.name));
        }
        if is_forgotten(&old, now) {
            draft.remove(Kind::Tokens, key(&old.id));
            draft.remove(Kind::TokenUses, key(&old.id));
        }
    }
    Ok(put(draft, new)?)
}

/// Whether a token ended so long ago that nobody looks for it any more.
fn is_forgotten(token: &Token, now: Timestamp) -> bool {
    let revoked = token.revoked.as_ref().map(|deed| deed.at);
    let ended = revoked.into_iter().chain(token.expires).min();
    ended.is_some_and(|ended| now.since(ended) > LISTED_FOR)
}

fn put(draft: &mut Draft<'_>, kept: &Kept) -> Result<(), RecordError> {
    draft.put(Kind::Tokens, key(&kept.token.id), kept)
}

fn kept(store: &Store, id: &TokenId) -> Result<Option<Kept>, RecordError> {
    store.document(Kind::Tokens, &key(id), || format!("token {id}"))
}

fn last_use(store: &Store, id: &TokenId) -> Result<Option<Timestamp>, RecordError> {
    let found = store.get(Kind::TokenUses, &key(id))?;
    Ok(found.as_deref().and_then(keys::number).map(Timestamp::from_millis))
}

fn is_news(used: Option<Timestamp>, now: Timestamp) -> bool {
    used.is_none_or(|used| now.since(used) >= USE_NOTED_EVERY)
}

fn key(id: &TokenId) -> Vec<u8> {
    id.as_str().as_bytes().to_vec()
}
