//! A promotion before it happens: both versions, the commits between them, the changes outside of it, and the
//! form.

use std::sync::Arc;

use askama::Template;
use askama::filters::Safe;
use axum::extract::{Path, State};
use axum::response::Response;

use super::act::{Noted, Notice, full_image, shown_image};
use super::answer::{self, part};
use super::board::counted;
use super::card::{CardAddress, CardPlace, address};
use super::commits::ForgeWeb;
use super::evidence::{self, EvidenceRow};
use super::frame::Frame;
use super::group_promotion::group_promotion;
use super::guard::Visit;
use super::status::Badge;
use super::text::{PageClock, sentence};
use crate::api::ApiState;
use crate::api::body::QueryParams;
use crate::api::error::ApiError;
use crate::model::build::BuildRecord;
use crate::model::commits::{CommitLine, Comparison};
use crate::model::declared;
use crate::model::desired::Image;
use crate::model::evidence::Evidence;
use crate::model::name::{CommitId, Digest, EnvironmentName, Generation, GroupName};
use crate::model::spec::{EnvironmentSpec, Supply};
use crate::model::status::Condition;
use crate::model::time::Timestamp;
use crate::model::view::{EnvironmentView, PromotionView};

/// The builds that are searched for the one that made the image.
const BUILDS: usize = 50;

/// The environment in the path.
#[derive(serde::Deserialize)]
pub(in crate::api) struct PromotionPath {
    environment: String,
}

/// The target of the promotion that `FROM-TO` names. Names may have dashes, so the manifest decides and not the text.
fn named_by_both(api: &ApiState, text: &str) -> Option<EnvironmentName> {
    let state = Arc::clone(&api.manifest.borrow());
    let is_meant = |(to, spec): &(&EnvironmentName, &EnvironmentSpec)| match &spec.supply {
        Supply::Promotion { from } => format!("{from}-{to}") == text,
        _ => false,
    };
    state.manifest.environments.iter().find(is_meant).map(|(to, _)| to.clone())
}

/// `GET /promotions/{environment}`; the path names the target.
pub(in crate::api) async fn promotion(
    visit: Visit,
    State(api): State<ApiState>,
    Path(PromotionPath { environment: text }): Path<PromotionPath>,
    QueryParams(noted): QueryParams<Noted>,
) -> Result<Response, ApiError> {
    if let Ok(target) = api.target(&text)
        && let Some(group) = &target.group
    {
        return group_promotion(&visit, &api, &target, group, &noted).await;
    }
    let found = match (api.find(&text), named_by_both(&api, &text)) {
        (Ok(found), _) => found,
        (Err(_), Some(to)) => return Ok(answer::see_other(&visit.site.path(&format!("/promotions/{to}")))),
        (Err(error), None) => return Err(error),
    };
    let to = found.name.clone();
    let spec = found.declared()?;
    let Supply::Promotion { from } = &spec.supply else {
        return Err(ApiError::not_found(format!(
            "`{to}` takes no promotions: its manifest has no `promote_from`"
        )));
    };
    let from = from.clone();
    let BothSides { source, target, promotion, evidence: found_about } =
        BothSides::read(&api, &from, &to, spec).await?;
    let manifest = Arc::clone(&api.manifest.borrow());
    let manifest = &manifest.manifest;
    let commits: Vec<_> = [&source, &target]
        .into_iter()
        .filter_map(|view| Some((view.environment.clone(), view.revision.clone()?)))
        .collect();
    api.pages.history.learn(manifest, commits, []).await;
    let compared = compare(&api, &source, &target).await;
    let build = build_of(&api, &from, source.image.as_ref()).await?;
    let place = CardPlace { host: &visit.site.host, front: manifest.front.as_ref(), hub: &api.hub };
    let from_spec = manifest.environments.get(&from);
    let title = format!("Promote {from} to {to}");
    let frame = Frame::new(&visit, &api, &title, "").live(None);
    let (clock, root) = (frame.clock, visit.site.prefix.as_str());
    let forge = ForgeWeb::of(manifest, &to);
    let site = from_spec.and_then(|spec| address(spec, &place));
    let side = |view: &EnvironmentView| VersionSide::new(&api, view);
    let is_same = promotion.there || is_same(&source, &target);
    let group = target.group.clone();
    let may_begin =
        source.status == Condition::Ready && promotion.problem.is_none() && !is_same && group.is_none();
    let can = may_begin && promotion.open;
    let sides = part(&Sides { clock, root, now: side(&target), next: side(&source), site })?;
    let parts = vec![
        part(&CommitLists::new(clock, compared, forge.as_ref(), &source, &target))?,
        part(&Apart {
            root,
            to: to.as_str(),
            differences: from_spec.map(|from| differences(from, spec)).unwrap_or_default(),
        })?,
    ];
    let mut rows = evidence(&source, build.as_ref());
    rows.extend(evidence::about(&found_about, source.image.as_ref()));
    let shown = part(&ShownEvidence { clock, to: to.as_str(), rows, gates: evidence::gates(&promotion) })?;
    let form = part(&PromoteForm {
        root,
        from: from.as_str(),
        to: to.as_str(),
        digest: full_image(source.image.as_ref()),
        seen: target.generation,
        next: shown_image(source.image.as_ref()),
        now: shown_image(target.image.as_ref()),
        deadline: humantime::format_duration(spec.health.start_deadline).to_string(),
        obstacle: obstacle(&source, is_same, &target, &promotion),
        group,
        held: target.held.is_some(),
        may_move: visit.may_move(&to),
        can,
        can_override: may_begin && !promotion.open && visit.may_administer(),
        auto: promotion.auto,
        there: is_same,
    })?;
    let judge = evidence::judgement(&visit, &source, &found_about, true, Some(&to))?;
    let page = PromotionPage {
        notice: evidence::notice(&noted, &source, &found_about),
        frame,
        title,
        may_move: visit.may_move(&to) && can,
        may_judge: judge.is_some(),
        sides,
        parts,
        evidence: shown,
        judge,
        form,
    };
    answer::page(&visit, &page)
}

