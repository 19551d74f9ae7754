//! A controller on this host, and an agent on another host that runs its prod.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::daemon::{Daemon, Ran};
use super::docker::{Space, docker};
use super::host::Host;
use super::image::{SITE_PORT, made_image};
use super::ports::free_ports;
use super::registry::Registry;
use super::{PATIENCE, eventually, eventually_some, teardown};

/// The port of prod on the other host.
pub(crate) const PORT: u16 = 8088;
/// The port of the registry for the other host's engine.
pub(crate) const TUNNEL: u16 = 5080;

/// All parts of the two hosts. The processes stop before their hosts are removed.
pub(crate) struct Pair {
    pub(crate) agent: Option<Agent>,
    pub(crate) controller: Option<Daemon>,
    pub(crate) registry: Registry,
    pub(crate) host: Host,
    pub(crate) desired_state: PathBuf,
    /// The agent's folder.
    pub(crate) folder: PathBuf,
    pub(crate) token: String,
    listen: String,
    pub(crate) space: Space,
}

impl Pair {
    /// A controller that declares prod on the host of the agent `online`, and that agent,
    /// connected. Nothing is recorded yet. `None`, with a printed reason, if a requirement is
    /// missing.
    pub(crate) fn new() -> Option<Self> {
        let mut pair = Self::apart()?;
        pair.start_agent();
        pair.until("the agent is connected", |view| view["reason"] != "AgentAway");
        Some(pair)
    }

    /// The same with an agent that is not started yet.
    pub(crate) fn apart() -> Option<Self> {
        let space = Space::new()?;
        let registry = Registry::start(&space)?;
        let host = Host::new(&space);
        let [port] = free_ports();
        let listen = format!("{}:{port}", host.gateway());
        let (desired_state, folder) = (space.dir().join("desired-state"), space.dir().join("agent"));
        std::fs::create_dir(&desired_state).unwrap();
        std::fs::create_dir(&folder).unwrap();
        let token = String::new();
        let mut pair = Self {
            agent: None,
            controller: None,
            registry,
            host,
            desired_state,
            folder,
            token,
            listen,
            space,
        };
        pair.declare("");
        pair.start_controller();
        pair.token = pair.new_token("online");
        Some(pair)
    }

    /// Declares prod with these additional lines.
    pub(crate) fn declare(&self, more: &str) {
        let (network, name) = (self.space.name("abide"), self.name());
        let manifest = format!(
            "[docker]\nnetwork = \"{network}\"\n[environment.prod]\ncontainer = \"{name}\"\nport = {SITE_PORT}\npublish = {PORT}\n\
             host = \"online\"\n\
             health = {{ http = \"/\", interval = \"100ms\", timeout = \"1s\", start_deadline = \"5s\", healthy_for = \"300ms\" }}\n\
             {more}\n"
        );
        // Replaced atomically, as an editor does, so that a daemon never reads half a manifest.
        let fresh = self.desired_state.join("prod.new");
        std::fs::write(&fresh, manifest).unwrap();
        std::fs::rename(fresh, self.desired_state.join("prod.toml")).unwrap();
    }

    /// The name of prod's container.
    pub(crate) fn name(&self) -> String {
        self.space.name("prod-server")
    }

    // --- processes ------------------------------------------------------------------------------

    pub(crate) fn start_controller(&mut self) {
        self.controller = Some(self.new_controller());
    }

    /// A controller that runs in place of the previous one.
    pub(crate) fn new_controller(&self) -> Daemon {
        Daemon::start_at(&self.desired_state, &self.listen, &[])
    }

    /// Kills the controller.
    pub(crate) fn kill_controller(&mut self) {
        self.controller.take().unwrap().kill();
    }

    pub(crate) fn start_agent(&mut self) {
        self.agent = Some(self.another_agent(&self.folder, &self.token, TUNNEL));
    }

    /// Kills the agent.
    pub(crate) fn kill_agent(&mut self) {
        self.agent.take().unwrap().kill();
    }

    /// Starts another agent on the other host, with its own folder and token.
    pub(crate) fn another_agent(&self, folder: &std::path::Path, token: &str, tunnel: u16) -> Agent {
        let command = self.host.command(env!("CARGO_BIN_EXE_abide"));
        let place =
            AgentPlace { controller: &self.listen, token, engine: &self.host.engine(), folder, tunnel };
        Agent::start(command, &place)
    }

    // --- actions --------------------------------------------------------------------------------

    /// Creates a token for an agent of this name.
    pub(crate) fn new_token(&self, agent: &str) -> String {
        let (status, made) = self.ask("POST", "/api/v1/tokens", &json!({"role": "agent", "agent": agent}));
        assert!(status < 300, "{status} {made}");
        made["token"].as_str().unwrap_or_else(|| panic!("{made}")).to_owned()
    }

    /// Pushes an image that serves a page of these words to the registry; returns its name by
    /// digest.
    pub(crate) fn push_image(&self, words: &str) -> String {
        self.push_image_with(words, "")
    }

    /// The same with additional lines in its Dockerfile, such as an `ENV` that makes it misbehave.
    pub(crate) fn push_image_with(&self, words: &str, lines: &str) -> String {
        self.push(&made_image(&self.space, words, lines))
    }

