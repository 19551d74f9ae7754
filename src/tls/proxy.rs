//! Connections to other hosts through the HTTP proxy in the environment: `HTTPS_PROXY`, `HTTP_PROXY`,
//! `ALL_PROXY` and `NO_PROXY`, in upper or lower case, as curl reads them.
//!
//! This host is never reached through a proxy, which could not find it. A proxy with a tunnel sees only the
//! name of the host: TLS runs between abide and the host itself.

use std::io;
use std::sync::OnceLock;

use hyper::Uri;
use hyper::header::HeaderValue;
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::client::is_local;

/// The maximum length of the head of a proxy's answer, in bytes.
const LONGEST_HEAD: usize = 8 * 1024;

/// The environment's proxies, read at the first use.
static MATCHER: OnceLock<Matcher> = OnceLock::new();

/// A proxy.
#[derive(Clone)]
pub struct Proxy(Intercept);

impl Proxy {
    /// The proxy for `scheme://host:port`; `None` for a direct connection. `host` is a name, or an address
    /// without brackets.
    pub fn of(scheme: &str, host: &str, port: u16) -> Option<Self> {
        choose(MATCHER.get_or_init(Matcher::from_env), scheme, host, port)
    }

    /// The credentials for the proxy, for `Proxy-Authorization`.
    pub fn credentials(&self) -> Option<&HeaderValue> {
        self.0.basic_auth()
    }

    /// Connects to the proxy itself.
    ///
    /// # Errors
    /// Returns an error if the connection fails. The message names the proxy without credentials.
    pub async fn connect(&self) -> io::Result<TcpStream> {
        let uri = self.0.uri();
        let (Some("http"), Some(host)) = (uri.scheme_str(), uri.host()) else {
            return Err(self.failed("it must have the form `http://HOST:PORT`"));
        };
        let to = (host.trim_matches(['[', ']']), uri.port_u16().unwrap_or(80));
        TcpStream::connect(to).await.map_err(|error| self.failed(error))
    }

    /// Opens a tunnel through the proxy to `host:port`.
    ///
    /// # Errors
    /// Returns an error if the proxy cannot be reached or refuses.
    pub async fn tunnel(&self, host: &str, port: u16) -> io::Result<TcpStream> {
        let mut stream = self.connect().await?;
        let to = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        let mut request = format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n").into_bytes();
        if let Some(credentials) = self.credentials() {
            request.extend([b"Proxy-Authorization: ", credentials.as_bytes(), b"\r\n"].concat());
        }
        request.extend(b"\r\n");
        stream.write_all(&request).await.map_err(|error| self.failed(error))?;
        let head = read_head(&mut stream).await.map_err(|error| self.failed(error))?;
        match status(&head) {
            Some(200..300) => Ok(stream),
            Some(407) => Err(self.failed("it requires other credentials (407)")),
            Some(status) => Err(self.failed(format!("it refused a connection to {to} ({status})"))),
            None => Err(self.failed("it does not use HTTP")),
        }
    }

    fn failed(&self, why: impl std::fmt::Display) -> io::Error {
        let authority = self.0.uri().authority().map(ToString::to_string).unwrap_or_default();
        io::Error::other(format!("the proxy {authority}: {why}"))
    }
}

/// Connects to `host:port` for `scheme`, through a tunnel if there is a proxy.
///
/// # Errors
/// Returns an error if the connection fails.
pub(super) async fn connect(scheme: &str, host: &str, port: u16) -> io::Result<TcpStream> {
    match Proxy::of(scheme, host, port) {
        Some(proxy) => proxy.tunnel(host, port).await,
        None => TcpStream::connect((host, port)).await,
    }
}

fn choose(matcher: &Matcher, scheme: &str, host: &str, port: u16) -> Option<Proxy> {
    if is_local(host) {
        return None;
    }
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    let uri = Uri::builder().scheme(scheme).authority(format!("{host}:{port}")).path_and_query("/").build();
    matcher.intercept(&uri.ok()?).map(Proxy)
}

