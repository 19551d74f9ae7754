//! The laws, as far as they can be seen from outside.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::Value;

use super::process::{page, page_of};
use super::witness::{SiteAddress, Witness};
use super::world::{Hold, Slot, World};

/// Why a look did not end well.
pub(crate) enum Unrest {
    /// Something is under way, or should be.
    NotYet(String),
    /// A law is broken, whatever comes later.
    Broken(String),
}

use Unrest::{Broken, NotYet};

/// What is seen of an environment.
struct Sight {
    view: Value,
    history: Vec<Value>,
    page: Option<String>,
}

/// Looks at everything once.
pub(crate) fn look(world: &mut World<'_>) -> Result<(), Unrest> {
    for place in 0..world.slots.len() {
        let slot = world.slots[place].clone();
        let page = page(world.host_of(&slot).address(), slot.port());
        what_it_left_goes_on(world, &slot)?;
        if !slot.is_declared {
            goes_on(&slot, page.as_deref())?;
            continue;
        }
        let not_there = || NotYet(format!("{}: the daemon does not answer", slot.name));
        let (history, view) =
            (world.history(&slot).ok_or_else(not_there)?, world.view(&slot).ok_or_else(not_there)?);
        let sight = Sight { view, history, page };
        record_is_kept(world, &slot, &sight)?;
        remember(&mut world.slots[place], &sight.history);
        let judged = runs_as_recorded(world, &slot, &sight)
            .and_then(|()| runs_on_one_host(world, &slot, &sight))
            .and_then(|()| is_served_by_name(world, &slot, &sight));
        judged.map_err(|unrest| with_status(unrest, &sight))?;
    }
    for is_away in world.sides() {
        nothing_half_made(world, *is_away)?;
    }
    engine_agrees(world)
}

fn with_status(unrest: Unrest, sight: &Sight) -> Unrest {
    let seen = || {
        let newest: Vec<String> = sight.history.iter().take(4).map(short).collect();
        let view = &sight.view;
        format!(
            "\n  status: {} {} {} (generation {}, observed {}, held {}, retry {})\n  page: {:?}\n  history: {}",
            view["status"],
            view["reason"],
            view["message"],
            view["generation"],
            view["observed_generation"],
            !view["held"].is_null(),
            view["next_retry"],
            sight.page,
            newest.join("\n    ")
        )
    };
    match unrest {
        NotYet(why) => NotYet(why + &seen()),
        Broken(why) => Broken(why + &seen()),
    }
}

fn short(entry: &Value) -> String {
    format!(
        "{} {} image {} commit {} outcome {} note {}",
        entry["generation"],
        entry["origin"],
        entry["image"]["id"],
        entry["revision"],
        entry["outcome"],
        entry["note"]
    )
}

/// An environment that left the manifest goes on serving.
fn goes_on(slot: &Slot, page: Option<&str>) -> Result<(), Unrest> {
    match (&slot.last_page, page) {
        (Some(last), page) if page != Some(last) => {
            Err(NotYet(format!("{} left the manifest and served {last:?}, now {page:?}", slot.name)))
        }
        _ => Ok(()),
    }
}

/// The containers that an environment left on the other host go on serving.
fn what_it_left_goes_on(world: &World<'_>, slot: &Slot) -> Result<(), Unrest> {
    let left = world.host(!slot.is_away).address();
    if slot.has_left_page && page(left, slot.port()).is_none() {
        return Err(NotYet(format!("{}: what it left on the other host does not serve any more", slot.name)));
    }
    Ok(())
}

