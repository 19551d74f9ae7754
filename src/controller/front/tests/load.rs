//! A steady, bounded load on a port of this host, over reused and new connections. It counts every request
//! that does not get the expected answer.

use std::sync::atomic::{AtomicBool, AtomicU64};

use super::*;

/// Concurrent clients, half of each kind.
const CLIENTS: usize = 8;
/// The pause between two requests of one client.
const PAUSE: Duration = Duration::from_millis(3);

/// A load that runs until it is ended.
pub(super) struct Load {
    stop: Arc<AtomicBool>,
    counts: Arc<Counts>,
    clients: Vec<tokio::task::JoinHandle<()>>,
}

#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) answered: AtomicU64,
    pub(super) failed: AtomicU64,
    /// Requests that failed because a reused connection was closed while idle. Every client sends such a
    /// request again on a new connection (RFC 9112, 9.3.1).
    pub(super) sent_again: AtomicU64,
    pub(super) first_failure: Mutex<Option<String>>,
}

impl Load {
    pub(super) fn start(port: u16) -> Self {
        let (stop, counts) = (Arc::new(AtomicBool::new(false)), Arc::new(Counts::default()));
        let client = |index: usize| {
            let (stop, counts) = (Arc::clone(&stop), Arc::clone(&counts));
            tokio::spawn(async move {
                let mut kept = None;
                while !stop.load(Ordering::Relaxed) {
                    let asked = ask(port, &mut kept, &counts).await;
                    match asked {
                        Ok(()) => drop(counts.answered.fetch_add(1, Ordering::Relaxed)),
                        Err(why) => {
                            kept = None;
                            counts.failed.fetch_add(1, Ordering::Relaxed);
                            counts.first_failure.lock().unwrap().get_or_insert(why);
                        }
                    }
                    if index.is_multiple_of(2) {
                        kept = None;
                    }
                    tokio::time::sleep(PAUSE).await;
                }
            })
        };
        let clients = (0..CLIENTS).map(client).collect();
        Self { stop, counts, clients }
    }

    pub(super) async fn end(self) -> Arc<Counts> {
        self.stop.store(true, Ordering::Relaxed);
        for client in self.clients {
            client.await.unwrap();
        }
        self.counts
    }
}

async fn ask(port: u16, kept: &mut Option<TcpStream>, counts: &Counts) -> Result<(), String> {
    if let Some(stream) = kept {
        match once(stream).await {
            // The connection was closed before the first byte of an answer.
            Ok(None) => {
                *kept = None;
                counts.sent_again.fetch_add(1, Ordering::Relaxed);
            }
            Ok(Some(())) => return Ok(()),
            Err(why) => return Err(why),
        }
    }
    let mut stream =
        TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.map_err(|error| format!("connect: {error}"))?;
    match once(&mut stream).await? {
        Some(()) => {
            *kept = Some(stream);
            Ok(())
        }
        None => Err("a new connection was closed without an answer".to_owned()),
    }
}

/// Sends one request; `None` if the connection was closed before any answer.
async fn once(stream: &mut TcpStream) -> Result<Option<()>, String> {
    let request = "GET / HTTP/1.1\r\nHost: load.example\r\n\r\n";
    if stream.write_all(request.as_bytes()).await.is_err() {
        return Ok(None);
    }
    let mut answer = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        match stream.read(&mut chunk).await {
            Ok(0) | Err(_) if answer.is_empty() => return Ok(None),
            Ok(0) => return Err("an answer was cut short".to_owned()),
            Err(error) => return Err(format!("an answer was cut short: {error}")),
            Ok(read) => answer.extend_from_slice(&chunk[..read]),
        }
        let text = String::from_utf8_lossy(&answer);
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
        let length: usize = length.and_then(|length| length.parse().ok()).ok_or("no length")?;
        if body.len() >= length {
            return if head.starts_with("HTTP/1.1 200 ") { Ok(Some(())) } else { Err(head.to_owned()) };
        }
    }
}
