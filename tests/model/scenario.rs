//! Scenarios: operations of people, and faults.

use proptest::collection::vec;
use proptest::prelude::*;

/// The steps of one run.
#[derive(Clone, Debug)]
pub(crate) struct Scenario {
    /// The parts of its world.
    pub(crate) parts: WorldParts,
    /// The steps in their order.
    pub(crate) steps: Vec<Step>,
}

/// The parts that a world may have beside the controller and its host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WorldParts {
    /// Whether an agent runs on a second host.
    pub(crate) has_agent: bool,
    /// Whether the proxy serves the environments, on each host.
    pub(crate) has_front: bool,
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
    /// Of an environment that is declared: what it left on the other host.
    Forget(Place),
    /// To the agent's host, or back.
    Move(Place),
    // --- faults of the daemon
    KillDaemon,
    RestartDaemon,
    /// The next daemon is killed at a point of the code.
    Failpoint(Pick, u8),
    /// A write of the record, and a kill so many milliseconds after it began.
    KillDuring(Place, Pick, u64),
    // --- faults of the agent, if there is one
    KillAgent,
    /// The next agent is killed at a point of the code.
    AgentFailpoint(Pick, u8),
    /// The network between the two hosts is cut until the next rest.
    CutCable,
    KillAgentEngine,
    // --- faults of the engines, until the next rest
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
    /// On the proxy of the agent's host, or else of the controller's.
    TouchFront(bool, Hand),
    RemoveImage(Place),
    Prune,
    CutNetwork,
}

impl Act {
    /// Whether an environment that replaces its containers start-first serves on meanwhile.
    pub(crate) fn is_harmless(self) -> bool {
        match self {
            Self::Push(_)
            | Self::Repeat
            | Self::SetCommit(_)
            | Self::Set(..)
            | Self::Promote
            | Self::Rollback(_)
            | Self::Hold(_)
            | Self::Resume(_)
            | Self::Sync(_)
            | Self::BadEdit
            | Self::KillDaemon
            | Self::RestartDaemon
            | Self::Failpoint(..)
            | Self::KillDuring(..)
            | Self::KillAgent
            | Self::AgentFailpoint(..)
            | Self::CutCable
            | Self::Refuse(_)
            | Self::Cut(_)
            | Self::Hang(_)
            | Self::Errors(_)
            | Self::FillDisk
            | Self::Clock(_)
            | Self::SourceAway => true,
            // The proxy opens another port, or the next update is stop-first.
            Self::Edit(_, key) => !matches!(key, Key::Publish | Key::Update),
            _ => false,
        }
    }
}

/// Scenarios of at most so many steps.
pub(crate) fn scenarios(steps: usize) -> impl Strategy<Value = Scenario> {
    parts().prop_flat_map(move |parts| {
        vec(step(parts), 3..=steps.max(3)).prop_map(move |steps| Scenario { parts, steps })
    })
}

fn parts() -> impl Strategy<Value = WorldParts> {
    let agent = prop::bool::weighted(0.6);
    (agent, any::<bool>()).prop_map(|(has_agent, has_front)| WorldParts { has_agent, has_front })
}

fn step(parts: WorldParts) -> impl Strategy<Value = Step> {
    let then = prop_oneof![3 => Just(Then::Rest), 2 => (0_u64..1500).prop_map(Then::Soon)];
    (act(parts), then).prop_map(|(act, then)| Step { act, then })
}

fn act(WorldParts { has_agent, has_front }: WorldParts) -> BoxedStrategy<Act> {
    let mut kinds = vec![(6, operation().boxed()), (2, fault().boxed()), (2, touch().boxed())];
    if has_agent {
        kinds.push((4, between_hosts().boxed()));
    }
    if has_front {
        let side = if has_agent { any::<bool>().boxed() } else { Just(false).boxed() };
        kinds.push((1, (side, hand()).prop_map(|(side, hand)| Act::TouchFront(side, hand)).boxed()));
    }
    prop::strategy::Union::new_weighted(kinds).boxed()
}

fn between_hosts() -> impl Strategy<Value = Act> {
    prop_oneof![
        // An image that is built from a branch runs on the host that builds it.
        6 => (1_usize..3).prop_map(Act::Move),
        1 => place().prop_map(Act::Forget),
        1 => Just(Act::KillAgent),
        2 => (pick(), 1_u8..4).prop_map(|(point, nth)| Act::AgentFailpoint(point, nth)),
        1 => Just(Act::CutCable),
        1 => Just(Act::KillAgentEngine),
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
