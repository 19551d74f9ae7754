//! The law of the outbox, for random histories: whatever is killed, delayed, rejected or repeated, the remote shows
//! the last true state in the end, and every message was delivered at least once or is dead and visible.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use proptest::prelude::*;
use tempfile::TempDir;

use crate::feedback::lane::{ClockFn, Deliver, DeliveryLane, DeliveryRefusal, NextRun, ProjectionStep, Then};
use crate::metrics::Metrics;
use crate::model::checks::AwaitedCommit;
use crate::model::desired::{Image, Origin, Outcome, RollbackRequest};
use crate::model::memory::Memory;
use crate::model::name::{ChannelName, CommitId, Digest, EnvironmentName, Generation, RepositoryName};
use crate::model::outbox::commit::{CommitState, Phase};
use crate::model::outbox::{
    ChannelRule, Deployment, ForgeRule, Message, News, OutboxRules, OutboxTarget, Projection, Subject,
};
use crate::model::status::{Condition, Reason, Status};
use crate::model::time::Timestamp;
use crate::record::{Change, Handles, open};

const START: u64 = 1_790_000_000_000;

fn name(text: &str) -> EnvironmentName {
    EnvironmentName::new(text).unwrap()
}

fn commit(number: u64) -> CommitId {
    CommitId::new(format!("{:040x}", number + 1)).unwrap()
}

fn image(number: u64) -> Image {
    let id = Digest::new(format!("sha256:{number:064x}")).unwrap();
    Image { reference: None, digest: None, id: Some(id) }
}

fn channel() -> OutboxTarget {
    OutboxTarget::Channel(ChannelName::new("team").unwrap())
}

fn forge() -> OutboxTarget {
    OutboxTarget::Forge(RepositoryName::new("app").unwrap())
}

fn rules() -> OutboxRules {
    let rule = ChannelRule { on: News::ALL.into(), environments: None };
    let forges = ["dev", "prod"].map(|environment| {
        let repository = RepositoryName::new("app").unwrap();
        (name(environment), ForgeRule { repository, deployments: environment == "prod", awaits_checks: true })
    });
    OutboxRules { channels: [(ChannelName::new("team").unwrap(), rule)].into(), forges: forges.into() }
}

/// What happens to the next request.
#[derive(Clone, Copy, Debug)]
enum Fate {
    Fine,
    /// 500 before anything was stored.
    Fails,
    /// 500 after it was stored.
    FailsAfterStoring,
    Limited(u16),
    Rejected,
    Denied,
    /// The daemon is killed before the request arrives.
    KilledBefore,
    /// The daemon is killed after it was stored, before the answer arrives.
    KilledAfter,
}

/// A service that remembers everything, and fails on demand.
#[derive(Default)]
struct Remote {
    /// Ids in the order of arrival, with those that each replaces.
    messages: Vec<(String, Vec<String>, Subject)>,
    statuses: BTreeMap<(EnvironmentName, CommitId), Vec<CommitState>>,
    deployments: Vec<(EnvironmentName, CommitId, Generation, Vec<CommitState>)>,
    fates: Vec<Fate>,
    killed: bool,
}

impl Remote {
    /// Lets `store` happen according to the next fate.
    fn meet<T>(&mut self, store: impl FnOnce(&mut Self) -> T) -> Option<Result<T, DeliveryRefusal>> {
        let fate = self.fates.pop().unwrap_or(Fate::Fine);
        match fate {
            Fate::Fine => Some(Ok(store(self))),
            Fate::Fails => Some(Err(DeliveryRefusal::passing("500"))),
            Fate::FailsAfterStoring => {
                store(self);
                Some(Err(DeliveryRefusal::passing("500")))
            }
            Fate::Limited(seconds) => {
                let then = Then::Wait(Duration::from_secs(seconds.into()));
                Some(Err(DeliveryRefusal { then, why: "429".into() }))
            }
            Fate::Rejected => Some(Err(DeliveryRefusal::permanent("422"))),
            Fate::Denied => Some(Err(DeliveryRefusal::denied("401"))),
            Fate::KilledBefore => {
                self.killed = true;
                None
            }
            Fate::KilledAfter => {
                store(self);
                self.killed = true;
                None
            }
        }
    }
}

#[derive(Clone)]
struct ToRemote(Arc<Mutex<Remote>>);

