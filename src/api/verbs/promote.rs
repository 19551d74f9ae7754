//! `promote`: the image that one environment runs healthy becomes the desired image of another.
//! Compare-and-set: refused if the image has changed since the client saw it.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::Deserialize;

use super::{moved, parse_digest, reason, shown};
use crate::api::ApiState;
use crate::api::access::{Access, AccessRule};
use crate::api::body::{Caller, JsonBody};
use crate::api::error::ApiError;
use crate::api::find::{CommandTarget, FoundEnvironment};
use crate::model::desired::{Desired, Entry, HistoryEntry, Image, Origin, Outcome};
use crate::model::evidence::{Evidence, Person};
use crate::model::gates::Gates;
use crate::model::name::{AgentName, Digest, EnvironmentName, Generation};
use crate::model::spec::Supply;
use crate::model::status::{Condition, Reason, Status};
use crate::model::time::Timestamp;
use crate::model::view::{RecordChange, SeenGenerations};
use crate::plan::gates::{Candidate, are_open, closed, judge, sentence};
use crate::record::{Change, Precondition, Promotion};

/// Options of `promote`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::api) struct Promote {
    /// The source environment or group.
    from: String,
    /// The image to promote, even if FROM has another one in progress.
    digest: Option<String>,
    /// The image that the client saw there, or the generations of the target that it saw.
    seen: Option<SeenByClient>,
    /// A note, as free text.
    note: Option<String>,
    /// Whether to pass closed gates. Only an admin may, with a reason.
    #[serde(default, rename = "override")]
    overrides: bool,
    /// The reason for that, as free text.
    reason: Option<String>,
    /// The image that the client saw there, besides a generation.
    image: Option<String>,
    /// The images that the client saw in the members of a group.
    #[serde(default)]
    images: BTreeMap<EnvironmentName, String>,
}

/// The generations that the client saw.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum SeenByClient {
    /// The generations of the target.
    Target(SeenGenerations),
    /// The image of the source.
    Image(String),
}

/// `POST /api/v1/environments/{environment}/promote`; the path names the target, an environment or a group.
pub(in crate::api) async fn promote(
    State(api): State<ApiState>,
    target: CommandTarget,
    Caller(caller): Caller,
    JsonBody(body): JsonBody<Promote>,
) -> Result<Json<RecordChange>, ApiError> {
    target.is_whole("promoted")?;
    target.is_one_for("digest", body.digest.is_some())?;
    api.fresh_manifest().await;
    let pairs = api.pairs(&target, &body.from)?;
    let (seen, image) = match body.seen {
        Some(SeenByClient::Target(seen)) => (Some(seen), body.image),
        Some(SeenByClient::Image(image)) => (None, Some(image)),
        None => (None, body.image),
    };
    target.is_one_for("image", image.is_some())?;
    let request = PromotionRequest {
        image,
        digest: body.digest,
        images: body.images,
        note: reason(body.note)?,
        overriding: overriding(&caller, body.overrides, reason(body.reason)?)?,
        at: (api.clock)(),
        wall_clock: (api.wall_clock)(),
    };
    let mut guards = api.seen_of(&target, seen)?;
    let (mut answers, mut promotions) = (Vec::new(), Vec::new());
    let mut words = BTreeMap::new();
    for (from, to) in pairs {
        match api.prepare(&from, &to, &request, &caller)? {
            Prepared::There(unchanged) => answers.push(unchanged),
            Prepared::New { promotion, what, guard } => {
                words.insert(to.name.clone(), what);
                guards.push(guard);
                promotions.push(*promotion);
            }
        }
    }
    if !promotions.is_empty() {
        let all = api.writer.promote(promotions, &guards).await?;
        let what = |desired: &Desired| words.get(&desired.environment).map_or("an image", String::as_str);
        answers.extend(all.iter().map(|desired| api.recorded(desired, what(desired))));
    }
    Ok(Json(target.answer(answers)))
}

