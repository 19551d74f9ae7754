//! The state of a workload, computed from its tasks: the target's own report of an update is not trusted, because it
//! calls an update complete while a task is still pending.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::{Endpoint, Rollout, SeenWorkload, TaskFailure, TaskFailureKind, VersionCount};
use crate::model::cause;
use crate::model::time::Timestamp;

/// How long a task may find no node before it counts as stuck: at first every task is pending.
const PENDING: Duration = Duration::from_secs(5);

/// Part of the target's error if a node could not pull an image.
const NO_IMAGE: &str = "No such image";

/// One attempt to run a replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenTask {
    /// The version that it runs; `None`: abide did not declare it.
    pub version: Option<String>,
    /// How far it is.
    pub phase: TaskPhase,
    /// Whether the target wants it to run.
    pub is_wanted: bool,
    /// The host name of its node.
    pub node: Option<String>,
    /// Whether that node is connected.
    pub is_node_up: bool,
    /// The address of that node.
    pub address: Option<IpAddr>,
    /// The target's error.
    pub error: Option<String>,
    /// The exit code of its program.
    pub exit_code: Option<i64>,
    /// When it was made.
    pub created_at: Timestamp,
    /// Since when it is in its phase.
    pub since: Timestamp,
    /// The port that its node publishes for it.
    pub port: Option<u16>,
}

/// How far a task is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskPhase {
    /// It waits for a node.
    Waiting,
    /// Its node prepares the image.
    Preparing,
    /// Its container starts, or is not healthy yet.
    Starting,
    /// Its container runs, and is healthy if it has a check.
    Running,
    /// Its program ended by itself.
    Ended,
    /// Its node cannot run it.
    Rejected,
    /// The target stopped it.
    Stopped,
}

/// How long after a write the target may still show the state before it.
const ANNOUNCED: Duration = Duration::from_secs(1);

/// The update of a workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenUpdate {
    /// How far it is.
    pub progress: UpdateProgress,
    /// When it began, or the workload was created, by the clock that also stamps tasks.
    pub began_at: Timestamp,
}

/// The target's report of an update.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum UpdateProgress {
    /// None is under way.
    #[default]
    Idle,
    /// One is under way, or is watched after its last replica.
    Updating,
    /// It was stopped after a failure, with the target's message.
    Paused(String),
}

impl SeenTask {
    fn is_ready(&self, settle: Duration, now: Timestamp) -> bool {
        self.is_wanted
            && self.phase == TaskPhase::Running
            && self.is_node_up
            && now >= self.since.after(settle)
    }

    /// Where it answers requests. The target stops the replica that a new one replaces as soon as the new one runs, so
    /// a new one serves before it has settled.
    fn serves_at(&self) -> Option<SocketAddr> {
        let runs = self.is_wanted && self.phase == TaskPhase::Running && self.is_node_up;
        Some(SocketAddr::new(self.address?, self.port?)).filter(|_| runs)
    }

    fn failure(&self) -> Option<TaskFailure> {
        let error = self.error.as_deref().unwrap_or_default();
        let kind = match self.phase {
            TaskPhase::Ended if error.contains("unhealthy") => TaskFailureKind::Unhealthy,
            // 128 + SIGKILL and SIGTERM: somebody else ended it, or the kernel.
            TaskPhase::Ended if matches!(self.exit_code, Some(137 | 143)) => TaskFailureKind::Outside,
            TaskPhase::Ended if cause::of_start(error).is_verdict() => TaskFailureKind::NotStarted,
            TaskPhase::Ended if error.is_empty() || error.contains("non-zero exit") => {
                TaskFailureKind::Exited
            }
            TaskPhase::Rejected if error.contains(NO_IMAGE) => TaskFailureKind::NoImage,
            TaskPhase::Ended | TaskPhase::Rejected => TaskFailureKind::Outside,
            TaskPhase::Waiting
            | TaskPhase::Preparing
            | TaskPhase::Starting
            | TaskPhase::Running
            | TaskPhase::Stopped => return None,
        };
        let how = match (error, self.exit_code) {
            ("", Some(code)) => format!("ended with exit code {code}"),
            ("", None) => "ended".to_owned(),
            (error, _) => error.to_owned(),
        };
        let node = self.node.as_deref();
        let why = match (kind, node) {
            (TaskFailureKind::NoImage, _) => {
                format!("{how}: {} could not pull it", node.unwrap_or("its node"))
            }
            (_, Some(node)) => format!("{how} on {node}"),
            (_, None) => how,
        };
        Some(TaskFailure { why, kind, at: self.since, is_paused: false })
    }
}

