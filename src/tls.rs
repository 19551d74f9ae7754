//! TLS: the server's identity ([`identity`]), and how a client verifies it ([`client`]). The command line and
//! agents use the same client.
//!
//! The provider is ring: it needs only a C compiler to build. Every call names it explicitly instead of
//! installing it, so that another part of the process cannot have installed a different one.

pub mod certificate;
pub mod client;
mod expiry;
pub mod identity;
mod pinned;
pub mod proxy;
mod sign;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use rustls::crypto::CryptoProvider;

pub use expiry::expiry;
pub use sign::{PublicKey, sign_rs256};

/// The protocol within TLS, negotiated by ALPN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AlpnProtocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
    /// Another one, which is not negotiated.
    Other,
}

impl AlpnProtocol {
    /// Its name in ALPN; empty if it is not negotiated.
    pub fn alpn(self) -> &'static [u8] {
        match self {
            Self::Http1 => b"http/1.1",
            Self::Http2 => b"h2",
            Self::Other => b"",
        }
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}
