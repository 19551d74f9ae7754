//! The forms that were sent: each calls the function of the API's command, in process, and is guarded by the generation
//! that its sender saw.

use std::collections::BTreeMap;

use askama::Template;
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::act::{Act, ActionForm, Typed, shown_image};
use super::answer;
use super::card::{moved, short_name};
use super::form::Fields;
use super::frame::Frame;
use super::group_form::{GroupForm, JudgedMember};
use super::guard::Visit;
use super::status::Badge;
use super::text::{PageClock, cut, sentence};
use crate::api::ApiState;
use crate::api::access::Access;
use crate::api::body::{By, Caller, JsonBody};
use crate::api::error::ApiError;
use crate::api::find::CommandTarget;
use crate::api::verbs;
use crate::model::canary::CanaryDecision;
use crate::model::desired::{Desired, HistoryEntry};
use crate::model::name::{EnvironmentName, Generation, GroupName};
use crate::model::reading;
use crate::model::time::Timestamp;
use crate::model::view::{EnvironmentView, RecordChange};
use crate::record::RecordError;

/// The handlers, by the last part of their paths.
macro_rules! handlers {
    ($($(#[$doc:meta])* $name:ident: $act:expr;)*) => {$(
        $(#[$doc])*
        pub(in crate::api) async fn $name(
            visit: Visit,
            State(api): State<ApiState>,
            target: CommandTarget,
            Caller(caller): Caller,
            fields: Fields,
        ) -> Result<Response, ApiError> {
            let sent = SentForm::new($act, &target, fields);
            let done = sent.carry_out(api.clone(), target, caller).await;
            sent.answer(&visit, &api, done).await
        }
    )*};
}

handlers! {
    /// `POST /environments/{environment}/rollback`
    rollback: Act::Rollback;
    /// `POST /environments/{environment}/hold`
    hold: Act::Hold;
    /// `POST /environments/{environment}/resume`
    resume: Act::Resume;
    /// `POST /environments/{environment}/set`
    set: Act::Set;
    /// `POST /environments/{environment}/canary-promote`
    canary_promote: Act::CanaryPromote;
    /// `POST /environments/{environment}/canary-abort`
    canary_abort: Act::CanaryAbort;
    /// `POST /environments/{environment}/sync`
    sync: Act::Sync;
    /// `POST /environments/{environment}/promote`
    promote: Act::Promote;
    /// `POST /environments/{environment}/approve`
    approve: Act::Approve;
    /// `POST /environments/{environment}/reject`
    reject: Act::Reject;
    /// `POST /environments/{environment}/withdraw`
    withdraw: Act::Withdraw;
}

/// A form that was sent.
struct SentForm {
    act: Act,
    /// The name of the environment or of the group.
    name: EnvironmentName,
    /// The group; `None`: it is about an environment.
    group: Option<GroupName>,
    /// The environments that it changes.
    members: Vec<EnvironmentName>,
    fields: Fields,
}

impl SentForm {
    fn new(act: Act, target: &CommandTarget, fields: Fields) -> Self {
        let members = target.environments().cloned().collect();
        Self { act, name: target.name.clone(), group: target.group.clone(), members, fields }
    }

    fn number(&self, field: &str) -> Option<u64> {
        self.fields.filled(field)?.parse().ok()
    }

    /// The environment whose promotion page the form was on.
    fn back(&self) -> Option<EnvironmentName> {
        EnvironmentName::new(self.fields.get("back")?).ok()
    }

    /// The path of the page of the environment or the group.
    fn home(&self) -> String {
        let kind = if self.group.is_some() { "groups" } else { "environments" };
        format!("/{kind}/{}", self.name)
    }

    /// The page that the form was on.
    fn page(&self) -> String {
        match (self.act, self.back(), self.fields.filled("from")) {
            (act, Some(back), _) if act.is_judgement() => format!("/promotions/{back}"),
            (Act::Promote, _, Some(_)) => format!("/promotions/{}", self.name),
            _ => self.home(),
        }
    }

    /// The generation of a member that the sender saw.
    fn seen_of(&self, member: &EnvironmentName) -> Option<Generation> {
        let field = if self.group.is_some() { format!("seen.{member}") } else { "seen".to_owned() };
        self.number(&field).map(Generation)
    }

    /// The generations that the sender saw of all members of a group, as an option of the command.
    fn seen(&self) -> Result<Value, ApiError> {
        let missing = || ApiError::bad_request("the form has no `seen` generation");
        if self.group.is_none() {
            return self.number("seen").map(|seen| json!(seen)).ok_or_else(missing);
        }
        let seen = self.fields.of("seen.");
        if seen.is_empty() {
            return Err(missing());
        }
        let number = |(name, text): (String, String)| Some((name, text.trim().parse::<u64>().ok()?));
        let seen: Option<BTreeMap<String, u64>> = seen.into_iter().map(number).collect();
        seen.map(|seen| json!(seen)).ok_or_else(missing)
    }

    /// The options of a command, with what the sender saw. The type of the options decides what is valid.
    fn body<T: DeserializeOwned>(&self, mut options: Value) -> Result<JsonBody<T>, ApiError> {
        // A check of an environment changes nothing in the record, and one of a group names its members.
        if self.act != Act::Sync || self.group.is_some() {
            options["seen"] = self.seen()?;
        }
        if let Some(options) = options.as_object_mut() {
            options.retain(|_, value| !value.is_null());
        }
        let options = reading::value(options);
        options
            .map(JsonBody)
            .map_err(|problem| ApiError::bad_request(format!("the form is invalid: {problem}")))
    }

    /// Adds the images that the sender saw to the options of a judgement.
    fn about_images(&self, mut options: Value) -> Value {
        options["digest"] = json!(self.fields.filled("digest"));
        options["images"] = json!(self.fields.of("image."));
        options
    }

    /// Calls the function of the API's command with the form's options. It refuses them if the record has moved since
    /// the sender saw it.
    async fn carry_out(
        &self,
        api: ApiState,
        target: CommandTarget,
        caller: Access,
    ) -> Result<Json<RecordChange>, ApiError> {
        let filled = |field: &str| self.fields.filled(field);
        let by = By(caller.by().to_owned());
        let state = State(api.clone());
        match self.act {
            Act::Rollback => {
                let options = self.body(json!({ "to": self.number("to"), "reason": filled("reason") }))?;
                verbs::rollback(state, target, Caller(caller), options).await
            }
            Act::Hold => {
                let reason = self.fields.get("reason").unwrap_or_default();
                verbs::hold(state, target, by, self.body(json!({ "reason": reason }))?).await
            }
            Act::Resume => verbs::resume(state, target, by, self.body(json!({}))?).await,
            Act::Set => {
                let options = json!({
                    "image": filled("image"),
                    "commit": filled("commit"),
                    "reason": filled("reason"),
                });
                let found = api.find(target.name.as_str())?;
                verbs::set(state, found, Caller(caller), self.body(options)?).await
            }
            Act::CanaryPromote => {
                let options = json!({ "decision": CanaryDecision::Promote });
                let found = api.find(target.name.as_str())?;
                verbs::canary(state, found, by, self.body(options)?).await
            }
            Act::CanaryAbort => {
                let options = json!({ "decision": CanaryDecision::Abort, "reason": filled("reason") });
                let found = api.find(target.name.as_str())?;
                verbs::canary(state, found, by, self.body(options)?).await
            }
            Act::Sync => verbs::sync(state, target, self.body(json!({}))?).await,
            Act::Promote => {
                let options = json!({
                    "from": self.fields.get("from").unwrap_or_default(),
                    "image": filled("digest"),
                    "images": self.fields.of("image."),
                    "note": filled("note"),
                    "override": filled("override").map(|_| true),
                    "reason": filled("reason"),
                });
                verbs::promote(state, target, Caller(caller), self.body(options)?).await
            }
            Act::Approve => {
                let options = self.about_images(json!({ "note": filled("note") }));
                verbs::approve(state, target, Caller(caller), self.body(options)?).await
            }
            Act::Reject => {
                let options = self.about_images(json!({ "reason": filled("reason") }));
                verbs::reject(state, target, Caller(caller), self.body(options)?).await
            }
            Act::Withdraw => {
                let options = self.about_images(json!({ "reason": filled("reason") }));
                verbs::withdraw(state, target, Caller(caller), self.body(options)?).await
            }
        }
    }

    async fn answer(
        &self,
        visit: &Visit,
        api: &ApiState,
        done: Result<Json<RecordChange>, ApiError>,
    ) -> Result<Response, ApiError> {
        let path = if self.act.is_judgement() { self.page() } else { self.home() };
        match done {
            Ok(Json(RecordChange { generation, changed, .. })) => {
                let query = match self.act {
                    Act::Hold | Act::Resume | Act::Sync | Act::CanaryPromote | Act::CanaryAbort => {
                        format!("did={}", self.act.word())
                    }
                    act if act.is_judgement() => format!("did={}", act.word()),
                    // The generations of members differ.
                    Act::Promote | Act::Rollback if changed && self.group.is_some() => {
                        format!("did={}", self.act.word())
                    }
                    Act::Promote | Act::Rollback | Act::Set if changed => format!("moved={generation}"),
                    _ => "did=same".to_owned(),
                };
                Ok(answer::see_other(&visit.site.path(&format!("{path}?{query}"))))
            }
            Err(error) => self.refused(visit, api, &error).await,
        }
    }

    /// Nothing was changed: shows the state that the sender saw, the present state, and the form as it was typed.
    async fn refused(&self, visit: &Visit, api: &ApiState, error: &ApiError) -> Result<Response, ApiError> {
        let members = self.members.clone();
        let state = api.apart(move |api| {
            let of = |name: &EnvironmentName| {
                Ok::<_, RecordError>((api.view(name)?, api.status.history(name)?, api.desired.get(name)?))
            };
            members.iter().map(of).collect::<Result<Vec<_>, _>>()
        });
        // Without the record, the error alone is all there is to show.
        let Ok(state) = state.await else { return Err(error.clone()) };
        let sides: Vec<_> = state
            .iter()
            .map(|(view, history, desired)| RefusedSide::new(self, visit, view, history, desired))
            .collect();
        let may_send =
            if self.act.is_judgement() { visit.may_judge(&self.name) } else { visit.may_move(&self.name) };
        let is_stale = sides.iter().any(|side| side.saw.is_some());
        // The other forms keep their text in their fields.
        let note = if self.act == Act::Promote { self.fields.filled("note") } else { None };
        let note = note.or(self.fields.filled("reason").filter(|_| self.act == Act::Promote));
        let note = note.unwrap_or_default();
        let frame = Frame::new(visit, api, &format!("Nothing was changed: {}", self.name), "");
        let page = RefusedForm {
            clock: frame.clock,
            frame,
            heading: format!("{} {}", self.act.title(), self.name),
            message: Some(sentence(&error.view.message)).filter(|_| !is_stale).unwrap_or_default(),
            is_group: self.group.is_some(),
            again: format!("{}{}", visit.site.prefix, self.page()),
            note: cut(&note, 1_000),
            form: if may_send { self.form_again(visit, api, &state)? } else { FormAgain::None },
            sides,
        };
        // A malformed field is a mistake in the form, and has the same status in the API.
        let status =
            if error.status.is_client_error() { error.status } else { StatusCode::SERVICE_UNAVAILABLE };
        answer::page_with(visit, status, &page)
    }

    /// The form as it was typed, if the state allows it.
    fn form_again(
        &self,
        visit: &Visit,
        api: &ApiState,
        state: &[(EnvironmentView, Vec<HistoryEntry>, Desired)],
    ) -> Result<FormAgain, ApiError> {
        let typed = Typed {
            reason: self.fields.get("reason").unwrap_or_default().to_owned(),
            note: self.fields.get("note").unwrap_or_default().to_owned(),
            what: self.fields.filled("image").or(self.fields.filled("commit")).unwrap_or_default(),
            to: self.number("to"),
        };
        let root = visit.site.prefix.as_str();
        if let Some(group) = &self.group {
            let members: Vec<_> =
                state.iter().map(|(view, history, _)| (view.clone(), history.clone())).collect();
            let judged = api.judged_members(&api.target(self.name.as_str())?);
            let judged = members.iter().filter(|(view, _)| judged.contains(&view.environment));
            let judged = judged.filter_map(|(view, _)| JudgedMember::new(group, view)).collect();
            let form = GroupForm::new(self.act, root, group, &members, typed).judging(judged, self.back());
            return Ok(if form.is_possible() { FormAgain::Group(form) } else { FormAgain::None });
        }
        let [(view, history, _)] = state else { return Ok(FormAgain::None) };
        let found = api.find(self.name.as_str())?;
        let form = ActionForm::new(self.act, root, view, history, found.spec(), typed);
        let form = ActionForm { back: self.back(), ..form };
        Ok(if form.is_possible(view) { FormAgain::Environment(form) } else { FormAgain::None })
    }
}

/// The form that was refused, to be sent again.
enum FormAgain {
    None,
    Environment(ActionForm),
    Group(GroupForm),
}

/// The state of an environment that the sender saw, and the present state.
struct RefusedSide {
    name: EnvironmentName,
    /// `None`: it is unchanged.
    saw: Option<String>,
    now: Now,
    badge: Badge,
}

impl RefusedSide {
    fn new(
        sent: &SentForm,
        visit: &Visit,
        view: &EnvironmentView,
        history: &[HistoryEntry],
        desired: &Desired,
    ) -> Self {
        let seen = sent.seen_of(&view.environment).filter(|seen| *seen != view.generation);
        Self {
            name: view.environment.clone(),
            saw: seen.map(|seen| saw(seen, history)),
            now: Now::new(visit, view, desired),
            badge: Badge::of(view),
        }
    }
}

/// The state that the sender of a form saw.
fn saw(seen: Generation, history: &[HistoryEntry]) -> String {
    let kept = history.iter().find(|kept| kept.entry.generation == seen);
    let image =
        kept.map_or_else(String::new, |kept| format!(", image {}", shown_image(kept.entry.image.as_ref())));
    format!("generation {seen}{image}")
}

/// The present state.
struct Now {
    generation: Generation,
    how: String,
    at: Option<Timestamp>,
    image: String,
}

impl Now {
    fn new(visit: &Visit, view: &EnvironmentView, desired: &Desired) -> Self {
        let entry = &desired.entry;
        let is_own =
            |by: &str| visit.access.as_ref().is_some_and(|access| short_name(access.by()) == short_name(by));
        let by = entry
            .by
            .as_deref()
            .map(|by| if is_own(by) { " by you".to_owned() } else { format!(" by {}", short_name(by)) });
        Self {
            generation: view.generation,
            how: format!("{}{}", moved(entry.origin), by.unwrap_or_default()),
            at: Some(entry.at).filter(|_| view.generation.0 > 0),
            image: shown_image(entry.image.as_ref()),
        }
    }
}

#[derive(Template)]
#[template(path = "refused.html")]
struct RefusedForm {
    frame: Frame,
    clock: PageClock,
    heading: String,
    message: String,
    is_group: bool,
    sides: Vec<RefusedSide>,
    again: String,
    note: String,
    form: FormAgain,
}
