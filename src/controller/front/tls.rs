//! The certificate and its key: read on this host, laid into the front's container.

use sha2::{Digest as _, Sha256};

use super::render::FOLDER;
use crate::controller::docker::PlacedFile;
use crate::controller::host_file;
use crate::model::spec::HttpsSpec;

/// A certificate and its key under a name that tells their content, so that a configuration goes on
/// meaning the ones that it was checked with. Prints neither.
#[derive(Clone)]
pub(super) struct Pair {
    /// The files' name, without its ending.
    pub(super) name: String,
    /// Both files.
    pub(super) files: Vec<PlacedFile>,
}

/// Reads both.
///
/// # Errors
/// A sentence that names the file, and nothing that is in it.
pub(super) async fn read(spec: &HttpsSpec) -> Result<Pair, String> {
    let certificate = host_file::read("the front's certificate", &spec.certificate).await?;
    let key = host_file::read("the front's key", &spec.key).await?;
    // Of both, as either may be renewed without the other. The key cannot be told from a hash.
    let hash = Sha256::new().chain_update(Sha256::digest(&certificate)).chain_update(Sha256::digest(&key));
    let name = format!("tls-{}", &hex::encode(hash.finalize())[..16]);
    let file = |ending: &str, mode, content| {
        let path = format!("{FOLDER}/{name}.{ending}");
        PlacedFile { path, content, mode }
    };
    Ok(Pair { files: vec![file("crt", 0o644, certificate), file("key", 0o600, key)], name })
}
