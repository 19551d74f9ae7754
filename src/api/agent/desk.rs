//! Agent sessions: which agents are connected, what to send to each, and pending questions.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::api::{ControllerError, LogStream, ManifestState};
use crate::model::error::chain;
use crate::model::link::{Ask, Hello, LeftThere, Leftovers, Question};
use crate::model::mount::VolumeName;
use crate::model::name::{AgentName, ContainerName, EnvironmentName};
use crate::model::time::Timestamp;
use crate::record::{RecordError, ReportWriter, Wakeup, Wakeups};

/// How long an agent may take to begin an answer.
const PATIENCE: Duration = Duration::from_secs(15);
/// The maximum number of pending questions per agent; more are refused.
const MOST_QUESTIONS: usize = 32;
/// The maximum number of names that are kept of what an environment left on a host.
const MOST_LEFT: usize = 100;

/// The known state of all agents during the life of this process. Cheap to clone.
#[derive(Clone)]
pub struct AgentHub {
    hearer: ReportWriter,
    manifest: watch::Receiver<Arc<ManifestState>>,
    clock: fn() -> Timestamp,
    seats: Arc<Mutex<HashMap<AgentName, AgentConnection>>>,
    /// What agents reported to be on their hosts of environments that they are not given.
    left: Arc<Mutex<BTreeMap<AgentName, LeftThere>>>,
    answers: Arc<Mutex<HashMap<String, Awaited>>>,
    closed: CancellationToken,
    /// The number of documents read to determine when an agent was last seen.
    #[cfg(test)]
    pub(in crate::api) looked_up: Arc<std::sync::atomic::AtomicUsize>,
}

/// An agent that is or was connected.
#[derive(Default)]
struct AgentConnection {
    session: Option<ActiveSession>,
    last_seen: Option<Timestamp>,
    /// Whether [`Self::last_seen`] was read from the record.
    is_looked_up: bool,
}

impl AgentConnection {
    /// The presence of the agent if it is known without the record.
    fn presence(&self, clock: fn() -> Timestamp) -> Option<Presence> {
        match (&self.session, self.last_seen) {
            (Some(_), _) => Some(Presence { connected: true, last_seen: Some(clock()) }),
            (None, None) if !self.is_looked_up => None,
            (None, last_seen) => Some(Presence { connected: false, last_seen }),
        }
    }
}

/// The active session of an agent.
struct ActiveSession {
    instance: String,
    epoch: u64,
    bell: Arc<Notify>,
    questions: mpsc::Sender<Ask>,
    superseded: CancellationToken,
}

/// A pending question: its requester and its agent.
struct Awaited {
    agent: AgentName,
    told: oneshot::Sender<AgentAnswer>,
}

/// An agent's answer: a stream of output, or a sentence why there is none.
pub(super) type AgentAnswer = Result<LogStream, ControllerError>;

/// Whether an agent is reachable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Presence {
    /// Whether it is connected.
    pub connected: bool,
    /// When it was last seen; `None` if never.
    pub last_seen: Option<Timestamp>,
}

/// What an environment left on the host of an agent that does not run it.
pub(in crate::api) struct LeftOver {
    pub(in crate::api) agent: AgentName,
    /// Its containers, with its sandbox; empty if the agent has not named them yet.
    pub(in crate::api) containers: Vec<String>,
    /// Its volumes.
    pub(in crate::api) volumes: Vec<String>,
}

/// An accepted session. Dropping it ends the session.
pub(super) struct AgentSession {
    desk: AgentHub,
    pub(super) agent: AgentName,
    epoch: u64,
    /// Notified when something may have changed for the agent.
    pub(super) bell: Arc<Notify>,
    /// The questions for the agent.
    pub(super) questions: mpsc::Receiver<Ask>,
    /// Cancelled when another session took over.
    pub(super) superseded: CancellationToken,
    /// Cancelled when the controller stops.
    pub(super) closed: CancellationToken,
}

/// The session is refused because another agent with the same token is connected and stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Outranked;

