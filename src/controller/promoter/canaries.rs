//! Records the figures of canaries that have ended, as evidence about their images.

use std::collections::BTreeSet;

use super::Promoter;
use crate::controller::clock::now;
use crate::model::canary::{Canary, CanaryState};
use crate::model::evidence::{Evidence, EvidenceFinding};
use crate::model::name::EnvironmentName;
use crate::record::RecordError;

impl Promoter {
    /// Records the last canary of each changed environment, once it has ended.
    pub(super) async fn note_canaries(&self, changed: &BTreeSet<EnvironmentName>) -> Result<(), RecordError> {
        for name in changed {
            let canary = self.input.status.status(name)?.and_then(|status| status.canary);
            let Some((canary, result)) = canary.and_then(|canary| Some((canary.clone(), canary.result()?)))
            else {
                continue;
            };
            // The record names the image as every engine knows it.
            let entry = self.input.desired.entry(name, canary.generation)?;
            let Some(image) = entry.and_then(|entry| entry.image) else { continue };
            if self.is_noted(name, &canary)? {
                continue;
            }
            let (generation, figures) = (canary.generation, canary.figures());
            let message = format!("generation {generation} {result} ({figures})");
            let finding = EvidenceFinding::Canary {
                passed: matches!(canary.state, CanaryState::Passed { .. }),
                result,
                percent: canary.percent,
                millis: canary.served_millis,
                count: canary.count(),
                figures,
            };
            let (environment, at) = (name.clone(), now());
            let evidence =
                Evidence { sequence: 0, environment, image, generation, finding, by: None, at, note: None };
            self.input.writer.evidence(evidence, message).await?;
        }
        Ok(())
    }

    fn is_noted(&self, name: &EnvironmentName, canary: &Canary) -> Result<bool, RecordError> {
        let is_it = |found: &Evidence| {
            found.generation == canary.generation && matches!(found.finding, EvidenceFinding::Canary { .. })
        };
        Ok(self.input.desired.evidence(name)?.iter().any(is_it))
    }
}
