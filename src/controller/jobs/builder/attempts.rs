//! Records build attempts in progress on disk. If a build kills the daemon itself, the next daemon recognizes
//! it by them.
//!
//! Only an attempt that ran alone when the daemon ended counts, and only if the host was not restarted since.
//! Several that ran at once are suspects: each of them runs alone the next time.

use std::collections::HashMap;
use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};
use tracing::warn;

use crate::durable;
use crate::model::build::BuildKey;

/// A build is not attempted again after it killed this many daemons.
const MOST_ENDS: u32 = 2;
/// The number of attempts to keep on disk. Older ones belong to obsolete builds.
const KEPT: usize = 64;
/// Identifies the current run of the host's kernel.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// The recorded attempts.
#[derive(Clone)]
pub(crate) struct BuildAttempts {
    dir: PathBuf,
    session: DaemonRun,
    /// The attempts of earlier daemons, by the key of the build.
    before: Arc<Mutex<HashMap<String, Note>>>,
    /// Held for reading by attempts that may run beside others, and for writing by suspects.
    turns: Arc<RwLock<()>>,
}

/// One run of the daemon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct DaemonRun {
    id: String,
    boot: String,
}

/// An attempt on disk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Note {
    /// The number of daemons that earlier attempts killed.
    ends: u32,
    /// The current step.
    step: String,
    /// Whether an earlier attempt may have killed its daemon.
    is_suspect: bool,
    /// The daemon in which the attempt is in progress; `None`: an earlier attempt, which was judged.
    session: Option<DaemonRun>,
}

/// An attempt in progress. Its file is removed on drop: an attempt that ends within this process, with
/// whatever result, did not kill it.
pub(super) struct BuildAttempt {
    path: PathBuf,
    note: Note,
    _turn: Turn,
}

/// The right to run beside other attempts, or alone.
enum Turn {
    Beside { _guard: OwnedRwLockReadGuard<()> },
    Alone { _guard: OwnedRwLockWriteGuard<()> },
}

/// Attempts that killed their daemons.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct KilledAttempts {
    pub(super) count: u32,
    /// The step of the last such attempt.
    pub(super) step: String,
}

impl fmt::Display for KilledAttempts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let step =
            if self.step.is_empty() { String::new() } else { format!(", most recently while {}", self.step) };
        write!(
            f,
            "abide was killed {} times during this build{step}; a new commit or `abide sync` retries it",
            self.count
        )
    }
}

impl BuildAttempts {
    /// Reads the attempts of earlier daemons, and judges those that were in progress when their daemon ended.
    pub(crate) fn open(dir: PathBuf) -> Self {
        let boot = fs::read_to_string(BOOT_ID).unwrap_or_default().trim().to_owned();
        Self::open_at(dir, DaemonRun { id: uuid::Uuid::new_v4().simple().to_string(), boot })
    }

    fn open_at(dir: PathBuf, session: DaemonRun) -> Self {
        let found = notes(&dir).unwrap_or_default();
        let mut beside: HashMap<String, usize> = HashMap::new();
        for session in found.iter().filter_map(|(_, note)| note.session.as_ref()) {
            *beside.entry(session.id.clone()).or_default() += 1;
        }
        let mut before = HashMap::new();
        for (path, note) in found {
            let is_alone = note.session.as_ref().is_none_or(|session| beside.get(&session.id) == Some(&1));
            let judged = note.clone().judged(is_alone, &session.boot);
            if judged != note {
                write(&path, &judged);
            }
            if let Some(key) = path.file_name().and_then(|name| name.to_str()) {
                before.insert(key.to_owned(), judged);
            }
        }
        let before = Arc::new(Mutex::new(before));
        Self { dir, session, before, turns: Arc::default() }
    }

    /// Records that a build of these inputs begins. A suspect waits until no other build runs, and others wait
    /// for it. The attempt continues even if this cannot be written.
    ///
    /// # Errors
    /// Returns the earlier attempts if they are too many. They are then forgotten, because the failure is
    /// recorded, and a user who requests another attempt gets it.
    pub(super) async fn begin(&self, key: &BuildKey) -> Result<BuildAttempt, KilledAttempts> {
        let path = self.dir.join(&key.0);
        let before = self.before(key).unwrap_or_default();
        if before.ends >= MOST_ENDS {
            self.forget(key);
            remove(&path);
            return Err(KilledAttempts { count: before.ends, step: before.step });
        }
        let turn = match before.is_suspect {
            true => Turn::Alone { _guard: Arc::clone(&self.turns).write_owned().await },
            false => Turn::Beside { _guard: Arc::clone(&self.turns).read_owned().await },
        };
        if let Err(error) = self.make_room() {
            warn!(%error, "cannot record build attempts");
        }
        // An attempt that ends within this process did not end the daemon.
        self.forget(key);
        let note = Note { step: String::new(), session: Some(self.session.clone()), ..before };
        let attempt = BuildAttempt { path, note, _turn: turn };
        attempt.note("");
        Ok(attempt)
    }