/// Answers, or never if the daemon is killed meanwhile.
fn answer<'a, T: Send + 'a>(
    result: Option<Result<T, DeliveryRefusal>>,
) -> BoxFuture<'a, Result<T, DeliveryRefusal>> {
    match result {
        Some(result) => std::future::ready(result).boxed(),
        None => std::future::pending().boxed(),
    }
}

impl Deliver for ToRemote {
    fn message<'a>(
        &'a self,
        message: &'a Message,
        _: Option<&'a str>,
    ) -> BoxFuture<'a, Result<Option<String>, DeliveryRefusal>> {
        let mut remote = self.0.lock().unwrap();
        let grouped = message.grouped.iter().map(|grouped| grouped.id.clone()).collect();
        let arrived = (message.id.clone(), grouped, message.announcement.subject.clone());
        let result = remote.meet(|remote| remote.messages.push(arrived));
        answer(result.map(|result| result.map(|()| None)))
    }

    fn project<'a>(&'a self, row: &'a Projection) -> BoxFuture<'a, Result<ProjectionStep, DeliveryRefusal>> {
        let mut remote = self.0.lock().unwrap();
        let key = (row.environment.clone(), row.revision.clone());
        if row.shown.as_ref() != Some(&row.wanted) {
            let shown = remote.statuses.get(&key).and_then(|states| states.last());
            if shown == Some(&row.wanted) {
                return answer(Some(Ok(ProjectionStep::Status(row.wanted.clone()))));
            }
            let state = row.wanted.clone();
            let result = remote.meet(|remote| remote.statuses.entry(key).or_default().push(state));
            return answer(result.map(|result| result.map(|()| ProjectionStep::Status(row.wanted.clone()))));
        }
        let deployment = row.deployment.clone().unwrap();
        let same = |(environment, revision, generation, _): &&mut (
            EnvironmentName,
            CommitId,
            Generation,
            Vec<CommitState>,
        )| {
            (environment, revision, *generation) == (&row.environment, &row.revision, row.generation)
        };
        if deployment.generation != row.generation || deployment.id.is_none() {
            let made = Deployment { generation: row.generation, id: Some("1".into()), shown: None };
            if remote.deployments.iter_mut().any(|known| same(&known)) {
                return answer(Some(Ok(ProjectionStep::Created(made))));
            }
            let (environment, revision) = key;
            let created = (environment, revision, row.generation, Vec::new());
            let result = remote.meet(|remote| remote.deployments.push(created));
            return answer(result.map(|result| result.map(|()| ProjectionStep::Created(made))));
        }
        let state = row.wanted.clone();
        let result = remote.meet(|remote| {
            let known = remote.deployments.iter_mut().find(|known| {
                (&known.0, &known.1, known.2) == (&row.environment, &row.revision, row.generation)
            });
            known.unwrap().3.push(state);
        });
        answer(result.map(|result| result.map(|()| ProjectionStep::Deployment(row.wanted.clone()))))
    }
}

/// A daemon that is killed and restarted, as far as its record and its lanes go.
struct World {
    home: TempDir,
    handles: Option<Handles>,
    lanes: Vec<DeliveryLane>,
    remote: Arc<Mutex<Remote>>,
    now: Arc<AtomicU64>,
    /// Every message that was ever in the record.
    ever: BTreeSet<String>,
    withdrawn: BTreeSet<String>,
    /// Those of them that are groups. A group that was grouped again has no line; its messages have.
    groups: BTreeSet<String>,
}

