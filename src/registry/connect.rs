//! Requests to registries: with the certificates that Docker trusts for each host, and with limits on the
//! addresses that a registry may name.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::{HeaderMap, Request, Response, StatusCode, Uri};

use crate::outbound::{self, Allowed, SendError};

/// The longest answer that is read, in bytes: registries accept no longer manifests.
const LONGEST_ANSWER: usize = 4 << 20;
/// Docker's folder for certificates of registries, with a subfolder for each host.
const CERTIFICATES: &str = "/etc/docker/certs.d";

/// A complete answer.
pub(super) struct RegistryResponse {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    /// The addresses that this registry may send abide to.
    pub(super) reach: Allowed,
}

/// Sends `request` to the host of its URL, and reads the whole answer. See [`open`].
///
/// # Errors
/// Returns the failure, as a clause.
pub(super) async fn ask(
    request: Request<Full<Bytes>>,
    from: Option<Allowed>,
) -> Result<RegistryResponse, String> {
    let (reach, response) = open(request, from).await?;
    let answer = outbound::read(response, LONGEST_ANSWER).await.map_err(|error| error.to_string())?;
    Ok(RegistryResponse { status: answer.status, headers: answer.headers, body: answer.body, reach })
}

/// Sends `request` to the host of its URL. The caller reads the answer's body as it arrives. `from` limits the
/// allowed addresses to those that the registry itself has: it must not make abide contact addresses that only
/// abide can reach. `None` allows any address, because the URL comes from the manifest or the record.
///
/// # Errors
/// Returns the failure, as a clause.
pub(super) async fn open(
    request: Request<Full<Bytes>>,
    from: Option<Allowed>,
) -> Result<(Allowed, Response<Incoming>), String> {
    let client = outbound::Client::default().allowing(from.unwrap_or(Allowed::ANY));
    let client = client.trusting(certificates_for(request.uri()).await);
    let opened = client.open(request).await.map_err(|error| match error {
        SendError::NotAllowed(why) if from.is_some() => format!("it sends abide to another address: {why}"),
        error => error.to_string(),
    })?;
    Ok((Allowed { plain: opened.is_plain, private: opened.is_private }, opened.response))
}

/// The certificates that Docker trusts for this registry only: the `*.crt` files in its folder.
async fn certificates_for(uri: &Uri) -> Vec<PathBuf> {
    let Some(authority) = uri.authority().filter(|_| uri.scheme_str() == Some("https")) else {
        return Vec::new();
    };
    let folder = Path::new(CERTIFICATES).join(authority.as_str());
    let list = move || {
        let files = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|file| file.path());
        files.filter(|path| path.extension().is_some_and(|end| end == "crt")).collect()
    };
    tokio::task::spawn_blocking(list).await.unwrap_or_default()
}
