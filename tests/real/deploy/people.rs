//! User commands: promotions, named commits and digests, rollbacks and holds.

use crate::common::Scene;

/// The page of the first commit.
const FIRST: &str = "Hello from <em>dev</em>";
/// A commit and an image that do not exist.
const NO_COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const NO_IMAGE: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

#[test]
fn a_promotion_runs_the_exact_image_of_test_in_prod() {
    let Some(scene) = Scene::new(&["test", "prod"], |manifest| manifest) else { return };
    let test = scene.ready("test");
    assert_eq!(scene.view("prod")["reason"], "NothingRecorded");
    let image = test["image"]["id"].as_str().unwrap();
    let promote = |more: &[&str]| scene.daemon.abide(&[&["promote", "test", "prod"], more].concat());

    let asked = promote(&[]);
    assert_eq!(asked.code, 2, "{asked:?}");
    let short = image.strip_prefix("sha256:").unwrap().get(..12).unwrap();
    assert!(asked.stderr.contains(short) && asked.stderr.contains("--yes"), "{asked:?}");
    let other = promote(&["--yes", "--digest", NO_IMAGE]);
    assert_eq!(other.code, 1, "{other:?}");
    assert!(other.stderr.contains(image), "it says what test runs: {other:?}");
    assert_eq!(scene.history("prod").len(), 0, "nothing moved");

    let promoted = promote(&["--yes", "--wait", "--digest", image]);
    assert_eq!(promoted.code, 0, "{promoted:?}");
    assert_eq!(scene.inspect("prod", "{{.Image}}"), scene.inspect("test", "{{.Image}}"));
    let prod = scene.view("prod");
    assert_eq!((&prod["running"]["image_id"], &prod["revision"]), (&test["image"]["id"], &test["revision"]));
    let history = scene.history("prod");
    assert_eq!(
        (&history[0]["origin"], &history[0]["note"]),
        (&"promotion".into(), &"from test generation 1".into())
    );
    assert!(scene.page("prod").contains("prod"), "the same image, told where it runs");
    assert_eq!(scene.builds_begun(), 1);
}

#[test]
fn nothing_is_promoted_from_an_environment_that_is_not_ready() {
    let Some(scene) = Scene::new(&["test", "prod"], |manifest| manifest) else { return };
    let good = scene.ready("test");
    scene.site.repo.commit_and_push("master", &[("Dockerfile", "FROM scratch\nCOPY no-such-file /\n")]);
    assert_eq!(scene.announce("master").0, 202);
    scene.await_reason("test", "Degraded", "BuildFailed");
    let image = good["image"]["id"].as_str().unwrap();
    for more in [&[][..], &["--digest", image]] {
        let refused = scene.daemon.abide(&[&["promote", "test", "prod", "--yes"], more].concat());
        assert_eq!(refused.code, 1, "{refused:?}");
        assert!(refused.stderr.contains("Degraded") || refused.stderr.contains("no image"), "{refused:?}");
    }
    let wrong_way = scene.daemon.abide(&["promote", "prod", "test", "--yes", "--digest", image]);
    assert_eq!(wrong_way.code, 2, "{wrong_way:?}");
    assert_eq!(scene.history("prod").len(), 0);
}

#[test]
fn an_explicitly_set_commit_is_kept_until_the_branch_moves() {
    let Some(scene) = Scene::dev() else { return };
    let first = scene.ready("dev");
    let chosen = first["revision"].as_str().unwrap();
    scene.deploy("dev", "dev", "second");
    scene.abide(&["set", "dev", "--commit", chosen, "--reason", "to compare"]);
    let set = scene.ready_at("dev", chosen);
    assert_eq!((&set["image"]["id"], &set["origin"]), (&first["image"]["id"], &"set".into()));
    assert!(scene.page("dev").contains(FIRST));
    assert_eq!(scene.builds_begun(), 2, "it was built before");

    assert_eq!(scene.announce("dev").0, 200, "the branch has not moved");
    // A delayed delivery makes the controller query git again, which has nothing new either.
    assert_eq!(scene.announce_commit("dev", chosen).0, 202);
    scene.hint_is_taken("dev");
    assert_eq!(scene.ready("dev")["generation"], set["generation"]);
    scene.deploy("dev", "dev", "third");
}

