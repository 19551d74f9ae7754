//! `abide canary`: decides about a new version that serves a part of the visitors.

use clap::ValueEnum;
use serde_json::json;

use super::exit::{CliError, CliExit};
use super::result;
use super::session::{CliSession, Requirement};
use crate::model::canary::CanaryDecision;
use crate::model::name::EnvironmentName;

const EXAMPLES: &str = "\
Examples:
  abide canary prod promote
  abide canary prod abort --reason \"the search is slow\"

`abide status ENVIRONMENT` shows the canary. `promote` lets it take over now. `abort` removes it, and its \
image is not tried again until someone names it with `abide set` or `abide promote`.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct CanaryArgs {
    /// Environment whose canary is decided about
    environment: EnvironmentName,
    /// Let the canary take over, or remove it
    #[arg(value_enum)]
    decision: Decision,
    /// Reason to record with the decision
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    #[command(flatten)]
    seen: result::SeenGeneration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Decision {
    Promote,
    Abort,
}

pub(crate) async fn run(args: &CanaryArgs, session: &mut CliSession) -> Result<CliExit, CliError> {
    let client = session.client(Requirement::Record).await?;
    let decision = match args.decision {
        Decision::Promote => CanaryDecision::Promote,
        Decision::Abort => CanaryDecision::Abort,
    };
    let mut request = json!({ "decision": decision });
    if let (Some(reason), Some(fields)) = (&args.reason, request.as_object_mut()) {
        fields.insert("reason".to_owned(), reason.as_str().into());
    }
    let moved = client.act(&args.environment, "canary", &args.seen.with(request)).await?;
    result::report(&mut session.console, &moved)?;
    Ok(CliExit::Done)
}
