//! `promote` and `verify` of an environment.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use jiff::civil::{Date, DateTime, Time, Weekday};

use super::cross::{Declarations, NamedPartial};
use super::places::Places;
use super::problem::Problem;
use super::table::{ManifestField, Table};
use super::{grammar, keys};
use crate::model::checks::is_own;
use crate::model::gates::{
    Freeze, Gates, InvalidZone, PromotionWindow, SignatureKey, VerifySpec, Zone, day_name,
};
use crate::model::reference::check_reference;
use crate::model::spec::Supply;
use crate::model::time::Timestamp;

/// The most people that may be asked for an approval.
const MOST_APPROVALS: u64 = 20;
/// The default of `verify.timeout`.
const DEFAULT_VERIFY_TIMEOUT: Duration = Duration::from_secs(5 * 60);

/// The days of the week in order.
const WEEK: [Weekday; 7] = [
    Weekday::Monday,
    Weekday::Tuesday,
    Weekday::Wednesday,
    Weekday::Thursday,
    Weekday::Friday,
    Weekday::Saturday,
    Weekday::Sunday,
];

/// Reads `promote` without its `from`.
pub(super) fn read(environment: &Table<'_>) -> Gates {
    let Some(table) = environment.get("promote").and_then(|field| field.table(&keys::PROMOTE)) else {
        return Gates::default();
    };
    let flag = |key| table.get(key).and_then(|field| field.flag()).unwrap_or(false);
    let windows = table.get("windows").map(|field| field.items("a list of windows")).unwrap_or_default();
    let windows: Vec<PromotionWindow> = windows.iter().filter_map(read_window).collect();
    let freezes = table.get("freezes").map(|field| field.items("a list of freezes")).unwrap_or_default();
    let freezes = freezes.iter().filter_map(|freeze| read_freeze(freeze, windows.first())).collect();
    let gates = Gates {
        approvals: table
            .get("approvals")
            .and_then(|field| field.integer(0, MOST_APPROVALS))
            .map_or(0, number),
        by: table.get("by").map(|field| read_names(&field)).unwrap_or_default(),
        others_only: flag("others_only"),
        soak: table.get("soak").and_then(|field| read_time(&field)),
        verified: flag("verified"),
        checks: table.get("checks").and_then(|field| read_checks(&field)).unwrap_or_default(),
        signed_by: table.get("signed_by").and_then(|field| read_key(&field)),
        windows,
        freezes,
        auto: flag("auto"),
    };
    contradictions(&table, &gates);
    gates
}

fn number(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// Notes settings that mean nothing, or that no image could ever meet.
fn contradictions(table: &Table<'_>, gates: &Gates) {
    if gates.approvals == 0 {
        for field in table.present(&["by", "others_only"]) {
            field.must(
                "goes with `approvals`, the number of people who must approve, such as `approvals = 1`",
            );
        }
    }
    let known = u32::try_from(gates.by.len()).unwrap_or(u32::MAX);
    if let Some(field) = table.get("approvals").filter(|_| known > 0 && known < gates.approvals) {
        field.must(format!(
            "is {}, and `by` names only {known}: every person counts once, so it would never be enough",
            gates.approvals
        ));
    }
}

fn read_names(field: &ManifestField<'_>) -> BTreeSet<String> {
    let items = field.items("a list of tokens or users such as [\"qa\"]");
    let name = |item: &ManifestField<'_>| {
        let name = item.text()?.trim();
        if name.is_empty() || name.chars().any(char::is_control) {
            item.must("must be the name of a token or a user, such as \"qa\"");
            return None;
        }
        Some(name.to_owned())
    };
    let names: BTreeSet<String> = items.iter().filter_map(name).collect();
    if names.is_empty() && items.is_empty() {
        field.must("must name somebody, such as [\"qa\"]; left out, the approval of everybody who may approve counts");
    }
    names
}

fn read_time(field: &ManifestField<'_>) -> Option<Duration> {
    grammar::patience(field.duration()?).map_err(|predicate| field.must(predicate)).ok()
}

/// The most names of checks.
const MOST_CHECKS: usize = 50;
/// The longest name of a check. GitLab allows as much.
const LONGEST_CHECK: usize = 255;

