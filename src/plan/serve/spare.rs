//! The spare: a running sandbox for the next version. The start of a sandbox takes longer than anything else in an
//! update behind the proxy, so it is done after the previous update.
//!
//! A spare is outside the managed network. In it, other containers would find the spare's address under the name of
//! the environment, and nothing answers there. It is connected when the container of the next version is about to be
//! created.

use super::RolloutContext;
use crate::model::container::ContainerSpec;
use crate::model::holder::{HolderPurpose, HolderSpec};
use crate::model::memory::Memory;
use crate::model::observed::{ContainerState, NetworkPresence, ObservedContainer};
use crate::plan::notes::end_of;
use crate::plan::{ContainerTarget, PartialPlan, Step};

const REASON: &str = "the next version starts sooner in a sandbox that is already running";

impl RolloutContext<'_> {
    /// Removes the sandboxes that are empty after these steps, except for the spare, and makes one if there is none.
    pub(super) fn keep_spare(
        &self,
        partial: PartialPlan,
        spec: &ContainerSpec,
        current: &ObservedContainer,
        memory: &Memory,
    ) -> PartialPlan {
        let wanted = HolderSpec::of(&spec.options);
        if !self.may_have_spare(&wanted, current) {
            return self.remove_empty_holders(partial);
        }
        if let Some(no_holder) = &memory.no_holder {
            return self.remove_empty_holders(partial).requeue_by(end_of(no_holder));
        }
        let spare = self.spare(&wanted);
        let partial = self.remove_holders(partial, |holder| spare.is_some_and(|spare| spare.id == holder.id));
        if spare.is_some() || !self.may_make_spare() {
            return partial;
        }
        let (name, purpose) = (self.holder_name(&spec.options.name), HolderPurpose::Spare);
        self.holder_image_first(partial)
            .then(Step::CreateHolder { name, spec: Box::new(wanted), purpose }, REASON)
            .then(Step::StartHolder { holder: ContainerTarget::Created, replacement: None }, REASON)
            .then(Step::Disconnect { holder: ContainerTarget::Created }, "nothing answers at its address yet")
    }

    fn spare(&self, wanted: &HolderSpec) -> Option<&ObservedContainer> {
        let is_running = |holder: &&ObservedContainer| holder.state == ContainerState::Running;
        self.all_fitting(wanted).filter(is_running).find(|holder| !self.is_connected(holder))
    }

    /// A version that starts only after the stop of the previous one gets the same sandbox.
    fn may_have_spare(&self, wanted: &HolderSpec, current: &ObservedContainer) -> bool {
        // Only the managed network is connected later; the others are at the creation.
        let joins_only_managed = wanted.attachments().keys().all(|network| *network == wanted.network);
        let has_holders = self.intent.holder && current.joined.is_some();
        self.intent.spare && has_holders && self.is_start_first() && joins_only_managed
    }

    /// A held environment is left as it is, and the last requests to the previous version come first.
    fn may_make_spare(&self) -> bool {
        self.intent.hold.is_none()
            && self.draining.is_empty()
            && self.observed.network != NetworkPresence::Missing
    }
}
