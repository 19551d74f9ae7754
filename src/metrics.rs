//! Measurements of this process since its start, in the Prometheus text format.
//!
//! [`Metrics`] is shared by everything that measures: the controller, the webhooks, the deliveries. Values that are
//! read only when somebody asks come in a [`MetricSnapshot`]. Every label value is a constant, or a name from the
//! manifest; senders of requests cannot add one.

mod requests;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode_registry;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::exemplar::Exemplar;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::model::link::SimilarRequests;
use crate::model::name::{EnvironmentName, RepositoryName};
use crate::model::outbox::OutboxTarget;
use crate::model::time::Timestamp;
pub(crate) use requests::{RECENT, RecentRequests, RequestRecord};
use requests::{RequestWindow, UnreportedRequests};

/// Buckets for work that takes seconds to an hour: deployments, builds, pulls. Seconds.
const LONG: [f64; 14] = [0.5, 1., 2.5, 5., 10., 20., 30., 60., 120., 300., 600., 1_200., 1_800., 3_600.];
/// Buckets for repairs: a restart takes about 0.2 s, and a container that is not ready for minutes waits for its
/// program. Seconds.
const REPAIR: [f64; 14] = [0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1., 1.5, 2.5, 5., 10., 30., 60., 300.];
/// Buckets for work that takes milliseconds: reconciles and webhooks. Seconds.
const SHORT: [f64; 14] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1., 2.5, 5., 10., 30.];

/// The methods that are counted by name; clients can send any word.
const METHODS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
/// The method of all other requests.
const OTHER_METHOD: &str = "OTHER";
/// The statuses that HTTP can have, by RFC 9110; 0 counts a status that is none.
const STATUSES: std::ops::RangeInclusive<u16> = 100..=599;

/// The tallies in one report of an agent; more follow in the next.
const TALLIES: usize = 1_000;

/// The result of something that was measured: the value of a label `result`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MeasuredResult {
    /// A generation became ready.
    Ready,
    /// An image was built.
    Built,
    /// An image was pulled.
    Pulled,
    /// A reconcile ended in order, or a message was delivered.
    Ok,
    /// It failed.
    Failed,
}

impl MeasuredResult {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Built => "built",
            Self::Pulled => "pulled",
            Self::Ok => "ok",
            Self::Failed => "failed",
        }
    }
}

