//! Groups of environments: those of one repository, and those that are promoted from each other.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::name::EnvironmentName;
use crate::model::remote_url::RemoteUrl;
use crate::model::spec::{Manifest, Supply};

/// Environments that belong together, in the order of promotion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Group {
    /// A word for `id` attributes.
    pub(super) id: String,
    /// Its name.
    pub(super) title: String,
    /// The repository without credentials, or nothing.
    pub(super) about: String,
    pub(super) steps: Vec<LaneStage>,
}

/// One environment of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LaneStage {
    pub(super) name: EnvironmentName,
    /// The environment that it is promoted from.
    pub(super) from: Option<EnvironmentName>,
}

/// Returns the groups of `names`, ordered by title. An environment that belongs to nothing is a group of its own.
pub(super) fn groups<'a>(
    manifest: &Manifest,
    names: impl IntoIterator<Item = &'a EnvironmentName>,
) -> Vec<Group> {
    let mut by_source: BTreeMap<(u8, String), Vec<EnvironmentName>> = BTreeMap::new();
    for name in names {
        by_source.entry(source(manifest, name)).or_default().push(name.clone());
    }
    let group = |((kind, title), names): ((u8, String), Vec<EnvironmentName>)| {
        let repository = manifest.repositories.iter().find(|(name, _)| kind == 0 && name.as_str() == title);
        let about = repository.map_or_else(String::new, |(_, spec)| shown(&spec.url));
        Group { id: format!("{kind}-{title}"), title, about, steps: in_order(manifest, &names) }
    };
    by_source.into_iter().map(group).collect()
}

/// A repository's URL without credentials and scheme.
pub(super) fn shown(url: &str) -> String {
    let shown = RemoteUrl::parse(url).map(|url| url.shown).unwrap_or_default();
    let shown = shown.split_once("://").map_or(shown.as_str(), |(_, rest)| rest);
    shown.trim_end_matches(".git").to_owned()
}

/// The name of the repository that an environment is built from, else of the first environment of its chain.
fn source(manifest: &Manifest, name: &EnvironmentName) -> (u8, String) {
    let mut at = name;
    // Declared promotions could form a cycle.
    for _ in 0..=manifest.environments.len() {
        match manifest.environments.get(at).map(|spec| &spec.supply) {
            Some(Supply::Promotion { from }) if manifest.environments.contains_key(from) => at = from,
            Some(Supply::Branch { repository, .. }) => return (0, repository.to_string()),
            _ => break,
        }
    }
    (1, at.to_string())
}

/// Roots without followers first, then each root with everything that is promoted from it.
fn in_order(manifest: &Manifest, names: &[EnvironmentName]) -> Vec<LaneStage> {
    let known: BTreeSet<&EnvironmentName> = names.iter().collect();
    let from = |name: &EnvironmentName| manifest.promoted_from(name).filter(|from| known.contains(from));
    let mut followers: BTreeMap<&EnvironmentName, Vec<&EnvironmentName>> = BTreeMap::new();
    for name in names {
        if let Some(from) = from(name) {
            followers.entry(from).or_default().push(name);
        }
    }
    let mut roots: Vec<&EnvironmentName> = names.iter().filter(|name| from(name).is_none()).collect();
    roots.sort_by_key(|name| (followers.contains_key(name), name.as_str()));
    let (mut order, mut placed) = (Vec::new(), BTreeSet::new());
    // A cycle of promotions has no root.
    for begin in roots.into_iter().chain(names) {
        let mut open = vec![begin];
        while let Some(name) = open.pop() {
            if placed.insert(name) {
                order.push(name);
                open.extend(followers.get(name).into_iter().flatten().rev());
            }
        }
    }
    order.into_iter().map(|name| LaneStage { name: name.clone(), from: from(name).cloned() }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::tests::manifest;

    #[test]
    fn environments_of_a_repository_form_one_lane_in_promotion_order() {
        let manifest = manifest().manifest;
        let groups = groups(&manifest, manifest.environments.keys());
        let names = |group: &Group| group.steps.iter().map(|step| step.name.to_string()).collect::<Vec<_>>();
        let all: Vec<_> = groups.iter().map(|group| (group.title.as_str(), names(group))).collect();
        let lane = ["dev", "test", "prod"].map(str::to_owned).to_vec();
        assert_eq!(all, [("keepwork", lane), ("lab", vec!["lab".to_owned()])]);
        assert_eq!(groups[0].steps[2].from.as_ref().map(ToString::to_string), Some("test".to_owned()));
    }

    #[test]
    fn environments_that_are_promoted_in_a_circle_are_shown_once() {
        let mut manifest = manifest().manifest;
        let name = |text: &str| EnvironmentName::new(text).unwrap();
        let from = |from: &str| Supply::Promotion { from: name(from) };
        for (one, other) in [("dev", "prod"), ("test", "dev"), ("prod", "test")] {
            manifest.environments.get_mut(&name(one)).unwrap().supply = from(other);
        }
        let steps = in_order(&manifest, &["dev", "prod", "test"].map(name));
        let names: Vec<_> = steps.iter().map(|step| step.name.as_str()).collect();
        assert_eq!(names, ["dev", "test", "prod"]);
    }

    #[test]
    fn a_repository_is_shown_without_its_password() {
        for (url, expected) in [
            ("https://github.com/tatfook/wikicraft.git", "github.com/tatfook/wikicraft"),
            ("https://user@github.com/x.git", "github.com/x"),
            ("/srv/git/x.git", "/srv/git/x"),
        ] {
            assert_eq!(shown(url), expected);
        }
    }
}
