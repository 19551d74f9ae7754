//! Images that misbehave, and images that use every metadata instruction.

use std::thread::sleep;
use std::time::Duration;

use serde_json::Value;

use crate::common::{Daemon, Life, PATIENCE, Space, Spot, Watcher, docker, eventually_some, made_image};

/// A probe that succeeds and fails quickly.
const HASTY: &str = "health = { http = \"/\", interval = \"50ms\", timeout = \"1s\", start_deadline = \"2s\", \
                     healthy_for = \"200ms\" }";

/// The behaviour of an image, the reason to reject it as an update, and the expected message.
const BAD: [(&str, &str, &str); 6] = [
    ("ENV SITE_NEVER_LISTEN=1", "NeverReady", "was not ready within 2s of its start"),
    ("ENV SITE_START_DELAY=60s", "NeverReady", "was not ready within 2s of its start"),
    ("ENV SITE_HTTP_STATUS=500", "NeverReady", "GET / 500"),
    ("ENV SITE_CRASH_AFTER=0s SITE_EXIT_CODE=3", "StartFailed", "code 3"),
    ("ENV SITE_CRASH_AFTER=0s SITE_EXIT_CODE=0", "StartFailed", "code 0"),
    ("ENTRYPOINT [\"/nothing\"]", "StartFailed", "code 127"),
];

fn wait(spot: &Spot) -> (i32, String) {
    let ran = spot.abide(&["wait", "dev", "--timeout", "60s"]);
    (ran.code, ran.stderr)
}

#[test]
fn a_bad_update_of_any_kind_is_rolled_back_with_one_gap() {
    let Some(space) = Space::new() else { return };
    let spot = Spot::new(&space, HASTY);
    let good = made_image(&space, "good", "");
    let _daemon = spot.daemon();
    assert_eq!(spot.set(&good).code, 0);
    assert_eq!(spot.await_ready(), good);
    let container = spot.container();
    for (lines, reason, words) in BAD {
        let bad = bad_image(&space, lines);
        let watcher = Watcher::start(&space, spot.port);
        assert_eq!(spot.set(&bad).code, 0);
        let (code, output) = wait(&spot);
        assert_eq!(code, 1, "{lines}: {output}");
        assert!(output.contains("RolledBack"), "{lines}: {output}");
        let status = spot.until("it is rolled back", |status| status["status"] == "RolledBack");
        assert_eq!(status["image"]["id"], good.as_str(), "{lines}: {status}");
        let failed = outcome(&spot, &bad);
        assert!(failed.contains(words), "{lines}: {failed}");
        assert!(note(&spot).contains(reason), "{lines}: {}", note(&spot));
        assert_eq!(spot.container(), container, "{lines}: what served was replaced");
        assert_eq!(spot.page().as_deref(), Some("good"), "{lines}");
        assert_eq!(space.containers(), container.iter().cloned().collect(), "{lines}: leftovers");
        watcher.finish().assert_only_declared_gaps(lines, 2);
    }
}

/// Builds an image with these lines; an entrypoint in them takes precedence.
fn bad_image(space: &Space, lines: &str) -> String {
    let made = made_image(space, "bad", lines);
    if !lines.starts_with("ENTRYPOINT") {
        return made;
    }
    let dir = space.dir().join("entrypoint");
    std::fs::create_dir(&dir).unwrap();
    std::fs::write(dir.join("Dockerfile"), format!("FROM {made}\n{lines}\n")).unwrap();
    docker(&["build", "--quiet", dir.to_str().unwrap()])
}

fn history(spot: &Spot) -> Vec<Value> {
    let ran = spot.abide(&["history", "dev", "-o", "json"]);
    serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {ran:?}"))
}

/// The outcome of the newest generation with this image.
fn outcome(spot: &Spot, image: &str) -> String {
    let history = history(spot);
    let failed = history.iter().find(|entry| entry["image"]["id"] == image).unwrap();
    failed["outcome"].to_string()
}

/// The note of the newest generation.
fn note(spot: &Spot) -> String {
    history(spot)[0]["note"].to_string()
}

