//! Lanes of the board: units of one repository, and units that are promoted from each other.

use std::collections::{BTreeMap, BTreeSet};

use super::unit::BoardUnit;
use crate::model::name::{EnvironmentName, GroupName};
use crate::model::remote_url::RemoteUrl;
use crate::model::spec::{Manifest, Supply};

/// Units that belong together, in the order of promotion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Lane {
    /// A word for `id` attributes.
    pub(super) id: String,
    /// Its name.
    pub(super) title: String,
    /// The repositories without credentials, or nothing.
    pub(super) about: String,
    pub(super) steps: Vec<LaneStage>,
}

/// One unit of a lane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LaneStage {
    pub(super) unit: BoardUnit,
    /// The unit that it is promoted from.
    pub(super) from: Option<BoardUnit>,
}

impl LaneStage {
    /// Its environments.
    pub(super) fn environments(&self, manifest: &Manifest) -> Vec<EnvironmentName> {
        match &self.unit {
            BoardUnit::Environment(name) => vec![name.clone()],
            BoardUnit::Group(group) => manifest.members(group).cloned().collect(),
        }
    }
}

/// The origin of a lane's versions.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum LaneSource {
    Repository(String),
    Environment(String),
    Group(GroupName),
}

/// Returns the lanes of `names`, ordered by title: those of repositories first, those of groups last. A unit that
/// belongs to nothing is a lane too.
pub(super) fn lanes<'a>(
    manifest: &Manifest,
    names: impl IntoIterator<Item = &'a EnvironmentName>,
) -> Vec<Lane> {
    let units: BTreeSet<BoardUnit> = names.into_iter().map(|name| BoardUnit::of(manifest, name)).collect();
    let mut by_source: BTreeMap<LaneSource, Vec<BoardUnit>> = BTreeMap::new();
    for unit in units {
        by_source.entry(source(manifest, &unit)).or_default().push(unit);
    }
    let lane = |(source, units): (LaneSource, Vec<BoardUnit>)| {
        let steps = in_order(manifest, &units);
        match source {
            LaneSource::Repository(title) => {
                let repository = manifest.repositories.iter().find(|(name, _)| name.as_str() == title);
                let about = repository.map_or_else(String::new, |(_, spec)| shown(&spec.url));
                Lane { id: format!("0-{title}"), title, about, steps }
            }
            LaneSource::Environment(title) => {
                Lane { id: format!("1-{title}"), title, about: String::new(), steps }
            }
            LaneSource::Group(group) => {
                let about = repositories(manifest, &group).join(", ");
                Lane { id: format!("2-{group}"), title: group.to_string(), about, steps }
            }
        }
    };
    by_source.into_iter().map(lane).collect()
}

/// The repositories that the members of a group are built from.
fn repositories(manifest: &Manifest, group: &GroupName) -> Vec<String> {
    let of = |name: &EnvironmentName| match &manifest.environments.get(name)?.supply {
        Supply::Branch { repository, .. } => Some(shown(&manifest.repositories.get(repository)?.url)),
        _ => None,
    };
    manifest.members(group).filter_map(of).collect::<BTreeSet<_>>().into_iter().collect()
}

/// A repository's URL without credentials and scheme.
pub(super) fn shown(url: &str) -> String {
    let shown = RemoteUrl::parse(url).map(|url| url.shown).unwrap_or_default();
    let shown = shown.split_once("://").map_or(shown.as_str(), |(_, rest)| rest);
    shown.trim_end_matches(".git").to_owned()
}

/// The source of a unit, else of the first unit of its chain.
fn source(manifest: &Manifest, unit: &BoardUnit) -> LaneSource {
    let mut at = unit.clone();
    // Declared promotions could form a cycle.
    for _ in 0..=manifest.environments.len() {
        match at.promoted_from(manifest) {
            Some(from) if from.is_declared(manifest) => at = from,
            _ => break,
        }
    }
    match at {
        BoardUnit::Group(group) => LaneSource::Group(group),
        BoardUnit::Environment(name) => match manifest.environments.get(&name).map(|spec| &spec.supply) {
            Some(Supply::Branch { repository, .. }) => LaneSource::Repository(repository.to_string()),
            _ => LaneSource::Environment(name.to_string()),
        },
    }
}

/// Roots without followers first, then each root with everything that is promoted from it.
fn in_order(manifest: &Manifest, units: &[BoardUnit]) -> Vec<LaneStage> {
    let known: BTreeSet<&BoardUnit> = units.iter().collect();
    let from = |unit: &BoardUnit| unit.promoted_from(manifest).filter(|from| known.contains(from));
    let mut followers: BTreeMap<BoardUnit, Vec<&BoardUnit>> = BTreeMap::new();
    for unit in units {
        if let Some(from) = from(unit) {
            followers.entry(from).or_default().push(unit);
        }
    }
    let mut roots: Vec<&BoardUnit> = units.iter().filter(|unit| from(unit).is_none()).collect();
    roots.sort_by_key(|unit| (followers.contains_key(*unit), unit.as_str()));
    let (mut order, mut placed) = (Vec::new(), BTreeSet::new());
    // A cycle of promotions has no root.
    for begin in roots.into_iter().chain(units) {
        let mut open = vec![begin];
        while let Some(unit) = open.pop() {
            if placed.insert(unit) {
                order.push(unit);
                open.extend(followers.get(unit).into_iter().flatten().rev());
            }
        }
    }
    order.into_iter().map(|unit| LaneStage { unit: unit.clone(), from: from(unit) }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::tests::{manifest, shops};

    fn units(lane: &Lane) -> Vec<&str> {
        lane.steps.iter().map(|step| step.unit.as_str()).collect()
    }

    #[test]
    fn the_groups_of_a_chain_form_one_lane_in_promotion_order() {
        let manifest = shops().manifest;
        let lanes = lanes(&manifest, manifest.environments.keys());
        let [shop] = lanes.iter().filter(|lane| lane.id.starts_with("2-")).collect::<Vec<_>>()[..] else {
            panic!("{lanes:?}")
        };
        assert_eq!((shop.title.as_str(), units(shop)), ("shop-test", vec!["shop-test", "shop-prod"]));
        assert_eq!(shop.steps[1].from.as_ref().map(BoardUnit::as_str), Some("shop-test"));
        let members = ["shop-prod-db", "shop-prod-web"].map(|name| EnvironmentName::new(name).unwrap());
        assert_eq!(shop.steps[1].environments(&manifest), members);
    }

    #[test]
    fn environments_of_a_repository_form_one_lane_in_promotion_order() {
        let manifest = manifest().manifest;
        let lanes = lanes(&manifest, manifest.environments.keys());
        let all: Vec<_> = lanes.iter().map(|lane| (lane.title.as_str(), units(lane))).collect();
        assert_eq!(all, [("keepwork", vec!["dev", "test", "prod"]), ("lab", vec!["lab"])]);
        assert_eq!(lanes[0].steps[2].from.as_ref().map(BoardUnit::as_str), Some("test"));
    }

    #[test]
    fn environments_that_are_promoted_in_a_circle_are_shown_once() {
        let mut manifest = manifest().manifest;
        let name = |text: &str| EnvironmentName::new(text).unwrap();
        let from = |from: &str| Supply::Promotion { from: name(from) };
        for (one, other) in [("dev", "prod"), ("test", "dev"), ("prod", "test")] {
            manifest.environments.get_mut(&name(one)).unwrap().supply = from(other);
        }
        let steps = in_order(&manifest, &["dev", "prod", "test"].map(name).map(BoardUnit::Environment));
        let names: Vec<_> = steps.iter().map(|step| step.unit.as_str()).collect();
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
