//! Bringing the image: when to build or pull, and what to say while it is not there.

use std::collections::BTreeSet;
use std::time::Duration;

use super::{Half, Intent, Step, SupplyKind, generation_words};
use crate::model::build::Acquisition;
use crate::model::desired::{Entry, Image, Outcome};
use crate::model::name::{CommitId, Digest};
use crate::model::observed::{Observed, Shelf};
use crate::model::reference::ImageRepository;
use crate::model::status::{Condition, Reason};
use crate::model::time::Timestamp;

/// What has to be brought before an entry can run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Need {
    /// Nothing: it is here, or nothing is recorded.
    Nothing,
    /// This commit has to be built.
    Build {
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
    /// It is here, and has to be pushed.
    Push {
        /// The image ID.
        id: Digest,
        /// Where to.
        repository: ImageRepository,
    },
    /// It is gone, and nothing can bring it back.
    Unobtainable {
        /// The image ID that is gone.
        id: Digest,
    },
}

/// How long after a superseded build the record must have rested before the next one begins, so
/// that a burst of pushes costs two builds: the one it cut short and the last. Twenty pushes that
/// are scattered over ten seconds leave gaps of well over a second. There is no longest wait: what
/// began in the middle of a burst would be superseded by the next push.
const SETTLE: Duration = Duration::from_secs(3);

/// After so long a registry is asked again for what it did not have. Someone may have pushed it there
/// meanwhile; and not every registry that says so means it.
pub(super) const GONE_FOR: Duration = Duration::from_secs(300);

