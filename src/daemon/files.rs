//! The limit of open files of the daemon; each connection needs one.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::debug;

use crate::api::serve::ServeLimits;

/// The requested limit, if the system allows it. The usual default is 1,024, which a thousand idle
/// connections would use up.
const WANTED: u64 = 65_536;

/// Raises the limit of open files as far as the system allows, and returns the limits of
/// connections that fit.
pub(super) fn allow_connections() -> ServeLimits {
    let limit = getrlimit(Resource::Nofile);
    let wanted = limit.maximum.map_or(WANTED, |maximum| maximum.min(WANTED));
    let current = limit.current.unwrap_or(u64::MAX);
    let raised = Rlimit { current: Some(wanted), ..limit };
    let files = match setrlimit(Resource::Nofile, raised) {
        _ if current >= wanted => current,
        Ok(()) => wanted,
        Err(error) => {
            debug!(%error, "cannot raise the limit of open files");
            current
        }
    };
    fitting(files)
}

/// Half of all files are for connections, because the store, git, builds and the engine need the
/// others. There are two listeners.
fn fitting(files: u64) -> ServeLimits {
    let share = |wanted: u64, part: u64| wanted.min(files / part);
    let default = ServeLimits::default();
    let strangers = share(default.strangers.into(), 20);
    let known = share(u64::try_from(default.known).unwrap_or(u64::MAX), 8);
    ServeLimits {
        strangers: u32::try_from(strangers).unwrap_or(default.strangers),
        known: usize::try_from(known).unwrap_or(default.known),
        ..default
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_use_at_most_half_of_the_file_descriptors() {
        for files in [256, 1_024, 4_096, 65_536, u64::MAX] {
            let limits = fitting(files);
            let strangers = 2 * u64::from(limits.strangers);
            let connections = strangers + u64::try_from(limits.known).unwrap();
            assert!(2 * connections <= files / 2, "{files}: {limits:?}");
        }
        let (default, ample) = (ServeLimits::default(), fitting(65_536));
        assert_eq!((ample.strangers, ample.known), (default.strangers, default.known));
    }
}