#[test]
fn a_crashing_first_version_backs_off_until_a_good_one_is_set() {
    let Some(space) = Space::new() else { return };
    let spot = Spot::new(&space, HASTY);
    let bad = made_image(&space, "bad", "ENV SITE_CRASH_AFTER=1s SITE_EXIT_CODE=9");
    let daemon = spot.daemon();
    assert_eq!(spot.set(&bad).code, 0);
    let restarts = |status: &Value| status["running"]["restarts"].as_u64().unwrap_or_default();
    let is_looping = |status: &Value| {
        status["status"] == "Degraded"
            && status["reason"] == "CrashLoop"
            && !status["next_retry"].is_null()
            && status["message"].as_str().is_some_and(|message| message.contains("code 9"))
    };
    spot.until("it crashes again and again", |status| is_looping(status));
    let (code, output) = wait(&spot);
    assert_eq!(code, 1, "{output}");
    let before = spot.until("it was restarted twice", |status| restarts(status) >= 2);
    daemon.kill();
    let _daemon = spot.daemon();
    let after = spot.until("it still crashes", |status| is_looping(status) || restarts(status) > 0);
    assert!(after["generation"] == before["generation"], "{after}");
    let counted = spot.until("the count goes on", |status| restarts(status) > restarts(&before));
    assert!(restarts(&counted) < restarts(&before) + 10, "{counted}");

    let good = made_image(&space, "good", "");
    assert_eq!(spot.set(&good).code, 0);
    assert_eq!(wait(&spot).0, 0);
    assert_eq!(spot.await_ready(), good);
    assert_eq!(spot.page().as_deref(), Some("good"));
}

#[test]
fn a_version_killed_three_times_for_memory_is_rolled_back() {
    let Some(space) = Space::new() else { return };
    let spot = Spot::new(&space, &format!("{HASTY}\nmemory = \"16MiB\""));
    let good = made_image(&space, "good", "");
    let _daemon = spot.daemon();
    assert_eq!(spot.set(&good).code, 0);
    assert_eq!(spot.await_ready(), good);
    let leaking = made_image(&space, "leaking", "ENV SITE_LEAK=1");
    assert_eq!(spot.set(&leaking).code, 0);
    let status = spot.until("it is rolled back", |status| status["status"] == "RolledBack");
    assert!(status["message"].as_str().unwrap().contains("killed because it ran out of memory"), "{status}");
    assert_eq!(status["image"]["id"], good.as_str());
    assert_eq!(spot.page().as_deref(), Some("good"));
    assert_eq!(wait(&spot).0, 1);
}

#[test]
fn slow_starts_are_awaited_and_ignored_sigterm_ends_in_a_kill() {
    let Some(space) = Space::new() else { return };
    // Without an init in front of it, the program gets the signal itself.
    let spot = Spot::new(&space, "init = false\nstop_timeout = \"1s\"");
    let deaf = made_image(&space, "deaf", "");
    let daemon = spot.daemon();
    assert_eq!(spot.set(&deaf).code, 0);
    assert_eq!(spot.await_ready(), deaf);

    let slow = made_image(&space, "slow", "ENV SITE_START_DELAY=2s");
    let watcher = Watcher::start(&space, spot.port);
    assert_eq!(spot.set(&slow).code, 0);
    spot.until("waiting for it to become ready", |status| {
        status["status"] == "Progressing" && status["reason"] == "AwaitingHealth"
    });
    assert_eq!(wait(&spot).0, 0);
    assert_eq!(spot.await_ready(), slow);
    assert_eq!(spot.page().as_deref(), Some("slow"));
    let seen = watcher.finish();
    assert_eq!(seen.ends.len(), 1, "{seen:?}");
    assert_eq!(space.containers(), spot.container().into_iter().collect());
    let events = daemon.abide(&["events", "dev", "--limit", "1000"]).stdout;
    assert!(!events.contains("NeverReady") && !events.contains("failure"), "{events}");
}

