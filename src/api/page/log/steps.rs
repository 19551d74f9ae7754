//! The steps of a build, read from the headings of its log.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use axum::body::Bytes;
use futures::{Stream, StreamExt as _};

use super::window::LineCutter;
use crate::api::LogStream;
use crate::api::page::text::{cut, length};
use crate::model::build::step_heading;
use crate::model::time::Timestamp;

/// The most steps of one build that are listed.
const MOST: usize = 200;
/// The most characters of a step.
const LONGEST: usize = 200;

/// One step.
pub(in crate::api::page) struct LogStep {
    pub(in crate::api::page) name: String,
    pub(in crate::api::page) at: Timestamp,
    /// Its duration in words; `None` while it runs.
    pub(in crate::api::page) took: Option<String>,
}

/// The steps that were found so far.
#[derive(Clone, Default)]
pub(in crate::api::page) struct FoundSteps(Arc<Mutex<Vec<(Timestamp, String)>>>);

impl FoundSteps {
    fn add(&self, line: &[u8]) {
        let line = String::from_utf8_lossy(line);
        let Some((at, name)) = step_heading(line.trim_end()) else { return };
        let mut steps = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if steps.len() < MOST {
            steps.push((at, cut(name, LONGEST)));
        }
    }

    /// The steps with their durations; the last one ends with the build.
    pub(in crate::api::page) fn ended(&self, finished: Option<Timestamp>) -> Vec<LogStep> {
        let steps = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let ends = steps.iter().skip(1).map(|(at, _)| Some(*at)).chain([finished]);
        let step = |((at, name), end): (&(Timestamp, String), Option<Timestamp>)| LogStep {
            name: name.clone(),
            at: *at,
            took: end.map(|end| length(end.since(*at).as_secs())),
        };
        steps.iter().zip(ends).map(step).collect()
    }
}

/// Passes an output on and collects the steps in it.
pub(in crate::api::page) fn steps(
    output: LogStream,
) -> (FoundSteps, impl Stream<Item = io::Result<Bytes>> + Send) {
    let found = FoundSteps::default();
    let (collected, mut lines) = (found.clone(), LineCutter::default());
    let output = output.inspect(move |piece| {
        if let Ok(piece) = piece {
            lines.take(piece, |line| collected.add(&line));
        }
    });
    (found, output)
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::{TryStreamExt as _, stream};

    #[tokio::test]
    async fn each_step_lasts_until_the_next_one_and_the_last_one_until_the_end() {
        let text = "build 7\n--- 2026-11-29T13:00:00.000Z fetch <the> commit\n--- of a program\n--- 2026-11-29T13:00:12.000Z build the image\n";
        let (found, output) = steps(stream::iter([Ok(Bytes::from(text))]).boxed());
        let passed: Vec<Bytes> = output.try_collect().await.unwrap();
        assert_eq!(passed.concat(), text.as_bytes());
        let ended = found.ended(Some(Timestamp::parse("2026-11-29T13:02:00Z").unwrap()));
        let shown: Vec<_> = ended.iter().map(|step| (step.name.as_str(), step.took.as_deref())).collect();
        assert_eq!(shown, [("fetch <the> commit", Some("12 s")), ("build the image", Some("2 min"))]);
        assert_eq!(found.ended(None)[1].took, None);
    }
}
