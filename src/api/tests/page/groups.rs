//! Groups on the page: one unit on the board, one page, and forms that change all members in one write.

use std::sync::Arc;

use super::{Site, local};
use crate::api::tests::access::deployer;
use crate::api::tests::{digest, name, shops, status};
use crate::model::access::Role;
use crate::model::status::{Condition, Reason, Status};

/// Two groups: `shop-test` runs its second version, and `shop-prod` its first one.
async fn shop() -> Site {
    let site = local();
    site.api.manifest.send_modify(|state| {
        let mut manifest = state.manifest.clone();
        manifest.environments.extend(shops().manifest.environments);
        *state = Arc::new(crate::api::ManifestState::new(manifest, None));
    });
    for member in ["db", "web"] {
        site.api.ready(&format!("shop-test-{member}"), 2).await;
        site.api.ready(&format!("shop-prod-{member}"), 1).await;
    }
    site
}

/// The members of `shop-prod`: their generations, and whether they are held.
fn prod(site: &Site) -> [(u64, bool); 2] {
    ["shop-prod-db", "shop-prod-web"].map(|member| {
        let desired = site.api.handles.desired.get(&name(member)).unwrap();
        (desired.entry.generation.0, desired.hold.is_some())
    })
}

/// The fields of what a visitor saw of `shop-prod`.
fn seen(db: u64, web: u64) -> String {
    format!("seen.shop-prod-db={db}&seen.shop-prod-web={web}")
}

fn promotion(db: u64, web: u64) -> String {
    let image = digest(2).to_string().replace(':', "%3A");
    format!("from=shop-test&image.shop-test-db={image}&image.shop-test-web={image}&{}", seen(db, web))
}

#[tokio::test]
async fn a_group_is_one_unit_of_its_lane() {
    let site = shop().await;
    let (_, cookie) = site.visitor("anna", Role::Viewer).await;
    let board = site.get("/").cookie(&cookie).send().await.text;
    let lane = &board[board.find("id=\"lane-2-shop-test\"").expect("the chain has a lane")..];
    let lane = &lane[..lane.find("</section>").unwrap()];
    for part in [
        "href=\"/groups/shop-test\"",
        "href=\"/groups/shop-prod\"",
        "href=\"/promotions/shop-prod\"",
        "href=\"/environments/shop-prod-db\"",
        "2 members ahead",
    ] {
        assert!(lane.contains(part), "{part}: {lane}");
    }
    assert_eq!(lane.matches("<article").count(), 2, "{lane}");
    assert!(!board.contains("href=\"/promotions/shop-prod-web\""), "{board}");
    let found = site.get("/?q=shop-prod").cookie(&cookie).send().await.text;
    assert!(found.contains("3 matches"), "the group and its members: {found}");
}

#[tokio::test]
async fn trouble_of_several_members_is_one_entry() {
    let site = shop().await;
    let (_, cookie) = site.visitor("anna", Role::Admin).await;
    for member in ["shop-prod-db", "shop-prod-web"] {
        let (condition, reason) = (Condition::Degraded, Reason::CrashLoop);
        let message = "it ended with code 3".to_owned();
        site.api.report(&Status { condition, reason, message, ..status(member, 1) }).await;
    }
    let board = site.get("/").cookie(&cookie).send().await.text;
    assert!(board.contains("<title>(1!) Board") && board.contains("1 group needs a look"), "{board}");
    assert!(board.contains("0 of 2 members are Ready; "), "{board}");
}

