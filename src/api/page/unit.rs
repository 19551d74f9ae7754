//! The units of the board: environments, and groups, whose members change as one.

use super::board::counted;
use super::card::Card;
use super::status::Badge;
use super::text::sentence;
use crate::model::name::{EnvironmentName, GroupName};
use crate::model::spec::Manifest;
use crate::model::time::Timestamp;
use crate::model::view::{EnvironmentView, GroupView};

/// An environment that belongs to no group, or a group.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum BoardUnit {
    Environment(EnvironmentName),
    Group(GroupName),
}

impl BoardUnit {
    /// The unit of an environment.
    pub(super) fn of(manifest: &Manifest, name: &EnvironmentName) -> Self {
        let group = manifest.environments.get(name).and_then(|spec| spec.group.clone());
        group.map_or_else(|| Self::Environment(name.clone()), Self::Group)
    }

    pub(super) fn as_str(&self) -> &str {
        match self {
            Self::Environment(name) => name.as_str(),
            Self::Group(name) => name.as_str(),
        }
    }

    /// Whether the manifest declares it.
    pub(super) fn is_declared(&self, manifest: &Manifest) -> bool {
        match self {
            Self::Environment(name) => manifest.environments.contains_key(name),
            Self::Group(group) => manifest.members(group).next().is_some(),
        }
    }

    /// The unit that its versions are promoted from. All promoted members of a group come from one group.
    pub(super) fn promoted_from(&self, manifest: &Manifest) -> Option<Self> {
        let from = match self {
            Self::Environment(name) => manifest.promoted_from(name),
            Self::Group(group) => manifest.members(group).find_map(|member| manifest.promoted_from(member)),
        };
        from.map(|from| Self::of(manifest, from)).filter(|from| from != self)
    }
}

/// A group in a few lines.
pub(super) struct GroupCard {
    pub(super) name: String,
    pub(super) badge: Badge,
    /// The missing conditions for Ready.
    pub(super) message: Option<String>,
    pub(super) members: Vec<MemberCard>,
    /// The origin of its versions.
    pub(super) source: Option<String>,
    pub(super) host: Option<String>,
    /// How far the group that it is promoted from is ahead.
    pub(super) ahead: Option<String>,
    /// When one of its members changed last.
    pub(super) since: Option<Timestamp>,
}

/// One member in a line.
pub(super) struct MemberCard {
    /// Its name within the group.
    pub(super) short: String,
    pub(super) name: EnvironmentName,
    pub(super) badge: Badge,
    pub(super) version: String,
    pub(super) generation: u64,
}

impl GroupCard {
    /// The card of a group. `cards` has those of its members, and `views` all environments.
    pub(super) fn new(
        manifest: &Manifest,
        group: &GroupView,
        views: &[EnvironmentView],
        card_of: impl Fn(&EnvironmentName) -> Option<(String, u64)>,
    ) -> Self {
        let own = |view: &&EnvironmentView| view.group.as_ref() == Some(&group.group);
        let members: Vec<&EnvironmentView> = views.iter().filter(own).collect();
        let decisive = members.iter().find(|view| view.environment == group.decisive);
        let member = |view: &&EnvironmentView| {
            let (version, generation) = card_of(&view.environment).unwrap_or_default();
            MemberCard {
                short: group.group.short(&view.environment).to_owned(),
                name: view.environment.clone(),
                badge: Badge::of(view),
                version,
                generation,
            }
        };
        let badge = decisive.map_or(Badge { look: "unsure", word: "Unsure" }, |view| Badge::of(view));
        let from = BoardUnit::Group(group.group.clone()).promoted_from(manifest);
        Self {
            name: group.group.to_string(),
            badge,
            message: Some(sentence(&group.message)).filter(|_| badge.look != "ready"),
            members: members.iter().map(member).collect(),
            source: from.map(|from| format!("from {}", from.as_str())),
            host: members.iter().find_map(|view| view.host.clone()),
            ahead: ahead(manifest, &members, views),
            since: members.iter().filter_map(|view| view.since).max(),
        }
    }

    /// `group of 3`.
    pub(super) fn size(&self) -> String {
        format!("group of {}", self.members.len())
    }
}

/// How many members would get another version by a promotion; `None`: none is promoted, or no source has a version.
fn ahead(manifest: &Manifest, members: &[&EnvironmentView], all: &[EnvironmentView]) -> Option<String> {
    let pair = |to: &&EnvironmentView| {
        let from = manifest.promoted_from(&to.environment)?;
        let from = all.iter().find(|view| view.environment == *from)?.image.as_ref()?;
        Some(to.image.as_ref().is_none_or(|image| !image.is_same(from)))
    };
    let differ: Vec<bool> = members.iter().filter_map(pair).collect();
    match differ.iter().filter(|differs| **differs).count() {
        _ if differ.is_empty() => None,
        0 => Some("same versions".to_owned()),
        count => Some(format!("{} ahead", counted(count, "member", "members"))),
    }
}

/// The card of a unit.
#[derive(Clone, Copy)]
pub(super) enum BoardCard<'a> {
    Environment(&'a Card),
    Group(&'a GroupCard),
}

impl BoardCard<'_> {
    pub(super) fn name(&self) -> &str {
        match self {
            Self::Environment(card) => &card.name,
            Self::Group(card) => &card.name,
        }
    }

    pub(super) fn badge(&self) -> Badge {
        match self {
            Self::Environment(card) => card.badge,
            Self::Group(card) => card.badge,
        }
    }

    pub(super) fn ahead(&self) -> Option<&str> {
        match self {
            Self::Environment(card) => card.ahead.as_deref(),
            Self::Group(card) => card.ahead.as_deref(),
        }
    }

    pub(super) fn host(&self) -> &str {
        let host = match self {
            Self::Environment(card) => &card.host,
            Self::Group(card) => &card.host,
        };
        host.as_deref().unwrap_or_default()
    }

    /// Whether a search for this text, in lower case, finds it.
    pub(super) fn has(&self, text: &str) -> bool {
        let has = |found: &str| found.to_lowercase().contains(text);
        has(self.name())
            || has(self.host())
            || match self {
                Self::Environment(card) => has(&card.source) || has(&card.subject),
                Self::Group(card) => card.source.as_deref().is_some_and(has),
            }
    }
}
