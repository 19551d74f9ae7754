//! The web page in a real browser, as developers, testers and operators use it.

mod groups;
mod proxied;
mod walks;

use crate::common::{Browser, PATIENCE, Scene, axe, docker, eventually, http_get};

/// The sign that a page follows changes.
const LIVE: &str = "#live";

/// Returns a link that signs its opener in.
fn login_link(scene: &Scene) -> String {
    scene.abide(&["login"]).stdout.trim().to_owned()
}

/// Signs a browser in as a user of this host, and returns the address of the page.
fn signed_in(scene: &Scene, browser: &Browser) -> String {
    let link = login_link(scene);
    browser.open(&link);
    browser.until("the board is shown", "nav a[aria-current=page]", |text| text == "Board");
    link.split_once("/login").unwrap().0.to_owned()
}

/// Creates a token of a role that needs no environment.
fn token(scene: &Scene, role: &str, name: &str) -> String {
    scene.abide(&["token", "create", "--role", role, name]).stdout.trim().to_owned()
}

/// Signs in with a token in the form of the login page.
fn sign_in_with(browser: &Browser, token: &str) {
    browser.fill("#token", token);
    browser.click("#login button");
}

#[test]
fn an_open_page_shows_a_push_without_a_reload() {
    let Some(browser) = Browser::start() else { return };
    let Some(scene) = Scene::dev() else { return };
    signed_in(&scene, &browser);
    browser.until("the board is live", LIVE, |text| text == "Live");
    browser.script("window.isTheSamePage = true; document.querySelector('.env h3 a').focus()");
    let commit = scene.deploy("dev", "dev", "a new page");
    browser.until("the new commit is on the board, and ready", ".env", |text| {
        text.contains(&commit[..7]) && text.contains("Ready") && text.contains("gen 2")
    });
    assert_eq!(browser.script("return window.isTheSamePage"), true, "the page was loaded anew");
    assert_eq!(browser.script("return document.activeElement.textContent"), "dev", "the focus was lost");
    assert_eq!(browser.errors(), Vec::<String>::new());
}

#[test]
fn an_operator_rolls_back_and_resumes_and_a_stale_form_changes_nothing() {
    let Some(browser) = Browser::start() else { return };
    let Some(scene) = Scene::dev() else { return };
    scene.deploy("dev", "dev", "a page that someone regrets");
    let root = signed_in(&scene, &browser);
    browser.open(&format!("{root}/environments/dev"));
    browser.unfold("#rollback-fold");
    browser.fill("#rollback input[name=reason]", "the page is wrong");
    browser.click("#rollback button");
    browser.until("the rollback is confirmed", "[role=status]", |text| text.contains("generation 3"));
    let view = scene.until("dev is held at the first page", "dev", |view| !view["held"].is_null());
    assert_eq!(view["generation"], 3);
    let port = scene.site.ports[0];
    eventually("the first page is served", PATIENCE, || {
        http_get(port, "/").is_ok_and(|(status, page)| status == 200 && page != "a page that someone regrets")
    });
    let newest = scene.history("dev").remove(0);
    assert_eq!(newest["origin"], "rollback", "{newest}");
    assert!(newest["by"].as_str().unwrap().contains("page"), "{newest}");

    browser.unfold("#resume-fold");
    browser.click("#resume button");
    scene.until("dev is not held any more", "dev", |view| view["held"].is_null());
    scene.ready("dev");

    // A form that someone fills in stays as it is. Meanwhile, someone else moves the record.
    browser.open(&format!("{root}/environments/dev"));
    browser.unfold("#hold-fold");
    browser.fill("#hold input[name=reason]", "a reason that must not be lost");
    scene.abide(&["set", "dev", "--commit", &scene.deploy("dev", "dev", "a later page")]);
    let generation = scene.view("dev")["generation"].clone();
    browser.click("#hold button");
    let refusal = browser.until("the form is refused", "main", |text| text.contains("Nothing was changed"));
    assert!(refusal.contains(&format!("generation {generation}")), "{refusal}");
    let kept = browser.script("return document.querySelector('#hold input[name=reason]').value");
    assert_eq!(kept, "a reason that must not be lost");
    let view = scene.view("dev");
    assert_eq!((&view["generation"], view["held"].is_null()), (&generation, true), "{view}");
    assert_eq!(browser.errors(), Vec::<String>::new());
}

