//! Whether abide can reach the addresses of this engine's containers.

use bollard::models::SystemInfo;

use super::{Engine, QUICK, Result, within};

/// How abide can reach the programs in this engine's containers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ContainerReach {
    /// At the containers' own addresses.
    Direct,
    /// Only at ports that the engine publishes. The containers' addresses belong to another network, and the
    /// same address may be in use by something else here.
    Published {
        /// The host on which the ports are published.
        host: String,
        /// The reason why direct access is not possible, as a clause.
        why: &'static str,
    },
}

impl Engine {
    /// Sets how the containers can be reached.
    #[cfg(test)]
    pub(crate) fn reached(self, reach: ContainerReach) -> Self {
        Self { reach: tokio::sync::RwLock::new(Some(reach)), ..self }
    }

    /// Returns how the containers can be reached. It asks once for each connection.
    pub(crate) async fn reach(&self) -> Result<ContainerReach> {
        if let Some(known) = &*self.reach.read().await {
            return Ok(known.clone());
        }
        // Concurrent callers wait for this one answer.
        let mut slot = self.reach.write().await;
        if let Some(known) = &*slot {
            return Ok(known.clone());
        }
        let docker = self.docker().await?;
        let host = self.host.clone().or_else(|| std::env::var("DOCKER_HOST").ok()).unwrap_or_default();
        let info = within("report its settings", QUICK, docker.info()).await?;
        let found = reach(&host, &info);
        *slot = Some(found.clone());
        Ok(found)
    }
}

fn reach(host: &str, info: &SystemInfo) -> ContainerReach {
    let here = |why| ContainerReach::Published { host: "127.0.0.1".to_owned(), why };
    if let Some(host) = remote(host) {
        return ContainerReach::Published { host, why: "the Docker Engine is on another host" };
    }
    let options = info.security_options.as_deref().unwrap_or_default();
    if options.iter().any(|option| option.split(',').any(|part| part == "name=rootless")) {
        return here("the Docker Engine runs rootless, in a separate network");
    }
    if info.operating_system.as_deref() == Some("Docker Desktop") {
        return here("Docker Desktop runs containers in a virtual machine");
    }
    ContainerReach::Direct
}

/// Returns the host of an engine that does not listen on this host.
fn remote(address: &str) -> Option<String> {
    let (scheme, rest) = address.split_once("://")?;
    if !matches!(scheme, "tcp" | "http" | "https" | "ssh") {
        return None;
    }
    let authority = rest.split('/').next().unwrap_or(rest);
    let authority = authority.rsplit('@').next().unwrap_or(authority);
    let host = match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, _)) => host,
        None => authority.split(':').next().unwrap_or(authority),
    };
    let is_here = host.is_empty()
        || host == "localhost"
        || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
    (!is_here).then(|| host.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_local_engine_on_the_host_network_is_reached_directly() {
        let plain = SystemInfo::default();
        for here in ["", "unix:///var/run/docker.sock", "tcp://127.0.0.1:2375", "tcp://[::1]:2375"] {
            assert_eq!(reach(here, &plain), ContainerReach::Direct, "{here}");
        }
        for (there, name) in [
            ("tcp://10.0.0.7:2375", "10.0.0.7"),
            ("tcp://[fd00::7]:2375", "fd00::7"),
            ("ssh://root@build.example", "build.example"),
        ] {
            assert!(
                matches!(reach(there, &plain), ContainerReach::Published { host, .. } if host == name),
                "{there}"
            );
        }
        let rootless = SystemInfo {
            security_options: Some(vec!["name=seccomp,profile=default".into(), "name=rootless".into()]),
            ..SystemInfo::default()
        };
        assert!(matches!(reach("", &rootless), ContainerReach::Published { .. }));
        let desktop = SystemInfo { operating_system: Some("Docker Desktop".into()), ..SystemInfo::default() };
        assert!(matches!(reach("", &desktop), ContainerReach::Published { .. }));
    }
}
