//! Certificates for the proxy: keys, signing requests, self-signed certificates, and facts about a chain.

use std::fmt;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;
use sha2::{Digest as _, Sha256};
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use super::provider;
use crate::model::name::SiteName;
use crate::model::spec::CertificateFiles;
use crate::model::time::Timestamp;

/// The validity of self-signed certificates. Nobody checks it, but some clients reject longer ones.
const SELF_SIGNED: Duration = Duration::from_secs(397 * 24 * 60 * 60);

/// The reason why a certificate or a key cannot be used, as a clause.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateError(String);

impl fmt::Display for CertificateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for CertificateError {}

fn wrong(why: impl fmt::Display) -> CertificateError {
    CertificateError(why.to_string())
}

/// A new private key in PEM form (P-256, PKCS #8).
///
/// # Errors
/// The system has no randomness.
pub fn new_key() -> Result<String, CertificateError> {
    Ok(KeyPair::generate().map_err(wrong)?.serialize_pem())
}

/// Returns a key in the form that the ACME client takes.
pub fn pkcs8(der: Vec<u8>) -> PrivateKeyDer<'static> {
    PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(der))
}

/// The thumbprint (RFC 7638) of the public half of a P-256 key (PKCS #8, DER).
///
/// # Errors
/// The key is unusable.
pub fn thumbprint(key: &[u8]) -> Result<String, CertificateError> {
    let key = KeyPair::try_from(key).map_err(wrong)?;
    // An uncompressed point: 4, x, y.
    let [4, point @ ..] = key.public_key_raw() else { return Err(wrong("it is not a P-256 key")) };
    let (x, y) = point
        .split_at_checked(32)
        .filter(|(_, y)| y.len() == 32)
        .ok_or_else(|| wrong("it is not a P-256 key"))?;
    let [x, y] = [x, y].map(|half| URL_SAFE_NO_PAD.encode(half));
    let jwk = format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#);
    Ok(URL_SAFE_NO_PAD.encode(Sha256::digest(jwk)))
}

/// A certificate signing request (DER) for `names`, signed by a key in PEM form.
///
/// # Errors
/// The key is unusable.
pub fn request(names: &[SiteName], key: &str) -> Result<Vec<u8>, CertificateError> {
    let key = KeyPair::from_pem(key).map_err(wrong)?;
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    let mut parameters = CertificateParams::new(names).map_err(wrong)?;
    parameters.distinguished_name = DistinguishedName::new();
    Ok(parameters.serialize_request(&key).map_err(wrong)?.der().to_vec())
}

/// A self-signed certificate for `names` and its key, both in PEM form.
///
/// # Errors
/// No key could be generated.
pub fn self_signed(names: &[SiteName], now: Timestamp) -> Result<(String, String), CertificateError> {
    let key = KeyPair::generate().map_err(wrong)?;
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    let mut parameters = CertificateParams::new(names).map_err(wrong)?;
    parameters.distinguished_name.push(DnType::CommonName, "abide, until a certificate is issued");
    let now = std::time::UNIX_EPOCH + Duration::from_millis(now.as_millis());
    parameters.not_before = now.into();
    parameters.not_after = (now + SELF_SIGNED).into();
    Ok((parameters.self_signed(&key).map_err(wrong)?.pem(), key.serialize_pem()))
}

/// Facts about a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFacts {
    /// The host names that it is for.
    pub names: Vec<String>,
    /// The beginning of its validity.
    pub from: Timestamp,
    /// The end of its validity.
    pub until: Timestamp,
    /// Its identifier for renewal information (RFC 9773), if it names its authority's key.
    pub id: Option<RenewalId>,
}

/// A certificate's identifier in renewal information: both parts in base64url.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RenewalId {
    /// The identifier of the authority's key.
    pub authority: String,
    /// The serial number.
    pub serial: String,
}

/// Returns facts about the first certificate of a chain in PEM form.
///
/// # Errors
/// There is no certificate in it.
pub fn facts(chain: &[u8]) -> Result<CertificateFacts, CertificateError> {
    let first = CertificateDer::from_pem_slice(chain).map_err(wrong)?;
    let (_, parsed) = X509Certificate::from_der(&first).map_err(wrong)?;
    let names = parsed.subject_alternative_name().ok().flatten();
    let names = names.iter().flat_map(|names| &names.value.general_names);
    let name = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
        _ => None,
    };
    let authority = parsed.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::AuthorityKeyIdentifier(found) => found.key_identifier.as_ref().map(|key| key.0),
        _ => None,
    });
    let id = authority.map(|authority| RenewalId {
        authority: URL_SAFE_NO_PAD.encode(authority),
        serial: URL_SAFE_NO_PAD.encode(parsed.tbs_certificate.raw_serial()),
    });
    let at = |seconds: i64| {
        Timestamp::from_millis(u64::try_from(seconds).unwrap_or_default().saturating_mul(1000))
    };
    let validity = parsed.validity();
    Ok(CertificateFacts {
        names: names.filter_map(name).collect(),
        from: at(validity.not_before.timestamp()),
        until: at(validity.not_after.timestamp()),
        id,
    })
}

/// Checks that a chain and a key, both in PEM form, belong together.
///
/// # Errors
/// They do not, or one of them is unreadable.
pub fn check_pair(chain: &[u8], key: &[u8]) -> Result<(), CertificateError> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(chain).collect();
    let chain = chain.map_err(wrong)?;
    if chain.is_empty() {
        return Err(wrong("there is no certificate in it"));
    }
    let key = PrivateKeyDer::from_pem_slice(key).map_err(wrong)?;
    CertifiedKey::from_der(chain, key, &provider()).map_err(wrong)?;
    Ok(())
}

/// Checks that the contents of two files of the manifest belong together.
///
/// # Errors
/// A sentence that names both files and contains nothing of their content.
pub fn check_files(files: &CertificateFiles, chain: &[u8], key: &[u8]) -> Result<(), String> {
    let (certificate, key_file) = (files.certificate.display(), files.key.display());
    check_pair(chain, key)
        .map_err(|why| format!("{certificate} and {key_file} are not a certificate and its key: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(texts: &[&str]) -> Vec<SiteName> {
        texts.iter().map(|text| SiteName::new(*text).unwrap()).collect()
    }

    #[test]
    fn a_self_signed_certificate_has_its_names_and_its_key() {
        let now = Timestamp::from_millis(1_800_000_000_000);
        let (chain, key) = self_signed(&names(&["a.example", "*.b.example"]), now).unwrap();
        let facts = facts(chain.as_bytes()).unwrap();
        assert_eq!(facts.names, ["a.example", "*.b.example"]);
        assert_eq!((facts.from, facts.until), (now, now.after(SELF_SIGNED)));
        assert_eq!(check_pair(chain.as_bytes(), key.as_bytes()), Ok(()));
        assert!(check_pair(chain.as_bytes(), new_key().unwrap().as_bytes()).is_err(), "another key");
        assert!(check_pair(b"", key.as_bytes()).is_err());
        assert!(super::facts(b"nonsense").is_err());
    }

    #[test]
    fn a_certificate_request_uses_an_existing_key() {
        let key = new_key().unwrap();
        let request = request(&names(&["a.example"]), &key).unwrap();
        let text = String::from_utf8_lossy(&request);
        assert!(text.contains("a.example"));
        assert!(super::request(&names(&["a.example"]), "no key").is_err());
    }
}
