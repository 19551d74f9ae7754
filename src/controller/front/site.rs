//! The sites of the environments, and the sockets on which the front listens for them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::model::front::Route;
use crate::model::name::{EnvironmentName, Generation, GroupName, InvalidName, SiteName, name};
use crate::model::site::{ErrorStatus, SitePath, SiteSettings};
use crate::model::spec::{EnvironmentSpec, HttpsMode, Publish};
use crate::model::wire;

/// An environment as served by the front.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Site {
    /// Its host names.
    #[serde(
        default,
        alias = "hostname",
        deserialize_with = "wire::site_names",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub(crate) hostnames: Vec<SiteName>,
    /// Whether clients must use HTTPS for them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) https: Option<HttpsMode>,
    /// How its requests are treated.
    #[serde(default, skip_serializing_if = "SiteSettings::is_default")]
    pub(crate) settings: SiteSettings,
    /// The files of the front's folder that the settings need.
    #[serde(default, skip_serializing_if = "SiteFileNames::is_empty")]
    pub(crate) files: SiteFileNames,
    /// Whether the front answers all requests itself.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) maintenance: bool,
    /// Its own port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) publish: Option<Publish>,
    /// The declaration that it is a replica of; `None`: it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) replica_of: Option<GroupName>,
    /// Whether it is a service of a swarm, with replicas of its own.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) is_service: bool,
    /// The route of its requests; `None` if no container is ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) route: Option<Route>,
}

name!(
    /// The name of a file in the front's folder.
    FrontFile, "file of the proxy",
    "a-z 0-9 - .",
    |t| !t.is_empty() && t.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.".contains(&b))
);

/// The files of the front's folder that a site needs. Their names depend on their content.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SiteFileNames {
    /// Users and hashes of their passwords.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) users: Option<FrontFile>,
    /// Pages by status.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) pages: BTreeMap<ErrorStatus, FrontFile>,
}

impl SiteFileNames {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// All environments that the front serves.
pub(crate) type Sites = BTreeMap<EnvironmentName, Site>;

impl Site {
    /// Returns the site of a declared environment; `None` if the front does not serve it, because it runs on
    /// another host, or has neither a host name nor a published port. It serves a service of a swarm only if each of its
    /// replicas has a port of its own.
    pub(crate) fn of(spec: &EnvironmentSpec, route: Option<Route>) -> Option<Self> {
        let (hostnames, publish, https) = (spec.hostnames.clone(), spec.publish, spec.https);
        let is_here = spec.host.is_none() && spec.can_be_proxied();
        let is_served = is_here && (!hostnames.is_empty() || publish.is_some());
        let (settings, files) = (spec.site.clone(), SiteFileNames::default());
        let replica_of = spec.replica.as_ref().map(|slot| slot.of.clone());
        is_served.then_some(Self {
            hostnames,
            https,
            settings,
            files,
            maintenance: false,
            publish,
            replica_of,
            is_service: spec.swarm.is_some(),
            route,
        })
    }

    /// The name that other names are redirected to.
    pub(crate) fn target(&self) -> Option<&SiteName> {
        self.hostnames.iter().find(|name| name.wildcard_base().is_none())
    }

    /// The page for an answer of the proxy.
    pub(crate) fn page(&self, status: u16) -> Option<&FrontFile> {
        self.files.pages.get(&ErrorStatus::try_from(status).ok()?)
    }

    /// Whether the front answers all requests itself, because maintenance is on, or the passwords that protect the
    /// site are unknown.
    fn is_closed(&self) -> bool {
        self.maintenance || (self.settings.basic_auth.is_some() && self.files.users.is_none())
    }

    /// The declared name of an environment: that of its replicas, or its own.
    fn declared<'a>(&'a self, environment: &'a EnvironmentName) -> &'a str {
        self.replica_of.as_ref().map_or(environment.as_str(), GroupName::as_str)
    }

    /// The names that lead to it, with the path below which they do.
    fn addresses(&self) -> impl Iterator<Item = (&SiteName, Option<&SitePath>)> {
        let path = self.settings.path.as_ref();
        let own = self.hostnames.iter().map(move |name| (name, path));
        own.chain(self.settings.redirect_from.iter().map(|name| (name, None)))
    }

