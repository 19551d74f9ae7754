//! Builds: what goes into an image, what a build may run, and what becomes of those that fail or are
//! cut off.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::common::{
    GitRepo, Space, Workshop, build_log, busybox, docker, eventually, free_ports, site_image, status,
    try_docker,
};

/// How long anything may take on a machine that is busy with other tests.
const PATIENCE: Duration = Duration::from_secs(60);
/// What must never be seen outside the image.
const CANARY: &str = "canary-5a17-never-to-be-seen";

/// The image that dev's container runs, and whether it runs.
/// Nothing has the name for the moment in which a container takes over.
fn serving(shop: &Workshop) -> String {
    try_docker(&["inspect", "--format", "{{.Image}} {{.State.Running}}", &shop.container]).unwrap_or_default()
}

/// What is in an image: each path with what a link points to, or else the content.
fn content(space: &Space, image: &str) -> BTreeMap<String, String> {
    let name = space.name("look");
    docker(&["create", "--name", &name, image, "none"]);
    let mut export = Command::new("docker");
    let mut child = export.args(["export", &name]).stdout(Stdio::piped()).spawn().unwrap();
    let mut archive = tar::Archive::new(child.stdout.take().unwrap());
    let mut found = BTreeMap::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().to_string_lossy().into_owned();
        let link = entry.link_name().unwrap().map(|link| format!("-> {}", link.display()));
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut entry, &mut bytes).unwrap();
        found.insert(path, link.unwrap_or_else(|| String::from_utf8_lossy(&bytes).into_owned()));
    }
    assert!(child.wait().unwrap().success());
    docker(&["rm", &name]);
    found
}

/// Whether a process of this machine has `marker` in its command line.
fn is_running(marker: &str) -> bool {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let lines = processes.filter_map(|process| std::fs::read(process.path().join("cmdline")).ok());
    let mut others = lines.filter(|line| !line.starts_with(b"git\0"));
    others.any(|line| line.windows(marker.len()).any(|window| window == marker.as_bytes()))
}

/// Whether a file below `dir` holds `text`.
fn holds(dir: &Path, text: &str) -> bool {
    let entries = std::fs::read_dir(dir).unwrap().flatten();
    let mut kinds = entries.map(|entry| (entry.path(), entry.file_type().unwrap()));
    kinds.any(|(path, kind)| match kind {
        kind if kind.is_dir() => holds(&path, text),
        kind if kind.is_file() => {
            std::fs::read(path).is_ok_and(|bytes| bytes.windows(text.len()).any(|w| w == text.as_bytes()))
        }
        _ => false,
    })
}

// --- steps -------------------------------------------------------------------------------------

#[test]
fn a_step_that_fails_or_makes_nothing_of_use_fails_the_build_and_leaves_the_container_alone() {
    let Some(space) = Space::new() else { return };
    let Some(base) = busybox(&space) else { return };
    let step = |command: &str| format!("FROM {base}\nCMD [\"sh\", \"-c\", \"{command}\"]\n");
    let site = site_image(&space, "ADD build.tar /made/");
    let good = step("tar -cf - /bin/sh");
    let build = "[[environment.dev.build.step]]\ndockerfile = \"Dockerfile.dist\"\noutput = \"build.tar\"";
    let shop = Workshop::new(&space, &[("Dockerfile", &site), ("Dockerfile.dist", &good)], build);
    let daemon = shop.daemon();
    let image = shop.await_ready(&daemon);
    assert!(content(&space, &image).contains_key("made/bin/sh"));
    for (command, words) in [
        ("echo why >&2; exit 7", "step 1 ended with exit code 7; its last output: why"),
        ("true", "the output of step 1 (build.tar): "),
        ("echo no tar at all", "the output of step 1 (build.tar): "),
    ] {
        shop.push(&daemon, &[("Dockerfile.dist", &step(command))]);
        let message = shop.await_reason(&daemon, "BuildFailed");
        assert!(message.contains(words), "{command}: {message}");
        assert_eq!(serving(&shop), format!("{image} true"), "{command}");
    }
    assert_eq!(space.containers().len(), 1, "a step's container was left");
}

