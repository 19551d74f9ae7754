//! Protection against other sites, forged headers and injected content.

use super::*;

#[tokio::test]
async fn request_headers_cannot_change_the_cookie_or_the_links() {
    let site = public("https://ci.example.com/abide");
    let (_, credential) = site.token("anna", Role::Admin, None).await;
    let ask = site.post("/login", &login_form(&credential));
    let ask = ask.with("x-forwarded-proto", "http").with("x-forwarded-host", "evil.example");
    let answer = ask.with("x-forwarded-prefix", "/evil").send().await;
    assert_eq!(answer.header("location"), "/abide/");
    assert!(answer.cookie().unwrap().starts_with("__Secure-abide="));
    let page =
        site.get("/").cookie(&answer.cookie().unwrap()).with("x-forwarded-prefix", "/evil").send().await;
    assert!(
        page.text.contains("href=\"/abide/environments/dev\"") && !page.text.contains("evil"),
        "{}",
        page.text
    );
}

#[tokio::test]
async fn a_form_from_another_site_or_port_is_rejected() {
    let site = local();
    let (_, cookie) = site.visitor("anna", Role::Admin).await;
    let post = || site.post("/logout", "").cookie(&cookie).without("sec-fetch-site");
    let refused = [
        post(),
        post().with("sec-fetch-site", "cross-site"),
        post().with("sec-fetch-site", "same-site"),
        post().with("sec-fetch-site", "same-site").with("origin", format!("http://{LOCAL}")),
        post().with("sec-fetch-site", "nonsense"),
        post().with("origin", "null"),
        post().with("origin", "http://evil.example"),
        post().with("origin", "http://abide.localhost:9090"),
        post().with("origin", "http://abide.localhost"),
        post().with("origin", LOCAL),
    ];
    for ask in refused {
        let headers = format!("{:?}", ask.headers);
        let answer = ask.send().await;
        assert_eq!(answer.status, 403, "{headers}");
        assert!(answer.text.contains("was not sent by a page of abide"), "{}", answer.text);
        assert_eq!(site.get("/").cookie(&cookie).send().await.status, 200, "{headers}");
    }
    assert_eq!(post().with("origin", format!("http://{LOCAL}")).send().await.status, 303);
}

#[tokio::test]
async fn behind_a_reverse_proxy_the_origin_must_match_the_public_url() {
    let site = public("https://ci.example.com:8443");
    let (_, credential) = site.token("anna", Role::Admin, None).await;
    let login = |origin: &str| {
        // This proxy drops the port of the host name.
        site.post("/login", &login_form(&credential)).without("sec-fetch-site").with("origin", origin)
    };
    assert_eq!(login("https://ci.example.com").send().await.status, 403);
    assert_eq!(login("http://ci.example.com:8443").send().await.status, 403);
    assert_eq!(login("https://ci.example.com:8443").send().await.status, 303);
}

#[tokio::test]
async fn no_get_request_changes_anything() {
    for route in table().iter().filter(|route| route.is_page) {
        assert!(matches!(route.method, Method::GET | Method::POST), "{}", route.path);
    }
    let site = local();
    let (_, cookie) = site.visitor("anna", Role::Admin).await;
    assert_eq!(site.get("/logout").cookie(&cookie).send().await.status, 405);
    assert_eq!(site.get("/").cookie(&cookie).send().await.status, 200);
}

