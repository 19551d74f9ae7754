//! The store: the desired state, its history, and the results of reconciling.
//!
//! This is the only module that names sled. [`open`] repairs the damage of a crash and returns narrow
//! handles: webhooks and operators update the record through a [`DesiredWriter`], the reconcile loop has a
//! [`Resolver`] and a [`StatusWriter`], administrators have a [`TokenWriter`], and everyone else has readers.
//! Every write is on disk before it returns, and sends a [`Wakeup`] after that.

mod agent_reports;
mod awaited;
mod backup;
mod check;
mod delivery;
mod desired;
mod draft;
mod error;
mod evidence;
mod export;
mod forget;
mod generation;
mod identity;
mod import;
mod journal;
mod keys;
mod mirror;
mod open;
mod outbox;
mod outgoing;
mod owner;
mod reader;
mod reading;
mod recover;
mod renumber;
mod reopen;
mod repair;
mod replica;
mod resolver;
mod scan;
mod session;
mod shared;
mod stand_in;
mod status;
mod status_reader;
mod store;
#[cfg(test)]
mod tests;
mod together;
mod token;
mod wakeup;

pub use crate::model::desired::RollbackRequest;
pub use agent_reports::ReportWriter;
pub use delivery::{Push, PushOutcome};
pub use desired::{Change, DesiredWriter, Precondition};
pub use error::{OpenError, RecordError, WriteError};
pub use evidence::{Promotion, Soaked, WithdrawnImage};
pub use export::{EnvironmentExport, Export};
pub use import::{ImportSpool, ImportedRecord};
pub use open::{Handles, exists, open};
pub use outbox::Outbox;
pub use reader::DesiredReader;
pub use reading::open_to_read;
pub use replica::{Accepted, KeptAssignment, Replica, ReplicaRejection, SESSIONS};
pub use resolver::Resolver;
pub use session::NewSession;
pub use shared::WriteTrouble;
pub use status::StatusWriter;
pub use status_reader::{BuildCounts, StatusReader};
pub use store::DiskSpace;
pub use token::{NewToken, TokenError, TokenReader, TokenWriter};
pub use wakeup::{Wakeup, Wakeups};

/// The version of the store's documents and of [`Export`] that this abide reads and writes.
pub const FORMAT: u32 = 1;
