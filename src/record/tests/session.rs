//! Sessions of browsers: opened, used, ended, and never readable again.

use std::time::Duration;

use super::super::NewSession;
use super::{at, fixture};
use crate::model::access::Holder;
use crate::model::credential::SessionSecret;
use crate::model::name::TokenId;

const HOUR: u64 = 3_600;

fn new(user: &str) -> NewSession {
    NewSession {
        holder: Holder::Local { user: user.to_owned() },
        from: None,
        idle: Duration::from_secs(12 * HOUR),
        expires: at(100 * HOUR),
    }
}

#[tokio::test]
async fn a_session_survives_a_restart_and_needs_its_own_secret() {
    let record = fixture();
    let writer = &record.handles.token_writer;
    let (session, secret) = writer.open_session(new("alice"), at(0)).await.unwrap();
    let record = record.reopen();
    let tokens = &record.handles.tokens;
    assert_eq!(tokens.session(&secret, at(1)).unwrap(), Some(session));
    assert_eq!(tokens.session(&SessionSecret::new([0; 32]), at(1)).unwrap(), None);
    let export = serde_json::to_string(&record.handles.desired.export().unwrap()).unwrap();
    assert!(!export.contains("alice"));
}

#[tokio::test]
async fn use_extends_a_session_up_to_its_absolute_expiry() {
    let record = fixture();
    let (writer, tokens) = (&record.handles.token_writer, &record.handles.tokens);
    let (_, secret) = writer.open_session(new("alice"), at(0)).await.unwrap();
    assert!(tokens.session(&secret, at(12 * HOUR)).unwrap().is_none());
    for hour in (0..100).step_by(10) {
        assert!(tokens.session(&secret, at(hour * HOUR)).unwrap().is_some(), "{hour}");
        writer.session_used(&secret, at(hour * HOUR)).await.unwrap();
    }
    assert!(tokens.session(&secret, at(100 * HOUR)).unwrap().is_none());
}

#[tokio::test]
async fn using_an_ended_session_does_not_restore_it() {
    let record = fixture();
    let (writer, tokens) = (&record.handles.token_writer, &record.handles.tokens);
    let (session, secret) = writer.open_session(new("alice"), at(0)).await.unwrap();
    let (_, other) = writer.open_session(new("bob"), at(0)).await.unwrap();
    let changes = tokens.changes();
    assert_eq!(
        writer.end_session(&session.id).await.unwrap().map(|ended| ended.id),
        Some(session.id.clone())
    );
    assert!(changes.has_changed().unwrap(), "whoever waits for its end is woken");
    writer.session_used(&secret, at(2 * HOUR)).await.unwrap();
    assert!(tokens.session(&secret, at(2 * HOUR)).unwrap().is_none());
    assert!(tokens.session(&other, at(2 * HOUR)).unwrap().is_some());
    assert_eq!(writer.end_session(&session.id).await.unwrap(), None);
}

#[tokio::test]
async fn sessions_per_holder_are_limited_and_ended_ones_are_removed() {
    let record = fixture();
    let (writer, tokens) = (&record.handles.token_writer, &record.handles.tokens);
    let token = TokenId::new("0123456789ab").unwrap();
    let of_token = NewSession { holder: Holder::Token { token }, ..new("") };
    let (_, first) = writer.open_session(of_token.clone(), at(0)).await.unwrap();
    let (_, of_alice) = writer.open_session(new("alice"), at(0)).await.unwrap();
    for second in 1..=100 {
        writer.open_session(of_token.clone(), at(second)).await.unwrap();
    }
    assert_eq!(tokens.sessions(at(100)).unwrap().len(), 101);
    assert!(tokens.session(&first, at(100)).unwrap().is_none(), "the oldest has made room");
    assert!(tokens.session(&of_alice, at(100)).unwrap().is_some());
    writer.open_session(new("bob"), at(50 * HOUR)).await.unwrap();
    assert_eq!(tokens.sessions(at(0)).unwrap().len(), 1, "all others have ended");
}
