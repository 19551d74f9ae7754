//! One call of the git program: hardened, bounded, and ended when its future is dropped.
//!
//! It trusts the configuration of the user that the daemon runs as (`~/.gitconfig`, ssh, credential helpers):
//! operators give the daemon access there, and a repository cannot change it. It does not trust the
//! system-wide file, which has no particular owner, stray `GIT_*` variables, or any content of a repository.

use std::ffi::OsStr;
use std::io;
use std::ops::ControlFlow;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::{Child, Command};

use super::error::SourceError;
use super::remote::GitLogin;
use super::remote::Remote;
use crate::model::redact::Redactor;
use crate::model::remote_url::GitTransport;

/// The maximum standard output that is collected, in bytes: a listing of some 800,000 branches.
const LONGEST_OUTPUT: usize = 64 << 20;

/// The length of the end of standard error that is kept, in bytes. Git reports its fatal error last.
const STDERR_TAIL: usize = 4096;

/// The time for reading the pipes after git has ended. They contain git's complete output by then, but a
/// background helper (a shared ssh connection) may keep them open for hours.
const PIPE_GRACE: Duration = Duration::from_secs(1);

/// `GIT_*` variables through which an operator gives access; all others are removed.
const KEPT_VARIABLES: &[&str] = &[
    "GIT_ASKPASS",
    "GIT_CONFIG_GLOBAL",
    "GIT_EXEC_PATH",
    "GIT_PROXY_COMMAND",
    "GIT_SSH",
    "GIT_SSH_COMMAND",
    "GIT_SSH_VARIANT",
    "GIT_SSL_CAINFO",
    "GIT_SSL_CAPATH",
    "GIT_SSL_CERT",
    "GIT_SSL_KEY",
];

/// Settings of every call. They override the user's.
const SETTINGS: &[(&str, &str)] = &[
    ("core.hooksPath", "/dev/null"),
    ("core.fsmonitor", "false"),
    // A checked-out tree depends on the commit, not on the user.
    ("core.attributesFile", "/dev/null"),
    ("core.autocrlf", "false"),
    ("core.eol", "lf"),
    ("core.symlinks", "true"),
    ("core.fileMode", "true"),
    ("core.sparseCheckout", "false"),
    ("submodule.recurse", "false"),
    ("fetch.recurseSubmodules", "false"),
    ("fetch.fsckObjects", "true"),
    // Each fetch makes one pack, so that a mirror stays fast without background work.
    ("fetch.unpackLimit", "1"),
    ("gc.auto", "0"),
    ("maintenance.auto", "false"),
    // A server slower than 1 kB/s for a minute counts as hanging.
    ("http.lowSpeedLimit", "1000"),
    ("http.lowSpeedTime", "60"),
    ("protocol.allow", "never"),
    ("protocol.ext.allow", "never"),
    ("remote.lfsdefault", Git::REMOTE),
];

/// Flaws that old tools left in the history of legitimate repositories; no checkout suffers from them.
const HARMLESS_FLAWS: &[&str] = &[
    "badTimezone",
    "badDate",
    "badDateOverflow",
    "badEmail",
    "badName",
    "missingEmail",
    "missingNameBeforeEmail",
    "missingSpaceBeforeEmail",
    "missingSpaceBeforeDate",
    "zeroPaddedDate",
    "zeroPaddedFilemode",
    "multipleAuthors",
    "gitmodulesParse",
];

/// Answers git's request for a login from two environment variables. A URL with a password would appear on
/// the command line of git's own helpers, readable for every user of the host. The text is constant: nothing
/// is interpolated into it.
const LOGIN_HELPER: &str = "!f() { test \"$1\" = get && \
     printf 'username=%s\\npassword=%s\\n' \"$ABIDE_GIT_USER\" \"$ABIDE_GIT_PASSWORD\"; }; f";

/// A prepared call of git.
pub(super) struct Git {
    command: Command,
    step: &'static str,
    remote: Remote,
    limit: Duration,
    settings: Vec<(String, String)>,
}

impl Git {
    /// The name of the configured URL in git. Users do not use this name, so that settings of `origin` in
    /// their own configuration do not apply.
    pub(super) const REMOTE: &str = "abide";

