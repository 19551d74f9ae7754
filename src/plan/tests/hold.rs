//! A hold keeps the container as it is, image and options, and heals it.

use super::world::{World, commit, digest, options};
use crate::model::build::RecipeKey;
use crate::model::container::Secret;
use crate::model::desired::Entry;
use crate::model::status::{Condition, Reason};
use crate::plan::{AfterHold, SupplyKind, held_back};

/// Image 1 runs and is held.
fn held() -> World {
    let mut world = World::running(1);
    world.hold();
    world.rest();
    world.done.clear();
    world
}

fn edit_env(world: &mut World) {
    world.edit(|options| {
        options.env.insert("MODE".to_owned(), Secret::new("other"));
    });
}

#[test]
fn a_container_whose_secret_was_changed_is_kept_while_it_is_held_and_replaced_by_resume() {
    let mut world = held();
    let container = world.only().id.clone();
    edit_env(&mut world);
    world.rest();
    assert_eq!(world.take_done(), [""; 0]);
    let verdict = world.plan().verdict;
    assert_eq!((verdict.condition, verdict.reason), (Condition::Held, Reason::HeldByPerson));

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
fn a_held_container_that_is_lost_is_made_again_of_the_options_that_are_kept() {
    let mut world = held();
    world.observed.containers.clear();
    world.rest();
    assert_eq!(world.take_done(), ["create", "start"]);
    assert_eq!(world.only().image, Some(digest(1)));
    assert_eq!(world.plan().verdict.condition, Condition::Held);
}

#[test]
fn a_hold_says_what_resume_would_replace() {
    let mut world = held();
    let mut now = options();
    now.env.insert("MODE".to_owned(), Secret::new("other"));
    now.memory = Some(1);
    let entry = world.latest.clone();
    let after = AfterHold { entry, options: Ok(now), is_judged_otherwise: true };
    world.intent.after_hold = Some(Box::new(after));
    assert_eq!(held_back(&world.intent, None), ["`resume` would update: env, memory, health"]);
    let message = world.plan().verdict.message;
    assert!(
        message.contains("; `resume` would update: env, memory, health; `abide resume dev`"),
        "{message}"
    );

    world.set(2);
    let after = AfterHold { entry: world.latest.clone(), options: Ok(options()), is_judged_otherwise: false };
    world.intent.after_hold = Some(Box::new(after));
    assert_eq!(held_back(&world.intent, None), ["`resume` would update: image (generation 2 is recorded)"]);
    world.rest();
    assert_eq!(world.take_done(), [""; 0]);

    let [built, edited] = ["a", "b"].map(|key| RecipeKey(key.to_owned()));
    let entry = Entry { revision: Some(commit(2)), recipe: Some(built.clone()), ..world.latest.clone() };
    world.intent.supply = SupplyKind::Build;
    world.intent.entry = entry.clone();
    let after = AfterHold { entry, options: Ok(options()), is_judged_otherwise: false };
    world.intent.after_hold = Some(Box::new(after));
    assert_eq!(held_back(&world.intent, Some(&built)), [""; 0]);
    assert_eq!(held_back(&world.intent, Some(&edited)), ["`resume` would rebuild: build"]);
}
