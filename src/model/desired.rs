//! The record's documents: what should run where, and how that came to be.

use serde::{Deserialize, Serialize};

use super::build::RecipeKey;
use super::name::{CommitId, Digest, EnvironmentName, Generation, InvalidName};
use super::reference::{ImageRepository, check_reference};
use super::status::Reason;
use super::time::Timestamp;

/// The record of one environment. One JSON document in the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Desired {
    /// The environment.
    pub environment: EnvironmentName,
    /// What should run now; generation zero where nothing was ever recorded.
    #[serde(flatten)]
    pub entry: Entry,
    /// The branch head that was last seen. A head that differs from it makes a generation; so a
    /// commit that a person chose stays until the branch really moves.
    #[serde(default)]
    pub head: Option<CommitId>,
    /// The head that made no generation because it touches none of the paths that concern the
    /// environment. It makes one once they are declared otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passed_over: Option<CommitId>,
    /// A push that was announced and not yet verified against the branch.
    #[serde(default)]
    pub hint: Option<Hint>,
    /// The digest of the followed tag that was last seen, likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<Digest>,
    /// A push of that tag that was announced and not yet verified with the registry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag_hint: Option<TagHint>,
    /// Since when an answer of git or the registry is awaited because someone asked for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked: Option<Timestamp>,
    /// Set while the environment keeps what it has.
    #[serde(default)]
    pub hold: Option<Hold>,
    /// When someone last said `sync`. Failures older than this are forgiven.
    #[serde(default)]
    pub sync: Option<Timestamp>,
    /// Images that failed and were rolled back from, the newest last, at most [`Self::BAD_KEPT`].
    /// None of them is tried again until a person names it.
    #[serde(default)]
    pub bad: Vec<Bad>,
    /// Set once a person asked to remove all that is recorded of the environment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forget: Option<Forget>,
}

/// A request to remove an environment that the manifest no longer declares.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forget {
    /// Whether to stop and remove its containers first. Volumes are kept.
    pub stop: bool,
    /// The requester.
    pub by: String,
    /// Time of the request.
    pub at: Timestamp,
}

impl Desired {
    /// How many bad images are remembered.
    pub const BAD_KEPT: usize = 20;

    /// The record of an environment for which nothing was ever recorded.
    pub fn empty(environment: EnvironmentName) -> Self {
        let entry = Entry::default();
        Self {
            environment,
            entry,
            head: None,
            passed_over: None,
            hint: None,
            tag: None,
            tag_hint: None,
            asked: None,
            hold: None,
            sync: None,
            bad: Vec::new(),
            forget: None,
        }
    }

    /// The generation that counts: the one that a hold keeps, else the newest. `None`: a hold keeps
    /// that nothing runs.
    pub fn wanted_generation(&self) -> Option<Generation> {
        match &self.hold {
            Some(hold) => hold.generation,
            None => Some(self.entry.generation),
        }
    }

    /// Every image that this names, with that of an earlier generation that it holds.
    pub fn images<'a>(&'a self, held: Option<&'a Entry>) -> impl Iterator<Item = &'a Image> {
        let entries = std::iter::once(&self.entry).chain(held);
        entries.filter_map(|entry| entry.image.as_ref()).chain(self.bad.iter().map(|bad| &bad.image))
    }

    /// Remembers that an image failed. One that failed before is remembered once, with the latest
    /// reason; beyond [`Self::BAD_KEPT`] the oldest is forgotten.
    pub fn mark_bad(&mut self, bad: Bad) {
        self.lift(&bad.image);
        self.bad.push(bad);
        let surplus = self.bad.len().saturating_sub(Self::BAD_KEPT);
        self.bad.drain(..surplus);
    }

    /// Forgets that `image` failed: a person wants it all the same.
    pub fn lift(&mut self, image: &Image) {
        self.bad.retain(|bad| !bad.image.is_same(image));
    }
}

/// One generation of an environment's record.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// One higher at every change.
    pub generation: Generation,
    /// The commit, where one is known.
    pub revision: Option<CommitId>,
    /// The image; `None` until the revision is built. Filling it in completes the generation and
    /// is no new one: the same wish, now named by its content.
    pub image: Option<Image>,
    /// How the manifest said to build when the image was built or named. A later edit is a
    /// difference; `None`: not known yet, so what the manifest says now counts as that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recipe: Option<RecipeKey>,
    /// Why the record moved.
    pub origin: Option<Origin>,
    /// Who moved it: a delivery's provider, a local user, a token.
    #[serde(default)]
    pub by: Option<String>,
    /// One clause for people, such as `from test generation 4`.
    #[serde(default)]
    pub note: Option<String>,
    /// When.
    pub at: Timestamp,
}

