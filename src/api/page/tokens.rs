//! Tokens and sessions, for administrators: create a token, which is shown once, revoke it, end a session.

use std::collections::BTreeMap;

use askama::Template;
use axum::extract::State;
use axum::response::Response;
use serde::Deserialize;
use serde_json::{Value, json};

use super::answer;
use super::form::Fields;
use super::frame::Frame;
use super::guard::Visit;
use super::text::sentence;
use crate::api::ApiState;
use crate::api::body::{By, QueryParams};
use crate::api::error::ApiError;
use crate::api::tokens::{issue, revoke_token};
use crate::model::access::{BrowserSession, Holder, Role, Token};
use crate::model::container::Secret;
use crate::model::name::{SessionId, TokenId};
use crate::model::reading;
use crate::model::time::Timestamp;

/// The most revoked or expired tokens on the page.
const MOST_ENDED: usize = 50;

/// One token with the sessions that it opened.
struct TokenRow {
    token: Token,
    sessions: Vec<BrowserSession>,
    /// Whether its name must be typed to revoke it, and why.
    guarded: Option<&'static str>,
}

/// A session of a user of this host.
struct LocalRow {
    user: String,
    session: BrowserSession,
}

/// The fields as they were typed.
#[derive(Default)]
struct TypedToken {
    name: String,
    role: String,
    environments: String,
    agent: String,
    expires: String,
}

impl TypedToken {
    fn of(fields: &Fields) -> Self {
        let text = |name| fields.get(name).unwrap_or_default().trim().to_owned();
        Self {
            name: text("name"),
            role: text("role"),
            environments: text("environments"),
            agent: text("agent"),
            expires: text("expires"),
        }
    }

    /// The request of the API.
    fn request(&self) -> Value {
        let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let names = self.environments.split([',', ' ', '\t']).filter(|name| !name.is_empty());
        let mut request = json!({
            "role": self.role,
            "environments": names.collect::<Vec<_>>(),
            "name": given(&self.name),
            "agent": given(&self.agent),
            "expires": given(&self.expires),
        });
        if let Some(request) = request.as_object_mut() {
            request.retain(|_, value| !value.is_null());
        }
        request
    }
}

/// A token that was created just now.
struct CreatedToken {
    text: Secret,
    name: String,
    role: String,
}

#[derive(Template)]
#[template(path = "tokens.html")]
struct TokensPage {
    frame: Frame,
    notice: Option<String>,
    refused: Option<String>,
    issued: Option<CreatedToken>,
    typed: TypedToken,
    tokens: Vec<TokenRow>,
    ended: Vec<Token>,
    local: Vec<LocalRow>,
    /// The visitor's own session.
    own: Option<SessionId>,
}

impl TokensPage {
    fn roles() -> [(&'static str, &'static str); 5] {
        [
            ("viewer", "viewer: only looks"),
            ("tester", "tester: approves and rejects"),
            ("deployer", "deployer: changes environments"),
            ("admin", "admin: may do everything"),
            ("agent", "agent: acts for one host"),
        ]
    }

    fn new(visit: &Visit, api: &ApiState) -> Result<Self, ApiError> {
        let now = (api.clock)();
        let mut sessions: BTreeMap<TokenId, Vec<BrowserSession>> = BTreeMap::new();
        let mut local = Vec::new();
        for session in api.tokens.sessions(now)? {
            match session.holder.clone() {
                Holder::Token { token } => sessions.entry(token).or_default().push(session),
                Holder::Local { user } => local.push(LocalRow { user, session }),
            }
        }
        let (valid, mut ended): (Vec<_>, Vec<_>) =
            api.tokens.all()?.into_iter().partition(|token| token.is_in_force(now));
        ended.sort_by_key(|token| std::cmp::Reverse(ended_at(token)));
        ended.truncate(MOST_ENDED);
        let tokens = valid.iter().map(|token| TokenRow {
            sessions: sessions.remove(&token.id).unwrap_or_default(),
            guarded: guarded(visit, token, &valid),
            token: token.clone(),
        });
        let tokens = tokens.collect();
        Ok(Self {
            frame: Frame::new(visit, api, "Tokens", "tokens"),
            notice: None,
            refused: None,
            issued: None,
            typed: TypedToken::default(),
            tokens,
            ended,
            local,
            own: visit.session.as_ref().map(|session| session.id.clone()),
        })
    }

    fn is_own(&self, session: &BrowserSession) -> bool {
        self.own.as_ref() == Some(&session.id)
    }
}

fn ended_at(token: &Token) -> Timestamp {
    let revoked = token.revoked.as_ref().map(|stamp| stamp.at);
    revoked.or(token.expires).unwrap_or(token.created.at)
}

