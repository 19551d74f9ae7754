//! Another host: a network namespace with its own Docker Engine and loopback interface, connected
//! to this host by a veth pair ("cable") that can be cut.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};

use rustix::process::{Pid, Signal, kill_process};

use super::docker::{Space, load_image};
use super::{PATIENCE, eventually};

/// A host that is removed when it is dropped.
pub(crate) struct Host {
    namespace: String,
    cable: String,
    name: String,
    dir: PathBuf,
    addresses: [String; 2],
    engine: Child,
}

impl Host {
    /// Creates a host with an engine that stores everything in `space`.
    ///
    /// # Panics
    /// The process lacks the permission; it needs root, like the engine.
    pub(crate) fn new(space: &Space) -> Self {
        static COUNT: AtomicU8 = AtomicU8::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let process = std::process::id();
        // Interface names have up to 15 letters, and each cable needs its own network.
        let (namespace, cable) = (space.name(&format!("host-{count}")), format!("abt{process:x}{count:x}"));
        let net =
            format!("10.{}.{}", 64 + (process >> 4) % 128, ((process & 15) << 4) | u32::from(count & 15));
        let addresses = [format!("{net}.1"), format!("{net}.2")];
        let dir = space.dir().join(format!("host-{count}"));
        std::fs::create_dir(&dir).unwrap();
        ip(&["netns", "add", &namespace]);
        ip(&["link", "add", &cable, "type", "veth", "peer", "name", "eth0", "netns", &namespace]);
        ip(&["address", "add", &format!("{}/24", addresses[0]), "dev", &cable]);
        ip(&["link", "set", &cable, "up"]);
        ip(&["-n", &namespace, "address", "add", &format!("{}/24", addresses[1]), "dev", "eth0"]);
        ip(&["-n", &namespace, "link", "set", "eth0", "up"]);
        ip(&["-n", &namespace, "link", "set", "lo", "up"]);
        let name = space.name(&format!("host-{count}-engine"));
        let engine = start_engine(&namespace, &dir, &name);
        let mut host = Self { namespace, cable, name, dir, addresses, engine };
        host.await_engine();
        host
    }

    /// Restarts the engine of the host.
    pub(crate) fn restart_engine(&mut self) {
        let _ = kill_process(Pid::from_child(&self.engine), Signal::TERM);
        self.engine.wait().unwrap();
        self.engine = start_engine(&self.namespace, &self.dir, &self.name);
        self.await_engine();
    }

    /// Kills the engine there with all containers (SIGKILL), as a loss of power does, and starts it again.
    pub(crate) fn kill_engine(&mut self) {
        let file = self.dir.join("exec/containerd/containerd.pid");
        let runtime = std::fs::read_to_string(&file).unwrap_or_default();
        self.signal_engine(Signal::CONT);
        let _ = self.engine.kill();
        self.engine.wait().unwrap();
        // It ends with the engine. A new engine that still saw it, even as a zombie, would wait for it in vain.
        let runtime = Path::new("/proc").join(runtime.trim());
        eventually("the engine's containerd ends", PATIENCE, || !runtime.join("exe").exists());
        let _ = std::fs::remove_file(file);
        kill_containers(&format!("-namespace\0{}\0", self.name));
        self.engine = start_engine(&self.namespace, &self.dir, &self.name);
        self.await_engine();
    }

    /// Sends a signal to the engine there, such as one that freezes it.
    pub(crate) fn signal_engine(&self, signal: Signal) {
        let _ = kill_process(Pid::from_child(&self.engine), signal);
    }

    fn await_engine(&mut self) {
        eventually("the engine of the other host answers", PATIENCE, || {
            let ended = self.engine.try_wait().unwrap();
            let log = || std::fs::read_to_string(self.dir.join("log")).unwrap_or_default();
            assert!(ended.is_none(), "the engine of the other host ended: {}", log());
            self.try_docker(&["version"]).is_some()
        });
    }

    /// The address of this host, as the other host sees it.
    pub(crate) fn gateway(&self) -> &str {
        &self.addresses[0]
    }

    /// The address of the other host from this machine.
    pub(crate) fn address(&self) -> &str {
        &self.addresses[1]
    }

    /// The socket of the engine there.
    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.join("docker.sock")
    }

    /// The value of `DOCKER_HOST` for its engine.
    pub(crate) fn engine(&self) -> String {
        format!("unix://{}", self.dir.join("docker.sock").display())
    }

    /// A command that runs on the host.
    pub(crate) fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = enter(&self.namespace);
        command.arg(program);
        command
    }

    /// Runs `docker` on its engine, and returns the output.
    ///
    /// # Panics
    /// The command fails.
    pub(crate) fn docker(&self, arguments: &[&str]) -> String {
        let output = self.run_docker(arguments);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "docker {}: {stderr}", arguments.join(" "));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// The same for commands that may fail; returns `None` then.
    pub(crate) fn try_docker(&self, arguments: &[&str]) -> Option<String> {
        let output = self.run_docker(arguments);
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// Copies an image of this host's engine to the other host.
    pub(crate) fn load(&self, image: &str) {
        load_image(image, &self.engine());
    }

    fn run_docker(&self, arguments: &[&str]) -> Output {
        Command::new("docker").arg("--host").arg(self.engine()).args(arguments).output().unwrap()
    }

    /// Returns the body of `GET /` from a port of the host's loopback address.
    pub(crate) fn page(&self, port: u16) -> Option<String> {
        self.get(port, "/").map(|(_, body)| body)
    }

    /// Returns status and body of a `GET` from a port of the host's loopback address.
    pub(crate) fn get(&self, port: u16, path: &str) -> Option<(u16, String)> {
        // Uses the shell's own sockets, so nothing has to be installed on the host.
        let script = "exec 3<>/dev/tcp/127.0.0.1/$0 && \
                      printf 'GET %s HTTP/1.0\\r\\nHost: 127.0.0.1:%s\\r\\n\\r\\n' \"$1\" \"$0\" >&3 && cat <&3";
        let output = self.command("bash").args(["-c", script, &port.to_string(), path]).output().unwrap();
        let answer = String::from_utf8_lossy(&output.stdout).into_owned();
        let (head, body) = answer.split_once("\r\n\r\n")?;
        Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
    }

    /// Cuts the cable: all packets are lost without an error.
    pub(crate) fn cut(&self) {
        ip(&["-n", &self.namespace, "link", "set", "eth0", "down"]);
    }

    /// Restores the cable.
    pub(crate) fn repair(&self) {
        ip(&["-n", &self.namespace, "link", "set", "eth0", "up"]);
    }
}

