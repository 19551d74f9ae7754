//! The registry that abide runs itself: it is repaired like every container, and its images stay.

use std::path::PathBuf;

use super::PATIENCE;
use crate::common::{
    Daemon, GitRepo, Proxy, Registry, Space, abide, docker, eventually, free_ports, registry_image,
    site_image, try_docker,
};

/// A managed registry beside one unchanged environment.
struct Managed {
    desired_state: PathBuf,
    container: String,
    volume: String,
    port: u16,
    space: Space,
}

impl Managed {
    fn new(more: &str) -> Option<Self> {
        let space = Space::new()?;
        let image = registry_image(&space)?;
        let desired_state = space.dir().join("desired-state");
        std::fs::create_dir(&desired_state).unwrap();
        let [port] = free_ports();
        let (container, volume) = (space.name("registry"), space.name("registry-data"));
        let made = Self { desired_state, container, volume, port, space };
        made.declare(&format!("image = \"{image}\"\n{more}"));
        Some(made)
    }

    fn declare(&self, registry: &str) {
        let Self { container, volume, port, space, .. } = self;
        let manifest = format!(
            "[docker]\nnetwork = \"{prefix}abide\"\n\n[environment.shop]\ncontainer = \"{prefix}shop\"\nport = 8900\n\
             publish = false\n\n[registry]\nmanaged = true\npublish = {port}\ncontainer = \"{container}\"\n\
             volume = \"{volume}\"\n{registry}",
            prefix = space.prefix(),
        );
        let path = self.desired_state.join("shop.toml");
        let fresh = path.with_extension("new");
        std::fs::write(&fresh, manifest).unwrap();
        std::fs::rename(fresh, path).unwrap();
    }

    fn daemon(&self) -> Daemon {
        Daemon::start(&self.desired_state, &[])
    }

    /// Waits until the registry answers.
    fn answers(&self) {
        eventually("the registry answers", PATIENCE, || {
            crate::common::http_get(self.port, "/v2/").is_ok_and(|(status, _)| matches!(status, 200 | 401))
        });
    }

    /// Pushes an image to it and returns the digest.
    fn push(&self, path: &str) -> String {
        let repo = GitRepo::example(&self.space);
        repo.commit_and_push("dev", &[("Dockerfile", &site_image(&self.space, ""))]);
        let registry = Registry::at(self.port);
        let name = format!("{}/{path}:stable", registry.host());
        docker(&["build", "--quiet", "--tag", &name, repo.work().to_str().unwrap()]);
        docker(&["push", "--quiet", &name]);
        registry.digest(path, "stable").unwrap()
    }

    fn seen(&self, format: &str) -> String {
        try_docker(&["inspect", "--format", format, &self.container]).unwrap_or_default()
    }
}

#[test]
fn pushed_images_survive_every_change_of_the_registry_container() {
    let Some(managed) = Managed::new("") else { return };
    let daemon = managed.daemon();
    managed.answers();
    let labels = managed
        .seen("{{index .Config.Labels \"abide.role\"}} {{index .Config.Labels \"abide.environment\"}}");
    assert_eq!(labels, "registry", "it is no environment's container");
    let address = managed.seen("{{range .HostConfig.PortBindings}}{{range .}}{{.HostIp}}{{end}}{{end}}");
    assert_eq!(address, "127.0.0.1", "it is open to others");

    let (registry, path) = (Registry::at(managed.port), "shop/app");
    let digest = managed.push(path);

    let first = managed.seen("{{.Id}}");
    docker(&["kill", &managed.container]);
    managed.answers();
    assert_eq!(managed.seen("{{.Id}}"), first, "it was started again, not made anew");
    docker(&["rm", "--force", &managed.container]);
    managed.answers();
    assert_ne!(managed.seen("{{.Id}}"), first);
    docker(&["pause", &managed.container]);
    eventually("it goes on", PATIENCE, || managed.seen("{{.State.Status}}") == "running");
    managed.answers();
    assert_eq!(registry.digest(path, "stable"), Some(digest.clone()));

    // Changed by hand while no daemon runs.
    assert!(daemon.terminate().success());
    docker(&["update", "--restart", "always", &managed.container]);
    let daemon = managed.daemon();
    eventually("one process owns restarts", PATIENCE, || {
        managed.seen("{{.HostConfig.RestartPolicy.Name}}") == "no"
    });
    managed.answers();
    assert_eq!(registry.digest(path, "stable"), Some(digest));

    // Removed from the manifest, it keeps running and is reported.
    let path = managed.desired_state.join("shop.toml");
    let manifest = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, manifest.split("[registry]").next().unwrap()).unwrap();
    eventually("it is named", PATIENCE, || {
        let ran = daemon.abide(&["status"]);
        (ran.stdout + &ran.stderr).contains("no longer in the manifest")
    });
    managed.answers();
}

