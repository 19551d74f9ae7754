//! Replicas: one environment in several containers behind the proxy.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};

use serde_json::Value;

use crate::common::{
    Life, Load, PATIENCE, Space, Spot, Way, busybox, docker, eventually, eventually_some, made_image,
    try_docker,
};

/// `dev` with replicas behind a proxy.
struct Replicas {
    spot: Spot,
    http: u16,
    space: Space,
    options: String,
}

impl Replicas {
    /// Starts nothing yet.
    fn new(options: &str) -> Option<Self> {
        let space = Space::new()?;
        let (spot, http) = Spot::fronted(&space, options);
        // What `Spot::fronted` declares, to declare it again with other options.
        let text = std::fs::read_to_string(spot.desired_state.join("spot.toml")).unwrap();
        let (_, options) = text.split_once("healthy_for = \"200ms\" }\n").unwrap();
        let options = options.to_owned();
        Some(Self { spot, http, space, options })
    }

    /// Three replicas with this `update` and a shared volume, and a base image with a shell.
    fn sharing(update: &str) -> Option<(Self, String)> {
        let volume = "volumes = [{ source = \"VOLUME\", target = \"/shared\", shared = true }]";
        let mut replicas = Self::new(&format!("replicas = 3\nupdate = \"{update}\"\n{volume}"))?;
        replicas.options = replicas.options.replace("VOLUME", &replicas.space.name("shared"));
        replicas.spot.declare(&replicas.options);
        let shell = busybox(&replicas.space)?;
        Some((replicas, shell))
    }

    /// Declares them with an additional line.
    fn edit(&self, line: &str) {
        self.redeclare("hostname", &format!("{line}\nhostname"));
    }

    fn redeclare(&self, from: &str, to: &str) {
        assert!(self.options.contains(from), "{}", self.options);
        self.spot.declare(&self.options.replace(from, to));
    }

    fn views(&self) -> Vec<Value> {
        let ran = self.spot.abide(&["status", "-o", "json"]);
        serde_json::from_str(&ran.stdout).unwrap_or_default()
    }

    /// Waits until these slots run and serve this image.
    #[track_caller]
    fn run(&self, slots: &[&str], image: &str) {
        let mut last = Vec::new();
        let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            eventually_some("all slots run the image", PATIENCE, || {
                last = self.views();
                let is_it = |slot: &&str| {
                    last.iter().any(|view| {
                        view["environment"] == **slot
                            && matches!(view["status"].as_str(), Some("Ready" | "RolledBack"))
                            && view["observed_generation"] == view["generation"]
                            && view["running"]["image_id"] == image
                    })
                };
                slots.iter().all(is_it).then_some(())
            });
        }));
        found.unwrap_or_else(|_| {
            panic!("{slots:?} with {image}: {}", serde_json::to_string_pretty(&last).unwrap())
        });
    }

    /// Waits until this slot has this status and reason.
    #[track_caller]
    fn await_reason(&self, slot: &str, status: &str, reason: &str) -> Value {
        eventually_some(&format!("{slot} is {status} ({reason})"), PATIENCE, || {
            let is_it = |view: &Value| view["environment"] == slot && view["status"] == status;
            self.views().into_iter().find(|view| is_it(view) && view["reason"] == reason)
        })
    }

    /// The containers of the slots, each with its start.
    fn lives(&self) -> [Option<Life>; 3] {
        [1, 2, 3].map(|slot| Life::of(&self.container(slot)))
    }

    fn started_at(&self, slot: u16) -> String {
        docker(&["container", "inspect", "--format", "{{.State.StartedAt}}", &self.container(slot)])
    }

    fn container(&self, slot: u16) -> String {
        format!("{}-{slot}", self.spot.name)
    }

    fn set(&self, image: &str) {
        let ran = self.spot.set(image);
        assert_eq!(ran.code, 0, "{ran:?}");
    }

    /// Clients on the published port and by name.
    fn load(&self) -> Load {
        let way = |port, host, keeps| Way { port, host, path: "/", keeps };
        let ways = [(self.http, Spot::HOST), (self.spot.port, "localhost")];
        let ways: Vec<Way> =
            ways.iter().flat_map(|(port, host)| [way(*port, host, true), way(*port, host, false)]).collect();
        Load::start(&ways)
    }
}

const SLOTS: [&str; 3] = ["dev-1", "dev-2", "dev-3"];