    /// Returns the sockets of its own port.
    pub(crate) fn listens(&self, has_ipv6: bool) -> Vec<SocketAddr> {
        self.publish.map(|publish| listens(publish, has_ipv6)).unwrap_or_default()
    }
}

/// The containers that share the requests of a site: one, or all replicas.
pub(crate) struct SitePool<'a> {
    /// The environment of the first of them.
    environment: &'a str,
    /// The site of the first of them. All are declared alike.
    pub(crate) site: &'a Site,
    /// The routes to the ready ones.
    routes: Vec<&'a Route>,
    /// The declared name, if there may be several.
    replicas: Option<&'a str>,
}

/// The pools by the environment of their first site.
pub(crate) type SitePools<'a> = BTreeMap<&'a str, SitePool<'a>>;

/// Returns the pools of all sites.
pub(crate) fn pools(sites: &Sites) -> SitePools<'_> {
    let mut firsts: BTreeMap<&str, &str> = BTreeMap::new();
    let mut pools = SitePools::new();
    for (environment, site) in sites {
        let declared = site.declared(environment);
        let first = *firsts.entry(declared).or_insert(environment.as_str());
        let pool = pools.entry(first).or_insert_with(|| SitePool {
            environment: first,
            site,
            routes: Vec::new(),
            replicas: None,
        });
        pool.routes.extend(&site.route);
        if site.replica_of.is_some() || site.is_service {
            pool.replicas = Some(declared);
        }
    }
    pools
}

impl SitePool<'_> {
    /// The target of requests, as nginx names it; `None`: the front answers, because no container is ready or the
    /// site is closed.
    pub(crate) fn passes_to(&self) -> Option<String> {
        let first = self.routes.first().filter(|_| !self.site.is_closed())?;
        Some(self.upstream_name().unwrap_or_else(|| first.address.to_string()))
    }

    /// The name of the containers among which nginx chooses; `None`: there is only one.
    fn upstream_name(&self) -> Option<String> {
        if self.routes.first()?.canary.is_some() {
            // No environment has a dot in its name, so no other zone has this one.
            return Some(format!("abide-{}.canary", self.environment));
        }
        self.replicas.map(|declared| format!("abide-{declared}"))
    }

    /// The containers among which nginx chooses; `None`: there is only one, or none is ready.
    pub(crate) fn upstream(&self) -> Option<UpstreamGroup> {
        let first = self.routes.first()?;
        let name = self.upstream_name()?;
        if let Some(canary) = &first.canary {
            let percent = canary.percent.get();
            return Some(UpstreamGroup {
                name,
                choice: UpstreamChoice::Canary(canary.generation),
                // In this order and with this sum, a larger share moves nobody from the canary back.
                servers: vec![(first.address, Some(100 - percent)), (canary.address, Some(percent))],
            });
        }
        let is_sticky = self.site.settings.sticky;
        Some(UpstreamGroup {
            name,
            choice: if is_sticky { UpstreamChoice::Sticky } else { UpstreamChoice::LeastBusy },
            servers: self
                .routes
                .iter()
                .flat_map(|route| route.addresses())
                .map(|address| (address, None))
                .collect(),
        })
    }
}

/// Containers among which nginx chooses.
pub(crate) struct UpstreamGroup {
    /// Its name in the configuration.
    pub(crate) name: String,
    /// How nginx chooses.
    pub(crate) choice: UpstreamChoice,
    /// The addresses, with their weights if they are not alike.
    pub(crate) servers: Vec<(SocketAddr, Option<u8>)>,
}

/// How nginx chooses among containers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum UpstreamChoice {
    /// The one with the fewest requests.
    LeastBusy,
    /// The same for each client, by a cookie.
    Sticky,
    /// The same version for each visitor, by a cookie. Each generation has other visitors.
    Canary(Generation),
}

impl UpstreamChoice {
    /// The name of the cookie; `None`: it needs none.
    pub(crate) fn cookie(self) -> Option<&'static str> {
        match self {
            Self::LeastBusy => None,
            Self::Sticky => Some("replica"),
            Self::Canary(_) => Some("canary"),
        }
    }
}

