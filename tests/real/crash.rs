//! The daemon is killed at any moment, and the next one continues.

use std::path::Path;
use std::thread::sleep;
use std::time::Instant;

use serde_json::Value;

use crate::common::{Life, PATIENCE, Solo, Space, abide, docker, eventually};

/// The number of kills, spread evenly over a whole deployment.
const KILLS: u32 = 12;

/// The generations of `dev`, newest first.
fn history(solo: &Solo) -> Vec<Value> {
    let ran = abide(&solo.desired_state, &["history", "dev", "-o", "json"]);
    serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {}{}", ran.stdout, ran.stderr))
}

/// The IDs of the images that were built in `space` and got their final name.
fn builds(space: &Space) -> Vec<String> {
    let label = format!("label={}", space.label());
    let listed = docker(&["images", "--no-trunc", "--format", "{{.Repository}} {{.ID}}", "--filter", &label]);
    let named = listed.lines().filter_map(|line| line.strip_prefix("abide/dev "));
    named.map(str::to_owned).collect()
}

/// Asserts that a kill at any moment leaves nothing behind, once the next daemon has converged.
pub(crate) fn assert_recovered(space: &Space, solo: &Solo, commits: &[String]) -> Life {
    let life = solo.await_ready();
    let commit = commits.last().unwrap();
    eventually("its container is the only one left", PATIENCE, || {
        space.containers().into_iter().eq([life.id.clone()])
    });
    let revision = docker(&[
        "container",
        "inspect",
        "--format",
        "{{index .Config.Labels \"abide.revision\"}}",
        &life.id,
    ]);
    assert_eq!(&revision, commit);
    let built = builds(space);
    assert!(built.len() <= commits.len() && built.contains(&life.image), "builds of {commits:?}: {built:?}");
    let recorded: Vec<String> =
        history(solo).into_iter().filter_map(|entry| entry["revision"].as_str().map(str::to_owned)).collect();
    let expected: Vec<String> = commits.iter().rev().cloned().collect();
    assert_eq!(recorded, expected, "one generation a commit, none lost");
    eventually("no work of a build is left", PATIENCE, || is_empty(&solo.desired_state.join("record/work")));
    life
}

fn is_empty(dir: &Path) -> bool {
    std::fs::read_dir(dir).map_or(true, |mut entries| entries.next().is_none())
}

/// A build of two steps, so that a container of a step can be left behind.
fn with_two_steps(space: &Space) -> Solo {
    let mut solo = Solo::undeclared(space);
    "args = { DIST_PKG = \"build.tar\" }\nstep = [{ dockerfile = \"Dockerfile.dist\", output = \"build.tar\" }]"
        .clone_into(&mut solo.build);
    solo.declare("");
    solo
}

#[test]
fn a_deployment_converges_after_a_daemon_kill_at_any_moment() {
    let Some(space) = Space::new() else { return };
    let solo = with_two_steps(&space);
    let mut commits = vec![solo.repo.head("dev")];
    let mut daemon = solo.daemon(&[]);
    assert_recovered(&space, &solo, &commits);
    let page = |commit: usize| format!("<h1>page {commit}</h1>");
    let began = Instant::now();
    commits.push(solo.push(&daemon, &[("www/index.html", &page(0))]));
    assert_recovered(&space, &solo, &commits);
    let duration = began.elapsed();

    for kill in 0..KILLS {
        commits.push(solo.push(&daemon, &[("www/index.html", &page(commits.len()))]));
        sleep(duration * kill / KILLS);
        daemon.kill();
        daemon = solo.daemon(&[]);
        assert_recovered(&space, &solo, &commits);
    }
    let log = daemon.log();
    assert!(!log.contains("repaired the record") && !log.contains("panicked"), "{log}");
}

