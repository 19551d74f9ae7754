//! A single environment, which costs a test one small build.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use super::PATIENCE;
use super::daemon::{Daemon, Ran, abide, abide_with};
use super::docker::{Space, docker, try_docker};
use super::git::GitRepo;
use super::net::{http_get, signed_push};
use super::ports::free_ports;
use super::{eventually, eventually_some};

const SECRET: &str = "only-the-tests-know-this-one";
const SECRET_VARIABLE: &str = "ABIDE_TEST_WEBHOOK_SECRET";

/// `dev` of the example site, declared in its own folder. Its branch is not polled.
pub(crate) struct Solo {
    /// The repository that it tracks.
    pub(crate) repo: GitRepo,
    /// The folder of the manifest and the record.
    pub(crate) desired_state: PathBuf,
    /// The container's name.
    pub(crate) name: String,
    /// The managed network's name.
    pub(crate) network: String,
    /// The declared volume's name.
    pub(crate) volume: String,
    /// Its published port on this host.
    pub(crate) port: u16,
    /// The declaration of its build, without the table's head.
    pub(crate) build: String,
    /// The declaration of its health probe.
    pub(crate) health: String,
}

/// One run of a container: from one start to the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Life {
    /// The container's ID.
    pub(crate) id: String,
    /// When its process was started, in the engine's format.
    pub(crate) started_at: String,
    /// The image ID.
    pub(crate) image: String,
    /// The process ID; zero if the container does not run.
    pub(crate) pid: i32,
    /// `running`, `paused`, `exited` and so on.
    pub(crate) state: String,
}

impl Solo {
    /// The daemon's environment variable with the webhook's secret: name and value.
    pub(crate) const SECRET: (&str, &str) = (SECRET_VARIABLE, SECRET);

    /// Creates it in `space`, with the minimal declaration.
    pub(crate) fn new(space: &Space) -> Self {
        let solo = Self::undeclared(space);
        solo.declare("");
        solo
    }

    /// The same without a declaration, so that health probe and build can still change.
    pub(crate) fn undeclared(space: &Space) -> Self {
        let desired_state = space.dir().join("desired-state");
        std::fs::create_dir(&desired_state).unwrap();
        let [port] = free_ports();
        Self {
            repo: GitRepo::example(space),
            desired_state,
            name: space.name("server"),
            network: space.name("abide"),
            volume: space.name("log"),
            port,
            build: "args = { DIST_PKG = \"build.tar\" }\nstep = [{ archive = \"build.tar\" }]".to_owned(),
            health: "http = \"/\", interval = \"100ms\", timeout = \"2s\", start_deadline = \"30s\", \
                     healthy_for = \"200ms\""
                .to_owned(),
        }
    }

    /// Declares it again with additional `options`: lines of `[environment.dev]`.
    pub(crate) fn declare(&self, options: &str) {
        let Self { name, network, volume, port, build, health, .. } = self;
        let url = self.repo.url();
        self.declare_all(&format!(
            r#"[docker]
network = "{network}"
[repository.keepwork]
url = "{url}"
poll = "0s"
webhook = {{ provider = "github", secret_env = "{SECRET_VARIABLE}" }}
[environment.dev]
container = "{name}"
port = 8900
publish = "127.0.0.1:{port}"
source = {{ repository = "keepwork", branch = "dev" }}
command = ["dev", "--port", "8900"]
volumes = ["{volume}:/site/log"]
health = {{ {health} }}
{options}
[environment.dev.build]
{build}
"#
        ));
    }

    /// Replaces the whole manifest.
    pub(crate) fn declare_all(&self, manifest: &str) {
        // Replaced atomically, as an editor does, so that a daemon never reads half a manifest.
        let path = self.desired_state.join("keepwork.toml");
        let fresh = path.with_extension("new");
        std::fs::write(&fresh, manifest).unwrap();
        std::fs::rename(fresh, path).unwrap();
    }

    /// The name of its sandbox.
    pub(crate) fn holder(&self) -> String {
        format!("{}.net", self.name)
    }

    /// Starts a daemon on it, with additional environment variables `env`.
    pub(crate) fn daemon(&self, env: &[(&str, &str)]) -> Daemon {
        Daemon::start(&self.desired_state, &[&[(SECRET_VARIABLE, SECRET)], env].concat())
    }

    /// Runs a second daemon until it exits, which is soon if another daemon runs already.
    pub(crate) fn second_daemon(&self) -> Ran {
        let secret = [(SECRET_VARIABLE, SECRET)];
        abide_with(&self.desired_state, &["daemon", "--listen", "127.0.0.1:0"], &secret)
    }

