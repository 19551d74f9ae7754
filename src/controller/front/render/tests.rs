//! Rendered configurations, as nginx reads them.

use super::*;
use crate::controller::front::site::{FrontFile, Site, SiteFileNames};
use crate::model::front::{CanaryRoute, Route};
use crate::model::listener::DaemonListener;
use crate::model::name::{EnvironmentName, Generation};
use crate::model::site::{HeaderText, ResponseHeader, SitePath, SiteSettings};
use crate::model::spec::HttpsMode;

fn layout() -> Layout {
    Layout {
        record: "0123".to_owned(),
        http: 80,
        tls: None,
        thumbprint: None,
        version: Some(NginxVersion(1, 22, 1)),
        drain: Duration::from_secs(30),
        has_ipv6: true,
        refused: BTreeSet::new(),
        trusted_proxies: Vec::new(),
        proxy_protocol: false,
        requests: None,
        page: None,
        changes: 0,
    }
}

fn site(hostname: Option<&str>, publish: Option<Publish>, route: Option<&str>) -> Site {
    Site {
        hostnames: hostname.map(|name| SiteName::new(name).unwrap()).into_iter().collect(),
        https: None,
        settings: SiteSettings::default(),
        files: SiteFileNames::default(),
        maintenance: false,
        publish,
        replica_of: None,
        is_service: false,
        route: route.map(|address| Route::to_container("c0ffee", address.parse().unwrap())),
    }
}

fn three() -> Sites {
    let port = |port| Some(Publish { address: None, port });
    let local = Some(Publish { address: Some(Ipv4Addr::LOCALHOST.into()), port: 8099 });
    [
        ("dev", site(Some("dev.keepwork.com"), port(8900), Some("172.18.0.2:8900"))),
        ("prod", site(Some("keepwork.com"), None, None)),
        ("test", site(None, local, Some("172.18.0.3:8099"))),
    ]
    .into_iter()
    .map(|(name, site)| (EnvironmentName::new(name).unwrap(), site))
    .collect()
}

/// If set, the test overwrites the expected files with the rendered ones.
const RENEW: &str = "ABIDE_RENEW_GOLDEN";

#[track_caller]
fn is_golden(name: &str, layout: &Layout, sites: &Sites) {
    let path = format!("{}/src/controller/front/golden/{name}.conf", env!("CARGO_MANIFEST_DIR"));
    let rendered = Configuration::render(layout, sites).text;
    if std::env::var_os(RENEW).is_some() {
        std::fs::write(&path, &rendered).unwrap();
    }
    assert_eq!(rendered, std::fs::read_to_string(&path).unwrap(), "{RENEW}=1 writes {path} anew");
}

#[test]
fn three_environments_are_served_by_name_and_by_port() {
    is_golden("plain", &layout(), &three());
}

#[test]
fn host_names_are_served_over_tls_too() {
    let tls = TlsLayout { port: 443, default: Some("tls-77".to_owned()), by_name: BTreeMap::new() };
    is_golden("tls", &Layout { tls: Some(tls), ..layout() }, &three());
}

fn pair(pair: &str, is_trusted: bool) -> NamedPair {
    NamedPair { pair: pair.to_owned(), is_trusted }
}

fn names(texts: &[&str]) -> Vec<SiteName> {
    texts.iter().map(|text| SiteName::new(*text).unwrap()).collect()
}

#[test]
fn names_are_redirected_to_https_only_with_a_trusted_certificate() {
    let mut sites = three();
    let [dev, prod, test] = ["dev", "prod", "test"].map(|name| EnvironmentName::new(name).unwrap());
    sites.get_mut(&dev).unwrap().hostnames = names(&["a.example", "b.example", "*.c.example"]);
    sites.get_mut(&prod).unwrap().https = Some(HttpsMode::Optional);
    sites.get_mut(&test).unwrap().hostnames = names(&["stand-in.example"]);
    let by_name = [
        ("a.example", pair("tls-1", true)),
        ("b.example", pair("tls-1", true)),
        ("*.c.example", pair("tls-2", true)),
        ("keepwork.com", pair("tls-3", true)),
        ("stand-in.example", pair("tls-4", false)),
    ];
    let by_name = by_name.map(|(name, pair)| (SiteName::new(name).unwrap(), pair)).into();
    let tls = TlsLayout { port: 8443, default: None, by_name };
    let thumbprint = Some("6XgtThumb_-".to_owned());
    let layout = Layout { tls: Some(tls), thumbprint, version: Some(NginxVersion(1, 27, 0)), ..layout() };
    is_golden("acme", &layout, &sites);
}

