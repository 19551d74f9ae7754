//! Readiness probes, from abide itself, at its own interval.
//!
//! One task a running container. It keeps what it saw for the passes to read, and rings when the
//! answer to "is it ready?" may have changed.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::clock::now;
use super::docker::Engine;
use super::wake::Wake;
use crate::model::name::EnvironmentName;
use crate::model::observed::{EngineHealth, Readiness, SeenContainer};
use crate::model::spec::{HealthSpec, Probe, Publish};
use crate::model::time::Timestamp;

/// How long after the first probe of a new life the second one follows; each later pause is twice as
/// long, up to the interval, until there is an answer. So what starts in a moment is ready then, and
/// not an interval later.
const FIRST_PAUSE: Duration = Duration::from_millis(10);

/// What to probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ProbeTarget {
    pub(crate) environment: EnvironmentName,
    pub(crate) container: String,
    /// A start is a new life: what was seen before it says nothing.
    pub(crate) started_at: Option<Timestamp>,
    /// The container's own address in the managed network.
    pub(crate) address: Option<IpAddr>,
    pub(crate) port: u16,
    pub(crate) publish: Option<Publish>,
    pub(crate) health: HealthSpec,
}

/// All probes of this process.
pub(crate) struct Prober {
    engine: Arc<Engine>,
    wake: Wake,
    probes: Mutex<HashMap<String, Running>>,
}

struct Running {
    target: ProbeTarget,
    seen: Arc<Mutex<Readiness>>,
    _stop: DropGuard,
}

impl Prober {
    pub(crate) fn new(engine: Arc<Engine>, wake: Wake) -> Self {
        Self { engine, wake, probes: Mutex::default() }
    }

    fn probes(&self) -> MutexGuard<'_, HashMap<String, Running>> {
        self.probes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Probes exactly `targets` of this environment from now on, and says what was seen of them.
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

    /// Probes nothing of this environment any more.
    pub(crate) fn forget(&self, environment: &EnvironmentName) {
        self.watch(environment, Vec::new());
    }

    fn begin(&self, target: ProbeTarget) -> Running {
        let seen = Arc::new(Mutex::new(Readiness::default()));
        let stop = CancellationToken::new();
        let (engine, wake) = (Arc::clone(&self.engine), self.wake.clone());
        let task = probe_until_stopped(engine, wake, target.clone(), Arc::clone(&seen));
        let stopped = stop.clone();
        tokio::spawn(async move { stopped.run_until_cancelled(task).await });
        Running { target, seen, _stop: stop.drop_guard() }
    }
}

fn lock(seen: &Mutex<Readiness>) -> MutexGuard<'_, Readiness> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn probe_until_stopped(
    engine: Arc<Engine>,
    wake: Wake,
    target: ProbeTarget,
    seen: Arc<Mutex<Readiness>>,
) {
    let HealthSpec { interval, ref probe, .. } = target.health;
    // The engine looks at its own pace, and rings.
    let mut pause = if *probe == Probe::Docker { interval } else { FIRST_PAUSE.min(interval) };
    loop {
        let asked = Instant::now();
        let mut has_missed = false;
        if let Some(answer) = ask_in_time(&engine, &target).await {
            has_missed = answer.is_err();
            let is_early = answer.is_err() && pause < interval;
            let mut seen = lock(&seen);
            // What may only be starting has missed one probe, however often it is asked meanwhile.
            if !(is_early && seen.misses > 0) && note(&mut seen, answer, now()) {
                wake.ring(&target.environment);
            }
            drop(seen);
            pause = if is_early { interval.min(pause * 2) } else { interval };
        }
        sleep_until(asked + pause).await;
        if has_missed {
            // No more than a round takes: while this process is stopped, nothing is asked.
            let round = asked.elapsed().min(pause.max(target.health.timeout));
            lock(&seen).unanswered += round;
        }
    }
}

/// `None`: cannot tell, which is no verdict.
async fn ask_in_time(engine: &Engine, target: &ProbeTarget) -> Option<Result<(), String>> {
    let patience = target.health.timeout;
    match timeout(patience, ask(engine, target)).await {
        Ok(answer) => answer.transpose(),
        // It is the engine that did not answer, which says nothing of the container.
        Err(_) if target.health.probe == Probe::Docker => None,
        Err(_) => Some(Err(format!("no answer within {}", humantime::format_duration(patience)))),
    }
}

/// Notes one answer. Says whether it may change what to do: the first good one, the first miss,
/// and the one that makes three.
fn note(seen: &mut Readiness, answer: Result<(), String>, now: Timestamp) -> bool {
    match answer {
        Ok(()) => {
            let is_news = seen.answering_since.is_none() || seen.misses > 0;
            // Not since a moment that is yet to come: then the clock was set back.
            let since = seen.answering_since.map_or(now, |since| since.min(now));
            *seen = Readiness { answering_since: Some(since), answered_once: true, ..Readiness::default() };
            is_news
        }
        Err(miss) => {
            let is_news = seen.answering_since.is_some() || seen.misses == 2;
            seen.answering_since = None;
            seen.misses = seen.misses.saturating_add(1);
            seen.last_miss = Some(miss);
            is_news
        }
    }
}

