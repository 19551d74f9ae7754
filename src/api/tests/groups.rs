//! Groups in the API: one guarded write for all members.

use std::sync::Arc;

use serde_json::json;

use super::{Api, api, digest, name, shops};

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
