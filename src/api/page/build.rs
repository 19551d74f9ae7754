//! Builds: those of an environment, and each one with its steps and its log, live while it runs.

use std::sync::Arc;

use askama::Template;
use askama::filters::Safe;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use futures::StreamExt as _;
use serde::Deserialize;

use super::answer::{self, part};
use super::commits::ForgeWeb;
use super::frame::Frame;
use super::guard::Visit;
use super::log::{
    FilePlace, LogQuery, LogSelection, LogView, attachment, build_lines, resumed_at, steps::LogStep,
    steps::steps,
};
use super::status::Badge;
use super::stopped::StoppedBuild;
use super::text::{PageClock, cut, length};
use crate::api::ApiState;
use crate::api::body::QueryParams;
use crate::api::error::ApiError;
use crate::api::find::FoundEnvironment;
use crate::api::logs::build_output;
use crate::api::tail::Start;
use crate::model::build::{BuildRecord, BuildResult};
use crate::model::commits::CommitLine;
use crate::model::name::{CommitId, Digest, EnvironmentName};
use crate::model::spec::Supply;
use crate::model::time::Timestamp;
use crate::model::view::BuildProgress;

/// The most builds of the list; the record keeps no more for an environment.
const MOST: usize = 100;
/// The most characters of a reason in the list.
const LONGEST_REASON: usize = 300;
/// The newest builds that the page of a missing one suggests.
const SUGGESTED: usize = 5;
/// The most characters of a number that names no build.
const LONGEST_NUMBER: usize = 20;

/// One build.
struct BuildRow {
    number: u64,
    badge: Badge,
    subject: Option<String>,
    /// The short commit; empty while it is not known.
    commit: String,
    started: Timestamp,
    /// The duration in words; `None` while it runs.
    took: Option<String>,
    /// The image, the reason of the failure, or the build that was used again.
    result: String,
}

impl BuildRow {
    fn of(record: &BuildRecord, line: Option<CommitLine>) -> Self {
        let (badge, result) = match (&record.result, record.reused) {
            (BuildResult::Built(_), Some(number)) => {
                (Badge { look: "ready", word: "Reused" }, format!("the same inputs as build {number}"))
            }
            (BuildResult::Built(image), None) => {
                let digest = image.shown_digest().map(Digest::short).unwrap_or("unknown");
                (Badge { look: "ready", word: "Built" }, format!("image {digest}"))
            }
            (BuildResult::Failed(why), _) => {
                (Badge { look: "degraded", word: "Failed" }, cut(why, LONGEST_REASON))
            }
        };
        Self {
            number: record.number,
            badge,
            subject: line.map(|line| line.subject).filter(|subject| !subject.is_empty()),
            commit: record.revision.short().to_owned(),
            started: record.started,
            took: Some(length(record.finished.since(record.started).as_secs())),
            result,
        }
    }

    /// One without a result. Its steps name its beginning.
    fn stopped(build: &StoppedBuild, line: Option<CommitLine>) -> Self {
        Self {
            number: build.number,
            badge: Badge { look: "unsure", word: "Stopped" },
            subject: line.map(|line| line.subject).filter(|subject| !subject.is_empty()),
            commit: build.revision.short().to_owned(),
            started: build.ended,
            took: None,
            result: "it has no result: it was replaced by a newer one, cancelled, or could not be attempted"
                .to_owned(),
        }
    }

    fn running(build: &BuildProgress) -> Self {
        let limit = length(build.timeout_seconds);
        Self {
            number: build.number,
            badge: Badge { look: "progress", word: "Running" },
            subject: None,
            commit: String::new(),
            started: build.started,
            took: None,
            result: format!("ended after {limit} at the latest"),
        }
    }
}

#[derive(Template)]
#[template(path = "builds-list.html")]
struct BuildList<'a> {
    root: &'a str,
    name: &'a str,
    clock: PageClock,
    rows: Vec<BuildRow>,
    /// The environment whose builds are shown.
    source: Option<EnvironmentName>,
}

