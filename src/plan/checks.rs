//! Judges the checks of a commit: whether it may be deployed, and if not, why.

use std::time::Duration;

use crate::model::checks::{CheckResult, CommitChecks, FoundCheck, NeededChecks, RequiredCheck};
use crate::model::evidence::CheckState;
use crate::model::name::CommitId;
use crate::model::time::Timestamp;

/// How long the checks of a commit must stay the same if nobody named the ones that count: CI systems report
/// further checks after the first ones have passed.
pub const QUIET: Duration = Duration::from_secs(60);
/// How long a check may stay unreported before abide no longer calls the commit waiting.
pub const REPORTED_WITHIN: Duration = Duration::from_secs(10 * 60);

/// The known state of a commit's checks.
#[derive(Clone, Debug)]
pub struct Reading<'a> {
    /// The commit.
    pub commit: &'a CommitId,
    /// Its checks.
    pub checks: &'a CommitChecks,
    /// When abide saw the commit first.
    pub first_seen: Timestamp,
    /// Since when the checks are the same.
    pub same_since: Timestamp,
}

/// The meaning of the checks of a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// Every needed check passed; the names, for the record.
    Green(Vec<String>),
    /// A check is still to come; the state as a sentence, and when time alone changes it.
    Pending(String, Option<Timestamp>),
    /// A check failed, or nothing was reported in time; the state as a sentence.
    Red(String),
}

/// The counts of the needed checks.
#[derive(Default)]
struct Tally<'a> {
    passed: Vec<&'a str>,
    running: Vec<&'a str>,
    missing: Vec<&'a str>,
    failed: Vec<&'a str>,
}

/// Judges the checks of a commit.
pub fn judge(needed: &NeededChecks, reading: &Reading<'_>, now: Timestamp) -> Judgement {
    let checks = reading.checks;
    let named: Vec<RequiredCheck>;
    let required = match needed {
        NeededChecks::Named(names) => {
            named = names.iter().map(RequiredCheck::named).collect();
            &named
        }
        NeededChecks::OfBranch => &checks.required,
    };
    if required.is_empty() {
        return all(reading, now);
    }
    let mut tally = Tally::default();
    for check in required {
        tally.add(&check.name, state_of(check, &checks.found));
    }
    tally.judged(reading, now)
}

/// The state of a check; `None`: nothing reported it. A name may exist as a check and as a status; then both must
/// pass.
pub fn state_of(check: &RequiredCheck, found: &[FoundCheck]) -> Option<CheckState> {
    combined(found.iter().filter(|found| check.is(found)).map(|found| found.result))
}

fn combined(results: impl Iterator<Item = CheckResult>) -> Option<CheckState> {
    let state = |result| match result {
        CheckResult::Failed => CheckState::Failed,
        CheckResult::Pending => CheckState::Pending,
        CheckResult::Passed | CheckResult::Skipped => CheckState::Passed,
    };
    results.map(state).reduce(|one, other| match (one, other) {
        (CheckState::Failed, _) | (_, CheckState::Failed) => CheckState::Failed,
        (CheckState::Pending, _) | (_, CheckState::Pending) => CheckState::Pending,
        (CheckState::Passed, CheckState::Passed) => CheckState::Passed,
    })
}

/// Judges a commit of a branch that requires no particular checks: all of them must have passed, and no further
/// one may have come for a while.
fn all(reading: &Reading<'_>, now: Timestamp) -> Judgement {
    let commit = reading.commit.short();
    let ran: Vec<&FoundCheck> =
        reading.checks.found.iter().filter(|found| found.result != CheckResult::Skipped).collect();
    if ran.is_empty() {
        let late = reading.first_seen.after(REPORTED_WITHIN);
        if now >= late {
            return Judgement::Red(format!(
                "commit {commit} has no checks, so it is not deployed: repeat its CI, or change `checks` in the \
                 manifest"
            ));
        }
        return Judgement::Pending(format!("waiting for CI: commit {commit} has no checks yet"), Some(late));
    }
    let mut tally = Tally::default();
    for check in &ran {
        tally.add(&check.name, combined(std::iter::once(check.result)));
    }
    match tally.judged(reading, now) {
        Judgement::Green(passed) => {
            let settled = reading.same_since.after(QUIET);
            if now >= settled {
                return Judgement::Green(passed);
            }
            let count = passed.len();
            let of = if count == 1 { "check" } else { "checks" };
            Judgement::Pending(
                format!(
                    "waiting for CI: {count} of {count} {of} of commit {commit} passed, and more may be reported \
                     within a minute"
                ),
                Some(settled),
            )
        }
        other => other,
    }
}

