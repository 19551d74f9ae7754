//! Reads a delivery as it arrives: its proof and its outline, in as little memory as possible.

use axum::http::HeaderMap;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use super::content::{self, BodyFormat};
use super::form::FormDecoder;
use super::outline::Outline;
use super::{Rejection, VerifiedDelivery, bitbucket, check_secret, gitea, github, gitlab};
use crate::model::container::Secret;
use crate::model::spec::Provider;
use crate::model::time::Timestamp;

/// The proof that a sender knows the secret.
#[derive(Debug)]
pub(super) enum SenderProof {
    /// A token in a header, already compared.
    Token,
    /// A message authentication code.
    Mac {
        /// Computed over the bytes read so far.
        mac: Box<Hmac<Sha256>>,
        /// The accepted values.
        given: Vec<Vec<u8>>,
        /// Whether it covers the decoded text of a form instead of the raw body.
        of_text: bool,
    },
}

impl SenderProof {
    /// A MAC under `key` of a message that begins with `beginning`.
    ///
    /// # Errors
    /// [`Rejection::Unconfigured`] if the key is unusable, which does not happen.
    pub(super) fn mac(key: &[u8], beginning: &[&[u8]], given: Vec<Vec<u8>>) -> Result<Self, Rejection> {
        let mac = Hmac::<Sha256>::new_from_slice(key);
        let mut mac = mac.map_err(|_| Rejection::Unconfigured("its secret cannot be used as a key"))?;
        beginning.iter().for_each(|part| mac.update(part));
        Ok(Self::Mac { mac: Box::new(mac), given, of_text: false })
    }

    pub(super) fn push(&mut self, body: &[u8], text: &[u8]) {
        if let Self::Mac { mac, of_text, .. } = self {
            mac.update(if *of_text { text } else { body });
        }
    }

    pub(super) fn check(self) -> Result<(), Rejection> {
        let Self::Mac { mac, given, .. } = self else { return Ok(()) };
        if given.iter().any(|given| mac.clone().verify_slice(given).is_ok()) {
            Ok(())
        } else {
            Err(Rejection::Unauthorized("its signature does not match"))
        }
    }
}

/// A delivery that is arriving.
#[derive(Debug)]
pub(super) struct Arriving {
    provider: Provider,
    proof: SenderProof,
    form: Option<FormDecoder>,
    outline: Outline,
}

impl Arriving {
    /// Begins to read a delivery once its headers have arrived.
    ///
    /// # Errors
    /// A [`Rejection`] if the headers alone show that the sender cannot prove anything. The body
    /// need not be read then.
    pub(super) fn new(
        provider: Provider,
        secret: &Secret,
        headers: &HeaderMap,
        now: Timestamp,
    ) -> Result<Self, Rejection> {
        check_secret(secret)?;
        let content = match provider {
            Provider::Github | Provider::Gitea => content::kind(headers)?,
            Provider::Gitlab | Provider::Bitbucket => {
                content::json_only(headers)?;
                BodyFormat::Json
            }
        };
        let proof = match provider {
            Provider::Github => github::proof(secret, headers)?,
            Provider::Gitlab => gitlab::proof(secret, headers, now)?,
            Provider::Gitea => gitea::proof(secret, headers)?,
            Provider::Bitbucket => bitbucket::proof(secret, headers)?,
        };
        let form = (content == BodyFormat::Form).then(FormDecoder::default);
        Ok(Self { provider, proof, form, outline: Outline::default() })
    }

    /// Whether the sender has already proven to know the secret.
    pub(super) fn is_proven(&self) -> bool {
        matches!(self.proof, SenderProof::Token)
    }

    /// The number of stored bytes of the body.
    pub(super) fn kept(&self) -> usize {
        self.outline.kept()
    }

    /// Reads the next bytes.
    pub(super) fn push(&mut self, body: &[u8]) {
        let decoded = self.form.as_mut().map(|form| form.push(body));
        let text = decoded.as_deref().unwrap_or(body);
        self.proof.push(body, text);
        self.outline.push(text);
    }

    /// Returns the delivery, once all of it has arrived.
    ///
    /// # Errors
    /// A [`Rejection`]: the proof is checked first.
    pub(super) fn finish(self, headers: &HeaderMap) -> Result<VerifiedDelivery, Rejection> {
        let is_complete = self.form.is_none_or(FormDecoder::finish);
        let refused = "the form must have exactly one complete `payload`";
        if !is_complete && matches!(self.proof, SenderProof::Mac { of_text: true, .. }) {
            return Err(Rejection::Unauthorized(refused));
        }
        self.proof.check()?;
        if !is_complete {
            return Err(Rejection::BadRequest(refused.to_owned()));
        }
        let text = self.outline.finish()?;
        match self.provider {
            Provider::Github => github::delivery(headers, &text),
            Provider::Gitlab => gitlab::delivery(headers, &text),
            Provider::Gitea => gitea::delivery(headers, &text),
            Provider::Bitbucket => bitbucket::delivery(headers, &text),
        }
    }
}
