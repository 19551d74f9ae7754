//! `platform` and `pull_policy`: which images may run, and whether they may be pulled.

use std::collections::BTreeMap;
use std::io::Read as _;

use serde_json::Value;
use sha2::Digest as _;

use crate::common::{
    PATIENCE, Registry, Space, Spot, Workshop, docker, eventually_some, made_image, site_image, status,
    try_docker,
};

/// The same image as if it were made for arm64. Its program is the one of this host, so it still runs here. Returns its
/// ID.
fn for_arm(space: &Space, image: &str) -> String {
    let (saved, edited) = (space.dir().join("saved.tar"), space.dir().join("edited.tar"));
    docker(&["save", "--output", saved.to_str().unwrap(), image]);
    let mut files: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    for entry in tar::Archive::new(std::fs::File::open(saved).unwrap()).entries().unwrap() {
        let mut entry = entry.unwrap();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        files.insert(entry.path().unwrap().display().to_string(), content);
    }
    let manifest: Value = serde_json::from_slice(&files["manifest.json"]).unwrap();
    let config = manifest[0]["Config"].as_str().unwrap().to_owned();
    let mut content: Value = serde_json::from_slice(&files[&config]).unwrap();
    content["architecture"] = "arm64".into();
    let content = serde_json::to_vec(&content).unwrap();
    let id = format!("sha256:{}", hex::encode(sha2::Sha256::digest(&content)));
    files.insert(config, content);
    let mut archive = tar::Builder::new(std::fs::File::create(&edited).unwrap());
    for (path, content) in files.iter().filter(|(path, _)| !path.ends_with('/')) {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(content.len() as u64);
        archive.append_data(&mut header, path, content.as_slice()).unwrap();
    }
    archive.into_inner().unwrap();
    docker(&["load", "--quiet", "--input", edited.to_str().unwrap()]);
    id
}

fn says(status: &Value, reason: &str, words: &str) -> bool {
    status["reason"] == reason && status["message"].as_str().unwrap_or_default().contains(words)
}

#[test]
fn only_images_of_the_declared_platform_run() {
    let Some(space) = Space::new() else { return };
    let Some(registry) = Registry::start(&space) else { return };
    let spot = Spot::new(&space, "platform = \"linux/arm64\"");
    let own = made_image(&space, "own", "");
    let arm = for_arm(&space, &made_image(&space, "arm", ""));
    let _daemon = spot.daemon();
    assert_eq!(spot.set(&own).code, 0);
    let words = "is made for linux/amd64, and `platform` is linux/arm64: `abide set dev`";
    let blocked = spot.until("it is refused", |status| says(status, "ImageNotFound", words));
    assert_eq!(blocked["status"], "Blocked", "{blocked}");
    assert_eq!(spot.container(), None);
    assert_eq!(spot.set(&arm).code, 0);
    assert_eq!(spot.await_ready(), arm);
    assert_eq!(spot.abide(&["diff", "dev"]).code, 0);

    // From a registry: an image that exists only for another platform, then an index that has the declared one.
    let path = space.name("app");
    for (tag, image) in [("own", &own), ("arm", &arm)] {
        let name = format!("{}/{path}:{tag}", registry.host());
        docker(&["tag", image, &name]);
        docker(&["push", "--quiet", &name]);
        docker(&["rmi", "--force", &name]);
    }
    let own_digest = registry.digest(&path, "own").unwrap();
    assert_eq!(spot.set(&format!("{}/{path}@{own_digest}", registry.host())).code, 0);
    let words = "is made for linux/amd64, and `platform` is linux/arm64";
    spot.until("the pulled image is refused", |status| says(status, "ImageNotFound", words));
    assert_eq!(spot.page().as_deref(), Some("arm"), "the previous version serves");
    let index = registry.place_index(&path, "arm", "linux", "arm64");
    assert_eq!(spot.set(&format!("{}/{path}@{index}", registry.host())).code, 0);
    assert_eq!(spot.await_ready(), arm);

    spot.declare("");
    assert_eq!(spot.set(&own).code, 0);
    assert_eq!(spot.await_ready(), own, "without a platform, nothing is refused");
}

#[test]
fn a_dockerfile_is_built_for_the_declared_platform() {
    let Some(space) = Space::new() else { return };
    let declared = |platform: &str| format!("platform = \"{platform}\"\n[environment.dev.build]\n");
    let files = [("Dockerfile", site_image(&space, ""))];
    let files = files.each_ref().map(|(name, text)| (*name, text.as_str()));
    let shop = Workshop::new(&space, &files, &declared("linux/arm64"));
    let made_for =
        |image: &str| docker(&["image", "inspect", "--format", "{{.Os}}/{{.Architecture}}", image]);
    let daemon = shop.daemon();
    // Its program is the one of this host, so it runs here all the same.
    let first = shop.await_ready(&daemon);
    assert_eq!(made_for(&first), "linux/arm64");
    shop.declare(&declared("linux/amd64"));
    let of_container = || try_docker(&["inspect", "--format", "{{.Image}}", &shop.container]);
    let second = eventually_some("it is built for the other platform", PATIENCE, || {
        of_container().filter(|image| *image != first && status(&daemon, "dev")["status"] == "Ready")
    });
    assert_eq!(made_for(&second), "linux/amd64");
}

#[test]
fn with_pull_policy_never_only_images_of_the_host_run() {
    let Some(space) = Space::new() else { return };
    let Some(registry) = Registry::start(&space) else { return };
    let spot = Spot::new(&space, "pull_policy = \"never\"");
    let name = format!("{}/{}:1", registry.host(), space.name("app"));
    docker(&["tag", &made_image(&space, "pushed", ""), &name]);
    docker(&["push", "--quiet", &name]);
    docker(&["rmi", "--force", &name]);
    let digest = registry.digest(&space.name("app"), "1").unwrap();
    let pinned = format!("{}/{}@{digest}", registry.host(), space.name("app"));
    let _daemon = spot.daemon();
    assert_eq!(spot.set(&pinned).code, 0);
    let words = "is not on this host, and with this `pull_policy` abide does not pull it";
    spot.until("nothing is pulled", |status| says(status, "ImageNotFound", words));
    assert!(try_docker(&["image", "inspect", &pinned]).is_none());
    docker(&["pull", "--quiet", &pinned]);
    assert_eq!(spot.abide(&["sync", "dev"]).code, 0);
    spot.await_ready();
    assert_eq!(spot.page().as_deref(), Some("pushed"));
}
