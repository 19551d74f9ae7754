//! Shared helpers of the webhook tests: samples, signing senders, and an inbox in memory.

mod attacks;
mod endpoint;
mod hostile;
mod providers;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, Request};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde_json::{Value, json};
use sha2::Sha256;

use super::*;
use crate::model::name::{EnvironmentName, RepositoryName};
use crate::record::{Push, PushOutcome};

const SECRET: &str = "a-secret-that-no-one-published";
const SIGNING_TOKEN: &str = "whsec_c2l4dGVlbi1ieXRlcy1vci1tb3JlLW9mLWtleQ==";
const COMMIT: &str = "6113728f27ae82c7b1a177c8d03f9e96e0adf246";
const OTHER: &str = "3a1b6f0f0c6d4a0f8f7a9b8c7d6e5f4a3b2c1d0e";
const NOW: Timestamp = Timestamp::from_millis(1_795_449_600_000);

fn zeros() -> String {
    "0".repeat(40)
}

fn mac(key: &[u8], message: &[u8]) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
    mac.update(message);
    mac.finalize().into_bytes().to_vec()
}

fn hex_mac(message: &[u8]) -> String {
    hex::encode(mac(SECRET.as_bytes(), message))
}

/// A request of a sender.
#[derive(Clone, Debug)]
struct Sent {
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Sent {
    fn new(body: impl Into<Vec<u8>>, headers: &[(&str, &str)]) -> Self {
        let sent = Self { headers: HeaderMap::new(), body: body.into() };
        headers
            .iter()
            .fold(sent.with("content-type", "application/json"), |sent, (name, value)| sent.with(name, value))
    }

    /// Sets the header `name` to `value`.
    fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.insert(header_name(name), HeaderValue::from_bytes(value.as_bytes()).unwrap());
        self
    }

    /// Adds another header `name`.
    fn also(mut self, name: &str, value: &str) -> Self {
        self.headers.append(header_name(name), HeaderValue::from_bytes(value.as_bytes()).unwrap());
        self
    }

    fn without(mut self, name: &str) -> Self {
        self.headers.remove(name);
        self
    }

    fn header(&self, name: &str) -> String {
        self.headers[name].to_str().unwrap().to_owned()
    }

    fn read(&self, provider: Provider) -> Result<VerifiedDelivery, Rejection> {
        read(provider, &Secret::new(SECRET), &self.headers, &self.body, NOW)
    }

    fn is_refused(&self, provider: Provider) -> bool {
        matches!(self.read(provider), Err(Rejection::Unauthorized(_)))
    }

    fn request(&self, path: &str) -> Request<Body> {
        let mut request = Request::post(path).body(Body::from(self.body.clone())).unwrap();
        *request.headers_mut() = self.headers.clone();
        request
    }

