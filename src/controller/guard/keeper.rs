//! Keeps the guard's container running.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tracing::{info, warn};

use super::Guard;
use crate::controller::cache::watch::EngineState;
use crate::controller::docker::guard::{GuardOptions, PROGRAM};
use crate::controller::docker::{Engine, EngineError};
use crate::controller::polling::PollErrors;
use crate::model::container::label;
use crate::model::name::ContainerName;
use crate::model::observed::{ContainerState, ObservedContainer};
use crate::model::spec::{GuardMode, Manifest};

/// The interval of checks if nothing changes.
const CHECK: Duration = Duration::from_secs(60);
/// The pause after a failure.
const RETRY: Duration = Duration::from_secs(5);
/// The key of the guard's warning.
const NAME: &str = "the guard";

/// Maintains the guard's container.
#[derive(Clone)]
pub(in crate::controller) struct GuardReconciler {
    pub(in crate::controller) guard: Guard,
    pub(in crate::controller) engine: Arc<Engine>,
    pub(in crate::controller) record: String,
    pub(in crate::controller) manifest: watch::Receiver<Arc<Manifest>>,
    pub(in crate::controller) engine_state: watch::Receiver<EngineState>,
    pub(in crate::controller) trouble: PollErrors,
}

impl GuardReconciler {
    /// Maintains the container until dropped.
    pub(in crate::controller) async fn run(mut self) {
        loop {
            let is_known = *self.engine_state.borrow_and_update() == EngineState::Known;
            let mode = self.manifest.borrow_and_update().guard;
            let kept = match mode {
                _ if !is_known => None,
                GuardMode::On if self.guard.is_needed() => Some(self.keep().await),
                GuardMode::On => None,
                GuardMode::Off => Some(self.remove_all().await.map_err(|error| error.to_string())),
            };
            let pause = if matches!(kept, Some(Err(_))) { RETRY } else { CHECK };
            if let Some(kept) = kept {
                self.note_result(kept);
            }
            tokio::select! {
                () = self.guard.changed() => {}
                Ok(()) = self.manifest.changed() => {}
                Ok(()) = self.engine_state.changed() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Creates the container if it is missing. Called as abide ends, because the next check will not come.
    pub(in crate::controller) async fn keep_last(&self) {
        let is_on = self.manifest.borrow().guard == GuardMode::On;
        let is_known = *self.engine_state.borrow() == EngineState::Known;
        if is_on && is_known && self.guard.is_needed() {
            self.note_result(self.keep().await);
        }
    }

    /// Checks the guard's container, and creates or replaces it if necessary.
    ///
    /// # Errors
    /// A sentence that explains why the guard does not run.
    async fn keep(&self) -> Result<(), String> {
        if let Some(trouble) = self.guard.trouble() {
            return Err(trouble);
        }
        let options = self.options()?;
        let found = self.engine.auxiliaries(&self.record, label::GUARD).await.map_err(words)?;
        let found = found.into_iter().map(|found| found.seen);
        let (fit, others): (Vec<_>, Vec<_>) = found.partition(|seen| is_as_made(seen, &options));
        for other in others.iter().chain(fit.iter().skip(1)) {
            self.engine.remove(&other.id).await.map_err(words)?;
        }
        match fit.first() {
            None => self.make(&options).await,
            Some(seen) => self.repair(seen).await.map_err(words),
        }
    }

    fn options(&self) -> Result<GuardOptions, String> {
        if !PROGRAM.is_available() {
            return Err("this build of abide does not include its program".to_owned());
        }
        let socket = self.engine.socket();
        let socket = socket.ok_or("the engine is not connected over a Unix socket of this host")?;
        let folder = std::path::absolute(self.guard.folder()).map_err(|error| error.to_string())?;
        if folder.to_string_lossy().contains(':') {
            return Err(format!(
                "the engine cannot mount a folder with a colon in its path: {}",
                folder.display()
            ));
        }
        let mark: String = self.record.chars().filter(char::is_ascii_alphanumeric).take(8).collect();
        let name = ContainerName::new(format!("abide-guard-{mark}")).map_err(|error| error.to_string())?;
        Ok(GuardOptions { name, record: self.record.clone(), folder, socket, image: PROGRAM.image() })
    }

    async fn make(&self, options: &GuardOptions) -> Result<(), String> {
        self.same_kernel().await?;
        if self.engine.image_id(&options.image).await.map_err(words)?.is_none() {
            self.engine.load_program(&PROGRAM).await.map_err(words)?;
        }
        let id = match self.engine.create_guard(options).await {
            Err(EngineError::Conflict(_)) => {
                let name = &options.name;
                return Err(format!("an unmanaged container has its name: docker rename {name} OTHER"));
            }
            created => created.map_err(words)?,
        };
        if let Err(error) = self.engine.start(&id).await {
            // A container that cannot be started now cannot be started later either. A new one may work.
            let _ = self.engine.remove(&id).await;
            return Err(error.to_string());
        }
        info!(container = %options.name, "created the guard, which restarts containers while abide is \
            down");
        Ok(())
    }

    /// Returns an error if the engine runs on another kernel. Only processes of the same kernel see a lock on
    /// a file, and a virtual machine has its own kernel.
    async fn same_kernel(&self) -> Result<(), String> {
        let own = tokio::fs::read_to_string("/proc/sys/kernel/osrelease").await.unwrap_or_default();
        match self.engine.kernel().await.map_err(words)? {
            Some(of_engine) if of_engine != own.trim() => {
                Err("the engine and abide run on different kernels".to_owned())
            }
            _ => Ok(()),
        }
    }

    async fn repair(&self, seen: &ObservedContainer) -> Result<(), EngineError> {
        if seen.restart_policy != "always" {
            self.engine.set_restarts(&seen.id, true).await?;
        }
        match seen.state {
            ContainerState::Paused => self.engine.unpause(&seen.id).await,
            ContainerState::Created | ContainerState::Exited(_) => self.engine.start(&seen.id).await,
            ContainerState::Dead => self.engine.remove(&seen.id).await,
            ContainerState::Running | ContainerState::InTransit => Ok(()),
        }
    }

    async fn remove_all(&self) -> Result<(), EngineError> {
        for guard in self.engine.auxiliaries(&self.record, label::GUARD).await? {
            info!(container = %guard.seen.name, "the manifest disables the guard; removing it");
            self.engine.remove(&guard.seen.id).await?;
        }
        Ok(())
    }

    fn note_result(&self, kept: Result<(), String>) {
        let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        match kept {
            Ok(()) => drop(trouble.remove(NAME)),
            Err(why) => {
                let sentence = format!(
                    "some containers would not be restarted while abide is stopped or killed, because \
                    {NAME} cannot run: {why}. Set `guard = false` in [docker] to accept that"
                );
                if trouble.insert(NAME.to_owned(), sentence.clone()).as_ref() != Some(&sentence) {
                    warn!(why, "the guard is not running");
                }
            }
        }
    }
}

fn is_as_made(seen: &ObservedContainer, options: &GuardOptions) -> bool {
    seen.labels.get(label::SPEC) == Some(&options.fingerprint()) && seen.state != ContainerState::Dead
}

fn words(error: EngineError) -> String {
    error.to_string()
}