#[test]
fn everything_works_without_scripts_and_a_deep_link_survives_the_login() {
    let Some(browser) = Browser::without_scripts() else { return };
    let Some(scene) = Scene::dev() else { return };
    let root = login_link(&scene).split_once("/login").unwrap().0.to_owned();
    let admin = token(&scene, "admin", "ops");
    browser.open(&format!("{root}/environments/dev"));
    assert!(browser.url().contains("/login?next="), "{}", browser.url());
    sign_in_with(&browser, "abide_not_a_token");
    browser.until("a wrong token is refused", "[role=alert]", |text| text.contains("neither a valid token"));
    sign_in_with(&browser, &admin);
    browser.until("the page of the link is shown", "h1", |text| text == "dev");
    assert!(browser.url().ends_with("/environments/dev"), "{}", browser.url());

    browser.unfold("#hold-fold");
    browser.fill("#hold input[name=reason]", "a demo at noon");
    browser.click("#hold button");
    let view = scene.until("dev is held", "dev", |view| !view["held"].is_null());
    assert!(view["held"].to_string().contains("a demo at noon"), "{view}");
    browser.until("the hold is shown with its reason", "main", |text| text.contains("a demo at noon"));
    browser.unfold("#resume-fold");
    browser.click("#resume button");
    scene.until("dev is not held any more", "dev", |view| view["held"].is_null());

    browser.click("header form button");
    browser.until("the visitor is signed out", "[role=status]", |text| text.contains("signed out"));
    browser.open(&format!("{root}/environments/dev"));
    assert!(browser.url().contains("/login?next="), "{}", browser.url());
}

#[test]
fn an_open_page_detects_the_end_of_its_session_or_the_daemon() {
    let Some(browser) = Browser::start() else { return };
    let Some(scene) = Scene::dev() else { return };
    let root = login_link(&scene).split_once("/login").unwrap().0.to_owned();
    let viewer = token(&scene, "viewer", "screen");
    browser.open(&format!("{root}/login"));
    sign_in_with(&browser, &viewer);
    browser.until("the board is live", LIVE, |text| text == "Live");
    browser.open(&format!("{root}/environments/dev"));
    assert!(browser.try_text("#hold").is_none(), "a viewer sees no form");
    let scene = proxied::outlives_a_restart(scene, &browser);
    assert!(browser.url().ends_with("/environments/dev"), "{}", browser.url());

    scene.abide(&["token", "revoke", "screen"]);
    browser.until("the page says that its session has ended", LIVE, |text| text.starts_with("Signed out"));
    browser.open(&format!("{root}/"));
    assert!(browser.url().contains("/login?next="), "{}", browser.url());
}

#[test]
fn the_hosts_page_shows_this_host_and_the_version_of_its_engine() {
    let Some(browser) = Browser::start() else { return };
    let Some(scene) = Scene::dev() else { return };
    let root = signed_in(&scene, &browser);
    browser.open(&format!("{root}/hosts"));
    let engine = docker(&["version", "--format", "{{.Server.Version}}"]);
    let shown = browser.text("tbody tr");
    for part in ["this host", "Engine answers", engine.trim(), env!("CARGO_PKG_VERSION"), "dev"] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
}

#[test]
fn every_page_meets_the_accessibility_rules_and_fits_narrow_screens() {
    let Some(browser) = Browser::start() else { return };
    let Some(axe) = axe() else { return };
    let Some(scene) = Scene::new(&["dev", "test", "prod"], |manifest| manifest) else { return };
    for name in ["dev", "test"] {
        scene.ready(name);
    }
    let root = login_link(&scene).split_once("/login").unwrap().0.to_owned();
    let check = |page: &str| {
        for (width, colours) in [(390, "light"), (390, "dark"), (1280, "light"), (1280, "dark")] {
            browser.screen(width, colours);
            browser.open(&format!("{root}{page}"));
            browser.picture(&format!("page{}-{width}-{colours}", page.replace('/', "-")));
            let found = browser.violations(&axe);
            assert!(found.is_empty(), "{page} at {width} pixels, {colours}: {found:#?}");
        }
        browser.screen(320, "light");
        assert_eq!(browser.overflow(), 0, "{page} scrolls sideways at 320 pixels");
        browser.screen(1280, "light");
    };
    check("/login");
    signed_in(&scene, &browser);
    for page in [
        "/",
        "/environments/dev",
        "/environments/prod",
        "/promotions/prod",
        "/environments/dev/logs",
        "/environments/dev/builds",
        "/environments/dev/builds/1",
        "/environments/dev/history",
        "/environments/dev/events",
        "/activity",
        "/hosts",
        "/outbox",
        "/tokens",
    ] {
        check(page);
    }
    assert_eq!(browser.errors(), Vec::<String>::new());
}
