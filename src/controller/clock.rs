//! The clock of the loop. Plans have none: they are handed the time.

use std::time::SystemTime;

use crate::model::time::Timestamp;

/// The time.
pub(super) fn now() -> Timestamp {
    SystemTime::now().into()
}
