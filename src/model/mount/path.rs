//! Paths and names of volumes, each valid by construction.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::InvalidMount;
use crate::model::name::text_form;

/// The longest path on Linux, in bytes.
const LONGEST_PATH: usize = 4096;

/// The longest name that the engine's local driver accepts, in bytes: it creates a folder of that name.
const LONGEST_NAME: usize = 255;

/// The maximum number of characters of a path in a volume's name.
const PATH_IN_NAME: usize = 60;

/// The name of a volume, by the rule of the engine's local driver.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct VolumeName(String);

/// An absolute path without `.`, `..`, empty parts and NUL. A path that a user writes has no control characters
/// either, and a path of the host no colons; an image may declare a `VOLUME` with both. [`fmt::Display`] escapes
/// control characters as TOML does.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AbsolutePath(String);

impl VolumeName {
    /// The name of the volume that a record keeps for `owner` at an undeclared path. It is always the same
    /// for the same arguments. Returns `None` if the owner's name cannot be part of a volume name.
    pub fn kept_for(record: &str, owner: &str, path: &AbsolutePath) -> Option<Self> {
        let hash = hex::encode(Sha256::digest(format!("{record}\0{owner}\0{}", path.as_str())));
        let plain = |c: char| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' };
        let readable: String = path.as_str().chars().skip(1).take(PATH_IN_NAME).map(plain).collect();
        format!("abide-{owner}-{readable}-{}", &hash[..12]).parse().ok()
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for VolumeName {
    type Err = InvalidMount;

    fn from_str(text: &str) -> Result<Self, InvalidMount> {
        let first = text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
        let rest = text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
        if first && rest && (2..=LONGEST_NAME).contains(&text.len()) {
            return Ok(Self(text.to_owned()));
        }
        let rule = "must name a volume (2 to 255 letters, digits and - _ .) or an absolute path of the host \
                    as its source";
        Err(InvalidMount(rule.to_owned()))
    }
}

impl AbsolutePath {
    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// As a path.
    pub fn as_path(&self) -> &Path {
        Path::new(&self.0)
    }

    /// Parses a path without colons; `what` names it in an error.
    ///
    /// # Errors
    /// Returns [`InvalidMount`], which states the rule.
    pub fn parse(what: &str, text: &str) -> Result<Self, InvalidMount> {
        if text.contains(':') {
            return Err(InvalidMount(format!(
                "must contain neither colons nor control characters in {what}"
            )));
        }
        Self::with_colons(what, text)
    }

    /// Parses a path that may have colons.
    fn with_colons(what: &str, text: &str) -> Result<Self, InvalidMount> {
        if text.chars().any(char::is_control) {
            return Err(InvalidMount(format!("must contain no control characters in {what}")));
        }
        Self::any(what, text)
    }

    /// Parses a path with any characters that Linux allows, such as one in an image.
    pub(super) fn any(what: &str, text: &str) -> Result<Self, InvalidMount> {
        if text.len() > LONGEST_PATH || text.contains('\0') {
            let rule = format!("must have at most {LONGEST_PATH} bytes, and no NUL, in {what}");
            return Err(InvalidMount(rule));
        }
        plain_path(what, text).map(Self).map_err(InvalidMount)
    }

    /// Cleans a path that a user wrote; see [`AbsolutePath::of_image`].
    pub fn cleaned(text: &str) -> Option<Self> {
        Self::of_image(text).filter(|path| !path.as_str().contains(char::is_control))
    }

    /// Cleans the path of a `VOLUME` like the engine does; a relative path counts from the root. Returns `None`
    /// for the root itself and for a path that Linux does not have: the engine starts no container with either.
    pub fn of_image(text: &str) -> Option<Self> {
        let mut parts = Vec::new();
        for part in text.split('/') {
            match part {
                "" | "." => {}
                ".." => drop(parts.pop()),
                part => parts.push(part),
            }
        }
        let path = Self::any("the path", &format!("/{}", parts.join("/"))).ok()?;
        (path.as_str() != "/").then_some(path)
    }

    /// Whether `other` is below this path.
    pub fn holds(&self, other: &Self) -> bool {
        self != other && other.as_path().starts_with(self.as_path())
    }
}

/// Normalizes an absolute path: removes `.` parts and trailing slashes.
///
/// # Errors
/// Returns the rest of a sentence if the path is not absolute or contains `..`.
pub(in crate::model) fn plain_path(what: &str, path: &str) -> Result<String, String> {
    if !path.starts_with('/') {
        return Err(format!(
            "must be absolute in {what}: abide does not expand ~, variables or relative paths"
        ));
    }
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    if parts.contains(&"..") {
        return Err(format!("must not contain .. in {what}"));
    }
    Ok(format!("/{}", parts.join("/")))
}

impl TryFrom<String> for AbsolutePath {
    type Error = InvalidMount;

    fn try_from(text: String) -> Result<Self, InvalidMount> {
        Self::any("the path", &text)
    }
}

text_form!(VolumeName);

impl From<AbsolutePath> for String {
    fn from(path: AbsolutePath) -> Self {
        path.0
    }
}

impl fmt::Display for AbsolutePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.0.contains(char::is_control) {
            return f.pad(&self.0);
        }
        let escaped = self.0.chars().map(|c| match c {
            '\n' => "\\n".to_owned(),
            '\t' => "\\t".to_owned(),
            '\r' => "\\r".to_owned(),
            c if c.is_control() => format!("\\u{:04X}", u32::from(c)),
            c => c.to_string(),
        });
        f.pad(&escaped.collect::<String>())
    }
}

impl fmt::Display for VolumeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}
