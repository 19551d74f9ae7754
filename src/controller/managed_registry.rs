//! The managed registry: one container with a volume, kept as the manifest declares it.
//!
//! It is not an environment: no record names its image, nothing is promoted to it, and no environment waits
//! for it. The contents of its volume are never touched.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use tokio::sync::watch;
use tracing::{info, warn};

use super::clock::now;
use super::docker::{AttendantOptions, Engine, EngineError, HeldImage};
use super::follow::FollowTrouble;
use super::guard::Guard;
use super::host_file;
use super::pull::pull_declared;
use super::registries::Registries;
use crate::model::container::label;
use crate::model::mount::{AbsolutePath, Mount, VolumeName};
use crate::model::name::Digest;
use crate::model::observed::{ContainerState, SeenContainer};
use crate::model::reference::RegistryHost;
use crate::model::spec::{ManagedRegistry, Manifest};
use crate::model::time::Timestamp;
use crate::plan::backoff;
use crate::record::DesiredReader;

/// How often it is checked: one list by label, which costs the engine almost nothing.
const LOOK: Duration = Duration::from_secs(2);
/// Uptime after which an end counts as the first one again, as for environments.
const HEALTHY: Duration = Duration::from_secs(600);
/// The longest pause before a failed pull or start is tried again, as with the proxy.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// The port of the program in its container, and the folder of the pushed data.
const PORT: u16 = 5000;
const DATA: &str = "/var/lib/registry";
/// The mount point for files of this host.
const FILES: &str = "/etc/abide-registry";
/// The name under which its errors are reported.
const NAME: &str = "the managed registry";

/// Reconciles the managed registry.
#[derive(Clone)]
pub(super) struct Keeper {
    pub(super) engine: Arc<Engine>,
    pub(super) registries: Arc<Registries>,
    pub(super) guard: Guard,
    pub(super) record: String,
    pub(super) desired: DesiredReader,
    pub(super) manifest: watch::Receiver<Arc<Manifest>>,
    pub(super) trouble: FollowTrouble,
    pub(super) ends: Ends,
    pub(super) pulls: Tries,
    pub(super) starts: Tries,
}

/// Failed pulls or starts in a row.
#[derive(Clone, Debug, Default)]
pub(super) struct Tries {
    failures: u32,
    /// The reason of the last failure, and the time of the next attempt.
    failed: Option<(String, Timestamp)>,
}

impl Tries {
    /// # Errors
    /// Returns the reason of the last failure, if the next attempt is not due yet.
    fn is_due(&self, now: Timestamp) -> Result<(), String> {
        match &self.failed {
            Some((why, next)) if *next > now => Err(why.clone()),
            _ => Ok(()),
        }
    }

    /// Notes the result of an attempt at `now`, and returns it.
    fn note(&mut self, tried: Result<(), String>, now: Timestamp) -> Result<(), String> {
        match &tried {
            Ok(()) => *self = Self::default(),
            Err(why) => {
                self.failures = self.failures.saturating_add(1);
                let pause = backoff(self.failures + 1, NAME).min(LONGEST_PAUSE);
                self.failed = Some((why.clone(), now.after(pause)));
            }
        }
        tried
    }
}

/// Counts the ends of its process in quick succession.
#[derive(Clone, Debug, Default)]
pub(super) struct Ends {
    count: u32,
    /// The last counted end.
    last: Option<Timestamp>,
    start_at: Option<Timestamp>,
}

impl Ends {
    /// Returns when it may be started again after it ended `at`, having run since `started`: the first time
    /// at once, later after a growing pause. The pause begins `now`, at the observation: `at` is by the
    /// engine's clock, which may have been set.
    fn next_start(&mut self, started: Option<Timestamp>, at: Timestamp, now: Timestamp) -> Timestamp {
        if self.last != Some(at) {
            self.last = Some(at);
            let ran_well = started.is_some_and(|started| at.since(started) >= HEALTHY);
            self.count = if ran_well { 1 } else { self.count + 1 };
            self.start_at = Some(now.after(backoff(self.count, NAME)));
        }
        self.start_at.unwrap_or(now)
    }
}

