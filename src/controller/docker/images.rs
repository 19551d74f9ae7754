//! Images: present, named, pulled, removed.

use bollard::query_parameters::{
    CreateImageOptionsBuilder, ListImagesOptionsBuilder, RemoveImageOptionsBuilder, TagImageOptionsBuilder,
};
use futures::StreamExt;
use std::collections::HashMap;

use super::{Engine, EngineError, QUICK, Result, SLOW, within};
use crate::model::container::label;
use crate::model::desired::Image;
use crate::model::name::Digest;

impl Engine {
    /// The image ID behind a name, digest or ID; `None` where the engine does not hold it.
    pub(crate) async fn image_id(&self, name: &str) -> Result<Option<Digest>> {
        let docker = self.docker().await?;
        match within("inspect an image", QUICK, docker.inspect_image(name)).await {
            Ok(image) => Ok(image.id.and_then(|id| Digest::new(id).ok())),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The newest image that carries this build key: what a build made whose end was not recorded.
    pub(crate) async fn image_of_build(&self, key: &str) -> Result<Option<Digest>> {
        let docker = self.docker().await?;
        let filter = HashMap::from([("label".to_owned(), vec![format!("{}={key}", label::BUILD)])]);
        let options = ListImagesOptionsBuilder::default().filters(&filter).build();
        let images = within("list images", QUICK, docker.list_images(Some(options))).await?;
        let newest = images.into_iter().max_by_key(|image| image.created);
        Ok(newest.and_then(|image| Digest::new(image.id).ok()))
    }

    /// The IDs of all images that a record built.
    pub(crate) async fn images_of_record(&self, record: &str) -> Result<Vec<String>> {
        let docker = self.docker().await?;
        let filter = HashMap::from([("label".to_owned(), vec![format!("{}={record}", label::RECORD)])]);
        let options = ListImagesOptionsBuilder::default().filters(&filter).build();
        let images = within("list images", QUICK, docker.list_images(Some(options))).await?;
        Ok(images.into_iter().map(|image| image.id).collect())
    }

    /// Removes an image under all its names; one that is gone is fine.
    pub(crate) async fn remove_image_entirely(&self, id: &str) -> Result<()> {
        let docker = self.docker().await?;
        let options = RemoveImageOptionsBuilder::default().force(true).build();
        match within("remove an image", SLOW, docker.remove_image(id, Some(options), None)).await {
            Ok(_) | Err(EngineError::NotFound(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Gives an image a name, so that no prune takes it.
    pub(crate) async fn tag(&self, image: &str, repository: &str, tag: &str) -> Result<()> {
        let docker = self.docker().await?;
        let options = TagImageOptionsBuilder::default().repo(repository).tag(tag).build();
        within("tag an image", QUICK, docker.tag_image(image, Some(options))).await
    }

    /// Removes a name or an image; one that is gone, or still in use, is fine.
    pub(crate) async fn remove_image(&self, name: &str) -> Result<()> {
        let docker = self.docker().await?;
        let options = RemoveImageOptionsBuilder::default().force(false).build();
        match within("remove an image", SLOW, docker.remove_image(name, Some(options), None)).await {
            Ok(_) | Err(EngineError::NotFound(_) | EngineError::Conflict(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Pulls `reference@digest` and says what it is called here. Errors come inside the stream.
    pub(crate) async fn pull(
        &self,
        reference: &str,
        digest: &Digest,
        progress: &mut (impl FnMut(String) + Send),
    ) -> Result<Image> {
        let docker = self.docker().await?;
        let name = format!("{reference}@{digest}");
        let options = CreateImageOptionsBuilder::default().from_image(&name).build();
        let mut lines = docker.create_image(Some(options), None, None);
        while let Some(line) = lines.next().await {
            let line = line?;
            if let Some(detail) = line.error_detail.and_then(|detail| detail.message) {
                return Err(EngineError::Refused(detail));
            }
            if let Some(status) = line.status {
                progress(status);
            }
        }
        let id = self.image_id(&name).await?;
        let id = id.ok_or_else(|| EngineError::NotFound(format!("{name} after it was pulled")))?;
        Ok(Image { reference: Some(reference.to_owned()), digest: Some(digest.clone()), id: Some(id) })
    }
}
