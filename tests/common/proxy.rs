//! A proxy between a daemon and the engine: records requests, and injects faults.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// The treatment of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Request and answer are passed on.
    None,
    /// The connection is closed before the request reaches the engine.
    Refuse,
    /// The engine executes the request, but the answer is cut after so many bytes.
    Cut(u64),
    /// The request does not reach the engine; the answer is this status and body.
    Answer(u16, &'static str),
    /// The engine receives nothing, and the connection ends after this time without an answer.
    Hang(Duration),
}

/// Decides about a request by its method and path, such as `POST /containers/0f3a/start`.
pub(crate) type Rule = Box<dyn FnMut(&str) -> Fault + Send>;

/// A socket that forwards to the engine, with one request per connection.
pub(crate) struct Proxy {
    socket: PathBuf,
    shared: Arc<Mutex<Shared>>,
}

struct Shared {
    seen: Vec<String>,
    rule: Rule,
}

impl Proxy {
    /// Listens on a socket in `dir`, for as long as the test program runs, in front of the shared
    /// engine.
    pub(crate) fn start(dir: &Path) -> Self {
        let host = std::env::var("DOCKER_HOST").unwrap_or_default();
        Self::before(dir, host.strip_prefix("unix://").unwrap_or("/var/run/docker.sock").into())
    }

    /// The same, in front of the engine that listens on the socket `engine`.
    pub(crate) fn before(dir: &Path, engine: PathBuf) -> Self {
        let socket = dir.join("engine.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let shared = Arc::new(Mutex::new(Shared { seen: Vec::new(), rule: Box::new(|_| Fault::None) }));
        let of_requests = Arc::clone(&shared);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (shared, engine) = (Arc::clone(&of_requests), engine.clone());
                // Broken connections are part of the tests, as are those without a thread.
                let _ = thread::Builder::new().spawn(move || drop(pass_on(client, &engine, &shared)));
            }
        });
        Self { socket, shared }
    }

    /// The value of `DOCKER_HOST` for this proxy.
    pub(crate) fn host(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    /// Applies `rule` to all further requests.
    pub(crate) fn rule(&self, rule: impl FnMut(&str) -> Fault + Send + 'static) {
        self.shared.lock().unwrap().rule = Box::new(rule);
    }

    /// All requests so far, in order of arrival.
    pub(crate) fn seen(&self) -> Vec<String> {
        self.shared.lock().unwrap().seen.clone()
    }

    /// Clears the recorded requests.
    pub(crate) fn forget(&self) {
        self.shared.lock().unwrap().seen.clear();
    }
}

fn pass_on(mut client: UnixStream, engine: &Path, shared: &Mutex<Shared>) -> io::Result<()> {
    let (head, rest) = read_head(&mut client)?;
    let fault = {
        let mut shared = shared.lock().unwrap();
        let request = method_and_path(&head);
        shared.seen.push(request.clone());
        (shared.rule)(&request)
    };
    let most = match fault {
        Fault::None => u64::MAX,
        Fault::Refuse => return client.shutdown(Shutdown::Both),
        Fault::Cut(bytes) => bytes,
        Fault::Hang(time) => {
            thread::sleep(time);
            return client.shutdown(Shutdown::Both);
        }
        Fault::Answer(status, body) => {
            let length = body.len();
            let head =
                format!("HTTP/1.1 {status} -\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
            return client.write_all(format!("{head}{body}").as_bytes());
        }
    };
    let mut engine = UnixStream::connect(engine)?;
    engine.write_all(closing(&head).as_bytes())?;
    engine.write_all(&rest)?;
    let (mut from_client, mut to_engine) = (client.try_clone()?, engine.try_clone()?);
    thread::spawn(move || {
        let _ = io::copy(&mut from_client, &mut to_engine);
        // The engine stops working for a client that has disconnected.
        let _ = to_engine.shutdown(Shutdown::Write);
    });
    if most != u64::MAX {
        // Once an answer begins, the engine has executed the request.
        let mut first = [0];
        engine.read_exact(&mut first)?;
        client.write_all(&first[..usize::from(most > 0)])?;
    }
    let copied = io::copy(&mut engine.take(most.saturating_sub(1)), &mut client);
    client.shutdown(Shutdown::Both)?;
    copied.map(drop)
}

/// Returns the request's head as text, and the bytes read after it.
pub(super) fn read_head(client: &mut impl Read) -> io::Result<(String, Vec<u8>)> {
    const END: &[u8] = b"\r\n\r\n";
    let (mut read, mut chunk) = (Vec::new(), [0; 4096]);
    loop {
        let count = client.read(&mut chunk)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        read.extend_from_slice(&chunk[..count]);
        if let Some(at) = read.windows(END.len()).position(|window| window == END) {
            let rest = read.split_off(at + END.len());
            return Ok((String::from_utf8_lossy(&read).into_owned(), rest));
        }
    }
}

/// The first line without the API version and the query.
fn method_and_path(head: &str) -> String {
    let mut words = head.split_whitespace();
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let path = target.split('?').next().unwrap_or_default();
    let unversioned = path.strip_prefix("/v1.").and_then(|rest| rest.split_once('/'));
    match unversioned {
        Some((_, path)) => format!("{method} /{path}"),
        None => format!("{method} {path}"),
    }
}

/// The head with a request to close the connection after the answer, so that each request uses its
/// own connection. A request that upgrades to another protocol is unchanged.
pub(super) fn closing(head: &str) -> String {
    let is = |line: &str, name: &str| line.to_ascii_lowercase().starts_with(name);
    if head.lines().any(|line| is(line, "upgrade:")) {
        return head.to_owned();
    }
    let lines = head.trim_end().lines().filter(|line| !is(line, "connection:"));
    let lines: Vec<&str> = lines.chain(["Connection: close", "", ""]).collect();
    lines.join("\r\n")
}
