//! Real handshakes on real sockets, and impostors that must be rejected.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::AlpnProtocol;
use super::client::{ConnectError, Connector, Trust};
use super::identity::{Files, Identity, IdentityError, pin_in};
use crate::model::credential::Pin;

/// Answers with the ALPN protocol of the client, until dropped.
struct Server {
    port: u16,
    task: JoinHandle<()>,
}

impl Server {
    async fn start(identity: &Identity) -> Self {
        let acceptor = identity.acceptor().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let Ok(mut stream) = acceptor.accept(stream).await else { continue };
                let protocol = stream.get_ref().1.alpn_protocol().unwrap_or(b"none").to_vec();
                let _ = stream.write_all(&protocol).await;
                let _ = stream.shutdown().await;
            }
        });
        Self { port, task }
    }

    /// The server's answer to a client with this trust.
    async fn ask(&self, host: &str, trust: &Trust, protocol: AlpnProtocol) -> Result<String, ConnectError> {
        let mut stream = Connector::new(trust, protocol)?.connect(host, self.port).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        Ok(answer)
    }

    async fn refusal(&self, host: &str, trust: &Trust) -> ConnectError {
        self.ask(host, trust, AlpnProtocol::Http1).await.expect_err("the server was taken for the right one")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

/// An authority, and a server's certificate signed by it for `localhost`.
struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let mut parameters = CertificateParams::default();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self { issuer: CertifiedIssuer::self_signed(parameters, KeyPair::generate().unwrap()).unwrap() }
    }

    fn file(&self, folder: &Path) -> Trust {
        let path = folder.join("authority.pem");
        fs::write(&path, self.issuer.pem()).unwrap();
        Trust::File(path)
    }

    /// Writes a certificate that is valid from the year `from` to the year `until`, and its key.
    fn issue(&self, folder: &Path, from: i32, until: i32) -> Files {
        let files = Files { certificate: folder.join("given.pem"), key: folder.join("given.key") };
        let key = KeyPair::generate().unwrap();
        let mut parameters = CertificateParams::new(["localhost".to_owned()]).unwrap();
        parameters.not_before = date_time_ymd(from, 1, 1);
        parameters.not_after = date_time_ymd(until, 1, 1);
        fs::write(&files.certificate, parameters.signed_by(&key, &self.issuer).unwrap().pem()).unwrap();
        fs::write(&files.key, key.serialize_pem()).unwrap();
        files
    }
}

#[tokio::test]
async fn a_tls_identity_is_created_once_and_private() {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join("tls");
    assert_eq!(pin_in(&folder), None);
    let pin = Identity::made(&folder).unwrap().pin();
    assert!(pin.is_some());
    assert_eq!(Identity::made(&folder).unwrap().pin(), pin, "it stays over restarts");
    assert_eq!(pin_in(&folder), pin);
    assert_eq!((mode(&folder), mode(&folder.join("key.pem"))), (0o700, 0o600));
    assert!(!home.path().join("tls.new").exists());
}

#[tokio::test]
async fn a_pinned_server_is_trusted_regardless_of_its_name() {
    let home = tempfile::tempdir().unwrap();
    let identity = Identity::made(&home.path().join("tls")).unwrap();
    let server = Server::start(&identity).await;
    let trust = Trust::Pin(identity.pin().unwrap());
    assert_eq!(server.ask("127.0.0.1", &trust, AlpnProtocol::Http1).await.unwrap(), "http/1.1");
    assert_eq!(server.ask("localhost", &trust, AlpnProtocol::Http2).await.unwrap(), "h2");
}

#[tokio::test]
async fn a_server_with_another_key_is_rejected_permanently() {
    let home = tempfile::tempdir().unwrap();
    let ours = Identity::made(&home.path().join("ours")).unwrap();
    let theirs = Server::start(&Identity::made(&home.path().join("theirs")).unwrap()).await;
    let error = theirs.refusal("localhost", &Trust::Pin(ours.pin().unwrap())).await;
    assert!(matches!(error, ConnectError::OtherKey), "{error:?}");
    assert!(!error.is_passing());
}

#[tokio::test]
async fn a_certificate_without_its_matching_key_is_unusable() {
    let home = tempfile::tempdir().unwrap();
    let (ours, theirs) = (home.path().join("ours"), home.path().join("theirs"));
    Identity::made(&ours).unwrap();
    Identity::made(&theirs).unwrap();
    fs::copy(ours.join("certificate.pem"), theirs.join("certificate.pem")).unwrap();
    assert!(matches!(Identity::made(&theirs), Err(IdentityError::Unusable { .. })));
}

#[tokio::test]
async fn a_pin_of_the_certificate_does_not_match_its_key() {
    let home = tempfile::tempdir().unwrap();
    let identity = Identity::made(&home.path().join("tls")).unwrap();
    let server = Server::start(&identity).await;
    let pem = fs::read(home.path().join("tls/certificate.pem")).unwrap();
    let error = server.refusal("localhost", &Trust::Pin(Pin::of_public_key(&pem))).await;
    assert!(matches!(error, ConnectError::OtherKey), "{error:?}");
}

