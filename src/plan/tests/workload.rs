//! Environments that an orchestrator runs, in a small cluster that obeys every step.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use super::world::{World, digest};
use crate::model::container::Secret;
use crate::model::desired::{Bad, Desired, Entry, Hold, Image, Origin, Outcome};
use crate::model::front::FrontSeen;
use crate::model::memory::Memory;
use crate::model::name::Generation;
use crate::model::observed::Observed;
use crate::model::spec::{Probe, Update};
use crate::model::status::{Condition, Reason};
use crate::model::time::Timestamp;
use crate::model::workload::{
    Endpoint, NodeState, PortMode, Rollout, SeenWorkload, SwarmNode, SwarmSpec, TaskFailure, TaskFailureKind,
    VersionCount, Workload, WorkloadSight, WriteToken,
};
use crate::plan::{
    DeclaredWorkload, Intent, Plan, RecordStep, Step, StepFailure, SupplyKind, WorkloadIntent, after_failure,
    must_be_stored, plan,
};

/// How long replicas of the cluster take until they are ready.
const BOOT: Duration = Duration::from_secs(3);

fn image(number: u8) -> Image {
    Image {
        reference: Some("registry.example.com/app".to_owned()),
        digest: Some(digest(100 + number)),
        id: Some(digest(number)),
    }
}

/// How the replicas of an image end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Crashes,
    NeverReady,
    FindsNoNode,
    Killed,
}

/// A cluster with one service.
struct Cluster {
    now: Timestamp,
    intent: Intent,
    observed: Observed,
    memory: Memory,
    service: Option<Workload>,
    index: u64,
    written_at: Timestamp,
    changes: BTreeSet<String>,
    fates: BTreeMap<String, Fate>,
    /// Failures of the version that was ready.
    crashes: Vec<Timestamp>,
    /// The declaration of the good version.
    good: Option<(Generation, DeclaredWorkload)>,
    done: Vec<Step>,
    outcome: Option<(Generation, Outcome)>,
    is_silent: bool,
    nodes: BTreeMap<&'static str, NodeState>,
    /// The nodes of the ready replicas.
    places: Vec<&'static str>,
    /// The addresses of the replicas.
    serving: Vec<SocketAddr>,
}

impl Cluster {
    fn new() -> Self {
        let World { now, mut intent, .. } = World::empty();
        intent.supply = SupplyKind::Named;
        intent.update = None;
        intent.health.probe = Probe::Tcp;
        if let Ok(options) = &mut intent.options {
            options.volumes.clear();
        }
        let placement = SwarmSpec {
            replicas: 3,
            constraints: Vec::new(),
            spread: None,
            per_node: None,
            parallel: 1,
            ports: PortMode::Ingress,
        };
        intent.workload = Some(WorkloadIntent { placement, before: None });
        Self {
            now,
            intent,
            observed: Observed::default(),
            memory: Memory::default(),
            service: None,
            index: 0,
            written_at: now,
            changes: BTreeSet::new(),
            fates: BTreeMap::new(),
            crashes: Vec::new(),
            good: None,
            done: Vec::new(),
            outcome: None,
            is_silent: false,
            nodes: BTreeMap::from([("n1", NodeState::Ready), ("n2", NodeState::Ready)]),
            places: vec!["n1"],
            serving: Vec::new(),
        }
    }

    /// A cluster in which image 1 is ready.
    fn running() -> Self {
        let mut cluster = Self::new();
        cluster.set(1);
        cluster.rest();
        assert_eq!(cluster.status(), (Condition::Ready, Reason::AsRecorded));
        cluster.wait(1200);
        cluster.done.clear();
        cluster
    }

    fn set(&mut self, number: u8) {
        self.record(image(number), Origin::Promotion);
    }

    fn record(&mut self, image: Image, origin: Origin) {
        self.observed.images.extend(image.id.clone());
        self.intent.entry = Entry {
            generation: self.intent.entry.generation.next().unwrap(),
            image: Some(image),
            origin: Some(origin),
            at: self.now,
            ..Entry::default()
        };
    }

    fn fail(&mut self, number: u8, fate: Fate) {
        self.fates.insert(format!("registry.example.com/app@{}", digest(100 + number)), fate);
    }

