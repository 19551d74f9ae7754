//! Binds the daemon's Unix socket.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener as StdListener, UnixStream as StdStream};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use tokio::net::UnixListener;

/// The longest path in a socket address, in bytes, without the final zero.
const LONGEST_ADDRESS: usize = 107;

/// The socket is created in a folder with this prefix and random letters, beside its final place,
/// under this name.
const WORKSHOP_PREFIX: &str = ".s";
const WORKSHOP_RANDOM: usize = 4;
const WORKSHOP_SOCKET: &str = "s";

/// Owner and group may connect to the daemon.
const MODE: u32 = 0o660;

/// How long a listener may take to accept before it counts as alive and busy.
const PATIENCE: Duration = Duration::from_secs(2);

/// Why the socket was not bound.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The path is too long for a socket address.
    #[error(
        "the socket path {} is too long: the system allows {LONGEST_ADDRESS} bytes; choose a shorter \
        folder",
        .0.display()
    )]
    TooLong(PathBuf),
    /// Another process listens there.
    #[error("another abide daemon already listens on {}", .0.display())]
    InUse(PathBuf),
    /// Something other than a socket exists there.
    #[error("{} exists and is not a socket: remove it, or choose another folder", .0.display())]
    NoSocket(PathBuf),
    /// The check for a listener failed.
    #[error("cannot check for another daemon at {}", .0.display())]
    Probe(PathBuf, #[source] io::Error),
    /// The socket could not be created.
    #[error("cannot create the socket {}", .0.display())]
    Bind(PathBuf, #[source] io::Error),
}

/// Listens on a Unix socket at `path` with mode 0660, for its owner and group.
///
/// Replaces a socket that a dead daemon left behind. The new one is created in a private folder and
/// then moved to its place, so other users cannot connect before its mode is set.
///
/// # Errors
/// [`ServeError`]: another process listens there, something else exists there, or a system call
/// failed.
pub fn bind_unix(path: &Path) -> Result<UnixListener, ServeError> {
    check_length(path)?;
    check_free(path)?;
    let failed = |error| ServeError::Bind(path.to_owned(), error);
    let listener = make(path).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    UnixListener::from_std(listener).map_err(failed)
}

fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Checks the length of the path at which the socket is created, too.
fn check_length(path: &Path) -> Result<(), ServeError> {
    let workshop = WORKSHOP_PREFIX.len() + WORKSHOP_RANDOM + WORKSHOP_SOCKET.len() + "//".len();
    let making = folder(path).as_os_str().len() + workshop;
    if path.as_os_str().len().max(making) > LONGEST_ADDRESS {
        return Err(ServeError::TooLong(path.to_owned()));
    }
    Ok(())
}

/// Checks that the path is free, or a socket without a listener.
fn check_free(path: &Path) -> Result<(), ServeError> {
    let failed = |error| ServeError::Probe(path.to_owned(), error);
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
        Ok(found) if !found.file_type().is_socket() => return Err(ServeError::NoSocket(path.to_owned())),
        Ok(_) => {}
    }
    match connect(path) {
        Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound) => {
            Ok(())
        }
        Err(error) if error.kind() != io::ErrorKind::TimedOut => Err(failed(error)),
        _ => Err(ServeError::InUse(path.to_owned())),
    }
}

/// Connects in a thread, because connecting blocks for ever if the listener's queue is full. The
/// thread is abandoned in that case.
fn connect(path: &Path) -> io::Result<()> {
    let (done, outcome) = mpsc::channel();
    let path = path.to_owned();
    std::thread::Builder::new().name("socket-probe".to_owned()).spawn(move || {
        // Sending fails if the timeout is over.
        let _ = done.send(StdStream::connect(path).map(drop));
    })?;
    outcome.recv_timeout(PATIENCE).unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

fn make(path: &Path) -> io::Result<StdListener> {
    // The folder is removed when it goes out of scope.
    let workshop = tempfile::Builder::new()
        .prefix(WORKSHOP_PREFIX)
        .rand_bytes(WORKSHOP_RANDOM)
        .permissions(Permissions::from_mode(0o700))
        .tempdir_in(folder(path))?;
    let made = workshop.path().join(WORKSHOP_SOCKET);
    let listener = StdListener::bind(&made)?;
    std::fs::set_permissions(&made, Permissions::from_mode(MODE))?;
    std::fs::rename(&made, path)?;
    Ok(listener)
}
