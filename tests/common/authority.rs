//! A certificate authority of a test, and certificates that it signs; all created with `openssl`.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The folder in which Docker and abide look for registry CAs, with one subfolder per host.
const TRUSTED: &str = "/etc/docker/certs.d";
const NEW_KEY: [&str; 5] = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];

/// A certificate authority. When it is dropped, hosts no longer trust it.
pub(crate) struct Authority {
    dir: PathBuf,
    trusted_for: Vec<PathBuf>,
}

/// A certificate and its key.
pub(crate) struct Certificate {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

impl Authority {
    /// Creates an authority in a folder of `dir`.
    pub(crate) fn new(dir: &Path) -> Self {
        let dir = dir.join("authority");
        std::fs::create_dir(&dir).unwrap();
        let made = Self { dir, trusted_for: Vec::new() };
        let mut request = openssl("req");
        request.args(["-x509", "-days", "2", "-subj", "/CN=abide's tests"]).args(NEW_KEY);
        run(request.arg("-keyout").arg(made.key()).arg("-out").arg(made.certificate()));
        made
    }

    fn key(&self) -> PathBuf {
        self.dir.join("ca.key")
    }

    /// Its own certificate.
    pub(crate) fn certificate(&self) -> PathBuf {
        self.dir.join("ca.crt")
    }

    /// Signs a certificate for an address with a new key, and replaces the files at `place` with
    /// both.
    pub(crate) fn sign(&self, address: &str, place: &Certificate) {
        self.sign_for(&format!("IP:{address}"), place);
    }

    /// The same for these names, such as `DNS:example.com,IP:127.0.0.1`.
    pub(crate) fn sign_for(&self, alternatives: &str, place: &Certificate) {
        let file = |name: &str| self.dir.join(name);
        let [key, asked, names, signed] = ["new.key", "new.csr", "names", "new.crt"].map(file);
        std::fs::write(&names, format!("subjectAltName={alternatives}\n")).unwrap();
        let mut request = openssl("req");
        request.args(["-new", "-subj", "/CN=a registry"]).args(NEW_KEY);
        run(request.arg("-keyout").arg(&key).arg("-out").arg(&asked));
        let mut sign = openssl("x509");
        sign.args(["-req", "-days", "2", "-CAcreateserial", "-in"]).arg(&asked).arg("-extfile").arg(&names);
        sign.arg("-CA").arg(self.certificate()).arg("-CAkey").arg(self.key());
        run(sign.arg("-out").arg(&signed));
        std::fs::rename(&key, &place.key).unwrap();
        std::fs::rename(&signed, &place.certificate).unwrap();
    }

    /// Makes this host's engine, and abide, trust it for one registry, `host:port`.
    pub(crate) fn be_trusted_for(&mut self, registry: &str) {
        let folder = Path::new(TRUSTED).join(registry);
        std::fs::create_dir_all(&folder).unwrap();
        self.trusted_for.push(folder.clone());
        std::fs::copy(self.certificate(), folder.join("ca.crt")).unwrap();
    }

    /// Returns the certificate of a server in PEM form, if this authority signed it.
    pub(crate) fn shown_by(&self, server: &str) -> Option<String> {
        let mut client = openssl("s_client");
        client.args(["-verify_return_error", "-connect", server, "-CAfile"]).arg(self.certificate());
        let output = client.stdout(Stdio::piped()).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let end = "-----END CERTIFICATE-----\n";
        let (begin, end) = (text.find("-----BEGIN CERTIFICATE")?, text.find(end)? + end.len());
        output.status.success().then(|| text[begin..end].to_owned())
    }
}

impl Drop for Authority {
    fn drop(&mut self) {
        for folder in &self.trusted_for {
            let _ = std::fs::remove_dir_all(folder);
        }
        // The common folder is removed with its last registry.
        let _ = std::fs::remove_dir(TRUSTED);
    }
}

fn openssl(verb: &str) -> Command {
    let mut command = Command::new("openssl");
    command.arg(verb).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

fn run(command: &mut Command) {
    assert!(command.status().unwrap().success(), "{command:?}");
}