    fn declared(&self) -> DeclaredWorkload {
        DeclaredWorkload {
            options: self.intent.options.clone().unwrap(),
            health: self.intent.health.clone(),
            placement: self.intent.workload.as_ref().unwrap().placement.clone(),
            update: self.intent.update,
        }
    }

    fn edit(&mut self, variable: &str) {
        let options = self.intent.options.as_mut().unwrap();
        options.env.insert(variable.to_owned(), Secret::new("1"));
    }

    fn failure(&self, kind: TaskFailureKind, is_paused: bool) -> TaskFailure {
        TaskFailure { why: "task: non-zero exit (3) on n1".to_owned(), kind, at: self.now, is_paused }
    }

    fn sight(&self) -> WorkloadSight {
        if self.is_silent {
            return WorkloadSight::Unknown("the swarm has no leader".to_owned());
        }
        let Some(workload) = &self.service else { return WorkloadSight::Missing };
        let fate = self.fates.get(&workload.image);
        let is_up = self.now >= self.written_at.after(BOOT);
        let rollout = match fate {
            _ if self.crashes.last() == Some(&self.now) => {
                Rollout::Failed(self.failure(TaskFailureKind::Exited, false))
            }
            Some(Fate::Crashes) if is_up => Rollout::Failed(self.failure(TaskFailureKind::Exited, true)),
            Some(Fate::Killed) if is_up => Rollout::Failed(self.failure(TaskFailureKind::Outside, true)),
            Some(Fate::FindsNoNode) if is_up => Rollout::Stuck("no suitable node".to_owned()),
            Some(_) => Rollout::Moving { is_pulling: false },
            None if is_up => Rollout::Settled,
            None => Rollout::Moving { is_pulling: false },
        };
        let ready = if rollout == Rollout::Settled { workload.placement.replicas } else { 1 };
        let version = workload.version();
        let failures = self
            .crashes
            .iter()
            .map(|at| TaskFailure { at: *at, ..self.failure(TaskFailureKind::Exited, false) });
        let node = |(name, state): (&&str, &NodeState)| SwarmNode {
            name: (*name).to_owned(),
            state: *state,
            address: None,
        };
        let endpoint = |node: &&str| Endpoint { node: (*node).to_owned(), port: None };
        WorkloadSight::Seen(Box::new(SeenWorkload {
            id: "service".to_owned(),
            token: WriteToken { index: self.index, forced: 0 },
            fingerprint: workload.fingerprint(),
            counts: BTreeMap::from([(version.clone(), VersionCount { ready, awaited: 0 })]),
            version,
            changes: self.changes.clone(),
            replicas: workload.placement.replicas,
            written_at: self.written_at,
            rollout,
            failures: failures.collect(),
            started_at: Some(self.written_at),
            endpoints: self.places.iter().map(endpoint).collect(),
            serving: self.serving.clone(),
            nodes: self.nodes.iter().map(node).collect(),
            leftovers: Vec::new(),
        }))
    }

    fn plan(&mut self) -> Plan {
        self.observed.workload = Some(self.sight());
        let before = self.good.as_ref().map(|(_, declared)| Box::new(declared.clone()));
        self.intent.workload.as_mut().unwrap().before = before;
        let plan = plan(&self.intent, &self.observed, &self.memory, self.now);
        assert_eq!(plan, crate::plan::plan(&self.intent, &self.observed, &self.memory, self.now));
        plan
    }

    /// Reconciles until nothing is left to do now.
    fn reconcile(&mut self) {
        for _ in 0..10 {
            let plan = self.plan();
            self.memory = plan.memory.clone();
            if let Some(good) = &self.memory.good
                && self.good.as_ref().is_none_or(|(generation, _)| *generation != good.generation)
            {
                self.good = Some((good.generation, self.declared()));
            }
            self.outcome = plan.outcome.clone().or(self.outcome.take());
            for planned in &plan.steps {
                self.done.push(planned.step.clone());
                self.take(&planned.step);
            }
            if plan.steps.is_empty() {
                return;
            }
        }
        panic!("it never comes to rest: {:?}", self.plan());
    }

