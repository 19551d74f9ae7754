//! When images are pulled, by compose's names.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::name::text_form;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const WEEK: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// The shortest interval of `every_...`.
const SHORTEST: Duration = Duration::from_secs(1);

/// When abide asks a registry for the image of a tag, and whether it pulls images at all. The record holds digests, so
/// no policy decides which image runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum PullPolicy {
    /// At every poll and at every announced push.
    #[default]
    Always,
    /// Only for the first image of the tag, and whenever a user requests it.
    Missing,
    /// Never: only images that are on the host already.
    Never,
    /// Never, because the images are built on the host.
    Build,
    /// Not before this time has passed since the last answer.
    Every(Duration),
}

/// The rest of a sentence that begins with the key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "must be \"always\", \"missing\", \"if_not_present\", \"never\", \"build\", \"daily\", \"weekly\" or an interval such as \
     \"every_12h\""
)]
pub struct InvalidPullPolicy;

impl PullPolicy {
    /// Whether nothing is declared.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Whether images may come from a registry.
    pub fn may_pull(self) -> bool {
        !matches!(self, Self::Never | Self::Build)
    }

    /// Whether a registry's announcement of a push counts.
    pub fn follows_announcements(self) -> bool {
        self == Self::Always
    }
}

impl FromStr for PullPolicy {
    type Err = InvalidPullPolicy;

    fn from_str(text: &str) -> Result<Self, InvalidPullPolicy> {
        Ok(match text {
            "always" => Self::Always,
            "missing" | "if_not_present" => Self::Missing,
            "never" => Self::Never,
            "build" => Self::Build,
            "daily" => Self::Every(DAY),
            "weekly" => Self::Every(WEEK),
            text => {
                let interval = text.strip_prefix("every_").ok_or(InvalidPullPolicy)?;
                let interval = humantime::parse_duration(interval).map_err(|_| InvalidPullPolicy)?;
                if interval < SHORTEST {
                    return Err(InvalidPullPolicy);
                }
                Self::Every(interval)
            }
        })
    }
}

text_form!(PullPolicy);

impl fmt::Display for PullPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Always => f.write_str("always"),
            Self::Missing => f.write_str("missing"),
            Self::Never => f.write_str("never"),
            Self::Build => f.write_str("build"),
            Self::Every(DAY) => f.write_str("daily"),
            Self::Every(WEEK) => f.write_str("weekly"),
            Self::Every(interval) => {
                let words = humantime::format_duration(*interval).to_string();
                write!(f, "every_{}", words.replace(' ', ""))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn composes_names_are_read_and_written() {
        for (text, policy, written) in [
            ("always", PullPolicy::Always, "always"),
            ("if_not_present", PullPolicy::Missing, "missing"),
            ("never", PullPolicy::Never, "never"),
            ("build", PullPolicy::Build, "build"),
            ("daily", PullPolicy::Every(DAY), "daily"),
            ("every_1w", PullPolicy::Every(WEEK), "weekly"),
            ("every_1h30m", PullPolicy::Every(Duration::from_secs(5400)), "every_1h30m"),
        ] {
            assert_eq!(text.parse(), Ok(policy), "{text}");
            assert_eq!(policy.to_string(), written);
            assert_eq!(written.parse(), Ok(policy));
        }
        for wrong in ["", "no", "every_", "every_0s", "every_x", "Always", "hourly"] {
            assert!(wrong.parse::<PullPolicy>().is_err(), "{wrong}");
        }
    }
}
