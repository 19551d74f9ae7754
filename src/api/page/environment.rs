//! One environment: its problems, the end of its log, its history, its facts, its events.

use std::sync::Arc;
use std::time::Duration;

use askama::Template;
use askama::filters::Safe;
use axum::extract::State;
use axum::response::Response;
use futures::StreamExt as _;

use super::act::{self, Act, ActionForm, Noted, Notice, Typed};
use super::answer::{self, part};
use super::card::{CardAddress, CardPlace, address, moved, short_name};
use super::evidence;
use super::frame::Frame;
use super::guard::Visit;
use super::lanes::shown;
use super::status::{Badge, urgency};
use super::text::{PageClock, cut, sentence};
use super::trouble::last_good;
use super::why;
use crate::api::ApiState;
use crate::api::body::QueryParams;
use crate::api::error::ApiError;
use crate::api::find::{CommandTarget, FoundEnvironment};
use crate::metrics::{RECENT, RecentRequests};
use crate::model::desired::{HistoryEntry, Image, Outcome};
use crate::model::event::{Event, EventKind};
use crate::model::job::JobView;
use crate::model::link::Question;
use crate::model::logs::LogOptions;
use crate::model::name::{CommitId, Digest, EnvironmentName, Generation, GroupName};
use crate::model::spec::{EnvironmentSpec, Manifest, Supply};
use crate::model::status::Condition;
use crate::model::time::Timestamp;
use crate::model::view::{EnvironmentView, EvidenceView};

/// The generations on the page.
const GENERATIONS: usize = 8;
/// The events on the page.
const EVENTS: usize = 10;
/// The lines of output on the page.
const TAIL: usize = 40;
/// The most bytes of them.
const LONGEST_TAIL: usize = 32 * 1024;
/// How long the engine or an agent may take for them; the page does without then.
const PATIENCE: Duration = Duration::from_secs(2);
/// The most characters of one line.
const LONGEST_LINE: usize = 2_000;

/// `GET /environments/{environment}`
pub(in crate::api) async fn environment(
    visit: Visit,
    State(api): State<ApiState>,
    target: CommandTarget,
    QueryParams(noted): QueryParams<Noted>,
) -> Result<Response, ApiError> {
    if let Some(group) = &target.group {
        return Ok(answer::see_other(&visit.site.path(&format!("/groups/{group}"))));
    }
    let found = api.find(target.name.as_str())?;
    let name = found.name.clone();
    let (causes, tail) = tokio::join!(why::evidence(&api, &name), tail(&api, &found));
    let seen = SeenEnvironment::read(&api, &name).await?;
    let view = &seen.view;
    let badge = Badge::of(view);
    let is_bad = urgency(view).is_some();
    let title = format!("{}{name} {}", if is_bad { "! " } else { "" }, badge.word);
    let frame = Frame::new(&visit, &api, &title, "").live(Some(name.as_str())).troubled(is_bad);
    let clock = frame.clock;
    let manifest = Arc::clone(&api.manifest.borrow());
    let place = CardPlace { host: &visit.site.host, front: manifest.manifest.front.as_ref(), hub: &api.hub };
    let revisions = seen.history.iter().take(GENERATIONS).filter_map(|kept| kept.entry.revision.clone());
    let revisions = revisions.map(|commit| (name.clone(), commit)).collect::<Vec<_>>();
    api.pages.history.learn(&manifest.manifest, revisions, []).await;
    let good = last_good(&seen.history, view.generation);
    let parts = Parts {
        head: part(&Head { clock, name: name.as_str(), badge, view })?,
        said: part(&Banner::new(
            &visit.site.prefix,
            clock,
            view,
            good,
            visit.may_move(&name) && found.spec().is_some(),
        ))?,
        why: why::why(clock, &causes?)?,
        acts: acts(&visit, &found, &seen, is_bad)?,
        evidence: evidence::on_environment(&visit.site.prefix, clock, &seen.evidence)?,
        judge: evidence::judgement(
            &visit,
            view,
            &seen.evidence.evidence,
            !seen.evidence.onward.is_empty(),
            None,
        )?,
        tail: part(&Tail { root: &visit.site.prefix, name: name.as_str(), tail })?,
        history: part(&GenerationHistory {
            root: &visit.site.prefix,
            name: name.as_str(),
            clock,
            rows: rows(&api, &seen.history, view, GENERATIONS),
        })?,
        facts: part(&FactsView {
            root: &visit.site.prefix,
            name: name.as_str(),
            is_promoted: found.spec().is_some_and(|spec| matches!(spec.supply, Supply::Promotion { .. })),
            clock,
            view,
            rows: {
                let mut rows = facts(&manifest.manifest, found.spec(), view);
                let recent = api.metrics.recent_requests(&name, (api.clock)());
                rows.extend(recent.map(|recent| ("Requests", requests(&recent))));
                rows
            },
            address: found.spec().and_then(|spec| address(spec, &place)),
        })?,
        jobs: jobs(clock, &api.jobs_of(&name)?)?,
        events: part(&Events {
            root: &visit.site.prefix,
            name: name.as_str(),
            clock,
            events: &seen.events,
            is_whole: false,
        })?,
    };
    let notice = act::notice(&noted, view, &seen.history)
        .or_else(|| evidence::notice(&noted, view, &seen.evidence.evidence));
    let may_move = visit.may_move(&name) && view.group.is_none();
    answer::page(&visit, &EnvironmentPage { may_move, frame, notice, parts })
}