#[test]
fn a_missing_commit_or_image_is_reported_and_the_old_one_serves() {
    let Some(scene) = Scene::dev() else { return };
    let container = scene.inspect("dev", "{{.Id}}");
    let refused = scene.daemon.abide(&["set", "dev", "--commit", NO_COMMIT]);
    assert!(refused.code == 2 && refused.stderr.contains(NO_COMMIT), "{refused:?}");
    scene.abide(&["set", "dev", NO_IMAGE]);
    scene.await_reason("dev", "Degraded", "ImageNotFound");
    assert_eq!(scene.inspect("dev", "{{.Id}} {{.State.Running}}"), format!("{container} true"));
    let outcomes: Vec<_> =
        scene.history("dev").into_iter().map(|mut entry| entry["outcome"]["outcome"].take()).collect();
    assert_eq!(outcomes, ["failed", "ready"]);

    let unknown = scene.daemon.abide(&["set", "dve", NO_IMAGE]);
    assert_eq!(unknown.code, 2, "{unknown:?}");
    assert!(unknown.stderr.contains("did you mean `dev`?"), "{unknown:?}");
    scene.deploy("dev", "dev", "the next push is taken as ever");
}

#[test]
fn a_rollback_restores_the_old_version_and_holds_it() {
    let Some(scene) = Scene::dev() else { return };
    let first = scene.ready("dev");
    scene.deploy("dev", "dev", "a mistake");
    scene.abide(&["rollback", "dev", "--reason", "checkout is broken"]);
    let held = scene.await_reason("dev", "Held", "HeldByPerson");
    assert!(scene.page("dev").contains(FIRST));
    assert_eq!((&held["image"]["id"], &held["origin"]), (&first["image"]["id"], &"rollback".into()));
    assert!(held["held"]["reason"].as_str().unwrap().contains("checkout is broken"), "{held}");
    let wait = scene.daemon.abide(&["wait", "dev", "--timeout", "30s"]);
    assert_eq!(wait.code, 1, "{wait:?}");

    let pushed = scene.push_page("dev", "pushed while held");
    assert_eq!(scene.announce("dev").0, 202);
    scene.until("the push is recorded", "dev", |view| view["revision"] == pushed.as_str());
    let held = scene.await_reason("dev", "Held", "HeldByPerson");
    assert_eq!(held["generation"], 4);
    assert!(scene.page("dev").contains(FIRST));
    assert_eq!(scene.builds_begun(), 2, "what is held is recorded, and not applied");
    scene.abide(&["resume", "dev"]);
    scene.ready_at("dev", &pushed);
    assert_eq!(scene.page("dev"), "pushed while held");
}

#[test]
fn a_hold_keeps_the_running_version_and_resume_applies_the_newest() {
    let Some(scene) = Scene::dev() else { return };
    let page = scene.page("dev");
    assert_eq!(scene.daemon.abide(&["wait", "dev"]).code, 0);
    assert_eq!(scene.daemon.abide(&["hold", "dev"]).code, 2, "the next operator needs to know why");
    scene.abide(&["hold", "dev", "--reason", "an audit"]);
    scene.await_reason("dev", "Held", "HeldByPerson");
    scene.push_page("dev", "one");
    let newest = scene.push_page("dev", "two");
    assert_eq!(scene.announce("dev").0, 202);
    scene.until("the push is recorded", "dev", |view| view["revision"] == newest.as_str());
    assert_eq!(scene.page("dev"), page);
    scene.abide(&["resume", "dev"]);
    assert_eq!(scene.daemon.abide(&["wait", "dev"]).code, 0);
    assert_eq!(scene.page("dev"), "two");
    assert_eq!(scene.builds_begun(), 2, "what was pushed in between is never built");
}
