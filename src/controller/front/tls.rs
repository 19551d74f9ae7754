//! The certificate and its key: abide reads them on this host and copies them into the front's container.

use sha2::{Digest as _, Sha256};

use super::render::FOLDER;
use crate::controller::docker::PlacedFile;
use crate::controller::host_file;
use crate::model::spec::HttpsSpec;

/// A certificate and its key. The name depends on their content, so a configuration keeps referring to the
/// pair that it was checked with. Neither can be printed: the type has no `Debug`.
#[derive(Clone)]
pub(super) struct Pair {
    /// The files' name, without its ending.
    pub(super) name: String,
    /// Both files.
    pub(super) files: Vec<PlacedFile>,
}

/// Reads the certificate and its key.
///
/// # Errors
/// A sentence that names the file and contains nothing of its content.
pub(super) async fn read(spec: &HttpsSpec) -> Result<Pair, String> {
    let certificate = host_file::read("the proxy's certificate", &spec.certificate).await?;
    let key = host_file::read("the proxy's key", &spec.key).await?;
    // A hash of both, because either may be renewed alone. The key cannot be derived from the hash.
    let hash = Sha256::new().chain_update(Sha256::digest(&certificate)).chain_update(Sha256::digest(&key));
    let name = format!("tls-{}", &hex::encode(hash.finalize())[..16]);
    let file = |ending: &str, mode, content| {
        let path = format!("{FOLDER}/{name}.{ending}");
        PlacedFile { path, content, mode }
    };
    Ok(Pair { files: vec![file("crt", 0o644, certificate), file("key", 0o600, key)], name })
}
