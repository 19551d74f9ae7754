//! The rules of the manifest for the outbox: the news of each channel, and the commits that each forge shows.

use std::collections::{BTreeMap, BTreeSet};

use super::{Announcement, News, OutboxTarget};
use crate::model::name::{ChannelName, EnvironmentName, RepositoryName};

/// The receivers that the manifest chooses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OutboxRules {
    /// The channels.
    pub channels: BTreeMap<ChannelName, ChannelRule>,
    /// The repositories whose forges show the commits of an environment.
    pub forges: BTreeMap<EnvironmentName, ForgeRule>,
}

/// The news that a channel gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChannelRule {
    /// The kinds of news.
    pub on: BTreeSet<News>,
    /// The environments; `None`: all.
    pub environments: Option<BTreeSet<EnvironmentName>>,
}

/// How a forge shows the commits of an environment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForgeRule {
    /// The repository.
    pub repository: RepositoryName,
    /// Whether the forge shows deployments too.
    pub deployments: bool,
    /// Whether commits wait for their checks.
    pub awaits_checks: bool,
}

impl ChannelRule {
    /// The kind of news as which the channel gets `announcement`; `None`: it does not.
    pub fn takes(&self, announcement: &Announcement) -> Option<News> {
        let environment = announcement.subject.environment();
        let is_chosen = match (&self.environments, environment) {
            (Some(chosen), Some(environment)) => chosen.contains(environment),
            (Some(_) | None, None) | (None, Some(_)) => true,
        };
        let mut kinds = [Some(announcement.news), announcement.also].into_iter().flatten();
        kinds.find(|news| is_chosen && self.on.contains(news))
    }
}

impl OutboxRules {
    /// The current targets.
    pub fn targets(&self) -> BTreeSet<OutboxTarget> {
        let channels = self.channels.keys().cloned().map(OutboxTarget::Channel);
        let forges = self.forges.values().map(|rule| OutboxTarget::Forge(rule.repository.clone()));
        channels.chain(forges).collect()
    }
}
