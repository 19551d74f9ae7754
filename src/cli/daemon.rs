//! `abide daemon`: runs the controller.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::exit::{Exit, Failure};
use super::session::Session;
use crate::daemon::{Encryption, Options};
use crate::tls::identity::Files;

const EXAMPLES: &str = "\
Examples:
  abide daemon
  abide daemon --listen 0.0.0.0:443 --tls-certificate fullchain.pem --tls-key privkey.pem
  abide daemon --desired-state /etc/abide --listen 0.0.0.0:8443

It serves webhooks, the API for those with a token, and agents on the address, and the verbs of local
people on the socket in the desired-state folder. On an address that others can reach it speaks TLS:
with the given certificate, or with one that it makes at its first start in DIR/tls, which
`abide token create` then pins.
SIGTERM and Ctrl-C end it; the containers go on running.";

/// How to run the controller.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct DaemonArgs {
    /// The address and port of webhooks, the API and agents
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// Speak TLS with this certificate (PEM, with those between it and the authority). Read anew when it changes
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_certificate: Option<PathBuf>,
    /// The key of the certificate (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_certificate")]
    tls_key: Option<PathBuf>,
    /// Speak plain HTTP on an address that others can reach: where something in front speaks TLS
    #[arg(long, conflicts_with = "tls_certificate")]
    insecure_http: bool,
    /// How often everything is looked at even if nothing rang. For tests, which cannot wait that long
    #[arg(long, env = "ABIDE_RESYNC", value_name = "DURATION", default_value = "30s", hide = true)]
    #[arg(value_parser = humantime::parse_duration)]
    resync: Duration,
}

/// Runs the verb.
pub(crate) async fn run(args: &DaemonArgs, session: &mut Session) -> Result<Exit, Failure> {
    let options = Options {
        desired_state: session.desired_state.clone(),
        listen: args.listen,
        encryption: encryption(args),
        resync: args.resync,
    };
    (session.entry.daemon)(session.verbosity, options).await.map_err(Failure::Service)?;
    Ok(Exit::Done)
}

fn encryption(args: &DaemonArgs) -> Encryption {
    match (&args.tls_certificate, &args.tls_key) {
        (Some(certificate), Some(key)) => {
            Encryption::Given(Files { certificate: certificate.clone(), key: key.clone() })
        }
        _ if args.insecure_http => Encryption::Never,
        _ => Encryption::ByAddress,
    }
}
