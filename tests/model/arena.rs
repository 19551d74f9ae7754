//! A private host with its engine, a disk that can fill up, and a repository: shared by the scenarios of a worker.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::common::{GitRepo, Host, Space};
use super::versions::{self, Version};

/// Everything that outlives a scenario.
pub(crate) struct Arena {
    pub(crate) host: Host,
    pub(crate) versions: Vec<Version>,
    pub(crate) repo: GitRepo,
    pub(crate) disk: Disk,
    /// The number of scenarios so far.
    pub(crate) count: usize,
    space: Space,
}

/// A file system of its own, in memory.
pub(crate) struct Disk {
    pub(crate) path: PathBuf,
}

impl Arena {
    /// Sets one up; `None` if tests on Docker are left out.
    pub(crate) fn new() -> Option<Self> {
        let space = Space::new()?;
        // Before the engine, which does not see later mounts.
        let disk = Disk::new(&space.dir().join("disk"));
        let host = Host::new(&space);
        let versions = versions::make(&host, space.dir());
        let repo = GitRepo::example(&space);
        Some(Self { host, versions, repo, disk, count: 0, space })
    }

    /// A new folder for a scenario.
    pub(crate) fn folder(&self, name: &str) -> PathBuf {
        let path = self.space.dir().join(name);
        std::fs::create_dir(&path).unwrap();
        path
    }

    /// Removes everything from the engine but the versions.
    pub(crate) fn clear(&self) {
        let host = &self.host;
        let list = |what: &[&str]| host.try_docker(what).unwrap_or_default();
        // The guard first: it would start again what it watches.
        for filter in ["label=abide.role=guard", "name=."] {
            let ids = list(&["ps", "--all", "--quiet", "--no-trunc", "--filter", filter]);
            for id in ids.lines() {
                host.try_docker(&["rm", "--force", "--volumes", id]);
            }
        }
        for volume in list(&["volume", "ls", "--quiet"]).lines() {
            host.try_docker(&["volume", "rm", "--force", volume]);
        }
        host.try_docker(&["network", "prune", "--force"]);
    }
}

impl Disk {
    /// The size: a record and its builds need a small part of it.
    const SIZE: &str = "size=64m";
    const BALLAST: &str = "ballast";

    fn new(path: &Path) -> Self {
        std::fs::create_dir(path).unwrap();
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", Self::SIZE, "model"]).arg(path).status();
        assert!(mounted.unwrap().success(), "mount takes root, as the engine does");
        Self { path: path.to_owned() }
    }

    /// Leaves no room.
    pub(crate) fn fill(&self) {
        let mut file = std::fs::File::create(self.path.join(Self::BALLAST)).unwrap();
        let chunk = [0; 4096];
        while std::io::Write::write_all(&mut file, &chunk).is_ok() {}
    }

    /// Gives the room back.
    pub(crate) fn free(&self) {
        let _ = std::fs::remove_file(self.path.join(Self::BALLAST));
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.path).status();
    }
}
