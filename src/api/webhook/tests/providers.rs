//! Each provider with real and with impossible deliveries.

use super::*;

fn only_change(delivery: Result<VerifiedDelivery, Rejection>) -> RefChange {
    match delivery.map(|delivery| delivery.event) {
        Ok(WebhookEvent::Push(changes)) if changes.len() == 1 => changes.into_iter().next().unwrap(),
        other => panic!("no push of one reference: {other:?}"),
    }
}

fn dev() -> RefChange {
    RefChange {
        branch: BranchName::new("dev").ok(),
        raw_ref: "refs/heads/dev".into(),
        revision: CommitId::new(COMMIT).ok(),
    }
}

#[test]
fn pushes_from_every_provider_are_read() {
    for (provider, payload, send) in every_push() {
        let delivery = send(&payload).read(provider).unwrap();
        assert_eq!(delivery.event, WebhookEvent::Push(vec![dev()]), "{provider:?}");
        assert!(delivery.by.ends_with(" (alice)"), "{}", delivery.by);
        assert!(delivery.repository.unwrap().ends_with("wikicraft"));
        assert_eq!(delivery.id.map(|id| id.len()), Some(36), "{provider:?}");
    }
}

#[test]
fn a_modified_body_is_rejected() {
    for (provider, payload, send) in every_push() {
        if provider == Provider::Gitlab {
            continue; // A plain token covers no body.
        }
        let good = send(&payload);
        let text = String::from_utf8(good.body.clone()).unwrap();
        let pretty = serde_json::to_string_pretty(&payload).unwrap();
        for changed in [format!("{text}\n"), format!("\u{feff}{text}"), pretty, text.replacen('6', "7", 1)] {
            let bad = Sent { body: changed.into_bytes(), ..good.clone() };
            assert!(bad.is_refused(provider), "{provider:?}");
        }
    }
}

#[test]
fn a_delivery_without_or_with_two_signatures_is_rejected() {
    let proofs = ["x-hub-signature-256", "x-gitlab-token", "x-gitea-signature", "x-hub-signature"];
    for (provider, payload, send) in every_push() {
        let good = send(&payload);
        let proof = match provider {
            Provider::Github => proofs[0],
            Provider::Gitlab => proofs[1],
            Provider::Gitea => proofs[2],
            Provider::Bitbucket => proofs[3],
        };
        let value = good.header(proof);
        assert!(good.clone().without(proof).without("x-gogs-signature").is_refused(provider));
        assert!(good.clone().with(proof, "").is_refused(provider));
        assert!(good.clone().also(proof, &value).is_refused(provider));
        assert!(good.clone().also(proof, "sha256=00").is_refused(provider));
        assert!(good.clone().with(proof, "sha256=00").also(proof, &value).is_refused(provider));
        assert!(good.clone().with(proof, &format!("{value},{value}")).is_refused(provider));
        assert!(good.clone().with(proof, &format!("{value}, sha256=00")).is_refused(provider));
    }
}

#[test]
fn a_delivery_from_one_provider_is_rejected_for_another() {
    let everyone = [Provider::Github, Provider::Gitlab, Provider::Gitea, Provider::Bitbucket];
    for (provider, payload, send) in every_push() {
        for other in everyone.into_iter().filter(|other| *other != provider) {
            let outcome = send(&payload).read(other);
            // Gitea sends GitHub's headers on purpose, with a MAC that is valid there too.
            let twin = provider == Provider::Gitea && other == Provider::Github;
            assert_eq!(outcome.is_err(), !twin, "{provider:?} on a hook of {other:?}");
        }
    }
}

#[test]
fn a_weak_secret_never_verifies_a_delivery() {
    for weak in ["", "   ", "It's a Secret to Everybody"] {
        for (provider, payload, send) in every_push() {
            let sent = send(&payload);
            let outcome = read(provider, &Secret::new(weak), &sent.headers, &sent.body, NOW);
            assert!(matches!(outcome, Err(Rejection::Unconfigured(_))));
        }
    }
    let body = b"{}".to_vec();
    let empty_key = format!("sha256={}", hex::encode(mac(b"", &body)));
    let sent = github("push", body).with("x-hub-signature-256", &empty_key);
    assert!(sent.is_refused(Provider::Github));
}

