//! The options of a mount.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The options of a mount.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct MountOptions {
    /// Whether the container only reads.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub read_only: bool,
    /// Whether abide creates the host folder if it is missing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub create: bool,
    /// Whether other environments may write to the source too.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub shared: bool,
    /// Whether someone else creates the volume.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub external: bool,
    /// Whether a new volume stays empty, instead of getting the image's files.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub nocopy: bool,
    /// The SELinux label that the engine gives to a path of the host; `None`: it keeps its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selinux: Option<Relabel>,
    /// Whether mounts below it reach the host or come from there; `None`: the engine's own choice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub propagation: Option<Propagation>,
}

/// A new SELinux label for a path of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Relabel {
    /// All containers may use the path.
    #[serde(rename = "z")]
    Shared,
    /// Only this container may use the path.
    #[serde(rename = "Z")]
    Private,
}

/// The valid labels, for problems.
pub const RELABEL: &str = "\"z\" (for all containers) or \"Z\" (for this one)";

impl Relabel {
    /// As the engine writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Shared => "z",
            Self::Private => "Z",
        }
    }
}

impl FromStr for Relabel {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "z" => Ok(Self::Shared),
            "Z" => Ok(Self::Private),
            _ => Err(format!("must be {RELABEL}")),
        }
    }
}

/// The propagation of mounts below a mount, in the kernel's word.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Propagation(String);

/// The valid words of a propagation, for problems.
pub const PROPAGATION: &str = "\"private\", \"rprivate\", \"shared\", \"rshared\", \"slave\" or \"rslave\"";

impl Propagation {
    /// As the engine writes it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Propagation {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if ["private", "rprivate", "shared", "rshared", "slave", "rslave"].contains(&text) {
            return Ok(Self(text.to_owned()));
        }
        Err(format!("must be {PROPAGATION}"))
    }
}

impl TryFrom<String> for Propagation {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Propagation> for String {
    fn from(propagation: Propagation) -> Self {
        propagation.0
    }
}
