//! Asks the front which configuration it serves. If a reload fails, nginx keeps the old configuration, and no
//! call reports that.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::render::{SELF, SELF_PATH};

/// How long this host may take to answer itself.
const PATIENCE: Duration = Duration::from_secs(1);
/// Bytes; more than a head and a hash need.
const LARGEST_ANSWER: u64 = 4096;

/// The answer to the question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ServedConfiguration {
    /// The configuration with this hash.
    Hash(String),
    /// Something else: another configuration than abide's, or another program.
    Other,
    /// No answer in time. nginx may be down or only slow.
    Unknown,
}

/// Asks which configuration is served. `has_proxy_header`: the socket expects the header of the PROXY protocol.
pub(super) async fn ask(at: SocketAddr, has_proxy_header: bool) -> ServedConfiguration {
    let Ok(Ok(answer)) = tokio::time::timeout(PATIENCE, get(at, has_proxy_header)).await else {
        return ServedConfiguration::Unknown;
    };
    let Some((head, body)) = answer.split_once("\r\n\r\n") else { return ServedConfiguration::Other };
    let is_good = head.starts_with("HTTP/1.1 200 ") && body.bytes().all(|b| b.is_ascii_hexdigit());
    if is_good { ServedConfiguration::Hash(body.to_owned()) } else { ServedConfiguration::Other }
}

/// Returns whether anything accepts connections at the socket.
pub(super) async fn is_taken(socket: SocketAddr) -> bool {
    matches!(tokio::time::timeout(PATIENCE, TcpStream::connect(socket)).await, Ok(Ok(_)) | Err(_))
}

async fn get(at: SocketAddr, has_proxy_header: bool) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(at).await?;
    // nginx then uses the address of the connection.
    let header = if has_proxy_header { "PROXY UNKNOWN\r\n" } else { "" };
    let request = format!("{header}GET {SELF_PATH} HTTP/1.0\r\nHost: {SELF}\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.take(LARGEST_ANSWER).read_to_string(&mut answer).await?;
    Ok(answer)
}