/// Only what the status warns of runs on another host.
fn runs_on_one_host(world: &World<'_>, slot: &Slot, sight: &Sight) -> Result<(), Unrest> {
    if !world.parts.has_agent {
        return Ok(());
    }
    let filter = format!("label=abide.environment={}", slot.name);
    let list = ["ps", "--all", "--format", "{{.Names}}", "--filter", &filter];
    let Some(there) = world.host(!slot.is_away).try_docker(&list) else {
        return Err(NotYet("an engine does not answer".to_owned()));
    };
    let warnings = sight.view["warnings"].to_string();
    let is_warned_of = warnings.contains("although it runs on");
    match (there.is_empty(), is_warned_of) {
        (false, false) => Err(NotYet(format!("{}: nobody warns of what it left: {there}", slot.name))),
        (true, true) => Err(NotYet(format!("{}: it left nothing, and is warned of: {warnings}", slot.name))),
        _ if sight.view["forgetting"].as_array().is_some_and(|what| !what.is_empty()) => {
            Err(NotYet(format!("{}: what it left is to be removed", slot.name)))
        }
        _ => Ok(()),
    }
}

/// The proxy serves under the host name what it serves on the port.
fn is_served_by_name(world: &World<'_>, slot: &Slot, sight: &Sight) -> Result<(), Unrest> {
    let Some(page) = sight.page.as_ref().filter(|_| world.parts.has_front) else { return Ok(()) };
    let SiteAddress { address, port, name } = world.target(slot);
    match page_of(&address, port, &name, Duration::from_secs(1)) {
        Ok(named) if named == *page => Ok(()),
        other => Err(NotYet(format!("{}: by its name it serves {other:?}", slot.name))),
    }
}

/// No request through the proxy failed while only harmless things happened.
pub(crate) fn serves_all_the_time(world: &World<'_>) -> Result<(), String> {
    let failed = world.witness.as_ref().and_then(Witness::failed);
    failed.map_or(Ok(()), |failed| Err(format!("a request through the proxy failed: {failed}")))
}

/// Has the proxy watched, from now until something harmful happens.
pub(crate) fn watch_what_serves(world: &World<'_>) {
    let Some(witness) = &world.witness else { return };
    let is_watched =
        |slot: &&Slot| slot.is_declared && !slot.options.is_stop_first && slot.last_page.is_some();
    witness.watch(world.slots.iter().filter(is_watched).map(|slot| world.target(slot)).collect());
}

// --- the record -------------------------------------------------------------------------------------

fn generation(entry: &Value) -> u64 {
    entry["generation"].as_u64().unwrap_or_default()
}

/// Acknowledged writes are there, generations grow, and nobody moved the record who may not.
fn record_is_kept(world: &World<'_>, slot: &Slot, sight: &Sight) -> Result<(), Unrest> {
    let (name, history) = (&slot.name, &sight.history);
    let broken = |law: String| Err(Broken(format!("{name}: {law}; history {history:#?}")));
    let newest = history.first().map(generation).unwrap_or_default();
    if newest < slot.newest {
        return broken(format!("generation {} was seen, and now {newest} is the newest", slot.newest));
    }
    if history.windows(2).any(|pair| generation(&pair[0]) <= generation(&pair[1])) {
        return broken("generations do not grow".to_owned());
    }
    for entry in history {
        let Some(before) = slot.seen.get(&generation(entry)) else { continue };
        let is_same = |before: &Value, now: &Value| before.is_null() || before == now;
        let keys = ["revision", "origin"].iter().all(|key| is_same(&before[*key], &entry[*key]));
        if !(keys && is_same(&before["image"]["id"], &entry["image"]["id"])) {
            return broken(format!("generation {} was {before}", generation(entry)));
        }
    }
    for acked in &slot.acked {
        let entry = history.iter().find(|entry| generation(entry) == acked.generation);
        let is_kept = entry.is_some_and(|entry| {
            let is = |expected: &Option<String>, seen: &Value| {
                expected.is_none() || expected.as_deref() == seen.as_str()
            };
            entry["origin"] == acked.origin
                && (is(&acked.image, &entry["image"]["id"]) || is(&acked.image, &entry["image"]["digest"]))
                && is(&acked.commit, &entry["revision"])
        });
        if !is_kept {
            return broken(format!("an acknowledged write is lost: {acked:?}"));
        }
    }
    moved_by_right(world, slot, history).or_else(broken)
}

