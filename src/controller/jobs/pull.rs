//! A pull as a job: only by digest.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::registries::{Registries, TransferError, explained, until_quiet_is_over};
use super::running::PullRule;
use crate::controller::docker::{Engine, EngineError, HeldImage};
use crate::controller::jobs::{JobEnd, JobProgress};
use crate::metrics::{MeasuredResult, Metrics};
use crate::model::cause;
use crate::model::desired::Image;
use crate::model::name::{Digest, EnvironmentName};
use crate::model::platform::Platform;
use crate::model::reference::{ImageRepository, RegistryHost, TaggedImage, local_path};
use crate::model::spec::RegistryAccess;
use crate::model::status::Reason;

/// An image that is pulled for an environment.
pub(in crate::controller) struct EnvironmentPull {
    pub(in crate::controller) engine: Arc<Engine>,
    pub(in crate::controller) registries: Arc<Registries>,
    pub(in crate::controller) environment: EnvironmentName,
    /// The repository as the record names it.
    pub(in crate::controller) reference: String,
    pub(in crate::controller) digest: Digest,
    pub(in crate::controller) rule: PullRule,
    pub(in crate::controller) metrics: Metrics,
}

impl EnvironmentPull {
    /// Pulls it. A digest that the registry does not have is a permanent failure, which the plan doubts
    /// after a while. A registry that does not answer or denies access is a temporary one.
    pub(in crate::controller) async fn run(self, progress: JobProgress) -> JobEnd {
        if !self.rule.may_pull {
            return self.find().await;
        }
        let began = Instant::now();
        let pulled = self.pull(&progress).await;
        let result = if pulled.is_ok() { MeasuredResult::Pulled } else { MeasuredResult::Failed };
        self.metrics.pull(&self.environment, result, began.elapsed());
        match pulled {
            Ok(image) => JobEnd::Got(image),
            Err(TransferError::NotThere(message)) => {
                self.registries.lost(&self.reference, &self.digest);
                JobEnd::Failed { reason: Reason::ImageNotFound, message }
            }
            Err(TransferError::NoPlatform(message)) => {
                JobEnd::Failed { reason: Reason::ImageNotFound, message }
            }
            Err(TransferError::Unavailable(reason, message)) => {
                let host = host_of(&self.reference);
                let pause = host.and_then(|host| self.registries.quiet_for(&host)).unwrap_or_default();
                JobEnd::Unavailable { reason, message, pause }
            }
        }
    }

    /// Looks for the image on this host, because its registry must not be asked.
    async fn find(&self) -> JobEnd {
        let (reference, digest) = (&self.reference, &self.digest);
        let name = format!("{reference}@{digest}");
        let message = match self.engine.image(&name).await {
            Ok(Some(held)) => match self.other_platform(&name, &held) {
                Some(words) => words,
                None => {
                    let (reference, digest) = (Some(reference.clone()), Some(digest.clone()));
                    return JobEnd::Got(Image { reference, digest, id: Some(held.id) });
                }
            },
            Ok(None) => format!(
                "{name} is not on this host, and with this `pull_policy` abide does not pull it: pull it by hand, or edit \
                 `pull_policy`"
            ),
            Err(error) => {
                let (reason, message) = (Reason::EngineUnavailable, error.to_string());
                return JobEnd::Unavailable { reason, message, pause: Duration::ZERO };
            }
        };
        JobEnd::Failed { reason: Reason::ImageNotFound, message }
    }

    /// Why an image cannot be used, if it is made for another platform.
    fn other_platform(&self, name: &str, held: &HeldImage) -> Option<String> {
        let (declared, of) = (self.rule.platform.as_ref()?, held.platform.as_ref()?);
        (!declared.runs(of)).then(|| format!("{name} is made for {of}, and `platform` is {declared}"))
    }

    async fn pull(&self, progress: &JobProgress) -> Result<Image, TransferError> {
        let (reference, digest) = (&self.reference, &self.digest);
        // The engine reports a name that no registry could have.
        let repository = reference.parse::<ImageRepository>().ok();
        let found_at = repository.as_ref().and_then(|repository| self.engine.found_at(repository));
        let name = format!("{}@{digest}", found_at.as_ref().unwrap_or(reference));
        let wanted = PullRequest {
            name: &name,
            platform: self.rule.platform.as_ref(),
            host: repository.as_ref().map(ImageRepository::host),
            of: repository.as_ref().map(|repository| (repository, digest)),
            is_between: found_at.is_some(),
        };
        fetch(&self.engine, &self.registries, &wanted, &mut |line| progress.report(line)).await?;
        let held = self.engine.image(&name).await?;
        // The registry is not at fault: it has the image, which was removed here meanwhile.
        let gone = || EngineError::Refused(format!("{name} was pulled and then removed"));
        let held = held.ok_or_else(gone)?;
        self.registries.found(reference, digest);
        if let Some(words) = self.other_platform(&name, &held) {
            return Err(TransferError::NoPlatform(words));
        }
        let id = held.id;
        // An image pulled only by digest has no name, and a plain prune removes unnamed images.
        let (keep, tag) = keep_name(&self.environment, digest);
        self.engine.tag(id.as_str(), &keep, &tag).await.map_err(gone_again)?;
        Ok(Image { reference: Some(reference.clone()), digest: Some(digest.clone()), id: Some(id) })
    }
}

