//! Registries of images: who we are there, and what they hold.
//!
//! Images themselves move between engine and registry; abide only asks small questions: which
//! digest does a tag have, is a digest still there. [`Keyring`] finds the credentials, as the
//! manifest or Docker's own configuration has them; [`Client`] asks.

mod challenge;
mod client;
mod connect;
mod error;
mod keyring;
mod pass;
mod platforms;
mod reach;
mod retry_after;
mod token;

#[cfg(test)]
mod tests;

pub use client::Client;
pub use error::RegistryError;
pub use keyring::{Credentials, Keyring, KeyringError};
pub use pass::Wanted;
