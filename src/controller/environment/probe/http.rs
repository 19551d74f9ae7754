//! One HTTP request to a program, and the interpretation of its answer.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::ask::ProbeResult;
use crate::model::container::Secret;

/// The longest status line that is read, in bytes.
const LONGEST_LINE: usize = 512;

/// The request, and the host name that it uses.
pub(super) struct HttpProbe<'a> {
    pub(super) path: &'a str,
    pub(super) port: u16,
    pub(super) host: &'a str,
    /// Whether that host name was declared.
    pub(super) is_host_declared: bool,
    pub(super) headers: &'a [(String, Secret)],
}

impl HttpProbe<'_> {
    /// Sends the request to the program behind `stream`. Only the status of its answer counts.
    pub(super) async fn send(&self, mut stream: TcpStream) -> ProbeResult {
        match self.exchange(&mut stream).await {
            Ok(line) => self.judge(&line),
            Err(error) => ProbeResult::Miss(format!("{self} was interrupted: {error}")),
        }
    }

    async fn exchange(&self, stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
        stream.write_all(self.text().as_bytes()).await?;
        let (mut line, mut buffer) = (Vec::new(), [0; LONGEST_LINE]);
        while line.len() < LONGEST_LINE && !line.contains(&b'\n') {
            match stream.read(&mut buffer).await {
                Ok(0) => break,
                Ok(count) => line.extend_from_slice(&buffer[..count]),
                // A status that arrived before the error is an answer.
                Err(_) if is_status(&line) => break,
                Err(error) => return Err(error),
            }
        }
        if line.is_empty() {
            return Err(std::io::Error::other("the connection was closed without an answer"));
        }
        Ok(line)
    }

    fn text(&self) -> String {
        let mut text = format!("GET {} HTTP/1.1\r\nHost: {}\r\n", self.path, self.host);
        let names_agent = self.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("user-agent"));
        if !names_agent {
            text.push_str("User-Agent: abide\r\n");
        }
        for (name, value) in self.headers {
            text.push_str(&format!("{name}: {}\r\n", value.expose()));
        }
        text + "Connection: close\r\n\r\n"
    }

    fn judge(&self, answer: &[u8]) -> ProbeResult {
        let line = answer.split(|b| *b == b'\r' || *b == b'\n').next().unwrap_or_default();
        let status = Some(line).filter(|line| is_status(line)).and_then(|line| {
            let text = String::from_utf8_lossy(line.get(9..)?).trim().to_owned();
            Some((text.get(..3)?.parse::<u16>().ok()?, text))
        });
        match status {
            Some((200..=399, _)) => ProbeResult::Good,
            Some((status, text)) => ProbeResult::Miss(format!("{self} answered {text}{}", self.hint(status))),
            None => ProbeResult::Miss(format!("{self} got a response that is not HTTP")),
        }
    }

    /// Frameworks with a list of allowed hosts give this answer to any other.
    fn hint(&self, status: u16) -> &'static str {
        match status {
            400 | 403 | 421 if !self.is_host_declared => {
                "; if the program accepts only its own host names, set one as `host` in `health`"
            }
            _ => "",
        }
    }
}

impl std::fmt::Display for HttpProbe<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "GET {} on port {} with Host {}", self.path, self.port, self.host)
    }
}

/// `HTTP/1.1 200` and whatever follows.
fn is_status(line: &[u8]) -> bool {
    line.starts_with(b"HTTP/1.")
        && line.get(9..12).is_some_and(|digits| digits.iter().all(u8::is_ascii_digit))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    /// Returns the judgement of a request that gets `answer`, and the request itself.
    async fn asked(
        headers: &[(String, Secret)],
        is_host_declared: bool,
        answer: &'static str,
    ) -> (ProbeResult, String) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let program = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 1024];
            let count = stream.read(&mut request).await.unwrap();
            stream.write_all(answer.as_bytes()).await.unwrap();
            String::from_utf8_lossy(&request[..count]).into_owned()
        });
        let stream = TcpStream::connect(address).await.unwrap();
        let request = HttpProbe { path: "/up", port: 80, host: "a.example", is_host_declared, headers };
        let answer = timeout(Duration::from_secs(60), request.send(stream)).await.unwrap();
        (answer, program.await.unwrap())
    }

    #[tokio::test]
    async fn an_http_probe_accepts_statuses_200_to_399() {
        for (answer, good) in [
            ("HTTP/1.1 200 OK\r\n\r\n", true),
            ("HTTP/1.0 302 Found\r\n\r\n", true),
            ("HTTP/1.1 204\r\n\r\n", true),
            ("HTTP/1.1 500 Oh\r\n\r\n", false),
            ("SSH-2.0-OpenSSH_9.2\r\n", false),
            ("HTTP", false),
            ("", false),
            ("HTTP/1.1é20 OK\r\n", false),
        ] {
            let (got, _) = asked(&[], false, answer).await;
            assert_eq!(got == ProbeResult::Good, good, "{answer:?}: {got:?}");
        }
    }

    #[tokio::test]
    async fn a_failed_http_probe_reports_the_request_and_the_response() {
        let bad = "HTTP/1.1 400 Bad Request\r\n\r\n";
        let what = "GET /up on port 80 with Host a.example answered 400 Bad Request";
        assert_eq!(asked(&[], true, bad).await.0, ProbeResult::Miss(what.to_owned()));
        let (ProbeResult::Miss(message), _) = asked(&[], false, bad).await else {
            panic!("a 400 is no good")
        };
        assert!(message.starts_with(what) && message.contains("set one as `host`"), "{message}");
    }

    #[tokio::test]
    async fn headers_are_sent_as_declared() {
        let headers = [("X-Probe", "1"), ("user-agent", "kube-probe")];
        let headers = headers.map(|(name, value)| (name.to_owned(), Secret::new(value)));
        let (_, request) = asked(&headers, false, "HTTP/1.1 200 OK\r\n\r\n").await;
        assert_eq!(
            request,
            "GET /up HTTP/1.1\r\nHost: a.example\r\nX-Probe: 1\r\nuser-agent: kube-probe\r\nConnection: close\r\n\r\n"
        );
    }
}
