//! The web page: all HTML is rendered here, and every action is a form that works without a script.
//!
//! The handlers call the same functions as the API, in process. They show what the record, the manifest and git have,
//! and nothing else. `guard` decides who may see a page; the cookie of a session opens no other route.

mod act;
mod answer;
mod assets;
mod board;
mod card;
mod commits;
mod environment;
mod form;
mod frame;
pub(super) mod guard;
mod headers;
mod hints;
mod lanes;
mod login;
mod one_time;
mod promotion;
mod site;
mod status;
pub(crate) mod text;
mod timeline;
mod why;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

pub use commits::Commits;

pub(super) use act::{hold, promote, resume, rollback, set, sync};
pub(super) use assets::asset;
pub(super) use board::board;
pub(super) use environment::environment;
pub(super) use hints::hints;
pub(super) use login::{login, login_form, login_link, logout};
pub(super) use promotion::promotion;

use crate::model::container::Secret;
use crate::model::public_url::PublicUrl;
use commits::KnownCommits;
use one_time::Codes;

/// The listener that received a request; an extension of every request that came over the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageListener {
    /// Its address.
    pub address: SocketAddr,
    /// Whether it uses TLS.
    pub is_tls: bool,
}

impl PageListener {
    /// Whether only programs of this host can connect.
    fn is_local(&self) -> bool {
        self.address.ip().to_canonical().is_loopback()
    }
}

/// The state of the pages beyond the record.
#[derive(Debug, Default)]
pub struct Pages {
    /// The network listener; `None` without a daemon.
    listener: Option<PageListener>,
    codes: Codes,
    /// What is known of commits.
    history: KnownCommits,
}

impl Pages {
    /// The pages of a daemon that listens on `listener`, with the history of its repositories.
    pub fn new(listener: PageListener, history: Arc<dyn Commits>) -> Self {
        Self { listener: Some(listener), codes: Codes::default(), history: KnownCommits::new(history) }
    }

    /// The address of the page for users of this host, with a slash at its end; `None` without a daemon.
    ///
    /// Programs on other ports of `localhost` get its cookies, because ports do not separate them. No other program
    /// gets those of `abide.localhost`, which browsers resolve by themselves.
    fn local_url(&self) -> Option<String> {
        let PageListener { address, is_tls } = self.listener?;
        let scheme = if is_tls { "https" } else { "http" };
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
