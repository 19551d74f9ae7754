//! Requests from before a switch that are still in progress. They end in nginx's old workers.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::controller::docker::Process;
use crate::model::front::ProxyTargets;
use crate::model::name::EnvironmentName;
use crate::model::time::Timestamp;

/// nginx's title for a worker, including one that is shutting down.
const WORKER: &str = "nginx: worker process";
/// nginx's title for a worker that accepts nothing new.
const SHUTTING_DOWN: &str = "is shutting down";

/// Returns the ids of nginx's workers.
pub(super) fn workers(processes: &[Process]) -> BTreeSet<u32> {
    ids(processes, WORKER)
}

/// Returns the ids of the workers that only finish their current requests.
pub(super) fn shutting_down(processes: &[Process]) -> BTreeSet<u32> {
    ids(processes, SHUTTING_DOWN)
}

fn ids(processes: &[Process], words: &str) -> BTreeSet<u32> {
    processes.iter().filter(|process| process.command.contains(words)).map(|process| process.id).collect()
}

/// The environments that still have requests in progress on a previous route.
#[derive(Debug, Default)]
pub(super) struct Draining(BTreeMap<EnvironmentName, Drain>);

#[derive(Clone, Debug)]
struct Drain {
    /// The workers that may have such requests; `None`: the workers could not be listed.
    workers: Option<BTreeSet<u32>>,
    /// The containers that serve the requests; `None`: only an earlier process knew them.
    from: Option<BTreeSet<String>>,
    /// When nginx cuts off the remaining requests.
    until: Timestamp,
}

impl Draining {
    /// Records that an environment was switched at `now`. `workers` ran then and may still have requests in
    /// progress to the containers of `from`.
    pub(super) fn begin(
        &mut self,
        environment: EnvironmentName,
        from: Option<BTreeSet<String>>,
        workers: Option<&BTreeSet<u32>>,
        now: Timestamp,
        patience: Duration,
    ) {
        // An earlier drain continues beside it, in still older workers.
        let before = self.0.remove(&environment);
        let from = match before {
            None => from,
            Some(before) => {
                before.from.zip(from).map(|(before, from)| before.into_iter().chain(from).collect())
            }
        };
        self.0.insert(environment, Drain { workers: workers.cloned(), from, until: now.after(patience) });
    }

    /// Updates the drains from the current processes; `None`: they could not be listed.
    pub(super) fn look(&mut self, processes: Option<&[Process]>, now: Timestamp) {
        let old = processes.map(shutting_down);
        let there = processes.map(workers);
        self.0.retain(|_, drain| {
            let is_there = match (&drain.workers, &there, &old) {
                (Some(drained), Some(there), _) => !drained.is_disjoint(there),
                (None, _, Some(old)) => !old.is_empty(),
                (_, None, _) | (None, _, None) => true,
            };
            is_there && now < drain.until
        });
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn contains(&self, environment: &EnvironmentName) -> bool {
        self.0.contains_key(environment)
    }

    /// Returns the containers to which requests from before a switch may still be in progress.
    pub(super) fn reach(&self, environment: &EnvironmentName) -> ProxyTargets {
        match self.0.get(environment) {
            None => ProxyTargets::Only(BTreeSet::new()),
            Some(drain) => drain.from.clone().map_or(ProxyTargets::Any, ProxyTargets::Only),
        }
    }

    /// Clears everything: the front's container was replaced, so no request is in progress.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nginx(workers: &[(u32, bool)]) -> Vec<Process> {
        let command = |old: bool| format!("{WORKER}{}", if old { " is shutting down" } else { "" });
        let master = Process { id: 1, command: "nginx: master process nginx -c x".to_owned() };
        let workers = workers.iter().map(|(id, old)| Process { id: *id, command: command(*old) });
        [master].into_iter().chain(workers).collect()
    }

    fn from(container: &str) -> Option<BTreeSet<String>> {
        Some([container.to_owned()].into())
    }

    #[test]
    fn a_switch_during_a_drain_protects_both_earlier_containers() {
        let (dev, mut draining) = (EnvironmentName::new("dev").unwrap(), Draining::default());
        let drain = Duration::from_secs(30);
        draining.begin(dev.clone(), from("a"), Some(&workers(&nginx(&[(7, false)]))), at(0), drain);
        let both = nginx(&[(7, true), (8, false)]);
        draining.begin(dev.clone(), from("b"), Some(&workers(&both)), at(1), drain);
        let protected = ["a", "b"].map(str::to_owned).into();
        assert_eq!(draining.reach(&dev), ProxyTargets::Only(protected));
        draining.look(Some(&nginx(&[(9, false)])), at(2));
        assert_eq!(draining.reach(&dev), ProxyTargets::Only(BTreeSet::new()));
    }

    fn at(second: u64) -> Timestamp {
        Timestamp::from_millis(second * 1000)
    }

    #[test]
    fn only_workers_older_than_a_switch_prolong_its_drain() {
        let (dev, test) = (EnvironmentName::new("dev").unwrap(), EnvironmentName::new("test").unwrap());
        let (mut draining, drain) = (Draining::default(), Duration::from_secs(30));
        draining.begin(dev.clone(), from("a"), Some(&workers(&nginx(&[(7, false)]))), at(0), drain);
        draining.begin(
            test.clone(),
            from("b"),
            Some(&workers(&nginx(&[(7, true), (8, false)]))),
            at(1),
            drain,
        );
        assert_eq!(draining.reach(&dev), ProxyTargets::Only(from("a").unwrap()));
        draining.look(Some(&nginx(&[(8, true), (9, false)])), at(2));
        assert!(!draining.contains(&dev), "7 is gone");
        assert!(draining.contains(&test), "8 may pass on to the old one");
        draining.look(Some(&nginx(&[(9, false)])), at(3));
        assert!(draining.is_empty());
    }

    #[test]
    fn unobservable_requests_are_assumed_to_last_until_the_drain_timeout() {
        let (dev, mut draining) = (EnvironmentName::new("dev").unwrap(), Draining::default());
        draining.begin(dev.clone(), None, None, at(0), Duration::from_secs(30));
        assert_eq!(draining.reach(&dev), ProxyTargets::Any);
        draining.look(None, at(29));
        assert!(draining.contains(&dev));
        draining.look(None, at(30));
        assert!(!draining.contains(&dev));
    }
}
