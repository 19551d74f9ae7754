//! The commits of a branch that wait for their checks, or failed them.
//!
//! They have no generation, but the forge shows their state. The time of the first reading is kept too, so that a
//! restart does not give a commit without checks more time.

use super::draft::RecordDraft;
use super::error::RecordError;
use super::reader::DesiredReader;
use super::resolver::Resolver;
use super::store::{DocumentKind, RecordStore};
use crate::model::checks::AwaitedCommit;
use crate::model::name::{CommitId, EnvironmentName};

impl Resolver {
    /// Records the commits of the environment's branch that wait for their checks or failed them, newest first.
    /// They replace those that were recorded before.
    ///
    /// # Errors
    /// Returns [`RecordError`] if the write failed; nothing was recorded then.
    pub async fn note_awaited(
        &self,
        environment: &EnvironmentName,
        commits: Vec<AwaitedCommit>,
    ) -> Result<(), RecordError> {
        // Most readings change nothing, and need no write.
        if in_store(&self.shared.store, environment)? == commits {
            return Ok(());
        }
        let environment = environment.clone();
        self.shared.write(move |draft| put(draft, &environment, &commits)).await
    }
}

impl DesiredReader {
    /// The commits of the environment's branch that wait for their checks or failed them, newest first.
    ///
    /// # Errors
    /// Returns [`RecordError`] if the store cannot be read.
    pub fn awaited(&self, environment: &EnvironmentName) -> Result<Vec<AwaitedCommit>, RecordError> {
        in_store(self.store(), environment)
    }
}

/// Keeps only the commits that are newer than `accepted`, whose checks passed.
pub(super) fn settle(
    draft: &mut RecordDraft<'_>,
    environment: &EnvironmentName,
    accepted: &CommitId,
) -> Result<(), RecordError> {
    let mut commits = in_store(draft.store(), environment)?;
    if commits.is_empty() {
        return Ok(());
    }
    let newer = commits.iter().position(|commit| commit.revision == *accepted).unwrap_or_default();
    commits.truncate(newer);
    put(draft, environment, &commits)
}

/// The commits once the draft is written.
pub(super) fn pending(
    draft: &RecordDraft<'_>,
    environment: &EnvironmentName,
) -> Result<Vec<AwaitedCommit>, RecordError> {
    let found = draft.pending(DocumentKind::Awaited, environment.as_str().as_bytes())?;
    // An unreadable document must not block a write.
    Ok(found.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default())
}

fn put(
    draft: &mut RecordDraft<'_>,
    environment: &EnvironmentName,
    commits: &[AwaitedCommit],
) -> Result<(), RecordError> {
    let key = environment.as_str().as_bytes().to_vec();
    if commits.is_empty() {
        draft.remove(DocumentKind::Awaited, key);
        return Ok(());
    }
    draft.put(DocumentKind::Awaited, key, &commits)
}

fn in_store(store: &RecordStore, environment: &EnvironmentName) -> Result<Vec<AwaitedCommit>, RecordError> {
    let what = || format!("the commits of `{environment}` that wait for their checks");
    let found = store.document(DocumentKind::Awaited, environment.as_str().as_bytes(), what)?;
    Ok(found.unwrap_or_default())
}
