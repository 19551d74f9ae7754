//! The server's side: its certificate and key, either given or generated at the first start.

use std::fs::{self, DirBuilder};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use rcgen::{CertificateParams, DnType, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio_rustls::TlsAcceptor;

use super::{AlpnProtocol, provider};
use crate::durable;
use crate::model::credential::Pin;

/// The files of a generated certificate, in their own folder.
const CERTIFICATE: &str = "certificate.pem";
const KEY: &str = "key.pem";
/// The interval of checking given files. They are small and are read completely, so every edit is noticed,
/// regardless of modification times and links.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// The reason why the server has no identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A file or folder could not be created or read.
    #[error("{doing} `{}` failed", path.display())]
    Io {
        /// The step.
        doing: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A file contains no usable PEM.
    #[error("`{}` contains no {what} in PEM format: {reason}", path.display())]
    NoPem {
        /// The file.
        path: PathBuf,
        /// The expected content.
        what: &'static str,
        /// The problem.
        reason: String,
    },
    /// The certificate and the key do not work together.
    #[error("cannot use the certificate in `{}` with the key in `{}`: {reason}", certificate.display(), key.display())]
    Unusable {
        /// The file of the certificate.
        certificate: PathBuf,
        /// The file of the key.
        key: PathBuf,
        /// The problem.
        reason: String,
    },
    /// No certificate could be generated.
    #[error("cannot create a certificate")]
    Making(#[from] rcgen::Error),
    /// TLS cannot be set up.
    #[error("cannot set up TLS")]
    Setup(#[source] rustls::Error),
}

/// The paths of a certificate and its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// The certificate and its intermediate certificates, in PEM form.
    pub certificate: PathBuf,
    /// Its key, in PEM form.
    pub key: PathBuf,
}

impl Files {
    /// The files that abide generates in `folder`.
    pub fn made_in(folder: &Path) -> Self {
        Self { certificate: folder.join(CERTIFICATE), key: folder.join(KEY) }
    }

    fn read(&self) -> Result<Contents, IdentityError> {
        let read = |path: &Path| {
            fs::read(path).map_err(|source| IdentityError::Io {
                doing: "reading",
                path: path.to_owned(),
                source,
            })
        };
        Ok(Contents { certificate: read(&self.certificate)?, key: read(&self.key)? })
    }

    fn parse(&self, contents: &Contents) -> Result<CertifiedKey, IdentityError> {
        let no_pem = |path: &Path, what, error: rustls::pki_types::pem::Error| IdentityError::NoPem {
            path: path.to_owned(),
            what,
            reason: error.to_string(),
        };
        let chain = CertificateDer::pem_slice_iter(&contents.certificate).collect::<Result<Vec<_>, _>>();
        let chain = chain.and_then(|chain| {
            if chain.is_empty() { Err(rustls::pki_types::pem::Error::NoItemsFound) } else { Ok(chain) }
        });
        let chain = chain.map_err(|error| no_pem(&self.certificate, "certificate", error))?;
        let key = PrivateKeyDer::from_pem_slice(&contents.key);
        let key = key.map_err(|error| no_pem(&self.key, "private key", error))?;
        CertifiedKey::from_der(chain, key, &provider()).map_err(|error| IdentityError::Unusable {
            certificate: self.certificate.clone(),
            key: self.key.clone(),
            reason: error.to_string(),
        })
    }
}

/// The contents of both files.
#[derive(PartialEq, Eq)]
struct Contents {
    certificate: Vec<u8>,
    key: Vec<u8>,
}

/// The identity of the server. Cheap to clone.
#[derive(Clone)]
pub struct Identity {
    files: Files,
    /// The contents of the files.
    contents: Arc<Contents>,
    current: Arc<CurrentIdentity>,
    pin: Option<Pin>,
}

impl Identity {
    /// The identity in the given files. Clients verify it by its authority. It has no pin, because the next
    /// renewal may change the key.
    ///
    /// # Errors
    /// Returns [`IdentityError`], which names the file.
    pub fn given(files: Files) -> Result<Self, IdentityError> {
        warn_of_readers(&files.key);
        Self::of(files)
    }

    /// The identity in `folder`. It is generated at the first start and then never changes, because tokens
    /// contain its pin.
    ///
    /// # Errors
    /// Returns [`IdentityError`]. Existing files are never replaced, even if they are unusable.
    pub fn made(folder: &Path) -> Result<Self, IdentityError> {
        if !folder.exists() {
            make(folder)?;
        }
        let identity = Self::of(Files::made_in(folder))?;
        let pin = pin_of(&identity.current.get());
        Ok(Self { pin, ..identity })
    }

    fn of(files: Files) -> Result<Self, IdentityError> {
        let contents = files.read()?;
        let current = Arc::new(CurrentIdentity::of(files.parse(&contents)?));
        Ok(Self { files, contents: Arc::new(contents), current, pin: None })
    }

    /// The pin for tokens, if the key never changes.
    pub fn pin(&self) -> Option<Pin> {
        self.pin
    }

    /// Creates the acceptor for incoming connections.
    ///
    /// # Errors
    /// Returns [`IdentityError::Setup`].
    pub fn acceptor(&self) -> Result<TlsAcceptor, IdentityError> {
        let builder = ServerConfig::builder_with_provider(provider());
        let builder = builder.with_safe_default_protocol_versions().map_err(IdentityError::Setup)?;
        let resolver: Arc<CurrentIdentity> = Arc::clone(&self.current);
        let mut config = builder.with_no_client_auth().with_cert_resolver(resolver);
        config.alpn_protocols = [AlpnProtocol::Http2, AlpnProtocol::Http1].map(|p| p.alpn().to_vec()).into();
        Ok(TlsAcceptor::from(Arc::new(config)))
    }

    /// Reloads the files whenever they change. If the new files are unusable, it logs a warning and keeps the
    /// old certificate. Never returns.
    pub async fn follow(self) {
        let mut follower = self.follower();
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            follower.look();
        }
    }

    pub(super) fn follower(self) -> CertificateReloader {
        CertificateReloader { taken: Arc::clone(&self.contents), refused: None, identity: self }
    }
}

/// The last observed contents of the files.
pub(super) struct CertificateReloader {
    identity: Identity,
    taken: Arc<Contents>,
    /// Contents that were unusable, and whether that was logged.
    refused: Option<(Option<Contents>, bool)>,
}

impl CertificateReloader {
    pub(super) fn look(&mut self) {
        let files = &self.identity.files;
        let read = files.read();
        if read.as_ref().is_ok_and(|contents| *contents == *self.taken) {
            self.refused = None;
            return;
        }
        match read.and_then(|contents| files.parse(&contents).map(|key| (contents, key))) {
            Ok((contents, key)) => {
                self.identity.current.replace(key);
                self.taken = Arc::new(contents);
                self.refused = None;
                tracing::info!(certificate = %files.certificate.display(), "loaded the renewed \
                    certificate");
            }
            Err(error) => self.refuse(&error),
        }
    }

    /// Logs once, and only if two checks find the same contents, because a renewal writes one file after the
    /// other.
    fn refuse(&mut self, error: &IdentityError) {
        let seen = self.identity.files.read().ok();
        match &mut self.refused {
            Some((before, is_logged)) if *before == seen => {
                if !*is_logged {
                    let error: &(dyn std::error::Error + 'static) = error;
                    tracing::warn!(error, "cannot use the changed certificate; keeping the old one");
                    *is_logged = true;
                }
            }
            _ => self.refused = Some((seen, false)),
        }
    }
}

/// The certificate for new handshakes.
#[derive(Debug)]
struct CurrentIdentity(RwLock<Arc<CertifiedKey>>);

impl CurrentIdentity {
    fn of(key: CertifiedKey) -> Self {
        Self(RwLock::new(Arc::new(key)))
    }

    fn get(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn replace(&self, key: CertifiedKey) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(key);
    }
}

impl ResolvesServerCert for CurrentIdentity {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.get())
    }
}

