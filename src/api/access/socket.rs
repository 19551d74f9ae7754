//! Identifies clients of the Unix socket by their user ID, which the kernel reports. The mode of
//! the socket controls who can connect, and every connected user may do everything.

use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;

use super::Access;
use crate::api::serve::{AdmissionGuard, Peer};

/// The file with the users of this host.
const USERS: &str = "/etc/passwd";

/// Names the user of a connection by the user ID that the kernel reports.
pub async fn name_caller(mut request: Request, next: Next) -> Response {
    let uid = request.extensions().get::<Peer>().and_then(|peer| peer.uid);
    let name = match uid {
        Some(uid) => named(&tokio::fs::read_to_string(USERS).await.unwrap_or_default(), uid),
        None => "local".to_owned(),
    };
    request.extensions_mut().insert(Access::local(name));
    if let Some(standing) = request.extensions().get::<AdmissionGuard>() {
        standing.prove();
    }
    next.run(request).await
}

/// Returns the name of the user who runs this process, for a command that needs no daemon.
pub fn own_name() -> String {
    named(&std::fs::read_to_string(USERS).unwrap_or_default(), rustix::process::getuid().as_raw())
}

fn named(users: &str, uid: u32) -> String {
    user_name(users, uid).map_or_else(|| format!("uid {uid}"), str::to_owned)
}

/// Returns the name of a user from the text of a passwd file.
fn user_name(users: &str, uid: u32) -> Option<&str> {
    users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let found = fields.nth(1)?.parse::<u32>().ok()?;
        (found == uid && !name.is_empty() && !name.chars().any(char::is_control)).then_some(name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_found_by_uid_and_malformed_lines_are_skipped() {
        let users = "root:x:0:0:root:/root:/bin/sh\n\nbroken\nalice:x:1000:1000::/home/alice:/bin/bash\n";
        assert_eq!(user_name(users, 0), Some("root"));
        assert_eq!(user_name(users, 1000), Some("alice"));
        assert_eq!(user_name(users, 1001), None);
    }
}