    /// Commits `files`, pushes, and announces that to `daemon`. Returns the commit's ID.
    pub(crate) fn push(&self, daemon: &Daemon, files: &[(&str, &str)]) -> String {
        let commit = self.repo.commit_and_push("dev", files);
        let (status, body) = signed_push(daemon.port(), "keepwork", SECRET, "dev", &commit).unwrap();
        assert_eq!(status, 202, "{body}");
        commit
    }

    /// The element of `status -o json`; `None` if the daemon does not answer.
    pub(crate) fn status(&self) -> Option<Value> {
        let ran = abide(&self.desired_state, &["status", "dev", "-o", "json"]);
        let mut all: Vec<Value> = serde_json::from_str(&ran.stdout).ok()?;
        all.pop()
    }

    /// Returns the status once `look` accepts it.
    pub(crate) fn await_status(&self, what: &str, look: impl Fn(&Value) -> bool) -> Value {
        let mut last = Value::Null;
        let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            eventually_some(what, PATIENCE, || {
                last = self.status()?;
                look(&last).then(|| last.clone())
            })
        }));
        found.unwrap_or_else(|_| panic!("{what}: not within {PATIENCE:?}; the last status: {last}"))
    }

    /// Returns the status once it has this `reason`.
    pub(crate) fn await_reason(&self, reason: &str) -> Value {
        self.await_status(reason, |status| status["reason"] == reason)
    }

    /// Waits until it is ready and serves, and its record has the branch's head. Returns the life
    /// of its container.
    pub(crate) fn await_ready(&self) -> Life {
        let head = self.repo.head("dev");
        let status = self.await_status("it is ready at the head of its branch", |status| {
            status["status"] == "Ready"
                && status["revision"] == head.as_str()
                && status["observed_generation"] == status["generation"]
        });
        eventually("it serves", PATIENCE, || self.serves());
        // The new container serves before the previous one is removed and gives it the name.
        let image = status["image"]["id"].as_str();
        eventually_some("its container runs the image", PATIENCE, || {
            self.life().filter(|life| Some(life.image.as_str()) == image)
        })
    }

    /// Whether a request to the published port gets the expected answer.
    pub(crate) fn serves(&self) -> bool {
        http_get(self.port, "/").is_ok_and(|(status, _)| status == 200)
    }

    /// The current life of its container.
    pub(crate) fn life(&self) -> Option<Life> {
        Life::of(&self.name)
    }

    /// The steps taken so far, as sentences.
    pub(crate) fn steps(&self) -> Vec<String> {
        let ran = abide(&self.desired_state, &["events", "dev", "-o", "json"]);
        let events: Vec<Value> = serde_json::from_str(&ran.stdout).unwrap_or_else(|error| {
            panic!("{error}: {} {}", ran.stdout, ran.stderr);
        });
        let steps = events.iter().filter(|event| event["kind"] == "step");
        steps.map(|event| format!("{} ×{}", event["message"], event["count"])).collect()
    }

    /// Lets the site write `word` into its volume.
    pub(crate) fn leave_in_volume(&self, word: &str) {
        http_get(self.port, &format!("/{word}")).unwrap();
        eventually("the site has written its log", PATIENCE, || self.finds_in_volume(word));
    }

    /// Whether the volume of its container holds `word`.
    pub(crate) fn finds_in_volume(&self, word: &str) -> bool {
        self.access_log().is_some_and(|log| log.contains(word))
    }

    /// The requests that the site has logged in its volume.
    pub(crate) fn access_log(&self) -> Option<String> {
        try_docker(&["cp", &format!("{}:/site/log/access.log", self.name), "-"])
    }
}

impl Life {
    /// The current life of a container.
    pub(crate) fn of(container: &str) -> Option<Self> {
        const FORMAT: &str = "{{.Id}} {{.State.StartedAt}} {{.Image}} {{.State.Pid}} {{.State.Status}}";
        let seen = try_docker(&["container", "inspect", "--format", FORMAT, container])?;
        let mut words = seen.split_whitespace().map(str::to_owned);
        let mut word = || words.next().unwrap();
        let (id, started_at, image) = (word(), word(), word());
        Some(Self { id, started_at, image, pid: word().parse().unwrap(), state: word() })
    }

    /// Whether its process runs and is not frozen.
    pub(crate) fn is_running(&self) -> bool {
        self.state == "running"
    }
}

/// One value from `docker inspect` of a container.
pub(crate) fn inspected(container: &str, format: &str) -> String {
    docker(&["container", "inspect", "--format", format, container])
}
