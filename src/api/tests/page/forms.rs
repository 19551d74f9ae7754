//! Forms that change an environment.

use super::*;
use crate::api::tests::canary_status;
use crate::model::canary::CanaryDecision;

#[tokio::test]
async fn a_rollback_notice_is_built_from_the_record() {
    let site = local();
    let (_, cookie) = site.visitor("anna", deployer(&["dev"])).await;
    site.api.ready("dev", 3).await;
    let page = site.get("/environments/dev").cookie(&cookie).send().await.text;
    assert!(page.contains("<option value=\"2\" selected>"), "{page}");
    let form = "seen=3&to=1&reason=out%20of%20memory%20%3Cb%3E";
    let answer = site.post("/environments/dev/rollback", form).cookie(&cookie).send().await;
    assert_eq!((answer.status, answer.header("location")), (303, "/environments/dev?moved=4"));
    let desired = site.api.handles.desired.get(&name("dev")).unwrap();
    assert_eq!(desired.entry.by.as_deref(), Some("token anna (192.0.2.7, page)"));
    assert_eq!(desired.entry.note.as_deref(), Some("rolled back to generation 1: out of memory <b>"));
    assert!(desired.hold.is_some());
    let page = site.get("/environments/dev?moved=4").cookie(&cookie).send().await.text;
    assert!(page.contains("dev: generation 4 is recorded, rolled back by anna"), "{page}");
    assert!(page.contains("out of memory &lt;b&gt;") && page.contains("Resume dev"), "{page}");
    let page = site.get("/environments/dev?moved=99").cookie(&cookie).send().await.text;
    assert!(!page.contains("is recorded, "), "the record has no such generation");
}

#[tokio::test]
async fn a_repeated_or_stale_form_changes_nothing_and_keeps_its_input() {
    let site = local();
    let (_, cookie) = site.visitor("anna", Role::Admin).await;
    site.api.ready("dev", 3).await;
    let send = async |form: &str| site.post("/environments/dev/rollback", form).cookie(&cookie).send().await;
    assert_eq!(send("seen=3&to=1&reason=slow").await.status, 303);
    let again = send("seen=3&to=1&reason=slow%20%22quoted%22").await;
    assert_eq!((again.status, generation(&site, "dev")), (409, 4));
    assert!(again.text.contains("Nothing was changed."), "{}", again.text);
    assert!(again.text.contains("You saw generation 3, image 000000000000"), "{}", again.text);
    assert!(
        again.text.contains("Now it is generation 4") && again.text.contains("rolled back by you"),
        "{}",
        again.text
    );
    assert!(again.text.contains("value=\"slow &quot;quoted&quot;\""), "{}", again.text);
    assert!(again.text.contains("name=\"seen\" value=\"4\""), "{}", again.text);
    assert_eq!(send("to=1").await.status, 400, "the form must say what was seen");
    assert_eq!(send("seen=x&to=1").await.status, 400);
    assert_eq!(generation(&site, "dev"), 4);
}

#[tokio::test]
async fn a_hold_needs_a_reason_and_a_resume_ends_it() {
    let site = local();
    let (_, cookie) = site.visitor("anna", Role::Admin).await;
    site.api.ready("dev", 1).await;
    let refused = site.post("/environments/dev/hold", "seen=1&reason=%20").cookie(&cookie).send().await;
    assert_eq!(refused.status, 400);
    assert!(refused.text.contains("issing `reason`"), "{}", refused.text);
    let held = site.post("/environments/dev/hold", "seen=1&reason=demo").cookie(&cookie).send().await;
    assert_eq!(held.header("location"), "/environments/dev?did=hold");
    let page = site.get("/environments/dev?did=hold").cookie(&cookie).send().await.text;
    assert!(page.contains("dev is held"), "{page}");
    let resumed = site.post("/environments/dev/resume", "seen=1").cookie(&cookie).send().await;
    assert_eq!(resumed.header("location"), "/environments/dev?did=resume");
    assert!(site.api.handles.desired.get(&name("dev")).unwrap().hold.is_none());
    let page = site.get("/environments/dev?did=hold").cookie(&cookie).send().await.text;
    assert!(!page.contains("dev is held"), "a notice is made from the record: {page}");
}

