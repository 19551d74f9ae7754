//! Assignments to this host: checked against its policy, stored, and handed to the reconcile loop.

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
use crate::record::{KeptAssignment, RecordError, Replica, ReplicaRejection};

/// Applies assignments.
pub(super) struct Assigner {
    pub(super) replica: Replica,
    pub(super) policy: Arc<Policy>,
    /// The manifest of the reconcile loop.
    pub(super) manifests: watch::Sender<Arc<Manifest>>,
    pub(super) refusals: RefusedEnvironments,
}

/// The refused part of the assignment, by environment.
#[derive(Clone, Debug, Default)]
pub(super) struct RefusedEnvironments(Arc<Mutex<BTreeMap<EnvironmentName, AssignmentRefusal>>>);

/// The reason why an assigned environment is refused. Its containers keep running.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct AssignmentRefusal {
    /// The reason in one word.
    pub(super) reason: Reason,
    /// The reason in a sentence.
    pub(super) message: String,
    /// The refused generation.
    pub(super) generation: Generation,
    /// The mark of the refused declaration.
    pub(super) mark: Option<String>,
    /// The time of the refusal.
    pub(super) since: Timestamp,
}

impl RefusedEnvironments {
    /// The refusal of an environment, if it is refused.
    pub(super) fn of(&self, environment: &EnvironmentName) -> Option<AssignmentRefusal> {
        self.all().get(environment).cloned()
    }

    /// Replaces all refusals. An unchanged refusal keeps its time.
    fn replace(&self, fresh: BTreeMap<EnvironmentName, AssignmentRefusal>) {
        let mut all = self.all();
        for (environment, refusal) in &fresh {
            if all.get(environment).is_none_or(|before| before.message != refusal.message) {
                warn!(%environment, generation = %refusal.generation, why = %refusal.message, "assignment \
                    rejected");
            }
        }
        let since = |environment: &EnvironmentName, refusal: &AssignmentRefusal| {
            let before = all.get(environment).filter(|before| before.message == refusal.message);
            before.map_or(refusal.since, |before| before.since)
        };
        let fresh = fresh.into_iter().map(|(environment, refusal)| {
            let since = since(&environment, &refusal);
            (environment, AssignmentRefusal { since, ..refusal })
        });
        let fresh = fresh.collect();
        *all = fresh;
    }

    fn all(&self) -> MutexGuard<'_, BTreeMap<EnvironmentName, AssignmentRefusal>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Assigner {
    /// Applies an assignment and returns the names in it. Environments that violate the policy or the record
    /// are refused one by one; the others are applied.
    ///
    /// # Errors
    /// Returns [`RecordError`] if the write failed; nothing was recorded then.
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
            let refusal = AssignmentRefusal::of_record(&environment, why, sent.get(&environment));
            refused.insert(environment, refusal);
        }
        self.refusals.replace(refused);
        self.publish()?;
        Ok(names)
    }

    /// Hands the stored assignment to the reconcile loop, as far as the policy still allows it.
    ///
    /// # Errors
    /// Returns [`RecordError`] if the assignment cannot be read.
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
            info!(environments = environments.join(", "), "applied the assignment of the controller");
        }
        Ok(())
    }

    /// Separates the allowed environments from the refused ones; `None` if the policy could not be checked,
    /// so that nothing is applied.
    async fn sort_out(
        &self,
        assignment: Assignment,
    ) -> Option<(Assignment, BTreeMap<EnvironmentName, AssignmentRefusal>)> {
        let policy = Arc::clone(&self.policy);
        let sort = move || {
            let Assignment { network, environments, forget, misread: _ } = assignment;
            let (mut allowed, mut refused) = (Vec::new(), BTreeMap::new());
            for assigned in environments {
                match policy.objection(&network, &assigned.spec, &images(&assigned)) {
                    None => allowed.push(assigned),
                    Some(message) => {
                        let (environment, SentAssignment { generation, mark }) = sent(&assigned);
                        refused.insert(
                            environment,
                            AssignmentRefusal::new(Reason::PolicyRefused, message, generation, mark),
                        );
                    }
                }
            }
            (Assignment { network, environments: allowed, forget, misread: Vec::new() }, refused)
        };
        // Checking paths reads the disk.
        tokio::task::spawn_blocking(sort)
            .await
            .inspect_err(|error| warn!(%error, "failed to check the policy"))
            .ok()
    }
}

/// Returns the manifest for the reconcile loop of this host, from the stored assignment.
pub(super) fn manifest(kept: KeptAssignment, policy: &Policy) -> Manifest {
    let KeptAssignment { network, environments } = kept;
    let allowed =
        environments.into_iter().filter(|(_, spec)| policy.objection(&network, spec, &[]).is_none());
    let here = allowed.map(|(name, spec)| {
        // The reconcile loop treats them as local environments, and only the controller updates them.
        (name, EnvironmentSpec { host: None, supply: Supply::Manual, ..spec })
    });
    Manifest {
        environments: here.collect(),
        network: network.clone(),
        guard: policy.guard(),
        front: policy.front().cloned(),
        ..Manifest::default()
    }
}

/// The images that an environment may have to run.
fn images(assigned: &Assigned) -> Vec<Image> {
    let entries = std::iter::once(&assigned.desired.entry).chain(&assigned.held);
    entries.filter_map(|entry| entry.image.clone()).collect()
}

/// The refusal of an environment that violates the grammar.
fn misread(misread: &Misread) -> (EnvironmentName, AssignmentRefusal) {
    let message = format!(
        "this agent cannot read the declaration of the controller: {}; the container keeps \
            running",
        misread.why
    );
    (
        misread.environment.clone(),
        AssignmentRefusal::new(Reason::PolicyRefused, message, misread.generation, misread.mark.clone()),
    )
}

/// The subject of an assignment.
struct SentAssignment {
    generation: Generation,
    mark: Option<String>,
}

fn sent(assigned: &Assigned) -> (EnvironmentName, SentAssignment) {
    let Assigned { spec, desired, .. } = assigned;
    (
        desired.environment.clone(),
        SentAssignment { generation: desired.entry.generation, mark: spec.mark.clone() },
    )
}

impl AssignmentRefusal {
    fn new(reason: Reason, message: String, generation: Generation, mark: Option<String>) -> Self {
        Self { reason, message, generation, mark, since: SystemTime::now().into() }
    }

    fn of_record(environment: &EnvironmentName, why: ReplicaRejection, of: Option<&SentAssignment>) -> Self {
        let (generation, message) = match why {
            ReplicaRejection::Behind { here, sent } => (
                here,
                format!(
                    "the record is at generation {sent}, but this host is at generation {here} and keeps \
                    running it: the controller was restored from an older copy. Use `abide promote` or \
                    `abide set` to record what {environment} should run, as a later generation"
                ),
            ),
            ReplicaRejection::Forked(generation) => (
                generation,
                format!(
                    "generation {generation} of the record differs from the one on this host, which \
                    keeps running: the controller was restored from an older copy. Use `abide promote` \
                    or `abide set` to record what {environment} should run, as a later generation"
                ),
            ),
        };
        let generation = of.map_or(generation, |of| of.generation.max(generation));
        Self::new(Reason::RecordBehind, message, generation, of.and_then(|of| of.mark.clone()))
    }
}
