//! The forms that change the record or judge an image, and the notices about their results.

use super::card::{moved, short_name};
use crate::model::desired::{HistoryEntry, Image, Outcome};
use crate::model::name::{Digest, EnvironmentName, Generation};
use crate::model::spec::{EnvironmentSpec, Supply};
use crate::model::time::Timestamp;
use crate::model::view::{CanaryView, EnvironmentView};

/// The most generations to choose from.
const CHOICES: usize = 20;

/// The action of a form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Act {
    /// Promotes an image to the environment.
    Promote,
    /// Records an earlier generation again.
    Rollback,
    /// Records a commit or an image.
    Set,
    /// Keeps the environment unchanged.
    Hold,
    /// Ends a hold.
    Resume,
    /// Lets a canary take over.
    CanaryPromote,
    /// Removes a canary.
    CanaryAbort,
    /// Checks now.
    Sync,
    /// Approves an image.
    Approve,
    /// Rejects an image.
    Reject,
    /// Withdraws the rejection of an image.
    Withdraw,
}

impl Act {
    /// The action as the beginning of a heading.
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Promote => "Promote to",
            Self::Rollback => "Roll back",
            Self::Set => "Set",
            Self::Hold => "Hold",
            Self::Resume => "Resume",
            Self::CanaryPromote => "Promote the canary of",
            Self::CanaryAbort => "Abort the canary of",
            Self::Sync => "Check",
            Self::Approve => "Approve the image of",
            Self::Reject => "Reject the image of",
            Self::Withdraw => "Withdraw the rejection in",
        }
    }

    /// The last part of its path.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Promote => "promote",
            Self::Rollback => "rollback",
            Self::Set => "set",
            Self::Hold => "hold",
            Self::Resume => "resume",
            Self::CanaryPromote => "canary-promote",
            Self::CanaryAbort => "canary-abort",
            Self::Sync => "sync",
            Self::Approve => "approve",
            Self::Reject => "reject",
            Self::Withdraw => "withdraw",
        }
    }

    /// Whether it judges an image instead of changing the record.
    pub(super) fn is_judgement(self) -> bool {
        matches!(self, Self::Approve | Self::Reject | Self::Withdraw)
    }
}

/// One form with its fields as they were typed.
pub(super) struct ActionForm {
    pub(super) act: Act,
    pub(super) root: String,
    pub(super) name: String,
    /// The generation that the visitor sees.
    pub(super) seen: Generation,
    /// The generations to roll back to.
    pub(super) choices: Vec<RollbackChoice>,
    /// The recorded image, shortened.
    pub(super) image: String,
    /// The recorded image, for forms that are about it.
    pub(super) digest: String,
    /// The environment whose promotion page the form is on.
    pub(super) back: Option<EnvironmentName>,
    /// Whether `set` takes a commit.
    pub(super) builds: bool,
    pub(super) typed: Typed,
}

/// The typed values.
#[derive(Clone, Debug, Default)]
pub(super) struct Typed {
    pub(super) reason: String,
    pub(super) note: String,
    pub(super) what: String,
    pub(super) to: Option<u64>,
}

/// A generation to roll back to.
pub(super) struct RollbackChoice {
    pub(super) generation: u64,
    pub(super) label: String,
    pub(super) is_chosen: bool,
}

impl ActionForm {
    /// The form of `act` with empty fields.
    pub(super) fn new(
        act: Act,
        root: &str,
        view: &EnvironmentView,
        history: &[HistoryEntry],
        spec: Option<&EnvironmentSpec>,
        typed: Typed,
    ) -> Self {
        let choices = if act == Act::Rollback { choices(view, history, typed.to) } else { Vec::new() };
        Self {
            act,
            root: root.to_owned(),
            name: view.environment.to_string(),
            seen: view.generation,
            choices,
            image: shown_image(view.image.as_ref()),
            digest: full_image(view.image.as_ref()),
            back: None,
            builds: spec.is_some_and(|spec| matches!(spec.supply, Supply::Branch { .. })),
            typed,
        }
    }

