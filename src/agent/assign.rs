//! What is assigned to this host: checked against its policy, kept, and handed to the loop.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use tokio::sync::watch;
use tracing::{info, warn};

use super::policy::Policy;
use crate::model::desired::Image;
use crate::model::link::{Assigned, Assignment, Misread};
use crate::model::name::{EnvironmentName, Generation};
use crate::model::spec::{EnvironmentSpec, Manifest, Supply};
use crate::model::status::Reason;
use crate::model::time::Timestamp;
use crate::record::{Kept, NotTaken, RecordError, Replica};

/// Takes assignments in.
pub(super) struct Assigner {
    pub(super) replica: Replica,
    pub(super) policy: Arc<Policy>,
    /// What the loop runs.
    pub(super) manifests: watch::Sender<Arc<Manifest>>,
    pub(super) refusals: Refusals,
}

/// What is assigned and not taken, by environment.
#[derive(Clone, Debug, Default)]
pub(super) struct Refusals(Arc<Mutex<BTreeMap<EnvironmentName, Refusal>>>);

/// Why something that is assigned is not taken. What ran goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    /// In one word.
    pub(super) reason: Reason,
    /// In a sentence.
    pub(super) message: String,
    /// Of which generation this speaks.
    pub(super) generation: Generation,
    /// Of which declaration, by its mark.
    pub(super) mark: Option<String>,
    /// Since when.
    pub(super) since: Timestamp,
}

impl Refusals {
    /// Why an environment is not taken, where it is not.
    pub(super) fn of(&self, environment: &EnvironmentName) -> Option<Refusal> {
        self.all().get(environment).cloned()
    }

    /// These are all, from now on. One that stays the same stays since it is there.
    fn replace(&self, fresh: BTreeMap<EnvironmentName, Refusal>) {
        let mut all = self.all();
        for (environment, refusal) in &fresh {
            if all.get(environment).is_none_or(|before| before.message != refusal.message) {
                warn!(%environment, generation = %refusal.generation, why = %refusal.message, "not taken");
            }
        }
        let since = |environment: &EnvironmentName, refusal: &Refusal| {
            let before = all.get(environment).filter(|before| before.message == refusal.message);
            before.map_or(refusal.since, |before| before.since)
        };
        let fresh = fresh.into_iter().map(|(environment, refusal)| {
            let since = since(&environment, &refusal);
            (environment, Refusal { since, ..refusal })
        });
        let fresh = fresh.collect();
        *all = fresh;
    }

    fn all(&self) -> MutexGuard<'_, BTreeMap<EnvironmentName, Refusal>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Assigner {
    /// Takes an assignment in and gives the names in it. What the policy or the record does not
    /// allow is refused, environment by environment; the others are taken.
    ///
    /// # Errors
    /// [`RecordError`] where nothing was recorded.
    pub(super) async fn take(
        &self,
        assignment: Assignment,
    ) -> Result<BTreeSet<EnvironmentName>, RecordError> {
        let misread: BTreeMap<_, _> = assignment.misread.iter().map(misread).collect();
        let understood = assignment.environments.iter().map(|one| one.desired.environment.clone());
        let names = understood.chain(misread.keys().cloned()).collect();
        let Some((allowed, mut refused)) = self.sort_out(assignment).await else { return Ok(names) };
        refused.extend(misread);
        let sent: BTreeMap<_, _> = allowed.environments.iter().map(sent).collect();
        let accepted = self.replica.accept(allowed, refused.keys().cloned().collect()).await?;
        for (environment, why) in accepted.not_taken {
            let refusal = Refusal::of_record(&environment, why, sent.get(&environment));
            refused.insert(environment, refusal);
        }
        self.refusals.replace(refused);
        self.publish()?;
        Ok(names)
    }

    /// Hands what is kept to the loop, as far as the policy allows it still.
    ///
    /// # Errors
    /// [`RecordError`] where it cannot be read.
    pub(super) fn publish(&self) -> Result<(), RecordError> {
        let manifest = manifest(self.replica.kept()?, &self.policy);
        let changed = self.manifests.send_if_modified(|before| {
            let changed = **before != manifest;
            if changed {
                *before = Arc::new(manifest);
            }
            changed
        });
        if changed {
            let environments: Vec<_> =
                self.manifests.borrow().environments.keys().map(ToString::to_string).collect();
            info!(environments = environments.join(", "), "what is declared for this host is taken");
        }
        Ok(())
    }

