//! The door to the network: the address, and whether TLS is spoken there.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use axum::Router;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::api::serve::{self, Limits};
use crate::model::credential::Pin;
use crate::tls::identity::{Files, Identity, pin_in};

/// Whether TLS is spoken, and as whom.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Encryption {
    /// Not on a loopback address; elsewhere with a certificate that abide makes at its first start.
    #[default]
    ByAddress,
    /// With this certificate.
    Given(Files),
    /// Not at all, because something in front does it, or the network is trusted.
    Never,
}

/// The certificate's folder in a desired-state folder.
fn tls_dir(desired_state: &Path) -> PathBuf {
    desired_state.join("tls")
}

/// By what key the server of a folder is known, where it made its own.
pub(super) fn pin(desired_state: &Path) -> Option<Pin> {
    pin_in(&tls_dir(desired_state))
}

/// The bound address, and who answers on it.
pub(super) struct Network {
    listener: TcpListener,
    identity: Option<Identity>,
    /// Given files may change.
    is_given: bool,
}

impl Network {
    /// Binds `listen`, and reads or makes the certificate.
    ///
    /// # Errors
    /// An address that is taken, a certificate that cannot be used; in words.
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
            warn!(%listen, "no TLS: tokens and logs travel in the clear to whoever is not on this machine");
        }
        let listener = TcpListener::bind(listen)
            .await
            .with_context(|| format!("cannot listen on {listen}; --listen chooses another address"))?;
        Ok(Self { listener, identity, is_given: matches!(encryption, Encryption::Given(_)) })
    }

    /// Where it listens.
    pub(super) fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// What is spoken there.
    pub(super) fn scheme(&self) -> &'static str {
        if self.identity.is_some() { "https" } else { "http" }
    }

    /// By what key it is known, where it made its own.
    pub(super) fn pin(&self) -> Option<Pin> {
        self.identity.as_ref().and_then(Identity::pin)
    }

    /// Serves `router` until `stop` is cancelled.
    ///
    /// # Errors
    /// Where TLS cannot be set up.
    pub(super) fn serve(
        self,
        router: Router,
        limits: Limits,
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
