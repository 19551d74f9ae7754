//! `VOLUME` lines of images and paths of the host: no data is lost, and no folder appears unexpectedly.

use std::collections::BTreeSet;

use super::world::{Mode, Program, World, digest};
use crate::model::mount::{AbsolutePath, Mount, MountOptions, VolumeName};
use crate::model::observed::ContainerState;
use crate::model::status::{Condition, Reason};
use crate::plan::{Plan, Step};

fn path(text: &str) -> AbsolutePath {
    AbsolutePath::parse("it", text).unwrap()
}

/// The name that the engine gives to a volume that it creates.
fn anonymous(digit: char) -> VolumeName {
    digit.to_string().repeat(64).parse().unwrap()
}

/// Images up to 9 declare these paths as `VOLUME`.
fn declare(world: &mut World, paths: &[&str]) {
    let paths: BTreeSet<_> = paths.iter().map(|text| path(text)).collect();
    for number in 1..10 {
        world.observed.image_volumes.insert(digest(number), paths.clone());
    }
}

fn running_with(paths: &[&str]) -> World {
    let mut world = World::empty();
    declare(&mut world, paths);
    world.set(1);
    world.wait(60);
    assert!(world.is_ready_with(1), "{world:?}");
    world
}

/// The volume that the only container has at a path.
fn at(world: &World, text: &str) -> String {
    world.only().mounts.volumes[&path(text)].to_string()
}

fn verdict(plan: &Plan) -> (Condition, Reason) {
    (plan.verdict.condition, plan.verdict.reason)
}

/// The container as an earlier version of abide made it: the engine created the volume itself.
fn made_by_an_earlier_version(world: &mut World, index: usize, text: &str, volume: VolumeName) {
    let mounts = &mut world.observed.containers[index].mounts;
    mounts.asked.retain(|mount| mount.target() != &path(text));
    mounts.volumes.insert(path(text), volume.clone());
    world.observed.volumes.insert(volume.to_string());
    world.memory.homes.clear();
}

#[test]
fn an_undeclared_volume_survives_every_container_replacement() {
    let mut world = running_with(&["/data/db", "/kept"]);
    let (db, kept) = (at(&world, "/data/db"), at(&world, "/kept"));
    assert!(db.starts_with("abide-dev-data-db-") && db != kept, "{db} {kept}");
    let same = |world: &World| (at(world, "/data/db"), at(world, "/kept")) == (db.clone(), kept.clone());
    world.set(2);
    world.wait(60);
    assert!(world.is_ready_with(2) && same(&world), "a push: {world:?}");
    world.edit(|options| options.command = Some(vec!["edited".to_owned()]));
    world.wait(60);
    assert!(world.is_ready_with(2) && same(&world), "an edit: {world:?}");
    world.program(3, Program::NeverAnswers);
    world.push(3);
    world.wait(120);
    assert!(world.only().image == Some(digest(2)) && same(&world), "a rollback: {world:?}");
    world.observed.containers.clear();
    world.wait(60);
    assert!(same(&world), "removed by hand: {world:?}");
    world.observed.containers.clear();
    world.memory.homes.clear();
    world.wait(60);
    assert!(same(&world), "and all notes lost: {world:?}");
}

#[test]
fn a_missing_undeclared_volume_is_never_recreated() {
    let mut world = running_with(&["/data/db"]);
    let volume = at(&world, "/data/db");
    world.observed.containers.clear();
    world.observed.volumes.remove(&volume);
    let plan = world.rest();
    assert_eq!(verdict(&plan), (Condition::Blocked, Reason::VolumeMissing));
    assert!(plan.verdict.message.contains(&volume), "{plan:?}");
}

