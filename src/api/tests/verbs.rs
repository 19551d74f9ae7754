//! Every command, and every reason to refuse it.

use std::sync::Arc;

use axum::http::Method;
use serde_json::json;

use super::{Api, api, api_with, at, canary_status, commit, digest, image, manifest, name, status};
use crate::model::canary::CanaryDecision;
use crate::model::desired::{Desired, Hint, Origin, Outcome};
use crate::model::memory::{Good, Memory};
use crate::model::name::{CommitId, Generation, RepositoryName};
use crate::model::status::{Condition, Reason, Status};
use crate::record::{Push, Wakeup};

fn record_of(api: &Api, environment: &str) -> Desired {
    api.handles.desired.get(&name(environment)).unwrap()
}

#[tokio::test]
async fn setting_an_image_id_records_the_actor_and_reason() {
    let api = api();
    let body = json!({"image": digest(1).to_string(), "reason": "a try"});
    let moved = api.post("dev/set", body).await.moved();
    assert_eq!((&moved["generation"], &moved["changed"]), (&json!(1), &json!(true)));
    let entry = record_of(&api, "dev").entry;
    assert_eq!((entry.image, entry.revision), (Some(image(1)), None));
    assert_eq!((entry.origin, entry.by.as_deref()), (Some(Origin::Set), Some("alice")));
    assert_eq!((entry.note.as_deref(), entry.at), (Some("a try"), at(1_000)));
}

#[tokio::test]
async fn a_registry_image_is_set_by_its_digest() {
    let api = api();
    let reference = format!("localhost:5000/keepwork/prod:v1@{}", digest(1));
    api.post("prod/set", json!({"image": reference})).await.moved();
    let image = record_of(&api, "prod").entry.image.unwrap();
    assert_eq!(image.reference.as_deref(), Some("localhost:5000/keepwork/prod:v1"));
    assert_eq!((image.digest, image.id), (Some(digest(1)), None));
}

#[tokio::test]
async fn a_commit_can_be_set_only_if_a_branch_is_tracked() {
    let api = api();
    api.post("dev/set", json!({"commit": commit(7).to_string()})).await.moved();
    let entry = record_of(&api, "dev").entry;
    assert_eq!((entry.revision, entry.image), (Some(commit(7)), None));
    for environment in ["prod", "lab"] {
        let answer = api.post(&format!("{environment}/set"), json!({"commit": commit(7).to_string()})).await;
        answer.refuses(422, "tracks no branch");
    }
}

#[tokio::test]
async fn a_reference_without_a_digest_cannot_be_set() {
    let api = api();
    let cases = [
        (json!({}), "either an `image` or a `commit`"),
        (json!({"image": digest(1).to_string(), "commit": commit(1).to_string()}), "either"),
        (json!({"image": "nginx:latest"}), "has no digest"),
        (json!({"image": "nginx@sha256:12"}), "64 lower-case"),
        (json!({"image": "sha256:12"}), "64 lower-case"),
        (json!({"image": format!("; rm -rf / @{}", digest(1))}), "has no digest"),
        (json!({"image": format!("@{}", digest(1))}), "has no digest"),
        (json!({"commit": "abc123"}), "40 or 64"),
        (json!({"commit": 7}), "`commit` must be a text, not the number 7"),
        (json!({"tag": "latest"}), "unknown field `tag`: use one of `"),
        (json!([]), "invalid request body"),
    ];
    for (body, expected) in cases {
        api.post("dev/set", body).await.refuses(400, expected);
    }
    api.ask(Method::POST, "/api/v1/environments/dev/set", "{".into())
        .await
        .refuses(400, "invalid request body");
    assert_eq!(record_of(&api, "dev").entry.generation, Generation(0));
}

#[tokio::test]
async fn an_overlong_body_is_rejected_with_413() {
    let long = json!({"reason": "x".repeat(100_000)});
    api().post("dev/set", long).await.refuses(413, "length limit");
}

#[tokio::test]
async fn a_change_to_a_held_environment_is_reported_as_waiting() {
    let api = api();
    api.ready("dev", 1).await;
    api.post("dev/hold", json!({"reason": "a demo"})).await.moved();
    let moved = api.post("dev/set", json!({"image": digest(2).to_string()})).await.moved();
    assert!(moved["message"].as_str().unwrap().contains("takes effect on `resume`"), "{moved}");
    assert_eq!(record_of(&api, "dev").entry.generation, Generation(2));
}

#[tokio::test]
async fn without_a_daemon_a_change_is_recorded_with_a_notice() {
    let api = api_with(None);
    let moved = api.post("dev/set", json!({"image": digest(2).to_string()})).await.moved();
    assert!(moved["message"].as_str().unwrap().contains("no daemon is running"), "{moved}");
}

