//! Unauthenticated clients attack the real daemon in every way at once, while a signed sender
//! pushes.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::runtime::Runtime;

use crate::child::{PATIENCE, Place, Running};
use crate::common::{GitRepo, SECRET, Space, busybox, eventually, http_get, signed_post};

/// The timeout of a sender such as GitHub.
const SENDERS_PATIENCE: Duration = Duration::from_secs(10);
/// The limit for the daemon's peak memory, in KiB.
const MOST_MEMORY: u64 = 256 * 1024;
/// Networks from which strangers come.
const NETWORKS: usize = 40;
/// The largest body that GitHub sends.
const LARGEST: usize = 25_000_000;

/// The size of an attack.
#[derive(Clone, Copy)]
struct Attack {
    /// The number of connections to hold.
    held: usize,
    /// Unsigned bodies of [`LARGEST`] bytes at once.
    streams: usize,
    /// The duration.
    lasts: Duration,
}

/// The observations.
struct Seen {
    /// The duration of each signed push.
    pushes: Vec<Duration>,
    /// The daemon's `VmHWM`, in KiB.
    memory: u64,
    /// How often a held connection was opened, and how many bodies were sent completely or cut off.
    opened: usize,
    streamed: usize,
}

#[test]
#[cfg_attr(
    debug_assertions,
    ignore = "an unoptimized build hashes bodies too slowly for any sender's patience"
)]
fn a_signed_push_is_accepted_during_an_attack() {
    let seen = attack(Attack { held: 1_500, streams: 24, lasts: Duration::from_secs(8) });
    seen.judge();
}

/// At full size: `cargo test --release --test daemon strangers -- --ignored --nocapture`.
#[test]
#[ignore = "takes a minute and both processors; run it by hand"]
fn a_signed_push_is_accepted_during_the_largest_attack() {
    let seen = attack(Attack { held: 4_096, streams: 100, lasts: Duration::from_secs(45) });
    seen.judge();
}

/// The same with an engine, on which two repositories hang all builds.
#[test]
#[ignore = "takes a minute and both processors; run it by hand"]
fn a_signed_push_is_accepted_during_an_attack_and_hanging_builds() {
    let Some(space) = Space::new() else { return };
    let Some(base) = busybox(&space) else { return };
    allow_more_files();
    let place = Place::new();
    hanging_builds(&place, &space, &base);
    let daemon = place.serve(&[("DOCKER_HOST", "unix:///var/run/docker.sock")]);
    let hang = || space.containers().len() == 2;
    eventually("both builds hang", PATIENCE, hang);
    let seen =
        under_attack(&place, &daemon, Attack { held: 4_096, streams: 100, lasts: Duration::from_secs(45) });
    assert!(hang(), "a build ended: {}", daemon.log());
    seen.judge();
}

/// Declares two repositories whose builds never end, in place of those that the engine could build.
fn hanging_builds(place: &Place, space: &Space, base: &str) {
    let repositories = ["a", "b"].map(|name| (name, GitRepo::named(space, &format!("hang-{name}"))));
    let tables = repositories.each_ref().map(|(name, repository)| {
        let step = format!("FROM {base}\nCMD [\"sleep\", \"4252\"]\n");
        repository.commit_and_push("dev", &[("Dockerfile.hang", &step)]);
        format!(
            "[repository.hang-{name}]\nurl = \"{}\"\npoll = \"5s\"\n[environment.hang-{name}]\ncontainer = \
             \"{}\"\nport = 80\npublish = false\nsource = {{ repository = \"hang-{name}\", branch = \"dev\" \
             }}\n[[environment.hang-{name}.build.step]]\ndockerfile = \"Dockerfile.hang\"\noutput = \"x\"\n",
            repository.url(),
            space.name(&format!("hang-{name}"))
        )
    });
    let network = format!("[docker]\nnetwork = \"{}\"\n", space.name("abide"));
    std::fs::write(place.desired_state().join("hang.toml"), network + &tables.concat()).unwrap();
    place.lose_branch("dev");
}

fn attack(attack: Attack) -> Seen {
    allow_more_files();
    let place = Place::new();
    let hung = hanging_repositories(&place);
    let daemon = place.serve(&[]);
    let seen = under_attack(&place, &daemon, attack);
    assert!(hung.load(Relaxed) >= 2, "git never asked the repositories that hang");
    seen
}

