//! `abide token`: creates, lists and revokes tokens.

use serde_json::json;

use super::exit::{CliError, CliExit};
use super::output::style;
use super::output::table::{Cell, TextTable};
use super::output::text::ago;
use super::session::{CliSession, Requirement};
use crate::model::access::Token;
use crate::model::credential::Credential;
use crate::model::name::{AgentName, EnvironmentName, TokenName};
use crate::model::time::Timestamp;
use crate::model::view::IssuedToken;

const EXAMPLES: &str = "\
Examples:
  abide token create --agent online
  abide token create --role deployer --environment dev,test --expires 90d ci
  abide token list
  abide token revoke ci

A token is printed once; only its hash is stored. Pass it in ABIDE_TOKEN or a file (--token-file), \
never on a command line. If the server created its own certificate, the token ends with a pin: a dot \
and the SHA-256 of the server's public key. A client then accepts only that server.

Roles: a viewer reads; a deployer also changes the listed environments; a tester also approves and \
rejects the images of the listed environments; a runner also runs commands in the containers of the \
listed environments; an admin may do everything; an agent runs the environments that the manifest \
assigns to its host.";

const CREATE_EXAMPLES: &str = "\
Examples:
  abide token create --agent online > online.token
  abide token create --role viewer --expires 30d dashboard
  abide token create --role deployer --environment dev,test ci
  abide token create --role tester --environment test anna";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct TokenArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Create a token and print it once
    Create(CreateArgs),
    /// List valid tokens, and those that expired or were revoked recently
    List,
    /// Revoke a token immediately and close its open connections
    Revoke {
        /// ID of the token, or the name of a valid one
        #[arg(value_name = "ID", value_parser = which)]
        token: String,
    },
}

#[derive(Debug, clap::Args)]
#[command(after_help = CREATE_EXAMPLES)]
#[command(group = clap::ArgGroup::new("what").required(true).args(["agent", "role"]))]
struct CreateArgs {
    /// Name of the token [default with --agent: the name of the agent]
    #[arg(required_unless_present = "agent")]
    name: Option<TokenName>,
    /// Create a token for the agent with this name (`host` in the manifest)
    #[arg(long, value_name = "NAME")]
    agent: Option<AgentName>,
    /// Role of a user or program
    #[arg(long)]
    role: Option<RoleArg>,
    /// Environments that a deployer may change, whose images a tester may approve, or in whose
    /// containers a runner may run commands
    #[arg(long, value_name = "ENV", value_delimiter = ',', conflicts_with = "agent")]
    #[arg(required_if_eq_any([("role", "deployer"), ("role", "tester"), ("role", "runner")]))]
    environment: Vec<EnvironmentName>,
    /// Token lifetime, such as 90d [default: until revoked]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    expires: Option<String>,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum RoleArg {
    Viewer,
    Deployer,
    Tester,
    Runner,
    Admin,
}

impl RoleArg {
    fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Deployer => "deployer",
            Self::Tester => "tester",
            Self::Runner => "runner",
            Self::Admin => "admin",
        }
    }
}

/// A complete token is accepted as well, and identifies itself.
fn which(text: &str) -> Result<String, String> {
    if let Some(credential) = Credential::parse(text) {
        return Ok(credential.id().to_string());
    }
    TokenName::new(text).map(String::from).map_err(|error| error.to_string())
}

/// Only validates: the daemon computes the end by its own clock.
fn duration(text: &str) -> Result<String, humantime::DurationError> {
    humantime::parse_duration(text).map(|_| text.to_owned())
}

pub(crate) async fn run(args: &TokenArgs, session: &mut CliSession) -> Result<CliExit, CliError> {
    match &args.command {
        Command::Create(args) => create(args, session).await,
        Command::List => list(session).await,
        Command::Revoke { token } => revoke(token, session).await,
    }
}

async fn create(args: &CreateArgs, session: &mut CliSession) -> Result<CliExit, CliError> {
    let role = args.role.map_or("agent", RoleArg::as_str);
    let wanted = json!({
        "name": args.name,
        "role": role,
        "agent": args.agent,
        "environments": args.environment,
        "expires": args.expires,
    });
    let client = session.client(Requirement::Record).await?;
    let issued = client.create_token(&wanted).await?;
    if session.console.is_json() {
        session.console.json(&issued)?;
    } else {
        session.console.talk(&summary(&issued));
        session.console.data(issued.token.expose())?;
        // A terminal shows the token anyway; a redirected token must not appear in the terminal too.
        if args.agent.is_some() && session.console.screen().output_is_terminal {
            let line = start_of_agent(issued.token.expose(), session.server());
            session.console.talk_block(&format!("\nPaste this on the agent's host, as root:\n{line}"));
        }
    }
    Ok(CliExit::Done)
}

/// The command that stores the token on the agent's host and starts the agent of the package.
fn start_of_agent(token: &str, server: Option<&str>) -> String {
    let server = server.filter(|server| server.starts_with("http")).unwrap_or("https://CONTROLLER:8443");
    format!(
        "printf '%s\\n' '{token}' | install -o abide -m 0400 /dev/stdin /etc/abide-agent/token &&\n  \
         echo 'ABIDE_SERVER={server}' > /etc/abide-agent/settings &&\n  \
         systemctl enable --now abide-agent"
    )
}

