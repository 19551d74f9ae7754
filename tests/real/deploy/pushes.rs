//! Pushes: announced, not announced, announced in any order.

use crate::common::{PATIENCE, SECRET, Scene, docker, eventually, request, signed_post};

#[test]
fn a_push_is_deployed_and_history_names_its_author() {
    let Some(scene) = Scene::dev() else { return };
    let commit = scene.push_page("dev", "version two");
    let (status, answer) = scene.announce("dev");
    assert_eq!(status, 202, "{answer}");
    let answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
    assert_eq!(answer["environments"], serde_json::json!(["dev"]), "{answer}");

    let view = scene.ready_at("dev", &commit);
    assert_eq!(scene.page("dev"), "version two");
    assert_eq!(view["image"]["id"], view["running"]["image_id"]);
    assert_eq!(scene.inspect("dev", "{{.Image}}"), view["image"]["id"].as_str().unwrap());
    assert_eq!(scene.containers(), [scene.container("dev")], "the previous container is gone");

    let history = scene.history("dev");
    assert_eq!(history.len(), 2, "{history:?}");
    assert_eq!((&history[0]["origin"], &history[0]["by"]), (&"push".into(), &"github (alice)".into()));
    assert_eq!(history[0]["revision"], commit.as_str());
    assert_eq!(history[0]["outcome"]["outcome"], "ready");
    assert_eq!(history[1]["origin"], "branch poll", "the first commit was announced by nobody");
}

#[test]
fn deliveries_that_change_nothing_report_why() {
    let Some(scene) = Scene::dev() else { return };
    let commit = scene.site.repo.commit_and_push("feature", &[("www/index.html", "never served")]);
    let (status, answer) = scene.announce("feature");
    assert_eq!(status, 200);
    assert!(answer.contains("no environment tracks branch `feature`"), "{answer}");

    let port = scene.daemon.port();
    let (status, _) = signed_post(port, "keepwork", SECRET, "ping", br#"{"zen":"Keep it simple."}"#).unwrap();
    assert_eq!(status, 200);
    let body = format!(r#"{{"ref":"refs/heads/dev","after":"{commit}"}}"#);
    for (secret, repository) in [("not-the-secret-at-all", "keepwork"), (SECRET, "another")] {
        let (status, answer) = signed_post(port, repository, secret, "push", body.as_bytes()).unwrap();
        assert!([401, 404].contains(&status), "{status} {answer}");
        assert!(!answer.contains("feature"), "{answer}");
    }
    let fields = [("Content-Type", "application/json"), ("X-GitHub-Event", "push")];
    let unsigned = request(port, "POST", "/webhooks/keepwork", &fields, body.as_bytes()).unwrap();
    assert_eq!(unsigned.0, 401, "{}", unsigned.1);
    let (status, answer) = scene.announce("dev");
    assert_eq!(status, 200);
    assert!(answer.contains("already recorded"), "{answer}");
    assert_eq!(scene.history("dev").len(), 1);
    assert_eq!(scene.builds_begun(), 1);
}

#[test]
fn the_deletion_of_a_branch_keeps_its_container_running() {
    let Some(scene) = Scene::dev() else { return };
    let container = scene.inspect("dev", "{{.Id}}");
    scene.site.repo.git(&["push", "--quiet", "origin", ":refs/heads/dev"]);
    let body = serde_json::json!({
        "ref": "refs/heads/dev", "before": "1".repeat(40), "after": "0".repeat(40),
        "created": false, "deleted": true, "forced": false,
        "repository": { "name": "keepwork", "full_name": "example/keepwork" },
        "pusher": { "name": "alice" }, "sender": { "login": "alice" }, "head_commit": null,
    });
    let port = scene.daemon.port();
    let (status, answer) =
        signed_post(port, "keepwork", SECRET, "push", body.to_string().as_bytes()).unwrap();
    assert_eq!(status, 200);
    assert!(answer.contains("deleted"), "{answer}");

    // A late delivery makes the controller query git, which has no such branch.
    scene.announce_commit("dev", &"2".repeat(40));
    eventually("status says that the branch is gone", PATIENCE, || {
        scene.abide(&["status"]).stderr.contains("no branch `dev`")
    });
    // A new branch may become visible a little later, so until then the push counts as not verified.
    scene.ready("dev");
    assert_eq!(scene.inspect("dev", "{{.Id}} {{.State.Running}}"), format!("{container} true"));
}

#[test]
fn deliveries_in_the_wrong_order_end_at_the_branch_head() {
    let Some(scene) = Scene::dev() else { return };
    let older = scene.push_page("dev", "older");
    let newer = scene.push_page("dev", "newer");
    assert_eq!(scene.announce_commit("dev", &newer).0, 202);
    scene.ready_at("dev", &newer);
    scene.announce_commit("dev", &older);
    scene.hint_is_taken("dev");
    let view = scene.ready("dev");
    assert_eq!((view["generation"].as_u64(), view["revision"].as_str()), (Some(2), Some(&*newer)));
    assert_eq!(scene.page("dev"), "newer");
    assert_eq!(scene.builds_begun(), 2, "the older commit is never built");
}

#[test]
fn polling_finds_a_push_whose_delivery_was_lost() {
    let Some(scene) = Scene::polled("5s", &["dev"], |manifest| manifest) else { return };
    scene.ready("dev");
    let commit = scene.push_page("dev", "not announced");
    scene.ready_at("dev", &commit);
    assert_eq!(scene.page("dev"), "not announced");
    assert_eq!(scene.history("dev")[0]["origin"], "branch poll");
}

#[test]
fn sync_finds_an_unannounced_push() {
    let Some(scene) = Scene::dev() else { return };
    let commit = scene.push_page("dev", "not announced");
    scene.abide(&["sync", "dev"]);
    scene.ready_at("dev", &commit);
    assert_eq!(scene.page("dev"), "not announced");
}

#[test]
fn a_force_push_back_reuses_the_older_commits_image() {
    let Some(scene) = Scene::dev() else { return };
    let first = scene.ready("dev");
    let commit = first["revision"].as_str().unwrap();
    scene.deploy("dev", "dev", "a mistake");
    scene.site.repo.force("dev", commit);
    assert_eq!(scene.announce("dev").0, 202);
    let back = scene.ready_at("dev", commit);
    assert_eq!((&back["image"]["id"], back["generation"].as_u64()), (&first["image"]["id"], Some(3)));
    assert_ne!(scene.page("dev"), "a mistake");
    assert_eq!(scene.builds_begun(), 2, "the commit is not built a second time");
}

#[test]
fn environments_with_the_same_inputs_share_one_build_and_image() {
    // test tracks dev's branch, and is built like dev.
    let same = |manifest: String| {
        let (head, _) = manifest.split_once("[environment.test.build]").unwrap();
        let (_, build) = manifest.split_once("[environment.dev.build]").unwrap();
        let (build, _) = build.split_once("# ").unwrap();
        let build = build.replace("environment.dev.", "environment.test.");
        format!("{head}[environment.test.build]{build}").replace("\"master\"", "\"dev\"")
    };
    let Some(scene) = Scene::new(&["dev", "test"], same) else { return };
    let (dev, test) = (scene.ready("dev"), scene.ready("test"));
    assert_eq!(dev["image"]["id"], test["image"]["id"]);
    assert!(dev["image"]["id"].is_string());
    assert_eq!(scene.builds_ended(), [1, 0]);
    assert_eq!(scene.builds_begun(), 1);
    let images =
        ["dev", "test"].map(|name| docker(&["inspect", "--format", "{{.Image}}", &scene.container(name)]));
    assert_eq!(images[0], images[1]);
}