/// Adds to a workload, of which everything but its tasks is known, what they show. A replica is ready once it has run
/// for `settle`.
#[must_use]
pub fn summary(
    seen: SeenWorkload,
    tasks: &[SeenTask],
    update: &SeenUpdate,
    settle: Duration,
    now: Timestamp,
) -> SeenWorkload {
    let is_it = |task: &&SeenTask| task.version.as_ref() == Some(&seen.version);
    let ready = || tasks.iter().filter(is_it).filter(|task| task.is_ready(settle, now));
    let mut endpoints: Vec<Endpoint> =
        ready().filter_map(|task| Some(Endpoint { node: task.node.clone()?, port: task.port })).collect();
    endpoints.sort();
    let mut serving: Vec<SocketAddr> = tasks.iter().filter_map(SeenTask::serves_at).collect();
    serving.sort_unstable();
    let mut failures: Vec<TaskFailure> = tasks.iter().filter(is_it).filter_map(SeenTask::failure).collect();
    failures.sort_by_key(|failure| failure.at);
    SeenWorkload {
        counts: counts(tasks, settle, now),
        rollout: rollout(&seen, tasks, update, settle, now),
        failures,
        started_at: ready().map(|task| task.since).min(),
        endpoints,
        serving,
        ..seen
    }
}

fn counts(tasks: &[SeenTask], settle: Duration, now: Timestamp) -> BTreeMap<String, VersionCount> {
    let mut counts: BTreeMap<String, VersionCount> = BTreeMap::new();
    for task in tasks.iter().filter(|task| task.is_wanted) {
        let count = counts.entry(task.version.clone().unwrap_or_default()).or_default();
        if task.is_ready(settle, now) { count.ready += 1 } else { count.awaited += 1 }
    }
    counts
}

