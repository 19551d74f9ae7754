//! Read requests.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use axum::http::Method;
use serde_json::json;

use super::{FakeController, ManifestState, api, api_with, at, digest, manifest, name, status};
use crate::model::build::{BuildKey, BuildRecord, BuildResult};
use crate::model::desired::Outcome;
use crate::model::event::EventKind;
use crate::model::name::{AgentName, Generation};
use crate::model::spec::EnvironmentSpec;
use crate::model::status::{Condition, Reason, Status};

#[tokio::test]
async fn the_overview_lists_every_environment_and_all_warnings() {
    let api = api();
    api.ready("dev", 2).await;
    api.record("old", 1).await;
    let gone = Status { condition: Condition::Blocked, reason: Reason::NotInManifest, ..status("old", 1) };
    api.report(&gone).await;
    let problem = Some("dev.toml:3: unknown key".to_owned());
    api.manifest.send(Arc::new(ManifestState { problem, ..manifest() })).unwrap();

    let overview = api.get("/api/v1/environments").await.json();
    let environments = overview["environments"].as_array().unwrap();
    let names: Vec<_> = environments.iter().map(|view| view["environment"].as_str().unwrap()).collect();
    assert_eq!(names, ["dev", "lab", "old", "prod", "test"]);
    assert_eq!(
        overview["warnings"],
        json!([
            "the edited manifest is not applied, and the last valid one stays in use: dev.toml:3: unknown key",
            "it is only a test"
        ])
    );
    assert_eq!(overview["daemon"], true);
    assert_eq!(environments[0]["status"], "Ready");
    assert_eq!(environments[0]["port"], 18900);
    assert_eq!(environments[1]["port"], 8900, "not published");
    assert_eq!(
        (&environments[1]["status"], &environments[1]["reason"]),
        (&json!("Progressing"), &json!("Unknown"))
    );
    assert_eq!(
        (&environments[2]["reason"], &environments[2]["container"]),
        (&json!("NotInManifest"), &json!(null))
    );
}

#[tokio::test]
async fn an_environment_shows_record_and_status_side_by_side() {
    let api = api();
    api.ready("dev", 2).await;
    api.record("dev", 3).await;
    let view = api.get("/api/v1/environments/dev").await.json();
    assert_eq!((&view["generation"], &view["observed_generation"]), (&json!(3), &json!(2)));
    assert_eq!((&view["status"], &view["reason"]), (&json!("Progressing"), &json!("Updating")));
    assert_eq!(view["image"]["id"], digest(3).to_string());
    assert_eq!(view["running"]["image_id"], digest(2).to_string());
    assert_eq!((&view["host"], &view["held"]), (&json!(null), &json!(null)));
    assert_eq!(view["since"], at(3).to_string());
}

#[tokio::test]
async fn an_environment_with_a_corrupt_record_hides_no_other() {
    let api = api();
    api.ready("test", 1).await;
    api.handles.spoil(&name("dev"));
    let environments = &api.get("/api/v1/environments").await.json()["environments"];
    assert_eq!(
        (&environments[0]["environment"], &environments[0]["status"]),
        (&json!("dev"), &json!("Blocked"))
    );
    assert_eq!(environments[3]["status"], "Ready");
    api.post("dev/set", json!({"image": digest(1).to_string()})).await.refuses(503, "the record of `dev`");
    assert_eq!(api.get("/metrics").await.status, 200);
}

#[tokio::test]
async fn an_unknown_environment_gets_a_suggestion() {
    let api = api();
    for path in ["tset", "tset/history", "tset/events", "tset/plan", "tset/logs"] {
        let answer = api.get(&format!("/api/v1/environments/{path}")).await;
        answer.refuses(404, "unknown environment `tset`; did you mean `test`?");
    }
    api.post("tset/set", json!({})).await.refuses(404, "did you mean `test`?");
    api.get("/api/v1/environments/Dev").await.refuses(404, "did you mean `dev`?");
    api.get("/api/v1/environments/production").await.refuses(404, "known environments: dev, lab, prod, test");
    api.get("/api/v1/environments/%0a%1b%5b31m").await.refuses(404, "unknown environment");
    api.get("/api/v1/environments/%ff").await.refuses(400, "the name of the environment is not UTF-8");
    assert!(!api.get("/api/v1/environments/%1b%5b31m").await.text.contains("\\u001b"));
}

