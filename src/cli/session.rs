//! The context of a command: the console, the clock and the way to the API.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use serde::Serialize;
use tokio::net::UnixStream;

use super::args::Globals;
use super::client::{Address, ApiClient, ApiTransport, ClientError, HttpAddress};
use super::entry::Entrypoints;
use super::exit::CliError;
use super::output::console::Console;
use crate::model::container::Secret;
use crate::model::credential::Credential;
use crate::model::time::Timestamp;
use crate::tls::AlpnProtocol;
use crate::tls::client::{Connector, Trust};

/// File name of the daemon's socket in the desired-state folder.
const SOCKET: &str = "abide.sock";

/// The server that a command needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Requirement {
    /// The record is enough: without a daemon, this process opens it.
    Record,
    /// The record is enough and is only read: without a daemon, this process opens a copy.
    Reading,
    /// A running daemon; the error names the command.
    Daemon(&'static str),
}

/// One run of one command.
pub(crate) struct CliSession {
    /// The console for output and questions.
    pub(crate) console: Console,
    /// The services that a command can start.
    pub(crate) entry: Entrypoints,
    pub(crate) desired_state: PathBuf,
    /// The number of `-v`.
    pub(crate) verbosity: u8,
    server: Option<String>,
    token: Option<Secret>,
    ca: Option<PathBuf>,
    clock: fn() -> Timestamp,
}

impl CliSession {
    /// Creates a session from the global options.
    pub(crate) fn new(
        globals: &Globals,
        token: Option<Secret>,
        entry: Entrypoints,
        console: Console,
    ) -> Self {
        Self {
            console,
            entry,
            desired_state: globals.desired_state.clone(),
            verbosity: globals.verbosity,
            // Shells unset ABIDE_SERVER for one command by setting it to an empty value.
            server: globals.server.clone().filter(|server| !server.is_empty()),
            token,
            ca: globals.ca.clone(),
            clock: || std::time::SystemTime::now().into(),
        }
    }

    /// The address of the daemon, as given.
    pub(crate) fn server(&self) -> Option<&str> {
        self.server.as_deref()
    }

    /// The token to send.
    pub(crate) fn token(&self) -> Option<&Secret> {
        self.token.as_ref()
    }

    /// CA certificates to verify the daemon, if not the system's.
    pub(crate) fn ca(&self) -> Option<&Path> {
        self.ca.as_deref()
    }

    /// The current time.
    pub(crate) fn now(&self) -> Timestamp {
        (self.clock)()
    }

    /// Prints `value` as JSON, or as the text that `render` makes for the current time and the width of the terminal.
    pub(crate) fn show<T: Serialize + ?Sized>(
        &mut self,
        value: &T,
        render: impl FnOnce(&T, Timestamp, Option<usize>) -> String,
    ) -> io::Result<()> {
        if self.console.is_json() {
            return self.console.json(&value);
        }
        let text = render(value, self.now(), self.console.screen().width);
        self.console.data(&text)
    }

    /// Prints a list as JSON, or as the table that `render` makes. Instead of an empty table, the message `none` is
    /// printed.
    pub(crate) fn show_list<T: Serialize>(
        &mut self,
        list: &[T],
        none: &str,
        render: impl FnOnce(&[T], Timestamp, Option<usize>) -> String,
    ) -> io::Result<()> {
        if list.is_empty() && !self.console.is_json() {
            self.console.talk(none);
            return Ok(());
        }
        self.show(list, render)
    }

    /// Returns a client of the daemon, or of the record itself if no daemon runs and `need` allows
    /// it.
    ///
    /// # Errors
    /// [`CliError`] if neither is available.
    pub(crate) async fn client(&mut self, need: Requirement) -> Result<ApiClient, CliError> {
        let transport = match self.server.as_deref().map(Address::parse).transpose()? {
            Some(Address::Http(address)) => self.in_the_clear(address)?,
            Some(Address::Https(address)) => {
                let place = format!("https://{}", address.authority);
                let connector = Connector::new(&self.trust(), AlpnProtocol::Http1);
                let connector = connector.map_err(|source| ClientError::Insecure { place, source })?;
                ApiTransport::Https(address, connector)
            }
            Some(Address::Unix(path)) => ApiTransport::Unix(path),
            None => self.at_the_socket(need).await?,
        };
        Ok(ApiClient::new(transport, self.token.as_ref())?)
    }

    /// A token is as valuable as the access it grants, so it does not leave this host unencrypted.
    fn in_the_clear(&self, address: HttpAddress) -> Result<ApiTransport, ClientError> {
        if self.token.is_some() && !address.is_local() {
            return Err(ClientError::PlainToken { place: format!("http://{}", address.authority) });
        }
        Ok(ApiTransport::Http(address))
    }

    /// How the daemon is verified: a token with a pin was made for exactly one server.
    fn trust(&self) -> Trust {
        let credential = self.token.as_ref().and_then(|token| Credential::parse(token.expose()));
        match (credential.and_then(|credential| credential.pin()), &self.ca) {
            (Some(pin), _) => Trust::Pin(pin),
            (None, Some(file)) => Trust::File(file.clone()),
            (None, None) => Trust::System,
        }
    }

    async fn at_the_socket(&mut self, need: Requirement) -> Result<ApiTransport, CliError> {
        let socket = self.desired_state.join(SOCKET);
        match UnixStream::connect(&socket).await {
            Ok(_) => Ok(ApiTransport::Unix(socket)),
            Err(error) if is_unreachable(&error) => self.without_daemon(need, &socket.display().to_string()),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                let group = group_of(&socket);
                Err(ClientError::NotInGroup { place: socket.display().to_string(), group }.into())
            }
            Err(source) => {
                Err(ClientError::Unreachable { place: socket.display().to_string(), source }.into())
            }
        }
    }

    fn without_daemon(&mut self, need: Requirement, place: &str) -> Result<ApiTransport, CliError> {
        if let Requirement::Daemon(verb) = need {
            return Err(ClientError::NeedsDaemon { verb, place: place.to_owned() }.into());
        }
        let folder = self.desired_state.clone();
        let router = match need {
            Requirement::Reading => (self.entry.offline_reading_router)(&folder),
            Requirement::Record | Requirement::Daemon(_) => (self.entry.offline_router)(&folder),
        };
        let router = router.map_err(|source| CliError::Record { folder, source })?;
        self.console.talk("no daemon is running; using the record directly");
        Ok(ApiTransport::InProcess(router))
    }
}

/// The name of the group that owns a file, or its number if it has no name. Returns `abide`, the
/// group of the shipped unit, if the file cannot be inspected.
fn group_of(path: &Path) -> String {
    let Ok(about) = std::fs::metadata(path) else { return "abide".to_owned() };
    let number = about.gid().to_string();
    let groups = std::fs::read_to_string("/etc/group").unwrap_or_default();
    let is_it = |line: &&str| line.split(':').nth(2) == Some(number.as_str());
    let name = groups.lines().find(is_it).and_then(|line| line.split(':').next());
    name.map_or(number.clone(), str::to_owned)
}

/// Nothing listens: a killed daemon's socket refuses connections, and one never created is absent.
fn is_unreachable(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}
