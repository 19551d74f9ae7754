//! The answers to senders. All senders without a valid proof get constant texts.

use std::time::Duration;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::Rejection;
use super::intake::IntakeError;
use crate::model::name::EnvironmentName;

/// The default delay before a sender should retry.
const SOON: Duration = Duration::from_secs(5);

/// The result of a delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum WebhookResponse {
    /// Stored on disk.
    Recorded(Vec<EnvironmentName>),
    /// Authentic, but already known.
    Repeated(String),
    /// Authentic, but irrelevant.
    Ignored(String),
    /// The hook works.
    Pong,
    /// The hook does not exist.
    Unknown,
    /// [`super::read`] refused it.
    Rejected(Rejection),
    /// The body was not read.
    NotRead(IntakeError),
    /// Too many deliveries; the next is accepted after this delay.
    TooMany(Duration),
    /// The record could not be written.
    NotStored,
    /// The method is not POST.
    NotPost,
}

#[derive(Serialize)]
struct WebhookMessage<'a> {
    status: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    environments: Option<&'a [EnvironmentName]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
}

impl WebhookResponse {
    /// The word for the log and for the answer's `status`.
    pub(super) fn word(&self) -> &'static str {
        match self {
            Self::Recorded(_) => "recorded",
            Self::Repeated(_) => "repeated",
            Self::Ignored(_) => "ignored",
            Self::Pong => "pong",
            Self::NotStored => "failed",
            _ => "refused",
        }
    }

    /// The HTTP status.
    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::Recorded(_) => StatusCode::ACCEPTED,
            Self::Repeated(_) | Self::Ignored(_) | Self::Pong => StatusCode::OK,
            Self::Unknown => StatusCode::NOT_FOUND,
            Self::TooMany(_) => StatusCode::TOO_MANY_REQUESTS,
            Self::NotStored => StatusCode::SERVICE_UNAVAILABLE,
            Self::NotPost => StatusCode::METHOD_NOT_ALLOWED,
            Self::Rejected(rejection) => rejected(rejection),
            Self::NotRead(error) => not_read(*error),
        }
    }

    /// The reason in the answer.
    fn reason(&self) -> Option<&str> {
        Some(match self {
            Self::Recorded(_) | Self::Pong => return None,
            Self::Repeated(reason) | Self::Ignored(reason) => reason,
            Self::Unknown | Self::Rejected(Rejection::Unauthorized(_)) => {
                "unknown webhook, or the delivery is not signed with its secret"
            }
            Self::Rejected(Rejection::BadRequest(reason)) => reason,
            Self::Rejected(Rejection::UnsupportedMediaType(_)) => {
                "send uncompressed application/json in UTF-8"
            }
            Self::Rejected(Rejection::Unconfigured(_)) => "this webhook is disabled; see the daemon's log",
            Self::NotRead(IntakeError::TooLarge) => "the body is too large",
            Self::NotRead(IntakeError::TooSlow) => "the body did not arrive in time",
            Self::NotRead(IntakeError::Broken) => "the body was incomplete",
            Self::NotRead(IntakeError::Busy) => "busy: send it again",
            Self::TooMany(_) => "too many deliveries: send it again later",
            Self::NotStored => "cannot write the record: send it again",
            Self::NotPost => "method not allowed: use POST",
        })
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::TooMany(wait) => Some(*wait),
            _ if self.status() == StatusCode::SERVICE_UNAVAILABLE => Some(SOON),
            _ => None,
        }
    }
}

fn rejected(rejection: &Rejection) -> StatusCode {
    match rejection {
        Rejection::Unauthorized(_) => StatusCode::UNAUTHORIZED,
        Rejection::BadRequest(_) => StatusCode::BAD_REQUEST,
        Rejection::UnsupportedMediaType(_) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        Rejection::Unconfigured(_) => StatusCode::SERVICE_UNAVAILABLE,
    }
}

fn not_read(error: IntakeError) -> StatusCode {
    match error {
        IntakeError::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        IntakeError::TooSlow => StatusCode::REQUEST_TIMEOUT,
        IntakeError::Broken => StatusCode::BAD_REQUEST,
        IntakeError::Busy => StatusCode::SERVICE_UNAVAILABLE,
    }
}

impl IntoResponse for WebhookResponse {
    fn into_response(self) -> Response {
        let environments = match &self {
            Self::Recorded(environments) => Some(environments.as_slice()),
            _ => None,
        };
        let words = WebhookMessage { status: self.word(), environments, reason: self.reason() };
        let mut response = (self.status(), Json(words)).into_response();
        if let Some(wait) = self.retry_after() {
            // Rounded up to whole seconds, so that the sender never retries too early.
            let seconds = u64::try_from(wait.as_millis().div_ceil(1000)).unwrap_or(u64::MAX).max(1);
            response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
        }
        if self == Self::NotPost {
            response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("POST"));
        }
        response
    }
}
