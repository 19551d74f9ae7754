//! Containers without abide: run by the command line, as the old scripts did, or by single API
//! calls.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use super::engine::{self, PORT};
use super::http;
use crate::common::{Space, docker};

/// The context of peers.
pub(crate) struct Peers<'a> {
    /// The prefix of their names.
    pub(crate) space: &'a Space,
    /// The network that they join, like abide's containers.
    pub(crate) network: &'a str,
}

impl Peers<'_> {
    /// Runs a container with `docker run`, a published port and this restart policy.
    pub(crate) fn run(&self, name: &str, image: &str, port: u16, policy: &str) -> String {
        let name = self.space.name(name);
        let publish = format!("127.0.0.1:{port}:{PORT}");
        let run = ["run", "--detach", "--init", "--restart", policy, "--network", self.network];
        docker(&[&run[..], &["--name", &name, "--publish", &publish, image]].concat())
    }

    /// A container that only holds a network namespace, with a published port.
    pub(crate) fn hold(&self, name: &str, image: &str, port: u16) -> String {
        let name = self.space.name(name);
        let publish = format!("127.0.0.1:{port}:{PORT}");
        let run = ["run", "--detach", "--init", "--env", "SITE_NEVER_LISTEN=1", "--network", self.network];
        docker(&[&run[..], &["--name", &name, "--publish", &publish, image]].concat())
    }

    /// Creates a container with its own network address and a published port, in one call.
    pub(crate) fn create(&self, name: &str, image: &str, port: u16) -> String {
        let key = format!("{PORT}/tcp");
        let config = serde_json::json!({
            "Image": image,
            "ExposedPorts": { &key: {} },
            "HostConfig": {
                "Init": true,
                "NetworkMode": self.network,
                "PortBindings": { &key: [{ "HostIp": "127.0.0.1", "HostPort": port.to_string() }] },
            },
        });
        self.create_as(name, &config)
    }

    /// Creates a container in the network namespace of `holder`, in one call.
    pub(crate) fn create_in(&self, name: &str, image: &str, holder: &str) -> String {
        let config = serde_json::json!({
            "Image": image,
            "HostConfig": { "Init": true, "NetworkMode": format!("container:{holder}") },
        });
        self.create_as(name, &config)
    }

    fn create_as(&self, name: &str, config: &serde_json::Value) -> String {
        let target = format!("/containers/create?name={}", self.space.name(name));
        let made = http::post(&engine::socket(), &target, &config.to_string()).unwrap();
        let made: serde_json::Value = serde_json::from_str(&made).unwrap();
        made["Id"].as_str().unwrap().to_owned()
    }
}

/// Starts a container in one call.
pub(crate) fn start(container: &str) {
    http::post(&engine::socket(), &format!("/containers/{container}/start"), "").unwrap();
}

/// Waits until the engine knows that a container has ended.
pub(crate) fn await_end(container: &str) {
    http::post(&engine::socket(), &format!("/containers/{container}/wait"), "").unwrap();
}

/// The minimum for an external program: wait for the event, request the start.
pub(crate) struct BareWatcher {
    events: UnixStream,
    calls: UnixStream,
    id: String,
}

impl BareWatcher {
    /// Subscribes to the end of a container.
    pub(crate) fn new(id: &str) -> Self {
        let filters = format!(r#"{{"container":["{id}"],"event":["die"]}}"#);
        let filters: String = form_urlencoded::byte_serialize(filters.as_bytes()).collect();
        let mut events = UnixStream::connect(engine::socket()).unwrap();
        write!(events, "GET /events?filters={filters} HTTP/1.0\r\n\r\n").unwrap();
        read_until(&mut events, "\r\n\r\n");
        let calls = UnixStream::connect(engine::socket()).unwrap();
        Self { events, calls, id: id.to_owned() }
    }

    /// Starts the container again once it has ended.
    pub(crate) fn start_on_event(mut self) {
        read_until(&mut self.events, "\"die\"");
        let target = format!("/containers/{}/start", self.id);
        write!(self.calls, "POST {target} HTTP/1.0\r\nContent-Length: 0\r\n\r\n").unwrap();
        read_until(&mut self.calls, " 204 ");
    }
}

fn read_until(stream: &mut UnixStream, end: &str) {
    let (mut text, mut buffer) = (String::new(), [0; 4096]);
    while !text.contains(end) {
        let length = stream.read(&mut buffer).unwrap();
        assert!(length > 0, "the engine ended before {end:?}: {text}");
        text.push_str(&String::from_utf8_lossy(&buffer[..length]));
    }
}
