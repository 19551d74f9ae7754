//! The record of image builds: recipes of generations, builds by content, and ignored heads.

use super::*;
use crate::model::build::RecipeKey;
use crate::model::desired::Desired;

fn recipe(name: &str) -> RecipeKey {
    RecipeKey(name.to_owned())
}

/// A record of `dev` whose first generation is commit 1, built by the recipe `first` into image 1.
async fn built() -> Fixture {
    let record = fixture();
    let (dev, resolver) = (name("dev"), &record.handles.resolver);
    resolver.advance_head(&dev, &commit(1), at(1)).await.unwrap();
    let first = Some(recipe("first"));
    assert!(resolver.resolve_built(&dev, Generation(1), image(1), first).await.unwrap());
    record
}

fn entry(record: &Fixture) -> crate::model::desired::Entry {
    record.handles.desired.get(&name("dev")).unwrap().entry
}

#[tokio::test]
async fn an_edit_creates_a_generation_of_the_same_commit() {
    let record = built().await;
    let (dev, resolver) = (name("dev"), &record.handles.resolver);
    assert_eq!(entry(&record).recipe, Some(recipe("first")));
    assert!(resolver.edited(&dev, Generation(1), image(2), recipe("second"), at(2)).await.unwrap());
    let edited = entry(&record);
    assert_eq!((edited.generation, edited.origin), (Generation(2), Some(Origin::ManifestEdit)));
    assert_eq!((edited.revision, edited.recipe), (Some(commit(1)), Some(recipe("second"))));
    assert!(!resolver.edited(&dev, Generation(1), image(3), recipe("third"), at(3)).await.unwrap());
    // Image 1 was built by another recipe, but naming it accepts it for the current manifest.
    let back = Change { revision: Some(commit(1)), origin: Origin::Rollback, ..set(1) };
    record.handles.writer.submit(&dev, back, &[]).await.unwrap();
    assert_eq!(entry(&record).recipe, Some(recipe("second")));
    // A commit that still has to be built has no image to accept.
    resolver.advance_head(&dev, &commit(2), at(4)).await.unwrap();
    assert_eq!(entry(&record).recipe, None);
}

#[tokio::test]
async fn recording_a_recipe_creates_no_generation_and_no_wakeup() {
    let record = built().await;
    let (dev, resolver) = (name("dev"), &record.handles.resolver);
    let mut wakeups = record.handles.wakeups.subscribe();
    assert!(resolver.note_recipe(&dev, Generation(1), recipe("second")).await.unwrap());
    assert!(!resolver.note_recipe(&dev, Generation(2), recipe("third")).await.unwrap());
    assert!(wakeups.try_recv().is_err());
    let record = record.reopen();
    let noted = entry(&record);
    assert_eq!((noted.generation, noted.recipe.clone()), (Generation(1), Some(recipe("second"))));
    assert_eq!(record.handles.desired.history(&dev).unwrap(), [noted]);
}

#[tokio::test]
async fn a_skipped_head_creates_a_generation_only_on_request() {
    let record = built().await;
    let (dev, resolver) = (name("dev"), &record.handles.resolver);
    assert!(resolver.pass_over(&dev, &commit(2), at(60)).await.unwrap());
    assert!(!resolver.pass_over(&dev, &commit(2), at(60)).await.unwrap());
    assert_eq!(entry(&record).generation, Generation(1));
    let desired = record.handles.desired.get(&dev).unwrap();
    assert_eq!((desired.head, desired.passed_over), (Some(commit(2)), Some(commit(2))));
    let taken = resolver.advance_head(&dev, &commit(2), at(3)).await.unwrap();
    assert_eq!(taken, Some(Generation(2)));
    assert_eq!(record.handles.desired.get(&dev).unwrap().passed_over, None);
    assert_eq!(resolver.advance_head(&dev, &commit(2), at(4)).await.unwrap(), None);
}

fn build_of(number: u64, content: &str, reused: Option<u64>) -> BuildRecord {
    BuildRecord {
        content: Some(BuildKey(content.to_owned())),
        reused,
        result: BuildResult::Built(image(1)),
        ..build(&format!("commit {number}"), number)
    }
}

