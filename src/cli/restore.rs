//! `abide restore`: puts the content of an archive of a backup job into its volume.

use super::attach::attach;
use super::exit::{CliError, CliExit};
use super::session::{CliSession, Requirement};
use crate::model::attach::AttachedCommand;
use crate::model::backup::ArchiveName;
use crate::model::job::{JobResult, JobView};
use crate::model::name::JobName;

const EXAMPLES: &str = "\
Examples:
  abide restore nightly
  abide restore nightly prod-nightly-2026-11-29T030000Z.tar --yes

Stops the environment's container meanwhile. First writes the current content of the volume into \
another archive in the same folder. `abide jobs history JOB` lists the archives of a job. Exits with \
the exit code of the restore, or with 255 if it was not started or the session was cut off. Tokens \
need the role `runner` or `admin`.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct RestoreArgs {
    /// Job with a `backup`, as `abide jobs` lists it
    job: JobName,
    /// Archive in the folder of the job [default: the newest one in its history]
    archive: Option<ArchiveName>,
    /// Do not ask for confirmation
    #[arg(short, long)]
    yes: bool,
}

pub(crate) async fn run(args: &RestoreArgs, session: &mut CliSession) -> Result<CliExit, CliError> {
    let view = session.client(Requirement::Daemon("restore")).await?.job(&args.job).await?;
    let Some(archive) = args.archive.clone().or_else(|| newest(&view)) else {
        let job = &args.job;
        return Err(CliError::Usage(format!(
            "the history of {job} has no archive: name one of its folder, as in `abide restore {job} ARCHIVE`"
        )));
    };
    if !args.yes {
        let question = format!(
            "Stop {} and replace the content of the volume by {}?",
            view.environment,
            archive.as_str()
        );
        if !session.console.screen().input_is_terminal {
            let advice = "cannot ask for confirmation without a terminal: pass --yes to restore anyway";
            return Err(CliError::Usage(advice.to_owned()));
        }
        if !session.console.confirm(&question)? {
            session.console.talk("nothing was restored");
            return Ok(CliExit::No);
        }
    }
    let command = AttachedCommand::Job { job: args.job.clone(), restore: Some(archive) };
    attach(session, "restore", &view.environment, command, true).await
}

/// The archive of the last backup that succeeded.
fn newest(view: &JobView) -> Option<ArchiveName> {
    let mut backups = view.runs.iter().filter(|run| run.result == JobResult::Succeeded && !run.restore);
    backups.find_map(|run| run.archive.clone())
}
