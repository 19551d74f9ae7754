//! A real browser: Debian's Chromium, driven by `chromedriver` over the WebDriver protocol.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::ports::free_ports;
use super::{PATIENCE, eventually, eventually_some};

const DRIVER: &str = "/usr/bin/chromedriver";
const CHROMIUM: &str = "/usr/bin/chromium";
/// How long one command may take on a busy host, including the start of a browser.
const LONGEST_COMMAND: Duration = Duration::from_secs(120);
/// The source of a library that hides changes of the host's network from Chromium.
const QUIET_NETWORK: &str = include_str!("quiet_network.c");
/// The key of an element's id in answers, by the WebDriver standard.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";
/// The rules of axe-core that a page must meet.
const RULES: [&str; 6] = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"];

/// A browser with one tab, until it is dropped.
pub(crate) struct Browser {
    driver: Child,
    port: u16,
    session: String,
    _preloaded: TempDir,
}

impl Browser {
    /// Starts a browser; `None`, with a printed reason, if Chromium or its driver is missing.
    pub(crate) fn start() -> Option<Self> {
        Self::with(true)
    }

    /// Starts a browser that runs no scripts.
    pub(crate) fn without_scripts() -> Option<Self> {
        Self::with(false)
    }

    fn with(scripts: bool) -> Option<Self> {
        if ![DRIVER, CHROMIUM].iter().all(|program| Path::new(program).exists()) {
            eprintln!("left out: no {DRIVER} or {CHROMIUM} (Debian: chromium, chromium-driver)");
            return None;
        }
        let [port] = free_ports();
        let preloaded = tempfile::tempdir().unwrap();
        let driver = Command::new(DRIVER)
            .env("LD_PRELOAD", quiet_network(preloaded.path()))
            .arg(format!("--port={port}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut browser = Self { driver, port, session: String::new(), _preloaded: preloaded };
        eventually("chromedriver is ready", PATIENCE, || {
            call(port, "GET", "/status", &Value::Null).is_ok_and(|status| status["ready"] == true)
        });
        let arguments = ["--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"];
        let arguments = arguments.into_iter().chain(["--hide-scrollbars", "--no-first-run"]);
        let arguments = arguments.chain(["--disable-background-networking", "--window-size=1280,1000"]);
        // Names of tests lead to this host.
        let arguments = arguments.chain(["--host-resolver-rules=MAP *.example 127.0.0.1"]);
        let mut options = json!({ "binary": CHROMIUM, "args": arguments.collect::<Vec<_>>() });
        if !scripts {
            options["prefs"] = json!({ "profile.managed_default_content_settings.javascript": 2 });
        }
        let capabilities = json!({
            "browserName": "chrome",
            "acceptInsecureCerts": true,
            "goog:chromeOptions": options,
            "goog:loggingPrefs": { "browser": "ALL" },
        });
        let wanted = json!({ "capabilities": { "alwaysMatch": capabilities } });
        let session = call(port, "POST", "/session", &wanted).unwrap();
        session["sessionId"].as_str().unwrap().clone_into(&mut browser.session);
        Some(browser)
    }

    fn command(&self, method: &str, path: &str, body: &Value) -> Result<Value, String> {
        call(self.port, method, &format!("/session/{}{path}", self.session), body)
    }

    fn must(&self, method: &str, path: &str, body: &Value) -> Value {
        self.command(method, path, body).unwrap_or_else(|error| panic!("{method} {path} {body}: {error}"))
    }

    /// Opens a page.
    pub(crate) fn open(&self, url: &str) {
        self.must("POST", "/url", &json!({ "url": url }));
    }

    /// Returns the URL of the page.
    pub(crate) fn url(&self) -> String {
        self.must("GET", "/url", &Value::Null).as_str().unwrap_or_default().to_owned()
    }

    /// Returns the title of the page.
    pub(crate) fn title(&self) -> String {
        self.must("GET", "/title", &Value::Null).as_str().unwrap_or_default().to_owned()
    }

    fn element(&self, css: &str) -> Option<String> {
        let wanted = json!({ "using": "css selector", "value": css });
        let found = self.command("POST", "/element", &wanted).ok()?;
        found[ELEMENT].as_str().map(str::to_owned)
    }

    /// Returns the shown text of an element, as soon as there is one.
    pub(crate) fn text(&self, css: &str) -> String {
        eventually_some(&format!("`{css}` is on {}", self.url()), PATIENCE, || self.try_text(css))
    }

    /// Returns the shown text of an element, if there is one.
    pub(crate) fn try_text(&self, css: &str) -> Option<String> {
        let element = self.element(css)?;
        let text = self.command("GET", &format!("/element/{element}/text"), &Value::Null).ok()?;
        text.as_str().map(str::to_owned)
    }

    /// Waits until the element's shown text meets `is_it`, and returns the text.
    pub(crate) fn until(&self, what: &str, css: &str, is_it: impl Fn(&str) -> bool) -> String {
        let (began, mut last) = (Instant::now(), None);
        loop {
            last = self.try_text(css).or(last);
            match &last {
                Some(text) if is_it(text) => return text.clone(),
                _ if began.elapsed() < PATIENCE => std::thread::sleep(Duration::from_millis(50)),
                _ => panic!(
                    "{what}: not within {PATIENCE:?}; `{css}` of {}: {last:?}\n{}",
                    self.url(),
                    self.text("body")
                ),
            }
        }
    }

    /// Clicks an element, as soon as there is one that can be clicked.
    pub(crate) fn click(&self, css: &str) {
        eventually(&format!("`{css}` can be clicked on {}", self.url()), PATIENCE, || {
            let Some(element) = self.element(css) else { return false };
            self.command("POST", &format!("/element/{element}/click"), &json!({})).is_ok()
        });
    }

    /// Opens a fold (`details`) unless it is open: an environment in trouble has its first form open already.
    pub(crate) fn unfold(&self, css: &str) {
        eventually(&format!("`{css}` can be opened on {}", self.url()), PATIENCE, || {
            if self.element(&format!("{css}[open]")).is_some() {
                return true;
            }
            if let Some(summary) = self.element(&format!("{css} > summary")) {
                drop(self.command("POST", &format!("/element/{summary}/click"), &json!({})));
            }
            self.element(&format!("{css}[open]")).is_some()
        });
    }

    /// Types a text into a field.
    pub(crate) fn fill(&self, css: &str, text: &str) {
        eventually(&format!("`{css}` can be filled in on {}", self.url()), PATIENCE, || {
            let Some(element) = self.element(css) else { return false };
            self.command("POST", &format!("/element/{element}/value"), &json!({ "text": text })).is_ok()
        });
    }

    /// Runs a script in the page and returns its result.
    pub(crate) fn script(&self, script: &str) -> Value {
        self.must("POST", "/execute/sync", &json!({ "script": script, "args": [] }))
    }

    /// Returns the cookies that the browser would send to the page.
    pub(crate) fn cookies(&self) -> Vec<Value> {
        self.must("GET", "/cookie", &Value::Null).as_array().cloned().unwrap_or_default()
    }

    /// Sets the size of the page and the preferred colours.
    pub(crate) fn screen(&self, width: u32, colours: &str) {
        let metrics =
            json!({ "width": width, "height": 1000, "deviceScaleFactor": 1, "mobile": width < 500 });
        self.devtools("Emulation.setDeviceMetricsOverride", &metrics);
        let features = json!({ "features": [{ "name": "prefers-color-scheme", "value": colours }] });
        self.devtools("Emulation.setEmulatedMedia", &features);
    }

    /// Stores a picture of the whole page as `NAME.png` in the folder of `ABIDE_TEST_PICTURES`, if that is set.
    pub(crate) fn picture(&self, name: &str) {
        let Some(folder) = std::env::var_os("ABIDE_TEST_PICTURES") else { return };
        let shot = self
            .devtools("Page.captureScreenshot", &json!({ "format": "png", "captureBeyondViewport": true }));
        let image = STANDARD.decode(shot["data"].as_str().unwrap()).unwrap();
        std::fs::write(Path::new(&folder).join(format!("{name}.png")), image).unwrap();
    }

    fn devtools(&self, command: &str, parameters: &Value) -> Value {
        self.must("POST", "/goog/cdp/execute", &json!({ "cmd": command, "params": parameters }))
    }

    /// Returns how many pixels the page is wider than its window.
    pub(crate) fn overflow(&self) -> i64 {
        let width = "return document.documentElement.scrollWidth - document.documentElement.clientWidth";
        self.script(width).as_i64().unwrap()
    }

    /// Returns the violations of accessibility rules that axe-core finds, as `rule: element`.
    pub(crate) fn violations(&self, axe: &str) -> Vec<String> {
        self.script(axe);
        let rules = json!({ "runOnly": { "type": "tag", "values": RULES } });
        let script = format!(
            "const done = arguments[arguments.length - 1];\
             axe.run(document, {rules}).then((found) => done(found.violations.flatMap((rule) =>\
             rule.nodes.map((node) => rule.id + ': ' + node.html.slice(0, 200)))), (error) => done([String(error)]))"
        );
        self.must("POST", "/timeouts", &json!({ "script": LONGEST_COMMAND.as_millis() as u64 }));
        let found = self.must("POST", "/execute/async", &json!({ "script": script, "args": [] }));
        found.as_array().unwrap().iter().map(|line| line.as_str().unwrap_or_default().to_owned()).collect()
    }

    /// Returns the errors of the browser's console, which include violations of the page's policy. A failed
    /// request for a page is none: tests end sessions and daemons.
    pub(crate) fn errors(&self) -> Vec<String> {
        let log = self.must("POST", "/se/log", &json!({ "type": "browser" }));
        let lines = log.as_array().unwrap().iter();
        let severe = lines.filter(|line| line["level"] == "SEVERE" && line["source"] != "network");
        severe.map(|line| line["message"].as_str().unwrap_or_default().to_owned()).collect()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.command("DELETE", "", &Value::Null);
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}

/// Sends one command and returns its value.
fn call(port: u16, method: &str, path: &str, body: &Value) -> Result<Value, String> {
    let text = |error: std::io::Error| error.to_string();
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).map_err(text)?;
    stream.set_read_timeout(Some(LONGEST_COMMAND)).map_err(text)?;
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost:{port}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body.as_bytes())).map_err(text)?;
    let (status, body) = answer(&mut stream)?;
    let answer: Value = serde_json::from_slice(&body).map_err(|error| error.to_string())?;
    if status == 200 { Ok(answer["value"].clone()) } else { Err(answer["value"]["message"].to_string()) }
}