impl World {
    async fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let (remote, now) = (Arc::default(), Arc::new(AtomicU64::new(START)));
        let (ever, withdrawn, groups) = Default::default();
        let mut world = Self { home, handles: None, lanes: Vec::new(), remote, now, ever, withdrawn, groups };
        world.start().await;
        world
    }

    async fn start(&mut self) {
        (self.lanes, self.handles) = (Vec::new(), None);
        let handles = open(self.home.path()).unwrap();
        handles.outbox.follow(rules()).await.unwrap();
        let now = Arc::clone(&self.now);
        let clock: ClockFn = Arc::new(move || Timestamp::from_millis(now.load(Relaxed)));
        self.lanes = [channel(), forge()]
            .map(|target| {
                let deliver = Arc::new(ToRemote(Arc::clone(&self.remote)));
                DeliveryLane::new(
                    target,
                    handles.outbox.clone(),
                    deliver,
                    Arc::clone(&clock),
                    Metrics::default(),
                )
            })
            .into();
        self.handles = Some(handles);
        self.remote.lock().unwrap().killed = false;
    }

    fn handles(&self) -> &Handles {
        self.handles.as_ref().unwrap()
    }

    fn at(&self) -> Timestamp {
        Timestamp::from_millis(self.now.load(Relaxed))
    }

    fn note_messages(&mut self) {
        for message in self.handles().outbox.messages(&channel()).unwrap() {
            if !message.grouped.is_empty() {
                self.groups.insert(message.id.clone());
            }
            self.ever.insert(message.id);
        }
    }

    /// Runs a lane for a step; a kill in its midst restarts the daemon.
    async fn step(&mut self, lane: usize) -> Option<NextRun> {
        let step = self.lanes[lane].step();
        let killed = async {
            while !self.remote.lock().unwrap().killed {
                tokio::task::yield_now().await;
            }
        };
        let next = tokio::select! {
            biased;
            next = step => Some(next.unwrap()),
            () = killed => None,
        };
        if next.is_none() {
            self.start().await;
        }
        self.note_messages();
        next
    }

    async fn push(&mut self, environment: &str, number: u64) {
        let change = Change {
            revision: Some(commit(number)),
            image: None,
            origin: Origin::Push,
            by: None,
            token: None,
            note: None,
            at: self.at(),
            hold: None,
        };
        self.handles().writer.submit(&name(environment), change, &[]).await.unwrap();
        self.note_messages();
    }

    /// The commits `numbers`, newest first, wait for their checks.
    async fn wait_for_checks(&mut self, environment: &str, numbers: &[u64], sentence: &str) {
        let commits = numbers.iter().map(|number| AwaitedCommit {
            revision: commit(*number),
            first_seen: self.at(),
            state: Some(CommitState::new(Phase::Pending, sentence)),
        });
        self.handles().resolver.note_awaited(&name(environment), commits.collect()).await.unwrap();
    }

    /// The checks of a commit passed.
    async fn accept(&mut self, environment: &str, number: u64) {
        let (environment, at) = (name(environment), self.at());
        let resolver = &self.handles().resolver;
        resolver.advance_checked(&environment, &commit(number), "passed ci".into(), at).await.unwrap();
        self.note_messages();
    }

    fn awaited(&self, environment: &EnvironmentName) -> Vec<AwaitedCommit> {
        self.handles().desired.awaited(environment).unwrap()
    }

    async fn report(&mut self, environment: &str, condition: Condition, reason: Reason) {
        let environment = name(environment);
        let generation = self.handles().desired.get(&environment).unwrap().entry.generation;
        if generation == Generation::default() {
            return;
        }
        let message = format!("{} at generation {generation}", reason.as_str());
        let status = Status::new(environment.clone(), generation, (condition, reason), message, self.at());
        let before: BTreeSet<String> = self.waiting();
        let writer = self.handles().status_writer.clone();
        writer.report(&status, &Memory::default()).await.unwrap();
        if condition == Condition::Ready {
            writer.outcome(&environment, generation, Outcome::Ready).await.unwrap();
        }
        // A problem that passed before it was due is withdrawn.
        self.withdrawn.extend(before.difference(&self.waiting()).cloned());
        self.note_messages();
    }

    fn waiting(&self) -> BTreeSet<String> {
        self.handles().outbox.messages(&channel()).unwrap().into_iter().map(|message| message.id).collect()
    }

    async fn roll_back(&mut self, environment: &str) {
        let environment = name(environment);
        let entry = self.handles().desired.get(&environment).unwrap().entry;
        let resolver = self.handles().resolver.clone();
        resolver.resolve_image(&environment, entry.generation, image(entry.generation.0)).await.unwrap();
        let back = RollbackRequest {
            from: entry.generation,
            image: image(0),
            revision: Some(commit(0)),
            note: "back".into(),
            reason: Reason::NeverReady,
            message: "it never answered".into(),
            at: self.at(),
        };
        resolver.roll_back(&environment, back).await.unwrap();
        self.note_messages();
    }

    /// Lets everything be delivered that ever can be.
    async fn settle(&mut self) {
        self.remote.lock().unwrap().fates.clear();
        for _ in 0..3 {
            for lane in 0..2 {
                let mut steps = 0;
                loop {
                    steps += 1;
                    assert!(steps < 10_000, "a lane never rests");
                    match self.step(lane).await {
                        Some(NextRun::Again) | None => {}
                        Some(NextRun::At(at)) if at > self.at() => self.now.store(at.as_millis(), Relaxed),
                        Some(NextRun::At(_)) => panic!("a lane waits for the past"),
                        Some(NextRun::OnChange) => break,
                    }
                }
            }
        }
    }

    /// The laws at rest.
    fn check(&self) {
        let remote = self.remote.lock().unwrap();
        let outbox = &self.handles().outbox;
        let arrived: BTreeSet<&String> =
            remote.messages.iter().flat_map(|(id, grouped, _)| std::iter::once(id).chain(grouped)).collect();
        let items = outbox.items().unwrap();
        let dead: BTreeSet<&String> =
            items.iter().filter(|item| item.dead.is_some()).map(|item| &item.id).collect();
        let messages = outbox.messages(&channel()).unwrap();
        let in_dead_groups: BTreeSet<&String> =
            messages.iter().flat_map(|message| message.grouped.iter().map(|grouped| &grouped.id)).collect();
        let is_listed_in_full = messages.iter().all(|message| message.more == 0);
        for id in &self.ever {
            let is_accounted = arrived.contains(id)
                || dead.contains(id)
                || in_dead_groups.contains(id)
                || self.withdrawn.contains(id)
                || self.groups.contains(id)
                || !is_listed_in_full;
            assert!(is_accounted, "{id} is lost");
        }
        for environment in ["dev", "prod"].map(name) {
            self.check_states(&remote, &environment);
        }
    }

    fn check_states(&self, remote: &Remote, environment: &EnvironmentName) {
        let handles = self.handles();
        let desired = handles.desired.get(environment).unwrap();
        let rows = handles.outbox.projections(&forge()).unwrap();
        let awaited = self.awaited(environment);
        for commit in
            awaited.iter().filter(|commit| desired.entry.revision.as_ref() != Some(&commit.revision))
        {
            let is_its =
                |row: &&Projection| row.environment == *environment && row.revision == commit.revision;
            let row = rows.iter().find(is_its).expect("a commit that waits for its checks has a row");
            assert_eq!(Some(&row.wanted), commit.state.as_ref());
            if row.attempts.dead.is_none() {
                let shown = remote.statuses[&(environment.clone(), commit.revision.clone())].last();
                assert_eq!(
                    shown,
                    commit.state.as_ref(),
                    "the forge shows another state of a commit that waits"
                );
            }
        }
        let Some(revision) = &desired.entry.revision else { return };
        let status = handles.status.status(environment).unwrap();
        let history = handles.status.history(environment).unwrap();
        let outcome = history.first().and_then(|kept| kept.outcome.clone());
        let wanted = crate::model::outbox::commit::current(&desired, status.as_ref(), outcome.as_ref());
        let row = rows.iter().find(|row| row.environment == *environment && row.revision == *revision);
        let row = row.expect("the recorded commit has a row");
        assert_eq!(row.wanted, wanted, "the row of {environment} is out of date");
        let shown =
            remote.statuses.get(&(environment.clone(), revision.clone())).and_then(|states| states.last());
        if row.attempts.dead.is_none() {
            assert_eq!(shown, Some(&wanted), "the forge shows another state of {environment}");
        }
        // No commit stays pending for ever, unless its last state was rejected.
        for ((shown_of, revision), states) in &remote.statuses {
            let is_recorded = Some(revision) == desired.entry.revision.as_ref()
                || awaited.iter().any(|commit| commit.revision == *revision);
            let is_rejected = rows.iter().any(|row| row.revision == *revision && row.attempts.dead.is_some());
            if shown_of == environment && !is_recorded && !is_rejected {
                let last = states.last().unwrap().phase;
                assert!(!matches!(last, Phase::Pending | Phase::Running), "{revision} stays {last:?}");
            }
        }
        // No deployment twice.
        let mut seen = BTreeSet::new();
        for (environment, revision, generation, _) in &remote.deployments {
            assert!(seen.insert((environment, revision, generation)), "a deployment was created twice");
        }
    }
}

