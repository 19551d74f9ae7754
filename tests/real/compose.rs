//! Moving from compose: the manifest that `init` writes runs, and `adopt` takes running containers over.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::Value;

use crate::common::{
    Daemon, PATIENCE, Ran, Registry, SITE_PORT, Space, Spot, abide_with, docker, eventually, free_ports,
    http_get, made_image, try_docker,
};

/// A container of compose with the name and the port of a spot's environment.
fn compose_container(space: &Space, spot: &Spot, image: &str) -> String {
    docker(&[
        "run",
        "--detach",
        "--name",
        &spot.name,
        "--label",
        &format!("com.docker.compose.project={}", space.prefix()),
        "--label",
        "com.docker.compose.service=web",
        "--restart",
        "unless-stopped",
        "--volume",
        &format!("{}:/data", space.name("data")),
        "--publish",
        &format!("127.0.0.1:{}:{SITE_PORT}", spot.port),
        image,
    ])
}

fn inspected(container: &str, format: &str) -> String {
    docker(&["container", "inspect", "--format", format, container])
}

/// A spot whose name and port belong to a container of compose, with its daemon.
fn taken(space: &Space, lines: &str) -> (Spot, Daemon, String) {
    let spot = Spot::new(space, &format!("volumes = [\"{}:/data\"]\n{lines}", space.name("data")));
    let image = made_image(space, "site", "");
    let old = compose_container(space, &spot, &image);
    let daemon = spot.daemon();
    assert_eq!(spot.set(&image).code, 0);
    spot.until("the name is taken", |status| status["reason"] == "NameConflict");
    (spot, daemon, old)
}

#[test]
fn a_container_of_compose_is_shown_and_then_replaced_with_its_data() {
    let Some(space) = Space::new() else { return };
    let (spot, _daemon, old) = taken(&space, "");
    let shown = spot.abide(&["adopt"]);
    assert_eq!(shown.code, 0, "{}", shown.stderr);
    assert!(shown.stdout.contains(&format!("dev: replaces container {}", spot.name)), "{}", shown.stdout);
    assert_eq!(inspected(&old, "{{.State.Running}}"), "true", "the plan changes nothing");
    let done = spot.abide(&["adopt", "--yes"]);
    assert_eq!(done.code, 0, "{}{}", done.stdout, done.stderr);
    let kept = format!("/{}.before-abide", spot.name);
    assert_eq!(
        inspected(&old, "{{.Name}} {{.State.Running}} {{.HostConfig.RestartPolicy.Name}}"),
        format!("{kept} false no")
    );
    assert_eq!(spot.page().as_deref(), Some("site"));
    let volume = "{{range .Mounts}}{{.Name}}{{end}}";
    assert_eq!(inspected(&spot.name, volume), space.name("data"));
    assert!(spot.container().is_some_and(|id| id != old));
    let again = spot.abide(&["adopt", "--yes"]);
    assert_eq!(again.code, 0);
    assert!(again.stderr.contains("nothing to take over"), "{}", again.stderr);
}

#[test]
fn adopt_restores_the_old_container_if_the_new_one_is_never_ready() {
    let Some(space) = Space::new() else { return };
    let lines = "entrypoint = [\"/site\", \"nothing\"]\n\
                 health = { http = \"/\", interval = \"50ms\", timeout = \"1s\", start_deadline = \"2s\", healthy_for = \"200ms\" }";
    let (spot, _daemon, old) = taken(&space, lines);
    let failed = spot.abide(&["adopt", "--yes", "--timeout", "60s"]);
    assert_eq!(failed.code, 1, "{}{}", failed.stdout, failed.stderr);
    assert!(failed.stderr.contains(&format!("{} runs again", spot.name)), "{}", failed.stderr);
    assert_eq!(
        inspected(&old, "{{.Name}} {{.State.Running}} {{.HostConfig.RestartPolicy.Name}}"),
        format!("/{} true unless-stopped", spot.name)
    );
    eventually("the old container serves", PATIENCE, || spot.page().as_deref() == Some("site"));
    spot.until("the name is taken again", |status| status["reason"] == "NameConflict");
    let ours = docker(&["ps", "--all", "--quiet", "--filter", &format!("name={}", spot.name)]);
    assert_eq!(ours.lines().count(), 1, "only the old container is left: {ours}");
}

