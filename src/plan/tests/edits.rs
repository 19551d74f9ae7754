//! Edits of the build recipe in the manifest.

use std::collections::BTreeMap;

use super::world::{Program, World};
use crate::model::build::RecipeKey;
use crate::model::desired::{Origin, Outcome};
use crate::model::name::Generation;
use crate::model::status::{Condition, Reason};

/// A world whose commit 1 was built and is ready, under the recipe `before`.
fn built_by(before: &str) -> World {
    let mut world = World::empty();
    world.observed.recipe = recipe(before);
    world.push(1);
    world.rest();
    world.wait(60);
    assert!(world.is_ready_with(1), "{world:?}");
    assert_eq!(world.intent.entry.recipe, recipe(before));
    world.done.clear();
    world
}

fn recipe(name: &str) -> Option<RecipeKey> {
    Some(RecipeKey(name.to_owned()))
}

#[test]
fn a_build_edit_rebuilds_the_recorded_commit() {
    let mut world = built_by("first");
    let before = world.intent.entry.clone();
    // A build of the commit under the earlier recipe does not count.
    (world.verdicts, world.irreproducible) = (BTreeMap::new(), true);
    world.observed.recipe = recipe("second");
    let plan = world.plan();
    assert!(plan.differences.concat().contains("`build`"), "{plan:?}");
    world.rest();
    world.wait(60);
    let entry = &world.intent.entry;
    assert_eq!(entry.origin, Some(Origin::ManifestEdit));
    assert_eq!((&entry.revision, &entry.recipe), (&before.revision, &recipe("second")));
    assert_ne!(entry.image, before.image);
    assert!(world.plan().steps.is_empty() && world.plan().verdict.condition == Condition::Ready);
}

#[test]
fn a_build_edit_yielding_the_same_image_changes_nothing() {
    let mut world = built_by("first");
    world.verdicts.clear();
    world.observed.recipe = recipe("second");
    world.rest();
    world.wait(60);
    assert!(world.is_ready_with(1), "{world:?}");
    assert_eq!((world.intent.entry.generation, world.history.len()), (Generation(1), 1));
    assert_eq!(world.take_done(), ["acquire", "note recipe"]);
}

#[test]
fn an_edit_that_does_not_build_is_reported_and_harms_nothing() {
    let mut world = built_by("first");
    world.verdicts.clear();
    world.program(1, Program::DoesNotBuild);
    world.observed.recipe = recipe("second");
    world.rest();
    world.wait(60);
    let plan = world.plan();
    assert_eq!((plan.verdict.condition, plan.verdict.reason), (Condition::Degraded, Reason::BuildFailed));
    assert!(plan.steps.is_empty() && plan.outcome.is_none_or(|(_, outcome)| outcome == Outcome::Ready));
    // Reverting the edit ends the failure.
    world.observed.recipe = recipe("first");
    world.rest();
    assert!(world.is_ready_with(1), "{world:?}");
}

#[test]
fn held_explicitly_set_or_unknown_images_are_not_rebuilt() {
    let mut world = built_by("first");
    world.observed.recipe = recipe("second");
    world.hold();
    assert!(world.plan().steps.is_empty(), "{:?}", world.plan());
    let mut world = built_by("first");
    world.intent.entry.revision = None;
    world.observed.recipe = recipe("second");
    assert!(world.plan().steps.is_empty(), "{:?}", world.plan());
    // Recorded by an earlier version: later edits are compared with the current manifest.
    let mut world = built_by("first");
    world.intent.entry.recipe = None;
    world.rest();
    assert_eq!(
        (world.take_done(), world.intent.entry.recipe.clone()),
        (vec!["note recipe"], recipe("first"))
    );
    // An overlay that cannot be read gives no information about the manifest.
    world.observed.recipe = None;
    assert!(world.plan().steps.is_empty());
}

#[test]
fn an_edit_whose_image_fails_is_rolled_back_and_not_rebuilt() {
    let mut world = built_by("first");
    (world.verdicts, world.irreproducible) = (BTreeMap::new(), true);
    world.observed.recipe = recipe("second");
    let salted = u8::try_from(world.jobs_begun + 1).unwrap() * 50 + 1;
    world.program(salted, Program::NeverAnswers);
    world.rest();
    world.wait(300);
    let entry = &world.intent.entry;
    assert_eq!(entry.origin, Some(Origin::AutomaticRollback), "{world:?}");
    // The record inherits the build recipe of the manifest: only a later edit is another attempt.
    world.intent.entry.recipe = recipe("second");
    let jobs = world.jobs_begun;
    world.rest();
    world.wait(300);
    assert_eq!(world.jobs_begun, jobs);
    assert_eq!(world.plan().verdict.condition, Condition::RolledBack);
}
