//! Mounts of a container: a volume or a path of the host, at a path in the container.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// The start of the engine's error for a host path that it cannot mount.
pub const REFUSED_SOURCE: &str = "invalid mount config for type \"bind\"";

/// The longest path on Linux, in bytes.
const LONGEST_PATH: usize = 4096;
/// The longest name that the engine's local driver accepts, in bytes: it creates a folder of that name.
const LONGEST_NAME: usize = 255;
/// The maximum number of characters of a path in a volume's name.
const PATH_IN_NAME: usize = 60;

/// An error for an invalid mount: the rest of a sentence that begins with its key, such as `must be ...`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidMount(String);

/// The name of a volume, by the rule of the engine's local driver.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct VolumeName(String);

/// An absolute path without `.`, `..`, empty parts, colons and control characters.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AbsolutePath(String);

/// The source of a mount.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MountSource {
    /// A volume of the engine.
    Volume(VolumeName),
    /// A file or folder of the host.
    Host(AbsolutePath),
}

/// A mount. In JSON and as text, a source that begins with `/` is a path of the host.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "RawMount", into = "RawMount")]
pub struct Mount {
    source: MountSource,
    target: AbsolutePath,
    read_only: bool,
    create: bool,
}

/// The JSON form of a mount.
#[derive(Serialize, Deserialize)]
struct RawMount {
    source: String,
    target: String,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    read_only: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    create: bool,
}

impl VolumeName {
    /// The name of the volume that a record keeps for `owner` at an undeclared path. It is always the same
    /// for the same arguments. Returns `None` if the owner's name cannot be part of a volume name.
    pub fn kept_for(record: &str, owner: &str, path: &AbsolutePath) -> Option<Self> {
        let hash = hex::encode(Sha256::digest(format!("{record}\0{owner}\0{path}")));
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

    /// Parses `text`; `what` names it in an error.
    ///
    /// # Errors
    /// Returns [`InvalidMount`], which states the rule.
    pub fn parse(what: &str, text: &str) -> Result<Self, InvalidMount> {
        let wrong = |rule: String| Err(InvalidMount(rule));
        if text.contains(':') || text.chars().any(char::is_control) {
            return wrong(format!("must contain neither colons nor control characters in {what}"));
        }
        if text.len() > LONGEST_PATH {
            return wrong(format!("must have at most {LONGEST_PATH} bytes in {what}"));
        }
        plain_path(what, text).map(Self).map_err(InvalidMount)
    }

    /// Cleans a path like the engine cleans an image's path; a relative path counts from the root. Returns
    /// `None` for the root itself, and for a path that breaks the rules of this type.
    pub fn cleaned(text: &str) -> Option<Self> {
        let mut parts = Vec::new();
        for part in text.split('/') {
            match part {
                "" | "." => {}
                ".." => drop(parts.pop()),
                part => parts.push(part),
            }
        }
        let path = Self::parse("the path", &format!("/{}", parts.join("/"))).ok()?;
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
pub(super) fn plain_path(what: &str, path: &str) -> Result<String, String> {
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

impl MountSource {
    /// As text.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Volume(name) => name.as_str(),
            Self::Host(path) => path.as_str(),
        }
    }
}

impl FromStr for MountSource {
    type Err = InvalidMount;

    fn from_str(text: &str) -> Result<Self, InvalidMount> {
        if text.contains('/') || text.starts_with(['~', '.']) {
            return AbsolutePath::parse("the source", text).map(Self::Host);
        }
        text.parse().map(Self::Volume)
    }
}

impl Mount {
    /// Mounts `source` at `target`, writable.
    ///
    /// # Errors
    /// Returns [`InvalidMount`], which states the broken rule.
    pub fn new(source: &str, target: &str) -> Result<Self, InvalidMount> {
        let source = source.parse()?;
        let target = AbsolutePath::parse("the target", target)?;
        if target.as_str() == "/" {
            return Err(InvalidMount("must not mount over the container's root".to_owned()));
        }
        Ok(Self { source, target, read_only: false, create: false })
    }

    /// Mounts a volume at a path; both were checked before.
    pub fn of_volume(volume: VolumeName, target: AbsolutePath) -> Self {
        Self { source: MountSource::Volume(volume), target, read_only: false, create: false }
    }

    /// The same mount, read-only or not.
    #[must_use]
    pub fn read_only(self, read_only: bool) -> Self {
        Self { read_only, ..self }
    }

    /// The same mount; with `create`, abide creates the host folder if it is missing.
    ///
    /// # Errors
    /// Returns [`InvalidMount`] for a volume, which abide creates anyway.
    pub fn creating(self, create: bool) -> Result<Self, InvalidMount> {
        if create && self.volume().is_some() {
            return Err(InvalidMount(
                "accepts `create` only for a path of the host: volumes are always created".to_owned(),
            ));
        }
        Ok(Self { create, ..self })
    }

    /// The source.
    pub fn source(&self) -> &MountSource {
        &self.source
    }

    /// The path in the container.
    pub fn target(&self) -> &AbsolutePath {
        &self.target
    }

    /// Whether the mount is read-only.
    pub fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// Whether abide creates the host folder if it is missing.
    pub fn creates(&self) -> bool {
        self.create
    }

    /// The volume's name; `None` if a path of the host is mounted.
    pub fn volume(&self) -> Option<&VolumeName> {
        match &self.source {
            MountSource::Volume(name) => Some(name),
            MountSource::Host(_) => None,
        }
    }

    /// The path of the host; `None` if a volume is mounted.
    pub fn host_path(&self) -> Option<&AbsolutePath> {
        match &self.source {
            MountSource::Volume(_) => None,
            MountSource::Host(path) => Some(path),
        }
    }

    /// The mount as the engine reports it, without the `create` option.
    #[must_use]
    pub fn as_mounted(&self) -> Self {
        Self { create: false, ..self.clone() }
    }
}

/// Parses `source:target[:ro|rw]`.
impl FromStr for Mount {
    type Err = InvalidMount;

    fn from_str(text: &str) -> Result<Self, InvalidMount> {
        let parts: Vec<&str> = text.trim().split(':').collect();
        let (source, target, read_only) = match parts[..] {
            [source, target] | [source, target, "rw"] => (source, target, false),
            [source, target, "ro"] => (source, target, true),
            _ => {
                let rule = "must be \"source:target\", or \"source:target:ro\" to mount it read-only";
                return Err(InvalidMount(rule.to_owned()));
            }
        };
        Ok(Self::new(source, target)?.read_only(read_only))
    }
}

impl fmt::Display for Mount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let read_only = if self.read_only { ":ro" } else { "" };
        write!(f, "{}:{}{read_only}", self.source.as_str(), self.target.as_str())
    }
}

