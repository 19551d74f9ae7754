//! nginx's version, and its effects on the configuration. Pure.

use std::fmt;

/// A version of nginx.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct NginxVersion(pub(crate) u32, pub(crate) u32, pub(crate) u32);

impl NginxVersion {
    /// Reads the output of `nginx -v`: `nginx version: nginx/1.22.1`. Forks with other numbers are unknown.
    pub(crate) fn read(output: &str) -> Option<Self> {
        let (_, rest) = output.split_once("nginx version: nginx/")?;
        let word = rest.split(|c: char| !c.is_ascii_digit() && c != '.').next()?;
        let mut numbers = word.split('.').map(|number| number.parse().ok());
        Some(Self(numbers.next()??, numbers.next()??, numbers.next()??))
    }

    /// Whether HTTP/2 is a separate directive; before, it is a word of `listen`.
    pub(crate) fn has_http2_directive(self) -> bool {
        self >= Self(1, 25, 1)
    }

    /// Whether clients may use HTTP/2: before, they could occupy processors and memory with little effort
    /// (CVE-2019-9511, CVE-2019-9513, CVE-2019-9516).
    pub(crate) fn has_safe_http2(self) -> bool {
        self >= Self(1, 17, 3) || (self >= Self(1, 16, 1) && self < Self(1, 17, 0))
    }
}

impl fmt::Display for NginxVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nginx_version_is_parsed() {
        assert_eq!(NginxVersion::read("nginx version: nginx/1.22.1\n"), Some(NginxVersion(1, 22, 1)));
        assert_eq!(NginxVersion::read("nginx version: nginx/1.29.6 (Ubuntu)"), Some(NginxVersion(1, 29, 6)));
        assert_eq!(NginxVersion::read("nginx version: openresty/1.25.3.1"), None);
        assert_eq!(NginxVersion::read("nginx: not found"), None);
        assert!(
            !NginxVersion(1, 25, 0).has_http2_directive() && NginxVersion(1, 25, 1).has_http2_directive()
        );
        assert!(NginxVersion(1, 17, 3).has_safe_http2() && NginxVersion(1, 16, 1).has_safe_http2());
        assert!(!NginxVersion(1, 17, 2).has_safe_http2() && !NginxVersion(1, 16, 0).has_safe_http2());
        assert!(NginxVersion(1, 9, 9) < NginxVersion(1, 10, 0));
    }

    /// Vulnerabilities of nginx, and the words of a configuration without which no request reaches them, by
    /// nginx.org's list of 2026-07-22 and the descriptions of the CVEs. A distribution's build of an affected version
    /// may contain the fix, which `nginx -v` does not show, so abide avoids the conditions instead of versions.
    const AVOIDED: &[(&str, &[&str])] = &[
        // A map with a regular expression, and captures in texts.
        ("CVE-2026-42533", &["    ~", "    \"~"]),
        // Captures in `rewrite` and `set`. The one of challenges is named, and neither uses it.
        ("CVE-2026-42945, CVE-2026-9256", &["rewrite ", "set "]),
        // Requests that stay on HTTP/2.
        ("CVE-2026-42055, CVE-2026-42926", &["grpc_pass", "proxy_http_version 2"]),
        ("CVE-2026-60005", &["slice "]),
        ("CVE-2026-56434", &["ssi "]),
        ("CVE-2026-48142, CVE-2026-42934", &["charset "]),
        ("CVE-2026-42946", &["scgi_pass", "uwsgi_pass"]),
        ("CVE-2026-27654", &["dav_methods"]),
        ("CVE-2026-27784, CVE-2026-32647, CVE-2024-7347, CVE-2022-41741, CVE-2022-41742", &["mp4"]),
        ("CVE-2026-40701, CVE-2026-28755", &["ssl_ocsp", "ssl_stapling"]),
        ("CVE-2026-1642", &["proxy_pass https"]),
        ("CVE-2025-23419", &["ssl_verify_client"]),
        (
            "CVE-2026-42530, CVE-2026-40460, CVE-2024-32760, CVE-2024-31079, CVE-2024-35200, CVE-2024-34161",
            &["quic"],
        ),
        ("CVE-2021-23017", &["resolver "]),
    ];

    #[test]
    fn no_configuration_reaches_a_known_vulnerability() {
        let folder = format!("{}/src/controller/front/golden", env!("CARGO_MANIFEST_DIR"));
        let files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()).collect();
        assert!(files.len() > 5, "{files:?}");
        for file in files {
            let text = std::fs::read_to_string(&file).unwrap();
            let lines = || text.lines().filter(|line| !line.trim_start().starts_with('#'));
            for (cve, conditions) in AVOIDED {
                for condition in *conditions {
                    let is_met = |line: &&str| match condition.strip_prefix("    ") {
                        Some(start) => line.trim_start().starts_with(start),
                        None => {
                            line.trim_start().starts_with(condition)
                                || line.contains(&format!(" {condition}"))
                        }
                    };
                    let found: Vec<&str> = lines().filter(is_met).collect();
                    assert!(found.is_empty(), "{cve} in {}: {found:?}", file.display());
                }
            }
        }
    }
}
