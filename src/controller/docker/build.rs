//! Image builds: with BuildKit if the engine has it, otherwise with the classic builder.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;

use bollard::Docker;
use bollard::models::{BuildInfo, BuildInfoAux};
use bollard::query_parameters::{BuildImageOptions, BuildImageOptionsBuilder, BuilderVersion};
use futures::StreamExt;
use hyper::Uri;
use tokio_util::io::ReaderStream;

use super::cache;
use super::logins::{CONFIG, Logins};
use super::session::{self, BuildSession};
use super::transfer::showing;
use super::{Engine, EngineError, QUICK, Result, within};
use crate::model::container::Secret;
use crate::model::name::Digest;
use crate::model::platform::Platform;
use crate::model::spec::BuildOptions;

/// The variable that selects the classic builder, as it does for `docker build`.
const CHOICE: &str = "DOCKER_BUILDKIT";

/// The builder to use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BuilderKind {
    /// The engine's BuildKit.
    BuildKit,
    /// The classic builder.
    Classic,
}

/// One build.
pub(crate) struct BuildRequest<'a> {
    /// The context, as a tar file.
    pub(crate) context: &'a Path,
    /// The Dockerfile in it.
    pub(crate) dockerfile: &'a str,
    /// The stage to build; `None` for the last one.
    pub(crate) target: Option<&'a str>,
    /// Build arguments.
    pub(crate) args: &'a BTreeMap<String, String>,
    /// Labels of the image.
    pub(crate) labels: BTreeMap<String, String>,
    /// The platform to build for; `None`: the engine's.
    pub(crate) platform: Option<&'a Platform>,
    /// Further options.
    pub(crate) options: &'a BuildOptions,
    /// The name that the image gets.
    pub(crate) tag: &'a str,
    /// The builder.
    pub(crate) builder: BuilderKind,
    /// Secrets by the id in `RUN --mount=type=secret,id=...`. A secret is mounted while that command runs,
    /// and is never part of a layer. Secrets require BuildKit.
    pub(crate) secrets: &'a BTreeMap<String, Secret>,
    /// Credentials of the build for the registries of its base images.
    pub(crate) logins: &'a Arc<dyn Logins>,
}

/// Receives each line of a build's output as it arrives.
pub(crate) type BuildOutput<'a> = &'a mut (dyn FnMut(&str) + Send);

impl Engine {
    /// Returns the builder that this engine offers: BuildKit since API 1.39 on Linux, unless
    /// `DOCKER_BUILDKIT=0` is set in the daemon's environment.
    pub(crate) async fn builder(&self) -> Result<BuilderKind> {
        let is_unwanted = std::env::var(CHOICE).is_ok_and(|choice| choice == "0");
        if is_unwanted || !session::can_reach(self.host.as_deref()) {
            return Ok(BuilderKind::Classic);
        }
        let docker = self.docker().await?;
        let version = within("report its version", QUICK, docker.version()).await?;
        let is_linux = version.os.as_deref().is_none_or(|os| os == "linux");
        let api = cache::number(version.api_version.as_deref());
        Ok(if is_linux && api >= (1, 39) { BuilderKind::BuildKit } else { BuilderKind::Classic })
    }

    /// Builds an image and returns its ID. Dropping the future cancels the build: the engine ends it when the
    /// connection closes.
    pub(crate) async fn build(&self, request: &BuildRequest<'_>, output: BuildOutput<'_>) -> Result<Digest> {
        let docker = self.connection().await?;
        let built = match request.builder {
            BuilderKind::BuildKit => {
                let (secrets, logins) = (request.secrets.clone(), Arc::clone(request.logins));
                let session = BuildSession::open(self.host.as_deref(), secrets, logins).await?;
                let docker = docker.with_request_modifier(ask_for_buildkit);
                follow(&docker, request, options(request).session(&session.id).build(), output).await?
            }
            BuilderKind::Classic if request.secrets.is_empty() => {
                let docker = showing(docker, CONFIG, &request.logins.all().await);
                follow(&docker, request, options(request).build(), output).await?
            }
            BuilderKind::Classic => {
                let words = "the build's `secrets` need BuildKit, which is not used here";
                return Err(EngineError::Refused(words.to_owned()));
            }
        };
        // The name may belong to another build by now. The ID that the builder reported cannot change.
        let name = built.as_ref().map_or(request.tag, Digest::as_str);
        let id = self.image_id(name).await?;
        id.ok_or_else(|| EngineError::NotFound(format!("image {name} after it was built")))
    }
}

