//! Versions that fail to build: the previous version keeps running, and every message is accurate.
//! Versions that build and then fail are rolled back, which has its own tests.

use crate::common::{PATIENCE, Scene, eventually};

/// A Dockerfile that fails to build: it copies a file that the context does not have.
const BROKEN: &str = "FROM scratch\nCOPY www/nothing-of-this-name /\n";

/// The first commit's Dockerfile.
fn dockerfile(scene: &Scene) -> String {
    std::fs::read_to_string(scene.site.repo.work().join("Dockerfile")).unwrap()
}

/// Pushes `files`, announces them, and asserts that the version is refused with `words` while the
/// previous container keeps serving.
fn is_not_built(scene: &Scene, files: &[(&str, &str)], words: &str) {
    let page = scene.page("dev");
    let container = scene.inspect("dev", "{{.Id}}");
    let commit = scene.site.repo.commit_and_push("dev", files);
    assert_eq!(scene.announce("dev").0, 202);
    let view = scene.until("the version is refused", "dev", |view| {
        let serves = view["message"].as_str().unwrap_or_default().ends_with("keeps serving");
        view["status"] == "Degraded" && view["revision"] == commit.as_str() && serves
    });
    assert_eq!(view["reason"], "BuildFailed", "{view}");
    assert!(view["message"].as_str().unwrap().contains(words), "{view}");
    assert_eq!(scene.inspect("dev", "{{.Id}} {{.State.Running}}"), format!("{container} true"));
    assert_eq!(view["running"]["container_id"], container.as_str());
    assert_eq!(scene.page("dev"), page);
    eventually("what was refused is taken away", PATIENCE, || scene.containers() == [scene.container("dev")]);

    let last = &scene.history("dev")[0];
    assert_eq!((&last["revision"], &last["outcome"]["outcome"]), (&commit.into(), &"failed".into()));
    assert!(last["outcome"]["detail"].as_str().unwrap().contains(words), "{last}");
    let wait = scene.daemon.abide(&["wait", "dev", "--timeout", "30s"]);
    assert_eq!(wait.code, 1, "{wait:?}");
    assert!(wait.stderr.contains("BuildFailed"), "{wait:?}");
}

#[test]
fn a_failed_build_is_retried_only_by_a_sync_or_a_push() {
    let Some(scene) = Scene::dev() else { return };
    let good = dockerfile(&scene);
    is_not_built(&scene, &[("Dockerfile", BROKEN)], "nothing-of-this-name");
    assert_eq!(scene.builds_ended(), [1, 1]);

    assert_eq!(scene.announce("dev").0, 200, "the same commit again is no news");
    // A new daemon checks everything again.
    let scene = scene.restarted();
    scene.await_reason("dev", "Degraded", "BuildFailed");
    let diff = scene.daemon.abide(&["diff", "dev"]);
    assert_eq!(diff.code, 1, "{diff:?}");
    assert!(!diff.stdout.contains("build commit"), "{diff:?}");
    assert_eq!(scene.builds_begun(), 2, "the build was begun again though nothing had changed");

    scene.abide(&["sync", "dev"]);
    eventually("retries", PATIENCE, || scene.builds_ended() == [1, 2]);
    scene.await_reason("dev", "Degraded", "BuildFailed");
    scene.site.repo.commit_and_push("dev", &[("Dockerfile", &good), ("www/index.html", "mended")]);
    assert_eq!(scene.announce("dev").0, 202);
    scene.ready("dev");
    assert_eq!(scene.page("dev"), "mended");
    assert_eq!(scene.builds_begun(), 4);
}