#[tokio::test]
async fn a_promotion_records_the_exact_image_of_test() {
    let api = api();
    api.ready("test", 4).await;
    let body = json!({"from": "test", "digest": digest(4).to_string()});
    let moved = api.post("prod/promote", body).await.moved();
    assert_eq!(moved["generation"], 1);
    let entry = record_of(&api, "prod").entry;
    assert_eq!((entry.image, entry.revision), (Some(image(4)), Some(commit(4))));
    assert_eq!(entry.origin, Some(Origin::Promotion));
    assert_eq!(entry.note.as_deref(), Some("from test generation 4"));
    assert_eq!(entry.by.as_deref(), Some("alice"));
}

#[tokio::test]
async fn a_stale_promotion_is_rejected_naming_both_digests() {
    let api = api();
    api.ready("test", 4).await;
    let answer = api.post("prod/promote", json!({"from": "test", "digest": digest(3).to_string()})).await;
    answer.refuses(409, &digest(3).to_string());
    answer.refuses(409, &digest(4).to_string());
    let answer = api.post("prod/promote", json!({"from": "test", "digest": "latest"})).await;
    answer.refuses(400, "digest");
    assert_eq!(record_of(&api, "prod").entry.generation, Generation(0));
}

#[tokio::test]
async fn promotions_follow_promote_from_in_the_manifest() {
    let api = api();
    api.ready("dev", 1).await;
    api.ready("test", 1).await;
    api.post("prod/promote", json!({"from": "dev"})).await.refuses(409, "from `test`, not from `dev`");
    api.post("test/promote", json!({"from": "dev"})).await.refuses(422, "promote_from");
    api.post("lab/promote", json!({"from": "dev"})).await.refuses(422, "promote_from");
    api.post("prod/promote", json!({"from": "tset"})).await.refuses(404, "did you mean `test`?");
    api.post("prod/promote", json!({})).await.refuses(400, "missing field `from`");
}

#[tokio::test]
async fn only_a_ready_environment_can_be_promoted() {
    let promotion = json!({"from": "test"});
    let silent = api();
    silent.record("test", 1).await;
    silent.post("prod/promote", promotion.clone()).await.refuses(409, "not known yet");

    type Spoil = fn(&mut Status);
    let cases: [(&str, Spoil); 4] = [
        ("its status is Degraded: it hurts", |status| {
            (status.condition, status.reason) = (Condition::Degraded, Reason::Unhealthy);
            status.message = "it hurts".into();
        }),
        ("generation 3 is recorded; the controller has not processed it yet (last: 2)", |status| {
            status.observed_generation = Generation(2);
        }),
        ("is recorded", |status| status.running.as_mut().unwrap().image_id = Some(digest(9))),
        ("not running", |status| status.running = None),
    ];
    for (expected, spoil) in cases {
        let api = api();
        api.ready("test", 3).await;
        let mut status = status("test", 3);
        spoil(&mut status);
        api.report(&status).await;
        api.post("prod/promote", promotion.clone()).await.refuses(409, expected);
    }
}

#[tokio::test]
async fn an_image_whose_id_is_not_known_yet_is_not_promoted() {
    let api = api();
    let by_digest = json!({"image": format!("r/x@{}", digest(8))});
    api.post("test/set", by_digest).await.moved();
    api.report(&status("test", 1)).await;
    api.post("prod/promote", json!({"from": "test"})).await.refuses(409, "not known yet");
}

#[tokio::test]
async fn a_rollback_sets_and_holds_the_last_good_image() {
    let api = api();
    api.ready("dev", 2).await;
    api.record("dev", 3).await;
    let failed = Outcome::Failed("no".into());
    api.handles.status_writer.outcome(&name("dev"), Generation(3), failed).await.unwrap();
    let moved = api.post("dev/rollback", json!({"reason": "it was bad"})).await.moved();
    assert_eq!(moved["generation"], 4);
    let desired = record_of(&api, "dev");
    assert_eq!((desired.entry.image, desired.entry.revision), (Some(image(2)), Some(commit(2))));
    assert_eq!(desired.entry.origin, Some(Origin::Rollback));
    let hold = desired.hold.unwrap();
    assert_eq!(hold.reason, "rolled back to generation 2: it was bad");
    assert_eq!((hold.generation, hold.by.as_str()), (Some(Generation(4)), "alice"));
}

