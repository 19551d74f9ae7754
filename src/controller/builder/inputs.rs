//! What a build is made of, as keys.
//!
//! The key of a commit and of how the manifest says to build it is known at once; it tells a pass
//! whether that was built before. What it turns out to be is only known once the tree is laid out:
//! the content of contexts, Dockerfiles, arguments and base images, without times, names of commits or
//! anything else of abide's own. Commits whose content is the same share one image.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::work::Work;
use super::{BuildError, Builder, Task, args, blocking};
use crate::context::pack::{self, Limits};
use crate::context::{dockerfile, tree as files};
use crate::model::build::{BuildKey, RecipeKey};
use crate::model::error::chain;
use crate::model::name::Digest;
use crate::model::spec::{BuildStep, Recipe};

/// What is known of a build before anything is fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Inputs {
    /// How the manifest says to build.
    pub(crate) recipe: RecipeKey,
    /// That, and the commit.
    pub(crate) key: BuildKey,
}

/// The content of a build's inputs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Content {
    /// Of all of them.
    pub(super) key: BuildKey,
    /// Of each step, in order; `None` for what is no image, and so is made at once.
    pub(super) steps: Vec<Option<BuildKey>>,
    /// Whether a base image is not in the engine yet, so that its content is not in the key.
    pub(super) lacks_base: bool,
}

/// What one image is made of.
#[derive(Serialize)]
struct ImageInputs<'a> {
    context: String,
    dockerfile: String,
    target: &'a Option<String>,
    args: BTreeMap<String, String>,
    /// The image IDs of what it is built upon, as far as the engine holds it.
    bases: BTreeMap<String, Option<Digest>>,
}

impl ImageInputs<'_> {
    fn lacks_base(&self) -> bool {
        self.bases.values().any(Option::is_none)
    }
}

/// The hash of `inputs`, in lower-case hex digits.
pub(super) fn key_of(inputs: &impl Serialize) -> String {
    // Maps of texts, all of it: nothing that JSON could not say.
    let text = serde_json::to_vec(inputs).unwrap_or_default();
    hex::encode(Sha256::digest(text))
}

impl Task {
    /// What is known of the build, where overlay files hold `overlays` and the manifest names the
    /// repositories `declared`, which say from where submodules may come.
    fn inputs(&self, overlays: &[String], declared: &[String]) -> Inputs {
        let recipe = serde_json::json!({
            "url": self.url, "spec": self.spec, "overlays": overlays, "declared": declared,
        });
        let recipe = RecipeKey(key_of(&recipe));
        let branch = self.names_branch().then_some(&self.branch);
        let key = serde_json::json!({ "recipe": recipe, "revision": self.revision, "branch": branch });
        Inputs { recipe, key: BuildKey(key_of(&key)) }
    }

    /// Whether the name of the branch goes into what is built.
    fn names_branch(&self) -> bool {
        match &self.spec.recipe {
            Recipe::Script { .. } => true,
            Recipe::Dockerfile { args, steps, .. } => {
                let of_steps = steps.iter().filter_map(|step| match step {
                    BuildStep::Dockerfile { args, .. } => Some(args),
                    BuildStep::Archive { .. } => None,
                });
                let mut values = of_steps.chain([args]).flat_map(BTreeMap::values);
                self.spec.git || values.any(|value| value.contains(args::BRANCH))
            }
        }
    }
}

impl Builder {
    /// What is known of a build before anything is fetched.
    ///
    /// # Errors
    /// A sentence, if an overlay file cannot be read: their content is an input.
    pub(crate) async fn inputs(&self, task: &Task) -> Result<Inputs, String> {
        let declared = if task.spec.submodules { self.declared_urls() } else { Vec::new() };
        if task.spec.overlay.is_empty() {
            return Ok(task.inputs(&[], &declared));
        }
        let (known, overlays) = (self.overlays.clone(), task.spec.overlay.clone());
        let read = tokio::task::spawn_blocking(move || known.fingerprints(&overlays)).await;
        match read {
            Ok(Ok(fingerprints)) => Ok(task.inputs(&fingerprints, &declared)),
            Ok(Err(error)) => Err(chain(&error)),
            Err(_) => Err("the overlay files could not be read".to_owned()),
        }
    }
}

