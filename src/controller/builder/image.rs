//! Building one image: packing its context, and having it built.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufWriter;
use std::path::Path;
use std::sync::Arc;

use super::work::Work;
use super::{BuildError, blocking};
use crate::context::ContextError;
use crate::context::pack::{self, ExtraFile, Limits, Packed};
use crate::context::tree as files;
use crate::controller::docker::{BuildRequest, Builder as EngineBuilder, EngineError, Logins};
use crate::model::container::Secret;
use crate::model::error::chain;
use crate::model::name::Digest;

/// One image to build.
pub(super) struct Order<'a> {
    /// The checkout.
    pub(super) tree: &'a Path,
    /// The context in it.
    pub(super) context: &'a str,
    /// The Dockerfile in the context.
    pub(super) dockerfile: &'a str,
    /// Build arguments.
    pub(super) args: &'a BTreeMap<String, String>,
    /// Files that are added to the context.
    pub(super) extra: &'a [ExtraFile],
    /// BuildKit secrets by id.
    pub(super) secrets: &'a BTreeMap<String, Secret>,
    /// Labels of the image.
    pub(super) labels: BTreeMap<String, String>,
    /// The name that the image gets.
    pub(super) tag: &'a str,
    /// Where the packed context is kept meanwhile.
    pub(super) place: &'a Path,
}

impl Work<'_> {
    /// Builds an image and gives its ID.
    pub(super) async fn build_image(&mut self, order: Order<'_>) -> Result<Digest, BuildError> {
        let step = format!("building {}", order.dockerfile);
        let tar = order.place.join("context.tar");
        let (packed, dockerfile) = pack_context(&order, &tar).await?;
        self.log.line(&format!("context: {} files, {} bytes", packed.files, packed.bytes));
        let engine = &self.builder.engine;
        let logins: Arc<dyn Logins> = self.builder.pusher.registries.clone();
        let mut request = BuildRequest {
            context: &tar,
            dockerfile: &dockerfile,
            args: order.args,
            labels: order.labels,
            tag: order.tag,
            builder: engine.builder().await?,
            secrets: order.secrets,
            logins: &logins,
        };
        let log = &mut *self.log;
        let mut built = engine.build(&request, &mut |text| log.bytes(text.as_bytes())).await;
        if let Err(error) = &built
            && request.builder == EngineBuilder::BuildKit
            && lacks_buildkit(error)
        {
            log.line("this engine has no BuildKit; the classic builder goes on");
            request.builder = EngineBuilder::Classic;
            built = engine.build(&request, &mut |text| log.bytes(text.as_bytes())).await;
        }
        let _ = std::fs::remove_file(&tar);
        built.map_err(|error| BuildError::from(error).during(&step))
    }
}

/// Packs the context into `tar`. Gives what was packed, and the Dockerfile's name for the engine.
async fn pack_context(order: &Order<'_>, tar: &Path) -> Result<(Packed, String), BuildError> {
    let context = files::inside(order.tree, order.context).map_err(|e| BuildError::failed(chain(&e)))?;
    let (name, extra, to) = (order.dockerfile.to_owned(), order.extra.to_vec(), tar.to_owned());
    blocking("packing the context", move || {
        let out = BufWriter::new(File::create(&to).map_err(ContextError::write(&to))?);
        let dockerfile = pack::resolve_dockerfile(&context, &name)?;
        let packed = pack::pack(&context, &name, &extra, Limits::default(), out)?;
        Ok((packed, dockerfile))
    })
    .await
}

/// Engines that were told to do without say so in these words.
fn lacks_buildkit(error: &EngineError) -> bool {
    let words = error.to_string().to_lowercase();
    words.contains("buildkit") && (words.contains("not supported") || words.contains("not enabled"))
}
