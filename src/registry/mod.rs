//! Image registries: credentials and queries.
//!
//! Images themselves move between engine and registry. abide only sends small queries: which digest does a
//! tag have, and does a digest still exist. [`Keyring`] finds the credentials in the manifest or in Docker's
//! own configuration; [`RegistryClient`] sends the queries.

pub(crate) mod challenge;
pub(crate) mod client;
mod connect;
mod error;
mod keyring;
mod pass;
pub(crate) mod platforms;
pub(crate) mod retry_after;
mod token;

#[cfg(test)]
mod tests;

pub use client::{RegistryClient, RepositoryPart};
pub use error::RegistryError;
#[cfg(test)]
pub(crate) use keyring::Keyring;
pub use keyring::{Credentials, KeyringError};
pub use pass::RegistryRequest;
