//! Judging the version that the orchestrator runs: whether it failed, and whether its image is to blame.

use std::time::Duration;

use super::goal::{GoalRole, WorkloadGoal};
use super::{WorkloadContext, reason_of};
use crate::model::memory::{Memory, RefusedOptions};
use crate::model::status::Reason;
use crate::model::workload::{Rollout, SeenWorkload};
use crate::plan::rollback;

/// How long nodes may take to pull an image.
const PULL: Duration = Duration::from_secs(600);

/// Why a version failed its trial.
pub(super) struct FailedTrial {
    pub(super) reason: Reason,
    /// A clause.
    pub(super) why: String,
    /// Whether its image is to blame.
    pub(super) is_verdict: bool,
}

impl WorkloadContext<'_> {
    /// Notes that the recorded version failed, if it did and there is one to go back to.
    pub(super) fn judge(&self, seen: &SeenWorkload, memory: Memory) -> Memory {
        let Some(goal) = self.goal(Some(seen), &memory).filter(|goal| goal.role == GoalRole::Wanted) else {
            return memory;
        };
        let fingerprint = goal.workload.fingerprint();
        if seen.fingerprint != fingerprint || !seen.changes.is_empty() {
            return memory;
        }
        let is_proven = memory.workload.as_ref().is_some_and(|of| of.ready.as_ref() == Some(&fingerprint));
        if is_proven {
            return self.given_up(&goal, seen, &memory).unwrap_or(memory);
        }
        let is_better = self.good(&memory).is_some_and(|good| good.fingerprint() != fingerprint);
        // For another number of replicas, Swarm begins no update, so the failure may be an old one.
        let may_be_old = self.is_known(seen, &memory) && matches!(seen.rollout, Rollout::Failed(_));
        let failed = self.failed_trial(&goal, seen).filter(|_| is_better && !may_be_old);
        let Some(failed) = failed else { return memory };
        let message = format!("{} failed: {}", goal.words(), failed.why);
        Memory { refused: Some(self.refused(&goal, failed, message)), ..memory }
    }

    /// Whether the declared version was ready before, perhaps with another number or other places of its replicas.
    pub(super) fn is_known(&self, seen: &SeenWorkload, memory: &Memory) -> bool {
        self.good(memory).is_some_and(|good| good.version() == seen.version)
    }

    fn refused(&self, goal: &WorkloadGoal, failed: FailedTrial, message: String) -> RefusedOptions {
        RefusedOptions {
            fingerprint: goal.workload.fingerprint(),
            generation: self.intent.entry.generation,
            reason: failed.reason,
            message,
            of_the_host: !failed.is_verdict,
            retry_at: None,
            at: self.now,
        }
    }

    /// Why a version that was never ready has failed; `None`: it may still become ready.
    pub(super) fn failed_trial(&self, goal: &WorkloadGoal, seen: &SeenWorkload) -> Option<FailedTrial> {
        match &seen.rollout {
            Rollout::Settled => None,
            Rollout::Failed(failure) => Some(FailedTrial {
                reason: reason_of(failure),
                why: failure.why.clone(),
                is_verdict: failure.kind.is_verdict(),
            }),
            Rollout::Stuck(why) => {
                Some(FailedTrial { reason: Reason::NoPlace, why: why.clone(), is_verdict: false })
            }
            Rollout::Moving { is_pulling } => {
                let deadline = goal.workload.deadline() + if *is_pulling { PULL } else { Duration::ZERO };
                (self.now >= seen.written_at.after(deadline)).then(|| FailedTrial {
                    reason: Reason::NeverReady,
                    why: format!(
                        "{} of {} replicas were ready within {}",
                        seen.ready(),
                        seen.replicas,
                        humantime::format_duration(deadline)
                    ),
                    is_verdict: !is_pulling,
                })
            }
        }
    }

    /// The reconcile state after giving up a version that keeps failing soon after it became ready.
    fn given_up(&self, goal: &WorkloadGoal, seen: &SeenWorkload, memory: &Memory) -> Option<Memory> {
        let (good, before) = (memory.good.as_ref()?, memory.before.as_ref()?);
        let early = good.first_ready.after(rollback::PROBATION);
        let is_early = |at| good.first_ready <= at && at <= early;
        let failures =
            seen.failures.iter().filter(|failure| failure.kind.is_verdict() && is_early(failure.at));
        let failures: Vec<_> = failures.collect();
        let last = failures
            .last()
            .filter(|_| u32::try_from(failures.len()).is_ok_and(|count| count >= rollback::CRASHES))?;
        let is_of_the_record =
            self.intent.entry.image.as_ref().is_some_and(|image| image.is_same(&good.image));
        let is_better = !before.image.is_same(&good.image) && !rollback::is_bad(self.intent, &before.image);
        let is_given_up = rollback::may_be_given_up(self.intent)
            && is_of_the_record
            && is_better
            && seen.rollout != Rollout::Settled;
        let within = humantime::format_duration(rollback::PROBATION);
        let why = format!(
            "its replicas failed {} times within {within} of becoming ready, the last time: {}",
            failures.len(),
            last.why
        );
        let message = format!("{}: {why}", goal.words());
        let failed = FailedTrial { reason: Reason::CrashLoop, why, is_verdict: true };
        is_given_up.then(|| Memory {
            good: Some(before.clone()),
            before: None,
            refused: Some(self.refused(goal, failed, message)),
            ..memory.clone()
        })
    }
}
