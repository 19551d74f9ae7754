//! Turns of the commands of a release: of one group, only one command runs at a time.
//!
//! A turn lasts from before the container of the command is created until the command has ended. A container that runs
//! counts as well, because the daemon that started it may have been killed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::reconciler::{PassError, Planned, Reconciler};
use crate::controller::clock::now;
use crate::controller::wake::WakeQueue;
use crate::model::container::label;
use crate::model::name::{EnvironmentName, GroupName};
use crate::model::observed::{ContainerState, ObservedContainer};
use crate::model::one_off::Hook;
use crate::plan;

/// The turns of all groups on one host. Cheap to clone.
#[derive(Clone)]
pub(in crate::controller) struct GroupTurns {
    wake: WakeQueue,
    groups: Arc<Mutex<BTreeMap<GroupName, GroupTurn>>>,
}

#[derive(Default)]
struct GroupTurn {
    /// The member that may run a command.
    held: Option<EnvironmentName>,
    waiting: BTreeSet<EnvironmentName>,
}

impl GroupTurns {
    pub(in crate::controller) fn new(wake: WakeQueue) -> Self {
        Self { wake, groups: Arc::default() }
    }

    /// Takes the turn, unless `other` runs a command or another member has the turn. Returns the member to wait for.
    fn take(
        &self,
        group: &GroupName,
        member: &EnvironmentName,
        other: Option<EnvironmentName>,
    ) -> Option<EnvironmentName> {
        let mut groups = self.groups();
        let turn = groups.entry(group.clone()).or_default();
        let other = other.or_else(|| turn.held.clone().filter(|held| held != member));
        match &other {
            None => {
                turn.waiting.remove(member);
                turn.held = Some(member.clone());
            }
            Some(_) => drop(turn.waiting.insert(member.clone())),
        }
        other
    }

    /// Ends the turn of a member, and its wait for one. All who wait get a wakeup.
    fn leave(&self, group: &GroupName, member: &EnvironmentName) {
        let mut groups = self.groups();
        let Some(turn) = groups.get_mut(group) else { return };
        turn.waiting.remove(member);
        turn.held.take_if(|held| held == member);
        if turn.held.is_none() {
            turn.waiting.iter().for_each(|waiting| self.wake.wake(waiting));
            groups.remove(group);
        }
    }

    fn groups(&self) -> MutexGuard<'_, BTreeMap<GroupName, GroupTurn>> {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reconciler {
    /// The plan without the start of a command, if another member of the group runs one.
    pub(super) fn in_group_turn(&self, planned: Planned) -> Result<Planned, PassError> {
        let environment = &planned.intent.environment;
        let Some(group) = &planned.spec.group else { return Ok(planned) };
        if !plan::starts_command(&planned.plan) {
            if !planned.observed.one_offs.iter().any(is_running) {
                self.group_turns.leave(group, environment);
            }
            return Ok(planned);
        }
        let running = self.running_command(group, environment);
        let Some(other) = self.group_turns.take(group, environment, running) else { return Ok(planned) };
        let before = self.status.memory(environment)?;
        let plan = planned.plan.until_command_ends(&other, before, now());
        Ok(Planned { plan, ..planned })
    }
}

impl Reconciler {
    /// Another member of a group whose command runs.
    fn running_command(&self, group: &GroupName, environment: &EnvironmentName) -> Option<EnvironmentName> {
        let manifest = Arc::clone(&self.manifest.borrow());
        let mut others = manifest.members(group).filter(|member| *member != environment);
        others.find(|member| self.cache.one_offs(member).iter().any(is_running)).cloned()
    }
}

/// Whether a container runs the command of a release.
fn is_running(container: &ObservedContainer) -> bool {
    let role = container.labels.get(label::ROLE).and_then(|role| Hook::of_role(role.as_str()));
    let is_active = matches!(
        container.state,
        ContainerState::Running | ContainerState::Paused | ContainerState::InTransit
    );
    role.is_some() && is_active
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_member_at_a_time_has_the_turn_and_the_next_gets_a_wakeup() {
        let [a, b] = ["shop-a", "shop-b"].map(|name| EnvironmentName::new(name).unwrap());
        let group = GroupName::new("shop").unwrap();
        let wake = WakeQueue::default();
        let turns = GroupTurns::new(wake.clone());
        assert_eq!(turns.take(&group, &a, None), None);
        assert_eq!(turns.take(&group, &a, None), None, "it has its turn");
        assert_eq!(turns.take(&group, &b, None), Some(a.clone()));
        turns.leave(&group, &b);
        assert_eq!(turns.take(&group, &b, None), Some(a.clone()), "whoever waits ends no turn");
        turns.leave(&group, &a);
        wake.notifier(&b).notified().await;
        // After a restart, only the container of the command shows who runs one.
        assert_eq!(turns.take(&group, &b, Some(a.clone())), Some(a.clone()));
        turns.leave(&group, &a);
        wake.notifier(&b).notified().await;
        assert_eq!(turns.take(&group, &b, None), None);
        let other = GroupName::new("blog").unwrap();
        assert_eq!(turns.take(&other, &a, None), None, "groups do not wait for each other");
    }
}
