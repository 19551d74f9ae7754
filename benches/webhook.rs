//! Measures how long a signed push takes to be acknowledged, compared with its unavoidable flushed
//! write.
//!
//! The real router on a real record, over TCP on the loopback address. Before it answers, the
//! record flushes sled and syncs sled's log to disk (fdatasync). Both limits are measured in the
//! same run, alternating with the pushes, on the same file system.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

mod report;

use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use abide::api::ManifestState;
use abide::api::inbox::RecordInbox;
use abide::api::serve::{ServeLimits, serve_tcp};
use abide::api::webhook::{WebhookLimits, WebhookState, routes};
use abide::manifest_dir;
use abide::model::desired::Hint;
use abide::model::name::{CommitId, EnvironmentName, RepositoryName};
use abide::model::time::Timestamp;
use abide::record::{self, Handles, Push};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use sled::transaction::{ConflictableTransactionError, Transactional as _};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

use report::{Samples, Table, goal, ratio, shown, title};

/// The number of pushes and writes of each kind; below a hook's burst limit.
const ROUNDS: usize = 500;
/// The limit for an acknowledgement, as a multiple of the minimum.
const GOAL: u32 = 3;
/// The sender's secret.
const SECRET: &str = "known-to-this-benchmark-alone";
/// About the number of bytes that a push adds to the record.
const WRITTEN: [u8; 512] = [b'x'; 512];
/// The bytes that a push writes into each of four trees.
const PUSHED: [usize; 4] = [300, 40, 0, 8];
/// A folder for all files, if the default folder is in memory or on another disk.
const FOLDER_VARIABLE: &str = "ABIDE_BENCH_DIR";

fn main() {
    let folder = std::env::var_os(FOLDER_VARIABLE).map_or_else(std::env::temp_dir, Into::into);
    let folder = tempfile::tempdir_in(folder).unwrap();
    let (runtime, stop) = (Runtime::new().unwrap(), CancellationToken::new());
    let handles = open_record(folder.path());
    let address = runtime.block_on(serve(folder.path(), &handles, stop.clone()));
    let limit = Limit::open(&folder.path().join("sled"));
    let measured = Measured::take(address, &limit, |number| {
        runtime.block_on(record_alone(&handles, number));
    });
    stop.cancel();
    assert_is_recorded(&handles, measured.last_commit());
    measured.report();
}

fn open_record(folder: &Path) -> Handles {
    record::open(&folder.join("record")).unwrap()
}

