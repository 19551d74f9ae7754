//! Which output of a container is asked for.

use serde::{Deserialize, Serialize};

use super::time::Timestamp;

/// Which part of a container's output is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogOptions {
    /// Whether to go on with what comes.
    pub follow: bool,
    /// Only the last lines; `None`: all.
    pub tail: Option<usize>,
    /// Only what is younger.
    pub since: Option<Timestamp>,
    /// The end of what the container before this one printed.
    #[serde(default)]
    pub previous: bool,
}
