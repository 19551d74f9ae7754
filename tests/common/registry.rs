//! A real registry: this host's own `docker-registry`, as a process on a free port.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::docker::Space;
use super::eventually;
use super::ports::free_ports;

/// Debian's and Ubuntu's `docker-registry`.
const PROGRAM: &str = "/usr/bin/docker-registry";
/// How long the registry may take to start.
const PATIENCE: Duration = Duration::from_secs(30);
/// The accepted media types of manifests.
const ACCEPT: &str =
    "application/vnd.docker.distribution.manifest.v2+json, application/vnd.oci.image.manifest.v1+json";

/// The user and password of the registry.
#[derive(Clone, Debug)]
pub(crate) struct Login {
    pub(crate) username: &'static str,
    pub(crate) password: &'static str,
}

/// A registry that runs until it is dropped.
pub(crate) struct Registry {
    child: Option<Child>,
    port: u16,
    /// The address that it listens on.
    listen: &'static str,
    dir: PathBuf,
    login: Option<Login>,
}

impl Registry {
    /// Starts a registry without a password; `None`, with a printed reason, if the program is
    /// missing.
    pub(crate) fn start(space: &Space) -> Option<Self> {
        Self::start_with(space, None, "")
    }

    /// The same with a password and more lines of configuration.
    pub(crate) fn start_with(space: &Space, login: Option<Login>, more: &str) -> Option<Self> {
        Self::start_on("127.0.0.1", space, login, more)
    }

    /// The same on all addresses, for engines on other hosts.
    pub(crate) fn start_for_all(space: &Space) -> Option<Self> {
        Self::start_on("0.0.0.0", space, None, "")
    }

    fn start_on(listen: &'static str, space: &Space, login: Option<Login>, more: &str) -> Option<Self> {
        if !std::path::Path::new(PROGRAM).exists() {
            eprintln!("left out: no {PROGRAM} (Debian and Ubuntu: docker-registry)");
            return None;
        }
        let [port] = free_ports();
        let dir = space.dir().join(format!("registry-{port}"));
        std::fs::create_dir(&dir).unwrap();
        let mut registry = Self { child: None, port, listen, dir, login };
        registry.configure(more);
        registry.run();
        Some(registry)
    }

    /// A client for a registry on this port that another value runs.
    pub(crate) fn at(port: u16) -> Self {
        Self { child: None, port, listen: "127.0.0.1", dir: PathBuf::new(), login: None }
    }

    fn configure(&self, more: &str) {
        let dir = self.dir.display();
        let mut config = format!(
            "version: 0.1\nlog:\n  level: warn\nstorage:\n  filesystem:\n    rootdirectory: {dir}/data\n  delete:\n    \
             enabled: true\nhttp:\n  addr: {}:{}\n  headers:\n    X-Content-Type-Options: [nosniff]\n{more}",
            self.listen, self.port
        );
        if let Some(Login { username, password }) = &self.login {
            let made =
                Command::new("htpasswd").args(["-Bbn", "-C", "4", username, password]).output().unwrap();
            assert!(made.status.success(), "htpasswd (apache2-utils): {made:?}");
            std::fs::write(self.dir.join("htpasswd"), made.stdout).unwrap();
            config.push_str(&format!("auth:\n  htpasswd:\n    realm: test\n    path: {dir}/htpasswd\n"));
        }
        std::fs::write(self.dir.join("config.yml"), config).unwrap();
    }

    /// Starts the registry again after [`kill`](Self::kill).
    pub(crate) fn run(&mut self) {
        let log = std::fs::File::create(self.dir.join("log")).unwrap();
        let mut command = Command::new(PROGRAM);
        command.arg("serve").arg(self.dir.join("config.yml")).stdin(Stdio::null());
        let child = command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        self.child = Some(child);
        eventually("the registry answers", PATIENCE, || TcpStream::connect(("127.0.0.1", self.port)).is_ok());
    }

    /// Kills the registry.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Replaces the user and password.
    pub(crate) fn change_password(&mut self, login: Login) {
        self.kill();
        self.login = Some(login);
        self.configure("");
        self.run();
    }

