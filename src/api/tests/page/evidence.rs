//! Approvals, rejections and gates on the pages, as testers and deployers use them.

use super::*;
use crate::model::gates::Gates;

/// A site whose `prod` asks for approvals; `test` runs generation 1 healthy.
async fn gated(approvals: u32) -> Site {
    let site = local();
    let mut state = (**site.api.manifest.borrow()).clone();
    let gates = Gates { approvals, ..Gates::default() };
    state.manifest.environments.get_mut(&name("prod")).unwrap().gates = gates;
    site.api.manifest.send_replace(Arc::new(state));
    site.api.ready("test", 1).await;
    site
}

fn tester() -> Role {
    Role::Tester { environments: [name("test")].into() }
}

/// The fields of a form about the image of generation 1 of `test`.
fn about(more: &str) -> String {
    format!("seen=1&digest=sha256%3A{:064x}&{more}", 1)
}

const PROMOTE: &str = "from=test&seen=0&digest=sha256%3A";

fn promote(more: &str) -> String {
    format!("{PROMOTE}{:064x}{more}", 1)
}

#[tokio::test]
async fn a_tester_approves_on_the_promotion_page_and_a_deployer_promotes() {
    let site = gated(1).await;
    let (_, anna) = site.visitor("anna", tester()).await;
    let (_, dora) = site.visitor("dora", deployer(&["prod"])).await;
    let page = site.get("/promotions/prod").cookie(&dora).send().await.text;
    assert!(page.contains("Waiting: 0 of 1 approval."), "{page}");
    assert!(!page.contains("/environments/prod/promote"), "the gates are closed: {page}");
    assert!(!page.contains("/environments/test/approve"), "a deployer does not judge: {page}");
    let board = site.get("/").cookie(&dora).send().await.text;
    assert!(board.contains("Waiting: 0 of 1 approval."), "{board}");
    let refused = site.post("/environments/prod/promote", &promote("")).cookie(&dora).send().await;
    assert_eq!(refused.status, 409);
    assert!(refused.text.contains("0 of 1 approval"), "{}", refused.text);

    let page = site.get("/promotions/prod").cookie(&anna).send().await.text;
    assert!(page.contains("/environments/test/approve") && page.contains("/environments/test/reject"));
    let form = about("note=all%20pages%20load&back=prod");
    let done = site.post("/environments/test/approve", &form).cookie(&anna).send().await;
    assert_eq!((done.status, done.header("location")), (303, "/promotions/prod?did=approve"));
    let page = site.get("/promotions/prod?did=approve").cookie(&anna).send().await.text;
    assert!(page.contains("of test is approved by anna"), "{page}");
    assert!(page.contains("Approved by anna: all pages load"), "{page}");
    assert!(page.contains("1 of 1 approval (anna)"), "{page}");
    assert!(page.contains("someone who may change it has to promote"), "a tester does not promote: {page}");
    let done = site.post("/environments/prod/promote", &promote("")).cookie(&dora).send().await;
    assert_eq!(done.header("location"), "/environments/prod?moved=1");
}

#[tokio::test]
async fn a_rejection_shows_on_every_page_of_the_image_until_withdrawn() {
    let site = gated(0).await;
    let (_, anna) = site.visitor("anna", tester()).await;
    let (_, dora) = site.visitor("dora", deployer(&["prod"])).await;
    let empty = site.post("/environments/test/reject", &about("reason=%20")).cookie(&anna).send().await;
    assert_eq!(empty.status, 400);
    assert!(empty.text.contains("ive a `reason`") && empty.text.contains("Reject "), "{}", empty.text);
    let form = about("reason=the%20%3Cb%3Elogo%3C%2Fb%3E%20is%20gone");
    let done = site.post("/environments/test/reject", &form).cookie(&anna).send().await;
    assert_eq!(done.header("location"), "/environments/test?did=reject");
    let reason = "the &lt;b&gt;logo&lt;/b&gt; is gone";
    for path in ["/environments/test?did=reject", "/promotions/prod"] {
        let page = site.get(path).cookie(&anna).send().await.text;
        assert!(page.contains(&format!("Rejected by anna: {reason}")), "{path}: {page}");
        assert!(page.contains("/environments/test/withdraw") && !page.contains("/test/approve"), "{page}");
    }
    let refused = site.post("/environments/prod/promote", &promote("")).cookie(&dora).send().await;
    assert_eq!(refused.status, 409);
    assert!(refused.text.contains(reason), "{}", refused.text);
    let done = site.post("/environments/test/withdraw", &about("reason=it%20is%20back")).cookie(&anna);
    assert_eq!(done.send().await.header("location"), "/environments/test?did=withdraw");
    let page = site.get("/environments/test?did=withdraw").cookie(&anna).send().await.text;
    assert!(page.contains("is not rejected any more: withdrawn by anna"), "{page}");
    assert!(page.contains("withdrawn by anna: it is back"), "{page}");
    let done = site.post("/environments/prod/promote", &promote("")).cookie(&dora).send().await;
    assert_eq!(done.header("location"), "/environments/prod?moved=1");
}

#[tokio::test]
async fn a_stale_rejection_changes_nothing_and_keeps_its_reason() {
    let site = gated(1).await;
    let (_, anna) = site.visitor("anna", tester()).await;
    site.api.record("test", 2).await;
    site.api.report(&status("test", 2)).await;
    let form = about("reason=no%20logo&back=prod");
    let refused = site.post("/environments/test/reject", &form).cookie(&anna).send().await;
    assert_eq!(refused.status, 409);
    assert!(refused.text.contains("You saw generation 1"), "{}", refused.text);
    assert!(refused.text.contains("value=\"no logo\""), "{}", refused.text);
    assert!(refused.text.contains("href=\"/promotions/prod\""), "{}", refused.text);
    assert!(site.api.handles.desired.evidence(&name("test")).unwrap().is_empty());
}

#[tokio::test]
async fn only_an_admin_with_a_reason_can_override_gates() {
    let site = gated(2).await;
    let (_, dora) = site.visitor("dora", deployer(&["prod"])).await;
    let (_, admin) = site.visitor("ops", Role::Admin).await;
    let page = site.get("/promotions/prod").cookie(&dora).send().await.text;
    assert!(!page.contains("past the gates"), "{page}");
    let page = site.get("/promotions/prod").cookie(&admin).send().await.text;
    assert!(page.contains("id=\"override\""), "{page}");
    let form = promote("&override=1&reason=outage");
    let refused = site.post("/environments/prod/promote", &form).cookie(&dora).send().await;
    assert_eq!(refused.status, 403);
    let silent = site.post("/environments/prod/promote", &promote("&override=1")).cookie(&admin).send().await;
    assert_eq!(silent.status, 400);
    assert_eq!(generation(&site, "prod"), 0);
    let done = site.post("/environments/prod/promote", &form).cookie(&admin).send().await;
    assert_eq!(done.header("location"), "/environments/prod?moved=1");
    let page = site.get("/environments/prod").cookie(&dora).send().await.text;
    assert!(page.contains("past its gates (0 of 2 approvals): outage"), "{page}");
}