#[tokio::test]
async fn a_rollback_skips_the_current_image_or_uses_the_named_generation() {
    let api = api();
    api.ready("dev", 2).await;
    api.record("dev", 2).await;
    api.post("dev/rollback", json!({})).await.moved();
    assert_eq!(record_of(&api, "dev").entry.image, Some(image(1)));
    api.post("dev/rollback", json!({"to": 2})).await.moved();
    assert_eq!(record_of(&api, "dev").entry.image, Some(image(2)));
}

#[tokio::test]
async fn a_rollback_without_a_target_is_rejected_with_a_reason() {
    let api = api();
    api.post("dev/rollback", json!({})).await.refuses(409, "no earlier generation became ready");
    api.ready("dev", 1).await;
    api.post("dev/rollback", json!({})).await.refuses(409, "no earlier generation became ready");
    api.post("dev/rollback", json!({"to": 1})).await.refuses(409, "is already the current one");
    api.post("dev/rollback", json!({"to": 7})).await.refuses(409, "generation 7 is not in the history");
    api.post("dev/rollback", json!({"to": -1}))
        .await
        .refuses(400, "`to` must be a whole number of 0 or more, not the number -1");
    api.post("dev/set", json!({"commit": commit(9).to_string()})).await.moved();
    api.record("dev", 3).await;
    api.post("dev/rollback", json!({"to": 2})).await.refuses(409, "never had an image");
}

#[tokio::test]
async fn maintenance_is_switched_recorded_and_shown() {
    let api = api();
    api.post("dev/maintenance", json!({"on": true})).await.refuses(422, "not behind the proxy");
    let mut state = manifest();
    state.manifest.front = crate::model::manifest::parse_front(&crate::model::manifest::SourceFile {
        name: "m.toml".to_owned(),
        text: "[front]".to_owned(),
    })
    .unwrap();
    api.manifest.send_replace(Arc::new(state));
    api.post("lab/maintenance", json!({"on": true})).await.refuses(422, "a `hostname` or a port");
    api.post("dev/maintenance", json!({})).await.refuses(400, "on");
    let moved = api.post("dev/maintenance", json!({"on": true, "reason": "a new disk"})).await.moved();
    assert_eq!((&moved["changed"], &moved["generation"]), (&json!(true), &json!(0)));
    let again = api.post("dev/maintenance", json!({"on": true, "reason": "another"})).await.moved();
    assert_eq!(again["changed"], json!(false));
    let maintenance = record_of(&api, "dev").maintenance.unwrap();
    assert_eq!((maintenance.by.as_str(), maintenance.reason.as_deref()), ("alice", Some("a new disk")));
    let view = api.get("/api/v1/environments/dev").await.json();
    assert_eq!(view["maintenance"]["reason"], "a new disk");
    assert!(view["warnings"][0].as_str().unwrap().starts_with("maintenance (a new disk): "), "{view}");
    api.post("dev/maintenance", json!({"on": false})).await.moved();
    assert_eq!(record_of(&api, "dev").maintenance, None);
    let events = api.get("/api/v1/environments/dev/events").await.json().to_string();
    for words in ["alice started maintenance: a new disk", "alice ended maintenance"] {
        assert!(events.contains(words), "{events}");
    }
}

#[tokio::test]
async fn a_canary_is_decided_about_only_while_it_is_under_way() {
    let api = api();
    api.ready("dev", 1).await;
    api.post("dev/canary", json!({"decision": "promote"})).await.refuses(409, "has no canary now");
    api.post("dev/canary", json!({"decision": "maybe"})).await.refuses(400, "maybe");
    api.record("dev", 2).await;
    api.report(&canary_status("dev", 2)).await;
    let view = api.get("/api/v1/environments/dev").await.json();
    assert_eq!((&view["canary"]["state"], &view["canary"]["failed"]), (&json!("under_way"), &json!(2)));
    let moved = api.post("dev/canary", json!({"decision": "abort", "reason": "slow"})).await.moved();
    assert_eq!((&moved["changed"], &moved["generation"]), (&json!(true), &json!(2)));
    let order = record_of(&api, "dev").canary_order.unwrap();
    assert_eq!((order.generation, order.decision), (Generation(2), CanaryDecision::Abort));
    assert_eq!((order.by.as_str(), order.reason.as_deref()), ("alice", Some("slow")));
    let events = api.get("/api/v1/environments/dev/events").await.json().to_string();
    assert!(events.contains("alice aborted the canary of generation 2: slow"), "{events}");

    api.post("dev/hold", json!({"reason": "a demo"})).await.moved();
    api.post("dev/canary", json!({"decision": "promote"})).await.refuses(409, "paused by a hold");
    let view = api.get("/api/v1/environments/dev").await.json();
    assert!(view["canary"]["summary"].as_str().unwrap().starts_with("paused by the hold; 10 % of"), "{view}");
}

