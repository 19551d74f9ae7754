//! A swarm of only this engine, on the loopback address; dissolved at the end.

use super::engine::PORT;
use crate::common::{Space, docker, eventually_some, free_port, try_docker};
use std::time::Duration;

/// How long a service may take to replace its container.
const PATIENCE: Duration = Duration::from_secs(60);
/// The network that joining creates and leaving does not remove.
const GATEWAY: &str = "docker_gwbridge";

/// The swarm membership; it ends when dropped.
pub(crate) struct Swarm {
    had_gateway: bool,
    services: Vec<String>,
}

/// A service of one container on a port of this host.
pub(crate) struct Service {
    name: String,
    /// Its published port.
    pub(crate) port: u16,
}

impl Swarm {
    /// Creates a swarm; `None` if the engine is already in one, which is left alone.
    pub(crate) fn make() -> Option<Self> {
        if docker(&["info", "--format", "{{.Swarm.LocalNodeState}}"]) != "inactive" {
            println!("This engine is in a swarm already, so that row is left out.\n");
            return None;
        }
        let had_gateway = try_docker(&["network", "inspect", GATEWAY]).is_some();
        let listen = format!("127.0.0.1:{}", free_port());
        docker(&["swarm", "init", "--advertise-addr", "127.0.0.1", "--listen-addr", &listen]);
        Some(Self { had_gateway, services: Vec::new() })
    }

    /// Creates a service that restarts its container immediately, however it ended.
    pub(crate) fn serve(&mut self, space: &Space, name: &str, image: &str) -> Service {
        let (name, port) = (space.name(name), free_port());
        let publish = format!("mode=host,target={PORT},published={port}");
        let create = ["service", "create", "--detach", "--quiet", "--no-resolve-image", "--init"];
        let at_once = ["--restart-condition", "any", "--restart-delay", "0s", "--update-monitor", "0s"];
        docker(&[&create[..], &at_once, &["--name", &name, "--publish", &publish, image]].concat());
        self.services.push(name.clone());
        Service { name, port }
    }
}

impl Service {
    /// Returns the ID of its running container, once it differs from `before`.
    pub(crate) fn container(&self, before: Option<&str>) -> String {
        let of_us = format!("label=com.docker.swarm.service.name={}", self.name);
        eventually_some("the service has a container", PATIENCE, || {
            let running = docker(&["ps", "--quiet", "--no-trunc", "--filter", &of_us]);
            running.lines().find(|id| Some(*id) != before).map(str::to_owned)
        })
    }

    /// Updates the service to another image: the old container stops first, because both need the
    /// port.
    pub(crate) fn update(&self, image: &str) {
        docker(&[
            "service",
            "update",
            "--detach",
            "--quiet",
            "--no-resolve-image",
            "--image",
            image,
            &self.name,
        ]);
    }
}

impl Drop for Swarm {
    fn drop(&mut self) {
        for service in &self.services {
            try_docker(&["service", "rm", service]);
        }
        try_docker(&["swarm", "leave", "--force"]);
        if !self.had_gateway {
            try_docker(&["network", "rm", GATEWAY]);
        }
    }
}
