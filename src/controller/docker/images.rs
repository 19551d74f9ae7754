//! Images: find, tag, remove.

use bollard::query_parameters::{
    ListContainersOptionsBuilder, ListImagesOptionsBuilder, RemoveImageOptionsBuilder, TagImageOptionsBuilder,
};
use std::collections::{BTreeSet, HashMap};

use super::{Engine, EngineError, QUICK, Result, SLOW, within};
use crate::model::container::label;
use crate::model::mount::AbsolutePath;
use crate::model::name::Digest;
use crate::model::platform::Platform;

/// An image that the engine holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HeldImage {
    /// Its ID.
    pub(crate) id: Digest,
    /// The paths of its `VOLUME` lines.
    pub(crate) volumes: BTreeSet<AbsolutePath>,
    /// The platform that it is made for; `None`: the engine does not report it.
    pub(crate) platform: Option<Platform>,
}

/// An image in a list of images.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FoundImage {
    /// Its ID.
    pub(crate) id: Digest,
    /// Its names.
    pub(crate) names: Vec<String>,
}

impl Engine {
    /// Returns the image ID for a name, digest or ID; `None` if the engine does not hold the image.
    pub(crate) async fn image_id(&self, name: &str) -> Result<Option<Digest>> {
        Ok(self.image(name).await?.map(|image| image.id))
    }

    /// Returns the image for a name, digest or ID; `None` if the engine does not hold it.
    pub(crate) async fn image(&self, name: &str) -> Result<Option<HeldImage>> {
        let docker = self.docker().await?;
        let image = match within("inspect an image", QUICK, docker.inspect_image(name)).await {
            Ok(image) => image,
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) => return Err(error),
        };
        let Some(id) = image.id.and_then(|id| Digest::new(id).ok()) else { return Ok(None) };
        let declared = image.config.and_then(|config| config.volumes).unwrap_or_default();
        let volumes = declared.iter().filter_map(|path| AbsolutePath::of_image(path)).collect();
        let named = |part: Option<String>| part.filter(|part| !part.is_empty());
        let platform = named(image.os).zip(named(image.architecture)).map(|(os, architecture)| {
            Platform::new(&os, &architecture, image.variant.as_deref().unwrap_or_default())
        });
        Ok(Some(HeldImage { id, volumes, platform }))
    }

    /// Returns the images that match a filter such as `label` or `reference`.
    pub(crate) async fn images_by(&self, filter: &str, value: String) -> Result<Vec<FoundImage>> {
        let docker = self.docker().await?;
        let filters = HashMap::from([(filter.to_owned(), vec![value])]);
        let options = ListImagesOptionsBuilder::default().filters(&filters).build();
        let images = within("list images", QUICK, docker.list_images(Some(options))).await?;
        let found = images.into_iter().filter_map(|image| {
            Some(FoundImage {
                id: Digest::new(image.id).ok()?,
                // An image without a name is listed as `<none>:<none>`.
                names: image.repo_tags.into_iter().filter(|name| !name.starts_with('<')).collect(),
            })
        });
        Ok(found.collect())
    }

    /// Returns the images of all containers, running or not.
    pub(crate) async fn images_in_use(&self) -> Result<BTreeSet<Digest>> {
        let docker = self.docker().await?;
        let options = ListContainersOptionsBuilder::default().all(true).build();
        let all = within("list containers", QUICK, docker.list_containers(Some(options))).await?;
        let images = all.into_iter().filter_map(|container| container.image_id);
        Ok(images.filter_map(|id| Digest::new(id).ok()).collect())
    }

    /// Returns the names of all images that a record built, and the IDs of the images of its build steps.
    pub(crate) async fn images_of_record(&self, record: &str, prefix: &str) -> Result<Vec<String>> {
        let steps = self.images_by("label", format!("{}={record}", label::STEP)).await?;
        let named = self.images_by("reference", "abide/*".to_owned()).await?;
        let names = named.into_iter().flat_map(|image| image.names);
        let ours = names.filter(|name| name.rsplit_once(':').is_some_and(|(_, tag)| tag.starts_with(prefix)));
        Ok(steps.into_iter().map(|image| image.id.to_string()).chain(ours).collect())
    }

    /// Removes an image with all its names. Succeeds if it does not exist.
    pub(crate) async fn remove_image_entirely(&self, id: &str) -> Result<()> {
        let docker = self.docker().await?;
        let options = RemoveImageOptionsBuilder::default().force(true).build();
        match within("remove an image", SLOW, docker.remove_image(id, Some(options), None)).await {
            Ok(_) | Err(EngineError::NotFound(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Tags an image, so that a prune does not remove it.
    pub(crate) async fn tag(&self, image: &str, repository: &str, tag: &str) -> Result<()> {
        let docker = self.docker().await?;
        let options = TagImageOptionsBuilder::default().repo(repository).tag(tag).build();
        within("tag an image", QUICK, docker.tag_image(image, Some(options))).await
    }

    /// Removes a name or an image. Succeeds if it does not exist or is still in use.
    pub(crate) async fn remove_image(&self, name: &str) -> Result<()> {
        let docker = self.docker().await?;
        let options = RemoveImageOptionsBuilder::default().force(false).build();
        match within("remove an image", SLOW, docker.remove_image(name, Some(options), None)).await {
            Ok(_) | Err(EngineError::NotFound(_) | EngineError::Conflict(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }
}
