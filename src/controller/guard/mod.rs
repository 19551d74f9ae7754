//! The guard restarts containers while abide is not running.
//!
//! While abide runs, only abide restarts containers, and their restart policy is `no`. After that the engine
//! restarts them, by the policy `always`, which [`Guard::hand_over`] sets as abide stops. If abide was
//! killed, `program.rs` sets the policy. It runs in a small container, which [`GuardReconciler`] maintains. The
//! program also does what a policy cannot: it starts a sandbox before the container that joins it, and gives
//! the front the addresses that containers have after an engine restart.
//!
//! Both use a folder in the record. Its files list the containers that are meant to run, and a lock in it
//! shows whether abide runs. The kernel releases the lock however abide ends.

mod group;
mod keeper;
// A separate program; here only its tests use parts of it.
#[cfg(test)]
#[allow(dead_code, clippy::print_stdout)]
mod program;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt as _;
use tokio::sync::Notify;
use tracing::warn;

use super::docker::Engine;
use super::front::Configuration;
use crate::durable;
use crate::model::name::EnvironmentName;
use crate::model::spec::Manifest;
pub(super) use group::GuardGroup;
pub(super) use keeper::GuardReconciler;

/// The file whose lock shows that abide runs.
const ALIVE: &str = "alive";
/// The file that shows that abide was stopped on purpose, so that the guard need not wait.
const HANDED_OVER: &str = "handed-over";
/// The prefix of the file names of environments.
const ENVIRONMENT: &str = "environment.";
/// The file of the managed registry.
const REGISTRY: &str = "registry";
/// The file of the front.
const FRONT: &str = "front";

/// Attempts to take the lock, and the pause between them: the guard holds the lock for a moment during its
/// check.
const LOCK_ATTEMPTS: u32 = 40;
const LOCK_PAUSE: Duration = Duration::from_millis(25);
/// The time limit of a handover. A supervisor waits longer than this for abide to end.
const HAND_OVER: Duration = Duration::from_secs(10);
/// Containers whose policy is set concurrently.
const AT_ONCE: usize = 8;

/// Writes the guard's inputs. Cheap to clone.
#[derive(Clone)]
pub(super) struct Guard {
    shared: Arc<GuardInner>,
}

struct GuardInner {
    folder: PathBuf,
    state: Mutex<GuardState>,
    changed: Notify,
}

#[derive(Default)]
struct GuardState {
    /// Held for as long as abide runs.
    lock: Option<File>,
    /// The text of each file, as written.
    files: BTreeMap<String, String>,
    groups: BTreeMap<String, GuardGroup>,
    /// The reason why the folder cannot be written.
    trouble: Option<String>,
}

impl Guard {
    /// Takes the lock in `folder`, so that an active guard stops. If that fails, abide runs without a guard
    /// and reports the reason.
    pub(super) fn open(folder: &Path) -> Self {
        let mut state = GuardState::default();
        match prepare(folder) {
            Ok((lock, files)) => (state.lock, state.files) = (Some(lock), files),
            Err(error) => {
                let place = folder.display();
                state.trouble = Some(format!("cannot use its folder {place}: {error}"));
            }
        }
        let shared =
            GuardInner { folder: folder.to_owned(), state: Mutex::new(state), changed: Notify::new() };
        Self { shared: Arc::new(shared) }
    }

    /// Returns a guard that accepts all calls and writes nothing.
    #[cfg(test)]
    pub(super) fn none() -> Self {
        let shared = GuardInner { folder: PathBuf::new(), state: Mutex::default(), changed: Notify::new() };
        Self { shared: Arc::new(shared) }
    }

    /// Sets the container of an environment that is meant to run; `None` if it has none.
    pub(super) fn set(&self, environment: &EnvironmentName, group: Option<GuardGroup>) {
        self.put_group(&format!("{ENVIRONMENT}{environment}"), group);
    }

    /// Sets the container of the managed registry.
    pub(super) fn set_registry(&self, container: Option<String>) {
        let group = container.map(|container| GuardGroup {
            container,
            sandbox: None,
            is_beside: true,
            may_end: false,
        });
        self.put_group(REGISTRY, group);
    }

    /// Sets the front's container and the configuration that it serves; `None` without a front.
    pub(super) fn set_front(&self, front: Option<(&str, &Manifest, &Configuration)>) {
        let text = front.map(|(id, manifest, served)| {
            group::front_text(id, |environment| manifest.network_of(environment), served)
        });
        self.put(&mut self.state(), FRONT, text);
    }

    /// Forgets environments that abide does not run on this host any more.
    pub(super) fn retain(&self, environments: &BTreeSet<EnvironmentName>) {
        let mut state = self.state();
        let is_left = |name: &&String| {
            let environment = name.strip_prefix(ENVIRONMENT).map(EnvironmentName::new);
            environment.is_some_and(|name| !name.is_ok_and(|name| environments.contains(&name)))
        };
        for name in state.files.keys().filter(is_left).cloned().collect::<Vec<_>>() {
            state.groups.remove(&name);
            self.put(&mut state, &name, None);
        }
    }

