//! A small world: an engine, a builder, a prober and a clock, all without IO.
//!
//! Time only moves from one event to the next, as in the daemon: a reconcile runs, acts, and runs again
//! until nothing is left to do; then the next wakeup or timer comes.

mod engine;
mod front;
mod network;
mod one_off;
mod sight;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use crate::model::build::Acquisition;
use crate::model::cause::{self, Cause};
use crate::model::container::{ContainerOptions, ContainerSpec, Exit, Secret};
use crate::model::desired::{Bad, Desired, Entry, Hold, Image, Origin};
use crate::model::memory::{Good, Memory};
use crate::model::mount::Mount;
use crate::model::name::{CommitId, ContainerName, Digest, EnvironmentName, Generation, NetworkName};
use crate::model::observed::{
    ContainerState, NameHolder, NetworkPresence, Observed, ObservedContainer, ObservedMounts, Owner,
    Readiness, SandboxState,
};
use crate::model::one_off::{CommandWords, HookSpec, Hooks, OneOffSpec};
use crate::model::spec::{HealthSpec, Probe, Publish, RestartMode, RunOptions, Update};
use crate::model::status::{Condition, Reason};
use crate::model::time::Timestamp;
use crate::plan::explain::explain;
use crate::plan::{
    ContainerTarget, Intent, Need, Plan, RecordStep, Step, StepFailure, SupplyKind, after_failure,
    must_be_stored, plan,
};
pub(super) use front::Front;
use network::Made;

/// The value of an environment variable of every container, which must never be shown.
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
        secrets: BTreeSet::from(["PASSWORD".to_owned()]),
        port: Some(PORT),
        publish: Some(Publish { address: None, port: PORT }),
        volumes: vec![mount("data")],
        extra_hosts: Vec::new(),
        memory: Some(512 << 20),
        nano_cpus: None,
        pids: None,
        init: true,
        stop_timeout_seconds: 10,
        network: NetworkName::new("abide").unwrap(),
        run: RunOptions::default(),
        files: Vec::new(),
    }
}

pub(super) fn mount(volume: &str) -> Mount {
    Mount::new(volume, &format!("/{volume}")).unwrap()
}

/// The behavior of an image's program.
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

