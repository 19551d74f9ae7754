//! A daemon on the example site, with common queries of tests.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use super::PATIENCE;
use super::daemon::{Daemon, Ran};
use super::docker::{Space, docker, try_docker};
use super::net::{Answer, http_get, signed_push, socket_get};
use super::nginx::nginx_image;
use super::ports::free_ports;
use super::slow_git::SlowGit;
use super::standard::{SECRET, Standard};
use super::{eventually, eventually_some};

/// The environments of the example, ordered by port.
const NAMES: [&str; 3] = ["dev", "test", "prod"];

/// Environments of the example under a daemon. The daemon stops before its space is cleared.
pub(crate) struct Scene {
    pub(crate) daemon: Daemon,
    pub(crate) site: Standard,
    pub(crate) space: Space,
}

impl Scene {
    /// Starts the environments of these names, which become ready soon after they answer; `edit`
    /// makes the last change to the manifest. `None` if the tests on Docker are disabled.
    pub(crate) fn new(names: &[&str], edit: impl FnOnce(String) -> String) -> Option<Self> {
        Self::polled("0s", names, edit)
    }

    /// The same with polled branches.
    pub(crate) fn polled(poll: &str, names: &[&str], edit: impl FnOnce(String) -> String) -> Option<Self> {
        Some(Self::in_space(Space::new()?, poll, names, edit))
    }

    /// The environments of these names behind the proxy, and its port for host names. Each has the
    /// host name `NAME.example`.
    pub(crate) fn fronted(names: &[&str]) -> Option<(Self, u16)> {
        Self::fronted_with(Space::new()?, names, |manifest, _| manifest)
    }

    /// The same in a space, with a last change to the manifest, which ends with the table of the proxy. `edit` also
    /// gets the port for host names.
    pub(crate) fn fronted_with(
        space: Space,
        names: &[&str],
        edit: impl FnOnce(String, u16) -> String,
    ) -> Option<(Self, u16)> {
        let image = space.name("nginx");
        nginx_image(&image, &space.label());
        let [http] = free_ports();
        let scene = Self::in_space(space, "0s", names, |manifest| {
            let named = names.iter().fold(manifest, |manifest, name| {
                let table = format!("[environment.{name}]\n");
                manifest.replace(&table, &format!("{table}hostname = \"{name}.example\"\n"))
            });
            edit(format!("{named}\n[front]\nimage = \"{image}\"\nhttp = {http}\ndrain = \"5s\"\n"), http)
        });
        Some((scene, http))
    }

    /// The environments of these names under a daemon with a controllable git.
    pub(crate) fn with_git(
        poll: &str,
        names: &[&str],
        edit: impl FnOnce(String) -> String,
    ) -> Option<(Self, SlowGit)> {
        let space = Space::new()?;
        let git = SlowGit::new(&space);
        let site = Standard::with_poll(&space, poll);
        site.declare(&edit(hasty(&only(names, &site.manifest()))));
        let daemon = site.daemon_with(&[("PATH", &git.path())]);
        Some((Self { daemon, site, space }, git))
    }

    fn in_space(space: Space, poll: &str, names: &[&str], edit: impl FnOnce(String) -> String) -> Self {
        let site = Standard::with_poll(&space, poll);
        site.declare(&edit(hasty(&only(names, &site.manifest()))));
        let daemon = site.daemon();
        Self { daemon, site, space }
    }

    /// Only dev, running the first commit.
    pub(crate) fn dev() -> Option<Self> {
        let scene = Self::new(&["dev"], |manifest| manifest)?;
        scene.ready("dev");
        Some(scene)
    }

    /// Stops the daemon in order and starts another.
    pub(crate) fn restarted(self) -> Self {
        let Self { daemon, site, space } = self;
        assert!(daemon.terminate().success());
        Self { daemon: site.daemon(), site, space }
    }

    // --- actions --------------------------------------------------------------------------------

    /// Commits and pushes a page of these words; returns the commit.
    pub(crate) fn push_page(&self, branch: &str, words: &str) -> String {
        self.site.repo.commit_and_push(branch, &[("www/index.html", words)])
    }

    /// Announces the head of a branch in GitHub's format.
    pub(crate) fn announce(&self, branch: &str) -> Answer {
        self.announce_commit(branch, &self.site.repo.head(branch))
    }

    /// Announces any commit as the head of a branch.
    pub(crate) fn announce_commit(&self, branch: &str, commit: &str) -> Answer {
        signed_push(self.daemon.port(), "keepwork", SECRET, branch, commit).unwrap()
    }

    /// Pushes a page, announces it, and waits until it is served; returns the commit.
    pub(crate) fn deploy(&self, branch: &str, environment: &str, words: &str) -> String {
        let commit = self.push_page(branch, words);
        assert_eq!(self.announce(branch).0, 202);
        self.ready_at(environment, &commit);
        assert_eq!(self.page(environment), words);
        commit
    }

    /// Runs a command that must succeed.
    pub(crate) fn abide(&self, arguments: &[&str]) -> Ran {
        let ran = self.daemon.abide(arguments);
        assert_eq!(ran.code, 0, "abide {}: {ran:?}", arguments.join(" "));
        ran
    }

    // --- observations ---------------------------------------------------------------------------

    /// The status in JSON.
    pub(crate) fn view(&self, environment: &str) -> Value {
        let mut views = json(&self.abide(&["status", environment, "-o", "json"]));
        views[0].take()
    }

    /// The history in JSON, newest first.
    pub(crate) fn history(&self, environment: &str) -> Vec<Value> {
        list(json(&self.abide(&["history", environment, "-o", "json"])))
    }