#[tokio::test]
async fn a_group_is_held_resumed_and_rolled_back_by_one_form() {
    let site = shop().await;
    let (_, cookie) = site.visitor("anna", deployer(&["shop-prod"])).await;
    let post = async |verb: &str, form: &str| {
        site.post(&format!("/environments/shop-prod/{verb}"), form).cookie(&cookie).send().await
    };
    let page = async |path: &str| site.get(path).cookie(&cookie).send().await.text;
    let shown = page("/groups/shop-prod").await;
    assert!(shown.contains("name=\"seen.shop-prod-db\" value=\"1\""), "{shown}");
    assert!(!shown.contains("id=\"rollback\""), "no earlier version was ready: {shown}");

    let held = post("hold", &format!("reason=audit&{}", seen(1, 1))).await;
    assert_eq!((held.status, held.header("location")), (303, "/groups/shop-prod?did=hold"));
    assert_eq!(prod(&site), [(1, true), (1, true)]);
    let shown = page("/groups/shop-prod?did=hold").await;
    assert!(shown.contains("shop-prod is held.") && shown.contains("“audit”"), "{shown}");
    let resumed = post("resume", &seen(1, 1)).await;
    assert_eq!(resumed.header("location"), "/groups/shop-prod?did=resume");
    assert_eq!(prod(&site), [(1, false), (1, false)]);

    let shown = page("/promotions/shop-prod").await;
    assert!(shown.contains("Promote shop-test to shop-prod</button>"), "{shown}");
    assert!(shown.contains(&format!("name=\"image.shop-test-web\" value=\"{}\"", digest(2))), "{shown}");
    let promoted = post("promote", &format!("note=fair&{}", promotion(1, 1))).await;
    assert_eq!(promoted.header("location"), "/groups/shop-prod?did=promote", "{}", promoted.text);
    assert_eq!(prod(&site), [(2, false), (2, false)]);
    let shown = page("/groups/shop-prod?did=promote").await;
    let notice = "shop-prod: recorded generation 2 of db and generation 2 of web, promoted by anna";
    assert!(shown.contains(notice), "{shown}");
    assert!(page("/promotions/shop-prod").await.contains("Every member of shop-prod has the image"));

    let shown = page("/groups/shop-prod").await;
    assert!(shown.contains("db runs image 000000000000 of generation 1 in place of"), "{shown}");
    let back = post("rollback", &format!("reason=slow&{}", seen(2, 2))).await;
    assert_eq!(back.header("location"), "/groups/shop-prod?did=rollback", "{}", back.text);
    assert_eq!(prod(&site), [(3, true), (3, true)]);
}

fn tester(environment: &str) -> Role {
    Role::Tester { environments: [name(environment)].into() }
}

/// The fields of a judgement of `shop-test` at this generation of its `web`.
fn judgement(web: u64, more: &str) -> String {
    let image = |number| digest(number).to_string().replace(':', "%3A");
    let images = format!("image.shop-test-db={}&image.shop-test-web={}", image(2), image(web));
    format!("{images}&seen.shop-test-db=2&seen.shop-test-web={web}&{more}")
}

/// How many pieces of evidence there are about both members of `shop-test`.
fn found(site: &Site) -> [usize; 2] {
    ["shop-test-db", "shop-test-web"]
        .map(|member| site.api.handles.desired.evidence(&name(member)).unwrap().len())
}

#[tokio::test]
async fn a_tester_approves_rejects_and_withdraws_for_a_whole_group() {
    let site = shop().await;
    let (_, anna) = site.visitor("anna", tester("shop-test")).await;
    let (_, dora) = site.visitor("dora", deployer(&["shop-test", "shop-prod"])).await;
    let page = async |path: &str, cookie: &str| site.get(path).cookie(cookie).send().await.text;
    let post = async |verb: &str, form: &str| {
        site.post(&format!("/environments/shop-test/{verb}"), form).cookie(&anna).send().await
    };
    for path in ["/groups/shop-test", "/promotions/shop-prod"] {
        let shown = page(path, &anna).await;
        for part in [
            "/environments/shop-test/approve\"",
            "/environments/shop-test/reject\"",
            "name=\"seen.shop-test-db\" value=\"2\"",
            &format!("name=\"image.shop-test-web\" value=\"{}\"", digest(2)),
            "<li>image <code>000000000000</code> of db</li>",
        ] {
            assert!(shown.contains(part), "{path}: {part}: {shown}");
        }
        let shown = page(path, &dora).await;
        assert!(!shown.contains("/environments/shop-test/approve"), "a deployer does not judge: {shown}");
    }
    let form = judgement(2, "note=all%20pages%20load&back=shop-prod");
    let done = post("approve", &form).await;
    assert_eq!((done.status, done.header("location")), (303, "/promotions/shop-prod?did=approve"));
    assert_eq!(found(&site), [1, 1]);
    let approved = "shop-test: image 000000000000 of db and image 000000000000 of web are approved by anna";
    assert!(page("/promotions/shop-prod?did=approve", &anna).await.contains(approved));

    let empty = post("reject", &judgement(2, "reason=%20")).await;
    assert_eq!((empty.status, found(&site)), (400, [1, 1]));
    assert!(empty.text.contains("Reject shop-test</button>"), "{}", empty.text);
    let done = post("reject", &judgement(2, "reason=slow")).await;
    assert_eq!(done.header("location"), "/groups/shop-test?did=reject");
    let shown = page("/groups/shop-test?did=reject", &anna).await;
    assert!(shown.contains("of web are rejected by anna"), "{shown}");
    assert!(shown.contains("/environments/shop-test/withdraw") && !shown.contains("shop-test/approve"));
    let done = post("withdraw", &judgement(2, "reason=fast")).await;
    assert_eq!(done.header("location"), "/groups/shop-test?did=withdraw");
    let shown = page("/groups/shop-test?did=withdraw", &anna).await;
    assert!(shown.contains("are not rejected any more: withdrawn by anna"), "{shown}");
    assert!(site.api.handles.desired.rejections().unwrap().is_empty());
}

