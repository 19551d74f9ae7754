//! The access of reconciles and jobs to registries: credentials, answers, and images known to be lost.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::controller::docker::{BuildLogin, EngineError, Logins};
use crate::model::cause::{self, Cause};
use crate::model::container::Secret;
use crate::model::name::Digest;
use crate::model::reference::{DOCKER_HUB, ImageRepository, RegistryHost, TaggedImage};
use crate::model::spec::{Manifest, RegistryAccess};
use crate::model::status::Reason;
use crate::registry::{Credentials, KeyringError, RegistryClient, RegistryError, RepositoryPart};

/// The address of Docker Hub, and BuildKit's name for it.
const DOCKER_HUB_ADDRESS: &str = "registry-1.docker.io";

/// The pause after a registry's rate limit, if the registry names none.
pub(in crate::controller) const RATE_LIMITED: Duration = Duration::from_secs(60);

/// The registries of the current manifest.
pub(in crate::controller) struct Registries {
    client: RegistryClient,
    manifest: watch::Receiver<Arc<Manifest>>,
    /// The images that registries were found to have lost, as `repository@digest`.
    lost: Mutex<HashSet<String>>,
    /// The end of each registry's rate limit.
    quiet: Mutex<HashMap<RegistryHost, Instant>>,
}

/// The reason why an image could not be pushed or pulled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::controller) enum TransferError {
    /// The registry has no such image.
    NotThere(String),
    /// There is no image for this host's platform.
    NoPlatform(String),
    /// It could not be tried or completed.
    Unavailable(Reason, String),
}

impl TransferError {
    /// Adds the name of the registry if the registry is the cause: the engine often returns only the
    /// registry's answer.
    pub(in crate::controller) fn with(self, host: &RegistryHost) -> Self {
        match self {
            Self::Unavailable(reason @ (Reason::RegistryUnavailable | Reason::RegistryDenied), message)
                if !message.contains(host.as_str()) =>
            {
                Self::Unavailable(reason, format!("{host}: {message}"))
            }
            other => other,
        }
    }
}

impl Registries {
    pub(in crate::controller) fn new(manifest: watch::Receiver<Arc<Manifest>>) -> Self {
        Self { client: RegistryClient::default(), manifest, lost: Mutex::default(), quiet: Mutex::default() }
    }

    /// How to access a registry.
    pub(in crate::controller) fn access(&self, host: &RegistryHost) -> RegistryAccess {
        self.manifest.borrow().registries.get(host).cloned().unwrap_or_default()
    }

    async fn credentials(&self, host: &RegistryHost) -> Result<Option<Credentials>, KeyringError> {
        self.client.keyring().credentials(host, &self.access(host)).await
    }

    /// The engine's credentials for a registry; `None`: none are needed.
    ///
    /// # Errors
    /// Returns [`TransferError`] if credentials are declared and cannot be read.
    pub(in crate::controller) async fn proof(
        &self,
        host: &RegistryHost,
    ) -> Result<Option<Secret>, TransferError> {
        match self.credentials(host).await {
            Ok(found) => Ok(found.map(|credentials| credentials.engine_header(host))),
            Err(error) => Err(TransferError::Unavailable(Reason::RegistryDenied, error.to_string())),
        }
    }

    /// The current digest of a tag.
    pub(in crate::controller) async fn digest(&self, image: &TaggedImage) -> Result<Digest, RegistryError> {
        if let Some(pinned) = image.pinned() {
            return Ok(pinned.clone());
        }
        let host = image.repository.host();
        self.asked(host, self.client.digest(image, &self.access(host))).await
    }

    /// Sends a query to a registry, unless the registry is rate limiting.
    async fn asked<T>(
        &self,
        host: &RegistryHost,
        question: impl Future<Output = Result<T, RegistryError>>,
    ) -> Result<T, RegistryError> {
        if let Some(left) = self.quiet_for(host) {
            let why = format!("it asked to wait another {}", whole_seconds(left));
            return Err(RegistryError::Unavailable {
                registry: host.to_string(),
                why,
                retry_after: Some(left),
            });
        }
        let answer = question.await;
        if let Err(RegistryError::Unavailable { retry_after: Some(pause), .. }) = &answer {
            self.keep_quiet(host, *pause);
        }
        answer
    }

