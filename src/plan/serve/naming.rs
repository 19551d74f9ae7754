//! Names: which are free, and which containers have to give one up.
//!
//! A name does not decide what a container serves, so any container of this record may be renamed. A
//! container with a needed name is renamed, across environments: two environments can swap their names in
//! one edit. Each environment's own reconcile then gives its container the declared name.

use super::RolloutContext;
use super::leave::is_removed;
use super::make::suffixed;
use crate::model::name::ContainerName;
use crate::model::observed::Owner;
use crate::plan::{PartialPlan, Step};

impl RolloutContext<'_> {
    /// Renames every managed container that has `name` and is not removed: one that may still have requests,
    /// or one of another environment.
    pub(super) fn make_way(&self, partial: PartialPlan, name: &ContainerName) -> PartialPlan {
        let all = self.draining.iter().chain(&self.containers);
        let has_it = all.filter(|old| old.name == name.as_str() && !is_removed(&partial, old));
        let has_it: Vec<_> = has_it.collect();
        let partial = has_it.into_iter().fold(partial, |partial, old| {
            let rename = Step::Rename { id: old.id.clone(), name: beside(name, "old", &old.id) };
            partial.then(rename, "the new container needs its name")
        });
        self.move_others(partial, name)
    }

    /// Renames a container of another environment that has this environment's `name`.
    pub(super) fn move_others(&self, partial: PartialPlan, name: &ContainerName) -> PartialPlan {
        let Some(holder) = &self.observed.name_holder else { return partial };
        let Owner::Environment(other) = &holder.owner else { return partial };
        let is_final = self.intent.options.as_ref().is_ok_and(|options| options.name == *name);
        if !is_final {
            return partial;
        }
        let rename = Step::Rename { id: holder.id.clone(), name: beside(name, "moved", &holder.id) };
        partial.then(rename, format!("{other} has this name, but {} needs it", self.intent.environment))
    }

    /// The name of a replacement until it takes over.
    pub(super) fn candidate_name(&self, container: &ContainerName) -> ContainerName {
        self.free_name(container, ".next", |_| true)
    }

    /// The first of `container` + `suffix`, `suffix2`, `suffix3` ... that no other container has.
    pub(super) fn free_name(
        &self,
        container: &ContainerName,
        suffix: &str,
        is_free: impl Fn(&str) -> bool,
    ) -> ContainerName {
        let mut names = (1..).map(|number: u32| match number {
            1 => suffixed(container, suffix),
            number => suffixed(container, &format!("{suffix}{number}")),
        });
        let is_free = |name: &ContainerName| {
            !self.observed.taken_names.contains(name.as_str()) && is_free(name.as_str())
        };
        names.find(is_free).unwrap_or_else(|| container.clone())
    }
}

/// The name of a container that gave up `name`, with the start of its ID, so that no two are the same.
fn beside(name: &ContainerName, why: &str, id: &str) -> ContainerName {
    suffixed(name, &format!(".{why}-{}", id.get(..6).unwrap_or(id)))
}
