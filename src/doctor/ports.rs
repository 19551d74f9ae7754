//! Host ports that the manifest wants.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, TcpListener};

use super::Finding;
use crate::controller::EngineFacts;
use crate::model::ports::{PortMapping, TransportProtocol};
use crate::model::spec::Manifest;

/// Finds ports that somebody else has. `is_taken` tries one.
pub(super) fn judge(
    manifest: &Manifest,
    facts: Option<&EngineFacts>,
    is_taken: impl Fn(IpAddr, u16) -> Option<ErrorKind>,
) -> Vec<Finding> {
    let any = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    let here = manifest.environments.iter().filter(|(_, spec)| spec.host.is_none());
    let published = here.flat_map(|(name, spec)| {
        let further = spec.run.ports.iter().filter(|port| port.protocol == TransportProtocol::Tcp);
        let all = spec.publish.into_iter().chain(further.filter_map(PortMapping::publish));
        all.map(move |publish| (format!("environment {name}"), publish.address.unwrap_or(any), publish.port))
    });
    let front = manifest.front.iter().flat_map(|front| {
        let https = front.https.as_ref().map(|https| https.port);
        [Some(front.http), https].into_iter().flatten().map(|port| ("the proxy".to_owned(), any, port))
    });
    let wanted: Vec<_> = published.chain(front).collect();
    let ours = |port| facts.is_some_and(|facts| facts.has_front || facts.published_by_abide.contains(&port));
    let count = wanted.len();
    let mut findings: Vec<Finding> = wanted
        .into_iter()
        .filter(|(_, _, port)| !ours(*port))
        .filter_map(|(who, address, port)| match is_taken(address, port)? {
            ErrorKind::AddrInUse => Some(taken(&who, port)),
            ErrorKind::AddrNotAvailable => Some(Finding::problem(
                "ports",
                format!("{who} needs {address}:{port}, but this host does not have the address {address}"),
                "`ip address` lists the addresses of this host: set one of them in `publish`",
            )),
            _ => None,
        })
        .collect();
    if findings.is_empty() && count > 0 {
        findings.push(Finding::ok("ports", format!("{count} needed; no other program uses any of them")));
    }
    findings
}

fn taken(who: &str, port: u16) -> Finding {
    Finding::problem(
        "ports",
        format!("{who} needs port {port}, but another program uses it"),
        format!(
            "`ss -ltnp 'sport = :{port}'` shows the program; stop it, or set another port in \
            `publish`"
        ),
    )
}

/// Tries to listen on a port for a moment; `None`: it is free.
pub(super) fn is_taken(address: IpAddr, port: u16) -> Option<ErrorKind> {
    TcpListener::bind((address, port)).err().map(|error| error.kind())
}

#[cfg(test)]
mod tests {
    use super::super::Severity;
    use super::*;
    use crate::model::manifest::{SourceFile, parse};

    #[test]
    fn only_a_port_used_by_a_foreign_program_is_a_problem() {
        let text = "[environment.dev]\ncontainer = \"dev\"\nport = 80\npublish = 8900\nimage = \"a/b:c\"\n";
        let manifest = parse(&[SourceFile { name: "m.toml".into(), text: text.into() }]).unwrap();
        let taken = |_, _| Some(ErrorKind::AddrInUse);
        let free = |_, _| None;
        let found = judge(&manifest, None, taken);
        assert_eq!(found[0].severity, Severity::Problem);
        assert!(
            found[0].message.contains("8900") && found[0].remedy.as_deref().unwrap().contains("ss -ltnp")
        );
        assert_eq!(judge(&manifest, None, free)[0].severity, Severity::Ok);
        let ours = EngineFacts { published_by_abide: [8900].into(), ..EngineFacts::default() };
        assert_eq!(judge(&manifest, Some(&ours), taken)[0].severity, Severity::Ok);
        let proxy = EngineFacts { has_front: true, ..EngineFacts::default() };
        assert_eq!(judge(&manifest, Some(&proxy), taken)[0].severity, Severity::Ok);
        let none = EngineFacts::default();
        assert_eq!(judge(&manifest, Some(&none), taken)[0].severity, Severity::Problem);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        assert_eq!(is_taken(address.ip(), address.port()), Some(ErrorKind::AddrInUse));
    }
}
