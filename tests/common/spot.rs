//! A single environment that runs present images named by a test, without a repository or a build.

use std::path::PathBuf;

use serde_json::Value;

use super::daemon::{Daemon, Ran, abide};
use super::docker::{Space, docker, try_docker};
use super::image::SITE_PORT;
use super::net::http_get;
use super::nginx::nginx_image;
use super::ports::free_ports;
use super::{PATIENCE, eventually_some};

/// `dev`, declared in its own folder.
pub(crate) struct Spot {
    /// The folder of the manifest and the record.
    pub(crate) desired_state: PathBuf,
    /// The container's name.
    pub(crate) name: String,
    /// The managed network's name.
    pub(crate) network: String,
    /// Its published port on this host.
    pub(crate) port: u16,
}

impl Spot {
    /// The host name for the proxy.
    pub(crate) const HOST: &str = "dev.example";

    /// Creates it in `space`, ready soon after it answers, with additional `options`: lines of
    /// `[environment.dev]`.
    pub(crate) fn new(space: &Space, options: &str) -> Self {
        let desired_state = space.dir().join("desired-state");
        std::fs::create_dir(&desired_state).unwrap();
        let [port] = free_ports();
        let spot = Self { desired_state, name: space.name("server"), network: space.name("abide"), port };
        spot.declare(options);
        spot
    }

    /// The name of its sandbox.
    pub(crate) fn holder(&self) -> String {
        format!("{}.net", self.name)
    }

    /// The same behind its own proxy, which also serves it by [`Self::HOST`] on the returned port.
    pub(crate) fn fronted(space: &Space, options: &str) -> (Self, u16) {
        let image = space.name("nginx");
        nginx_image(&image, &space.label());
        let [http] = free_ports();
        let front = format!("[front]\nimage = \"{image}\"\nhttp = {http}\ndrain = \"1s\"");
        let host = format!("hostname = \"{}\"", Self::HOST);
        (Self::new(space, &format!("{host}\n{options}\n{front}")), http)
    }

    /// Declares it again.
    pub(crate) fn declare(&self, options: &str) {
        let Self { name, network, port, .. } = self;
        let health = match options.contains("health") {
            true => "",
            false => {
                "health = { http = \"/\", interval = \"50ms\", timeout = \"1s\", start_deadline = \"10s\", \
                 healthy_for = \"200ms\" }"
            }
        };
        let manifest = format!(
            "[docker]\nnetwork = \"{network}\"\n[environment.dev]\ncontainer = \"{name}\"\nport = {SITE_PORT}\n\
             publish = \"127.0.0.1:{port}\"\n{health}\n{options}\n"
        );
        // Replaced atomically, as an editor does, so that a daemon never reads half a manifest.
        let path = self.desired_state.join("spot.toml");
        let fresh = path.with_extension("new");
        std::fs::write(&fresh, manifest).unwrap();
        std::fs::rename(fresh, path).unwrap();
    }

    /// Starts a daemon on it.
    pub(crate) fn daemon(&self) -> Daemon {
        Daemon::start(&self.desired_state, &[])
    }

    /// Runs one command, with or without a daemon.
    pub(crate) fn abide(&self, arguments: &[&str]) -> Ran {
        abide(&self.desired_state, arguments)
    }

    /// Records `image`, and returns the result.
    pub(crate) fn set(&self, image: &str) -> Ran {
        self.abide(&["set", "dev", image])
    }

    /// The element of `status -o json`; `None` if the daemon does not answer.
    pub(crate) fn status(&self) -> Option<Value> {
        let ran = self.abide(&["status", "dev", "-o", "json"]);
        serde_json::from_str::<Vec<Value>>(&ran.stdout).ok()?.pop()
    }

    /// Returns the first status that `is_it` accepts.
    ///
    /// # Panics
    /// No status is accepted; the message has the last one.
    pub(crate) fn until(&self, what: &str, is_it: impl Fn(&Value) -> bool) -> Value {
        let mut last = Value::Null;
        let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            eventually_some(what, PATIENCE, || {
                last = self.status()?;
                is_it(&last).then(|| last.clone())
            })
        }));
        found.unwrap_or_else(|_| panic!("{what}: not within {PATIENCE:?}; the last status: {last}"))
    }

    /// Waits until it is ready, and returns the ID of the running image, which is the recorded one.
    pub(crate) fn await_ready(&self) -> String {
        let status = self.until("it is ready at what is recorded", |status| {
            status["status"] == "Ready" && status["observed_generation"] == status["generation"]
        });
        let running = docker(&["container", "inspect", "--format", "{{.Image}}", &self.name]);
        assert_eq!(status["image"]["id"], running.as_str(), "{status}");
        running
    }

    /// The page at `/`; `None` if no page is served.
    pub(crate) fn page(&self) -> Option<String> {
        http_get(self.port, "/").ok().filter(|(status, _)| *status == 200).map(|(_, page)| page)
    }

    /// The ID of its container.
    pub(crate) fn container(&self) -> Option<String> {
        try_docker(&["container", "inspect", "--format", "{{.Id}}", &self.name])
    }
}
