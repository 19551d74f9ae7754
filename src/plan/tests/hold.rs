//! A hold keeps the container as it is, image and options, and heals it.

use super::world::{World, commit, digest, options};
use crate::model::build::RecipeKey;
use crate::model::container::Secret;
use crate::model::desired::Entry;
use crate::model::status::{Condition, Reason};
use crate::plan::{AfterHold, SupplyKind, held_back, without_secrets};

/// Image 1 runs and is held.
fn held() -> World {
    let mut world = World::running(1);
    world.hold();
    world.rest();
    world.done.clear();
    world
}

fn held_back_by(world: &World, recipe: Option<&RecipeKey>) -> Vec<String> {
    let mut observed = world.observed.clone();
    observed.recipe = recipe.cloned();
    held_back(&world.intent, &observed, &world.memory)
}

fn edit_env(world: &mut World) {
    world.edit(|options| {
        options.env.insert("MODE".to_owned(), Secret::new("other"));
    });
}

#[test]
fn a_changed_secret_takes_effect_only_after_resume() {
    let mut world = held();
    let container = world.only().id.clone();
    edit_env(&mut world);
    world.rest();
    assert_eq!(world.take_done(), [""; 0]);
    let verdict = world.plan().verdict;
    assert_eq!((verdict.condition, verdict.reason), (Condition::Held, Reason::HeldByPerson));
    let differs = "`resume` would replace the container: the environment variable MODE has a different value";
    assert_eq!(held_back_by(&world, None), [differs]);
    assert!(verdict.message.contains(differs), "{}", verdict.message);

    world.exit(0, 1, false);
    world.rest();
    assert_eq!(world.take_done(), ["start"], "it is healed as it is");
    assert_eq!(world.only().id, container);

    world.resume();
    world.rest();
    assert_ne!(world.only().id, container);
    assert!(world.is_ready_with(1), "{world:?}");
}

#[test]
fn a_lost_held_container_is_recreated_with_the_held_options() {
    let mut world = held();
    world.observed.containers.clear();
    world.rest();
    assert_eq!(world.take_done(), ["create", "start"]);
    assert_eq!(world.only().image, Some(digest(1)));
    assert_eq!(world.plan().verdict.condition, Condition::Held);
}

#[test]
fn a_hold_reports_what_resume_would_replace() {
    let mut world = held();
    let mut now = options();
    now.env.insert("MODE".to_owned(), Secret::new("other"));
    now.memory = Some(1);
    let entry = world.latest.clone();
    let after = AfterHold { entry, options: Ok(now), is_judged_otherwise: true };
    world.intent.after_hold = Some(Box::new(after));
    assert_eq!(held_back_by(&world, None), ["`resume` would update: env, memory, health"]);
    let message = world.plan().verdict.message;
    assert!(
        message.contains("; `resume` would update: env, memory, health; `abide resume dev`"),
        "{message}"
    );

    world.set(2);
    let after = AfterHold { entry: world.latest.clone(), options: Ok(options()), is_judged_otherwise: false };
    world.intent.after_hold = Some(Box::new(after));
    assert_eq!(held_back_by(&world, None), ["`resume` would update: image (generation 2 is recorded)"]);
    world.rest();
    assert_eq!(world.take_done(), [""; 0]);

    let [built, edited] = ["a", "b"].map(|key| RecipeKey(key.to_owned()));
    let entry = Entry { revision: Some(commit(2)), recipe: Some(built.clone()), ..world.latest.clone() };
    world.intent.supply = SupplyKind::Build;
    world.intent.entry = entry.clone();
    let after = AfterHold { entry, options: Ok(options()), is_judged_otherwise: false };
    world.intent.after_hold = Some(Box::new(after));
    assert_eq!(held_back_by(&world, Some(&built)), [""; 0]);
    assert_eq!(held_back_by(&world, Some(&edited)), ["`resume` would rebuild: build"]);
}

#[test]
fn secrets_that_a_container_has_from_before_a_change_are_hidden_too() {
    let set = |env: &[(&str, &str)]| {
        env.iter().map(|(name, value)| ((*name).to_owned(), Secret::new(*value))).collect()
    };
    let mut declared = options();
    declared.env = set(&[("PASSWORD", "a-new-one"), ("MODE", "production")]);
    let mut old = World::running(1).only().clone();
    old.env = set(&[("PASSWORD", "the-old-one"), ("MODE", "was-secret"), ("PATH", "/usr/bin")]);
    old.secret_files = vec![Secret::new("the-old-file")];
    let output = "a-new-one the-old-one was-secret the-old-file production /usr/bin";
    let shown = |options| without_secrets(options, std::slice::from_ref(&old), output);
    assert_eq!(shown(Some(&declared)), "[redacted] [redacted] [redacted] [redacted] production /usr/bin");
    let unreadable = shown(None);
    for secret in ["the-old-one", "was-secret", "the-old-file"] {
        assert!(!unreadable.contains(secret), "{unreadable}");
    }
}