#[test]
fn a_missing_registry_volume_is_never_recreated_empty() {
    let Some(managed) = Managed::new("") else { return };
    let daemon = managed.daemon();
    managed.answers();
    let image = format!("{}/shop/app@{}", Registry::at(managed.port).host(), managed.push("shop/app"));
    assert_eq!(daemon.abide(&["set", "shop", &image]).code, 0);
    assert!(daemon.terminate().success());
    docker(&["rm", "--force", &managed.container]);
    docker(&["volume", "rm", &managed.volume]);

    let daemon = managed.daemon();
    eventually("it is named", PATIENCE, || {
        let ran = daemon.abide(&["status"]);
        (ran.stdout + &ran.stderr).contains("which had pushed images, is missing")
    });
    assert!(try_docker(&["volume", "inspect", &managed.volume]).is_none());
    docker(&["volume", "create", &managed.volume]);
    managed.answers();
}

#[test]
fn an_unmanaged_container_with_the_registrys_name_is_reported() {
    let Some(managed) = Managed::new("") else { return };
    let image = registry_image(&managed.space).unwrap();
    docker(&["create", "--name", &managed.container, &image]);
    let foreign = managed.seen("{{.Id}}");
    let daemon = managed.daemon();
    eventually("it is named", PATIENCE, || {
        let ran = daemon.abide(&["status"]);
        (ran.stdout + &ran.stderr).contains("an unmanaged container has its name")
    });
    assert_eq!(managed.seen("{{.Id}}"), foreign);
    docker(&["rm", &managed.container]);
    managed.answers();
}

#[test]
fn an_unavailable_registry_image_is_pulled_with_backoff() {
    let Some(managed) = Managed::new("") else { return };
    let proxy = Proxy::start(managed.space.dir());
    // Nothing listens on port 1.
    managed.declare("image = \"127.0.0.1:1/registry:1\"\n");
    let daemon = Daemon::start(&managed.desired_state, &[("DOCKER_HOST", &proxy.host())]);
    let count = |request: &str| proxy.seen().iter().filter(|seen| *seen == request).count();
    let looks = || count("GET /images/127.0.0.1:1/registry:1/json");
    eventually("it is looked for ten times", PATIENCE, || looks() >= 10);
    let pulls = count("POST /images/create");
    assert!((2..=6).contains(&pulls), "{pulls} pulls with {} looks", looks());
    let ran = daemon.abide(&["status"]);
    assert!((ran.stdout + &ran.stderr).contains("cannot be pulled"), "it is told meanwhile");
}

#[test]
fn a_registry_with_a_password_file_requires_a_password() {
    let Some(probe) = Space::new() else { return };
    let htpasswd = probe.dir().join("htpasswd");
    let made =
        std::process::Command::new("htpasswd").args(["-Bbn", "-C", "4", "abide", "pw"]).output().unwrap();
    std::fs::write(&htpasswd, made.stdout).unwrap();
    let Some(managed) = Managed::new(&format!("htpasswd = \"{}\"\n", htpasswd.display())) else { return };
    let _daemon = managed.daemon();
    managed.answers();
    let ask =
        |proof: &[(&str, &str)]| crate::common::request(managed.port, "GET", "/v2/", proof, b"").unwrap().0;
    assert_eq!(ask(&[]), 401);
    assert_eq!(ask(&[("Authorization", "Basic YWJpZGU6cHc=")]), 200);
}

#[test]
fn a_publicly_reachable_registry_without_passwords_is_rejected() {
    let Some(managed) = Managed::new("") else { return };
    let path = managed.desired_state.join("shop.toml");
    let manifest = std::fs::read_to_string(&path).unwrap();
    let open = format!("publish = \"0.0.0.0:{}\"", managed.port);
    std::fs::write(&path, manifest.replace(&format!("publish = {}", managed.port), &open)).unwrap();
    let checked = abide(&managed.desired_state, &["check"]);
    assert_eq!(checked.code, 1, "{checked:?}");
    assert!((checked.stdout + &checked.stderr).contains("needs `htpasswd`"));
}
