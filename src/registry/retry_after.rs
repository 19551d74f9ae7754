//! `Retry-After`: the pause that a service requests.

use std::time::{Duration, SystemTime};

use hyper::HeaderMap;
use hyper::header::RETRY_AFTER;

/// The longest accepted pause: an error of the service must not stop an environment for days.
const LONGEST: Duration = Duration::from_secs(60 * 60);

/// The requested pause, given in seconds or as a date.
pub(crate) fn read(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let pause = match text.parse().map(Duration::from_secs) {
        Ok(pause) => pause,
        Err(_) => httpdate::parse_http_date(text).ok()?.duration_since(SystemTime::now()).unwrap_or_default(),
    };
    Some(pause.min(LONGEST))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pause(text: &str) -> Option<Duration> {
        read(&HeaderMap::from_iter([(RETRY_AFTER, text.parse().unwrap())]))
    }

    #[test]
    fn retry_after_is_parsed_in_both_forms_and_capped() {
        assert_eq!(pause("60"), Some(Duration::from_secs(60)));
        assert_eq!(pause("0"), Some(Duration::ZERO));
        assert_eq!(pause("99999999"), Some(LONGEST));
        let soon = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(100));
        let soon = pause(&soon).unwrap().as_secs();
        assert!((90..=100).contains(&soon), "{soon}");
        assert_eq!(pause("Wed, 21 Oct 2015 07:28:00 GMT"), Some(Duration::ZERO));
        for wrong in ["", "soon", "-1", "1.5"] {
            assert_eq!(pause(wrong), None, "{wrong}");
        }
    }
}
