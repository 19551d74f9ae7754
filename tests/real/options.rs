//! Container options by compose's names, on a real engine: created, read back, kept, and repaired.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use serde_json::Value;

use crate::common::{
    Daemon, Life, PATIENCE, SITE_PORT, Space, Spot, busybox, docker, eventually, eventually_some, free_ports,
    http_get, made_image, try_docker,
};

/// Returns the ID of a container of an environment.
type Which = fn(&Spot) -> Option<String>;

/// The container that runs the program.
fn program(spot: &Spot) -> Option<String> {
    spot.container()
}

/// The sandbox that it joins.
fn sandbox(spot: &Spot) -> Option<String> {
    let mode = try_docker(&["container", "inspect", "--format", "{{.HostConfig.NetworkMode}}", &spot.name])?;
    mode.strip_prefix("container:").map(str::to_owned)
}

/// An environment that is ready, with its daemon.
struct Kept {
    daemon: Daemon,
    spot: Spot,
    _space: Space,
}

impl Kept {
    /// Returns the environment once it is ready with these lines; `None` if the tests on Docker are disabled.
    fn new(lines: &str) -> Option<Self> {
        Self::edited(lines, |manifest| manifest)
    }

    /// The same, with files beside the manifest. `FOLDER` stands for their folder.
    fn with_files(lines: &str, files: &[(&str, &str)]) -> Option<Self> {
        let write = |folder: &std::path::Path| {
            for (name, text) in files {
                std::fs::write(folder.join(name), text).unwrap();
            }
        };
        Self::prepared(lines, write, |manifest| manifest)
    }

    /// The same, with an edit of the whole manifest.
    fn edited(lines: &str, edit: impl FnOnce(String) -> String) -> Option<Self> {
        Self::prepared(lines, |_| {}, edit)
    }

    fn prepared(
        lines: &str,
        prepare: impl FnOnce(&std::path::Path),
        edit: impl FnOnce(String) -> String,
    ) -> Option<Self> {
        let space = Space::new()?;
        let spot = Spot::new(&space, lines);
        prepare(&spot.desired_state);
        let folder = spot.desired_state.display().to_string();
        let path = spot.desired_state.join("spot.toml");
        let manifest = std::fs::read_to_string(&path).unwrap().replace("FOLDER", &folder);
        std::fs::write(&path, edit(manifest)).unwrap();
        let image = made_image(&space, "site", "");
        let daemon = Daemon::start(&spot.desired_state, &[("ABIDE_RESYNC", "1s")]);
        assert_eq!(spot.set(&image).code, 0);
        spot.await_ready();
        Some(Self { daemon, spot, _space: space })
    }

    /// Asserts that a reconcile finds nothing to do, with this daemon and with the next one.
    fn at_rest(self) -> Self {
        let Self { daemon, spot, _space } = self;
        let life = Life::of(&spot.name);
        let has_nothing_to_do = || {
            assert_eq!(spot.abide(&["sync", "dev"]).code, 0);
            spot.until("the sync was acted upon", |status| status["sync"] == status["observed_sync"]);
            let diff = spot.abide(&["diff", "dev"]);
            assert_eq!(diff.code, 0, "{}", diff.stdout);
            assert_eq!(Life::of(&spot.name), life);
        };
        has_nothing_to_do();
        daemon.kill();
        let daemon = Daemon::start(&spot.desired_state, &[("ABIDE_RESYNC", "1s")]);
        has_nothing_to_do();
        Self { daemon, spot, _space }
    }

    /// Creates a container again by hand, with its labels, its image and its network, and without the rest.
    fn recreate_by_hand(self, container: &str) -> Self {
        self.recreate_with(container, &[])
    }

    /// The same with some other options.
    fn recreate_with(self, container: &str, options: &[&str]) -> Self {
        let Self { daemon, spot, _space } = self;
        // The daemon would create it first.
        daemon.kill();
        let inspected: Value = serde_json::from_str(&docker(&["container", "inspect", container])).unwrap();
        let of = &inspected[0];
        let labels = of["Config"]["Labels"].as_object().unwrap().iter();
        let ours = labels.filter(|(name, _)| name.starts_with("abide."));
        let labels: Vec<String> =
            ours.map(|(name, value)| format!("{name}={}", value.as_str().unwrap())).collect();
        let name = of["Name"].as_str().unwrap().trim_start_matches('/');
        docker(&["rm", "--force", container]);
        let network = of["HostConfig"]["NetworkMode"].as_str().unwrap();
        let mut run = vec!["run", "--detach", "--name", name, "--network", network];
        run.extend(options);
        if of["HostConfig"]["Init"] == true {
            run.push("--init");
        }
        run.extend(labels.iter().flat_map(|label| ["--label", label.as_str()]));
        run.push(of["Image"].as_str().unwrap());
        docker(&run);
        let daemon = Daemon::start(&spot.desired_state, &[("ABIDE_RESYNC", "1s")]);
        Self { daemon, spot, _space }
    }

