//! The board: problems first, then one lane for each chain of promotions, then single environments.

use std::collections::BTreeMap;
use std::sync::Arc;

use askama::Template;
use askama::filters::Safe;
use axum::extract::State;
use axum::response::Response;
use serde::Deserialize;

use super::answer::{self, part};
use super::card::{Card, CardPlace};
use super::environment;
use super::frame::Frame;
use super::guard::Visit;
use super::lanes::{Lane, LaneStage, lanes};
use super::promotion::{ahead, pair};
use super::status::urgency;
use super::text::{PageClock, sentence};
use super::timeline;
use super::trouble::{MOST_TROUBLED, Trouble, troubled};
use super::unit::{BoardCard, BoardUnit, GroupCard};
use crate::api::ApiState;
use crate::api::body::QueryParams;
use crate::api::error::ApiError;
use crate::model::desired::{Desired, HistoryEntry};
use crate::model::name::{CommitId, EnvironmentName, GroupName};
use crate::model::spec::{EnvironmentSpec, Manifest, Supply};
use crate::model::view::{EnvironmentView, GroupView};
use crate::record::RecordError;

/// Above this number of environments, lanes have one row each, and the board has a search field.
const MANY: usize = 30;
/// The cards in one row of a lane.
const IN_A_ROW: usize = 3;

/// The filter of the board.
#[derive(Clone, Debug, Default, Deserialize)]
pub(in crate::api) struct BoardQuery {
    /// Part of a name, a repository or a host.
    q: Option<String>,
    /// A status, as its badge is called.
    status: Option<String>,
    /// The name of an agent.
    host: Option<String>,
}

impl BoardQuery {
    fn is_set(&self) -> bool {
        [&self.q, &self.status, &self.host].into_iter().flatten().any(|text| !text.trim().is_empty())
    }

    fn takes(&self, card: &BoardCard<'_>) -> bool {
        let given = |text: &Option<String>| {
            text.as_deref().map(str::trim).filter(|text| !text.is_empty()).map(str::to_lowercase)
        };
        given(&self.q).is_none_or(|q| card.has(&q))
            && given(&self.status).is_none_or(|status| status == card.badge().look)
            && given(&self.host).is_none_or(|wanted| card.host() == wanted)
    }
}

/// The state of every environment at one moment.
pub(super) struct BoardOverview {
    pub(super) manifest: Arc<crate::api::ManifestState>,
    pub(super) views: Vec<EnvironmentView>,
    groups: BTreeMap<GroupName, GroupView>,
    pub(super) recorded: BTreeMap<EnvironmentName, Desired>,
    /// The history of those in trouble, newest first.
    pub(super) histories: BTreeMap<EnvironmentName, Vec<HistoryEntry>>,
    /// The first lane and its environments, for the timeline.
    first: Option<(String, Vec<EnvironmentName>)>,
}

impl BoardOverview {
    async fn read(api: &ApiState) -> Result<Self, ApiError> {
        let manifest = Arc::clone(&api.manifest.borrow());
        api.apart(move |api| {
            let recorded = api.desired.all()?.into_iter();
            let recorded = recorded.map(|desired| (desired.environment.clone(), desired)).collect();
            let (views, rejections) = (api.names()?, api.desired.rejections()?);
            let views = views.iter().map(|name| {
                let (view, build) = api.view_among(name, &rejections)?;
                Ok::<_, RecordError>(EnvironmentView { build, ..view })
            });
            let views: Vec<EnvironmentView> = views.collect::<Result<_, _>>()?;
            let mut histories = BTreeMap::new();
            for view in views.iter().filter(|view| urgency(view).is_some()).take(MOST_TROUBLED) {
                histories.insert(view.environment.clone(), api.status.history(&view.environment)?);
            }
            let first = first_lane(&manifest.manifest, &views);
            for name in first.iter().flat_map(|(_, names)| names) {
                if !histories.contains_key(name) {
                    histories.insert(name.clone(), api.status.history(name)?);
                }
            }
            let groups =
                GroupView::all(&views).into_iter().map(|group| (group.group.clone(), group)).collect();
            Ok(Self { manifest, views, groups, recorded, histories, first })
        })
        .await
    }
}

