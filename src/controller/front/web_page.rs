//! Renders the location of abide's own web page, which the daemon serves. Pure.

use std::fmt::Write as _;

use super::page;
use crate::model::listener::DaemonListener;
use crate::model::name::SiteName;
use crate::model::site::SitePath;
use crate::model::spec::Manifest;

/// The web page, as the front serves it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServedPage {
    /// Its host name.
    pub(super) name: SiteName,
    /// The path below which it is; `None`: all paths.
    pub(super) path: Option<SitePath>,
    /// The origin of its URL.
    origin: String,
    /// Whether that URL has HTTPS, so that nothing is served without.
    is_https: bool,
    /// The daemon's listener for it.
    listener: DaemonListener,
}

impl ServedPage {
    /// The page of a manifest; `None` if the front does not serve it.
    pub(super) fn of(manifest: &Manifest, listener: Option<DaemonListener>) -> Option<Self> {
        let url = manifest.page_on_front()?;
        let path = (!url.prefix().is_empty()).then(|| SitePath::new(url.prefix()));
        Some(Self {
            name: SiteName::new(url.host()).ok()?,
            path: path.transpose().ok()?,
            origin: url.origin(),
            is_https: url.is_https(),
            listener: listener?,
        })
    }

    /// Renders its locations. `scheme` is the variable with the client's scheme.
    ///
    /// The daemon believes no header about the client, so the front decides here that nothing arrives without TLS.
    pub(super) fn write(&self, out: &mut String, scheme: &str) {
        let origin = &self.origin;
        let (at, pass) = match &self.path {
            None => ("/".to_owned(), ""),
            Some(path) => {
                let _ = write!(
                    out,
                    "        location = {path} {{\n            return 308 {origin}{path}/;\n        }}\n"
                );
                (format!("^~ {path}/"), "/")
            }
        };
        let _ = writeln!(out, "        location {at} {{");
        if self.is_https {
            let _ = write!(
                out,
                "            if (${scheme} != https) {{\n                return 308 {origin}$request_uri;\n            }}\n"
            );
        }
        let (protocol, address) = (self.listener.scheme(), self.listener.local_address());
        let _ = write!(
            out,
            "            error_page 502 504 @abide-page;\n            proxy_pass {protocol}://{address}{pass};\n        }}\n        \
             location @abide-page {{\n            add_header Retry-After {} always;\n            return 502 '{}';\n        }}\n",
            page::RETRY_AFTER.as_secs(),
            page::unanswered("abide"),
        );
    }
}
