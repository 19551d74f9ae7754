//! One build, from a commit to an image.
//!
//! Everything happens in a directory of the build's own, so that two builds at once, or a killed
//! one's remains, never meet. The order is the one of the manifest: check out, remove, overlay,
//! other checkouts, steps, final image.

mod log;
mod script;
mod tree;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use sha2::{Digest as _, Sha256};
use tempfile::TempDir;
use tracing::{info, warn};

use super::docker::{BuildRequest, BuildSecret, Builder as EngineBuilder, Engine, EngineError, StepRun};
use super::jobs::{Ended, Progress};
use crate::context::pack::{self, ExtraFile};
use crate::context::tree as files;
use crate::model::build::{BuildKey, BuildRecord, BuildResult};
use crate::model::container::label;
use crate::model::desired::Image;
use crate::model::name::{BranchName, CommitId, Digest, EnvironmentName};
use crate::model::spec::{BuildSpec, BuildStep, Recipe};
use crate::model::status::Reason;
use crate::record::{RecordError, StatusReader, StatusWriter};
use crate::source::{Mirror, Remote, SourceError};
use log::BuildLog;

/// Where a daemon keeps what is not in the store.
#[derive(Clone, Debug)]
pub struct StateDirs {
    /// Bare copies of repositories.
    pub mirrors: PathBuf,
    /// A directory for each running build.
    pub work: PathBuf,
    /// `<number>.log` for each build.
    pub logs: PathBuf,
}

/// What to build.
#[derive(Clone, Debug)]
pub(crate) struct Task {
    pub(crate) environment: EnvironmentName,
    pub(crate) url: String,
    pub(crate) branch: BranchName,
    pub(crate) revision: CommitId,
    pub(crate) spec: BuildSpec,
}

impl Task {
    /// The key of its inputs. Reads the overlay files, which are inputs.
    pub(crate) fn key(&self) -> Result<BuildKey, String> {
        let overlays = files::fingerprint_overlays(&self.spec.overlay).map_err(|error| chain(&error))?;
        let inputs = serde_json::json!({
            "url": self.url,
            "revision": self.revision,
            "spec": self.spec,
            "overlays": overlays,
        });
        Ok(BuildKey(hex::encode(Sha256::digest(inputs.to_string()))))
    }
}

/// Why a build made no image.
enum BuildError {
    /// These inputs cannot be built.
    Verdict(Reason, String),
    /// It could not be tried.
    Unavailable(Reason, String),
}

impl BuildError {
    fn failed(message: impl Into<String>) -> Self {
        Self::Verdict(Reason::BuildFailed, message.into())
    }
}

impl From<SourceError> for BuildError {
    fn from(error: SourceError) -> Self {
        let message = chain(&error);
        match error {
            error if error.is_transient() => Self::Unavailable(Reason::SourceUnavailable, message),
            SourceError::NoSuchCommit { .. } => Self::Verdict(Reason::RevisionNotFound, message),
            _ => Self::failed(message),
        }
    }
}

impl From<EngineError> for BuildError {
    fn from(error: EngineError) -> Self {
        let message = error.to_string();
        // A full disk says nothing about the inputs.
        let is_full = message.contains("no space left on device");
        if error.is_unreachable() || is_full {
            Self::Unavailable(Reason::EngineUnavailable, message)
        } else {
            Self::failed(message)
        }
    }
}

impl From<RecordError> for BuildError {
    fn from(error: RecordError) -> Self {
        Self::Unavailable(Reason::BuildFailed, chain(&error))
    }
}

/// An error and its sources in one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut words = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        words = format!("{words}: {inner}");
        source = inner.source();
    }
    words
}

/// Runs blocking file work beside the async threads.
async fn blocking<T: Send + 'static>(
    step: &'static str,
    work: impl FnOnce() -> Result<T, crate::context::ContextError> + Send + 'static,
) -> Result<T, BuildError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) => Err(BuildError::failed(format!("{step}: {}", chain(&error)))),
        Err(_) => Err(BuildError::failed(format!("{step}: the work ended early"))),
    }
}

/// Builds images for one record on one engine.
pub(crate) struct Builder {
    pub(crate) engine: Arc<Engine>,
    pub(crate) record: String,
    pub(crate) status: StatusReader,
    pub(crate) writer: StatusWriter,
    pub(crate) dirs: StateDirs,
    /// Held while a key is built, so that environments with the same inputs build once.
    pub(crate) turns: Mutex<HashMap<BuildKey, Arc<tokio::sync::Mutex<()>>>>,
    /// One a repository: a mirror lets one operation in at a time, and that is known to its value.
    pub(crate) copies: Mutex<HashMap<String, Arc<Mirror>>>,
}