impl AgentHub {
    /// Creates the state without any connected agent.
    pub fn new(
        hearer: ReportWriter,
        manifest: watch::Receiver<Arc<ManifestState>>,
        clock: fn() -> Timestamp,
    ) -> Self {
        let (seats, answers) = Default::default();
        let left = Arc::new(Mutex::new(hearer.left().unwrap_or_else(|error| {
            warn!(error = %chain(&error), "what agents left on their hosts is unknown until they report again");
            BTreeMap::new()
        })));
        let closed = CancellationToken::new();
        #[cfg(test)]
        let looked_up = Arc::default();
        Self {
            hearer,
            manifest,
            clock,
            seats,
            left,
            answers,
            closed,
            #[cfg(test)]
            looked_up,
        }
    }

    /// Returns the writer that stores the reports of agents.
    pub(super) fn hearer(&self) -> &ReportWriter {
        &self.hearer
    }

    /// Notifies each agent of changes until the desk is closed. One task serves all agents, so that
    /// a wakeup reaches only the agents that it concerns instead of a thousand.
    pub async fn dispatch(self, bells: Wakeups) {
        let closed = self.closed.clone();
        closed.run_until_cancelled(self.listen(bells)).await;
    }

    async fn listen(&self, bells: Wakeups) {
        let (mut bells, mut manifest) = (bells.subscribe(), self.manifest.clone());
        loop {
            tokio::select! {
                bell = bells.recv() => match bell {
                    Ok(Wakeup::Desired(environment)) => self.ring_for(&environment),
                    Ok(Wakeup::Status(_) | Wakeup::Evidence(_) | Wakeup::Event(_)) => {}
                    Err(RecvError::Lagged(_)) => self.ring_all(),
                    Err(RecvError::Closed) => return,
                },
                changed = manifest.changed() => match changed {
                    Ok(()) => self.ring_all(),
                    Err(_) => return,
                },
            }
        }
    }

    /// Notes what an agent reports to be left on its host.
    ///
    /// # Errors
    /// Returns [`RecordError`] if it cannot be stored.
    pub(super) async fn note_left(
        &self,
        agent: &AgentName,
        mut containers: Leftovers,
        mut volumes: Leftovers,
    ) -> Result<(), RecordError> {
        // They are shown to people.
        containers
            .values_mut()
            .for_each(|names| names.retain(|name| ContainerName::new(name.as_str()).is_ok()));
        volumes.values_mut().for_each(|names| names.retain(|name| name.parse::<VolumeName>().is_ok()));
        for names in containers.values_mut().chain(volumes.values_mut()) {
            names.truncate(MOST_LEFT);
        }
        let assigned = self.environments(agent);
        self.edit_left(agent, |left| {
            left.runs.retain(|environment| assigned.contains(environment));
            (left.containers, left.volumes) = (containers, volumes);
        })
        .await
    }

    /// Notes which environments an agent reports to run.
    ///
    /// # Errors
    /// Returns [`RecordError`] if it cannot be stored.
    pub(super) async fn note_runs(
        &self,
        agent: &AgentName,
        runs: BTreeSet<EnvironmentName>,
    ) -> Result<(), RecordError> {
        self.edit_left(agent, |left| left.runs.extend(runs)).await
    }

    /// Drops the notes about what an environment left on the host of an agent that has no token any more.
    ///
    /// # Errors
    /// Returns [`RecordError`] if that cannot be stored.
    pub(in crate::api) async fn drop_left(
        &self,
        agent: &AgentName,
        environment: &EnvironmentName,
    ) -> Result<(), RecordError> {
        self.edit_left(agent, |left| {
            left.containers.remove(environment);
            left.volumes.remove(environment);
            left.runs.remove(environment);
        })
        .await
    }

    async fn edit_left(
        &self,
        agent: &AgentName,
        edit: impl FnOnce(&mut LeftThere),
    ) -> Result<(), RecordError> {
        let left = {
            let mut all = self.left();
            let left = all.entry(agent.clone()).or_default();
            let before = left.clone();
            edit(left);
            if *left == before {
                return Ok(());
            }
            left.clone()
        };
        self.hearer.note_left(agent, left).await
    }

