//! No data is lost: undeclared volumes, and missing paths of the host.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::Path;

use abide::model::container::{ContainerOptions, ContainerSpec};
use abide::model::name::{ContainerName, Digest, EnvironmentName, Generation, NetworkName};
use abide::model::spec::Publish;
use serde_json::Value;

use crate::common::{Daemon, PATIENCE, SITE_PORT, Space, Spot, docker, eventually, made_image, try_docker};

/// Every form of the instruction; the site uses none of these paths.
const LINES: &str = "VOLUME [\"/data/\", \"/deep/er/../x\", \"/c:d\"]\nVOLUME /a /b";

/// Writes a file at a path in the container, as its program would.
fn write(space: &Space, container: &str, path: &str, text: &str) {
    let file = space.dir().join("written");
    std::fs::write(&file, text).unwrap();
    docker(&["cp", file.to_str().unwrap(), &format!("{container}:{path}")]);
}

fn read(space: &Space, container: &str, path: &str) -> Option<String> {
    let file = space.dir().join("read");
    try_docker(&["cp", &format!("{container}:{path}"), file.to_str().unwrap()])?;
    std::fs::read_to_string(file).ok()
}

/// The names of the mounts by their paths, according to the engine.
fn mounts(container: &str) -> String {
    docker(&[
        "container",
        "inspect",
        "--format",
        "{{range .Mounts}}{{.Name}}:{{.Destination}} {{end}}",
        container,
    ])
}

fn warnings(spot: &Spot) -> Vec<String> {
    let ran = spot.abide(&["events", "dev", "--limit", "1000", "-o", "json"]);
    let events: Vec<Value> = serde_json::from_str(&ran.stdout).unwrap();
    let logged = events.iter().filter_map(|event| event["message"].as_str().map(str::to_owned));
    logged.filter(|logged| logged.starts_with("warning:")).collect()
}

/// Removes the container with its anonymous volumes, and waits for the next one.
fn remove_by_hand(spot: &Spot) {
    let id = spot.container();
    docker(&["rm", "--force", "--volumes", &spot.name]);
    eventually("it is made anew", PATIENCE, || spot.container().is_some_and(|now| Some(now) != id));
    spot.await_ready();
}

#[test]
fn data_in_an_undeclared_volume_survives_every_container() {
    let Some(space) = Space::new() else { return };
    let spot = Spot::new(&space, "");
    let images: Vec<_> = ["one", "two"].iter().map(|page| made_image(&space, page, LINES)).collect();
    let bad = made_image(&space, "bad", &format!("{LINES}\nENV SITE_CRASH_AFTER=0s"));
    let _daemon = spot.daemon();
    assert_eq!(spot.set(&images[0]).code, 0);
    spot.await_ready();
    let paths = ["/data", "/deep/x", "/a", "/b", "/c:d"];
    for path in paths {
        write(&space, &spot.name, &format!("{path}/f"), path);
    }
    let before = mounts(&spot.name);
    let holds = |after: &str| {
        for path in paths {
            assert_eq!(
                read(&space, &spot.name, &format!("{path}/f")).as_deref(),
                Some(path),
                "after {after}"
            );
        }
        let mut known: Vec<_> = before.split(' ').collect();
        let now = mounts(&spot.name);
        let mut now: Vec<_> = now.split(' ').collect();
        known.sort_unstable();
        now.sort_unstable();
        assert_eq!(known, now, "after {after}");
    };

    assert_eq!(spot.set(&images[1]).code, 0);
    assert_eq!(spot.await_ready(), images[1]);
    holds("an update");
    let id = spot.container();
    spot.declare("env = { EDITED = \"1\" }");
    eventually("it is replaced", PATIENCE, || spot.container().is_some_and(|now| Some(now) != id));
    spot.await_ready();
    holds("an edit");
    assert_eq!(spot.set(&bad).code, 0);
    spot.until("it is rolled back", |status| status["status"] == "RolledBack");
    holds("a rollback");
    assert_eq!(spot.set(&images[0]).code, 0);
    spot.await_ready();
    remove_by_hand(&spot);
    holds("a removal by hand");
    docker(&["rm", "--force", &spot.holder()]);
    eventually("the holder is made anew", PATIENCE, || try_docker(&["inspect", &spot.holder()]).is_some());
    spot.await_ready();
    holds("the loss of its holder");

    let logged = warnings(&spot);
    assert_eq!(logged.len(), paths.len(), "each is said once: {logged:?}");
    let status = spot.status().unwrap();
    let shown = status["volumes"].as_array().unwrap();
    assert_eq!(shown.len(), paths.len(), "{status}");
    assert!(shown.iter().all(|volume| volume["declared"] == false && volume["mounted"] == true), "{status}");
    let line = format!(
        "volumes = [\"{}:/data\"]",
        shown.iter().find(|it| it["target"] == "/data").unwrap()["source"].as_str().unwrap()
    );
    assert!(logged.iter().any(|logged| logged.contains(&line)), "{line}: {logged:?}");
    let detail = spot.abide(&["status", "dev"]);
    assert!(detail.stdout.contains("not declared: a VOLUME of the image"), "{}", detail.stdout);

    // The lines that the warnings suggested.
    let lines = shown.iter().map(|it| format!("{{ source = {}, target = {} }}", it["source"], it["target"]));
    spot.declare(&format!(
        "env = {{ EDITED = \"2\" }}\nvolumes = [{}]",
        lines.collect::<Vec<_>>().join(", ")
    ));
    spot.until("nothing is left to say", |status| {
        status["status"] == "Ready" && status["warnings"].as_array().is_some_and(Vec::is_empty)
    });
    holds("they are declared");
}

