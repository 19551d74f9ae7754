//! A single environment with a build that the test defines.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use super::daemon::Daemon;
use super::docker::{Space, docker};
use super::git::GitRepo;
use super::net::signed_push;
use super::ports::free_ports;
use super::standard::SECRET;
use super::{eventually, eventually_some};

/// The timeout for anything on a host that is busy with other tests.
const PATIENCE: Duration = Duration::from_secs(60);

/// `dev`, which tracks the branch of that name and has its own port.
pub(crate) struct Workshop {
    /// The repository that it tracks.
    pub(crate) repo: GitRepo,
    /// The folder of the manifest and the record.
    pub(crate) desired_state: PathBuf,
    /// Its published port on this host.
    pub(crate) port: u16,
    /// The container's name.
    pub(crate) container: String,
    prefix: String,
}

/// A Dockerfile of the example site with additional lines, such as a `COPY`.
pub(crate) fn site_image(space: &Space, more: &str) -> String {
    format!(
        "FROM scratch\nLABEL {}\nCOPY bin/site /bin/site\nCOPY www /site/www\n{more}\n\
         ENTRYPOINT [\"/bin/site\", \"serve\", \"--root\", \"/site/www\"]\n",
        space.label()
    )
}

impl Workshop {
    /// Creates it in `space`: `files` are committed, and `build` is the end of the manifest, from
    /// `[environment.dev.build]` on.
    pub(crate) fn new(space: &Space, files: &[(&str, &str)], build: &str) -> Self {
        let repo = GitRepo::example(space);
        repo.commit_and_push("dev", files);
        let desired_state = space.dir().join("desired-state");
        std::fs::create_dir(&desired_state).unwrap();
        let [port] = free_ports();
        let container = space.name("dev-server");
        let shop = Self { repo, desired_state, port, container, prefix: space.prefix().to_owned() };
        shop.declare(build);
        shop
    }

    /// Replaces the manifest.
    pub(crate) fn declare(&self, build: &str) {
        let manifest = format!(
            "[docker]\nnetwork = \"{prefix}abide\"\n\n[repository.keepwork]\nurl = \"{url}\"\npoll = \"0s\"\n\
             webhook = {{ provider = \"github\", secret_env = \"ABIDE_TEST_WEBHOOK_SECRET\" }}\n\n\
             [environment.dev]\n{options}{build}\n",
            prefix = self.prefix,
            url = self.repo.url(),
            options = self.options("dev", &self.container, self.port),
        );
        let path = self.desired_state.join("keepwork.toml");
        let fresh = path.with_extension("new");
        std::fs::write(&fresh, manifest).unwrap();
        std::fs::rename(fresh, path).unwrap();
    }

    /// The declaration of an environment that tracks `branch`, without its build.
    pub(crate) fn options(&self, branch: &str, container: &str, port: u16) -> String {
        format!(
            "container = \"{container}\"\nport = 8900\npublish = \"127.0.0.1:{port}\"\n\
             source = {{ repository = \"keepwork\", branch = \"{branch}\" }}\ncommand = [\"{branch}\", \"--port\", \"8900\"]\n\
             health = {{ http = \"/\", interval = \"100ms\", timeout = \"1s\", start_deadline = \"20s\", healthy_for = \"300ms\" }}\n"
        )
    }

    /// Starts a daemon on it.
    pub(crate) fn daemon(&self) -> Daemon {
        self.daemon_with(&[])
    }

    /// The same with additional environment variables.
    pub(crate) fn daemon_with(&self, env: &[(&str, &str)]) -> Daemon {
        Daemon::start(&self.desired_state, &[&[("ABIDE_TEST_WEBHOOK_SECRET", SECRET)], env].concat())
    }

    /// Commits, pushes and announces `files` on the branch dev.
    pub(crate) fn push(&self, daemon: &Daemon, files: &[(&str, &str)]) -> String {
        let commit = self.repo.commit_and_push("dev", files);
        let (status, answer) = signed_push(daemon.port(), "keepwork", SECRET, "dev", &commit).unwrap();
        assert_eq!(status, 202, "{answer}");
        commit
    }

    /// Waits until dev serves the head of its branch, and returns its container's image.
    pub(crate) fn await_ready(&self, daemon: &Daemon) -> String {
        let head = self.repo.head("dev");
        eventually("dev is ready", PATIENCE, || {
            let status = status(daemon, "dev");
            status["status"] == "Ready" && status["revision"] == head.as_str()
        });
        docker(&["inspect", "--format", "{{.Image}}", &self.container])
    }

    /// Waits until dev is held, and returns its container's image.
    pub(crate) fn await_held(&self, daemon: &Daemon) -> String {
        eventually("dev is held", PATIENCE, || status(daemon, "dev")["status"] == "Held");
        docker(&["inspect", "--format", "{{.Image}}", &self.container])
    }

    /// Waits until dev has this `reason` for the head of its branch, and returns the message.
    pub(crate) fn await_reason(&self, daemon: &Daemon, reason: &str) -> String {
        let head = self.repo.head("dev");
        let what = format!("dev says {reason}");
        eventually_some(&what, PATIENCE, || {
            let status = status(daemon, "dev");
            let is_so = status["reason"] == reason && status["revision"] == head.as_str();
            is_so.then(|| status["message"].as_str().unwrap().to_owned())
        })
    }

    /// Waits until the log of dev's build contains `text`, and returns the whole log.
    pub(crate) fn await_log(&self, daemon: &Daemon, text: &str) -> String {
        let what = format!("the build's log says {text}");
        eventually_some(&what, PATIENCE, || Some(build_log(daemon)).filter(|log| log.contains(text)))
    }

    /// The names in the folder of running builds.
    pub(crate) fn work_dirs(&self) -> Vec<String> {
        let found = std::fs::read_dir(self.desired_state.join("record/work"));
        let names =
            |entry: std::io::Result<std::fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
        found.map(|dir| dir.map(names).collect()).unwrap_or_default()
    }
}

/// One element of `status -o json`.
pub(crate) fn status(daemon: &Daemon, environment: &str) -> Value {
    let ran = daemon.abide(&["status", environment, "-o", "json"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    serde_json::from_str::<Value>(&ran.stdout).unwrap()[0].take()
}

/// The output of dev's last build.
pub(crate) fn build_log(daemon: &Daemon) -> String {
    daemon.abide(&["logs", "dev", "--build"]).stdout
}