/// The options of a request, checked.
struct PromotionRequest {
    /// The image of the source that the client saw.
    image: Option<String>,
    /// The image to promote.
    digest: Option<String>,
    /// The images of the sources of a group that the client saw.
    images: BTreeMap<EnvironmentName, String>,
    note: Option<String>,
    /// The reason for passing closed gates.
    overriding: Option<String>,
    at: Timestamp,
    /// The time for promotion windows and freezes.
    wall_clock: Timestamp,
}

/// One promotion, ready to be recorded.
enum Prepared {
    /// The target has the image already.
    There(RecordChange),
    New {
        promotion: Box<Promotion<ApiError>>,
        /// The change, in words.
        what: String,
        /// The condition that the source has not changed.
        guard: Precondition,
    },
}

impl ApiState {
    /// The sources and targets: of one environment, or of the members of a group that are promoted.
    fn pairs(
        &self,
        target: &CommandTarget,
        from: &str,
    ) -> Result<Vec<(EnvironmentName, FoundEnvironment)>, ApiError> {
        let Some(group) = &target.group else {
            let (from, to) = (self.find(from)?.name, self.find(target.name.as_str())?);
            check_source(&to, &from)?;
            return Ok(vec![(from, to)]);
        };
        let source = self.target(from)?;
        let mut pairs = Vec::new();
        for name in target.environments() {
            let to = self.find(name.as_str())?;
            let from = match to.spec().map(|spec| &spec.supply) {
                Some(Supply::Promotion { from }) => from.clone(),
                _ => continue,
            };
            // Only the first slot of an environment with replicas is promoted; the others follow it.
            let is_one = to.spec().is_some_and(|spec| spec.replica.is_some());
            if (source.group.is_some() || is_one) && source.environments().any(|name| *name == from) {
                pairs.push((from, to));
            }
        }
        if pairs.is_empty() {
            return Err(ApiError::unprocessable(format!(
                "no member of the group `{group}` accepts promotions from `{from}`: name the group that their \
                 `promote_from` belongs to"
            )));
        }
        Ok(pairs)
    }

    fn prepare(
        &self,
        from: &EnvironmentName,
        to: &FoundEnvironment,
        request: &PromotionRequest,
        caller: &Access,
    ) -> Result<Prepared, ApiError> {
        let meant = parse_digest(request.digest.as_deref())?;
        let source = self.desired.get(from)?.entry;
        let serving = self.serving(from, meant.as_ref())?;
        let image_seen = request.images.get(from).or(request.image.as_ref());
        let image_seen = parse_digest(image_seen.map(String::as_str))?;
        let image = &serving.image;
        if let Some(host) = to.host() {
            check_reach(from, image, host)?;
        }
        for seen in [meant, image_seen].iter().flatten() {
            check_seen(from, image, seen)?;
        }
        if let Some(unchanged) = self.is_there_already(&to.name, &serving)? {
            return Ok(Prepared::There(unchanged));
        }
        let (candidate, gates) = self.judged(from, &to.name, &serving, caller)?;
        let (at, wall_clock) = (request.at, request.wall_clock);
        // What is closed now goes into the note; whether anything is decides the check at the time of writing.
        let closed = closed(&judge(&gates, &candidate, &self.desired.evidence_to_judge(from)?, wall_clock));
        let passed = request.overriding.as_ref().filter(|_| !closed.is_empty());
        let of_gates = passed.map(|why| (why, &closed));
        let Person { by, token } = caller.person();
        let message = passed.map(|why| format!("{by} overrode the gates ({closed}): {why}"));
        let change = Change {
            revision: serving.entry.revision.clone(),
            image: Some(image.clone()),
            origin: Origin::Promotion,
            by: Some(by),
            token,
            note: Some(note(from, serving.entry.generation, request.note.clone(), of_gates)),
            at,
            hold: None,
        };
        let guard = Precondition { environment: from.clone(), generation: source.generation };
        let (is_overridden, target) = (request.overriding.is_some(), to.name.clone());
        let judge = move |evidence: &[Evidence]| {
            let answers = judge(&gates, &candidate, evidence, wall_clock);
            if is_overridden || are_open(&answers) {
                return Ok(());
            }
            Err(ApiError::gates_closed(format!("nothing was changed: {}", sentence(&target, &answers))))
        };
        let past = passed.map(|_| format!(", past its gates ({closed}),")).unwrap_or_default();
        let what = format!("{} of `{from}`{past}", shown(image));
        let (from, to) = (from.clone(), to.name.clone());
        let promotion = Box::new(Promotion { from, to, change, message, judge: Box::new(judge) });
        Ok(Prepared::New { promotion, what, guard })
    }
}

