//! A swarm of this engine alone, on the loopback address, which is left again.

use super::engine::PORT;
use super::fleet::free_ports;
use crate::common::{Space, docker, eventually_some, try_docker};
use std::time::Duration;

/// How long a service may take to have another container.
const PATIENCE: Duration = Duration::from_secs(60);
/// The network that joining makes and leaving does not take away.
const GATEWAY: &str = "docker_gwbridge";

/// The membership; it ends when this is dropped.
pub(crate) struct Swarm {
    had_gateway: bool,
    services: Vec<String>,
}

/// A service of one container on a port of this machine.
pub(crate) struct Service {
    name: String,
    /// Where it is published.
    pub(crate) port: u16,
}

impl Swarm {
    /// Makes one; `None` where the engine is in a swarm already, which is left alone.
    pub(crate) fn make() -> Option<Self> {
        if docker(&["info", "--format", "{{.Swarm.LocalNodeState}}"]) != "inactive" {
            println!("This engine is in a swarm already, so that row is left out.\n");
            return None;
        }
        let had_gateway = try_docker(&["network", "inspect", GATEWAY]).is_some();
        let listen = format!("127.0.0.1:{}", free_ports(1)[0]);
        docker(&["swarm", "init", "--advertise-addr", "127.0.0.1", "--listen-addr", &listen]);
        Some(Self { had_gateway, services: Vec::new() })
    }

    /// A service that restarts its container at once, whatever ended it.
    pub(crate) fn serve(&mut self, space: &Space, name: &str, image: &str) -> Service {
        let (name, port) = (space.name(name), free_ports(1)[0]);
        let publish = format!("mode=host,target={PORT},published={port}");
        let create = ["service", "create", "--detach", "--quiet", "--no-resolve-image", "--init"];
        let at_once = ["--restart-condition", "any", "--restart-delay", "0s", "--update-monitor", "0s"];
        docker(&[&create[..], &at_once, &["--name", &name, "--publish", &publish, image]].concat());
        self.services.push(name.clone());
        Service { name, port }
    }
}

impl Service {
    /// The id of the container that runs for it, once there is one other than `before`.
    pub(crate) fn container(&self, before: Option<&str>) -> String {
        let of_us = format!("label=com.docker.swarm.service.name={}", self.name);
        eventually_some("the service has a container", PATIENCE, || {
            let running = docker(&["ps", "--quiet", "--no-trunc", "--filter", &of_us]);
            running.lines().find(|id| Some(*id) != before).map(str::to_owned)
        })
    }

    /// Has it run another image: the old container is stopped first, for both want the port.
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
