//! Builds: the content of an image, the permissions of a build, and failed or interrupted builds.

mod builders;
mod content;
mod edits;
mod fetched;
mod inputs;
mod kept;
mod scripts;
mod steps;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::common::{Daemon, Space, Workshop, docker, site_image, try_docker};

/// The timeout for anything on a host that is busy with other tests.
const PATIENCE: Duration = Duration::from_secs(60);
/// A string that must never appear outside the image.
const CANARY: &str = "canary-5a17-never-to-be-seen";

/// The image of dev's container, and whether it runs. For a moment during a replacement, no
/// container has the name.
fn serving(shop: &Workshop) -> String {
    try_docker(&["inspect", "--format", "{{.Image}} {{.State.Running}}", &shop.container]).unwrap_or_default()
}

/// A Dockerfile of a step that runs this shell command.
fn step(base: &str, command: &str) -> String {
    format!("FROM {base}\nCMD [\"sh\", \"-c\", \"{command}\"]\n")
}

/// A build with these `lines` and a step that makes the file `output` by a shell command, and with `more` in
/// the Dockerfile of its image.
fn with_step(space: &Space, lines: &str, output: &str, more: &str, dockerfile: &str) -> Workshop {
    let site = site_image(space, more);
    let table = if lines.is_empty() { "" } else { "[environment.dev.build]\n" };
    let build = format!(
        "{table}{lines}[[environment.dev.build.step]]\ndockerfile = \"Dockerfile.dist\"\noutput = \"{output}\""
    );
    Workshop::new(space, &[("Dockerfile", &site), ("Dockerfile.dist", dockerfile)], &build)
}

/// A build by a script, with `more` in the Dockerfile of its image.
fn with_script(space: &Space, more: &str, script: &str, build: &str) -> (Workshop, Daemon) {
    let site = site_image(space, more);
    let shop = Workshop::new(space, &[("Dockerfile", &site), ("build-image.sh", script)], build);
    let daemon = shop.daemon_with(&[("ABIDE_TEST_TOKEN", CANARY)]);
    (shop, daemon)
}

/// The most memory that a daemon had so far, in KiB.
fn peak_memory(daemon: &Daemon) -> u64 {
    let process = std::fs::read_to_string(format!("/proc/{}/status", daemon.id())).unwrap();
    let peak = process.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    peak.trim().trim_end_matches(" kB").parse().unwrap()
}

/// The content of an image: each path with its link target or content.
fn content(space: &Space, image: &str) -> BTreeMap<String, String> {
    let name = space.name("look");
    docker(&["create", "--name", &name, image, "none"]);
    let mut export = Command::new("docker");
    let mut child = export.args(["export", &name]).stdout(Stdio::piped()).spawn().unwrap();
    let mut archive = tar::Archive::new(child.stdout.take().unwrap());
    let mut found = BTreeMap::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().to_string_lossy().into_owned();
        let link = entry.link_name().unwrap().map(|link| format!("-> {}", link.display()));
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut entry, &mut bytes).unwrap();
        found.insert(path, link.unwrap_or_else(|| String::from_utf8_lossy(&bytes).into_owned()));
    }
    assert!(child.wait().unwrap().success());
    docker(&["rm", &name]);
    found
}

/// Whether a process of this host has `marker` in its command line.
fn is_running(marker: &str) -> bool {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let lines = processes.filter_map(|process| std::fs::read(process.path().join("cmdline")).ok());
    let mut others = lines.filter(|line| !line.starts_with(b"git\0"));
    others.any(|line| line.windows(marker.len()).any(|window| window == marker.as_bytes()))
}

/// Whether a file below `dir` contains `text`.
fn holds(dir: &Path, text: &str) -> bool {
    let entries = std::fs::read_dir(dir).unwrap().flatten();
    let mut kinds = entries.map(|entry| (entry.path(), entry.file_type().unwrap()));
    kinds.any(|(path, kind)| match kind {
        kind if kind.is_dir() => holds(&path, text),
        kind if kind.is_file() => {
            std::fs::read(path).is_ok_and(|bytes| bytes.windows(text.len()).any(|w| w == text.as_bytes()))
        }
        _ => false,
    })
}
