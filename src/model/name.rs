//! Names and numbers that are valid by construction.
//!
//! Each of them may end up as an argument of git, a label, a file name or a path of a URL, so each has its
//! own allow-list grammar.
//!
//! ```
//! use abide::model::name::{Digest, EnvironmentName};
//!
//! assert_eq!(EnvironmentName::new("shop-prod")?.as_str(), "shop-prod");
//! let error = EnvironmentName::new("--force").unwrap_err().to_string();
//! assert!(error.starts_with("invalid environment name `--force`: must be "), "{error}");
//!
//! let digest: Digest = format!("sha256:{}", "0f".repeat(32)).parse()?;
//! assert_eq!(digest.short(), "0f0f0f0f0f0f");
//! # Ok::<(), abide::model::name::InvalidName>(())
//! ```

use std::fmt;

use serde::{Deserialize, Serialize};

/// An error for an invalid name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid {what} `{text}`: must be {rule}")]
pub struct InvalidName {
    /// The kind of name, for people.
    pub what: &'static str,
    /// The text, shortened and with control characters replaced.
    pub text: String,
    /// The broken rule.
    pub rule: &'static str,
}

impl InvalidName {
    pub(crate) fn new(what: &'static str, text: &str, rule: &'static str) -> Self {
        let shown = text.chars().take(80).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
        Self { what, text: shown, rule }
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $what:literal, $rule:literal, $valid:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Creates the name if `text` matches its grammar.
            ///
            /// # Errors
            /// Returns [`InvalidName`], which states the rule.
            pub fn new(text: impl Into<String>) -> Result<Self, InvalidName> {
                let text = text.into();
                let valid: fn(&str) -> bool = $valid;
                if valid(&text) { Ok(Self(text)) } else { Err(InvalidName::new($what, &text, $rule)) }
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidName;
            fn try_from(text: String) -> Result<Self, InvalidName> {
                Self::new(text)
            }
        }

        impl std::str::FromStr for $name {
            type Err = InvalidName;
            fn from_str(text: &str) -> Result<Self, InvalidName> {
                Self::new(text)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
    };
}

pub(crate) use name;

/// The text form of a type in JSON: it is read by its [`FromStr`](std::str::FromStr) and written by its
/// [`Display`](fmt::Display).
macro_rules! text_form {
    ($name:ident) => {
        impl TryFrom<String> for $name {
            type Error = <$name as std::str::FromStr>::Err;
            fn try_from(text: String) -> Result<Self, Self::Error> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> String {
                value.to_string()
            }
        }
    };
}

pub(crate) use text_form;

fn is_plain(text: &str, longest: usize, also: &[u8]) -> bool {
    let bytes = text.as_bytes();
    matches!(bytes.first(), Some(b) if b.is_ascii_alphanumeric())
        && bytes.len() <= longest
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || also.contains(b))
}

fn is_plain_lowercase(text: &str, longest: usize) -> bool {
    is_plain(text, longest, b"-_") && !text.bytes().any(|b| b.is_ascii_uppercase())
}

name!(
    /// A named place where one image runs, such as `dev`.
    EnvironmentName, "environment name",
    "1 to 63 characters of a-z 0-9 - _, beginning with a letter or digit",
    |t| is_plain_lowercase(t, 63)
);

name!(
    /// A group of environments, such as `shop-prod`. Users name it in place of an environment.
    GroupName, "group name",
    "1 to 63 characters of a-z 0-9 - _, beginning with a letter or digit",
    |t| is_plain_lowercase(t, 63)
);

name!(
    /// A repository's name in the manifest; also the last part of its webhook's URL.
    RepositoryName, "repository name",
    "1 to 63 characters of A-Z a-z 0-9 - _ ., beginning with a letter or digit",
    |t| is_plain(t, 63, b"-_.")
);

name!(
    /// The name of a notification channel in the manifest.
    ChannelName, "channel name",
    "1 to 63 characters of a-z 0-9 - _, beginning with a letter or digit",
    |t| is_plain_lowercase(t, 63)
);

name!(
    /// The name of a job in the manifest.
    JobName, "job name",
    "1 to 32 characters of a-z 0-9 - _, beginning with a letter or digit",
    |t| is_plain_lowercase(t, 32)
);

name!(
    /// A container's name, by the Docker Engine's own rule.
    ContainerName, "container name",
    "2 to 128 characters of A-Z a-z 0-9 - _ ., beginning with a letter or digit",
    |t| is_plain(t, 128, b"-_.") && t.len() >= 2
);

name!(
    /// A network's name, by the Docker Engine's own rule.
    NetworkName, "network name",
    "1 to 128 characters of A-Z a-z 0-9 - _ ., beginning with a letter or digit",
    |t| is_plain(t, 128, b"-_.")
);

impl NetworkName {
    /// The network of a group, beside this managed network.
    #[must_use]
    pub fn of_group(&self, group: &GroupName) -> Self {
        // The engine takes 128 characters.
        let managed = self.0.get(..64).unwrap_or(&self.0);
        Self(format!("{managed}-{group}"))
    }
}

name!(
    /// A further name of a container in a network.
    NetworkAlias, "alias",
    "1 to 253 of A-Z a-z 0-9 - _ ., beginning with a letter or digit",
    |t| is_plain(t, 253, b"-_.")
);

name!(
    /// A host name that the proxy serves. Names below `.invalid` are reserved for abide.
    HostName, "host name",
    "1 to 253 characters of a-z 0-9 - in parts of 1 to 63 with dots between them, no part beginning or \
    ending with -, not below .invalid",
    is_host
);

name!(
    /// A name that the proxy serves: a host name, or `*.` and a host name for all names one level below it.
    SiteName, "host name",
    "a host name such as a.example.com, or *.example.com for all names one level below it; in lower case, not below .invalid",
    |t| is_host(t.strip_prefix("*.").unwrap_or(t))
);

impl SiteName {
    /// The host name below which it matches all names; `None`: it is one exact name.
    pub fn wildcard_base(&self) -> Option<&str> {
        self.0.strip_prefix("*.")
    }

