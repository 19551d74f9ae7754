//! What people and abide did: every change of the record and every judgement, of all environments or of one, and the
//! events of one.

use askama::Template;
use askama::filters::Safe;
use axum::extract::State;
use axum::response::Response;
use serde::Deserialize;

use super::act::shown_image;
use super::answer::{self, part};
use super::card::{moved, short_name};
use super::environment::{Events, HistoryRow, SeenEnvironment, rows};
use super::frame::Frame;
use super::guard::Visit;
use super::text::{PageClock, cut};
use super::timeline;
use crate::api::ApiState;
use crate::api::body::QueryParams;
use crate::api::error::ApiError;
use crate::api::find::FoundEnvironment;
use crate::model::desired::{Desired, Entry, Origin};
use crate::model::event::{Event, EventKind};
use crate::model::evidence::{Evidence, EvidenceFinding, Person};
use crate::model::name::{CommitId, EnvironmentName};
use crate::model::time::Timestamp;
use crate::record::RecordError;

/// The rows of one page.
const ROWS: usize = 50;
/// The events of one page.
const EVENTS: usize = 100;
/// The page is not fetched again at every change if there are more environments.
const MOST_LIVE: usize = 100;
/// The most characters of a note.
const LONGEST_NOTE: usize = 300;

/// The kinds of activity that can be asked for: the value and its words.
const KINDS: [(&str, &str); 6] = [
    ("push", "Pushes"),
    ("promotion", "Promotions"),
    ("set", "Set by hand"),
    ("rollback", "Rollbacks"),
    ("hold", "Holds"),
    ("judgement", "Approvals and rejections"),
];

/// The part that is asked for.
#[derive(Clone, Debug, Default, Deserialize)]
pub(in crate::api) struct ActivityQuery {
    kind: Option<String>,
    environment: Option<String>,
    /// Part of the author's name.
    by: Option<String>,
    /// Only older entries.
    before: Option<Timestamp>,
}

impl ActivityQuery {
    fn given(text: &Option<String>) -> Option<String> {
        text.as_deref().map(str::trim).filter(|text| !text.is_empty()).map(str::to_lowercase)
    }

    fn takes(&self, row: &ActivityRow) -> bool {
        let by = row.by.as_deref().unwrap_or("abide").to_lowercase();
        self.before.is_none_or(|before| row.at < before)
            && Self::given(&self.kind).is_none_or(|kind| kind == row.kind)
            && Self::given(&self.by).is_none_or(|wanted| by.contains(&wanted))
    }

    fn is_set(&self) -> bool {
        [&self.kind, &self.environment, &self.by].into_iter().any(|text| Self::given(text).is_some())
            || self.before.is_some()
    }

    /// The query of the link to older rows.
    fn older(&self, before: Timestamp) -> String {
        let mut query = form_urlencoded::Serializer::new(String::new());
        for (name, value) in [("kind", &self.kind), ("environment", &self.environment), ("by", &self.by)] {
            if let Some(value) = value.as_deref().filter(|value| !value.is_empty()) {
                query.append_pair(name, value);
            }
        }
        query.append_pair("before", &before.to_string()).finish()
    }
}

/// One thing that somebody did.
struct ActivityRow {
    environment: EnvironmentName,
    kind: &'static str,
    what: String,
    /// The author; `None`: abide itself.
    by: Option<String>,
    /// The whole author, with the address.
    from: Option<String>,
    at: Timestamp,
    revision: Option<CommitId>,
    image: String,
    note: Option<String>,
    subject: Option<String>,
}

impl ActivityRow {
    fn of_entry(environment: &EnvironmentName, entry: Entry) -> Self {
        let kind = match entry.origin {
            Some(Origin::Promotion) => "promotion",
            Some(Origin::Set) => "set",
            Some(Origin::Rollback | Origin::AutomaticRollback) => "rollback",
            _ => "push",
        };
        Self {
            environment: environment.clone(),
            kind,
            what: format!("generation {} {}", entry.generation, moved(entry.origin)),
            by: entry.by.as_deref().map(short_name),
            from: entry.by,
            at: entry.at,
            image: entry.image.as_ref().map(|image| shown_image(Some(image))).unwrap_or_default(),
            revision: entry.revision,
            note: entry.note.map(|note| cut(&note, LONGEST_NOTE)),
            subject: None,
        }
    }

    fn of_hold(desired: &Desired) -> Option<Self> {
        let hold = desired.hold.as_ref()?;
        Some(Self {
            environment: desired.environment.clone(),
            kind: "hold",
            what: "held".to_owned(),
            by: Some(short_name(&hold.by)),
            from: Some(hold.by.clone()),
            at: hold.since,
            revision: None,
            image: String::new(),
            note: Some(cut(&hold.reason, LONGEST_NOTE)),
            subject: None,
        })
    }