/// A cable between two hosts, beside those that connect each to this machine.
pub(crate) struct Cable {
    /// The namespace of the second host.
    namespace: String,
}

impl Cable {
    /// The address of the first host, as the second host sees it.
    pub(crate) const FIRST: &str = "198.51.100.1";
    const SECOND: &str = "198.51.100.2";
    const NAME: &str = "cable";

    /// Connects two hosts.
    pub(crate) fn between(first: &Host, second: &Host) -> Self {
        let [one, other] = [first, second].map(|host| host.namespace.as_str());
        ip(&[
            "-n",
            one,
            "link",
            "add",
            Self::NAME,
            "type",
            "veth",
            "peer",
            "name",
            Self::NAME,
            "netns",
            other,
        ]);
        for (namespace, address) in [(one, Self::FIRST), (other, Self::SECOND)] {
            ip(&["-n", namespace, "address", "add", &format!("{address}/24"), "dev", Self::NAME]);
            ip(&["-n", namespace, "link", "set", Self::NAME, "up"]);
        }
        Self { namespace: other.to_owned() }
    }

    /// Cuts it: all packets are lost without an error.
    pub(crate) fn cut(&self) {
        ip(&["-n", &self.namespace, "link", "set", Self::NAME, "down"]);
    }

    /// Restores it.
    pub(crate) fn repair(&self) {
        ip(&["-n", &self.namespace, "link", "set", Self::NAME, "up"]);
    }
}

/// Kills what the shims with these arguments run, and the shims: the containers of an engine that was killed. The next
/// engine does not find all of them, and two containers would have one address.
pub(super) fn kill_containers(arguments: &str) {
    let all = processes();
    for shim in all.iter().filter(|process| process.command.contains(arguments)) {
        let children = all.iter().filter(|process| process.parent == shim.id);
        for process in children.chain([shim]) {
            if let Some(id) = Pid::from_raw(process.id) {
                let _ = kill_process(id, Signal::KILL);
            }
        }
    }
}

/// A process of this machine.
struct Process {
    id: i32,
    parent: i32,
    /// Its arguments, each with a NUL after it.
    command: String,
}

fn processes() -> Vec<Process> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let read = |entry: std::fs::DirEntry| {
        let id = entry.file_name().to_str()?.parse().ok()?;
        let file = |name: &str| std::fs::read(entry.path().join(name)).ok();
        let stat = String::from_utf8_lossy(&file("stat")?).into_owned();
        // The name before it may hold anything but ends with the last bracket.
        let parent = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()?;
        let command = String::from_utf8_lossy(&file("cmdline")?).into_owned();
        Some(Process { id, parent, command })
    };
    entries.filter_map(read).collect()
}

fn start_engine(namespace: &str, dir: &Path, name: &str) -> Child {
    // A separate file, because the one of this host may name a storage folder.
    std::fs::write(dir.join("daemon.json"), "{}").unwrap();
    let script = r#"exec dockerd --host "unix://$0/docker.sock" \
        --config-file "$0/daemon.json" --data-root "$0/data" --exec-root "$0/exec" --pidfile "$0/pid" \
        --bridge none --iptables=false --storage-driver vfs --log-level warn \
        --containerd-namespace "$1" --containerd-plugins-namespace "$1-plugins""#;
    let log = std::fs::File::create(dir.join("log")).unwrap();
    let mut command = enter(namespace);
    command.args(["unshare", "--mount", "--", "sh", "-c", script]).arg(dir).arg(name);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap()
}

/// A command in a network namespace. Does not use `ip netns exec`, which hides the cgroups that an
/// engine needs.
pub(super) fn enter(namespace: &str) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net=/run/netns/{namespace}")).arg("--");
    command
}

fn ip(arguments: &[&str]) {
    let output = Command::new("ip").args(arguments).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {}: {stderr}", arguments.join(" "));
}

impl Drop for Host {
    fn drop(&mut self) {
        let containers = self.try_docker(&["ps", "--all", "--quiet"]).unwrap_or_default();
        for container in containers.lines() {
            self.try_docker(&["rm", "--force", "--volumes", container]);
        }
        let _ = kill_process(Pid::from_child(&self.engine), Signal::TERM);
        let _ = self.engine.wait();
        // Without an assertion, because a second panic would hide the first.
        let _ = Command::new("ip").args(["link", "delete", &self.cable]).status();
        let _ = Command::new("ip").args(["netns", "delete", &self.namespace]).status();
    }
}
