//! The web page: all HTML is rendered here, and every action is a form that works without a script.
//!
//! The handlers call the same functions as the API, in process. They show what the record, the manifest and git have,
//! and nothing else. `guard` decides who may see a page; the cookie of a session opens no other route.

mod act;
mod activity;
mod answer;
mod assets;
mod board;
mod build;
mod card;
mod commits;
mod environment;
mod evidence;
mod form;
mod frame;
mod group;
mod group_form;
mod group_judgement;
mod group_promotion;
pub(super) mod guard;
mod headers;
mod hints;
mod hosts;
mod lanes;
mod log;
mod login;
mod one_time;
mod outbox;
mod promotion;
mod send;
mod site;
mod status;
mod stopped;
mod stream;
pub(crate) mod text;
mod timeline;
mod tokens;
mod trouble;
mod unit;
mod why;

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

pub use commits::CommitHistory;

pub(super) use activity::{activity, events, history};
pub(super) use assets::asset;
pub(super) use board::board;
pub(super) use build::{build, build_download, build_follow, builds};
pub(super) use environment::environment;
pub(super) use group::group;
pub(super) use hints::hints;
pub(super) use hosts::hosts;
pub(super) use log::{download as log_download, follow as log_follow, log};
pub(super) use login::{login, login_form, login_link, logout};
pub(super) use outbox::{outbox, outbox_retry};
pub(super) use promotion::promotion;
pub(super) use send::{
    approve, canary_abort, canary_promote, hold, promote, reject, resume, rollback, set, sync, withdraw,
};

pub(super) use tokens::{session_end, token_create, token_revoke, tokens};

use crate::model::container::Secret;
use crate::model::listener::DaemonListener;
use crate::model::public_url::PublicUrl;
use commits::KnownCommits;
use one_time::Codes;

/// The state of the pages beyond the record.
#[derive(Debug, Default)]
pub struct Pages {
    /// The network listener; `None` without a daemon.
    listener: Option<DaemonListener>,
    codes: Codes,
    /// The known commits.
    history: KnownCommits,
}

impl Pages {
    /// The pages of a daemon that listens on `listener`, with the history of its repositories.
    pub fn new(listener: DaemonListener, history: Arc<dyn CommitHistory>) -> Self {
        Self { listener: Some(listener), codes: Codes::default(), history: KnownCommits::new(history) }
    }

    /// The address of the page for users of this host, with a slash at its end; `None` without a daemon.
    ///
    /// Programs on other ports of `localhost` get its cookies, because ports do not separate them. No other program
    /// gets those of `abide.localhost`, which browsers resolve by themselves.
    fn local_url(&self) -> Option<String> {
        let listener = self.listener?;
        let (address, scheme) = (listener.address, listener.scheme());
        let ip = address.ip().to_canonical();
        let is_reached_locally = ip.is_loopback() || ip.is_unspecified();
        let host = if is_reached_locally {
            format!("abide.localhost:{}", address.port())
        } else {
            address.to_string()
        };
        Some(format!("{scheme}://{host}/"))
    }

    /// A link that signs a user of this host in, once within `lifetime`, and the same at the loopback address;
    /// `None` without a daemon.
    pub fn link(
        &self,
        public: Option<&PublicUrl>,
        user: &str,
        lifetime: Duration,
    ) -> Option<(Secret, Secret)> {
        let local = self.local_url()?;
        let code = self.codes.issue(user, Instant::now(), lifetime)?;
        let url = public.map_or_else(|| local.clone(), ToString::to_string);
        let with_code = |url: &str| Secret::new(format!("{url}login#code={code}"));
        Some((with_code(&url), with_code(&local)))
    }
}