    /// The containers and volumes of an environment on hosts of agents that do not run it.
    pub(in crate::api) fn left_of(
        &self,
        environment: &EnvironmentName,
        host: Option<&AgentName>,
    ) -> Vec<LeftOver> {
        let left = self.left();
        let elsewhere = left.iter().filter(|(agent, _)| Some(*agent) != host);
        let of_it = elsewhere.filter(|(_, left)| left.has(environment)).map(|(agent, left)| {
            let names = |of: &Leftovers| of.get(environment).cloned().unwrap_or_default();
            LeftOver {
                agent: agent.clone(),
                containers: names(&left.containers),
                volumes: names(&left.volumes),
            }
        });
        of_it.collect()
    }

    /// The environments that may have something on the host of an agent.
    pub(super) fn left_on(&self, agent: &AgentName) -> BTreeSet<EnvironmentName> {
        let all = self.left();
        let Some(left) = all.get(agent) else { return BTreeSet::new() };
        left.containers.keys().chain(&left.runs).cloned().collect()
    }

    fn left(&self) -> MutexGuard<'_, BTreeMap<AgentName, LeftThere>> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends every session, so that nothing waits for an agent when the controller stops.
    pub fn close(&self) {
        self.closed.cancel();
    }

    /// Returns whether the agent of this name is reachable.
    pub fn presence(&self, agent: &AgentName) -> Presence {
        if let Some(known) = self.seats().get(agent).and_then(|seat| seat.presence(self.clock)) {
            return known;
        }
        // Runs without the lock, because it reads a document for each environment of the agent, and
        // only once, because the answer changes only with a session.
        let heard = self.last_heard(agent);
        let mut seats = self.seats();
        let seat = seats.entry(agent.clone()).or_default();
        seat.is_looked_up = true;
        seat.last_seen = seat.last_seen.max(heard);
        seat.presence(self.clock).unwrap_or(Presence { connected: false, last_seen: heard })
    }

    /// Returns when an agent was last seen, according to the record.
    fn last_heard(&self, agent: &AgentName) -> Option<Timestamp> {
        let environments = self.environments(agent).into_iter();
        #[cfg(test)]
        let environments = environments.inspect(|_| {
            self.looked_up.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        });
        environments.filter_map(|one| Some(self.hearer.heard(&one).ok()??.at)).max()
    }

    /// Returns the environments that the manifest assigns to an agent.
    pub(super) fn environments(&self, agent: &AgentName) -> BTreeSet<EnvironmentName> {
        let state = self.manifest.borrow();
        let all = state.manifest.environments.iter();
        all.filter(|(_, spec)| spec.host.as_ref() == Some(agent)).map(|(name, _)| name.clone()).collect()
    }

    /// Accepts a session. If two agents use one token, the one with the higher epoch stays, so that
    /// they do not disconnect each other in turn. The same agent takes over from its own stale
    /// session.
    pub(super) fn enter(&self, agent: AgentName, hello: &Hello) -> Result<AgentSession, Outranked> {
        let mut seats = self.seats();
        let seat = seats.entry(agent.clone()).or_default();
        if let Some(live) = seat.session.take_if(|live| live.epoch < hello.epoch) {
            let is_other = live.instance != hello.instance;
            warn!(%agent, epoch = live.epoch, by = hello.epoch, is_other, "replaced by a newer session");
            live.superseded.cancel();
        }
        if seat.session.is_some() {
            return Err(Outranked);
        }
        let (asker, questions) = mpsc::channel(MOST_QUESTIONS);
        let (bell, superseded) = (Arc::new(Notify::new()), CancellationToken::new());
        seat.session = Some(ActiveSession {
            instance: hello.instance.clone(),
            epoch: hello.epoch,
            bell: Arc::clone(&bell),
            questions: asker,
            superseded: superseded.clone(),
        });
        drop(seats);
        info!(%agent, epoch = hello.epoch, software = %hello.software.escape_debug(), "agent connected");
        self.hearer.tell_of_presence(self.environments(&agent));
        let (desk, closed) = (self.clone(), self.closed.clone());
        Ok(AgentSession { desk, agent, epoch: hello.epoch, bell, questions, superseded, closed })
    }

