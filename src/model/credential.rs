//! A token as its owner holds it: `abide_ID_SECRET`. Agents and remote command lines use
//! `abide_ID_SECRET.PIN`, whose pin identifies the server's key.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};

use super::container::Secret;
use super::name::TokenId;

/// The prefix of every token, so that people and secret scanners recognize one.
const PREFIX: &str = "abide_";
/// Longer texts are rejected unread; the longest token has 106 letters.
const LONGEST: usize = 128;

/// A token that a client sent. It prints as its id.
#[derive(Clone, PartialEq, Eq)]
pub struct Credential {
    id: TokenId,
    secret: [u8; 32],
    pin: Option<Pin>,
}

impl Credential {
    /// Creates a token from its parts. `secret` must be 32 bytes that nobody can guess.
    pub fn new(id: TokenId, secret: [u8; 32]) -> Self {
        Self { id, secret, pin: None }
    }

    /// The same token with a pin of the server's key.
    #[must_use]
    pub fn pinned(self, pin: Pin) -> Self {
        Self { pin: Some(pin), ..self }
    }

    /// Parses a token, with or without a pin. Returns `None` without a reason, because the answer might help
    /// someone who guesses.
    pub fn parse(text: &str) -> Option<Self> {
        let parts = text.strip_prefix(PREFIX).filter(|_| text.len() <= LONGEST)?;
        let (id, rest) = parts.split_once('_')?;
        let (secret, pin) = match rest.split_once('.') {
            Some((secret, pin)) => (secret, Some(Pin::parse(pin)?)),
            None => (rest, None),
        };
        Some(Self { id: TokenId::new(id).ok()?, secret: decode(secret)?, pin })
    }

    /// The public half, which may be logged.
    pub fn id(&self) -> &TokenId {
        &self.id
    }

    /// The pin of the server's key, if the token has one.
    pub fn pin(&self) -> Option<Pin> {
        self.pin
    }

    /// The text for the server: the token without its pin.
    pub fn bearer(&self) -> Secret {
        Secret::new(format!("{PREFIX}{}_{}", self.id, URL_SAFE_NO_PAD.encode(self.secret)))
    }

    /// The whole text with its pin. It is shown once, when the token is created.
    pub fn text(&self) -> Secret {
        let bearer = self.bearer();
        self.pin.map_or_else(|| bearer.clone(), |pin| Secret::new(format!("{}.{pin}", bearer.expose())))
    }

    /// The stored hash. One round of SHA-256 is enough: the secret is 256 random bits, so guessing is
    /// hopeless anyway. A slow hash would let anyone keep the server busy with wrong tokens.
    pub fn hash(&self) -> [u8; 32] {
        Sha256::digest(self.bearer().expose()).into()
    }
}

/// The secret in the cookie of a session: 256 random bits. It prints as nothing.
#[derive(Clone, PartialEq, Eq)]
pub struct SessionSecret([u8; 32]);

impl SessionSecret {
    /// Creates a secret from 32 bytes that nobody can guess.
    pub fn new(secret: [u8; 32]) -> Self {
        Self(secret)
    }

    /// Parses the value of a cookie.
    pub fn parse(text: &str) -> Option<Self> {
        decode(text).map(Self)
    }

    /// The value of the cookie.
    pub fn text(&self) -> Secret {
        Secret::new(URL_SAFE_NO_PAD.encode(self.0))
    }

    /// The stored hash; one round is enough, as for [`Credential::hash`].
    pub fn hash(&self) -> [u8; 32] {
        Sha256::digest(self.0).into()
    }
}

impl fmt::Debug for SessionSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("secret of a session")
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "token {}", self.id)
    }
}

/// The identity of a server's key: the SHA-256 of its certificate's public key (the DER form of
/// SubjectPublicKeyInfo). It is public.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pin([u8; 32]);

impl Pin {
    /// The pin of a public key in DER form.
    pub fn of_public_key(der: &[u8]) -> Self {
        Self(Sha256::digest(der).into())
    }

    /// Parses the 43 letters that [`fmt::Display`] writes.
    pub fn parse(text: &str) -> Option<Self> {
        decode(text).map(Self)
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(self.0))
    }
}

/// Decodes 32 bytes. Each value has exactly one valid text.
fn decode(text: &str) -> Option<[u8; 32]> {
    URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credential() -> Credential {
        Credential::new(TokenId::new("0123456789ab").unwrap(), [7; 32])
    }

    #[test]
    fn a_token_round_trips_through_text() {
        let pin = Pin::of_public_key(b"a key");
        for token in [credential(), credential().pinned(pin)] {
            assert_eq!(Credential::parse(token.text().expose()), Some(token));
        }
    }

    #[test]
    fn the_pin_is_neither_sent_to_the_server_nor_hashed() {
        let pinned = credential().pinned(Pin::of_public_key(b"a key"));
        assert_eq!(pinned.bearer(), credential().text());
        assert_eq!(pinned.hash(), credential().hash());
        assert!(pinned.text().expose().starts_with("abide_0123456789ab_"));
    }

    #[test]
    fn a_token_prints_as_its_id() {
        assert_eq!(format!("{:?}", credential()), "token 0123456789ab");
    }

    #[test]
    fn a_malformed_token_is_rejected() {
        let bearer = credential().bearer();
        let bearer = bearer.expose();
        let pin = Pin::of_public_key(b"a key").to_string();
        let near = [
            String::new(),
            "abide_".to_owned(),
            bearer.to_uppercase(),
            bearer[1..].to_owned(),
            bearer[..bearer.len() - 1].to_owned(),
            format!("{bearer}A"),
            format!("{bearer}="),
            format!("{bearer}\n"),
            format!(" {bearer}"),
            format!("{bearer}."),
            format!("{bearer}.{}", &pin[1..]),
            format!("{bearer}.{pin}.{pin}"),
            // The unused bits of the last letter must be zero.
            format!("{}d", &bearer[..bearer.len() - 1]),
            "abide_".repeat(1_000),
        ];
        for text in near {
            assert_eq!(Credential::parse(&text), None, "{text}");
        }
    }
}
