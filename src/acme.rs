//! Certificates from an ACME authority (RFC 8555), such as Let's Encrypt, for the names of the proxy.
//!
//! [`Acme`] keeps a certificate for the names of each environment and of the web page. It proves the names, orders,
//! renews, and remembers failures across restarts, so that a restart never asks for anything that it has. Its user
//! passes the names ([`Acme::want`]) and serves the result ([`Acme::pairs`]). Hosts share neither accounts nor keys.
//!
//! - HTTP-01 needs no file for each token: the proxy answers `TOKEN.THUMBPRINT` at one constant location.
//! - DNS-01 runs the user's command, and is the only way to prove a wildcard.
//! - After a failure, abide asks the authority's staging directory first, because its limits are wide.

mod account;
mod check;
mod command;
mod http;
mod keeper;
mod order;
mod resolver;
mod round;
mod schedule;
mod store;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

pub use keeper::Acme;

use crate::model::container::Secret;
use crate::model::name::{EnvironmentName, SiteName};
use crate::model::spec::AcmeSpec;
use crate::model::time::Timestamp;

/// The path below which the proxy answers challenges.
pub const CHALLENGE_PATH: &str = "/.well-known/acme-challenge/";

/// The desired certificates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DesiredCertificates {
    /// The authority.
    pub spec: AcmeSpec,
    /// The port at which the proxy serves host names without TLS.
    pub http: u16,
    /// Whether the proxy answers challenges now.
    pub answers: bool,
    /// The names of each owner.
    pub sets: BTreeMap<CertificateOwner, BTreeSet<SiteName>>,
}

/// Who needs a certificate.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum CertificateOwner {
    /// The web page of abide.
    Page,
    /// An environment.
    Environment(EnvironmentName),
}

impl fmt::Display for CertificateOwner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Page => f.write_str("the web page"),
            Self::Environment(name) => name.fmt(f),
        }
    }
}

/// A certificate and its key.
#[derive(Clone, Debug)]
pub struct Pair {
    /// The names of the certificate.
    pub names: BTreeSet<SiteName>,
    /// The chain, PEM.
    pub chain: String,
    /// The key, PEM.
    pub key: Secret,
    /// The end of its validity.
    pub until: Timestamp,
    /// Whether an authority issued it; otherwise it is self-signed, as a placeholder.
    pub is_issued: bool,
}

/// The state of an owner's certificates.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CertificateReport {
    /// The end of the validity of the certificate that expires first; `None`: some name has none.
    pub until: Option<Timestamp>,
    /// The problem, and the next attempt, in a sentence.
    pub problem: Option<String>,
}

/// The current time.
fn now() -> Timestamp {
    std::time::SystemTime::now().into()
}