#[derive(Template)]
#[template(path = "builds.html")]
struct BuildsPage {
    frame: Frame,
    name: String,
    list: Safe<String>,
}

/// `GET /environments/{environment}/builds`
pub(in crate::api) async fn builds(
    visit: Visit,
    State(api): State<ApiState>,
    found: FoundEnvironment,
) -> Result<Response, ApiError> {
    let name = found.name.clone();
    let now = running(&api, &name).map(|build| build.number);
    let (records, stopped) = {
        let name = name.clone();
        let read = move |api: &ApiState| {
            let records = api.status.builds(&name, MOST)?;
            let is_known =
                |number| now == Some(number) || records.iter().any(|record| record.number == number);
            let stopped = StoppedBuild::all(&api.logs_dir, &name, is_known);
            Ok((records, stopped))
        };
        api.apart(read).await?
    };
    let revisions = records.iter().map(|record| &record.revision);
    let revisions = revisions.chain(stopped.iter().map(|build| &build.revision)).cloned();
    learn(&api, &name, revisions).await;
    let frame = Frame::new(&visit, &api, &format!("Builds of {name}"), "").live(Some(name.as_str()));
    let running = running(&api, &name);
    let is_recorded = |number| records.iter().any(|record| record.number == number);
    let running = running.filter(|build| !is_recorded(build.number));
    let rows = running.as_ref().map(BuildRow::running).into_iter();
    let of = |record: &BuildRecord| BuildRow::of(record, api.pages.history.line(&record.revision));
    let without = |build: &StoppedBuild| BuildRow::stopped(build, api.pages.history.line(&build.revision));
    let ended = records.iter().map(of).chain(stopped.iter().map(without));
    let mut rows: Vec<_> = rows.chain(ended).collect();
    rows.sort_by_key(|row| std::cmp::Reverse(row.number));
    let source = match found.spec().map(|spec| &spec.supply) {
        Some(Supply::Promotion { from }) => Some(from.clone()),
        _ => None,
    };
    let (clock, root) = (frame.clock, visit.site.prefix.as_str());
    let list = part(&BuildList { root, name: name.as_str(), clock, rows, source })?;
    answer::page(&visit, &BuildsPage { frame, name: name.to_string(), list })
}

fn running(api: &ApiState, name: &EnvironmentName) -> Option<BuildProgress> {
    api.controller.as_ref().and_then(|controller| controller.building(name))
}

async fn learn(api: &ApiState, name: &EnvironmentName, commits: impl Iterator<Item = CommitId>) {
    let manifest = Arc::clone(&api.manifest.borrow());
    let commits: Vec<_> = commits.map(|commit| (name.clone(), commit)).collect();
    api.pages.history.learn(&manifest.manifest, commits, []).await;
}

/// The build in the path.
#[derive(Debug, Deserialize)]
pub(in crate::api) struct BuildPath {
    number: String,
}

impl BuildPath {
    fn number(&self) -> Result<u64, ApiError> {
        self.number.parse().map_err(|_| ApiError::not_found("a build has a number, such as 7"))
    }
}

/// A build of an environment: the record of an ended one, the progress of the running one, or the log of one without a
/// result.
enum FoundBuild {
    Ended(Box<BuildRecord>),
    Running(BuildProgress),
    Stopped(StoppedBuild),
}

impl FoundBuild {
    async fn find(api: &ApiState, name: &EnvironmentName, number: u64) -> Result<Self, ApiError> {
        if let Some(build) = running(api, name).filter(|build| build.number == number) {
            return Ok(Self::Running(build));
        }
        let of = name.clone();
        let find = move |api: &ApiState| {
            let records = api.status.builds(&of, usize::MAX)?;
            let record = records.into_iter().find(|record| record.number == number);
            let stopped =
                || StoppedBuild::read(&api.logs_dir, number).filter(|build| build.environment == of);
            Ok(record.map(|record| Self::Ended(Box::new(record))).or_else(|| stopped().map(Self::Stopped)))
        };
        let found = api.apart(find).await?;
        found.ok_or_else(|| ApiError::not_found(format!("`{name}` has no build {number}, or no longer")))
    }