/// What `entry` lacks on an engine that holds `images`, with `shelf` beside it.
pub fn need(entry: &Entry, supply: SupplyKind, images: &BTreeSet<Digest>, shelf: &Shelf) -> Need {
    let build = entry.revision.clone().filter(|_| supply == SupplyKind::Build);
    match (&entry.image, build) {
        (None, Some(revision)) => Need::Build { revision },
        (None, None) => Need::Nothing,
        (Some(Image { id: Some(id), .. }), _) if images.contains(id) => match &shelf.owed_to {
            Some(repository) => Need::Push { id: id.clone(), repository: repository.clone() },
            None => Need::Nothing,
        },
        (Some(_), Some(revision)) if shelf.is_lost => Need::Build { revision },
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

/// The steps and words for what the entry that counts lacks.
pub(super) fn plan(intent: &Intent, observed: &Observed, now: Timestamp) -> Half {
    let need = need(&intent.entry, intent.supply, &observed.images, &observed.shelf);
    let half = match &need {
        Need::Nothing => nothing_to_bring(intent),
        Need::Unobtainable { id } => unobtainable(intent, id),
        Need::Build { .. } | Need::Pull { .. } | Need::Push { .. } => bring(intent, observed, &need, now),
    };
    if !observed.superseded_job {
        return half;
    }
    let cancelled = Half::default().then(Step::CancelJob, "the record no longer wants it");
    Half { steps: cancelled.steps.into_iter().chain(half.steps).collect(), ..half }
}

fn nothing_to_bring(intent: &Intent) -> Half {
    if intent.entry.image.is_some() {
        return Half::default();
    }
    let environment = &intent.environment;
    match intent.supply {
        SupplyKind::Build => {
            let words = "nothing is recorded yet; the head of the branch is asked for";
            Half::say(Condition::Progressing, Reason::NothingRecorded, words)
        }
        SupplyKind::Tag => {
            let words = "nothing is recorded yet; the registry is asked for the tag";
            Half::say(Condition::Progressing, Reason::NothingRecorded, words)
        }
        SupplyKind::Named => Half::say(
            Condition::Blocked,
            Reason::NothingRecorded,
            format!(
                "nothing is recorded yet; `abide promote` or `abide set` says what {environment} should run"
            ),
        ),
    }
}

fn unobtainable(intent: &Intent, id: &Digest) -> Half {
    let words = format!(
        "image {} of generation {} is not in this engine, and no registry or build is known for it; \
         promote or set {} again",
        id.short(),
        intent.entry.generation,
        intent.environment
    );
    let failed = Outcome::Failed(words.clone());
    let half = Half::say(Condition::Blocked, Reason::ImageNotFound, words);
    Half { outcome: Some((intent.entry.generation, failed)), ..half }
}

fn bring(intent: &Intent, observed: &Observed, need: &Need, now: Timestamp) -> Half {
    let begin = |why: &str| begin(intent, observed, need, why, now);
    match &observed.acquisition {
        Acquisition::NotNeeded | Acquisition::Untried => begin(what_is_missing(need)),
        Acquisition::Running { step } => Half::say(
            Condition::Progressing,
            progress_reason(need),
            format!("{} {}: {step}", doing(need), words(intent)),
        ),
        Acquisition::Got(image) if is_recorded(intent, image) => begin("what was brought is gone again"),
        Acquisition::Got(image) => record(intent, image),
        Acquisition::Failed { at, .. } if intent.sync.is_some_and(|sync| sync > *at) => {
            begin("someone said sync after it failed")
        }
        Acquisition::Failed { reason: Reason::ImageNotFound, at, .. } if now >= at.after(GONE_FOR) => {
            begin("what was not in the registry may be there by now")
        }
        Acquisition::Failed { reason, message, at } => {
            let half = Half::say(Condition::Degraded, *reason, message.clone());
            let half =
                Half { outcome: Some((intent.entry.generation, Outcome::Failed(message.clone()))), ..half };
            match reason {
                Reason::ImageNotFound => half.look_again_at(at.after(GONE_FOR)),
                _ => half,
            }
        }
        Acquisition::Unavailable { retry_at, .. } if now >= *retry_at => {
            begin("the time to try again has come")
        }
        Acquisition::Unavailable { reason, message, retry_at } => {
            Half::say(Condition::Degraded, *reason, message.clone()).look_again_at(*retry_at)
        }
    }
}

fn begin(intent: &Intent, observed: &Observed, need: &Need, why: &str, now: Timestamp) -> Half {
    let (reason, what) = (progress_reason(need), words(intent));
    if observed.burst_since.is_some() {
        let begins = intent.entry.at.after(SETTLE);
        if now < begins {
            let message = format!("{what} is next, once pushes have settled");
            return Half::say(Condition::Progressing, reason, message).look_again_at(begins);
        }
    }
    if observed.superseded_job {
        // The cancelled job rings when it has ended; beginning before that would make two.
        return Half::say(Condition::Progressing, reason, format!("{what} is next"));
    }
    Half::say(Condition::Progressing, reason, format!("{} {what}", doing(need)))
        .then(Step::Acquire(need.clone()), why)
}

/// Whether recording `image` would change nothing.
fn is_recorded(intent: &Intent, image: &Image) -> bool {
    intent.entry.image.as_ref() == Some(image)
}

fn record(intent: &Intent, image: &Image) -> Half {
    let generation = intent.entry.generation;
    let is_other = intent.entry.image.as_ref().is_some_and(|recorded| !recorded.is_same(image));
    let (step, why) = if is_other {
        let step = Step::RecordRebuilt { generation, image: image.clone() };
        (step, "the recorded image was gone, and this was built from the same inputs")
    } else {
        (
            Step::RecordImage { generation, image: image.clone() },
            "this is what the generation turned out to be",
        )
    };
    Half::say(Condition::Progressing, Reason::Updating, format!("the image of {} is here", words(intent)))
        .then(step, why)
}

fn words(intent: &Intent) -> String {
    generation_words(intent.entry.generation, intent.entry.revision.as_ref())
}

fn what_is_missing(need: &Need) -> &'static str {
    match need {
        Need::Push { .. } => "the recorded image is not in its registry",
        _ => "the recorded image is not here",
    }
}

fn doing(need: &Need) -> &'static str {
    match need {
        Need::Push { .. } => "pushing",
        Need::Pull { .. } => "pulling",
        _ => "building",
    }
}

fn progress_reason(need: &Need) -> Reason {
    match need {
        Need::Pull { .. } => Reason::Pulling,
        Need::Push { .. } => Reason::Pushing,
        _ => Reason::Building,
    }
}