    /// Whether a build of these inputs has to run alone.
    pub(super) fn is_suspect(&self, key: &BuildKey) -> bool {
        self.before(key).is_some_and(|note| note.is_suspect)
    }

    fn before(&self, key: &BuildKey) -> Option<Note> {
        self.before.lock().unwrap_or_else(PoisonError::into_inner).get(&key.0).cloned()
    }

    fn forget(&self, key: &BuildKey) {
        self.before.lock().unwrap_or_else(PoisonError::into_inner).remove(&key.0);
    }

    fn make_room(&self) -> io::Result<()> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.dir)?;
        let mut notes = Vec::new();
        for note in fs::read_dir(&self.dir)? {
            let note = note?;
            notes.push((note.metadata()?.modified()?, note.path()));
        }
        notes.sort();
        for (_, path) in notes.iter().rev().skip(KEPT) {
            fs::remove_file(path)?;
        }
        Ok(())
    }
}

impl Note {
    /// The note of an attempt whose daemon has ended. It killed that daemon if it ran alone, because nothing
    /// else was at work. A restart of the host ends every daemon.
    fn judged(self, is_alone: bool, boot: &str) -> Self {
        let Some(session) = &self.session else { return self };
        let is_of_boot = session.boot == boot;
        let ends = self.ends + u32::from(is_alone && is_of_boot);
        Self { ends, is_suspect: self.is_suspect || is_of_boot, session: None, ..self }
    }
}

impl BuildAttempt {
    /// Records the current step.
    pub(super) fn note(&self, step: &str) {
        // A lost note only allows one more attempt.
        write(&self.path, &Note { step: step.to_owned(), ..self.note.clone() });
    }
}

impl Drop for BuildAttempt {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

fn notes(dir: &Path) -> io::Result<Vec<(PathBuf, Note)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let text = fs::read_to_string(&path).unwrap_or_default();
        found.push((path, serde_json::from_str(&text).unwrap_or_else(|_| of_before(&text))));
    }
    Ok(found)
}

/// The note of an earlier abide, which counted every attempt that was in progress when its daemon ended.
fn of_before(text: &str) -> Note {
    let mut lines = text.lines();
    let ends: u32 = lines.next().and_then(|count| count.parse().ok()).unwrap_or(1);
    let step = lines.next().unwrap_or_default().to_owned();
    Note { ends: ends.saturating_sub(1).min(MOST_ENDS - 1), step, is_suspect: true, session: None }
}

fn write(path: &Path, note: &Note) {
    if let Ok(text) = serde_json::to_vec(note)
        && let Err(error) = overwrite(path, &text)
    {
        warn!(%error, path = %path.display(), "the note of a try cannot be written");
    }
}

/// Not atomic, because a draft beside it would be read as another attempt.
fn overwrite(path: &Path, text: &[u8]) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let options = options.write(true).create(true).truncate(true).mode(durable::PRIVATE);
    durable::open(path, options)?.write_all(text)
}

