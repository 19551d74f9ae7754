//! Agent sessions: which agents are connected, what to send to each, and pending questions.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::attach::WaitingInput;
use crate::api::{ControllerError, LogStream, ManifestState};
use crate::model::error::chain;
use crate::model::link::{Ask, Hello, LeftThere, Leftovers, Question, ReportedProxy};
use crate::model::mount::VolumeName;
use crate::model::name::{AgentName, ContainerName, EnvironmentName};
use crate::model::time::Timestamp;
use crate::record::{RecordError, ReportWriter, Wakeup, Wakeups};

/// How long an agent may take to begin an answer.
const PATIENCE: Duration = Duration::from_secs(15);
/// The maximum number of pending questions per agent; more are refused.
const MOST_QUESTIONS: usize = 32;
/// The most characters of the version that an agent names.
const LONGEST_SOFTWARE: usize = 100;
/// The maximum number of names that are kept of what an environment left on a host.
const MOST_LEFT: usize = 100;

/// The known state of all agents during the life of this process. Cheap to clone.
#[derive(Clone)]
pub struct AgentHub {
    reports: ReportWriter,
    manifest: watch::Receiver<Arc<ManifestState>>,
    clock: fn() -> Timestamp,
    connections: Arc<Mutex<HashMap<AgentName, AgentConnection>>>,
    /// What agents reported to be on their hosts of environments that they are not given.
    left: Arc<Mutex<BTreeMap<AgentName, LeftThere>>>,
    answers: Arc<Mutex<HashMap<String, Awaited>>>,
    /// The input of commands that agents are about to run, by id.
    inputs: Arc<Mutex<HashMap<String, WaitingInput>>>,
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
    /// The version of abide that it named when it connected.
    software: Option<String>,
    /// The version of its Docker Engine, likewise.
    engine: Option<String>,
    /// The proxy of its host, likewise.
    proxy: Option<ReportedProxy>,
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
    wakeup: Arc<Notify>,
    questions: mpsc::Sender<Ask>,
    superseded: CancellationToken,
}

