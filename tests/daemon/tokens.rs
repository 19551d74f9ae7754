//! Tokens over real TLS: accepted and rejected clients, and places that must never contain a token.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Stdio};

use rcgen::{CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::ServerName;

use crate::child::{PATIENCE, Place};
use crate::common::{Ran, eventually, http_get};

impl Place {
    fn https(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }

    /// Listens on all addresses, and so with TLS.
    fn everywhere(&self) -> String {
        format!("0.0.0.0:{}", self.port)
    }

    fn token(&self, options: &str) -> String {
        let words: Vec<&str> = ["token", "create"].into_iter().chain(options.split(' ')).collect();
        let made = self.abide(&words);
        assert_eq!(made.code, 0, "{}", made.stderr);
        made.stdout.trim_end().to_owned()
    }
}

fn refused(ran: &Ran, code: i32, why: &str) {
    assert_eq!((ran.code, ran.stdout.as_str()), (code, ""), "{}", ran.stderr);
    assert!(ran.stderr.contains(why), "{why:?} is not in\n{}", ran.stderr);
}

#[test]
fn a_pinned_token_grants_remote_access_within_its_role() {
    let place = Place::new();
    let _daemon = place.serve_with(&["--listen", &place.everywhere()]);
    let (viewer, ci) =
        (place.token("--role viewer wall"), place.token("--role deployer --environment dev ci"));
    let at = |token: &str, words: &[&str]| place.abide_at(&place.https(), token, words);
    let seen = at(&viewer, &["status", "-o", "json"]);
    assert!(seen.code == 0 && seen.stdout.contains("\"dev\""), "{}", seen.stderr);
    refused(
        &at(&viewer, &["hold", "dev", "--reason", "x"]),
        1,
        "the role of this token (viewer) does not allow this request, which needs the role admin, or deployer of \
         this environment",
    );
    assert_eq!(at(&ci, &["hold", "dev", "--reason", "x"]).code, 0);
    assert!(place.abide(&["status", "dev", "-o", "json"]).stdout.contains("token ci (127.0.0.1)"));
    refused(
        &at(&ci, &["token", "list"]),
        1,
        "the role of this token (deployer of dev) does not allow this request, which needs the role admin: an admin \
         creates one with `abide token create --role admin NAME`",
    );
    assert_eq!(place.abide(&["token", "revoke", "ci"]).code, 0);
    refused(&at(&ci, &["status"]), 1, "unknown, expired or revoked");
    refused(&at("", &["status", "--ca", &place.certificate()]), 1, "requires a token");
    let listed = place.abide(&["token", "list"]).stdout;
    assert!(listed.contains("revoked by") && listed.contains("valid"), "{listed}");
}

impl Place {
    fn certificate(&self) -> String {
        self.desired_state().join("tls/certificate.pem").display().to_string()
    }
}

#[test]
fn a_client_rejects_a_different_server() {
    let (place, other) = (Place::new(), Place::new());
    let _daemon = place.serve_with(&["--listen", &place.everywhere()]);
    let _other = other.serve_with(&["--listen", &other.everywhere()]);
    let token = place.token("--role admin ops");
    let unpinned = token.split('.').next().unwrap();
    refused(
        &place.abide_at(&other.https(), &token, &["status"]),
        1,
        "key does not match the pin in the token",
    );
    refused(&place.abide_at(&place.https(), unpinned, &["status"]), 1, "is not signed by a trusted CA");
    let trusting = ["status", "--ca", &place.certificate()];
    assert_eq!(place.abide_at(&place.https(), unpinned, &trusting).code, 0);
    refused(&place.abide_at(&other.https(), unpinned, &trusting), 1, "is not signed by a trusted CA");
    let plain = format!("http://127.0.0.1:{}", place.port);
    refused(
        &place.abide_at(&plain, &token, &["status"]),
        2,
        "this port speaks TLS: use an `https://` address",
    );
    let missing = ["status", "--ca", "/nowhere/ca.pem"];
    refused(
        &place.abide_at(&place.https(), unpinned, &missing),
        1,
        "cannot use the CA certificates in /nowhere/ca.pem",
    );
}

#[test]
fn a_loopback_address_serves_plain_http_and_hints_at_it() {
    let place = Place::new();
    // Without a daemon, the token is written into the record directly.
    let token = place.token("--role viewer wall");
    assert!(!token.contains('.'), "there is no key to pin yet");
    let _daemon = place.serve(&[]);
    let plain = format!("http://127.0.0.1:{}", place.port);
    assert_eq!(place.abide_at(&plain, &token, &["status"]).code, 0);
    refused(&place.abide_at(&place.https(), &token, &["status"]), 1, "is it an `http://` address?");
    assert!(!place.desired_state().join("tls").exists());
}

#[test]
fn the_generated_certificate_survives_restarts_with_a_private_key() {
    use std::os::unix::fs::PermissionsExt as _;
    let place = Place::new();
    let first = place.serve_with(&["--listen", &place.everywhere()]);
    let token = place.token("--role viewer wall");
    drop(first);
    let _again = place.serve_with(&["--listen", &place.everywhere()]);
    assert_eq!(place.abide_at(&place.https(), &token, &["status"]).code, 0);
    let mode = |name: &str| {
        let path = place.desired_state().join(name);
        std::fs::metadata(path).unwrap().permissions().mode() & 0o777
    };
    assert_eq!((mode("tls"), mode("tls/key.pem")), (0o700, 0o600));
}

/// A command that runs until its stream ends.
struct Following(Child);

impl Following {
    fn events(place: &Place, token: &str) -> Self {
        let mut command = place.command(&["events", "-f", "-o", "json"]);
        command.env("ABIDE_SERVER", place.https()).env("ABIDE_TOKEN", token);
        Self(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn revoking_a_token_ends_its_open_streams() {
    let place = Place::new();
    let _daemon = place.serve_with(&["--listen", &place.everywhere()]);
    let token = place.token("--role viewer wall");
    let mut following = Following::events(&place, &token);
    let mut first = String::new();
    BufReader::new(following.0.stdout.take().unwrap()).read_line(&mut first).unwrap();
    assert!(first.contains("\"environment\""), "{first}");
    assert_eq!(place.abide(&["token", "revoke", "wall"]).code, 0);
    eventually("the stream of a revoked token ends", PATIENCE, || following.0.try_wait().unwrap().is_some());
    let mut stderr = String::new();
    following.0.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    assert!(stderr.contains("unknown, expired or revoked"), "{stderr}");
}

/// Issues a certificate for `localhost` by a new authority, and returns the authority's file.
fn issue(folder: &Path, name: &str) -> String {
    let mut parameters = CertificateParams::default();
    parameters.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let issuer = CertifiedIssuer::self_signed(parameters, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let certificate =
        CertificateParams::new(["localhost".to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
    let authority = folder.join(format!("{name}-authority.pem"));
    std::fs::write(&authority, issuer.pem()).unwrap();
    std::fs::write(folder.join("served.pem"), certificate.pem()).unwrap();
    std::fs::write(folder.join("served.key"), key.serialize_pem()).unwrap();
    authority.display().to_string()
}

#[test]
fn a_configured_certificate_is_served_and_reloaded_when_renewed() {
    let place = Place::new();
    let folder = place.path("certificates");
    std::fs::create_dir(&folder).unwrap();
    let first = issue(&folder, "first");
    let (certificate, key) = (folder.join("served.pem"), folder.join("served.key"));
    let (certificate, key) = (certificate.display().to_string(), key.display().to_string());
    let options = ["--listen", &place.listen(), "--tls-certificate", &certificate, "--tls-key", &key];
    let daemon = place.serve_with(&options);
    let token = place.token("--role viewer wall");
    assert!(!token.contains('.'), "a given key may change, so it is not pinned");
    let named = format!("https://localhost:{}", place.port);
    let trusting = |authority: &str| place.abide_at(&named, &token, &["status", "--ca", authority]).code;
    assert_eq!(trusting(&first), 0);
    refused(
        &place.abide_at(&place.https(), &token, &["status", "--ca", &first]),
        1,
        "is for another host name",
    );
    std::fs::write(&certificate, "broken").unwrap();
    daemon.logs("cannot use the changed certificate");
    assert_eq!(trusting(&first), 0, "the old one is kept");
    let second = issue(&folder, "second");
    daemon.logs("loaded the renewed certificate");
    assert_eq!((trusting(&second), trusting(&first)), (0, 1));
}

#[test]
fn unusable_certificates_prevent_the_start_with_an_error() {
    let place = Place::new();
    let ran = place.abide(&["daemon", "--tls-certificate", "/nowhere/c.pem", "--tls-key", "/nowhere/k.pem"]);
    refused(&ran, 1, "/nowhere/c.pem");
}

/// Sends a request over TLS with another client, and leaves the socket to the caller.
fn by_hand(place: &Place, request: &str) -> String {
    let pem = std::fs::read(place.certificate()).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    let certificate =
        <rustls::pki_types::CertificateDer<'_> as rustls::pki_types::pem::PemObject>::from_pem_slice(&pem);
    roots.add(certificate.unwrap()).unwrap();
    let provider = rustls::crypto::ring::default_provider();
    let config = rustls::ClientConfig::builder_with_provider(provider.into());
    let config = config.with_safe_default_protocol_versions().unwrap();
    let config = config.with_root_certificates(roots).with_no_client_auth();
    let name = ServerName::try_from("localhost").unwrap();
    let mut connection = rustls::ClientConnection::new(config.into(), name).unwrap();
    let mut socket = TcpStream::connect(("127.0.0.1", place.port)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut stream = rustls::Stream::new(&mut connection, &mut socket);
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

#[test]
fn other_http_clients_need_only_the_certificate_and_the_header() {
    let place = Place::new();
    let _daemon = place.serve_with(&["--listen", &place.everywhere()]);
    let token = place.token("--role viewer wall");
    let get = |header: &str| {
        by_hand(&place, &format!("GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{header}\r\n"))
    };
    assert!(get(&format!("Authorization: Bearer {token}\r\n")).starts_with("HTTP/1.1 200"));
    let anonymous = get("");
    assert!(
        anonymous.starts_with("HTTP/1.1 401") && anonymous.contains("www-authenticate: Bearer"),
        "{anonymous}"
    );
    // A request that two parsers would split differently is still refused.
    let smuggled = format!(
        "POST /api/v1/sync HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\
         Content-Length: 4\r\nContent-Length: 5\r\n\r\nxxxxx"
    );
    assert!(by_hand(&place, &smuggled).starts_with("HTTP/1.1 400"));
}

/// The concatenated content of all files in a folder.
fn text_below(folder: &Path) -> String {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let contents = entries.map(|path| match path.is_dir() {
        true => text_below(&path),
        false => String::from_utf8_lossy(&std::fs::read(&path).unwrap_or_default()).into_owned(),
    });
    contents.collect()
}

fn command_lines() -> String {
    let processes = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    let lines = processes.filter_map(|process| std::fs::read(process.path().join("cmdline")).ok());
    lines.map(|line| String::from_utf8_lossy(&line).into_owned()).collect()
}

#[test]
fn no_token_is_in_a_log_an_event_an_export_a_file_or_a_command_line() {
    let place = Place::new();
    let mut daemon = place.serve_with(&["--listen", &place.everywhere(), "-vv"]);
    let token = place.token("--role admin canary");
    let file = place.path("canary.token");
    std::fs::write(&file, format!("{token}\n")).unwrap();
    let file = file.display().to_string();
    let at = |words: &[&str]| {
        let words: Vec<&str> = words.iter().copied().chain(["--token-file", &file, "-vv"]).collect();
        place.abide_at(&place.https(), "", &words)
    };
    let mut printed = String::new();
    for words in [
        &["status"][..],
        &["hold", "dev", "--reason", "x"],
        &["history", "dev", "-o", "json"],
        &["events", "dev"],
        &["export"],
        &["token", "list", "-o", "json"],
        &["status", "nowhere"],
    ] {
        let ran = at(words);
        printed.push_str(&ran.stdout);
        printed.push_str(&ran.stderr);
    }
    assert!(printed.contains("canary"), "the token's name is told");
    let following = Following::events(&place, &token);
    printed.push_str(&command_lines());
    drop(following);
    // Also sends the token in a wrong place.
    let _ = http_get(place.port, &format!("/api/v1/environments?token={token}"));
    let _ = by_hand(
        &place,
        &format!(
            "DELETE /api/v1/tokens/{token} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\
             Authorization: Bearer {token}\r\n\r\n"
        ),
    );
    let revoked = at(&["token", "revoke", "canary"]);
    assert_eq!(revoked.code, 0, "{}", revoked.stderr);
    printed.push_str(&revoked.stdout);
    printed.push_str(&at(&["status"]).stderr);
    daemon.signal(rustix::process::Signal::TERM);
    daemon.end();
    printed.push_str(&daemon.log());
    printed.push_str(&text_below(&place.desired_state()));
    let secret = token.split('.').next().unwrap().splitn(3, '_').nth(2).unwrap();
    assert_eq!(secret.len(), 43);
    assert!(
        printed.contains("rejected: invalid token (unknown, expired or revoked)"),
        "the log was not looked at"
    );
    assert!(printed.contains("\"route\":\"/api/v1/environments/{environment}/hold\""), "no audit in the log");
    if let Some(place) = printed.find(secret) {
        panic!("the token is told: {}", printed[place.saturating_sub(300)..place].escape_debug());
    }
}
