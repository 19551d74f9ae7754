//! Answers of pages: rendering, versions, compression, errors.

use std::io::Write as _;

use askama::Template;
use askama::filters::Safe;
use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use flate2::Compression;
use flate2::write::GzEncoder;
use sha2::{Digest as _, Sha256};

use super::frame::Frame;
use super::guard::Visit;
use super::text::without_words_of_times;
use crate::api::ApiState;
use crate::api::error::ApiError;

/// Replaced by the version of a page in its own text.
const VERSION: &str = "data-version=\"\"";
/// Replaced by the version of a part.
const PART_VERSION: &str = "data-rev=\"\"";
/// Shorter answers are not compressed, in bytes.
const WORTH_COMPRESSING: usize = 1_024;

/// Renders a template. An error does not happen for these templates.
pub(super) fn rendered(template: &impl Template) -> Result<String, ApiError> {
    template.render().map_err(|error| {
        tracing::error!(%error, "cannot render a page");
        ApiError::unavailable("internal", "cannot render the page: see the log of the daemon")
    })
}

/// A part of a page that the script replaces when its version changes. Its root element has `data-live` and an empty
/// `data-rev`. Words of times do not count, because they change while nothing else does.
pub(super) fn part(template: &impl Template) -> Result<Safe<String>, ApiError> {
    let html = rendered(template)?;
    let version = version(&html);
    Ok(Safe(html.replacen(PART_VERSION, &format!("data-rev=\"{version}\""), 1)))
}

fn version(html: &str) -> String {
    let hash = Sha256::digest(without_words_of_times(html));
    hex::encode(&hash[..8])
}

/// Answers with a page.
pub(super) fn page(visit: &Visit, template: &impl Template) -> Result<Response, ApiError> {
    page_with(visit, StatusCode::OK, template)
}

/// Answers with a page and a status.
pub(super) fn page_with(
    visit: &Visit,
    status: StatusCode,
    template: &impl Template,
) -> Result<Response, ApiError> {
    let html = rendered(template)?;
    let version = version(&html);
    let tag = format!("W/\"{version}\"");
    if status == StatusCode::OK && visit.has.as_deref() == Some(tag.as_str()) {
        return Ok((StatusCode::NOT_MODIFIED, [(header::ETAG, tag)]).into_response());
    }
    let html = html.replacen(VERSION, &format!("data-version=\"{version}\""), 1);
    let mut response = text(visit.takes_gzip, "text/html; charset=utf-8", html);
    *response.status_mut() = status;
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        response.headers_mut().insert(header::ETAG, tag);
    }
    Ok(response)
}

/// Compression reveals nothing here (BREACH): no page contains a secret.
fn text(takes_gzip: bool, kind: &'static str, text: String) -> Response {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
    if !takes_gzip || text.len() < WORTH_COMPRESSING {
        return (headers, text).into_response();
    }
    match gzip(text.as_bytes(), Compression::fast()) {
        Ok(packed) => {
            headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            (headers, Body::from(packed)).into_response()
        }
        Err(_) => (headers, text).into_response(),
    }
}

/// Compresses bytes.
pub(super) fn gzip(bytes: &[u8], level: Compression) -> std::io::Result<Vec<u8>> {
    let mut packer = GzEncoder::new(Vec::with_capacity(bytes.len() / 4), level);
    packer.write_all(bytes)?;
    packer.finish()
}

/// Sends the browser to another path of this site.
pub(super) fn see_other(path: &str) -> Response {
    let Ok(path) = HeaderValue::from_str(path) else { return StatusCode::BAD_REQUEST.into_response() };
    (StatusCode::SEE_OTHER, [(header::LOCATION, path)]).into_response()
}

#[derive(Template)]
#[template(path = "failure.html")]
struct FailurePage {
    frame: Frame,
    heading: &'static str,
    message: String,
    status: u16,
}

/// The page of an error.
pub(super) fn failure(visit: &Visit, api: &ApiState, error: &ApiError) -> Response {
    let heading = match error.status {
        StatusCode::NOT_FOUND => "Not found",
        StatusCode::FORBIDDEN => "Not allowed",
        StatusCode::CONFLICT => "Nothing was changed",
        StatusCode::UNPROCESSABLE_ENTITY | StatusCode::BAD_REQUEST => "Invalid request",
        StatusCode::TOO_MANY_REQUESTS => "Too many attempts",
        StatusCode::SERVICE_UNAVAILABLE => "abide cannot answer this now",
        _ => "That did not work",
    };
    let frame = Frame::new(visit, api, heading, "");
    let (message, status) = (super::text::sentence(&error.view.message), error.status.as_u16());
    let page = FailurePage { frame, heading, message, status };
    page_with(visit, error.status, &page).unwrap_or_else(|_| error.status.into_response())
}