    /// Restarts the registry with other lines of configuration.
    pub(crate) fn reconfigure(&mut self, more: &str) {
        self.kill();
        self.configure(more);
        self.run();
    }

    /// Freezes the registry with its connections open.
    pub(crate) fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    /// Resumes the frozen registry.
    pub(crate) fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().unwrap();
        kill_process(Pid::from_child(child), signal).unwrap();
    }

    /// Its port on the loopback address.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// `127.0.0.1:PORT`, as names of images begin.
    pub(crate) fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    // --- contents -------------------------------------------------------------------------------

    /// The digest of a tag or digest; `None` if it does not exist.
    pub(crate) fn digest(&self, repository: &str, reference: &str) -> Option<String> {
        let (status, head, _) = self.ask("HEAD", &format!("/v2/{repository}/manifests/{reference}"), "", "");
        (status == 200).then(|| header(&head, "docker-content-digest").unwrap())
    }

    /// The digest of an image's largest layer.
    pub(crate) fn largest_layer(&self, repository: &str, reference: &str) -> String {
        let (status, _, body) = self.ask("GET", &format!("/v2/{repository}/manifests/{reference}"), "", "");
        assert_eq!(status, 200, "{body}");
        let manifest: Value = serde_json::from_str(&body).unwrap();
        let layers = manifest["layers"].as_array().unwrap();
        let largest = layers.iter().max_by_key(|layer| layer["size"].as_u64()).unwrap();
        largest["digest"].as_str().unwrap().to_owned()
    }

    /// The tags of a repository, sorted.
    pub(crate) fn tags(&self, repository: &str) -> Vec<String> {
        let (status, _, body) = self.ask("GET", &format!("/v2/{repository}/tags/list"), "", "");
        let found: Value = if status == 200 { serde_json::from_str(&body).unwrap() } else { Value::Null };
        let tags = found["tags"].as_array().cloned().unwrap_or_default();
        let mut tags: Vec<String> = tags.iter().map(|tag| tag.as_str().unwrap().to_owned()).collect();
        tags.sort();
        tags
    }

    /// Sets a tag to the image of another reference, as a release or an attacker does.
    pub(crate) fn move_tag(&self, repository: &str, tag: &str, to: &str) {
        let (status, head, manifest) = self.ask("GET", &format!("/v2/{repository}/manifests/{to}"), "", "");
        assert_eq!(status, 200, "{manifest}");
        let kind = header(&head, "content-type").unwrap();
        let (status, _, body) =
            self.ask("PUT", &format!("/v2/{repository}/manifests/{tag}"), &kind, &manifest);
        assert_eq!(status, 201, "{body}");
    }

    /// Adds an index that has the image `of` for this platform only. Returns its digest.
    pub(crate) fn place_index(&self, repository: &str, of: &str, os: &str, architecture: &str) -> String {
        let (_, head, manifest) = self.ask("GET", &format!("/v2/{repository}/manifests/{of}"), "", "");
        let kind = "application/vnd.docker.distribution.manifest.list.v2+json";
        let index = serde_json::json!({ "schemaVersion": 2, "mediaType": kind, "manifests": [{
            "mediaType": header(&head, "content-type").unwrap(),
            "size": manifest.len(),
            "digest": header(&head, "docker-content-digest").unwrap(),
            "platform": { "os": os, "architecture": architecture },
        }]});
        let path = format!("/v2/{repository}/manifests/index");
        let (status, head, body) = self.ask("PUT", &path, kind, &index.to_string());
        assert_eq!(status, 201, "{body}");
        header(&head, "docker-content-digest").unwrap()
    }

    /// Adds a blob. Returns its digest.
    pub(crate) fn place_blob(&self, repository: &str, content: &str) -> String {
        use sha2::Digest as _;
        let digest = format!("sha256:{}", hex::encode(sha2::Sha256::digest(content)));
        let (status, head, body) = self.ask("POST", &format!("/v2/{repository}/blobs/uploads/"), "", "");
        assert_eq!(status, 202, "{body}");
        let location = header(&head, "location").unwrap();
        let path = location.split_once("/v2/").map(|(_, path)| format!("/v2/{path}")).unwrap();
        let path = format!("{path}&digest={digest}");
        let (status, _, body) = self.ask("PUT", &path, "application/octet-stream", content);
        assert_eq!(status, 201, "{body}");
        digest
    }

    /// Sets a tag to a manifest. Returns its digest.
    pub(crate) fn place_manifest(&self, repository: &str, tag: &str, manifest: &Value) -> String {
        let kind = manifest["mediaType"].as_str().unwrap();
        let path = format!("/v2/{repository}/manifests/{tag}");
        let (status, head, body) = self.ask("PUT", &path, kind, &manifest.to_string());
        assert_eq!(status, 201, "{body}");
        header(&head, "docker-content-digest").unwrap()
    }

    /// Deletes a manifest and its tags, as a garbage collection does.
    pub(crate) fn delete(&self, repository: &str, digest: &str) {
        let (status, _, body) = self.ask("DELETE", &format!("/v2/{repository}/manifests/{digest}"), "", "");
        assert_eq!(status, 202, "{body}");
        assert_eq!(self.digest(repository, digest), None);
    }

    /// Sends one request and returns status, head and body.
    fn ask(&self, method: &str, path: &str, kind: &str, body: &str) -> (u16, String, String) {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let proof = self.login.as_ref().map(|Login { username, password }| {
            use base64::Engine as _;
            let pair = base64::engine::general_purpose::STANDARD.encode(format!("{username}:{password}"));
            format!("Authorization: Basic {pair}\r\n")
        });
        // With HTTP/1.0, the end of the connection ends the body.
        let request = format!(
            "{method} {path} HTTP/1.0\r\nHost: {}\r\nAccept: {ACCEPT}\r\nContent-Type: {kind}\r\n{}Content-Length: {}\r\n\r\n{body}",
            self.host(),
            proof.unwrap_or_default(),
            body.len()
        );
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), head.to_owned(), body.to_owned())
    }
}