#[test]
fn a_default_certificate_redirects_only_if_https_is_required() {
    let tls = TlsLayout { port: 443, default: Some("tls-77".to_owned()), by_name: BTreeMap::new() };
    let layout = Layout { tls: Some(tls), ..layout() };
    let mut sites = three();
    assert!(!Configuration::render(&layout, &sites).text.contains("return 308"));
    let prod = EnvironmentName::new("prod").unwrap();
    sites.get_mut(&prod).unwrap().https = Some(HttpsMode::Required);
    let text = Configuration::render(&layout, &sites).text;
    assert_eq!(text.matches("return 308 https://$host$request_uri;").count(), 1, "{text}");
    assert_eq!(text.matches("add_header Strict-Transport-Security").count(), 1, "{text}");
}

#[test]
fn trusted_proxies_determine_the_client_address() {
    let trusted_proxies = ["10.0.0.0/8", "fd00::7/128"].map(|network| network.parse().unwrap()).into();
    is_golden("trusted", &Layout { trusted_proxies, ..layout() }, &three());
}

#[test]
fn replicas_share_one_server_and_others_have_their_own() {
    let mut sites = three();
    let first = EnvironmentName::new("dev").unwrap();
    let of = crate::model::name::GroupName::new("web").unwrap();
    let site = Site { replica_of: Some(of), ..sites.remove(&first).unwrap() };
    for (slot, route) in [("web-1", Some(2)), ("web-2", Some(7)), ("web-3", None)] {
        let address = |last| format!("172.18.0.{last}:8900").parse().unwrap();
        let route = route.map(|last| Route::to_container("c0ffee", address(last)));
        let mut site = Site { route, ..site.clone() };
        site.settings.sticky = true;
        sites.insert(EnvironmentName::new(slot).unwrap(), site);
    }
    is_golden("replicas", &layout(), &sites);
}

/// Site `dev` below a path, whose program gets the rest of it, with a canary.
fn with_canary(percent: u64) -> Sites {
    let mut sites = three();
    let dev = sites.get_mut(&EnvironmentName::new("dev").unwrap()).unwrap();
    dev.settings.path = Some("/shop".parse().unwrap());
    dev.settings.strip_path = true;
    dev.route.as_mut().unwrap().canary = Some(canary(percent));
    sites
}

fn canary(percent: u64) -> CanaryRoute {
    CanaryRoute {
        container: "cafe".to_owned(),
        address: "172.18.0.9:8900".parse().unwrap(),
        percent: percent.try_into().unwrap(),
        generation: Generation(7),
    }
}

#[test]
fn a_canary_shares_the_requests_by_a_cookie_and_its_requests_name_it() {
    let sink = RequestSink { address: "127.0.0.1:514".parse().unwrap(), token: "70ce".to_owned() };
    is_golden("canary", &Layout { requests: Some(sink), ..layout() }, &with_canary(10));
}

