//! Looks for a signature of an image in its registry, and verifies it by key.
//!
//! A key alone proves neither the time of a signature nor that it was not revoked, and a signature covers no name:
//! the record decides which digest is wanted.

use crate::controller::jobs::registries::Registries;
use crate::model::desired::Image;
use crate::model::gates::SignatureKey;
use crate::model::name::Digest;
use crate::model::reference::ImageRepository;
use crate::plan::signatures::{SignedBlob, blobs_of, manifests_of, text_of};
use crate::tls::PublicKey;

/// The findings besides a valid signature.
#[derive(Default)]
struct Others {
    /// Signatures that the key did not make.
    by_others: usize,
    /// Signatures by the key that name another image, or none.
    of_others: usize,
    /// Payloads whose content differs from the digest that the registry announced.
    damaged: usize,
}

/// Looks for a signature of `image` by `key`. The inner error is the reason why the image does not count as signed,
/// with the remedy.
///
/// # Errors
/// Returns a sentence if the registry does not answer, so that nothing is known.
pub(super) async fn look_for(
    registries: &Registries,
    image: &Image,
    key: &SignatureKey,
) -> Result<Result<(), String>, String> {
    let Some((repository, digest)) = in_registry(image) else {
        return Ok(Err(
            "the image is in no registry, and signatures are: declare `push` for the environment that \
                       builds it, and sign what it pushes"
                .to_owned(),
        ));
    };
    let pem = key.pem.as_deref().unwrap_or_default();
    let public = match PublicKey::from_pem(pem) {
        Ok(public) => public,
        Err(why) => return Ok(Err(format!("the key {} cannot be used: {why}", key.file.display()))),
    };
    let mut others = Others::default();
    for blob in signatures_of(registries, &repository, &digest).await? {
        if is_valid(registries, &repository, &digest, &blob, &public, &mut others).await? {
            return Ok(Ok(()));
        }
    }
    Ok(Err(others.sentence(&repository, &digest, &key.file.display().to_string())))
}

/// The name and digest of an image in its registry.
fn in_registry(image: &Image) -> Option<(ImageRepository, Digest)> {
    let repository = image.reference.as_deref()?.parse().ok()?;
    Some((repository, image.digest.clone()?))
}

/// The payloads in both places: the tag of cosign before version 3, and the referrers of the image.
async fn signatures_of(
    registries: &Registries,
    repository: &ImageRepository,
    digest: &Digest,
) -> Result<Vec<SignedBlob>, String> {
    let tag = digest.as_str().replace(':', "-");
    let of_tag = registries.manifest(repository, &format!("{tag}.sig")).await;
    let mut found = blobs_of(&of_tag.map_err(|error| error.to_string())?.unwrap_or_default());
    let mut index = registries.referrers(repository, digest).await.map_err(|error| error.to_string())?;
    if index.is_none() {
        // A registry without the API keeps them under a tag.
        index = registries.manifest(repository, &tag).await.map_err(|error| error.to_string())?;
    }
    for manifest in manifests_of(&index.unwrap_or_default()) {
        let manifest = registries.manifest(repository, manifest.as_str()).await;
        found.extend(blobs_of(&manifest.map_err(|error| error.to_string())?.unwrap_or_default()));
    }
    Ok(found)
}

async fn is_valid(
    registries: &Registries,
    repository: &ImageRepository,
    digest: &Digest,
    blob: &SignedBlob,
    key: &PublicKey,
    others: &mut Others,
) -> Result<bool, String> {
    let content = registries.blob(repository, &blob.blob).await.map_err(|error| error.to_string())?;
    let Some(text) = content.and_then(|content| text_of(blob, &content)) else {
        others.damaged += 1;
        return Ok(false);
    };
    if !key.verifies(&text.message, &text.signature) {
        others.by_others += 1;
        return Ok(false);
    }
    if text.image.as_ref() != Some(digest) {
        others.of_others += 1;
        return Ok(false);
    }
    Ok(true)
}

impl Others {
    fn sentence(&self, repository: &ImageRepository, digest: &Digest, file: &str) -> String {
        let remedy = format!("sign it: cosign sign --key … {repository}@{digest}");
        let of =
            |count: usize| if count == 1 { "1 signature".to_owned() } else { format!("{count} signatures") };
        if self.of_others > 0 {
            return format!("{} by {file} names another image; {remedy}", of(self.of_others));
        }
        if self.by_others > 0 {
            return format!(
                "{} found, and none verifies with {file}: it was made with another key, or was changed; {remedy}",
                of(self.by_others)
            );
        }
        if self.damaged > 0 {
            return format!("{} found that cannot be read; {remedy}", of(self.damaged));
        }
        format!("no signature found; {remedy}")
    }
}
