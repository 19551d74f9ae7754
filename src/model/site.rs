//! The settings of a site: how the proxy treats the requests of an environment.
//!
//! Every value reaches nginx's configuration, so each has a grammar that excludes directives, and the same
//! grammar applies to a manifest, a link and a record.

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroU32;
use std::path::PathBuf;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::name::{InvalidName, SiteName, name};
use super::spec::SecretRef;
use super::wire;

/// Settings of a site.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SiteSettings {
    /// The path below which the environment is served; `None`: all paths.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<SitePath>,
    /// Whether the program gets requests without that path.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub strip_path: bool,
    /// Names that are redirected to the first host name.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub redirect_from: Vec<SiteName>,
    /// The largest body of a request; `None`: no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_body: Option<BodyLimit>,
    /// How long the program or the client may be silent, in milliseconds; `None`: an hour.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<NonZeroU32>,
    /// Whether each client stays at one replica, by a cookie.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub sticky: bool,
    /// Whether texts are compressed.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub gzip: bool,
    /// Names and passwords that clients need; `None`: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub basic_auth: Option<BasicAuth>,
    /// The only networks that may send requests; empty: all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allow: Vec<IpNet>,
    /// Networks that may send none, before `allow`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub deny: Vec<IpNet>,
    /// The most requests of one address; `None`: no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_limit: Option<RateLimit>,
    /// Headers of all answers, instead of the program's; an empty text removes one.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<ResponseHeader, HeaderText>,
    /// Whether the proxy logs each request.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub access_log: bool,
    /// Files of this host with pages for the proxy's own answers, by status.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub error_pages: BTreeMap<ErrorStatus, PageFile>,
}

impl SiteSettings {
    /// Whether nothing is set.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

name!(
    /// A path below which an environment is served.
    SitePath, "path",
    "a path such as \"/api\": parts of A-Z a-z 0-9 - _ . ~, not ending with /, and not a path of the proxy's own",
    is_site_path
);

name!(
    /// The name of a response header.
    ResponseHeader, "header",
    "letters, digits and -, and not a header that describes the message itself or that nginx sends itself, such as Content-Length, Set-Cookie or Server",
    is_response_header
);

name!(
    /// The value of a response header.
    HeaderText, "value of a header",
    "one line of ASCII text of at most 3000 characters",
    is_header_text
);

name!(
    /// The text that a browser shows when it asks for a password.
    AuthRealm, "realm",
    "1 to 64 characters of ASCII text without quotes and backslashes, and not `off`",
    is_realm
);

/// Paths that the proxy answers itself.
const OWN_PATHS: [&str; 2] = ["/.well-known/acme-challenge", "/.abide-front"];

fn is_site_path(text: &str) -> bool {
    let is_part = |part: &str| {
        let known = part.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.~".contains(&b));
        known && !["", ".", ".."].contains(&part)
    };
    let is_own = OWN_PATHS.iter().any(|own| text.starts_with(own));
    text.len() <= 255 && !is_own && text.strip_prefix('/').is_some_and(|rest| rest.split('/').all(is_part))
}

/// Headers that frame a message, that nginx sends itself, or of which a message may have several.
const FRAMING: [&str; 15] = [
    "connection",
    "content-encoding",
    "content-length",
    "content-range",
    "content-type",
    "date",
    "keep-alive",
    "location",
    "server",
    "set-cookie",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "www-authenticate",
];

fn is_response_header(text: &str) -> bool {
    let bytes = text.as_bytes();
    let known = bytes.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'-');
    known
        && bytes.len() <= 64
        && bytes.first().is_some_and(u8::is_ascii_alphabetic)
        && !FRAMING.iter().any(|own| text.eq_ignore_ascii_case(own))
}

/// nginx reads words of at most 4096 bytes, and a `$` takes 15 bytes in its configuration.
fn is_header_text(text: &str) -> bool {
    let in_configuration = text.bytes().map(|b| match b {
        b'$' => 15,
        b'"' | b'\\' => 2,
        _ => 1,
    });
    in_configuration.sum::<usize>() <= 3000 && text.bytes().all(|b| b == b' ' || b.is_ascii_graphic())
}

/// nginx takes the realm `off` for "no password".
fn is_realm(text: &str) -> bool {
    let known = text.bytes().all(|b| (b == b' ' || b.is_ascii_graphic()) && !b"\"\\".contains(&b));
    known && (1..=64).contains(&text.len()) && text != "off"
}

/// Names and passwords that clients need.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BasicAuth {
    /// What browsers show.
    pub realm: AuthRealm,
    /// The users and the hashes of their passwords, as `htpasswd` writes them.
    pub users: SecretRef,
}

impl BasicAuth {
    /// The name of the variable or the path of the file.
    #[must_use]
    pub fn place(&self) -> String {
        match &self.users {
            SecretRef::SecretEnv(name) => name.clone(),
            SecretRef::SecretFile(path) => path.display().to_string(),
        }
    }
}

/// The largest body of a request, in bytes: 1 B to 1 PiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub struct BodyLimit(u64);

impl TryFrom<u64> for BodyLimit {
    type Error = String;

