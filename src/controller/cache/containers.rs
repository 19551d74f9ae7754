//! The container cache: the known containers and other objects of the host, updated by events.
//!
//! An event about a container leads to one inspect of it. A resync lists all containers, and inspects the
//! changed ones. Reconciles read containers from here. They ask the engine only for unknown images, volumes
//! and networks; the last output of a container they request each time.

mod names;
mod roles;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use tracing::warn;

use super::exits::ExitLog;
use super::lifetimes::Lives;
use crate::controller::clock::{ahead, now, translated};
use crate::controller::docker::{Engine, EngineError, HeldImage, Listed};
use crate::model::cause::{self, EndedBy};
use crate::model::container::label;
use crate::model::mount::AbsolutePath;
use crate::model::name::{ContainerName, Digest, EnvironmentName, NetworkName};
use crate::model::observed::{ContainerState, NameHolder, NetworkPresence, ObservedContainer};
use crate::model::time::Timestamp;
use names::foreign_names;

/// Translates the time of an event to the clock of this process; now, if that is in the future.
fn ours(engine_time: Timestamp) -> Timestamp {
    let now = now();
    translated(engine_time, now, ahead()).unwrap_or(now)
}

/// The number of last output lines that are kept of a container that ended or does not become ready.
const LAST_LINES: usize = 10;
/// The maximum number of characters in them.
const MOST_CHARACTERS: usize = 16 * 1024;
/// How long the first inspections of all containers may take before reconciles continue with the known ones.
const FIRST_LOOK: Duration = Duration::from_secs(5);
/// The number of concurrent inspections in a resync.
const LOOKS_AT_ONCE: usize = 8;

/// The timeout for checking a path of this host.
const LOOK: Duration = Duration::from_secs(2);

/// The relevant containers of one host.
pub(crate) struct ContainerCache {
    record: String,
    known: Mutex<CachedContainers>,
}

#[derive(Default)]
struct CachedContainers {
    /// The managed containers by ID, as last inspected.
    ours: HashMap<String, (EnvironmentName, ObservedContainer)>,
    /// The listed summary of managed containers, to detect changes without an inspect.
    listed: HashMap<String, (Vec<String>, String)>,
    /// The number of inspections and lists that were started.
    looks: u64,
    /// The number of the last applied inspection, by container.
    taken: HashMap<String, u64>,
    /// The logged errors of failed inspections, by container, with the environment if it is known.
    unseen: HashMap<String, (Option<EnvironmentName>, EngineError)>,
    /// The known ends of managed containers.
    ends: ExitLog,
    /// Names of unmanaged containers.
    foreign: HashMap<String, NameHolder>,
    /// Environments that left the manifest, each with the environment that took over its containers.
    adopted: HashMap<EnvironmentName, EnvironmentName>,
    /// The environments of the manifest, with the names of their containers.
    declared: BTreeMap<EnvironmentName, ContainerName>,
    /// The known image IDs, with the paths of their `VOLUME` lines.
    images: HashMap<Digest, HeldImage>,
    /// The known images by name.
    names: HashMap<String, Digest>,
    /// The known volumes.
    volumes: HashSet<String>,
    /// The known state of the managed network.
    networks: BTreeMap<NetworkName, NetworkPresence>,
    /// The start and end times of containers.
    lives: Lives,
}

impl ContainerCache {
    pub(crate) fn new(record: String) -> Self {
        Self { record, known: Mutex::default() }
    }

    fn known(&self) -> MutexGuard<'_, CachedContainers> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Environments that have managed containers.
    pub(crate) fn environments(&self) -> BTreeSet<EnvironmentName> {
        self.known().ours.values().map(|(environment, _)| environment.clone()).collect()
    }

    /// The number of managed containers.
    pub(crate) fn count(&self) -> usize {
        self.known().ours.len()
    }

    /// Whether a container is known to be managed.
    pub(crate) fn knows(&self, id: &str) -> bool {
        self.known().ours.contains_key(id)
    }

    /// Notes that events are complete from now on.
    pub(crate) fn witness_from(&self, now: Timestamp) {
        self.known().ends.witness_from(now);
    }

    /// Notes that somebody sent a signal to a container.
    pub(crate) fn note_signal(&self, id: &str, signal: u8, at: Timestamp) {
        let mut known = self.known();
        if known.ours.contains_key(id) {
            known.ends.note_signal(id, signal, ours(at));
        }
    }

