//! `abide doctor`: what on this host would keep abide from working.

use super::exit::{CliError, CliExit};
use super::output::text::{counted, one_line};
use super::session::CliSession;
use crate::doctor::{Finding, Severity};

const EXAMPLES: &str = "\
Examples:
  abide doctor
  abide doctor --desired-state /etc/abide

Checks the engine, programs, the manifest, the record's folder, disks, ports, the clock, proxies and \
certificates, and changes nothing. Run it as the user of the daemon. Exits with 1 if there is a \
problem.";

/// Takes no options.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct DoctorArgs {}

/// Runs the command.
pub(crate) async fn run(_: &DoctorArgs, session: &mut CliSession) -> Result<CliExit, CliError> {
    let findings = (session.entry.doctor)(session.desired_state.clone()).await;
    if session.console.is_json() {
        session.console.json(&findings)?;
    } else {
        for finding in &findings {
            lines(finding).iter().try_for_each(|line| session.console.data(line))?;
        }
    }
    match findings.iter().filter(|finding| finding.severity == Severity::Problem).count() {
        0 => Ok(CliExit::Done),
        count => Err(CliError::No(format!("this host has {}", counted(count, "problem", "problems")))),
    }
}

fn lines(finding: &Finding) -> Vec<String> {
    let word = match finding.severity {
        Severity::Ok => "ok",
        Severity::Warning => "warning",
        Severity::Problem => "problem",
    };
    let found = format!("{word:<8} {:<12} {}", finding.check, one_line(&finding.message));
    let remedy = finding.remedy.iter().map(|remedy| format!("{:21} -> {}", "", one_line(remedy)));
    std::iter::once(found).chain(remedy).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_is_printed_above_its_remedy() {
        let finding = Finding {
            check: "git",
            severity: Severity::Problem,
            message: "git is not installed".into(),
            remedy: Some("install it".into()),
        };
        assert_eq!(
            lines(&finding),
            ["problem  git          git is not installed", "                      -> install it"]
        );
    }
}
