//! Paths that try to leave the tree, and overlays.

use std::os::unix::fs::{MetadataExt as _, symlink};
use std::time::{Duration, UNIX_EPOCH};

use crate::model::spec::Overlay;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

/// A tree `root` beside a file `secret` that nothing in it may reach.
fn tree() -> (TempDir, PathBuf) {
    let all = tempfile::tempdir().unwrap();
    let root = all.path().join("root");
    fs::create_dir_all(root.join("dir/deep")).unwrap();
    fs::write(root.join("dir/file"), "file").unwrap();
    fs::write(all.path().join("secret"), "secret").unwrap();
    (all, root)
}

fn fifo(path: &Path) {
    rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, Mode::from(0o600), 0).unwrap();
}

#[test]
fn a_declared_path_stays_in_the_tree() {
    let (_all, root) = tree();
    assert_eq!(inside(&root, "dir/file").unwrap(), root.join("dir/file"));
    assert_eq!(inside(&root, "./dir//x/../file").unwrap(), root.join("dir/file"));
    assert_eq!(inside(&root, "not/there").unwrap(), root.join("not/there"));
    assert_eq!(inside(&root, ".").unwrap(), root.join(""));
    for path in ["/etc/passwd", "..", "../secret", "dir/../../secret", "/"] {
        assert!(matches!(inside(&root, path), Err(ContextError::OutsideTree { .. })), "{path}");
        assert!(matches!(place(&root, path), Err(ContextError::OutsideTree { .. })), "{path}");
    }
    assert!(matches!(inside(&root, "dir/file/x"), Err(ContextError::NotADirectory { .. })));
    assert!(matches!(inside(&root, "a\0b"), Err(ContextError::Read { .. })));
}

#[test]
fn a_link_is_followed_for_reading_while_it_stays_in_the_tree() {
    let (_all, root) = tree();
    symlink("dir/deep/../file", root.join("near")).unwrap();
    symlink("../dir", root.join("dir/up")).unwrap();
    assert_eq!(inside(&root, "near").unwrap(), root.join("dir/file"));
    assert_eq!(inside(&root, "dir/up/up/file").unwrap(), root.join("dir/file"));
}

#[test]
fn a_link_out_of_the_tree_is_refused() {
    let (all, root) = tree();
    symlink("../secret", root.join("file")).unwrap();
    symlink("../..", root.join("dir/out")).unwrap();
    symlink(all.path().join("secret"), root.join("absolute")).unwrap();
    symlink("two", root.join("one")).unwrap();
    symlink("one", root.join("two")).unwrap();
    for path in ["file", "dir/out", "dir/out/secret", "absolute", "one"] {
        assert!(matches!(inside(&root, path), Err(ContextError::OutsideTree { .. })), "{path}");
    }
}

#[test]
fn nothing_is_written_or_removed_through_a_link() {
    let (all, root) = tree();
    symlink("dir", root.join("near")).unwrap();
    symlink("..", root.join("far")).unwrap();
    let secret = all.path().join("secret");
    for path in ["near/file", "far/secret", "far/new/file"] {
        assert!(matches!(overlay(&root, &secret, path), Err(ContextError::ThroughLink { .. })), "{path}");
        assert!(matches!(remove(&root, path), Err(ContextError::ThroughLink { .. })), "{path}");
    }
    assert!(root.join("dir/file").exists() && secret.exists());
}

#[test]
fn removal_never_follows_links() {
    let (all, root) = tree();
    symlink("../secret", root.join("link")).unwrap();
    symlink("../..", root.join("dir/deep/out")).unwrap();
    for path in ["link", "dir/file", "dir", "dir", "never/was", "./never/"] {
        remove(&root, path).unwrap();
    }
    assert_eq!(fs::read_dir(&root).unwrap().count(), 0);
    assert!(all.path().join("secret").exists());
    fs::write(root.join("file"), "").unwrap();
    remove(&root, "file/below").unwrap();
    assert!(root.join("file").exists());
}

#[test]
fn the_tree_itself_is_never_removed_or_replaced() {
    let (all, root) = tree();
    for path in [".", "", "dir/..", "./"] {
        assert!(matches!(remove(&root, path), Err(ContextError::WholeTree { .. })), "{path:?}");
        let copied = overlay(&root, &all.path().join("secret"), path);
        assert!(matches!(copied, Err(ContextError::WholeTree { .. })), "{path:?}");
    }
    assert!(root.join("dir/file").exists());
}