#[derive(Clone, Debug)]
enum Act {
    Push(bool),
    Report(bool, usize),
    /// A new head waits for its checks.
    NewHead(bool),
    /// The checks of one of the commits that wait passed.
    Accept(bool, usize),
    /// The branch was rewritten: only the newest so many commits still wait.
    Rewrite(bool, usize),
    RollBack(bool),
    Step(bool),
    Wait(u32),
    Fate(Fate),
    Restart,
}

/// The statuses that a reconcile loop reports.
const REPORTS: [(Condition, Reason); 7] = [
    (Condition::Progressing, Reason::Building),
    (Condition::Progressing, Reason::AwaitingHealth),
    (Condition::Ready, Reason::AsRecorded),
    (Condition::Degraded, Reason::BuildFailed),
    (Condition::Degraded, Reason::EngineUnavailable),
    (Condition::Degraded, Reason::CrashLoop),
    (Condition::Blocked, Reason::VolumeMissing),
];

fn act() -> impl Strategy<Value = Act> {
    let fate = prop_oneof![
        Just(Fate::Fine),
        Just(Fate::Fails),
        Just(Fate::FailsAfterStoring),
        (1..4000_u16).prop_map(Fate::Limited),
        Just(Fate::Rejected),
        Just(Fate::Denied),
        Just(Fate::KilledBefore),
        Just(Fate::KilledAfter),
    ];
    prop_oneof![
        2 => any::<bool>().prop_map(Act::Push),
        4 => (any::<bool>(), 0..REPORTS.len()).prop_map(|(prod, which)| Act::Report(prod, which)),
        3 => any::<bool>().prop_map(Act::NewHead),
        2 => (any::<bool>(), 0..4_usize).prop_map(|(prod, which)| Act::Accept(prod, which)),
        1 => (any::<bool>(), 0..3_usize).prop_map(|(prod, kept)| Act::Rewrite(prod, kept)),
        1 => any::<bool>().prop_map(Act::RollBack),
        6 => any::<bool>().prop_map(Act::Step),
        2 => (1..9_000_u32).prop_map(Act::Wait),
        3 => fate.prop_map(Act::Fate),
        1 => Just(Act::Restart),
    ]
}

