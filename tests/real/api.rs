//! Output for users and scripts: the commands and their exit codes, with and without a daemon, and
//! manifest edits under a running daemon.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use crate::common::{PATIENCE, Ran, Scene, Space, Standard, abide, docker, eventually, http_get, json, list};

/// The keys of an object.
fn keys(value: &Value) -> Vec<&str> {
    value.as_object().unwrap_or_else(|| panic!("no object: {value}")).keys().map(String::as_str).collect()
}

fn has(value: &Value, names: &[&str]) {
    let keys = keys(value);
    let missing: Vec<_> = names.iter().filter(|name| !keys.contains(name)).collect();
    assert!(missing.is_empty(), "{missing:?} is not in {value}");
}

#[test]
fn status_and_history_have_the_shape_that_scripts_rely_on() {
    let Some(scene) = Scene::new(&["dev", "prod"], |manifest| manifest.replace("\"test\"\n", "\"dev\"\n"))
    else {
        return;
    };
    scene.ready("dev");
    let views = list(json(&scene.abide(&["status", "-o", "json"])));
    let names = [
        "environment",
        "container",
        "port",
        "host",
        "generation",
        "observed_generation",
        "status",
        "reason",
        "message",
        "since",
        "origin",
        "revision",
        "image",
        "running",
        "held",
        "next_retry",
    ];
    views.iter().for_each(|view| has(view, &names));
    let [dev, prod] = views.as_slice() else { panic!("{views:?}") };
    assert_eq!(dev["environment"], "dev");
    assert_eq!(dev["container"], scene.container("dev"));
    assert_eq!(dev["port"], scene.site.ports[0]);
    assert_eq!((&dev["generation"], &dev["observed_generation"]), (&json!(1), &json!(1)));
    assert_eq!((&dev["status"], &dev["reason"]), (&json!("Ready"), &json!("AsRecorded")));
    has(&dev["image"], &["reference", "digest", "id"]);
    has(&dev["running"], &["container_id", "image_id", "started_at", "restarts"]);
    assert_eq!(dev["running"]["container_id"], scene.inspect("dev", "{{.Id}}"));
    assert_eq!(dev["revision"], scene.site.repo.head("dev"));
    for name in ["host", "held", "next_retry"] {
        assert!(dev[name].is_null(), "{name} is {}", dev[name]);
    }
    for name in ["image", "revision", "running", "origin"] {
        assert!(prod[name].is_null(), "{name} is {}", prod[name]);
    }
    assert_eq!(json(&scene.abide(&["status", "dev", "-o", "json"])), json!([dev]));

    let history = scene.history("dev");
    has(&history[0], &["generation", "image", "revision", "origin", "by", "at", "outcome"]);
    assert_eq!(history[0]["image"], dev["image"]);
    let table = scene.abide(&["status"]).stdout;
    assert!(table.contains("Ready") && table.contains(&scene.container("dev")), "{table}");
}

#[test]
fn logs_events_and_why_show_what_happened() {
    let Some(scene) = Scene::dev() else { return };
    let commit = scene.site.repo.head("dev");
    let short = &commit[..12];
    let logs = scene.abide(&["logs", "dev"]).stdout;
    assert!(logs.contains("dev listens on port 8900"), "{logs}");
    assert_eq!(scene.abide(&["logs", "dev", "--tail", "1"]).stdout.lines().count(), 1);
    let build = scene.abide(&["logs", "dev", "--build"]).stdout;
    assert!(build.contains(&commit) && build.contains("building the final image"), "{build}");
    let events = scene.abide(&["events", "dev"]).stdout;
    for words in [
        format!("generation 1: commit {short}"),
        format!("build commit {short}"),
        "Ready (AsRecorded)".into(),
    ] {
        assert!(events.contains(&words), "{words} is not in\n{events}");
    }
    let why = scene.abide(&["why", "dev"]).stdout;
    for words in ["event", "record", "difference", "step", "result", "next retry", "Ready", short] {
        assert!(why.contains(words), "{words} is not in\n{why}");
    }
    let diff = scene.abide(&["diff", "dev"]);
    assert_eq!(diff.code, 0, "nothing is to be done: {diff:?}");
    let unknown = scene.daemon.abide(&["logs", "prod"]);
    assert_eq!(unknown.code, 2, "{unknown:?}");
    let unknown = "0123456789".repeat(4);
    let refused = scene.daemon.abide(&["set", "dev", "--commit", &unknown]);
    assert!(refused.code == 2 && refused.stderr.contains("git push"), "{refused:?}");
    assert_eq!(scene.history("dev").len(), 1, "a commit that git does not have is not recorded");
}

