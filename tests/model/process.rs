//! The daemon in the namespace of the private host, its verbs and its socket.

use std::fs::OpenOptions;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::common::{FakeClock, Host, Ran, SECRET};

/// The longest time for one answer.
const ANSWER: Duration = Duration::from_secs(5);
/// The longest time for one verb, in seconds: the longest wait of a verb's own is a minute.
const VERB: &str = "90";
/// The value of the variable that an environment may get as a secret.
const SECRET_VALUE: &str = "the-second-value-of-a-secret";
/// A daemon that is killed when it is dropped.
pub(crate) struct Process {
    child: Child,
    /// Whether it was started to be killed at a failpoint.
    pub(crate) is_doomed: bool,
}

/// How a daemon is started.
pub(crate) struct Start<'a> {
    pub(crate) desired_state: &'a Path,
    pub(crate) engine: String,
    /// The address and port of its webhooks and its API.
    pub(crate) listen: String,
    pub(crate) clock: &'a FakeClock,
    pub(crate) failpoint: Option<String>,
}

/// How an agent is started.
pub(crate) struct AgentStart<'a> {
    pub(crate) folder: &'a Path,
    pub(crate) engine: String,
    /// The address and port of the controller.
    pub(crate) controller: String,
    pub(crate) token: &'a str,
    pub(crate) failpoint: Option<String>,
}

impl Process {
    /// Starts an agent on its host.
    pub(crate) fn start_agent(host: &Host, start: &AgentStart<'_>) -> Self {
        let log = start.folder.with_extension("log");
        let file = OpenOptions::new().create(true).append(true).open(&log).unwrap();
        let mut command = host.command("env");
        command.args(["--unset=RUST_LOG", "--unset=ABIDE_SERVER", "NO_COLOR=1", "ABIDE_RESYNC=3s"]);
        command.arg(format!("MODEL_SECRET={SECRET_VALUE}")).arg(format!("ABIDE_TOKEN={}", start.token));
        command.arg(format!("DOCKER_HOST={}", start.engine));
        command.args(start.failpoint.iter().map(|point| format!("ABIDE_FAILPOINT={point}")));
        command.arg(env!("CARGO_BIN_EXE_abide")).args(["-v", "--desired-state"]).arg(start.folder);
        command.args(["agent", "--alone-after", "3s", "--server", &format!("https://{}", start.controller)]);
        command.stdin(Stdio::null()).stdout(file.try_clone().unwrap()).stderr(file);
        Self { child: command.spawn().unwrap(), is_doomed: start.failpoint.is_some() }
    }

    /// Starts a daemon and waits until its socket answers or, with a failpoint, until it is dead.
    pub(crate) fn start(host: &Host, start: &Start<'_>) -> Result<Self, String> {
        let log = start.desired_state.with_extension("log");
        let file = OpenOptions::new().create(true).append(true).open(&log).unwrap();
        let mut command = host.command("env");
        command.args(["--unset=RUST_LOG", "--unset=ABIDE_SERVER", "--unset=ABIDE_TOKEN"]);
        command.args(start.clock.variables().map(|(name, value)| format!("{name}={value}")));
        command.arg("NO_COLOR=1");
        command.arg("ABIDE_RESYNC=3s").arg(format!("MODEL_SECRET={SECRET_VALUE}"));
        command.arg(format!("ABIDE_TEST_WEBHOOK_SECRET={SECRET}"));
        command.arg(format!("DOCKER_HOST={}", start.engine));
        command.args(start.failpoint.iter().map(|point| format!("ABIDE_FAILPOINT={point}")));
        command.arg(env!("CARGO_BIN_EXE_abide")).args(["-v", "--desired-state"]).arg(start.desired_state);
        command.args(["daemon", "--listen", &start.listen]);
        command.stdin(Stdio::null()).stdout(file.try_clone().unwrap()).stderr(file);
        let is_doomed = start.failpoint.is_some();
        let mut process = Self { child: command.spawn().unwrap(), is_doomed };
        let (began, socket) = (Instant::now(), start.desired_state.join("abide.sock"));
        while UnixStream::connect(&socket).is_err() {
            match process.child.try_wait().unwrap() {
                Some(_) if is_doomed => return Ok(process),
                Some(ended) => return Err(format!("the daemon ended at its start: {ended}")),
                None if began.elapsed() > Duration::from_secs(30) => {
                    return Err("the daemon's socket does not answer within 30 s".to_owned());
                }
                None => std::thread::sleep(Duration::from_millis(20)),
            }
        }
        Ok(process)
    }

    pub(crate) fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Ends it with SIGKILL.
    pub(crate) fn kill(mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Asks it to end, and waits for it.
    pub(crate) fn terminate(mut self) -> Result<(), String> {
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        let began = Instant::now();
        while self.is_running() {
            if began.elapsed() > Duration::from_secs(30) {
                return Err("the daemon does not end within 30 s of SIGTERM".to_owned());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs one verb of the command line to its end.
pub(crate) fn verb(desired_state: &Path, arguments: &[&str]) -> Ran {
    let mut command = Command::new("timeout");
    command.args(["--kill-after=5", VERB, env!("CARGO_BIN_EXE_abide"), "--desired-state"]).arg(desired_state);
    command.args(["--output", "json"]).args(arguments).stdin(Stdio::null());
    for variable in ["ABIDE_DESIRED_STATE", "ABIDE_SERVER", "ABIDE_TOKEN", "RUST_LOG"] {
        command.env_remove(variable);
    }
    let output = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ran { code: output.status.code().unwrap_or(-1), stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// The answer to `GET path` at the daemon's socket, `None` without one.
pub(crate) fn ask(desired_state: &Path, path: &str) -> Option<Value> {
    let mut stream = UnixStream::connect(desired_state.join("abide.sock")).ok()?;
    stream.set_read_timeout(Some(ANSWER)).ok()?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: abide\r\n\r\n").as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    (head.split(' ').nth(1)? == "200").then(|| serde_json::from_str(body).ok())?
}

/// The body of a page with status 200.
pub(crate) fn page(address: &str, port: u16) -> Option<String> {
    page_of(address, port, "model", Duration::from_secs(1)).ok()
}

/// The body of the page of a host name, or else what came instead of a status 200.
pub(crate) fn page_of(address: &str, port: u16, name: &str, within: Duration) -> Result<String, String> {
    let address: SocketAddr = format!("{address}:{port}").parse().unwrap();
    let ask = || {
        let mut stream = TcpStream::connect_timeout(&address, within)?;
        stream.set_read_timeout(Some(within))?;
        stream.write_all(format!("GET / HTTP/1.0\r\nHost: {name}\r\n\r\n").as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).map(|_| answer)
    };
    let answer = ask().map_err(|error| error.to_string())?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or("an incomplete answer")?;
    match head.split(' ').nth(1) {
        Some("200") => Ok(body.trim().to_owned()),
        _ => Err(head.lines().next().unwrap_or_default().to_owned()),
    }
}
