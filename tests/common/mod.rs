//! Shared helpers of the tests on a real Docker Engine.
//!
//! A test begins with `let Some(space) = Space::new() else { return };`. Everything that it creates
//! in the engine has the space's prefix or label, and is removed when the space is dropped. So a
//! test declares the space first: Rust drops in reverse order, so a [`Daemon`] in it stops before
//! that.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr)]
// Every test program uses only a part of this module.
#![allow(dead_code, unused_imports)]

mod authority;
mod browser;
mod busybox;
mod clock;
mod daemon;
mod disk;
mod docker;
mod failpoints;
mod forge;
mod git;
mod host;
mod image;
mod load;
mod net;
mod nginx;
mod pair;
mod pebble;
mod ports;
mod proxy;
mod registry;
mod relay;
mod scene;
mod service;
mod slow_git;
mod solo;
mod spot;
mod standard;
mod swarm;
mod teardown;
mod watcher;
mod workshop;

pub(crate) use authority::{Authority, Certificate};
pub(crate) use browser::{Browser, axe};
pub(crate) use busybox::busybox;
pub(crate) use clock::FakeClock;
pub(crate) use daemon::{Daemon, Ran, abide, abide_with};
pub(crate) use disk::SmallDisk;
pub(crate) use docker::{Space, docker, try_docker};
pub(crate) use failpoints::around;
pub(crate) use forge::Forge;
pub(crate) use git::GitRepo;
pub(crate) use host::{Cable, Host};
pub(crate) use image::{SITE_PORT, bulky_image, made_image};
pub(crate) use load::{Load, Way};
pub(crate) use net::{Answer, http_get, push_message, request, signed_post, signed_push, socket_get};
pub(crate) use nginx::nginx_image;
pub(crate) use pair::{Agent, AgentPlace, PORT, Pair, TUNNEL};
pub(crate) use pebble::Pebble;
pub(crate) use ports::{free_port, free_ports};
pub(crate) use proxy::{Fault, Proxy};
pub(crate) use registry::{Login, Registry, registry_image};
pub(crate) use relay::{Mishap, Relay};
pub(crate) use scene::{Scene, json, list};
pub(crate) use service::{ServedAnswer, ServedRequest, serve, serve_every_host};
pub(crate) use slow_git::SlowGit;
pub(crate) use solo::{Life, Solo, inspected};
pub(crate) use spot::Spot;
pub(crate) use standard::{SECRET, Standard};
pub(crate) use swarm::{Node, Swarm};
pub(crate) use watcher::{Seen, Watcher};
pub(crate) use workshop::{Workshop, build_log, site_image, status};

use std::time::{Duration, Instant};

/// The timeout for anything on a host that is busy with other tests.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Returns the example application of this build.
pub(crate) fn site() -> &'static [u8] {
    abide::demo::repository::site().unwrap()
}

/// Waits until `condition` holds.
///
/// # Panics
/// It takes longer than `timeout`; the message contains `what`.
pub(crate) fn eventually(what: &str, timeout: Duration, mut condition: impl FnMut() -> bool) {
    eventually_some(what, timeout, || condition().then_some(()));
}

/// Waits until `look` finds something, and returns it.
///
/// # Panics
/// It takes longer than `timeout`; the message contains `what`.
pub(crate) fn eventually_some<T>(what: &str, timeout: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(began.elapsed() < timeout, "{what}: not within {timeout:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}
