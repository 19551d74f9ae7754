//! A program that sees nothing of the process that starts it, and that ends with all that it started.
//!
//! abide executes itself for it, twice. The first stage enters namespaces of users (unless it may make
//! mounts as it is), mounts and processes. The second stage is process 1 in there: it hides what the
//! program must not see, gives up its capabilities, starts the program, watches its limits and
//! reports. When process 1 ends, the kernel ends every process of the namespace, whatever session or
//! group it moved to. The two sides are connected by a socket, which is standard input of both stages.
//! The starter sends an [`ScriptOrder`] over it and gets a [`ScriptReport`]; if the socket closes, process 1 ends.

mod enter;
mod init;
mod privileges;
mod view;
mod watch;

use std::ffi::OsString;
use std::process::ExitCode;

use serde::{Deserialize, Serialize};

/// The first argument of both stages.
const MARK: &str = "confined-program";
/// The second argument of the stage that enters the namespaces.
const ENTER: &str = "enter";
/// The second argument of the stage that is process 1 in them.
const INIT: &str = "init";

/// The program of both stages: the running one, also after an upgrade has replaced its file.
pub const PROGRAM: &str = "/proc/self/exe";
/// The arguments of the first stage.
pub const ARGUMENTS: [&str; 2] = [MARK, ENTER];

/// The program to run, and the parts of the host that it may see and use.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScriptOrder {
    /// The program.
    pub program: OsString,
    /// Its arguments.
    pub arguments: Vec<OsString>,
    /// All variables of its environment.
    pub env: Vec<(OsString, OsString)>,
    /// Its working directory, an absolute path. It is seen even if it is below a hidden path.
    pub directory: OsString,
    /// Files and directories that it sees empty.
    pub hidden: Vec<OsString>,
    /// The most memory that all its processes may use together, in bytes.
    pub memory: u64,
    /// The most processes and threads that it may have at once.
    pub pids: u32,
}

/// How it went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ScriptReport {
    /// The program ended by itself with this exit code.
    Ended(i32),
    /// A signal ended the program.
    Signal(i32),
    /// It was ended because it reached this limit.
    Exceeded(Limit),
    /// The program could not be started.
    NotStarted(String),
    /// This host does not let it be confined: what failed and how.
    NotConfined(String),
}

/// A limit of an [`ScriptOrder`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Limit {
    /// Of memory.
    Memory,
    /// Of processes and threads.
    Pids,
}

/// Runs the stage that this process was started for; `None`: it was started for something else. To be
/// called before any thread is started.
pub fn stage() -> Option<ExitCode> {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next()? != MARK {
        return None;
    }
    match arguments.next()?.to_str()? {
        ENTER => Some(enter::run()),
        INIT => Some(init::run()),
        _ => None,
    }
}
