//! Heads, remotes that do not answer, and cancelled calls.

use std::os::unix::fs::chown;
use std::time::Duration;

use tokio::net::TcpListener;

use super::fixture::{Origin, assert_no_process_with, branch, command_lines_with};
use crate::source::{Remote, SourceError, Timeouts};

#[tokio::test]
async fn branch_heads_are_listed_without_tags() {
    let (origin, first) = Origin::with_one_commit();
    origin.git(&["tag", "dev"]);
    origin.git(&["tag", "-a", "-m", "x", "v1"]);
    origin.git(&["branch", "feature/x-1"]);
    let second = origin.commit_file("more", "x");
    let heads = origin.remote().heads().await.unwrap();
    let expected = [("feature/x-1".to_owned(), first), ("master".to_owned(), second)];
    assert_eq!(heads.into_iter().collect::<Vec<_>>(), expected);
}

#[tokio::test]
async fn a_branch_is_not_matched_by_the_end_of_its_name() {
    let (origin, first) = Origin::with_one_commit();
    origin.git(&["update-ref", "refs/heads/x/dev", "HEAD"]);
    origin.git(&["update-ref", "refs/heads/x/refs/heads/dev", "HEAD"]);
    origin.git(&["update-ref", "refs/remotes/refs/heads/dev", "HEAD"]);
    origin.git(&["update-ref", "refs/tags/dev", "HEAD"]);
    let remote = origin.remote();
    assert_eq!(remote.head(&branch("dev")).await.unwrap(), None);
    let second = origin.commit_file("more", "x");
    origin.git(&["branch", "dev"]);
    assert_eq!(remote.head(&branch("dev")).await.unwrap(), Some(second));
    assert_eq!(remote.head(&branch("x/dev")).await.unwrap(), Some(first));
}

#[tokio::test]
async fn a_repository_without_commits_has_no_heads() {
    let origin = Origin::new();
    assert!(origin.remote().heads().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_folder_that_is_not_a_repository_is_a_permanent_failure() {
    let dir = tempfile::tempdir().unwrap();
    let remote = Remote::new(dir.path().to_str().unwrap()).unwrap();
    let error = remote.heads().await.unwrap_err();
    assert!(matches!(error, SourceError::NotARepository { .. }), "{error:?}");
    assert!(!error.is_transient());
}

#[tokio::test]
async fn a_repository_owned_by_another_user_is_reported_with_a_remedy() {
    let (origin, _) = Origin::with_one_commit();
    if chown(origin.path(), Some(54_321), None).is_err() {
        return; // Only root may change a folder's owner; `error` tests the classification of git's message.
    }
    chown(origin.path().join(".git"), Some(54_321), None).unwrap();
    let error = origin.remote().heads().await.unwrap_err();
    assert!(matches!(error, SourceError::NotTrusted { .. }), "{error:?}");
    assert!(error.to_string().contains("safe.directory"));
}

#[tokio::test]
async fn an_unreachable_ssh_server_is_reported_without_prompting() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let error = Remote::new(&format!("ssh://git@127.0.0.1:{port}/x")).unwrap().heads().await.unwrap_err();
    // Without ssh, git reports a different error, which is temporary too.
    assert!(matches!(error, SourceError::Unreachable { .. } | SourceError::Git { .. }), "{error:?}");
    assert!(error.is_transient());
}

async fn hanging_server() -> (TcpListener, Remote, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let remote = Remote::new(&format!("http://{address}/x.git")).unwrap();
    (listener, remote, address)
}

#[tokio::test]
async fn a_hanging_git_server_times_out_and_leaves_no_process() {
    let (_listener, remote, address) = hanging_server().await;
    let timeouts = Timeouts { list: Duration::from_millis(300), ..Timeouts::default() };
    let error = remote.with_timeouts(timeouts).heads().await.unwrap_err();
    assert!(matches!(error, SourceError::TimedOut { .. }), "{error:?}");
    assert!(error.is_transient());
    assert_no_process_with(&address).await;
}

#[tokio::test]
async fn cancelling_a_query_ends_git_and_its_helpers() {
    let (listener, remote, address) = hanging_server().await;
    let question = tokio::spawn(async move { remote.heads().await });
    let _connection = listener.accept().await.unwrap();
    assert!(!command_lines_with(&address).is_empty(), "the helper of git is there");
    question.abort();
    assert!(question.await.unwrap_err().is_cancelled());
    assert_no_process_with(&address).await;
}
