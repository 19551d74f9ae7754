//! Repositories that are made to do harm.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::symlink;
use std::path::Path;

use super::fixture::{Kept, Origin, branch};
use crate::model::name::CommitId;
use crate::source::SourceError;

#[tokio::test]
async fn links_out_of_the_tree_stay_links_and_are_not_followed() {
    let origin = Origin::new();
    let outside = tempfile::tempdir().unwrap();
    let victim = outside.path().join("victim");
    fs::write(&victim, "untouched").unwrap();
    symlink(&victim, origin.path().join("file")).unwrap();
    symlink(outside.path(), origin.path().join("dir")).unwrap();
    symlink("loop", origin.path().join("loop")).unwrap();
    symlink("../../../../etc/passwd", origin.path().join("up")).unwrap();
    let commit = origin.commit("links");
    let before = fs::metadata(&victim).unwrap().modified().unwrap();
    let kept = Kept::of(origin.remote());
    let tree = kept.mirror.check_out(&commit, &kept.tree()).await.unwrap();
    assert_eq!((tree.files, tree.bytes), (4, 0));
    for (link, target) in [("file", victim.as_path()), ("dir", outside.path()), ("loop", Path::new("loop"))] {
        assert_eq!(fs::read_link(kept.tree().join(link)).unwrap(), target);
    }
    assert_eq!(fs::metadata(&victim).unwrap().modified().unwrap(), before);
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 1);
}

