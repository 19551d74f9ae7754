//! Error texts: `Display` names the failed step, and each cause appears once after it.

use std::error::Error;

/// An error and its sources in one line, the outermost first.
pub fn chain(error: &dyn Error) -> String {
    let mut words = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        words.push_str(": ");
        words.push_str(&inner.to_string());
        source = inner.source();
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{words}")]
    struct TestStep {
        words: &'static str,
        source: Option<Box<TestStep>>,
    }

    #[test]
    fn every_cause_is_listed_once_and_in_order() {
        let step = |words, source: Option<TestStep>| TestStep { words, source: source.map(Box::new) };
        let error = step("the record", Some(step("writing it", Some(step("no space", None)))));
        assert_eq!(chain(&error), "the record: writing it: no space");
        assert_eq!(chain(&step("no space", None)), "no space");
    }
}
