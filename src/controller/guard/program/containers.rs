//! Actions on the containers.

use std::collections::HashMap;

use super::engine::{GuardedState, address_in, call, encoded, inspect, part};
use super::lists::{ListedFront, ListedGroup, is_id};

/// When a container and its sandbox were started, in the engine's format.
pub(super) type Starts = (String, String);

/// Brings one group into the desired state, or prints why that failed. Returns the container and the start
/// times of it and its sandbox, if both run.
pub(super) fn keep(
    record: &str,
    group: &ListedGroup,
    together: &HashMap<String, Starts>,
    is_first: bool,
) -> Result<Option<(String, Starts)>, ()> {
    let kept = keep_group(record, group, together.get(&group.container), is_first);
    kept.map(|starts| Some((group.container.clone(), starts?))).map_err(|why| {
        println!("container {}: {why}", &group.container[..12]);
    })
}

pub(super) fn keep_group(
    record: &str,
    group: &ListedGroup,
    before: Option<&Starts>,
    is_first: bool,
) -> Result<Option<Starts>, String> {
    let Some(container) = inspect(&group.container)? else { return Ok(None) };
    if !container.is_up && !group.is_beside && is_replaced(record, group)? {
        return Ok(None);
    }
    if !container.is_up && group.may_end && container.exit_code == 0 && !container.has_failed {
        return Ok(None);
    }
    let Some(sandbox_started) = keep_sandbox(group)? else { return Ok(None) };
    set_policy(&group.container, &container, if group.may_end { "on-failure" } else { "always" })?;
    if container.is_paused {
        // abide ended while it backed up the volume.
        println!("resuming container {}", &group.container[..12]);
        post(&group.container, "unpause")?;
    }
    if container.is_up {
        let starts = (container.started_at, sandbox_started);
        if is_left_behind(&starts, before) {
            println!("restarting container {}: its sandbox was restarted", &group.container[..12]);
            return post(&group.container, "restart").map(|()| None);
        }
        return Ok(Some(starts));
    }
    // A container with a policy and without an error was stopped manually. It stays stopped until the next
    // engine restart.
    if is_first || !container.has_policy || container.has_failed {
        println!("starting container {}", &group.container[..12]);
        post(&group.container, "start")?;
    }
    Ok(None)
}

/// Returns whether the sandbox was started after the container, which is then not in its network namespace.
/// An earlier observation of both counts more than the engine's clock, which somebody may have changed.
pub(super) fn is_left_behind((container, sandbox): &Starts, before: Option<&Starts>) -> bool {
    match before.filter(|(before, _)| before == container) {
        Some((_, before)) => before != sandbox,
        None => sandbox > container,
    }
}

/// Makes sure that the sandbox runs. Returns its start time; `None` if it was removed, in which case the
/// container can never be started again.
pub(super) fn keep_sandbox(group: &ListedGroup) -> Result<Option<String>, String> {
    let Some(id) = &group.sandbox else { return Ok(Some(String::new())) };
    let Some(sandbox) = inspect(id)? else { return Ok(None) };
    set_policy(id, &sandbox, "always")?;
    if sandbox.is_up {
        return Ok(Some(sandbox.started_at));
    }
    println!("starting sandbox {}", &id[..12]);
    post(id, "start")?;
    Ok(inspect(id)?.map(|sandbox| sandbox.started_at))
}

/// Returns whether another container of the environment runs in place of this one: a version that was being
/// deployed when abide ended. Both would need the same port.
pub(super) fn is_replaced(record: &str, group: &ListedGroup) -> Result<bool, String> {
    let Some(environment) = &group.environment else { return Ok(false) };
    // The label of a generation excludes sandboxes, which have none.
    let filters = format!(
        r#"{{"label":["abide.record={record}","abide.environment={environment}","abide.generation"],"status":["running","restarting","paused"]}}"#
    );
    let answer = call("GET", &format!("/containers/json?filters={}", encoded(&filters)), None)?;
    Ok(answer.expect_success()?.trim() != "[]")
}

