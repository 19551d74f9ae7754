//! A team's own script, and two builds at once.

use super::{CANARY, PATIENCE, content, holds, is_running, serving, with_script};
use crate::common::{
    Space, Workshop, build_log, busybox, docker, eventually, free_ports, site_image, status,
};

/// A typical script of a team: prints its input and builds an image with the command line.
fn script(space: &Space, more: &str) -> String {
    format!(
        "#!/bin/sh\nset -e\necho \"number $BUILD_NUMBER branch $GIT_BRANCH commit $GIT_COMMIT for $1\"\n\
         test \"$(pwd)\" = \"$WORKSPACE\"\necho \"key is $KEY and the daemon's is ${{ABIDE_TEST_WEBHOOK_SECRET-none}}\"\n\
         {more}\ndocker build --quiet --tag {}site:b$BUILD_NUMBER .\n",
        space.prefix()
    )
}

fn of_script(space: &Space) -> String {
    format!(
        "[environment.dev.build]\nscript = [\"sh\", \"./build-image.sh\", \"dev\"]\nimage = \"{}site:b{{build_number}}\"\n\
         env = {{ KEY = {{ secret_env = \"ABIDE_TEST_TOKEN\" }} }}\n",
        space.prefix()
    )
}

#[test]
fn a_build_script_runs_unchanged_and_its_image_is_used() {
    let Some(space) = Space::new() else { return };
    let good = script(&space, "");
    let (shop, daemon) = with_script(&space, "COPY site.env /site.env", &good, &of_script(&space));
    let image = shop.await_ready(&daemon);
    let made = docker(&["inspect", "--format", "{{.Id}}", &space.name("site:b1")]);
    assert_eq!(image, made);
    let log = build_log(&daemon);
    let head = shop.repo.head("dev");
    assert!(log.contains(&format!("number 1 branch dev commit {head} for dev")), "{log}");
    assert!(log.contains("key is [redacted] and the daemon's is none"), "{log}");
    assert!(!holds(&shop.desired_state, CANARY) && !daemon.log().contains(CANARY));

    shop.push(&daemon, &[("build-image.sh", &script(&space, "echo the compiler says no >&2; exit 9"))]);
    let message = shop.await_reason(&daemon, "BuildFailed");
    let words = "the script exited with code 9; its last output: ";
    assert!(message.contains(words) && message.contains("the compiler says no"), "{message}");

    shop.push(&daemon, &[("build-image.sh", "echo nothing made\n")]);
    let message = shop.await_reason(&daemon, "BuildFailed");
    assert!(
        message.contains("the script did not create the image") && message.contains("site:b3"),
        "{message}"
    );
    assert_eq!(serving(&shop), format!("{image} true"));

    // For an older image, abide's name is removed and the script's own name stays.
    for version in 1..=5 {
        let changed = format!("VERSION={version}\n");
        shop.push(&daemon, &[("build-image.sh", &good), ("site.env", &changed)]);
        shop.await_ready(&daemon);
    }
    let names = || docker(&["inspect", "--format", "{{.RepoTags}}", &image]);
    eventually("the script's own name is left", PATIENCE, || {
        names() == format!("[{}]", space.name("site:b1"))
    });
}

#[test]
fn a_newer_push_ends_a_script_and_its_child_processes() {
    let Some(space) = Space::new() else { return };
    let marker = space.name("child");
    let slow = script(&space, &format!("sh -c 'sleep 4244; : {marker}' & sh -c 'sleep 4244; : {marker}'"));
    let (shop, daemon) = with_script(&space, "", &slow, &of_script(&space));
    eventually("the script's children run", PATIENCE, || is_running(&marker));
    // A script that leaves a child behind is not waited for, and the child is killed with it.
    let careless = script(&space, &format!("sh -c 'sleep 4244; : {marker}' &"));
    shop.push(&daemon, &[("build-image.sh", &careless)]);
    shop.await_ready(&daemon);
    eventually("the children were ended", PATIENCE, || !is_running(&marker));
    eventually("the build's directory is gone", PATIENCE, || shop.work_dirs().is_empty());
}

