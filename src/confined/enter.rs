//! The first stage: enters the namespaces and waits for the second stage.

use std::fs;
use std::io;
use std::process::{Command, ExitCode};

use rustix::process::{getegid, geteuid};
use rustix::thread::UnshareFlags;

use super::{INIT, MARK, PROGRAM, ScriptReport, init, privileges};

pub(super) fn run() -> ExitCode {
    match enter() {
        Ok(()) => match Command::new(PROGRAM).args([MARK, INIT]).env_clear().status() {
            Ok(status) if status.success() => ExitCode::SUCCESS,
            Ok(_) => ExitCode::FAILURE,
            Err(error) => refused("start process 1", &error),
        },
        Err((step, error)) => refused(step, &error),
    }
}

fn refused(step: &str, error: &io::Error) -> ExitCode {
    init::report(&ScriptReport::NotConfined(format!("{step}: {error}")));
    ExitCode::FAILURE
}

fn enter() -> Result<(), (&'static str, io::Error)> {
    let (user, group) = (geteuid(), getegid());
    let mut namespaces = UnshareFlags::NEWNS | UnshareFlags::NEWPID;
    let may_mount = privileges::may_mount();
    if !may_mount {
        namespaces |= UnshareFlags::NEWUSER;
    }
    unshare(namespaces).map_err(|error| ("make namespaces", error))?;
    if !may_mount {
        // The same user and group as before, and no others.
        map("setgroups", "deny").map_err(|error| ("deny groups", error))?;
        map("uid_map", &format!("{user} {user} 1", user = user.as_raw()))
            .map_err(|error| ("map the user", error))?;
        map("gid_map", &format!("{group} {group} 1", group = group.as_raw()))
            .map_err(|error| ("map the group", error))?;
        privileges::keep_for_mounts().map_err(|error| ("keep capabilities", error))?;
    }
    Ok(())
}

/// It is deprecated in favour of an unsafe function, because of flags that share open files between
/// threads. This process has one thread, and these are other flags.
#[allow(deprecated)]
fn unshare(namespaces: UnshareFlags) -> io::Result<()> {
    Ok(rustix::thread::unshare(namespaces)?)
}

fn map(file: &str, content: &str) -> io::Result<()> {
    fs::write(format!("/proc/self/{file}"), content)
}
