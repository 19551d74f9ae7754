//! Test messages to the channels of the current manifest.

use std::sync::Arc;

use futures::future::BoxFuture;
use tokio::sync::watch;

use crate::api::{ControllerError, ManifestState, Notifier};
use crate::feedback;
use crate::model::name::ChannelName;

/// The channels of the current manifest.
pub(super) struct Channels {
    pub(super) manifest: watch::Receiver<Arc<ManifestState>>,
}

impl Notifier for Channels {
    fn test(&self, channel: ChannelName, print: bool) -> BoxFuture<'static, Result<String, ControllerError>> {
        let state = Arc::clone(&self.manifest.borrow());
        Box::pin(async move {
            let sent = feedback::test(&state.manifest, &channel, print, super::clock()).await;
            sent.map_err(ControllerError)
        })
    }
}
