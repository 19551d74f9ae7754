//! Credential helpers: `docker-credential-NAME get`, with the registry on standard input.

use std::process::Stdio;
use std::time::Duration;

use serde::Deserialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, Command};

use super::{Credentials, KeyringError};
use crate::model::container::Secret;
use crate::model::reference::RegistryHost;

/// The maximum duration of a helper; some query a remote service.
const DEADLINE: Duration = Duration::from_secs(10);
/// The longest answer that is read, in bytes.
const LONGEST: u64 = 64 * 1024;
/// The answer of helpers without credentials, from Docker's own library.
const NOT_FOUND: &str = "credentials not found in native keychain";
/// The user name with which a helper returns an identity token.
const TOKEN: &str = "<token>";

#[derive(Deserialize)]
struct HelperOutput {
    #[serde(rename = "Username")]
    username: String,
    #[serde(rename = "Secret")]
    secret: String,
}

/// The credentials of the helper `name` for `key`; `None` if it has none.
pub(super) async fn get(
    name: &str,
    key: &str,
    host: &RegistryHost,
) -> Result<Option<Credentials>, KeyringError> {
    let shown: String = name.chars().filter(|c| !c.is_control()).take(60).collect();
    let problem = |problem| KeyringError::Helper {
        helper: format!("docker-credential-{shown}"),
        host: host.clone(),
        problem,
    };
    // The name selects a program, and comes from a file that others may write.
    let is_plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if name.is_empty() || name.len() > 60 || !name.bytes().all(is_plain) {
        return Err(problem("has an invalid name: only a-z, 0-9 and - are allowed"));
    }
    let run = tokio::time::timeout(DEADLINE, run(name, key)).await;
    let (ended_well, output) = match run {
        Ok(Ok(answer)) => answer,
        Ok(Err(_)) => return Err(problem("cannot be started")),
        Err(_) => return Err(problem("did not answer within 10 s")),
    };
    if !ended_well {
        let is_unknown = String::from_utf8_lossy(&output).contains(NOT_FOUND);
        return if is_unknown { Ok(None) } else { Err(problem("failed")) };
    }
    let Ok(HelperOutput { username, secret }) = serde_json::from_slice(&output) else {
        return Err(problem("gave an invalid response"));
    };
    let secret = Secret::new(secret);
    Ok(Some(match username.as_str() {
        TOKEN => Credentials::IdentityToken(secret),
        _ => Credentials::Password { username, password: secret },
    }))
}

/// Runs the helper. Returns whether it succeeded, and its output.
async fn run(name: &str, key: &str) -> std::io::Result<(bool, Vec<u8>)> {
    let mut command = Command::new(format!("docker-credential-{name}"));
    command.arg("get").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
    let mut child: Child = command.spawn()?;
    if let Some(mut input) = child.stdin.take() {
        // A helper that ends without reading has a reason, which its exit code shows.
        let _ = input.write_all(key.as_bytes()).await;
    }
    let mut output = Vec::new();
    if let Some(out) = child.stdout.take() {
        out.take(LONGEST).read_to_end(&mut output).await?;
    }
    Ok((child.wait().await?.success(), output))
}
