//! The way of a team that has a build script: it is run as it is, and the image that it made is
//! taken.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};

use super::{BuildError, Work};
use crate::model::desired::Image;
use crate::model::spec::EnvValue;
use crate::model::status::Reason;

/// Variables of the daemon that a script gets, where they are set: enough to find programs and
/// the engine, and none of the daemon's secrets.
const HANDED_ON: [&str; 8] =
    ["PATH", "HOME", "LANG", "TZ", "DOCKER_HOST", "DOCKER_CONFIG", "DOCKER_CERT_PATH", "DOCKER_TLS_VERIFY"];

impl Work<'_> {
    /// Runs the script in the checkout and takes the image that it made.
    pub(super) async fn script(
        &mut self,
        tree: &Path,
        command: &[String],
        image: &str,
        env: &BTreeMap<String, EnvValue>,
    ) -> Result<Image, BuildError> {
        let number = self.number.to_string();
        let filled: Vec<String> =
            command.iter().map(|word| word.replace("{build_number}", &number)).collect();
        let image = image.replace("{build_number}", &number);
        self.say(&format!("running {}", filled.join(" ")));
        let mut child = Group(self.spawn(tree, &filled, env)?);
        let code = self.follow(&mut child.0).await?;
        if code != Some(0) {
            let how = code
                .map_or("was ended by a signal".to_owned(), |code| format!("ended with exit code {code}"));
            return Err(BuildError::failed(format!("the script {how}")));
        }
        let engine = &self.builder.engine;
        let id = engine.image_id(&image).await?;
        let id = id.ok_or_else(|| BuildError::failed(format!("the script made no image {image}")))?;
        // Whatever the script does with its own names later, this one stays.
        engine.tag(id.as_str(), &format!("abide/{}", self.task.environment), self.key.short()).await?;
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

    /// Copies both streams into the log until both end, then waits for the exit code.
    async fn follow(&mut self, child: &mut Child) -> Result<Option<i32>, BuildError> {
        let (mut out, mut err) = (child.stdout.take(), child.stderr.take());
        let (mut from_out, mut from_err) = ([0; 8192], [0; 8192]);
        while out.is_some() || err.is_some() {
            tokio::select! {
                read = read_some(&mut out, &mut from_out), if out.is_some() => match read {
                    Some(length) => self.log.bytes(&from_out[..length]),
                    None => out = None,
                },
                read = read_some(&mut err, &mut from_err), if err.is_some() => match read {
                    Some(length) => self.log.bytes(&from_err[..length]),
                    None => err = None,
                },
            }
        }
        let ended = child.wait().await;
        ended.map(|status| status.code()).map_err(|error| BuildError::failed(format!("the script: {error}")))
    }
}

async fn read_some(stream: &mut Option<impl AsyncRead + Unpin>, buffer: &mut [u8]) -> Option<usize> {
    match stream.as_mut()?.read(buffer).await {
        Ok(0) | Err(_) => None,
        Ok(length) => Some(length),
    }
}

/// A script and all that it started: ended together when the build is cancelled.
struct Group(Child);

impl Drop for Group {
    fn drop(&mut self) {
        // Without an id it has been waited for, and its number may be another's by now.
        let id = self.0.id().and_then(|id| i32::try_from(id).ok()).and_then(rustix::process::Pid::from_raw);
        if let Some(id) = id {
            let _ = rustix::process::kill_process_group(id, rustix::process::Signal::KILL);
        }
    }
}