    /// The reasons of all steps so far.
    fn steps(&self) -> String {
        self.daemon.abide(&["events", "dev", "--limit", "1000"]).stdout
    }

    /// Waits until a value of `docker inspect` is the expected one, in a container other than `before`.
    fn until_inspected(&self, which: Which, format: &str, expected: &str, before: Option<&str>) {
        let mut last = None;
        let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            eventually_some("the option is there", PATIENCE, || {
                let id = which(&self.spot).filter(|id| before != Some(id.as_str()))?;
                last = try_docker(&["container", "inspect", "--format", format, &id]);
                last.as_deref().filter(|last| *last == expected).map(|_| ())
            });
        }));
        assert!(found.is_ok(), "{format} is {last:?}, should be {expected}: {}", self.steps());
    }
}

#[test]
fn additional_ports_are_published_and_restored() {
    let [tcp, udp] = free_ports();
    let lines = format!("ports = [\"127.0.0.1:{tcp}:{SITE_PORT}\", \"127.0.0.1:{udp}:53/udp\", \"9999\"]");
    let Some(kept) = Kept::new(&lines) else { return };
    let is_served = || http_get(tcp, "/").is_ok_and(|(status, page)| status == 200 && page == "site");
    assert!(is_served());
    let bindings = "{{json .HostConfig.PortBindings}}";
    let holder = sandbox(&kept.spot).unwrap();
    let expected = docker(&["container", "inspect", "--format", bindings, &holder]);
    for part in [
        format!("\"{SITE_PORT}/tcp\":[{{\"HostIp\":\"127.0.0.1\",\"HostPort\":\"{}\"}}", kept.spot.port),
        format!("{{\"HostIp\":\"127.0.0.1\",\"HostPort\":\"{tcp}\"}}"),
        format!("\"53/udp\":[{{\"HostIp\":\"127.0.0.1\",\"HostPort\":\"{udp}\"}}]"),
        "\"9999/tcp\":[{\"HostIp\":\"\",\"HostPort\":\"\"}]".to_owned(),
    ] {
        assert!(expected.contains(&part), "{part}: {expected}");
    }
    let kept = kept.at_rest();
    let kept = kept.recreate_by_hand(&holder);
    kept.until_inspected(sandbox, bindings, &expected, Some(&holder));
    kept.spot.until("it is ready again", |status| status["status"] == "Ready");
    assert!(is_served());
    let kept = kept.at_rest();
    kept.spot.declare("");
    let own =
        format!("{{\"{SITE_PORT}/tcp\":[{{\"HostIp\":\"127.0.0.1\",\"HostPort\":\"{}\"}}]}}", kept.spot.port);
    kept.until_inspected(sandbox, bindings, &own, None);
    kept.spot.until("it is ready without them", |status| status["status"] == "Ready");
    kept.at_rest();
}