/// The reason to pass closed gates; `None`: they are not to be passed.
fn overriding(caller: &Access, overrides: bool, why: Option<String>) -> Result<Option<String>, ApiError> {
    if !overrides {
        return Ok(None);
    }
    if !caller.role().may_administer() {
        return Err(ApiError::forbidden(AccessRule::Administer, caller.role()));
    }
    let why =
        why.ok_or_else(|| ApiError::bad_request("give a `reason` for passing the gates: it is recorded"))?;
    Ok(Some(why))
}

/// The note of the generation.
fn note(
    from: &EnvironmentName,
    generation: Generation,
    note: Option<String>,
    passed: Option<(&String, &String)>,
) -> String {
    let mut words = format!("from {from} generation {generation}");
    if let Some((why, closed)) = passed {
        words.push_str(&format!("; past its gates ({closed}): {why}"));
    }
    if let Some(note) = note {
        words.push_str(&format!("; {note}"));
    }
    words
}

/// The version that an environment runs healthy.
pub(in crate::api) struct Serving {
    /// The generation that names it.
    pub(in crate::api) entry: Entry,
    pub(in crate::api) image: Image,
}

impl ApiState {
    /// Returns the version that `from` runs healthy. While a push is unprocessed or a newer
    /// generation is in progress, the client must name this image explicitly.
    pub(in crate::api) fn serving(
        &self,
        from: &EnvironmentName,
        meant: Option<&Digest>,
    ) -> Result<Serving, ApiError> {
        let state = Arc::clone(&self.manifest.borrow());
        let facts = self.facts(from, &state)?;
        let refuse = |why: String| Err(ApiError::conflict(format!("cannot promote `{from}`: {why}")));
        let Some(status) = &facts.status else { return refuse("its state is not known yet".to_owned()) };
        let settled = facts.settled();
        let is_here = facts.spec.is_none_or(|spec| spec.host.is_none());
        match (facts.unanswered(), meant, settled.condition) {
            (Some((what, _)), None, Condition::Ready) => {
                refuse(format!("{what}; wait for it (`abide wait {from}`), or name the image with --digest"))
            }
            (_, _, Condition::Ready) => {
                let image = healthy_image(&facts.desired, status, is_here)?;
                Ok(Serving { entry: facts.desired.entry.clone(), image })
            }
            (_, Some(meant), Condition::Progressing) => {
                let history = self.status.history(from)?;
                match still_serving(&history, status, is_here, meant) {
                    Some(serving) => Ok(serving),
                    None => refuse(format!("{meant} is not its healthy image: {}", settled.message)),
                }
            }
            _ => refuse(format!("its status is {}: {}", settled.condition.as_str(), settled.message)),
        }
    }

    /// The candidate of a promotion that `caller` asks for, and the gates that it has to pass.
    fn judged(
        &self,
        from: &EnvironmentName,
        to: &EnvironmentName,
        serving: &Serving,
        caller: &Access,
    ) -> Result<(Candidate, Gates), ApiError> {
        let state = Arc::clone(&self.manifest.borrow());
        let mut candidate = self.candidate((from, to), &serving.entry, &serving.image, &state.manifest)?;
        (candidate.by, candidate.is_healthy) = (Some(caller.person()), true);
        let gates = state.manifest.environments.get(to).map(|spec| spec.gates.clone()).unwrap_or_default();
        Ok((candidate, gates))
    }