fn remove(path: &Path) {
    if let Err(error) = fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        warn!(%error, path = %path.display(), "cannot remove the record of a build attempt");
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future as _;
    use std::task::{Context, Waker};

    use super::*;

    fn key(name: &str) -> BuildKey {
        BuildKey(name.to_owned())
    }

    /// The attempts as the daemon finds them that starts as the `number`th, in this run of the kernel.
    fn daemon(dir: &Path, number: u32, boot: &str) -> BuildAttempts {
        let session = DaemonRun { id: format!("daemon {number}"), boot: boot.to_owned() };
        BuildAttempts::open_at(dir.to_owned(), session)
    }

    /// Begins an attempt that its daemon does not outlive.
    async fn begin_for_good(attempts: &BuildAttempts, name: &str) {
        let attempt = attempts.begin(&key(name)).await.ok().unwrap();
        attempt.note("step 1: checking");
        std::mem::forget(attempt);
    }

    #[tokio::test]
    async fn a_build_that_killed_two_daemons_is_retried_only_on_request() {
        let dir = tempfile::tempdir().unwrap();
        for number in 0..2 {
            let attempts = daemon(dir.path(), number, "boot");
            for _ in 0..5 {
                // An attempt that ends normally does not count.
                drop(attempts.begin(&key("b")).await.ok().unwrap());
            }
            begin_for_good(&attempts, "a").await;
        }
        let attempts = daemon(dir.path(), 2, "boot");
        let ends = KilledAttempts { count: 2, step: "step 1: checking".to_owned() };
        assert_eq!(attempts.begin(&key("a")).await.err(), Some(ends));
        assert!(attempts.begin(&key("b")).await.is_ok() && attempts.begin(&key("a")).await.is_ok());
    }

    #[tokio::test]
    async fn only_a_build_that_kills_the_daemon_alone_is_given_up() {
        let dir = tempfile::tempdir().unwrap();
        let first = daemon(dir.path(), 1, "boot");
        begin_for_good(&first, "bad").await;
        begin_for_good(&first, "neighbour").await;
        let second = daemon(dir.path(), 2, "boot");
        assert!(second.is_suspect(&key("bad")) && second.is_suspect(&key("neighbour")));
        begin_for_good(&second, "bad").await;
        let third = daemon(dir.path(), 3, "boot");
        drop(third.begin(&key("neighbour")).await.ok().unwrap());
        assert!(!third.is_suspect(&key("neighbour")), "it ended within this process");
        begin_for_good(&third, "bad").await;
        let fourth = daemon(dir.path(), 4, "boot");
        assert_eq!(fourth.begin(&key("bad")).await.err().map(|ends| ends.count), Some(2));
        assert!(fourth.begin(&key("neighbour")).await.is_ok());
    }

    #[tokio::test]
    async fn a_suspect_runs_alone() {
        let dir = tempfile::tempdir().unwrap();
        let attempts = daemon(dir.path(), 1, "boot");
        begin_for_good(&attempts, "a").await;
        begin_for_good(&attempts, "b").await;
        let attempts = daemon(dir.path(), 2, "boot");
        let other = attempts.begin(&key("other")).await.ok().unwrap();
        let (a, third) = (key("a"), key("third"));
        let mut suspect = Box::pin(attempts.begin(&a));
        let mut later = Box::pin(attempts.begin(&third));
        let mut context = Context::from_waker(Waker::noop());
        assert!(suspect.as_mut().poll(&mut context).is_pending(), "another build runs");
        assert!(later.as_mut().poll(&mut context).is_pending(), "a suspect has the next turn");
        drop(other);
        let alone = suspect.await.ok().unwrap();
        assert!(later.as_mut().poll(&mut context).is_pending(), "a suspect runs");
        drop(alone);
        assert!(later.await.is_ok());
    }

    #[tokio::test]
    async fn a_host_restart_does_not_count_against_a_build() {
        let dir = tempfile::tempdir().unwrap();
        for number in 0..5 {
            begin_for_good(&daemon(dir.path(), number, &format!("boot {number}")), "a").await;
        }
        let attempts = daemon(dir.path(), 5, "boot 5");
        assert!(!attempts.is_suspect(&key("a")));
        assert!(attempts.begin(&key("a")).await.is_ok());
    }

    #[tokio::test]
    async fn an_abandoned_build_does_not_count_against_its_neighbour() {
        let dir = tempfile::tempdir().unwrap();
        let first = daemon(dir.path(), 1, "boot");
        begin_for_good(&first, "a").await;
        begin_for_good(&first, "b").await;
        let second = daemon(dir.path(), 2, "boot");
        drop(second.begin(&key("b")).await.ok().unwrap());
        let third = daemon(dir.path(), 3, "boot");
        assert_eq!(third.before(&key("a")).unwrap().ends, 0, "it was judged when its daemon had just ended");
    }

    #[test]
    fn a_note_from_an_earlier_version_marks_a_suspect() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a"), "2\nstep 1: checking\n").unwrap();
        let note = daemon(dir.path(), 1, "boot").before(&key("a")).unwrap();
        assert_eq!((note.ends, note.is_suspect, note.step.as_str()), (1, true, "step 1: checking"));
    }

    #[tokio::test]
    async fn notes_of_abandoned_builds_are_pruned() {
        let dir = tempfile::tempdir().unwrap();
        let attempts = daemon(dir.path(), 1, "boot");
        for number in 0..KEPT + 10 {
            begin_for_good(&attempts, &number.to_string()).await;
        }
        assert!(fs::read_dir(dir.path()).unwrap().count() <= KEPT + 1);
    }
}
