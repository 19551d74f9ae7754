//! Certificates from a real authority: pebble, with its own name server. A proxy of the test stands before it
//! for what pebble lacks: rate limits and advice when to renew.

#[path = "tests/rig.rs"]
mod rig;

use std::time::Duration;

use super::*;
use crate::pebble::Pebble;
use rig::Rig;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_are_certified_over_http_and_a_restart_orders_nothing() {
    let pebble = Pebble::shared();
    let mut rig = Rig::new(&pebble);
    rig.want(&[("prod", &["a.http.test", "b.http.test"]), ("test", &["c.http.test"])]);
    let stand_ins = rig.until("stand-ins", |rig| rig.pairs(false).len() == 2).await;
    assert!(stand_ins.pairs(true).is_empty() || stand_ins.orders() > 0);
    rig.until("both are issued", |rig| rig.pairs(true).len() == 2).await;
    rig.until("no stand-in is left", |rig| rig.pairs(false).is_empty()).await;
    let issued = rig.pairs(true);
    let of =
        |name: &str| issued.iter().find(|pair| pair.names.contains(&SiteName::new(name).unwrap())).unwrap();
    assert_eq!(of("a.http.test").chain, of("b.http.test").chain, "one certificate for an environment");
    assert_ne!(of("a.http.test").chain, of("c.http.test").chain);
    assert_eq!(rig.orders(), 2);
    let report = rig.acme.report(&rig::owner("prod")).unwrap();
    assert_eq!((report.until, report.problem), (Some(of("a.http.test").until), None));

    rig.restart();
    rig.until("they are served again", |rig| rig.pairs(true).len() == 2).await;
    assert_eq!(
        rig.pairs(true).iter().filter(|pair| issued.iter().any(|old| old.chain == pair.chain)).count(),
        2
    );
    // A name less needs no new certificate, and a name more needs one.
    rig.want(&[("prod", &["a.http.test"]), ("test", &["c.http.test"])]);
    rig.settled().await;
    assert_eq!(rig.orders(), 2);
    rig.want(&[("prod", &["a.http.test", "d.http.test"]), ("test", &["c.http.test"])]);
    rig.until("the new name is certified", |rig| rig.is_certified("d.http.test")).await;
    assert_eq!(rig.orders(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_dns_command_proves_a_wildcard_and_removes_the_record() {
    let pebble = Pebble::shared();
    let mut rig = Rig::new(&pebble).with_dns_command();
    rig.want(&[("prod", &["*.wild.test", "wild.test", "x.wild.test"])]);
    rig.until("the wildcard is certified", |rig| rig.is_certified("*.wild.test")).await;
    let pair = rig.pairs(true).pop().unwrap();
    let names: Vec<&str> = pair.names.iter().map(SiteName::as_str).collect();
    assert_eq!(names, ["*.wild.test", "wild.test"], "the wildcard covers x.wild.test");
    let calls = rig.dns_calls();
    assert!(calls.iter().any(|call| call.starts_with("present _acme-challenge.wild.test. ")), "{calls:?}");
    let count = |verb: &str| calls.iter().filter(|call| call.starts_with(verb)).count();
    assert_eq!(count("present"), count("cleanup"), "{calls:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dns_challenge_record_is_added_at_the_end_of_the_alias_chain() {
    let pebble = Pebble::shared();
    pebble.alias("_acme-challenge.alias.test.", "end.proofs.test.");
    let mut rig = Rig::new(&pebble).with_dns_command();
    rig.want(&[("prod", &["*.alias.test"])]);
    rig.until("the wildcard is certified", |rig| rig.is_certified("*.alias.test")).await;
    let calls = rig.dns_calls();
    let at_the_end =
        |verb: &str| calls.iter().any(|call| call.starts_with(&format!("{verb} end.proofs.test. ")));
    assert!(at_the_end("present") && at_the_end("cleanup"), "{calls:?}");
    // Pebble's name server follows one alias only, other than a real resolver: the authority finds no record.
    pebble.alias("_acme-challenge.chain.test.", "middle.proofs.test.");
    pebble.alias("middle.proofs.test.", "last.proofs.test.");
    rig.want(&[("prod", &["*.chain.test"])]);
    let at_the_last =
        |rig: &Rig| rig.dns_calls().iter().any(|call| call.starts_with("present last.proofs.test. "));
    rig.until("the record is added at the last alias", at_the_last).await;
    pebble.alias("_acme-challenge.loop.test.", "_acme-challenge.loop.test.");
    rig.want(&[("ring", &["*.loop.test"])]);
    let problem = rig.problem("ring").await;
    assert!(problem.contains("more than 8 aliases"), "{problem}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_pointing_elsewhere_costs_no_attempt_and_delays_no_other() {
    let pebble = Pebble::shared();
    pebble.address("away.lead.test", "127.0.0.3");
    pebble.address("here.lead.test", "127.0.0.1");
    let elsewhere = rig::answering("127.0.0.3", pebble.http_port(), "HTTP/1.0 404 Not Found\r\n\r\nno").await;
    let mut rig = Rig::new(&pebble);
    rig.want(&[("prod", &["away.lead.test", "here.lead.test"])]);
    rig.until("the other name is certified", |rig| rig.is_certified("here.lead.test")).await;
    let problem = rig.problem("prod").await;
    assert!(
        problem.contains("DNS has 127.0.0.3") && problem.contains("answers the challenge with 404"),
        "{problem}"
    );
    assert!(!rig.is_certified("away.lead.test"));
    assert_eq!(rig.orders(), 1);
    assert!(rig.stands_in("away.lead.test"), "a self-signed certificate stands in");
    // Once it leads here, it is certified, together with the other.
    pebble.address("away.lead.test", "127.0.0.1");
    drop(elsewhere);
    rig.check_now();
    rig.until("it is certified", |rig| rig.is_certified("away.lead.test")).await;
    assert_eq!(rig.orders(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unreachable_name_is_ordered_separately_then_at_staging() {
    let pebble = Pebble::shared();
    // Nobody listens there: this host cannot find out, the authority can.
    pebble.address("closed.apart.test", "127.0.0.4");
    pebble.address("open.apart.test", "127.0.0.1");
    let mut rig = Rig::new(&pebble);
    rig.want(&[("prod", &["closed.apart.test", "open.apart.test"])]);
    rig.until("the other name is certified", |rig| rig.is_certified("open.apart.test")).await;
    assert_eq!(rig.orders(), 2, "one for both, one without the name that failed");
    let problem = rig.problem("prod").await;
    assert!(
        problem.contains("closed.apart.test was not proven") && problem.contains("next attempt"),
        "{problem}"
    );
    // A restart does not shorten the pause.
    rig.restart();
    rig.settled().await;
    assert_eq!(rig.orders(), 2);
    assert!(rig.problem("prod").await.contains("next attempt"));

    // With a staging directory, the first look is there.
    let mut careful = Rig::new(&pebble).with_staging();
    careful.want(&[("prod", &["closed.apart.test"])]);
    let problem = careful.problem("prod").await;
    assert!(problem.contains("at the staging directory"), "{problem}");
    assert_eq!((careful.orders(), careful.staging_orders()), (0, 1));
    pebble.address("closed.apart.test", "127.0.0.1");
    careful.forget_pauses();
    careful.until("it is certified", |rig| rig.is_certified("closed.apart.test")).await;
    assert_eq!((careful.orders(), careful.staging_orders()), (1, 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rate_limit_is_respected_across_a_restart() {
    let pebble = Pebble::shared();
    let mut rig = Rig::new(&pebble);
    rig.refuse_orders(Some(3600));
    rig.want(&[("prod", &["a.limit.test"])]);
    let problem = rig.problem("prod").await;
    assert!(problem.contains("too many") && problem.contains("next attempt"), "{problem}");
    assert_eq!(rig.orders(), 1);
    rig.refuse_orders(None);
    rig.restart();
    rig.settled().await;
    assert_eq!(rig.orders(), 1, "it was told to wait an hour");
    let at = problem.rsplit("next attempt ").next().unwrap();
    let at = Timestamp::parse(at).unwrap();
    assert!(at.since(now()) > Duration::from_secs(3000), "{problem}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interrupted_order_is_resumed_from_any_point() {
    let pebble = Pebble::shared();
    // The authority's answers after which the process dies: to the order, the first look, the request.
    for (number, path) in ["/order-plz", "/chalZ/", "/finalize-order/"].into_iter().enumerate() {
        let name = format!("a{number}.crash.test");
        let mut rig = Rig::new(&pebble);
        rig.hold_after(path);
        rig.want(&[("prod", &[&name])]);
        rig.until(&format!("{path} was asked for"), Rig::is_held).await;
        rig.crash();
        rig.hold_after("");
        rig.restart();
        rig.until(&format!("it is certified after {path}"), |rig| rig.is_certified(&name)).await;
        // Only an order whose answer was lost is ordered again.
        let most = if path == "/order-plz" { 2 } else { 1 };
        assert_eq!(rig.orders(), most, "after {path}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_is_renewed_when_the_authority_advises_it() {
    let pebble = Pebble::shared();
    let mut rig = Rig::new(&pebble);
    rig.advise((Duration::from_secs(3600), Duration::from_secs(7200)));
    rig.want(&[("prod", &["a.renew.test"])]);
    rig.until("it is certified", |rig| rig.is_certified("a.renew.test")).await;
    let first = rig.pairs(true).pop().unwrap();
    rig.until("the authority was asked for advice", |rig| rig.advices() == 1).await;
    rig.settled().await;
    assert_eq!(
        (rig.orders(), rig.advices()),
        (1, 1),
        "the window has not begun, and asking has its own pace"
    );
    // The authority revokes: the window is in the past.
    rig.advise((Duration::ZERO, Duration::from_millis(1)));
    rig.forget_pauses();
    rig.until("it is renewed", |rig| rig.pairs(true).iter().any(|pair| pair.chain != first.chain)).await;
    assert_eq!(rig.orders(), 2);
    assert_eq!(rig.replaced().len(), 1, "the order names the certificate that it replaces");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_is_retried_after_an_outage_or_a_lost_account() {
    let pebble = Pebble::shared();
    let mut rig = Rig::new(&pebble);
    rig.go_away(true);
    rig.want(&[("prod", &["a.away.test"])]);
    let problem = rig.problem("prod").await;
    assert!(problem.contains("next attempt"), "{problem}");
    assert!(rig.stands_in("a.away.test"));
    rig.go_away(false);
    rig.restart();
    rig.until("it is certified", |rig| rig.is_certified("a.away.test")).await;
    rig.lose_account();
    rig.want(&[("prod", &["a.away.test", "b.away.test"])]);
    rig.until("it is certified too", |rig| rig.is_certified("b.away.test")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_certificate_profile_is_reported_before_ordering() {
    let pebble = Pebble::shared();
    let mut rig = Rig::new(&pebble);
    rig.profile("fast");
    rig.want(&[("prod", &["a.profile.test"])]);
    let problem = rig.problem("prod").await;
    assert!(problem.contains("no profile `fast`"), "{problem}");
    assert_eq!(rig.orders(), 0);
}