#[tokio::test]
async fn a_canary_is_shown_with_forms_that_decide_about_it() {
    let site = local();
    let (_, cookie) = site.visitor("anna", Role::Admin).await;
    site.api.ready("dev", 1).await;
    let page = site.get("/environments/dev").cookie(&cookie).send().await.text;
    assert!(!page.contains("canary-abort"), "{page}");
    site.api.record("dev", 2).await;
    site.api.report(&canary_status("dev", 2)).await;
    let page = site.get("/environments/dev").cookie(&cookie).send().await.text;
    for part in [
        "Canary: 10 % of the visitors for 4m of 15m; 0.2 % 5xx of 1204 requests.",
        "/environments/dev/canary-promote",
        "/environments/dev/canary-abort",
    ] {
        assert!(page.contains(part), "{part}: {page}");
    }
    let sent = site.post("/environments/dev/canary-abort", "seen=2&reason=slow").cookie(&cookie).send().await;
    assert_eq!(sent.header("location"), "/environments/dev?did=canary-abort");
    let order = site.api.handles.desired.get(&name("dev")).unwrap().canary_order.unwrap();
    assert_eq!((order.decision, order.reason.as_deref()), (CanaryDecision::Abort, Some("slow")));
    let sent = site.post("/environments/dev/canary-promote", "seen=2").cookie(&cookie).send().await;
    assert_eq!(sent.header("location"), "/environments/dev?did=canary-promote");
    let order = site.api.handles.desired.get(&name("dev")).unwrap().canary_order.unwrap();
    assert_eq!(order.decision, CanaryDecision::Promote);
}

#[tokio::test]
async fn the_set_form_matches_how_the_environment_is_supplied() {
    let site = local();
    let (_, cookie) = site.visitor("anna", Role::Admin).await;
    site.api.ready("dev", 1).await;
    let page = site.get("/environments/dev").cookie(&cookie).send().await.text;
    assert!(page.contains("name=\"commit\"") && !page.contains("name=\"image\""));
    let page = site.get("/environments/lab").cookie(&cookie).send().await.text;
    assert!(page.contains("name=\"image\"") && !page.contains("name=\"commit\""));
    let commit = "a".repeat(40);
    let set =
        site.post("/environments/dev/set", &format!("seen=1&commit={commit}")).cookie(&cookie).send().await;
    assert_eq!(set.header("location"), "/environments/dev?moved=2");
    let wrong =
        site.post("/environments/lab/set", "seen=0&image=nginx%3Alatest").cookie(&cookie).send().await;
    assert_eq!(wrong.status, 400);
    assert!(
        wrong.text.contains("has no digest") && wrong.text.contains("value=\"nginx:latest\""),
        "{}",
        wrong.text
    );
}

#[tokio::test]
async fn a_promotion_is_rejected_if_either_side_changed() {
    let site = local();
    let (_, cookie) = site.visitor("anna", deployer(&["prod"])).await;
    site.api.ready("test", 2).await;
    let page = site.get("/promotions/prod").cookie(&cookie).send().await;
    assert_eq!(page.status, 200);
    let digest = format!("sha256:{:064x}", 2);
    assert!(page.text.contains(&format!("name=\"digest\" value=\"{digest}\"")), "{}", page.text);
    assert!(page.text.contains("The two versions cannot be compared"), "{}", page.text);
    let old = format!("from=test&seen=0&digest=sha256%3A{:064x}", 1);
    let stale = site.post("/environments/prod/promote", &old).cookie(&cookie).send().await;
    assert_eq!((stale.status, generation(&site, "prod")), (409, 0));
    assert!(stale.text.contains("href=\"/promotions/prod\""), "{}", stale.text);
    let form = format!("from=test&seen=0&digest={}", digest.replace(':', "%3A"));
    let done = site.post("/environments/prod/promote", &form).cookie(&cookie).send().await;
    assert_eq!(done.header("location"), "/environments/prod?moved=1");
    let twice = site.post("/environments/prod/promote", &form).cookie(&cookie).send().await;
    assert_eq!((twice.status, generation(&site, "prod")), (409, 1));
    let page = site.get("/promotions/prod").cookie(&cookie).send().await.text;
    assert!(page.contains("prod has this image already, as generation 1."), "{page}");
    assert_eq!(site.get("/promotions/dev").cookie(&cookie).send().await.status, 404);
}

#[tokio::test]
async fn a_visitor_without_write_access_gets_no_forms() {
    let site = local();
    site.api.ready("test", 2).await;
    let (_, viewer) = site.visitor("viewer", Role::Viewer).await;
    let (_, of_dev) = site.visitor("deployer", deployer(&["dev"])).await;
    for cookie in [&viewer, &of_dev] {
        for path in ["/environments/test", "/promotions/prod"] {
            let text = site.get(path).cookie(cookie).send().await.text;
            assert_eq!(text.matches("<form").count(), 1, "only the logout: {path}: {text}");
        }
    }
}
