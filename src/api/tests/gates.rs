//! Approvals, rejections and the gates of promotions, over the API.

use std::sync::Arc;

use axum::http::Method;
use serde_json::{Value, json};

use super::{Answer, Api, api, at, digest, image, name};
use crate::model::access::{AuditStamp, Role, Token};
use crate::model::gates::Gates;
use crate::model::name::{Generation, TokenName};
use crate::record::{NewToken, Soaked};

/// The API with gates for `prod`; `test` runs generation 1 healthy.
async fn gated(gates: Gates) -> Api {
    let api = api();
    edit(&api, gates);
    api.ready("test", 1).await;
    api
}

fn edit(api: &Api, gates: Gates) {
    let mut state = (**api.manifest.borrow()).clone();
    state.manifest.environments.get_mut(&name("prod")).unwrap().gates = gates;
    api.manifest.send_replace(Arc::new(state));
}

fn approvals(approvals: u32) -> Gates {
    Gates { approvals, ..Gates::default() }
}

async fn token(api: &Api, called: &str, role: Role) -> Token {
    let new = NewToken { name: TokenName::new(called).unwrap(), role, expires: None };
    api.handles.token_writer.create(new, AuditStamp { at: at(0), by: "alice".into() }).await.unwrap().0
}

fn tester() -> Role {
    Role::Tester { environments: [name("test")].into() }
}

async fn act(api: &Api, token: &Token, path: &str, body: Value) -> Answer {
    api.ask_as(token, Method::POST, &format!("/api/v1/environments/{path}"), body.to_string()).await
}

async fn promotes(api: &Api, body: Value) -> Answer {
    let mut all = json!({"from": "test"});
    all.as_object_mut().unwrap().extend(body.as_object().unwrap().clone());
    api.post("prod/promote", all).await
}

fn generation(api: &Api, environment: &str) -> u64 {
    api.handles.desired.get(&name(environment)).unwrap().entry.generation.0
}

fn events(api: &Api, environment: &str) -> Vec<String> {
    let events = api.handles.status.events(Some(&name(environment)), None, 100).unwrap();
    events.into_iter().map(|event| event.message).collect()
}

#[tokio::test]
async fn a_tester_approves_and_someone_else_promotes() {
    let api = gated(approvals(1)).await;
    let anna = token(&api, "anna", tester()).await;
    let closed = promotes(&api, json!({})).await;
    closed.refuses(409, "nothing was changed: prod is waiting: 0 of 1 approval");
    assert_eq!(closed.json()["error"], "gates-closed");
    let view = api.get("/api/v1/environments/prod").await.json();
    assert_eq!(view["waiting"], "prod is waiting: 0 of 1 approval");
    let moved = act(&api, &anna, "test/approve", json!({"note": "all pages load", "seen": 1})).await.moved();
    assert!(moved["message"].as_str().unwrap().ends_with("is approved for prod"), "{moved}");
    let seen = api.get("/api/v1/environments/test/evidence").await.json();
    assert_eq!(seen["evidence"][0]["kind"], "approved");
    assert_eq!(seen["evidence"][0]["by"]["token"], anna.id.as_str());
    assert_eq!(seen["onward"][0]["message"], "prod can be promoted");
    assert_eq!(seen["onward"][0]["gates"][0]["sentence"], "1 of 1 approval (anna)");
    promotes(&api, json!({"seen": 0, "note": "for the fair"})).await.moved();
    let entry = api.handles.desired.get(&name("prod")).unwrap().entry;
    assert_eq!(
        (entry.image, entry.note.as_deref()),
        (Some(image(1)), Some("from test generation 1; for the fair"))
    );
    assert_eq!(api.get("/api/v1/environments/prod").await.json()["waiting"], Value::Null);
    assert!(events(&api, "test")[0].contains("token anna (socket) approved"), "{:?}", events(&api, "test"));
}

#[tokio::test]
async fn an_approval_lapses_with_the_image_and_with_the_gates() {
    let api = gated(approvals(1)).await;
    api.post("test/approve", json!({})).await.moved();
    edit(&api, approvals(2));
    promotes(&api, json!({})).await.refuses(409, "0 of 2 approvals");
    edit(&api, approvals(1));
    api.record("test", 2).await;
    api.report(&super::status("test", 2)).await;
    promotes(&api, json!({})).await.refuses(409, "0 of 1 approval");
    assert_eq!(generation(&api, "prod"), 0);
}

