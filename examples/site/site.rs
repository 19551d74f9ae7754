//! The example application that `abide demo` and the tests run: a static file server and a packer
//! in one file of plain `std`, so that its image needs no base image and no network.
//!
//! ```text
//! site serve [NAME] [--port N] [--root DIR] [--log FILE] [--settings FILE]
//! site pack DIR        a tar of DIR on standard output, its pages and style sheets compressed
//! site version
//! ```
//!
//! How it misbehaves is set by variables of the environment or, so that a *commit* can be a bad
//! one, by lines `NAME=VALUE` of the settings file. The environment wins.
//!
//! | variable | what it does |
//! | --- | --- |
//! | `SITE_START_DELAY=2s` | listens only after this time |
//! | `SITE_NEVER_LISTEN=1` | runs and never listens |
//! | `SITE_CRASH_AFTER=3s` | ends this long after its start (`0s`: at once) |
//! | `SITE_EXIT_CODE=7` | with this code (default 1) |
//! | `SITE_HTTP_STATUS=500` | answers every request with this status |
//! | `SITE_SLOW=400ms` | answers requests whose query is `slow` only after this time |
//! | `SITE_LEAK=1` | takes 10 MB more memory every second, until the kernel ends it |
//!
//! It has no handler for SIGTERM: under an init as pid 1 the default action ends it at once, and
//! as pid 1 itself it ignores the signal, as a shell there does.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The longest request head that is read, in bytes.
const LONGEST_HEAD: usize = 8 * 1024;
/// How long a client may stay silent.
const PATIENCE: Duration = Duration::from_secs(5);
/// How much a leaking server takes each second, in bytes.
const LEAK: usize = 10 * 1000 * 1000;
/// Tar counts in blocks of this many bytes.
const BLOCK: usize = 512;
const USAGE: &str = "usage: site serve [NAME] [--port N] [--root DIR] [--log FILE] [--settings FILE]
       site pack DIR
       site version";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("site: {message}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[String]) -> Result<(), String> {
    match arguments {
        [verb, rest @ ..] if verb == "serve" => serve(&Options::parse(rest)?),
        [verb, dir] if verb == "pack" => pack(Path::new(dir), io::stdout().lock()),
        [verb] if verb == "version" => {
            println!("site {}", option_env!("CARGO_PKG_VERSION").unwrap_or("unknown"));
            Ok(())
        }
        _ => Err(USAGE.to_owned()),
    }
}

// --- serve -------------------------------------------------------------------------------------

/// What was asked for on the command line of `serve`.
struct Options {
    name: String,
    port: u16,
    root: PathBuf,
    log: Option<PathBuf>,
    settings: Option<PathBuf>,
}

impl Options {
    fn parse(arguments: &[String]) -> Result<Self, String> {
        let mut options =
            Self { name: "local".into(), port: 8080, root: "www".into(), log: None, settings: None };
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            if !argument.starts_with('-') {
                options.name.clone_from(argument);
                continue;
            }
            let value = rest.next().ok_or_else(|| format!("{argument} needs a value\n{USAGE}"))?;
            match argument.as_str() {
                "--port" => options.port = value.parse().map_err(|_| format!("{value} is no port"))?,
                "--root" => options.root = value.into(),
                "--log" => options.log = Some(value.into()),
                "--settings" => options.settings = Some(value.into()),
                _ => return Err(format!("unknown option {argument}\n{USAGE}")),
            }
        }
        Ok(options)
    }
}

/// What every connection needs.
struct Site {
    root: PathBuf,
    /// What stands in pages for each placeholder.
    words: [(&'static str, String); 2],
    /// Answers every request with this status, if set.
    status: Option<u16>,
    /// How long a slow request takes.
    slow: Duration,
    log: Option<File>,
}

fn serve(options: &Options) -> Result<(), String> {
    let settings = Settings::read(options.settings.as_deref());
    misbehave(&settings)?;
    let root = options.root.canonicalize().map_err(|e| format!("{}: {e}", options.root.display()))?;
    let site = Arc::new(Site {
        root,
        words: [("{{ENVIRONMENT}}", escape(&options.name)), ("{{HOSTNAME}}", escape(&hostname()))],
        status: settings.number("SITE_HTTP_STATUS")?,
        slow: settings.duration("SITE_SLOW")?.unwrap_or_default(),
        log: options.log.as_deref().and_then(open_log),
    });
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, options.port))
        .map_err(|e| format!("port {}: {e}", options.port))?;
    println!("{} listens on port {}", options.name, options.port);
    for stream in listener.incoming().flatten() {
        let site = Arc::clone(&site);
        // If no thread can be started, this connection is dropped and the server continues.
        let _ = thread::Builder::new().spawn(move || site.answer(stream));
    }
    Ok(())
}

