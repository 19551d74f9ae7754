//! The output of containers. Every piece comes with the engine's own time for it, because the engine selects
//! output by whole seconds only.

use std::future::ready;

use bollard::container::LogOutput;
use bollard::errors::Error as BollardError;
use bollard::query_parameters::{LogsOptions, LogsOptionsBuilder};
use futures::{Stream, StreamExt as _, TryStreamExt as _};

use super::piece::LogPiece;
use super::{Engine, EngineError, QUICK, Result};
use crate::model::logs::LogOptions;
use crate::model::time::Timestamp;

/// The longest output that is read at once. A line may be of any length.
const LONGEST_OUTPUT: usize = 1024 * 1024;

impl Engine {
    /// Returns the last lines that a container wrote to both streams, as readable text.
    pub(crate) async fn last_output(&self, id: &str, lines: usize) -> Result<String> {
        self.output(id, &LogOptions { tail: Some(lines), ..LogOptions::default() }).await
    }

    /// Returns [`Engine::output_bytes`] as readable text.
    pub(crate) async fn output(&self, id: &str, options: &LogOptions) -> Result<String> {
        let bytes = self.output_bytes(id, options).await?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Returns the end of a container's output so far, from both streams: at most 1 MiB. Lines may be of any
    /// length, so at most twice that is in memory.
    pub(crate) async fn output_bytes(&self, id: &str, options: &LogOptions) -> Result<Vec<u8>> {
        let stream = self.logs(id, options).await?;
        let collect = stream.try_fold(Vec::new(), |mut all: Vec<u8>, piece| async move {
            all.extend_from_slice(&piece.shown(options.timestamps));
            if all.len() > 2 * LONGEST_OUTPUT {
                all.drain(..all.len() - LONGEST_OUTPUT);
            }
            Ok(all)
        });
        let all = tokio::time::timeout(QUICK, collect).await;
        let mut all =
            all.map_err(|_| EngineError::Deadline { call: "read a container's output", within: QUICK })??;
        all.drain(..all.len().saturating_sub(LONGEST_OUTPUT));
        Ok(all)
    }

    /// Returns the last piece of a container's output so far; `None`: it printed nothing.
    pub(crate) async fn last_piece(&self, id: &str) -> Result<Option<LogPiece>> {
        let options = LogOptions { tail: Some(1), ..LogOptions::default() };
        let last = self.logs(id, &options).await?.try_fold(None, |_, piece| ready(Ok(Some(piece))));
        let last = tokio::time::timeout(QUICK, last).await;
        last.map_err(|_| EngineError::Deadline { call: "read a container's output", within: QUICK })?
    }

    /// Streams a container's output: with `since`, from the first piece that is not older.
    pub(crate) async fn logs(
        &self,
        id: &str,
        options: &LogOptions,
    ) -> Result<impl Stream<Item = Result<LogPiece>> + Send + use<>> {
        let docker = self.docker().await?;
        let since = options.since;
        let pieces = stamped(docker.logs(id, Some(log_query(options))));
        Ok(pieces.try_skip_while(move |piece| ready(Ok(since.is_some_and(|since| piece.is_before(since))))))
    }
}

/// The engine's query for output, in whole seconds.
pub(super) fn log_query(options: &LogOptions) -> LogsOptions {
    let tail = options.tail.map_or("all".to_owned(), |lines| lines.to_string());
    // The engine takes zero for no limit.
    let seconds =
        |at: Option<Timestamp>| at.map_or(0, |at| i32::try_from(at.as_millis() / 1000).unwrap_or(i32::MAX));
    LogsOptionsBuilder::default()
        .stdout(true)
        .stderr(true)
        .follow(options.follow)
        .timestamps(true)
        .since(seconds(options.since))
        .until(seconds(options.until))
        .tail(&tail)
        .build()
}

/// Converts the engine's frames of output to pieces.
pub(super) fn stamped(
    frames: impl Stream<Item = std::result::Result<LogOutput, BollardError>> + Send + 'static,
) -> impl Stream<Item = Result<LogPiece>> + Send {
    let mut lines = OpenLines::default();
    frames.map(move |frame| frame.map(|frame| lines.piece_of(frame)).map_err(EngineError::from))
}

/// Whether the last piece of the output and of the error output ended in the middle of a line. The engine cuts a
/// line of more than 16 KiB, and stamps each piece of it.
#[derive(Default)]
struct OpenLines([bool; 2]);

impl OpenLines {
    fn piece_of(&mut self, output: LogOutput) -> LogPiece {
        let open = &mut self.0[usize::from(matches!(output, LogOutput::StdErr { .. }))];
        let piece = match output {
            // The engine writes a terminal's output without frames.
            LogOutput::Console { message } => LogPiece::of_terminal(message),
            framed => LogPiece::new(framed.into_bytes()),
        };
        let is_continued = std::mem::replace(open, !piece.shown(false).ends_with(b"\n"));
        if is_continued { piece.continued() } else { piece }
    }
}
