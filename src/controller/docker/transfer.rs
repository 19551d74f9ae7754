//! Transfers of images between engine and registry. Errors arrive inside the stream. A frozen registry makes
//! the engine wait forever, so the timeout applies to progress.

use std::time::Duration;

use bollard::Docker;
use bollard::errors::Error as BollardError;
use bollard::models::{CreateImageInfo, ErrorDetail, PushImageInfo};
use bollard::query_parameters::{CreateImageOptionsBuilder, PushImageOptionsBuilder};
use futures::{Stream, StreamExt};
use hyper::header::{HeaderName, HeaderValue};
use tokio::time::Instant;

use super::{Engine, EngineError, Result};
use crate::model::container::Secret;
use crate::model::name::Digest;
use crate::model::platform::Platform;

/// The header in which the engine expects the credentials for a registry.
const PROOF: HeaderName = HeaderName::from_static("x-registry-auth");
/// The message that the engine sends each second while it waits to retry, which is not progress. It keeps
/// sending it for 50 s during a push and 75 s during a pull, and reports the error only then.
const RETRYING: &str = "Retrying in ";

impl Engine {
    /// Pulls an image by its name, with the tag `latest` if it has neither a tag nor a digest. Without a `platform`,
    /// the engine chooses its own. `patience` is the timeout without progress.
    pub(crate) async fn pull(
        &self,
        name: &str,
        platform: Option<&Platform>,
        proof: Option<&Secret>,
        patience: Duration,
        progress: &mut (impl FnMut(String) + Send),
    ) -> Result<()> {
        let docker = proven(self.connection().await?, proof);
        let options = CreateImageOptionsBuilder::default().from_image(name).tag(tag_beside(name));
        let options =
            platform.iter().fold(options, |options, platform| options.platform(&platform.to_string()));
        let lines = docker.create_image(Some(options.build()), None, None);
        follow(lines, Transfer { doing: "pulling", name, patience }, progress).await
    }

    /// Pushes `repository:tag`, and returns the digest that the engine reports for it.
    pub(crate) async fn push(
        &self,
        repository: &str,
        tag: &str,
        proof: Option<&Secret>,
        patience: Duration,
        progress: &mut (impl FnMut(String) + Send),
    ) -> Result<Digest> {
        let docker = proven(self.connection().await?, proof);
        let name = format!("{repository}:{tag}");
        let options = PushImageOptionsBuilder::default().tag(tag).build();
        let lines = docker.push_image(repository, Some(options), None);
        let mut pushed = None;
        let mut read = |status: String| {
            if let Some(digest) = pushed_digest(tag, &status) {
                pushed = Some(digest);
            }
            progress(status);
        };
        follow(lines, Transfer { doing: "pushing", name: &name, patience }, &mut read).await?;
        pushed.ok_or_else(|| {
            EngineError::Refused(format!(
                "the engine does not report the digest of \
            {name}"
            ))
        })
    }
}

/// Parses the digest in `tag: digest: sha256:... size: 528`. The engine's other messages about it differ
/// between versions.
fn pushed_digest(tag: &str, status: &str) -> Option<Digest> {
    let rest = status.strip_prefix(tag)?.strip_prefix(": digest: ")?;
    Digest::new(rest.split(' ').next()?).ok()
}

/// A transfer in progress.
struct Transfer<'a> {
    /// `pulling` or `pushing`.
    doing: &'static str,
    /// The name of the image.
    name: &'a str,
    /// The timeout without progress.
    patience: Duration,
}

/// One message of the engine about a transfer.
struct TransferMessage {
    status: Option<String>,
    error: Option<ErrorDetail>,
}

impl From<CreateImageInfo> for TransferMessage {
    fn from(line: CreateImageInfo) -> Self {
        Self { status: line.status, error: line.error_detail }
    }
}

impl From<PushImageInfo> for TransferMessage {
    fn from(line: PushImageInfo) -> Self {
        Self { status: line.status, error: line.error_detail }
    }
}

/// Reads the engine's messages about a transfer to the end.
async fn follow<T: Into<TransferMessage>>(
    mut lines: impl Stream<Item = std::result::Result<T, BollardError>> + Unpin,
    transfer: Transfer<'_>,
    progress: &mut (impl FnMut(String) + Send),
) -> Result<()> {
    let Transfer { doing, name, patience } = transfer;
    let (mut moved, mut is_retrying) = (Instant::now(), false);
    loop {
        let line: TransferMessage = match tokio::time::timeout_at(moved + patience, lines.next()).await {
            Ok(Some(line)) => line?.into(),
            Ok(None) => return Ok(()),
            Err(_) => {
                let again = if is_retrying { " (repeated retries)" } else { "" };
                return Err(EngineError::Stalled { what: format!("{doing} {name}{again}"), patience });
            }
        };
        if let Some(detail) = line.error.and_then(|detail| detail.message) {
            return Err(EngineError::Refused(detail));
        }
        let Some(status) = line.status else { continue };
        is_retrying = status.starts_with(RETRYING);
        if !is_retrying {
            moved = Instant::now();
        }
        progress(status);
    }
}

/// Returns the tag to request for a name that has none. Without a tag, the engine would pull all tags.
fn tag_beside(name: &str) -> &'static str {
    let is_tagged = name.contains('@') || name.rsplit('/').next().is_some_and(|last| last.contains(':'));
    if is_tagged { "" } else { "latest" }
}

/// Returns the same connection, which sends `proof` with each request.
pub(super) fn proven(docker: Docker, proof: Option<&Secret>) -> Docker {
    match proof {
        Some(proof) => showing(docker, PROOF, proof),
        None => docker,
    }
}

/// Returns the same connection, which adds a header to each request. abide sets it because the client library
/// writes base64 that the engine cannot always read.
pub(super) fn showing(docker: Docker, header: HeaderName, secret: &Secret) -> Docker {
    let Ok(mut value) = HeaderValue::from_str(secret.expose()) else { return docker };
    value.set_sensitive(true);
    docker.with_request_modifier(move |mut request| {
        request.headers_mut().insert(header.clone(), value.clone());
        request
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_of_a_push_is_in_its_last_status() {
        let digest = format!("sha256:{}", "ab".repeat(32));
        let line = format!("sha-0123: digest: {digest} size: 528");
        assert_eq!(pushed_digest("sha-0123", &line).unwrap().as_str(), digest);
        for other in
            ["Preparing", "sha-0123: digest: ", "sha-0123: digest: sha256:x size: 1", "other: digest: x"]
        {
            assert_eq!(pushed_digest("sha-0123", other), None, "{other}");
        }
        assert_eq!(pushed_digest("sha-01", &line), None);
    }

    /// Returns the result of a transfer about which the engine repeats `words` for longer than the timeout.
    async fn ends(words: &'static str) -> Result<()> {
        let messages = futures::stream::iter(0..60).then(move |_| async move {
            tokio::time::sleep(Duration::from_millis(50)).await;
            Ok::<_, BollardError>(CreateImageInfo { status: Some(words.to_owned()), ..Default::default() })
        });
        let transfer = Transfer { doing: "pulling", name: "a@b", patience: Duration::from_secs(2) };
        follow(Box::pin(messages), transfer, &mut |_| {}).await
    }

    #[tokio::test]
    async fn repeated_engine_retries_do_not_count_as_progress() {
        let (downloading, retrying) = tokio::join!(ends("Downloading"), ends("Retrying in 4 seconds"));
        assert_eq!(downloading, Ok(()));
        let stalled = retrying.unwrap_err().to_string();
        assert_eq!(stalled, "no progress for 2s while pulling a@b (repeated retries)");
    }
}
