//! Built images are pushed, and pushed images are available to other hosts.

use super::{PASSWORD, PATIENCE, Shop, USERNAME, VARIABLE};
use abide::failpoint::Point;

use crate::common::{Daemon, Login, Registry, SECRET, Space, docker, eventually, status, try_docker};

/// The points at which the daemon is killed here.
pub(crate) const PUSH: &[Point] = &[Point::Push];
/// The daemon's environment variable with the secret of its webhook.
const SECRET_VARIABLE: &str = "ABIDE_TEST_WEBHOOK_SECRET";

/// Removes all names and content of an image from this engine, as if it were another engine.
fn forget(shop: &Shop, id: &str) {
    docker(&["rm", "--force", &shop.shop.container]);
    docker(&["rmi", "--force", id]);
    assert_eq!(try_docker(&["inspect", "--type", "image", "--format", "{{.Id}}", id]), None);
}

/// Waits until prod runs the image `id`, which requires a pull.
fn pulled(shop: &Shop, id: &str) {
    let format = ["inspect", "--format", "{{.Image}} {{.State.Running}}", &shop.prod];
    eventually("prod runs what it pulled", PATIENCE, || try_docker(&format) == Some(format!("{id} true")));
}

#[test]
fn the_recorded_digest_is_the_registrys_digest() {
    let Some(shop) = Shop::open() else { return };
    let daemon = shop.daemon();
    let digest = shop.ready(&daemon);
    let image = status(&daemon, "dev")["image"].clone();
    let id = image["id"].as_str().unwrap();
    assert_eq!(image["reference"], format!("{}/{}", shop.registry.host(), shop.path));
    assert_eq!(shop.at_registry(id).as_deref(), Some(digest.as_str()));
    assert_eq!(shop.registry.digest(&shop.path, &digest).as_deref(), Some(digest.as_str()));
    assert_eq!(shop.registry.tags(&shop.path), [format!("sha-{}", &id[7..19])]);

    // A second version has its own tag, and the first keeps its tag.
    shop.shop.push(&daemon, &[("site.env", "VERSION=2\n")]);
    let second = shop.ready(&daemon);
    assert_ne!(second, digest);
    assert_eq!(shop.registry.tags(&shop.path).len(), 2);
    assert_eq!(shop.at_registry(id).as_deref(), Some(digest.as_str()));
}

#[test]
fn an_interrupted_push_is_repeated_without_a_second_build() {
    let Some(shop) = Shop::open() else { return };
    let daemon = shop.daemon();
    shop.ready(&daemon);
    assert!(daemon.terminate().success());
    for (number, failpoint) in ["before-push", "after-push"].into_iter().enumerate() {
        let daemon = Daemon::start_doomed(&shop.shop.desired_state, failpoint, &[(SECRET_VARIABLE, SECRET)]);
        shop.shop.push(&daemon, &[("site.env", &format!("VERSION={failpoint}\n"))]);
        daemon.await_doom(failpoint);
        let daemon = shop.daemon();
        let digest = shop.ready(&daemon);
        assert_eq!(
            shop.registry.digest(&shop.path, &digest).as_deref(),
            Some(digest.as_str()),
            "{failpoint}"
        );
        assert_eq!(daemon.log().matches("build started").count(), number + 2, "{failpoint}: built again");
        assert!(daemon.terminate().success());
    }
}

#[test]
fn the_same_inputs_are_pushed_once() {
    let Some(mut shop) = Shop::open() else { return };
    let daemon = shop.daemon();
    let digest = shop.ready(&daemon);
    let first = status(&daemon, "dev")["revision"].as_str().unwrap().to_owned();
    shop.shop.push(&daemon, &[("site.env", "VERSION=2\n")]);
    shop.ready(&daemon);
    // The registry is unreachable, and not needed.
    shop.registry.kill();
    let set = daemon.abide(&["set", "dev", "--commit", &first]);
    assert_eq!(set.code, 0, "{set:?}");
    let back = shop.until(&daemon, "dev", "the first one is recorded again", |status| {
        status["revision"] == first.as_str() && status["image"]["digest"] == digest.as_str()
    });
    let running =
        shop.until(&daemon, "dev", "it runs", |status| status["running"]["image_id"] == back["image"]["id"]);
    assert_eq!(running["image"]["digest"], digest.as_str());
}

