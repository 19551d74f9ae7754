//! Compares packed contexts with those of the Docker CLI, if it is installed.
//!
//! The CLI's classic builder applies `.dockerignore` itself and sends a tar to the engine. In these tests,
//! the engine is a socket that keeps the tar. `PROPTEST_CASES=1000` compares more cases.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::Command;
use std::sync::mpsc;
use std::thread;

use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner};

use super::ignore::{IgnoreRules, clean};
use super::pack::{PackLimits, pack};

/// The default number of cases. It is small because each case runs the CLI once, for a tenth of a second.
const CASES: u32 = 30;

#[test]
fn the_docker_cli_sends_the_same_entries() {
    let engine = FakeEngine::start();
    if let Err(reason) = engine.probe() {
        writeln!(io::stderr(), "skipped: no docker CLI with a classic builder here: {reason}").unwrap();
        return;
    }
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(CASES);
    let config = Config { cases, failure_persistence: None, max_shrink_iters: 200, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    let case = (tree(), prop::collection::vec(line(), 0..7), select(vec!["Dockerfile", "a/Dockerfile"]));
    let outcome =
        runner.run(&case, |(files, lines, dockerfile)| compare(&engine, &files, &lines, dockerfile));
    assert!(outcome.is_ok(), "{}", outcome.unwrap_err());
}

fn tree() -> impl Strategy<Value = Vec<String>> {
    let names =
        vec!["a", "b", "ab", "ba", "a.b", "b.a.b", "é", "a*", "a b", "!a", "#a", "[a]", "a-", "\n", ".a"];
    let path = prop::collection::vec(select(names), 1..5).prop_map(|parts| parts.join("/"));
    // The CLI writes a non-ASCII name as a PAX record, which `tar` reads line by line.
    let path = path.prop_map(|path| if path.contains('\n') { path.replace('é', "e") } else { path });
    prop::collection::vec(path, 1..14)
}

/// Docker's own syntax check ignores everything after the first `*`, so malformed patterns are only compared
/// as whole lines.
fn line() -> impl Strategy<Value = String> {
    let malformed = select(vec!["[a-]", "[]", "[ab", "a/[", "!", "! ", "[^]", "[-a]", "a\\", "!!", "/!"]);
    prop_oneof![40 => pattern(), 1 => malformed.prop_map(str::to_owned)]
}

fn pattern() -> impl Strategy<Value = String> {
    let part = select(vec![
        "a",
        "b",
        "ab",
        "*",
        "**",
        "?",
        "a*",
        "*b",
        "a?",
        "?b",
        "[ab]",
        "[^a]",
        "[a-c]*",
        "*.b",
        "a.*",
        "**b",
        "a**",
        "***",
        "..",
        ".",
        "",
        "\\a*",
        "a\\*",
        "é",
        "??",
        "\\[a\\]",
        "[\\[]*",
        "!a",
        "#a",
        "\\#*",
        "Dockerfile",
        ".dockerignore",
        "]",
        "a]",
    ]);
    // A backslash before a letter has another meaning in Docker's expressions; see `glob`.
    let part = part.prop_map(|part| part.replace("\\a", "\\!"));
    let mark = select(vec!["", "", "", "", "!", "!", "/", "./", "!/", "! ", " ", "#", "!!"]);
    let end = select(vec!["", "", "", "/", " ", "/**", "\r"]);
    (mark, prop::collection::vec(part, 1..4), end).prop_map(|(mark, parts, end)| {
        let middle = parts.join("/");
        format!("{mark}{middle}{end}")
    })
}

fn compare(
    engine: &FakeEngine,
    files: &[String],
    lines: &[String],
    dockerfile: &str,
) -> Result<(), TestCaseError> {
    let context = tempfile::tempdir().unwrap();
    for file in files.iter().map(String::as_str).chain([dockerfile]) {
        let path = context.path().join(file);
        // A name may be taken by a directory, or a directory's name by a file. The case then omits it.
        let _ = fs::create_dir_all(path.parent().unwrap()).and_then(|()| fs::write(path, "FROM scratch\n"));
    }
    fs::write(context.path().join(".dockerignore"), lines.join("\n")).unwrap();
    prop_assume!(context.path().join(dockerfile).is_file());
    let theirs = engine.build(context.path(), dockerfile);
    let mut tar = Vec::new();
    let ours = pack(context.path(), dockerfile, &[], PackLimits::default(), &mut tar);
    match (theirs, ours) {
        (Ok(theirs), Ok(_)) => {
            let rules = IgnoreRules::parse(&lines.join("\n")).unwrap();
            // The CLI overlooks some rules that ignore the Dockerfile by its directory. It then does not send
            // the Dockerfile, and the build fails.
            let forced = theirs.contains(dockerfile) && rules.is_ignored(dockerfile);
            let mut ours = without_pruned(names(&tar), &rules, forced.then_some(dockerfile));
            if !theirs.contains(dockerfile) {
                ours.remove(dockerfile);
            }
            prop_assert_eq!(theirs, ours);
        }
        (Err(_), Err(_)) => {}
        (theirs, ours) => prop_assert!(false, "docker: {theirs:?}, here: {ours:?}"),
    }
    Ok(())
}

/// The classic builder skips an ignored directory unless an exception literally begins with its path,
/// although `!**/x` might match below it. BuildKit enters the directory, and so does abide.
fn without_pruned(names: BTreeSet<String>, rules: &IgnoreRules, forced: Option<&str>) -> BTreeSet<String> {
    let mut kept: Vec<String> = rules.exceptions().map(str::to_owned).collect();
    kept.extend(forced.map(str::to_owned));
    let pruned = |directory: &str| {
        let below = format!("{directory}/");
        rules.is_ignored(directory) && !kept.iter().any(|text| format!("{text}/").starts_with(&below))
    };
    let reached = |name: &String| {
        let path = clean(name);
        !path.match_indices('/').any(|(end, _)| pruned(&path[..end]))
    };
    names.into_iter().filter(reached).collect()
}

fn names(tar: &[u8]) -> BTreeSet<String> {
    let mut archive = tar::Archive::new(tar);
    archive
        .entries()
        .unwrap()
        .map(|entry| String::from_utf8_lossy(&entry.unwrap().path_bytes()).into_owned())
        .collect()
}

struct FakeEngine {
    directory: tempfile::TempDir,
    contexts: mpsc::Receiver<Vec<u8>>,
}

impl FakeEngine {
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(directory.path().join("engine.sock")).unwrap();
        let (sender, contexts) = mpsc::channel();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let sender = sender.clone();
                thread::spawn(move || stream.and_then(|stream| serve(stream, &sender)));
            }
        });
        Self { directory, contexts }
    }

    /// Checks that the CLI is installed and can still build without BuildKit.
    fn probe(&self) -> Result<(), String> {
        let version = Command::new("docker").arg("--version").output().map_err(|e| e.to_string())?;
        let context = tempfile::tempdir().unwrap();
        fs::write(context.path().join("Dockerfile"), "FROM scratch\n").unwrap();
        if version.status.success() {
            self.build(context.path(), "Dockerfile").map(drop)
        } else {
            Err("it fails".into())
        }
    }

    /// The names that the CLI sends, or its error message.
    fn build(&self, context: &Path, dockerfile: &str) -> Result<BTreeSet<String>, String> {
        let socket = self.directory.path().join("engine.sock");
        let out = Command::new("docker")
            .env("DOCKER_HOST", format!("unix://{}", socket.display()))
            .env("DOCKER_BUILDKIT", "0")
            .env("DOCKER_CONFIG", self.directory.path())
            .args(["build", "-f"])
            .arg(context.join(dockerfile))
            .arg(context)
            .output()
            .unwrap();
        match self.contexts.try_recv() {
            Ok(tar) if out.status.success() => Ok(names(&tar)),
            _ => Err(String::from_utf8_lossy(&out.stderr).into_owned()),
        }
    }
}

