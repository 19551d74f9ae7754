//! Plays a scenario: acts, lets faults end, waits for rest, and has the laws checked.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use abide::failpoint::Point;
use rustix::process::Signal;
use serde_json::Value;

use super::arena::Arena;
use super::common::{Fault, Ran};
use super::laws::{self, Unrest};
use super::process::verb;
use super::scenario::{Act, Flaw, Hand, Pick, Place, Scenario, Step, Then};
use super::world::{Acked, Hold, World};

/// How long everything may take to come to rest once all faults have ended.
const PATIENCE: Duration = Duration::from_secs(90);
/// How long a lasting fault lasts if nothing is done meanwhile.
const LASTS: Duration = Duration::from_millis(700);

/// What stands between a failure and the daemon's log.
pub(crate) const LOG: &str = "\n--- the end of the daemon's log\n";

/// Plays all steps on a new world.
pub(crate) fn play(arena: &mut Arena, scenario: &Scenario) -> Result<(), String> {
    let mut world = World::new(arena, scenario.parts)?;
    let first = [
        Step { act: Act::Set(1, 0), then: Then::Soon(0) },
        Step { act: Act::Sync(0), then: Then::Rest },
        Step { act: Act::Promote, then: Then::Soon(0) },
    ];
    for step in first.iter().chain(&scenario.steps) {
        if let Err(failure) = take(&mut world, *step) {
            return Err(format!("at {:?}: {failure}{LOG}{}", step.act, world.log()));
        }
    }
    rest(&mut world).map_err(|failure| format!("at the end: {failure}{LOG}{}", world.log()))
}

fn take(world: &mut World<'_>, step: Step) -> Result<(), String> {
    let is_traced = std::env::var_os("ABIDE_MODEL_TRACE").is_some();
    let began = Instant::now();
    if let Some(witness) = world.witness.as_ref().filter(|_| !step.act.is_harmless()) {
        witness.watch(Vec::new());
    }
    act(world, step.act)?;
    let acted = began.elapsed();
    match step.then {
        Then::Soon(pause) => std::thread::sleep(Duration::from_millis(pause)),
        Then::Rest => rest(world)?,
    }
    if is_traced {
        eprintln!(
            "{}{:?}: {acted:.1?}, then {:?} {:.1?}",
            world.prefix,
            step.act,
            step.then,
            began.elapsed()
        );
    }
    Ok(())
}

// --- rest -------------------------------------------------------------------------------------------

