//! Steps before the final image, and leftovers of interrupted ones.

use super::{PATIENCE, content, peak_memory, serving, step, with_step};
use crate::common::{Space, busybox, docker, eventually};

#[test]
fn a_failing_or_useless_step_fails_only_the_build() {
    let Some(space) = Space::new() else { return };
    let Some(base) = busybox(&space) else { return };
    let good = step(&base, "tar -cf - /bin/sh");
    let shop = with_step(&space, "", "build.tar", "ADD build.tar /made/", &good);
    let daemon = shop.daemon();
    let image = shop.await_ready(&daemon);
    assert!(content(&space, &image).contains_key("made/bin/sh"));
    for (command, words) in [
        ("echo why >&2; exit 7", "step 1 exited with code 7; its last output: why"),
        ("true", "the output of step 1 (build.tar): "),
        ("echo no tar at all", "the output of step 1 (build.tar): "),
    ] {
        shop.push(&daemon, &[("Dockerfile.dist", &step(&base, command))]);
        let message = shop.await_reason(&daemon, "BuildFailed");
        assert!(message.contains(words), "{command}: {message}");
        assert_eq!(serving(&shop), format!("{image} true"), "{command}");
    }
    assert_eq!(space.containers().len(), 1, "a step's container was left");
}

#[test]
fn a_step_exceeding_a_limit_fails_the_build_naming_the_limit() {
    let Some(space) = Space::new() else { return };
    let Some(base) = busybox(&space) else { return };
    let limits = "memory = \"48MiB\"\npids = 12\nmax_output = \"6MiB\"\n";
    let good = step(&base, "head -c 6000000 /dev/zero");
    let shop = with_step(&space, limits, "build.txt", "COPY build.txt /build.txt", &good);
    let daemon = shop.daemon();
    let image = shop.await_ready(&daemon);
    for (command, words) in [
        // All at once: a program that grows slowly can take a minute at its limit, reading its own code
        // again and again.
        ("dd if=/dev/zero of=/dev/null bs=200M count=1", "exceeded its memory limit of 48 MiB (`memory`"),
        ("yes", "exceeded its output limit of 6 MiB (`max_output`"),
        ("for i in 1 2 3 4 5 6 7 8 9 a b c d e f; do sleep 30 & done; wait", "at its limit of 12 processes"),
    ] {
        shop.push(&daemon, &[("Dockerfile.dist", &step(&base, command))]);
        let message = shop.await_reason(&daemon, "BuildFailed");
        assert!(message.contains(words), "{command}: {message}");
        assert_eq!(serving(&shop), format!("{image} true"), "{command}");
    }
    eventually("the steps' containers are gone", PATIENCE, || space.containers().len() == 1);
}

#[test]
fn an_archive_with_an_oversized_name_fails_the_build_cheaply() {
    let Some(space) = Space::new() else { return };
    let Some(base) = busybox(&space) else { return };
    // Octal, as the shell's `printf` takes it, and with the backslashes doubled for the Dockerfile.
    let mut header = tar::Header::new_gnu();
    header.set_path("././@LongLink").unwrap();
    header.set_entry_type(tar::EntryType::GNULongName);
    header.set_size(2 << 30);
    header.set_cksum();
    let header: String = header.as_bytes().iter().map(|byte| format!("\\\\{byte:03o}")).collect();
    // The members of a gzip stream are concatenated: 2 MB in all.
    let bomb = step(
        &base,
        &format!(
            "printf '{header}' | gzip; head -c 16777216 /dev/zero | gzip > /m; for i in $(seq 130); do cat /m; done"
        ),
    );
    let good = step(&base, "tar -czf - /bin/sh");
    let shop = with_step(&space, "", "build.tar.gz", "ADD build.tar.gz /made/", &good);
    let daemon = shop.daemon();
    let image = shop.await_ready(&daemon);
    shop.push(&daemon, &[("Dockerfile.dist", &bomb)]);
    let message = shop.await_reason(&daemon, "BuildFailed");
    assert!(message.contains("a name of 2147483648 bytes"), "{message}");
    assert_eq!(serving(&shop), format!("{image} true"));
    let peak = peak_memory(&daemon);
    eprintln!("peak memory of the daemon: {peak} KiB");
    assert!(peak < 200_000, "{peak} KiB");
}

