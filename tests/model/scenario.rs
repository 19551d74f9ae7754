//! Scenarios: operations of people, and faults.

use proptest::collection::vec;
use proptest::prelude::*;

/// The steps of one run.
#[derive(Clone, Debug)]
pub(crate) struct Scenario {
    /// The steps in their order.
    pub(crate) steps: Vec<Step>,
}

/// An act, and how long the next one waits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Step {
    /// The operation or fault.
    pub(crate) act: Act,
    /// The wait after it.
    pub(crate) then: Then,
}

/// The wait after an act.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Then {
    /// So many milliseconds: the next act meets a daemon that is busy.
    Soon(u64),
    /// Lasting faults end, everything comes to rest, and the laws are checked.
    Rest,
}

/// An environment by its place: 0 follows a branch, 1 runs what people set, 2 is promoted to.
pub(crate) type Place = usize;
/// A version by its place among those that are ready to use.
pub(crate) type Pick = usize;

/// A way in which a version is bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flaw {
    /// The program ends at once.
    Crashes,
    /// The program answers every request with 500.
    Fails,
    /// The program never listens.
    Silent,
}

/// Something that a person does to a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hand {
    Stop,
    Kill,
    Restart,
    Pause,
    Remove,
    Rename,
    Update,
    Disconnect,
}

/// A key of the manifest that changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Key {
    Env,
    Secret,
    Memory,
    Cpus,
    Pids,
    Init,
    StopTimeout,
    Publish,
    ExtraHosts,
    Volumes,
    Command,
    Update,
    Health,
}

/// One operation or fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    // --- operations
    Push(Option<Flaw>),
    /// An old push is announced once more.
    Repeat,
    SetCommit(Pick),
    Set(Place, Pick),
    Promote,
    Rollback(Place),
    Hold(Place),
    Resume(Place),
    Sync(Place),
    Edit(Place, Key),
    BadEdit,
    Rename(Place),
    Swap(Place, Place),
    Take(Place),
    Restore(Place),
    Forget(Place),
    // --- faults of the daemon
    KillDaemon,
    RestartDaemon,
    /// The next daemon is killed at a point of the code.
    Failpoint(Pick, u8),
    /// A write of the record, and a kill so many milliseconds after it began.
    KillDuring(Place, Pick, u64),
    // --- faults of the engine, until the next rest
    KillEngine,
    FreezeEngine,
    Refuse(u8),
    Cut(u8),
    Hang(u8),
    Errors(u8),
    // --- faults of the host
    FillDisk,
    Clock(i64),
    SourceAway,
    // --- hands
    Touch(Place, Hand),
    TouchSandbox(Place, Hand),
    RemoveImage(Place),
    Prune,
    CutNetwork,
}

/// Scenarios of at most so many steps.
pub(crate) fn scenarios(steps: usize) -> impl Strategy<Value = Scenario> {
    vec(step(), 3..=steps.max(3)).prop_map(|steps| Scenario { steps })
}

fn step() -> impl Strategy<Value = Step> {
    let then = prop_oneof![3 => Just(Then::Rest), 2 => (0_u64..1500).prop_map(Then::Soon)];
    (act(), then).prop_map(|(act, then)| Step { act, then })
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        6 => operation(),
        2 => fault(),
        2 => touch(),
    ]
}

fn place() -> impl Strategy<Value = Place> {
    0_usize..3
}

fn pick() -> impl Strategy<Value = Pick> {
    0_usize..64
}

fn flaw() -> impl Strategy<Value = Option<Flaw>> {
    prop_oneof![
        3 => Just(None),
        1 => Just(Some(Flaw::Crashes)),
        1 => Just(Some(Flaw::Fails)),
        1 => Just(Some(Flaw::Silent)),
    ]
}

fn operation() -> impl Strategy<Value = Act> {
    prop_oneof![
        5 => flaw().prop_map(Act::Push),
        1 => Just(Act::Repeat),
        1 => pick().prop_map(Act::SetCommit),
        4 => (1_usize..3, pick()).prop_map(|(place, pick)| Act::Set(place, pick)),
        3 => Just(Act::Promote),
        2 => place().prop_map(Act::Rollback),
        2 => place().prop_map(Act::Hold),
        3 => place().prop_map(Act::Resume),
        1 => place().prop_map(Act::Sync),
        5 => (place(), key()).prop_map(|(place, key)| Act::Edit(place, key)),
        1 => Just(Act::BadEdit),
        1 => place().prop_map(Act::Rename),
        2 => (place(), place()).prop_map(|(one, other)| Act::Swap(one, other)),
        1 => place().prop_map(Act::Take),
        1 => place().prop_map(Act::Restore),
        1 => place().prop_map(Act::Forget),
    ]
}

fn key() -> impl Strategy<Value = Key> {
    prop::sample::select(vec![
        Key::Env,
        Key::Secret,
        Key::Memory,
        Key::Cpus,
        Key::Pids,
        Key::Init,
        Key::StopTimeout,
        Key::Publish,
        Key::ExtraHosts,
        Key::Volumes,
        Key::Command,
        Key::Update,
        Key::Health,
    ])
}

fn fault() -> impl Strategy<Value = Act> {
    prop_oneof![
        2 => Just(Act::KillDaemon),
        1 => Just(Act::RestartDaemon),
        3 => (pick(), 1_u8..4).prop_map(|(point, nth)| Act::Failpoint(point, nth)),
        2 => (1_usize..3, pick(), 0_u64..80).prop_map(|(place, pick, ms)| Act::KillDuring(place, pick, ms)),
        1 => Just(Act::KillEngine),
        1 => Just(Act::FreezeEngine),
        1 => (1_u8..6).prop_map(Act::Refuse),
        1 => (1_u8..6).prop_map(Act::Cut),
        1 => (1_u8..3).prop_map(Act::Hang),
        2 => (1_u8..8).prop_map(Act::Errors),
        1 => Just(Act::FillDisk),
        2 => prop::sample::select(vec![-86_400_i64, -600, -5, 5, 600, 86_400]).prop_map(Act::Clock),
        1 => Just(Act::SourceAway),
    ]
}

fn touch() -> impl Strategy<Value = Act> {
    prop_oneof![
        5 => (place(), hand()).prop_map(|(place, hand)| Act::Touch(place, hand)),
        3 => (place(), hand()).prop_map(|(place, hand)| Act::TouchSandbox(place, hand)),
        1 => place().prop_map(Act::RemoveImage),
        1 => Just(Act::Prune),
        1 => Just(Act::CutNetwork),
    ]
}

fn hand() -> impl Strategy<Value = Hand> {
    prop::sample::select(vec![
        Hand::Stop,
        Hand::Kill,
        Hand::Restart,
        Hand::Pause,
        Hand::Remove,
        Hand::Rename,
        Hand::Update,
        Hand::Disconnect,
    ])
}
