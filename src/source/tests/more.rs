//! Parts of a repository outside of a single tree: changes, submodules, history.

use std::fs;
use std::process::Command;

use super::fixture::{Kept, Origin, branch};
use crate::model::name::CommitId;
use crate::source::Remote;

#[tokio::test]
async fn a_comparison_of_commits_finds_the_changed_paths() {
    let origin = Origin::new();
    let first = origin.commit_file("apps/a/x", "1");
    let second = origin.commit_file("apps/b/y", "1");
    let kept = Kept::of(origin.remote());
    let touches = async |from: &CommitId, to: &CommitId, prefix: &'static str| {
        let counts = |path: &[u8]| path.starts_with(prefix.as_bytes());
        kept.mirror.touches(from, to, &branch("master"), counts).await.unwrap()
    };
    assert!(touches(&first, &second, "apps/b/").await);
    assert!(!touches(&first, &second, "apps/a/").await);
    // A move changes both paths, and a reverted change counts as none.
    fs::rename(origin.path().join("apps/a/x"), origin.path().join("z")).unwrap();
    let moved = origin.commit("moved");
    assert!(touches(&second, &moved, "apps/a/").await && touches(&second, &moved, "z").await);
    fs::rename(origin.path().join("z"), origin.path().join("apps/a/x")).unwrap();
    let back = origin.commit("moved back");
    assert!(!touches(&second, &back, "").await);
    // A commit that the mirror does not have cannot be compared.
    let unknown = CommitId::new("1".repeat(40)).unwrap();
    assert!(touches(&unknown, &back, "nothing").await);
}

#[tokio::test]
async fn submodules_are_listed_with_their_commits_and_found_by_their_paths() {
    let (origin, lib) = (Origin::new(), Origin::new());
    let of_lib = lib.commit_file("lib", "1");
    origin.git(&["update-index", "--add", "--cacheinfo", &format!("160000,{of_lib},libs/x")]);
    let modules = format!("[submodule \"a.b\"]\n\tpath = libs/x\n\turl = {}\n", lib.url());
    origin.write(".gitmodules", modules);
    fs::create_dir_all(origin.path().join("libs/x")).unwrap();
    origin.git(&["add", ".gitmodules"]);
    origin.git(&["commit", "-q", "-m", "a submodule"]);
    let commit = origin.id("HEAD");
    let kept = Kept::of(origin.remote());
    let tree = kept.mirror.check_out(&commit, &kept.tree()).await.unwrap();
    let [link] = tree.submodules.as_slice() else { panic!("{tree:?}") };
    assert_eq!((link.path.as_str(), &link.commit), ("libs/x", &of_lib));
    let places = kept.mirror.submodules(&commit).await.unwrap();
    let declared = [Remote::new(lib.url()).unwrap()];
    assert_eq!(places.remote(link, kept.mirror.remote(), &declared).unwrap().to_string(), lib.url());
    assert!(places.remote(link, kept.mirror.remote(), &[]).is_err());
}

#[tokio::test]
async fn a_checkout_with_history_supports_describe_and_has_no_remote() {
    let (origin, _) = Origin::with_one_commit();
    origin.git(&["tag", "-a", "-m", "one", "v1.0"]);
    let commit = origin.commit_file("more", "1");
    origin.git(&["checkout", "-q", "-b", "other"]);
    origin.commit_file("elsewhere", "1");
    origin.git(&["tag", "-a", "-m", "two", "v2.0"]);
    let kept = Kept::of(origin.remote());
    let tree = kept.mirror.check_out(&commit, &kept.tree()).await.unwrap();
    let dir = fs::canonicalize(kept.tree()).unwrap();
    let tags = kept.mirror.write_history(&commit, &branch("master"), &dir, tree.commit_time).await.unwrap();
    assert_eq!(tags.len(), 1, "{tags:?}");
    assert!(tags[0].starts_with("refs/tags/v1.0 "), "{tags:?}");
    let git = |args: &[&str]| {
        let ran = Command::new("git").args(args).current_dir(&dir).env_remove("GIT_DIR").output().unwrap();
        String::from_utf8_lossy(&ran.stdout).trim().to_owned()
    };
    assert_eq!(git(&["describe", "--dirty"]), format!("v1.0-1-g{}", &commit.as_str()[..7]));
    assert_eq!(git(&["rev-parse", "--abbrev-ref", "HEAD"]), "master");
    let config = fs::read_to_string(dir.join(".git/config")).unwrap();
    assert!(!config.contains("remote") && !config.contains(origin.url()), "{config}");
    assert!(!dir.join(".git/FETCH_HEAD").exists());
}
