//! Measures the web page: the weight of its pages, the daemon's time for boards of 1 to 1,000 environments, and the
//! daemon's CPU time while 200 browsers have the board open and something changes once a second.
//!
//! The daemon is the real program on the loopback address without TLS. Its environments belong to an agent that never
//! connects, so that no container disturbs the measurement; each has a recorded image.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

#[path = "../tests/common/mod.rs"]
mod common;
mod report;
mod rig;

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use common::{Daemon, Space};
use report::{Samples, Table, goal, shown, title};
use rig::{http, process};

/// The boards.
const BOARDS: [usize; 4] = [1, 10, 300, 1_000];
/// The board with a goal, and its limit for p99.
const LARGE: usize = 300;
const LARGE_WITHIN: Duration = Duration::from_millis(20);
/// Requests for each page.
const REQUESTS: usize = 200;
/// The limits of the compressed weights, in bytes.
const PAGE: usize = 20_000;
const ASSET: usize = 6_144;
/// The open pages, and how long they are open.
const PAGES: usize = 200;
const OPEN: Duration = Duration::from_secs(30);
/// As the page's script waits.
const QUIET: Duration = Duration::from_millis(300);

fn main() {
    let mut times = Table::new(&["environments", "page", "median", "p90", "p99", "gzip", "plain"]);
    let mut large = Duration::MAX;
    let mut heaviest = 0;
    for count in BOARDS {
        let Some(space) = Space::new() else { return };
        let site = Site::start(&space, count);
        for path in ["/", "/environments/e0", "/activity"] {
            let measured = site.measure(path);
            if (count, path) == (LARGE, "/") {
                large = measured.samples.p99();
            }
            heaviest = heaviest.max(if count <= LARGE { measured.packed } else { 0 });
            let times_of =
                [measured.samples.median(), measured.samples.p90(), measured.samples.p99()].map(shown);
            let sizes = [measured.packed, measured.plain].map(kilobytes);
            let cells = [count.to_string(), path.to_owned()];
            times.row(cells.into_iter().chain(times_of).chain(sizes));
        }
        if count == 10 {
            assets(&site);
            open_pages(&site);
        }
    }
    title(&format!("Time and weight of pages, {REQUESTS} requests on one connection"));
    times.print();
    goal(&format!("p99 of the board of {LARGE} within {}", shown(LARGE_WITHIN)), large <= LARGE_WITHIN);
    goal(&format!("every page up to {LARGE} environments within {}", kilobytes(PAGE)), heaviest <= PAGE);
}

fn kilobytes(bytes: usize) -> String {
    format!("{:.1} kB", bytes as f64 / 1_000.0)
}

/// A daemon with its environments, and a token.
struct Site {
    daemon: Daemon,
    socket: PathBuf,
    token: String,
}

/// The measurements of one page.
struct Measured {
    samples: Samples,
    packed: usize,
    plain: usize,
}

impl Site {
    fn start(space: &Space, count: usize) -> Self {
        let folder = space.dir().join("desired-state");
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("bench.toml"), manifest(space, count)).unwrap();
        let (daemon, socket) = (Daemon::start(&folder, &[]), folder.join("abide.sock"));
        for number in 0..count {
            let image = format!("registry.example/app@sha256:{number:064x}");
            let path = format!("/api/v1/environments/e{number}/set");
            http::post(&socket, &path, &json!({ "image": image }).to_string()).unwrap();
        }
        let body = json!({ "role": "viewer", "name": "bench" }).to_string();
        let made: Value =
            serde_json::from_str(&http::post(&socket, "/api/v1/tokens", &body).unwrap()).unwrap();
        Self { daemon, socket, token: made["token"].as_str().unwrap().to_owned() }
    }

    fn connect(&self) -> Connection {
        let stream = TcpStream::connect(("127.0.0.1", self.daemon.port())).unwrap();
        stream.set_nodelay(true).unwrap();
        let head =
            format!("Host: 127.0.0.1:{}\r\nAuthorization: Bearer {}\r\n", self.daemon.port(), self.token);
        Connection { stream: BufReader::new(stream), head }
    }

    fn measure(&self, path: &str) -> Measured {
        let mut connection = self.connect();
        let mut samples = Samples::default();
        let (_, plain) = connection.get(path, "");
        let mut packed = 0;
        for round in 0..REQUESTS + 5 {
            let began = Instant::now();
            packed = connection.get(path, "Accept-Encoding: gzip\r\n").1.len();
            if round >= 5 {
                samples.add(began.elapsed());
            }
        }
        Measured { samples, packed, plain: plain.len() }
    }
}

/// Chains of three environments.
fn manifest(space: &Space, count: usize) -> String {
    let mut manifest = format!("[docker]\nnetwork = \"{}\"\n", space.name("net"));
    for number in 0..count {
        let container = space.name(&format!("e{number}"));
        let _ = write!(
            manifest,
            "[environment.e{number}]\ncontainer = \"{container}\"\nport = 8088\npublish = false\nhost = \"far\"\n"
        );
        if !number.is_multiple_of(3) {
            let _ = writeln!(manifest, "promote_from = \"e{}\"", number - 1);
        }
    }
    manifest
}