/// The causes and the last output of the only environment, for the board.
pub(super) async fn alone(
    api: &ApiState,
    root: &str,
    clock: PageClock,
    name: &EnvironmentName,
) -> Result<[Safe<String>; 2], ApiError> {
    let found = api.find(name.as_str())?;
    let (causes, tail) = tokio::join!(why::evidence(api, name), tail(api, &found));
    Ok([why::why(clock, &causes?)?, part(&Tail { root, name: name.as_str(), tail })?])
}

/// The record of one environment.
pub(super) struct SeenEnvironment {
    pub(super) view: EnvironmentView,
    pub(super) history: Vec<HistoryEntry>,
    pub(super) events: Vec<Event>,
    pub(super) evidence: EvidenceView,
}

impl SeenEnvironment {
    /// Reads it.
    pub(super) async fn read(api: &ApiState, name: &EnvironmentName) -> Result<Self, ApiError> {
        let name = name.clone();
        api.apart(move |api| {
            let history = api.status.history(&name)?;
            let mut events = api.status.events(Some(&name), None, EVENTS)?;
            events.reverse();
            let (view, build) = api.view_apart_from_build(&name)?;
            let evidence = api.evidence_view(&name)?;
            Ok(Self { view: EnvironmentView { build, ..view }, history, events, evidence })
        })
        .await
    }
}

#[derive(Template)]
#[template(path = "environment.html")]
struct EnvironmentPage {
    frame: Frame,
    notice: Option<Notice>,
    may_move: bool,
    parts: Parts,
}

struct Parts {
    head: Safe<String>,
    said: Safe<String>,
    why: Safe<String>,
    acts: Option<Safe<String>>,
    evidence: Option<Safe<String>>,
    judge: Option<Safe<String>>,
    tail: Safe<String>,
    history: Safe<String>,
    facts: Safe<String>,
    /// `None`: it has no jobs.
    jobs: Option<Safe<String>>,
    events: Safe<String>,
}

#[derive(Template)]
#[template(path = "environment-jobs.html")]
struct JobsPart<'a> {
    clock: PageClock,
    jobs: &'a [JobView],
}

fn jobs(clock: PageClock, jobs: &[JobView]) -> Result<Option<Safe<String>>, ApiError> {
    if jobs.is_empty() {
        return Ok(None);
    }
    part(&JobsPart { clock, jobs }).map(Some)
}

#[derive(Template)]
#[template(path = "environment-head.html")]
struct Head<'a> {
    clock: PageClock,
    name: &'a str,
    badge: Badge,
    view: &'a EnvironmentView,
}

#[derive(Template)]
#[template(path = "environment-said.html")]
struct Banner<'a> {
    root: &'a str,
    clock: PageClock,
    view: &'a EnvironmentView,
    /// The class of the banner.
    look: &'static str,
    message: String,
    good: Option<Generation>,
    warnings: Vec<String>,
    may_move: bool,
    is_bad: bool,
}

