//! The engine fails, freezes, stops and returns; and the number of its requests.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::sleep;
use std::time::Duration;

use abide::failpoint::Point;
use rustix::process::{Pid, Signal, kill_process};

use super::failpoints::around;

use crate::common::{Daemon, Fault, Life, PATIENCE, Proxy, Solo, Space, docker, eventually, inspected};

// --- a private engine ----------------------------------------------------------------------------

/// A Docker Engine that shares only the kernel with the host's engine. Its networks and mounts are
/// in separate namespaces, so that it can be stopped and frozen.
pub(super) struct PrivateEngine {
    dir: PathBuf,
    name: String,
    process: Child,
}

impl PrivateEngine {
    /// Starts an engine that stores everything in a folder of `space`.
    pub(super) fn start(space: &Space) -> Self {
        let dir = space.dir().join("engine");
        std::fs::create_dir(&dir).unwrap();
        // A separate file, because the one of this host may name a storage folder.
        std::fs::write(dir.join("daemon.json"), "{}").unwrap();
        let name = space.name("engine");
        let process = Self::spawn(&dir, &name);
        let mut engine = Self { dir, name, process };
        engine.await_answer();
        engine
    }

    fn spawn(dir: &Path, name: &str) -> Child {
        // The loopback interface of a new network namespace is down, but published ports need it.
        let script = r#"ip link set lo up && exec dockerd --host "unix://$0/docker.sock" \
            --config-file "$0/daemon.json" --data-root "$0/data" --exec-root "$0/exec" --pidfile "$0/pid" \
            --bridge none --iptables=false --storage-driver vfs --log-level warn \
            --containerd-namespace "$1" --containerd-plugins-namespace "$1-plugins""#;
        let log = std::fs::File::create(dir.join("log")).unwrap();
        let mut command = Command::new("unshare");
        command.args(["--net", "--mount", "--", "sh", "-c", script]).arg(dir).arg(name);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap()
    }

    fn await_answer(&mut self) {
        eventually("the private engine answers", PATIENCE, || {
            let ended = self.process.try_wait().unwrap();
            let log = || std::fs::read_to_string(self.dir.join("log")).unwrap_or_default();
            assert!(ended.is_none(), "the private engine ended: {}", log());
            self.try_docker(&["version"]).is_some()
        });
    }

    pub(super) fn host(&self) -> String {
        format!("unix://{}", self.dir.join("docker.sock").display())
    }

    pub(super) fn try_docker(&self, arguments: &[&str]) -> Option<String> {
        let mut command = Command::new("docker");
        let output = command.arg("--host").arg(self.host()).args(arguments).output().unwrap();
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// Declares an environment for it, without probes, because its networks are unreachable from
    /// outside.
    pub(super) fn declare_without_probes(space: &Space) -> Solo {
        let mut solo = Solo::undeclared(space);
        "none = true".clone_into(&mut solo.health);
        solo.declare("");
        solo
    }

    /// The current life of a container: its start time and its process ID.
    pub(super) fn life(&self, container: &str) -> Option<(String, i32)> {
        let format = "{{.State.StartedAt}} {{.State.Pid}}";
        let seen = self.try_docker(&["container", "inspect", "--format", format, container])?;
        let (started, pid) = seen.split_once(' ')?;
        Some((started.to_owned(), pid.parse().ok().filter(|pid| *pid > 0)?))
    }

    /// The names of all containers except guards, one per line.
    fn names(&self) -> String {
        let format = "{{.Names}} {{.Label \"abide.role\"}}";
        let all = self.try_docker(&["ps", "--all", "--format", format]).unwrap();
        let named = all.lines().filter(|line| !line.ends_with(" guard"));
        named.filter_map(|line| line.split(' ').next()).collect::<Vec<_>>().join("\n")
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.process), signal).unwrap();
    }

    pub(super) fn stop(&mut self) {
        self.signal(Signal::TERM);
        self.process.wait().unwrap();
    }

    /// Kills the engine. Its containerd ends with it and cannot clean up.
    fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.process.wait().unwrap();
        for left in ["pid", "exec/containerd/containerd.pid", "exec/containerd/containerd.sock"] {
            let _ = std::fs::remove_file(self.dir.join(left));
        }
    }

    pub(super) fn start_again(&mut self) {
        self.process = Self::spawn(&self.dir, &self.name);
        self.await_answer();
    }
}

