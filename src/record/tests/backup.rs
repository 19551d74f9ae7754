//! The backup file of a large record: it grows by what changes, and restores everything.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::super::{Export, Handles, WriteError, open};
use super::{at, image, name, set};
use crate::model::desired::Forget;
use crate::model::evidence::{Evidence, EvidenceFinding};
use crate::model::name::Generation;
use crate::record::export::EnvironmentExport;
use crate::record::import;

/// More than the length below which the file is always written as a whole.
const LARGE: u64 = 400;

fn backup(home: &Path) -> PathBuf {
    home.join("record.json")
}

fn length(home: &Path) -> u64 {
    fs::metadata(backup(home)).unwrap().len()
}

/// An export with `many` environments and a history that makes each a few hundred kilobytes long.
fn large(handles: &Handles, many: usize) -> Export {
    let mut export = handles.desired.export().unwrap();
    let found = export.environments[0].clone();
    export.environments = (0..many).map(|number| renamed(&found, &format!("e{number:03}"))).collect();
    export
}

fn renamed(found: &EnvironmentExport, to: &str) -> EnvironmentExport {
    let mut environment = found.clone();
    environment.desired.environment = name(to);
    environment
}

/// A record with a backup file to which changes are appended, and its content.
async fn grown() -> (Handles, TempDir) {
    let home = tempfile::tempdir().unwrap();
    let handles = open(home.path()).unwrap();
    for number in 1..=LARGE {
        handles.writer.submit(&name("dev"), set(number), &[]).await.unwrap();
    }
    handles.writer.submit(&name("test"), set(1), &[]).await.unwrap();
    drop(handles);
    // An open without a backup file writes it as a whole.
    fs::remove_file(backup(home.path())).unwrap();
    let handles = open(home.path()).unwrap();
    handles.clone().close().await.unwrap();
    (handles, home)
}

fn lose_the_store(home: &Path) {
    fs::remove_dir_all(home.join("sled")).unwrap();
}

#[tokio::test]
async fn a_change_appends_only_its_own_length_to_the_backup() {
    let (handles, home) = grown().await;
    let complete = fs::read(backup(home.path())).unwrap();
    assert!(complete.len() > 100_000, "{}", complete.len());
    for number in 1..=5 {
        handles.writer.submit(&name("test"), set(number), &[]).await.unwrap();
        handles.clone().close().await.unwrap();
    }
    let grown = fs::read(backup(home.path())).unwrap();
    assert_eq!(grown[..complete.len()], complete, "what was there is not written again");
    let added = &grown[complete.len()..];
    assert!(added.len() < 5 * 3_000, "{}", added.len());
    let lines: Vec<serde_json::Value> =
        serde_json::Deserializer::from_slice(added).into_iter().collect::<Result<_, _>>().unwrap();
    assert_eq!(lines.len(), 5);
    assert!(lines.iter().all(|line| line["changed"][0]["environment"] == "test"), "{lines:?}");
    let export = handles.desired.export().unwrap();
    drop(handles);
    lose_the_store(home.path());
    let restored = open(home.path()).unwrap();
    assert_eq!(restored.desired.export().unwrap().environments, export.environments);
}

#[tokio::test]
async fn opening_an_intact_record_does_not_rewrite_its_backup() {
    let (handles, home) = grown().await;
    handles.writer.submit(&name("test"), set(2), &[]).await.unwrap();
    drop(handles);
    let before = fs::read(backup(home.path())).unwrap();
    let handles = open(home.path()).unwrap();
    handles.clone().close().await.unwrap();
    assert!(fs::read(backup(home.path())).unwrap() == before);
    // And the next change is appended.
    handles.writer.submit(&name("test"), set(3), &[]).await.unwrap();
    handles.clone().close().await.unwrap();
    assert!(fs::read(backup(home.path())).unwrap().starts_with(&before));
}

