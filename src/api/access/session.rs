//! The lifetime of a session's access: until the session or its token ends, even in the middle of an answer.

use std::time::Duration;

use axum::body::Body;
use futures::FutureExt as _;

use super::lease::{LOOK_AGAIN, RevocableBody};
use crate::model::access::Holder;
use crate::model::credential::SessionSecret;
use crate::model::name::TokenId;
use crate::model::time::Timestamp;
use crate::record::{RecordError, TokenReader};

/// A session that was valid when the client sent its cookie.
#[derive(Clone)]
pub(in crate::api) struct SessionAccess {
    /// The token whose permissions it has; `None` for a user of this host.
    pub(in crate::api) token: Option<TokenId>,
    pub(in crate::api) secret: SessionSecret,
    pub(in crate::api) tokens: TokenReader,
    pub(in crate::api) clock: fn() -> Timestamp,
}

impl SessionAccess {
    /// Makes an answer break off when the session ends.
    pub(in crate::api) fn bind(self, body: Body) -> RevocableBody {
        RevocableBody::until(body, self.ended().boxed())
    }

    /// Returns once the session is no longer valid.
    async fn ended(self) {
        let mut changes = self.tokens.changes();
        while let Some(left) = self.left().ok().flatten() {
            changes.mark_unchanged();
            // The record is being closed, so changes can no longer be observed.
            if let Ok(Err(_)) = tokio::time::timeout(left.min(LOOK_AGAIN), changes.changed()).await {
                return;
            }
        }
    }

    /// The remaining lifetime; `None` if the session or its token is invalid.
    fn left(&self) -> Result<Option<Duration>, RecordError> {
        let now = (self.clock)();
        let Some(session) = self.tokens.session(&self.secret, now)? else { return Ok(None) };
        if let Holder::Token { token } = &session.holder
            && self.tokens.get(token)?.is_none_or(|token| !token.is_in_force(now))
        {
            return Ok(None);
        }
        Ok(Some(session.ends().since(now)))
    }
}