#[tokio::test]
async fn a_build_is_found_by_commit_and_content_while_in_use() {
    let record = fixture();
    let writer = &record.handles.status_writer;
    writer.build(&build_of(1, "content", None)).await.unwrap();
    let kept = crate::record::status::BUILDS_KEPT as u64;
    for number in 2..=kept + 1 {
        writer.build(&build_of(number, "content", Some(1))).await.unwrap();
    }
    let record = record.reopen();
    let known = |key: &str| record.handles.status.build(&BuildKey(key.to_owned())).unwrap();
    assert!(known("commit 1").is_none(), "the oldest is forgotten");
    assert_eq!(known("commit 2").unwrap().reused, Some(1));
    assert_eq!(known("content").unwrap().number, kept + 1);
    assert_eq!(record.handles.status.build_counts().unwrap().built, 1, "what was taken again is no build");
}

#[tokio::test]
async fn a_push_waiting_for_checks_keeps_its_author() {
    let record = built().await;
    let (dev, resolver) = (name("dev"), &record.handles.resolver);
    let get = |record: &Fixture| record.handles.desired.get(&dev).unwrap();
    for (number, by) in [(2, "github (alice)"), (3, "github (bob)"), (4, "github (carol)")] {
        let hint = Hint { revision: commit(number), by: by.to_owned(), at: at(number * 100) };
        let push = Push { id: None, repository: RepositoryName::new("shop").unwrap(), hint };
        record.handles.writer.push(push, std::slice::from_ref(&dev)).await.unwrap();
        resolver.await_checks(&dev, &commit(number), at(number * 100 + 1)).await.unwrap();
    }
    let desired = get(&record);
    assert_eq!((desired.hint, desired.unchecked.len()), (None, 3), "git shows them, so no push is open");
    assert_eq!(desired.entry.generation, Generation(1), "and none is recorded");
    let passed = resolver.advance_checked(&dev, &commit(3), "passed ci".to_owned(), at(500)).await.unwrap();
    assert_eq!(passed, Some(Generation(2)));
    let record = record.reopen();
    let Desired { entry, head, unchecked, overtaken, .. } = get(&record);
    let by: Vec<_> = overtaken.iter().map(|push| push.by.as_str()).collect();
    assert_eq!(by, ["github (alice)"], "the green commit contains her push");
    assert_eq!((entry.origin, entry.by.as_deref()), (Some(Origin::Push), Some("github (bob)")));
    assert_eq!((entry.note.as_deref(), head), (Some("passed ci"), Some(commit(3))));
    let left: Vec<_> = unchecked.iter().map(|hint| hint.by.as_str()).collect();
    assert_eq!(left, ["github (carol)"], "the older push is part of the green one");
    let (green, note) = (commit(3), "passed ci".to_owned());
    let again = record.handles.resolver.advance_checked(&dev, &green, note, at(600));
    assert_eq!(again.await.unwrap(), None, "a commit is recorded once");
}

#[tokio::test]
async fn a_push_that_another_push_overtakes_keeps_its_author() {
    let record = built().await;
    let (dev, resolver) = (name("dev"), &record.handles.resolver);
    for (number, by) in [(2, "github (alice)"), (3, "github (bob)")] {
        let hint = Hint { revision: commit(number), by: by.to_owned(), at: at(number * 100) };
        let push = Push { id: None, repository: RepositoryName::new("shop").unwrap(), hint };
        record.handles.writer.push(push, std::slice::from_ref(&dev)).await.unwrap();
    }
    assert_eq!(resolver.advance_head(&dev, &commit(3), at(301)).await.unwrap(), Some(Generation(2)));
    // Her delivery comes late, when her commit is not the head any more.
    let hint = Hint { revision: commit(9), by: "github (carol)".to_owned(), at: at(400) };
    let push = Push { id: None, repository: RepositoryName::new("shop").unwrap(), hint };
    record.handles.writer.push(push, std::slice::from_ref(&dev)).await.unwrap();
    resolver.advance_head(&dev, &commit(3), at(100_000)).await.unwrap();
    let desired = record.reopen().handles.desired.get(&dev).unwrap();
    let by: Vec<_> = desired.overtaken.iter().map(|push| push.by.as_str()).collect();
    assert_eq!(
        (desired.entry.by.as_deref(), by),
        (Some("github (bob)"), vec!["github (alice)", "github (carol)"])
    );
    assert_eq!(desired.hint, None);
}
