//! Damage to a container is repaired by two daemons, of which the first is killed.

use abide::failpoint::Point;

use super::around;
use crate::common::{Daemon, PATIENCE, Space, Spot, docker, eventually, inspected, made_image};

/// The actions that repair a running container.
pub(super) const REPAIRS: &[Point] = &[Point::Unpause, Point::Connect, Point::Adjust, Point::Restart];

/// The values that the test checks after each repair.
const SET: &str = "{{.State.Status}} {{.HostConfig.Memory}}";
const NETWORKS: &str = "{{.State.Status}} {{len .NetworkSettings.Networks}}";

/// Does the damage that the point repairs.
fn harm(failpoint: &str, spot: &Spot) {
    let name = spot.name.as_str();
    match failpoint.split_once('-') {
        Some((_, "unpause")) => docker(&["pause", name]),
        Some((_, "connect")) => docker(&["network", "disconnect", &spot.network, &spot.holder()]),
        Some((_, "restart")) => docker(&["restart", &spot.holder()]),
        Some((_, "adjust")) => docker(&["update", "--memory", "32m", name]),
        _ => panic!("nothing is known that needs {failpoint}"),
    };
}

#[test]
fn a_repair_completes_after_a_kill_at_any_failpoint() {
    let Some(space) = Space::new() else { return };
    let spot = Spot::new(&space, "memory = \"64MiB\"");
    let image = made_image(&space, "the page", "");
    let daemon = spot.daemon();
    assert_eq!(spot.set(&image).code, 0);
    assert_eq!(spot.await_ready(), image);
    let seen = || (inspected(&spot.name, SET), inspected(&spot.holder(), NETWORKS));
    let (before, container) = (seen(), spot.container());
    daemon.kill();
    for failpoint in around(REPAIRS) {
        harm(&failpoint, &spot);
        Daemon::start_doomed(&spot.desired_state, &failpoint, &[]).await_doom(&failpoint);
        let daemon = spot.daemon();
        let what = format!("{failpoint}: it is as it was");
        eventually(&what, PATIENCE, || seen() == before);
        eventually("it serves", PATIENCE, || spot.page().as_deref() == Some("the page"));
        assert_eq!(spot.await_ready(), image, "{failpoint}");
        assert_eq!(spot.container(), container, "{failpoint}: it was replaced");
        daemon.kill();
    }
}
