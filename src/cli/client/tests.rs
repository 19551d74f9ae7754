//! Raw HTTP answers, complete and broken.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixListener;

use super::*;

/// A client of a server that sends `answer` byte for byte to one request and closes the connection.
fn client_of(answer: &'static str) -> (ApiClient, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let listener = UnixListener::bind(&path).unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 4096];
            let _ = stream.read(&mut request).await;
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    (ApiClient::new(ApiTransport::Unix(path), None).unwrap(), folder)
}

async fn error_of(answer: &'static str) -> ClientError {
    let (client, _folder) = client_of(answer);
    client.overview().await.unwrap_err()
}

#[tokio::test]
async fn a_server_that_is_not_abide_is_reported() {
    let answer = "HTTP/1.1 502 Bad Gateway\r\ncontent-length: 13\r\n\r\n<h1>\u{1b}[2J</h1>";
    let error = error_of(answer).await;
    let text = error.to_string();
    assert!(text.contains("502 Bad Gateway") && text.contains("<h1>\u{fffd}[2J</h1>"), "{text}");
    assert_eq!(error.exit(), CliExit::No);
}

#[tokio::test]
async fn a_response_of_an_unexpected_shape_is_reported() {
    let error = error_of("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").await;
    assert!(matches!(error, ClientError::Shape { .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.contains(": missing field `") && text.contains("a different version"), "{text}");
}

#[tokio::test]
async fn a_connection_that_breaks_is_an_unreachable_daemon() {
    for answer in ["", "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{\"environments\"", "garbage\r\n\r\n"] {
        let error = error_of(answer).await;
        assert_eq!(error.exit(), CliExit::Unreachable, "{answer:?}: {error:?}");
        assert!(error.is_passing());
    }
}

#[tokio::test]
async fn a_watch_yields_the_environments_of_events_until_the_stream_ends() {
    let (client, _folder) = client_of(
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n: hello\n\n\
         event: later-kind\ndata: {\"environment\":\"no\"}\n\n\
         event: environment\ndata: nonsense\n\n\
         event: environment\ndata: {\"environment\":\"dev\"}\n\n\
         event: event\ndata: {\"environment\":\"prod\"}\n\n",
    );
    let mut watch = client.watch().await.unwrap();
    let mut changed = Vec::new();
    while let Some(environment) = watch.next().await.unwrap() {
        changed.push(environment.to_string());
    }
    assert_eq!(changed, ["dev", "prod"]);
}

#[test]
fn a_token_is_never_shown() {
    let token = Secret::new("hunter2");
    let transport = ApiTransport::Unix("/nowhere".into());
    let client = ApiClient::new(transport.clone(), Some(&token)).unwrap();
    assert!(!format!("{client:?}").contains("hunter2"));
    let error = ApiClient::new(transport, Some(&Secret::new("hunter2\n"))).unwrap_err();
    assert!(!format!("{error:?} {error}").contains("hunter2"));
    assert_eq!(error.exit(), CliExit::Usage);
}
