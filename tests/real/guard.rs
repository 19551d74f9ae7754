//! While abide does not run, the engine restarts containers: after a crash, and after a restart of
//! the engine.

use std::process::Child;

use rustix::process::{Pid, Signal, kill_process};

use super::engine::{PrivateEngine, is_ready};
use crate::common::{
    Daemon, Host, PATIENCE, SITE_PORT, Solo, Space, abide, eventually, eventually_some, made_image,
    nginx_image,
};

/// One environment on a private engine, ready under a daemon.
struct Guarded {
    daemon: Option<Daemon>,
    solo: Solo,
    engine: PrivateEngine,
    _space: Space,
}

impl Guarded {
    fn new(space: Space) -> Self {
        let engine = PrivateEngine::start(&space);
        let solo = PrivateEngine::declare_without_probes(&space);
        let mut guarded = Self { daemon: None, solo, engine, _space: space };
        guarded.start();
        guarded
    }

    fn start(&mut self) {
        self.daemon = Some(self.solo.daemon(&[("DOCKER_HOST", &self.engine.host()), ("ABIDE_RESYNC", "1s")]));
        self.solo.await_status("it is ready", is_ready);
    }

    fn stop(&mut self) {
        assert!(self.daemon.take().unwrap().terminate().success());
    }

    fn kill(&mut self) {
        self.daemon.take().unwrap().kill();
    }

    fn inspect(&self, container: &str, format: &str) -> Option<String> {
        self.engine.try_docker(&["container", "inspect", "--format", format, container])
    }

    fn policies(&self) -> [String; 2] {
        [&self.solo.name, &self.solo.holder()]
            .map(|name| self.inspect(name, "{{.HostConfig.RestartPolicy.Name}}").unwrap_or_default())
    }

    fn guards(&self) -> usize {
        let found = ["ps", "--quiet", "--filter", "label=abide.role=guard", "--filter", "status=running"];
        self.engine.try_docker(&found).unwrap_or_default().lines().count()
    }

    fn started_at(&self, container: &str) -> String {
        self.engine.life(container).map(|(started, _)| started).unwrap_or_default()
    }

    /// Waits until the container runs in another life than `before`, in the namespace of its
    /// sandbox.
    fn await_another_life(&self, what: &str, before: &str) -> String {
        eventually_some(what, PATIENCE, || {
            let (started, process) = self.engine.life(&self.solo.name)?;
            let (_, sandbox) = self.engine.life(&self.solo.holder())?;
            let namespace = |process: i32| std::fs::read_link(format!("/proc/{process}/ns/net")).ok();
            (started != before && namespace(process)? == namespace(sandbox)?).then_some(started)
        })
    }

    fn kill_process_of(&self, container: &str) {
        let (_, process) = self.engine.life(container).unwrap();
        kill_process(Pid::from_raw(process).unwrap(), Signal::KILL).unwrap();
    }
}

#[test]
fn the_guard_restarts_containers_only_while_abide_is_down() {
    let Some(space) = Space::new() else { return };
    let mut guarded = Guarded::new(space);
    let name = guarded.solo.name.clone();
    assert_eq!(guarded.policies(), ["no", "no"], "while abide runs, it alone restarts");
    guarded.stop();
    assert_eq!(guarded.policies(), ["always", "always"], "handed over before the daemon ended");
    assert_eq!(guarded.guards(), 1);

    let first = guarded.started_at(&name);
    guarded.kill_process_of(&name);
    let second = guarded.await_another_life("the engine restarts what crashed", &first);
    guarded.kill_process_of(&guarded.solo.holder());
    let third = guarded.await_another_life("it is restarted into its sandbox", &second);
    guarded.engine.stop();
    guarded.engine.start_again();
    let fourth = guarded.await_another_life("it runs after a restart of the engine", &third);

    guarded.start();
    eventually("abide takes the restarts back", PATIENCE, || guarded.policies() == ["no", "no"]);
    assert_eq!(guarded.started_at(&name), fourth, "nothing was restarted for that");
    guarded.kill_process_of(&name);
    guarded.await_another_life("abide heals it again", &fourth);
}

#[test]
fn the_guard_takes_over_after_a_permanent_daemon_kill() {
    let Some(space) = Space::new() else { return };
    let mut guarded = Guarded::new(space);
    let name = guarded.solo.name.clone();
    eventually("the guard runs", PATIENCE, || guarded.guards() == 1);
    guarded.kill();
    eventually("the guard acts", PATIENCE, || guarded.policies() == ["always", "always"]);
    let first = guarded.started_at(&name);
    guarded.engine.try_docker(&["stop", &guarded.solo.holder()]).unwrap();
    let second = guarded.await_another_life("its sandbox is started first", &first);

    // Restarts do not even need the record.
    std::fs::remove_dir_all(guarded.solo.desired_state.join("record")).unwrap();
    guarded.engine.stop();
    guarded.engine.start_again();
    guarded.await_another_life("it runs after a restart of the engine", &second);
    guarded.engine.try_docker(&["rm", "--force", &name, &guarded.solo.holder()]).unwrap();
    eventually("the guard goes with the last container", PATIENCE, || guarded.guards() == 0);
}

