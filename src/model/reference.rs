//! Names of images in registries: host, repository and tag, by the grammar of the distribution specification.
//! A name never decides what runs; it only names the registry to ask.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::name::{Digest, EnvironmentName, InvalidName, text_form};

/// The registry of image names without a host, as in Docker.
pub const DOCKER_HUB: &str = "docker.io";

/// The longest host, repository path and tag. The last two limits come from the specification.
const LONGEST: (usize, usize, usize) = (253 + 6, 255, 128);

/// The longest name of an image, in bytes.
const LONGEST_REFERENCE: usize = 512;

/// Checks that a text can be the name of an image, with or without a tag. Only such names reach the engine.
///
/// # Errors
/// Returns [`InvalidName`], which states the rule.
pub fn check_reference(text: &str) -> Result<(), InvalidName> {
    let first = text.starts_with(|first: char| first.is_ascii_alphanumeric() || first == '[');
    let rest = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_./:[]@".contains(&byte));
    if first && rest && text.len() <= LONGEST_REFERENCE && !text.contains("..") {
        return Ok(());
    }
    Err(InvalidName::new("image", text, "a name such as registry.example.com:5000/keepwork/prod"))
}

/// The address of a registry: `host` or `host:port`, in lower case.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RegistryHost(String);

impl RegistryHost {
    /// The text that begins image names of this registry.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The host without its port, and without the brackets of an IPv6 address.
    pub fn name(&self) -> &str {
        let name = match self.0.rsplit_once(':') {
            Some((name, port)) if !port.ends_with(']') => name,
            _ => &self.0,
        };
        name.trim_start_matches('[').trim_end_matches(']')
    }

    /// The port, if the address has one.
    pub fn port(&self) -> Option<u16> {
        self.0.rsplit_once(':').and_then(|(_, port)| port.parse().ok())
    }

    /// Whether the name alone means this host, which Docker trusts without TLS.
    pub fn is_loopback(&self) -> bool {
        self.name() == "localhost" || self.name().parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
    }
}

impl FromStr for RegistryHost {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let rule = "a host or host:port in lower case, such as registry.example.com:5000";
        let wrong = || InvalidName::new("registry", text, rule);
        let (name, port) = match text.rsplit_once(':') {
            Some((name, port)) if !port.ends_with(']') => (name, Some(port)),
            _ => (text, None),
        };
        let has_port = |port: &str| port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok();
        if text.len() > LONGEST.0 || !is_host(name) || port.is_some_and(|port| !has_port(port) || port == "0")
        {
            return Err(wrong());
        }
        Ok(Self(text.to_owned()))
    }
}

fn is_host(name: &str) -> bool {
    if let Some(inner) = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return inner.parse::<Ipv6Addr>().is_ok();
    }
    let is_label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    };
    name.split('.').all(is_label)
}

impl fmt::Display for RegistryHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

text_form!(RegistryHost);

/// A repository of images: `registry.example.com:5000/keepwork/prod`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ImageRepository {
    host: RegistryHost,
    path: String,
}

impl ImageRepository {
    /// The registry.
    pub fn host(&self) -> &RegistryHost {
        &self.host
    }

    /// The path in the registry: `keepwork/prod`.
    pub fn path(&self) -> &str {
        &self.path
    }
}

impl FromStr for ImageRepository {
    type Err = InvalidName;

    /// A name whose first part is not a host belongs to Docker Hub, as for `docker pull`.
    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let rule = "host/path in lower case, such as registry.example.com:5000/keepwork/prod";
        let wrong = || InvalidName::new("image repository", text, rule);
        let (host, path) = match text.split_once('/') {
            Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => (first, rest),
            _ => (DOCKER_HUB, text),
        };
        let host: RegistryHost = host.parse().map_err(|_| wrong())?;
        let path = match path {
            official if host.as_str() == DOCKER_HUB && !official.contains('/') => {
                format!("library/{official}")
            }
            path => path.to_owned(),
        };
        if path.len() > LONGEST.1 || !path.split('/').all(is_path_part) {
            return Err(wrong());
        }
        Ok(Self { host, path })
    }
}

/// The path of images that abide builds or keeps for an environment, on this host only. A name that no image
/// path may have, such as `dev-`, is written in hexadecimal, after a prefix that no name has.
pub fn local_path(environment: &EnvironmentName) -> String {
    let name = environment.as_str();
    if is_path_part(name) { format!("abide/{name}") } else { format!("abide/hex.{}", hex::encode(name)) }
}

/// Letters and digits, with `.`, `_`, `__` or dashes between them.
fn is_path_part(part: &str) -> bool {
    let bytes = part.as_bytes();
    let is_plain = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let separators_are_right = part
        .split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        .all(|run| matches!(run, "" | "." | "_" | "__") || run.bytes().all(|b| b == b'-'));
    bytes.first().is_some_and(is_plain) && bytes.last().is_some_and(is_plain) && separators_are_right
}

impl fmt::Display for ImageRepository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.host, self.path)
    }
}

text_form!(ImageRepository);

/// A repository and a tag in it. A tag may change its image, unless a digest pins it.
///
/// ```
/// use abide::model::reference::TaggedImage;
///
/// let image: TaggedImage = "registry.example.com:5000/keepwork/prod:stable".parse()?;
/// assert_eq!(image.repository.host().port(), Some(5000));
/// assert_eq!((image.repository.path(), image.tag(), image.pinned()), ("keepwork/prod", "stable", None));
///
/// // As for Docker, a name without a host belongs to Docker Hub.
/// let image: TaggedImage = "nginx:1.29".parse()?;
/// assert_eq!(image.to_string(), "docker.io/library/nginx:1.29");
/// # Ok::<(), abide::model::name::InvalidName>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TaggedImage {
    /// The repository.
    pub repository: ImageRepository,
    /// The tag; empty only with a digest.
    tag: String,
    digest: Option<Digest>,
}

