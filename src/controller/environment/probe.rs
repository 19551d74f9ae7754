//! Readiness probes by abide itself, at their own interval.
//!
//! There is one task for each running container. It keeps its observations for reconciles to read, and sends
//! a wakeup when the readiness may have changed.

mod ask;
mod http;
mod sockets;

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};
use tokio_util::sync::{CancellationToken, DropGuard};

use self::ask::{ContainerProbe, ProbeResult};
use crate::controller::clock::now;
use crate::controller::docker::Engine;
use crate::controller::wake::WakeQueue;
use crate::model::name::EnvironmentName;
use crate::model::observed::Readiness;
use crate::model::spec::{HealthSpec, Probe, Publish};
use crate::model::time::Timestamp;

/// The pause between the first and second probe after a start; each later pause is twice as long, up to the
/// interval, until the container answers. So a container that starts at once is ready at once, and not an
/// interval later.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
/// The same for commands in the container, each of which is a process and three calls of the engine.
const FIRST_PAUSE_OF_COMMANDS: Duration = Duration::from_millis(250);

/// The groups of probes in one interval.
const GROUPS: u32 = 8;

/// The target of a probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ProbeTarget {
    pub(crate) environment: EnvironmentName,
    pub(crate) container: String,
    /// The last start. After a new start, earlier observations do not count.
    pub(crate) started_at: Option<Timestamp>,
    /// The container's own address in the managed network.
    pub(crate) address: Option<IpAddr>,
    /// The probed port; `None`: there is none.
    pub(crate) port: Option<u16>,
    /// The published address of that port.
    pub(crate) publish: Option<Publish>,
    /// The host name at the proxy.
    pub(crate) hostname: Option<String>,
    pub(crate) health: HealthSpec,
}

/// All probes of this process.
pub(crate) struct Prober {
    engine: Arc<Engine>,
    wake: WakeQueue,
    probes: Mutex<HashMap<String, ActiveProbe>>,
}

struct ActiveProbe {
    target: ProbeTarget,
    seen: Arc<Mutex<Readiness>>,
    _stop: DropGuard,
}

impl Prober {
    pub(crate) fn new(engine: Arc<Engine>, wake: WakeQueue) -> Self {
        Self { engine, wake, probes: Mutex::default() }
    }

    fn probes(&self) -> MutexGuard<'_, HashMap<String, ActiveProbe>> {
        self.probes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on probes exactly `targets` of this environment, and returns the observations of them.
    pub(crate) fn watch(
        &self,
        environment: &EnvironmentName,
        targets: Vec<ProbeTarget>,
    ) -> BTreeMap<String, Readiness> {
        let mut probes = self.probes();
        probes.retain(|_, running| {
            running.target.environment != *environment || targets.contains(&running.target)
        });
        let mut seen = BTreeMap::new();
        for target in targets {
            let id = target.container.clone();
            let running = probes.entry(id.clone()).or_insert_with(|| self.begin(target));
            seen.insert(id, lock(&running.seen).clone());
        }
        seen
    }

    /// Stops all probes of this environment.
    pub(crate) fn forget(&self, environment: &EnvironmentName) {
        self.watch(environment, Vec::new());
    }

    fn begin(&self, target: ProbeTarget) -> ActiveProbe {
        let seen = Arc::new(Mutex::new(Readiness::default()));
        let stop = CancellationToken::new();
        let (engine, wake) = (Arc::clone(&self.engine), self.wake.clone());
        let task = probe_until_stopped(engine, wake, target.clone(), Arc::clone(&seen));
        let stopped = stop.clone();
        tokio::spawn(async move { stopped.run_until_cancelled(task).await });
        ActiveProbe { target, seen, _stop: stop.drop_guard() }
    }
}

fn lock(seen: &Mutex<Readiness>) -> MutexGuard<'_, Readiness> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn probe_until_stopped(
    engine: Arc<Engine>,
    wake: WakeQueue,
    target: ProbeTarget,
    seen: Arc<Mutex<Readiness>>,
) {
    let HealthSpec { interval, timeout, ref probe, .. } = target.health;
    let environment = target.environment.clone();
    let mut pause = first_pause(probe, interval);
    let mut asker = ContainerProbe::new(engine, target.clone());
    loop {
        let asked = Instant::now();
        let answer = asker.ask(pause >= interval).await;
        let has_missed = matches!(answer, ProbeResult::Miss(_));
        let is_early = has_missed && pause < interval;
        {
            let mut seen = lock(&seen);
            seen.needs = asker.needs;
            // A container that may still be starting has missed one probe, however often it is probed
            // meanwhile.
            if !(is_early && seen.misses > 0) && note(&mut seen, answer, now()) {
                wake.wake(&environment);
            }
        }
        pause = if is_early { interval.min(pause * 2) } else { interval };
        let due = asked + pause;
        sleep_until(if is_early { due } else { together(due, interval) }).await;
        if has_missed {
            // At most the duration of a round: while this process is suspended, no probe runs.
            let round = asked.elapsed().min(pause.max(timeout));
            lock(&seen).unanswered += round;
        }
    }
}

