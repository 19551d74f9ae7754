//! `abide doctor`: checks this host for everything that would keep abide from working, and names the remedy.
//!
//! Every check is a function from an observation to findings, so that it can be tested without a sick
//! host; [`examine`] does the looking.

mod certificates;
mod engine;
mod files;
mod host;
mod ports;

use std::path::Path;

use serde::Serialize;

use crate::daemon::record_dir;
use crate::manifest_dir::{self, LoadError};
use crate::model::error::chain;
use crate::model::spec::Manifest;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// All is well.
    Ok,
    /// It works, and may stop working or surprise someone.
    Warning,
    /// Something that abide needs, or that the manifest declares, cannot work.
    Problem,
}

/// The result of a check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The subject of the check, in a word.
    pub check: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// The finding.
    pub message: String,
    /// What to do about it; `None`: nothing.
    pub remedy: Option<String>,
}

impl Finding {
    fn ok(check: &'static str, message: impl Into<String>) -> Self {
        Self { check, severity: Severity::Ok, message: message.into(), remedy: None }
    }

    fn warning(check: &'static str, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { check, severity: Severity::Warning, message: message.into(), remedy: Some(remedy.into()) }
    }

    fn problem(check: &'static str, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { check, severity: Severity::Problem, message: message.into(), remedy: Some(remedy.into()) }
    }
}

/// Checks the host, the engine and a desired-state folder. Changes nothing.
pub async fn examine(desired_state: &Path) -> Vec<Finding> {
    let mut findings = Vec::new();
    let (manifest, found) = read_manifest(desired_state);
    findings.extend(found);
    let facts = crate::controller::engine_facts().await;
    findings.extend(engine::judge(&facts, &manifest));
    findings.extend(host::programs(&manifest));
    findings.extend(host::clock());
    findings.extend(host::proxies(|name| std::env::var(name).ok()));
    findings.extend(files::record(&record_dir(desired_state)));
    let root = facts.as_ref().ok().and_then(|facts| facts.root.clone());
    findings.extend(files::disks(desired_state, root.as_deref().map(Path::new)));
    let record = files::record_id(&record_dir(desired_state));
    let running = ports::running(facts.as_ref().ok(), record.as_deref());
    findings.extend(ports::judge(&manifest, &running, ports::is_taken));
    findings.extend(certificates::judge(&manifest, desired_state));
    findings
}

fn read_manifest(desired_state: &Path) -> (Manifest, Vec<Finding>) {
    let problem = |message: String| {
        Finding::problem("manifest", message, "`abide check` lists every problem with its file and line")
    };
    match manifest_dir::load(desired_state) {
        Ok(loaded) => {
            let count = loaded.manifest.environments.len();
            let kind = if count == 1 { "environment" } else { "environments" };
            let mut found = vec![Finding::ok("manifest", format!("declares {count} {kind}"))];
            if loaded.manifest.followed.is_some()
                && let Some(unread) = manifest_dir::unread(desired_state)
            {
                let in_force = manifest_dir::commit_in_force(desired_state);
                let remedy = "check the `url`, `branch` and login in `[manifest]`, and that this host reaches the repository";
                found.push(Finding::problem("manifest", unread.sentence(in_force.as_ref()), remedy));
            }
            (loaded.manifest, found)
        }
        Err(LoadError::Invalid(problems)) => {
            let count = problems.iter().count();
            (Manifest::default(), vec![problem(format!("{count} problems in {}", desired_state.display()))])
        }
        Err(error) => (Manifest::default(), vec![problem(chain(&error))]),
    }
}
