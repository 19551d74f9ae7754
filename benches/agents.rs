//! Measures how long a change of the record takes to reach its agent while a thousand agents are
//! connected, and the resident memory of an idle agent.
//!
//! The controller is the real program, which listens on the loopback address without TLS. The
//! thousand agents are sessions as `abide agent` holds them, each with its own token, HTTP/2
//! connection and environment, but without an engine. Time runs from before the request that
//! updates the record, including its flushed write, until the agent has read the line.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

#[path = "../tests/common/mod.rs"]
mod common;
mod report;
mod rig;

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use abide::model::link::{Hello, VERSION};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::Request;
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use common::{Daemon, Space, free_port};
use report::{Samples, Table, goal, shown, title};
use rig::agent::{self, Agent};
use rig::{http, process};

/// The number of connected agents.
const AGENTS: usize = 1_000;
/// The limit for the median notification time.
const NOTIFIED: Duration = Duration::from_millis(50);
/// The limit for the resident memory of an idle agent, in bytes.
const RESIDENT: u64 = 25_000_000;
/// How long an agent is idle before its memory is measured.
const REST: Duration = Duration::from_secs(10);
/// The timeout for a line to arrive.
const PATIENCE: Duration = Duration::from_secs(30);

/// An agent that read an assignment, and when.
type Notice = (usize, Instant);

fn main() {
    let Some(space) = Space::new() else { return };
    let runtime = Runtime::new().unwrap();
    let controller = Controller::start(&space);
    let began = Instant::now();
    let mut notices = connect(&runtime, &controller);
    println!(
        "{AGENTS} tokens were made, and their agents connected and told, within {}.",
        shown(began.elapsed())
    );
    let notified = Notified::take(&runtime, &controller, &mut notices);
    let (controller_now, _) = process::memory(controller.daemon.id());
    let agent = idle_agent(&space, &controller);
    notified.report();
    report_memory(agent, controller_now);
}

/// The real program, with one environment on its own host for each agent, and one more.
struct Controller {
    daemon: Daemon,
    socket: PathBuf,
}

impl Controller {
    fn start(space: &Space) -> Self {
        let folder = space.dir().join("desired-state");
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("bench.toml"), manifest(space)).unwrap();
        Self { daemon: Daemon::start(&folder, &[]), socket: folder.join("abide.sock") }
    }

    fn token(&self, number: usize) -> String {
        let body = json!({"role": "agent", "agent": host(number)}).to_string();
        let made: Value = serde_json::from_str(&self.post("/api/v1/tokens", &body)).unwrap();
        made["token"].as_str().unwrap().to_owned()
    }

    /// Updates the record of one agent's environment.
    fn hold(&self, number: usize) {
        let path = format!("/api/v1/environments/e{number}/hold");
        self.post(&path, r#"{"reason":"measured"}"#);
    }

    fn post(&self, path: &str, body: &str) -> String {
        http::post(&self.socket, path, body).unwrap()
    }
}

fn manifest(space: &Space) -> String {
    let mut manifest = format!("[docker]\nnetwork = \"{}\"\n", space.name("net"));
    for number in 0..=AGENTS {
        let (container, host) = (space.name(&format!("e{number}")), host(number));
        let _ = write!(
            manifest,
            "[environment.e{number}]\ncontainer = \"{container}\"\nport = 8088\nhost = \"{host}\"\n"
        );
    }
    manifest
}

fn host(number: usize) -> String {
    format!("a{number}")
}

/// Connects all agents, and returns once each has its first assignment.
fn connect(runtime: &Runtime, controller: &Controller) -> UnboundedReceiver<Notice> {
    let (notify, mut notices) = unbounded_channel();
    for number in 0..AGENTS {
        let (token, port) = (controller.token(number), controller.daemon.port());
        runtime.spawn(session(number, token, port, notify.clone()));
    }
    (0..AGENTS).for_each(|_| {
        next(runtime, &mut notices);
    });
    notices
}

