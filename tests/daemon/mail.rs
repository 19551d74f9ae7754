//! E-mail through a real server, which demands STARTTLS and a login.

use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::child::{PATIENCE, Place};
use crate::common::{Authority, Certificate, Ran, eventually, free_ports};

const PYTHON: &str = "/usr/bin/python3";
const PASSWORD: &str = "sesame-of-the-mail-server";
/// Writes each mail as a line of JSON. Arguments: port, certificate, key, file, mechanism to leave out, password.
const SERVER: &str = r#"
import json, ssl, sys, time
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, LoginPassword

port, certificate, key, file, left_out, password = sys.argv[1:]

class Handler:
    async def handle_DATA(self, server, session, envelope):
        mail = {"from": envelope.mail_from, "to": envelope.rcpt_tos, "tls": session.ssl is not None,
                "login": session.authenticated, "text": envelope.content.decode()}
        with open(file, "a") as out:
            out.write(json.dumps(mail) + "\n")
        return "250 stored"

def authenticate(server, session, envelope, mechanism, data):
    good = LoginPassword(b"abide", password.encode())
    return AuthResult(success=data == good, handled=False)

options = {}
if certificate:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    options = {"tls_context": context, "require_starttls": True, "auth_required": True,
               "authenticator": authenticate, "auth_exclude_mechanism": [left_out]}
controller = Controller(Handler(), hostname="127.0.0.1", port=int(port), **options)
controller.start()
while True:
    time.sleep(60)
"#;

/// A mail server that runs until it is dropped.
struct MailServer {
    child: Child,
    port: u16,
    file: PathBuf,
}

impl MailServer {
    fn start(place: &Place, certificate: Option<&Certificate>, left_out: &str) -> Self {
        let [port] = free_ports();
        let (script, file) = (place.path("server.py"), place.path(&format!("mails-{port}")));
        std::fs::write(&script, SERVER).unwrap();
        let path = |path: Option<&PathBuf>| path.map(|path| path.display().to_string()).unwrap_or_default();
        let mut command = Command::new(PYTHON);
        command.arg(&script).arg(port.to_string());
        command.arg(path(certificate.map(|files| &files.certificate)));
        command.arg(path(certificate.map(|files| &files.key)));
        let child = command.arg(&file).args([left_out, PASSWORD]).stdin(Stdio::null()).spawn().unwrap();
        let server = Self { child, port, file };
        eventually("the mail server answers", PATIENCE, || TcpStream::connect(("127.0.0.1", port)).is_ok());
        server
    }

    fn mails(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(&self.file).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

impl Drop for MailServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether this host has the server.
fn has_server() -> bool {
    let found = Command::new(PYTHON).args(["-c", "import aiosmtpd"]).stderr(Stdio::null()).status();
    let found = found.is_ok_and(|status| status.success());
    if !found {
        eprintln!("left out: no aiosmtpd (Debian and Ubuntu: python3-aiosmtpd)");
    }
    found
}

#[test]
fn mail_is_sent_over_tls_with_a_login_and_rejections_are_reported() {
    if !has_server() {
        return;
    }
    let place = Place::new();
    let authority = Authority::new(place.path("state").parent().unwrap());
    let files = Certificate { certificate: place.path("server.crt"), key: place.path("server.key") };
    authority.sign("127.0.0.1", &files);
    let password = place.path("password");
    std::fs::write(&password, format!("{PASSWORD}\n")).unwrap();
    let (plain, login) =
        (MailServer::start(&place, Some(&files), "LOGIN"), MailServer::start(&place, Some(&files), "PLAIN"));
    let open = MailServer::start(&place, None, "");
    let channel = |name: &str, port: u16, more: &str| {
        format!(
            "[notify.{name}]\nkind = \"email\"\nurl = \"smtp://127.0.0.1:{port}\"\nfrom = \"abide@example.com\"\n\
             to = [\"ops@example.com\", \"qa@example.com\"]\nallow_private = true\n{more}\n"
        )
    };
    let credentials = format!("username = \"abide\"\nsecret_file = {password:?}");
    let manifest = [
        channel("plain", plain.port, &credentials),
        channel("login", login.port, &credentials),
        channel("anonymous", plain.port, ""),
        channel("open", open.port, &credentials),
    ]
    .concat();
    std::fs::write(place.desired_state().join("notify.toml"), manifest).unwrap();
    let daemon = place.serve(&[("SSL_CERT_FILE", authority.certificate().to_str().unwrap())]);
    let test = |name: &str| -> Ran { place.abide(&["notify", "test", name]) };

    for (name, server) in [("plain", &plain), ("login", &login)] {
        let ran = test(name);
        assert_eq!(ran.code, 0, "{name}: {ran:?}");
        let mails = server.mails();
        let [mail] = &mails[..] else { panic!("{name}: {mails:?}") };
        assert_eq!((&mail["tls"], &mail["login"]), (&true.into(), &true.into()), "{name}");
        assert_eq!(mail["from"], "abide@example.com");
        assert_eq!(mail["to"], serde_json::json!(["ops@example.com", "qa@example.com"]));
        let text = mail["text"].as_str().unwrap();
        assert!(text.contains("Subject: ") && text.contains("Auto-Submitted: auto-generated"), "{text}");
    }
    // Without a login, with a wrong one, and a server to which it would be sent in the clear.
    let anonymous = test("anonymous");
    assert!(anonymous.code == 1 && anonymous.stderr.contains("530"), "{anonymous:?}");
    let clear = test("open");
    assert!(clear.code == 1 && clear.stderr.contains("no STARTTLS"), "{clear:?}");
    assert!(open.mails().is_empty());
    std::fs::write(&password, "wrong-password\n").unwrap();
    for name in ["plain", "login"] {
        let wrong = test(name);
        assert!(wrong.code == 1 && wrong.stderr.contains("the login is rejected"), "{name}: {wrong:?}");
        assert!(!wrong.stderr.contains("wrong-password"), "{wrong:?}");
    }
    drop(daemon);
}
