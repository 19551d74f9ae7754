//! No request fails in deployments through the proxy under a steady load, while the daemon is killed
//! during some of them.

use crate::common::{Daemon, Load, PATIENCE, Space, Spot, Way, eventually, made_image};

/// The failpoints, in turn.
const KILLED_AT: [&str; 6] =
    ["after-create", "after-start", "before-stop", "after-stop", "before-remove", "after-rename"];
const PAGES: [&str; 2] = ["one", "two"];

/// Clients of every kind, on the published port and by name.
fn ways(port: u16, http: u16) -> Vec<Way> {
    let mut ways = Vec::new();
    for (port, host) in [(port, "localhost"), (http, Spot::HOST)] {
        for (path, keeps) in [("/", true), ("/", false), ("/?slow", true), ("/?slow", false)] {
            ways.push(Way { port, host, path, keeps });
        }
    }
    ways
}

#[test]
fn no_request_fails_over_deployments_through_the_front_and_a_kill_at_every_point() {
    deploy(2 * KILLED_AT.len(), 2);
}

#[test]
#[ignore = "slow: .ci/slow runs it"]
fn no_request_fails_over_fifty_deployments_through_the_front_and_kills_of_the_daemon() {
    deploy(50, 5);
}

/// Updates `deployments` times, and kills the daemon during every `kill_every`th switch.
fn deploy(deployments: usize, kill_every: usize) {
    let Some(space) = Space::new() else { return };
    let (spot, http) = Spot::fronted(&space, "");
    let images = PAGES.map(|page| made_image(&space, page, "ENV SITE_SLOW=400ms"));
    let mut daemon = spot.daemon();
    assert_eq!(spot.set(&images[0]).code, 0);
    assert_eq!(spot.await_ready(), images[0]);
    // The container and its sandbox.
    let at_rest = space.container_names().len();
    let await_rest = || {
        eventually("nothing is left over", PATIENCE, || space.container_names().len() == at_rest);
    };
    let load = Load::start(&ways(spot.port, http));
    for deployment in 1..=deployments {
        let image = &images[deployment % PAGES.len()];
        if deployment % kill_every == 0 {
            // Otherwise this would interrupt the end of the previous switch.
            await_rest();
            daemon.kill();
            let failpoint = KILLED_AT[deployment / kill_every % KILLED_AT.len()];
            let doomed = Daemon::start_doomed(&spot.desired_state, failpoint, &[]);
            assert_eq!(spot.set(image).code, 0, "{failpoint}");
            doomed.await_doom(failpoint);
            daemon = spot.daemon();
        } else {
            assert_eq!(spot.set(image).code, 0);
        }
        assert_eq!(&spot.await_ready(), image, "deployment {deployment}");
    }
    let tally = load.finish();
    assert!(tally.failed.is_empty(), "{} failed; {tally:#?}", tally.failed.len());
    let served: Vec<&str> = tally.pages.keys().map(String::as_str).collect();
    assert_eq!(served, PAGES, "{tally:?}");
    eprintln!("good answers: {:?}; idle connections closed by the front: {}", tally.pages, tally.reopened);
    await_rest();
}