impl Builder {
    /// Builds, records how it ended, and says so. Dropping the future cancels the build and leaves
    /// no record of it.
    pub(crate) async fn run(self: Arc<Self>, task: Task, key: BuildKey, progress: Progress) -> Ended {
        let turn = self.turn(&key);
        let _turn = turn.lock().await;
        match self.build_once(&task, &key, &progress).await {
            Ok(image) => Ended::Got(image),
            Err(BuildError::Verdict(reason, message)) => Ended::Failed { reason, message },
            Err(BuildError::Unavailable(reason, message)) => Ended::Unavailable { reason, message },
        }
    }

    fn mirror(&self, remote: Remote) -> Arc<Mirror> {
        let name = remote.directory_name();
        let mut copies = self.copies.lock().unwrap_or_else(PoisonError::into_inner);
        let open = || Arc::new(Mirror::open(self.dirs.mirrors.join(&name), remote));
        copies.entry(name.clone()).or_insert_with(open).clone()
    }

    fn turn(&self, key: &BuildKey) -> Arc<tokio::sync::Mutex<()>> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        turns.retain(|_, turn| Arc::strong_count(turn) > 1);
        turns.entry(key.clone()).or_default().clone()
    }

    async fn build_once(
        &self,
        task: &Task,
        key: &BuildKey,
        progress: &Progress,
    ) -> Result<Image, BuildError> {
        // Another environment may have built the same while this one waited for its turn.
        if let Some(image) = self.built_before(task, key).await? {
            return Ok(image);
        }
        let number = self.writer.next_build_number().await?;
        progress.is_build(number);
        let mut log = BuildLog::create(&self.dirs.logs, number).map_err(|error| {
            BuildError::Unavailable(Reason::BuildFailed, format!("no build log: {error}"))
        })?;
        let started = SystemTime::now().into();
        log.line(&format!("build {number}: commit {} for {}", task.revision, task.environment));
        info!(environment = %task.environment, build = number, revision = %task.revision, "build begins");
        let mut work =
            Work { builder: self, task, key, number, progress, log: &mut log, checkouts: Vec::new() };
        let limit = task.spec.timeout;
        let result = match tokio::time::timeout(limit, work.image()).await {
            Ok(result) => result,
            Err(_) => {
                let limit = humantime::format_duration(limit);
                Err(BuildError::failed(format!("the build took longer than its timeout of {limit}")))
            }
        };
        let checkouts = work.checkouts;
        let result = match result {
            Ok(image) => BuildResult::Built(image),
            Err(BuildError::Verdict(reason, message)) => {
                log.line(&format!("failed: {message}"));
                warn!(environment = %task.environment, build = number, %message, "build failed");
                if reason != Reason::BuildFailed {
                    return Err(BuildError::Verdict(reason, message));
                }
                let tail = log.tail();
                let output = if tail.is_empty() { tail } else { format!("; its last output: {tail}") };
                BuildResult::Failed(format!("build {number} failed: {message}{output}"))
            }
            Err(unavailable) => {
                if let BuildError::Unavailable(_, message) = &unavailable {
                    log.line(&format!("could not be tried: {message}"));
                }
                return Err(unavailable);
            }
        };
        let record = BuildRecord {
            key: key.clone(),
            number,
            environment: task.environment.clone(),
            revision: task.revision.clone(),
            checkouts,
            started,
            finished: SystemTime::now().into(),
            result,
        };
        self.writer.build(&record).await?;
        match record.result {
            BuildResult::Built(image) => {
                log.line(&format!("built {}", image.shown_digest().map_or("", Digest::as_str)));
                Ok(image)
            }
            BuildResult::Failed(message) => Err(BuildError::failed(message)),
        }
    }

    /// The image of an earlier build of the same inputs, where it is still there: one that the
    /// record knows, or one whose end was not recorded because the daemon was killed.
    async fn built_before(&self, task: &Task, key: &BuildKey) -> Result<Option<Image>, BuildError> {
        let recorded = self.status.build(key)?;
        if let Some(BuildRecord { result: BuildResult::Built(image), .. }) = &recorded
            && let Some(id) = &image.id
            && self.engine.image_id(id.as_str()).await?.is_some()
        {
            return Ok(Some(image.clone()));
        }
        let Some(id) = self.engine.image_of_build(&key.0).await? else { return Ok(None) };
        let image = Image { reference: Some(self.tag(task, key)), digest: None, id: Some(id) };
        let now = SystemTime::now().into();
        let record = BuildRecord {
            key: key.clone(),
            number: self.writer.next_build_number().await?,
            environment: task.environment.clone(),
            revision: task.revision.clone(),
            checkouts: Vec::new(),
            started: now,
            finished: now,
            result: BuildResult::Built(image.clone()),
        };
        self.writer.build(&record).await?;
        Ok(Some(image))
    }

    /// The name under which an image is kept, so that no prune takes it.
    fn tag(&self, task: &Task, key: &BuildKey) -> String {
        format!("abide/{}:{}", task.environment, key.short())
    }
}