impl Site {
    fn answer(&self, mut stream: TcpStream) {
        let _ = stream.set_read_timeout(Some(PATIENCE));
        let _ = stream.set_write_timeout(Some(PATIENCE));
        let Some(head) = read_head(&mut stream) else { return };
        let mut words = head.split_whitespace();
        let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        if target.ends_with("?slow") {
            thread::sleep(self.slow);
        }
        let mut reply = self.reply(method, target);
        if let Some(status) = self.status {
            reply.status = status;
        }
        let sent = reply.send(&mut stream, method == "HEAD");
        self.note(&stream, method, target, &reply, sent.is_ok());
    }

    fn reply(&self, method: &str, target: &str) -> Reply {
        if !matches!(method, "GET" | "HEAD") {
            return Reply::sentence(405, "Only GET and HEAD are understood here.\n");
        }
        match self.find(target).and_then(|path| Some((fs::read(&path).ok()?, path))) {
            Some((body, path)) => {
                let kind = content_type(&path);
                let body = if kind.starts_with("text/html") { self.fill(&body) } else { body };
                Reply { status: 200, kind, body }
            }
            None => Reply::sentence(404, "Nothing is here.\n"),
        }
    }

    /// The file that `target` names. It is always in the root, whatever the target and the links are.
    fn find(&self, target: &str) -> Option<PathBuf> {
        let path = target.split(['?', '#']).next().unwrap_or_default();
        let path = decode(path)?;
        let inside = path.strip_prefix('/')?;
        if inside.split('/').any(|part| part == "..") || inside.contains('\0') {
            return None;
        }
        let mut found = self.root.join(inside.trim_start_matches('/'));
        if found.is_dir() {
            found.push("index.html");
        }
        let found = found.canonicalize().ok()?;
        (found.starts_with(&self.root) && found.is_file()).then_some(found)
    }

    fn fill(&self, page: &[u8]) -> Vec<u8> {
        let mut text = String::from_utf8_lossy(page).into_owned();
        for (placeholder, word) in &self.words {
            text = text.replace(placeholder, word);
        }
        text.into_bytes()
    }

    /// Writes one line for each request: to standard output, and to the log file if there is one.
    fn note(&self, stream: &TcpStream, method: &str, target: &str, reply: &Reply, sent: bool) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let peer = stream.peer_addr().map_or_else(|_| "-".to_owned(), |a| a.ip().to_string());
        let (method, target) = (method.escape_default(), target.escape_default());
        let broken = if sent { "" } else { " (not sent)" };
        let line = format!("{now} {peer} {method} {target} {} {}{broken}\n", reply.status, reply.body.len());
        let _ = io::stdout().write_all(line.as_bytes());
        if let Some(mut log) = self.log.as_ref() {
            let _ = log.write_all(line.as_bytes());
        }
    }
}

struct Reply {
    status: u16,
    kind: &'static str,
    body: Vec<u8>,
}

impl Reply {
    fn sentence(status: u16, text: &str) -> Self {
        Self { status, kind: "text/plain; charset=utf-8", body: text.into() }
    }

    fn send(&self, stream: &mut TcpStream, head_only: bool) -> io::Result<()> {
        let Self { status, kind, body } = self;
        let allow = if *status == 405 { "Allow: GET, HEAD\r\n" } else { "" };
        let head = format!(
            "HTTP/1.1 {status} {}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n{allow}\
             Cache-Control: no-cache\r\nX-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n",
            phrase(*status),
            body.len()
        );
        let mut answer = head.into_bytes();
        if !head_only {
            answer.extend_from_slice(body);
        }
        stream.write_all(&answer)
    }
}

fn phrase(status: u16) -> &'static str {
    match status {
        200 => "OK",
        404 => "Not Found",
        405 => "Method Not Allowed",
        500 => "Internal Server Error",
        503 => "Service Unavailable",
        _ => "As Told",
    }
}

/// The request line and the header fields; `None` if they are too long, too slow or not text.
fn read_head(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    let mut chunk = [0; 1024];
    while !head.windows(4).any(|window| window == b"\r\n\r\n") {
        let count = stream.read(&mut chunk).ok().filter(|count| *count > 0)?;
        head.extend_from_slice(&chunk[..count]);
        if head.len() > LONGEST_HEAD {
            return None;
        }
    }
    String::from_utf8(head).ok()
}

