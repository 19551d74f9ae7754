//! The grammar of addresses of services that abide calls.

use std::net::IpAddr;

use crate::model::address::is_public;

/// The longest URL.
const LONGEST: usize = 2048;

/// Parses the URL of a service. `schemes` are the accepted ones, the usual first. A private address needs
/// `allow_private`. Names are judged when abide connects.
///
/// A problem never repeats the URL, because it may contain a password.
pub(in crate::model) fn url(text: &str, schemes: &[&str], allow_private: bool) -> Result<String, String> {
    let expected = || {
        let forms: Vec<String> = schemes.iter().map(|scheme| format!("{scheme}://")).collect();
        format!("must be a URL that begins with {}", forms.join(" or "))
    };
    let is_clean = text.len() <= LONGEST && text.bytes().all(|byte| byte.is_ascii_graphic());
    let (scheme, rest) = text.split_once("://").filter(|_| is_clean).ok_or_else(expected)?;
    if !schemes.contains(&scheme) {
        return Err(expected());
    }
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if authority.contains('@') {
        return Err("must not hold a password: name it by `secret_env` or `secret_file`".to_owned());
    }
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => (host, Some(port)),
        _ => (authority, None),
    };
    let is_port = port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0));
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    if bare.is_empty() || !is_port || bare.len() > 253 {
        return Err("must name a host, and a port from 1 to 65535 if any".to_owned());
    }
    // Resolvers read `127.1` and `0x7f000001` as addresses too.
    let last = bare.trim_end_matches('.').rsplit('.').next().unwrap_or_default();
    let is_number = last.bytes().all(|byte| byte.is_ascii_digit()) || last.starts_with("0x");
    if is_number && bare.parse::<IpAddr>().is_err() {
        return Err("must name a host, or an address such as 192.0.2.7".to_owned());
    }
    if !allow_private && is_inside(bare) {
        return Err("is a private address: add `allow_private = true` if that is intended".to_owned());
    }
    Ok(text.to_owned())
}

/// Whether a host is private as it is written.
fn is_inside(host: &str) -> bool {
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    host == "localhost"
        || host.ends_with(".localhost")
        || host.parse::<IpAddr>().is_ok_and(|address| !is_public(address))
}

/// Parses an e-mail address. It is written into commands and headers, so it has a narrow grammar.
pub(super) fn mail_address(text: &str) -> Result<String, String> {
    let is_part = |part: &str| {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~.".contains(&byte);
        !part.is_empty() && part.bytes().all(is_plain)
    };
    match text.rsplit_once('@') {
        Some((local, domain)) if text.len() <= 254 && is_part(local) && is_part(domain) => {
            Ok(text.to_owned())
        }
        _ => Err("must be an address such as \"ops@example.com\"".to_owned()),
    }
}
