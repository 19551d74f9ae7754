//! Groups on the page: one unit on the board, a page, and forms that change all members in one write.

use super::LIVE;
use crate::common::{Browser, Ran, axe, busybox};
use crate::groups::Shops;

/// Signs a browser in, and returns the address of the page.
fn signed_in(shops: &Shops, browser: &Browser) -> String {
    let link = shops.run(&["login"]).stdout.trim().to_owned();
    browser.open(&link);
    browser.until("the board is shown", "nav a[aria-current=page]", |text| text == "Board");
    link.split_once("/login").unwrap().0.to_owned()
}

fn a_group_is_promoted_held_and_rolled_back(width: u32) {
    let Some(browser) = Browser::start() else { return };
    let Some(shops) = Shops::new() else { return };
    let Some(shell) = busybox(&shops.space) else { return };
    let _daemon = shops.daemon();
    browser.screen(width, "light");
    let one = shops.both_run(&shell);
    let root = signed_in(&shops, &browser);
    browser.until("the board is live", LIVE, |text| text == "Live");
    browser.until("both groups are one unit each", "[data-live='lane-2-shop-test']", |text| {
        text.contains("shop-prod") && text.contains("same versions") && text.contains("group of 2")
    });

    // A new version of both members; the open board shows how far it is ahead.
    let two = [shops.version(&shell, "two", "db", ""), shops.version(&shell, "two", "web", "")];
    shops.set_test(&two);
    browser.until("the open board shows the new versions", "[data-live='lane-2-shop-test']", |text| {
        text.contains("2 members ahead")
    });
    browser.picture(&format!("groups-board-{width}"));
    browser.click("a[href$='/promotions/shop-prod']");
    browser
        .until("the page of the promotion is shown", "h1", |text| text == "Promote shop-test to shop-prod");
    browser.picture(&format!("groups-promotion-{width}"));
    is_judged(&browser, &shops, width);
    if width < 700 {
        browser.click(".acts.phone a[href='#promote']");
    }
    browser.fill("#promote input[name=note]", "for the fair");
    browser.click("#promote form button");
    browser.until("the promotion is confirmed", ".banner[role=status]", |text| {
        text.contains("shop-prod: recorded generation 2 of db and generation 2 of web, promoted by")
    });
    shops.await_group("shop-prod", &two);
    browser.until("the page shows both Ready", "[data-live=said]", |text| {
        text.contains("All members (2) are Ready")
    });

    // A form that someone fills in while another person changes a member.
    browser.unfold("#hold-fold");
    browser.fill("#hold input[name=reason]", "a reason that must not be lost");
    shops.run(&["set", "shop-prod-web", &one[1]]);
    browser.click("#hold button");
    let refusal = browser.until("the form is refused", "main", |text| text.contains("Nothing was changed"));
    for part in
        ["shop-prod-web: you saw generation 2", "Now it is generation 3", "shop-prod-db: as you saw it"]
    {
        assert!(refusal.contains(part), "{part}: {refusal}");
    }
    let kept = browser.script("return document.querySelector('#hold input[name=reason]').value");
    assert_eq!(kept, "a reason that must not be lost");
    browser.picture(&format!("groups-conflict-{width}"));
    assert!(shops.view("shop-prod-db").unwrap()["held"].is_null());

    // What was typed can be sent again, now about what is true.
    browser.click("#hold button");
    browser.until("the hold is confirmed", ".banner[role=status]", |text| text.contains("shop-prod is held"));
    shops.until("shop-prod-db", "it is held", |view| !view["held"].is_null());
    shops.until("shop-prod-web", "it is held", |view| !view["held"].is_null());
    browser.unfold("#resume-fold");
    browser.click("#resume button");
    browser.until("the end is confirmed", ".banner[role=status]", |text| text.contains("not held any more"));
    shops.await_group("shop-prod", &[two[0].clone(), one[1].clone()]);

    // The newest change was one of web alone, so the group takes that one back.
    browser.open(&format!("{root}/groups/shop-prod"));
    browser.unfold("#rollback-fold");
    browser.picture(&format!("groups-page-{width}"));
    browser.fill("#rollback input[name=reason]", "the wrong site");
    browser.click("#rollback button");
    browser
        .until("the rollback is confirmed", ".banner[role=status]", |text| text.contains("rolled back by"));
    for (member, image) in [("db", &two[0]), ("web", &two[1])] {
        shops.until(&format!("shop-prod-{member}"), "it is held at the second version", |view| {
            view["status"] == "Held" && view["image"]["id"] == image.as_str()
        });
    }
    assert_eq!(browser.overflow(), 0);
    assert_eq!(browser.errors(), Vec::<String>::new());
    is_accessible(&browser, &root);
}

