//! `abide login`: a one-time link to the web page.

use super::exit::{CliError, CliExit};
use super::session::{CliSession, Requirement};

const EXAMPLES: &str = "\
Examples:
  abide login
  abide login -o json

Prints a link that signs in the first browser that opens it, with the rights of this user on the \
daemon's socket. It works once, within a minute; the session ends after 12 hours. From another \
machine, use the public URL, or forward the port first: ssh -L 8080:127.0.0.1:8080 HOST. Users \
without access to the socket sign in with a token: abide token create.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct LoginArgs {}

pub(crate) async fn run(_: &LoginArgs, session: &mut CliSession) -> Result<CliExit, CliError> {
    let client = session.client(Requirement::Daemon("login")).await?;
    let link = client.login_link().await?;
    let console = &mut session.console;
    if console.is_json() {
        console.json(&link)?;
        return Ok(CliExit::Done);
    }
    console.data(link.url.expose())?;
    if link.local_url != link.url {
        console.talk(&format!("or, on the daemon's host: {}", link.local_url.expose()));
    }
    console.talk(&format!("The link works once, within {} s.", link.valid_seconds));
    Ok(CliExit::Done)
}
