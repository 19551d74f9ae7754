//! The record's documents: the desired state and its history.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::build::RecipeKey;
use super::canary::CanaryOrder;
use super::name::{AgentName, CommitId, Digest, EnvironmentName, Generation, InvalidName, TokenId};
use super::reference::{ImageRepository, check_reference};
use super::status::Reason;
use super::time::Timestamp;

/// The record of one environment. One JSON document in the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Desired {
    /// The environment.
    pub environment: EnvironmentName,
    /// The desired state; generation zero if nothing was ever recorded.
    #[serde(flatten)]
    pub entry: Entry,
    /// The last observed branch head. A different head makes a generation, so a commit that an operator chose
    /// stays until the branch moves.
    #[serde(default)]
    pub head: Option<CommitId>,
    /// The head that made no generation because it changes none of the environment's declared paths. It makes
    /// one once other paths are declared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passed_over: Option<CommitId>,
    /// An announced push that is not yet verified against the branch.
    #[serde(default)]
    pub hint: Option<Hint>,
    /// Announced pushes that git shows and whose checks have not passed yet, oldest first, at most
    /// [`Self::UNCHECKED_KEPT`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unchecked: Vec<Hint>,
    /// Announced pushes without a generation, because another push came first. A later generation
    /// contains them. Oldest first, at most [`Self::OVERTAKEN_KEPT`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub overtaken: Vec<OvertakenPush>,
    /// The last observed digest of the tracked tag, with the same rule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<Digest>,
    /// The last answer about the tag, if the pull policy limits how often abide asks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked_tag: Option<AskedTag>,
    /// An announced push of that tag that is not yet verified with the registry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag_hint: Option<TagHint>,
    /// The time of a pending request for an answer of git or the registry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked: Option<Timestamp>,
    /// Set while the environment is held.
    #[serde(default)]
    pub hold: Option<Hold>,
    /// Set while the proxy answers for the environment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub maintenance: Option<Maintenance>,
    /// The last decision of a person about a canary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary_order: Option<CanaryOrder>,
    /// The time of the last `sync`. It clears older failures.
    #[serde(default)]
    pub sync: Option<Timestamp>,
    /// Images that failed and were rolled back from, newest last, at most [`Self::BAD_KEPT`]. None of them is
    /// tried again until an operator names it.
    #[serde(default)]
    pub bad: Vec<Bad>,
    /// Set once an operator requested to remove everything recorded of the environment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forget: Option<Forget>,
}

/// A request to remove an environment that the manifest no longer declares, or the containers that a
/// declared environment left on other hosts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forget {
    /// Whether to stop and remove its containers first. Volumes are kept.
    pub stop: bool,
    /// The hosts to clear of a declared environment, which keeps its record; `None`: the environment is not
    /// declared, and is removed everywhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left: Option<LeftOn>,
    /// The requester.
    pub by: String,
    /// Time of the request.
    pub at: Timestamp,
}

/// Hosts that a declared environment left containers on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOn {
    /// Whether the controller's host is one of them.
    pub here: bool,
    /// The agents on the others.
    pub agents: BTreeSet<AgentName>,
}

impl LeftOn {
    /// The same without the host that runs the environment now: `None` is the controller's host.
    #[must_use]
    pub fn without(mut self, host: Option<&AgentName>) -> Self {
        match host {
            None => self.here = false,
            Some(agent) => drop(self.agents.remove(agent)),
        }
        self
    }
}

impl Desired {
    /// The maximum number of bad images that are kept.
    pub const BAD_KEPT: usize = 20;
    /// The maximum number of announced pushes that wait for their checks.
    pub const UNCHECKED_KEPT: usize = 20;
    /// The maximum number of pushes that are kept without a generation.
    pub const OVERTAKEN_KEPT: usize = 50;

    /// The record of an environment without any recorded change.
    pub fn empty(environment: EnvironmentName) -> Self {
        let entry = Entry::default();
        Self {
            environment,
            entry,
            head: None,
            passed_over: None,
            hint: None,
            unchecked: Vec::new(),
            overtaken: Vec::new(),
            tag: None,
            asked_tag: None,
            tag_hint: None,
            asked: None,
            hold: None,
            maintenance: None,
            canary_order: None,
            sync: None,
            bad: Vec::new(),
            forget: None,
        }
    }

    /// The generation in effect: the held one, else the newest. Returns `None` if the hold keeps an
    /// environment in which nothing runs.
    pub fn wanted_generation(&self) -> Option<Generation> {
        match &self.hold {
            Some(hold) => hold.generation,
            None => Some(self.entry.generation),
        }
    }

    /// Every image of this record, including the one of the generation `held`.
    pub fn images<'a>(&'a self, held: Option<&'a Entry>) -> impl Iterator<Item = &'a Image> {
        let entries = std::iter::once(&self.entry).chain(held);
        entries.filter_map(|entry| entry.image.as_ref()).chain(self.bad.iter().map(|bad| &bad.image))
    }

