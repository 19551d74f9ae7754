//! The policy of this host, which applies whatever a controller assigns: a compromised controller must not
//! own the hosts of its agents. Options that reach beyond the container need a rule that allows them by name.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::model::desired::Image;
use crate::model::manifest::{self, SourceFile};
use crate::model::mount::{AbsolutePath, Mount, MountSource};
use crate::model::name::{NetworkName, SiteName};
use crate::model::options::Right;
use crate::model::ports::PortMapping;
use crate::model::reading;
use crate::model::reference::ImageRepository;
use crate::model::site::SiteSettings;
use crate::model::spec::{EnvValue, EnvironmentSpec, FrontSpec, GuardMode, SecretRef};
use crate::model::workload::{PortMode, SwarmSpec};

/// Networks that belong to the engine, or mean none.
const NETWORKS: [&str; 6] = ["host", "none", "default", "bridge", "ingress", "docker_gwbridge"];
/// The shortest ID by which users and programs name a network.
const SHORTEST_ID: usize = 12;
/// The usual paths of the Docker Engine's sockets and files: a container that mounts them owns the host.
const ENGINE: [&str; 4] = ["/var/run/docker.sock", "/run/docker.sock", "/run/containerd", "/var/lib/docker"];
/// Paths that no policy can allow: the kernel's own files.
const KERNEL: [&str; 3] = ["/proc", "/sys", "/dev"];
/// The right of everyone to write, in the mode of a file.
const WRITABLE_BY_ALL: u32 = 0o002;
/// Variables of the agent itself, such as its token.
const OWN_VARIABLES: &str = "ABIDE_";

/// The policy of a host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Policy {
    rules: PolicyRules,
    /// The proxy of this host; `None`: there is none.
    front: Option<FrontSpec>,
    /// Files and folders of the agent itself.
    own: Vec<PathBuf>,
}

/// The contents of `policy.toml`. In lists of names, a `*` at the end matches any suffix.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct PolicyRules {
    /// Repositories of images; left out: any.
    images: Option<Vec<String>>,
    /// Folders of the host that may be mounted, with all below them; left out: none.
    #[serde(default)]
    binds: Vec<PathBuf>,
    /// Volumes; left out: any.
    volumes: Option<Vec<String>>,
    /// Networks; left out: any but the engine's own.
    networks: Option<Vec<String>>,
    /// Addresses of the host that ports may be published on, `0.0.0.0` for all; left out: any.
    addresses: Option<Vec<IpAddr>>,
    /// Host ports, such as `"8088"` or `"8000-8099"`; left out: any.
    ports: Option<Vec<Ports>>,
    /// Variables of the agent that may be handed to containers; left out: any but its own.
    secret_env: Option<Vec<String>>,
    /// Files, or folders of files, that may be handed to containers as secrets; left out: none.
    #[serde(default)]
    secret_files: Vec<PathBuf>,
    /// Whether a guard may have the engine's socket; left out: it may.
    guard: Option<bool>,
    /// Whether containers may have all rights of root on the host.
    #[serde(default)]
    privileged: bool,
    /// Capabilities beyond the usual ones, such as `"NET_ADMIN"`; left out: none.
    #[serde(default)]
    capabilities: Vec<String>,
    /// Devices of the host, and device rules; left out: none.
    #[serde(default)]
    devices: Vec<String>,
    /// Whether containers may use GPUs.
    #[serde(default)]
    gpus: bool,
    /// Namespaces of the host: `"pid"`, `"ipc"`, `"cgroup"`, `"user"`,
    /// `"network"`; left out: none.
    #[serde(default)]
    host_namespaces: Vec<String>,
    /// Security options that take a protection away; left out: none.
    #[serde(default)]
    security_opt: Vec<String>,
    /// Kernel parameters; left out: none.
    #[serde(default)]
    sysctls: Vec<String>,
    /// Logging drivers that send output elsewhere; left out: none.
    #[serde(default)]
    logging: Vec<String>,
    /// Labels of containers, which other programs may obey; left out: none.
    #[serde(default)]
    labels: Vec<String>,
    /// OCI runtimes; left out: none.
    #[serde(default)]
    runtimes: Vec<String>,
    /// Whether environments may be services of the swarm that this host manages. They run on other hosts, too.
    #[serde(default)]
    swarm: bool,
    /// Host names that the proxy may serve, `*.` and a name for all below it; left out: any.
    hostnames: Option<Vec<SiteName>>,
    /// The proxy. The manifest's own parser reads it.
    front: Option<Unread>,
}

/// A value that another parser reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Unread;

impl<'de> Deserialize<'de> for Unread {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        IgnoredAny::deserialize(deserializer).map(|_| Self)
    }
}