/// Compiles the library of [`QUIET_NETWORK`] in a folder.
fn quiet_network(folder: &Path) -> PathBuf {
    let (source, library) = (folder.join("quiet_network.c"), folder.join("quiet_network.so"));
    std::fs::write(&source, QUIET_NETWORK).unwrap();
    let mut compiler = Command::new("cc");
    compiler.args(["-shared", "-fPIC", "-Wall", "-Werror", "-o"]).args([&library, &source]).arg("-ldl");
    assert!(compiler.status().unwrap().success(), "cc compiles {}", source.display());
    library
}

/// Reads an answer by its length: chromedriver keeps the connection open even if asked to close it.
fn answer(stream: &mut TcpStream) -> Result<(u16, Vec<u8>), String> {
    let (mut bytes, mut piece) = (Vec::new(), [0; 65_536]);
    loop {
        let read = stream.read(&mut piece).map_err(|error| error.to_string())?;
        bytes.extend_from_slice(&piece[..read]);
        let head_end = bytes.windows(4).position(|window| window == b"\r\n\r\n");
        if let Some(end) = head_end {
            let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
            let length =
                head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
            let (length, body): (usize, &[u8]) = (length.unwrap_or(0), &bytes[end + 4..]);
            if body.len() >= length {
                let status = head.split_whitespace().nth(1).and_then(|status| status.parse().ok());
                return Ok((status.unwrap_or(0), body[..length].to_vec()));
            }
        }
        if read == 0 {
            return Err("the answer ended early".to_owned());
        }
    }
}

/// Returns the script of axe-core; `None`, with a printed reason, if `.ci/run` could not download it.
pub(crate) fn axe() -> Option<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/axe/axe.min.js");
    let script = std::fs::read_to_string(&path).ok();
    if script.is_none() {
        eprintln!("left out: no {} (`.ci/run` downloads it)", path.display());
    }
    script
}