fn moved_by_right(world: &World<'_>, slot: &Slot, history: &[Value]) -> Result<(), String> {
    let mut unexplained = 0;
    for (place, entry) in history.iter().enumerate() {
        let (origin, before) = (entry["origin"].as_str().unwrap_or_default(), history.get(place + 1));
        let is_acked = slot.acked.iter().any(|acked| acked.generation == generation(entry));
        match origin {
            "set" | "promotion" | "rollback" if !is_acked => unexplained += 1,
            "automatic rollback" => {
                let Some(before) = before else { continue };
                if ["automatic rollback", "rollback"].iter().any(|origin| before["origin"] == *origin) {
                    return Err(format!("generation {} rolls a rollback back", generation(entry)));
                }
                if let Some((page, None)) = world.version(before) {
                    return Err(format!(
                        "the good version {page:?} was condemned by generation {}",
                        generation(entry)
                    ));
                }
            }
            _ => {}
        }
    }
    if unexplained > slot.attempts {
        return Err(format!("{unexplained} generations were made that nobody asked for"));
    }
    Ok(())
}

fn remember(slot: &mut Slot, history: &[Value]) {
    slot.newest = history.first().map(generation).unwrap_or_default().max(slot.newest);
    slot.seen.extend(history.iter().map(|entry| (generation(entry), entry.clone())));
}

// --- what runs --------------------------------------------------------------------------------------

/// At rest what runs is what is recorded, and what served still serves.
fn runs_as_recorded(world: &World<'_>, slot: &Slot, sight: &Sight) -> Result<(), Unrest> {
    let (name, view, page) = (&slot.name, &sight.view, sight.page.as_deref());
    let not_yet = |why: String| Err(NotYet(format!("{name}: {why}")));
    if view["observed_generation"] != view["generation"] && !sight.history.is_empty() {
        return not_yet("no pass has looked at the newest generation".to_owned());
    }
    if view["status"] == "Progressing" {
        return not_yet("it is progressing".to_owned());
    }
    let is_held = !view["held"].is_null();
    match slot.hold {
        Hold::Held(_) if !is_held => return Err(Broken(format!("{name}: an acknowledged hold is lost"))),
        Hold::Free if is_held => return Err(Broken(format!("{name}: it is held and nobody holds it"))),
        _ => {}
    }
    let keeps = |why: &str| match (&slot.last_page, page) {
        (Some(last), page) if page != Some(last) => {
            not_yet(format!("{why}: it served {last:?}, and now {page:?}"))
        }
        _ => Ok(()),
    };
    let Some(newest) = sight.history.first() else { return keeps("nothing is recorded") };
    if is_held {
        return match &slot.hold {
            Hold::Held(Some((kept, _))) if kept.as_deref() != page => {
                not_yet(format!("it is held with {kept:?} and serves {page:?}"))
            }
            _ if slot.last_page.is_some() && page.is_none() => {
                not_yet("it is held and serves nothing".to_owned())
            }
            _ if page.is_some() && view["status"] != "Held" => {
                not_yet("it is held, serves, and is not Held".to_owned())
            }
            _ => Ok(()),
        };
    }
    head_is_recorded(world, slot, sight)?;
    let Some((expected, flaw)) = world.version(newest) else {
        return not_yet("the newest generation names no version that the model knows".to_owned());
    };
    let has_good = sight.history.iter().any(|entry| {
        entry["outcome"]["outcome"] == "ready" && matches!(world.version(entry), Some((_, None)))
    });
    let is_rollback = newest["origin"] == "automatic rollback";
    match flaw {
        None if page != Some(&expected) => not_yet(format!("it should serve {expected:?}")),
        None if view["status"] != "Ready" && !(is_rollback && view["status"] == "RolledBack") => {
            not_yet("a good version is served and recorded, and it is not Ready".to_owned())
        }
        None => Ok(()),
        Some(flaw) if view["status"] == "Ready" => {
            Err(Broken(format!("{name}: it is Ready with a version that never is ({flaw:?})")))
        }
        Some(_) if has_good => not_yet("a bad version was not rolled back".to_owned()),
        Some(_) => keeps("a bad version has no good one before it"),
    }
}

