//! Judges the gates of a promotion: may this image go to that environment now, and if not, why and until when.
//!
//! Rollbacks, automatic rollbacks, holds and repairs are never judged: they pass every gate.

use std::time::Duration;

use crate::model::desired::{Desired, Entry, Image, Origin, OvertakenPush};
use crate::model::evidence::{CheckState, Evidence, EvidenceFinding, GateAnswer, GateKind, Person};
use crate::model::gates::{Freeze, Gates, PromotionWindow, VerifySpec};
use crate::model::name::{CommitId, EnvironmentName, Generation};
use crate::model::spec::Manifest;
use crate::model::time::Timestamp;

/// An image that may be promoted.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// The environment that runs it.
    pub from: EnvironmentName,
    /// The environment that it may be promoted to.
    pub to: EnvironmentName,
    /// The image.
    pub image: Image,
    /// The first generation of the uninterrupted series that names this image. Evidence from before it is
    /// void, because the source ran another image in between.
    pub since: Generation,
    /// The commit of the image, if known.
    pub revision: Option<CommitId>,
    /// The people who pushed, set or promoted this image or a version that it contains and that the target does not,
    /// in any environment that it came through.
    pub authors: Vec<Person>,
    /// The person who asks for the promotion; `None`: nobody yet.
    pub by: Option<Person>,
    /// The mark of the source's check, if it has one.
    pub check: Option<String>,
    /// Whether the source runs the image healthy now, so that its soak continues.
    pub is_healthy: bool,
}

impl Candidate {
    /// The promotion of the image that `entry` of `from` names. `way` holds `from` and the environments that `from`
    /// is promoted from; `target` is the entry of `to`.
    pub fn new(
        (from, to): (&EnvironmentName, &EnvironmentName),
        entry: &Entry,
        image: &Image,
        (way, target): (&[Passage], &Entry),
        manifest: &Manifest,
    ) -> Self {
        let own = way.first().map(|passage| passage.history.as_slice()).unwrap_or_default();
        let verify = manifest.environments.get(from).and_then(|spec| spec.verify.as_ref());
        Self {
            from: from.clone(),
            to: to.clone(),
            image: image.clone(),
            since: series(own, entry.generation),
            revision: entry.revision.clone(),
            authors: authors(way, entry, image, target),
            by: None,
            check: verify.map(VerifySpec::mark),
            is_healthy: false,
        }
    }

    /// Whether evidence is about this image in this environment, in the current series of generations.
    fn is_about(&self, evidence: &Evidence) -> bool {
        evidence.environment == self.from
            && evidence.generation >= self.since
            && evidence.image.is_same(&self.image)
    }
}

/// The first generation of the uninterrupted series that ends at `generation` and names one image. `history`
/// is newest first.
pub fn series<'a>(history: impl IntoIterator<Item = &'a Entry>, generation: Generation) -> Generation {
    let mut until = history.into_iter().skip_while(|entry| entry.generation > generation);
    let Some(current) = until.next() else { return generation };
    let is_same = |entry: &&Entry| match (&entry.image, &current.image) {
        (Some(image), Some(current)) => image.is_same(current),
        _ => false,
    };
    until.take_while(is_same).last().unwrap_or(current).generation
}

/// The record of an environment that an image came through.
#[derive(Clone, Debug, Default)]
pub struct Passage {
    /// Its kept generations, newest first.
    pub history: Vec<Entry>,
    /// Its pushes without a generation.
    pub overtaken: Vec<OvertakenPush>,
}

/// The longest time after a push at which its delivery may still arrive. Such a push can be part of a generation that a
/// poll found before.
const LATEST_DELIVERY: Duration = Duration::from_secs(10 * 60);

/// The people who caused the entries that name `image`, without doubles. A rollback makes nobody an author.
pub fn image_authors(way: &[Passage], image: &Image) -> Vec<Person> {
    let entries = way.iter().flat_map(|passage| &passage.history);
    without_doubles(entries.filter(|entry| names(entry, image)).filter_map(author))
}

