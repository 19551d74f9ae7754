//! The outbox: the items that wait for forges and channels, and those that abide gave up.

use askama::Template;
use askama::filters::Safe;
use axum::Json;
use axum::extract::State;
use axum::response::Response;
use serde::Deserialize;
use serde_json::json;

use super::answer::{self, part};
use super::frame::Frame;
use super::guard::Visit;
use super::status::Badge;
use super::text::{PageClock, cut};
use crate::api::ApiState;
use crate::api::body::{JsonBody, QueryParams};
use crate::api::error::ApiError;
use crate::api::outbox::retry as retry_items;
use crate::model::outbox::OutboxItem;

/// The most rows.
const MOST: usize = 200;
/// The most characters of a title or an error.
const LONGEST: usize = 300;

struct OutboxRow {
    item: OutboxItem,
    badge: Badge,
}

impl OutboxRow {
    fn new(mut item: OutboxItem) -> Self {
        let badge = match (item.dead, item.attempts) {
            (Some(_), _) => Badge { look: "degraded", word: "Given up" },
            (None, 0) => Badge { look: "progress", word: "Waiting" },
            (None, _) => Badge { look: "rolled", word: "Failing" },
        };
        item.title = cut(&item.title, LONGEST);
        item.error = item.error.map(|error| cut(&error, LONGEST));
        Self { item, badge }
    }
}

#[derive(Template)]
#[template(path = "outbox-list.html")]
struct OutboxList {
    clock: PageClock,
    rows: Vec<OutboxRow>,
    more: usize,
}

#[derive(Template)]
#[template(path = "outbox.html")]
struct OutboxPage {
    frame: Frame,
    /// The number of items that were sent again.
    sent: Option<usize>,
    may_retry: bool,
    list: Safe<String>,
}

/// The result of a form that was sent before.
#[derive(Debug, Default, Deserialize)]
pub(in crate::api) struct OutboxQuery {
    sent: Option<usize>,
}

/// `GET /outbox`
pub(in crate::api) async fn outbox(
    visit: Visit,
    State(api): State<ApiState>,
    QueryParams(query): QueryParams<OutboxQuery>,
) -> Result<Response, ApiError> {
    let mut items = api.apart(|api| api.outbox.items()).await?;
    // Somebody has to act on the items that abide gave up.
    items.sort_by_key(|item| (item.dead.is_none(), item.attempts == 0));
    let may_retry =
        visit.may_administer() && items.iter().any(|item| item.attempts > 0 || item.dead.is_some());
    let more = items.len().saturating_sub(MOST);
    let rows = items.into_iter().take(MOST).map(OutboxRow::new).collect();
    let frame = Frame::new(&visit, &api, "Outbox", "activity");
    let list = part(&OutboxList { clock: frame.clock, rows, more })?;
    answer::page(&visit, &OutboxPage { frame, sent: query.sent, may_retry, list })
}

/// `POST /outbox/retry`
pub(in crate::api) async fn outbox_retry(
    visit: Visit,
    State(api): State<ApiState>,
) -> Result<Response, ApiError> {
    let body = serde_json::from_value(json!({})).map_err(|error| ApiError::bad_request(error.to_string()))?;
    let Json(done) = retry_items(State(api), JsonBody(body)).await?;
    Ok(answer::see_other(&visit.site.path(&format!("/outbox?sent={}", done.items))))
}