/// One port or a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
struct Ports {
    first: u16,
    last: u16,
}

impl TryFrom<String> for Ports {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let (first, last) = text.split_once('-').unwrap_or((&text, &text));
        match (first.trim().parse(), last.trim().parse()) {
            (Ok(first), Ok(last)) if first <= last => Ok(Self { first, last }),
            _ => Err(format!("`{text}` must be a port or a range, such as \"8000-8099\"")),
        }
    }
}

/// The reason why a policy is unusable.
#[derive(Debug, thiserror::Error)]
pub(super) enum PolicyError {
    /// The file does not exist or cannot be read.
    #[error("cannot read the policy {}", .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// Any user may change it.
    #[error(
        "every user of this host can write to the policy {}: run `chmod o-w` on it, and check its content",
        .path.display()
    )]
    Writable {
        /// The file.
        path: PathBuf,
    },
    /// It is invalid.
    #[error("invalid policy {}: {why}", .path.display())]
    Wrong {
        /// The file.
        path: PathBuf,
        /// The problem, with its line.
        why: String,
    },
}

/// Words an error of a policy's text, with its line.
fn problem(text: &str, error: &toml::de::Error) -> String {
    let before = error.span().and_then(|span| text.get(..span.start));
    let line = before.map(|before| format!("line {}: ", before.matches('\n').count() + 1));
    format!("{}{}", line.unwrap_or_default(), reading::sentence("", error.message()))
}

impl Policy {
    /// Reads the policy from a file. `own`: files and folders of the agent, which are never mounted into a
    /// container.
    ///
    /// # Errors
    /// Returns [`PolicyError`]: an invalid policy allows nothing, so the agent does not start.
    pub(super) fn read(path: &Path, own: Vec<PathBuf>) -> Result<Self, PolicyError> {
        let unreadable = |source| PolicyError::Unreadable { path: path.to_owned(), source };
        let text = std::fs::read_to_string(path).map_err(unreadable)?;
        let mode = std::fs::metadata(path).map_err(unreadable)?.permissions().mode();
        if mode & WRITABLE_BY_ALL != 0 {
            return Err(PolicyError::Writable { path: path.to_owned() });
        }
        let wrong = |why: String| PolicyError::Wrong { path: path.to_owned(), why };
        let rules: PolicyRules = toml::from_str(&text).map_err(|error| wrong(problem(&text, &error)))?;
        let mut paths = rules.binds.iter().chain(&rules.secret_files);
        if let Some(path) = paths.find(|path| !path.is_absolute()) {
            return Err(wrong(format!("`{}` is not an absolute path", path.display())));
        }
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let front = manifest::parse_front(&SourceFile { name, text });
        let front = front.map_err(|problems| wrong(problems.to_string()))?;
        Ok(Self { rules, front, own })
    }

    /// Whether a guard watches the containers while the agent is down.
    pub(super) fn guard(&self) -> GuardMode {
        if self.rules.guard == Some(false) { GuardMode::Off } else { GuardMode::On }
    }

    /// The proxy of this host, which only this host configures: its ports, certificates and account are its own.
    pub(super) fn front(&self) -> Option<&FrontSpec> {
        self.front.as_ref()
    }

    /// The policy without a declaration.
    pub(super) fn standard(own: Vec<PathBuf>) -> Self {
        Self { rules: PolicyRules::default(), front: None, own }
    }

    /// Why an environment is not allowed here, in a sentence; `None`: it is allowed. `images`: the images
    /// that it may have to run. Reads the disk, because links may lead elsewhere.
    pub(super) fn objection(
        &self,
        network: &NetworkName,
        spec: &EnvironmentSpec,
        images: &[Image],
    ) -> Option<String> {
        let objections = [
            self.network(&spec.network(network)),
            self.image(images),
            spec.volumes.iter().find_map(|mount| self.mount(mount)),
            spec.jobs.values().find_map(|job| self.path(&job.backup.as_ref()?.folder)),
            spec.site_names().find_map(|name| self.hostname(name)),
            self.site(&spec.site),
            spec.publish
                .and_then(|publish| self.port(publish.port).or_else(|| self.address(publish.address))),
            spec.run.ports.iter().find_map(|port| self.mapping(port)),
            spec.swarm.as_ref().and_then(|swarm| self.swarm(swarm, &spec.volumes)),
            spec.run.networks.keys().find_map(|network| self.network(network)),
            spec.run.secrets.values().find_map(|file| self.secret(&file.secret)),
            spec.run.env_files.iter().find_map(|file| self.secret(&SecretRef::SecretFile(file.path.clone()))),
            spec.run.settings.rights().iter().find_map(|(right, name)| self.right(*right, name)),
            spec.values().find_map(|value| match value {
                EnvValue::Secret(secret) => self.secret(secret),
                EnvValue::Plain(_) => None,
            }),
        ];
        objections.into_iter().flatten().next().map(refusal)
    }

