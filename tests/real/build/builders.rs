//! BuildKit and the classic builder: secrets, caches, output, cancellation.

use super::{CANARY, PATIENCE, content, holds, is_running, peak_memory};
use crate::common::{Space, Workshop, build_log, busybox, docker, eventually, site_image, status};

#[test]
fn buildkit_mounts_a_secret_that_no_layer_log_or_answer_ever_holds() {
    let Some(space) = Space::new() else { return };
    let Some(base) = busybox(&space) else { return };
    let site = site_image(&space, "COPY --from=maker /made.txt /made.txt");
    // Named after this test, so that no earlier run has filled the cache.
    let (mounts, once) =
        ("--mount=type=secret,id=token --mount=type=cache,target=/cache", space.name("once"));
    let dockerfile = format!(
        "FROM {base} AS maker\n\
         RUN {mounts} cat /run/secrets/token && echo {once} > /cache/x && echo RAN > /made.txt\n{site}"
    );
    let build = "[environment.dev.build]\nsecrets = { token = { secret_env = \"ABIDE_TEST_TOKEN\" } }\n";
    let shop = Workshop::new(&space, &[("Dockerfile", &dockerfile)], build);
    let daemon = shop.daemon_with(&[("ABIDE_TEST_TOKEN", CANARY)]);
    let image = shop.await_ready(&daemon);
    assert_eq!(content(&space, &image)["made.txt"], "RAN\n");
    let log = build_log(&daemon);
    assert!(log.contains("[redacted]") && !log.contains(CANARY), "{log}");
    assert!(!docker(&["history", "--no-trunc", &image]).contains(CANARY));
    assert!(!content(&space, &image).values().any(|content| content.contains(CANARY)));

    // A failing command that prints the secret is reported without it.
    shop.push(&daemon, &[("Dockerfile", &dockerfile.replace("echo RAN", "false"))]);
    let message = shop.await_reason(&daemon, "BuildFailed");
    assert!(message.contains("building Dockerfile") && message.contains("[redacted]"), "{message}");
    eventually("the build's directory is gone", PATIENCE, || shop.work_dirs().is_empty());
    assert!(!holds(&shop.desired_state, CANARY) && !daemon.log().contains(CANARY));
}

#[test]
fn the_classic_builder_is_used_if_chosen_and_rejects_secrets() {
    let Some(space) = Space::new() else { return };
    let Some(base) = busybox(&space) else { return };
    let site = site_image(&space, "COPY --from=0 /made.txt /made.txt");
    let dockerfile = format!("FROM {base}\nRUN echo RAN by $0 > /made.txt\n{site}");
    let shop = Workshop::new(&space, &[("Dockerfile", &dockerfile)], "[environment.dev.build]\n");
    let daemon = shop.daemon_with(&[("DOCKER_BUILDKIT", "0"), ("ABIDE_TEST_TOKEN", CANARY)]);
    let image = shop.await_ready(&daemon);
    assert_eq!(content(&space, &image)["made.txt"], "RAN by /bin/sh\n");
    let log = build_log(&daemon);
    assert!(log.contains("Step 1/") && log.contains("Successfully built"), "{log}");

    shop.push(&daemon, &[("Dockerfile", &dockerfile.replace("echo RAN", "echo the reason >&2; exit 3; "))]);
    let message = shop.await_reason(&daemon, "BuildFailed");
    assert!(message.contains("returned a non-zero code: 3") && message.contains("the reason"), "{message}");

    shop.declare("[environment.dev.build]\nsecrets = { token = { secret_env = \"ABIDE_TEST_TOKEN\" } }\n");
    shop.push(&daemon, &[("Dockerfile", &dockerfile)]);
    eventually("secrets are refused", PATIENCE, || {
        status(&daemon, "dev")["message"].as_str().unwrap().contains("need BuildKit")
    });
}

#[test]
fn a_new_push_cancels_the_previous_build_in_the_engine_too() {
    let Some(space) = Space::new() else { return };
    let Some(base) = busybox(&space) else { return };
    let marker = space.name("marker");
    let slow = |builder: &str| {
        let site = site_image(&space, "COPY --from=slow /tmp /slow");
        format!("FROM {base} AS slow\nRUN echo begun; sleep 4243; : {builder} {marker}\n{site}")
    };
    for builder in ["1", "0"] {
        let space = Space::new().unwrap();
        let shop = Workshop::new(&space, &[("Dockerfile", &slow(builder))], "[environment.dev.build]\n");
        let daemon = shop.daemon_with(&[("DOCKER_BUILDKIT", builder)]);
        shop.await_log(&daemon, "begun");
        eventually("the command runs", PATIENCE, || is_running(&marker));
        shop.push(&daemon, &[("Dockerfile", &site_image(&space, ""))]);
        shop.await_ready(&daemon);
        eventually("the command was ended", PATIENCE, || !is_running(&marker));
        eventually("its container is gone", PATIENCE, || space.containers().len() == 1);
        eventually("the build's directory is gone", PATIENCE, || shop.work_dirs().is_empty());
        let builds = daemon.log().matches("build started").count();
        assert_eq!(builds, 2, "{}", daemon.log());
    }
}

#[test]
fn a_build_log_is_followed_live_and_kept_afterwards() {
    let Some(space) = Space::new() else { return };
    let Some(base) = busybox(&space) else { return };
    let dockerfile = format!(
        "FROM {base} AS slow\nRUN echo first; sleep 3; echo second {}\n{}",
        space.name("once"),
        site_image(&space, "COPY --from=slow /tmp /slow")
    );
    let shop = Workshop::new(&space, &[("Dockerfile", &dockerfile)], "[environment.dev.build]\n");
    let daemon = shop.daemon();
    let early = shop.await_log(&daemon, "\nfirst");
    assert!(!early.contains("\nsecond"), "{early}");
    // Ends by itself once the build has ended.
    let followed = daemon.abide(&["logs", "dev", "--build", "--follow"]);
    assert!(followed.code == 0 && followed.stdout.contains("\nsecond"), "{followed:?}");
    shop.await_ready(&daemon);
    assert!(build_log(&daemon).contains("\nbuilt sha256:"));
}

#[test]
#[ignore = "slow: .ci/slow runs it"]
fn endless_build_output_fills_neither_disk_nor_memory() {
    let Some(space) = Space::new() else { return };
    let Some(base) = busybox(&space) else { return };
    let dockerfile = format!(
        "FROM {base} AS loud\nRUN yes {} | head -c 40000000; echo the end\n{}",
        "x".repeat(100),
        site_image(&space, "COPY --from=loud /tmp /loud")
    );
    let shop = Workshop::new(&space, &[("Dockerfile", &dockerfile)], "[environment.dev.build]\n");
    // The classic builder passes all output on; BuildKit truncates it.
    let daemon = shop.daemon_with(&[("DOCKER_BUILDKIT", "0")]);
    shop.await_ready(&daemon);
    let log = std::fs::metadata(shop.desired_state.join("record/logs/1.log")).unwrap().len();
    assert!((1_000_000..18_000_000).contains(&log), "{log}");
    let peak = peak_memory(&daemon);
    assert!(peak < 200_000, "{peak} KiB");
}
