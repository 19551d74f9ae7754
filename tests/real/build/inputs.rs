//! Files that go into an image, and files that do not.

use super::{CANARY, PATIENCE, content, holds};
use crate::common::{GitRepo, Space, Workshop, build_log, docker, eventually, site_image, status};

#[test]
fn ignored_files_are_excluded_and_links_are_preserved() {
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
fn overlay_content_appears_only_in_the_image() {
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
    let commands = [&["events"][..], &["status", "-o", "json"], &["why", "dev"], &["logs", "dev", "--build"]];
    for verb in commands {
        let ran = daemon.abide(verb);
        assert!(!ran.stdout.is_empty() && !ran.stdout.contains(CANARY), "{verb:?}: {ran:?}");
    }
    assert!(!docker(&["history", "--no-trunc", &image]).contains(CANARY));
    assert!(!daemon.log().contains(CANARY));
    eventually("the build's directory is gone", PATIENCE, || shop.work_dirs().is_empty());
    assert!(!holds(&shop.desired_state, CANARY));

    // Different content is a different input, so the same commit is built again.
    std::fs::write(&secret, "changed").unwrap();
    daemon.abide(&["sync", "dev"]);
    eventually("it is built again", PATIENCE, || status(&daemon, "dev")["origin"] == "manifest edit");
    assert_eq!(content(&space, &shop.await_ready(&daemon))["config.page"], "changed");
}

#[test]
fn other_repositories_are_checked_out_and_removed_paths_are_absent() {
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