/// Answers requests until the CLI disconnects.
fn serve(stream: UnixStream, contexts: &mpsc::Sender<Vec<u8>>) -> io::Result<()> {
    let mut answer = stream.try_clone()?;
    let mut request = BufReader::new(stream);
    while let Some((line, chunked)) = head(&mut request)? {
        if chunked {
            let body = chunks(&mut request)?;
            let _ = contexts.send(body);
        }
        let body = if line.contains("/build") { "{\"stream\":\"done\"}\n" } else { "OK" };
        let length = if line.starts_with("HEAD") { 0 } else { body.len() };
        write!(
            answer,
            "HTTP/1.1 200 OK\r\nApi-Version: 1.41\r\nOstype: linux\r\nContent-Length: {length}\r\n\r\n"
        )?;
        answer.write_all(&body.as_bytes()[..length])?;
    }
    Ok(())
}

/// The request line, and whether a chunked body follows.
fn head(request: &mut impl BufRead) -> io::Result<Option<(String, bool)>> {
    let mut first = String::new();
    if request.read_line(&mut first)? == 0 {
        return Ok(None);
    }
    let mut chunked = false;
    loop {
        let mut line = String::new();
        request.read_line(&mut line)?;
        chunked |= line.to_ascii_lowercase().starts_with("transfer-encoding: chunked");
        if line.trim().is_empty() {
            return Ok(Some((first, chunked)));
        }
    }
}

fn chunks(request: &mut impl BufRead) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let mut size = String::new();
        request.read_line(&mut size)?;
        let size = u64::from_str_radix(size.trim(), 16).map_err(io::Error::other)?;
        request.by_ref().take(size).read_to_end(&mut body)?;
        request.read_line(&mut String::new())?;
        if size == 0 {
            return Ok(body);
        }
    }
}
