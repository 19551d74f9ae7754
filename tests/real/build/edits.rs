//! Edits of the build declaration in the manifest.

use super::{PATIENCE, content};
use crate::common::{Daemon, Space, Workshop, docker, eventually, site_image, status};

const ARGS: &str = "ARG WHO=nobody\nARG REV\nARG BRANCH\nLABEL who=${WHO} rev=${REV} branch=${BRANCH}";

fn label(image: &str, name: &str) -> String {
    docker(&["inspect", "--format", &format!("{{{{index .Config.Labels {name:?}}}}}"), image])
}

fn generation(daemon: &Daemon) -> u64 {
    status(daemon, "dev")["generation"].as_u64().unwrap()
}

fn declared(who: &str) -> String {
    format!("[environment.dev.build]\nargs = {{ WHO = {who:?} }}\n")
}

/// Waits until an edit is deployed, and returns the image.
fn await_edit(shop: &Workshop, daemon: &Daemon, generation: u64) -> String {
    eventually("the edit is deployed", PATIENCE, || {
        let now = status(daemon, "dev");
        now["generation"].as_u64() == Some(generation) && now["status"] == "Ready"
    });
    shop.await_ready(daemon)
}

#[test]
fn a_build_edit_rebuilds_the_same_commit_unless_held() {
    let Some(space) = Space::new() else { return };
    let shop = Workshop::new(&space, &[("Dockerfile", &site_image(&space, ARGS))], &declared("one"));
    let daemon = shop.daemon();
    assert_eq!(label(&shop.await_ready(&daemon), "who"), "one");
    let (first, commit) = (generation(&daemon), shop.repo.head("dev"));

    shop.declare(&declared("two"));
    assert_eq!(label(&await_edit(&shop, &daemon, first + 1), "who"), "two");
    let now = status(&daemon, "dev");
    assert_eq!((now["origin"].as_str(), now["revision"].as_str()), (Some("manifest edit"), Some(&*commit)));
    assert_eq!(daemon.abide(&["diff", "dev"]).code, 0);

    daemon.kill();
    shop.declare(&declared("three"));
    let daemon = shop.daemon();
    let image = await_edit(&shop, &daemon, first + 2);
    assert_eq!(label(&image, "who"), "three");

    assert_eq!(daemon.abide(&["hold", "dev", "--reason", "a test"]).code, 0);
    shop.declare(&declared("four"));
    daemon.abide(&["sync", "dev"]);
    eventually("it was looked at", PATIENCE, || {
        let now = status(&daemon, "dev");
        now["sync"] == now["observed_sync"] && now["status"] == "Held"
    });
    assert_eq!((generation(&daemon), shop.await_held(&daemon)), (first + 2, image));
    let message = status(&daemon, "dev")["message"].to_string();
    assert!(message.contains("a test; `resume` would rebuild: build; `abide resume dev`"), "{message}");
    let diff = daemon.abide(&["diff", "dev"]);
    assert!(diff.code == 1 && diff.stdout.contains("held; `resume` would rebuild: build"), "{diff:?}");
    assert_eq!(daemon.abide(&["resume", "dev"]).code, 0);
    assert_eq!(label(&await_edit(&shop, &daemon, first + 3), "who"), "four");

    // A manual rollback keeps the restored version until the next edit.
    assert_eq!(daemon.abide(&["rollback", "dev"]).code, 0);
    assert_eq!(daemon.abide(&["resume", "dev"]).code, 0);
    let image = await_edit(&shop, &daemon, first + 4);
    assert_eq!(label(&image, "who"), "three");
    daemon.abide(&["sync", "dev"]);
    assert_eq!(label(&await_edit(&shop, &daemon, first + 4), "who"), "three");
}

#[test]
fn an_edit_that_builds_the_same_image_changes_nothing() {
    let Some(space) = Space::new() else { return };
    let shop = Workshop::new(&space, &[("Dockerfile", &site_image(&space, ""))], "");
    // A source without a `build` uses the Dockerfile in the root.
    let daemon = shop.daemon();
    let image = shop.await_ready(&daemon);
    let (first, container) = (generation(&daemon), status(&daemon, "dev")["running"]["container_id"].clone());
    shop.declare("[environment.dev.build]\ndockerfile = \"./Dockerfile\"\nremove = [\"absent\"]\n");
    eventually("the edit was looked at", PATIENCE, || daemon.log().contains("how the image of generation"));
    let now = || status(&daemon, "dev");
    eventually("it is at rest", PATIENCE, || now()["status"] == "Ready");
    assert_eq!((generation(&daemon), shop.await_ready(&daemon)), (first, image));
    assert_eq!(now()["running"]["container_id"], container);
    assert_eq!(daemon.log().matches("build started").count(), 1);
}

#[test]
fn a_failing_build_edit_is_rolled_back_once() {
    let Some(space) = Space::new() else { return };
    let good = site_image(&space, ARGS).replacen("FROM scratch", "FROM scratch AS good", 1);
    let broken = format!(
        "FROM scratch AS broken\nLABEL {}\nCOPY bin/site /bin/site\nENTRYPOINT [\"/bin/none\"]\n",
        space.label()
    );
    let dockerfile = good + &broken;
    let target = |name: &str| format!("[environment.dev.build]\ntarget = {name:?}\n");
    let shop = Workshop::new(&space, &[("Dockerfile", &dockerfile)], &target("good"));
    let daemon = shop.daemon();
    let image = shop.await_ready(&daemon);
    let first = generation(&daemon);
    shop.declare(&target("broken"));
    eventually("it is rolled back", PATIENCE, || status(&daemon, "dev")["status"] == "RolledBack");
    assert_eq!(generation(&daemon), first + 2);
    daemon.abide(&["sync", "dev"]);
    eventually("it was looked at", PATIENCE, || {
        let now = status(&daemon, "dev");
        now["sync"] == now["observed_sync"] && now["status"] == "RolledBack"
    });
    assert_eq!(generation(&daemon), first + 2, "an edit that failed is not tried again");
    assert_eq!(docker(&["inspect", "--format", "{{.Image}}", &shop.container]), image);
    shop.declare(&format!("{}args = {{ WHO = \"me\" }}\n", target("good")));
    let image = await_edit(&shop, &daemon, first + 3);
    assert_eq!(label(&image, "who"), "me");
}

#[test]
fn build_arguments_can_contain_the_commit_and_branch() {
    let Some(space) = Space::new() else { return };
    let build = "[environment.dev.build]\n\
                 args = { REV = \"{commit}\", BRANCH = \"{branch}\", WHO = \"{short_commit} {date}\" }\n";
    let shop = Workshop::new(&space, &[("Dockerfile", &site_image(&space, ARGS))], build);
    let daemon = shop.daemon();
    let (image, commit) = (shop.await_ready(&daemon), shop.repo.head("dev"));
    assert_eq!((label(&image, "rev"), label(&image, "branch")), (commit.clone(), "dev".to_owned()));
    let who = label(&image, "who");
    assert!(who.starts_with(&format!("{} 20", &commit[..12])) && who.ends_with('Z'), "{who}");
    // An argument with the commit makes each commit a separate build.
    let commit = shop.push(&daemon, &[("README", "another")]);
    assert_eq!(label(&shop.await_ready(&daemon), "rev"), commit);
    assert!(content(&space, &image).contains_key("bin/site"));
}
