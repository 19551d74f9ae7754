//! What passes and jobs need of registries: who we are there, what they answer, and what they are
//! known to have lost.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::sync::watch;

use super::docker::{EngineError, Login, Logins};
use crate::model::container::Secret;
use crate::model::name::Digest;
use crate::model::reference::{DOCKER_HUB, ImageRepository, RegistryHost, TaggedImage};
use crate::model::spec::{Manifest, RegistryAccess};
use crate::model::status::Reason;
use crate::registry::{Client, Credentials, KeyringError, RegistryError};

/// Where Docker Hub answers, and what BuildKit therefore calls it.
const DOCKER_HUB_ADDRESS: &str = "registry-1.docker.io";

/// Registries, as the manifest of the moment has them.
pub(super) struct Registries {
    client: Client,
    manifest: watch::Receiver<Arc<Manifest>>,
    /// What a registry was found not to have any more, as `repository@digest`.
    lost: Mutex<HashSet<String>>,
}

/// Why an image could not be pushed or pulled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// The registry says that there is no such image.
    NotThere(String),
    /// It could not be tried, or not to its end.
    Unavailable(Reason, String),
}

impl Trouble {
    /// The same, with the name of the registry where that is what is wrong: the engine often passes on
    /// no more than what it answers.
    pub(super) fn with(self, host: &RegistryHost) -> Self {
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
    pub(super) fn new(manifest: watch::Receiver<Arc<Manifest>>) -> Self {
        Self { client: Client::default(), manifest, lost: Mutex::default() }
    }

    /// How a registry is spoken to.
    pub(super) fn access(&self, host: &RegistryHost) -> RegistryAccess {
        self.manifest.borrow().registries.get(host).cloned().unwrap_or_default()
    }

    async fn credentials(&self, host: &RegistryHost) -> Result<Option<Credentials>, KeyringError> {
        self.client.keyring().credentials(host, &self.access(host)).await
    }

    /// What the engine shows to a registry; `None`: nothing.
    ///
    /// # Errors
    /// [`Trouble`] where credentials are named and cannot be had.
    pub(super) async fn proof(&self, host: &RegistryHost) -> Result<Option<Secret>, Trouble> {
        match self.credentials(host).await {
            Ok(found) => Ok(found.map(|credentials| credentials.engine_header(host))),
            Err(error) => Err(Trouble::Unavailable(Reason::RegistryDenied, error.to_string())),
        }
    }

    /// The digest that a tag has now.
    pub(super) async fn digest(&self, image: &TaggedImage) -> Result<Digest, RegistryError> {
        self.client.digest(image, &self.access(image.repository.host())).await
    }

    /// Asks whether a digest is still there, and remembers the answer.
    pub(super) async fn look_for(
        &self,
        repository: &ImageRepository,
        digest: &Digest,
    ) -> Result<bool, RegistryError> {
        let is_there = self.client.has(repository, digest, &self.access(repository.host())).await?;
        if is_there {
            self.found(&repository.to_string(), digest);
        } else {
            self.lost(&repository.to_string(), digest);
        }
        Ok(is_there)
    }

    /// Remembers that a registry has this.
    pub(super) fn found(&self, repository: &str, digest: &Digest) {
        self.losses().remove(&key(repository, digest));
    }

    /// Remembers that a registry has this no more.
    pub(super) fn lost(&self, repository: &str, digest: &Digest) {
        self.losses().insert(key(repository, digest));
    }

    /// Whether a registry is known to have this no more.
    pub(super) fn is_lost(&self, repository: &str, digest: &Digest) -> bool {
        self.losses().contains(&key(repository, digest))
    }

    fn losses(&self) -> MutexGuard<'_, HashSet<String>> {
        self.lost.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Logins for Registries {
    fn login<'a>(&'a self, host: &'a str) -> BoxFuture<'a, Result<Option<Login>, String>> {
        async move {
            let host = if host == DOCKER_HUB_ADDRESS { DOCKER_HUB } else { host };
            let Ok(host) = host.parse() else { return Ok(None) };
            let found = self.credentials(&host).await.map_err(|error| error.to_string())?;
            Ok(found.map(|credentials| match credentials {
                Credentials::Password { username, password } => Login { username, secret: password },
                Credentials::IdentityToken(token) => Login { username: String::new(), secret: token },
            }))
        }
        .boxed()
    }

    /// Those that cannot be had are left out: a build that needs one is told by the registry.
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

impl From<RegistryError> for Trouble {
    fn from(error: RegistryError) -> Self {
        let message = error.to_string();
        match error {
            RegistryError::NotFound { .. } => Self::NotThere(message),
            RegistryError::Denied { .. } => Self::Unavailable(Reason::RegistryDenied, message),
            RegistryError::Unavailable { .. } => Self::Unavailable(Reason::RegistryUnavailable, message),
        }
    }
}

/// Why a transfer ended. Where that is because nothing moved, `question` is put to the registry itself:
/// the engine, which tries again meanwhile, keeps to itself what is wrong.
pub(super) async fn explained<T>(
    error: EngineError,
    question: impl Future<Output = Result<T, RegistryError>>,
) -> Trouble {
    let EngineError::Stalled { patience, .. } = error else { return error.into() };
    match tokio::time::timeout(patience, question).await {
        Ok(Err(why @ (RegistryError::Unavailable { .. } | RegistryError::Denied { .. }))) => {
            let reason = match why {
                RegistryError::Denied { .. } => Reason::RegistryDenied,
                _ => Reason::RegistryUnavailable,
            };
            Trouble::Unavailable(reason, format!("{error}: {why}"))
        }
        // It answers by now, or it is frozen, which `error` says.
        _ => error.into(),
    }
}

/// The engine passes on what a registry says, or that it says nothing, in words alone.
impl From<EngineError> for Trouble {
    fn from(error: EngineError) -> Self {
        let message = error.to_string();
        let words = message.to_lowercase();
        let says = |any: &[&str]| any.iter().any(|of| words.contains(of));
        let reason = match &error {
            _ if error.is_no_answer() => Reason::EngineUnavailable,
            // A full disk says nothing of a registry.
            _ if says(&["no space left on device"]) => Reason::EngineUnavailable,
            _ if says(&[
                "denied",
                "unauthorized",
                "authentication required",
                "no basic auth",
                "forbidden",
            ]) =>
            {
                Reason::RegistryDenied
            }
            EngineError::NotFound(_) => return Self::NotThere(message),
            _ => Reason::RegistryUnavailable,
        };
        Self::Unavailable(reason, message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_engine_passes_on_is_told_apart() {
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
            let trouble = Trouble::from(EngineError::Refused(words.to_owned()));
            assert_eq!(trouble, Trouble::Unavailable(expected, words.to_owned()));
        }
        let gone = Trouble::from(EngineError::NotFound("manifest for a@b not found".to_owned()));
        assert!(matches!(gone, Trouble::NotThere(_)), "{gone:?}");
        // Docker says 404 to both of these.
        let denied = "pull access denied for a, repository does not exist or may require 'docker login'";
        let denied = Trouble::from(EngineError::NotFound(denied.to_owned()));
        assert!(matches!(denied, Trouble::Unavailable(RegistryDenied, _)), "{denied:?}");
    }
}
