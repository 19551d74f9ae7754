//! A bounded load of many small requests from clients of different kinds. Every request is
//! accounted for.

use std::collections::BTreeMap;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, sleep, spawn};
use std::time::{Duration, SystemTime};

/// The pause between two requests of a client.
const PAUSE: Duration = Duration::from_millis(5);
/// The timeout of a request.
const PATIENCE: Duration = Duration::from_secs(10);

/// The kind of a client.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Way {
    /// The port of the loopback address.
    pub(crate) port: u16,
    /// The host name in its requests.
    pub(crate) host: &'static str,
    /// The path in its requests.
    pub(crate) path: &'static str,
    /// Whether it keeps its connection open.
    pub(crate) keeps: bool,
}

/// Clients that send requests until they are stopped.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<Tally>>,
}

/// The results of the requests of one client, or of all.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// Successful answers by page.
    pub(crate) pages: BTreeMap<String, usize>,
    /// Connections that the server had closed while idle; the request was repeated on a new one.
    pub(crate) reopened: usize,
    /// The failures: when, for which client, and how.
    pub(crate) failed: Vec<(SystemTime, Way, String)>,
}

impl Load {
    /// Starts one client for each way.
    pub(crate) fn start(ways: &[Way]) -> Self {
        Self::start_at(Ipv4Addr::LOCALHOST, ways)
    }

    /// Starts one client for each way, to another address.
    pub(crate) fn start_at(address: Ipv4Addr, ways: &[Way]) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let client = |way: &Way| {
            let (way, stop) = (*way, Arc::clone(&stop));
            spawn(move || ask(address, way, &stop))
        };
        let clients = ways.iter().map(client).collect();
        Self { stop, clients }
    }

    /// Stops the clients and returns the results of all requests.
    pub(crate) fn finish(mut self) -> Tally {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Tally::default();
        for tally in self.clients.drain(..).map(|client| client.join().unwrap()) {
            for (page, count) in tally.pages {
                *all.pages.entry(page).or_default() += count;
            }
            all.reopened += tally.reopened;
            all.failed.extend(tally.failed);
        }
        all
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn ask(address: Ipv4Addr, way: Way, stop: &AtomicBool) -> Tally {
    let mut tally = Tally::default();
    let mut kept = None;
    while !stop.load(Ordering::Relaxed) {
        match tally.request(address, way, &mut kept) {
            Ok((200, page)) => *tally.pages.entry(page).or_default() += 1,
            Ok((status, page)) => tally.failed.push((SystemTime::now(), way, format!("{status} {page}"))),
            Err(error) => tally.failed.push((SystemTime::now(), way, error.to_string())),
        }
        sleep(PAUSE);
    }
    tally
}

impl Tally {
    fn request(
        &mut self,
        address: Ipv4Addr,
        way: Way,
        kept: &mut Option<Connection>,
    ) -> io::Result<(u16, String)> {
        if let Some(mut connection) = kept.take() {
            match connection.ask(way) {
                // A server may close an idle connection at the very moment of the next request, and
                // a graceful reload does. Then no byte of an answer has arrived, and clients repeat
                // the request on a new connection, as HTTP requires (RFC 9112, section 9.3.1).
                Err(error) if error.is_before_any_answer => self.reopened += 1,
                done => {
                    *kept = Some(connection).filter(|connection| done.is_ok() && connection.stays);
                    return done.map_err(|error| error.source);
                }
            }
        }
        let mut connection = Connection::open(address, way)?;
        let done = connection.ask(way).map_err(|error| error.source)?;
        *kept = Some(connection).filter(|connection| way.keeps && connection.stays);
        Ok(done)
    }
}

struct Connection {
    stream: BufReader<TcpStream>,
    /// Whether the server lets the connection stay open.
    stays: bool,
}

struct AskError {
    source: io::Error,
    is_before_any_answer: bool,
}

impl Connection {
    fn open(address: Ipv4Addr, way: Way) -> io::Result<Self> {
        let stream = TcpStream::connect((address, way.port))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream: BufReader::new(stream), stays: true })
    }

    fn ask(&mut self, way: Way) -> Result<(u16, String), AskError> {
        let early = |source| AskError { source, is_before_any_answer: true };
        let late = |source| AskError { source, is_before_any_answer: false };
        let connection = if way.keeps { "keep-alive" } else { "close" };
        let Way { host, path, .. } = way;
        let head = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: {connection}\r\n\r\n");
        self.stream.get_mut().write_all(head.as_bytes()).map_err(early)?;
        let mut status = String::new();
        match self.stream.read_line(&mut status) {
            Ok(0) => return Err(early(io::Error::other("closed without an answer"))),
            Ok(_) => {}
            // A silent connection is not a closed one.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(late(error)),
            Err(error) => return Err(early(error)),
        }
        self.rest(&status).map_err(late)
    }

    fn rest(&mut self, status: &str) -> io::Result<(u16, String)> {
        let code = status.split(' ').nth(1).and_then(|code| code.parse().ok());
        let code = code.ok_or_else(|| io::Error::other(format!("no HTTP: {status:?}")))?;
        let mut length = None;
        loop {
            let mut line = String::new();
            if self.stream.read_line(&mut line)? == 0 {
                return Err(io::Error::other("the head of the answer was cut short"));
            }
            let Some((name, value)) = line.trim_end().split_once(": ") else { break };
            match name.to_ascii_lowercase().as_str() {
                "content-length" => length = value.parse().ok(),
                "connection" if value.eq_ignore_ascii_case("close") => self.stays = false,
                _ => {}
            }
        }
        let length = length.ok_or_else(|| io::Error::other("the answer has no length"))?;
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body)?;
        Ok((code, String::from_utf8_lossy(&body).into_owned()))
    }
}
