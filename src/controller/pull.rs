//! A pull, as a job: by digest and nothing else.

use std::sync::Arc;

use super::docker::{Engine, EngineError};
use super::jobs::{Ended, Progress};
use super::registries::{Registries, Trouble, explained};
use crate::model::desired::Image;
use crate::model::name::{Digest, EnvironmentName};
use crate::model::reference::{ImageRepository, RegistryHost, TaggedImage};
use crate::model::spec::RegistryAccess;
use crate::model::status::Reason;

/// An image that is pulled for an environment.
pub(super) struct Pull {
    pub(super) engine: Arc<Engine>,
    pub(super) registries: Arc<Registries>,
    pub(super) environment: EnvironmentName,
    /// The repository as the record names it.
    pub(super) reference: String,
    pub(super) digest: Digest,
}

impl Pull {
    /// Pulls it. A digest that the registry does not have is a verdict, which the plan doubts after a
    /// while; a registry that does not answer, or lets us in to nothing, is none.
    pub(super) async fn run(self, progress: Progress) -> Ended {
        match self.pull(&progress).await {
            Ok(image) => Ended::Got(image),
            Err(Trouble::NotThere(message)) => {
                self.registries.lost(&self.reference, &self.digest);
                Ended::Failed { reason: Reason::ImageNotFound, message }
            }
            Err(Trouble::Unavailable(reason, message)) => Ended::Unavailable { reason, message },
        }
    }

    async fn pull(&self, progress: &Progress) -> Result<Image, Trouble> {
        // A name that no registry could have is left to the engine, which says so.
        let repository = self.reference.parse::<ImageRepository>().ok();
        let found_at = repository.as_ref().and_then(|repository| self.engine.found_at(repository));
        let (proof, access) = match &repository {
            // Whoever is in between proves who it is.
            Some(repository) if found_at.is_some() => (None, self.registries.access(repository.host())),
            Some(repository) => {
                let host = repository.host();
                (self.registries.proof(host).await?, self.registries.access(host))
            }
            None => (None, RegistryAccess::default()),
        };
        let (reference, digest) = (&self.reference, &self.digest);
        let asked_for = found_at.as_ref().unwrap_or(reference);
        let mut say = |line: String| progress.say(line);
        let pulled = self.engine.pull(asked_for, digest, proof.as_ref(), access.patience, &mut say).await;
        let pulled = match (pulled, &repository) {
            (Ok(pulled), _) => pulled,
            // Where someone is in between, this host may not reach the registry itself.
            (Err(error), Some(repository)) if found_at.is_none() => {
                let asked = self.registries.look_for(repository, digest);
                return Err(explained(error, asked).await.with(repository.host()));
            }
            (Err(error), Some(repository)) => return Err(Trouble::from(error).with(repository.host())),
            (Err(error), None) => return Err(error.into()),
        };
        let image = Image { reference: Some(reference.clone()), ..pulled };
        self.registries.found(reference, digest);
        // By digest alone it has no name, and a plain prune takes what has none.
        if let Some(id) = &image.id {
            let (name, tag) = keep_name(&self.environment, digest);
            self.engine.tag(id.as_str(), &name, &tag).await.map_err(gone_again)?;
        }
        Ok(image)
    }
}

/// Pulls an image by the name that the manifest has for it, with the password of its registry.
pub(super) async fn pull_declared(
    engine: &Engine,
    registries: &Registries,
    name: &str,
) -> Result<(), EngineError> {
    let host = host_of(name);
    let proof = match &host {
        Some(host) => registries.proof(host).await.map_err(refused)?,
        None => None,
    };
    let access = host.map_or_else(RegistryAccess::default, |host| registries.access(&host));
    engine.pull_named(name, proof.as_ref(), access.patience).await
}

/// The registry of an image with a tag, a digest or neither.
fn host_of(name: &str) -> Option<RegistryHost> {
    let name = name.split_once('@').map_or(name, |(name, _)| name);
    let tagged = name.parse::<TaggedImage>().map(|image| image.repository);
    let repository = tagged.or_else(|_| name.parse::<ImageRepository>()).ok()?;
    Some(repository.host().clone())
}

fn refused(trouble: Trouble) -> EngineError {
    let (Trouble::NotThere(message) | Trouble::Unavailable(_, message)) = trouble;
    EngineError::Refused(message)
}

/// That someone removed it here in between says nothing of the registry, which has it.
fn gone_again(error: EngineError) -> EngineError {
    match error {
        EngineError::NotFound(words) => {
            EngineError::Refused(format!("what was pulled is gone again: {words}"))
        }
        other => other,
    }
}

/// Repository and tag of the name that keeps a pulled image here.
pub(super) fn keep_name(environment: &EnvironmentName, digest: &Digest) -> (String, String) {
    (format!("abide/{environment}"), format!("keep-{}", digest.short()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_registry_of_an_image_is_found_whatever_follows_its_name() {
        let digest = format!("@sha256:{}", "ab".repeat(32));
        for (name, host) in [
            ("localhost:5000/a", "localhost:5000"),
            ("localhost:5000/a:1", "localhost:5000"),
            (&format!("localhost:5000/a:1{digest}"), "localhost:5000"),
            (&format!("registry.example.com/a/b{digest}"), "registry.example.com"),
            ("nginx", "docker.io"),
        ] {
            assert_eq!(host_of(name).unwrap().as_str(), host, "{name}");
        }
    }
}