/// The same people, and those who caused what `image` contains beyond the version of `target`: pushes, changes and
/// promotions between the two, in every environment on the way. `entry` names the image in the first one.
///
/// If a history does not show the version of `target`, all that it shows counts.
pub fn authors(way: &[Passage], entry: &Entry, image: &Image, target: &Entry) -> Vec<Person> {
    let mut all = image_authors(way, image);
    for Passage { history, overtaken } in way {
        // Of repeated versions, the first one has the fewest pushes before it, so nobody is left out.
        let first = |of: &Entry, image: Option<&Image>| {
            history.iter().rev().find(|kept| is_version(kept, of.revision.as_ref(), image))
        };
        let at_the_time = || history.iter().find(|kept| kept.at <= entry.at);
        let last = first(entry, Some(image)).or_else(|| entry.revision.as_ref().and_then(|_| at_the_time()));
        let Some(last) = last else { continue };
        let base = first(target, target.image.as_ref());
        let is_between = |kept: &&Entry| {
            kept.generation <= last.generation && base.is_none_or(|base| kept.generation > base.generation)
        };
        all.extend(history.iter().filter(is_between).filter_map(author));
        let is_within = |push: &&OvertakenPush| {
            push.at <= last.at.after(LATEST_DELIVERY) && base.is_none_or(|base| push.at > base.at)
        };
        all.extend(overtaken.iter().filter(is_within).map(|push| Person::named(push.by.clone())));
    }
    without_doubles(all.into_iter())
}

fn names(entry: &Entry, image: &Image) -> bool {
    entry.image.as_ref().is_some_and(|named| shares(named, image))
}

/// Whether an entry is this version: by commit if both have one, else by image.
fn is_version(entry: &Entry, revision: Option<&CommitId>, image: Option<&Image>) -> bool {
    match (&entry.revision, revision) {
        (Some(one), Some(other)) => one == other,
        _ => image.is_some_and(|image| names(entry, image)),
    }
}

fn author(entry: &Entry) -> Option<Person> {
    let is_rollback = matches!(entry.origin, Some(Origin::Rollback | Origin::AutomaticRollback));
    let by = entry.by.clone().filter(|_| !is_rollback)?;
    Some(Person { by, token: entry.token.clone() })
}

fn without_doubles(people: impl Iterator<Item = Person>) -> Vec<Person> {
    let mut all: Vec<Person> = Vec::new();
    for person in people {
        if !all.contains(&person) {
            all.push(person);
        }
    }
    all
}

/// Whether two images share a digest or an ID. Rejections and rollbacks count for an image under any of its
/// names, because to miss one would let a bad image pass.
pub fn shares(one: &Image, other: &Image) -> bool {
    (one.id.is_some() && one.id == other.id) || (one.digest.is_some() && one.digest == other.digest)
}

/// Judges every gate. The answers come in a fixed order; a gate that is not declared has none, and rejections
/// have one only if there is a rejection. Windows and freezes are dates, so they follow the wall clock, which can be
/// set.
///
/// ```
/// use abide::model::desired::{Entry, Image};
/// use abide::model::gates::Gates;
/// use abide::model::name::EnvironmentName;
/// use abide::model::spec::Manifest;
/// use abide::model::time::Timestamp;
/// use abide::plan::gates::{Candidate, are_open, judge, sentence};
///
/// let [test, prod] = ["test", "prod"].map(|name| EnvironmentName::new(name).unwrap());
/// let image = Image { reference: None, digest: None, id: None };
/// let (entry, manifest) = (Entry::default(), Manifest::default());
/// let candidate = Candidate::new((&test, &prod), &entry, &image, (&[], &entry), &manifest);
/// let gates = Gates { approvals: 2, ..Gates::default() };
/// let answers = judge(&gates, &candidate, &[], Timestamp::default());
/// assert!(!are_open(&answers));
/// assert_eq!(sentence(&prod, &answers), "prod is waiting: 0 of 2 approvals");
/// ```
pub fn judge(
    gates: &Gates,
    candidate: &Candidate,
    evidence: &[Evidence],
    wall_clock: Timestamp,
) -> Vec<GateAnswer> {
    let mut answers = Vec::new();
    answers.extend(rejection(candidate, evidence));
    if gates.approvals > 0 {
        answers.push(approvals(gates, candidate, evidence));
    }
    answers.extend(gates.soak.map(|needed| soak(needed, candidate, evidence, wall_clock)));
    if gates.verified {
        answers.push(verified(candidate, evidence));
    }
    if !gates.checks.is_empty() {
        answers.push(checks(&gates.checks, candidate, evidence));
    }
    if let Some(key) = &gates.signed_by {
        answers.push(signed(key.mark().as_deref(), candidate, evidence));
    }
    if !gates.windows.is_empty() {
        answers.push(window(&gates.windows, wall_clock));
    }
    if !gates.freezes.is_empty() {
        answers.push(freeze(&gates.freezes, wall_clock));
    }
    answers
}

