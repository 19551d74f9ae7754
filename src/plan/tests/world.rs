//! A small world: an engine, a builder, a prober and a clock, all without IO.
//!
//! Time only moves from one event to the next, as in the daemon: a pass runs, acts, and runs again
//! until it has nothing to do; then the next bell or timer comes.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use crate::model::build::Acquisition;
use crate::model::container::{ContainerOptions, ContainerSpec, Exit, Secret};
use crate::model::desired::{Entry, Hold, Image, Origin};
use crate::model::memory::Memory;
use crate::model::name::{CommitId, ContainerName, Digest, EnvironmentName, Generation, NetworkName};
use crate::model::observed::{ContainerState, Foreign, NetworkPresence, Observed, Readiness, SeenContainer};
use crate::model::spec::{HealthSpec, Mount, Probe, Publish};
use crate::model::status::{Condition, Reason};
use crate::model::time::Timestamp;
use crate::plan::explain::explain;
use crate::plan::{Intent, Need, Plan, Step, SupplyKind, Target, after_failure, plan};

/// The value of an environment variable of every container, which nothing may ever say.
pub(super) const SECRET: &str = "correct-horse-battery";
pub(super) const NAME: &str = "dev-server";
const PORT: u16 = 8900;
const BUILD_TIME: Duration = Duration::from_secs(20);
/// From start to the first good probe.
const BOOT_TIME: Duration = Duration::from_secs(1);

pub(super) fn digest(number: u8) -> Digest {
    Digest::of_sha256(&[number; 32])
}

pub(super) fn commit(number: u8) -> CommitId {
    CommitId::new(format!("{:040x}", u32::from(number) + 1)).unwrap()
}

pub(super) fn image(number: u8) -> Image {
    Image { reference: None, digest: None, id: Some(digest(number)) }
}

pub(super) fn options() -> ContainerOptions {
    ContainerOptions {
        environment: EnvironmentName::new("dev").unwrap(),
        record: "record-1".to_owned(),
        name: ContainerName::new(NAME).unwrap(),
        command: Some(vec!["dev".to_owned()]),
        env: BTreeMap::from([("PASSWORD".to_owned(), Secret::new(SECRET))]),
        port: PORT,
        publish: Some(Publish { address: None, port: PORT }),
        volumes: vec![mount("data")],
        extra_hosts: Vec::new(),
        memory: Some(512 << 20),
        nano_cpus: None,
        pids: None,
        init: true,
        stop_timeout_seconds: 10,
        network: NetworkName::new("abide").unwrap(),
    }
}

pub(super) fn mount(volume: &str) -> Mount {
    Mount { source: volume.to_owned(), target: format!("/{volume}"), read_only: false }
}

/// What the program of an image does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Program {
    Good,
    /// The engine cannot start it.
    RefusesToStart,
    /// It ends by itself this long after its start.
    Ends {
        after: Duration,
        code: i64,
        out_of_memory: bool,
    },
    NeverAnswers,
    /// It cannot be built.
    DoesNotBuild,
}

impl Program {
    pub(super) fn crashes_after(seconds: u64) -> Self {
        Self::Ends { after: Duration::from_secs(seconds), code: 1, out_of_memory: false }
    }
}

#[derive(Debug)]
struct Job {
    revision: CommitId,
    ends: Timestamp,
}

pub(super) struct World {
    pub(super) now: Timestamp,
    pub(super) intent: Intent,
    pub(super) observed: Observed,
    pub(super) memory: Memory,
    /// What images do; [`Program::Good`] where nothing is said.
    pub(super) programs: BTreeMap<Digest, Program>,
    /// A container that is not ours has our host port.
    pub(super) foreign_has_port: bool,
    /// The engine answers every call on containers, and does nothing.
    pub(super) inert: bool,
    /// Every build of a commit gives another image.
    pub(super) irreproducible: bool,
    /// The engine never takes a limit.
    pub(super) ignores_limits: bool,
    /// Steps by number from now on that fail.
    pub(super) failing: BTreeSet<usize>,
    /// The daemon is killed before the step with this number from now on.
    pub(super) killed_before: Option<usize>,
    /// Every step that was carried out.
    pub(super) done: Vec<Step>,
    pub(super) jobs_begun: usize,
    pub(super) latest: Entry,
    /// Containers whose program hangs.
    pub(super) hung: BTreeMap<String, Timestamp>,
    job: Option<Job>,
    verdicts: BTreeMap<CommitId, Acquisition>,
    prober_since: Timestamp,
    containers_made: u32,
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "at {}, generation {}", self.now, self.intent.entry.generation)?;
        for container in &self.observed.containers {
            let image = container.image.as_ref().map_or("", |image| image.short());
            writeln!(f, "  {} {} of {image}: {:?}", container.name, &container.id[60..], container.state)?;
        }
        let done = self.done.iter().map(kind).collect::<Vec<_>>();
        writeln!(
            f,
            "  {:?}\n  {:?}\n  {:?}",
            self.memory,
            self.plan(),
            &done[done.len().saturating_sub(40)..]
        )
    }
}

