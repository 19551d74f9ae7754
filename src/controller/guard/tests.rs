//! Tests of the guard's input folder, as written by the daemon.

use super::*;

fn is_held(folder: &Path) -> bool {
    let file = File::open(folder.join(ALIVE)).unwrap();
    matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock))
}

fn group(id: &str) -> GuardGroup {
    GuardGroup { container: id.to_owned(), sandbox: None, is_beside: false, may_end: false }
}

#[test]
fn the_guard_folder_holds_the_lock_and_the_desired_containers() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("guard");
    let [dev, prod] = ["dev", "prod"].map(|name| EnvironmentName::new(name).unwrap());
    let guard = Guard::open(&folder);
    assert!(is_held(&folder) && !guard.is_needed());
    guard.set(&dev, Some(group("one")));
    guard.set(&prod, Some(group("two")));
    assert_eq!(fs::read_to_string(folder.join("environment.dev")).unwrap(), "container one\n");
    drop(guard);
    assert!(!is_held(&folder));

    // The files of an earlier process count until abide replaces them.
    let guard = Guard::open(&folder);
    assert!(guard.is_needed());
    guard.retain(&BTreeSet::from([dev.clone()]));
    assert!(!folder.join("environment.prod").exists());
    guard.set(&dev, None);
    assert!(!guard.is_needed() && !folder.join("environment.dev").exists());
}

#[test]
fn abide_acquires_the_lock_despite_a_guards_brief_check() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join(ALIVE), "").unwrap();
    let looking = File::open(dir.path().join(ALIVE)).unwrap();
    looking.lock_shared().unwrap();
    let ended = std::thread::spawn(move || {
        std::thread::sleep(LOCK_PAUSE * 2);
        drop(looking);
    });
    let guard = Guard::open(dir.path());
    ended.join().unwrap();
    assert_eq!(guard.trouble(), None);
}

#[tokio::test]
async fn a_deliberate_stop_is_recorded_and_releases_the_lock() {
    let dir = tempfile::tempdir().unwrap();
    let guard = Guard::open(dir.path());
    guard.hand_over(&Engine::new(Some("unix:///nonexistent.sock".to_owned()))).await;
    assert!(dir.path().join(HANDED_OVER).exists() && !is_held(dir.path()));
    let _again = Guard::open(dir.path());
    assert!(!dir.path().join(HANDED_OVER).exists());
}

#[test]
fn an_unusable_guard_folder_is_reported() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("file"), "").unwrap();
    let guard = Guard::open(&dir.path().join("file"));
    guard.set(&EnvironmentName::new("dev").unwrap(), Some(group("one")));
    assert!(guard.trouble().unwrap().contains("file"));
}