/// What was pushed is recorded in the end.
fn head_is_recorded(world: &World<'_>, slot: &Slot, sight: &Sight) -> Result<(), Unrest> {
    let Some(head) = slot.head.as_deref().filter(|_| slot.place == 0) else { return Ok(()) };
    if sight.history.iter().any(|entry| entry["revision"] == head) {
        return Ok(());
    }
    let known = world.commits.iter().position(|commit| commit.id == head);
    Err(NotYet(format!("{}: the head of the branch (commit {known:?}, {head}) is not recorded", slot.name)))
}

// --- the engine -------------------------------------------------------------------------------------

/// All containers are those that serve and their sandboxes, and no work of a build is left.
fn nothing_half_made(world: &World<'_>, is_away: bool) -> Result<(), Unrest> {
    let format = "{{.Names}}\t{{.Label \"abide.role\"}}\t{{.ID}}";
    let listed = world.host(is_away).try_docker(&["ps", "--all", "--no-trunc", "--format", format]);
    let Some(listed) = listed else { return Err(NotYet("the engine does not answer".to_owned())) };
    let expected: BTreeSet<&str> = world.slots.iter().map(|slot| slot.container.as_str()).collect();
    // What an environment left here gives its name to the environment that has it now.
    let was_replaced = |name: &str| {
        let before = name.split_once(".moved-").map(|(before, _)| before);
        world.parts.has_agent && before.is_some_and(|before| expected.contains(before))
    };
    let mut has_foreign = false;
    let mut sandboxes = 0;
    for line in listed.lines() {
        let mut words = line.split('\t');
        let mut word = || words.next().unwrap_or_default();
        let (name, role, id) = (word(), word(), word());
        has_foreign |= world.foreign.as_deref() == Some(id);
        if role == "holder" {
            // Nobody addresses a sandbox by its name, so one that a hand renamed stays as it is.
            sandboxes += 1;
        } else if !(expected.contains(name)
            || was_replaced(name)
            || ["guard", "front"].contains(&role)
            || name.ends_with("stranger"))
        {
            return Err(NotYet(format!("a container is left over: {line}")));
        }
    }
    // Behind a proxy, each environment has a spare for its next version.
    let for_each = if world.parts.has_front { 2 } else { 1 };
    if sandboxes > for_each * expected.len() {
        return Err(NotYet(format!("a sandbox is left over: {listed}")));
    }
    if world.foreign.is_some() && !has_foreign && !is_away {
        return Err(Broken("a container that is not abide's was removed".to_owned()));
    }
    if world.has_no_work() { Ok(()) } else { Err(NotYet("work of a build is left".to_owned())) }
}

/// The engine itself shows what the manifest declares, and `diff` has nothing to do.
fn engine_agrees(world: &World<'_>) -> Result<(), Unrest> {
    for slot in world.slots.iter().filter(|slot| slot.is_declared && slot.hold == Hold::Free) {
        let Some(history) = world.history(slot) else { continue };
        let is_good = history.first().is_some_and(|entry| matches!(world.version(entry), Some((_, None))));
        if !is_good {
            continue;
        }
        let path = format!("/api/v1/environments/{}/plan", slot.name);
        let plan = super::process::ask(&world.desired_state, &path).unwrap_or_default();
        let is_rollback = history.first().is_some_and(|entry| entry["origin"] == "automatic rollback");
        if plan["steps"].as_array().is_none_or(|steps| !steps.is_empty())
            || plan["differs"] == true && !is_rollback
        {
            return Err(NotYet(format!("{}: diff has something to do: {plan}", slot.name)));
        }
        let format = "{{.State.Running}} {{.State.Paused}} {{.HostConfig.Memory}} {{.HostConfig.PidsLimit}} \
                      {{.HostConfig.Init}} {{.Config.StopTimeout}} {{.Image}} {{.Config.Env}}";
        let seen = inspect(world, slot, format).unwrap_or_default();
        let options = &slot.options;
        let memory = u64::from(options.memory) * (64 << 20);
        let pids = if options.pids == 0 { "<nil>".to_owned() } else { (64 * options.pids).to_string() };
        let begins = format!("true false {memory} {pids}");
        let unlimited = format!("true false {memory} 0");
        let has = |words: &str| seen.contains(words);
        let is_begun = seen.starts_with(&begins) || options.pids == 0 && seen.starts_with(&unlimited);
        let is_declared = is_begun
            && has(&format!("MODEL={}", options.env))
            && has("TOKEN=") == options.has_secret
            && image_id(world, &history[0]).is_none_or(|id| has(&id));
        if !is_declared {
            return Err(NotYet(format!(
                "{}: its container is not as declared ({begins}): {seen}",
                slot.name
            )));
        }
    }
    Ok(())
}

