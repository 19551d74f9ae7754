//! Logins, sessions and their cookies.

use super::*;

#[tokio::test]
async fn a_session_id_is_not_a_token_and_only_its_hash_is_stored() {
    let site = local();
    let (_, credential) = site.token("anna", Role::Admin, None).await;
    let cookie = site.sign_in(&credential).await;
    let value = cookie.split_once('=').unwrap().1;
    assert_eq!(value.len(), 43, "256 bits");
    assert!(!credential.text().expose().contains(value));
    assert_eq!(site.get("/").cookie(&cookie).send().await.status, 200);
    let export = serde_json::to_string(&site.api.handles.desired.export().unwrap()).unwrap();
    assert!(!export.contains("session") && !export.contains(value));
    let sessions = site.api.handles.tokens.sessions(at(1_000)).unwrap();
    assert_eq!(sessions.len(), 1);
    assert!(!serde_json::to_string(&sessions).unwrap().contains(value));
}

#[tokio::test]
async fn each_login_starts_a_new_session_and_ends_the_old_one() {
    let site = local();
    let (_, credential) = site.token("anna", Role::Admin, None).await;
    let old = site.sign_in(&credential).await;
    let answer = site.post("/login", &login_form(&credential)).cookie(&old).send().await;
    let new = answer.cookie().unwrap();
    assert_ne!(old, new);
    assert_eq!(site.get("/").cookie(&old).send().await.status, 303);
    assert_eq!(site.get("/").cookie(&new).send().await.status, 200);
}

#[tokio::test]
async fn a_logout_ends_the_session_on_the_server() {
    let site = local();
    let (_, cookie) = site.visitor("anna", Role::Admin).await;
    let answer = site.post("/logout", "").cookie(&cookie).send().await;
    assert_eq!((answer.status, answer.header("location")), (303, "/login?out=1"));
    assert!(answer.header("set-cookie").contains("Max-Age=0"), "{answer:?}");
    assert_eq!(
        site.get("/").cookie(&cookie).send().await.status,
        303,
        "the browser may have kept the cookie"
    );
    assert!(site.get("/login?out=1").send().await.text.contains("signed out"));
}

#[tokio::test]
async fn a_session_ends_when_its_token_is_revoked() {
    let site = local();
    let (token, cookie) = site.visitor("anna", Role::Viewer).await;
    let (_, other) = site.visitor("bob", Role::Viewer).await;
    let stamp = AuditStamp { at: at(1_000), by: "alice".into() };
    site.api.handles.token_writer.revoke(&token.id, stamp).await.unwrap();
    assert_eq!(site.get("/").cookie(&cookie).send().await.status, 303);
    assert_eq!(site.get("/").cookie(&other).send().await.status, 200);
}

#[tokio::test]
async fn an_open_stream_ends_with_the_session() {
    for end in ["revoke", "logout"] {
        let site = local();
        let (token, cookie) = site.visitor("anna", Role::Viewer).await;
        let stream = site.get("/hints").cookie(&cookie).raw().await;
        assert_eq!(stream.status(), 200);
        assert_eq!(stream.headers()["x-accel-buffering"], "no");
        if end == "revoke" {
            let stamp = AuditStamp { at: at(1_000), by: "alice".into() };
            site.api.handles.token_writer.revoke(&token.id, stamp).await.unwrap();
        } else {
            site.post("/logout", "").cookie(&cookie).send().await;
        }
        let ended =
            tokio::time::timeout(Duration::from_secs(20), to_bytes(stream.into_body(), 1 << 20)).await;
        assert!(ended.unwrap().is_err(), "{end}");
        assert_eq!(site.get("/hints").cookie(&cookie).send().await.status, 401);
    }
}

#[tokio::test]
async fn sessions_have_an_idle_and_an_absolute_expiry() {
    let site = local();
    const HOUR: u64 = 3_600;
    let ends_at = [(Role::Viewer, 30 * 24 * HOUR, 30 * 24 * HOUR), (Role::Admin, 12 * HOUR, 7 * 24 * HOUR)];
    for (role, idle, absolute) in ends_at {
        let (_, credential) = site.token(&format!("{role}"), role, None).await;
        site.sign_in(&credential).await;
        let session = site.api.handles.tokens.sessions(at(1_000)).unwrap().remove(0);
        assert_eq!(session.idle_seconds, idle);
        assert_eq!(session.expires, at(1_000 + absolute));
        assert!(session.is_in_force(at(1_000 + idle - 1)) && !session.is_in_force(at(1_000 + idle)));
        site.api.handles.token_writer.end_session(&session.id).await.unwrap();
    }
    let (_, short) = site.token("short", Role::Admin, Some(at(1_060))).await;
    site.sign_in(&short).await;
    let session = site.api.handles.tokens.sessions(at(1_000)).unwrap().remove(0);
    assert_eq!(session.expires, at(1_060), "never beyond the token");
}

