//! A repository or branch that is missing at the first start, and one that disappears later.

use serde_json::Value;

use super::ends;
use crate::common::Scene;

/// dev tracks a missing branch; test tracks master.
fn without_branch(manifest: String) -> String {
    manifest.replace("branch = \"dev\"", "branch = \"nowhere\"")
}

#[test]
fn a_missing_branch_is_reported_for_its_environment_and_ends_a_wait() {
    let Some((scene, _git)) = Scene::with_git("0s", &["dev", "test"], without_branch) else { return };
    scene.ready("test");
    let view = scene.await_reason("dev", "Degraded", "BranchMissing");
    assert!(view["next_retry"].is_string(), "{view}");
    assert!(ends(&scene, 1, "wait dev --timeout 60s").contains("no branch `nowhere`"));
    let why = ends(&scene, 0, "why dev");
    assert!(why.contains("no branch `nowhere`") && !why.contains("it is under way"), "{why}");
    assert!(!why.contains("someone has to act"), "{why}");
    assert!(ends(&scene, 1, "diff dev").contains("BranchMissing"));
    for other in ["why test", "status test", "events test"] {
        assert!(!ends(&scene, 0, other).contains("nowhere"), "{other}");
    }
    // The branch is created, which resolves everything that was missing.
    scene.site.repo.commit_and_push("nowhere", &[]);
    ends(&scene, 0, "wait dev --timeout 60s");
    assert!(!ends(&scene, 0, "why dev").contains("no branch"));
}

#[test]
fn only_the_newest_source_problem_is_reported() {
    let Some((scene, git)) = Scene::with_git("0s", &["dev"], without_branch) else { return };
    scene.await_reason("dev", "Degraded", "BranchMissing");
    for (words, reason) in [
        ("fatal: unable to access 'https://x/': Could not resolve host", "SourceUnreachable"),
        ("fatal: could not read Username for 'https://x': terminal prompts disabled", "SourceDenied"),
        ("fatal: '/x' does not appear to be a git repository", "SourceMissing"),
        ("fatal: repository 'https://x/' not found", "SourceMissing"),
    ] {
        git.fails(words);
        ends(&scene, 1, "sync dev");
        scene.await_reason("dev", "Degraded", reason);
        let why = ends(&scene, 0, "why dev");
        assert!(why.contains(reason) && !why.contains("no branch"), "{why}");
        ends(&scene, 1, "wait dev --timeout 60s");
    }
    git.is_well();
    ends(&scene, 1, "sync dev");
    scene.await_reason("dev", "Degraded", "BranchMissing");
}

#[test]
fn a_deleted_branch_is_reported_in_every_view() {
    let Some((scene, _git)) = Scene::with_git("0s", &["dev", "test"], |manifest| manifest) else { return };
    scene.ready("dev");
    scene.ready("test");
    scene.site.repo.git(&["push", "--quiet", "origin", ":refs/heads/dev"]);
    ends(&scene, 1, "sync dev");
    let view = scene.ready("dev");
    assert!(view["warnings"][0].as_str().unwrap().contains("no branch `dev`"), "{view}");
    for line in ["status", "status dev", "why dev"] {
        assert!(ends(&scene, 0, line).contains("no branch `dev`"), "{line}");
    }
    for line in ["status test", "why test"] {
        assert!(!ends(&scene, 0, line).contains("no branch `dev`"), "{line}");
    }
    let overview: Value = serde_json::from_str(&scene.get("/api/v1/environments").1).unwrap();
    assert!(overview["environments"][0]["warnings"].to_string().contains("no branch `dev`"), "{overview}");
}
