//! Backups of volumes by jobs, and restores.

use serde_json::Value;

use crate::commands::versioned;
use crate::common::{Life, PATIENCE, Pair, Space, Spot, busybox, docker, eventually, try_docker};

/// A schedule that does not come during a test.
const RARELY: &str = "0 0 29 2 *";

/// A volume at `/data`, and a job that backs it up into `folder`.
pub(crate) fn declared(space: &Space, environment: &str, folder: &str, more: &str) -> String {
    let volume = space.name("data");
    format!(
        "volumes = [\"{volume}:/data\"]\n[job.nightly]\nenvironment = \"{environment}\"\nschedule = \"{RARELY}\"\n\
         backup = {{ volume = \"{volume}\", folder = \"{folder}\"{more} }}\n"
    )
}

pub(crate) fn write(container: &str, file: &str, text: &str) {
    docker(&["exec", container, "sh", "-c", &format!("echo {text} > /data/{file}")]);
}

pub(crate) fn read(container: &str, file: &str) -> Option<String> {
    try_docker(&["exec", container, "cat", &format!("/data/{file}")])
}

pub(crate) fn archives(folder: &std::path::Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn data_that_was_destroyed_comes_back_by_a_restore() {
    let Some(space) = Space::new() else { return };
    let Some(shell) = busybox(&space) else { return };
    let folder = space.dir().join("backups");
    let spot = Spot::new(&space, &declared(&space, "dev", folder.to_str().unwrap(), ", keep = 2"));
    let daemon = spot.daemon();
    assert_eq!(spot.set(&versioned(&space, &shell, "one", "")).code, 0);
    spot.await_ready();
    write(&spot.name, "first", "precious");
    docker(&[
        "exec",
        &spot.name,
        "sh",
        "-c",
        "mkdir /data/sub; echo deep > /data/sub/file; chmod 600 /data/sub/file",
    ]);
    let life = Life::of(&spot.name).unwrap();
    let ran = spot.abide(&["jobs", "run", "nightly"]);
    assert!(ran.code == 0 && ran.stdout.contains("backed up"), "{ran:?}");
    spot.await_ready();
    assert_eq!(Life::of(&spot.name).unwrap(), life, "it was only paused");
    let archive = archives(&folder);
    assert!(archive.len() == 1 && archive[0].starts_with("dev-nightly-"), "{archive:?}");
    let history = spot.abide(&["jobs", "history", "nightly", "-o", "json"]).stdout;
    let history: Vec<Value> = serde_json::from_str(&history).unwrap();
    assert_eq!(history[0]["archive"], archive[0].as_str());
    let events = spot.abide(&["events", "dev"]).stdout;
    assert!(events.contains("pause container") && events.contains("unpause container"), "{events}");

    // Destroyed by the program itself.
    docker(&["exec", &spot.name, "sh", "-c", "rm -r /data/first /data/sub; echo later > /data/later"]);
    let restored = spot.abide(&["restore", "nightly", "--yes"]);
    assert!(restored.code == 0 && restored.stdout.contains("restored"), "{restored:?}");
    spot.await_ready();
    assert_eq!(read(&spot.name, "first").as_deref(), Some("precious"));
    assert_eq!(read(&spot.name, "sub/file").as_deref(), Some("deep"));
    assert_eq!(read(&spot.name, "later"), None, "a restore brings back the whole volume");
    let before: Vec<_> = archives(&folder).into_iter().filter(|name| name.contains("-before-")).collect();
    assert_eq!(before.len(), 1, "the content before the restore is kept");
    let back = spot.abide(&["restore", "nightly", &before[0], "--yes"]);
    assert_eq!(back.code, 0, "{back:?}");
    spot.await_ready();
    assert_eq!(read(&spot.name, "later").as_deref(), Some("later"));

    // Destroyed with the volume.
    let volume = space.name("data");
    daemon.kill();
    let users = docker(&["ps", "--all", "--quiet", "--filter", &format!("volume={volume}")]);
    users.lines().for_each(|id| drop(docker(&["rm", "--force", id])));
    docker(&["volume", "rm", &volume]);
    let _daemon = spot.daemon();
    spot.until("its loss is reported", |status| status["reason"] == "VolumeMissing");
    let restored = spot.abide(&["restore", "nightly", &archive[0], "--yes"]);
    assert_eq!(restored.code, 0, "{restored:?}");
    spot.await_ready();
    assert_eq!(read(&spot.name, "first").as_deref(), Some("precious"));

    // A damaged archive changes nothing.
    std::fs::write(folder.join("broken.tar"), "not an archive").unwrap();
    let refused = spot.abide(&["restore", "nightly", "broken.tar", "--yes"]);
    assert!(refused.code == 1 && refused.stdout.contains("cut off"), "{refused:?}");
    spot.await_ready();
    assert_eq!(read(&spot.name, "first").as_deref(), Some("precious"));
    let lost = spot.abide(&["restore", "nightly", "../m.tar", "--yes"]);
    assert_eq!(lost.code, 2, "{lost:?}");

    for _ in 0..3 {
        assert_eq!(spot.abide(&["jobs", "run", "nightly"]).code, 0);
    }
    let left = archives(&folder).into_iter().filter(|name| name.starts_with("dev-nightly-2")).count();
    assert_eq!(left, 2, "older archives are removed");
    spot.await_ready();
    eventually("nothing is left to do", PATIENCE, || spot.abide(&["diff", "dev"]).code == 0);
}

#[test]
fn a_command_prepares_a_backup_while_the_service_keeps_running() {
    let Some(space) = Space::new() else { return };
    let Some(shell) = busybox(&space) else { return };
    let folder = space.dir().join("backups");
    let dump = ", entrypoint = [\"/bin/sh\", \"-c\"], command = [\"echo dumping; echo $VERSION > /data/dump; exit ${FAILS:-0}\"]";
    let lines = declared(&space, "dev", folder.to_str().unwrap(), dump);
    let spot = Spot::new(&space, &lines);
    let _daemon = spot.daemon();
    assert_eq!(spot.set(&versioned(&space, &shell, "one", "")).code, 0);
    spot.await_ready();
    let ran = spot.abide(&["jobs", "run", "nightly"]);
    assert!(ran.code == 0 && ran.stdout.contains("dumping") && ran.stdout.contains("backed up"), "{ran:?}");
    let events = spot.abide(&["events", "dev"]).stdout;
    assert!(!events.contains("pause container"), "{events}");
    let archive = folder.join(&archives(&folder)[0]);
    let mut archive = tar::Archive::new(std::fs::File::open(archive).unwrap());
    let names: Vec<String> = archive
        .entries()
        .unwrap()
        .map(|entry| entry.unwrap().path().unwrap().display().to_string())
        .collect();
    assert!(names.contains(&"dump".to_owned()), "{names:?}");

    assert_eq!(spot.set(&versioned(&space, &shell, "two", "FAILS=5")).code, 0);
    spot.await_ready();
    let failed = spot.abide(&["jobs", "run", "nightly"]);
    assert_eq!(failed.code, 5, "{failed:?}");
    assert_eq!(archives(&folder).len(), 1, "a failed command leaves no archive");
}

#[test]
fn a_volume_on_the_host_of_an_agent_is_backed_up_and_restored_there() {
    let Some(mut pair) = Pair::new() else { return };
    let Some(shell) = busybox(&pair.space) else { return };
    let folder = pair.space.dir().join("backups");
    pair.declare(&declared(&pair.space, "prod", folder.to_str().unwrap(), ""));
    let image = pair.push(&versioned(&pair.space, &shell, "one", ""));
    pair.abide(&["set", "prod", &image]);
    let refused = pair.until("the policy allows no folder", |view| view["reason"] == "PolicyRefused");
    assert!(refused["message"].as_str().unwrap().contains("mounting"), "{refused}");
    pair.kill_agent();
    let policy = format!("binds = [\"{}\"]\n", folder.display());
    std::fs::write(pair.folder.join("policy.toml"), policy).unwrap();
    pair.start_agent();
    pair.ready();
    let name = pair.name();
    let shell_in = |command: &str| pair.host.try_docker(&["exec", &name, "sh", "-c", command]);
    shell_in("echo precious > /data/first").unwrap();
    let ran = pair.abide(&["jobs", "run", "nightly"]);
    assert!(ran.stdout.contains("backed up"), "{ran:?}");
    assert_eq!(archives(&folder).len(), 1);
    pair.ready();
    shell_in("rm /data/first").unwrap();
    eventually("the controller knows the archive", PATIENCE, || {
        pair.abide(&["jobs", "history", "nightly", "-o", "json"]).stdout.contains(&archives(&folder)[0])
    });
    let restored = pair.abide(&["restore", "nightly", "--yes"]);
    assert!(restored.stdout.contains("restored"), "{restored:?}");
    let is_back = || shell_in("cat /data/first").is_some_and(|text| text.trim() == "precious");
    eventually("the data is back", PATIENCE, is_back);
}