    /// Pushes an image of this engine; returns its name by digest.
    pub(crate) fn push(&self, id: &str) -> String {
        let path = format!("{}prod", self.space.prefix());
        let repository = format!("{}/{path}", self.registry.host());
        let tag = format!("{repository}:latest");
        docker(&["tag", id, &tag]);
        docker(&["push", "--quiet", &tag]);
        format!("{repository}@{}", self.registry.digest(&path, "latest").unwrap())
    }

    /// Runs a command that must succeed.
    pub(crate) fn abide(&self, arguments: &[&str]) -> Ran {
        let ran = self.controller.as_ref().unwrap().abide(arguments);
        assert_eq!(ran.code, 0, "abide {}: {ran:?}", arguments.join(" "));
        ran
    }

    // --- observations ---------------------------------------------------------------------------

    /// The status of prod according to the controller.
    pub(crate) fn view(&self) -> Value {
        self.ask("GET", "/api/v1/environments/prod", &Value::Null).1
    }

    /// Returns the first status of prod that `is_it` accepts.
    ///
    /// # Panics
    /// No status is accepted; the message has the last one.
    pub(crate) fn until(&self, what: &str, is_it: impl Fn(&Value) -> bool) -> Value {
        let began = Instant::now();
        loop {
            let view = self.view();
            if is_it(&view) {
                return view;
            }
            assert!(began.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}; the last status: {view:#}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits until prod is Ready at its recorded generation, according to the connected agent.
    pub(crate) fn ready(&self) -> Value {
        self.until("prod is ready", |view| {
            view["status"] == "Ready"
                && view["reason"] == "AsRecorded"
                && view["observed_generation"] == view["generation"]
        })
    }

    /// Waits until prod serves these words on its host.
    pub(crate) fn serves(&self, words: &str) {
        eventually(&format!("prod serves {words:?}"), PATIENCE, || {
            self.host.page(PORT).as_deref() == Some(words)
        });
    }

    /// Sends one request to the controller's socket. A page is returned as a text.
    pub(crate) fn ask(&self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let mut stream = UnixStream::connect(self.desired_state.join("abide.sock")).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let body = if body.is_null() { String::new() } else { body.to_string() };
        // With HTTP/1.0, the end of the connection ends the body.
        let head = format!(
            "{method} {path} HTTP/1.0\r\nHost: abide\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(&[head.as_bytes(), body.as_bytes()].concat()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let page = || if body.is_empty() { Value::Null } else { Value::from(body) };
        (status, serde_json::from_str(body).unwrap_or_else(|_| page()))
    }
}

/// Where an agent runs, and whom it talks to.
pub(crate) struct AgentPlace<'a> {
    /// The address of the controller.
    pub(crate) controller: &'a str,
    pub(crate) token: &'a str,
    /// The value of `DOCKER_HOST`.
    pub(crate) engine: &'a str,
    pub(crate) folder: &'a std::path::Path,
    /// The port of the registry for the engine.
    pub(crate) tunnel: u16,
}

/// A process of `abide agent` on another host.
pub(crate) struct Agent {
    child: Child,
    log: PathBuf,
    /// The length of the log when this process started: agents of one folder share a log.
    began: usize,
}

impl Agent {
    /// Starts an agent by `command`, which runs `abide` on its host.
    pub(crate) fn start(mut command: Command, place: &AgentPlace<'_>) -> Self {
        for variable in ["ABIDE_DESIRED_STATE", "ABIDE_SERVER", "RUST_LOG"] {
            command.env_remove(variable);
        }
        let AgentPlace { controller, token, engine, folder, tunnel } = place;
        let log = folder.with_extension("log");
        let file = OpenOptions::new().create(true).append(true).open(&log).unwrap();
        let (out, err): (File, File) = (file.try_clone().unwrap(), file);
        command.env("ABIDE_TOKEN", token).env("ABIDE_RESYNC", "1s").env("DOCKER_HOST", engine);
        command
            .args(["-v", "agent", "--alone-after", "3s", "--server", &format!("https://{controller}")])
            .args(["--desired-state"])
            .arg(folder);
        command.args(["--registry-port", &tunnel.to_string()]);
        let began = err.metadata().unwrap().len();
        let child = command.stdin(Stdio::null()).stdout(out).stderr(err).spawn().unwrap();
        Self { child, log, began: began.try_into().unwrap() }
    }

    /// Its complete log.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits until it has logged `words`.
    pub(crate) fn await_log(&self, words: &str) {
        eventually_some(&format!("the agent says {words:?}"), PATIENCE, || {
            self.log().contains(words).then_some(())
        });
    }

    /// Waits until this process has a session with the controller.
    pub(crate) fn is_connected(&self) {
        eventually("the agent is connected", PATIENCE, || {
            self.log()[self.began..].contains(r#""message":"connected""#)
        });
    }

    /// The process ID: `nsenter` execs the agent.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Kills the agent.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        teardown::stop(&mut self.child);
        teardown::show_log_of_a_failure("the agent", &self.log());
    }
}
