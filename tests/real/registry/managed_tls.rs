//! The registry that abide runs itself, with a certificate and a password, on a non-loopback
//! address.

use std::process::Command;

use serde_json::Value;

use super::{PASSWORD, PATIENCE, USERNAME, VARIABLE};
use crate::common::{
    Authority, Certificate, Daemon, Space, Workshop, docker, eventually, free_ports, registry_image,
    site_image, status, try_docker,
};

/// `dev`, which is pushed to the managed registry, and `prod`, which is promoted from it.
struct Shop {
    shop: Workshop,
    prod: String,
    container: String,
    volume: String,
    /// `address:port` of the registry, outside the loopback network.
    host: String,
    path: String,
    files: Certificate,
    authority: Authority,
    _space: Space,
}

impl Shop {
    fn new() -> Option<Self> {
        let space = Space::new()?;
        let image = registry_image(&space)?;
        let address = space.address();
        let [port, prod_port] = free_ports();
        let host = format!("{address}:{port}");
        let authority = Authority::new(space.dir());
        let file = |name: &str| space.dir().join(name);
        let files = Certificate { certificate: file("registry.pem"), key: file("registry-key.pem") };
        authority.sign(&address, &files);
        let made = Command::new("htpasswd").args(["-Bbn", "-C", "4", USERNAME, PASSWORD]).output().unwrap();
        std::fs::write(file("htpasswd"), made.stdout).unwrap();
        let shop = Workshop::new(
            &space,
            &[("Dockerfile", &site_image(&space, "COPY site.env /site.env"))],
            "[environment.dev.build]\n",
        );
        let prod = space.name("prod-server");
        let (container, volume) = (space.name("registry"), space.name("registry-data"));
        let path = format!("{}shop/prod", space.prefix());
        let options = shop.options("dev", &prod, prod_port);
        let options: Vec<_> = options.lines().filter(|line| !line.starts_with("source")).collect();
        shop.declare(&format!(
            "push = \"{host}/{path}\"\n[environment.dev.build]\n\n[environment.prod]\n{options}\npromote_from = \"dev\"\n\n\
             [registry]\nmanaged = true\nimage = \"{image}\"\npublish = \"{host}\"\ncontainer = \"{container}\"\n\
             volume = \"{volume}\"\nhtpasswd = \"{htpasswd}\"\ncertificate = \"{certificate}\"\nkey = \"{key}\"\n\n\
             [registry_access.\"{host}\"]\npatience = \"5s\"\nusername = \"{USERNAME}\"\nsecret_env = \"{VARIABLE}\"\n",
            options = options.join("\n"),
            htpasswd = file("htpasswd").display(),
            certificate = files.certificate.display(),
            key = files.key.display(),
        ));
        Some(Self { shop, prod, container, volume, host, path, files, authority, _space: space })
    }

    fn daemon(&self) -> Daemon {
        self.shop.daemon_with(&[(VARIABLE, PASSWORD)])
    }

    /// Waits until dev serves the head of its branch; returns the recorded image.
    fn ready(&self, daemon: &Daemon) -> Value {
        self.shop.await_ready(daemon);
        status(daemon, "dev")["image"].clone()
    }

    /// Waits until the registry serves the certificate from its file.
    fn shows_its_certificate(&self) {
        let own = std::fs::read_to_string(&self.files.certificate).unwrap();
        eventually("the registry shows its certificate", PATIENCE, || {
            self.authority.shown_by(&self.host).as_ref() == Some(&own)
        });
    }
}

/// Waits until the output of `abide status` contains these words.
fn await_words(daemon: &Daemon, words: &str) {
    eventually(&format!("status says {words:?}"), PATIENCE, || {
        let ran = daemon.abide(&["status"]);
        (ran.stdout + &ran.stderr).contains(words)
    });
}

#[test]
fn images_use_the_tls_registry_once_the_engine_trusts_it() {
    let Some(mut shop) = Shop::new() else { return };
    let daemon = shop.daemon();
    shop.shows_its_certificate();
    let message = shop.shop.await_reason(&daemon, "RegistryUnavailable");
    assert!(message.contains("certificate") && message.contains(&shop.host), "{message}");
    shop.authority.be_trusted_for(&shop.host);
    let image = shop.ready(&daemon);
    assert_eq!(image["reference"], format!("{}/{}", shop.host, shop.path));
    assert_eq!(daemon.log().matches("build started").count(), 1, "{}", daemon.log());

    // As on another engine, which has no part of it.
    let digest = image["digest"].as_str().unwrap();
    let promoted = daemon.abide(&["promote", "dev", "prod", "--yes", "--digest", digest]);
    assert_eq!(promoted.code, 0, "{promoted:?}");
    let waited = daemon.abide(&["wait", "prod", "--timeout", "60s"]);
    assert_eq!(waited.code, 0, "{waited:?}");
    assert!(daemon.terminate().success());
    let id = image["id"].as_str().unwrap();
    docker(&["rm", "--force", &shop.prod, &shop.shop.container]);
    docker(&["rmi", "--force", id]);
    let daemon = shop.daemon();
    let running = ["inspect", "--format", "{{.Image}} {{.State.Running}}", &shop.prod];
    eventually("prod runs what it pulled", PATIENCE, || try_docker(&running) == Some(format!("{id} true")));
    let pulled = format!("pull {}/{}@{digest}", shop.host, shop.path);
    assert!(daemon.log().contains(&pulled), "{}", daemon.log());

    // The recorded images include this address, so an empty registry would look like a loss.
    assert!(daemon.terminate().success());
    docker(&["rm", "--force", &shop.container]);
    docker(&["volume", "rm", &shop.volume]);
    let daemon = shop.daemon();
    await_words(&daemon, "which had pushed images, is missing");
    assert!(try_docker(&["volume", "inspect", &shop.volume]).is_none());
}

#[test]
fn a_renewed_registry_certificate_is_loaded_and_a_missing_one_reported() {
    let Some(shop) = Shop::new() else { return };
    let daemon = shop.daemon();
    shop.shows_its_certificate();
    let address = shop.host.split(':').next().unwrap();
    shop.authority.sign(address, &shop.files);
    shop.shows_its_certificate();

    let seen = || try_docker(&["inspect", "--format", "{{.Id}} {{.State.Running}}", &shop.container]);
    let (before, elsewhere) = (seen().unwrap(), shop.files.key.with_extension("elsewhere"));
    std::fs::rename(&shop.files.key, &elsewhere).unwrap();
    let named = format!("its key {} cannot be read", shop.files.key.display());
    await_words(&daemon, &named);
    assert_eq!(seen(), Some(before), "what served is touched");
    assert!(!shop.files.key.exists(), "something was made in its place");
    docker(&["rm", "--force", &shop.container]);
    std::fs::rename(&elsewhere, &shop.files.key).unwrap();
    shop.shows_its_certificate();
}
