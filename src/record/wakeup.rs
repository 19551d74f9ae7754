//! Wakeups: each names the environment to check, not the change.

use tokio::sync::broadcast;

use crate::model::name::EnvironmentName;

/// Wakeups that a slow subscriber may miss before it gets a lag error. It then checks every environment.
const BACKLOG: usize = 1024;

/// Something was written, and is on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wakeup {
    /// The desired state: the record of this environment.
    Desired(EnvironmentName),
    /// The status, or the outcome of a generation.
    Status(EnvironmentName),
    /// Evidence about an image of this environment.
    Evidence(EnvironmentName),
    /// A new event, or a repetition of the last one.
    Event(EnvironmentName),
}

/// Hands out subscriptions to wakeups.
#[derive(Clone, Debug)]
pub struct Wakeups {
    sender: broadcast::Sender<Wakeup>,
}

impl Wakeups {
    pub(super) fn new() -> Self {
        Self { sender: broadcast::Sender::new(BACKLOG) }
    }

    /// Receives every wakeup from now on. A subscriber that gets a lag error has missed some, and should
    /// check every environment.
    pub fn subscribe(&self) -> broadcast::Receiver<Wakeup> {
        self.sender.subscribe()
    }

    /// Sending without subscribers is fine: a new subscriber checks everything first.
    pub(super) fn notify(&self, wakeup: Wakeup) {
        let _receivers = self.sender.send(wakeup);
    }
}