/// Percent-decodes a path; `None` if the result is not text.
fn decode(path: &str) -> Option<String> {
    let mut bytes = path.bytes();
    let mut decoded = Vec::with_capacity(path.len());
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let digit = |b: Option<u8>| char::from(b?).to_digit(16);
            let value = digit(bytes.next())? * 16 + digit(bytes.next())?;
            decoded.push(u8::try_from(value).ok()?);
        } else {
            decoded.push(byte);
        }
    }
    String::from_utf8(decoded).ok()
}

fn content_type(path: &Path) -> &'static str {
    match path.extension().and_then(|e| e.to_str()).unwrap_or_default() {
        "html" => "text/html; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "js" => "text/javascript; charset=utf-8",
        "json" => "application/json",
        "svg" => "image/svg+xml",
        "png" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        "ico" => "image/x-icon",
        "txt" | "md" => "text/plain; charset=utf-8",
        _ => "application/octet-stream",
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// The container's name for itself: the first digits of its id.
fn hostname() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    if name.trim().is_empty() { "unknown".into() } else { name.trim().to_owned() }
}

/// The server continues without a log that it cannot write.
fn open_log(path: &Path) -> Option<File> {
    let parent = path.parent().unwrap_or(Path::new("."));
    let opened =
        fs::create_dir_all(parent).and_then(|()| OpenOptions::new().append(true).create(true).open(path));
    opened.map_err(|e| eprintln!("site: goes on without the log {}: {e}", path.display())).ok()
}

// --- misbehaviour ------------------------------------------------------------------------------

/// The variables of the table at the top of this file.
struct Settings(BTreeMap<String, String>);

impl Settings {
    fn read(file: Option<&Path>) -> Self {
        let text = file.and_then(|path| fs::read_to_string(path).ok()).unwrap_or_default();
        let mut settings = Self::parse(&text);
        let set =
            std::env::vars_os().filter_map(|(n, v)| Some((n.into_string().ok()?, v.into_string().ok()?)));
        settings.0.extend(set.filter(|(name, _)| name.starts_with("SITE_")));
        settings
    }

    fn parse(text: &str) -> Self {
        let lines = text.lines().map(str::trim).filter(|line| !line.starts_with('#'));
        let pairs = lines.filter_map(|line| line.split_once('='));
        Self(pairs.map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned())).collect())
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    fn is_on(&self, name: &str) -> bool {
        self.get(name).is_some_and(|value| value != "0")
    }

    fn number(&self, name: &str) -> Result<Option<u16>, String> {
        let parse = |value: &str| value.parse().map_err(|_| format!("{name}={value} is no number"));
        self.get(name).map(parse).transpose()
    }

    fn duration(&self, name: &str) -> Result<Option<Duration>, String> {
        let parse = |value: &str| parse_duration(value).ok_or_else(|| format!("{name}={value} is no time"));
        self.get(name).map(parse).transpose()
    }
}

/// `2s` or `500ms`.
fn parse_duration(text: &str) -> Option<Duration> {
    match text.strip_suffix("ms") {
        Some(millis) => millis.parse().ok().map(Duration::from_millis),
        None => text.strip_suffix('s')?.parse().ok().map(Duration::from_secs),
    }
}

/// Causes the failures that the settings ask for before a server listens, and schedules the later ones.
fn misbehave(settings: &Settings) -> Result<(), String> {
    if let Some(after) = settings.duration("SITE_CRASH_AFTER")? {
        let code = settings.number("SITE_EXIT_CODE")?.unwrap_or(1);
        thread::spawn(move || {
            thread::sleep(after);
            eprintln!("site: ends with {code}, as told");
            std::process::exit(code.into())
        });
    }
    if settings.is_on("SITE_LEAK") {
        thread::spawn(leak);
    }
    while settings.is_on("SITE_NEVER_LISTEN") {
        thread::sleep(Duration::from_secs(3600));
    }
    thread::sleep(settings.duration("SITE_START_DELAY")?.unwrap_or_default());
    Ok(())
}

fn leak() {
    let mut kept: Vec<Vec<u8>> = Vec::new();
    loop {
        // Ones, not zeros: memory of zeros costs nothing until it is written to.
        kept.push(vec![1; LEAK]);
        std::hint::black_box(&kept);
        thread::sleep(Duration::from_secs(1));
    }
}

// --- pack --------------------------------------------------------------------------------------