/// Options of the container, and what the engine shows of each: a format and the expected text.
const OF_CONTAINER: [(&str, &str, &str); 27] = [
    (
        "entrypoint = [\"/site\", \"serve\", \"--root\", \"/www\", \"--port\", \"8080\"]",
        "{{len .Config.Entrypoint}}",
        "6",
    ),
    ("user = \"1000:1000\"", "{{.Config.User}}", "1000:1000"),
    ("working_dir = \"/www/../www/\"", "{{.Config.WorkingDir}}", "/www"),
    ("labels = { \"com.example.a\" = 1 }", "{{index .Config.Labels \"com.example.a\"}}", "1"),
    ("stop_signal = \"int\"", "{{.Config.StopSignal}}", "SIGINT"),
    ("stdin_open = true", "{{.Config.OpenStdin}}", "true"),
    ("read_only = true", "{{.HostConfig.ReadonlyRootfs}}", "true"),
    ("tmpfs = [\"/scratch:size=1m\"]", "{{json .HostConfig.Tmpfs}}", "{\"/scratch\":\"size=1m\"}"),
    ("shm_size = \"32m\"", "{{.HostConfig.ShmSize}}", "33554432"),
    (
        "logging = { driver = \"json-file\", options = { max-size = \"1m\" } }",
        "{{.HostConfig.LogConfig.Type}} {{index .HostConfig.LogConfig.Config \"max-size\"}}",
        "json-file 1m",
    ),
    (
        "ulimits = { nofile = { soft = 512, hard = 1024 } }",
        "{{range .HostConfig.Ulimits}}{{.Name}} {{.Soft}} {{.Hard}}{{end}}",
        "nofile 512 1024",
    ),
    ("oom_score_adj = 100", "{{.HostConfig.OomScoreAdj}}", "100"),
    ("cpu_shares = 512", "{{.HostConfig.CpuShares}}", "512"),
    ("cpuset = \"0\"", "{{.HostConfig.CpusetCpus}}", "0"),
    ("mem_reservation = \"16m\"", "{{.HostConfig.MemoryReservation}}", "16777216"),
    ("cap_add = [\"cap_net_admin\"]", "{{json .HostConfig.CapAdd}}", "[\"NET_ADMIN\"]"),
    ("cap_drop = [\"MKNOD\"]", "{{json .HostConfig.CapDrop}}", "[\"MKNOD\"]"),
    (
        "security_opt = [\"no-new-privileges:true\"]",
        "{{json .HostConfig.SecurityOpt}}",
        "[\"no-new-privileges\"]",
    ),
    ("group_add = [\"44\"]", "{{json .HostConfig.GroupAdd}}", "[\"44\"]"),
    (
        "devices = [\"/dev/null:/dev/nothing:r\"]",
        "{{range .HostConfig.Devices}}{{.PathOnHost}} {{.PathInContainer}} {{.CgroupPermissions}}{{end}}",
        "/dev/null /dev/nothing r",
    ),
    ("device_cgroup_rules = [\"c 1:3 rwm\"]", "{{json .HostConfig.DeviceCgroupRules}}", "[\"c 1:3 rwm\"]"),
    ("ipc = \"shareable\"", "{{.HostConfig.IpcMode}}", "shareable"),
    ("tty = true", "{{.Config.Tty}}", "true"),
    ("cgroup = \"private\"", "{{.HostConfig.CgroupnsMode}}", "private"),
    ("userns_mode = \"host\"", "{{.HostConfig.UsernsMode}}", "host"),
    ("memory = \"64m\"\nmemswap_limit = \"96m\"", "{{.HostConfig.MemorySwap}}", "100663296"),
    (
        "cpu_quota = 50000\ncpu_period = 100000",
        "{{.HostConfig.CpuQuota}} {{.HostConfig.CpuPeriod}}",
        "50000 100000",
    ),
];

/// The same for the sandbox, which has the network namespace.
const OF_SANDBOX: [(&str, &str, &str); 6] = [
    ("container_hostname = \"web-1\"", "{{.Config.Hostname}}", "web-1"),
    ("domainname = \"example.test\"", "{{.Config.Domainname}}", "example.test"),
    ("dns = [\"127.0.0.1\"]", "{{json .HostConfig.Dns}}", "[\"127.0.0.1\"]"),
    ("dns_search = [\"example.test\"]", "{{json .HostConfig.DnsSearch}}", "[\"example.test\"]"),
    ("dns_opt = [\"ndots:2\"]", "{{json .HostConfig.DnsOptions}}", "[\"ndots:2\"]"),
    (
        "sysctls = { \"net.core.somaxconn\" = 512 }",
        "{{json .HostConfig.Sysctls}}",
        "{\"net.core.somaxconn\":\"512\"}",
    ),
];

fn lines(options: &[(&str, &str, &str)]) -> String {
    options.iter().map(|(line, ..)| format!("{line}\n")).collect()
}

/// A table of options goes to the engine, is read back, is created again by hand without them, and is repaired.
#[track_caller]
fn each_is_kept(options: &[(&str, &str, &str)], which: Which) {
    let Some(kept) = Kept::new(&lines(options)) else { return };
    let all_are_there = |kept: &Kept, before: Option<&str>| {
        for (_, format, expected) in options {
            kept.until_inspected(which, format, expected, before);
        }
        kept.spot.until("it is ready", |status| status["status"] == "Ready");
    };
    all_are_there(&kept, None);
    let kept = kept.at_rest();
    let before = which(&kept.spot).unwrap();
    let kept = kept.recreate_by_hand(&before);
    all_are_there(&kept, Some(&before));
    let kept = kept.at_rest();
    let declared = which(&kept.spot).unwrap();
    kept.spot.declare("");
    let (_, format, expected) = options[1];
    eventually_some("it is made without them", PATIENCE, || {
        let id = which(&kept.spot).filter(|id| *id != declared)?;
        (try_docker(&["container", "inspect", "--format", format, &id])? != expected).then_some(())
    });
    kept.spot.until("it is ready without them", |status| status["status"] == "Ready");
    kept.at_rest();
}

