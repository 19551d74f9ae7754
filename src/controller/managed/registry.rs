//! The managed registry: one container with a volume, kept as the manifest declares it.
//!
//! It is not an environment: no record names its image, nothing is promoted to it, and no environment waits
//! for it. The contents of its volume are never touched.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use tokio::sync::{Notify, watch};
use tracing::{info, warn};

use super::{Managed, NextAction, Obstacle};
use crate::controller::docker::{
    AuxiliaryImage, AuxiliaryNetwork, AuxiliarySpec, Engine, EngineError, HeldImage,
};
use crate::controller::guard::Guard;
use crate::controller::host_file;
use crate::controller::jobs::registries::Registries;
use crate::controller::polling::PollErrors;
use crate::model::container::label;
use crate::model::mount::{AbsolutePath, Mount, VolumeName};
use crate::model::name::Digest;
use crate::model::observed::{ContainerState, ObservedContainer};
use crate::model::reference::RegistryHost;
use crate::model::spec::{ManagedRegistry, Manifest};
use crate::record::DesiredReader;

/// How often it is checked if it is declared: one inspect.
const LOOK: Duration = Duration::from_secs(2);
/// How often the container of a registry that is no longer declared is looked for until it is removed: one list
/// of all containers.
const LOOK_FOR_ORPHAN: Duration = Duration::from_secs(30);
/// The port of the program in its container, and the folder of the pushed data.
const PORT: u16 = 5000;
const DATA: &str = "/var/lib/registry";
/// The mount point for files of this host.
const FILES: &str = "/etc/abide-registry";
/// The name under which its errors are reported.
const NAME: &str = "the managed registry";

/// More than the steps from no container to a running one.
const ROUNDS: usize = 8;

/// Reconciles the managed registry.
pub(in crate::controller) struct RegistryReconciler {
    pub(in crate::controller) engine: Arc<Engine>,
    pub(in crate::controller) guard: Guard,
    pub(in crate::controller) record: String,
    pub(in crate::controller) desired: DesiredReader,
    pub(in crate::controller) manifest: watch::Receiver<Arc<Manifest>>,
    pub(in crate::controller) trouble: PollErrors,
    container: Managed,
    /// Notified when a pull of its image ends.
    pulled: Arc<Notify>,
}

impl RegistryReconciler {
    pub(in crate::controller) fn new(
        engine: Arc<Engine>,
        registries: Arc<Registries>,
        guard: Guard,
        record: String,
        desired: DesiredReader,
        manifest: watch::Receiver<Arc<Manifest>>,
        trouble: PollErrors,
    ) -> Self {
        let pulled = Arc::new(Notify::new());
        let (of, notified) = (Arc::clone(&engine), Arc::clone(&pulled));
        let container = Managed::new(of, registries, record.clone(), label::REGISTRY, notified);
        Self { engine, guard, record, desired, manifest, trouble, container, pulled }
    }

    /// Reconciles it until dropped.
    pub(in crate::controller) async fn run(mut self) {
        loop {
            let declared = self.manifest.borrow_and_update().registry.clone();
            let kept = match &declared {
                Some(spec) => self.keep(spec).await,
                None => {
                    self.guard.set_registry(None);
                    self.name_orphan().await
                }
            };
            // Without a declaration, only a change of the manifest can make new work.
            let look = match (&declared, &kept) {
                (Some(_), _) => Some(LOOK),
                (None, Err(_)) => Some(LOOK_FOR_ORPHAN),
                (None, Ok(())) => None,
            };
            self.note_result(kept);
            tokio::select! {
                changed = self.manifest.changed() => match changed {
                    Ok(()) => self.container.retry(),
                    Err(_) => return,
                },
                () = self.pulled.notified() => {}
                () = sleep_for(look) => {}
            }
        }
    }

    /// Checks it once, and repairs it.
    async fn keep(&mut self, declared: &ManagedRegistry) -> Result<(), String> {
        let found = self.container.find(&declared.container).await.map_err(words)?;
        let present = found.as_ref().and_then(|found| found.seen.image.clone());
        let (image, missing) = match (self.container.image(&declared.image).await, present) {
            (Ok(image), _) => (image, None),
            // Until the declared image is here, the container that exists is repaired as it is.
            (Err(missing @ Obstacle::Down(_)), Some(id)) => {
                (HeldImage { id, volumes: BTreeSet::new(), platform: None }, Some(missing))
            }
            (Err(obstacle), _) => return Err(obstacle.to_string()),
        };
        let undeclared = undeclared(&self.record, &image.volumes, found.as_ref().map(|found| &found.seen));
        let spec = specification(declared, image.id, content(declared).await?, undeclared)?;
        self.repair(declared, &spec).await?;
        missing.map_or(Ok(()), |missing| Err(missing.to_string()))
    }

