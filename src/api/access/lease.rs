//! The lifetime of a token's access: until the token is revoked or expires, even in the middle of
//! an answer.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use hyper::body::{Frame, SizeHint};

use crate::model::name::TokenId;
use crate::model::time::Timestamp;
use crate::record::TokenReader;

/// The clock is checked at least this often, because it may be set while the token's end is
/// awaited.
pub(super) const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// A token that was valid when the client sent it.
#[derive(Clone)]
pub struct TokenGuard {
    pub(in crate::api) id: TokenId,
    pub(in crate::api) tokens: TokenReader,
    pub(in crate::api) clock: fn() -> Timestamp,
}

impl TokenGuard {
    /// The token's public half.
    pub fn id(&self) -> &TokenId {
        &self.id
    }

    /// Returns once the token is no longer valid. Everything that its holder has open then ends.
    pub async fn ended(self) {
        let mut changes = self.tokens.changes();
        while let Some(left) = self.left() {
            changes.mark_unchanged();
            // The record is being closed, so changes can no longer be observed.
            if let Ok(Err(_)) = tokio::time::timeout(left.min(LOOK_AGAIN), changes.changed()).await {
                return;
            }
        }
    }

    /// Returns the remaining lifetime of the token, or `None` if it is invalid or unreadable.
    fn left(&self) -> Option<Duration> {
        let token = self.tokens.get(&self.id).ok().flatten()?;
        let now = (self.clock)();
        let until = token.expires.unwrap_or_else(|| now.after(LOOK_AGAIN));
        token.is_in_force(now).then(|| until.since(now))
    }
}

/// An answer that breaks off when the token becomes invalid.
pub(in crate::api) struct RevocableBody {
    body: Body,
    ended: BoxFuture<'static, ()>,
}

impl RevocableBody {
    pub(super) fn new(body: Body, token_guard: TokenGuard) -> Self {
        Self::until(body, token_guard.ended().boxed())
    }

    /// The answer breaks off once `ended` returns.
    pub(super) fn until(body: Body, ended: BoxFuture<'static, ()>) -> Self {
        Self { body, ended }
    }
}

impl HttpBody for RevocableBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.ended.poll_unpin(context).is_ready() {
            let why = io::Error::new(io::ErrorKind::PermissionDenied, "the token is no longer valid");
            return Poll::Ready(Some(Err(axum::Error::new(why))));
        }
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
