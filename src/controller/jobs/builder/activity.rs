//! The time of a build's last output.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};

/// The last sign of life of a build; none before the first [`OutputActivity::touch`]. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct OutputActivity(Arc<Mutex<Option<Instant>>>);

impl OutputActivity {
    /// Records output at this moment.
    pub(super) fn touch(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// Waits until the build has been silent for `limit`.
    pub(super) async fn silent_for(&self, limit: Duration) {
        loop {
            let last = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
            match last.map(|last| last + limit) {
                None => sleep(limit).await,
                Some(due) if due <= Instant::now() => return,
                Some(due) => sleep_until(due).await,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn silence_is_measured_from_the_last_output() {
        let (activity, limit) = (OutputActivity::default(), Duration::from_millis(50));
        let silent = tokio::time::timeout(limit * 4, activity.silent_for(limit)).await;
        assert!(silent.is_err());
        activity.touch();
        sleep(limit / 2).await;
        activity.touch();
        let last = Instant::now();
        activity.silent_for(limit).await;
        assert!(last.elapsed() >= limit - Duration::from_millis(1));
    }
}
