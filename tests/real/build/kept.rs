//! Impossible builds, and the images kept of successful ones.

use super::{PATIENCE, serving};
use crate::common::{Space, Workshop, abide, busybox, docker, eventually, site_image, try_docker};

#[test]
fn build_failures_are_reported_and_the_next_good_commit_builds() {
    let Some(space) = Space::new() else { return };
    let good = site_image(&space, "");
    let shop = Workshop::new(&space, &[("Dockerfile", &good)], "[environment.dev.build]\n");
    let daemon = shop.daemon();
    let image = shop.await_ready(&daemon);

    let dockerfile = shop.repo.work().join("Dockerfile");
    std::fs::remove_file(&dockerfile).unwrap();
    std::os::unix::fs::symlink("/etc/hostname", &dockerfile).unwrap();
    shop.push(&daemon, &[]);
    let message = shop.await_reason(&daemon, "BuildFailed");
    assert!(message.contains("Dockerfile") && message.contains("packing the context"), "{message}");

    std::fs::remove_file(&dockerfile).unwrap();
    shop.push(&daemon, &[]);
    let message = shop.await_reason(&daemon, "BuildFailed");
    assert!(message.contains("Dockerfile"), "{message}");

    shop.push(&daemon, &[("Dockerfile", "FROM scratch\nCOPY absent /absent\n")]);
    let message = shop.await_reason(&daemon, "BuildFailed");
    assert!(message.contains("building Dockerfile") && message.contains("absent"), "{message}");

    shop.push(&daemon, &[("Dockerfile", "FROM scratch\nNONSENSE\n")]);
    let message = shop.await_reason(&daemon, "BuildFailed");
    assert!(message.contains("NONSENSE"), "{message}");

    assert_eq!(serving(&shop), format!("{image} true"));
    shop.push(&daemon, &[("Dockerfile", &good.replace("COPY www", "COPY site.env /\nCOPY www"))]);
    assert_ne!(shop.await_ready(&daemon), image);
}

#[test]
fn check_rejects_a_build_context_outside_the_checkout() {
    let Some(space) = Space::new() else { return };
    for context in ["..", "a/../../b", "/etc"] {
        let space = Space::new().unwrap();
        let build = format!("[environment.dev.build]\ncontext = \"{context}\"\n");
        let shop = Workshop::new(&space, &[], &build);
        let checked = abide(&shop.desired_state, &["check"]);
        assert_ne!(checked.code, 0, "{context}: {checked:?}");
        assert!(checked.stderr.contains("context") || checked.stdout.contains("context"), "{checked:?}");
    }
    drop(space);
}

#[test]
fn a_base_image_of_an_unreachable_registry_is_reported_and_retried() {
    let Some(space) = Space::new() else { return };
    let dockerfile = format!("FROM localhost:1/{}nowhere\n", space.prefix());
    let shop = Workshop::new(&space, &[("Dockerfile", &dockerfile)], "[environment.dev.build]\n");
    let daemon = shop.daemon();
    let message = shop.await_reason(&daemon, "RegistryUnavailable");
    assert!(message.contains("building Dockerfile") && message.contains(&space.name("nowhere")), "{message}");
    assert!(message.contains("connection refused"), "{message}");
    eventually("it is tried again", PATIENCE, || daemon.log().matches("build started").count() > 1);
}

/// Waits for a container that replaces a removed one. Until a new daemon has reconciled, its status
/// is the old one.
fn serves_again(shop: &Workshop) {
    let running = ["inspect", "--format", "{{.State.Running}}", &shop.container];
    eventually("it serves again", PATIENCE, || try_docker(&running).as_deref() == Some("true"));
}

#[test]
fn a_removed_image_is_rebuilt_when_needed() {
    let Some(space) = Space::new() else { return };
    let shop = Workshop::new(&space, &[("Dockerfile", &site_image(&space, ""))], "[environment.dev.build]\n");
    let daemon = shop.daemon();
    let image = shop.await_ready(&daemon);
    daemon.kill();
    docker(&["rm", "--force", &shop.container]);
    docker(&["rmi", "--force", &image]);
    let daemon = shop.daemon();
    serves_again(&shop);
    shop.await_ready(&daemon);
    assert_eq!(daemon.log().matches("build started").count(), 2);
}