    /// Why a path of this host must not be mounted now, in a sentence; `None`: it may be.
    pub(super) fn bind(&self, path: &AbsolutePath) -> Option<String> {
        self.path(path).map(refusal)
    }

    /// The engine accepts an ID as a name, and the host's own network has one too.
    fn network(&self, network: &NetworkName) -> Option<String> {
        let name = network.as_str();
        let is_id = name.len() >= SHORTEST_ID && name.bytes().all(|byte| byte.is_ascii_hexdigit());
        let is_listed = |allowed: &Vec<String>| allowed.iter().any(|allowed| fits(name, allowed));
        let fits = self.rules.networks.as_ref().is_none_or(is_listed);
        (!fits || is_id || NETWORKS.contains(&name)).then(|| format!("containers on the network `{name}`"))
    }

    /// An image without a digest would be any image that this engine has under the ID.
    fn image(&self, images: &[Image]) -> Option<String> {
        let allowed = self.rules.images.as_ref()?;
        images.iter().find_map(|image| match (&image.reference, &image.digest) {
            (Some(reference), Some(_)) => {
                let is_name = reference.parse::<ImageRepository>().is_ok();
                let fits = is_name && allowed.iter().any(|allowed| fits(reference, allowed));
                (!fits).then(|| format!("images of `{reference}`"))
            }
            _ => Some("images without a repository and a digest".to_owned()),
        })
    }

    fn mount(&self, mount: &Mount) -> Option<String> {
        match mount.source() {
            MountSource::Volume(volume) => {
                let allowed = self.rules.volumes.as_ref()?;
                let fits = allowed.iter().any(|allowed| fits(volume.as_str(), allowed));
                (!fits).then(|| format!("the volume `{volume}`"))
            }
            MountSource::Host(path) => self.path(path),
        }
    }

    fn path(&self, path: &AbsolutePath) -> Option<String> {
        let is_within = self.is_within(path.as_path(), &self.rules.binds);
        (!is_within).then(|| format!("mounting {path}"))
    }

    fn port(&self, port: u16) -> Option<String> {
        let allowed = self.rules.ports.as_ref()?;
        let fits = allowed.iter().any(|range| (range.first..=range.last).contains(&port));
        (!fits).then(|| format!("the host port {port}"))
    }

    fn hostname(&self, name: &SiteName) -> Option<String> {
        if self.front.is_none() {
            return Some(format!("the host name {name}, because it declares no `[front]` to serve it"));
        }
        let allowed = self.rules.hostnames.as_ref()?;
        (!allowed.iter().any(|allowed| is_below(allowed, name))).then(|| format!("the host name {name}"))
    }

    /// The files of a site become public, so they are judged like secrets.
    fn site(&self, site: &SiteSettings) -> Option<String> {
        if self.front.is_none() && !site.is_default() {
            return Some("settings of a `site`, because it declares no `[front]`".to_owned());
        }
        let pages = site.error_pages.values().map(|page| SecretRef::SecretFile(page.0.clone()));
        let users = site.basic_auth.iter().map(|auth| auth.users.clone());
        pages.chain(users).find_map(|file| self.secret(&file))
    }

    /// All ports that a mapping may take have to be allowed, for it may take any of them.
    fn mapping(&self, mapping: &PortMapping) -> Option<String> {
        let port = match (mapping.host_range(), &self.rules.ports) {
            (None, Some(_)) => Some("any free host port".to_owned()),
            (None, None) => None,
            (Some((first, last)), _) => (first..=last).find_map(|port| self.port(port)),
        };
        port.or_else(|| self.address(mapping.address))
    }

    /// A service runs on other hosts, too, and this host cannot check their files.
    fn swarm(&self, swarm: &SwarmSpec, volumes: &[Mount]) -> Option<String> {
        if !self.rules.swarm {
            return Some("services of a swarm".to_owned());
        }
        if let Some(path) = volumes.iter().find_map(Mount::host_path) {
            return Some(format!("mounting {path} in a service, because other hosts have other files"));
        }
        let is_dynamic = swarm.ports == PortMode::Dynamic;
        let port = self.rules.ports.as_ref().filter(|_| is_dynamic).map(|_| "any free host port".to_owned());
        port.or_else(|| self.address(None).filter(|_| is_dynamic))
    }

    /// A port without an address is published on all of them.
    fn address(&self, address: Option<IpAddr>) -> Option<String> {
        let allowed = self.rules.addresses.as_ref()?;
        let address = address.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        (!allowed.contains(&address)).then(|| format!("ports on the address {address}"))
    }

