//! Events about the generations of a record.

use super::before::record_words;
use super::reconciler::{PassError, Reconciler};
use crate::controller::clock::now;
use crate::model::desired::{Desired, Outcome};
use crate::model::event::EventKind;

impl Reconciler {
    /// Logs that the record changed, and marks generations that nothing waits for any more as superseded.
    pub(in crate::controller) async fn log_generations(&self, desired: &Desired) -> Result<(), PassError> {
        let (environment, entry) = (&desired.environment, &desired.entry);
        let before = self.status.status(environment)?;
        let seen = before.map(|before| before.observed_generation).unwrap_or_default();
        if entry.generation <= seen {
            return Ok(());
        }
        self.writer.event(environment, EventKind::Record, record_words(entry), now()).await?;
        let earlier = self.status.history(environment)?.into_iter().filter(|earlier| {
            earlier.outcome.is_none()
                && (seen..entry.generation).contains(&earlier.entry.generation)
                && desired.hold.is_none()
        });
        for earlier in earlier.collect::<Vec<_>>() {
            self.writer.outcome(environment, earlier.entry.generation, Outcome::Superseded).await?;
        }
        Ok(())
    }
}