/// The first lane, else the only environment.
fn first_lane(manifest: &Manifest, views: &[EnvironmentView]) -> Option<(String, Vec<EnvironmentName>)> {
    let lanes = lanes(manifest, views.iter().map(|view| &view.environment));
    let is_single = views.len() == 1;
    let lane = lanes.into_iter().find(|lane| lane.steps.len() > 1 || is_single)?;
    let names = lane.steps.iter().flat_map(|step| step.environments(manifest));
    Some((lane.title.clone(), names.take(timeline::MOST_LANES).collect()))
}

/// `GET /?q=&status=&host=`
pub(in crate::api) async fn board(
    visit: Visit,
    State(api): State<ApiState>,
    QueryParams(query): QueryParams<BoardQuery>,
) -> Result<Response, ApiError> {
    let overview = BoardOverview::read(&api).await?;
    let clock = PageClock((api.clock)());
    let manifest = &overview.manifest.manifest;
    let place =
        CardPlace { host: &visit.site.host, front: overview.manifest.manifest.front.as_ref(), hub: &api.hub };
    let promotions = promotions(&overview);
    let commits =
        overview.views.iter().filter_map(|view| Some((view.environment.clone(), view.revision.clone()?)));
    api.pages
        .history
        .learn(
            manifest,
            commits,
            promotions.iter().map(|(to, pair)| (to.clone(), pair.0.clone(), pair.1.clone())),
        )
        .await;
    let card = |view: &EnvironmentView| {
        let name = &view.environment;
        let (spec, desired) = (manifest.environments.get(name), overview.recorded.get(name));
        let commit = view.revision.as_ref().and_then(|commit| api.pages.history.line(commit));
        let compared = promotions.get(name).and_then(|(old, new)| api.pages.history.compared(old, new));
        let ahead = compared.map(|compared| ahead(&compared));
        (name.clone(), Card { ahead, ..Card::new(view, spec, desired, commit, &place) })
    };
    let cards: BTreeMap<EnvironmentName, Card> = overview.views.iter().map(card).collect();
    let version =
        |name: &EnvironmentName| cards.get(name).map(|card| (card.version.clone(), card.generation));
    let group = |(name, group): (&GroupName, &GroupView)| {
        (name.clone(), GroupCard::new(manifest, group, &overview.views, version))
    };
    let cards = BoardCards { groups: overview.groups.iter().map(group).collect(), environments: &cards };

    let troubled = troubled(&overview.views, &overview.groups);
    let title = match troubled.len() {
        0 => "Board".to_owned(),
        count => format!("({count}!) Board"),
    };
    let frame = Frame::new(&visit, &api, &title, "board").live(None).troubled(!troubled.is_empty());
    let mut parts = Vec::new();
    parts.push(part(&Notices { notices: notices(&api, &overview) })?);
    parts.push(part(&Trouble::new(&visit, clock, &overview, &troubled))?);
    let is_large = cards.environments.len() > MANY;
    if query.is_set() {
        let found: Vec<BoardCard<'_>> = cards.all().filter(|card| query.takes(card)).collect();
        parts.push(part(&Rows {
            root: &visit.site.prefix,
            clock,
            id: "found",
            heading: counted(found.len(), "match", "matches"),
            open: true,
            cards: found,
        })?);
    } else {
        parts.extend(shown_lanes(&visit, clock, manifest, &cards, is_large)?);
        if let [only] = overview.views.as_slice() {
            parts.extend(environment::alone(&api, &visit.site.prefix, clock, &only.environment).await?);
        }
        parts.extend(drawn(&overview, clock)?);
    }
    let page = Board { frame, query, is_large, is_empty: cards.environments.is_empty(), parts };
    answer::page(&visit, &page)
}

