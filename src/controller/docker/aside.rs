//! Sets an image name aside for a while, so that an image that later has the name must be new.

use bollard::Docker;
use bollard::query_parameters::{RemoveImageOptionsBuilder, TagImageOptionsBuilder};
use tokio_util::task::TaskTracker;
use tracing::warn;

use super::{Engine, EngineError, QUICK, Result, SLOW, within};

/// An image whose name was set aside. It gets the name back, also when this value is dropped, unless another
/// image has the name by then.
pub(crate) struct Aside {
    names: Option<Names>,
    docker: Docker,
    cleanups: TaskTracker,
}

#[derive(Clone)]
struct Names {
    /// The name that was set aside.
    name: String,
    /// The temporary name of the image.
    aside: String,
}

impl Engine {
    /// Takes `name` from the image that has it, and names that image `aside` instead. Returns `None` if no
    /// image has `name`. An image that an earlier process set aside counts too.
    pub(crate) async fn set_aside(&self, name: &str, aside: &str) -> Result<Option<Aside>> {
        let docker = self.connection().await?;
        match self.image_id(name).await? {
            Some(id) => {
                rename(&docker, id.as_str(), aside).await?;
                remove(&docker, name).await?;
            }
            None if self.image_id(aside).await?.is_none() => return Ok(None),
            None => {}
        }
        let names = Some(Names { name: name.to_owned(), aside: aside.to_owned() });
        Ok(Some(Aside { names, docker, cleanups: self.cleanups.clone() }))
    }
}

impl Aside {
    /// Gives the name back, unless another image has it by now.
    pub(crate) async fn end(mut self) -> Result<()> {
        let names = self.names.clone();
        let ended = match &names {
            Some(names) => names.give_back(&self.docker).await,
            None => Ok(()),
        };
        self.names = None;
        ended
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        let Some(names) = self.names.take() else { return };
        let docker = self.docker.clone();
        self.cleanups.spawn(async move {
            if let Err(error) = names.give_back(&docker).await {
                warn!(image = %names.name, aside = %names.aside, %error, "failed to restore the name of \
                    an image");
            }
        });
    }
}

impl Names {
    async fn give_back(&self, docker: &Docker) -> Result<()> {
        match within("inspect an image", QUICK, docker.inspect_image(&self.name)).await {
            Ok(_) => {}
            Err(error) if error.is_not_found() => rename(docker, &self.aside, &self.name).await?,
            Err(error) => return Err(error),
        }
        remove(docker, &self.aside).await
    }
}

async fn rename(docker: &Docker, image: &str, name: &str) -> Result<()> {
    let (repository, tag) = match name.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => (repository, tag),
        _ => (name, "latest"),
    };
    let options = TagImageOptionsBuilder::default().repo(repository).tag(tag).build();
    within("tag an image", QUICK, docker.tag_image(image, Some(options))).await
}

/// Removes a name of an image that also has another name.
async fn remove(docker: &Docker, name: &str) -> Result<()> {
    let options = RemoveImageOptionsBuilder::default().force(false).build();
    match within("remove an image's name", SLOW, docker.remove_image(name, Some(options), None)).await {
        Ok(_) | Err(EngineError::NotFound(_)) => Ok(()),
        Err(error) => Err(error),
    }
}