#[test]
fn the_replicas_of_a_service_share_one_server() {
    let mut sites = three();
    let prod = EnvironmentName::new("prod").unwrap();
    let replicas = ["10.0.0.11:32768", "10.0.0.12:32768"].map(|address| address.parse().unwrap());
    let site = sites.get_mut(&prod).unwrap();
    (site.is_service, site.route) = (true, Route::to_service("c0ffee", &replicas));
    let text = Configuration::render(&layout(), &sites).text;
    let servers = replicas.map(|address| format!("        server {address} max_fails=0;\n")).concat();
    assert!(text.contains(&format!("least_conn;\n{servers}    }}")), "{text}");
    assert!(
        text.contains("proxy_pass http://abide-prod;") && text.contains("proxy_next_upstream "),
        "{text}"
    );
    // One replica is a pool too, so that a request does not wait long for a lost node.
    sites.get_mut(&prod).unwrap().route = Route::to_service("c0ffee", &replicas[..1]);
    assert!(Configuration::render(&layout(), &sites).text.contains("upstream abide-prod {"));
    sites.get_mut(&prod).unwrap().route = None;
    let closed = Configuration::render(&layout(), &sites);
    assert!(!closed.text.contains("upstream"), "{}", closed.text);
    assert_eq!(Configuration::read(&closed.text), Some(closed));
}

#[test]
fn a_proxy_that_forwards_connections_sends_the_client_address_first() {
    let tls = TlsLayout { port: 443, default: Some("tls-77".to_owned()), by_name: BTreeMap::new() };
    let trusted_proxies = vec!["10.0.0.0/8".parse().unwrap()];
    let layout = Layout { tls: Some(tls), trusted_proxies, proxy_protocol: true, ..layout() };
    is_golden("connections", &layout, &three());
    let rendered = Configuration::render(&layout, &three());
    assert!(Configuration::read(&rendered.text).unwrap().has_proxy_header);
}

#[test]
fn only_the_refused_listen_sockets_are_left_out() {
    let refused = ["0.0.0.0:80", "[::]:80", "0.0.0.0:8900"].map(|socket| socket.parse().unwrap());
    let layout = Layout { refused: refused.into(), ..layout() };
    let rendered = Configuration::render(&layout, &three());
    assert!(!rendered.text.contains("listen 0.0.0.0:"), "{}", rendered.text);
    assert!(rendered.text.contains("listen [::]:8900 default_server;"));
    assert_eq!(rendered.asked_at, Some("[::1]:8900".parse().unwrap()), "it is asked where it listens");
    let servers = rendered.text.matches("    server {").count();
    assert_eq!(servers, 3, "a server without a socket would listen on port 80:\n{}", rendered.text);
}

#[test]
fn a_proxy_without_listening_sockets_is_not_probed() {
    let refused = ["0.0.0.0:80", "[::]:80"].map(|socket| socket.parse().unwrap());
    let rendered = Configuration::render(&Layout { refused: refused.into(), ..layout() }, &Sites::new());
    assert_eq!((rendered.asked_at, rendered.text.contains("listen ")), (None, false));
}

#[test]
fn the_hash_covers_the_routes_and_the_file_their_containers() {
    let rendered = Configuration::render(&layout(), &three());
    assert!(rendered.text.contains(&format!("return 200 '{}';", rendered.hash)));
    assert_eq!(Configuration::read(&rendered.text), Some(rendered.clone()));
    let mut renewed = three();
    let dev = EnvironmentName::new("dev").unwrap();
    renewed.get_mut(&dev).unwrap().route.as_mut().unwrap().container = "another".to_owned();
    let renewed = Configuration::render(&layout(), &renewed);
    assert!(renewed.text != rendered.text && renewed.reads_as(&rendered.text), "nginx need not hear of it");
    let put_right = Configuration::render(&Layout { changes: 1, ..layout() }, &three());
    assert!(put_right.hash != rendered.hash && !put_right.reads_as(&rendered.text));
    assert!(rendered.is_unedited() && put_right.is_unedited());
    let edited = Configuration::read(&put_right.text.replace("dev.keepwork.com", "hacked.example"));
    assert!(!edited.unwrap().is_unedited(), "somebody edited it");
    assert_eq!(Configuration::read(&put_right.text), Some(put_right));
    let mut moved = three();
    moved.get_mut(&dev).unwrap().route = None;
    let moved = Configuration::render(&layout(), &moved);
    assert!(moved.hash != rendered.hash && !moved.reads_as(&rendered.text));
    assert_eq!(Configuration::read("events {}\n# sites nonsense\n"), None);
}

