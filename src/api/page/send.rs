//! The forms that were sent: each calls the function of the API's command, in process, and is guarded by the generation
//! that its sender looked at.

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
use super::guard::Visit;
use super::status::Badge;
use super::text::{PageClock, cut, sentence};
use crate::api::ApiState;
use crate::api::body::{By, Caller, JsonBody};
use crate::api::error::ApiError;
use crate::api::find::FoundEnvironment;
use crate::api::verbs;
use crate::model::desired::{Desired, HistoryEntry};
use crate::model::name::{EnvironmentName, Generation};
use crate::model::time::Timestamp;
use crate::model::view::{EnvironmentView, RecordChange};

// The handlers, by the last part of their paths. The generation that the sender saw is added to the options of each.

/// `POST /environments/{environment}/rollback`
pub(in crate::api) async fn rollback(
    visit: Visit,
    State(api): State<ApiState>,
    found: FoundEnvironment,
    Caller(caller): Caller,
    fields: Fields,
) -> Result<Response, ApiError> {
    let sent = SentForm::new(Act::Rollback, &found, fields);
    let options = json!({ "to": sent.number("to"), "reason": sent.fields.filled("reason") });
    let verb = |api, options| verbs::rollback(api, found.into(), Caller(caller), options);
    sent.carry_out(&visit, api, options, verb).await
}

/// `POST /environments/{environment}/hold`
pub(in crate::api) async fn hold(
    visit: Visit,
    State(api): State<ApiState>,
    found: FoundEnvironment,
    By(by): By,
    fields: Fields,
) -> Result<Response, ApiError> {
    let sent = SentForm::new(Act::Hold, &found, fields);
    let options = json!({ "reason": sent.fields.get("reason").unwrap_or_default() });
    let verb = |api, options| verbs::hold(api, found.into(), By(by), options);
    sent.carry_out(&visit, api, options, verb).await
}

/// `POST /environments/{environment}/resume`
pub(in crate::api) async fn resume(
    visit: Visit,
    State(api): State<ApiState>,
    found: FoundEnvironment,
    By(by): By,
    fields: Fields,
) -> Result<Response, ApiError> {
    let sent = SentForm::new(Act::Resume, &found, fields);
    let options = json!({});
    let verb = |api, options| verbs::resume(api, found.into(), By(by), options);
    sent.carry_out(&visit, api, options, verb).await
}

/// `POST /environments/{environment}/set`
pub(in crate::api) async fn set(
    visit: Visit,
    State(api): State<ApiState>,
    found: FoundEnvironment,
    Caller(caller): Caller,
    fields: Fields,
) -> Result<Response, ApiError> {
    let sent = SentForm::new(Act::Set, &found, fields);
    let options = json!({
        "image": sent.fields.filled("image"),
        "commit": sent.fields.filled("commit"),
        "reason": sent.fields.filled("reason"),
    });
    let verb = |api, options| verbs::set(api, found, Caller(caller), options);
    sent.carry_out(&visit, api, options, verb).await
}

/// `POST /environments/{environment}/sync`
pub(in crate::api) async fn sync(
    visit: Visit,
    State(api): State<ApiState>,
    found: FoundEnvironment,
    fields: Fields,
) -> Result<Response, ApiError> {
    let sent = SentForm::new(Act::Sync, &found, fields);
    let options = json!({});
    let verb = |api, options| verbs::sync(api, found, options);
    sent.carry_out(&visit, api, options, verb).await
}

/// `POST /environments/{environment}/promote`
pub(in crate::api) async fn promote(
    visit: Visit,
    State(api): State<ApiState>,
    found: FoundEnvironment,
    Caller(caller): Caller,
    fields: Fields,
) -> Result<Response, ApiError> {
    let sent = SentForm::new(Act::Promote, &found, fields);
    let options = json!({
        "from": sent.fields.get("from").unwrap_or_default(),
        "image": sent.fields.filled("digest"),
        "note": sent.fields.filled("note"),
        "override": sent.fields.filled("override").map(|_| true),
        "reason": sent.fields.filled("reason"),
    });
    let verb = |api, options| verbs::promote(api, found.into(), Caller(caller), options);
    sent.carry_out(&visit, api, options, verb).await
}

