//! Counts of deliveries since the start, for `/metrics`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::model::outbox::Target;

/// Counts of deliveries by target. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    counts: Arc<Mutex<BTreeMap<Target, Counts>>>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    delivered: u64,
    failed: u64,
}

impl Tally {
    pub(super) fn delivered(&self, target: &Target) {
        self.counts().entry(target.clone()).or_default().delivered += 1;
    }

    pub(super) fn failed(&self, target: &Target) {
        self.counts().entry(target.clone()).or_default().failed += 1;
    }

    /// The counts in the Prometheus text format.
    #[must_use]
    pub fn metrics(&self) -> String {
        let counts = self.counts();
        if counts.is_empty() {
            return String::new();
        }
        let mut text = String::from(
            "# HELP abide_outbox_attempts_total Attempts to deliver outgoing items.\n\
             # TYPE abide_outbox_attempts_total counter\n",
        );
        for (target, counts) in counts.iter() {
            for (result, count) in [("delivered", counts.delivered), ("failed", counts.failed)] {
                // Writing into a text cannot fail.
                let _ = writeln!(
                    text,
                    "abide_outbox_attempts_total{{target=\"{target}\",result=\"{result}\"}} {count}"
                );
            }
        }
        text
    }

    fn counts(&self) -> MutexGuard<'_, BTreeMap<Target, Counts>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
