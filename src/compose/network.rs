//! Ports and networks.

use serde_json::{Map, Value, json};

use super::draft::EnvironmentDraft;
use super::project::ComposeProject;
use super::service::Context;
use super::yaml::{Node, YamlKind};
use crate::model::name::ContainerName;
use crate::model::ports::{HostPort, PortMapping, TransportProtocol};

pub(super) fn convert(draft: &mut EnvironmentDraft, context: &mut Context<'_>, name: &str, service: &Node) {
    let mode = service.get_text("network_mode");
    match mode {
        Some(mode @ ("host" | "none")) => {
            draft.set("network_mode", mode);
            if service.get("ports").is_some_and(|ports| !ports.items().is_empty()) {
                draft.change("`ports` are left out: with `network_mode` there are none");
            }
        }
        Some(mode) if mode.starts_with("service:") || mode.starts_with("container:") => {
            draft.lose(format!("`network_mode: {mode}`: it shares the network of another container"));
        }
        mode => {
            if let Some(mode) = mode {
                draft.change(format!("`network_mode: {mode}`: it joins abide's network instead"));
            }
            ports(draft, service);
            networks(draft, context.project, name, service, mode.is_none());
        }
    }
    if let Some(hostname) = service.get_text("hostname") {
        draft.set("container_hostname", hostname);
    }
    hosts(draft, service);
    if service.get("external_links").is_some() {
        draft.lose("`external_links` has no counterpart: join a network with that container");
    }
}

fn ports(draft: &mut EnvironmentDraft, service: &Node) {
    let (mut texts, mut mappings) = (Vec::new(), Vec::new());
    for item in service.get("ports").map(Node::items).unwrap_or_default() {
        let text = short_form(item);
        match PortMapping::parse_all(&text) {
            Ok(all) => {
                mappings.extend(all);
                texts.push(text);
            }
            Err(_) => match item.scalar().map(|scalar| scalar.unset.as_slice()) {
                Some([variable, ..]) => draft.lose(format!("a port needs {variable}: set it in `.env`")),
                _ => draft.lose(format!("`{text}` of `ports` is not a port that abide can publish")),
            },
        }
    }
    let first = mappings.iter().find(|mapping| mapping.protocol == TransportProtocol::Tcp);
    if let Some(first) = first {
        draft.set("port", first.container);
    }
    match mappings.as_slice() {
        [] => {}
        [PortMapping { protocol: TransportProtocol::Tcp, host: HostPort::Is(host), address, container }] => {
            match address {
                None if host == container => {}
                None => draft.set("publish", *host),
                Some(address) => draft.set("publish", std::net::SocketAddr::new(*address, *host).to_string()),
            }
        }
        _ => draft.set("ports", texts),
    }
}

/// The short form of a port; a table becomes one too.
fn short_form(item: &Node) -> String {
    let YamlKind::Map(_) = item.kind else { return item.text().unwrap_or_default().to_owned() };
    let part = |key: &str| item.get_text(key).unwrap_or_default();
    let (host, target, protocol) = (part("published"), part("target"), part("protocol"));
    let address = match part("host_ip") {
        "" => String::new(),
        v6 if v6.contains(':') => format!("[{v6}]:"),
        v4 => format!("{v4}:"),
    };
    let host = if host.is_empty() && address.is_empty() { String::new() } else { format!("{host}:") };
    let protocol = if protocol.is_empty() { String::new() } else { format!("/{protocol}") };
    format!("{address}{host}{target}{protocol}")
}