    /// A call for `step` (a verb and its object), which may access `remote`.
    pub(super) fn new(step: &'static str, remote: &Remote) -> Self {
        let mut command = Command::new("git");
        forget_variables(&mut command);
        command
            .current_dir("/")
            .env("LC_ALL", "C")
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_NO_REPLACE_OBJECTS", "1")
            .env("GIT_OPTIONAL_LOCKS", "0")
            // Outside of any repository, unless `repository` sets one.
            .env("GIT_DIR", "/dev/null")
            // ssh would ask on the terminal of the user who started the daemon.
            .env("SSH_ASKPASS_REQUIRE", "force");
        if std::env::var_os("SSH_ASKPASS").is_none() {
            command.env("SSH_ASKPASS", "false");
        }
        let settings = settings_for(remote);
        if let Some(login) = &remote.login {
            command.env("ABIDE_GIT_USER", &login.user);
            command.env("ABIDE_GIT_PASSWORD", login.password.expose());
        }
        Self { command, step, remote: remote.clone(), limit: remote.timeouts.fetch, settings }
    }

    pub(super) fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.command.arg(arg);
        self
    }

    pub(super) fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.command.args(args);
        self
    }

    /// Works on the bare repository `dir`. The explicit path also makes git trust its owner.
    pub(super) fn repository(mut self, dir: &Path) -> Self {
        self.command.env("GIT_DIR", dir);
        self
    }

    /// Works on the files in `tree`, with the index file `index`.
    pub(super) fn work_tree(mut self, tree: &Path, index: &Path) -> Self {
        self.command.env("GIT_WORK_TREE", tree).env("GIT_INDEX_FILE", index).current_dir(tree);
        self
    }

    /// Adds settings that override all others.
    pub(super) fn settings(mut self, more: impl IntoIterator<Item = (String, String)>) -> Self {
        self.settings.extend(more);
        self
    }

    /// Ends the call after `limit`.
    pub(super) fn within(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Runs the call and collects its output.
    pub(super) async fn run(self) -> Result<Finished, SourceError> {
        let mut output = Vec::new();
        let mut finished = self
            .stream(|chunk| {
                output.extend_from_slice(chunk);
                if output.len() > LONGEST_OUTPUT { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })
            .await?;
        finished.output = output;
        Ok(finished)
    }

    /// Runs the call and passes its output to `sink`, which may end the call.
    pub(super) async fn stream<S>(mut self, sink: S) -> Result<Finished, SourceError>
    where
        S: FnMut(&[u8]) -> ControlFlow<()> + Send,
    {
        pass_settings(&mut self.command, &self.settings);
        self.command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        self.command.kill_on_drop(true).process_group(0);
        let child = self.command.spawn().map_err(SourceError::NoGit)?;
        let group = GitProcessGroup::of(&child);
        let ended = tokio::time::timeout(self.limit, watch(child, group, sink)).await;
        let Ok(ended) = ended else { return Err(self.timed_out()) };
        let ended = ended.map_err(SourceError::io("read the output of git"))?;
        let detail = readable(&ended.stderr, self.remote.login.as_ref());
        Ok(Finished { status: ended.status, stopped: ended.stopped, output: Vec::new(), detail, of: self })
    }

    fn timed_out(&self) -> SourceError {
        SourceError::TimedOut { step: self.step, remote: self.remote.to_string(), after: self.limit }
    }
}

/// A finished call, successful or not.
pub(super) struct Finished {
    status: ExitStatus,
    stopped: bool,
    output: Vec<u8>,
    detail: String,
    of: Git,
}

impl Finished {
    /// The output, if git succeeded.
    pub(super) fn success(self) -> Result<Vec<u8>, SourceError> {
        if self.status.success() && !self.stopped { Ok(self.output) } else { Err(self.error()) }
    }

    /// The output; `None` if git failed.
    pub(super) fn answer(self) -> Option<Vec<u8>> {
        (self.status.success() && !self.stopped).then_some(self.output)
    }

    /// Git's standard error, for people.
    pub(super) fn detail(&self) -> &str {
        &self.detail
    }

    fn error(self) -> SourceError {
        let remote = self.of.remote.to_string();
        let detail = match (self.stopped, self.detail.is_empty()) {
            (true, _) => "its output is too long".to_owned(),
            (_, true) => format!("it ended with {} and no message", self.status),
            _ => self.detail,
        };
        SourceError::from_stderr(self.of.step, remote, detail)
    }
}

fn forget_variables(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(is_stray) {
            command.env_remove(&name);
        }
    }
}

fn is_stray(variable: &str) -> bool {
    variable.starts_with("GIT_") && !KEPT_VARIABLES.contains(&variable)
}