async fn live(acts: Vec<Act>) {
    let mut world = World::new().await;
    let environment = |prod: bool| if prod { "prod" } else { "dev" };
    let mut pushed = 0;
    // The commits that wait for their checks, newest first.
    let mut waiting = [Vec::new(), Vec::new()];
    for act in acts {
        match act {
            Act::Push(prod) => {
                pushed += 1;
                world.push(environment(prod), pushed).await;
            }
            Act::Report(prod, which) => {
                let (condition, reason) = REPORTS[which];
                world.report(environment(prod), condition, reason).await;
            }
            Act::NewHead(prod) => {
                pushed += 1;
                let mut heads = vec![pushed];
                heads.append(&mut waiting[usize::from(prod)]);
                world
                    .wait_for_checks(environment(prod), &heads, &format!("waiting for CI of {pushed}"))
                    .await;
                waiting[usize::from(prod)] = heads;
            }
            Act::Accept(prod, which) => {
                let heads = &mut waiting[usize::from(prod)];
                if let Some(number) = heads.get(which).copied() {
                    heads.truncate(which);
                    world.accept(environment(prod), number).await;
                }
            }
            Act::Rewrite(prod, kept) => {
                let heads = &mut waiting[usize::from(prod)];
                heads.truncate(kept);
                world.wait_for_checks(environment(prod), heads, "waiting for CI").await;
            }
            Act::RollBack(prod) => world.roll_back(environment(prod)).await,
            Act::Step(messages) => drop(world.step(usize::from(messages)).await),
            Act::Wait(seconds) => {
                world.now.fetch_add(u64::from(seconds) * 1000, Relaxed);
            }
            Act::Fate(fate) => world.remote.lock().unwrap().fates.push(fate),
            Act::Restart => world.start().await,
        }
    }
    world.settle().await;
    world.check();
}

/// The number of random histories; `PROPTEST_CASES` sets another one.
fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(40)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn the_last_state_is_delivered_and_no_message_is_lost(acts in prop::collection::vec(act(), 1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(live(acts));
    }
}