fn header(head: &str, name: &str) -> Option<String> {
    let mut lines = head.lines().filter_map(|line| line.split_once(": "));
    lines.find(|(of, _)| of.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_owned())
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Builds an image of the same program, like `registry:2`; `None`, with a printed reason, if this
/// host does not have the program.
pub(crate) fn registry_image(space: &Space) -> Option<String> {
    const CONFIG: &str =
        "version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: /var/lib/registry\nhttp:\n  addr: :5000\n";
    if !std::path::Path::new(PROGRAM).exists() {
        eprintln!("left out: no {PROGRAM} (Debian and Ubuntu: docker-registry)");
        return None;
    }
    let name = format!("{}:2", space.name("registry"));
    let mut import = Command::new("docker");
    import.args(["import", "--change", &format!("ENTRYPOINT [\"{PROGRAM}\"]"), "--change"]);
    import.args(["CMD [\"serve\",\"/etc/config.yml\"]", "--change"]).arg(format!("LABEL {}", space.label()));
    let mut child = import.args(["-", &name]).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let mut tar = tar::Builder::new(child.stdin.take().unwrap());
    for file in needed_files() {
        // Stored under the path that the loader expects; its link target may be anywhere.
        let bytes = std::fs::read(&file).unwrap();
        append(&mut tar, file.strip_prefix("/").unwrap().to_str().unwrap(), &bytes);
    }
    append(&mut tar, "etc/config.yml", CONFIG.as_bytes());
    tar.into_inner().unwrap().flush().unwrap();
    assert!(child.wait().unwrap().success());
    Some(name)
}

/// Returns the program, its loader and its libraries, by `ldd`.
fn needed_files() -> Vec<PathBuf> {
    let listed = Command::new("ldd").arg(PROGRAM).output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    let libraries =
        listed.lines().filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')));
    std::iter::once(PROGRAM).chain(libraries).map(PathBuf::from).collect()
}

fn append(tar: &mut tar::Builder<impl std::io::Write>, path: &str, bytes: &[u8]) {
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o755);
    header.set_size(bytes.len().try_into().unwrap());
    tar.append_data(&mut header, path, bytes).unwrap();
}
