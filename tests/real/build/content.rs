//! Builds are identified by their content: a commit that does not change it builds and restarts
//! nothing.

use super::{PATIENCE, content};
use crate::common::{Daemon, Space, Workshop, docker, eventually, free_ports, site_image, status};

/// Two applications in one repository, each with an environment that tracks the branch dev.
fn monorepo(space: &Space, more: &str) -> Workshop {
    let app = |name: &str| format!("{}LABEL app={name}\n", site_image(space, "COPY app.txt /app.txt"));
    let (a, b) = (app("a"), app("b"));
    let files = [
        ("apps/a/Dockerfile", a.as_str()),
        ("apps/b/Dockerfile", b.as_str()),
        ("apps/a/app.txt", "a 1"),
        ("apps/b/app.txt", "b 1"),
        ("README", "1"),
    ];
    let shop = Workshop::new(space, &files, "[environment.dev.build]\ncontext = \"apps/a\"\n");
    // Each application serves the example's own program and page.
    for app in ["apps/a", "apps/b"] {
        for part in ["bin", "www"] {
            let (from, to) = (shop.repo.work().join(part), shop.repo.work().join(app).join(part));
            assert!(std::process::Command::new("cp").arg("-r").arg(from).arg(to).status().unwrap().success());
        }
    }
    shop.repo.commit_and_push("dev", &[]);
    let [port] = free_ports();
    let other = shop.options("dev", &space.name("other-server"), port);
    shop.declare(&format!(
        "[environment.dev.build]\ncontext = \"apps/a\"\n{more}\n[environment.other]\n{other}\
         [environment.other.build]\ncontext = \"apps/b\"\n{more}\n"
    ));
    shop
}

fn await_both(shop: &Workshop, daemon: &Daemon) {
    let head = shop.repo.head("dev");
    for environment in ["dev", "other"] {
        eventually("both are ready", PATIENCE, || {
            let status = status(daemon, environment);
            status["status"] == "Ready" && status["revision"] == head.as_str()
        });
    }
}

fn builds(daemon: &Daemon) -> usize {
    daemon.log().matches("build started").count()
}

fn facts(daemon: &Daemon, environment: &str) -> (String, String) {
    let status = status(daemon, environment);
    let of = |key: &str| status["running"][key].as_str().unwrap().to_owned();
    (of("container_id"), of("image_id"))
}

#[test]
fn an_unrelated_commit_creates_a_generation_but_no_build_or_restart() {
    let Some(space) = Space::new() else { return };
    let shop = monorepo(&space, "");
    let daemon = shop.daemon();
    await_both(&shop, &daemon);
    let (a, b, built) = (facts(&daemon, "dev"), facts(&daemon, "other"), builds(&daemon));
    let before = status(&daemon, "dev")["generation"].as_u64().unwrap();

    let commit = shop.push(&daemon, &[("README", "2")]);
    await_both(&shop, &daemon);
    assert_eq!((facts(&daemon, "dev"), facts(&daemon, "other")), (a.clone(), b.clone()));
    assert_eq!(builds(&daemon), built);
    let now = status(&daemon, "dev");
    assert_eq!((now["generation"].as_u64(), now["revision"].as_str()), (Some(before + 1), Some(&*commit)));
    eventually("the generation became ready", PATIENCE, || {
        let history = daemon.abide(&["history", "dev", "-o", "json"]).stdout;
        let newest = serde_json::from_str::<serde_json::Value>(&history).unwrap()[0].take();
        newest["revision"] == commit.as_str() && newest["outcome"]["outcome"] == "ready"
    });

    // A commit to one application affects only that one.
    shop.push(&daemon, &[("apps/b/app.txt", "b 2")]);
    await_both(&shop, &daemon);
    eventually("b serves the new one", PATIENCE, || facts(&daemon, "other").1 != b.1);
    assert_eq!((facts(&daemon, "dev"), builds(&daemon)), (a.clone(), built + 1));

    // Earlier content is known too: returning to it builds nothing.
    shop.push(&daemon, &[("apps/b/app.txt", "b 1")]);
    await_both(&shop, &daemon);
    eventually("b serves the image of before", PATIENCE, || facts(&daemon, "other").1 == b.1);
    assert_eq!((facts(&daemon, "dev"), builds(&daemon)), (a, built + 1));
}

#[test]
fn a_commit_outside_the_declared_paths_creates_no_generation() {
    let Some(space) = Space::new() else { return };
    let shop = monorepo(&space, "paths = [\"apps/a/**\", \"!**/*.md\"]");
    let daemon = shop.daemon();
    await_both(&shop, &daemon);
    let before = status(&daemon, "dev")["generation"].as_u64().unwrap();
    shop.push(&daemon, &[("README", "2"), ("apps/a/notes.md", "no")]);
    shop.push(&daemon, &[("apps/b/app.txt", "b 2")]);
    let log = || daemon.log().matches("changes none of the build's `paths`").count();
    eventually("both were passed over, for both", PATIENCE, || log() >= 2);
    assert_eq!(status(&daemon, "dev")["generation"].as_u64(), Some(before));
    let commit = shop.push(&daemon, &[("apps/a/app.txt", "a 2")]);
    await_both(&shop, &daemon);
    let now = status(&daemon, "dev");
    assert_eq!((now["generation"].as_u64(), now["revision"].as_str()), (Some(before + 1), Some(&*commit)));
    assert_eq!(content(&space, &facts(&daemon, "dev").1)["app.txt"], "a 2");

    // A skipped commit is deployed once the paths are no longer declared.
    let commit = shop.push(&daemon, &[("README", "3")]);
    eventually("it was passed over", PATIENCE, || log() >= 3);
    shop.declare("[environment.dev.build]\ncontext = \"apps/a\"\n");
    eventually("it is recorded", PATIENCE, || status(&daemon, "dev")["revision"] == commit.as_str());
}

#[test]
fn a_steps_output_is_cached_for_the_same_inputs() {
    let Some(space) = Space::new() else { return };
    let Some(base) = crate::common::busybox(&space) else { return };
    let step = format!("FROM {base}\nCMD [\"cat\", \"/proc/sys/kernel/random/uuid\"]\n");
    let site = site_image(&space, "COPY made.txt /made.txt");
    let build = "[[environment.dev.build.step]]\ndockerfile = \"Dockerfile.dist\"\ncontext = \"dist\"\n\
                 output = \"made.txt\"";
    let files = [("Dockerfile", site.as_str()), ("dist/Dockerfile.dist", step.as_str())];
    let shop = Workshop::new(&space, &files, build);
    let daemon = shop.daemon();
    let made = |image: &str| content(&space, image)["made.txt"].clone();
    let first = made(&shop.await_ready(&daemon));
    // The final image fails to build: the step before it is done, and is not repeated.
    shop.push(&daemon, &[("Dockerfile", "FROM scratch\nCOPY absent /\n")]);
    eventually("the build fails", PATIENCE, || status(&daemon, "dev")["status"] == "Degraded");
    shop.push(&daemon, &[("Dockerfile", &site), ("www/index.html", "another page")]);
    let image = shop.await_ready(&daemon);
    assert_eq!(made(&image), first);
    shop.push(&daemon, &[("dist/more", "another input of the step")]);
    assert_ne!(made(&shop.await_ready(&daemon)), first);
    assert!(docker(&["image", "inspect", &image]).contains("sha256"));
}
