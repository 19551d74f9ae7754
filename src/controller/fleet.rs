//! What is known of the host's containers and things, kept up to date by events.
//!
//! An event about one container is answered by one inspect of it; a resync by one list of all, and
//! inspects of what changed. Passes read containers from here. Of images, volumes and the network they
//! ask the engine only what is not known yet; what a container wrote last they ask for each time.

mod names;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use tracing::warn;

use super::clock::{ahead, now, translated};
use super::docker::{Engine, EngineError, Listed};
use super::ends::Ends;
use super::lives::Lives;
use crate::model::cause::{self, EndedBy};
use crate::model::container::label;
use crate::model::mount::AbsolutePath;
use crate::model::name::{Digest, EnvironmentName, NetworkName};
use crate::model::observed::{ContainerState, NameHolder, NetworkPresence, SeenContainer};
use crate::model::time::Timestamp;
use names::foreign_names;

/// A moment of an event, by the clock of this process; now if that is still to come.
fn ours(told: Timestamp) -> Timestamp {
    let now = now();
    translated(told, now, ahead()).unwrap_or(now)
}

/// Lines of a container's last output that are kept where it ended or does not become ready.
const LAST_LINES: usize = 10;
/// The most characters of them.
const MOST_CHARACTERS: usize = 16 * 1024;
/// How long the first looks at all containers may take before passes go on with what is known.
const FIRST_LOOK: Duration = Duration::from_secs(5);
/// Containers that a resync looks at at once.
const LOOKS_AT_ONCE: usize = 8;

/// How long a look at a path of this host may take.
const LOOK: Duration = Duration::from_secs(2);

/// The containers of one host, as far as they matter.
pub(crate) struct Fleet {
    record: String,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    /// Our containers by id, with the summary of the list that they were last seen with.
    ours: HashMap<String, (EnvironmentName, SeenContainer)>,
    /// The list's word for the state of ours, to tell what changed without an inspect.
    listed: HashMap<String, (Vec<String>, String)>,
    /// How many looks, at single containers or at all, were begun.
    looks: u64,
    /// The number of the look whose answer was taken last, by container.
    taken: HashMap<String, u64>,
    /// Why containers could not be looked at, as it was logged, and whose they are where that is known.
    unseen: HashMap<String, (Option<EnvironmentName>, EngineError)>,
    /// What events told of the ends of ours.
    ends: Ends,
    /// Names of containers that are not ours.
    foreign: HashMap<String, NameHolder>,
    /// Environments that left the manifest, and the one that took over the containers of each.
    adopted: HashMap<EnvironmentName, EnvironmentName>,
    /// Image IDs known to be there, with the paths of their `VOLUME` lines.
    images: HashMap<Digest, BTreeSet<AbsolutePath>>,
    /// Images known to be there by name.
    names: HashMap<String, Digest>,
    /// Volumes known to be there.
    volumes: HashSet<String>,
    /// What is known of the managed network.
    network: Option<NetworkPresence>,
    /// When containers were started and ended.
    lives: Lives,
}

