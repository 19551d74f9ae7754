//! The manifest on a branch of a git repository.

use std::path::Path;

use crate::common::{Daemon, Forge, GitRepo, PATIENCE, Space, abide, eventually, signed_push};

/// A manifest with one environment of this name.
fn manifest(name: &str) -> String {
    format!("[environment.{name}]\ncontainer = \"abide-t-followed-{name}\"\n")
}

fn environments(folder: &Path) -> Vec<String> {
    let ran = abide(folder, &["status", "-o", "json"]);
    let all: Vec<serde_json::Value> = serde_json::from_str(&ran.stdout).unwrap_or_default();
    all.iter().map(|view| view["environment"].as_str().unwrap().to_owned()).collect()
}

fn bootstrap(folder: &Path, repo: &GitRepo, more: &str) {
    std::fs::create_dir(folder).unwrap();
    let text = format!(
        "[manifest]\nurl = \"{}\"\nbranch = \"ops\"\npath = \"hosts/one\"\npoll = \"5s\"\n{more}",
        repo.url()
    );
    std::fs::write(folder.join("bootstrap.toml"), text).unwrap();
}

#[test]
fn a_good_commit_comes_into_force_a_bad_one_is_refused_and_a_restart_needs_no_repository() {
    let Some(space) = Space::new() else { return };
    let repo = GitRepo::example(&space);
    let (forge, token) = (Forge::start(), space.dir().join("token"));
    let folder = space.dir().join("state");
    bootstrap(&folder, &repo, &forge.declared(&token));
    let file = "hosts/one/site.toml";
    let first = repo.commit_and_push("ops", &[(file, &manifest("first")), ("README.md", "no manifest")]);

    let daemon = Daemon::start(&folder, &[]);
    assert_eq!(environments(&folder), ["first"]);
    let state = |commit: &str| forge.status(commit, "abide/manifest");
    eventually("the forge shows the first commit", PATIENCE, || state(&first).as_deref() == Some("success"));
    assert_eq!(abide(&folder, &["check"]).code, 0);

    let bad = repo.commit_and_push("ops", &[(file, "[environment.first]\nport = \"no\"\n")]);
    eventually("the forge shows the bad commit", PATIENCE, || state(&bad).as_deref() == Some("failure"));
    let (_, why) = forge.described(&bad, "abide/manifest").unwrap();
    assert!(why.contains("refused") && why.contains("site.toml:2"), "{why}");
    assert_eq!(environments(&folder), ["first"], "the last good one stays in force");
    let told =
        || abide(&folder, &["status"]).stderr.contains(&format!("commit {} of the manifest", &bad[..12]));
    eventually("the status shows the refusal", PATIENCE, told);

    let good = repo.commit_and_push("ops", &[(file, &manifest("second"))]);
    eventually("the next good commit is in force", PATIENCE, || environments(&folder) == ["second"]);
    eventually("the forge shows it", PATIENCE, || state(&good).as_deref() == Some("success"));
    let told = || abide(&folder, &["status"]).stderr.contains("of the manifest");
    eventually("the refusal is over", PATIENCE, || !told());

    daemon.kill();
    let away = Path::new(repo.url()).with_extension("away");
    std::fs::rename(repo.url(), &away).unwrap();
    let daemon = Daemon::start(&folder, &[]);
    assert_eq!(environments(&folder), ["second"]);
    std::fs::rename(&away, repo.url()).unwrap();
    repo.commit_and_push("ops", &[(file, &manifest("third"))]);
    eventually("the repository is followed again", PATIENCE, || environments(&folder) == ["third"]);
    drop(daemon);
}

#[test]
fn an_unreadable_branch_is_shown_everywhere_until_it_is_read_again() {
    let Some(space) = Space::new() else { return };
    let repo = GitRepo::example(&space);
    let folder = space.dir().join("state");
    bootstrap(&folder, &repo, "");
    let file = "hosts/one/site.toml";
    let first = repo.commit_and_push("ops", &[(file, &manifest("first"))]);
    let daemon = Daemon::start(&folder, &[]);
    let shown = |arguments: &[&str]| {
        let ran = abide(&folder, arguments);
        ran.stdout + &ran.stderr
    };
    let is_shown =
        |arguments: &[&str]| shown(arguments).contains("cannot read the branch of the manifest since ");
    assert!(!is_shown(&["status"]));

    let away = Path::new(repo.url()).with_extension("away");
    std::fs::rename(repo.url(), &away).unwrap();
    eventually("the status shows the missing repository", PATIENCE, || is_shown(&["status"]));
    let kept = format!("commit {} stays in use", &first[..12]);
    for arguments in [&["status"][..], &["status", "first"], &["why", "first"], &["doctor"]] {
        let shown = shown(arguments);
        assert!(
            shown.contains("cannot read the branch of the manifest since ") && shown.contains(&kept),
            "{shown}"
        );
    }
    assert_eq!(environments(&folder), ["first"]);
    let since = |text: String| text.split_once("manifest since ").map(|(_, rest)| rest[..24].to_owned());
    let begun = since(shown(&["status"]));
    daemon.kill();
    let daemon = Daemon::start(&folder, &[]);
    assert_eq!(since(shown(&["status"])), begun, "a restart does not change the time");

    std::fs::rename(&away, repo.url()).unwrap();
    eventually("the branch is read again", PATIENCE, || !is_shown(&["status"]));
    assert!(!is_shown(&["doctor"]));
    repo.commit_and_push("ops", &[(file, &manifest("second"))]);
    eventually("the next commit is in force", PATIENCE, || environments(&folder) == ["second"]);
    drop(daemon);
}