/// Reads the names of checks in a forge.
pub(super) fn read_checks(field: &ManifestField<'_>) -> Option<Vec<String>> {
    let mut names: Vec<String> = Vec::new();
    let items = field.items("a list such as [\"ci/build\"]");
    for item in &items {
        let name = item.text()?.trim();
        let is_plain = !name.is_empty() && name.len() <= LONGEST_CHECK && !name.chars().any(char::is_control);
        if !is_plain {
            item.must("must be the name of a check as the forge shows it, such as \"ci/build\"");
        } else if is_own(name) {
            item.must("is a status of abide itself, which never counts: name a check of your CI");
        } else if !names.iter().any(|known| known == name) {
            names.push(name.to_owned());
        }
    }
    if items.is_empty() {
        field.must("must name a check, such as [\"ci/build\"]; left out, no check is needed");
    } else if items.len() > MOST_CHECKS {
        field.must(format!("must name at most {MOST_CHECKS} checks"));
    }
    (!names.is_empty()).then_some(names)
}

fn read_key(field: &ManifestField<'_>) -> Option<SignatureKey> {
    let file = field.parsed("a file such as \"keys/release.pub\"", |text| match text.trim() {
        "" => Err("must be a file such as \"keys/release.pub\"".to_owned()),
        text => Ok(PathBuf::from(text)),
    })?;
    // The folder reads the file, because a manifest's text alone does not have it.
    Some(SignatureKey { file, pem: None })
}

// --- windows and freezes --------------------------------------------------------------------------

fn read_window(field: &ManifestField<'_>) -> Option<PromotionWindow> {
    let table = field.table(&keys::WINDOW)?;
    let days = match table.get("days") {
        Some(days) => days.parsed("days such as \"mon-thu\" or \"mon, wed\"", days_of),
        None => Some(WEEK.to_vec()),
    };
    let hours = match table.get("hours") {
        Some(hours) => hours.parsed("hours such as \"09:00-16:00\"", hours_of),
        None => Some((Time::midnight(), Time::midnight())),
    };
    let zone = table.required("zone").and_then(|field| read_zone(&field));
    let (from, to) = hours?;
    Some(PromotionWindow { days: days?, from, to, zone: zone? })
}

/// Parses days such as `mon-thu, sat`.
fn days_of(text: &str) -> Result<Vec<Weekday>, String> {
    let wrong = || "must be days such as \"mon-thu\" or \"mon, wed\"".to_owned();
    let day = |name: &str| {
        let name = name.trim().to_lowercase();
        WEEK.into_iter().position(|day| day_name(day) == name).ok_or_else(wrong)
    };
    let mut named = [false; 7];
    for part in text.split(',') {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        let (from, to) = (day(from)?, day(to)?);
        // A range may pass the end of the week, such as `fri-mon`.
        for offset in 0..=(to + 7 - from) % 7 {
            named[(from + offset) % 7] = true;
        }
    }
    Ok(WEEK.into_iter().zip(named).filter_map(|(day, is_named)| is_named.then_some(day)).collect())
}

/// Parses hours such as `09:00-16:00`. The end may be `24:00`; an end before the start is on the next day.
fn hours_of(text: &str) -> Result<(Time, Time), String> {
    let wrong = || "must be hours such as \"09:00-16:00\"".to_owned();
    let time = |text: &str| {
        let (hour, minute) = text.trim().split_once(':').ok_or_else(wrong)?;
        let is_plain = |text: &str| (1..=2).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
        if !is_plain(hour) || minute.len() != 2 || !is_plain(minute) {
            return Err(wrong());
        }
        let (hour, minute): (i8, i8) =
            (hour.parse().map_err(|_| wrong())?, minute.parse().map_err(|_| wrong())?);
        Time::new(hour, minute, 0, 0).or(if (hour, minute) == (24, 0) {
            Ok(Time::midnight())
        } else {
            Err(wrong())
        })
    };
    let (from, to) = text.split_once('-').ok_or_else(wrong)?;
    let hours = (time(from)?, time(to)?);
    let is_whole_day = hours == (Time::midnight(), Time::midnight());
    if hours.0 == hours.1 && !is_whole_day {
        return Err("must end at another time than it begins; for the whole day, leave it out".to_owned());
    }
    Ok(hours)
}

pub(super) fn read_zone(field: &ManifestField<'_>) -> Option<Zone> {
    let named =
        |text: &str| {
            Zone::named(text).map_err(|error| match error {
        InvalidZone::Unknown(name) => {
            format!("must be a time zone such as \"Asia/Shanghai\" or \"UTC\"; this host knows no `{name}`")
        }
        InvalidZone::NoDatabase => error.to_string(),
    })
        };
    field.parsed("a time zone such as \"Asia/Shanghai\"", named)
}

