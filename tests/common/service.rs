//! A small HTTP server, for the services that abide and others call.

use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::Value;

use super::proxy::read_head;
use super::{Certificate, PATIENCE};

/// A request as a service got it.
#[derive(Clone, Debug)]
pub(crate) struct ServedRequest {
    pub(crate) method: String,
    /// The path with its query.
    pub(crate) path: String,
    headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl ServedRequest {
    /// The value of a header, whose name is in lower case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The body as JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Reads a request. `None` if its client ends in the middle of it, like a daemon that is killed.
    fn read(stream: impl Read) -> Option<Self> {
        let mut reader = BufReader::new(stream);
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let mut words = line.split_whitespace().map(str::to_owned);
        let (method, path) = (words.next()?, words.next()?);
        let mut headers = Vec::new();
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).ok()? == 0 {
                return None;
            }
            let Some((name, value)) = line.trim().split_once(':') else { break };
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        let mut request = Self { method, path, headers, body: Vec::new() };
        let length = request.header("content-length").map_or(0, |length| length.parse().unwrap());
        request.body = vec![0; length];
        reader.read_exact(&mut request.body).ok()?;
        Some(request)
    }
}

/// The answer of a service.
#[derive(Clone, Debug, Default)]
pub(crate) struct ServedAnswer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: String,
}

impl ServedAnswer {
    /// A JSON document.
    pub(crate) fn json(status: u16, body: &Value) -> Self {
        Self {
            status,
            headers: vec![("Content-Type", "application/json".to_owned())],
            body: body.to_string(),
        }
    }

    /// An answer without a body.
    pub(crate) fn empty(status: u16) -> Self {
        Self { status, ..Self::default() }
    }

    fn write(&self, mut stream: impl Write) -> std::io::Result<()> {
        let Self { status, headers, body } = self;
        let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let length = body.len();
        let head = format!(
            "HTTP/1.1 {status} Answer\r\n{headers}Content-Length: {length}\r\nConnection: close\r\n\r\n"
        );
        stream.write_all(format!("{head}{body}").as_bytes())
    }
}

/// Starts a service on the loopback address and returns its port. Its threads end with the process.
pub(crate) fn serve(answer: impl Fn(&ServedRequest) -> ServedAnswer + Send + Sync + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let answer = Arc::new(answer);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let answer = Arc::clone(&answer);
            std::thread::spawn(move || {
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                let Some(request) = ServedRequest::read(&stream) else { return };
                // A client that disconnects needs no answer.
                let _ = answer(&request).write(&stream);
            });
        }
    });
    port
}

/// Starts a proxy for `https` that answers for every host itself, with this certificate. Returns its port.
pub(crate) fn serve_every_host(
    files: &Certificate,
    answer: impl Fn(&str, &ServedRequest) -> ServedAnswer + Send + Sync + 'static,
) -> u16 {
    let chain = CertificateDer::pem_file_iter(&files.certificate).unwrap().map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_file(&files.key).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = Arc::new(config.with_no_client_auth().with_single_cert(chain, key).unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let answer = Arc::new(answer);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (answer, config) = (Arc::clone(&answer), Arc::clone(&config));
            std::thread::spawn(move || answer_tunnel(stream, config, &*answer));
        }
    });
    port
}

/// Answers one request in a tunnel. `None`: its client ended in the middle of it.
fn answer_tunnel(
    mut stream: TcpStream,
    config: Arc<ServerConfig>,
    answer: &dyn Fn(&str, &ServedRequest) -> ServedAnswer,
) -> Option<()> {
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    let (head, _) = read_head(&mut stream).ok()?;
    let host = head.strip_prefix("CONNECT ")?.split([':', ' ']).next()?.to_owned();
    stream.write_all(b"HTTP/1.1 200 Connected\r\n\r\n").ok()?;
    let mut stream = StreamOwned::new(ServerConnection::new(config).ok()?, stream);
    let request = ServedRequest::read(&mut stream)?;
    answer(&host, &request).write(&mut stream).ok()?;
    stream.conn.send_close_notify();
    stream.flush().ok()
}
