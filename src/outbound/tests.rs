//! The client with servers on this host.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;

/// A server that chooses its answer by the request, and records the requests.
struct Server {
    port: u16,
    seen: Arc<Mutex<Vec<String>>>,
}

impl Server {
    async fn start(rule: impl Fn(&str) -> String + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&seen);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = vec![0; 8192];
                let mut length = 0;
                while !is_complete(&request[..length]) {
                    match stream.read(&mut request[length..]).await {
                        Ok(read) if read > 0 => length += read,
                        _ => break,
                    }
                }
                let request = String::from_utf8_lossy(&request[..length]).into_owned();
                let answer = rule(&request);
                noted.lock().unwrap().push(request);
                // The client may have disconnected.
                let _ = stream.write_all(answer.as_bytes()).await;
                if answer.is_empty() {
                    std::future::pending::<()>().await;
                }
            }
        });
        Self { port, seen }
    }

    fn url(&self, path: &str) -> Uri {
        format!("http://127.0.0.1:{}{path}", self.port).parse().unwrap()
    }

    fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }
}

/// Bodies of these tests end with a full stop.
fn is_complete(request: &[u8]) -> bool {
    let text = String::from_utf8_lossy(request);
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    !head.to_lowercase().contains("content-length") || body.ends_with('.')
}

fn answer(status: &str, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n{headers}\r\n{body}", body.len())
}

fn get(url: Uri) -> Request {
    Request::new(Method::GET, url)
}

#[tokio::test]
async fn a_response_of_any_status_is_returned_in_full() {
    let server = Server::start(|_| answer("422 Unprocessable", "X-Limit: 3\r\n", "no")).await;
    let request = Request::new(Method::POST, server.url("/statuses?x=1")).with_body("state.");
    let request = request.with_header("x-token".parse().unwrap(), "secret".parse().unwrap());
    let answer = Client::default().send(request).await.unwrap();
    assert_eq!(
        (answer.status.as_u16(), &answer.body[..], answer.headers["x-limit"].to_str().ok()),
        (422, &b"no"[..], Some("3"))
    );
    let [seen] = &server.seen()[..] else { panic!("{:?}", server.seen()) };
    assert!(seen.starts_with("POST /statuses?x=1 HTTP/1.1\r\n") && seen.ends_with("state."), "{seen}");
    for line in [
        "x-token: secret".to_owned(),
        format!("host: 127.0.0.1:{}", server.port),
        format!("user-agent: {AGENT}"),
    ] {
        assert!(seen.contains(&line), "{line}: {seen}");
    }
}

#[tokio::test]
async fn redirects_are_followed_only_on_the_same_host() {
    let server = Server::start(|request| {
        let (target, _) = request.split_once(" HTTP").unwrap();
        match target {
            "GET /old" | "POST /old" => answer("302 Found", "Location: /new\r\n", ""),
            "POST /moved" => answer("307 Temporary Redirect", "Location: /new?x\r\n", ""),
            "GET /loop" => answer("301 Moved", "Location: /loop\r\n", ""),
            "GET /away" => answer("302 Found", "Location: http://localhost:1/token-of-alice\r\n", ""),
            other => answer("200 OK", "", other),
        }
    })
    .await;
    let send = |method: Method, path: &str| {
        let request = Request::new(method, server.url(path)).with_body("body.");
        async move { Client::default().send(request).await }
    };
    assert_eq!(&send(Method::GET, "/old").await.unwrap().body[..], b"GET /new");
    assert_eq!(send(Method::POST, "/old").await.unwrap().status, StatusCode::FOUND);
    assert_eq!(&send(Method::POST, "/moved").await.unwrap().body[..], b"POST /new?x");
    assert!(server.seen().last().unwrap().ends_with("body."), "the body is sent again");
    assert!(matches!(send(Method::GET, "/loop").await, Err(SendError::Redirected(_))));
    let before = server.seen().len();
    let away = send(Method::GET, "/away").await.unwrap_err();
    assert_eq!(away.to_string(), "it redirects to http://localhost");
    assert!(matches!(away, SendError::Redirected(_)), "{away:?}");
    assert_eq!(server.seen().len(), before + 1, "another host gets nothing");
}

#[tokio::test]
async fn response_time_and_length_are_limited() {
    let server = Server::start(|request| match request.contains("/silent") {
        true => String::new(),
        false => answer("200 OK", "", &"x".repeat(1_000)),
    })
    .await;
    let short = Request { longest_answer: 999, ..get(server.url("/long")) };
    assert_eq!(Client::default().send(short).await.unwrap_err(), SendError::TooLong(999));
    let enough = Request { longest_answer: 1_000, ..get(server.url("/long")) };
    assert_eq!(Client::default().send(enough).await.unwrap().body.len(), 1_000);
    let deadline = Duration::from_millis(200);
    let late = Request { deadline, ..get(server.url("/silent")) };
    let error = Client::default().send(late).await.unwrap_err();
    assert_eq!(error, SendError::Late(deadline));
}

#[tokio::test]
async fn private_addresses_and_plain_http_can_be_blocked_before_sending() {
    let server = Server::start(|_| answer("200 OK", "", "")).await;
    for allowed in [Allowed { plain: true, private: false }, Allowed { plain: false, private: true }] {
        for host in ["127.0.0.1", "localhost"] {
            let url = format!("http://{host}:{}/token-of-alice", server.port).parse().unwrap();
            let error = Client::default().allowing(allowed).send(get(url)).await.unwrap_err();
            assert!(matches!(error, SendError::NotAllowed(_)), "{error:?}");
            assert!(error.to_string().contains(host) && !error.to_string().contains("alice"), "{error}");
        }
    }
    assert_eq!(server.seen(), [""; 0]);
}

#[tokio::test]
async fn a_url_without_a_host_or_with_credentials_is_refused() {
    for url in ["/path", "http://alice:sesame@127.0.0.1/"] {
        let error = Client::default().send(get(url.parse().unwrap())).await.unwrap_err();
        assert!(matches!(error, SendError::Url(_) | SendError::NotAllowed(_)), "{error:?}");
        assert!(!error.to_string().contains("sesame"), "{error}");
    }
}