    /// Stops requests to a registry for this long.
    pub(in crate::controller) fn keep_quiet(&self, host: &RegistryHost, pause: Duration) {
        let mut quiet = self.quiet.lock().unwrap_or_else(PoisonError::into_inner);
        let until = Instant::now() + pause;
        let known = quiet.entry(host.clone()).or_insert(until);
        *known = until.max(*known);
    }

    /// The remaining pause of a registry.
    pub(in crate::controller) fn quiet_for(&self, host: &RegistryHost) -> Option<Duration> {
        let quiet = self.quiet.lock().unwrap_or_else(PoisonError::into_inner);
        quiet.get(host)?.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
    }

    /// Returns an error during the pause of a registry.
    pub(in crate::controller) fn may_be_asked(&self, host: &RegistryHost) -> Result<(), TransferError> {
        let Some(left) = self.quiet_for(host) else { return Ok(()) };
        let message = format!("the registry {host} asked to wait another {}", whole_seconds(left));
        Err(TransferError::Unavailable(Reason::RegistryUnavailable, message))
    }

    /// Pauses requests to a registry after it rejected the engine for too many requests. The engine does not
    /// return the length of the pause, so `question` queries the registry once, which may return it.
    pub(in crate::controller) async fn learn_limit<T>(
        &self,
        host: &RegistryHost,
        error: &EngineError,
        question: impl Future<Output = Result<T, RegistryError>>,
    ) {
        if cause::of_transfer(&error.to_string()) != Cause::RateLimit {
            return;
        }
        drop(question.await);
        if self.quiet_for(host).is_none() {
            self.keep_quiet(host, RATE_LIMITED);
        }
    }

    /// The platforms of an image.
    pub(in crate::controller) async fn platforms(
        &self,
        repository: &ImageRepository,
        digest: &Digest,
    ) -> Vec<String> {
        let host = repository.host();
        let access = self.access(host);
        self.asked(host, self.client.platforms(repository, digest, &access)).await.unwrap_or_default()
    }

    /// The manifest of a tag or digest; `None`: the registry does not have it.
    pub(in crate::controller) async fn manifest(
        &self,
        repository: &ImageRepository,
        reference: &str,
    ) -> Result<Option<Bytes>, RegistryError> {
        self.content(repository, (RepositoryPart::Manifest, reference)).await
    }

    /// A blob; `None`: the registry does not have it.
    pub(in crate::controller) async fn blob(
        &self,
        repository: &ImageRepository,
        digest: &Digest,
    ) -> Result<Option<Bytes>, RegistryError> {
        self.content(repository, (RepositoryPart::Blob, digest.as_str())).await
    }

    /// The index of the manifests that refer to an image; `None`: the registry keeps none by itself.
    pub(in crate::controller) async fn referrers(
        &self,
        repository: &ImageRepository,
        digest: &Digest,
    ) -> Result<Option<Bytes>, RegistryError> {
        self.content(repository, (RepositoryPart::Referrers, digest.as_str())).await
    }

    async fn content(
        &self,
        repository: &ImageRepository,
        content: (RepositoryPart, &str),
    ) -> Result<Option<Bytes>, RegistryError> {
        let access = self.access(repository.host());
        self.asked(repository.host(), self.client.content(repository, content, &access)).await
    }

    /// Queries whether a digest still exists, and remembers the answer.
    pub(in crate::controller) async fn look_for(
        &self,
        repository: &ImageRepository,
        digest: &Digest,
    ) -> Result<bool, RegistryError> {
        let access = self.access(repository.host());
        let is_there = self.asked(repository.host(), self.client.has(repository, digest, &access)).await?;
        if is_there {
            self.found(&repository.to_string(), digest);
        } else {
            self.lost(&repository.to_string(), digest);
        }
        Ok(is_there)
    }

