//! Groups of environments: those of one repository, and those that are promoted from each other.

use std::collections::BTreeMap;

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
    let from = |name: &EnvironmentName| match manifest.environments.get(name).map(|spec| &spec.supply) {
        Some(Supply::Promotion { from }) if names.contains(from) => Some(from.clone()),
        _ => None,
    };
    let followers =
        |of: &EnvironmentName| names.iter().filter(|name| from(name).as_ref() == Some(of)).count();
    let mut roots: Vec<&EnvironmentName> = names.iter().filter(|name| from(name).is_none()).collect();
    roots.sort_by_key(|name| (followers(name) > 0, name.as_str()));
    let (mut steps, mut open) = (Vec::new(), Vec::new());
    for root in roots {
        open.push(root.clone());
        while let Some(name) = open.pop() {
            let mut next: Vec<_> =
                names.iter().filter(|next| from(next).as_ref() == Some(&name)).cloned().collect();
            next.reverse();
            open.extend(next);
            steps.push(LaneStage { from: from(&name), name });
        }
    }
    // A cycle of promotions has no root.
    for name in names {
        if !steps.iter().any(|step| step.name == *name) {
            steps.push(LaneStage { name: name.clone(), from: from(name) });
        }
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::tests::manifest;

    #[test]
    fn environments_of_a_repository_are_one_lane_in_the_order_of_promotion() {
        let manifest = manifest().manifest;
        let groups = groups(&manifest, manifest.environments.keys());
        let names = |group: &Group| group.steps.iter().map(|step| step.name.to_string()).collect::<Vec<_>>();
        let all: Vec<_> = groups.iter().map(|group| (group.title.as_str(), names(group))).collect();
        let lane = ["dev", "test", "prod"].map(str::to_owned).to_vec();
        assert_eq!(all, [("keepwork", lane), ("lab", vec!["lab".to_owned()])]);
        assert_eq!(groups[0].steps[2].from.as_ref().map(ToString::to_string), Some("test".to_owned()));
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
