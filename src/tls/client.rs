//! The client's side: a stream to a verified server at `host:port`.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, InvalidDnsNameError, ServerName};
use rustls::{CertificateError, ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::pinned::{OtherKey, Pinned};
use super::{AlpnProtocol, provider, proxy};
use crate::model::credential::Pin;

/// An encrypted stream to a verified server.
pub type Stream = tokio_rustls::client::TlsStream<TcpStream>;

/// The timeout of connecting, and then of the handshake. Otherwise, a host that drops packets would block for
/// minutes.
const PATIENCE: Duration = Duration::from_secs(10);

/// How a server is verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trust {
    /// By this key only. Names, dates and authorities do not matter.
    Pin(Pin),
    /// By a certificate for the host's name, signed by one of the authorities in this PEM file.
    File(PathBuf),
    /// By a certificate for the host's name, signed by an authority in this host's own list. The system keeps
    /// that list up to date, it includes an organisation's own authorities, and bollard reads it anyway, so
    /// unlike a built-in list it costs no crate.
    System,
    /// Like `System`, and also by authorities in these PEM files.
    SystemAnd(Vec<PathBuf>),
}

/// Whether traffic to `host` never leaves this host, so that it needs no TLS. `host` is a name or an IP
/// address without brackets.
pub fn is_local(host: &str) -> bool {
    let address = host.parse::<IpAddr>();
    host.eq_ignore_ascii_case("localhost")
        || address.is_ok_and(|address| address.to_canonical().is_loopback())
}

/// The reason why no verified stream could be made.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The file with authorities is invalid.
    #[error("cannot use the CA certificates in {}: {reason}", path.display())]
    Authorities {
        /// The file.
        path: PathBuf,
        /// The problem.
        reason: String,
    },
    /// This host has no list of authorities.
    #[error("this host has no CA certificates: name a file with some")]
    NoAuthorities,
    /// TLS cannot be set up.
    #[error("cannot set up TLS")]
    Setup(#[source] rustls::Error),
    /// The host is neither a name nor an address.
    #[error("invalid server address: must be a host name or an IP address")]
    Host(#[from] InvalidDnsNameError),
    /// Nobody listens, or the route is blocked.
    #[error("cannot connect")]
    Unreachable(#[source] io::Error),
    /// No answer came in time.
    #[error("no connection within {} s", PATIENCE.as_secs())]
    Silent,
    /// The server's key differs from the pinned one.
    #[error(
        "the server's key does not match the pin in the token: wrong server, intercepted connection, or \
        a reinstalled server that needs a new token"
    )]
    OtherKey,
    /// No trusted authority signed the server's certificate.
    #[error(
        "the server's certificate is not signed by a trusted CA: use a token with the server's pin, or \
        name the CA's certificate"
    )]
    UnknownAuthority,
    /// The certificate belongs to another host.
    #[error("the server's certificate is for another host name")]
    OtherName,
    /// The certificate is expired or not valid yet, or this host's clock is wrong.
    #[error("the server's certificate is expired or not yet valid, by this host's clock")]
    OutOfDate,
    /// The server does not support TLS.
    #[error("the server does not use TLS on this port: is it an `http://` address?")]
    NoTls,
    /// The server does not support the requested protocol.
    #[error("the server does not support HTTP/2: is there a proxy in between?")]
    NoHttp2,
    /// Anything else.
    #[error("the TLS handshake failed")]
    Handshake(#[source] io::Error),
}

impl ConnectError {
    /// Whether a later attempt may succeed.
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Unreachable(_) | Self::Silent | Self::Handshake(_))
    }
}

/// Opens streams. Cheap to clone.
#[derive(Clone)]
pub struct Connector {
    config: Arc<ClientConfig>,
    protocol: AlpnProtocol,
}

