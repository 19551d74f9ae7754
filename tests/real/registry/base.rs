//! Base images from a registry with a password.

use super::{PASSWORD, PATIENCE, USERNAME, VARIABLE};
use crate::common::{
    Login, Registry, Space, Workshop, build_log, docker, eventually, site_image, status, try_docker,
};

/// Pushes a base image with this content to the registry, and removes it from this engine; returns
/// its name.
fn base_image(space: &Space, registry: &Registry, content: &str) -> String {
    use base64::Engine as _;
    let folder = space.dir().join(content);
    std::fs::create_dir(&folder).unwrap();
    let auth = base64::engine::general_purpose::STANDARD.encode(format!("{USERNAME}:{PASSWORD}"));
    let config = serde_json::json!({ "auths": { registry.host(): { "auth": auth } } });
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    std::fs::write(folder.join("base.txt"), space.name(content)).unwrap();
    std::fs::write(folder.join("Dockerfile"), "FROM scratch\nCOPY base.txt /\n").unwrap();
    let (folder, name) = (folder.to_str().unwrap(), format!("{}/{}", registry.host(), space.name(content)));
    docker(&["build", "--quiet", "--label", &space.label(), "--tag", &name, folder]);
    docker(&["--config", folder, "push", "--quiet", &name]);
    docker(&["rmi", "--force", &name]);
    assert_eq!(try_docker(&["image", "inspect", &name]), None);
    name
}

fn dockerfile(space: &Space, base: &str) -> String {
    site_image(space, &format!("COPY --from={base} /base.txt /base.txt"))
}

#[test]
fn both_builders_pull_base_images_with_registry_credentials() {
    let Some(space) = Space::new() else { return };
    let login = Login { username: USERNAME, password: PASSWORD };
    let Some(registry) = Registry::start_with(&space, Some(login), "") else { return };
    let access = format!(
        "[environment.dev.build]\n\n[registry_access.\"{}\"]\nusername = \"{USERNAME}\"\nsecret_env = \"{VARIABLE}\"\n",
        registry.host()
    );
    let shop = Workshop::new(&space, &[("Dockerfile", "FROM scratch\n")], &access);
    for (number, builder) in ["1", "0"].into_iter().enumerate() {
        let base = base_image(&space, &registry, &format!("base-{builder}"));
        shop.repo.commit_and_push("dev", &[("Dockerfile", &dockerfile(&space, &base))]);
        let daemon = shop.daemon_with(&[("DOCKER_BUILDKIT", builder), (VARIABLE, PASSWORD)]);
        let image = shop.await_ready(&daemon);
        assert_eq!(daemon.log().matches("build started").count(), number + 1, "{}", daemon.log());
        let log = build_log(&daemon);
        for text in [daemon.log(), log, docker(&["history", "--no-trunc", &image])] {
            assert!(!text.contains("never-to-be-seen"), "{text}");
        }
        assert!(daemon.terminate().success());
    }
}

#[test]
fn a_denied_base_image_is_reported_and_the_build_retried() {
    let Some(space) = Space::new() else { return };
    let login = Login { username: USERNAME, password: PASSWORD };
    let Some(registry) = Registry::start_with(&space, Some(login), "") else { return };
    let base = base_image(&space, &registry, "base");
    let password = space.dir().join("password");
    let path = password.to_str().unwrap();
    let access = format!(
        "[environment.dev.build]\n\n[registry_access.\"{}\"]\nusername = \"{USERNAME}\"\nsecret_file = \"{path}\"\n",
        registry.host()
    );
    std::fs::write(&password, "another").unwrap();
    let shop = Workshop::new(&space, &[("Dockerfile", &dockerfile(&space, &base))], &access);
    let daemon = shop.daemon();
    let message = shop.await_reason(&daemon, "RegistryDenied");
    assert!(message.contains("building Dockerfile") && message.contains("401 Unauthorized"), "{message}");

    std::fs::remove_file(&password).unwrap();
    eventually("the file that is gone is named", PATIENCE, || {
        let status = status(&daemon, "dev");
        status["reason"] == "RegistryDenied" && status["message"].as_str().unwrap().contains(path)
    });
    std::fs::write(&password, PASSWORD).unwrap();
    shop.await_ready(&daemon);
    assert!(!daemon.log().contains("never-to-be-seen"));
}