    /// The finding of a person, and its withdrawal.
    fn of_evidence(found: Evidence) -> Vec<Self> {
        let row = |what: &str, by: &Person, at: Timestamp, note: Option<&String>| Self {
            environment: found.environment.clone(),
            kind: "judgement",
            what: format!("image {what}"),
            by: Some(by.name().to_owned()),
            from: Some(by.by.clone()),
            at,
            revision: None,
            image: shown_image(Some(&found.image)),
            note: note.map(|note| cut(note, LONGEST_NOTE)),
            subject: None,
        };
        let Some(by) = &found.by else { return Vec::new() };
        match &found.finding {
            EvidenceFinding::Approved { .. } => vec![row("approved", by, found.at, found.note.as_ref())],
            EvidenceFinding::Rejected { withdrawn } => {
                let gone = withdrawn
                    .iter()
                    .map(|gone| row("no longer rejected", &gone.by, gone.at, gone.note.as_ref()));
                std::iter::once(row("rejected", by, found.at, found.note.as_ref())).chain(gone).collect()
            }
            _ => Vec::new(),
        }
    }
}

fn collect(
    api: &ApiState,
    names: &[EnvironmentName],
    query: &ActivityQuery,
) -> Result<Vec<ActivityRow>, RecordError> {
    let mut found = Vec::new();
    for name in names {
        let is_moved =
            ActivityQuery::given(&query.kind).is_none_or(|kind| kind != "judgement" && kind != "hold");
        if is_moved {
            let entries = api.desired.newest(
                name,
                |entry| query.takes(&ActivityRow::of_entry(name, entry.clone())),
                ROWS + 1,
            )?;
            found.extend(entries.into_iter().map(|entry| ActivityRow::of_entry(name, entry)));
        }
        found.extend(api.desired.evidence(name)?.into_iter().flat_map(ActivityRow::of_evidence));
        found.extend(ActivityRow::of_hold(&api.desired.get(name)?));
    }
    found.retain(|row| query.takes(row));
    found.sort_by_key(|one| std::cmp::Reverse(one.at));
    Ok(found)
}

#[derive(Template)]
#[template(path = "activity-rows.html")]
struct ActivityRows<'a> {
    root: &'a str,
    clock: PageClock,
    rows: Vec<ActivityRow>,
    older: Option<String>,
}

#[derive(Template)]
#[template(path = "activity.html")]
struct ActivityPage {
    frame: Frame,
    query: ActivityQuery,
    names: Vec<String>,
    /// What ran when in the environments of the newest rows; `None`: they never ran anything.
    drawn: Option<Safe<String>>,
    deeds: Safe<String>,
}

impl ActivityPage {
    fn kinds() -> [(&'static str, &'static str); 6] {
        KINDS
    }

    fn is(text: &Option<String>, value: &str) -> bool {
        text.as_deref() == Some(value)
    }

    fn by(&self) -> &str {
        self.query.by.as_deref().unwrap_or_default()
    }
}

/// `GET /activity?kind=&environment=&by=&before=`
pub(in crate::api) async fn activity(
    visit: Visit,
    State(api): State<ApiState>,
    QueryParams(query): QueryParams<ActivityQuery>,
) -> Result<Response, ApiError> {
    let all: Vec<EnvironmentName> = api.names()?.into_iter().collect();
    let names = match ActivityQuery::given(&query.environment) {
        Some(only) => vec![api.find(&only)?.name],
        None => all.clone(),
    };
    let mut rows = {
        let query = query.clone();
        api.apart(move |api| collect(api, &names, &query)).await?
    };
    let has_more = rows.len() > ROWS;
    rows.truncate(ROWS);
    let manifest = std::sync::Arc::clone(&api.manifest.borrow());
    let commits: Vec<_> =
        rows.iter().filter_map(|row| Some((row.environment.clone(), row.revision.clone()?))).collect();
    api.pages.history.learn(&manifest.manifest, commits, []).await;
    for row in &mut rows {
        let line = row.revision.as_ref().and_then(|commit| api.pages.history.line(commit));
        row.subject = line.map(|line| line.subject);
    }
    let older = rows.last().filter(|_| has_more).map(|last| query.older(last.at));
    let frame = Frame::new(&visit, &api, "Activity", "activity");
    let frame = if all.len() <= MOST_LIVE && query.before.is_none() { frame.live(None) } else { frame };
    // With fewer kinds of changes, the list and the timeline would not be about the same.
    let is_complete = [&query.kind, &query.by].into_iter().all(|given| ActivityQuery::given(given).is_none());
    let drawn = if is_complete { drawn(&api, &rows, frame.clock).await? } else { None };
    let deeds = part(&ActivityRows { root: &visit.site.prefix, clock: frame.clock, rows, older })?;
    let names = all.iter().map(ToString::to_string).collect();
    answer::page(&visit, &ActivityPage { frame, query, names, drawn, deeds })
}

