//! Groups: who is a member, and what members need of each other.

use std::collections::{BTreeMap, BTreeSet};

use super::cross::{Declarations, NamedPartial, lost};
use super::places::Places;
use super::problem::Problem;
use crate::model::group::{MemberNeeds, NeedCondition};
use crate::model::name::{EnvironmentName, GroupName, NetworkAlias};
use crate::model::spec::{EnvironmentSpec, RestartMode, Supply};

type Members<'d> = Vec<NamedPartial<'d>>;

/// What each environment needs, by the full names of the members.
pub(super) fn needs(declared: &Declarations) -> BTreeMap<EnvironmentName, MemberNeeds> {
    let all: Vec<_> = declared.environments().collect();
    let groups = by_group(&all);
    let of = |(name, draft): NamedPartial<'_>| {
        let members = groups.get(draft.group.as_ref()?)?;
        let needs = draft.needs.iter().filter_map(|(short, condition)| {
            let (member, _) = member(members, draft.group.as_ref()?, short)?;
            Some((member.clone(), *condition))
        });
        Some((name.clone(), needs.collect()))
    };
    declared.environments().filter_map(of).collect()
}

/// Makes a member answer to its short name on the network of its group.
pub(super) fn call_by_short_name(spec: &mut EnvironmentSpec, name: &EnvironmentName) {
    let short = spec.group.as_ref().map(|group| group.short(name));
    spec.run.aliases.extend(short.and_then(|short| NetworkAlias::new(short).ok()));
}

/// Every problem of groups that does not depend on a file that could not be read.
pub(super) fn problems(declared: &Declarations, all: &[NamedPartial<'_>], places: &Places) -> Vec<Problem> {
    let mut found = Vec::new();
    for (group, members) in by_group(all) {
        found.extend(name_of_an_environment(declared, group, &members, places));
        found.extend(apart(group, &members, places));
        found.extend(partly_on_a_swarm(group, &members, places));
        found.extend(names_twice(group, &members, places));
        found.extend(circular_needs(group, &members, places));
        found.extend(never_complete(group, &members, places));
        found.extend(promoted_apart(declared, group, &members, places));
    }
    found
}

/// Needs that name no member.
pub(super) fn lost_members(all: &[NamedPartial<'_>], places: &Places) -> Vec<Problem> {
    let mut found = Vec::new();
    for (group, members) in by_group(all) {
        for (name, draft) in &members {
            for short in draft.needs.keys().filter(|short| member(&members, group, short).is_none()) {
                let known = members.iter().map(|(member, _)| group.short(member));
                let known = known.filter(|known| *known != group.short(name));
                let message = match known.clone().next() {
                    None => format!("unknown member `{short}`; the group `{group}` has no other members"),
                    Some(_) => lost("member", short.as_str(), known)
                        .replace("the manifest declares", &format!("the group `{group}` also has")),
                };
                found.push(places.problem(&format!("environment.{name}.needs.{short}"), message));
            }
        }
    }
    found
}

fn by_group<'d>(all: &[NamedPartial<'d>]) -> BTreeMap<&'d GroupName, Members<'d>> {
    let mut groups: BTreeMap<&GroupName, Members<'d>> = BTreeMap::new();
    for (name, draft) in all {
        if let Some(group) = &draft.group {
            groups.entry(group).or_default().push((name, draft));
        }
    }
    groups
}

/// The member with this short name.
fn member<'d>(
    members: &[NamedPartial<'d>],
    group: &GroupName,
    short: &EnvironmentName,
) -> Option<NamedPartial<'d>> {
    members.iter().copied().find(|(name, _)| group.short(name) == short.as_str())
}

fn of_group(places: &Places, name: &EnvironmentName, message: String) -> Problem {
    places.problem(&format!("environment.{name}.group"), message)
}

