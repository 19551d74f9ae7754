//! `/metrics` in the Prometheus text format: the measurements of this process, and what the record and the controller
//! report now.

use std::collections::{BTreeMap, BTreeSet};

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};

use super::ApiState;
use super::error::ApiError;
use crate::metrics::MetricSnapshot;
use crate::model::job::{JobResult, JobRunView, JobView};
use crate::model::name::AgentName;
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
    let mut page = MetricSnapshot::default();
    environments(&mut page, &api.apart(ApiState::views).await?, now);
    about_process(&mut page, &api);
    let builds = api.status.build_counts()?;
    page.counter("abide_builds_total", "Finished builds, by result.");
    page.value(&[("result", "built")], builds.built);
    page.value(&[("result", "failed")], builds.failed);
    controller(&mut page, &api, now);
    agents(&mut page, &api);
    disk(&mut page, &api);
    outbox(&mut page, &api, now)?;
    jobs(&mut page, &api.jobs()?);
    let body = api
        .metrics
        .render(page)
        .map_err(|_| ApiError::unavailable("metrics", "the metrics cannot be encoded"))?;
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], body).into_response())
}

fn environments(page: &mut MetricSnapshot, views: &[EnvironmentView], now: Timestamp) {
    page.gauge("abide_environment_status", "1 for the current status of the environment.");
    for view in views {
        for condition in CONDITIONS {
            let labels = [("environment", view.environment.as_str()), ("status", condition.as_str())];
            page.value(&labels, u64::from(view.status == condition));
        }
    }
    page.gauge("abide_environment_reason", "1 for the reason of the current status.");
    for view in views {
        page.value(&[("environment", view.environment.as_str()), ("reason", view.reason.as_str())], 1);
    }
    type Value = fn(&EnvironmentView, Timestamp) -> Option<u64>;
    type Begin = fn(&mut MetricSnapshot, &'static str, &'static str);
    let (gauge, counter): (Begin, Begin) = (MetricSnapshot::gauge, MetricSnapshot::counter);
    let families: [(&str, Begin, &str, Value); 7] = [
        ("abide_environment_generation", gauge, "The recorded generation.", |view, _| {
            Some(view.generation.0)
        }),
        (
            "abide_environment_observed_generation",
            gauge,
            "The generation that the status refers to.",
            |view, _| view.observed_generation.map(|generation| generation.0),
        ),
        ("abide_environment_status_seconds", gauge, "Time since the status last changed.", |view, now| {
            view.since.map(|since| now.since(since).as_secs())
        }),
        ("abide_environment_restarts_total", counter, "Restarts of the running container.", |view, _| {
            view.running.as_ref().map(|running| u64::from(running.restarts))
        }),
        ("abide_environment_held", gauge, "1 if the environment is held.", |view, _| {
            Some(u64::from(view.held.is_some()))
        }),
        (
            "abide_certificate_expiry_timestamp_seconds",
            gauge,
            "When the first certificate of the environment's host names expires.",
            |view, _| view.certificate_expires.map(|at| at.as_millis() / 1000),
        ),
        (
            "abide_environment_promotion_waiting",
            gauge,
            "1 if a promotion to the environment waits for a gate.",
            |view, _| Some(u64::from(view.waiting.is_some())),
        ),
    ];
    for (name, begin, help, value) in families {
        begin(page, name, help);
        for view in views {
            if let Some(value) = value(view, now) {
                page.value(&[("environment", view.environment.as_str())], value);
            }
        }
    }
}

/// The jobs of all hosts.
fn jobs(page: &mut MetricSnapshot, jobs: &[JobView]) {
    page.counter("abide_job_runs_total", "Ended runs of a job, by result; missed ones count as failed.");
    for job in jobs {
        let (name, environment) = (job.name.as_str(), job.environment.as_str());
        for (result, count) in [("succeeded", job.successes), ("failed", job.failures)] {
            page.value(&[("job", name), ("environment", environment), ("result", result)], count);
        }
    }
    page.gauge("abide_job_failed", "1 if the last ended run of a job failed or was missed.");
    for job in jobs {
        // A skipped run has no result, because an earlier run continues.
        let ended = |run: &&JobRunView| run.result.is_settled() && run.result != JobResult::Skipped;
        if let Some(run) = job.runs.iter().find(ended) {
            let labels = [("job", job.name.as_str()), ("environment", job.environment.as_str())];
            page.value(&labels, u64::from(run.result.is_bad()));
        }
    }
    type Value = fn(&JobView) -> Option<Timestamp>;
    let times: [(&str, &str, Value); 2] = [
        ("abide_job_last_success_timestamp_seconds", "When a job last succeeded.", |job| job.last_success),
        ("abide_job_next_run_timestamp_seconds", "The next scheduled time of a job.", |job| job.next),
    ];
    for (family, help, value) in times {
        page.gauge(family, help);
        for job in jobs {
            if let Some(at) = value(job) {
                let labels = [("job", job.name.as_str()), ("environment", job.environment.as_str())];
                page.value(&labels, at.as_millis() / 1000);
            }
        }
    }
}

