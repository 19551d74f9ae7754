//! The headers of every page. Nothing is inline, so that the policy needs no exception.

use axum::http::{HeaderMap, HeaderName, HeaderValue, header};

/// Only this origin's own files, no frame around the page, and HTML from text only through the one policy in
/// `page.js`.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      form-action 'self'; base-uri 'none'; frame-ancestors 'none'; \
                      require-trusted-types-for 'script'; trusted-types abide";

/// Two years, as the preload lists require; browsers then never use plain HTTP.
const STRICT_TRANSPORT: &str = "max-age=63072000";

const ALWAYS: [(HeaderName, &str); 6] = [
    (header::CONTENT_SECURITY_POLICY, POLICY),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "same-origin"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (HeaderName::from_static("permissions-policy"), "camera=(), geolocation=(), microphone=()"),
];

/// Adds them. `is_https` is whether browsers reach this page at a public URL with TLS.
pub(super) fn add(headers: &mut HeaderMap, is_https: bool) {
    for (name, value) in ALWAYS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    if is_https {
        headers.insert(header::STRICT_TRANSPORT_SECURITY, HeaderValue::from_static(STRICT_TRANSPORT));
    }
    // An answer for one user must not be shown to another, and the button "back" must not show it after a logout.
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
}
