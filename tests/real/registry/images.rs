//! Images that cannot run here, and images of abide's own containers.

use serde_json::Value;

use super::{PASSWORD, USERNAME};
use crate::common::{
    Login, PATIENCE, Registry, Space, Spot, docker, eventually, http_get, made_image, nginx_image,
};

#[test]
fn an_image_for_other_platforms_fails_naming_them() {
    let Some(space) = Space::new() else { return };
    let Some(registry) = Registry::start(&space) else { return };
    let spot = Spot::new(&space, "");
    let good = made_image(&space, "good", "");
    let _daemon = spot.daemon();
    assert_eq!(spot.set(&good).code, 0);
    assert_eq!(spot.await_ready(), good);

    let (path, name) = (space.name("app"), format!("{}/{}:1", registry.host(), space.name("app")));
    docker(&["tag", &made_image(&space, "other", ""), &name]);
    docker(&["push", "--quiet", &name]);
    let index = registry.place_index(&path, "1", "linux", "s390x");
    assert_eq!(spot.set(&format!("{}/{path}@{index}", registry.host())).code, 0);
    let is_reported = |status: &Value| {
        status["reason"] == "ImageNotFound"
            && status["message"].as_str().unwrap().contains("it has linux/s390x")
    };
    let status = spot.until("it is said for which platforms it is there", is_reported);
    assert_eq!(status["status"], "Degraded", "{status}");
    assert_eq!(spot.abide(&["wait", "dev", "--timeout", "60s"]).code, 1);
    assert_eq!(spot.page().as_deref(), Some("good"));
}

#[test]
fn the_proxy_image_is_pulled_with_registry_credentials() {
    use base64::Engine as _;
    let Some(space) = Space::new() else { return };
    let login = Login { username: USERNAME, password: PASSWORD };
    let Some(registry) = Registry::start_with(&space, Some(login), "") else { return };
    let image = format!("{}/{}:1", registry.host(), space.name("nginx"));
    nginx_image(&image, &space.label());
    let folder = space.dir().join("config");
    std::fs::create_dir(&folder).unwrap();
    let auth = base64::engine::general_purpose::STANDARD.encode(format!("{USERNAME}:{PASSWORD}"));
    let config = serde_json::json!({ "auths": { registry.host(): { "auth": auth } } });
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    docker(&["--config", folder.to_str().unwrap(), "push", "--quiet", &image]);
    docker(&["rmi", "--force", &image]);

    let [http] = crate::common::free_ports();
    let password = space.dir().join("password");
    std::fs::write(&password, PASSWORD).unwrap();
    let spot = Spot::new(
        &space,
        &format!(
            "[front]\nimage = \"{image}\"\nhttp = {http}\n[registry_access.\"{}\"]\nusername = \"{USERNAME}\"\n\
             secret_file = \"{}\"",
            registry.host(),
            password.display()
        ),
    );
    let daemon = spot.daemon();
    let page = made_image(&space, "page", "");
    assert_eq!(spot.set(&page).code, 0);
    assert_eq!(spot.await_ready(), page);
    eventually("the front serves it", PATIENCE, || {
        http_get(spot.port, "/").is_ok_and(|(status, _)| status == 200)
    });
    assert!(!daemon.log().contains("never-to-be-seen"));
}