    /// Returns whether this is the active session of an agent; others are ignored.
    pub(super) fn is_live(&self, agent: &AgentName, instance: &str, epoch: u64) -> bool {
        let seats = self.seats();
        let live = seats.get(agent).and_then(|seat| seat.session.as_ref());
        live.is_some_and(|live| live.instance == instance && live.epoch == epoch)
    }

    /// Sends a question to an agent and waits until its answer begins.
    ///
    /// # Errors
    /// A sentence, if the agent is disconnected, busy, silent, or has no answer.
    pub async fn ask(
        &self,
        agent: &AgentName,
        environment: EnvironmentName,
        question: Question,
    ) -> Result<LogStream, ControllerError> {
        let id = uuid::Uuid::new_v4().simple().to_string();
        let (told, answer) = oneshot::channel();
        self.answers().insert(id.clone(), Awaited { agent: agent.clone(), told });
        let forget = QuestionGuard { desk: self, id: id.clone() };
        self.put(agent, Ask { id, environment, question })?;
        let answered = tokio::time::timeout(PATIENCE, answer).await;
        drop(forget);
        match answered {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(ControllerError(format!("the agent {agent} disconnected"))),
            Err(_) => Err(ControllerError(format!(
                "the agent {agent} did not answer within {}",
                humantime::format_duration(PATIENCE)
            ))),
        }
    }

    fn put(&self, agent: &AgentName, ask: Ask) -> Result<(), ControllerError> {
        let seats = self.seats();
        let Some(live) = seats.get(agent).and_then(|seat| seat.session.as_ref()) else {
            drop(seats);
            let seen = self.presence(agent).last_seen;
            let since = seen.map_or_else(|| "never connected".to_owned(), |at| format!("last seen {at}"));
            return Err(ControllerError(format!(
                "the agent {agent} is disconnected ({since}) and cannot answer"
            )));
        };
        let full = |_| {
            ControllerError(format!(
                "the agent {agent} has too many unanswered requests: try \
            again later"
            ))
        };
        live.questions.try_send(ask).map_err(full)
    }

    /// Delivers an answer. Returns `false` if nobody waits for it, or not from this agent.
    pub(super) fn answer(&self, agent: &AgentName, id: &str, answer: AgentAnswer) -> bool {
        let mut answers = self.answers();
        if answers.get(id).is_none_or(|awaited| awaited.agent != *agent) {
            return false;
        }
        answers.remove(id).is_some_and(|awaited| awaited.told.send(answer).is_ok())
    }

    /// Notifies the agent that runs an environment, and those that have something left of it.
    fn ring_for(&self, environment: &EnvironmentName) {
        let host =
            self.manifest.borrow().manifest.environments.get(environment).and_then(|spec| spec.host.clone());
        let with_left = self.left_of(environment, host.as_ref()).into_iter().map(|left| left.agent);
        let agents: Vec<_> = host.into_iter().chain(with_left).collect();
        let seats = self.seats();
        for session in agents.iter().filter_map(|agent| seats.get(agent)?.session.as_ref()) {
            session.bell.notify_one();
        }
    }

    fn ring_all(&self) {
        let seats = self.seats();
        seats.values().filter_map(|seat| seat.session.as_ref()).for_each(|live| live.bell.notify_one());
    }

    fn seats(&self) -> MutexGuard<'_, HashMap<AgentName, AgentConnection>> {
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answers(&self) -> MutexGuard<'_, HashMap<String, Awaited>> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Removes a question when dropped, answered or not.
struct QuestionGuard<'a> {
    desk: &'a AgentHub,
    id: String,
}

impl Drop for QuestionGuard<'_> {
    fn drop(&mut self) {
        self.desk.answers().remove(&self.id);
    }
}

impl Drop for AgentSession {
    fn drop(&mut self) {
        let mut seats = self.desk.seats();
        if let Some(seat) = seats.get_mut(&self.agent)
            && seat.session.as_ref().is_some_and(|live| live.epoch == self.epoch)
        {
            seat.session = None;
            seat.last_seen = Some((self.desk.clock)());
            info!(agent = %self.agent, epoch = self.epoch, "agent disconnected");
        }
        drop(seats);
        self.desk.hearer.tell_of_presence(self.desk.environments(&self.agent));
    }
}