#[tokio::test]
async fn a_rejection_blocks_promotion_until_an_authorized_withdrawal() {
    let api = gated(Gates::default()).await;
    let (anna, ben) = (token(&api, "anna", tester()).await, token(&api, "ben", tester()).await);
    api.post("test/reject", json!({})).await.refuses(400, "give a `reason`");
    act(&api, &anna, "test/reject", json!({"reason": "the logo is gone"})).await.moved();
    promotes(&api, json!({})).await.refuses(409, "rejected by anna in test: the logo is gone");
    api.post("prod/set", json!({"image": digest(1).to_string()})).await.refuses(409, "the logo is gone");
    // It shows wherever the image is.
    api.record("dev", 1).await;
    let warnings = api.get("/api/v1/environments/dev").await.json()["warnings"].to_string();
    assert!(warnings.contains("rejected by anna in test: the logo is gone"), "{warnings}");
    act(&api, &ben, "test/withdraw", json!({"reason": "it is back"})).await.moved();
    act(&api, &ben, "test/withdraw", json!({})).await.refuses(409, "nothing is rejected in `test`");
    promotes(&api, json!({})).await.moved();
    let messages = events(&api, "test");
    assert!(messages[0].contains("rejected") && messages[1].contains("withdrew"), "{messages:?}");
}

#[tokio::test]
async fn an_images_deployer_can_neither_approve_it_nor_override_a_rejection() {
    let gates = Gates { others_only: true, ..approvals(1) };
    let api = gated(gates).await;
    let carol = token(&api, "carol", Role::Admin).await;
    act(&api, &carol, "test/set", json!({"image": digest(7).to_string()})).await.moved();
    api.report(&super::status("test", 2)).await;
    let mut running = super::status("test", 2);
    running.running.as_mut().unwrap().image_id = Some(digest(7));
    api.report(&running).await;
    let as_tester = token(&api, "carol2", tester()).await;
    act(&api, &carol, "test/approve", json!({})).await.refuses(409, "you pushed, set or promoted this image");
    act(&api, &as_tester, "test/approve", json!({})).await.moved();
    // For the promotion, the person who approved does not count as another person.
    api.handles.token_writer.revoke(&as_tester.id, AuditStamp { at: at(1), by: "x".into() }).await.unwrap();
    let again = token(&api, "carol2", Role::Admin).await;
    act(&api, &again, "prod/promote", json!({"from": "test"})).await.refuses(409, "0 of 1 approval");
    act(&api, &carol, "prod/promote", json!({"from": "test"})).await.moved();
}

#[tokio::test]
async fn only_approvers_named_in_by_count() {
    let api = gated(Gates { by: ["qa".to_owned()].into(), ..approvals(1) }).await;
    api.post("test/approve", json!({}))
        .await
        .refuses(409, "would count for nothing: `prod` counts those of qa");
    let qa = token(&api, "qa", tester()).await;
    act(&api, &qa, "test/approve", json!({})).await.moved();
    promotes(&api, json!({})).await.moved();
}

#[tokio::test]
async fn an_approval_lapses_with_the_last_token_of_its_author() {
    let api = gated(approvals(1)).await;
    let revoke = async |token: &Token| {
        let stamp = AuditStamp { at: at(1), by: "x".into() };
        api.handles.token_writer.revoke(&token.id, stamp).await.unwrap();
    };
    let anna = token(&api, "anna", tester()).await;
    act(&api, &anna, "test/approve", json!({})).await.moved();
    revoke(&anna).await;
    promotes(&api, json!({})).await.refuses(409, "0 of 1 approval");
    // Issued again, the token is the same person's.
    let again = token(&api, "anna", tester()).await;
    let listed = api.get("/api/v1/environments/test/evidence").await.json().to_string();
    assert!(listed.contains("anna"), "the approval stays in the list: {listed}");
    act(&api, &again, "test/reject", json!({"reason": "no"})).await.moved();
    revoke(&again).await;
    promotes(&api, json!({})).await.refuses(409, "rejected by anna");
    let ben = token(&api, "ben", tester()).await;
    act(&api, &ben, "test/withdraw", json!({"reason": "yes"})).await.moved();
    act(&api, &ben, "test/approve", json!({})).await.moved();
    promotes(&api, json!({})).await.moved();
}