/// The timeline of the first lane.
fn drawn(overview: &BoardOverview, clock: PageClock) -> Result<Option<Safe<String>>, ApiError> {
    let Some((title, names)) = &overview.first else { return Ok(None) };
    let lane = |name: &EnvironmentName| -> Option<(String, &[HistoryEntry])> {
        Some((name.to_string(), overview.histories.get(name)?.as_slice()))
    };
    let lanes: Vec<_> = names.iter().filter_map(lane).collect();
    let lanes: Vec<_> =
        lanes.iter().map(|(name, history)| timeline::TimelineLane { name, history }).collect();
    timeline::timeline("timeline", &format!("What ran when · {title}"), &lanes, clock.0)
}

/// The commits that each promotion would replace and bring.
fn promotions(overview: &BoardOverview) -> BTreeMap<EnvironmentName, (CommitId, CommitId)> {
    let views: BTreeMap<_, _> = overview.views.iter().map(|view| (&view.environment, view)).collect();
    let of = |(to, spec): (&EnvironmentName, &EnvironmentSpec)| {
        let Supply::Promotion { from } = &spec.supply else { return None };
        Some((to.clone(), pair(views.get(from)?, views.get(to)?)?))
    };
    overview.manifest.manifest.environments.iter().filter_map(of).collect()
}

/// What concerns all environments.
fn notices(api: &ApiState, overview: &BoardOverview) -> Vec<String> {
    let mut notices: Vec<String> = Vec::new();
    if api.controller.is_none() {
        notices.push("No daemon is running, so nothing is deployed or healed.".to_owned());
    }
    let problem = overview.manifest.problem.iter().map(|problem| {
        format!("The edited manifest is not applied, and the last valid one is in use. {}", sentence(problem))
    });
    notices.extend(problem);
    notices.extend(overview.manifest.unread_sentence().map(|warning| sentence(&warning)));
    // An unreadable outbox does not hide the board.
    notices.extend(api.outbox_warnings().unwrap_or_default().iter().map(|warning| sentence(warning)));
    let warnings = api.controller.iter().flat_map(|controller| controller.warnings());
    notices.extend(warnings.map(|warning| sentence(&warning)));
    notices
}

/// The cards of all environments and groups.
struct BoardCards<'a> {
    environments: &'a BTreeMap<EnvironmentName, Card>,
    groups: BTreeMap<GroupName, GroupCard>,
}

impl BoardCards<'_> {
    fn of(&self, unit: &BoardUnit) -> Option<BoardCard<'_>> {
        match unit {
            BoardUnit::Environment(name) => self.environments.get(name).map(BoardCard::Environment),
            BoardUnit::Group(name) => self.groups.get(name).map(BoardCard::Group),
        }
    }

    fn all(&self) -> impl Iterator<Item = BoardCard<'_>> {
        let groups = self.groups.values().map(BoardCard::Group);
        groups.chain(self.environments.values().map(BoardCard::Environment))
    }
}

fn shown_lanes(
    visit: &Visit,
    clock: PageClock,
    manifest: &Manifest,
    cards: &BoardCards<'_>,
    is_large: bool,
) -> Result<Vec<Safe<String>>, ApiError> {
    let mut parts = Vec::new();
    let mut alone = Vec::new();
    let root = visit.site.prefix.as_str();
    for lane in lanes(manifest, cards.environments.keys()) {
        let cards_of: Vec<_> = lane.steps.iter().filter_map(|step| cards.of(&step.unit)).collect();
        if lane.steps.len() == 1 {
            alone.extend(cards_of);
        } else if is_large {
            let is_calm = cards_of.iter().all(|card| card.badge().look == "ready");
            let count = lane.steps.iter().map(|step| step.environments(manifest).len()).sum();
            let heading = format!("{} · {}", lane.title, counted(count, "environment", "environments"));
            parts.push(part(&Rows {
                root,
                clock,
                id: &format!("lane-{}", lane.id),
                heading,
                open: !is_calm,
                cards: cards_of,
            })?);
        } else {
            parts.push(part(&BoardLane::new(root, clock, &lane, cards))?);
        }
    }
    if alone.is_empty() {
        return Ok(parts);
    }
    let heading = if parts.is_empty() { "Environments" } else { "On their own" };
    if is_large {
        let (calm, other): (Vec<_>, Vec<_>) =
            alone.into_iter().partition(|card| card.badge().look == "ready");
        if !other.is_empty() {
            let heading = format!("{heading} · {} not Ready", other.len());
            parts.push(part(&Rows { root, clock, id: "alone", heading, open: true, cards: other })?);
        }
        if !calm.is_empty() {
            let heading = format!("{heading} · {} Ready", calm.len());
            parts.push(part(&Rows { root, clock, id: "alone-ready", heading, open: false, cards: calm })?);
        }
    } else {
        parts.push(part(&Free { root, clock, heading, cards: alone })?);
    }
    Ok(parts)
}

