//! Environments that track a tag: by polling, and by notifications.

use std::path::PathBuf;

use serde_json::Value;

use super::PATIENCE;
use crate::common::{
    Daemon, GitRepo, Registry, Space, docker, eventually_some, free_ports, request, site_image, status,
};

/// The token of the registry's notifications, and the daemon's variable with it.
const TOKEN: &str = "only-this-registry-knows-it";
const VARIABLE: &str = "ABIDE_TEST_REGISTRY_TOKEN";

/// `shop`, which runs the image of the tag `stable`.
struct Follower {
    registry: Registry,
    repo: GitRepo,
    path: String,
    desired_state: PathBuf,
    container: String,
    space: Space,
}

impl Follower {
    /// Creates it with a first version in the registry; `poll` is the polling interval.
    fn new(poll: &str) -> Option<Self> {
        let space = Space::new()?;
        let registry = Registry::start(&space)?;
        let repo = GitRepo::example(&space);
        repo.commit_and_push("dev", &[("Dockerfile", &site_image(&space, "COPY site.env /site.env"))]);
        let desired_state = space.dir().join("desired-state");
        std::fs::create_dir(&desired_state).unwrap();
        let (path, container) = (format!("{}shop", space.prefix()), space.name("shop-server"));
        let (host, [port]) = (registry.host(), free_ports());
        let manifest = format!(
            "[docker]\nnetwork = \"{}abide\"\n\n[environment.shop]\ncontainer = \"{container}\"\nport = 8900\n\
             publish = \"127.0.0.1:{port}\"\nimage = \"{host}/{path}:stable\"\ncommand = [\"dev\", \"--port\", \"8900\"]\n\
             health = {{ http = \"/\", interval = \"100ms\", timeout = \"1s\", start_deadline = \"20s\", healthy_for = \"300ms\" }}\n\n\
             [registry_access.\"{host}\"]\npoll = \"{poll}\"\nwebhook = {{ secret_env = \"{VARIABLE}\" }}\n",
            space.prefix(),
        );
        std::fs::write(desired_state.join("shop.toml"), manifest).unwrap();
        let made = Self { registry, repo, path, desired_state, container, space };
        made.release("1");
        Some(made)
    }

    fn daemon(&self) -> Daemon {
        Daemon::start(&self.desired_state, &[(VARIABLE, TOKEN)])
    }

    /// Builds and pushes a version as `stable` without abide; returns its digest.
    fn release(&self, version: &str) -> String {
        self.repo.commit_and_push("dev", &[("site.env", &format!("VERSION={version}\n"))]);
        let name = format!("{}/{}:stable", self.registry.host(), self.path);
        docker(&["build", "--quiet", "--tag", &name, self.repo.work().to_str().unwrap()]);
        docker(&["push", "--quiet", &name]);
        let digest = self.registry.digest(&self.path, "stable").unwrap();
        // As on a host that never had it.
        docker(&["rmi", "--force", &name]);
        digest
    }

    /// Returns the status once `digest` is recorded and runs.
    fn ready(&self, daemon: &Daemon, digest: &str) -> Value {
        let mut last = Value::Null;
        let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            eventually_some("it is ready", PATIENCE, || {
                last = status(daemon, "shop");
                let is_it = last["status"] == "Ready"
                    && last["image"]["digest"] == digest
                    && last["image"]["id"] == last["running"]["image_id"];
                is_it.then(|| last.clone())
            })
        }));
        found.unwrap_or_else(|_| panic!("{digest} is not ready; the last status: {last}"))
    }

    /// The generation of the record.
    fn generation(&self, daemon: &Daemon) -> u64 {
        status(daemon, "shop")["generation"].as_u64().unwrap()
    }
}

#[test]
fn a_moved_tag_is_deployed_and_a_deleted_one_changes_nothing() {
    let Some(shop) = Follower::new("5s") else { return };
    let first = shop.registry.digest(&shop.path, "stable").unwrap();
    let daemon = shop.daemon();
    let status = shop.ready(&daemon, &first);
    assert_eq!((&status["origin"], &status["revision"]), (&Value::from("tag"), &Value::Null));
    assert_eq!(status["image"]["reference"], format!("{}/{}", shop.registry.host(), shop.path));

    let second = shop.release("2");
    assert_ne!(first, second);
    shop.ready(&daemon, &second);
    // Back to the first version: the tag decides, whatever it named before.
    shop.registry.move_tag(&shop.path, "stable", &first);
    shop.ready(&daemon, &first);
    assert_eq!(shop.generation(&daemon), 3);

    shop.registry.delete(&shop.path, &first);
    let message = eventually_some("the missing tag is named", PATIENCE, || {
        let ran = daemon.abide(&["status"]);
        let words = ran.stdout + &ran.stderr;
        words.contains("environments that track it keep their current version").then_some(words)
    });
    assert!(message.contains(":stable"), "{message}");
    assert_eq!(docker(&["inspect", "--format", "{{.State.Running}}", &shop.container]), "true");
    assert_eq!(shop.generation(&daemon), 3);
    let third = shop.release("3");
    shop.ready(&daemon, &third);
}