/// Returns the sockets of a published port. Without an address these are all addresses of both families, as
/// in Docker.
pub(crate) fn listens(publish: Publish, has_ipv6: bool) -> Vec<SocketAddr> {
    let addresses = match publish.address {
        Some(address) => vec![address],
        None if has_ipv6 => vec![IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)],
        None => vec![IpAddr::V4(Ipv4Addr::UNSPECIFIED)],
    };
    addresses.into_iter().map(|address| SocketAddr::new(address, publish.port)).collect()
}

/// Adds the environments of `before` that this host no longer runs but that still have a container
/// (`is_there`), because an edit of the manifest does not end their service. An environment that conflicts with a
/// declared one is left out, unless both have the same declared name, because replicas were added or removed: it
/// serves until the first declared one does.
pub(crate) fn keep_orphans(sites: &mut Sites, before: &Sites, is_there: impl Fn(&EnvironmentName) -> bool) {
    let ports: BTreeSet<u16> = sites.values().filter_map(|site| Some(site.publish?.port)).collect();
    let addresses: BTreeSet<_> = sites.values().flat_map(Site::addresses).collect();
    let is_kept = |(environment, site): &(&EnvironmentName, &Site)| {
        let in_the_way = site.publish.is_some_and(|publish| ports.contains(&publish.port))
            || site.addresses().any(|address| addresses.contains(&address));
        let is_replaced = || {
            let declared = site.declared(environment);
            let mut same = sites.iter().filter(|(name, other)| other.declared(name) == declared).peekable();
            same.peek().is_some() && same.all(|(_, other)| other.route.is_none())
        };
        !sites.contains_key(*environment) && (!in_the_way || is_replaced()) && is_there(environment)
    };
    let kept: Vec<_> = before.iter().filter(is_kept).collect();
    sites.extend(kept.into_iter().map(|(environment, site)| (environment.clone(), site.clone())));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn site(hostname: &str, port: u16) -> Site {
        Site {
            hostnames: vec![SiteName::new(hostname).unwrap()],
            https: None,
            settings: SiteSettings::default(),
            files: SiteFileNames::default(),
            maintenance: false,
            publish: Some(Publish { address: None, port }),
            replica_of: None,
            is_service: false,
            route: None,
        }
    }

    fn sites(of: &[(&str, &str, u16)]) -> Sites {
        let named = |(name, host, port): &(&str, &str, u16)| {
            (EnvironmentName::new(*name).unwrap(), site(host, *port))
        };
        of.iter().map(named).collect()
    }

    #[test]
    fn an_undeclared_site_keeps_being_served_unless_it_conflicts() {
        let before = sites(&[
            ("dev", "old.example", 1),
            ("orphan", "orphan.example", 2),
            ("gone", "gone.example", 3),
            ("port", "port.example", 8900),
            ("host", "dev.example", 4),
        ]);
        let mut now = sites(&[("dev", "dev.example", 8900)]);
        keep_orphans(&mut now, &before, |environment| environment.as_str() != "gone");
        assert_eq!(now, sites(&[("dev", "dev.example", 8900), ("orphan", "orphan.example", 2)]));
    }

    #[test]
    fn a_site_of_an_earlier_version_is_read() {
        let read: Site = serde_json::from_str(r#"{"hostname":"dev.example"}"#).unwrap();
        assert_eq!(read.hostnames, [SiteName::new("dev.example").unwrap()]);
        let written = serde_json::to_string(&read).unwrap();
        assert_eq!(serde_json::from_str::<Site>(&written).unwrap(), read);
    }

    #[test]
    fn published_ports_bind_as_in_docker() {
        let all = Publish { address: None, port: 80 };
        let shown =
            |publish, ipv6| listens(publish, ipv6).iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(shown(all, true), ["0.0.0.0:80", "[::]:80"]);
        assert_eq!(shown(all, false), ["0.0.0.0:80"]);
        let one = Publish { address: Some(Ipv6Addr::LOCALHOST.into()), port: 80 };
        assert_eq!(shown(one, false), ["[::1]:80"]);
    }
}
