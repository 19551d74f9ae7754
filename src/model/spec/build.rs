//! How an image is built from a checkout, as declared.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{EnvValue, SecretRef};
use crate::model::platform::Platform;

/// The build of an image from a checkout.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildSpec {
    /// The kind of build.
    pub recipe: Recipe,
    /// The platform that the image must be made for; `None`: the builder's choice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// Paths to remove from the checkout first, relative to it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remove: Vec<String>,
    /// Files of this host to copy into the checkout.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub overlay: Vec<Overlay>,
    /// Other repositories to copy into the checkout.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub checkout: Vec<ExtraCheckout>,
    /// Whether the checkout contains a `.git` folder, for tools that read its history.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub git: bool,
    /// Whether submodules are checked out.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub submodules: bool,
    /// Whether files in Git LFS are fetched.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub lfs: bool,
    /// Patterns of the paths that affect the environment; empty: all paths. Not an input of the build.
    #[serde(skip)]
    pub paths: Vec<String>,
    /// The maximum duration of a build. Not an input of the build.
    #[serde(skip, default = "default_build_timeout")]
    pub timeout: Duration,
    /// The maximum time without output of a build. Not an input of the build.
    #[serde(skip, default = "default_idle_timeout")]
    pub idle_timeout: Duration,
    /// What its steps and its script may use and see. No part of a build's inputs.
    #[serde(skip)]
    pub bounds: Bounds,
}

/// The limits on what the programs of a build may use and see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// The most memory of a step or the script, in bytes; `None`: three quarters of the host's.
    pub memory: Option<u64>,
    /// The most processes and threads of a step or the script.
    pub pids: u32,
    /// The longest output of a step, in bytes.
    pub max_output: u64,
    /// Whether the script runs in separate namespaces.
    pub isolation: bool,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { memory: None, pids: 4096, max_output: 8 << 30, isolation: true }
    }
}

/// The default of `build.timeout`.
pub fn default_build_timeout() -> Duration {
    Duration::from_secs(2 * 60 * 60)
}

/// The default of `build.idle_timeout`.
pub fn default_idle_timeout() -> Duration {
    Duration::from_secs(30 * 60)
}

/// The two kinds of builds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Recipe {
    /// Steps, then a final Dockerfile.
    Dockerfile {
        /// The final image's context, relative to the checkout.
        context: String,
        /// The final Dockerfile, relative to the context.
        dockerfile: String,
        /// The stage to build; `None`: the last one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        target: Option<String>,
        /// Build arguments.
        args: BTreeMap<String, String>,
        /// The steps before the final image, in order. Each adds one file to the final context.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        steps: Vec<BuildStep>,
        /// BuildKit secrets by id (`RUN --mount=type=secret,id=...`).
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        secrets: BTreeMap<String, SecretRef>,
        /// Further options of the final image's build.
        #[serde(default, skip_serializing_if = "BuildOptions::is_default")]
        options: BuildOptions,
    },
    /// A team's own script, run in the checkout.
    Script {
        /// Program and arguments.
        command: Vec<String>,
        /// The image that the script builds; `{build_number}` stands for the number.
        image: String,
        /// Environment variables of the script.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        env: BTreeMap<String, EnvValue>,
    },
}

/// Options of a build, by compose's names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BuildOptions {
    /// Images whose layers the builder may reuse. They do not change an image, so they are not input.
    #[serde(skip)]
    pub cache_from: Vec<String>,
    /// The network of `RUN` commands; `None`: the engine's default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
    /// Labels of the image.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// The size of `/dev/shm` of `RUN` commands, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shm_size: Option<u64>,
    /// `host:address` lines of `RUN` commands.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub extra_hosts: Vec<String>,
    /// Whether the builder ignores its cache.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub no_cache: bool,
    /// Whether the builder asks registries for newer base images.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub pull: bool,
}

impl BuildOptions {
    /// Whether none that changes the image is declared.
    pub fn is_default(&self) -> bool {
        *self == Self { cache_from: self.cache_from.clone(), ..Self::default() }
    }
}

/// Stands for the number of the build in the words of a script and in its image.
pub const BUILD_NUMBER: &str = "{build_number}";

/// A step before the final image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BuildStep {
    /// The packed checkout itself (`.tar.gz`/`.tgz`: compressed, `.tar`: plain).
    Archive {
        /// The file, relative to the final context.
        output: String,
    },
    /// An image that is built and run once. Its standard output becomes the file.
    Dockerfile {
        /// The step's context, relative to the checkout.
        context: String,
        /// Its Dockerfile, relative to that context.
        dockerfile: String,
        /// The stage to build and run; `None`: the last one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        target: Option<String>,
        /// Build arguments.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        args: BTreeMap<String, String>,
        /// The file, relative to the final context.
        output: String,
    },
}

/// A file of this host to copy into the checkout.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Overlay {
    /// An absolute path of this host.
    pub from: PathBuf,
    /// A path relative to the checkout.
    pub to: String,
}

/// Another repository to copy into the checkout.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExtraCheckout {
    /// Its URL.
    pub url: String,
    /// A branch or a full commit id.
    pub revision: String,
    /// A path relative to the checkout.
    pub to: String,
}
