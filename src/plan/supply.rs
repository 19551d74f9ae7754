//! Bringing the image: when to build or pull, and which status to report until it is there.

use std::collections::BTreeSet;
use std::time::Duration;

use super::{Intent, PartialPlan, RecordStep, Step, SupplyKind, generation_words};
use crate::model::build::{Acquisition, RecipeKey};
use crate::model::desired::{Entry, Image, Outcome};
use crate::model::name::{CommitId, Digest};
use crate::model::observed::{ContainerState, Observed, RegistryPresence};
use crate::model::reference::ImageRepository;
use crate::model::status::{Condition, Reason};
use crate::model::time::Timestamp;

/// The missing part before an entry can run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Need {
    /// Nothing: the image is here, or nothing is recorded.
    Nothing,
    /// This commit has to be built.
    Build {
        /// The commit.
        revision: CommitId,
    },
    /// The image of this commit is here, but the build recipe in the manifest has changed.
    Rebuild {
        /// The commit.
        revision: CommitId,
    },
    /// This digest has to be pulled.
    Pull {
        /// The repository to pull from, without tag and digest.
        reference: String,
        /// The manifest digest.
        digest: Digest,
    },
    /// The image is here, and has to be pushed.
    Push {
        /// The image ID.
        id: Digest,
        /// The repository to push to.
        repository: ImageRepository,
    },
    /// The image is missing, and abide cannot obtain it.
    Unobtainable {
        /// The ID of the missing image.
        id: Digest,
    },
}

/// How long the record must be stable after a superseded build before the next build begins. A burst of
/// pushes then costs two builds: the interrupted one and the last. Twenty pushes scattered over ten seconds
/// leave gaps of well over a second. The wait has no maximum: a build that began in the middle of a burst
/// would be superseded by the next push.
const SETTLE: Duration = Duration::from_secs(3);

/// Delay before asking a registry again for an image that it reported missing. The image may have been
/// pushed since, and some registries report "not found" for other errors.
pub(super) const GONE_FOR: Duration = Duration::from_secs(300);

/// Returns the missing part of the valid entry, for an engine that holds `images`, the registry presence in
/// `shelf`, and the build recipe `recipe` of the manifest.
pub fn need(
    intent: &Intent,
    images: &BTreeSet<Digest>,
    registry_presence: &RegistryPresence,
    recipe: Option<&RecipeKey>,
) -> Need {
    let entry = &intent.entry;
    let build = entry.revision.clone().filter(|_| intent.supply == SupplyKind::Build);
    match (&entry.image, build) {
        (Some(_), Some(revision)) if is_edited(intent, recipe) && intent.hold.is_none() => {
            Need::Rebuild { revision }
        }
        (None, Some(revision)) => Need::Build { revision },
        (None, None) => Need::Nothing,
        (Some(Image { id: Some(id), .. }), _) if images.contains(id) => match &registry_presence.push_to {
            Some(repository) => Need::Push { id: id.clone(), repository: repository.clone() },
            None => Need::Nothing,
        },
        (Some(_), Some(revision)) if registry_presence.is_lost => Need::Build { revision },
        (Some(_), Some(revision)) if !intent.may_pull => Need::Build { revision },
        (Some(Image { reference: Some(reference), digest: Some(digest), .. }), _) => {
            Need::Pull { reference: reference.clone(), digest: digest.clone() }
        }
        (Some(_), Some(revision)) => Need::Build { revision },
        (Some(Image { id: Some(id), .. }), None) => Need::Unobtainable { id: id.clone() },
        (Some(image), None) => {
            image.digest.clone().map_or(Need::Nothing, |digest| Need::Unobtainable { id: digest })
        }
    }
}

/// Whether the build recipe in the manifest has changed since the recorded image was built or named. An
/// image without a commit was not built from one, so no edit concerns it.
pub(super) fn is_edited(intent: &Intent, recipe: Option<&RecipeKey>) -> bool {
    is_recipe_edited(intent.supply, &intent.entry, recipe)
}

/// The same for any entry.
pub(super) fn is_recipe_edited(supply: SupplyKind, entry: &Entry, recipe: Option<&RecipeKey>) -> bool {
    let is_built = supply == SupplyKind::Build && entry.revision.is_some() && entry.image.is_some();
    is_built && matches!((&entry.recipe, recipe), (Some(before), Some(now)) if before != now)
}

/// Adds the step that notes the build recipe of the manifest, if none is known. Later edits are compared
/// with it.
fn note_recipe(intent: &Intent, observed: &Observed, partial: PartialPlan) -> PartialPlan {
    let entry = &intent.entry;
    let is_unknown = entry.recipe.is_none() && entry.image.is_some() && entry.revision.is_some();
    match &observed.recipe {
        Some(recipe) if is_unknown && intent.supply == SupplyKind::Build && intent.hold.is_none() => {
            let step =
                Step::Record(RecordStep::Recipe { generation: entry.generation, recipe: recipe.clone() });
            partial.then(step, "a later edit of the manifest will be compared with it")
        }
        Some(_) | None => partial,
    }
}

