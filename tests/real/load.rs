//! No request fails in deployments through the proxy under a steady load, while the daemon is killed
//! during some of them, or while others come before the previous deployment has ended.

use std::time::{Duration, Instant};

use crate::common::{Daemon, Load, PATIENCE, Space, Spot, Watcher, Way, eventually, made_image};

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

/// The number of containers while nothing happens: the serving one, its sandbox, the proxy, and these spares.
fn at_rest(space: &Space, spares: usize) -> usize {
    eventually("the spares are made", PATIENCE, || space.spares() == spares);
    space.container_names().len()
}

/// Waits until only the serving container, its sandboxes and the proxy are left.
fn await_rest(space: &Space, at_rest: usize) {
    eventually("nothing is left over", PATIENCE, || space.container_names().len() == at_rest);
}

/// Starts a daemon that serves the first image.
fn serving(spot: &Spot, image: &str) -> Daemon {
    let daemon = spot.daemon();
    assert_eq!(spot.set(image).code, 0);
    assert_eq!(spot.await_ready(), image);
    daemon
}

#[test]
fn no_request_fails_in_deployments_with_kills_at_every_point() {
    deploy(2 * KILLED_AT.len(), 2);
}

#[test]
#[ignore = "slow: .ci/slow runs it"]
fn no_request_fails_in_fifty_deployments_with_daemon_kills() {
    deploy(50, 5);
}

/// Updates `deployments` times, and kills the daemon during every `kill_every`th switch.
fn deploy(deployments: usize, kill_every: usize) {
    let Some(space) = Space::new() else { return };
    let (spot, http) = Spot::fronted(&space, "");
    let images = PAGES.map(|page| made_image(&space, page, "ENV SITE_SLOW=400ms"));
    let mut daemon = serving(&spot, &images[0]);
    let at_rest = at_rest(&space, 1);
    let load = Load::start(&ways(spot.port, http));
    for deployment in 1..=deployments {
        let image = &images[deployment % PAGES.len()];
        if deployment % kill_every == 0 {
            // Otherwise this would interrupt the end of the previous switch.
            await_rest(&space, at_rest);
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
    await_rest(&space, at_rest);
}

/// How far apart the moments are at which something comes in the middle of an update. It takes about
/// a second from the start of a container to the front's switch to it.
const MOMENT: Duration = Duration::from_millis(150);
/// How many of them there are.
const MOMENTS: u32 = 12;
const THREE: [&str; 3] = ["one", "two", "three"];

/// What comes.
#[derive(Clone, Copy, Debug)]
enum Next {
    Push,
    Edit,
    Back,
}

/// Edits the environment variables of dev.
fn edit(spot: &Spot, value: u32) {
    let path = spot.desired_state.join("spot.toml");
    let manifest = std::fs::read_to_string(&path).unwrap();
    let lines = manifest.lines().filter(|line| !line.starts_with("env = "));
    let edited: String = lines
        .map(|line| match line {
            "[environment.dev]" => format!("{line}\nenv = {{ EDIT = \"{value}\" }}\n"),
            line => format!("{line}\n"),
        })
        .collect();
    let fresh = path.with_extension("new");
    std::fs::write(&fresh, edited).unwrap();
    std::fs::rename(fresh, path).unwrap();
}

/// Waits until a container of the update runs, and then until the moment.
fn await_moment(space: &Space, at_rest: usize, moment: u32) {
    eventually("the update is under way", PATIENCE, || space.container_names().len() > at_rest);
    let moment = Instant::now() + MOMENT * moment;
    eventually("the moment comes", PATIENCE, || Instant::now() >= moment);
}

#[test]
#[ignore = "slow: .ci/slow runs it"]
fn no_request_fails_if_an_update_behind_the_proxy_is_interrupted() {
    let Some(space) = Space::new() else { return };
    let (spot, http) = Spot::fronted(&space, "");
    let images = THREE.map(|page| made_image(&space, page, "ENV SITE_SLOW=400ms"));
    let mut daemon = serving(&spot, &images[0]);
    let at_rest = at_rest(&space, 1);
    let load = Load::start(&ways(spot.port, http));
    let mut current = 0;
    for moment in 0..MOMENTS {
        let next = [Next::Push, Next::Edit, Next::Back][moment as usize % 3];
        let (first, second) = ((current + 1) % 3, (current + 2) % 3);
        assert_eq!(spot.set(&images[first]).code, 0);
        await_moment(&space, at_rest, moment);
        if moment % 2 == 0 {
            daemon.kill();
            daemon = spot.daemon();
        }
        let wanted = match next {
            Next::Push => second,
            Next::Edit => first,
            Next::Back => current,
        };
        match next {
            Next::Edit => edit(&spot, moment),
            Next::Push | Next::Back => assert_eq!(spot.set(&images[wanted]).code, 0),
        }
        await_rest(&space, at_rest);
        assert_eq!(spot.await_ready(), images[wanted], "{next:?} at moment {moment}");
        current = wanted;
    }
    let tally = load.finish();
    assert!(tally.failed.is_empty(), "{} failed; {tally:#?}", tally.failed.len());
    eprintln!("good answers: {:?}; idle connections closed by the front: {}", tally.pages, tally.reopened);
}

#[test]
fn a_kill_during_an_update_adds_no_gap_on_a_published_port() {
    let Some(space) = Space::new() else { return };
    let spot = Spot::new(&space, "");
    let images = THREE.map(|page| made_image(&space, page, ""));
    let mut daemon = serving(&spot, &images[0]);
    let at_rest = at_rest(&space, 0);
    let mut current = 0;
    for moment in (0..MOMENTS).step_by(3) {
        let watcher = Watcher::start(&space, spot.port);
        let (first, second) = ((current + 1) % 3, (current + 2) % 3);
        assert_eq!(spot.set(&images[first]).code, 0);
        await_moment(&space, at_rest, moment);
        daemon.kill();
        daemon = spot.daemon();
        assert_eq!(spot.set(&images[second]).code, 0);
        assert_eq!(spot.await_ready(), images[second]);
        await_rest(&space, at_rest);
        // The first gave way to the second, and that to the third.
        watcher.finish().assert_only_declared_gaps(&format!("moment {moment}"), 2);
        current = second;
    }
}
