//! Bells: they say at which environment to look, and nothing of what changed.

use tokio::sync::broadcast;

use crate::model::name::EnvironmentName;

/// How many rings a slow listener may miss before it is told so; it then looks at everything.
const UNHEARD: usize = 1024;

/// Something was written, and is on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bell {
    /// What should run: the record of this environment.
    Desired(EnvironmentName),
    /// The status, or the outcome of a generation.
    Status(EnvironmentName),
    /// A new event, or one more of the last.
    Event(EnvironmentName),
}

/// Where to listen.
#[derive(Clone, Debug)]
pub struct Bells {
    sender: broadcast::Sender<Bell>,
}

impl Bells {
    pub(super) fn new() -> Self {
        Self { sender: broadcast::Sender::new(UNHEARD) }
    }

    /// Hears every ring from now on. A listener that is told that it lagged has missed some, and
    /// should look at every environment.
    pub fn subscribe(&self) -> broadcast::Receiver<Bell> {
        self.sender.subscribe()
    }

    /// Nobody listening is fine: whoever starts to listen looks at everything first.
    pub(super) fn ring(&self, bell: Bell) {
        let _heard_by = self.sender.send(bell);
    }
}
