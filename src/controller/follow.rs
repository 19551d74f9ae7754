//! Following branches: one task a repository asks git for the heads, when a push was announced and
//! now and then anyway, and takes what it finds into the record.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tracing::{info, warn};

use super::clock::now;
use super::paths::Paths;
use super::remote::remote;
use crate::model::error::chain;
use crate::model::event::EventKind;
use crate::model::name::{BranchName, EnvironmentName, RepositoryName};
use crate::model::spec::Login;
use crate::plan::backoff;
use crate::record::{Resolver, StatusWriter};

/// However fast pushes are announced, git is asked at most this often.
const AT_LEAST_BETWEEN: Duration = Duration::from_millis(200);

/// What keeps branches and registries from being followed, by whose trouble it is, in sentences.
pub(crate) type FollowTrouble = Arc<Mutex<BTreeMap<String, String>>>;

/// One repository and who follows it.
#[derive(Clone)]
pub(crate) struct Follower {
    pub(crate) repository: RepositoryName,
    pub(crate) url: String,
    /// Who we are there.
    pub(crate) login: Option<Login>,
    pub(crate) poll: Duration,
    pub(crate) followers: Vec<(EnvironmentName, BranchName)>,
    /// Which commits concern which of them.
    pub(crate) paths: Arc<Paths>,
    /// Rung when a push was announced.
    pub(crate) announced: Arc<Notify>,
    pub(crate) resolver: Resolver,
    pub(crate) writer: StatusWriter,
    pub(crate) trouble: FollowTrouble,
}

/// Waits until the next poll, which is sooner after failures: what was announced must get through soon
/// after the other side answers again. For ever where nothing failed and nothing is polled.
pub(super) async fn until_next_poll(poll: Duration, failures: u32, seed: &str) {
    let retry = (failures > 0).then(|| backoff(failures + 1, seed));
    let pause = match retry {
        Some(retry) if !poll.is_zero() => retry.min(poll),
        Some(retry) => retry,
        None if poll.is_zero() => return std::future::pending().await,
        None => poll,
    };
    tokio::time::sleep(pause).await;
}

impl Follower {
    /// Follows until dropped.
    pub(crate) async fn run(self) {
        let mut failures = 0;
        loop {
            failures = match self.ask().await {
                Ok(()) => self.over_trouble(),
                Err(why) => self.in_trouble(&why, failures + 1).await,
            };
            tokio::time::sleep(AT_LEAST_BETWEEN).await;
            tokio::select! {
                () = self.announced.notified() => {}
                () = until_next_poll(self.poll, failures, self.repository.as_str()) => {}
            }
        }
    }

    async fn ask(&self) -> Result<(), String> {
        let remote = remote(&self.url, self.login.as_ref()).map_err(|error| chain(&error))?;
        let heads = remote.heads().await.map_err(|error| chain(&error))?;
        let mut missing = Vec::new();
        for (environment, branch) in &self.followers {
            let Some(head) = heads.get(branch.as_str()) else {
                missing.push(branch.as_str());
                continue;
            };
            if !self.paths.concern(environment, branch, head).await? {
                let passed = self.resolver.pass_over(environment, head).await;
                if passed.map_err(|error| chain(&error))? {
                    info!(%environment, revision = %head, "the commit touches none of the paths of its build");
                }
                continue;
            }
            let moved = self.resolver.advance_head(environment, head, now()).await;
            if let Some(generation) = moved.map_err(|error| chain(&error))? {
                info!(%environment, %generation, revision = %head, "the branch moved");
            }
        }
        match missing.as_slice() {
            [] => Ok(()),
            missing => Err(format!(
                "{} has no branch `{}`; what follows it keeps what it has",
                self.repository,
                missing.join("`, `")
            )),
        }
    }

    fn name(&self) -> String {
        format!("repository {}", self.repository)
    }

    fn over_trouble(&self) -> u32 {
        let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        if trouble.remove(&self.name()).is_some() {
            info!(repository = %self.repository, "the repository answers again");
        }
        0
    }

    async fn in_trouble(&self, why: &str, failures: u32) -> u32 {
        warn!(repository = %self.repository, why, failures, "the heads of the branches are not known");
        let sentence = format!("{}: {why}", self.name());
        let known = {
            let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
            trouble.insert(self.name(), sentence.clone()).is_some()
        };
        if !known {
            for (environment, _) in &self.followers {
                // An event that cannot be kept is in the log line above.
                let _ = self.writer.event(environment, EventKind::Failure, &sentence, now()).await;
            }
        }
        failures
    }
}
