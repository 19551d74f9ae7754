//! A swarm: network namespaces with a Docker Engine each, on one bridge. Overlay networks and ports of nodes work in
//! them; the ingress mesh needs a module of the kernel.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};

use rustix::process::{Pid, Signal, kill_process};

use super::docker::{Space, load_image};
use super::host::{enter, kill_containers};
use super::{PATIENCE, eventually, teardown};

/// Nodes that are removed when it is dropped. The first is the manager.
pub(crate) struct Swarm {
    nodes: Vec<Node>,
    /// The namespace with the bridge.
    bridge: String,
    cable: String,
    net: String,
}

/// One node.
pub(crate) struct Node {
    namespace: String,
    /// The end of its cable in the namespace of the bridge.
    port: String,
    bridge: String,
    /// Its host name.
    pub(crate) name: String,
    address: String,
    dir: PathBuf,
    engine: Child,
}

impl Swarm {
    /// Creates a swarm of this many nodes, all managers: with three, one may be lost.
    ///
    /// # Panics
    /// The process lacks the permission; it needs root, like the engine.
    pub(crate) fn new(space: &Space, nodes: u8) -> Self {
        let swarm = Self::apart(space, nodes);
        swarm.unite();
        swarm
    }

    /// Creates nodes with engines that are in no swarm yet.
    pub(crate) fn apart(space: &Space, nodes: u8) -> Self {
        static COUNT: AtomicU8 = AtomicU8::new(0);
        let (process, count) = (std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let bridge = space.name(&format!("swarm-{count}"));
        let cable = format!("abs{process:x}{count:x}");
        let net =
            format!("10.{}.{}", 192 + (process >> 4) % 60, ((process & 15) << 4) | u32::from(count & 15));
        // The bridge is in a separate namespace, in which no rules of this host apply.
        ip(&["netns", "add", &bridge]);
        let mut swarm = Self { nodes: Vec::new(), bridge, cable, net };
        swarm.lay_cables();
        for index in 0..nodes {
            let node = swarm.start_node(space, index);
            swarm.nodes.push(node);
        }
        swarm.await_engines();
        swarm
    }

    fn lay_cables(&self) {
        let Self { bridge, cable, net, .. } = self;
        ip(&["-n", bridge, "link", "add", "br0", "type", "bridge"]);
        ip(&["-n", bridge, "link", "set", "br0", "up"]);
        ip(&["link", "add", cable, "type", "veth", "peer", "name", "host0", "netns", bridge]);
        ip(&["address", "add", &format!("{net}.1/24"), "dev", cable]);
        ip(&["link", "set", cable, "up"]);
        ip(&["-n", bridge, "link", "set", "host0", "master", "br0"]);
        ip(&["-n", bridge, "link", "set", "host0", "up"]);
    }

    fn start_node(&self, space: &Space, index: u8) -> Node {
        let name = format!("n{}", index + 1);
        let namespace = format!("{}-{name}", self.bridge);
        let dir = space.dir().join(&namespace);
        std::fs::create_dir(&dir).unwrap();
        let (port, address) = (format!("p{index}"), format!("{}.{}", self.net, 11 + index));
        ip(&["netns", "add", &namespace]);
        ip(&[
            "-n",
            &self.bridge,
            "link",
            "add",
            &port,
            "type",
            "veth",
            "peer",
            "name",
            "eth0",
            "netns",
            &namespace,
        ]);
        ip(&["-n", &self.bridge, "link", "set", &port, "master", "br0"]);
        ip(&["-n", &self.bridge, "link", "set", &port, "up"]);
        ip(&["-n", &namespace, "address", "add", &format!("{address}/24"), "dev", "eth0"]);
        ip(&["-n", &namespace, "link", "set", "eth0", "up"]);
        ip(&["-n", &namespace, "link", "set", "lo", "up"]);
        ip(&["-n", &namespace, "route", "add", "default", "via", &format!("{}.1", self.net)]);
        let config = format!("{{ \"insecure-registries\": [\"{}.0/24\"] }}", self.net);
        std::fs::write(dir.join("daemon.json"), config).unwrap();
        let script = r#"hostname "$1"; mkdir -p /run/containerd; mount -t tmpfs none /run/containerd; exec dockerd \
            --host "unix://$0/docker.sock" --config-file "$0/daemon.json" --data-root "$0/data" \
            --exec-root "$0/exec" --pidfile "$0/pid" --storage-driver vfs --log-level warn"#;
        let log = std::fs::File::create(dir.join("log")).unwrap();
        let mut command = enter(&namespace);
        command.args(["unshare", "--mount", "--uts", "--", "sh", "-c", script]).arg(&dir).arg(&name);
        let engine = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap();
        Node { namespace, port, bridge: self.bridge.clone(), name, address, dir, engine }
    }

    fn await_engines(&mut self) {
        for node in &mut self.nodes {
            let (dir, name) = (node.dir.clone(), node.name.clone());
            eventually(&format!("the engine of {name} answers"), PATIENCE, || {
                let log = || std::fs::read_to_string(dir.join("log")).unwrap_or_default();
                assert!(node.engine.try_wait().unwrap().is_none(), "the engine of {name} ended: {}", log());
                node.try_docker(&["version"]).is_some()
            });
        }
    }

    fn unite(&self) {
        let [first, others @ ..] = &*self.nodes else { panic!("no node") };
        first.docker(&["swarm", "init", "--advertise-addr", &first.address]);
        let token = first.docker(&["swarm", "join-token", "--quiet", "manager"]);
        let manager = format!("{}:2377", first.address);
        for node in others {
            node.docker(&["swarm", "join", "--token", &token, "--advertise-addr", &node.address, &manager]);
        }
        self.await_nodes();
    }

    /// Waits until all nodes are ready.
    pub(crate) fn await_nodes(&self) {
        eventually("all nodes are ready", PATIENCE, || {
            let states = self.manager().docker(&["node", "ls", "--format", "{{.Status}}"]);
            states.lines().filter(|state| *state == "Ready").count() == self.nodes.len()
        });
    }

    /// The manager that abide talks to.
    pub(crate) fn manager(&self) -> &Node {
        &self.nodes[0]
    }

    /// All nodes.
    pub(crate) fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The address of this host, as the nodes see it.
    pub(crate) fn gateway(&self) -> String {
        format!("{}.1", self.net)
    }
}

impl Node {
    /// The value of `DOCKER_HOST` for its engine.
    pub(crate) fn engine(&self) -> String {
        format!("unix://{}", self.dir.join("docker.sock").display())
    }