#[test]
fn followed_logs_span_containers_and_previous_output_is_kept() {
    let Some(scene) = Scene::dev() else { return };
    let nothing = scene.daemon.abide(&["logs", "dev", "--previous"]);
    assert!(nothing.code != 0 && nothing.stderr.contains("has been replaced yet"), "{nothing:?}");
    let log = scene.space.dir().join("followed");
    let mut follow = Command::new(env!("CARGO_BIN_EXE_abide"));
    follow.env("ABIDE_DESIRED_STATE", &scene.site.desired_state).args(["logs", "dev", "-f"]);
    let mut child = follow.stdin(Stdio::null()).stdout(File::create(&log).unwrap()).spawn().unwrap();
    let shows = |page: &str, times: usize| {
        eventually(&format!("the output shows {page} {times} times"), PATIENCE, || {
            http_get(scene.site.ports[0], page).ok();
            let followed = fs::read_to_string(&log).unwrap();
            followed.matches("listens on port").count() == times && followed.contains(page)
        });
    };
    shows("/first", 1);
    shows("/only-before", 1);
    let next = scene.site.repo.commit_and_push("dev", &[("www/index.html", "next")]);
    scene.abide(&["sync", "dev"]);
    scene.ready_at("dev", &next);
    shows("/second", 2);
    // The engine selects output by whole seconds, and this is in the second of the start.
    docker(&["restart", "--time", "0", &scene.container("dev")]);
    shows("/third", 3);
    let stamps = |arguments: &[&str]| {
        let ran = scene.abide(&[&["logs", "dev", "--timestamps"], arguments].concat());
        let stamp = |line: &str| humantime::parse_rfc3339(line.split(' ').next().unwrap()).unwrap();
        ran.stdout.lines().map(stamp).collect::<Vec<SystemTime>>()
    };
    let all = stamps(&[]);
    let middle = all[all.len() / 2] + Duration::from_millis(1);
    let since = stamps(&["--since", &humantime::format_rfc3339_millis(middle).to_string()]);
    assert!(all.len() > since.len() && since.iter().all(|stamp| *stamp >= middle - Duration::from_millis(1)));
    child.kill().unwrap();
    child.wait().unwrap();
    let previous = scene.abide(&["logs", "dev", "--previous"]).stdout;
    assert!(previous.contains("/only-before") && !previous.contains("/second"), "{previous}");
}

#[test]
fn commands_use_the_record_without_a_daemon_and_report_it() {
    let Some(Scene { daemon, site, space: _space }) = Scene::dev() else { return };
    assert!(daemon.terminate().success());
    let offline = |arguments: &[&str]| {
        let ran = site.abide(arguments);
        assert_eq!(ran.code, 0, "{arguments:?}: {ran:?}");
        assert!(ran.stderr.contains("no daemon is running"), "{arguments:?}: {ran:?}");
        ran
    };
    let view = json(&offline(&["status", "-o", "json"]))[0].take();
    assert_eq!((&view["environment"], &view["status"]), (&json!("dev"), &json!("Progressing")));
    assert!(view["message"].as_str().unwrap().contains("last seen: "), "nobody watches it now: {view}");
    assert_eq!(list(json(&offline(&["history", "dev", "-o", "json"]))).len(), 1);
    offline(&["set", "dev", view["image"]["id"].as_str().unwrap()]);
    offline(&["hold", "dev", "--reason", "the host moves"]);
    assert!(offline(&["export"]).stdout.contains("the host moves"));
    for arguments in [&["sync", "dev"][..], &["wait", "dev"], &["logs", "dev"]] {
        let ran = site.abide(arguments);
        assert_eq!(ran.code, 3, "{arguments:?}: {ran:?}");
    }

    // A daemon that starts then applies all of it.
    let daemon = site.daemon();
    let wait = daemon.abide(&["wait", "dev", "--timeout", "60s"]);
    assert_eq!(wait.code, 1, "{wait:?}");
    assert!(wait.stderr.contains("the host moves"), "{wait:?}");
    assert_eq!(json(&daemon.abide(&["status", "dev", "-o", "json"]))[0]["generation"], 2);
}

