//! Collects evidence from other services for the gates of promotions: the checks of a commit, and signatures.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::Instant;
use tracing::warn;

use super::signatures;
use super::{Healthy, Promoter, PromoterInput};
use crate::controller::clock::now;
use crate::controller::polling::PollErrors;
use crate::model::checks::{ChecksQuery, RequiredCheck};
use crate::model::error::chain;
use crate::model::evidence::{CheckState, Evidence, EvidenceFinding};
use crate::model::gates::SignatureKey;
use crate::model::name::{BranchName, CommitId, EnvironmentName, Generation};
use crate::model::spec::{ForgeSpec, Manifest};
use crate::plan::checks::state_of;

/// The interval of asking while something is missing.
const ASK_AGAIN: Duration = Duration::from_secs(30);
/// The interval of asking after everything was found. A check may be repeated.
const ASK_AGAIN_IF_FOUND: Duration = Duration::from_secs(300);
/// The shortest time between two collections, however often something changes.
const AT_LEAST_BETWEEN: Duration = Duration::from_secs(2);

/// The evidence that promotions from one environment need from other services.
#[derive(Clone, Default)]
struct RequiredEvidence {
    /// The names of checks, and the forge and branch that report them.
    checks: BTreeSet<String>,
    forge: Option<(ForgeSpec, BranchName)>,
    /// The keys that must have signed the image.
    keys: Vec<SignatureKey>,
}

/// A running or past collection. Dropping it ends it.
pub(super) struct Collection {
    generation: Generation,
    task: JoinHandle<bool>,
    begun: Instant,
    next: Option<Instant>,
}

impl Drop for Collection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl RequiredEvidence {
    fn of(from: &EnvironmentName, manifest: &Manifest) -> Self {
        let mut wanted = Self::default();
        for (_, spec) in manifest.promoted_to(from) {
            wanted.checks.extend(spec.gates.checks.iter().cloned());
            let keys = spec.gates.signed_by.iter().filter(|key| key.mark().is_some());
            for key in keys {
                if !wanted.keys.iter().any(|known| known.mark() == key.mark()) {
                    wanted.keys.push(key.clone());
                }
            }
        }
        let branch = manifest.built_in(from).map(|(_, branch)| branch.clone());
        wanted.forge = manifest.forge_of(from).map(|(_, forge)| forge.clone()).zip(branch);
        wanted
    }

    fn is_empty(&self) -> bool {
        self.checks.is_empty() && self.keys.is_empty()
    }
}

impl Promoter {
    /// Starts the collections that are due, and ends those that nobody wants any more.
    pub(super) async fn collect(&mut self, manifest: &Manifest, changed: &BTreeSet<EnvironmentName>) {
        let mut kept = BTreeMap::new();
        let mut former = std::mem::take(&mut self.state.collections);
        let needing = manifest
            .environments
            .iter()
            .filter(|(_, spec)| !spec.gates.checks.is_empty() || spec.gates.signed_by.is_some());
        let sources: BTreeSet<&EnvironmentName> =
            needing.filter_map(|(to, _)| manifest.promoted_from(to)).collect();
        for name in sources {
            let wanted = RequiredEvidence::of(name, manifest);
            let Some(healthy) = self.state.healthy.get(name).filter(|_| !wanted.is_empty()) else { continue };
            let generation = healthy.desired.entry.generation;
            let is_changed = changed.contains(name) || self.state.postponed.contains(name);
            let at = Instant::now();
            let before = former.remove(name).filter(|before| before.generation == generation);
            if let Some(before) = before {
                let before = before.ended(at).await;
                let is_fresh = at.duration_since(before.begun) < AT_LEAST_BETWEEN;
                let is_due = is_changed || before.next.is_some_and(|next| next <= at);
                if before.next.is_none() || is_fresh || !is_due {
                    // A change during a collection is handled after it.
                    if is_changed {
                        self.state.postponed.insert(name.clone());
                    }
                    kept.insert(name.clone(), before);
                    continue;
                }
            }
            self.state.postponed.remove(name);
            let job = Collector {
                input: self.input.clone(),
                errors: Arc::clone(&self.errors),
                name: name.clone(),
                healthy: healthy.clone(),
                wanted,
            };
            let task = tokio::spawn(job.run());
            kept.insert(name.clone(), Collection { generation, task, begun: at, next: None });
        }
        self.state.collections = kept;
    }
}

impl Collection {
    /// The same collection; once it has ended, with the time of the next one.
    async fn ended(mut self, now: Instant) -> Self {
        if self.next.is_none() && self.task.is_finished() {
            // A panic has already been logged.
            let is_complete = (&mut self.task).await.unwrap_or(false);
            self.next = Some(now + if is_complete { ASK_AGAIN_IF_FOUND } else { ASK_AGAIN });
        }
        self
    }
}

