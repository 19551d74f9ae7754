//! The requests of canaries: how many each got, and how many it failed.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::site::{Site, Sites};
use crate::metrics::RequestRecord;
use crate::model::canary::{CountedRequests, RequestCount};
use crate::model::name::EnvironmentName;
use crate::model::time::Timestamp;

/// The counts of this process, by environment.
#[derive(Clone, Default)]
pub(super) struct CanaryCounts(Arc<Mutex<BTreeMap<EnvironmentName, CanaryTally>>>);

/// The requests of one canary, which have its address. The container beside it has another one.
struct CanaryTally {
    address: SocketAddr,
    counted: CountedRequests,
}

/// The programs that nginx asked for the answer to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct UpstreamAttempts {
    /// The first one.
    pub(super) first: SocketAddr,
    /// Whether nginx had to ask another one.
    pub(super) is_repeated: bool,
}

impl CanaryCounts {
    fn tallies(&self) -> MutexGuard<'_, BTreeMap<EnvironmentName, CanaryTally>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts the requests of the canaries that nginx serves now, and no others.
    pub(super) fn count(&self, sites: &Sites, now: Timestamp) {
        let mut before = std::mem::take(&mut *self.tallies());
        let tally = |(environment, site): (&EnvironmentName, &Site)| {
            let canary = site.route.as_ref()?.canary.as_ref()?;
            let known = before.remove(environment).map(|known| known.counted);
            let counted = known.filter(|known| known.container == canary.container);
            let (container, count) = (canary.container.clone(), RequestCount::default());
            let counted = counted.unwrap_or(CountedRequests { container, since: now, count });
            Some((environment.clone(), CanaryTally { address: canary.address, counted }))
        };
        let tallies = sites.iter().filter_map(tally).collect();
        *self.tallies() = tallies;
    }

    /// The requests of the canary of an environment.
    pub(super) fn of(&self, environment: &EnvironmentName) -> Option<CountedRequests> {
        self.tallies().get(environment).map(|tally| tally.counted.clone())
    }

    /// Counts one request, if a canary was to answer it.
    pub(super) fn note(&self, record: &RequestRecord, attempts: UpstreamAttempts) {
        let mut tallies = self.tallies();
        let tally = tallies.get_mut(&record.environment).filter(|tally| tally.address == attempts.first);
        let Some(tally) = tally else { return };
        let has_failed = record.status >= 500 || attempts.is_repeated;
        let one = RequestCount { requests: 1, failed: u64::from(has_failed) };
        tally.counted.count = tally.counted.count.and(one);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::model::canary::CanaryPercent;
    use crate::model::front::{CanaryRoute, Route};
    use crate::model::name::Generation;

    fn dev() -> EnvironmentName {
        EnvironmentName::new("dev").unwrap()
    }

    fn address(last: u8) -> SocketAddr {
        format!("172.18.0.{last}:8900").parse().unwrap()
    }

    fn sites(canary: Option<&str>) -> Sites {
        let canary = canary.map(|container| CanaryRoute {
            container: container.to_owned(),
            address: address(3),
            percent: CanaryPercent::default(),
            generation: Generation(2),
        });
        let route = Route { canary, ..Route::to_container("old", address(2)) };
        [(dev(), Site { route: Some(route), ..serde_json::from_str("{}").unwrap() })].into()
    }

    fn note(counts: &CanaryCounts, to: u8, status: u16, is_repeated: bool) {
        let (time, method) = (Duration::ZERO, "GET".to_owned());
        let record = RequestRecord { environment: dev(), status, time, method };
        counts.note(&record, UpstreamAttempts { first: address(to), is_repeated });
    }

    #[test]
    fn only_requests_to_the_canary_count_and_those_it_did_not_answer_failed() {
        let (counts, at) = (CanaryCounts::default(), Timestamp::from_millis);
        note(&counts, 3, 200, false);
        assert_eq!(counts.of(&dev()), None);
        counts.count(&sites(Some("new")), at(1));
        for (to, status, is_repeated) in
            [(2, 500, false), (3, 200, false), (3, 404, false), (3, 500, false), (3, 200, true)]
        {
            note(&counts, to, status, is_repeated);
        }
        counts.count(&sites(Some("new")), at(2));
        let counted = counts.of(&dev()).unwrap();
        assert_eq!((counted.since, counted.count), (at(1), RequestCount { requests: 4, failed: 2 }));
        counts.count(&sites(Some("another")), at(3));
        assert_eq!(counts.of(&dev()).map(|counted| counted.count), Some(RequestCount::default()));
        counts.count(&sites(None), at(4));
        assert_eq!(counts.of(&dev()), None);
    }
}
