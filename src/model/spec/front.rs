//! The managed nginx proxy and its certificates, as declared.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::EnvValue;
use crate::model::name::SiteName;

/// A certificate and its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The certificate chain, PEM, an absolute path of this host.
    pub certificate: PathBuf,
    /// Its key, PEM, an absolute path of this host.
    pub key: PathBuf,
}

/// The managed nginx proxy. It serves host names and published ports, and forwards requests to ready
/// containers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrontSpec {
    /// The name of its image.
    pub image: String,
    /// The HTTP port of host names.
    pub http: u16,
    /// TLS for host names; `None`: no TLS.
    pub https: Option<HttpsSpec>,
    /// Certificates for some names, each with its key.
    pub certificates: Vec<NamedCertificate>,
    /// Certificates from an ACME authority; `None`: none.
    pub acme: Option<AcmeSpec>,
    /// The maximum time for the last requests to a replaced container (default 30 s).
    pub drain: Duration,
    /// Proxies outside of the front whose `X-Forwarded-*` headers are passed on (default none).
    pub trusted_proxies: Vec<IpNet>,
    /// Whether they send the address of the client by the PROXY protocol, on the ports of host names (default
    /// false).
    pub proxy_protocol: bool,
    /// Whether each environment keeps a spare sandbox for its next version.
    pub spare: bool,
}

impl FrontSpec {
    /// The certificates that users named, each with the dotted path of the keys that name its files.
    pub fn certificate_files(&self) -> Vec<(String, &'static str, &CertificateFiles)> {
        let default = self.https.iter().filter_map(|https| https.default.as_ref());
        let default = default.map(|files| ("front".to_owned(), "certificate", files));
        let named = self.certificates.iter().enumerate();
        let named = named.map(|(index, one)| (format!("front.certificates[{index}]"), "cert", &one.files));
        default.chain(named).collect()
    }
}

/// TLS at the proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpsSpec {
    /// The port.
    pub port: u16,
    /// The certificate of all other names; `None`: unknown names are rejected in the handshake.
    pub default: Option<CertificateFiles>,
}

/// A certificate for some names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedCertificate {
    /// The names that it is used for.
    pub names: Vec<SiteName>,
    /// Its files.
    pub files: CertificateFiles,
}

/// Certificates from an ACME authority, such as Let's Encrypt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcmeSpec {
    /// The address that the authority may write to.
    pub email: Option<String>,
    /// The URL of the authority's directory (default Let's Encrypt).
    pub directory: String,
    /// The URL of a directory to try first after a failure; `None`: there is none.
    pub staging: Option<String>,
    /// The root certificate of a private authority, PEM, an absolute path of this host.
    pub ca_file: Option<PathBuf>,
    /// The authority's profile for certificates; `None`: its default.
    pub profile: Option<String>,
    /// How to prove names by DNS; `None`: only HTTP.
    pub dns: Option<DnsSpec>,
    /// The name server to ask for the addresses of names; `None`: this host's resolver.
    pub resolver: Option<SocketAddr>,
}

/// How to prove names by DNS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsSpec {
    /// The program that adds and removes TXT records, and its first arguments.
    pub command: Vec<String>,
    /// Its environment variables.
    pub env: BTreeMap<String, EnvValue>,
    /// The time limit of one call (default 2 min).
    pub timeout: Duration,
    /// How long to wait for the records at the zone's name servers (default 5 min).
    pub propagation: Duration,
}

/// Whether clients must use HTTPS for the host names of an environment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HttpsMode {
    /// HTTP is redirected as soon as there is a certificate, whichever it is.
    Required,
    /// Nothing is redirected.
    Optional,
}
