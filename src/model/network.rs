//! Networks that a container joins, with its names and addresses in them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use super::name::{NetworkAlias, NetworkName};

/// The names and addresses of a container in one network.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Attachment {
    /// Further names.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub aliases: BTreeSet<NetworkAlias>,
    /// A fixed address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ipv4_address: Option<Ipv4Addr>,
    /// A fixed address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ipv6_address: Option<Ipv6Addr>,
}

/// The networks of a container by name.
pub type Attachments = BTreeMap<NetworkName, Attachment>;

impl Attachment {
    /// Whether an observed attachment has everything that this one declares. The engine adds names.
    pub fn is_met(&self, seen: &Self) -> bool {
        self.aliases.is_subset(&seen.aliases)
            && (self.ipv4_address.is_none() || self.ipv4_address == seen.ipv4_address)
            && (self.ipv6_address.is_none() || self.ipv6_address == seen.ipv6_address)
    }

    /// Whether only one container can have it.
    pub fn is_exclusive(&self) -> bool {
        self.ipv4_address.is_some() || self.ipv6_address.is_some()
    }
}
