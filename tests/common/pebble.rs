//! pebble, an ACME authority for tests, and its name server.
//!
//! The tests in the modules `acme` and `front` include this file too, so it uses only `ports` of this folder.

#![allow(dead_code, clippy::print_stderr)]

use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use super::ports::free_ports;

const PATIENCE: Duration = Duration::from_secs(60);

/// A running authority. It ends with the last test that uses it.
pub(crate) struct Pebble {
    dir: tempfile::TempDir,
    port: u16,
    http: u16,
    server: std::net::SocketAddr,
    manage: u16,
    roots: u16,
    processes: Vec<Child>,
    /// The thumbprints that answer challenges, by host name.
    thumbprints: Arc<Mutex<HashMap<String, String>>>,
}

static SHARED: Mutex<Weak<Pebble>> = Mutex::new(Weak::new());

impl Pebble {
    /// The authority that all tests of this process share.
    pub(crate) fn shared() -> Arc<Self> {
        let mut shared = SHARED.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(pebble) = shared.upgrade() {
            return pebble;
        }
        let pebble = Arc::new(Self::start());
        *shared = Arc::downgrade(&pebble);
        pebble
    }

    /// # Panics
    /// pebble is missing, because a test that did not run must not look like one that passed.
    fn start() -> Self {
        let [http] = free_ports();
        let pebble = Self::start_at(http);
        answer_challenges(http, &pebble.thumbprints);
        pebble
    }

    /// Starts an authority that looks for challenges on this port of this host.
    pub(crate) fn start_at(http: u16) -> Self {
        Self::start_between("127.0.0.1", http, "127.0.0.1")
    }

    /// Starts an authority on one address, for which all names lead to another one.
    pub(crate) fn start_between(address: &str, http: u16, names_lead_to: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let [port, manage, dns, dns_manage] = free_ports();
        make_certificates(dir.path(), address);
        let path = |name: &str| dir.path().join(name).display().to_string();
        let config = serde_json::json!({"pebble": {
            "listenAddress": format!("{address}:{port}"), "managementListenAddress": format!("127.0.0.1:{manage}"),
            "certificate": path("pebble.pem"), "privateKey": path("pebble.key"), "httpPort": http, "tlsPort": 1,
            "ocspResponderURL": "", "externalAccountBindingRequired": false,
        }});
        std::fs::write(path("pebble.json"), config.to_string()).unwrap();
        let mut names = Command::new("pebble-challtestsrv");
        names.args([
            "-defaultIPv4",
            names_lead_to,
            "-defaultIPv6",
            "",
            "-http01",
            "",
            "-https01",
            "",
            "-tlsalpn01",
            "",
        ]);
        names.args([
            "-dns01",
            &format!("{address}:{dns}"),
            "-management",
            &format!("127.0.0.1:{dns_manage}"),
        ]);
        let mut pebble = Command::new("pebble");
        pebble.args([
            "-config",
            &path("pebble.json"),
            "-strict=false",
            "-dnsserver",
            &format!("{address}:{dns}"),
        ]);
        // One nonce in twenty is rejected, as by default: the ACME library sends a request at most three times, so at a
        // higher rate orders fail by chance. Only proofs of this order count.
        pebble.envs([
            ("PEBBLE_VA_NOSLEEP", "1"),
            ("PEBBLE_WFE_NONCEREJECT", "5"),
            ("PEBBLE_AUTHZREUSE", "0"),
        ]);
        let start = |command: &mut Command, log: &str| {
            let log = std::fs::File::create(dir.path().join(log)).unwrap();
            command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
            command.spawn().unwrap_or_else(|error| {
                panic!("{command:?} (Debian: pebble; `.ci/run` installs it): {error}")
            })
        };
        let processes = vec![start(&mut names, "names.log"), start(&mut pebble, "pebble.log")];
        let thumbprints = Arc::default();
        let server = std::net::SocketAddr::new(address.parse().unwrap(), dns);
        let pebble =
            Self { dir, port, http, server, roots: manage, manage: dns_manage, processes, thumbprints };
        for (address, port) in [(address, port), ("127.0.0.1", dns_manage)] {
            let began = Instant::now();
            while TcpStream::connect((address, port)).is_err() {
                assert!(began.elapsed() < PATIENCE, "nothing on port {port}: {}", pebble.log());
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        pebble
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("pebble.log")).unwrap_or_default()
    }

    /// The port of its directory.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// The port on which it looks for challenges.
    pub(crate) fn http_port(&self) -> u16 {
        self.http
    }

    /// Answers challenges for a host name with this thumbprint, in place of a proxy.
    pub(crate) fn answer(&self, host: &str, thumbprint: &str) {
        self.thumbprints.lock().unwrap().insert(host.to_owned(), thumbprint.to_owned());
    }

    /// Its name server.
    pub(crate) fn name_server(&self) -> std::net::SocketAddr {
        self.server
    }

    /// The certificate of the authority that signed its certificate, and those of the proxies before it.
    pub(crate) fn root(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    pub(crate) fn certificate(&self) -> (PathBuf, PathBuf) {
        (self.dir.path().join("pebble.pem"), self.dir.path().join("pebble.key"))
    }

    /// The port that serves the roots of its certificates.
    pub(crate) fn roots_port(&self) -> u16 {
        self.roots
    }

    /// Makes an authority in a folder, without running it.
    pub(crate) fn certificates_in(dir: &std::path::Path) -> Certificates {
        make_certificates(dir, "127.0.0.1");
        Certificates(dir.to_owned())
    }

    /// The port for the management of records.
    pub(crate) fn management(&self) -> u16 {
        self.manage
    }

    /// Gives a name one address.
    pub(crate) fn address(&self, name: &str, address: &str) {
        self.manage("clear-a", &serde_json::json!({"host": name}));
        self.manage("add-a", &serde_json::json!({"host": name, "addresses": [address]}));
    }

    /// Makes a name an alias of another one.
    pub(crate) fn alias(&self, name: &str, target: &str) {
        self.manage("set-cname", &serde_json::json!({"host": name, "target": target}));
    }

    fn manage(&self, verb: &str, body: &serde_json::Value) {
        let body = body.to_string();
        let mut stream = TcpStream::connect(("127.0.0.1", self.manage)).unwrap();
        let head = format!("POST /{verb} HTTP/1.0\r\nHost: x\r\nContent-Length: {}\r\n\r\n", body.len());
        stream.write_all((head + &body).as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.contains(" 200 "), "{verb} {body}: {answer}");
    }
}

/// An authority as files.
pub(crate) struct Certificates(PathBuf);

impl Certificates {
    /// Signs a certificate for a name, in `NAME.pem` and `NAME.key`.
    pub(crate) fn sign(&self, name: &str) {
        sign(&self.0, name, &format!("DNS:{name}"));
    }
}

impl Drop for Pebble {
    fn drop(&mut self) {
        for process in &mut self.processes {
            let _ = process.kill();
            let _ = process.wait();
        }
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!("--- pebble\n{}", lines[lines.len().saturating_sub(40)..].join("\n"));
        }
    }
}

/// Answers every token with the thumbprint of its host name, as a proxy does. The threads end with the process.
fn answer_challenges(port: u16, thumbprints: &Arc<Mutex<HashMap<String, String>>>) {
    let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
    let thumbprints = Arc::clone(thumbprints);
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let thumbprints = Arc::clone(&thumbprints);
            std::thread::spawn(move || {
                let mut request = vec![0; 4096];
                let length = stream.read(&mut request).unwrap_or(0);
                let request = String::from_utf8_lossy(&request[..length]).into_owned();
                let path = request.split(' ').nth(1).unwrap_or_default();
                let token = path.rsplit('/').next().unwrap_or_default();
                let host = request.lines().find_map(|line| line.strip_prefix("Host: ")).unwrap_or_default();
                let host = host.split(':').next().unwrap_or_default();
                let answer = match thumbprints.lock().unwrap().get(host) {
                    Some(thumbprint) => format!("HTTP/1.0 200 OK\r\n\r\n{token}.{thumbprint}"),
                    None => "HTTP/1.0 404 Not Found\r\n\r\n".to_owned(),
                };
                let _ = stream.write_all(answer.as_bytes());
            });
        }
    });
}

