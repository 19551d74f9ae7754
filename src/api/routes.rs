//! All routes of the API with their permissions, in the one table that the router is built from. A
//! route cannot be added without a rule; everything that no rule allows is refused.

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request};
use axum::handler::Handler;
use axum::http::Method;
use axum::middleware::{Next, from_fn};
use axum::routing::{self, MethodFilter, MethodRouter};

use super::access::{AccessRule, guard};
use super::{
    ApiState, agent, attach, environments, error, gates, jobs, logs, meta, metrics, outbox, page, tokens,
    transfer, verbs, wait, watch,
};

/// The longest body of a command, in bytes.
const LONGEST_BODY: usize = 64 * 1024;
/// The longest report of an agent, in bytes: enough for a thousand environments with their last
/// events.
const LONGEST_REPORT: usize = 16 << 20;

/// One route.
pub(super) struct ApiRoute {
    pub(super) method: Method,
    pub(super) path: &'static str,
    pub(super) rule: AccessRule,
    handler: MethodRouter<ApiState>,
    longest_body: usize,
    /// Whether browsers show it, signed in by a cookie.
    pub(super) is_page: bool,
}

impl ApiRoute {
    fn new<H, T>(
        filter: MethodFilter,
        method: Method,
        path: &'static str,
        rule: AccessRule,
        handler: H,
    ) -> Self
    where
        H: Handler<T, ApiState>,
        T: 'static,
    {
        let handler = routing::on(filter, handler);
        Self { method, path, rule, handler, longest_body: LONGEST_BODY, is_page: false }
    }

    /// Sets the maximum body length in bytes.
    fn taking(self, longest_body: usize) -> Self {
        Self { longest_body, ..self }
    }

    /// Makes it a page of the web page.
    fn page(self) -> Self {
        Self { is_page: true, ..self }
    }

    fn guarded(self, api: &ApiState) -> MethodRouter<ApiState> {
        let (rule, path, api) = (self.rule, self.path, api.clone());
        let handler = self.handler.layer(DefaultBodyLimit::max(self.longest_body));
        // The guard is the outermost layer, so that it runs before any part of the body is read.
        if self.is_page {
            let guard = move |request: Request, next: Next| {
                page::guard::guard(rule, path, api.clone(), request, next)
            };
            return handler.route_layer(from_fn(guard));
        }
        handler.route_layer(from_fn(move |request: Request, next: Next| guard(rule, path, request, next)))
    }
}

fn get<H: Handler<T, ApiState>, T: 'static>(path: &'static str, rule: AccessRule, handler: H) -> ApiRoute {
    ApiRoute::new(MethodFilter::GET, Method::GET, path, rule, handler)
}

fn post<H: Handler<T, ApiState>, T: 'static>(path: &'static str, rule: AccessRule, handler: H) -> ApiRoute {
    ApiRoute::new(MethodFilter::POST, Method::POST, path, rule, handler)
}

fn delete<H: Handler<T, ApiState>, T: 'static>(path: &'static str, rule: AccessRule, handler: H) -> ApiRoute {
    ApiRoute::new(MethodFilter::DELETE, Method::DELETE, path, rule, handler)
}

