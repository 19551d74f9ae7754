//! Watches from outside whether a port serves all the time, and when containers end.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{JoinHandle, sleep, spawn};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::docker::Space;
use super::net::http_get;

/// The interval of checks.
const PERIOD: Duration = Duration::from_millis(10);
/// The engine reports an end a moment later; this is longer than it ever took.
const REPORTED_WITHIN: Duration = Duration::from_secs(1);

/// Watches one port and the containers of one space.
pub(crate) struct Watcher {
    stop: Arc<AtomicBool>,
    looks: Option<JoinHandle<Vec<Outage>>>,
    events: Child,
    ends: Arc<Mutex<Vec<End>>>,
}

/// A period in which no check of the port got the expected answer.
#[derive(Clone, Debug)]
pub(crate) struct Outage {
    /// The start of the last successful check before it.
    pub(crate) since: SystemTime,
    /// The answer of the first successful check after it, or the end of the watch if there was
    /// none.
    pub(crate) until: SystemTime,
    /// How the first failed check failed.
    pub(crate) why: String,
}

/// A container's main process ended.
#[derive(Clone, Debug)]
pub(crate) struct End {
    /// The time according to the engine.
    pub(crate) at: SystemTime,
    /// The container's name.
    pub(crate) container: String,
}

/// The observations.
#[derive(Debug)]
pub(crate) struct Seen {
    /// The outages.
    pub(crate) outages: Vec<Outage>,
    /// The ended containers.
    pub(crate) ends: Vec<End>,
}

impl Watcher {
    /// Begins to watch.
    pub(crate) fn start(space: &Space, port: u16) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let ends = Arc::default();
        let events = follow_ends(space.prefix().to_owned(), Arc::clone(&ends));
        let stopped = Arc::clone(&stop);
        let looks = Some(spawn(move || look(port, &stopped)));
        Self { stop, looks, events, ends }
    }

    /// Stops the watch and returns the observations.
    pub(crate) fn finish(mut self) -> Seen {
        sleep(PERIOD * 10);
        self.stop.store(true, Ordering::Relaxed);
        let outages = self.looks.take().unwrap().join().unwrap();
        let ends = self.ends.lock().unwrap().clone();
        Seen { outages, ends }
    }
}

impl Drop for Watcher {
    /// Also runs if a test fails, because a child that lives on would keep its inherited resources.
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.events.kill();
        let _ = self.events.wait();
    }
}

impl Seen {
    /// Asserts that a container served at all times, except while one replaced another in an update
    /// that stops the old one first; and that at most `ends` containers ended.
    pub(crate) fn assert_only_declared_gaps(&self, what: &str, ends: usize) {
        assert!(self.ends.len() <= ends, "{what}: more containers ended than an update stops: {self:?}");
        for outage in &self.outages {
            let is_of = |end: &&End| {
                (outage.since..=outage.until).contains(&end.at)
                    || end.at.duration_since(outage.until).is_ok_and(|late| late < REPORTED_WITHIN)
            };
            assert!(
                self.ends.iter().any(|end| is_of(&end)),
                "{what}: nothing served, and none gave way: {self:?}"
            );
        }
        assert!(self.outages.len() <= self.ends.len(), "{what}: more gaps than containers ended: {self:?}");
    }

    /// Asserts that the port served at all times.
    pub(crate) fn assert_no_gap(&self, what: &str) {
        assert!(self.outages.is_empty(), "{what}: {:?}", self.outages);
    }
}

/// Checks the port repeatedly, starting with its first successful answer.
fn look(port: u16, stop: &AtomicBool) -> Vec<Outage> {
    let mut outages = Vec::new();
    let mut last_good = None;
    let mut open: Option<Outage> = None;
    while !stop.load(Ordering::Relaxed) {
        let began = SystemTime::now();
        match http_get(port, "/") {
            Ok((200, _)) => {
                last_good = Some(began);
                outages.extend(open.take().map(|outage| Outage { until: SystemTime::now(), ..outage }));
            }
            bad => {
                if let Some(since) = last_good {
                    let why = format!("{bad:?}");
                    open.get_or_insert(Outage { since, until: began, why });
                }
            }
        }
        sleep(PERIOD);
    }
    outages.extend(open.take().map(|outage| Outage { until: SystemTime::now(), ..outage }));
    outages
}

/// Records every end of a container whose name begins with `prefix`.
fn follow_ends(prefix: String, ends: Arc<Mutex<Vec<End>>>) -> Child {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let since = format!("{}.{:09}", now.as_secs(), now.subsec_nanos());
    let mut command = Command::new("docker");
    command.args(["events", "--since", &since, "--filter", "type=container", "--filter", "event=die"]);
    command.args(["--format", "{{.TimeNano}} {{.Actor.Attributes.name}}"]);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    spawn(move || {
        for line in lines.map_while(Result::ok) {
            let (at, container) = line.split_once(' ').unwrap();
            if container.starts_with(&prefix) {
                let at = UNIX_EPOCH + Duration::from_nanos(at.parse().unwrap());
                ends.lock().unwrap().push(End { at, container: container.to_owned() });
            }
        }
    });
    child
}
