//! One group: its state, its members, its joint changes, and the forms that change all its members in one write.

use std::collections::BTreeMap;
use std::sync::Arc;

use askama::Template;
use askama::filters::Safe;
use axum::extract::State;
use axum::response::Response;

use super::act::{Act, Noted, Notice, Typed, shown_image};
use super::answer::{self, part};
use super::card::{moved, short_name};
use super::environment::outcome_badge;
use super::frame::Frame;
use super::group_form::{GroupForm, MembersWithHistory};
use super::group_judgement::JudgedGroup;
use super::guard::Visit;
use super::status::{Badge, urgency};
use super::text::{PageClock, cut, sentence};
use super::unit::BoardUnit;
use super::{timeline, why};
use crate::api::ApiState;
use crate::api::body::QueryParams;
use crate::api::error::ApiError;
use crate::api::find::CommandTarget;
use crate::model::desired::{Entry, HistoryEntry, Hold, Origin};
use crate::model::name::{EnvironmentName, Generation, GroupName};
use crate::model::spec::Manifest;
use crate::model::status::Condition;
use crate::model::time::Timestamp;
use crate::model::view::{EnvironmentView, GroupView};
use crate::record::RecordError;

/// The changes on the page.
const CHANGES: usize = 10;
/// The most characters of a note.
const LONGEST_NOTE: usize = 300;

/// `GET /groups/{environment}`; the path names the group.
pub(in crate::api) async fn group(
    visit: Visit,
    State(api): State<ApiState>,
    target: CommandTarget,
    QueryParams(noted): QueryParams<Noted>,
) -> Result<Response, ApiError> {
    let Some(name) = target.group.clone() else {
        return Ok(answer::see_other(&visit.site.path(&format!("/environments/{}", target.name))));
    };
    let members = read(&api, &target).await?;
    let views: Vec<_> = members.iter().map(|(view, _)| view.clone()).collect();
    let groups = GroupView::all(&views);
    let Some(judged) = groups.into_iter().find(|group| group.group == name) else {
        return Err(ApiError::not_found(format!("the group `{name}` has no members any more")));
    };
    let Some(decisive) = views.iter().find(|view| view.environment == judged.decisive) else {
        return Err(ApiError::not_found(format!("the group `{name}` has no members any more")));
    };
    let manifest = Arc::clone(&api.manifest.borrow());
    let manifest = &manifest.manifest;
    let commits = views.iter().filter_map(|view| Some((view.environment.clone(), view.revision.clone()?)));
    api.pages.history.learn(manifest, commits.collect::<Vec<_>>(), []).await;
    let is_bad = views.iter().any(|view| urgency(view).is_some());
    let badge = Badge::of(decisive);
    let title = format!("{}{name} {}", if is_bad { "! " } else { "" }, badge.word);
    let frame = Frame::new(&visit, &api, &title, "").live(Some(name.as_str())).troubled(is_bad);
    let (clock, root) = (frame.clock, visit.site.prefix.as_str());
    let changes = changes(&name, &members);
    let why = match decisive.status {
        Condition::Ready => None,
        _ => Some(why::why(clock, &why::evidence(&api, &decisive.environment).await?)?),
    };
    let lanes: Vec<_> = members
        .iter()
        .take(timeline::MOST_LANES)
        .map(|(view, history)| timeline::TimelineLane { name: name.short(&view.environment), history })
        .collect();
    let judgement = JudgedGroup::read(&api, &target, &name, &members).await?;
    let page = GroupPage {
        notice: notice(&noted, &name, &views, changes.first()).or_else(|| judgement.notice(&noted)),
        head: part(&GroupHead { clock, name: name.as_str(), badge, view: decisive })?,
        said: part(&GroupBanner {
            look: look(decisive.status),
            message: sentence(&judged.message),
            hold: views.iter().find_map(|view| view.held.as_ref()),
            clock,
        })?,
        members: part(&MemberTable { root, clock, rows: rows(&api, &name, &views) })?,
        changes: part(&ChangeTable { clock, rows: changes })?,
        ways: part(&Promotions::new(root, manifest, &name))?,
        acts: acts(&visit, &target, &name, &members, is_bad)?,
        judge: judgement.forms(&visit, &target, &members, None)?,
        why,
        drawn: timeline::timeline("timeline", "What ran when", &lanes, clock.0)?,
        frame,
    };
    answer::page(&visit, &page)
}

