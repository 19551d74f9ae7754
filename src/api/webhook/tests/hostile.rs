//! Malformed payloads of authentic senders, and arbitrary ones.

use proptest::prelude::*;

use super::*;

/// The path of every value in `value`, as JSON pointers.
fn pointers(value: &Value, prefix: &str) -> Vec<String> {
    let children: Vec<(String, &Value)> = match value {
        Value::Object(fields) => fields.iter().map(|(name, value)| (name.clone(), value)).collect(),
        Value::Array(items) => items.iter().enumerate().map(|(at, item)| (at.to_string(), item)).collect(),
        _ => Vec::new(),
    };
    let below = children.into_iter().flat_map(|(name, child)| {
        let path = format!("{prefix}/{name}");
        let mut paths = pointers(child, &path);
        paths.push(path);
        paths
    });
    below.collect()
}

fn remove(value: &mut Value, pointer: &str) {
    let (parent, name) = pointer.rsplit_once('/').unwrap();
    match value.pointer_mut(parent) {
        Some(Value::Object(fields)) => drop(fields.remove(name)),
        Some(Value::Array(items)) => drop(items.remove(name.parse().unwrap())),
        _ => panic!("{pointer} has no parent"),
    }
}

/// `value` with the part at `pointer` removed, or replaced by values of every type.
fn mutations(value: &Value, pointer: &str) -> Vec<Value> {
    let odd = [json!(null), json!(true), json!(-1.5e300), json!("x\0"), json!([[]]), json!({"ref": {}})];
    let replaced = odd.into_iter().map(|odd| {
        let mut mutated = value.clone();
        *mutated.pointer_mut(pointer).unwrap() = odd;
        mutated
    });
    let mut removed = value.clone();
    remove(&mut removed, pointer);
    replaced.chain([removed]).collect()
}

/// Whether a provider's push cannot be understood without this part.
fn is_needed(pointer: &str) -> bool {
    let needed = [
        "/ref",
        "/push",
        "/push/changes",
        "/push/changes/0",
        "/push/changes/0/new/target",
        "/push/changes/0/new/target/hash",
        "/push/changes/0/new/name",
        "/changes",
        "/changes/0",
        "/changes/0/ref",
        "/changes/0/ref/id",
        "/changes/0/toHash",
    ];
    needed.contains(&pointer)
}

#[test]
fn missing_null_or_mistyped_fields_never_cause_a_server_error() {
    for (provider, payload, send) in every_push() {
        for pointer in pointers(&payload, "") {
            for mutated in mutations(&payload, &pointer) {
                let delivery = send(&mutated).read(provider);
                let delivery = delivery.unwrap_or_else(|error| panic!("{pointer}: {error}"));
                let WebhookEvent::Push(changes) = delivery.event else { continue };
                let follows = |change: &RefChange| change.branch.is_some() && change.revision.is_some();
                let understood = changes.iter().any(follows);
                assert!(!(understood && is_needed(&pointer)), "{provider:?} without {pointer}: {changes:?}");
            }
        }
    }
}

#[test]
fn a_malformed_commit_changes_nothing() {
    for after in ["", "--help", &COMMIT[1..], &COMMIT.to_uppercase()] {
        let sent = [
            (Provider::Github, github("push", github_push("refs/heads/dev", after).to_string())),
            (Provider::Gitlab, gitlab(gitlab_push("refs/heads/dev", after).to_string())),
            (Provider::Gitea, gitea("push", gitea_push("refs/heads/dev", after).to_string())),
            (Provider::Bitbucket, bitbucket("repo:push", cloud_push("dev", after).to_string())),
        ];
        for (provider, sent) in sent {
            let event = sent.read(provider).unwrap().event;
            assert!(matches!(event, WebhookEvent::Ignored(_)), "{provider:?} {after:?}: {event:?}");
        }
    }
}

