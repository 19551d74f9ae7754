//! A failed store that is reopened, and readers that leave its files alone.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::time::{Duration, Instant};

use super::super::open::open_with;
use super::super::owner::explain;
use super::super::{OpenError, RecordError, WriteError, open_to_read};
use super::*;

fn because(reason: &str) -> Hold {
    Hold { reason: reason.to_owned(), ..hold(None) }
}

const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn a_failed_store_is_reopened_with_all_acknowledged_writes() {
    let Fixture { handles, home } = fixture();
    handles.writer.hold(&name("dev"), because("before")).await.unwrap();
    handles.shared_store().note_failure();
    let began = Instant::now();
    // Requests meanwhile are answered or refused, and the next attempt finds the store open.
    while handles.writer.hold(&name("dev"), because("after")).await.is_err()
        || !handles.shared_store().is_sound()
    {
        assert!(began.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    handles.desired.try_write().await.unwrap();
    assert_eq!(handles.desired.get(&name("dev")).unwrap().hold.unwrap().reason, "after");
    drop(handles);
    let handles = open(home.path()).unwrap();
    assert_eq!(handles.desired.get(&name("dev")).unwrap().hold.unwrap().reason, "after");
}

#[tokio::test]
async fn a_trial_write_detects_a_full_disk_without_reopening_the_store() {
    let Fixture { handles, home: _home } = fixture();
    handles.pretend_to_be_full();
    assert!(handles.desired.try_write().await.unwrap_err().is_full);
    assert!(handles.shared_store().is_sound());
}

#[tokio::test]
async fn a_record_on_a_full_disk_is_read_and_takes_no_write() {
    let Fixture { handles, home } = fixture();
    handles.writer.hold(&name("dev"), because("before")).await.unwrap();
    let id = handles.id.clone();
    drop(handles);
    let files = || {
        let sled = std::fs::read_dir(home.path().join("sled")).unwrap().map(|entry| entry.unwrap());
        sled.map(|entry| (entry.path(), entry.metadata().unwrap().modified().ok())).collect::<BTreeSet<_>>()
    };
    let before = files();
    let handles = open_with(home.path(), u64::MAX).unwrap();
    assert_eq!(handles.id, id);
    assert_eq!(handles.desired.get(&name("dev")).unwrap().hold.unwrap().reason, "before");
    let refused = handles.writer.hold(&name("dev"), because("now")).await.unwrap_err();
    assert!(matches!(refused, WriteError::Record(RecordError::DiskFull)), "{refused:?}");
    assert_eq!(handles.status.full_disk(), Some(home.path()));
    drop(handles);
    assert_eq!(files(), before);
}

#[tokio::test]
async fn opening_the_record_read_only_changes_nothing() {
    let Fixture { handles, home } = fixture();
    handles.writer.hold(&name("dev"), because("why")).await.unwrap();
    assert!(matches!(open_to_read(home.path()), Err(OpenError::Busy(_))));
    drop(handles);
    std::fs::remove_file(home.path().join("record.json")).unwrap();
    let copy = open_to_read(home.path()).unwrap();
    assert_eq!(copy.desired.get(&name("dev")).unwrap().hold.unwrap().reason, "why");
    assert!(!home.path().join("record.json").exists());
    drop(copy);
    let nothing = home.path().join("nothing");
    assert!(open_to_read(&nothing).unwrap().desired.all().unwrap().is_empty());
    assert!(!nothing.exists());
}

#[test]
fn an_inaccessible_record_file_is_reported_with_a_remedy() {
    let home = tempfile::tempdir().unwrap();
    drop(open(home.path()).unwrap());
    let (dir, path) = (home.path().display(), home.path().join("lock"));
    // Root may use every file, so the system's refusal is made up.
    let refused = OpenError::Io { doing: "locking", path, source: ErrorKind::PermissionDenied.into() };
    let words = explain(home.path(), refused).to_string();
    assert!(words.starts_with(&format!("permission denied: `{dir}/lock`")), "{words}");
    assert!(words.contains(&format!("chown -R --reference={dir} {dir}")), "{words}");
}
