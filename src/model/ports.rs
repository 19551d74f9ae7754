//! Published ports.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::name::text_form;

/// A host port, on one address or on all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "RawPublish")]
pub struct Publish {
    /// The host address; `None`: all of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    /// The host port.
    pub port: u16,
}

/// The JSON form of a host port.
#[derive(Deserialize)]
pub(super) struct RawPublish {
    #[serde(default)]
    pub(super) address: Option<IpAddr>,
    pub(super) port: u16,
}

/// A transport protocol of a published port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TransportProtocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl TransportProtocol {
    /// As the engine writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// One container port and its host port. As text, it is what compose takes: `127.0.0.1:8080:80/tcp`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PortMapping {
    /// The port of the program in the container.
    pub container: u16,
    /// Its protocol.
    pub protocol: TransportProtocol,
    /// The host port.
    pub host: HostPort,
    /// The host address; `None`: all of them.
    pub address: Option<IpAddr>,
}

/// The host port of a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HostPort {
    /// A free port, which the engine chooses at every start.
    Any,
    /// This port.
    Is(u16),
    /// The first free port of a range.
    Among(u16, u16),
}

/// Why a text is not a port mapping: the rest of a sentence that begins with its key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidPorts(String);

/// The most ports that one text may publish: the engine starts a proxy for each of them.
const MOST_PORTS: u16 = 1000;

fn invalid() -> InvalidPorts {
    InvalidPorts(
        "must be \"container\", \"host:container\" or \"address:host:container\", with a range such as \
         \"8000-8009\" for a port and \"/udp\" after it for UDP"
            .to_owned(),
    )
}

impl PortMapping {
    /// The mapping of an environment's own `port`.
    pub fn of_port(port: u16, publish: Publish) -> Self {
        let host = HostPort::Is(publish.port);
        Self { container: port, protocol: TransportProtocol::Tcp, host, address: publish.address }
    }

    /// Parses a text of compose's short form, with all ports of a range.
    ///
    /// ```
    /// use abide::model::ports::{HostPort, PortMapping, TransportProtocol};
    ///
    /// let mappings = PortMapping::parse_all("127.0.0.1:9000-9001:8000-8001/udp").unwrap();
    /// let ports: Vec<_> = mappings.iter().map(|mapping| (mapping.host, mapping.container)).collect();
    /// assert_eq!(ports, [(HostPort::Is(9000), 8000), (HostPort::Is(9001), 8001)]);
    /// assert_eq!(mappings[0].protocol, TransportProtocol::Udp);
    /// ```
    ///
    /// # Errors
    /// Returns [`InvalidPorts`], which states the rule.
    pub fn parse_all(text: &str) -> Result<Vec<Self>, InvalidPorts> {
        let (rest, protocol) = text.trim().rsplit_once('/').unwrap_or((text.trim(), "tcp"));
        let (left, container) = rest.rsplit_once(':').unwrap_or(("", rest));
        let (address, host) = left.rsplit_once(':').unwrap_or(("", left));
        // Compose files write an empty address by an unset variable: `${BIND:-}:443:443`.
        let address = Some(address).filter(|address| !address.is_empty()).map(parse_address).transpose()?;
        let hosts = Some(host).filter(|host| !host.is_empty()).map(range).transpose()?;
        Self::of_parts(range(container)?, hosts, address, parse_protocol(protocol)?)
    }

    /// The mappings of a range of container ports to a range of host ports; `None`: any port.
    ///
    /// # Errors
    /// Returns [`InvalidPorts`], which states the rule.
    pub fn of_parts(
        (first, last): (u16, u16),
        hosts: Option<(u16, u16)>,
        address: Option<IpAddr>,
        protocol: TransportProtocol,
    ) -> Result<Vec<Self>, InvalidPorts> {
        if last - first >= MOST_PORTS {
            return Err(InvalidPorts(format!("must publish at most {MOST_PORTS} ports")));
        }
        let host_of = |container: u16| match hosts {
            None => Ok(HostPort::Any),
            Some((from, to)) if from == to && first == last => Ok(HostPort::Is(from)),
            Some((from, to)) if first == last => Ok(HostPort::Among(from, to)),
            Some((from, to)) if to - from == last - first => Ok(HostPort::Is(from + (container - first))),
            Some(_) => Err(InvalidPorts("must have ranges of the same length".to_owned())),
        };
        let mapping = |container: u16| Ok(Self { container, protocol, host: host_of(container)?, address });
        (first..=last).map(mapping).collect()
    }

    /// The mapping without an address that means all of them: `0.0.0.0` and none are the same to the engine.
    #[must_use]
    pub fn canonical(self) -> Self {
        let unspecified = Some(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        Self { address: self.address.filter(|_| self.address != unspecified), ..self }
    }

    /// The container's port as the engine writes it.
    pub fn container_port(&self) -> String {
        format!("{}/{}", self.container, self.protocol.as_str())
    }

    /// The host port as the engine writes it; empty: any.
    pub fn host_port(&self) -> String {
        match self.host {
            HostPort::Any => String::new(),
            HostPort::Is(port) => port.to_string(),
            HostPort::Among(first, last) => format!("{first}-{last}"),
        }
    }

    /// The host port on its address, if the mapping names one port.
    pub fn publish(&self) -> Option<Publish> {
        match self.host {
            HostPort::Is(port) => Some(Publish { address: self.address, port }),
            HostPort::Any | HostPort::Among(..) => None,
        }
    }

    /// The host ports that the mapping may take; `None`: any.
    pub fn host_range(&self) -> Option<(u16, u16)> {
        match self.host {
            HostPort::Any => None,
            HostPort::Is(port) => Some((port, port)),
            HostPort::Among(first, last) => Some((first, last)),
        }
    }
}

/// Parses an address, with or without the brackets of IPv6.
///
/// # Errors
/// Returns [`InvalidPorts`], which states the rule.
pub fn parse_address(text: &str) -> Result<IpAddr, InvalidPorts> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    // An IPv4 address in the notation of IPv6 is the same address.
    bare.parse().map(|address: IpAddr| address.to_canonical()).map_err(|_| invalid())
}

