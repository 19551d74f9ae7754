//! The holder: a container that does nothing but keep a network namespace, for others to join.
//!
//! It owns the published port, the extra hosts and the alias in the managed network, as the pause
//! container of a Kubernetes pod does. The program of an environment can then end, be started again
//! or be replaced without losing its address, and without the second that it costs until the host
//! finds the new one.

use std::collections::BTreeMap;

use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::container::{ContainerOptions, label};
use super::name::{ContainerName, EnvironmentName, NetworkName};
use super::spec::Publish;

/// A holder as abide makes it: what a container of these options would own of the network itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HolderSpec {
    /// The environment that it serves.
    pub environment: EnvironmentName,
    /// The record that it belongs to.
    pub record: String,
    /// Where the program in it listens; `None`: nowhere.
    pub port: Option<u16>,
    /// Where that is published.
    pub publish: Option<Publish>,
    /// `host:address` lines.
    pub extra_hosts: Vec<String>,
    /// The network it joins ...
    pub network: NetworkName,
    /// ... under this alias.
    pub alias: ContainerName,
}

impl HolderSpec {
    /// The holder for a container of these options.
    pub fn of(options: &ContainerOptions) -> Self {
        Self {
            environment: options.environment.clone(),
            record: options.record.clone(),
            port: options.port,
            publish: options.publish,
            extra_hosts: options.extra_hosts.clone(),
            network: options.network.clone(),
            alias: options.name.clone(),
        }
    }

    /// A hash of all that needs a new holder when it changes, kept as the label [`label::SPEC`].
    /// The image is no part of it: a later abide with another holder program leaves this one alone.
    pub fn fingerprint(&self) -> String {
        #[derive(Serialize)]
        struct Fingerprint<'a> {
            #[serde(skip_serializing_if = "Option::is_none")]
            port: Option<u16>,
            #[serde(skip_serializing_if = "Option::is_none")]
            publish: &'a Option<Publish>,
            #[serde(skip_serializing_if = "Vec::is_empty")]
            extra_hosts: &'a Vec<String>,
            network: &'a NetworkName,
            alias: &'a ContainerName,
        }
        let Self { port, publish, extra_hosts, network, alias, .. } = self;
        let of = Fingerprint { port: *port, publish, extra_hosts, network, alias };
        hex::encode(Sha256::digest(serde_json::to_vec(&of).unwrap_or_default()))
    }

    /// The labels that say whose it is and with which options.
    pub fn labels(&self) -> BTreeMap<String, String> {
        BTreeMap::from([
            (label::ENVIRONMENT.to_owned(), self.environment.to_string()),
            (label::RECORD.to_owned(), self.record.clone()),
            (label::ROLE.to_owned(), label::HOLDER.to_owned()),
            (label::SPEC.to_owned(), self.fingerprint()),
        ])
    }
}
