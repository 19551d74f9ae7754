//! Host ports that the manifest wants.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, TcpListener, UdpSocket};

use super::Finding;
use crate::controller::{EngineFacts, RunningContainers};
use crate::model::name::EnvironmentName;
use crate::model::ports::TransportProtocol;
use crate::model::spec::Manifest;

/// A host port that the manifest wants.
struct WantedPort<'m> {
    who: String,
    address: IpAddr,
    port: u16,
    protocol: TransportProtocol,
    /// The environment whose container listens itself, in the host's network.
    environment: Option<&'m EnvironmentName>,
    /// Whether the proxy listens on it.
    is_of_front: bool,
}

impl WantedPort<'_> {
    /// Whether a container of this record has the port, as far as the engine shows it.
    fn is_ours(&self, running: &RunningContainers) -> bool {
        let is_opened = self.environment.is_some_and(|name| running.environments.contains(name.as_str()));
        is_opened
            || self.is_of_front && running.has_front
            || running.published.contains(&(self.protocol, self.port))
    }
}

fn wanted(manifest: &Manifest) -> Vec<WantedPort<'_>> {
    let any = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    let of = |who: &str, address: Option<IpAddr>, port| WantedPort {
        who: who.to_owned(),
        address: address.unwrap_or(any),
        port,
        protocol: TransportProtocol::Tcp,
        environment: None,
        is_of_front: false,
    };
    let mut all = Vec::new();
    for (name, spec) in manifest.environments.iter().filter(|(_, spec)| spec.host.is_none()) {
        let who = format!("environment {name}");
        let is_of_front = manifest.front.is_some();
        let published = spec.publish.iter().map(|publish| of(&who, publish.address, publish.port));
        all.extend(published.map(|wanted| WantedPort { is_of_front, ..wanted }));
        let further = spec.run.ports.iter().filter_map(|port| Some((port.protocol, port.publish()?)));
        all.extend(
            further.map(|(protocol, publish)| WantedPort {
                protocol,
                ..of(&who, publish.address, publish.port)
            }),
        );
        let opened = spec.port.filter(|_| spec.run.settings.network_mode() == Some("host"));
        all.extend(opened.map(|port| WantedPort { environment: Some(name), ..of(&who, None, port) }));
    }
    if let Some(front) = &manifest.front {
        let https = front.https.as_ref().map(|https| https.port);
        let ports = [Some(front.http), https].into_iter().flatten();
        all.extend(ports.map(|port| WantedPort { is_of_front: true, ..of("the proxy", None, port) }));
    }
    let registry = manifest.registry.iter().map(|registry| registry.publish);
    all.extend(registry.map(|publish| of("the managed registry", publish.address, publish.port)));
    all
}

/// Finds ports that somebody else has. `running` are the containers of this record; `is_taken` tries one port.
pub(super) fn judge(
    manifest: &Manifest,
    running: &RunningContainers,
    is_taken: impl Fn(TransportProtocol, IpAddr, u16) -> Option<ErrorKind>,
) -> Vec<Finding> {
    let wanted = wanted(manifest);
    let count = wanted.len();
    let mut findings: Vec<Finding> = wanted
        .into_iter()
        .filter(|wanted| !wanted.is_ours(running))
        .filter_map(|wanted| {
            let WantedPort { who, address, port, protocol, .. } = wanted;
            match is_taken(protocol, address, port)? {
                ErrorKind::AddrInUse => Some(taken(&who, protocol, port)),
                ErrorKind::AddrNotAvailable => Some(Finding::problem(
                    "ports",
                    format!(
                        "{who} needs {address}:{port}, but this host does not have the address {address}"
                    ),
                    "`ip address` lists the addresses of this host: set one of them in `publish`",
                )),
                _ => None,
            }
        })
        .collect();
    if findings.is_empty() && count > 0 {
        findings.push(Finding::ok("ports", format!("{count} needed; no other program uses any of them")));
    }
    findings
}

/// The running containers of the record with this id; of all records, if there is no record yet.
pub(super) fn running(facts: Option<&EngineFacts>, record: Option<&str>) -> RunningContainers {
    let records = facts.into_iter().flat_map(|facts| &facts.records);
    let own = records.filter(|(id, _)| record.is_none_or(|record| record == id.as_str()));
    own.fold(RunningContainers::default(), |mut all, (_, running)| {
        all.has_front |= running.has_front;
        all.environments.extend(running.environments.iter().cloned());
        all.published.extend(&running.published);
        all
    })
}

