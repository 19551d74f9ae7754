//! One build under way.

use std::collections::BTreeMap;
use std::path::Path;

use tempfile::TempDir;

use super::image::Order;
use super::log::BuildLog;
use super::{BuildError, Builder, Progress, Task, name_of};
use crate::model::build::BuildKey;
use crate::model::container::{Secret, label};
use crate::model::desired::Image;
use crate::model::spec::{Recipe, SecretRef};
use crate::model::status::Reason;

/// A build, what it is made of and where it tells of itself.
pub(super) struct Work<'a> {
    pub(super) builder: &'a Builder,
    pub(super) task: &'a Task,
    pub(super) key: &'a BuildKey,
    pub(super) number: u64,
    progress: &'a Progress,
    pub(super) log: &'a mut BuildLog,
    /// The commits of extra checkouts, as `url@commit`.
    pub(super) checkouts: Vec<String>,
}

impl<'a> Work<'a> {
    pub(super) fn new(
        builder: &'a Builder,
        task: &'a Task,
        key: &'a BuildKey,
        number: u64,
        progress: &'a Progress,
        log: &'a mut BuildLog,
    ) -> Self {
        Self { builder, task, key, number, progress, log, checkouts: Vec::new() }
    }

    /// Makes the image.
    pub(super) async fn image(&mut self) -> Result<Image, BuildError> {
        let place = self.place()?;
        let tree = place.path().join("tree");
        self.lay_out(&tree).await?;
        let task = self.task;
        let (context, dockerfile, args, steps, secrets) = match &task.spec.recipe {
            Recipe::Script { command, image, env } => return self.script(&tree, command, image, env).await,
            Recipe::Dockerfile { context, dockerfile, args, steps, secrets } => {
                (context, dockerfile, args, steps, secrets)
            }
        };
        let secrets = self.secrets(secrets)?;
        let extra = self.steps(&tree, steps, &secrets, place.path()).await?;
        self.say(&format!("building the final image by {dockerfile}"));
        let tag = name_of(&task.environment, self.key);
        let order = Order {
            tree: &tree,
            context,
            dockerfile,
            args,
            extra: &extra,
            secrets: &secrets,
            labels: self.labels(),
            tag: &tag,
            place: place.path(),
        };
        let id = self.build_image(order).await?;
        Ok(Image { reference: Some(tag), digest: None, id: Some(id) })
    }

    fn place(&self) -> Result<Place, BuildError> {
        let made = std::fs::create_dir_all(&self.builder.dirs.work).and_then(|()| {
            let prefix = format!("build-{}-", self.number);
            tempfile::Builder::new().prefix(&prefix).tempdir_in(&self.builder.dirs.work)
        });
        made.map(|dir| Place(Some(dir)))
            .map_err(|error| BuildError::not_tried(format!("no directory for the build: {error}")))
    }

    /// Says what is done now, in the log and in the status.
    pub(super) fn say(&mut self, step: &str) {
        self.log.heading(step);
        self.progress.say(step);
    }

    fn labels(&self) -> BTreeMap<String, String> {
        BTreeMap::from([
            (label::BUILD.to_owned(), self.key.0.clone()),
            (label::BUILT_BY.to_owned(), self.builder.record.clone()),
            (label::REVISION.to_owned(), self.task.revision.to_string()),
        ])
    }

    fn secrets(
        &mut self,
        named: &BTreeMap<String, SecretRef>,
    ) -> Result<BTreeMap<String, Secret>, BuildError> {
        let mut secrets = BTreeMap::new();
        for (id, named) in named {
            let secret = crate::secret::read(named).map_err(|error| {
                BuildError::Unavailable(Reason::SecretMissing, format!("secret {id}: {error}"))
            })?;
            self.log.hide(&secret);
            secrets.insert(id.clone(), secret);
        }
        Ok(secrets)
    }
}

/// The directory of one build. Removing a large tree takes a moment that nobody has to wait for.
struct Place(Option<TempDir>);

impl Place {
    fn path(&self) -> &Path {
        self.0.as_ref().map_or(Path::new(""), TempDir::path)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let dir = self.0.take();
        drop(tokio::task::spawn_blocking(move || drop(dir)));
    }
}