#[tokio::test]
async fn a_hold_keeps_the_last_good_generation() {
    let ready = api();
    ready.ready("dev", 2).await;
    ready.post("dev/hold", json!({"reason": "a demo"})).await.moved();
    let hold = record_of(&ready, "dev").hold.unwrap();
    assert_eq!((hold.generation, hold.reason.as_str()), (Some(Generation(2)), "a demo"));

    let on_its_way = api();
    on_its_way.ready("dev", 1).await;
    let good = Good {
        generation: Generation(1),
        image: image(1),
        revision: None,
        container: "c".to_owned(),
        at: at(1),
        first_ready: at(1),
        declared: None,
    };
    let memory = Memory { good: Some(good), ..Memory::default() };
    on_its_way.handles.status_writer.report(&status("dev", 1), &memory).await.unwrap();
    on_its_way.record("dev", 2).await;
    on_its_way.post("dev/hold", json!({"reason": "a demo"})).await.moved();
    assert_eq!(record_of(&on_its_way, "dev").hold.unwrap().generation, Some(Generation(1)));
    on_its_way.post("dev/hold", json!({"reason": "another"})).await.moved();
    assert_eq!(record_of(&on_its_way, "dev").hold.unwrap().generation, Some(Generation(1)));

    // An agent reports this; its reconcile state stays with the agent.
    let far_away = api();
    far_away.ready("prod", 2).await;
    far_away.record("prod", 3).await;
    let moved = far_away.post("prod/hold", json!({"reason": "a demo"})).await.moved();
    assert!(moved["message"].as_str().unwrap().contains("held at generation 2"), "{moved}");
    assert_eq!(record_of(&far_away, "prod").hold.unwrap().generation, Some(Generation(2)));

    let never = api();
    let moved = never.post("dev/hold", json!({"reason": "later"})).await.moved();
    assert!(moved["message"].as_str().unwrap().contains("nothing is started"), "{moved}");
    assert_eq!(record_of(&never, "dev").hold.unwrap().generation, None);
}

#[tokio::test]
async fn a_hold_needs_a_reason() {
    let api = api();
    api.post("dev/hold", json!({})).await.refuses(400, "missing field `reason`");
    api.post("dev/hold", json!({"reason": " \n"})).await.refuses(400, "missing `reason`");
    api.post("dev/hold", json!({"reason": "x".repeat(1_001)})).await.refuses(400, "at most");
    api.post("dev/hold", json!({"reason": " two\r\nlines\u{1b}[31m "})).await.moved();
    assert_eq!(record_of(&api, "dev").hold.unwrap().reason, "two lines [31m");
}

#[tokio::test]
async fn resume_reports_whether_the_environment_was_held() {
    let api = api();
    let moved = api.post("dev/resume", json!({})).await.moved();
    assert_eq!((&moved["changed"], &moved["message"]), (&json!(false), &json!("`dev` was not held")));
    api.post("dev/hold", json!({"reason": "a demo"})).await.moved();
    let moved = api.ask(Method::POST, "/api/v1/environments/dev/resume", String::new()).await.moved();
    assert_eq!(moved["changed"], true);
    assert_eq!(record_of(&api, "dev").hold, None);
}

/// Git answers the same head for every branch, or nothing useful.
fn answer(api: &Api, head: Option<CommitId>) {
    let (mut wakeups, handles) = (api.handles.wakeups.subscribe(), &api.handles);
    let (desired, resolver) = (handles.desired.clone(), handles.resolver.clone());
    tokio::spawn(async move {
        while let Ok(wakeup) = wakeups.recv().await {
            let Wakeup::Desired(name) = wakeup else { continue };
            let Some(asked) = desired.get(&name).unwrap().asked else { continue };
            match &head {
                Some(head) => drop(resolver.advance_head(&name, head, asked).await.unwrap()),
                None => resolver.no_head(&name, asked.into(), false).await.unwrap(),
            }
        }
    });
}

#[tokio::test]
async fn a_sync_reports_what_git_answers() {
    let api = api();
    answer(&api, Some(commit(7)));
    let moved = api.post("dev/sync", json!({})).await.moved();
    assert_eq!((&moved["generation"], &moved["failed"]), (&json!(1), &json!(false)), "{moved}");
    assert!(moved["message"].as_str().unwrap().contains("generation 1 is recorded"), "{moved}");
    let moved = api.post("dev/sync", json!({})).await.moved();
    assert!(moved["message"].as_str().unwrap().contains("git still reports 000000000000"), "{moved}");
    let desired = record_of(&api, "dev");
    assert_eq!((desired.asked, desired.entry.revision), (None, Some(commit(7))));
    let prod = api.post("prod/sync", json!({})).await.moved();
    assert_eq!(prod["message"], "`prod` is being reconciled", "there is nobody to ask");
}