fn taken(who: &str, protocol: TransportProtocol, port: u16) -> Finding {
    let flags = if protocol == TransportProtocol::Udp { "-lunp" } else { "-ltnp" };
    Finding::problem(
        "ports",
        format!("{who} needs port {port}/{}, but another program uses it", protocol.as_str()),
        format!(
            "`ss {flags} 'sport = :{port}'` shows the program; stop it, or set another port in the manifest"
        ),
    )
}

/// Tries to listen on a port for a moment; `None`: it is free.
pub(super) fn is_taken(protocol: TransportProtocol, address: IpAddr, port: u16) -> Option<ErrorKind> {
    let tried = match protocol {
        TransportProtocol::Tcp => TcpListener::bind((address, port)).map(drop),
        TransportProtocol::Udp => UdpSocket::bind((address, port)).map(drop),
    };
    tried.err().map(|error| error.kind())
}

#[cfg(test)]
mod tests {
    use super::super::Severity;
    use super::*;
    use crate::model::manifest::{SourceFile, parse};

    fn read(text: &str) -> Manifest {
        parse(&[SourceFile { name: "m.toml".into(), text: text.into() }]).unwrap()
    }

    fn facts(record: &str, running: RunningContainers) -> EngineFacts {
        EngineFacts { records: [(record.to_owned(), running)].into(), ..EngineFacts::default() }
    }

    #[test]
    fn only_a_port_used_by_a_foreign_program_is_a_problem() {
        let manifest =
            read("[environment.dev]\ncontainer = \"dev\"\nport = 80\npublish = 8900\nimage = \"a/b:c\"\n");
        let in_use = |_, _, _| Some(ErrorKind::AddrInUse);
        let none = RunningContainers::default();
        let found = judge(&manifest, &none, in_use);
        assert_eq!(found[0].severity, Severity::Problem);
        assert!(
            found[0].message.contains("8900") && found[0].remedy.as_deref().unwrap().contains("ss -ltnp")
        );
        assert_eq!(judge(&manifest, &none, |_, _, _| None)[0].severity, Severity::Ok);
        let published = [(TransportProtocol::Tcp, 8900)].into();
        let facts = facts("own", RunningContainers { published, ..none.clone() });
        for (record, severity) in
            [(Some("own"), Severity::Ok), (None, Severity::Ok), (Some("another"), Severity::Problem)]
        {
            let found = judge(&manifest, &running(Some(&facts), record), in_use);
            assert_eq!(found[0].severity, severity, "{record:?}");
        }
        let proxy = RunningContainers { has_front: true, ..none };
        assert_eq!(judge(&manifest, &proxy, in_use)[0].severity, Severity::Problem, "it has no proxy");
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let tcp = TransportProtocol::Tcp;
        assert_eq!(is_taken(tcp, address.ip(), address.port()), Some(ErrorKind::AddrInUse));
    }

    #[test]
    fn every_kind_of_host_port_is_tried() {
        let manifest = read(
            "[front]\nhttp = 81\n[registry]\nmanaged = true\nimage = \"registry:2\"\npublish = 5000\n\
             [environment.a]\ncontainer = \"aa\"\nport = 80\npublish = 8900\nports = [\"53:53/udp\", \"8443:443\"]\n\
             [environment.b]\ncontainer = \"bb\"\nport = 9000\nnetwork_mode = \"host\"\n",
        );
        let in_use = |_, _, _| Some(ErrorKind::AddrInUse);
        let ports = |running: &RunningContainers| {
            let found = judge(&manifest, running, in_use);
            let words =
                found.iter().filter_map(|found| found.message.split_once("needs port ")?.1.split_once(','));
            words.map(|(port, _)| port.to_owned()).collect::<Vec<_>>()
        };
        let none = RunningContainers::default();
        assert_eq!(ports(&none), ["8900/tcp", "53/udp", "8443/tcp", "9000/tcp", "81/tcp", "5000/tcp"]);
        // The proxy has only its own ports and those that it passes on.
        let proxy = RunningContainers { has_front: true, ..none.clone() };
        assert_eq!(ports(&proxy), ["53/udp", "8443/tcp", "9000/tcp", "5000/tcp"]);
        let environments = ["b".to_owned()].into();
        let published = [(TransportProtocol::Tcp, 53), (TransportProtocol::Tcp, 5000)].into();
        let others = RunningContainers { environments, published, ..none };
        assert_eq!(ports(&others), ["8900/tcp", "53/udp", "8443/tcp", "81/tcp"]);
    }
}
