//! Signatures: of claims, made with a private key; of images, verified with a public key.

use std::sync::Arc;

use rustls::SignatureScheme;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{PrivateKeyDer, SignatureVerificationAlgorithm, SubjectPublicKeyInfoDer, alg_id};
use rustls::sign::SigningKey;

/// Signs `message` with an RSA key in PEM by RSASSA-PKCS1-v1_5 with SHA-256, which JWT calls RS256.
///
/// # Errors
/// Returns the reason, as a clause without the key.
pub fn sign_rs256(key: &str, message: &[u8]) -> Result<Vec<u8>, String> {
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes())
        .map_err(|_| "it is not a private key in PEM".to_owned())?;
    let key: Arc<dyn SigningKey> = rustls::crypto::ring::sign::any_supported_type(&key)
        .map_err(|_| "it is not a private key of a known kind".to_owned())?;
    let signer = key.choose_scheme(&[SignatureScheme::RSA_PKCS1_SHA256]);
    let signer = signer.ok_or_else(|| "it is not an RSA key".to_owned())?;
    signer.sign(message).map_err(|error| error.to_string())
}

/// A public key that verifies signatures: ECDSA on P-256 or P-384, Ed25519, or RSA with at least 2,048 bits, with
/// SHA-256. The key decides the algorithm, never the signature.
#[derive(Clone)]
pub struct PublicKey {
    algorithm: &'static dyn SignatureVerificationAlgorithm,
    /// The key without its algorithm.
    bits: Vec<u8>,
}

impl PublicKey {
    /// Reads a key in PEM (`PUBLIC KEY`).
    ///
    /// # Errors
    /// Returns the reason, as a clause.
    pub fn from_pem(pem: &str) -> Result<Self, String> {
        let wrong =
            || "it must be a public key in PEM, which begins with `-----BEGIN PUBLIC KEY-----`".to_owned();
        let info = SubjectPublicKeyInfoDer::from_pem_slice(pem.as_bytes()).map_err(|_| wrong())?;
        let (algorithm, bits) = parts(&info).ok_or_else(wrong)?;
        let all = rustls::crypto::ring::default_provider().signature_verification_algorithms.all;
        let is_it = |known: &&&'static dyn SignatureVerificationAlgorithm| {
            let signature = known.signature_alg_id();
            known.public_key_alg_id().as_ref() == algorithm
                && [alg_id::ECDSA_SHA256, alg_id::ED25519, alg_id::RSA_PKCS1_SHA256].contains(&signature)
        };
        let algorithm = all.iter().find(is_it).ok_or_else(|| {
            "its kind is not supported: use ECDSA on P-256, as `cosign generate-key-pair` does".to_owned()
        })?;
        Ok(Self { algorithm: *algorithm, bits: bits.to_vec() })
    }

    /// Whether this key made `signature` over `message`.
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        self.algorithm.verify_signature(&self.bits, message, signature).is_ok()
    }
}

/// The algorithm and the bits of a key: a sequence of a sequence and a bit string in DER.
fn parts(info: &[u8]) -> Option<(&[u8], &[u8])> {
    let (content, rest) = element(0x30, info)?;
    let (algorithm, after) = element(0x30, content)?;
    let (bits, end) = element(0x03, after)?;
    // The first byte counts the unused bits.
    let bits = bits.strip_prefix(&[0])?;
    (rest.is_empty() && end.is_empty()).then_some((algorithm, bits))
}

/// The content of an element with this tag, and what follows it.
fn element(tag: u8, der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (first, rest) = der.split_first()?;
    let (length, rest) = rest.split_first()?;
    let (length, rest) = match length {
        0..=0x7f => (usize::from(*length), rest),
        0x81 => (usize::from(*rest.first()?), rest.get(1..)?),
        0x82 => (usize::from(*rest.first()?) << 8 | usize::from(*rest.get(1)?), rest.get(2..)?),
        _ => return None,
    };
    (*first == tag).then(|| rest.split_at_checked(length)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A signature of cosign, from the tests of sigstore-rs.
    const KEY: &str = "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAENptdY/l3nB0yqkXLBWkZWQwo6+cuOSWS1X9vPavpiQOoTTGC0xX57OojUadxF1cdQmrsiReWg2Wn4FneJfa8xw==";
    const PAYLOAD: &str = r#"{"critical":{"identity":{"docker-reference":"registry-testing.svc.lan/busybox"},"image":{"docker-manifest-digest":"sha256:f3cfc9d0dbf931d3db4685ec659b7ac68e2a578219da4aae65427886e649b06b"},"type":"cosign container image signature"},"optional":null}"#;
    const SIGNATURE: &str =
        "MEUCIQD6q/COgzOyW0YH1Dk+CCYSt4uAhm3FDHUwvPI55zwnlwIgE0ZK58ZOWpZw8YVmBapJhBqCfdPekIknimuO0xH8Jh8=";

    fn pem(der: &str) -> String {
        format!("-----BEGIN PUBLIC KEY-----\n{der}\n-----END PUBLIC KEY-----\n")
    }

    #[test]
    fn only_a_valid_cosign_signature_verifies() {
        use base64::Engine as _;
        let signature = base64::engine::general_purpose::STANDARD.decode(SIGNATURE).unwrap();
        let key = PublicKey::from_pem(&pem(KEY)).unwrap();
        assert!(key.verifies(PAYLOAD.as_bytes(), &signature));
        assert!(!key.verifies(&PAYLOAD.as_bytes()[1..], &signature));
        let mut changed = signature.clone();
        changed[20] ^= 1;
        for signature in [&changed[..], &signature[..10], &[]] {
            assert!(!key.verifies(PAYLOAD.as_bytes(), signature));
        }
    }

    #[test]
    fn an_invalid_public_key_is_rejected() {
        let private = rcgen::KeyPair::generate().unwrap().serialize_pem();
        for text in ["", "x", &pem(""), &pem("AAAA"), &pem(&KEY[..40]), &private] {
            assert!(PublicKey::from_pem(text).is_err(), "{text}");
        }
    }
}
