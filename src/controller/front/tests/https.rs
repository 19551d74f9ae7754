//! HTTPS on a real nginx: certificates from pebble, own certificates, and names that nobody has.

use crate::tls::AlpnProtocol;
use crate::tls::client::{Connector, Trust};

use super::backend::Backend;
use super::*;
use crate::pebble::Pebble;

/// One request over TLS to a name at this host.
struct Client {
    connector: Connector,
    port: u16,
}

impl Client {
    fn new(authorities: &std::path::Path, port: u16, protocol: AlpnProtocol) -> Self {
        let trust = Trust::File(authorities.to_owned());
        Self { connector: Connector::new(&trust, protocol).unwrap(), port }
    }

    async fn handshake(&self, name: &str) -> Result<crate::tls::client::Stream, String> {
        let stream =
            TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).await.map_err(|error| error.to_string())?;
        self.connector.secure(name, stream).await.map_err(|error| crate::model::error::chain(&error))
    }

    async fn get(&self, name: &str, path: &str) -> Result<Answer, String> {
        let mut stream = self.handshake(name).await?;
        let request = format!("GET {path} HTTP/1.0\r\nHost: {name}\r\n\r\n");
        stream.write_all(request.as_bytes()).await.map_err(|error| error.to_string())?;
        let mut answer = Vec::new();
        // nginx may close without a goodbye.
        let _ = stream.read_to_end(&mut answer).await;
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let (head, body) = answer.split_once("\r\n\r\n").ok_or("no answer")?;
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        Ok(Answer { status, head: head.to_owned(), body: body.to_owned() })
    }
}

