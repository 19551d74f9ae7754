//! The front's own pages. nginx's configuration has them in quotes, so they contain neither `'` nor `$` nor
//! `\`.

use std::time::Duration;

/// The delay after which a client should retry.
pub(super) const RETRY_AFTER: Duration = Duration::from_secs(5);

/// No container of the environment is ready.
pub(super) fn none_ready(environment: &str) -> String {
    page(&format!("{environment} is not available now"), "No container is ready yet. Please try again soon.")
}

/// An operator switched maintenance on.
pub(super) fn maintenance(environment: &str) -> String {
    page(&format!("{environment} is under maintenance"), "It will be back soon. Please try again later.")
}

/// The container does not answer.
pub(super) fn unanswered(environment: &str) -> String {
    page(&format!("{environment} does not answer"), "The program did not answer. Please try again soon.")
}

/// No environment has the host name of the request.
pub(super) fn unknown_host() -> String {
    page("No such host", "There is no site with this name here.")
}

/// No environment has the path of the request.
pub(super) fn unknown_path() -> String {
    page("No such page", "There is no site at this path.")
}

fn page(title: &str, words: &str) -> String {
    format!(
        "<!doctype html><meta name=viewport content=\"width=device-width\"><title>{title}</title>\
         <body style=\"font:1.1em/1.5 sans-serif;max-width:34em;margin:18vh auto;padding:0 1em\">\
         <h1>{title}</h1><p>{words}"
    )
}
