//! Broken versions, and versions that break soon: the record is rolled back, and the status reports
//! it.

use serde_json::Value;

use crate::common::{Scene, docker};

/// The ID of the image in a view.
fn image_of(view: &Value) -> String {
    view["image"]["id"].as_str().unwrap().to_owned()
}

/// Pushes `files` to dev, announces them, and returns the commit.
fn push(scene: &Scene, files: &[(&str, &str)]) -> String {
    let commit = scene.site.repo.commit_and_push("dev", files);
    assert_eq!(scene.announce("dev").0, 202);
    commit
}

/// Pushes a broken version, and asserts that the record is rolled back to the previous version,
/// which keeps serving in the same container. `words` are part of the broken version's last output.
fn is_rolled_back(scene: &Scene, files: &[(&str, &str)], reason: &str, words: &str) -> (String, Value) {
    let before = scene.view("dev");
    let (page, container) = (scene.page("dev"), scene.inspect("dev", "{{.Id}}"));
    let commit = push(scene, files);
    scene.until("the version is looked at", "dev", |view| view["generation"] != before["generation"]);
    let wait = scene.daemon.abide(&["wait", "dev", "--timeout", "60s"]);
    assert_eq!(wait.code, 1, "{wait:?}");
    assert!(wait.stderr.contains("RolledBack (RolledBack)"), "{wait:?}");
    assert!(wait.stderr.contains(words), "{wait:?}");

    let view = scene.await_reason("dev", "RolledBack", "RolledBack");
    assert_eq!(view["origin"], "automatic rollback");
    assert_eq!((&view["image"], &view["revision"]), (&before["image"], &before["revision"]));
    assert_eq!(view["running"]["container_id"], container.as_str());
    assert_eq!((scene.page("dev"), scene.containers()), (page, vec![scene.container("dev")]));
    let history = scene.history("dev");
    assert_eq!((&history[0]["origin"], &history[0]["generation"]), (&view["origin"], &view["generation"]));
    assert_eq!(history[0]["outcome"]["outcome"], "ready");
    assert_eq!(
        (&history[1]["revision"], &history[1]["outcome"]["outcome"]),
        (&commit.into(), &"failed".into())
    );
    let detail = history[1]["outcome"]["detail"].as_str().unwrap();
    assert!(detail.contains(words), "{detail}");
    assert!(history[0]["note"].as_str().unwrap().contains(reason), "{history:?}");
    (history[1]["revision"].as_str().unwrap().to_owned(), view)
}

/// The images that were rolled back from, according to the export.
fn bad_images(scene: &Scene) -> Vec<String> {
    let export: Value = serde_json::from_str(&scene.abide(&["export"]).stdout).unwrap();
    let bad = export["environments"][0]["desired"]["bad"].as_array().unwrap().clone();
    bad.iter().map(|bad| bad["image"]["id"].as_str().unwrap().to_owned()).collect()
}

fn events(scene: &Scene) -> String {
    scene.abide(&["events", "dev", "--limit", "1000"]).stdout
}

#[test]
fn a_bad_image_is_tried_once_until_it_is_set_explicitly() {
    let Some(scene) = Scene::dev() else { return };
    let first = scene.site.repo.head("dev");
    let (bad, _) =
        is_rolled_back(&scene, &[("site.env", "SITE_HTTP_STATUS=500\n")], "NeverReady", "GET / 500");
    let [image] = bad_images(&scene).try_into().unwrap();
    let why = scene.abide(&["why", "dev"]).stdout;
    assert!(why.contains("automatic rollback") && why.contains("until the next version"), "{why}");
    assert_eq!(scene.abide(&["diff", "dev"]).stdout.matches("create").count(), 0);

    // The same commit again changes nothing; and if the branch returns to it, it is not deployed
    // again.
    assert_eq!(scene.announce("dev").0, 200);
    let container = scene.inspect("dev", "{{.Id}} {{.State.StartedAt}}");
    scene.site.repo.force("dev", &first);
    assert_eq!(scene.announce("dev").0, 202);
    scene.until("the branch is followed back", "dev", |view| {
        view["origin"] == "push" && view["status"] == "Ready"
    });
    scene.site.repo.force("dev", &bad);
    assert_eq!(scene.announce("dev").0, 202);
    let view = scene.await_reason("dev", "RolledBack", "RolledBack");
    assert!(view["message"].as_str().unwrap().contains("failed before, in generation 2"), "{view}");
    assert_eq!(scene.inspect("dev", "{{.Id}} {{.State.StartedAt}}"), container, "what serves was touched");
    let scene = scene.restarted();
    scene.await_reason("dev", "RolledBack", "RolledBack");
    assert_eq!(scene.inspect("dev", "{{.Id}} {{.State.StartedAt}}"), container);

    // Named explicitly, it gets another chance.
    let tried = events(&scene).matches("create container").count();
    scene.abide(&["set", "dev", &image]);
    scene.until("it is tried and fails again", "dev", |view| {
        view["status"] == "RolledBack" && view["generation"].as_u64() >= Some(8)
    });
    assert_eq!(events(&scene).matches("create container").count(), tried + 1);
    assert_eq!(bad_images(&scene), [image]);

    let good = push(&scene, &[("site.env", ""), ("www/index.html", "well again")]);
    scene.ready_at("dev", &good);
    assert_eq!(scene.page("dev"), "well again");
}

