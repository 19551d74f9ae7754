//! Damage to the store, and what survives it.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::super::{Export, Handles, OpenError, open};
use super::{delivery, fixture, hold, name, set};
use crate::model::error::chain;
use crate::model::memory::Memory;
use crate::model::name::Generation;
use crate::record::store::{BatchLine, DocumentKind};

/// A closed record with two environments; `dev` is held.
async fn closed() -> (TempDir, Export) {
    let record = fixture();
    let writer = &record.handles.writer;
    for number in 1..=3 {
        writer.submit(&name("dev"), set(number), &[]).await.unwrap();
        writer.submit(&name("test"), set(number), &[]).await.unwrap();
    }
    writer.hold(&name("dev"), hold(Some(2))).await.unwrap();
    writer.push(delivery("1", 7), &[name("test")]).await.unwrap();
    let export = record.handles.desired.export().unwrap();
    drop(record.handles);
    (record.home, export)
}

fn sled_files(home: &Path, beginning: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(home.join("sled")).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with(beginning)).collect()
}

fn set_aside(home: &Path) -> usize {
    let entries = fs::read_dir(home).unwrap().map(|entry| entry.unwrap().file_name());
    entries.filter(|name| name.to_string_lossy().starts_with("sled.damaged-")).count()
}

fn has_notice(handles: &Handles, what: &str) -> bool {
    handles.notices.iter().any(|notice| notice.contains(what))
}

/// Writes a value, bypassing every check.
fn plant(home: &Path, kind: DocumentKind, key: &[u8], value: Option<&[u8]>) {
    let handles = open(home).unwrap();
    let line = BatchLine { kind, key: key.to_vec(), value: value.map(<[u8]>::to_vec) };
    handles.shared_store().write(&[line]).unwrap();
}

#[tokio::test]
async fn an_intact_record_opens_without_notices() {
    let (home, export) = closed().await;
    let handles = open(home.path()).unwrap();
    assert_eq!(handles.notices, [""; 0]);
    assert_eq!(handles.desired.export().unwrap(), export);
    assert_eq!(handles.id, export.id);
}

#[tokio::test]
async fn the_record_is_readable_only_by_its_owner() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("desired-state/record");
    let handles = open(&dir).unwrap();
    handles.writer.submit(&name("dev"), set(1), &[]).await.unwrap();
    handles.close().await.unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&dir), 0o700);
    assert_eq!(mode(&dir.join("record.json")), 0o600);
}

#[tokio::test]
async fn opening_a_record_in_use_is_reported() {
    let (home, _) = closed().await;
    let first = open(home.path()).unwrap();
    let error = open(home.path()).err().unwrap();
    assert!(matches!(error, OpenError::Busy(_)), "{error:?}");
    assert!(error.to_string().contains("is in use by another abide process"), "{error}");
    drop(first);
    open(home.path()).unwrap();
}

#[tokio::test]
async fn a_clone_keeps_the_record_open() {
    let record = fixture();
    let reader = record.handles.desired.clone();
    drop(record.handles);
    assert!(matches!(open(record.home.path()), Err(OpenError::Busy(_))));
    assert!(reader.all().unwrap().is_empty());
}

#[tokio::test]
async fn a_half_written_snapshot_is_removed() {
    let (home, export) = closed().await;
    fs::write(home.path().join("sled/snap.00000000000ABCDE.generating"), b"half").unwrap();
    let handles = open(home.path()).unwrap();
    assert!(has_notice(&handles, "snap.00000000000ABCDE.generating"), "{:?}", handles.notices);
    assert_eq!(handles.desired.export().unwrap(), export);
    assert_eq!(set_aside(home.path()), 0);
}

#[tokio::test]
async fn a_corrupt_snapshot_causes_only_a_notice() {
    let (home, export) = closed().await;
    // sled writes a snapshot at its next open.
    drop(open(home.path()).unwrap());
    let snapshots = sled_files(home.path(), "snap.");
    assert!(!snapshots.is_empty());
    for snapshot in snapshots {
        fs::write(snapshot, b"garbage").unwrap();
    }
    let handles = open(home.path()).unwrap();
    assert!(has_notice(&handles, "cannot open the store"), "{:?}", handles.notices);
    assert_eq!(handles.desired.export().unwrap(), export);
    assert_eq!(set_aside(home.path()), 1);
}

