//! Commits for display.

use super::fixture::{Kept, Origin, branch};
use crate::model::name::CommitId;

#[tokio::test]
async fn commits_are_described_and_unknown_ones_omitted() {
    let (origin, first) = Origin::with_one_commit();
    origin.git(&["commit", "-q", "--allow-empty", "-m", "Fix 修复 <b>\n\nThe body is not shown"]);
    let second = origin.id("HEAD");
    let kept = Kept::of(origin.remote());
    assert!(kept.mirror.commit_lines(std::slice::from_ref(&first)).await.is_err(), "there is no mirror yet");
    kept.mirror.ensure(&second, Some(&branch("master"))).await.unwrap();
    let nobodys = CommitId::new("e".repeat(40)).unwrap();
    let found = kept.mirror.commit_lines(&[second.clone(), nobodys.clone(), first.clone()]).await.unwrap();
    let subjects: Vec<_> =
        found.iter().map(|line| (&line.id, line.subject.as_str(), line.is_merge)).collect();
    assert_eq!(subjects[0], (&second, "Fix 修复 <b>", false));
    assert_eq!((subjects.len(), subjects[1].0), (2, &first));
    assert_eq!(found[0].author, "Ann");
    assert_eq!(kept.mirror.commit_lines(&[nobodys]).await.unwrap_or_default(), []);
}

#[tokio::test]
async fn a_comparison_lists_added_and_removed_commits() {
    let (origin, first) = Origin::with_one_commit();
    let old = origin.commit_file("old", "x");
    origin.git(&["reset", "-q", "--hard", first.as_str()]);
    let one = origin.commit_file("one", "x");
    let two = origin.commit_file("two", "x");
    origin.git(&["branch", "kept", old.as_str()]);
    let kept = Kept::of(origin.remote());
    kept.mirror.ensure(&old, None).await.unwrap();
    kept.mirror.ensure(&two, None).await.unwrap();
    let compared = kept.mirror.compare(&old, &two).await.unwrap();
    let ids = |lines: &[crate::model::commits::CommitLine]| {
        lines.iter().map(|line| line.id.clone()).collect::<Vec<_>>()
    };
    assert_eq!((compared.added_count, ids(&compared.added)), (2, vec![two.clone(), one]));
    assert_eq!((compared.removed_count, ids(&compared.removed)), (1, vec![old.clone()]));
    let same = kept.mirror.compare(&two, &two).await.unwrap();
    assert_eq!((same.added_count, same.removed_count), (0, 0));
    assert!(kept.mirror.compare(&old, &CommitId::new("e".repeat(40)).unwrap()).await.is_err());
}
