//! Derives the next repair of the front's container from its observed state. Pure.

use crate::controller::docker::{FrontOptions, SeenFront};
use crate::model::observed::ContainerState;

/// The next thing to do with the container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Care {
    /// None: the container runs as it should.
    None,
    /// Recreate the container, for this reason, because a property cannot be changed in place. This requires
    /// the image; until it is present, the old container keeps serving.
    Remake(String),
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

/// Returns the next repair that makes `seen` match `options`.
pub(super) fn care(options: &FrontOptions, seen: &SeenFront) -> Care {
    if let Some(why) = difference(options, seen) {
        return Care::Remake(why);
    }
    let container = &seen.seen;
    match container.state {
        ContainerState::InTransit => Care::Wait,
        ContainerState::Dead => Care::Remake("the engine could not remove it".to_owned()),
        ContainerState::Paused => Care::Unpause,
        ContainerState::Created | ContainerState::Exited(_) => Care::Start,
        ContainerState::Running if !matches!(container.restart_policy.as_str(), "" | "no") => {
            Care::OwnRestarts
        }
        ContainerState::Running if container.name != options.name.as_str() => Care::Rename,
        ContainerState::Running => Care::None,
    }
}

/// Returns the first difference among the properties that are fixed at creation.
fn difference(options: &FrontOptions, seen: &SeenFront) -> Option<String> {
    if seen.image != options.image {
        // Compared by name: a moved tag does not justify an interruption.
        return Some(format!("its image is {}, not {}", seen.image, options.image));
    }
    if seen.command != options.command {
        return Some("it runs another command".to_owned());
    }
    if seen.network_mode != "host" {
        return Some(format!("it is on the network {}, not on the host's", seen.network_mode));
    }
    None
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::model::container::Exit;
    use crate::model::name::ContainerName;
    use crate::model::observed::{EngineHealth, SeenContainer, SeenMounts};
    use crate::model::time::Timestamp;

    fn options() -> FrontOptions {
        FrontOptions {
            name: ContainerName::new("abide-front-1").unwrap(),
            image: "nginx".to_owned(),
            command: vec!["nginx".to_owned()],
            labels: BTreeMap::new(),
        }
    }

    fn seen(change: impl FnOnce(&mut SeenFront)) -> SeenFront {
        let container = SeenContainer {
            id: "c".to_owned(),
            name: "abide-front-1".to_owned(),
            image: None,
            state: ContainerState::Running,
            engine_health: EngineHealth::NoCheck,
            created_at: Timestamp::default(),
            started_at: None,
            command: Vec::new(),
            env: BTreeMap::new(),
            published: BTreeMap::new(),
            mounts: SeenMounts::default(),
            extra_hosts: Vec::new(),
            memory: None,
            nano_cpus: None,
            pids: None,
            init: false,
            restart_policy: "no".to_owned(),
            networks: BTreeMap::new(),
            joined: None,
            last_output: None,
            labels: BTreeMap::new(),
        };
        let mut seen = SeenFront {
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
        let exit = Exit { code: 137, out_of_memory: false, at: Timestamp::default() };
        let state = |state| care(&options(), &seen(|seen| seen.seen.state = state));
        assert_eq!(state(ContainerState::Running), Care::None);
        assert_eq!(state(ContainerState::Exited(exit)), Care::Start);
        assert_eq!(state(ContainerState::Created), Care::Start);
        assert_eq!(state(ContainerState::Paused), Care::Unpause);
        assert_eq!(state(ContainerState::InTransit), Care::Wait);
        assert!(matches!(state(ContainerState::Dead), Care::Remake(_)));
        assert_eq!(care(&options(), &seen(|seen| seen.seen.name = "other".to_owned())), Care::Rename);
        let policy = seen(|seen| seen.seen.restart_policy = "always".to_owned());
        assert_eq!(care(&options(), &policy), Care::OwnRestarts);
    }

    #[test]
    fn what_cannot_be_changed_in_place_needs_a_new_container() {
        for change in [
            (|seen: &mut SeenFront| seen.image = "nginx:1.27".to_owned()) as fn(&mut SeenFront),
            |seen| seen.command = vec!["sh".to_owned()],
            |seen| seen.network_mode = "bridge".to_owned(),
        ] {
            assert!(matches!(care(&options(), &seen(change)), Care::Remake(_)));
        }
    }
}