#[tokio::test]
async fn unknown_paths_and_methods_get_a_readable_error() {
    let api = api();
    api.get("/api/v2/environments").await.refuses(404, "/api/v1/");
    api.get("/api/v1/environments/dev/nothing").await.refuses(404, "unknown path");
    api.ask(Method::DELETE, "/api/v1/environments/dev", String::new()).await.refuses(405, "DELETE");
    api.get("/api/v1/environments/dev/set").await.refuses(405, "GET");
    api.get("/api/v1/events?limit=many").await.refuses(400, "limit");
    api.get("/api/v1/events?sinc=1")
        .await
        .refuses(400, "invalid query: unknown field `sinc`: use `after` or `limit`");
}

#[tokio::test]
async fn history_is_newest_first_with_outcomes() {
    let api = api();
    api.ready("dev", 1).await;
    api.record("dev", 2).await;
    let failed = Outcome::Failed("it hurts".into());
    api.handles.status_writer.outcome(&name("dev"), Generation(2), failed).await.unwrap();
    api.record("dev", 3).await;
    let history = api.get("/api/v1/environments/dev/history").await.json();
    let outcomes: Vec<_> =
        history.as_array().unwrap().iter().map(|kept| (&kept["generation"], &kept["outcome"])).collect();
    let failed = json!({"outcome": "failed", "detail": "it hurts"});
    assert_eq!(
        outcomes,
        [(&json!(3), &json!(null)), (&json!(2), &failed), (&json!(1), &json!({"outcome": "ready"})),]
    );
}

#[tokio::test]
async fn events_can_be_filtered_by_environment_and_sequence() {
    let api = api();
    for number in 0..3 {
        for environment in ["dev", "test"] {
            let message = format!("{environment} {number}");
            let writer = &api.handles.status_writer;
            writer.event(&name(environment), EventKind::Step, message, at(number)).await.unwrap();
        }
    }
    let sequences = |answer: super::Answer| -> Vec<u64> {
        answer.json().as_array().unwrap().iter().map(|event| event["sequence"].as_u64().unwrap()).collect()
    };
    assert_eq!(sequences(api.get("/api/v1/events").await), [1, 2, 3, 4, 5, 6]);
    assert_eq!(sequences(api.get("/api/v1/events?limit=2").await), [5, 6]);
    assert_eq!(sequences(api.get("/api/v1/environments/dev/events?after=1").await), [3, 5]);
}

#[tokio::test]
async fn a_plan_requires_a_running_reconcile_loop() {
    let plan = api().get("/api/v1/environments/dev/plan").await.json();
    assert_eq!(plan["steps"], json!(["start it"]));
    let silent = api().get("/api/v1/environments/lab/plan").await;
    silent.refuses(503, "does not");
    let refused = api_with(None).get("/api/v1/environments/dev/plan").await;
    refused.refuses(503, "abide daemon");
    assert_eq!(refused.json()["error"], "no-daemon");
}

#[tokio::test]
async fn container_logs_come_from_the_controller() {
    let path = "/api/v1/environments/dev/logs?follow=true&tail=5&since=2026-01-31T12:00:00Z";
    let text = api().get(path).await.text;
    assert!(text.starts_with("dev LogOptions { follow: true, tail: Some(5), since: Some("), "{text}");
    api_with(None).get("/api/v1/environments/dev/logs").await.refuses(503, "no daemon");
    api().get("/api/v1/environments/dev/logs?since=yesterday").await.refuses(400, "since");
}

fn build(number: u64) -> BuildRecord {
    BuildRecord {
        key: BuildKey(format!("key {number}")),
        content: None,
        reused: None,
        warnings: vec![],
        number,
        environment: name("dev"),
        revision: super::commit(number),
        checkouts: vec![],
        started: at(1),
        finished: at(2),
        result: BuildResult::Failed("no".into()),
        pushed: std::collections::BTreeMap::new(),
    }
}

