//! Interrupted first deployments, updates, rollbacks and pulls.

use abide::failpoint::Point;

use super::around;
use crate::common::{Daemon, PATIENCE, Space, Spot, Watcher, eventually, made_image, try_docker};

/// The actions of only the first deployment.
pub(super) const FIRST: &[Point] =
    &[Point::CreateNetwork, Point::CreateVolume, Point::CreateHolder, Point::StartHolder];
/// The actions of an update, including every write of the record.
pub(super) const UPDATE: &[Point] =
    &[Point::Create, Point::Start, Point::Stop, Point::Remove, Point::Rename, Point::Flush];
/// The additional actions for a broken version.
pub(super) const ROLLBACK: &[Point] = &[Point::RollBack];
/// The actions for a missing image.
pub(super) const PULL: &[Point] = &[Point::Pull];

/// The writes of an update at which the daemon is killed: the first ones, which record the desired
/// image, and some of those in which the controller records its progress.
const WRITES: [u32; 5] = [1, 2, 3, 5, 8];

/// The failpoints of `points`; a write has several.
pub(super) fn failpoints(points: &[Point]) -> Vec<String> {
    let numbered = |name: String| match name.ends_with("-flush") {
        true => WRITES.iter().map(|nth| format!("{name}:{nth}")).collect(),
        false => vec![name],
    };
    around(points).into_iter().flat_map(numbered).collect()
}

/// Records `image` with a daemon that a failpoint kills, and returns whether the change was
/// acknowledged.
pub(super) fn cut_short(spot: &Spot, failpoint: &str, image: &str) -> bool {
    let daemon = Daemon::start_doomed(&spot.desired_state, failpoint, &[]);
    let acknowledged = spot.set(image).code == 0;
    daemon.await_doom(failpoint);
    acknowledged
}

/// Whether no container serves at this point of an update that stops the old container first.
fn is_in_the_gap(failpoint: &str) -> bool {
    // A write may fall into the gap, too.
    matches!(failpoint, "after-stop" | "before-start") || failpoint.contains("-flush")
}

/// An environment that was ready with `image` before its daemon was killed.
pub(super) fn running(spot: &Spot, image: &str) {
    let daemon = spot.daemon();
    assert_eq!(spot.set(image).code, 0);
    assert_eq!(spot.await_ready(), image);
    daemon.kill();
}

#[test]
fn a_first_deployment_resumes_after_a_kill_at_any_failpoint() {
    for failpoint in failpoints(FIRST) {
        let Some(space) = Space::new() else { return };
        let volume = space.name("data");
        let spot = Spot::new(&space, &format!("volumes = [\"{volume}:/data\"]"));
        let image = made_image(&space, "first", "");
        assert!(cut_short(&spot, &failpoint, &image), "{failpoint}");
        let _daemon = spot.daemon();
        assert_eq!(spot.await_ready(), image, "{failpoint}");
        assert_eq!(spot.page().as_deref(), Some("first"), "{failpoint}");
        assert_eq!(space.networks().len(), 1, "{failpoint}");
        assert_eq!(Vec::from_iter(space.volumes()), [volume], "{failpoint}");
    }
}

#[test]
fn an_update_resumes_after_a_kill_at_any_failpoint() {
    let Some(space) = Space::new() else { return };
    let spot = Spot::new(&space, "");
    let images = ["one", "two"].map(|page| (page, made_image(&space, page, "")));
    running(&spot, &images[0].1);
    let at_rest = space.container_names();
    let mut current = 0;
    for failpoint in failpoints(UPDATE) {
        let wanted = 1 - current;
        let watcher = Watcher::start(&space, spot.port);
        let acknowledged = cut_short(&spot, &failpoint, &images[wanted].1);
        if !is_in_the_gap(&failpoint) {
            eventually(&format!("{failpoint}: it serves without a daemon"), PATIENCE, || {
                spot.page().is_some()
            });
        }
        let daemon = spot.daemon();
        let runs = spot.await_ready();
        if acknowledged {
            assert_eq!(runs, images[wanted].1, "{failpoint}: what was acknowledged does not run");
        }
        current = images.iter().position(|(_, image)| *image == runs).unwrap();
        assert_eq!(spot.page().as_deref(), Some(images[current].0), "{failpoint}");
        assert_eq!(space.container_names(), at_rest, "{failpoint}: leftovers");
        watcher.finish().assert_only_declared_gaps(&failpoint, 1);
        daemon.kill();
    }
}

#[test]
fn a_rollback_resumes_after_a_kill_at_any_failpoint() {
    let Some(space) = Space::new() else { return };
    let spot = Spot::new(&space, "");
    let good = made_image(&space, "good", "");
    running(&spot, &good);
    let at_rest = space.container_names();
    for (number, failpoint) in failpoints(ROLLBACK).iter().enumerate() {
        let bad =
            made_image(&space, "bad", &format!("ENV SITE_CRASH_AFTER=0s SITE_EXIT_CODE={}", 7 + number));
        let watcher = Watcher::start(&space, spot.port);
        assert!(cut_short(&spot, failpoint, &bad), "{failpoint}");
        let daemon = spot.daemon();
        let status = spot.until("it is rolled back", |status| {
            status["status"] == "RolledBack" && status["observed_generation"] == status["generation"]
        });
        assert_eq!(status["image"]["id"], good.as_str(), "{failpoint}: {status}");
        assert_eq!(spot.page().as_deref(), Some("good"), "{failpoint}");
        assert_eq!(space.container_names(), at_rest, "{failpoint}: leftovers");
        // The old container was replaced, and the new one ended by itself.
        watcher.finish().assert_only_declared_gaps(failpoint, 2);
        daemon.kill();
    }
}

#[test]
fn a_daemon_kill_during_a_pull_does_not_affect_running_containers() {
    let Some(space) = Space::new() else { return };
    let spot = Spot::new(&space, "");
    let image = made_image(&space, "here", "");
    running(&spot, &image);
    let container = spot.container();
    // Nothing listens there, so the pull cannot be attempted.
    let elsewhere = format!("127.0.0.1:1/nothing@sha256:{}", "0".repeat(64));
    for failpoint in failpoints(PULL) {
        let watcher = Watcher::start(&space, spot.port);
        assert!(cut_short(&spot, &failpoint, &elsewhere), "{failpoint}");
        let daemon = spot.daemon();
        spot.until("it says that the image cannot be had", |status| {
            status["reason"] == "RegistryUnavailable" && status["observed_generation"] == status["generation"]
        });
        assert_eq!(spot.set(&image).code, 0);
        assert_eq!(spot.await_ready(), image, "{failpoint}");
        assert_eq!(spot.container(), container, "{failpoint}: what ran was replaced");
        watcher.finish().assert_no_gap(&failpoint);
        daemon.kill();
    }
    assert!(try_docker(&["image", "inspect", &elsewhere]).is_none());
}