/// The ID of the image that an entry of a history names; `None` if the controller has no ID for it, because
/// it was built and runs on another host.
fn image_id(world: &World<'_>, entry: &Value) -> Option<String> {
    let of_version = world.arena.versions.iter().find(|version| version.is_named_by(&entry["image"]));
    let id = entry["image"]["id"].as_str().or(of_version.map(|version| version.id.as_str()));
    id.map(str::to_owned)
}

fn inspect(world: &World<'_>, slot: &Slot, format: &str) -> Option<String> {
    world.host_of(slot).try_docker(&["container", "inspect", "--format", format, &slot.container])
}

/// Notes what is served at rest, and what may not change until somebody changes it.
pub(crate) fn note_rest(world: &mut World<'_>) -> Result<(), String> {
    for place in 0..world.slots.len() {
        let slot = world.slots[place].clone();
        let page = page(world.host_of(&slot).address(), slot.port());
        let env = inspect(world, &slot, "{{range .Config.Env}}{{println .}}{{end}}").unwrap_or_default();
        let env = env.lines().find(|line| line.starts_with("MODEL=")).unwrap_or_default().to_owned();
        let mounts = "{{range .Mounts}}{{println .Name .Destination}}{{end}}";
        let mounts = inspect(world, &slot, mounts).unwrap_or_default();
        let mut kept = None;
        let mut volumes = BTreeSet::new();
        for line in mounts.lines() {
            let (name, target) = line.split_once(' ').unwrap_or_default();
            volumes.insert(name.to_owned());
            if target == "/kept" {
                kept = Some(name.to_owned());
            }
        }
        for is_away in world.sides() {
            let all = world.host(*is_away).try_docker(&["volume", "ls", "--quiet"]).unwrap_or_default();
            let lost: Vec<&String> = slot.volumes[usize::from(*is_away)]
                .iter()
                .filter(|volume| !all.lines().any(|name| name == volume.as_str()))
                .collect();
            if !lost.is_empty() {
                return Err(format!("{}: volumes are gone: {lost:?}", slot.name));
            }
        }
        let side = usize::from(slot.is_away);
        if let (Some(before), Some(now)) = (&slot.kept[side], &kept)
            && before != now
        {
            return Err(format!("{}: /kept was the volume {before}, and is {now}", slot.name));
        }
        let is_held = match (&slot.hold, world.view(&slot)) {
            (Hold::Unknown, Some(view)) => !view["held"].is_null(),
            (hold, _) => matches!(hold, Hold::Held(_)),
        };
        if let Hold::Held(Some((_, before))) = &slot.hold
            && *before != env
            && !before.is_empty()
        {
            return Err(format!("{}: it is held with {before}, and now has {env}", slot.name));
        }
        let slot = &mut world.slots[place];
        let shown = || Hold::Held(Some((page.clone(), env.clone())));
        slot.hold = if !is_held {
            Hold::Free
        } else if matches!(slot.hold, Hold::Held(Some(_))) {
            slot.hold.clone()
        } else {
            shown()
        };
        if slot.is_declared {
            slot.last_page = page;
        }
        slot.kept[side] = kept.or(slot.kept[side].take());
        slot.volumes[side].extend(volumes);
    }
    Ok(())
}