#[test]
fn a_github_form_is_verified_over_its_raw_body() {
    let payload = github_push("refs/heads/dev", COMMIT).to_string();
    let form: String =
        form_urlencoded::Serializer::new(String::new()).append_pair("payload", &payload).finish();
    let as_form = |sent: Sent| sent.with("content-type", "application/x-www-form-urlencoded");
    assert_eq!(only_change(as_form(github("push", form.clone())).read(Provider::Github)), dev());
    let over_json = format!("sha256={}", hex_mac(payload.as_bytes()));
    assert!(
        as_form(github("push", form)).with("x-hub-signature-256", &over_json).is_refused(Provider::Github)
    );
    for broken in ["payload=%zz", "a=1", "payload={}&payload={}"] {
        let outcome = as_form(github("push", broken)).read(Provider::Github);
        assert!(matches!(outcome, Err(Rejection::BadRequest(_))), "{broken}");
    }
}

#[test]
fn githubs_sha1_signature_is_ignored() {
    let body = github_push("refs/heads/dev", COMMIT).to_string();
    let sha1 = {
        let mut mac = Hmac::<sha1::Sha1>::new_from_slice(SECRET.as_bytes()).unwrap();
        mac.update(body.as_bytes());
        format!("sha1={}", hex::encode(mac.finalize().into_bytes()))
    };
    let only_sha1 = github("push", body).without("x-hub-signature-256").with("x-hub-signature", &sha1);
    assert!(only_sha1.is_refused(Provider::Github));
    assert!(only_sha1.with("x-hub-signature-256", &sha1).is_refused(Provider::Github));
}

#[test]
fn github_pings_tags_deletions_and_other_events_are_distinguished() {
    let event = |sent: Sent| sent.read(Provider::Github).unwrap().event;
    let organization_ping = json!({"zen": "Keep it logically awesome.", "hook_id": 1, "organization": {}});
    assert_eq!(event(github("ping", organization_ping.to_string())), WebhookEvent::Ping);
    assert!(matches!(event(github("issues", "{}")), WebhookEvent::Ignored(_)));
    assert!(matches!(event(github("push", "{}").without("x-github-event")), WebhookEvent::Ignored(_)));

    let tag = github_push("refs/tags/v1", COMMIT).to_string();
    assert_eq!(only_change(github("push", tag).read(Provider::Github)).branch, None);

    let mut deleted = github_push("refs/heads/dev", &zeros());
    deleted["deleted"] = json!(true);
    deleted["head_commit"] = Value::Null;
    let change = only_change(github("push", deleted.to_string()).read(Provider::Github));
    assert_eq!((change.branch, change.revision), (dev().branch, None));
}

#[test]
fn a_senders_name_cannot_forge_a_log_line() {
    let mut payload = github_push("refs/heads/dev", COMMIT);
    payload["pusher"]["name"] = json!("a\r\n2026-01-01 INFO promoted\u{1b}[2J\u{202e}");
    payload["repository"]["full_name"] = json!("x\ny");
    let delivery = github("push", payload.to_string()).read(Provider::Github).unwrap();
    assert!(!delivery.by.chars().any(|c| c.is_control() || c == '\u{202e}'), "{}", delivery.by);
    assert_eq!(delivery.repository.as_deref(), Some("x\u{fffd}y"));
}

