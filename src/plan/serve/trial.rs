//! Trying options out. The engine checks many options, and every host port, only when a container starts. If the
//! serving container has to stop for its replacement, they are tried before that, in a container that runs
//! nothing of the image.

use std::collections::{BTreeMap, BTreeSet};

use super::RolloutContext;
use super::make::suffixed;
use crate::model::container::{ContainerOptions, ContainerSpec};
use crate::model::network::Attachment;
use crate::model::observed::{ContainerState, ObservedContainer};
use crate::model::spec::{PortMapping, Publish, RunOptions};
use crate::plan::{PartialPlan, Step, difference};

/// The reason for a trial.
const BEFORE_A_STOP: &str = "the engine checks some options only at a start, and the serving container would be \
                             stopped before that";

impl RolloutContext<'_> {
    /// Tries the options of `spec` before one of `others` is stopped for it, unless that container runs with the
    /// same options. If the engine rejects them, the `replacement` options are refused and nothing is stopped.
    pub(super) fn try_options(
        &self,
        partial: PartialPlan,
        spec: &ContainerSpec,
        others: &[&ObservedContainer],
        replacement: Option<String>,
    ) -> PartialPlan {
        let serving = self.staying(others);
        let is_untried = serving.iter().any(|seen| seen.state == ContainerState::Running)
            && serving.iter().all(|seen| has_other_options(spec, seen));
        if self.is_start_first() || !is_untried {
            return partial;
        }
        partial.then(Step::TryOptions { spec: Box::new(self.trial_of(spec)), replacement }, BEFORE_A_STOP)
    }

    /// The container of a trial: without the program and its data in memory, without the names by which others
    /// find it, and without the ports and addresses that a managed container has now.
    fn trial_of(&self, spec: &ContainerSpec) -> ContainerSpec {
        let own = self.containers.iter().chain(&self.draining).chain(&self.holders).copied();
        let own: Vec<_> = own.filter(|seen| seen.state.has_process()).collect();
        let published = own.iter().flat_map(|seen| &seen.published).chain(&self.observed.ports_of_others);
        let taken: Vec<PortMapping> = published.filter_map(|port| port.parse().ok()).collect();
        let is_free = |port: &PortMapping| !taken.iter().any(|taken| overlap(port, taken));
        let options = &spec.options;
        let publish_of = |publish: &Publish| {
            options.port.is_none_or(|port| is_free(&PortMapping::of_port(port, *publish)))
        };
        let has_address = |attachment: &Attachment| {
            let mut all = own.iter().flat_map(|seen| seen.attachments.values());
            all.any(|own| shares_address(own, attachment))
        };
        let networks = options.run.networks.iter().map(|(name, attachment)| {
            let is_kept = !has_address(attachment);
            let kept = Attachment { aliases: BTreeSet::new(), ..attachment.clone() };
            (name.clone(), if is_kept { kept } else { Attachment::default() })
        });
        let run = RunOptions {
            ports: options.run.ports.iter().filter(|port| is_free(port)).cloned().collect(),
            aliases: BTreeSet::new(),
            networks: networks.collect(),
            settings: options.run.settings.of_one_off(None),
            ..RunOptions::default()
        };
        let options = ContainerOptions {
            name: suffixed(&options.name, ".trial"),
            env: BTreeMap::new(),
            secrets: BTreeSet::new(),
            command: None,
            publish: options.publish.filter(publish_of),
            init: true,
            run,
            files: Vec::new(),
            ..options.clone()
        };
        ContainerSpec { options, ..spec.clone() }
    }
}

/// Whether a container runs with other options than those of `spec`, apart from the image.
fn has_other_options(spec: &ContainerSpec, seen: &ObservedContainer) -> bool {
    let image = seen.image.clone().unwrap_or_else(|| spec.image.clone());
    let same_image = ContainerSpec { image, ..spec.clone() };
    !difference::structural(&same_image, seen).is_empty() || !difference::limits(&same_image, seen).is_empty()
}

/// Whether two mappings may take the same host port, on whatever address.
fn overlap(one: &PortMapping, other: &PortMapping) -> bool {
    let (Some((first, last)), Some((from, to))) = (one.host_range(), other.host_range()) else {
        return false;
    };
    one.protocol == other.protocol && first <= to && from <= last
}

fn shares_address(one: &Attachment, other: &Attachment) -> bool {
    one.ipv4_address.is_some() && one.ipv4_address == other.ipv4_address
        || one.ipv6_address.is_some() && one.ipv6_address == other.ipv6_address
}
