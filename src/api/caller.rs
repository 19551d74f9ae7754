//! Who is on the Unix socket, for `by` in the record.

use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;

use super::Caller;
use super::serve::Peer;

/// The users of this machine.
const USERS: &str = "/etc/passwd";

/// Names the user behind a connection, as the kernel tells it.
pub async fn name_caller(mut request: Request, next: Next) -> Response {
    let peer = request.extensions().get::<Peer>();
    if let Some(uid) = peer.and_then(|peer| peer.uid) {
        let users = tokio::fs::read_to_string(USERS).await.unwrap_or_default();
        let name = user_name(&users, uid).map_or_else(|| format!("uid {uid}"), str::to_owned);
        request.extensions_mut().insert(Caller(name));
    }
    next.run(request).await
}

/// The name of a user in the text of a passwd file.
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
    fn a_user_is_found_by_number_and_odd_lines_are_passed_over() {
        let users = "root:x:0:0:root:/root:/bin/sh\n\nbroken\nalice:x:1000:1000::/home/alice:/bin/bash\n";
        assert_eq!(user_name(users, 0), Some("root"));
        assert_eq!(user_name(users, 1000), Some("alice"));
        assert_eq!(user_name(users, 1001), None);
    }
}
