//! A small cluster that runs the service of an environment and obeys every step.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use super::world::{World, digest};
use crate::model::container::Secret;
use crate::model::desired::{Bad, Desired, Entry, Image, Origin, Outcome};
use crate::model::memory::Memory;
use crate::model::name::{ContainerName, Generation};
use crate::model::observed::Observed;
use crate::model::spec::Probe;
use crate::model::status::{Condition, Reason};
use crate::model::time::Timestamp;
use crate::model::workload::{
    Endpoint, NodeState, PortMode, Rollout, SeenWorkload, SwarmNode, SwarmSpec, TaskFailure, TaskFailureKind,
    VersionCount, Workload, WorkloadSight, WriteToken,
};
use crate::plan::{DeclaredWorkload, Intent, Plan, RecordStep, Step, SupplyKind, WorkloadIntent, plan};

/// How long replicas of the cluster take until they are ready.
pub(super) const BOOT: Duration = Duration::from_secs(3);

pub(super) fn image(number: u8) -> Image {
    Image {
        reference: Some("registry.example.com/app".to_owned()),
        digest: Some(digest(100 + number)),
        id: Some(digest(number)),
    }
}

/// How the replicas of an image end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Crashes,
    NeverReady,
    FindsNoNode,
    Killed,
}

/// A cluster with one service.
pub(super) struct Cluster {
    pub(super) now: Timestamp,
    pub(super) intent: Intent,
    pub(super) observed: Observed,
    pub(super) memory: Memory,
    pub(super) service: Option<Workload>,
    /// The service with an earlier name.
    pub(super) renamed: Option<Workload>,
    index: u64,
    written_at: Timestamp,
    pub(super) changes: BTreeSet<String>,
    pub(super) fates: BTreeMap<String, Fate>,
    /// Failures of the version that was ready.
    pub(super) crashes: Vec<Timestamp>,
    /// The declaration of the good version.
    good: Option<(Generation, DeclaredWorkload)>,
    pub(super) done: Vec<Step>,
    pub(super) outcome: Option<(Generation, Outcome)>,
    pub(super) is_silent: bool,
    pub(super) nodes: BTreeMap<&'static str, NodeState>,
    /// The nodes of the ready replicas.
    pub(super) places: Vec<&'static str>,
    /// The addresses of the replicas.
    pub(super) serving: Vec<SocketAddr>,
}

impl Cluster {
    pub(super) fn new() -> Self {
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
        intent.workload = Some(WorkloadIntent { placement, network: None, before: None });
        Self {
            now,
            intent,
            observed: Observed::default(),
            memory: Memory::default(),
            service: None,
            renamed: None,
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
    pub(super) fn running() -> Self {
        let mut cluster = Self::new();
        cluster.set(1);
        cluster.rest();
        assert_eq!(cluster.status(), (Condition::Ready, Reason::AsRecorded));
        cluster.wait(1200);
        cluster.done.clear();
        cluster
    }

    pub(super) fn set(&mut self, number: u8) {
        self.record(image(number), Origin::Promotion);
    }

    pub(super) fn record(&mut self, image: Image, origin: Origin) {
        self.observed.images.extend(image.id.clone());
        self.intent.entry = Entry {
            generation: self.intent.entry.generation.next().unwrap(),
            image: Some(image),
            origin: Some(origin),
            at: self.now,
            ..Entry::default()
        };
    }

    pub(super) fn fail(&mut self, number: u8, fate: Fate) {
        self.fates.insert(format!("registry.example.com/app@{}", digest(100 + number)), fate);
    }

    fn declared(&self) -> DeclaredWorkload {
        DeclaredWorkload {
            options: self.intent.options.clone().unwrap(),
            health: self.intent.health.clone(),
            placement: self.intent.workload.as_ref().unwrap().placement.clone(),
            network: None,
            update: self.intent.update,
        }
    }

    pub(super) fn edit(&mut self, variable: &str) {
        let options = self.intent.options.as_mut().unwrap();
        options.env.insert(variable.to_owned(), Secret::new("1"));
    }

    /// Gives the environment another name in the manifest.
    pub(super) fn rename(&mut self, name: &str) {
        self.intent.options.as_mut().unwrap().name = ContainerName::new(name).unwrap();
        self.renamed = self.service.take();
    }

    fn failure(&self, kind: TaskFailureKind, is_paused: bool) -> TaskFailure {
        TaskFailure { why: "task: non-zero exit (3) on n1".to_owned(), kind, at: self.now, is_paused }
    }

    fn sight(&self) -> WorkloadSight {
        if self.is_silent {
            return WorkloadSight::Unknown("the swarm has no leader".to_owned());
        }
        let leftovers = || self.renamed.iter().map(|renamed| renamed.name().to_string()).collect();
        let Some(workload) = &self.service else {
            return WorkloadSight::Missing { leftovers: leftovers() };
        };
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
            leftovers: leftovers(),
        }))
    }

    pub(super) fn plan(&mut self) -> Plan {
        self.observed.workload = Some(self.sight());
        let before = self.good.as_ref().map(|(_, declared)| Box::new(declared.clone()));
        self.intent.workload.as_mut().unwrap().before = before;
        let plan = plan(&self.intent, &self.observed, &self.memory, self.now);
        assert_eq!(plan, crate::plan::plan(&self.intent, &self.observed, &self.memory, self.now));
        plan
    }

    /// Reconciles until nothing is left to do now.
    pub(super) fn reconcile(&mut self) {
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
            Step::RemoveWorkload { id } => {
                let renamed = self.renamed.take().map(|renamed| renamed.name().to_string());
                assert_eq!(renamed.as_ref(), Some(id));
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
    pub(super) fn wait(&mut self, halves: u32) {
        for _ in 0..halves {
            self.reconcile();
            self.now = self.now.after(Duration::from_millis(500));
        }
        self.reconcile();
    }

    pub(super) fn rest(&mut self) {
        self.wait(20);
    }

    pub(super) fn status(&mut self) -> (Condition, Reason) {
        let verdict = self.plan().verdict;
        assert!(!verdict.message.is_empty());
        (verdict.condition, verdict.reason)
    }

    pub(super) fn writes(&self) -> usize {
        self.done.iter().filter(|step| matches!(step, Step::ApplyWorkload { .. })).count()
    }

    pub(super) fn runs(&self, number: u8) -> bool {
        let image = self.service.as_ref().map(|service| service.image.clone());
        image.is_some_and(|image| image.ends_with(digest(100 + number).as_str()))
    }
}
