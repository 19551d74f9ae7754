//! Metrics of a real daemon, read by a real Prometheus with the rules of `examples/monitoring/`, and alerts routed
//! by a real Alertmanager.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::common::{
    PATIENCE, Scene, ServedAnswer, eventually, eventually_some, free_ports, http_get, serve,
};

/// Families that begin with the first pull, the first outgoing message, the first request through the proxy and a
/// manifest from git, of which the example has none.
const QUIET: [&str; 5] = [
    "abide_manifest_branch_readable",
    "abide_pull_duration_seconds",
    "abide_outbox_attempts_total",
    "abide_http_requests_total",
    "abide_http_request_duration_seconds",
];

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/monitoring").join(name)
}

fn example_text(name: &str) -> String {
    fs::read_to_string(example(name)).unwrap()
}

/// A configuration in which every duration `key` is a second.
fn hasty(config: &str, key: &str) -> String {
    let key = format!("{key}: ");
    let shortened = config.lines().map(|line| match line.trim_start().strip_prefix(&key) {
        Some(_) => format!("{}{key}1s\n", &line[..line.len() - line.trim_start().len()]),
        None => format!("{line}\n"),
    });
    shortened.collect()
}

/// Runs a checker of Prometheus or Alertmanager, which must be content.
fn passes(program: &str, arguments: &[&str], input: &str) {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{program}: {error}; .ci/run installs it"));
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {output:?}\n{input}");
}

/// The metric families in a text.
fn families(text: &str) -> BTreeSet<String> {
    let is_of_name = |letter: char| letter.is_ascii_lowercase() || letter == '_';
    let names = text.split(|letter| !is_of_name(letter)).filter(|word| word.starts_with("abide_"));
    let family = |name: &str| {
        let endings = ["_bucket", "_sum", "_count"];
        let stem = endings.iter().find_map(|ending| name.strip_suffix(ending));
        stem.filter(|stem| stem.ends_with("_seconds")).unwrap_or(name).to_owned()
    };
    names.map(family).collect()
}

/// The value of a line of metrics.
fn value(page: &str, line: &str) -> Option<f64> {
    page.lines().find_map(|found| found.strip_prefix(line)?.trim().parse().ok())
}

#[test]
fn deployments_and_repairs_are_measured_in_valid_metrics() {
    let Some(scene) = Scene::dev() else { return };
    let metrics = || scene.get("/metrics").1;
    let count = |page: &str, family: &str, labels: &str| {
        value(page, &format!("abide_{family}_duration_seconds_count{{{labels}}} ")).unwrap_or_default()
    };
    let page = eventually_some("the first deployment is measured", PATIENCE, || {
        Some(metrics()).filter(|page| count(page, "deploy", "environment=\"dev\",result=\"ready\"") == 1.0)
    });
    assert_eq!(count(&page, "build", "environment=\"dev\",result=\"built\""), 1.0, "{page}");
    assert!(count(&page, "reconcile", "result=\"ok\"") >= 2.0, "{page}");
    assert_eq!(count(&page, "heal", "environment=\"dev\""), 0.0, "a deployment is no repair\n{page}");
    assert_eq!(count(&page, "webhook", "result=\"recorded\""), 0.0, "{page}");

    scene.deploy("dev", "dev", "the second version");
    let page = eventually_some("the second deployment is measured", PATIENCE, || {
        Some(metrics()).filter(|page| count(page, "deploy", "environment=\"dev\",result=\"ready\"") == 2.0)
    });
    assert_eq!(count(&page, "webhook", "result=\"recorded\""), 1.0, "{page}");
    assert_eq!(count(&page, "heal", "environment=\"dev\""), 0.0, "an update is no repair\n{page}");

    let pid = scene.inspect("dev", "{{.State.Pid}}").parse().unwrap();
    kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
    let page = eventually_some("the repair is measured", PATIENCE, || {
        Some(metrics()).filter(|page| count(page, "heal", "environment=\"dev\"") == 1.0)
    });
    let time = value(&page, "abide_heal_duration_seconds_sum{environment=\"dev\"} ").unwrap();
    assert!(time > 0.0, "{time} s for a repair\n{page}");
    assert_eq!(count(&page, "deploy", "environment=\"dev\",result=\"ready\""), 2.0, "{page}");

    passes("promtool", &["check", "metrics"], &page);
    let named = example_text("abide.rules.yml")
        + &example_text("grafana-dashboard.json")
        + include_str!("../../docs/operations.md");
    let described: BTreeSet<String> = page
        .lines()
        .filter_map(|line| Some(line.strip_prefix("# TYPE ")?.split(' ').next()?.to_owned()))
        .collect();
    let is_unknown = |name: &&String| !described.contains(*name) && !QUIET.contains(&name.as_str());
    let named = families(&named);
    let unknown: Vec<&String> = named.iter().filter(is_unknown).collect();
    assert!(
        unknown.is_empty(),
        "the examples and the guide name {unknown:?}, which no daemon serves:\n{page}"
    );
    let documented = families(include_str!("../../docs/operations.md"));
    let silent: Vec<&String> = described.difference(&documented).collect();
    assert!(silent.is_empty(), "docs/operations.md does not list {silent:?}");
}