/// Commands accept both kinds of names.
fn name_of_an_environment(
    declared: &Declarations,
    group: &GroupName,
    members: &[NamedPartial<'_>],
    places: &Places,
) -> Option<Problem> {
    let mut names = declared.environments().map(|(name, _)| name);
    let (first, _) = members.first()?;
    names.any(|name| name.as_str() == group.as_str()).then(|| {
        let message =
            format!("`{group}` is already the name of an environment: choose another name for the group");
        of_group(places, first, message)
    })
}

/// Members on another host than the first one: they cannot share a network.
fn apart(group: &GroupName, members: &[NamedPartial<'_>], places: &Places) -> Vec<Problem> {
    let Some((first, of_first)) = members.first() else { return Vec::new() };
    let place = |host: Option<&_>| host.map_or("this host".to_owned(), |host| format!("host `{host}`"));
    let others = members.iter().filter(|(_, draft)| draft.host != of_first.host);
    let problem = |(name, draft): &NamedPartial<'_>| {
        let (here, there) = (place(draft.host.as_ref()), place(of_first.host.as_ref()));
        let message = format!(
            "all members of the group `{group}` must run on one host: this one runs on {here}, and \
             `environment.{first}` on {there}"
        );
        of_group(places, name, message)
    };
    others.map(problem).collect()
}

/// Members that are services while the first one is a container, or the other way round: they cannot share a network.
fn partly_on_a_swarm(group: &GroupName, members: &[NamedPartial<'_>], places: &Places) -> Vec<Problem> {
    let is_service = |draft: &super::environment::PartialEnvironment| {
        draft.spec.as_ref().is_some_and(|spec| spec.swarm.is_some())
    };
    let known: Vec<_> = members.iter().filter(|(_, draft)| draft.spec.is_some()).collect();
    let Some((first, of_first)) = known.first() else { return Vec::new() };
    let others = known.iter().filter(|(_, draft)| is_service(draft) != is_service(of_first));
    let problem = |(name, _): &&NamedPartial<'_>| {
        let message = format!(
            "all members of the group `{group}` or none must run on a swarm: declare `swarm` here and in \
             `environment.{first}`, or in neither"
        );
        of_group(places, name, message)
    };
    others.map(problem).collect()
}

/// Short names that another member answers to as well: the engine would return the addresses of both.
fn names_twice(group: &GroupName, members: &[NamedPartial<'_>], places: &Places) -> Vec<Problem> {
    let mut found = Vec::new();
    for (index, (name, _)) in members.iter().enumerate() {
        let short = group.short(name);
        let earlier = members.iter().take(index).find(|(other, _)| group.short(other) == short);
        let answers = |draft: &NamedPartial<'_>| {
            let is_container = draft.1.container.as_ref().is_some_and(|own| own.as_str() == short);
            let aliases = draft.1.spec.as_ref().map(|spec| &spec.run.aliases);
            is_container || aliases.is_some_and(|all| all.iter().any(|alias| alias.as_str() == short))
        };
        let other = members.iter().filter(|(other, _)| other != name).find(|draft| answers(draft));
        if let Some((other, _)) = earlier.or(other) {
            let message = format!(
                "`environment.{other}` is also called `{short}` on the network of the group `{group}`: choose \
                 another name for one of them"
            );
            found.push(of_group(places, name, message));
        }
    }
    found
}

/// Members that are needed `completed` and whose programs are started again whenever they end.
fn never_complete(group: &GroupName, members: &[NamedPartial<'_>], places: &Places) -> Vec<Problem> {
    let mut found = Vec::new();
    for (name, draft) in members {
        let completed = draft.needs.iter().filter(|(_, condition)| **condition == NeedCondition::Completed);
        for (short, _) in completed {
            let spec = member(members, group, short).and_then(|(_, needed)| needed.spec.as_ref());
            if spec.is_some_and(|spec| spec.restart == RestartMode::Always) {
                let message = format!(
                    "`{short}` must not be \"completed\" without an end: declare `restart = \"on-failure\"` there, or \
                     need it \"healthy\""
                );
                found.push(places.problem(&format!("environment.{name}.needs.{short}"), message));
            }
        }
    }
    found
}

/// Members that wait for each other, each circle once.
fn circular_needs(group: &GroupName, members: &[NamedPartial<'_>], places: &Places) -> Vec<Problem> {
    let (mut found, mut reported) = (Vec::new(), BTreeSet::new());
    for (name, _) in members {
        let Some(circle) = circle_from(group, members, name) else { continue };
        let mut names: Vec<&str> = circle.iter().map(|member| group.short(member)).collect();
        let key: BTreeSet<&str> = names.iter().copied().collect();
        if !reported.insert(key) {
            continue;
        }
        let message = match names.as_slice() {
            [only] => format!("`{only}` cannot need itself"),
            _ => {
                names.push(group.short(name));
                format!("circular `needs`: {}", names.join(" needs "))
            }
        };
        found.push(places.problem(&format!("environment.{name}.needs"), message));
    }
    found
}

/// The shortest way from `start` through `needs` back to it.
fn circle_from<'d>(
    group: &GroupName,
    members: &[NamedPartial<'d>],
    start: &'d EnvironmentName,
) -> Option<Vec<&'d EnvironmentName>> {
    let mut seen = BTreeSet::new();
    let mut ways = vec![vec![start]];
    while !ways.is_empty() {
        let mut longer = Vec::new();
        for way in ways {
            let last = way.last().copied()?;
            let (_, draft) = members.iter().find(|(name, _)| *name == last)?;
            let needed = draft.needs.keys().filter_map(|short| member(members, group, short));
            for (needed, _) in needed {
                if needed == start {
                    return Some(way);
                }
                if seen.insert(needed) {
                    longer.push(way.iter().copied().chain([needed]).collect());
                }
            }
        }
        ways = longer;
    }
    None
}

/// Members that are not promoted together with the first promoted one: from another group, or from an environment
/// without one; or only some of them by abide itself.
fn promoted_apart(
    declared: &Declarations,
    group: &GroupName,
    members: &[NamedPartial<'_>],
    places: &Places,
) -> Vec<Problem> {
    let promoted = members.iter().filter_map(|(name, draft)| match &draft.supply {
        Some(Supply::Promotion { from }) => {
            let source = declared.environment(from)?;
            Some((*name, *draft, from, source.group.as_ref()))
        }
        _ => None,
    });
    let mut promoted = promoted.peekable();
    let first = promoted.peek().map(|(name, draft, _, group)| (*name, draft.gates.auto, *group));
    let Some((first, auto, from_group)) = first else { return Vec::new() };
    let problem = |(name, draft, from, of): (
        &EnvironmentName,
        &super::environment::PartialEnvironment,
        _,
        _,
    )| {
        let message = match (of, from_group) {
            (None, _) => format!(
                "the group `{group}` is promoted as one: declare a `group` in `environment.{from}` and in the \
                 sources of the other members"
            ),
            (Some(of), Some(from_group)) if of != from_group => format!(
                "the group `{group}` is promoted as one, from `{from_group}`: `environment.{from}` belongs to \
                 `{of}`"
            ),
            (Some(of), _) if of == group => {
                format!("the group `{group}` cannot be promoted from itself")
            }
            _ if draft.gates.auto != auto => format!(
                "the group `{group}` is promoted as one: declare the same `promote.auto` as \
                 `environment.{first}`"
            ),
            _ => return None,
        };
        Some(of_group(places, name, message))
    };
    promoted.filter_map(problem).collect()
}
