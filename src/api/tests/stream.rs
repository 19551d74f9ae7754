//! Streams: events of the record, and logs that are still written.

use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use axum::http::Request;
use futures::StreamExt as _;
use serde_json::{Value, json};
use tokio::time::timeout;
use tower::ServiceExt as _;

use super::{Api, FakeController, api, api_with, at, commit, digest, manifest, name};
use crate::api::access::Access;
use crate::model::build::{BuildKey, BuildRecord, BuildResult};
use crate::model::event::EventKind;

/// Longer than any of these steps takes on a busy host.
const PATIENCE: Duration = Duration::from_secs(20);

async fn stream(api: &Api, path: &str) -> BodyDataStream {
    let request = Request::get(path).extension(Access::local("alice")).body(Body::empty()).unwrap();
    let response = api.router().oneshot(request).await.unwrap();
    assert_eq!(response.status(), 200);
    response.into_body().into_data_stream()
}

/// A client of `/watch`.
struct Listener {
    pieces: BodyDataStream,
    text: String,
}

impl Listener {
    async fn new(api: &Api) -> Self {
        Self { pieces: stream(api, "/api/v1/watch").await, text: String::new() }
    }

    /// Returns the next message: its kind and its document.
    async fn next(&mut self) -> (String, Value) {
        loop {
            if let Some((message, rest)) = self.text.split_once("\n\n") {
                let field = |name: &str| {
                    message
                        .lines()
                        .find_map(|line| line.strip_prefix(name))
                        .map(|value| value.trim().to_owned())
                };
                let parsed = field("event:").zip(field("data:"));
                self.text = rest.to_owned();
                if let Some((kind, data)) = parsed {
                    return (kind, serde_json::from_str(&data).unwrap());
                }
                continue;
            }
            let piece = timeout(PATIENCE, self.pieces.next()).await.unwrap().unwrap().unwrap();
            self.text.push_str(std::str::from_utf8(&piece).unwrap());
        }
    }

    async fn environments(&mut self, count: usize) -> Vec<String> {
        let mut names = Vec::new();
        while names.len() < count {
            let (kind, document) = self.next().await;
            assert_eq!(kind, "environment", "{document}");
            names.push(document["environment"].as_str().unwrap().to_owned());
        }
        names
    }
}

#[tokio::test]
async fn a_watch_starts_with_every_environment_and_continues_with_changes() {
    let api = api();
    let writer = &api.handles.status_writer;
    writer.event(&name("dev"), EventKind::Step, "long ago", at(1)).await.unwrap();
    let mut listener = Listener::new(&api).await;
    assert_eq!(listener.environments(4).await, ["dev", "lab", "prod", "test"]);

    api.post("test/set", json!({"image": digest(1).to_string()})).await.moved();
    let (kind, view) = listener.next().await;
    assert_eq!(
        (kind.as_str(), &view["environment"], &view["generation"]),
        ("environment", &json!("test"), &json!(1))
    );

    writer.event(&name("dev"), EventKind::Step, "now", at(2)).await.unwrap();
    let (kind, event) = listener.next().await;
    assert_eq!((kind.as_str(), &event["message"], &event["count"]), ("event", &json!("now"), &json!(1)));
    writer.event(&name("dev"), EventKind::Step, "now", at(3)).await.unwrap();
    let (kind, event) = listener.next().await;
    assert_eq!((kind.as_str(), &event["message"], &event["count"]), ("event", &json!("now"), &json!(2)));
}

#[tokio::test]
async fn events_recorded_in_a_burst_are_all_sent() {
    let api = api();
    let mut listener = Listener::new(&api).await;
    listener.environments(4).await;
    let writer = &api.handles.status_writer;
    for number in 0..20 {
        writer.event(&name("dev"), EventKind::Step, format!("step {number}"), at(number)).await.unwrap();
    }
    for number in 0..20 {
        let (kind, event) = listener.next().await;
        assert_eq!((kind.as_str(), &event["message"]), ("event", &json!(format!("step {number}"))));
    }
}

#[tokio::test]
async fn a_manifest_edit_sends_every_environment_to_watchers() {
    let api = api();
    let mut listener = Listener::new(&api).await;
    listener.environments(4).await;
    let mut edited = manifest();
    edited.manifest.environments.remove(&name("lab"));
    api.manifest.send(Arc::new(edited)).unwrap();
    assert_eq!(listener.environments(3).await, ["dev", "prod", "test"]);
}

#[tokio::test]
async fn a_watcher_that_fell_behind_gets_every_environment_again() {
    let api = api();
    let mut listener = Listener::new(&api).await;
    listener.environments(4).await;
    // More than the wakeups remember, while the client does not read.
    for number in 0..1_100 {
        let writer = &api.handles.status_writer;
        writer.event(&name("dev"), EventKind::Step, format!("step {number}"), at(number)).await.unwrap();
    }
    assert_eq!(listener.environments(4).await, ["dev", "lab", "prod", "test"]);
    let (kind, _) = listener.next().await;
    assert_eq!(kind, "event");
}

#[tokio::test]
async fn a_build_log_is_followed_until_the_build_ends() {
    let api = api_with(Some(FakeController::default()));
    let path = api.home.path().join("7.log");
    let mut file = std::fs::File::create(&path).unwrap();
    writeln!(file, "step 1").unwrap();
    let mut pieces = stream(&api, "/api/v1/environments/dev/logs?build=true&number=7&follow=true").await;
    let first = timeout(PATIENCE, pieces.next()).await.unwrap().unwrap().unwrap();
    assert_eq!(first, "step 1\n");

    let rest = tokio::spawn(async move {
        let pieces: Vec<_> = pieces.map(Result::unwrap).collect().await;
        pieces.concat()
    });
    writeln!(file, "step 2").unwrap();
    let verdict = BuildRecord {
        key: BuildKey("key".into()),
        content: None,
        reused: None,
        warnings: vec![],
        number: 7,
        environment: name("test"),
        revision: commit(1),
        checkouts: vec![],
        started: at(1),
        finished: at(2),
        result: BuildResult::Failed("no".into()),
        pushed: std::collections::BTreeMap::new(),
    };
    api.handles.status_writer.build(&verdict).await.unwrap();
    let rest = timeout(PATIENCE, rest).await.unwrap().unwrap();
    assert_eq!(String::from_utf8(rest).unwrap(), "step 2\n");
}

#[tokio::test]
async fn following_a_build_log_ends_without_a_running_daemon() {
    let api = api_with(None);
    std::fs::write(api.home.path().join("7.log"), "step 1\n").unwrap();
    let answer =
        timeout(PATIENCE, api.get("/api/v1/environments/dev/logs?build=true&number=7&follow=true")).await;
    assert_eq!(answer.unwrap().text, "step 1\n");
}