fn networks(
    draft: &mut EnvironmentDraft,
    project: &ComposeProject,
    name: &str,
    service: &Node,
    has_default: bool,
) {
    let mut joined = Map::new();
    let declared = service.get("networks").map(Node::entries).unwrap_or_default();
    let default = [("default".to_owned(), Node::new(service.line, YamlKind::Null))];
    let all = if declared.is_empty() && has_default { &default[..] } else { declared };
    let mut names = vec![name.to_owned()];
    let container = service.get_text("container_name").filter(|name| ContainerName::new(*name).is_ok());
    names.extend(container.map(str::to_owned));
    names.extend(links(project, name));
    let mut are_internal = !all.is_empty();
    for (network, options) in all {
        let real = real_name(project, network);
        if ["host", "none", "bridge"].contains(&real.as_str()) {
            draft.lose(format!("the network `{real}` is the engine's own"));
            continue;
        }
        are_internal &= prepare(draft, project, network, &real);
        let mut aliases = names.clone();
        let more = options.get("aliases").map(Node::items).unwrap_or_default();
        aliases.extend(more.iter().filter_map(Node::text).map(str::to_owned));
        aliases.sort();
        aliases.dedup();
        let mut attachment = Map::from_iter([("aliases".to_owned(), Value::from(aliases))]);
        for key in ["ipv4_address", "ipv6_address"] {
            if let Some(address) = options.get_text(key) {
                attachment.insert(key.to_owned(), Value::from(address));
            }
        }
        for key in ["mac_address", "link_local_ips", "driver_opts"] {
            if options.get(key).is_some() {
                draft.lose(format!("`{key}` in a network has no counterpart"));
            }
        }
        joined.insert(real, Value::from(attachment));
    }
    if are_internal {
        draft.lose("all its networks are `internal`, and abide's own network reaches the outside");
    }
    if !joined.is_empty() {
        draft.set("networks", Value::from(joined));
    }
}

/// The names by which `links` of other services call this one.
fn links(project: &ComposeProject, name: &str) -> Vec<String> {
    let links = project
        .services
        .iter()
        .flat_map(|(_, other)| other.get("links").map(Node::items).unwrap_or_default());
    let alias = |link: &Node| {
        let (service, alias) = link.text()?.split_once(':')?;
        (service == name).then(|| alias.to_owned())
    };
    links.filter_map(alias).collect()
}

/// What the file declares of a service's networks.
pub(super) fn declarations<'a>(
    project: &'a ComposeProject,
    service: &'a Node,
) -> impl Iterator<Item = &'a Node> {
    let joined = service.get("networks").map(Node::entries).unwrap_or_default().iter();
    joined.filter_map(|(name, _)| project.declared(&project.networks, name))
}

/// The engine's name of a network.
pub(super) fn real_name(project: &ComposeProject, network: &str) -> String {
    let declared = project.declared(&project.networks, network);
    let external = declared.and_then(|it| it.get("external"));
    let named =
        declared.and_then(|it| it.get_text("name")).or_else(|| external.and_then(|it| it.get_text("name")));
    let is_external = external.is_some_and(|it| it.flag() != Some(false));
    match named {
        Some(name) => name.to_owned(),
        None if is_external => network.to_owned(),
        None => format!("{}_{network}", project.name),
    }
}

/// Adds the command that creates a network with options. Returns whether it is internal.
fn prepare(draft: &mut EnvironmentDraft, project: &ComposeProject, network: &str, real: &str) -> bool {
    let Some(declared) = project.declared(&project.networks, network) else { return false };
    if declared.get("external").is_some_and(|it| it.flag() != Some(false)) {
        return false;
    }
    let mut options = Vec::new();
    if let Some(driver) = declared.get_text("driver").filter(|driver| *driver != "bridge") {
        options.push(format!("--driver {driver}"));
    }
    let is_internal = declared.get("internal").and_then(Node::flag) == Some(true);
    let flags = [("internal", "--internal"), ("enable_ipv6", "--ipv6"), ("attachable", "--attachable")];
    for (key, flag) in flags {
        if declared.get(key).and_then(Node::flag) == Some(true) {
            options.push(flag.to_owned());
        }
    }
    for config in
        declared.get("ipam").and_then(|ipam| ipam.get("config")).map(Node::items).unwrap_or_default()
    {
        for (key, flag) in [("subnet", "--subnet"), ("gateway", "--gateway"), ("ip_range", "--ip-range")] {
            options.extend(config.get_text(key).map(|value| format!("{flag} {value}")));
        }
    }
    for (key, value) in declared.get("driver_opts").map(Node::entries).unwrap_or_default() {
        options.push(format!("--opt {key}={}", value.text().unwrap_or_default()));
    }
    if !options.is_empty() {
        draft.act(format!("unless the network exists: docker network create {} {real}", options.join(" ")));
    }
    is_internal
}

fn hosts(draft: &mut EnvironmentDraft, service: &Node) {
    let mut hosts = Vec::new();
    for (name, addresses) in service.get("extra_hosts").map(Node::entries).unwrap_or_default() {
        for address in addresses.one_or_many() {
            hosts.push(json!(format!("{name}:{}", address.text().unwrap_or_default())));
        }
    }
    if !hosts.is_empty() {
        draft.set("extra_hosts", hosts);
    }
}