/// A pending question: its requester and its agent.
struct Awaited {
    agent: AgentName,
    reply: oneshot::Sender<AgentAnswer>,
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
    hub: AgentHub,
    pub(super) agent: AgentName,
    epoch: u64,
    /// Notified when something may have changed for the agent.
    pub(super) wakeup: Arc<Notify>,
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
        reports: ReportWriter,
        manifest: watch::Receiver<Arc<ManifestState>>,
        clock: fn() -> Timestamp,
    ) -> Self {
        let (connections, answers, inputs) = Default::default();
        let left = Arc::new(Mutex::new(reports.left().unwrap_or_else(|error| {
            warn!(error = %chain(&error), "what agents left on their hosts is unknown until they report again");
            BTreeMap::new()
        })));
        let closed = CancellationToken::new();
        #[cfg(test)]
        let looked_up = Arc::default();
        Self {
            reports,
            manifest,
            clock,
            connections,
            left,
            answers,
            inputs,
            closed,
            #[cfg(test)]
            looked_up,
        }
    }

    /// Returns the writer that stores the reports of agents.
    pub(super) fn reports(&self) -> &ReportWriter {
        &self.reports
    }

    /// Notifies each agent of changes until the hub is closed. One task serves all agents, so that
    /// a wakeup reaches only the agents that it concerns instead of a thousand.
    pub async fn dispatch(self, wakeups: Wakeups) {
        let closed = self.closed.clone();
        closed.run_until_cancelled(self.listen(wakeups)).await;
    }

    async fn listen(&self, wakeups: Wakeups) {
        let (mut wakeups, mut manifest) = (wakeups.subscribe(), self.manifest.clone());
        loop {
            tokio::select! {
                wakeup = wakeups.recv() => match wakeup {
                    Ok(Wakeup::Desired(environment)) => self.notify_agents(&environment),
                    Ok(Wakeup::Status(_) | Wakeup::Evidence(_) | Wakeup::Event(_)) => {}
                    Err(RecvError::Lagged(_)) => self.notify_all(),
                    Err(RecvError::Closed) => return,
                },
                changed = manifest.changed() => match changed {
                    Ok(()) => self.notify_all(),
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
        self.reports.note_left(agent, left).await
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
        if let Some(known) =
            self.connections().get(agent).and_then(|connection| connection.presence(self.clock))
        {
            return known;
        }
        // Runs without the lock, because it reads a document for each environment of the agent, and
        // only once, because the answer changes only with a session.
        let reported = self.last_reported(agent);
        let mut connections = self.connections();
        let connection = connections.entry(agent.clone()).or_default();
        connection.is_looked_up = true;
        connection.last_seen = connection.last_seen.max(reported);
        connection.presence(self.clock).unwrap_or(Presence { connected: false, last_seen: reported })
    }

    /// Returns the version of abide that an agent named when it connected last; `None`: not since the start.
    pub(in crate::api) fn software(&self, agent: &AgentName) -> Option<String> {
        self.connections().get(agent)?.software.clone()
    }

    /// Returns the version of its Docker Engine that an agent named when it connected last.
    pub(in crate::api) fn engine(&self, agent: &AgentName) -> Option<String> {
        self.connections().get(agent)?.engine.clone()
    }

    /// Returns the proxy of an agent's host, as it reported when it connected last; `None`: unknown.
    pub(in crate::api) fn proxy(&self, agent: &AgentName) -> Option<ReportedProxy> {
        self.connections().get(agent)?.proxy
    }

    /// Returns when an agent was last seen, according to the record.
    fn last_reported(&self, agent: &AgentName) -> Option<Timestamp> {
        let environments = self.environments(agent).into_iter();
        #[cfg(test)]
        let environments = environments.inspect(|_| {
            self.looked_up.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        });
        environments.filter_map(|one| Some(self.reports.cursor(&one).ok()??.at)).max()
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
        let mut connections = self.connections();
        let connection = connections.entry(agent.clone()).or_default();
        if let Some(live) = connection.session.take_if(|live| live.epoch < hello.epoch) {
            let is_other = live.instance != hello.instance;
            warn!(%agent, epoch = live.epoch, by = hello.epoch, is_other, "replaced by a newer session");
            live.superseded.cancel();
        }
        if connection.session.is_some() {
            return Err(Outranked);
        }
        let shortened = |sent: &String| sent.chars().take(LONGEST_SOFTWARE).collect::<String>();
        connection.software = Some(shortened(&hello.software));
        connection.engine = hello.engine.as_ref().map(shortened);
        connection.proxy = hello.proxy;
        let (asker, questions) = mpsc::channel(MOST_QUESTIONS);
        let (wakeup, superseded) = (Arc::new(Notify::new()), CancellationToken::new());
        connection.session = Some(ActiveSession {
            instance: hello.instance.clone(),
            epoch: hello.epoch,
            wakeup: Arc::clone(&wakeup),
            questions: asker,
            superseded: superseded.clone(),
        });
        drop(connections);
        info!(%agent, epoch = hello.epoch, software = %hello.software.escape_debug(), "agent connected");
        self.reports.notify_presence(self.environments(&agent));
        let (hub, closed) = (self.clone(), self.closed.clone());
        Ok(AgentSession { hub, agent, epoch: hello.epoch, wakeup, questions, superseded, closed })
    }

    /// Returns whether this is the active session of an agent; others are ignored.
    pub(super) fn is_live(&self, agent: &AgentName, instance: &str, epoch: u64) -> bool {
        let connections = self.connections();
        let live = connections.get(agent).and_then(|connection| connection.session.as_ref());
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
        let (reply, answer) = oneshot::channel();
        self.answers().insert(id.clone(), Awaited { agent: agent.clone(), reply });
        let forget = QuestionGuard { hub: self, id: id.clone() };
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
        let connections = self.connections();
        let Some(live) = connections.get(agent).and_then(|connection| connection.session.as_ref()) else {
            drop(connections);
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
        answers.remove(id).is_some_and(|awaited| awaited.reply.send(answer).is_ok())
    }

    /// Notifies the agent that runs an environment, and those that have something left of it.
    fn notify_agents(&self, environment: &EnvironmentName) {
        let host =
            self.manifest.borrow().manifest.environments.get(environment).and_then(|spec| spec.host.clone());
        let with_left = self.left_of(environment, host.as_ref()).into_iter().map(|left| left.agent);
        let agents: Vec<_> = host.into_iter().chain(with_left).collect();
        let connections = self.connections();
        for session in agents.iter().filter_map(|agent| connections.get(agent)?.session.as_ref()) {
            session.wakeup.notify_one();
        }
    }

    fn notify_all(&self) {
        let connections = self.connections();
        connections
            .values()
            .filter_map(|connection| connection.session.as_ref())
            .for_each(|live| live.wakeup.notify_one());
    }

    fn connections(&self) -> MutexGuard<'_, HashMap<AgentName, AgentConnection>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn inputs(&self) -> MutexGuard<'_, HashMap<String, WaitingInput>> {
        self.inputs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answers(&self) -> MutexGuard<'_, HashMap<String, Awaited>> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Removes a question when dropped, answered or not.
struct QuestionGuard<'a> {
    hub: &'a AgentHub,
    id: String,
}

impl Drop for QuestionGuard<'_> {
    fn drop(&mut self) {
        self.hub.answers().remove(&self.id);
    }
}

impl Drop for AgentSession {
    fn drop(&mut self) {
        let mut connections = self.hub.connections();
        if let Some(connection) = connections.get_mut(&self.agent)
            && connection.session.as_ref().is_some_and(|live| live.epoch == self.epoch)
        {
            connection.session = None;
            connection.last_seen = Some((self.hub.clock)());
            info!(agent = %self.agent, epoch = self.epoch, "agent disconnected");
        }
        drop(connections);
        self.hub.reports.notify_presence(self.hub.environments(&self.agent));
    }
}