#[test]
fn an_anonymous_volume_of_an_earlier_version_is_adopted() {
    let mut world = running_with(&["/data/db"]);
    made_by_an_earlier_version(&mut world, 0, "/data/db", anonymous('a'));
    let before = world.only().id.clone();
    world.wait(60);
    assert_eq!(world.only().id, before, "nothing is replaced for it");
    world.set(2);
    world.wait(60);
    assert!(world.is_ready_with(2));
    assert_eq!(at(&world, "/data/db"), anonymous('a').to_string());
    assert!(world.only().mounts.asked.iter().any(|mount| mount.target() == &path("/data/db")), "by its name");
    world.observed.containers.clear();
    world.wait(60);
    assert_eq!(at(&world, "/data/db"), anonymous('a').to_string());
}

#[test]
fn an_earlier_versions_candidate_is_not_kept_with_an_empty_volume() {
    let mut world = running_with(&["/data/db"]);
    made_by_an_earlier_version(&mut world, 0, "/data/db", anonymous('a'));
    world.set(2);
    while world.observed.containers.len() < 2 {
        world.pass();
    }
    made_by_an_earlier_version(&mut world, 1, "/data/db", anonymous('b'));
    world.wait(60);
    assert!(world.is_ready_with(2));
    assert_eq!(at(&world, "/data/db"), anonymous('a').to_string());
}

#[test]
fn a_newly_declared_volume_warns_of_the_one_it_replaces() {
    let mut world = running_with(&["/data/db"]);
    let before = at(&world, "/data/db");
    let declared = |volume: &str| Mount::new(volume, "/data/db").unwrap();
    world.edit(|options| options.volumes.push(declared("other")));
    world.wait(60);
    assert_eq!(at(&world, "/data/db"), "other");
    let plan = world.plan();
    let warning = plan.warnings.iter().find(|warning| warning.contains(&before)).expect("it is said");
    assert!(
        warning.contains(&format!("volumes = [\"{before}:/data/db\"]")) && warning.contains("`other`"),
        "{warning}"
    );
    assert!(plan.volumes.iter().any(|volume| volume.source == before && !volume.mounted));
    // The line from the first warning.
    world.edit(|options| options.volumes = vec![declared(&before)]);
    world.wait(60);
    assert_eq!((at(&world, "/data/db"), world.plan().warnings.len()), (before, 0));
}

#[test]
fn declaring_a_path_warns_of_the_anonymous_volume_it_replaces() {
    let mut world = running_with(&["/data/db"]);
    made_by_an_earlier_version(&mut world, 0, "/data/db", anonymous('a'));
    world.edit(|options| options.volumes.push(Mount::new("other", "/data/db").unwrap()));
    world.wait(60);
    assert_eq!(at(&world, "/data/db"), "other");
    assert!(world.plan().warnings.iter().any(|warning| warning.contains(anonymous('a').as_str())));
}

#[test]
fn an_undeclared_volume_is_kept_if_the_image_declares_its_path() {
    let mut world = running_with(&["/data"]);
    assert_eq!(at(&world, "/data"), "data");
    world.edit(|options| options.volumes.clear());
    world.wait(60);
    assert_eq!(at(&world, "/data"), "data");
}

#[test]
fn a_version_without_the_volume_keeps_it_for_the_next_one() {
    let mut world = running_with(&["/data/db"]);
    let before = at(&world, "/data/db");
    world.observed.image_volumes.insert(digest(2), BTreeSet::new());
    world.set(2);
    world.wait(60);
    assert!(world.is_ready_with(2) && !world.only().mounts.volumes.contains_key(&path("/data/db")));
    assert!(world.plan().warnings.iter().any(|warning| warning.contains(&before)));
    world.set(3);
    world.wait(60);
    assert_eq!(at(&world, "/data/db"), before);
}

#[test]
fn mounts_above_or_below_an_image_volume_cause_a_warning() {
    for (declared, line) in [("/var/lib/pg/data", "/var/lib/pg"), ("/var/lib", "/var/lib/pg")] {
        let mut world = running_with(&[line]);
        world.edit(|options| options.volumes = vec![Mount::new("pgdata", declared).unwrap()]);
        world.wait(60);
        let plan = world.plan();
        let is_it = |warning: &&String| {
            warning.contains("`pgdata`") && warning.contains(declared) && warning.contains(line)
        };
        let warning = plan.warnings.iter().filter(is_it);
        assert_eq!(warning.count(), 1, "{:?}", plan.warnings);
    }
}

