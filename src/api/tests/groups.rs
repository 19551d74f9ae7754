//! Groups in the API: one guarded write for all members.

use std::sync::Arc;

use axum::http::Method;
use serde_json::{Value, json};

use super::access::deployer;
use super::{Answer, Api, api, at, digest, name, shops, status};
use crate::model::access::{AuditStamp, Role, Token};
use crate::model::gates::Gates;
use crate::model::name::TokenName;
use crate::model::status::{Condition, Reason, Status};
use crate::record::NewToken;

/// `shop-test` runs `test`, and `shop-prod` runs `prod`: each member has as many generations.
async fn running(test: u64, prod: u64) -> Api {
    let api = api();
    api.manifest.send_replace(Arc::new(shops()));
    for member in ["db", "web"] {
        api.ready(&format!("shop-test-{member}"), test).await;
        api.ready(&format!("shop-prod-{member}"), prod).await;
    }
    api
}

fn generations(api: &Api) -> [u64; 2] {
    ["shop-prod-db", "shop-prod-web"]
        .map(|member| api.handles.desired.get(&name(member)).unwrap().entry.generation.0)
}

fn is_held(api: &Api) -> [bool; 2] {
    ["shop-prod-db", "shop-prod-web"]
        .map(|member| api.handles.desired.get(&name(member)).unwrap().hold.is_some())
}

#[tokio::test]
async fn a_command_for_a_group_is_refused_if_one_member_has_another_generation() {
    let api = running(2, 1).await;
    let stale = json!({ "shop-prod-db": 1, "shop-prod-web": 0 });
    for (verb, mut body) in [
        ("hold", json!({ "reason": "audit" })),
        ("resume", json!({})),
        ("rollback", json!({})),
        ("promote", json!({ "from": "shop-test" })),
    ] {
        body["seen"] = stale.clone();
        let answer = api.post(&format!("shop-prod/{verb}"), body).await;
        answer.refuses(409, "nothing was changed: you looked at generation 0 of `shop-prod-web`");
    }
    assert_eq!((generations(&api), is_held(&api)), ([1, 1], [false, false]));
}

#[tokio::test]
async fn the_generations_of_a_group_name_every_member() {
    let api = running(2, 1).await;
    let hold = async |target: &str, seen| {
        api.post(&format!("{target}/hold"), json!({ "reason": "audit", "seen": seen })).await
    };
    hold("shop-prod", json!({ "shop-prod-db": 1 }))
        .await
        .refuses(409, "you looked at were shop-prod-db, and they are shop-prod-db and shop-prod-web now");
    hold("shop-prod", json!(1)).await.refuses(400, "send the generation of each member");
    hold("dev", json!({ "dev": 1 })).await.refuses(400, "`dev` is not a group");
    hold("shop-prod-db", json!(1)).await.refuses(409, "name the group");
    assert_eq!(is_held(&api), [false, false]);
    hold("shop-prod", json!({ "shop-prod-db": 1, "shop-prod-web": 1 })).await.moved();
    assert_eq!(is_held(&api), [true, true]);
}

#[tokio::test]
async fn a_group_is_promoted_from_the_images_that_the_client_saw() {
    let api = running(2, 1).await;
    let promote = async |web: u64| {
        let images = json!({ "shop-test-db": digest(2), "shop-test-web": digest(web) });
        let seen = json!({ "shop-prod-db": 1, "shop-prod-web": 1 });
        api.post("shop-prod/promote", json!({ "from": "shop-test", "images": images, "seen": seen })).await
    };
    promote(1).await.refuses(409, "`shop-test-web` runs");
    assert_eq!(generations(&api), [1, 1], "no member changes alone");
    let moved = promote(2).await.moved();
    assert_eq!(moved["members"].as_array().unwrap().len(), 2, "{moved}");
    assert_eq!(generations(&api), [2, 2]);
}

/// `shop-test` runs its second version, and each member of `shop-prod` asks for this many approvals by others.
async fn gated(approvals: u32) -> Api {
    let api = running(2, 1).await;
    let mut state = shops();
    for member in ["shop-prod-db", "shop-prod-web"] {
        let gates = Gates { approvals, others_only: true, ..Gates::default() };
        state.manifest.environments.get_mut(&name(member)).unwrap().gates = gates;
    }
    api.manifest.send_replace(Arc::new(state));
    api
}

fn tester(environments: &[&str]) -> Role {
    Role::Tester { environments: environments.iter().map(|text| name(text)).collect() }
}