#[test]
fn an_unrecorded_build_is_repeated_from_the_cache() {
    let Some(space) = Space::new() else { return };
    let Some(base) = busybox(&space) else { return };
    let site = site_image(&space, "COPY --from=maker /made.txt /made.txt");
    let dockerfile =
        format!("FROM {base} AS maker\nRUN cat /proc/sys/kernel/random/uuid > /made.txt\n{site}");
    let shop = Workshop::new(&space, &[("Dockerfile", &dockerfile)], "[environment.dev.build]\n");
    let daemon = shop.daemon();
    let image = shop.await_ready(&daemon);
    // It has no label of abide, so that its ID depends only on its content.
    let labels = docker(&["inspect", "--format", "{{json .Config.Labels}}", &image]);
    assert!(!labels.contains("abide.b") && !labels.contains("abide.revision"), "{labels}");
    daemon.kill();
    docker(&["rm", "--force", &shop.container, &format!("{}.net", shop.container)]);
    // The record is removed, with everything known about builds; the engine's cache stays.
    std::fs::remove_dir_all(shop.desired_state.join("record")).unwrap();
    let daemon = shop.daemon();
    serves_again(&shop);
    assert_eq!(shop.await_ready(&daemon), image);
}

#[test]
fn only_old_managed_images_and_logs_are_pruned() {
    let Some(space) = Space::new() else { return };
    let site = site_image(&space, "COPY site.env /site.env");
    let shop = Workshop::new(&space, &[("Dockerfile", &site)], "[environment.dev.build]\n");
    let logs = shop.desired_state.join("record/logs");
    std::fs::create_dir_all(&logs).unwrap();
    for number in 1..=60 {
        std::fs::write(logs.join(format!("{number}.log")), "of an earlier life\n").unwrap();
    }
    let foreign = space.name("foreign");
    docker(&["build", "--quiet", "--tag", &foreign, shop.repo.work().to_str().unwrap()]);
    let daemon = shop.daemon();
    let mut images = vec![shop.await_ready(&daemon)];
    let connections = || std::fs::read_dir(format!("/proc/{}/fd", daemon.id())).unwrap().count();
    let before = connections();
    // An image with another name belongs to a user.
    docker(&["tag", &images[0], &space.name("kept-by-hand")]);
    for version in 1..=7 {
        shop.push(&daemon, &[("site.env", &format!("VERSION={version}\n"))]);
        images.push(shop.await_ready(&daemon));
    }
    let is_there = |image: &String| try_docker(&["inspect", "--format", "{{.Id}}", image]).is_some();
    eventually("two old images are gone", PATIENCE, || !is_there(&images[1]) && !is_there(&images[2]));
    for kept in images[3..].iter().chain([&images[0], &foreign]) {
        assert!(is_there(kept), "{kept} of {images:?}");
    }
    assert!(daemon.log().contains("removing an unused image"));
    let kept = std::fs::read_dir(&logs).unwrap().count();
    assert!((50..=52).contains(&kept) && logs.join("60.log").exists(), "{kept}");
    // A build that could not start immediately has a number, too.
    let log = daemon.log();
    let begun = log.lines().rev().find(|line| line.contains("build started")).unwrap();
    let number = &serde_json::from_str::<serde_json::Value>(begun).unwrap()["build"];
    assert!(logs.join(format!("{number}.log")).exists(), "the log of dev's last build, {number}");
    let after = connections();
    assert!(after < before + 6, "seven builds left connections open: {before}, then {after}");
    // A rollback to an image that still exists needs no build.
    daemon.abide(&["rollback", "dev"]);
    eventually("the one before runs", PATIENCE, || serving(&shop) == format!("{} true", images[6]));
}
