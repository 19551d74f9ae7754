//! Settings of sites, with the real nginx.

use super::backend::Backend;
use super::*;

/// The manifest of the rig with settings for `dev`.
fn with_site(rig: &Rig, lines: &str, more: &str) -> Arc<Manifest> {
    let (image, http, [dev, test]) = (&rig.image, rig.http, rig.ports);
    let text = format!(
        "[front]\nimage = \"{image}\"\nhttp = {http}\ndrain = \"5s\"\n{}\n\
         [environment.dev]\ncontainer = \"dev-server\"\nport = {dev}\nhostnames = [\"dev.example\"]\n\
         [environment.dev.site]\n{lines}\n\
         [environment.test]\ncontainer = \"test-server\"\nport = {test}\npublish = \"127.0.0.1:{test}\"\n{more}\n",
        rig.front_lines
    );
    Arc::new(parse(&[SourceFile { name: "m.toml".to_owned(), text }]).unwrap())
}

async fn asked(port: u16, request: &str) -> Answer {
    let sent = tokio::time::timeout(PATIENCE, exchange(port, request)).await;
    sent.unwrap().unwrap_or_else(|error| Answer { status: 0, head: String::new(), body: error.to_string() })
}

/// Polls until the answer to `GET path` fits, and workers from before a reload have stopped accepting.
async fn becomes(rig: &Rig, host: &str, path: &str, is_right: impl Fn(&Answer) -> bool) -> Answer {
    let last = Mutex::new(String::new());
    let look = || async {
        let answer = get(rig.http, host, path).await;
        let is_right = is_right(&answer);
        *last.lock().unwrap() = format!("{answer:?} {:?}", rig.front.warnings());
        (is_right && has_one_generation(rig)).then_some(answer)
    };
    eventually(path, look).await.unwrap_or_else(|why| panic!("{why}: {}", last.lock().unwrap()))
}

