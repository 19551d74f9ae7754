//! Registries that are down, frozen, locked or lied to: what serves goes on, and the condition says so.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{PASSWORD, Shop, USERNAME, VARIABLE};
use crate::common::{Login, Registry, Space, status};

/// Pushes a second version, which cannot be pushed on to the registry; gives what serves meanwhile.
fn second_version(shop: &Shop, daemon: &crate::common::Daemon) -> String {
    let serving = shop.runs(&shop.shop.container);
    shop.shop.push(daemon, &[("site.env", "VERSION=2\n")]);
    serving
}

#[test]
fn a_registry_that_is_down_or_frozen_is_named_and_what_serves_goes_on() {
    let Some(mut shop) = Shop::open() else { return };
    let daemon = shop.daemon();
    let first = shop.ready(&daemon);

    shop.registry.freeze();
    let serving = second_version(&shop, &daemon);
    let message = shop.says(&daemon, "RegistryUnavailable");
    assert!(message.contains("nothing has moved for 2s") && message.contains("goes on serving"), "{message}");
    assert_eq!(shop.runs(&shop.shop.container), serving);
    shop.registry.thaw();
    let second = shop.ready(&daemon);
    assert_ne!(first, second);

    shop.registry.kill();
    let serving = shop.runs(&shop.shop.container);
    shop.shop.push(&daemon, &[("site.env", "VERSION=3\n")]);
    let message = shop.says(&daemon, "RegistryUnavailable");
    assert!(message.contains("connection refused"), "{message}");
    assert_eq!(status(&daemon, "dev")["status"], "Degraded");
    assert_eq!(shop.runs(&shop.shop.container), serving);
    shop.registry.run();
    let third = shop.ready(&daemon);
    assert_eq!(shop.registry.digest(&shop.path, &third).as_deref(), Some(third.as_str()));
    // Every version was built once, however often it was pushed.
    assert_eq!(daemon.log().matches("build begins").count(), 3, "{}", daemon.log());
}

#[test]
fn a_registry_that_lets_nobody_in_is_named_and_tried_again() {
    let Some(space) = Space::new() else { return };
    let login = Login { username: USERNAME, password: PASSWORD };
    let Some(registry) = Registry::start_with(&space, Some(login.clone()), "") else { return };
    let access = format!("username = \"{USERNAME}\"\nsecret_env = \"{VARIABLE}\"\n");
    let mut shop = Shop::new(space, registry, &access);
    let daemon = shop.daemon();
    shop.ready(&daemon);
    shop.registry.change_password(Login { username: USERNAME, password: "another" });
    let serving = second_version(&shop, &daemon);
    let message = shop.says(&daemon, "RegistryDenied");
    assert!(message.contains("unauthorized") || message.contains("no basic auth"), "{message}");
    assert_eq!(shop.runs(&shop.shop.container), serving);
    shop.registry.change_password(login);
    shop.ready(&daemon);
}

#[test]
fn a_newer_commit_ends_a_push_that_hangs() {
    let Some(shop) = Shop::open() else { return };
    // Long enough that nothing but the newer commit can end it.
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
        daemon.log().contains("the record no longer wants it")
    });
    shop.registry.thaw();
    shop.ready(&daemon);
}

/// Between everyone and a registry: before each question of abide a stranger moves the tag that it is
/// about, as long as `is_on`.
fn stranger(
    listener: TcpListener,
    to: u16,
    is_on: Arc<AtomicBool>,
    move_tag: impl Fn(&str) + Send + Sync + 'static,
) {
    let move_tag = Arc::new(move_tag);
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let (is_on, move_tag) = (Arc::clone(&is_on), Arc::clone(&move_tag));
            std::thread::spawn(move || {
                let _ = pass_on(client, to, &is_on, &*move_tag);
            });
        }
    });
}

fn pass_on(
    mut client: TcpStream,
    to: u16,
    is_on: &AtomicBool,
    move_tag: &dyn Fn(&str),
) -> std::io::Result<()> {
    let mut first = [0; 8192];
    let length = client.read(&mut first)?;
    let head = String::from_utf8_lossy(&first[..length]).into_owned();
    if head.contains("user-agent: abide/") && head.contains("/manifests/sha-") && is_on.load(Ordering::SeqCst)
    {
        move_tag(head.split("/manifests/").nth(1).and_then(|rest| rest.split(' ').next()).unwrap());
    }
    let mut registry = TcpStream::connect(("127.0.0.1", to))?;
    registry.write_all(&first[..length])?;
    let (mut from_client, mut to_registry) = (client.try_clone()?, registry.try_clone()?);
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut from_client, &mut to_registry);
        let _ = to_registry.shutdown(Shutdown::Write);
    });
    std::io::copy(&mut registry, &mut client)?;
    client.shutdown(Shutdown::Both)
}

#[test]
fn a_tag_that_a_stranger_moved_is_found_out_before_anything_is_deployed() {
    let Some(shop) = Shop::open() else { return };
    let daemon = shop.daemon();
    let first = shop.ready(&daemon);
    let serving = shop.runs(&shop.shop.container);

    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let between = format!("127.0.0.1:{}", listener.local_addr().unwrap().port());
    let is_on = Arc::new(AtomicBool::new(true));
    let (registry, path, host) =
        (Registry::at(shop.registry.port()), shop.path.clone(), shop.registry.host());
    let evil = first.clone();
    stranger(listener, shop.registry.port(), Arc::clone(&is_on), move |tag| {
        registry.move_tag(&path, tag, &evil);
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
    let message = shop.says(&daemon, "TagMoved");
    assert!(message.contains(&first) && message.contains("someone else writes there"), "{message}");
    assert_eq!(shop.runs(&shop.shop.container), serving, "it was deployed");
    is_on.store(false, Ordering::SeqCst);
    let second = shop.ready(&daemon);
    assert_ne!(first, second);
    assert_eq!(shop.registry.digest(&shop.path, &second).as_deref(), Some(second.as_str()));
}
