//! Adds up how long images were healthy. Only time between two looks that both saw the image healthy counts.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::Instant;

use super::{Healthy, Promoter};
use crate::controller::clock::now;
use crate::model::desired::Image;
use crate::model::evidence::EvidenceFinding;
use crate::model::name::{EnvironmentName, Generation};
use crate::model::spec::Manifest;
use crate::record::{RecordError, Soaked};

/// The longest time between two looks that counts. After a longer one, the time in between is unknown.
const LONGEST_GAP: Duration = Duration::from_secs(15);
/// The time after which observed time is recorded. A crash of the daemon loses at most this much.
const RECORDED_AFTER: Duration = Duration::from_secs(15);

/// Healthy time of one environment that is not recorded yet.
pub(super) struct Soaking {
    image: Image,
    generation: Generation,
    /// The last look that saw it healthy.
    last: Instant,
    restarts: u32,
    more_restarts: u32,
    unrecorded: Duration,
    recorded: Duration,
}

impl Soaking {
    fn new(healthy: &Healthy, recorded: Duration, at: Instant) -> Self {
        Self {
            image: healthy.image.clone(),
            generation: healthy.desired.entry.generation,
            last: at,
            restarts: healthy.restarts,
            more_restarts: 0,
            unrecorded: Duration::ZERO,
            recorded,
        }
    }

    /// Notes another look that saw the image healthy.
    fn look(&mut self, healthy: &Healthy, at: Instant) {
        let passed = at.saturating_duration_since(self.last);
        self.last = at;
        if passed <= LONGEST_GAP {
            self.unrecorded += passed;
        }
        self.more_restarts += healthy.restarts.saturating_sub(self.restarts);
        self.restarts = healthy.restarts;
        self.generation = healthy.desired.entry.generation;
    }

    /// Whether one of the durations has just passed.
    fn reaches(&self, needed: &[Duration]) -> bool {
        needed.iter().any(|needed| self.recorded < *needed && *needed <= self.recorded + self.unrecorded)
    }

    fn soaked(&mut self, environment: &EnvironmentName) -> Soaked {
        let millis = u64::try_from(self.unrecorded.as_millis()).unwrap_or(u64::MAX);
        self.recorded += self.unrecorded;
        self.unrecorded = Duration::ZERO;
        Soaked {
            environment: environment.clone(),
            image: self.image.clone(),
            generation: self.generation,
            millis,
            restarts: std::mem::take(&mut self.more_restarts),
            at: now(),
        }
    }
}

impl Promoter {
    /// Counts healthy time, and returns the environments whose image has soaked for long enough just now.
    pub(super) async fn soak(
        &mut self,
        manifest: &Manifest,
    ) -> Result<BTreeSet<EnvironmentName>, RecordError> {
        let at = Instant::now();
        let (mut record, mut reached) = (Vec::new(), BTreeSet::new());
        let sources: BTreeSet<&EnvironmentName> =
            manifest.environments.keys().filter_map(|to| manifest.promoted_from(to)).collect();
        for name in sources {
            let healthy = self.state.healthy.get(name);
            // What ends is recorded before it is forgotten.
            let ended = self
                .state
                .soaking
                .get_mut(name)
                .filter(|soaking| healthy.is_none_or(|healthy| !healthy.image.is_same(&soaking.image)));
            if let Some(ended) = ended {
                record.push(ended.soaked(name));
                self.state.soaking.remove(name);
            }
            let Some(healthy) = healthy else { continue };
            let Some(soaking) = self.state.soaking.get_mut(name) else {
                let recorded = self.recorded(name, &healthy.image)?;
                self.state.soaking.insert(name.clone(), Soaking::new(healthy, recorded, at));
                continue;
            };
            soaking.look(healthy, at);
            let needed: Vec<Duration> =
                manifest.promoted_to(name).filter_map(|(_, spec)| spec.gates.soak).collect();
            let reaches = soaking.reaches(&needed);
            if reaches || soaking.unrecorded >= RECORDED_AFTER {
                record.push(soaking.soaked(name));
            }
            if reaches {
                reached.insert(name.clone());
            }
        }
        record.retain(|soaked| soaked.millis > 0);
        if !record.is_empty() {
            self.input.writer.soaked(record).await?;
        }
        for name in &reached {
            for (to, _) in manifest.promoted_to(name) {
                self.input.writer.notify(to);
            }
        }
        Ok(reached)
    }

    fn recorded(&self, name: &EnvironmentName, image: &Image) -> Result<Duration, RecordError> {
        let found = self.input.desired.evidence(name)?;
        let millis =
            found.iter().filter(|found| found.image.is_same(image)).find_map(|found| match found.finding {
                EvidenceFinding::Healthy { millis, .. } => Some(millis),
                _ => None,
            });
        Ok(Duration::from_millis(millis.unwrap_or_default()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::desired::Desired;
    use crate::model::name::Digest;

    fn healthy(restarts: u32) -> Healthy {
        Healthy {
            desired: Desired::empty(EnvironmentName::new("test").unwrap()),
            image: Image { reference: None, digest: None, id: Some(Digest::of_sha256(&[1; 32])) },
            restarts,
            container: "c0ffee".to_owned(),
        }
    }

    #[test]
    fn only_observed_time_counts_as_soak() {
        let start = Instant::now();
        let after = |seconds: u64| start + Duration::from_secs(seconds);
        let mut soaking = Soaking::new(&healthy(1), Duration::from_secs(100), start);
        soaking.look(&healthy(1), after(5));
        // The host slept, or the daemon hung.
        soaking.look(&healthy(1), after(500));
        soaking.look(&healthy(3), after(505));
        assert!(soaking.reaches(&[Duration::from_secs(110)]));
        assert!(!soaking.reaches(&[Duration::from_secs(111), Duration::from_secs(100)]));
        let name = EnvironmentName::new("test").unwrap();
        let soaked = soaking.soaked(&name);
        assert_eq!((soaked.millis, soaked.restarts), (10_000, 2));
        assert_eq!((soaking.unrecorded, soaking.recorded), (Duration::ZERO, Duration::from_secs(110)));
    }
}