    fn try_from(bytes: u64) -> Result<Self, String> {
        if (1..=1 << 50).contains(&bytes) {
            return Ok(Self(bytes));
        }
        Err("must be a size from 1 byte to 1024 TiB, such as \"10MiB\"".to_owned())
    }
}

impl From<BodyLimit> for u64 {
    fn from(limit: BodyLimit) -> u64 {
        limit.0
    }
}

/// How many requests one address may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "RawRateLimit")]
pub struct RateLimit {
    requests: u32,
    per: RatePeriod,
    burst: u32,
}

/// The period of a rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RatePeriod {
    /// A second.
    Second,
    /// A minute.
    Minute,
}

#[derive(Deserialize)]
struct RawRateLimit {
    requests: u32,
    per: RatePeriod,
    burst: u32,
}

/// The largest rate and burst. nginx counts in thousandths of a request.
const MOST_REQUESTS: u32 = 1_000_000;
const RATE: &str = "must be a rate such as \"10/s\" or \"300/m\"";

impl TryFrom<RawRateLimit> for RateLimit {
    type Error = String;

    fn try_from(raw: RawRateLimit) -> Result<Self, String> {
        if (1..=MOST_REQUESTS).contains(&raw.requests) && raw.burst <= MOST_REQUESTS {
            return Ok(Self { requests: raw.requests, per: raw.per, burst: raw.burst });
        }
        Err(RATE.to_owned())
    }
}

impl RateLimit {
    /// Parses a rate such as `10/s`. As many requests may come at once.
    ///
    /// # Errors
    /// A predicate.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (requests, per) = text.split_once('/').ok_or(RATE)?;
        let per = match per.trim() {
            "s" => RatePeriod::Second,
            "m" => RatePeriod::Minute,
            _ => return Err(RATE.to_owned()),
        };
        let requests = requests.trim().parse().map_err(|_| RATE.to_owned())?;
        RawRateLimit { requests, per, burst: requests }.try_into()
    }

    /// The same with another number of requests that may come at once beyond the rate.
    #[must_use]
    pub fn with_burst(self, burst: u32) -> Self {
        Self { burst: burst.min(MOST_REQUESTS), ..self }
    }

    /// The number of requests that may come at once beyond the rate.
    #[must_use]
    pub fn burst(self) -> u32 {
        self.burst
    }
}

impl fmt::Display for RateLimit {
    /// The rate in nginx's words.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let per = match self.per {
            RatePeriod::Second => 's',
            RatePeriod::Minute => 'm',
        };
        write!(f, "{}r/{per}", self.requests)
    }
}

/// A status that the proxy itself answers with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u16", into = "u16")]
pub struct ErrorStatus(u16);

impl ErrorStatus {
    /// The statuses: no password, no access, too large, too many, and the three of a missing program.
    pub const ALL: [u16; 7] = [401, 403, 413, 429, 502, 503, 504];
}

impl TryFrom<u16> for ErrorStatus {
    type Error = String;

    fn try_from(status: u16) -> Result<Self, String> {
        if Self::ALL.contains(&status) {
            return Ok(Self(status));
        }
        Err(format!("must be one of the proxy's own statuses: {:?}", Self::ALL))
    }
}

impl From<ErrorStatus> for u16 {
    fn from(status: ErrorStatus) -> u16 {
        status.0
    }
}

/// A file of this host with a page.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PageFile(#[serde(deserialize_with = "wire::host_path")] pub PathBuf);

/// The most users of one site.
const MOST_USERS: usize = 1000;
/// The highest cost of bcrypt: cost 5 takes 2.5 ms of a worker for each request, cost 10 takes 67 ms, in which
/// the worker serves nobody else (measured with nginx 1.22 on Debian 12).
const HIGHEST_BCRYPT: u32 = 6;
/// The most rounds of SHA-crypt: twice its default, which takes 2.5 ms.
const MOST_ROUNDS: u32 = 10_000;
/// What to use instead of a hash that is refused.
const REMEDY: &str = "`openssl passwd -6` makes a hash that fits";

/// Checks a list of users and hashes: nginx computes the hash again at every request, so its cost is bounded.
///
/// # Errors
/// A clause that names the line, and contains no hash.
pub fn check_users(text: &str) -> Result<(), String> {
    let mut users = 0;
    for (number, line) in text.lines().enumerate().map(|(index, line)| (index + 1, line)) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let hash = line.split_once(':').filter(|(user, _)| !user.is_empty()).map(|(_, hash)| hash);
        let hash = hash.ok_or_else(|| format!("line {number} must be `user:hash`"))?;
        check_hash(hash).map_err(|why| format!("line {number} {why}"))?;
        users += 1;
    }
    match users {
        0 => Err("it has no users".to_owned()),
        1..=MOST_USERS => Ok(()),
        _ => Err(format!("it has more than {MOST_USERS} users")),
    }
}