    /// Returns the answer if `to` already runs this image or is updating to it; nothing is recorded
    /// then.
    fn is_there_already(
        &self,
        to: &EnvironmentName,
        serving: &Serving,
    ) -> Result<Option<RecordChange>, ApiError> {
        let state = Arc::clone(&self.manifest.borrow());
        let facts = self.facts(to, &state)?;
        let (settled, entry) = (facts.settled(), &facts.desired.entry);
        let is_same = entry.image.as_ref().is_some_and(|image| image.is_same(&serving.image));
        // A promotion retries a failed generation.
        let is_well =
            matches!(settled.condition, Condition::Ready | Condition::Progressing | Condition::Held)
                && settled.reason != Reason::RolledBack
                && entry.origin != Some(Origin::AutomaticRollback);
        if !(is_same && is_well) {
            return Ok(None);
        }
        let (what, generation) = (shown(&serving.image), entry.generation);
        let message = format!("no change: generation {generation} of `{to}` already has {what}");
        Ok(Some(moved(&facts.desired, false, message)))
    }
}

/// Returns the generation with this image that was ready and keeps serving under a newer one.
fn still_serving(
    history: &[HistoryEntry],
    status: &Status,
    is_here: bool,
    meant: &Digest,
) -> Option<Serving> {
    let ready = history.iter().find(|kept| kept.outcome == Some(Outcome::Ready))?;
    let image = ready.entry.image.clone().filter(|image| image.has_digest(meant))?;
    let running = status.running.as_ref()?;
    let runs_it = !is_here || running.image_id.is_some() && running.image_id == image.id;
    runs_it.then(|| Serving { entry: ready.entry.clone(), image })
}

/// Checks that the target's manifest allows promotions from this environment.
fn check_source(target: &FoundEnvironment, from: &EnvironmentName) -> Result<(), ApiError> {
    let to = &target.name;
    match &target.declared()?.supply {
        Supply::Promotion { from: declared } if declared == from => Ok(()),
        Supply::Promotion { from: declared } => Err(ApiError::conflict(format!(
            "`{to}` accepts promotions from `{declared}`, not from \
                `{from}`"
        ))),
        Supply::Branch { .. } | Supply::Tag { .. } | Supply::Manual => Err(ApiError::unprocessable(format!(
            "`{to}` does not accept promotions: its manifest has no `promote` or `promote_from`"
        ))),
    }
}

/// Returns the image that an environment runs healthy, byte for byte as recorded.
///
/// Image IDs are names within one engine, so they are compared only for containers on this host; an
/// agent has compared them itself.
fn healthy_image(source: &Desired, status: &Status, is_here: bool) -> Result<Image, ApiError> {
    let (from, generation) = (&source.environment, source.entry.generation);
    let refuse = |why: String| Err(ApiError::conflict(format!("cannot promote `{from}`: {why}")));
    let Some(image) = &source.entry.image else {
        return refuse(format!("generation {generation} has no image yet"));
    };
    if status.reason == Reason::Completed {
        // Its container has done its work with the recorded image.
        return Ok(image.clone());
    }
    let running = status.running.as_ref().and_then(|running| running.image_id.as_ref());
    match (running, &image.id) {
        (Some(_), _) if !is_here => Ok(image.clone()),
        (Some(running), Some(recorded)) if running == recorded => Ok(image.clone()),
        (Some(running), Some(recorded)) => refuse(format!("it runs {running}, but {recorded} is recorded")),
        (Some(_), None) => refuse("the ID of its recorded image is not known yet".to_owned()),
        (None, _) => refuse("its container is not running".to_owned()),
    }
}

/// Checks that another host can pull the image by its digest.
fn check_reach(from: &EnvironmentName, image: &Image, host: &AgentName) -> Result<(), ApiError> {
    if image.digest.is_some() && image.reference.is_some() {
        return Ok(());
    }
    Err(ApiError::unprocessable(format!(
        "the image of `{from}` is in no registry, so the agent {host} cannot pull it: add `push` to \
        `[environment.{from}]`, build it again, then promote it"
    )))
}

/// Checks that the image to promote is the one that the caller saw.
pub(super) fn check_seen(from: &EnvironmentName, image: &Image, seen: &Digest) -> Result<(), ApiError> {
    if image.has_digest(seen) {
        return Ok(());
    }
    let runs = image.shown_digest().map_or_else(|| "another image".to_owned(), Digest::to_string);
    Err(ApiError::conflict(format!("`{from}` runs {runs}, not {seen}: check it and promote again")))
}
