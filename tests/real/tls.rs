//! The proxy as Debian's programs see it: the scanner `sslscan`, and `h2load` with many requests over HTTP/2.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use crate::common::{
    Authority, Certificate, Daemon, PATIENCE, Space, Spot, eventually, free_ports, made_image,
};

/// The cipher suites of Mozilla's intermediate configuration (guidelines 5.7).
const INTERMEDIATE: [&str; 11] = [
    "TLS_AES_128_GCM_SHA256",
    "TLS_AES_256_GCM_SHA384",
    "TLS_CHACHA20_POLY1305_SHA256",
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES128-GCM-SHA256",
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-CHACHA20-POLY1305",
    "ECDHE-RSA-CHACHA20-POLY1305",
    "DHE-RSA-AES128-GCM-SHA256",
    "DHE-RSA-AES256-GCM-SHA384",
];

/// Lines of metrics: the good requests that were counted, and all those that were not.
const COUNTED: &str = "abide_http_requests_total{environment=\"dev\",method=\"GET\",status=\"200\"} ";
const LOST: &str = "abide_http_request_records_lost_total ";

/// `dev` with a certificate behind the proxy.
struct Secured {
    spot: Spot,
    https: u16,
    images: [String; 2],
    _daemon: Daemon,
    _space: Space,
}

impl Secured {
    fn new() -> Option<Self> {
        let space = Space::new()?;
        let (spot, _) = Spot::fronted(&space, "");
        let pair = Certificate { certificate: space.dir().join("dev.crt"), key: space.dir().join("dev.key") };
        Authority::new(space.dir()).sign_for(&format!("DNS:{}", Spot::HOST), &pair);
        let [https] = free_ports();
        // The table of the proxy is the last one.
        let manifest = spot.desired_state.join("spot.toml");
        let text = std::fs::read_to_string(&manifest).unwrap();
        let more = format!(
            "https = {https}\ncertificates = [{{ names = [\"{}\"], cert = {:?}, key = {:?} }}]\n",
            Spot::HOST,
            pair.certificate,
            pair.key
        );
        std::fs::write(&manifest, text + &more).unwrap();
        let images = ["one", "two"].map(|page| made_image(&space, page, ""));
        let daemon = spot.daemon();
        assert_eq!(spot.set(&images[0]).code, 0);
        assert_eq!(spot.await_ready(), images[0]);
        Some(Self { spot, https, images, _daemon: daemon, _space: space })
    }
}

impl Secured {
    /// The good requests that were counted, and all those that were not.
    fn counts(&self) -> [u64; 2] {
        let mut stream = UnixStream::connect(self.spot.desired_state.join("abide.sock")).unwrap();
        stream.write_all(b"GET /metrics HTTP/1.0\r\nHost: abide\r\n\r\n").unwrap();
        let mut page = String::new();
        stream.read_to_string(&mut page).unwrap();
        let value = |line: &str| page.lines().find_map(|found| found.strip_prefix(line)?.trim().parse().ok());
        [COUNTED, LOST].map(|line| value(line).unwrap_or(0))
    }
}

/// Runs a program of a Debian package.
fn run(program: &str, package: &str, arguments: &[&str]) -> Output {
    let output = Command::new(program).args(arguments).output();
    output.unwrap_or_else(|error| panic!("{program}: {error} (Debian: {package}; `.ci/run` installs it)"))
}

#[test]
#[ignore = "slow: .ci/slow runs it"]
fn a_scanner_finds_only_mozillas_intermediate_settings() {
    let Some(secured) = Secured::new() else { return };
    let (name, place) = (format!("--sni-name={}", Spot::HOST), format!("127.0.0.1:{}", secured.https));
    let scan = run("sslscan", "sslscan", &["--no-colour", &name, &place]);
    let report = String::from_utf8_lossy(&scan.stdout).into_owned();
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let lines: Vec<Vec<String>> = report.lines().map(words).collect();

    let enabled = lines.iter().filter(|line| line.len() == 2 && line[1] == "enabled");
    let enabled: BTreeSet<&str> = enabled.map(|line| line[0].as_str()).collect();
    assert_eq!(enabled, BTreeSet::from(["TLSv1.2", "TLSv1.3"]), "{report}");
    let accepted = lines.iter().filter(|line| {
        line.first().is_some_and(|first| ["Preferred", "Accepted"].contains(&first.as_str()))
            && line.len() > 4
    });
    let accepted: BTreeSet<&str> = accepted.map(|line| line[4].as_str()).collect();
    // Three for TLS 1.3, and three for the kind of the certificate.
    assert_eq!(accepted.len(), 6, "{report}");
    let others: Vec<_> = accepted.iter().filter(|cipher| !INTERMEDIATE.contains(*cipher)).collect();
    assert!(others.is_empty(), "{others:?}: {report}");
    let heartbleed = report.lines().filter(|line| line.contains("to heartbleed"));
    assert!(heartbleed.clone().count() > 0, "{report}");
    assert!(heartbleed.into_iter().all(|line| line.contains("not vulnerable")), "{report}");
    eprintln!("{accepted:?}");
}

