//! Mounts of a container: a volume or a path of the host, at a path in the container.

mod options;
mod path;

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

pub use options::{MountOptions, PROPAGATION, Propagation, RELABEL, Relabel};
pub(super) use path::plain_path;
pub use path::{AbsolutePath, VolumeName};

/// The start of the engine's error for a host path that it cannot mount.
pub const REFUSED_SOURCE: &str = "invalid mount config for type \"bind\"";

/// An error for an invalid mount: the rest of a sentence that begins with its key, such as `must be ...`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidMount(String);

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

/// The JSON form of a mount.
#[derive(Serialize, Deserialize)]
struct RawMount {
    source: String,
    target: String,
    #[serde(flatten)]
    options: MountOptions,
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
        Self { source: source.as_str().to_owned(), target: target.into(), options }
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