#[test]
fn a_daemon_that_returns_within_the_lease_changes_nothing() {
    let Some(space) = Space::new() else { return };
    let mut guarded = Guarded::new(space);
    eventually("the guard runs", PATIENCE, || guarded.guards() == 1);
    let first = guarded.started_at(&guarded.solo.name);
    guarded.kill();
    guarded.start();
    assert_eq!(guarded.policies(), ["no", "no"]);
    assert_eq!(guarded.started_at(&guarded.solo.name), first);
}

#[test]
fn the_guard_can_be_turned_off_and_on() {
    let Some(space) = Space::new() else { return };
    let mut guarded = Guarded::new(space);
    eventually("the guard runs", PATIENCE, || guarded.guards() == 1);
    let manifest = guarded.solo.desired_state.join("keepwork.toml");
    let with = std::fs::read_to_string(&manifest).unwrap();
    guarded.solo.declare_all(&with.replacen("[docker]", "[docker]\nguard = false", 1));
    eventually("the guard is removed", PATIENCE, || guarded.guards() == 0);
    guarded.solo.declare_all(&with);
    eventually("the guard is back", PATIENCE, || guarded.guards() == 1);
    guarded.stop();
}

/// A daemon on another host, stopped when it is dropped.
struct There(Child);

impl There {
    fn stop(mut self) {
        kill_process(Pid::from_child(&self.0), Signal::TERM).unwrap();
        assert!(self.0.wait().unwrap().success());
    }
}

impl Drop for There {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_proxy_routes_correctly_after_an_engine_restart() {
    const PORTS: [(&str, u16); 3] = [("one", 8101), ("two", 8102), ("three", 8103)];
    let Some(space) = Space::new() else { return };
    let (mut host, nginx) = (Host::new(&space), space.name("nginx"));
    nginx_image(&nginx, &space.label());
    host.load(&nginx);
    let folder = space.dir().join("desired-state");
    std::fs::create_dir(&folder).unwrap();
    let mut manifest = format!("[front]\nimage = \"{nginx}\"\nhttp = 8100\ndrain = \"1s\"\n");
    for (name, port) in PORTS {
        let container = space.name(name);
        manifest.push_str(&format!(
            "[environment.{name}]\ncontainer = \"{container}\"\nport = {SITE_PORT}\npublish = {port}\nhealth = {{ none = true }}\n"
        ));
    }
    std::fs::write(folder.join("three.toml"), manifest).unwrap();
    let mut command = host.command(env!("CARGO_BIN_EXE_abide"));
    command.env("DOCKER_HOST", host.engine()).arg("--desired-state").arg(&folder);
    let log = std::fs::File::create(space.dir().join("daemon.log")).unwrap();
    let daemon = There(command.args(["daemon", "--listen", "127.0.0.1:8099"]).stderr(log).spawn().unwrap());
    eventually("the daemon answers", PATIENCE, || {
        abide(&folder, &["status"]).code == 0 && folder.join("abide.sock").exists()
    });
    for (name, _) in PORTS {
        let image = made_image(&space, &format!("the page of {name}"), "");
        host.load(&image);
        assert_eq!(abide(&folder, &["set", name, &image]).code, 0);
        assert_eq!(abide(&folder, &["wait", name, "--timeout", "60s"]).code, 0);
    }
    let serves = |host: &Host| {
        PORTS
            .iter()
            .all(|(name, port)| host.page(*port).is_some_and(|page| page == format!("the page of {name}")))
    };
    let ever_wrong = |host: &Host| {
        PORTS.iter().any(|(name, port)| {
            host.page(*port)
                .is_some_and(|page| page.starts_with("the page") && page != format!("the page of {name}"))
        })
    };
    eventually("all are served", PATIENCE, || serves(&host));
    daemon.stop();

    for _ in 0..2 {
        host.restart_engine();
        eventually("all are served after a restart of the engine", PATIENCE, || {
            assert!(!ever_wrong(&host), "one was served the page of another");
            serves(&host)
        });
    }
    let front = host.docker(&["ps", "--quiet", "--filter", "label=abide.role=front"]);
    host.docker(&["kill", &front]);
    eventually("the front is started again", PATIENCE, || serves(&host));
}