    /// Notes that the process of a container ended.
    pub(crate) fn note_end(&self, id: &str, at: Timestamp) {
        let mut known = self.known();
        if known.ours.contains_key(id) {
            known.ends.note_end(id, ours(at));
        }
    }

    /// The external causes of the ends of `containers`.
    pub(crate) fn ended_by(
        &self,
        containers: &[ObservedContainer],
        now: Timestamp,
    ) -> BTreeMap<String, EndedBy> {
        let known = self.known();
        let by = |seen: &ObservedContainer| {
            let ContainerState::Exited(exit) = &seen.state else { return None };
            let witness = known.ends.witness(&seen.id, exit.at, now);
            Some((seen.id.clone(), cause::of_exit(exit, seen.memory.is_some(), witness)?))
        };
        containers.iter().filter_map(by).collect()
    }

    /// Forgets the known images, volumes and networks; they are requested again when needed.
    pub(crate) fn forget_things(&self) {
        let mut known = self.known();
        known.images.clear();
        known.names.clear();
        known.volumes.clear();
        known.networks.clear();
    }

    /// Forgets an image. Returns whether it was known.
    pub(crate) fn forget_image(&self, id: &str) -> bool {
        let mut known = self.known();
        let before = known.images.len() + known.names.len();
        known.images.retain(|image, _| image.as_str() != id);
        known.names.retain(|_, image| image.as_str() != id);
        known.images.len() + known.names.len() < before
    }

    /// Forgets the managed network.
    pub(crate) fn forget_network(&self) {
        self.known().networks.clear();
    }

    /// Forgets a volume. Returns whether it was known.
    pub(crate) fn forget_volume(&self, name: &str) -> bool {
        self.known().volumes.remove(name)
    }

    /// Those of `paths` that the engine does not find. A path that exists here is assumed to exist for the
    /// engine: if the engine sees another disk, it refuses to mount a missing path.
    pub(crate) async fn missing_sources(
        &self,
        engine: &Engine,
        paths: BTreeSet<AbsolutePath>,
    ) -> Result<BTreeSet<AbsolutePath>, EngineError> {
        let mut missing = BTreeSet::new();
        for path in paths {
            // A network disk may never answer, so a timeout gives no information.
            let looked = tokio::time::timeout(LOOK, tokio::fs::metadata(path.as_path())).await;
            if matches!(looked, Ok(Err(_))) && !engine.has_source(&path).await? {
                missing.insert(path);
            }
        }
        Ok(missing)
    }

    /// Returns those of `names` that exist in the engine.
    pub(crate) async fn volumes(
        &self,
        engine: &Engine,
        names: BTreeSet<String>,
    ) -> Result<BTreeSet<String>, EngineError> {
        let (known, unknown): (BTreeSet<_>, BTreeSet<_>) =
            names.into_iter().partition(|name| self.known().volumes.contains(name));
        let found = if unknown.is_empty() { unknown } else { engine.volumes(unknown).await? };
        self.known().volumes.extend(found.iter().cloned());
        Ok(known.into_iter().chain(found).collect())
    }

    /// Returns whether a network exists, and its owner.
    pub(crate) async fn network(
        &self,
        engine: &Engine,
        name: &NetworkName,
    ) -> Result<NetworkPresence, EngineError> {
        if let Some(known) = self.known().networks.get(name) {
            return Ok(*known);
        }
        let presence = match engine.network(name, &self.record).await? {
            None => return Ok(NetworkPresence::Missing),
            Some(network) if network.is_ours => NetworkPresence::Ours,
            Some(_) => NetworkPresence::Foreign,
        };
        self.known().networks.insert(name.clone(), presence);
        Ok(presence)
    }

    /// Whether the engine has an image of this name.
    pub(crate) async fn has_image(&self, engine: &Engine, name: &str) -> Result<bool, EngineError> {
        if self.known().names.contains_key(name) {
            return Ok(true);
        }
        let Some(id) = engine.image_id(name).await? else { return Ok(false) };
        self.known().names.insert(name.to_owned(), id);
        Ok(true)
    }

    /// Returns those of `ids` that the engine has.
    pub(crate) async fn images(
        &self,
        engine: &Engine,
        ids: impl IntoIterator<Item = Digest>,
    ) -> Result<BTreeMap<Digest, HeldImage>, EngineError> {
        let mut present = BTreeMap::new();
        for id in ids {
            let known = self.known().images.get(&id).cloned();
            let held = match known {
                Some(held) => Some(held),
                None => engine.image(id.as_str()).await?.filter(|held| held.id == id),
            };
            if let Some(held) = held {
                self.known().images.insert(id.clone(), held.clone());
                present.insert(id, held);
            }
        }
        Ok(present)
    }

