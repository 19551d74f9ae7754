//! Exports and imports the whole record.

use std::io::{self, BufWriter, Write};
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse as _, Response};
use axum::{Extension, Json};
use bytes::Bytes;
use futures::{StreamExt as _, stream};
use serde::Serialize;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::ApiState;
use super::error::ApiError;
use super::serve::BodyDeadline;
use crate::model::name::EnvironmentName;
use crate::record::{ImportSpool, ImportedRecord, RecordError};

/// Parts of an export that wait for the client.
const WAITING_PARTS: usize = 4;
/// The length of a part, in bytes.
const PART: usize = 64 << 10;
/// The time within which each part of an import must arrive.
const PART_WITHIN: Duration = Duration::from_secs(30);

/// `GET /api/v1/export`
pub(super) async fn export(State(api): State<ApiState>) -> Result<Response, ApiError> {
    // An error before the first part gets an ordinary answer.
    api.desired.try_read()?;
    let (parts, body) = mpsc::channel(WAITING_PARTS);
    tokio::task::spawn_blocking(move || {
        let mut writer = BufWriter::with_capacity(PART, PartWriter(parts.clone()));
        let written = api.desired.write_export(&mut writer).and_then(|()| writer.flush());
        if let Err(error) = written {
            // A broken body shows the client that the export is incomplete.
            let _ = parts.blocking_send(Err(error));
        }
    });
    let body = Body::from_stream(stream::unfold(body, async |mut body| Some((body.recv().await?, body))));
    Ok(([(CONTENT_TYPE, "application/json")], body).into_response())
}

/// Sends everything that is written to it.
struct PartWriter(mpsc::Sender<io::Result<Bytes>>);

impl Write for PartWriter {
    fn write(&mut self, part: &[u8]) -> io::Result<usize> {
        let sent = self.0.blocking_send(Ok(Bytes::copy_from_slice(part)));
        sent.map(|()| part.len()).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The answer to an import.
#[derive(Debug, Serialize)]
pub(super) struct Imported {
    /// The environments that the record has now.
    environments: Vec<EnvironmentName>,
    /// A sentence for users.
    message: String,
}

/// `POST /api/v1/import`
pub(super) async fn import(
    State(api): State<ApiState>,
    deadline: Option<Extension<BodyDeadline>>,
    body: Body,
) -> Result<Json<Imported>, ApiError> {
    // A long record may take a while over a slow link. Each part has a deadline instead.
    if let Some(Extension(deadline)) = deadline {
        deadline.lift();
    }
    let spool = receive(api.writer.spool()?, body).await?;
    let ImportedRecord { environments, is_moved } = api.writer.import_file(spool).await?;
    let count = environments.len();
    let mut message =
        format!("imported the record of {count} environment{}", if count == 1 { "" } else { "s" });
    if is_moved && api.controller.is_some() {
        // Containers carry the record's ID, and the controller reads it only at its start.
        message.push_str("; the record has a new ID: restart the daemon to use it");
    }
    Ok(Json(Imported { environments, message }))
}

/// Writes the body to the disk as it arrives.
async fn receive(mut spool: ImportSpool, body: Body) -> Result<ImportSpool, ApiError> {
    let mut parts = body.into_data_stream();
    let late = |_| ApiError::bad_request(format!("no data for {} seconds", PART_WITHIN.as_secs()));
    while let Some(part) = timeout(PART_WITHIN, parts.next()).await.map_err(late)? {
        let part = part.map_err(|error| ApiError::bad_request(format!("incomplete body: {error}")))?;
        let written = tokio::task::spawn_blocking(move || spool.write_all(&part).map(|()| spool)).await;
        spool = written.map_err(io::Error::other).flatten().map_err(RecordError::receiving)?;
    }
    Ok(spool)
}