#[test]
fn a_manually_run_step_image_is_not_treated_as_a_leftover() {
    let Some(space) = Space::new() else { return };
    let solo = with_two_steps(&space);
    let daemon = solo.daemon(&[]);
    solo.await_ready();
    let images = docker(&[
        "images",
        "--format",
        "{{.Repository}} {{.ID}}",
        "--filter",
        &format!("label={}", space.label()),
    ]);
    let of_step = images.lines().find_map(|line| line.strip_prefix("abide/dev-step-1 ")).unwrap();
    let by_hand = space.name("by-hand");
    docker(&["run", "--detach", "--init", "--name", &by_hand, of_step, "serve", "--root", "/project/www"]);
    let before = Life::of(&by_hand).unwrap();
    daemon.kill();

    let daemon = solo.daemon(&[]);
    solo.push(&daemon, &[("www/index.html", "another page")]);
    solo.await_ready();
    assert_eq!(Life::of(&by_hand), Some(before));
}

/// A Dockerfile whose build takes `seconds` longer.
pub(crate) fn slow_dockerfile(space: &Space, seconds: u32) -> String {
    format!(
        r#"FROM scratch
LABEL {}
COPY bin/site /bin/site
RUN ["/bin/site", "serve", "--root", "/bin", "--settings", "/pause"]
ARG DIST_PKG=build.tar
ADD ${{DIST_PKG}} /site/
ENTRYPOINT ["/bin/site", "serve", "--root", "/site/www", "--log", "/site/log/access.log"]
"#,
        space.label()
    )
    .replace("RUN", &format!("ENV SITE_CRASH_AFTER={seconds}s SITE_EXIT_CODE=0\nRUN"))
        + "ENV SITE_CRASH_AFTER= SITE_EXIT_CODE=\n"
}

#[test]
fn a_daemon_stopped_during_a_build_exits_at_once() {
    let Some(space) = Space::new() else { return };
    let solo = Solo::new(&space);
    let daemon = solo.daemon(&[]);
    let before = solo.await_ready();
    let first = solo.repo.head("dev");
    // Longer than a daemon may take to stop, so that waiting for the build would be noticed.
    let slow = solo.push(&daemon, &[("Dockerfile", &slow_dockerfile(&space, 300))]);
    solo.await_status("the slow image is being built", |status| {
        status["revision"] == slow.as_str()
            && status["message"].as_str().is_some_and(|message| message.contains("the final image"))
    });
    assert_eq!(daemon.terminate().code(), Some(0));
    assert_eq!(solo.life().unwrap(), before);
    assert!(solo.serves());

    let quick = solo.repo.commit_and_push("dev", &[("Dockerfile", &slow_dockerfile(&space, 1))]);
    let _daemon = solo.daemon(&[]);
    assert_recovered(&space, &solo, &[first, slow, quick]);
}

#[test]
fn a_second_daemon_on_the_same_folder_exits_with_an_error() {
    let Some(space) = Space::new() else { return };
    let solo = Solo::new(&space);
    let _daemon = solo.daemon(&[]);
    let life = solo.await_ready();
    let second = solo.second_daemon();
    assert_eq!(second.code, 1, "{}", second.stderr);
    assert!(second.stderr.contains("another"), "{}", second.stderr);
    assert_eq!(solo.await_ready(), life);
}

#[test]
fn a_restarted_daemon_changes_nothing() {
    let Some(space) = Space::new() else { return };
    let solo = Solo::new(&space);
    let daemon = solo.daemon(&[]);
    let life = solo.await_ready();
    let steps = solo.steps();
    assert_eq!(daemon.terminate().code(), Some(0));
    for _ in 0..2 {
        let daemon = solo.daemon(&[]);
        assert_eq!(daemon.abide(&["sync", "dev"]).code, 0);
        solo.await_status("the sync was acted upon", |status| status["sync"] == status["observed_sync"]);
        assert_eq!(solo.await_ready(), life);
        // While no daemon ran, the engine was responsible for restarts.
        let is_handover = |step: &String| step.contains("turn off the restart policy of");
        let (_, others): (Vec<_>, Vec<_>) = solo.steps().into_iter().partition(is_handover);
        assert_eq!(others, steps);
        daemon.kill();
    }
}