#[test]
fn series_of_an_undeclared_environment_are_removed() {
    let Some(scene) = Scene::new(&["dev", "test"], |manifest| manifest) else { return };
    scene.ready("dev");
    let has_series =
        || scene.get("/metrics").1.contains("abide_build_duration_seconds_count{environment=\"dev\"");
    assert!(has_series());
    let manifest = scene.site.manifest();
    let (before, from) = manifest.split_once("[environment.dev]").unwrap();
    let rest = from.find("[environment.test]").map(|at| &from[at..]).unwrap();
    let edited: String = format!("{before}{rest}");
    scene.site.declare(&edited);
    eventually("its measurements are gone", PATIENCE, || !has_series());
}

#[test]
fn the_shipped_alert_rules_and_configurations_are_valid() {
    passes("promtool", &["check", "rules", example("abide.rules.yml").to_str().unwrap()], "");
    passes("promtool", &["test", "rules", example("abide.rules.test.yml").to_str().unwrap()], "");
    passes("amtool", &["check-config", example("alertmanager.yml").to_str().unwrap()], "");
    let rules = example_text("abide.rules.yml");
    let tests = example_text("abide.rules.test.yml");
    let alerts: Vec<&str> = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    let untested: Vec<_> =
        alerts.iter().filter(|alert| !tests.contains(&format!("alertname: {alert}\n"))).collect();
    assert!(untested.is_empty() && alerts.len() >= 6, "no test of {untested:?}");
    let dashboard: Value =
        serde_json::from_slice(&fs::read(example("grafana-dashboard.json")).unwrap()).unwrap();
    assert!(dashboard["panels"].as_array().unwrap().len() >= 8);
}

/// A program that ends when it is dropped.
struct Monitor {
    child: Child,
    port: u16,
}