#[test]
fn a_program_that_fails_at_start_is_rolled_back_with_its_output() {
    let Some(scene) = Scene::dev() else { return };
    let settings = "SITE_CRASH_AFTER=0s\nSITE_EXIT_CODE=7\nSITE_NEVER_LISTEN=1\n";
    is_rolled_back(&scene, &[("site.env", settings)], "StartFailed", "ends with 7, as told");
    let previous = scene.abide(&["logs", "dev", "--previous"]).stdout;
    assert!(previous.contains("ends with 7, as told"), "{previous}");
    let (_, view) = is_rolled_back(&scene, &[("bin/site", "no program at all")], "StartFailed", "exec");
    assert_eq!(view["generation"], 5);
    assert_eq!(bad_images(&scene).len(), 2);
}

#[test]
fn a_version_that_crashes_three_times_soon_after_it_was_ready_is_rolled_back() {
    let Some(scene) = Scene::dev() else { return };
    let first = scene.view("dev");
    let files = [("site.env", "SITE_CRASH_AFTER=2s\n"), ("www/index.html", "for a while")];
    let commit = push(&scene, &files);
    scene.ready_at("dev", &commit);
    let view = scene.await_reason("dev", "RolledBack", "RolledBack");
    let message = view["message"].as_str().unwrap();
    assert!(message.contains("crashed 3 times within 10m of becoming ready"), "{message}");
    assert!(
        message.contains("exited with code 1; its last output:") && message.contains("as told"),
        "{message}"
    );
    assert_eq!(image_of(&view), image_of(&first));
    assert!(scene.page("dev").contains("Hello from"), "the page of the first version");
    assert_eq!(scene.containers(), [scene.container("dev")]);
    let failed = &scene.history("dev")[1];
    assert_eq!((&failed["revision"], &failed["outcome"]["outcome"]), (&commit.into(), &"failed".into()));
    let wait = scene.daemon.abide(&["wait", "dev", "--timeout", "10s"]);
    assert_eq!(wait.code, 1, "{wait:?}");
}

#[test]
fn a_program_that_hangs_after_it_was_healthy_is_restarted() {
    // Without an init in front of it, a signal freezes the program itself.
    let edit = |manifest: String| {
        let edited = manifest.replace("timeout = \"2s\"", "timeout = \"300ms\"");
        edited.replace("command   = [\"dev\"", "init = false\nstop_timeout = \"1s\"\ncommand   = [\"dev\"")
    };
    let Some(scene) = Scene::new(&["dev"], edit) else { return };
    let before = scene.ready("dev");
    docker(&["kill", "--signal", "STOP", &scene.container("dev")]);
    let started = &before["running"]["started_at"];
    let after = scene.until("it is restarted", "dev", |view| {
        view["status"] == "Ready" && view["running"]["started_at"] != *started
    });
    assert_eq!(after["running"]["container_id"], before["running"]["container_id"]);
    assert_eq!((&after["running"]["restarts"], &after["generation"]), (&1.into(), &1.into()));
    assert!(scene.page("dev").contains("dev"));
    let events = events(&scene);
    assert!(events.contains("Unhealthy") && events.contains("failed 3 probes in a row"), "{events}");
}
