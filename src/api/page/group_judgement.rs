//! The forms to approve and reject the images of a group: evidence for all its members, or for none.

use askama::Template;
use askama::filters::Safe;

use super::act::{Act, Noted, Notice, Typed, shown_image};
use super::answer::part;
use super::evidence::{NotedJudgement, PossibleJudgement, is_rejected};
use super::group_form::{GroupForm, JudgedMember, MembersWithHistory};
use super::guard::Visit;
use crate::api::ApiState;
use crate::api::error::ApiError;
use crate::api::find::CommandTarget;
use crate::model::evidence::Evidence;
use crate::model::name::{EnvironmentName, GroupName};
use crate::model::status::Condition;
use crate::model::view::EnvironmentView;
use crate::record::RecordError;

/// The members of a group whose images a command judges, each with its evidence.
pub(super) struct JudgedGroup {
    group: GroupName,
    judged: Vec<(EnvironmentView, Vec<Evidence>)>,
    is_promoted: bool,
}

impl JudgedGroup {
    /// Reads the evidence of a group, whose members are in these states.
    pub(super) async fn read(
        api: &ApiState,
        target: &CommandTarget,
        group: &GroupName,
        members: &MembersWithHistory,
    ) -> Result<Self, ApiError> {
        let names = api.judged_members(target);
        let is_promoted = {
            let state = api.manifest.borrow();
            names.iter().any(|name| state.manifest.promoted_to(name).next().is_some())
        };
        let views = members.iter().map(|(view, _)| view).filter(|view| names.contains(&view.environment));
        let views: Vec<_> = views.cloned().collect();
        let of = |api: &ApiState, view: EnvironmentView| {
            let evidence = api.desired.evidence(&view.environment)?;
            Ok::<_, RecordError>((view, evidence))
        };
        let judged = api.apart(move |api| views.into_iter().map(|view| of(api, view)).collect()).await?;
        Ok(Self { group: group.clone(), judged, is_promoted })
    }

    /// The members with an image.
    pub(super) fn members(&self) -> Vec<JudgedMember> {
        self.judged.iter().filter_map(|(view, _)| JudgedMember::new(&self.group, view)).collect()
    }

    /// The forms with which the visitor may judge the images; `None` if there are none. `back` is the group or
    /// environment whose promotion page they are on.
    pub(super) fn forms(
        &self,
        visit: &Visit,
        target: &CommandTarget,
        members: &MembersWithHistory,
        back: Option<&EnvironmentName>,
    ) -> Result<Option<Safe<String>>, ApiError> {
        if !visit.may_judge(&target.name) {
            return Ok(None);
        }
        let is_one_rejected = |(view, seen): &(EnvironmentView, Vec<Evidence>)| {
            view.image.as_ref().is_some_and(|image| is_rejected(image, seen))
        };
        let judgement = PossibleJudgement {
            is_rejected: self.judged.iter().any(is_one_rejected),
            is_promoted: self.is_promoted,
            is_ready: self.judged.iter().all(|(view, _)| view.status == Condition::Ready),
        };
        let (heading, acts) = judgement.forms();
        let form = |act: &Act| {
            let form = GroupForm::new(*act, &visit.site.prefix, &self.group, members, Typed::default());
            form.judging(self.members(), back.cloned())
        };
        let forms: Vec<_> = acts.iter().map(form).filter(GroupForm::is_possible).collect();
        if forms.is_empty() {
            return Ok(None);
        }
        part(&GroupJudgement { heading, name: self.group.as_str(), forms }).map(Some)
    }

    /// What is true after the images were judged, in one write.
    pub(super) fn notice(&self, noted: &Noted) -> Option<Notice> {
        let noted_of = |(view, seen): &(EnvironmentView, Vec<Evidence>)| {
            let judgement = NotedJudgement::noted(noted, view, seen)?;
            let image = shown_image(view.image.as_ref());
            Some((judgement, format!("image {image} of {}", self.group.short(&view.environment))))
        };
        let found: Vec<_> = self.judged.iter().filter_map(noted_of).collect();
        let at = found.iter().map(|(judgement, _)| judgement.at).max()?;
        let mut together = found.iter().filter(|(judgement, _)| judgement.at == at);
        let words = together.clone().next().map(|(judgement, _)| judgement.words())?;
        let images: Vec<_> = together.by_ref().map(|(_, image)| image.as_str()).collect();
        let verb = if images.len() > 1 { "are" } else { "is" };
        let text = format!("{}: {} {verb} {words}", self.group, images.join(" and "));
        Some(Notice { text, at: Some(at), back: None })
    }
}

#[derive(Template)]
#[template(path = "group-judge.html")]
struct GroupJudgement<'a> {
    heading: &'static str,
    name: &'a str,
    forms: Vec<GroupForm>,
}