impl Work<'_> {
    /// The content of the inputs that are laid out in `tree`.
    pub(super) async fn content(&self, tree: &Path) -> Result<Content, BuildError> {
        match &self.task.spec.recipe {
            Recipe::Script { command, image, env } => {
                // A script is told the commit and the branch, so both go into what it makes.
                let (task, of_tree) = (self.task, fingerprint_tree(tree).await?);
                let inputs = serde_json::json!({
                    "script": command, "image": image, "env": env, "tree": of_tree,
                    "commit": task.revision, "branch": task.branch, "tags": self.tags,
                });
                Ok(Content { key: BuildKey(key_of(&inputs)), steps: Vec::new(), lacks_base: false })
            }
            Recipe::Dockerfile { context, dockerfile, target, args, steps, secrets } => {
                let image = self.image_inputs(tree, context, dockerfile, target, args).await?;
                let mut lacks_base = image.lacks_base();
                let (mut made_of, mut keys) = (Vec::new(), Vec::new());
                for (index, step) in steps.iter().enumerate() {
                    let inputs = self.step_inputs(tree, step, &mut lacks_base).await;
                    let (output, of_step, key) =
                        inputs.map_err(|error| error.during(&format!("step {}", index + 1)))?;
                    made_of.push((output, of_step));
                    keys.push(key);
                }
                let (task, git) = (self.task, self.task.spec.git);
                let history = git.then_some((&task.revision, &task.branch, &self.tags));
                let inputs = serde_json::json!({
                    "image": image, "steps": made_of, "secrets": secrets, "history": history,
                });
                Ok(Content { key: BuildKey(key_of(&inputs)), steps: keys, lacks_base })
            }
        }
    }

    /// A step's file, the hash of what it is made of, and the key under which it is kept.
    async fn step_inputs<'s>(
        &self,
        tree: &Path,
        step: &'s BuildStep,
        lacks_base: &mut bool,
    ) -> Result<(&'s str, String, Option<BuildKey>), BuildError> {
        match step {
            BuildStep::Archive { output } => Ok((output, fingerprint_tree(tree).await?, None)),
            BuildStep::Dockerfile { context, dockerfile, target, args, output } => {
                let image = self.image_inputs(tree, context, dockerfile, target, args).await?;
                *lacks_base |= image.lacks_base();
                let key = key_of(&image);
                Ok((output, key.clone(), Some(BuildKey(key))))
            }
        }
    }

    async fn image_inputs<'i>(
        &self,
        tree: &Path,
        context: &str,
        dockerfile: &str,
        target: &'i Option<String>,
        args: &BTreeMap<String, String>,
    ) -> Result<ImageInputs<'i>, BuildError> {
        let args = self.filled(args);
        let context = files::inside(tree, context).map_err(|error| BuildError::failed(chain(&error)))?;
        let declared = dockerfile.to_owned();
        let (of_context, dockerfile, text) = blocking("packing the context", move || {
            let recipe = pack::resolve_dockerfile(&context, &declared)?;
            let text = pack::read_dockerfile(&context, &declared)?;
            Ok((pack::fingerprint(&context, &declared, Limits::default())?, recipe, text))
        })
        .await?;
        let mut bases = BTreeMap::new();
        for base in dockerfile::bases(&text, &args) {
            let id = self.builder.engine.image_id(&base).await?;
            bases.insert(base, id);
        }
        Ok(ImageInputs { context: of_context, dockerfile, target, args, bases })
    }
}

async fn fingerprint_tree(tree: &Path) -> Result<String, BuildError> {
    let tree = tree.to_owned();
    blocking("reading the checkout", move || pack::fingerprint_tree(&tree, Limits::default())).await
}