/// Parses a protocol.
///
/// # Errors
/// Returns [`InvalidPorts`], which states the rule.
pub fn parse_protocol(text: &str) -> Result<TransportProtocol, InvalidPorts> {
    match text.to_ascii_lowercase().as_str() {
        "tcp" => Ok(TransportProtocol::Tcp),
        "udp" => Ok(TransportProtocol::Udp),
        _ => Err(InvalidPorts("must be for the protocol tcp or udp".to_owned())),
    }
}

/// Parses a port or a range of ports.
///
/// # Errors
/// Returns [`InvalidPorts`], which states the rule.
pub fn range(text: &str) -> Result<(u16, u16), InvalidPorts> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let port = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse().ok().filter(|port: &u16| digits && *port > 0).ok_or_else(invalid)
    };
    let (first, last) = (port(first)?, port(last)?);
    if first > last {
        return Err(InvalidPorts("must begin a range with its lowest port".to_owned()));
    }
    Ok((first, last))
}

impl FromStr for PortMapping {
    type Err = InvalidPorts;

    fn from_str(text: &str) -> Result<Self, InvalidPorts> {
        let mut all = Self::parse_all(text)?.into_iter();
        match (all.next(), all.next()) {
            (Some(only), None) => Ok(only),
            _ => Err(InvalidPorts("must be one port".to_owned())),
        }
    }
}

impl fmt::Display for PortMapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            Some(IpAddr::V6(address)) => write!(f, "[{address}]:")?,
            Some(IpAddr::V4(address)) => write!(f, "{address}:")?,
            None => {}
        }
        match self.host {
            HostPort::Any if self.address.is_none() => write!(f, "{}", self.container_port()),
            _ => write!(f, "{}:{}", self.host_port(), self.container_port()),
        }
    }
}

text_form!(PortMapping);

impl PortMapping {
    /// Whether one host cannot publish both.
    pub fn conflicts(&self, other: &Self) -> bool {
        let covers = |one: IpAddr, other: IpAddr| one.is_unspecified() && one.is_ipv4() == other.is_ipv4();
        let addresses = match (self.address, other.address) {
            (Some(one), Some(other)) => one == other || covers(one, other) || covers(other, one),
            _ => true,
        };
        // The engine takes another port of a range if one is taken.
        let ports =
            matches!((self.host, other.host), (HostPort::Is(one), HostPort::Is(other)) if one == other);
        self.protocol == other.protocol && addresses && ports
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Vec<String> {
        PortMapping::parse_all(text).unwrap().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn composes_short_port_syntax_is_parsed() {
        for (text, ports) in [
            ("80", &["80/tcp"][..]),
            ("8080:80", &["8080:80/tcp"]),
            ("53:53/udp", &["53:53/udp"]),
            ("127.0.0.1:8080:80", &["127.0.0.1:8080:80/tcp"]),
            ("0.0.0.0:8080:80", &["0.0.0.0:8080:80/tcp"]),
            (":443:443", &["443:443/tcp"]),
            ("[::1]:8080:80", &["[::1]:8080:80/tcp"]),
            ("::1:8080:80", &["[::1]:8080:80/tcp"]),
            ("127.0.0.1::80", &["127.0.0.1::80/tcp"]),
            ("9000-9001:7000-7001/UDP", &["9000:7000/udp", "9001:7001/udp"]),
            ("9000-9005:80", &["9000-9005:80/tcp"]),
            ("7000-7001", &["7000/tcp", "7001/tcp"]),
        ] {
            assert_eq!(read(text), ports, "{text}");
            for port in ports {
                assert_eq!(read(port), [*port], "{port} is not read as it is written");
            }
        }
    }

    #[test]
    fn an_invalid_port_mapping_is_rejected() {
        for text in
            ["", "x", "0", "80:", "1:2:3:4", "8080:80/sctp", "65536", "+80:80", "9-8:80", "1-3:1-2", "1-2000"]
        {
            assert!(PortMapping::parse_all(text).is_err(), "{text:?} was taken");
        }
    }

    #[test]
    fn port_mappings_conflict_on_equal_port_protocol_and_address() {
        let conflict = |a: &str, b: &str| {
            a.parse::<PortMapping>().unwrap().conflicts(&b.parse::<PortMapping>().unwrap())
        };
        assert!(conflict("53:53", "127.0.0.1:53:1") && conflict("53:53/udp", "53:1/udp"));
        assert!(!conflict("53:53", "53:53/udp") && !conflict("127.0.0.1:53:1", "127.0.0.2:53:1"));
        assert!(!conflict("80", "80") && !conflict("80-90:1", "80:2"));
    }
}
