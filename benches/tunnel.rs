//! Measures how fast an image reaches another host through the agent's tunnel, compared with a
//! direct pull from the same registry in the same run.
//!
//! Registry, controllers and agents are the real programs, all on this host, so a direct transfer
//! is as fast as the kernel copies memory, which no network link is. One controller listens on the
//! loopback address without TLS, the other with TLS on another address of this host. The agents
//! have no engine to run the image; a pull uses this host's engine, by digest.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

#[path = "../tests/common/mod.rs"]
mod common;
mod report;
mod rig;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use common::{Daemon, Registry, Space, bulky_image, docker, eventually, free_port, request};
use report::{Samples, Table, goal, ratio, shown, title};
use rig::agent::{self, Agent};
use rig::http;

/// The number of rounds of each kind; [`ROUNDS_VARIABLE`] overrides it.
const ROUNDS: usize = 15;
/// Overrides the number of rounds.
const ROUNDS_VARIABLE: &str = "ABIDE_BENCH_ROUNDS";
/// The sizes of the layers, in bytes.
const LAYERS: [u64; 2] = [64 << 20, 32 << 20];
/// The limit for a pull through the tunnel, in direct pulls: at least 0.8 of their speed.
const LIMIT: f64 = 1.0 / 0.8;
/// The timeout for anything to happen.
const PATIENCE: Duration = Duration::from_secs(60);
/// The media type of the manifest that the engine pushes.
const MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

fn main() {
    let Some(space) = Space::new() else { return };
    let Some(registry) = Registry::start(&space) else { return };
    let rounds = std::env::var(ROUNDS_VARIABLE).ok().and_then(|count| count.parse().ok()).unwrap_or(ROUNDS);
    let image = Image::push(&space, &registry);
    let plain = Tunnel::start(&space, "plain", "127.0.0.1", &image);
    let encrypted = Tunnel::start(&space, "encrypted", &space.address(), &image);
    let ways = [
        Way { name: "direct", port: registry.port() },
        Way { name: "through the tunnel", port: plain.port },
        Way { name: "through the tunnel, with TLS", port: encrypted.port },
    ];
    let (digest, bytes) = image.largest_layer();
    let blob = format!("/v2/{}/blobs/{digest}", image.path);
    ways.iter().for_each(|way| assert_eq!(way.hash(&blob), digest, "{}", way.name));
    let transfers = measure(&ways, rounds, |way| way.transfer(&blob, bytes));
    let pulls = measure(&ways, rounds, |way| way.pull(&image));
    let size = |bytes: u64| format!("{:.0} MiB", bytes as f64 / 1024.0 / 1024.0);
    let total: u64 = image.layers.iter().map(|(_, bytes)| bytes).sum();
    report(&format!("A layer of {} over HTTP", size(bytes)), &ways, &transfers, bytes);
    report(&format!("`docker pull` of {}", size(total)), &ways, &pulls, total);
    for (way, samples) in ways.iter().zip(&pulls).skip(1) {
        let is_met = samples.median() <= pulls[0].median().mul_f64(LIMIT);
        goal(&format!("a pull {} at 0.8 of the speed of a direct one", way.name), is_met);
    }
}

/// The image in the registry; this engine does not store it.
struct Image {
    /// Its repository, without the registry's host.
    path: String,
    host: String,
    digest: String,
    /// The digest and size of each layer.
    layers: Vec<(String, u64)>,
}

impl Image {
    fn push(space: &Space, registry: &Registry) -> Self {
        let (id, path) = (bulky_image(space, "measured", &LAYERS), space.name("image"));
        let tag = format!("{}/{path}:latest", registry.host());
        docker(&["tag", &id, &tag]);
        docker(&["push", "--quiet", &tag]);
        docker(&["rmi", "--force", &id]);
        let digest = registry.digest(&path, "latest").unwrap();
        let (status, manifest) = manifest(registry.port(), &path, &digest);
        assert_eq!(status, 200, "{manifest}");
        let manifest: Value = serde_json::from_str(&manifest).unwrap();
        let layers = manifest["layers"].as_array().unwrap().iter();
        let layers = layers
            .map(|layer| (layer["digest"].as_str().unwrap().to_owned(), layer["size"].as_u64().unwrap()));
        Self { layers: layers.collect(), host: registry.host(), path, digest }
    }

    fn largest_layer(&self) -> (&str, u64) {
        let (digest, bytes) = self.layers.iter().max_by_key(|(_, bytes)| *bytes).unwrap();
        (digest, *bytes)
    }
}

fn manifest(port: u16, path: &str, digest: &str) -> (u16, String) {
    request(port, "GET", &format!("/v2/{path}/manifests/{digest}"), &[("Accept", MANIFEST)], b"").unwrap()
}

/// A controller, and an agent that may pull the image through it. The agent stops first.
struct Tunnel {
    port: u16,
    _agent: Agent,
    _controller: Daemon,
}