/// The timeline of the environments that changed last.
async fn drawn(
    api: &ApiState,
    rows: &[ActivityRow],
    clock: PageClock,
) -> Result<Option<Safe<String>>, ApiError> {
    let mut names: Vec<EnvironmentName> = Vec::new();
    for row in rows {
        if names.len() < timeline::MOST_LANES && !names.contains(&row.environment) {
            names.push(row.environment.clone());
        }
    }
    let read = move |api: &ApiState| {
        let history = |name: &EnvironmentName| Ok((name.to_string(), api.status.history(name)?));
        names.iter().map(history).collect::<Result<Vec<_>, RecordError>>()
    };
    let histories = api.apart(read).await?;
    let lanes: Vec<_> =
        histories.iter().map(|(name, history)| timeline::TimelineLane { name, history }).collect();
    timeline::timeline("timeline", "What ran when", &lanes, clock.0)
}

#[derive(Template)]
#[template(path = "history.html")]
struct HistoryPage {
    frame: Frame,
    name: String,
    rows: Vec<HistoryRow>,
    older: Option<u64>,
}

/// The generations below a number.
#[derive(Debug, Default, Deserialize)]
pub(in crate::api) struct Before {
    before: Option<u64>,
}

/// `GET /environments/{environment}/history?before=`
pub(in crate::api) async fn history(
    visit: Visit,
    State(api): State<ApiState>,
    found: FoundEnvironment,
    QueryParams(Before { before }): QueryParams<Before>,
) -> Result<Response, ApiError> {
    let name = found.name.clone();
    let SeenEnvironment { view, mut history, .. } = SeenEnvironment::read(&api, &name).await?;
    history.retain(|kept| before.is_none_or(|before| kept.entry.generation.0 < before));
    let has_more = history.len() > ROWS;
    history.truncate(ROWS);
    let manifest = std::sync::Arc::clone(&api.manifest.borrow());
    let commits: Vec<_> =
        history.iter().filter_map(|kept| Some((name.clone(), kept.entry.revision.clone()?))).collect();
    api.pages.history.learn(&manifest.manifest, commits, []).await;
    let older = history.last().filter(|_| has_more).map(|kept| kept.entry.generation.0);
    let rows = rows(&api, &history, &view, ROWS);
    let frame = Frame::new(&visit, &api, &format!("History of {name}"), "");
    answer::page(&visit, &HistoryPage { frame, name: name.to_string(), rows, older })
}

/// The events that are asked for.
#[derive(Debug, Default, Deserialize)]
pub(in crate::api) struct EventsPageQuery {
    kind: Option<String>,
    /// Only those with a lower sequence number.
    before: Option<u64>,
}

#[derive(Template)]
#[template(path = "events.html")]
struct EventsPage {
    frame: Frame,
    name: String,
    kind: String,
    list: Safe<String>,
    older: Option<u64>,
}

impl EventsPage {
    fn kinds() -> [EventKind; 7] {
        use EventKind::{Build, Difference, Failure, Record, Status, Step, System};
        [Record, Difference, Step, Failure, Build, Status, System]
    }
}

/// `GET /environments/{environment}/events?kind=&before=`
pub(in crate::api) async fn events(
    visit: Visit,
    State(api): State<ApiState>,
    found: FoundEnvironment,
    QueryParams(query): QueryParams<EventsPageQuery>,
) -> Result<Response, ApiError> {
    let name = found.name.clone();
    let is_known = |kind: &String| EventsPage::kinds().iter().any(|known| known.as_str() == kind);
    let kind = query.kind.filter(is_known).unwrap_or_default();
    let is_wanted = {
        let kind = kind.clone();
        move |event: &Event| {
            query.before.is_none_or(|before| event.sequence < before)
                && (kind.is_empty() || event.kind.as_str() == kind)
        }
    };
    let mut events = {
        let name = name.clone();
        api.apart(move |api| api.status.events(Some(&name), None, usize::MAX)).await?
    };
    events.retain(is_wanted);
    events.reverse();
    let has_more = events.len() > EVENTS;
    events.truncate(EVENTS);
    let older = events.last().filter(|_| has_more).map(|event| event.sequence);
    let frame = Frame::new(&visit, &api, &format!("Events of {name}"), "");
    let frame = if query.before.is_none() { frame.live(Some(name.as_str())) } else { frame };
    let list = part(&Events {
        root: &visit.site.prefix,
        name: name.as_str(),
        clock: frame.clock,
        events: &events,
        is_whole: true,
    })?;
    answer::page(&visit, &EventsPage { frame, name: name.to_string(), kind, list, older })
}
