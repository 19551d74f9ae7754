//! The record is lost: what abide keeps, recognizes and restores.

use std::fs;

use serde_json::Value;

use crate::common::{Space, Spot, docker, eventually, made_image};

/// Removes the store and its backup file, as a disk may.
fn lose(spot: &Spot) {
    let record = spot.desired_state.join("record");
    fs::remove_dir_all(record.join("sled")).unwrap();
    fs::remove_file(record.join("record.json")).unwrap();
}

fn ids(space: &Space) -> (Vec<String>, Vec<String>) {
    (space.all_containers().into_iter().collect(), space.kept_volumes().into_iter().collect())
}

#[test]
fn a_daemon_that_lost_its_record_keeps_what_runs_and_names_the_remedies() {
    let Some(space) = Space::new() else { return };
    let spot = Spot::new(&space, "");
    let image = made_image(&space, "kept", "VOLUME /data");
    let other = made_image(&space, "other", "VOLUME /data");
    let daemon = spot.daemon();
    assert_eq!(spot.set(&other).code, 0);
    spot.await_ready();
    assert_eq!(spot.set(&image).code, 0);
    assert_eq!(spot.await_ready(), image);
    let export = spot.abide(&["export"]).stdout;
    let (container, before) = (spot.container(), ids(&space));
    daemon.kill();
    lose(&spot);

    let daemon = spot.daemon();
    let status = spot.until("it looked", |status| {
        status["reason"] == "NothingRecorded" && status["message"].as_str().unwrap().contains("keeps serving")
    });
    assert_eq!(status["status"], "Degraded", "{status}");
    let line = format!("abide set dev {image}");
    assert!(status["message"].as_str().unwrap().contains(&line), "{status}");
    let table = spot.abide(&["status"]);
    assert!(table.stderr.contains("abide import FILE"), "{}", table.stderr);
    assert_eq!((spot.container(), spot.page().as_deref()), (container.clone(), Some("kept")));
    // It heals what it recognizes.
    docker(&["kill", &spot.name]);
    eventually("it is started again", crate::common::PATIENCE, || spot.page().as_deref() == Some("kept"));

    assert_eq!(spot.set(&image).code, 0);
    assert_eq!(spot.await_ready(), image);
    assert_eq!((spot.container(), ids(&space)), (container.clone(), before.clone()), "nothing was made anew");

    // The same with a copy.
    daemon.kill();
    lose(&spot);
    let _daemon = spot.daemon();
    spot.until("it looked", |status| status["reason"] == "NothingRecorded");
    let file = space.dir().join("export.json");
    fs::write(&file, &export).unwrap();
    let imported = spot.abide(&["import", "--yes", file.to_str().unwrap()]);
    assert_eq!(imported.code, 0, "{}", imported.stderr);
    assert_eq!(spot.await_ready(), image);
    assert_eq!((spot.container(), ids(&space)), (container, before), "nothing was made anew");
    let again: Value = serde_json::from_str(&spot.abide(&["export"]).stdout).unwrap();
    assert_eq!(again["id"], serde_json::from_str::<Value>(&export).unwrap()["id"]);
}

#[test]
fn containers_of_a_lost_folder_are_taken_over_by_the_old_id() {
    let Some(space) = Space::new() else { return };
    let spot = Spot::new(&space, "");
    let image = made_image(&space, "kept", "VOLUME /data");
    let daemon = spot.daemon();
    assert_eq!(spot.set(&image).code, 0);
    spot.await_ready();
    let (container, before) = (spot.container(), ids(&space));
    let id = docker(&["inspect", "--format", "{{index .Config.Labels \"abide.record\"}}", &spot.name]);
    daemon.kill();
    let record = spot.desired_state.join("record");
    fs::remove_dir_all(&record).unwrap();

    let daemon = spot.daemon();
    assert_eq!(spot.set(&image).code, 0);
    let status = spot.until("the container is foreign", |status| status["reason"] == "NameConflict");
    assert!(status["message"].as_str().unwrap().contains("docs/operations.md"), "{status}");
    assert_eq!(spot.container(), container);
    daemon.kill();

    fs::remove_dir_all(&record).unwrap();
    fs::create_dir(&record).unwrap();
    fs::write(record.join("id"), format!("{id}\n")).unwrap();
    let _daemon = spot.daemon();
    assert_eq!(spot.set(&image).code, 0);
    assert_eq!(spot.await_ready(), image);
    assert_eq!((spot.container(), ids(&space)), (container, before), "nothing was made anew");
}