fn check_hash(hash: &str) -> Result<(), String> {
    let cheap = ["$apr1$", "$1$", "{SHA}", "{SSHA}"];
    if cheap.iter().any(|kind| hash.starts_with(kind)) {
        return Ok(());
    }
    let mut parts = hash.split('$').skip(1);
    match (parts.next(), parts.next()) {
        (Some("5" | "6"), Some(salt)) => match salt.strip_prefix("rounds=").map(str::parse::<u32>) {
            Some(rounds) if rounds.as_ref().is_ok_and(|rounds| *rounds <= MOST_ROUNDS) => Ok(()),
            Some(_) => Err(format!("has more than {MOST_ROUNDS} rounds: {REMEDY}")),
            None => Ok(()),
        },
        (Some("2a" | "2b" | "2y"), Some(cost)) => match cost.parse::<u32>() {
            Ok(cost) if cost <= HIGHEST_BCRYPT => Ok(()),
            _ => Err(format!(
                "has a bcrypt hash that costs more than {HIGHEST_BCRYPT}, and one request after the other would \
                 stop all sites: {REMEDY}"
            )),
        },
        _ => Err(format!("has a hash of an unknown or expensive kind: {REMEDY}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_site_path_is_plain_and_not_reserved_by_the_proxy() {
        for good in ["/api", "/a/b.c/~d", "/.hidden"] {
            assert!(SitePath::new(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "/",
            "api",
            "/api/",
            "/a//b",
            "/a/..",
            "/a b",
            "/a;",
            "/{",
            "/a$b",
            "/a\n",
            "/.well-known/acme-challenge/x",
            "/.abide-front/x",
        ] {
            assert!(SitePath::new(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_response_header_cannot_break_http_framing() {
        for bad in ["", "Content-Length", "set-cookie", "Server", "X Y", "X:", "X;", "X$a", "-x", "X_y"] {
            assert!(ResponseHeader::new(bad).is_err(), "{bad:?}");
        }
        assert!(ResponseHeader::new("X-Frame-Options").is_ok());
        for bad in ["a\nb", "a\rb", "a\0", "ä", &"$".repeat(201), &"x".repeat(3001)] {
            assert!(HeaderText::new(bad).is_err(), "{bad:?}");
        }
        assert!(HeaderText::new("default-src 'self'; \"$\\{}").is_ok() && HeaderText::new("").is_ok());
        for bad in ["", "off", "a\"b", "a\\", "a\n"] {
            assert!(AuthRealm::new(bad).is_err(), "{bad:?}");
        }
        assert!(AuthRealm::new("Shop; $x {}").is_ok());
    }

    #[test]
    fn the_cost_of_a_password_hash_is_limited() {
        for good in
            ["a:$6$salt$hash", "a:$apr1$x$y", "a:{SHA}x=", "# c\n\nb:$2y$05$abc", "a:$5$rounds=10000$s$h"]
        {
            assert_eq!(check_users(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            "# none",
            "a",
            ":$6$a$b",
            "a:plain",
            "a:{PLAIN}x",
            "a:$2y$10$abc",
            "a:$6$rounds=99999999$s$h",
            "a:$y$j9T$x$y",
            "a:$2y$x$y",
        ] {
            assert!(check_users(bad).is_err(), "{bad}");
        }
        let why = check_users("ok:$6$a$b\nsecretive:$2b$12$topsecret").unwrap_err();
        assert!(why.starts_with("line 2 ") && !why.contains("topsecret"), "{why}");
        assert!(check_users(&"a:{SHA}x\n".repeat(1001)).is_err());
    }

    #[test]
    fn a_rate_limit_is_a_number_per_second_or_minute() {
        let rate = RateLimit::parse("10/s").unwrap();
        assert_eq!((rate.to_string(), rate.burst()), ("10r/s".to_owned(), 10));
        assert_eq!(RateLimit::parse("300 / m").unwrap().with_burst(5).to_string(), "300r/m");
        for bad in ["", "10", "0/s", "-1/s", "10/h", "10/s;", "99999999/s", "1.5/s"] {
            assert!(RateLimit::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn site_settings_in_json_follow_the_manifests_grammar() {
        for bad in [
            r#"{"path": "/a; return 200"}"#,
            r#"{"redirect_from": ["a b"]}"#,
            r#"{"max_body": 0}"#,
            r#"{"timeout": 0}"#,
            r#"{"basic_auth": {"realm": "off", "users": {"secret_env": "A"}}}"#,
            r#"{"allow": ["all; deny"]}"#,
            r#"{"rate_limit": {"requests": 0, "per": "second", "burst": 1}}"#,
            r#"{"headers": {"A B": "x"}}"#,
            r#"{"headers": {"A": "x\ny"}}"#,
            r#"{"error_pages": {"200": "/a"}}"#,
            r#"{"error_pages": {"502": "relative"}}"#,
        ] {
            assert!(serde_json::from_str::<SiteSettings>(bad).is_err(), "{bad}");
        }
        let good = r#"{"path":"/api","rate_limit":{"requests":5,"per":"minute","burst":9},"error_pages":{"502":"/a.html"}}"#;
        let read: SiteSettings = serde_json::from_str(good).unwrap();
        assert_eq!(serde_json::to_string(&read).unwrap(), good);
        assert!(serde_json::from_str::<SiteSettings>("{}").unwrap().is_default());
    }
}