impl<'a> Banner<'a> {
    fn new(
        root: &'a str,
        clock: PageClock,
        view: &'a EnvironmentView,
        good: Option<Generation>,
        may_move: bool,
    ) -> Self {
        let look = match view.status {
            Condition::Degraded | Condition::Blocked => "bad",
            Condition::RolledBack => "warn",
            Condition::Held => "held",
            Condition::Ready | Condition::Progressing => "calm",
        };
        let warnings = view.warnings.iter().map(|warning| sentence(warning)).collect();
        let (message, is_bad) = (sentence(&view.message), urgency(view).is_some());
        let good = good.filter(|_| is_bad);
        Self { root, clock, view, look, message, good, warnings, may_move, is_bad }
    }
}

#[derive(Template)]
#[template(path = "acts.html")]
struct Acts {
    root: String,
    /// The group that has the other forms.
    group: Option<GroupName>,
    acts: Vec<ActionForm>,
    /// Whether the first form is the remedy.
    is_bad: bool,
}

/// The forms that the visitor may send and that the state of the environment allows.
fn acts(
    visit: &Visit,
    found: &FoundEnvironment,
    seen: &SeenEnvironment,
    is_bad: bool,
) -> Result<Option<Safe<String>>, ApiError> {
    if !visit.may_move(&found.name) || found.spec().is_none() {
        return Ok(None);
    }
    let group = found.spec().and_then(|spec| spec.group.clone());
    let all: &[Act] = match group {
        // A member is held, resumed and rolled back with its group.
        Some(_) => &[Act::CanaryPromote, Act::CanaryAbort, Act::Set, Act::Sync],
        None => &[
            Act::CanaryPromote,
            Act::CanaryAbort,
            Act::Resume,
            Act::Rollback,
            Act::Hold,
            Act::Set,
            Act::Sync,
        ],
    };
    let (view, root) = (&seen.view, visit.site.prefix.as_str());
    let form = |act| ActionForm::new(act, root, view, &seen.history, found.spec(), Typed::default());
    let acts = all.iter().copied().map(form).filter(|form| form.is_possible(view)).collect();
    let is_bad = is_bad && group.is_none();
    part(&Acts { root: root.to_owned(), group, acts, is_bad }).map(Some)
}

#[derive(Template)]
#[template(path = "environment-tail.html")]
struct Tail<'a> {
    root: &'a str,
    name: &'a str,
    tail: Result<Vec<String>, String>,
}

/// The last lines of an environment's output, or why there are none.
async fn tail(api: &ApiState, found: &FoundEnvironment) -> Result<Vec<String>, String> {
    let options = LogOptions { tail: Some(TAIL), ..LogOptions::default() };
    let name = found.name.clone();
    let asking = async {
        let mut stream = match (found.host(), &api.controller) {
            (Some(host), _) => {
                api.hub.ask(host, name, Question::Logs(options)).await.map_err(|error| error.to_string())?
            }
            (None, Some(controller)) => {
                controller.logs(name, options).await.map_err(|error| error.to_string())?
            }
            (None, None) => return Err("no daemon runs".to_owned()),
        };
        let mut text = Vec::new();
        while let Some(piece) = stream.next().await {
            text.extend_from_slice(&piece.map_err(|error| error.to_string())?);
            if text.len() > LONGEST_TAIL {
                text.drain(..text.len() - LONGEST_TAIL);
            }
        }
        Ok(lines(&text))
    };
    let asked = tokio::time::timeout(PATIENCE, asking).await;
    asked.unwrap_or_else(|_| Err("it did not come within two seconds".to_owned()))
}

/// The lines of output without escape sequences.
fn lines(output: &[u8]) -> Vec<String> {
    let plain = anstream::adapter::strip_bytes(output).into_vec();
    let text = String::from_utf8_lossy(&plain);
    // A line that was written over shows its last state.
    let last =
        |line: &str| line.trim_end_matches('\r').rsplit('\r').next().map(|line| cut(line, LONGEST_LINE));
    text.lines().filter_map(last).collect()
}