#[tokio::test]
async fn the_cookie_does_not_authenticate_api_routes() {
    let site = local();
    let (_, cookie) = site.visitor("anna", Role::Admin).await;
    for route in table().iter().filter(|route| !route.is_page && route.path.starts_with("/api/")) {
        let path = route.path.replace("{environment}", "dev").replace("{token}", "x").replace("{id}", "x");
        let mut ask = site.post(&path, "").cookie(&cookie);
        ask.method = route.method.clone();
        let status = ask.send().await.status;
        // So many requests without a token are finally slowed down.
        assert!(matches!(status, 401 | 429), "{} {path}: {status}", route.method);
    }
    let status = site.get("/metrics").cookie(&cookie).send().await.status;
    assert!(matches!(status, 401 | 429), "{status}");
}

#[tokio::test]
async fn a_session_records_the_address_it_was_opened_from() {
    let site = local();
    site.visitor("anna", Role::Admin).await;
    let session = site.api.handles.tokens.sessions(at(1_000)).unwrap().remove(0);
    assert_eq!(session.from.as_deref(), Some("192.0.2.7"));
}

#[tokio::test]
async fn the_cookie_attributes_match_the_site() {
    for (site, expected) in [
        (local(), ("abide_session", "/", false)),
        (public("https://ci.example.com"), ("__Host-abide", "/", true)),
        (public("https://ci.example.com/abide/"), ("__Secure-abide", "/abide/", true)),
        (public("http://ci.example.com"), ("abide_session", "/", false)),
        (site(None, "192.0.2.1:8443", true, "ci.lan:8443"), ("__Host-abide", "/", true)),
    ] {
        let (name, path, is_secure) = expected;
        let (_, credential) = site.token("anna", Role::Admin, None).await;
        let answer = site.post("/login", &login_form(&credential)).send().await;
        let cookie = answer.header("set-cookie");
        let flags: Vec<&str> = cookie.split("; ").collect();
        assert!(flags[0].starts_with(&format!("{name}=")), "{cookie}");
        assert!(flags.contains(&format!("Path={path}").as_str()), "{cookie}");
        assert!(flags.contains(&"HttpOnly") && flags.contains(&"SameSite=Lax"), "{cookie}");
        assert_eq!(flags.contains(&"Secure"), is_secure, "{cookie}");
        assert!(!cookie.contains("Domain"), "{cookie}");
        let other = answer.cookie().unwrap().replace(name, "other");
        assert_eq!(site.get("/").cookie(&other).send().await.status, 303);
        assert_eq!(site.get("/").cookie(&answer.cookie().unwrap()).send().await.status, 200);
    }
}

#[tokio::test]
async fn every_failed_login_gets_the_same_response() {
    let site = local();
    let (revoked, of_revoked) = site.token("revoked", Role::Admin, None).await;
    let stamp = AuditStamp { at: at(1), by: "alice".into() };
    site.api.handles.token_writer.revoke(&revoked.id, stamp).await.unwrap();
    let (_, of_agent) = site.token("agent", agent("online"), None).await;
    let (_, of_expired) = site.token("expired", Role::Admin, Some(at(1_000))).await;
    let (good, _) = site.token("good", Role::Admin, None).await;
    let forms = [
        login_form(&of_revoked),
        login_form(&of_agent),
        login_form(&of_expired),
        login_form(&Credential::new(good.id.clone(), [0; 32])),
        "next=%2F&token=abide_x".to_owned(),
        "next=%2F&token=".to_owned(),
        "next=%2F&token=AAAAAAAAAAAAAAAAAAAAAA".to_owned(),
        "next=%2F".to_owned(),
    ];
    let mut answers = Vec::new();
    for form in &forms {
        let answer = site.post("/login", form).send().await;
        assert_eq!((answer.status, answer.cookie()), (401, None), "{form}");
        answers.push(answer.text);
    }
    assert!(answers.iter().all(|answer| *answer == answers[0]));
    assert!(!answers[0].contains("good") && !answers[0].contains("online"), "it names nothing");
}

