//! The program itself: as a daemon, and one verb at a time.

use std::fs::{File, OpenOptions};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::{eventually, eventually_some, free_ports};

/// How long a daemon may take to start, and to end once it is asked to.
const PATIENCE: Duration = Duration::from_secs(30);
/// How many lines of its log are shown where a test fails.
const TAIL: usize = 60;

/// How a run of `abide` ended.
#[derive(Debug)]
pub(crate) struct Ran {
    /// The exit code; -1 where a signal ended it.
    pub(crate) code: i32,
    /// What it wrote to standard output.
    pub(crate) stdout: String,
    /// What it wrote to standard error.
    pub(crate) stderr: String,
}

/// Runs `abide` on a desired-state folder, to its end.
pub(crate) fn abide(desired_state: &Path, arguments: &[&str]) -> Ran {
    abide_with(desired_state, arguments, &[])
}

/// The same, with `env` set in addition.
pub(crate) fn abide_with(desired_state: &Path, arguments: &[&str], env: &[(&str, &str)]) -> Ran {
    let mut command = program(desired_state);
    command.args(arguments).envs(env.iter().copied()).stdin(Stdio::null());
    let output = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ran { code: output.status.code().unwrap_or(-1), stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// `abide` with nothing of the user's settings.
fn program(desired_state: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_abide"));
    for variable in ["ABIDE_DESIRED_STATE", "ABIDE_SERVER", "ABIDE_TOKEN", "RUST_LOG"] {
        command.env_remove(variable);
    }
    command.env("NO_COLOR", "1").arg("--desired-state").arg(desired_state);
    command
}

/// A daemon that runs until it is told to end, or is dropped.
pub(crate) struct Daemon {
    child: Child,
    desired_state: PathBuf,
    port: u16,
    log: PathBuf,
}

impl Daemon {
    /// Starts one and waits until its socket answers. `env` is set in addition.
    ///
    /// Several in a row on the same folder write to the same log, so that the log of a test that
    /// kills its daemon is whole.
    pub(crate) fn start(desired_state: &Path, env: &[(&str, &str)]) -> Self {
        let mut daemon = Self::spawn(desired_state, env);
        daemon.await_socket();
        daemon
    }

    /// Starts one that is killed at a failpoint, which may be before its socket answers.
    pub(crate) fn start_doomed(desired_state: &Path, failpoint: &str, env: &[(&str, &str)]) -> Self {
        let mut daemon = Self::spawn(desired_state, &[&[("ABIDE_FAILPOINT", failpoint)], env].concat());
        let socket = daemon.desired_state.join("abide.sock");
        eventually("the daemon's socket answers, or it has ended", PATIENCE, || {
            UnixStream::connect(&socket).is_ok() || !daemon.is_running()
        });
        daemon
    }

    fn spawn(desired_state: &Path, env: &[(&str, &str)]) -> Self {
        let [port] = free_ports();
        let log = desired_state.with_extension("log");
        let file = OpenOptions::new().create(true).append(true).open(&log).unwrap();
        let mut command = program(desired_state);
        command.args(["daemon", "--listen", &format!("127.0.0.1:{port}")]).envs(env.iter().copied());
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

    /// Where its webhooks and its API are.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// The id of its process.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Runs one verb against it.
    pub(crate) fn abide(&self, arguments: &[&str]) -> Ran {
        abide(&self.desired_state, arguments)
    }

    /// All that was ever logged for its folder.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Asks it to end (SIGTERM), and says how it did.
    pub(crate) fn terminate(mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        eventually_some("the daemon ends", PATIENCE, || self.child.try_wait().unwrap())
    }

    /// Waits until a failpoint has killed it.
    ///
    /// # Panics
    /// Where it runs on: the failpoint was never reached.
    pub(crate) fn await_doom(mut self, failpoint: &str) {
        let what = format!("the daemon reaches {failpoint}");
        let ended = eventually_some(&what, PATIENCE, || self.child.try_wait().unwrap());
        assert_eq!(ended.signal(), Some(Signal::KILL.as_raw()), "{failpoint}: {ended:?}");
    }

    /// Ends it where it stands (SIGKILL).
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.is_running() {
            self.signal(Signal::TERM);
            // No assertion here: a panic within a panic would hide the first.
            let asked = Instant::now();
            while self.is_running() && asked.elapsed() < PATIENCE {
                std::thread::sleep(Duration::from_millis(20));
            }
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let tail = &lines[lines.len().saturating_sub(TAIL)..];
            eprintln!("--- the end of the daemon's log\n{}\n---", tail.join("\n"));
        }
    }
}
