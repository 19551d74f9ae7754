//! The Docker Engine through its command line, and a separate space in it for each test.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use tempfile::TempDir;

/// The label of a test's images, and so of their containers; its value is the prefix.
pub(crate) const LABEL: &str = "abide.test";

/// Set this to skip the tests that need an engine.
const WITHOUT_DOCKER: &str = "ABIDE_TEST_WITHOUT_DOCKER";

/// Runs `docker` and returns its trimmed standard output.
///
/// # Panics
/// The command fails; the message has its output.
pub(crate) fn docker(arguments: &[&str]) -> String {
    let output = run(arguments);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "docker {}: {stderr}", arguments.join(" "));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// Builds the image of a folder and returns its ID.
///
/// The classic builder takes steps from its cache, and fails if such a step goes with another image that is removed
/// meanwhile. Then it builds again.
pub(crate) fn docker_build(folder: &Path) -> String {
    let arguments = ["build", "--quiet", folder.to_str().unwrap()];
    for _ in 0..5 {
        let output = run(&arguments);
        if output.status.success() {
            return String::from_utf8_lossy(&output.stdout).trim().to_owned();
        }
        if !String::from_utf8_lossy(&output.stderr).contains("unable to find image") {
            break;
        }
    }
    docker(&arguments)
}

/// As [`docker`], for commands that may fail; returns `None` then.
pub(crate) fn try_docker(arguments: &[&str]) -> Option<String> {
    let output = run(arguments);
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Copies an image of this host's engine to the one at `engine`, a value of `DOCKER_HOST`.
pub(crate) fn load_image(image: &str, engine: &str) {
    let mut save = Command::new("docker").args(["save", image]).stdout(Stdio::piped()).spawn().unwrap();
    let mut load = Command::new("docker");
    load.args(["--host", engine, "load"]).stdin(save.stdout.take().unwrap());
    assert!(load.stdout(Stdio::null()).status().unwrap().success() && save.wait().unwrap().success());
}

fn run(arguments: &[&str]) -> Output {
    Command::new("docker").args(arguments).output().unwrap_or_else(|e| {
        panic!(
            "docker cannot be started: \
        {e}"
        )
    })
}

fn lines(arguments: &[&str]) -> BTreeSet<String> {
    try_docker(arguments).unwrap_or_default().lines().map(str::to_owned).collect()
}

/// A test's part of the engine and of the disk; both are cleared when it is dropped.
pub(crate) struct Space {
    prefix: String,
    dir: TempDir,
}

impl Space {
    /// Creates a space; `None` if the tests on Docker are disabled.
    ///
    /// # Panics
    /// The engine does not answer, because a test that did not run must not look like one that
    /// passed.
    pub(crate) fn new() -> Option<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        if std::env::var_os(WITHOUT_DOCKER).is_some() {
            eprintln!("left out, because {WITHOUT_DOCKER} is set");
            return None;
        }
        assert!(
            try_docker(&["version", "--format", "{{.Server.Version}}"]).is_some(),
            "no Docker Engine answers; `.ci/run` starts one, and {WITHOUT_DOCKER}=1 leaves these tests out"
        );
        // The time distinguishes two runs with the same process ID in different containers.
        let moment = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().subsec_micros();
        let (process, count) = (std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let prefix = format!("abide-t-{process}-{moment:x}-{count}-");
        Some(Self { prefix, dir: tempfile::tempdir().unwrap() })
    }

    /// The prefix of all names in this space. Ends in a dash.
    pub(crate) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Returns a name in this space.
    pub(crate) fn name(&self, rest: &str) -> String {
        format!("{}{rest}", self.prefix)
    }

    /// The folder of this space.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The label, as `NAME=VALUE`, that marks an image as part of this space.
    pub(crate) fn label(&self) -> String {
        format!("{LABEL}={}", self.prefix)
    }

    /// The IDs of the containers of this space that run images of its environments or steps.
    pub(crate) fn containers(&self) -> BTreeSet<String> {
        let all = self.all_containers();
        all.difference(&self.holders()).cloned().collect()
    }

    /// The IDs of its sandboxes.
    pub(crate) fn holders(&self) -> BTreeSet<String> {
        let holders = lines(&["ps", "--all", "--quiet", "--no-trunc", "--filter", "label=abide.role=holder"]);
        let all = self.all_containers();
        holders.into_iter().filter(|id| all.contains(id)).collect()
    }

    /// The number of its running spare sandboxes: they are in no network.
    pub(crate) fn spares(&self) -> usize {
        let format = "{{.State.Running}} {{len .NetworkSettings.Networks}}";
        let is_spare = |id: &&String| {
            try_docker(&["container", "inspect", "--format", format, id]).is_some_and(|seen| seen == "true 0")
        };
        self.holders().iter().filter(is_spare).count()
    }

    /// Whether one container serves behind the proxy, in its sandbox, with a spare beside, and nothing else is left.
    pub(crate) fn is_at_rest_behind_proxy(&self) -> bool {
        (self.containers().len(), self.holders().len(), self.spares()) == (2, 2, 1)
    }

    /// The IDs of all containers of this space, running or not.
    pub(crate) fn all_containers(&self) -> BTreeSet<String> {
        let mut found = self.filtered(&["ps", "--all", "--quiet", "--no-trunc"]);
        let named = lines(&["ps", "--all", "--no-trunc", "--format", "{{.ID}} {{.Names}}"]);
        let of_us = named.iter().filter_map(|line| line.split_once(' '));
        found.extend(of_us.filter(|(_, name)| name.starts_with(&self.prefix)).map(|(id, _)| id.to_owned()));
        found
    }

    /// The names of all containers of this space, running or not.
    pub(crate) fn container_names(&self) -> BTreeSet<String> {
        self.named(&["ps", "--all", "--format", "{{.Names}}"])
    }

    /// The IDs of all images of this space.
    pub(crate) fn images(&self) -> BTreeSet<String> {
        let mut found = self.filtered(&["images", "--quiet", "--no-trunc"]);
        let pattern = format!("reference={}*", self.prefix);
        found.extend(lines(&["images", "--quiet", "--no-trunc", "--filter", &pattern]));
        found
    }

    /// The names of the volumes of this space.
    pub(crate) fn volumes(&self) -> BTreeSet<String> {
        self.named(&["volume", "ls", "--format", "{{.Name}}"])
    }

    /// The names of the volumes that abide keeps for containers of this space; they have the name
    /// of their environment and the label of its record.
    pub(crate) fn kept_volumes(&self) -> BTreeSet<String> {
        const RECORD: &str = "{{index .Config.Labels \"abide.record\"}}";
        let containers = self.all_containers();
        let record = |id: &String| try_docker(&["container", "inspect", "--format", RECORD, id]);
        let records: BTreeSet<String> = containers.iter().filter_map(record).collect();
        let of_record = |record: &String| {
            let filter = format!("label=abide.record={record}");
            lines(&["volume", "ls", "--format", "{{.Name}}", "--filter", &filter])
        };
        records.iter().filter(|record| !record.is_empty()).flat_map(of_record).collect()
    }

    /// The names of the networks of this space.
    pub(crate) fn networks(&self) -> BTreeSet<String> {
        self.named(&["network", "ls", "--format", "{{.Name}}"])
    }

    /// The IDs of the guards of the daemons in this space; each mounts the folder of its record.
    pub(crate) fn guards(&self) -> BTreeSet<String> {
        let dir = self.dir().to_string_lossy().into_owned();
        let filter = ["--filter", "label=abide.role=guard", "--format", "{{.ID}} {{.Mounts}}"];
        let all = lines(&[&["ps", "--all", "--no-trunc"][..], &filter].concat());
        let here =
            all.iter().filter_map(|line| line.split_once(' ')).filter(|(_, mounts)| mounts.contains(&dir));
        here.map(|(id, _)| id.to_owned()).collect()
    }

    fn filtered(&self, list: &[&str]) -> BTreeSet<String> {
        let filter = format!("label={}", self.label());
        lines(&[list, &["--filter", &filter]].concat())
    }

    fn named(&self, list: &[&str]) -> BTreeSet<String> {
        lines(list).into_iter().filter(|name| name.starts_with(&self.prefix)).collect()
    }

    /// An address of this host outside the loopback network, in a network of this space, so that no
    /// other process reaches a listener there.
    pub(crate) fn address(&self) -> String {
        let network = self.name("address");
        docker(&["network", "create", &network]);
        docker(&["network", "inspect", "--format", "{{range .IPAM.Config}}{{.Gateway}}{{end}}", &network])
    }

    /// Removes everything of this space from the engine.
    pub(crate) fn clear(&self) {
        let kept = self.kept_volumes();
        // Before the containers that they guard.
        remove(&["rm", "--force", "--volumes"], &self.guards());
        remove(&["rm", "--force", "--volumes"], &self.all_containers());
        // An image that is the base of another one can only be removed in the second round.
        remove(&["rmi", "--force"], &self.images());
        remove(&["rmi", "--force"], &self.images());
        remove(&["volume", "rm", "--force"], &self.volumes());
        remove(&["volume", "rm", "--force"], &kept);
        remove(&["network", "rm"], &self.networks());
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        self.clear();
    }
}

/// Objects that are already removed do not count as failures.
fn remove(command: &[&str], ids: &BTreeSet<String>) {
    if !ids.is_empty() {
        let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
        try_docker(&[command, &ids].concat());
    }
}
