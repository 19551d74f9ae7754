//! `abide promote`: promotes the exact image of one healthy environment to another.

use std::collections::BTreeMap;

use serde::Serialize;

use super::exit::{CliError, CliExit};
use super::output::style;
use super::output::table::{Cell, TextTable};
use super::result;
use super::session::CliSession;
use super::wait::{Goal, SeeThrough};
use crate::model::desired::Image;
use crate::model::name::{CommitId, Digest, EnvironmentName, Generation};
use crate::model::view::{EnvironmentView, SeenGenerations};

const EXAMPLES: &str = "\
Examples:
  abide promote test prod
  abide promote shop-test shop-prod --wait
  abide promote test prod --yes --wait
  abide promote test prod --note \"for the fair\"

Shows the change and asks for confirmation. Promotes only the image shown: if FROM runs another \
image by then, the daemon refuses. It also refuses while a push to FROM is not processed yet, or a \
newer generation of FROM is in progress, unless --digest names the image. If a gate of TO is closed, \
it prints what the promotion waits for. An admin passes closed gates with --override and a reason, \
which is recorded.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct PromoteArgs {
    /// Environment or group to promote from; must be Ready
    from: EnvironmentName,
    /// Environment or group to promote to
    to: EnvironmentName,
    /// Image to promote, by digest or ID [default: the image that FROM runs, if FROM has nothing
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
    /// Refuse unless TO is still at this generation; for a group: MEMBER=GENERATION,...
    #[arg(long, value_name = "GENERATION")]
    seen: Option<SeenGenerations>,
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
    /// The generations of TO that the user saw; without them, the image that the question shows.
    #[serde(skip_serializing_if = "Option::is_none")]
    seen: Option<SeenPromotion<'a>>,
    /// That image, beside a generation.
    #[serde(skip_serializing_if = "Option::is_none")]
    image: Option<&'a Digest>,
    /// The images of the members of a group that the question shows.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    images: BTreeMap<&'a EnvironmentName, &'a Digest>,
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
enum SeenPromotion<'a> {
    Target(&'a SeenGenerations),
    Image(&'a Digest),
}

pub(crate) async fn run(args: &PromoteArgs, session: &mut CliSession) -> Result<CliExit, CliError> {
    let client = session.client(args.see.need("promote --wait")).await?;
    let source = client.overview_of(&args.from).await?;
    let is_group = source.groups.iter().any(|group| group.group.as_str() == args.from.as_str());
    let (from, to) = (source.environments, client.overview_of(&args.to).await?.environments);
    let image = if is_group { None } else { Some(digest(args, &from)?) };
    session.console.talk_block(&comparison(&from, &to));
    let question = match &image {
        Some(image) => format!("Promote {} from {} to {}?", image.short(), args.from, args.to),
        None => format!("Promote the group {} to {}?", args.from, args.to),
    };
    if !args.yes && !agreed(&question, session)? {
        return Err(CliError::No("nothing was changed".to_owned()));
    }
    let seen_image = image.as_ref().map(SeenPromotion::Image);
    let request = PromoteBody {
        from: &args.from,
        seen: args.seen.as_ref().map(SeenPromotion::Target).or(seen_image),
        image: image.as_ref().filter(|_| args.seen.is_some()),
        images: if is_group { shown_images(&from) } else { BTreeMap::new() },
        digest: args.digest.as_ref(),
        note: args.note.as_deref(),
        overrides: args.overrides,
        reason: args.reason.as_deref(),
    };
    let moved = client.act(&args.to, "promote", &request).await?;
    result::report(&mut session.console, &moved)?;
    let generation = args.generation.map_or(moved.generation, Generation);
    let goal = Goal { commit: args.commit.clone(), digest: image, generation: Some(generation), held: false };
    args.see.through(session, &client, &moved, &goal).await
}

/// The digest to compare and record: the argument if given, else the one that FROM runs.
fn digest(args: &PromoteArgs, from: &[EnvironmentView]) -> Result<Digest, CliError> {
    if let Some(digest) = &args.digest {
        return Ok(digest.clone());
    }
    let Some(from) = from.first() else {
        return Err(CliError::No(format!("cannot promote {}: its state is unknown", args.from)));
    };
    shown_image(from).cloned().ok_or_else(|| {
        CliError::No(format!(
            "cannot promote {}: its status is {}: {}",
            from.environment,
            from.status.as_str(),
            from.message
        ))
    })
}

/// The images that the members of a group run.
pub(crate) fn shown_images(from: &[EnvironmentView]) -> BTreeMap<&EnvironmentName, &Digest> {
    from.iter().filter_map(|view| Some((&view.environment, shown_image(view)?))).collect()
}

/// The image that an environment names, as it is shown.
pub(crate) fn shown_image(view: &EnvironmentView) -> Option<&Digest> {
    view.image.as_ref().and_then(Image::shown_digest)
}

/// The versions of both sides.
fn comparison(from: &[EnvironmentView], to: &[EnvironmentView]) -> String {
    let mut table = TextTable::new(["", "ENVIRONMENT", "GEN", "STATUS", "REVISION", "IMAGE"]);
    let sides = from.iter().map(|view| ("from", view)).chain(to.iter().map(|view| ("to", view)));
    for (side, view) in sides {
        table.row([
            side.into(),
            view.environment.as_str().into(),
            view.generation.to_string().into(),
            Cell::styled(view.status.as_str(), style::condition(view.status)),
            Cell::or_dash(view.revision.as_ref().map(CommitId::short)),
            Cell::or_dash(shown_image(view).map(Digest::short)),
        ]);
    }
    table.render(None)
}

fn agreed(question: &str, session: &mut CliSession) -> Result<bool, CliError> {
    if !session.console.screen().input_is_terminal {
        let advice = "cannot ask for confirmation without a terminal: pass --yes to promote anyway";
        return Err(CliError::Usage(advice.to_owned()));
    }
    Ok(session.console.confirm(question)?)
}