    fn is_running(&self) -> bool {
        matches!(self, Self::Running(_))
    }

    fn finished(&self) -> Option<Timestamp> {
        match self {
            Self::Ended(record) => Some(record.finished),
            Self::Stopped(build) => Some(build.ended),
            Self::Running(_) => None,
        }
    }
}

#[derive(Template)]
#[template(path = "build-facts.html")]
struct BuildFacts {
    clock: PageClock,
    row: BuildRow,
    /// The whole reason of a failure.
    failure: Option<String>,
    image: Option<String>,
    commit: Option<String>,
    warnings: Vec<String>,
    steps: Vec<LogStep>,
}

#[derive(Template)]
#[template(path = "build.html")]
struct BuildPage {
    frame: Frame,
    name: String,
    number: u64,
    query: LogQuery,
    text: String,
    wrap: String,
    newest: Option<String>,
    is_running: bool,
    facts: Safe<String>,
    shown: Result<Safe<String>, String>,
}

/// `GET /environments/{environment}/builds/{number}?q=&tail=&wrap=&to=`
pub(in crate::api) async fn build(
    visit: Visit,
    State(api): State<ApiState>,
    found: FoundEnvironment,
    Path(path): Path<BuildPath>,
    QueryParams(query): QueryParams<LogQuery>,
) -> Result<Response, ApiError> {
    let name = found.name.clone();
    let (number, build) = match path.number() {
        Ok(number) => (number, FoundBuild::find(&api, &name, number).await),
        Err(error) => (0, Err(error)),
    };
    let build = match build {
        Err(error) if error.status == StatusCode::NOT_FOUND => {
            return missing(&visit, &api, &name, &path.number).await;
        }
        build => build?,
    };
    let manifest = Arc::clone(&api.manifest.borrow());
    let forge = ForgeWeb::of(&manifest.manifest, &name);
    let mut facts = BuildFacts {
        clock: PageClock((api.clock)()),
        row: match &build {
            FoundBuild::Running(progress) => BuildRow::running(progress),
            FoundBuild::Ended(record) => {
                learn(&api, &name, std::iter::once(record.revision.clone())).await;
                BuildRow::of(record, api.pages.history.line(&record.revision))
            }
            FoundBuild::Stopped(build) => {
                learn(&api, &name, std::iter::once(build.revision.clone())).await;
                BuildRow::stopped(build, api.pages.history.line(&build.revision))
            }
        },
        failure: None,
        image: None,
        commit: None,
        warnings: Vec::new(),
        steps: Vec::new(),
    };
    if let FoundBuild::Ended(record) = &build {
        facts.commit = forge.map(|forge| forge.commit(&record.revision));
        facts.warnings.clone_from(&record.warnings);
        match &record.result {
            BuildResult::Failed(why) => facts.failure = Some(why.clone()),
            BuildResult::Built(image) => facts.image = image.shown_digest().map(ToString::to_string),
        }
    }
    let wanted = LogSelection {
        only_complete: build.is_running(),
        is_numbered: true,
        to: query.last_line(),
        ..query.wanted()
    };
    let read = async {
        let output = build_output(&api, &name, number, Start::At(0), false).await?;
        let (found, output) = steps(output);
        let window = wanted
            .read(output.boxed())
            .await
            .map_err(|error| ApiError::unavailable("log-unavailable", error.to_string()))?;
        Ok::<_, ApiError>((found, window))
    };
    let shown = match read.await {
        Ok((found, window)) => {
            facts.steps = found.ended(build.finished());
            if let (FoundBuild::Stopped(build), Some(first)) = (&build, facts.steps.first()) {
                facts.row.started = first.at;
                facts.row.took = Some(length(build.ended.since(first.at).as_secs()));
            }
            let at = FilePlace { bytes: window.read, lines: window.ended }.to_string();
            let is_followed = build.is_running() && wanted.to.is_none();
            let follow = is_followed.then(|| {
                let query = query.with(LogQuery::keep_search);
                format!("{}/environments/{name}/builds/{number}/follow?{query}", visit.site.prefix)
            });
            let label = format!("Log of build {number} of {name}");
            Ok(Safe(answer::rendered(&LogView::new(label, &query, &wanted, window, at, follow))?))
        }
        Err(error) => Err(error.view.message),
    };
    let frame = Frame::new(&visit, &api, &format!("Build {number} of {name}"), "");
    let frame = if build.is_running() { frame.live(Some(name.as_str())) } else { frame };
    let page = BuildPage {
        frame,
        name: name.to_string(),
        number,
        text: query.text(),
        wrap: query.toggled_wrap(),
        newest: query.newest(),
        query,
        is_running: build.is_running(),
        facts: part(&facts)?,
        shown,
    };
    answer::page(&visit, &page)
}