    /// Parts what the policy allows from what it does not; `None` where that could not be found out,
    /// and so nothing is taken.
    async fn sort_out(
        &self,
        assignment: Assignment,
    ) -> Option<(Assignment, BTreeMap<EnvironmentName, Refusal>)> {
        let policy = Arc::clone(&self.policy);
        let sort = move || {
            let Assignment { network, environments, misread: _ } = assignment;
            let (mut allowed, mut refused) = (Vec::new(), BTreeMap::new());
            for assigned in environments {
                match policy.objection(&network, &assigned.spec, &images(&assigned)) {
                    None => allowed.push(assigned),
                    Some(message) => {
                        let (environment, Sent { generation, mark }) = sent(&assigned);
                        refused.insert(
                            environment,
                            Refusal::new(Reason::PolicyRefused, message, generation, mark),
                        );
                    }
                }
            }
            (Assignment { network, environments: allowed, misread: Vec::new() }, refused)
        };
        // Paths are looked up on the disk.
        tokio::task::spawn_blocking(sort)
            .await
            .inspect_err(|error| warn!(%error, "the policy was not asked"))
            .ok()
    }
}

/// What the loop of this host runs, of what is kept.
pub(super) fn manifest(kept: Kept, policy: &Policy) -> Manifest {
    let Kept { network, environments } = kept;
    let allowed =
        environments.into_iter().filter(|(_, spec)| policy.objection(&network, spec, &[]).is_none());
    let here = allowed.map(|(name, spec)| {
        // To the loop of this host they are its own; and nothing here but the controller moves them.
        (name, EnvironmentSpec { host: None, supply: Supply::Manual, ..spec })
    });
    Manifest {
        environments: here.collect(),
        network: network.clone(),
        guard: policy.guard(),
        ..Manifest::default()
    }
}

/// The images that an environment may have to run.
fn images(assigned: &Assigned) -> Vec<Image> {
    let entries = std::iter::once(&assigned.desired.entry).chain(&assigned.held);
    entries.filter_map(|entry| entry.image.clone()).collect()
}

/// The refusal of an environment that breaks the grammar.
fn misread(misread: &Misread) -> (EnvironmentName, Refusal) {
    let message =
        format!("what the controller declares is not understood here: {}; what ran goes on", misread.why);
    (
        misread.environment.clone(),
        Refusal::new(Reason::PolicyRefused, message, misread.generation, misread.mark.clone()),
    )
}

/// Of what an assignment speaks.
struct Sent {
    generation: Generation,
    mark: Option<String>,
}

fn sent(assigned: &Assigned) -> (EnvironmentName, Sent) {
    let Assigned { spec, desired, .. } = assigned;
    (desired.environment.clone(), Sent { generation: desired.entry.generation, mark: spec.mark.clone() })
}

impl Refusal {
    fn new(reason: Reason, message: String, generation: Generation, mark: Option<String>) -> Self {
        Self { reason, message, generation, mark, since: SystemTime::now().into() }
    }

    fn of_record(environment: &EnvironmentName, why: NotTaken, of: Option<&Sent>) -> Self {
        let (generation, message) = match why {
            NotTaken::Behind { here, sent } => (
                here,
                format!(
                    "the record is at generation {sent}, and this host has generation {here}, which goes on: the \
                     controller was restored from an older copy. `abide promote` or `abide set` says what \
                     {environment} should run, under a later generation"
                ),
            ),
            NotTaken::Forked(generation) => (
                generation,
                format!(
                    "generation {generation} of the record is another one than this host has, which goes on: the \
                     controller was restored from an older copy. `abide promote` or `abide set` says what \
                     {environment} should run, under a later generation"
                ),
            ),
        };
        let generation = of.map_or(generation, |of| of.generation.max(generation));
        Self::new(Reason::RecordBehind, message, generation, of.and_then(|of| of.mark.clone()))
    }
}
