//! Image builds, by BuildKit where the engine has it, else by the classic builder.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::path::PathBuf;

use bollard::models::{BuildInfo, BuildInfoAux};
use bollard::query_parameters::{BuildImageOptionsBuilder, BuilderVersion};
use futures::StreamExt;
use tokio_util::io::ReaderStream;

use super::{Engine, EngineError, QUICK, Result, within};
use crate::model::name::Digest;

/// Which builder runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Builder {
    /// The engine's BuildKit.
    BuildKit,
    /// The classic builder.
    Classic,
}

/// A secret of a build, mounted while a `RUN` runs and never part of a layer.
#[derive(Clone, Debug)]
pub(crate) struct BuildSecret {
    /// The id in `RUN --mount=type=secret,id=...`.
    pub(crate) id: String,
    /// The file that holds it.
    pub(crate) file: PathBuf,
}

/// One build.
pub(crate) struct BuildRequest<'a> {
    /// The context, as a tar file.
    pub(crate) context: &'a Path,
    /// The Dockerfile in it.
    pub(crate) dockerfile: &'a str,
    /// Build arguments.
    pub(crate) args: &'a BTreeMap<String, String>,
    /// Labels of the image.
    pub(crate) labels: HashMap<String, String>,
    /// The name that the image gets.
    pub(crate) tag: &'a str,
    /// The builder.
    pub(crate) builder: Builder,
    /// BuildKit secrets.
    pub(crate) secrets: &'a [BuildSecret],
}

/// Lines of output of a build, as they come.
pub(crate) type Output<'a> = &'a mut (dyn FnMut(&str) + Send);

impl Engine {
    /// The builder that this engine offers: BuildKit since API 1.39 on Linux.
    pub(crate) async fn builder(&self) -> Result<Builder> {
        let docker = self.docker().await?;
        let version = within("tell its version", QUICK, docker.version()).await?;
        let is_linux = version.os.as_deref().is_none_or(|os| os == "linux");
        let api = version.api_version.unwrap_or_default();
        let number = |text: Option<&str>| text.and_then(|text| text.parse::<u32>().ok()).unwrap_or(0);
        let mut parts = api.split('.');
        let api = (number(parts.next()), number(parts.next()));
        Ok(if is_linux && api >= (1, 39) { Builder::BuildKit } else { Builder::Classic })
    }

    /// Builds an image and gives its ID. Dropping the future ends the build: the engine cancels it
    /// when the connection closes.
    pub(crate) async fn build(&self, request: &BuildRequest<'_>, output: Output<'_>) -> Result<Digest> {
        if request.secrets.is_empty() {
            self.build_from_body(request, output).await?;
        } else {
            self.build_with_secrets(request, output).await?;
        }
        let id = self.image_id(request.tag).await?;
        id.ok_or_else(|| EngineError::NotFound(format!("image {} after it was built", request.tag)))
    }

    async fn build_from_body(&self, request: &BuildRequest<'_>, output: Output<'_>) -> Result<()> {
        let docker = self.docker().await?;
        let file = tokio::fs::File::open(request.context).await.map_err(context_unreadable)?;
        let args: HashMap<String, String> = request.args.clone().into_iter().collect();
        let options = BuildImageOptionsBuilder::default()
            .dockerfile(request.dockerfile)
            .t(request.tag)
            .buildargs(&args)
            .labels(&request.labels)
            .rm(true)
            .forcerm(true);
        let options = match request.builder {
            Builder::Classic => options,
            Builder::BuildKit => options
                .version(BuilderVersion::BuilderBuildKit)
                .session(&uuid::Uuid::new_v4().simple().to_string()),
        };
        let body = bollard::body_try_stream(ReaderStream::with_capacity(file, 64 * 1024));
        let mut lines = docker.build_image(options.build(), None, Some(body));
        let mut printer = BuildKitPrinter::default();
        while let Some(line) = lines.next().await {
            print(line?, &mut printer, output)?;
        }
        Ok(())
    }

    /// BuildKit takes secrets over a session of its own, which bollard offers only together with
    /// a context in memory and without progress.
    async fn build_with_secrets(&self, request: &BuildRequest<'_>, output: Output<'_>) -> Result<()> {
        use bollard::grpc::build::{ImageBuildFrontendOptions, ImageBuildLoadInput, SecretSource};
        use bollard::grpc::driver::{Build as _, moby::Moby};

        if request.builder == Builder::Classic {
            let words = "build secrets need BuildKit, which this Docker Engine has not";
            return Err(EngineError::Refused(words.to_owned()));
        }
        let docker = self.docker().await?;
        let context = tokio::fs::read(request.context).await.map_err(context_unreadable)?;
        let mut options = ImageBuildFrontendOptions::builder().dockerfile(Path::new(request.dockerfile));
        for (name, value) in request.args {
            options = options.buildarg(name, value);
        }
        for (name, value) in &request.labels {
            options = options.label(name, value);
        }
        for secret in request.secrets {
            options = options.set_secret(&secret.id, &SecretSource::File(secret.file.clone()));
        }
        output("building with secrets; BuildKit reports the end only\n");
        let (options, tag) = (options.build(), request.tag.to_owned());
        let runtime = tokio::runtime::Handle::current();
        // bollard's future is not `Send`, so it runs on a thread of its own.
        let build = tokio::task::spawn_blocking(move || {
            let input = ImageBuildLoadInput::Upload(context.into());
            runtime.block_on(Moby::new(&docker).docker_build(&tag, options, input, None, None))
        });
        match build.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(EngineError::Refused(error.to_string())),
            Err(_) => Err(EngineError::Unreachable("the build's thread ended early".to_owned())),
        }
    }
}

fn context_unreadable(error: std::io::Error) -> EngineError {
    EngineError::Refused(format!("the packed context cannot be read: {error}"))
}

fn print(line: BuildInfo, printer: &mut BuildKitPrinter, output: Output<'_>) -> Result<()> {
    if let Some(detail) = line.error_detail.and_then(|detail| detail.message) {
        return Err(EngineError::Refused(detail));
    }
    if let Some(text) = line.stream.or(line.status) {
        output(&text);
    }
    if let Some(BuildInfoAux::BuildKit(status)) = line.aux {
        printer.print(status, output);
    }
    Ok(())
}

/// Turns BuildKit's graph of vertexes into plain lines: each is named once when it starts, its
/// output follows, and how it ended where it failed or was cached.
#[derive(Default)]
struct BuildKitPrinter {
    named: std::collections::HashSet<String>,
    ended: std::collections::HashSet<String>,
}

impl BuildKitPrinter {
    fn print(&mut self, status: bollard::moby::buildkit::v1::StatusResponse, output: Output<'_>) {
        for vertex in status.vertexes {
            if vertex.started.is_some() && self.named.insert(vertex.digest.clone()) {
                output(&format!("{}\n", vertex.name));
            }
            if vertex.completed.is_some() && self.ended.insert(vertex.digest.clone()) {
                if vertex.cached {
                    output(" (cached)\n");
                }
                if !vertex.error.is_empty() {
                    output(&format!("error: {}\n", vertex.error));
                }
            }
        }
        for log in status.logs {
            output(&String::from_utf8_lossy(&log.msg));
        }
    }
}
