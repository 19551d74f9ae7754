//! The page below a path of a public URL with HTTPS: behind abide's own proxy, and behind an nginx of the user.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use super::{LIVE, login_link, sign_in_with, token};
use crate::common::{Browser, PATIENCE, Scene, Space, eventually, free_ports, request};

/// The host name of the page.
const HOST: &str = "ci.example";

/// Makes a self-signed certificate for the page's host, and returns the paths of it and its key.
fn certificate(dir: &Path) -> [String; 2] {
    let paths = ["page.crt", "page.key"].map(|name| dir.join(name).to_str().unwrap().to_owned());
    let mut openssl = Command::new("openssl");
    openssl.args([
        "req",
        "-x509",
        "-days",
        "2",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
    ]);
    openssl.args(["-subj", "/CN=ci.example", "-addext", "subjectAltName=DNS:ci.example"]);
    openssl.args(["-out", &paths[0], "-keyout", &paths[1]]).stderr(Stdio::null());
    assert!(openssl.status().unwrap().success());
    paths
}

/// Sends a request by the page's host name and returns the head of the answer in lower case.
fn head(scheme: &str, port: u16, path: &str, arguments: &[&str]) -> String {
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--insecure", "--max-time", "20", "--output", "/dev/null", "--dump-header", "-"]);
    curl.args(["--resolve", &format!("{HOST}:{port}:127.0.0.1")]).args(arguments);
    let output = curl.arg(format!("{scheme}://{HOST}:{port}{path}")).output().unwrap();
    String::from_utf8(output.stdout).unwrap().to_ascii_lowercase()
}

/// The status in the head of an answer.
fn status(head: &str) -> u16 {
    head.split_whitespace().nth(1).and_then(|status| status.parse().ok()).unwrap_or(0)
}

/// Holds dev by the form of the page, as a request with these headers.
fn hold(port: u16, cookie: &str, headers: &[&str]) -> u16 {
    let mut arguments = vec!["--cookie", cookie, "--data", "reason=by+a+request&seen=1"];
    arguments.extend(headers.iter().flat_map(|header| ["--header", header]));
    status(&head("https", port, "/abide/environments/dev/hold", &arguments))
}

/// A visitor signs in, follows a push, holds dev, and signs out; the page keeps every rule on the way.
fn is_a_safe_page_that_is_live(scene: Scene, browser: &Browser, https: u16) {
    let root = format!("https://{HOST}:{https}/abide");
    let link = login_link(&scene);
    assert!(link.starts_with(&format!("{root}/login#code=")), "{link}");
    browser.open(&link);
    browser.until("the board is live", LIVE, |text| text == "Live");
    let [cookie] = <[Value; 1]>::try_from(browser.cookies()).unwrap();
    for (key, expected) in [
        ("name", Value::from("__Secure-abide")),
        ("path", "/abide/".into()),
        ("secure", true.into()),
        ("httpOnly", true.into()),
        ("sameSite", "Lax".into()),
    ] {
        assert_eq!(cookie[key], expected, "{key}");
    }
    let cookie = format!("__Secure-abide={}", cookie["value"].as_str().unwrap());
    let strays = browser.script(
        "return [...document.querySelectorAll('[href], [src], form')].map((one) => one.getAttribute('href') ?? \
         one.getAttribute('src') ?? one.getAttribute('action')).filter((url) => !/^(#|\\/abide\\/|https?:)/.test(url))",
    );
    assert_eq!(strays, Value::Array(Vec::new()), "a link leads out of the path");

    browser.script("window.isTheSamePage = true");
    let commit = scene.deploy("dev", "dev", "a page behind a proxy");
    browser.until("the push is on the open page", ".env", |text| text.contains(&commit[..7]));
    assert_eq!(browser.script("return window.isTheSamePage"), true, "the page was loaded anew");

    keeps_strangers_out(&scene, https, &cookie);

    browser.open(&format!("{root}/environments/dev"));
    browser.unfold("#hold-fold");
    browser.fill("#hold input[name=reason]", "held through the proxy");
    browser.click("#hold button");
    scene.until("dev is held", "dev", |view| view["held"]["reason"] == "held through the proxy");
    assert!(browser.url().starts_with(&format!("{root}/environments/dev?")), "{}", browser.url());

    let scene = outlives_a_restart(scene, browser);
    browser.click("header form button");
    browser.until("the visitor is signed out", "[role=status]", |text| text.contains("signed out"));
    assert_eq!(browser.cookies(), Vec::<Value>::new());
    assert_eq!(status(&head("https", https, "/abide/", &["--cookie", &cookie])), 303, "the session lives on");
    browser.open(&format!("{root}/environments/dev"));
    sign_in_with(browser, &token(&scene, "admin", "ops"));
    browser.until("the page of the link is shown", "h1", |text| text == "dev");
    assert_eq!(browser.url(), format!("{root}/environments/dev"));
    assert_eq!(browser.errors(), Vec::<String>::new());
}

