//! Errors of registries.

use std::time::Duration;

/// A failed query of a registry.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RegistryError {
    /// The registry does not answer at the moment. Another attempt may succeed.
    #[error("the registry {registry} does not respond: {why}")]
    Unavailable {
        /// The registry's host.
        registry: String,
        /// The failure.
        why: String,
        /// The pause that the registry requests.
        retry_after: Option<Duration>,
    },
    /// The registry answers, but denies access.
    #[error("the registry {registry} denies access to {name}: {why}")]
    Denied {
        /// The registry's host.
        registry: String,
        /// The requested name.
        name: String,
        /// The failure.
        why: String,
    },
    /// The registry answers, but does not have the image.
    #[error("the registry {registry} does not have {name}")]
    NotFound {
        /// The registry's host.
        registry: String,
        /// The requested name.
        name: String,
    },
}
