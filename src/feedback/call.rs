//! One HTTP request to a service, and what its answer means for the item.

use std::time::{Duration, SystemTime};

use hyper::Method;
use hyper::header::HeaderMap;
use serde::de::DeserializeOwned;

use super::content::cut;
use super::lane::{DeliveryRefusal, Then};
use crate::failpoint::{self, Point};
use crate::model::container::Secret;
use crate::model::redact::Redactor;

/// The pause if a service limits the rate without naming a time.
const UNNAMED_WAIT: Duration = Duration::from_secs(60);

/// A request. Its URL may be secret.
#[derive(Clone, Debug)]
pub(super) struct ServiceRequest {
    pub(super) method: Method,
    pub(super) url: Secret,
    pub(super) headers: Vec<(&'static str, Secret)>,
    pub(super) body: String,
    pub(super) allow_private: bool,
    /// Texts that must appear in no error.
    hidden: Vec<Secret>,
    /// The headers that are secret.
    secret_headers: Vec<&'static str>,
}

impl ServiceRequest {
    pub(super) fn new(method: Method, url: Secret, body: String) -> Self {
        let hidden = vec![url.clone()];
        Self {
            method,
            url,
            headers: Vec::new(),
            body,
            allow_private: false,
            hidden,
            secret_headers: Vec::new(),
        }
    }

    /// A JSON document to post.
    pub(super) fn post(url: Secret, body: String) -> Self {
        Self::new(Method::POST, url, body).header("content-type", "application/json")
    }

    /// A JSON document to put.
    pub(super) fn put(url: Secret, body: String) -> Self {
        Self::new(Method::PUT, url, body).header("content-type", "application/json")
    }

    /// A question.
    pub(super) fn get(url: Secret) -> Self {
        Self::new(Method::GET, url, String::new())
    }

    pub(super) fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, Secret::new(value)));
        self
    }

    pub(super) fn secret_header(mut self, name: &'static str, value: Secret) -> Self {
        self.headers.push((name, value.clone()));
        self.secret_headers.push(name);
        self.hiding(&value)
    }

    pub(super) fn bearer(self, token: &Secret) -> Self {
        let value = Secret::new(format!("Bearer {}", token.expose()));
        self.secret_header("authorization", value).hiding(token)
    }

    /// Keeps `text` out of errors.
    pub(super) fn hiding(mut self, text: &Secret) -> Self {
        self.hidden.push(text.clone());
        self
    }

    pub(super) fn allowing_private(self, allow_private: bool) -> Self {
        Self { allow_private, ..self }
    }

    /// `scheme://host`, the only part of a URL that is shown.
    pub(super) fn place(&self) -> String {
        let url = self.url.expose();
        let (scheme, rest) = url.split_once("://").unwrap_or(("?", url));
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
        format!("{scheme}://{host}")
    }

    /// The request without secrets.
    pub(super) fn print(&self) -> String {
        let mut text = format!("{} {}/…\n", self.method, self.place());
        for (name, value) in &self.headers {
            let shown = if self.secret_headers.contains(name) { "SECRET" } else { value.expose() };
            text.push_str(&format!("{name}: {shown}\n"));
        }
        let pretty = serde_json::from_str::<serde_json::Value>(&self.body)
            .and_then(|body| serde_json::to_string_pretty(&body));
        text.push('\n');
        text.push_str(&pretty.unwrap_or_else(|_| self.body.clone()));
        text.push('\n');
        text
    }
}

/// A complete answer.
#[derive(Clone, Debug)]
pub(super) struct ServiceResponse {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) body: Vec<u8>,
    /// `scheme://host`, for errors.
    pub(super) place: String,
    /// Texts that must appear in no error.
    pub(super) hidden: Vec<Secret>,
    /// When it arrived.
    pub(super) at: SystemTime,
}

impl ServiceResponse {
    /// Checks the status by the rules that most services share.
    pub(super) fn accepted(&self) -> Result<(), DeliveryRefusal> {
        let status = self.status;
        let why = || format!("{} answers {status}{}", self.place, self.excerpt());
        match status {
            200..=299 => Ok(()),
            300..=399 => {
                let hint = "abide follows no redirects: name the final URL";
                Err(DeliveryRefusal::denied(format!("{} answers {status}; {hint}", self.place)))
            }
            408 | 425 | 500..=599 => Err(self.retry_after().map_or_else(
                || DeliveryRefusal::passing(why()),
                |pause| DeliveryRefusal { then: Then::Wait(pause), why: why() },
            )),
            429 => Err(self.wait(why())),
            401 | 403 | 404 | 407 | 410 => Err(DeliveryRefusal::denied(why())),
            _ => Err(DeliveryRefusal::permanent(why())),
        }
    }

    /// The refusal of a service that limits the rate.
    pub(super) fn wait(&self, why: impl Into<String>) -> DeliveryRefusal {
        let then = self.retry_after().map_or(Then::WaitLonger(UNNAMED_WAIT), Then::Wait);
        DeliveryRefusal { then, why: why.into() }
    }

    /// The same with a time from the body.
    pub(super) fn wait_for(&self, seconds: f64, why: &str) -> DeliveryRefusal {
        let pause = Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(UNNAMED_WAIT);
        DeliveryRefusal { then: Then::Wait(pause), why: format!("{}: {why}", self.place) }
    }

    /// `Retry-After`: seconds or a date.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        let value = self.headers.get("retry-after")?.to_str().ok()?.trim();
        if let Ok(seconds) = value.parse::<u64>() {
            return Some(Duration::from_secs(seconds));
        }
        let date = httpdate::parse_http_date(value).ok()?;
        Some(date.duration_since(self.at).unwrap_or_default())
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    pub(super) fn json<T: DeserializeOwned>(&self) -> Result<T, DeliveryRefusal> {
        let wrong = || format!("{} answers {} without the expected JSON", self.place, self.status);
        serde_json::from_slice(&self.body).map_err(|_| DeliveryRefusal::passing(wrong()))
    }

    /// The beginning of the body in one line, without secrets, after a colon.
    pub(super) fn excerpt(&self) -> String {
        let text = String::from_utf8_lossy(&self.body[..self.body.len().min(2000)]);
        let text = Redactor::new(&self.hidden).redacted(&text);
        let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        let line = line.split_whitespace().collect::<Vec<_>>().join(" ");
        // Pages for browsers contain nothing that helps.
        if line.is_empty() || line.starts_with('<') {
            String::new()
        } else {
            format!(": {}", cut(&line, 200))
        }
    }
}

/// Sends `call` and reads the whole answer.
pub(super) async fn send(call: ServiceRequest) -> Result<ServiceResponse, DeliveryRefusal> {
    let place = call.place();
    let hidden = call.hidden.clone();
    failpoint::before(Point::Request);
    let answer = super::http::exchange(call).await;
    failpoint::after(Point::Request);
    let answer = answer.map_err(|mut refusal| {
        refusal.why = format!("{place}: {}", Redactor::new(&hidden).redacted(&refusal.why));
        refusal
    })?;
    let (status, headers, body) = answer;
    Ok(ServiceResponse { status, headers, body, place, hidden, at: SystemTime::now() })
}
