//! Who may do what: roles, and what is known of a token. Never the token itself.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::name::{AgentName, EnvironmentName, TokenId, TokenName};
use super::time::Timestamp;

/// What someone may do. Each may also look at whatever a viewer may, but for agents.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "role", rename_all = "kebab-case")]
pub enum Role {
    /// Looks at everything, and moves nothing.
    Viewer,
    /// Moves the record of these environments.
    Deployer {
        /// Which; at least one.
        environments: BTreeSet<EnvironmentName>,
    },
    /// Does everything that a person can: moves every environment, imports, deals out tokens.
    Admin,
    /// Speaks for one host, which gets the environments that the manifest gives it, and nothing else.
    Agent {
        /// The host's name in the manifest.
        agent: AgentName,
    },
}

impl Role {
    /// Whether it may look at the record, statuses, events and logs.
    pub fn may_look(&self) -> bool {
        !matches!(self, Self::Agent { .. })
    }

    /// Whether it may move the record of `environment`.
    pub fn may_move(&self, environment: &EnvironmentName) -> bool {
        match self {
            Self::Admin => true,
            Self::Deployer { environments } => environments.contains(environment),
            Self::Viewer | Self::Agent { .. } => false,
        }
    }

    /// Whether it may do what concerns no single environment.
    pub fn may_administer(&self) -> bool {
        matches!(self, Self::Admin)
    }

    /// The agent that it speaks for.
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

/// What is known of a token: one element of `token list -o json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// Its public half.
    pub id: TokenId,
    /// What people call it. No two that are in force have the same.
    pub name: TokenName,
    /// What it may do.
    #[serde(flatten)]
    pub role: Role,
    /// When and by whom it was made.
    pub created: Deed,
    /// From when on it is not in force any more; `null`: it does not expire.
    pub expires: Option<Timestamp>,
    /// When it was last shown, to the hour; `null`: never.
    pub used: Option<Timestamp>,
    /// When and by whom it was revoked; `null`: it was not.
    pub revoked: Option<Deed>,
}

impl Token {
    /// Whether it opens a door at `now`.
    pub fn is_in_force(&self, now: Timestamp) -> bool {
        self.revoked.is_none() && self.expires.is_none_or(|expires| now < expires)
    }
}

/// When something was done, and by whom.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deed {
    /// When.
    pub at: Timestamp,
    /// Who, and from where.
    pub by: String,
}