/// `POST /environments/{environment}/approve`
pub(in crate::api) async fn approve(
    visit: Visit,
    State(api): State<ApiState>,
    found: FoundEnvironment,
    Caller(caller): Caller,
    fields: Fields,
) -> Result<Response, ApiError> {
    let sent = SentForm::new(Act::Approve, &found, fields);
    let options = sent.judgement("note");
    let verb = |api, options| verbs::approve(api, found, Caller(caller), options);
    sent.carry_out(&visit, api, options, verb).await
}

/// `POST /environments/{environment}/reject`
pub(in crate::api) async fn reject(
    visit: Visit,
    State(api): State<ApiState>,
    found: FoundEnvironment,
    Caller(caller): Caller,
    fields: Fields,
) -> Result<Response, ApiError> {
    let sent = SentForm::new(Act::Reject, &found, fields);
    let options = sent.judgement("reason");
    let verb = |api, options| verbs::reject(api, found, Caller(caller), options);
    sent.carry_out(&visit, api, options, verb).await
}

/// `POST /environments/{environment}/withdraw`
pub(in crate::api) async fn withdraw(
    visit: Visit,
    State(api): State<ApiState>,
    found: FoundEnvironment,
    Caller(caller): Caller,
    fields: Fields,
) -> Result<Response, ApiError> {
    let sent = SentForm::new(Act::Withdraw, &found, fields);
    let options = sent.judgement("reason");
    let verb = |api, options| verbs::withdraw(api, found, Caller(caller), options);
    sent.carry_out(&visit, api, options, verb).await
}

/// The options of a command. Its own type decides what is valid.
fn body<T: DeserializeOwned>(mut options: Value) -> Result<JsonBody<T>, ApiError> {
    if let Some(options) = options.as_object_mut() {
        options.retain(|_, value| !value.is_null());
    }
    let options = serde_json::from_value(options);
    options
        .map(JsonBody)
        .map_err(|error| ApiError::bad_request(format!("the form is not understood: {error}")))
}

/// A form that was sent.
struct SentForm {
    act: Act,
    name: EnvironmentName,
    fields: Fields,
}

impl SentForm {
    fn new(act: Act, found: &FoundEnvironment, fields: Fields) -> Self {
        Self { act, name: found.name.clone(), fields }
    }

    fn number(&self, field: &str) -> Option<u64> {
        self.fields.filled(field)?.parse().ok()
    }

    /// The options of a judgement, whose text is in the field `words`.
    fn judgement(&self, words: &str) -> Value {
        json!({
            words: self.fields.filled(words),
            "digest": self.fields.filled("digest"),
        })
    }

    /// The environment whose promotion page the form was on.
    fn back(&self) -> Option<EnvironmentName> {
        EnvironmentName::new(self.fields.get("back")?).ok()
    }

    /// The page that the form was on.
    fn page(&self) -> String {
        match (self.act, self.back(), self.fields.filled("from")) {
            (act, Some(back), _) if act.is_judgement() => format!("/promotions/{back}"),
            (Act::Promote, _, Some(_)) => format!("/promotions/{}", self.name),
            _ => format!("/environments/{}", self.name),
        }
    }

    /// Checks that the record still is what the sender looked at.
    fn check(&self, api: &ApiState) -> Result<(), ApiError> {
        let seen =
            self.number("seen").ok_or_else(|| ApiError::bad_request("the form has no `seen` generation"))?;
        let now = api.desired.get(&self.name)?.entry.generation;
        if now.0 == seen {
            return Ok(());
        }
        Err(ApiError::conflict(format!(
            "`{}` was at generation {seen} when you looked at it, and is at {now} now",
            self.name
        )))
    }

    /// Sends the form's options to the function of the API's command, unless the record has moved since the sender saw
    /// it, and answers with a page.
    async fn carry_out<T: DeserializeOwned, F>(
        &self,
        visit: &Visit,
        api: ApiState,
        mut options: Value,
        verb: impl FnOnce(State<ApiState>, JsonBody<T>) -> F,
    ) -> Result<Response, ApiError>
    where
        F: Future<Output = Result<Json<RecordChange>, ApiError>>,
    {
        let done = async {
            // A check of everything changes nothing in the record.
            if self.act != Act::Sync {
                self.check(&api)?;
                options["seen"] = json!(self.number("seen"));
            }
            verb(State(api.clone()), body(options)?).await
        };
        let done = done.await;
        self.answer(visit, &api, done).await
    }

