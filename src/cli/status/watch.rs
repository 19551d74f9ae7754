//! `abide status --watch`: shows changes as they happen.

use std::collections::BTreeMap;
use std::io;

use super::{look, render};
use crate::cli::changes::{ChangeWatcher, Reconnect};
use crate::cli::client::ApiClient;
use crate::cli::exit::{CliError, CliExit};
use crate::cli::output::console::Console;
use crate::cli::output::style::{self, DIM, paint};
use crate::cli::output::text::one_line;
use crate::cli::session::CliSession;
use crate::model::name::EnvironmentName;
use crate::model::time::Timestamp;
use crate::model::view::{EnvironmentView, Overview};

/// Shows the state at every change, until the reader closes the output: in place on a terminal,
/// else as one line for each changed environment.
pub(crate) async fn watch(
    session: &mut CliSession,
    client: &ApiClient,
    only: Option<&EnvironmentName>,
) -> Result<CliExit, CliError> {
    let mut changes = ChangeWatcher::new(client, only);
    let mut patience = Reconnect::default();
    let mut seen = PrintedStates::default();
    loop {
        let answer = look(client, only).await;
        let now = session.now();
        if let Some(overview) = patience.bear(answer, &mut session.console)? {
            if session.console.screen().output_is_terminal && !session.console.is_json() {
                redraw(&mut session.console, &overview, only.is_some(), now)?;
            } else {
                seen.print_changes(&mut session.console, overview.environments, now)?;
            }
        }
        changes.wait().await;
    }
}

fn redraw(console: &mut Console, overview: &Overview, in_detail: bool, now: Timestamp) -> io::Result<()> {
    let mut text = render(overview, in_detail, now, console.screen().width);
    for warning in &overview.warnings {
        text.push_str(&format!("\nwarning: {}", one_line(warning)));
    }
    console.clear()?;
    console.data(&text)
}

/// The last printed state of each environment.
#[derive(Default)]
pub(super) struct PrintedStates(BTreeMap<EnvironmentName, EnvironmentView>);

impl PrintedStates {
    pub(super) fn print_changes(
        &mut self,
        console: &mut Console,
        views: Vec<EnvironmentView>,
        now: Timestamp,
    ) -> io::Result<()> {
        for view in views {
            if self.0.get(&view.environment) == Some(&view) {
                continue;
            }
            if console.is_json() {
                console.json_line(&view)?;
            } else {
                console.data(&line(&view, now))?;
            }
            self.0.insert(view.environment.clone(), view);
        }
        Ok(())
    }
}

fn line(view: &EnvironmentView, now: Timestamp) -> String {
    let at = paint(DIM, &now.to_string());
    let status = paint(style::condition(view.status), view.status.as_str());
    let (name, generation, reason) = (&view.environment, view.generation, view.reason.as_str());
    format!("{at} {name} generation {generation}: {status} ({reason}): {}", one_line(&view.message))
}
