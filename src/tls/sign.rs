//! Signatures of claims.

use std::sync::Arc;

use rustls::SignatureScheme;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::sign::SigningKey;

/// Signs `message` with an RSA key in PEM by RSASSA-PKCS1-v1_5 with SHA-256, which JWT calls RS256.
///
/// # Errors
/// Returns the reason, as a clause without the key.
pub fn sign_rs256(key: &str, message: &[u8]) -> Result<Vec<u8>, String> {
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes())
        .map_err(|_| "it is no private key in PEM".to_owned())?;
    let key: Arc<dyn SigningKey> = rustls::crypto::ring::sign::any_supported_type(&key)
        .map_err(|_| "it is no private key of a known kind".to_owned())?;
    let signer = key.choose_scheme(&[SignatureScheme::RSA_PKCS1_SHA256]);
    let signer = signer.ok_or_else(|| "it is no RSA key".to_owned())?;
    signer.sign(message).map_err(|error| error.to_string())
}