#[tokio::test]
async fn a_tree_that_writes_through_its_own_link_is_refused() {
    let origin = Origin::new();
    let outside = tempfile::tempdir().unwrap();
    let file = origin.blob(b"harm");
    let link = origin.blob(outside.path().as_os_str().as_bytes());
    let dir = origin.raw_tree(&[("100644", b"harm", &file)]);
    let commit = origin.commit_raw_tree(&[("120000", b"a", &link), ("40000", b"a", &dir)]);
    let kept = Kept::of(origin.remote());
    let error = kept.mirror.check_out(&commit, &kept.tree()).await.unwrap_err();
    assert!(matches!(error, SourceError::Refused { .. }) && !error.is_transient(), "{error:?}");
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn trees_with_git_or_parent_directory_names_are_rejected() {
    for name in [".git", ".GIT", "..", ".", "git~1", ".git ", "a/b"] {
        let origin = Origin::new();
        let file = origin.blob(b"#!/bin/sh\ntouch harm\n");
        let dir = origin.raw_tree(&[("100755", b"post-checkout", &file)]);
        let commit = origin.commit_raw_tree(&[("40000", name.as_bytes(), &dir)]);
        let kept = Kept::of(origin.remote());
        let error = kept.mirror.check_out(&commit, &kept.tree()).await.unwrap_err();
        assert!(matches!(error, SourceError::Refused { .. }), "{name}: {error:?}");
        assert!(!kept.tree().exists(), "{name}");
    }
}

#[tokio::test]
async fn files_with_odd_names_are_checked_out() {
    let names: [&[u8]; 8] = [
        b"new\nline",
        b"tab\tand \"quote\"",
        b"back\\slash",
        b"\xff\xfe not text",
        b"--upload-pack=touch x;",
        b"$(touch x)",
        b" ",
        "\u{202e}txt.exe".as_bytes(),
    ];
    let origin = Origin::new();
    for name in names {
        origin.write(OsStr::from_bytes(name), name);
    }
    let longest = "n".repeat(255);
    origin.write(&longest, &longest);
    let deep = "d/".repeat(100) + "x";
    origin.write(&deep, "deep");
    let commit = origin.commit("odd");
    let kept = Kept::of(origin.remote());
    let tree = kept.mirror.check_out(&commit, &kept.tree()).await.unwrap();
    assert_eq!(tree.files, 10);
    for name in names {
        assert_eq!(fs::read(kept.tree().join(OsStr::from_bytes(name))).unwrap(), name);
    }
    assert_eq!(fs::read_to_string(kept.tree().join(deep)).unwrap(), "deep");
}

#[tokio::test]
async fn an_overlong_file_name_is_a_permanent_failure_naming_it() {
    let origin = Origin::new();
    let file = origin.blob(b"x");
    let name = "n".repeat(300);
    let commit = origin.commit_raw_tree(&[("100644", name.as_bytes(), &file)]);
    let kept = Kept::of(origin.remote());
    let error = kept.mirror.check_out(&commit, &kept.tree()).await.unwrap_err();
    assert!(matches!(error, SourceError::Unusable { .. }) && !error.is_transient(), "{error:?}");
    assert!(error.to_string().contains("nnnn"));
}

/// A tree of `wide` to the power of `deep` directories, of a few objects. There is no file in it.
fn empty_directories(origin: &Origin, wide: usize, deep: usize) -> CommitId {
    let names: Vec<_> = (0..wide).map(|n| format!("d{n:02}")).collect();
    let mut object = origin.raw_tree(&[]);
    for _ in 0..deep {
        let entries: Vec<_> = names.iter().map(|name| ("40000", name.as_bytes(), object.as_str())).collect();
        object = origin.raw_tree(&entries);
    }
    origin.commit_tree(&object)
}

#[tokio::test]
async fn a_tree_bomb_of_empty_directories_is_rejected() {
    let origin = Origin::new();
    let first = empty_directories(&origin, 19, 10);
    let commit = empty_directories(&origin, 20, 10);
    let kept = Kept::of(origin.remote());
    let error = kept.mirror.check_out(&commit, &kept.tree()).await.unwrap_err();
    let expected = matches!(error, SourceError::TooLarge { limit: 200_000, what: "directories", .. });
    assert!(expected && !error.is_transient(), "{error:?}");
    assert!(!kept.tree().exists() || fs::read_dir(kept.tree()).unwrap().count() == 0);
    // A comparison with another such tree ends as well.
    kept.mirror.ensure(&first, None).await.ok();
    assert!(kept.mirror.touches(&first, &commit, &branch("master"), |_| false).await.unwrap());
}

#[tokio::test]
async fn a_tree_bomb_of_a_billion_files_is_rejected() {
    let origin = Origin::new();
    let mut object = origin.blob(b"x");
    let mut mode = "100644";
    for _ in 0..9 {
        let names: Vec<_> = (0..10).map(|n| format!("f{n}")).collect();
        let entries: Vec<_> = names.iter().map(|name| (mode, name.as_bytes(), object.as_str())).collect();
        object = origin.raw_tree(&entries);
        mode = "40000";
    }
    let commit = origin.commit_tree(&object);
    let kept = Kept::of(origin.remote());
    let error = kept.mirror.check_out(&commit, &kept.tree()).await.unwrap_err();
    assert!(matches!(error, SourceError::TooLarge { limit: 200_000, what: "files", .. }), "{error:?}");
}

#[tokio::test]
async fn a_submodule_with_a_command_as_url_or_update_is_rejected() {
    let (origin, first) = Origin::with_one_commit();
    let harm = tempfile::tempdir().unwrap();
    let touch = harm.path().join("touched");
    let modules = format!(
        "[submodule \"sub\"]\n\tpath = sub\n\turl = ext::sh -c touch% {touch}\n\tupdate = !touch {touch}\n",
        touch = touch.display()
    );
    let modules = origin.blob(modules.as_bytes());
    let commit =
        origin.commit_raw_tree(&[("100644", b".gitmodules", &modules), ("160000", b"sub", first.as_str())]);
    let kept = Kept::of(origin.remote());
    let error = kept.mirror.check_out(&commit, &kept.tree()).await.unwrap_err();
    assert!(matches!(error, SourceError::Refused { .. }), "{error:?}");
    assert!(!touch.exists());
}

#[tokio::test]
async fn an_unfetched_submodule_becomes_an_empty_directory() {
    let (origin, first) = Origin::with_one_commit();
    let modules = origin.blob(b"[submodule \"sub\"]\n\tpath = sub\n\turl = https://host/x.git\n");
    let commit =
        origin.commit_raw_tree(&[("100644", b".gitmodules", &modules), ("160000", b"sub", first.as_str())]);
    let kept = Kept::of(origin.remote());
    let tree = kept.mirror.check_out(&commit, &kept.tree()).await.unwrap();
    assert_eq!(tree.files, 1);
    assert_eq!(fs::read_dir(kept.tree().join("sub")).unwrap().count(), 0);
}

#[tokio::test]
async fn a_repositorys_filters_hooks_and_settings_are_not_run() {
    let origin = Origin::new();
    let harm = tempfile::tempdir().unwrap();
    let touch = format!("touch {}", harm.path().join("touched").display());
    origin.write("file", "plain");
    origin.write(".gitattributes", "* filter=harm\n");
    origin.write(".gitconfig", format!("[filter \"harm\"]\n\tsmudge = {touch}\n"));
    origin.write(".lfsconfig", format!("[lfs]\n\turl = ext::{touch}\n"));
    origin.write("hooks/post-checkout", format!("#!/bin/sh\n{touch}\n"));
    let commit = origin.commit("settings");
    origin.git(&["config", "filter.harm.smudge", &touch]);
    origin.git(&["config", "core.fsmonitor", &touch]);
    let kept = Kept::of(origin.remote());
    kept.mirror.check_out(&commit, &kept.tree()).await.unwrap();
    assert_eq!(fs::read_to_string(kept.tree().join("file")).unwrap(), "plain");
    assert_eq!(fs::read_dir(harm.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn a_message_that_would_steer_a_terminal_is_harmless() {
    let (origin, _) = Origin::with_one_commit();
    let commit = origin.commit("\u{1b}[2J\u{1b}]0;owned\u{7}</script>%s{}\r\nERROR forged line");
    let kept = Kept::of(origin.remote());
    let tree = kept.mirror.check_out(&commit, &kept.tree()).await.unwrap();
    assert!(!tree.subject.contains(char::is_control), "{:?}", tree.subject);
    assert!(tree.subject.contains("</script>%s{}"));
}