pub(super) fn set_policy(id: &str, seen: &GuardedState, policy: &str) -> Result<(), String> {
    if seen.has_policy {
        return Ok(());
    }
    let body = format!(r#"{{"RestartPolicy":{{"Name":"{policy}"}}}}"#);
    let body = Some(("application/json", body.as_bytes()));
    call("POST", &format!("/containers/{id}/update"), body)?.expect_success()?;
    Ok(())
}

pub(super) fn post(id: &str, what: &str) -> Result<(), String> {
    call("POST", &format!("/containers/{id}/{what}"), None)?.expect_success().map(drop)
}

/// Returns whether any container of the groups still exists. If the engine does not answer, it counts as
/// existing.
pub(super) fn is_needed(groups: &[ListedGroup]) -> bool {
    groups.iter().any(|group| !matches!(inspect(&group.container), Ok(None)))
}

/// Makes sure that the proxy runs with the containers' current addresses. Returns whether it was started.
pub(super) fn keep_front(
    front: &ListedFront,
    groups: &[ListedGroup],
    is_first: bool,
) -> Result<bool, String> {
    let Some(seen) = inspect(&front.container)? else { return Ok(false) };
    if !seen.is_up && !is_first && seen.exit_code == 0 {
        // It exited on request.
        return Ok(false);
    }
    let configuration = front.readdressed(groups)?;
    let present =
        call("GET", &format!("/containers/{}/archive?path=/{}", front.container, front.path), None)?;
    let has_changed = !contains(&present.body, configuration.as_bytes());
    if has_changed {
        let archive = archive(&front.path, configuration.as_bytes());
        let target = format!("/containers/{}/archive?path=/", front.container);
        call("PUT", &target, Some(("application/x-tar", &archive)))?.expect_success()?;
    }
    if !seen.is_up {
        println!("starting the proxy");
        post(&front.container, "start")?;
        return Ok(true);
    }
    if has_changed {
        println!("sending the proxy the addresses of the containers");
        post(&front.container, "kill?signal=HUP")?;
    }
    Ok(false)
}

/// Replaces each old address by the new one, all at the same time, because two containers may have swapped
/// addresses.
pub(super) fn replaced(configuration: &str, addresses: &[(String, String)]) -> String {
    let mut text = String::with_capacity(configuration.len());
    let mut rest = configuration;
    let is_part = |c: char| c.is_ascii_digit() || c == '.';
    while !rest.is_empty() {
        let is_start = !text.ends_with(is_part);
        let found = addresses.iter().filter(|_| is_start).find_map(|(old, new)| {
            let after = rest.strip_prefix(old.as_str())?;
            (!after.starts_with(|c: char| c.is_ascii_digit())).then_some((new, after))
        });
        if let Some((new, after)) = found {
            text.push_str(new);
            rest = after;
        } else {
            let next = rest.chars().next().map_or(rest.len(), char::len_utf8);
            text.push_str(&rest[..next]);
            rest = &rest[next..];
        }
    }
    text
}

/// Returns a tar archive of one file.
pub(super) fn archive(path: &str, content: &[u8]) -> Vec<u8> {
    let mut header = [0_u8; 512];
    let mut put = |at: usize, text: &[u8]| header[at..at + text.len()].copy_from_slice(text);
    put(0, &path.as_bytes()[..path.len().min(99)]);
    put(100, b"0000644\x000000000\x000000000\x00");
    put(124, format!("{:011o}\0{:011o}\0", content.len(), 0).as_bytes());
    put(148, b"        0");
    put(257, b"ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let mut archive = header.to_vec();
    archive.extend_from_slice(content);
    archive.resize(archive.len().next_multiple_of(512) + 1024, 0);
    archive
}

pub(super) fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len().max(1)).any(|window| window == part)
}

/// Returns the address at which a container is reachable in a network: that of its sandbox, if it joins one.
pub(super) fn address(id: &str, network: &str) -> Result<Option<String>, String> {
    if !is_id(id) {
        return Ok(None);
    }
    let Some(container) = inspect(id)? else { return Ok(None) };
    let joined = part(&container.text, "\"NetworkMode\":\"container:", "\"").filter(|id| is_id(id));
    match joined {
        None => Ok(address_in(&container.text, network)),
        Some(sandbox) => Ok(inspect(sandbox)?.and_then(|sandbox| address_in(&sandbox.text, network))),
    }
}
