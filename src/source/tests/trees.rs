//! Properties of a checked-out tree.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;

use super::fixture::{COMMIT_TIME, Kept, Origin};
use crate::model::time::Timestamp;
use crate::source::{SourceError, TreeLimits};

#[tokio::test]
async fn a_checked_out_tree_has_its_files_links_modes_and_a_fixed_time() {
    let origin = Origin::new();
    origin.write("bin/run", "#!/bin/sh\n");
    origin.write("deep/er/data", "12345");
    fs::set_permissions(origin.path().join("bin/run"), fs::Permissions::from_mode(0o755)).unwrap();
    symlink("../deep/er/data", origin.path().join("bin/link")).unwrap();
    let commit = origin.commit("All of it\n\nand why");
    let kept = Kept::of(origin.remote());
    let tree = kept.mirror.check_out(&commit, &kept.tree()).await.unwrap();
    assert_eq!((tree.files, tree.bytes, tree.lfs_pointers), (3, 15, 0));
    assert_eq!((tree.subject.as_str(), tree.author.as_str()), ("All of it", "Ann"));
    assert_eq!(tree.commit_time, Timestamp::from_millis(COMMIT_TIME * 1000));

    let facts = |path: &str| {
        let metadata = fs::symlink_metadata(kept.tree().join(path)).unwrap();
        (metadata.mode() & 0o7777, metadata.mtime())
    };
    let time = i64::try_from(COMMIT_TIME).unwrap();
    assert_eq!(facts("bin/run"), (0o755, time));
    assert_eq!(facts("deep/er/data"), (0o644, time));
    assert_eq!(facts("deep/er"), (0o755, time));
    assert_eq!(facts(""), (0o755, time));
    assert_eq!(facts("bin/link").1, time);
    assert_eq!(fs::read_link(kept.tree().join("bin/link")).unwrap(), Path::new("../deep/er/data"));
    assert!(!kept.tree().join(".git").exists());
    let scratch = fs::read_dir(kept.dir()).unwrap().flatten();
    assert_eq!(scratch.filter(|e| e.file_name().to_string_lossy().contains("scratch")).count(), 0);
}

#[tokio::test]
async fn a_tree_matches_a_git_checkout_not_a_git_archive() {
    let origin = Origin::new();
    origin.write(
        ".gitattributes",
        "secret export-ignore\nversion export-subst\n*.bat text eol=crlf\nid ident\n",
    );
    origin.write("secret", "kept");
    origin.write("version", "$Format:%H$");
    origin.write("run.bat", "echo\r\n");
    origin.write("id", "$Id$");
    let commit = origin.commit("attributes");
    let kept = Kept::of(origin.remote());
    kept.mirror.check_out(&commit, &kept.tree()).await.unwrap();
    let read = |path: &str| fs::read_to_string(kept.tree().join(path)).unwrap();
    assert_eq!(read("secret"), "kept");
    assert_eq!(read("version"), "$Format:%H$");
    assert_eq!(read("run.bat"), "echo\r\n");
    assert!(read("id").starts_with("$Id: "));
}

#[tokio::test]
async fn a_tree_is_checked_out_only_into_an_empty_directory() {
    let (origin, commit) = Origin::with_one_commit();
    let kept = Kept::of(origin.remote());
    fs::create_dir(kept.tree()).unwrap();
    kept.mirror.check_out(&commit, &kept.tree()).await.unwrap();
    let error = kept.mirror.check_out(&commit, &kept.tree()).await.unwrap_err();
    assert!(matches!(error, SourceError::NotEmpty(_)), "{error:?}");
}

#[tokio::test]
async fn a_tree_exceeding_a_limit_is_rejected_before_writing() {
    let origin = Origin::new();
    origin.write("a/b/c", "123456");
    origin.write("d", "7");
    let commit = origin.commit("two");
    let exact = TreeLimits { files: 2, directories: 2, bytes: 7, depth: 3 };
    for (limits, what) in [
        (TreeLimits { files: 1, ..exact }, "1 files"),
        (TreeLimits { bytes: 6, ..exact }, "6 bytes"),
        (TreeLimits { directories: 1, ..exact }, "1 directories"),
        (TreeLimits { depth: 2, ..exact }, "2 directories"),
    ] {
        let kept = Kept::of(origin.remote());
        let mirror = kept.mirror.with_limits(limits);
        let into = kept.room.path().join("tree");
        let error = mirror.check_out(&commit, &into).await.unwrap_err();
        assert!(matches!(error, SourceError::TooLarge { .. }) && !error.is_transient(), "{error:?}");
        assert!(error.to_string().contains(what), "{error}");
        assert_eq!(fs::read_dir(into).unwrap().count(), 0);
    }
    let kept = Kept::of(origin.remote());
    let into = kept.tree();
    kept.mirror.with_limits(exact).check_out(&commit, &into).await.unwrap();
}

#[tokio::test]
async fn lfs_pointers_are_counted_if_lfs_is_disabled() {
    let origin = Origin::new();
    let id = "4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393";
    let pointer = format!("version https://git-lfs.github.com/spec/v1\noid sha256:{id}\nsize 12345\n");
    origin.write("big.bin", &pointer);
    origin.write("about.txt", "version https://git-lfs.github.com/spec/v2 is what we write about here\n");
    let commit = origin.commit("pointer");
    let kept = Kept::of(origin.remote());
    let tree = kept.mirror.check_out(&commit, &kept.tree()).await.unwrap();
    assert_eq!(tree.lfs_pointers, 1);
    assert_eq!(fs::read_to_string(kept.tree().join("big.bin")).unwrap(), pointer);
}

#[tokio::test]
async fn an_empty_tree_can_be_checked_out() {
    let origin = Origin::new();
    let commit = origin.commit("nothing yet");
    let kept = Kept::of(origin.remote());
    let tree = kept.mirror.check_out(&commit, &kept.tree()).await.unwrap();
    assert_eq!((tree.files, tree.bytes), (0, 0));
}

#[tokio::test]
async fn two_checkouts_of_a_commit_are_identical() {
    let (origin, _) = Origin::with_one_commit();
    let commit = origin.commit_file("x/y", "z");
    let kept = Kept::of(origin.remote());
    let facts = |into: &Path| {
        let of = |path: &str| {
            let metadata = fs::symlink_metadata(into.join(path)).unwrap();
            (metadata.mode(), metadata.mtime(), metadata.mtime_nsec(), metadata.len())
        };
        [of("hello"), of("x/y")]
    };
    let (one, two) = (kept.room.path().join("1"), kept.room.path().join("2"));
    kept.mirror.check_out(&commit, &one).await.unwrap();
    kept.mirror.check_out(&commit, &two).await.unwrap();
    assert_eq!(facts(&one), facts(&two));
}
