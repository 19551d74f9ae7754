//! Image registries: the managed one, and access to others.

use std::path::PathBuf;
use std::time::Duration;

use super::mount::VolumeName;
use super::name::ContainerName;
use super::ports::Publish;
use super::spec::{CertificateFiles, Login, SecretRef};

/// A registry that abide runs on this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManagedRegistry {
    /// The name of its image.
    pub image: String,
    /// The published address; the loopback address by default.
    pub publish: Publish,
    /// The container's name (default `abide-registry`).
    pub container: ContainerName,
    /// The volume with the pushed images (default `abide-registry`).
    pub volume: VolumeName,
    /// A file of names and hashed passwords, an absolute path of this host; `None`: open to everyone.
    pub htpasswd: Option<PathBuf>,
    /// Its certificate; `None`: no TLS.
    pub tls: Option<CertificateFiles>,
}

/// Access to one registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegistryAccess {
    /// The credentials; `None`: those of Docker's own configuration.
    pub login: Option<Login>,
    /// Whether to use HTTP without TLS (default false). Loopback addresses are always allowed to.
    pub plain_http: bool,
    /// The interval of polling tracked tags, and of checking that pushed images still exist; zero: never.
    /// Default 60 s.
    pub poll: Duration,
    /// The idle timeout of a push or pull without progress. Default 90 s: an engine that lost its connection
    /// retries for up to 75 s, and only then reports the error.
    pub patience: Duration,
    /// The token of the registry's notifications; `None`: notifications are rejected.
    pub webhook: Option<SecretRef>,
}

impl Default for RegistryAccess {
    fn default() -> Self {
        let minute = Duration::from_secs(60);
        Self { login: None, plain_http: false, poll: minute, patience: minute * 3 / 2, webhook: None }
    }
}