/// Runs a line of the guide as a shell does.
fn typed(folder: &Path, line: &str, env: &[(&str, &str)]) -> (i32, String) {
    let abide = Path::new(env!("CARGO_BIN_EXE_abide")).parent().unwrap();
    let path = format!("{}:{}", abide.display(), std::env::var("PATH").unwrap_or_default());
    let mut shell = Command::new("sh");
    shell.args(["-c", line]).current_dir(folder).env("PATH", path).envs(env.iter().copied());
    let output = shell.output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&text).into_owned())
}

/// The commands of the guide, in order.
fn commands() -> Vec<&'static str> {
    let guide = include_str!("../../docs/compose.md");
    let blocks = guide.split("```").skip(1).step_by(2).filter_map(|block| block.strip_prefix("sh\n"));
    blocks.flat_map(str::lines).filter(|line| !line.trim().is_empty()).collect()
}

#[test]
#[ignore = "slow: .ci/slow runs it"]
fn every_command_of_the_guide_works_as_written() {
    let Some(space) = Space::new() else { return };
    let Some(registry) = Registry::start(&space) else { return };
    let folder = space.dir().join("project");
    fs::create_dir(&folder).unwrap();
    let image = made_image(&space, "site", "");
    let tag = format!("{}/{}site:1", registry.host(), space.prefix());
    docker(&["tag", &image, &tag]);
    docker(&["push", "--quiet", &tag]);
    let [port] = free_ports();
    let project = space.name("shop");
    let compose = format!(
        "name: {project}\nservices:\n  web:\n    image: {tag}\n    ports: ['127.0.0.1:{port}:{SITE_PORT}']\n    \
         volumes: ['data:/data']\n    environment: {{API_TOKEN: \"${{API_TOKEN}}\"}}\nvolumes: {{data: }}\n"
    );
    fs::write(folder.join("compose.yaml"), compose).unwrap();
    fs::write(folder.join(".env"), "API_TOKEN=a-secret-of-the-guide\n").unwrap();
    fs::write(folder.join("compose.prod.yaml"), "services: {web: {labels: {stage: prod}}}\n").unwrap();
    fs::write(folder.join("prod.env"), "API_TOKEN=another-one\n").unwrap();
    let old = docker(&[
        "run",
        "--detach",
        "--name",
        &format!("{project}-web-1"),
        "--label",
        &format!("com.docker.compose.project={project}"),
        "--label",
        "com.docker.compose.service=web",
        "--volume",
        &format!("{project}_data:/data"),
        "--publish",
        &format!("127.0.0.1:{port}:{SITE_PORT}"),
        &tag,
    ]);
    // The second one is the daemon's: projects share its environment.
    let variable = format!("{project}_API_TOKEN").to_uppercase().replace('-', "_");
    let secret = [("API_TOKEN", "a-secret-of-the-guide"), (variable.as_str(), "a-secret-of-the-guide")];
    let mut daemon = None;
    for line in commands() {
        let state = folder.join("desired-state");
        if line.contains("adopt") && daemon.is_none() {
            let path = state.join(format!("{project}.toml"));
            let manifest = fs::read_to_string(&path).unwrap();
            assert!(!manifest.contains("a-secret-of-the-guide"), "{manifest}");
            fs::write(&path, format!("[docker]\nnetwork = \"{}\"\n{manifest}", space.name("abide"))).unwrap();
            daemon = Some(Daemon::start(&state, &secret));
        }
        let (code, text) = typed(&folder, line, &secret);
        assert_eq!(code, 0, "{line}: {text}");
    }
    assert_eq!(inspected(&old, "{{.State.Running}}"), "false");
    assert!(http_get(port, "/").is_ok_and(|(status, page)| status == 200 && page == "site"));
    let prod = fs::read_to_string(folder.join(format!("prod-state/{project}.toml"))).unwrap();
    assert!(prod.contains("labels = { stage = \"prod\" }"), "{prod}");
    let (code, text) = typed(&folder, "abide init --from compose.yaml --out desired-state", &secret);
    assert!(code == 2 && text.contains("exists already"), "{text}");
}

/// The compose files of this repository.
fn stacks() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/compose");
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|ending| ending == "yaml"));
    files.sort();
    files
}

/// Keys that name images, programs, host ports and files of the host, which stand-ins do not have.
const OF_THE_REAL_IMAGE: [&str; 16] = [
    "image",
    "source",
    "command",
    "entrypoint",
    "health",
    "publish",
    "ports",
    "port",
    "volumes",
    "env_file",
    "secrets",
    "user",
    "working_dir",
    "devices",
    "privileged",
    "network_mode",
];

