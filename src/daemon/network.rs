//! The network listener: its address, and whether it uses TLS.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use axum::Router;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::api::serve::{self, ServeLimits};
use crate::model::credential::Pin;
use crate::tls::identity::{Files, Identity, pin_in};

/// Whether the listener uses TLS, and with which certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Encryption {
    /// TLS except on a loopback address, with a certificate that abide creates at its first start.
    #[default]
    ByAddress,
    /// TLS with this certificate.
    Given(Files),
    /// No TLS, because a proxy terminates TLS or the network is trusted.
    Never,
}

impl Encryption {
    /// The file of the key, if one was given.
    pub(super) fn key_file(&self) -> Option<PathBuf> {
        match self {
            Self::Given(files) => Some(files.key.clone()),
            Self::ByAddress | Self::Never => None,
        }
    }
}

/// The certificate's folder in a desired-state folder.
pub(super) fn tls_dir(desired_state: &Path) -> PathBuf {
    desired_state.join("tls")
}

/// The public key of a folder's server, if the server created its own.
pub(super) fn pin(desired_state: &Path) -> Option<Pin> {
    pin_in(&tls_dir(desired_state))
}

/// The bound address and its identity.
pub(super) struct BoundListener {
    listener: TcpListener,
    identity: Option<Identity>,
    /// Whether the user supplied the files, which may then change.
    is_given: bool,
}

impl BoundListener {
    /// Binds `listen`, and reads or creates the certificate.
    ///
    /// # Errors
    /// An address in use or an unusable certificate, as a sentence.
    pub(super) async fn open(
        listen: SocketAddr,
        encryption: &Encryption,
        desired_state: &Path,
    ) -> anyhow::Result<Self> {
        let is_local = listen.ip().to_canonical().is_loopback();
        let identity = match encryption {
            Encryption::Given(files) => Some(Identity::given(files.clone())?),
            Encryption::ByAddress if !is_local => Some(Identity::made(&tls_dir(desired_state))?),
            Encryption::ByAddress | Encryption::Never => None,
        };
        if identity.is_none() && !is_local {
            warn!(%listen, "TLS is off: tokens and logs cross the network unencrypted");
        }
        let listener = TcpListener::bind(listen)
            .await
            .with_context(|| format!("cannot listen on {listen}: choose another address with --listen"))?;
        Ok(Self { listener, identity, is_given: matches!(encryption, Encryption::Given(_)) })
    }

    /// The bound address.
    pub(super) fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// The URL scheme.
    pub(super) fn scheme(&self) -> &'static str {
        if self.identity.is_some() { "https" } else { "http" }
    }

    /// The server's public key, if the server created its own.
    pub(super) fn pin(&self) -> Option<Pin> {
        self.identity.as_ref().and_then(Identity::pin)
    }

    /// Serves `router` until `stop` is cancelled.
    ///
    /// # Errors
    /// TLS cannot be set up.
    pub(super) fn serve(
        self,
        router: Router,
        limits: ServeLimits,
        stop: &CancellationToken,
    ) -> anyhow::Result<JoinHandle<()>> {
        let stop = stop.clone();
        let Some(identity) = self.identity else {
            return Ok(tokio::spawn(serve::serve_tcp(self.listener, router, limits, stop)));
        };
        let acceptor = identity.acceptor()?;
        if self.is_given {
            let stop = stop.clone();
            tokio::spawn(async move { stop.run_until_cancelled(identity.follow()).await });
        }
        Ok(tokio::spawn(serve::serve_tls(self.listener, acceptor, router, limits, stop)))
    }
}