    /// Returns the first status that `is_it` accepts.
    pub(crate) fn until(&self, what: &str, environment: &str, is_it: impl Fn(&Value) -> bool) -> Value {
        let path = format!("/api/v1/environments/{environment}");
        let look = || serde_json::from_str(&self.get(&path).1).ok().filter(|view| is_it(view));
        eventually_some(&format!("{environment}: {what}"), PATIENCE, look)
    }

    /// Returns the status once it is Ready.
    pub(crate) fn ready(&self, environment: &str) -> Value {
        self.until("it is ready", environment, is_ready)
    }

    /// Returns the status once it is Ready with this commit.
    pub(crate) fn ready_at(&self, environment: &str, commit: &str) -> Value {
        let what = format!("it is ready with {commit}");
        self.until(&what, environment, |view| is_ready(view) && view["revision"] == commit)
    }

    /// Returns the status once it has this condition and reason for the newest generation.
    pub(crate) fn await_reason(&self, environment: &str, condition: &str, reason: &str) -> Value {
        self.until(&format!("it is {condition} ({reason})"), environment, |view| {
            view["status"] == condition
                && view["reason"] == reason
                && view["observed_generation"] == view["generation"]
        })
    }

    /// The page at `/`.
    ///
    /// # Panics
    /// No page is served.
    pub(crate) fn page(&self, environment: &str) -> String {
        let index = NAMES.iter().position(|name| *name == environment).unwrap();
        let (status, page) = http_get(self.site.ports[index], "/").unwrap();
        assert_eq!(status, 200, "{page}");
        page
    }

    /// Whether this page is served at `/`. An update on a port has a moment without an answer.
    pub(crate) fn serves(&self, environment: &str, words: &str) -> bool {
        let index = NAMES.iter().position(|name| *name == environment).unwrap();
        http_get(self.site.ports[index], "/").is_ok_and(|(status, page)| status == 200 && page == words)
    }

    /// The container of an environment.
    pub(crate) fn container(&self, environment: &str) -> String {
        self.space.name(&format!("{environment}-server"))
    }

    /// One value from `docker inspect` of the container of an environment.
    pub(crate) fn inspect(&self, environment: &str, format: &str) -> String {
        docker(&["inspect", "--format", format, &self.container(environment)])
    }

    /// The names of all containers of this space, sorted.
    pub(crate) fn containers(&self) -> Vec<String> {
        let filter = format!("name={}", self.space.prefix());
        let names = try_docker(&["ps", "--all", "--format", "{{.Names}}", "--filter", &filter]);
        let is_holder = |name: &&str| name.contains(".net");
        let names = names.unwrap_or_default();
        let mut names: Vec<String> =
            names.lines().filter(|name| !is_holder(name)).map(str::to_owned).collect();
        names.sort();
        names
    }

    /// The number of builds ever begun; each has a log.
    pub(crate) fn builds_begun(&self) -> usize {
        let logs: PathBuf = self.site.desired_state.join("record/logs");
        std::fs::read_dir(logs).map_or(0, |files| files.flatten().count())
    }

    /// The numbers of builds that ever ended with a permanent result: good and failed ones.
    pub(crate) fn builds_ended(&self) -> [u64; 2] {
        let (status, page) = self.get("/metrics");
        assert_eq!(status, 200, "{page}");
        ["built", "failed"].map(|result| {
            let name = format!("abide_builds_total{{result=\"{result}\"}} ");
            page.lines().find_map(|line| line.strip_prefix(&name)).unwrap().parse().unwrap()
        })
    }

    /// Waits until the controller has queried git because of the last announcement.
    pub(crate) fn hint_is_taken(&self, environment: &str) {
        eventually("the announcement is looked into", PATIENCE, || {
            let record = json(&self.abide(&["export"]));
            let recorded = list(record["environments"].clone());
            let of = |one: &&Value| one["desired"]["environment"] == environment;
            recorded.iter().find(of).is_some_and(|one| one["desired"]["hint"].is_null())
        });
    }

    /// Sends `GET path` to the daemon's socket.
    pub(crate) fn get(&self, path: &str) -> Answer {
        socket_get(&self.site.desired_state.join("abide.sock"), path).unwrap()
    }
}

fn is_ready(view: &Value) -> bool {
    view["status"] == "Ready" && view["observed_generation"] == view["generation"]
}

/// The output of a run with `-o json`.
pub(crate) fn json(ran: &Ran) -> Value {
    serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {ran:?}"))
}

/// The elements of an array.
pub(crate) fn list(value: Value) -> Vec<Value> {
    let Value::Array(elements) = value else { panic!("not an array: {value}") };
    elements
}

/// A manifest with only the environments in `names`.
fn only(names: &[&str], manifest: &str) -> String {
    let mut is_kept = true;
    let kept = manifest.lines().filter(|line| {
        if let Some(header) = line.trim_start_matches('[').strip_prefix("environment.") {
            let name = header.split(['.', ']']).next().unwrap();
            is_kept = names.contains(&name);
        }
        is_kept
    });
    kept.map(|line| format!("{line}\n")).collect()
}

/// A manifest with short deadlines.
fn hasty(manifest: &str) -> String {
    let patient = r#"interval = "250ms", timeout = "1s", start_deadline = "15s", healthy_for = "2s""#;
    let hasty = r#"interval = "100ms", timeout = "2s", start_deadline = "5s", healthy_for = "300ms""#;
    assert!(manifest.contains(patient), "the example's manifest has changed");
    manifest.replace(patient, hasty)
}