impl Drop for PrivateEngine {
    fn drop(&mut self) {
        let _ = kill_process(Pid::from_child(&self.process), Signal::CONT);
        let containers = self.try_docker(&["ps", "--all", "--quiet"]).unwrap_or_default();
        for container in containers.lines() {
            self.try_docker(&["rm", "--force", "--volumes", container]);
        }
        let _ = kill_process(Pid::from_child(&self.process), Signal::TERM);
        let _ = self.process.wait();
    }
}

pub(super) fn is_ready(status: &serde_json::Value) -> bool {
    status["status"] == "Ready"
}

#[test]
fn an_engine_outage_is_reported_and_containers_heal_afterwards() {
    let Some(space) = Space::new() else { return };
    let mut engine = PrivateEngine::start(&space);
    let solo = PrivateEngine::declare_without_probes(&space);
    let daemon = solo.daemon(&[("DOCKER_HOST", &engine.host()), ("ABIDE_RESYNC", "1s")]);
    solo.await_status("it is ready", is_ready);
    let (first, _) = engine.life(&solo.name).unwrap();

    engine.stop();
    let status = solo.await_reason("EngineUnavailable");
    assert_eq!(status["status"], "Degraded");
    engine.start_again();
    solo.await_status("it is ready once the engine is back", is_ready);
    let (second, process) = engine.life(&solo.name).unwrap();
    assert_ne!(first, second);

    engine.signal(Signal::STOP);
    kill_process(Pid::from_raw(process).unwrap(), Signal::KILL).unwrap();
    solo.await_reason("EngineUnavailable");
    engine.signal(Signal::CONT);
    eventually("what died while the engine was frozen is started again", PATIENCE, || {
        engine.life(&solo.name).is_some_and(|(started, _)| started != second)
    });
    solo.await_status("it is ready once the engine goes on", is_ready);
    assert_eq!(engine.names(), format!("{}\n{}", solo.name, solo.holder()));
    assert!(daemon.terminate().success());
}

#[test]
fn an_engine_stop_does_not_fail_the_version_being_deployed() {
    let Some(space) = Space::new() else { return };
    let mut engine = PrivateEngine::start(&space);
    let mut solo = Solo::undeclared(&space);
    // Its networks are unreachable from outside, but a command in the container works.
    "command = [\"/bin/site\", \"version\"], interval = \"200ms\", start_deadline = \"60s\", \
     healthy_for = \"8s\""
        .clone_into(&mut solo.health);
    solo.declare("");
    let daemon = solo.daemon(&[("DOCKER_HOST", &engine.host()), ("ABIDE_RESYNC", "1s")]);
    solo.await_status("it is ready", is_ready);
    type End = fn(&mut PrivateEngine);
    let ends: [(&str, End); 2] = [("stopped", PrivateEngine::stop), ("killed", PrivateEngine::kill)];
    for (page, end) in ends {
        let commit = solo.push(&daemon, &[("www/index.html", page)]);
        let is_on_trial = |status: &serde_json::Value| {
            status["revision"] == commit.as_str() && status["reason"] == "AwaitingHealth"
        };
        let before = solo.await_status("waiting for it to become ready", is_on_trial);
        end(&mut engine);
        solo.await_reason("EngineUnavailable");
        engine.start_again();
        let after = solo.await_status("it is ready once the engine is back", is_ready);
        assert_eq!(after["generation"], before["generation"], "{page}: {after}");
        assert_eq!(after["revision"], commit.as_str(), "{page}: {after}");
    }
    assert!(daemon.terminate().success());
}

/// Actions that a daemon takes only on an engine that never ran a sandbox.
pub(super) const LOAD: &[Point] = &[Point::LoadHolder];

#[test]
fn loading_the_sandbox_image_resumes_after_a_kill_at_any_failpoint() {
    for failpoint in around(LOAD) {
        let Some(space) = Space::new() else { return };
        let engine = PrivateEngine::start(&space);
        let solo = PrivateEngine::declare_without_probes(&space);
        let host = engine.host();
        let env = [("DOCKER_HOST", host.as_str()), Solo::SECRET];
        Daemon::start_doomed(&solo.desired_state, &failpoint, &env).await_doom(&failpoint);
        let _daemon = solo.daemon(&[("DOCKER_HOST", &host)]);
        solo.await_status("it is ready", is_ready);
        assert_eq!(engine.names(), format!("{}\n{}", solo.name, solo.holder()), "{failpoint}");
    }
}

// --- calls that fail -----------------------------------------------------------------------------

