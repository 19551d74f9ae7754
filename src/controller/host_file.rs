//! Small files of this host that are given to abide's own containers: certificates, keys, passwords.

use std::path::Path;

/// The maximum size, in bytes.
const LARGEST: u64 = 1024 * 1024;

/// Reads one. The error is a sentence that begins with `what` and names the file, but never its contents.
pub(super) async fn read(what: &str, path: &Path) -> Result<Vec<u8>, String> {
    let wrong = |why: String| format!("{what} {} {why}", path.display());
    let metadata = tokio::fs::metadata(path).await;
    let metadata = metadata.map_err(|error| wrong(format!("cannot be read: {}", error.kind())))?;
    // A FIFO would block forever.
    if !metadata.is_file() || metadata.len() > LARGEST {
        return Err(wrong("is not a regular file of at most 1 MiB".to_owned()));
    }
    tokio::fs::read(path).await.map_err(|error| wrong(format!("cannot be read: {}", error.kind())))
}