fn read_freeze(field: &ManifestField<'_>, window: Option<&PromotionWindow>) -> Option<Freeze> {
    let table = field.table(&keys::FREEZE)?;
    let of_window = window.map(|window| window.zone.clone());
    let zone = match table.get("zone") {
        Some(zone) => read_zone(&zone)?,
        None => of_window.or_else(|| Zone::named("UTC").ok())?,
    };
    const EXPECTED: &str = "a date in quotes such as \"2026-12-20\" or \"2026-12-20 18:00\"";
    let at = |key, is_end| {
        let field = table.required(key)?;
        field
            .parsed(EXPECTED, |text| moment(text, is_end, &zone).ok_or_else(|| format!("must be {EXPECTED}")))
    };
    let (from, to) = (at("from", false), at("to", true));
    let (from, to) = (from?, to?);
    if to <= from {
        field.must("must end after it begins");
        return None;
    }
    Some(Freeze { from, to, zone })
}

/// Parses a date with or without a time. The last day of a freeze counts as a whole.
fn moment(text: &str, is_end: bool, zone: &Zone) -> Option<Timestamp> {
    let text = text.trim();
    if let Ok(date) = text.parse::<Date>()
        && text.len() == "2026-12-20".len()
    {
        let date = if is_end { date.tomorrow().ok()? } else { date };
        return zone.moment(date, Time::midnight());
    }
    let is_local = !text.contains(['Z', 'z', '+', '[']);
    let local: DateTime = text.parse().ok().filter(|_| is_local)?;
    zone.moment(local.date(), local.time())
}

// --- verify ---------------------------------------------------------------------------------------

/// Reads `verify`.
pub(super) fn read_verify(environment: &Table<'_>) -> Option<VerifySpec> {
    let field = environment.get("verify")?;
    let table = field.table(&keys::VERIFY)?;
    let command = table.required("command");
    let command = command.and_then(|field| read_command(&field));
    let image = table.get("image").map(|field| {
        let image = |text: &str| match check_reference(text) {
            Ok(()) => Ok(text.to_owned()),
            Err(_) => Err("must be the name of an image, such as \"curlimages/curl:8.11.0\"".to_owned()),
        };
        field.parsed("the name of an image", image)
    });
    let timeout = match table.get("timeout") {
        Some(field) => read_time(&field),
        None => Some(DEFAULT_VERIFY_TIMEOUT),
    };
    let names_url = command.iter().flatten().any(|word| word.contains(VerifySpec::URL));
    if names_url && environment.get("port").is_none() {
        field.must("names {url}, and the environment has no `port` that it could stand for");
    }
    if environment.get("host").is_some() {
        field.must(
            "does not go with `host`: an agent runs no checks. Verify an environment on this host, and promote from it",
        );
    }
    let image = match image {
        Some(image) => Some(image?),
        None => None,
    };
    Some(VerifySpec { command: command?, image, timeout: timeout? })
}

fn read_command(field: &ManifestField<'_>) -> Option<Vec<String>> {
    let words = field.texts("a list such as [\"/smoke\", \"--url\", \"{url}\"]");
    let command = words.into_iter().map(str::to_owned).collect();
    grammar::probe_command(command).map_err(|predicate| field.must(predicate)).ok()
}

// --- across environments --------------------------------------------------------------------------

/// Returns every problem between the gates of an environment and its source.
pub(super) fn problems(declared: &Declarations, all: &[NamedPartial<'_>], places: &Places) -> Vec<Problem> {
    let mut found = Vec::new();
    for (name, draft) in all {
        let Some(Supply::Promotion { from }) = &draft.supply else { continue };
        let Some(source) = declared.environment(from) else { continue };
        found.extend(against(declared, (name, draft), (from, source), places));
    }
    found
}

fn against(
    declared: &Declarations,
    (name, draft): NamedPartial<'_>,
    (from, source): NamedPartial<'_>,
    places: &Places,
) -> Vec<Problem> {
    let mut found = Vec::new();
    let mut must = |key: &str, why: String| {
        let path = format!("environment.{name}.promote.{key}");
        found.push(places.problem(&path, format!("`{key}` {why}")));
    };
    if let Some(why) = draft.gates.checks.first().and_then(|_| declared.forge_problem(from)) {
        must("checks", why);
    }
    if draft.gates.verified && source.spec.as_ref().is_some_and(|spec| spec.verify.is_none()) {
        let why = format!("needs a check to pass: give `environment.{from}` a `verify`");
        must("verified", why);
    }
    found
}
