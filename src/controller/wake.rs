//! Wakeups: each names only the environment to reconcile.
//!
//! Wakeups coalesce: however many arrive during a reconcile, one more reconcile follows.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::model::name::EnvironmentName;

/// The wakeup queue: one wakeup for each environment.
#[derive(Clone, Default)]
pub(crate) struct WakeQueue {
    notifiers: Arc<Mutex<HashMap<EnvironmentName, Arc<Notify>>>>,
}

impl WakeQueue {
    fn notifiers(&self) -> MutexGuard<'_, HashMap<EnvironmentName, Arc<Notify>>> {
        self.notifiers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The wakeup of one environment. It stores one notification until a task waits for it.
    pub(crate) fn notifier(&self, environment: &EnvironmentName) -> Arc<Notify> {
        self.notifiers().entry(environment.clone()).or_default().clone()
    }

    /// Requests a reconcile of one environment.
    pub(crate) fn wake(&self, environment: &EnvironmentName) {
        self.notifier(environment).notify_one();
    }

    /// Requests a reconcile of every environment.
    pub(crate) fn wake_all(&self) {
        self.notifiers().values().for_each(|notifier| notifier.notify_one());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn many_wakeups_coalesce_into_one() {
        let (wake, dev) = (WakeQueue::default(), EnvironmentName::new("dev").unwrap());
        let notifier = wake.notifier(&dev);
        (0..1000).for_each(|_| wake.wake(&dev));
        notifier.notified().await;
        let again = tokio::time::timeout(std::time::Duration::from_millis(20), notifier.notified()).await;
        assert!(again.is_err(), "a second wake was stored");
    }

    #[tokio::test]
    async fn a_wakeup_before_anyone_waits_is_not_lost() {
        let (wake, dev) = (WakeQueue::default(), EnvironmentName::new("dev").unwrap());
        wake.wake(&dev);
        wake.notifier(&dev).notified().await;
    }
}