#[test]
fn gitlab_tags_deletions_and_system_hooks_are_read() {
    let read = |value: &Value| gitlab(value.to_string()).read(Provider::Gitlab);
    let mut annotated = gitlab_push("refs/tags/v1", OTHER);
    annotated["object_kind"] = json!("tag_push");
    annotated["checkout_sha"] = json!(COMMIT);
    let change = only_change(read(&annotated));
    assert_eq!((change.branch, change.revision), (None, dev().revision));

    let mut deleted = gitlab_push("refs/heads/dev", &zeros());
    deleted["checkout_sha"] = Value::Null;
    assert_eq!(only_change(read(&deleted)).revision, None);

    let mut system = gitlab_push("refs/heads/dev", COMMIT);
    system.as_object_mut().unwrap().remove("object_kind");
    assert_eq!(only_change(read(&system)), dev());
    assert!(matches!(read(&json!({"object_kind": "issue"})).unwrap().event, WebhookEvent::Ignored(_)));
}

#[test]
fn a_gitlab_form_has_an_unsupported_media_type() {
    let sent = gitlab("payload={}").with("content-type", "application/x-www-form-urlencoded");
    assert!(matches!(sent.read(Provider::Gitlab), Err(Rejection::UnsupportedMediaType(_))));
}

fn read_signed(sent: &Sent, secret: &str) -> Result<VerifiedDelivery, Rejection> {
    read(Provider::Gitlab, &Secret::new(secret), &sent.headers, &sent.body, NOW)
}

fn seconds(offset: i64) -> String {
    (i64::try_from(NOW.as_millis()).unwrap() / 1000 + offset).to_string()
}

#[test]
fn a_gitlab_signature_list_may_contain_other_signatures() {
    let sent = signed_gitlab(gitlab_push("refs/heads/dev", COMMIT).to_string(), &seconds(-299));
    let delivery = read_signed(&sent, SIGNING_TOKEN).unwrap();
    assert_eq!(delivery.id.as_deref(), Some("msg_2KWPBgLlAfxdpx2AI54pPJ85f4W"));
    assert_eq!(delivery.event, WebhookEvent::Push(vec![dev()]));
    let good = sent.header("webhook-signature");
    let list = sent.with("webhook-signature", &format!("v1a,AAAA v1,AAAA {good}"));
    assert!(read_signed(&list, SIGNING_TOKEN).is_ok());
}

#[test]
fn a_gitlab_signature_must_match_if_present() {
    let body = gitlab_push("refs/heads/dev", COMMIT).to_string();
    let good = signed_gitlab(body.clone(), &seconds(0));
    let signature = good.header("webhook-signature");
    let is_refused =
        |sent: &Sent, secret: &str| matches!(read_signed(sent, secret), Err(Rejection::Unauthorized(_)));
    for bad in ["", "v1,", "v1,AAAA", &signature.replace("v1,", "v2,"), &signature.replace("v1,", "v1a,")] {
        let sent = good.clone().with("webhook-signature", bad).with("x-gitlab-token", SIGNING_TOKEN);
        assert!(is_refused(&sent, SIGNING_TOKEN), "{bad:?}");
        assert!(is_refused(&sent.with("x-gitlab-token", SECRET), SECRET), "fell back to the token");
    }
    assert!(is_refused(&good.clone().also("webhook-signature", &signature), SIGNING_TOKEN));
    assert!(is_refused(&good.clone().without("webhook-id"), SIGNING_TOKEN));
    assert!(is_refused(&good.clone().with("webhook-id", "a.b"), SIGNING_TOKEN));
    assert!(is_refused(&good.with("webhook-id", "another"), SIGNING_TOKEN));
    let token_only = gitlab(body).with("x-gitlab-token", SIGNING_TOKEN);
    assert!(is_refused(&token_only, SIGNING_TOKEN), "a signing token is never sent");
}

#[test]
fn a_gitlab_signature_with_a_bad_timestamp_is_rejected() {
    let body = gitlab_push("refs/heads/dev", COMMIT).to_string();
    let times = [seconds(-360), seconds(360), "-5".into(), "1000000000".into(), "1e9".into(), String::new()];
    let overflow = ["9".repeat(30), format!("+{}", seconds(0)), format!("{}.0", seconds(0))];
    for time in times.into_iter().chain(overflow) {
        let outcome = read_signed(&signed_gitlab(body.clone(), &time), SIGNING_TOKEN);
        assert!(matches!(outcome, Err(Rejection::Unauthorized(_))), "{time}");
    }
}

