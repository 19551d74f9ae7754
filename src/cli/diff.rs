//! `abide diff`: lists the steps of the current plan.

use super::client::{ApiClient, ClientError};
use super::exit::{CliError, CliExit};
use super::output::style::{BOLD, paint};
use super::output::text::one_line;
use super::session::{CliSession, Requirement};
use crate::model::name::EnvironmentName;
use crate::model::view::PlanView;

const EXAMPLES: &str = "\
Examples:
  abide diff
  abide diff prod

Exits with 0 if the containers match the record and the manifest, and with 1 if anything differs: \
also if a build failed, a push is not processed yet, or a hold keeps another version. A replaced \
container that is not removed yet does not count as a difference. Changes nothing.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct DiffArgs {
    /// Environment to compare [default: all]
    environment: Option<EnvironmentName>,
}

pub(crate) async fn run(args: &DiffArgs, session: &mut CliSession) -> Result<CliExit, CliError> {
    let client = session.client(Requirement::Daemon("diff")).await?;
    let plans = plans(&client, args.environment.as_ref()).await?;
    session.show(&plans, |plans, _, _| plans.iter().map(render).collect())?;
    Ok(if plans.iter().all(is_as_recorded) { CliExit::Done } else { CliExit::No })
}

async fn plans(client: &ApiClient, only: Option<&EnvironmentName>) -> Result<Vec<PlanView>, ClientError> {
    if let Some(environment) = only {
        return Ok(vec![client.plan(environment).await?]);
    }
    let mut plans = Vec::new();
    for view in client.overview().await?.environments {
        plans.push(client.plan(&view.environment).await?);
    }
    Ok(plans)
}

/// A difference counts even if no step can remove it.
fn is_as_recorded(plan: &PlanView) -> bool {
    !plan.differs && plan.differences.is_empty() && plan.steps.is_empty()
}

fn render(plan: &PlanView) -> String {
    let message = one_line(&plan.message);
    let message = match message.as_str() {
        "" if is_as_recorded(plan) => "nothing to do",
        message => message,
    };
    let mut text = format!("{}  {message}\n", paint(BOLD, plan.environment.as_str()));
    for difference in &plan.differences {
        text.push_str(&format!("  differs: {}\n", one_line(difference)));
    }
    for step in plan.steps.iter().chain(&plan.upkeep) {
        text.push_str(&format!("  would:   {}\n", one_line(step)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(differences: &[&str], steps: &[&str], message: &str) -> PlanView {
        let owned = |texts: &[&str]| texts.iter().map(ToString::to_string).collect();
        PlanView {
            environment: EnvironmentName::new("dev").unwrap(),
            differences: owned(differences),
            upkeep: Vec::new(),
            steps: owned(steps),
            message: message.into(),
            differs: false,
        }
    }

    #[test]
    fn a_plan_reads_as_differences_and_steps() {
        let text = render(&plan(&["the image is a, not b"], &["replace dev-server"], "one step"));
        let text = anstream::adapter::strip_str(&text).to_string();
        assert_eq!(text, "dev  one step\n  differs: the image is a, not b\n  would:   replace dev-server\n");
    }

    #[test]
    fn only_a_plan_without_differences_or_steps_is_as_recorded() {
        assert!(is_as_recorded(&plan(&[], &[], "as recorded")));
        assert!(!is_as_recorded(&plan(&["the name is taken"], &[], "blocked")));
        assert!(!is_as_recorded(&plan(&[], &["build"], "")));
        assert!(!is_as_recorded(&PlanView { differs: true, ..plan(&[], &[], "") }));
        let upkeep = vec!["remove container c0ffee: it was replaced".to_owned()];
        let replaced = PlanView { upkeep, ..plan(&[], &[], "") };
        assert!(is_as_recorded(&replaced) && render(&replaced).contains("would:   remove container c0ffee"));
    }
}