/// Whether every gate is open.
pub fn are_open(answers: &[GateAnswer]) -> bool {
    answers.iter().all(|answer| answer.open)
}

/// The closed gates as clauses: `1 of 2 approvals; soak 12 of 30 min`.
pub fn closed(answers: &[GateAnswer]) -> String {
    let closed = answers.iter().filter(|answer| !answer.open).map(|answer| answer.sentence.as_str());
    closed.collect::<Vec<_>>().join("; ")
}

/// The state of a promotion as a sentence: `prod is waiting: 1 of 2 approvals`.
pub fn sentence(to: &EnvironmentName, answers: &[GateAnswer]) -> String {
    if are_open(answers) {
        format!("{to} can be promoted")
    } else {
        format!("{to} is waiting: {}", closed(answers))
    }
}

/// The earliest time of the wall clock at which time alone changes an answer.
pub fn next_change(answers: &[GateAnswer]) -> Option<Timestamp> {
    answers.iter().filter_map(|answer| answer.next_change).min()
}

/// The reason why abide must not promote on its own, even though every gate is open; `None`: it may.
///
/// abide never repeats an image that was in the target before: a person or the loop removed it from there. It
/// follows no rollback of the source, and changes nothing while the target is held.
pub fn auto_objection(
    source: &Entry,
    image: &Image,
    target: &Desired,
    target_history: &[Entry],
) -> Option<&'static str> {
    let objection = lasting_objection(source, image, target);
    objection.or_else(|| is_repetition(image, target, target_history).then_some("it had this image before"))
}

/// Whether the target had this image before.
pub fn is_repetition(image: &Image, target: &Desired, target_history: &[Entry]) -> bool {
    let was_there = |entry: &Entry| entry.image.as_ref().is_some_and(|named| shares(named, image));
    was_there(&target.entry) || target_history.iter().any(was_there)
}

/// The same reason, apart from repetition. Members of a group return to an image that the target had before if another
/// member is new: they went back because of that one.
pub fn lasting_objection(source: &Entry, image: &Image, target: &Desired) -> Option<&'static str> {
    if target.hold.is_some() {
        return Some("it is held");
    }
    if target.bad.iter().any(|bad| shares(&bad.image, image)) {
        return Some("it was rolled back from this image");
    }
    if matches!(source.origin, Some(Origin::Rollback | Origin::AutomaticRollback)) {
        return Some("the source was rolled back to this image");
    }
    None
}

fn answer(gate: GateKind, open: bool, sentence: impl Into<String>) -> GateAnswer {
    GateAnswer { gate, open, sentence: sentence.into(), next_change: None }
}

fn rejection(candidate: &Candidate, evidence: &[Evidence]) -> Option<GateAnswer> {
    let is_of_image = |found: &&Evidence| found.is_rejection() && shares(&found.image, &candidate.image);
    let rejected = evidence.iter().rfind(is_of_image)?;
    let by = rejected.by.as_ref().map_or("someone", Person::name);
    let why = rejected.note.as_deref().unwrap_or("no reason was given");
    Some(answer(GateKind::Rejection, false, format!("rejected by {by} in {}: {why}", rejected.environment)))
}

