//! Permissions: roles, and the public properties of a token. Never the token itself.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::name::{AgentName, EnvironmentName, SessionId, TokenId, TokenName};
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
    /// Reads everything, and approves and rejects the images of these environments.
    Tester {
        /// The environments; at least one.
        environments: BTreeSet<EnvironmentName>,
    },
    /// Reads everything, and runs commands in the containers of these environments.
    Runner {
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
            Self::Viewer | Self::Tester { .. } | Self::Runner { .. } | Self::Agent { .. } => false,
        }
    }

    /// Whether the role may approve and reject the images of `environment`. A deployer may not: a person who moves an
    /// image is not who confirms it.
    pub fn may_judge(&self, environment: &EnvironmentName) -> bool {
        match self {
            Self::Admin => true,
            Self::Tester { environments } => environments.contains(environment),
            Self::Viewer | Self::Deployer { .. } | Self::Runner { .. } | Self::Agent { .. } => false,
        }
    }

    /// Whether the role may run commands in the containers of `environment`. A deployer may not: a command sees
    /// the secrets of the environment.
    pub fn may_run(&self, environment: &EnvironmentName) -> bool {
        match self {
            Self::Admin => true,
            Self::Runner { environments } => environments.contains(environment),
            Self::Viewer | Self::Deployer { .. } | Self::Tester { .. } | Self::Agent { .. } => false,
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
            Self::Tester { environments } => {
                let names: Vec<_> = environments.iter().map(EnvironmentName::as_str).collect();
                write!(f, "tester of {}", names.join(", "))
            }
            Self::Runner { environments } => {
                let names: Vec<_> = environments.iter().map(EnvironmentName::as_str).collect();
                write!(f, "runner of {}", names.join(", "))
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
    pub created: AuditStamp,
    /// The time at which it expires; `null`: never.
    pub expires: Option<Timestamp>,
    /// The time of its last use, to the hour; `null`: never used.
    pub used: Option<Timestamp>,
    /// The time and the author of its revocation; `null`: not revoked.
    pub revoked: Option<AuditStamp>,
}

impl Token {
    /// Whether the token is valid at `now`.
    pub fn is_in_force(&self, now: Timestamp) -> bool {
        self.revoked.is_none() && self.expires.is_none_or(|expires| now < expires)
    }
}

/// A browser that has signed in. The secret in its cookie is not part of this.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BrowserSession {
    /// Its public half.
    pub id: SessionId,
    /// The reason why it has access.
    #[serde(flatten)]
    pub holder: Holder,
    /// The time of the login.
    pub created: Timestamp,
    /// The address of the login; `null`: unknown.
    #[serde(default)]
    pub from: Option<String>,
    /// The time of its last use, to the hour.
    pub used: Timestamp,
    /// The time without use after which it ends.
    pub idle_seconds: u64,
    /// The time at which it ends even if it is in use.
    pub expires: Timestamp,
}

/// The reason why a session has access.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "holder", rename_all = "kebab-case")]
pub enum Holder {
    /// A token, whose permissions the session has. It ends with the token.
    Token {
        /// The token.
        token: TokenId,
    },
    /// A user of this host, who asked on the socket for a one-time link.
    Local {
        /// The user's name, as the kernel reported it.
        user: String,
    },
}

impl BrowserSession {
    /// Whether the session is valid at `now`. The validity of its token is another question.
    pub fn is_in_force(&self, now: Timestamp) -> bool {
        now < self.ends()
    }

    /// The time at which it ends without further use.
    pub fn ends(&self) -> Timestamp {
        self.used.after(Duration::from_secs(self.idle_seconds)).min(self.expires)
    }
}

/// The time and the author of an action.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditStamp {
    /// The time.
    pub at: Timestamp,
    /// The author, with the origin of the request.
    pub by: String,
}
