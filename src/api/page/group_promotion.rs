//! The promotion of a group before it happens: for each member what it runs and what it would run, its gates, and one
//! form for all of them.

use std::sync::Arc;

use askama::Template;
use askama::filters::Safe;
use axum::response::Response;

use super::act::{Noted, Notice, full_image, shown_image};
use super::answer::{self, part};
use super::evidence::{self, EvidenceRow};
use super::frame::Frame;
use super::group;
use super::group_form::{self, SeenMember};
use super::group_judgement::JudgedGroup;
use super::guard::Visit;
use super::promotion::{BothSides, VersionSide, ahead, is_same, obstacle, pair};
use super::text::PageClock;
use super::unit::BoardUnit;
use crate::api::ApiState;
use crate::api::error::ApiError;
use crate::api::find::CommandTarget;
use crate::model::name::{EnvironmentName, GroupName};
use crate::model::status::Condition;
use crate::model::view::EnvironmentView;

/// One member, before a promotion.
struct MemberPromotion {
    short: String,
    sides: BothSides,
    /// Whether it has the image already.
    is_same: bool,
}

impl MemberPromotion {
    /// Whether its source may be promoted, apart from the gates.
    fn may_begin(&self) -> bool {
        self.sides.source.status == Condition::Ready && self.sides.promotion.problem.is_none()
    }
}

/// `GET /promotions/{environment}`, if the path names a group.
pub(super) async fn group_promotion(
    visit: &Visit,
    api: &ApiState,
    target: &CommandTarget,
    group: &GroupName,
    noted: &Noted,
) -> Result<Response, ApiError> {
    let state = Arc::clone(&api.manifest.borrow());
    let manifest = &state.manifest;
    let Some(from) = BoardUnit::Group(group.clone()).promoted_from(manifest) else {
        return Err(ApiError::not_found(format!(
            "the group `{group}` takes no promotions: no member has a `promote_from`"
        )));
    };
    let (mut members, mut others) = (Vec::new(), Vec::new());
    for name in target.environments() {
        match (manifest.promoted_from(name), manifest.environments.get(name)) {
            (Some(from), Some(spec)) => {
                let sides = BothSides::read(api, from, name, spec).await?;
                let is_same = sides.promotion.there || is_same(&sides.source, &sides.target);
                members.push(MemberPromotion { short: group.short(name).to_owned(), sides, is_same });
            }
            _ => others.push(api.view(name)?),
        }
    }
    learn(api, &members).await;
    let title = format!("Promote {} to {group}", from.as_str());
    let frame = Frame::new(visit, api, &title, "").live(None);
    let (clock, root) = (frame.clock, visit.site.prefix.as_str());
    let may_move = visit.may_move(&target.name);
    let form = form(visit, root, from.as_str(), group, &members, &others, may_move);
    let (notice, judge) = match &from {
        BoardUnit::Group(source) => judge_group(visit, api, (source, target), noted).await?,
        BoardUnit::Environment(_) => judge_source(visit, &members, target, noted)?,
    };
    let page = GroupPromotionPage {
        title,
        notice,
        judge,
        may_move: may_move && form.can,
        table: part(&MemberSides {
            root,
            clock,
            from: from.as_str(),
            to: group.as_str(),
            rows: members.iter().map(|member| row(api, member)).collect(),
            others: others.iter().map(|view| group.short(&view.environment).to_owned()).collect(),
        })?,
        form: part(&form)?,
        frame,
    };
    answer::page(visit, &page)
}

/// The notice and the forms about the images of a group that another one is promoted from.
async fn judge_group(
    visit: &Visit,
    api: &ApiState,
    (source, to): (&GroupName, &CommandTarget),
    noted: &Noted,
) -> Result<(Option<Notice>, Option<Safe<String>>), ApiError> {
    let from = api.target(source.as_str())?;
    let members = group::read(api, &from).await?;
    let judged = JudgedGroup::read(api, &from, source, &members).await?;
    Ok((judged.notice(noted), judged.forms(visit, &from, &members, Some(&to.name))?))
}

/// The same, if all members are promoted from one environment, as the slots of replicas are.
fn judge_source(
    visit: &Visit,
    members: &[MemberPromotion],
    to: &CommandTarget,
    noted: &Noted,
) -> Result<(Option<Notice>, Option<Safe<String>>), ApiError> {
    let Some(MemberPromotion { sides, .. }) = members.first() else { return Ok((None, None)) };
    let BothSides { source, evidence: about, .. } = sides;
    let judge = evidence::judgement(visit, source, about, true, Some(&to.name))?;
    Ok((evidence::notice(noted, source, about), judge))
}