/// `Ok(None)`: cannot tell, which is no verdict.
async fn ask(engine: &Engine, target: &ProbeTarget) -> Result<Option<()>, String> {
    match &target.health.probe {
        Probe::None => Ok(Some(())),
        Probe::Tcp => connect(target).await.map(|_| Some(())),
        Probe::Http(path) => get(connect(target).await?, path).await.map(Some),
        Probe::Docker => match engine.inspect(&target.container).await {
            Ok(Some(SeenContainer { engine_health: EngineHealth::Healthy, .. })) => Ok(Some(())),
            Ok(Some(SeenContainer { engine_health: EngineHealth::NoCheck, .. })) => {
                Err("the image has no HEALTHCHECK".to_owned())
            }
            Ok(Some(_)) => Err("its HEALTHCHECK has not succeeded".to_owned()),
            Ok(None) | Err(_) => Ok(None),
        },
    }
}

/// The container's own address first; the published port where the network cannot be reached
/// from here, as with a rootless engine.
async fn connect(target: &ProbeTarget) -> Result<TcpStream, String> {
    let own = target.address.map(|address| SocketAddr::new(address, target.port));
    let published = target.publish.map(|publish| {
        let address = publish.address.filter(|address| !address.is_unspecified());
        SocketAddr::new(address.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)), publish.port)
    });
    let mut why = "it has no address yet".to_owned();
    for address in own.into_iter().chain(published) {
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => why = format!("no connection to {address}: {error}"),
        }
    }
    Err(why)
}

async fn get(mut stream: TcpStream, path: &str) -> Result<(), String> {
    let lost = |error: std::io::Error| format!("GET {path} was cut short: {error}");
    let request =
        format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nUser-Agent: abide\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.map_err(lost)?;
    // `HTTP/1.1 200`: the status is all that counts.
    let mut line = [0; 12];
    stream.read_exact(&mut line).await.map_err(lost)?;
    let status = std::str::from_utf8(&line).ok().filter(|line| line.starts_with("HTTP/1."));
    match status.and_then(|line| line.get(9..)?.parse::<u16>().ok()) {
        Some(200..=399) => Ok(()),
        Some(status) => Err(format!("GET {path} answered {status}")),
        None => Err(format!("GET {path} got an answer that is no HTTP")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_answers_that_may_change_the_verdict_are_news() {
        let (mut seen, at) = (Readiness::default(), Timestamp::from_millis);
        let miss = || Err("no".to_owned());
        assert!(!note(&mut seen, miss(), at(1)));
        assert!(note(&mut seen, Ok(()), at(2)));
        assert!(!note(&mut seen, Ok(()), at(3)));
        assert_eq!(seen.answering_since, Some(at(2)));
        assert!(!note(&mut seen, Ok(()), at(1)));
        assert_eq!(seen.answering_since, Some(at(1)), "the clock was set back");
        assert!(note(&mut seen, miss(), at(4)));
        assert!(!note(&mut seen, miss(), at(5)));
        assert!(note(&mut seen, miss(), at(6)), "three in a row are a verdict");
        assert!(!note(&mut seen, miss(), at(7)));
    }

    #[tokio::test]
    async fn what_begins_to_answer_is_found_long_before_the_next_interval() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let environment = EnvironmentName::new("dev").unwrap();
        let target = ProbeTarget {
            environment: environment.clone(),
            container: "c".to_owned(),
            started_at: None,
            address: Some(free.ip()),
            port: free.port(),
            publish: None,
            health: HealthSpec {
                probe: Probe::Tcp,
                interval: Duration::from_secs(3600),
                timeout: Duration::from_secs(60),
                start_deadline: Duration::from_secs(3600),
                healthy_for: Duration::ZERO,
            },
        };
        let wake = Wake::default();
        let bell = wake.bell(&environment);
        let prober = Prober::new(Arc::new(Engine::new(None)), wake);
        let look = || prober.watch(&environment, vec![target.clone()])["c"].clone();
        look();
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!((look().misses, look().answered_once), (1, false), "it may only be starting");
        let _listener = tokio::net::TcpListener::bind(free).await.unwrap();
        timeout(Duration::from_secs(60), bell.notified()).await.unwrap();
        assert!(look().answered_once);
    }

    #[tokio::test]
    async fn an_http_probe_wants_a_status_from_200_to_399() {
        for (answer, good) in [
            ("HTTP/1.1 200 OK\r\n\r\n", true),
            ("HTTP/1.0 302 Found\r\n\r\n", true),
            ("HTTP/1.1 500 Oh\r\n\r\n", false),
            ("SSH-2.0-OpenSSH_9.2\r\n", false),
            ("HTTP", false),
            ("HTTP/1.1é20 OK\r\n", false),
        ] {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            tokio::spawn(async move {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = [0; 512];
                let _ = stream.read(&mut request).await;
                stream.write_all(answer.as_bytes()).await.unwrap();
            });
            let stream = TcpStream::connect(address).await.unwrap();
            let got = timeout(Duration::from_secs(5), get(stream, "/")).await.unwrap();
            assert_eq!(got.is_ok(), good, "{answer:?}: {got:?}");
        }
    }
}
