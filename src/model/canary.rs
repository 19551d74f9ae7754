//! Canaries: a new version serves a part of the visitors before it takes over.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::desired::Image;
use super::name::Generation;
use super::time::Timestamp;
use super::wire;

/// The requests after which a canary that still serves is judged.
pub const ENOUGH_REQUESTS: u64 = 100;
/// The failed requests below which a canary is never judged as failed.
const LEAST_FAILED: u64 = 2;

/// How new versions of an environment begin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CanarySpec {
    /// The share of the visitors.
    pub percent: CanaryPercent,
    /// How long it serves them before it takes over.
    #[serde(rename = "for", deserialize_with = "wire::patience")]
    pub time: Duration,
    /// When it fails.
    pub fail_on: ErrorLimit,
}

impl CanarySpec {
    /// The time if the manifest declares none.
    pub const DEFAULT_TIME: Duration = Duration::from_secs(15 * 60);
}

/// A share of the visitors in percent, from 1 to 99.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub struct CanaryPercent(u8);

impl CanaryPercent {
    /// The largest share.
    pub const MOST: u8 = 99;

    /// The number.
    pub fn get(self) -> u8 {
        self.0
    }
}

impl Default for CanaryPercent {
    fn default() -> Self {
        Self(10)
    }
}

impl TryFrom<u64> for CanaryPercent {
    type Error = String;

    fn try_from(percent: u64) -> Result<Self, String> {
        match u8::try_from(percent) {
            Ok(percent @ 1..=Self::MOST) => Ok(Self(percent)),
            _ => Err(format!("must be a whole number from 1 to {}", Self::MOST)),
        }
    }
}

impl From<CanaryPercent> for u64 {
    fn from(percent: CanaryPercent) -> Self {
        percent.0.into()
    }
}

/// The share of failed requests above which a version fails, such as `5xx > 1%`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ErrorLimit {
    /// In hundredths of a percent.
    hundredths: u16,
}

impl ErrorLimit {
    /// The form in the manifest.
    pub const FORM: &str = "a limit such as \"5xx > 1%\"";

    /// Whether so many failed requests are too many.
    pub fn is_exceeded(self, count: RequestCount) -> bool {
        count.failed.saturating_mul(10_000) > count.requests.saturating_mul(self.hundredths.into())
    }
}

impl Default for ErrorLimit {
    fn default() -> Self {
        Self { hundredths: 100 }
    }
}

impl FromStr for ErrorLimit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("must be {}", Self::FORM);
        let number = text.trim().strip_prefix("5xx").and_then(|rest| rest.trim_start().strip_prefix('>'));
        let number = number.and_then(|rest| rest.trim().strip_suffix('%')).ok_or_else(wrong)?.trim();
        let (whole, rest) = number.split_once('.').unwrap_or((number, "0"));
        let is_number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        if !is_number(whole) || !is_number(rest) {
            return Err(wrong());
        }
        if rest.len() > 2 {
            return Err("must have at most two digits after the point".to_owned());
        }
        let hundredths: u16 = format!("{whole}{rest:0<2}").parse().map_err(|_| wrong())?;
        if hundredths >= 10_000 { Err("must be below 100%".to_owned()) } else { Ok(Self { hundredths }) }
    }
}

impl TryFrom<String> for ErrorLimit {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<ErrorLimit> for String {
    fn from(limit: ErrorLimit) -> Self {
        limit.to_string()
    }
}

impl fmt::Display for ErrorLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, rest) = (self.hundredths / 100, self.hundredths % 100);
        match (rest, rest % 10) {
            (0, _) => write!(f, "5xx > {whole}%"),
            (_, 0) => write!(f, "5xx > {whole}.{}%", rest / 10),
            _ => write!(f, "5xx > {whole}.{rest:02}%"),
        }
    }
}

/// The requests that a canary got.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestCount {
    /// Their number.
    pub requests: u64,
    /// Those that it answered with a status from 500, or did not answer.
    pub failed: u64,
}

impl RequestCount {
    /// What is left after `less`.
    #[must_use]
    pub fn without(self, less: Self) -> Self {
        Self {
            requests: self.requests.saturating_sub(less.requests),
            failed: self.failed.saturating_sub(less.failed),
        }
    }

