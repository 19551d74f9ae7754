//! The example application: its parts, its program, and its images on a real engine. Also the one
//! test tool that other tests rely on: the webhook sender.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

// The application is one file that the build script compiles. Including it here formats, lints and
// tests it like all other code.
#[path = "../examples/site/site.rs"]
#[allow(dead_code, clippy::exit, clippy::print_stdout, clippy::print_stderr)]
mod program;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use common::{GitRepo, Space, docker, eventually, free_ports, http_get, request, signed_post};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

const PATIENCE: Duration = Duration::from_secs(20);

/// The program on disk, with a small project beside it.
struct Project {
    dir: tempfile::TempDir,
}

impl Project {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let project = Self { dir };
        project.write("site", common::site());
        std::fs::set_permissions(project.path("site"), std::fs::Permissions::from_mode(0o755)).unwrap();
        // A process that another test has just forked may still have it open for writing.
        eventually("the program can be run", PATIENCE, || {
            let run = Command::new(project.path("site")).stdout(Stdio::null()).stderr(Stdio::null()).status();
            !run.is_err_and(|error| error.kind() == std::io::ErrorKind::ExecutableFileBusy)
        });
        project.write("project/www/index.html", b"<p>\n  {{ENVIRONMENT}} <!-- gone --> {{HOSTNAME}}\n</p>\n");
        project.write("project/secret", b"not to be served");
        project
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, content: &[u8]) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.path("site"));
        command.args(arguments).current_dir(self.path("project")).stdin(Stdio::null());
        command
    }

    /// Serves on a free port, with additional `arguments`, until the server is dropped.
    fn serve(&self, arguments: &[&str], env: &[(&str, &str)]) -> Server {
        let [port] = free_ports();
        let mut command = self.command(&["serve", "dev", "--port", &port.to_string()]);
        command.args(arguments).envs(env.iter().copied()).stdout(Stdio::null());
        let server = Server { child: command.spawn().unwrap(), port };
        eventually("the site answers", PATIENCE, || http_get(port, "/").is_ok());
        server
    }

    /// Serves until the program exits by itself, within a second or two.
    fn serve_to_its_end(&self, env: &[(&str, &str)]) -> Output {
        let [port] = free_ports();
        let mut command = self.command(&["serve", "--port", &port.to_string()]);
        command.envs(env.iter().copied()).output().unwrap()
    }
}

