//! `abide import`: replaces the record with an exported one.

use std::io::{self, Read as _};

use serde_json::Value;

use super::exit::{CliError, CliExit};
use super::session::{CliSession, Requirement};

const EXAMPLES: &str = "\
Examples:
  abide import record.json
  ssh old-host abide export | abide import -

Replaces the whole record. The controller then makes the containers match.";

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
    let export = read(&args.file)?;
    // Input that is not JSON is refused here, because here the error can name the file.
    let parsed: Result<serde::de::IgnoredAny, _> = serde_json::from_slice(&export);
    parsed.map_err(|error| CliError::Usage(format!("{} is not valid JSON: {error}", args.file)))?;
    let client = session.client(Requirement::Record).await?;
    let question = "Replace the whole record with the imported one?";
    // Standard input carries the record, so it cannot also carry an answer.
    if !args.yes && args.file != "-" && !session.console.agreed_on_a_terminal(question)? {
        return Err(CliError::No("nothing was imported".to_owned()));
    }
    let answer = client.import(export).await?;
    if session.console.is_json() {
        session.console.json(&answer)?;
    } else {
        session.console.data(&sentence(&answer))?;
    }
    Ok(CliExit::Done)
}

fn read(file: &str) -> Result<Vec<u8>, CliError> {
    if file != "-" {
        return std::fs::read(file).map_err(|source| CliError::Input { path: file.to_owned(), source });
    }
    let mut text = Vec::new();
    let read = io::stdin().lock().read_to_end(&mut text);
    read.map_err(|source| CliError::Input { path: "standard input".to_owned(), source })?;
    Ok(text)
}

fn sentence(answer: &Value) -> String {
    let message = answer.get("message").and_then(Value::as_str);
    super::output::text::one_line(message.unwrap_or("the record is imported"))
}