#[derive(Template)]
#[template(path = "environment-history.html")]
struct GenerationHistory<'a> {
    root: &'a str,
    name: &'a str,
    clock: PageClock,
    rows: Vec<HistoryRow>,
}

/// One generation.
pub(super) struct HistoryRow {
    pub(super) generation: u64,
    pub(super) is_current: bool,
    pub(super) subject: Option<String>,
    pub(super) badge: Badge,
    pub(super) version: String,
    pub(super) image: Option<String>,
    pub(super) how: String,
    pub(super) note: Option<String>,
    pub(super) at: Timestamp,
    pub(super) detail: Option<String>,
}

/// The rows of a history, newest first.
pub(super) fn rows(
    api: &ApiState,
    history: &[HistoryEntry],
    view: &EnvironmentView,
    most: usize,
) -> Vec<HistoryRow> {
    let row = |kept: &HistoryEntry| {
        let entry = &kept.entry;
        let is_current = entry.generation == view.generation;
        let by = entry.by.as_deref().map(|by| format!(" by {}", short_name(by)));
        let detail = match &kept.outcome {
            Some(Outcome::Failed(why)) => Some(cut(why, 200)),
            Some(Outcome::Ready | Outcome::Superseded) | None => None,
        };
        HistoryRow {
            generation: entry.generation.0,
            is_current,
            subject: entry
                .revision
                .as_ref()
                .and_then(|id| api.pages.history.line(id))
                .map(|line| line.subject),
            badge: outcome_badge(kept.outcome.as_ref(), is_current),
            version: entry.revision.as_ref().map_or_else(String::new, |id| id.short().to_owned()),
            image: entry.image.as_ref().and_then(Image::shown_digest).map(|digest| digest.short().to_owned()),
            how: format!("{}{}", moved(entry.origin), by.unwrap_or_default()),
            note: entry.note.clone(),
            at: entry.at,
            detail,
        }
    };
    history.iter().take(most).map(row).collect()
}

/// The badge of the outcome of a generation.
pub(super) fn outcome_badge(outcome: Option<&Outcome>, is_current: bool) -> Badge {
    let (look, word) = match outcome {
        Some(Outcome::Ready) if is_current => ("ready", "ready"),
        Some(Outcome::Ready) => ("ready", "was ready"),
        Some(Outcome::Failed(_)) => ("degraded", "failed"),
        Some(Outcome::Superseded) => ("unsure", "overtaken"),
        None => ("progress", "in progress"),
    };
    Badge { look, word }
}

#[derive(Template)]
#[template(path = "environment-facts.html")]
struct FactsView<'a> {
    root: &'a str,
    name: &'a str,
    is_promoted: bool,
    clock: PageClock,
    view: &'a EnvironmentView,
    rows: Vec<(&'static str, String)>,
    address: Option<CardAddress>,
}

/// The declaration and the running container.
fn facts(
    manifest: &Manifest,
    spec: Option<&EnvironmentSpec>,
    view: &EnvironmentView,
) -> Vec<(&'static str, String)> {
    let mut rows = Vec::new();
    let needed: Vec<_> =
        view.needs.iter().map(|(name, state)| format!("{name} {}", state.as_str())).collect();
    rows.extend((!needed.is_empty()).then(|| ("Needs", needed.join(", "))));
    rows.push(("Recorded", format!("generation {}", view.generation)));
    let seen = view
        .observed_generation
        .map_or_else(|| "nothing yet".to_owned(), |seen| format!("generation {seen}"));
    rows.push(("Seen", seen));
    rows.extend(view.revision.as_ref().map(|id| ("Commit", CommitId::short(id).to_owned())));
    rows.extend(view.image.as_ref().map(|image| {
        let digest = image.shown_digest().map(Digest::short).unwrap_or("unknown");
        (
            "Image",
            image.reference.as_ref().map_or_else(|| digest.to_owned(), |name| format!("{name} {digest}")),
        )
    }));
    match &view.running {
        Some(running) => {
            let id = running.container_id.get(..12).unwrap_or(&running.container_id);
            let runs = running
                .image_id
                .as_ref()
                .map_or_else(|| "an unknown image".to_owned(), |image| format!("image {}", image.short()));
            rows.push(("Runs", runs));
            rows.push(("Container", format!("{} {id}", view.container.as_deref().unwrap_or_default())));
            rows.push(("Restarts", running.restarts.to_string()));
        }
        None => rows.push(("Runs", "nothing that serves".to_owned())),
    }
    rows.extend(view.host.as_ref().map(|host| ("Host", host.clone())));
    rows.extend(view.nodes.iter().map(|node| ("Node", format!("{}: {}", node.name, node.describe()))));
    let Some(spec) = spec else {
        rows.push(("Manifest", "no longer declares it".to_owned()));
        return rows;
    };
    rows.push(match &spec.supply {
        Supply::Branch { repository, branch } => {
            let url = manifest.repositories.get(repository).map(|spec| shown(&spec.url));
            ("Follows", format!("branch {branch} of {}", url.unwrap_or_else(|| repository.to_string())))
        }
        Supply::Promotion { from } => ("Takes from", format!("{from}, by promotion")),
        Supply::Tag { image, .. } => ("Follows", format!("tag {image}")),
        Supply::Manual => ("Takes from", "what someone sets".to_owned()),
    });
    rows.extend(spec.memory.map(|bytes| ("Memory", bytes_in_words(bytes))));
    rows.extend(spec.nano_cpus.map(|nano| ("Processors", cpus_in_words(nano))));
    rows
}

