//! Tokens: created, used, revoked, and never readable again.

use std::fs;
use std::path::Path;
use std::time::Duration;

use super::super::{Handles, NewToken, TokenError, open};
use super::{at, fixture, name, set};
use crate::model::access::{AuditStamp, Role, Token};
use crate::model::credential::Credential;
use crate::model::name::{AgentName, TokenId, TokenName};
use crate::record::store::{BatchLine, DocumentKind};

fn by_alice(seconds: u64) -> AuditStamp {
    AuditStamp { at: at(seconds), by: "alice".into() }
}

fn new(called: &str, role: Role) -> NewToken {
    NewToken { name: TokenName::new(called).unwrap(), role, expires: None }
}

async fn made(handles: &Handles, called: &str) -> (Token, Credential) {
    handles.token_writer.create(new(called, Role::Viewer), by_alice(0)).await.unwrap()
}

/// Every byte of every file below the folder.
fn bytes_below(folder: &Path) -> Vec<u8> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_dir() {
            all.extend(bytes_below(&entry.path()));
        } else {
            all.extend(fs::read(entry.path()).unwrap());
        }
    }
    all
}

fn contains(haystack: &[u8], needle: &str) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle.as_bytes())
}

#[tokio::test]
async fn a_token_is_valid_after_a_restart_and_a_wrong_one_is_not() {
    let record = fixture();
    let role = Role::Agent { agent: AgentName::new("online").unwrap() };
    let writer = &record.handles.token_writer;
    let (token, credential) = writer.create(new("online", role), by_alice(0)).await.unwrap();
    let record = record.reopen();
    let tokens = &record.handles.tokens;
    assert_eq!(tokens.verify(&credential, at(1)).unwrap(), Some(token.clone()));
    let wrong_secret = Credential::new(token.id.clone(), [0; 32]);
    let wrong_id = Credential::new(TokenId::new("0".repeat(12)).unwrap(), [0; 32]);
    for wrong in [wrong_secret, wrong_id] {
        assert_eq!(tokens.verify(&wrong, at(1)).unwrap(), None);
    }
    assert_eq!(tokens.all().unwrap(), [token]);
}

#[tokio::test]
async fn tokens_are_unique() {
    let record = fixture();
    let (one, first) = made(&record.handles, "one").await;
    let (other, second) = made(&record.handles, "other").await;
    assert_ne!(one.id, other.id);
    assert_ne!(first.hash(), second.hash());
}

#[tokio::test]
async fn a_revoked_token_is_invalid_immediately() {
    let record = fixture();
    let (token, credential) = made(&record.handles, "ci").await;
    let mut changes = record.handles.tokens.changes();
    let revoked = record.handles.token_writer.revoke(&token.id, by_alice(5)).await.unwrap().unwrap();
    assert_eq!(revoked.revoked, Some(by_alice(5)));
    assert!(changes.has_changed().unwrap(), "nobody who waits was told");
    changes.mark_unchanged();
    assert_eq!(record.handles.tokens.verify(&credential, at(0)).unwrap(), None);
    // Revoking again changes neither the time nor the author.
    let again = record.handles.token_writer.revoke(&token.id, by_alice(9)).await.unwrap().unwrap();
    assert_eq!(again.revoked, Some(by_alice(5)));
    let record = record.reopen();
    assert_eq!(record.handles.tokens.verify(&credential, at(0)).unwrap(), None);
    let unknown = TokenId::new("0".repeat(12)).unwrap();
    assert_eq!(record.handles.token_writer.revoke(&unknown, by_alice(9)).await.unwrap(), None);
}

#[tokio::test]
async fn a_token_ends_when_it_expires() {
    let record = fixture();
    let until = NewToken { expires: Some(at(10)), ..new("short", Role::Admin) };
    let (_, credential) = record.handles.token_writer.create(until, by_alice(0)).await.unwrap();
    assert!(record.handles.tokens.verify(&credential, at(9)).unwrap().is_some());
    assert_eq!(record.handles.tokens.verify(&credential, at(10)).unwrap(), None);
}

#[tokio::test]
async fn valid_tokens_have_unique_names() {
    let record = fixture();
    let (token, _) = made(&record.handles, "ci").await;
    let writer = &record.handles.token_writer;
    let again = writer.create(new("ci", Role::Admin), by_alice(1)).await;
    assert!(matches!(again, Err(TokenError::NameTaken(name)) if name == token.name));
    writer.revoke(&token.id, by_alice(2)).await.unwrap();
    writer.create(new("ci", Role::Admin), by_alice(3)).await.unwrap();
    assert_eq!(record.handles.tokens.all().unwrap().len(), 2);
}

#[tokio::test]
async fn a_long_ended_token_is_pruned_when_the_next_one_is_created() {
    let record = fixture();
    let (old, credential) = made(&record.handles, "old").await;
    let (writer, tokens) = (&record.handles.token_writer, &record.handles.tokens);
    writer.used(&old.id, at(0)).await.unwrap();
    writer.revoke(&old.id, by_alice(0)).await.unwrap();
    let days = |days: u64| days * 24 * 60 * 60;
    writer.create(new("a", Role::Viewer), by_alice(days(90))).await.unwrap();
    assert!(tokens.get(&old.id).unwrap().is_some());
    writer.create(new("b", Role::Viewer), by_alice(days(91))).await.unwrap();
    assert_eq!(tokens.get(&old.id).unwrap(), None);
    assert_eq!(tokens.verify(&credential, at(0)).unwrap(), None);
}

