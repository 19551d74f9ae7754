//! The client with servers that answer like registries.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::model::container::Secret;
use crate::model::name::Digest;
use crate::model::reference::TaggedImage;
use crate::model::spec::RegistryAccess;
use crate::registry::{Keyring, RegistryClient, RegistryError};

const MANIFEST: &str = "{\"schemaVersion\":2}";

fn digest(of: &str) -> Digest {
    use sha2::Digest as _;
    let sum: [u8; 32] = sha2::Sha256::digest(of).into();
    Digest::of_sha256(&sum)
}

/// A server that chooses its answer by request line and `Authorization`, and records both.
struct Server {
    port: u16,
    seen: Arc<Mutex<Vec<String>>>,
}

type Rule = Box<dyn Fn(&str, u16) -> String + Send + Sync>;

impl Server {
    async fn start(rule: impl Fn(&str, u16) -> String + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (noted, rule): (_, Arc<Rule>) = (Arc::clone(&seen), Arc::new(Box::new(rule)));
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = [0; 8192];
                let length = stream.read(&mut request).await.unwrap_or(0);
                let request = String::from_utf8_lossy(&request[..length]).into_owned();
                let line = request.lines().next().unwrap_or_default();
                let proof = request.lines().find(|line| line.to_lowercase().starts_with("authorization:"));
                let asked = format!("{line} {}", proof.unwrap_or_default());
                noted.lock().unwrap().push(asked.clone());
                let _ = stream.write_all(rule(&asked, port).as_bytes()).await;
            }
        });
        Self { port, seen }
    }

    fn image(&self) -> TaggedImage {
        format!("127.0.0.1:{}/team/app:stable", self.port).parse().unwrap()
    }

    fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }
}

fn answer(status: &str, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n{headers}\r\n{body}", body.len())
}

fn good() -> String {
    answer("200 OK", &format!("Docker-Content-Digest: {}\r\n", digest(MANIFEST)), "")
}

fn anonymous() -> RegistryClient {
    RegistryClient::new(Keyring::new(None, None))
}

fn alice(port: u16) -> RegistryClient {
    let auths = HashMap::from([(format!("127.0.0.1:{port}"), serde_json::json!({ "auth": "YWxpY2U6cDp3" }))]);
    let text = serde_json::json!({ "auths": auths }).to_string();
    RegistryClient::new(Keyring::new(Some(Secret::new(text)), None))
}

async fn ask(client: &RegistryClient, server: &Server) -> Result<Digest, RegistryError> {
    client.digest(&server.image(), &RegistryAccess::default()).await
}

#[tokio::test]
async fn a_tags_digest_is_read_from_the_response_header() {
    let server = Server::start(|_, _| good()).await;
    assert_eq!(ask(&anonymous(), &server).await, Ok(digest(MANIFEST)));
    assert_eq!(server.seen(), ["HEAD /v2/team/app/manifests/stable HTTP/1.1 "]);
}

#[tokio::test]
async fn without_a_digest_header_the_manifest_is_hashed() {
    let server = Server::start(|asked, _| match asked.starts_with("HEAD") {
        true => answer("200 OK", "", ""),
        false => answer("200 OK", "", MANIFEST),
    })
    .await;
    assert_eq!(ask(&anonymous(), &server).await, Ok(digest(MANIFEST)));
}

#[tokio::test]
async fn a_digest_header_that_mismatches_the_manifest_is_rejected() {
    let server = Server::start(|asked, _| match asked.starts_with("HEAD") {
        true => answer("200 OK", "", ""),
        false => answer("200 OK", &format!("Docker-Content-Digest: {}\r\n", digest("other")), MANIFEST),
    })
    .await;
    let error = ask(&anonymous(), &server).await.unwrap_err();
    assert!(matches!(error, RegistryError::Unavailable { .. }), "{error}");
}

#[tokio::test]
async fn credentials_are_sent_only_after_a_challenge() {
    let server = Server::start(|asked, _| match asked.contains("Basic YWxpY2U6cDp3") {
        true => good(),
        false => answer("401 Unauthorized", "WWW-Authenticate: Basic realm=\"r\"\r\n", ""),
    })
    .await;
    assert_eq!(ask(&alice(server.port), &server).await, Ok(digest(MANIFEST)));
    assert!(!server.seen()[0].contains("Basic"), "nobody had asked: {:?}", server.seen());
    let error = ask(&anonymous(), &server).await.unwrap_err();
    assert!(
        matches!(&error, RegistryError::Denied { why, .. } if why.contains("none are configured")),
        "{error}"
    );
}

