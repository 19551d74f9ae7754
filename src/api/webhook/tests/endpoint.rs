//! The route: recorded pushes, and answers to senders.

use std::collections::BTreeSet;

use axum::Router;
use axum::http::{Method, Response, StatusCode};
use http_body_util::BodyExt as _;
use tower::ServiceExt as _;

use super::*;
use crate::metrics::{MetricSnapshot, Metrics};

fn router(inbox: &MemoryInbox, limits: WebhookLimits) -> Router {
    routes(WebhookState::new(inbox.clone(), || NOW, limits))
}

async fn post(inbox: &MemoryInbox, hook: &str, sent: &Sent) -> (StatusCode, Value) {
    answered(router(inbox, WebhookLimits::default()), sent.request(&format!("/webhooks/{hook}"))).await
}

async fn answered(router: Router, request: Request<Body>) -> (StatusCode, Value) {
    let response = router.oneshot(request).await.unwrap();
    let status = response.status();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, serde_json::from_slice(&body).unwrap_or(Value::Null))
}

fn push(branch: &str, after: &str) -> Sent {
    github("push", github_push(&format!("refs/heads/{branch}"), after).to_string())
}

#[tokio::test]
async fn a_push_is_recorded_for_the_environments_tracking_its_branch() {
    for (provider, payload, send) in every_push() {
        let inbox = MemoryInbox::new();
        let hook = format!("{provider:?}").to_lowercase();
        let (status, body) = post(&inbox, &hook, &send(&payload)).await;
        assert_eq!((status.as_u16(), body), (202, json!({"status": "recorded", "environments": ["dev"]})));
        let seen = inbox.seen();
        assert_eq!(seen.len(), 1);
        assert_eq!(seen[0].repository.as_str(), hook);
        assert_eq!(seen[0].hint.revision.as_str(), COMMIT);
        assert_eq!((seen[0].hint.by.as_str(), seen[0].hint.at), (format!("{hook} (alice)").as_str(), NOW));
    }
}

#[tokio::test]
async fn a_push_of_the_manifests_branch_is_accepted_without_an_environment() {
    let inbox = MemoryInbox::new();
    let (status, body) = post(&inbox, "github", &push("manifest", COMMIT)).await;
    assert_eq!((status.as_u16(), body), (202, json!({"status": "recorded", "environments": []})));
    assert!(inbox.seen().is_empty());
}

#[tokio::test]
async fn a_replayed_delivery_is_reported_as_repeated() {
    let inbox = MemoryInbox::new();
    assert_eq!(post(&inbox, "github", &push("dev", COMMIT)).await.0, StatusCode::ACCEPTED);
    let (status, body) = post(&inbox, "github", &push("dev", COMMIT)).await;
    assert_eq!((status, &body["status"]), (StatusCode::OK, &json!("repeated")));
    let under_another_id = push("dev", COMMIT).with("x-github-delivery", "another");
    let (status, body) = post(&inbox, "github", &under_another_id).await;
    assert_eq!((status, &body["status"]), (StatusCode::OK, &json!("repeated")));
}

#[tokio::test]
async fn a_known_id_with_another_commit_is_recorded() {
    let inbox = MemoryInbox::new();
    post(&inbox, "github", &push("dev", COMMIT)).await;
    assert_eq!(post(&inbox, "github", &push("dev", OTHER)).await.0, StatusCode::ACCEPTED);
}

#[tokio::test]
async fn each_reference_in_a_delivery_is_recorded() {
    let inbox = MemoryInbox::new();
    let mut payload = cloud_push("master", OTHER);
    let dev = cloud_push("dev", COMMIT)["push"]["changes"][0].take();
    payload["push"]["changes"].as_array_mut().unwrap().push(dev);
    let (status, body) = post(&inbox, "bitbucket", &bitbucket("repo:push", payload.to_string())).await;
    assert_eq!((status, &body["environments"]), (StatusCode::ACCEPTED, &json!(["dev", "test"])));
    let ids: Vec<_> = inbox.seen().into_iter().map(|seen| seen.id.unwrap()).collect();
    assert_eq!(ids[1], format!("{}/1", ids[0]));
}

#[tokio::test]
async fn an_irrelevant_event_is_ignored_with_a_reason() {
    let inbox = MemoryInbox::new();
    for (sent, reason) in [
        (push("x", COMMIT), "no environment tracks branch `x` of github"),
        (push("dev", &zeros()), "branch `dev` was deleted; its containers keep running"),
        (
            github("push", github_push("refs/tags/v1", COMMIT).to_string()),
            "`refs/tags/v1` is not a branch that can be tracked",
        ),
        (
            push("--upload-pack=x", COMMIT),
            "`refs/heads/--upload-pack=x` is not a branch that can be \
            tracked",
        ),
        (github("star", "{}"), "event `star` does not change a branch"),
    ] {
        let (status, body) = post(&inbox, "github", &sent).await;
        assert_eq!((status.as_u16(), body), (200, json!({"status": "ignored", "reason": reason})));
    }
    assert_eq!(inbox.seen(), []);
}