impl Connector {
    /// A connector that verifies servers by `trust`, and uses `protocol` with them.
    ///
    /// # Errors
    /// Returns [`ConnectError::Authorities`], [`ConnectError::NoAuthorities`] or [`ConnectError::Setup`].
    pub fn new(trust: &Trust, protocol: AlpnProtocol) -> Result<Self, ConnectError> {
        let provider = provider();
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider));
        let builder = builder.with_safe_default_protocol_versions().map_err(ConnectError::Setup)?;
        let builder = match trust {
            Trust::Pin(pin) => {
                let pinned = Pinned { pin: *pin, provider };
                builder.dangerous().with_custom_certificate_verifier(Arc::new(pinned))
            }
            Trust::File(path) => builder.with_root_certificates(authorities_in(path)?),
            Trust::System => builder.with_root_certificates(authorities_of_this_machine()?),
            Trust::SystemAnd(files) => builder.with_root_certificates(authorities_with(files)?),
        };
        let mut config = builder.with_no_client_auth();
        if protocol != AlpnProtocol::Other {
            config.alpn_protocols = vec![protocol.alpn().to_vec()];
        }
        Ok(Self { config: Arc::new(config), protocol })
    }

    /// Opens a stream to `host:port`, through the environment's proxy if there is one. `host` is a name, or
    /// an address without brackets.
    ///
    /// # Errors
    /// Returns [`ConnectError`]; nothing but the handshake was sent then.
    pub async fn connect(&self, host: &str, port: u16) -> Result<Stream, ConnectError> {
        let name = ServerName::try_from(host.to_owned())?;
        let stream = timeout(PATIENCE, proxy::connect("https", host, port)).await;
        let stream = stream.map_err(|_| ConnectError::Silent)?.map_err(ConnectError::Unreachable)?;
        self.handshake(name, stream).await
    }

    /// Does the same on an existing connection to `host`.
    ///
    /// # Errors
    /// Returns [`ConnectError`]; nothing but the handshake was sent then.
    pub async fn secure(&self, host: &str, stream: TcpStream) -> Result<Stream, ConnectError> {
        self.handshake(ServerName::try_from(host.to_owned())?, stream).await
    }

    async fn handshake(&self, name: ServerName<'static>, stream: TcpStream) -> Result<Stream, ConnectError> {
        // If the socket refuses this, only latency suffers.
        let _ = stream.set_nodelay(true);
        let handshake = TlsConnector::from(Arc::clone(&self.config)).connect(name, stream);
        let stream = timeout(PATIENCE, handshake).await.map_err(|_| ConnectError::Silent)?;
        let stream = stream.map_err(explain)?;
        // A server without ALPN uses HTTP/1.1.
        if self.protocol == AlpnProtocol::Http2 && stream.get_ref().1.alpn_protocol() != Some(b"h2") {
            return Err(ConnectError::NoHttp2);
        }
        Ok(stream)
    }
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector").field("protocol", &self.protocol).finish_non_exhaustive()
    }
}

fn authorities_in(path: &PathBuf) -> Result<RootCertStore, ConnectError> {
    let refused = |reason: String| ConnectError::Authorities { path: path.clone(), reason };
    let found = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let found = found.map_err(|error| refused(error.to_string()))?;
    if found.is_empty() {
        return Err(refused("it contains none".to_owned()));
    }
    let mut authorities = RootCertStore::empty();
    for certificate in found {
        authorities.add(certificate).map_err(|error| refused(error.to_string()))?;
    }
    Ok(authorities)
}

/// This host's authorities and those in `files`. With `files`, the host needs none.
fn authorities_with(files: &[PathBuf]) -> Result<RootCertStore, ConnectError> {
    let mut all = match authorities_of_this_machine() {
        Err(ConnectError::NoAuthorities) if !files.is_empty() => RootCertStore::empty(),
        found => found?,
    };
    for file in files {
        all.extend(authorities_in(file)?.roots);
    }
    Ok(all)
}

/// Skips unreadable entries: a host's list is long, and may contain anything.
fn authorities_of_this_machine() -> Result<RootCertStore, ConnectError> {
    let mut authorities = RootCertStore::empty();
    authorities.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if authorities.is_empty() { Err(ConnectError::NoAuthorities) } else { Ok(authorities) }
}

/// The cause of a failed handshake, as an error for the caller.
fn explain(error: io::Error) -> ConnectError {
    use CertificateError as Bad;
    let found = error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>());
    match found {
        Some(rustls::Error::InvalidMessage(_)) => ConnectError::NoTls,
        Some(rustls::Error::NoApplicationProtocol) => ConnectError::NoHttp2,
        Some(rustls::Error::InvalidCertificate(bad)) => match bad {
            Bad::Other(other) if other.0.is::<OtherKey>() => ConnectError::OtherKey,
            Bad::UnknownIssuer | Bad::BadSignature => ConnectError::UnknownAuthority,
            Bad::NotValidForName | Bad::NotValidForNameContext { .. } => ConnectError::OtherName,
            Bad::Expired | Bad::ExpiredContext { .. } | Bad::NotValidYet | Bad::NotValidYetContext { .. } => {
                ConnectError::OutOfDate
            }
            _ => ConnectError::Handshake(error),
        },
        Some(rustls::Error::AlertReceived(rustls::AlertDescription::NoApplicationProtocol)) => {
            ConnectError::NoHttp2
        }
        _ => ConnectError::Handshake(error),
    }
}