impl World {
    /// A world where nothing was ever recorded and nothing runs.
    pub(super) fn empty() -> Self {
        let now = Timestamp::from_millis(1_795_000_000_000);
        Self {
            now,
            intent: intent(),
            observed: Observed { network: NetworkPresence::Missing, ..Observed::default() },
            memory: Memory::default(),
            programs: BTreeMap::new(),
            foreign_has_port: false,
            inert: false,
            irreproducible: false,
            ignores_limits: false,
            failing: BTreeSet::new(),
            killed_before: None,
            done: Vec::new(),
            jobs_begun: 0,
            latest: Entry::default(),
            hung: BTreeMap::new(),
            job: None,
            verdicts: BTreeMap::new(),
            prober_since: now,
            containers_made: 0,
        }
    }

    /// A world where image `number` was deployed and has been ready for a while.
    pub(super) fn running(number: u8) -> Self {
        let mut world = Self::empty();
        world.set(number);
        world.rest();
        world.wait(60);
        assert!(world.is_ready_with(number), "{world:?}");
        world.done.clear();
        world
    }

    // --- what the outside does ----------------------------------------------------------------

    fn record(&mut self, revision: Option<u8>, image: Option<Image>, origin: Origin) {
        self.latest = Entry {
            generation: self.latest.generation.next(),
            revision: revision.map(commit),
            image,
            origin: Some(origin),
            at: self.now,
            ..Entry::default()
        };
        if self.intent.hold.is_none() {
            self.intent.entry = self.latest.clone();
        }
    }

    /// A push: the record wants a commit that has to be built.
    pub(super) fn push(&mut self, number: u8) {
        self.intent.supply = SupplyKind::Build;
        self.record(Some(number), None, Origin::Push);
    }

    /// A person or a promotion names an image that is here.
    pub(super) fn set(&mut self, number: u8) {
        self.observed.images.insert(digest(number));
        self.promote(number);
    }

    /// A promotion names an image, wherever it is.
    pub(super) fn promote(&mut self, number: u8) {
        self.intent.supply = SupplyKind::Named;
        self.record(None, Some(image(number)), Origin::Promotion);
    }

    pub(super) fn program(&mut self, number: u8, program: Program) {
        self.programs.insert(digest(number), program);
    }

    pub(super) fn edit(&mut self, edit: impl FnOnce(&mut ContainerOptions)) {
        edit(self.intent.options.as_mut().unwrap());
    }

    pub(super) fn hold(&mut self) {
        let generation = self.memory.good.as_ref().map(|_| self.intent.entry.generation);
        let (reason, by) = ("a look".to_owned(), "alice".to_owned());
        self.intent.hold = Some(Hold { reason, by, since: self.now, generation });
    }

    pub(super) fn resume(&mut self) {
        self.intent.hold = None;
        self.intent.entry = self.latest.clone();
    }

    pub(super) fn sync(&mut self) {
        self.now = self.now.after(Duration::from_millis(1));
        self.intent.sync = Some(self.now);
    }

    pub(super) fn restart_daemon(&mut self) {
        self.prober_since = self.now;
        self.job = None;
        (self.observed.superseded_job, self.observed.burst_since) = (false, None);
    }

    pub(super) fn foreign_takes_name(&mut self) {
        if self.observed.containers.iter().all(|container| container.name != NAME) {
            let whose = "of no environment of abide".to_owned();
            self.observed.name_holder = Some(Foreign { id: "foreign".to_owned(), whose });
        }
    }

    pub(super) fn exit(&mut self, index: usize, code: i64, out_of_memory: bool) {
        let at = self.now;
        if let Some(container) = self.observed.containers.get_mut(index)
            && matches!(container.state, ContainerState::Running | ContainerState::Paused)
        {
            container.state = ContainerState::Exited(Exit { code, out_of_memory, at });
        }
    }