    /// Its network namespace.
    pub(crate) fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Its address, as this host sees it.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// A command that runs on the node.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = enter(&self.namespace);
        command.arg(program);
        command
    }

    /// Runs `docker` on its engine, and returns the output.
    ///
    /// # Panics
    /// The command fails.
    pub(crate) fn docker(&self, arguments: &[&str]) -> String {
        let output =
            Command::new("docker").arg("--host").arg(self.engine()).args(arguments).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "docker {}: {stderr}", arguments.join(" "));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// The same for commands that may fail; returns `None` then.
    pub(crate) fn try_docker(&self, arguments: &[&str]) -> Option<String> {
        let output =
            Command::new("docker").arg("--host").arg(self.engine()).args(arguments).output().unwrap();
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// Drops everything that the node sends to this address.
    pub(crate) fn lose_route_to(&self, address: &str) {
        ip(&["-n", &self.namespace, "route", "add", "blackhole", &format!("{address}/32")]);
    }

    /// Restores the route.
    pub(crate) fn restore_route_to(&self, address: &str) {
        ip(&["-n", &self.namespace, "route", "delete", "blackhole", &format!("{address}/32")]);
    }

    /// Copies an image of this host's engine to the node.
    pub(crate) fn load(&self, image: &str) {
        load_image(image, &self.engine());
    }

    /// Cuts its cable: all packets are lost without an error.
    pub(crate) fn cut(&self) {
        ip(&["-n", &self.bridge, "link", "set", &self.port, "down"]);
    }

    /// Restores its cable.
    pub(crate) fn repair(&self) {
        ip(&["-n", &self.bridge, "link", "set", &self.port, "up"]);
    }

    /// Kills its engine and its containers, as the loss of a node does. Its network stays, so connections are refused.
    pub(crate) fn kill(&self) {
        self.signal_engine(Signal::KILL);
        self.kill_containers();
    }

    /// Kills containers that a killed engine left behind.
    fn kill_containers(&self) {
        kill_containers(&format!("-address\0{}/exec/containerd/", self.dir.display()));
    }

    /// Sends a signal to its engine, such as one that freezes it.
    pub(crate) fn signal_engine(&self, signal: Signal) {
        let _ = kill_process(Pid::from_child(&self.engine), signal);
    }
}

fn ip(arguments: &[&str]) {
    let output = Command::new("ip").args(arguments).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {}: {stderr}", arguments.join(" "));
}

impl Drop for Node {
    fn drop(&mut self) {
        self.signal_engine(Signal::CONT);
        // Without the swarm, the engine does not start its containers again.
        self.try_docker(&["swarm", "leave", "--force"]);
        let containers = self.try_docker(&["ps", "--all", "--quiet"]).unwrap_or_default();
        for container in containers.lines() {
            self.try_docker(&["rm", "--force", "--volumes", container]);
        }
        let _ = kill_process(Pid::from_child(&self.engine), Signal::TERM);
        let _ = self.engine.wait();
        self.kill_containers();
        let log = std::fs::read_to_string(self.dir.join("log")).unwrap_or_default();
        teardown::show_log_of_a_failure(&format!("{}'s engine", self.name), &log);
        let _ = Command::new("ip").args(["netns", "delete", &self.namespace]).status();
    }
}

impl Drop for Swarm {
    fn drop(&mut self) {
        self.nodes.clear();
        let _ = Command::new("ip").args(["link", "delete", &self.cable]).status();
        let _ = Command::new("ip").args(["netns", "delete", &self.bridge]).status();
    }
}