/// Returns all routes.
pub(super) fn table() -> Vec<ApiRoute> {
    use AccessRule::{Administer, Agent, Anyone, Judge, Local, Look, Move, Run};
    vec![
        get("/healthz", Anyone, meta::healthz),
        get("/readyz", Anyone, meta::readyz),
        get("/metrics", Look, metrics::metrics),
        get("/api/v1/environments", Look, environments::all),
        get("/api/v1/environments/{environment}", Look, environments::one),
        get("/api/v1/environments/{environment}/history", Look, environments::history),
        get("/api/v1/environments/{environment}/events", Look, environments::events),
        get("/api/v1/environments/{environment}/plan", Look, environments::plan),
        get("/api/v1/environments/{environment}/stats", Look, environments::stats),
        get("/api/v1/environments/{environment}/logs", Look, logs::logs),
        get("/api/v1/environments/{environment}/wait", Look, wait::wait),
        get("/api/v1/environments/{environment}/evidence", Look, gates::evidence),
        post("/api/v1/environments/{environment}/approve", Judge, verbs::approve),
        post("/api/v1/environments/{environment}/reject", Judge, verbs::reject),
        post("/api/v1/environments/{environment}/withdraw", Judge, verbs::withdraw),
        post("/api/v1/environments/{environment}/set", Move, verbs::set),
        post("/api/v1/environments/{environment}/promote", Move, verbs::promote),
        post("/api/v1/environments/{environment}/rollback", Move, verbs::rollback),
        post("/api/v1/environments/{environment}/hold", Move, verbs::hold),
        post("/api/v1/environments/{environment}/resume", Move, verbs::resume),
        post("/api/v1/environments/{environment}/maintenance", Move, verbs::maintenance),
        post("/api/v1/environments/{environment}/canary", Move, verbs::canary),
        post("/api/v1/environments/{environment}/sync", Move, verbs::sync),
        post("/api/v1/environments/{environment}/attach", Run, attach::attach),
        post("/api/v1/environments/{environment}/forget", Administer, verbs::forget),
        get("/api/v1/jobs", Look, jobs::list),
        get("/api/v1/jobs/{job}", Look, jobs::one),
        get("/api/v1/jobs/{job}/logs", Look, jobs::logs),
        get("/api/v1/events", Look, environments::all_events),
        get("/api/v1/watch", Look, watch::watch),
        get("/api/v1/export", Look, transfer::export),
        post("/api/v1/import", Administer, transfer::import).taking(usize::MAX),
        post("/api/v1/sync", Administer, verbs::sync_all),
        get("/api/v1/outbox", Look, outbox::list),
        post("/api/v1/outbox/retry", Administer, outbox::retry),
        post("/api/v1/notify/{channel}/test", Administer, outbox::test),
        get("/api/v1/tokens", Administer, tokens::list),
        post("/api/v1/tokens", Administer, tokens::create),
        delete("/api/v1/tokens/{token}", Administer, tokens::revoke),
        get("/api/v1/agent/self", Agent, agent::itself),
        get("/v2/{*path}", Agent, agent::pull),
        post("/api/v1/agent/session", Agent, agent::session),
        post("/api/v1/agent/report", Agent, agent::report).taking(LONGEST_REPORT),
        post("/api/v1/agent/answers/{id}", Agent, agent::answer).taking(usize::MAX),
        get("/api/v1/agent/inputs/{id}", Agent, agent::input),
        post("/api/v1/login", Local, page::login_link),
        get("/", Look, page::board).page(),
        get("/environments/{environment}", Look, page::environment).page(),
        get("/groups/{environment}", Look, page::group).page(),
        post("/environments/{environment}/promote", Move, page::promote).page(),
        post("/environments/{environment}/rollback", Move, page::rollback).page(),
        post("/environments/{environment}/hold", Move, page::hold).page(),
        post("/environments/{environment}/resume", Move, page::resume).page(),
        post("/environments/{environment}/canary-promote", Move, page::canary_promote).page(),
        post("/environments/{environment}/canary-abort", Move, page::canary_abort).page(),
        post("/environments/{environment}/set", Move, page::set).page(),
        post("/environments/{environment}/sync", Move, page::sync).page(),
        post("/environments/{environment}/approve", Judge, page::approve).page(),
        post("/environments/{environment}/reject", Judge, page::reject).page(),
        post("/environments/{environment}/withdraw", Judge, page::withdraw).page(),
        get("/environments/{environment}/logs", Look, page::log).page(),
        get("/environments/{environment}/logs.txt", Look, page::log_download).page(),
        get("/environments/{environment}/logs/follow", Look, page::log_follow).page(),
        get("/environments/{environment}/builds", Look, page::builds).page(),
        get("/environments/{environment}/builds/{number}", Look, page::build).page(),
        get("/environments/{environment}/builds/{number}/log.txt", Look, page::build_download).page(),
        get("/environments/{environment}/builds/{number}/follow", Look, page::build_follow).page(),
        get("/environments/{environment}/history", Look, page::history).page(),
        get("/environments/{environment}/events", Look, page::events).page(),
        get("/activity", Look, page::activity).page(),
        get("/hosts", Look, page::hosts).page(),
        get("/outbox", Look, page::outbox).page(),
        post("/outbox/retry", Administer, page::outbox_retry).page(),
        get("/tokens", Administer, page::tokens).page(),
        post("/tokens", Administer, page::token_create).page(),
        post("/tokens/revoke", Administer, page::token_revoke).page(),
        post("/sessions/end", Administer, page::session_end).page(),
        get("/promotions/{environment}", Look, page::promotion).page(),
        get("/hints", Look, page::hints).page(),
        get("/assets/{name}", Anyone, page::asset).page(),
        get("/login", Anyone, page::login_form).page(),
        post("/login", Anyone, page::login).page(),
        post("/logout", Anyone, page::logout).page(),
    ]
}

/// Returns all routes, each behind its rule. The server must identify the caller by an
/// `Access` in the request's extensions.
pub fn router(state: ApiState) -> Router {
    let routes = table().into_iter();
    let routes = routes.fold(Router::new(), |router, route| {
        tracing::trace!(method = %route.method, path = route.path, rule = ?route.rule, "serves");
        router.route(route.path, route.guarded(&state))
    });
    routes.fallback(error::no_route).method_not_allowed_fallback(error::no_method).with_state(state)
}
