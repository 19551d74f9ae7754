//! A private host with its engine, a disk that can fill up, and a repository, and a second host for an agent:
//! shared by the scenarios of a worker.

use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use super::common::{Cable, GitRepo, Host, PATIENCE, SmallDisk, Space, eventually, nginx_image};
use super::scenario::WorldParts;
use super::versions::{self, Version};

/// The registry, as the engine of the controller's host names it.
const REGISTRY: &str = "127.0.0.1:5000";
/// The size of the disk: a record and its builds need a small part of it.
const DISK: &str = "64m";

/// Everything that outlives a scenario.
pub(crate) struct Arena {
    pub(crate) host: Host,
    pub(crate) versions: Vec<Version>,
    pub(crate) repo: GitRepo,
    pub(crate) disk: SmallDisk,
    /// The agent's host, once a scenario has needed it.
    pub(crate) other: Option<AgentHost>,
    /// The number of scenarios so far.
    pub(crate) count: usize,
    /// Whether there is an image of nginx.
    has_nginx: bool,
    space: Space,
}

/// The agent's host.
pub(crate) struct AgentHost {
    pub(crate) host: Host,
    /// The way to the controller.
    pub(crate) cable: Cable,
    /// Runs on the controller's host.
    registry: Child,
}

impl Drop for AgentHost {
    fn drop(&mut self) {
        let _ = self.registry.kill();
        let _ = self.registry.wait();
    }
}

impl Arena {
    /// Sets one up; `None` if tests on Docker are left out.
    pub(crate) fn new() -> Option<Self> {
        let space = Space::new()?;
        // Before the engine, which does not see later mounts.
        let disk = SmallDisk::mount(&space.dir().join("disk"), DISK);
        let disk = disk.expect("mount takes root, as the engine does");
        let host = Host::new(&space);
        let versions = versions::make(&host, space.dir());
        let repo = GitRepo::example(&space);
        Some(Self { host, versions, repo, disk, other: None, count: 0, has_nginx: false, space })
    }

    /// Adds what a scenario needs and no earlier one needed.
    pub(crate) fn add(&mut self, parts: WorldParts) {
        if parts.has_agent && self.other.is_none() {
            let registry = self.start_registry();
            for version in &mut self.versions {
                version.push(&self.host, REGISTRY);
            }
            let host = Host::new(&self.space);
            let cable = Cable::between(&self.host, &host);
            self.other = Some(AgentHost { host, cable, registry });
        }
        if parts.has_front && !self.has_nginx {
            nginx_image(&self.nginx(), &self.space.label());
            self.has_nginx = true;
        }
        self.restore();
    }

    /// The name of the proxy's image.
    pub(crate) fn nginx(&self) -> String {
        self.space.name("nginx")
    }

    /// Brings images back that a scenario has removed.
    pub(crate) fn restore(&self) {
        for version in &self.versions {
            version.restore(&self.host);
        }
        for host in self.hosts() {
            let nginx = self.nginx();
            if self.has_nginx && host.try_docker(&["image", "inspect", &nginx]).is_none() {
                host.load(&nginx);
            }
        }
    }

    /// All hosts.
    pub(crate) fn hosts(&self) -> impl Iterator<Item = &Host> {
        std::iter::once(&self.host).chain(self.other.iter().map(|other| &other.host))
    }

    /// A registry on the loopback address of the first host.
    fn start_registry(&self) -> Child {
        const PROGRAM: &str = "/usr/bin/docker-registry";
        assert!(Path::new(PROGRAM).exists(), "no {PROGRAM} (Debian and Ubuntu: docker-registry)");
        let dir = self.folder("registry");
        let config = format!(
            "version: 0.1\nlog:\n  level: warn\nstorage:\n  filesystem:\n    rootdirectory: {}/data\nhttp:\n  addr: \
             {REGISTRY}\n",
            dir.display()
        );
        std::fs::write(dir.join("config.yml"), config).unwrap();
        let mut command = self.host.command(PROGRAM);
        command.arg("serve").arg(dir.join("config.yml"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().unwrap();
        let (address, port) = REGISTRY.split_once(':').unwrap();
        let script = format!("exec 3<>/dev/tcp/{address}/{port}");
        eventually("the registry answers", PATIENCE, || {
            let tried = self.host.command("bash").args(["-c", &script]).stderr(Stdio::null()).status();
            tried.unwrap().success()
        });
        child
    }

    /// A new folder for a scenario.
    pub(crate) fn folder(&self, name: &str) -> PathBuf {
        let path = self.space.dir().join(name);
        std::fs::create_dir(&path).unwrap();
        path
    }

    /// Removes everything from the engine but the versions.
    pub(crate) fn clear(&self) {
        self.hosts().for_each(clear);
    }
}

fn clear(host: &Host) {
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