#[test]
fn data_at_paths_with_control_characters_outlives_every_container() {
    let Some(space) = Space::new() else { return };
    let spot = Spot::new(&space, "");
    let lines = r#"VOLUME ["/a\nb/", "/tab\there", "/c\u001b[31md"]"#;
    let paths = ["/a\nb", "/tab\there", "/c\u{1b}[31md"];
    let images: Vec<_> = ["one", "two"].iter().map(|page| made_image(&space, page, lines)).collect();
    let _daemon = spot.daemon();
    assert_eq!(spot.set(&images[0]).code, 0);
    spot.await_ready();
    for path in paths {
        write(&space, &spot.name, &format!("{path}/f"), path);
    }
    let before = space.kept_volumes();
    assert_eq!(before.len(), paths.len(), "{before:?}");
    let holds = |after: &str| {
        for path in paths {
            let found = read(&space, &spot.name, &format!("{path}/f"));
            assert_eq!(found.as_deref(), Some(path), "after {after}");
        }
        assert_eq!(space.kept_volumes(), before, "after {after}");
    };
    assert_eq!(spot.set(&images[1]).code, 0);
    assert_eq!(spot.await_ready(), images[1]);
    holds("an update");
    remove_by_hand(&spot);
    holds("a removal by hand");
    let table = spot.abide(&["status"]);
    assert!(table.stderr.contains("dev: the image has 3 VOLUMEs"), "{}", table.stderr);
    assert!(!table.stderr.contains("To declare it"), "{}", table.stderr);
    let detail = spot.abide(&["status", "dev"]);
    assert!(detail.stderr.contains("/a\\nb") && !detail.stderr.contains('\u{1b}'), "{}", detail.stderr);

    // The lines that the warnings suggested.
    let logged = warnings(&spot);
    assert_eq!(logged.len(), paths.len(), "each is said once: {logged:?}");
    let items =
        logged.iter().map(|logged| logged.rsplit_once("volumes = [").unwrap().1.trim_end_matches(']'));
    spot.declare(&format!("volumes = [{}]", items.collect::<Vec<_>>().join(", ")));
    spot.until("nothing is left to say", |status| {
        status["status"] == "Ready" && status["warnings"].as_array().is_some_and(Vec::is_empty)
    });
    holds("they are declared");
}

/// Replaces the running container with one of `image` as earlier versions of abide created it:
/// without volume options, so that the engine creates one.
fn make_as_an_earlier_version(spot: &Spot, image: &str) {
    let inspect = |format: &str| docker(&["container", "inspect", "--format", format, &spot.name]);
    let record = inspect("{{index .Config.Labels \"abide.record\"}}");
    let network = inspect("{{.HostConfig.NetworkMode}}");
    docker(&["rm", "--force", &spot.name]);
    let options = ContainerOptions {
        environment: EnvironmentName::new("dev").unwrap(),
        record,
        name: ContainerName::new(&spot.name).unwrap(),
        command: None,
        env: BTreeMap::new(),
        secrets: Default::default(),
        port: Some(SITE_PORT),
        publish: Some(Publish { address: Some(Ipv4Addr::LOCALHOST.into()), port: spot.port }),
        volumes: Vec::new(),
        extra_hosts: Vec::new(),
        memory: None,
        nano_cpus: None,
        pids: None,
        init: true,
        stop_timeout_seconds: 10,
        network: NetworkName::new(&spot.network).unwrap(),
        run: Default::default(),
        files: Vec::new(),
    };
    let (image_id, generation) = (Digest::new(image).unwrap(), Generation(2));
    let spec = ContainerSpec { image: image_id, options, undeclared: Vec::new(), generation, revision: None };
    let labels: Vec<_> = spec.labels().iter().map(|(name, value)| format!("{name}={value}")).collect();
    let mut run = vec!["run", "--detach", "--init", "--name", &spot.name, "--network", &network];
    run.extend(labels.iter().flat_map(|label| ["--label", label.as_str()]));
    run.push(image);
    docker(&run);
}