/// An image that serves a page. With `ONCE`, only the first container that starts serves it, and the others end. On
/// SIGTERM it accepts no more requests and answers those that it has, as a program behind a proxy should.
fn once(space: &Space, shell: &str, page: &str, lines: &str) -> String {
    let dir = tempfile::tempdir_in(space.dir()).unwrap();
    let serve = "mkdir -p /tmp/www; echo $PAGE > /tmp/www/index.html; \
                 if [ -n \"$ONCE\" ]; then mkdir /shared/$PAGE || exit 3; fi; \
                 trap 'kill $!; sleep 1; exit' TERM; httpd -f -p 8080 -h /tmp/www & wait";
    let dockerfile = format!(
        "FROM {shell}\nLABEL {}\nENV PAGE={page}\n{lines}\nENTRYPOINT [\"/bin/sh\", \"-c\", {}]\n",
        space.label(),
        serde_json::to_string(serve).unwrap()
    );
    std::fs::write(dir.path().join("Dockerfile"), dockerfile).unwrap();
    docker(&["build", "--quiet", dir.path().to_str().unwrap()])
}

#[test]
fn replicas_are_updated_in_turn_and_one_that_fails_takes_all_back() {
    updated_in_turn("start-first");
}

#[test]
fn replicas_that_stop_for_an_update_are_updated_in_turn_and_one_that_fails_takes_all_back() {
    updated_in_turn("stop-first");
}

fn updated_in_turn(update: &str) {
    let Some((replicas, shell)) = Replicas::sharing(update) else { return };
    let images = ["one", "two"].map(|page| once(&replicas.space, &shell, page, ""));
    let daemon = replicas.spot.daemon();
    replicas.set(&images[0]);
    let waited = replicas.spot.abide(&["wait", "dev", "--timeout", "2m"]);
    assert_eq!(waited.code, 0, "{waited:?}");
    for slot in SLOTS {
        let reached = format!("{slot} generation 1: Ready (AsRecorded)");
        assert!(waited.stderr.contains(&reached), "{waited:?}");
    }
    replicas.run(&SLOTS, &images[0]);

    let load = replicas.load();
    replicas.set(&images[1]);
    replicas.run(&SLOTS, &images[1]);
    let order = [1, 2, 3].map(|slot| replicas.started_at(slot));
    assert!(order.is_sorted(), "not in turn: {order:?}");

    // The first slot is ready with it, the second is not, and the third never tries.
    let third = replicas.started_at(3);
    let bad = once(&replicas.space, &shell, "three", "ENV ONCE=1");
    replicas.set(&bad);
    let went_back = |slot: &str| {
        let history = replicas.spot.abide(&["history", slot, "-o", "json"]).stdout;
        let history: Vec<Value> = serde_json::from_str(&history).unwrap_or_default();
        let has = |entry: &Value, origin: &str, image: &str| {
            entry["origin"] == origin && entry["image"]["id"] == image
        };
        history.iter().any(|entry| entry["image"]["id"] == bad.as_str())
            && history.iter().any(|entry| has(entry, "automatic rollback", &images[1]))
    };
    eventually("every slot went back", PATIENCE, || SLOTS.iter().all(|slot| went_back(slot)));
    replicas.run(&SLOTS, &images[1]);
    assert_eq!(replicas.started_at(3), third, "the third slot was touched");
    let tally = load.finish();
    assert!(tally.failed.is_empty(), "{} failed; {tally:#?}", tally.failed.len());
    assert!(["one\n", "two\n"].iter().all(|page| tally.pages.contains_key(*page)), "{tally:?}");
    drop(daemon);
}

#[test]
fn options_that_the_engine_rejects_stop_no_replica() {
    let Some(replicas) = Replicas::new("replicas = 3\nupdate = \"stop-first\"") else { return };
    let image = made_image(&replicas.space, "one", "");
    let daemon = replicas.spot.daemon();
    replicas.set(&image);
    replicas.run(&SLOTS, &image);
    let before = replicas.lives();
    replicas.edit("devices = [\"/dev/abide-t-none\"]");
    let rejected = replicas.await_reason("dev-1", "Degraded", "OptionRefused");
    assert!(rejected["message"].as_str().unwrap().contains("/dev/abide-t-none"), "{rejected}");
    for slot in ["dev-2", "dev-3"] {
        let waits = replicas.await_reason(slot, "Progressing", "AwaitingNeeds");
        assert!(waits["message"].as_str().unwrap().starts_with("the edit of the manifest waits"), "{waits}");
    }
    assert_eq!(replicas.lives(), before);
    replicas.spot.declare(&replicas.options);
    replicas.run(&SLOTS, &image);
    assert_eq!(replicas.lives(), before);
    drop(daemon);
}