fn rollout(
    seen: &SeenWorkload,
    tasks: &[SeenTask],
    update: &SeenUpdate,
    settle: Duration,
    now: Timestamp,
) -> Rollout {
    let is_it = |task: &SeenTask| task.version.as_ref() == Some(&seen.version);
    let wanted = || tasks.iter().filter(|task| task.is_wanted);
    let all_are_ready = wanted().all(|task| is_it(task) && task.is_ready(settle, now))
        && u32::try_from(wanted().count()) == Ok(seen.replicas);
    // Tasks from before the update are unrelated to it.
    let is_new = |task: &&SeenTask| is_it(task) && task.created_at >= update.began_at;
    let mut failed: Vec<TaskFailure> = tasks.iter().filter(is_new).filter_map(SeenTask::failure).collect();
    // The program's own failure counts before others, and the first before its consequences.
    failed.sort_by_key(|failure| (!failure.kind.is_verdict(), failure.at));
    let first = failed.into_iter().next();
    let is_announced = now >= seen.written_at.after(ANNOUNCED);
    match &update.progress {
        UpdateProgress::Idle if !is_announced && !all_are_ready => {
            return Rollout::Moving { is_pulling: false };
        }
        UpdateProgress::Paused(words) => {
            let unnamed = || TaskFailure {
                why: words.clone(),
                kind: TaskFailureKind::Outside,
                at: seen.written_at,
                is_paused: true,
            };
            return Rollout::Failed(TaskFailure { is_paused: true, ..first.unwrap_or_else(unnamed) });
        }
        UpdateProgress::Idle if all_are_ready => return Rollout::Settled,
        UpdateProgress::Idle | UpdateProgress::Updating => {}
    }
    if let Some(failure) = first.filter(|_| !all_are_ready) {
        return Rollout::Failed(failure);
    }
    let is_stuck = |task: &&SeenTask| {
        task.phase == TaskPhase::Waiting && task.error.is_some() && now >= task.created_at.after(PENDING)
    };
    if let Some(stuck) = wanted().find(is_stuck) {
        return Rollout::Stuck(stuck.error.clone().unwrap_or_default());
    }
    Rollout::Moving { is_pulling: wanted().any(|task| task.phase == TaskPhase::Preparing) }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::model::workload::WriteToken;

    const WRITTEN: u64 = 100_000;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_millis(WRITTEN + seconds * 1000)
    }

    fn task(version: &str, phase: TaskPhase) -> SeenTask {
        SeenTask {
            version: Some(version.to_owned()),
            phase,
            is_wanted: !matches!(phase, TaskPhase::Ended | TaskPhase::Rejected | TaskPhase::Stopped),
            node: Some("n1".to_owned()),
            is_node_up: true,
            address: Some(IpAddr::from([10, 0, 0, 11])),
            error: None,
            exit_code: None,
            created_at: at(1),
            since: at(2),
            port: None,
        }
    }

    fn seen(tasks: &[SeenTask], update: &UpdateProgress, settle: u64, now: u64) -> SeenWorkload {
        let bare = SeenWorkload {
            id: "s".to_owned(),
            token: WriteToken::default(),
            fingerprint: "f".to_owned(),
            version: "new".to_owned(),
            changes: BTreeSet::new(),
            replicas: 2,
            written_at: at(0),
            counts: BTreeMap::new(),
            rollout: Rollout::Settled,
            failures: Vec::new(),
            started_at: None,
            endpoints: Vec::new(),
            serving: Vec::new(),
            nodes: Vec::new(),
            leftovers: Vec::new(),
        };
        let update = SeenUpdate { progress: update.clone(), began_at: at(0) };
        summary(bare, tasks, &update, Duration::from_secs(settle), at(now))
    }

    fn rolled(tasks: &[SeenTask]) -> Rollout {
        seen(tasks, &UpdateProgress::Idle, 0, 10).rollout
    }

    const MOVING: Rollout = Rollout::Moving { is_pulling: false };

    #[test]
    fn an_update_that_the_target_calls_complete_is_not_settled_while_a_task_is_pending() {
        let pending = SeenTask { created_at: at(8), ..task("new", TaskPhase::Waiting) };
        assert_eq!(rolled(&[task("new", TaskPhase::Running), pending]), MOVING);
        assert_eq!(
            rolled(&[task("new", TaskPhase::Running), task("new", TaskPhase::Running)]),
            Rollout::Settled
        );
    }

    #[test]
    fn settled_means_all_replicas_on_connected_nodes_and_no_other_version() {
        let running = || task("new", TaskPhase::Running);
        assert_eq!(rolled(&[running(), running(), task("old", TaskPhase::Running)]), MOVING);
        assert_eq!(rolled(&[running(), SeenTask { is_node_up: false, ..running() }]), MOVING);
        assert_eq!(rolled(&[running()]), MOVING, "one is missing");
        assert_eq!(rolled(&[running(), running(), running()]), MOVING, "one too many");
        assert_eq!(rolled(&[running(), running(), task("old", TaskPhase::Stopped)]), Rollout::Settled);
        let all = [running(), running()];
        assert_eq!(seen(&all, &UpdateProgress::Updating, 0, 10).rollout, MOVING, "the target still watches");
        assert_eq!(seen(&all, &UpdateProgress::Idle, 9, 10).rollout, MOVING, "not for long enough");
        assert_eq!(seen(&all, &UpdateProgress::Idle, 8, 10).rollout, Rollout::Settled);
    }

    fn failed(task: SeenTask) -> Option<(TaskFailureKind, String)> {
        match rolled(&[self::task("new", TaskPhase::Running), task]) {
            Rollout::Failed(failure) => Some((failure.kind, failure.why)),
            _ => None,
        }
    }

    #[test]
    fn failures_are_blamed_on_the_version_only_if_its_program_caused_them() {
        let ended = |error: &str, code| SeenTask {
            error: Some(error.to_owned()).filter(|error| !error.is_empty()),
            exit_code: code,
            ..task("new", TaskPhase::Ended)
        };
        let kind = |task| failed(task).unwrap().0;
        assert_eq!(kind(ended("task: non-zero exit (3)", Some(3))), TaskFailureKind::Exited);
        assert_eq!(failed(ended("", Some(0))).unwrap().1, "ended with exit code 0 on n1");
        let unhealthy = "task: non-zero exit (137): dockerexec: unhealthy container";
        assert_eq!(kind(ended(unhealthy, Some(137))), TaskFailureKind::Unhealthy);
        assert_eq!(kind(ended("task: non-zero exit (137)", Some(137))), TaskFailureKind::Outside);
        let rejected =
            SeenTask { error: Some("No such image: a@b".to_owned()), ..task("new", TaskPhase::Rejected) };
        let (kind_of, why) = failed(rejected).unwrap();
        assert_eq!(kind_of, TaskFailureKind::NoImage);
        assert_eq!(why, "No such image: a@b: n1 could not pull it");
    }

    #[test]
    fn earlier_failures_and_those_of_other_versions_do_not_count() {
        let early =
            SeenTask { created_at: Timestamp::from_millis(WRITTEN - 1), ..task("new", TaskPhase::Ended) };
        assert_eq!(failed(early), None);
        assert_eq!(failed(task("old", TaskPhase::Ended)), None);
    }

    #[test]
    fn a_paused_update_has_failed_even_if_all_that_runs_is_ready() {
        let paused = UpdateProgress::Paused("update paused".to_owned());
        let tasks = [task("old", TaskPhase::Running), task("old", TaskPhase::Running)];
        let Rollout::Failed(failure) = seen(&tasks, &paused, 0, 10).rollout else { panic!("not failed") };
        assert!(failure.is_paused && failure.why == "update paused" && !failure.kind.is_verdict());
    }

    #[test]
    fn right_after_a_write_the_earlier_state_is_not_judged() {
        let failed = SeenTask { since: at(0), created_at: at(0), ..task("new", TaskPhase::Ended) };
        let rollout = |now| seen(std::slice::from_ref(&failed), &UpdateProgress::Idle, 0, now).rollout;
        assert_eq!(rollout(0), MOVING);
        assert!(matches!(rollout(1), Rollout::Failed(_)));
    }

    #[test]
    fn running_replicas_of_every_version_serve_until_the_target_stops_them() {
        let at_port = |port, task| SeenTask { port: Some(port), ..task };
        let tasks = [
            at_port(5, task("new", TaskPhase::Running)),
            at_port(4, task("old", TaskPhase::Running)),
            at_port(3, task("new", TaskPhase::Starting)),
            // A replica that was told to stop still runs for a while.
            at_port(2, SeenTask { is_wanted: false, ..task("old", TaskPhase::Running) }),
            at_port(1, SeenTask { is_node_up: false, ..task("new", TaskPhase::Running) }),
            task("new", TaskPhase::Running),
        ];
        let serving = seen(&tasks, &UpdateProgress::Updating, 9, 10).serving;
        assert_eq!(serving, [([10, 0, 0, 11], 4).into(), ([10, 0, 0, 11], 5).into()]);
    }

    #[test]
    fn a_task_without_a_node_is_stuck_after_a_while() {
        let words = "no suitable node (scheduling constraints not satisfied on 1 node)";
        let waiting = SeenTask { error: Some(words.to_owned()), ..task("new", TaskPhase::Waiting) };
        let rollout = |now| seen(std::slice::from_ref(&waiting), &UpdateProgress::Updating, 0, now).rollout;
        assert_eq!(rollout(5), MOVING);
        assert_eq!(rollout(6), Rollout::Stuck(words.to_owned()));
    }
}