/// One build under way.
struct Work<'a> {
    builder: &'a Builder,
    task: &'a Task,
    key: &'a BuildKey,
    number: u64,
    progress: &'a Progress,
    log: &'a mut BuildLog,
    checkouts: Vec<String>,
}

impl Work<'_> {
    async fn image(&mut self) -> Result<Image, BuildError> {
        let place = self.place()?;
        let tree = place.path().join("tree");
        self.lay_out(&tree).await?;
        let task = self.task;
        let image = match &task.spec.recipe {
            Recipe::Dockerfile { context, dockerfile, args, steps, secrets } => {
                let extra = self.steps(&tree, context, steps, place.path()).await?;
                let secrets = self.secrets(secrets, place.path())?;
                self.say("building the final image");
                let context =
                    files::inside(&tree, context).map_err(|error| BuildError::failed(chain(&error)))?;
                let tag = self.builder.tag(task, self.key);
                let id = self
                    .build_image(&context, dockerfile, args, &extra, &secrets, &tag, place.path())
                    .await?;
                Image { reference: Some(tag), digest: None, id: Some(id) }
            }
            Recipe::Script { command, image, env } => self.script(&tree, command, image, env).await?,
        };
        // Removing a large tree takes a moment that nobody has to wait for.
        drop(tokio::task::spawn_blocking(move || drop(place)));
        Ok(image)
    }

    fn place(&self) -> Result<TempDir, BuildError> {
        let made = std::fs::create_dir_all(&self.builder.dirs.work).and_then(|()| {
            let prefix = format!("build-{}-", self.number);
            tempfile::Builder::new().prefix(&prefix).tempdir_in(&self.builder.dirs.work)
        });
        made.map_err(|error| {
            BuildError::Unavailable(Reason::BuildFailed, format!("no directory for the build: {error}"))
        })
    }

    fn say(&mut self, step: &str) {
        self.log.line(&format!("--- {step}"));
        self.progress.say(step);
    }

    async fn steps(
        &mut self,
        tree: &Path,
        context: &str,
        steps: &[BuildStep],
        place: &Path,
    ) -> Result<Vec<ExtraFile>, BuildError> {
        let mut extra = Vec::new();
        for (index, step) in steps.iter().enumerate() {
            let output = match step {
                BuildStep::Archive { output } | BuildStep::Dockerfile { output, .. } => output,
            };
            let made = place.join(format!("step-{index}")).join(file_name(output));
            if let Some(parent) = made.parent() {
                std::fs::create_dir_all(parent).map_err(|error| BuildError::failed(error.to_string()))?;
            }
            self.step(tree, step, index, &made).await?;
            let checked = made.clone();
            blocking("the step's output", move || pack::check_archive(&checked)).await?;
            extra.push(ExtraFile { path: output.clone(), source: made });
        }
        let _ = context;
        Ok(extra)
    }

    async fn step(
        &mut self,
        tree: &Path,
        step: &BuildStep,
        index: usize,
        made: &Path,
    ) -> Result<(), BuildError> {
        match step {
            BuildStep::Archive { output } => {
                self.say(&format!("step {}: packing the checkout as {output}", index + 1));
                let (tree, made) = (tree.to_owned(), made.to_owned());
                let packed =
                    blocking("packing", move || pack::archive(&tree, &made, pack::Limits::default())).await?;
                self.log.line(&format!("packed {} files, sha256 {}", packed.files, packed.digest));
                Ok(())
            }
            BuildStep::Dockerfile { context, dockerfile, args, output } => {
                self.say(&format!("step {}: building {dockerfile} for {output}", index + 1));
                let context =
                    files::inside(tree, context).map_err(|error| BuildError::failed(chain(&error)))?;
                // One name a step: the image before it stays as cache until the next one is there.
                let tag = format!("abide/{}-step-{}:latest", self.task.environment, index + 1);
                let place = made.parent().unwrap_or(tree);
                let image = self.build_image(&context, dockerfile, args, &[], &[], &tag, place).await?;
                self.say(&format!("step {}: running {dockerfile} for {output}", index + 1));
                self.run_step(&image, index, made).await
            }
        }
    }

    async fn run_step(&mut self, image: &Digest, index: usize, made: &Path) -> Result<(), BuildError> {
        let cannot = |error: std::io::Error| BuildError::failed(format!("the step's file: {error}"));
        let mut file = tokio::fs::File::create(made).await.map_err(cannot)?;
        let name = format!("abide-step-{}-{}-{}", &self.builder.record[..8], self.number, index + 1);
        let step = StepRun { image: image.as_str(), name: &name, labels: self.labels() };
        let log = &mut *self.log;
        let mut to_log = |bytes: &[u8]| log.bytes(bytes);
        let code = self.builder.engine.run_for_output(step, &mut file, &mut to_log).await?;
        match code {
            0 => Ok(()),
            code => Err(BuildError::failed(format!("step {} ended with exit code {code}", index + 1))),
        }
    }

    #[allow(clippy::too_many_arguments, reason = "they are the parts of one build, each named once")]
    async fn build_image(
        &mut self,
        context: &Path,
        dockerfile: &str,
        args: &std::collections::BTreeMap<String, String>,
        extra: &[ExtraFile],
        secrets: &[BuildSecret],
        tag: &str,
        place: &Path,
    ) -> Result<Digest, BuildError> {
        let tar = place.join("context.tar");
        let (from, name, extra, to) =
            (context.to_owned(), dockerfile.to_owned(), extra.to_vec(), tar.clone());
        let (packed, dockerfile) = blocking("packing the context", move || {
            let out = std::fs::File::create(&to).map_err(crate::context::ContextError::write(&to))?;
            let dockerfile = pack::resolve_dockerfile(&from, &name)?;
            let packed =
                pack::pack(&from, &name, &extra, pack::Limits::default(), std::io::BufWriter::new(out))?;
            Ok((packed, dockerfile))
        })
        .await?;
        self.log.line(&format!("context: {} files, {} bytes", packed.files, packed.bytes));
        let builder = self.builder.engine.builder().await?;
        let mut request = BuildRequest {
            context: &tar,
            dockerfile: &dockerfile,
            args,
            labels: self.labels(),
            tag,
            builder,
            secrets,
        };
        let engine = &self.builder.engine;
        let log = &mut *self.log;
        let mut built = engine.build(&request, &mut |text| log.bytes(text.as_bytes())).await;
        if let Err(error) = &built
            && builder == EngineBuilder::BuildKit
            && lacks_buildkit(error)
        {
            log.line("this engine has no BuildKit; the classic builder goes on");
            request.builder = EngineBuilder::Classic;
            built = engine.build(&request, &mut |text| log.bytes(text.as_bytes())).await;
        }
        let _ = std::fs::remove_file(&tar);
        Ok(built?)
    }

    fn labels(&self) -> HashMap<String, String> {
        HashMap::from([
            (label::BUILD.to_owned(), self.key.0.clone()),
            (label::RECORD.to_owned(), self.builder.record.clone()),
            (label::REVISION.to_owned(), self.task.revision.to_string()),
        ])
    }

    fn secrets(
        &mut self,
        named: &std::collections::BTreeMap<String, crate::model::spec::SecretRef>,
        place: &Path,
    ) -> Result<Vec<BuildSecret>, BuildError> {
        let mut secrets = Vec::new();
        for (index, (id, named)) in named.iter().enumerate() {
            let unreadable = |words: String| {
                BuildError::Unavailable(Reason::SecretMissing, format!("secret {id}: {words}"))
            };
            let secret = crate::secret::read(named).map_err(|error| unreadable(error.to_string()))?;
            self.log.hide(&secret);
            // The place is private to this user, and gone when the build ends.
            let file = place.join(format!("secret-{index}"));
            std::fs::write(&file, secret.expose()).map_err(|error| unreadable(error.to_string()))?;
            secrets.push(BuildSecret { id: id.clone(), file });
        }
        Ok(secrets)
    }
}

/// Engines that were told to do without say so in these words.
fn lacks_buildkit(error: &EngineError) -> bool {
    let words = error.to_string().to_lowercase();
    words.contains("buildkit") && (words.contains("not supported") || words.contains("not enabled"))
}

/// The last part of a path that the manifest has checked.
fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}
