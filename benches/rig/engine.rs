//! The engine without abide: its socket, the test image, main processes, and answering ports.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use crate::common::docker;

/// The port of the site in its containers.
pub(crate) const PORT: u16 = crate::common::SITE_PORT;
/// The interval of new attempts, so that one lost packet does not delay the others.
const ATTEMPTS: Duration = Duration::from_millis(10);
/// The pause of a client after a bad answer.
const PAUSE: Duration = Duration::from_millis(5);
/// How long a container may take to serve.
const PATIENCE: Duration = Duration::from_secs(60);

/// The engine's own socket.
pub(crate) fn socket() -> PathBuf {
    let host = std::env::var("DOCKER_HOST").unwrap_or_else(|_| "unix:///var/run/docker.sock".to_owned());
    host.strip_prefix("unix://").expect("these benchmarks need an engine on a Unix socket").into()
}

/// Kills the main process of a container and all its children with `kill -9`; returns the time just
/// before.
pub(crate) fn kill_main_process(container: &str) -> Instant {
    end(container, |process| kill_process(Pid::from_raw(process).unwrap(), Signal::KILL).unwrap())
}

/// Ends the main process of a container with `harm`, which gets its process ID, and waits for the
/// end; returns the time just before.
pub(crate) fn end(container: &str, harm: impl FnOnce(i32) + Send) -> Instant {
    let process = docker(&["inspect", "--format", "{{.State.Pid}}", container]).parse().unwrap();
    std::thread::scope(|scope| {
        let at = Instant::now();
        // Runs concurrently, because an engine may answer long after the end.
        scope.spawn(move || harm(process));
        // The kernel ends the first process of a namespace last; until then another may still
        // answer.
        while is_running(process) {
            std::thread::sleep(Duration::from_micros(100));
        }
        at
    })
}

/// Whether a process exists and is not a zombie.
fn is_running(process: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(") ").and_then(|(_, fields)| fields.chars().next());
    state.is_some_and(|state| state != 'Z' && state != 'X')
}

/// Waits until a port of the loopback address serves HTTP, and returns the time.
///
/// # Panics
/// The port never serves.
pub(crate) fn await_served(runtime: &Runtime, port: u16) -> Instant {
    await_answer(runtime, port, "")
}

/// The same, until it serves a page that ends in these words.
pub(crate) fn await_page(runtime: &Runtime, port: u16, words: &'static str) -> Instant {
    await_answer(runtime, port, words)
}

/// The times at which a port of the loopback address served again.
#[derive(Clone, Copy)]
pub(crate) struct Back {
    /// To clients that open a new connection.
    pub(crate) any: Instant,
    /// To a client that retries only after its last request has ended. A request lost on its way to
    /// a removed address costs TCP's first retransmission, a second.
    pub(crate) one: Instant,
}

/// Waits until a port serves again, to both kinds of clients.
///
/// # Panics
/// The port never serves.
pub(crate) fn await_back(runtime: &Runtime, port: u16) -> Back {
    let one = runtime.spawn(async move {
        let asking = async {
            loop {
                if let Some(at) = is_served(port, "").await {
                    return at;
                }
                tokio::time::sleep(PAUSE).await;
            }
        };
        tokio::time::timeout(PATIENCE, asking).await
    });
    let any = await_served(runtime, port);
    let one = runtime.block_on(one).unwrap().unwrap_or_else(|_| panic!("nobody serves on port {port}"));
    Back { any, one }
}

fn await_answer(runtime: &Runtime, port: u16, words: &'static str) -> Instant {
    let served = async {
        let mut attempts = JoinSet::new();
        loop {
            attempts.spawn(is_served(port, words));
            tokio::select! {
                Some(Ok(Some(at))) = attempts.join_next() => return at,
                () = tokio::time::sleep(ATTEMPTS) => {}
            }
        }
    };
    let served = runtime.block_on(async { tokio::time::timeout(PATIENCE, served).await });
    served.unwrap_or_else(|_| panic!("nobody serves on port {port}"))
}

/// Returns when one request was answered, if it was. An accepted connection proves nothing, because
/// the engine's own proxy accepts for a removed container.
async fn is_served(port: u16, words: &str) -> Option<Instant> {
    let mut stream = TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await.ok()?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await.ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.ok()?;
    (answer.starts_with("HTTP/1.1 200 ") && answer.ends_with(words)).then(Instant::now)
}