/// The summary for the user; the token itself does not show its role or lifetime.
fn summary(issued: &IssuedToken) -> String {
    let Token { id, name, role, expires, .. } = &issued.about;
    let until = expires.map_or_else(|| "revoked".to_owned(), |expires| expires.to_string());
    let pin = Credential::parse(issued.token.expose()).and_then(|credential| credential.pin());
    let known = if pin.is_some() {
        "the token pins the server's key"
    } else {
        "the token has no pin: clients verify the server's certificate with a certificate authority"
    };
    format!("token {name} ({id}): {role}; valid until {until}; {known}. It is shown only once:")
}

async fn list(session: &mut CliSession) -> Result<CliExit, CliError> {
    let client = session.client(Requirement::Reading).await?;
    let tokens = client.tokens().await?;
    session.show_list(&tokens, "there are no tokens: `abide token create` creates one", table)?;
    Ok(CliExit::Done)
}

async fn revoke(which: &str, session: &mut CliSession) -> Result<CliExit, CliError> {
    let client = session.client(Requirement::Record).await?;
    let token = client.revoke_token(which).await?;
    session.show(&token, |token, _, _| format!("token {} ({}) is revoked", token.name, token.id))?;
    Ok(CliExit::Done)
}

fn table(tokens: &[Token], now: Timestamp, width: Option<usize>) -> String {
    let mut table = TextTable::new(["ID", "NAME", "STATE", "USED", "EXPIRES", "MADE", "BY", "ROLE"]);
    for token in tokens {
        let (state, colour) = state(token, now);
        table.row([
            token.id.as_str().into(),
            token.name.as_str().into(),
            Cell::styled(&state, colour),
            token.used.map_or_else(|| "never".to_owned(), |used| ago(now, used)).into(),
            Cell::or_dash(token.expires.map(day)),
            ago(now, token.created.at).into(),
            token.created.by.as_str().into(),
            token.role.to_string().into(),
        ]);
    }
    table.render(width)
}

fn state(token: &Token, now: Timestamp) -> (String, anstyle::Style) {
    match &token.revoked {
        Some(revocation) => (format!("revoked by {}", revocation.by), style::DIM),
        None if token.is_in_force(now) => ("valid".to_owned(), anstyle::Style::new()),
        None => ("expired".to_owned(), style::DIM),
    }
}

/// A list needs only the date.
fn day(moment: Timestamp) -> String {
    moment.to_string().chars().take(10).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::tests::NOW;
    use crate::model::access::{AuditStamp, Role};
    use crate::model::name::TokenId;
    use std::time::Duration;

    #[test]
    fn the_installation_guide_contains_the_agent_command() {
        let guide = include_str!("../../docs/install.md");
        assert!(guide.contains(&start_of_agent("abide_...", None)));
    }

    fn token(name: &str, role: Role) -> Token {
        Token {
            id: TokenId::new("0123456789ab").unwrap(),
            name: TokenName::new(name).unwrap(),
            role,
            created: AuditStamp { at: NOW, by: "alice".into() },
            expires: None,
            used: None,
            revoked: None,
        }
    }

    #[test]
    fn the_agent_command_names_the_queried_controller() {
        let line = start_of_agent("abide_0123", Some("https://ci.example.com:8443"));
        assert!(line.starts_with("printf '%s\\n' 'abide_0123' | install -o abide -m 0400 "), "{line}");
        assert!(line.contains("echo 'ABIDE_SERVER=https://ci.example.com:8443' > "), "{line}");
        let line = start_of_agent("abide_0123", Some("unix:/etc/abide/abide.sock"));
        assert!(line.contains("https://CONTROLLER:8443"), "another host cannot reach a socket: {line}");
    }

    #[test]
    fn the_token_list_shows_valid_expired_and_revoked_tokens() {
        let environments = ["dev", "test"].map(|name| EnvironmentName::new(name).unwrap()).into();
        let mut ci = token("ci", Role::Deployer { environments });
        ci.expires = Some(NOW.after(Duration::from_secs(86_400)));
        let mut old = token("old", Role::Viewer);
        old.expires = Some(NOW);
        let mut gone = token("online", Role::Agent { agent: AgentName::new("online").unwrap() });
        gone.revoked = Some(AuditStamp { at: NOW, by: "token ops (192.0.2.7)".into() });
        gone.used = Some(NOW);
        let text = table(&[ci.clone(), old, gone], NOW, None);
        let text = anstream::adapter::strip_str(&text).to_string();
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].starts_with("ID            NAME    STATE"), "{text}");
        assert!(lines[1].contains("valid") && lines[1].ends_with("deployer of dev, test"), "{text}");
        assert!(lines[1].contains(&day(ci.expires.unwrap())) && lines[1].contains("never"), "{text}");
        assert!(lines[2].contains("expired") && lines[2].ends_with("viewer"), "{text}");
        assert!(lines[3].contains("revoked by token ops (192.0.2.7)"), "{text}");
    }

    #[test]
    fn a_complete_token_is_referred_to_by_its_id() {
        let credential = Credential::new(TokenId::new("0123456789ab").unwrap(), [7; 32]);
        assert_eq!(which(credential.text().expose()), Ok("0123456789ab".to_owned()));
        assert_eq!(which("ci"), Ok("ci".to_owned()));
        assert!(which("../x").is_err());
    }
}
