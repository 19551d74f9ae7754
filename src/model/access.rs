//! Permissions: roles, and the public properties of a token. Never the token itself.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::name::{AgentName, EnvironmentName, TokenId, TokenName};
use super::time::Timestamp;

/// A set of permissions. Every role except agents includes those of a viewer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "role", rename_all = "kebab-case")]
pub enum Role {
    /// Reads everything, and changes nothing.
    Viewer,
    /// Changes the record of these environments.
    Deployer {
        /// The environments; at least one.
        environments: BTreeSet<EnvironmentName>,
    },
    /// Has every permission of an operator: changes every environment, imports records, issues tokens.
    Admin,
    /// Acts for one host, which gets only its environments in the manifest.
    Agent {
        /// The host's name in the manifest.
        agent: AgentName,
    },
}

impl Role {
    /// Whether the role may read the record, statuses, events and logs.
    pub fn may_look(&self) -> bool {
        !matches!(self, Self::Agent { .. })
    }

    /// Whether the role may change the record of `environment`.
    pub fn may_move(&self, environment: &EnvironmentName) -> bool {
        match self {
            Self::Admin => true,
            Self::Deployer { environments } => environments.contains(environment),
            Self::Viewer | Self::Agent { .. } => false,
        }
    }

    /// Whether the role may do operations that concern the whole daemon.
    pub fn may_administer(&self) -> bool {
        matches!(self, Self::Admin)
    }

    /// The agent that the role acts for.
    pub fn agent(&self) -> Option<&AgentName> {
        if let Self::Agent { agent } = self { Some(agent) } else { None }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Viewer => f.write_str("viewer"),
            Self::Deployer { environments } => {
                let names: Vec<_> = environments.iter().map(EnvironmentName::as_str).collect();
                write!(f, "deployer of {}", names.join(", "))
            }
            Self::Admin => f.write_str("admin"),
            Self::Agent { agent } => write!(f, "agent {agent}"),
        }
    }
}

/// The public properties of a token: one element of `token list -o json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// Its public half.
    pub id: TokenId,
    /// The operator's name for it. Valid tokens have different names.
    pub name: TokenName,
    /// Its permissions.
    #[serde(flatten)]
    pub role: Role,
    /// The time and the author of its creation.
    pub created: Deed,
    /// The time at which it expires; `null`: never.
    pub expires: Option<Timestamp>,
    /// The time of its last use, to the hour; `null`: never used.
    pub used: Option<Timestamp>,
    /// The time and the author of its revocation; `null`: not revoked.
    pub revoked: Option<Deed>,
}

impl Token {
    /// Whether the token is valid at `now`.
    pub fn is_in_force(&self, now: Timestamp) -> bool {
        self.revoked.is_none() && self.expires.is_none_or(|expires| now < expires)
    }
}

/// The time and the author of an action.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deed {
    /// The time.
    pub at: Timestamp,
    /// The author, with the origin of the request.
    pub by: String,
}