/// Ends the faults, waits until nothing moves, and checks the laws.
fn rest(world: &mut World<'_>) -> Result<(), String> {
    repair(world)?;
    let began = Instant::now();
    let mut calm = 0;
    loop {
        watch_process(world)?;
        let why = match laws::look(world) {
            Ok(()) => {
                calm += 1;
                if calm == 2 {
                    break;
                }
                String::new()
            }
            Err(Unrest::Broken(law)) => return Err(law),
            Err(Unrest::NotYet(why)) => {
                calm = 0;
                why
            }
        };
        if began.elapsed() > PATIENCE {
            return Err(format!("no rest within {PATIENCE:?}: {why}"));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    laws::serves_all_the_time(world)?;
    laws::note_rest(world)?;
    laws::watch_what_serves(world);
    Ok(())
}

fn repair(world: &mut World<'_>) -> Result<(), String> {
    let is_lasting = world.is_frozen || world.mischief.lock().unwrap().is_some();
    if is_lasting {
        std::thread::sleep(LASTS);
    }
    if world.is_frozen {
        world.arena.host.signal_engine(Signal::CONT);
        world.is_frozen = false;
    }
    *world.mischief.lock().unwrap() = None;
    if world.process.is_none() && !world.is_manifest_bad {
        // On a full disk too.
        world.start(None)?;
    }
    world.arena.disk.free();
    bring_source_back(world);
    world.declare();
    watch_process(world)?;
    if world.process.is_none() {
        world.start(None)?;
    }
    if let Some(other) = &world.arena.other {
        other.cable.repair();
    }
    if world.agent.as_ref().is_some_and(|agent| agent.process.is_none()) {
        world.start_agent(None);
    }
    if std::mem::take(&mut world.has_lost_images) {
        world.arena.restore();
        // An image that was missing everywhere is looked for again after five minutes, or on request.
        verb(&world.desired_state, &["sync"]);
    }
    Ok(())
}

/// Starts a daemon or an agent again that was killed at a failpoint; no other may end.
fn watch_process(world: &mut World<'_>) -> Result<(), String> {
    if world.has_panicked() {
        return Err("the daemon or the agent panicked".to_owned());
    }
    let agent = world.agent.as_mut().and_then(|agent| agent.process.as_mut());
    if let Some(agent) = agent
        && !agent.is_running()
    {
        if !agent.is_doomed {
            return Err("the agent ended by itself".to_owned());
        }
        world.start_agent(None);
    }
    let Some(process) = &mut world.process else { return Ok(()) };
    if process.is_running() {
        return Ok(());
    }
    if !process.is_doomed {
        return Err("the daemon ended by itself".to_owned());
    }
    world.start(None)
}

// --- acts -------------------------------------------------------------------------------------------

fn act(world: &mut World<'_>, act: Act) -> Result<(), String> {
    match act {
        Act::Push(flaw) => push(world, flaw),
        Act::Repeat => repeat(world),
        Act::SetCommit(pick) => {
            let commit = world.commits[pick % world.commits.len()].id.clone();
            write(world, 0, "set", &["--commit", &commit], (None, Some(commit.clone())));
        }
        Act::Set(place, pick) => set(world, place, pick),
        Act::Promote => promote(world)?,
        Act::Rollback(place) => rollback(world, place),
        Act::Hold(place) => hold(world, place),
        Act::Resume(place) => resume(world, place),
        Act::Sync(place) => {
            if world.slots[place].is_declared {
                verb(&world.desired_state, &["sync", &world.slots[place].name.clone()]);
            }
        }
        Act::Edit(place, key) => {
            world.slots[place].edit(key);
            world.declare();
        }
        Act::BadEdit => {
            world.is_manifest_bad |= world.write_manifest("[environment.dev]\ncontainer = 5\n");
        }
        Act::Rename(place) => rename(world, place),
        Act::Swap(one, other) => swap(world, one, other),
        Act::Take(place) => take_out(world, place),
        Act::Restore(place) => restore(world, place),
        Act::Forget(place) => forget(world, place)?,
        Act::KillDaemon => world.kill(),
        Act::RestartDaemon => restart(world)?,
        Act::Failpoint(pick, nth) => arm(world, pick, nth)?,
        Act::KillDuring(place, pick, pause) => kill_during(world, place, pick, pause),
        Act::Move(place) => move_to_another_host(world, place),
        Act::KillAgent => world.kill_agent(),
        Act::AgentFailpoint(pick, nth) => {
            if world.agent.is_some() {
                world.kill_agent();
                world.start_agent(Some(failpoint(pick, nth)));
            }
        }
        Act::CutCable => {
            if let Some(other) = &world.arena.other {
                other.cable.cut();
            }
        }
        Act::KillAgentEngine => {
            touch_all(world);
            if let Some(other) = &mut world.arena.other {
                other.host.kill_engine();
            }
        }
        Act::KillEngine => {
            touch_all(world);
            world.is_frozen = false;
            world.arena.host.kill_engine();
        }
        Act::FreezeEngine => {
            world.arena.host.signal_engine(Signal::STOP);
            world.is_frozen = true;
        }
        Act::Refuse(count) => plot(world, Fault::Refuse, count),
        Act::Cut(count) => plot(world, Fault::Cut(20), count),
        Act::Hang(count) => plot(world, Fault::Hang(Duration::from_secs(8)), count),
        Act::Errors(count) => plot(world, Fault::Answer(500, r#"{"message":"something went wrong"}"#), count),
        Act::FillDisk => world.arena.disk.fill(),
        Act::Clock(seconds) => world.clock.set(seconds),
        Act::SourceAway => {
            let (here, away) = source(world);
            let _ = std::fs::rename(here, away);
        }
        Act::Touch(place, hand) => {
            world.slots[place].is_touched();
            touch(world, world.slots[place].is_away, &world.slots[place].container, hand);
        }
        Act::TouchSandbox(place, hand) => {
            world.slots[place].is_touched();
            touch(world, world.slots[place].is_away, &format!("{}.net", world.slots[place].container), hand);
        }
        Act::TouchFront(is_away, hand) => {
            touch_all(world);
            let names = ["ps", "--all", "--format", "{{.Names}}", "--filter", "label=abide.role=front"];
            let names = docker(world, is_away, &names).unwrap_or_default();
            names.lines().for_each(|name| touch(world, is_away, name, hand));
        }
        Act::RemoveImage(place) => remove_image(world, place),
        Act::Prune => prune(world),
        Act::CutNetwork => cut_network(world),
    }
    Ok(())
}

fn plot(world: &World<'_>, fault: Fault, count: u8) {
    *world.mischief.lock().unwrap() = Some((fault, count));
}

fn push(world: &mut World<'_>, flaw: Option<Flaw>) {
    if source(world).1.exists() {
        return;
    }
    let commit = world.commit(flaw);
    if world.process.is_some() {
        world.announce(&commit.id);
    }
}

fn repeat(world: &World<'_>) {
    if world.process.is_some() {
        world.announce(&world.commits[0].id);
    }
}

fn set(world: &mut World<'_>, place: Place, pick: Pick) {
    let image = version(world, pick);
    write(world, place, "set", &[&image], (Some(digest(&image)), None));
}

/// The name of a version for `set`. Two of three picks are good versions.
fn version(world: &World<'_>, pick: Pick) -> String {
    let place = pick % 9;
    let version = &world.arena.versions[if place < 6 { place % 3 } else { place - 3 }];
    // Another host can only pull it.
    let pushed = version.pushed.clone().filter(|_| world.parts.has_agent);
    pushed.unwrap_or_else(|| version.id.clone())
}

/// The digest in the name of an image.
fn digest(image: &str) -> String {
    image.rsplit('@').next().unwrap_or(image).to_owned()
}

/// Runs a verb that moves the record, and notes its acknowledgement.
fn write(
    world: &mut World<'_>,
    place: Place,
    word: &'static str,
    arguments: &[&str],
    what: (Option<String>, Option<String>),
) -> bool {
    if !world.slots[place].is_declared || world.is_manifest_bad {
        return false;
    }
    let name = world.slots[place].name.clone();
    let ran = verb(&world.desired_state, &[&[word, &name], arguments].concat());
    note(world, place, word, what, &ran)
}

fn note(
    world: &mut World<'_>,
    place: Place,
    origin: &'static str,
    (image, commit): (Option<String>, Option<String>),
    ran: &Ran,
) -> bool {
    let slot = &mut world.slots[place];
    if ran.code != 0 {
        // The record may have been written, and the answer lost.
        slot.attempts += 1;
        return false;
    }
    let moved: Value = serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {ran:?}"));
    if moved["changed"] == true {
        let generation = moved["generation"].as_u64().unwrap();
        slot.acked.push(Acked { generation, origin, image, commit });
    }
    true
}

fn promote(world: &mut World<'_>) -> Result<(), String> {
    if !(world.slots[1].is_declared && world.slots[2].is_declared) || world.is_manifest_bad {
        return Ok(());
    }
    let (from, to) = (world.slots[1].name.clone(), world.slots[2].name.clone());
    let before = world.history(&world.slots[1]);
    let ran = verb(&world.desired_state, &["promote", &from, &to, "--yes"]);
    if !note(world, 2, "promotion", (None, None), &ran) {
        return Ok(());
    }
    let (Some(before), Some(history)) = (before, world.history(&world.slots[2])) else { return Ok(()) };
    let Some(promoted) = history.first() else { return Ok(()) };
    if let Some((page, Some(flaw))) = world.version(promoted) {
        return Err(format!("a bad version ({flaw:?}, {page}) was promoted: {ran:?}"));
    }
    let is_of_source = before.iter().any(|entry| entry["image"]["id"] == promoted["image"]["id"]);
    if is_of_source { Ok(()) } else { Err(format!("what was promoted never ran in {from}: {promoted}")) }
}

fn rollback(world: &mut World<'_>, place: Place) {
    if write(world, place, "rollback", &[], (None, None)) {
        world.slots[place].hold = Hold::Held(None);
    } else if world.slots[place].is_declared {
        world.slots[place].hold = Hold::Unknown;
    }
}

fn hold(world: &mut World<'_>, place: Place) {
    let slot = &world.slots[place];
    if slot.is_declared && !world.is_manifest_bad {
        let ran = verb(&world.desired_state, &["hold", &slot.name, "--reason", "the model says so"]);
        let slot = &mut world.slots[place];
        match slot.hold {
            Hold::Held(_) if ran.code == 0 => {}
            _ => slot.hold = if ran.code == 0 { Hold::Held(None) } else { Hold::Unknown },
        }
    }
}

fn resume(world: &mut World<'_>, place: Place) {
    let slot = &world.slots[place];
    if slot.is_declared && !world.is_manifest_bad {
        let ran = verb(&world.desired_state, &["resume", &slot.name]);
        world.slots[place].hold = if ran.code == 0 { Hold::Free } else { Hold::Unknown };
    }
}

fn rename(world: &mut World<'_>, place: Place) {
    if world.slots[place].is_declared {
        world.slots[place].rename();
        world.declare();
    }
}

fn swap(world: &mut World<'_>, one: Place, other: Place) {
    if one != other && world.slots[one].is_declared && world.slots[other].is_declared {
        let first = world.slots[one].container.clone();
        world.slots[one].container = std::mem::replace(&mut world.slots[other].container, first);
        world.declare();
    }
}

fn move_to_another_host(world: &mut World<'_>, place: Place) {
    if world.agent.is_some() && world.slots[place].is_declared {
        world.slots[place].moves();
        world.declare();
    }
}

fn take_out(world: &mut World<'_>, place: Place) {
    // Promotions name the environment that they come from.
    if place != 1 || !world.slots[2].is_declared {
        world.slots[place].is_declared = false;
        world.declare();
    }
}

fn restore(world: &mut World<'_>, place: Place) {
    if place != 2 || world.slots[1].is_declared {
        world.slots[place].is_declared = true;
        world.declare();
    }
}

fn forget(world: &mut World<'_>, place: Place) -> Result<(), String> {
    if world.is_frozen || world.process.is_none() {
        return Ok(());
    }
    let name = world.slots[place].name.clone();
    let ran = verb(&world.desired_state, &["forget", &name, "--stop", "--yes"]);
    let slot = &mut world.slots[place];
    match (slot.is_declared, ran.code) {
        (true, 0) if world.agent.is_none() => {
            return Err(format!("a declared environment was forgotten: {ran:?}"));
        }
        // What it left on the other host.
        (true, _) => slot.has_left_page = false,
        (false, 0) => {
            slot.reset_record();
            slot.last_page = None;
            slot.has_left_page = false;
        }
        (false, _) => {
            slot.attempts += 1;
            slot.has_left_page = false;
        }
    }
    Ok(())
}

fn restart(world: &mut World<'_>) -> Result<(), String> {
    if let Some(process) = world.process.take() {
        process.terminate()?;
    }
    // With a manifest that is wrong, no daemon starts.
    Ok(())
}

fn arm(world: &mut World<'_>, pick: Pick, nth: u8) -> Result<(), String> {
    world.kill();
    world.declare();
    world.arena.disk.free();
    world.start(Some(failpoint(pick, nth)))
}

fn failpoint(pick: Pick, nth: u8) -> String {
    let word = Point::ALL[pick % Point::ALL.len()].word();
    let side = if pick.is_multiple_of(2) { "before" } else { "after" };
    format!("{side}-{word}:{nth}")
}

fn kill_during(world: &mut World<'_>, place: Place, pick: Pick, pause: u64) {
    if !world.slots[place].is_declared || world.is_manifest_bad || world.process.is_none() {
        return;
    }
    let (image, name) = (version(world, pick), world.slots[place].name.clone());
    let folder = world.desired_state.clone();
    let ran = std::thread::scope(|scope| {
        let writer = scope.spawn(|| verb(&folder, &["set", &name, &image]));
        std::thread::sleep(Duration::from_millis(pause));
        world.kill();
        writer.join().unwrap()
    });
    note(world, place, "set", (Some(digest(&image)), None), &ran);
}

// --- hands ------------------------------------------------------------------------------------------

fn docker(world: &World<'_>, is_away: bool, arguments: &[&str]) -> Option<String> {
    // A frozen engine would not answer.
    if world.is_frozen && !is_away { None } else { world.host(is_away).try_docker(arguments) }
}

/// Somebody changed all containers by hand. Nobody heals those that left the manifest, or its host.
fn touch_all(world: &mut World<'_>) {
    for slot in &mut world.slots {
        slot.is_touched();
        slot.has_left_page = false;
    }
}

fn touch(world: &World<'_>, is_away: bool, container: &str, hand: Hand) {
    let (away, network) = (format!("{container}-away"), format!("{}net", world.prefix));
    let arguments: &[&str] = match hand {
        Hand::Stop => &["stop", "--time", "1", container],
        Hand::Kill => &["kill", container],
        Hand::Restart => &["restart", "--time", "1", container],
        Hand::Pause => &["pause", container],
        Hand::Remove => &["rm", "--force", container],
        Hand::Rename => &["rename", container, &away],
        Hand::Update => &["update", "--pids-limit", "99", container],
        Hand::Disconnect => &["network", "disconnect", "--force", &network, container],
    };
    docker(world, is_away, arguments);
}

fn remove_image(world: &mut World<'_>, place: Place) {
    let format = "{{.Image}}";
    let (container, is_away) = (world.slots[place].container.clone(), world.slots[place].is_away);
    if let Some(image) = docker(world, is_away, &["container", "inspect", "--format", format, &container]) {
        world.has_lost_images = true;
        docker(world, is_away, &["rmi", "--force", &image]);
    }
}

fn prune(world: &mut World<'_>) {
    world.has_lost_images = true;
    world.foreign = None;
    for is_away in world.sides() {
        for what in ["container", "network"] {
            docker(world, *is_away, &[what, "prune", "--force"]);
        }
        docker(world, *is_away, &["image", "prune", "--all", "--force"]);
    }
}

fn cut_network(world: &mut World<'_>) {
    touch_all(world);
    let network = format!("{}net", world.prefix);
    for is_away in world.sides() {
        for slot in &world.slots {
            touch(world, *is_away, &format!("{}.net", slot.container), Hand::Disconnect);
        }
        docker(world, *is_away, &["network", "rm", &network]);
    }
}

/// The repository, and its path while it is unreachable.
fn source(world: &World<'_>) -> (PathBuf, PathBuf) {
    let here = PathBuf::from(world.arena.repo.url());
    let away = here.with_extension("away");
    (here, away)
}

/// Brings the repository back.
pub(crate) fn bring_source_back(world: &World<'_>) {
    let (here, away) = source(world);
    if away.exists() {
        std::fs::rename(away, here).unwrap();
    }
}
