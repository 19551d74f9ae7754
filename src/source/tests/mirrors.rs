//! Mirrors: fetches, refusals and repairs.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::fixture::{Kept, Origin, branch};
use crate::model::name::CommitId;
use crate::source::{GitMirror, Remote, SourceError};

fn is_no_such_commit(done: Result<(), SourceError>) -> bool {
    matches!(done, Err(error @ SourceError::NoSuchCommit { .. }) if !error.is_transient())
}

#[tokio::test]
async fn a_commit_that_is_there_is_not_fetched_again() {
    let (origin, first) = Origin::with_one_commit();
    let second = origin.commit_file("more", "x");
    let kept = Kept::of(origin.remote());
    let master = branch("master");
    kept.mirror.ensure(&second, Some(&master)).await.unwrap();
    drop(origin);
    kept.mirror.ensure(&first, Some(&master)).await.unwrap();
    kept.mirror.ensure(&second, None).await.unwrap();
    kept.mirror.check_out(&first, &kept.tree()).await.unwrap();
}

#[tokio::test]
async fn a_new_commit_is_fetched_into_the_existing_mirror() {
    let (origin, first) = Origin::with_one_commit();
    let kept = Kept::of(origin.remote());
    kept.mirror.ensure(&first, Some(&branch("master"))).await.unwrap();
    fs::write(kept.dir().join("witness"), "").unwrap();
    let second = origin.commit_file("more", "x");
    kept.mirror.ensure(&second, Some(&branch("master"))).await.unwrap();
    assert!(kept.dir().join("witness").exists(), "it was made anew");
}

#[tokio::test]
async fn a_mirrored_commit_of_another_branch_is_not_accepted() {
    let (origin, first) = Origin::with_one_commit();
    origin.git(&["switch", "-q", "-c", "other"]);
    let other = origin.commit_file("more", "x");
    let kept = Kept::of(origin.remote());
    kept.mirror.ensure(&other, Some(&branch("other"))).await.unwrap();
    assert!(is_no_such_commit(kept.mirror.ensure(&other, Some(&branch("master"))).await));
    kept.mirror.ensure(&first, Some(&branch("master"))).await.unwrap();
    kept.mirror.ensure(&other, None).await.unwrap();
}

#[tokio::test]
async fn a_commit_of_a_fork_is_refused_although_the_server_would_serve_it() {
    let (origin, _) = Origin::with_one_commit();
    let foreign = origin.git(&["commit-tree", "-m", "fork", "HEAD^{tree}"]);
    origin.git(&["update-ref", "refs/pull/1/head", &foreign]);
    origin.git(&["config", "uploadpack.allowAnySHA1InWant", "true"]);
    let foreign = CommitId::new(foreign).unwrap();
    let kept = Kept::of(origin.remote());
    assert!(is_no_such_commit(kept.mirror.ensure(&foreign, Some(&branch("master"))).await));
    assert!(is_no_such_commit(kept.mirror.ensure(&foreign, None).await));
    let checked_out = kept.mirror.check_out(&foreign, &kept.tree()).await.map(drop);
    assert!(is_no_such_commit(checked_out));
    assert!(!kept.tree().exists());
}

#[tokio::test]
async fn ids_of_tags_trees_and_files_are_not_accepted_as_commits() {
    let (origin, commit) = Origin::with_one_commit();
    origin.git(&["tag", "-a", "-m", "x", "v1"]);
    let kept = Kept::of(origin.remote());
    kept.mirror.ensure(&commit, None).await.unwrap();
    for other in ["refs/tags/v1", "HEAD^{tree}", "HEAD:hello"] {
        assert!(is_no_such_commit(kept.mirror.ensure(&origin.id(other), None).await), "{other}");
    }
}

#[tokio::test]
async fn a_commit_removed_by_a_force_push_is_no_longer_accepted() {
    let (origin, first) = Origin::with_one_commit();
    let gone = origin.commit_file("mistake", "x");
    let kept = Kept::of(origin.remote());
    let master = branch("master");
    kept.mirror.ensure(&gone, Some(&master)).await.unwrap();
    origin.git(&["reset", "-q", "--hard", first.as_str()]);
    let new = origin.commit_file("better", "y");
    kept.mirror.ensure(&new, Some(&master)).await.unwrap();
    assert!(is_no_such_commit(kept.mirror.ensure(&gone, Some(&master)).await));
}