/// The root of the certificates that pebble issues.
async fn issuing_root(pebble: &Pebble, dir: &std::path::Path) -> std::path::PathBuf {
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, pebble.roots_port())).await.unwrap();
    let connector = Connector::new(&Trust::File(pebble.root()), AlpnProtocol::Http1).unwrap();
    let mut stream = connector.secure("localhost", stream).await.unwrap();
    stream.write_all(b"GET /roots/0 HTTP/1.0\r\nHost: localhost\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer).await;
    let path = dir.join("issued-by.pem");
    std::fs::write(&path, answer.split_once("\r\n\r\n").unwrap().1).unwrap();
    path
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_gets_its_certificate_and_is_then_redirected() {
    if std::env::var_os(WITHOUT_DOCKER).is_some() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let [http, https] = free_ports();
    let pebble = Pebble::start_at(http);
    let lines = format!(
        "https = {https}\nacme = {{ directory = \"https://127.0.0.1:{}/dir\", ca_file = \"{}\", resolver = \"{}\" }}",
        pebble.port(),
        pebble.root().display(),
        pebble.name_server(),
    );
    let Some(rig) = Rig::start_on(http, &lines).await else { return };
    let (dev, new) = (Backend::start("dev").await, Backend::start("new").await);
    rig.no_route("test");
    rig.route("dev", "c-dev", dev.address);
    rig.serves("dev", "c-dev").await;
    let client = Client::new(&issuing_root(&pebble, dir.path()).await, https, AlpnProtocol::Http1);
    let page = eventually("dev is served with a certificate of the authority", || async {
        client.get("dev.example", "/").await.ok().filter(|answer| answer.status == 200)
    });
    let page = page.await.unwrap_or_else(|why| {
        panic!("{why}: {:?} {:?}", rig.front.certificate(&name("dev")), rig.front.warnings())
    });
    assert_eq!(page.body.lines().next(), Some("dev"));
    assert!(page.head.contains("Strict-Transport-Security: max-age=63072000"), "{}", page.head);
    // For 100 ms after the reload, the old workers of nginx accept connections too.
    let plain = eventually("clients without TLS are redirected", || async {
        Some(get(http, "dev.example", "/a?b=1").await).filter(|plain| plain.status == 308)
    });
    let plain = plain.await.unwrap();
    assert!(plain.head.contains(&format!("Location: https://dev.example:{https}/a?b=1")), "{plain:?}");
    // The authority must reach the challenge without TLS, by every name.
    for host in ["dev.example", "nobody.example"] {
        let challenge = get(http, host, "/.well-known/acme-challenge/tok-en_1").await;
        let thumbprint = rig.front.acme.thumbprint().unwrap();
        assert_eq!(
            (challenge.status, challenge.body.as_str()),
            (200, format!("tok-en_1.{thumbprint}").as_str()),
            "{host}"
        );
        for hostile in ["", "a/b", "a%0ab", "$host", "a%00"] {
            let answer = get(http, host, &format!("/.well-known/acme-challenge/{hostile}")).await;
            assert!(matches!(answer.status, 400 | 404), "{hostile}: {answer:?}");
        }
    }
    let report = rig.front.certificate(&name("dev"));
    assert!(report.until.is_some() && report.problem.is_none(), "{report:?}");
    // HTTP/2, and no handshake for a name that nobody has.
    let modern = Client::new(&issuing_root(&pebble, dir.path()).await, https, AlpnProtocol::Http2);
    modern.handshake("dev.example").await.unwrap();
    let refused = client.handshake("nobody.example").await.err().unwrap();
    assert!(
        refused.to_lowercase().contains("unrecognised") || refused.contains("UnrecognisedName"),
        "{refused}"
    );
    // A switch keeps the certificate.
    rig.route("dev", "c-new", new.address);
    rig.serves("dev", "c-new").await;
    assert_eq!(client.get("dev.example", "/").await.unwrap().body.lines().next(), Some("new"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_certificate_does_not_affect_other_names() {
    if std::env::var_os(WITHOUT_DOCKER).is_some() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    let authority = Pebble::certificates_in(dir.path());
    for name in ["dev.example", "other.example"] {
        authority.sign(name);
    }
    let [http, https] = free_ports();
    let own = |name: &str| {
        let (cert, key) = (path(&format!("{name}.pem")), path(&format!("{name}.key")));
        format!("{{ names = [\"{name}\"], cert = \"{cert}\", key = \"{key}\" }}")
    };
    let lines = format!(
        "https = {https}\ncertificates = [{}, {}]\n[environment.other]\ncontainer = \"other-server\"\nport = 1\n\
         publish = false\nhostname = \"other.example\"",
        own("dev.example"),
        own("other.example"),
    );
    let Some(rig) = Rig::start_on(http, &lines).await else { return };
    let (dev, other) = (Backend::start("dev").await, Backend::start("other").await);
    rig.no_route("test");
    rig.route("dev", "c-dev", dev.address);
    rig.route("other", "c-other", other.address);
    rig.serves("other", "c-other").await;
    let client = Client::new(&dir.path().join("ca.pem"), https, AlpnProtocol::Http1);
    for name in ["dev", "other"] {
        let page = client.get(&format!("{name}.example"), "/").await.unwrap();
        assert_eq!(page.body.lines().next(), Some(name));
    }
    // A key that does not belong to its certificate.
    std::fs::copy(path("dev.example.key"), path("other.example.key")).unwrap();
    let warning = eventually("it is told", || async {
        rig.front.warnings().into_iter().find(|warning| warning.contains("other.example"))
    });
    assert!(warning.await.unwrap().contains("are not a certificate and its key"));
    for name in ["dev", "other"] {
        let page = client.get(&format!("{name}.example"), "/").await.unwrap();
        assert_eq!(page.body.lines().next(), Some(name), "the old certificate goes on");
    }
    let before = presented(https, "other.example");
    authority.sign("other.example");
    eventually("a good pair is served", || async {
        presented(https, "other.example").filter(|now| Some(now) != before.as_ref())
    })
    .await
    .unwrap();
    eventually("the warning is taken back", || async { rig.front.warnings().is_empty().then_some(()) })
        .await
        .unwrap();
}