impl Tunnel {
    fn start(space: &Space, name: &str, address: &str, image: &Image) -> Self {
        let folder = space.dir().join(name);
        std::fs::create_dir(&folder).unwrap();
        let (network, container) = (space.name("net"), space.name(name));
        let manifest = format!(
            "[docker]\nnetwork = \"{network}\"\n[environment.far]\ncontainer = \"{container}\"\nport = 8088\nhost = \"far\"\n"
        );
        std::fs::write(folder.join("bench.toml"), manifest).unwrap();
        let listen = format!("{address}:{}", free_port());
        let controller = Daemon::start_at(&folder, &listen, &[]);
        let recorded = format!("{}/{}@{}", image.host, image.path, image.digest);
        let set = controller.abide(&["set", "far", &recorded]);
        assert_eq!(set.code, 0, "{set:?}");
        let scheme = if address.starts_with("127.") { "http" } else { "https" };
        let port = free_port();
        let agent = Agent::start(&agent::Options {
            folder: &space.dir().join(format!("{name}-agent")),
            server: &format!("{scheme}://{listen}"),
            token: &token(&folder.join("abide.sock")),
            port,
            engine: Some(&format!("unix://{}", space.dir().join("no-engine.sock").display())),
        });
        eventually("the image can be had through the tunnel", PATIENCE, || {
            TcpStream::connect(("127.0.0.1", port)).is_ok()
                && self::manifest(port, &image.path, &image.digest).0 == 200
        });
        Self { port, _agent: agent, _controller: controller }
    }
}

fn token(socket: &Path) -> String {
    let made = http::post(socket, "/api/v1/tokens", &json!({"role": "agent", "agent": "far"}).to_string());
    let made: Value = serde_json::from_str(&made.unwrap()).unwrap();
    made["token"].as_str().unwrap().to_owned()
}

/// An address of the registry.
struct Way {
    name: &'static str,
    /// The port on the loopback address.
    port: u16,
}

impl Way {
    /// Returns how long the transfer of a blob of `bytes` bytes takes.
    fn transfer(&self, path: &str, bytes: u64) -> Duration {
        let mut read = 0;
        let began = Instant::now();
        self.read(path, |piece| read += piece.len() as u64);
        let took = began.elapsed();
        assert_eq!(read, bytes, "{}", self.name);
        took
    }

    /// Returns the digest of the received bytes.
    fn hash(&self, path: &str) -> String {
        let mut hash = Sha256::new();
        self.read(path, |piece| hash.update(piece));
        format!("sha256:{}", hex::encode(hash.finalize()))
    }

    /// Reads the body of a successful answer in chunks.
    fn read(&self, path: &str, mut piece: impl FnMut(&[u8])) {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        // With HTTP/1.0, the end of the connection ends the answer.
        write!(stream, "GET {path} HTTP/1.0\r\nHost: 127.0.0.1:{}\r\n\r\n", self.port).unwrap();
        let mut buffer = vec![0; 256 * 1024];
        let mut length = 0;
        let end = loop {
            let read = stream.read(&mut buffer[length..]).unwrap();
            assert!(read > 0, "{}: no whole head", self.name);
            length += read;
            if let Some(at) = buffer[..length].windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                break at + 4;
            }
        };
        let head = String::from_utf8_lossy(&buffer[..end]);
        assert!(head.split(' ').nth(1) == Some("200"), "{}: {head}", self.name);
        piece(&buffer[end..length]);
        loop {
            match stream.read(&mut buffer).unwrap() {
                0 => return,
                read => piece(&buffer[..read]),
            }
        }
    }

    /// Returns how long the engine takes to pull the image, of which it has no part.
    fn pull(&self, image: &Image) -> Duration {
        let name = format!("127.0.0.1:{}/{}@{}", self.port, image.path, image.digest);
        let began = Instant::now();
        docker(&["pull", "--quiet", &name]);
        let took = began.elapsed();
        docker(&["rmi", "--force", &name]);
        took
    }
}

/// Measures all ways in turn, after one uncounted round. Each round begins with another way, so
/// that none has a fixed position.
fn measure<const N: usize>(
    ways: &[Way; N],
    rounds: usize,
    mut take: impl FnMut(&Way) -> Duration,
) -> [Samples; N] {
    let mut samples = [(); N].map(|()| Samples::default());
    for way in ways {
        take(way);
    }
    for round in 0..rounds {
        for at in (0..N).map(|turn| (round + turn) % N) {
            samples[at].add(take(&ways[at]));
        }
    }
    samples
}

fn report(what: &str, ways: &[Way], samples: &[Samples], bytes: u64) {
    title(what);
    let speed = |took: Duration| format!("{:.0} MiB/s", bytes as f64 / 1024.0 / 1024.0 / took.as_secs_f64());
    let mut table = Table::new(&["way", "median", "p90", "speed", "of the direct speed"]);
    for (way, own) in ways.iter().zip(samples) {
        let (median, direct) = (own.median(), samples[0].median());
        let cells = [shown(median), shown(own.p90()), speed(median), ratio(direct, median)];
        table.row(std::iter::once(way.name.to_owned()).chain(cells));
    }
    table.print();
}
