//! The guide: its commands work exactly as written, on three machines that are in no swarm yet.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::{Daemon, Node, PATIENCE, Registry, Space, Swarm, abide, docker, eventually, made_image};

const GUIDE: &str = include_str!("../../docs/swarm.md");

/// A block of code of the guide.
struct Block {
    language: &'static str,
    text: &'static str,
}

/// The blocks of one section of the guide, in order.
fn blocks(heading: &str) -> Vec<Block> {
    let (_, section) = GUIDE.split_once(&format!("\n## {heading}\n")).unwrap();
    let section = section.split("\n## ").next().unwrap();
    let code = section.split("\n```").skip(1).step_by(2);
    code.map(|block| block.split_once('\n').unwrap())
        .map(|(language, text)| Block { language, text })
        .collect()
}

/// The machines of the guide, and what stands for the names in it.
struct Machines {
    daemon: Option<Daemon>,
    swarm: Swarm,
    registry: Registry,
    /// The folder with the manifest.
    desired_state: PathBuf,
    /// A folder with `abide`, as the guide calls it.
    programs: PathBuf,
    token: String,
    space: Space,
}

impl Machines {
    fn new() -> Option<Self> {
        let space = Space::new()?;
        let registry = Registry::start_for_all(&space)?;
        let swarm = Swarm::apart(&space, 3);
        let [desired_state, programs] = ["desired-state", "programs"].map(|name| space.dir().join(name));
        std::fs::create_dir(&desired_state).unwrap();
        std::fs::create_dir(&programs).unwrap();
        let installed = programs.join("abide");
        let script = format!(
            "#!/bin/sh\nexec {} --desired-state {} \"$@\"\n",
            env!("CARGO_BIN_EXE_abide"),
            desired_state.display()
        );
        std::fs::write(&installed, script).unwrap();
        std::fs::set_permissions(&installed, std::fs::Permissions::from_mode(0o755)).unwrap();
        Some(Self { daemon: None, swarm, registry, desired_state, programs, token: String::new(), space })
    }

    /// The registry, as the nodes see it.
    fn registry(&self) -> String {
        format!("{}:{}", self.swarm.gateway(), self.registry.port())
    }

    /// A text of the guide with the names of these machines.
    fn named(&self, text: &str) -> String {
        let nodes = self.swarm.nodes().iter().zip(["10.0.0.11", "10.0.0.12", "10.0.0.13"]);
        let text = nodes.fold(text.to_owned(), |text, (node, address)| text.replace(address, node.address()));
        let text = text.replace("registry.example.com", &self.registry());
        text.replace("TOKEN", &self.token).replace("NODE", &self.swarm.nodes()[1].name)
    }

    /// Runs one line on a machine, and returns its output.
    fn run(&self, node: &Node, line: &str) -> String {
        let path = format!("{}:{}", self.programs.display(), std::env::var("PATH").unwrap());
        let mut command = Command::new("sh");
        command.args(["-c", &self.named(line)]).env("PATH", path).env("DOCKER_HOST", node.engine());
        let output = command.output().unwrap();
        let [out, err] =
            [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
        assert!(output.status.success(), "{line}: {out}{err}");
        out
    }

    /// Runs the lines of a block on a machine, and returns the output of each.
    fn run_all(&self, node: &Node, block: &Block) -> Vec<String> {
        assert_eq!(block.language, "sh");
        block.text.lines().map(|line| self.run(node, line)).collect()
    }

    /// Writes the manifest of the guide. Its registry has no TLS here.
    fn declare(&self, block: &Block) {
        assert_eq!(block.language, "toml");
        let plain = format!("[registry_access.\"{}\"]\nplain_http = true\n", self.registry());
        write(&self.desired_state, &format!("{}\n{plain}", self.named(block.text)));
    }

    fn push(&self, words: &str) {
        let id = made_image(&self.space, words, "");
        let tag = format!("{}/shop/api:stable", self.registry.host());
        docker(&["tag", &id, &tag]);
        docker(&["push", "--quiet", &tag]);
        docker(&["image", "rm", &tag]);
    }
}

fn write(folder: &Path, manifest: &str) {
    std::fs::write(folder.join("guide.toml"), manifest).unwrap();
}

#[test]
#[ignore = "takes minutes: .ci/slow"]
fn three_bare_machines_become_six_replicas_by_the_commands_of_the_guide() {
    let guide = blocks("From three machines to six replicas");
    let [init, second, third, manifest, first_steps, drain] = &guide[..] else {
        panic!("{} blocks", guide.len())
    };
    let Some(mut machines) = Machines::new() else { return };
    machines.push("from the guide");
    let output = machines.run_all(machines.swarm.manager(), init);
    machines.token = output.last().unwrap().trim().to_owned();
    for (block, node) in [second, third].into_iter().zip(&machines.swarm.nodes()[1..]) {
        machines.run_all(node, block);
    }
    machines.swarm.await_nodes();

    machines.declare(manifest);
    let manager = machines.swarm.manager();
    let env = [("DOCKER_HOST", manager.engine())];
    let env = [(env[0].0, env[0].1.as_str())];
    machines.daemon = Some(Daemon::start_in(manager.namespace(), &machines.desired_state, &env));
    let manager = machines.swarm.manager();
    let [_, _, status, tasks] = &machines.run_all(manager, first_steps)[..] else { panic!("four lines") };
    for node in machines.swarm.nodes() {
        let line = format!("{}: ready, 2 replicas", node.name);
        assert!(status.contains(&line), "{line}: {status}");
    }
    assert_eq!(tasks.matches("Running").count(), 12, "desired and current state of six: {tasks}");

    let [away, look, back, spread, wait] = drain.text.lines().collect::<Vec<_>>()[..] else {
        panic!("five lines")
    };
    machines.run(manager, away);
    eventually("the replicas have moved", PATIENCE * 2, || {
        let status = machines.run(manager, look);
        status.contains("n2: drained, no replica") && status.contains("Ready (AsRecorded)")
    });
    for line in [back, spread, wait] {
        machines.run(manager, line);
    }
    eventually("a replica is back", PATIENCE * 2, || {
        let status = machines.run(manager, look);
        status.contains("Ready (AsRecorded)")
            && status.contains("n2: ready, ")
            && !status.contains("n2: ready, no")
    });
}

#[test]
fn the_manifests_of_the_guide_are_valid() {
    for (heading, at) in [("From three machines to six replicas", 3), ("Behind the proxy", 0)] {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), blocks(heading)[at].text);
        let ran = abide(folder.path(), &["check"]);
        assert!(ran.code == 0 && ran.stdout.contains("1 environment (api)"), "{heading}: {ran:?}");
    }
}