    pub(super) fn pause(&mut self, index: usize) {
        if let Some(container) = self.observed.containers.get_mut(index)
            && container.state == ContainerState::Running
        {
            container.state = ContainerState::Paused;
        }
    }

    pub(super) fn rename(&mut self, index: usize, name: &str) {
        let is_free = self.name_is_free(name);
        if let Some(container) = self.observed.containers.get_mut(index).filter(|_| is_free) {
            container.name = name.to_owned();
        }
    }

    pub(super) fn remove_network(&mut self) {
        self.observed.network = NetworkPresence::Missing;
        self.observed.containers.iter_mut().for_each(|container| container.networks.clear());
    }

    // --- the loop -----------------------------------------------------------------------------

    /// The plan as it would be now.
    pub(super) fn plan(&self) -> Plan {
        let plan = plan(&self.intent, &self.seen(), &self.memory, self.now);
        check_words(&plan);
        plan
    }

    /// One pass: plan, act, remember.
    pub(super) fn pass(&mut self) -> Plan {
        let plan = self.plan();
        self.memory = plan.memory.clone();
        let mut made = None;
        for planned in &plan.steps {
            match self.act(&planned.step, &mut made) {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => {
                    self.memory = after_failure(&plan, &planned.step, &error, &self.intent, self.now);
                    break;
                }
            }
        }
        plan
    }

    /// Passes until there is nothing to do and nothing to wait for.
    pub(super) fn rest(&mut self) -> Plan {
        for _ in 0..400 {
            let plan = self.pass();
            if !plan.steps.is_empty() {
                continue;
            }
            match self.next_bell(&plan) {
                Some(at) => self.advance(at),
                None => return plan,
            }
        }
        panic!("no rest is found: {self:?}");
    }

    /// Passes for so many seconds; what steps were taken.
    pub(super) fn wait(&mut self, seconds: u64) -> usize {
        let (end, before) = (self.now.after(Duration::from_secs(seconds)), self.done.len());
        for _ in 0..4_000 {
            let plan = self.pass();
            if !plan.steps.is_empty() {
                continue;
            }
            match self.next_bell(&plan).filter(|at| *at <= end) {
                Some(at) => self.advance(at),
                None => {
                    self.advance(end);
                    return self.done.len() - before;
                }
            }
        }
        panic!("a hot loop: {self:?}");
    }

    fn next_bell(&self, plan: &Plan) -> Option<Timestamp> {
        let running =
            self.observed.containers.iter().filter(|container| container.state == ContainerState::Running);
        let events = running.flat_map(|container| [self.ends(container), self.answers(container)]);
        let ripe = plan.look_again.filter(|at| *at > self.now);
        let job = self.job.as_ref().map(|job| job.ends);
        events.chain([ripe, job]).flatten().filter(|at| *at > self.now).min()
    }

    pub(super) fn advance(&mut self, to: Timestamp) {
        self.now = to;
        let over = |at: Option<Timestamp>| at.filter(|at| *at <= to);
        let ended: Vec<_> = (0..self.observed.containers.len())
            .filter_map(|index| Some((index, over(self.ends(&self.observed.containers[index]))?)))
            .collect();
        for (index, at) in ended {
            let Program::Ends { code, out_of_memory, .. } = self.program_of(&self.observed.containers[index])
            else {
                continue;
            };
            let container = &mut self.observed.containers[index];
            container.state = ContainerState::Exited(Exit { code, out_of_memory, at });
            container.last_output = Some(format!("cannot log in with {SECRET}\n"));
        }
        if let Some(job) = self.job.take_if(|job| job.ends <= to) {
            self.observed.burst_since = None;
            self.finish(job.revision);
        }
    }

    fn finish(&mut self, revision: CommitId) {
        let number = (0..=u8::MAX).find(|number| commit(*number) == revision).unwrap();
        let verdict = match self.programs.get(&digest(number)) {
            Some(Program::DoesNotBuild) => Acquisition::Failed {
                reason: Reason::BuildFailed,
                message: "step 3 of the Dockerfile failed".to_owned(),
                at: self.now,
            },
            _ => {
                let salt = if self.irreproducible { u8::try_from(self.jobs_begun).unwrap() * 50 } else { 0 };
                self.observed.images.insert(digest(number + salt));
                Acquisition::Got(image(number + salt))
            }
        };
        self.verdicts.insert(revision, verdict);
    }

