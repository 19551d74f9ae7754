//! Repository content outside its tree: submodules, Git LFS files, the history.

use std::process::Command;

use super::{PATIENCE, content};
use crate::common::{GitRepo, Space, Workshop, build_log, eventually, site_image, status};

/// Makes `libs/x` a submodule at `url` with the head of `lib`, and pushes that.
fn add_submodule(shop: &Workshop, lib: &GitRepo, url: &str) {
    let commit = lib.head("packages");
    shop.repo.git(&["update-index", "--add", "--cacheinfo", &format!("160000,{commit},libs/x")]);
    // As in a clone without its submodules.
    std::fs::create_dir_all(shop.repo.work().join("libs/x")).unwrap();
    let modules = format!("[submodule \"x\"]\n\tpath = libs/x\n\turl = {url}\n");
    std::fs::write(shop.repo.work().join(".gitmodules"), modules).unwrap();
    shop.repo.git(&["add", ".gitmodules"]);
    shop.repo.git(&["commit", "--quiet", "--message", "a submodule"]);
    shop.repo.git(&["push", "--quiet", "origin", "HEAD:refs/heads/dev"]);
}

#[test]
fn submodules_are_fetched_if_declared_and_otherwise_warned_of() {
    let Some(space) = Space::new() else { return };
    let (other, stranger) = (Space::new().unwrap(), Space::new().unwrap());
    let (lib, foreign) = (GitRepo::example(&other), GitRepo::example(&stranger));
    for lib in [&lib, &foreign] {
        lib.commit_and_push("packages", &[("lib.txt", "of the library")]);
    }
    let site = site_image(&space, "COPY . /all");
    let files = [("Dockerfile", site.as_str()), (".dockerignore", "")];
    let shop = Workshop::new(&space, &files, "[environment.dev.build]\n");
    add_submodule(&shop, &lib, lib.url());
    let daemon = shop.daemon();
    shop.await_ready(&daemon);
    let warned = status(&daemon, "dev")["warnings"].to_string();
    assert!(warned.contains("libs/x") && warned.contains("submodules = true"), "{warned}");
    assert!(build_log(&daemon).contains("warning: submodules are not fetched (libs/x)"));
    for verb in [&["status"][..], &["status", "dev"]] {
        assert!(daemon.abide(verb).stderr.contains("libs/x"), "{verb:?}");
    }

    // A declared submodule is refused if it points to a path that the manifest does not name.
    shop.declare("[environment.dev.build]\nsubmodules = true\n");
    let message = shop.await_reason(&daemon, "BuildFailed");
    assert!(message.contains("libs/x") && message.contains("declare it as a [repository]"), "{message}");

    let library = format!("[repository.lib]\nurl = \"{}\"\n", lib.url());
    shop.declare(&format!("[environment.dev.build]\nsubmodules = true\n{library}"));
    eventually("it is built with the submodule", PATIENCE, || {
        let now = status(&daemon, "dev");
        now["status"] == "Ready" && now["origin"] == "manifest edit"
    });
    assert_eq!(content(&space, &shop.await_ready(&daemon))["all/libs/x/lib.txt"], "of the library");
    assert_eq!(status(&daemon, "dev")["warnings"], serde_json::json!([]));

    // The next commit points elsewhere.
    shop.repo.git(&["rm", "--quiet", "--cached", "libs/x"]);
    add_submodule(&shop, &foreign, &format!("file://{}", foreign.url()));
    shop.push(&daemon, &[]);
    let message = shop.await_reason(&daemon, "BuildFailed");
    assert!(message.contains("libs/x"), "{message}");
}