/// The manifest with stand-ins for its images: each listens on the site's port. Its names get the prefix of the space,
/// so that nothing of this host is touched.
fn stood_in(manifest: &str, stem: &str, space: &Space) -> String {
    let mut lines = vec![format!("[docker]\nnetwork = \"{}\"", space.name(&format!("{stem}-abide")))];
    let (mut is_left_out, mut is_list) = (false, false);
    for line in manifest.lines() {
        if line.starts_with('[') {
            is_left_out = line.starts_with("[repository") || line.contains(".build]");
            is_list = false;
        }
        if is_list {
            is_list = line != "]";
            continue;
        }
        let key = line.split(" = ").next().unwrap_or_default();
        if OF_THE_REAL_IMAGE.contains(&key) {
            is_list = line.ends_with('[');
            continue;
        }
        let is_named = key == "container" || key == "networks";
        match line {
            _ if is_left_out || line.starts_with('#') => {}
            _ if key == "container" => {
                let name = line.trim_start_matches("container = ").trim_matches('"');
                let name = space.name(&format!("{stem}-{name}"));
                lines.push(format!("container = \"{name}\"\nport = {SITE_PORT}\npublish = false"));
                lines.push(
                    "health = { tcp = true, interval = \"100ms\", start_deadline = \"60s\", healthy_for = \"100ms\" }"
                        .to_owned(),
                );
            }
            _ if is_named || line.contains("ipv4_address") => {}
            _ => lines.push(line.to_owned()),
        }
    }
    lines.join("\n") + "\n"
}

fn status_of(state: &Path) -> Vec<Value> {
    let ran: Ran = abide_with(state, &["status", "-o", "json"], &[]);
    serde_json::from_str(&ran.stdout).unwrap_or_default()
}

/// Runs the stack of a compose file until all its containers are ready. Returns their number.
fn run_stack(file: &Path, space: &Space, image: &str) -> usize {
    let stem = file.file_stem().unwrap().to_str().unwrap();
    let state = space.dir().join(format!("state-{stem}"));
    let from = file.to_str().unwrap();
    let made = abide_with(&state, &["init", "--from", from, "--project-name", stem, "-o", "json"], &[]);
    assert_eq!(made.code, 0, "{from}: {}", made.stderr);
    let converted: Value = serde_json::from_str(&made.stdout).unwrap();
    let services = converted["services"].as_array().unwrap();
    let environments: Vec<&str> = services
        .iter()
        .map(|service| service["environment"].as_str().expect("every service is expressed"))
        .collect();
    let path = state.join(format!("{stem}.toml"));
    let manifest = fs::read_to_string(&path).unwrap();
    fs::write(&path, stood_in(&manifest, stem, space)).unwrap();
    let secrets: Vec<String> = converted["secrets"].as_object().unwrap().keys().cloned().collect();
    let env: Vec<(&str, &str)> = secrets.iter().map(|name| (name.as_str(), "a value of the test")).collect();
    let daemon = Daemon::start(&state, &env);
    for environment in &environments {
        let set = abide_with(&state, &["set", environment, image], &[]);
        assert_eq!(set.code, 0, "{from}: {}", set.stderr);
    }
    let all_are_ready = || {
        let all = status_of(&state);
        all.len() == environments.len() && all.iter().all(|one| one["status"] == "Ready")
    };
    let ready = std::panic::catch_unwind(|| eventually("the stack is ready", PATIENCE, all_are_ready));
    assert!(ready.is_ok(), "{from}: {:#?}\n{}", status_of(&state), fs::read_to_string(&path).unwrap());
    daemon.kill();
    let containers =
        try_docker(&["ps", "--all", "--quiet", "--filter", &format!("name={}", space.name(stem))]);
    for id in containers.unwrap_or_default().lines() {
        docker(&["rm", "--force", id]);
    }
    environments.len()
}

#[test]
fn converted_stacks_run_with_stub_images() {
    /// Stacks that run at once.
    const AT_ONCE: usize = 4;
    let Some(space) = Space::new() else { return };
    let image = made_image(&space, "site", "");
    let files = stacks();
    let next = AtomicUsize::new(0);
    let run = || {
        while let Some(file) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
            eprintln!("{}: {} containers", file.display(), run_stack(file, &space, &image));
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(run);
        }
    });
    assert!(files.len() >= 10, "only {} stacks were run", files.len());
}