#[test]
fn an_anonymous_volume_is_moved_to_the_replacement() {
    let Some(space) = Space::new() else { return };
    let spot = Spot::new(&space, "");
    let plain = made_image(&space, "plain", "");
    let images: Vec<_> = ["one", "two"].iter().map(|page| made_image(&space, page, "VOLUME /data")).collect();
    let daemon = spot.daemon();
    assert_eq!(spot.set(&plain).code, 0);
    spot.await_ready();
    daemon.terminate();
    assert_eq!(spot.set(&images[0]).code, 0);
    make_as_an_earlier_version(&spot, &images[0]);
    let (before, anonymous) = (spot.container(), mounts(&spot.name));
    write(&space, &spot.name, "/data/f", "precious");

    let daemon = spot.daemon();
    assert_eq!(spot.await_ready(), images[0]);
    assert_eq!(spot.container(), before, "an upgrade replaces nothing");
    assert_eq!(spot.set(&images[1]).code, 0);
    assert_eq!(spot.await_ready(), images[1]);
    assert_eq!(mounts(&spot.name), anonymous);
    assert_eq!(read(&space, &spot.name, "/data/f").as_deref(), Some("precious"));
    remove_by_hand(&spot);
    assert_eq!(read(&space, &spot.name, "/data/f").as_deref(), Some("precious"));
    // The daemon would create the container again, and that keeps the volume.
    daemon.terminate();
    docker(&["rm", "--force", &spot.name]);
    docker(&["volume", "rm", anonymous.split(':').next().unwrap()]);
}

#[test]
fn a_missing_bind_source_is_created_only_if_declared() {
    let Some(space) = Space::new() else { return };
    let spot = Spot::new(&space, "");
    let image = made_image(&space, "served", "");
    let daemon = Daemon::start(&spot.desired_state, &[("ABIDE_RESYNC", "1s")]);
    assert_eq!(spot.set(&image).code, 0);
    spot.await_ready();
    let (before, source) = (spot.container(), space.dir().join("typo/deeper"));
    let mount = format!("source = \"{}\", target = \"/kept\"", source.display());

    spot.declare(&format!("volumes = [{{ {mount} }}]"));
    let blocked = |status: &Value| status["reason"] == "BindSourceMissing" && status["status"] == "Blocked";
    let status = spot.until("it is refused", blocked);
    assert!(status["message"].as_str().unwrap().contains(source.to_str().unwrap()), "{status}");
    assert_eq!((spot.container(), spot.page().as_deref()), (before.clone(), Some("served")));
    assert!(!source.exists() && !source.parent().unwrap().exists(), "it was made");
    let wait = spot.abide(&["wait", "dev", "--timeout", "30s"]);
    assert!(wait.code == 1 && wait.stderr.contains(source.to_str().unwrap()), "{wait:?}");

    spot.declare(&format!("volumes = [{{ {mount}, create = true }}]"));
    eventually("it is replaced", PATIENCE, || spot.container().is_some_and(|now| Some(now) != before));
    spot.await_ready();
    assert!(source.is_dir());
    write(&space, &spot.name, "/kept/f", "x");
    assert!(source.join("f").exists());

    // A volume removed while no daemon ran is not replaced by an empty one when the container
    // starts again.
    let aside = space.dir().join("aside");
    daemon.terminate();
    docker(&["kill", &spot.name]);
    std::fs::rename(&source, &aside).unwrap();
    spot.declare(&format!("volumes = [{{ {mount} }}]"));
    let _daemon = Daemon::start(&spot.desired_state, &[("ABIDE_RESYNC", "1s")]);
    spot.until("it is not started without it", blocked);
    assert!(!source.exists());
    std::fs::rename(&aside, &source).unwrap();
    spot.await_ready();
    assert!(Path::new(&source).join("f").exists());
}