/// One collection.
struct Collector {
    input: PromoterInput,
    errors: PollErrors,
    name: EnvironmentName,
    healthy: Healthy,
    wanted: RequiredEvidence,
}

impl Collector {
    /// Returns whether everything was found.
    async fn run(self) -> bool {
        let checked = self.checks().await;
        self.report("checks", &checked);
        let signed = self.signatures().await;
        self.report("signatures", &signed);
        checked == Ok(true) && signed == Ok(true)
    }

    /// Shows in the status why evidence cannot be collected.
    fn report(&self, what: &str, result: &Result<bool, String>) {
        let name = format!("{what} for promotions from {}", self.name);
        let mut errors = self.errors.lock().unwrap_or_else(PoisonError::into_inner);
        let Err(why) = result else {
            errors.remove(&name);
            return;
        };
        let sentence = format!("{name}: {why}");
        if errors.insert(name, sentence.clone()).as_ref() != Some(&sentence) {
            warn!(environment = %self.name, why, "cannot collect evidence");
        }
    }

    /// Records the states of checks that changed. Returns whether all of them passed.
    async fn checks(&self) -> Result<bool, String> {
        if self.wanted.checks.is_empty() {
            return Ok(true);
        }
        let revision = self.healthy.desired.entry.revision.as_ref();
        let revision = revision.ok_or("its image has no known commit, so it has no checks")?;
        let (forge, branch) = self.wanted.forge.as_ref().ok_or("its repository has no `forge`")?;
        let query = ChecksQuery {
            forge: forge.clone(),
            branch: branch.clone(),
            commit: revision.clone(),
            with_required: false,
        };
        let read = self.input.checks.read(query).await;
        let read = read.map_err(|error| chain(&error))?;
        let known = self.known()?;
        let mut all_passed = true;
        for name in &self.wanted.checks {
            let state = state_of(&RequiredCheck::named(name), &read.found);
            all_passed &= state == Some(CheckState::Passed);
            let Some(state) = state.filter(|state| last_state(&known, name, revision) != Some(*state)) else {
                continue;
            };
            let word = match state {
                CheckState::Passed => "passed",
                CheckState::Failed => "failed",
                CheckState::Pending => "is running",
            };
            let message = format!("check {name} of commit {} {word}", revision.short());
            let (revision, name) = (revision.clone(), name.clone());
            self.add(EvidenceFinding::Checks { revision, name, state }, message).await?;
        }
        Ok(all_passed)
    }

    /// Records which keys signed the image. Returns whether all of them did.
    async fn signatures(&self) -> Result<bool, String> {
        let mut all_signed = true;
        for key in &self.wanted.keys {
            let Some(mark) = key.mark() else { continue };
            let known = self.known()?;
            let is_signed =
                |found: &Evidence| matches!(&found.finding, EvidenceFinding::Signed { key } if *key == mark);
            if known.iter().any(is_signed) {
                continue;
            }
            let looked = signatures::look_for(&self.input.registries, &self.healthy.image, key).await?;
            let file = key.file.display();
            match looked {
                Ok(()) => {
                    let message = format!("the image is signed by {file}");
                    self.add(EvidenceFinding::Signed { key: mark }, message).await?;
                }
                Err(why) => {
                    all_signed = false;
                    let last = known.iter().rev().find_map(|found| match &found.finding {
                        EvidenceFinding::Unsigned { key, why } if *key == mark => Some(why),
                        _ => None,
                    });
                    if last != Some(&why) {
                        let message = format!("the image is not signed by {file}: {why}");
                        self.add(EvidenceFinding::Unsigned { key: mark, why }, message).await?;
                    }
                }
            }
        }
        Ok(all_signed)
    }

    /// The evidence about this generation.
    fn known(&self) -> Result<Vec<Evidence>, String> {
        let found = self.input.desired.evidence(&self.name).map_err(|error| chain(&error))?;
        let generation = self.healthy.desired.entry.generation;
        Ok(found.into_iter().filter(|found| found.generation == generation).collect())
    }

    async fn add(&self, finding: EvidenceFinding, message: String) -> Result<(), String> {
        let evidence = Evidence {
            sequence: 0,
            environment: self.name.clone(),
            image: self.healthy.image.clone(),
            generation: self.healthy.desired.entry.generation,
            finding,
            by: None,
            at: now(),
            note: None,
        };
        self.input.writer.evidence(evidence, message).await.map(drop).map_err(|error| chain(&error))
    }
}

/// The last recorded state of a check.
fn last_state(known: &[Evidence], name: &str, revision: &CommitId) -> Option<CheckState> {
    known.iter().rev().find_map(|found| match &found.finding {
        EvidenceFinding::Checks { revision: of, name: known, state } if of == revision && known == name => {
            Some(*state)
        }
        _ => None,
    })
}
