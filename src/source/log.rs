//! Commits of a mirror for display. Only what the mirror has is read: nothing is fetched, and no lock is taken, so that
//! a long fetch does not delay a page.

use std::time::Duration;

use super::commit::shown;
use super::error::SourceError;
use super::mirror::GitMirror;
use crate::model::commits::{CommitLine, Comparison};
use crate::model::name::CommitId;
use crate::model::time::Timestamp;

/// The most commits of a list.
const MOST: &str = "--max-count=200";
/// How long git may take.
const LIMIT: Duration = Duration::from_secs(5);
/// Side, commit, parents, author, time, subject. Subjects and names have no line breaks.
const FORMAT: &str = "--format=%m%x00%H%x00%P%x00%an%x00%at%x00%s";
/// Settings of the user must not change the output, or run a program.
const PLAIN: [&str; 6] =
    ["--no-show-signature", "--no-mailmap", "--no-color", "--no-decorate", "--no-notes", "--no-patch"];

/// The side of a commit in a comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CommitSide {
    Old,
    New,
}

impl GitMirror {
    /// Returns the commits of `ids` that the mirror has.
    ///
    /// # Errors
    /// Returns [`SourceError`] if git fails, such as when the mirror does not exist yet.
    pub async fn commit_lines(&self, ids: &[CommitId]) -> Result<Vec<CommitLine>, SourceError> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let log = self.git("read commits").within(LIMIT).arg("log").args(PLAIN).arg(FORMAT);
        let log = log.args(["--no-walk=unsorted", "--ignore-missing", "--end-of-options"]);
        let output = log.args(ids.iter().map(CommitId::as_str)).run().await?.success()?;
        Ok(lines(&output).map(|(_, line)| line).filter(|line| ids.contains(&line.id)).collect())
    }

    /// Returns at most `most` commits from `head` along the first parents, newest first: the states that the branch
    /// itself had, without the commits of merged branches.
    ///
    /// # Errors
    /// Returns [`SourceError`] if the mirror does not have `head`.
    pub async fn first_parents(&self, head: &CommitId, most: usize) -> Result<Vec<CommitId>, SourceError> {
        let list = self.git("list commits").within(LIMIT).args(["rev-list", "--first-parent"]);
        let list = list.arg(format!("--max-count={most}")).args(["--end-of-options", head.as_str()]);
        let output = list.run().await?.success()?;
        Ok(String::from_utf8_lossy(&output).lines().filter_map(|line| CommitId::new(line).ok()).collect())
    }

    /// Returns the commits that only one of two versions contains.
    ///
    /// # Errors
    /// Returns [`SourceError`] if the mirror does not have both.
    pub async fn compare(&self, old: &CommitId, new: &CommitId) -> Result<Comparison, SourceError> {
        let range = format!("{old}...{new}");
        let count = self.git("count commits").within(LIMIT);
        let count = count.args(["rev-list", "--left-right", "--count", "--end-of-options", &range]);
        let counted = count.run().await?.success()?;
        let counted = String::from_utf8_lossy(&counted);
        let mut numbers =
            counted.split_whitespace().map(|number| number.parse::<usize>().unwrap_or_default());
        let (removed_count, added_count) =
            (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default());
        let of_side = async |side: &str| {
            let log = self.git("read commits").within(LIMIT).arg("log").args(PLAIN).args([FORMAT, MOST]);
            let log = log.args(["--left-right", side, "--end-of-options", &range]);
            let output = log.run().await?.success()?;
            Ok::<_, SourceError>(lines(&output).collect::<Vec<_>>())
        };
        let only = |found: Vec<(CommitSide, CommitLine)>, side| {
            found.into_iter().filter(|(of, _)| *of == side).map(|(_, line)| line).collect()
        };
        let (removed, added) = (of_side("--left-only").await?, of_side("--right-only").await?);
        Ok(Comparison {
            added: only(added, CommitSide::New),
            added_count,
            removed: only(removed, CommitSide::Old),
            removed_count,
        })
    }
}

/// Parses the output; leaves out lines that git cannot have written.
fn lines(output: &[u8]) -> impl Iterator<Item = (CommitSide, CommitLine)> {
    output.split(|byte| *byte == b'\n').filter_map(|line| {
        let text = String::from_utf8_lossy(line).into_owned();
        let mut fields = text.splitn(6, '\0');
        let side = if fields.next()? == "<" { CommitSide::Old } else { CommitSide::New };
        let id = CommitId::new(fields.next()?).ok()?;
        let is_merge = fields.next()?.contains(' ');
        let author = shown(fields.next()?);
        let seconds: u64 = fields.next()?.parse().unwrap_or_default();
        let at = Timestamp::from_millis(seconds.saturating_mul(1_000));
        let subject = shown(fields.next()?);
        Some((side, CommitLine { id, author, at, subject, is_merge }))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_line_is_parsed_and_a_hostile_subject_sanitized() {
        let id = "a".repeat(40);
        let output = format!(
            ">\0{id}\0p q\0A\u{202e} B\x001700000000\0<script>\u{1b}[31m\0x\nnonsense\n<\0{id}\0p\0\0-5\0\n"
        );
        let found: Vec<_> = lines(output.as_bytes()).collect();
        assert_eq!(found.len(), 2);
        let (side, line) = &found[0];
        assert_eq!((*side, line.is_merge, line.author.as_str()), (CommitSide::New, true, "A\u{fffd} B"));
        assert_eq!(line.subject, "<script>\u{fffd}[31m\u{fffd}x");
        assert_eq!((found[1].0, found[1].1.at), (CommitSide::Old, Timestamp::from_millis(0)));
    }
}
