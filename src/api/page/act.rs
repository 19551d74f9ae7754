//! The forms that change the record. Each calls the function of the API's command, in process, and is guarded by the
//! generation that its sender looked at.

use askama::Template;
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

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
use crate::model::desired::{Desired, HistoryEntry, Image, Outcome};
use crate::model::name::{Digest, EnvironmentName, Generation};
use crate::model::spec::{EnvironmentSpec, Supply};
use crate::model::time::Timestamp;
use crate::model::view::{EnvironmentView, RecordChange};

/// The most generations to choose from.
const CHOICES: usize = 20;

/// What a form does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Act {
    /// Promotes an image to the environment.
    Promote,
    /// Records an earlier generation again.
    Rollback,
    /// Records a commit or an image.
    Set,
    /// Keeps the environment unchanged.
    Hold,
    /// Ends a hold.
    Resume,
    /// Checks now.
    Sync,
}

impl Act {
    /// The action as the beginning of a heading.
    fn title(self) -> &'static str {
        match self {
            Self::Promote => "Promote to",
            Self::Rollback => "Roll back",
            Self::Set => "Set",
            Self::Hold => "Hold",
            Self::Resume => "Resume",
            Self::Sync => "Check",
        }
    }

    /// The last part of its path.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Promote => "promote",
            Self::Rollback => "rollback",
            Self::Set => "set",
            Self::Hold => "hold",
            Self::Resume => "resume",
            Self::Sync => "sync",
        }
    }
}

/// One form with its fields as they were typed.
pub(super) struct Form {
    pub(super) act: Act,
    pub(super) root: String,
    pub(super) name: String,
    /// The generation that the visitor sees.
    pub(super) seen: Generation,
    /// The generations to roll back to.
    pub(super) choices: Vec<Choice>,
    /// The image that runs now.
    pub(super) image: String,
    /// Whether `set` takes a commit.
    pub(super) builds: bool,
    pub(super) typed: Typed,
}

/// The typed values.
#[derive(Clone, Debug, Default)]
pub(super) struct Typed {
    pub(super) reason: String,
    pub(super) what: String,
    pub(super) to: Option<u64>,
}

/// A generation to roll back to.
pub(super) struct Choice {
    pub(super) generation: u64,
    pub(super) label: String,
    pub(super) is_chosen: bool,
}

impl Form {
    /// The form of `act` with empty fields.
    pub(super) fn new(
        act: Act,
        root: &str,
        view: &EnvironmentView,
        history: &[HistoryEntry],
        spec: Option<&EnvironmentSpec>,
        typed: Typed,
    ) -> Self {
        let choices = if act == Act::Rollback { choices(view, history, typed.to) } else { Vec::new() };
        Self {
            act,
            root: root.to_owned(),
            name: view.environment.to_string(),
            seen: view.generation,
            choices,
            image: shown_image(view.image.as_ref()),
            builds: spec.is_some_and(|spec| matches!(spec.supply, Supply::Branch { .. })),
            typed,
        }
    }

    /// Whether the environment's state allows it.
    pub(super) fn is_possible(&self, view: &EnvironmentView) -> bool {
        match self.act {
            Act::Resume => view.held.is_some(),
            Act::Hold => view.held.is_none(),
            Act::Rollback => !self.choices.is_empty(),
            Act::Set | Act::Sync => true,
            Act::Promote => false,
        }
    }
}

/// The earlier generations that became ready with another image, newest first; the newest one is chosen.
fn choices(view: &EnvironmentView, history: &[HistoryEntry], to: Option<u64>) -> Vec<Choice> {
    let is_other = |image: &Image| view.image.as_ref().is_none_or(|current| !current.is_same(image));
    let good = history.iter().filter(|kept| kept.entry.generation < view.generation);
    let good = good.filter(|kept| kept.outcome == Some(Outcome::Ready));
    let good = good.filter(|kept| kept.entry.image.as_ref().is_some_and(is_other)).take(CHOICES);
    let choice = |(index, kept): (usize, &HistoryEntry)| {
        let entry = &kept.entry;
        let version =
            entry.revision.as_ref().map_or_else(String::new, |id| format!(" · commit {}", id.short()));
        let label = format!(
            "{}{version} · image {} · {} {}",
            entry.generation,
            shown_image(entry.image.as_ref()),
            moved(entry.origin),
            entry.at.to_string().get(..16).unwrap_or_default().replace('T', " ")
        );
        let generation = entry.generation.0;
        Choice { generation, label, is_chosen: to.map_or(index == 0, |to| to == generation) }
    };
    good.enumerate().map(choice).collect()
}