    /// Lists all containers, and inspects each managed one that changed since the last list; `inspect_all`
    /// inspects all managed ones. Returns the environments whose containers changed.
    pub(crate) async fn resync(
        &self,
        engine: &Engine,
        inspect_all: bool,
    ) -> Result<BTreeSet<EnvironmentName>, EngineError> {
        // Any inspection from here on may see a container that is newer than the list.
        let begun = self.known().begin_look();
        let list = engine.list().await?;
        let (ours, foreign): (Vec<_>, Vec<_>) = list.into_iter().partition(|listed| self.is_ours(listed));
        let mut changed = self.forget_all_but(&ours, begun);
        self.known().foreign = foreign.iter().flat_map(foreign_names).collect();
        let is_changed =
            |listed: &Listed| inspect_all || self.known().listed.get(&listed.id) != Some(&summary(listed));
        let to_look_at: Vec<Listed> = ours.into_iter().filter(is_changed).collect();
        if inspect_all {
            self.expect(&to_look_at);
        }
        let looks = to_look_at.into_iter().map(|listed| self.look_at_listed(engine, listed));
        let mut looks = futures::stream::iter(looks).buffer_unordered(LOOKS_AT_ONCE);
        let looking = async {
            while let Some(environment) = looks.next().await {
                changed.extend(environment?);
            }
            Ok(())
        };
        match tokio::time::timeout(if inspect_all { FIRST_LOOK } else { Duration::MAX }, looking).await {
            Ok(looked) => looked.map(|()| changed),
            // The known containers need not wait for the others.
            Err(_) => Ok(changed),
        }
    }

    /// Notes that the listed containers are not inspected yet.
    fn expect(&self, listed: &[Listed]) {
        let of = |listed: &Listed| (listed.id.clone(), self.environment_of(listed.labels.iter()));
        // Before the lock, because finding their environments takes it.
        let expected: Vec<_> = listed.iter().map(of).collect();
        let mut known = self.known();
        for (id, environment) in expected {
            if !known.ours.contains_key(&id) {
                let error = EngineError::Deadline { call: "inspect a container", within: FIRST_LOOK };
                known.unseen.insert(id, (environment, error));
            }
        }
    }

    /// The containers that were listed but not inspected yet.
    pub(crate) fn expected(&self) -> Vec<String> {
        let known = self.known();
        let unseen = known.unseen.keys().filter(|id| !known.ours.contains_key(*id));
        unseen.cloned().collect()
    }

    async fn look_at_listed(
        &self,
        engine: &Engine,
        listed: Listed,
    ) -> Result<Option<EnvironmentName>, EngineError> {
        match self.look(engine, &listed.id).await {
            Ok(environment) => {
                let summary = summary(&listed);
                self.known().listed.insert(listed.id, summary);
                Ok(environment)
            }
            Err(error) => self.keep(&listed.id, self.environment_of(listed.labels.iter()), error),
        }
    }

    /// The reason why a listed container of an environment is unknown. The known containers of the
    /// environment are incomplete then, and must not be acted upon.
    pub(crate) fn unseen(&self, environment: &EnvironmentName) -> Option<EngineError> {
        let known = self.known();
        let of_it = |id: &String, of: &Option<EnvironmentName>| {
            of.as_ref() == Some(environment) && !known.ours.contains_key(id)
        };
        let mut unseen = known.unseen.iter();
        unseen.find(|(id, (of, _))| of_it(id, of)).map(|(_, (_, error))| error.clone())
    }