/// The kind of change that a request makes, without names and IDs; `None` if it only reads.
fn kind(request: &str) -> Option<String> {
    let (method, path) = request.split_once(' ')?;
    let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    match (method, parts.as_slice()) {
        ("POST", [things, verb]) => Some(format!("{things} {verb}")),
        ("POST", [things, _, verb]) => Some(format!("{things} {verb}")),
        ("POST", ["build"]) => Some("build".to_owned()),
        ("DELETE", [things, ..]) => Some(format!("{things} remove")),
        _ => None,
    }
}

/// Makes the first call of each kind fail from now on. Returns the failed kinds as they occur.
fn fail_each_once(proxy: &Proxy, fault: Fault) -> Arc<Mutex<BTreeSet<String>>> {
    let failed = Arc::new(Mutex::new(BTreeSet::new()));
    let noted = Arc::clone(&failed);
    proxy.rule(move |request| match kind(request) {
        Some(kind) if noted.lock().unwrap().insert(kind.clone()) => fault,
        _ => Fault::None,
    });
    failed
}

fn assert_failed(failed: &Mutex<BTreeSet<String>>, expected: &[&str]) {
    let failed = failed.lock().unwrap();
    let missing: Vec<_> = expected.iter().filter(|kind| !failed.contains(**kind)).collect();
    assert!(missing.is_empty(), "never called: {missing:?}; called: {failed:?}");
}

fn converges_though_each_call_fails_once(fault: Fault) {
    let Some(space) = Space::new() else { return };
    let (proxy, solo) = (Proxy::start(space.dir()), Solo::undeclared(&space));
    solo.declare("memory = \"64MiB\"");
    let failed = fail_each_once(&proxy, fault);
    let daemon = solo.daemon(&[("DOCKER_HOST", &proxy.host()), ("ABIDE_RESYNC", "2s")]);
    let first = solo.await_ready();
    assert_failed(
        &failed,
        &["build", "networks create", "volumes create", "containers create", "containers start"],
    );
    assert_eq!(space.containers().len(), 1);

    let failed = fail_each_once(&proxy, fault);
    solo.push(&daemon, &[("www/index.html", "another page")]);
    let second = solo.await_ready();
    assert_ne!(first.image, second.image);
    let replaced = ["build", "containers create", "containers stop", "containers start"];
    assert_failed(&failed, &replaced);
    assert_failed(&failed, &["containers remove", "containers rename"]);
    assert_eq!(space.containers().len(), 1);

    let failed = fail_each_once(&proxy, fault);
    docker(&["update", "--restart", "always", &solo.name]);
    eventually("the restart policy is put back", PATIENCE, || {
        inspected(&solo.name, "{{.HostConfig.RestartPolicy.Name}}") == "no"
    });
    docker(&["pause", &solo.name]);
    eventually("it goes on", PATIENCE, || solo.life().is_some_and(|life| life.is_running()));
    assert_failed(&failed, &["containers update", "containers unpause"]);
    solo.await_ready();
    assert_eq!(space.containers().len(), 1);
    assert_eq!((space.networks().len(), space.volumes().len()), (1, 1));
}

#[test]
fn a_lost_request_of_any_engine_call_is_recovered_from() {
    converges_though_each_call_fails_once(Fault::Refuse);
}

#[test]
fn a_lost_response_to_any_engine_call_is_recovered_from() {
    converges_though_each_call_fails_once(Fault::Cut(0));
}

/// Declares `beside`, which runs the same image as dev.
fn declare_beside(solo: &Solo, name: &str) {
    let Solo { build, health, .. } = solo;
    let manifest = format!(
        r#"[environment.beside]
container = "{name}"
port = 8900
source = {{ repository = "keepwork", branch = "dev" }}
command = ["dev", "--port", "8900"]
health = {{ {health} }}
[environment.beside.build]
{build}
"#
    );
    std::fs::write(solo.desired_state.join("beside.toml"), manifest).unwrap();
}