#[tokio::test]
async fn the_last_use_of_a_token_has_hourly_precision() {
    let record = fixture();
    let (token, credential) = made(&record.handles, "ci").await;
    let (writer, tokens) = (&record.handles.token_writer, &record.handles.tokens);
    for seconds in [10, 20, 10 + 3_599] {
        writer.used(&token.id, at(seconds)).await.unwrap();
    }
    assert_eq!(tokens.get(&token.id).unwrap().unwrap().used, Some(at(10)));
    writer.used(&token.id, at(10 + 3_600)).await.unwrap();
    let seen = tokens.verify(&credential, at(4_000)).unwrap().unwrap();
    assert_eq!(seen.used, Some(at(3_610)));
    writer.used(&TokenId::new("0".repeat(12)).unwrap(), at(1)).await.unwrap();
    assert_eq!(tokens.all().unwrap().len(), 1);
}

#[tokio::test]
async fn the_secret_is_in_no_file_and_no_export() {
    let record = fixture();
    let (token, credential) = made(&record.handles, "ci").await;
    record.handles.writer.submit(&name("dev"), set(1), &[]).await.unwrap();
    let export = serde_json::to_string(&record.handles.desired.export().unwrap()).unwrap();
    record.handles.close().await.unwrap();
    let kept = bytes_below(record.home.path());
    let text = credential.bearer();
    let secret = text.expose().splitn(3, '_').nth(2).unwrap();
    assert!(contains(&kept, token.id.as_str()), "the token itself is kept");
    assert!(!contains(&kept, secret) && !export.contains(token.id.as_str()), "{export}");
    let mirror = fs::read_to_string(record.home.path().join("record.json")).unwrap();
    assert!(!mirror.contains(token.id.as_str()) && !mirror.contains(&hex::encode(credential.hash())));
}

#[tokio::test]
async fn an_import_neither_restores_nor_removes_tokens() {
    let record = fixture();
    let (token, credential) = made(&record.handles, "ci").await;
    let (_, kept) = made(&record.handles, "kept").await;
    let backup = record.handles.desired.export().unwrap();
    record.handles.token_writer.revoke(&token.id, by_alice(1)).await.unwrap();
    record.handles.writer.import(backup).await.unwrap();
    assert_eq!(record.handles.tokens.verify(&credential, at(2)).unwrap(), None);
    assert!(record.handles.tokens.verify(&kept, at(2)).unwrap().is_some());
}

#[tokio::test]
async fn tokens_are_lost_with_their_store() {
    let record = fixture();
    let (_, credential) = made(&record.handles, "ci").await;
    record.handles.writer.submit(&name("dev"), set(1), &[]).await.unwrap();
    record.handles.close().await.unwrap();
    fs::remove_dir_all(record.home.path().join("sled")).unwrap();
    let handles = open(record.home.path()).unwrap();
    assert_eq!(handles.desired.all().unwrap().len(), 1, "the record itself is restored");
    assert_eq!(handles.tokens.verify(&credential, at(2)).unwrap(), None);
}

#[tokio::test]
async fn a_corrupt_token_is_set_aside_and_does_not_prevent_a_start() {
    let record = fixture();
    let (token, credential) = made(&record.handles, "ci").await;
    let store = record.handles.shared_store();
    let spoilt = store.get(DocumentKind::Tokens, token.id.as_str().as_bytes()).unwrap().unwrap();
    let moved = BatchLine { kind: DocumentKind::Tokens, key: b"000000000000".to_vec(), value: Some(spoilt) };
    let poisoned = BatchLine {
        kind: DocumentKind::Tokens,
        key: token.id.as_str().as_bytes().to_vec(),
        value: Some(br#"{"id":"x"}"#.to_vec()),
    };
    store.write(&[moved, poisoned]).unwrap();
    assert!(record.handles.tokens.verify(&credential, at(1)).is_err());
    let record = record.reopen();
    assert_eq!(record.handles.notices.len(), 2, "{:?}", record.handles.notices);
    assert_eq!(record.handles.tokens.verify(&credential, at(1)).unwrap(), None);
    assert_eq!(record.handles.tokens.all().unwrap(), []);
}

#[tokio::test]
async fn on_a_full_disk_no_token_is_created_or_revoked() {
    let record = fixture();
    let (token, credential) = made(&record.handles, "ci").await;
    record.handles.pretend_to_be_full();
    let refused = record.handles.token_writer.create(new("other", Role::Viewer), by_alice(1)).await;
    assert!(matches!(refused, Err(TokenError::Record(_))));
    assert!(record.handles.token_writer.revoke(&token.id, by_alice(1)).await.is_err());
    assert!(record.handles.tokens.verify(&credential, at(1)).unwrap().is_some());
    assert_eq!(record.handles.tokens.all().unwrap().len(), 1);
}

#[test]
fn the_use_of_a_token_is_recorded_hourly() {
    let mut token = Token {
        id: TokenId::new("0".repeat(12)).unwrap(),
        name: TokenName::new("ci").unwrap(),
        role: Role::Viewer,
        created: by_alice(0),
        expires: None,
        used: None,
        revoked: None,
    };
    assert!(super::super::TokenReader::is_worth_noting(&token, at(0)));
    token.used = Some(at(0));
    assert!(!super::super::TokenReader::is_worth_noting(&token, at(3_599)));
    assert!(super::super::TokenReader::is_worth_noting(&token, at(0).after(Duration::from_secs(3_600))));
}