    /// From now on the engine restarts the containers that are meant to run. Releases the lock. A failure
    /// does not keep abide from ending, because the guard does the rest.
    pub(super) async fn hand_over(&self, engine: &Engine) {
        let groups: Vec<GuardGroup> = self.state().groups.values().cloned().collect();
        let set = futures::stream::iter(groups).for_each_concurrent(AT_ONCE, |group| async move {
            if let Err(error) = give_to_engine(engine, &group).await {
                warn!(container = group.container, %error, "cannot hand the restarts of a container over \
                    to the engine");
            }
        });
        if tokio::time::timeout(HAND_OVER, set).await.is_err() {
            warn!("handing the restarts over to the engine timed out; the guard does the rest");
        }
        let mut state = self.state();
        if let Err(error) = durable::create(&self.shared.folder.join(HANDED_OVER), durable::PRIVATE) {
            warn!(%error, "cannot notify the guard of the stop; it acts a little later");
        }
        state.lock = None;
    }

    fn put_group(&self, name: &str, group: Option<GuardGroup>) {
        let mut state = self.state();
        let text = group.as_ref().map(GuardGroup::text);
        match group {
            Some(group) => drop(state.groups.insert(name.to_owned(), group)),
            None => drop(state.groups.remove(name)),
        }
        self.put(&mut state, name, text);
    }

    /// Writes or removes a file, unless it is already up to date.
    fn put(&self, state: &mut GuardState, name: &str, text: Option<String>) {
        if state.lock.is_none() || state.files.get(name) == text.as_ref() {
            return;
        }
        let path = self.shared.folder.join(name);
        let put = match &text {
            Some(text) => durable::replace_unsynced(&path, durable::PRIVATE, text.as_bytes()),
            None => fs::remove_file(&path),
        };
        let place = path.display();
        state.trouble = put.err().map(|error| format!("cannot write {place}: {error}"));
        if state.trouble.is_none() {
            match text {
                Some(text) => drop(state.files.insert(name.to_owned(), text)),
                None => drop(state.files.remove(name)),
            }
            self.shared.changed.notify_one();
        }
    }

    /// Returns whether there is anything to guard.
    fn is_needed(&self) -> bool {
        !self.state().files.is_empty()
    }

    fn trouble(&self) -> Option<String> {
        self.state().trouble.clone()
    }

    fn folder(&self) -> &Path {
        &self.shared.folder
    }

    async fn changed(&self) {
        self.shared.changed.notified().await;
    }

    fn state(&self) -> MutexGuard<'_, GuardState> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sets the policy of a group. The sandbox comes first, because a container whose sandbox does not return
/// cannot be started.
async fn give_to_engine(engine: &Engine, group: &GuardGroup) -> Result<(), super::docker::EngineError> {
    if (!group.is_beside || group.may_end) && !is_up(engine, &group.container).await? {
        // Another version may be running in its place during a rollout. The guard checks which one.
        return Ok(());
    }
    if let Some(id) = &group.sandbox {
        engine.set_restarts(id, true).await?;
    }
    match group.may_end {
        true => engine.set_restart_policy(&group.container, "on-failure").await,
        false => engine.set_restarts(&group.container, true).await,
    }
}

async fn is_up(engine: &Engine, id: &str) -> Result<bool, super::docker::EngineError> {
    use crate::model::observed::ContainerState::{InTransit, Paused, Running};
    let seen = engine.inspect(id).await?;
    Ok(seen.is_some_and(|seen| matches!(seen.state, Running | Paused | InTransit)))
}

/// Creates the folder and takes its lock. Returns the lock and the files that an earlier process left.
fn prepare(folder: &Path) -> io::Result<(File, BTreeMap<String, String>)> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let path = folder.join(ALIVE);
    let mut options = OpenOptions::new();
    let options = options.write(true).create(true).truncate(false).mode(durable::PRIVATE);
    let lock = durable::open(&path, options)?;
    take(&lock)?;
    match fs::remove_file(folder.join(HANDED_OVER)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(folder)? {
        let Ok(name) = entry?.file_name().into_string() else { continue };
        if name == FRONT || name == REGISTRY || name.starts_with(ENVIRONMENT) {
            files.insert(name.clone(), fs::read_to_string(folder.join(&name)).unwrap_or_default());
        }
    }
    Ok((lock, files))
}

fn take(lock: &File) -> io::Result<()> {
    for _ in 1..LOCK_ATTEMPTS {
        match lock.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::WouldBlock) => std::thread::sleep(LOCK_PAUSE),
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
    Ok(lock.try_lock()?)
}

#[cfg(test)]
mod tests;