    /// A privileged container has every right, but the settings beside it are judged all the same.
    fn right(&self, right: Right, name: &str) -> Option<String> {
        let rules = &self.rules;
        let listed = |allowed: &[String]| allowed.iter().any(|allowed| fits(name, allowed));
        let (is_allowed, what) = match right {
            Right::Privileged => (rules.privileged, "privileged containers".to_owned()),
            Right::Capability => (listed(&rules.capabilities), format!("the capability `{name}`")),
            Right::Device => (listed(&rules.devices), format!("the device `{name}`")),
            Right::Gpu => (rules.gpus, "GPUs".to_owned()),
            Right::HostNamespace => (listed(&rules.host_namespaces), format!("the host's {name} namespace")),
            Right::SecurityOption => (listed(&rules.security_opt), format!("the security option `{name}`")),
            Right::Sysctl => (listed(&rules.sysctls), format!("the kernel parameter `{name}`")),
            Right::Logging => (listed(&rules.logging), format!("the logging driver `{name}`")),
            Right::Label => (listed(&rules.labels), format!("the label `{name}`")),
            Right::Runtime => (listed(&rules.runtimes), format!("the runtime `{name}`")),
        };
        (!is_allowed).then_some(what)
    }

    fn secret(&self, secret: &SecretRef) -> Option<String> {
        match secret {
            SecretRef::SecretEnv(name) => {
                let is_listed = |allowed: &Vec<String>| allowed.iter().any(|allowed| fits(name, allowed));
                let fits = self.rules.secret_env.as_ref().is_none_or(is_listed);
                (!fits || name.starts_with(OWN_VARIABLES))
                    .then(|| format!("the secret from the variable `{name}`"))
            }
            SecretRef::SecretFile(path) => {
                let fits = self.is_within(path, &self.rules.secret_files);
                (!fits).then(|| format!("the secret from the file {}", path.display()))
            }
        }
    }

    /// Whether a path leads into one of `folders`, and to nothing that no policy can allow.
    fn is_within(&self, path: &Path, folders: &[PathBuf]) -> bool {
        let Some(real) = resolved(path) else { return false };
        let folders = folders.iter().filter_map(|folder| resolved(folder));
        folders.into_iter().any(|folder| real.starts_with(folder)) && !self.is_forbidden(&real)
    }

    /// Whether `path` is, contains or lies in a path that no container may have.
    fn is_forbidden(&self, path: &Path) -> bool {
        let engine = ENGINE.iter().map(PathBuf::from).chain(docker_host());
        let barred = engine.chain(self.own.iter().cloned()).filter_map(|one| resolved(&one));
        path.parent().is_none()
            || KERNEL.iter().any(|kernel| path.starts_with(kernel))
            || barred.into_iter().any(|one| one.starts_with(path) || path.starts_with(one))
    }
}

/// Whether a rule allows a name. A rule with a wildcard allows all names below, at any depth.
fn is_below(rule: &SiteName, name: &SiteName) -> bool {
    let ends_with = |base: &str| {
        let above = name.as_str().strip_suffix(base);
        above.is_some_and(|above| above.ends_with('.'))
    };
    rule == name || rule.wildcard_base().is_some_and(ends_with)
}

fn refusal(what: String) -> String {
    format!("the policy of this host does not allow {what}; its container stays unchanged")
}

/// The socket from the agent's own configuration.
fn docker_host() -> Option<PathBuf> {
    std::env::var("DOCKER_HOST").ok()?.strip_prefix("unix://").map(PathBuf::from)
}

/// Whether `name` equals `pattern`, or starts with it if the pattern ends with `*`.
fn fits(name: &str, pattern: &str) -> bool {
    pattern.strip_suffix('*').map_or(name == pattern, |beginning| name.starts_with(beginning))
}

/// Resolves links in a path. For a path that does not exist yet, the existing part is resolved; with `..` in
/// the rest, the result is unknown.
fn resolved(path: &Path) -> Option<PathBuf> {
    let is_missing = |error: &std::io::Error| error.kind() == ErrorKind::NotFound;
    match path.canonicalize() {
        Ok(real) => return Some(real),
        // The engine may see a path that the agent cannot.
        Err(error) if !is_missing(&error) => return None,
        Err(_) => {}
    }
    let (parent, name) = (path.parent()?, path.file_name()?);
    // A dangling link may lead anywhere tomorrow.
    if !path.symlink_metadata().is_err_and(|error| is_missing(&error)) {
        return None;
    }
    Some(resolved(parent)?.join(name))
}

#[cfg(test)]
mod tests;
