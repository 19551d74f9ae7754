//! Polling: one task for each repository and each registry asks for branch heads and tags, when a push was
//! announced and at intervals, and records the answers.

mod branches;
pub(super) mod checks;
pub(super) mod paths;
pub(super) mod poll_state;
mod results;
mod schedule;
mod tags;

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::supervise::supervised;
use super::wake::WakeQueue;
use crate::controller::jobs::builder::Builder;
use crate::controller::jobs::registries::Registries;
use crate::controller::jobs::slots::Slots;
use crate::model::name::{EnvironmentName, RepositoryName};
use crate::model::reference::RegistryHost;
use crate::model::spec::{Manifest, Supply};
use crate::record::DesiredReader;
use branches::Branches;
use checks::Checks;
use paths::Paths;
pub(super) use results::PollResults;
use schedule::{AT_LEAST_BETWEEN, Pause};
use tags::Tags;

/// Requests to git that run at once, for all repositories. A repository that does not answer keeps its slot
/// until git's deadline, so there are more than the processors would need.
const GIT_AT_ONCE: usize = 32;

/// The errors of tasks that concern the whole host, by task, in sentences.
pub(super) type PollErrors = Arc<Mutex<BTreeMap<String, String>>>;

/// The shared state of all pollers.
#[derive(Clone)]
pub(super) struct Tools {
    pub(super) registries: Arc<Registries>,
    pub(super) desired: DesiredReader,
    pub(super) wake: WakeQueue,
    pub(super) errors: PollErrors,
    pub(super) findings: PollResults,
    pub(super) checks: Checks,
    /// Requests to git: each is a process, and a push to many repositories must not start all of them.
    pub(super) git: Slots,
}

impl Tools {
    /// Slots for requests to git, one for each repository.
    pub(super) fn git_slots() -> Slots {
        Slots::new(1, GIT_AT_ONCE)
    }
}

/// The remote that a poller asks.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum PollRemote {
    Repository(RepositoryName),
    Registry(RegistryHost),
}

/// The questions of a poller. If they change, the poller is replaced.
#[derive(Clone, PartialEq)]
enum PollSource {
    Branches(Box<Branches>),
    Tags(Tags),
}

/// The running pollers.
#[derive(Default)]
pub(super) struct Pollers {
    running: HashMap<PollRemote, (PollSource, DropGuard)>,
    /// Makes a poller ask at once.
    announced: HashMap<PollRemote, Arc<Notify>>,
}

impl Pollers {
    /// Starts the pollers that the manifest needs and ends the others.
    pub(super) fn sync_tasks(
        &mut self,
        manifest: &Manifest,
        tools: &Tools,
        builder: &Arc<Builder>,
        tasks: &TaskTracker,
        stop: &CancellationToken,
    ) {
        let mut needed: HashMap<PollRemote, PollSource> = HashMap::new();
        needed.extend(branches::all(manifest).into_iter().map(|(name, branches)| {
            (PollRemote::Repository(name), PollSource::Branches(Box::new(branches)))
        }));
        needed.extend(
            tags::all(manifest)
                .into_iter()
                .map(|(host, tags)| (PollRemote::Registry(host), PollSource::Tags(tags))),
        );
        self.running.retain(|remote, (source, _)| needed.get(remote) == Some(source));
        for (remote, source) in needed {
            let Entry::Vacant(vacant) = self.running.entry(remote) else { continue };
            source.environments().for_each(|environment| tools.findings.poll_state.forget(environment));
            let announced = Arc::clone(self.announced.entry(vacant.key().clone()).or_default());
            let paths = source.paths(builder, tools);
            let poller = Poller { source: source.clone(), announced, paths, tools: tools.clone() };
            let stop = stop.child_token();
            tasks.spawn(supervised("poller", stop.clone(), move || poller.clone().run()));
            vacant.insert((source, stop.drop_guard()));
        }
    }

    /// Makes the poller of an environment's branch or tag ask at once, if it has one.
    pub(super) fn announce(&self, manifest: &Manifest, environment: &EnvironmentName) {
        let Some(spec) = manifest.environments.get(environment) else { return };
        let remote = match &spec.supply {
            Supply::Branch { repository, .. } => PollRemote::Repository(repository.clone()),
            Supply::Tag { image } => PollRemote::Registry(image.repository.host().clone()),
            Supply::Promotion { .. } | Supply::Manual => return,
        };
        if let Some(announced) = self.announced.get(&remote) {
            announced.notify_one();
        }
    }

    /// Makes all pollers ask at once, because wakeups were missed.
    pub(super) fn announce_all(&self) {
        self.announced.values().for_each(|announced| announced.notify_one());
    }
}

impl PollSource {
    fn environments(&self) -> Box<dyn Iterator<Item = &EnvironmentName> + Send + '_> {
        match self {
            Self::Branches(branches) => Box::new(branches.tracking.iter().map(|(name, _)| name)),
            Self::Tags(tags) => Box::new(tags.tracking.iter().map(|(name, ..)| name)),
        }
    }

    /// The name of the remote, which spreads the attempts.
    fn seed(&self) -> &str {
        match self {
            Self::Branches(branches) => branches.repository.as_str(),
            Self::Tags(tags) => tags.host.as_str(),
        }
    }

    fn paths(&self, builder: &Arc<Builder>, tools: &Tools) -> Option<Arc<Paths>> {
        let Self::Branches(branches) = self else { return None };
        let (builder, desired) = (Arc::clone(builder), tools.desired.clone());
        Some(Arc::new(Paths::new(builder, desired, branches.spec.url.clone(), branches.paths.clone())))
    }

    fn interval(&self) -> Duration {
        match self {
            Self::Branches(branches) => branches.spec.poll,
            Self::Tags(tags) => tags.interval,
        }
    }
}

/// The poller of one remote.
#[derive(Clone)]
struct Poller {
    source: PollSource,
    /// Notified when a push was announced.
    announced: Arc<Notify>,
    /// Decides which commits concern which environment; `None`: all of them do.
    paths: Option<Arc<Paths>>,
    tools: Tools,
}

impl Poller {
    /// Polls until dropped.
    async fn run(self) {
        let mut failures = 0;
        loop {
            failures = if self.ask(failures).await { 0 } else { failures + 1 };
            tokio::time::sleep(AT_LEAST_BETWEEN.max(self.quiet())).await;
            let recheck = self.tools.findings.recheck(self.source.environments());
            let pause = self.pause();
            tokio::select! {
                () = self.announced.notified() => {}
                () = pause.until_next(failures, recheck) => {}
            }
        }
    }

    /// Asks the remote everything, even if some requests fail. Returns whether all answers are known now.
    async fn ask(&self, failures: u32) -> bool {
        let pause = self.pause().after_failure(failures + 1);
        match &self.source {
            PollSource::Branches(branches) => branches.ask(&self.tools, self.paths.as_deref(), pause).await,
            PollSource::Tags(tags) => {
                let is_known = tags.look_for_pushed(&self.tools).await;
                tags.ask(&self.tools, pause).await && is_known
            }
        }
    }

    /// The pause that the remote asked for.
    fn quiet(&self) -> Duration {
        match &self.source {
            PollSource::Branches(_) => Duration::ZERO,
            PollSource::Tags(tags) => self.tools.registries.quiet_for(&tags.host).unwrap_or_default(),
        }
    }

    fn pause(&self) -> Pause<'_> {
        Pause { interval: self.source.interval(), seed: self.source.seed() }
    }
}

#[cfg(test)]
mod tests;