    /// The sum of both.
    #[must_use]
    pub fn and(self, more: Self) -> Self {
        Self {
            requests: self.requests.saturating_add(more.requests),
            failed: self.failed.saturating_add(more.failed),
        }
    }
}

impl CountedRequests {
    /// Whether one of both is a later state of the other.
    fn is_same_count(&self, other: &Self) -> bool {
        (self.since, &self.container) == (other.since, &other.container)
    }
}

impl fmt::Display for RequestCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { requests, failed } = *self;
        match requests {
            0 => f.write_str("no requests yet"),
            _ => {
                // Rounded up, so that a failed request never shows as none.
                let tenths = failed.saturating_mul(1_000).div_ceil(requests);
                write!(f, "{}.{} % 5xx of {requests} requests", tenths / 10, tenths % 10)
            }
        }
    }
}

/// The requests of one container, as counted by one process since a time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CountedRequests {
    /// The container.
    pub container: String,
    /// Since when the process counts them.
    pub since: Timestamp,
    /// Their number.
    #[serde(flatten)]
    pub count: RequestCount,
}

/// The state of a canary.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum CanaryState {
    /// It serves its share, or is about to.
    UnderWay,
    /// It takes over, or has.
    Passed {
        /// Why it did before its time was over, as a clause; `None`: it was over.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        early: Option<String>,
    },
    /// It was given up.
    Failed {
        /// Why, as a clause without its subject.
        why: String,
    },
}

/// The last canary of an environment, and what is known of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Canary {
    /// The generation.
    pub generation: Generation,
    /// Its image.
    pub image: Image,
    /// The fingerprint of the container's options.
    pub fingerprint: String,
    /// The share of the visitors.
    pub percent: CanaryPercent,
    /// How long it is to serve them, in milliseconds.
    pub planned_millis: u64,
    /// How long it was seen to serve them, in milliseconds.
    pub served_millis: u64,
    /// The last time that it was seen to serve them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seen_at: Option<Timestamp>,
    /// The container.
    pub container: String,
    /// When the container became ready.
    pub ready_at: Timestamp,
    /// The requests that its container got for an earlier generation, which do not count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ignored: Option<CountedRequests>,
    /// The requests that earlier processes counted, or that earlier containers got.
    #[serde(default)]
    pub earlier: RequestCount,
    /// The requests that are counted now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counted: Option<CountedRequests>,
    /// Its state.
    #[serde(flatten)]
    pub state: CanaryState,
}

/// How a canary goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CanaryVerdict {
    /// It needs more time.
    Wait,
    /// It takes over.
    Pass,
    /// It had too many errors.
    Fail,
}

impl Canary {
    /// All requests that it got, as far as they were counted.
    pub fn count(&self) -> RequestCount {
        self.counted.as_ref().map_or(self.earlier, |counted| self.earlier.and(self.own(counted)))
    }

    /// The part of a count that is about this generation.
    fn own(&self, counted: &CountedRequests) -> RequestCount {
        let ignored = self.ignored.as_ref().filter(|ignored| ignored.is_same_count(counted));
        ignored.map_or(counted.count, |ignored| counted.count.without(ignored.count))
    }

    /// Whether it was not judged yet.
    pub fn is_under_way(&self) -> bool {
        self.state == CanaryState::UnderWay
    }

    /// Takes over what is counted now. A new process, or another container, begins with zero.
    pub fn note_requests(&mut self, counted: Option<&CountedRequests>) {
        let Some(counted) = counted.filter(|counted| counted.container == self.container) else { return };
        if let Some(before) =
            self.counted.replace(counted.clone()).filter(|before| !before.is_same_count(counted))
        {
            self.earlier = self.earlier.and(self.own(&before));
        }
    }

    /// Adds the time since it was last seen to serve, unless that is longer than `gap`: nobody knows then what was in
    /// between.
    pub fn note_served(&mut self, now: Timestamp, gap: Duration) {
        let passed = self.seen_at.map(|seen| now.since(seen)).filter(|passed| *passed <= gap);
        let millis = passed.map_or(0, |passed| u64::try_from(passed.as_millis()).unwrap_or(u64::MAX));
        self.served_millis = self.served_millis.saturating_add(millis);
        self.seen_at = Some(now);
    }