/// The short digest of an image.
pub(super) fn shown_image(image: Option<&Image>) -> String {
    image.and_then(Image::shown_digest).map_or("none", Digest::short).to_owned()
}

/// What is true about a notice after a form was sent. It is made from the record, so that the URL shows nothing of
/// anyone's text.
pub(super) fn notice(query: &Noted, view: &EnvironmentView, history: &[HistoryEntry]) -> Option<Notice> {
    let name = &view.environment;
    if let Some(generation) = query.moved {
        let kept = history.iter().find(|kept| kept.entry.generation == Generation(generation))?;
        let by = kept.entry.by.as_deref().map(|by| format!(" by {}", short_name(by))).unwrap_or_default();
        let text = format!("{name}: generation {generation} is recorded, {}{by}", moved(kept.entry.origin));
        let is_current = view.generation.0 == generation;
        let before = history
            .iter()
            .map(|kept| &kept.entry)
            .find(|entry| entry.generation.0 < generation && entry.image.is_some());
        let back = before.filter(|_| is_current).map(|entry| entry.generation);
        return Some(Notice { text, at: Some(kept.entry.at), back });
    }
    let text = match query.did.as_deref()? {
        "hold" if view.held.is_some() => format!("{name} is held"),
        "resume" if view.held.is_none() => format!("{name} is not held any more"),
        "sync" => format!("{name} was checked, and what was found is below"),
        "same" => format!("Nothing was changed: {name} has that version already"),
        _ => return None,
    };
    Some(Notice { text, at: None, back: None })
}

/// What a redirect says about the form before.
#[derive(Clone, Debug, Default, serde::Deserialize)]
pub(in crate::api) struct Noted {
    /// The generation that a form has recorded.
    moved: Option<u64>,
    /// What a form did that recorded no generation.
    did: Option<String>,
}

/// What a form did.
pub(super) struct Notice {
    pub(super) text: String,
    pub(super) at: Option<Timestamp>,
    /// The generation to go back to.
    pub(super) back: Option<Generation>,
}

// The handlers, by the last part of their paths.

/// `POST /environments/{environment}/rollback`
pub(in crate::api) async fn rollback(
    visit: Visit,
    State(api): State<ApiState>,
    found: FoundEnvironment,
    Caller(caller): Caller,
    fields: Fields,
) -> Result<Response, ApiError> {
    let sent = Sent::new(Act::Rollback, &found, fields);
    let done = async {
        sent.check(&api)?;
        let to = sent.number("to");
        let options =
            json!({ "to": to, "seen": sent.number("seen"), "reason": sent.fields.filled("reason") });
        verbs::rollback(State(api.clone()), found, Caller(caller), body(options)?).await
    };
    sent.answer(&visit, &api, done.await).await
}

/// `POST /environments/{environment}/hold`
pub(in crate::api) async fn hold(
    visit: Visit,
    State(api): State<ApiState>,
    found: FoundEnvironment,
    By(by): By,
    fields: Fields,
) -> Result<Response, ApiError> {
    let sent = Sent::new(Act::Hold, &found, fields);
    let done = async {
        sent.check(&api)?;
        let options =
            json!({ "reason": sent.fields.get("reason").unwrap_or_default(), "seen": sent.number("seen") });
        verbs::hold(State(api.clone()), found, By(by), body(options)?).await
    };
    sent.answer(&visit, &api, done.await).await
}

/// `POST /environments/{environment}/resume`
pub(in crate::api) async fn resume(
    visit: Visit,
    State(api): State<ApiState>,
    found: FoundEnvironment,
    By(by): By,
    fields: Fields,
) -> Result<Response, ApiError> {
    let sent = Sent::new(Act::Resume, &found, fields);
    let done = async {
        sent.check(&api)?;
        verbs::resume(State(api.clone()), found, By(by), body(json!({ "seen": sent.number("seen") }))?).await
    };
    sent.answer(&visit, &api, done.await).await
}

