//! Canaries: a new version serves a part of the visitors before it takes over.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};

use serde_json::Value;

use crate::common::{Daemon, Load, PATIENCE, Space, Spot, Way, eventually, eventually_some, made_image};

/// `dev` with a canary behind a proxy.
pub(crate) struct Canaries {
    pub(crate) spot: Spot,
    http: u16,
    pub(crate) space: Space,
}

impl Canaries {
    /// Half of the visitors get a new version for this long. A program that answers with errors is ready, too.
    pub(crate) fn new(time: &str) -> Option<Self> {
        let space = Space::new()?;
        let options = format!(
            "canary = {{ percent = 50, for = \"{time}\", fail_on = \"5xx > 1%\" }}\n\
             health = {{ tcp = true, interval = \"50ms\", timeout = \"1s\", start_deadline = \"10s\", \
             healthy_for = \"200ms\" }}"
        );
        let (spot, http) = Spot::fronted(&space, &options);
        Some(Self { spot, http, space })
    }

    pub(crate) fn image(&self, page: &str, lines: &str) -> String {
        made_image(&self.space, page, lines)
    }

    /// Runs `image` as the first version.
    pub(crate) fn begin(&self, image: &str) -> Daemon {
        let daemon = self.spot.daemon();
        assert_eq!(self.spot.set(image).code, 0);
        assert_eq!(self.spot.await_ready(), image);
        daemon
    }

    /// Records `image` and waits until it serves as a canary.
    fn set(&self, image: &str) -> Value {
        let ran = self.spot.set(image);
        assert_eq!(ran.code, 0, "{ran:?}");
        self.under_way(image)
    }

    fn under_way(&self, image: &str) -> Value {
        self.spot.until("it serves as a canary", |status| {
            status["image"]["id"] == image
                && status["reason"] == "Canary"
                && status["canary"]["state"] == "under_way"
                && status["canary"]["requests"].as_u64() > Some(0)
        })
    }

    fn decide(&self, decision: &str) {
        let ran = self.spot.abide(&["canary", "dev", decision, "--reason", "a look"]);
        assert_eq!(ran.code, 0, "{ran:?}");
    }

    /// Waits until the record has gone back from the canary, and `image` serves all visitors.
    fn rolled_back(&self, image: &str) -> Value {
        let status = self.spot.until("it is rolled back", |status| {
            status["status"] == "RolledBack" && status["observed_generation"] == status["generation"]
        });
        assert_eq!(status["image"]["id"], image, "{status}");
        assert_eq!(status["canary"]["state"], "failed", "{status}");
        eventually("the canary is removed", PATIENCE, || self.space.is_at_rest_behind_proxy());
        status
    }

    /// Clients on the published port and by name, without cookies.
    pub(crate) fn load(&self) -> Load {
        let way = |port, host, keeps| Way { port, host, path: "/", keeps };
        let ways = [(self.http, Spot::HOST), (self.spot.port, "localhost")];
        let ways: Vec<Way> =
            ways.iter().flat_map(|(port, host)| [way(*port, host, true), way(*port, host, false)]).collect();
        Load::start(&ways)
    }

    /// The page for a visitor with these cookies, and the cookie that the proxy sets.
    fn visit(&self, cookies: &str) -> (String, Option<String>) {
        let request = format!("GET / HTTP/1.0\r\nHost: {}\r\nCookie: {cookies}\r\n\r\n", Spot::HOST);
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.http)).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let cookie = answer.lines().find_map(|line| line.strip_prefix("Set-Cookie: "));
        let cookie = cookie.and_then(|cookie| cookie.split(';').next()).map(str::to_owned);
        (answer.lines().last().unwrap_or_default().to_owned(), cookie)
    }

    /// The last evidence about a canary.
    fn evidence(&self) -> Value {
        eventually_some("the canary's figures are evidence", PATIENCE, || {
            let ran = self.spot.abide(&["evidence", "dev", "-o", "json"]);
            let view: Value = serde_json::from_str(&ran.stdout).ok()?;
            view["evidence"].as_array()?.iter().rfind(|found| found["kind"] == "canary").cloned()
        })
    }
}

#[test]
fn a_canary_takes_over_after_its_time_without_a_failed_request() {
    let Some(canaries) = Canaries::new("3s") else { return };
    let [first, second] = ["one", "two"].map(|page| canaries.image(page, ""));
    let _daemon = canaries.begin(&first);
    let load = canaries.load();
    assert_eq!(canaries.spot.set(&second).code, 0);
    assert_eq!(canaries.spot.await_ready(), second);
    eventually("one container is left", PATIENCE, || canaries.space.containers().len() == 2);
    let tally = load.finish();
    assert!(tally.failed.is_empty(), "{} failed; {tally:#?}", tally.failed.len());
    assert!(["one", "two"].iter().all(|page| tally.pages.contains_key(*page)), "{tally:?}");
    let evidence = canaries.evidence();
    assert_eq!((&evidence["passed"], &evidence["image"]["id"]), (&true.into(), &second.as_str().into()));
    assert!(evidence["requests"].as_u64() > Some(0) && evidence["failed"] == 0, "{evidence}");
}

