//! The gates of a promotion: what must be true before an image may go to an environment.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use jiff::civil::{Date, Time, Weekday};
use jiff::tz::TimeZone;
use jiff::{Span, Zoned};
use serde::{Serialize, Serializer};
use sha2::{Digest as _, Sha256};

use super::time::Timestamp;

/// The gates of the promotions to one environment. The default has none: a promotion then needs only an
/// image that runs healthy in the source.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Gates {
    /// The number of people who must approve the image.
    pub approvals: u32,
    /// The names of the tokens or users whose approvals count; empty: everyone who may approve.
    pub by: BTreeSet<String>,
    /// Whether the approval of a person who pushed or promoted the image counts for nothing.
    pub others_only: bool,
    /// How long the image must have been healthy in the source, in whole seconds.
    #[serde(serialize_with = "seconds")]
    pub soak: Option<Duration>,
    /// Whether the source's `verify` must have passed.
    pub verified: bool,
    /// The checks of the image's commit that must have passed.
    pub checks: Vec<String>,
    /// The key that must have signed the image.
    pub signed_by: Option<SignatureKey>,
    /// The times at which promotions are allowed; empty: always.
    pub windows: Vec<PromotionWindow>,
    /// The times at which no promotion is allowed.
    pub freezes: Vec<Freeze>,
    /// Whether abide promotes once every gate is open.
    pub auto: bool,
}

impl Gates {
    /// Whether there is a gate. `auto` is none: it closes nothing.
    pub fn is_gated(&self) -> bool {
        *self != Self { auto: self.auto, ..Self::default() }
    }

    /// A mark of everything that must be true. An approval covers one mark, so it lapses when a gate is
    /// edited. `auto` is not part of it.
    pub fn mark(&self) -> String {
        let rules = Self { auto: false, ..self.clone() };
        // The types have no maps with keys other than texts, so this cannot fail.
        let text = serde_json::to_string(&rules).unwrap_or_default();
        hex::encode(Sha256::digest(text))
    }
}

fn seconds<S: Serializer>(duration: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    duration.map(|duration| duration.as_secs_f64()).serialize(serializer)
}

/// A public key that signatures of images are checked with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SignatureKey {
    /// The file, as written in the manifest.
    pub file: PathBuf,
    /// The content of the file; `None`: not read, so no signature can be checked.
    pub pem: Option<String>,
}

impl SignatureKey {
    /// A mark of the key, for evidence; `None` if the key was not read.
    pub fn mark(&self) -> Option<String> {
        self.pem.as_ref().map(|pem| hex::encode(Sha256::digest(pem.trim())))
    }
}

/// The check that runs once against each new version of an environment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct VerifySpec {
    /// Program and arguments. `{url}` stands for the address of the environment.
    pub command: Vec<String>,
    /// The image that it runs in; `None`: the image of the environment.
    pub image: Option<String>,
    /// The maximum duration.
    pub timeout: Duration,
}

impl VerifySpec {
    /// Stands for the address of the environment in the words of the command.
    pub const URL: &str = "{url}";

    /// A mark of the check. The result of a check that was edited since counts for nothing.
    pub fn mark(&self) -> String {
        hex::encode(Sha256::digest(format!("{:?} {:?}", self.command, self.image)))
    }
}

/// A time zone by its name, such as `Asia/Shanghai`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Zone(TimeZone);

/// The error of a zone that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidZone {
    /// The zone database does not have it.
    #[error("unknown time zone `{0}`: must be a name such as \"Asia/Shanghai\" or \"UTC\"")]
    Unknown(String),
    /// The host has no zone database.
    #[error("needs the time zone database of this host: install the package `tzdata`")]
    NoDatabase,
}

