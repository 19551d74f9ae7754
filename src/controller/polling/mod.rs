//! Polling: one task for each repository and each registry asks for branch heads and tags, when a push was
//! announced and at intervals, and records the answers.

mod branches;
mod findings;
pub(super) mod looks;
pub(super) mod paths;
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
use crate::model::name::{EnvironmentName, RepositoryName};
use crate::model::reference::RegistryHost;
use crate::model::spec::{Manifest, Supply};
use crate::record::DesiredReader;
use branches::Branches;
pub(super) use findings::PollResults;
use paths::Paths;
use schedule::{AT_LEAST_BETWEEN, Pause};
use tags::Tags;

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
}

/// The remote that a poller asks.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Remote {
    Repository(RepositoryName),
    Registry(RegistryHost),
}

/// The questions of a poller. If they change, the poller is replaced.
#[derive(Clone, PartialEq)]
enum Source {
    Branches(Box<Branches>),
    Tags(Tags),
}

/// The running pollers.
#[derive(Default)]
pub(super) struct Pollers {
    running: HashMap<Remote, (Source, DropGuard)>,
    /// Makes a poller ask at once.
    announced: HashMap<Remote, Arc<Notify>>,
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
        let mut needed: HashMap<Remote, Source> = HashMap::new();
        needed.extend(
            branches::all(manifest)
                .into_iter()
                .map(|(name, branches)| (Remote::Repository(name), Source::Branches(Box::new(branches)))),
        );
        needed.extend(
            tags::all(manifest).into_iter().map(|(host, tags)| (Remote::Registry(host), Source::Tags(tags))),
        );
        self.running.retain(|remote, (source, _)| needed.get(remote) == Some(source));
        for (remote, source) in needed {
            let Entry::Vacant(vacant) = self.running.entry(remote) else { continue };
            source.environments().for_each(|environment| tools.findings.looks.forget(environment));
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
            Supply::Branch { repository, .. } => Remote::Repository(repository.clone()),
            Supply::Tag { image } => Remote::Registry(image.repository.host().clone()),
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

impl Source {
    fn environments(&self) -> Box<dyn Iterator<Item = &EnvironmentName> + Send + '_> {
        match self {
            Self::Branches(branches) => Box::new(branches.tracking.iter().map(|(name, _)| name)),
            Self::Tags(tags) => Box::new(tags.tracking.iter().map(|(name, _)| name)),
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
    source: Source,
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
            Source::Branches(branches) => branches.ask(&self.tools, self.paths.as_deref(), pause).await,
            Source::Tags(tags) => {
                let is_known = tags.look_for_pushed(&self.tools).await;
                tags.ask(&self.tools, pause).await && is_known
            }
        }
    }

    /// The pause that the remote asked for.
    fn quiet(&self) -> Duration {
        match &self.source {
            Source::Branches(_) => Duration::ZERO,
            Source::Tags(tags) => self.tools.registries.quiet_for(&tags.host).unwrap_or_default(),
        }
    }

    fn pause(&self) -> Pause<'_> {
        Pause { interval: self.source.interval(), seed: self.source.seed() }
    }
}

#[cfg(test)]
mod tests;
