//! Mounts of a container: a volume or a path of the host, at a path in the container.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::name::text_form;

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

/// An absolute path without `.`, `..`, empty parts and NUL. A path that a user writes has no control characters
/// either, and a path of the host no colons; an image may declare a `VOLUME` with both. [`fmt::Display`] escapes
/// control characters as TOML does.
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
    options: MountOptions,
}

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

/// The JSON form of a mount.
#[derive(Serialize, Deserialize)]
struct RawMount {
    source: String,
    target: String,
    #[serde(flatten)]
    options: MountOptions,
}

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
    fn any(what: &str, text: &str) -> Result<Self, InvalidMount> {
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
        let source: MountSource = source.parse()?;
        // A volume is mounted at any path of an image. The engine takes some mounts of host paths as text, whose
        // parts are separated by colons.
        let target = match &source {
            MountSource::Volume(_) => AbsolutePath::any("the target", target)?,
            MountSource::Host(_) => AbsolutePath::parse("the target", target)?,
        };
        if target.as_str() == "/" {
            return Err(InvalidMount("must not mount over the container's root".to_owned()));
        }
        Ok(Self { source, target, options: MountOptions::default() })
    }

    /// Mounts a volume at a path; both were checked before.
    pub fn of_volume(volume: VolumeName, target: AbsolutePath) -> Self {
        Self { source: MountSource::Volume(volume), target, options: MountOptions::default() }
    }

    /// The same mount, read-only or not.
    #[must_use]
    pub fn read_only(self, read_only: bool) -> Self {
        let options = MountOptions { read_only, ..self.options };
        Self { options, ..self }
    }

    /// The same mount with these options.
    ///
    /// # Errors
    /// Returns [`InvalidMount`] for an option that a mount of its kind does not have.
    pub fn with(self, options: MountOptions) -> Result<Self, InvalidMount> {
        // The engine labels its volumes itself.
        let selinux = options.selinux.filter(|_| self.volume().is_none());
        let options = MountOptions { selinux, ..options };
        let MountOptions { create, external, nocopy, propagation, .. } = &options;
        let wrong = match self.volume() {
            Some(_) if *create => "accepts `create` only for a path of the host: volumes are always created",
            Some(_) if propagation.is_some() => "accepts `propagation` only for a path of the host",
            None if *external => "accepts `external` only for a volume: abide creates no path of the host",
            None if *nocopy => "accepts `nocopy` only for a volume",
            _ => return Ok(Self { options, ..self }),
        };
        Err(InvalidMount(wrong.to_owned()))
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
        self.options.read_only
    }

    /// Whether abide creates the host folder if it is missing.
    pub fn creates(&self) -> bool {
        self.options.create
    }

    /// Whether other environments may write to the source too.
    pub fn is_shared(&self) -> bool {
        self.options.shared
    }

    /// Whether someone else creates the volume.
    pub fn is_external(&self) -> bool {
        self.options.external
    }

    /// The options.
    pub fn options(&self) -> &MountOptions {
        &self.options
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

    /// The mount as the engine reports it, without the options that are only abide's.
    #[must_use]
    pub fn as_mounted(&self) -> Self {
        let options = MountOptions { create: false, shared: false, external: false, ..self.options.clone() };
        Self { options, ..self.clone() }
    }
}

/// Parses `source:target[:options]`, with options such as `ro` between commas.
impl FromStr for Mount {
    type Err = InvalidMount;

    fn from_str(text: &str) -> Result<Self, InvalidMount> {
        let rule = || {
            InvalidMount(
                "must be \"source:target\", or \"source:target:ro\" to mount it read-only".to_owned(),
            )
        };
        let parts: Vec<&str> = text.trim().split(':').collect();
        let (source, target, words) = match parts[..] {
            [source, target] => (source, target, ""),
            [source, target, words] if !words.is_empty() => (source, target, words),
            _ => return Err(rule()),
        };
        let mut options = MountOptions::default();
        for word in words.split(',').filter(|_| !words.is_empty()) {
            match word {
                "ro" => options.read_only = true,
                "nocopy" => options.nocopy = true,
                // The default, and words that mean something on other systems only.
                "rw" | "cached" | "delegated" | "consistent" => {}
                "z" => options.selinux = Some(Relabel::Shared),
                "Z" => options.selinux = Some(Relabel::Private),
                word => options.propagation = Some(word.parse().map_err(|_| rule())?),
            }
        }
        if target.contains(char::is_control) {
            return Err(rule());
        }
        Self::new(source, target)?.with(options)
    }
}

impl fmt::Display for Mount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.source.as_str(), self.target)?;
        let MountOptions { read_only, nocopy, propagation, selinux, .. } = &self.options;
        let words = [
            read_only.then_some("ro"),
            nocopy.then_some("nocopy"),
            propagation.as_ref().map(Propagation::as_str),
            selinux.map(Relabel::as_str),
        ];
        let words: Vec<&str> = words.into_iter().flatten().collect();
        if words.is_empty() { Ok(()) } else { write!(f, ":{}", words.join(",")) }
    }
}

