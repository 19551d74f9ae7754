//! How fast a crashed container serves again: abide's own share, and the whole beside its peers.
//!
//! `kill -9` of the main process of a container, once for each container, so that every crash is
//! its first. abide talks to the engine through a proxy that notes when the engine told of the end
//! and when abide asked for the start.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

#[path = "../tests/common/mod.rs"]
mod common;
mod report;
mod rig;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use tokio::runtime::Runtime;

use common::{Space, docker};
use report::{Samples, Table, goal, ratio, shown, title};
use rig::engine;
use rig::fleet::{Fleet, free_ports};

/// Crashes under abide.
const ROUNDS: usize = 20;
/// Crashes of each peer.
const PEER_ROUNDS: usize = 10;
/// What abide may take of its own from the event to the start.
const GOAL: Duration = Duration::from_millis(10);

/// What was measured under abide.
#[derive(Default)]
struct Healed {
    /// From the event to the start that abide asks for.
    to_start: Samples,
    /// Of that, what the engine took to answer what abide asked in between.
    engine: Samples,
    /// Of that, the rest.
    own: Samples,
    /// From `kill -9` until the published port answers.
    whole: Samples,
    /// The requests about the container until it answers, of each round.
    requests: Vec<Vec<String>>,
}

fn main() {
    let Some(space) = Space::new() else { return };
    let runtime = Runtime::new().unwrap();
    let _entered = runtime.enter();
    let image = engine::site_image(&space);
    let fleet = Fleet::start(&space, ROUNDS, &image);
    let mut healed = Healed::default();
    for index in 0..ROUNDS {
        healed.round(&runtime, &fleet, index);
    }
    let network = fleet.network.clone();
    let peers = Peers { space: &space, runtime: &runtime, network: &network, image: &image };
    let always = peers.crash("always", PEER_ROUNDS, Peer::Policy);
    let bare = peers.crash("bare", PEER_ROUNDS, Peer::Bare);
    healed.report(&always, &bare);
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
        self.whole.add(served - killed);
        let about = trace.requests().into_iter().filter(|line| line.contains(id));
        self.requests.push(about.map(|line| short(line).to_owned()).collect());
    }

    fn report(&self, always: &Samples, bare: &Samples) {
        title("From the `die` event to the start call");
        let mut table = Table::new(&["part", "median", "p90", "rounds"]);
        for (part, samples) in [
            ("event received to start sent", &self.to_start),
            ("of it the engine answering abide's inspect and log requests", &self.engine),
            ("of it abide's own", &self.own),
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

        title("`kill -9` of the main process until the published port answers");
        let mut table = Table::new(&["who", "median", "p90", "of the peer", "rounds"]);
        for (who, samples) in [
            ("abide", &self.whole),
            ("`docker run --restart=always`, first crash", always),
            ("a bare loop that only starts on the event", bare),
        ] {
            let (median, p90) = (shown(samples.median()), shown(samples.p90()));
            let of_peer = ratio(samples.median(), always.median());
            table.row([who.to_owned(), median, p90, of_peer, samples.count().to_string()]);
        }
        table.print();
        goal("no slower than the peer", self.whole.median() <= always.median());
    }
}

/// The last word of a target: `json` is an inspect.
fn short(request: &str) -> &str {
    let path = request.split('?').next().unwrap_or(request);
    path.rsplit('/').next().unwrap_or(path)
}

/// Who restarts a container that is not abide's.
#[derive(Clone, Copy, PartialEq)]
enum Peer {
    /// The engine, by its restart policy.
    Policy,
    /// This program, at once and without a look.
    Bare,
}

/// Containers that others restart, otherwise like abide's.
struct Peers<'a> {
    space: &'a Space,
    runtime: &'a Runtime,
    network: &'a str,
    image: &'a str,
}

impl Peers<'_> {
    /// Runs `count` containers and crashes each once.
    fn crash(&self, name: &str, count: usize, peer: Peer) -> Samples {
        let ports = free_ports(count);
        let policy = if peer == Peer::Policy { "always" } else { "no" };
        let mut whole = Samples::default();
        for (number, port) in ports.into_iter().enumerate() {
            let name = self.space.name(&format!("{name}{number}"));
            let publish = format!("127.0.0.1:{port}:{}", engine::PORT);
            let run = ["run", "--detach", "--init", "--restart", policy, "--network", self.network];
            let id = docker(&[&run[..], &["--name", &name, "--publish", &publish, self.image]].concat());
            engine::await_served(self.runtime, port);
            let watcher = (peer == Peer::Bare).then(|| BareWatcher::new(&id));
            let killed = engine::kill_main_process(&id);
            if let Some(watcher) = watcher {
                watcher.start_on_event();
            }
            whole.add(engine::await_served(self.runtime, port) - killed);
        }
        whole
    }
}

/// The least that anyone can do from outside: wait for the event, ask for the start.
struct BareWatcher {
    events: UnixStream,
    calls: UnixStream,
    id: String,
}

impl BareWatcher {
    fn new(id: &str) -> Self {
        let filters = format!(r#"{{"container":["{id}"],"event":["die"]}}"#);
        let filters: String = form_urlencoded::byte_serialize(filters.as_bytes()).collect();
        let mut events = UnixStream::connect(engine::socket()).unwrap();
        write!(events, "GET /events?filters={filters} HTTP/1.0\r\n\r\n").unwrap();
        read_until(&mut events, "\r\n\r\n");
        let calls = UnixStream::connect(engine::socket()).unwrap();
        Self { events, calls, id: id.to_owned() }
    }

    fn start_on_event(mut self) {
        read_until(&mut self.events, "\"die\"");
        let target = format!("/containers/{}/start", self.id);
        write!(self.calls, "POST {target} HTTP/1.0\r\nContent-Length: 0\r\n\r\n").unwrap();
        read_until(&mut self.calls, " 204 ");
    }
}

fn read_until(stream: &mut UnixStream, end: &str) {
    let (mut text, mut buffer) = (String::new(), [0; 4096]);
    while !text.contains(end) {
        let length = stream.read(&mut buffer).unwrap();
        assert!(length > 0, "the engine ended before {end:?}: {text}");
        text.push_str(&String::from_utf8_lossy(&buffer[..length]));
    }
}
