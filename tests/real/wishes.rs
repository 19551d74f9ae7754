//! Ready and exit code 0 mean that the requested version was serving: typical scripts of users,
//! with a slow git.

mod hold;
mod sources;

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::common::{PATIENCE, Scene, eventually, http_get, json};

/// The delay of git in seconds: long enough that nothing passes by chance.
const SLOW: u32 = 3;
const NO_IMAGE: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// Runs a command that must exit with this code.
fn ends(scene: &Scene, code: i32, line: &str) -> String {
    let ran = scene.daemon.abide(&line.split(' ').collect::<Vec<_>>());
    assert_eq!(ran.code, code, "abide {line}: {ran:?}");
    format!("{}{}", ran.stdout, ran.stderr)
}

#[test]
fn a_wait_covers_an_unannounced_push() {
    let Some((scene, git)) = Scene::with_git("10m", &["dev"], |manifest| manifest) else { return };
    scene.ready("dev");
    git.takes(SLOW);
    scene.push_page("dev", "pushed");
    ends(&scene, 0, "wait dev --timeout 60s");
    assert_eq!(scene.page("dev"), "pushed");
    scene.push_page("dev", "synced");
    ends(&scene, 0, "sync dev --wait --timeout 60s");
    assert_eq!(scene.page("dev"), "synced");
    scene.push_page("dev", "synced with the others");
    ends(&scene, 0, "sync --wait --timeout 60s");
    assert_eq!(scene.page("dev"), "synced with the others");
}

#[test]
fn no_view_reports_ready_between_a_webhook_and_gits_answer() {
    let Some((scene, git)) = Scene::with_git("0s", &["dev"], |manifest| manifest) else { return };
    let before = scene.ready("dev");
    git.takes(SLOW);
    let commit = scene.push_page("dev", "announced");
    assert_eq!(scene.announce("dev").0, 202);
    let view = scene.view("dev");
    assert_eq!((&view["status"], &view["reason"]), (&"Progressing".into(), &"HeadUnknown".into()), "{view}");
    assert!(view["message"].as_str().unwrap().contains(&commit[..12]), "{view}");
    let metrics = scene.get("/metrics").1;
    assert!(
        metrics.contains("abide_environment_status{environment=\"dev\",status=\"Ready\"} 0"),
        "{metrics}"
    );
    assert!(ends(&scene, 0, "why dev").contains("HeadUnknown"));
    assert!(ends(&scene, 1, "diff dev").contains("HeadUnknown"));
    let waited: Value = serde_json::from_str(&scene.get("/api/v1/environments/dev/wait").1).unwrap();
    assert_eq!(waited["state"], "waiting", "{waited}");
    ends(&scene, 0, "wait dev --timeout 60s");
    assert_eq!(scene.page("dev"), "announced");

    // A delayed delivery: git answers with the known head, which settles it.
    assert_eq!(scene.announce_commit("dev", before["revision"].as_str().unwrap()).0, 202);
    assert_eq!(scene.view("dev")["reason"], "HeadUnknown");
    assert_eq!(scene.ready("dev")["revision"], commit.as_str());

    git.is_well();
    git.fails("fatal: unable to access 'x': Failed to connect");
    scene.push_page("dev", "out of reach");
    assert_eq!(scene.announce("dev").0, 202);
    scene.until("the message says why", "dev", |view| {
        view["reason"] == "HeadUnknown" && view["message"].as_str().unwrap().contains("Failed to connect")
    });
    assert!(ends(&scene, 1, "wait dev --timeout 2s").contains("timed out"));
    assert!(ends(&scene, 1, "sync dev").contains("Failed to connect"));
    git.is_well();
    ends(&scene, 0, "wait dev --timeout 60s");
    assert_eq!(scene.page("dev"), "out of reach");
}

#[test]
fn a_pending_push_blocks_the_promotion_of_the_old_image() {
    let Some((scene, git)) = Scene::with_git("0s", &["test", "prod"], |manifest| manifest) else { return };
    let first = scene.ready("test")["image"]["id"].as_str().unwrap().to_owned();
    git.takes(SLOW);
    scene.push_page("master", "newer");
    assert_eq!(scene.announce("master").0, 202);
    assert!(ends(&scene, 1, "promote test prod --yes").contains("has not answered yet"));
    assert!(ends(&scene, 1, &format!("promote test prod --yes --digest {NO_IMAGE}")).contains(&first));
    ends(&scene, 0, &format!("promote test prod --yes --wait --digest {first}"));
    assert_eq!(scene.view("prod")["image"]["id"], first.as_str());

    ends(&scene, 0, "wait test --timeout 60s");
    let second = scene.view("test")["image"]["id"].as_str().unwrap().to_owned();
    assert_ne!(first, second);
    ends(&scene, 0, "promote test prod --yes --wait");
    assert_eq!(scene.view("prod")["running"]["image_id"], second.as_str());
    let generation = scene.view("prod")["generation"].clone();
    assert!(ends(&scene, 0, "promote test prod --yes --wait").contains("no change"));
    assert_eq!(scene.view("prod")["generation"], generation);
}

