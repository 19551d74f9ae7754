//! A proxy between abide and the engine that records the time of every message.
//!
//! It forwards bytes as they arrive and parses only the minimum: a chunk from abide that begins
//! with a method is a request. Its overhead counts as abide's, to abide's disadvantage.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};

/// The methods that abide uses.
const METHODS: [&str; 4] = ["GET ", "POST ", "DELETE ", "HEAD "];

/// A recorded message.
#[derive(Clone, Debug)]
pub(crate) struct Passed {
    /// When it was read from its sender.
    pub(crate) at: Instant,
    /// The number of the connection.
    pub(crate) connection: usize,
    /// The message.
    pub(crate) what: What,
}

/// The kind of message.
#[derive(Clone, Debug)]
pub(crate) enum What {
    /// A request of abide: its method and target.
    Request(String),
    /// Bytes of the engine, as text.
    Answer(String),
}

/// A running proxy; it ends with its runtime.
pub(crate) struct Proxy {
    socket: PathBuf,
    passed: Arc<Mutex<Vec<Passed>>>,
}

impl Proxy {
    /// Listens on `socket` and forwards to the engine at `engine`. Needs a runtime.
    pub(crate) fn start(socket: PathBuf, engine: &Path) -> Self {
        let listener = UnixListener::bind(&socket).unwrap();
        let passed = Arc::new(Mutex::new(Vec::new()));
        let (log, engine) = (Arc::clone(&passed), engine.to_owned());
        tokio::spawn(async move {
            for connection in 0.. {
                let (client, _) = listener.accept().await.unwrap();
                let server = UnixStream::connect(&engine).await.unwrap();
                let (from_client, to_client) = client.into_split();
                let (from_server, to_server) = server.into_split();
                let up = Pump { log: Arc::clone(&log), connection, is_up: true };
                let down = Pump { log: Arc::clone(&log), connection, is_up: false };
                tokio::spawn(up.run(from_client, to_server));
                tokio::spawn(down.run(from_server, to_client));
            }
        });
        Self { socket, passed }
    }

    /// The value of `DOCKER_HOST` for this proxy.
    pub(crate) fn docker_host(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    /// Clears the recorded messages.
    pub(crate) fn forget(&self) {
        self.passed().clear();
    }

    /// Returns the messages recorded since the last clear.
    pub(crate) fn seen(&self) -> Trace {
        Trace(self.passed().clone())
    }

    fn passed(&self) -> MutexGuard<'_, Vec<Passed>> {
        self.passed.lock().unwrap()
    }
}

/// One direction of one connection.
struct Pump {
    log: Arc<Mutex<Vec<Passed>>>,
    connection: usize,
    is_up: bool,
}

impl Pump {
    async fn run(self, mut from: OwnedReadHalf, mut to: OwnedWriteHalf) {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(length @ 1..) = from.read(&mut buffer).await {
            let at = Instant::now();
            self.note(at, &String::from_utf8_lossy(&buffer[..length]));
            if to.write_all(&buffer[..length]).await.is_err() {
                break;
            }
        }
        // The other end may already be closed.
        let _ = to.shutdown().await;
    }

    fn note(&self, at: Instant, text: &str) {
        let what = match self.is_up {
            false => What::Answer(text.to_owned()),
            true if METHODS.iter().any(|method| text.starts_with(method)) => {
                let words: Vec<&str> = text.split_whitespace().take(2).collect();
                What::Request(words.join(" "))
            }
            // A part of a body.
            true => return,
        };
        self.log.lock().unwrap().push(Passed { at, connection: self.connection, what });
    }
}

/// The recorded messages of a period, in order.
pub(crate) struct Trace(Vec<Passed>);

impl Trace {
    /// The requests, as method and target.
    pub(crate) fn requests(&self) -> Vec<&str> {
        self.0.iter().filter_map(request).collect()
    }

    /// The number of bytes in the engine's answers.
    pub(crate) fn answered_bytes(&self) -> usize {
        let bytes = self.0.iter().map(|passed| match &passed.what {
            What::Answer(text) => text.len(),
            What::Request(_) => 0,
        });
        bytes.sum()
    }

    /// The number of events that the engine sent.
    pub(crate) fn events(&self) -> usize {
        let found = self.0.iter().map(|passed| match &passed.what {
            What::Answer(text) => text.matches("\"Action\":\"").count(),
            What::Request(_) => 0,
        });
        found.sum()
    }

    /// When the engine reported the end of the container `id`.
    pub(crate) fn died(&self, id: &str) -> Option<Instant> {
        let found = self.0.iter().find(|passed| {
            matches!(&passed.what, What::Answer(text) if text.contains(id) && text.contains("\"Action\":\"die\""))
        });
        found.map(|passed| passed.at)
    }

    /// When abide requested the start of the container `id`.
    pub(crate) fn start_asked(&self, id: &str) -> Option<Instant> {
        let wanted = format!("/containers/{id}/start");
        let asked = self.0.iter().find(|passed| request(passed).is_some_and(|line| line.contains(&wanted)));
        asked.map(|passed| passed.at)
    }

    /// The part of the time from `begin` to `end` in which the engine worked on requests about
    /// `id`.
    pub(crate) fn engine_time(&self, id: &str, begin: Instant, end: Instant) -> Duration {
        let asked = self.0.iter().filter(|passed| {
            passed.at >= begin && passed.at < end && request(passed).is_some_and(|line| line.contains(id))
        });
        let spans = asked.filter_map(|asked| Some((asked.at, self.last_answer(asked, end)?)));
        overlapping_once(spans.collect())
    }

    /// When the last byte of the answer to `asked` passed: the last before the connection was used
    /// again.
    fn last_answer(&self, asked: &Passed, end: Instant) -> Option<Instant> {
        let later = self.0.iter().filter(|passed| {
            passed.connection == asked.connection && passed.at > asked.at && passed.at < end
        });
        let answers = later.take_while(|passed| request(passed).is_none());
        answers.last().map(|passed| passed.at)
    }
}

fn request(passed: &Passed) -> Option<&str> {
    match &passed.what {
        What::Request(line) => Some(line),
        What::Answer(_) => None,
    }
}

/// The time that `spans`, ordered by start, cover together.
fn overlapping_once(spans: Vec<(Instant, Instant)>) -> Duration {
    let mut covered = Duration::ZERO;
    let mut until: Option<Instant> = None;
    for (begin, end) in spans {
        let begin = until.map_or(begin, |until| begin.max(until));
        covered += end.saturating_duration_since(begin);
        until = Some(until.map_or(end, |until| until.max(end)));
    }
    covered
}