impl Monitor {
    /// Starts a program that writes its log to `log`.
    fn start(mut command: Command, port: u16, log: &Path) -> Self {
        let log = fs::File::create(log).unwrap();
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let child =
            command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}; .ci/run installs it"));
        Self { child, port }
    }

    /// Starts Prometheus with the configuration of the example, for the daemon at `target` and the Alertmanager at
    /// `alerts`. Nothing waits as long as in the example.
    fn prometheus(dir: &Path, target: u16, token: &str, alerts: u16) -> Self {
        fs::create_dir_all(dir).unwrap();
        let [port] = free_ports();
        let config = example_text("prometheus.yml")
            .replace("127.0.0.1:8080", &format!("127.0.0.1:{target}"))
            .replace("127.0.0.1:9093", &format!("127.0.0.1:{alerts}"))
            .replace("_interval: 15s", "_interval: 1s");
        fs::write(dir.join("prometheus.yml"), config).unwrap();
        fs::write(dir.join("abide.rules.yml"), hasty(&example_text("abide.rules.yml"), "for")).unwrap();
        fs::write(dir.join("abide.token"), token).unwrap();
        let mut command = Command::new("prometheus");
        command
            .arg(format!("--config.file={}", dir.join("prometheus.yml").display()))
            .arg(format!("--storage.tsdb.path={}", dir.join("data").display()))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .args(["--storage.tsdb.retention.time=1h", "--log.level=warn"]);
        Self::start(command, port, &dir.join("prometheus.log"))
    }

    /// Starts Alertmanager with the configuration of the example, for receivers at `receivers`.
    fn alertmanager(dir: &Path, receivers: u16) -> Self {
        fs::create_dir_all(dir).unwrap();
        let [port] = free_ports();
        let config =
            example_text("alertmanager.yml").replace("127.0.0.1:5001", &format!("127.0.0.1:{receivers}"));
        let config = hasty(&hasty(&config, "group_wait"), "group_interval");
        fs::write(dir.join("alertmanager.yml"), config).unwrap();
        let mut command = Command::new("prometheus-alertmanager");
        command
            .arg(format!("--config.file={}", dir.join("alertmanager.yml").display()))
            .arg(format!("--storage.path={}", dir.join("data").display()))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            // Without this, it looks for others in the network.
            .args(["--cluster.listen-address=", "--log.level=warn"]);
        Self::start(command, port, &dir.join("alertmanager.log"))
    }

    /// The answer to a request of its API once it has one.
    fn api(&self, path: &str) -> Option<Value> {
        let (status, body) = http_get(self.port, path).ok()?;
        let answer: Value = serde_json::from_str(&body).ok().filter(|_| status == 200)?;
        Some(answer["data"].clone())
    }

    /// The series that a query matches now.
    fn query(&self, query: &str) -> Vec<Value> {
        let query: String = query.bytes().map(|byte| format!("%{byte:02x}")).collect();
        let data = self.api(&format!("/api/v1/query?query={query}")).unwrap_or_default();
        data["result"].as_array().cloned().unwrap_or_default()
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn prometheus_scrapes_a_daemon_with_a_viewers_token() {
    let Some(scene) = Scene::dev() else { return };
    let token = scene.abide(&["token", "create", "--role", "viewer", "prometheus"]).stdout;
    let dir = scene.space.dir().join("prometheus-files");
    let [nobody] = free_ports();
    let prometheus = Monitor::prometheus(&dir, scene.daemon.port(), &token, nobody);
    let ready = "abide_environment_status{environment=\"dev\",status=\"Ready\"} == 1";
    eventually("it has scraped that dev is Ready", PATIENCE, || !prometheus.query(ready).is_empty());
    let up = prometheus.query("up{job=\"abide\"}");
    assert_eq!(up[0]["value"][1], "1", "{up:?}");
    for histogram in ["deploy", "build", "reconcile"] {
        let buckets = prometheus.query(&format!("abide_{histogram}_duration_seconds_bucket"));
        assert!(buckets.len() >= 15, "{histogram}: {buckets:?}");
    }
    let version = &prometheus.query("abide_build_info")[0]["metric"]["version"];
    assert_eq!(version, env!("CARGO_PKG_VERSION"));
    let rules = prometheus.api("/api/v1/rules").unwrap();
    let rules = rules["groups"][0]["rules"].as_array().unwrap();
    assert!(rules.iter().any(|rule| rule["name"] == "AbideNotReady"), "{rules:?}");
    eventually("every rule was evaluated without an error", PATIENCE, || {
        let groups = prometheus.api("/api/v1/rules").unwrap_or_default();
        let rules = groups["groups"][0]["rules"].as_array().cloned().unwrap_or_default();
        !rules.is_empty() && rules.iter().all(|rule| rule["health"] == "ok")
    });
}

/// The alerts that Alertmanager sent: the path of the receiver, and the alert.
#[derive(Clone, Default)]
struct Alerts(Arc<Mutex<Vec<(String, Value)>>>);

impl Alerts {
    /// Starts the receivers and returns their port.
    fn receive(&self) -> u16 {
        let received = self.clone();
        serve(move |request| {
            let group = request.json();
            let alerts = group["alerts"].as_array().unwrap().iter().cloned();
            received.0.lock().unwrap().extend(alerts.map(|alert| (request.path.clone(), alert)));
            ServedAnswer::empty(200)
        })
    }

    fn of(&self, name: &str) -> Vec<(String, Value)> {
        let all = self.0.lock().unwrap();
        all.iter().filter(|(_, alert)| alert["labels"]["alertname"] == name).cloned().collect()
    }

    /// Waits until `receiver` got the alert with this status, and returns the alert.
    fn until(&self, receiver: &str, name: &str, status: &str) -> Value {
        let alert = eventually_some(&format!("{receiver} gets {name}: {status}"), PATIENCE, || {
            self.of(name).into_iter().find(|(_, alert)| alert["status"] == status)
        });
        assert_eq!(alert.0, receiver, "{alert:?}");
        alert.1
    }
}

#[test]
fn alertmanager_routes_the_alerts_of_a_daemon_to_their_receivers() {
    let Some(scene) = Scene::dev() else { return };
    let token = scene.abide(&["token", "create", "--role", "viewer", "prometheus"]).stdout;
    let (alerts, dir) = (Alerts::default(), scene.space.dir().join("monitoring"));
    let alertmanager = Monitor::alertmanager(&dir, alerts.receive());
    let prometheus = Monitor::prometheus(&dir, scene.daemon.port(), &token, alertmanager.port);
    let ready = "abide_environment_status{environment=\"dev\",status=\"Ready\"} == 1";
    eventually("it has scraped that dev is Ready", PATIENCE, || !prometheus.query(ready).is_empty());

    // A warning goes to the team, and so does its end.
    let manifest = scene.site.manifest();
    scene.site.declare(&format!("{manifest}\n[environment.dev]\n"));
    let warning = alerts.until("/alerts", "AbideManifestRejected", "firing");
    assert_eq!(warning["annotations"]["description"], "abide check");
    scene.site.declare(&manifest);
    alerts.until("/alerts", "AbideManifestRejected", "resolved");

    // An environment that fails is for the person on call.
    assert_eq!(alerts.of("AbideNotReady"), [], "dev was Ready all the time");
    let first = scene.site.repo.head("dev");
    let broken = scene.site.repo.commit_and_push("dev", &[("Dockerfile", "FROM scratch\nCOPY nothing /\n")]);
    assert_eq!(scene.announce_commit("dev", &broken).0, 202);
    scene.await_reason("dev", "Degraded", "BuildFailed");
    let failure = alerts.until("/on-call", "AbideNotReady", "firing");
    assert_eq!(
        (&failure["labels"]["environment"], &failure["annotations"]["description"]),
        (&"dev".into(), &"abide why dev".into())
    );

    scene.abide(&["set", "dev", "--commit", &first]);
    alerts.until("/on-call", "AbideNotReady", "resolved");

    scene.daemon.kill();
    let down = alerts.until("/on-call", "AbideDown", "firing");
    assert_eq!(down["labels"]["job"], "abide");
}
