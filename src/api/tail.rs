//! Reads a file that may still be written.

use std::io::{self, SeekFrom};
use std::path::Path;
use std::time::Duration;

use axum::body::Bytes;
use futures::StreamExt as _;
use futures::stream::unfold;
use tokio::fs::File;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};

use super::LogStream;
use crate::model::logs::last_lines;

/// How often a followed file is checked.
const INTERVAL: Duration = Duration::from_millis(250);
/// How long a followed file may be silent. A cancelled build has no permanent result, so nothing
/// else would end the stream; a build step may print nothing for minutes.
const SILENCE: Duration = Duration::from_secs(15 * 60);
/// The number of bytes per read.
const PIECE: usize = 64 * 1024;
/// The part at the end of the file to search for the last lines, in bytes.
const TAIL: u64 = 8 << 20;

/// The position to begin at.
#[derive(Clone, Copy)]
pub(super) enum Start {
    /// At this byte.
    At(u64),
    /// At the last lines.
    Last(usize),
}

/// Whether to continue at the end of the file.
pub(super) enum Follow {
    /// Stop there.
    No,
    /// Continue until the function returns `true`, because the file is complete.
    Until(Box<dyn Fn() -> bool + Send>),
}

struct TailReader {
    file: File,
    follow: Follow,
    silent_for: Duration,
}

/// Opens `path` at `start`.
///
/// # Errors
/// The file is missing or unreadable.
pub(super) async fn open(path: &Path, start: Start, follow: Follow) -> io::Result<LogStream> {
    let mut file = File::open(path).await?;
    match start {
        Start::At(byte) => file.seek(SeekFrom::Start(byte)).await.map(drop)?,
        Start::Last(lines) => seek_to_last(&mut file, lines).await?,
    }
    let reading = TailReader { file, follow, silent_for: Duration::ZERO };
    let pieces = unfold(reading, |mut reading| async move {
        let piece = reading.next().await.transpose()?;
        Some((piece, reading))
    });
    Ok(pieces.boxed())
}

impl TailReader {
    async fn next(&mut self) -> io::Result<Option<Bytes>> {
        loop {
            // Checked before reading, so that the following read includes all that was written
            // before the end.
            let is_over = match &self.follow {
                Follow::No => true,
                Follow::Until(is_over) => is_over() || self.silent_for >= SILENCE,
            };
            let mut piece = vec![0; PIECE];
            let length = self.file.read(&mut piece).await?;
            if length > 0 {
                self.silent_for = Duration::ZERO;
                piece.truncate(length);
                return Ok(Some(piece.into()));
            }
            if is_over {
                return Ok(None);
            }
            tokio::time::sleep(INTERVAL).await;
            self.silent_for += INTERVAL;
        }
    }
}

/// Seeks to the start of the last `lines` lines.
async fn seek_to_last(file: &mut File, lines: usize) -> io::Result<()> {
    let length = file.metadata().await?.len();
    let start = length.saturating_sub(TAIL);
    file.seek(SeekFrom::Start(start)).await?;
    let mut end = Vec::new();
    file.take(TAIL).read_to_end(&mut end).await?;
    let offset = u64::try_from(last_lines(&end, lines)).unwrap_or_default();
    file.seek(SeekFrom::Start(start + offset)).await.map(drop)
}
