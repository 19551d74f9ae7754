//! The last output of containers, and the secrets that it may contain.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::reconciler::Reconciler;
use crate::controller::clock::now;
use crate::model::container::Secret;
use crate::model::memory::Memory;
use crate::model::mount::AbsolutePath;
use crate::model::observed::{ContainerState, ObservedContainer, Readiness};
use crate::model::one_off::HookResult;
use crate::model::secret_file::WrittenFile;
use crate::plan::Intent;

/// The contents of the secret files of containers, by container. An inspect does not show them, and the manifest's
/// secret may have another value by now.
#[derive(Default)]
pub(in crate::controller) struct SecretFileCache(Mutex<HashMap<String, Vec<Secret>>>);

impl SecretFileCache {
    fn known(&self) -> MutexGuard<'_, HashMap<String, Vec<Secret>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes the files that abide wrote into a container.
    pub(super) fn wrote(&self, id: &str, files: &[WrittenFile]) {
        let contents = files.iter().map(|file| file.content.clone()).collect();
        self.known().insert(id.to_owned(), contents);
    }

    /// Drops the notes about a removed container.
    pub(super) fn forget(&self, id: &str) {
        self.known().remove(id);
    }
}

impl Reconciler {
    /// Adds the contents of their secret files to containers, so that no message shows them. A daemon that did not
    /// write them itself reads them once.
    pub(super) async fn with_secrets(
        &self,
        mut containers: Vec<ObservedContainer>,
        intent: &Intent,
        memory: &Memory,
    ) -> Vec<ObservedContainer> {
        let of_good = memory.good.as_ref().and_then(|good| good.declared.as_ref());
        let declared = intent.declared.iter().chain(of_good);
        let files = declared.flat_map(|declared| declared.spec.run.secrets.values());
        let mut targets: Vec<AbsolutePath> = files.map(|file| file.target.clone()).collect();
        targets.sort();
        targets.dedup();
        if targets.is_empty() {
            return containers;
        }
        for container in &mut containers {
            container.secret_files = self.secret_files_of(container, &targets).await;
        }
        containers
    }

    async fn secret_files_of(&self, container: &ObservedContainer, targets: &[AbsolutePath]) -> Vec<Secret> {
        if let Some(known) = self.secret_files.known().get(&container.id) {
            return known.clone();
        }
        let mut found = Vec::new();
        for target in targets {
            match self.engine.read_file(&container.id, target.as_str()).await {
                Ok(file) => {
                    found.extend(file.and_then(|file| String::from_utf8(file.content).ok()).map(Secret::new));
                }
                // The next reconcile reads it again.
                Err(_) => return found,
            }
        }
        // Until its first start, the files may be missing.
        if container.started_at.is_some() {
            self.secret_files.known().insert(container.id.clone(), found.clone());
        }
        found
    }

    /// Adds their last output to the containers that ended, or that should be ready by now and are not: it
    /// is the best hint at the cause.
    pub(super) async fn with_output(
        &self,
        mut containers: Vec<ObservedContainer>,
        probes: &BTreeMap<String, Readiness>,
        intent: &Intent,
        memory: &Memory,
    ) -> Vec<ObservedContainer> {
        // The first crash of a good container is healed without reading its output: each call would delay
        // that.
        let is_first_crash = |id: &String| {
            memory.crashes.exits == 0 && memory.good.as_ref().is_some_and(|good| good.container == *id)
        };
        for container in &mut containers {
            let started = container.started_at.unwrap_or(container.created_at);
            let is_due = now() >= started.after(intent.health.start_deadline);
            let misses = |seen: &Readiness| seen.misses > 0 && seen.answering_since.is_none();
            let has_ended = matches!(container.state, ContainerState::Exited(_));
            if has_ended && !is_first_crash(&container.id)
                || is_due && probes.get(&container.id).is_some_and(misses)
            {
                container.last_output = self.cache.last_output(&self.engine, &container.id).await;
            }
        }
        containers
    }

    /// Adds their last output to the containers of commands whose result is not noted yet.
    pub(super) async fn one_offs_with_output(
        &self,
        mut one_offs: Vec<ObservedContainer>,
        memory: &Memory,
    ) -> Vec<ObservedContainer> {
        let is_noted = |id: &String| {
            memory
                .hooks
                .iter()
                .any(|run| run.container == *id && !matches!(run.result, HookResult::Started(_)))
        };
        let is_settled = |id: &String| {
            let mut runs = memory.jobs.values().flat_map(|state| &state.runs);
            runs.any(|run| run.container.as_ref() == Some(id) && run.result.is_settled())
        };
        let is_noted = |id: &String| is_noted(id) || is_settled(id);
        for container in one_offs.iter_mut().filter(|seen| seen.started_at.is_some() && !is_noted(&seen.id)) {
            container.last_output = self.cache.last_output(&self.engine, &container.id).await;
        }
        one_offs
    }
}