    /// Inspects one container again. Returns its environment if it is managed and has changed. Of two
    /// concurrent inspections, the answer to the earlier one does not replace that to the later one.
    pub(crate) async fn look(
        &self,
        engine: &Engine,
        id: &str,
    ) -> Result<Option<EnvironmentName>, EngineError> {
        let number = self.known().begin_look();
        // Until an inspection succeeds, each resync repeats it.
        self.known().listed.remove(id);
        let seen = engine.inspect(id).await?;
        self.known().unseen.remove(id);
        let Some(seen) = seen else {
            let mut known = self.known();
            known.take(id, number);
            return Ok(known.forget(id));
        };
        let Some(environment) = self.environment_of(seen.labels.iter()) else { return Ok(None) };
        let mut known = self.known();
        if !known.take(id, number) {
            return Ok(None);
        }
        let mut seen = seen;
        known.lives.translate(&mut seen, now(), ahead());
        let before = known.ours.insert(seen.id.clone(), (environment.clone(), seen.clone()));
        if names::is_sandbox(&seen)
            || before.as_ref().and_then(|(_, before)| before.joined.as_ref()) != seen.joined.as_ref()
        {
            known.give_sandboxes_to_owners();
        }
        let environment = known.ours.get(&seen.id).map_or(environment, |(owner, _)| owner.clone());
        // The next list shows whether it has changed again.
        known.listed.remove(&seen.id);
        Ok(before.is_none_or(|(_, before)| before != seen).then_some(environment))
    }

    /// Keeps the previous state of a container of `environment`, if that is known, after its inspection
    /// failed with `error`. Other containers must not wait for one that the engine cannot inspect, such as
    /// one that is partly removed or not fully created.
    ///
    /// # Errors
    /// Returns `error` if the engine itself does not answer.
    pub(crate) fn keep(
        &self,
        id: &str,
        environment: Option<EnvironmentName>,
        error: EngineError,
    ) -> Result<Option<EnvironmentName>, EngineError> {
        if error.is_unreachable() {
            return Err(error);
        }
        let mut known = self.known();
        let before = known.unseen.get(id);
        let environment = environment.or_else(|| before.and_then(|(environment, _)| environment.clone()));
        if before.map(|(_, before)| before) != Some(&error) {
            warn!(container = id, %error, "cannot inspect a container; keeping its last known state");
        }
        known.unseen.insert(id.to_owned(), (environment, error));
        Ok(None)
    }

    /// Returns the last output of a container; `None` if it cannot be read now.
    pub(crate) async fn last_output(&self, engine: &Engine, id: &str) -> Option<String> {
        engine.last_output(id, LAST_LINES).await.ok().map(ending)
    }

    /// Forgets the containers that are not in a list, except for those inspected since `begun`.
    fn forget_all_but(&self, listed: &[Listed], begun: u64) -> BTreeSet<EnvironmentName> {
        let mut known = self.known();
        let there: HashSet<&str> = listed.iter().map(|listed| listed.id.as_str()).collect();
        known.taken.retain(|id, number| there.contains(id.as_str()) || *number > begun);
        known.unseen.retain(|id, _| there.contains(id.as_str()));
        let gone =
            known.ours.keys().filter(|id| !there.contains(id.as_str()) && !known.taken.contains_key(*id));
        let gone: Vec<String> = gone.cloned().collect();
        gone.iter().filter_map(|id| known.forget(id)).collect()
    }

    fn is_ours(&self, listed: &Listed) -> bool {
        listed.labels.get(label::RECORD) == Some(&self.record)
            && listed.labels.get(label::ENVIRONMENT).is_some_and(|name| EnvironmentName::new(name).is_ok())
    }

    fn environment_of<'a>(
        &self,
        labels: impl Iterator<Item = (&'a String, &'a String)>,
    ) -> Option<EnvironmentName> {
        let (mut is_ours, mut environment) = (false, None);
        for (name, value) in labels {
            is_ours |= name == label::RECORD && *value == self.record;
            if name == label::ENVIRONMENT {
                environment = EnvironmentName::new(value).ok();
            }
        }
        let environment = environment.filter(|_| is_ours)?;
        Some(self.known().owner(environment))
    }
}

/// The fields of a listed container that show whether it changed.
fn summary(listed: &Listed) -> (Vec<String>, String) {
    (listed.names.clone(), listed.state.clone())
}

impl CachedContainers {
    fn begin_look(&mut self) -> u64 {
        self.looks += 1;
        self.looks
    }

    /// Whether the answer to inspection `number` is new: no answer to a later one was applied before.
    fn take(&mut self, id: &str, number: u64) -> bool {
        let taken = self.taken.entry(id.to_owned()).or_default();
        let is_newer = number > *taken;
        *taken = number.max(*taken);
        is_newer
    }

    fn forget(&mut self, id: &str) -> Option<EnvironmentName> {
        self.listed.remove(id);
        self.ends.forget(id);
        self.lives.forget(id);
        self.foreign.retain(|_, foreign| foreign.id != id);
        let (environment, seen) = self.ours.remove(id)?;
        if seen.joined.is_some() {
            self.give_sandboxes_to_owners();
        }
        Some(environment)
    }
}