/// A kept connection.
struct Connection {
    stream: BufReader<TcpStream>,
    head: String,
}

impl Connection {
    fn ask(&mut self, path: &str, more: &str) {
        let request = format!("GET {path} HTTP/1.1\r\n{}{more}\r\n", self.head);
        self.stream.get_mut().write_all(request.as_bytes()).unwrap();
    }

    /// Returns the head and the body of an answer.
    fn get(&mut self, path: &str, more: &str) -> (String, Vec<u8>) {
        self.ask(path, more);
        let head = self.head();
        let length = head.to_ascii_lowercase();
        let length =
            length.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
        let mut body = vec![0; length.unwrap_or(0)];
        self.stream.read_exact(&mut body).unwrap();
        let is_good = head.starts_with("HTTP/1.1 200") || head.starts_with("HTTP/1.1 304");
        assert!(is_good, "{path}: {head}{}", String::from_utf8_lossy(&body));
        (head, body)
    }

    fn head(&mut self) -> String {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert!(self.stream.read_line(&mut head).unwrap() > 0, "the connection was closed");
        }
        head
    }
}

fn assets(site: &Site) {
    let mut connection = site.connect();
    let page = String::from_utf8(connection.get("/", "").1).unwrap();
    title("Weight of the assets");
    let mut table = Table::new(&["file", "gzip", "plain"]);
    let mut is_met = true;
    for ending in [".css", ".js"] {
        let end = page.find(&format!("{ending}\"")).unwrap() + ending.len();
        let path = &page[page[..end].rfind('"').unwrap() + 1..end];
        let plain = connection.get(path, "").1.len();
        let packed = connection.get(path, "Accept-Encoding: gzip\r\n").1.len();
        is_met &= packed <= ASSET;
        table.row([ending.to_owned(), kilobytes(packed), kilobytes(plain)]);
    }
    table.print();
    goal(&format!("each within {}", kilobytes(ASSET)), is_met);
}

/// Each page has a stream of hints, and fetches itself after each hint as the script does.
fn open_pages(site: &Site) {
    let (is_over, fetched) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let pages: Vec<_> = (0..PAGES)
        .map(|_| {
            let (hints, page) = (site.connect(), site.connect());
            let (is_over, fetched) = (Arc::clone(&is_over), Arc::clone(&fetched));
            std::thread::spawn(move || keep_open(hints, page, &is_over, &fetched))
        })
        .collect();
    common::eventually("every page is open", Duration::from_secs(60), || {
        fetched.load(Ordering::Relaxed) >= PAGES
    });
    let before = (process::cpu_time(site.daemon.id()), fetched.load(Ordering::Relaxed));
    let began = Instant::now();
    let mut changes = 0;
    while began.elapsed() < OPEN {
        let (verb, body) =
            if changes % 2 == 0 { ("hold", r#"{"reason":"measured"}"#) } else { ("resume", "{}") };
        http::post(&site.socket, &format!("/api/v1/environments/e0/{verb}"), body).unwrap();
        changes += 1;
        std::thread::sleep(Duration::from_secs(1));
    }
    let elapsed = began.elapsed();
    let spent = process::cpu_time(site.daemon.id()) - before.0;
    let fetches = fetched.load(Ordering::Relaxed) - before.1;
    is_over.store(true, Ordering::Relaxed);
    http::post(&site.socket, "/api/v1/environments/e0/hold", r#"{"reason":"the end"}"#).unwrap();
    pages.into_iter().for_each(|page| page.join().unwrap());
    title(&format!("{PAGES} open boards of 10 environments, one change per second"));
    let mut table = Table::new(&["changes", "pages fetched", "CPU of the daemon", "per fetch"]);
    let share = spent.as_secs_f64() / elapsed.as_secs_f64() * 100.0;
    let each = spent.checked_div(u32::try_from(fetches).unwrap()).unwrap_or_default();
    table.row([changes.to_string(), fetches.to_string(), format!("{share:.0} % of one core"), shown(each)]);
    table.print();
}

fn keep_open(mut hints: Connection, mut page: Connection, is_over: &AtomicBool, fetched: &AtomicUsize) {
    let mut version = String::new();
    hints.ask("/hints", "");
    hints.head();
    loop {
        let known = if version.is_empty() { String::new() } else { format!("If-None-Match: {version}\r\n") };
        let (head, _) = page.get("/", &format!("Accept-Encoding: gzip\r\n{known}"));
        let tag = head.lines().find_map(|line| line.strip_prefix("etag: "));
        version = tag.unwrap_or_default().to_owned();
        fetched.fetch_add(1, Ordering::Relaxed);
        let mut line = String::new();
        while !line.starts_with("event: changed") {
            line.clear();
            if hints.stream.read_line(&mut line).unwrap_or(0) == 0 || is_over.load(Ordering::Relaxed) {
                return;
            }
        }
        std::thread::sleep(QUIET);
    }
}