#[derive(Template)]
#[template(path = "build-missing.html")]
struct MissingBuild {
    frame: Frame,
    name: String,
    /// The number as it was asked for.
    asked: String,
    /// The environment that has a build of this number.
    other: Option<EnvironmentName>,
    newest: Vec<u64>,
}

/// The page of a build that an environment does not have, with those that it has.
async fn missing(
    visit: &Visit,
    api: &ApiState,
    name: &EnvironmentName,
    asked: &str,
) -> Result<Response, ApiError> {
    let (of, number) = (name.clone(), asked.parse().ok());
    let read = move |api: &ApiState| {
        let newest = api.status.builds(&of, SUGGESTED)?.iter().map(|build| build.number).collect();
        let other = number.and_then(|number| StoppedBuild::read(&api.logs_dir, number));
        Ok((newest, other.map(|build| build.environment).filter(|other| *other != of)))
    };
    let (newest, other) = api.apart(read).await?;
    let frame = Frame::new(visit, api, &format!("No such build of {name}"), "");
    let (name, asked) = (name.to_string(), cut(asked, LONGEST_NUMBER));
    answer::page_with(visit, StatusCode::NOT_FOUND, &MissingBuild { frame, name, asked, other, newest })
}

/// `GET /environments/{environment}/builds/{number}/log.txt`
pub(in crate::api) async fn build_download(
    State(api): State<ApiState>,
    found: FoundEnvironment,
    Path(path): Path<BuildPath>,
) -> Result<Response, ApiError> {
    let number = path.number()?;
    FoundBuild::find(&api, &found.name, number).await?;
    let output = build_output(&api, &found.name, number, Start::At(0), false).await?;
    Ok(attachment(&format!("{}-build-{number}.log", found.name), output))
}

/// The position to continue from.
#[derive(Debug, Default, Deserialize)]
pub(in crate::api) struct BuildFollowQuery {
    q: Option<String>,
    after: Option<String>,
}

/// `GET /environments/{environment}/builds/{number}/follow?q=&after=`
pub(in crate::api) async fn build_follow(
    State(api): State<ApiState>,
    found: FoundEnvironment,
    Path(path): Path<BuildPath>,
    headers: HeaderMap,
    QueryParams(query): QueryParams<BuildFollowQuery>,
) -> Result<Response, ApiError> {
    let number = path.number()?;
    FoundBuild::find(&api, &found.name, number).await?;
    let after =
        resumed_at(&headers, query.after).and_then(|after| FilePlace::parse(&after)).unwrap_or_default();
    let output = build_output(&api, &found.name, number, Start::At(after.bytes), true).await?;
    Ok(build_lines(output, LogQuery::searching(query.q).wanted(), after))
}
