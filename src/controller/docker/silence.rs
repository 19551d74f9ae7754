//! Words failures to reach the engine. The texts of the HTTP client name its own parts.

use std::error::Error;
use std::io::{self, ErrorKind};

/// The reason why the engine does not respond, with a remedy if the system knows the cause.
pub(super) fn reason(error: &(dyn Error + 'static)) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    match cause.downcast_ref::<io::Error>().map(io::Error::kind) {
        Some(ErrorKind::NotFound) => "its socket does not exist: start Docker, or set DOCKER_HOST".to_owned(),
        Some(ErrorKind::ConnectionRefused) => "nothing listens on its socket: start Docker".to_owned(),
        Some(ErrorKind::PermissionDenied) => {
            "this user may not use its socket: add the user that runs abide to the group `docker`".to_owned()
        }
        Some(ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => "it closed the connection".to_owned(),
        _ => cause.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("Error in the hyper legacy client: client error (Connect)")]
    struct HttpFailure(#[source] io::Error);

    #[test]
    fn the_cause_is_named_without_the_client() {
        for (kind, expected) in [
            (ErrorKind::NotFound, "start Docker"),
            (ErrorKind::ConnectionRefused, "start Docker"),
            (ErrorKind::PermissionDenied, "group `docker`"),
            (ErrorKind::ConnectionReset, "it closed the connection"),
        ] {
            let reason = reason(&HttpFailure(kind.into()));
            assert!(reason.contains(expected) && !reason.contains("hyper"), "{reason}");
        }
    }
}
