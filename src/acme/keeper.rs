//! The handle of certificates, and the task behind it.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tracing::warn;

use super::round::Round;
use super::{CertificateOwner, CertificateReport, DesiredCertificates, Pair};

/// The longest pause between two rounds: clocks jump and hosts sleep, so due times are compared often.
const LONGEST: Duration = Duration::from_secs(60);
/// The shortest.
const SHORTEST: Duration = Duration::from_millis(200);
/// The pause after the folder could not be used.
const AFTER_ERROR: Duration = Duration::from_secs(10);

/// Keeps certificates. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Acme {
    shared: Arc<Shared>,
}

struct Shared {
    folder: PathBuf,
    wanted: watch::Sender<Option<DesiredCertificates>>,
    state: Mutex<AcmeState>,
    /// Finished rounds.
    #[cfg(test)]
    pub(super) rounds: std::sync::atomic::AtomicU64,
}

/// What others may see.
#[derive(Default)]
pub(super) struct AcmeState {
    /// The thumbprint of the account's key.
    pub(super) thumbprint: Option<String>,
    /// All usable certificates.
    pub(super) pairs: Vec<Arc<Pair>>,
    pub(super) reports: BTreeMap<CertificateOwner, CertificateReport>,
    /// A problem of everything, in a sentence.
    pub(super) trouble: Option<String>,
}

impl Acme {
    /// Creates the keeper of the certificates in `folder`, which nothing else may use.
    pub fn new(folder: PathBuf) -> Self {
        let (wanted, _) = watch::channel(None);
        let shared = Shared {
            folder,
            wanted,
            state: Mutex::default(),
            #[cfg(test)]
            rounds: std::sync::atomic::AtomicU64::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Sets the desired certificates; `None`: none.
    pub fn want(&self, wanted: Option<DesiredCertificates>) {
        self.shared.wanted.send_if_modified(|before| {
            let is_new = *before != wanted;
            if is_new {
                *before = wanted;
            }
            is_new
        });
    }

    /// The thumbprint that the proxy appends to the token of a challenge; `None` until there is an account's
    /// key.
    pub fn thumbprint(&self) -> Option<String> {
        self.state().thumbprint.clone()
    }

    /// All usable certificates, issued and self-signed.
    pub fn pairs(&self) -> Vec<Arc<Pair>> {
        self.state().pairs.clone()
    }

    /// The state of the certificates of an owner; `None`: it needs none, or was not checked yet.
    pub fn report(&self, owner: &CertificateOwner) -> Option<CertificateReport> {
        self.state().reports.get(owner).cloned()
    }

    /// The problem of all certificates, in a sentence.
    pub fn trouble(&self) -> Option<String> {
        self.state().trouble.clone()
    }

    /// Keeps the desired certificates until dropped. Calls `changed` whenever a handle would answer otherwise.
    pub async fn run(&self, changed: impl Fn() + Send + Sync) {
        let mut wanted = self.shared.wanted.subscribe();
        let mut round: Option<Round> = None;
        loop {
            let now_wanted = wanted.borrow_and_update().clone();
            let pause = match &now_wanted {
                None => {
                    round = None;
                    self.clear(&changed);
                    LONGEST
                }
                Some(now_wanted) => self.look(&mut round, now_wanted, &changed).await,
            };
            #[cfg(test)]
            self.shared.rounds.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            tokio::select! {
                () = tokio::time::sleep(pause.clamp(SHORTEST, LONGEST)) => {}
                // The sender lives as long as this handle.
                _ = wanted.changed() => {}
            }
        }
    }

    async fn look(
        &self,
        round: &mut Option<Round>,
        wanted: &DesiredCertificates,
        changed: &(impl Fn() + Send + Sync),
    ) -> Duration {
        if round.is_none() {
            match Round::open(&self.shared.folder) {
                Ok(opened) => *round = Some(opened),
                Err(why) => {
                    let words = format!("the folder of certificates {}: {why}", self.shared.folder.display());
                    self.note_trouble(words, changed);
                    return AFTER_ERROR;
                }
            }
        }
        let Some(round) = round else { return AFTER_ERROR };
        round.run(wanted, &|update| self.update(update, changed)).await
    }

    /// Changes the state, and calls `changed` if the proxy serves, or somebody reads, any of what changed.
    fn update(&self, update: AcmeState, changed: &(impl Fn() + Send + Sync)) {
        let mut state = self.state();
        let chains =
            |state: &AcmeState| state.pairs.iter().map(|pair| pair.chain.clone()).collect::<Vec<_>>();
        let is_new = state.thumbprint != update.thumbprint
            || state.reports != update.reports
            || state.trouble != update.trouble
            || chains(&state) != chains(&update);
        for (owner, report) in &update.reports {
            let before = state.reports.get(owner).and_then(|before| before.problem.as_ref());
            if let Some(problem) = report.problem.as_ref().filter(|problem| Some(*problem) != before) {
                warn!(%owner, problem, "no new certificate");
            }
        }
        *state = update;
        drop(state);
        if is_new {
            changed();
        }
    }

    fn note_trouble(&self, words: String, changed: &(impl Fn() + Send + Sync)) {
        let mut state = self.state();
        if state.trouble.as_ref() != Some(&words) {
            warn!(why = words, "certificates cannot be kept");
            state.trouble = Some(words);
            drop(state);
            changed();
        }
    }

    /// How many rounds are finished.
    #[cfg(test)]
    pub(super) fn rounds(&self) -> u64 {
        self.shared.rounds.load(std::sync::atomic::Ordering::Relaxed)
    }

    fn clear(&self, changed: &(impl Fn() + Send + Sync)) {
        self.update(AcmeState::default(), changed);
    }

    fn state(&self) -> MutexGuard<'_, AcmeState> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Acme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Acme").field("folder", &self.shared.folder).finish_non_exhaustive()
    }
}