/// Labels in the order of the output.
type Labels<const N: usize> = [(&'static str, String); N];
type Histograms<const N: usize> = Family<Labels<N>, Histogram, fn() -> Histogram>;

/// The instruments of this process. Cheap to clone; all clones share one state.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
    deploys: Histograms<2>,
    builds: Histograms<2>,
    pulls: Histograms<2>,
    heals: Histograms<1>,
    reconciles: Histograms<1>,
    webhooks: Histograms<1>,
    deliveries: Family<Labels<2>, Counter>,
    attempts: Family<Labels<2>, Counter>,
    requests: Family<Labels<3>, Counter>,
    request_times: Histograms<2>,
    requests_lost: Counter,
    recent: Arc<Mutex<RequestWindow>>,
    /// `None`: nobody takes reports.
    unreported: Option<Arc<Mutex<UnreportedRequests>>>,
    /// The environments of other hosts whose requests are counted here.
    elsewhere: Arc<Mutex<BTreeSet<EnvironmentName>>>,
}

impl Default for Metrics {
    fn default() -> Self {
        let long: fn() -> Histogram = || Histogram::new(LONG);
        let repair: fn() -> Histogram = || Histogram::new(REPAIR);
        let short: fn() -> Histogram = || Histogram::new(SHORT);
        let mut metrics = Self {
            registry: Arc::default(),
            deploys: Family::new_with_constructor(long),
            builds: Family::new_with_constructor(long),
            pulls: Family::new_with_constructor(long),
            heals: Family::new_with_constructor(repair),
            reconciles: Family::new_with_constructor(short),
            webhooks: Family::new_with_constructor(short),
            deliveries: Family::default(),
            attempts: Family::default(),
            requests: Family::default(),
            request_times: Family::new_with_constructor(short),
            requests_lost: Counter::default(),
            recent: Arc::default(),
            unreported: None,
            elsewhere: Arc::default(),
        };
        metrics.registry = Arc::new(metrics.registered());
        metrics
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Metrics {
    /// The instruments of an agent, which reports requests to its controller.
    pub(crate) fn of_agent() -> Self {
        Self { unreported: Some(Arc::default()), ..Self::default() }
    }

    /// The registry of all instruments. It appends a full stop to each description.
    fn registered(&self) -> Registry {
        let mut registry = Registry::default();
        registry.register(
            "abide_deploy_duration_seconds",
            "Time from a recorded generation to its outcome",
            self.deploys.clone(),
        );
        registry.register(
            "abide_build_duration_seconds",
            "Time of builds that ran to an end",
            self.builds.clone(),
        );
        registry.register(
            "abide_pull_duration_seconds",
            "Time of pulls, without the wait for a slot",
            self.pulls.clone(),
        );
        registry.register(
            "abide_heal_duration_seconds",
            "Time from the loss of a serving container to the next one that serves the same generation",
            self.heals.clone(),
        );
        registry.register(
            "abide_reconcile_duration_seconds",
            "Time of one reconcile of one environment",
            self.reconciles.clone(),
        );
        registry.register(
            "abide_webhook_duration_seconds",
            "Time from the head of a delivery to its answer",
            self.webhooks.clone(),
        );
        // Counters get their ending `_total` when they are encoded.
        registry.register(
            "abide_webhook_deliveries",
            "Webhook deliveries, by result",
            self.deliveries.clone(),
        );
        registry.register(
            "abide_outbox_attempts",
            "Attempts to deliver outgoing items",
            self.attempts.clone(),
        );
        registry.register(
            "abide_http_requests",
            "Requests that the proxies served, on this host and on those of connected agents",
            self.requests.clone(),
        );
        registry.register(
            "abide_http_request_duration_seconds",
            "Time from the first byte of a request to the last one of its answer, by class of status",
            self.request_times.clone(),
        );
        registry.register(
            "abide_http_request_records_lost",
            "Requests that the proxy served and that were not counted, because too many came at once",
            self.requests_lost.clone(),
        );
        registry
    }

    /// Measures a generation from the record to its outcome.
    pub(crate) fn deploy(&self, environment: &EnvironmentName, result: MeasuredResult, time: Duration) {
        self.deploys.get_or_create(&of_environment(environment, result)).observe(time.as_secs_f64());
    }

    /// Measures a build.
    pub(crate) fn build(&self, environment: &EnvironmentName, result: MeasuredResult, time: Duration) {
        self.builds.get_or_create(&of_environment(environment, result)).observe(time.as_secs_f64());
    }

    /// Measures a pull.
    pub(crate) fn pull(&self, environment: &EnvironmentName, result: MeasuredResult, time: Duration) {
        self.pulls.get_or_create(&of_environment(environment, result)).observe(time.as_secs_f64());
    }

    /// Measures an outage of an environment that abide ended without another generation.
    pub(crate) fn heal(&self, environment: &EnvironmentName, time: Duration) {
        let labels = [("environment", environment.to_string())];
        self.heals.get_or_create(&labels).observe(time.as_secs_f64());
    }

    /// Measures a reconcile.
    pub(crate) fn reconcile(&self, result: MeasuredResult, time: Duration) {
        let labels = [("result", result.as_str().to_owned())];
        self.reconciles.get_or_create(&labels).observe(time.as_secs_f64());
    }

    /// Counts and measures a delivery. `repository` is `None` for deliveries that were refused before a repository
    /// was found, so senders cannot invent label values.
    pub(crate) fn webhook(&self, repository: Option<&RepositoryName>, result: &'static str, time: Duration) {
        let repository = repository.map_or_else(String::new, ToString::to_string);
        self.deliveries.get_or_create(&[("repository", repository), ("result", result.to_owned())]).inc();
        self.webhooks.get_or_create(&[("result", result.to_owned())]).observe(time.as_secs_f64());
    }

    /// Counts an attempt to deliver an outgoing item.
    pub(crate) fn attempt(&self, target: &OutboxTarget, is_delivered: bool) {
        // A target has both lines from its first attempt on, so that rates of failures start at 0.
        let labels = |result: &str| [("target", target.to_string()), ("result", result.to_owned())];
        drop(self.attempts.get_or_create(&labels("failed")));
        drop(self.attempts.get_or_create(&labels("delivered")));
        self.attempts.get_or_create(&labels(if is_delivered { "delivered" } else { "failed" })).inc();
    }

    /// Counts and measures a request that the proxy served.
    pub(crate) fn request(&self, record: &RequestRecord, now: Timestamp) {
        let (method, status) = self.count(record, 1, now);
        if let Some(unreported) = &self.unreported {
            unreported.lock().unwrap_or_else(PoisonError::into_inner).add(record, method, status);
        }
    }

    fn count(&self, record: &RequestRecord, count: u64, now: Timestamp) -> (&'static str, u16) {
        let method = METHODS.into_iter().find(|method| *method == record.method).unwrap_or(OTHER_METHOD);
        let status = if STATUSES.contains(&record.status) { record.status } else { 0 };
        self.requests.get_or_create(&of_request(&record.environment, method, status)).inc_by(count);
        let times = self.request_times.get_or_create(&of_class(&record.environment, status / 100)).clone();
        (0..count).for_each(|_| times.observe(record.time.as_secs_f64()));
        self.recent.lock().unwrap_or_else(PoisonError::into_inner).add(record, count, now);
        (method, status)
    }

    /// Counts requests that the proxy of an agent's host served.
    pub(crate) fn reported_requests(&self, tally: SimilarRequests, now: Timestamp) {
        let SimilarRequests { environment, method, status, millis, count } = tally;
        self.elsewhere.lock().unwrap_or_else(PoisonError::into_inner).insert(environment.clone());
        let record = RequestRecord { environment, status, time: Duration::from_millis(millis), method };
        self.count(&record, count, now);
    }

    /// Takes requests to report out, at most [`TALLIES`].
    pub(crate) fn take_unreported(&self) -> Vec<SimilarRequests> {
        let unreported = self.unreported.iter();
        let take = |unreported: &Arc<Mutex<UnreportedRequests>>| {
            unreported.lock().unwrap_or_else(PoisonError::into_inner).take(TALLIES)
        };
        unreported.flat_map(take).collect()
    }

    /// Counts requests of which nothing is known.
    pub(crate) fn requests_lost(&self, count: u64) {
        self.requests_lost.inc_by(count);
    }

    /// The requests of an environment in the last [`RECENT`]; `None` if no proxy served any.
    pub(crate) fn recent_requests(
        &self,
        environment: &EnvironmentName,
        now: Timestamp,
    ) -> Option<RecentRequests> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner).of(environment, now)
    }

    /// Removes the measurements of an environment that this host no longer runs, so that the number of series
    /// does not grow with edits of the manifest.
    pub(crate) fn forget(&self, environment: &EnvironmentName) {
        use MeasuredResult::{Built, Failed, Pulled, Ready};
        for (family, success) in [(&self.deploys, Ready), (&self.builds, Built), (&self.pulls, Pulled)] {
            for result in [success, Failed] {
                family.remove(&of_environment(environment, result));
            }
        }
        self.heals.remove(&[("environment", environment.to_string())]);
        for status in STATUSES.chain([0]) {
            for method in METHODS.into_iter().chain([OTHER_METHOD]) {
                self.requests.remove(&of_request(environment, method, status));
            }
        }
        for class in 0..=5 {
            self.request_times.remove(&of_class(environment, class));
        }
        self.recent.lock().unwrap_or_else(PoisonError::into_inner).forget(environment);
    }

    /// Removes the measurements of environments that no other host runs any more.
    pub(crate) fn forget_elsewhere(&self, still_runs: impl Fn(&EnvironmentName) -> bool) {
        let mut elsewhere = self.elsewhere.lock().unwrap_or_else(PoisonError::into_inner);
        elsewhere.retain(|environment| {
            let stays = still_runs(environment);
            if !stays {
                self.forget(environment);
            }
            stays
        });
    }

    /// Returns all measurements and those of `snapshot` in the Prometheus text format.
    ///
    /// # Errors
    /// A value could not be encoded.
    pub(crate) fn render(&self, snapshot: MetricSnapshot) -> Result<String, fmt::Error> {
        let mut now = Registry::default();
        now.register_collector(Box::new(snapshot));
        let mut text = String::new();
        encode_registry(&mut text, &now)?;
        encode_registry(&mut text, &self.registry)?;
        Ok(with_full_names(&text))
    }
}

fn of_environment(environment: &EnvironmentName, result: MeasuredResult) -> Labels<2> {
    [("environment", environment.to_string()), ("result", result.as_str().to_owned())]
}

fn of_request(environment: &EnvironmentName, method: &str, status: u16) -> Labels<3> {
    [("environment", environment.to_string()), ("method", method.to_owned()), ("status", status.to_string())]
}

fn of_class(environment: &EnvironmentName, class: u16) -> Labels<2> {
    [("environment", environment.to_string()), ("status", format!("{class}xx"))]
}

/// Turns OpenMetrics into the Prometheus text format. The two differ only in the description of counters: OpenMetrics
/// describes them without the ending of their lines.
fn with_full_names(text: &str) -> String {
    let counter = |line: &str| {
        let name = line.strip_prefix("# TYPE ")?.strip_suffix(" counter")?;
        Some(name.to_owned())
    };
    let counters: BTreeSet<String> = text.lines().filter_map(counter).collect();
    let mut full = String::with_capacity(text.len());
    for line in text.lines() {
        match described(line).filter(|(_, name, _)| counters.contains(*name)) {
            Some((kind, name, rest)) => full.push_str(&format!("{kind}{name}_total {rest}")),
            None => full.push_str(line),
        }
        full.push('\n');
    }
    full
}

/// Splits a line that describes a family: its kind, the name, the rest.
fn described(line: &str) -> Option<(&str, &str, &str)> {
    let kind = ["# HELP ", "# TYPE "].into_iter().find(|kind| line.starts_with(kind))?;
    let (name, rest) = line[kind.len()..].split_once(' ')?;
    Some((kind, name, rest))
}

/// Values of one moment, in the order in which they were added.
#[derive(Debug, Default)]
pub(crate) struct MetricSnapshot {
    families: Vec<SnapshotFamily>,
}

#[derive(Debug)]
struct SnapshotFamily {
    name: &'static str,
    help: &'static str,
    kind: MetricType,
    values: Vec<(Vec<(&'static str, String)>, u64)>,
}

impl MetricSnapshot {
    /// Begins a family of values that rise and fall. `help` ends with a full stop.
    pub(crate) fn gauge(&mut self, name: &'static str, help: &'static str) {
        self.begin(name, help, MetricType::Gauge);
    }

    /// Begins a family of values that only rise. The name ends with `_total`.
    pub(crate) fn counter(&mut self, name: &'static str, help: &'static str) {
        self.begin(name.strip_suffix("_total").unwrap_or(name), help, MetricType::Counter);
    }

    fn begin(&mut self, name: &'static str, help: &'static str, kind: MetricType) {
        self.families.push(SnapshotFamily { name, help, kind, values: Vec::new() });
    }

    /// Adds a value to the last family.
    pub(crate) fn value(&mut self, labels: &[(&'static str, &str)], value: u64) {
        if let Some(family) = self.families.last_mut() {
            let labels = labels.iter().map(|(label, value)| (*label, (*value).to_owned())).collect();
            family.values.push((labels, value));
        }
    }
}

impl Collector for MetricSnapshot {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for SnapshotFamily { name, help, kind, values } in &self.families {
            let mut family = encoder.encode_descriptor(name, help, None, *kind)?;
            for (labels, value) in values {
                if labels.is_empty() {
                    encode_value(&mut family, *kind, *value)?;
                } else {
                    encode_value(&mut family.encode_family(labels)?, *kind, *value)?;
                }
            }
        }
        Ok(())
    }
}

fn encode_value(line: &mut MetricEncoder<'_>, kind: MetricType, value: u64) -> fmt::Result {
    match kind {
        MetricType::Counter => line.encode_counter(&value, None::<&Exemplar<NoLabelSet, u64>>),
        _ => line.encode_gauge(&value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<&str> {
        text.lines().collect()
    }

    #[test]
    fn a_snapshot_is_the_text_that_prometheus_reads() {
        let mut snapshot = MetricSnapshot::default();
        snapshot.gauge("abide_held", "1 if held.");
        snapshot.value(&[("environment", "one\n\"two\"\\")], 1);
        snapshot.value(&[("environment", "dev")], 0);
        snapshot.counter("abide_things_total", "Things.");
        snapshot.value(&[], 18_446_744_073_709_551_615);
        let text = Metrics::default().render(snapshot).unwrap();
        assert_eq!(
            lines(&text)[..7],
            [
                "# HELP abide_held 1 if held.",
                "# TYPE abide_held gauge",
                r#"abide_held{environment="one\n\"two\"\\"} 1"#,
                r#"abide_held{environment="dev"} 0"#,
                "# HELP abide_things_total Things.",
                "# TYPE abide_things_total counter",
                "abide_things_total 18446744073709551615",
            ]
        );
        assert!(!text.contains("# EOF"), "only OpenMetrics has an end\n{text}");
    }

    #[test]
    fn clones_count_together_and_every_result_has_a_line() {
        let metrics = Metrics::default();
        let shop = RepositoryName::new("shop").unwrap();
        metrics.webhook(Some(&shop), "recorded", Duration::from_millis(4));
        metrics.clone().webhook(Some(&shop), "recorded", Duration::from_millis(40));
        metrics.webhook(None, "refused", Duration::ZERO);
        let text = metrics.render(MetricSnapshot::default()).unwrap();
        for expected in [
            "# TYPE abide_webhook_deliveries_total counter",
            "abide_webhook_deliveries_total{repository=\"shop\",result=\"recorded\"} 2",
            "abide_webhook_deliveries_total{repository=\"\",result=\"refused\"} 1",
            "# TYPE abide_webhook_duration_seconds histogram",
            "abide_webhook_duration_seconds_bucket{le=\"0.005\",result=\"recorded\"} 1",
            "abide_webhook_duration_seconds_bucket{le=\"+Inf\",result=\"recorded\"} 2",
            "abide_webhook_duration_seconds_count{result=\"recorded\"} 2",
        ] {
            assert!(lines(&text).contains(&expected), "{expected:?} is not in\n{text}");
        }
    }

    #[test]
    fn metrics_of_an_undeclared_environment_are_removed() {
        let metrics = Metrics::default();
        let [dev, test] = ["dev", "test"].map(|name| EnvironmentName::new(name).unwrap());
        for environment in [&dev, &test] {
            metrics.deploy(environment, MeasuredResult::Ready, Duration::from_secs(3));
            metrics.deploy(environment, MeasuredResult::Failed, Duration::from_secs(3));
            metrics.build(environment, MeasuredResult::Built, Duration::from_secs(3));
            metrics.pull(environment, MeasuredResult::Pulled, Duration::from_secs(3));
            metrics.heal(environment, Duration::from_secs(3));
            let method = "BREW".to_owned();
            let time = Duration::from_millis(3);
            let record = RequestRecord { environment: environment.clone(), status: 418, time, method };
            metrics.request(&record, Timestamp::from_millis(1));
        }
        metrics.forget(&dev);
        let text = metrics.render(MetricSnapshot::default()).unwrap();
        assert!(!text.contains("\"dev\""), "{text}");
        assert!(
            text.contains(
                "abide_http_requests_total{environment=\"test\",method=\"OTHER\",status=\"418\"} 1"
            ),
            "{text}"
        );
        for family in ["deploy", "build", "pull", "heal", "http_request"] {
            assert!(
                text.contains(&format!("abide_{family}_duration_seconds_sum{{environment=\"test\"")),
                "{text}"
            );
        }
    }

    #[test]
    fn attempts_of_a_target_are_counted_from_zero() {
        let metrics = Metrics::default();
        metrics.attempt(&OutboxTarget::Forge(RepositoryName::new("shop").unwrap()), false);
        let text = metrics.render(MetricSnapshot::default()).unwrap();
        let counts: BTreeSet<&str> =
            text.lines().filter(|line| line.starts_with("abide_outbox_attempts")).collect();
        let target = OutboxTarget::Forge(RepositoryName::new("shop").unwrap());
        let [delivered, failed] = [("delivered", 0), ("failed", 1)].map(|(result, count)| {
            format!("abide_outbox_attempts_total{{target=\"{target}\",result=\"{result}\"}} {count}")
        });
        assert_eq!(counts, BTreeSet::from([delivered.as_str(), failed.as_str()]));
    }

    #[test]
    fn an_agents_requests_count_until_no_host_runs_their_environment() {
        let (agent, controller) = (Metrics::of_agent(), Metrics::default());
        let (prod, at) = (EnvironmentName::new("prod").unwrap(), Timestamp::from_millis(1));
        let time = Duration::from_millis(7);
        let record =
            RequestRecord { environment: prod.clone(), status: 502, time, method: "BREW".to_owned() };
        (0..3).for_each(|_| agent.request(&record, at));
        for tally in agent.take_unreported() {
            controller.reported_requests(tally, at);
        }
        assert!(agent.take_unreported().is_empty());
        let recent = controller.recent_requests(&prod, at).unwrap();
        assert_eq!((recent.count, recent.failed), (3, 3));
        let count = "abide_http_requests_total{environment=\"prod\",method=\"OTHER\",status=\"502\"} 3";
        let page = || controller.render(MetricSnapshot::default()).unwrap();
        assert!(page().contains(count), "{}", page());
        controller.forget_elsewhere(|name| *name == prod);
        assert!(page().contains(count));
        controller.forget_elsewhere(|_| false);
        assert!(!page().contains("\"prod\""), "{}", page());
    }
}
