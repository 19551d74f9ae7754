//! `approve`, `reject` and `withdraw`: what a person has found about the image of an environment.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::Deserialize;

use super::{moved, parse_digest, reason, shown};
use crate::api::ApiState;
use crate::api::access::Access;
use crate::api::body::{Caller, JsonBody};
use crate::api::error::ApiError;
use crate::api::find::FoundEnvironment;
use crate::model::desired::{Entry, Image};
use crate::model::evidence::{Evidence, EvidenceFinding, Person, Withdrawal};
use crate::model::name::{EnvironmentName, Generation};
use crate::model::spec::{EnvironmentSpec, Manifest};
use crate::model::view::RecordChange;
use crate::plan::gates::shares;

/// Options of `approve`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::api) struct Approve {
    /// A note, as free text.
    note: Option<String>,
    /// The image that the client saw.
    digest: Option<String>,
    /// The generation that the client saw.
    seen: Option<Generation>,
}

/// `POST /api/v1/environments/{environment}/approve`
pub(in crate::api) async fn approve(
    State(api): State<ApiState>,
    found: FoundEnvironment,
    Caller(caller): Caller,
    JsonBody(body): JsonBody<Approve>,
) -> Result<Json<RecordChange>, ApiError> {
    let name = &found.name;
    found.declared()?;
    api.fresh_manifest().await;
    let state = Arc::clone(&api.manifest.borrow());
    let targets: Vec<_> = state.manifest.promoted_to(name).collect();
    if targets.is_empty() {
        return Err(ApiError::unprocessable(nothing_onward(name, &state.manifest)));
    }
    let guards = api.seen(name, body.seen)?;
    let meant = parse_digest(body.digest.as_deref())?;
    let serving = api.serving(name, meant.as_ref())?;
    if let Some(meant) = &meant {
        super::promote::check_seen(name, &serving.image, meant)?;
    }
    let (image, entry) = (serving.image, serving.entry);
    let person = caller.person();
    let is_own = |to: &EnvironmentName| -> Result<bool, ApiError> {
        let authors = api.authors((name, to), &entry, &image, &state.manifest)?;
        Ok(authors.iter().any(|author| author.is_same(&person)))
    };
    let own: Vec<bool> = targets.iter().map(|(to, _)| is_own(to)).collect::<Result<_, _>>()?;
    let counted = counted(&person, &own, &targets).map_err(|why| {
        ApiError::conflict(format!("your approval of `{name}` would count for nothing: {why}"))
    })?;
    let gates: BTreeMap<_, _> = targets.iter().map(|(to, spec)| ((*to).clone(), spec.gates.mark())).collect();
    let finding = EvidenceFinding::Approved { gates };
    let note = reason(body.note)?;
    let (words, at) = (shown(&image), (api.clock)());
    let generation = entry.generation;
    let because = note.as_ref().map_or_else(String::new, |note| format!(": {note}"));
    let message = format!("{} approved {words} of generation {generation}{because}", person.by);
    let by = Some(person);
    let evidence =
        Evidence { sequence: 0, environment: name.clone(), image, generation, finding, by, at, note };
    api.writer.testify(evidence, message, &guards).await?;
    let desired = api.desired.get(name)?;
    Ok(Json(moved(&desired, true, format!("{words} of `{name}` is approved{counted}"))))
}

/// The rest of the sentence about an approval: for which promotions it counts. `own` says for each target whether the
/// person is an author. An error says why it counts for none of those that ask for approvals.
fn counted(
    person: &Person,
    own: &[bool],
    targets: &[(&EnvironmentName, &EnvironmentSpec)],
) -> Result<String, String> {
    let (mut counts, mut why) = (Vec::new(), Vec::new());
    for ((to, spec), is_own) in targets.iter().zip(own).filter(|((_, spec), _)| spec.gates.approvals > 0) {
        let by: Vec<&str> = spec.gates.by.iter().map(String::as_str).collect();
        if !by.is_empty() && !by.contains(&person.name()) {
            why.push(format!("`{to}` counts those of {}", by.join(", ")));
        } else if spec.gates.others_only && *is_own {
            why.push(format!(
                "`{to}` counts those of others, and you pushed, set or promoted this image or a part of it that `{to}` \
                 does not run yet"
            ));
        } else {
            counts.push(to.as_str());
        }
    }
    match (counts.is_empty(), why.is_empty()) {
        (true, true) => Ok("; no promotion from it asks for approvals".to_owned()),
        (true, false) => Err(why.join("; ")),
        (false, _) => Ok(format!(" for {}", counts.join(", "))),
    }
}

fn nothing_onward(name: &EnvironmentName, manifest: &Manifest) -> String {
    let advice = match manifest.promoted_from(name) {
        Some(from) => format!(": approve the image in `{from}`, with `abide approve {from}`"),
        None => String::new(),
    };
    format!("nothing is promoted from `{name}`{advice}")
}

/// Options of `reject`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::api) struct Reject {
    /// The reason, as free text.
    reason: Option<String>,
    /// The image to reject; if missing, the one that the environment names now.
    digest: Option<String>,
    /// The generation that the client saw.
    seen: Option<Generation>,
}

