//! Measures the cost of idling: requests, CPU and memory if nothing happens, one event that changes
//! nothing, and a reconcile that finds nothing to do; with 3 environments and with many.
//!
//! Two daemons run at once on the same engine, each behind a counting proxy. The engine reports its
//! other activity during that time to both, and it is counted in a separate row.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

#[path = "../tests/common/mod.rs"]
mod common;
mod report;
mod rig;

use std::time::Duration;

use tokio::runtime::Runtime;

use abide::controller::RESYNC;
use common::{Space, docker};
use report::{Samples, Table, goal, ratio, shown, title};
use rig::fleet::Fleet;
use rig::{engine, http, process};

/// The smaller number of environments.
const FEW: usize = 3;
/// The larger number, unless [`MANY_VARIABLE`] overrides it.
const MANY: usize = 20;
/// Overrides the larger number of environments.
const MANY_VARIABLE: &str = "ABIDE_BENCH_ENVIRONMENTS";
/// The duration of the idle measurement. The kernel counts CPU time in hundredths of a second, so
/// half a percent of this is 30 ticks.
const IDLE: Duration = Duration::from_secs(60);
/// The CPU limit of an idle daemon with the smaller number of environments, as a share of one CPU.
const IDLE_CPU: f64 = 0.005;
/// The limit of its resident memory, in bytes.
const IDLE_MEMORY: u64 = 30_000_000;
/// How long the controller needs to settle after a burst of actions.
const SETTLE: Duration = Duration::from_secs(3);
/// The number of events that change nothing.
const WAKES: usize = 10;
/// The number of checks of all environments.
const LOOKS: usize = 20;

fn main() {
    let many = std::env::var(MANY_VARIABLE).ok().and_then(|count| count.parse().ok()).unwrap_or(MANY);
    let (Some(small), Some(large)) = (Space::new(), Space::new()) else { return };
    let runtime = Runtime::new().unwrap();
    let _entered = runtime.enter();
    let fleets = [(&small, FEW), (&large, many)].map(|(space, count)| {
        let image = common::made_image(space, "served", "");
        Fleet::start(space, count, &image)
    });
    std::thread::sleep(SETTLE);
    look(&fleets);
    wake(&fleets);
    await_resync(&fleets);
    rest(&fleets);
}

/// The first resync after a change checks it once more; later resyncs are idle.
fn await_resync(fleets: &[Fleet; 2]) {
    fleets.iter().for_each(|fleet| fleet.proxy.forget());
    for fleet in fleets {
        let is_listed = || Counted::of(fleet, &fleet.proxy.seen().requests()).lists > 0;
        common::eventually("everything is listed again", RESYNC + SETTLE, is_listed);
    }
    std::thread::sleep(SETTLE);
}

/// A minute without an action. The CPU time is the process's own, whatever else the host does; but
/// abide has to check what others do on the same engine.
fn rest(fleets: &[Fleet; 2]) {
    fleets.iter().for_each(|fleet| fleet.proxy.forget());
    let before = fleets.each_ref().map(|fleet| process::cpu_time(fleet.daemon.id()));
    std::thread::sleep(IDLE);
    title("At rest for 60 s: a resync every 30 s, and a TCP probe of each container every second");
    let mut table = Table::new(&[
        "environments",
        "lists",
        "other requests",
        "because of others",
        "bytes answered",
        "events told",
        "CPU",
        "of one CPU",
        "resident",
        "highest",
    ]);
    let mut used = Vec::new();
    let (mut others, mut events, mut is_one_list_each) = (0, 0, true);
    for (fleet, before) in fleets.iter().zip(before) {
        let cpu = process::cpu_time(fleet.daemon.id()) - before;
        let trace = fleet.proxy.seen();
        let counted = Counted::of(fleet, &trace.requests());
        let (now, highest) = process::memory(fleet.daemon.id());
        is_one_list_each &= counted.other == 0 && counted.lists <= resyncs();
        others += counted.foreign;
        events += trace.events();
        table.row([
            fleet.environments.len().to_string(),
            counted.lists.to_string(),
            counted.other.to_string(),
            counted.foreign.to_string(),
            trace.answered_bytes().to_string(),
            trace.events().to_string(),
            shown(cpu),
            format!("{:.2} %", 100.0 * share(cpu)),
            mebibytes(now),
            mebibytes(highest),
        ]);
        used.push((share(cpu), now));
    }
    table.print();
    if events > 0 || others > 0 {
        println!("The engine was not at rest: others used it, and CPU and requests answer that too.\n");
    }
    goal("an idle resync is one request, whatever the number of environments", is_one_list_each);
    let (cpu, memory) = used[0];
    goal("under 0.5 % of one CPU with the fewest environments", cpu < IDLE_CPU);
    goal("under 30 MB resident with them", memory < IDLE_MEMORY);
}

