//! nginx's version, and what it means for the configuration. Pure.

use std::fmt;

/// A version of nginx.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Version(pub(crate) u32, pub(crate) u32, pub(crate) u32);

impl Version {
    /// Reads the output of `nginx -v`: `nginx version: nginx/1.22.1`. Forks with other numbers are unknown.
    pub(crate) fn read(output: &str) -> Option<Self> {
        let (_, rest) = output.split_once("nginx version: nginx/")?;
        let word = rest.split(|c: char| !c.is_ascii_digit() && c != '.').next()?;
        let mut numbers = word.split('.').map(|number| number.parse().ok());
        Some(Self(numbers.next()??, numbers.next()??, numbers.next()??))
    }

    /// Whether HTTP/2 is a directive of its own; before, it is a word of `listen`.
    pub(crate) fn has_http2_directive(self) -> bool {
        self >= Self(1, 25, 1)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_read_from_nginx_own_words() {
        assert_eq!(Version::read("nginx version: nginx/1.22.1\n"), Some(Version(1, 22, 1)));
        assert_eq!(Version::read("nginx version: nginx/1.29.6 (Ubuntu)"), Some(Version(1, 29, 6)));
        assert_eq!(Version::read("nginx version: openresty/1.25.3.1"), None);
        assert_eq!(Version::read("nginx: not found"), None);
        assert!(!Version(1, 25, 0).has_http2_directive() && Version(1, 25, 1).has_http2_directive());
        assert!(Version(1, 9, 9) < Version(1, 10, 0));
    }
}
