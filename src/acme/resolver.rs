//! Questions to name servers: the addresses of a name, the name servers of a zone, TXT records.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use simple_dns::rdata::RData;
use simple_dns::{CLASS, Name, Packet, PacketFlag, QCLASS, QTYPE, Question, RCODE, TYPE};
use tokio::net::UdpSocket;

/// The deadline of one question, and how often it is asked.
const DEADLINE: Duration = Duration::from_secs(3);
const ATTEMPTS: usize = 3;
/// The largest answer over UDP, in bytes.
const LARGEST: usize = 4096;
const RESOLV_CONF: &str = "/etc/resolv.conf";
const PORT: u16 = 53;
/// The most aliases of one name: resolvers give up at about as many.
const MOST_ALIASES: usize = 8;

/// Returns the addresses of a host name; empty if it has none. `server`: the name server to ask; `None`: this
/// host's resolver.
///
/// # Errors
/// There was no answer; a clause.
pub(super) async fn addresses(name: &str, server: Option<SocketAddr>) -> Result<BTreeSet<IpAddr>, String> {
    let Some(server) = server else {
        let found = tokio::time::timeout(DEADLINE * 3, tokio::net::lookup_host((name, PORT))).await;
        return match found {
            Ok(Ok(found)) => Ok(found.map(|socket| socket.ip()).collect()),
            // The system does not distinguish "no such name" from other errors.
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("no answer in time".to_owned()),
        };
    };
    let mut found = BTreeSet::new();
    for kind in [TYPE::A, TYPE::AAAA] {
        for record in ask(server, name, kind).await? {
            match record {
                Record::Address(address) => _ = found.insert(address),
                Record::Text(_) | Record::Server(_) | Record::Alias(_) => {}
            }
        }
    }
    Ok(found)
}

/// Whether every name server of the zone has this TXT record. If the zone's own servers cannot be found,
/// `server`, or this host's, is asked instead.
///
/// # Errors
/// No name server answered; a clause.
pub(super) async fn has_text(name: &str, value: &str, server: Option<SocketAddr>) -> Result<bool, String> {
    let server = or_system(server).await?;
    let mut servers = zone_servers(name, server).await;
    if servers.is_empty() {
        servers.push(server);
    }
    let (mut answered, mut why) = (false, String::new());
    for server in servers {
        match ask(server, name, TYPE::TXT).await {
            Ok(records) if records.contains(&Record::Text(value.to_owned())) => answered = true,
            Ok(_) => return Ok(false),
            Err(error) => why = error,
        }
    }
    if answered { Ok(true) } else { Err(why) }
}

/// Returns the name that `name` is an alias of, or `name` itself. An authority follows CNAME records too, so that is
/// the name of which the TXT record is read.
///
/// # Errors
/// There was no answer, or the aliases form a loop; a clause.
pub(super) async fn canonical(name: &str, server: Option<SocketAddr>) -> Result<String, String> {
    let server = or_system(server).await?;
    let mut found = name.to_owned();
    for _ in 0..MOST_ALIASES {
        let records = ask(server, &found, TYPE::CNAME).await?;
        let alias = records.into_iter().find_map(|record| match record {
            Record::Alias(target) => Some(target),
            _ => None,
        });
        match alias {
            Some(target) => found = target,
            None => return Ok(found),
        }
    }
    Err(format!("{name} has more than {MOST_ALIASES} aliases in a row"))
}

async fn or_system(server: Option<SocketAddr>) -> Result<SocketAddr, String> {
    match server {
        Some(server) => Ok(server),
        None => system_server().await.ok_or_else(|| format!("{RESOLV_CONF} names no name server")),
    }
}