#[test]
fn a_build_timeout_ends_everything_the_build_started() {
    let Some(space) = Space::new() else { return };
    let Some(base) = busybox(&space) else { return };
    // The output is written before, so that a log driver would have it when the test checks.
    let slow = step(&base, "yes | head -c 1000000; sleep 4242");
    let shop = with_step(&space, "timeout = \"6s\"\n", "build.txt", "", &slow);
    let daemon = shop.daemon();
    eventually("the step runs", PATIENCE, || !space.containers().is_empty());
    let running = space.containers().into_iter().next().unwrap();
    let format = "{{.HostConfig.LogConfig.Type}} {{.Name}}";
    let seen = docker(&["inspect", "--format", format, &running]);
    assert!(seen.starts_with("none /abide-step-"), "{seen}");
    let message = shop.await_reason(&daemon, "BuildFailed");
    assert!(message.contains("exceeded its timeout of 6s"), "{message}");
    eventually("the step's container is gone", PATIENCE, || space.containers().is_empty());
    eventually("the build's directory is gone", PATIENCE, || shop.work_dirs().is_empty());
}

#[test]
fn a_leftover_step_container_is_removed_and_the_build_repeated() {
    let Some(space) = Space::new() else { return };
    let Some(base) = busybox(&space) else { return };
    let slow = step(&base, "sleep 2; echo made");
    let shop = with_step(&space, "", "build.txt", "COPY build.txt /build.txt", &slow);
    let daemon = shop.daemon();
    eventually("the step runs", PATIENCE, || !space.containers().is_empty());
    let left = space.containers();
    daemon.kill();
    let daemon = shop.daemon();
    let image = shop.await_ready(&daemon);
    assert_eq!(content(&space, &image)["build.txt"], "made\n");
    assert!(space.containers().is_disjoint(&left));
    assert_eq!(space.containers().len(), 1);
}

#[test]
fn a_build_that_killed_two_daemons_is_retried_only_on_request() {
    let Some(space) = Space::new() else { return };
    let Some(base) = busybox(&space) else { return };
    let slow = step(&base, "sleep 3; echo made");
    let shop = with_step(&space, "", "build.txt", "COPY build.txt /build.txt", &slow);
    for _ in 0..2 {
        let daemon = shop.daemon();
        let is_running = || {
            let containers = space.containers();
            containers.iter().any(|id| docker(&["inspect", "--format", "{{.State.Running}}", id]) == "true")
        };
        eventually("the step runs", PATIENCE, is_running);
        daemon.kill();
        for id in space.containers() {
            docker(&["rm", "-f", &id]);
        }
    }
    let daemon = shop.daemon();
    let message = shop.await_reason(&daemon, "BuildFailed");
    let words = "abide was killed 2 times during this build, most recently while step 1: running";
    assert!(message.contains(words), "{message}");
    assert_eq!(daemon.abide(&["sync", "dev"]).code, 0);
    shop.await_ready(&daemon);
}

#[test]
fn stopping_the_daemon_removes_a_running_steps_container() {
    let Some(space) = Space::new() else { return };
    let Some(base) = busybox(&space) else { return };
    let shop = with_step(&space, "", "build.txt", "", &step(&base, "sleep 4245"));
    let daemon = shop.daemon();
    eventually("the step runs", PATIENCE, || !space.containers().is_empty());
    assert!(daemon.terminate().success());
    assert!(space.containers().is_empty() && shop.work_dirs().is_empty());
}