/// Plans the steps and the status for the missing part of the valid entry.
pub(super) fn plan(intent: &Intent, observed: &Observed, now: Timestamp) -> PartialPlan {
    let need = need(intent, &observed.images, &observed.registry_presence, observed.recipe.as_ref());
    let partial = match &need {
        Need::Nothing => note_recipe(intent, observed, nothing_to_bring(intent, observed)),
        Need::Unobtainable { id } => unobtainable(intent, observed, id),
        Need::Rebuild { .. } => rebuild(intent, observed, &need, now),
        Need::Build { .. } | Need::Pull { .. } | Need::Push { .. } => bring(intent, observed, &need, now),
    };
    if !observed.superseded_job {
        return partial;
    }
    let cancelled = PartialPlan::default().then(Step::CancelJob, "the record no longer needs it");
    PartialPlan { steps: cancelled.steps.into_iter().chain(partial.steps).collect(), ..partial }
}

fn nothing_to_bring(intent: &Intent, observed: &Observed) -> PartialPlan {
    if intent.entry.image.is_some() {
        return PartialPlan::default();
    }
    let environment = &intent.environment;
    match intent.supply {
        SupplyKind::Build => {
            let words = "nothing is recorded yet; querying git for the head of the branch";
            PartialPlan::with_status(Condition::Progressing, Reason::NothingRecorded, words)
        }
        SupplyKind::Tag => {
            let words = "nothing is recorded yet; querying the registry for the tag";
            PartialPlan::with_status(Condition::Progressing, Reason::NothingRecorded, words)
        }
        SupplyKind::Named => PartialPlan::with_status(
            Condition::Blocked,
            Reason::NothingRecorded,
            match running_image(observed) {
                // The record was lost, or its folder was replaced.
                Some(image) => format!(
                    "nothing is recorded: `abide set {environment} {image}` records the image that runs now, \
                    `abide import` restores a copy of the record"
                ),
                None => format!(
                    "nothing is recorded yet: use `abide promote` or `abide set` to record what \
                    {environment} should run"
                ),
            },
        ),
    }
}

/// The image of the running container that was started last.
fn running_image(observed: &Observed) -> Option<&Digest> {
    let running = observed.containers.iter().filter(|seen| seen.state == ContainerState::Running);
    running.max_by_key(|seen| seen.started_at).and_then(|seen| seen.image.as_ref())
}

fn unobtainable(intent: &Intent, observed: &Observed, id: &Digest) -> PartialPlan {
    let (image, generation, environment) = (id.short(), intent.entry.generation, &intent.environment);
    let declared = intent.options.as_ref().ok().and_then(|options| options.run.platform.as_ref());
    let words = match (observed.other_platforms.get(id), declared) {
        (Some(platform), Some(declared)) => format!(
            "image {image} of generation {generation} is made for {platform}, and `platform` is {declared}: `abide set \
             {environment}` an image for {declared}, or edit `platform`"
        ),
        _ => format!(
            "image {image} of generation {generation} is not in this engine, and no registry or build has it: promote or \
             set {environment} again"
        ),
    };
    let failed = Outcome::Failed(words.clone());
    let partial = PartialPlan::with_status(Condition::Blocked, Reason::ImageNotFound, words);
    PartialPlan { outcome: Some((intent.entry.generation, failed)), ..partial }
}

fn bring(intent: &Intent, observed: &Observed, need: &Need, now: Timestamp) -> PartialPlan {
    let begin = |why: &str| begin(intent, observed, need, why, now);
    match &observed.acquisition {
        Acquisition::NotNeeded | Acquisition::Untried => begin(what_is_missing(need)),
        Acquisition::Running { step } => PartialPlan::with_status(
            Condition::Progressing,
            progress_reason(need),
            format!("{} {}: {step}", doing(need), words(intent)),
        ),
        Acquisition::Got(image) if is_recorded(intent, image) => begin("the new image was removed"),
        Acquisition::Got(image) => record(intent, image, built_by(observed, need)),
        Acquisition::Failed { at, .. } if intent.sync.is_some_and(|sync| sync > *at) => {
            begin("sync was requested after the failure")
        }
        Acquisition::Failed { reason: Reason::ImageNotFound, at, .. } if now >= at.after(GONE_FOR) => {
            begin("the registry may have the image by now")
        }
        Acquisition::Failed { reason, message, at } => {
            let partial = PartialPlan::with_status(Condition::Degraded, *reason, message.clone());
            let partial = PartialPlan {
                outcome: Some((intent.entry.generation, Outcome::Failed(message.clone()))),
                ..partial
            };
            match reason {
                Reason::ImageNotFound => partial.requeue_by(at.after(GONE_FOR)),
                _ => partial,
            }
        }
        Acquisition::Unavailable { retry_at, .. } if now >= *retry_at => begin("the retry is due"),
        Acquisition::Unavailable { reason, message, retry_at } => {
            PartialPlan::with_status(Condition::Degraded, *reason, message.clone()).requeue_by(*retry_at)
        }
    }
}