    fn take(&mut self, step: &Step) {
        match step {
            Step::ApplyWorkload { workload, over } => {
                let exists = self.service.is_some().then(|| ("service".to_owned(), self.index));
                assert_eq!(over.clone().map(|(id, token)| (id, token.index)), exists, "another one was seen");
                self.service = Some((**workload).clone());
                self.index += 1;
                self.written_at = self.now;
                self.changes.clear();
            }
            Step::Record(RecordStep::RollBack { from, to, reason, message, .. }) => {
                let failed = self.intent.entry.image.clone().unwrap();
                let of = self.service.as_ref().unwrap();
                assert!(
                    of.image.ends_with(to.image.digest.as_ref().unwrap().as_str()),
                    "the record moves first"
                );
                let mut desired = Desired::empty(self.intent.environment.clone());
                desired.mark_bad(Bad {
                    image: failed,
                    generation: *from,
                    revision: None,
                    reason: *reason,
                    message: message.clone(),
                    at: self.now,
                });
                self.intent.bad = desired.bad;
                self.record(to.image.clone(), Origin::AutomaticRollback);
            }
            other => panic!("{other:?}"),
        }
    }

    /// Lets time pass, with a reconcile each half second.
    fn wait(&mut self, halves: u32) {
        for _ in 0..halves {
            self.reconcile();
            self.now = self.now.after(Duration::from_millis(500));
        }
        self.reconcile();
    }

    fn rest(&mut self) {
        self.wait(20);
    }

    fn status(&mut self) -> (Condition, Reason) {
        let verdict = self.plan().verdict;
        assert!(!verdict.message.is_empty());
        (verdict.condition, verdict.reason)
    }

    fn writes(&self) -> usize {
        self.done.iter().filter(|step| matches!(step, Step::ApplyWorkload { .. })).count()
    }

    fn runs(&self, number: u8) -> bool {
        let image = self.service.as_ref().map(|service| service.image.clone());
        image.is_some_and(|image| image.ends_with(digest(100 + number).as_str()))
    }
}

#[test]
fn the_recorded_image_becomes_a_service_and_is_ready_once_its_replicas_are() {
    let mut cluster = Cluster::new();
    cluster.set(1);
    cluster.reconcile();
    assert!(cluster.runs(1));
    assert_eq!(cluster.status(), (Condition::Progressing, Reason::AwaitingHealth));
    assert_eq!(cluster.outcome, None);
    cluster.rest();
    assert_eq!(cluster.status(), (Condition::Ready, Reason::AsRecorded));
    assert_eq!(cluster.outcome, Some((Generation(1), Outcome::Ready)));
    assert_eq!(cluster.writes(), 1);
    assert!(
        cluster.plan().verdict.message.contains("3 replicas on n1"),
        "{}",
        cluster.plan().verdict.message
    );
}

/// A request to forget the environment looks for services only if this is remembered.
#[test]
fn a_service_is_remembered_before_it_is_created() {
    let mut cluster = Cluster::new();
    cluster.set(1);
    let plan = cluster.plan();
    assert!(matches!(plan.steps[0].step, Step::ApplyWorkload { .. }));
    assert!(plan.memory.workload.is_some() && must_be_stored(&cluster.memory, &plan.memory));
}

#[test]
fn a_new_image_replaces_exactly_the_observed_service() {
    let mut cluster = Cluster::running();
    cluster.set(2);
    cluster.rest();
    assert!(cluster.runs(2) && cluster.writes() == 1);
    assert_eq!(cluster.status(), (Condition::Ready, Reason::AsRecorded));
    let good = cluster.memory.good.clone().unwrap();
    assert!(good.image.is_same(&image(2)) && cluster.memory.before.unwrap().image.is_same(&image(1)));
}

#[test]
fn a_failed_update_gets_the_previous_version_back_at_once_and_the_record_follows() {
    let mut cluster = Cluster::running();
    let before = cluster.service.clone().unwrap();
    cluster.fail(2, Fate::Crashes);
    cluster.set(2);
    cluster.reconcile();
    assert!(cluster.runs(2));
    cluster.now = cluster.now.after(BOOT);
    cluster.reconcile();
    assert_eq!(cluster.service.as_ref().map(Workload::fingerprint), Some(before.fingerprint()), "at once");
    assert_eq!(cluster.intent.entry.generation, Generation(2), "the record waits until it serves");
    assert_eq!(cluster.status(), (Condition::Progressing, Reason::RolledBack));
    cluster.rest();
    assert_eq!(cluster.intent.entry.origin, Some(Origin::AutomaticRollback));
    assert_eq!(cluster.status(), (Condition::RolledBack, Reason::RolledBack));
    assert!(
        cluster.plan().verdict.message.contains("non-zero exit (3)"),
        "{}",
        cluster.plan().verdict.message
    );
    assert_eq!(cluster.writes(), 2, "there and back");
}

