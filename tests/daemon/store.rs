//! The record on a temporarily failing disk, and the owner and mode of its files.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::Signal;

use crate::child::{PATIENCE, Place};
use crate::common::{SECRET, eventually};

/// While the file named by `ABIDE_TEST_BROKEN_DISK` exists, all writes fail.
const BROKEN_DISK: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>
static int broken(void) {
    const char *file = getenv("ABIDE_TEST_BROKEN_DISK");
    return file && access(file, F_OK) == 0;
}
#define BREAK(type, name, parameters, arguments)                  \
    type name parameters {                                        \
        static type (*real) parameters;                           \
        if (!real) real = (type(*) parameters)dlsym(RTLD_NEXT, #name); \
        if (broken()) { errno = EIO; return -1; }                 \
        return real arguments;                                    \
    }
BREAK(int, fsync, (int fd), (fd))
BREAK(int, fdatasync, (int fd), (fd))
BREAK(int, sync_file_range, (int fd, long long at, long long size, unsigned flags), (fd, at, size, flags))
BREAK(ssize_t, pwrite, (int fd, const void *text, size_t size, long at), (fd, text, size, at))
BREAK(ssize_t, pwrite64, (int fd, const void *text, size_t size, long long at), (fd, text, size, at))
"#;

/// A library that makes writes of a program fail when it is preloaded; `None`, with a printed
/// reason, without a C compiler.
fn broken_disk(place: &Place) -> Option<PathBuf> {
    let (source, library) = (place.path("broken.c"), place.path("broken.so"));
    fs::write(&source, BROKEN_DISK).unwrap();
    let mut compile = Command::new("cc");
    compile.args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source).arg("-ldl");
    let compiled = compile.status().is_ok_and(|status| status.success());
    if !compiled {
        eprintln!("left out: no C compiler makes a library that fails writes");
    }
    compiled.then_some(library)
}

#[test]
fn recording_resumes_after_temporary_disk_errors() {
    let place = Place::new();
    let Some(library) = broken_disk(&place) else { return };
    let broken = place.path("broken");
    let daemon = place.serve(&[
        ("LD_PRELOAD", library.to_str().unwrap()),
        ("ABIDE_TEST_BROKEN_DISK", broken.to_str().unwrap()),
    ]);
    assert_eq!(place.push(SECRET, "dev", "a").0, 202);
    File::create(&broken).unwrap();
    assert_eq!(place.push(SECRET, "dev", "b").0, 503);
    assert_eq!(place.abide(&["hold", "dev", "--reason", "x"]).code, 1);
    let ready = || place.get("/readyz");
    eventually("it is not ready", PATIENCE, || ready().1.contains("cannot write the record"));
    assert_eq!(ready().0, 503);

    fs::remove_file(&broken).unwrap();
    eventually("it records again", PATIENCE, || place.push(SECRET, "dev", "c").0 == 202);
    assert_eq!(place.abide(&["hold", "dev", "--reason", "after it"]).code, 0);
    eventually("readiness says so", PATIENCE, || !ready().1.contains("cannot write the record"));
    daemon.logs("was reopened");
    drop(daemon);
    assert!(place.abide(&["export"]).stdout.contains("after it"));
}

/// Owner, mode and path of all files in a folder.
fn files(folder: &Path) -> Vec<(u32, u32, PathBuf)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let metadata = entry.metadata().unwrap();
        found.push((metadata.uid(), metadata.mode(), entry.path()));
        if metadata.is_dir() {
            found.extend(files(&entry.path()));
        }
    }
    found.sort();
    found
}

/// Runs a command with a umask that denies others access to its files.
fn closed(place: &Place, arguments: &[&str]) -> i32 {
    let inner = place.command(arguments);
    let mut shell = Command::new("sh");
    shell.args(["-c", "umask 077; exec \"$@\"", "sh"]).arg(inner.get_program()).args(inner.get_args());
    for (name, value) in inner.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    shell.output().unwrap().status.code().unwrap()
}

#[test]
fn commands_run_by_root_keep_the_records_owner() {
    const SERVICE: u32 = 65_534;
    if !rustix::process::geteuid().is_root() {
        eprintln!("left out: only root can give files away");
        return;
    }
    let place = Place::new();
    let mut daemon = place.serve(&[]);
    assert_eq!(place.push(SECRET, "dev", "a").0, 202);
    daemon.signal(Signal::TERM);
    assert!(daemon.end().success());
    let record = place.desired_state().join("record");
    for (_, _, path) in files(&record) {
        chown(path, Some(SERVICE), Some(SERVICE)).unwrap();
    }
    chown(&record, Some(SERVICE), Some(SERVICE)).unwrap();

    let before = files(&record);
    for reading in [&["status"][..], &["history", "dev"], &["events"], &["export"], &["token", "list"]] {
        assert_eq!(closed(&place, reading), 0, "{reading:?}");
        assert_eq!(files(&record), before, "{reading:?}");
    }
    assert_eq!(closed(&place, &["hold", "dev", "--reason", "x"]), 0);
    assert!(place.abide(&["status", "dev", "-o", "json"]).stdout.contains("\"reason\": \"x\""));
    let left: Vec<_> = files(&record).into_iter().filter(|(owner, _, _)| *owner != SERVICE).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn without_a_daemon_the_author_of_a_change_is_the_user() {
    let place = Place::new();
    assert_eq!(place.abide(&["hold", "dev", "--reason", "x"]).code, 0);
    let user = Command::new("id").arg("-un").output().unwrap().stdout;
    let user = String::from_utf8(user).unwrap();
    let by = format!("\"by\": \"{}\"", user.trim());
    let exported = place.abide(&["export"]).stdout;
    assert!(exported.contains(&by), "{by} is not in {exported}");
}