    /// Whether the environment's state allows it.
    pub(super) fn is_possible(&self, view: &EnvironmentView) -> bool {
        match self.act {
            Act::Resume => view.held.is_some(),
            Act::Hold => view.held.is_none(),
            Act::Rollback => !self.choices.is_empty(),
            Act::CanaryPromote | Act::CanaryAbort => {
                view.held.is_none() && view.canary.as_ref().is_some_and(CanaryView::is_under_way)
            }
            Act::Set | Act::Sync => true,
            Act::Promote => false,
            Act::Approve | Act::Reject | Act::Withdraw => !self.digest.is_empty(),
        }
    }
}

/// The earlier generations that became ready with another image, newest first; the newest one is chosen.
fn choices(view: &EnvironmentView, history: &[HistoryEntry], to: Option<u64>) -> Vec<RollbackChoice> {
    let is_other = |image: &Image| view.image.as_ref().is_none_or(|current| !current.is_same(image));
    let good = history.iter().filter(|kept| kept.entry.generation < view.generation);
    let good = good.filter(|kept| kept.outcome == Some(Outcome::Ready));
    let good = good.filter(|kept| kept.entry.image.as_ref().is_some_and(is_other)).take(CHOICES);
    let choice = |(index, kept): (usize, &HistoryEntry)| {
        let entry = &kept.entry;
        let version =
            entry.revision.as_ref().map_or_else(String::new, |id| format!(" · commit {}", id.short()));
        let label = format!(
            "{}{version} · image {} · {} {}",
            entry.generation,
            shown_image(entry.image.as_ref()),
            moved(entry.origin),
            entry.at.to_string().get(..16).unwrap_or_default().replace('T', " ")
        );
        let generation = entry.generation.0;
        RollbackChoice { generation, label, is_chosen: to.map_or(index == 0, |to| to == generation) }
    };
    good.enumerate().map(choice).collect()
}

/// The short digest of an image.
pub(super) fn shown_image(image: Option<&Image>) -> String {
    image.and_then(Image::shown_digest).map_or("none", Digest::short).to_owned()
}

/// The whole digest of an image; empty without one.
pub(super) fn full_image(image: Option<&Image>) -> String {
    image.and_then(Image::shown_digest).map(ToString::to_string).unwrap_or_default()
}

/// The notice after a form was sent. It is made from the record, so that the URL shows nothing of
/// anyone's text.
pub(super) fn notice(query: &Noted, view: &EnvironmentView, history: &[HistoryEntry]) -> Option<Notice> {
    let name = &view.environment;
    if let Some(generation) = query.moved {
        let kept = history.iter().find(|kept| kept.entry.generation == Generation(generation))?;
        let by = kept.entry.by.as_deref().map(|by| format!(" by {}", short_name(by))).unwrap_or_default();
        let text = format!("{name}: generation {generation} is recorded, {}{by}", moved(kept.entry.origin));
        let is_current = view.generation.0 == generation;
        let before = history
            .iter()
            .map(|kept| &kept.entry)
            .find(|entry| entry.generation.0 < generation && entry.image.is_some());
        let back = before.filter(|_| is_current).map(|entry| entry.generation);
        return Some(Notice { text, at: Some(kept.entry.at), back });
    }
    let text = match query.did.as_deref()? {
        "hold" if view.held.is_some() => format!("{name} is held"),
        "resume" if view.held.is_none() => format!("{name} is not held any more"),
        "canary-promote" => format!("The canary of {name} takes over"),
        "canary-abort" => format!("The canary of {name} is removed"),
        "sync" => format!("{name} was checked, and what was found is below"),
        "same" => format!("Nothing was changed: {name} has that version already"),
        _ => return None,
    };
    Some(Notice { text, at: None, back: None })
}

/// The part of a redirect that reports the result of the form before.
#[derive(Clone, Debug, Default, serde::Deserialize)]
pub(in crate::api) struct Noted {
    /// The generation that a form has recorded.
    moved: Option<u64>,
    /// The result of a form that recorded no generation.
    pub(super) did: Option<String>,
}

/// The result of a form.
pub(super) struct Notice {
    pub(super) text: String,
    pub(super) at: Option<Timestamp>,
    /// The generation to go back to.
    pub(super) back: Option<Generation>,
}
