//! Interrupted builds.

use abide::failpoint::Point;

use super::around;
use crate::common::{Daemon, Solo, Space, docker, signed_push, try_docker};
use crate::crash::{assert_recovered, slow_dockerfile};

/// The actions for a push before its image exists.
const PUSH: &[Point] = &[Point::Acquire, Point::Build, Point::RecordImage];
/// The same, plus the actions for a newer push and for a missing image.
pub(super) const BUILDS: &[Point] =
    &[Point::Acquire, Point::Build, Point::RecordImage, Point::CancelJob, Point::RecordRebuilt];

/// A daemon on `solo` that `failpoint` kills.
fn doomed(solo: &Solo, failpoint: &str) -> Daemon {
    Daemon::start_doomed(&solo.desired_state, failpoint, &[Solo::SECRET])
}

#[test]
fn a_build_completes_once_after_a_kill_at_any_failpoint() {
    let Some(space) = Space::new() else { return };
    let solo = Solo::new(&space);
    let mut commits = vec![solo.repo.head("dev")];
    let daemon = solo.daemon(&[]);
    assert_recovered(&space, &solo, &commits);
    daemon.kill();
    for failpoint in around(PUSH) {
        let page = format!("<h1>{failpoint}</h1>");
        // Each daemon queries git for the head when it starts.
        commits.push(solo.repo.commit_and_push("dev", &[("www/index.html", &page)]));
        doomed(&solo, &failpoint).await_doom(&failpoint);
        let daemon = solo.daemon(&[]);
        assert_recovered(&space, &solo, &commits);
        daemon.kill();
    }
}

#[test]
fn a_superseded_build_is_cancelled_after_a_kill_at_any_failpoint() {
    let Some(space) = Space::new() else { return };
    let solo = Solo::new(&space);
    let mut commits = vec![solo.repo.head("dev")];
    let daemon = solo.daemon(&[]);
    assert_recovered(&space, &solo, &commits);
    daemon.kill();
    for (number, failpoint) in around(&[Point::CancelJob]).iter().enumerate() {
        let seconds = 300 + u32::try_from(number).unwrap();
        commits.push(solo.repo.commit_and_push("dev", &[("Dockerfile", &slow_dockerfile(&space, seconds))]));
        let daemon = doomed(&solo, failpoint);
        solo.await_status("the slow image is being built", |status| {
            status["revision"] == commits.last().unwrap().as_str()
                && status["message"].as_str().is_some_and(|message| message.contains("the final image"))
        });
        let quick = [("Dockerfile", slow_dockerfile(&space, 0)), ("www/index.html", failpoint.clone())];
        let quick = quick.each_ref().map(|(name, content)| (*name, content.as_str()));
        commits.push(solo.repo.commit_and_push("dev", &quick));
        let (port, commit) = (daemon.port(), commits.last().unwrap());
        // The daemon may be killed before it has answered.
        let _ = signed_push(port, "keepwork", Solo::SECRET.1, "dev", commit);
        daemon.await_doom(failpoint);
        let daemon = solo.daemon(&[]);
        assert_recovered(&space, &solo, &commits);
        daemon.kill();
    }
}

#[test]
fn a_rebuilt_image_is_recorded_once_after_a_kill_at_any_failpoint() {
    let Some(space) = Space::new() else { return };
    let mut solo = Solo::new(&space);
    let build = solo.build.clone();
    let dockerfile = std::fs::read_to_string(solo.repo.work().join("Dockerfile")).unwrap();
    let dockerfile = format!("{dockerfile}ARG WHEN=first\nENV WHEN=${{WHEN}}\n");
    solo.repo.commit_and_push("dev", &[("Dockerfile", &dockerfile)]);
    let mut daemon = solo.daemon(&[]);
    for failpoint in around(&[Point::RecordRebuilt]) {
        let before = solo.await_ready();
        daemon.kill();
        // The engine's build cache would produce the very same image.
        let args = format!("args = {{ WHEN = \"{failpoint}\", DIST_PKG");
        solo.build = build.replace("args = { DIST_PKG", &args);
        solo.declare("");
        docker(&["rm", "--force", &solo.name]);
        docker(&["rmi", "--force", &before.image]);
        assert!(try_docker(&["image", "inspect", &before.image]).is_none());
        doomed(&solo, &failpoint).await_doom(&failpoint);
        daemon = solo.daemon(&[]);
        let after = solo.await_ready();
        assert!(after.is_running() && after.image != before.image, "{failpoint}: {before:?} {after:?}");
        let names = [solo.name.clone(), solo.holder()];
        assert_eq!(Vec::from_iter(space.container_names()), names, "{failpoint}: leftovers");
    }
}