#[test]
fn an_edit_comes_to_one_replica_after_the_other_and_a_bad_one_stops_there() {
    let Some((replicas, shell)) = Replicas::sharing("stop-first") else { return };
    let image = once(&replicas.space, &shell, "one", "");
    let daemon = replicas.spot.daemon();
    replicas.set(&image);
    replicas.run(&SLOTS, &image);
    let (load, before) = (replicas.load(), replicas.lives());
    replicas.edit("env = { EDITED = \"1\" }");
    eventually("every slot has the edit", PATIENCE, || {
        let lives = replicas.lives();
        lives.iter().zip(&before).all(|(life, before)| life.is_some() && life != before)
    });
    replicas.run(&SLOTS, &image);
    assert!([1, 2, 3].map(|slot| replicas.started_at(slot)).is_sorted(), "not in turn");

    // With this variable, the first container that starts runs, and no other does.
    let third = Life::of(&replicas.container(3));
    replicas.edit("env = { EDITED = \"1\", ONCE = \"1\" }");
    let failed = replicas.await_reason("dev-2", "Degraded", "StartFailed");
    assert!(failed["message"].as_str().unwrap().contains("exited with code 3"), "{failed}");
    replicas.await_reason("dev-1", "Ready", "AsRecorded");
    replicas.await_reason("dev-3", "Progressing", "AwaitingNeeds");
    eventually("the second slot is back", PATIENCE, || {
        Life::of(&replicas.container(2)).is_some_and(|life| life.is_running())
    });
    assert_eq!(Life::of(&replicas.container(3)), third, "the third slot was touched");
    replicas.edit("env = { EDITED = \"1\" }");
    replicas.run(&SLOTS, &image);
    assert_eq!(Life::of(&replicas.container(3)), third, "the third slot was touched");
    let tally = load.finish();
    assert!(tally.failed.is_empty(), "{} failed; {tally:#?}", tally.failed.len());
    drop(daemon);
}

#[test]
fn a_changed_secret_comes_to_one_replica_after_the_other() {
    let Some((replicas, shell)) = Replicas::sharing("stop-first") else { return };
    let image = once(&replicas.space, &shell, "one", "");
    let secret = replicas.spot.desired_state.join("password");
    std::fs::write(&secret, "one").unwrap();
    replicas.edit(&format!("env = {{ PASSWORD = {{ secret_file = {secret:?} }} }}"));
    let daemon = replicas.spot.daemon();
    replicas.set(&image);
    replicas.run(&SLOTS, &image);
    let (load, before) = (replicas.load(), replicas.lives());
    std::fs::write(&secret, "two").unwrap();
    assert_eq!(replicas.spot.abide(&["sync", "dev"]).code, 0);
    eventually("every slot has the new value", PATIENCE, || {
        let lives = replicas.lives();
        lives.iter().zip(&before).all(|(life, before)| life.is_some() && life != before)
    });
    replicas.run(&SLOTS, &image);
    assert!([1, 2, 3].map(|slot| replicas.started_at(slot)).is_sorted(), "not in turn");
    let tally = load.finish();
    assert!(tally.failed.is_empty(), "{} failed; {tally:#?}", tally.failed.len());
    drop(daemon);
}

#[test]
fn a_memory_limit_below_the_use_replaces_one_replica_after_the_other() {
    let Some((replicas, shell)) = Replicas::sharing("stop-first") else { return };
    let image = once(&replicas.space, &shell, "one", "");
    let limited = |limit: &str| format!("memory = \"{limit}\"\ntmpfs = [\"/scratch\"]");
    replicas.edit(&limited("64m"));
    let daemon = replicas.spot.daemon();
    replicas.set(&image);
    replicas.run(&SLOTS, &image);
    for slot in 1..=3 {
        // The kernel cannot take this memory back.
        let fill = ["dd", "if=/dev/zero", "of=/scratch/big", "bs=1048576", "count=30"];
        docker(&[&["exec", &replicas.container(slot)], &fill[..]].concat());
    }
    let (load, before) = (replicas.load(), replicas.lives());
    replicas.edit(&limited("16m"));
    eventually("every slot has the limit", PATIENCE, || {
        let is_limited = |slot: u16| {
            let format = "{{.HostConfig.Memory}}";
            try_docker(&["container", "inspect", "--format", format, &replicas.container(slot)])
                .is_some_and(|limit| limit == "16777216")
        };
        (1..=3).all(is_limited)
    });
    replicas.run(&SLOTS, &image);
    let after = replicas.lives();
    assert!(after.iter().zip(&before).all(|(after, before)| after != before), "{after:?}");
    let started = after.each_ref().map(|life| life.as_ref().unwrap().started_at.clone());
    assert!(started.is_sorted(), "not in turn: {started:?}");
    let tally = load.finish();
    assert!(tally.failed.is_empty(), "{} failed; {tally:#?}", tally.failed.len());
    drop(daemon);
}

