//! `abide history`: lists the generations of an environment.

use super::exit::{CliError, CliExit};
use super::output::style;
use super::output::table::{Cell, TextTable};
use super::output::text::ago;
use super::session::{CliSession, Requirement};
use crate::model::desired::{Image, Origin, Outcome};
use crate::model::name::{CommitId, Digest, EnvironmentName};
use crate::model::time::Timestamp;
use crate::model::view::HistoryView;

const EXAMPLES: &str = "\
Examples:
  abide history prod
  abide history prod -o json

The newest generation comes first. To roll back to one: `abide rollback ENV --to GENERATION`.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct HistoryArgs {
    /// Environment whose generations to list
    environment: EnvironmentName,
}

pub(crate) async fn run(args: &HistoryArgs, session: &mut CliSession) -> Result<CliExit, CliError> {
    let client = session.client(Requirement::Reading).await?;
    let history = client.history(&args.environment).await?;
    session.show_list(&history, &format!("no history for {}", args.environment), table)?;
    Ok(CliExit::Done)
}

fn table(history: &[HistoryView], now: Timestamp, width: Option<usize>) -> String {
    let mut table =
        TextTable::new(["GENERATION", "WHEN", "ORIGIN", "BY", "REVISION", "IMAGE", "OUTCOME", "NOTE"]);
    for view in history {
        table.row([
            view.generation.to_string().into(),
            ago(now, view.at).into(),
            Cell::or_dash(view.origin.map(Origin::as_str)),
            Cell::or_dash(view.by.as_deref()),
            Cell::or_dash(view.revision.as_ref().map(CommitId::short)),
            Cell::or_dash(view.image.as_ref().and_then(Image::shown_digest).map(Digest::short)),
            Cell::styled(outcome(view.outcome.as_ref()), style::outcome(view.outcome.as_ref())),
            note(view).into(),
        ]);
    }
    table.render(width)
}

/// The word for the outcome of a generation.
pub(crate) fn outcome(outcome: Option<&Outcome>) -> &'static str {
    match outcome {
        Some(Outcome::Ready) => "ready",
        Some(Outcome::Failed(_)) => "failed",
        Some(Outcome::Superseded) => "superseded",
        None => "in progress",
    }
}

/// The reason of a failure comes first, because it matters more than the note.
fn note(view: &HistoryView) -> String {
    let why = match &view.outcome {
        Some(Outcome::Failed(why)) => Some(why.as_str()),
        Some(Outcome::Ready | Outcome::Superseded) | None => None,
    };
    why.into_iter().chain(view.note.as_deref()).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::tests::{NOW, generation};

    #[test]
    fn a_history_lists_the_newest_generation_first() {
        let mut failed = generation(5, "push");
        failed.outcome = Some(Outcome::Failed("it never answered".into()));
        failed.note = None;
        let text = table(&[failed, generation(4, "promotion")], NOW, None);
        let text = anstream::adapter::strip_str(&text).to_string();
        let expected = "\
GENERATION  WHEN    ORIGIN     BY     REVISION      IMAGE         OUTCOME  NOTE
5           3m ago  push       alice  5f0c5f0c5f0c  ab12ab12ab12  failed   it never answered
4           3m ago  promotion  alice  5f0c5f0c5f0c  ab12ab12ab12  ready    from test generation 4
";
        assert_eq!(text, expected);
    }
}
