//! The client's side: a stream to `host:port` whose other end is known.

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
use super::{Protocol, provider, proxy};
use crate::model::credential::Pin;

/// An encrypted stream to a server that is known.
pub type Stream = tokio_rustls::client::TlsStream<TcpStream>;

/// How long connecting may take, and then how long the handshake: a host that drops packets would
/// else keep us for minutes.
const PATIENCE: Duration = Duration::from_secs(10);

/// By what a server is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trust {
    /// By this key, and by no other. Names, dates and authorities do not matter.
    Pin(Pin),
    /// By a certificate that one of the authorities in this PEM file signed, for the host's name.
    File(PathBuf),
    /// By a certificate that an authority of this machine's own list signed, for the host's name.
    /// The machine's list and no built-in one: it is kept up to date by the system, has an
    /// organisation's own authorities, and bollard reads it anyway, so it costs no crate.
    System,
    /// The same, or by one that an authority in these PEM files signed.
    SystemAnd(Vec<PathBuf>),
}

/// Whether nothing that is sent to `host` leaves this machine, so that it needs no TLS. A name or an IP
/// address, without brackets.
pub fn is_local(host: &str) -> bool {
    let address = host.parse::<IpAddr>();
    host.eq_ignore_ascii_case("localhost")
        || address.is_ok_and(|address| address.to_canonical().is_loopback())
}

/// Why there is no such stream.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The file with authorities cannot be used.
    #[error("the certificates of authorities in {} cannot be used: {reason}", path.display())]
    Authorities {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// This machine has no list of authorities.
    #[error("this machine has no certificates of authorities: name a file of them")]
    NoAuthorities,
    /// TLS cannot be set up.
    #[error("TLS cannot be set up")]
    Setup(#[source] rustls::Error),
    /// The host is neither a name nor an address.
    #[error("the host is neither a name nor an address")]
    Host(#[from] InvalidDnsNameError),
    /// Nobody listens, or the way there is barred.
    #[error("no connection")]
    Unreachable(#[source] io::Error),
    /// Nothing came back in time.
    #[error("no connection within {} s", PATIENCE.as_secs())]
    Silent,
    /// The server has another key than the pinned one.
    #[error(
        "the server's key is not the one that the token was made with: it is another server, someone \
         is in between, or the server was set up anew, and a new token is needed"
    )]
    OtherKey,
    /// No authority that is trusted vouches for the server.
    #[error(
        "the server's certificate is of no authority that is trusted here: use the token with the \
         server's pin, or name the authority's certificate"
    )]
    UnknownAuthority,
    /// The certificate is another host's.
    #[error("the server's certificate is not for the name that it was called by")]
    OtherName,
    /// The certificate is too old or too young; or this machine's clock is wrong.
    #[error("the server's certificate is not valid at the time that this machine's clock says")]
    OutOfDate,
    /// The other end speaks no TLS.
    #[error("the server does not speak TLS on this port: is it an `http://` address?")]
    NoTls,
    /// The other end does not speak what was asked for.
    #[error("the server does not speak HTTP/2: is there a proxy in between?")]
    NoHttp2,
    /// Anything else.
    #[error("the TLS handshake failed")]
    Handshake(#[source] io::Error),
}

impl ConnectError {
    /// Whether trying again later may help.
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Unreachable(_) | Self::Silent | Self::Handshake(_))
    }
}

/// Makes streams. Cheap to clone.
#[derive(Clone)]
pub struct Connector {
    config: Arc<ClientConfig>,
    protocol: Protocol,
}

impl Connector {
    /// A connector that knows servers by `trust`, and speaks `protocol` with them.
    ///
    /// # Errors
    /// [`ConnectError::Authorities`], [`ConnectError::NoAuthorities`], [`ConnectError::Setup`].
    pub fn new(trust: &Trust, protocol: Protocol) -> Result<Self, ConnectError> {
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
        config.alpn_protocols = vec![protocol.alpn().to_vec()];
        Ok(Self { config: Arc::new(config), protocol })
    }

    /// A stream to `host:port`, through the environment's proxy where there is one. `host` is a name, or
    /// an address without brackets.
    ///
    /// # Errors
    /// [`ConnectError`]; nothing was sent then but the handshake.
    pub async fn connect(&self, host: &str, port: u16) -> Result<Stream, ConnectError> {
        let name = ServerName::try_from(host.to_owned())?;
        let stream = timeout(PATIENCE, proxy::connect("https", host, port)).await;
        let stream = stream.map_err(|_| ConnectError::Silent)?.map_err(ConnectError::Unreachable)?;
        self.shake_hands(name, stream).await
    }

    /// The same, on a connection to `host` that was made already.
    ///
    /// # Errors
    /// [`ConnectError`]; nothing was sent then but the handshake.
    pub async fn secure(&self, host: &str, stream: TcpStream) -> Result<Stream, ConnectError> {
        self.shake_hands(ServerName::try_from(host.to_owned())?, stream).await
    }

    async fn shake_hands(
        &self,
        name: ServerName<'static>,
        stream: TcpStream,
    ) -> Result<Stream, ConnectError> {
        // Only latency is at stake where the socket refuses this.
        let _ = stream.set_nodelay(true);
        let handshake = TlsConnector::from(Arc::clone(&self.config)).connect(name, stream);
        let stream = timeout(PATIENCE, handshake).await.map_err(|_| ConnectError::Silent)?;
        let stream = stream.map_err(explain)?;
        // HTTP/1.1 is what a server speaks that does not know ALPN.
        if self.protocol == Protocol::Http2 && stream.get_ref().1.alpn_protocol() != Some(b"h2") {
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
        return Err(refused("there are none in it".to_owned()));
    }
    let mut authorities = RootCertStore::empty();
    for certificate in found {
        authorities.add(certificate).map_err(|error| refused(error.to_string()))?;
    }
    Ok(authorities)
}

/// This machine's, and those in `files`; a machine that has none of its own is fine then.
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

/// What cannot be read of the list is left out: a machine's list is long, and may hold anything.
fn authorities_of_this_machine() -> Result<RootCertStore, ConnectError> {
    let mut authorities = RootCertStore::empty();
    authorities.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if authorities.is_empty() { Err(ConnectError::NoAuthorities) } else { Ok(authorities) }
}

/// What a failed handshake means to who asked for it.
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
