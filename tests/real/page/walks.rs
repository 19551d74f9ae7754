//! Whole walks through the page, on a phone and on a screen: a tester and a deployer, and an operator at night.

use super::{LIVE, login_link, sign_in_with, signed_in, token};
use crate::common::{Browser, PATIENCE, Scene, docker, eventually};

/// Creates a token of a role for one environment.
fn token_for(scene: &Scene, role: &str, environment: &str, name: &str) -> String {
    let arguments = ["token", "create", "--role", role, "--environment", environment, name];
    scene.abide(&arguments).stdout.trim().to_owned()
}

/// `test` and `prod`, which takes what one person approved.
fn gated() -> Option<Scene> {
    let scene = Scene::new(&["test", "prod"], |manifest| {
        let plain = "promote_from = \"test\"";
        assert!(manifest.contains(plain), "the example's manifest has changed");
        manifest.replace(plain, "promote = { from = \"test\", approvals = 1 }")
    })?;
    scene.ready("test");
    Some(scene)
}

fn a_version_is_rejected_the_next_one_approved_and_promoted(width: u32) {
    let Some(browser) = Browser::start() else { return };
    let Some(scene) = gated() else { return };
    browser.screen(width, "light");
    let (qa, dora) =
        (token_for(&scene, "tester", "test", "qa"), token_for(&scene, "deployer", "prod", "dora"));
    let root = login_link(&scene).split_once("/login").unwrap().0.to_owned();

    // The link from the chat leads to the promotion, also through the login.
    browser.open(&format!("{root}/promotions/prod"));
    sign_in_with(&browser, &qa);
    browser.until("the page of the link is shown", "h1", |text| text == "Promote test to prod");
    browser.until("its gate is closed", "#promote", |text| text.contains("Waiting: 0 of 1 approval."));
    browser.unfold("#reject-fold");
    browser.fill("#reject input[name=reason]", "the logo is gone");
    browser.click("#reject button");
    browser.until("the rejection is confirmed", ".banner[role=status]", |text| {
        text.contains("is rejected by qa")
    });
    browser
        .until("the reason is on the page", "main", |text| text.contains("Rejected by qa: the logo is gone"));
    let refused = scene.daemon.abide(&["promote", "test", "prod", "--yes"]);
    assert!(refused.code == 1 && refused.stderr.contains("the logo is gone"), "{refused:?}");

    // A new version comes while the page is open. The tester judges what the page shows then.
    browser.until("the page is live", LIVE, |text| text == "Live");
    scene.deploy("master", "test", "a page with a logo");
    browser.until("the new version can be judged", "#judge h2", |text| text == "Approve or reject");
    browser.fill("#approve input[name=note]", "the logo is back");
    browser.click("#approve button");
    browser.until("the approval is confirmed", ".banner[role=status]", |text| {
        text.contains("is approved by qa")
    });
    browser.until("the gate is open", "#evidence-h + ul + h3 + ul", |text| {
        text.contains("1 of 1 approval (qa)")
    });
    assert!(browser.try_text("#promote form").is_none(), "a tester does not promote");

    browser.click("header form button");
    browser.until("the tester is signed out", "[role=status]", |text| text.contains("signed out"));
    browser.open(&format!("{root}/promotions/prod"));
    sign_in_with(&browser, &dora);
    if width < 700 {
        browser.click(".acts.phone a[href='#promote']");
    }
    browser.fill("#promote input[name=note]", "for the fair");
    browser.click("#promote form button");
    browser.until("the promotion is confirmed", ".banner[role=status]", |text| {
        text.contains("prod: generation 1 is recorded, promoted by dora")
    });
    let view = scene.ready("prod");
    assert_eq!(view["origin"], "promotion", "{view}");
    browser.open(&format!("{root}/activity?environment=test"));
    browser.until("the activity names who judged", "main", |text| {
        text.contains("image rejected") && text.contains("image approved") && text.contains("token qa (")
    });
    assert_eq!(browser.overflow(), 0);
    assert_eq!(browser.errors(), Vec::<String>::new());
}

#[test]
fn on_a_phone_a_version_is_rejected_the_next_one_approved_and_promoted() {
    a_version_is_rejected_the_next_one_approved_and_promoted(390);
}

#[test]
fn on_a_screen_a_version_is_rejected_the_next_one_approved_and_promoted() {
    a_version_is_rejected_the_next_one_approved_and_promoted(1280);
}

