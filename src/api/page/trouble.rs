//! The problems that need attention, first on the board. The members of a group are one entry, because they change
//! together.

use std::collections::BTreeMap;

use askama::Template;

use super::board::{BoardOverview, counted};
use super::guard::Visit;
use super::status::{Badge, urgency};
use super::text::{PageClock, sentence};
use crate::model::desired::HistoryEntry;
use crate::model::name::{EnvironmentName, Generation, GroupName};
use crate::model::time::Timestamp;
use crate::model::view::{EnvironmentView, GroupView};

/// The most entries that are shown with a sentence; the others are named.
pub(super) const MOST_TROUBLED: usize = 20;

#[derive(Template)]
#[template(path = "trouble.html")]
pub(super) struct Trouble<'a> {
    root: &'a str,
    clock: PageClock,
    heading: String,
    rows: Vec<TroubleRow>,
    /// Further entries: the path and the name.
    others: Vec<(String, String)>,
}

struct TroubleRow {
    name: String,
    /// The path of its page.
    path: String,
    badge: Badge,
    since: Option<Timestamp>,
    host: Option<String>,
    message: String,
    next_retry: Option<Timestamp>,
    /// The generation to roll back to.
    good: Option<Generation>,
    /// Whether the visitor may roll it back.
    may_roll_back: bool,
    /// The environment whose log shows the cause.
    log_of: EnvironmentName,
}

impl<'a> Trouble<'a> {
    pub(super) fn new(
        visit: &'a Visit,
        clock: PageClock,
        overview: &BoardOverview,
        troubled: &[TroubledUnit<'_>],
    ) -> Self {
        let is_alone = |unit: &TroubledUnit<'_>| unit.group.is_none();
        let what = match (troubled.iter().all(is_alone), troubled.iter().any(is_alone)) {
            (true, _) => counted(troubled.len(), "environment", "environments"),
            (false, true) => format!("{} environments and groups", troubled.len()),
            (false, false) => counted(troubled.len(), "group", "groups"),
        };
        let needs = if troubled.len() == 1 { "needs" } else { "need" };
        let others = troubled.iter().skip(MOST_TROUBLED).map(|unit| (unit.path(), unit.name().to_owned()));
        Self {
            root: &visit.site.prefix,
            clock,
            heading: format!("{what} {needs} a look"),
            rows: troubled.iter().take(MOST_TROUBLED).map(|unit| unit.row(visit, overview)).collect(),
            others: others.collect(),
        }
    }
}

/// An environment in trouble, or a group with a member in trouble.
pub(super) struct TroubledUnit<'a> {
    /// The environment, or the member with the most urgent trouble.
    view: &'a EnvironmentView,
    group: Option<&'a GroupView>,
}

impl TroubledUnit<'_> {
    fn name(&self) -> &str {
        self.group.map_or(self.view.environment.as_str(), |group| group.group.as_str())
    }

    fn path(&self) -> String {
        let kind = if self.group.is_some() { "groups" } else { "environments" };
        format!("/{kind}/{}", self.name())
    }

    fn row(&self, visit: &Visit, overview: &BoardOverview) -> TroubleRow {
        let view = self.view;
        let name = &view.environment;
        let acts_on = EnvironmentName::new(self.name()).ok();
        let may_move = acts_on.is_some_and(|name| visit.may_move(&name));
        let is_declared = overview.manifest.manifest.environments.contains_key(name);
        let good = overview.histories.get(name).and_then(|history| last_good(history, view.generation));
        TroubleRow {
            name: self.name().to_owned(),
            path: self.path(),
            badge: Badge::of(view),
            since: view.since,
            host: view.host.clone(),
            message: sentence(self.group.map_or(&view.message, |group| &group.message)),
            next_retry: view.next_retry,
            may_roll_back: good.is_some() && may_move && is_declared,
            good: good.filter(|_| self.group.is_none() && may_move && is_declared),
            log_of: name.clone(),
        }
    }
}

/// The units that need attention, the most urgent first, then the oldest problem.
pub(super) fn troubled<'a>(
    views: &'a [EnvironmentView],
    groups: &'a BTreeMap<GroupName, GroupView>,
) -> Vec<TroubledUnit<'a>> {
    let mut troubled: Vec<_> = views.iter().filter_map(|view| Some((urgency(view)?, view))).collect();
    troubled.sort_by_key(|(urgency, view)| (*urgency, view.since.unwrap_or_default()));
    let mut units: Vec<TroubledUnit<'a>> = Vec::new();
    for (_, view) in troubled {
        let group = view.group.as_ref().and_then(|group| groups.get(group));
        let is_there = group.is_some_and(|group| {
            units.iter().any(|unit| unit.group.is_some_and(|known| known.group == group.group))
        });
        if !is_there {
            units.push(TroubledUnit { view, group });
        }
    }
    units
}

/// The newest earlier generation that became ready with another image than the current one.
pub(super) fn last_good(history: &[HistoryEntry], current: Generation) -> Option<Generation> {
    let now = history.iter().find(|kept| kept.entry.generation == current)?;
    HistoryEntry::last_good(history, &now.entry).map(|(good, _)| good.generation)
}