/// Keeps complete lines at the end: a partial line may contain part of a secret, which could not be
/// recognized.
fn ending(output: String) -> String {
    let Some((start, _)) = output.char_indices().rev().nth(MOST_CHARACTERS) else { return output };
    output[start..].split_once('\n').map_or(String::new(), |(_, lines)| lines.to_owned())
}

#[cfg(test)]
pub(in crate::controller) mod tests {
    use super::*;
    use crate::model::observed::{EngineHealth, ObservedMounts};

    pub(in crate::controller) fn seen(id: &str) -> ObservedContainer {
        ObservedContainer {
            id: id.to_owned(),
            name: "dev-server".to_owned(),
            image: None,
            state: ContainerState::Running,
            engine_health: EngineHealth::NoCheck,
            created_at: Timestamp::default(),
            started_at: None,
            command: Vec::new(),
            env: BTreeMap::new(),
            published: Default::default(),
            mounts: ObservedMounts::default(),
            settings: Default::default(),
            attachments: Default::default(),
            extra_hosts: Vec::new(),
            memory: None,
            nano_cpus: None,
            pids: None,
            init: false,
            restart_policy: String::new(),
            networks: BTreeMap::new(),
            joined: None,
            last_output: None,
            secret_files: Vec::new(),
            labels: BTreeMap::new(),
        }
    }

    #[test]
    fn a_list_drops_only_containers_older_than_its_request() {
        let (cache, dev) = (ContainerCache::new("record".to_owned()), EnvironmentName::new("dev").unwrap());
        let look = |id: &str| {
            let mut known = cache.known();
            let number = known.begin_look();
            known.take(id, number);
            known.ours.insert(id.to_owned(), (dev.clone(), seen(id)));
            number
        };
        look("gone");
        let begun = cache.known().begin_look();
        let made = look("made");
        assert_eq!(cache.forget_all_but(&[], begun), BTreeSet::from([dev.clone()]));
        assert!(!cache.knows("gone"));
        assert!(cache.knows("made"));
        assert!(!cache.known().take("made", made), "the answer to an earlier look would replace it");
        let begun = cache.known().begin_look();
        assert_eq!(cache.forget_all_but(&[], begun).len(), 1, "the next list knows better");
        assert!(!cache.knows("made"));
    }

    #[test]
    fn only_whole_lines_of_long_output_are_kept() {
        assert_eq!(ending("one\ntwo".to_owned()), "one\ntwo");
        let long = format!("{}\nlast\n", "é".repeat(MOST_CHARACTERS));
        assert_eq!(ending(long), "last\n");
        assert_eq!(ending("x".repeat(MOST_CHARACTERS + 1)), "");
    }

    #[test]
    fn an_outdated_inspect_result_is_discarded() {
        let mut known = CachedContainers::default();
        let (early, late, other) = (known.begin_look(), known.begin_look(), known.begin_look());
        assert!(known.take("a", late));
        assert!(!known.take("a", early), "the state before a start would replace the one after it");
        assert!(known.take("b", early), "containers do not overtake each other");
        assert!(known.take("a", other));
    }

    #[test]
    fn a_removed_container_is_not_restored_by_an_older_inspect() {
        let mut known = CachedContainers::default();
        let (early, late) = (known.begin_look(), known.begin_look());
        known.take("a", late);
        known.forget("a");
        assert!(!known.take("a", early));
    }

    #[test]
    fn a_slow_inspect_affects_one_container_and_a_lost_connection_all() {
        let (cache, dev) = (ContainerCache::new("record".to_owned()), EnvironmentName::new("dev").unwrap());
        let slow = EngineError::Deadline { call: "inspect a container", within: Duration::from_secs(30) };
        assert_eq!(cache.keep("a", Some(dev.clone()), slow.clone()), Ok(None));
        assert_eq!(cache.unseen(&dev), Some(slow.clone()), "what is not known is taken for known");
        assert_eq!(cache.expected(), ["a"]);
        cache.known().ours.insert("a".to_owned(), (dev.clone(), seen("a")));
        assert_eq!(cache.keep("a", None, slow), Ok(None));
        assert_eq!(cache.unseen(&dev), None, "what was known is kept");
        let lost = EngineError::Unreachable("the socket is gone".to_owned());
        assert_eq!(cache.keep("a", None, lost.clone()), Err(lost));
    }
}
