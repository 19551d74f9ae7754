//! Derives the next repair of a container that abide runs for itself from its observed state. Pure.

use crate::controller::docker::{AuxiliarySpec, SeenAuxiliary};
use crate::model::observed::ContainerState;

/// The next thing to do with the container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Repair {
    /// None: the container runs as it should.
    None,
    /// Recreate the container, for this reason, because a property cannot be changed in place. This requires
    /// the image; until it is present, the old container keeps running.
    Recreate(String),
    /// Wait, because the engine is busy with the container.
    Wait,
    /// Rename the container, because it has another name.
    Rename,
    /// Change the restart policy, because the engine would restart the container too.
    OwnRestarts,
    /// Unpause the container.
    Unpause,
    /// Start the container.
    Start,
}

/// Returns the next repair that makes `seen` match `spec`.
pub(super) fn repair(spec: &AuxiliarySpec, seen: &SeenAuxiliary) -> Repair {
    if let Some(why) = spec.difference(seen) {
        return Repair::Recreate(why);
    }
    let container = &seen.seen;
    match container.state {
        ContainerState::InTransit => Repair::Wait,
        ContainerState::Dead => Repair::Recreate("the engine failed to remove it".to_owned()),
        ContainerState::Paused => Repair::Unpause,
        ContainerState::Created | ContainerState::Exited(_) => Repair::Start,
        ContainerState::Running if !matches!(container.restart_policy.as_str(), "" | "no") => {
            Repair::OwnRestarts
        }
        ContainerState::Running if container.name != spec.name.as_str() => Repair::Rename,
        ContainerState::Running => Repair::None,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::controller::cache::containers::tests::seen as container;
    use crate::controller::docker::{AuxiliaryImage, AuxiliaryNetwork};
    use crate::model::container::{Exit, label};
    use crate::model::name::{ContainerName, Digest};
    use crate::model::observed::ObservedContainer;
    use crate::model::spec::Publish;
    use crate::model::time::Timestamp;

    fn front() -> AuxiliarySpec {
        AuxiliarySpec {
            role: label::FRONT,
            name: ContainerName::new("abide-front-1").unwrap(),
            image: AuxiliaryImage::Named("nginx".to_owned()),
            env: BTreeMap::new(),
            network: AuxiliaryNetwork::Host {},
            mounts: Vec::new(),
            undeclared: Vec::new(),
            content: None,
            command: vec!["nginx".to_owned()],
            stop_signal: None,
            root_with: None,
            is_stateless: true,
        }
    }

    fn registry() -> AuxiliarySpec {
        AuxiliarySpec {
            role: label::REGISTRY,
            image: AuxiliaryImage::Exact(Digest::of_sha256(&[1; 32])),
            network: AuxiliaryNetwork::Published {
                port: 5000,
                publish: Publish { address: None, port: 5000 },
            },
            command: Vec::new(),
            is_stateless: false,
            ..front()
        }
    }

    /// A container that was created from `spec`, with a change.
    fn seen(spec: &AuxiliarySpec, change: impl FnOnce(&mut SeenAuxiliary)) -> SeenAuxiliary {
        let container = ObservedContainer {
            name: "abide-front-1".to_owned(),
            image: Some(Digest::of_sha256(&[1; 32])),
            restart_policy: "no".to_owned(),
            labels: BTreeMap::from([(label::SPEC.to_owned(), spec.fingerprint())]),
            ..container("c")
        };
        let mut seen = SeenAuxiliary {
            seen: container,
            image: "nginx".to_owned(),
            command: vec!["nginx".to_owned()],
            network_mode: "host".to_owned(),
        };
        change(&mut seen);
        seen
    }

    #[test]
    fn each_state_has_its_own_remedy() {
        for spec in [front(), registry()] {
            let exit = Exit { code: 137, out_of_memory: false, at: Timestamp::default() };
            let of = |change: fn(&mut SeenAuxiliary)| repair(&spec, &seen(&spec, change));
            let state = |state| repair(&spec, &seen(&spec, |seen| seen.seen.state = state));
            assert_eq!(state(ContainerState::Running), Repair::None);
            assert_eq!(state(ContainerState::Exited(exit)), Repair::Start);
            assert_eq!(state(ContainerState::Created), Repair::Start);
            assert_eq!(state(ContainerState::Paused), Repair::Unpause);
            assert_eq!(state(ContainerState::InTransit), Repair::Wait);
            assert!(matches!(state(ContainerState::Dead), Repair::Recreate(_)));
            assert_eq!(of(|seen| seen.seen.name = "other".to_owned()), Repair::Rename);
            assert_eq!(of(|seen| seen.seen.restart_policy = "always".to_owned()), Repair::OwnRestarts);
        }
    }

    #[test]
    fn an_immutable_difference_requires_a_new_container() {
        type Change = fn(&mut SeenAuxiliary);
        let other_image: Change = |seen| seen.seen.image = Some(Digest::of_sha256(&[2; 32]));
        let other_name: Change = |seen| seen.image = "nginx:1.27".to_owned();
        for (spec, change) in [
            (front(), other_name),
            (front(), |seen| seen.command = vec!["sh".to_owned()]),
            (front(), |seen| seen.network_mode = "bridge".to_owned()),
            (registry(), other_image),
            (registry(), |seen| drop(seen.seen.labels.insert(label::SPEC.to_owned(), "other".to_owned()))),
        ] {
            assert!(matches!(repair(&spec, &seen(&spec, change)), Repair::Recreate(_)), "{}", spec.role);
        }
        // The tag of the proxy's image changed, and a registry's image has another name.
        assert_eq!(repair(&front(), &seen(&front(), other_image)), Repair::None);
        assert_eq!(repair(&registry(), &seen(&registry(), other_name)), Repair::None);
        // A proxy that an earlier version of abide created has no such label.
        assert_eq!(repair(&front(), &seen(&front(), |seen| seen.seen.labels.clear())), Repair::None);
    }
}