impl<'a> Tally<'a> {
    /// Counts a needed check.
    fn add(&mut self, name: &'a str, state: Option<CheckState>) {
        let list = match state {
            None => &mut self.missing,
            Some(CheckState::Failed) => &mut self.failed,
            Some(CheckState::Pending) => &mut self.running,
            Some(CheckState::Passed) => &mut self.passed,
        };
        list.push(name);
    }

    fn judged(self, reading: &Reading<'_>, now: Timestamp) -> Judgement {
        let commit = reading.commit.short();
        let count = self.passed.len() + self.running.len() + self.missing.len() + self.failed.len();
        if !self.failed.is_empty() {
            let (what, failed) =
                (if self.failed.len() == 1 { "check" } else { "checks" }, listed(&self.failed));
            return Judgement::Red(format!(
                "{what} {failed} of commit {commit} failed, so it is not deployed"
            ));
        }
        if self.passed.len() == count {
            return Judgement::Green(self.passed.into_iter().map(str::to_owned).collect());
        }
        let late = reading.first_seen.after(REPORTED_WITHIN);
        if self.running.is_empty() && now >= late {
            let missing = listed(&self.missing);
            return Judgement::Red(format!(
                "nothing reported {missing} for commit {commit}, so it is not deployed: repeat its CI, or change \
                 `checks` in the manifest"
            ));
        }
        let mut clauses = Vec::new();
        for (names, one, many) in [
            (&self.running, "is running", "are running"),
            (&self.missing, "is not reported yet", "are not reported yet"),
        ] {
            if !names.is_empty() {
                let verb = if names.len() == 1 { one } else { many };
                clauses.push(format!("{} {verb}", listed(names)));
            }
        }
        let passed = self.passed.len();
        let of = if count == 1 { "check" } else { "checks" };
        let sentence =
            format!("waiting for CI: {passed} of {count} {of} of commit {commit} ({})", clauses.join(", "));
        Judgement::Pending(sentence, self.running.is_empty().then_some(late))
    }
}