struct Server {
    child: Child,
    port: u16,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The entries of a tar archive: name, mode and content.
fn entries(tar: &[u8]) -> BTreeMap<String, (u32, String)> {
    let mut archive = tar::Archive::new(tar);
    let entries = archive.entries().unwrap().map(|entry| {
        let mut entry = entry.unwrap();
        let mut content = String::new();
        entry.read_to_string(&mut content).unwrap();
        (entry.path().unwrap().display().to_string(), (entry.header().mode().unwrap(), content))
    });
    entries.collect()
}

#[test]
fn a_page_shows_its_environment_and_no_other_files_are_served() {
    let project = Project::new();
    std::os::unix::fs::symlink(project.path("project/secret"), project.path("project/www/link")).unwrap();
    let server = project.serve(&["--log", "log/access.log"], &[]);
    let (status, page) = http_get(server.port, "/?x=1").unwrap();
    assert_eq!(status, 200);
    assert!(page.contains("dev <!-- gone -->") && !page.contains("{{"), "{page}");
    for path in ["/../secret", "/%2e%2e/secret", "/link", "//secret", "/www/index.html", "/%00", "/%zz"] {
        assert_eq!(http_get(server.port, path).unwrap().0, 404, "{path}");
    }
    assert_eq!(request(server.port, "HEAD", "/", &[], b"").unwrap(), (200, String::new()));
    assert_eq!(request(server.port, "POST", "/", &[], b"").unwrap().0, 405);
    let log = std::fs::read_to_string(project.path("project/log/access.log")).unwrap();
    assert!(log.contains(" 127.0.0.1 GET /?x=1 200 "), "{log}");
}

#[test]
fn environment_variables_override_the_settings_file() {
    let project = Project::new();
    project.write("project/site.env", b"# a comment\nSITE_HTTP_STATUS = 500\n");
    let bad = project.serve(&["--settings", "site.env"], &[]);
    assert_eq!(http_get(bad.port, "/").unwrap().0, 500);
    let good = project.serve(&["--settings", "site.env"], &[("SITE_HTTP_STATUS", "")]);
    assert_eq!(http_get(good.port, "/").unwrap().0, 200);
}

#[test]
fn the_site_crashes_with_the_configured_exit_code() {
    let project = Project::new();
    let output = project.serve_to_its_end(&[("SITE_CRASH_AFTER", "0s"), ("SITE_EXIT_CODE", "7")]);
    assert_eq!(output.status.code(), Some(7));
}

#[test]
fn the_site_listens_late_or_never_if_configured() {
    let project = Project::new();
    for late in [("SITE_NEVER_LISTEN", "1"), ("SITE_START_DELAY", "60s")] {
        let output = project.serve_to_its_end(&[late, ("SITE_CRASH_AFTER", "200ms")]);
        assert_eq!(String::from_utf8_lossy(&output.stdout), "", "{late:?}");
    }
    let output = project.serve_to_its_end(&[("SITE_CRASH_AFTER", "1s")]);
    assert!(String::from_utf8_lossy(&output.stdout).contains("listens on port"));
}

#[test]
fn an_invalid_setting_is_an_error() {
    let project = Project::new();
    let output = project.serve_to_its_end(&[("SITE_START_DELAY", "soon")]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("SITE_START_DELAY=soon"));
}

#[test]
fn a_pack_is_a_tar_of_the_compressed_project() {
    let project = Project::new();
    let deep = format!("{}/x.txt", "folder-with-a-long-name/".repeat(6).trim_end_matches('/'));
    project.write(&format!("project/{deep}"), b"deep");
    project.write("project/www/a.css", b"a {\n  /* why */\n  color: red;\n}\n");
    let output = project.command(&["pack", "."]).output().unwrap();
    let packed = entries(&output.stdout);
    assert_eq!(packed["www/index.html"].1, "<p> {{ENVIRONMENT}} {{HOSTNAME}} </p>");
    assert_eq!(packed["www/a.css"], (0o644, "a { color: red; }".into()));
    assert_eq!(packed[&deep].1, "deep");
    assert_eq!(packed.len(), 4);
    assert_eq!(project.command(&["pack", "."]).output().unwrap().stdout, output.stdout);
}

#[test]
fn a_packed_program_stays_executable() {
    let dir = tempfile::tempdir().unwrap();
    let tool = dir.path().join("tool");
    std::fs::write(&tool, "#!").unwrap();
    std::fs::set_permissions(&tool, std::fs::Permissions::from_mode(0o700)).unwrap();
    let mut tar = Vec::new();
    program::pack(dir.path(), &mut tar).unwrap();
    assert_eq!(entries(&tar)["tool"], (0o755, "#!".into()));
}

#[test]
fn packing_a_missing_folder_fails_and_writes_nothing() {
    let mut tar = Vec::new();
    assert!(program::pack(Path::new("/no/such/folder"), &mut tar).is_err());
    assert!(tar.is_empty());
}

#[test]
fn a_name_too_long_for_a_tar_is_refused() {
    assert_eq!(program::split_name(&"x".repeat(101)), None);
    assert_eq!(program::split_name(&"x/".repeat(130)), None);
    let path = format!("{}/{}", "a".repeat(150), "b".repeat(100));
    assert_eq!(program::split_name(&path), path.split_once('/'));
}

#[test]
fn a_page_with_significant_whitespace_is_not_compressed() {
    let page = "<pre>\n  a\n</pre>";
    assert_eq!(program::compress(Path::new("x.html"), page.as_bytes()), page.as_bytes());
    assert_eq!(program::without("a /* b", "/*", "*/"), "a /* b");
}

/// Builds the image of one of the example's Dockerfiles and returns its name.
fn build(space: &Space, repo: &GitRepo, dockerfile: &str) -> String {
    let name = space.name(&dockerfile.to_lowercase());
    let context = repo.work().to_str().unwrap();
    let file = repo.work().join(dockerfile);
    docker(&["build", "--quiet", "--file", file.to_str().unwrap(), "--tag", &name, context]);
    name
}

fn run_to_file(image: &str, file: &Path) {
    let mut command = Command::new("docker");
    command.args(["run", "--rm", "--log-driver", "none", image]).stdout(File::create(file).unwrap());
    assert!(command.status().unwrap().success());
}

#[test]
fn the_images_are_built_from_scratch_and_serve_the_packed_files() {
    let Some(space) = Space::new() else { return };
    let repo = GitRepo::example(&space);
    let dist = build(&space, &repo, "Dockerfile.dist");
    run_to_file(&dist, &repo.work().join("build.tar"));
    let image = build(&space, &repo, "Dockerfile");
    let ([port], name) = (free_ports(), space.name("test-server"));
    let (publish, volume) = (format!("127.0.0.1:{port}:8099"), format!("{}:/site/log", space.name("log")));
    let options = ["run", "--detach", "--init", "--name", &name, "--publish", &publish, "--volume", &volume];
    docker(&[&options[..], &[&image, "test", "--port", "8099"]].concat());
    eventually("the page is served", PATIENCE, || matches!(http_get(port, "/"), Ok((200, _))));
    let (_, page) = http_get(port, "/").unwrap();
    assert!(page.contains("data-environment=\"test\"") && !page.contains("<!--"), "{page}");
    // An init forwards the signal, so a stop does not wait for the grace period of ten seconds.
    docker(&["stop", &name]);
    assert_eq!(docker(&["inspect", "--format", "{{.State.ExitCode}}", &name]), "143");
    assert_eq!((space.containers().len(), space.images().len(), space.volumes().len()), (1, 2, 1));
    space.clear();
    for left in [space.containers(), space.images(), space.volumes(), space.networks()] {
        assert!(left.is_empty(), "{left:?}");
    }
}

#[test]
fn a_leaking_site_is_killed_at_its_memory_limit() {
    let Some(space) = Space::new() else { return };
    let repo = GitRepo::example(&space);
    repo.git(&["archive", "--format", "tar", "--output", "build.tar", "HEAD"]);
    let image = build(&space, &repo, "Dockerfile");
    let name = space.name("leak");
    docker(&["run", "--detach", "--name", &name, "--memory", "16m", "--env", "SITE_LEAK=1", &image]);
    let state = || docker(&["inspect", "--format", "{{.State.OOMKilled}} {{.State.ExitCode}}", &name]);
    eventually("the kernel ends it", PATIENCE, || state() == "true 137");
}

/// Accepts one request, answers it with `answer`, and returns the request.
fn serve_once(listener: &TcpListener, answer: &str) -> String {
    let (mut stream, _) = listener.accept().unwrap();
    let mut request = Vec::new();
    let is_complete = |bytes: &[u8]| bytes.ends_with(b"}");
    while !is_complete(&request) {
        let mut chunk = [0; 1024];
        let count = stream.read(&mut chunk).unwrap();
        assert_ne!(count, 0, "the request ends early");
        request.extend_from_slice(&chunk[..count]);
    }
    stream.write_all(answer.as_bytes()).unwrap();
    String::from_utf8(request).unwrap()
}

#[test]
fn a_signed_webhook_is_signed_as_github_documents_it() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = std::thread::spawn(move || serve_once(&listener, "HTTP/1.0 202 Accepted\r\n\r\nrecorded"));
    let answer = signed_post(port, "keepwork", "a secret", "push", b"{\"zen\": 1}").unwrap();
    assert_eq!(answer, (202, "recorded".into()));
    let request = server.join().unwrap();
    let (head, body) = request.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("POST /webhooks/keepwork HTTP/1.0\r\n"), "{head}");
    let field = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    let signature = hex::decode(field("X-Hub-Signature-256: sha256=")).unwrap();
    let mac = Hmac::<Sha256>::new_from_slice(b"a secret").unwrap().chain_update(body);
    mac.verify_slice(&signature).unwrap();
    assert_eq!(field("X-GitHub-Event: "), "push");
}