/// An image that the engine is to pull.
struct PullRequest<'a> {
    /// The name for the engine.
    name: &'a str,
    /// The platform to pull; `None`: the engine's choice.
    platform: Option<&'a Platform>,
    /// Its registry; `None`: no registry could have such a name.
    host: Option<&'a RegistryHost>,
    /// The image at the registry itself, if it is pulled by digest.
    of: Option<(&'a ImageRepository, &'a Digest)>,
    /// Whether a tunnel with its own credentials is in between; this host may not reach the registry itself.
    is_between: bool,
}

/// Pulls an image: with the credentials of its registry, for as long as data arrives, and not while the
/// registry is rate limiting. Every pull of abide uses this function.
async fn fetch(
    engine: &Engine,
    registries: &Registries,
    wanted: &PullRequest<'_>,
    report: &mut (impl FnMut(String) + Send),
) -> Result<(), TransferError> {
    let Some(host) = wanted.host else {
        let patience = RegistryAccess::default().patience;
        return Ok(engine.pull(wanted.name, wanted.platform, None, patience, report).await?);
    };
    registries.may_be_asked(host)?;
    let proof = if wanted.is_between { None } else { registries.proof(host).await? };
    let patience = registries.access(host).patience;
    let Err(error) = engine.pull(wanted.name, wanted.platform, proof.as_ref(), patience, report).await else {
        return Ok(());
    };
    let Some((repository, digest)) = wanted.of.filter(|_| !wanted.is_between) else {
        registries.learn_limit(host, &error, std::future::ready(Ok(()))).await;
        return Err(until_quiet_is_over(TransferError::from(error).with(host), registries.quiet_for(host)));
    };
    registries.learn_limit(host, &error, registries.look_for(repository, digest)).await;
    Err(match explained(error, registries.look_for(repository, digest)).await {
        TransferError::NoPlatform(words) => {
            let there_are = registries.platforms(repository, digest).await;
            TransferError::NoPlatform(no_platform(wanted.name, &words, &there_are))
        }
        trouble => until_quiet_is_over(trouble.with(host), registries.quiet_for(host)),
    })
}

/// The error for an image that only exists for other platforms, with their names.
fn no_platform(name: &str, words: &str, there_are: &[String]) -> String {
    let what = cause::missing_platform(words).unwrap_or("this host's platform");
    match there_are {
        [] => format!("{name} has no image for {what}: {words}"),
        there_are => format!("{name} has no image for {what}; it has {}", there_are.join(", ")),
    }
}

/// Pulls an image by its name in the manifest: for abide's own containers, which no record names. The tag is
/// `latest`, if the name has neither a tag nor a digest.
pub(in crate::controller) async fn pull_declared(
    engine: &Engine,
    registries: &Registries,
    name: &str,
) -> Result<(), EngineError> {
    let host = host_of(name);
    let wanted = PullRequest { name, platform: None, host: host.as_ref(), of: None, is_between: false };
    fetch(engine, registries, &wanted, &mut |_| {}).await.map_err(refused)
}

/// The registry of an image with a tag, a digest or neither.
pub(in crate::controller) fn host_of(name: &str) -> Option<RegistryHost> {
    let name = name.split_once('@').map_or(name, |(name, _)| name);
    let tagged = name.parse::<TaggedImage>().map(|image| image.repository);
    let repository = tagged.or_else(|_| name.parse::<ImageRepository>()).ok()?;
    Some(repository.host().clone())
}

/// The error of a transfer as one of the engine.
pub(in crate::controller) fn refused(trouble: TransferError) -> EngineError {
    let (TransferError::NotThere(message)
    | TransferError::NoPlatform(message)
    | TransferError::Unavailable(_, message)) = trouble;
    EngineError::Refused(message)
}

/// If the image was removed here meanwhile, the registry is not at fault: it has the image.
fn gone_again(error: EngineError) -> EngineError {
    match error {
        EngineError::NotFound(words) => {
            EngineError::Refused(format!("the pulled image was removed: {words}"))
        }
        other => other,
    }
}

/// Repository and tag of the name that keeps a pulled image here.
pub(in crate::controller) fn keep_name(environment: &EnvironmentName, digest: &Digest) -> (String, String) {
    (local_path(environment), format!("keep-{}", digest.short()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_images_registry_is_parsed_from_its_reference() {
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

    #[test]
    fn the_available_platforms_are_listed() {
        let words = "no matching manifest for linux/amd64 in the manifest list entries";
        let there_are = ["linux/arm64".to_owned(), "windows/amd64".to_owned()];
        let message = no_platform("a@b", words, &there_are);
        assert_eq!(message, "a@b has no image for linux/amd64; it has linux/arm64, windows/amd64");
        assert!(no_platform("a@b", words, &[]).contains("no image for linux/amd64"));
    }
}
