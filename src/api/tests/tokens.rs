//! Creates, lists and revokes tokens through the API.

use axum::http::Method;
use serde_json::{Value, json};

use super::{Answer, Api, api, at};
use crate::model::access::{AuditStamp, Role};
use crate::model::credential::{Credential, Pin};

const PATH: &str = "/api/v1/tokens";

async fn create(api: &Api, body: &Value) -> Answer {
    api.ask(Method::POST, PATH, body.to_string()).await
}

async fn revoke(api: &Api, which: &str) -> Answer {
    api.ask(Method::DELETE, &format!("{PATH}/{which}"), String::new()).await
}

#[tokio::test]
async fn a_token_is_returned_only_when_created() {
    let api = api();
    let body = json!({"name": "ci", "role": "deployer", "environments": ["dev", "test"], "expires": "90d"});
    let issued = create(&api, &body).await.moved();
    let text = issued["token"].as_str().unwrap();
    let credential = Credential::parse(text).unwrap();
    let token = api.handles.tokens.verify(&credential, at(1_000)).unwrap().unwrap();
    assert_eq!(token.created, AuditStamp { at: at(1_000), by: "alice".into() });
    assert_eq!(token.expires, Some(at(1_000 + 90 * 24 * 60 * 60)));
    assert!(matches!(&token.role, Role::Deployer { environments } if environments.len() == 2));
    let listed = api.get(PATH).await;
    let expected = json!([{
        "id": token.id, "name": "ci", "role": "deployer", "environments": ["dev", "test"],
        "created": {"at": at(1_000), "by": "alice"}, "expires": token.expires, "used": null, "revoked": null,
    }]);
    assert_eq!(listed.json(), expected);
    assert!(!listed.text.contains(text) && !listed.text.contains(&hex::encode(credential.hash())));
}

#[tokio::test]
async fn a_token_contains_the_pin_of_a_self_signed_server() {
    let mut api = api();
    let pin = Pin::of_public_key(b"a key");
    api.state.pin = Some(pin);
    let issued = create(&api, &json!({"name": "ci", "role": "viewer"})).await.moved();
    let credential = Credential::parse(issued["token"].as_str().unwrap()).unwrap();
    assert_eq!(credential.pin(), Some(pin));
    assert!(api.handles.tokens.verify(&credential, at(1_000)).unwrap().is_some());
}

#[tokio::test]
async fn an_agents_token_is_named_after_the_agent() {
    let api = api();
    let issued = create(&api, &json!({"role": "agent", "agent": "online"})).await.moved();
    assert_eq!((&issued["name"], &issued["agent"]), (&json!("online"), &json!("online")));
    create(&api, &json!({"role": "agent", "agent": "online"})).await.refuses(409, "already exists");
    create(&api, &json!({"role": "agent", "agent": "online", "name": "online-2"})).await.moved();
}

#[tokio::test]
async fn an_invalid_token_request_creates_no_token() {
    let api = api();
    let cases = [
        (json!({"role": "admin"}), 400, "missing `name`"),
        (json!({"name": "x"}), 400, "missing field `role`"),
        (json!({"name": "x", "role": "root"}), 400, "`role` must be one of `viewer`, "),
        (json!({"name": "a b", "role": "admin"}), 400, "invalid token name"),
        (json!({"name": "x", "role": "deployer"}), 400, "missing `environments`"),
        (json!({"name": "x", "role": "deployer", "environments": ["prd"]}), 404, "did you mean `prod`?"),
        (
            json!({"name": "x", "role": "viewer", "environments": ["dev"]}),
            400,
            "is only for a deployer, a tester or a runner",
        ),
        (json!({"name": "x", "role": "admin", "agent": "online"}), 400, "`agent` is only for an agent"),
        (json!({"name": "x", "role": "agent"}), 400, "missing `agent`: give the name of the agent"),
        (json!({"role": "agent", "agent": "../x"}), 400, "invalid agent name"),
        (json!({"name": "x", "role": "admin", "expires": "soon"}), 400, "invalid `expires`"),
        (json!({"name": "x", "role": "admin", "expires": "0s"}), 400, "more than zero"),
        (json!({"name": "x", "role": "admin", "secret": "x"}), 400, "unknown field `secret`"),
    ];
    for (body, status, expected) in cases {
        create(&api, &body).await.refuses(status, expected);
    }
    assert_eq!(api.get(PATH).await.json(), json!([]));
}

#[tokio::test]
async fn a_token_is_revoked_by_id_or_by_name() {
    let api = api();
    let first = create(&api, &json!({"name": "ci", "role": "viewer"})).await.moved();
    let answer = revoke(&api, first["id"].as_str().unwrap()).await.moved();
    assert_eq!(answer["revoked"], json!({"at": at(1_000), "by": "alice"}));
    let second = create(&api, &json!({"name": "ci", "role": "viewer"})).await.moved();
    assert_eq!(revoke(&api, "ci").await.moved()["id"], second["id"]);
    revoke(&api, "ci").await.refuses(404, "`ci` is neither");
    // A second revocation succeeds, because the token is revoked as requested.
    revoke(&api, second["id"].as_str().unwrap()).await.moved();
}

#[tokio::test]
async fn a_token_sent_as_an_id_is_not_echoed() {
    let api = api();
    let issued = create(&api, &json!({"name": "ci", "role": "viewer"})).await.moved();
    let text = issued["token"].as_str().unwrap();
    let answer = revoke(&api, text).await;
    answer.refuses(404, "the given text is neither");
    assert!(!answer.text.contains(text));
}

#[tokio::test]
async fn a_full_disk_is_reported_and_no_token_is_created() {
    let api = api();
    api.handles.pretend_to_be_full();
    create(&api, &json!({"name": "ci", "role": "viewer"})).await.refuses(503, "disk");
}
