//! Programs that are meant to end: `restart = "on-failure"`.

use crate::commands::{runs, versioned};
use crate::common::{Life, PATIENCE, Space, Spot, busybox, docker, eventually};

/// A program that leaves a line in its volume, and fails as long as a file is missing.
fn declared(space: &Space) -> String {
    format!(
        "restart = \"on-failure\"\nvolumes = [\"{}:/data\"]\nentrypoint = [\"/bin/sh\", \"-c\"]\n\
         command = [\"echo ran $VERSION >> /data/runs; test -e /data/good || exit 3\"]\n",
        space.name("data")
    )
}

fn is_complete(status: &serde_json::Value) -> bool {
    status["status"] == "Ready"
        && status["reason"] == "Completed"
        && status["observed_generation"] == status["generation"]
}

#[test]
fn a_program_is_retried_until_exit_code_0_and_then_left_alone() {
    let Some(space) = Space::new() else { return };
    let Some(shell) = busybox(&space) else { return };
    let spot = Spot::new(&space, &declared(&space));
    let daemon = spot.daemon();
    assert_eq!(spot.set(&versioned(&space, &shell, "one", "")).code, 0);
    let failing = spot.until("it is retried", |status| status["reason"] == "CrashLoop");
    assert!(failing["message"].as_str().unwrap().contains("exited with code 3"), "{failing}");
    eventually("it is started again", PATIENCE, || runs(&spot.name, "one") >= 2);
    let good = space.dir().join("good");
    std::fs::write(&good, "").unwrap();
    docker(&["cp", good.to_str().unwrap(), &format!("{}:/data/good", spot.name)]);
    let status = spot.until("it is complete", is_complete);
    assert!(status["message"].as_str().unwrap().contains("exit code 0"), "{status}");
    assert_eq!(spot.abide(&["wait", "dev"]).code, 0);

    let (life, count) = (Life::of(&spot.name).unwrap(), runs(&spot.name, "one"));
    assert_eq!(spot.abide(&["sync", "dev"]).code, 0);
    spot.until("the sync was acted upon", |status| status["sync"] == status["observed_sync"]);
    assert_eq!(spot.abide(&["diff", "dev"]).code, 0);
    daemon.kill();
    let _daemon = spot.daemon();
    spot.until("the next daemon has looked at it", is_complete);
    assert_eq!(spot.abide(&["diff", "dev"]).code, 0);
    assert_eq!((Life::of(&spot.name).unwrap(), runs(&spot.name, "one")), (life.clone(), count));

    docker(&["start", &spot.name]);
    spot.until("a run by hand completes it too", |status| {
        is_complete(status) && Life::of(&spot.name).is_some_and(|now| now != life && !now.is_running())
    });
    assert_eq!(runs(&spot.name, "one"), count + 1);

    assert_eq!(spot.set(&versioned(&space, &shell, "two", "")).code, 0);
    spot.until("the next version is complete", |status| {
        is_complete(status) && Life::of(&spot.name).is_some_and(|now| now.image != life.image)
    });
    assert_eq!((runs(&spot.name, "one"), runs(&spot.name, "two")), (count + 1, 1));
}
