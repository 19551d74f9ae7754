//! Builds one image: packs its context and runs the build.

use std::collections::BTreeMap;
use std::io::BufWriter;
use std::path::Path;
use std::sync::Arc;

use tracing::warn;

use super::work::ActiveBuild;
use super::{BuildError, blocking, tag_prefix};
use crate::context::ContextError;
use crate::context::pack::{self, ExtraFile, PackLimits, Packed};
use crate::context::tree as files;
use crate::controller::docker::{BuildRequest, BuilderKind as EngineBuilder, EngineError, Logins};
use crate::durable;
use crate::model::container::Secret;
use crate::model::error::chain;
use crate::model::name::Digest;
use crate::model::reference::local_path;
use crate::model::spec::BuildOptions;

/// The inputs of one image.
pub(super) struct ImageBuild<'a> {
    /// The checkout.
    pub(super) tree: &'a Path,
    /// The context in it.
    pub(super) context: &'a str,
    /// The Dockerfile in the context.
    pub(super) dockerfile: &'a str,
    /// The stage to build; `None` for the last one.
    pub(super) target: Option<&'a str>,
    /// Build arguments.
    pub(super) args: &'a BTreeMap<String, String>,
    /// Files that are added to the context.
    pub(super) extra: &'a [ExtraFile],
    /// BuildKit secrets by id.
    pub(super) secrets: &'a BTreeMap<String, Secret>,
    /// Labels of the image. abide adds none to an image for environments, because labels are part of its ID.
    pub(super) labels: BTreeMap<String, String>,
    /// Whether it is the image of the environment, not that of a step.
    pub(super) is_final: bool,
    /// Further options.
    pub(super) options: &'a BuildOptions,
    /// The tag for the image.
    pub(super) tag: &'a str,
    /// The folder for the packed context during the build.
    pub(super) place: &'a Path,
}

impl ActiveBuild<'_> {
    /// Builds an image and returns its ID.
    pub(super) async fn build_image(&mut self, order: ImageBuild<'_>) -> Result<Digest, BuildError> {
        let step = format!("building {}", order.dockerfile);
        let tar = order.place.join("context.tar");
        let (packed, dockerfile) = pack_context(&order, &tar).await?;
        self.log.line(&format!("context: {} files, {} bytes", packed.files, packed.bytes));
        let engine = &self.builder.engine;
        let logins: Arc<dyn Logins> = self.builder.pusher.registries.clone();
        let mut request = BuildRequest {
            context: &tar,
            dockerfile: &dockerfile,
            target: order.target,
            args: order.args,
            labels: order.labels,
            platform: self.task.spec.platform.as_ref().filter(|_| order.is_final),
            options: order.options,
            tag: order.tag,
            builder: engine.builder().await?,
            secrets: order.secrets,
            logins: &logins,
        };
        let mut built = self.have_built(&request).await;
        if let Err(error) = &built
            && request.builder == EngineBuilder::BuildKit
            && lacks_buildkit(error)
        {
            self.log.line("this engine has no BuildKit; using the classic builder");
            request.builder = EngineBuilder::Classic;
            built = self.have_built(&request).await;
        }
        let _ = std::fs::remove_file(&tar);
        built.map_err(|error| BuildError::from(error).during(&step))
    }

    async fn have_built(&mut self, request: &BuildRequest<'_>) -> Result<Digest, EngineError> {
        let log = &mut *self.log;
        let mut last = None;
        let mut output = |text: &str| {
            last = layer(text).map(str::to_owned).or(last.take());
            log.bytes(text.as_bytes());
        };
        let built = self.builder.engine.build(request, &mut output).await;
        if let (true, Err(_), Some(last)) = (request.builder == EngineBuilder::Classic, &built, last) {
            self.name_unfinished(&last).await;
        }
        built
    }

    /// Tags the last layer of a failed build, and untags the previous one. The classic builder leaves the
    /// layer without a name, so nobody would find it again. It is the cache of the next attempt, and is
    /// removed with the other unused images.
    async fn name_unfinished(&self, layer: &str) {
        let engine = &self.builder.engine;
        let repository = local_path(&self.task.environment);
        let tag = format!("{}unfinished", tag_prefix(&self.builder.record));
        let named = match engine.remove_image(&format!("{repository}:{tag}")).await {
            Ok(()) => engine.tag(layer, &repository, &tag).await,
            Err(error) => Err(error),
        };
        if let Err(error) = named {
            warn!(%error, layer, "cannot tag the last layer of a failed build");
        }
    }
}

/// Parses the image of a layer that the classic builder has made or found: ` ---> 0123456789ab`.
fn layer(text: &str) -> Option<&str> {
    let id = text.trim().strip_prefix("---> ")?.trim();
    (id.len() == 12 && id.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(id)
}

/// Packs the context into `tar`. Returns the packed context and the Dockerfile's name for the engine.
async fn pack_context(order: &ImageBuild<'_>, tar: &Path) -> Result<(Packed, String), BuildError> {
    let context = files::inside(order.tree, order.context).map_err(|e| BuildError::failed(chain(&e)))?;
    let (name, extra, to) = (order.dockerfile.to_owned(), order.extra.to_vec(), tar.to_owned());
    blocking("packing the context", move || {
        let out = durable::create(&to, durable::PRIVATE).map_err(ContextError::write(&to))?;
        let out = BufWriter::new(out);
        let dockerfile = pack::resolve_dockerfile(&context, &name)?;
        let packed = pack::pack(&context, &name, &extra, PackLimits::default(), out)?;
        Ok((packed, dockerfile))
    })
    .await
}

/// Returns whether the engine has BuildKit disabled, which it reports with these words.
fn lacks_buildkit(error: &EngineError) -> bool {
    let words = error.to_string().to_lowercase();
    words.contains("buildkit") && (words.contains("not supported") || words.contains("not enabled"))
}
