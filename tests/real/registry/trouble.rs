//! Registries that are down, frozen, locked or manipulated: the serving container keeps running,
//! and the condition reports the problem.

use super::{PASSWORD, Shop, USERNAME, VARIABLE};
use crate::common::{Login, Mishap, Registry, Relay, Space, status};

/// Pushes a second version, which cannot be uploaded to the registry; returns the serving one.
fn second_version(shop: &Shop, daemon: &crate::common::Daemon) -> String {
    let serving = shop.runs(&shop.shop.container);
    shop.shop.push(daemon, &[("site.env", "VERSION=2\n")]);
    serving
}

#[test]
fn a_registry_outage_is_reported_and_the_container_keeps_serving() {
    let Some(mut shop) = Shop::open() else { return };
    let daemon = shop.daemon();
    let first = shop.ready(&daemon);

    shop.registry.freeze();
    let serving = second_version(&shop, &daemon);
    let message = shop.await_reason(&daemon, "RegistryUnavailable");
    assert!(message.contains("no progress for 2s") && message.contains("keeps serving"), "{message}");
    assert_eq!(shop.runs(&shop.shop.container), serving);
    shop.registry.thaw();
    let second = shop.ready(&daemon);
    assert_ne!(first, second);

    shop.registry.kill();
    let serving = shop.runs(&shop.shop.container);
    shop.shop.push(&daemon, &[("site.env", "VERSION=3\n")]);
    let message = shop.await_reason(&daemon, "RegistryUnavailable");
    assert!(message.contains("connection refused"), "{message}");
    assert_eq!(status(&daemon, "dev")["status"], "Degraded");
    assert_eq!(shop.runs(&shop.shop.container), serving);
    shop.registry.run();
    let third = shop.ready(&daemon);
    assert_eq!(shop.registry.digest(&shop.path, &third).as_deref(), Some(third.as_str()));
    // Every version was built once, however often it was pushed.
    assert_eq!(daemon.log().matches("build started").count(), 3, "{}", daemon.log());
}

#[test]
fn a_registry_that_denies_access_is_reported_and_retried() {
    let Some(space) = Space::new() else { return };
    let login = Login { username: USERNAME, password: PASSWORD };
    let Some(registry) = Registry::start_with(&space, Some(login.clone()), "") else { return };
    let access = format!("username = \"{USERNAME}\"\nsecret_env = \"{VARIABLE}\"\n");
    let mut shop = Shop::new(space, registry, &access);
    let daemon = shop.daemon();
    shop.ready(&daemon);
    shop.registry.change_password(Login { username: USERNAME, password: "another" });
    let serving = second_version(&shop, &daemon);
    let message = shop.await_reason(&daemon, "RegistryDenied");
    assert!(message.contains("unauthorized") || message.contains("no basic auth"), "{message}");
    assert_eq!(shop.runs(&shop.shop.container), serving);
    shop.registry.change_password(login);
    shop.ready(&daemon);
}

#[test]
fn a_newer_commit_cancels_a_hanging_push() {
    let Some(shop) = Shop::open() else { return };
    // Long enough that only the newer commit can end it.
    shop.declare("");
    let manifest = std::fs::read_to_string(shop.shop.desired_state.join("keepwork.toml")).unwrap();
    std::fs::write(
        shop.shop.desired_state.join("keepwork.toml"),
        manifest.replace("patience = \"2s\"", "patience = \"10m\""),
    )
    .unwrap();
    let daemon = shop.daemon();
    shop.ready(&daemon);
    shop.registry.freeze();
    shop.shop.push(&daemon, &[("site.env", "VERSION=2\n")]);
    shop.until(&daemon, "dev", "it is being pushed", |status| {
        status["message"].as_str().is_some_and(|message| message.contains("pushing to"))
    });
    shop.registry.thaw();
    shop.registry.freeze();
    let newer = shop.shop.push(&daemon, &[("site.env", "VERSION=3\n")]);
    shop.until(&daemon, "dev", "the newer one is on its way", |status| status["revision"] == newer.as_str());
    crate::common::eventually("the hanging push was cancelled", super::PATIENCE, || {
        daemon.log().contains("the record no longer needs it")
    });
    shop.registry.thaw();
    shop.ready(&daemon);
}

#[test]
fn a_hijacked_tag_is_detected_before_a_deployment() {
    let Some(shop) = Shop::open() else { return };
    let daemon = shop.daemon();
    let first = shop.ready(&daemon);
    let serving = shop.runs(&shop.shop.container);

    // Before each of abide's queries about a tag, an attacker moves the tag.
    let relay = Relay::start(shop.registry.port());
    let between = relay.host();
    let (registry, path, host) =
        (Registry::at(shop.registry.port()), shop.path.clone(), shop.registry.host());
    let evil = first.clone();
    relay.rule(move |head| {
        if head.contains("user-agent: abide/") && head.contains("/manifests/sha-") {
            let tag = head.split("/manifests/").nth(1).and_then(|rest| rest.split(' ').next()).unwrap();
            registry.move_tag(&path, tag, &evil);
        }
        Mishap::None
    });
    let file = shop.shop.desired_state.join("keepwork.toml");
    let manifest = std::fs::read_to_string(&file).unwrap().replace(&host, &between);
    let fresh = file.with_extension("new");
    std::fs::write(&fresh, manifest).unwrap();
    std::fs::rename(fresh, &file).unwrap();
    shop.until(&daemon, "dev", "what runs is there under the new name", |status| {
        let reference = status["image"]["reference"].as_str().unwrap_or_default();
        status["status"] == "Ready" && reference.starts_with(&between)
    });

    shop.shop.push(&daemon, &[("site.env", "VERSION=2\n")]);
    let message = shop.await_reason(&daemon, "TagMoved");
    assert!(message.contains(&first) && message.contains("another client writes to this tag"), "{message}");
    assert_eq!(shop.runs(&shop.shop.container), serving, "it was deployed");
    relay.calm();
    let second = shop.ready(&daemon);
    assert_ne!(first, second);
    assert_eq!(shop.registry.digest(&shop.path, &second).as_deref(), Some(second.as_str()));
}
