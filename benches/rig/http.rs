//! A minimal HTTP client for sockets on this host.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// How long a peer on this host may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// `GET target` on a Unix socket, over a new connection; returns the body of a successful answer.
pub(crate) fn get(socket: &Path, target: &str) -> io::Result<String> {
    ask(socket, "GET", target, "")
}

/// `POST target` with a JSON body, likewise.
pub(crate) fn post(socket: &Path, target: &str, body: &str) -> io::Result<String> {
    ask(socket, "POST", target, body)
}

fn ask(socket: &Path, method: &str, target: &str, body: &str) -> io::Result<String> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    // With HTTP/1.0, the end of the connection ends the answer.
    write!(
        stream,
        "{method} {target} HTTP/1.0\r\nHost: localhost\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    match answer.split_once("\r\n\r\n") {
        Some((head, body)) if head.split_whitespace().nth(1).is_some_and(|code| code.starts_with('2')) => {
            Ok(body.to_owned())
        }
        _ => Err(io::Error::other(format!("{method} {target}: {answer}"))),
    }
}
