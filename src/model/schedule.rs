//! When a job runs: a cron expression and a time zone. Only this module names cronexpr.
//!
//! Expressions with a fixed hour mean a time of day. If a change of the clock skips that time, the first
//! minute after the gap counts instead; if it comes twice, only the first one counts. An hour that begins
//! with `*` means intervals, which follow the elapsed time: such schedules run in every hour that happens,
//! also in one that comes twice, and not in one that is skipped.

use std::fmt;

use cronexpr::{Crontab, FallbackTimezoneOption, ParseOptions, parse_crontab_with};
use jiff::civil::DateTime;
use jiff::tz::{AmbiguousOffset, Offset, TimeZone};
use jiff::{SignedDuration, Timestamp as Moment};
use serde::{Deserialize, Deserializer, Serialize, de};

use super::gates::Zone;
use super::time::Timestamp;

/// The fields of an expression, each with an example of what it may be.
const FIELDS: [(&str, &str); 5] = [
    ("minute", "0 to 59, such as `0`, `*/15` or `0,30`"),
    ("hour", "0 to 23, such as `3`, `*/6` or `8-18`"),
    ("day of the month", "1 to 31, such as `1`, `*/2` or `L` for the last"),
    ("month", "1 to 12, such as `1`, `JAN` or `*/3`"),
    ("day of the week", "0 to 7, such as `MON`, `1-5` or `SUN`"),
];
/// More than the longest step of a clock: Samoa skipped a whole day.
const LONGEST_GAP: SignedDuration = SignedDuration::from_hours(26);
/// A day on which to begin the search for any time of a schedule. The next four years have a 29 February.
const SOME_DAY: &str = "2024-01-01T00:00:00Z";
/// The most changes of the clock and candidates that one search passes.
const MOST_STEPS: usize = 4_000;

/// When a job runs.
///
/// ```
/// use abide::model::gates::Zone;
/// use abide::model::schedule::Schedule;
/// use abide::model::time::Timestamp;
///
/// let nightly = Schedule::new("30 2 * * *", Zone::named("Europe/Berlin").unwrap()).unwrap();
/// // On this day the clocks go from 02:00 to 03:00, so 02:30 does not exist.
/// let before = Timestamp::parse("2026-03-29T00:00:00Z").unwrap();
/// assert_eq!(nightly.next_after(before), Some(Timestamp::parse("2026-03-29T01:00:00Z").unwrap()));
///
/// let error = Schedule::new("61 2 * * *", Zone::named("UTC").unwrap()).unwrap_err();
/// assert!(error.starts_with("has a wrong minute `61`"), "{error}");
/// ```
#[derive(Clone, Serialize)]
pub struct Schedule {
    /// The expression, with single spaces.
    #[serde(rename = "schedule")]
    text: String,
    /// The zone of its times.
    zone: Zone,
    #[serde(skip)]
    cron: Crontab,
    /// Whether it means a time of day, not an interval.
    #[serde(skip)]
    is_time_of_day: bool,
}

impl PartialEq for Schedule {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text && self.zone == other.zone
    }
}

impl Eq for Schedule {}

impl fmt::Debug for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {:?}", self.text, self.zone.name())
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.text, self.zone.name())
    }
}

impl<'de> Deserialize<'de> for Schedule {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct RawSchedule {
            schedule: String,
            zone: String,
        }
        let raw = RawSchedule::deserialize(deserializer)?;
        let zone = Zone::named(&raw.zone).map_err(de::Error::custom)?;
        Self::new(&raw.schedule, zone)
            .map_err(|predicate| de::Error::custom(format!("`schedule` {predicate}")))
    }
}

impl Schedule {
    /// Reads an expression of five fields.
    ///
    /// # Errors
    /// Returns a predicate, such as `must be ...`, that names the wrong field.
    pub fn new(text: &str, zone: Zone) -> Result<Self, String> {
        let fields: Vec<&str> = text.split_ascii_whitespace().collect();
        if fields.len() != FIELDS.len() {
            return Err(wrong_count(&fields));
        }
        for (place, (field, (what, example))) in fields.iter().zip(FIELDS).enumerate() {
            let mut alone = ["*"; FIELDS.len()];
            if let Some(slot) = alone.get_mut(place) {
                *slot = field;
            }
            if parse(&alone.join(" ")).is_none() {
                let shown: String = field.chars().filter(|c| !c.is_control()).take(40).collect();
                return Err(format!("has a wrong {what} `{shown}`: must be {example}"));
            }
        }
        let text = fields.join(" ");
        let cron = parse(&text).ok_or("must be five fields, such as \"0 3 * * *\"")?;
        if cron.find_next(SOME_DAY).is_err() {
            return Err("never comes: no month has such a day".to_owned());
        }
        let is_time_of_day = fields.get(1).is_some_and(|hour| !hour.starts_with('*'));
        Ok(Self { text, zone, cron, is_time_of_day })
    }