/// `120 in the last 5 min, 2 of them with a status from 500; half took up to 12ms, 95 % up to 60ms`.
fn requests(recent: &RecentRequests) -> String {
    let minutes = RECENT.as_secs() / 60;
    let failed = match recent.failed {
        0 => String::new(),
        1 => ", 1 of them with a status from 500".to_owned(),
        failed => format!(", {failed} of them with a status from 500"),
    };
    let [median, p95] = [recent.median, recent.p95].map(humantime::format_duration);
    format!("{} in the last {minutes} min{failed}; half took up to {median}, 95 % up to {p95}", recent.count)
}

/// `512 MiB`.
pub(super) fn bytes_in_words(bytes: u64) -> String {
    for (unit, size) in [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)] {
        if bytes >= size && bytes.is_multiple_of(size) {
            return format!("{} {unit}", bytes / size);
        }
    }
    format!("{bytes} bytes")
}

/// `1.5`.
pub(super) fn cpus_in_words(nano: u64) -> String {
    let (integer, rest) = (nano / 1_000_000_000, nano % 1_000_000_000);
    let rest = format!("{rest:09}");
    let rest = rest.trim_end_matches('0');
    if rest.is_empty() { integer.to_string() } else { format!("{integer}.{rest}") }
}

#[derive(Template)]
#[template(path = "environment-events.html")]
pub(super) struct Events<'a> {
    pub(super) root: &'a str,
    pub(super) name: &'a str,
    pub(super) clock: PageClock,
    pub(super) events: &'a [Event],
    /// Whether this is the page of all events.
    pub(super) is_whole: bool,
}

impl Events<'_> {
    fn look(event: &Event) -> &'static str {
        match event.kind {
            EventKind::Failure => "degraded",
            EventKind::Record => "arrow",
            EventKind::Status => "dot",
            EventKind::Difference | EventKind::Step | EventKind::Build | EventKind::System => "progress",
        }
    }

    fn message(event: &Event) -> String {
        cut(&event.message, 400)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_is_shown_without_escape_sequences_and_overwritten_parts() {
        let output =
            b"\x1b[32mok\x1b[0m 1\r\n10%\r 50%\rdone\n\x1b]8;;http://evil.example\x07link\x1b]8;;\x07\nlast";
        assert_eq!(lines(output), ["ok 1", "done", "link", "last"]);
        assert!(lines(&vec![b'x'; 100_000])[0].chars().count() <= LONGEST_LINE + 1);
    }

    #[test]
    fn sizes_are_formatted_with_units() {
        assert_eq!(bytes_in_words(512 << 20), "512 MiB");
        assert_eq!(bytes_in_words(3 << 30), "3 GiB");
        assert_eq!(bytes_in_words(1_500), "1500 bytes");
        assert_eq!(cpus_in_words(1_500_000_000), "1.5");
        assert_eq!(cpus_in_words(2_000_000_000), "2");
    }
}
