//! Attacks on the hook through the real server, byte for byte.

use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::time::{Instant, sleep, timeout};

use super::*;
use crate::api::serve::ServeLimits;
use crate::api::serve::tests::{Server, hasty, read_to_close, statuses};

/// Longer than any deadline that a test waits for.
const PATIENCE: Duration = Duration::from_secs(60);

const HOOK: &str = "/webhooks/github";

async fn server(limits: ServeLimits) -> (Server, MemoryInbox) {
    let inbox = MemoryInbox::new();
    let hooks =
        WebhookLimits { largest_body: 256 * 1024, body_deadline: limits.body, ..WebhookLimits::default() };
    let router = routes(WebhookState::new(inbox.clone(), || NOW, hooks));
    (Server::start(router, limits).await, inbox)
}

fn push() -> Sent {
    github("push", github_push("refs/heads/dev", COMMIT).to_string())
}

#[tokio::test]
async fn path_traversal_attempts_are_not_found() {
    let (server, inbox) = server(hasty()).await;
    let long = format!("/webhooks/{}", "x".repeat(20_000));
    for path in [
        "//webhooks/github",
        "/webhooks//github",
        "/webhooks/github/",
        "/webhooks/%2e%2e",
        "/webhooks/..%2fgithub",
        "/webhooks/../webhooks/github",
        "/webhooks/github%00",
        "/webhooks/%ff",
        "/webhooks/github%0d%0aX:%20y",
        "/webhooks/GITHUB",
        "/Webhooks/github",
        "/webhooks/",
        "/webhooks",
        "/",
        &long,
    ] {
        let answer = server.exchange(&push().raw(path)).await;
        let shown: String = path.chars().take(40).collect();
        assert_eq!(statuses(&answer), [404], "{shown}: {answer}");
    }
    assert_eq!(inbox.seen(), []);
}

#[tokio::test]
async fn oversized_bodies_are_rejected_in_every_framing() {
    let (server, inbox) = server(hasty()).await;
    let head = "POST /webhooks/github HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n";
    let declared = format!("{head}Content-Length: 1000000000000\r\n\r\n{{");
    let sent = github("push", "x".repeat(300_000)).raw(HOOK);
    let chunk = format!("10000\r\n{}\r\n", "x".repeat(0x10000));
    let signed = format!("{head}X-Hub-Signature-256: sha256={}\r\n", "0".repeat(64));
    let endless = format!("{signed}Transfer-Encoding: chunked\r\n\r\n{}", chunk.repeat(40));
    for request in [declared.into_bytes(), sent, endless.into_bytes()] {
        assert_eq!(statuses(&server.exchange(&request).await), [413]);
    }
    assert_eq!(inbox.seen(), []);
}

#[tokio::test]
async fn a_body_shorter_or_longer_than_declared_is_never_recorded_as_sent() {
    let (server, inbox) = server(hasty()).await;
    let raw = String::from_utf8(push().raw(HOOK)).unwrap();
    let length = push().body.len();
    let declare = |other: usize| raw.replace(&format!("Length: {length}"), &format!("Length: {other}"));
    assert_eq!(statuses(&server.exchange(declare(length - 1).as_bytes()).await)[0], 401);
    assert_eq!(statuses(&server.exchange(declare(length + 1).as_bytes()).await), [408]);
    assert_eq!(inbox.seen(), []);
}

#[tokio::test]
async fn signature_headers_with_odd_bytes_are_rejected() {
    let (server, inbox) = server(hasty()).await;
    for odd in ["sha256=\u{fc}\u{ff}", "sha256=\t", "sha256=%00", &"a".repeat(10_000)] {
        let sent = push().with("x-hub-signature-256", odd);
        assert_eq!(statuses(&server.exchange(&sent.raw(HOOK)).await), [401], "{odd}");
    }
    let raw = String::from_utf8(push().raw(HOOK)).unwrap();
    let nul = raw.replace("sha256=", "sha256=\0");
    assert_eq!(statuses(&server.exchange(nul.as_bytes()).await), [400]);
    assert_eq!(inbox.seen(), []);
}

#[tokio::test]
async fn neither_host_nor_forwarding_headers_change_anything() {
    let (server, inbox) = server(hasty()).await;
    let spoofed = push().with("x-forwarded-for", "127.0.0.1").with("x-forwarded-host", "evil.example");
    let answer = server.exchange(&spoofed.raw(HOOK)).await;
    assert_eq!(statuses(&answer), [202]);
    assert!(!answer.contains("evil"), "{answer}");
    assert_eq!(inbox.seen().len(), 1);
}

#[tokio::test]
async fn two_hundred_slow_connections_do_not_delay_a_good_delivery() {
    let deadline = Duration::from_secs(5);
    let (server, inbox) = server(ServeLimits { header_read: deadline, body: deadline, ..hasty() }).await;
    let head = "POST /webhooks/github HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n";
    let head = format!("{head}X-Hub-Signature-256: sha256={}\r\n", "0".repeat(64));
    let mut slow = Vec::new();
    for number in 0..200 {
        let mut stream = server.connect().await;
        let begin = match number % 2 {
            0 => head.to_owned(),
            _ => format!("{head}Content-Length: 200000\r\n\r\n{{"),
        };
        stream.write_all(begin.as_bytes()).await.unwrap();
        slow.push(tokio::spawn(async move {
            let dribble = async {
                while stream.write_all(b"x").await.is_ok() {
                    sleep(Duration::from_millis(100)).await;
                }
            };
            // Written until the server closes the connection, or for as long as a reader would
            // wait.
            let _ = timeout(deadline * 2, dribble).await;
            read_to_close(&mut stream).await
        }));
    }
    assert_eq!(statuses(&server.exchange(&push().raw(HOOK)).await), [202]);
    assert_eq!(inbox.seen().len(), 1);
    assert!(slow.iter().all(|slow| !slow.is_finished()), "the slow ones were not there to delay it");
    for slow in slow {
        let answer = slow.await.unwrap();
        assert!(!statuses(&answer).iter().any(|status| *status < 400), "{answer}");
    }
}

#[tokio::test]
async fn an_unauthenticated_delivery_is_rejected_before_its_body_arrives() {
    let deadline = PATIENCE;
    let (server, inbox) = server(ServeLimits { header_read: deadline, body: deadline, ..hasty() }).await;
    let head = "HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 200000\r\n";
    for (hook, proof, status) in [
        ("github", "", 401),
        ("github", "X-Hub-Signature-256: sha256=00\r\n", 401),
        ("gitlab", "X-Gitlab-Token: another-token-entirely\r\n", 401),
        ("gitea", "X-Gitea-Signature: \r\n", 401),
        ("nobody", "", 404),
    ] {
        let start = Instant::now();
        let request = format!("POST /webhooks/{hook} {head}{proof}\r\n{{");
        assert_eq!(statuses(&server.exchange(request.as_bytes()).await), [status], "{hook} {proof}");
        assert!(start.elapsed() < deadline, "{hook} {proof}: the body was waited for");
    }
    assert_eq!(inbox.seen(), []);
}
