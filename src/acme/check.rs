//! Whether a name leads to this host, before an authority is asked to look: a failed look costs one of a few
//! attempts.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::CHALLENGE_PATH;
use super::resolver;

/// The deadline of a request to one address.
const DEADLINE: Duration = Duration::from_secs(5);
/// The longest answer that is read, in bytes.
const LONGEST: u64 = 8 * 1024;

/// Whether a name leads here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Leads {
    /// Every address of the name answers with this host's account.
    Here,
    /// Unknown: a host behind a router may not reach its own public address. A sentence.
    Perhaps(String),
    /// It does not; a sentence.
    Elsewhere(String),
}

/// Asks every address of `name` for a challenge that only this host answers.
pub(super) async fn leads_here(name: &str, port: u16, thumbprint: &str, server: Option<SocketAddr>) -> Leads {
    let addresses = match resolver::addresses(name, server).await {
        Ok(addresses) if addresses.is_empty() => {
            return Leads::Elsewhere(format!("DNS has no address for {name}"));
        }
        Ok(addresses) => addresses,
        Err(why) => return Leads::Elsewhere(format!("DNS gives no address for {name}: {why}")),
    };
    let list = addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let mut doubt = None;
    for address in addresses {
        match ask(name, SocketAddr::new(address, port), thumbprint).await {
            ProbeAnswer::Own => {}
            ProbeAnswer::Other(what) => {
                return Leads::Elsewhere(format!(
                    "{name} does not lead to this host: DNS has {list}, and {address} {what}"
                ));
            }
            // Authorities try IPv6 first, which no address translation can hinder.
            ProbeAnswer::Refused if address.is_ipv6() => {
                return Leads::Elsewhere(format!(
                    "{name} has the IPv6 address {address}, where nobody listens on port {port}; authorities try \
                     it first: remove the AAAA record, or serve it"
                ));
            }
            ProbeAnswer::Refused => {
                doubt = Some(format!("{name}: {address}:{port} refuses connections from here"));
            }
            ProbeAnswer::Nothing(why) => {
                doubt = Some(format!("{name}: {address}:{port} cannot be reached from here: {why}"));
            }
        }
    }
    doubt.map_or(Leads::Here, Leads::Perhaps)
}

enum ProbeAnswer {
    /// This host's account.
    Own,
    /// Something else; a clause.
    Other(String),
    Refused,
    /// No answer; a clause.
    Nothing(String),
}

async fn ask(name: &str, at: SocketAddr, thumbprint: &str) -> ProbeAnswer {
    let mut bytes = [0; 8];
    if let Err(error) = getrandom::fill(&mut bytes) {
        return ProbeAnswer::Nothing(error.to_string());
    }
    let token = format!("abide-{}", hex::encode(bytes));
    match tokio::time::timeout(DEADLINE, get(name, at, &token)).await {
        Ok(Ok(answer)) => judge(&answer, &format!("{token}.{thumbprint}")),
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::ConnectionRefused => ProbeAnswer::Refused,
        Ok(Err(error)) => ProbeAnswer::Nothing(error.to_string()),
        Err(_) => ProbeAnswer::Nothing("no answer".to_owned()),
    }
}

async fn get(name: &str, at: SocketAddr, token: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(at).await?;
    let host = if at.port() == 80 { name.to_owned() } else { format!("{name}:{}", at.port()) };
    let request = format!(
        "GET {CHALLENGE_PATH}{token} HTTP/1.0\r\nHost: {host}\r\nUser-Agent: abide\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(LONGEST).read_to_end(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

fn judge(answer: &str, expected: &str) -> ProbeAnswer {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((answer, ""));
    let status: u16 = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default();
    match status {
        200 if body.trim_end() == expected => ProbeAnswer::Own,
        200 => ProbeAnswer::Other("answers the challenge with other words".to_owned()),
        // An authority follows redirects. This check does not follow them.
        301..=308 => ProbeAnswer::Nothing(format!("it redirects ({status})")),
        0 => ProbeAnswer::Other("does not speak HTTP".to_owned()),
        status => ProbeAnswer::Other(format!("answers the challenge with {status}")),
    }
}

/// A hint for the case that an authority could not reach a name.
pub(super) async fn hint(name: &str, server: Option<SocketAddr>) -> Option<String> {
    let addresses = resolver::addresses(name, server).await.ok()?;
    let list = addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let has_ipv6 = addresses.iter().any(IpAddr::is_ipv6);
    let more = if has_ipv6 { "; authorities try IPv6 first" } else { "" };
    (!list.is_empty()).then(|| format!("DNS has {list}{more}"))
}