/// Like [`bring`], for a recorded image that is here. A generation that became ready remains ready, whatever
/// the result of the edit.
fn rebuild(intent: &Intent, observed: &Observed, need: &Need, now: Timestamp) -> PartialPlan {
    let entry = &intent.entry;
    let generation = entry.generation;
    let mut partial = match (&observed.acquisition, &observed.recipe) {
        (Acquisition::Untried | Acquisition::NotNeeded, _) => {
            begin(intent, observed, need, "its `build` was edited in the manifest", now)
        }
        (Acquisition::Got(image), Some(recipe)) => {
            let recipe = recipe.clone();
            let is_same = entry.image.as_ref().is_some_and(|recorded| recorded.is_same(image));
            let (step, why) = if is_same {
                (
                    Step::Record(RecordStep::Recipe { generation, recipe }),
                    "the edit does not change the built image",
                )
            } else {
                let image = image.clone();
                (
                    Step::Record(RecordStep::Edited { generation, image, recipe }),
                    "its `build` was edited in the manifest",
                )
            };
            let message = format!("the image of the edited {} is available", words(intent));
            PartialPlan::with_status(Condition::Progressing, Reason::Updating, message).then(step, why)
        }
        (
            Acquisition::Got(_)
            | Acquisition::Running { .. }
            | Acquisition::Failed { .. }
            | Acquisition::Unavailable { .. },
            _,
        ) => bring(intent, observed, need, now),
    };
    // Only while there are steps to take: a remaining difference does not yield to them.
    if !partial.steps.is_empty() {
        partial.differences.push(format!("the `build` of {} was edited in the manifest", words(intent)));
    }
    PartialPlan { outcome: None, ..partial }
}

fn begin(intent: &Intent, observed: &Observed, need: &Need, why: &str, now: Timestamp) -> PartialPlan {
    let (reason, what) = (progress_reason(need), words(intent));
    if observed.burst_since.is_some() {
        let begins = intent.entry.at.after(SETTLE);
        if now < begins {
            let message = format!("{what} is next, after pushes settle");
            return PartialPlan::with_status(Condition::Progressing, reason, message).requeue_by(begins);
        }
    }
    if observed.superseded_job {
        // The cancelled job sends a wakeup when it has ended. Starting a job before that would run two.
        return PartialPlan::with_status(Condition::Progressing, reason, format!("{what} is next"));
    }
    PartialPlan::with_status(Condition::Progressing, reason, format!("{} {what}", doing(need)))
        .then(Step::Acquire(need.clone()), why)
}

/// Whether recording `image` would change nothing.
fn is_recorded(intent: &Intent, image: &Image) -> bool {
    intent.entry.image.as_ref() == Some(image)
}

/// The build recipe of the needed image, if it is built.
fn built_by(observed: &Observed, need: &Need) -> Option<RecipeKey> {
    observed.recipe.clone().filter(|_| matches!(need, Need::Build { .. }))
}

fn record(intent: &Intent, image: &Image, recipe: Option<RecipeKey>) -> PartialPlan {
    let generation = intent.entry.generation;
    let is_other = intent.entry.image.as_ref().is_some_and(|recorded| !recorded.is_same(image));
    let (step, why) = if is_other {
        let step = Step::Record(RecordStep::Rebuilt { generation, image: image.clone() });
        (step, "the recorded image was removed; this one was built from the same inputs")
    } else {
        (
            Step::Record(RecordStep::Image { generation, image: image.clone(), recipe }),
            "the image of this generation is now known",
        )
    };
    PartialPlan::with_status(
        Condition::Progressing,
        Reason::Updating,
        format!("the image of {} is available", words(intent)),
    )
    .then(step, why)
}

fn words(intent: &Intent) -> String {
    generation_words(intent.entry.generation, intent.entry.revision.as_ref())
}

fn what_is_missing(need: &Need) -> &'static str {
    match need {
        Need::Push { .. } => "the recorded image is missing in its registry",
        Need::Nothing
        | Need::Unobtainable { .. }
        | Need::Build { .. }
        | Need::Rebuild { .. }
        | Need::Pull { .. } => "the recorded image is missing on this host",
    }
}

fn doing(need: &Need) -> &'static str {
    match need {
        Need::Push { .. } => "pushing",
        Need::Pull { .. } => "pulling",
        Need::Rebuild { .. } => "rebuilding",
        Need::Build { .. } | Need::Nothing | Need::Unobtainable { .. } => "building",
    }
}

fn progress_reason(need: &Need) -> Reason {
    match need {
        Need::Pull { .. } => Reason::Pulling,
        Need::Push { .. } => Reason::Pushing,
        Need::Build { .. } | Need::Rebuild { .. } | Need::Nothing | Need::Unobtainable { .. } => {
            Reason::Building
        }
    }
}
