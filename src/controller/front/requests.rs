//! Requests that nginx served: it sends a datagram for each, and a task counts them.
//!
//! The datagrams go over UDP on the loopback address, which is shared with all programs of this host. So each begins
//! with a token that only the configuration has. Over Unix sockets, nginx loses most of them under load.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket as StdSocket};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::net::sockopt;
use serde::{Deserialize, Serialize};
use tokio::net::UdpSocket;
use tokio::sync::watch as channel;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::task::AbortOnDropHandle;
use tracing::warn;

use super::canaries::{CanaryCounts, UpstreamAttempts};
use crate::controller::clock::now;
use crate::metrics::{Metrics, RequestRecord};
use crate::model::name::EnvironmentName;
use crate::model::spec::Manifest;

/// The syslog tag of a datagram.
pub(super) const TAG: &str = "abide";
/// What nginx may send while the task is busy elsewhere, in bytes: at least 20,000 requests.
const BUFFER: usize = 16 << 20;
/// The longest datagram: a record has about 100 bytes.
const LONGEST: usize = 1024;
/// The interval of reading how many datagrams the kernel dropped.
const COUNT_LOST: Duration = Duration::from_secs(10);
/// The kernel's table of UDP sockets over IPv4.
const SOCKETS: &str = "/proc/net/udp";

/// The receiver of datagrams, as the configuration names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RequestSink {
    /// The address that nginx sends to.
    pub(crate) address: SocketAddr,
    /// The first word of each record.
    pub(crate) token: String,
}

impl RequestSink {
    /// A sink at this address, with a new token.
    fn at(address: SocketAddr) -> Result<Self, getrandom::Error> {
        let mut token = [0; 8];
        getrandom::fill(&mut token)?;
        Ok(Self { address, token: hex::encode(token) })
    }
}

/// The open sink and its task, which ends when this is dropped.
#[derive(Default)]
pub(super) struct RequestReceiver {
    open: Option<(RequestSink, AbortOnDropHandle<()>)>,
    /// Whether it could not be opened, which is logged once.
    has_failed: bool,
}

impl RequestReceiver {
    /// The sink for the configuration; `None`: requests are not counted.
    pub(super) fn sink(&self) -> Option<RequestSink> {
        self.open.as_ref().map(|(sink, _)| sink.clone())
    }

    /// Opens the sink, unless it is open. `before` is the one of an earlier process: with the same one, nginx need
    /// not reload.
    pub(super) fn open(
        &mut self,
        before: Option<RequestSink>,
        metrics: &Metrics,
        canaries: &CanaryCounts,
        manifest: &channel::Receiver<Arc<Manifest>>,
    ) {
        if self.open.is_some() {
            return;
        }
        match listen(before) {
            Ok((sink, socket)) => {
                let counter = RequestTally {
                    token: sink.token.clone(),
                    port: sink.address.port(),
                    lost: None,
                    metrics: metrics.clone(),
                    canaries: canaries.clone(),
                    manifest: manifest.clone(),
                };
                let task = tokio::spawn(counter.run(socket));
                self.open = Some((sink, AbortOnDropHandle::new(task)));
            }
            Err(error) if !self.has_failed => {
                self.has_failed = true;
                warn!(%error, "cannot receive what the proxy reports about requests, so they are not counted");
            }
            Err(_) => {}
        }
    }
}

fn listen(before: Option<RequestSink>) -> std::io::Result<(RequestSink, UdpSocket)> {
    let is_local = |sink: &RequestSink| sink.address.ip() == Ipv4Addr::LOCALHOST && sink.address.port() > 0;
    let again = before.filter(is_local).and_then(|sink| Some((StdSocket::bind(sink.address).ok()?, sink)));
    let (socket, sink) = match again {
        Some(again) => again,
        None => {
            let socket = StdSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
            let sink = RequestSink::at(socket.local_addr()?)?;
            (socket, sink)
        }
    };
    // Only root may exceed the host's limit; a smaller buffer loses records earlier, which is counted.
    if sockopt::set_socket_recv_buffer_size_force(&socket, BUFFER).is_err() {
        let _ = sockopt::set_socket_recv_buffer_size(&socket, BUFFER);
    }
    socket.set_nonblocking(true)?;
    Ok((sink, UdpSocket::from_std(socket)?))
}

/// The task that counts.
struct RequestTally {
    token: String,
    port: u16,
    /// The number of dropped datagrams at the last look.
    lost: Option<u64>,
    metrics: Metrics,
    canaries: CanaryCounts,
    manifest: channel::Receiver<Arc<Manifest>>,
}

impl RequestTally {
    async fn run(mut self, socket: UdpSocket) {
        let mut ticks = tokio::time::interval_at(Instant::now(), COUNT_LOST);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut datagram = [0; LONGEST];
        loop {
            tokio::select! {
                // An error is one of an earlier datagram; the socket stays usable.
                received = socket.recv(&mut datagram) => if let Ok(length) = received {
                    self.count(&datagram[..length]);
                },
                _ = ticks.tick() => self.count_lost(),
            }
        }
    }

    fn count(&self, datagram: &[u8]) {
        let Some((record, attempts)) = read(datagram, &self.token) else { return };
        // A record of an environment that has just left the manifest must not bring its series back.
        if self.manifest.borrow().environments.contains_key(&record.environment) {
            self.metrics.request(&record, now());
            if let Some(attempts) = attempts {
                self.canaries.note(&record, attempts);
            }
        }
    }

    fn count_lost(&mut self) {
        let table = std::fs::read_to_string(Path::new(SOCKETS)).unwrap_or_default();
        let Some(lost) = dropped(&table, self.port) else { return };
        let before = self.lost.replace(lost).unwrap_or(0);
        self.metrics.requests_lost(lost.saturating_sub(before));
    }
}

