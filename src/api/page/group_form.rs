//! The forms that change or judge a group: one write for all its members.

use super::act::{Act, Typed, full_image, shown_image};
use crate::api::verbs::member_goal;
use crate::model::desired::HistoryEntry;
use crate::model::name::{EnvironmentName, Generation, GroupName};
use crate::model::view::EnvironmentView;

/// One form of a group with its fields as they were typed.
pub(super) struct GroupForm {
    pub(super) act: Act,
    pub(super) root: String,
    pub(super) name: String,
    /// The state of each member on the page.
    pub(super) seen: Vec<SeenMember>,
    /// The effect of a rollback on each member, or why it is not possible.
    pub(super) way_back: Result<Vec<String>, String>,
    /// The members whose images are judged.
    pub(super) judged: Vec<JudgedMember>,
    /// The group or environment whose promotion page the form is on.
    pub(super) back: Option<EnvironmentName>,
    pub(super) typed: Typed,
    is_held: bool,
}

/// A member whose image is judged.
pub(super) struct JudgedMember {
    pub(super) name: EnvironmentName,
    /// The name within the group.
    pub(super) short: String,
    /// The recorded image.
    pub(super) digest: String,
    /// The same, shortened.
    pub(super) image: String,
}

impl JudgedMember {
    /// The member with its recorded image; `None` if it has none.
    pub(super) fn new(group: &GroupName, view: &EnvironmentView) -> Option<Self> {
        let (name, digest) = (view.environment.clone(), full_image(view.image.as_ref()));
        let (short, image) = (group.short(&name).to_owned(), shown_image(view.image.as_ref()));
        (!digest.is_empty()).then_some(Self { name, short, digest, image })
    }
}

/// The generation of a member that the visitor sees.
pub(super) struct SeenMember {
    pub(super) name: EnvironmentName,
    pub(super) generation: Generation,
}

/// The members of a group, with the history of each.
pub(super) type MembersWithHistory = [(EnvironmentView, Vec<HistoryEntry>)];

impl GroupForm {
    /// The form of `act` with empty fields.
    pub(super) fn new(
        act: Act,
        root: &str,
        group: &GroupName,
        members: &MembersWithHistory,
        typed: Typed,
    ) -> Self {
        Self {
            act,
            root: root.to_owned(),
            name: group.to_string(),
            seen: seen(members.iter().map(|(view, _)| view)),
            way_back: if act == Act::Rollback { way_back(group, members) } else { Ok(Vec::new()) },
            judged: Vec::new(),
            back: None,
            typed,
            is_held: members.iter().any(|(view, _)| view.held.is_some()),
        }
    }

    /// The same form about the images of these members, on the promotion page of `back`.
    pub(super) fn judging(self, judged: Vec<JudgedMember>, back: Option<EnvironmentName>) -> Self {
        Self { judged, back, ..self }
    }

    /// Whether the state of the group allows it.
    pub(super) fn is_possible(&self) -> bool {
        match self.act {
            Act::Resume => self.is_held,
            Act::Hold => !self.is_held,
            Act::Rollback => self.way_back.as_ref().is_ok_and(|steps| !steps.is_empty()),
            Act::Sync => true,
            Act::Approve | Act::Reject | Act::Withdraw => !self.judged.is_empty(),
            Act::Promote | Act::Set | Act::CanaryPromote | Act::CanaryAbort => false,
        }
    }
}

/// The state of these members on the page.
pub(super) fn seen<'v>(views: impl Iterator<Item = &'v EnvironmentView>) -> Vec<SeenMember> {
    views.map(|view| SeenMember { name: view.environment.clone(), generation: view.generation }).collect()
}

/// The effect of a rollback of the group on each member, in words.
fn way_back(group: &GroupName, members: &MembersWithHistory) -> Result<Vec<String>, String> {
    let entry = |(view, history): &(EnvironmentView, Vec<HistoryEntry>)| {
        let current = history.iter().find(|kept| kept.entry.generation == view.generation);
        current.map(|kept| kept.entry.clone()).unwrap_or_default()
    };
    let currents: Vec<_> = members.iter().map(entry).collect();
    let newest = currents.iter().map(|entry| entry.at).max();
    let mut steps = Vec::new();
    for ((view, history), current) in members.iter().zip(&currents) {
        let short = group.short(&view.environment);
        let goal = member_goal(history, current, newest, None).map_err(|why| format!("{short}: {why}"))?;
        steps.push(match goal {
            Some((back, image)) => format!(
                "{short} runs image {} of generation {} in place of {}",
                shown_image(Some(image)),
                back.generation,
                shown_image(current.image.as_ref())
            ),
            None => format!("{short} did not change last, and keeps its version"),
        });
    }
    Ok(steps)
}