#[test]
fn a_build_that_takes_too_long_ends_with_all_that_it_started() {
    let Some(space) = Space::new() else { return };
    let Some(base) = busybox(&space) else { return };
    // The output is written before, so that a log driver would have it by the time it is looked for.
    let step = format!("FROM {base}\nCMD [\"sh\", \"-c\", \"yes | head -c 1000000; sleep 4242\"]\n");
    let site = site_image(&space, "");
    let build = "[environment.dev.build]\ntimeout = \"6s\"\n[[environment.dev.build.step]]\n\
                 dockerfile = \"Dockerfile.dist\"\noutput = \"build.txt\"";
    let shop = Workshop::new(&space, &[("Dockerfile", &site), ("Dockerfile.dist", &step)], build);
    let daemon = shop.daemon();
    eventually("the step runs", PATIENCE, || !space.containers().is_empty());
    let step = space.containers().into_iter().next().unwrap();
    let format = "{{.HostConfig.LogConfig.Type}} {{.Name}}";
    let seen = docker(&["inspect", "--format", format, &step]);
    assert!(seen.starts_with("none /abide-step-"), "{seen}");
    let message = shop.await_reason(&daemon, "BuildFailed");
    assert!(message.contains("longer than its timeout of 6s"), "{message}");
    eventually("the step's container is gone", PATIENCE, || space.containers().is_empty());
    eventually("the build's directory is gone", PATIENCE, || shop.work_dirs().is_empty());
}