/// `POST /api/v1/environments/{environment}/reject`
pub(in crate::api) async fn reject(
    State(api): State<ApiState>,
    found: FoundEnvironment,
    Caller(caller): Caller,
    JsonBody(body): JsonBody<Reject>,
) -> Result<Json<RecordChange>, ApiError> {
    let Some(why) = reason(body.reason)? else {
        return Err(ApiError::bad_request("give a `reason`: whoever made the image wants to know"));
    };
    let name = &found.name;
    let guards = api.seen(name, body.seen)?;
    let Entry { generation, image, .. } = api.named(name, body.digest.as_deref())?;
    let image: Image = image.ok_or_else(|| {
        ApiError::conflict(format!("generation {generation} of `{name}` names no image yet"))
    })?;
    let (person, at, words) = (caller.person(), (api.clock)(), shown(&image));
    let message = format!("{} rejected {words} of generation {generation}: {why}", person.by);
    let finding = EvidenceFinding::Rejected { withdrawn: None };
    let (by, note) = (Some(person), Some(why));
    let evidence =
        Evidence { sequence: 0, environment: name.clone(), image, generation, finding, by, at, note };
    api.writer.testify(evidence, message, &guards).await?;
    let desired = api.desired.get(name)?;
    let message = format!(
        "{words} of `{name}` is rejected: it is promoted nowhere until `abide reject {name} --withdraw`"
    );
    Ok(Json(moved(&desired, true, message)))
}

/// Options of `withdraw`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::api) struct Withdraw {
    /// The reason, as free text.
    reason: Option<String>,
    /// The rejected image; if missing, the one that the environment names now.
    digest: Option<String>,
    /// The generation that the client saw.
    seen: Option<Generation>,
}

/// `POST /api/v1/environments/{environment}/withdraw`
pub(in crate::api) async fn withdraw(
    State(api): State<ApiState>,
    found: FoundEnvironment,
    Caller(caller): Caller,
    JsonBody(body): JsonBody<Withdraw>,
) -> Result<Json<RecordChange>, ApiError> {
    let name = &found.name;
    let writer = api.writer.seeing(api.seen(name, body.seen)?);
    let rejected = api.rejected(name, body.digest.as_deref())?;
    may_withdraw(&api, &caller, name, (&rejected.image, rejected.generation))?;
    let (person, at, words) = (caller.person(), (api.clock)(), shown(&rejected.image));
    let note = reason(body.reason)?;
    let because = note.as_ref().map_or_else(String::new, |note| format!(": {note}"));
    let message = format!("{} withdrew the rejection of {words}{because}", person.by);
    let withdrawal = Withdrawal { by: person, at, note };
    let image = rejected.image.clone();
    let count = writer.withdraw(name, move |found| shares(&found.image, &image), withdrawal, message).await?;
    let desired = api.desired.get(name)?;
    let message = match api.rejection_of(&rejected.image)? {
        Some(other) => format!(
            "the rejection of {words} in `{name}` is withdrawn; that in `{}` remains",
            other.environment
        ),
        None => format!("the rejection of {words} in `{name}` is withdrawn"),
    };
    Ok(Json(moved(&desired, count > 0, message)))
}

/// Whoever pushed or promoted an image, or a part of it that is not promoted yet, does not overrule who rejected it.
fn may_withdraw(
    api: &ApiState,
    caller: &Access,
    name: &EnvironmentName,
    (image, generation): (&Image, Generation),
) -> Result<(), ApiError> {
    let state = Arc::clone(&api.manifest.borrow());
    let mut authors = api.image_authors(name, image, &state.manifest)?;
    let entry = api.desired.entry(name, generation)?.unwrap_or_default();
    for (to, _) in state.manifest.promoted_to(name) {
        authors.extend(api.authors((name, to), &entry, image, &state.manifest)?);
    }
    let person = caller.person();
    let is_author = authors.iter().any(|author| author.is_same(&person));
    if is_author && !caller.role().may_administer() {
        return Err(ApiError::conflict(
            "you pushed, set or promoted this image or a part of it: another tester or an admin has to withdraw its rejection",
        ));
    }
    Ok(())
}

impl ApiState {
    /// The generation that names the image `digest`; without one, the current generation.
    fn named(&self, name: &EnvironmentName, digest: Option<&str>) -> Result<Entry, ApiError> {
        let Some(digest) = parse_digest(digest)? else { return Ok(self.desired.get(name)?.entry) };
        let names_it = |entry: &Entry| entry.image.as_ref().is_some_and(|image| image.has_digest(&digest));
        let entry = self.desired.history(name)?.into_iter().find(names_it);
        entry.ok_or_else(|| ApiError::not_found(format!("no generation of `{name}` names {digest}")))
    }

    /// The rejection that is meant.
    fn rejected(&self, name: &EnvironmentName, digest: Option<&str>) -> Result<Evidence, ApiError> {
        let here = self.desired.evidence(name)?.into_iter().rev().filter(Evidence::is_rejection);
        let here: Vec<_> = here.collect();
        let current = self.desired.get(name)?.entry.image;
        let meant = match parse_digest(digest)? {
            Some(digest) => here.iter().find(|rejected| rejected.image.has_digest(&digest)),
            None => here
                .iter()
                .find(|rejected| current.as_ref().is_some_and(|current| shares(&rejected.image, current))),
        };
        if let Some(meant) = meant {
            return Ok(meant.clone());
        }
        let others: Vec<String> = here.iter().map(|rejected| shown(&rejected.image)).collect();
        Err(ApiError::conflict(match others.as_slice() {
            [] => format!("nothing is rejected in `{name}`"),
            others => format!(
                "that image is not rejected in `{name}`; rejected are {}: name one with --digest",
                others.join(", ")
            ),
        }))
    }
}