/// The first few names; a commit may have hundreds of checks.
fn listed(names: &[&str]) -> String {
    const MOST: usize = 5;
    let shown: Vec<String> = names.iter().take(MOST).map(|name| cut(name)).collect();
    match names.len().saturating_sub(MOST) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

/// A name that cannot break a line or fill a screen: anyone who may report a check chooses it.
fn cut(name: &str) -> String {
    name.chars().map(|c| if c.is_control() { ' ' } else { c }).take(100).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use CheckResult::{Failed, Passed, Pending, Skipped};

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_millis(seconds * 1000)
    }

    fn checks(found: &[(&str, CheckResult)]) -> CommitChecks {
        let found = found.iter().map(|(name, result)| FoundCheck::new(*name, *result)).collect();
        CommitChecks { found, required: Vec::new() }
    }

    /// The judgement on a commit that was seen first at 0, with checks that are the same since 100 s.
    fn judged(needed: &NeededChecks, checks: &CommitChecks, now: u64) -> Judgement {
        let commit = CommitId::new("a".repeat(40)).unwrap();
        let reading = Reading { commit: &commit, checks, first_seen: at(0), same_since: at(100) };
        judge(needed, &reading, at(now))
    }

    fn named(names: &[&str]) -> NeededChecks {
        NeededChecks::Named(names.iter().map(|name| (*name).to_owned()).collect())
    }

    #[test]
    fn named_checks_count_exclusively_and_immediately() {
        let needed = named(&["build", "test"]);
        let mut found = vec![("build", Passed), ("test", Passed), ("lint", Failed), ("late", Pending)];
        let green = Judgement::Green(vec!["build".to_owned(), "test".to_owned()]);
        assert_eq!(judged(&needed, &checks(&found), 100), green);
        found[1].1 = Skipped;
        assert_eq!(judged(&needed, &checks(&found), 100), green, "forges count what was skipped as passed");
        found[1].1 = Pending;
        let Judgement::Pending(sentence, edge) = judged(&needed, &checks(&found), 5000) else { panic!() };
        assert_eq!(
            sentence,
            format!("waiting for CI: 1 of 2 checks of commit {} (test is running)", "a".repeat(12))
        );
        assert_eq!(edge, None);
        found[1].1 = Failed;
        assert!(
            matches!(judged(&needed, &checks(&found), 100), Judgement::Red(why) if why.contains("check test of"))
        );
    }

    #[test]
    fn a_name_that_is_a_check_and_a_status_needs_both() {
        for (second, expected) in [(Pending, "pending"), (Failed, "red"), (Passed, "green")] {
            let found = judged(&named(&["ci"]), &checks(&[("ci", Passed), ("CI", second)]), 100);
            let word = match found {
                Judgement::Green(_) => "green",
                Judgement::Pending(..) => "pending",
                Judgement::Red(_) => "red",
            };
            assert_eq!(word, expected);
        }
    }

    #[test]
    fn a_check_that_never_appears_fails_after_a_timeout() {
        let (needed, none) = (named(&["ci"]), checks(&[("other", Passed)]));
        let Judgement::Pending(_, edge) = judged(&needed, &none, 599) else { panic!() };
        assert_eq!(edge, Some(at(600)));
        let Judgement::Red(why) = judged(&needed, &none, 600) else { panic!() };
        assert!(why.contains("nothing reported ci"), "{why}");
        let empty = checks(&[]);
        assert!(matches!(judged(&NeededChecks::OfBranch, &empty, 599), Judgement::Pending(..)));
        assert!(matches!(judged(&NeededChecks::OfBranch, &empty, 600), Judgement::Red(_)));
    }

    #[test]
    fn without_names_all_checks_count_after_a_quiet_period() {
        let green = checks(&[("a", Passed), ("b", Passed), ("c", Skipped)]);
        let Judgement::Pending(_, edge) = judged(&NeededChecks::OfBranch, &green, 159) else { panic!() };
        assert_eq!(edge, Some(at(160)));
        let names = vec!["a".to_owned(), "b".to_owned()];
        assert_eq!(judged(&NeededChecks::OfBranch, &green, 160), Judgement::Green(names));
        for bad in [Pending, Failed] {
            let found = checks(&[("a", Passed), ("b", bad)]);
            assert!(!matches!(judged(&NeededChecks::OfBranch, &found, 9999), Judgement::Green(_)));
        }
        let skipped = checks(&[("a", Skipped)]);
        assert!(
            !matches!(judged(&NeededChecks::OfBranch, &skipped, 9999), Judgement::Green(_)),
            "nothing ran"
        );
    }

    #[test]
    fn required_checks_count_exclusively_and_only_from_their_app() {
        let mut found = checks(&[("ci", Passed), ("other", Failed)]);
        found.required = vec![RequiredCheck { name: "ci".to_owned(), app: Some(7) }];
        assert_eq!(judged(&NeededChecks::OfBranch, &found, 100), Judgement::Green(vec!["ci".to_owned()]));
        found.found[0].app = Some(8);
        assert!(matches!(judged(&NeededChecks::OfBranch, &found, 100), Judgement::Pending(..)));
    }

    #[test]
    fn a_hostile_check_name_cannot_break_the_line() {
        let name = format!("x\n{}", "y".repeat(5000));
        let Judgement::Red(why) = judged(&NeededChecks::OfBranch, &checks(&[(&name, Failed)]), 100) else {
            panic!()
        };
        assert!(!why.contains('\n') && why.len() < 300, "{why}");
    }
}
