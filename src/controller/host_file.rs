//! Small files of this host that containers of abide's own are given: certificates, keys, passwords.

use std::path::Path;

/// The largest that is read, in bytes.
const LARGEST: u64 = 1024 * 1024;

/// Reads one. `what` it is begins the sentence that says why it cannot be read, which names the file
/// and nothing that is in it.
pub(super) async fn read(what: &str, path: &Path) -> Result<Vec<u8>, String> {
    let wrong = |why: String| format!("{what} {} {why}", path.display());
    let metadata = tokio::fs::metadata(path).await;
    let metadata = metadata.map_err(|error| wrong(format!("cannot be read: {}", error.kind())))?;
    // A FIFO would block for ever.
    if !metadata.is_file() || metadata.len() > LARGEST {
        return Err(wrong("is no regular file of at most 1 MiB".to_owned()));
    }
    tokio::fs::read(path).await.map_err(|error| wrong(format!("cannot be read: {}", error.kind())))
}
