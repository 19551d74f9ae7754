//! One environment that runs what a test names: images that are there, no repository, no build.

use std::path::PathBuf;

use serde_json::Value;

use super::daemon::{Daemon, Ran, abide};
use super::docker::{Space, docker, try_docker};
use super::image::SITE_PORT;
use super::net::{free_ports, http_get};
use super::nginx::nginx_image;
use super::{PATIENCE, eventually_some};

/// `dev`, declared in a folder of its own.
pub(crate) struct Spot {
    /// The folder of the manifest and the record.
    pub(crate) desired_state: PathBuf,
    /// The container's name.
    pub(crate) name: String,
    /// The managed network's name.
    pub(crate) network: String,
    /// Where it is published on this machine.
    pub(crate) port: u16,
}

impl Spot {
    /// The name by which a front serves it.
    pub(crate) const HOST: &str = "dev.example";

    /// Lays it out in `space`, ready soon after it answers, with `options` besides: lines of
    /// `[environment.dev]`.
    pub(crate) fn new(space: &Space, options: &str) -> Self {
        let desired_state = space.dir().join("desired-state");
        std::fs::create_dir(&desired_state).unwrap();
        let [port] = free_ports();
        let spot = Self { desired_state, name: space.name("server"), network: space.name("abide"), port };
        spot.declare(options);
        spot
    }

    /// The name of the holder of its network namespace.
    pub(crate) fn holder(&self) -> String {
        format!("{}.net", self.name)
    }

    /// The same behind a front of its own, which also serves it by [`Self::HOST`] on a port that is
    /// given beside it.
    pub(crate) fn fronted(space: &Space, options: &str) -> (Self, u16) {
        let image = space.name("nginx");
        nginx_image(&image, &space.label());
        let [http] = free_ports();
        let front = format!("[front]\nimage = \"{image}\"\nhttp = {http}\ndrain = \"1s\"");
        let host = format!("hostname = \"{}\"", Self::HOST);
        (Self::new(space, &format!("{host}\n{options}\n{front}")), http)
    }

    /// Declares it anew.
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
        // In one step, as an editor does: a daemon never reads half a manifest.
        let path = self.desired_state.join("spot.toml");
        let fresh = path.with_extension("new");
        std::fs::write(&fresh, manifest).unwrap();
        std::fs::rename(fresh, path).unwrap();
    }

    /// Starts a daemon on it.
    pub(crate) fn daemon(&self) -> Daemon {
        Daemon::start(&self.desired_state, &[])
    }

    /// Runs one verb, whether a daemon runs or not.
    pub(crate) fn abide(&self, arguments: &[&str]) -> Ran {
        abide(&self.desired_state, arguments)
    }

    /// Records `image`, and gives how that went.
    pub(crate) fn set(&self, image: &str) -> Ran {
        self.abide(&["set", "dev", image])
    }

    /// The element of `status -o json`; `None` where nothing answers.
    pub(crate) fn status(&self) -> Option<Value> {
        let ran = self.abide(&["status", "dev", "-o", "json"]);
        serde_json::from_str::<Vec<Value>>(&ran.stdout).ok()?.pop()
    }

    /// The first status that `is_it` likes.
    ///
    /// # Panics
    /// With the last status, where none comes.
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

    /// Waits until it is ready at what is recorded, and gives the ID of the image that runs, which
    /// is the one that is recorded.
    pub(crate) fn await_ready(&self) -> String {
        let status = self.until("it is ready at what is recorded", |status| {
            status["status"] == "Ready" && status["observed_generation"] == status["generation"]
        });
        let running = docker(&["container", "inspect", "--format", "{{.Image}}", &self.name]);
        assert_eq!(status["image"]["id"], running.as_str(), "{status}");
        running
    }

    /// What is served at `/`; `None` where nothing is.
    pub(crate) fn page(&self) -> Option<String> {
        http_get(self.port, "/").ok().filter(|(status, _)| *status == 200).map(|(_, page)| page)
    }

    /// The id of the container of its name.
    pub(crate) fn container(&self) -> Option<String> {
        try_docker(&["container", "inspect", "--format", "{{.Id}}", &self.name])
    }
}