impl Fleet {
    pub(crate) fn new(record: String) -> Self {
        Self { record, known: Mutex::default() }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Our containers of one environment that run its images, each with what its holder has of the
    /// network in its place.
    pub(crate) fn containers(&self, environment: &EnvironmentName) -> Vec<SeenContainer> {
        let (holders, containers) = self.by_role(environment);
        containers.into_iter().map(|container| container.with_holder(&holders)).collect()
    }

    /// Our holders of one environment.
    pub(crate) fn holders(&self, environment: &EnvironmentName) -> Vec<SeenContainer> {
        self.by_role(environment).0
    }

    /// All our containers of one environment, each application before its sandbox.
    pub(crate) fn all_of(&self, environment: &EnvironmentName) -> Vec<SeenContainer> {
        let (holders, containers) = self.by_role(environment);
        containers.into_iter().chain(holders).collect()
    }

    fn by_role(&self, environment: &EnvironmentName) -> (Vec<SeenContainer>, Vec<SeenContainer>) {
        let known = self.known();
        let ours = known.ours.values().filter(|(of, _)| of == environment).map(|(_, seen)| seen.clone());
        ours.partition(|seen| seen.labels.get(label::ROLE).is_some_and(|role| role == label::HOLDER))
    }

    /// Environments that have containers of ours.
    pub(crate) fn environments(&self) -> BTreeSet<EnvironmentName> {
        self.known().ours.values().map(|(environment, _)| environment.clone()).collect()
    }

    /// How many containers of ours there are.
    pub(crate) fn count(&self) -> usize {
        self.known().ours.len()
    }

    /// Whether a container is known to be ours.
    pub(crate) fn knows(&self, id: &str) -> bool {
        self.known().ours.contains_key(id)
    }

    /// Notes that events are followed without a gap from now on.
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

    /// What ended those of `containers` that did not end by their own program.
    pub(crate) fn ended_by(&self, containers: &[SeenContainer], now: Timestamp) -> BTreeMap<String, EndedBy> {
        let known = self.known();
        let by = |seen: &SeenContainer| {
            let ContainerState::Exited(exit) = &seen.state else { return None };
            let witness = known.ends.witness(&seen.id, exit.at, now);
            Some((seen.id.clone(), cause::of_exit(exit, seen.memory.is_some(), witness)?))
        };
        containers.iter().filter_map(by).collect()
    }

    /// Forgets which images, volumes and networks are there; they are asked for again when needed.
    pub(crate) fn forget_things(&self) {
        let mut known = self.known();
        known.images.clear();
        known.names.clear();
        known.volumes.clear();
        known.network = None;
    }

    /// Forgets that an image is there. Says whether it was known to be.
    pub(crate) fn forget_image(&self, id: &str) -> bool {
        let mut known = self.known();
        let before = known.images.len() + known.names.len();
        known.images.retain(|image, _| image.as_str() != id);
        known.names.retain(|_, image| image.as_str() != id);
        known.images.len() + known.names.len() < before
    }

    /// Forgets whether the managed network is there.
    pub(crate) fn forget_network(&self) {
        self.known().network = None;
    }

    /// Forgets that a volume is there. Says whether it was known to be.
    pub(crate) fn forget_volume(&self, name: &str) -> bool {
        self.known().volumes.remove(name)
    }

    /// Those of `paths` that the engine does not find. One that is seen here is taken to be there: where
    /// the engine sees another disk, it refuses to mount what it does not find.
    pub(crate) async fn missing_sources(
        &self,
        engine: &Engine,
        paths: BTreeSet<AbsolutePath>,
    ) -> Result<BTreeSet<AbsolutePath>, EngineError> {
        let mut missing = BTreeSet::new();
        for path in paths {
            // A disk behind a network may never answer, which tells nothing.
            let looked = tokio::time::timeout(LOOK, tokio::fs::metadata(path.as_path())).await;
            if matches!(looked, Ok(Err(_))) && !engine.has_source(&path).await? {
                missing.insert(path);
            }
        }
        Ok(missing)
    }

    /// Those of `names` that the engine holds.
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

    /// Whether the managed network is there, and whose it is.
    pub(crate) async fn network(
        &self,
        engine: &Engine,
        name: &NetworkName,
    ) -> Result<NetworkPresence, EngineError> {
        if let Some(known) = self.known().network {
            return Ok(known);
        }
        let presence = match engine.network(name, &self.record).await? {
            None => return Ok(NetworkPresence::Missing),
            Some(network) if network.is_ours => NetworkPresence::Ours,
            Some(_) => NetworkPresence::Foreign,
        };
        self.known().network = Some(presence);
        Ok(presence)
    }

    /// Whether the engine holds an image of this name.
    pub(crate) async fn has_image(&self, engine: &Engine, name: &str) -> Result<bool, EngineError> {
        if self.known().names.contains_key(name) {
            return Ok(true);
        }
        let Some(id) = engine.image_id(name).await? else { return Ok(false) };
        self.known().names.insert(name.to_owned(), id);
        Ok(true)
    }

    /// Those of `ids` that the engine holds, each with the paths of its `VOLUME` lines.
    pub(crate) async fn images(
        &self,
        engine: &Engine,
        ids: impl IntoIterator<Item = Digest>,
    ) -> Result<BTreeMap<Digest, BTreeSet<AbsolutePath>>, EngineError> {
        let mut present = BTreeMap::new();
        for id in ids {
            let known = self.known().images.get(&id).cloned();
            let volumes = match known {
                Some(volumes) => Some(volumes),
                None => {
                    let held = engine.image(id.as_str()).await?.filter(|held| held.id == id);
                    held.map(|held| held.volumes)
                }
            };
            if let Some(volumes) = volumes {
                self.known().images.insert(id.clone(), volumes.clone());
                present.insert(id, volumes);
            }
        }
        Ok(present)
    }

    /// One list of all containers, and an inspect of each of ours that changed since the last one;
    /// `afresh` inspects all of ours. Gives the environments whose containers changed.
    pub(crate) async fn resync(
        &self,
        engine: &Engine,
        afresh: bool,
    ) -> Result<BTreeSet<EnvironmentName>, EngineError> {
        // Whatever is looked at from here on may have been made after the list.
        let begun = self.known().begin_look();
        let list = engine.list().await?;
        let (ours, foreign): (Vec<_>, Vec<_>) = list.into_iter().partition(|listed| self.is_ours(listed));
        let mut changed = self.forget_all_but(&ours, begun);
        self.known().foreign = foreign.iter().flat_map(foreign_names).collect();
        let is_changed =
            |listed: &Listed| afresh || self.known().listed.get(&listed.id) != Some(&summary(listed));
        let to_look_at: Vec<Listed> = ours.into_iter().filter(is_changed).collect();
        if afresh {
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
        match tokio::time::timeout(if afresh { FIRST_LOOK } else { Duration::MAX }, looking).await {
            Ok(looked) => looked.map(|()| changed),
            // Those that are known need not wait for the others.
            Err(_) => Ok(changed),
        }
    }

    /// Notes that nothing is known yet of containers that were listed.
    fn expect(&self, listed: &[Listed]) {
        let of = |listed: &Listed| (listed.id.clone(), self.environment_of(listed.labels.iter()));
        // Before the lock, which is taken to find out whose they are.
        let expected: Vec<_> = listed.iter().map(of).collect();
        let mut known = self.known();
        for (id, environment) in expected {
            if !known.ours.contains_key(&id) {
                let error = EngineError::Deadline { call: "inspect a container", within: FIRST_LOOK };
                known.unseen.insert(id, (environment, error));
            }
        }
    }

    /// The containers of which nothing is known yet, though they were listed.
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

    /// Why a container of an environment is not known, though the engine listed it: what else is known
    /// of the environment is not all, and must not be acted upon.
    pub(crate) fn unseen(&self, environment: &EnvironmentName) -> Option<EngineError> {
        let known = self.known();
        let of_it = |id: &String, of: &Option<EnvironmentName>| {
            of.as_ref() == Some(environment) && !known.ours.contains_key(id)
        };
        let mut unseen = known.unseen.iter();
        unseen.find(|(id, (of, _))| of_it(id, of)).map(|(_, (_, error))| error.clone())
    }

    /// Looks at one container again. Gives its environment where it is ours and changed. Where two
    /// look at once, the answer to the one that asked first does not replace the other's.
    pub(crate) async fn look(
        &self,
        engine: &Engine,
        id: &str,
    ) -> Result<Option<EnvironmentName>, EngineError> {
        let number = self.known().begin_look();
        // Until there is an answer, each resync looks again.
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
        // The next list shows whether it changed again.
        known.listed.remove(&seen.id);
        Ok(before.is_none_or(|(_, before)| before != seen).then_some(environment))
    }

    /// Keeps what was known of a container of `environment`, where that is known, after a look at it
    /// ended in `error`: the others must not wait for one that the engine cannot tell of, such as one
    /// that is half removed, or not yet.
    ///
    /// # Errors
    /// `error`, where it is the engine itself that does not answer.
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
            warn!(container = id, %error, "a container cannot be looked at; what was known of it is kept");
        }
        known.unseen.insert(id.to_owned(), (environment, error));
        Ok(None)
    }