#[test]
fn a_push_that_a_webhook_announces_comes_into_force_without_a_poll() {
    const HOOK: &str = "a-secret-of-the-manifest's-webhook";
    let Some(space) = Space::new() else { return };
    let repo = GitRepo::example(&space);
    let (folder, secret) = (space.dir().join("state"), space.dir().join("hook"));
    std::fs::write(&secret, HOOK).unwrap();
    std::fs::create_dir(&folder).unwrap();
    let webhook = format!("webhook = {{ provider = \"github\", secret_file = \"{}\" }}\n", secret.display());
    let text = format!("[manifest]\nurl = \"{}\"\nbranch = \"ops\"\npoll = \"0s\"\n{webhook}", repo.url());
    std::fs::write(folder.join("bootstrap.toml"), text).unwrap();
    repo.commit_and_push("ops", &[("a.toml", &manifest("first"))]);
    let daemon = Daemon::start(&folder, &[]);
    assert_eq!(environments(&folder), ["first"]);

    // The manifest declares the same repository, whose webhook counts as well.
    let declared = format!("[repository.ops]\nurl = \"{}\"\npoll = \"0s\"\n{webhook}", repo.url());
    let second = repo.commit_and_push("ops", &[("a.toml", &(manifest("second") + &declared))]);
    let announced = |hook: &str, branch: &str, commit: &str| {
        signed_push(daemon.port(), hook, HOOK, branch, commit).unwrap().0
    };
    assert_eq!(
        signed_push(daemon.port(), "manifest", "another-secret-than-this", "ops", &second).unwrap().0,
        401
    );
    assert_eq!(announced("manifest", "other", &second), 200, "another branch is ignored");
    assert_eq!(announced("manifest", "ops", &second), 202);
    eventually("the second commit is in force", PATIENCE, || environments(&folder) == ["second"]);

    let third = repo.commit_and_push("ops", &[("a.toml", &(manifest("third") + &declared))]);
    assert_eq!(announced("ops", "ops", &third), 202);
    eventually("the third commit is in force", PATIENCE, || environments(&folder) == ["third"]);
    drop(daemon);
}

#[test]
fn a_first_start_without_a_good_manifest_is_refused_in_words() {
    let Some(space) = Space::new() else { return };
    let repo = GitRepo::example(&space);
    let folder = space.dir().join("state");
    bootstrap(&folder, &repo, "");
    let start = || abide(&folder, &["daemon", "--listen", "127.0.0.1:0"]);
    let ran = start();
    assert!(ran.code != 0 && ran.stderr.contains("no branch `ops`"), "{ran:?}");
    repo.commit_and_push("ops", &[("hosts/two/a.toml", &manifest("a"))]);
    let ran = start();
    assert!(ran.code != 0 && ran.stderr.contains("no folder `hosts/one`"), "{ran:?}");
    repo.commit_and_push("ops", &[("hosts/one/a.toml", "[manifest]\nurl = \"/srv/other.git\"\n")]);
    let ran = start();
    assert!(ran.code != 0 && ran.stderr.contains("belongs only into the folder of the host"), "{ran:?}");
    std::fs::write(folder.join("more.toml"), manifest("more")).unwrap();
    let ran = start();
    assert!(ran.code != 0 && ran.stderr.contains("does not go with `[manifest]`"), "{ran:?}");
}

#[test]
fn an_option_of_the_daemon_names_the_branch() {
    let Some(space) = Space::new() else { return };
    let repo = GitRepo::example(&space);
    repo.commit_and_push("ops", &[("one/a.toml", &manifest("a"))]);
    let folder = space.dir().join("state");
    let source = format!("{}#ops:one", repo.url());
    let daemon = Daemon::start_with(&folder, &["--manifest", &source]);
    assert_eq!(environments(&folder), ["a"]);
    drop(daemon);
    let other = abide(&folder, &["daemon", "--manifest", &format!("{}#ops:two", repo.url())]);
    assert!(other.code == 2 && other.stderr.contains("has another manifest"), "{other:?}");
}
