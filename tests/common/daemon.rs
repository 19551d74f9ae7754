//! The real program: as a daemon, and for single commands.

use std::fs::{File, OpenOptions};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::net::{Answer, socket_get};
use super::{eventually, eventually_some, free_ports, teardown};

/// How long a daemon may take to start and to stop.
const PATIENCE: Duration = Duration::from_secs(30);

/// The result of running `abide`.
#[derive(Debug)]
pub(crate) struct Ran {
    /// The exit code; -1 if a signal ended it.
    pub(crate) code: i32,
    /// Its standard output.
    pub(crate) stdout: String,
    /// Its standard error.
    pub(crate) stderr: String,
}

/// Runs `abide` on a desired-state folder and waits for its end.
pub(crate) fn abide(desired_state: &Path, arguments: &[&str]) -> Ran {
    abide_with(desired_state, arguments, &[])
}

/// The same, with additional environment variables `env`.
pub(crate) fn abide_with(desired_state: &Path, arguments: &[&str], env: &[(&str, &str)]) -> Ran {
    let mut command = program(desired_state);
    command.args(arguments).envs(env.iter().copied()).stdin(Stdio::null());
    let output = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ran { code: output.status.code().unwrap_or(-1), stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// `abide` without the user's settings.
fn program(desired_state: &Path) -> Command {
    with_settings(Command::new(env!("CARGO_BIN_EXE_abide")), desired_state)
}

/// The same in a network namespace.
fn program_in(namespace: &str, desired_state: &Path) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net=/run/netns/{namespace}")).args(["--", env!("CARGO_BIN_EXE_abide")]);
    with_settings(command, desired_state)
}

fn with_settings(mut command: Command, desired_state: &Path) -> Command {
    for variable in ["ABIDE_DESIRED_STATE", "ABIDE_SERVER", "ABIDE_TOKEN", "RUST_LOG"] {
        command.env_remove(variable);
    }
    command.env("NO_COLOR", "1").arg("--desired-state").arg(desired_state);
    command
}

/// A daemon that runs until it is stopped or dropped.
pub(crate) struct Daemon {
    child: Child,
    desired_state: PathBuf,
    port: u16,
    log: PathBuf,
}

impl Daemon {
    /// Starts a daemon and waits until its socket answers. `env` has additional environment
    /// variables.
    ///
    /// Consecutive daemons on the same folder append to the same log, so that the log of a test
    /// that kills its daemon is complete.
    pub(crate) fn start(desired_state: &Path, env: &[(&str, &str)]) -> Self {
        let mut daemon = Self::spawn(desired_state, env);
        daemon.await_socket();
        daemon
    }

    /// The same, at an address outside the loopback network.
    pub(crate) fn start_at(desired_state: &Path, listen: &str, env: &[(&str, &str)]) -> Self {
        let mut daemon = Self::spawn_at(desired_state, listen, env);
        daemon.await_socket();
        daemon
    }

    /// Starts a daemon that a failpoint kills, perhaps before its socket answers.
    pub(crate) fn start_doomed(desired_state: &Path, failpoint: &str, env: &[(&str, &str)]) -> Self {
        Self::spawn(desired_state, &[&[("ABIDE_FAILPOINT", failpoint)], env].concat()).or_doomed()
    }

    fn or_doomed(mut self) -> Self {
        let socket = self.desired_state.join("abide.sock");
        eventually("the daemon's socket answers, or it has ended", PATIENCE, || {
            UnixStream::connect(&socket).is_ok() || !teardown::is_running(&mut self.child)
        });
        self
    }

    /// Starts a daemon in a network namespace, and waits until its socket answers.
    pub(crate) fn start_in(namespace: &str, desired_state: &Path, env: &[(&str, &str)]) -> Self {
        let mut daemon = Self::spawn_in(namespace, desired_state, env);
        daemon.await_socket();
        daemon
    }

    /// Starts a daemon in a network namespace that a failpoint kills, perhaps before its socket answers.
    pub(crate) fn start_doomed_in(
        namespace: &str,
        desired_state: &Path,
        failpoint: &str,
        env: &[(&str, &str)],
    ) -> Self {
        let env = [&[("ABIDE_FAILPOINT", failpoint)], env].concat();
        Self::spawn_in(namespace, desired_state, &env).or_doomed()
    }

    fn spawn_in(namespace: &str, desired_state: &Path, env: &[(&str, &str)]) -> Self {
        let [port] = free_ports();
        let program = program_in(namespace, desired_state);
        Self::spawn_program(program, desired_state, &format!("127.0.0.1:{port}"), &[], env)
    }

    fn spawn(desired_state: &Path, env: &[(&str, &str)]) -> Self {
        let [port] = free_ports();
        Self::spawn_at(desired_state, &format!("127.0.0.1:{port}"), env)
    }

    /// Starts a daemon with additional arguments, and waits until its socket answers.
    pub(crate) fn start_with(desired_state: &Path, arguments: &[&str]) -> Self {
        let [port] = free_ports();
        let mut daemon = Self::spawn_with(desired_state, &format!("127.0.0.1:{port}"), arguments, &[]);
        daemon.await_socket();
        daemon
    }

    fn spawn_at(desired_state: &Path, listen: &str, env: &[(&str, &str)]) -> Self {
        Self::spawn_with(desired_state, listen, &[], env)
    }

    fn spawn_with(desired_state: &Path, listen: &str, arguments: &[&str], env: &[(&str, &str)]) -> Self {
        Self::spawn_program(program(desired_state), desired_state, listen, arguments, env)
    }

    fn spawn_program(
        mut command: Command,
        desired_state: &Path,
        listen: &str,
        arguments: &[&str],
        env: &[(&str, &str)],
    ) -> Self {
        let port = listen.rsplit_once(':').unwrap().1.parse().unwrap();
        let log = desired_state.with_extension("log");
        let file = OpenOptions::new().create(true).append(true).open(&log).unwrap();
        command.args(["daemon", "--listen", listen]).args(arguments).envs(env.iter().copied());
        let (out, err): (File, File) = (file.try_clone().unwrap(), file);
        let child = command.stdin(Stdio::null()).stdout(out).stderr(err).spawn().unwrap();
        Self { child, desired_state: desired_state.to_owned(), port, log }
    }

    fn await_socket(&mut self) {
        let socket = self.desired_state.join("abide.sock");
        eventually("the daemon's socket answers", PATIENCE, || {
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none(), "the daemon ended instead of starting: {ended:?}");
            UnixStream::connect(&socket).is_ok()
        });
    }

    /// The port of its webhooks and its API.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// The process ID.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Runs one command against the daemon.
    pub(crate) fn abide(&self, arguments: &[&str]) -> Ran {
        abide(&self.desired_state, arguments)
    }

    /// Sends `GET path` to its socket.
    pub(crate) fn get(&self, path: &str) -> Answer {
        socket_get(&self.desired_state.join("abide.sock"), path).unwrap()
    }

    /// A command on its folder that runs beside the test.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = program(&self.desired_state);
        command.args(arguments).stdin(Stdio::null());
        command
    }

    /// The complete log of its folder.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Sends SIGTERM and returns the exit status.
    pub(crate) fn terminate(mut self) -> ExitStatus {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        eventually_some("the daemon ends", PATIENCE, || self.child.try_wait().unwrap())
    }

    /// Waits until a failpoint has killed the daemon.
    ///
    /// # Panics
    /// The daemon keeps running, because it never reached the failpoint.
    pub(crate) fn await_doom(mut self, failpoint: &str) {
        let what = format!("the daemon reaches {failpoint}");
        let ended = eventually_some(&what, PATIENCE, || self.child.try_wait().unwrap());
        assert_eq!(ended.signal(), Some(Signal::KILL.as_raw()), "{failpoint}: {ended:?}");
    }

    /// Kills the daemon with SIGKILL.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        teardown::stop(&mut self.child);
        teardown::show_log_of_a_failure("the daemon", &self.log());
    }
}