    /// Remembers that a registry has this image.
    pub(in crate::controller) fn found(&self, repository: &str, digest: &Digest) {
        self.losses().remove(&key(repository, digest));
    }

    /// Remembers that a registry has lost this image.
    pub(in crate::controller) fn lost(&self, repository: &str, digest: &Digest) {
        self.losses().insert(key(repository, digest));
    }

    /// Whether a registry is known to have lost this image.
    pub(in crate::controller) fn is_lost(&self, repository: &str, digest: &Digest) -> bool {
        self.losses().contains(&key(repository, digest))
    }

    fn losses(&self) -> MutexGuard<'_, HashSet<String>> {
        self.lost.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Logins for Registries {
    fn login<'a>(&'a self, host: &'a str) -> BoxFuture<'a, Result<Option<BuildLogin>, String>> {
        async move {
            let host = if host == DOCKER_HUB_ADDRESS { DOCKER_HUB } else { host };
            let Ok(host) = host.parse() else { return Ok(None) };
            let found = self.credentials(&host).await.map_err(|error| error.to_string())?;
            Ok(found.map(|credentials| match credentials {
                Credentials::Password { username, password } => BuildLogin { username, secret: password },
                Credentials::IdentityToken(token) => BuildLogin { username: String::new(), secret: token },
            }))
        }
        .boxed()
    }

    /// Unreadable credentials are left out: if a build needs them, it gets the registry's error.
    fn all(&self) -> BoxFuture<'_, Secret> {
        async move {
            let declared = self.manifest.borrow().registries.keys().cloned().collect::<BTreeSet<_>>();
            let mut all = BTreeMap::new();
            for host in declared.into_iter().chain(self.client.keyring().hosts()) {
                if let Ok(Some(found)) = self.credentials(&host).await {
                    all.insert(host, found);
                }
            }
            Credentials::engine_config(&all)
        }
        .boxed()
    }
}

fn key(repository: &str, digest: &Digest) -> String {
    format!("{repository}@{digest}")
}

impl From<RegistryError> for TransferError {
    fn from(error: RegistryError) -> Self {
        let message = error.to_string();
        match error {
            RegistryError::NotFound { .. } => Self::NotThere(message),
            RegistryError::Denied { .. } => Self::Unavailable(Reason::RegistryDenied, message),
            RegistryError::Unavailable { .. } => Self::Unavailable(Reason::RegistryUnavailable, message),
        }
    }
}

/// Explains why a transfer ended. If no data moved, `question` queries the registry itself: the engine keeps
/// retrying without reporting the cause.
pub(in crate::controller) async fn explained<T>(
    error: EngineError,
    question: impl Future<Output = Result<T, RegistryError>>,
) -> TransferError {
    let EngineError::Stalled { patience, .. } = error else { return error.into() };
    match tokio::time::timeout(patience, question).await {
        Ok(Err(why @ (RegistryError::Unavailable { .. } | RegistryError::Denied { .. }))) => {
            let reason = match why {
                RegistryError::Denied { .. } => Reason::RegistryDenied,
                _ => Reason::RegistryUnavailable,
            };
            TransferError::Unavailable(reason, format!("{error}: {why}"))
        }
        // It answers again, or it hangs, which is what `error` reports.
        _ => error.into(),
    }
}

/// The engine passes on the registry's error, or its silence, only as text.
impl From<EngineError> for TransferError {
    fn from(error: EngineError) -> Self {
        let message = error.to_string();
        if error.is_no_answer() {
            return Self::Unavailable(Reason::EngineUnavailable, message);
        }
        let cause = cause::of_transfer(&message);
        let message = cause::transfer_words(&message);
        match cause {
            // A full disk is not the registry's fault.
            Cause::Host => Self::Unavailable(Reason::EngineUnavailable, message),
            Cause::Denied => Self::Unavailable(Reason::RegistryDenied, message),
            Cause::NoPlatform => Self::NoPlatform(message),
            Cause::NoImage => Self::NotThere(message),
            _ if error.is_not_found() => Self::NotThere(message),
            _ => Self::Unavailable(Reason::RegistryUnavailable, message),
        }
    }
}

