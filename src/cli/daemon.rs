//! `abide daemon`: runs the controller.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::exit::{CliError, CliExit};
use super::session::CliSession;
use crate::daemon::{DaemonOptions, Encryption};
use crate::manifest_dir;
use crate::tls::identity::Files;

const EXAMPLES: &str = "\
Examples:
  abide daemon
  abide daemon --listen 0.0.0.0:443 --tls-certificate fullchain.pem --tls-key privkey.pem
  abide daemon --desired-state /etc/abide --listen 0.0.0.0:8443
  abide daemon --manifest https://github.com/tatfook/ops.git#main:desired-state

The daemon serves webhooks, agents and the API for clients with a token on the address, and local \
commands on the socket in the desired-state folder. On a non-loopback address it serves TLS: with \
the given certificate, or with one that it creates in DIR/tls at its first start, which `abide token \
create` then pins. SIGTERM and Ctrl-C stop the daemon; the containers keep running.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct DaemonArgs {
    /// Address and port of webhooks, the API and agents
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// Serve TLS with this certificate chain (PEM); reloaded when the file changes
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_certificate: Option<PathBuf>,
    /// Private key of the certificate (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_certificate")]
    tls_key: Option<PathBuf>,
    /// Serve plain HTTP on a non-loopback address; for use behind a proxy that terminates TLS
    #[arg(long, conflicts_with = "tls_certificate")]
    insecure_http: bool,
    /// Follow the manifest on a branch of a repository; writes DIR/bootstrap.toml
    #[arg(long, value_name = "URL#BRANCH:PATH")]
    manifest: Option<String>,
    /// Interval of full checks without an event; for tests, which cannot wait longer
    #[arg(long, env = "ABIDE_RESYNC", value_name = "DURATION", default_value = "30s", hide = true)]
    #[arg(value_parser = humantime::parse_duration)]
    resync: Duration,
}

pub(crate) async fn run(args: &DaemonArgs, session: &mut CliSession) -> Result<CliExit, CliError> {
    if let Some(manifest) = &args.manifest {
        manifest_dir::follow(&session.desired_state, manifest).map_err(CliError::Usage)?;
    }
    let options = DaemonOptions {
        desired_state: session.desired_state.clone(),
        listen: args.listen,
        encryption: encryption(args),
        resync: args.resync,
    };
    (session.entry.daemon)(session.verbosity, options).await.map_err(CliError::Service)?;
    Ok(CliExit::Done)
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
