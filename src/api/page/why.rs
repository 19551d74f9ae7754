//! The causal chain of an environment's state, as `abide why` prints it.

use std::time::Duration;

use askama::Template;
use askama::filters::Safe;
use axum::extract::State;

use super::answer::part;
use super::text::{PageClock, cut};
use crate::api::ApiState;
use crate::api::environments::{history_view, plan};
use crate::api::error::ApiError;
use crate::model::name::EnvironmentName;
use crate::model::why::{ChainLink, LOOKED_THROUGH, Line, Piece, WhyEvidence, chain};

/// How long the plan may take; the chain does without then.
const PATIENCE: Duration = Duration::from_secs(2);
/// The most characters of one piece of text.
const LONGEST: usize = 1_000;

/// Collects the data of the chain.
pub(super) async fn evidence(api: &ApiState, name: &EnvironmentName) -> Result<WhyEvidence, ApiError> {
    let found = api.find(name.as_str())?;
    let asked = tokio::time::timeout(PATIENCE, plan(State(api.clone()), found)).await;
    let (plan, plan_error) = match asked {
        Ok(Ok(plan)) => (Some(plan.0), None),
        Ok(Err(error)) => (None, Some(error.view.message)),
        Err(_) => (None, Some("the plan did not come within two seconds".to_owned())),
    };
    let warnings = api.controller.iter().flat_map(|controller| controller.warnings()).collect();
    let name = name.clone();
    api.apart(move |api| {
        let (environment, _) = api.view_apart_from_build(&name)?;
        let mut warnings: Vec<String> = warnings;
        warnings.extend(environment.warnings.iter().cloned());
        let events = api.status.events(Some(&name), None, LOOKED_THROUGH)?;
        let history = api.status.history(&name)?.into_iter();
        let record = history.map(history_view).find(|view| view.generation == environment.generation);
        Ok(WhyEvidence { environment, record, plan, plan_error, warnings, events })
    })
    .await
}

#[derive(Template)]
#[template(path = "why.html")]
struct Why<'a> {
    clock: PageClock,
    links: &'a [ChainLink],
}

impl Why<'_> {
    /// The label with a capital letter.
    fn label(link: &ChainLink) -> String {
        let mut letters = link.label.chars();
        letters
            .next()
            .map_or_else(String::new, |first| format!("{}{}", first.to_uppercase(), letters.as_str()))
    }

    fn pieces(line: &Line) -> Vec<Piece> {
        let shortened = |piece: &Piece| match piece {
            Piece::Text(text) => Piece::Text(cut(text, LONGEST)),
            other => other.clone(),
        };
        line.0.iter().map(shortened).collect()
    }
}

/// The chain as a part of a page.
pub(super) fn why(clock: PageClock, evidence: &WhyEvidence) -> Result<Safe<String>, ApiError> {
    let mut links = chain(evidence);
    links.retain(|link| !link.lines.is_empty());
    part(&Why { clock, links: &links })
}
