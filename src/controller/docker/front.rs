//! Engine calls for the front: files in its container, a command, a signal, processes.

use bollard::query_parameters::{
    DownloadFromContainerOptionsBuilder, KillContainerOptionsBuilder, TopOptions,
    UploadToContainerOptionsBuilder,
};
use bytes::Bytes;
use futures::TryStreamExt;

use super::{Engine, EngineError, QUICK, Result, within};
use crate::model::time::Timestamp;

/// The largest file that is read from a container, in bytes.
const LARGEST_FILE: usize = 4 * 1024 * 1024;
/// A file to copy into a container.
#[derive(Clone)]
pub(crate) struct PlacedFile {
    /// The path, without a leading slash.
    pub(crate) path: String,
    /// Its whole content.
    pub(crate) content: Vec<u8>,
    /// Its mode; the owner is root.
    pub(crate) mode: u32,
}

/// A file of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FoundFile {
    /// Its whole content.
    pub(crate) content: Vec<u8>,
    /// When it was written.
    pub(crate) written: Timestamp,
}

/// A process in a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Process {
    /// Its id on the host.
    pub(crate) id: u32,
    /// Its command line.
    pub(crate) command: String,
}

impl Engine {
    /// Copies files into a container, running or not. Their folders must exist, or be listed before them.
    pub(crate) async fn place_files(&self, id: &str, folder: &str, files: &[PlacedFile]) -> Result<()> {
        let docker = self.docker().await?;
        let archive = archive(folder, files).map_err(|error| EngineError::Refused(error.to_string()))?;
        let options = UploadToContainerOptionsBuilder::default().path("/").build();
        let body = bollard::body_full(Bytes::from(archive));
        within("copy files into a container", QUICK, docker.upload_to_container(id, Some(options), body))
            .await
    }

    /// Reads a file of a container; `None` if it does not exist.
    pub(crate) async fn read_file(&self, id: &str, path: &str) -> Result<Option<FoundFile>> {
        let docker = self.docker().await?;
        let options = DownloadFromContainerOptionsBuilder::default().path(path).build();
        let collect = docker.download_from_container(id, Some(options)).try_fold(
            Vec::new(),
            |mut all: Vec<u8>, chunk| async move {
                // A file that somebody replaced by a larger one is not read to its end.
                if all.len() < 2 * LARGEST_FILE {
                    all.extend_from_slice(&chunk);
                }
                Ok(all)
            },
        );
        match within("read a file of a container", QUICK, collect).await {
            Ok(archive) => Ok(first_file(&archive)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Runs a command in a running container to its end. Returns the exit code and its output, both streams.
    pub(crate) async fn run_in(&self, id: &str, command: &[&str]) -> Result<(i64, String)> {
        let exec = self.prepare_exec(id, command).await?;
        self.run_exec(&exec).await
    }

    /// Sends a signal to a container's first process.
    pub(crate) async fn signal(&self, id: &str, signal: &str) -> Result<()> {
        let docker = self.docker().await?;
        let options = KillContainerOptionsBuilder::default().signal(signal).build();
        within("signal a container", QUICK, docker.kill_container(id, Some(options))).await
    }

    /// Returns the processes of a running container.
    pub(crate) async fn processes(&self, id: &str) -> Result<Vec<Process>> {
        let docker = self.docker().await?;
        let top = within("list processes", QUICK, docker.top_processes(id, None::<TopOptions>)).await?;
        let titles = top.titles.unwrap_or_default();
        let column = |name: &str| titles.iter().position(|title| title == name);
        let (Some(pid), Some(command)) = (column("PID"), column("CMD").or_else(|| column("COMMAND"))) else {
            return Err(EngineError::Refused("the engine lists processes in an unknown format".to_owned()));
        };
        let process = |row: Vec<String>| {
            Some(Process { id: row.get(pid)?.parse().ok()?, command: row.get(command)?.clone() })
        };
        Ok(top.processes.unwrap_or_default().into_iter().filter_map(process).collect())
    }
}

fn archive(folder: &str, files: &[PlacedFile]) -> std::io::Result<Vec<u8>> {
    let now = Timestamp::from(std::time::SystemTime::now()).as_millis() / 1000;
    let header = |mode: u32, size: usize, kind: tar::EntryType| {
        let mut header = tar::Header::new_gnu();
        header.set_mode(mode);
        header.set_mtime(now);
        header.set_entry_type(kind);
        header.set_size(size as u64);
        header
    };
    let mut tar = tar::Builder::new(Vec::new());
    tar.append_data(
        &mut header(0o755, 0, tar::EntryType::Directory),
        format!("{folder}/"),
        std::io::empty(),
    )?;
    for file in files {
        let mut header = header(file.mode, file.content.len(), tar::EntryType::Regular);
        tar.append_data(&mut header, &file.path, file.content.as_slice())?;
    }
    tar.into_inner()
}

/// Returns the file of an archive of one file; `None` if it is not a regular file.
fn first_file(archive: &[u8]) -> Option<FoundFile> {
    use std::io::Read as _;
    let mut archive = tar::Archive::new(archive);
    let mut entry = archive.entries().ok()?.next()?.ok()?;
    let header = entry.header();
    let is_file = header.entry_type() == tar::EntryType::Regular;
    if !is_file || entry.size() > LARGEST_FILE as u64 {
        return None;
    }
    let written = Timestamp::from_millis(header.mtime().ok()?.saturating_mul(1000));
    let mut content = Vec::new();
    entry.read_to_end(&mut content).ok()?;
    Some(FoundFile { content, written })
}
