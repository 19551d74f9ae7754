//! Limits the log of refusals, so that unauthenticated senders cannot fill a disk.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::time::Instant;

use super::bucket::{Bucket, Rate};

/// A burst of twenty lines, then one per second.
const RATE: Rate = Rate { burst: 20, per_second: 1 };

/// Decides which refusals are logged. Cheap to clone; all clones share one state.
#[derive(Clone, Default)]
pub(super) struct RefusalLog {
    state: Arc<Mutex<LogBudget>>,
}

#[derive(Default)]
struct LogBudget {
    bucket: Option<Bucket>,
    left_out: u64,
}

impl RefusalLog {
    /// Returns whether to log another refusal; if so, the number of lines omitted since the last
    /// one.
    pub(super) fn admit(&self, now: Instant) -> Option<u64> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.bucket.get_or_insert_with(|| Bucket::full(RATE, now)).take(RATE, now).is_err() {
            state.left_out += 1;
            return None;
        }
        Some(std::mem::take(&mut state.left_out))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_flood_of_rejections_logs_few_lines_and_a_count() {
        let (refusals, now) = (RefusalLog::default(), Instant::now());
        let logged = (0..1_000).filter(|_| refusals.clone().admit(now).is_some()).count();
        assert_eq!(logged, 20);
        assert_eq!(refusals.admit(now + Duration::from_secs(1)), Some(980));
        assert_eq!(refusals.admit(now + Duration::from_secs(60)), Some(0));
    }
}
