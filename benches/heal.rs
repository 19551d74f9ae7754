//! Measures how a crashed container is healed, split into the engine's time and abide's own.
//! `deploy` compares the total with its peers.
//!
//! `kill -9` of the main process of a container, once per container, so that every crash is its
//! first. abide talks to the engine through a proxy that records when the engine reported the end
//! and when abide requested the start.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

#[path = "../tests/common/mod.rs"]
mod common;
mod report;
mod rig;

use std::time::Duration;

use tokio::runtime::Runtime;

use common::{Space, made_image};
use report::{Samples, Table, goal, shown, title};
use rig::engine;
use rig::fleet::Fleet;

/// Crashes under abide.
const ROUNDS: usize = 20;
/// The limit for abide's own time from the event to the start.
const GOAL: Duration = Duration::from_millis(10);

/// The measurements under abide.
#[derive(Default)]
struct Healed {
    /// From the event to abide's start request.
    to_start: Samples,
    /// The engine's part of that, for answering abide's requests in between.
    engine: Samples,
    /// The rest of that.
    own: Samples,
    /// From `kill -9` until the published port answers.
    total: Samples,
    /// The requests about the container until it answers, for each round.
    requests: Vec<Vec<String>>,
}

fn main() {
    let Some(space) = Space::new() else { return };
    let runtime = Runtime::new().unwrap();
    let _entered = runtime.enter();
    let image = made_image(&space, "served", "");
    let fleet = Fleet::start(&space, ROUNDS, &image);
    let mut healed = Healed::default();
    for index in 0..ROUNDS {
        healed.round(&runtime, &fleet, index);
    }
    healed.report();
}

impl Healed {
    fn round(&mut self, runtime: &Runtime, fleet: &Fleet, index: usize) {
        let running = &fleet.environments[index];
        let id = running.container.as_str();
        fleet.proxy.forget();
        let killed = engine::kill_main_process(id);
        let served = engine::await_served(runtime, running.port);
        let trace = fleet.proxy.seen();
        let died = trace.died(id).expect("the engine told that it died");
        let asked = trace.start_asked(id).expect("abide asked to start it");
        let engine = trace.engine_time(id, died, asked);
        self.to_start.add(asked - died);
        self.engine.add(engine);
        self.own.add((asked - died).saturating_sub(engine));
        self.total.add(served - killed);
        let about = trace.requests().into_iter().filter(|line| line.contains(id));
        self.requests.push(about.map(|line| short(line).to_owned()).collect());
    }

    fn report(&self) {
        title("A heal, taken apart: from the `die` event to the start call");
        let mut table = Table::new(&["part", "median", "p90", "rounds"]);
        for (part, samples) in [
            ("event received to start sent", &self.to_start),
            ("of it the engine answering abide's inspect and log requests", &self.engine),
            ("of it abide's own", &self.own),
            ("`kill -9` until the published port answers", &self.total),
        ] {
            let (median, p90) = (shown(samples.median()), shown(samples.p90()));
            table.row([part.to_owned(), median, p90, samples.count().to_string()]);
        }
        table.print();
        let mut requests = self.requests.clone();
        requests.sort_by_key(Vec::len);
        let middle = &requests[requests.len() / 2];
        println!("Requests for one heal, until it answers: {} ({})\n", middle.len(), middle.join(", "));
        goal("abide's own time under 10 ms", self.own.median() < GOAL);
    }
}

/// The last word of a target: `json` is an inspect.
fn short(request: &str) -> &str {
    let path = request.split('?').next().unwrap_or(request);
    path.rsplit('/').next().unwrap_or(path)
}