/// `1 match`, `2 matches`.
pub(super) fn counted(count: usize, one: &str, many: &str) -> String {
    if count == 1 { format!("1 {one}") } else { format!("{count} {many}") }
}

#[derive(Template)]
#[template(path = "board.html")]
struct Board {
    frame: Frame,
    query: BoardQuery,
    is_large: bool,
    is_empty: bool,
    parts: Vec<Safe<String>>,
}

impl Board {
    fn statuses() -> [(&'static str, &'static str); 7] {
        [
            ("ready", "Ready"),
            ("progress", "In progress"),
            ("degraded", "Degraded"),
            ("rolled", "RolledBack"),
            ("held", "Held"),
            ("blocked", "Blocked"),
            ("unsure", "Unsure"),
        ]
    }

    fn is_status(&self, status: &str) -> bool {
        self.query.status.as_deref() == Some(status)
    }

    fn q(&self) -> &str {
        self.query.q.as_deref().unwrap_or_default()
    }
}

#[derive(Template)]
#[template(path = "notices.html")]
struct Notices {
    notices: Vec<String>,
}

#[derive(Template)]
#[template(path = "lane.html")]
struct BoardLane<'a> {
    root: &'a str,
    clock: PageClock,
    id: &'a str,
    title: &'a str,
    about: &'a str,
    rows: Vec<Vec<LaneStep<'a>>>,
}

struct LaneStep<'a> {
    card: BoardCard<'a>,
    /// What leads to this card within the row.
    between: Between,
}

enum Between {
    /// It is the first of its row.
    Nothing,
    /// It is promoted from the card before it.
    Promotion,
    /// The card before it does not lead to it.
    Apart,
}

impl<'a> BoardLane<'a> {
    fn new(root: &'a str, clock: PageClock, lane: &'a Lane, cards: &'a BoardCards<'a>) -> Self {
        let mut rows: Vec<Vec<LaneStep<'a>>> = Vec::new();
        let mut before: Option<&LaneStage> = None;
        for step in &lane.steps {
            let Some(card) = cards.of(&step.unit) else { continue };
            let follows = before.is_some_and(|before| step.from.as_ref() == Some(&before.unit));
            let is_full = rows.last().is_none_or(|row| row.len() >= IN_A_ROW);
            // A new chain begins a new row, if everything does not fit into one row anyway.
            let begins = is_full || (!follows && lane.steps.len() > IN_A_ROW);
            let between = match (begins, follows) {
                (true, _) => Between::Nothing,
                (false, true) => Between::Promotion,
                (false, false) => Between::Apart,
            };
            let step_of = LaneStep { card, between };
            match rows.last_mut().filter(|_| !begins) {
                Some(row) => row.push(step_of),
                None => rows.push(vec![step_of]),
            }
            before = Some(step);
        }
        Self { root, clock, id: &lane.id, title: &lane.title, about: &lane.about, rows }
    }
}

#[derive(Template)]
#[template(path = "free.html")]
struct Free<'a> {
    root: &'a str,
    clock: PageClock,
    heading: &'a str,
    cards: Vec<BoardCard<'a>>,
}

#[derive(Template)]
#[template(path = "rows.html")]
struct Rows<'a> {
    root: &'a str,
    clock: PageClock,
    id: &'a str,
    heading: String,
    open: bool,
    cards: Vec<BoardCard<'a>>,
}