#[test]
fn a_wait_for_a_commit_ends_with_it_or_with_a_reason() {
    let Some((scene, _git)) = Scene::with_git("10m", &["dev"], |manifest| manifest) else { return };
    let first = scene.ready("dev")["revision"].as_str().unwrap().to_owned();
    let second = scene.push_page("dev", "second");
    ends(&scene, 0, &format!("wait dev --timeout 60s --commit {second}"));
    assert_eq!(scene.page("dev"), "second");
    let image = scene.view("dev")["image"]["id"].as_str().unwrap().to_owned();
    ends(&scene, 0, &format!("wait dev --commit {first}"));
    ends(&scene, 0, "wait dev --generation 1");
    ends(&scene, 0, &format!("wait dev --digest {image}"));
    ends(&scene, 1, &format!("wait dev --timeout 1s --digest {NO_IMAGE}"));
    ends(&scene, 1, "wait dev --timeout 1s --generation 9");

    let began = Instant::now();
    let bad =
        scene.site.repo.commit_and_push("dev", &[("Dockerfile", "FROM scratch\nCOPY no-such-file /\n")]);
    assert!(
        ends(&scene, 1, &format!("sync dev --wait --timeout 60s --commit {bad}")).contains("BuildFailed")
    );
    ends(&scene, 1, &format!("wait dev --timeout 60s --commit {bad}"));
    assert!(began.elapsed() < PATIENCE, "it is said at once");
    assert!(ends(&scene, 1, "diff dev").contains("BuildFailed"));

    // Image 1 again, as generation 4: neither generation 2 nor 3, whose commit contains it, is
    // serving.
    ends(&scene, 0, &format!("set dev --commit {first} --wait --timeout 60s"));
    let replaced = ends(&scene, 1, &format!("wait dev --timeout 60s --commit {second}"));
    assert!(replaced.contains("failed") && replaced.contains("generation 4 replaced it"), "{replaced}");
    ends(&scene, 1, &format!("wait dev --timeout 60s --digest {image}"));
    ends(&scene, 0, "rollback dev --yes --wait --timeout 60s");
    assert_eq!(scene.page("dev"), "second");
    assert_eq!(scene.view("dev")["status"], "Held");
    ends(&scene, 1, "wait dev");
}

#[test]
fn a_port_edit_is_not_ready_while_neither_port_answers() {
    let Some((scene, _git)) = Scene::with_git("0s", &["dev"], |manifest| manifest) else { return };
    scene.ready("dev");
    let before = scene.site.ports[0];
    let [after] = crate::common::free_ports();
    let manifest = scene.site.manifest();
    let moved = manifest
        .replace(&format!("publish = \"127.0.0.1:{before}\""), &format!("publish = \"127.0.0.1:{after}\""));
    let moved =
        if moved == manifest { manifest.replace(&before.to_string(), &after.to_string()) } else { moved };
    assert_ne!(moved, manifest);
    let serves = |port: u16| http_get(port, "/").is_ok_and(|(status, _)| status == 200);
    scene.site.declare(&moved);
    let is_ready = || {
        let view: Value = serde_json::from_str(&scene.get("/api/v1/environments/dev").1).unwrap();
        view["status"] == "Ready"
    };
    eventually("it is served at the other port", PATIENCE, || {
        // Ready before and after checking both ports: then one of them answers.
        let (was_ready, answers, is_ready) = (is_ready(), serves(before) || serves(after), is_ready());
        assert!(!(was_ready && is_ready) || answers, "Ready, and neither port answers");
        is_ready && serves(after)
    });
}

#[test]
fn a_wait_covers_a_manifest_edit_and_a_daemon_restart() {
    let Some((scene, git)) = Scene::with_git("0s", &["dev"], |manifest| manifest) else { return };
    scene.ready("dev");
    let manifest = scene.site.manifest();
    let edited =
        manifest.replacen("[environment.dev]\n", "[environment.dev]\nenv = { TRUTH = \"told\" }\n", 1);
    let edited = if manifest.contains("[environment.dev]\nenv") { manifest.clone() } else { edited };
    scene.site.declare(&edited);
    ends(&scene, 0, "wait dev --timeout 60s");
    if edited != manifest {
        assert!(scene.inspect("dev", "{{.Config.Env}}").contains("TRUTH=told"), "waited for too little");
    }
    let Scene { daemon, site, space } = scene;
    daemon.kill();
    crate::common::docker(&["rm", "--force", &space.name("dev-server")]);
    let daemon = site.daemon_with(&[("PATH", &git.path())]);
    let scene = Scene { daemon, site, space };
    ends(&scene, 0, "wait dev --timeout 60s");
    assert!(!scene.page("dev").is_empty());
    std::thread::sleep(Duration::ZERO);
    assert_eq!(json(&scene.abide(&["status", "dev", "-o", "json"]))[0]["status"], "Ready");
}