    /// Whether everything that `other` names is named by this one too.
    pub fn covers(&self, other: &Self) -> bool {
        let parent = other.0.split_once('.').map(|(_, parent)| parent);
        self == other
            || other.wildcard_base().is_none() && self.wildcard_base().is_some_and(|b| parent == Some(b))
    }
}

impl From<HostName> for SiteName {
    fn from(name: HostName) -> Self {
        Self(name.0)
    }
}

name!(
    /// The name of another host, in the manifest's `host` and in the token of its agent.
    AgentName, "agent name",
    "1 to 63 characters of a-z 0-9 - _, beginning with a letter or digit",
    |t| is_plain_lowercase(t, 63)
);

name!(
    /// An operator's name for a token.
    TokenName, "token name",
    "1 to 63 characters of A-Z a-z 0-9 - _ ., beginning with a letter or digit",
    |t| is_plain(t, 63, b"-_.")
);

name!(
    /// The public half of a token: its name in logs and lists.
    TokenId, "token ID",
    "12 lower-case hexadecimal digits, as `abide token list` shows them",
    |t| t.len() == 12 && is_lower_hex(t)
);

name!(
    /// The public half of a browser's session: its name in logs and lists.
    SessionId, "session id",
    "12 lower-case hexadecimal digits",
    |t| t.len() == 12 && is_lower_hex(t)
);

name!(
    /// A branch, without `refs/heads/`. The grammar is the safe part of git's `check-ref-format`.
    BranchName, "branch name",
    "1 to 244 characters of A-Z a-z 0-9 - _ . / + @ #, no part beginning with - or ., no `..`, `//`, \
    `.lock`, `@{`",
    is_branch
);

name!(
    /// A full commit id: 40 (SHA-1) or 64 (SHA-256) lower-case hexadecimal digits, not all zero.
    CommitId, "commit ID",
    "40 or 64 lower-case hexadecimal digits (`git rev-parse REV` prints them)",
    |t| matches!(t.len(), 40 | 64) && is_lower_hex(t) && t.bytes().any(|b| b != b'0')
);

name!(
    /// A content address: `sha256:` and 64 lower-case hexadecimal digits.
    Digest, "digest",
    "`sha256:` and 64 lower-case hexadecimal digits",
    |t| t.strip_prefix("sha256:").is_some_and(|hex| hex.len() == 64 && is_lower_hex(hex))
);

impl Default for NetworkName {
    /// The default network that containers join.
    fn default() -> Self {
        Self("abide".to_owned())
    }
}

fn is_lower_hex(text: &str) -> bool {
    text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

fn is_host(text: &str) -> bool {
    let is_part = |part: &str| {
        (1..=63).contains(&part.len())
            && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !part.starts_with('-')
            && !part.ends_with('-')
    };
    text.len() <= 253 && text.split('.').all(is_part) && text.rsplit('.').next() != Some("invalid")
}

fn is_branch(text: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-_./+@#".contains(&b);
    (1..=244).contains(&text.len())
        && text.bytes().all(allowed)
        && text != "@"
        && !text.contains("..")
        && text.split('/').all(|part| {
            !part.is_empty()
                && !part.starts_with(['-', '.'])
                && !part.ends_with('.')
                && !part.ends_with(".lock")
        })
}

impl CommitId {
    /// The first twelve digits, for display.
    pub fn short(&self) -> &str {
        &self.0[..12]
    }
}

impl Digest {
    /// The digest of a SHA-256 sum's 32 bytes.
    pub fn of_sha256(sum: &[u8; 32]) -> Self {
        Self(format!("sha256:{}", hex::encode(sum)))
    }

    /// The hexadecimal digits, without `sha256:`.
    pub fn hex(&self) -> &str {
        &self.0["sha256:".len()..]
    }

    /// The first twelve hexadecimal digits, for display.
    pub fn short(&self) -> &str {
        &self.hex()[..12]
    }
}

/// The number of a change of an environment's record. Zero means that nothing was ever recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Generation(pub u64);

impl Generation {
    /// The generation of the next change; `None` after the highest number.
    #[must_use]
    pub fn next(self) -> Option<Self> {
        self.0.checked_add(1).map(Self)
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn branch_names_resembling_options_or_exploits_are_rejected() {
        for bad in [
            "",
            "-f",
            "--upload-pack=x",
            "a..b",
            "a//b",
            "a/-b",
            "x.lock",
            "@",
            "a b",
            "a\nb",
            "$(id)",
            "*",
            "a/.b",
            "HEAD~1",
            "é",
        ] {
            assert!(BranchName::new(bad).is_err(), "{bad:?} was taken");
        }
        for good in ["master", "dev", "feature/x-1", "release_1.2", "fix/#12", "v1+b"] {
            assert!(BranchName::new(good).is_ok(), "{good:?} was refused");
        }
    }

    #[test]
    fn host_names_cannot_contain_configuration_syntax() {
        for bad in [
            "",
            ".",
            "a..b",
            ".a",
            "a.",
            "-a.b",
            "a-.b",
            "A.b",
            "a_b",
            "*.a",
            "~^.*$",
            "a b",
            "a;",
            "a{",
            "a\nb",
            "$host",
            "a#",
            "\"a\"",
            "a:80",
            "[::1]",
            "é",
            "front.invalid",
            "invalid",
        ] {
            assert!(HostName::new(bad).is_err(), "{bad:?} was taken");
        }
        let long = ["a".repeat(63).as_str(); 4].join(".");
        assert!(HostName::new(&long[..253]).is_ok() && HostName::new(long).is_err());
        for good in ["dev.keepwork.com", "localhost", "xn--bcher-kva.example", "3com.com", "10.0.0.1"] {
            assert!(HostName::new(good).is_ok(), "{good:?} was refused");
        }
    }

    #[test]
    fn a_wildcard_name_covers_exactly_one_level() {
        let name = |text: &str| SiteName::new(text).unwrap();
        assert!(name("*.a.example").covers(&name("x.a.example")));
        assert!(name("*.a.example").covers(&name("*.a.example")));
        for other in ["a.example", "x.y.a.example", "*.x.a.example", "x.b.example"] {
            assert!(!name("*.a.example").covers(&name(other)), "{other}");
        }
        assert!(
            name("a.example").covers(&name("a.example")) && !name("a.example").covers(&name("*.a.example"))
        );
        for bad in ["*", "*.", "**.a", "a.*.b", "x*.a", "*.*.a", "*.front.invalid", "*.a;"] {
            assert!(SiteName::new(bad).is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn an_all_zero_commit_id_is_invalid() {
        assert!(CommitId::new("0".repeat(40)).is_err());
        assert!(CommitId::new("A".repeat(40)).is_err());
        assert!(CommitId::new("a".repeat(64)).is_ok());
    }

    #[test]
    fn an_error_never_repeats_control_characters() {
        let error = EnvironmentName::new("a\u{1b}[31m\n").unwrap_err();
        assert!(!error.to_string().contains('\u{1b}'));
    }
}
