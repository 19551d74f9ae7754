//! The guard: a small program in a separate container. It does nothing while abide runs. Once abide is gone,
//! it has the engine restart the containers that abide kept running.
//!
//! `build.rs` compiles this file alone into a static program; abide compiles it only for its tests. So it may
//! use only the standard library.
//!
//! It sees two things of the host. [`SHARED`] is a folder that abide writes: a lock that abide holds while it
//! runs, and one file for each group of containers that are meant to run. [`ENGINE`] is the engine's socket.
//! The engine itself restarts crashed containers by their restart policy. This program does what a policy
//! cannot: it starts a container that joins another one's network namespace only after that one, and gives
//! the proxy the addresses that containers have after an engine restart.

use std::collections::HashMap;
use std::fs::{self, File, TryLockError};
use std::io::{self, Read as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

// The modules have paths, because this file is the root when the program is compiled alone.
#[path = "program/containers.rs"]
mod containers;
#[path = "program/engine.rs"]
mod engine;
#[path = "program/lists.rs"]
mod lists;

use containers::{Starts, is_needed, keep, keep_front};
use engine::{TIMEOUT, call, encoded, send};
use lists::{ListedGroup, copy, read_front, read_groups};

/// The folder that abide writes, mounted read-only.
const SHARED: &str = "/abide";
/// The copy of that folder in the guard's container, which survives the removal of the original.
const KEPT: &str = "/kept";
/// This file exists in the guard's container while the guard acts, so that it acts at once after an engine
/// restart.
const ACTING: &str = "/acting";
/// The file that abide locks while it runs.
const ALIVE: &str = "alive";
/// This file exists after abide was stopped on purpose: the guard then need not wait for the lease.
const HANDED_OVER: &str = "handed-over";

/// How long abide may be gone before the guard acts: longer than a supervisor takes to restart it.
const LEASE: Duration = Duration::from_secs(15);
/// How often the guard checks whether abide runs.
const TICK: Duration = Duration::from_secs(1);
/// How long to collect events that are handled together.
const BURST: Duration = Duration::from_millis(20);
/// The longest pause between two attempts to start the same container.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// If the engine is unreachable for this long, it has a new socket file. The guard then exits, and the engine
/// restarts it with the new file.
const STALE: Duration = Duration::from_secs(30);
/// Containers that are started concurrently.
const AT_ONCE: usize = 8;

fn main() {
    let record = std::env::var("ABIDE_RECORD").unwrap_or_default();
    let own_id = std::env::var("HOSTNAME").unwrap_or_default();
    GuardProgram { record, own_id, ..GuardProgram::default() }.run();
}

#[derive(Default)]
struct GuardProgram {
    /// The record of the containers.
    record: String,
    /// The id of the guard's own container.
    own_id: String,
    /// The time since which abide does not hold its lock.
    gone_since: Option<Instant>,
    /// The engine's events, while the guard acts.
    events: Option<UnixStream>,
    retry: Retry,
    front: Retry,
    unreachable_since: Option<Instant>,
    copied: Option<std::time::SystemTime>,
    /// When each container and its sandbox were started, as last observed together.
    together: HashMap<String, Starts>,
}

/// The time of the next attempt after a failure.
#[derive(Default)]
struct Retry {
    failures: u32,
    at: Option<Instant>,
}

impl Retry {
    fn is_due(&self) -> bool {
        self.at.is_some_and(|at| Instant::now() >= at)
    }

    fn failed(&mut self) {
        let pause = Duration::from_secs(1 << self.failures.min(6)).min(LONGEST_PAUSE);
        self.failures += 1;
        self.at = Some(Instant::now() + pause);
    }
}

impl GuardProgram {
    fn run(mut self) -> ! {
        let _ = fs::create_dir_all(KEPT);
        loop {
            self.copy_groups();
            match (self.is_abide_gone(), Path::new(ACTING).exists()) {
                (true, true) => self.act(),
                (true, false) => sleep(TICK),
                (false, true) => self.give_back(),
                (false, false) => sleep(TICK),
            }
        }
    }

    /// Returns whether abide is gone: stopped on purpose, or gone for longer than the lease.
    fn is_abide_gone(&mut self) -> bool {
        if is_locked(&Path::new(SHARED).join(ALIVE)) {
            self.gone_since = None;
            return false;
        }
        let since = *self.gone_since.get_or_insert_with(Instant::now);
        let was_stopped = Path::new(SHARED).join(HANDED_OVER).exists();
        if Path::new(ACTING).exists() {
            return true;
        }
        let is_due = was_stopped || since.elapsed() >= LEASE;
        if is_due && File::create(ACTING).is_ok() {
            println!("abide is down: the engine restarts its containers from now on");
            (self.events, self.retry, self.front) = Default::default();
        }
        is_due
    }

    fn give_back(&mut self) {
        println!("abide is back: it restarts its containers itself");
        let _ = fs::remove_file(ACTING);
        self.events = None;
    }

    /// Waits briefly for an event, and brings the containers into the desired state.
    fn act(&mut self) {
        let happened = match &mut self.events {
            Some(events) => await_event(events),
            None => Happened::Connected,
        };
        let is_first = matches!(happened, Happened::Connected);
        if is_first {
            // The connection precedes the first check, so that no event is missed in between.
            match self.connect() {
                Ok(events) => (self.events, self.unreachable_since) = (Some(events), None),
                Err(error) => return self.note_unreachable(&error),
            }
        }
        match happened {
            Happened::Nothing if !self.retry.is_due() && !self.front.is_due() => {}
            Happened::Lost => self.events = None,
            _ => self.look(is_first),
        }
    }

    fn connect(&self) -> io::Result<UnixStream> {
        let filters = format!(
            r#"{{"type":["container"],"event":["start","die","destroy"],"label":["abide.record={}"]}}"#,
            self.record
        );
        let mut stream = send("GET", &format!("/events?filters={}", encoded(&filters)), None)?;
        // The engine sends the head of the answer once it has begun to watch.
        let mut first = [0; 1];
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.read_exact(&mut first)?;
        stream.set_read_timeout(Some(TICK))?;
        Ok(stream)
    }

    fn note_unreachable(&mut self, error: &io::Error) {
        let since = *self.unreachable_since.get_or_insert_with(Instant::now);
        if since.elapsed() >= STALE {
            println!("cannot reach the engine: {error}");
            std::process::exit(1);
        }
        sleep(TICK);
    }

    /// Checks all groups, then the proxy.
    fn look(&mut self, is_first: bool) {
        let groups = read_groups(Path::new(KEPT));
        let mut failed = 0;
        for some in groups.chunks(AT_ONCE) {
            let (record, together) = (&self.record, &self.together);
            let kept: Vec<_> = scope(|threads| {
                let keep = |group| threads.spawn(move || keep(record, group, together, is_first));
                let begun: Vec<_> = some.iter().map(keep).collect();
                begun.into_iter().map(|thread| thread.join().unwrap_or(Err(()))).collect()
            });
            failed += kept.iter().filter(|kept| kept.is_err()).count();
            self.together.extend(kept.into_iter().flatten().flatten());
        }
        if failed == 0 {
            self.retry = Retry::default();
        } else {
            self.retry.failed();
        }
        self.look_at_front(&groups, is_first);
        // If the copy failed, nothing was read, which does not prove that no container is left.
        let was_read = self.copied.is_some() || !groups.is_empty();
        if was_read && !is_needed(&groups) {
            println!("all containers were removed, so the guard exits");
            let _ = call("DELETE", &format!("/containers/{}?force=true&v=true", self.own_id), None);
        }
    }

    fn look_at_front(&mut self, groups: &[ListedGroup], is_first: bool) {
        let Some(front) = read_front(Path::new(KEPT)) else { return };
        if self.front.at.is_some_and(|at| Instant::now() < at) {
            return;
        }
        match keep_front(&front, groups, is_first) {
            // Whether a start succeeded is known only a while later.
            Ok(true) => self.front.failed(),
            Ok(false) => self.front = Retry::default(),
            Err(why) => {
                println!("the proxy: {why}");
                self.front.failed();
            }
        }
    }

    /// Copies the files that abide wrote since the last copy. A folder without the lock's file is not
    /// abide's: someone removed the original, and the engine created an empty one.
    fn copy_groups(&mut self) {
        let shared = Path::new(SHARED);
        let changed = fs::metadata(shared).and_then(|folder| folder.modified()).ok();
        if changed.is_none() || changed == self.copied || !shared.join(ALIVE).exists() {
            return;
        }
        match copy(shared, Path::new(KEPT)) {
            Ok(()) => self.copied = changed,
            Err(error) => println!("cannot copy the list of containers: {error}"),
        }
    }
}

/// Returns whether a process holds the lock of this file.
fn is_locked(path: &Path) -> bool {
    let Ok(file) = File::open(path) else { return false };
    // A lock that is taken here is released when the file is closed.
    matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock))
}

enum Happened {
    /// There is no stream yet.
    Connected,
    Something,
    Nothing,
    Lost,
}

fn await_event(events: &mut UnixStream) -> Happened {
    let mut buffer = [0; 4096];
    match events.read(&mut buffer) {
        Ok(0) => Happened::Lost,
        Ok(_) => {
            sleep(BURST);
            let _ = events.set_nonblocking(true);
            while events.read(&mut buffer).is_ok_and(|read| read > 0) {}
            let _ = events.set_nonblocking(false);
            Happened::Something
        }
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
            Happened::Nothing
        }
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Happened::Nothing,
        Err(_) => Happened::Lost,
    }
}

#[cfg(test)]
#[path = "program/tests.rs"]
mod tests;