/// Reads the head of an answer and not a byte more, because the rest belongs to the tunnel.
async fn read_head(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() >= LONGEST_HEAD {
            return Err(io::Error::other("its response is too long"));
        }
        head.push(stream.read_u8().await?);
    }
    Ok(head)
}

fn status(head: &[u8]) -> Option<u16> {
    let line = std::str::from_utf8(head).ok()?.lines().next()?;
    let (version, rest) = line.split_once(' ')?;
    version.starts_with("HTTP/1.").then(|| rest.get(..3)?.parse().ok())?
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    fn matcher(proxy: &str) -> Matcher {
        Matcher::builder().http(proxy).https(proxy).no("internal.example, 10.0.0.0/8").build()
    }

    #[test]
    fn local_and_no_proxy_hosts_are_reached_directly() {
        let matcher = matcher("http://alice:s%40same@proxy.example:3128");
        for direct in ["localhost", "127.0.0.1", "127.9.9.9", "::1", "10.1.2.3", "git.internal.example"] {
            assert!(choose(&matcher, "https", direct, 443).is_none(), "{direct}");
        }
        for (scheme, far) in [("https", "ghcr.io"), ("http", "192.0.2.1"), ("https", "2001:db8::1")] {
            let proxy = choose(&matcher, scheme, far, 443).unwrap();
            assert_eq!(proxy.0.uri().authority().unwrap(), "proxy.example:3128", "{far}");
            assert!(proxy.credentials().is_some());
            assert!(!proxy.failed("x").to_string().contains("alice"), "credentials are shown");
        }
    }

    /// A proxy that answers the first head with `answer` and echoes everything after it. The task returns
    /// that head.
    async fn proxy(answer: &'static str) -> (String, tokio::task::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let head = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let head = read_head(&mut stream).await.unwrap();
            stream.write_all(answer.as_bytes()).await.unwrap();
            let mut byte = [0];
            while stream.read_exact(&mut byte).await.is_ok() && stream.write_all(&byte).await.is_ok() {}
            String::from_utf8(head).unwrap()
        });
        (format!("http://alice:sesame@{address}"), head)
    }

    #[tokio::test]
    async fn a_proxy_tunnel_starts_after_the_response_head() {
        let (url, head) = proxy("HTTP/1.1 200 OK\r\nVia: x\r\n\r\n").await;
        let proxy = choose(&matcher(&url), "https", "ghcr.io", 443).unwrap();
        let mut stream = proxy.tunnel("ghcr.io", 443).await.unwrap();
        stream.write_all(b"abc").await.unwrap();
        let mut back = [0; 3];
        stream.read_exact(&mut back).await.unwrap();
        assert_eq!(&back, b"abc");
        drop(stream);
        let head = head.await.unwrap();
        assert!(head.starts_with("CONNECT ghcr.io:443 HTTP/1.1\r\nHost: ghcr.io:443\r\n"), "{head}");
        assert!(head.contains("Proxy-Authorization: Basic YWxpY2U6c2VzYW1l\r\n"), "{head}");
    }

    #[tokio::test]
    async fn a_refusing_proxy_is_reported_without_its_credentials() {
        for (answer, words) in [
            ("HTTP/1.1 403 Forbidden\r\n\r\n", "refused a connection to ghcr.io:443 (403)"),
            ("HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", "other credentials (407)"),
            ("SSH-2.0-x\r\n\r\n", "does not use HTTP"),
        ] {
            let (url, _head) = proxy(answer).await;
            let proxy = choose(&matcher(&url), "https", "ghcr.io", 443).unwrap();
            let error = proxy.tunnel("ghcr.io", 443).await.unwrap_err().to_string();
            assert!(error.contains(words) && !error.contains("sesame"), "{error}");
        }
    }
}
