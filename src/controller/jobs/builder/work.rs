//! A build in progress.

use std::collections::BTreeMap;
use std::path::Path;

use tempfile::TempDir;
use tracing::info;

use super::attempts::BuildAttempt;
use super::image::ImageBuild;
use super::inputs::InputKeys;
use super::log::BuildLog;
use super::{BuildError, Builder, JobProgress, Task, args, name_of};
use crate::model::build::{BuildKey, BuildRecord};
use crate::model::container::Secret;
use crate::model::desired::Image;
use crate::model::spec::{Recipe, SecretRef};
use crate::model::status::Reason;
use crate::model::time::Timestamp;

/// A build in progress, with its inputs and its log.
pub(super) struct ActiveBuild<'a> {
    pub(super) builder: &'a Builder,
    pub(super) task: &'a Task,
    pub(super) number: u64,
    progress: &'a JobProgress,
    pub(super) log: &'a mut BuildLog,
    /// The commits of extra checkouts, as `url@commit`.
    pub(super) checkouts: Vec<String>,
    /// The key of the content of the inputs, once it is known.
    pub(super) content: Option<BuildKey>,
    /// The earlier build whose image is reused because its inputs have the same content.
    pub(super) known: Option<BuildRecord>,
    /// The time of the commit, once it is checked out.
    pub(super) commit_time: Timestamp,
    /// The tags in its history, if the checkout has a `.git`.
    pub(super) tags: Vec<String>,
    /// The parts of the repository that were not fetched, in sentences.
    pub(super) warnings: Vec<String>,
    /// The recorded attempt.
    pub(super) attempt: Option<BuildAttempt>,
}

impl<'a> ActiveBuild<'a> {
    pub(super) fn new(
        builder: &'a Builder,
        task: &'a Task,
        number: u64,
        progress: &'a JobProgress,
        log: &'a mut BuildLog,
    ) -> Self {
        Self {
            builder,
            task,
            number,
            progress,
            log,
            checkouts: Vec::new(),
            content: None,
            known: None,
            commit_time: Timestamp::default(),
            tags: Vec::new(),
            warnings: Vec::new(),
            attempt: None,
        }
    }

    /// Makes the image.
    pub(super) async fn image(&mut self) -> Result<Image, BuildError> {
        let place = self.place()?;
        let tree = place.path().join("tree");
        self.check_out(&tree).await?;
        // Git has its own limits, and prints nothing while it fetches.
        self.log.activity.touch();
        let content = self.content(&tree).await?;
        self.content = Some(content.key.clone());
        if let Some((known, image)) = self.builder.known(&content.key).await? {
            self.known = Some(known);
            return Ok(image);
        }
        let (environment, revision) = (&self.task.environment, &self.task.revision);
        info!(%environment, build = self.number, %revision, "build started");
        let image = self.build(&tree, &content, place.path()).await?;
        self.check_platform(&image).await?;
        if content.lacks_base {
            // The build may have pulled the base image meanwhile, and the next build will see it in the key.
            self.content = self.content(&tree).await.ok().map(|content| content.key).or(self.content.take());
        }
        Ok(image)
    }

    /// Rejects an image for another platform than the declared one, such as that of a script.
    async fn check_platform(&self, image: &Image) -> Result<(), BuildError> {
        let (Some(declared), Some(id)) = (&self.task.spec.platform, &image.id) else { return Ok(()) };
        let made_for = self.builder.engine.image(id.as_str()).await?.and_then(|held| held.platform);
        match made_for.filter(|made_for| !declared.runs(made_for)) {
            Some(made_for) => Err(BuildError::failed(format!(
                "the build made an image for {made_for}, and `platform` is {declared}"
            ))),
            None => Ok(()),
        }
    }

    async fn build(&mut self, tree: &Path, content: &InputKeys, place: &Path) -> Result<Image, BuildError> {
        let task = self.task;
        let tag = name_of(&self.builder.record, &task.environment, &content.key);
        let (context, dockerfile, target, args, steps, secrets, options) = match &task.spec.recipe {
            Recipe::Script { command, image, env } => {
                return self.script(tree, command, image, env, &tag).await;
            }
            Recipe::Dockerfile { context, dockerfile, target, args, steps, secrets, options } => {
                (context, dockerfile, target.as_deref(), self.filled(args), steps, secrets, options)
            }
        };
        let secrets = self.secrets(secrets)?;
        let steps: Vec<_> = steps.iter().zip(&content.steps).collect();
        let extra = self.steps(tree, &steps, &secrets, place).await?;
        self.report(&format!("building the final image by {dockerfile}"));
        let (args, extra, secrets, labels) = (&args, &extra, &secrets, options.labels.clone());
        let order = ImageBuild {
            tree,
            context,
            dockerfile,
            target,
            args,
            extra,
            secrets,
            labels,
            is_final: true,
            options,
            tag: &tag,
            place,
        };
        let id = self.build_image(order).await?;
        Ok(Image { reference: Some(tag), digest: None, id: Some(id) })
    }

    /// Returns build arguments with the placeholders of the commit replaced.
    pub(super) fn filled(&self, args: &BTreeMap<String, String>) -> BTreeMap<String, String> {
        let facts = args::ArgValues {
            commit: &self.task.revision,
            branch: &self.task.branch,
            time: self.commit_time,
        };
        args.iter().map(|(name, value)| (name.clone(), facts.fill(value))).collect()
    }

    fn place(&self) -> Result<BuildDir, BuildError> {
        let made = std::fs::create_dir_all(&self.builder.dirs.work).and_then(|()| {
            let prefix = format!("build-{}-", self.number);
            tempfile::Builder::new().prefix(&prefix).tempdir_in(&self.builder.dirs.work)
        });
        made.map(|dir| BuildDir(Some(dir))).map_err(|error| {
            BuildError::not_tried(format!(
                "cannot create a directory for the build: \
                {error}"
            ))
        })
    }

    /// Reports the current step in the log and in the status.
    pub(super) fn report(&mut self, step: &str) {
        self.log.heading(step);
        self.note(step);
        self.progress.report(step);
    }

    /// Records the current step for the next daemon, in case this build kills the present one.
    pub(super) fn note(&self, step: &str) {
        if let Some(attempt) = &self.attempt {
            attempt.note(step);
        }
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

/// The directory of one build. It is removed in the background, because a large tree takes a moment.
struct BuildDir(Option<TempDir>);

impl BuildDir {
    fn path(&self) -> &Path {
        self.0.as_ref().map_or(Path::new(""), TempDir::path)
    }
}

impl Drop for BuildDir {
    fn drop(&mut self) {
        let dir = self.0.take();
        drop(tokio::task::spawn_blocking(move || drop(dir)));
    }
}
