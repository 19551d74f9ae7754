//! Activity, hosts, tokens and the outbox on the pages.

use super::*;

#[tokio::test]
async fn activity_shows_the_actor_action_and_address() {
    let site = local();
    let (_, anna) = site.visitor("anna", Role::Admin).await;
    site.api.ready("dev", 2).await;
    site.api.ready("test", 1).await;
    let page = async |query: &str| site.get(&format!("/activity{query}")).cookie(&anna).send().await.text;
    site.post("/environments/dev/hold", "seen=2&reason=a%20%3Cdemo%3E").cookie(&anna).send().await;
    let held = page("?kind=hold").await;
    assert!(held.contains("a &lt;demo&gt;") && !held.contains("generation 2"), "{held}");
    let rejected = format!("seen=1&digest=sha256%3A{:064x}&reason=no%20logo", 1);
    site.post("/environments/test/reject", &rejected).cookie(&anna).send().await;
    let rollback =
        site.post("/environments/dev/rollback", "seen=2&to=1&reason=slow").cookie(&anna).send().await;
    assert_eq!(rollback.status, 303);
    let all = page("").await;
    assert!(
        all.contains("generation 3 rolled back") && all.contains("token anna (192.0.2.7, page)"),
        "{all}"
    );
    assert!(all.contains("image rejected") && all.contains("no logo"), "{all}");
    let judged = page("?kind=judgement").await;
    assert!(judged.contains("image rejected") && !judged.contains("generation"), "{judged}");
    let of_test = page("?environment=test&by=ANNA").await;
    assert!(of_test.contains("image rejected") && !of_test.contains("rolled back"), "{of_test}");
    assert!(page("?by=nobody").await.contains("Nothing here."));
    assert_eq!(site.get("/activity?environment=nowhere").cookie(&anna).send().await.status, 404);
    assert_eq!(site.get("/activity?before=yesterday").cookie(&anna).send().await.status, 400);
}

#[tokio::test]
async fn a_long_history_is_paginated() {
    let site = local();
    let (_, cookie) = site.visitor("viewer", Role::Viewer).await;
    for number in 1..=60 {
        site.api.record("dev", number).await;
    }
    let first = site.get("/environments/dev/history").cookie(&cookie).send().await.text;
    assert!(
        first.contains("<strong class=\"num\">60</strong>")
            && !first.contains("<strong class=\"num\">10</strong>")
    );
    assert!(first.contains("href=\"?before=11\""), "{first}");
    let second = site.get("/environments/dev/history?before=11").cookie(&cookie).send().await.text;
    assert!(
        second.contains("<strong class=\"num\">10</strong>")
            && second.contains("<strong class=\"num\">1</strong>")
    );
    assert!(!second.contains("?before="), "{second}");
    let events = site.get("/environments/dev/events?kind=record").cookie(&cookie).send().await;
    assert_eq!(events.status, 200);
    let activity = site.get("/activity").cookie(&cookie).send().await.text;
    assert_eq!(activity.matches("<tr><td").count(), 50, "{activity}");
    assert!(activity.contains("/activity?before="), "{activity}");
}

#[tokio::test]
async fn the_hosts_page_lists_this_host_and_all_agents() {
    let site = local();
    let (_, cookie) = site.visitor("viewer", Role::Viewer).await;
    site.token("of-tokyo", agent("tokyo"), None).await;
    let mut declared = manifest();
    declared.manifest.environments.get_mut(&name("lab")).unwrap().host =
        Some(crate::model::name::AgentName::new("oslo").unwrap());
    site.api.manifest.send_replace(Arc::new(declared));
    let text = site.get("/hosts").cookie(&cookie).send().await.text;
    assert!(text.contains("this host") && text.contains("Engine answers"), "{text}");
    assert!(text.contains("tokyo") && text.contains("oslo") && text.contains("Never seen"), "{text}");
    assert!(text.contains(">lab</a>"), "{text}");
}

#[tokio::test]
async fn a_token_is_shown_once_and_revoking_it_ends_its_sessions() {
    let site = local();
    let (_, admin) = site.visitor("ops", Role::Admin).await;
    let form = "name=qa&role=tester&environments=test%2C+prod&expires=90d";
    let created = site.post("/tokens", form).cookie(&admin).send().await;
    assert_eq!((created.status, created.header("cache-control")), (200, "no-store"));
    let at = created.text.find("value=\"abide_").unwrap();
    let text = created.text[at + 7..].split('"').next().unwrap().to_owned();
    let credential = Credential::parse(&text).unwrap();
    let qa = site.sign_in(&credential).await;
    assert_eq!(site.get("/tokens").cookie(&qa).send().await.status, 403);
    let page = site.get("/tokens").cookie(&admin).send().await.text;
    assert!(!page.contains(&text) && page.contains("1 session"), "{page}");
    assert!(page.contains("from 192.0.2.7") && page.contains("this one"), "{page}");
    let id = credential.id().to_string();
    let revoked = site.post("/tokens/revoke", &format!("id={id}")).cookie(&admin).send().await;
    assert_eq!(revoked.header("location"), format!("/tokens?revoked={id}"));
    assert_eq!(site.get("/").cookie(&qa).send().await.status, 303);
    let page = site.get(&format!("/tokens?revoked={id}")).cookie(&admin).send().await.text;
    assert!(page.contains("qa is revoked"), "{page}");
}