#[tokio::test]
async fn a_stale_judgement_of_a_group_is_about_no_member_and_keeps_its_text() {
    let site = shop().await;
    let (_, anna) = site.visitor("anna", tester("shop-test")).await;
    site.api.ready("shop-test-web", 1).await;
    for (verb, field) in [("approve", "note"), ("reject", "reason")] {
        let form = judgement(2, &format!("{field}=a%20%22word%22&back=shop-prod"));
        let path = format!("/environments/shop-test/{verb}");
        let refused = site.post(&path, &form).cookie(&anna).send().await;
        assert_eq!((refused.status, found(&site)), (409, [0, 0]), "{verb}");
        let text = &refused.text;
        assert!(text.contains("<strong>shop-test-web</strong>: you saw generation 2"), "{text}");
        assert!(text.contains("value=\"a &quot;word&quot;\""), "{text}");
        assert!(text.contains("href=\"/promotions/shop-prod\""), "{text}");
        assert!(text.contains("name=\"seen.shop-test-web\" value=\"3\""), "{text}");
    }
    for form in ["note=x", "note=x&seen=2", "note=x&seen.shop-test-db=2"] {
        let refused = site.post("/environments/shop-test/approve", form).cookie(&anna).send().await;
        assert!(matches!(refused.status, 400 | 409), "{form}: {}", refused.status);
        assert_eq!(found(&site), [0, 0], "{form}");
    }
}

#[tokio::test]
async fn a_deployer_checks_a_whole_group_again() {
    let site = shop().await;
    let (_, dora) = site.visitor("dora", deployer(&["shop-prod"])).await;
    let synced = |site: &Site| {
        ["shop-prod-db", "shop-prod-web"]
            .map(|member| site.api.handles.desired.get(&name(member)).unwrap().sync.is_some())
    };
    let shown = site.get("/groups/shop-prod").cookie(&dora).send().await.text;
    assert!(shown.contains("Check shop-prod now</button>"), "{shown}");
    let sync = async |form: &str| site.post("/environments/shop-prod/sync", form).cookie(&dora).send().await;
    assert_eq!((sync(&seen(1, 0)).await.status, synced(&site)), (409, [false, false]));
    let done = sync(&seen(1, 1)).await;
    assert_eq!((done.status, done.header("location")), (303, "/groups/shop-prod?did=sync"));
    assert_eq!(synced(&site), [true, true]);
    let shown = site.get("/groups/shop-prod?did=sync").cookie(&dora).send().await.text;
    assert!(shown.contains("shop-prod was checked, and what was found is below."), "{shown}");
}