/// On the page of the promotion of `shop-test`: both images are rejected, the rejection is withdrawn, and both are
/// approved, each in one write.
fn is_judged(browser: &Browser, shops: &Shops, width: u32) {
    let both = |verb: &str, what: &str| {
        let text = browser.until(what, ".banner[role=status]", |text| text.contains(what));
        assert!(text.contains("of db and image") && text.contains("of web are "), "{verb}: {text}");
    };
    if width < 700 {
        browser.click(".acts.phone a[href='#judge']");
    }
    browser.picture(&format!("groups-judge-{width}"));
    browser.unfold("#reject-fold");
    browser.fill("#reject input[name=reason]", "the prices are wrong");
    browser.click("#reject button");
    both("reject", "are rejected by");
    assert_eq!(shops.findings("rejected"), [1, 1]);
    browser.until("nothing can be promoted", "#promote", |text| text.contains("the prices are wrong"));
    browser.picture(&format!("groups-rejected-{width}"));
    browser.fill("#withdraw input[name=reason]", "it was the cache");
    browser.click("#withdraw button");
    both("withdraw", "are not rejected any more: withdrawn by");
    browser.fill("#approve input[name=note]", "every page loads");
    browser.click("#approve button");
    both("approve", "are approved by");
    assert_eq!(shops.findings("approved"), [1, 1]);
}

/// Every page about groups meets the rules, at both widths and in both colours.
fn is_accessible(browser: &Browser, root: &str) {
    let Some(axe) = axe() else { return };
    for page in [
        "/",
        "/groups/shop-test",
        "/groups/shop-prod",
        "/promotions/shop-prod",
        "/environments/shop-prod-web",
        "/promotions/shop-prod-web",
    ] {
        for (width, colours) in [(390, "light"), (390, "dark"), (1280, "light"), (1280, "dark")] {
            browser.screen(width, colours);
            browser.open(&format!("{root}{page}"));
            let found = browser.violations(&axe);
            assert!(found.is_empty(), "{page} at {width} pixels, {colours}: {found:#?}");
        }
        browser.screen(320, "light");
        assert_eq!(browser.overflow(), 0, "{page} scrolls sideways at 320 pixels");
    }
}

#[test]
#[ignore = "slow: .ci/slow runs it"]
fn on_a_phone_a_group_is_promoted_held_and_rolled_back() {
    a_group_is_promoted_held_and_rolled_back(390);
}

#[test]
fn on_a_screen_a_group_is_promoted_held_and_rolled_back() {
    a_group_is_promoted_held_and_rolled_back(1280);
}

#[test]
fn the_forms_of_a_group_work_without_scripts() {
    let Some(browser) = Browser::without_scripts() else { return };
    let Some(shops) = Shops::new() else { return };
    let Some(shell) = busybox(&shops.space) else { return };
    let daemon = shops.daemon();
    shops.both_run(&shell);
    let two = [shops.version(&shell, "two", "db", ""), shops.version(&shell, "two", "web", "")];
    shops.set_test(&two);
    let Ran { stdout: token, .. } =
        shops.run(&["token", "create", "--role", "deployer", "--environment", "shop-prod", "dora"]);
    let root = format!("http://abide.localhost:{}", daemon.port());
    browser.open(&format!("{root}/promotions/shop-prod"));
    super::sign_in_with(&browser, token.trim());
    browser.until("the page of the link is shown", "h1", |text| text == "Promote shop-test to shop-prod");
    browser.click("#promote form button");
    browser.until("the promotion is confirmed", ".banner[role=status]", |text| {
        text.contains("promoted by dora")
    });
    shops.await_group("shop-prod", &two);
    browser.unfold("#hold-fold");
    browser.fill("#hold input[name=reason]", "stocktaking");
    browser.click("#hold button");
    browser.until("the hold is confirmed", ".banner[role=status]", |text| text.contains("shop-prod is held"));
    browser.until("the reason is shown", "main", |text| text.contains("stocktaking"));
    browser.unfold("#sync-fold");
    browser.click("#sync button");
    browser.until("the check is confirmed", ".banner[role=status]", |text| {
        text.contains("shop-prod was checked")
    });
}

#[test]
fn a_group_is_approved_without_scripts() {
    let Some(browser) = Browser::without_scripts() else { return };
    let Some(shops) = Shops::new() else { return };
    let Some(shell) = busybox(&shops.space) else { return };
    let daemon = shops.daemon();
    shops.both_run(&shell);
    let Ran { stdout: token, .. } =
        shops.run(&["token", "create", "--role", "tester", "--environment", "shop-test", "anna"]);
    browser.open(&format!("http://abide.localhost:{}/groups/shop-test", daemon.port()));
    super::sign_in_with(&browser, token.trim());
    browser.until("the page of the link is shown", "h1", |text| text.contains("shop-test"));
    browser.unfold("#approve-fold");
    browser.fill("#approve input[name=note]", "every page loads");
    browser.click("#approve button");
    browser.until("the approval is confirmed", ".banner[role=status]", |text| {
        text.contains("of web are approved by anna")
    });
    assert_eq!(shops.findings("approved"), [1, 1]);
    // The command line does the same.
    shops.run(&["approve", "shop-test"]);
    shops.run(&["reject", "shop-test", "--reason", "the prices are wrong"]);
    shops.run(&["reject", "shop-test", "--withdraw"]);
    shops.run(&["sync", "shop-test", "--wait", "--timeout", "60s"]);
    assert_eq!((shops.findings("approved"), shops.findings("rejected")), ([2, 2], [1, 1]));
}