impl TryFrom<RawMount> for Mount {
    type Error = InvalidMount;

    fn try_from(raw: RawMount) -> Result<Self, InvalidMount> {
        Self::new(&raw.source, &raw.target)?.with(raw.options)
    }
}

impl From<Mount> for RawMount {
    fn from(mount: Mount) -> Self {
        let Mount { source, target, options } = mount;
        Self { source: source.as_str().to_owned(), target: target.0, options }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_in_json_follow_the_manifests_grammar() {
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
    fn mount_json_is_compatible_with_earlier_versions() {
        let plain: Mount = "data:/data".parse().unwrap();
        assert_eq!(serde_json::to_string(&plain).unwrap(), r#"{"source":"data","target":"/data"}"#);
        let made = Mount::new("/srv/x", "/data").unwrap();
        let made =
            made.with(MountOptions { read_only: true, create: true, ..MountOptions::default() }).unwrap();
        let json = r#"{"source":"/srv/x","target":"/data","read_only":true,"create":true}"#;
        assert_eq!(serde_json::to_string(&made).unwrap(), json);
        assert_eq!(serde_json::from_str::<Mount>(json).unwrap(), made);
        assert!(
            serde_json::from_str::<Mount>(r#"{"source":"data","target":"/data","create":true}"#).is_err()
        );
    }

    #[test]
    fn mount_options_are_parsed_and_valid_for_one_kind_of_mount() {
        let read = |text: &str| text.parse::<Mount>().map(|mount| mount.to_string());
        assert_eq!(read("/a:/b:rslave,ro").unwrap(), "/a:/b:ro,rslave");
        assert_eq!(read("data:/b:nocopy").unwrap(), "data:/b:nocopy");
        assert_eq!(read("data:/b:cached").unwrap(), "data:/b");
        assert_eq!(read("/a:/b:Z,ro").unwrap(), "/a:/b:ro,Z");
        assert_eq!(read("data:/b:z").unwrap(), "data:/b");
        for text in ["data:/b:rslave", "/a:/b:nocopy", "/a:/b:", "/a:/b:x", "/a:/b:ro:rw"] {
            assert!(read(text).is_err(), "{text}");
        }
        let kind =
            |source: &str, options: MountOptions| Mount::new(source, "/data").unwrap().with(options).is_ok();
        let shared = MountOptions { shared: true, ..MountOptions::default() };
        assert!(kind("data", shared.clone()) && kind("/data", shared));
        let external = MountOptions { external: true, ..MountOptions::default() };
        assert!(kind("data", external.clone()) && !kind("/data", external));
    }

    #[test]
    fn paths_of_images_are_cleaned_as_the_engine_does() {
        let cleaned = |text: &str| AbsolutePath::cleaned(text).map(String::from);
        for (text, path) in [
            ("/a/", "/a"),
            ("/e/../f", "/f"),
            ("rel", "/rel"),
            ("//a//./b", "/a/b"),
            ("/../a", "/a"),
            ("/a:b", "/a:b"),
        ] {
            assert_eq!(cleaned(text).as_deref(), Some(path), "{text}");
        }
        assert_eq!((cleaned("/"), cleaned(""), cleaned("/a/.."), cleaned("/a\nb")), (None, None, None, None));
        let of_image = |text: &str| AbsolutePath::of_image(text).map(String::from);
        assert_eq!(of_image("/a\nb/").as_deref(), Some("/a\nb"));
        assert_eq!((of_image("/a\0"), of_image(&"/a".repeat(2049)), of_image("/")), (None, None, None));
        let kept = VolumeName::kept_for("record", "dev", &AbsolutePath::cleaned("/a:b").unwrap()).unwrap();
        let mount = Mount::of_volume(kept, AbsolutePath::cleaned("/a:b").unwrap());
        let json = serde_json::to_string(&mount).unwrap();
        assert_eq!(serde_json::from_str::<Mount>(&json).unwrap(), mount);
        assert!(Mount::new("/srv", "/a:b").is_err());
    }

    #[test]
    fn control_characters_survive_in_json_and_are_escaped_in_text() {
        let path = AbsolutePath::of_image("/a\nb/\u{1b}[31m").unwrap();
        assert_eq!(path.to_string(), "/a\\nb/\\u001B[31m");
        let kept = VolumeName::kept_for("record", "dev", &path).unwrap();
        let mount = Mount::of_volume(kept, path);
        let json = serde_json::to_string(&mount).unwrap();
        assert_eq!(serde_json::from_str::<Mount>(&json).unwrap(), mount);
        assert!(Mount::new("/srv", "/a\nb").is_err() && "data:/a\nb".parse::<Mount>().is_err());
    }

    #[test]
    fn a_path_contains_only_paths_below_it() {
        let path = |text: &str| AbsolutePath::parse("it", text).unwrap();
        assert!(path("/var/lib").holds(&path("/var/lib/pg")) && path("/").holds(&path("/a")));
        assert!(!path("/var/lib").holds(&path("/var/lib")) && !path("/var/lib").holds(&path("/var/library")));
    }
}