const NEW_KEY: [&str; 5] = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];

fn make_certificates(dir: &std::path::Path, address: &str) {
    let authority = ["-subj", "/CN=abide's tests", "-addext", "basicConstraints=critical,CA:TRUE"];
    let new = ["req", "-x509", "-days", "2", "-keyout", "ca.key", "-out", "ca.pem"];
    openssl(dir, &[&new[..], &NEW_KEY, &authority].concat());
    sign(dir, "pebble", &format!("DNS:localhost,IP:127.0.0.1,IP:{address}"));
}

fn sign(dir: &std::path::Path, file: &str, names: &str) {
    let [key, request, certificate, drafts] =
        ["key", "csr", "pem", "new"].map(|ending| format!("{file}.{ending}"));
    let ask = ["req", "-keyout", &key, "-out", &request, "-subj", "/CN=abide's tests"];
    openssl(dir, &[&ask[..], &NEW_KEY].concat());
    std::fs::write(dir.join("names"), format!("subjectAltName={names}\n")).unwrap();
    let sign = ["x509", "-req", "-days", "2", "-in", &request, "-CA", "ca.pem", "-CAkey", "ca.key"];
    openssl(dir, &[&sign[..], &["-CAcreateserial", "-out", &drafts, "-extfile", "names"]].concat());
    std::fs::rename(dir.join(drafts), dir.join(certificate)).unwrap();
}

fn openssl(dir: &std::path::Path, arguments: &[&str]) {
    let status = Command::new("openssl").args(arguments).current_dir(dir).stderr(Stdio::null()).status();
    assert!(status.unwrap().success(), "openssl {arguments:?}");
}
