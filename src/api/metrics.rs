//! `/metrics` in the Prometheus text format.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};

use super::ApiState;
use super::error::ApiError;
use crate::model::status::Condition;
use crate::model::time::Timestamp;
use crate::model::view::EnvironmentView;

/// All conditions, so that each has a line and none vanishes from a graph.
const CONDITIONS: [Condition; 6] = [
    Condition::Ready,
    Condition::Progressing,
    Condition::Degraded,
    Condition::RolledBack,
    Condition::Held,
    Condition::Blocked,
];

/// `GET /metrics`
pub(super) async fn metrics(State(api): State<ApiState>) -> Result<Response, ApiError> {
    let now = (api.clock)();
    let mut page = MetricsPage::default();
    environments(&mut page, &api.apart(ApiState::views).await?, now);
    let builds = api.status.build_counts()?;
    page.family("abide_builds_total", "counter", "Finished builds, by result.");
    page.line("abide_builds_total", &[("result", "built")], builds.built);
    page.line("abide_builds_total", &[("result", "failed")], builds.failed);
    controller(&mut page, &api, now);
    outbox(&mut page, &api, now)?;
    let more = api.more_metrics.as_ref().map(|more| more()).unwrap_or_default();
    let body = format!("{}{more}", page.text);
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], body).into_response())
}

fn environments(page: &mut MetricsPage, views: &[EnvironmentView], now: Timestamp) {
    page.family("abide_environment_status", "gauge", "1 for the current status of the environment.");
    for view in views {
        for condition in CONDITIONS {
            let labels = [("environment", view.environment.as_str()), ("status", condition.as_str())];
            page.line("abide_environment_status", &labels, u64::from(view.status == condition));
        }
    }
    type Value = fn(&EnvironmentView, Timestamp) -> Option<u64>;
    let families: [(&str, &str, &str, Value); 7] = [
        ("abide_environment_generation", "gauge", "The recorded generation.", |view, _| {
            Some(view.generation.0)
        }),
        (
            "abide_environment_observed_generation",
            "gauge",
            "The generation that the status refers to.",
            |view, _| view.observed_generation.map(|generation| generation.0),
        ),
        ("abide_environment_status_seconds", "gauge", "Time since the status last changed.", |view, now| {
            view.since.map(|since| now.since(since).as_secs())
        }),
        ("abide_environment_restarts_total", "counter", "Restarts of the running container.", |view, _| {
            view.running.as_ref().map(|running| u64::from(running.restarts))
        }),
        ("abide_environment_held", "gauge", "1 if the environment is held.", |view, _| {
            Some(u64::from(view.held.is_some()))
        }),
        (
            "abide_certificate_expiry_timestamp_seconds",
            "gauge",
            "When the first certificate of the environment's host names expires.",
            |view, _| view.certificate_expires.map(|at| at.as_millis() / 1000),
        ),
        (
            "abide_environment_promotion_waiting",
            "gauge",
            "1 if a promotion to the environment waits for a gate.",
            |view, _| Some(u64::from(view.waiting.is_some())),
        ),
    ];
    for (name, kind, help, value) in families {
        page.family(name, kind, help);
        for view in views {
            if let Some(value) = value(view, now) {
                page.line(name, &[("environment", view.environment.as_str())], value);
            }
        }
    }
}

fn controller(page: &mut MetricsPage, api: &ApiState, now: Timestamp) {
    let Some(controller) = &api.controller else { return };
    let liveness = controller.alive();
    page.family("abide_engine_up", "gauge", "1 if the Docker Engine responds.");
    page.line("abide_engine_up", &[], u64::from(liveness.engine));
    if let Some(observed) = liveness.observed {
        page.family("abide_observation_age_seconds", "gauge", "Time since the last full observation.");
        page.line("abide_observation_age_seconds", &[], now.since(observed).as_secs());
    }
}

/// The items for forges and channels: how many there are, and since when the oldest waits.
fn outbox(page: &mut MetricsPage, api: &ApiState, now: Timestamp) -> Result<(), ApiError> {
    let items = api.outbox.items()?;
    let mut targets: BTreeMap<String, (u64, u64, u64)> = api
        .manifest
        .borrow()
        .manifest
        .outbox_rules()
        .targets()
        .iter()
        .map(|target| (target.to_string(), (0, 0, 0)))
        .collect();
    for item in &items {
        let (waiting, dead, age) = targets.entry(item.target.to_string()).or_default();
        match item.dead {
            Some(_) => *dead += 1,
            None => {
                *waiting += 1;
                *age = item.at.map_or(*age, |at| (*age).max(now.since(at).as_secs()));
            }
        }
    }
    page.family("abide_outbox_items", "gauge", "Outgoing items that are not delivered.");
    for (target, (waiting, dead, _)) in &targets {
        page.line("abide_outbox_items", &[("target", target), ("state", "waiting")], *waiting);
        page.line("abide_outbox_items", &[("target", target), ("state", "dead")], *dead);
    }
    page.family("abide_outbox_oldest_seconds", "gauge", "Age of the oldest message that is not delivered.");
    for (target, (_, _, age)) in &targets {
        page.line("abide_outbox_oldest_seconds", &[("target", target)], *age);
    }
    page.family("abide_outbox_dropped_total", "counter", "Messages dropped because a channel had too many.");
    page.line("abide_outbox_dropped_total", &[], api.outbox.dropped()?);
    Ok(())
}

/// Lines in the Prometheus text format.
#[derive(Default)]
struct MetricsPage {
    text: String,
}

impl MetricsPage {
    /// Starts a metric family.
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn line(&mut self, name: &str, labels: &[(&str, &str)], value: u64) {
        let labels: Vec<String> =
            labels.iter().map(|(label, value)| format!("{label}=\"{}\"", escape(value))).collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        let _ = writeln!(self.text, "{name}{labels} {value}");
    }
}

/// Escapes a label value: three characters would break it.
fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_label_ends_early() {
        let mut page = MetricsPage::default();
        page.line("x", &[("a", "one\n\"two\"\\")], 3);
        assert_eq!(page.text, "x{a=\"one\\n\\\"two\\\"\\\\\"} 3\n");
    }
}