/// The share of one CPU used while idle.
fn share(cpu: Duration) -> f64 {
    cpu.as_secs_f64() / IDLE.as_secs_f64()
}

/// The maximum number of resyncs in that time.
fn resyncs() -> usize {
    let periods = IDLE.as_secs() / RESYNC.as_secs();
    usize::try_from(periods).unwrap() + 1
}

/// The requests of a period.
#[derive(Default)]
struct Counted {
    /// Lists of all containers.
    lists: usize,
    /// About objects outside the fleet, because others use the same engine.
    foreign: usize,
    /// The rest.
    other: usize,
}

impl Counted {
    fn of(fleet: &Fleet, requests: &[&str]) -> Self {
        let mut counted = Self::default();
        for request in requests {
            let is_container = request.contains("/containers/");
            let is_ours = fleet.environments.iter().any(|running| request.contains(&running.container));
            match (request.contains("/containers/json"), is_container && !is_ours) {
                (true, _) => counted.lists += 1,
                (false, true) => counted.foreign += 1,
                (false, false) => counted.other += 1,
            }
        }
        counted
    }
}

/// Events about a container that change nothing relevant to abide.
fn wake(fleets: &[Fleet; 2]) {
    title("An event that changes nothing (CPU shares of one container)");
    let mut table = Table::new(&["environments", "requests about the container, each event"]);
    for fleet in fleets {
        let id = fleet.environments[0].container.as_str();
        fleet.proxy.forget();
        for shares in 0..WAKES {
            docker(&["update", "--cpu-shares", &(1000 + shares).to_string(), id]);
        }
        std::thread::sleep(SETTLE);
        let trace = fleet.proxy.seen();
        let about = trace.requests().iter().filter(|request| request.contains(id)).count();
        let each = about as f64 / WAKES as f64;
        table.row([fleet.environments.len().to_string(), format!("{each:.1}")]);
    }
    table.print();
}

/// A check of every environment that finds nothing to do, compared with the one list of containers
/// that a client without a cache has to request.
fn look(fleets: &[Fleet; 2]) {
    title("A pass with nothing to do: snapshot, observe and plan (`GET .../plan`), and the answer");
    let mut table = Table::new(&[
        "environments",
        "one, median",
        "one, p90",
        "all",
        "one `GET /containers/json`",
        "all of that",
    ]);
    for fleet in fleets {
        let (mut one, mut all, mut list) = (Samples::default(), Samples::default(), Samples::default());
        for _ in 0..LOOKS {
            list.time(|| http::get(&engine::socket(), "/containers/json?all=1").unwrap());
            all.time(|| look_at_all(fleet, &mut one));
        }
        let ratio = ratio(all.median(), list.median());
        let count = fleet.environments.len().to_string();
        let times = [one.median(), one.p90(), all.median(), list.median()].map(shown);
        table.row([count].into_iter().chain(times).chain([ratio]));
    }
    table.print();
}

fn look_at_all(fleet: &Fleet, one: &mut Samples) {
    let socket = abide::daemon::socket_path(&fleet.desired_state);
    for running in &fleet.environments {
        let target = format!("/api/v1/environments/{}/plan", running.name);
        let plan = one.time(|| http::get(&socket, &target).unwrap());
        let plan: serde_json::Value = serde_json::from_str(&plan).unwrap();
        assert_eq!(plan["steps"], serde_json::json!([]), "there was something to do: {plan}");
    }
}

fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}
