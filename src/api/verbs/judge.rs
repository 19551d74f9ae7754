//! `approve`, `reject` and `withdraw`: a person's finding about the image of an environment, or about the images of all
//! members of a group, in one write.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::Deserialize;

use super::promote::Serving;
use super::{moved, parse_digest, reason, shown};
use crate::api::ApiState;
use crate::api::access::Access;
use crate::api::body::{Caller, JsonBody};
use crate::api::error::ApiError;
use crate::api::find::CommandTarget;
use crate::model::desired::{Entry, Image};
use crate::model::evidence::{Evidence, EvidenceFinding, Person, Withdrawal};
use crate::model::name::{Digest, EnvironmentName, Generation};
use crate::model::spec::{EnvironmentSpec, Manifest};
use crate::model::view::{RecordChange, SeenGenerations};
use crate::plan::gates::shares;
use crate::record::{Precondition, WithdrawnImage};

/// Options of `approve`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::api) struct Approve {
    /// A note, as free text.
    note: Option<String>,
    /// The image that the client saw.
    digest: Option<String>,
    /// The images that the client saw in the members of a group.
    #[serde(default)]
    images: BTreeMap<EnvironmentName, String>,
    /// The generations that the client saw.
    seen: Option<SeenGenerations>,
}

/// `POST /api/v1/environments/{environment}/approve`; the path names an environment or a group.
pub(in crate::api) async fn approve(
    State(api): State<ApiState>,
    target: CommandTarget,
    Caller(caller): Caller,
    JsonBody(body): JsonBody<Approve>,
) -> Result<Json<RecordChange>, ApiError> {
    target.is_declared()?;
    api.fresh_manifest().await;
    let manifest = Arc::clone(&api.manifest.borrow());
    let manifest = &manifest.manifest;
    let judged = api.seen_images(&target, body.seen, body.digest, body.images)?;
    let (person, at, note) = (caller.person(), (api.clock)(), reason(body.note)?);
    let because = note.as_ref().map_or_else(String::new, |note| format!(": {note}"));
    let (mut all, mut words) = (Vec::new(), BTreeMap::new());
    for (name, meant) in &judged.images {
        let targets: Vec<_> = manifest.promoted_to(name).collect();
        if targets.is_empty() {
            return Err(ApiError::unprocessable(nothing_onward(&target, manifest)));
        }
        let Serving { image, entry } = api.serving(name, meant.as_ref())?;
        if let Some(meant) = meant {
            super::promote::check_seen(name, &image, meant)?;
        }
        let counted = api.counts_for((name, &entry, &image), &person, &targets, manifest)?;
        let gates = targets.iter().map(|(to, spec)| ((*to).clone(), spec.gates.mark())).collect();
        let (generation, shown) = (entry.generation, shown(&image));
        let message = format!("{} approved {shown} of generation {generation}{because}", person.by);
        let (finding, environment) = (EvidenceFinding::Approved { gates }, name.clone());
        let (by, note) = (Some(person.clone()), note.clone());
        all.push((Evidence { sequence: 0, environment, image, generation, finding, by, at, note }, message));
        words.insert(name.clone(), format!("{shown} of `{name}` is approved{counted}"));
    }
    api.writer.seeing(judged.guards).testify(all).await?;
    Ok(Json(target.answer(api.judged_as(words, |_| true)?)))
}

/// The rest of the sentence about an approval: for which promotions it counts. `own` holds for each target whether the
/// person is an author. The error is the reason why it counts for none of those that ask for approvals.
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

fn nothing_onward(target: &CommandTarget, manifest: &Manifest) -> String {
    let from = target.environments().find_map(|name| manifest.promoted_from(name));
    let group = from
        .filter(|_| target.group.is_some())
        .and_then(|from| manifest.environments.get(from)?.group.as_ref());
    let advice = match (group, from) {
        (Some(group), _) => format!(": approve the images in `{group}`, with `abide approve {group}`"),
        (None, Some(from)) => format!(": approve the image in `{from}`, with `abide approve {from}`"),
        (None, None) => String::new(),
    };
    format!("nothing is promoted from `{}`{advice}", target.name)
}

/// Options of `reject`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::api) struct Reject {
    /// The reason, as free text.
    reason: Option<String>,
    /// The image to reject; if missing, the one that the environment names now.
    digest: Option<String>,
    /// The images to reject in the members of a group.
    #[serde(default)]
    images: BTreeMap<EnvironmentName, String>,
    /// The generations that the client saw.
    seen: Option<SeenGenerations>,
}