fn an_operator_finds_a_crash_loop_reads_why_rolls_back_and_resumes(width: u32) {
    let Some(browser) = Browser::start() else { return };
    let Some(scene) = Scene::dev() else { return };
    browser.screen(width, "dark");
    signed_in(&scene, &browser);
    browser.until("the board is live", LIVE, |text| text == "Live");
    // The second crash is the trouble. After the third one abide would roll back before the operator does.
    let commit =
        scene.site.repo.commit_and_push("dev", &[("site.env", "SITE_CRASH_AFTER=15s\nSITE_EXIT_CODE=7\n")]);
    assert_eq!(scene.announce("dev").0, 202);
    scene.until("the version that crashes is the recorded one", "dev", |view| view["revision"] == commit);
    browser.until("the trouble is first on the open board", ".trouble", |text| {
        text.contains("1 environment needs a look") && text.contains("dev") && text.contains("Roll back")
    });
    assert!(browser.title().starts_with("(1!)"), "{}", browser.title());
    browser.click(".trouble .what a");
    browser.until("the page says why", "[data-live=why]", |text| text.contains("code 7"));
    browser.click("[data-live=said] a[href$='/logs']");
    browser.until("the log is shown", ".log", |text| text.contains("listens on port"));
    browser.click("h1 a");
    browser.unfold("#rollback-fold");
    browser.fill("#rollback input[name=reason]", "it crashes");
    browser.click("#rollback button");
    browser
        .until("the rollback is confirmed", ".banner[role=status]", |text| text.contains("rolled back by"));
    let view = scene.until("the first version is back, and held", "dev", |view| {
        !view["held"].is_null() && view["status"] == "Held" && !view["running"].is_null()
    });
    assert_ne!(view["revision"], commit, "{view}");
    browser.unfold("#resume-fold");
    browser.click("#resume button");
    scene.until("it is not held any more", "dev", |view| view["held"].is_null());
    scene.ready("dev");
    browser.until("the page shows that all is well", "[data-live=head]", |text| text.contains("Ready"));
    assert_eq!(browser.errors(), Vec::<String>::new());
}

#[test]
#[ignore = "slow: .ci/slow runs it"]
fn on_a_phone_an_operator_ends_a_crash_loop() {
    an_operator_finds_a_crash_loop_reads_why_rolls_back_and_resumes(390);
}

#[test]
fn on_a_screen_an_operator_ends_a_crash_loop() {
    an_operator_finds_a_crash_loop_reads_why_rolls_back_and_resumes(1280);
}

#[test]
fn a_followed_log_continues_with_the_next_container_unless_paused() {
    let Some(browser) = Browser::start() else { return };
    let Some(scene) = Scene::dev() else { return };
    let root = signed_in(&scene, &browser);
    scene.ready("dev");
    browser.open(&format!("{root}/environments/dev/logs"));
    // Every probe is a line too, so the first line soon scrolls out of view.
    let listens = || lines_with(&browser, "dev listens on port 8900");
    eventually("the first line is shown", PATIENCE, || listens() > 0);
    let first = listens();
    browser.script("window.isTheSamePage = true");
    docker(&["kill", &scene.container("dev")]);
    eventually("the next container's output comes", PATIENCE, || listens() == first + 1);
    scene.ready("dev");
    browser.click("#follow");
    browser.until("it is paused", "#log-state", |text| text.contains("It is paused"));
    docker(&["kill", &scene.container("dev")]);
    browser.until("what came since is counted", "#log-state", |text| text.contains("came since"));
    assert_eq!(listens(), first + 1, "a paused log changed");
    browser.click("#log-state button");
    eventually("everything is shown", PATIENCE, || listens() == first + 2);
    assert_eq!(browser.script("return window.isTheSamePage"), true, "the page was loaded again");

    // A link to one line leads there, also when the newest lines are others.
    let line = browser.script("return document.querySelector('.log li').id").as_str().unwrap().to_owned();
    browser.open("about:blank");
    browser.open(&format!("{root}/environments/dev/logs?tail=3#{line}"));
    browser
        .until("only the newest lines are shown", "#log-part", |text| text.starts_with("The last 3 lines"));
    browser.open("about:blank");
    browser.open(&format!("{root}/environments/dev/logs#{line}"));
    browser.until("the line of the link is marked", ".log li:target", |text| !text.is_empty());
    browser.open(&format!("{root}/environments/dev/logs"));

    browser.fill("input[type=search]", "LISTENS");
    browser.click(".tools button");
    browser.until("the matches are marked", ".log mark", |text| text == "listens");
    browser.open(&format!("{root}/environments/dev/builds"));
    browser.click(".rows a");
    browser.until("the build has steps", ".steps", |text| text.contains("build"));
    browser.until("the build has its log", ".log", |text| text.contains("build 1: commit"));
    assert_eq!(browser.errors(), Vec::<String>::new());
}