#[test]
fn a_step_that_a_killed_daemon_left_is_removed_and_the_build_is_carried_out() {
    let Some(space) = Space::new() else { return };
    let Some(base) = busybox(&space) else { return };
    let step = format!("FROM {base}\nCMD [\"sh\", \"-c\", \"sleep 2; echo made\"]\n");
    let site = site_image(&space, "COPY build.txt /build.txt");
    let build = "[[environment.dev.build.step]]\ndockerfile = \"Dockerfile.dist\"\noutput = \"build.txt\"";
    let shop = Workshop::new(&space, &[("Dockerfile", &site), ("Dockerfile.dist", &step)], build);
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
fn a_daemon_that_ends_in_mid_step_takes_the_container_along() {
    let Some(space) = Space::new() else { return };
    let Some(base) = busybox(&space) else { return };
    let step = format!("FROM {base}\nCMD [\"sleep\", \"4245\"]\n");
    let site = site_image(&space, "");
    let build = "[[environment.dev.build.step]]\ndockerfile = \"Dockerfile.dist\"\noutput = \"build.txt\"";
    let shop = Workshop::new(&space, &[("Dockerfile", &site), ("Dockerfile.dist", &step)], build);
    let daemon = shop.daemon();
    eventually("the step runs", PATIENCE, || !space.containers().is_empty());
    assert!(daemon.terminate().success());
    assert!(space.containers().is_empty() && shop.work_dirs().is_empty());
}

// --- what goes in ------------------------------------------------------------------------------

#[test]
fn ignored_files_stay_out_and_links_stay_links() {
    let Some(space) = Space::new() else { return };
    let site = site_image(&space, "COPY . /all");
    let shop = Workshop::new(
        &space,
        &[
            ("Dockerfile", &site),
            (".dockerignore", "*.secret\n!kept.secret\n/private\n"),
            ("a.secret", "no"),
            ("kept.secret", "yes"),
            ("private/b.txt", "no"),
            ("public/b.txt", "yes"),
        ],
        "[environment.dev.build]\n",
    );
    std::os::unix::fs::symlink("/etc/passwd", shop.repo.work().join("leak")).unwrap();
    shop.repo.commit_and_push("dev", &[]);
    let daemon = shop.daemon();
    let image = shop.await_ready(&daemon);
    let found = content(&space, &image);
    assert_eq!(found["all/leak"], "-> /etc/passwd");
    assert_eq!((found["all/kept.secret"].as_str(), found["all/public/b.txt"].as_str()), ("yes", "yes"));
    let git = |path: &String| path.starts_with("all/.git/") || path == "all/.git";
    assert!(!found.keys().any(git), "a checkout is no clone");
    for out in ["all/a.secret", "all/private", "all/private/b.txt"] {
        assert!(!found.contains_key(out), "{out}");
    }
}

#[test]
fn what_is_laid_over_the_checkout_is_in_the_image_and_nowhere_else() {
    let Some(space) = Space::new() else { return };
    let secret = space.dir().join("config.page");
    std::fs::write(&secret, CANARY).unwrap();
    let site = site_image(&space, "COPY www/helpers/config.page /config.page\nARG WHO\nLABEL who=${WHO}");
    let build = format!(
        "[environment.dev.build]\nargs = {{ WHO = \"a person\" }}\n\
         overlay = [{{ from = \"{}\", to = \"www/helpers/config.page\" }}]\n",
        secret.display()
    );
    let shop = Workshop::new(&space, &[("Dockerfile", &site), ("www/helpers/config.page", "public")], &build);
    let daemon = shop.daemon();
    let image = shop.await_ready(&daemon);
    assert_eq!(content(&space, &image)["config.page"], CANARY);
    assert_eq!(docker(&["inspect", "--format", "{{.Config.Labels.who}}", &image]), "a person");
    let told = [&["events"][..], &["status", "-o", "json"], &["why", "dev"], &["logs", "dev", "--build"]];
    for verb in told {
        let said = daemon.abide(verb);
        assert!(!said.stdout.is_empty() && !said.stdout.contains(CANARY), "{verb:?}: {said:?}");
    }
    assert!(!docker(&["history", "--no-trunc", &image]).contains(CANARY));
    assert!(!daemon.log().contains(CANARY));
    eventually("the build's directory is gone", PATIENCE, || shop.work_dirs().is_empty());
    assert!(!holds(&shop.desired_state, CANARY));

    // Another content is another input: it is built again, of the same commit.
    std::fs::write(&secret, "changed").unwrap();
    daemon.abide(&["sync", "dev"]);
    shop.push(&daemon, &[]);
    assert_eq!(content(&space, &shop.await_ready(&daemon))["config.page"], "changed");
}

#[test]
fn other_repositories_are_laid_in_and_paths_are_taken_out() {
    let Some(space) = Space::new() else { return };
    let other = Space::new().unwrap();
    let packages = GitRepo::example(&other);
    let first = packages.commit_and_push("packages", &[("script.npl", "first")]);
    packages.commit_and_push("packages", &[("script.npl", "second")]);
    let build = format!(
        "[environment.dev.build]\nremove = [\"npl_packages\", \"absent\"]\ncheckout = [\n\
         {{ url = \"{url}\", revision = \"packages\", to = \"npl_packages/main\" }},\n\
         {{ url = \"{url}\", revision = \"{first}\", to = \"npl_packages/pinned\" }}]\n",
        url = packages.url()
    );
    let site = site_image(&space, "COPY npl_packages /npl_packages");
    let files = [("Dockerfile", site.as_str()), (".dockerignore", ""), ("npl_packages/old/x", "old")];
    let shop = Workshop::new(&space, &files, &build);
    let daemon = shop.daemon();
    let found = content(&space, &shop.await_ready(&daemon));
    assert_eq!(found["npl_packages/main/script.npl"], "second");
    assert_eq!(found["npl_packages/pinned/script.npl"], "first");
    assert!(!found.contains_key("npl_packages/old/x"));
    let head = packages.head("packages");
    assert!(build_log(&daemon).contains("checking out"), "{}", build_log(&daemon));
    assert!(!head.is_empty());
}

// --- builders ----------------------------------------------------------------------------------

#[test]
fn buildkit_mounts_a_secret_that_no_layer_log_or_answer_ever_holds() {
    let Some(space) = Space::new() else { return };
    let Some(base) = busybox(&space) else { return };
    let site = site_image(&space, "COPY --from=maker /made.txt /made.txt");
    // Under a name of this test, so that no earlier run of it has filled the cache.
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

    // A failing command that prints the secret is told without it.
    shop.push(&daemon, &[("Dockerfile", &dockerfile.replace("echo RAN", "false"))]);
    let message = shop.await_reason(&daemon, "BuildFailed");
    assert!(message.contains("building Dockerfile") && message.contains("[redacted]"), "{message}");
    eventually("the build's directory is gone", PATIENCE, || shop.work_dirs().is_empty());
    assert!(!holds(&shop.desired_state, CANARY) && !daemon.log().contains(CANARY));
}

#[test]
fn the_classic_builder_is_used_where_it_is_chosen_and_refuses_secrets() {
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
fn a_new_push_ends_the_build_before_it_in_the_engine_too() {
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
        let builds = daemon.log().matches("build begins").count();
        assert_eq!(builds, 2, "{}", daemon.log());
    }
}

#[test]
fn a_build_is_followed_while_it_runs_and_kept_afterwards() {
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
fn endless_output_fills_neither_the_disk_nor_the_memory() {
    let Some(space) = Space::new() else { return };
    let Some(base) = busybox(&space) else { return };
    let dockerfile = format!(
        "FROM {base} AS loud\nRUN yes {} | head -c 100000000; echo the end\n{}",
        "x".repeat(100),
        site_image(&space, "COPY --from=loud /tmp /loud")
    );
    let shop = Workshop::new(&space, &[("Dockerfile", &dockerfile)], "[environment.dev.build]\n");
    // The classic builder passes all of it on; BuildKit cuts it itself.
    let daemon = shop.daemon_with(&[("DOCKER_BUILDKIT", "0")]);
    shop.await_ready(&daemon);
    let log = std::fs::metadata(shop.desired_state.join("record/logs/1.log")).unwrap().len();
    assert!((1_000_000..18_000_000).contains(&log), "{log}");
    let process = std::fs::read_to_string(format!("/proc/{}/status", daemon.id())).unwrap();
    let peak = process.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let kilobytes: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(kilobytes < 200_000, "{peak}");
}

// --- scripts and several at once ---------------------------------------------------------------

/// A script as teams have them: it says what it was given and makes an image by the command line.
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
fn a_script_is_run_as_it_is_and_the_image_that_it_made_is_taken() {
    let Some(space) = Space::new() else { return };
    let (site, good) = (site_image(&space, "COPY site.env /site.env"), script(&space, ""));
    let files = [("Dockerfile", site.as_str()), ("build-image.sh", &good)];
    let shop = Workshop::new(&space, &files, &of_script(&space));
    let daemon = shop.daemon_with(&[("ABIDE_TEST_TOKEN", CANARY)]);
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
    let words = "the script ended with exit code 9; its last output: ";
    assert!(message.contains(words) && message.contains("the compiler says no"), "{message}");

    shop.push(&daemon, &[("build-image.sh", "echo nothing made\n")]);
    let message = shop.await_reason(&daemon, "BuildFailed");
    assert!(message.contains("the script made no image") && message.contains("site:b3"), "{message}");
    assert_eq!(serving(&shop), format!("{image} true"));

    // Of an older one, abide's name is taken away and the script's own is left.
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
fn a_script_ends_with_all_that_it_started_when_a_newer_push_comes() {
    let Some(space) = Space::new() else { return };
    let (site, marker) = (site_image(&space, ""), space.name("child"));
    let slow = script(&space, &format!("sh -c 'sleep 4244; : {marker}' & sh -c 'sleep 4244; : {marker}'"));
    let files = [("Dockerfile", site.as_str()), ("build-image.sh", &slow)];
    let shop = Workshop::new(&space, &files, &of_script(&space));
    let daemon = shop.daemon_with(&[("ABIDE_TEST_TOKEN", CANARY)]);
    eventually("the script's children run", PATIENCE, || is_running(&marker));
    // One that leaves a child behind is not waited for, and the child goes with it.
    let careless = script(&space, &format!("sh -c 'sleep 4244; : {marker}' &"));
    shop.push(&daemon, &[("build-image.sh", &careless)]);
    shop.await_ready(&daemon);
    eventually("the children were ended", PATIENCE, || !is_running(&marker));
    eventually("the build's directory is gone", PATIENCE, || shop.work_dirs().is_empty());
}

#[test]
fn two_builds_of_one_commit_at_once_never_meet() {
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

// --- what cannot be built ----------------------------------------------------------------------

#[test]
fn what_cannot_be_built_is_told_in_words_and_built_once_it_can_be() {
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
fn a_context_outside_the_checkout_is_refused_before_anything_runs() {
    let Some(space) = Space::new() else { return };
    for context in ["..", "a/../../b", "/etc"] {
        let space = Space::new().unwrap();
        let build = format!("[environment.dev.build]\ncontext = \"{context}\"\n");
        let shop = Workshop::new(&space, &[], &build);
        let checked = crate::common::abide(&shop.desired_state, &["check"]);
        assert_ne!(checked.code, 0, "{context}: {checked:?}");
        assert!(checked.stderr.contains("context") || checked.stdout.contains("context"), "{checked:?}");
    }
    drop(space);
}

#[test]
fn a_base_image_whose_registry_does_not_answer_is_named_and_tried_again() {
    let Some(space) = Space::new() else { return };
    let dockerfile = format!("FROM localhost:1/{}nowhere\n", space.prefix());
    let shop = Workshop::new(&space, &[("Dockerfile", &dockerfile)], "[environment.dev.build]\n");
    let daemon = shop.daemon();
    let message = shop.await_reason(&daemon, "ImageNotFound");
    assert!(message.contains("building Dockerfile") && message.contains(&space.name("nowhere")), "{message}");
    assert!(message.contains("connection refused"), "{message}");
    eventually("it is tried again", PATIENCE, || daemon.log().matches("build begins").count() > 1);
}

// --- what is kept ------------------------------------------------------------------------------

#[test]
fn an_image_that_someone_removed_is_built_again_when_it_is_needed() {
    let Some(space) = Space::new() else { return };
    let shop = Workshop::new(&space, &[("Dockerfile", &site_image(&space, ""))], "[environment.dev.build]\n");
    let daemon = shop.daemon();
    let image = shop.await_ready(&daemon);
    daemon.kill();
    docker(&["rm", "--force", &shop.container]);
    docker(&["rmi", "--force", &image]);
    let daemon = shop.daemon();
    eventually("it serves again", PATIENCE, || {
        let running = ["inspect", "--format", "{{.State.Running}}", &shop.container];
        try_docker(&running).as_deref() == Some("true")
    });
    shop.await_ready(&daemon);
    assert_eq!(daemon.log().matches("build begins").count(), 2);
}

#[test]
fn an_image_whose_build_was_not_recorded_any_more_is_taken_without_a_second_build() {
    let Some(space) = Space::new() else { return };
    let shop = Workshop::new(&space, &[("Dockerfile", &site_image(&space, ""))], "[environment.dev.build]\n");
    let daemon = shop.daemon();
    let image = shop.await_ready(&daemon);
    let labels = ["abide.build", "abide.built-by", "abide.revision"].map(|label| {
        let format = format!("{{{{index .Config.Labels \"{label}\"}}}}");
        format!("{label}={}", docker(&["inspect", "--format", &format, &image]))
    });
    // As a daemon leaves it that is killed between the engine's last word and its own record: an
    // image with the labels, of which the record knows nothing. Its content tells it apart.
    docker(&["rm", "--force", &shop.container]);
    docker(&["rmi", "--force", &image]);
    daemon.kill();
    let context = shop.repo.work().to_str().unwrap().to_owned();
    let [a, b, c] = labels.each_ref().map(String::as_str);
    let labels = ["--label", a, "--label", b, "--label", c, "--label", "abide.adopted=yes"];
    let tag = space.name("unrecorded");
    docker(&[&["build", "--quiet", "--tag", &tag][..], &labels, &[&context]].concat());
    let daemon = shop.daemon();
    let adopted = shop.await_ready(&daemon);
    let label = docker(&["inspect", "--format", "{{index .Config.Labels \"abide.adopted\"}}", &adopted]);
    assert_eq!(label, "yes");
    assert_eq!(daemon.log().matches("build begins").count(), 1, "{}", daemon.log());
}

#[test]
fn old_images_and_logs_go_and_what_may_be_needed_or_is_foreign_stays() {
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
    // A name of its own makes an image someone's.
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
    assert!(daemon.log().contains("removing an image that nobody needs any more"));
    let kept = std::fs::read_dir(&logs).unwrap().count();
    assert!((50..=52).contains(&kept) && logs.join("60.log").exists(), "{kept}");
    assert!(logs.join("8.log").exists(), "the log of dev's last build");
    let after = connections();
    assert!(after < before + 6, "seven builds left connections open: {before}, then {after}");
    // Going back to one that is still there takes no build.
    daemon.abide(&["rollback", "dev"]);
    eventually("the one before runs", PATIENCE, || serving(&shop) == format!("{} true", images[6]));
}
