//! The process of a script with all its children, which end together.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::process::{Child, ChildStderr, ChildStdout, Command};

use super::log::BuildLog;
use crate::confined::{self, ScriptOrder, ScriptReport};

/// The most bytes that are read from a stream at once.
const PIECE: usize = 8192;
/// How long a stream may stay open after the script has ended.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// The limit for a report, in bytes.
const LONGEST_REPORT: u64 = 64 << 10;

/// Runs a program that sees nothing of this process. Returns `None` if it was killed from outside.
///
/// # Errors
/// Returns an error if this process cannot start another one.
pub(super) async fn confined(order: &ScriptOrder, log: &mut BuildLog) -> io::Result<Option<ScriptReport>> {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    let mut socket = UnixStream::from_std(ours)?;
    let mut command = Command::new(confined::PROGRAM);
    command.args(confined::ARGUMENTS).env_clear().stdin(Stdio::from(OwnedFd::from(theirs)));
    let mut group = ProcessGroup::of(started(command)?);
    let mut line = serde_json::to_vec(order)?;
    line.push(b'\n');
    // If the program cannot receive the line, there is either a report with the reason or none.
    let (_sent, ended) = tokio::join!(socket.write_all(&line), group.follow(log));
    ended?;
    let mut report = Vec::new();
    let mut socket = socket.take(LONGEST_REPORT);
    let is_read = tokio::time::timeout(LAST_WORDS, socket.read_to_end(&mut report)).await.is_ok();
    Ok(serde_json::from_slice(&report).ok().filter(|_| is_read))
}

/// Runs a program without limits, which sees everything that this process sees.
///
/// # Errors
/// Returns an error if waiting for the program fails.
pub(super) async fn unconfined(
    words: &[String],
    env: &BTreeMap<OsString, OsString>,
    directory: &Path,
    log: &mut BuildLog,
) -> io::Result<ScriptReport> {
    let [program, arguments @ ..] = words else {
        return Ok(ScriptReport::NotStarted("it is empty".to_owned()));
    };
    let mut command = Command::new(program);
    command.args(arguments).current_dir(directory).env_clear().envs(env).stdin(Stdio::null());
    let mut group = match started(command) {
        Ok(child) => ProcessGroup::of(child),
        Err(error) => return Ok(ScriptReport::NotStarted(error.to_string())),
    };
    let status = group.follow(log).await?;
    let signal = std::os::unix::process::ExitStatusExt::signal(&status);
    Ok(match status.code() {
        Some(code) => ScriptReport::Ended(code),
        None => ScriptReport::Signal(signal.unwrap_or_default()),
    })
}

fn started(mut command: Command) -> io::Result<Child> {
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0).kill_on_drop(true);
    command.spawn()
}

/// A process and its children, except those that moved to another process group. They end together, also when
/// the build is cancelled.
struct ProcessGroup {
    child: Child,
    id: Option<Pid>,
}

impl ProcessGroup {
    fn of(child: Child) -> Self {
        let id = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        Self { child, id }
    }

    /// Copies both streams into the log until the process ends. Then its remaining children are killed,
    /// because otherwise a build would work on a tree that is being removed.
    async fn follow(&mut self, log: &mut BuildLog) -> io::Result<std::process::ExitStatus> {
        let mut streams = Streams { out: self.child.stdout.take(), err: self.child.stderr.take() };
        let ended = tokio::select! {
            ended = self.child.wait() => ended,
            () = streams.copy(log) => self.child.wait().await,
        };
        self.end();
        // A process that left the group may hold a stream open indefinitely.
        let _ = tokio::time::timeout(LAST_WORDS, streams.copy(log)).await;
        ended
    }

    /// Kills the group. Must be called directly after waiting for the process, because its id may be reused
    /// later.
    fn end(&mut self) {
        if let Some(id) = self.id.take() {
            // The group may already be empty.
            let _ = kill_process_group(id, Signal::KILL);
        }
    }
}

impl Drop for ProcessGroup {
    fn drop(&mut self) {
        self.end();
    }
}

/// The output streams of a process.
struct Streams {
    out: Option<ChildStdout>,
    err: Option<ChildStderr>,
}

impl Streams {
    /// Copies both streams into the log until both end.
    async fn copy(&mut self, log: &mut BuildLog) {
        let (mut from_out, mut from_err) = (vec![0; PIECE], vec![0; PIECE]);
        while self.out.is_some() || self.err.is_some() {
            tokio::select! {
                read = read_some(&mut self.out, &mut from_out), if self.out.is_some() => match read {
                    Some(length) => log.bytes(&from_out[..length]),
                    None => self.out = None,
                },
                read = read_some(&mut self.err, &mut from_err), if self.err.is_some() => match read {
                    Some(length) => log.bytes(&from_err[..length]),
                    None => self.err = None,
                },
            }
        }
    }
}

async fn read_some(stream: &mut Option<impl AsyncRead + Unpin>, buffer: &mut [u8]) -> Option<usize> {
    match stream.as_mut()?.read(buffer).await {
        Ok(0) | Err(_) => None,
        Ok(length) => Some(length),
    }
}