#[test]
fn a_promoted_image_missing_locally_is_pulled_by_digest() {
    let Some(shop) = Shop::open() else { return };
    let daemon = shop.daemon();
    let digest = shop.ready(&daemon);
    let id = status(&daemon, "dev")["image"]["id"].as_str().unwrap().to_owned();
    let promoted = daemon.abide(&["promote", "dev", "prod", "--yes", "--digest", &digest]);
    assert_eq!(promoted.code, 0, "{promoted:?}");
    let ready = |status: &serde_json::Value| {
        status["status"] == "Ready" && status["image"]["digest"] == digest.as_str()
    };
    shop.until(&daemon, "prod", "it is ready", ready);
    assert!(daemon.terminate().success());

    docker(&["rm", "--force", &shop.prod]);
    forget(&shop, &id);
    let daemon = shop.daemon();
    pulled(&shop, &id);
    assert!(
        daemon.log().contains(&format!("pull {}/{}@{digest}", shop.registry.host(), shop.path)),
        "{}",
        daemon.log()
    );
    assert_eq!(daemon.log().matches("build started").count(), 1, "it was built again");
    // It has a name of abide, so that a plain prune keeps it.
    let names = docker(&["inspect", "--format", "{{.RepoTags}}", &id]);
    assert!(names.contains(&format!("keep-{}", &digest[7..19])), "{names}");
}

#[test]
fn an_image_lost_by_the_registry_is_pushed_again() {
    let Some(shop) = Shop::open() else { return };
    let daemon = shop.daemon();
    let digest = shop.ready(&daemon);
    let life = shop.runs(&shop.shop.container);
    shop.registry.delete(&shop.path, &digest);
    eventually("it is there again", PATIENCE, || shop.registry.digest(&shop.path, &digest).is_some());
    assert_eq!(shop.ready(&daemon), digest);
    assert_eq!(shop.runs(&shop.shop.container), life, "what serves has nothing to do with it");
    assert_eq!(daemon.log().matches("build started").count(), 1, "{}", daemon.log());
}

#[test]
fn an_image_lost_everywhere_is_rebuilt_and_pushed() {
    let Some(shop) = Shop::open() else { return };
    let daemon = shop.daemon();
    let digest = shop.ready(&daemon);
    let id = status(&daemon, "dev")["image"]["id"].as_str().unwrap().to_owned();
    assert!(daemon.terminate().success());
    shop.registry.delete(&shop.path, &digest);
    forget(&shop, &id);
    let daemon = shop.daemon();
    // Until then the status is the one of the previous daemon.
    eventually("what is recorded can be had again", PATIENCE, || {
        shop.registry.digest(&shop.path, &shop.ready(&daemon)).is_some()
    });
    assert_eq!(daemon.log().matches("build started").count(), 2, "{}", daemon.log());
}

#[test]
fn a_password_sensitive_to_base64_variants_works_and_is_never_shown() {
    let Some(space) = Space::new() else { return };
    let login = Login { username: USERNAME, password: PASSWORD };
    let Some(registry) = Registry::start_with(&space, Some(login), "") else { return };
    let access = format!("username = \"{USERNAME}\"\nsecret_env = \"{VARIABLE}\"\n");
    let shop = Shop::new(space, registry, &access);
    let daemon = shop.daemon();
    let digest = shop.ready(&daemon);
    let id = status(&daemon, "dev")["image"]["id"].as_str().unwrap().to_owned();
    assert_eq!(shop.at_registry(&id).as_deref(), Some(digest.as_str()));
    // The pull uses the same login.
    let promoted = daemon.abide(&["promote", "dev", "prod", "--yes"]);
    assert_eq!(promoted.code, 0, "{promoted:?}");
    shop.until(&daemon, "prod", "it is ready", |status| status["status"] == "Ready");
    assert!(daemon.terminate().success());
    docker(&["rm", "--force", &shop.prod]);
    forget(&shop, &id);
    let daemon = shop.daemon();
    pulled(&shop, &id);

    let canary = "never-to-be-seen";
    let mut seen = vec![("log", daemon.log())];
    for verb in [
        &["status", "-o", "json"][..],
        &["events", "-o", "json"],
        &["history", "dev", "-o", "json"],
        &["export"],
        &["why", "dev"],
        &["logs", "dev", "--build"],
        &["diff"],
    ] {
        let ran = daemon.abide(verb);
        seen.push((verb[0], ran.stdout + &ran.stderr));
    }
    seen.push(("image history", docker(&["history", "--no-trunc", &id])));
    seen.push(("image", docker(&["inspect", &id])));
    for (what, text) in seen {
        assert!(!text.contains(canary), "{what} shows the password:\n{text}");
    }
    for file in walk(&shop.shop.desired_state.join("record")) {
        let bytes = std::fs::read(&file).unwrap();
        assert!(!bytes.windows(canary.len()).any(|part| part == canary.as_bytes()), "{}", file.display());
    }
}