#[tokio::test]
async fn a_restart_announces_nothing_twice() {
    let mut world = World::new().await;
    world.push("dev", 1).await;
    world.report("dev", Condition::Ready, Reason::AsRecorded).await;
    world.settle().await;
    for _ in 0..3 {
        world.start().await;
        world.report("dev", Condition::Progressing, Reason::Updating).await;
        world.report("dev", Condition::Ready, Reason::AsRecorded).await;
        world.settle().await;
    }
    let remote = world.remote.lock().unwrap();
    assert_eq!(remote.messages.len(), 1);
    let states = &remote.statuses[&(name("dev"), commit(1))];
    let phases: Vec<Phase> = states.iter().map(|state| state.phase).collect();
    assert_eq!(phases.iter().filter(|phase| **phase == Phase::Success).count(), phases.len(), "{states:?}");
}

#[tokio::test]
async fn a_problem_that_passes_within_its_grace_is_not_announced() {
    let mut world = World::new().await;
    world.push("dev", 1).await;
    world.report("dev", Condition::Ready, Reason::AsRecorded).await;
    world.settle().await;
    world.report("dev", Condition::Degraded, Reason::EngineUnavailable).await;
    assert_eq!(world.waiting().len(), 1);
    world.now.fetch_add(30_000, Relaxed);
    assert!(matches!(world.step(0).await, Some(NextRun::At(_))));
    world.report("dev", Condition::Ready, Reason::AsRecorded).await;
    assert!(world.waiting().is_empty());
    world.report("dev", Condition::Degraded, Reason::EngineUnavailable).await;
    world.now.fetch_add(61_000, Relaxed);
    world.report("dev", Condition::Ready, Reason::AsRecorded).await;
    world.settle().await;
    // Ready, then failed and recovered.
    assert_eq!(world.remote.lock().unwrap().messages.len(), 3);
}

#[tokio::test]
async fn messages_are_ordered_within_a_subject_only() {
    let mut world = World::new().await;
    world.push("dev", 1).await;
    world.push("prod", 2).await;
    world.report("dev", Condition::Degraded, Reason::BuildFailed).await;
    world.report("dev", Condition::Ready, Reason::AsRecorded).await;
    world.report("prod", Condition::Ready, Reason::AsRecorded).await;
    world.remote.lock().unwrap().fates.push(Fate::Fails);
    world.step(0).await;
    world.step(0).await;
    {
        let remote = world.remote.lock().unwrap();
        let subjects: Vec<&Subject> = remote.messages.iter().map(|(_, _, subject)| subject).collect();
        assert_eq!(subjects, [&Subject::Environment(name("prod"))]);
    }
    world.settle().await;
    assert_eq!(world.remote.lock().unwrap().messages.len(), 3);
}

#[tokio::test]
async fn a_rejected_message_is_dead_and_visible_until_it_is_retried() {
    let mut world = World::new().await;
    world.push("dev", 1).await;
    world.report("dev", Condition::Ready, Reason::AsRecorded).await;
    world.remote.lock().unwrap().fates.push(Fate::Denied);
    let denied = world.at();
    world.step(0).await;
    let items = world.handles().outbox.items().unwrap();
    let dead = items.iter().find(|item| item.target == channel()).unwrap();
    assert_eq!((dead.error.as_deref(), dead.next), (Some("401"), None));
    // The lane is closed for minutes, but a person who repaired the secret does not wait for that.
    world.push("prod", 2).await;
    world.report("prod", Condition::Ready, Reason::AsRecorded).await;
    world.step(0).await;
    assert_eq!(world.remote.lock().unwrap().messages.len(), 0, "the channel is left alone");
    let items = world.handles().outbox.items().unwrap();
    let waiting = items.iter().find(|item| item.target == channel() && item.dead.is_none()).unwrap();
    let next = waiting.next.unwrap();
    assert!(next >= denied.after(Duration::from_secs(600)), "the list shows when it is tried: {waiting:?}");
    assert_eq!(world.handles().outbox.retry(Some(channel()), world.at()).await.unwrap(), 2);
    world.step(0).await;
    assert_eq!(world.remote.lock().unwrap().messages.len(), 1, "it is sent at once");
    world.settle().await;
    assert_eq!(world.remote.lock().unwrap().messages.len(), 2);
    assert!(world.handles().outbox.items().unwrap().is_empty());
}