#[test]
fn every_container_option_is_read_back_and_repaired() {
    each_is_kept(&OF_CONTAINER, program);
}

#[test]
fn every_sandbox_option_is_read_back_and_repaired() {
    each_is_kept(&OF_SANDBOX, sandbox);
}

#[test]
fn without_a_sandbox_the_container_has_all_options() {
    let options = format!("{}{}", lines(&OF_CONTAINER), lines(&OF_SANDBOX));
    let Some(kept) =
        Kept::edited(&options, |manifest| manifest.replace("[docker]\n", "[docker]\nholder = false\n"))
    else {
        return;
    };
    assert_eq!(sandbox(&kept.spot), None);
    for (_, format, expected) in OF_CONTAINER.iter().chain(&OF_SANDBOX) {
        kept.until_inspected(program, format, expected, None);
    }
    kept.at_rest();
}

#[test]
fn memory_and_swap_limits_are_changed_in_place() {
    let Some(kept) = Kept::new("memory = \"64m\"\nmemswap_limit = \"256m\"") else { return };
    let before = kept.spot.container();
    let limits = "{{.HostConfig.Memory}} {{.HostConfig.MemorySwap}}";
    kept.until_inspected(program, limits, "67108864 268435456", None);
    kept.spot.declare("memory = \"96m\"\nmemswap_limit = \"256m\"");
    kept.until_inspected(program, limits, "100663296 268435456", None);
    assert_eq!(kept.spot.container(), before);
    kept.at_rest();
}

#[test]
fn a_privileged_container_starts_or_the_engines_error_is_reported() {
    let Some(kept) = Kept::new("") else { return };
    let before = kept.spot.container().unwrap();
    kept.spot.declare("privileged = true");
    let is_granted = std::cell::Cell::new(false);
    // An engine that lacks rights itself cannot grant them.
    kept.spot.until("it is decided", |status| {
        is_granted.set(program(&kept.spot).is_some_and(|id| {
            id != before
                && try_docker(&["container", "inspect", "--format", "{{.HostConfig.Privileged}}", &id])
                    .as_deref()
                    == Some("true")
        }));
        status["reason"] == "OptionRefused" || (status["status"] == "Ready" && is_granted.get())
    });
    assert_eq!(kept.spot.page().as_deref(), Some("site"));
    if is_granted.get() {
        kept.at_rest();
    }
}

#[test]
fn a_host_network_container_is_probed_and_can_leave_the_network() {
    let [port] = free_ports();
    let lines = format!(
        "network_mode = \"host\"\nentrypoint = [\"/site\", \"serve\", \"--root\", \"/www\", \"--port\", \"{port}\"]"
    );
    let on_host = |manifest: String| {
        let lines = manifest.lines().filter(|line| !line.starts_with("publish"));
        lines
            .map(|line| line.replace(&format!("port = {SITE_PORT}"), &format!("port = {port}")) + "\n")
            .collect()
    };
    let Some(kept) = Kept::edited(&lines, on_host) else { return };
    let mode = "{{.HostConfig.NetworkMode}}";
    kept.until_inspected(program, mode, "host", None);
    assert_eq!(sandbox(&kept.spot), None);
    let is_served = || http_get(port, "/").is_ok_and(|(status, page)| status == 200 && page == "site");
    assert!(is_served());
    let kept = kept.at_rest();
    let before = kept.spot.container().unwrap();
    let kept = kept.recreate_with(&before, &["--env", "A=B"]);
    kept.spot.until("it is ready again", |status| status["status"] == "Ready");
    assert!(is_served());
    let kept = kept.at_rest();
    kept.spot.declare("");
    eventually("it has a sandbox", PATIENCE, || sandbox(&kept.spot).is_some());
    kept.spot.until("it is ready", |status| status["status"] == "Ready");
    assert_eq!(kept.spot.page().as_deref(), Some("site"));
    let kept = kept.at_rest();
    kept.spot.declare("network_mode = \"none\"\npublish = false\nhealth = { none = true }");
    let path = kept.spot.desired_state.join("spot.toml");
    let manifest = std::fs::read_to_string(&path).unwrap();
    let lines =
        manifest.lines().filter(|line| !line.starts_with("publish = \"") && !line.starts_with("port"));
    std::fs::write(&path, lines.map(|line| format!("{line}\n")).collect::<String>()).unwrap();
    kept.until_inspected(program, mode, "none", None);
    kept.spot.until("it is ready", |status| status["status"] == "Ready");
    kept.at_rest();
}