#[tokio::test]
async fn a_pending_push_blocks_a_promotion_unless_a_digest_is_given() {
    let api = api();
    api.ready("test", 4).await;
    let push = Push {
        id: None,
        repository: RepositoryName::new("keepwork").unwrap(),
        hint: Hint { revision: commit(5), by: "github (alice)".into(), at: at(999) },
    };
    api.handles.writer.push(push, &[name("test")]).await.unwrap();
    let unnamed = json!({"from": "test", "seen": digest(4).to_string()});
    api.post("prod/promote", unnamed.clone()).await.refuses(409, "git has not answered yet");
    let named = json!({"from": "test", "digest": digest(4).to_string()});
    assert_eq!(api.post("prod/promote", named).await.moved()["generation"], 1);
    api.handles.resolver.advance_head(&name("test"), &commit(4), at(1_000)).await.unwrap();

    // A newer generation is in progress, and the previous one keeps serving.
    api.handles.resolver.advance_head(&name("test"), &commit(5), at(1_001)).await.unwrap();
    let building = Status {
        condition: Condition::Progressing,
        reason: Reason::Building,
        observed_generation: record_of(&api, "test").entry.generation,
        ..status("test", 4)
    };
    api.report(&building).await;
    api.post("prod/promote", unnamed).await.refuses(409, "its status is Progressing");
    let other = json!({"from": "test", "digest": digest(9).to_string()});
    api.post("prod/promote", other).await.refuses(409, "is not its healthy image");
    let named = json!({"from": "test", "digest": digest(4).to_string()});
    let again = api.post("prod/promote", named).await.moved();
    assert_eq!((&again["changed"], &again["generation"]), (&json!(false), &json!(1)), "{again}");
    assert!(again["message"].as_str().unwrap().starts_with("no change"), "{again}");
}

#[tokio::test]
async fn a_sync_applies_to_one_or_all_environments() {
    let api = api();
    answer(&api, None);
    api.post("dev/sync", json!({})).await.moved();
    assert_eq!(record_of(&api, "dev").sync, Some(at(1_000)));
    assert_eq!(record_of(&api, "prod").sync, None);
    let all = api.ask(Method::POST, "/api/v1/sync", String::new()).await.moved();
    assert_eq!(all.as_array().unwrap().len(), 4);
    assert_eq!(record_of(&api, "prod").sync, Some(at(1_000)));
}

#[tokio::test]
async fn an_undeclared_environment_accepts_only_hold_and_resume() {
    let api = api();
    api.record("old", 1).await;
    for (verb, body) in [
        ("set", json!({"image": digest(1).to_string()})),
        ("promote", json!({"from": "test"})),
        ("rollback", json!({})),
        ("sync", json!({})),
    ] {
        api.post(&format!("old/{verb}"), body).await.refuses(422, "`old` is no longer in the manifest");
    }
    api.post("old/hold", json!({"reason": "it stays"})).await.moved();
    api.post("old/resume", json!({})).await.moved();
}

#[tokio::test]
async fn a_full_disk_is_reported_as_a_server_error() {
    let api = api();
    api.handles.pretend_to_be_full();
    let answer = api.post("dev/set", json!({"image": digest(1).to_string()})).await;
    answer.refuses(503, "full");
    assert_eq!(answer.json()["error"], "disk-full");
    assert_eq!(api.get("/api/v1/environments").await.status, 200);
}

#[tokio::test]
async fn an_inconsistent_export_is_not_imported() {
    let (here, there) = (api(), api());
    here.ready("dev", 2).await;
    let export = here.get("/api/v1/export").await.text;
    let import = |text: String| there.ask(Method::POST, "/api/v1/import", text);
    let imported = import(export.clone()).await;
    assert_eq!(imported.status, 200, "{imported:?}");
    let message = imported.json()["message"].as_str().unwrap().to_owned();
    assert!(message.starts_with("imported the record of 1 environment"), "{message}");
    assert!(message.contains("restart the daemon"), "{message}");
    assert_eq!(record_of(&there, "dev"), record_of(&here, "dev"));

    let mut wrong: serde_json::Value = serde_json::from_str(&export).unwrap();
    wrong["environments"][0]["history"] = json!([]);
    import(wrong.to_string()).await.refuses(422, "does not begin with its current generation");
    import("{}".into()).await.refuses(400, "missing field");
}
