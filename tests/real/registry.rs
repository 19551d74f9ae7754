//! Registries: pushes, pulls by digest, lost images, and frozen, locked or manipulated registries.

mod base;
mod images;
mod managed;
mod managed_tls;
mod midway;
mod push;
mod signed;
mod tags;
mod trouble;

use std::time::Duration;

use serde_json::Value;

pub(crate) use push::PUSH;

use crate::common::{
    Daemon, Registry, Space, Workshop, docker, eventually_some, free_ports, site_image, status,
};

/// The timeout for anything on a host that is busy with other tests.
const PATIENCE: Duration = Duration::from_secs(60);
/// The login for a registry with a password. The two base64 alphabets encode this password
/// differently, because it has a `/` in one of them.
const USERNAME: &str = "abide";
const PASSWORD: &str = "canary>>>~~?never-to-be-seen";
/// The daemon's environment variable with the password.
const VARIABLE: &str = "ABIDE_TEST_REGISTRY_PASSWORD";

/// `dev`, whose image is pushed, and `prod`, which is promoted from it.
struct Shop {
    shop: Workshop,
    registry: Registry,
    /// The registry's address for abide and the engine.
    host: String,
    /// The repository in the registry.
    path: String,
    prod_port: u16,
    prod: String,
    space: Space,
}

impl Shop {
    /// Creates it beside `registry`; `access` has lines of its `registry_access`.
    fn new(space: Space, registry: Registry, access: &str) -> Self {
        let host = registry.host();
        Self::found_at(space, registry, host, access)
    }

    /// The same with `host` as the address of the registry.
    fn found_at(space: Space, registry: Registry, host: String, access: &str) -> Self {
        let [prod_port] = free_ports();
        let path = format!("{}shop/prod", space.prefix());
        let prod = space.name("prod-server");
        let shop = Workshop::new(
            &space,
            &[("Dockerfile", &site_image(&space, "COPY site.env /site.env"))],
            "[environment.dev.build]\n",
        );
        let made = Self { shop, registry, host, path, prod_port, prod, space };
        made.declare(access);
        made
    }

    /// With a registry without a password; `None` if the tests are disabled.
    fn open() -> Option<Self> {
        let space = Space::new()?;
        let registry = Registry::start(&space)?;
        Some(Self::new(space, registry, ""))
    }

    /// Replaces the manifest. All timeouts are short.
    fn declare(&self, access: &str) {
        self.declare_with(access, "promote_from = \"dev\"");
    }

    /// The same with another way to promote prod.
    fn declare_with(&self, access: &str, promotion: &str) {
        let host = &self.host;
        let options = self.shop.options("dev", &self.prod, self.prod_port);
        let options =
            options.lines().filter(|line| !line.starts_with("source")).collect::<Vec<_>>().join("\n");
        self.shop.declare(&format!(
            "push = \"{host}/{}\"\n[environment.dev.build]\n\n[environment.prod]\n{options}\n{promotion}\n\n\
             [registry_access.\"{host}\"]\npoll = \"5s\"\npatience = \"2s\"\n{access}",
            self.path
        ));
    }

    fn daemon(&self) -> Daemon {
        self.shop.daemon_with(&[(VARIABLE, PASSWORD)])
    }

    /// Returns the status of an environment once `look` accepts it.
    fn until(&self, daemon: &Daemon, environment: &str, what: &str, look: impl Fn(&Value) -> bool) -> Value {
        let mut last = Value::Null;
        let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            eventually_some(what, PATIENCE, || {
                last = status(daemon, environment);
                look(&last).then(|| last.clone())
            })
        }));
        found.unwrap_or_else(|_| {
            panic!("{environment}: {what}: not within {PATIENCE:?}; the last status: {last}")
        })
    }

    /// Waits until dev serves the head of its branch; returns the recorded digest.
    fn ready(&self, daemon: &Daemon) -> String {
        let head = self.shop.repo.head("dev");
        let status = self.until(daemon, "dev", "it is ready", |status| {
            status["status"] == "Ready" && status["revision"] == head.as_str()
        });
        status["image"]["digest"].as_str().unwrap_or_else(|| panic!("no digest: {status}")).to_owned()
    }

    /// Waits until dev has this `reason`; returns the message.
    fn await_reason(&self, daemon: &Daemon, reason: &str) -> String {
        self.await_reason_of(daemon, "dev", reason)
    }

    /// The same for another environment.
    fn await_reason_of(&self, daemon: &Daemon, environment: &str, reason: &str) -> String {
        let status = self.until(daemon, environment, reason, |status| status["reason"] == reason);
        status["message"].as_str().unwrap().to_owned()
    }

    /// The digest in the registry under the only tag of the image `id`.
    fn at_registry(&self, id: &str) -> Option<String> {
        self.registry.digest(&self.path, &format!("sha-{}", &id["sha256:".len()..][..12]))
    }

    /// The image of a container.
    fn runs(&self, container: &str) -> String {
        docker(&["inspect", "--format", "{{.Image}} {{.State.Running}}", container])
    }
}