/// A program of this host that answers every request on a port until dropped.
struct Stranger {
    port: u16,
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Stranger {
    fn new(port: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
        let ends = Arc::new(AtomicBool::new(false));
        let is_over = Arc::clone(&ends);
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming().take_while(|_| !is_over.load(Ordering::SeqCst)) {
                let Ok(mut stream) = stream else { continue };
                let _ = stream.read(&mut [0; 1024]);
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nother");
            }
        });
        Self { port, ends, thread: Some(thread) }
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
        self.thread.take().map(JoinHandle::join);
    }
}

#[test]
fn a_program_of_the_host_that_answers_in_place_of_the_container_makes_nothing_ready() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("left out: only root sees whose sockets other users have");
        return;
    }
    let Some(space) = Space::new() else { return };
    let [port, elsewhere] = free_ports();
    let stranger = Stranger::new(port);
    let spot = Spot::new(&space, "");
    let declare = |listens: u16, probe: &str| {
        let (name, network) = (&spot.name, &spot.network);
        let manifest = format!(
            "[docker]\nnetwork = \"{network}\"\n[environment.dev]\ncontainer = \"{name}\"\nport = {port}\n\
             network_mode = \"host\"\nentrypoint = [\"/site\", \"serve\", \"--root\", \"/www\", \"--port\", \
             \"{listens}\"]\nhealth = {{ {probe}, interval = \"50ms\", start_deadline = \"2s\", healthy_for = \
             \"100ms\" }}\n"
        );
        std::fs::write(spot.desired_state.join("spot.toml"), manifest).unwrap();
    };
    declare(elsewhere, "http = \"/\"");
    let image = made_image(&space, "site", "");
    let _daemon = spot.daemon();
    assert_eq!(spot.set(&image).code, 0);
    for probe in ["http = \"/\"", "tcp = true"] {
        declare(elsewhere, probe);
        let status = spot.until("the stranger is noticed", |status| {
            status["message"].as_str().unwrap().contains("another program of this host answers")
        });
        assert_ne!(status["status"], "Ready", "{status}");
    }
    drop(stranger);
    // The ports of the host's other programs do not matter for this one.
    let status = spot.until("nothing listens", |status| {
        status["message"].as_str().unwrap().contains(&format!("nothing listens on port {port} of the host"))
    });
    assert!(!status["message"].as_str().unwrap().contains("the program listens"), "{status}");
    declare(port, "http = \"/\"");
    spot.await_ready();
    assert_eq!(http_get(port, "/").unwrap().1, "site");
}

#[test]
fn manually_added_privileges_are_removed() {
    let Some(kept) = Kept::new("") else { return };
    let name = kept.spot.name.clone();
    let kept = kept.recreate_with(&name, &["--cap-add", "NET_ADMIN", "--pid", "host"]);
    kept.until_inspected(program, "{{json .HostConfig.CapAdd}} {{.HostConfig.PidMode}}", "null", None);
    kept.spot.until("it is ready", |status| status["status"] == "Ready");
    kept.at_rest();
}

#[test]
fn an_option_rejected_by_the_engine_is_reported_and_stops_nothing() {
    let Some(kept) = Kept::new("") else { return };
    let serves = Life::of(&kept.spot.name);
    for (line, reason, words) in [
        // At the start.
        ("devices = [\"/dev/abide-t-none\"]", "OptionRefused", "/dev/abide-t-none"),
        ("gpus = \"all\"", "OptionRefused", "could not select device driver"),
        (
            "logging = { driver = \"syslog\", options = { syslog-address = \"tcp://127.0.0.1:9\" } }",
            "OptionRefused",
            "logging driver",
        ),
        // At creation.
        ("runtime = \"abide-t-none\"", "OptionRefused", "abide-t-none"),
        // The sandbox's, at the start.
        ("sysctls = { \"net.abide_t\" = 1 }", "OptionRefused", "abide_t"),
        // While the file system is set up: a folder over a file of the image.
        ("volumes = [\"/proc:/site:ro\"]", "OptionRefused", "/proc cannot be mounted at /site"),
        ("volumes = [\"abide-t-never:/site\"]", "OptionRefused", "the image has a file at /site"),
        ("working_dir = \"/site\"", "OptionRefused", "the image has a file at /site"),
        // The user is looked up in the image.
        ("user = \"abide-t-none\"", "StartFailed", "abide-t-none"),
    ] {
        kept.spot.declare(line);
        kept.spot.until(line, |status| {
            let has_words = status["message"].as_str().is_some_and(|message| message.contains(words));
            status["reason"] == reason && status["status"] == "Degraded" && has_words
        });
        assert_eq!(Life::of(&kept.spot.name), serves, "{line}");
        assert_eq!(kept.spot.page().as_deref(), Some("site"), "{line}");
    }
    kept.spot.declare("");
    kept.spot.until("it is ready", |status| status["status"] == "Ready");
    assert_eq!(Life::of(&kept.spot.name), serves);
    kept.at_rest();
}