fn approvals(gates: &Gates, candidate: &Candidate, evidence: &[Evidence]) -> GateAnswer {
    let mark = gates.mark();
    let (mut people, mut own): (Vec<&Person>, bool) = (Vec::new(), false);
    // Of each person the last word counts: a rejection that was withdrawn revives no earlier approval.
    for (at, found) in evidence.iter().enumerate() {
        let (EvidenceFinding::Approved { gates: covered }, Some(by)) = (&found.finding, &found.by) else {
            continue;
        };
        let is_covered = covered.get(&candidate.to) == Some(&mark);
        let counts = gates.by.is_empty() || gates.by.contains(by.name());
        if !candidate.is_about(found) || !is_covered || !counts {
            continue;
        }
        let is_last = !evidence[at + 1..].iter().any(|later| took_back(later, by, &candidate.image));
        let is_own = gates.others_only
            && candidate.authors.iter().chain(&candidate.by).any(|author| author.is_same(by));
        own |= is_last && is_own;
        if is_last && !is_own && !people.iter().any(|known| known.is_same(by)) {
            people.push(by);
        }
    }
    let (have, needed) = (people.len(), gates.approvals);
    let open = u32::try_from(have).unwrap_or(u32::MAX) >= needed;
    let names: Vec<&str> = people.iter().map(|person| person.name()).collect();
    let mut sentence = format!("{have} of {needed} approval{}", if needed == 1 { "" } else { "s" });
    if open {
        sentence = format!("{sentence} ({})", names.join(", "));
    } else if !gates.by.is_empty() {
        let by: Vec<&str> = gates.by.iter().map(String::as_str).collect();
        sentence = format!("{sentence} from {}", by.join(", "));
    }
    if own && !open {
        sentence.push_str(", not counting whoever pushed or promoted a part of it");
    }
    answer(GateKind::Approvals, open, sentence)
}

/// Whether `later` is a rejection of the image by the same person.
fn took_back(later: &Evidence, by: &Person, image: &Image) -> bool {
    let is_theirs = later.by.as_ref().is_some_and(|author| author.is_same(by));
    matches!(later.finding, EvidenceFinding::Rejected { .. }) && is_theirs && shares(&later.image, image)
}

fn soak(needed: Duration, candidate: &Candidate, evidence: &[Evidence], now: Timestamp) -> GateAnswer {
    let of_image =
        |found: &&Evidence| found.environment == candidate.from && found.image.is_same(&candidate.image);
    let millis = evidence.iter().filter(of_image).filter_map(|found| match found.finding {
        EvidenceFinding::Healthy { millis, .. } => Some(millis),
        _ => None,
    });
    let soaked = Duration::from_millis(millis.max().unwrap_or_default());
    if soaked >= needed {
        return answer(GateKind::Soak, true, format!("soaked {}", humantime::format_duration(needed)));
    }
    let sentence = format!("soak {}", progress(soaked, needed));
    let next_change = candidate.is_healthy.then(|| now.after(needed.saturating_sub(soaked)));
    GateAnswer { next_change, ..answer(GateKind::Soak, false, sentence) }
}

/// Describes how much of a duration has passed, in a unit in which the whole is a round number: `12 of 30 min`.
fn progress(done: Duration, total: Duration) -> String {
    const UNITS: [(u64, &str); 3] = [(24 * 3600, "days"), (3600, "h"), (60, "min")];
    let (done, total) = (done.as_secs(), total.as_secs());
    let fits = |(unit, _): &(u64, &str)| total >= 2 * unit && total % unit == 0;
    let (unit, name) = UNITS.into_iter().find(fits).unwrap_or((1, "s"));
    format!("{} of {} {name}", done / unit, total / unit)
}

fn verified(candidate: &Candidate, evidence: &[Evidence]) -> GateAnswer {
    let results = evidence.iter().rev().filter(|found| candidate.is_about(found));
    let mut results = results.filter_map(|found| match &found.finding {
        EvidenceFinding::Verified { passed, check, result, .. }
            if candidate.check.as_ref() == Some(check) =>
        {
            Some((*passed, result))
        }
        _ => None,
    });
    match results.next() {
        Some((true, _)) => answer(GateKind::Verified, true, format!("verified in {}", candidate.from)),
        Some((false, result)) => {
            answer(GateKind::Verified, false, format!("verification in {} failed: {result}", candidate.from))
        }
        None => answer(GateKind::Verified, false, format!("not verified in {} yet", candidate.from)),
    }
}