/// `POST /api/v1/environments/{environment}/reject`; the path names an environment or a group.
pub(in crate::api) async fn reject(
    State(api): State<ApiState>,
    target: CommandTarget,
    Caller(caller): Caller,
    JsonBody(body): JsonBody<Reject>,
) -> Result<Json<RecordChange>, ApiError> {
    let Some(why) = reason(body.reason)? else {
        return Err(ApiError::bad_request("give a `reason`: whoever made the image wants to know"));
    };
    let judged = api.seen_images(&target, body.seen, body.digest, body.images)?;
    let (person, at) = (caller.person(), (api.clock)());
    let (mut all, mut words) = (Vec::new(), BTreeMap::new());
    for (name, meant) in &judged.images {
        let Entry { generation, image, .. } = api.named(name, meant.as_ref())?;
        let image: Image = image.ok_or_else(|| {
            ApiError::conflict(format!("generation {generation} of `{name}` names no image yet"))
        })?;
        let shown = shown(&image);
        let message = format!("{} rejected {shown} of generation {generation}: {why}", person.by);
        let (finding, environment) = (EvidenceFinding::Rejected { withdrawn: None }, name.clone());
        let (by, note) = (Some(person.clone()), Some(why.clone()));
        all.push((Evidence { sequence: 0, environment, image, generation, finding, by, at, note }, message));
        let until = format!("it is promoted nowhere until `abide reject {} --withdraw`", target.name);
        words.insert(name.clone(), format!("{shown} of `{name}` is rejected: {until}"));
    }
    api.writer.seeing(judged.guards).testify(all).await?;
    Ok(Json(target.answer(api.judged_as(words, |_| true)?)))
}

/// Options of `withdraw`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::api) struct Withdraw {
    /// The reason, as free text.
    reason: Option<String>,
    /// The rejected image; if missing, the one that the environment names now.
    digest: Option<String>,
    /// The rejected images of the members of a group.
    #[serde(default)]
    images: BTreeMap<EnvironmentName, String>,
    /// The generations that the client saw.
    seen: Option<SeenGenerations>,
}