#[test]
fn an_explicitly_set_image_stays_until_the_tag_moves() {
    let Some(shop) = Follower::new("5s") else { return };
    let first = shop.registry.digest(&shop.path, "stable").unwrap();
    let daemon = shop.daemon();
    shop.ready(&daemon, &first);
    let second = shop.release("2");
    shop.ready(&daemon, &second);
    let image = format!("{}/{}@{first}", shop.registry.host(), shop.path);
    assert_eq!(daemon.abide(&["set", "shop", &image]).code, 0);
    shop.ready(&daemon, &first);
    assert_eq!(daemon.abide(&["sync", "shop"]).code, 0);
    std::thread::sleep(std::time::Duration::from_secs(6));
    assert_eq!(shop.generation(&daemon), 3, "the tag has not moved");
    let third = shop.release("3");
    shop.ready(&daemon, &third);
}

#[test]
fn a_registry_notification_triggers_an_update_immediately() {
    // Without polling, every change comes from a notification.
    let Some(mut shop) = Follower::new("0s") else { return };
    let daemon = shop.daemon();
    let first = shop.registry.digest(&shop.path, "stable").unwrap();
    shop.ready(&daemon, &first);
    let endpoint = format!(
        "notifications:\n  endpoints:\n    - name: abide\n      url: http://127.0.0.1:{}/webhooks/registry/{}\n      \
         headers:\n        Authorization: [Bearer {TOKEN}]\n      timeout: 5s\n      threshold: 3\n      backoff: 1s\n",
        daemon.port(),
        shop.registry.host()
    );
    shop.registry.reconfigure(&endpoint);
    let second = shop.release("2");
    let status = shop.ready(&daemon, &second);
    assert_eq!(status["origin"], "tag");
    assert!(daemon.log().contains("registry notification recorded"), "{}", daemon.log());
    let log = daemon.log();
    assert!(!log.contains(TOKEN), "the token is in the log");
    drop(shop.space.images());
}

#[test]
fn a_registry_notification_is_only_a_hint_and_needs_the_token() {
    let Some(shop) = Follower::new("0s") else { return };
    let daemon = shop.daemon();
    let first = shop.registry.digest(&shop.path, "stable").unwrap();
    shop.ready(&daemon, &first);
    let lie = format!("sha256:{}", "0f".repeat(32));
    let event = |action: &str, kind: &str, tag: &str, digest: &str| {
        serde_json::json!({ "events": [{ "action": action, "target": {
            "mediaType": kind, "digest": digest, "repository": shop.path, "tag": tag,
            "url": "http://169.254.169.254/" }, "request": { "host": "evil.example.com" }, "actor": { "name": "eve" } }] })
        .to_string()
    };
    let manifest = "application/vnd.docker.distribution.manifest.v2+json";
    let envelope = "application/vnd.docker.distribution.events.v1+json";
    let send = |host: &str, token: &str, kind: &str, body: &str| {
        let proof = format!("Bearer {token}");
        let fields = [("Content-Type", kind), ("Authorization", proof.as_str())];
        let path = format!("/webhooks/registry/{host}");
        request(daemon.port(), "POST", &path, &fields, body.as_bytes()).unwrap()
    };
    let (host, lying) = (shop.registry.host(), event("push", manifest, "stable", &lie));
    for (host, token) in [
        (host.as_str(), "another-token-than-that"),
        (host.as_str(), ""),
        ("localhost:1", TOKEN),
        ("no..host", TOKEN),
    ] {
        let (status, answer) = send(host, token, envelope, &lying);
        assert_eq!(status, 401, "{host} {token}: {answer}");
    }
    for (body, kind, expected) in [
        (event("pull", manifest, "stable", &lie), envelope, "ignored"),
        (event("push", "application/octet-stream", "stable", &lie), envelope, "ignored"),
        (event("push", manifest, "latest", &lie), envelope, "ignored"),
        (event("push", manifest, "st/able", &lie), envelope, "ignored"),
        ("{\"events\":7}".to_owned(), "application/json", "ignored"),
        (
            event("push", manifest, "stable", &first),
            "application/vnd.docker.distribution.events.v2+json",
            "repeated",
        ),
    ] {
        let (status, answer) = send(&host, TOKEN, kind, &body);
        assert_eq!((status, answer.contains(expected)), (200, true), "{body}: {answer}");
    }
    assert_eq!(send(&host, TOKEN, envelope, "no json").0, 400);
    assert_eq!(send(&host, TOKEN, "text/plain", &lying).0, 415);
    let (status, answer) = send(&host, TOKEN, envelope, &lying);
    assert_eq!(status, 202, "{answer}");
    // abide queries the registry, whose tag has not changed.
    eventually_some("the hint is looked into", PATIENCE, || {
        let record: Value = serde_json::from_str(&daemon.abide(&["export"]).stdout).unwrap();
        let all = record["environments"].as_array().unwrap().clone();
        let of = all.into_iter().find(|one| one["desired"]["environment"] == "shop").unwrap();
        of["desired"]["tag_hint"].is_null().then_some(())
    });
    assert_eq!(shop.generation(&daemon), 1);
}