#[test]
fn a_digest_that_failed_is_not_tried_again_until_a_person_names_it() {
    let mut cluster = Cluster::running();
    cluster.fail(2, Fate::Crashes);
    cluster.set(2);
    cluster.rest();
    cluster.wait(20);
    let writes = cluster.writes();
    cluster.record(image(2), Origin::Push);
    cluster.rest();
    assert_eq!(cluster.writes(), writes, "not even once");
    assert!(cluster.runs(1));
    cluster.fates.clear();
    cluster.intent.bad.clear();
    cluster.set(2);
    cluster.rest();
    assert!(cluster.runs(2));
}

#[test]
fn a_version_that_is_never_ready_is_given_up_at_its_deadline() {
    let mut cluster = Cluster::running();
    cluster.fail(2, Fate::NeverReady);
    cluster.set(2);
    cluster.reconcile();
    let deadline = cluster.service.as_ref().unwrap().deadline();
    cluster.now = cluster.now.after(deadline).after(Duration::from_millis(1));
    cluster.rest();
    assert!(cluster.runs(1));
    assert_eq!(cluster.status(), (Condition::RolledBack, Reason::RolledBack));
}

#[test]
fn an_update_that_finds_no_node_or_is_killed_goes_back_without_a_verdict_and_is_tried_again() {
    for fate in [Fate::FindsNoNode, Fate::Killed] {
        let mut cluster = Cluster::running();
        cluster.fail(2, fate);
        cluster.set(2);
        cluster.rest();
        assert!(cluster.runs(1), "{fate:?}");
        assert_eq!(cluster.intent.entry.generation, Generation(2), "{fate:?}: the record keeps its wish");
        assert_eq!(cluster.status().0, Condition::Degraded, "{fate:?}");
        assert!(cluster.intent.bad.is_empty());
        cluster.fates.clear();
        cluster.wait(700);
        assert!(cluster.runs(2), "{fate:?}");
        assert_eq!(cluster.status(), (Condition::Ready, Reason::AsRecorded));
    }
}

#[test]
fn a_failed_first_version_stays_and_the_status_names_the_reason() {
    let mut cluster = Cluster::new();
    cluster.fail(1, Fate::Crashes);
    cluster.set(1);
    cluster.rest();
    assert!(cluster.runs(1));
    assert_eq!(cluster.status(), (Condition::Degraded, Reason::CrashLoop));
    assert!(matches!(cluster.outcome, Some((Generation(1), Outcome::Failed(_)))));
    let writes = cluster.writes();
    cluster.wait(120);
    assert_eq!(
        cluster.writes(),
        writes + 1,
        "a paused update replaces nothing, so it is written again after a minute"
    );
}

#[test]
fn a_failing_edit_returns_to_the_previous_options_and_rolls_nothing_back() {
    let mut cluster = Cluster::running();
    let before = cluster.service.clone().unwrap();
    cluster.edit("BREAKS_IT");
    cluster.fail(1, Fate::Crashes);
    cluster.reconcile();
    assert_ne!(cluster.service.as_ref().unwrap().fingerprint(), before.fingerprint());
    cluster.now = cluster.now.after(BOOT);
    cluster.reconcile();
    assert_eq!(cluster.service.as_ref().unwrap().fingerprint(), before.fingerprint());
    cluster.fates.clear();
    cluster.rest();
    assert_eq!(cluster.intent.entry.generation, Generation(1));
    assert_eq!(cluster.status(), (Condition::Degraded, Reason::CrashLoop));
    assert_eq!(cluster.writes(), 2);
}

#[test]
fn other_replicas_are_no_other_version() {
    let mut cluster = Cluster::running();
    let version = cluster.service.as_ref().unwrap().version();
    cluster.intent.workload.as_mut().unwrap().placement.replicas = 5;
    cluster.rest();
    let service = cluster.service.clone().unwrap();
    assert_eq!((service.placement.replicas, service.version()), (5, version));
    assert_eq!(cluster.status(), (Condition::Ready, Reason::AsRecorded));
}