/// Every instruction that adds metadata to an image.
const EVERYTHING: &str = "MAINTAINER someone
ARG WHEN=today
ENV ONE=1 EMPTY= SPACED=\"two words\"
LABEL org.example.one=1 abide.unknown=kept
EXPOSE 8080/tcp 9090/udp
VOLUME [\"/kept\", \"/also\"]
USER 1000:1000
WORKDIR /www
STOPSIGNAL SIGINT
HEALTHCHECK --interval=1s --timeout=1s --retries=2 CMD [\"/site\", \"version\"]
SHELL [\"/site\", \"version\"]
ONBUILD RUN [\"/site\", \"version\"]
CMD [\"named\"]";

/// Many of a manifest's container options.
const DECLARED: &str = "command = [\"other\"]
env = { ONE = \"2\", ANOTHER = \"3\" }
memory = \"64MiB\"
cpus = 0.5
pids = 50
extra_hosts = [\"db:10.0.0.9\"]
stop_timeout = \"1s\"";

#[test]
fn image_defaults_are_not_a_difference() {
    let Some(space) = Space::new() else { return };
    let volume = format!("volumes = [\"{}:/kept\"]", space.name("data"));
    let spot = Spot::new(&space, "");
    let image = made_image(&space, "all", EVERYTHING);
    let mut daemon = Daemon::start(&spot.desired_state, &[("ABIDE_RESYNC", "1s")]);
    assert_eq!(spot.set(&image).code, 0);
    let plain = at_rest(&spot, &image, None);
    daemon = stays(&spot, daemon, &plain);
    assert_eq!(anonymous_volumes(&plain.id).len(), 0, "each of the image's volumes has a name");
    let kept = space.kept_volumes();
    assert_eq!(kept.len(), 2, "the image's volumes");

    spot.declare(&format!("{DECLARED}\n{volume}"));
    let declared = at_rest(&spot, &image, Some(&plain));
    stays(&spot, daemon, &declared);
    assert_eq!(anonymous_volumes(&declared.id).len(), 0);
    let left = space.kept_volumes();
    assert!(kept.is_subset(&left), "a volume that may hold data was removed: {kept:?}, {left:?}");
}

/// Its life once it is ready, in another container than `before`.
fn at_rest(spot: &Spot, image: &str, before: Option<&Life>) -> Life {
    eventually_some("it is ready in a container of its own", PATIENCE, || {
        let status = spot.status().filter(|status| status["status"] == "Ready")?;
        assert_eq!(status["image"]["id"], image);
        Life::of(&spot.name).filter(|now| before.is_none_or(|before| before.id != now.id))
    })
}

/// Asserts that neither resyncs, nor a `sync`, nor a new daemon touch the container or plan a step.
fn stays(spot: &Spot, daemon: Daemon, life: &Life) -> Daemon {
    let steps = steps(spot);
    sleep(Duration::from_millis(2500));
    assert_eq!(spot.abide(&["sync", "dev"]).code, 0);
    spot.until("the sync was acted upon", |status| status["sync"] == status["observed_sync"]);
    daemon.kill();
    let daemon = Daemon::start(&spot.desired_state, &[("ABIDE_RESYNC", "1s")]);
    assert_eq!(spot.abide(&["sync", "dev"]).code, 0);
    spot.until("the sync was acted upon again", |status| status["sync"] == status["observed_sync"]);
    let diff = spot.abide(&["diff", "dev"]);
    assert_eq!(diff.code, 0, "{}", diff.stdout);
    assert_eq!(Life::of(&spot.name).as_ref(), Some(life));
    assert_eq!(self::steps(spot), steps);
    daemon
}

fn steps(spot: &Spot) -> Vec<String> {
    let ran = spot.abide(&["events", "dev", "--limit", "1000", "-o", "json"]);
    let events: Vec<Value> = serde_json::from_str(&ran.stdout).unwrap();
    let steps = events.iter().filter(|event| event["kind"] == "step");
    steps.map(|event| format!("{} ×{}", event["message"], event["count"])).collect()
}

/// The names of the volumes that the engine created for `VOLUME` lines of an image.
fn anonymous_volumes(container: &str) -> Vec<String> {
    const FORMAT: &str = "{{range .Mounts}}{{println .Name}}{{end}}";
    let mounted = docker(&["container", "inspect", "--format", FORMAT, container]);
    let is_anonymous = |name: &&str| name.len() == 64 && name.chars().all(|c| c.is_ascii_hexdigit());
    mounted.lines().filter(is_anonymous).map(str::to_owned).collect()
}