fn settings_for(remote: &Remote) -> Vec<(String, String)> {
    let mut settings: Vec<_> = SETTINGS.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    for flaw in HARMLESS_FLAWS {
        settings.push((format!("fetch.fsck.{flaw}"), "ignore".to_owned()));
        settings.push((format!("fsck.{flaw}"), "ignore".to_owned()));
    }
    let allowed: &[&str] = match remote.url.transport {
        GitTransport::Https => &["https"],
        // A server may redirect from http to https, but never back.
        GitTransport::Http => &["http", "https"],
        GitTransport::Ssh => &["ssh"],
        GitTransport::File => &["file"],
    };
    settings.extend(allowed.iter().map(|t| (format!("protocol.{t}.allow"), "always".to_owned())));
    settings.push((format!("remote.{}.url", Git::REMOTE), remote.url.git.clone()));
    if let (Some(base), Some(_)) = (&remote.url.base, &remote.login) {
        // An empty helper removes the earlier ones: only this login applies, and no helper may store it.
        settings.push((format!("credential.{base}.helper"), String::new()));
        settings.push((format!("credential.{base}.helper"), LOGIN_HELPER.to_owned()));
    }
    settings
}

/// Passes the settings in the environment, which other users of the host cannot read, unlike arguments.
fn pass_settings(command: &mut Command, settings: &[(String, String)]) {
    command.env("GIT_CONFIG_COUNT", settings.len().to_string());
    for (number, (key, value)) in settings.iter().enumerate() {
        command.env(format!("GIT_CONFIG_KEY_{number}"), key);
        command.env(format!("GIT_CONFIG_VALUE_{number}"), value);
    }
}

/// The process group of a call. Git starts helpers (remote-https, index-pack, ssh) that would outlive it.
/// Dropping this ends them all.
struct GitProcessGroup(Option<Pid>);

impl GitProcessGroup {
    fn of(child: &Child) -> Self {
        Self(child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)))
    }

    fn end(&self) {
        if let Some(leader) = self.0 {
            // The only possible error is an empty group.
            let _gone = kill_process_group(leader, Signal::KILL);
        }
    }

    /// After git has ended by itself, its number may belong to another process. Helpers that it left running
    /// on purpose (a credential cache) must keep running.
    fn release(mut self) {
        self.0 = None;
    }
}

impl Drop for GitProcessGroup {
    fn drop(&mut self) {
        self.end();
    }
}

struct GitExit {
    status: ExitStatus,
    stopped: bool,
    stderr: Vec<u8>,
}

/// Reads both pipes until git ends, or until `sink` stops it.
async fn watch<S>(mut child: Child, group: GitProcessGroup, sink: S) -> io::Result<GitExit>
where
    S: FnMut(&[u8]) -> ControlFlow<()> + Send,
{
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let mut tail = Vec::new();
    let (status, stopped) = {
        let reading =
            async { tokio::try_join!(pump(stdout, sink), pump(stderr, |c| keep_tail(&mut tail, c))) };
        tokio::pin!(reading);
        tokio::select! {
            read = &mut reading => {
                let stopped = has_stopped(read)?;
                if stopped {
                    group.end();
                }
                (child.wait().await?, stopped)
            }
            status = child.wait() => match tokio::time::timeout(PIPE_GRACE, &mut reading).await {
                Ok(read) => (status?, has_stopped(read)?),
                Err(_) => (status?, false),
            },
        }
    };
    group.release();
    Ok(GitExit { status, stopped, stderr: tail })
}

/// The reason why a pipe is no longer read.
enum Stop {
    Enough,
    Failed(io::Error),
}

fn has_stopped(read: Result<((), ()), Stop>) -> io::Result<bool> {
    match read {
        Ok(_) => Ok(false),
        Err(Stop::Enough) => Ok(true),
        Err(Stop::Failed(error)) => Err(error),
    }
}

async fn pump<S>(from: Option<impl AsyncRead + Unpin>, mut sink: S) -> Result<(), Stop>
where
    S: FnMut(&[u8]) -> ControlFlow<()>,
{
    let Some(mut from) = from else { return Ok(()) };
    let mut buffer = vec![0; 64 << 10];
    loop {
        match from.read(&mut buffer).await {
            Ok(0) => return Ok(()),
            Ok(length) if sink(&buffer[..length]).is_break() => return Err(Stop::Enough),
            Ok(_) => {}
            Err(error) => return Err(Stop::Failed(error)),
        }
    }
}