fn keeps_strangers_out(scene: &Scene, https: u16, cookie: &str) {
    let stranger = head("https", https, "/abide/environments/dev", &[]);
    assert_eq!(status(&stranger), 303);
    assert!(stranger.contains("location: /abide/login?next=%2fenvironments%2fdev"), "{stranger}");
    for line in [
        "content-security-policy: default-src 'none'",
        "strict-transport-security: max-age=63072000",
        "x-content-type-options: nosniff",
        "referrer-policy: same-origin",
        "cross-origin-opener-policy: same-origin",
        "cross-origin-resource-policy: same-origin",
        "cache-control: no-store",
    ] {
        assert_eq!(stranger.matches(line).count(), 1, "{line}: {stranger}");
    }
    let forged = ["--header", "X-Forwarded-Host: evil.example", "--header", "X-Forwarded-Prefix: /evil"];
    assert_eq!(head("https", https, "/abide/", &forged).matches("evil").count(), 0);
    let api = head("https", https, "/abide/api/v1/environments", &["--cookie", cookie]);
    assert_eq!(status(&api), 401, "the cookie opens the API");

    let own = format!("Origin: https://{HOST}:{https}");
    for foreign in [
        vec!["Sec-Fetch-Site: same-site", own.as_str()],
        vec!["Sec-Fetch-Site: cross-site", own.as_str()],
        vec!["Origin: https://evil.example"],
        vec!["Origin: https://ci.example"],
        vec![],
    ] {
        assert_eq!(hold(https, cookie, &foreign), 403, "{foreign:?}");
    }
    assert!(scene.view("dev")["held"].is_null());
    // The form is stale, so it gets as far as the record and changes nothing.
    for own in [["Sec-Fetch-Site: same-origin", &own].as_slice(), &[own.as_str()]] {
        assert_eq!(hold(https, cookie, own), 409, "{own:?}");
    }
    let (status, _) = request(scene.daemon.port(), "GET", "/", &[("Host", "evil.example")], b"").unwrap();
    assert_ne!(status, 200, "the daemon answers to any name");
}

/// The page notices that the daemon is gone, and goes on with the same session once it is back.
pub(super) fn outlives_a_restart(scene: Scene, browser: &Browser) -> Scene {
    browser.until("the page is live", LIVE, |text| text == "Live");
    let Scene { daemon, site, space } = scene;
    let listen = format!("127.0.0.1:{}", daemon.port());
    assert!(daemon.terminate().success());
    browser.until("the page says that it is cut off", LIVE, |text| text == "Not live");
    let daemon = site.daemon_at(&listen);
    browser.until("the page is live again", LIVE, |text| text == "Live");
    Scene { daemon, site, space }
}