/// How containers are connected to the network and replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// Each has its own namespace and publishes its port.
    Plain,
    /// They join sandboxes, which publish the port.
    Holder,
    /// They join sandboxes, and a proxy switches between them.
    Front,
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
    /// The programs of images; the default is [`Program::Good`].
    pub(super) programs: BTreeMap<Digest, Program>,
    /// An unmanaged container has our host port.
    pub(super) foreign_has_port: bool,
    /// The engine refuses to change limits in place.
    pub(super) refuses_limits: bool,
    /// The engine rejects the options of every new container at its start.
    pub(super) rejects_options: bool,
    /// The engine answers every call on containers, and does nothing.
    pub(super) inert: bool,
    /// Every build of a commit gives another image.
    pub(super) irreproducible: bool,
    /// The engine never applies a limit.
    pub(super) ignores_limits: bool,
    /// The steps that fail, by number from now on.
    pub(super) failing: BTreeSet<usize>,
    /// Whether no container can be started for the first time.
    pub(super) disk_is_full: bool,
    /// The daemon is killed before the step with this number from now on.
    pub(super) killed_before: Option<usize>,
    /// Every step that was carried out.
    pub(super) done: Vec<Step>,
    pub(super) jobs_begun: usize,
    pub(super) latest: Entry,
    /// Containers whose program hangs.
    pub(super) hung: BTreeMap<String, Timestamp>,
    /// Every entry that the record ever had, the newest last.
    pub(super) history: Vec<Entry>,
    /// Failing calls fail because the engine does not answer.
    pub(super) is_silent: bool,
    pub(super) front: Option<Front>,
    /// Whether a killed daemon has lost all notes except those that it stores before it acts.
    pub(super) forgets: bool,
    /// Whether the container behind the proxy must answer after every reconcile.
    pub(super) always_served: bool,
    /// The engine cannot run sandboxes.
    pub(super) refuses_holders: bool,
    is_woken: bool,
    job: Option<Job>,
    pub(super) verdicts: BTreeMap<CommitId, Acquisition>,
    prober_since: Timestamp,
    /// By how much the clock was set forward.
    set_forward: Duration,
    /// By how much the wall clock was set back while the daemon runs on.
    pub(super) wall_clock_behind: Duration,
    containers_made: u32,
    /// The commands that were started, by image.
    pub(super) commands_run: Vec<Digest>,
    /// The marks of the runs of jobs that were started.
    pub(super) jobs_run: Vec<String>,
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "at {}, generation {}", self.now, self.intent.entry.generation)?;
        for container in &self.observed.containers {
            let image = container.image.as_ref().map_or("", |image| image.short());
            let joined = &container.joined;
            writeln!(
                f,
                "  {} {} of {image}: {:?} {joined:?}",
                container.name,
                &container.id[60..],
                container.state
            )?;
        }
        for holder in &self.observed.holders {
            writeln!(f, "  holder {} {}: {:?}", holder.name, &holder.id[60..], holder.state)?;
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
    /// A world with an empty record and no container.
    pub(super) fn empty() -> Self {
        let now = Timestamp::from_millis(1_795_000_000_000);
        Self {
            now,
            intent: intent(),
            observed: Observed { network: NetworkPresence::Missing, ..Observed::default() },
            memory: Memory::default(),
            programs: BTreeMap::new(),
            foreign_has_port: false,
            rejects_options: false,
            refuses_limits: false,
            inert: false,
            irreproducible: false,
            ignores_limits: false,
            failing: BTreeSet::new(),
            disk_is_full: false,
            killed_before: None,
            done: Vec::new(),
            jobs_begun: 0,
            latest: Entry::default(),
            hung: BTreeMap::new(),
            history: Vec::new(),
            is_silent: false,
            front: None,
            forgets: false,
            always_served: false,
            refuses_holders: false,
            is_woken: false,
            job: None,
            verdicts: BTreeMap::new(),
            prober_since: now,
            set_forward: Duration::ZERO,
            wall_clock_behind: Duration::ZERO,
            containers_made: 0,
            commands_run: Vec::new(),
            jobs_run: Vec::new(),
        }
    }

    /// A world where image `number` was deployed and has been ready for a while.
    pub(super) fn running(number: u8) -> Self {
        Self::running_in(Mode::Plain, number)
    }

    /// The same in another network mode.
    pub(super) fn running_in(mode: Mode, number: u8) -> Self {
        let mut world = Self::empty();
        world.enter(mode);
        world.set(number);
        world.rest();
        world.wait(60);
        assert!(world.is_ready_with(number), "{world:?}");
        world.done.clear();
        world
    }

    // --- what the outside does ----------------------------------------------------------------

    fn record(&mut self, revision: Option<CommitId>, image: Option<Image>, origin: Origin) {
        self.latest = Entry {
            generation: self.latest.generation.next().unwrap(),
            revision,
            image,
            origin: Some(origin),
            at: self.now,
            ..Entry::default()
        };
        self.history.push(self.latest.clone());
        if self.intent.hold.is_none() {
            self.intent.entry = self.latest.clone();
        }
    }

    /// A push: the record wants a commit that has to be built.
    pub(super) fn push(&mut self, number: u8) {
        self.intent.supply = SupplyKind::Build;
        self.record(Some(commit(number)), None, Origin::Push);
    }

    /// A user or a promotion names an image that is here.
    pub(super) fn set(&mut self, number: u8) {
        self.observed.images.insert(digest(number));
        self.promote(number);
    }

    /// A promotion names an image, wherever it is.
    pub(super) fn promote(&mut self, number: u8) {
        self.intent.supply = SupplyKind::Named;
        self.intent.bad.retain(|bad| !bad.image.is_same(&image(number)));
        self.record(None, Some(image(number)), Origin::Promotion);
    }

    /// A newer record arrives.
    pub(super) fn record_again(&mut self, entry: Entry, at: Timestamp) {
        self.record(entry.revision, entry.image, Origin::Promotion);
        self.intent.entry.at = at;
    }

    /// The record is rolled back, as by [`RecordStep::RollBack`].
    fn roll_back(&mut self, from: Generation, to: &Good, reason: Reason, message: &str) {
        let failed = self.intent.entry.clone();
        assert_eq!(from, failed.generation, "a rollback of another generation");
        assert!(self.intent.hold.is_none(), "a rollback while held");
        assert_ne!(failed.origin, Some(Origin::AutomaticRollback), "a rollback is rolled back");
        let image = failed.image.unwrap();
        assert!(!image.is_same(&to.image), "a rollback to what failed");
        let is_over = |seen: &ObservedContainer| {
            self.intent.restart == RestartMode::OnFailure
                && matches!(&seen.state, ContainerState::Exited(exit) if exit.code == 0)
        };
        let is_back = |seen: &ObservedContainer| {
            (seen.state == ContainerState::Running || is_over(seen)) && seen.image == to.image.id
        };
        assert!(
            self.observed.containers.iter().any(is_back),
            "the record moves before the service: {self:?}"
        );
        let mut desired = Desired::empty(self.intent.environment.clone());
        desired.bad = std::mem::take(&mut self.intent.bad);
        let message = message.to_owned();
        let (generation, revision) = (from, failed.revision);
        desired.mark_bad(Bad { image, generation, revision, reason, message, at: self.now });
        self.intent.bad = desired.bad;
        self.record(to.revision.clone(), Some(to.image.clone()), Origin::AutomaticRollback);
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

    /// Sets the clock; nothing else happens.
    pub(super) fn set_clock_forward(&mut self, by: Duration) {
        self.now = self.now.after(by);
        self.set_forward += by;
    }

    pub(super) fn set_clock_back(&mut self, by: Duration) {
        self.now = Timestamp::default().after(self.now.since(Timestamp::default()) - by);
        self.prober_since = self.prober_since.min(self.now);
    }

    pub(super) fn restart_daemon(&mut self) {
        self.restart_front_worker(self.containers_made.is_multiple_of(2));
        self.prober_since = self.now;
        self.job = None;
        (self.observed.superseded_job, self.observed.burst_since) = (false, None);
    }

    pub(super) fn foreign_takes_name(&mut self) {
        if self.observed.containers.iter().all(|container| container.name != NAME) {
            let whose = "of no environment of abide".to_owned();
            self.observed.name_holder =
                Some(NameHolder { id: "foreign".to_owned(), owner: Owner::Foreign(whose) });
        }
    }

    /// A container of another environment has the name, as after two were swapped in one edit.
    pub(super) fn neighbour_has_name(&mut self) {
        if self.observed.containers.iter().all(|container| container.name != NAME) {
            let owner = Owner::Environment(EnvironmentName::new("test").unwrap());
            self.observed.name_holder = Some(NameHolder { id: "neighbour".to_owned(), owner });
        }
    }

    /// Containers of others have the names that replacements and sandboxes usually get.
    pub(super) fn others_take_names_beside(&mut self) {
        let names = [format!("{NAME}.next"), format!("{NAME}.net")];
        let is_free = |name: &String| {
            let all = self.observed.containers.iter().chain(&self.observed.holders);
            all.into_iter().all(|container| container.name != *name)
        };
        let free: Vec<String> = names.into_iter().filter(is_free).collect();
        self.observed.taken_names.extend(free);
    }

    pub(super) fn exit(&mut self, index: usize, code: i64, out_of_memory: bool) {
        let at = self.now;
        if let Some(container) = self.observed.containers.get_mut(index)
            && matches!(container.state, ContainerState::Running | ContainerState::Paused)
        {
            container.state = ContainerState::Exited(Exit { code, out_of_memory, at });
        }
    }

    /// The program of every running container hangs until it is restarted.
    pub(super) fn hang(&mut self) {
        let running =
            self.observed.containers.iter().filter(|container| container.state == ContainerState::Running);
        self.hung.extend(running.map(|container| (container.id.clone(), self.now)));
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
        let all = self.observed.containers.iter_mut().chain(&mut self.observed.holders);
        all.for_each(|container| container.networks.clear());
    }

    // --- the loop -----------------------------------------------------------------------------

    /// The current plan.
    pub(super) fn plan(&self) -> Plan {
        let plan = plan(&self.intent, &self.seen(), &self.memory, self.now);
        check_words(&plan);
        plan
    }

    /// One reconcile: plan, act, store.
    pub(super) fn pass(&mut self) -> Plan {
        let plan = self.plan();
        let before = std::mem::replace(&mut self.memory, plan.memory.clone());
        self.assert_ready_status(&plan);
        self.update_front(&plan);
        let mut made = Made::default();
        for planned in &plan.steps {
            match self.act(&planned.step, &mut made) {
                Ok(true) => {}
                Ok(false) => {
                    if self.forgets && !must_be_stored(&before, &plan.memory) {
                        self.memory = before;
                    }
                    break;
                }
                Err(error) => {
                    let cause = if self.is_silent { Cause::Engine } else { cause::of_start(&error) };
                    let failure = StepFailure { cause, message: &error };
                    self.memory = after_failure(&plan, &planned.step, failure, &self.intent, self.now);
                    break;
                }
            }
        }
        self.turn_front();
        plan
    }

    /// Checks that a Ready status belongs to the recorded image, and names it.
    fn assert_ready_status(&self, plan: &Plan) {
        if plan.verdict.reason == Reason::AsRecorded {
            let seen = self.seen();
            let serving =
                crate::plan::serving(&self.intent, &seen, &plan.memory).expect("Ready, and nothing runs");
            let recorded = self.intent.entry.image.as_ref().and_then(|image| image.id.as_ref());
            assert_eq!(serving.image.as_ref(), recorded, "Ready with another image: {self:?}");
        }
    }

    /// Reconciles until there is nothing to do and nothing to wait for.
    pub(super) fn rest(&mut self) -> Plan {
        for _ in 0..400 {
            let plan = self.pass();
            if !plan.steps.is_empty() || std::mem::take(&mut self.is_woken) {
                continue;
            }
            match self.next_time(&plan) {
                Some(at) => self.advance(at),
                None => return plan,
            }
        }
        panic!("no rest is found: {self:?}");
    }

    /// Reconciles for so many seconds and returns the number of steps.
    pub(super) fn wait(&mut self, seconds: u64) -> usize {
        let before = self.done.len();
        self.wait_until(self.now.after(Duration::from_secs(seconds)));
        self.done.len() - before
    }

    /// The same for a part of a second.
    pub(super) fn wait_millis(&mut self, millis: u64) {
        self.wait_until(self.now.after(Duration::from_millis(millis)));
    }

    fn wait_until(&mut self, end: Timestamp) {
        for _ in 0..4_000 {
            let plan = self.pass();
            if !plan.steps.is_empty() || std::mem::take(&mut self.is_woken) {
                continue;
            }
            match self.next_time(&plan).filter(|at| *at <= end) {
                Some(at) => self.advance(at),
                None => return self.advance(end),
            }
        }
        panic!("a hot loop: {self:?}");
    }

    fn next_time(&self, plan: &Plan) -> Option<Timestamp> {
        let running =
            self.observed.containers.iter().filter(|container| container.state == ContainerState::Running);
        let events = running.flat_map(|container| [self.ends(container), self.answers(container)]);
        let of_jobs = plan.jobs_requeue_at.filter(|at| *at > self.now);
        let ripe = plan.requeue_at.filter(|at| *at > self.now);
        let job = self.job.as_ref().map(|job| job.ends);
        let front = self.front.iter().flat_map(Front::next_times);
        events.chain([ripe, of_jobs, job]).chain(front).flatten().filter(|at| *at > self.now).min()
    }

    pub(super) fn advance(&mut self, to: Timestamp) {
        self.now = to;
        self.turn_front();
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
}

fn intent() -> Intent {
    Intent {
        declared: None,
        after_hold: None,
        proposed: false,
        environment: EnvironmentName::new("dev").unwrap(),
        entry: Entry { generation: Generation(0), ..Entry::default() },
        hold: None,
        sync: None,
        bad: Vec::new(),
        supply: SupplyKind::Named,
        may_pull: true,
        options: Ok(options()),
        needs: BTreeMap::new(),
        hooks: Hooks::default(),
        jobs: BTreeMap::new(),
        health: HealthSpec {
            probe: Probe::Tcp,
            interval: Duration::from_secs(1),
            timeout: Duration::from_secs(2),
            start_deadline: Duration::from_secs(30),
            healthy_for: Duration::from_secs(10),
            ..HealthSpec::default()
        },
        update: Some(Update::StopFirst),
        restart: RestartMode::Always,
        holder: false,
        canary: None,
        canary_order: None,
        drain: None,
        spare: false,
        workload: None,
        keeps_what_runs: false,
    }
}

/// Checks that every step has a reason and a sentence, that every status has a message, and that none
/// contains a secret.
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
        Step::Record(RecordStep::Image { .. }) => "record",
        Step::Record(RecordStep::Recipe { .. }) => "note recipe",
        Step::Record(RecordStep::Edited { .. }) => "record edited",
        Step::Record(RecordStep::Rebuilt { .. }) => "record rebuilt",
        Step::Record(RecordStep::RollBack { .. }) => "roll back",
        Step::CreateNetwork => "network",
        Step::CreateVolume { .. } => "volume",
        Step::CreateFolder { .. } => "folder",
        Step::LoadHolder => "load holder",
        Step::CreateHolder { .. } => "create holder",
        Step::StartHolder { .. } => "start holder",
        Step::Announce { .. } => "announce",
        Step::Restart { .. } => "restart",
        Step::TryOptions { .. } => "try",
        Step::Create { .. } => "create",
        Step::Start { .. } => "start",
        Step::CreateOneOff { .. } => "create command",
        Step::StartOneOff { .. } => "start command",
        Step::Stop { .. } => "stop",
        Step::Remove { .. } => "remove",
        Step::Rename { .. } => "rename",
        Step::Pause { .. } => "pause",
        Step::Unpause { .. } => "unpause",
        Step::Connect { .. } => "connect",
        Step::Disconnect { .. } => "disconnect",
        Step::Adjust { .. } => "adjust",
        Step::ApplyWorkload { .. } => "apply workload",
        Step::RemoveWorkload { .. } => "remove workload",
    }
}
