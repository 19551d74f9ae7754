//! `abide agent`: runs the environments of this host for a controller.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::exit::{CliError, CliExit};
use super::session::CliSession;
use crate::agent::AgentOptions;
use crate::model::container::Secret;

const EXAMPLES: &str = "\
Examples:
  ABIDE_TOKEN=abide_... abide agent --server https://ci.example.com
  abide agent --server https://ci.example.com --token-file /etc/abide-agent/token

The agent connects to the controller and runs the environments whose `host` is this agent. It keeps \
running them while the controller is unreachable. It opens one port, on 127.0.0.1: a registry for \
this host's Docker Engine. The folder DIR holds its record and the optional policy.toml, which sets \
what this host allows.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct AgentArgs {
    /// Read the agent's token from FILE instead of ABIDE_TOKEN
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Policy of this host, which limits what may run here [default: policy.toml in the folder, if it exists]
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// Port on 127.0.0.1 that serves the registry to this host's Docker Engine
    #[arg(long, value_name = "PORT", default_value_t = 5080)]
    registry_port: u16,
    /// How long to wait for the controller before healing containers without it
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = humantime::parse_duration)]
    alone_after: Duration,
    /// Interval of full checks without an event; for tests, which cannot wait longer
    #[arg(long, env = "ABIDE_RESYNC", value_name = "DURATION", default_value = "30s", hide = true)]
    #[arg(value_parser = humantime::parse_duration)]
    resync: Duration,
}

pub(crate) async fn run(args: &AgentArgs, session: &mut CliSession) -> Result<CliExit, CliError> {
    let server = session.server().ok_or_else(|| {
        CliError::Usage(
            "missing --server: give the URL of the controller, such as --server \
            https://ci.example.com"
                .to_owned(),
        )
    })?;
    let options = AgentOptions {
        folder: session.desired_state.clone(),
        server: server.to_owned(),
        token: token(args, session)?,
        token_file: args.token_file.clone(),
        ca: session.ca().map(Path::to_path_buf),
        policy: args.policy.clone(),
        registry_port: args.registry_port,
        resync: args.resync,
        engine: None,
        alone_after: args.alone_after,
    };
    (session.entry.agent)(session.verbosity, options).await.map_err(CliError::Service)?;
    Ok(CliExit::Done)
}

fn token(args: &AgentArgs, session: &CliSession) -> Result<Secret, CliError> {
    let Some(path) = &args.token_file else {
        return session.token().cloned().ok_or_else(|| {
            CliError::Usage(
                "missing token: set ABIDE_TOKEN or --token-file; `abide token create` on the controller \
                creates one"
                    .to_owned(),
            )
        });
    };
    let text = std::fs::read_to_string(path);
    let text = text.map_err(|source| CliError::Input { path: path.display().to_string(), source })?;
    Ok(Secret::new(text.trim()))
}