    /// Records that an image failed. A repeated failure replaces the old entry. Beyond [`Self::BAD_KEPT`],
    /// the oldest entry is removed.
    pub fn mark_bad(&mut self, bad: Bad) {
        self.lift(&bad.image);
        self.bad.push(bad);
        let surplus = self.bad.len().saturating_sub(Self::BAD_KEPT);
        self.bad.drain(..surplus);
    }

    /// Records a push that makes no generation. Beyond [`Self::OVERTAKEN_KEPT`], the person with the most
    /// of them loses the oldest one, so a burst of one person hides nobody else.
    pub fn overtake(&mut self, by: &str, at: Timestamp) {
        self.overtaken.push(OvertakenPush { by: by.to_owned(), at });
        if self.overtaken.len() > Self::OVERTAKEN_KEPT {
            let count = |by: &str| self.overtaken.iter().filter(|push| push.by == by).count();
            let most = self.overtaken.iter().map(|push| count(&push.by)).max();
            let oldest = self.overtaken.iter().position(|push| Some(count(&push.by)) == most);
            oldest.map(|at| self.overtaken.remove(at));
        }
    }

    /// Whether this slot of replicas lacks the image of `first`, the entry of their first slot, and may have it. An
    /// image that failed here is given again only if an operator named it.
    pub fn lacks_image_of(&self, first: &Entry) -> bool {
        let Some(image) = &first.image else { return false };
        let is_on_purpose = first.origin.is_some_and(Origin::is_on_purpose);
        let is_bad = self.bad.iter().any(|bad| bad.image.is_same(image));
        let has_it = self.entry.image.as_ref().is_some_and(|own| own.is_same(image));
        !has_it && (is_on_purpose || !is_bad)
    }

    /// Removes `image` from the bad images, because an operator wants it all the same.
    pub fn lift(&mut self, image: &Image) {
        self.bad.retain(|bad| !bad.image.is_same(image));
    }
}

/// One generation of an environment's record.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The number, which rises by one with every change.
    pub generation: Generation,
    /// The commit, if known.
    pub revision: Option<CommitId>,
    /// The image; `None` until the revision is built. Recording the image completes the generation without
    /// creating a new one.
    pub image: Option<Image>,
    /// The manifest's recipe when the image was built or named. A later edit is a difference. `None`: not
    /// known yet, so the manifest's current recipe counts as recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recipe: Option<RecipeKey>,
    /// The reason of the change.
    pub origin: Option<Origin>,
    /// The author of the change: a delivery's provider, a local user, a token.
    #[serde(default)]
    pub by: Option<String>,
    /// The token of the author, if one was used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<TokenId>,
    /// One clause for people, such as `from test generation 4`.
    #[serde(default)]
    pub note: Option<String>,
    /// The time of the change.
    pub at: Timestamp,
    /// The members of the group that changed in the same write, this one included, with their generations; empty
    /// if no other did. If one of them fails, all of them go back.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub together: BTreeMap<EnvironmentName, Generation>,
}

/// An image by content. At least one of `id` and `digest` is known.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Image {
    /// Its name, for people and for pulls. Never decides anything.
    pub reference: Option<String>,
    /// The manifest digest, if a registry has the image.
    pub digest: Option<Digest>,
    /// The image ID of the engine that built or pulled it.
    pub id: Option<Digest>,
}

impl Image {
    /// Checks whether the name is valid for an image.
    ///
    /// # Errors
    /// Returns [`InvalidName`], which states the rule.
    pub fn check_name(&self) -> Result<(), InvalidName> {
        self.reference.as_deref().map_or(Ok(()), check_reference)
    }

    /// Whether both are the same content, by digest if both have one, else by ID.
    pub fn is_same(&self, other: &Self) -> bool {
        match (&self.digest, &other.digest) {
            (Some(a), Some(b)) => a == b,
            _ => self.id.is_some() && self.id == other.id,
        }
    }

    /// Whether `digest` names the image, as its ID or in a registry.
    pub fn has_digest(&self, digest: &Digest) -> bool {
        self.id.as_ref() == Some(digest) || self.digest.as_ref() == Some(digest)
    }

    /// The same image, with its name and digest in a registry.
    #[must_use]
    pub fn pushed(self, repository: &ImageRepository, digest: &Digest) -> Self {
        Self { reference: Some(repository.to_string()), digest: Some(digest.clone()), ..self }
    }

    /// The digest to display: the ID if known, else the manifest digest.
    pub fn shown_digest(&self) -> Option<&Digest> {
        self.id.as_ref().or(self.digest.as_ref())
    }
}

/// An image that failed, and was rolled back from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bad {
    /// The image.
    pub image: Image,
    /// The generation in which it failed.
    pub generation: Generation,
    /// Its commit, if known.
    pub revision: Option<CommitId>,
    /// The reason, as one word.
    pub reason: Reason,
    /// The failure as a sentence, with the container's last output.
    pub message: String,
    /// The time of the rollback.
    pub at: Timestamp,
}

