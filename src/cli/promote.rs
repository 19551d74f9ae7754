//! `abide promote`: records for one environment the exact image that another runs healthy.

use serde::Serialize;

use super::exit::{CliError, CliExit};
use super::moved;
use super::output::style;
use super::output::table::{Cell, TextTable};
use super::session::CliSession;
use super::wait::{Goal, SeeThrough};
use crate::model::desired::Image;
use crate::model::name::{CommitId, Digest, EnvironmentName, Generation};
use crate::model::view::EnvironmentView;

const EXAMPLES: &str = "\
Examples:
  abide promote test prod
  abide promote test prod --yes --wait
  abide promote test prod --note \"for the fair\"
  abide promote test prod --digest sha256:9834876dcfb05cb167a5c24953eba58c4ac89b1adf57f28f2f9d09af107ee8f0

Shows the change and asks for confirmation. Promotes only the image shown: if FROM runs another
image by then, the daemon refuses. It also refuses while a push to FROM is not processed yet, or a
newer generation of FROM is in progress, unless --digest names the image. If a gate of TO is closed,
it prints what the promotion waits for. An admin passes closed gates with --override and a reason,
which is recorded.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct PromoteArgs {
    /// Environment to promote from; must be Ready
    from: EnvironmentName,
    /// Environment to promote to
    to: EnvironmentName,
    /// Image to promote, by digest or ID [default: the one that FROM runs, if FROM has nothing
    /// newer pending]
    #[arg(long)]
    digest: Option<Digest>,
    /// Note to record with the change
    #[arg(long, value_name = "TEXT")]
    note: Option<String>,
    /// Pass closed gates; for admins, with --reason
    #[arg(long = "override", requires = "reason")]
    overrides: bool,
    /// Reason to record for passing the gates
    #[arg(long, value_name = "TEXT", requires = "overrides")]
    reason: Option<String>,
    /// Refuse unless TO is still at this generation
    #[arg(long, value_name = "GENERATION")]
    seen: Option<u64>,
    /// Do not ask for confirmation
    #[arg(short, long)]
    yes: bool,
    #[command(flatten)]
    see: SeeThrough,
    /// With --wait: wait for this commit, or a later one that contains it
    #[arg(long, value_name = "SHA", requires = "wait")]
    commit: Option<CommitId>,
    /// With --wait: wait for this generation of TO [default: the one that this creates]
    #[arg(long, requires = "wait")]
    generation: Option<u64>,
}

#[derive(Serialize)]
struct PromoteBody<'a> {
    from: &'a EnvironmentName,
    /// The generation of TO that the user looked at; without one, the image that the question shows.
    seen: Seen<'a>,
    /// That image, beside a generation.
    #[serde(skip_serializing_if = "Option::is_none")]
    image: Option<&'a Digest>,
    #[serde(skip_serializing_if = "Option::is_none")]
    digest: Option<&'a Digest>,
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<&'a str>,
    #[serde(rename = "override", skip_serializing_if = "std::ops::Not::not")]
    overrides: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Seen<'a> {
    Target(u64),
    Image(&'a Digest),
}

pub(crate) async fn run(args: &PromoteArgs, session: &mut CliSession) -> Result<CliExit, CliError> {
    let client = session.client(args.see.need("promote --wait")).await?;
    let from = client.environment(&args.from).await?;
    let to = client.environment(&args.to).await?;
    let seen = digest(args, &from)?;
    session.console.talk_block(&comparison(&from, &to));
    if !args.yes && !agreed(args, &seen, session)? {
        return Err(CliError::No("nothing was changed".to_owned()));
    }
    let request = PromoteBody {
        from: &args.from,
        seen: args.seen.map_or(Seen::Image(&seen), Seen::Target),
        image: args.seen.map(|_| &seen),
        digest: args.digest.as_ref(),
        note: args.note.as_deref(),
        overrides: args.overrides,
        reason: args.reason.as_deref(),
    };
    let moved = client.act(&args.to, "promote", &request).await?;
    moved::report(&mut session.console, &moved)?;
    let generation = args.generation.map_or(moved.generation, Generation);
    let (commit, digest) = (args.commit.clone(), Some(seen));
    let goal = Goal { commit, digest, generation: Some(generation), held: false };
    args.see.to(session, &client, &args.to, &goal).await
}

/// The digest to compare and record: the argument if given, else the one that FROM runs.
fn digest(args: &PromoteArgs, from: &EnvironmentView) -> Result<Digest, CliError> {
    let shown = from.image.as_ref().and_then(Image::shown_digest);
    args.digest.clone().or_else(|| shown.cloned()).ok_or_else(|| {
        CliError::No(format!("{} has no image to promote: {}", from.environment, from.message))
    })
}

/// The versions of both environments, side by side.
fn comparison(from: &EnvironmentView, to: &EnvironmentView) -> String {
    let mut table = TextTable::new(["", "ENVIRONMENT", "GEN", "STATUS", "REVISION", "IMAGE"]);
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

fn agreed(args: &PromoteArgs, digest: &Digest, session: &mut CliSession) -> Result<bool, CliError> {
    if !session.console.screen().input_is_terminal {
        let advice = "cannot ask for confirmation without a terminal: pass --yes to promote anyway";
        return Err(CliError::Usage(advice.to_owned()));
    }
    let question = format!("Promote {} from {} to {}?", digest.short(), args.from, args.to);
    Ok(session.console.confirm(&question)?)
}