/// The software, and whether it uses the manifest as it is edited.
fn about_process(page: &mut MetricSnapshot, api: &ApiState) {
    let labels = [
        ("version", env!("CARGO_PKG_VERSION")),
        ("commit", env!("ABIDE_BUILT_COMMIT")),
        ("date", env!("ABIDE_BUILT_DATE")),
    ];
    page.gauge("abide_build_info", "1, with the version. Builds from source name no commit.");
    page.value(&labels, 1);
    page.gauge(
        "abide_manifest_valid",
        "0 if an edit of the manifest was rejected, and the last valid one is used.",
    );
    page.value(&[], u64::from(api.manifest.borrow().problem.is_none()));
    if api.manifest.borrow().in_force.is_some() {
        page.gauge("abide_manifest_branch_readable", "0 if the branch with the manifest cannot be read.");
        page.value(&[], u64::from(api.manifest.borrow().unread.is_none()));
    }
}

fn controller(page: &mut MetricSnapshot, api: &ApiState, now: Timestamp) {
    let Some(controller) = &api.controller else { return };
    let liveness = controller.alive();
    page.gauge("abide_engine_up", "1 if the Docker Engine responds.");
    page.value(&[], u64::from(liveness.engine));
    if let Some(observed) = liveness.observed {
        page.gauge("abide_observation_age_seconds", "Time since the last full observation.");
        page.value(&[], now.since(observed).as_secs());
    }
}

/// The agents that the manifest names. Without a daemon, none can be connected.
fn agents(page: &mut MetricSnapshot, api: &ApiState) {
    if api.controller.is_none() {
        return;
    }
    let hosts = |host: &AgentName| host.clone();
    let state = api.manifest.borrow().clone();
    let agents: BTreeSet<AgentName> =
        state.manifest.environments.values().filter_map(|spec| spec.host.as_ref().map(hosts)).collect();
    let agents: Vec<_> = agents.into_iter().map(|agent| (api.hub.presence(&agent), agent)).collect();
    page.gauge("abide_agent_connected", "1 if the agent of a host is connected.");
    for (presence, agent) in &agents {
        page.value(&[("agent", agent.as_str())], u64::from(presence.connected));
    }
    page.gauge("abide_agent_last_seen_timestamp_seconds", "When an agent was last connected.");
    for (presence, agent) in &agents {
        if let Some(seen) = presence.last_seen {
            page.value(&[("agent", agent.as_str())], seen.as_millis() / 1000);
        }
    }
}

/// The disk of the record, which also has the mirrors, build logs and outputs.
fn disk(page: &mut MetricSnapshot, api: &ApiState) {
    let Some(disk) = api.status.disk_space() else { return };
    page.gauge("abide_record_disk_free_bytes", "Bytes that can still be written on the disk of the record.");
    page.value(&[], disk.free);
    page.gauge("abide_record_disk_size_bytes", "Size of the disk of the record.");
    page.value(&[], disk.size);
}

/// The items for forges and channels: how many there are, and since when the oldest waits.
fn outbox(page: &mut MetricSnapshot, api: &ApiState, now: Timestamp) -> Result<(), ApiError> {
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
    page.gauge("abide_outbox_items", "Outgoing items that are not delivered.");
    for (target, (waiting, dead, _)) in &targets {
        page.value(&[("target", target), ("state", "waiting")], *waiting);
        page.value(&[("target", target), ("state", "dead")], *dead);
    }
    page.gauge("abide_outbox_oldest_seconds", "Age of the oldest message that is not delivered.");
    for (target, (_, _, age)) in &targets {
        page.value(&[("target", target)], *age);
    }
    page.counter("abide_outbox_dropped_total", "Messages dropped because a channel had too many.");
    page.value(&[], api.outbox.dropped()?);
    Ok(())
}