#[test]
fn lfs_files_are_fetched_if_declared_and_otherwise_warned_of() {
    let Some(space) = Space::new() else { return };
    if !Command::new("git").args(["lfs", "version"]).output().is_ok_and(|ran| ran.status.success()) {
        eprintln!("left out: no git-lfs");
        return;
    }
    let site = site_image(&space, "COPY big.bin /big.bin");
    let files = [("Dockerfile", site.as_str()), (".dockerignore", "")];
    let shop = Workshop::new(&space, &files, "[environment.dev.build]\n");
    let repo = &shop.repo;
    std::fs::write(repo.work().join("big.bin"), "the content itself").unwrap();
    std::fs::write(repo.work().join(".gitattributes"), "*.bin filter=lfs -text\n").unwrap();
    // A repository may name an LFS server, but abide ignores it.
    std::fs::write(repo.work().join(".lfsconfig"), "[lfs]\n\turl = http://127.0.0.1:9/evil\n").unwrap();
    let filters =
        ["filter.lfs.clean=git-lfs clean -- %f", "filter.lfs.smudge=cat", "filter.lfs.required=true"];
    let [clean, smudge, required] = filters;
    repo.git(&["-c", clean, "-c", smudge, "-c", required, "add", "."]);
    repo.git(&["-c", clean, "-c", smudge, "-c", required, "commit", "--quiet", "--message", "big"]);
    repo.git(&["push", "--quiet", "--no-verify", "origin", "HEAD:refs/heads/dev"]);
    let place = format!("lfs.url=file://{}", repo.url());
    repo.git(&["-c", &place, "lfs", "push", "--all", "origin"]);

    let daemon = shop.daemon();
    let image = shop.await_ready(&daemon);
    assert!(content(&space, &image)["big.bin"].starts_with("version https://git-lfs"));
    let warned = status(&daemon, "dev")["warnings"].to_string();
    assert!(warned.contains("big.bin") && warned.contains("lfs = true"), "{warned}");
    shop.declare("[environment.dev.build]\nlfs = true\n");
    eventually("it is built with the content", PATIENCE, || {
        let now = status(&daemon, "dev");
        now["status"] == "Ready" && now["origin"] == "manifest edit"
    });
    assert_eq!(content(&space, &shop.await_ready(&daemon))["big.bin"], "the content itself");
}

#[test]
fn a_checked_out_git_directory_supports_describe_and_has_no_remote() {
    let Some(space) = Space::new() else { return };
    let site = site_image(&space, "COPY . /all");
    let files = [("Dockerfile", site.as_str()), (".dockerignore", "")];
    let shop = Workshop::new(&space, &files, "[environment.dev.build]\ngit = true\n");
    let identity = ["-c", "user.name=Ann", "-c", "user.email=ann@example.com"];
    let tag = ["tag", "--annotate", "--message", "one", "v1.0", "dev"];
    shop.repo.git(&[&identity[..], &tag].concat());
    shop.repo.git(&["push", "--quiet", "origin", "v1.0"]);
    shop.repo.commit_and_push("dev", &[("README", "after the tag")]);
    let daemon = shop.daemon();
    let image = shop.await_ready(&daemon);
    let out = space.dir().join("out");
    let name = space.name("look");
    crate::common::docker(&["create", "--name", &name, &image, "none"]);
    crate::common::docker(&["cp", &format!("{name}:/all"), out.to_str().unwrap()]);
    crate::common::docker(&["rm", &name]);
    let git = |arguments: &[&str]| {
        let mut git = Command::new("git");
        git.args(["-c", "safe.directory=*"]).args(arguments).current_dir(&out).env_remove("GIT_DIR");
        let ran = git.output().unwrap();
        String::from_utf8_lossy(&ran.stdout).trim().to_owned() + &String::from_utf8_lossy(&ran.stderr)
    };
    let head = shop.repo.head("dev");
    assert_eq!(git(&["describe", "--always", "--abbrev=12"]), format!("v1.0-1-g{}", &head[..12]));
    assert_eq!(git(&["rev-parse", "--abbrev-ref", "HEAD"]), "dev");
    assert_eq!((git(&["remote"]), git(&["status", "--porcelain"])), (String::new(), String::new()));
    let config = std::fs::read_to_string(out.join(".git/config")).unwrap();
    assert!(!config.contains(shop.repo.url()) && !config.contains("remote"), "{config}");
}