#[tokio::test]
async fn repeated_login_failures_are_rate_limited_but_a_valid_token_is_not() {
    let site = local();
    let (_, credential) = site.token("anna", Role::Admin, None).await;
    let mut last = 0;
    for _ in 0..25 {
        last = site.post("/login", "token=abide_x").send().await.status;
    }
    assert_eq!(last, 429);
    site.sign_in(&credential).await;
}

#[tokio::test]
async fn a_login_continues_to_the_requested_page() {
    let site = public("https://ci.example.com/abide");
    let answer = site.get("/environments/dev?moved=3").send().await;
    let expected = "/abide/login?next=%2Fenvironments%2Fdev%3Fmoved%3D3";
    assert_eq!((answer.status, answer.header("location")), (303, expected));
    let page = site.get("/login?next=%2Fenvironments%2Fdev%3Fmoved%3D3").send().await;
    assert!(page.text.contains("value=\"/environments/dev?moved=3\""), "{}", page.text);
    let (_, credential) = site.token("anna", Role::Admin, None).await;
    let token = credential.text();
    for (next, expected) in [
        ("%2Fenvironments%2Fdev", "/abide/environments/dev"),
        ("%2F%2Fevil.example", "/abide/"),
        ("https%3A%2F%2Fevil.example", "/abide/"),
        ("%2F%5Cevil.example", "/abide/"),
        ("%2Fx%0D%0ASet-Cookie%3A%20a%3Db", "/abide/"),
        ("", "/abide/"),
    ] {
        let form = format!("next={next}&token={}", token.expose());
        assert_eq!(site.post("/login", &form).send().await.header("location"), expected, "{next}");
    }
}

#[tokio::test]
async fn the_login_page_reveals_no_names() {
    let site = local();
    site.api.ready("dev", 1).await;
    for ask in [site.get("/login"), site.get("/login?next=%2Fenvironments%2Fprod")] {
        let text = ask.send().await.text.replace("/environments/prod", "");
        for known in ["dev", "test", "prod", "lab", "keepwork", "Board"] {
            assert!(!text.split(|c: char| !c.is_alphanumeric()).any(|word| word == known), "{known}: {text}");
        }
    }
}

#[tokio::test]
async fn a_one_time_link_is_for_users_of_this_host_and_works_once() {
    let site = local();
    let socket = site.api.router().layer(from_fn(name_caller));
    let request = Request::post("/api/v1/login").body(Body::empty()).unwrap();
    let answer = socket.oneshot(request).await.unwrap();
    assert_eq!(answer.headers()[header::CACHE_CONTROL], "no-store");
    let body = to_bytes(answer.into_body(), 1 << 16).await.unwrap();
    let link: serde_json::Value = serde_json::from_slice(&body).unwrap();
    let url = link["url"].as_str().unwrap();
    let code = url.strip_prefix("http://abide.localhost:8080/login#code=").unwrap();
    let form = format!("next=%2F&token={code}");
    let cookie = site.post("/login", &form).send().await.cookie().unwrap();
    let page = site.get("/").cookie(&cookie).send().await;
    assert!(page.text.contains("local · admin"), "{}", page.text);
    let session = site.api.handles.tokens.sessions(at(1_000)).unwrap().remove(0);
    assert_eq!(session.expires, at(1_000 + 12 * 3_600));
    assert_eq!(site.post("/login", &form).send().await.status, 401, "it was used");

    let (_, admin) = site.token("admin", Role::Admin, None).await;
    let bearer = format!("Bearer {}", admin.bearer().expose());
    assert_eq!(site.post("/api/v1/login", "").with("authorization", bearer).send().await.status, 403);
}

#[tokio::test]
async fn a_login_link_uses_the_public_url_if_configured() {
    let site = public("https://ci.example.com/abide");
    let url = PublicUrl::parse("https://ci.example.com/abide").unwrap();
    let (link, local) = site.api.state.pages.link(Some(&url), "alice", Duration::from_secs(60)).unwrap();
    assert!(link.expose().starts_with("https://ci.example.com/abide/login#code="));
    assert!(local.expose().starts_with("http://abide.localhost:8080/login#code="));
}