    // --- what is seen -------------------------------------------------------------------------

    pub(super) fn seen(&self) -> Observed {
        let mut seen = self.observed.clone();
        let running = seen.containers.iter().filter(|container| container.state == ContainerState::Running);
        seen.probes = running
            .filter_map(|container| Some((container.id.clone(), self.readiness(container)?)))
            .collect();
        let wanted = self.intent.entry.revision.as_ref();
        let running = self.job.as_ref().filter(|job| Some(&job.revision) == wanted);
        seen.superseded_job = self.job.is_some() && running.is_none();
        seen.acquisition = match (running, wanted) {
            (Some(_), _) => Acquisition::Running { step: "building".to_owned() },
            (None, Some(revision)) => self.verdicts.get(revision).cloned().unwrap_or(Acquisition::Untried),
            (None, None) => Acquisition::NotNeeded,
        };
        seen
    }

    fn readiness(&self, container: &SeenContainer) -> Option<Readiness> {
        let asked = container.started_at?.max(self.prober_since).after(BOOT_TIME);
        if self.now < asked {
            return None;
        }
        let miss = Readiness { misses: 5, last_miss: Some("refused".to_owned()), ..Readiness::default() };
        if self.hung.contains_key(&container.id) {
            return Some(Readiness { answered_once: true, ..miss });
        }
        match self.answers(container) {
            Some(at) => {
                let answering_since = Some(at.max(self.prober_since));
                Some(Readiness { answering_since, answered_once: true, ..Readiness::default() })
            }
            None => Some(miss),
        }
    }

    fn program_of(&self, container: &SeenContainer) -> Program {
        let image = container.image.as_ref().and_then(|image| self.programs.get(image));
        image.copied().unwrap_or(Program::Good)
    }

    fn ends(&self, container: &SeenContainer) -> Option<Timestamp> {
        match (self.program_of(container), &container.state) {
            (Program::Ends { after, .. }, ContainerState::Running) => {
                Some(container.started_at?.after(after))
            }
            _ => None,
        }
    }

    fn answers(&self, container: &SeenContainer) -> Option<Timestamp> {
        let asked = container.started_at?.max(self.prober_since).after(BOOT_TIME);
        matches!(self.program_of(container), Program::Good | Program::Ends { .. }).then_some(asked)
    }

    /// The containers that run a good program.
    pub(super) fn serving(&self) -> Vec<&SeenContainer> {
        let is_good = |container: &&SeenContainer| {
            container.state == ContainerState::Running && self.program_of(container) == Program::Good
        };
        self.observed.containers.iter().filter(is_good).collect()
    }

    /// Whether exactly one container is there, under its name, with image `number`, and all rests.
    pub(super) fn is_ready_with(&self, number: u8) -> bool {
        let plan = self.plan();
        let [only] = self.observed.containers.as_slice() else { return false };
        plan.steps.is_empty()
            && plan.verdict.condition == Condition::Ready
            && only.name == NAME
            && only.state == ContainerState::Running
            && only.image == Some(digest(number))
    }

    pub(super) fn only(&self) -> &SeenContainer {
        let [only] = self.observed.containers.as_slice() else {
            panic!("not one container: {:#?}", self.observed.containers)
        };
        only
    }