/// Serves only the webhooks, as the daemon does.
async fn serve(folder: &Path, handles: &Handles, stop: CancellationToken) -> SocketAddr {
    let secret = folder.join("secret");
    std::fs::write(&secret, SECRET).unwrap();
    let manifest = format!(
        "[repository.site]\nurl = \"/nowhere\"\nwebhook = {{ provider = \"github\", secret_file = {secret:?} }}\n\
         [environment.dev]\ncontainer = \"dev-server\"\nport = 8900\n\
         source = {{ repository = \"site\", branch = \"dev\" }}\n\
         [environment.dev.build]\ndockerfile = \"Dockerfile\"\n"
    );
    std::fs::write(folder.join("bench.toml"), manifest).unwrap();
    let manifest = manifest_dir::load(folder).unwrap().manifest;
    let state = Arc::new(ManifestState::new(manifest, None));
    let (_, manifest) = tokio::sync::watch::channel(state);
    let ask_checks = Arc::new(|_: &EnvironmentName| {});
    let manifest_pushed = Arc::default();
    let inbox = RecordInbox { manifest, writer: handles.writer.clone(), manifest_pushed, ask_checks };
    let router = routes(WebhookState::new(inbox, now, WebhookLimits::default()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(serve_tcp(listener, router, ServeLimits::default(), stop));
    address
}

fn now() -> Timestamp {
    SystemTime::now().into()
}

/// The write of a push, without the HTTP request.
async fn record_alone(handles: &Handles, number: usize) {
    let push = Push {
        id: Some(format!("alone-{number}")),
        repository: RepositoryName::new("site").unwrap(),
        hint: Hint { revision: commit(number), by: "github (alice)".to_owned(), at: now() },
    };
    let dev = EnvironmentName::new("dev").unwrap();
    let outcome = handles.writer.push(push, &[dev]).await.unwrap();
    assert_eq!(outcome.recorded.len(), 1);
}

/// Asserts that the record has the last acknowledged push, because a benchmark of refusals would be
/// meaningless.
fn assert_is_recorded(handles: &Handles, commit: CommitId) {
    let dev = EnvironmentName::new("dev").unwrap();
    let hint = handles.desired.get(&dev).unwrap().hint.unwrap();
    assert_eq!(hint.revision, commit);
}

/// The minimum for a durable acknowledgement: one write to a separate store.
struct Limit {
    db: sled::Db,
    trees: Vec<sled::Tree>,
    log: File,
}

impl Limit {
    fn open(dir: &Path) -> Self {
        let db = sled::Config::new().path(dir).flush_every_ms(None).open().unwrap();
        db.flush().unwrap();
        let trees = (0..PUSHED.len()).map(|tree| db.open_tree(tree.to_be_bytes()).unwrap()).collect();
        Self { db, trees, log: File::open(dir.join("db")).unwrap() }
    }

    fn write(&self, key: usize) {
        self.db.insert(key.to_be_bytes(), WRITTEN.as_slice()).unwrap();
        self.db.flush().unwrap();
    }

    fn write_and_sync(&self, key: usize) {
        self.write(key);
        self.log.sync_data().unwrap();
    }

    /// The write of a push as one transaction: the record, the delivery, its time, a number.
    fn write_as_a_push(&self, key: usize) {
        let key = key.to_be_bytes();
        let made = self.trees.as_slice().transaction(|trees| {
            for (tree, length) in trees.iter().zip(PUSHED) {
                tree.insert(key.as_slice(), &WRITTEN[..length])?;
            }
            Ok::<(), ConflictableTransactionError<()>>(())
        });
        made.unwrap();
        self.db.flush().unwrap();
        self.log.sync_data().unwrap();
    }
}

/// The measurements.
#[derive(Default)]
struct Measured {
    flushed: Samples,
    synced: Samples,
    /// sled, with the whole write of a push.
    atomic: Samples,
    /// A new connection for each push, as git hosts do.
    fresh: Samples,
    /// One connection for all pushes.
    kept: Samples,
    /// Only the write of a push: without connection, request and proof.
    record: Samples,
    /// A signed delivery on a new connection that writes nothing.
    endpoint: Samples,
}

impl Measured {
    fn take(address: SocketAddr, limit: &Limit, record: impl Fn(usize)) -> Self {
        let mut measured = Self::default();
        let mut kept = Connection::open(address);
        for round in 0..ROUNDS {
            measured.flushed.time(|| limit.write(2 * round));
            measured.synced.time(|| limit.write_and_sync(2 * round + 1));
            measured.atomic.time(|| limit.write_as_a_push(round));
            measured.record.time(|| record(3 * round));
            let request = ignored(round);
            measured.endpoint.time(|| Connection::open(address).post(&request, 200));
            let request = push(3 * round + 1);
            measured.fresh.time(|| Connection::open(address).post(&request, 202));
            let request = push(3 * round + 2);
            measured.kept.time(|| kept.post(&request, 202));
        }
        measured
    }

    fn last_commit(&self) -> CommitId {
        commit(3 * ROUNDS - 1)
    }

    fn report(&self) {
        title("A signed push, acknowledged once it is on disk");
        let columns = ["what", "median", "p90", "of insert + flush", "of that + fdatasync", "rounds"];
        let mut table = Table::new(&columns);
        for (what, samples) in [
            ("sled alone: insert + flush", &self.flushed),
            ("sled alone: insert + flush + fdatasync", &self.synced),
            ("sled alone: all that a push writes, in one transaction", &self.atomic),
            ("push on a connection of its own", &self.fresh),
            ("push on a connection that stays", &self.kept),
            ("the record's part of it: the write alone", &self.record),
            ("the door's part of it: a delivery that writes nothing", &self.endpoint),
        ] {
            let median = samples.median();
            table.row([
                what.to_owned(),
                shown(median),
                shown(samples.p90()),
                ratio(median, self.flushed.median()),
                ratio(median, self.synced.median()),
                samples.count().to_string(),
            ]);
        }
        table.print();
        let pushed = self.fresh.median();
        goal("within 3 times insert + flush", pushed <= self.flushed.median() * GOAL);
        goal("within 3 times insert + flush + fdatasync", pushed <= self.synced.median() * GOAL);
    }
}

fn commit(number: usize) -> CommitId {
    CommitId::new(format!("{:040x}", number + 1)).unwrap()
}

/// A complete request: the push of a commit that was not announced before.
fn push(number: usize) -> Vec<u8> {
    delivery(number, "dev")
}

/// The same on a branch that no environment tracks.
fn ignored(number: usize) -> Vec<u8> {
    delivery(number, "elsewhere")
}

fn delivery(number: usize, branch: &str) -> Vec<u8> {
    let body = serde_json::json!({
        "ref": format!("refs/heads/{branch}"),
        "before": commit(number + 1),
        "after": commit(number),
        "created": false,
        "deleted": false,
        "forced": false,
        "repository": { "name": "site", "full_name": "example/site" },
        "pusher": { "name": "alice" },
        "sender": { "login": "alice" },
        "head_commit": { "id": commit(number), "message": "A change ".repeat(200) },
    });
    let body = body.to_string();
    let mut mac = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes()).unwrap();
    mac.update(body.as_bytes());
    let signature = hex::encode(mac.finalize().into_bytes());
    let head = format!(
        "POST /webhooks/site HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
         X-GitHub-Event: push\r\nX-GitHub-Delivery: {number}\r\nX-Hub-Signature-256: sha256={signature}\r\n\
         Content-Length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body.as_bytes()].concat()
}

/// A sender's connection.
struct Connection(TcpStream);

impl Connection {
    fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        Self(stream)
    }

    /// Sends a delivery and waits for the acknowledgement.
    fn post(&mut self, request: &[u8], status: u16) {
        self.0.write_all(request).unwrap();
        // An acknowledgement is short and arrives in one piece.
        let mut answer = [0; 4096];
        let length = self.0.read(&mut answer).unwrap();
        let answer = String::from_utf8_lossy(&answer[..length]);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
    }
}