#[test]
fn an_export_recreates_the_same_record_in_an_empty_folder() {
    let Some(scene) = Scene::dev() else { return };
    scene.deploy("dev", "dev", "second");
    scene.abide(&["hold", "dev", "--reason", "it moves"]);
    let exported = scene.abide(&["export"]);
    let file = scene.space.dir().join("export.json");
    fs::write(&file, &exported.stdout).unwrap();
    let fresh = scene.space.dir().join("fresh");
    fs::create_dir(&fresh).unwrap();
    fs::write(fresh.join("keepwork.toml"), scene.site.manifest()).unwrap();
    let run = |arguments: &[&str]| -> Ran {
        let ran = abide(&fresh, arguments);
        assert_eq!(ran.code, 0, "{arguments:?}: {ran:?}");
        ran
    };
    run(&["import", file.to_str().unwrap()]);
    let (before, after) = (json(&exported), json(&run(&["export"])));
    assert_eq!((&after["environments"], &after["id"]), (&before["environments"], &before["id"]));
    let history = list(json(&run(&["history", "dev", "-o", "json"])));
    assert_eq!(history, scene.history("dev"));
    let broken = scene.space.dir().join("broken.json");
    fs::write(&broken, "{").unwrap();
    assert_eq!(abide(&fresh, &["import", broken.to_str().unwrap()]).code, 2);
}

#[test]
fn an_invalid_manifest_edit_is_reported_and_not_applied() {
    let Some(scene) = Scene::dev() else { return };
    let container = scene.inspect("dev", "{{.Id}}");
    let good = scene.site.manifest();
    scene.site.declare(&format!("{good}\n[environment.dev.lables]\n"));
    eventually("status names what is wrong", PATIENCE, || {
        let output = scene.abide(&["status"]).stderr;
        output.contains("keepwork.toml:") && output.contains("lables")
    });
    assert_eq!(scene.view("dev")["status"], "Ready");
    let check = scene.daemon.abide(&["check"]);
    assert_eq!(check.code, 1, "{check:?}");

    // The next valid edit is applied: it changes a variable, and therefore the container.
    let variable = "[environment.dev]\nenv = { SITE_MOOD = \"new\" }\n";
    scene.site.declare(&good.replace("[environment.dev]\n", variable));
    let is_new = |view: &Value| {
        view["status"] == "Ready"
            && view["running"]["container_id"].as_str().is_some_and(|id| id != container)
    };
    let view = scene.until("a new container serves", "dev", is_new);
    assert_eq!(view["generation"], 1, "the record did not move");
    assert!(scene.inspect("dev", "{{json .Config.Env}}").contains("SITE_MOOD=new"));
    assert!(!scene.abide(&["status"]).stderr.contains("keepwork.toml:"));
    let serving = view["running"]["container_id"].as_str().unwrap();
    assert_eq!(docker(&["inspect", "--format", "{{.State.Running}}", serving]), "true");
    assert_eq!(scene.builds_begun(), 1);
}

#[test]
fn a_daemon_does_not_start_with_an_invalid_manifest() {
    let Some(space) = Space::new() else { return };
    let site = Standard::new(&space);
    let good = site.manifest();
    let bad = good.replace("port      = 8900", "prot      = 8900");
    let bad = bad.replace("branch = \"master\"", "branch = \"a..b\"");
    site.declare(&bad);
    let ran = start(&site.desired_state);
    assert_eq!(ran.code, 1, "{ran:?}");
    for (words, of) in [("did you mean `port`?", "prot      = 8900"), ("a..b", "a..b")] {
        let line = bad.lines().position(|line| line.contains(of)).unwrap() + 1;
        let place = format!("keepwork.toml:{line}");
        let named = ran.stderr.lines().any(|line| line.contains(&place) && line.contains(words));
        assert!(named, "no `{place}: ...{words}...` in\n{}", ran.stderr);
    }
    assert!(space.containers().is_empty());
    // After the repair, the same folder works.
    site.declare(&good);
    drop(site.daemon());
}

/// Starts a daemon that must refuse.
fn start(desired_state: &Path) -> Ran {
    abide(desired_state, &["daemon", "--listen", "127.0.0.1:0"])
}