/// A site with settings, by the manifest's own reader.
fn with_settings(lines: &str) -> Sites {
    let text = format!(
        "[front]\n[environment.dev]\ncontainer = \"dev-server\"\nport = 8900\nhostnames = [\"a.example\", \"*.b.example\"]\n\
         [environment.dev.site]\n{lines}"
    );
    let file = crate::model::manifest::SourceFile { name: "m.toml".to_owned(), text };
    let manifest = crate::model::manifest::parse(&[file]).unwrap();
    let route = Route::to_container("c0ffee", "172.18.0.2:8900".parse().unwrap());
    let site = |spec| Site::of(spec, Some(route.clone())).unwrap();
    manifest.environments.iter().map(|(name, spec)| (name.clone(), site(spec))).collect()
}

const EVERYTHING: &str = r#"
    redirect_from = ["www.a.example"]
    max_body = "10MiB"
    timeout = "90s"
    gzip = true
    access_log = true
    basic_auth = { secret_file = "/etc/abide/users", realm = "a $b; {}" }
    allow = ["10.0.0.0/8", "fd00::/8"]
    deny = ["10.0.0.7"]
    rate_limit = { rate = "10/s", burst = 50 }
    headers = { X-Frame-Options = "DENY", X-Powered-By = "", Content-Security-Policy = "script-src 'nonce-$x'; \\ \"" }
    error_pages = { 502 = "/etc/abide/sorry.html", 413 = "/etc/abide/sorry.html" }
"#;

fn everything() -> Sites {
    let mut sites = with_settings(EVERYTHING);
    for site in sites.values_mut() {
        site.files.users = Some(FrontFile::new("users-1").unwrap());
        let page = FrontFile::new("page-1").unwrap();
        site.files.pages = site.settings.error_pages.keys().map(|status| (*status, page.clone())).collect();
    }
    sites
}

#[test]
fn site_settings_apply_to_every_server_block_of_the_site() {
    let sink = RequestSink { address: "127.0.0.1:514".parse().unwrap(), token: "70ce".to_owned() };
    is_golden("site", &Layout { requests: Some(sink), ..layout() }, &everything());
}

#[test]
fn environments_share_a_name_by_path() {
    let mut sites = three();
    let [dev, prod] = ["dev", "prod"].map(|name| EnvironmentName::new(name).unwrap());
    sites.get_mut(&dev).unwrap().hostnames = names(&["keepwork.com", "api.example"]);
    let settings = &mut sites.get_mut(&dev).unwrap().settings;
    settings.path = Some("/api/v1".parse().unwrap());
    settings.strip_path = true;
    sites.get_mut(&prod).unwrap().settings.redirect_from = names(&["www.keepwork.com"]);
    let by_name = [("keepwork.com", pair("tls-1", true)), ("www.keepwork.com", pair("tls-2", true))];
    let by_name = by_name.map(|(name, pair)| (SiteName::new(name).unwrap(), pair)).into();
    let tls = Some(TlsLayout { port: 443, default: None, by_name });
    is_golden("paths", &Layout { tls, thumbprint: Some("6Xgt".to_owned()), ..layout() }, &sites);
}

/// The web page at a URL, with a daemon at a usual address.
fn served_page(url: &str) -> Option<ServedPage> {
    let environment = "[environment.dev]\ncontainer = \"dev-server\"\nport = 8900\n";
    let front = "[front]\ntrusted_proxies = [\"10.0.0.7\"]\n";
    let text = format!("[page]\nurl = \"{url}\"\nfront = true\n{front}{environment}");
    let file = crate::model::manifest::SourceFile { name: "m.toml".to_owned(), text };
    let manifest = crate::model::manifest::parse(&[file]).unwrap();
    let listener = DaemonListener { address: "0.0.0.0:8080".parse().unwrap(), is_tls: false };
    ServedPage::of(&manifest, Some(listener))
}