#[test]
fn an_overlay_keeps_its_modification_time_and_is_world_readable() {
    let (all, root) = tree();
    let source = all.path().join("secret");
    let then = UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    File::options().write(true).open(&source).unwrap().set_modified(then).unwrap();
    fs::set_permissions(&source, Permissions::from_mode(0o600)).unwrap();
    overlay(&root, &source, "new/parents/config").unwrap();
    let copied = root.join("new/parents/config");
    assert_eq!(fs::read(&copied).unwrap(), b"secret");
    let found = fs::metadata(&copied).unwrap();
    assert_eq!((found.mode() & 0o7777, found.modified().unwrap()), (0o644, then));

    fs::set_permissions(&source, Permissions::from_mode(0o4700)).unwrap();
    overlay(&root, &source, "new/parents/config").unwrap();
    assert_eq!(fs::metadata(&copied).unwrap().mode() & 0o7777, 0o755);
    assert_eq!(fs::read_dir(root.join("new/parents")).unwrap().count(), 1, "nothing is left beside it");
}

#[test]
fn an_overlay_replaces_a_link_but_not_its_target() {
    let (all, root) = tree();
    let outside = all.path().join("outside");
    fs::write(&outside, "outside").unwrap();
    symlink(&outside, root.join("config")).unwrap();
    overlay(&root, &all.path().join("secret"), "config").unwrap();
    assert_eq!(fs::read(&outside).unwrap(), b"outside");
    assert!(fs::symlink_metadata(root.join("config")).unwrap().is_file());
}

#[test]
fn only_a_regular_file_can_be_an_overlay_or_be_replaced() {
    let (all, root) = tree();
    let pipe = all.path().join("pipe");
    fifo(&pipe);
    for from in [pipe.as_path(), all.path(), Path::new("/dev/null")] {
        assert!(matches!(overlay(&root, from, "x"), Err(ContextError::NotAFile { .. })), "{from:?}");
    }
    assert!(matches!(overlay(&root, &all.path().join("none"), "x"), Err(ContextError::Read { .. })));
    assert!(!root.join("x").exists());
    let secret = all.path().join("secret");
    assert!(matches!(overlay(&root, &secret, "dir"), Err(ContextError::NotAFile { .. })));
    assert!(matches!(overlay(&root, &secret, "dir/file/x"), Err(ContextError::NotADirectory { .. })));
}

#[test]
fn overlays_are_fingerprinted_by_content_in_their_order() {
    let all = tempfile::tempdir().unwrap();
    let overlay = |name: &str, content: &str| {
        fs::write(all.path().join(name), content).unwrap();
        Overlay { from: all.path().join(name), to: name.to_owned() }
    };
    let overlays = [overlay("a", "abc"), overlay("b", "")];
    let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    let nothing = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    assert_eq!(overlays.map(|overlay| fingerprint(&overlay.from).unwrap()), [abc, nothing]);
    let missing = Overlay { from: all.path().join("c"), to: "c".into() };
    let error = fingerprint(&missing.from).unwrap_err();
    assert!(error.to_string().contains("/c\""), "{error}");
}

proptest! {
    #[test]
    fn no_declared_path_escapes_the_tree(path in "(/|\\.|\\.\\.|a|l|x|//){0,8}", target in "(\\.\\./|a/|/|\\./){0,4}") {
        let (all, root) = tree();
        fs::create_dir_all(root.join("a/a")).unwrap();
        let target = if target.is_empty() { "." } else { target.as_str() };
        symlink(target, root.join("a/l")).unwrap();
        symlink(target, root.join("l")).unwrap();
        if let Ok(found) = inside(&root, &path)
            && let Ok(real) = found.canonicalize()
        {
            prop_assert!(real.starts_with(root.canonicalize().unwrap()), "{:?} leads to {:?}", path, real);
        }
        if let Ok(placed) = place(&root, &path) {
            prop_assert!(placed.starts_with(&root) && placed != root);
            prop_assert!(!placed.components().any(|part| part == Component::ParentDir));
        }
        let _ = remove(&root, &path);
        prop_assert!(all.path().join("secret").exists() && root.exists());
    }
}
