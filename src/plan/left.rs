//! An environment that this host no longer runs: which of its containers stays.

use crate::model::memory::{Good, Memory};

/// Returns the notes for clearing away the rest of an interrupted update. Good in them is the version of the
/// container that stays: one that was ready, and of two such containers the running one. `runs` returns
/// whether a container runs, or `None` if it does not exist. `None`: no container here was ever ready.
#[must_use]
pub fn staying(memory: &Memory, runs: impl Fn(&str) -> Option<bool>) -> Option<Memory> {
    let ready: Vec<&Good> = [&memory.good, &memory.next].into_iter().flatten().collect();
    let with = |state: bool| ready.iter().find(|good| runs(&good.container) == Some(state));
    let stays = with(true).or_else(|| with(false))?;
    Some(Memory { good: Some((*stays).clone()), next: None, ..memory.clone() })
}

/// Whether containers with these names are the rest of an interrupted update: two of them, or a new one that has
/// not got its final name yet.
pub fn is_interrupted<'n>(names: impl Iterator<Item = &'n str> + Clone) -> bool {
    names.clone().count() > 1 || names.into_iter().any(|name| name.ends_with(".next"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::desired::Image;
    use crate::model::name::Generation;
    use crate::model::time::Timestamp;

    fn ready(container: &str) -> Good {
        Good {
            generation: Generation(1),
            image: Image { reference: None, digest: None, id: None },
            revision: None,
            container: container.to_owned(),
            at: Timestamp::default(),
            first_ready: Timestamp::default(),
            declared: None,
        }
    }

    #[test]
    fn two_containers_or_a_temporary_name_indicate_an_interrupted_update() {
        let is_interrupted = |names: &[&str]| is_interrupted(names.iter().copied());
        assert!(!is_interrupted(&[]) && !is_interrupted(&["web"]) && !is_interrupted(&["web.nexts"]));
        assert!(is_interrupted(&["web", "web.next"]) && is_interrupted(&["web.next"]));
    }

    #[test]
    fn of_two_ready_containers_the_running_one_is_kept() {
        let memory = Memory { good: Some(ready("old")), next: Some(ready("new")), ..Memory::default() };
        let stays = |old, new| {
            let found = staying(&memory, |id| if id == "old" { old } else { new })?;
            assert_eq!(found.next, None);
            found.good.map(|good| good.container)
        };
        let (up, down, gone) = (Some(true), Some(false), None);
        assert_eq!(stays(up, up).as_deref(), Some("old"));
        assert_eq!(stays(down, up).as_deref(), Some("new"));
        assert_eq!(stays(down, down).as_deref(), Some("old"));
        assert_eq!(stays(gone, down).as_deref(), Some("new"));
        assert_eq!(stays(gone, gone), None);
    }
}
