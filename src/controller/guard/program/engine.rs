//! The engine's HTTP API over its socket, and the parts of its answers that the guard needs.

use std::fmt::Write as _;
use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// The engine's socket.
const ENGINE: &str = "/engine.sock";
/// The deadline of a request. Starting a container takes longest.
pub(super) const TIMEOUT: Duration = Duration::from_secs(120);
/// The limit for an answer, in bytes. An inspect has some ten kilobytes.
const LARGEST_ANSWER: u64 = 4 << 20;

/// The properties of a container that the guard needs. They are found by searching for the keys. These occur
/// in this form nowhere else, because the engine writes a quotation mark within a text as `\"`.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct GuardedState {
    pub(super) is_up: bool,
    pub(super) is_paused: bool,
    pub(super) has_policy: bool,
    /// Whether the engine failed to start it.
    pub(super) has_failed: bool,
    pub(super) exit_code: i64,
    /// The start time, in a form that can be compared as text.
    pub(super) started_at: String,
    pub(super) text: String,
}

impl GuardedState {
    pub(super) fn parse(text: String) -> Self {
        let state = part(&text, "\"State\":{", "\"FinishedAt\"").unwrap_or_default();
        let is = |key: &str| state.contains(&format!("\"{key}\":true"));
        let started = part(state, "\"StartedAt\":\"", "\"").unwrap_or_default();
        Self {
            is_paused: is("Paused"),
            is_up: is("Running") || is("Restarting") || is("Paused"),
            has_policy: ["always", "on-failure"]
                .iter()
                .any(|policy| text.contains(&format!("\"RestartPolicy\":{{\"Name\":\"{policy}\""))),
            has_failed: part(state, "\"Error\":\"", "\"").is_some_and(|error| !error.is_empty()),
            exit_code: part(state, "\"ExitCode\":", ",").and_then(|code| code.parse().ok()).unwrap_or(-1),
            started_at: comparable(started),
            text,
        }
    }
}

pub(super) fn inspect(id: &str) -> Result<Option<GuardedState>, String> {
    let answer = call("GET", &format!("/containers/{id}/json"), None)?;
    if answer.status == 404 {
        return Ok(None);
    }
    answer.expect_success().map(|text| Some(GuardedState::parse(text)))
}

/// Returns the address of a container in a network.
pub(super) fn address_in(text: &str, network: &str) -> Option<String> {
    let (_, networks) = text.split_once("\"Networks\":{")?;
    let (_, of_it) = networks.split_once(&format!("\"{network}\":{{"))?;
    let address = part(of_it, "\"IPAddress\":\"", "\"")?;
    (!address.is_empty()).then(|| address.to_owned())
}

pub(super) fn part<'a>(text: &'a str, begin: &str, end: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(begin)?;
    Some(rest.split_once(end)?.0)
}

/// Converts the engine's timestamp to nine digits of fraction, so that it can be compared as text.
pub(super) fn comparable(moment: &str) -> String {
    let moment = moment.trim_end_matches('Z');
    let (seconds, fraction) = moment.split_once('.').unwrap_or((moment, ""));
    format!("{seconds}.{fraction:0<9}")
}

pub(super) struct EngineResponse {
    pub(super) status: u16,
    pub(super) body: Vec<u8>,
}

impl EngineResponse {
    /// Returns the body. Status 304 also counts as success: the state is already as requested.
    pub(super) fn expect_success(self) -> Result<String, String> {
        let text = String::from_utf8_lossy(&self.body).into_owned();
        match self.status {
            200..=299 | 304 => Ok(text),
            status => Err(format!("the engine answered {status}: {}", text.trim())),
        }
    }
}

pub(super) type RequestBody<'a> = Option<(&'a str, &'a [u8])>;

/// Sends a request. It uses HTTP/1.0, so that the answer is not chunked and ends with the connection.
pub(super) fn send(method: &str, target: &str, body: RequestBody<'_>) -> io::Result<UnixStream> {
    let mut stream = UnixStream::connect(ENGINE)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    let mut request = format!("{method} {target} HTTP/1.0\r\nHost: engine\r\n");
    if let Some((kind, content)) = body {
        let _ = write!(request, "Content-Type: {kind}\r\nContent-Length: {}\r\n", content.len());
    }
    request.push_str("\r\n");
    stream.write_all(request.as_bytes())?;
    stream.write_all(body.map_or(&[], |(_, content)| content))?;
    Ok(stream)
}

pub(super) fn call(method: &str, target: &str, body: RequestBody<'_>) -> Result<EngineResponse, String> {
    let read = || {
        let mut answer = Vec::new();
        send(method, target, body)?.take(LARGEST_ANSWER).read_to_end(&mut answer)?;
        Ok(answer)
    };
    let answer = read().map_err(|error: io::Error| format!("the engine does not respond: {error}"))?;
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n");
    let head = String::from_utf8_lossy(&answer[..end.unwrap_or(0)]);
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    let status = status.ok_or_else(|| "the response of the engine is not HTTP".to_owned())?;
    Ok(EngineResponse { status, body: answer[end.map_or(0, |end| end + 4)..].to_vec() })
}

/// Encodes a text for a request's target.
pub(super) fn encoded(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._".contains(&byte) {
            encoded.push(byte.into());
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}