#[test]
fn the_web_page_shares_a_name_with_an_environment_and_needs_https() {
    let by_name = BTreeMap::from([(SiteName::new("keepwork.com").unwrap(), pair("tls-1", false))]);
    let tls = Some(TlsLayout { port: 443, default: None, by_name });
    let page = served_page("https://keepwork.com/abide");
    is_golden("page", &Layout { tls, page, ..layout() }, &three());
}

#[test]
fn a_web_page_with_a_name_of_its_own_has_a_server_of_its_own() {
    let page = served_page("http://ci.example");
    let rendered = Configuration::render(&Layout { page, ..layout() }, &Sites::new()).text;
    let server = rendered.split("# the web page of abide\n").nth(1).unwrap();
    assert!(server.contains("server_name ci.example;"), "{server}");
    assert!(server.contains("location / {\n            error_page 502 504 @abide-page;\n"), "{server}");
    assert!(server.contains("proxy_pass http://127.0.0.1:8080;"), "{server}");
    assert!(!server.contains("308"), "it has no HTTPS to redirect to:\n{server}");
}

#[test]
fn a_site_with_unreadable_passwords_returns_503() {
    let sites = with_settings("basic_auth = { secret_file = \"/etc/abide/users\" }");
    let text = Configuration::render(&layout(), &sites).text;
    assert!(!text.contains("proxy_pass") && text.contains("return 503 "), "{text}");
}

/// The words and the structure of a configuration, as nginx reads them.
fn tokens(text: &str) -> Vec<String> {
    let (mut tokens, mut word, mut quote) = (Vec::new(), None::<String>, None);
    let mut all = text.chars().peekable();
    while let Some(c) = all.next() {
        match (c, quote) {
            ('\\', _) => word.get_or_insert_default().extend(all.next()),
            (c, Some(open)) if c == open => quote = None,
            (c, Some(_)) => word.get_or_insert_default().push(c),
            ('#', None) if word.is_none() => while all.next_if(|c| *c != '\n').is_some() {},
            ('"' | '\'', None) if word.is_none() => {
                word = Some(String::new());
                quote = Some(c);
            }
            ('$', None) if all.peek() == Some(&'{') => word.get_or_insert_default().push(c),
            ('{', None) if word.as_ref().is_some_and(|word| word.ends_with('$')) => {
                word.get_or_insert_default().push(c);
            }
            (c, None) if c.is_whitespace() || ";{}".contains(c) => {
                tokens.extend(word.take());
                if !c.is_whitespace() {
                    tokens.push(format!("<{c}>"));
                }
            }
            (c, None) => word.get_or_insert_default().push(c),
        }
    }
    tokens
}

proptest::proptest! {
    #![proptest_config(proptest::test_runner::Config { cases: 300, failure_persistence: None, ..Default::default() })]

    /// Whatever a value has, the configuration keeps its directives: the value is one word of it.
    #[test]
    fn no_value_becomes_a_directive(
        header in "[ -~]{0,40}", realm in "[ -~]{1,30}", path in "/[ -~]{1,20}", name in "[ -~]{1,20}",
    ) {
        let mut sites = everything();
        let plain = tokens(&Configuration::render(&layout(), &everything()).text);
        let mut expected = plain.len();
        let site = sites.values_mut().next().unwrap();
        let csp = "Content-Security-Policy".parse().unwrap();
        site.settings.headers.insert(csp, HeaderText::new(header.clone()).unwrap());
        if header.is_empty() {
            // Each of the answers, its pages and its programs has one of five words less.
            expected -= plain.iter().filter(|word| *word == "Content-Security-Policy").count() / 2 * 5;
        }
        if let Ok(realm) = realm.parse() {
            site.settings.basic_auth.as_mut().unwrap().realm = realm;
        }
        if let Ok(path) = path.parse::<SitePath>() {
            let is_special = path.as_str().contains([';', '{', '}', '"', '\'', '\\', '$', ' ', '#']);
            proptest::prop_assert!(!is_special, "{}", path);
        }
        if let Ok(name) = name.parse::<ResponseHeader>() {
            let is_plain = name.as_str().bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
            proptest::prop_assert!(is_plain, "{}", name);
        }
        let found = tokens(&Configuration::render(&layout(), &sites).text);
        // Without a dollar sign, the variable for it is left out.
        let dollar = if has_dollar(&sites) { 0 } else { 7 };
        proptest::prop_assert_eq!(found.len() + dollar, expected, "{:?} {:?}", header, realm);
    }
}