    async fn repair(&mut self, declared: &ManagedRegistry, spec: &AuxiliarySpec) -> Result<(), String> {
        for _ in 0..ROUNDS {
            let next = self.container.next(spec, &declared.image).await.map_err(|why| why.to_string())?;
            let done = match next {
                NextAction::None(id) => {
                    self.guard.set_registry(Some(id));
                    return Ok(());
                }
                NextAction::Keep(_, why) => return Err(why),
                NextAction::Create => {
                    self.make_volume(declared).await?;
                    self.container.create(spec, &declared.image).await
                }
                NextAction::Start(seen) => {
                    let last = match &seen.seen.state {
                        ContainerState::Exited(exit) => self.container.why_ended(&seen.seen, exit).await,
                        _ => String::new(),
                    };
                    match self.container.may_start(&seen, &last, false) {
                        Ok(()) => self.container.start(&seen.seen.id, &last).await,
                        waits => waits,
                    }
                }
            };
            done.map_err(|why| why.to_string())?;
        }
        Err(format!("the container {} keeps changing", spec.name))
    }

    /// Creates its volume if it is missing, unless it held data: an empty registry in its place would look
    /// like one from which everything was deleted.
    async fn make_volume(&self, spec: &ManagedRegistry) -> Result<(), String> {
        let volume = &spec.volume;
        let found = self.engine.volumes(BTreeSet::from([volume.to_string()])).await.map_err(words)?;
        if found.is_empty() && self.is_recorded(spec) {
            return Err(format!(
                "volume {volume}, which had pushed images, is missing: restore it, or accept an empty \
                one with `docker volume create {volume}`"
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

    /// A container that the manifest no longer declares stays as it is, as with environments.
    async fn name_orphan(&self) -> Result<(), String> {
        let found = self.container.all().await.map_err(words)?;
        let Some(orphan) = found.first() else { return Ok(()) };
        let (name, state) = (&orphan.seen.name, orphan.seen.state.clause());
        Err(format!(
            "it is no longer in the manifest, and its container {state}. To remove it: docker rm -f {name}"
        ))
    }

    fn note_result(&self, kept: Result<(), String>) {
        let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        match kept {
            Ok(()) => {
                if trouble.remove(NAME).is_some() {
                    info!("the managed registry is healthy again");
                }
            }
            Err(why) => {
                let sentence = format!("{NAME}: {why}");
                if trouble.insert(NAME.to_owned(), sentence.clone()).as_ref() != Some(&sentence) {
                    warn!(why, "the managed registry has a problem");
                }
            }
        }
    }
}

/// Sleeps for ever without a duration.
async fn sleep_for(pause: Option<Duration>) {
    match pause {
        Some(pause) => tokio::time::sleep(pause).await,
        None => std::future::pending().await,
    }
}

fn words(error: EngineError) -> String {
    error.to_string()
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
fn undeclared(record: &str, paths: &BTreeSet<AbsolutePath>, seen: Option<&ObservedContainer>) -> Vec<Mount> {
    let others = paths.iter().filter(|path| path.as_str() != DATA);
    let kept = others.filter_map(|path| {
        let has = seen.and_then(|seen| seen.mounts.volumes.get(path).cloned());
        let volume = has.or_else(|| VolumeName::kept_for(record, label::REGISTRY, path))?;
        Some(Mount::of_volume(volume, path.clone()))
    });
    kept.collect()
}

fn specification(
    spec: &ManagedRegistry,
    image: Digest,
    content: Option<String>,
    undeclared: Vec<Mount>,
) -> Result<AuxiliarySpec, String> {
    let mount = |source: &str, target: &str| {
        Mount::new(source, target).map_err(|error| format!("cannot mount {source}: it {error}"))
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
    Ok(AuxiliarySpec {
        role: label::REGISTRY,
        name: spec.container.clone(),
        image: AuxiliaryImage::Exact(image),
        env,
        network: AuxiliaryNetwork::Published { port: PORT, publish: spec.publish },
        mounts,
        undeclared,
        content,
        command: Vec::new(),
        stop_signal: None,
        root_with: None,
        is_stateless: false,
    })
}