#[test]
fn malformed_signed_json_is_a_bad_request() {
    let duplicate = format!(r#"{{"ref":"refs/heads/dev","ref":"refs/heads/master","after":"{COMMIT}"}}"#);
    let deep = "[".repeat(10_000);
    for body in ["", "[]", "null", "{", r#"{"ref":1e999}"#, r#"{"ref":"\ud800"}"#, &duplicate, &deep] {
        let shown: String = body.chars().take(30).collect();
        assert!(
            matches!(github("push", body).read(Provider::Github), Err(Rejection::BadRequest(_))),
            "{shown}"
        );
        assert!(
            matches!(gitea("push", body).read(Provider::Gitea), Err(Rejection::BadRequest(_))),
            "{shown}"
        );
    }
    let huge = github_push(&"x".repeat(10_000_000), COMMIT).to_string();
    assert!(github("push", huge).read(Provider::Github).is_ok());
}

fn providers() -> impl Strategy<Value = Provider> {
    prop_oneof![
        Just(Provider::Github),
        Just(Provider::Gitlab),
        Just(Provider::Gitea),
        Just(Provider::Bitbucket)
    ]
}

/// Any of the headers that are read, with any value that HTTP can carry.
fn headers() -> impl Strategy<Value = Vec<(usize, Vec<u8>)>> {
    let value = prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..80),
        Just(b"application/json".to_vec()),
        Just(b"application/x-www-form-urlencoded".to_vec()),
        Just(b"push".to_vec()),
        "sha256=[0-9a-fA-F]{60,66}".prop_map(String::into_bytes),
        "v1,[A-Za-z0-9+/]{43}=".prop_map(String::into_bytes),
        "[0-9]{1,25}".prop_map(String::into_bytes),
    ];
    proptest::collection::vec((0..LOOKED_AT.len(), value), 0..8)
}

const LOOKED_AT: [&str; 16] = [
    "content-type",
    "content-encoding",
    "x-github-event",
    "x-github-delivery",
    "x-hub-signature",
    "x-hub-signature-256",
    "x-gitlab-token",
    "webhook-id",
    "webhook-timestamp",
    "webhook-signature",
    "idempotency-key",
    "x-gitea-signature",
    "x-gitea-event",
    "x-gogs-signature",
    "x-event-key",
    "x-request-uuid",
];

proptest! {
    #[test]
    fn unsigned_deliveries_are_always_rejected(
        provider in providers(), headers in headers(), body in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        let mut map = HeaderMap::new();
        for (at, value) in headers {
            if let Ok(value) = HeaderValue::from_bytes(&value) {
                map.append(LOOKED_AT[at], value);
            }
        }
        for secret in [SECRET, SIGNING_TOKEN] {
            prop_assert!(read(provider, &Secret::new(secret), &map, &body, NOW).is_err());
        }
    }

    #[test]
    fn arbitrary_signed_bodies_are_read_or_rejected_as_bad_requests(
        kind in 0_usize..5, body in proptest::collection::vec(any::<u8>(), 0..200), event in "\\PC{0,12}",
    ) {
        let event = if event.is_ascii() { event.as_str() } else { "push" };
        let (provider, sent) = match kind {
            0 => (Provider::Github, github(event, body)),
            1 => (Provider::Gitlab, gitlab(body)),
            2 => (Provider::Gitea, gitea(event, body)),
            3 => (Provider::Bitbucket, bitbucket(event, body)),
            _ => (Provider::Github, github("push", body).with("content-type", "application/x-www-form-urlencoded")),
        };
        let outcome = sent.read(provider);
        prop_assert!(matches!(outcome, Ok(_) | Err(Rejection::BadRequest(_))), "{outcome:?}");
    }

    #[test]
    fn arbitrary_references_and_commits_never_cause_an_error(reference in "\\PC{0,40}", after in "\\PC{0,45}") {
        for (provider, sent) in [
            (Provider::Github, github("push", github_push(&reference, &after).to_string())),
            (Provider::Bitbucket, bitbucket("repo:push", cloud_push(&reference, &after).to_string())),
        ] {
            let delivery = sent.read(provider);
            prop_assert!(delivery.is_ok(), "{delivery:?}");
        }
    }
}