fn checks(names: &[String], candidate: &Candidate, evidence: &[Evidence]) -> GateAnswer {
    let state_of = |name: &String| {
        evidence.iter().rev().filter(|found| candidate.is_about(found)).find_map(|found| {
            match &found.finding {
                EvidenceFinding::Checks { revision, name: of, state }
                    if of == name && candidate.revision.as_ref() == Some(revision) =>
                {
                    Some(*state)
                }
                _ => None,
            }
        })
    };
    let missing: Vec<String> = names
        .iter()
        .filter_map(|name| match state_of(name) {
            Some(CheckState::Passed) => None,
            Some(CheckState::Failed) => Some(format!("check {name} failed")),
            Some(CheckState::Pending) => Some(format!("check {name} is running")),
            None => Some(format!("check {name} is missing")),
        })
        .collect();
    let open = missing.is_empty();
    answer(
        GateKind::Checks,
        open,
        if open { format!("passed {}", names.join(", ")) } else { missing.join(", ") },
    )
}

fn signed(key: Option<&str>, candidate: &Candidate, evidence: &[Evidence]) -> GateAnswer {
    let Some(key) = key else {
        return answer(GateKind::Signed, false, "the key of signatures cannot be read");
    };
    let is_signed = |found: &Evidence| {
        candidate.is_about(found)
            && matches!(&found.finding, EvidenceFinding::Signed { key: by } if by == key)
    };
    if evidence.iter().any(is_signed) {
        return answer(GateKind::Signed, true, "signed");
    }
    let why = evidence.iter().rev().filter(|found| candidate.is_about(found)).find_map(|found| match &found
        .finding
    {
        EvidenceFinding::Unsigned { key: by, why } if by == key => Some(why.as_str()),
        _ => None,
    });
    answer(GateKind::Signed, false, why.unwrap_or("no signature found"))
}

fn window(windows: &[PromotionWindow], now: Timestamp) -> GateAnswer {
    let openings: Vec<_> = windows
        .iter()
        .flat_map(|window| window.openings(now).into_iter().map(move |times| (times, window)))
        .collect();
    let is_open = |at: Timestamp| openings.iter().any(|((from, to), _)| *from <= at && at < *to);
    if is_open(now) {
        // Windows may follow one another without a gap.
        let ends = openings.iter().filter(|((_, to), _)| *to > now && !is_open(*to));
        let end = ends.min_by_key(|((_, to), _)| *to);
        let words = end
            .map_or_else(String::new, |((_, to), window)| format!(" until {}", window.zone.words(*to, now)));
        let next_change = end.map(|((_, to), _)| *to);
        return GateAnswer { next_change, ..answer(GateKind::Window, true, format!("window open{words}")) };
    }
    let next = openings.iter().filter(|((from, _), _)| *from > now).min_by_key(|((from, _), _)| *from);
    let words = next.map_or_else(
        || "no window opens".to_owned(),
        |((from, _), window)| format!("window opens {}", window.zone.words(*from, now)),
    );
    let next_change = next.map(|((from, _), _)| *from);
    GateAnswer { next_change, ..answer(GateKind::Window, false, words) }
}

fn freeze(freezes: &[Freeze], now: Timestamp) -> GateAnswer {
    let current =
        freezes.iter().filter(|freeze| freeze.from <= now && now < freeze.to).max_by_key(|freeze| freeze.to);
    if let Some(freeze) = current {
        let sentence = format!("frozen until {}", freeze.zone.words(freeze.to, now));
        return GateAnswer { next_change: Some(freeze.to), ..answer(GateKind::Freeze, false, sentence) };
    }
    let next = freezes.iter().filter(|freeze| freeze.from > now).min_by_key(|freeze| freeze.from);
    let sentence = match next {
        Some(next) => format!("no freeze before {}", next.zone.words(next.from, now)),
        None => "no freeze ahead".to_owned(),
    };
    GateAnswer { next_change: next.map(|next| next.from), ..answer(GateKind::Freeze, true, sentence) }
}
