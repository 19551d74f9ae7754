//! The stylesheet, the script and the icons. Their names contain a hash of their content, so browsers never ask twice.

use std::sync::LazyLock;

use axum::body::Body;
use axum::extract::Path;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use flate2::Compression;
use sha2::{Digest as _, Sha256};

use super::answer::gzip;
use super::guard::Visit;

/// One file.
pub(super) struct Asset {
    /// Its name with the hash: `page-1f0c….css`.
    pub(super) name: String,
    kind: &'static str,
    text: &'static str,
    packed: Option<Vec<u8>>,
}

/// All files.
pub(super) struct Assets {
    pub(super) style: Asset,
    pub(super) script: Asset,
    /// The icon of a page without trouble.
    pub(super) calm: Asset,
    /// The icon of a page with trouble; another shape, not only another colour.
    pub(super) trouble: Asset,
}

/// The files, compressed once.
pub(super) static ASSETS: LazyLock<Assets> = LazyLock::new(|| Assets {
    style: Asset::new("page", "css", "text/css; charset=utf-8", include_str!("assets/page.css")),
    script: Asset::new("page", "js", "text/javascript; charset=utf-8", include_str!("assets/page.js")),
    calm: Asset::new("calm", "svg", "image/svg+xml", include_str!("assets/calm.svg")),
    trouble: Asset::new("trouble", "svg", "image/svg+xml", include_str!("assets/trouble.svg")),
});

impl Asset {
    fn new(name: &str, ending: &str, kind: &'static str, text: &'static str) -> Self {
        let hash = hex::encode(&Sha256::digest(text)[..8]);
        let packed = gzip(text.as_bytes(), Compression::best()).ok();
        Self { name: format!("{name}-{hash}.{ending}"), kind, text, packed }
    }
}

/// `GET /assets/{name}`
pub(in crate::api) async fn asset(visit: Visit, Path(name): Path<String>) -> Response {
    let Assets { style, script, calm, trouble } = &*ASSETS;
    let Some(asset) = [style, script, calm, trouble].into_iter().find(|asset| asset.name == name) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let (kind, forever) = (asset.kind, "public, max-age=31536000, immutable");
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(kind)),
        (header::CACHE_CONTROL, HeaderValue::from_static(forever)),
        (header::VARY, HeaderValue::from_static("accept-encoding")),
    ];
    match asset.packed.as_ref().filter(|_| visit.takes_gzip) {
        Some(packed) => {
            (headers, [(header::CONTENT_ENCODING, "gzip")], Body::from(packed.clone())).into_response()
        }
        None => (headers, asset.text).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn assets_stay_within_their_size_budgets() {
        let size = |asset: &Asset| asset.packed.as_ref().unwrap().len();
        assert!(size(&ASSETS.style) <= 6 * 1024, "{}", size(&ASSETS.style));
        assert!(size(&ASSETS.script) <= 6 * 1024, "{}", size(&ASSETS.script));
    }

    #[test]
    fn no_file_refers_to_another_site() {
        for asset in [&ASSETS.style, &ASSETS.script, &ASSETS.calm, &ASSETS.trouble] {
            let text = asset.text.replace("http://www.w3.org/2000/svg", "");
            for foreign in ["http:", "https:", "url(", "@import", "eval(", "innerHTML"] {
                assert!(!text.contains(foreign), "{} contains {foreign}", asset.name);
            }
        }
    }
}
