//! Tests of the content that the front serves.

use super::backend::Backend;
use super::load::Load;
use super::*;
use crate::model::time::Timestamp;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_route_is_served_by_name_and_port_with_forwarding_headers() {
    let Some(rig) = Rig::start().await else { return };
    let (dev, test) = (Backend::start("dev").await, Backend::start("test").await);
    let notifier = rig.wake.notifier(&name("dev"));
    rig.route("dev", "c-dev", dev.address);
    rig.route("test", "c-test", test.address);
    let seen = rig.serves("dev", "c-dev").await;
    rig.serves("test", "c-test").await;
    assert!(seen.since > Timestamp::default() && seen.trouble.is_none(), "{seen:?}");
    tokio::time::timeout(PATIENCE, notifier.notified()).await.unwrap();

    let answer = rig.by_name("dev.example:81").await;
    assert_eq!((answer.status, answer.body.lines().next()), (200, Some("dev")), "{answer:?}");
    let asked = answer.body.to_lowercase();
    for field in [
        "host: dev.example:81",
        "x-forwarded-for: 192.0.2.7, 127.0.0.1",
        "x-forwarded-proto: http",
        "x-forwarded-host: dev.example:81",
        "connection: close",
    ] {
        assert!(asked.contains(&format!("\r\n{field}\r\n")), "{field}: {asked}");
    }
    assert_eq!(get(rig.ports[0], "anything", "/").await.body.lines().next(), Some("dev"));
    assert_eq!(get(rig.ports[1], "anything", "/").await.body.lines().next(), Some("test"));
    let unknown = rig.by_name("other.example").await;
    assert_eq!(unknown.status, 404);
    assert!(!unknown.head.contains("nginx/"), "it tells its version: {}", unknown.head);
    assert_eq!(rig.inspect("{{.HostConfig.NetworkMode}} {{.HostConfig.RestartPolicy.Name}}"), "host no");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_a_trusted_proxy_sets_the_client_address() {
    // The client's address is 127.0.0.1.
    for (trusted, expected) in [
        ("127.0.0.0/8", ["for: 192.0.2.7, 127.0.0.1", "proto: https", "host: shop.example"]),
        ("192.0.2.0/24", ["for: 127.0.0.1", "proto: http", "host: dev.example:81"]),
    ] {
        let Some(rig) = Rig::start_with(&format!("trusted_proxies = [\"{trusted}\"]")).await else { return };
        let dev = Backend::start("dev").await;
        rig.route("dev", "c-dev", dev.address);
        rig.serves("dev", "c-dev").await;
        let request = "GET / HTTP/1.0\r\nHost: dev.example:81\r\nX-Forwarded-For: 192.0.2.7\r\n\
                       X-Forwarded-Proto: https\r\nX-Forwarded-Host: shop.example\r\n\r\n";
        let asked = exchange(rig.ports[0], request).await.unwrap().body.to_lowercase();
        for field in expected {
            assert!(asked.contains(&format!("\r\nx-forwarded-{field}\r\n")), "{trusted}, {field}: {asked}");
        }
        // The front adds the headers that a proxy leaves out.
        let bare = exchange(rig.ports[0], "GET / HTTP/1.0\r\nHost: dev.example\r\n\r\n").await.unwrap();
        let bare = bare.body.to_lowercase();
        for field in ["for: 127.0.0.1", "proto: http", "host: dev.example"] {
            assert!(bare.contains(&format!("\r\nx-forwarded-{field}\r\n")), "{trusted}, {field}: {bare}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_a_trusted_proxy_names_the_client_by_the_proxy_protocol() {
    let Some(rig) = Rig::start().await else { return };
    let dev = Backend::start("dev").await;
    rig.no_route("test");
    rig.route("dev", "c-dev", dev.address);
    rig.serves("dev", "c-dev").await;
    let bare = "GET / HTTP/1.0\r\nHost: dev.example\r\nX-Forwarded-For: 192.0.2.7\r\nX-Forwarded-Proto: https\r\n\r\n";
    let sent = format!("PROXY TCP4 198.51.100.1 203.0.113.1 40000 80\r\n{bare}");
    let answers = |port: u16, request: String, fields: [String; 2]| async move {
        let what = format!("port {port} answers {request:?} with {fields:?}");
        let look = || async {
            let body = exchange(port, &request).await.ok()?.body.to_lowercase();
            fields.iter().all(|field| body.contains(&format!("\r\nx-forwarded-{field}\r\n"))).then_some(())
        };
        eventually(&what, look).await.unwrap();
    };
    let fields = |client: &str| [format!("for: 192.0.2.7, {client}"), "proto: http".to_owned()];
    // The connection comes from 127.0.0.1.
    for (trusted, client) in [("127.0.0.0/8", "198.51.100.1"), ("192.0.2.0/24", "127.0.0.1")] {
        let lines = format!("trusted_proxies = [\"{trusted}\"]\nproxy_protocol = true");
        rig.declare(declared(&rig.image, rig.http, rig.ports, &lines));
        answers(rig.http, sent.clone(), fields(client)).await;
        answers(rig.ports[0], bare.to_owned(), fields("127.0.0.1")).await;
        let without = exchange(rig.http, bare).await.map_or(0, |answer| answer.status);
        assert!(matches!(without, 0 | 400), "a connection without the header got {without}");
        rig.route("dev", "c-dev", dev.address);
        rig.serves("dev", "c-dev").await;
    }
    rig.declare(declared(&rig.image, rig.http, rig.ports, ""));
    answers(rig.http, bare.to_owned(), fields("127.0.0.1")).await;
    assert_eq!(rig.front.warnings(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_fails_while_a_container_is_replaced() {
    let Some(rig) = Rig::start().await else { return };
    let (old, new) = (Backend::start("old").await, Backend::start("new").await);
    rig.no_route("test");
    rig.route("dev", "c-0", old.address);
    rig.serves("dev", "c-0").await;
    let load = Load::start(rig.ports[0]);
    for round in 1..=20 {
        let backend = if round % 2 == 0 { &old } else { &new };
        let container = format!("c-{round}");
        rig.route("dev", &container, backend.address);
        rig.serves("dev", &container).await;
    }
    let counts = load.end().await;
    let [answered, failed] = [&counts.answered, &counts.failed].map(|count| count.load(Ordering::Relaxed));
    assert_eq!(failed, 0, "{counts:?}");
    assert!(answered > 200, "{counts:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_prepared_switch_is_checked_at_once_but_served_only_on_request() {
    let Some(rig) = Rig::start().await else { return };
    let (old, new) = (Backend::start("old").await, Backend::start("new").await);
    rig.no_route("test");
    rig.route("dev", "c-old", old.address);
    rig.serves("dev", "c-old").await;
    rig.front.announce(&name("dev"), new.address);
    let next = format!("/{FOLDER}/next.conf");
    let address = new.address.to_string();
    let is_prepared = || async { read(&rig, &next).filter(|text| text.contains(&address)) };
    eventually("it is laid beside the present one", is_prepared).await.unwrap();
    assert_eq!(rig.by_name("dev.example").await.body.lines().next(), Some("old"));
    rig.route("dev", "c-new", new.address);
    rig.serves("dev", "c-new").await;
    assert_eq!(rig.by_name("dev.example").await.body.lines().next(), Some("new"));
    assert!(!read(&rig, &next).unwrap().contains("c-new"), "it was checked a second time");
    assert!(rig.front.state().next.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_in_flight_finish_on_the_old_container() {
    let Some(rig) = Rig::start().await else { return };
    let (old, new) = (Backend::start("old").await, Backend::start("new").await);
    rig.no_route("test");
    rig.route("dev", "c-old", old.address);
    rig.serves("dev", "c-old").await;
    let port = rig.ports[0];
    let slow = tokio::spawn(async move { get(port, "dev.example", "/slow").await });
    let [began, end] = &*old.slow;
    tokio::time::timeout(PATIENCE, began.notified()).await.unwrap();
    rig.route("dev", "c-new", new.address);
    let switched = rig.serves("dev", "c-new").await;
    assert!(switched.is_draining, "a request is under way: {switched:?}");
    end.notify_one();
    assert_eq!(slow.await.unwrap().body.lines().next(), Some("old"), "it ended where it began");
    eventually("the drain ends", || async { (!rig.seen("dev").is_draining).then_some(()) }).await.unwrap();
    assert_eq!(rig.seen("dev").since, switched.since);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_websocket_passes_in_both_directions() {
    let Some(rig) = Rig::start().await else { return };
    let dev = Backend::start("dev").await;
    rig.no_route("test");
    rig.route("dev", "c-dev", dev.address);
    rig.serves("dev", "c-dev").await;
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, rig.http)).await.unwrap();
    let upgrade =
        "GET /ws HTTP/1.1\r\nHost: dev.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    stream.write_all(upgrade.as_bytes()).await.unwrap();
    let mut head = vec![0; 12];
    stream.read_exact(&mut head).await.unwrap();
    assert_eq!(head, b"HTTP/1.1 101");
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    for word in ["hello", "again"] {
        stream.write_all(word.as_bytes()).await.unwrap();
        let mut back = [0; 5];
        stream.read_exact(&mut back).await.unwrap();
        assert_eq!(&back, word.as_bytes());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_proxy_serves_its_own_error_pages() {
    let Some(rig) = Rig::start().await else { return };
    let dev = Backend::start("dev").await;
    rig.no_route("test");
    rig.route("dev", "c-dev", dev.address);
    rig.serves("dev", "c-dev").await;
    let none = get(rig.ports[1], "any", "/").await;
    assert_eq!(none.status, 503, "{none:?}");
    assert!(none.head.contains("Retry-After: 5") && none.body.contains("test is not available"), "{none:?}");
    assert!(none.head.contains("text/html"), "{none:?}");
    drop(dev);
    let gone = eventually("the program ends", || async {
        Some(rig.by_name("dev.example").await).filter(|answer| answer.status != 200)
    });
    let gone = gone.await.unwrap();
    assert_eq!(gone.status, 502, "{gone:?}");
    assert!(gone.head.contains("Retry-After: 5") && gone.body.contains("dev does not answer"), "{gone:?}");
    // The front does not report its configuration to others, and here this host comes under another name.
    let response = get(rig.http, render::SELF, "/").await;
    assert_eq!(response.status, 404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_are_counted_by_environment_also_after_a_restart() {
    let Some(mut rig) = Rig::start().await else { return };
    let dev = Backend::start("dev").await;
    rig.route("dev", "c-dev", dev.address);
    rig.no_route("test");
    rig.serves("dev", "c-dev").await;
    let brew = "BREW / HTTP/1.0\r\nHost: dev.example\r\n\r\n";
    let count = |rig: &Rig, line: &str| {
        let text = rig.metrics.render(MetricSnapshot::default()).unwrap();
        let found = text.lines().find_map(|found| found.strip_prefix(line)?.strip_prefix(' '));
        found.map_or(0, |count| count.parse::<u64>().unwrap())
    };
    let line = |environment: &str, method: &str, status: u16| {
        format!(
            "abide_http_requests_total{{environment=\"{environment}\",method=\"{method}\",status=\"{status}\"}}"
        )
    };
    // The first configuration of a new container counts nothing, and the next one follows at once.
    let counted = eventually("a request is counted", || async {
        rig.by_name("dev.example").await;
        (count(&rig, &line("dev", "GET", 200)) > 0).then_some(())
    });
    counted.await.unwrap();
    let before = read(&rig, &format!("/{FOLDER}/nginx.conf")).unwrap();

    rig.crash();
    for _ in 0..20 {
        assert_eq!(rig.by_name("dev.example").await.status, 200, "nobody receives the records");
    }
    rig.begin();
    rig.route("dev", "c-dev", dev.address);
    rig.no_route("test");
    rig.serves("dev", "c-dev").await;
    exchange(rig.ports[0], brew).await.unwrap();
    get(rig.ports[1], "any", "/").await;
    let expected = [line("dev", "OTHER", 200), line("test", "GET", 503)];
    let counted = eventually("both are counted", || async {
        expected.iter().all(|line| count(&rig, line) == 1).then_some(())
    });
    counted.await.unwrap();
    assert_eq!(
        count(&rig, "abide_http_request_duration_seconds_count{environment=\"test\",status=\"5xx\"}"),
        1
    );
    let recent = rig.metrics.recent_requests(&name("test"), crate::controller::clock::now()).unwrap();
    assert_eq!((recent.count, recent.failed), (1, 1));
    assert_eq!(read(&rig, &format!("/{FOLDER}/nginx.conf")).unwrap(), before, "a restart needs no reload");
    let log = Command::new("docker").args(["logs", rig.container()]).output().unwrap();
    let log = String::from_utf8_lossy(&log.stderr).into_owned();
    assert!(!log.contains("send() failed"), "{log}");
}
