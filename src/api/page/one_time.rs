//! One-time codes for users of this host. They are in memory only, so a restart of the daemon ends them.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use tokio::time::Instant;

/// The lifetime of a code that a user requests.
pub(super) const VALID_FOR: Duration = Duration::from_secs(60);
/// The most unused codes; a new one replaces the oldest.
const MOST: usize = 32;

/// The unused codes.
#[derive(Debug, Default)]
pub(super) struct Codes {
    issued: Mutex<Vec<IssuedLink>>,
}

#[derive(Debug)]
struct IssuedLink {
    hash: [u8; 32],
    user: String,
    until: Instant,
}

impl Codes {
    /// Issues a code of 128 random bits for `user`; `None` if the system has no random numbers.
    pub(super) fn issue(&self, user: &str, now: Instant, lifetime: Duration) -> Option<String> {
        let mut code = [0; 16];
        getrandom::fill(&mut code).ok()?;
        let code = URL_SAFE_NO_PAD.encode(code);
        let mut issued = self.issued.lock().unwrap_or_else(PoisonError::into_inner);
        issued.retain(|issued| now < issued.until);
        if issued.len() >= MOST {
            issued.remove(0);
        }
        issued.push(IssuedLink { hash: hash(&code), user: user.to_owned(), until: now + lifetime });
        Some(code)
    }

    /// Returns the user of a valid code, and ends the code.
    pub(super) fn redeem(&self, shown: &str, now: Instant) -> Option<String> {
        let hash = hash(shown);
        let mut issued = self.issued.lock().unwrap_or_else(PoisonError::into_inner);
        issued.retain(|issued| now < issued.until);
        let at = issued.iter().position(|issued| issued.hash.ct_eq(&hash).into())?;
        Some(issued.remove(at).user)
    }
}

fn hash(code: &str) -> [u8; 32] {
    Sha256::digest(code).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_works_once_and_only_for_a_minute() {
        let (codes, now) = (Codes::default(), Instant::now());
        let code = codes.issue("alice", now, VALID_FOR).unwrap();
        assert_eq!(codes.redeem(&code[1..], now), None);
        assert_eq!(codes.redeem(&code, now), Some("alice".to_owned()));
        assert_eq!(codes.redeem(&code, now), None, "it was used");
        let late = codes.issue("bob", now, VALID_FOR).unwrap();
        assert_eq!(codes.redeem(&late, now + VALID_FOR), None);
    }

    #[test]
    fn codes_are_long_and_limited_in_number() {
        let (codes, now) = (Codes::default(), Instant::now());
        let issued: Vec<String> = (0..100).map(|_| codes.issue("alice", now, VALID_FOR).unwrap()).collect();
        assert!(issued.iter().all(|code| code.len() == 22), "16 bytes");
        let valid = issued.iter().filter(|code| codes.redeem(code, now).is_some()).count();
        assert_eq!(valid, MOST);
    }
}