/// An image by content. At least one of `id` and `digest` is known.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Image {
    /// The name that it goes by, for people and for pulls; never what decides.
    pub reference: Option<String>,
    /// The manifest digest, where it is in a registry.
    pub digest: Option<Digest>,
    /// The image ID of the engine that built or pulled it.
    pub id: Option<Digest>,
}

impl Image {
    /// Whether its name can be one.
    ///
    /// # Errors
    /// [`InvalidName`], which states the rule.
    pub fn check_name(&self) -> Result<(), InvalidName> {
        self.reference.as_deref().map_or(Ok(()), check_reference)
    }

    /// Whether both name the same content, by digest where both have one, else by ID.
    pub fn is_same(&self, other: &Self) -> bool {
        match (&self.digest, &other.digest) {
            (Some(a), Some(b)) => a == b,
            _ => self.id.is_some() && self.id == other.id,
        }
    }

    /// The same image, by the name and digest that it has in a registry.
    #[must_use]
    pub fn pushed(self, repository: &ImageRepository, digest: &Digest) -> Self {
        Self { reference: Some(repository.to_string()), digest: Some(digest.clone()), ..self }
    }

    /// The digest for people: the ID where known, else the manifest digest.
    pub fn shown_digest(&self) -> Option<&Digest> {
        self.id.as_ref().or(self.digest.as_ref())
    }
}

/// An image that failed, and was rolled back from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bad {
    /// The image.
    pub image: Image,
    /// The generation that it failed as.
    pub generation: Generation,
    /// Its commit, where one is known.
    pub revision: Option<CommitId>,
    /// Why, in one word.
    pub reason: Reason,
    /// What happened, in a sentence, with the container's last output.
    pub message: String,
    /// When it was rolled back from.
    pub at: Timestamp,
}

/// Where an automatic rollback leads from and to, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GoBack {
    /// The generation that failed.
    pub from: Generation,
    /// The image that was good.
    pub image: Image,
    /// Its commit, where one is known.
    pub revision: Option<CommitId>,
    /// One clause for people.
    pub note: String,
    /// Why the generation failed, in one word.
    pub reason: Reason,
    /// Why, in a sentence, with the container's last output.
    pub message: String,
    /// When.
    pub at: Timestamp,
}

/// Why a record moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Origin {
    /// A webhook announced the commit.
    #[serde(rename = "push")]
    Push,
    /// Promoted from another environment.
    #[serde(rename = "promotion")]
    Promotion,
    /// A person named it.
    #[serde(rename = "set")]
    Set,
    /// A person went back.
    #[serde(rename = "rollback")]
    Rollback,
    /// The loop went back.
    #[serde(rename = "automatic rollback")]
    AutomaticRollback,
    /// The poll of the branch found it.
    #[serde(rename = "branch poll")]
    BranchPoll,
    /// A tag in a registry moved.
    #[serde(rename = "tag")]
    Tag,
    /// The recorded image was gone everywhere and was built again from the same inputs.
    #[serde(rename = "rebuild")]
    Rebuild,
    /// The manifest says otherwise how to build, and the recorded commit was built again.
    #[serde(rename = "manifest edit")]
    ManifestEdit,
}

impl Origin {
    /// The word for people, the same as in JSON.
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

    /// Whether a person named what the record moved to, rather than a branch or the loop itself.
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

/// A push as a webhook told it. Only a hint: the branch's head is asked of git.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hint {
    /// The commit that was announced.
    pub revision: CommitId,
    /// Who announced it, for `by`: `github (alice)`.
    pub by: String,
    /// When it was recorded.
    pub at: Timestamp,
}

/// A push of a followed tag as a registry told it. Only a hint: the registry is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TagHint {
    /// The digest that was announced.
    pub digest: Digest,
    /// Who announced it, for `by`: `registry (alice)`.
    pub by: String,
    /// When it was recorded.
    pub at: Timestamp,
}

/// Why an environment keeps what it has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// In a person's words.
    pub reason: String,
    /// Who said so.
    pub by: String,
    /// Since when.
    pub since: Timestamp,
    /// The generation that is kept; `None`: nothing ran when it was held, so nothing is started.
    pub generation: Option<Generation>,
}

/// What became of a generation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", content = "detail", rename_all = "snake_case")]
pub enum Outcome {
    /// It became ready.
    Ready,
    /// It failed; why.
    Failed(String),
    /// A newer one came before it was ready.
    Superseded,
}

/// A generation and what became of it, as history keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryEntry {
    /// The generation.
    #[serde(flatten)]
    pub entry: Entry,
    /// `None` while it is still under way.
    pub outcome: Option<Outcome>,
}
