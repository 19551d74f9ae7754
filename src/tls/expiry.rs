//! When a certificate ends.

use std::path::Path;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// When the first certificate of a PEM file expires, in seconds since 1970.
///
/// # Errors
/// Why it cannot be read, to be put after the file's name.
pub fn expiry(file: &Path) -> Result<i64, String> {
    let first = CertificateDer::from_pem_file(file).map_err(|error| format!("cannot be read: {error}"))?;
    let parsed = X509Certificate::from_der(&first);
    let (_, certificate) = parsed.map_err(|error| format!("contains no certificate: {error}"))?;
    Ok(certificate.validity().not_after.timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_expiry_is_read_from_the_certificate() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("c.pem");
        assert!(expiry(&file).unwrap_err().contains("cannot be read"));
        let mut parameters = rcgen::CertificateParams::new(["a.example".to_owned()]).unwrap();
        parameters.not_after = rcgen::date_time_ymd(2031, 1, 1);
        let key = rcgen::KeyPair::generate().unwrap();
        std::fs::write(&file, parameters.self_signed(&key).unwrap().pem()).unwrap();
        assert_eq!(expiry(&file), Ok(1_924_992_000));
    }
}
