//! Measures what grows with the number of environments: the record and its backup file, an import, a start,
//! each view, concurrent pushes, and the cost of doing nothing.
//!
//! The record is measured in process; the views are those of the real program, with environments on 50 hosts
//! whose agents are not connected. Nothing is started on the engine.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

#[path = "../tests/common/mod.rs"]
mod common;
mod report;
mod rig;

use std::fmt::Write as _;
use std::fs::{self, File};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use abide::model::desired::{Desired, Entry, Hint, HistoryEntry, Image, Origin, Outcome};
use abide::model::event::EventKind;
use abide::model::name::{CommitId, Digest, EnvironmentName, Generation, RepositoryName};
use abide::model::time::Timestamp;
use abide::record::{self, Change, EnvironmentExport, Export, FORMAT, Handles, Push};
use tokio::runtime::Runtime;

use common::{Daemon, Space};
use report::{Samples, Table, goal, ratio, shown, title};
use rig::{http, process};

/// Environments and generations of the measured records.
const RECORDS: [(usize, u64); 3] = [(100, 10), (1_000, 10), (100, 500)];
/// Environments of the measured views; `ABIDE_BENCH_ENVIRONMENTS` names another largest number.
const VIEWED: [usize; 3] = [100, 1_000, 10_000];
/// Simulated hosts.
const HOSTS: usize = 50;
/// Changes of each record.
const CHANGES: u64 = 20;
/// Concurrent pushes.
const CONCURRENT: [usize; 3] = [1, 10, 100];
/// Pushes in all of each concurrency.
const PUSHES: usize = 400;
/// The followers of one branch.
const FOLLOWERS: usize = 200;
/// Requests for each view.
const REQUESTS: usize = 5;
/// How long the program does nothing while its CPU time is measured.
const IDLE: Duration = Duration::from_secs(30);

fn main() {
    let runtime = Runtime::new().unwrap();
    records(&runtime);
    pushes(&runtime);
    views();
}

// --- the record -------------------------------------------------------------------------------

fn records(runtime: &Runtime) {
    title("The record: one change, one import, one start");
    let mut table = Table::new(&[
        "environments x generations",
        "backup file",
        "written by one change",
        "of the file",
        "one change, in both files",
        "import",
        "start",
        "resident afterwards",
    ]);
    let mut starts = Samples::default();
    for (environments, generations) in RECORDS {
        let folder = tempfile::tempdir().unwrap();
        let export = export(environments, generations);
        let handles = record::open(folder.path()).unwrap();
        let mut import = Samples::default();
        import.time(|| runtime.block_on(handles.writer.import(export.clone())).unwrap());
        drop(export);
        let (changed, written, file) = change(runtime, &handles, folder.path());
        drop(handles);
        let mut start = Samples::default();
        let handles = start.time(|| record::open(folder.path()).unwrap());
        let (resident, _) = process::memory(std::process::id());
        drop(handles);
        starts.add(start.median());
        table.row([
            format!("{environments} x {generations}"),
            mebibytes(file),
            format!("{written} bytes"),
            format!("{:.4} %", written as f64 * 100.0 / file as f64),
            shown(changed.median()),
            shown(import.median()),
            shown(start.median()),
            mebibytes(resident),
        ]);
    }
    table.print();
    goal("a start under 2 s", starts.p99() < Duration::from_secs(2));
}

/// Changes one environment several times; returns the durations, and the bytes that one change added to the
/// backup file, and the file's length.
fn change(runtime: &Runtime, handles: &Handles, folder: &Path) -> (Samples, u64, u64) {
    let mut samples = Samples::default();
    let path = folder.join("record.json");
    let before = fs::metadata(&path).unwrap().len();
    for number in 0..CHANGES {
        samples.time(|| {
            runtime.block_on(async {
                handles.writer.submit(&name(1), set(number), &[]).await.unwrap();
                handles.clone().close().await.unwrap();
            });
        });
    }
    let after = fs::metadata(&path).unwrap().len();
    let written = after.checked_sub(before).filter(|added| *added > 0).map_or(after, |added| added / CHANGES);
    (samples, written, after)
}

fn export(environments: usize, generations: u64) -> Export {
    let environments = (0..environments).map(|number| environment(number, generations)).collect();
    Export { format: FORMAT, id: "5ca1e".repeat(7)[..32].to_owned(), serial: 1, environments }
}