/// Both environments of a promotion at one moment.
pub(super) struct BothSides {
    pub(super) source: EnvironmentView,
    pub(super) target: EnvironmentView,
    pub(super) promotion: PromotionView,
    /// The evidence about the images of the source.
    pub(super) evidence: Vec<Evidence>,
}

impl BothSides {
    pub(super) async fn read(
        api: &ApiState,
        from: &EnvironmentName,
        to: &EnvironmentName,
        spec: &EnvironmentSpec,
    ) -> Result<Self, ApiError> {
        let (from, to, spec) = (from.clone(), to.clone(), spec.clone());
        api.apart(move |api| {
            let manifest = Arc::clone(&api.manifest.borrow());
            Ok(Self {
                source: api.view_apart_from_build(&from)?.0,
                target: api.view_apart_from_build(&to)?.0,
                promotion: api.promotion((&from, &to), &spec, &manifest.manifest)?,
                evidence: api.desired.evidence(&from)?,
            })
        })
        .await
    }
}

/// Whether the target has the image already.
pub(super) fn is_same(source: &EnvironmentView, target: &EnvironmentView) -> bool {
    match (&source.image, &target.image) {
        (Some(source), Some(target)) => source.is_same(target),
        _ => false,
    }
}

/// Why nothing can be promoted now.
pub(super) fn obstacle(
    source: &EnvironmentView,
    is_same: bool,
    target: &EnvironmentView,
    promotion: &PromotionView,
) -> Option<String> {
    let (from, to) = (&source.environment, &target.environment);
    if is_same {
        return Some(format!("{to} has this image already, as generation {}.", target.generation));
    }
    if source.status != Condition::Ready {
        return Some(format!(
            "{from} is {}, and only a Ready version can be promoted. {}",
            source.status.as_str(),
            sentence(&source.message)
        ));
    }
    if let Some(problem) = &promotion.problem {
        return Some(sentence(problem));
    }
    (!promotion.open).then(|| evidence::waiting(to, &promotion.message))
}

async fn compare(
    api: &ApiState,
    source: &EnvironmentView,
    target: &EnvironmentView,
) -> Result<Arc<Comparison>, String> {
    match (&target.revision, &source.revision) {
        (Some(old), Some(new)) if old == new => Ok(Arc::default()),
        (Some(old), Some(new)) => api.pages.history.compare(&target.environment, old, new).await,
        (None, _) => Err(format!("the commit of {} is not known", target.environment)),
        (_, None) => Err(format!("the commit of {} is not known", source.environment)),
    }
}