    /// The last that a container wrote; `None` where it cannot be read now.
    pub(crate) async fn last_output(&self, engine: &Engine, id: &str) -> Option<String> {
        engine.last_output(id, LAST_LINES).await.ok().map(ending)
    }

    /// Forgets what is not in a list, but for what was looked at since that was `begun`.
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

/// What the list says of a container, to tell whether it changed.
fn summary(listed: &Listed) -> (Vec<String>, String) {
    (listed.names.clone(), listed.state.clone())
}

impl Known {
    fn begin_look(&mut self) -> u64 {
        self.looks += 1;
        self.looks
    }

    /// Whether the answer to the look `number` is news: none that was asked for later came before it.
    fn take(&mut self, id: &str, number: u64) -> bool {
        let taken = self.taken.entry(id.to_owned()).or_default();
        let is_news = number > *taken;
        *taken = number.max(*taken);
        is_news
    }

    fn forget(&mut self, id: &str) -> Option<EnvironmentName> {
        self.listed.remove(id);
        self.ends.forget(id);
        self.lives.forget(id);
        self.foreign.retain(|_, foreign| foreign.id != id);
        self.ours.remove(id).map(|(environment, _)| environment)
    }
}

/// Whole lines of the end of it: part of a line may be part of a secret, which nobody recognizes.
fn ending(output: String) -> String {
    let Some((start, _)) = output.char_indices().rev().nth(MOST_CHARACTERS) else { return output };
    output[start..].split_once('\n').map_or(String::new(), |(_, lines)| lines.to_owned())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::model::observed::{EngineHealth, SeenMounts};

    pub(in crate::controller) fn seen(id: &str) -> SeenContainer {
        SeenContainer {
            id: id.to_owned(),
            name: "dev-server".to_owned(),
            image: None,
            state: ContainerState::Running,
            engine_health: EngineHealth::NoCheck,
            created_at: Timestamp::default(),
            started_at: None,
            command: Vec::new(),
            env: BTreeMap::new(),
            published: BTreeMap::new(),
            mounts: SeenMounts::default(),
            extra_hosts: Vec::new(),
            memory: None,
            nano_cpus: None,
            pids: None,
            init: false,
            restart_policy: String::new(),
            networks: BTreeMap::new(),
            joined: None,
            last_output: None,
            labels: BTreeMap::new(),
        }
    }

    #[test]
    fn a_list_forgets_what_is_gone_and_not_what_was_made_since_it_was_asked_for() {
        let (fleet, dev) = (Fleet::new("record".to_owned()), EnvironmentName::new("dev").unwrap());
        let look = |id: &str| {
            let mut known = fleet.known();
            let number = known.begin_look();
            known.take(id, number);
            known.ours.insert(id.to_owned(), (dev.clone(), seen(id)));
            number
        };
        look("gone");
        let begun = fleet.known().begin_look();
        let made = look("made");
        assert_eq!(fleet.forget_all_but(&[], begun), BTreeSet::from([dev.clone()]));
        assert!(!fleet.knows("gone"));
        assert!(fleet.knows("made"));
        assert!(!fleet.known().take("made", made), "the answer to an earlier look would replace it");
        let begun = fleet.known().begin_look();
        assert_eq!(fleet.forget_all_but(&[], begun).len(), 1, "the next list knows better");
        assert!(!fleet.knows("made"));
    }

    #[test]
    fn only_whole_lines_of_long_output_are_kept() {
        assert_eq!(ending("one\ntwo".to_owned()), "one\ntwo");
        let long = format!("{}\nlast\n", "é".repeat(MOST_CHARACTERS));
        assert_eq!(ending(long), "last\n");
        assert_eq!(ending("x".repeat(MOST_CHARACTERS + 1)), "");
    }

    #[test]
    fn an_answer_that_a_later_look_overtook_is_not_taken() {
        let mut known = Known::default();
        let (early, late, other) = (known.begin_look(), known.begin_look(), known.begin_look());
        assert!(known.take("a", late));
        assert!(!known.take("a", early), "the state before a start would replace the one after it");
        assert!(known.take("b", early), "containers do not overtake each other");
        assert!(known.take("a", other));
    }

    #[test]
    fn a_container_that_is_gone_is_not_brought_back_by_an_earlier_look() {
        let mut known = Known::default();
        let (early, late) = (known.begin_look(), known.begin_look());
        known.take("a", late);
        known.forget("a");
        assert!(!known.take("a", early));
    }

    #[test]
    fn one_slow_answer_is_the_trouble_of_one_container_and_a_lost_connection_is_the_engines() {
        let (fleet, dev) = (Fleet::new("record".to_owned()), EnvironmentName::new("dev").unwrap());
        let slow = EngineError::Deadline { call: "inspect a container", within: Duration::from_secs(30) };
        assert_eq!(fleet.keep("a", Some(dev.clone()), slow.clone()), Ok(None));
        assert_eq!(fleet.unseen(&dev), Some(slow.clone()), "what is not known is taken for known");
        assert_eq!(fleet.expected(), ["a"]);
        fleet.known().ours.insert("a".to_owned(), (dev.clone(), seen("a")));
        assert_eq!(fleet.keep("a", None, slow), Ok(None));
        assert_eq!(fleet.unseen(&dev), None, "what was known is kept");
        let lost = EngineError::Unreachable("the socket is gone".to_owned());
        assert_eq!(fleet.keep("a", None, lost.clone()), Err(lost));
    }
}
