//! `abide promote`: moves an environment to exactly what another one runs healthy.

use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use super::client::Client;
use super::exit::{Exit, Failure};
use super::moved;
use super::output::style;
use super::output::table::{Cell, Table};
use super::session::{Need, Session};
use super::wait::{self, Goal, Verdict};
use crate::model::desired::Image;
use crate::model::name::{CommitId, Digest, EnvironmentName};
use crate::model::view::{EnvironmentView, Moved};

const EXAMPLES: &str = "\
Examples:
  abide promote test prod
  abide promote test prod --yes --wait
  abide promote test prod --digest sha256:9834876dcfb05cb167a5c24953eba58c4ac89b1adf57f28f2f9d09af107ee8f0

It shows what would move and asks. What you saw is what moves: where FROM runs something else by
then, it is refused.";

/// What to promote, and to where.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct PromoteArgs {
    /// The environment that runs it healthy
    from: EnvironmentName,
    /// The environment that shall run it
    to: EnvironmentName,
    /// The image that FROM must be running: its digest or its ID [default: what it runs now]
    #[arg(long)]
    digest: Option<Digest>,
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
    /// Wait until TO is Ready with it
    #[arg(long)]
    wait: bool,
    /// How long to wait at most, such as `90s` or `5m`
    #[arg(long, default_value = wait::DEFAULT_TIMEOUT, value_parser = humantime::parse_duration)]
    #[arg(value_name = "DURATION", requires = "wait")]
    timeout: Duration,
}

#[derive(Serialize)]
struct Request<'a> {
    from: &'a EnvironmentName,
    digest: &'a Digest,
}

/// Runs the verb.
pub(crate) async fn run(args: &PromoteArgs, session: &mut Session) -> Result<Exit, Failure> {
    let need = if args.wait { Need::Daemon("promote --wait") } else { Need::Record };
    let client = session.client(need).await?;
    let from = client.environment(&args.from).await?;
    let to = client.environment(&args.to).await?;
    let digest = digest(args, &from)?;
    session.console.talk_block(&comparison(&from, &to));
    if !args.yes && !agreed(args, &digest, session)? {
        return Err(Failure::No("nothing was moved".to_owned()));
    }
    let moved = client.act(&args.to, "promote", &Request { from: &args.from, digest: &digest }).await?;
    moved::report(&mut session.console, &moved)?;
    if args.wait { see_it_through(args, session, &client, digest, &moved).await } else { Ok(Exit::Done) }
}

/// The digest that is compared and set: the one that was typed, else the one that is shown.
fn digest(args: &PromoteArgs, from: &EnvironmentView) -> Result<Digest, Failure> {
    let shown = from.image.as_ref().and_then(Image::shown_digest);
    args.digest
        .clone()
        .or_else(|| shown.cloned())
        .ok_or_else(|| Failure::No(format!("{} has no image to promote: {}", from.environment, from.message)))
}

/// What stands where, side by side.
fn comparison(from: &EnvironmentView, to: &EnvironmentView) -> String {
    let mut table = Table::new(["", "ENVIRONMENT", "GEN", "STATUS", "REVISION", "IMAGE"]);
    for (side, view) in [("from", from), ("to", to)] {
        table.row([
            side.into(),
            view.environment.as_str().into(),
            view.generation.to_string().into(),
            Cell::styled(view.status.as_str(), style::condition(view.status)),
            Cell::or_dash(view.revision.as_ref().map(CommitId::short)),
            Cell::or_dash(view.image.as_ref().and_then(Image::shown_digest).map(Digest::short)),
        ]);
    }
    table.render(None)
}

fn agreed(args: &PromoteArgs, digest: &Digest, session: &mut Session) -> Result<bool, Failure> {
    if !session.console.screen().input_is_terminal {
        let advice = "there is no terminal to ask on; say --yes where that is what you want";
        return Err(Failure::Usage(advice.to_owned()));
    }
    let question = format!("Promote {} from {} to {}?", digest.short(), args.from, args.to);
    Ok(session.console.confirm(&question)?)
}

async fn see_it_through(
    args: &PromoteArgs,
    session: &mut Session,
    client: &Client,
    digest: Digest,
    moved: &Moved,
) -> Result<Exit, Failure> {
    let goal = Goal { digest: Some(digest), generation: Some(moved.generation) };
    let deadline = Instant::now() + args.timeout;
    let ended = wait::until_end(&mut session.console, client, &args.to, &goal, deadline).await?;
    if ended.verdict == Verdict::Reached {
        session.console.talk(&wait::headline(&ended.view));
    }
    ended.into_result()
}