/// `POST /api/v1/environments/{environment}/withdraw`; the path names an environment or a group. In a group, members
/// whose image is not rejected stay as they are.
pub(in crate::api) async fn withdraw(
    State(api): State<ApiState>,
    target: CommandTarget,
    Caller(caller): Caller,
    JsonBody(body): JsonBody<Withdraw>,
) -> Result<Json<RecordChange>, ApiError> {
    let judged = api.seen_images(&target, body.seen, body.digest, body.images)?;
    let (person, at, note) = (caller.person(), (api.clock)(), reason(body.reason)?);
    let because = note.as_ref().map_or_else(String::new, |note| format!(": {note}"));
    let (mut all, mut images) = (Vec::new(), BTreeMap::new());
    for (name, meant) in &judged.images {
        let Some(rejected) = api.rejected(name, meant.as_ref())? else { continue };
        may_withdraw(&api, &caller, name, (&rejected.image, rejected.generation))?;
        let (image, shown) = (rejected.image.clone(), shown(&rejected.image));
        let is_meant = Box::new(move |found: &Evidence| shares(&found.image, &image));
        let message = format!("{} withdrew the rejection of {shown}{because}", person.by);
        all.push(WithdrawnImage { environment: name.clone(), is_meant, message });
        images.insert(name.clone(), rejected.image);
    }
    if all.is_empty() {
        return Err(api.nothing_rejected(&target, &judged)?);
    }
    let withdrawal = Withdrawal { by: person, at, note };
    let withdrawn = api.writer.seeing(judged.guards).withdraw(all, withdrawal).await?;
    let mut words = BTreeMap::new();
    for (name, image) in images {
        let shown = shown(&image);
        let words_of = match api.rejection_of(&image)? {
            Some(other) => format!(
                "the rejection of {shown} in `{name}` is withdrawn; that in `{}` remains",
                other.environment
            ),
            None => format!("the rejection of {shown} in `{name}` is withdrawn"),
        };
        words.insert(name, words_of);
    }
    Ok(Json(target.answer(api.judged_as(words, |name| withdrawn.contains(name))?)))
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

/// The environments that a command judges.
struct JudgedImages {
    /// The image that the client saw in each.
    images: BTreeMap<EnvironmentName, Option<Digest>>,
    guards: Vec<Precondition>,
}

impl ApiState {
    /// The environments whose images are judged by a command for `target`. Of a group, these are the members that
    /// something is promoted from, because nothing else needs evidence; if there are none, all members. Only the first
    /// slot of an environment with replicas is promoted.
    pub(in crate::api) fn judged_members(&self, target: &CommandTarget) -> Vec<EnvironmentName> {
        let manifest = Arc::clone(&self.manifest.borrow());
        let manifest = &manifest.manifest;
        let all = || target.environments();
        let promoted: Vec<_> = all().filter(|name| manifest.promoted_to(name).next().is_some()).collect();
        let judged = if promoted.is_empty() { all().collect() } else { promoted };
        let is_follower = |name: &EnvironmentName| manifest.slot(name).is_some_and(|slot| !slot.is_first());
        let judged = judged.into_iter().filter(|name| target.group.is_none() || !is_follower(name));
        judged.cloned().collect()
    }

    /// What a command judges, with the guards for the state that the client saw.
    fn seen_images(
        &self,
        target: &CommandTarget,
        seen: Option<SeenGenerations>,
        digest: Option<String>,
        images: BTreeMap<EnvironmentName, String>,
    ) -> Result<JudgedImages, ApiError> {
        let judged = self.judged_members(target);
        let guards = match (judged.as_slice(), seen) {
            // The slots of an environment with replicas have one image.
            ([only], Some(SeenGenerations::One(generation))) => self.seen(only, Some(generation))?,
            (_, seen) => self.seen_of(target, seen)?,
        };
        target.is_one_for("digest", digest.is_some() && judged.len() > 1)?;
        let image = |name: EnvironmentName| {
            let image = images.get(&name).or(digest.as_ref());
            let image = parse_digest(image.map(String::as_str))?;
            Ok((name, image))
        };
        let images = judged.into_iter().map(image).collect::<Result<_, ApiError>>()?;
        Ok(JudgedImages { images, guards })
    }

    /// For which promotions an approval counts, as the rest of a sentence.
    fn counts_for(
        &self,
        (name, entry, image): (&EnvironmentName, &Entry, &Image),
        person: &Person,
        targets: &[(&EnvironmentName, &EnvironmentSpec)],
        manifest: &Manifest,
    ) -> Result<String, ApiError> {
        let is_own = |to: &EnvironmentName| -> Result<bool, ApiError> {
            let authors = self.authors((name, to), entry, image, manifest)?;
            Ok(authors.iter().any(|author| author.is_same(person)))
        };
        let own: Vec<bool> = targets.iter().map(|(to, _)| is_own(to)).collect::<Result<_, _>>()?;
        counted(person, &own, targets).map_err(|why| {
            ApiError::conflict(format!("your approval of `{name}` would count for nothing: {why}"))
        })
    }

    /// The answers for environments that were judged, each with its message.
    fn judged_as(
        &self,
        words: BTreeMap<EnvironmentName, String>,
        is_changed: impl Fn(&EnvironmentName) -> bool,
    ) -> Result<Vec<RecordChange>, ApiError> {
        let answer = |(name, message)| Ok(moved(&self.desired.get(&name)?, is_changed(&name), message));
        words.into_iter().map(answer).collect()
    }

    /// The generation that names the image `digest`; without one, the current generation.
    fn named(&self, name: &EnvironmentName, digest: Option<&Digest>) -> Result<Entry, ApiError> {
        let Some(digest) = digest else { return Ok(self.desired.get(name)?.entry) };
        let names_it = |entry: &Entry| entry.image.as_ref().is_some_and(|image| image.has_digest(digest));
        let entry = self.desired.history(name)?.into_iter().find(names_it);
        entry.ok_or_else(|| ApiError::not_found(format!("no generation of `{name}` names {digest}")))
    }

    /// The rejection in an environment of the image `digest`; without one, of its current image.
    fn rejected(
        &self,
        name: &EnvironmentName,
        digest: Option<&Digest>,
    ) -> Result<Option<Evidence>, ApiError> {
        let current = self.desired.get(name)?.entry.image;
        let is_meant = |rejected: &Evidence| match digest {
            Some(digest) => rejected.image.has_digest(digest),
            None => current.as_ref().is_some_and(|current| shares(&rejected.image, current)),
        };
        Ok(self.rejections_in(name)?.into_iter().find(is_meant))
    }

    /// The rejections in effect in an environment, newest first.
    fn rejections_in(&self, name: &EnvironmentName) -> Result<Vec<Evidence>, ApiError> {
        Ok(self.desired.evidence(name)?.into_iter().rev().filter(Evidence::is_rejection).collect())
    }

    /// The refusal to withdraw a rejection that does not exist.
    fn nothing_rejected(&self, target: &CommandTarget, judged: &JudgedImages) -> Result<ApiError, ApiError> {
        let mut others = Vec::new();
        for name in judged.images.keys() {
            others.extend(self.rejections_in(name)?.iter().map(|rejected| shown(&rejected.image)));
        }
        let name = &target.name;
        Ok(ApiError::conflict(match others.as_slice() {
            [] => format!("nothing is rejected in `{name}`"),
            others if judged.images.len() > 1 => format!(
                "no member of `{name}` runs a rejected image; rejected are {}: withdraw that in its environment",
                others.join(", ")
            ),
            others => format!(
                "that image is not rejected in `{name}`; rejected are {}: name one with --digest",
                others.join(", ")
            ),
        }))
    }
}