async fn token(api: &Api, called: &str, role: Role) -> Token {
    let new = NewToken { name: TokenName::new(called).unwrap(), role, expires: None };
    api.handles.token_writer.create(new, AuditStamp { at: at(0), by: "alice".into() }).await.unwrap().0
}

async fn act(api: &Api, token: &Token, path: &str, body: Value) -> Answer {
    api.ask_as(token, Method::POST, &format!("/api/v1/environments/{path}"), body.to_string()).await
}

/// What was found about the images of both members of `shop-test`, as words of the API.
fn found(api: &Api) -> [Vec<String>; 2] {
    ["shop-test-db", "shop-test-web"].map(|member| {
        let evidence = api.handles.desired.evidence(&name(member)).unwrap();
        let word = |found| serde_json::to_value(found).unwrap()["kind"].as_str().unwrap().to_owned();
        evidence.iter().map(word).collect()
    })
}

/// What a client sees of `shop-test` at this generation of `shop-test-web`.
fn seen(web: u64) -> Value {
    json!({
        "images": { "shop-test-db": digest(2), "shop-test-web": digest(web) },
        "seen": { "shop-test-db": 2, "shop-test-web": web },
    })
}

fn with(mut body: Value, more: Value) -> Value {
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

#[tokio::test]
async fn a_group_is_approved_and_then_promoted() {
    let api = gated(1).await;
    let anna = token(&api, "anna", tester(&["shop-test"])).await;
    let promote = async || api.post("shop-prod/promote", json!({ "from": "shop-test" })).await;
    promote().await.refuses(409, "0 of 1 approval");
    let done = act(&api, &anna, "shop-test/approve", with(json!({ "note": "fine" }), seen(2))).await.moved();
    let members = done["members"].as_array().unwrap();
    assert_eq!(members.len(), 2, "{done}");
    assert!(members[1]["message"].as_str().unwrap().ends_with("is approved for shop-prod-web"), "{done}");
    assert_eq!(found(&api), [["approved"], ["approved"]]);
    promote().await.moved();
    assert_eq!(generations(&api), [2, 2]);
}

#[tokio::test]
async fn half_a_group_is_never_approved() {
    let api = gated(1).await;
    let anna = token(&api, "anna", tester(&["shop-test"])).await;
    let approve = async |body: Value| act(&api, &anna, "shop-test/approve", body).await;
    for (body, status, words) in [
        (seen(1), 409, "you looked at generation 1 of `shop-test-web`"),
        (json!({ "images": seen(1)["images"] }), 409, "`shop-test-web` runs"),
        (json!({ "digest": digest(2) }), 400, "`digest` is about one environment"),
        (json!({ "seen": 2 }), 400, "send the generation of each member"),
        (json!({ "seen": { "shop-test-db": 2 } }), 409, "the members of `shop-test` that you looked at were"),
    ] {
        approve(body).await.refuses(status, words);
    }
    let (condition, reason) = (Condition::Degraded, Reason::CrashLoop);
    api.report(&Status { condition, reason, ..status("shop-test-web", 2) }).await;
    approve(json!({})).await.refuses(409, "its status is Degraded");
    api.report(&status("shop-test-web", 2)).await;
    // The approval would count for one member and not for the other.
    let carol = token(&api, "carol", Role::Admin).await;
    act(&api, &carol, "shop-test-web/set", json!({ "image": digest(7).to_string() })).await.moved();
    let mut running = status("shop-test-web", 3);
    running.running.as_mut().unwrap().image_id = Some(digest(7));
    api.report(&running).await;
    act(&api, &carol, "shop-test/approve", json!({}))
        .await
        .refuses(409, "your approval of `shop-test-web` would count for nothing");
    assert_eq!(found(&api), [[""; 0]; 2]);
    approve(json!({})).await.moved();
    assert_eq!(found(&api), [["approved"], ["approved"]]);
}

#[tokio::test]
async fn a_rejected_group_is_promoted_nowhere_until_the_rejection_is_withdrawn() {
    let api = gated(0).await;
    let anna = token(&api, "anna", tester(&["shop-test"])).await;
    let judge = async |verb: &str, body: Value| act(&api, &anna, &format!("shop-test/{verb}"), body).await;
    let rejected = |api: &Api| {
        let rejections = api.handles.desired.rejections().unwrap();
        rejections.into_iter().map(|found| found.environment.to_string()).collect::<Vec<_>>()
    };
    judge("reject", json!({})).await.refuses(400, "give a `reason`");
    judge("reject", with(json!({ "reason": "x" }), seen(1))).await.refuses(409, "nothing was changed");
    judge("withdraw", json!({})).await.refuses(409, "nothing is rejected in `shop-test`");
    assert_eq!(rejected(&api), [""; 0]);
    let done = judge("reject", with(json!({ "reason": "slow" }), seen(2))).await.moved();
    assert!(done["message"].as_str().unwrap().contains("`abide reject shop-test --withdraw`"), "{done}");
    assert_eq!(rejected(&api), ["shop-test-db", "shop-test-web"]);
    let promote = async || api.post("shop-prod/promote", json!({ "from": "shop-test" })).await;
    promote().await.refuses(409, "rejected by anna in shop-test-web: slow");
    judge("withdraw", with(json!({}), seen(1))).await.refuses(409, "nothing was changed");
    assert_eq!(rejected(&api), ["shop-test-db", "shop-test-web"], "no half of a withdrawal");
    judge("withdraw", with(json!({ "reason": "fast" }), seen(2))).await.moved();
    assert_eq!(rejected(&api), [""; 0]);
    promote().await.moved();

    // A rejection of one member is withdrawn with the group too.
    act(&api, &anna, "shop-test/reject", json!({ "reason": "no" })).await.moved();
    api.post("shop-test-db/withdraw", json!({})).await.moved();
    assert_eq!(rejected(&api), ["shop-test-web"]);
    let done = judge("withdraw", json!({})).await.moved();
    assert_eq!(done["members"].as_array().unwrap().len(), 1, "{done}");
    assert_eq!(rejected(&api), [""; 0]);
}

#[tokio::test]
async fn only_members_that_are_promoted_are_judged_with_their_group() {
    let api = running(2, 1).await;
    let mut state = shops();
    state.manifest.environments.get_mut(&name("shop-prod-db")).unwrap().supply =
        crate::model::spec::Supply::Manual;
    api.manifest.send_replace(Arc::new(state));
    api.post("shop-test/approve", json!({ "images": { "shop-test-web": digest(2) } })).await.moved();
    api.post("shop-test/reject", json!({ "reason": "no" })).await.moved();
    assert_eq!(found(&api), [vec![], vec!["approved", "rejected"]]);
    api.post("shop-prod/approve", json!({}))
        .await
        .refuses(422, "nothing is promoted from `shop-prod`: approve the images in `shop-test`");
}

#[tokio::test]
async fn a_group_is_synced_in_one_write() {
    let api = running(2, 1).await;
    let synced = |api: &Api| {
        ["shop-prod-db", "shop-prod-web"]
            .map(|member| api.handles.desired.get(&name(member)).unwrap().sync.is_some())
    };
    let sync = async |seen: Value| api.post("shop-prod/sync", json!({ "seen": seen })).await;
    sync(json!({ "shop-prod-db": 1, "shop-prod-web": 0 })).await.refuses(409, "nothing was changed");
    assert_eq!(synced(&api), [false, false]);
    let done = sync(json!({ "shop-prod-db": 1, "shop-prod-web": 1 })).await.moved();
    assert_eq!(done["members"].as_array().unwrap().len(), 2, "{done}");
    assert_eq!(synced(&api), [true, true]);
}

#[tokio::test]
async fn the_commands_of_a_group_are_for_tokens_that_name_the_group() {
    let api = gated(0).await;
    let both = ["shop-test-db", "shop-test-web"];
    let askers = [
        token(&api, "viewer", Role::Viewer).await,
        token(&api, "deployer", deployer(&["shop-test"])).await,
        token(&api, "of-members", deployer(&both)).await,
        token(&api, "tester", tester(&["shop-test"])).await,
        token(&api, "tests-members", tester(&both)).await,
        token(&api, "runner", Role::Runner { environments: [name("shop-test")].into() }).await,
        token(&api, "admin", Role::Admin).await,
    ];
    let judges = [403, 403, 403, 200, 403, 403, 200];
    let moves = [403, 200, 403, 403, 403, 403, 200];
    for (verb, body, expected) in [
        ("approve", json!({}), judges),
        ("reject", json!({ "reason": "no" }), judges),
        ("withdraw", json!({}), judges),
        ("sync", json!({}), moves),
        ("hold", json!({ "reason": "audit" }), moves),
        ("resume", json!({}), moves),
    ] {
        for (asker, expected) in askers.iter().zip(expected) {
            if verb == "withdraw" && expected == 200 {
                // Each finds a rejection to withdraw.
                api.post("shop-test/reject", json!({ "reason": "no" })).await.moved();
            }
            let answer = act(&api, asker, &format!("shop-test/{verb}"), body.clone()).await;
            assert_eq!(answer.status, expected, "{verb} as {}: {}", asker.name, answer.text);
        }
    }
}