/// A kind of damage to sled's log: a name and a function.
type Damage = (&'static str, fn(&Path));

#[tokio::test]
async fn the_record_is_restored_after_any_damage_to_the_store() {
    let damages: [Damage; 6] = [
        ("garbage", |log| fs::write(log, vec![0x5a; 1 << 19]).unwrap()),
        ("empty", |log| fs::write(log, b"").unwrap()),
        ("missing", |log| fs::remove_file(log).unwrap()),
        ("half", |log| {
            let bytes = fs::read(log).unwrap();
            fs::write(log, &bytes[..bytes.len() / 2]).unwrap();
        }),
        ("a hole in the middle", |log| {
            let mut bytes = fs::read(log).unwrap();
            let used = bytes.iter().rposition(|byte| *byte != 0).unwrap_or(0);
            bytes[used / 2..used].fill(0);
            fs::write(log, &bytes).unwrap();
        }),
        ("flipped bits", |log| {
            let mut bytes = fs::read(log).unwrap();
            for place in (0..bytes.len()).step_by(97) {
                bytes[place] ^= 0x10;
            }
            fs::write(log, &bytes).unwrap();
        }),
    ];
    for (damage, apply) in damages {
        let (home, export) = closed().await;
        apply(&home.path().join("sled/db"));
        let handles = open(home.path()).unwrap();
        let restored = handles.desired.export().unwrap().environments;
        assert_eq!(restored, export.environments, "{damage}: {:?}", handles.notices);
        assert_eq!(handles.id, export.id, "{damage}");
        handles.writer.submit(&name("dev"), set(4), &[]).await.unwrap();
        drop(handles);
        let again = open(home.path()).unwrap();
        assert_eq!(again.notices, [""; 0], "{damage}");
        assert_eq!(again.desired.get(&name("dev")).unwrap().entry.generation, Generation(4), "{damage}");
    }
}

#[tokio::test]
async fn any_flipped_byte_of_the_store_is_recovered_from() {
    let (home, export) = closed().await;
    let sound = fs::read(home.path().join("sled/db")).unwrap();
    let used = sound.iter().rposition(|byte| *byte != 0).unwrap();
    for place in (0..used).step_by(used / 23) {
        let copy = tempfile::tempdir().unwrap();
        fs::create_dir(copy.path().join("sled")).unwrap();
        fs::copy(home.path().join("record.json"), copy.path().join("record.json")).unwrap();
        for file in ["conf", "db"] {
            fs::copy(home.path().join("sled").join(file), copy.path().join("sled").join(file)).unwrap();
        }
        let mut bytes = sound.clone();
        bytes[place] ^= 0xff;
        fs::write(copy.path().join("sled/db"), bytes).unwrap();
        let handles = open(copy.path()).unwrap();
        let restored = handles.desired.export().unwrap().environments;
        assert_eq!(restored, export.environments, "byte {place}: {:?}", handles.notices);
    }
}

#[tokio::test]
async fn a_lost_store_is_restored_from_its_backup() {
    let (home, export) = closed().await;
    fs::remove_dir_all(home.path().join("sled")).unwrap();
    let handles = open(home.path()).unwrap();
    assert!(has_notice(&handles, "restored from its backup file"), "{:?}", handles.notices);
    assert_eq!(handles.desired.export().unwrap().environments, export.environments);
}

#[tokio::test]
async fn a_corrupt_backup_is_set_aside() {
    let (home, _) = closed().await;
    fs::remove_dir_all(home.path().join("sled")).unwrap();
    fs::write(home.path().join("record.json"), b"{ torn").unwrap();
    let handles = open(home.path()).unwrap();
    assert!(has_notice(&handles, "record.json.unreadable-"), "{:?}", handles.notices);
    assert!(handles.desired.all().unwrap().is_empty());
}

#[tokio::test]
async fn a_backup_of_another_record_is_not_restored() {
    let (home, export) = closed().await;
    let other = Export { id: "0".repeat(32), ..export.clone() };
    plant(home.path(), DocumentKind::Desired, b"dev", Some(b"spoilt"));
    fs::write(home.path().join("record.json"), serde_json::to_vec(&other).unwrap()).unwrap();
    let handles = open(home.path()).unwrap();
    assert!(has_notice(&handles, "another record"), "{:?}", handles.notices);
    assert_eq!(handles.id, export.id);
}

#[tokio::test]
async fn corrupt_documents_are_set_aside_and_others_stay_readable() {
    let (home, export) = closed().await;
    let swapped = serde_json::to_vec(&export.environments[0].desired).unwrap();
    plant(home.path(), DocumentKind::Desired, b"prod", Some(&swapped));
    plant(home.path(), DocumentKind::Status, b"test", Some(b"{}"));
    plant(home.path(), DocumentKind::Events, b"dev\0nonsense", Some(b"\xff"));
    plant(home.path(), DocumentKind::History, &crate::record::keys::numbered(&name("dev"), 1), Some(b"[]"));
    let handles = open(home.path()).unwrap();
    // `plant` opens the store too, so the opens in between set the first three aside.
    assert!(has_notice(&handles, "`history`"), "{:?}", handles.notices);
    assert_eq!(handles.shared_store().pairs(DocumentKind::Quarantine, b"").count(), 4);
    let restored = handles.desired.export().unwrap().environments;
    assert_eq!(restored, export.environments, "the mirror knows what history was");
    assert_eq!(handles.status.status(&name("test")).unwrap(), None);
    assert_eq!(handles.desired.get(&name("prod")).unwrap().entry.generation, Generation(0));
    handles.status.memory(&name("dev")).map(|memory| assert_eq!(memory, Memory::default())).unwrap();
}

#[tokio::test]
async fn an_unreadable_record_is_restored_with_its_hold_from_the_backup() {
    let (home, export) = closed().await;
    plant(home.path(), DocumentKind::Desired, b"dev", Some(b"not json"));
    let handles = open(home.path()).unwrap();
    assert!(has_notice(&handles, "the record of `dev` from the backup file"), "{:?}", handles.notices);
    assert_eq!(handles.desired.export().unwrap().environments, export.environments);
}

#[tokio::test]
async fn an_unreadable_record_without_a_backup_is_restored_from_history() {
    let (home, export) = closed().await;
    plant(home.path(), DocumentKind::Desired, b"dev", Some(b"not json"));
    fs::remove_file(home.path().join("record.json")).unwrap();
    let handles = open(home.path()).unwrap();
    assert!(has_notice(&handles, "from history (generation 3)"), "{:?}", handles.notices);
    let dev = handles.desired.get(&name("dev")).unwrap();
    assert_eq!(dev.entry, export.environments[0].desired.entry);
}

#[tokio::test]
async fn an_unreadable_document_does_not_affect_other_environments() {
    let record = fixture();
    record.handles.writer.submit(&name("test"), set(1), &[]).await.unwrap();
    record.handles.spoil(&name("dev"));
    let error = record.handles.desired.get(&name("dev")).unwrap_err();
    assert!(error.to_string().contains("`dev`"), "{error}");
    assert_eq!(record.handles.desired.all().unwrap().len(), 1);
    record.handles.writer.submit(&name("test"), set(2), &[]).await.unwrap();
}

#[tokio::test]
async fn a_record_from_a_newer_version_is_rejected_unchanged() {
    let (home, _) = closed().await;
    plant(home.path(), DocumentKind::Meta, b"format", Some(&2_u64.to_be_bytes()));
    let error = open(home.path()).err().unwrap();
    assert!(matches!(error, OpenError::TooNew { found: 2, .. }), "{error:?}");
    assert!(error.to_string().contains("export"), "{error}");
}

#[tokio::test]
async fn a_backup_from_a_newer_version_is_rejected() {
    let home = tempfile::tempdir().unwrap();
    fs::write(home.path().join("record.json"), br#"{"format": 3, "news": true}"#).unwrap();
    assert!(matches!(open(home.path()), Err(OpenError::TooNew { found: 3, .. })));
}

#[tokio::test]
async fn the_backup_contains_the_record_in_readable_form() {
    let record = fixture();
    record.handles.writer.submit(&name("dev"), set(1), &[]).await.unwrap();
    let export = record.handles.desired.export().unwrap();
    record.handles.close().await.unwrap();
    let text = fs::read_to_string(record.home.path().join("record.json")).unwrap();
    assert_eq!(serde_json::from_str::<Export>(&text).unwrap(), export);
    assert!(text.lines().count() > 10, "{text}");
}

#[tokio::test]
async fn a_change_is_backed_up_automatically() {
    let record = fixture();
    record.handles.writer.submit(&name("dev"), set(1), &[]).await.unwrap();
    let export = record.handles.desired.export().unwrap();
    let path = record.home.path().join("record.json");
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    loop {
        let mirrored = fs::read(&path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
        if mirrored.as_ref() == Some(&export) {
            break;
        }
        assert!(std::time::Instant::now() < deadline, "never mirrored");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

/// Removes the store and its backup file.
fn lose(home: &Path) {
    fs::remove_dir_all(home.join("sled")).unwrap();
    fs::remove_file(home.join("record.json")).unwrap();
}

#[tokio::test]
async fn the_id_survives_the_loss_of_the_store_and_its_backup_file() {
    let (home, export) = closed().await;
    let before = open(home.path()).unwrap().instance;
    lose(home.path());
    let handles = open(home.path()).unwrap();
    assert_eq!(handles.id, export.id);
    // Its events are numbered anew, so a controller must not take them for those of the lost store.
    let instance = handles.instance.clone();
    assert_ne!(instance, before);
    assert!(
        has_notice(&handles, "abide import FILE") && has_notice(&handles, &export.id),
        "{:?}",
        handles.notices
    );
    assert!(handles.desired.export().unwrap().environments.is_empty());
    drop(handles);
    let mode = fs::metadata(home.path().join("id")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let handles = open(home.path()).unwrap();
    assert_eq!((&handles.id, &handles.instance), (&export.id, &instance));
    assert_eq!(handles.notices, [""; 0]);
}

#[tokio::test]
async fn the_file_of_the_id_follows_the_store_and_an_import() {
    let (home, export) = closed().await;
    // A folder of an earlier version has no such file, and one with a wrong file is corrected.
    for wrong in [None, Some("nonsense"), Some("0123456789abcdef0123456789abcdef")] {
        fs::remove_file(home.path().join("id")).unwrap();
        if let Some(wrong) = wrong {
            fs::write(home.path().join("id"), wrong).unwrap();
        }
        assert_eq!(open(home.path()).unwrap().id, export.id);
        assert_eq!(fs::read_to_string(home.path().join("id")).unwrap().trim(), export.id);
    }
    let other = fixture();
    assert_ne!(other.handles.id, export.id);
    other.handles.writer.import(export.clone()).await.unwrap();
    drop(other.handles);
    lose(other.home.path());
    assert_eq!(open(other.home.path()).unwrap().id, export.id);
}

#[tokio::test]
async fn no_new_id_replaces_a_file_that_cannot_be_read() {
    let (home, _) = closed().await;
    lose(home.path());
    fs::remove_file(home.path().join("id")).unwrap();
    fs::create_dir(home.path().join("id")).unwrap();
    assert!(matches!(open(home.path()), Err(OpenError::Io { doing: "reading", .. })));
}

/// Puts a link to a file of another folder in the place of `name`. Returns that folder.
fn link(home: &Path, name: &str) -> TempDir {
    let other = tempfile::tempdir().unwrap();
    fs::write(other.path().join("victim"), "unchanged").unwrap();
    let _ = fs::remove_file(home.join(name));
    symlink(other.path().join("victim"), home.join(name)).unwrap();
    other
}

fn victim(folder: &TempDir) -> String {
    fs::read_to_string(folder.path().join("victim")).unwrap()
}

#[tokio::test]
async fn files_of_the_record_are_not_written_through_links() {
    for place in ["record.json", ".record.json.new", "id", ".id.new"] {
        let (home, export) = closed().await;
        // Both files are missing, so both are written.
        for file in ["record.json", "id"] {
            fs::remove_file(home.path().join(file)).unwrap();
        }
        let other = link(home.path(), place);
        let handles = open(home.path()).unwrap();
        assert_eq!(handles.desired.export().unwrap(), export, "{place}");
        handles.writer.submit(&name("dev"), set(4), &[]).await.unwrap();
        handles.close().await.unwrap();
        assert_eq!(victim(&other), "unchanged", "{place}");
        for file in ["record.json", "id"] {
            assert!(fs::symlink_metadata(home.path().join(file)).unwrap().is_file(), "{place}: {file}");
        }
    }
}

#[tokio::test]
async fn a_link_in_place_of_the_lock_or_of_a_file_of_the_store_is_refused() {
    for place in ["lock", "sled/db"] {
        let (home, _) = closed().await;
        let other = link(home.path(), place);
        let error = open(home.path()).err().unwrap();
        let message = chain(&error);
        assert!(message.contains("symbolic link") && message.contains(place), "{message}");
        assert_eq!(victim(&other), "unchanged", "{place}");
    }
}