#[tokio::test]
async fn a_token_is_fetched_if_the_registry_requires_one() {
    let server = Server::start(|asked, port| {
        if asked.starts_with("GET /token") {
            let is_alice = asked.contains("Basic YWxpY2U6cDp3");
            let is_asked = asked.contains("service=s&scope=repository%3Ateam%2Fapp%3Apull ");
            return match is_alice && is_asked {
                true => answer("200 OK", "", "{\"token\":\"t0ken\"}"),
                false => answer("401 Unauthorized", "", ""),
            };
        }
        let realm = format!("http://127.0.0.1:{port}/token");
        match asked.contains("Bearer t0ken") {
            true => good(),
            false => answer(
                "401 Unauthorized",
                &format!("WWW-Authenticate: Bearer realm=\"{realm}\",service=\"s\"\r\n"),
                "",
            ),
        }
    })
    .await;
    assert_eq!(ask(&alice(server.port), &server).await, Ok(digest(MANIFEST)));
    let error = ask(&anonymous(), &server).await.unwrap_err();
    assert!(matches!(error, RegistryError::Denied { .. }), "{error}");
}

#[tokio::test]
async fn missing_denied_and_unavailable_images_are_distinguished() {
    for (status, expected) in [
        ("404 Not Found", "does not have team/app:stable"),
        ("403 Forbidden", "denies access to team/app:stable"),
        ("429 Too Many Requests", "does not respond: it answered 429"),
        ("503 Service Unavailable", "does not respond: it answered 503"),
    ] {
        let server = Server::start(move |_, _| answer(status, "", "")).await;
        let error = ask(&anonymous(), &server).await.unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    let server = Server::start(|_, _| "no HTTP at all\r\n\r\n".to_owned()).await;
    assert!(matches!(ask(&anonymous(), &server).await, Err(RegistryError::Unavailable { .. })));
    let image = "127.0.0.1:1/a/b:c".parse().unwrap();
    let error = anonymous().digest(&image, &RegistryAccess::default()).await.unwrap_err().to_string();
    assert!(error.contains("127.0.0.1:1"), "{error}");
}

#[tokio::test]
async fn the_existence_of_a_digest_is_checked() {
    let there = digest(MANIFEST);
    let server = Server::start(move |asked, _| match asked.contains(digest(MANIFEST).as_str()) {
        true => good(),
        false => answer("404 Not Found", "", ""),
    })
    .await;
    let (client, repository, access) = (anonymous(), server.image().repository, RegistryAccess::default());
    assert_eq!(client.has(&repository, &there, &access).await, Ok(true));
    assert_eq!(client.has(&repository, &digest("gone"), &access).await, Ok(false));
}

#[tokio::test]
async fn a_password_does_not_follow_a_redirect() {
    let target = Server::start(|_, _| good()).await;
    let port = target.port;
    let server = Server::start(move |asked, _| match asked.contains("Basic") {
        true => {
            answer("307 Temporary Redirect", &format!("Location: http://127.0.0.1:{port}/elsewhere\r\n"), "")
        }
        false => answer("401 Unauthorized", "WWW-Authenticate: Basic realm=\"r\"\r\n", ""),
    })
    .await;
    assert_eq!(ask(&alice(server.port), &server).await, Ok(digest(MANIFEST)));
    assert_eq!(target.seen(), ["HEAD /elsewhere HTTP/1.1 "]);
}

#[tokio::test]
async fn endless_redirects_are_an_error() {
    let server = Server::start(|_, port| {
        answer("307 Temporary Redirect", &format!("Location: http://127.0.0.1:{port}/again\r\n"), "")
    })
    .await;
    assert!(ask(&anonymous(), &server).await.unwrap_err().to_string().contains("redirects more than"));
}

#[tokio::test]
async fn a_plain_http_token_service_is_used_only_for_a_plain_http_registry() {
    use crate::outbound::Allowed;
    use crate::registry::token::{TokenServiceError, bearer};
    let service = Server::start(|_, _| answer("200 OK", "", "{\"token\":\"t\"}")).await;
    let realm = format!("http://127.0.0.1:{}/token", service.port);
    let of_tls = Allowed { plain: false, private: true };
    assert!(matches!(
        bearer(&realm, None, "s", None, of_tls).await,
        Err(TokenServiceError::Unavailable(_, _))
    ));
    let public = Allowed { plain: true, private: false };
    assert!(matches!(
        bearer(&realm, None, "s", None, public).await,
        Err(TokenServiceError::Unavailable(_, _))
    ));
    assert!(service.seen().is_empty(), "it was asked: {:?}", service.seen());
}
