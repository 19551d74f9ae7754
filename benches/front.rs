//! Measures how soon the proxy answers differently after a change, with 1 to 1,000 host names, next to nginx driven by
//! hand.
//!
//! The change is the beginning or the end of maintenance, so no container is created: what remains is the record, one
//! reconcile, the new configuration, nginx's check of it, and the reload. By hand, a script writes a configuration with
//! as many servers, has nginx check it, and signals the reload. Both run nginx from this host's package.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

#[path = "../tests/common/mod.rs"]
mod common;
mod report;
mod rig;

use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use tokio::runtime::Runtime;

use common::{Daemon, SITE_PORT, Space, free_port, made_image, nginx_image};
use report::{Samples, Table, goal, ratio, shown, title};
use rig::http;

/// The numbers of host names.
const NAMES: [usize; 3] = [1, 100, 1_000];
/// The limit of a switch with the most names.
const GOAL: Duration = Duration::from_millis(300);
/// Changes for each number of names; [`ROUNDS_VARIABLE`] overrides it.
const ROUNDS: usize = 20;
/// Overrides the number of changes.
const ROUNDS_VARIABLE: &str = "ABIDE_BENCH_ROUNDS";
/// How long nginx may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// The program of Debian's package.
const NGINX: &str = "/usr/sbin/nginx";

fn main() {
    let rounds = std::env::var(ROUNDS_VARIABLE).ok().and_then(|count| count.parse().ok()).unwrap_or(ROUNDS);
    let runtime = Runtime::new().unwrap();
    let _entered = runtime.enter();
    let mut table = Table::new(&["names", "abide", "p90", "by hand", "p90", "relative to by hand"]);
    let mut slowest = Duration::MAX;
    for names in NAMES {
        let Some(space) = Space::new() else { return };
        let managed = managed(&space, names, rounds);
        let by_hand = by_hand(&space, names, rounds);
        slowest = managed.median();
        table.row([
            names.to_string(),
            shown(managed.median()),
            shown(managed.p90()),
            shown(by_hand.median()),
            shown(by_hand.p90()),
            ratio(managed.median(), by_hand.median()),
        ]);
    }
    title(&format!("From the request for a change to the first new answer, {rounds} changes"));
    table.print();
    goal(&format!("a switch with {} names within {}", NAMES[NAMES.len() - 1], shown(GOAL)), slowest <= GOAL);
}

fn host(number: usize) -> String {
    format!("e{number}.bench.example")
}

/// Changes the first of these names, each of which belongs to another environment.
fn managed(space: &Space, names: usize, rounds: usize) -> Samples {
    let folder = space.dir().join("desired-state");
    std::fs::create_dir(&folder).unwrap();
    let (nginx, front) = (space.name("nginx"), free_port());
    nginx_image(&nginx, &space.label());
    let mut manifest = format!(
        "[docker]\nnetwork = \"{}\"\n[front]\nimage = \"{nginx}\"\nhttp = {front}\ndrain = \"1s\"\n",
        space.name("net")
    );
    for number in 0..names {
        let container = space.name(&format!("e{number}"));
        let _ = write!(
            manifest,
            "[environment.e{number}]\ncontainer = \"{container}\"\nport = {SITE_PORT}\npublish = false\n\
             hostname = \"{}\"\n",
            host(number)
        );
    }
    std::fs::write(folder.join("bench.toml"), manifest).unwrap();
    let daemon = Daemon::start(&folder, &[]);
    let image = made_image(space, "one", "");
    for arguments in [&["set", "e0", &image][..], &["wait", "e0", "--timeout", "2m"]] {
        let ran = daemon.abide(arguments);
        assert_eq!(ran.code, 0, "{arguments:?}: {}{}", ran.stdout, ran.stderr);
    }
    let socket = folder.join("abide.sock");
    let name = host(0);
    let mut samples = Samples::default();
    for round in 0..rounds {
        let is_on = round % 2 == 0;
        samples.add(until(front, &name, if is_on { "503" } else { "200" }, || {
            let body = json!({ "on": is_on }).to_string();
            http::post(&socket, "/api/v1/environments/e0/maintenance", &body).unwrap();
        }));
    }
    samples
}

/// nginx without abide and without a container. Ends with its workers when it is dropped.
struct Nginx {
    folder: PathBuf,
    file: PathBuf,
    port: u16,
    names: usize,
    master: Child,
}

impl Nginx {
    fn start(folder: PathBuf, names: usize) -> Self {
        std::fs::create_dir(&folder).unwrap();
        let (file, port) = (folder.join("nginx.conf"), free_port());
        std::fs::write(&file, configuration(&folder, port, names, "200")).unwrap();
        let master = Command::new(NGINX).arg("-c").arg(&file).spawn().unwrap();
        Self { folder, file, port, names, master }
    }

    fn change(&self, status: &str) {
        let (next, text) =
            (self.folder.join("next.conf"), configuration(&self.folder, self.port, self.names, status));
        std::fs::write(&next, text).unwrap();
        let check = Command::new(NGINX).args(["-t", "-q", "-c"]).arg(&next).status().unwrap();
        assert!(check.success());
        std::fs::rename(&next, &self.file).unwrap();
        kill_process(Pid::from_child(&self.master), Signal::HUP).unwrap();
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = kill_process(Pid::from_child(&self.master), Signal::TERM);
        let _ = self.master.wait();
    }
}

fn configuration(folder: &Path, port: u16, names: usize, status: &str) -> String {
    let own = folder.display();
    let mut text = format!(
        "daemon off; pid {own}/pid; error_log stderr crit; worker_processes auto;\nevents {{}}\nhttp {{\n"
    );
    for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
        let _ = writeln!(text, "{kind}_temp_path {own}/{kind};");
    }
    text.push_str("access_log off; server_names_hash_bucket_size 512; server_names_hash_max_size 8192;\n");
    for number in 0..names {
        let (name, status) = (host(number), if number == 0 { status } else { "200" });
        let _ = writeln!(
            text,
            "server {{ listen 127.0.0.1:{port}; server_name {name}; location / {{ return {status} one; }} }}"
        );
    }
    text + "}\n"
}

fn by_hand(space: &Space, names: usize, rounds: usize) -> Samples {
    let nginx = Nginx::start(space.dir().join("nginx"), names);
    let name = host(0);
    until(nginx.port, &name, "200", || {});
    let mut samples = Samples::default();
    for round in 0..rounds {
        let status = if round % 2 == 0 { "503" } else { "200" };
        samples.add(until(nginx.port, &name, status, || nginx.change(status)));
    }
    samples
}

/// The time from the beginning of `change` to the first answer with this status.
fn until(port: u16, name: &str, status: &'static str, change: impl FnOnce()) -> Duration {
    let (answered, first) = mpsc::channel();
    let name = name.to_owned();
    let began = Instant::now();
    let asker = thread::spawn(move || {
        while began.elapsed() < PATIENCE {
            if answer(port, &name).is_some_and(|answer| answer.starts_with(&format!("HTTP/1.1 {status}"))) {
                let _ = answered.send(began.elapsed());
                return;
            }
            thread::sleep(Duration::from_millis(1));
        }
    });
    change();
    let took = first.recv().unwrap_or_else(|_| panic!("no answer with {status} within {PATIENCE:?}"));
    asker.join().unwrap();
    // For 100 ms after a reload, the old workers answer too.
    thread::sleep(Duration::from_millis(200));
    took
}

fn answer(port: u16, name: &str) -> Option<String> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    write!(stream, "GET / HTTP/1.0\r\nHost: {name}\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}