/// The same error, with the time of the next request if the registry is rate limiting.
pub(in crate::controller) fn until_quiet_is_over(
    trouble: TransferError,
    left: Option<Duration>,
) -> TransferError {
    match (trouble, left) {
        (TransferError::Unavailable(reason, message), Some(left)) => {
            TransferError::Unavailable(reason, format!("{message}; abide retries in {}", whole_seconds(left)))
        }
        (trouble, _) => trouble,
    }
}

/// A duration in whole seconds.
fn whole_seconds(duration: Duration) -> humantime::FormattedDuration {
    humantime::format_duration(Duration::from_secs(duration.as_secs().max(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registry_errors_passed_on_by_the_engine_are_classified() {
        use Reason::{EngineUnavailable, RegistryDenied, RegistryUnavailable};
        for (words, expected) in [
            ("unauthorized: authentication required", RegistryDenied),
            ("Get http://localhost:5000/v2/: no basic auth credentials", RegistryDenied),
            ("denied: requested access to the resource is denied", RegistryDenied),
            (
                "Get http://localhost:5000/v2/: dial tcp 127.0.0.1:5000: connect: connection refused",
                RegistryUnavailable,
            ),
            ("received unexpected HTTP status: 503 Service Unavailable", RegistryUnavailable),
            ("toomanyrequests: You have reached your pull rate limit", RegistryUnavailable),
            ("write /var/lib/docker/tmp/x: no space left on device", EngineUnavailable),
        ] {
            let trouble = TransferError::from(EngineError::Refused(words.to_owned()));
            let TransferError::Unavailable(reason, message) = trouble else { panic!("{trouble:?}") };
            assert_eq!(reason, expected, "{words}");
            // The engine's words, after a sentence that names the remedy.
            assert!(message.len() > words.len() && message.ends_with(&format!("({words})")), "{message}");
        }
        let other =
            EngineError::Refused("no matching manifest for linux/amd64 in the manifest list".to_owned());
        assert!(matches!(TransferError::from(other), TransferError::NoPlatform(_)));
        let gone = TransferError::from(EngineError::NotFound("manifest for a@b not found".to_owned()));
        assert!(matches!(gone, TransferError::NotThere(_)), "{gone:?}");
        // Docker returns 404 for both of these.
        let denied = "pull access denied for a, repository does not exist or may require 'docker login'";
        let denied = TransferError::from(EngineError::NotFound(denied.to_owned()));
        assert!(matches!(denied, TransferError::Unavailable(RegistryDenied, _)), "{denied:?}");
    }
    #[tokio::test]
    async fn a_registrys_retry_after_is_respected() {
        let (_manifest, manifest) = watch::channel(Arc::default());
        let registries = Registries::new(manifest);
        let host: RegistryHost = "localhost:5000".parse().unwrap();
        let busy = |pause| async move {
            let retry_after = Some(Duration::from_secs(pause));
            Err::<(), _>(RegistryError::Unavailable {
                registry: String::new(),
                why: "429".to_owned(),
                retry_after,
            })
        };
        assert!(registries.asked(&host, busy(60)).await.is_err());
        let again = registries.asked(&host, async { panic!("it was asked again") }).await;
        let Err(RegistryError::Unavailable { why, retry_after: Some(left), .. }) = again else {
            let _: Result<(), _> = again;
            panic!("nothing says when it may be asked");
        };
        assert!(why.contains("asked to wait") && left > Duration::from_secs(50), "{why} {left:?}");
        let other: RegistryHost = "localhost:5001".parse().unwrap();
        assert_eq!(
            registries.asked(&other, async { Ok(1) }).await,
            Ok(1),
            "another registry asked for nothing"
        );
    }
}