/// Whether no more workers accept connections than nginx runs. For 100 ms after a reload, the old ones do too.
fn has_one_generation(rig: &Rig) -> bool {
    let processes = docker(&["top", rig.container(), "-o", "pid,args"]).unwrap_or_default();
    let accepting =
        processes.lines().filter(|line| line.contains("nginx: worker process") && !line.contains("shutting"));
    accepting.count() <= std::thread::available_parallelism().unwrap().get()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_site_is_bounded_protected_and_described_as_declared() {
    let Some(rig) = Rig::start().await else { return };
    let folder = tempfile::tempdir().unwrap();
    let users = folder.path().join("users");
    let hash = hash_of("correct horse");
    std::fs::write(&users, format!("alice:{hash}\n")).unwrap();
    let sorry = folder.path().join("sorry.html");
    std::fs::write(&sorry, "<h1>sorry").unwrap();
    let dev = Backend::start("dev").await;
    rig.no_route("test");
    rig.route("dev", "c-dev", dev.address);
    rig.declare(with_site(
        &rig,
        &format!(
            "max_body = \"4B\"\nbasic_auth = {{ secret_file = {users:?}, realm = \"a $shop; {{}}\" }}\n\
             headers = {{ X-Own = \"$request_uri \\\"; return 200;\", Content-Security-Policy = \"x\" }}\n\
             error_pages = {{ 413 = {sorry:?}, 502 = {sorry:?} }}\n"
        ),
        "",
    ));
    let refused = becomes(&rig, "dev.example", "/", |answer| answer.status == 401).await;
    assert!(refused.head.contains("Basic realm=\"a $shop; {}\""), "{}", refused.head);
    // The published port is protected too.
    assert_eq!(get(rig.ports[0], "any", "/").await.status, 401);
    let alice = "Authorization: Basic YWxpY2U6Y29ycmVjdCBob3JzZQ==\r\n";
    let request = |method: &str, more: &str, body: &str| {
        format!("{method} /x HTTP/1.0\r\nHost: dev.example\r\n{alice}{more}\r\n{body}")
    };
    let good = asked(rig.http, &request("GET", "", "")).await;
    assert_eq!((good.status, good.body.lines().next()), (200, Some("dev")), "{good:?}");
    assert!(good.head.contains("X-Own: $request_uri \"; return 200;"), "{}", good.head);
    let large = asked(rig.http, &request("POST", "Content-Length: 5\r\n", "12345")).await;
    assert_eq!((large.status, large.body.as_str()), (413, "<h1>sorry"), "{large:?}");
    assert!(
        large.head.contains("Content-Security-Policy: x"),
        "its own pages have the headers: {}",
        large.head
    );
    drop(dev);
    let ends = || async {
        let gone = asked(rig.http, &request("POST", "Content-Length: 1\r\n", "1")).await;
        (gone.status != 200).then_some(gone)
    };
    let gone = eventually("the program is gone", ends).await.unwrap();
    assert_eq!((gone.status, gone.body.as_str()), (502, "<h1>sorry"), "{gone:?}");
    assert_eq!(get(rig.http, "dev.example", "/.abide-front/dev/page-x").await.status, 401);

    // An unusable file changes nothing, and is reported.
    std::fs::write(&users, "alice:$2y$12$expensive\n").unwrap();
    let warned = || async { rig.front.warnings().into_iter().find(|words| words.contains("bcrypt")) };
    let words = eventually("a warning", warned).await.unwrap();
    assert!(words.starts_with("dev: ") && !words.contains("expensive"), "{words}");
    assert_eq!(asked(rig.http, &request("GET", "", "")).await.status, 502, "alice may still come in");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn aliases_redirect_to_a_name_shared_by_path() {
    let Some(rig) = Rig::start().await else { return };
    let (dev, test) = (Backend::start("dev").await, Backend::start("test").await);
    rig.route("dev", "c-dev", dev.address);
    rig.route("test", "c-test", test.address);
    rig.declare(with_site(
        &rig,
        "redirect_from = [\"www.dev.example\"]",
        "hostname = \"dev.example\"\nsite = { path = \"/api\", strip_path = true }",
    ));
    let body = |answer: &Answer| answer.body.lines().take(2).map(str::trim).collect::<Vec<_>>().join(" ");
    let first =
        becomes(&rig, "dev.example", "/api/users?a=1", |answer| answer.body.starts_with("test")).await;
    assert_eq!(body(&first), "test GET /users?a=1 HTTP/1.1");
    for (path, expected) in [
        ("/api", "test GET / HTTP/1.1"),
        ("/api/", "test GET / HTTP/1.1"),
        ("/apiary", "dev GET /apiary HTTP/1.1"),
        ("/", "dev GET / HTTP/1.1"),
    ] {
        assert_eq!(body(&get(rig.http, "dev.example", path).await), expected);
    }
    assert_eq!(body(&get(rig.ports[1], "any", "/api/x").await), "test GET /api/x HTTP/1.1", "its own port");
    let moved = get(rig.http, "www.dev.example", "/a?b=%0d").await;
    let target = format!("Location: http://dev.example:{}/a?b=%0d", rig.http);
    assert!(moved.status == 308 && moved.head.contains(&target), "{moved:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn access_rules_use_the_address_named_by_a_trusted_proxy() {
    let Some(rig) = Rig::start_with("trusted_proxies = [\"127.0.0.1\"]").await else { return };
    let dev = Backend::start("dev").await;
    rig.no_route("test");
    rig.route("dev", "c-dev", dev.address);
    rig.declare(with_site(
        &rig,
        "allow = [\"198.51.100.0/24\"]\nrate_limit = { rate = \"1/m\", burst = 1 }",
        "",
    ));
    // The rig's own requests name 192.0.2.7.
    becomes(&rig, "dev.example", "/", |answer| answer.status == 403).await;
    let from =
        |client: &str| format!("GET / HTTP/1.0\r\nHost: dev.example\r\nX-Forwarded-For: {client}\r\n\r\n");
    let mut statuses = Vec::new();
    for client in ["198.51.100.1", "198.51.100.1", "198.51.100.1", "198.51.100.2", "203.0.113.1"] {
        statuses.push(asked(rig.http, &from(client)).await.status);
    }
    assert_eq!(statuses, [200, 200, 429, 200, 403]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn maintenance_survives_a_restart_and_does_not_stop_updates() {
    let Some(mut rig) = Rig::start().await else { return };
    let (old, new) = (Backend::start("old").await, Backend::start("new").await);
    rig.no_route("test");
    rig.route("dev", "c-old", old.address);
    rig.serves("dev", "c-old").await;
    rig.front.maintain(&name("dev"), true);
    let answer = becomes(&rig, "dev.example", "/", |answer| answer.status == 503).await;
    assert!(answer.head.contains("Retry-After: ") && answer.body.contains("under maintenance"), "{answer:?}");
    assert_eq!(get(rig.ports[0], "any", "/").await.status, 503, "its port too");
    rig.route("dev", "c-new", new.address);
    rig.serves("dev", "c-new").await;
    assert_eq!(rig.by_name("dev.example").await.status, 503);
    rig.crash();
    rig.begin();
    rig.route("dev", "c-new", new.address);
    rig.no_route("test");
    rig.serves("dev", "c-new").await;
    assert_eq!(rig.by_name("dev.example").await.status, 503, "no pass has looked at it yet");
    rig.front.maintain(&name("dev"), false);
    becomes(&rig, "dev.example", "/", |answer| answer.body.starts_with("new")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn access_logs_are_valid_json_for_hostile_requests() {
    let Some(rig) = Rig::start().await else { return };
    let dev = Backend::start("dev").await;
    rig.no_route("test");
    rig.route("dev", "c-dev", dev.address);
    rig.declare(with_site(&rig, "access_log = true\nheaders = { X-Is = \"on\" }", ""));
    becomes(&rig, "dev.example", "/", |answer| answer.head.contains("X-Is: on")).await;
    let hostile = "GET /a?\"},{ HTTP/1.0\r\nHost: dev.example\r\nUser-Agent: \"}\\ \x07\r\n\r\n";
    assert_eq!(asked(rig.http, hostile).await.status, 200);
    let logged = || async {
        let log = docker(&["logs", rig.container()])?;
        let line = log.lines().find(|line| line.contains("/a?"))?.to_owned();
        Some(
            serde_json::from_str::<serde_json::Value>(&line)
                .unwrap_or_else(|error| panic!("{error}: {line}")),
        )
    };
    let line = eventually("it is logged", logged).await.unwrap();
    assert_eq!(
        (&line["environment"], &line["status"], &line["path"]),
        (&"dev".into(), &200.into(), &"/a?\"},{".into())
    );
    assert_eq!(rig.inspect("{{index .HostConfig.LogConfig.Config \"max-size\"}}"), "10m");
}

/// A hash of a password, by this host's openssl.
fn hash_of(password: &str) -> String {
    let output = Command::new("openssl").args(["passwd", "-6", "-salt", "abide", password]).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}