#[tokio::test]
async fn deliveries_to_a_failing_target_back_off() {
    let mut world = World::new().await;
    for number in 1..=4 {
        world.push(["dev", "prod"][number % 2], number as u64).await;
        world.report(["dev", "prod"][number % 2], Condition::Ready, Reason::AsRecorded).await;
    }
    world.remote.lock().unwrap().fates = vec![Fate::Fails; 50];
    for _ in 0..20 {
        world.step(0).await;
    }
    let tried = 50 - world.remote.lock().unwrap().fates.len();
    assert!(tried <= 3, "{tried} requests to a service that fails");
    // The next failure is the third in a row, which closes the whole target.
    world.now.fetch_add(60_000, Relaxed);
    world.step(0).await;
    let (items, now) = (world.handles().outbox.items().unwrap(), world.at());
    let untried = items.iter().find(|item| item.target == channel() && item.attempts == 0).unwrap();
    assert!(untried.next.is_some_and(|next| next > now), "it waits for the target: {untried:?}");
    world.settle().await;
    assert!(world.waiting().is_empty());
}

#[tokio::test]
async fn a_removed_target_loses_its_items_and_a_new_one_starts_empty() {
    let mut world = World::new().await;
    world.push("dev", 1).await;
    world.report("dev", Condition::Ready, Reason::AsRecorded).await;
    assert!(!world.waiting().is_empty());
    world.handles().outbox.follow(OutboxRules::default()).await.unwrap();
    assert!(world.handles().outbox.items().unwrap().is_empty());
    world.handles().outbox.follow(rules()).await.unwrap();
    assert!(world.waiting().is_empty());
    // The state of the recorded commit is shown all the same: it is true now.
    world.settle().await;
    let remote = world.remote.lock().unwrap();
    assert_eq!(remote.statuses[&(name("dev"), commit(1))].last().unwrap().phase, Phase::Success);
}

#[tokio::test]
async fn commits_waiting_for_checks_get_a_status_that_is_later_closed() {
    let mut world = World::new().await;
    let shown = |world: &World, number: u64| {
        let remote = world.remote.lock().unwrap();
        let states = remote.statuses.get(&(name("dev"), commit(number)));
        states.and_then(|states| states.last()).map(|state| (state.phase, state.description.clone()))
    };
    // The first commit waits before anything is recorded.
    world.wait_for_checks("dev", &[1], "waiting for CI: 2 of 3 checks").await;
    world.settle().await;
    assert_eq!(shown(&world, 1), Some((Phase::Pending, "waiting for CI: 2 of 3 checks".into())));
    world.wait_for_checks("dev", &[3, 2, 1], "waiting for CI: 0 of 3 checks").await;
    world.start().await;
    let first_seen = world.awaited(&name("dev"))[2].first_seen;
    assert_eq!(first_seen, Timestamp::from_millis(START), "a restart gives a commit no more time");
    world.settle().await;
    // The middle one passes: older ones are closed, the newer one still waits.
    world.accept("dev", 2).await;
    world.settle().await;
    assert_eq!(shown(&world, 1), Some((Phase::Superseded, format!("superseded by {}", commit(2).short()))));
    assert_eq!(shown(&world, 2).unwrap().1, "generation 1 is waiting");
    assert_eq!(shown(&world, 3).unwrap().0, Phase::Pending);
    let rows = world.handles().outbox.projections(&forge()).unwrap();
    assert_eq!(rows.len(), 2, "{rows:?}");
    // A commit that changes no path of the environment is done.
    let (resolver, at) = (world.handles().resolver.clone(), world.at());
    resolver.pass_over(&name("dev"), &commit(3), at).await.unwrap();
    world.settle().await;
    assert_eq!(shown(&world, 3).unwrap().0, Phase::Success);
    // A branch that was rewritten has other commits.
    world.wait_for_checks("dev", &[4], "waiting for CI").await;
    world.settle().await;
    world.wait_for_checks("dev", &[5], "waiting for CI").await;
    world.settle().await;
    assert_eq!(
        (shown(&world, 4).unwrap().0, shown(&world, 5).unwrap().0),
        (Phase::Superseded, Phase::Pending)
    );
    // Without `checks` in the manifest, nothing waits.
    let mut rules = rules();
    rules.forges.values_mut().for_each(|rule| rule.awaits_checks = false);
    world.handles().outbox.follow(rules).await.unwrap();
    world.settle().await;
    assert_eq!(shown(&world, 5).unwrap().0, Phase::Superseded);
}