    /// Judges it. While it serves, only many requests count; at the end, however few there were.
    pub fn judge(&self, limit: ErrorLimit) -> CanaryVerdict {
        let (count, is_over) = (self.count(), self.served_millis >= self.planned_millis);
        let is_judged = is_over || count.requests >= ENOUGH_REQUESTS;
        if is_judged && count.failed >= LEAST_FAILED && limit.is_exceeded(count) {
            CanaryVerdict::Fail
        } else if is_over {
            CanaryVerdict::Pass
        } else {
            CanaryVerdict::Wait
        }
    }

    /// Its figures: `10 % of the visitors for 4m of 15m; 0.2 % 5xx of 1204 requests`.
    pub fn figures(&self) -> String {
        let length = |millis: u64| humantime::format_duration(Duration::from_secs(millis / 1000)).to_string();
        let planned = match self.planned_millis {
            short @ ..1000 => humantime::format_duration(Duration::from_millis(short)).to_string(),
            millis => length(millis),
        };
        let served = length(self.served_millis.min(self.planned_millis));
        let count = self.count();
        let few = match count.requests < ENOUGH_REQUESTS && !self.is_under_way() {
            true => format!(", fewer than the {ENOUGH_REQUESTS} that would be enough to judge it"),
            false => String::new(),
        };
        format!("{} % of the visitors for {served} of {planned}; {count}{few}", self.percent.get())
    }

    /// Its result as a clause after its generation; `None`: it is under way.
    pub fn result(&self) -> Option<String> {
        match &self.state {
            CanaryState::UnderWay => None,
            CanaryState::Passed { early: None } => Some("passed as a canary".to_owned()),
            CanaryState::Passed { early: Some(why) } => {
                Some(format!("took over before its time as a canary was over, because {why}"))
            }
            CanaryState::Failed { why } => Some(format!("failed as a canary: it {why}")),
        }
    }
}

/// What a person decided about a canary.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CanaryOrder {
    /// The generation of the canary. No other canary follows the order.
    pub generation: Generation,
    /// The decision.
    pub decision: CanaryDecision,
    /// The author.
    pub by: String,
    /// The reason, in the author's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The time.
    pub at: Timestamp,
}

