//! Sessions of the web page. The store keeps only the SHA-256 of the secret in a session's cookie, and a session is
//! part of no export and no backup file, exactly as tokens.

use serde::{Deserialize, Serialize};

use super::draft::RecordDraft;
use super::error::RecordError;
use super::reader::documents;
use super::store::{DocumentKind, RecordStore};
use super::token::{TokenError, no_randomness};
use super::{TokenReader, TokenWriter};
use crate::model::access::{BrowserSession, Holder};
use crate::model::credential::SessionSecret;
use crate::model::name::SessionId;
use crate::model::time::Timestamp;
use std::time::Duration;

/// The precision of a session's last use. Each update is a write.
const USE_NOTED_EVERY: Duration = Duration::from_secs(60 * 60);
/// The most sessions of one token or user; the oldest one ends for a new one. A script that logs in again and again
/// must not fill the store.
const MOST_OF_ONE: usize = 100;

/// A session as stored, under the hash of its secret.
#[derive(Serialize, Deserialize)]
pub(super) struct KeptSession {
    #[serde(flatten)]
    pub(super) session: BrowserSession,
    /// The SHA-256 of its secret, in hexadecimal digits.
    pub(super) hash: String,
}

/// The properties of a new session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewSession {
    /// The reason why it has access.
    pub holder: Holder,
    /// The address of the login.
    pub from: Option<String>,
    /// The time without use after which it ends.
    pub idle: Duration,
    /// The time at which it ends even if it is in use.
    pub expires: Timestamp,
}

impl TokenWriter {
    /// Opens a session. The returned secret is its only copy. Removes sessions that have ended.
    ///
    /// # Errors
    /// Returns [`TokenError`] if none was opened.
    pub async fn open_session(
        &self,
        new: NewSession,
        now: Timestamp,
    ) -> Result<(BrowserSession, SessionSecret), TokenError> {
        let (mut public, mut secret) = ([0; 6], [0; 32]);
        getrandom::fill(&mut public).and_then(|()| getrandom::fill(&mut secret)).map_err(no_randomness)?;
        let id = SessionId::new(hex::encode(public)).map_err(no_randomness)?;
        let secret = SessionSecret::new(secret);
        let NewSession { holder, from, idle, expires } = new;
        let idle_seconds = idle.as_secs();
        let session = BrowserSession { id, holder, created: now, from, used: now, idle_seconds, expires };
        let kept = KeptSession { session: session.clone(), hash: hex::encode(secret.hash()) };
        let work = move |draft: &mut RecordDraft<'_>| {
            make_room(draft, &kept.session.holder, now)?;
            Ok::<_, TokenError>(draft.put(DocumentKind::Sessions, kept.hash.clone().into_bytes(), &kept)?)
        };
        self.write(work).await?;
        Ok((session, secret))
    }

    /// Records the use of a session, to the hour, so that most uses write nothing.
    ///
    /// # Errors
    /// Returns [`RecordError`] if the write failed.
    pub async fn session_used(&self, secret: &SessionSecret, at: Timestamp) -> Result<(), RecordError> {
        let key = key(secret);
        let work = move |draft: &mut RecordDraft<'_>| {
            let Some(mut kept) = kept(draft.store(), &key)? else { return Ok(()) };
            if is_worth_recording(&kept.session, at) {
                kept.session.used = at;
                draft.put(DocumentKind::Sessions, key, &kept)?;
            }
            Ok(())
        };
        self.shared.write(work).await
    }

    /// Ends the session with this id. Returns `None` if there is none.
    ///
    /// # Errors
    /// Returns [`RecordError`] if it was not ended.
    pub async fn end_session(&self, id: &SessionId) -> Result<Option<BrowserSession>, RecordError> {
        let id = id.clone();
        let work = move |draft: &mut RecordDraft<'_>| {
            for found in documents::<KeptSession>(draft.store(), DocumentKind::Sessions, b"") {
                let KeptSession { session, hash } = found?;
                if session.id == id {
                    draft.remove(DocumentKind::Sessions, hash.into_bytes());
                    return Ok(Some(session));
                }
            }
            Ok(None)
        };
        self.write(work).await
    }
}

impl TokenReader {
    /// The session with this secret, if it is valid at `now`. Whether its token is valid is another question.
    ///
    /// # Errors
    /// Returns [`RecordError`] if the store cannot be read: nobody gets access then.
    pub fn session(
        &self,
        shown: &SessionSecret,
        now: Timestamp,
    ) -> Result<Option<BrowserSession>, RecordError> {
        let found = kept(&self.shared.store, &key(shown))?.map(|kept| kept.session);
        Ok(found.filter(|session| session.is_in_force(now)))
    }

    /// Every session that is valid at `now`, newest first. Whether its token is valid is another question.
    ///
    /// # Errors
    /// Returns [`RecordError`] if the store cannot be read.
    pub fn sessions(&self, now: Timestamp) -> Result<Vec<BrowserSession>, RecordError> {
        let all = documents::<KeptSession>(&self.shared.store, DocumentKind::Sessions, b"");
        let all = all.map(|kept| kept.map(|kept| kept.session));
        let mut all: Vec<BrowserSession> = all.collect::<Result<_, _>>()?;
        all.retain(|session| session.is_in_force(now));
        all.sort_by(|one, other| (other.created, &other.id).cmp(&(one.created, &one.id)));
        Ok(all)
    }

    /// Whether the use of `session` at `now` is worth recording with [`TokenWriter::session_used`].
    pub fn is_session_worth_noting(session: &BrowserSession, now: Timestamp) -> bool {
        is_worth_recording(session, now)
    }
}

/// Removes sessions that have ended, and the oldest ones of a holder with too many.
fn make_room(draft: &mut RecordDraft<'_>, holder: &Holder, now: Timestamp) -> Result<(), RecordError> {
    let mut of_holder = Vec::new();
    for found in documents::<KeptSession>(draft.store(), DocumentKind::Sessions, b"") {
        let KeptSession { session, hash } = found?;
        if !session.is_in_force(now) {
            draft.remove(DocumentKind::Sessions, hash.into_bytes());
        } else if session.holder == *holder {
            of_holder.push((session.created, hash));
        }
    }
    of_holder.sort();
    let surplus = (of_holder.len() + 1).saturating_sub(MOST_OF_ONE);
    for (_, hash) in of_holder.into_iter().take(surplus) {
        draft.remove(DocumentKind::Sessions, hash.into_bytes());
    }
    Ok(())
}

fn kept(store: &RecordStore, key: &[u8]) -> Result<Option<KeptSession>, RecordError> {
    store.document(DocumentKind::Sessions, key, || "a session".to_owned())
}

fn is_worth_recording(session: &BrowserSession, now: Timestamp) -> bool {
    now.since(session.used) >= USE_NOTED_EVERY
}

fn key(secret: &SessionSecret) -> Vec<u8> {
    hex::encode(secret.hash()).into_bytes()
}