/// The addresses of the name servers of the zone that a name is in.
async fn zone_servers(name: &str, server: SocketAddr) -> Vec<SocketAddr> {
    let mut zone = name;
    while let Some((_, parent)) = zone.split_once('.') {
        zone = parent;
        let found = ask(server, zone, TYPE::NS).await.unwrap_or_default();
        let mut servers = Vec::new();
        for record in &found {
            let Record::Server(host) = record else { continue };
            // One address of each server is enough.
            let address = addresses(host, Some(server)).await.unwrap_or_default().into_iter().next();
            servers.extend(address.map(|address| SocketAddr::new(address, PORT)));
        }
        if !servers.is_empty() {
            return servers;
        }
    }
    Vec::new()
}

/// The first name server of this host.
async fn system_server() -> Option<SocketAddr> {
    let text = tokio::fs::read_to_string(RESOLV_CONF).await.ok()?;
    let servers =
        text.lines().filter_map(|line| line.strip_prefix("nameserver")?.trim().parse::<IpAddr>().ok());
    servers.map(|address| SocketAddr::new(address, PORT)).next()
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Record {
    Address(IpAddr),
    Text(String),
    Server(String),
    /// The name that another name is an alias of.
    Alias(String),
}

/// Asks one question, a few times because packets get lost.
async fn ask(server: SocketAddr, name: &str, kind: TYPE) -> Result<Vec<Record>, String> {
    let mut why = String::new();
    for _ in 0..ATTEMPTS {
        match tokio::time::timeout(DEADLINE, ask_once(server, name, kind)).await {
            Ok(Ok(records)) => return Ok(records),
            Ok(Err(error)) => why = error,
            Err(_) => why = "no answer".to_owned(),
        }
    }
    Err(format!("the name server {server}: {why}"))
}

async fn ask_once(server: SocketAddr, name: &str, kind: TYPE) -> Result<Vec<Record>, String> {
    let mut bytes = [0; 2];
    getrandom::fill(&mut bytes).map_err(|error| error.to_string())?;
    let id = u16::from_be_bytes(bytes);
    let mut query = Packet::new_query(id);
    query.set_flags(PacketFlag::RECURSION_DESIRED);
    let wrong = |error: simple_dns::SimpleDnsError| format!("{name}: {error:?}");
    let question = Name::new(name).map_err(wrong)?;
    query.questions.push(Question::new(question, QTYPE::TYPE(kind), QCLASS::CLASS(CLASS::IN), false));
    let query = query.build_bytes_vec().map_err(wrong)?;
    let any: IpAddr =
        if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let failed = |error: std::io::Error| error.to_string();
    let socket = UdpSocket::bind((any, 0)).await.map_err(failed)?;
    socket.connect(server).await.map_err(failed)?;
    socket.send(&query).await.map_err(failed)?;
    let mut buffer = vec![0; LARGEST];
    loop {
        let length = socket.recv(&mut buffer).await.map_err(failed)?;
        let Ok(answer) = Packet::parse(&buffer[..length]) else { continue };
        // Anything else is an answer to another question, or forged.
        if answer.id() != id {
            continue;
        }
        return match answer.rcode() {
            RCODE::NoError => Ok(answer.answers.iter().filter_map(|found| record(&found.rdata)).collect()),
            RCODE::NameError => Ok(Vec::new()),
            code => Err(format!("it answered {code:?}")),
        };
    }
}

fn record(data: &RData<'_>) -> Option<Record> {
    match data {
        RData::A(found) => Some(Record::Address(Ipv4Addr::from(found.address).into())),
        RData::AAAA(found) => Some(Record::Address(Ipv6Addr::from(found.address).into())),
        RData::CNAME(found) => Some(Record::Alias(found.0.to_string())),
        RData::NS(found) => Some(Record::Server(found.0.to_string())),
        RData::TXT(found) => {
            // The crate splits texts at `=`, which no value of a challenge contains.
            let parts = found.iter_raw().map(|(part, _)| String::from_utf8_lossy(part).into_owned());
            Some(Record::Text(parts.collect()))
        }
        _ => None,
    }
}