#[tokio::test]
async fn the_backup_is_compacted_when_its_changes_exceed_the_record() {
    let (handles, home) = grown().await;
    let complete = length(home.path());
    let mut longest = complete;
    let mut number = 0;
    while length(home.path()) >= longest {
        longest = length(home.path());
        for _ in 0..40 {
            number += 1;
            handles.writer.submit(&name("test"), set(number), &[]).await.unwrap();
        }
        handles.clone().close().await.unwrap();
        assert!(number < 4_000, "it grows for ever: {longest}");
    }
    assert!(longest <= 2 * complete + 40 * 3_000, "{longest}");
    // Writes may have followed within the same round.
    let export = handles.desired.export().unwrap();
    drop(handles);
    lose_the_store(home.path());
    assert_eq!(open(home.path()).unwrap().desired.export().unwrap().environments, export.environments);
}

#[tokio::test]
async fn an_incomplete_last_line_loses_only_itself() {
    let (handles, home) = grown().await;
    handles.writer.submit(&name("test"), set(2), &[]).await.unwrap();
    handles.clone().close().await.unwrap();
    let kept = handles.desired.export().unwrap();
    handles.writer.submit(&name("test"), set(3), &[]).await.unwrap();
    drop(handles);
    let file = OpenOptions::new().write(true).open(backup(home.path())).unwrap();
    file.set_len(length(home.path()) - 7).unwrap();
    lose_the_store(home.path());
    let handles = open(home.path()).unwrap();
    assert_eq!(handles.desired.export().unwrap().environments, kept.environments);
    assert!(handles.notices.iter().all(|notice| !notice.contains("unreadable")), "{:?}", handles.notices);
    handles.writer.submit(&name("test"), set(4), &[]).await.unwrap();
    drop(handles);
    lose_the_store(home.path());
    let test = open(home.path()).unwrap().desired.get(&name("test")).unwrap();
    assert_eq!(test.entry.image, set(4).image);
}

#[tokio::test]
async fn a_damaged_backup_line_is_set_aside_and_loses_only_later_changes() {
    let (handles, home) = grown().await;
    let kept = handles.desired.export().unwrap();
    let complete = usize::try_from(length(home.path())).unwrap();
    handles.writer.submit(&name("test"), set(2), &[]).await.unwrap();
    drop(handles);
    let mut bytes = fs::read(backup(home.path())).unwrap();
    bytes[complete..complete + 4].copy_from_slice(b"\0\0\0\0");
    fs::write(backup(home.path()), bytes).unwrap();
    lose_the_store(home.path());
    let handles = open(home.path()).unwrap();
    assert_eq!(handles.desired.export().unwrap().environments, kept.environments);
    assert!(handles.notices.iter().any(|notice| notice.contains("unreadable-")), "{:?}", handles.notices);
}

#[tokio::test]
async fn an_externally_replaced_backup_is_rewritten_instead_of_appended_to() {
    let (handles, home) = grown().await;
    fs::write(backup(home.path()), b"{ something else").unwrap();
    handles.writer.submit(&name("test"), set(2), &[]).await.unwrap();
    handles.clone().close().await.unwrap();
    let text = fs::read_to_string(backup(home.path())).unwrap();
    assert_eq!(serde_json::from_str::<Export>(&text).unwrap(), handles.desired.export().unwrap());
}

#[tokio::test]
async fn a_forgotten_environment_is_not_restored_from_the_backup() {
    let (handles, home) = grown().await;
    let request = Forget { stop: false, left: None, by: "alice".to_owned(), at: at(1) };
    handles.writer.forget(&name("test"), request).await.unwrap();
    assert!(handles.resolver.erase(&name("test")).await.unwrap());
    drop(handles);
    lose_the_store(home.path());
    let names = |handles: &Handles| {
        let all = handles.desired.export().unwrap().environments;
        all.into_iter().map(|environment| environment.desired.environment).collect::<Vec<_>>()
    };
    assert_eq!(names(&open(home.path()).unwrap()), [name("dev")]);
}

