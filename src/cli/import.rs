//! `abide import`: replaces the record with an exported one.

use std::fs::File;
use std::io::{self, BufReader, Seek as _};

use axum::body::Body;
use serde_json::Value;
use tokio_util::io::ReaderStream;

use super::exit::{CliError, CliExit};
use super::session::{CliSession, Requirement};
use crate::model::reading;

const EXAMPLES: &str = "\
Examples:
  abide import record.json
  ssh old-host abide export | abide import -

Replaces the whole record. The controller then makes the containers match.";

/// The length of a part of the request, in bytes.
const PART: usize = 64 << 10;

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct ImportArgs {
    /// File that `abide export` wrote, or `-` for standard input
    file: String,
    /// Do not ask for confirmation
    #[arg(short, long)]
    yes: bool,
}

pub(crate) async fn run(args: &ImportArgs, session: &mut CliSession) -> Result<CliExit, CliError> {
    let export = opened(&args.file)?;
    let client = session.client(Requirement::Record).await?;
    let question = "Replace the whole record with the imported one?";
    // Standard input carries the record, so it cannot also carry an answer.
    if !args.yes && args.file != "-" && !session.console.agreed_on_a_terminal(question)? {
        return Err(CliError::No("nothing was imported".to_owned()));
    }
    let export = ReaderStream::with_capacity(tokio::fs::File::from_std(export), PART);
    let answer = client.import(Body::from_stream(export)).await?;
    session.show(&answer, |answer, _, _| sentence(answer))?;
    Ok(CliExit::Done)
}

/// Opens the export, which stays on the disk: it may be larger than the memory.
fn opened(file: &str) -> Result<File, CliError> {
    let (path, found) = match file {
        "-" => ("standard input", spooled()),
        file => (file, File::open(file)),
    };
    let failed = |source| CliError::Input { path: path.to_owned(), source };
    let mut export = found.map_err(failed)?;
    // Input that is not JSON is refused here, because here the error can name the file. A copy of the backup
    // file has lines after the export, which the daemon checks.
    let mut documents = serde_json::Deserializer::from_reader(BufReader::new(&export)).into_iter();
    match documents.next() {
        Some(Ok(serde::de::IgnoredAny)) => {}
        Some(Err(error)) => return Err(CliError::Usage(unusable(path, &reading::words(&error)))),
        None => return Err(CliError::Usage(unusable(path, "it is empty"))),
    }
    export.rewind().map_err(failed)?;
    Ok(export)
}

fn unusable(path: &str, problem: &str) -> String {
    format!("{path} is not an export: {problem}. `abide export > FILE` writes one")
}

/// Standard input can be read only once, so it goes to a file.
fn spooled() -> io::Result<File> {
    let mut file = tempfile::tempfile()?;
    io::copy(&mut io::stdin().lock(), &mut file)?;
    file.rewind()?;
    Ok(file)
}

fn sentence(answer: &Value) -> String {
    let message = answer.get("message").and_then(Value::as_str);
    super::output::text::one_line(message.unwrap_or("the record is imported"))
}