    /// The words of all steps since the last time, in order.
    pub(super) fn take_done(&mut self) -> Vec<&'static str> {
        std::mem::take(&mut self.done).iter().map(kind).collect()
    }

    // --- what the engine does -----------------------------------------------------------------

    /// Carries out a step; `false` where the daemon is killed before it.
    fn act(&mut self, step: &Step, made: &mut Option<String>) -> Result<bool, String> {
        if self.killed_before == Some(0) {
            self.killed_before = None;
            self.restart_daemon();
            return Ok(false);
        }
        self.killed_before = self.killed_before.map(|left| left - 1);
        let is_failing = self.failing.contains(&0);
        self.failing = self.failing.iter().filter_map(|number| number.checked_sub(1)).collect();
        if is_failing {
            return Err("the engine says no".to_owned());
        }
        self.obey(step, made)?;
        self.done.push(step.clone());
        Ok(true)
    }

    fn obey(&mut self, step: &Step, made: &mut Option<String>) -> Result<(), String> {
        match step {
            Step::CancelJob => {
                self.job = None;
                self.observed.burst_since.get_or_insert(self.now);
            }
            Step::Acquire(need) => self.begin(need),
            Step::RecordImage { generation, image } if *generation == self.intent.entry.generation => {
                self.intent.entry.image = Some(image.clone());
                self.latest = self.intent.entry.clone();
            }
            Step::RecordRebuilt { generation, image } if *generation == self.intent.entry.generation => {
                self.record(None, Some(image.clone()), Origin::Rebuild);
            }
            Step::RecordImage { .. } | Step::RecordRebuilt { .. } => return Err("stale".to_owned()),
            _ if self.inert => {}
            Step::CreateNetwork => self.observed.network = NetworkPresence::Ours,
            Step::CreateVolume { name } => {
                self.observed.volumes.insert(name.clone());
            }
            Step::Create { name, spec } => *made = Some(self.create(name, spec)?),
            Step::Start { container, .. } => self.start(container, made.as_deref())?,
            step => self.change(step)?,
        }
        Ok(())
    }

    fn begin(&mut self, need: &Need) {
        let Need::Build { revision } = need else { panic!("nothing to build: {need:?}") };
        assert!(self.job.is_none(), "two jobs at once");
        self.jobs_begun += 1;
        self.verdicts.remove(revision);
        self.job = Some(Job { revision: revision.clone(), ends: self.now.after(BUILD_TIME) });
    }

    fn name_is_free(&self, name: &str) -> bool {
        let is_foreign = self.observed.name_holder.is_some() && name == NAME;
        !is_foreign && self.observed.containers.iter().all(|container| container.name != name)
    }

    fn create(&mut self, name: &ContainerName, spec: &ContainerSpec) -> Result<String, String> {
        assert!(spec.generation <= self.intent.entry.generation, "a wish of the future");
        let is_wanted = spec.generation == self.intent.entry.generation;
        let is_good = self.memory.good.as_ref().is_some_and(|good| good.generation == spec.generation);
        assert!(is_wanted || is_good, "an older wish came back: {spec:?}");
        assert!(self.name_is_free(name.as_str()), "the name {name} is taken: {self:?}");
        if !self.observed.images.contains(&spec.image) {
            return Err("no such image".to_owned());
        }
        if self.observed.network == NetworkPresence::Missing {
            return Err("no such network".to_owned());
        }
        for name in spec.options.volumes.iter().filter_map(Mount::volume) {
            assert!(self.observed.volumes.contains(name), "volume {name} would be made by the engine");
        }
        self.containers_made += 1;
        let id = format!("{:064x}", self.containers_made);
        self.observed.containers.push(project(id.clone(), name, spec, self.now));
        Ok(id)
    }

    fn start(&mut self, container: &Target, made: Option<&str>) -> Result<(), String> {
        let id = match container {
            Target::Seen(id) => id.clone(),
            Target::Created => made.unwrap().to_owned(),
        };
        let container = self.find(&id)?.clone();
        if container.networks.is_empty() {
            return Err("network not found".to_owned());
        }
        if self.program_of(&container) == Program::RefusesToStart {
            return Err("exec format error".to_owned());
        }
        let holds_port = |other: &SeenContainer| {
            matches!(other.state, ContainerState::Running | ContainerState::Paused) && other.id != id
        };
        if !container.published.is_empty() {
            assert!(!self.observed.containers.iter().any(holds_port), "one of ours has the port: {self:?}");
            if self.foreign_has_port {
                return Err("port is already allocated".to_owned());
            }
        }
        let now = self.now;
        let container = self.find(&id)?;
        (container.state, container.started_at) = (ContainerState::Running, Some(now));
        container.last_output = None;
        self.hung.remove(&id);
        Ok(())
    }

    fn change(&mut self, step: &Step) -> Result<(), String> {
        let (now, ignores_limits) = (self.now, self.ignores_limits);
        match step {
            Step::Stop { id } => {
                let exit = Exit { code: 143, out_of_memory: false, at: now };
                self.find(id)?.state = ContainerState::Exited(exit);
            }
            Step::Remove { id } => self.remove(id)?,
            Step::Rename { id, name } => {
                assert!(self.name_is_free(name.as_str()), "the name {name} is taken: {self:?}");
                self.find(id)?.name = name.to_string();
            }
            Step::Unpause { id } => self.find(id)?.state = ContainerState::Running,
            Step::Connect { id } => {
                let address = IpAddr::V4(Ipv4Addr::LOCALHOST);
                self.find(id)?.networks.insert("abide".to_owned(), Some(address));
            }
            Step::Adjust { id, memory, nano_cpus, pids } if !ignores_limits => {
                let container = self.find(id)?;
                (container.memory, container.nano_cpus, container.pids) = (*memory, *nano_cpus, *pids);
                container.restart_policy = "no".to_owned();
            }
            _ => {}
        }
        Ok(())
    }

    /// Removes a container, and holds the law that what was ready stays until its replacement is.
    fn remove(&mut self, id: &str) -> Result<(), String> {
        let was_good = self.memory.good.as_ref().is_some_and(|good| good.container == id);
        let is_dead = self.find(id)?.state == ContainerState::Dead;
        self.observed.containers.retain(|container| container.id != id);
        let seen = self.seen();
        let is_ready = |container: &SeenContainer| {
            let since = seen.probes.get(&container.id).and_then(|readiness| readiness.answering_since);
            since.is_some_and(|since| since.after(self.intent.health.healthy_for) <= self.now)
        };
        let replaced = seen.containers.iter().any(is_ready);
        assert!(!was_good || is_dead || replaced, "what was ready is removed too early: {self:?}");
        Ok(())
    }

    fn find(&mut self, id: &str) -> Result<&mut SeenContainer, String> {
        let found = self.observed.containers.iter_mut().find(|container| container.id == id);
        Ok(found.unwrap_or_else(|| panic!("a step names {id}, which is not ours")))
    }
}