    /// The expression.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The zone of its times.
    pub fn zone(&self) -> &Zone {
        &self.zone
    }

    /// The first scheduled time after `after`; `None`: there is none in the next years.
    pub fn next_after(&self, after: Timestamp) -> Option<Timestamp> {
        let after = Moment::from_millisecond(i64::try_from(after.as_millis()).ok()?).ok()?;
        let next = if self.is_time_of_day { self.next_time_of_day(after) } else { self.next_interval(after) };
        Some(Timestamp::from_millis(u64::try_from(next?.as_millisecond()).ok()?))
    }

    /// The first time of day after `after`.
    fn next_time_of_day(&self, after: Moment) -> Option<Moment> {
        let zone = self.zone.time_zone();
        let local = shown(after, zone.to_offset(after))?;
        // Near a change of the clock, earlier times of day may count as later moments.
        let nearby = zone.following(after.checked_sub(LONGEST_GAP).ok()?).next();
        let is_near = nearby.is_some_and(|change| change.timestamp().duration_since(after) <= LONGEST_GAP);
        let mut candidate = if is_near { local.checked_sub(LONGEST_GAP).ok()? } else { local };
        for _ in 0..MOST_STEPS {
            candidate = self.cron.find_next(candidate).ok()?.timestamp();
            let moment = first_moment(zone, Offset::UTC.to_datetime(candidate))?;
            if moment > after {
                return Some(moment);
            }
        }
        None
    }

    /// The first interval after `after`, stretch by stretch of equal offset from UTC.
    fn next_interval(&self, after: Moment) -> Option<Moment> {
        let zone = self.zone.time_zone();
        let mut begin = after;
        let mut local = shown(begin, zone.to_offset(begin))?;
        for _ in 0..MOST_STEPS {
            let found = self.cron.find_next(local).ok()?.timestamp();
            let moment = zone.to_offset(begin).to_timestamp(Offset::UTC.to_datetime(found)).ok()?;
            match zone.following(begin).next() {
                Some(change) if change.timestamp() <= moment => {
                    begin = change.timestamp();
                    // The first minute of the new stretch counts too.
                    local = shown(begin, change.offset())?.checked_sub(SignedDuration::from_secs(1)).ok()?;
                }
                _ => return Some(moment),
            }
        }
        None
    }
}

/// Reads an expression without a zone.
fn parse(text: &str) -> Option<Crontab> {
    let mut options = ParseOptions::default();
    options.fallback_timezone_option = FallbackTimezoneOption::UTC;
    parse_crontab_with(text, options).ok()
}

fn wrong_count(fields: &[&str]) -> String {
    let names = FIELDS.map(|(what, _)| what).join(", ");
    let hint = match fields {
        ["@hourly"] => "; for every hour, write \"0 * * * *\"",
        ["@daily" | "@midnight"] => "; for every day, write \"0 0 * * *\"",
        ["@weekly"] => "; for every week, write \"0 0 * * 0\"",
        ["@monthly"] => "; for every month, write \"0 0 1 * *\"",
        ["@yearly" | "@annually"] => "; for every year, write \"0 0 1 1 *\"",
        [_, _, _, _, _, _] => "; seconds are not supported, and the time zone is the key `zone`",
        _ => "",
    };
    format!("must be five fields ({names}), such as \"0 3 * * *\", not {}{hint}", fields.len())
}

/// The local time, as the moment at which UTC shows it.
fn shown(moment: Moment, offset: Offset) -> Option<Moment> {
    Offset::UTC.to_timestamp(offset.to_datetime(moment)).ok()
}

/// The moment of a time of day: the end of the gap that skips it, or the first of two.
fn first_moment(zone: &TimeZone, local: DateTime) -> Option<Moment> {
    match zone.to_ambiguous_timestamp(local).offset() {
        AmbiguousOffset::Unambiguous { offset } => offset.to_timestamp(local).ok(),
        AmbiguousOffset::Fold { before, .. } => before.to_timestamp(local).ok(),
        AmbiguousOffset::Gap { after, .. } => {
            // With the later offset, a skipped time lies before the change.
            let earlier = after.to_timestamp(local).ok()?.checked_sub(SignedDuration::from_secs(1)).ok()?;
            zone.following(earlier).next().map(|change| change.timestamp())
        }
    }
}

#[cfg(test)]
mod tests;
