//! The inputs of a build, as keys.
//!
//! The key of a commit and its recipe in the manifest is known at once, and shows a pass whether it was built
//! before. The key of the content is known only after the checkout. It covers contexts, Dockerfiles,
//! arguments and base images, but no times, commit names, or data that abide adds. Commits with the same
//! content share one image.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::work::ActiveBuild;
use super::{BuildError, Builder, Task, args, blocking};
use crate::context::pack::{self, PackLimits};
use crate::context::{dockerfile, tree as files};
use crate::model::build::{BuildKey, RecipeKey};
use crate::model::error::chain;
use crate::model::name::Digest;
use crate::model::spec::{BuildStep, Recipe};

/// The keys that are known before anything is fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Inputs {
    /// The key of the recipe in the manifest.
    pub(crate) recipe: RecipeKey,
    /// The key of the recipe and the commit.
    pub(crate) key: BuildKey,
}

/// The content of a build's inputs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct InputKeys {
    /// The key of all inputs.
    pub(super) key: BuildKey,
    /// The key of each step, in order; `None` for a step without an image, which is cheap to repeat.
    pub(super) steps: Vec<Option<BuildKey>>,
    /// Whether the engine lacks a base image, whose content is then not in the key.
    pub(super) lacks_base: bool,
}

/// The inputs of one image.
#[derive(Serialize)]
struct ImageInputs<'a> {
    context: String,
    dockerfile: String,
    target: &'a Option<String>,
    args: BTreeMap<String, String>,
    /// The image IDs of the base images; `None` for an image that the engine does not hold.
    bases: BTreeMap<String, Option<Digest>>,
}

impl ImageInputs<'_> {
    fn lacks_base(&self) -> bool {
        self.bases.values().any(Option::is_none)
    }
}

/// Returns the hash of `inputs` in lower-case hex digits.
pub(super) fn key_of(inputs: &impl Serialize) -> String {
    // The inputs are maps of texts only, which JSON can always represent.
    let text = serde_json::to_vec(inputs).unwrap_or_default();
    hex::encode(Sha256::digest(text))
}

impl Task {
    /// Returns the keys of the build. `overlays` are the hashes of the overlay files. `declared` are the
    /// repositories in the manifest, the allowed sources of submodules.
    fn inputs(&self, overlays: &[String], declared: &[String]) -> Inputs {
        let recipe = serde_json::json!({
            "url": self.url, "spec": self.spec, "overlays": overlays, "declared": declared,
        });
        let recipe = RecipeKey(key_of(&recipe));
        let branch = self.names_branch().then_some(&self.branch);
        let key = serde_json::json!({ "recipe": recipe, "revision": self.revision, "branch": branch });
        Inputs { recipe, key: BuildKey(key_of(&key)) }
    }

    /// Returns whether the branch name is an input of the build.
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
    /// Returns the keys that are known before anything is fetched.
    ///
    /// # Errors
    /// A sentence if an overlay file cannot be read, because its content is an input.
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
            Err(_) => Err("cannot read the overlay files".to_owned()),
        }
    }
}

impl ActiveBuild<'_> {
    /// Returns the keys of the inputs that are checked out in `tree`.
    pub(super) async fn content(&self, tree: &Path) -> Result<InputKeys, BuildError> {
        match &self.task.spec.recipe {
            Recipe::Script { command, image, env } => {
                // A script receives the commit and the branch, so both are inputs of its image.
                let (task, of_tree) = (self.task, fingerprint_tree(tree).await?);
                let mut inputs = serde_json::json!({
                    "script": command, "image": image, "env": env, "tree": of_tree,
                    "commit": task.revision, "branch": task.branch, "tags": self.tags,
                });
                self.add_platform(&mut inputs);
                Ok(InputKeys { key: BuildKey(key_of(&inputs)), steps: Vec::new(), lacks_base: false })
            }
            Recipe::Dockerfile { context, dockerfile, target, args, steps, secrets, options } => {
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
                let mut inputs = serde_json::json!({
                    "image": image, "steps": made_of, "secrets": secrets, "history": history,
                });
                if !options.is_default() {
                    // Not part of the hash otherwise, so that earlier builds are still found.
                    inputs["options"] = serde_json::json!(options);
                }
                self.add_platform(&mut inputs);
                Ok(InputKeys { key: BuildKey(key_of(&inputs)), steps: keys, lacks_base })
            }
        }
    }

    /// Adds the platform to the inputs, if one is declared.
    fn add_platform(&self, inputs: &mut serde_json::Value) {
        if let Some(platform) = &self.task.spec.platform {
            inputs["platform"] = serde_json::json!(platform);
        }
    }

    /// Returns a step's file, the hash of its inputs, and the key of its cached output.
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
            Ok((pack::fingerprint(&context, &declared, PackLimits::default())?, recipe, text))
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
    blocking("reading the checkout", move || pack::fingerprint_tree(&tree, PackLimits::default())).await
}