fn intent() -> Intent {
    Intent {
        environment: EnvironmentName::new("dev").unwrap(),
        entry: Entry { generation: Generation(0), ..Entry::default() },
        hold: None,
        sync: None,
        supply: SupplyKind::Named,
        options: Ok(options()),
        health: HealthSpec {
            probe: Probe::Tcp,
            interval: Duration::from_secs(1),
            timeout: Duration::from_secs(2),
            start_deadline: Duration::from_secs(30),
            healthy_for: Duration::from_secs(10),
        },
    }
}

/// A container as an inspect shows it.
fn project(id: String, name: &ContainerName, spec: &ContainerSpec, now: Timestamp) -> SeenContainer {
    let options = &spec.options;
    SeenContainer {
        id,
        name: name.to_string(),
        image: Some(spec.image.clone()),
        state: ContainerState::Created,
        created_at: now,
        started_at: None,
        command: options.command.clone().unwrap_or_default(),
        env: options.env.clone(),
        published: options
            .publish
            .iter()
            .map(|host| (format!("{}/tcp", options.port), vec![*host]))
            .collect(),
        volumes: options.volumes.clone(),
        extra_hosts: options.extra_hosts.clone(),
        memory: options.memory,
        nano_cpus: options.nano_cpus,
        pids: options.pids,
        init: options.init,
        restart_policy: "no".to_owned(),
        networks: BTreeMap::from([(options.network.to_string(), None)]),
        last_output: None,
        labels: spec.labels(),
    }
}

/// Every step has a reason and a sentence, every verdict words, and none says a secret.
fn check_words(plan: &Plan) {
    let sentences = explain(plan);
    assert_eq!(sentences.len(), plan.steps.len());
    assert!(sentences.iter().all(|sentence| !sentence.is_empty()));
    for planned in &plan.steps {
        assert!(!planned.reason.is_empty(), "no reason: {planned:?}");
    }
    assert!(!plan.verdict.message.is_empty());
    let all = format!("{plan:?}{}", sentences.join("\n"));
    assert!(!all.contains(SECRET), "a secret is said: {all}");
}

/// The word for a kind of step, for tests that compare what was done.
pub(super) fn kind(step: &Step) -> &'static str {
    match step {
        Step::CancelJob => "cancel",
        Step::Acquire(_) => "acquire",
        Step::RecordImage { .. } => "record",
        Step::RecordRebuilt { .. } => "record rebuilt",
        Step::CreateNetwork => "network",
        Step::CreateVolume { .. } => "volume",
        Step::Create { .. } => "create",
        Step::Start { .. } => "start",
        Step::Stop { .. } => "stop",
        Step::Remove { .. } => "remove",
        Step::Rename { .. } => "rename",
        Step::Unpause { .. } => "unpause",
        Step::Connect { .. } => "connect",
        Step::Adjust { .. } => "adjust",
    }
}
