//! The last output of containers that the reconcile loop removed, so that `logs --previous` can show why a
//! version failed.

use std::fs;
use std::io;
use std::path::PathBuf;

use bytes::Bytes;
use tracing::debug;

use crate::controller::docker::Engine;
use crate::durable;
use crate::model::logs::{LogOptions, last_lines};
use crate::model::name::EnvironmentName;

/// The number of lines that are kept for a container.
const LINES: usize = 2_000;

/// One file for each environment. Output may contain anything that a program prints, so only the daemon's
/// user can read the files.
pub(in crate::controller) struct PreviousOutput {
    dir: PathBuf,
}

impl PreviousOutput {
    pub(in crate::controller) fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// Keeps the end of the output of a container that is about to be removed. A failure does not prevent
    /// the removal.
    pub(in crate::controller) async fn keep(&self, engine: &Engine, environment: &EnvironmentName, id: &str) {
        let options = LogOptions { tail: Some(LINES), ..LogOptions::default() };
        let kept = match engine.output_bytes(id, &options).await {
            Ok(output) if output.is_empty() => Ok(()),
            Ok(output) => self.write(environment, &output).map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        if let Err(error) = kept {
            debug!(%environment, %error, "cannot store the output of a container");
        }
    }

    /// Returns the kept output, or its last `tail` lines; `None`: none was kept.
    pub(in crate::controller) async fn read(
        &self,
        environment: &EnvironmentName,
        tail: Option<usize>,
    ) -> io::Result<Option<Bytes>> {
        match tokio::fs::read(self.path(environment)).await {
            Ok(output) => {
                let start = tail.map_or(0, |lines| last_lines(&output, lines));
                Ok(Some(Bytes::from(output).slice(start..)))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Removes the kept output of an environment that is forgotten.
    pub(in crate::controller) fn forget(&self, environment: &EnvironmentName) -> io::Result<()> {
        match fs::remove_file(self.path(environment)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn path(&self, environment: &EnvironmentName) -> PathBuf {
        self.dir.join(format!("{environment}.log"))
    }

    fn write(&self, environment: &EnvironmentName, output: &[u8]) -> io::Result<()> {
        fs::create_dir_all(&self.dir)?;
        durable::replace_unsynced(&self.path(environment), durable::PRIVATE, output)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn previous_output_is_private_and_can_be_deleted() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let previous = PreviousOutput::new(dir.path().join("previous"));
        let dev = EnvironmentName::new("dev").unwrap();
        assert_eq!(previous.read(&dev, None).await.unwrap(), None);
        previous.write(&dev, b"old\n").unwrap();
        previous.write(&dev, b"one\ntwo\nthree").unwrap();
        assert_eq!(previous.read(&dev, None).await.unwrap().unwrap(), "one\ntwo\nthree");
        assert_eq!(previous.read(&dev, Some(2)).await.unwrap().unwrap(), "two\nthree");
        assert_eq!(previous.read(&dev, Some(0)).await.unwrap().unwrap(), "");
        let mode = previous.path(&dev).metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        previous.forget(&dev).unwrap();
        previous.forget(&dev).unwrap();
        assert_eq!(previous.read(&dev, None).await.unwrap(), None);
    }
}
