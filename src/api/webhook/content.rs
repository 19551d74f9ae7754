//! The content type of a delivery.

use axum::http::{HeaderMap, header};

use super::Rejection;

/// A content type that some provider sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BodyFormat {
    /// `application/json`.
    Json,
    /// `application/x-www-form-urlencoded`, with the JSON as its parameter `payload`.
    Form,
}

/// Returns the content type that the headers announce.
///
/// # Errors
/// [`Rejection::UnsupportedMediaType`] for every other type, for a character set other than UTF-8,
/// and for an encoding such as gzip: no provider compresses, and decompression is an attack
/// surface.
pub(super) fn kind(headers: &HeaderMap) -> Result<BodyFormat, Rejection> {
    let refused = Rejection::UnsupportedMediaType;
    let identity = |value: &axum::http::HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"identity");
    if !headers.get_all(header::CONTENT_ENCODING).iter().all(identity) {
        return Err(refused("the body has a content encoding"));
    }
    let mut values = headers.get_all(header::CONTENT_TYPE).iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return Err(refused("it must have exactly one content type"));
    };
    let text = value.to_str().map_err(|_| refused("its content type is not plain text"))?;
    let (essence, parameters) = text.split_once(';').unwrap_or((text, ""));
    if !parameters.split(';').all(is_harmless_parameter) {
        return Err(refused("its character set is not UTF-8"));
    }
    match essence.trim().to_ascii_lowercase().as_str() {
        "application/json" => Ok(BodyFormat::Json),
        "application/x-www-form-urlencoded" => Ok(BodyFormat::Form),
        _ => Err(refused("it is neither JSON nor a form")),
    }
}

fn is_harmless_parameter(parameter: &str) -> bool {
    let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
    let value = value.trim().trim_matches('"');
    !name.trim().eq_ignore_ascii_case("charset")
        || value.eq_ignore_ascii_case("utf-8")
        || value.eq_ignore_ascii_case("utf8")
}

/// Accepts JSON only.
///
/// # Errors
/// [`Rejection::UnsupportedMediaType`] for a form too.
pub(super) fn json_only(headers: &HeaderMap) -> Result<(), Rejection> {
    match kind(headers)? {
        BodyFormat::Json => Ok(()),
        BodyFormat::Form => Err(Rejection::UnsupportedMediaType("this provider sends only JSON")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind_of(headers: &[(&'static str, &'static str)]) -> Option<BodyFormat> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }
        kind(&map).ok()
    }

    #[test]
    fn only_utf8_json_and_forms_are_accepted() {
        for json in
            ["application/json", "Application/JSON; charset=UTF-8", "application/json;charset=\"utf-8\""]
        {
            assert_eq!(kind_of(&[("content-type", json)]), Some(BodyFormat::Json), "{json}");
        }
        let form = "application/x-www-form-urlencoded";
        assert_eq!(kind_of(&[("content-type", form)]), Some(BodyFormat::Form));
        for other in ["text/plain", "multipart/form-data; boundary=x", "application/json; charset=utf-16", ""]
        {
            assert_eq!(kind_of(&[("content-type", other)]), None, "{other}");
        }
        assert_eq!(kind_of(&[]), None);
        assert_eq!(kind_of(&[("content-type", form), ("content-type", form)]), None);
    }

    #[test]
    fn a_content_encoded_body_is_rejected() {
        let json = ("content-type", "application/json");
        assert_eq!(kind_of(&[json, ("content-encoding", "gzip")]), None);
        assert_eq!(kind_of(&[json, ("content-encoding", "identity"), ("content-encoding", "br")]), None);
        assert_eq!(kind_of(&[json, ("content-encoding", "identity")]), Some(BodyFormat::Json));
    }
}