/// The group of probes next to `due`. Many probes with one interval run in a few groups, because each wakeup of
/// the process costs as much as a probe. Rounding to the next group in either direction keeps the interval.
fn together(due: Instant, interval: Duration) -> Instant {
    static ORIGIN: OnceLock<Instant> = OnceLock::new();
    let origin = *ORIGIN.get_or_init(Instant::now);
    let group = interval / GROUPS;
    let since = due.saturating_duration_since(origin) + group / 2;
    // Without an interval there are no groups.
    let Some(into) = since.as_nanos().checked_rem(group.as_nanos()) else { return due };
    let into = Duration::from_nanos(u64::try_from(into).unwrap_or_default());
    origin + (since - into)
}

/// The pause after the first probe. The engine runs a `HEALTHCHECK` at its own interval, and its result is a
/// wakeup.
fn first_pause(probe: &Probe, interval: Duration) -> Duration {
    match probe {
        Probe::Docker | Probe::Running | Probe::None => interval,
        Probe::Command(_) => FIRST_PAUSE_OF_COMMANDS.min(interval),
        Probe::Http(_) | Probe::Tcp => FIRST_PAUSE.min(interval),
    }
}

/// Notes one answer. Returns whether it may change the plan or the status: the first good answer, the first
/// miss, the third miss, and a new reason for an unknown state.
fn note(seen: &mut Readiness, answer: ProbeResult, now: Timestamp) -> bool {
    match answer {
        ProbeResult::Good => {
            let is_relevant = seen.answering_since.is_none() || seen.misses > 0;
            // A start in the future comes from before the clock was set back.
            let since = Some(seen.answering_since.map_or(now, |since| since.min(now)));
            let needs = seen.needs;
            *seen = Readiness { answering_since: since, answered_once: true, needs, ..Readiness::default() };
            is_relevant
        }
        ProbeResult::Miss(miss) => {
            let is_relevant = seen.answering_since.is_some() || seen.misses == 2;
            seen.answering_since = None;
            seen.misses = seen.misses.saturating_add(1);
            seen.last_miss = Some(miss);
            seen.unknown = None;
            is_relevant
        }
        ProbeResult::Unknown(why) => {
            let is_relevant = why.is_some() && seen.unknown != why;
            seen.unknown = why;
            is_relevant
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::docker::ContainerReach;
    use tokio::time::timeout;

    #[tokio::test]
    async fn probes_with_equal_intervals_run_in_groups() {
        let interval = Duration::from_secs(1);
        let start = Instant::now() + Duration::from_secs(60);
        let groups: std::collections::BTreeSet<_> =
            (0..1_000).map(|number| together(start + Duration::from_millis(number), interval)).collect();
        assert!(groups.len() <= 9, "{groups:?}");
        for late in [0, 1, 30, 61] {
            let due = *groups.first().unwrap() + interval + Duration::from_millis(late);
            assert_eq!(together(due, interval), *groups.first().unwrap() + interval);
        }
        assert_eq!(together(start, Duration::ZERO), start);
    }

    #[test]
    fn only_probe_results_that_can_change_the_status_notify() {
        let (mut seen, at) = (Readiness::default(), Timestamp::from_millis);
        let miss = || ProbeResult::Miss("no".to_owned());
        assert!(!note(&mut seen, miss(), at(1)));
        assert!(note(&mut seen, ProbeResult::Good, at(2)));
        assert!(!note(&mut seen, ProbeResult::Good, at(3)));
        assert_eq!(seen.answering_since, Some(at(2)));
        assert!(!note(&mut seen, ProbeResult::Good, at(1)));
        assert_eq!(seen.answering_since, Some(at(1)), "the clock was set back");
        assert!(note(&mut seen, miss(), at(4)));
        assert!(!note(&mut seen, miss(), at(5)));
        assert!(note(&mut seen, miss(), at(6)), "three in a row are a verdict");
        assert!(!note(&mut seen, miss(), at(7)));
    }

    #[tokio::test]
    async fn a_starting_container_is_probed_before_the_next_interval() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let environment = EnvironmentName::new("dev").unwrap();
        let target = ProbeTarget {
            environment: environment.clone(),
            container: "c".to_owned(),
            started_at: None,
            address: Some(free.ip()),
            port: Some(free.port()),
            publish: None,
            hostname: None,
            health: HealthSpec {
                probe: Probe::Tcp,
                interval: Duration::from_secs(3600),
                timeout: Duration::from_secs(60),
                start_deadline: Duration::from_secs(3600),
                healthy_for: Duration::ZERO,
                ..HealthSpec::default()
            },
        };
        let wake = WakeQueue::default();
        let notifier = wake.notifier(&environment);
        let prober = Prober::new(Arc::new(Engine::new(None).reached(ContainerReach::Direct)), wake);
        let look = || prober.watch(&environment, vec![target.clone()])["c"].clone();
        look();
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!((look().misses, look().answered_once), (1, false), "it may only be starting");
        let _listener = tokio::net::TcpListener::bind(free).await.unwrap();
        timeout(Duration::from_secs(60), notifier.notified()).await.unwrap();
        assert!(look().answered_once);
    }
}