/// A decision about a canary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CanaryDecision {
    /// It takes over now.
    Promote,
    /// It fails now.
    Abort,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn canary(planned: u64, served: u64, count: (u64, u64)) -> Canary {
        Canary {
            generation: Generation(5),
            image: Image { reference: None, digest: None, id: None },
            fingerprint: String::new(),
            percent: CanaryPercent::default(),
            planned_millis: planned * 1000,
            served_millis: served * 1000,
            seen_at: None,
            container: "c0ffee".to_owned(),
            ready_at: Timestamp::default(),
            ignored: None,
            earlier: RequestCount { requests: count.0, failed: count.1 },
            counted: None,
            state: CanaryState::UnderWay,
        }
    }

    fn judged(served: u64, count: (u64, u64)) -> CanaryVerdict {
        canary(900, served, count).judge("5xx > 1%".parse().unwrap())
    }

    #[test]
    fn enough_requests_or_the_end_of_its_time_decide_about_a_canary() {
        assert_eq!(judged(10, (99, 99)), CanaryVerdict::Wait);
        assert_eq!(judged(10, (100, 1)), CanaryVerdict::Wait);
        assert_eq!(judged(10, (100, 2)), CanaryVerdict::Fail);
        assert_eq!(judged(10, (1000, 10)), CanaryVerdict::Wait, "exactly the limit is allowed");
        assert_eq!(judged(10, (1000, 11)), CanaryVerdict::Fail);
        assert_eq!(judged(899, (5000, 0)), CanaryVerdict::Wait);
        assert_eq!(judged(900, (5000, 0)), CanaryVerdict::Pass);
        assert_eq!(judged(900, (0, 0)), CanaryVerdict::Pass, "nobody came");
        assert_eq!(judged(900, (5, 1)), CanaryVerdict::Pass, "one failed request never decides");
        assert_eq!(judged(900, (5, 2)), CanaryVerdict::Fail);
    }

    #[test]
    fn only_time_in_which_it_was_seen_counts() {
        let at = |seconds: u64| Timestamp::from_millis(seconds * 1000);
        let (mut canary, gap) = (canary(900, 0, (0, 0)), Duration::from_secs(15));
        for seconds in [100, 101, 110, 500, 501, 400, 402] {
            canary.note_served(at(seconds), gap);
        }
        assert_eq!(canary.served_millis, 13_000, "neither the gap nor the clock that was set back");
    }

    #[test]
    fn the_counts_of_earlier_processes_and_containers_add_up() {
        let counted = |container: &str, since, requests| CountedRequests {
            container: container.to_owned(),
            since: Timestamp::from_millis(since),
            count: RequestCount { requests, failed: 1 },
        };
        let mut canary = canary(900, 0, (0, 0));
        for (since, requests) in [(1, 10), (1, 12), (2, 3), (2, 3)] {
            canary.note_requests(Some(&counted("c0ffee", since, requests)));
        }
        canary.note_requests(None);
        canary.ignored = canary.counted.clone();
        assert_eq!(
            canary.count(),
            RequestCount { requests: 12, failed: 1 },
            "what came for another generation"
        );
        canary.ignored = None;
        canary.note_requests(Some(&counted("other", 3, 700)));
        assert_eq!(canary.count(), RequestCount { requests: 15, failed: 2 });
    }

    #[test]
    fn figures_never_hide_a_failed_request() {
        let mut canary = canary(900, 245, (1204, 2));
        assert_eq!(canary.figures(), "10 % of the visitors for 4m 5s of 15m; 0.2 % 5xx of 1204 requests");
        canary.earlier = RequestCount { requests: 100_000, failed: 1 };
        assert!(canary.figures().ends_with("0.1 % 5xx of 100000 requests"), "{}", canary.figures());
        canary.earlier = RequestCount { requests: 12, failed: 0 };
        canary.state = CanaryState::Passed { early: None };
        assert!(canary.figures().contains("of 12 requests, fewer than the 100"), "{}", canary.figures());
    }

    #[test]
    fn limits_are_read_and_shown_alike() {
        for (text, shown) in [
            ("5xx > 1%", "5xx > 1%"),
            ("5xx>0.5%", "5xx > 0.5%"),
            (" 5xx > 0.05 % ", "5xx > 0.05%"),
            ("5xx > 12.50%", "5xx > 12.5%"),
            ("5xx > 0%", "5xx > 0%"),
        ] {
            let limit: ErrorLimit = text.parse().unwrap();
            assert_eq!(limit.to_string(), shown);
            assert_eq!(shown.parse(), Ok(limit));
        }
        for text in [
            "",
            "1%",
            "4xx > 1%",
            "5xx < 1%",
            "5xx > 1",
            "5xx > %",
            "5xx > -1%",
            "5xx > 1.%",
            "5xx > 100%",
            "5xx > 0.001%",
            "5xx > 99999999%",
            "5xx > 1e1%",
        ] {
            assert!(text.parse::<ErrorLimit>().is_err(), "{text}");
        }
        assert!(serde_json::from_str::<CanaryPercent>("0").is_err());
        assert!(serde_json::from_str::<CanaryPercent>("100").is_err());
    }

    proptest! {
        /// More failed requests never turn a failure into a success, and more time never ends in waiting.
        #[test]
        fn judgements_are_monotonic(served in 0_u64..2000, requests in 0_u64..5000, failed in 0_u64..5000, more in 0_u64..50) {
            let failed = failed.min(requests);
            let rank = |verdict| match verdict {
                CanaryVerdict::Fail => 0,
                CanaryVerdict::Wait => 1,
                CanaryVerdict::Pass => 2,
            };
            let worse = failed.saturating_add(more).min(requests);
            prop_assert!(rank(judged(served, (requests, worse))) <= rank(judged(served, (requests, failed))));
            prop_assert_ne!(judged(served.max(900), (requests, failed)), CanaryVerdict::Wait);
        }
    }
}
