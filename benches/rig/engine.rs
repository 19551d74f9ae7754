//! The engine without abide: its socket, the image that is run, main processes, and who answers.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use crate::common::docker;

/// Where the site listens in its containers.
pub(crate) const PORT: u16 = crate::common::SITE_PORT;
/// A new attempt to be answered is made this often, so that a lost packet of one costs the others
/// nothing.
const ATTEMPTS: Duration = Duration::from_millis(10);
/// After an answer that was no good, the next request of one client comes this soon.
const PAUSE: Duration = Duration::from_millis(5);
/// How long a container may take to serve.
const PATIENCE: Duration = Duration::from_secs(60);

/// The engine's own socket.
pub(crate) fn socket() -> PathBuf {
    let host = std::env::var("DOCKER_HOST").unwrap_or_else(|_| "unix:///var/run/docker.sock".to_owned());
    host.strip_prefix("unix://").expect("these benchmarks need an engine on a Unix socket").into()
}

/// `kill -9` of the main process of a container, and all that ran under it; gives the moment just
/// before.
pub(crate) fn kill_main_process(container: &str) -> Instant {
    end(container, |process| kill_process(Pid::from_raw(process).unwrap(), Signal::KILL).unwrap())
}

/// Has `harm` end the main process of a container, which it is told, and waits until that is gone;
/// gives the moment just before.
pub(crate) fn end(container: &str, harm: impl FnOnce(i32) + Send) -> Instant {
    let process = docker(&["inspect", "--format", "{{.State.Pid}}", container]).parse().unwrap();
    std::thread::scope(|scope| {
        let at = Instant::now();
        // Beside it, for an engine may answer long after the end.
        scope.spawn(move || harm(process));
        // The kernel ends the first process of a namespace last; until then another may still answer.
        while is_running(process) {
            std::thread::sleep(Duration::from_micros(100));
        }
        at
    })
}

/// Whether a process is neither gone nor only waits for its parent to take note of its end.
fn is_running(process: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(") ").and_then(|(_, fields)| fields.chars().next());
    state.is_some_and(|state| state != 'Z' && state != 'X')
}

/// Waits until a port of the loopback address serves HTTP, and says when it did.
///
/// # Panics
/// Where it never does.
pub(crate) fn await_served(runtime: &Runtime, port: u16) -> Instant {
    await_answer(runtime, port, "")
}

/// The same, until it serves a page that ends in these words.
pub(crate) fn await_page(runtime: &Runtime, port: u16, words: &'static str) -> Instant {
    await_answer(runtime, port, words)
}

/// When a port of the loopback address served again.
#[derive(Clone, Copy)]
pub(crate) struct Back {
    /// To whoever connected anew.
    pub(crate) any: Instant,
    /// To a client that asks again only when it knows what became of its last request. One that is
    /// lost on its way to an address that is gone costs it TCP's first repetition, a second.
    pub(crate) one: Instant,
}

/// Waits until a port serves again, to both.
///
/// # Panics
/// Where it never does.
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

/// Whether one request is answered, and when. That a connection is accepted says nothing: the
/// engine's own proxy accepts for a container that is gone.
async fn is_served(port: u16, words: &str) -> Option<Instant> {
    let mut stream = TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await.ok()?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await.ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.ok()?;
    (answer.starts_with("HTTP/1.1 200 ") && answer.ends_with(words)).then(Instant::now)
}