impl Zone {
    /// Finds a zone in the database of the host. UTC needs no database.
    ///
    /// # Errors
    /// Returns [`InvalidZone`] if the database does not have it, or does not exist.
    pub fn named(name: &str) -> Result<Self, InvalidZone> {
        if name == "UTC" {
            return Ok(Self(TimeZone::UTC));
        }
        let shown = || name.chars().filter(|c| !c.is_control()).take(80).collect();
        match jiff::tz::db().get(name) {
            Ok(zone) if zone.iana_name().is_some() => Ok(Self(zone)),
            Ok(_) => Err(InvalidZone::Unknown(shown())),
            Err(_) if jiff::tz::db().available().next().is_none() => Err(InvalidZone::NoDatabase),
            Err(_) => Err(InvalidZone::Unknown(shown())),
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        self.0.iana_name().unwrap_or("UTC")
    }

    /// Its rules.
    pub(super) fn time_zone(&self) -> &TimeZone {
        &self.0
    }

    /// The local time of a moment, such as `Mon 09:00 CST`, with the date if it is further than six days from
    /// `now`.
    pub fn words(&self, at: Timestamp, now: Timestamp) -> String {
        let Some(local) = self.local(at) else { return at.to_string() };
        let is_near = at.since(now).max(now.since(at)) < Duration::from_secs(6 * 24 * 3600);
        local.strftime(if is_near { "%a %H:%M %Z" } else { "%Y-%m-%d %H:%M %Z" }).to_string()
    }

    fn local(&self, at: Timestamp) -> Option<Zoned> {
        let millis = i64::try_from(at.as_millis()).ok()?;
        Some(jiff::Timestamp::from_millisecond(millis).ok()?.to_zoned(self.0.clone()))
    }

    /// The moment of a local time. A time that a change of the clock skips counts as later, and of a time
    /// that comes twice the first counts.
    pub fn moment(&self, date: Date, time: Time) -> Option<Timestamp> {
        let zoned = date.to_datetime(time).to_zoned(self.0.clone()).ok()?;
        Some(Timestamp::from_millis(u64::try_from(zoned.timestamp().as_millisecond()).ok()?))
    }
}

impl Serialize for Zone {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// A time of the week at which promotions are allowed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PromotionWindow {
    /// The days on which it opens, in the order of the week.
    #[serde(serialize_with = "day_names")]
    pub days: Vec<Weekday>,
    /// The wall-clock time at which it opens.
    #[serde(serialize_with = "clock")]
    pub from: Time,
    /// The wall-clock time at which it closes, on the next day unless it is later than `from`. Midnight is the
    /// end of the day.
    #[serde(serialize_with = "clock")]
    pub to: Time,
    /// The zone of both.
    pub zone: Zone,
}

fn day_names<S: Serializer>(days: &[Weekday], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(days.iter().map(|day| day_name(*day)))
}

fn clock<S: Serializer>(time: &Time, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&time.strftime("%H:%M"))
}

/// The short name of a day, as in the manifest.
pub fn day_name(day: Weekday) -> &'static str {
    match day {
        Weekday::Monday => "mon",
        Weekday::Tuesday => "tue",
        Weekday::Wednesday => "wed",
        Weekday::Thursday => "thu",
        Weekday::Friday => "fri",
        Weekday::Saturday => "sat",
        Weekday::Sunday => "sun",
    }
}

/// Days to look ahead for the next opening: every window opens once in seven days.
const DAYS_AHEAD: i64 = 9;

impl PromotionWindow {
    /// The openings of this window around `now`, as pairs of opening and closing, in order.
    pub fn openings(&self, now: Timestamp) -> Vec<(Timestamp, Timestamp)> {
        let Some(today) = self.zone.local(now).map(|local| local.date()) else { return Vec::new() };
        let dates = (-2..=DAYS_AHEAD).filter_map(|days| today.checked_add(Span::new().days(days)).ok());
        let opening = |date: Date| {
            let closes = if self.to > self.from { date } else { date.tomorrow().ok()? };
            let (from, to) = (self.zone.moment(date, self.from)?, self.zone.moment(closes, self.to)?);
            (from < to).then_some((from, to))
        };
        dates.filter(|date| self.days.contains(&date.weekday())).filter_map(opening).collect()
    }
}

/// A time at which no promotion is allowed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Freeze {
    /// Its first moment.
    pub from: Timestamp,
    /// The moment at which it is over.
    pub to: Timestamp,
    /// The zone of both, for messages.
    pub zone: Zone,
}