    /// The bytes of the request; the connection is closed after it.
    fn raw(&self, path: &str) -> Vec<u8> {
        let mut raw = format!("POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n").into_bytes();
        for (name, value) in &self.headers {
            raw.extend([name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
        }
        raw.extend(format!("Content-Length: {}\r\n\r\n", self.body.len()).bytes());
        raw.extend(&self.body);
        raw
    }
}

fn header_name(name: &str) -> HeaderName {
    name.parse().unwrap()
}

fn github(event: &str, body: impl Into<Vec<u8>>) -> Sent {
    let body = body.into();
    let signature = format!("sha256={}", hex_mac(&body));
    let delivery = "72d3162e-cc78-11e3-81ab-4c9367dc0958";
    Sent::new(
        body,
        &[("x-github-event", event), ("x-github-delivery", delivery), ("x-hub-signature-256", &signature)],
    )
}

fn gitlab(body: impl Into<Vec<u8>>) -> Sent {
    let headers = [
        ("x-gitlab-event", "Push Hook"),
        ("x-gitlab-token", SECRET),
        ("idempotency-key", "f5e5f430-f57b-4e6e-9fac-d9128cd7232f"),
    ];
    Sent::new(body, &headers)
}

/// Signed by the key in [`SIGNING_TOKEN`].
fn signed_gitlab(body: impl Into<Vec<u8>>, seconds: &str) -> Sent {
    let body = body.into();
    let id = "msg_2KWPBgLlAfxdpx2AI54pPJ85f4W";
    let key = STANDARD.decode(&SIGNING_TOKEN["whsec_".len()..]).unwrap();
    let message = [format!("{id}.{seconds}.").as_bytes(), &body].concat();
    let signature = format!("v1,{}", STANDARD.encode(mac(&key, &message)));
    let headers =
        [("webhook-id", id), ("webhook-timestamp", seconds), ("webhook-signature", signature.as_str())];
    Sent::new(body, &headers)
}

fn gitea(event: &str, body: impl Into<Vec<u8>>) -> Sent {
    let body = body.into();
    let signature = hex_mac(&body);
    let prefixed = format!("sha256={signature}");
    // As Gitea sends it: with the headers of its ancestors and of GitHub.
    let headers = [
        ("x-gitea-event", event),
        ("x-gitea-delivery", "f6266f16-1bf3-46a5-9ea4-602e06ead473"),
        ("x-gitea-signature", &signature),
        ("x-gogs-event", event),
        ("x-gogs-signature", &signature),
        ("x-github-event", event),
        ("x-hub-signature-256", &prefixed),
    ];
    Sent::new(body, &headers)
}

fn bitbucket(event: &str, body: impl Into<Vec<u8>>) -> Sent {
    let body = body.into();
    let signature = format!("sha256={}", hex_mac(&body));
    let id = "3a5f1b2c-1111-4222-8333-944455556666";
    Sent::new(body, &[("x-event-key", event), ("x-request-uuid", id), ("x-hub-signature", &signature)])
}

fn github_push(reference: &str, after: &str) -> Value {
    json!({
        "ref": reference, "before": OTHER, "after": after,
        "created": false, "deleted": false, "forced": false, "base_ref": null,
        "head_commit": {"id": after, "message": "Repair the page\u{1b}[31m\r\n", "author": {"name": "Alice"}},
        "commits": [{"id": after, "message": "Repair the page", "added": [], "modified": ["www/index.html"]}],
        "repository": {"id": 35129377, "full_name": "tatfook/wikicraft", "private": false,
            "clone_url": "ext::sh -c touch% /tmp/owned", "default_branch": "master"},
        "pusher": {"name": "alice", "email": "alice@example.com"},
        "sender": {"login": "alice", "id": 7},
    })
}

fn gitlab_push(reference: &str, after: &str) -> Value {
    json!({
        "object_kind": "push", "event_name": "push", "before": OTHER, "after": after, "ref": reference,
        "checkout_sha": after, "ref_protected": true, "user_name": "Alice Doe", "user_username": "alice",
        "project": {"id": 15, "path_with_namespace": "tatfook/wikicraft",
            "git_http_url": "http://169.254.169.254/", "default_branch": "master"},
        "commits": [{"id": after, "message": "Repair the page"}], "total_commits_count": 1,
    })
}

fn gitea_push(reference: &str, after: &str) -> Value {
    json!({
        "ref": reference, "before": OTHER, "after": after, "compare_url": "", "total_commits": 1,
        "commits": [{"id": after, "message": "Repair the page"}], "head_commit": null,
        "repository": {"id": 1, "full_name": "tatfook/wikicraft", "clone_url": "file:///etc"},
        "pusher": {"id": 1, "login": "alice", "username": "alice"}, "sender": {"login": "alice"},
    })
}

fn cloud_push(branch: &str, hash: &str) -> Value {
    let side =
        |hash: &str| json!({"type": "branch", "name": branch, "target": {"type": "commit", "hash": hash}});
    json!({
        "push": {"changes": [{"new": side(hash), "old": side(OTHER), "created": false, "closed": false,
            "forced": false, "truncated": false}]},
        "repository": {"full_name": "tatfook/wikicraft", "links": {"html": {"href": "https://localhost"}}},
        "actor": {"nickname": "alice", "display_name": "Alice"},
    })
}

fn server_push(reference: &str, hash: &str) -> Value {
    json!({
        "eventKey": "repo:refs_changed", "actor": {"name": "alice", "displayName": "Alice"},
        "repository": {"slug": "wikicraft", "id": 84},
        "changes": [{"ref": {"id": reference, "displayId": "dev", "type": "BRANCH"},
            "refId": reference, "fromHash": OTHER, "toHash": hash, "type": "UPDATE"}],
    })
}

/// Makes an authentic request from a payload.
type Send = fn(&Value) -> Sent;

/// An authentic push of `COMMIT` to `dev` from every kind of sender.
fn every_push() -> Vec<(Provider, Value, Send)> {
    let dev = "refs/heads/dev";
    vec![
        (Provider::Github, github_push(dev, COMMIT), |value| github("push", value.to_string())),
        (Provider::Gitlab, gitlab_push(dev, COMMIT), |value| gitlab(value.to_string())),
        (Provider::Gitea, gitea_push(dev, COMMIT), |value| gitea("push", value.to_string())),
        (Provider::Bitbucket, cloud_push("dev", COMMIT), |value| bitbucket("repo:push", value.to_string())),
        (Provider::Bitbucket, server_push(dev, COMMIT), |value| {
            bitbucket("repo:refs_changed", value.to_string())
        }),
    ]
}

/// The environments that track branches, and the recorded pushes.
#[derive(Clone, Default)]
struct MemoryInbox {
    hooks: BTreeMap<String, WebhookConfig>,
    follows: BTreeMap<String, Vec<EnvironmentName>>,
    heads: Arc<Mutex<BTreeMap<EnvironmentName, CommitId>>>,
    seen: Arc<Mutex<Vec<Push>>>,
    is_full: bool,
    /// The environments that need checks.
    checked: Vec<EnvironmentName>,
}

impl MemoryInbox {
    /// One hook per provider, named after it; `dev` and `test` track branches.
    fn new() -> Self {
        let names = [
            ("github", Provider::Github),
            ("gitlab", Provider::Gitlab),
            ("gitea", Provider::Gitea),
            ("bitbucket", Provider::Bitbucket),
        ];
        let hook = |(name, provider): (&str, Provider)| {
            let hook = WebhookConfig {
                provider,
                secret: Secret::new(SECRET),
                name: RepositoryName::new(name).unwrap(),
            };
            (name.to_owned(), hook)
        };
        let follow = |branch: &str, environment: &str| {
            (branch.to_owned(), vec![EnvironmentName::new(environment).unwrap()])
        };
        Self {
            hooks: names.into_iter().map(hook).collect(),
            follows: [follow("dev", "dev"), follow("master", "test")].into(),
            ..Self::default()
        }
    }

    fn seen(&self) -> Vec<Push> {
        self.seen.lock().unwrap().clone()
    }
}

impl Inbox for MemoryInbox {
    fn hook(&self, repository: &str) -> Option<WebhookConfig> {
        self.hooks.get(repository).cloned()
    }

    fn followers(&self, _: &RepositoryName, branch: &BranchName) -> Vec<EnvironmentName> {
        self.follows.get(branch.as_str()).cloned().unwrap_or_default()
    }

    fn fetch_manifest(&self, _: &RepositoryName, branch: &BranchName) -> bool {
        branch.as_str() == "manifest"
    }

    fn ask_checks(&self, _: &RepositoryName) -> Vec<EnvironmentName> {
        self.checked.clone()
    }

    async fn record(
        &self,
        push: Push,
        environments: Vec<EnvironmentName>,
    ) -> Result<PushOutcome, StoreError> {
        if self.is_full {
            return Err(StoreError("no space left on device".into()));
        }
        let mut seen = self.seen.lock().unwrap();
        let repeated = push.id.is_some() && seen.iter().any(|earlier| earlier.id == push.id);
        let mut heads = self.heads.lock().unwrap();
        let mut recorded = Vec::new();
        for environment in &environments {
            let before = heads.insert(environment.clone(), push.hint.revision.clone());
            if before.as_ref() != Some(&push.hint.revision) {
                recorded.push(environment.clone());
            }
        }
        seen.push(push.clone());
        Ok(PushOutcome { recorded, repeated })
    }
}