fn environment(number: usize, generations: u64) -> EnvironmentExport {
    let entry = |generation: u64| Entry {
        generation: Generation(generation),
        revision: Some(commit(number as u64 * 1_000 + generation)),
        image: Some(image(number as u64 * 1_000 + generation)),
        origin: Some(Origin::Push),
        by: Some("github (alice)".to_owned()),
        at: now(),
        ..Entry::default()
    };
    let outcome = |generation| if generation == generations { Outcome::Ready } else { Outcome::Superseded };
    let history = (1..=generations).rev();
    let history = history
        .map(|generation| HistoryEntry { entry: entry(generation), outcome: Some(outcome(generation)) });
    let desired = Desired { entry: entry(generations), ..Desired::empty(name(number)) };
    EnvironmentExport { desired, history: history.collect(), evidence: Vec::new() }
}

fn name(number: usize) -> EnvironmentName {
    EnvironmentName::new(format!("e{number}")).unwrap()
}

fn commit(number: u64) -> CommitId {
    CommitId::new(format!("{number:040x}")).unwrap()
}

fn image(number: u64) -> Image {
    Image { reference: None, digest: None, id: Digest::new(format!("sha256:{number:064x}")).ok() }
}

fn set(number: u64) -> Change {
    Change {
        revision: None,
        image: Some(image(number)),
        origin: Origin::Set,
        by: Some("alice".to_owned()),
        token: None,
        note: None,
        at: now(),
        hold: None,
    }
}

fn now() -> Timestamp {
    SystemTime::now().into()
}

fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / 1024.0 / 1024.0)
}

// --- concurrent pushes ------------------------------------------------------------------------

fn pushes(runtime: &Runtime) {
    let folder = tempfile::tempdir().unwrap();
    let limit = durable_write(folder.path());
    let handles = record::open(&folder.path().join("record")).unwrap();
    title("Pushes recorded at once, durable");
    let mut table = Table::new(&[
        "at once",
        "followers of the branch",
        "per second",
        "per push",
        "relative to the limit",
    ]);
    table.row([
        "the limit: sled's insert, flush and fdatasync".to_owned(),
        String::new(),
        format!("{:.0}", 1.0 / limit.as_secs_f64()),
        shown(limit),
        "1.00".to_owned(),
    ]);
    let mut first = 0;
    let shapes = CONCURRENT.map(|at_once| (at_once, 1)).into_iter().chain([(1, FOLLOWERS), (10, FOLLOWERS)]);
    for (at_once, followers) in shapes {
        let each = push_all(runtime, &handles, first, at_once, followers);
        first += PUSHES;
        table.row([
            at_once.to_string(),
            followers.to_string(),
            format!("{:.0}", 1.0 / each.as_secs_f64()),
            shown(each),
            ratio(each, limit),
        ]);
    }
    table.print();
}