#[tokio::test]
async fn an_override_needs_an_admin_and_a_reason_and_is_recorded() {
    let api = gated(approvals(1)).await;
    let environments = [name("prod")].into();
    let ci = token(&api, "ci", Role::Deployer { environments }).await;
    let body = json!({"from": "test", "override": true, "reason": "the shop is down"});
    assert_eq!(act(&api, &ci, "prod/promote", body).await.status, 403);
    promotes(&api, json!({"override": true})).await.refuses(400, "give a `reason`");
    act(&api, &ci, "prod/set", json!({"image": digest(1).to_string(), "reason": "x"}))
        .await
        .refuses(409, "gates");
    assert_eq!(generation(&api, "prod"), 0);
    promotes(&api, json!({"override": true, "reason": "the shop is down"})).await.moved();
    let note = api.handles.desired.get(&name("prod")).unwrap().entry.note.unwrap();
    assert!(note.contains("past its gates (0 of 1 approval): the shop is down"), "{note}");
    assert_eq!(events(&api, "prod"), ["alice overrode the gates (0 of 1 approval): the shop is down"]);
}

#[tokio::test]
async fn rollback_hold_and_resume_ignore_gates_and_rejections() {
    let api = gated(approvals(1)).await;
    api.ready("prod", 2).await;
    api.post("prod/reject", json!({"reason": "bad", "digest": digest(1).to_string()})).await.moved();
    promotes(&api, json!({})).await.refuses(409, "rejected");
    api.post("prod/rollback", json!({})).await.moved();
    assert_eq!(
        api.handles.desired.get(&name("prod")).unwrap().entry.image,
        Some(image(1)),
        "even to a rejected one"
    );
    api.post("prod/resume", json!({})).await.moved();
    api.post("prod/hold", json!({"reason": "x"})).await.moved();
}

#[tokio::test]
async fn soak_time_counts_only_for_this_image() {
    let api = gated(Gates { soak: Some(std::time::Duration::from_secs(60)), ..Gates::default() }).await;
    let soaked = |number, seconds: u64| {
        let environment = name("test");
        let (image, generation, millis, at) = (image(number), Generation(1), seconds * 1000, at(5));
        vec![Soaked { environment, image, generation, millis, restarts: 0, at }]
    };
    let writer = &api.handles.status_writer;
    writer.soaked(soaked(2, 600)).await.unwrap();
    writer.soaked(soaked(1, 40)).await.unwrap();
    promotes(&api, json!({})).await.refuses(409, "soak 40 of 60 s");
    writer.soaked(soaked(1, 20)).await.unwrap();
    promotes(&api, json!({})).await.moved();
}

#[tokio::test]
async fn every_command_rejects_stale_state_and_reports_the_current_one() {
    let api = gated(Gates::default()).await;
    api.ready("prod", 3).await;
    let image = digest(9).to_string();
    for (command, body) in [
        ("set", json!({"image": image})),
        ("promote", json!({"from": "test"})),
        ("rollback", json!({})),
        ("hold", json!({"reason": "x"})),
        ("resume", json!({})),
        ("sync", json!({})),
        ("reject", json!({"reason": "x"})),
    ] {
        let with = |seen: u64| {
            let mut body = body.clone();
            body["seen"] = json!(seen);
            body
        };
        let before = api.handles.desired.get(&name("prod")).unwrap();
        let answer = api.post(&format!("prod/{command}"), with(2)).await;
        answer.refuses(
            409,
            "nothing was changed: you looked at generation 2 of `prod`, and it is at generation 3 now (set",
        );
        assert_eq!(api.handles.desired.get(&name("prod")).unwrap(), before, "{command}");
    }
    api.post("test/approve", json!({"seen": 7})).await.refuses(409, "you looked at generation 7 of `test`");
    api.post("prod/hold", json!({"reason": "x", "seen": 3})).await.moved();
    api.post("prod/rollback", json!({"seen": 3})).await.moved();
}

#[tokio::test]
async fn only_the_source_of_a_promotion_can_be_approved() {
    let api = gated(approvals(1)).await;
    api.post("prod/approve", json!({})).await.refuses(422, "approve the image in `test`");
    api.post("lab/approve", json!({})).await.refuses(422, "nothing is promoted from `lab`");
}

#[tokio::test]
async fn evidence_travels_with_an_export() {
    let api = gated(approvals(1)).await;
    api.post("test/approve", json!({"note": "good"})).await.moved();
    api.post("test/reject", json!({"reason": "not so good"})).await.moved();
    let export = api.get("/api/v1/export").await.text;
    let other = gated(approvals(1)).await;
    other.ask(Method::POST, "/api/v1/import", export).await.moved();
    let evidence = |api: &Api| api.handles.desired.evidence(&name("test")).unwrap();
    assert_eq!(evidence(&other), evidence(&api));
    assert_eq!(evidence(&other).len(), 2);
    other.post("test/withdraw", json!({})).await.moved();
    let numbers: Vec<u64> = evidence(&other).iter().map(|found| found.sequence).collect();
    assert_eq!(numbers, [1, 2], "a withdrawal is part of the rejection");
}