fn pin_of(key: &CertifiedKey) -> Option<Pin> {
    key.key.public_key().map(|der| Pin::of_public_key(&der))
}

/// The pin of the identity that abide generated in `folder`; `None` if there is none yet.
pub fn pin_in(folder: &Path) -> Option<Pin> {
    let files = Files::made_in(folder);
    pin_of(&files.parse(&files.read().ok()?).ok()?)
}

/// Creates the folder atomically.
fn make(folder: &Path) -> Result<(), IdentityError> {
    let failed = |doing, path: &Path| {
        let path = path.to_owned();
        move |source| IdentityError::Io { doing, path, source }
    };
    let draft = folder.with_extension("new");
    if draft.exists() {
        fs::remove_dir_all(&draft).map_err(failed("removing", &draft))?;
    }
    DirBuilder::new().mode(0o700).create(&draft).map_err(failed("making", &draft))?;
    let key = KeyPair::generate()?;
    let certificate = parameters()?.self_signed(&key)?;
    let files = Files::made_in(&draft);
    write(&files.key, &key.serialize_pem()).map_err(failed("writing", &files.key))?;
    write(&files.certificate, &certificate.pem()).map_err(failed("writing", &files.certificate))?;
    fs::rename(&draft, folder).map_err(failed("making", folder))?;
    let parent = folder.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::File::open(parent).and_then(|parent| parent.sync_all()).map_err(failed("flushing", parent))
}

/// Clients know the certificate by its key, so it never expires. Its names only help people who inspect it,
/// or who test it on this host with `curl --cacert`.
fn parameters() -> Result<CertificateParams, rcgen::Error> {
    let names = ["abide", "localhost", "127.0.0.1", "::1"].map(str::to_owned);
    let mut parameters = CertificateParams::new(names)?;
    parameters.distinguished_name.push(DnType::CommonName, "abide");
    Ok(parameters)
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    let mut file = durable::create(path, durable::PRIVATE)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

fn warn_of_readers(key: &Path) {
    let mode = fs::metadata(key).map(|found| found.permissions().mode()).unwrap_or_default();
    if mode & 0o007 != 0 {
        tracing::warn!(key = %key.display(), "every user of this host can read the key of the certificate");
    }
}