#[tokio::test]
async fn every_delivery_is_counted_under_its_webhook() {
    let metrics = Metrics::default();
    let state = WebhookState::new(MemoryInbox::new(), || NOW, WebhookLimits::default());
    let router = routes(state.measured_by(metrics.clone()));
    let forged = push("dev", COMMIT).with("x-hub-signature-256", "sha256=00");
    for (hook, sent) in [
        ("github", push("dev", COMMIT)),
        ("github", push("dev", COMMIT)),
        ("github", forged),
        ("nobody", push("dev", COMMIT)),
        ("no%22body", push("dev", COMMIT)),
    ] {
        answered(router.clone(), sent.request(&format!("/webhooks/{hook}"))).await;
    }
    let page = metrics.render(MetricSnapshot::default()).unwrap();
    let lines: BTreeSet<&str> =
        page.lines().filter(|line| line.starts_with("abide_webhook_deliveries_total")).collect();
    assert_eq!(
        lines,
        BTreeSet::from([
            r#"abide_webhook_deliveries_total{repository="",result="refused"} 2"#,
            r#"abide_webhook_deliveries_total{repository="github",result="recorded"} 1"#,
            r#"abide_webhook_deliveries_total{repository="github",result="refused"} 1"#,
            r#"abide_webhook_deliveries_total{repository="github",result="repeated"} 1"#,
        ])
    );
    assert!(page.contains("abide_webhook_duration_seconds_count{result=\"refused\"} 3\n"), "{page}");
}

#[tokio::test]
async fn a_ping_is_answered() {
    let (status, body) = post(&MemoryInbox::new(), "github", &github("ping", "{}")).await;
    assert_eq!((status.as_u16(), body), (200, json!({"status": "pong"})));
}

#[tokio::test]
async fn an_unknown_webhook_and_a_bad_signature_get_the_same_body() {
    let inbox = MemoryInbox::new();
    let (unknown, one) = post(&inbox, "nobody", &push("dev", COMMIT)).await;
    let forged = push("dev", COMMIT).with("x-hub-signature-256", "sha256=00");
    let (wrong, other) = post(&inbox, "github", &forged).await;
    assert_eq!((unknown, wrong), (StatusCode::NOT_FOUND, StatusCode::UNAUTHORIZED));
    assert_eq!(one, other);
    assert_eq!(inbox.seen(), []);
}

