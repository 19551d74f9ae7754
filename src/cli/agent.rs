//! `abide agent`: runs the loop of another host for a controller.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::exit::{Exit, Failure};
use super::session::Session;
use crate::agent::Options;
use crate::model::container::Secret;

const EXAMPLES: &str = "\
Examples:
  ABIDE_TOKEN=abide_... abide agent --server https://ci.example.com --desired-state /var/lib/abide-agent
  abide agent --server https://ci.example.com --token-file /etc/abide-agent/token

It dials out to the controller, runs the environments whose `host` is this agent, and goes on with them
while the controller is away. Nothing listens on this host but a registry for its own Docker Engine, on
127.0.0.1. The folder holds its record and, where there is one, policy.toml: what this host allows.";

/// How to run the agent.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct AgentArgs {
    /// The file of the agent's token, in place of ABIDE_TOKEN
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// What this host allows [default: policy.toml in the folder, where there is one]
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// Where this host's Docker Engine finds the registry, on 127.0.0.1
    #[arg(long, value_name = "PORT", default_value_t = 5080)]
    registry_port: u16,
    /// How often everything is looked at even if nothing rang. For tests, which cannot wait that long
    #[arg(long, env = "ABIDE_RESYNC", value_name = "DURATION", default_value = "30s", hide = true)]
    #[arg(value_parser = humantime::parse_duration)]
    resync: Duration,
}

/// Runs the verb.
pub(crate) async fn run(args: &AgentArgs, session: &mut Session) -> Result<Exit, Failure> {
    let server = session.server().ok_or_else(|| {
        Failure::Usage("which controller? Give --server, such as --server https://ci.example.com".to_owned())
    })?;
    let options = Options {
        folder: session.desired_state.clone(),
        server: server.to_owned(),
        token: token(args, session)?,
        token_file: args.token_file.clone(),
        ca: session.ca().map(Path::to_path_buf),
        policy: args.policy.clone(),
        registry_port: args.registry_port,
        resync: args.resync,
        engine: None,
    };
    (session.entry.agent)(session.verbosity, options).await.map_err(Failure::Service)?;
    Ok(Exit::Done)
}

fn token(args: &AgentArgs, session: &Session) -> Result<Secret, Failure> {
    let Some(path) = &args.token_file else {
        return session.token().cloned().ok_or_else(|| {
            Failure::Usage(
                "which agent is this? Give its token in ABIDE_TOKEN or --token-file; `abide token create` on the \
                 controller makes one"
                    .to_owned(),
            )
        });
    };
    let text = std::fs::read_to_string(path);
    let text = text.map_err(|source| Failure::Input { path: path.display().to_string(), source })?;
    Ok(Secret::new(text.trim()))
}
