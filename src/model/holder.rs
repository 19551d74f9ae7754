//! The sandbox (`holder`): a container that only keeps a network namespace, which other containers join.
//!
//! It owns the published port, the extra hosts and the alias in the managed network, like the pause container
//! of a Kubernetes pod. The program of an environment can therefore end, restart or be replaced without
//! losing its address. It also saves the second until the host finds a new address.

use std::collections::BTreeMap;

use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::container::{ContainerOptions, label};
use super::name::{ContainerName, EnvironmentName, NetworkName};
use super::network::Attachments;
use super::spec::{PortMapping, Publish, RunOptions};

/// A sandbox as abide creates it. It owns the network options that the container itself would have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HolderSpec {
    /// Its environment.
    pub environment: EnvironmentName,
    /// The record that it belongs to.
    pub record: String,
    /// The port of the program in it; `None` if it does not listen.
    pub port: Option<u16>,
    /// The published address of that port.
    pub publish: Option<Publish>,
    /// `host:address` lines.
    pub extra_hosts: Vec<String>,
    /// The network that it joins.
    pub network: NetworkName,
    /// Its alias in that network.
    pub alias: ContainerName,
    /// The further options that belong to the sandbox.
    pub run: RunOptions,
}

/// What a sandbox is created for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HolderPurpose {
    /// The container that joins it next.
    Container,
    /// The next version, which does not exist yet. Until then no name leads to it.
    Spare,
}

impl HolderSpec {
    /// Returns the sandbox for a container with these options.
    pub fn of(options: &ContainerOptions) -> Self {
        Self {
            environment: options.environment.clone(),
            record: options.record.clone(),
            port: options.port,
            publish: options.publish,
            extra_hosts: options.extra_hosts.clone(),
            network: options.network.clone(),
            alias: options.name.clone(),
            run: options.run.of_sandbox(),
        }
    }

    /// Its names and addresses in all networks.
    pub fn attachments(&self) -> Attachments {
        self.run.attachments(&self.network, &self.alias)
    }

    /// Its addresses in all networks, without names. No name leads to it then.
    pub fn nameless_attachments(&self) -> Attachments {
        let mut attachments = self.attachments();
        attachments.values_mut().for_each(|attachment| attachment.aliases.clear());
        attachments
    }

    /// All published ports.
    pub fn ports(&self) -> impl Iterator<Item = PortMapping> {
        self.run.ports_with(self.port, self.publish)
    }

    /// A hash of every option whose change needs a new sandbox, stored in the label [`label::SPEC`]. It
    /// excludes the image: a later abide with another sandbox program keeps this one.
    pub fn fingerprint(&self) -> String {
        #[derive(Serialize)]
        struct HolderFingerprint<'a> {
            #[serde(skip_serializing_if = "Option::is_none")]
            port: Option<u16>,
            #[serde(skip_serializing_if = "Option::is_none")]
            publish: &'a Option<Publish>,
            #[serde(skip_serializing_if = "Vec::is_empty")]
            extra_hosts: &'a Vec<String>,
            network: &'a NetworkName,
            alias: &'a ContainerName,
            #[serde(skip_serializing_if = "RunOptions::is_default")]
            run: &'a RunOptions,
        }
        let Self { port, publish, extra_hosts, network, alias, run, .. } = self;
        let of = HolderFingerprint { port: *port, publish, extra_hosts, network, alias, run };
        hex::encode(Sha256::digest(serde_json::to_vec(&of).unwrap_or_default()))
    }

    /// The labels: owner and options.
    pub fn labels(&self) -> BTreeMap<String, String> {
        BTreeMap::from([
            (label::ENVIRONMENT.to_owned(), self.environment.to_string()),
            (label::RECORD.to_owned(), self.record.clone()),
            (label::ROLE.to_owned(), label::HOLDER.to_owned()),
            (label::SPEC.to_owned(), self.fingerprint()),
        ])
    }
}
