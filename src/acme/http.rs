//! The HTTP client of the ACME client: abide's own, with the trust of the manifest. It notes when the authority
//! wants no more requests, which the ACME client forgets.

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER, USER_AGENT};
use hyper::{HeaderMap, Response};
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};

use super::now;
use crate::model::time::Timestamp;
use crate::outbound::{AGENT, Client, Request};

/// The deadline of one request.
const DEADLINE: Duration = Duration::from_secs(30);

/// The time before which the authority wants no more requests, from its last refusal.
#[derive(Clone, Debug, Default)]
pub(super) struct Patience(Arc<Mutex<Option<Timestamp>>>);

impl Patience {
    /// Returns and clears it.
    pub(super) fn take(&self) -> Option<Timestamp> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn note(&self, headers: &HeaderMap) {
        let Some(value) = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()) else { return };
        let at = match value.trim().parse::<u64>() {
            Ok(seconds) => Some(now().after(Duration::from_secs(seconds))),
            Err(_) => httpdate::parse_http_date(value.trim()).ok().map(Timestamp::from),
        };
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = at;
    }
}

/// The client.
#[derive(Clone)]
pub(super) struct Http {
    client: Client,
    patience: Patience,
}

impl Http {
    pub(super) fn new(ca_file: Option<PathBuf>, patience: Patience) -> Self {
        Self { client: Client::default().trusting(ca_file.into_iter().collect()), patience }
    }

    async fn exchange(
        self,
        request: hyper::Request<BodyWrapper<Bytes>>,
    ) -> Result<Response<Full<Bytes>>, String> {
        let (head, body) = request.into_parts();
        let Ok(body) = body.collect().await;
        let place = head.uri.authority().map(ToString::to_string).unwrap_or_default();
        let mut request = Request::new(head.method, head.uri).with_body(body.to_bytes());
        request.headers = head.headers;
        request.headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
        request.deadline = DEADLINE;
        let answer = self.client.send(request).await.map_err(|error| format!("{place}: {error}"))?;
        if answer.status.is_client_error() || answer.status.is_server_error() {
            self.patience.note(&answer.headers);
            let kind = answer.headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
            if !kind.is_some_and(|kind| kind.contains("json")) {
                return Err(format!("{place} answered {}", answer.status));
            }
        }
        let mut response = Response::new(Full::new(answer.body));
        (*response.status_mut(), *response.headers_mut()) = (answer.status, answer.headers);
        Ok(response)
    }
}

impl HttpClient for Http {
    fn request(
        &self,
        request: hyper::Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let client = self.clone();
        Box::pin(async move {
            let answer = client.exchange(request).await;
            answer.map(BytesResponse::from).map_err(|why| Error::Other(Unreachable(why).into()))
        })
    }
}

/// The authority gave no answer, or a proxy answered in its place.
#[derive(Debug)]
pub(super) struct Unreachable(String);

impl std::fmt::Display for Unreachable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unreachable {}

/// The moment that an authority names in a sentence such as "retry after 1970-01-01 00:18:15 UTC: see …".
pub(super) fn retry_after(detail: &str) -> Option<Timestamp> {
    let (_, rest) = detail.split_once("retry after ")?;
    let moment: String = rest.chars().take(19).collect();
    let moment = humantime::parse_rfc3339_weak(moment.trim()).ok()?;
    (moment > SystemTime::UNIX_EPOCH).then(|| moment.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_retry_time_is_read_from_the_authoritys_answer() {
        let detail = "too many certificates (5) already issued for this exact set of identifiers in the last 168h0m0s, \
                      retry after 2026-11-25 00:18:15 UTC: see https://letsencrypt.org/docs/rate-limits";
        assert_eq!(retry_after(detail), Timestamp::parse("2026-11-25T00:18:15Z").ok());
        assert_eq!(retry_after("retry after lunch"), None);
        let patience = Patience::default();
        let header =
            |text: &'static str| HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from_static(text))]);
        patience.note(&header("120"));
        assert!(patience.take().is_some_and(|at| at.since(now()) > Duration::from_secs(100)));
        assert_eq!(patience.take(), None, "it counts once");
        patience.note(&header("Thu, 31 Dec 2099 23:59:59 GMT"));
        assert_eq!(patience.take(), Timestamp::parse("2099-12-31T23:59:59Z").ok());
    }
}
