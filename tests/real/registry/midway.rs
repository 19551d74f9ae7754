//! Registries that fail in the middle of a transfer: the serving container keeps running, the
//! condition reports the problem, and the transfer is repeated automatically once the registry
//! works.

use serde_json::Value;

use super::Shop;
use crate::common::{Daemon, Mishap, Registry, Relay, Space, bulky_image, docker};

/// The size of the layer in transit during the failure, in bytes: more than sockets buffer.
const BULK: u64 = 24 << 20;
/// The part of it transferred by then, in bytes. No other layer is as large.
const MIDWAY: u64 = 4 << 20;

/// The failure of the registry.
#[derive(Clone, Copy)]
enum Fault {
    /// It stops answering, and its connections stay open.
    Freezes,
    /// Its process ends.
    IsKilled,
    /// It answers with this status.
    Answers(u16),
}

/// The transfer in progress.
#[derive(Clone, Copy)]
enum Transfer {
    /// A layer of dev's second version, to the registry.
    Push,
    /// A layer of prod's second version, to the engine.
    Pull,
}

impl Transfer {
    fn environment(self) -> &'static str {
        match self {
            Self::Push => "dev",
            Self::Pull => "prod",
        }
    }
}

/// A shop with a relay in front of the registry; dev and prod run a first version. The daemon stops
/// first.
struct Road {
    daemon: Daemon,
    relay: Relay,
    shop: Shop,
}

impl Road {
    fn new() -> Option<Self> {
        let space = Space::new()?;
        let registry = Registry::start(&space)?;
        let relay = Relay::start(registry.port());
        let shop = Shop::found_at(space, registry, relay.host(), "");
        let daemon = shop.daemon();
        let road = Self { daemon, relay, shop };
        let first = road.shop.ready(&road.daemon);
        road.set_prod(&first);
        road.prod_runs(&first);
        Some(road)
    }

    fn set_prod(&self, digest: &str) {
        let image = format!("{}/{}@{digest}", self.shop.host, self.shop.path);
        let set = self.daemon.abide(&["set", "prod", &image]);
        assert_eq!(set.code, 0, "{set:?}");
    }

    fn prod_runs(&self, digest: &str) {
        self.shop.until(&self.daemon, "prod", "it runs the digest", |status: &Value| {
            status["status"] == "Ready" && status["image"]["digest"] == digest
        });
    }

    /// Requests a second version with a large layer, whose transfer suffers the mishap; returns its
    /// digest if it is already known.
    fn want_second(&self, transfer: Transfer, mishap: Mishap) -> Option<String> {
        let Self { shop, daemon, relay } = self;
        let bulky = bulky_image(&shop.space, "second", &[BULK]);
        let strike = move |is_struck: bool| if is_struck { mishap } else { Mishap::None };
        match transfer {
            Transfer::Push => {
                relay
                    .rule(move |head| strike(head.starts_with("PATCH ") && head.contains("/blobs/uploads/")));
                let base = shop.space.name("bulky:1");
                docker(&["tag", &bulky, &base]);
                let recipe = format!("FROM {base}\nLABEL {}\n", shop.space.label());
                shop.shop.push(daemon, &[("Dockerfile", &recipe)]);
                None
            }
            Transfer::Pull => {
                // Pushed past the relay and then removed from this engine.
                let tag = format!("{}/{}:second", shop.registry.host(), shop.path);
                docker(&["tag", &bulky, &tag]);
                docker(&["push", "--quiet", &tag]);
                docker(&["rmi", "--force", &bulky]);
                let digest = shop.registry.digest(&shop.path, "second").unwrap();
                // The engine requests the configuration and the layers in any order.
                let layer = shop.registry.largest_layer(&shop.path, &digest);
                relay.rule(move |head| strike(head.starts_with("GET ") && head.contains(&layer)));
                self.set_prod(&digest);
                Some(digest)
            }
        }
    }

    /// The image and the start time of an environment's serving container.
    fn serving(&self, environment: &str) -> String {
        let name = if environment == "dev" { &self.shop.shop.container } else { &self.shop.prod };
        docker(&["inspect", "--format", "{{.Image}} {{.State.Running}} {{.State.StartedAt}}", name])
    }
}

