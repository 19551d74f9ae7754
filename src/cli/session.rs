//! What every verb is given: the console, the clock, and a way to whoever answers.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use tokio::net::UnixStream;

use super::args::Globals;
use super::client::{Address, Client, ClientError, HttpAddress, Transport};
use super::entry::Entrypoints;
use super::exit::Failure;
use super::output::console::Console;
use crate::model::container::Secret;
use crate::model::credential::Credential;
use crate::model::time::Timestamp;
use crate::tls::Protocol;
use crate::tls::client::{Connector, Trust};

/// The name of the daemon's socket in the desired-state folder.
const SOCKET: &str = "abide.sock";

/// Whom a verb needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// The record is enough: where no daemon runs, this process opens it.
    Record,
    /// The same, and nothing is written: this process opens a copy.
    Reading,
    /// A running daemon; the verb is named for the error.
    Daemon(&'static str),
}

/// One run of one verb.
pub(crate) struct Session {
    /// Where it prints and asks.
    pub(crate) console: Console,
    /// What it starts.
    pub(crate) entry: Entrypoints,
    /// The desired-state folder.
    pub(crate) desired_state: PathBuf,
    /// How often `-v` was given.
    pub(crate) verbosity: u8,
    server: Option<String>,
    token: Option<Secret>,
    ca: Option<PathBuf>,
    clock: fn() -> Timestamp,
}

impl Session {
    /// A session as the global options want it.
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
            // An empty ABIDE_SERVER is how shells unset it for one command.
            server: globals.server.clone().filter(|server| !server.is_empty()),
            token,
            ca: globals.ca.clone(),
            clock: || std::time::SystemTime::now().into(),
        }
    }

    /// Where the daemon is, as it was typed.
    pub(crate) fn server(&self) -> Option<&str> {
        self.server.as_deref()
    }

    /// Who we are there.
    pub(crate) fn token(&self) -> Option<&Secret> {
        self.token.as_ref()
    }

    /// The authorities that vouch for it, where they are not this machine's.
    pub(crate) fn ca(&self) -> Option<&Path> {
        self.ca.as_deref()
    }

    /// The present moment.
    pub(crate) fn now(&self) -> Timestamp {
        (self.clock)()
    }

    /// A client of the daemon; or, where none runs and `need` allows it, of the record itself.
    ///
    /// # Errors
    /// [`Failure`] where neither can be had.
    pub(crate) async fn client(&mut self, need: Need) -> Result<Client, Failure> {
        let transport = match self.server.as_deref().map(Address::parse).transpose()? {
            Some(Address::Http(address)) => self.in_the_clear(address)?,
            Some(Address::Https(address)) => {
                let place = format!("https://{}", address.authority);
                let connector = Connector::new(&self.trust(), Protocol::Http1);
                let connector = connector.map_err(|source| ClientError::Insecure { place, source })?;
                Transport::Https(address, connector)
            }
            Some(Address::Unix(path)) => Transport::Unix(path),
            None => self.at_the_socket(need).await?,
        };
        Ok(Client::new(transport, self.token.as_ref())?)
    }

    /// A token is worth as much as what it opens, so it does not leave this machine unencrypted.
    fn in_the_clear(&self, address: HttpAddress) -> Result<Transport, ClientError> {
        if self.token.is_some() && !address.is_local() {
            return Err(ClientError::PlainToken { place: format!("http://{}", address.authority) });
        }
        Ok(Transport::Http(address))
    }

    /// By what the daemon is known: a token with a pin was made for one server, and for no other.
    fn trust(&self) -> Trust {
        let credential = self.token.as_ref().and_then(|token| Credential::parse(token.expose()));
        match (credential.and_then(|credential| credential.pin()), &self.ca) {
            (Some(pin), _) => Trust::Pin(pin),
            (None, Some(file)) => Trust::File(file.clone()),
            (None, None) => Trust::System,
        }
    }

    async fn at_the_socket(&mut self, need: Need) -> Result<Transport, Failure> {
        let socket = self.desired_state.join(SOCKET);
        match UnixStream::connect(&socket).await {
            Ok(_) => Ok(Transport::Unix(socket)),
            Err(error) if is_nobody(&error) => self.without_daemon(need, &socket.display().to_string()),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                let group = group_of(&socket);
                Err(ClientError::NotInGroup { place: socket.display().to_string(), group }.into())
            }
            Err(source) => {
                Err(ClientError::Unreachable { place: socket.display().to_string(), source }.into())
            }
        }
    }

    fn without_daemon(&mut self, need: Need, place: &str) -> Result<Transport, Failure> {
        if let Need::Daemon(verb) = need {
            return Err(ClientError::NeedsDaemon { verb, place: place.to_owned() }.into());
        }
        let folder = self.desired_state.clone();
        let router = match need {
            Need::Reading => (self.entry.offline_reading_router)(&folder),
            Need::Record | Need::Daemon(_) => (self.entry.offline_router)(&folder),
        };
        let router = router.map_err(|source| Failure::Record { folder, source })?;
        self.console.talk("no daemon runs; working on the record itself");
        Ok(Transport::InProcess(router))
    }
}

/// The name of the group that owns a file, or its number if it has no name. `abide` if the file cannot be
/// looked at: that is the group of the shipped unit.
fn group_of(path: &Path) -> String {
    let Ok(about) = std::fs::metadata(path) else { return "abide".to_owned() };
    let number = about.gid().to_string();
    let groups = std::fs::read_to_string("/etc/group").unwrap_or_default();
    let is_it = |line: &&str| line.split(':').nth(2) == Some(number.as_str());
    let name = groups.lines().find(is_it).and_then(|line| line.split(':').next());
    name.map_or(number.clone(), str::to_owned)
}

/// A socket that a killed daemon left behind refuses; one that was never made is absent.
fn is_nobody(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}