#[test]
fn an_image_with_a_volume_is_updated_stop_first() {
    for (paths, expected) in [(&["/kept"][..], true), (&[], false)] {
        let mut world = World::empty();
        declare(&mut world, paths);
        world.enter(Mode::Front);
        world.intent.update = None;
        world.edit(|options| options.volumes.clear());
        world.set(1);
        world.wait(60);
        world.set(2);
        let mut is_one_at_a_time = true;
        for _ in 0..200 {
            world.pass();
            let running = world.observed.containers.iter();
            is_one_at_a_time &= running.filter(|seen| seen.state == ContainerState::Running).count() <= 1;
            world.wait(1);
        }
        assert!(world.is_ready_with(2), "{world:?}");
        assert_eq!(is_one_at_a_time, expected, "{paths:?}");
    }
}

fn bind(world: &mut World, create: bool) {
    let mount = Mount::new("/srv/app", "/srv")
        .unwrap()
        .with(MountOptions { create, ..MountOptions::default() })
        .unwrap();
    world.edit(|options| options.volumes.push(mount));
}

#[test]
fn a_missing_bind_source_blocks_the_update_but_stops_nothing() {
    let mut world = World::running(1);
    world.observed.missing_sources.insert(path("/srv/app"));
    bind(&mut world, false);
    world.take_done();
    let plan = world.rest();
    assert_eq!(verdict(&plan), (Condition::Blocked, Reason::BindSourceMissing));
    assert!(plan.verdict.message.contains("/srv/app"), "{plan:?}");
    assert!(world.done.is_empty() && world.serving().len() == 1, "{world:?}");
    world.observed.missing_sources.clear();
    world.wait(60);
    assert!(world.is_ready_with(1));
    assert!(world.only().mounts.host_paths().any(|mounted| mounted == &path("/srv/app")));
}

#[test]
fn a_missing_bind_source_prevents_the_first_container() {
    let mut world = World::empty();
    world.observed.missing_sources.insert(path("/srv/app"));
    bind(&mut world, false);
    world.set(1);
    let plan = world.rest();
    assert_eq!(verdict(&plan), (Condition::Blocked, Reason::BindSourceMissing));
    assert!(world.observed.containers.is_empty());
}

#[test]
fn a_bind_source_with_create_is_created_before_the_container() {
    let mut world = World::running(1);
    world.observed.missing_sources.insert(path("/srv/app"));
    bind(&mut world, true);
    world.take_done();
    world.wait(60);
    let position = |is_it: &dyn Fn(&Step) -> bool| world.done.iter().position(is_it);
    let made = position(&|step| matches!(step, Step::CreateFolder { .. }));
    assert!(made.is_some() && made < position(&|step| matches!(step, Step::Create { .. })), "{world:?}");
    assert!(world.is_ready_with(1));
}

#[test]
fn a_container_is_not_started_without_its_bind_source() {
    let mut world = World::running(1);
    bind(&mut world, false);
    world.wait(60);
    world.observed.missing_sources.insert(path("/srv/app"));
    world.exit(0, 1, false);
    world.take_done();
    let plan = world.rest();
    assert_eq!(verdict(&plan), (Condition::Blocked, Reason::BindSourceMissing));
    assert!(world.done.is_empty());
    world.observed.missing_sources.clear();
    world.wait(60);
    assert!(world.is_ready_with(1));
}

#[test]
fn a_bind_source_no_longer_allowed_by_the_policy_is_not_mounted() {
    let mut world = World::running(1);
    bind(&mut world, false);
    world.wait(60);
    let why = "the policy of this host does not allow mounting /srv/app";
    world.observed.refused_sources.insert(path("/srv/app"), why.to_owned());
    world.exit(0, 1, false);
    let plan = world.rest();
    assert_eq!(verdict(&plan), (Condition::Blocked, Reason::PolicyRefused));
    assert_eq!(plan.verdict.message, why);
}