fn keep_tail(tail: &mut Vec<u8>, chunk: &[u8]) -> ControlFlow<()> {
    tail.extend_from_slice(chunk);
    tail.drain(..tail.len().saturating_sub(STDERR_TAIL));
    ControlFlow::Continue(())
}

/// Git's standard error as one line for people: no control characters, no credentials.
fn readable(stderr: &[u8], login: Option<&GitLogin>) -> String {
    const LONGEST: usize = 600;
    // The first word may be the rest of a truncated URL, which would no longer be recognized as one.
    let untruncated = match stderr.iter().position(u8::is_ascii_whitespace) {
        Some(end) if stderr.len() >= STDERR_TAIL => &stderr[end..],
        _ => stderr,
    };
    let text = String::from_utf8_lossy(untruncated);
    let lines: Vec<_> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let line = redact(&lines.join("; "));
    let line = Redactor::new(login.map(|login| &login.password)).redacted(&line);
    let line: String = line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let line = line.trim();
    let surplus = line.chars().count().saturating_sub(LONGEST);
    line.chars().skip(surplus).collect()
}

/// Removes the user and password from every URL in `text`.
fn redact(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        clean.push_str(before);
        let end = after.find(|c: char| c.is_whitespace() || "/'\"".contains(c)).unwrap_or(after.len());
        let secret = after[..end].rfind('@').map_or(0, |at| at + 1);
        rest = &after[secret..];
    }
    clean + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_in_urls_are_redacted_from_git_output() {
        let stderr = "fatal: unable to access 'https://u:p@ss@host/x': see http://t0ken@h and ssh://h/a@b";
        assert_eq!(redact(stderr), "fatal: unable to access 'https://host/x': see http://h and ssh://h/a@b");
    }

    #[test]
    fn git_output_becomes_one_short_line_without_control_characters() {
        let stderr = format!("{}\n\u{1b}[31mfatal: x\u{7}\r\n", "remote: y\n".repeat(300));
        let line = readable(stderr.as_bytes(), None);
        assert!(line.ends_with("[31mfatal: x"), "{line}");
        assert!(line.chars().count() <= 600 && !line.contains(char::is_control));
    }

    #[test]
    fn a_bare_password_is_redacted_from_git_output() {
        let login =
            GitLogin { user: "u".to_owned(), password: crate::model::container::Secret::new("canary") };
        let line = readable(b"remote: bad login canary", Some(&login));
        assert_eq!(line, "remote: bad login [redacted]");
    }

    #[test]
    fn the_truncated_start_of_a_url_is_not_shown() {
        let stderr = format!("{} end", "t0ken".repeat(STDERR_TAIL) + "@host/x");
        let mut tail = Vec::new();
        let _go_on = keep_tail(&mut tail, stderr.as_bytes());
        assert_eq!(readable(&tail, None), "end");
    }

    #[test]
    fn only_variables_for_access_are_passed_to_git() {
        for kept in ["HOME", "SSH_AUTH_SOCK", "GIT_SSH_COMMAND", "GIT_ASKPASS", "GIT_CONFIG_GLOBAL"] {
            assert!(!is_stray(kept), "{kept}");
        }
        for stray in
            ["GIT_DIR", "GIT_TRACE_CURL", "GIT_CONFIG_PARAMETERS", "GIT_ALLOW_PROTOCOL", "GIT_SSL_NO_VERIFY"]
        {
            assert!(is_stray(stray), "{stray}");
        }
    }

    #[test]
    fn git_may_use_only_the_configured_urls_transport() {
        let allowed = |url: &str| {
            let mut names: Vec<_> = settings_for(&Remote::new(url).unwrap())
                .into_iter()
                .filter(|(key, value)| key.starts_with("protocol.") && value == "always")
                .map(|(key, _)| key)
                .collect();
            names.sort();
            names.join(" ")
        };
        assert_eq!(allowed("https://h/x"), "protocol.https.allow");
        assert_eq!(allowed("http://h/x"), "protocol.http.allow protocol.https.allow");
        assert_eq!(allowed("git@h:x"), "protocol.ssh.allow");
        assert_eq!(allowed("/x"), "protocol.file.allow");
    }

    #[test]
    fn only_the_end_of_standard_error_is_kept() {
        let mut tail = Vec::new();
        for _ in 0..100 {
            let _go_on = keep_tail(&mut tail, &[b'x'; 1000]);
        }
        let _go_on = keep_tail(&mut tail, b"end");
        assert_eq!((tail.len(), tail.ends_with(b"xend")), (STDERR_TAIL, true));
    }
}