/// Attacks a daemon while a signed sender pushes.
fn under_attack(place: &Place, daemon: &Running, attack: Attack) -> Seen {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, place.port));
    let runtime = Runtime::new().unwrap();
    // A provider that delivered before is remembered by its network.
    push_until(place.port, Instant::now());
    let counts: [Arc<AtomicUsize>; 2] = Default::default();
    let is_over = Arc::new(AtomicBool::new(false));
    for number in 0..attack.held {
        let (opened, is_over) = (Arc::clone(&counts[0]), Arc::clone(&is_over));
        runtime.spawn(async move {
            while !is_over.load(Relaxed) {
                if hold(address, number).await {
                    opened.fetch_add(1, Relaxed);
                }
                // Closed clients reconnect, but slowly enough that this process can do other work.
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        });
    }
    for number in 0..attack.streams {
        let (streamed, is_over) = (Arc::clone(&counts[1]), Arc::clone(&is_over));
        runtime.spawn(async move {
            while !is_over.load(Relaxed) {
                stream(address, number).await;
                streamed.fetch_add(1, Relaxed);
            }
        });
    }
    let pushes = push_until(place.port, Instant::now() + attack.lasts);
    is_over.store(true, Relaxed);
    runtime.shutdown_background();
    let memory = daemon.peak_memory();
    Seen { pushes, memory, opened: counts[0].load(Relaxed), streamed: counts[1].load(Relaxed) }
}

/// Declares two repositories on a server that takes connections and never answers; counts those that came.
fn hanging_repositories(place: &Place) -> Arc<AtomicUsize> {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let declare = |name: &str| {
        format!(
            "[repository.{name}]\nurl = \"http://127.0.0.1:{port}/{name}.git\"\npoll = \"5s\"\n\
             [environment.{name}]\ncontainer = \"abide-t-{name}\"\nport = 80\npublish = false\n\
             source = {{ repository = \"{name}\", branch = \"main\" }}\n"
        )
    };
    let manifest = ["hang-a", "hang-b"].map(declare).concat();
    std::fs::write(place.desired_state().join("hang.toml"), manifest).unwrap();
    let came = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&came);
    std::thread::spawn(move || {
        // What is dropped is closed, and a closed connection is an answer.
        let mut held = Vec::new();
        for client in listener.incoming().flatten() {
            held.push(client);
            counted.fetch_add(1, Relaxed);
        }
    });
    came
}

/// Repeatedly pushes as GitHub does and checks the daemon's health.
fn push_until(port: u16, end: Instant) -> Vec<Duration> {
    let mut pushes = Vec::new();
    while Instant::now() < end || pushes.is_empty() {
        let commit = format!("{:040x}", pushes.len() + 1);
        let filler = "x".repeat(20_000);
        let body = serde_json::json!({
            "ref": "refs/heads/dev", "after": commit, "commits": [{"message": filler}],
            "repository": {"full_name": "example/shop"}, "pusher": {"name": "alice"},
        });
        let start = Instant::now();
        let (status, answer) =
            signed_post(port, "shop", SECRET, "push", body.to_string().as_bytes()).unwrap();
        pushes.push(start.elapsed());
        assert!(status == 202, "{status} {answer}");
        assert_eq!(http_get(port, "/healthz").unwrap().0, 200);
        std::thread::sleep(Duration::from_millis(50));
    }
    pushes
}

impl Seen {
    fn judge(mut self) {
        self.pushes.sort_unstable();
        let at = |percent: usize| self.pushes[(self.pushes.len() - 1) * percent / 100];
        eprintln!(
            "{} signed pushes: median {:?}, p99 {:?}, longest {:?}; peak memory {} MiB; {} connections were \
             held, {} bodies of 25 MB were sent",
            self.pushes.len(),
            at(50),
            at(99),
            at(100),
            self.memory / 1024,
            self.opened,
            self.streamed
        );
        assert!(at(99) < SENDERS_PATIENCE, "a signed push took {:?}", at(99));
        assert!(self.memory < MOST_MEMORY, "the daemon had {} KiB", self.memory);
    }
}