/// The build that made an image.
async fn build_of(
    api: &ApiState,
    environment: &EnvironmentName,
    image: Option<&Image>,
) -> Result<Option<BuildRecord>, ApiError> {
    let Some(image) = image.cloned() else { return Ok(None) };
    let environment = environment.clone();
    api.apart(move |api| {
        let builds = api.status.builds(&environment, BUILDS)?.into_iter();
        Ok(builds.into_iter().find(|build| matches!(&build.result, crate::model::build::BuildResult::Built(built) if built.is_same(&image))))
    })
    .await
}

/// The keys of the manifest that differ between two environments; never their values.
fn differences(from: &EnvironmentSpec, to: &EnvironmentSpec) -> Vec<String> {
    let mut keys: Vec<String> = declared::differing_keys(from, to).into_iter().map(str::to_owned).collect();
    let names = from.env.keys().chain(to.env.keys()).collect::<std::collections::BTreeSet<_>>();
    let differing = names.into_iter().filter(|name| from.env.get(*name) != to.env.get(*name));
    keys.extend(differing.map(|name| format!("env.{name}")));
    keys
}

#[derive(Template)]
#[template(path = "promotion.html")]
struct PromotionPage {
    frame: Frame,
    notice: Option<Notice>,
    title: String,
    may_move: bool,
    may_judge: bool,
    sides: Safe<String>,
    parts: Vec<Safe<String>>,
    evidence: Safe<String>,
    judge: Option<Safe<String>>,
    form: Safe<String>,
}

/// One of two versions.
pub(super) struct VersionSide {
    pub(super) name: String,
    pub(super) badge: Badge,
    pub(super) subject: String,
    pub(super) version: String,
    pub(super) image: String,
    pub(super) generation: Generation,
    since: Option<Timestamp>,
}

impl VersionSide {
    pub(super) fn new(api: &ApiState, view: &EnvironmentView) -> Self {
        let line = view.revision.as_ref().and_then(|commit| api.pages.history.line(commit));
        let reference = view.image.as_ref().and_then(|image| image.reference.clone());
        Self {
            name: view.environment.to_string(),
            badge: Badge::of(view),
            subject: line.map(|line| line.subject).or(reference).unwrap_or_default(),
            version: view.revision.as_ref().map(|id| id.short().to_owned()).unwrap_or_default(),
            image: shown_image(view.image.as_ref()),
            generation: view.generation,
            since: view.since,
        }
    }
}

#[derive(Template)]
#[template(path = "promotion-sides.html")]
struct Sides<'a> {
    clock: PageClock,
    root: &'a str,
    now: VersionSide,
    next: VersionSide,
    site: Option<CardAddress>,
}

#[derive(Template)]
#[template(path = "promotion-commits.html")]
struct CommitLists {
    clock: PageClock,
    heading: String,
    compare: Option<(String, String)>,
    rows: Vec<CommitRow>,
    /// The number of commits that are not listed.
    more: usize,
    problem: Option<String>,
    target: String,
}

struct CommitRow {
    is_new: bool,
    line: CommitLine,
    url: Option<String>,
}

impl CommitLists {
    fn new(
        clock: PageClock,
        compared: Result<Arc<Comparison>, String>,
        forge: Option<&ForgeWeb>,
        source: &EnvironmentView,
        target: &EnvironmentView,
    ) -> Self {
        let compare = match (forge, &target.revision, &source.revision) {
            (Some(forge), Some(old), Some(new)) if old != new => {
                Some((forge.compare(old, new), forge.host.clone()))
            }
            _ => None,
        };
        let target = target.environment.to_string();
        match compared {
            Err(why) => Self {
                clock,
                heading: "Commits".to_owned(),
                compare,
                rows: Vec::new(),
                more: 0,
                problem: Some(why),
                target,
            },
            Ok(compared) => {
                let row = |is_new: bool| {
                    move |line: &CommitLine| CommitRow {
                        is_new,
                        url: forge.map(|forge| forge.commit(&line.id)),
                        line: line.clone(),
                    }
                };
                let rows: Vec<_> = compared
                    .added
                    .iter()
                    .map(row(true))
                    .chain(compared.removed.iter().map(row(false)))
                    .collect();
                let more = (compared.added_count + compared.removed_count).saturating_sub(rows.len());
                Self { clock, heading: heading(&compared), compare, rows, more, problem: None, target }
            }
        }
    }
}