#[test]
fn a_host_port_that_another_program_has_stops_nothing() {
    let Some(kept) = Kept::new("") else { return };
    let serves = Life::of(&kept.spot.name);
    let [port, other] = free_ports();
    let stranger = Stranger::new(port);
    let retried = |kept: &Kept| kept.steps().matches("try the new options").count();
    // Alone, and beside the port that the serving container has itself.
    for line in [
        format!("ports = [\"127.0.0.1:{port}:9999\"]"),
        format!("ports = [\"127.0.0.1:{other}:9998\", \"127.0.0.1:{port}:9999\"]"),
    ] {
        let before = retried(&kept);
        kept.spot.declare(&line);
        for attempt in 1..=2 {
            kept.spot.until("the port is reported", |status| {
                let message = status["message"].as_str().unwrap_or_default();
                let is_reported = message.contains(&port.to_string()) && message.contains("ss -ltnp");
                status["status"] == "Degraded" && is_reported && retried(&kept) >= before + attempt
            });
            assert_eq!(Life::of(&kept.spot.name), serves, "{line}");
            assert_eq!(kept.spot.abide(&["sync", "dev"]).code, 0);
        }
        assert_eq!(kept.spot.page().as_deref(), Some("site"), "{line}");
    }
    drop(stranger);
    assert_eq!(kept.spot.abide(&["sync", "dev"]).code, 0);
    kept.spot.until("it is ready with the port", |status| {
        status["status"] == "Ready" && Life::of(&kept.spot.name) != serves
    });
    let trial = format!("name={}.trial", kept.spot.name);
    let left = docker(&["ps", "--all", "--quiet", "--filter", &trial]);
    assert_eq!(left, "", "a trial was left");
    kept.at_rest();
}

#[test]
fn a_fixed_address_that_another_container_has_stops_nothing() {
    let Some(kept) = Kept::new("") else { return };
    let serves = Life::of(&kept.spot.name);
    let (network, other) = (format!("{}-fixed", kept.spot.name), format!("{}-other", kept.spot.name));
    let subnet = format!("10.212.{}", std::process::id() % 250);
    docker(&["network", "create", "--subnet", &format!("{subnet}.0/24"), &network]);
    let image = docker(&["container", "inspect", "--format", "{{.Image}}", &kept.spot.name]);
    let address = format!("{subnet}.9");
    docker(&["run", "--detach", "--name", &other, "--network", &network, "--ip", &address, &image]);
    kept.spot.declare(&format!("networks = {{ {network} = {{ ipv4_address = \"{address}\" }} }}"));
    kept.spot.until("the address is reported", |status| {
        let message = status["message"].as_str().unwrap_or_default();
        status["status"] == "Degraded" && message.contains("docker network inspect")
    });
    assert_eq!(Life::of(&kept.spot.name), serves);
    docker(&["rm", "--force", &other]);
    assert_eq!(kept.spot.abide(&["sync", "dev"]).code, 0);
    kept.spot.until("it has the address", |status| {
        status["status"] == "Ready" && Life::of(&kept.spot.name) != serves
    });
    kept.at_rest();
}

#[test]
fn a_memory_limit_below_the_use_replaces_the_container() {
    let Some(space) = Space::new() else { return };
    let Some(base) = busybox(&space) else { return };
    let spot = Spot::new(&space, "");
    let declare = |memory: &str| {
        spot.declare(&format!(
            "memory = \"{memory}\"\ntmpfs = [\"/scratch\"]\n\
             entrypoint = [\"httpd\", \"-f\", \"-p\", \"{SITE_PORT}\", \"-h\", \"/bin\"]\n\
             health = {{ tcp = true, interval = \"50ms\", start_deadline = \"10s\", healthy_for = \"200ms\" }}"
        ));
    };
    declare("64m");
    let _daemon = spot.daemon();
    assert_eq!(spot.set(&docker(&["image", "inspect", "--format", "{{.Id}}", &base])).code, 0);
    spot.await_ready();
    let before = Life::of(&spot.name);
    // The kernel cannot take this memory back.
    docker(&["exec", &spot.name, "dd", "if=/dev/zero", "of=/scratch/big", "bs=1048576", "count=30"]);
    declare("16m");
    spot.until("it has the limit", |status| {
        let limit = try_docker(&["container", "inspect", "--format", "{{.HostConfig.Memory}}", &spot.name]);
        status["status"] == "Ready" && limit.as_deref() == Some("16777216") && Life::of(&spot.name) != before
    });
    let after = Life::of(&spot.name);
    assert_eq!(spot.abide(&["sync", "dev", "--wait"]).code, 0);
    assert_eq!((spot.abide(&["diff", "dev"]).code, Life::of(&spot.name)), (0, after));
}