    async fn answer(
        &self,
        visit: &Visit,
        api: &ApiState,
        done: Result<Json<RecordChange>, ApiError>,
    ) -> Result<Response, ApiError> {
        let path = match self.act {
            act if act.is_judgement() => self.page(),
            _ => format!("/environments/{}", self.name),
        };
        match done {
            Ok(Json(RecordChange { generation, changed, .. })) => {
                let query = match self.act {
                    Act::Hold | Act::Resume | Act::Sync => format!("did={}", self.act.word()),
                    act if act.is_judgement() => format!("did={}", act.word()),
                    Act::Promote | Act::Rollback | Act::Set if changed => format!("moved={generation}"),
                    _ => "did=same".to_owned(),
                };
                Ok(answer::see_other(&visit.site.path(&format!("{path}?{query}"))))
            }
            Err(error) => self.refused(visit, api, &error).await,
        }
    }

    /// Nothing was changed: shows what the sender saw, what is true now, and the form as it was typed.
    async fn refused(&self, visit: &Visit, api: &ApiState, error: &ApiError) -> Result<Response, ApiError> {
        let name = self.name.clone();
        let seen = self.number("seen").map(Generation);
        let state = api
            .apart(move |api| Ok((api.view(&name)?, api.status.history(&name)?, api.desired.get(&name)?)))
            .await;
        // Without the record, the error alone is all there is to show.
        let Ok((view, history, desired)) = state else { return Err(error.clone()) };
        let found = api.find(self.name.as_str())?;
        let typed = Typed {
            reason: self.fields.get("reason").unwrap_or_default().to_owned(),
            note: self.fields.get("note").unwrap_or_default().to_owned(),
            what: self.fields.filled("image").or(self.fields.filled("commit")).unwrap_or_default(),
            to: self.number("to"),
        };
        let root = &visit.site.prefix;
        let form = ActionForm::new(self.act, root, &view, &history, found.spec(), typed);
        let form = ActionForm { back: self.back(), ..form };
        let may_send =
            if self.act.is_judgement() { visit.may_judge(&self.name) } else { visit.may_move(&self.name) };
        let is_stale = seen.is_some_and(|seen| seen != view.generation);
        // The other forms keep their text in their fields.
        let note = if self.act == Act::Promote { self.fields.filled("note") } else { None };
        let note = note.or(self.fields.filled("reason").filter(|_| self.act == Act::Promote));
        let note = note.unwrap_or_default();
        let title = format!("Nothing was changed: {}", self.name);
        let frame = Frame::new(visit, api, &title, "");
        let page = RefusedForm {
            clock: frame.clock,
            frame,
            heading: format!("{} {}", self.act.title(), self.name),
            message: Some(sentence(&error.view.message)).filter(|_| !is_stale).unwrap_or_default(),
            saw: seen.filter(|_| is_stale).map(|seen| saw(seen, &history)),
            now: Now::new(visit, &view, &desired),
            badge: Badge::of(&view),
            again: format!("{root}{}", self.page()),
            note: cut(&note, 1_000),
            form: Some(form).filter(|form| may_send && form.is_possible(&view)),
        };
        // A malformed field is a mistake in the form, and has the same status in the API.
        let status =
            if error.status.is_client_error() { error.status } else { StatusCode::SERVICE_UNAVAILABLE };
        answer::page_with(visit, status, &page)
    }
}

/// What the sender of a form saw.
fn saw(seen: Generation, history: &[HistoryEntry]) -> String {
    let kept = history.iter().find(|kept| kept.entry.generation == seen);
    let image =
        kept.map_or_else(String::new, |kept| format!(", image {}", shown_image(kept.entry.image.as_ref())));
    format!("generation {seen}{image}")
}

/// What is true now.
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
    saw: Option<String>,
    now: Now,
    badge: Badge,
    again: String,
    note: String,
    form: Option<ActionForm>,
}
