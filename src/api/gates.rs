//! Evidence and promotions as the API shows and judges them.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;

use super::ApiState;
use super::error::ApiError;
use super::find::FoundEnvironment;
use crate::model::desired::{Entry, Image};
use crate::model::evidence::{Evidence, Person};
use crate::model::name::EnvironmentName;
use crate::model::spec::{EnvironmentSpec, Manifest};
use crate::model::view::{EvidenceView, PromotionView};
use crate::plan::gates::{self, Candidate, Passage, are_open, auto_objection, judge, shares};
use crate::record::RecordError;

/// `GET /api/v1/environments/{environment}/evidence`
pub(super) async fn evidence(
    State(api): State<ApiState>,
    found: FoundEnvironment,
) -> Result<Json<EvidenceView>, ApiError> {
    let name = found.name;
    let view = api.apart(move |api| api.evidence_view(&name)).await?;
    Ok(Json(view))
}

impl ApiState {
    /// The evidence about the images of an environment, and the promotions from and to it.
    pub(super) fn evidence_view(&self, name: &EnvironmentName) -> Result<EvidenceView, RecordError> {
        let manifest = Arc::clone(&self.manifest.borrow());
        let manifest = &manifest.manifest;
        let Entry { generation, image, .. } = self.desired.get(name)?.entry;
        let onward = manifest.promoted_to(name).map(|(to, spec)| self.promotion((name, to), spec, manifest));
        let into = match (manifest.promoted_from(name), manifest.environments.get(name)) {
            (Some(from), Some(spec)) => Some(self.promotion((from, name), spec, manifest)?),
            _ => None,
        };
        Ok(EvidenceView {
            environment: name.clone(),
            generation,
            image,
            evidence: self.desired.evidence(name)?,
            into,
            onward: onward.collect::<Result<_, _>>()?,
        })
    }

    /// The state of the promotion from one environment to another.
    pub(super) fn promotion(
        &self,
        (from, to): (&EnvironmentName, &EnvironmentName),
        target: &EnvironmentSpec,
        manifest: &Manifest,
    ) -> Result<PromotionView, RecordError> {
        let source = self.desired.get(from)?.entry;
        let mut view = PromotionView {
            from: from.clone(),
            to: to.clone(),
            generation: source.generation,
            image: source.image.clone(),
            revision: source.revision.clone(),
            problem: None,
            there: false,
            auto: target.gates.auto,
            open: false,
            gates: Vec::new(),
            message: format!("{from} names no image yet"),
            next_change: None,
        };
        let serving = self.serving(from, None);
        let healthy = serving.as_ref().ok().map(|serving| serving.image.clone());
        view.problem = serving.err().map(|error| error.view.message);
        let Some(image) = healthy.or(source.image.clone()) else { return Ok(view) };
        let mut candidate = self.candidate((from, to), &source, &image, manifest)?;
        candidate.is_healthy = view.problem.is_none();
        let evidence = self.desired.evidence_to_judge(from)?;
        view.gates = judge(&target.gates, &candidate, &evidence, (self.wall_clock)());
        view.open = are_open(&view.gates);
        view.next_change = gates::next_change(&view.gates);
        view.there = self.desired.get(to)?.entry.image.is_some_and(|named| shares(&named, &image));
        view.message = match &view.problem {
            _ if view.there => format!("{to} has the image of {from} already"),
            Some(problem) if view.open => format!("{to} is waiting: {problem}"),
            Some(_) | None => gates::sentence(to, &view.gates),
        };
        if view.auto && view.open && view.problem.is_none() && !view.there {
            let (desired, history) = (self.desired.get(to)?, self.desired.history(to)?);
            if let Some(why) = auto_objection(&source, &image, &desired, &history) {
                view.message.push_str(&format!("; not by abide alone, because {why}"));
            }
        }
        Ok(view)
    }

    /// The image of `entry` as a candidate for a promotion.
    pub(super) fn candidate(
        &self,
        (from, to): (&EnvironmentName, &EnvironmentName),
        entry: &Entry,
        image: &Image,
        manifest: &Manifest,
    ) -> Result<Candidate, RecordError> {
        let (way, target) = (self.way(from, manifest)?, self.desired.get(to)?.entry);
        Ok(Candidate::new((from, to), entry, image, (&way, &target), manifest))
    }

    /// The people who pushed, set or promoted an image of `from`, or a part of it that `to` does not run.
    pub(super) fn authors(
        &self,
        (from, to): (&EnvironmentName, &EnvironmentName),
        entry: &Entry,
        image: &Image,
        manifest: &Manifest,
    ) -> Result<Vec<Person>, RecordError> {
        let target = self.desired.get(to)?.entry;
        Ok(gates::authors(&self.way(from, manifest)?, entry, image, &target))
    }

    /// The people who pushed, set or promoted exactly this image.
    pub(super) fn image_authors(
        &self,
        from: &EnvironmentName,
        image: &Image,
        manifest: &Manifest,
    ) -> Result<Vec<Person>, RecordError> {
        Ok(gates::image_authors(&self.way(from, manifest)?, image))
    }

    fn way(&self, from: &EnvironmentName, manifest: &Manifest) -> Result<Vec<Passage>, RecordError> {
        let passage = |name: &EnvironmentName| {
            let history = self.desired.history(name)?;
            Ok(Passage { history, overtaken: self.desired.get(name)?.overtaken })
        };
        manifest.came_through(from).iter().map(passage).collect()
    }

    /// The rejection in effect of an image, whichever environment it was made in.
    pub(super) fn rejection_of(&self, image: &Image) -> Result<Option<Evidence>, RecordError> {
        Ok(rejection_of(&self.desired.rejections()?, image).cloned())
    }

    /// What waits for a gate, as a sentence; `None` if nothing does.
    pub(super) fn waiting(
        &self,
        name: &EnvironmentName,
        manifest: &Manifest,
    ) -> Result<Option<String>, RecordError> {
        let (Some(from), Some(spec)) = (manifest.promoted_from(name), manifest.environments.get(name)) else {
            return Ok(None);
        };
        // Without gates, only a rejection can keep an image back, and the source shows that.
        if !spec.gates.is_gated() {
            return Ok(None);
        }
        let view = self.promotion((from, name), spec, manifest)?;
        let is_waiting = view.image.is_some() && !view.there && !(view.open && view.problem.is_none());
        Ok(is_waiting.then_some(view.message))
    }
}

/// The newest of these rejections that is about an image.
pub(super) fn rejection_of<'r>(rejections: &'r [Evidence], image: &Image) -> Option<&'r Evidence> {
    rejections.iter().rev().find(|rejected| shares(&rejected.image, image))
}

/// A rejection as a warning: `rejected by anna in test: the logo is gone`.
pub(super) fn rejection_words(rejected: &Evidence) -> String {
    let by = rejected.by.as_ref().map_or("someone", Person::name);
    let why = rejected.note.as_deref().unwrap_or("no reason was given");
    format!("its image was rejected by {by} in {}: {why}", rejected.environment)
}