/// The number before a word in the line of `h2load`'s report that begins with `kind`.
fn number(report: &str, kind: &str, word: &str) -> u64 {
    let line = report.lines().find_map(|line| line.strip_prefix(kind)).unwrap_or_else(|| panic!("{report}"));
    let part = line.split(',').find_map(|part| part.trim().strip_suffix(word));
    part.and_then(|part| part.trim().parse().ok()).unwrap_or_else(|| panic!("no `{word}`: {report}"))
}

/// What clients got until they were stopped.
#[derive(Debug, Default)]
struct Answers {
    good: u64,
    /// Requests that the proxy refused before it processed them, because their connection was being closed (GOAWAY).
    refused: u64,
    bad: Vec<String>,
}

/// Runs `round` again and again.
fn repeat(stop: &Arc<AtomicBool>, round: impl Fn(&mut Answers) + Send + 'static) -> JoinHandle<Answers> {
    let stop = Arc::clone(stop);
    std::thread::spawn(move || {
        let mut answers = Answers::default();
        while !stop.load(Ordering::Relaxed) {
            round(&mut answers);
        }
        answers
    })
}

/// `h2load` does not send a request again that the server refused with GOAWAY, unlike browsers.
#[test]
#[ignore = "slow: .ci/slow runs it"]
fn no_request_over_http2_fails_in_deployments() {
    let Some(secured) = Secured::new() else { return };
    let https = secured.https;
    let stop = Arc::new(AtomicBool::new(false));
    let load = repeat(&stop, move |answers| {
        let (place, url) = (format!("--connect-to=127.0.0.1:{https}"), format!("https://{}/", Spot::HOST));
        let ran = run("h2load", "nghttp2-client", &["-n", "400", "-c", "4", "-m", "2", &place, &url]);
        let report = String::from_utf8_lossy(&ran.stdout).into_owned();
        let of_requests = |word| number(&report, "requests: ", word);
        let of_codes = |word| number(&report, "status codes: ", word);
        answers.good += of_codes("2xx");
        answers.refused += of_requests("errored");
        if of_codes("3xx") + of_codes("4xx") + of_codes("5xx") + of_requests("timeout") > 0 {
            answers.bad.push(report);
        }
    });
    for deployment in 1..=10 {
        let image = &secured.images[deployment % 2];
        assert_eq!(secured.spot.set(image).code, 0);
        assert_eq!(&secured.spot.await_ready(), image, "deployment {deployment}");
    }
    stop.store(true, Ordering::Relaxed);
    let load = load.join().unwrap();
    assert!(load.bad.is_empty() && load.good > 0, "{load:?}");
    // Whatever the proxy processed was answered. It refused the other requests before that.
    let counted = || secured.counts().iter().sum::<u64>();
    eventually("every answer is counted", PATIENCE, || counted() >= load.good);
    assert_eq!(counted(), load.good, "{load:?}");
    eprintln!("{} good answers over HTTP/2, {} refused with GOAWAY", load.good, load.refused);
}

#[test]
#[ignore = "slow: .ci/slow runs it"]
fn every_request_at_the_highest_rate_is_counted_or_counted_as_lost() {
    let Some(secured) = Secured::new() else { return };
    let (place, url) =
        (format!("--connect-to=127.0.0.1:{}", secured.https), format!("https://{}/", Spot::HOST));
    let load = run("h2load", "nghttp2-client", &["-n", "100000", "-c", "16", "-m", "8", &place, &url]);
    let report = String::from_utf8_lossy(&load.stdout).into_owned();
    let good = number(&report, "requests: ", "succeeded");
    assert!(good > 0, "{report}");
    // Lost records are read every 10 s.
    eventually("all requests are counted", PATIENCE, || secured.counts().iter().sum::<u64>() >= good);
    let [counted, lost] = secured.counts();
    let rate = report.lines().find(|line| line.starts_with("finished in")).unwrap_or_default();
    eprintln!("{good} answers, {counted} counted, {lost} lost; {rate}");
}
