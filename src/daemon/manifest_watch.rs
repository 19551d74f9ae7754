//! The manifest as it is edited: a good edit is taken, a bad one is named and the last good one
//! kept.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use crate::api::ManifestState;
use crate::manifest_dir::{self, Loaded, Stamp};
use crate::model::spec::Manifest;

/// How often the folder is looked at. SIGHUP has it read at once.
const LOOK: Duration = Duration::from_secs(2);

/// Starts the watch. The loop gets manifests that are valid; the API also what is wrong with the
/// newest edit.
pub(super) fn start(
    folder: &Path,
    loaded: Loaded,
    stop: &CancellationToken,
) -> (watch::Receiver<Arc<Manifest>>, watch::Receiver<Arc<ManifestState>>) {
    let state = ManifestState { manifest: loaded.manifest.clone(), problem: None };
    let (manifests, manifest) = watch::channel(Arc::new(loaded.manifest));
    let (states, shown) = watch::channel(Arc::new(state));
    // Here and not in the task: until it is listened for, SIGHUP ends the process.
    let hangup = signal(SignalKind::hangup()).ok();
    let watch = ManifestWatch { folder: folder.to_owned(), stamp: loaded.stamp, hangup, manifests, states };
    let stop = stop.clone();
    tokio::spawn(async move { stop.run_until_cancelled(watch.run()).await });
    (manifest, shown)
}

struct ManifestWatch {
    folder: PathBuf,
    stamp: Stamp,
    hangup: Option<Signal>,
    manifests: watch::Sender<Arc<Manifest>>,
    states: watch::Sender<Arc<ManifestState>>,
}

impl ManifestWatch {
    async fn run(mut self) {
        loop {
            let asked = async {
                match &mut self.hangup {
                    Some(hangup) => drop(hangup.recv().await),
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = asked => self.read(),
                () = tokio::time::sleep(LOOK) => {
                    if manifest_dir::stamp(&self.folder) != self.stamp {
                        self.read();
                    }
                }
            }
        }
    }

    fn read(&mut self) {
        // Taken first: what is edited while it is read is seen at the next look.
        self.stamp = manifest_dir::stamp(&self.folder);
        match super::load_manifest(&self.folder) {
            Ok(loaded) => {
                let state = ManifestState { manifest: loaded.manifest.clone(), problem: None };
                let changed = self.manifests.send_if_modified(|manifest| {
                    let changed = **manifest != loaded.manifest;
                    if changed {
                        *manifest = Arc::new(loaded.manifest);
                    }
                    changed
                });
                if changed {
                    info!("the manifest was edited and is taken");
                }
                self.states.send_replace(Arc::new(state));
            }
            Err(problem) => {
                let problem = format!("{problem:#}");
                error!(%problem, "the edited manifest is not taken; the last good one stays");
                let manifest = (**self.manifests.borrow()).clone();
                self.states.send_replace(Arc::new(ManifestState { manifest, problem: Some(problem) }));
            }
        }
    }
}
