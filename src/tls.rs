//! TLS: who the server is ([`identity`]), and how a client knows that it talks to that one
//! ([`client`]). The command line and agents use the same client.
//!
//! The provider is ring: it builds with a C compiler alone. It is named everywhere and installed
//! nowhere, so that no other part of the process can have set another one.

pub mod client;
pub mod identity;
mod pinned;
pub mod proxy;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use rustls::crypto::CryptoProvider;

/// What is spoken within TLS, as ALPN names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
}

impl Protocol {
    /// Its name in ALPN.
    pub fn alpn(self) -> &'static [u8] {
        match self {
            Self::Http1 => b"http/1.1",
            Self::Http2 => b"h2",
        }
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}
