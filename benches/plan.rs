//! Measures how long one decision takes if nothing has to be done, compared with its one
//! unavoidable hash: the fingerprint of the desired container.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

mod report;

use std::collections::{BTreeMap, BTreeSet};
use std::hint::black_box;
use std::time::{Duration, Instant};

use abide::model::container::{ContainerOptions, ContainerSpec, Secret};
use abide::model::desired::{Entry, Image};
use abide::model::memory::{Good, Memory};
use abide::model::name::{ContainerName, Digest, EnvironmentName, Generation, NetworkName};
use abide::model::observed::{
    ContainerState, EngineHealth, Observed, ObservedContainer, ObservedMounts, Readiness,
};
use abide::model::spec::{HealthSpec, Publish, Update};
use abide::model::status::Condition;
use abide::model::time::Timestamp;
use abide::plan::{Intent, SupplyKind, plan};

use report::{Samples, Table, ratio, shown, title};

/// The number of samples of each kind.
const ROUNDS: usize = 200;
/// The number of calls in a sample; a single call is too short for the clock.
const CALLS: u32 = 100;
/// The time of the observation.
const NOW: Timestamp = Timestamp::from_millis(1_795_449_600_000);

fn main() {
    title("One decision at rest");
    let columns = [
        "variables",
        "`plan()`, median",
        "p90",
        "one fingerprint, median",
        "fingerprints a plan",
        "plans a second",
    ];
    let mut table = Table::new(&columns);
    for variables in [0, 20, 200] {
        let scene = Scene::new(variables);
        assert_eq!(scene.plan().verdict.condition, Condition::Ready, "{:?}", scene.plan());
        assert_eq!(scene.plan().steps, [], "there is something to do");
        let (mut plans, mut hashes) = (Samples::default(), Samples::default());
        for _ in 0..ROUNDS {
            plans.add(each(|| scene.plan()));
            hashes.add(each(|| scene.wanted.fingerprint()));
        }
        table.row([
            variables.to_string(),
            shown(plans.median()),
            shown(plans.p90()),
            shown(hashes.median()),
            ratio(plans.median(), hashes.median()),
            format!("{:.0}", 1.0 / plans.median().as_secs_f64()),
        ]);
    }
    table.print();
}

fn each<T>(mut work: impl FnMut() -> T) -> Duration {
    let began = Instant::now();
    (0..CALLS).for_each(|_| drop(black_box(work())));
    began.elapsed() / CALLS
}

/// One environment whose container runs as recorded.
struct Scene {
    intent: Intent,
    observed: Observed,
    memory: Memory,
    wanted: ContainerSpec,
}

impl Scene {
    fn new(variables: usize) -> Self {
        let id = Digest::of_sha256(&[7; 32]);
        let image = Image { reference: None, digest: None, id: Some(id.clone()) };
        let options = options(variables);
        let entry = Entry { generation: Generation(1), image: Some(image.clone()), ..Entry::default() };
        let wanted = ContainerSpec {
            image: id.clone(),
            options: options.clone(),
            undeclared: Vec::new(),
            generation: entry.generation,
            revision: None,
        };
        let container = container(&wanted);
        let good = Good {
            generation: entry.generation,
            image,
            revision: None,
            container: container.id.clone(),
            at: NOW,
            first_ready: NOW,
            declared: None,
        };
        let readiness = Readiness { answering_since: Some(NOW), answered_once: true, ..Readiness::default() };
        let observed = Observed {
            images: BTreeSet::from([id]),
            probes: BTreeMap::from([(container.id.clone(), readiness)]),
            containers: vec![container],
            ..Observed::default()
        };
        let memory = Memory { good: Some(good), ..Memory::default() };
        Self { intent: intent(entry, options), observed, memory, wanted }
    }

    fn plan(&self) -> abide::plan::Plan {
        plan(&self.intent, &self.observed, &self.memory, NOW)
    }
}

fn intent(entry: Entry, options: ContainerOptions) -> Intent {
    Intent {
        canary: None,
        canary_order: None,
        jobs: Default::default(),
        declared: None,
        after_hold: None,
        needs: Default::default(),
        restart: Default::default(),
        hooks: Default::default(),
        update: Some(Update::StopFirst),
        holder: true,
        drain: None,
        spare: false,
        workload: None,
        may_pull: true,
        keeps_what_runs: false,
        proposed: false,
        environment: options.environment.clone(),
        entry,
        hold: None,
        sync: None,
        bad: Vec::new(),
        supply: SupplyKind::Named,
        options: Ok(options),
        health: HealthSpec::default(),
    }
}

fn options(variables: usize) -> ContainerOptions {
    let variable = |number| (format!("VARIABLE_{number}"), Secret::new(format!("value {number}")));
    ContainerOptions {
        environment: EnvironmentName::new("dev").unwrap(),
        record: "a-record".to_owned(),
        name: ContainerName::new("dev-server").unwrap(),
        command: Some(vec!["dev".to_owned()]),
        env: (0..variables).map(variable).collect(),
        secrets: BTreeSet::new(),
        port: Some(8900),
        publish: Some(Publish { address: None, port: 8900 }),
        volumes: Vec::new(),
        extra_hosts: Vec::new(),
        memory: None,
        nano_cpus: None,
        pids: None,
        init: true,
        stop_timeout_seconds: 10,
        network: NetworkName::default(),
        run: Default::default(),
        files: Vec::new(),
    }
}

/// The container as the engine describes it after `spec` was created and started.
fn container(spec: &ContainerSpec) -> ObservedContainer {
    let options = &spec.options;
    ObservedContainer {
        id: "c".repeat(64),
        name: options.name.to_string(),
        image: Some(spec.image.clone()),
        state: ContainerState::Running,
        engine_health: EngineHealth::NoCheck,
        created_at: NOW,
        started_at: Some(NOW),
        command: options.command.clone().unwrap_or_default(),
        env: options.env.clone(),
        published: options.ports().map(|port| port.canonical().to_string()).collect(),
        mounts: ObservedMounts::default(),
        settings: Default::default(),
        attachments: options.attachments(),
        extra_hosts: Vec::new(),
        memory: None,
        nano_cpus: None,
        pids: None,
        init: options.init,
        restart_policy: "no".to_owned(),
        networks: BTreeMap::from([(options.network.to_string(), None)]),
        joined: None,
        last_output: None,
        secret_files: Vec::new(),
        labels: spec.labels(),
    }
}
