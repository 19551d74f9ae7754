//! The managed registry: one container with a volume, kept as the manifest declares it.
//!
//! It is no environment: no record names its image, nothing is promoted to it, and nothing of the
//! environments waits for it. What is in its volume is never touched.

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

/// How often it is looked at: one list by label, which costs the engine next to nothing.
const LOOK: Duration = Duration::from_secs(2);
/// Uptime after which an end is the first one again, as for environments.
const HEALTHY: Duration = Duration::from_secs(600);
/// However often a pull or a start fails, it is tried again after this long, as with the front.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// Where the program listens in its container, and keeps what was pushed.
const PORT: u16 = 5000;
const DATA: &str = "/var/lib/registry";
/// Where files of this host are mounted in it.
const FILES: &str = "/etc/abide-registry";
/// Under which name its trouble is told.
const NAME: &str = "the managed registry";

/// Keeps the managed registry.
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

/// Pulls or starts that failed, one after the other.
#[derive(Clone, Debug, Default)]
pub(super) struct Tries {
    failures: u32,
    /// Why the last one failed, and when the next one is due.
    failed: Option<(String, Timestamp)>,
}

impl Tries {
    /// # Errors
    /// Why the last try failed, where the next one is not due yet.
    fn is_due(&self, now: Timestamp) -> Result<(), String> {
        match &self.failed {
            Some((why, next)) if *next > now => Err(why.clone()),
            _ => Ok(()),
        }
    }

    /// Notes how a try ended `now`, and passes that on.
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

/// How often its process ended, one time soon after the other.
#[derive(Clone, Debug, Default)]
pub(super) struct Ends {
    count: u32,
    /// The end that was counted last.
    last: Option<Timestamp>,
    start_at: Option<Timestamp>,
}

impl Ends {
    /// When it may be started again after it ended `at`, having run since `started`. The first time
    /// at once, later ones after a pause that grows.
    /// The pause begins `now`, as the end is seen: `at` is by the engine's clock, which somebody may have set.
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

/// What a container needs.
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
    /// Keeps it until dropped.
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

    /// One look, and what follows from it.
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

    /// Our container. Of several, the one that has the name.
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

    /// Makes its volume where there is none, but for one that held data: an empty registry in its place
    /// would look like one from which everything was deleted.
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
            // Where others reach it too, they may do so by any name.
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

    /// One that the manifest does not declare any more goes on, as environments do.
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

/// A hash of what is in the files of this host that it is given; `None`: it is given none.
///
/// # Errors
/// A sentence about a file that cannot be read. The engine would make a folder in its place.
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

/// Volumes at the `VOLUME` lines of its image beside that of its data: they stay when it is made anew.
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
