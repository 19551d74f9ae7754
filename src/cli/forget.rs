//! `abide forget`: removes an environment that left the manifest, or what a declared one left on other hosts.

use std::time::Duration;

use serde_json::json;
use tokio::time::{Instant, sleep};

use super::client::{ApiClient, ClientError};
use super::exit::{CliError, CliExit};
use super::result;
use super::session::{CliSession, Requirement};
use crate::model::name::EnvironmentName;

const EXAMPLES: &str = "\
Examples:
  abide forget old-site
  abide forget old-site --stop --yes

First remove the environment from the manifest. This command removes its record, history and events; \
it keeps and lists the volumes. If the environment has a container, --stop is required.

If the environment moved to another host and is still in the manifest, --stop removes only the \
containers that it left on its previous hosts. If the agent of such a host is \
disconnected, it removes them when it connects.";

/// Timeout for the daemon to stop and remove a container.
const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(200);
/// The end of the clause about a host that is cleared later.
const UNTIL_CONNECTED: &str = "is connected";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct ForgetArgs {
    /// Environment to forget
    environment: EnvironmentName,
    /// Stop and remove its container first
    #[arg(long)]
    stop: bool,
    #[command(flatten)]
    seen: result::SeenGeneration,
    /// Do not ask for confirmation
    #[arg(short, long)]
    yes: bool,
}

pub(crate) async fn run(args: &ForgetArgs, session: &mut CliSession) -> Result<CliExit, CliError> {
    let client = session.client(Requirement::Record).await?;
    let name = &args.environment;
    let is_declared = client.environment(name).await.is_ok_and(|view| view.container.is_some());
    let what = match (is_declared, args.stop) {
        (true, _) => format!("the containers that {name} left on other hosts"),
        (false, true) => format!("container, record and history of {name}"),
        (false, false) => format!("record and history of {name}"),
    };
    if !args.yes && !session.console.agreed_on_a_terminal(&format!("Remove {what}?"))? {
        return Err(CliError::No("nothing was removed".to_owned()));
    }
    let moved = client.act(name, "forget", &args.seen.with(json!({ "stop": args.stop }))).await?;
    if client.overview().await?.daemon {
        until_gone(&client, name).await?;
    }
    result::report(&mut session.console, &moved)?;
    Ok(CliExit::Done)
}

async fn until_gone(client: &ApiClient, name: &EnvironmentName) -> Result<(), CliError> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match client.environment(name).await {
            Err(ClientError::Refused { status: 404, .. }) => return Ok(()),
            Err(error) => return Err(error.into()),
            // A declared environment stays.
            Ok(view) if view.container.is_some() && view.forgetting.is_empty() => return Ok(()),
            Ok(view) if view.forgetting.iter().any(|what| what.ends_with(UNTIL_CONNECTED)) => {
                return Err(CliError::No(format!("not removed yet: {}", view.forgetting.join("; "))));
            }
            Ok(_) if Instant::now() > deadline => {
                let why = format!("{name} is not removed yet: `abide events {name}` shows why");
                return Err(CliError::No(why));
            }
            Ok(_) => sleep(PAUSE).await,
        }
    }
}
