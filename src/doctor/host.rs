//! Programs, clock and proxies of the host.

use std::process::{Command, Stdio};

use super::Finding;
use crate::model::spec::{Manifest, Supply};

pub(super) fn programs(manifest: &Manifest) -> Vec<Finding> {
    let follows_git = manifest.environments.values().any(|spec| matches!(spec.supply, Supply::Branch { .. }));
    let mut findings = vec![program("git", follows_git)];
    let mut builds = manifest.environments.values().filter_map(|spec| spec.build.as_ref());
    if builds.any(|build| build.lfs) {
        findings.push(program("git-lfs", true));
    }
    findings
}

/// Debian's package has the name of the program.
fn program(name: &'static str, is_needed: bool) -> Finding {
    let ran = Command::new(name).arg("--version").stdin(Stdio::null()).stderr(Stdio::null()).output();
    let version = ran.ok().filter(|ran| ran.status.success());
    let version =
        version.map(|ran| String::from_utf8_lossy(&ran.stdout).lines().next().unwrap_or("").to_owned());
    judge_program(name, is_needed, version)
}

fn judge_program(name: &'static str, is_needed: bool, version: Option<String>) -> Finding {
    let remedy = format!("install it: `apt install {name}`");
    match version {
        Some(version) => Finding::ok(name, version),
        None if is_needed => {
            Finding::problem(name, format!("{name} is not installed, and the manifest needs it"), remedy)
        }
        None => {
            Finding::warning(name, format!("{name} is not installed; no environment needs it yet"), remedy)
        }
    }
}

/// Whether the clock is kept right, as systemd reports it. Tokens, certificates and the history depend on it.
pub(super) fn clock() -> Option<Finding> {
    let show = Command::new("timedatectl")
        .args(["show", "--property=NTPSynchronized", "--value"])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()
        .filter(|ran| ran.status.success())?;
    Some(judge_clock(String::from_utf8_lossy(&show.stdout).trim()))
}

fn judge_clock(synchronized: &str) -> Finding {
    match synchronized {
        "yes" => Finding::ok("clock", "synchronized"),
        _ => Finding::warning(
            "clock",
            "not synchronized: times in the history may be wrong, and valid certificates rejected",
            "`timedatectl set-ntp true`, or install chrony",
        ),
    }
}

/// The outbound proxies that abide uses.
pub(super) fn proxies(variable: impl Fn(&str) -> Option<String>) -> Option<Finding> {
    let either =
        |name: &str| variable(name).or_else(|| variable(&name.to_lowercase())).filter(|set| !set.is_empty());
    either("HTTPS_PROXY").or_else(|| either("HTTP_PROXY"))?;
    // A proxy's address may hold a password, so it is not printed.
    Some(match either("NO_PROXY") {
        Some(_) => Finding::ok(
            "proxy",
            "outbound requests use the configured proxy, except for hosts in \
                NO_PROXY",
        ),
        None => Finding::warning(
            "proxy",
            "outbound requests use the configured proxy, even for hosts in your own network",
            "list the hosts that need no proxy in NO_PROXY, such as \
            `localhost,127.0.0.1,.example.internal`",
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::super::Severity;
    use super::*;

    #[test]
    fn a_missing_program_is_a_problem_only_if_something_needs_it() {
        let judged =
            |needed, version: Option<&str>| judge_program("git", needed, version.map(str::to_owned)).severity;
        assert_eq!(judged(true, Some("git version 2.47.3")), Severity::Ok);
        assert_eq!(judged(true, None), Severity::Problem);
        assert_eq!(judged(false, None), Severity::Warning);
        assert_eq!(program("abide-has-no-such-program", true).severity, Severity::Problem);
        assert_eq!(judge_clock("yes").severity, Severity::Ok);
        assert_eq!(judge_clock("no").severity, Severity::Warning);
    }

    #[test]
    fn a_proxy_is_reported_without_its_password() {
        assert_eq!(proxies(|_| None), None);
        let set = |name: &str| (name == "https_proxy").then(|| "http://u:hunter2@proxy:3128".to_owned());
        let found = proxies(set).unwrap();
        assert_eq!(found.severity, Severity::Warning);
        assert!(!format!("{found:?}").contains("hunter2"));
        let both = proxies(|name| (name != "HTTP_PROXY").then(|| "x".to_owned())).unwrap();
        assert_eq!(both.severity, Severity::Ok);
    }
}