/// An automatic rollback: its start, its target and its reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RollbackRequest {
    /// The generation that failed.
    pub from: Generation,
    /// The good image to return to.
    pub image: Image,
    /// Its commit, if known.
    pub revision: Option<CommitId>,
    /// One clause for people.
    pub note: String,
    /// The reason of the failure, as one word.
    pub reason: Reason,
    /// The reason as a sentence, with the container's last output.
    pub message: String,
    /// The time of the rollback.
    pub at: Timestamp,
}

/// The origin of a change of the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Origin {
    /// A webhook announced the commit.
    #[serde(rename = "push")]
    Push,
    /// Promoted from another environment.
    #[serde(rename = "promotion")]
    Promotion,
    /// An operator named it.
    #[serde(rename = "set")]
    Set,
    /// An operator rolled back.
    #[serde(rename = "rollback")]
    Rollback,
    /// The reconcile loop rolled back.
    #[serde(rename = "automatic rollback")]
    AutomaticRollback,
    /// The poll of the branch found it.
    #[serde(rename = "branch poll")]
    BranchPoll,
    /// A tag in a registry changed.
    #[serde(rename = "tag")]
    Tag,
    /// The recorded image was lost everywhere and was built again from the same inputs.
    #[serde(rename = "rebuild")]
    Rebuild,
    /// The manifest's recipe changed, and the recorded commit was built again.
    #[serde(rename = "manifest edit")]
    ManifestEdit,
}

impl Origin {
    /// The word to display, as in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Push => "push",
            Self::Promotion => "promotion",
            Self::Set => "set",
            Self::Rollback => "rollback",
            Self::AutomaticRollback => "automatic rollback",
            Self::BranchPoll => "branch poll",
            Self::Tag => "tag",
            Self::Rebuild => "rebuild",
            Self::ManifestEdit => "manifest edit",
        }
    }

    /// Whether an operator named the target of the change, as opposed to a branch or the loop itself.
    pub fn is_on_purpose(self) -> bool {
        match self {
            Self::Promotion | Self::Set | Self::Rollback => true,
            Self::Push
            | Self::BranchPoll
            | Self::Tag
            | Self::Rebuild
            | Self::ManifestEdit
            | Self::AutomaticRollback => false,
        }
    }
}

/// A push that a webhook announced. Only a hint: abide asks git for the branch's head.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hint {
    /// The announced commit.
    pub revision: CommitId,
    /// The announcer, for `by`: `github (alice)`.
    pub by: String,
    /// The time of recording.
    pub at: Timestamp,
}

/// An announced push without a generation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OvertakenPush {
    /// The announcer, as in [`Hint::by`].
    pub by: String,
    /// The time of the announcement.
    pub at: Timestamp,
}

/// A push of a tracked tag that a registry announced. Only a hint: abide asks the registry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TagHint {
    /// The announced digest.
    pub digest: Digest,
    /// The announcer, for `by`: `registry (alice)`.
    pub by: String,
    /// The time of recording.
    pub at: Timestamp,
}

/// An answer of a registry about a tag.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AskedTag {
    /// The tag with its repository, as the manifest declared it.
    pub image: String,
    /// The time of the request.
    pub at: Timestamp,
}

/// A hold of an environment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// The operator's reason.
    pub reason: String,
    /// The operator.
    pub by: String,
    /// The start of the hold.
    pub since: Timestamp,
    /// The held generation; `None`: nothing ran at the start of the hold, so nothing is started.
    pub generation: Option<Generation>,
}

/// A time in which the proxy answers requests itself instead of passing them on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Maintenance {
    /// The operator's reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The operator.
    pub by: String,
    /// Its start.
    pub since: Timestamp,
}

/// The outcome of a generation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", content = "detail", rename_all = "snake_case")]
pub enum Outcome {
    /// It became ready.
    Ready,
    /// It failed, with the reason.
    Failed(String),
    /// A newer generation came before it was ready.
    Superseded,
}

impl HistoryEntry {
    /// The newest generation in `history` before `current` that became ready with another image, and that image.
    pub fn last_good<'a>(history: &'a [Self], current: &Entry) -> Option<(&'a Entry, &'a Image)> {
        let is_other = |image: &&Image| current.image.as_ref().is_none_or(|current| !current.is_same(image));
        let earlier = history.iter().filter(|kept| kept.entry.generation < current.generation);
        let good = earlier.filter(|kept| kept.outcome == Some(Outcome::Ready));
        let with_image = good.filter_map(|kept| Some((&kept.entry, kept.entry.image.as_ref()?)));
        // The history has the newest first.
        with_image.filter(|(_, image)| is_other(image)).max_by_key(|(entry, _)| entry.generation)
    }
}

/// A generation and its outcome, as stored in history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryEntry {
    /// The generation.
    #[serde(flatten)]
    pub entry: Entry,
    /// The outcome; `None` while in progress.
    pub outcome: Option<Outcome>,
}
