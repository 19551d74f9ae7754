//! `abide maintenance`: the proxy answers for an environment.

use clap::ValueEnum;
use serde_json::json;

use super::exit::{CliError, CliExit};
use super::result;
use super::session::{CliSession, Requirement};
use crate::model::name::EnvironmentName;

const EXAMPLES: &str = "\
Examples:
  abide maintenance prod on
  abide maintenance prod on --reason \"database upgrade until 14:00\"
  abide maintenance prod off

The proxy answers 503 with `Retry-After`, or with the page that `error_pages` declares for 503. The \
container keeps running, and abide still applies updates and renews certificates.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct MaintenanceArgs {
    /// Environment whose requests the proxy answers
    environment: EnvironmentName,
    /// Start or end maintenance
    #[arg(value_enum)]
    switch: Switch,
    /// Reason to record with the change
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    #[command(flatten)]
    seen: result::SeenGeneration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Switch {
    On,
    Off,
}

pub(crate) async fn run(args: &MaintenanceArgs, session: &mut CliSession) -> Result<CliExit, CliError> {
    let client = session.client(Requirement::Record).await?;
    let mut request = json!({ "on": args.switch == Switch::On });
    if let (Some(reason), Some(fields)) = (&args.reason, request.as_object_mut()) {
        fields.insert("reason".to_owned(), reason.as_str().into());
    }
    let moved = client.act(&args.environment, "maintenance", &args.seen.with(request)).await?;
    result::report(&mut session.console, &moved)?;
    Ok(CliExit::Done)
}