/// Why the name of a token must be typed before it is revoked.
fn guarded(visit: &Visit, token: &Token, valid: &[Token]) -> Option<&'static str> {
    let own = visit.access.as_ref().and_then(|access| access.person().token);
    let admins = valid.iter().filter(|token| token.role == Role::Admin).count();
    match (own.as_ref() == Some(&token.id), token.role == Role::Admin && admins == 1) {
        (true, _) => Some("You are signed in with it, so you will be signed out."),
        (false, true) => Some("It is the last token of an administrator."),
        (false, false) => None,
    }
}

/// The result of a form that was sent before.
#[derive(Debug, Default, Deserialize)]
pub(in crate::api) struct TokensQuery {
    /// The token that was revoked.
    revoked: Option<String>,
    /// Set after a session was ended.
    ended: Option<String>,
}

/// `GET /tokens`
pub(in crate::api) async fn tokens(
    visit: Visit,
    State(api): State<ApiState>,
    QueryParams(query): QueryParams<TokensQuery>,
) -> Result<Response, ApiError> {
    let mut page = TokensPage::new(&visit, &api)?;
    // Made from the record, so that the URL shows nothing of anyone's text.
    let revoked = query.revoked.and_then(|id| page.ended.iter().find(|token| token.id.as_str() == id));
    page.notice = match (revoked, query.ended) {
        (Some(token), _) => Some(format!("{} is revoked, and what it had open is closed.", token.name)),
        (None, Some(_)) => Some("The session has ended.".to_owned()),
        (None, None) => None,
    };
    answer::page(&visit, &page)
}

/// `POST /tokens`. Only its answer has the text of the token.
pub(in crate::api) async fn token_create(
    visit: Visit,
    State(api): State<ApiState>,
    By(by): By,
    fields: Fields,
) -> Result<Response, ApiError> {
    let typed = TypedToken::of(&fields);
    let wanted = reading::value(typed.request())
        .map_err(|problem| ApiError::bad_request(format!("the form is invalid: {problem}")));
    let issued = match wanted {
        Ok(wanted) => issue(&api, wanted, by).await,
        Err(error) => Err(error),
    };
    let mut page = TokensPage::new(&visit, &api)?;
    match issued {
        Ok(issued) => {
            let (name, role) = (issued.about.name.to_string(), issued.about.role.to_string());
            page.issued = Some(CreatedToken { text: issued.token, name, role });
            answer::page(&visit, &page)
        }
        Err(error) => {
            page.typed = typed;
            page.refused = Some(sentence(&error.view.message));
            answer::page_with(&visit, error.status, &page)
        }
    }
}

/// `POST /tokens/revoke`
pub(in crate::api) async fn token_revoke(
    visit: Visit,
    State(api): State<ApiState>,
    By(by): By,
    fields: Fields,
) -> Result<Response, ApiError> {
    let id = TokenId::new(fields.get("id").unwrap_or_default())
        .map_err(|_| ApiError::bad_request("the form names no token"))?;
    let token = api.tokens.get(&id)?.ok_or_else(|| ApiError::not_found("there is no such token"))?;
    let now = (api.clock)();
    let valid: Vec<Token> = api.tokens.all()?.into_iter().filter(|token| token.is_in_force(now)).collect();
    let is_confirmed = fields.filled("confirm").is_some_and(|typed| typed == token.name.as_str());
    if let Some(why) = guarded(&visit, &token, &valid).filter(|_| !is_confirmed) {
        let mut page = TokensPage::new(&visit, &api)?;
        page.refused = Some(format!(
            "Nothing was changed: type the name of the token, {}, to revoke it. {why}",
            token.name
        ));
        return answer::page_with(&visit, axum::http::StatusCode::CONFLICT, &page);
    }
    revoke_token(&api, &id, by).await?;
    Ok(answer::see_other(&visit.site.path(&format!("/tokens?revoked={id}"))))
}

/// `POST /sessions/end`
pub(in crate::api) async fn session_end(
    visit: Visit,
    State(api): State<ApiState>,
    fields: Fields,
) -> Result<Response, ApiError> {
    let id = SessionId::new(fields.get("id").unwrap_or_default())
        .map_err(|_| ApiError::bad_request("the form names no session"))?;
    let ended = api.token_writer.end_session(&id).await?;
    ended.ok_or_else(|| ApiError::not_found("there is no such session: it may have ended already"))?;
    tracing::info!(session = %id, "a session was ended by an administrator");
    Ok(answer::see_other(&visit.site.path("/tokens?ended=1")))
}
