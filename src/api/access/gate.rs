//! Authenticates network clients by `Authorization: Bearer` with a valid token. A token in a URL is
//! ignored, because URLs end up in logs and histories.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, HttpBody as _};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use tokio::time::Instant;

use super::failures::Failures;
use super::lease::{RevocableBody, TokenGuard};
use super::{Access, NotLetIn};
use crate::api::ApiState;
use crate::api::error::ApiError;
use crate::api::serve::{AdmissionGuard, Peer};
use crate::model::access::Token;
use crate::model::credential::Credential;
use crate::model::time::Timestamp;
use crate::record::{TokenReader, TokenWriter};

/// The state of the authentication. Cheap to clone.
#[derive(Clone)]
pub struct Gate {
    tokens: TokenReader,
    writer: TokenWriter,
    clock: fn() -> Timestamp,
    failures: Arc<Failures>,
}

impl Gate {
    /// Authenticates by the tokens in the record.
    pub fn new(api: &ApiState) -> Self {
        let (tokens, writer) = (api.tokens.clone(), api.token_writer.clone());
        Self { tokens, writer, clock: api.clock, failures: Arc::default() }
    }

    /// Returns the token of the request if it is valid.
    fn verify(&self, shown: &Credential) -> Option<Token> {
        let now = (self.clock)();
        match self.tokens.verify(shown, now) {
            Ok(token) => {
                let token = token?;
                if TokenReader::is_worth_noting(&token, now) {
                    self.note_use(&token, now);
                }
                Some(token)
            }
            Err(error) => {
                let error: &(dyn std::error::Error + 'static) = &error;
                tracing::error!(error, token = %shown.id(), "cannot look up a token; rejecting the \
                    request");
                None
            }
        }
    }

    /// Runs in the background, so that the request need not wait for it.
    fn note_use(&self, token: &Token, now: Timestamp) {
        let (writer, id) = (self.writer.clone(), token.id.clone());
        tokio::spawn(async move {
            if let Err(error) = writer.used(&id, now).await {
                let error: &(dyn std::error::Error + 'static) = &error;
                tracing::warn!(error, token = %id, "failed to record the use of a token");
            }
        });
    }

    /// Refuses a client without a valid token. The answer is the same for every cause, until there
    /// are too many requests.
    fn refuse(&self, response: Response, address: Option<IpAddr>, shown: Option<&Credential>) -> Response {
        let Some(address) = address else { return response };
        match self.failures.count(address, Instant::now()) {
            Ok(()) => {
                if let Some(shown) = shown {
                    tracing::warn!(%address, token = %shown.id(), "rejected: invalid token (unknown, \
                        expired or revoked)");
                }
                response
            }
            Err(wait) => too_many(wait),
        }
    }
}

/// Identifies the caller by the token in the request; the rules of the router decide what it may
/// do.
pub async fn authenticate(State(gate): State<Gate>, mut request: Request, next: Next) -> Response {
    let peer = request.extensions().get::<Peer>().and_then(|peer| peer.address);
    let shown = shown(request.headers());
    let token = shown.as_ref().and_then(|shown| gate.verify(shown));
    let token_guard = token.map(|token| {
        let token_guard = TokenGuard { id: token.id.clone(), tokens: gate.tokens.clone(), clock: gate.clock };
        request.extensions_mut().insert(Access::of_token(token, peer, token_guard.clone()));
        if let Some(standing) = request.extensions().get::<AdmissionGuard>() {
            standing.prove();
        }
        token_guard
    });
    let response = next.run(request).await;
    if response.extensions().get::<NotLetIn>().is_some() {
        return gate.refuse(response, peer.map(|peer| peer.ip()), shown.as_ref());
    }
    match token_guard {
        // A complete answer is sent whole, for example to a client that revokes its own token.
        Some(token_guard) if response.body().size_hint().exact().is_none() => {
            response.map(|body| Body::new(RevocableBody::new(body, token_guard)))
        }
        _ => response,
    }
}

/// Returns the token of the only `Authorization` header. Two headers count as none, because a proxy
/// may have used the other one.
fn shown(headers: &HeaderMap) -> Option<Credential> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let (value, None) = (values.next()?, values.next()) else { return None };
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| Credential::parse(token.trim()))?
}

fn too_many(wait: Duration) -> Response {
    let mut response = ApiError::too_many_failures().into_response();
    let seconds = wait.as_secs().saturating_add(1);
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    response
}