#[test]
fn the_managed_proxy_serves_the_page_on_a_name_that_it_shares_with_an_environment() {
    let Some(browser) = Browser::start() else { return };
    let Some(space) = Space::new() else { return };
    let [https] = free_ports();
    let [chain, key] = certificate(space.dir());
    let scene = Scene::fronted_with(space, &["dev"], |manifest, _| {
        let shared =
            manifest.replace("hostname = \"dev.example\"", "hostnames = [\"dev.example\", \"ci.example\"]");
        format!(
            "{shared}https = {https}\ncertificate = \"{chain}\"\nkey = \"{key}\"\n[page]\n\
             url = \"https://{HOST}:{https}/abide\"\nfront = true\n"
        )
    });
    let Some((scene, http)) = scene else { return };
    scene.ready("dev");
    eventually("the proxy serves the page", PATIENCE, || {
        status(&head("https", https, "/abide/login", &[])) == 200
    });
    assert_eq!(status(&head("https", https, "/", &[])), 200, "the environment keeps the rest of the name");
    let page = format!("location: https://{HOST}:{https}/abide/");
    for (scheme, port, path) in
        [("http", http, "/abide/"), ("http", http, "/abide"), ("https", https, "/abide")]
    {
        let moved = head(scheme, port, path, &[]);
        assert_eq!(status(&moved), 308, "{moved}");
        assert!(moved.lines().any(|line| line == page), "{moved}");
    }
    assert_eq!(
        status(&head("http", http, "/abide/login", &["--data", "token=x"])),
        308,
        "it takes no secret"
    );
    is_a_safe_page_that_is_live(scene, &browser, https);
}

#[test]
fn a_page_with_a_name_of_its_own_is_served_without_tls_too() {
    let Some(browser) = Browser::start() else { return };
    let Some(space) = Space::new() else { return };
    let scene = Scene::fronted_with(space, &["dev"], |manifest, http| {
        format!("{manifest}[page]\nurl = \"http://{HOST}:{http}\"\nfront = true\n")
    });
    let Some((scene, http)) = scene else { return };
    scene.ready("dev");
    eventually("the proxy serves the page", PATIENCE, || status(&head("http", http, "/login", &[])) == 200);
    browser.open(&login_link(&scene));
    browser.until("the board is live", LIVE, |text| text == "Live");
    assert_eq!(browser.url(), format!("http://{HOST}:{http}/"));
    let [cookie] = <[Value; 1]>::try_from(browser.cookies()).unwrap();
    assert_eq!((&cookie["name"], &cookie["path"]), (&"abide_session".into(), &"/".into()));
}

/// An nginx of the user, until it is dropped.
struct UserNginx(Child);

impl UserNginx {
    /// Starts it with the location that the manual recommends.
    fn start(dir: &Path, https: u16, [chain, key]: &[String; 2], daemon: u16) -> Self {
        let dir = dir.join("nginx");
        std::fs::create_dir(&dir).unwrap();
        let place = dir.display();
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|kind| format!("{kind}_temp_path {place}/{kind};\n"))
            .concat();
        let configuration = format!(
            "daemon off;\nmaster_process off;\npid {place}/pid;\nerror_log {place}/log;\nevents {{}}\nhttp {{\n\
             access_log off;\n{temporary}server {{\nlisten 127.0.0.1:{https} ssl http2;\nserver_name {HOST};\n\
             ssl_certificate {chain};\nssl_certificate_key {key};\nlocation /abide/ {{\n\
             proxy_pass http://127.0.0.1:{daemon}/;\nproxy_set_header Host $http_host;\nproxy_http_version 1.1;\n\
             proxy_read_timeout 1h;\n}}\n}}\n}}\n"
        );
        let file = dir.join("nginx.conf");
        std::fs::write(&file, configuration).unwrap();
        Self(Command::new("/usr/sbin/nginx").arg("-c").arg(file).stderr(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for UserNginx {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn an_nginx_of_the_user_serves_the_page_below_a_path() {
    let Some(browser) = Browser::start() else { return };
    let [https] = free_ports();
    let scene = Scene::new(&["dev"], |manifest| {
        format!("{manifest}[page]\nurl = \"https://{HOST}:{https}/abide\"\n")
    });
    let Some(scene) = scene else { return };
    scene.ready("dev");
    let pair = certificate(scene.space.dir());
    let _nginx = UserNginx::start(scene.space.dir(), https, &pair, scene.daemon.port());
    eventually("nginx serves the page", PATIENCE, || {
        status(&head("https", https, "/abide/login", &[])) == 200
    });
    is_a_safe_page_that_is_live(scene, &browser, https);
}