#[tokio::test]
async fn every_page_has_its_security_headers() {
    let site = public("https://ci.example.com");
    let (_, cookie) = site.visitor("anna", Role::Viewer).await;
    for path in [
        "/",
        "/environments/dev",
        "/environments/nowhere",
        "/login",
        "/assets/none",
        "/activity",
        "/hosts",
        "/outbox",
        "/tokens",
        "/environments/dev/logs",
        "/environments/dev/logs.txt",
        "/environments/dev/builds",
        "/environments/dev/logs/follow",
        "/environments/dev/history",
        "/environments/dev/events",
        "/groups/shop-prod",
        "/promotions/shop-prod",
    ] {
        let answer = site.get(path).cookie(&cookie).send().await;
        let policy = answer.header("content-security-policy");
        for part in [
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
            "form-action 'self'",
            "base-uri 'none'",
            "frame-ancestors 'none'",
            "require-trusted-types-for 'script'",
        ] {
            assert!(policy.contains(part), "{path}: {part}");
        }
        assert!(!policy.contains("unsafe") && !policy.contains('*'), "{policy}");
        assert_eq!(answer.header("x-content-type-options"), "nosniff", "{path}");
        assert_eq!(answer.header("referrer-policy"), "same-origin", "{path}");
        assert_eq!(answer.header("cross-origin-opener-policy"), "same-origin", "{path}");
        assert_eq!(answer.header("cross-origin-resource-policy"), "same-origin", "{path}");
        assert_eq!(answer.header("cache-control"), "no-store", "{path}");
        assert!(answer.header("strict-transport-security").starts_with("max-age="), "{path}");
    }
    assert_eq!(local().get("/login").send().await.header("strict-transport-security"), "");
}

#[tokio::test]
async fn a_page_has_no_inline_code_and_no_external_sources() {
    let site = local();
    let (_, cookie) = site.visitor("anna", Role::Viewer).await;
    site.api.ready("dev", 2).await;
    for path in ["/", "/environments/dev", "/login", "/environments/nowhere"] {
        let text = site.get(path).cookie(&cookie).send().await.text;
        for inline in [" style=", "<style", " onclick", " onload", "javascript:", "<script>"] {
            assert!(!text.contains(inline), "{path} has {inline}");
        }
        for (at, _) in text.match_indices("src=\"") {
            assert!(text[at..].starts_with("src=\"/assets/"), "{path}: {}", &text[at..at + 40]);
        }
    }
}

#[tokio::test]
async fn an_unknown_host_header_gets_no_page() {
    let site = local();
    let (_, cookie) = site.visitor("anna", Role::Viewer).await;
    let status = async |host: &str| site.get("/").cookie(&cookie).with("host", host).send().await.status;
    for host in [
        "evil.example",
        "evil.example:8080",
        "192.0.2.7",
        "localhost.evil.example",
        "",
        "0.0.0.0:8080",
        PUBLIC,
    ] {
        assert_eq!(status(host).await, 421, "{host}");
        let login = site.get("/login").with("host", host).send().await;
        assert_eq!(login.status, 421, "{host}");
    }
    for host in ["localhost", "localhost:8080", "127.0.0.1:8080", "[::1]:9000", "ABIDE.localhost.:8080"] {
        assert_eq!(status(host).await, 200, "{host}");
    }
    assert_eq!(site.get("/").cookie(&cookie).without("host").send().await.status, 421);
    let behind = public("https://ci.example.com");
    assert_eq!(behind.get("/login").send().await.status, 200);
    assert_eq!(behind.get("/login").with("host", "evil.example").send().await.status, 421);
    assert_eq!(site.get("/healthz").with("host", "evil.example").send().await.status, 200, "not a page");
}

#[tokio::test]
async fn untrusted_text_is_escaped_on_pages() {
    let site = local();
    let (_, cookie) = site.visitor("anna", Role::Viewer).await;
    site.api.ready("dev", 1).await;
    site.api.report(&hostile("dev")).await;
    for path in ["/", "/environments/dev"] {
        let text = site.get(path).cookie(&cookie).send().await.text;
        assert!(text.contains("&lt;script&gt;alert(1)&lt;/script&gt; ⟨U+202E⟩txt.exe"), "{path}: {text}");
        assert!(
            !text.contains("<script>") && !text.contains('\u{202e}') && !text.contains('\u{1b}'),
            "{path}"
        );
    }
    let text = site.get("/environments/%3Cscript%3E").cookie(&cookie).send().await.text;
    assert!(text.contains("&lt;script&gt;") && !text.contains("<script>"), "{text}");
}
