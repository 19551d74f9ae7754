//! The images of an environment: how they are pulled, and which of them are made for another platform.

use std::collections::BTreeMap;

use crate::controller::docker::HeldImage;
use crate::controller::jobs::PullRule;
use crate::model::name::Digest;
use crate::model::platform::Platform;
use crate::plan::Intent;

/// How the image of an environment is pulled.
pub(super) fn pull_rule(intent: &Intent) -> PullRule {
    let platform = intent.options.as_ref().ok().and_then(|options| options.run.platform.clone());
    PullRule { platform, may_pull: intent.may_pull }
}

/// The images that are made for another platform than the declared one.
pub(super) fn of_other_platforms(
    held: &BTreeMap<Digest, HeldImage>,
    declared: Option<&Platform>,
) -> BTreeMap<Digest, Platform> {
    let other = |(id, held): (&Digest, &HeldImage)| {
        let platform = held.platform.clone()?;
        (!declared?.runs(&platform)).then(|| (id.clone(), platform))
    };
    held.iter().filter_map(other).collect()
}
