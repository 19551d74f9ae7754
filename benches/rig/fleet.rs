//! A daemon with several environments that run a static site, behind a counting proxy.

use std::fmt::Write as _;
use std::path::PathBuf;

use super::engine::{self, PORT};
use super::proxy::Proxy;
use crate::common::{Daemon, Space, docker, free_port, nginx_image};

/// The daemon and its environments. Must be dropped before its space.
pub(crate) struct Fleet {
    /// The daemon.
    pub(crate) daemon: Daemon,
    /// The proxy for its requests to the engine.
    pub(crate) proxy: Proxy,
    /// The environments.
    pub(crate) environments: Vec<Running>,
    /// The folder of the manifest and the record.
    pub(crate) desired_state: PathBuf,
    /// The managed network.
    pub(crate) network: String,
}

/// An environment that is ready.
pub(crate) struct Running {
    /// Its name.
    pub(crate) name: String,
    /// The ID of its container.
    pub(crate) container: String,
    /// Its port on the loopback address.
    pub(crate) port: u16,
}

impl Fleet {
    /// Declares `count` environments in a folder of `space`, starts a daemon, records `image` for
    /// each and waits until all are ready. Needs a runtime.
    pub(crate) fn start(space: &Space, count: usize, image: &str) -> Self {
        Self::probed(space, count, image, r#"{ tcp = true, healthy_for = "100ms" }"#)
    }

    /// The same, with this `health`.
    pub(crate) fn probed(space: &Space, count: usize, image: &str, health: &str) -> Self {
        Self::declared(space, count, image, health, "")
    }

    /// The same behind a proxy, which serves the ports.
    pub(crate) fn fronted(space: &Space, count: usize, image: &str, health: &str) -> Self {
        let nginx = space.name("nginx");
        nginx_image(&nginx, &space.label());
        let http = free_port();
        let front = format!("[front]\nimage = \"{nginx}\"\nhttp = {http}\ndrain = \"1s\"\n");
        Self::declared(space, count, image, health, &front)
    }

    fn declared(space: &Space, count: usize, image: &str, health: &str, more: &str) -> Self {
        let desired_state = space.dir().join("desired-state");
        std::fs::create_dir(&desired_state).unwrap();
        let ports: Vec<_> = (0..count).map(|_| free_port()).collect();
        let network = space.name("net");
        let manifest = manifest(space, &network, &ports, health) + more;
        std::fs::write(desired_state.join("bench.toml"), manifest).unwrap();
        let proxy = Proxy::start(space.dir().join("engine.sock"), &engine::socket());
        let daemon = Daemon::start(&desired_state, &[("DOCKER_HOST", &proxy.docker_host())]);
        let names: Vec<String> = (0..count).map(environment).collect();
        names.iter().for_each(|name| must(&daemon, &["set", name, image]));
        names.iter().for_each(|name| must(&daemon, &["wait", name, "--timeout", "2m"]));
        let running = names.into_iter().zip(ports).map(|(name, port)| {
            let container = docker(&["inspect", "--format", "{{.Id}}", &space.name(&name)]);
            Running { name, container, port }
        });
        Self { environments: running.collect(), daemon, proxy, desired_state, network }
    }
}

fn must(daemon: &Daemon, arguments: &[&str]) {
    let ran = daemon.abide(arguments);
    assert_eq!(ran.code, 0, "{arguments:?}: {}{}", ran.stdout, ran.stderr);
}

fn environment(number: usize) -> String {
    format!("e{number}")
}

fn manifest(space: &Space, network: &str, ports: &[u16], health: &str) -> String {
    let mut manifest = format!("[docker]\nnetwork = \"{network}\"\n");
    for (number, port) in ports.iter().enumerate() {
        let name = environment(number);
        let container = space.name(&name);
        let _ = write!(
            manifest,
            "[environment.{name}]\ncontainer = \"{container}\"\nport = {PORT}\n\
             publish = \"127.0.0.1:{port}\"\nhealth = {health}\n"
        );
    }
    manifest
}