/// The state and the history of every member.
pub(super) async fn read(
    api: &ApiState,
    target: &CommandTarget,
) -> Result<Vec<(EnvironmentView, Vec<HistoryEntry>)>, ApiError> {
    let names: Vec<EnvironmentName> = target.environments().cloned().collect();
    let of = |api: &ApiState, name: &EnvironmentName| {
        let (view, build) = api.view_apart_from_build(name)?;
        Ok::<_, RecordError>((EnvironmentView { build, ..view }, api.status.history(name)?))
    };
    api.apart(move |api| names.iter().map(|name| of(api, name)).collect()).await
}

fn look(status: Condition) -> &'static str {
    match status {
        Condition::Degraded | Condition::Blocked => "bad",
        Condition::RolledBack => "warn",
        Condition::Held => "held",
        Condition::Ready | Condition::Progressing => "calm",
    }
}

#[derive(Template)]
#[template(path = "group.html")]
struct GroupPage {
    frame: Frame,
    notice: Option<Notice>,
    head: Safe<String>,
    said: Safe<String>,
    members: Safe<String>,
    changes: Safe<String>,
    ways: Safe<String>,
    acts: Option<Safe<String>>,
    judge: Option<Safe<String>>,
    why: Option<Safe<String>>,
    drawn: Option<Safe<String>>,
}

#[derive(Template)]
#[template(path = "environment-head.html")]
struct GroupHead<'a> {
    clock: PageClock,
    name: &'a str,
    badge: Badge,
    view: &'a EnvironmentView,
}

#[derive(Template)]
#[template(path = "group-said.html")]
struct GroupBanner<'a> {
    look: &'static str,
    message: String,
    hold: Option<&'a Hold>,
    clock: PageClock,
}

#[derive(Template)]
#[template(path = "group-members.html")]
struct MemberTable<'a> {
    root: &'a str,
    clock: PageClock,
    rows: Vec<MemberRow>,
}

struct MemberRow {
    short: String,
    name: EnvironmentName,
    badge: Badge,
    subject: Option<String>,
    version: Option<String>,
    image: String,
    generation: Generation,
    since: Option<Timestamp>,
    message: String,
    needs: String,
}

fn rows(api: &ApiState, group: &GroupName, views: &[EnvironmentView]) -> Vec<MemberRow> {
    let row = |view: &EnvironmentView| {
        let line = view.revision.as_ref().and_then(|commit| api.pages.history.line(commit));
        let needs: Vec<_> = view
            .needs
            .iter()
            .map(|(name, state)| format!("{} {}", group.short(name), state.as_str()))
            .collect();
        MemberRow {
            short: group.short(&view.environment).to_owned(),
            name: view.environment.clone(),
            badge: Badge::of(view),
            subject: line.map(|line| line.subject),
            version: view.revision.as_ref().map(|id| id.short().to_owned()),
            image: shown_image(view.image.as_ref()),
            generation: view.generation,
            since: view.since,
            message: if view.status == Condition::Ready { String::new() } else { sentence(&view.message) },
            needs: needs.join(", "),
        }
    };
    views.iter().map(row).collect()
}

#[derive(Template)]
#[template(path = "group-changes.html")]
struct ChangeTable {
    clock: PageClock,
    rows: Vec<GroupChange>,
}

/// One change of one or several members.
struct GroupChange {
    at: Timestamp,
    origin: Option<Origin>,
    how: String,
    note: Option<String>,
    members: Vec<ChangedMember>,
}

struct ChangedMember {
    short: String,
    generation: Generation,
    image: String,
    badge: Badge,
}