impl TaggedImage {
    /// The tag.
    pub fn tag(&self) -> &str {
        &self.tag
    }

    /// The digest that pins the image; the tag is then only a remark.
    pub fn pinned(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// The tag that keeps one pushed image in its registry. No two images share a tag, so that the
    /// registry's garbage collection never removes a deployed image.
    pub fn keeping(repository: ImageRepository, id: &Digest) -> Self {
        Self { repository, tag: pushed_tag(id), digest: None }
    }
}

/// The tag of a pushed image.
pub fn pushed_tag(id: &Digest) -> String {
    format!("sha-{}", id.short())
}

impl FromStr for TaggedImage {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let rule = "host/path:tag, such as registry.example.com:5000/keepwork/prod:stable";
        let wrong = || InvalidName::new("tagged image", text, rule);
        let (text, digest) = match text.split_once('@') {
            Some((text, digest)) => (text, Some(digest.parse().map_err(|_| wrong())?)),
            None => (text, None),
        };
        // A colon before a slash belongs to the port of the registry.
        let tagged = text.rsplit_once(':').filter(|(_, tag)| !tag.contains('/'));
        let (repository, tag) = match (tagged, &digest) {
            (Some(tagged), _) => tagged,
            (None, Some(_)) => {
                let repository = text.parse().map_err(|_| wrong())?;
                return Ok(Self { repository, tag: String::new(), digest });
            }
            (None, None) => return Err(wrong()),
        };
        let first = tag.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_');
        let rest = tag.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
        if !first || !rest || tag.len() > LONGEST.2 {
            return Err(wrong());
        }
        let repository = repository.parse().map_err(|_| wrong())?;
        Ok(Self { repository, tag: tag.to_owned(), digest })
    }
}

impl fmt::Display for TaggedImage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.repository)?;
        if !self.tag.is_empty() {
            write!(f, ":{}", self.tag)?;
        }
        self.digest.iter().try_for_each(|digest| write!(f, "@{digest}"))
    }
}

text_form!(TaggedImage);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_environment_name_yields_a_valid_image_path() {
        for name in ["dev", "a--b", "a__b", "dev-", "dev_", "a___b", "a_-b", "a-_b"] {
            let path = local_path(&EnvironmentName::new(name).unwrap());
            assert!(path.split('/').all(is_path_part), "{path}");
            let step = format!("{path}-step-1");
            assert!(step.split('/').all(is_path_part), "{step}");
        }
        assert_eq!(local_path(&EnvironmentName::new("dev").unwrap()), "abide/dev");
        assert_eq!(local_path(&EnvironmentName::new("a_").unwrap()), "abide/hex.615f");
    }

    #[test]
    fn names_are_read_as_docker_reads_them() {
        for (text, host, path, tag) in [
            ("localhost:5000/a:1", "localhost:5000", "a", "1"),
            (
                "registry.example.com/keepwork/prod:v1.2-b_3",
                "registry.example.com",
                "keepwork/prod",
                "v1.2-b_3",
            ),
            ("nginx:latest", "docker.io", "library/nginx", "latest"),
            ("xuntian/npl-runtime:latest", "docker.io", "xuntian/npl-runtime", "latest"),
            ("[::1]:5000/a/b__c:x", "[::1]:5000", "a/b__c", "x"),
        ] {
            let image: TaggedImage = text.parse().unwrap();
            let found = (image.repository.host().as_str(), image.repository.path(), image.tag());
            assert_eq!(found, (host, path, tag), "{text}");
        }
    }

    #[test]
    fn an_invalid_image_reference_is_rejected() {
        for text in [
            "",
            ":",
            "a",
            "a:",
            ":a",
            "Upper/a:1",
            "localhost:5000/:1",
            "localhost:5000/a//b:1",
            "localhost:5000/a",
            "localhost:99999/a:1",
            "localhost:0/a:1",
            "a.b/-x:1",
            "a.b/x-:1",
            "a.b/x..y:1",
            "a.b/x___y:1",
            "a.b/../x:1",
            "a.b/x:.1",
            "a.b/x:1 2",
            "a.b/x:1\n",
            "-a.b/x:1",
            "a.b/x@sha256:1",
            "user@a.b/x:1",
        ] {
            assert!(text.parse::<TaggedImage>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn only_loopback_registry_hosts_are_recognized_as_local() {
        for (text, expected) in [
            ("localhost", true),
            ("localhost:5000", true),
            ("127.0.0.1:5000", true),
            ("127.9.9.9", true),
            ("[::1]:5000", true),
            ("10.0.0.1:5000", false),
            ("localhost.example.com", false),
            ("docker.io", false),
        ] {
            let host: RegistryHost = text.parse().unwrap();
            assert_eq!(host.is_loopback(), expected, "{text}");
        }
        let host: RegistryHost = "[::1]:5000".parse().unwrap();
        assert_eq!((host.name(), host.port()), ("::1", Some(5000)));
        let host: RegistryHost = "docker.io".parse().unwrap();
        assert_eq!((host.name(), host.port()), ("docker.io", None));
    }
}
