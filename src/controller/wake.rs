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
    bells: Arc<Mutex<HashMap<EnvironmentName, Arc<Notify>>>>,
}

impl WakeQueue {
    fn bells(&self) -> MutexGuard<'_, HashMap<EnvironmentName, Arc<Notify>>> {
        self.bells.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The wakeup of one environment. It stores one notification until a task waits for it.
    pub(crate) fn bell(&self, environment: &EnvironmentName) -> Arc<Notify> {
        self.bells().entry(environment.clone()).or_default().clone()
    }

    /// Requests a reconcile of one environment.
    pub(crate) fn ring(&self, environment: &EnvironmentName) {
        self.bell(environment).notify_one();
    }

    /// Requests a reconcile of every environment.
    pub(crate) fn ring_all(&self) {
        self.bells().values().for_each(|bell| bell.notify_one());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_thousand_rings_are_one_wake() {
        let (wake, dev) = (WakeQueue::default(), EnvironmentName::new("dev").unwrap());
        let bell = wake.bell(&dev);
        (0..1000).for_each(|_| wake.ring(&dev));
        bell.notified().await;
        let again = tokio::time::timeout(std::time::Duration::from_millis(20), bell.notified()).await;
        assert!(again.is_err(), "a second wake was stored");
    }

    #[tokio::test]
    async fn a_ring_before_anyone_waits_is_not_lost() {
        let (wake, dev) = (WakeQueue::default(), EnvironmentName::new("dev").unwrap());
        wake.ring(&dev);
        wake.bell(&dev).notified().await;
    }
}
