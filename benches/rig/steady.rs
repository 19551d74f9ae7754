//! A request every few milliseconds, whatever the results of earlier ones.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

/// The time between the starts of two requests.
const PERIOD: Duration = Duration::from_millis(10);
/// The timeout of a request.
const PATIENCE: Duration = Duration::from_secs(5);

/// A request, and the page in its answer.
struct Asked {
    began: Instant,
    ended: Instant,
    page: Option<String>,
}

/// Requests a page from a port of the loopback address until it is stopped.
pub(crate) struct Steady {
    stop: CancellationToken,
    asked: JoinHandle<Vec<Asked>>,
}

/// The takeover of one page from another.
pub(crate) struct TakenOver {
    /// When the new page was first answered.
    pub(crate) at: Instant,
    /// The time without either page: from the start of the last request that got the old page to
    /// the first answer with the new one; zero if no request failed.
    pub(crate) gap: Duration,
    /// The number of failed requests.
    pub(crate) failed: usize,
}

impl Steady {
    /// Starts the requests. Needs a runtime.
    pub(crate) fn start(port: u16) -> Self {
        let stop = CancellationToken::new();
        let asked = tokio::spawn(ask(port, stop.clone()));
        Self { stop, asked }
    }

    /// Stops, and returns how `page` took over.
    ///
    /// # Panics
    /// It never took over.
    pub(crate) fn taken_over_by(self, runtime: &Runtime, page: &str) -> TakenOver {
        self.stop.cancel();
        let asked = runtime.block_on(self.asked).unwrap();
        let is_new = |asked: &&Asked| asked.page.as_deref() == Some(page);
        let at =
            asked.iter().filter(is_new).map(|asked| asked.ended).min().expect("the new page was answered");
        let is_old = |asked: &&Asked| asked.page.as_deref().is_some_and(|other| other != page);
        let last_old = asked.iter().filter(is_old).map(|asked| asked.began).max();
        let failed = asked.iter().filter(|asked| asked.page.is_none()).count();
        let gap =
            last_old.filter(|_| failed > 0).map_or(Duration::ZERO, |old| at.saturating_duration_since(old));
        TakenOver { at, gap, failed }
    }
}

async fn ask(port: u16, stop: CancellationToken) -> Vec<Asked> {
    let mut requests = JoinSet::new();
    while stop.run_until_cancelled(tokio::time::sleep(PERIOD)).await.is_some() {
        requests.spawn(async move {
            let began = Instant::now();
            let page = tokio::time::timeout(PATIENCE, page(port)).await.ok().flatten();
            Asked { began, ended: Instant::now(), page }
        });
    }
    requests.join_all().await
}

/// Returns the page at `/` of a port of the loopback address, over a new connection.
async fn page(port: u16) -> Option<String> {
    let mut stream = TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await.ok()?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await.ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    head.starts_with("HTTP/1.1 200").then(|| body.to_owned())
}