/// Learns the commits of both sides and what is between them.
async fn learn(api: &ApiState, members: &[MemberPromotion]) {
    let state = Arc::clone(&api.manifest.borrow());
    let views = members.iter().flat_map(|member| [&member.sides.source, &member.sides.target]);
    let commits: Vec<_> =
        views.filter_map(|view| Some((view.environment.clone(), view.revision.clone()?))).collect();
    let pair_of = |member: &MemberPromotion| {
        let (old, new) = pair(&member.sides.source, &member.sides.target)?;
        Some((member.sides.target.environment.clone(), old, new))
    };
    let pairs: Vec<_> = members.iter().filter_map(pair_of).collect();
    api.pages.history.learn(&state.manifest, commits, pairs).await;
}

#[derive(Template)]
#[template(path = "group-promotion.html")]
struct GroupPromotionPage {
    frame: Frame,
    title: String,
    notice: Option<Notice>,
    judge: Option<Safe<String>>,
    may_move: bool,
    table: Safe<String>,
    form: Safe<String>,
}

#[derive(Template)]
#[template(path = "group-promotion-members.html")]
struct MemberSides<'a> {
    root: &'a str,
    clock: PageClock,
    from: &'a str,
    to: &'a str,
    rows: Vec<MemberSide>,
    /// The members that no promotion changes.
    others: Vec<String>,
}

struct MemberSide {
    short: String,
    name: EnvironmentName,
    now: VersionSide,
    next: VersionSide,
    is_same: bool,
    ahead: Option<String>,
    gates: Vec<EvidenceRow>,
}

fn row(api: &ApiState, member: &MemberPromotion) -> MemberSide {
    let BothSides { source, target, promotion, evidence: _ } = &member.sides;
    let compared = pair(source, target).and_then(|(old, new)| api.pages.history.compared(&old, &new));
    MemberSide {
        short: member.short.clone(),
        name: target.environment.clone(),
        now: VersionSide::new(api, target),
        next: VersionSide::new(api, source),
        is_same: member.is_same,
        ahead: compared.map(|compared| ahead(&compared)).filter(|_| !member.is_same),
        gates: if member.is_same { Vec::new() } else { evidence::gates(promotion) },
    }
}

#[derive(Template)]
#[template(path = "group-promotion-form.html")]
struct GroupPromotionForm<'a> {
    root: &'a str,
    from: &'a str,
    to: &'a str,
    /// Each source with the image that the visitor sees there.
    images: Vec<(EnvironmentName, String)>,
    seen: Vec<SeenMember>,
    /// What each member would run, in words.
    steps: Vec<String>,
    obstacles: Vec<String>,
    is_held: bool,
    may_move: bool,
    can: bool,
    can_override: bool,
    auto: bool,
}

fn form<'a>(
    visit: &Visit,
    root: &'a str,
    from: &'a str,
    group: &'a GroupName,
    members: &[MemberPromotion],
    others: &[EnvironmentView],
    may_move: bool,
) -> GroupPromotionForm<'a> {
    let changing: Vec<_> = members.iter().filter(|member| !member.is_same).collect();
    let may_begin = !changing.is_empty() && changing.iter().all(|member| member.may_begin());
    let is_open = changing.iter().all(|member| member.sides.promotion.open);
    let obstacles = match changing.is_empty() {
        true => vec![format!("Every member of {group} has the image of {from} already.")],
        false => {
            let of = |member: &&MemberPromotion| {
                let BothSides { source, target, promotion, evidence: _ } = &member.sides;
                let why = obstacle(source, false, target, promotion)?;
                Some(format!("{}: {why}", member.short))
            };
            changing.iter().filter_map(of).collect()
        }
    };
    let step = |member: &&MemberPromotion| {
        let (source, target) = (&member.sides.source, &member.sides.target);
        let [next, now] = [source, target].map(|view| shown_image(view.image.as_ref()));
        format!("{} runs image {next} in place of {now}", member.short)
    };
    let views = members.iter().map(|member| &member.sides.target).chain(others);
    let image = |member: &MemberPromotion| {
        let source = &member.sides.source;
        (source.environment.clone(), full_image(source.image.as_ref()))
    };
    GroupPromotionForm {
        root,
        from,
        to: group.as_str(),
        images: members.iter().map(image).filter(|(_, image)| !image.is_empty()).collect(),
        is_held: views.clone().any(|view| view.held.is_some()),
        seen: group_form::seen(views),
        steps: changing.iter().map(step).collect(),
        obstacles,
        may_move,
        can: may_begin && is_open,
        can_override: may_begin && !is_open && visit.may_administer(),
        auto: changing.iter().any(|member| member.sides.promotion.auto),
    }
}