#[test]
fn a_gitea_form_is_verified_over_its_json() {
    let payload = gitea_push("refs/heads/dev", COMMIT).to_string();
    let form: String =
        form_urlencoded::Serializer::new(String::new()).append_pair("payload", &payload).finish();
    let as_form = |signature: String| {
        let sent = gitea("push", form.clone()).with("content-type", "application/x-www-form-urlencoded");
        sent.with("x-gitea-signature", &signature)
    };
    assert_eq!(only_change(as_form(hex_mac(payload.as_bytes())).read(Provider::Gitea)), dev());
    assert!(as_form(hex_mac(form.as_bytes())).is_refused(Provider::Gitea));
}

#[test]
fn the_first_gitea_family_signature_decides() {
    let body = gitea_push("refs/heads/dev", COMMIT).to_string();
    let good = gitea("push", body);
    let right = good.header("x-gitea-signature");
    let gogs = good.clone().without("x-gitea-signature").without("x-gitea-event");
    assert_eq!(only_change(gogs.read(Provider::Gitea)), dev());
    assert_eq!(only_change(good.clone().with("x-forgejo-signature", &right).read(Provider::Gitea)), dev());
    assert!(good.clone().with("x-forgejo-signature", "").is_refused(Provider::Gitea));
    assert!(good.clone().with("x-gitea-signature", "").is_refused(Provider::Gitea));
    let hub_only = good.without("x-gitea-signature").without("x-gogs-signature");
    assert!(hub_only.is_refused(Provider::Gitea));
}

#[test]
fn a_gitea_deletion_is_read_from_its_branch_name() {
    let delete = |kind: &str| {
        let payload = json!({"ref": "dev", "ref_type": kind, "repository": {"full_name": "a/b"}});
        gitea("delete", payload.to_string()).read(Provider::Gitea)
    };
    let change = only_change(delete("branch"));
    assert_eq!((change.branch, change.revision), (dev().branch, None));
    assert_eq!(only_change(delete("tag")).branch, None);
    assert!(matches!(delete("other").unwrap().event, WebhookEvent::Ignored(_)));
}

#[test]
fn bitbucket_reports_several_references_in_one_delivery() {
    let mut payload = cloud_push("dev", COMMIT);
    let closed = json!({"new": null, "closed": true,
        "old": {"type": "branch", "name": "master", "target": {"hash": OTHER}}});
    let tag = json!({"new": {"type": "tag", "name": "v1", "target": {"hash": COMMIT}}, "old": null});
    let broken = json!({"new": {"type": "branch", "name": "odd", "target": {"hash": "--help"}}});
    payload["push"]["changes"].as_array_mut().unwrap().extend([closed, tag, broken, json!(5)]);
    let delivery = bitbucket("repo:push", payload.to_string()).read(Provider::Bitbucket).unwrap();
    let WebhookEvent::Push(changes) = delivery.event else { panic!("no push") };
    let shown: Vec<_> =
        changes.iter().map(|change| (change.raw_ref.as_str(), change.revision.is_some())).collect();
    assert_eq!(shown, [("refs/heads/dev", true), ("refs/heads/master", false), ("refs/tags/v1", true)]);
}

#[test]
fn bitbucket_server_deletions_and_pings_are_recognized() {
    let mut payload = server_push("refs/heads/dev", &zeros());
    payload["changes"][0]["type"] = json!("DELETE");
    let sent = bitbucket("repo:refs_changed", payload.to_string());
    assert_eq!(only_change(sent.read(Provider::Bitbucket)).revision, None);
    let ping = bitbucket("diagnostics:ping", r#"{"test":true}"#);
    assert_eq!(ping.read(Provider::Bitbucket).unwrap().event, WebhookEvent::Ping);
    assert!(ping.without("x-hub-signature").is_refused(Provider::Bitbucket));
}