/// The format of a record, for nginx. With a canary, it ends with the addresses of the programs that nginx asked.
pub(super) fn format(token: &str, environment: &str, has_canary: bool) -> String {
    let asked = if has_canary { " $upstream_addr" } else { "" };
    format!("'{token} {environment} $status $request_time $request_method{asked}'")
}

/// Reads a datagram: `<190>Nov 29 21:13:42 abide: TOKEN dev 200 0.001 GET`, or with
/// `172.18.0.3:80, 172.18.0.2:80` at its end.
fn read(datagram: &[u8], token: &str) -> Option<(RequestRecord, Option<UpstreamAttempts>)> {
    let (_, record) = std::str::from_utf8(datagram).ok()?.split_once(&format!(" {TAG}: "))?;
    let mut words = record.split_ascii_whitespace();
    if words.next()? != token {
        return None;
    }
    let environment = EnvironmentName::new(words.next()?).ok()?;
    let status = words.next()?.parse().ok()?;
    let time = Duration::try_from_secs_f64(words.next()?.parse().ok()?).ok()?;
    let record = RequestRecord { environment, status, time, method: words.next()?.to_owned() };
    let first = words.next().and_then(|first| first.trim_end_matches(',').parse().ok());
    let is_repeated = words.next().is_some();
    Some((record, first.map(|first| UpstreamAttempts { first, is_repeated })))
}

/// Returns how many datagrams the kernel dropped because the buffer of the socket at this port was full: the last
/// column of its table (`proc(5)`).
fn dropped(table: &str, port: u16) -> Option<u64> {
    let local = format!("0100007F:{port:04X}");
    let line = table.lines().find(|line| line.split_ascii_whitespace().nth(1) == Some(local.as_str()))?;
    line.split_ascii_whitespace().next_back()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(text: &str) -> Option<RequestRecord> {
        read(text.as_bytes(), "token").map(|(record, _)| record)
    }

    #[test]
    fn a_record_of_a_canary_names_the_programs_that_were_asked() {
        let attempts = |asked: &str| {
            let text = format!("<190>Nov 29 21:13:42 abide: token dev 200 0.001 GET{asked}");
            let found = read(text.as_bytes(), "token").unwrap().1;
            found.map(|attempts| (attempts.first.to_string(), attempts.is_repeated))
        };
        assert_eq!(attempts(" 172.18.0.3:80"), Some(("172.18.0.3:80".to_owned(), false)));
        assert_eq!(attempts(" 172.18.0.3:80, 172.18.0.2:80"), Some(("172.18.0.3:80".to_owned(), true)));
        assert_eq!(attempts(" [fd00::3]:80"), Some(("[fd00::3]:80".to_owned(), false)));
        assert_eq!((attempts(" -"), attempts("")), (None, None), "the proxy answered itself");
    }

    #[test]
    fn a_record_of_nginx_is_read() {
        let found = record("<190>Nov 29 21:13:42 abide: token dev 502 1.250 POST").unwrap();
        assert_eq!(
            (found.environment.as_str(), found.status, found.time, found.method.as_str()),
            ("dev", 502, Duration::from_millis(1250), "POST")
        );
    }

    #[test]
    fn what_nginx_did_not_send_is_ignored() {
        for text in [
            "",
            "token dev 200 0.001 GET",
            "<190>Nov 29 21:13:42 abide: other dev 200 0.001 GET",
            "<190>Nov 29 21:13:42 abide: token no/name 200 0.001 GET",
            "<190>Nov 29 21:13:42 abide: token dev 70000 0.001 GET",
            "<190>Nov 29 21:13:42 abide: token dev 200 -1 GET",
            "<190>Nov 29 21:13:42 abide: token dev 200 inf GET",
            "<190>Nov 29 21:13:42 abide: token dev 200 0.001",
        ] {
            assert!(record(text).is_none(), "{text}");
        }
        assert!(read(b"<190> abide: token dev \xff", "token").is_none());
    }

    #[test]
    fn dropped_datagrams_are_the_last_column_of_the_kernels_table() {
        let table = "   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout \
                     inode ref pointer drops\n \
                     1: 0100007F:4A36 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 \
                     20 2 0000000000000000 7\n";
        assert_eq!(dropped(table, 0x4a36), Some(7));
        assert_eq!(dropped(table, 0x4a37), None);
    }

    #[tokio::test]
    async fn the_sink_of_an_earlier_process_is_used_again_if_it_is_free() {
        let (first, held) = listen(None).unwrap();
        let (other, _) = listen(Some(first.clone())).unwrap();
        assert_ne!(other.address, first.address, "it is in use");
        assert_ne!(other.token, first.token);
        drop(held);
        let (again, _) = listen(Some(first.clone())).unwrap();
        assert_eq!(again, first);
        let foreign = RequestSink { address: "192.0.2.1:5000".parse().unwrap(), ..first };
        assert!(listen(Some(foreign)).unwrap().0.address.ip().is_loopback());
    }

    #[tokio::test]
    async fn the_kernel_counts_what_a_full_buffer_drops() {
        let (sink, socket) = listen(None).unwrap();
        sockopt::set_socket_recv_buffer_size(&socket, 4096).unwrap();
        let sender = StdSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        for _ in 0..100 {
            sender.send_to(&[0; 512], sink.address).unwrap();
        }
        let table = std::fs::read_to_string(SOCKETS).unwrap();
        assert!(dropped(&table, sink.address.port()).unwrap() > 50, "{table}");
    }
}