#[test]
fn changes_by_somebody_else_are_overwritten_and_after_three_reported() {
    let mut cluster = Cluster::running();
    for round in 1..=3 {
        cluster.changes.insert("the number of replicas".to_owned());
        cluster.rest();
        assert_eq!(cluster.writes(), round);
        assert_eq!(cluster.status(), (Condition::Ready, Reason::AsRecorded));
    }
    cluster.changes.insert("the number of replicas".to_owned());
    cluster.reconcile();
    assert_eq!(cluster.status(), (Condition::Degraded, Reason::NotConverging));
    assert_eq!(cluster.writes(), 3);
    cluster.intent.sync = Some(cluster.now);
    cluster.rest();
    assert_eq!(cluster.writes(), 4, "a sync clears it");
}

#[test]
fn a_removed_service_is_created_again() {
    let mut cluster = Cluster::running();
    cluster.service = None;
    cluster.rest();
    assert!(cluster.runs(1) && cluster.writes() == 1);
    assert_eq!(cluster.status(), (Condition::Ready, Reason::AsRecorded));
}

#[test]
fn nothing_is_decided_while_the_cluster_does_not_answer() {
    let mut cluster = Cluster::running();
    cluster.is_silent = true;
    cluster.set(2);
    let memory = cluster.memory.clone();
    cluster.rest();
    assert_eq!(cluster.status(), (Condition::Degraded, Reason::EngineUnavailable));
    assert!(cluster.done.is_empty());
    assert_eq!(cluster.memory.good, memory.good);
    cluster.is_silent = false;
    cluster.rest();
    assert!(cluster.runs(2));
}

#[test]
fn a_foreign_service_of_the_name_is_never_touched() {
    let mut cluster = Cluster::new();
    cluster.set(1);
    cluster.observed.workload = Some(WorkloadSight::Foreign("was not created by abide".to_owned()));
    let plan = plan(&cluster.intent, &cluster.observed, &cluster.memory, cluster.now);
    assert_eq!((plan.verdict.condition, plan.verdict.reason), (Condition::Blocked, Reason::NameConflict));
    assert!(plan.steps.is_empty());
}

#[test]
fn a_version_that_crashes_soon_after_it_was_ready_is_given_up() {
    let mut cluster = Cluster::running();
    cluster.set(2);
    cluster.rest();
    for _ in 0..3 {
        cluster.now = cluster.now.after(Duration::from_secs(1));
        cluster.crashes.push(cluster.now);
    }
    cluster.reconcile();
    assert!(cluster.runs(1));
    cluster.crashes.clear();
    cluster.rest();
    assert_eq!(cluster.status(), (Condition::RolledBack, Reason::RolledBack));
}

#[test]
fn a_crash_long_after_is_healed_by_the_orchestrator_and_reported() {
    let mut cluster = Cluster::running();
    cluster.crashes = vec![cluster.now; 3];
    assert_eq!(cluster.status(), (Condition::Degraded, Reason::CrashLoop));
    cluster.reconcile();
    assert!(cluster.done.is_empty(), "Swarm replaces it");
}

#[test]
fn a_held_environment_is_healed_and_keeps_its_version() {
    let mut cluster = Cluster::running();
    let (reason, by) = ("a look".to_owned(), "alice".to_owned());
    cluster.intent.hold = Some(Hold { reason, by, since: cluster.now, generation: Some(Generation(1)) });
    assert_eq!(cluster.status(), (Condition::Held, Reason::HeldByPerson));
    cluster.service = None;
    cluster.rest();
    assert!(cluster.runs(1));
}

#[test]
fn an_image_in_one_engine_only_is_blocked_with_what_to_do() {
    let mut cluster = Cluster::new();
    cluster.record(Image { reference: None, digest: None, id: Some(digest(1)) }, Origin::Set);
    assert_eq!(cluster.status(), (Condition::Blocked, Reason::ImageNotFound));
    assert!(cluster.plan().verdict.message.contains("abide set dev REPOSITORY@sha256:DIGEST"));
}