#[tokio::test]
async fn a_copied_backup_file_is_imported_with_its_appended_changes() {
    let (handles, home) = grown().await;
    handles.writer.submit(&name("test"), set(2), &[]).await.unwrap();
    handles.writer.submit(&name("prod"), set(1), &[]).await.unwrap();
    let export = handles.desired.export().unwrap();
    handles.close().await.unwrap();
    let other = tempfile::tempdir().unwrap();
    let there = open(other.path()).unwrap();
    let mut spool = there.writer.spool().unwrap();
    std::io::copy(&mut File::open(backup(home.path())).unwrap(), &mut spool).unwrap();
    let imported = there.writer.import_file(spool).await.unwrap();
    assert_eq!(imported.environments, [name("dev"), name("prod"), name("test")]);
    assert_eq!(there.desired.export().unwrap().environments, export.environments);
    assert_eq!(fs::read_dir(other.path()).unwrap().filter(is_leftover).count(), 0);
}

fn is_leftover(found: &std::io::Result<fs::DirEntry>) -> bool {
    let name = found.as_ref().unwrap().file_name().to_string_lossy().into_owned();
    name.starts_with(import::RECEIVED) || name == import::UNDER_WAY
}

#[tokio::test]
async fn a_long_import_replaces_everything_in_several_writes() {
    let (handles, home) = grown().await;
    let export = large(&handles, 6);
    handles.writer.import(export.clone()).await.unwrap();
    assert_eq!(handles.desired.export().unwrap().environments, export.environments);
    drop(handles);
    lose_the_store(home.path());
    assert_eq!(open(home.path()).unwrap().desired.export().unwrap().environments, export.environments);
}

#[tokio::test]
async fn an_import_that_was_cut_off_is_finished_at_the_next_start() {
    let (handles, home) = grown().await;
    let mut export = large(&handles, 4);
    export.id = "a".repeat(32);
    handles.writer.submit(&name("e001"), set(9), &[]).await.unwrap();
    drop(handles);
    let mut file = File::create(home.path().join(import::UNDER_WAY)).unwrap();
    file.write_all(&serde_json::to_vec(&export).unwrap()).unwrap();
    fs::write(home.path().join(format!("{}x", import::RECEIVED)), b"half").unwrap();
    let handles = open(home.path()).unwrap();
    assert_eq!(handles.id, export.id);
    assert_eq!(handles.desired.export().unwrap().environments, export.environments);
    assert!(handles.notices.iter().any(|notice| notice.contains("interrupted")), "{:?}", handles.notices);
    assert_eq!(fs::read_dir(home.path()).unwrap().filter(is_leftover).count(), 0);
    drop(handles);
    assert_eq!(open(home.path()).unwrap().notices, [""; 0]);
}

#[tokio::test]
async fn an_inconsistent_long_import_changes_nothing() {
    let (handles, _home) = grown().await;
    let before = handles.desired.export().unwrap();
    let mut export = large(&handles, 6);
    export.environments[5].desired.entry.generation = Generation(LARGE + 7);
    let refused = handles.writer.import(export.clone()).await;
    assert!(matches!(refused, Err(WriteError::Disagreeing(_))), "{refused:?}");
    let twice = export.environments[0].clone();
    export.environments[5] = twice;
    let refused = handles.writer.import(export.clone()).await;
    assert!(matches!(&refused, Err(WriteError::Disagreeing(why)) if why.contains("twice")), "{refused:?}");
    assert_eq!(handles.desired.export().unwrap(), before);
}

#[tokio::test]
async fn appended_changes_include_evidence() {
    let (handles, home) = grown().await;
    let finding = EvidenceFinding::Verified {
        passed: true,
        check: "curl".to_owned(),
        result: "it passed".to_owned(),
        output: String::new(),
    };
    let evidence = Evidence {
        sequence: 0,
        environment: name("test"),
        image: image(1),
        generation: Generation(1),
        finding,
        by: None,
        at: at(2),
        note: None,
    };
    handles.status_writer.evidence(evidence, "checked".to_owned()).await.unwrap();
    let export = handles.desired.export().unwrap();
    drop(handles);
    lose_the_store(home.path());
    let restored = open(home.path()).unwrap().desired.export().unwrap();
    assert_eq!(restored.environments, export.environments);
    assert_eq!(restored.environments[1].evidence.len(), 1);
}