/// One agent's session, for as long as the benchmark runs.
async fn session(number: usize, token: String, port: u16, notify: UnboundedSender<Notice>) {
    let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let (mut sender, connection) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let hello = Hello {
        version: VERSION,
        instance: host(number),
        epoch: 1,
        software: "bench".to_owned(),
        engine: None,
        proxy: None,
    };
    let request = Request::post(format!("http://127.0.0.1:{port}/api/v1/agent/session"))
        .header("authorization", format!("Bearer {token}"))
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from(serde_json::to_vec(&hello).unwrap())))
        .unwrap();
    let response = sender.send_request(request).await.unwrap();
    assert!(response.status().is_success(), "agent {number}: {}", response.status());
    listen(number, response.into_body(), &notify).await;
}

/// Reports every assignment. An empty line is a keep-alive of the controller.
async fn listen(number: usize, mut lines: Incoming, notify: &UnboundedSender<Notice>) {
    let mut line = Vec::new();
    while let Some(Ok(frame)) = lines.frame().await {
        line.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
        while let Some(end) = line.iter().position(|byte| *byte == b'\n') {
            let at = Instant::now();
            let complete: Vec<u8> = line.drain(..=end).collect();
            if complete.starts_with(br#"{"assignment""#) && notify.send((number, at)).is_err() {
                return;
            }
        }
    }
}

fn next(runtime: &Runtime, notices: &mut UnboundedReceiver<Notice>) -> Notice {
    let next = runtime.block_on(async { tokio::time::timeout(PATIENCE, notices.recv()).await });
    next.unwrap_or_else(|_| panic!("an agent was told nothing within {PATIENCE:?}")).unwrap()
}

/// One change for each agent in turn, while all others are connected.
struct Notified {
    written: Samples,
    read: Samples,
}

impl Notified {
    fn take(runtime: &Runtime, controller: &Controller, notices: &mut UnboundedReceiver<Notice>) -> Self {
        let (mut written, mut read) = (Samples::default(), Samples::default());
        for number in 0..AGENTS {
            let began = Instant::now();
            written.time(|| controller.hold(number));
            let (who, at) = next(runtime, notices);
            assert_eq!(who, number, "only the agent that a change concerns is told");
            read.add(at - began);
        }
        Self { written, read }
    }

    fn report(&self) {
        title(&format!("Record change to agent notified, {AGENTS} agents connected"));
        let mut table = Table::new(&["from the request to", "median", "p90", "p99"]);
        for (what, samples) in [("its acknowledgement", &self.written), ("the agent's line", &self.read)] {
            let cells = [samples.median(), samples.p90(), samples.p99()].map(shown);
            table.row(std::iter::once(what.to_owned()).chain(cells));
        }
        table.print();
        goal(&format!("median under {}", shown(NOTIFIED)), self.read.median() < NOTIFIED);
    }
}

/// Returns the resident memory of a connected idle `abide agent` in bytes: current and peak.
fn idle_agent(space: &Space, controller: &Controller) -> (u64, u64) {
    let agent = start_agent(space, controller);
    let path = format!("/api/v1/environments/e{AGENTS}");
    let asked = Instant::now();
    while http::get(&controller.socket, &path).unwrap().contains("AgentAway") {
        assert!(asked.elapsed() < PATIENCE, "the agent never connected");
        std::thread::sleep(Duration::from_millis(50));
    }
    std::thread::sleep(REST);
    process::memory(agent.id())
}

fn start_agent(space: &Space, controller: &Controller) -> Agent {
    Agent::start(&agent::Options {
        folder: &space.dir().join("agent"),
        server: &format!("http://127.0.0.1:{}", controller.daemon.port()),
        token: &controller.token(AGENTS),
        port: free_port(),
        engine: None,
    })
}

fn report_memory((now, highest): (u64, u64), controller: u64) {
    title("Resident memory");
    let mebibytes = |bytes: u64| format!("{:.1} MiB", bytes as f64 / 1024.0 / 1024.0);
    let mut table = Table::new(&["process", "resident", "at its highest"]);
    table.row(["an idle agent".to_owned(), mebibytes(now), mebibytes(highest)]);
    table.row([format!("the controller of {AGENTS}"), mebibytes(controller), String::new()]);
    table.print();
    goal("an idle agent under 25 MB", now < RESIDENT);
}