fn options(request: &BuildRequest<'_>) -> BuildImageOptionsBuilder {
    let hashed = |map: &BTreeMap<String, String>| map.clone().into_iter().collect::<HashMap<_, _>>();
    let options = BuildImageOptionsBuilder::default();
    let options = request.target.into_iter().fold(options, BuildImageOptionsBuilder::target);
    let BuildOptions { cache_from, network, labels: _, shm_size, extra_hosts, no_cache, pull } =
        request.options;
    let options = network.iter().fold(options, |options, network| options.networkmode(network));
    let options = shm_size
        .iter()
        .fold(options, |options, size| options.shmsize(i32::try_from(*size).unwrap_or(i32::MAX)));
    let options = if cache_from.is_empty() { options } else { options.cachefrom(cache_from) };
    let options = if extra_hosts.is_empty() { options } else { options.extrahosts(&extra_hosts.join(",")) };
    let options =
        request.platform.iter().fold(options, |options, platform| options.platform(&platform.to_string()));
    let options = if *pull { options.pull("1") } else { options };
    options
        .nocache(*no_cache)
        .version(BuilderVersion::BuilderV1)
        .dockerfile(request.dockerfile)
        .t(request.tag)
        .buildargs(&hashed(request.args))
        .labels(&hashed(&request.labels))
        .rm(true)
        .forcerm(true)
}

/// Sends the context and forwards the engine's output. Returns the ID of the image.
async fn follow(
    docker: &Docker,
    request: &BuildRequest<'_>,
    options: BuildImageOptions,
    output: BuildOutput<'_>,
) -> Result<Option<Digest>> {
    let file = tokio::fs::File::open(request.context).await.map_err(|error| context_unreadable(&error))?;
    let body = bollard::body_try_stream(ReaderStream::with_capacity(file, 64 * 1024));
    let mut lines = docker.build_image(options, None, Some(body));
    let mut printer = BuildKitPrinter::default();
    let mut built = None;
    while let Some(line) = lines.next().await {
        built = print(line?, &mut printer, output)?.or(built);
    }
    Ok(built)
}

/// Changes a request for the classic builder into one for BuildKit. If bollard itself is asked for BuildKit,
/// it opens its own session, and two sessions with one id conflict.
fn ask_for_buildkit(mut request: bollard::BollardRequest) -> bollard::BollardRequest {
    let uri = request.uri().to_string();
    if request.uri().path().ends_with("/build")
        && let Ok(uri) = uri.replace("version=1", "version=2").parse::<Uri>()
    {
        *request.uri_mut() = uri;
    }
    request
}

fn context_unreadable(error: &std::io::Error) -> EngineError {
    EngineError::Refused(format!("cannot read the packed context: {error}"))
}

/// Prints one message of a build. Returns the image's ID if the message contains it.
fn print(line: BuildInfo, printer: &mut BuildKitPrinter, output: BuildOutput<'_>) -> Result<Option<Digest>> {
    if let Some(detail) = line.error_detail.and_then(|detail| detail.message) {
        return Err(EngineError::Refused(detail));
    }
    if let Some(text) = line.stream.or(line.status) {
        output(&text);
    }
    match line.aux {
        Some(BuildInfoAux::BuildKit(status)) => printer.print(status, output),
        Some(BuildInfoAux::Default(image)) => return Ok(image.id.and_then(|id| Digest::new(id).ok())),
        None => {}
    }
    Ok(None)
}

/// Turns BuildKit's graph of vertexes into plain lines. Each vertex is named once when it starts and its
/// output follows. If it failed or was cached, a line reports that at the end. Lines that the printer adds
/// begin with an arrow, as with the classic builder.
#[derive(Default)]
struct BuildKitPrinter {
    named: std::collections::HashSet<String>,
    ended: std::collections::HashSet<String>,
}

impl BuildKitPrinter {
    fn print(&mut self, status: bollard::moby::buildkit::v1::StatusResponse, output: BuildOutput<'_>) {
        for vertex in status.vertexes {
            if vertex.started.is_some() && self.named.insert(vertex.digest.clone()) {
                output(&format!("--> {}\n", vertex.name));
            }
            if vertex.completed.is_some() && self.ended.insert(vertex.digest.clone()) {
                if vertex.cached {
                    output(&format!("--> (cached) {}\n", vertex.name));
                }
                if !vertex.error.is_empty() {
                    output(&format!("--> error: {}\n", vertex.error));
                }
            }
        }
        for log in status.logs {
            output(&String::from_utf8_lossy(&log.msg));
        }
    }
}
