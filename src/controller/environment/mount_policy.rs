//! The host paths that containers may mount. On an agent's host, its policy decides at each mount, because a
//! link may have changed since.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::model::mount::AbsolutePath;

/// Returns why a path of this host must not be mounted, in a sentence; `None`: it may be.
type MountJudge = dyn Fn(&AbsolutePath) -> Option<String> + Send + Sync;

/// Judges the paths of this host.
#[derive(Clone, Default)]
pub struct MountPolicy(Option<Arc<MountJudge>>);

impl MountPolicy {
    /// A policy that calls `judge`, which may read the disk.
    pub fn new(judge: impl Fn(&AbsolutePath) -> Option<String> + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(judge)))
    }

    /// Why some of `paths` must not be mounted now.
    pub(in crate::controller) async fn objections(
        &self,
        paths: BTreeSet<AbsolutePath>,
    ) -> BTreeMap<AbsolutePath, String> {
        let Some(judge) = self.0.clone().filter(|_| !paths.is_empty()) else { return BTreeMap::new() };
        let unjudged = paths.clone();
        let judged = tokio::task::spawn_blocking(move || {
            paths.into_iter().filter_map(|path| Some((path.clone(), judge(&path)?))).collect()
        });
        judged.await.unwrap_or_else(|_| {
            unjudged
                .into_iter()
                .map(|path| (path, "failed to check the policy of this host".to_owned()))
                .collect()
        })
    }
}