#[test]
#[ignore = "slow: .ci/slow runs it"]
fn a_cookie_keeps_each_visitor_at_one_version_until_a_person_decides() {
    let Some(canaries) = Canaries::new("1h") else { return };
    let [first, second] = ["one", "two"].map(|page| canaries.image(page, ""));
    let _daemon = canaries.begin(&first);
    let load = canaries.load();
    let refused = canaries.spot.abide(&["canary", "dev", "promote"]);
    assert_eq!(refused.code, 1, "{refused:?}");
    assert!(refused.stderr.contains("`dev` has no canary now"), "{refused:?}");
    canaries.set(&second);
    let mut served = BTreeSet::new();
    for _ in 0..16 {
        let (page, cookie) = canaries.visit("other=1");
        let cookie = cookie.expect("a visitor without the cookie gets one");
        for _ in 0..5 {
            assert_eq!(canaries.visit(&cookie), (page.clone(), None), "{cookie}");
        }
        served.insert(page);
    }
    assert_eq!(served, BTreeSet::from(["one".to_owned(), "two".to_owned()]));
    let why = canaries.spot.abide(&["why", "dev"]).stdout;
    assert!(why.contains("50 % of the visitors for ") && why.contains(" % 5xx of "), "{why}");

    canaries.decide("promote");
    assert_eq!(canaries.spot.await_ready(), second);
    assert_eq!(canaries.visit("other=1"), ("two".to_owned(), None));
    let events = canaries.spot.abide(&["events", "dev"]).stdout;
    assert!(events.contains("promoted the canary of generation 2: a look"), "{events}");

    canaries.set(&first);
    canaries.decide("abort");
    let status = canaries.rolled_back(&second);
    assert!(status["message"].as_str().unwrap().contains("it was aborted by"), "{status}");
    let tally = load.finish();
    assert!(tally.failed.is_empty(), "{} failed; {tally:#?}", tally.failed.len());
}

#[test]
fn a_canary_that_answers_with_errors_is_removed_and_remembered_as_bad() {
    let Some(canaries) = Canaries::new("1h") else { return };
    let first = canaries.image("one", "");
    let bad = canaries.image("two", "ENV SITE_HTTP_STATUS=500");
    let _daemon = canaries.begin(&first);
    let load = canaries.load();
    assert_eq!(canaries.spot.set(&bad).code, 0);
    let status = canaries.rolled_back(&first);
    assert!(status["message"].as_str().unwrap().contains("it met `5xx > 1%`"), "{status}");
    let tally = load.finish();
    let is_of_canary = |(_, _, why): &(_, _, String)| why.starts_with("500 ");
    assert!(!tally.failed.is_empty() && tally.failed.iter().all(is_of_canary), "{tally:#?}");
    assert_eq!(canaries.visit("other=1").0, "one");
    let evidence = canaries.evidence();
    assert_eq!((&evidence["passed"], &evidence["image"]["id"]), (&false.into(), &bad.as_str().into()));
    assert!(evidence["failed"].as_u64() >= Some(2), "{evidence}");
}

#[test]
#[ignore = "slow: .ci/slow runs it"]
fn a_canary_that_crashes_is_removed_and_costs_no_request() {
    let Some(canaries) = Canaries::new("1h") else { return };
    let first = canaries.image("one", "");
    let crashing = canaries.image("two", "ENV SITE_CRASH_AFTER=4s");
    let _daemon = canaries.begin(&first);
    let load = canaries.load();
    canaries.set(&crashing);
    let status = canaries.rolled_back(&first);
    // What it refuses until abide sees its end counts as failed, which may be enough.
    let message = status["message"].as_str().unwrap();
    assert!(message.contains("exited with code 1") || message.contains("it met `5xx > 1%`"), "{status}");
    let tally = load.finish();
    assert!(tally.failed.is_empty(), "{} failed; {tally:#?}", tally.failed.len());
    assert!(["one", "two"].iter().all(|page| tally.pages.contains_key(*page)), "{tally:?}");
}

#[test]
#[ignore = "slow: .ci/slow runs it"]
fn a_canary_continues_after_the_daemon_was_killed_and_a_rollback_ends_it() {
    let Some(canaries) = Canaries::new("1h") else { return };
    let [first, second] = ["one", "two"].map(|page| canaries.image(page, ""));
    let daemon = canaries.begin(&first);
    let load = canaries.load();
    let before = canaries.set(&second);
    let containers = canaries.space.containers();
    daemon.kill();
    let daemon = canaries.spot.daemon();
    let served = |status: &Value| status["canary"]["served_millis"].as_u64();
    let after = canaries.spot.until("its time continues", |status| {
        status["reason"] == "Canary" && served(status) > served(&before)
    });
    assert!(after["canary"]["requests"].as_u64() >= before["canary"]["requests"].as_u64(), "{after}");
    assert_eq!(canaries.space.containers(), containers, "a container was made again");

    let ran = canaries.spot.abide(&["rollback", "dev", "--reason", "a look"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    let held = canaries.spot.until("it is rolled back and held", |status| status["status"] == "Held");
    assert_eq!(held["image"]["id"], first.as_str(), "{held}");
    eventually("the canary is removed", PATIENCE, || canaries.space.containers().len() == 2);
    assert_eq!(canaries.visit("other=1").0, "one");
    let tally = load.finish();
    assert!(tally.failed.is_empty(), "{} failed; {tally:#?}", tally.failed.len());
    drop(daemon);
}
