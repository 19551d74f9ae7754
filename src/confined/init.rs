//! The second stage: process 1 of the program's namespace.

use std::io::{self, BufRead as _, BufReader, Read, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{self, Sender};
use std::thread;

use rustix::io::Errno;
use rustix::process::{
    DumpableBehavior, Pid, Resource, Rlimit, Signal, WaitOptions, getuid, set_dumpable_behavior,
    set_parent_process_death_signal, setrlimit, wait,
};

use super::{ScriptOrder, ScriptReport, privileges, view, watch};

/// Processes beyond the limit that a user may start before the watch sees them.
const SLACK: u64 = 64;

pub(super) fn run() -> ExitCode {
    let report = match prepare() {
        Ok((order, socket)) => match start(&order) {
            Ok(program) => {
                let (sender, receiver) = mpsc::channel();
                let watched = sender.clone();
                let order = Arc::new(order);
                let waiting = Arc::clone(&order);
                thread::spawn(move || wait_for(program, &waiting, &sender));
                let (gone, limits) = (watched.clone(), watched);
                thread::spawn(move || await_end(socket, &gone));
                thread::spawn(move || watch::watch(&order, &limits));
                // Without a report, the other side has closed.
                receiver.recv().unwrap_or(None)
            }
            Err(report) => Some(report),
        },
        Err(error) => Some(ScriptReport::NotConfined(format!("read the order: {error}"))),
    };
    if let Some(report) = &report {
        self::report(report);
    }
    // Everything that is left in the namespace ends with this process.
    ExitCode::SUCCESS
}

/// Sends the report. A closed socket is ignored.
pub(super) fn report(report: &ScriptReport) {
    let sent = connection().and_then(|mut socket| {
        let mut line = serde_json::to_vec(report)?;
        line.push(b'\n');
        socket.write_all(&line)
    });
    drop(sent);
}

fn connection() -> io::Result<UnixStream> {
    Ok(UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?))
}

fn prepare() -> io::Result<(ScriptOrder, BufReader<UnixStream>)> {
    let mut socket = BufReader::new(connection()?);
    let mut line = String::new();
    socket.read_line(&mut line)?;
    Ok((serde_json::from_str(&line)?, socket))
}

fn start(order: &ScriptOrder) -> Result<Pid, ScriptReport> {
    let refused = |step: &str, error: io::Error| ScriptReport::NotConfined(format!("{step}: {error}"));
    view::narrow(order).map_err(|(step, error)| refused(&step, error))?;
    privileges::give_up().map_err(|error| refused("give up capabilities", error))?;
    // After that, for a change of capabilities may undo both.
    let set = set_parent_process_death_signal(Some(Signal::KILL))
        .and_then(|()| set_dumpable_behavior(DumpableBehavior::NotDumpable));
    set.map_err(|error| refused("end with the parent", error.into()))?;
    limit_processes(order).map_err(|error| refused("limit processes", error))?;
    let mut command = Command::new(&order.program);
    command
        .args(&order.arguments)
        .env_clear()
        .envs(order.env.iter().map(|(name, value)| (name, value)))
        .current_dir(&order.directory);
    let child = command.stdin(Stdio::null()).spawn();
    let child = child.map_err(|error| ScriptReport::NotStarted(error.to_string()))?;
    privileges::raise_priority().map_err(|error| refused("hurry", error))?;
    i32::try_from(child.id())
        .ok()
        .and_then(Pid::from_raw)
        .ok_or_else(|| ScriptReport::NotStarted("it has no process ID".to_owned()))
}

/// The kernel counts for each user but root, so it holds before the watch looks.
fn limit_processes(order: &ScriptOrder) -> io::Result<()> {
    if getuid().is_root() {
        return Ok(());
    }
    let most = Some(u64::from(order.pids) + SLACK);
    match setrlimit(Resource::Nproc, Rlimit { current: most, maximum: most }) {
        // The existing limit is lower.
        Err(Errno::PERM | Errno::INVAL) => Ok(()),
        done => Ok(done?),
    }
}

/// Waits for all processes that end here, orphans included, until the program is among them.
fn wait_for(program: Pid, order: &ScriptOrder, sender: &Sender<Option<ScriptReport>>) {
    let report = loop {
        match wait(WaitOptions::empty()) {
            Ok(Some((ended, status))) if ended == program => {
                break match (status.exit_status(), status.terminating_signal()) {
                    (Some(code), _) => ScriptReport::Ended(code),
                    (None, Some(signal)) => ScriptReport::Signal(signal),
                    (None, None) => continue,
                };
            }
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => break ScriptReport::NotStarted(format!("cannot wait for it: {error}")),
        }
    };
    // A program that can start no more processes often ends by itself, before the watch looks again.
    let report = match (watch::exceeded(order), report) {
        (Some(limit), ScriptReport::Ended(1..) | ScriptReport::Signal(_)) => ScriptReport::Exceeded(limit),
        (_, report) => report,
    };
    let _ = sender.send(Some(report));
}

/// Waits until the other side of the socket is gone.
fn await_end(mut socket: impl Read, sender: &Sender<Option<ScriptReport>>) {
    let mut ignored = [0; 64];
    while socket.read(&mut ignored).is_ok_and(|length| length > 0) {}
    let _ = sender.send(None);
}