#[tokio::test]
async fn a_build_log_defaults_to_the_newest_build() {
    let api = api();
    let path = "/api/v1/environments/dev/logs?build=true";
    api.get(path).await.refuses(404, "`dev` has no builds yet");
    for number in [3, 4] {
        api.handles.status_writer.build(&build(number)).await.unwrap();
        std::fs::write(api.home.path().join(format!("{number}.log")), format!("a\nb\nbuild {number}\n"))
            .unwrap();
    }
    assert_eq!(api.get(path).await.text, "a\nb\nbuild 4\n");
    assert_eq!(api.get(&format!("{path}&tail=1")).await.text, "build 4\n");
    assert_eq!(api.get(&format!("{path}&number=3&tail=2")).await.text, "b\nbuild 3\n");
    assert_eq!(api.get(&format!("{path}&number=3&follow=true")).await.text, "a\nb\nbuild 3\n");
    api.get(&format!("{path}&number=9")).await.refuses(404, "build 9 is no longer stored");
}

#[tokio::test]
async fn a_running_build_has_the_newest_log() {
    let api = api_with(Some(FakeController { building: Some(5), ..FakeController::default() }));
    api.handles.status_writer.build(&build(4)).await.unwrap();
    std::fs::write(api.home.path().join("5.log"), "it runs\n").unwrap();
    assert_eq!(api.get("/api/v1/environments/dev/logs?build=true").await.text, "it runs\n");
}

#[tokio::test]
async fn healthz_reports_a_responding_process_as_alive() {
    let answer = api_with(None).get("/healthz").await;
    assert_eq!((answer.status.as_u16(), answer.text.as_str()), (200, "ok\n"));
}

#[tokio::test]
async fn readyz_requires_recent_observations_of_all_containers() {
    let observed = |seconds: Option<u64>, engine: bool| {
        let mut controller = FakeController::default();
        controller.liveness.observed = seconds.map(at);
        controller.liveness.engine = engine;
        api_with(Some(controller))
    };
    assert_eq!(api_with(None).get("/readyz").await.status, 200);
    // The clock is at 1,000 seconds; everything is checked every 30.
    assert_eq!(observed(Some(911), true).get("/readyz").await.status, 200);
    observed(Some(900), true).get("/readyz").await.refuses(503, "1m 40s ago");
    observed(Some(900), false).get("/readyz").await.refuses(503, "the Docker Engine does not respond");
    observed(None, true).get("/readyz").await.refuses(503, "the containers have not been observed yet");
}

#[tokio::test]
async fn metrics_have_a_line_for_every_environment() {
    let api = api();
    api.ready("dev", 2).await;
    api.handles.status_writer.build(&build(1)).await.unwrap();
    api.state.metrics.heal(&name("dev"), Duration::from_millis(180));
    let text = api.get("/metrics").await.text;
    for expected in [
        "# TYPE abide_environment_status gauge",
        "abide_environment_status{environment=\"dev\",status=\"Ready\"} 1",
        "abide_environment_status{environment=\"dev\",status=\"Degraded\"} 0",
        "abide_environment_status{environment=\"prod\",status=\"Progressing\"} 1",
        "abide_environment_generation{environment=\"dev\"} 2",
        "abide_environment_observed_generation{environment=\"dev\"} 2",
        "abide_environment_restarts_total{environment=\"dev\"} 2",
        "abide_environment_status_seconds{environment=\"dev\"} 998",
        "abide_builds_total{result=\"failed\"} 1",
        "abide_builds_total{result=\"built\"} 0",
        "abide_engine_up 1",
        "abide_observation_age_seconds 0",
        "abide_heal_duration_seconds_bucket{le=\"0.2\",environment=\"dev\"} 1",
        "abide_manifest_valid 1",
    ] {
        assert!(text.lines().any(|line| line == expected), "{expected:?} is not in\n{text}");
    }
    assert!(!text.contains("observed_generation{environment=\"prod\"}"), "what is not known has no line");
}

#[tokio::test]
async fn environments_of_a_disconnected_agent_are_looked_up_once() {
    const MANY: usize = 400;
    let api = api();
    let mut state = manifest();
    let spec = state.manifest.environments[&name("lab")].clone();
    for number in 0..MANY {
        let host = Some(AgentName::new("online").unwrap());
        let there = EnvironmentSpec { host, ..spec.clone() };
        state.manifest.environments.insert(name(&format!("there-{number}")), there);
    }
    api.manifest.send(Arc::new(state)).unwrap();
    for _ in 0..3 {
        let overview = api.get("/api/v1/environments").await.json();
        assert_eq!(overview["environments"].as_array().unwrap().len(), MANY + 4);
        assert_eq!(api.get("/metrics").await.status, 200);
    }
    assert_eq!(api.state.hub.looked_up.load(Relaxed), MANY, "the record was searched again and again");
}
