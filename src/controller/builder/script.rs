//! The way of a team that has a build script: it is run as it is, and the image that it made is
//! taken.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, ChildStderr, ChildStdout, Command};

use super::BuildError;
use super::log::BuildLog;
use super::work::Work;
use crate::model::desired::Image;
use crate::model::spec::EnvValue;
use crate::model::status::Reason;

/// Variables of the daemon that a script gets, where they are set: enough to find programs, the
/// engine and the way out of the network, and none of the daemon's secrets.
const HANDED_ON: [&str; 16] = [
    "PATH",
    "HOME",
    "LANG",
    "TZ",
    "TMPDIR",
    "DOCKER_HOST",
    "DOCKER_CONFIG",
    "DOCKER_CERT_PATH",
    "DOCKER_TLS_VERIFY",
    "DOCKER_BUILDKIT",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
];

/// As much of a stream is read at once, in bytes.
const PIECE: usize = 8192;
/// How long a stream may stay open once the script has ended.
const LAST_WORDS: Duration = Duration::from_secs(2);

impl Work<'_> {
    /// Runs the script in the checkout and takes the image that it made.
    pub(super) async fn script(
        &mut self,
        tree: &Path,
        command: &[String],
        image: &str,
        env: &BTreeMap<String, EnvValue>,
        kept_as: &str,
    ) -> Result<Image, BuildError> {
        let number = self.number.to_string();
        let filled: Vec<String> =
            command.iter().map(|word| word.replace("{build_number}", &number)).collect();
        let image = image.replace("{build_number}", &number);
        self.say(&format!("running {}", filled.join(" ")));
        let mut group = Group::of(self.spawn(tree, &filled, env)?);
        let code = self.follow(&mut group).await?;
        if code != Some(0) {
            let how = code
                .map_or("was ended by a signal".to_owned(), |code| format!("ended with exit code {code}"));
            return Err(BuildError::failed(format!("the script {how}")));
        }
        let engine = &self.builder.engine;
        let id = engine.image_id(&image).await?;
        let id = id.ok_or_else(|| BuildError::failed(format!("the script made no image {image}")))?;
        // Whatever the script does with its own names later, this one stays.
        let (repository, tag) = kept_as.rsplit_once(':').unwrap_or((kept_as, "latest"));
        engine.tag(id.as_str(), repository, tag).await?;
        Ok(Image { reference: Some(image), digest: None, id: Some(id) })
    }

    fn spawn(
        &mut self,
        tree: &Path,
        words: &[String],
        env: &BTreeMap<String, EnvValue>,
    ) -> Result<Child, BuildError> {
        let [program, arguments @ ..] = words else {
            return Err(BuildError::failed("the script is an empty list"));
        };
        let mut command = Command::new(program);
        command.args(arguments).current_dir(tree).env_clear();
        command.envs(HANDED_ON.iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
        command.env("BUILD_NUMBER", self.number.to_string()).env("WORKSPACE", tree);
        command.env("GIT_COMMIT", self.task.revision.as_str()).env("GIT_BRANCH", self.task.branch.as_str());
        for (name, value) in env {
            let secret = crate::secret::value(value).map_err(|error| {
                BuildError::Unavailable(Reason::SecretMissing, format!("variable {name}: {error}"))
            })?;
            if matches!(value, EnvValue::Secret(_)) {
                self.log.hide(&secret);
            }
            command.env(name, secret.expose());
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.process_group(0).kill_on_drop(true);
        command.spawn().map_err(|error| BuildError::failed(format!("{program} cannot be run: {error}")))
    }

    /// Copies both streams into the log until the script ends. What it leaves running ends with it,
    /// or else a build would work on a tree that is being removed.
    async fn follow(&mut self, group: &mut Group) -> Result<Option<i32>, BuildError> {
        let mut streams = Streams { out: group.child.stdout.take(), err: group.child.stderr.take() };
        let ended = tokio::select! {
            ended = group.child.wait() => ended,
            () = streams.copy(self.log) => group.child.wait().await,
        };
        group.end();
        // A process that left the group may hold a stream open for as long as it likes.
        let _ = tokio::time::timeout(LAST_WORDS, streams.copy(self.log)).await;
        ended.map(|status| status.code()).map_err(|error| BuildError::failed(format!("the script: {error}")))
    }
}

/// What a script writes.
struct Streams {
    out: Option<ChildStdout>,
    err: Option<ChildStderr>,
}

impl Streams {
    /// Copies both into the log until both end.
    async fn copy(&mut self, log: &mut BuildLog) {
        let (mut from_out, mut from_err) = (vec![0; PIECE], vec![0; PIECE]);
        while self.out.is_some() || self.err.is_some() {
            tokio::select! {
                read = read_some(&mut self.out, &mut from_out), if self.out.is_some() => match read {
                    Some(length) => log.bytes(&from_out[..length]),
                    None => self.out = None,
                },
                read = read_some(&mut self.err, &mut from_err), if self.err.is_some() => match read {
                    Some(length) => log.bytes(&from_err[..length]),
                    None => self.err = None,
                },
            }
        }
    }
}

async fn read_some(stream: &mut Option<impl AsyncRead + Unpin>, buffer: &mut [u8]) -> Option<usize> {
    match stream.as_mut()?.read(buffer).await {
        Ok(0) | Err(_) => None,
        Ok(length) => Some(length),
    }
}

/// A script and all that it started: ended together, also when the build is cancelled.
struct Group {
    child: Child,
    id: Option<Pid>,
}

impl Group {
    fn of(child: Child) -> Self {
        let id = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        Self { child, id }
    }

    /// To be called at once when the script has been waited for: later, its number may be another's.
    fn end(&mut self) {
        if let Some(id) = self.id.take() {
            // An empty group is what it should be.
            let _ = kill_process_group(id, Signal::KILL);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.end();
    }
}