#[test]
fn ports_of_nodes_and_volumes_are_replaced_stop_first() {
    let mut cluster = Cluster::new();
    cluster.set(1);
    let order = |cluster: &mut Cluster| {
        let plan = cluster.plan();
        let Some(Step::ApplyWorkload { workload, .. }) = plan.steps.first().map(|planned| &planned.step)
        else {
            panic!("{plan:?}");
        };
        workload.update
    };
    assert_eq!(order(&mut cluster), Update::StartFirst);
    cluster.intent.workload.as_mut().unwrap().placement.ports = PortMode::Host;
    assert_eq!(order(&mut cluster), Update::StopFirst);
    cluster.intent.update = Some(Update::StartFirst);
    assert_eq!(order(&mut cluster), Update::StartFirst);
}

#[test]
fn nodes_that_take_no_replicas_and_drains_that_would_stop_the_last_one_are_warned_of() {
    let mut cluster = Cluster::running();
    let warnings = |cluster: &mut Cluster, places: &[&'static str]| {
        cluster.places = places.to_vec();
        cluster.plan().warnings
    };
    assert_eq!(warnings(&mut cluster, &["n1", "n2", "n2"]), [""; 0]);
    assert_eq!(
        warnings(&mut cluster, &["n1", "n1", "n1"]),
        ["all 3 ready replicas are on node n1: draining it would stop the last one"]
    );
    assert_eq!(
        warnings(&mut cluster, &["n2"]),
        ["the only ready replica is on node n2: draining it would stop the last one"]
    );
    for (state, expected) in [
        (NodeState::Down, "node n2 is down"),
        (NodeState::Drained, "node n2 is drained and runs no replicas"),
        (NodeState::Paused, "node n2 is paused and takes no new replicas"),
    ] {
        cluster.nodes.insert("n2", state);
        assert_eq!(warnings(&mut cluster, &["n1", "n1", "n1"]), [expected], "no other node could run them");
    }
    let nodes = crate::plan::workload_nodes(&cluster.observed);
    let shown: Vec<_> = nodes.iter().map(|node| format!("{}: {}", node.name, node.describe())).collect();
    assert_eq!(shown, ["n1: ready, 3 replicas", "n2: paused, no replica"]);
}

#[test]
fn behind_the_proxy_a_service_is_ready_once_its_replicas_get_the_requests() {
    let mut cluster = Cluster::new();
    cluster.intent.workload.as_mut().unwrap().placement.ports = PortMode::Dynamic;
    cluster.serving = vec!["10.0.0.11:32768".parse().unwrap()];
    let front = |addresses: Option<&[SocketAddr]>| {
        Some(FrontSeen { addresses: addresses.map(<[_]>::to_vec), ..FrontSeen::default() })
    };
    cluster.observed.front = front(Some(&[]));
    cluster.set(1);
    cluster.rest();
    assert_eq!(cluster.status(), (Condition::Progressing, Reason::Updating));
    cluster.observed.front = front(Some(&cluster.serving));
    assert_eq!(cluster.status(), (Condition::Ready, Reason::AsRecorded));
    cluster.observed.front = front(None);
    assert_eq!(
        cluster.status(),
        (Condition::Ready, Reason::AsRecorded),
        "nothing reaches it through the proxy"
    );
    let trouble = Some("nginx does not start".to_owned());
    cluster.observed.front = Some(FrontSeen { trouble, ..FrontSeen::default() });
    assert_eq!(cluster.status(), (Condition::Degraded, Reason::FrontUnavailable));
    // Ports of the swarm do not need the proxy.
    let mut ingress = Cluster::running();
    ingress.observed.front = cluster.observed.front.clone();
    assert_eq!(ingress.status(), (Condition::Ready, Reason::AsRecorded));
}

#[test]
fn a_failed_call_is_repeated_with_backoff() {
    let mut cluster = Cluster::new();
    cluster.set(1);
    let plan = cluster.plan();
    let failure = StepFailure { cause: crate::model::cause::Cause::Unknown, message: "a port is in use" };
    cluster.memory = after_failure(&plan, &plan.steps[0].step, failure, &cluster.intent, cluster.now);
    assert_eq!(cluster.status().0, Condition::Degraded);
    assert!(cluster.plan().steps.is_empty());
    cluster.wait(10);
    assert!(cluster.runs(1));
}
