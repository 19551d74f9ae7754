//! Adds and removes TXT records with the user's command: `COMMAND present _acme-challenge.NAME. VALUE`, and
//! `cleanup` with the same words. This is the contract of lego's `exec` provider, so its scripts work here.

use std::process::Stdio;

use tokio::process::Command;

use crate::model::redact::Redactor;
use crate::model::spec::DnsSpec;
use crate::secret;

/// The longest output in an error, in characters.
const LONGEST: usize = 300;
/// Variables of the daemon that the command gets too.
const INHERITED: [&str; 5] = ["PATH", "HOME", "LANG", "TZ", "TMPDIR"];

/// Runs the command.
///
/// # Errors
/// It failed or took too long; a sentence with the end of its output, without secrets.
pub(super) async fn run(spec: &DnsSpec, verb: &str, name: &str, value: &str) -> Result<(), String> {
    let Some((program, arguments)) = spec.command.split_first() else {
        return Err("the DNS command is empty".to_owned());
    };
    let mut command = Command::new(program);
    command.args(arguments).arg(verb).arg(format!("{name}.")).arg(value);
    command.env_clear().envs(INHERITED.iter().filter_map(|name| Some((*name, std::env::var_os(name)?))));
    let mut secrets = Vec::new();
    for (variable, value) in &spec.env {
        let value =
            secret::value(value).map_err(|error| format!("the DNS command needs {variable}: {error}"))?;
        command.env(variable, value.expose());
        secrets.push(value);
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let words = format!("`{program} {verb} {name}.`");
    let output = match tokio::time::timeout(spec.timeout, command.output()).await {
        Ok(Ok(output)) => output,
        Ok(Err(error)) => return Err(format!("{words} cannot be run: {error}")),
        Err(_) => {
            return Err(format!("{words} did not end within {}", humantime::format_duration(spec.timeout)));
        }
    };
    if output.status.success() {
        return Ok(());
    }
    let mut text = String::from_utf8_lossy(&output.stderr).into_owned();
    text.push_str(&String::from_utf8_lossy(&output.stdout));
    let text = Redactor::new(&secrets).redacted(&text);
    let text: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let end: String = text.chars().skip(text.chars().count().saturating_sub(LONGEST)).collect();
    Err(format!("{words} failed ({}): {end}", output.status))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::os::unix::fs::PermissionsExt as _;
    use std::time::Duration;

    use super::*;
    use crate::model::spec::EnvValue;

    fn spec(dir: &std::path::Path, script: &str) -> DnsSpec {
        let path = dir.join("hook");
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        let env = BTreeMap::from([("TOKEN".to_owned(), EnvValue::Plain("s3cr3t".to_owned()))]);
        DnsSpec {
            command: vec![path.display().to_string(), "first".to_owned()],
            env,
            timeout: Duration::from_secs(20),
            propagation: Duration::from_secs(1),
        }
    }

    #[tokio::test]
    async fn the_dns_command_receives_its_arguments_and_its_secret_is_redacted() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let good = spec(dir.path(), &format!("echo \"$@ $TOKEN $CARGO_PKG_NAME\" >{}", log.display()));
        run(&good, "present", "_acme-challenge.a.example", "v$(id)").await.unwrap();
        let text = std::fs::read_to_string(&log).unwrap();
        assert_eq!(text, "first present _acme-challenge.a.example. v$(id) s3cr3t \n");
        let bad = spec(dir.path(), "echo \"no access with $TOKEN\" >&2; exit 3");
        let error = run(&bad, "cleanup", "a", "b").await.unwrap_err();
        assert!(error.contains("no access with [redacted]") && error.contains('3'), "{error}");
        let slow = DnsSpec { timeout: Duration::from_millis(50), ..spec(dir.path(), "exec sleep 600") };
        assert!(run(&slow, "present", "a", "b").await.unwrap_err().contains("did not end within"));
    }
}