#[tokio::test]
async fn a_missing_branch_is_reported() {
    let (origin, _) = Origin::with_one_commit();
    let kept = Kept::of(origin.remote());
    let commit = CommitId::new("a".repeat(40)).unwrap();
    let error = kept.mirror.ensure(&commit, Some(&branch("gone"))).await.unwrap_err();
    assert!(matches!(error, SourceError::NoSuchBranch { .. }), "{error:?}");
    assert!(!error.is_transient());
}

#[tokio::test]
async fn a_branch_may_be_replaced_by_a_folder_of_branches() {
    let (origin, first) = Origin::with_one_commit();
    origin.git(&["branch", "x"]);
    let kept = Kept::of(origin.remote());
    kept.mirror.ensure(&first, Some(&branch("x"))).await.unwrap();
    kept.mirror.ensure(&first, None).await.unwrap();
    origin.git(&["branch", "-D", "x"]);
    let second = origin.commit_file("more", "x");
    origin.git(&["branch", "x/y"]);
    kept.mirror.ensure(&second, None).await.unwrap();
    kept.mirror.ensure(&second, Some(&branch("x/y"))).await.unwrap();
}

#[tokio::test]
async fn a_mirror_of_another_remote_is_recreated() {
    let (one, of_one) = Origin::with_one_commit();
    let two = Origin::new();
    let of_two = two.commit_file("other", "y");
    let kept = Kept::of(one.remote());
    kept.mirror.ensure(&of_one, None).await.unwrap();
    let moved = GitMirror::open(kept.dir(), two.remote());
    moved.ensure(&of_two, None).await.unwrap();
    assert!(is_no_such_commit(moved.ensure(&of_one, None).await));
}

#[tokio::test]
async fn a_repository_with_sha256_ids_is_mirrored_as_well() {
    let origin = Origin { dir: tempfile::tempdir().unwrap() };
    origin.git(&["init", "-q", "-b", "master", "--object-format=sha256", "."]);
    let commit = origin.commit_file("hello", "x");
    let kept = Kept::of(origin.remote());
    kept.mirror.ensure(&commit, Some(&branch("master"))).await.unwrap();
    let short = CommitId::new("a".repeat(40)).unwrap();
    assert!(is_no_such_commit(kept.mirror.ensure(&short, None).await));
    kept.mirror.check_out(&commit, &kept.tree()).await.unwrap();
}

#[tokio::test]
async fn a_shallow_repository_is_mirrored_up_to_its_boundary() {
    let (origin, first) = Origin::with_one_commit();
    let second = origin.commit_file("more", "x");
    let room = tempfile::tempdir().unwrap();
    let url = format!("file://{}", origin.url());
    origin.git(&["clone", "-q", "--depth=1", &url, room.path().join("s").to_str().unwrap()]);
    let kept = Kept::of(Remote::new(room.path().join("s").to_str().unwrap()).unwrap());
    kept.mirror.ensure(&second, Some(&branch("master"))).await.unwrap();
    assert!(is_no_such_commit(kept.mirror.ensure(&first, Some(&branch("master"))).await));
}

fn packs(mirror: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(mirror.join("objects/pack")).unwrap();
    entries.map(|e| e.unwrap().path()).filter(|p| p.extension().is_some_and(|e| e == "pack")).collect()
}

/// Truncates the packs of a mirror to `part` percent.
fn cut_packs(mirror: &Path, part: u64) {
    for pack in packs(mirror) {
        let length = fs::metadata(&pack).unwrap().len();
        fs::remove_file(pack.with_extension("rev")).ok();
        let bytes = fs::read(&pack).unwrap();
        fs::remove_file(&pack).unwrap();
        fs::write(&pack, &bytes[..usize::try_from(length * part / 100).unwrap()]).unwrap();
    }
}

fn noise(seed: u64) -> String {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        format!("{state:x}")
    };
    (0..2000).map(|_| next()).collect()
}

#[tokio::test]
async fn a_mirror_with_truncated_packs_is_recreated() {
    for part in [0, 10, 50, 99] {
        let origin = Origin::new();
        for number in 0..5 {
            origin.commit_file(&format!("file{number}"), &noise(number));
        }
        let kept = Kept::of(origin.remote());
        let commit = origin.id("HEAD");
        kept.mirror.ensure(&commit, Some(&branch("master"))).await.unwrap();
        cut_packs(&kept.dir(), part);
        let tree = kept.mirror.check_out(&commit, &kept.tree()).await;
        assert_eq!(tree.unwrap_or_else(|e| panic!("{part}: {e:?}")).files, 5);

        cut_packs(&kept.dir(), part);
        let next = origin.commit_file("next", "x");
        let done = kept.mirror.ensure(&next, Some(&branch("master"))).await;
        done.unwrap_or_else(|e| panic!("{part}: {e:?}"));
    }
}