/// Injects the fault in the middle of the transfer, and removes it once the condition has this
/// `reason`; returns the message.
fn survives(transfer: Transfer, fault: Fault, reason: &str) -> Option<String> {
    let mut road = Road::new()?;
    let environment = transfer.environment();
    let serving = road.serving(environment);
    let mishap = match fault {
        Fault::Freezes | Fault::IsKilled => Mishap::Hold(MIDWAY),
        // The status precedes any body.
        Fault::Answers(status) if matches!(transfer, Transfer::Pull) => Mishap::Answer(0, status),
        Fault::Answers(status) => Mishap::Answer(MIDWAY, status),
    };
    let second = road.want_second(transfer, mishap);
    match fault {
        Fault::Freezes => {
            road.relay.await_held();
            road.shop.registry.freeze();
        }
        Fault::IsKilled => {
            road.relay.await_held();
            road.shop.registry.kill();
        }
        Fault::Answers(_) => {}
    }
    road.relay.release();
    let message = road.shop.await_reason_of(&road.daemon, environment, reason);
    assert!(message.contains(&road.relay.host()), "which registry? {message}");
    assert!(message.contains("keeps serving"), "{message}");
    assert_eq!(road.serving(environment), serving);

    road.relay.calm();
    match fault {
        Fault::Freezes => road.shop.registry.thaw(),
        Fault::IsKilled => road.shop.registry.run(),
        Fault::Answers(_) => {}
    }
    let built = match second {
        Some(digest) => {
            road.prod_runs(&digest);
            1
        }
        None => {
            let digest = road.shop.ready(&road.daemon);
            assert_eq!(road.shop.registry.digest(&road.shop.path, &digest).as_deref(), Some(digest.as_str()));
            2
        }
    };
    assert_ne!(road.serving(environment), serving);
    let log = road.daemon.log();
    assert_eq!(log.matches("build started").count(), built, "{log}");
    Some(message)
}

#[test]
#[ignore = "slow: .ci/slow runs it"]
fn a_registry_freeze_during_a_push_is_reported() {
    let Some(message) = survives(Transfer::Push, Fault::Freezes, "RegistryUnavailable") else { return };
    assert!(message.contains("no progress for 2s while pushing"), "{message}");
}

#[test]
fn a_registry_freeze_during_a_pull_is_reported() {
    let Some(message) = survives(Transfer::Pull, Fault::Freezes, "RegistryUnavailable") else { return };
    assert!(message.contains("no progress for 2s while pulling"), "{message}");
}

// If the connection breaks, the engine retries for longer than the timeout here, without reporting
// why.

#[test]
fn a_registry_kill_during_a_push_is_reported() {
    let Some(message) = survives(Transfer::Push, Fault::IsKilled, "RegistryUnavailable") else { return };
    assert!(message.contains("repeated retries") && message.contains("does not respond"), "{message}");
}

#[test]
#[ignore = "slow: .ci/slow runs it"]
fn a_registry_kill_during_a_pull_is_reported() {
    let Some(message) = survives(Transfer::Pull, Fault::IsKilled, "RegistryUnavailable") else { return };
    assert!(message.contains("repeated retries") && message.contains("does not respond"), "{message}");
}

#[test]
#[ignore = "slow: .ci/slow runs it"]
fn a_registry_error_during_a_push_is_reported() {
    let Some(message) = survives(Transfer::Push, Fault::Answers(500), "RegistryUnavailable") else { return };
    assert!(message.contains("while pushing") && message.contains("repeated retries"), "{message}");
}

#[test]
fn a_registry_error_during_a_pull_is_reported() {
    let Some(message) = survives(Transfer::Pull, Fault::Answers(500), "RegistryUnavailable") else { return };
    assert!(message.contains("while pulling") && message.contains("repeated retries"), "{message}");
}

#[test]
fn a_registry_password_change_during_a_push_is_reported() {
    let Some(message) = survives(Transfer::Push, Fault::Answers(401), "RegistryDenied") else { return };
    assert!(message.contains("unauthorized"), "{message}");
}

#[test]
#[ignore = "slow: .ci/slow runs it"]
fn a_registry_password_change_during_a_pull_is_reported() {
    let Some(message) = survives(Transfer::Pull, Fault::Answers(401), "RegistryDenied") else { return };
    assert!(message.contains("unauthorized"), "{message}");
}
