//! Watches the manifest for edits: a valid edit is applied; an invalid edit is reported, and the
//! last valid manifest stays in use.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use crate::api::{ManifestState, ReadManifest};
use crate::manifest_dir::{self, FolderStamp, Loaded};
use crate::model::spec::Manifest;

/// How often the folder is checked. SIGHUP triggers a check immediately.
const LOOK: Duration = Duration::from_secs(2);

/// A caller that waits until pending edits are processed.
type ReloadWaiter = oneshot::Sender<()>;

/// The watched manifest.
pub(super) struct WatchedManifest {
    /// For the controller: valid manifests only.
    pub(super) manifest: watch::Receiver<Arc<Manifest>>,
    /// For the API: also the problem of the newest edit.
    pub(super) states: watch::Receiver<Arc<ManifestState>>,
    /// Processes a pending edit immediately.
    pub(super) read: ReadManifest,
}

/// Starts the watch.
pub(super) fn start(folder: &Path, loaded: Loaded, stop: &CancellationToken) -> WatchedManifest {
    let state = applied(folder, loaded.manifest.clone());
    let (manifests, manifest) = watch::channel(Arc::new(loaded.manifest));
    let (states, shown) = watch::channel(Arc::new(state));
    // Here instead of in the task: without a handler, SIGHUP ends the process.
    let hangup = signal(SignalKind::hangup()).ok();
    let (ask, asked) = mpsc::channel(1);
    let folder = folder.to_owned();
    let watch = ManifestWatch { folder, stamp: loaded.stamp, hangup, asked, manifests, states };
    let stop = stop.clone();
    tokio::spawn(async move { stop.run_until_cancelled(watch.run()).await });
    WatchedManifest { manifest, states: shown, read: reading(ask) }
}

/// The state of a manifest that was just read.
fn applied(folder: &Path, manifest: Manifest) -> ManifestState {
    let state = ManifestState::new(manifest, manifest_dir::refusal(folder)).of(Some(super::clock()));
    with_branch(folder, state)
}

fn with_branch(folder: &Path, state: ManifestState) -> ManifestState {
    match state.manifest.followed {
        Some(_) => state.on_branch(manifest_dir::commit_in_force(folder), manifest_dir::unread(folder)),
        None => state,
    }
}

fn reading(ask: mpsc::Sender<ReloadWaiter>) -> ReadManifest {
    Arc::new(move || {
        let ask = ask.clone();
        Box::pin(async move {
            let (waiting, read) = oneshot::channel();
            // If the watch has ended, the daemon is about to stop.
            if ask.send(waiting).await.is_ok() {
                let _ = read.await;
            }
        })
    })
}

struct ManifestWatch {
    folder: PathBuf,
    stamp: FolderStamp,
    hangup: Option<Signal>,
    asked: mpsc::Receiver<ReloadWaiter>,
    manifests: watch::Sender<Arc<Manifest>>,
    states: watch::Sender<Arc<ManifestState>>,
}

impl ManifestWatch {
    async fn run(mut self) {
        loop {
            let hung_up = async {
                match &mut self.hangup {
                    Some(hangup) => drop(hangup.recv().await),
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = hung_up => self.read(),
                Some(waiting) = self.asked.recv() => {
                    self.read_if_edited();
                    // The caller may be gone.
                    let _ = waiting.send(());
                }
                () = tokio::time::sleep(LOOK) => self.read_if_edited(),
            }
        }
    }

    fn read_if_edited(&mut self) {
        if manifest_dir::stamp(&self.folder) != self.stamp {
            self.read();
        }
    }

    fn read(&mut self) {
        // Taken first, so that the next check notices an edit during the read.
        self.stamp = manifest_dir::stamp(&self.folder);
        match super::load_manifest(&self.folder) {
            Ok(loaded) => {
                let state = applied(&self.folder, loaded.manifest.clone());
                let changed = self.manifests.send_if_modified(|manifest| {
                    let changed = **manifest != loaded.manifest;
                    if changed {
                        *manifest = Arc::new(loaded.manifest);
                    }
                    changed
                });
                if changed {
                    info!("applied the edited manifest");
                }
                self.states.send_replace(Arc::new(state));
            }
            Err(problem) => {
                let problem = format!("{problem:#}");
                error!(%problem, "the edited manifest is invalid; the last valid one stays in use");
                let read_at = self.states.borrow().read_at;
                let manifest = (**self.manifests.borrow()).clone();
                let state = ManifestState::new(manifest, Some(problem)).of(read_at);
                let state = with_branch(&self.folder, state);
                self.states.send_replace(Arc::new(state));
            }
        }
    }
}