#[tokio::test]
async fn a_mirror_with_missing_files_is_repaired() {
    let (origin, commit) = Origin::with_one_commit();
    let kept = Kept::of(origin.remote());
    for lost in ["HEAD", "config", "objects", "refs", "abide-mirror", "packed-refs", ""] {
        kept.mirror.ensure(&commit, Some(&branch("master"))).await.unwrap();
        let path = kept.dir().join(lost);
        if path.is_dir() {
            fs::remove_dir_all(path).unwrap();
        } else {
            fs::remove_file(path).ok();
        }
        kept.mirror
            .ensure(&commit, Some(&branch("master")))
            .await
            .unwrap_or_else(|e| panic!("{lost}: {e:?}"));
        let into = kept.room.path().join(format!("tree{lost}"));
        kept.mirror.check_out(&commit, &into).await.unwrap_or_else(|e| panic!("{lost}: {e:?}"));
    }
    fs::remove_dir_all(kept.dir()).unwrap();
    fs::write(kept.dir(), "a file in its place").unwrap();
    kept.mirror.ensure(&commit, None).await.unwrap();
}

#[tokio::test]
async fn a_mirror_with_corrupt_files_is_repaired() {
    let (origin, commit) = Origin::with_one_commit();
    for broken in ["HEAD", "config", "packed-refs", "abide-mirror", "objects/info/alternates", "shallow"] {
        let kept = Kept::of(origin.remote());
        kept.mirror.ensure(&commit, Some(&branch("master"))).await.unwrap();
        fs::create_dir_all(kept.dir().join("objects/info")).unwrap();
        fs::write(kept.dir().join(broken), "\0garbage [").unwrap();
        let into = kept.tree();
        kept.mirror.check_out(&commit, &into).await.unwrap_or_else(|e| panic!("{broken}: {e:?}"));
    }
}

#[tokio::test]
async fn leftover_files_of_a_killed_git_are_removed() {
    let (origin, first) = Origin::with_one_commit();
    let kept = Kept::of(origin.remote());
    kept.mirror.ensure(&first, Some(&branch("master"))).await.unwrap();
    let kept_ref = fs::read_dir(kept.dir().join("refs/abide")).unwrap().next().unwrap().unwrap().path();
    let leftovers = [
        kept.dir().join("index.lock"),
        kept.dir().join("shallow.lock"),
        kept.dir().join("packed-refs.lock"),
        kept.dir().join("config.lock"),
        kept_ref.with_extension("lock"),
        kept.dir().join("objects/pack/tmp_pack_AbCdEf"),
        kept.dir().join("abide-scratch-x/index.lock"),
    ];
    for path in &leftovers {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "").unwrap();
    }
    fs::write(kept.dir().join("witness"), "").unwrap();
    let second = origin.commit_file("more", "x");
    kept.mirror.ensure(&second, Some(&branch("master"))).await.unwrap();
    assert!(leftovers.iter().all(|path| !path.exists()));
    assert!(kept.dir().join("witness").exists(), "that needs no new mirror");
}

#[tokio::test]
async fn concurrent_checkouts_of_a_mirror_take_turns() {
    let origin = Origin::new();
    let commits: Vec<_> = (0..6).map(|n| origin.commit_file("f", &n.to_string())).collect();
    let kept = Kept::of(origin.remote());
    let mirror = Arc::new(GitMirror::open(kept.dir(), origin.remote()));
    let tasks: Vec<_> = (0..12)
        .map(|n| {
            let (mirror, commit) = (Arc::clone(&mirror), commits[n % 6].clone());
            let into = kept.room.path().join(format!("tree{n}"));
            tokio::spawn(async move {
                mirror.check_out(&commit, &into).await.map(|_| fs::read_to_string(into.join("f")))
            })
        })
        .collect();
    for (n, task) in tasks.into_iter().enumerate() {
        assert_eq!(task.await.unwrap().unwrap().unwrap(), (n % 6).to_string());
    }
}

#[tokio::test]
async fn a_mirror_is_repacked_after_many_fetches() {
    let (origin, first) = Origin::with_one_commit();
    let kept = Kept::of(origin.remote());
    kept.mirror.ensure(&first, Some(&branch("master"))).await.unwrap();
    for number in 0..52 {
        let commit = origin.commit_file("f", &number.to_string());
        kept.mirror.ensure(&commit, Some(&branch("master"))).await.unwrap();
    }
    assert!(packs(&kept.dir()).len() < 10, "{}", packs(&kept.dir()).len());
    kept.mirror.check_out(&first, &kept.tree()).await.unwrap();
}