#[tokio::test]
async fn a_stale_form_of_a_group_changes_nothing_and_names_what_changed() {
    let site = shop().await;
    let (_, cookie) = site.visitor("anna", Role::Admin).await;
    site.api.ready("shop-prod-web", 2).await;
    let before = prod(&site);
    for (verb, form) in [
        ("hold", format!("reason=a%20%22reason%22&{}", seen(1, 1))),
        ("resume", seen(1, 1)),
        ("rollback", format!("reason=a%20%22reason%22&{}", seen(1, 1))),
        ("promote", format!("note=fair&{}", promotion(1, 1))),
    ] {
        let refused =
            site.post(&format!("/environments/shop-prod/{verb}"), &form).cookie(&cookie).send().await;
        assert_eq!((refused.status, prod(&site)), (409, before), "{verb}");
        let text = &refused.text;
        assert!(text.contains("Nothing was changed."), "{verb}: {text}");
        assert!(
            text.contains("<strong>shop-prod-web</strong>: you saw generation 1, image 000000000000"),
            "{text}"
        );
        assert!(text.contains("Now it is generation 3") && text.contains("as you saw it, "), "{text}");
        let again = if verb == "promote" { "/promotions/shop-prod" } else { "/groups/shop-prod" };
        assert!(text.contains(&format!("href=\"{again}\"")), "{verb}: {text}");
        match verb {
            "hold" => assert!(text.contains("value=\"a &quot;reason&quot;\""), "{text}"),
            "promote" => assert!(text.contains("<p class=\"says\" dir=\"auto\">fair</p>"), "{text}"),
            _ => {}
        }
    }
    for form in ["reason=x", "reason=x&seen=1", "reason=x&seen.shop-prod-db=1"] {
        let refused = site.post("/environments/shop-prod/hold", form).cookie(&cookie).send().await;
        assert!(matches!(refused.status, 400 | 409), "{form}: {}", refused.status);
        assert_eq!(prod(&site), before, "{form}");
    }
}

#[tokio::test]
async fn forms_of_a_group_are_for_those_who_may_change_the_group() {
    let site = shop().await;
    let (_, viewer) = site.visitor("viewer", Role::Viewer).await;
    let (_, of_member) = site.visitor("member", deployer(&["shop-prod-web", "shop-test"])).await;
    let (_, tester) = site.visitor("tester", tester("shop-prod")).await;
    let forms = [
        ("sync", seen(1, 1)),
        ("hold", format!("reason=x&{}", seen(1, 1))),
        ("resume", seen(1, 1)),
        ("rollback", seen(1, 1)),
        ("promote", promotion(1, 1)),
    ];
    for cookie in [&viewer, &of_member, &tester] {
        for path in ["/groups/shop-prod", "/promotions/shop-prod"] {
            let text = site.get(path).cookie(cookie).send().await.text;
            assert_eq!(text.matches("<form").count(), 1, "only the logout: {path}: {text}");
        }
        for (verb, form) in &forms {
            let path = format!("/environments/shop-prod/{verb}");
            assert_eq!(site.post(&path, form).cookie(cookie).send().await.status, 403, "{verb}");
        }
    }
    let (_, admin) = site.visitor("admin", Role::Admin).await;
    for (verb, form) in &forms {
        let ask = site.post(&format!("/environments/shop-prod/{verb}"), form);
        assert_eq!(ask.send().await.status, 303, "{verb}: without a session, to the login");
        let ask = site.post(&format!("/environments/shop-prod/{verb}"), form).cookie(&admin);
        let foreign = ask.with("sec-fetch-site", "cross-site").send().await;
        assert_eq!(foreign.status, 403, "{verb}: from another site");
        assert!(foreign.text.contains("was not sent by a page of abide"), "{}", foreign.text);
    }
    assert_eq!(prod(&site), [(1, false), (1, false)]);
}

#[tokio::test]
async fn a_member_has_only_the_forms_that_work_for_it() {
    let site = shop().await;
    let (_, cookie) = site.visitor("anna", Role::Admin).await;
    let page = site.get("/environments/shop-prod-web").cookie(&cookie).send().await.text;
    for form in ["id=\"hold\"", "id=\"rollback\"", "id=\"resume\""] {
        assert!(!page.contains(form), "{form}: {page}");
    }
    assert!(page.contains("id=\"sync\"") && page.contains("Act on the group shop-prod"), "{page}");
    let page = site.get("/promotions/shop-prod-web").cookie(&cookie).send().await.text;
    assert!(!page.contains("/environments/shop-prod-web/promote"), "{page}");
    assert!(page.contains("Promotion of the group shop-prod"), "{page}");
}

#[tokio::test]
async fn a_name_of_the_other_kind_leads_to_its_page() {
    let site = shop().await;
    let (_, cookie) = site.visitor("anna", Role::Viewer).await;
    for (path, to) in [("/groups/dev", "/environments/dev"), ("/environments/shop-prod", "/groups/shop-prod")]
    {
        assert_eq!(site.get(path).cookie(&cookie).send().await.header("location"), to, "{path}");
    }
    assert_eq!(site.get("/groups/nowhere").cookie(&cookie).send().await.status, 404);
    assert_eq!(site.get("/promotions/shop-test").cookie(&cookie).send().await.status, 404);
}
