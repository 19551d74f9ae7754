//! Containers without abide: run by the command line as the old scripts did, or by bare calls.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use super::engine::{self, PORT};
use super::http;
use crate::common::{Space, docker};

/// Where peers live.
pub(crate) struct Peers<'a> {
    /// What their names begin with.
    pub(crate) space: &'a Space,
    /// The network that they join, as abide's containers do.
    pub(crate) network: &'a str,
}

impl Peers<'_> {
    /// `docker run` of a container that publishes its port, with this restart policy.
    pub(crate) fn run(&self, name: &str, image: &str, port: u16, policy: &str) -> String {
        let name = self.space.name(name);
        let publish = format!("127.0.0.1:{port}:{PORT}");
        let run = ["run", "--detach", "--init", "--restart", policy, "--network", self.network];
        docker(&[&run[..], &["--name", &name, "--publish", &publish, image]].concat())
    }

    /// A container that does nothing but hold a network namespace, with the port published.
    pub(crate) fn hold(&self, name: &str, image: &str, port: u16) -> String {
        let name = self.space.name(name);
        let publish = format!("127.0.0.1:{port}:{PORT}");
        let run = ["run", "--detach", "--init", "--env", "SITE_NEVER_LISTEN=1", "--network", self.network];
        docker(&[&run[..], &["--name", &name, "--publish", &publish, image]].concat())
    }

    /// One call that creates a container of its own network address, with the port published.
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

    /// One call that creates a container in the network namespace of `holder`.
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

/// One call that starts a container.
pub(crate) fn start(container: &str) {
    http::post(&engine::socket(), &format!("/containers/{container}/start"), "").unwrap();
}

/// Waits until the engine knows that a container has ended.
pub(crate) fn await_end(container: &str) {
    http::post(&engine::socket(), &format!("/containers/{container}/wait"), "").unwrap();
}

/// The least that anyone can do from outside: wait for the event, ask for the start.
pub(crate) struct BareWatcher {
    events: UnixStream,
    calls: UnixStream,
    id: String,
}

impl BareWatcher {
    /// Listens for the end of a container.
    pub(crate) fn new(id: &str) -> Self {
        let filters = format!(r#"{{"container":["{id}"],"event":["die"]}}"#);
        let filters: String = form_urlencoded::byte_serialize(filters.as_bytes()).collect();
        let mut events = UnixStream::connect(engine::socket()).unwrap();
        write!(events, "GET /events?filters={filters} HTTP/1.0\r\n\r\n").unwrap();
        read_until(&mut events, "\r\n\r\n");
        let calls = UnixStream::connect(engine::socket()).unwrap();
        Self { events, calls, id: id.to_owned() }
    }

    /// Starts it again once it has ended.
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