impl TryFrom<RawMount> for Mount {
    type Error = InvalidMount;

    fn try_from(raw: RawMount) -> Result<Self, InvalidMount> {
        Self::new(&raw.source, &raw.target)?.read_only(raw.read_only).creating(raw.create)
    }
}

impl From<Mount> for RawMount {
    fn from(mount: Mount) -> Self {
        let Mount { source, target, read_only, create } = mount;
        Self { source: source.as_str().to_owned(), target: target.0, read_only, create }
    }
}

impl TryFrom<String> for AbsolutePath {
    type Error = InvalidMount;

    fn try_from(text: String) -> Result<Self, InvalidMount> {
        Self::parse("the path", &text)
    }
}

impl TryFrom<String> for VolumeName {
    type Error = InvalidMount;

    fn try_from(text: String) -> Result<Self, InvalidMount> {
        text.parse()
    }
}

impl From<AbsolutePath> for String {
    fn from(path: AbsolutePath) -> Self {
        path.0
    }
}

impl From<VolumeName> for String {
    fn from(name: VolumeName) -> Self {
        name.0
    }
}

impl fmt::Display for AbsolutePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Display for VolumeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_goes_by_the_grammar_of_the_manifest() {
        let read = |source: &str, target: &str| {
            let json = serde_json::json!({ "source": source, "target": target });
            serde_json::from_value::<Mount>(json)
        };
        for (source, target) in [
            ("/srv/allowed/..:/host", "rw"),
            ("/srv/allowed/..:/host", "/data"),
            ("/srv/allowed", "/data:ro"),
            ("/srv/allowed/../..", "/data"),
            ("/srv/a\nb", "/data"),
            ("/srv/a\0", "/data"),
            ("srv", "data"),
            ("data", "/"),
            ("data", "/a/.."),
            ("../srv", "/data"),
            ("a/b", "/data"),
            ("x", "/data"),
            ("", "/data"),
            ("data", ""),
            ("-data", "/data"),
        ] {
            assert!(read(source, target).is_err(), "{source:?} at {target:?} was taken");
        }
        let mount = read("/srv//allowed/./x/", "/data/").unwrap();
        assert_eq!((mount.source().as_str(), mount.target().as_str()), ("/srv/allowed/x", "/data"));
    }

    #[test]
    fn json_is_what_earlier_versions_wrote_and_read() {
        let plain: Mount = "data:/data".parse().unwrap();
        assert_eq!(serde_json::to_string(&plain).unwrap(), r#"{"source":"data","target":"/data"}"#);
        let made = Mount::new("/srv/x", "/data").unwrap().read_only(true).creating(true).unwrap();
        let json = r#"{"source":"/srv/x","target":"/data","read_only":true,"create":true}"#;
        assert_eq!(serde_json::to_string(&made).unwrap(), json);
        assert_eq!(serde_json::from_str::<Mount>(json).unwrap(), made);
        assert!(
            serde_json::from_str::<Mount>(r#"{"source":"data","target":"/data","create":true}"#).is_err()
        );
    }

    #[test]
    fn paths_of_images_are_cleaned_as_the_engine_does() {
        let cleaned = |text: &str| AbsolutePath::cleaned(text).map(String::from);
        for (text, path) in
            [("/a/", "/a"), ("/e/../f", "/f"), ("rel", "/rel"), ("//a//./b", "/a/b"), ("/../a", "/a")]
        {
            assert_eq!(cleaned(text).as_deref(), Some(path), "{text}");
        }
        assert_eq!((cleaned("/"), cleaned(""), cleaned("/a/.."), cleaned("/a:b")), (None, None, None, None));
    }

    #[test]
    fn a_path_holds_what_is_below_it_alone() {
        let path = |text: &str| AbsolutePath::parse("it", text).unwrap();
        assert!(path("/var/lib").holds(&path("/var/lib/pg")) && path("/").holds(&path("/a")));
        assert!(!path("/var/lib").holds(&path("/var/lib")) && !path("/var/lib").holds(&path("/var/library")));
    }
}