#[test]
fn a_log_that_was_opened_before_the_first_container_shows_its_output() {
    let Some(browser) = Browser::start() else { return };
    let Some(scene) = Scene::new(&["test", "prod"], |manifest| manifest) else { return };
    scene.ready("test");
    let root = signed_in(&scene, &browser);
    browser.open(&format!("{root}/environments/prod/logs"));
    browser.until("there is no output yet", "#log-part", |text| text.contains("prod has no container"));
    browser.script("window.isTheSamePage = true");
    // The same on the command line.
    let mut follower = scene.daemon.command(&["logs", "prod", "--follow"]);
    let mut follower = follower.stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut printed = std::io::BufReader::new(follower.stdout.take().unwrap());

    scene.abide(&["promote", "test", "prod", "--yes"]);
    eventually("the first container's first line comes", PATIENCE, || {
        lines_with(&browser, "prod listens on port 8088") == 1
    });
    let mut line = String::new();
    std::io::BufRead::read_line(&mut printed, &mut line).unwrap();
    assert_eq!(line, "prod listens on port 8088\n");
    follower.kill().unwrap();
    follower.wait().unwrap();
    scene.ready("prod");
    docker(&["rm", "--force", &scene.container("prod")]);
    eventually("the next container's too", PATIENCE, || {
        lines_with(&browser, "prod listens on port 8088") == 2
    });
    assert_eq!(browser.script("return window.isTheSamePage"), true, "the page was loaded again");
    assert_eq!(browser.text("#log-part"), "", "the sentence of the server is out of date");
}

#[test]
fn an_open_log_reports_the_end_of_its_session() {
    let Some(browser) = Browser::start() else { return };
    let Some(scene) = Scene::dev() else { return };
    let root = login_link(&scene).split_once("/login").unwrap().0.to_owned();
    browser.open(&format!("{root}/environments/dev/logs"));
    sign_in_with(&browser, &token(&scene, "viewer", "screen"));
    eventually("the log is shown", PATIENCE, || lines_with(&browser, "listens on port") == 1);
    scene.abide(&["token", "revoke", "screen"]);
    browser.until("it says so", "#log-state", |text| text.contains("You are signed out"));
}

/// The number of lines of the log on the page that contain `text`, also those out of view.
fn lines_with(browser: &Browser, text: &str) -> u64 {
    let lines = "[...document.querySelectorAll('.log li')]";
    let script = format!("return {lines}.filter((line) => line.textContent.includes('{text}')).length");
    browser.script(&script).as_u64().unwrap()
}

#[test]
fn an_administrator_creates_a_token_that_is_shown_once_and_revokes_it() {
    let Some(browser) = Browser::without_scripts() else { return };
    let Some(scene) = Scene::dev() else { return };
    let root = login_link(&scene).split_once("/login").unwrap().0.to_owned();
    browser.open(&format!("{root}/tokens"));
    sign_in_with(&browser, &token(&scene, "admin", "ops"));
    browser.fill("#create input[name=name]", "screen");
    browser.click("#create button");
    let shown = browser
        .until("the token is shown", "[aria-label='The new token']", |text| text.contains("screen (viewer)"));
    assert!(shown.contains("only time"), "{shown}");
    browser.open(&format!("{root}/tokens"));
    assert!(browser.try_text("#issued").is_none(), "it is shown once");
    let listed = scene.abide(&["token", "list"]).stdout;
    assert!(listed.contains("screen"), "{listed}");
    browser.unfold(".tokens li:last-child details:last-of-type");
    browser.click(".tokens li:last-child form .btn-stop");
    browser.until("the revocation is confirmed", ".banner[role=status]", |text| text.contains("is revoked"));
}
