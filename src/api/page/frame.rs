//! What every page has around its content.

use super::assets::{ASSETS, Assets};
use super::guard::Visit;
use super::text::PageClock;
use crate::api::ApiState;

/// The values of the base layout.
pub(super) struct Frame {
    /// Precedes every path of a link.
    pub(super) root: String,
    /// The title in the tab, without the name of the program.
    pub(super) title: String,
    /// The active item of the navigation.
    pub(super) active: &'static str,
    /// Whether the icon shows trouble.
    pub(super) is_bad: bool,
    /// The visitor's name and role; `None` before the login.
    pub(super) who: Option<String>,
    /// Whether the visitor may see the tokens.
    pub(super) is_admin: bool,
    /// Whether the visitor has a session that can be ended.
    pub(super) may_sign_out: bool,
    /// The address of the hints, for pages that are live.
    pub(super) hints: Option<String>,
    pub(super) assets: &'static Assets,
    pub(super) host: String,
    pub(super) version: &'static str,
    pub(super) clock: PageClock,
}

impl Frame {
    /// The frame of a page.
    pub(super) fn new(visit: &Visit, api: &ApiState, title: &str, active: &'static str) -> Self {
        let who = visit.access.as_ref().map(|access| {
            let name = access.by().strip_prefix("token ").unwrap_or(access.by());
            let name = name.split_once(" (").map_or(name, |(name, _)| name);
            format!("{name} · {}", access.role())
        });
        Self {
            root: visit.site.prefix.clone(),
            title: title.to_owned(),
            active,
            is_bad: false,
            may_sign_out: visit.session.is_some(),
            who,
            is_admin: visit.may_administer(),
            hints: None,
            assets: &ASSETS,
            host: visit.site.host.clone(),
            version: env!("CARGO_PKG_VERSION"),
            clock: PageClock((api.clock)()),
        }
    }

    /// Makes the page live: the script fetches it again at every hint about `environment`, or about any.
    pub(super) fn live(mut self, environment: Option<&str>) -> Self {
        let about = environment.map_or_else(String::new, |name| format!("?environment={name}"));
        self.hints = Some(format!("{}/hints{about}", self.root));
        self
    }

    /// The places of the navigation: key, word and path.
    pub(super) fn places(&self) -> Vec<(char, &'static str, &'static str)> {
        let mut places = vec![('b', "Board", ""), ('a', "Activity", "activity"), ('h', "Hosts", "hosts")];
        places.extend(self.is_admin.then_some(('t', "Tokens", "tokens")));
        places
    }

    /// Shows trouble in the tab.
    pub(super) fn troubled(mut self, is_bad: bool) -> Self {
        self.is_bad = is_bad;
        self
    }
}
