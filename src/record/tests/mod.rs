//! Tests of the record through its public handles, and their shared fixtures.

mod backup;
mod builds;
mod crash;
mod laws;
mod problems;
mod recovery;
mod reopen;
mod resolver;
mod session;
mod status;
mod tags;
mod together;
mod token;
mod writer;

use std::collections::BTreeMap;

use tempfile::TempDir;

use super::{Change, Handles, Push, open};
use crate::model::build::{BuildKey, BuildRecord, BuildResult};
use crate::model::desired::{Hint, Hold, Image, Origin};
use crate::model::name::{CommitId, Digest, EnvironmentName, Generation, RepositoryName};
use crate::model::time::Timestamp;

/// A record in a temporary folder, removed on drop.
struct Fixture {
    handles: Handles,
    home: TempDir,
}

fn fixture() -> Fixture {
    let home = tempfile::tempdir().unwrap();
    let handles = open(home.path()).unwrap();
    Fixture { handles, home }
}

impl Fixture {
    /// Closes the record and opens it again.
    fn reopen(self) -> Self {
        let Self { handles, home } = self;
        drop(handles);
        Self { handles: open(home.path()).unwrap(), home }
    }
}

fn name(text: &str) -> EnvironmentName {
    EnvironmentName::new(text).unwrap()
}

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_millis(1_790_000_000_000 + seconds * 1_000)
}

fn commit(number: u64) -> CommitId {
    CommitId::new(format!("{:040x}", number + 1)).unwrap()
}

fn digest(number: u64) -> Digest {
    Digest::new(format!("sha256:{number:064x}")).unwrap()
}

fn image(number: u64) -> Image {
    Image { reference: None, digest: None, id: Some(digest(number)) }
}

fn hint(number: u64) -> Hint {
    Hint { revision: commit(number), by: format!("github (user {number})"), at: at(number) }
}

fn delivery(id: &str, number: u64) -> Push {
    let repository = RepositoryName::new("keepwork").unwrap();
    Push { id: Some(id.to_owned()), repository, hint: hint(number) }
}

fn set(number: u64) -> Change {
    Change {
        revision: None,
        image: Some(image(number)),
        origin: Origin::Set,
        by: Some("alice".into()),
        token: None,
        note: None,
        at: at(number),
        hold: None,
    }
}

fn build(key: &str, number: u64) -> BuildRecord {
    BuildRecord {
        key: BuildKey(key.into()),
        content: None,
        reused: None,
        warnings: vec![],
        number,
        environment: name("dev"),
        revision: commit(number),
        checkouts: vec![],
        started: at(number),
        finished: at(number + 1),
        result: BuildResult::Built(image(number)),
        pushed: BTreeMap::new(),
    }
}

fn hold(generation: Option<u64>) -> Hold {
    Hold { reason: "a demo".into(), by: "alice".into(), since: at(0), generation: generation.map(Generation) }
}