#[test]
fn a_container_with_failing_inspects_does_not_block_healing() {
    for fault in [Fault::Answer(500, r#"{"message":"it is half removed"}"#), Fault::Answer(200, "{")] {
        let Some(space) = Space::new() else { return };
        let (proxy, solo, beside) = (Proxy::start(space.dir()), Solo::new(&space), space.name("beside"));
        declare_beside(&solo, &beside);
        let (host, short) = (proxy.host(), ("ABIDE_RESYNC", "1s"));
        let daemon = solo.daemon(&[("DOCKER_HOST", &host), short]);
        let before = solo.await_ready();
        let heals = |when: &str| {
            eventually("it runs beside it", PATIENCE, || {
                Life::of(&beside).is_some_and(|life| life.is_running())
            });
            let killed = Life::of(&beside).unwrap();
            docker(&["kill", &beside]);
            eventually(&format!("another environment heals {when}"), PATIENCE, || {
                Life::of(&beside).is_some_and(|life| life.is_running() && life != killed)
            });
        };

        let request_line = format!("GET /containers/{}/json", before.id);
        let (ruled, looks) =
            (request_line.clone(), || proxy.seen().iter().filter(|seen| **seen == request_line).count());
        proxy.rule(move |request| if request == ruled { fault } else { Fault::None });
        docker(&["kill", &solo.name]);
        heals("while that is heard");
        assert!(daemon.terminate().success());
        let daemon = solo.daemon(&[("DOCKER_HOST", &host), short]);
        heals("under a daemon that never could look at it");
        let so_far = looks();
        eventually("each resync looks again", PATIENCE, || looks() > so_far + 2);
        // Both daemons write to this log.
        let count = daemon.log().matches("cannot inspect a container").count();
        assert_eq!(count, 2, "it is told once, not with each resync: {}", daemon.log());

        proxy.rule(|_| Fault::None);
        let after = solo.await_ready();
        assert_eq!((after.id, after.image), (before.id, before.image), "it is found again");
    }
}

// --- how much is asked ---------------------------------------------------------------------------

const LIST: &str = "GET /containers/json";

/// An idle daemon on an otherwise unused engine: every request comes from this daemon.
struct AtRest {
    _daemon: Daemon,
    proxy: Proxy,
    engine: PrivateEngine,
    solo: Solo,
}

impl AtRest {
    fn new(space: &Space, resync: &str) -> Self {
        let engine = PrivateEngine::start(space);
        let proxy = Proxy::before(space.dir(), engine.dir.join("docker.sock"));
        let solo = PrivateEngine::declare_without_probes(space);
        // Without a guard, whose separate container would cause requests that must not be counted
        // here.
        let path = solo.desired_state.join("keepwork.toml");
        let manifest = std::fs::read_to_string(&path).unwrap();
        std::fs::write(path, manifest.replace("[docker]\n", "[docker]\nguard = false\n")).unwrap();
        // The daemon that deployed has images to prune; the next one finds that done.
        let first = solo.daemon(&[("DOCKER_HOST", &engine.host())]);
        solo.await_status("it is ready", is_ready);
        first.terminate();
        let daemon = solo.daemon(&[("DOCKER_HOST", &proxy.host()), ("ABIDE_RESYNC", resync)]);
        Self { _daemon: daemon, proxy, engine, solo }
    }

    /// Waits until the containers were listed `count` times since the requests were cleared.
    fn await_lists(&self, count: usize) {
        eventually("it lists the containers", PATIENCE, || {
            self.proxy.seen().iter().filter(|request| *request == LIST).count() >= count
        });
    }

    /// The other requests while the containers are listed `count` times.
    fn asks_besides_lists(&self, count: usize) -> Vec<String> {
        self.proxy.forget();
        self.await_lists(count);
        self.proxy.seen().into_iter().filter(|request| request != LIST).collect()
    }

    /// Waits until no requests arrive for a while.
    fn await_quiet(&self) {
        eventually("it asks no more", PATIENCE, || {
            let before = self.proxy.seen().len();
            sleep(Duration::from_millis(500));
            self.proxy.seen().len() == before
        });
    }
}

#[test]
fn an_idle_resync_makes_only_one_list_request() {
    let Some(space) = Space::new() else { return };
    let rest = AtRest::new(&space, "300ms");
    // After a start, each of the first lists is followed by an inspection of each container, and so
    // are events from just before.
    eventually("what happened before is looked at", PATIENCE, || rest.asks_besides_lists(2).is_empty());
    assert_eq!(rest.asks_besides_lists(5), [""; 0]);
}

#[test]
fn a_container_event_causes_exactly_one_inspect() {
    let Some(space) = Space::new() else { return };
    let rest = AtRest::new(&space, "1h");
    rest.engine.try_docker(&["network", "create", "beside"]).unwrap();
    rest.await_lists(1);
    rest.await_quiet();
    rest.proxy.forget();
    rest.engine.try_docker(&["network", "connect", "beside", &rest.solo.holder()]).unwrap();
    eventually("the event is heard", PATIENCE, || !rest.proxy.seen().is_empty());
    rest.await_quiet();
    let id = rest.engine.try_docker(&["inspect", "--format", "{{.Id}}", &rest.solo.holder()]).unwrap();
    assert_eq!(rest.proxy.seen(), [format!("GET /containers/{id}/json")]);
}