/// The repair that a container needs.
#[derive(Debug, PartialEq, Eq)]
enum Care {
    None,
    Wait,
    Start,
    Unpause,
    /// The engine would restart it too.
    OwnRestarts,
    Remake(&'static str),
}

impl Keeper {
    /// Reconciles it until dropped.
    pub(super) async fn run(mut self) {
        loop {
            let declared = self.manifest.borrow_and_update().registry.clone();
            let kept = match &declared {
                Some(spec) => self.keep(spec).await,
                None => {
                    self.guard.tell_registry(None);
                    self.name_orphan().await
                }
            };
            self.tell(kept);
            tokio::select! {
                changed = self.manifest.changed() => match changed {
                    Ok(()) => (self.pulls, self.starts) = Default::default(),
                    Err(_) => return,
                },
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }

    /// Checks it once, and repairs it.
    async fn keep(&mut self, spec: &ManagedRegistry) -> Result<(), String> {
        let found = self.find(spec).await?;
        let Some(image) = self.image(&spec.image).await? else {
            self.pulls.is_due(now())?;
            let pulled = self.pull(&spec.image).await;
            return self.pulls.note(pulled, now());
        };
        let undeclared = undeclared(&self.record, &image.volumes, found.as_ref());
        let options = options(spec, image.id, content(spec).await?, undeclared)?;
        let Some(seen) = found else { return self.make(spec, &options).await };
        let id = &seen.id;
        let done = match care(&options, &seen) {
            Care::None => {
                self.starts = Tries::default();
                self.guard.tell_registry(Some(id.clone()));
                Ok(())
            }
            Care::OwnRestarts => self.engine.set_restarts(id, false).await,
            Care::Wait => Ok(()),
            Care::Unpause => self.engine.unpause(id).await,
            Care::Start => return self.start(&seen).await,
            Care::Remake(why) => {
                info!(container = %spec.container, why, "the managed registry is made anew; its volume stays");
                self.engine.remove(id).await.map_err(words)?;
                return self.make(spec, &options).await;
            }
        };
        done.map_err(words)
    }

    /// Finds the managed container. Of several, the one with the right name.
    async fn find(&self, spec: &ManagedRegistry) -> Result<Option<SeenContainer>, String> {
        let mut found = self.engine.attendants(&self.record, label::REGISTRY).await.map_err(words)?;
        found.sort_by_key(|seen| (seen.name != spec.container.as_str(), seen.created_at));
        Ok(found.into_iter().next())
    }

    async fn image(&self, name: &str) -> Result<Option<HeldImage>, String> {
        self.engine.image(name).await.map_err(words)
    }

    async fn pull(&self, name: &str) -> Result<(), String> {
        info!(image = name, "pulling the image of the managed registry");
        let pulled = pull_declared(&self.engine, &self.registries, name).await;
        pulled.map_err(|error| format!("its image {name} is not here and cannot be pulled: {error}"))
    }

    async fn make(&mut self, spec: &ManagedRegistry, options: &AttendantOptions) -> Result<(), String> {
        self.make_volume(spec).await?;
        let id = match self.engine.create_attendant(&self.record, options).await {
            Ok(id) => id,
            Err(EngineError::Conflict(_)) => {
                let name = &spec.container;
                return Err(format!(
                    "a container that is not abide's has its name: docker rename {name} OTHER"
                ));
            }
            Err(error) => return Err(format!("its container cannot be made: {error}")),
        };
        info!(container = %spec.container, image = %spec.image, "made the managed registry");
        self.begin(&id).await
    }

    /// Creates its volume if it is missing, unless it held data: an empty registry in its place would look
    /// like one from which everything was deleted.
    async fn make_volume(&self, spec: &ManagedRegistry) -> Result<(), String> {
        let volume = &spec.volume;
        let found = self.engine.volumes(BTreeSet::from([volume.to_string()])).await.map_err(words)?;
        if found.is_empty() && self.is_recorded(spec) {
            return Err(format!(
                "volume {volume}, which held what was pushed, is gone; restore it, or accept an empty one by \
                 `docker volume create {volume}`"
            ));
        }
        self.engine.create_volume(volume.as_str(), &self.record).await.map_err(words)
    }

    /// Whether an environment's record names an image that was pushed there.
    fn is_recorded(&self, spec: &ManagedRegistry) -> bool {
        let is_local = spec.publish.address.is_some_and(|address| address.is_loopback());
        let is_there = |reference: &str| {
            let host = reference.split('/').next().and_then(|host| host.parse::<RegistryHost>().ok());
            // If it is reachable from other hosts, they may use any name for it.
            let is_it = |host: RegistryHost| {
                host.port() == Some(spec.publish.port) && (host.is_loopback() || !is_local)
            };
            host.is_some_and(is_it)
        };
        let manifest = self.manifest.borrow();
        let recorded = manifest.environments.keys().filter_map(|name| self.desired.get(name).ok());
        let mut images = recorded.filter_map(|desired| desired.entry.image);
        images.any(|image| image.digest.is_some() && image.reference.as_deref().is_some_and(is_there))
    }

    async fn start(&mut self, seen: &SeenContainer) -> Result<(), String> {
        if let ContainerState::Exited(exit) = &seen.state {
            let at = self.ends.next_start(seen.started_at, exit.at, now());
            if at > now() {
                return Err(format!(
                    "it ended with exit code {} and is started again after a pause",
                    exit.code
                ));
            }
            self.starts.is_due(now())?;
            info!(container = %seen.name, code = exit.code, "starting the managed registry again");
        }
        self.begin(&seen.id).await
    }

    async fn begin(&mut self, id: &str) -> Result<(), String> {
        self.starts.is_due(now())?;
        let started = self.engine.start(id).await;
        self.starts.note(started.map_err(|error| format!("it cannot be started: {error}")), now())
    }

    /// A container that the manifest no longer declares keeps running, as with environments.
    async fn name_orphan(&self) -> Result<(), String> {
        let found = self.engine.attendants(&self.record, label::REGISTRY).await.map_err(words)?;
        let Some(orphan) = found.first() else { return Ok(()) };
        let name = &orphan.name;
        Err(format!(
            "the manifest no longer declares it; it goes on as it is. If not wanted: docker rm -f {name}"
        ))
    }

    fn tell(&self, kept: Result<(), String>) {
        let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        match kept {
            Ok(()) => {
                if trouble.remove(NAME).is_some() {
                    info!("the managed registry is as declared again");
                }
            }
            Err(why) => {
                let sentence = format!("{NAME}: {why}");
                if trouble.insert(NAME.to_owned(), sentence.clone()).as_ref() != Some(&sentence) {
                    warn!(why, "the managed registry is not as declared");
                }
            }
        }
    }
}

fn words(error: EngineError) -> String {
    error.to_string()
}

fn care(options: &AttendantOptions, seen: &SeenContainer) -> Care {
    if seen.labels.get(label::SPEC) != Some(&options.fingerprint())
        || seen.image.as_ref() != Some(&options.image)
    {
        return Care::Remake("it is not as declared");
    }
    if seen.name != options.name.as_str() {
        return Care::Remake("it has another name");
    }
    if !matches!(seen.restart_policy.as_str(), "" | "no") {
        return Care::OwnRestarts;
    }
    match seen.state {
        ContainerState::Running => Care::None,
        ContainerState::InTransit => Care::Wait,
        ContainerState::Created | ContainerState::Exited(_) => Care::Start,
        ContainerState::Paused => Care::Unpause,
        ContainerState::Dead => Care::Remake("the engine calls it dead"),
    }
}

/// Returns a hash of the mounted files of this host; `None`: there are no such files.
///
/// # Errors
/// Returns a sentence about a file that cannot be read. The engine would create a folder in its place.
async fn content(spec: &ManagedRegistry) -> Result<Option<String>, String> {
    let tls = spec.tls.iter().flat_map(|tls| [("its certificate", &tls.certificate), ("its key", &tls.key)]);
    let files = tls.chain(spec.htpasswd.iter().map(|path| ("its htpasswd", path)));
    let mut hash = None;
    for (what, path) in files {
        let digest = Sha256::digest(host_file::read(what, path).await?);
        hash = Some(hash.unwrap_or_else(Sha256::new).chain_update(digest));
    }
    Ok(hash.map(|hash| hex::encode(hash.finalize())))
}

/// Volumes at the `VOLUME` lines of its image, besides its data volume: they stay when the container is
/// recreated.
fn undeclared(record: &str, paths: &BTreeSet<AbsolutePath>, seen: Option<&SeenContainer>) -> Vec<Mount> {
    let others = paths.iter().filter(|path| path.as_str() != DATA);
    let kept = others.filter_map(|path| {
        let has = seen.and_then(|seen| seen.mounts.volumes.get(path).cloned());
        let volume = has.or_else(|| VolumeName::kept_for(record, label::REGISTRY, path))?;
        Some(Mount::of_volume(volume, path.clone()))
    });
    kept.collect()
}

fn options(
    spec: &ManagedRegistry,
    image: Digest,
    content: Option<String>,
    undeclared: Vec<Mount>,
) -> Result<AttendantOptions, String> {
    let mount = |source: &str, target: &str| {
        Mount::new(source, target).map_err(|error| format!("{source} cannot be mounted: it {error}"))
    };
    let mut mounts = vec![mount(spec.volume.as_str(), DATA)?];
    let mut env = BTreeMap::from([("REGISTRY_STORAGE_DELETE_ENABLED".to_owned(), "true".to_owned())]);
    let mut file = |path: &Path, name: &str, variable: &str| {
        let target = format!("{FILES}/{name}");
        mounts.push(mount(&path.display().to_string(), &target)?.read_only(true));
        env.insert(variable.to_owned(), target);
        Ok::<_, String>(())
    };
    if let Some(tls) = &spec.tls {
        file(&tls.certificate, "certificate.pem", "REGISTRY_HTTP_TLS_CERTIFICATE")?;
        file(&tls.key, "key.pem", "REGISTRY_HTTP_TLS_KEY")?;
    }
    if let Some(htpasswd) = &spec.htpasswd {
        file(htpasswd, "htpasswd", "REGISTRY_AUTH_HTPASSWD_PATH")?;
        env.insert("REGISTRY_AUTH".to_owned(), "htpasswd".to_owned());
        env.insert("REGISTRY_AUTH_HTPASSWD_REALM".to_owned(), "abide".to_owned());
    }
    Ok(AttendantOptions {
        role: label::REGISTRY,
        name: spec.container.clone(),
        image,
        env,
        port: PORT,
        publish: spec.publish,
        mounts,
        undeclared,
        content,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_end_is_mended_at_once_and_later_ones_after_a_pause() {
        let at = Timestamp::from_millis;
        let mut ends = Ends::default();
        assert_eq!(ends.next_start(Some(at(0)), at(1_000), at(1_000)), at(1_000));
        assert_eq!(
            ends.next_start(Some(at(0)), at(1_000), at(1_000)),
            at(1_000),
            "the same end is counted once"
        );
        let second = ends.next_start(Some(at(1_000)), at(2_000), at(2_000));
        assert!(second > at(2_000));
        assert_eq!(
            ends.next_start(Some(at(2_000)), at(700_000), at(700_000)),
            at(700_000),
            "it had run well"
        );
    }

    #[test]
    fn what_fails_again_and_again_is_tried_after_pauses_that_grow_and_at_once_after_a_success() {
        let (mut tries, mut at) = (Tries::default(), Timestamp::from_millis(1));
        let mut pauses = Vec::new();
        for _ in 0..12 {
            assert_eq!(tries.is_due(at), Ok(()));
            tries.note(Err("no".to_owned()), at).unwrap_err();
            assert_eq!(tries.is_due(at), Err("no".to_owned()), "it is told meanwhile");
            let (_, next) = tries.failed.clone().unwrap();
            pauses.push(next.since(at));
            at = next;
        }
        assert!(pauses.is_sorted(), "{pauses:?}");
        assert_eq!(pauses.last(), Some(&LONGEST_PAUSE));
        tries.note(Ok(()), at).unwrap();
        assert_eq!(tries.is_due(at), Ok(()));
        tries.note(Err("no".to_owned()), at).unwrap_err();
        assert_eq!(tries.failed.unwrap().1.since(at), pauses[0]);
    }
}
