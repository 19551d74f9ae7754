//! The files that abide wrote: the containers that are meant to run, and the routes of the proxy.

use std::path::Path;
use std::{fs, io};

use super::containers::{address, replaced};

/// The prefix of the file names of environments.
const ENVIRONMENT: &str = "environment.";
/// The file of the managed proxy.
const FRONT: &str = "front";
/// The file of the managed registry.
const REGISTRY: &str = "registry";
/// An address on which nothing answers, for a container without an address.
const NOWHERE: &str = "127.0.0.1:1";

/// A container that is meant to run, and the sandbox whose network namespace it joins.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct ListedGroup {
    /// The environment; `None` if the container belongs to none.
    pub(super) environment: Option<String>,
    pub(super) container: String,
    pub(super) sandbox: Option<String>,
    /// Whether it may run beside another container of the environment.
    pub(super) is_beside: bool,
    /// Whether it stays ended once it ended with exit code 0.
    pub(super) may_end: bool,
}

impl ListedGroup {
    /// Parses a file that abide wrote; `None` for any other file.
    pub(super) fn parse(name: &str, text: &str) -> Option<Self> {
        let environment = name.strip_prefix(ENVIRONMENT).map(str::to_owned);
        let mut group = Self { environment, ..Self::default() };
        for line in text.lines() {
            match line.split(' ').collect::<Vec<_>>().as_slice() {
                ["container", id] if is_id(id) => group.container = (*id).to_owned(),
                ["sandbox", id] if is_id(id) => group.sandbox = Some((*id).to_owned()),
                ["beside"] => group.is_beside = true,
                ["may-end"] => group.may_end = true,
                _ => return None,
            }
        }
        (!group.container.is_empty()).then_some(group)
    }
}

/// The managed proxy.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct ListedFront {
    pub(super) container: String,
    /// The file of its configuration, relative to the root of its container.
    pub(super) path: String,
    pub(super) routes: Vec<ListedRoute>,
    pub(super) configuration: String,
}

/// An environment's route in the proxy's configuration.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ListedRoute {
    pub(super) environment: String,
    pub(super) container: String,
    /// IP address and port.
    pub(super) address: String,
    /// The network in which the proxy reaches the container.
    pub(super) network: String,
}

impl ListedFront {
    /// Parses the file that abide wrote; `None` for any other file.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (head, configuration) = text.split_once("\n\n")?;
        let mut front = Self { configuration: configuration.to_owned(), ..Self::default() };
        for line in head.lines() {
            match line.split(' ').collect::<Vec<_>>().as_slice() {
                ["container", id] if is_id(id) => front.container = (*id).to_owned(),
                ["path", path] => front.path = (*path).to_owned(),
                ["route", environment, id, address, network] => front.routes.push(ListedRoute {
                    environment: (*environment).to_owned(),
                    container: (*id).to_owned(),
                    address: (*address).to_owned(),
                    network: (*network).to_owned(),
                }),
                _ => return None,
            }
        }
        (!front.container.is_empty()).then_some(front)
    }

    /// Returns the configuration with the containers' current addresses.
    pub(super) fn readdressed(&self, groups: &[ListedGroup]) -> Result<String, String> {
        let mut addresses = Vec::new();
        for route in &self.routes {
            let group = groups.iter().find(|group| group.environment.as_ref() == Some(&route.environment));
            let container = group.map_or(&route.container, |group| &group.container);
            let port = route.address.rsplit_once(':').map_or("", |(_, port)| port);
            let now = address(container, &route.network)?;
            let now = now.map_or(NOWHERE.to_owned(), |ip| format!("{ip}:{port}"));
            addresses.push((route.address.clone(), now));
        }
        Ok(replaced(&self.configuration, &addresses))
    }
}

/// Returns whether the text is an id. Only ids become part of a request's target.
pub(super) fn is_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

pub(super) fn read_groups(folder: &Path) -> Vec<ListedGroup> {
    let Ok(files) = fs::read_dir(folder) else { return Vec::new() };
    let mut names: Vec<String> =
        files.flatten().filter_map(|file| file.file_name().into_string().ok()).collect();
    names.sort();
    let read = |name: &String| ListedGroup::parse(name, &fs::read_to_string(folder.join(name)).ok()?);
    names.iter().filter(|name| *name != FRONT).filter_map(read).collect()
}

pub(super) fn read_front(folder: &Path) -> Option<ListedFront> {
    ListedFront::parse(&fs::read_to_string(folder.join(FRONT)).ok()?)
}

pub(super) fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let is_kept = |name: &str| name == FRONT || name == REGISTRY || name.starts_with(ENVIRONMENT);
    let names = |folder: &Path| -> io::Result<Vec<String>> {
        let names = fs::read_dir(folder)?.flatten().filter_map(|file| file.file_name().into_string().ok());
        Ok(names.filter(|name| is_kept(name)).collect())
    };
    let present = names(from)?;
    for name in &present {
        let fresh = to.join(".fresh");
        fs::write(&fresh, fs::read(from.join(name))?)?;
        fs::rename(&fresh, to.join(name))?;
    }
    for name in names(to)?.into_iter().filter(|name| !present.contains(name)) {
        fs::remove_file(to.join(name))?;
    }
    Ok(())
}