#[test]
fn env_files_and_mounted_files_can_lie_beside_the_manifest() {
    let Some(kept) = Kept::with_files(
        "env_file = [\"./shop.env\", { path = \"./none.env\", required = false }]\nenv = { B = \"own\" }\n\
         volumes = [\"./note.txt:/www/note.txt:ro\"]",
        &[("shop.env", "A=from-the-file\nB=lost\n"), ("note.txt", "a note")],
    ) else {
        return;
    };
    let env = "{{range .Config.Env}}{{println .}}{{end}}";
    let of = |kept: &Kept| docker(&["container", "inspect", "--format", env, &kept.spot.name]);
    let is_there = |text: &str, value: &str| text.lines().any(|line| line == value);
    let first = of(&kept);
    assert!(is_there(&first, "A=from-the-file") && is_there(&first, "B=own"), "{first}");
    assert_eq!(http_get(kept.spot.port, "/note.txt").unwrap(), (200, "a note".to_owned()));
    let kept = kept.at_rest();
    let before = kept.spot.container();
    std::fs::write(kept.spot.desired_state.join("shop.env"), "A=edited\n").unwrap();
    assert_eq!(kept.spot.abide(&["sync", "dev"]).code, 0);
    kept.until_inspected(program, "{{index .Config.Env 0}}", "A=edited", before.as_deref());
    kept.spot.until("it is ready with it", |status| status["status"] == "Ready");
    assert!(!kept.steps().contains("from-the-file"), "{}", kept.steps());
    kept.at_rest();
}

#[test]
fn an_external_volume_is_waited_for_and_mount_options_are_kept() {
    let Some(kept) = Kept::new("") else { return };
    let volume = format!("{}-external", kept.spot.name);
    let folder = kept.spot.desired_state.display().to_string();
    kept.spot.declare(&format!(
        "volumes = [{{ source = \"{volume}\", target = \"/data\", external = true, nocopy = true }}, \
         {{ source = \"{folder}\", target = \"/state\", read_only = true, propagation = \"private\" }}, \
         \"{folder}:/labelled:ro,z\"]"
    ));
    kept.spot.until("it waits for the volume", |status| {
        status["reason"] == "VolumeMissing"
            && status["message"].as_str().is_some_and(|message| message.contains(&volume))
    });
    assert_eq!(kept.spot.page().as_deref(), Some("site"));
    docker(&["volume", "create", &volume]);
    kept.until_inspected(
        program,
        "{{range .HostConfig.Mounts}}{{with .VolumeOptions}}{{.NoCopy}}{{end}}{{with .BindOptions}} {{.Propagation}}{{end}}{{end}}",
        "true private",
        None,
    );
    kept.spot.until("it is ready", |status| status["status"] == "Ready");
    let kept = kept.at_rest();
    let before = kept.spot.container().unwrap();
    let kept = kept.recreate_by_hand(&before);
    kept.until_inspected(program, "{{len .HostConfig.Mounts}} {{len .HostConfig.Binds}}", "2 1", None);
    kept.spot.until("it is ready again", |status| status["status"] == "Ready");
    kept.at_rest();
}

#[test]
fn a_secret_is_mounted_as_a_file_and_updated() {
    let lines = "secrets = { note = { secret_file = \"FOLDER/secret\", target = \"/www/note.txt\", mode = \"0404\" } }";
    let Some(kept) = Kept::with_files(lines, &[("secret", "the first secret\n")]) else { return };
    let note = |kept: &Kept| http_get(kept.spot.port, "/note.txt").ok().map(|(_, text)| text);
    assert_eq!(note(&kept).as_deref(), Some("the first secret"));
    let kept = kept.at_rest();
    let before = kept.spot.container().unwrap();
    // A restart keeps the file.
    docker(&["kill", &before]);
    eventually("it is started again", PATIENCE, || note(&kept).as_deref() == Some("the first secret"));
    assert_eq!(kept.spot.container().as_ref(), Some(&before));
    std::fs::write(kept.spot.desired_state.join("secret"), "the second\n").unwrap();
    assert_eq!(kept.spot.abide(&["sync", "dev"]).code, 0);
    eventually("it has the new secret", PATIENCE, || note(&kept).as_deref() == Some("the second"));
    kept.spot.until("it is ready", |status| status["status"] == "Ready");
    assert!(!kept.steps().contains("the first secret"));
    kept.at_rest();
}

