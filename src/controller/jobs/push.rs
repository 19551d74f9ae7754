//! A push: the image gets a unique tag in the registry. Its digest is the one that the registry then returns
//! for that tag.

use std::sync::Arc;

use super::registries::{Registries, TransferError, explained, until_quiet_is_over};
use crate::controller::docker::Engine;
use crate::controller::jobs::{JobEnd, JobProgress};
use crate::model::desired::Image;
use crate::model::name::Digest;
use crate::model::reference::{ImageRepository, TaggedImage};
use crate::model::status::Reason;
use crate::registry::RegistryError;

/// Pushes images of this engine.
#[derive(Clone)]
pub(in crate::controller) struct Pusher {
    pub(in crate::controller) engine: Arc<Engine>,
    pub(in crate::controller) registries: Arc<Registries>,
}

impl Pusher {
    /// Pushes an image that is here, as a job. No error is a permanent failure of the image.
    pub(in crate::controller) async fn run(
        self,
        id: Digest,
        repository: ImageRepository,
        progress: JobProgress,
    ) -> JobEnd {
        let pushed = self.push(&id, &repository, &progress).await;
        let pause = self.registries.quiet_for(repository.host()).unwrap_or_default();
        match pushed {
            Ok(image) => JobEnd::Got(image),
            Err(TransferError::NotThere(message) | TransferError::NoPlatform(message)) => {
                JobEnd::Unavailable { reason: Reason::RegistryUnavailable, message, pause }
            }
            Err(TransferError::Unavailable(reason, message)) => {
                JobEnd::Unavailable { reason, message, pause }
            }
        }
    }

    /// Pushes the image `id`, and returns it by the name that every host can pull.
    pub(in crate::controller) async fn push(
        &self,
        id: &Digest,
        repository: &ImageRepository,
        progress: &JobProgress,
    ) -> Result<Image, TransferError> {
        progress.report(format!("pushing to {repository}"));
        let host = repository.host();
        let (proof, access) = (self.registries.proof(host).await?, self.registries.access(host));
        let tagged = TaggedImage::keeping(repository.clone(), id);
        let (name, tag) = (repository.to_string(), tagged.tag());
        self.engine.tag(id.as_str(), &name, tag).await?;
        let mut report = |_| {};
        let pushed = self.engine.push(&name, tag, proof.as_ref(), access.patience, &mut report).await;
        let pushed = match pushed {
            Ok(pushed) => pushed,
            Err(error) => {
                self.registries.learn_limit(host, &error, self.registries.digest(&tagged)).await;
                let trouble = explained(error, self.registries.digest(&tagged)).await.with(host);
                return Err(until_quiet_is_over(trouble, self.registries.quiet_for(host)));
            }
        };
        let digest = self.read_back(&tagged, pushed).await?;
        self.registries.found(&name, &digest);
        Ok(Image { reference: Some(name), digest: Some(digest), id: Some(id.clone()) })
    }

    /// The digest in the registry, if it equals the pushed one. Any client with push access can move the
    /// tag; other hosts would then get another image.
    async fn read_back(&self, tagged: &TaggedImage, pushed: Digest) -> Result<Digest, TransferError> {
        let moved = |what: String| {
            let message = format!(
                "{what} after {pushed} was pushed to {tagged}: another client writes \
                to this tag"
            );
            TransferError::Unavailable(Reason::TagMoved, message)
        };
        match self.registries.digest(tagged).await {
            Ok(found) if found == pushed => Ok(found),
            Ok(found) => Err(moved(format!("the registry has {found}"))),
            Err(RegistryError::NotFound { .. }) => Err(moved("the registry has no image".to_owned())),
            Err(error) => Err(error.into()),
        }
    }
}