#[test]
fn killed_replicas_cost_no_request() {
    let Some(replicas) = Replicas::new("replicas = 3") else { return };
    let image = made_image(&replicas.space, "one", "");
    let daemon = replicas.spot.daemon();
    replicas.set(&image);
    replicas.run(&SLOTS, &image);
    let load = replicas.load();
    for round in 0..6 {
        let slot = round % 3 + 1;
        let before = replicas.started_at(slot);
        docker(&["kill", &replicas.container(slot)]);
        eventually("it is started again", PATIENCE, || replicas.started_at(slot) != before);
        replicas.run(&SLOTS, &image);
    }
    let tally = load.finish();
    assert!(tally.failed.is_empty(), "{} failed; {tally:#?}", tally.failed.len());
    drop(daemon);
}

#[test]
fn replicas_are_added_to_a_serving_environment_and_removed_again() {
    let Some(replicas) = Replicas::new("") else { return };
    let image = made_image(&replicas.space, "one", "");
    let daemon = replicas.spot.daemon();
    replicas.set(&image);
    assert_eq!(replicas.spot.await_ready(), image);
    let load = replicas.load();
    replicas.redeclare("hostname", "replicas = 2\nhostname");
    replicas.run(&["dev-1", "dev-2"], &image);
    let forgotten = replicas.spot.abide(&["forget", "dev", "--stop"]);
    assert_eq!(forgotten.code, 0, "{forgotten:?}");
    replicas.redeclare("hostname", "replicas = 3\nhostname");
    replicas.run(&SLOTS, &image);
    let served: BTreeSet<String> = (1..=3).map(|slot| replicas.container(slot)).collect();
    eventually("only the slots are left", PATIENCE, || {
        let names = replicas.space.container_names().into_iter();
        names
            .filter(|name| name.starts_with(&replicas.spot.name) && !name.contains(".net"))
            .collect::<BTreeSet<_>>()
            == served
    });
    replicas.redeclare("hostname", "replicas = 1\nhostname");
    for slot in ["dev-2", "dev-3"] {
        eventually("what is not declared any more can be removed", PATIENCE, || {
            replicas.spot.abide(&["forget", slot, "--stop"]).code == 0
        });
    }
    eventually("their containers are gone", PATIENCE, || {
        (2..=3).all(|slot| try_docker(&["container", "inspect", &replicas.container(slot)]).is_none())
    });
    let tally = load.finish();
    assert!(tally.failed.is_empty(), "{} failed; {tally:#?}", tally.failed.len());
    drop(daemon);
}

#[test]
fn a_sticky_client_stays_at_one_replica() {
    let Some(replicas) = Replicas::new("replicas = 3\nsite = { sticky = true }") else { return };
    let image = made_image(&replicas.space, "{{HOSTNAME}}", "");
    let daemon = replicas.spot.daemon();
    replicas.set(&image);
    replicas.run(&SLOTS, &image);
    let ask = |cookie: &str| {
        let head = format!("Host: {}\r\nCookie: {cookie}", Spot::HOST);
        let answer = raw(replicas.http, &format!("GET / HTTP/1.0\r\n{head}\r\n\r\n"));
        let cookie = answer.lines().find_map(|line| line.strip_prefix("Set-Cookie: "));
        let cookie = cookie.and_then(|cookie| cookie.split(';').next()).map(str::to_owned);
        (answer.lines().last().unwrap_or_default().to_owned(), cookie)
    };
    let mut served = BTreeSet::new();
    for _ in 0..12 {
        let (first, cookie) = ask("other=1");
        let cookie = cookie.expect("a client without the cookie gets one");
        for _ in 0..5 {
            assert_eq!(ask(&cookie), (first.clone(), None), "{cookie}");
        }
        served.insert(first);
    }
    assert!(served.len() > 1, "12 clients are at one replica: {served:?}");
    drop(daemon);
}

/// Sends a request to the loopback address, and returns the whole answer.
fn raw(port: u16, request: &str) -> String {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}