/// `POST /environments/{environment}/set`
pub(in crate::api) async fn set(
    visit: Visit,
    State(api): State<ApiState>,
    found: FoundEnvironment,
    Caller(caller): Caller,
    fields: Fields,
) -> Result<Response, ApiError> {
    let sent = Sent::new(Act::Set, &found, fields);
    let done = async {
        sent.check(&api)?;
        let fields = &sent.fields;
        let (image, commit) = (fields.filled("image"), fields.filled("commit"));
        let options = json!({ "image": image, "commit": commit, "seen": sent.number("seen"), "reason": fields.filled("reason") });
        verbs::set(State(api.clone()), found, Caller(caller), body(options)?).await
    };
    sent.answer(&visit, &api, done.await).await
}

/// `POST /environments/{environment}/sync`
pub(in crate::api) async fn sync(
    visit: Visit,
    State(api): State<ApiState>,
    found: FoundEnvironment,
    fields: Fields,
) -> Result<Response, ApiError> {
    let sent = Sent::new(Act::Sync, &found, fields);
    let done = verbs::sync(State(api.clone()), found, body(json!({}))?).await;
    sent.answer(&visit, &api, done).await
}

/// `POST /environments/{environment}/promote`
pub(in crate::api) async fn promote(
    visit: Visit,
    State(api): State<ApiState>,
    found: FoundEnvironment,
    Caller(caller): Caller,
    fields: Fields,
) -> Result<Response, ApiError> {
    let sent = Sent::new(Act::Promote, &found, fields);
    let done = async {
        sent.check(&api)?;
        let options = json!({
            "from": sent.fields.get("from").unwrap_or_default(),
            "image": sent.fields.filled("digest"),
            "seen": sent.number("seen"),
            "note": sent.fields.filled("note"),
        });
        verbs::promote(State(api.clone()), found, Caller(caller), body(options)?).await
    };
    sent.answer(&visit, &api, done.await).await
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
struct Sent {
    act: Act,
    name: EnvironmentName,
    fields: Fields,
}

impl Sent {
    fn new(act: Act, found: &FoundEnvironment, fields: Fields) -> Self {
        Self { act, name: found.name.clone(), fields }
    }

    fn number(&self, field: &str) -> Option<u64> {
        self.fields.filled(field)?.parse().ok()
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

    async fn answer(
        &self,
        visit: &Visit,
        api: &ApiState,
        done: Result<Json<RecordChange>, ApiError>,
    ) -> Result<Response, ApiError> {
        let path = format!("/environments/{}", self.name);
        match done {
            Ok(Json(RecordChange { generation, changed, .. })) => {
                let query = match self.act {
                    Act::Hold | Act::Resume | Act::Sync => format!("did={}", self.act.word()),
                    Act::Promote | Act::Rollback | Act::Set if changed => format!("moved={generation}"),
                    Act::Promote | Act::Rollback | Act::Set => "did=same".to_owned(),
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
            what: self.fields.filled("image").or(self.fields.filled("commit")).unwrap_or_default(),
            to: self.number("to"),
        };
        let root = &visit.site.prefix;
        let form = Form::new(self.act, root, &view, &history, found.spec(), typed);
        let is_stale = seen.is_some_and(|seen| seen != view.generation);
        let note = self.fields.filled("note").unwrap_or_default();
        let title = format!("Nothing was changed: {}", self.name);
        let frame = Frame::new(visit, api, &title, "");
        let page = Refused {
            clock: frame.clock,
            frame,
            heading: format!("{} {}", self.act.title(), self.name),
            message: Some(sentence(&error.view.message)).filter(|_| !is_stale).unwrap_or_default(),
            saw: seen.filter(|_| is_stale).map(|seen| saw(seen, &history)),
            now: Now::new(visit, &view, &desired),
            badge: Badge::of(&view),
            again: match (self.act, self.fields.filled("from")) {
                (Act::Promote, Some(_)) => format!("{root}/promotions/{}", self.name),
                _ => format!("{root}/environments/{}", self.name),
            },
            note: cut(&note, 1_000),
            form: Some(form).filter(|form| visit.may_move(&self.name) && form.is_possible(&view)),
        };
        // A malformed field is a mistake in the form, and the status of the API says the same.
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
struct Refused {
    frame: Frame,
    clock: PageClock,
    heading: String,
    message: String,
    saw: Option<String>,
    now: Now,
    badge: Badge,
    again: String,
    note: String,
    form: Option<Form>,
}