fn heading(compared: &Comparison) -> String {
    let (added, removed) = (compared.added_count, compared.removed_count);
    let come = |count: usize| if count == 1 { "comes in" } else { "come in" };
    let go = |count: usize| if count == 1 { "goes out" } else { "go out" };
    match (added, removed) {
        (0, 0) => "The same commit".to_owned(),
        (added, 0) => format!("{} {}", counted(added, "commit", "commits"), come(added)),
        (0, removed) => format!("{} {}", counted(removed, "commit", "commits"), go(removed)),
        (added, removed) => {
            format!("{} {}, {removed} {}", counted(added, "commit", "commits"), come(added), go(removed))
        }
    }
}

#[derive(Template)]
#[template(path = "promotion-apart.html")]
struct Apart<'a> {
    root: &'a str,
    to: &'a str,
    differences: Vec<String>,
}

#[derive(Template)]
#[template(path = "promotion-evidence.html")]
struct ShownEvidence<'a> {
    clock: PageClock,
    to: &'a str,
    rows: Vec<EvidenceRow>,
    gates: Vec<EvidenceRow>,
}

/// The evidence about the image.
fn evidence(source: &EnvironmentView, build: Option<&BuildRecord>) -> Vec<EvidenceRow> {
    let name = &source.environment;
    let good = |text: String, since| EvidenceRow { since, ..EvidenceRow::good(text) };
    let open = EvidenceRow::open;
    let mut rows = Vec::new();
    let runs = source.running.as_ref().and_then(|running| running.image_id.as_ref());
    let recorded = source.image.as_ref().and_then(|image| image.id.as_ref());
    let restarts = source.running.as_ref().map_or(0, |running| running.restarts);
    let restarted = match restarts {
        0 => "without a restart".to_owned(),
        count => {
            format!("with {}", counted(usize::try_from(count).unwrap_or(usize::MAX), "restart", "restarts"))
        }
    };
    rows.push(match (source.status, runs, recorded) {
        (Condition::Ready, Some(runs), Some(recorded)) if runs == recorded => {
            good(format!("{name} runs exactly this image, {restarted}, Ready for"), source.since)
        }
        (Condition::Ready, ..) => good(format!("{name} is Ready with it, {restarted}, for"), source.since),
        _ => EvidenceRow::bad(format!("{name} is {}", source.status.as_str())),
    });
    rows.push(match build {
        Some(build) => {
            let seconds = build.finished.since(build.started).as_secs();
            let took = humantime::format_duration(std::time::Duration::from_secs(seconds));
            good(format!("Built once, as build {}, in {took}", build.number), None)
        }
        None => open("No build of this record made it".to_owned()),
    });
    rows.push(match source.image.as_ref().and_then(|image| image.digest.as_ref()) {
        Some(digest) => good(format!("In a registry under {}", Digest::short(digest)), None),
        None => open("Only on the engine that built it, in no registry".to_owned()),
    });
    rows
}

#[derive(Template)]
#[template(path = "promotion-form.html")]
struct PromoteForm<'a> {
    root: &'a str,
    from: &'a str,
    to: &'a str,
    digest: String,
    seen: Generation,
    next: String,
    now: String,
    deadline: String,
    obstacle: Option<String>,
    /// The group that it is promoted with.
    group: Option<GroupName>,
    held: bool,
    may_move: bool,
    can: bool,
    can_override: bool,
    auto: bool,
    there: bool,
}

/// Used by the board: the number of commits that a promotion brings.
pub(super) fn ahead(compared: &Comparison) -> String {
    match (compared.added_count, compared.removed_count) {
        (0, 0) => "same commit".to_owned(),
        (added, 0) => format!("{} ahead", counted(added, "commit", "commits")),
        (0, removed) => format!("{} behind", counted(removed, "commit", "commits")),
        (added, removed) => format!("{added} ahead, {removed} behind"),
    }
}

/// The revisions that a promotion would replace and bring, if both are known and differ.
pub(super) fn pair(source: &EnvironmentView, target: &EnvironmentView) -> Option<(CommitId, CommitId)> {
    let (old, new) = (target.revision.clone()?, source.revision.clone()?);
    (old != new).then_some((old, new))
}
