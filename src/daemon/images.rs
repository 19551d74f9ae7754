//! The source of images for agents that pull through this process.

use std::sync::Arc;

use axum::body::Body;
use axum::response::Response;
use futures::future::BoxFuture;
use tokio::sync::watch;

use crate::api::agent::{Images, TunnelRequest};
use crate::api::{ControllerError, ManifestState};
use crate::registry::{self, RegistryClient};

/// The registries of the current manifest.
pub(super) struct TunnelRegistries {
    pub(super) client: RegistryClient,
    pub(super) manifest: watch::Receiver<Arc<ManifestState>>,
}

impl Images for TunnelRegistries {
    fn fetch(&self, wanted: TunnelRequest) -> BoxFuture<'static, Result<Response, ControllerError>> {
        let TunnelRequest { method, repository, part, headers } = wanted;
        let state = Arc::clone(&self.manifest.borrow());
        let access = state.manifest.registries.get(repository.host()).cloned().unwrap_or_default();
        let client = self.client.clone();
        Box::pin(async move {
            let wanted = registry::RegistryRequest { method, repository, part, headers };
            let answer = client.pass(&wanted, &access).await;
            Ok(answer.map_err(|error| ControllerError(error.to_string()))?.map(Body::new))
        })
    }
}
