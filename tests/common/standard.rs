//! The standard three environments, ready to run.

use std::path::PathBuf;

use abide::demo::repository::{self, ManifestWords};

use super::daemon::{Daemon, Ran, abide};
use super::docker::Space;
use super::git::GitRepo;
use super::ports::free_ports;

/// The webhook's secret, in the environment variable [`SECRET_VARIABLE`] of the daemon.
pub(crate) const SECRET: &str = "only-the-tests-know-this-one";
/// The daemon's environment variable with [`SECRET`].
const SECRET_VARIABLE: &str = "ABIDE_TEST_WEBHOOK_SECRET";

/// dev, test and prod of the example site, declared in their own folder. Branches are not polled,
/// so a test has to announce pushes.
pub(crate) struct Standard {
    /// The repository that they track.
    pub(crate) repo: GitRepo,
    /// The folder of the manifest and the record.
    pub(crate) desired_state: PathBuf,
    /// The published ports of dev, test and prod on this host.
    pub(crate) ports: [u16; 3],
}

impl Standard {
    /// Creates them in `space`.
    pub(crate) fn new(space: &Space) -> Self {
        Self::with_poll(space, "0s")
    }

    /// The same with polled branches.
    pub(crate) fn with_poll(space: &Space, poll: &str) -> Self {
        let repo = GitRepo::example(space);
        let desired_state = space.dir().join("desired-state");
        std::fs::create_dir(&desired_state).unwrap();
        let standard = Self { repo, desired_state, ports: free_ports() };
        let words = ManifestWords {
            prefix: space.prefix(),
            repository: standard.repo.url(),
            poll,
            ports: standard.ports,
        };
        let webhook = format!("webhook = {{ provider = \"github\", secret_env = \"{SECRET_VARIABLE}\" }}");
        let table = "[repository.keepwork]\n";
        standard.declare(&repository::manifest(&words).replace(table, &format!("{table}{webhook}\n")));
        standard
    }

    /// The current manifest.
    pub(crate) fn manifest(&self) -> String {
        std::fs::read_to_string(self.manifest_path()).unwrap()
    }

    /// Replaces the manifest.
    pub(crate) fn declare(&self, manifest: &str) {
        // Replaced atomically, as an editor does, so that a daemon never reads half a manifest.
        let path = self.manifest_path();
        let fresh = path.with_extension("new");
        std::fs::write(&fresh, manifest).unwrap();
        std::fs::rename(fresh, path).unwrap();
    }

    fn manifest_path(&self) -> PathBuf {
        self.desired_state.join("keepwork.toml")
    }

    /// Starts a daemon on them, with the webhook's secret.
    pub(crate) fn daemon(&self) -> Daemon {
        self.daemon_with(&[])
    }

    /// The same with additional environment variables.
    pub(crate) fn daemon_with(&self, env: &[(&str, &str)]) -> Daemon {
        Daemon::start(&self.desired_state, &[&[(SECRET_VARIABLE, SECRET)], env].concat())
    }

    /// Starts a daemon that a failpoint kills.
    pub(crate) fn doomed(&self, failpoint: &str) -> Daemon {
        Daemon::start_doomed(&self.desired_state, failpoint, &[(SECRET_VARIABLE, SECRET)])
    }

    /// Starts a daemon at a fixed address, such as that of an earlier one.
    pub(crate) fn daemon_at(&self, listen: &str) -> Daemon {
        Daemon::start_at(&self.desired_state, listen, &[(SECRET_VARIABLE, SECRET)])
    }

    /// Runs one command, with or without a daemon.
    pub(crate) fn abide(&self, arguments: &[&str]) -> Ran {
        abide(&self.desired_state, arguments)
    }
}
