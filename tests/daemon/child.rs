//! A daemon as a service manager starts it: with a chosen environment, in its own folder.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use abide::demo::repository;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::common::{Answer, Ran, SECRET, eventually, eventually_some, free_ports, signed_push, site};

/// The timeout for any condition on a busy host.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// The variable that holds the webhook's secret.
pub(crate) const SECRET_VARIABLE: &str = "ABIDE_TEST_WEBHOOK_SECRET";

/// A folder with a manifest of one environment and a repository, without an engine.
pub(crate) struct Place {
    dir: TempDir,
    /// The repository that `dev` tracks.
    bare: PathBuf,
    /// The daemon's port.
    pub(crate) port: u16,
}

impl Place {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let made = repository::create(&dir.path().join("git"), site()).unwrap();
        let [port] = free_ports();
        let place = Self { dir, bare: made.bare, port };
        std::fs::create_dir(place.desired_state()).unwrap();
        std::fs::write(place.desired_state().join("shop.toml"), place.manifest(&place.bare)).unwrap();
        std::fs::write(place.path("token"), "a token of the container\n").unwrap();
        place
    }

    fn manifest(&self, repository: &Path) -> String {
        format!(
            r#"
[repository.shop]
url = "{}"
poll = "0s"
webhook = {{ provider = "github", secret_env = "{SECRET_VARIABLE}" }}

[environment.dev]
container = "abide-t-never-made"
port = 8900
source = {{ repository = "shop", branch = "dev" }}
env = {{ TOKEN = {{ secret_file = "{}" }} }}
[environment.dev.build]
"#,
            repository.display(),
            self.path("token").display()
        )
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn desired_state(&self) -> PathBuf {
        self.path("state")
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.desired_state().join("abide.sock")
    }

    /// Removes a branch of the repository, so that nothing of it can be built.
    pub(crate) fn lose_branch(&self, branch: &str) {
        let mut git = Command::new("git");
        git.arg("--git-dir").arg(&self.bare).args(["update-ref", "-d", &format!("refs/heads/{branch}")]);
        assert!(git.status().unwrap().success());
    }

    /// Announces a push of an unknown commit whose ID repeats `digit`.
    pub(crate) fn push(&self, secret: &str, branch: &str, digit: &str) -> Answer {
        signed_push(self.port, "shop", secret, branch, &digit.repeat(40)).unwrap()
    }

    /// `abide` with the settings that a daemon here needs, and without the user's settings.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_abide"));
        for variable in [
            "ABIDE_SERVER",
            "ABIDE_TOKEN",
            "ABIDE_TOKEN_FILE",
            "ABIDE_CA",
            "RUST_LOG",
            "NOTIFY_SOCKET",
            "WATCHDOG_USEC",
        ] {
            command.env_remove(variable);
        }
        command.env("NO_COLOR", "1").env("ABIDE_DESIRED_STATE", self.desired_state());
        command.env(SECRET_VARIABLE, SECRET);
        command.env("DOCKER_HOST", format!("unix://{}", self.path("docker.sock").display()));
        command.args(arguments).stdin(Stdio::null());
        command
    }

    /// The arguments that start a daemon here.
    pub(crate) fn listen(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Runs one command and waits for its end.
    pub(crate) fn abide(&self, arguments: &[&str]) -> Ran {
        ran(&mut self.command(arguments))
    }

    /// Starts a daemon without waiting for it. Truncates its log.
    pub(crate) fn spawn(&self, env: &[(&str, &str)]) -> Running {
        self.spawn_with(&["--listen", &self.listen()], env)
    }

    /// The same with chosen options.
    fn spawn_with(&self, options: &[&str], env: &[(&str, &str)]) -> Running {
        let log = self.path("daemon.log");
        let mut command = self.command(&["daemon"]);
        command.args(options);
        command.envs(env.iter().copied()).stdout(Stdio::null()).stderr(File::create(&log).unwrap());
        Running { child: command.spawn().unwrap(), log }
    }

    /// Starts a daemon and waits until it serves.
    pub(crate) fn serve(&self, env: &[(&str, &str)]) -> Running {
        self.spawn(env).serving()
    }

    /// The same with chosen options.
    pub(crate) fn serve_with(&self, options: &[&str]) -> Running {
        self.spawn_with(options, &[]).serving()
    }

    /// Runs one command with `token`, as on another host, and waits for its end.
    pub(crate) fn abide_at(&self, server: &str, token: &str, arguments: &[&str]) -> Ran {
        let mut command = self.command(arguments);
        command.env("ABIDE_SERVER", server).env("ABIDE_TOKEN", token);
        ran(&mut command)
    }

    /// `GET path` on the Unix socket.
    pub(crate) fn get(&self, path: &str) -> Answer {
        get(&self.socket(), path)
    }
}

fn ran(command: &mut Command) -> Ran {
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let code = output.status.code().unwrap_or(-1);
    Ran { code, stdout: text(&output.stdout), stderr: text(&output.stderr) }
}

/// `GET path` on a Unix socket.
pub(crate) fn get(socket: &Path, path: &str) -> Answer {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    // With HTTP/1.0, the end of the connection ends the body, which is never chunked.
    write!(stream, "GET {path} HTTP/1.0\r\nHost: x\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

/// A daemon that stops when it is dropped.
pub(crate) struct Running {
    child: Child,
    log: PathBuf,
}

impl Running {
    fn serving(mut self) -> Self {
        eventually("the daemon serves", PATIENCE, || {
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none(), "the daemon ended: {ended:?}\n{}", self.log());
            self.log().contains("\"message\":\"abide started\"")
        });
        self
    }

    /// The log so far.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    /// Its peak memory in KiB.
    pub(crate) fn peak_memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        peak.trim().trim_end_matches(" kB").parse().unwrap()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Waits until it has ended.
    pub(crate) fn end(&mut self) -> ExitStatus {
        eventually_some("the daemon ends", PATIENCE, || self.child.try_wait().unwrap())
    }

    /// Waits until it has logged `words`.
    pub(crate) fn logs(&self, words: &str) {
        eventually(&format!("`{words}` is logged"), PATIENCE, || self.log().contains(words));
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the daemon's log\n{}---", self.log());
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
