//! Ports, requests and webhooks over plain TCP on the loopback address.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

/// How long a peer on this host may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// A status and a body.
pub(crate) type Answer = (u16, String);

/// Sends `GET path` to a port of this host.
pub(crate) fn http_get(port: u16, path: &str) -> io::Result<Answer> {
    request(port, "GET", path, &[], b"")
}

/// Sends `GET path` to a Unix socket.
pub(crate) fn socket_get(socket: &Path, path: &str) -> io::Result<Answer> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(super::PATIENCE))?;
    stream.write_all(&message("abide", "GET", path, &[], b""))?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    parse(&answer).ok_or_else(|| io::Error::other("the answer is no HTTP"))
}

/// Sends any request to a port of this host.
pub(crate) fn request(
    port: u16,
    method: &str,
    path: &str,
    fields: &[(&str, &str)],
    body: &[u8],
) -> io::Result<Answer> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(&message(&address.to_string(), method, path, fields, body))?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    parse(&String::from_utf8_lossy(&answer)).ok_or_else(|| io::Error::other("the answer is no HTTP"))
}

/// The bytes of a request.
fn message(host: &str, method: &str, path: &str, fields: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    // With HTTP/1.0, the end of the connection ends the body, which is never chunked.
    let mut head = format!("{method} {path} HTTP/1.0\r\nHost: {host}\r\nContent-Length: {}\r\n", body.len());
    for (name, value) in fields {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    [head.as_bytes(), body].concat()
}

fn parse(answer: &str) -> Option<Answer> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split_whitespace().nth(1)?.parse().ok()?;
    Some((status, body.to_owned()))
}

/// Announces a push in GitHub's format.
pub(crate) fn signed_push(
    port: u16,
    repository: &str,
    secret: &str,
    branch: &str,
    commit: &str,
) -> io::Result<Answer> {
    signed_post(port, repository, secret, "push", push_body(repository, branch, commit).as_bytes())
}

/// The bytes of the request that [`signed_push`] sends.
pub(crate) fn push_message(repository: &str, secret: &str, branch: &str, commit: &str) -> Vec<u8> {
    let body = push_body(repository, branch, commit);
    let fields = signed_fields(secret, "push", body.as_bytes());
    let fields: Vec<(&str, &str)> = fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
    message("127.0.0.1", "POST", &format!("/webhooks/{repository}"), &fields, body.as_bytes())
}

fn push_body(repository: &str, branch: &str, commit: &str) -> String {
    let body = serde_json::json!({
        "ref": format!("refs/heads/{branch}"),
        "before": "0".repeat(commit.len()),
        "after": commit,
        "created": false,
        "deleted": false,
        "forced": false,
        "repository": { "name": repository, "full_name": format!("example/{repository}") },
        "pusher": { "name": "alice" },
        "sender": { "login": "alice" },
        "head_commit": { "id": commit },
    });
    body.to_string()
}

/// Delivers any event in GitHub's format, with a new delivery ID.
pub(crate) fn signed_post(
    port: u16,
    repository: &str,
    secret: &str,
    event: &str,
    body: &[u8],
) -> io::Result<Answer> {
    let fields = signed_fields(secret, event, body);
    let fields: Vec<(&str, &str)> = fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
    request(port, "POST", &format!("/webhooks/{repository}"), &fields, body)
}

fn signed_fields(secret: &str, event: &str, body: &[u8]) -> [(&'static str, String); 5] {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap();
    mac.update(body);
    [
        ("Content-Type", "application/json".to_owned()),
        ("User-Agent", "GitHub-Hookshot/test".to_owned()),
        ("X-GitHub-Event", event.to_owned()),
        ("X-GitHub-Delivery", uuid::Uuid::new_v4().to_string()),
        ("X-Hub-Signature-256", format!("sha256={}", hex::encode(mac.finalize().into_bytes()))),
    ]
}
