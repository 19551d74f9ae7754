//! Replicas: one environment in several containers behind the proxy.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};

use serde_json::Value;

use crate::common::{
    Load, PATIENCE, Space, Spot, Way, busybox, docker, eventually, eventually_some, made_image, try_docker,
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

/// An image that serves a page. With `ONCE`, only the first container that starts serves it, and the others end.
fn once(space: &Space, shell: &str, page: &str, lines: &str) -> String {
    let dir = tempfile::tempdir_in(space.dir()).unwrap();
    let serve = "mkdir -p /tmp/www; echo $PAGE > /tmp/www/index.html; \
                 if [ -n \"$ONCE\" ]; then mkdir /shared/$PAGE || exit 3; fi; exec httpd -f -p 8080 -h /tmp/www";
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
    let volume = "volumes = [{ source = \"VOLUME\", target = \"/shared\", shared = true }]";
    let Some(mut replicas) = Replicas::new(&format!("replicas = 3\nupdate = \"start-first\"\n{volume}"))
    else {
        return;
    };
    replicas.options = replicas.options.replace("VOLUME", &replicas.space.name("shared"));
    replicas.spot.declare(&replicas.options);
    let Some(shell) = busybox(&replicas.space) else { return };
    let images = ["one", "two"].map(|page| once(&replicas.space, &shell, page, ""));
    let daemon = replicas.spot.daemon();
    replicas.set(&images[0]);
    let waited = replicas.spot.abide(&["wait", "dev", "--timeout", "2m"]);
    assert_eq!(waited.code, 0, "{waited:?}");
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