/// Connects from one of many networks. The sender's own network is none of them: whoever shares one with an
/// attacker shares its part of the budget.
async fn connect(address: SocketAddr, number: usize) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    let network = u8::try_from(1 + number % NETWORKS).unwrap_or(1);
    socket.bind(SocketAddr::from(([127, network, 0, 1], 0)))?;
    socket.connect(address).await
}

/// Holds a connection in one of several ways until the daemon closes it; returns whether it was
/// opened at all.
async fn hold(address: SocketAddr, number: usize) -> bool {
    let Ok(mut stream) = connect(address, number).await else { return false };
    if stream.write_all(&beginning(number)).await.is_err() {
        return false;
    }
    let mut piece = [0; 64];
    // Reads as little as possible of the answer, because only the end matters.
    tokio::time::sleep(Duration::from_secs(2)).await;
    while !matches!(stream.read(&mut piece).await, Ok(0) | Err(_)) {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    true
}

fn beginning(number: usize) -> Vec<u8> {
    let signed = "POST /webhooks/shop HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nX-Hub-Signature-256: sha256=";
    let signed = format!("{signed}{}\r\nContent-Length: {LARGEST}\r\n\r\n", "0".repeat(64));
    match number % 6 {
        0 => Vec::new(),
        1 => format!("GET /healthz HTTP/1.1\r\nHost: x\r\nX: {}", "x".repeat(30_000)).into_bytes(),
        2 => "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n".repeat(500).into_bytes(),
        3 => closed_window(),
        4 => [signed.as_bytes(), b"{\"ref\":\"", &[b'x'; 4_000], b"\",", &[b' '; 40_000]].concat(),
        _ => [closed_window(), waiting_bodies()].concat(),
    }
}

/// An HTTP/2 client with a closed window that requests `/` a hundred times.
fn closed_window() -> Vec<u8> {
    let settings = [&[0, 4][..], &0_u32.to_be_bytes()].concat();
    let mut bytes = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".as_slice(), &frame(4, 0, 0, &settings)].concat();
    for stream in (1..200).step_by(2) {
        bytes.extend(frame(1, 0x5, stream, &[0x82, 0x86, 0x84, 0x41, 0x01, b'x']));
    }
    bytes
}

/// Beginnings of bodies in streams without an end.
fn waiting_bodies() -> Vec<u8> {
    let mut bytes = Vec::new();
    for stream in (201..240).step_by(2) {
        let path = b"/webhooks/shop";
        let proof = format!("sha256={}", "0".repeat(64));
        let headers = [
            &[0x83, 0x86, 0x04, 14][..],
            path,
            &[0x41, 0x01, b'x', 0x0f, 0x10, 16],
            b"application/json",
            &[0x00, 19],
            b"x-hub-signature-256",
            &[71],
            proof.as_bytes(),
        ]
        .concat();
        bytes.extend(frame(1, 0x4, stream, &headers));
        bytes.extend(frame(0, 0, stream, &[b' '; 2_000]));
    }
    bytes
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Sends a body of 25 MB as fast as the daemon reads it: unsigned, or with a well-formed signature.
async fn stream(address: SocketAddr, number: usize) {
    let Ok(mut stream) = connect(address, number).await else { return };
    let proof = match number % 4 {
        0 => String::new(),
        _ => format!("X-Hub-Signature-256: sha256={}\r\n", "0".repeat(64)),
    };
    let head = format!(
        "POST /webhooks/shop HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n{proof}Content-Length: \
         {LARGEST}\r\n\r\n{{\"commits\":\""
    );
    let piece = vec![b'x'; 64 * 1024];
    let mut sent = stream.write_all(head.as_bytes()).await;
    let mut left = LARGEST - "{\"commits\":\"".len();
    while sent.is_ok() && left > 0 {
        let now = left.min(piece.len());
        sent = stream.write_all(&piece[..now]).await;
        left -= now;
    }
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(SENDERS_PATIENCE, stream.read_to_end(&mut answer)).await;
}

fn allow_more_files() {
    let limit = getrlimit(Resource::Nofile);
    let wanted = Rlimit { current: limit.maximum.or(Some(16_384)), ..limit };
    setrlimit(Resource::Nofile, wanted).unwrap();
}
