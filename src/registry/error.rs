//! Why a registry gave no answer that helps.

use std::time::Duration;

/// What went wrong between abide and a registry.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RegistryError {
    /// It does not answer, or not now. It is worth another try.
    #[error("the registry {registry} does not answer: {why}")]
    Unavailable {
        /// The registry's host.
        registry: String,
        /// What happened.
        why: String,
        /// How long it asks to be left alone.
        retry_after: Option<Duration>,
    },
    /// It answers, and lets us in to nothing.
    #[error("the registry {registry} denies access to {name}: {why}")]
    Denied {
        /// The registry's host.
        registry: String,
        /// What was asked for.
        name: String,
        /// What happened.
        why: String,
    },
    /// It answers, and has no such image.
    #[error("the registry {registry} has no {name}")]
    NotFound {
        /// The registry's host.
        registry: String,
        /// What was asked for.
        name: String,
    },
}
