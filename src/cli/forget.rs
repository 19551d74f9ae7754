//! `abide forget`: removes an environment that left the manifest.

use std::time::Duration;

use serde_json::json;
use tokio::time::{Instant, sleep};

use super::client::{Client, ClientError};
use super::exit::{Exit, Failure};
use super::moved;
use super::session::{Need, Session};
use crate::model::name::EnvironmentName;

const EXAMPLES: &str = "\
Examples:
  abide forget old-site
  abide forget old-site --stop --yes

First remove the environment from the manifest. This command removes its record, history and
events; it keeps and lists the volumes. If the environment has a container, --stop is required.";

/// Timeout for the daemon to stop and remove a container.
const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(200);

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct ForgetArgs {
    /// Environment to forget
    environment: EnvironmentName,
    /// Stop and remove its container first
    #[arg(long)]
    stop: bool,
    /// Do not ask for confirmation
    #[arg(short, long)]
    yes: bool,
}

pub(crate) async fn run(args: &ForgetArgs, session: &mut Session) -> Result<Exit, Failure> {
    let client = session.client(Need::Record).await?;
    let name = &args.environment;
    let what = if args.stop { "container, record and history" } else { "record and history" };
    if !args.yes && !session.console.agreed_on_a_terminal(&format!("Remove {what} of {name}?"))? {
        return Err(Failure::No("nothing was removed".to_owned()));
    }
    let moved = client.act(name, "forget", &json!({ "stop": args.stop })).await?;
    if client.overview().await?.daemon {
        until_gone(&client, name).await?;
    }
    moved::report(&mut session.console, &moved)?;
    Ok(Exit::Done)
}

async fn until_gone(client: &Client, name: &EnvironmentName) -> Result<(), Failure> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match client.environment(name).await {
            Err(ClientError::Refused { status: 404, .. }) => return Ok(()),
            Err(error) => return Err(error.into()),
            Ok(_) if Instant::now() > deadline => {
                let why = format!("{name} is not removed yet: `abide events {name}` shows why");
                return Err(Failure::No(why));
            }
            Ok(_) => sleep(PAUSE).await,
        }
    }
}