#[test]
fn a_secret_file_beside_a_tmpfs_is_kept_and_one_below_it_is_rejected() {
    let lines = |target: &str| {
        format!(
            "tmpfs = [\"/www/memory\"]\nsecrets = {{ note = {{ secret_file = \"FOLDER/secret\", target = \"{target}\" }} }}"
        )
    };
    let Some(kept) = Kept::with_files(&lines("/www/note.txt"), &[("secret", "only in the file")]) else {
        return;
    };
    let note = |kept: &Kept| http_get(kept.spot.port, "/note.txt").ok().map(|(_, text)| text);
    assert_eq!(note(&kept).as_deref(), Some("only in the file"));
    let is_in_memory = |kept: &Kept| {
        let mounts =
            docker(&["container", "inspect", "--format", "{{json .HostConfig.Tmpfs}}", &kept.spot.name]);
        assert!(mounts.contains("/www/memory"), "{mounts}");
    };
    is_in_memory(&kept);
    let before = Life::of(&kept.spot.name).unwrap();
    docker(&["kill", &kept.spot.name]);
    eventually("it is started again", PATIENCE, || {
        Life::of(&kept.spot.name)
            .is_some_and(|life| life.is_running() && life.started_at != before.started_at)
    });
    kept.spot.until("it is ready again", |status| status["status"] == "Ready");
    assert_eq!((note(&kept).as_deref(), kept.spot.container()), (Some("only in the file"), Some(before.id)));
    // The next daemon reads the file too.
    let kept = kept.at_rest();
    assert_eq!(note(&kept).as_deref(), Some("only in the file"));

    // The engine mounts the memory over the file, so the program could not read it.
    let serves = Life::of(&kept.spot.name);
    let folder = kept.spot.desired_state.display().to_string();
    kept.spot.declare(&lines("/www/memory/note.txt").replace("FOLDER", &folder));
    let check = kept.spot.abide(&["check"]);
    let words =
        "must not put `note` at /www/memory/note.txt, below /www/memory of `tmpfs`, which would hide it";
    assert!(check.code != 0 && check.stdout.contains(words), "{check:?}");
    kept.spot.until("the error is reported", |_| kept.spot.abide(&["status"]).stderr.contains(words));
    assert_eq!((Life::of(&kept.spot.name), note(&kept).as_deref()), (serves, Some("only in the file")));
}

#[test]
fn additional_networks_and_addresses_are_kept_and_reconnected() {
    let Some(kept) = Kept::new("") else { return };
    let (back, fixed) = (format!("{}-back", kept.spot.name), format!("{}-fixed", kept.spot.name));
    docker(&["network", "create", "--subnet", "10.213.77.0/24", &fixed]);
    kept.spot.declare(&format!(
        "aliases = [\"shop\"]\nnetworks = {{ {back} = {{ aliases = [\"web\"] }}, {fixed} = {{ ipv4_address = \"10.213.77.9\" }} }}"
    ));
    let network = &kept.spot.network;
    let format = format!(
        "{{{{with index .NetworkSettings.Networks \"{network}\"}}}}{{{{index .Aliases 1}}}}{{{{end}}}} \
         {{{{with index .NetworkSettings.Networks \"{back}\"}}}}{{{{index .Aliases 0}}}}{{{{end}}}} \
         {{{{with index .NetworkSettings.Networks \"{fixed}\"}}}}{{{{.IPAMConfig.IPv4Address}}}}{{{{end}}}}"
    );
    let expected = "shop web 10.213.77.9";
    kept.until_inspected(sandbox, &format, expected, None);
    kept.spot.until("it is ready", |status| status["status"] == "Ready");
    let kept = kept.at_rest();
    for gone in [&back, &fixed] {
        docker(&["network", "disconnect", gone, &sandbox(&kept.spot).unwrap()]);
        kept.until_inspected(sandbox, &format, expected, None);
        kept.spot.until("it is ready again", |status| status["status"] == "Ready");
    }
    let steps = kept.steps();
    assert!(steps.contains(&format!("it is not connected to the network {back}")), "{steps}");
    let kept = kept.at_rest();
    kept.spot.declare("");
    kept.until_inspected(sandbox, "{{len .NetworkSettings.Networks}}", "1", None);
    kept.spot.until("it is ready without them", |status| status["status"] == "Ready");
    kept.at_rest();
}
