//! A relay between clients and a registry: forwards everything, one request per connection, and
//! injects faults in the middle of a transfer.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

use super::PATIENCE;
use super::proxy::{closing, read_head};

/// The first byte of every TLS connection.
const HANDSHAKE: u8 = 0x16;

/// The treatment of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mishap {
    /// Request and answer are passed on.
    None,
    /// After so many bytes of the request and its answer, nothing is passed on until
    /// [`Relay::release`].
    Hold(u64),
    /// After so many bytes of its body, the relay answers with this status instead of the registry.
    Answer(u64, u16),
}

/// Decides about a request by its head.
type Rule = Box<dyn FnMut(&str) -> Mishap + Send>;

/// A port on the loopback address that stands for a registry.
#[derive(Clone)]
pub(crate) struct Relay {
    port: u16,
    shared: Arc<Shared>,
}

struct Shared {
    registry: u16,
    rule: Mutex<Rule>,
    held: Mutex<Held>,
    changed: Condvar,
}

#[derive(Default)]
struct Held {
    /// The number of requests held so far.
    count: usize,
    is_released: bool,
}

impl Relay {
    /// Listens in front of a registry's port, for as long as the test program runs.
    pub(crate) fn start(registry: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let rule: Rule = Box::new(|_| Mishap::None);
        let shared =
            Shared { registry, rule: Mutex::new(rule), held: Mutex::default(), changed: Condvar::new() };
        let relay = Self { port, shared: Arc::new(shared) };
        let shared = Arc::clone(&relay.shared);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let shared = Arc::clone(&shared);
                // Broken connections are part of the tests.
                thread::spawn(move || drop(shared.pass_on(client)));
            }
        });
        relay
    }

    /// `127.0.0.1:PORT`, as names of images begin.
    pub(crate) fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Applies `rule` to the heads of all further requests.
    pub(crate) fn rule(&self, rule: impl FnMut(&str) -> Mishap + Send + 'static) {
        *self.shared.held.lock().unwrap() = Held::default();
        *self.shared.rule.lock().unwrap() = Box::new(rule);
    }

    /// Passes all further requests on without faults.
    pub(crate) fn calm(&self) {
        self.rule(|_| Mishap::None);
    }

    /// Waits until a transfer is held.
    pub(crate) fn await_held(&self) {
        let held = self.shared.held.lock().unwrap();
        let (held, _) =
            self.shared.changed.wait_timeout_while(held, PATIENCE, |held| held.count == 0).unwrap();
        assert!(held.count > 0, "nothing was held within {PATIENCE:?}");
    }

    /// Releases all held transfers, and holds no more.
    pub(crate) fn release(&self) {
        self.shared.held.lock().unwrap().is_released = true;
        self.shared.changed.notify_all();
    }
}

impl Shared {
    fn pass_on(self: Arc<Self>, mut client: TcpStream) -> io::Result<()> {
        let mut first = [0];
        client.peek(&mut first)?;
        if first[0] == HANDSHAKE {
            // A registry without TLS gives this answer to an engine that tries TLS first.
            return answer(client, 400);
        }
        let (head, rest) = read_head(&mut client)?;
        let mishap = (self.rule.lock().unwrap())(&head);
        if let Mishap::Answer(0, status) = mishap {
            return answer(client, status);
        }
        let mut registry = TcpStream::connect(("127.0.0.1", self.registry))?;
        registry.write_all(closing(&head).as_bytes())?;
        registry.write_all(&rest)?;
        let way =
            Arc::new(Way { shared: self, left: Mutex::new(mishap), is_answered: AtomicBool::new(false) });
        let (from_client, to_registry) = (client.try_clone()?, registry.try_clone()?);
        let up = Arc::clone(&way);
        thread::spawn(move || drop(up.send(from_client, to_registry)));
        let copied = way.copy(registry, &client);
        if way.is_answered.load(Ordering::SeqCst) {
            return Ok(());
        }
        client.shutdown(Shutdown::Both)?;
        copied.map(drop)
    }

    fn hold(&self) {
        let mut held = self.held.lock().unwrap();
        held.count += 1;
        self.changed.notify_all();
        drop(self.changed.wait_timeout_while(held, PATIENCE, |held| !held.is_released).unwrap());
    }
}

/// Both directions of one request.
struct Way {
    shared: Arc<Shared>,
    /// The pending fault.
    left: Mutex<Mishap>,
    /// Whether the relay has answered instead of the registry.
    is_answered: AtomicBool,
}

impl Way {
    /// Forwards the client's bytes, until it is answered or has no more.
    fn send(&self, client: TcpStream, registry: TcpStream) -> io::Result<()> {
        if let Some(status) = self.copy(client.try_clone()?, &registry)? {
            self.is_answered.store(true, Ordering::SeqCst);
            registry.shutdown(Shutdown::Both)?;
            return answer(client, status);
        }
        // The registry stops working for a client that has disconnected.
        registry.shutdown(Shutdown::Write)
    }

    /// Forwards all bytes; returns a status if the relay has to answer before the end.
    fn copy(&self, mut from: TcpStream, mut to: &TcpStream) -> io::Result<Option<u16>> {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let read = from.read(&mut buffer)?;
            if read == 0 {
                return Ok(None);
            }
            if let Some(status) = self.passing(read as u64) {
                return Ok(Some(status));
            }
            to.write_all(&buffer[..read])?;
        }
    }

    /// Returns once so many bytes may be passed on, or with the status to answer instead.
    fn passing(&self, bytes: u64) -> Option<u16> {
        let mut left = self.left.lock().unwrap();
        match &mut *left {
            Mishap::Hold(until) | Mishap::Answer(until, _) if *until > bytes => *until -= bytes,
            Mishap::Hold(_) => {
                *left = Mishap::None;
                self.shared.hold();
            }
            Mishap::Answer(_, status) => return Some(*status),
            Mishap::None => {}
        }
        None
    }
}

/// Answers `status` to a client that may still be sending.
fn answer(mut client: TcpStream, status: u16) -> io::Result<()> {
    write!(client, "HTTP/1.1 {status} Told\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")?;
    client.shutdown(Shutdown::Write)?;
    // Reads to the end, because a reset could make the answer get lost.
    io::copy(&mut client, &mut io::sink()).map(drop)
}