/// Writes a tar (ustar) of `dir`. The same content gives the same bytes: sorted, no times, no owners.
pub(crate) fn pack(dir: &Path, out: impl Write) -> Result<(), String> {
    let mut paths = Vec::new();
    collect(dir, &mut paths)?;
    paths.sort();
    let mut out = BufWriter::new(out);
    let mut saved = 0;
    for path in &paths {
        saved += pack_one(dir, path, &mut out)?;
    }
    // Two empty blocks end a tar.
    out.write_all(&[0; 2 * BLOCK]).and_then(|()| out.flush()).map_err(|e| format!("standard output: {e}"))?;
    eprintln!("site: packed {} files, {saved} bytes smaller than they were", paths.len());
    Ok(())
}

fn collect(dir: &Path, into: &mut Vec<PathBuf>) -> Result<(), String> {
    let unreadable = |e: io::Error| format!("{}: {e}", dir.display());
    for entry in fs::read_dir(dir).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        let kind = fs::symlink_metadata(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        if kind.is_dir() {
            collect(&path, into)?;
        } else if kind.is_file() {
            into.push(path);
        } else {
            return Err(format!("{} is neither a file nor a folder", path.display()));
        }
    }
    Ok(())
}

/// Writes one file and returns how many bytes its compression saved.
fn pack_one(dir: &Path, path: &Path, out: &mut impl Write) -> Result<usize, String> {
    let failed = |e: io::Error| format!("{}: {e}", path.display());
    let name = path.strip_prefix(dir).ok().and_then(Path::to_str);
    let name = name.ok_or_else(|| format!("{} has a name that is no text", path.display()))?;
    let original = fs::read(path).map_err(failed)?;
    let body = compress(path, &original);
    let header = header(name, body.len(), is_program(path).map_err(failed)?)?;
    let padding = body.len().next_multiple_of(BLOCK) - body.len();
    for part in [&header[..], &body, &[0; BLOCK][..padding]] {
        out.write_all(part).map_err(|e| format!("standard output: {e}"))?;
    }
    Ok(original.len().saturating_sub(body.len()))
}

#[cfg(unix)]
fn is_program(path: &Path) -> io::Result<bool> {
    use std::os::unix::fs::PermissionsExt as _;
    Ok(fs::metadata(path)?.permissions().mode() & 0o100 != 0)
}

/// The header block of a regular file, in the format of POSIX.1-1988.
fn header(name: &str, size: usize, program: bool) -> Result<[u8; BLOCK], String> {
    let (prefix, name) = split_name(name).ok_or_else(|| format!("{name} is too long a name for a tar"))?;
    let mut block = [0; BLOCK];
    let mut put = |at: usize, text: &str| block[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(0, name);
    put(100, if program { "0000755" } else { "0000644" });
    put(108, "0000000");
    put(116, "0000000");
    put(124, &format!("{size:011o}"));
    put(136, "00000000000");
    // The sum is taken with its own field full of spaces.
    put(148, "        ");
    put(156, "0");
    put(257, "ustar\x0000");
    put(345, prefix);
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    Ok(block)
}

/// Splits a path at a slash so that the front fits 155 bytes and the back 100.
pub(crate) fn split_name(path: &str) -> Option<(&str, &str)> {
    if path.len() <= 100 {
        return Some(("", path));
    }
    let fits = |(front, back): &(&str, &str)| front.len() <= 155 && (1..=100).contains(&back.len());
    path.match_indices('/').map(|(at, _)| (&path[..at], &path[at + 1..])).find(fits)
}

/// What stands here for a real project's bundler.
pub(crate) fn compress(path: &Path, body: &[u8]) -> Vec<u8> {
    let Ok(text) = std::str::from_utf8(body) else { return body.to_vec() };
    match path.extension().and_then(|e| e.to_str()) {
        Some("html") => compress_html(text).into_bytes(),
        Some("css") => collapse(&without(text, "/*", "*/")).into_bytes(),
        _ => body.to_vec(),
    }
}

/// Leaves a page unchanged if white space in it may be significant.
fn compress_html(text: &str) -> String {
    if ["<pre", "<textarea", "<script", "<style"].iter().any(|tag| text.contains(tag)) {
        return text.to_owned();
    }
    collapse(&without(text, "<!--", "-->"))
}

/// `text` without what stands from each `open` to the next `close`.
pub(crate) fn without(text: &str, open: &str, close: &str) -> String {
    let mut kept = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once(open) {
        let Some((_, after)) = after.split_once(close) else { break };
        kept.push_str(before);
        rest = after;
    }
    kept + rest
}

/// Every run of white space as one space.
fn collapse(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