#[tokio::test]
async fn a_given_certificate_is_known_by_its_authority_and_name() {
    let home = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let identity = Identity::given(authority.issue(home.path(), 2020, 2120)).unwrap();
    assert_eq!(identity.pin(), None);
    let server = Server::start(&identity).await;
    let trust = authority.file(home.path());
    assert_eq!(server.ask("localhost", &trust, AlpnProtocol::Http2).await.unwrap(), "h2");
    let other_name = server.refusal("127.0.0.1", &trust).await;
    assert!(matches!(other_name, ConnectError::OtherName), "{other_name:?}");
    let untrusted = server.refusal("localhost", &Trust::System).await;
    assert!(matches!(untrusted, ConnectError::UnknownAuthority), "{untrusted:?}");
    let other = tempfile::tempdir().unwrap();
    let by_another = server.refusal("localhost", &Authority::new().file(other.path())).await;
    assert!(matches!(by_another, ConnectError::UnknownAuthority), "{by_another:?}");
}

#[tokio::test]
async fn an_expired_or_not_yet_valid_certificate_is_rejected() {
    let home = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    for (from, until) in [(2001, 2002), (2200, 2201)] {
        let identity = Identity::given(authority.issue(home.path(), from, until)).unwrap();
        let server = Server::start(&identity).await;
        let error = server.refusal("localhost", &authority.file(home.path())).await;
        assert!(matches!(error, ConnectError::OutOfDate), "{from}: {error:?}");
    }
}

#[tokio::test]
async fn a_server_without_tls_is_reported() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let task = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut hello = [0; 64];
        let _ = stream.read(&mut hello).await;
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        let _ = stream.shutdown().await;
    });
    let connector = Connector::new(&Trust::Pin(Pin::of_public_key(b"")), AlpnProtocol::Http1).unwrap();
    let error = connector.connect("127.0.0.1", port).await.unwrap_err();
    assert!(matches!(error, ConnectError::NoTls), "{error:?}");
    task.await.unwrap();
}

#[tokio::test]
async fn a_closed_port_is_a_temporary_unreachable_error() {
    // A fixed port: a port that was assigned and released may soon belong to another test.
    let port = 1;
    let connector = Connector::new(&Trust::Pin(Pin::of_public_key(b"")), AlpnProtocol::Http1).unwrap();
    let error = connector.connect("127.0.0.1", port).await.unwrap_err();
    assert!(matches!(error, ConnectError::Unreachable(_)) && error.is_passing(), "{error:?}");
    assert!(matches!(connector.connect("a b", port).await, Err(ConnectError::Host(_))));
}

#[test]
fn unusable_certificate_files_are_reported_and_unchanged() {
    let home = tempfile::tempdir().unwrap();
    let files = Authority::new().issue(home.path(), 2020, 2120);
    let missing = Files { key: home.path().join("missing"), ..files.clone() };
    let swapped = Files { certificate: files.key.clone(), key: files.certificate.clone() };
    for (files, expected) in [(missing, "missing"), (swapped, "given.key")] {
        let error = Identity::given(files).err().unwrap();
        assert!(error.to_string().contains(expected), "{error}");
    }
    let folder = home.path().join("tls");
    fs::create_dir(&folder).unwrap();
    assert!(Identity::made(&folder).is_err(), "what is there is not made anew");
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
    let none = home.path().join("none.pem");
    fs::write(&none, "nothing\n").unwrap();
    let error = Connector::new(&Trust::File(none), AlpnProtocol::Http1).err().unwrap();
    assert!(error.to_string().contains("none.pem"), "{error}");
}

#[tokio::test]
async fn changed_certificate_files_are_reloaded_unless_broken() {
    let home = tempfile::tempdir().unwrap();
    let (first, second) = (Authority::new(), Authority::new());
    let identity = Identity::given(first.issue(home.path(), 2020, 2120)).unwrap();
    let server = Server::start(&identity).await;
    let mut follower = identity.follower();
    let trusts = async |authority: &Authority| {
        let folder = tempfile::tempdir().unwrap();
        server.ask("localhost", &authority.file(folder.path()), AlpnProtocol::Http1).await.is_ok()
    };
    follower.look();
    assert!(trusts(&first).await);
    fs::write(home.path().join("given.pem"), "broken").unwrap();
    follower.look();
    follower.look();
    assert!(trusts(&first).await, "a broken certificate was taken");
    second.issue(home.path(), 2020, 2120);
    follower.look();
    assert!(trusts(&second).await && !trusts(&first).await);
    fs::remove_file(home.path().join("given.key")).unwrap();
    follower.look();
    assert!(trusts(&second).await, "a missing key was taken for something");
}