#[test]
fn a_build_script_is_isolated_and_leaves_no_processes() {
    let Some(space) = Space::new() else { return };
    let marker = space.name("left");
    let desired_state = space.dir().join("desired-state");
    let secret = space.dir().join("token");
    std::fs::write(&secret, format!("{CANARY}-of-a-file")).unwrap();
    let (folder, abide) = (desired_state.display(), env!("CARGO_BIN_EXE_abide"));
    let more = format!(
        "echo \"environments: $(cat /proc/[0-9]*/environ | tr '\\0' '\\n' | grep -c ^ABIDE_TEST_)\"\n\
         echo \"record: $(ls {folder}/record) file: $(cat {secret})\"\n\
         {abide} --server unix:{folder}/abide.sock token create --role admin pushed || echo \"socket: $?\"\n\
         setsid sh -c 'sleep 4249; : {marker}' &\n",
        secret = secret.display()
    );
    let build = of_script(&space)
        .replace("secret_env = \"ABIDE_TEST_TOKEN\"", &format!("secret_file = \"{}\"", secret.display()));
    let (shop, daemon) = with_script(&space, "", &script(&space, &more), &build);
    shop.await_ready(&daemon);
    let log = build_log(&daemon);
    assert!(log.contains("environments: 0\n") && log.contains("record: work file: \n"), "{log}");
    assert!(log.contains("socket: 3"), "{log}");
    assert!(log.contains("key is [redacted]") && !log.contains(CANARY), "{log}");
    eventually("what the script left is gone", PATIENCE, || !is_running(&marker));
}

#[test]
fn an_image_not_created_by_the_script_is_rejected() {
    let Some(space) = Space::new() else { return };
    let Some(base) = busybox(&space) else { return };
    let name = space.name("site:fixed");
    docker(&["tag", &base, &name]);
    docker(&["tag", &base, &space.name("site:b41")]);
    let before = docker(&["inspect", "--format", "{{.Id}}", &name]);
    let careless = format!("docker build --quiet --tag {name} no-such-folder\necho number $BUILD_NUMBER\n");
    let fixed = of_script(&space).replace("site:b{build_number}", "site:fixed");
    let (shop, daemon) = with_script(&space, "", &careless, &fixed);
    let message = shop.await_reason(&daemon, "BuildFailed");
    assert!(
        message.contains(&format!("did not create the image {name}")) && message.contains("`set -e`"),
        "{message}"
    );
    assert_eq!(docker(&["inspect", "--format", "{{.Id}}", &name]), before, "it has its name back");

    // What the builder finds in its cache has the old ID, and was made by this run all the same.
    let good = format!("docker build --quiet --tag {name} .\n");
    shop.push(&daemon, &[("build-image.sh", &good)]);
    let image = shop.await_ready(&daemon);
    shop.push(&daemon, &[("build-image.sh", &format!("# again\n{good}"))]);
    assert_eq!(shop.await_ready(&daemon), image);
    assert_eq!(docker(&["inspect", "--format", "{{.Id}}", &name]), image);

    // Numbers that others have are passed over.
    shop.declare(&of_script(&space));
    shop.push(&daemon, &[("build-image.sh", &script(&space, ""))]);
    shop.await_ready(&daemon);
    // The edit of the manifest may have caused a build before the push.
    let log = build_log(&daemon);
    let number =
        log.lines().find_map(|line| line.strip_prefix("number ")?.split(' ').next()?.parse::<u64>().ok());
    assert!(number.is_some_and(|number| number >= 42), "{log}");
}

#[test]
fn concurrent_builds_of_one_commit_do_not_interfere() {
    let Some(space) = Space::new() else { return };
    let Some(base) = busybox(&space) else { return };
    let step =
        format!("FROM {base}\nARG WHO\nENV WHO=${{WHO}}\nCMD [\"sh\", \"-c\", \"sleep 1; echo $WHO\"]\n");
    let site = site_image(&space, "COPY who.txt /who.txt");
    let of = |who: &str| {
        format!(
            "[[environment.{who}.build.step]]\ndockerfile = \"Dockerfile.dist\"\noutput = \"who.txt\"\n\
             args = {{ WHO = \"{who}\" }}\n"
        )
    };
    let shop = Workshop::new(&space, &[("Dockerfile", &site), ("Dockerfile.dist", &step)], &of("dev"));
    let [port] = free_ports();
    let other = shop.options("dev", &space.name("other-server"), port);
    shop.declare(&format!("{}[environment.other]\n{other}{}", of("dev"), of("other")));
    let daemon = shop.daemon();
    for environment in ["dev", "other"] {
        let ready = || status(&daemon, environment)["status"] == "Ready";
        eventually("both are ready", PATIENCE, ready);
        let image = status(&daemon, environment)["running"]["image_id"].as_str().unwrap().to_owned();
        assert_eq!(content(&space, &image)["who.txt"], format!("{environment}\n"));
    }
}
