//! Asking the front which configuration it serves: a reload that nginx could not carry through
//! leaves the old one, and no call says so.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::render::{SELF, SELF_PATH};

/// How long an answer of this host to itself may take.
const PATIENCE: Duration = Duration::from_secs(1);
/// More than a head and a hash.
const LARGEST_ANSWER: u64 = 4096;

/// The hash of the configuration that is served; `None` where nothing answers, or something else.
pub(super) async fn served(at: SocketAddr) -> Option<String> {
    let answer = tokio::time::timeout(PATIENCE, get(at)).await.ok()?.ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let is_good = head.starts_with("HTTP/1.1 200 ") && body.bytes().all(|b| b.is_ascii_hexdigit());
    is_good.then(|| body.to_owned())
}

/// Whether anything takes connections there.
pub(super) async fn is_taken(socket: SocketAddr) -> bool {
    matches!(tokio::time::timeout(PATIENCE, TcpStream::connect(socket)).await, Ok(Ok(_)) | Err(_))
}

async fn get(at: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(at).await?;
    let request = format!("GET {SELF_PATH} HTTP/1.0\r\nHost: {SELF}\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.take(LARGEST_ANSWER).read_to_string(&mut answer).await?;
    Ok(answer)
}
