//! Measures how the engine restarts containers while abide does not run, compared with a plain
//! `--restart=always` container.
//!
//! On the host's engine: from `kill -9` of the main process until the published port answers,
//! alternating. On a private engine: from the start of a stopped engine until both kinds of
//! containers run.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

#[path = "../tests/common/mod.rs"]
mod common;
mod report;
mod rig;

use std::time::{Duration, SystemTime};

use tokio::runtime::Runtime;

use common::{Daemon, Host, PATIENCE, Space, docker, eventually, free_port, made_image};
use report::{Samples, Table, shown, title};
use rig::engine;
use rig::fleet::Fleet;

/// Kills of each kind.
const KILLS: usize = 10;
/// Restarts of the engine.
const RESTARTS: usize = 5;
/// The containers of each kind that an engine restarts.
const CONTAINERS: usize = 5;

fn main() {
    let Some(space) = Space::new() else { return };
    let runtime = Runtime::new().unwrap();
    let _entered = runtime.enter();
    let image = made_image(&space, "served", "");
    title("While abide is gone");
    let mut table = Table::new(&["what", "kept by abide", "`--restart=always`", "rounds"]);
    let kills = after_kills(&space, &runtime, &image);
    row(&mut table, "`kill -9` until the published port answers", kills);
    let restarts = after_engine_restarts(&space, &image);
    row(&mut table, &format!("start of the engine until all {CONTAINERS} run"), restarts);
    table.print();
}

fn row(table: &mut Table, what: &str, [kept, plain]: [Samples; 2]) {
    let of = |samples: &Samples| format!("{} ({})", shown(samples.median()), shown(samples.p90()));
    table.row([what.to_owned(), of(&kept), of(&plain), kept.count().to_string()]);
}

fn after_kills(space: &Space, runtime: &Runtime, image: &str) -> [Samples; 2] {
    // The guard's requests to the engine go through the proxy too.
    let Fleet { daemon, environments, proxy: _proxy, .. } = Fleet::start(space, KILLS, image);
    daemon.terminate();
    let mut samples: [Samples; 2] = Default::default();
    for kept in &environments[..KILLS] {
        let port = free_port();
        let killed = engine::kill_main_process(&kept.container);
        samples[0].add(engine::await_served(runtime, kept.port) - killed);
        let (name, publish) =
            (space.name(&format!("plain{port}")), format!("127.0.0.1:{port}:{}", engine::PORT));
        docker(&["run", "--detach", "--restart=always", "--name", &name, "--publish", &publish, image]);
        engine::await_served(runtime, port);
        let killed = engine::kill_main_process(&name);
        samples[1].add(engine::await_served(runtime, port) - killed);
    }
    samples
}

fn after_engine_restarts(space: &Space, image: &str) -> [Samples; 2] {
    let mut host = Host::new(space);
    host.load(image);
    let folder = space.dir().join("on-another-host");
    std::fs::create_dir(&folder).unwrap();
    let names =
        |kind: &str| (0..CONTAINERS).map(|number| space.name(&format!("{kind}{number}"))).collect::<Vec<_>>();
    let [kept, plain] = ["kept", "beside"].map(names);
    let declared: String = kept.iter().enumerate().map(|(number, name)| declared(number, name)).collect();
    std::fs::write(folder.join("bench.toml"), declared).unwrap();
    let daemon = Daemon::start(&folder, &[("DOCKER_HOST", &host.engine())]);
    for number in 0..CONTAINERS {
        let environment = format!("e{number}");
        assert_eq!(daemon.abide(&["set", &environment, image]).code, 0);
        assert_eq!(daemon.abide(&["wait", &environment, "--timeout", "2m"]).code, 0);
    }
    for name in &plain {
        host.docker(&["run", "--detach", "--restart=always", "--network", "abide", "--name", name, image]);
    }
    daemon.terminate();
    let mut samples: [Samples; 2] = Default::default();
    for _ in 0..RESTARTS {
        let began = SystemTime::now();
        host.restart_engine();
        for (samples, names) in samples.iter_mut().zip([&kept, &plain]) {
            samples.add(last_start(&host, names, began));
        }
    }
    samples
}

fn declared(number: usize, name: &str) -> String {
    format!(
        "[environment.e{number}]\ncontainer = \"{name}\"\nport = 8080\npublish = false\nhealth = {{ none = true }}\n"
    )
}

/// How long after `began` the last of these containers started.
fn last_start(host: &Host, names: &[String], began: SystemTime) -> Duration {
    let mut last = began;
    for name in names {
        eventually("it runs", PATIENCE, || {
            let format = "{{.State.Running}} {{.State.StartedAt}}";
            let seen = host.try_docker(&["inspect", "--format", format, name]).unwrap_or_default();
            let started = seen.strip_prefix("true ").and_then(|at| humantime::parse_rfc3339(at).ok());
            let is_new = started.filter(|at| *at > began);
            last = last.max(is_new.unwrap_or(began));
            is_new.is_some()
        });
    }
    last.duration_since(began).unwrap()
}
