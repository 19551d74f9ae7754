//! Output of the demo: suggestions, and the actions of the controller.

use std::io::Write as _;
use std::path::Path;

use anstyle::{AnsiColor, Style};

use super::repository::ExampleRepository;
use crate::model::container::Secret;
use crate::model::event::{Event, EventKind};
use crate::record::{Handles, Wakeup};

/// Prints a paragraph. A closed output must not leave containers behind.
pub(super) fn print(text: &str) {
    let _ = writeln!(anstream::stdout(), "{text}");
}

/// Prints every event as it happens, until dropped.
pub(super) async fn events(handles: Handles) -> anyhow::Result<()> {
    let mut wakeups = handles.wakeups.subscribe();
    let mut last = None;
    loop {
        for event in handles.status.events(None, last, 1000)? {
            last = Some(event.sequence);
            print(&line(&event));
        }
        // After any wakeup, or a missed one, the events are read again.
        while !matches!(wakeups.recv().await, Ok(Wakeup::Event(_)) | Err(_)) {}
    }
}

fn line(event: &Event) -> String {
    let colour = match event.environment.as_str() {
        "dev" => AnsiColor::Cyan,
        "test" => AnsiColor::Yellow,
        _ => AnsiColor::Magenta,
    };
    let style = match event.kind {
        EventKind::Failure => Style::new().fg_color(Some(AnsiColor::Red.into())),
        EventKind::Status => Style::new().bold(),
        _ => Style::new(),
    };
    let environment = Style::new().fg_color(Some(colour.into()));
    let (name, kind, message) = (event.environment.as_str(), event.kind.as_str(), &event.message);
    format!("{environment}{name:<5}{environment:#} {kind:<7} {style}{message}{style:#}")
}

/// Returns suggestions for the user.
pub(super) fn what_to_try(
    folder: &Path,
    repository: &ExampleRepository,
    ports: [u16; 3],
    link: Option<&Secret>,
) -> String {
    let page = link.map_or_else(String::new, |link| {
        format!("  {}   the web page; the link works once\n", link.expose())
    });
    let program = std::env::current_exe().unwrap_or_else(|_| "abide".into());
    let abide = format!("{} --desired-state {}", program.display(), folder.display());
    let work = repository.work.display();
    let [dev, test, prod] = ports;
    let head = Style::new().bold();
    format!(
        "
{head}dev, test and prod run:{head:#}
  http://127.0.0.1:{dev}/   dev
  http://127.0.0.1:{test}/   test
  http://127.0.0.1:{prod}/   prod, with the same image as test
{page}
{head}Try in another terminal:{head:#}
  push a change       cd {work}
                      sed -i 's/<h1>/<h1>My /' www/index.html
                      git commit -am 'a change' && git push
  deploy it to test   git push origin dev:master
  promote it          {abide} promote test prod
  watch               {abide} status --watch
  break something     docker kill dev-server; docker rm -f test-server; docker pause prod-server
  explain             {abide} why dev
  open the page again {abide} login
  roll back           {abide} rollback prod

{head}Ctrl-C ends the demo and removes everything it created. Actions of the controller:{head:#}
"
    )
}