#[tokio::test]
async fn a_signature_for_one_webhook_is_invalid_for_another() {
    let mut inbox = MemoryInbox::new();
    let secret = Secret::new("a-secret-of-another-hook-entirely");
    let name = RepositoryName::new("other").unwrap();
    inbox.hooks.insert("other".into(), WebhookConfig { provider: Provider::Github, secret, name });
    assert_eq!(post(&inbox, "other", &push("dev", COMMIT)).await.0, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn a_webhook_with_a_weak_secret_is_disabled() {
    let mut inbox = MemoryInbox::new();
    inbox.hooks.get_mut("github").unwrap().secret = Secret::new("changeme");
    assert_eq!(post(&inbox, "github", &push("dev", COMMIT)).await.0, StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn a_failed_record_write_asks_the_sender_to_retry() {
    let inbox = MemoryInbox { is_full: true, ..MemoryInbox::new() };
    let response = respond(&inbox, WebhookLimits::default(), push("dev", COMMIT)).await;
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(response.headers().contains_key("retry-after"));
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert!(!String::from_utf8_lossy(&body).contains("no space"), "the cause is not the sender's business");
}

async fn respond(inbox: &MemoryInbox, limits: WebhookLimits, sent: Sent) -> Response<Body> {
    router(inbox, limits).oneshot(sent.request("/webhooks/github")).await.unwrap()
}

#[tokio::test]
async fn signed_deliveries_are_rate_limited_and_forged_ones_do_not_count() {
    let inbox = MemoryInbox::new();
    let limits = WebhookLimits { burst: 3, per_second: 1, ..WebhookLimits::default() };
    let router = router(&inbox, limits);
    let send = async |sent: &Sent| {
        let response = router.clone().oneshot(sent.request("/webhooks/github")).await.unwrap();
        (response.status().as_u16(), response.headers().get("retry-after").cloned())
    };
    let forged = push("dev", COMMIT).with("x-hub-signature-256", "sha256=00");
    for _ in 0..20 {
        assert_eq!(send(&forged).await.0, 401);
    }
    for _ in 0..3 {
        assert!(send(&push("dev", COMMIT)).await.0 < 300);
    }
    assert_eq!(send(&push("dev", COMMIT)).await, (429, Some(HeaderValue::from_static("1"))));
}

#[tokio::test]
async fn methods_other_than_post_are_rejected() {
    let router = router(&MemoryInbox::new(), WebhookLimits::default());
    for method in ["GET", "PUT", "OPTIONS", "HEAD", "DELETE", "PATCH", "PROPFIND"] {
        let mut request = push("dev", COMMIT).request("/webhooks/github");
        *request.method_mut() = Method::from_bytes(method.as_bytes()).unwrap();
        let response = router.clone().oneshot(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED, "{method}");
        assert_eq!(response.headers()["allow"], "POST");
    }
}

#[tokio::test]
async fn unsupported_body_types_are_rejected() {
    let inbox = MemoryInbox::new();
    for kind in ["text/plain", "multipart/form-data; boundary=x", "application/json; charset=utf-16"] {
        let sent = push("dev", COMMIT).with("content-type", kind);
        assert_eq!(post(&inbox, "github", &sent).await.0, StatusCode::UNSUPPORTED_MEDIA_TYPE, "{kind}");
    }
    let bomb = push("dev", COMMIT).with("content-encoding", "gzip");
    assert_eq!(post(&inbox, "github", &bomb).await.0, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    let bare = push("dev", COMMIT).without("content-type");
    assert_eq!(post(&inbox, "github", &bare).await.0, StatusCode::UNSUPPORTED_MEDIA_TYPE);
}

#[tokio::test]
async fn a_large_signed_push_is_recorded() {
    let mut payload = github_push("refs/heads/dev", COMMIT);
    payload["head_commit"]["message"] = json!("x".repeat(3 * 1024 * 1024));
    let (status, _) = post(&MemoryInbox::new(), "github", &github("push", payload.to_string())).await;
    assert_eq!(status, StatusCode::ACCEPTED);
}

#[test]
fn a_webhooks_debug_output_redacts_its_secret() {
    let shown = format!("{:?}", MemoryInbox::new().hooks);
    assert!(shown.contains("[redacted]") && !shown.contains(SECRET), "{shown}");
}

#[tokio::test]
async fn foreign_check_results_trigger_a_query_of_the_forge() {
    let status = |context: &str| json!({ "sha": COMMIT, "context": context, "state": "pending" }).to_string();
    let of_cloud = |key: &str| json!({ "commit_status": { "key": key, "state": "FAILED" } }).to_string();
    let pipeline = |source: &str| {
        json!({ "object_kind": "pipeline", "object_attributes": { "source": source, "sha": COMMIT } })
            .to_string()
    };
    let others = [
        ("github", github("status", status("ci/build"))),
        ("github", github("check_run", json!({ "check_run": { "head_sha": COMMIT } }).to_string())),
        ("github", github("check_suite", "{}")),
        ("github", github("workflow_run", "{}")),
        ("gitea", gitea("status", status("ci/build"))),
        ("gitea", gitea("workflow_run", "{}")),
        ("gitlab", gitlab(pipeline("push"))),
        ("gitlab", gitlab(json!({ "object_kind": "build" }).to_string())),
        ("bitbucket", bitbucket("repo:commit_status_updated", of_cloud("ci"))),
    ];
    let own = [
        ("github", github("status", status("abide/dev"))),
        ("gitea", gitea("status", status("abide/dev"))),
        ("gitlab", gitlab(pipeline("external"))),
        ("bitbucket", bitbucket("repo:commit_status_created", of_cloud("abide-dev"))),
        ("github", github("deployment_status", "{}")),
    ];
    let dev = EnvironmentName::new("dev").unwrap();
    let inbox = MemoryInbox { checked: vec![dev], ..MemoryInbox::new() };
    for (hook, sent) in others {
        let (status, body) = post(&inbox, hook, &sent).await;
        assert_eq!((status.as_u16(), &body["environments"]), (202, &json!(["dev"])), "{hook}: {body}");
    }
    for (hook, sent) in own {
        let (status, body) = post(&inbox, hook, &sent).await;
        assert_eq!((status.as_u16(), &body["status"]), (200, &json!("ignored")), "{hook}: {body}");
    }
    let unneeded = post(&MemoryInbox::new(), "github", &github("check_suite", "{}")).await;
    assert_eq!(
        (unneeded.0.as_u16(), &unneeded.1["reason"]),
        (200, &json!("no environment needs the checks of github"))
    );
}