fn has_dollar(sites: &Sites) -> bool {
    sites.values().any(|site| location::has_dollar(&site.settings))
}

/// Tests a configuration that serves names only, with nginx itself if it is installed here.
#[track_caller]
fn nginx_accepts(sites: &Sites) {
    if std::process::Command::new("/usr/sbin/nginx").arg("-v").output().is_err() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let layout = Layout { http: port, has_ipv6: false, ..layout() };
    let text = Configuration::render(&layout, sites).text;
    let text = text.replace(&format!("/{FOLDER}"), folder.path().to_str().unwrap());
    let file = folder.path().join("nginx.conf");
    std::fs::write(&file, text).unwrap();
    let tested =
        std::process::Command::new("/usr/sbin/nginx").args(["-t", "-c"]).arg(&file).output().unwrap();
    assert!(tested.status.success(), "{}", String::from_utf8_lossy(&tested.stderr));
}

/// nginx itself accepts a configuration full of hostile texts, and reads back each of them.
#[test]
fn the_real_nginx_reads_hostile_values_as_values() {
    let hostile = [
        "; deny all; #",
        "\" ; }",
        "\\",
        "\\\"",
        "${remote_addr}",
        "$$",
        "' {",
        "a\\nb",
        "#",
        "}",
        "off",
        "~*x",
    ];
    let mut sites = everything();
    sites.values_mut().next().unwrap().route.as_mut().unwrap().canary = Some(canary(99));
    let settings = &mut sites.values_mut().next().unwrap().settings;
    for (index, text) in hostile.iter().enumerate() {
        let name = format!("X-{index}").parse().unwrap();
        settings.headers.insert(name, HeaderText::new(*text).unwrap());
    }
    sites.values_mut().next().unwrap().publish = None;
    nginx_accepts(&sites);
}

/// nginx limits the length of each word, and of each key of a hash.
#[test]
fn the_real_nginx_accepts_the_longest_values() {
    let mut longest = Site { publish: None, ..everything().into_values().next().unwrap() };
    let label = "a".repeat(63);
    longest.hostnames = vec![SiteName::new(format!("{label}.{label}.{label}.{}", &label[..61])).unwrap()];
    let settings = &mut longest.settings;
    settings.path = Some(format!("/{}", "p".repeat(254)).parse().unwrap());
    settings.basic_auth.as_mut().unwrap().realm = "r".repeat(64).parse().unwrap();
    for (first, value) in [("X", "v".repeat(3000)), ("Y", "$".repeat(200))] {
        let name = format!("{first}-{}", "n".repeat(62)).parse().unwrap();
        settings.headers.insert(name, HeaderText::new(value).unwrap());
    }
    nginx_accepts(&Sites::from([(EnvironmentName::new(&label).unwrap(), longest)]));
}

/// nginx reads a comment as one word. Half of these sites share a host name by path.
#[test]
fn the_real_nginx_accepts_a_thousand_sites() {
    let everything = everything().into_values().next().unwrap();
    let sites: Sites = (0..1000)
        .map(|number| {
            let mut site = Site { publish: None, ..everything.clone() };
            let is_shared = number % 2 == 0;
            let name = if is_shared { "shared.example".to_owned() } else { format!("s{number}.example") };
            site.hostnames = vec![SiteName::new(&name).unwrap()];
            site.settings.path = is_shared.then(|| format!("/{number}").parse().unwrap());
            site.settings.redirect_from.clear();
            (EnvironmentName::new(format!("{number:0>63}")).unwrap(), site)
        })
        .collect();
    let rendered = Configuration::render(&layout(), &sites);
    let read = Configuration::read(&rendered.text).unwrap();
    assert!(read == rendered && read.is_unedited(), "the notes are on several lines");
    nginx_accepts(&sites);
}