/// The mean time of one push.
fn push_all(
    runtime: &Runtime,
    handles: &Handles,
    first: usize,
    at_once: usize,
    followers: usize,
) -> Duration {
    let environments: Vec<_> = (0..followers).map(name).collect();
    let began = Instant::now();
    runtime.block_on(async {
        let tasks: Vec<_> = (0..at_once)
            .map(|task| {
                let (writer, environments) = (handles.writer.clone(), environments.clone());
                tokio::spawn(async move {
                    for number in (first + task..first + PUSHES).step_by(at_once) {
                        let hint = Hint {
                            revision: commit(number as u64),
                            by: "github (alice)".to_owned(),
                            at: now(),
                        };
                        let repository = RepositoryName::new("site").unwrap();
                        let push = Push { id: Some(format!("delivery-{number}")), repository, hint };
                        writer.push(push, &environments).await.unwrap();
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
    });
    began.elapsed() / u32::try_from(PUSHES).unwrap()
}

/// The least that a durable acknowledgement costs: one write to a separate store.
fn durable_write(folder: &Path) -> Duration {
    let path = folder.join("limit");
    let db = sled::Config::new().path(&path).open().unwrap();
    let log = File::open(path.join("db")).unwrap();
    let mut samples = Samples::default();
    for number in 0..PUSHES as u64 {
        samples.time(|| {
            db.insert(number.to_be_bytes(), vec![b'x'; 512]).unwrap();
            db.flush().unwrap();
            log.sync_data().unwrap();
        });
    }
    samples.median()
}

// --- the views --------------------------------------------------------------------------------

fn views() {
    let largest = std::env::var("ABIDE_BENCH_ENVIRONMENTS").ok().and_then(|count| count.parse().ok());
    let mut rows = Vec::new();
    for count in VIEWED.into_iter().filter(|count| largest.is_none_or(|largest| *count <= largest)) {
        let Some(space) = Space::new() else { return };
        rows.push(Viewed::take(&space, count));
    }
    title(&format!("The program with environments on {HOSTS} hosts, and 100 events of each"));
    let mut columns = vec!["environments", "start"];
    columns.extend(Viewed::VIEWS.iter().map(|(what, _)| *what));
    columns.extend(["resident", "CPU at rest"]);
    let mut table = Table::new(&columns);
    for row in &rows {
        let mut cells = vec![row.count.to_string(), shown(row.start)];
        cells.extend(row.views.iter().map(|view| shown(view.median())));
        cells.extend([mebibytes(row.resident), format!("{:.2} %", row.idle * 100.0)]);
        table.row(cells);
    }
    table.print();
    let slowest = rows.iter().filter_map(|row| row.views.first()).map(Samples::median).max();
    goal("10,000 environments listed within 200 ms", slowest < Some(Duration::from_millis(200)));
}

struct Viewed {
    count: usize,
    start: Duration,
    views: Vec<Samples>,
    resident: u64,
    /// The part of one CPU.
    idle: f64,
}

impl Viewed {
    const VIEWS: [(&str, &str); 5] = [
        ("list", "/api/v1/environments"),
        ("one", "/api/v1/environments/e1"),
        ("events", "/api/v1/events"),
        ("metrics", "/metrics"),
        ("board", "/"),
    ];

    fn take(space: &Space, count: usize) -> Self {
        let folder = space.dir().join("desired-state");
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("bench.toml"), manifest(space, count)).unwrap();
        seed(&folder.join("record"), count);
        let began = Instant::now();
        let daemon = Daemon::start(&folder, &[]);
        let start = began.elapsed();
        let socket = folder.join("abide.sock");
        let views = Self::VIEWS.iter().map(|(_, path)| asked(&socket, path)).collect();
        let before = process::cpu_time(daemon.id());
        std::thread::sleep(IDLE);
        let idle = (process::cpu_time(daemon.id()) - before).as_secs_f64() / IDLE.as_secs_f64();
        let (resident, _) = process::memory(daemon.id());
        Self { count, start, views, resident, idle }
    }
}

fn asked(socket: &Path, path: &str) -> Samples {
    let mut samples = Samples::default();
    for _ in 0..REQUESTS {
        samples.time(|| http::get(socket, path).unwrap());
    }
    samples
}

fn manifest(space: &Space, count: usize) -> String {
    let mut manifest = format!("[docker]\nnetwork = \"{}\"\n", space.name("net"));
    for number in 0..count {
        let (container, host) = (space.name(&format!("e{number}")), number % HOSTS);
        let _ = write!(
            manifest,
            "[environment.e{number}]\ncontainer = \"{container}\"\nport = 8088\nhost = \"a{host}\"\n"
        );
    }
    manifest
}

/// A record with ten generations and a hundred events of each environment.
fn seed(folder: &Path, count: usize) {
    let runtime = Runtime::new().unwrap();
    let handles = record::open(folder).unwrap();
    runtime.block_on(async {
        handles.writer.import(export(count, 10)).await.unwrap();
        // One event after the other is slow enough to be measured elsewhere; the environments take turns.
        let writers = (0..20).map(|part| {
            let writer = handles.status_writer.clone();
            tokio::spawn(async move {
                for number in (part..count).step_by(20) {
                    for event in 0..events_of(count) {
                        let message = format!("started container {event:012x}, which answered on port 8088");
                        writer.event(&name(number), EventKind::Step, message, now()).await.unwrap();
                    }
                }
            })
        });
        for writer in writers.collect::<Vec<_>>() {
            writer.await.unwrap();
        }
        handles.close().await.unwrap();
    });
}

/// Fewer of each in a very large record, so that filling it ends.
fn events_of(count: usize) -> usize {
    100.min(100_000 / count)
}