#[tokio::test]
async fn an_invalid_token_form_creates_nothing_and_keeps_its_input() {
    let site = local();
    let (_, admin) = site.visitor("ops", Role::Admin).await;
    for (form, why) in [
        ("name=qa&role=tester", "issing `environments`"),
        ("name=qa&role=deployer&environments=nowhere", "nknown environment `nowhere`"),
        ("role=viewer", "issing `name`"),
        ("name=qa&role=viewer&expires=soon", "nvalid `expires`"),
        ("name=%3Cqa%3E&role=viewer", "invalid"),
        ("name=qa&role=god", "god"),
    ] {
        let answer = site.post("/tokens", form).cookie(&admin).send().await;
        assert!(matches!(answer.status, 400 | 404 | 422), "{form}: {}", answer.status);
        assert!(answer.text.contains(why), "{form}: {}", answer.text);
        assert!(!answer.text.contains("abide_") || !answer.text.contains("id=\"issued\""));
    }
    let kept = site.post("/tokens", "name=qa&role=tester&expires=9d").cookie(&admin).send().await.text;
    assert!(kept.contains("value=\"qa\"") && kept.contains("value=\"9d\""), "{kept}");
    assert!(kept.contains("<option value=\"tester\" selected>"), "{kept}");
    assert_eq!(site.api.handles.tokens.all().unwrap().len(), 1);
}

#[tokio::test]
async fn revoking_your_own_or_the_last_admin_token_needs_its_name() {
    let site = local();
    let (own, cookie) = site.visitor("ops", Role::Admin).await;
    let send = async |more: &str| {
        site.post("/tokens/revoke", &format!("id={}{more}", own.id)).cookie(&cookie).send().await
    };
    for wrong in ["", "&confirm=", "&confirm=Ops"] {
        let refused = send(wrong).await;
        assert_eq!(refused.status, 409, "{wrong}");
        assert!(refused.text.contains("type the name of the token, ops"), "{}", refused.text);
    }
    assert_eq!(site.get("/tokens").cookie(&cookie).send().await.status, 200);
    assert_eq!(send("&confirm=ops").await.status, 303);
    assert_eq!(site.get("/tokens").cookie(&cookie).send().await.status, 303, "signed out");
}

#[tokio::test]
async fn an_administrator_can_end_another_users_session() {
    let site = local();
    let (_, admin) = site.visitor("ops", Role::Admin).await;
    let (token, anna) = site.visitor("anna", Role::Viewer).await;
    let sessions = site.api.handles.tokens.sessions(at(1_000)).unwrap();
    let is_annas = |session: &crate::model::access::BrowserSession| {
        session.holder == crate::model::access::Holder::Token { token: token.id.clone() }
    };
    let id = sessions.into_iter().find(is_annas).unwrap().id;
    let ended = site.post("/sessions/end", &format!("id={id}")).cookie(&admin).send().await;
    assert_eq!(ended.header("location"), "/tokens?ended=1");
    assert_eq!(site.get("/").cookie(&anna).send().await.status, 303);
    assert_eq!(site.post("/sessions/end", &format!("id={id}")).cookie(&admin).send().await.status, 404);
}

#[tokio::test]
async fn a_promotion_url_with_both_names_redirects_to_its_target() {
    let site = public("https://ci.example.com/abide");
    let (_, cookie) = site.visitor("viewer", Role::Viewer).await;
    let answer = site.get("/promotions/test-prod").cookie(&cookie).send().await;
    assert_eq!((answer.status, answer.header("location")), (303, "/abide/promotions/prod"));
    assert_eq!(site.get("/promotions/dev-prod").cookie(&cookie).send().await.status, 404);
}

#[tokio::test]
async fn an_empty_outbox_is_shown_as_empty() {
    let site = local();
    let (_, cookie) = site.visitor("ops", Role::Admin).await;
    let text = site.get("/outbox").cookie(&cookie).send().await.text;
    assert!(text.contains("It is empty"), "{text}");
    let retried = site.post("/outbox/retry", "").cookie(&cookie).send().await;
    assert_eq!(retried.header("location"), "/outbox?sent=0");
    let text = site.get("/outbox?sent=0").cookie(&cookie).send().await.text;
    assert!(text.contains("nothing is sent again"), "{text}");
}

#[tokio::test]
async fn the_board_for_a_single_environment_shows_its_cause_and_output() {
    let site = local();
    let (_, cookie) = site.visitor("viewer", Role::Viewer).await;
    let board = async || site.get("/").cookie(&cookie).send().await.text;
    assert!(!board().await.contains("<h2 id=\"why-h\">"), "there are several");
    let mut declared = manifest();
    declared.manifest.environments.retain(|known, _| *known == name("dev"));
    site.api.manifest.send_replace(Arc::new(declared));
    site.api.ready("dev", 1).await;
    let text = board().await;
    assert!(text.contains("<h2 id=\"why-h\">") && text.contains("dev LogOptions"), "{text}");
}