/// All regular files below a folder.
fn walk(dir: &std::path::Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(dir).unwrap().flatten().map(|entry| entry.path());
    let (dirs, others): (Vec<_>, Vec<_>) = entries.partition(|path| path.is_dir());
    let below = dirs.iter().flat_map(|dir| walk(dir));
    below.chain(others.into_iter().filter(|path| path.is_file())).collect()
}

#[test]
fn a_docker_login_and_a_credential_helper_are_used() {
    use std::os::unix::fs::PermissionsExt as _;
    let Some(space) = Space::new() else { return };
    let login = Login { username: USERNAME, password: PASSWORD };
    let Some(registry) = Registry::start_with(&space, Some(login), "") else { return };
    let shop = Shop::new(space, registry, "");
    let bin = shop.space.dir().join("bin");
    std::fs::create_dir(&bin).unwrap();
    let helper = bin.join("docker-credential-abide-test");
    let answer = serde_json::json!({ "ServerURL": "", "Username": USERNAME, "Secret": PASSWORD });
    let script = format!(
        "#!/bin/sh\nread host\n[ \"$1 $host\" = \"get {}\" ] || exit 1\ncat <<'E'\n{answer}\nE\n",
        shop.registry.host()
    );
    std::fs::write(&helper, script).unwrap();
    std::fs::set_permissions(&helper, std::fs::Permissions::from_mode(0o755)).unwrap();
    let docker_config = shop.space.dir().join("docker");
    std::fs::create_dir(&docker_config).unwrap();
    let config = docker_config.join("config.json");
    std::fs::write(&config, r#"{ "credsStore": "abide-test" }"#).unwrap();
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let daemon =
        shop.shop.daemon_with(&[("DOCKER_CONFIG", docker_config.to_str().unwrap()), ("PATH", &path)]);
    let first = shop.ready(&daemon);
    assert!(shop.registry.digest(&shop.path, &first).is_some());

    // The output of `docker login`, used without a restart.
    use base64::Engine as _;
    let auth = base64::engine::general_purpose::STANDARD.encode(format!("{USERNAME}:{PASSWORD}"));
    let written = serde_json::json!({ "auths": { shop.registry.host(): { "auth": auth } } });
    std::fs::write(&config, written.to_string()).unwrap();
    shop.shop.push(&daemon, &[("site.env", "VERSION=2\n")]);
    let second = shop.ready(&daemon);
    assert_ne!(first, second);
    assert!(shop.registry.digest(&shop.path, &second).is_some());
    assert!(!daemon.log().contains("never-to-be-seen"));
}

#[test]
fn a_tls_registry_is_verified_by_its_certificate() {
    let Some(space) = Space::new() else { return };
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let (certificate, key) = (space.dir().join("registry.pem"), space.dir().join("registry-key.pem"));
    std::fs::write(&certificate, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let tls = format!("  tls:\n    certificate: {}\n    key: {}\n", certificate.display(), key.display());
    let Some(registry) = Registry::start_with(&space, None, &tls) else { return };
    let shop = Shop::new(space, registry, "");
    // The engine accepts any certificate on the loopback address; abide requires a trusted one.
    let daemon = shop.daemon();
    let message = shop.await_reason(&daemon, "RegistryUnavailable");
    assert!(message.contains("certificate"), "{message}");
    assert!(daemon.terminate().success());
    let daemon = shop.shop.daemon_with(&[("SSL_CERT_FILE", certificate.to_str().unwrap())]);
    let digest = shop.ready(&daemon);
    assert_eq!(status(&daemon, "dev")["image"]["digest"], digest.as_str());
    assert_eq!(daemon.log().matches("build started").count(), 1, "{}", daemon.log());
}