/// The changes of a group, newest first. Generations that were recorded together are one change.
fn changes(group: &GroupName, members: &MembersWithHistory) -> Vec<GroupChange> {
    type Key = (Timestamp, BTreeMap<EnvironmentName, Generation>);
    let mut by_write: BTreeMap<Key, GroupChange> = BTreeMap::new();
    for (view, history) in members {
        for kept in history {
            let Entry { generation, at, .. } = kept.entry;
            let key = if kept.entry.together.is_empty() {
                (at, [(view.environment.clone(), generation)].into())
            } else {
                (at, kept.entry.together.clone())
            };
            let change = by_write.entry(key).or_insert_with(|| GroupChange {
                at,
                origin: kept.entry.origin,
                how: {
                    let by = kept.entry.by.as_deref().map(|by| format!(" by {}", short_name(by)));
                    format!("{}{}", moved(kept.entry.origin), by.unwrap_or_default())
                },
                note: kept.entry.note.as_deref().map(|note| cut(note, LONGEST_NOTE)),
                members: Vec::new(),
            });
            change.members.push(ChangedMember {
                short: group.short(&view.environment).to_owned(),
                generation,
                image: shown_image(kept.entry.image.as_ref()),
                badge: outcome_badge(kept.outcome.as_ref(), generation == view.generation),
            });
        }
    }
    by_write.into_values().rev().take(CHANGES).collect()
}

/// The notice after a form was sent, from the record.
fn notice(
    noted: &Noted,
    group: &GroupName,
    views: &[EnvironmentView],
    newest: Option<&GroupChange>,
) -> Option<Notice> {
    let is_held = views.iter().any(|view| view.held.is_some());
    let plain = |text: String| Some(Notice { text, at: None, back: None });
    let recorded = |origin: Origin| {
        let change = newest.filter(|change| change.origin == Some(origin))?;
        let members: Vec<_> = change
            .members
            .iter()
            .map(|member| format!("generation {} of {}", member.generation, member.short))
            .collect();
        let text = format!("{group}: recorded {}, {}", members.join(" and "), change.how);
        Some(Notice { text, at: Some(change.at), back: None })
    };
    match noted.did.as_deref()? {
        "hold" if is_held => plain(format!("{group} is held")),
        "resume" if !is_held => plain(format!("{group} is not held any more")),
        "sync" => plain(format!("{group} was checked, and what was found is below")),
        "promote" => recorded(Origin::Promotion),
        "rollback" => recorded(Origin::Rollback),
        "same" => plain(format!("Nothing was changed: {group} has those versions already")),
        _ => None,
    }
}

/// The promotions to and from a group.
#[derive(Template)]
#[template(path = "group-promotions.html")]
struct Promotions<'a> {
    root: &'a str,
    name: &'a str,
    from: Option<String>,
    onward: Vec<String>,
}

impl<'a> Promotions<'a> {
    fn new(root: &'a str, manifest: &Manifest, group: &'a GroupName) -> Self {
        let own = BoardUnit::Group(group.clone());
        let from = own.promoted_from(manifest).map(|from| from.as_str().to_owned());
        let units: std::collections::BTreeSet<_> =
            manifest.environments.keys().map(|name| BoardUnit::of(manifest, name)).collect();
        let onward = units.iter().filter(|unit| unit.promoted_from(manifest).as_ref() == Some(&own));
        let onward = onward.map(|unit| unit.as_str().to_owned()).collect();
        Self { root, name: group.as_str(), from, onward }
    }
}

#[derive(Template)]
#[template(path = "group-acts.html")]
struct GroupActs {
    acts: Vec<GroupForm>,
    /// Whether the first form is the remedy.
    is_bad: bool,
}

/// The forms that the visitor may send and that the state of the group allows.
fn acts(
    visit: &Visit,
    target: &CommandTarget,
    group: &GroupName,
    members: &MembersWithHistory,
    is_bad: bool,
) -> Result<Option<Safe<String>>, ApiError> {
    if !visit.may_move(&target.name) {
        return Ok(None);
    }
    let root = visit.site.prefix.as_str();
    let form = |act| GroupForm::new(act, root, group, members, Typed::default());
    let acts: Vec<_> = [Act::Resume, Act::Rollback, Act::Hold, Act::Sync]
        .into_iter()
        .map(form)
        .filter(GroupForm::is_possible)
        .collect();
    part(&GroupActs { acts, is_bad }).map(Some)
}
