//! Gates of promotions: sentences, times, and laws that hold for every sequence of evidence and edits.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::prelude::*;

use crate::model::desired::{Bad, Desired, Entry, Image, Origin, OvertakenPush};
use crate::model::evidence::{CheckState, Evidence, EvidenceFinding, GateAnswer, Person, Withdrawal};
use crate::model::gates::{Gates, SignatureKey};
use crate::model::manifest::{SourceFile, parse};
use crate::model::name::{CommitId, Digest, EnvironmentName, Generation};
use crate::model::status::Reason;
use crate::model::time::Timestamp;
use crate::plan::gates::{
    Candidate, Passage, are_open, authors, auto_objection, closed, image_authors, judge, next_change,
    sentence, series,
};

fn name(text: &str) -> EnvironmentName {
    EnvironmentName::new(text).unwrap()
}

fn image(number: u8) -> Image {
    Image { reference: None, digest: None, id: Some(Digest::of_sha256(&[number; 32])) }
}

fn at(text: &str) -> Timestamp {
    Timestamp::parse(text).unwrap()
}

/// The gates of `promote = { from = "test", LINES }`.
fn gates(lines: &str) -> Gates {
    let text = format!(
        "[environment.test]\ncontainer = \"test\"\nport = 1\nverify = {{ command = [\"x\"] }}\n\
         [environment.prod]\ncontainer = \"prod\"\nport = 2\npromote = {{ from = \"test\", {lines} }}\n"
    );
    let manifest = parse(&[SourceFile { name: "m.toml".to_owned(), text }]).unwrap();
    manifest.environments[&name("prod")].gates.clone()
}

fn found(number: u8, generation: u64, by: Option<&str>, finding: EvidenceFinding) -> Evidence {
    Evidence {
        sequence: 1,
        environment: name("test"),
        image: image(number),
        generation: Generation(generation),
        finding,
        by: by.map(Person::named),
        at: Timestamp::default(),
        note: None,
    }
}

fn approved(number: u8, generation: u64, by: &str, gates: &Gates) -> Evidence {
    let covered = BTreeMap::from([(name("prod"), gates.mark())]);
    found(number, generation, Some(by), EvidenceFinding::Approved { gates: covered })
}

fn rejected(number: u8, by: &str, why: &str) -> Evidence {
    let note = Some(why.to_owned());
    Evidence { note, ..found(number, 1, Some(by), EvidenceFinding::Rejected { withdrawn: None }) }
}

fn healthy(number: u8, seconds: u64) -> Evidence {
    let since = Timestamp::default();
    found(number, 1, None, EvidenceFinding::Healthy { millis: seconds * 1000, restarts: 0, since })
}

/// The promotion of image 1, which `test` runs since generation 1; ben pushed it.
struct Scene {
    gates: Gates,
    authors: Vec<Person>,
    by: Option<Person>,
    evidence: Vec<Evidence>,
}

impl Scene {
    fn new(lines: &str, evidence: Vec<Evidence>) -> Self {
        Self { gates: gates(lines), authors: vec![Person::named("github (Ben)")], by: None, evidence }
    }

    fn answers(&self, now: Timestamp) -> Vec<GateAnswer> {
        let (from, to, image) = (name("test"), name("prod"), image(1));
        let revision = CommitId::new("a".repeat(40)).unwrap();
        let candidate = Candidate {
            from,
            to,
            image,
            since: Generation(1),
            revision: Some(revision),
            authors: self.authors.clone(),
            by: self.by.clone(),
            check: Some("check".to_owned()),
            is_healthy: true,
        };
        judge(&self.gates, &candidate, &self.evidence, now)
    }

    fn closed(&self) -> String {
        closed(&self.answers(Timestamp::default()))
    }
}

#[test]
fn a_waiting_promotion_reports_what_it_waits_for() {
    let lines = "approvals = 2, soak = \"30m\", verified = true, \
                 windows = [{ days = \"mon-thu\", hours = \"09:00-16:00\", zone = \"Asia/Shanghai\" }]";
    let scene = Scene::new(lines, vec![approved(1, 1, "anna", &gates(lines)), healthy(1, 12 * 60 + 30)]);
    // A Sunday evening in Shanghai.
    let now = at("2026-11-29T12:00:00Z");
    let answers = scene.answers(now);
    assert_eq!(
        sentence(&name("prod"), &answers),
        "prod is waiting: 1 of 2 approvals; soak 12 of 30 min; not verified in test yet; window opens Mon 09:00 CST"
    );
    assert_eq!(next_change(&answers), Some(now.after(Duration::from_secs(17 * 60 + 30))));
    let scene = Scene::new("approvals = 1, by = [\"qa\"]", Vec::new());
    assert_eq!(scene.closed(), "0 of 1 approval from qa");
}

#[test]
fn an_approval_counts_for_one_image_one_set_of_gates_and_one_series() {
    let lines = "approvals = 1";
    let good = approved(1, 1, "anna", &gates(lines));
    assert_eq!(Scene::new(lines, vec![good.clone()]).closed(), "");
    for (what, evidence) in [
        ("another image", approved(2, 1, "anna", &gates(lines))),
        ("other gates", approved(1, 1, "anna", &gates("approvals = 1, soak = \"1m\""))),
        ("an earlier series", approved(1, 0, "anna", &gates(lines))),
        ("another environment", Evidence { environment: name("dev"), ..good.clone() }),
        ("another target", found(1, 1, Some("anna"), EvidenceFinding::Approved { gates: BTreeMap::new() })),
        ("nobody", Evidence { by: None, ..good.clone() }),
    ] {
        assert_eq!(Scene::new(lines, vec![evidence]).closed(), "0 of 1 approval", "{what}");
    }
    let twice = vec![approved(1, 1, "anna", &gates("approvals = 2")); 2];
    assert_eq!(Scene::new("approvals = 2", twice).closed(), "1 of 2 approvals", "a person counts once");
}

#[test]
fn others_only_excludes_the_author_and_the_promoter() {
    let lines = "approvals = 1, others_only = true";
    let by_author = approved(1, 1, "token ben (192.0.2.7)", &gates(lines));
    let scene = Scene::new(lines, vec![by_author]);
    assert_eq!(scene.closed(), "0 of 1 approval, not counting whoever pushed or promoted a part of it");
    let mut scene = Scene::new(lines, vec![approved(1, 1, "anna", &gates(lines))]);
    assert_eq!(scene.closed(), "");
    scene.by = Some(Person::named("token anna (192.0.2.9)"));
    assert!(!scene.closed().is_empty(), "who promotes is not another person");
    let scene = Scene::new("approvals = 1", vec![approved(1, 1, "ben", &gates("approvals = 1"))]);
    assert_eq!(scene.closed(), "", "without others_only, authors approve");
}

#[test]
fn a_rejection_blocks_the_image_everywhere_until_it_is_withdrawn() {
    let elsewhere =
        Evidence { environment: name("dev"), ..rejected(1, "token anna (192.0.2.7)", "logo is gone") };
    let scene = Scene::new("auto = false", vec![elsewhere.clone()]);
    assert_eq!(scene.closed(), "rejected by anna in dev: logo is gone");
    assert_eq!(Scene::new("auto = false", vec![rejected(2, "anna", "x")]).closed(), "", "another image");
    let (by, at) = (Person::named("anna"), Timestamp::default());
    let withdrawn = Some(Withdrawal { by, at, note: None });
    let withdrawn = Evidence { finding: EvidenceFinding::Rejected { withdrawn }, ..elsewhere };
    assert_eq!(Scene::new("auto = false", vec![withdrawn.clone()]).closed(), "");
    let lines = "approvals = 1";
    let before = vec![approved(1, 1, "anna", &gates(lines)), withdrawn.clone()];
    assert_eq!(Scene::new(lines, before).closed(), "0 of 1 approval", "a withdrawal is no approval");
    let after = vec![withdrawn, approved(1, 1, "anna", &gates(lines))];
    assert_eq!(Scene::new(lines, after).closed(), "");
}

#[test]
fn a_rejection_finds_the_image_by_its_digest_alone() {
    let digest = Some(Digest::of_sha256(&[9; 32]));
    let pushed = Image { digest: digest.clone(), ..image(1) };
    let by_digest =
        Evidence { image: Image { digest, id: None, reference: None }, ..rejected(1, "anna", "no") };
    let (from, to) = (name("test"), name("prod"));
    let candidate = Candidate {
        from,
        to,
        image: pushed,
        since: Generation(1),
        revision: None,
        authors: Vec::new(),
        by: None,
        check: None,
        is_healthy: true,
    };
    assert!(!are_open(&judge(&Gates::default(), &candidate, &[by_digest], Timestamp::default())));
}

#[test]
fn only_current_checks_for_this_image_satisfy_the_gates() {
    let verified = |passed, check: &str| {
        let (check, result, output) = (check.to_owned(), "exit code 1".to_owned(), String::new());
        found(1, 1, None, EvidenceFinding::Verified { passed, check, result, output })
    };
    let closed = |evidence| Scene::new("verified = true", evidence).closed();
    assert_eq!(closed(vec![verified(true, "check")]), "");
    assert_eq!(closed(vec![verified(true, "an earlier one")]), "not verified in test yet");
    assert_eq!(
        closed(vec![verified(true, "check"), verified(false, "check")]),
        "verification in test failed: exit code 1",
        "the last result counts"
    );
    let check = |commit: &str, name: &str, state| {
        let revision = CommitId::new(commit.repeat(40)).unwrap();
        found(1, 1, None, EvidenceFinding::Checks { revision, name: name.to_owned(), state })
    };
    let with_checks = |evidence| {
        let gates = Gates { checks: vec!["ci/build".to_owned()], ..Gates::default() };
        Scene { gates, ..Scene::new("auto = false", evidence) }.closed()
    };
    assert_eq!(with_checks(vec![check("a", "ci/build", CheckState::Passed)]), "");
    assert_eq!(with_checks(vec![check("b", "ci/build", CheckState::Passed)]), "check ci/build is missing");
    assert_eq!(with_checks(vec![check("a", "ci/other", CheckState::Passed)]), "check ci/build is missing");
    assert_eq!(with_checks(vec![check("a", "ci/build", CheckState::Pending)]), "check ci/build is running");
    assert_eq!(with_checks(vec![check("a", "ci/build", CheckState::Failed)]), "check ci/build failed");
    let key = SignatureKey { file: "k.pub".into(), pem: Some("PEM".to_owned()) };
    let with_key = |key: &SignatureKey, by: &str| {
        let gates = Gates { signed_by: Some(key.clone()), ..Gates::default() };
        let evidence = vec![found(1, 1, None, EvidenceFinding::Signed { key: by.to_owned() })];
        Scene { gates, ..Scene::new("auto = false", evidence) }.closed()
    };
    assert_eq!(with_key(&key, &key.mark().unwrap()), "");
    assert_eq!(with_key(&key, "another key"), "no signature found");
    let unsigned = |generation, key: String| {
        let why = "1 signature found, and none verifies".to_owned();
        found(1, generation, None, EvidenceFinding::Unsigned { key, why })
    };
    let why = |evidence| {
        let gates = Gates { signed_by: Some(key.clone()), ..Gates::default() };
        Scene { gates, ..Scene::new("auto = false", evidence) }.closed()
    };
    let mark = || key.mark().unwrap();
    assert_eq!(why(vec![unsigned(1, mark())]), "1 signature found, and none verifies");
    assert_eq!(why(vec![unsigned(1, "another key".to_owned())]), "no signature found");
    let signed = || found(1, 1, None, EvidenceFinding::Signed { key: mark() });
    assert_eq!(why(vec![unsigned(1, mark()), signed()]), "", "it was signed later");
    assert_eq!(why(vec![signed(), unsigned(1, mark())]), "", "and stays signed");
    assert_eq!(
        with_key(&SignatureKey { pem: None, ..key.clone() }, ""),
        "the key of signatures cannot be read"
    );
}

/// The state of the windows and freezes at a moment, and the moment at which it changes.
fn time(lines: &str, now: &str) -> (bool, String, Option<String>) {
    let answers = Scene::new(lines, Vec::new()).answers(at(now));
    let next = next_change(&answers).map(|next| next.to_string());
    (
        are_open(&answers),
        answers.iter().map(|answer| answer.sentence.as_str()).collect::<Vec<_>>().join("; "),
        next,
    )
}

#[test]
fn windows_follow_daylight_saving_changes_of_their_zone() {
    let window = |days: &str, hours: &str, zone: &str| {
        format!("windows = [{{ days = \"{days}\", hours = \"{hours}\", zone = \"{zone}\" }}]")
    };
    let next = |lines: &str, now: &str| {
        let (open, _, next) = time(lines, now);
        (open, next.unwrap())
    };
    let shown = |open: bool, text: &str| (open, format!("{text}:00.000Z"));
    // The night in which the clocks go forward has seven hours of this window, and the one back has nine.
    let night = window("sat", "22:00-06:00", "Europe/Berlin");
    assert_eq!(next(&night, "2027-03-27T20:59:59Z"), shown(false, "2027-03-27T21:00"));
    assert_eq!(next(&night, "2027-03-27T21:00:00Z"), shown(true, "2027-03-28T04:00"));
    assert_eq!(next(&night, "2027-10-30T20:00:00Z"), shown(true, "2027-10-31T05:00"));
    // An opening that the clocks skip is the moment after the gap, and of one that comes twice the first.
    let gap = window("sun", "02:30-04:00", "Europe/Berlin");
    assert_eq!(next(&gap, "2027-03-28T01:00:00Z"), shown(false, "2027-03-28T01:30"));
    assert_eq!(next(&gap, "2027-10-31T00:00:00Z"), shown(false, "2027-10-31T00:30"));
    // Zones with odd offsets.
    assert_eq!(
        next(&window("mon", "09:00-10:00", "Asia/Kathmandu"), "2026-11-30T00:00:00Z"),
        shown(false, "2026-11-30T03:15")
    );
    assert_eq!(
        next(&window("mon", "09:00-10:00", "Australia/Lord_Howe"), "2026-11-29T12:00:00Z"),
        shown(false, "2026-11-29T22:00")
    );
    // Windows that follow one another are one.
    let two = "windows = [{ days = \"mon\", hours = \"09:00-12:00\", zone = \"UTC\" }, \
               { days = \"mon\", hours = \"12:00-24:00\", zone = \"UTC\" }]";
    assert_eq!(next(two, "2026-11-30T10:00:00Z"), shown(true, "2026-12-01T00:00"));
    let (open, words, next) = time("windows = [{ zone = \"UTC\" }]", "2026-11-30T10:00:00Z");
    assert!(open && next.is_some(), "{words}");
}

#[test]
fn a_freeze_closes_an_open_window_and_its_last_day_counts() {
    let lines = "windows = [{ zone = \"Asia/Shanghai\" }], freezes = [{ from = \"2026-12-20\", to = \"2027-01-04\" }]";
    let is_open = |now: &str| time(lines, now).0;
    assert!(is_open("2026-12-19T15:59:59Z"), "the day before, in Shanghai");
    assert!(!is_open("2026-12-19T16:00:00Z"));
    assert!(!is_open("2027-01-04T15:59:59Z"), "the last day, in Shanghai");
    assert!(is_open("2027-01-04T16:00:00Z"));
    let (_, words, _) = time(lines, "2026-12-24T00:00:00Z");
    assert!(words.ends_with("frozen until 2027-01-05 00:00 CST"), "{words}");
}

fn entry(generation: u64, number: u8, origin: Origin, by: &str) -> Entry {
    Entry {
        generation: Generation(generation),
        image: Some(image(number)),
        origin: Some(origin),
        by: Some(by.to_owned()),
        ..Entry::default()
    }
}

#[test]
fn a_series_ends_at_a_generation_with_another_image() {
    let history = [
        entry(6, 1, Origin::Rollback, "carol"),
        entry(5, 2, Origin::Push, "github (ben)"),
        entry(4, 1, Origin::Push, "github (ben)"),
        entry(3, 1, Origin::Promotion, "token ci (192.0.2.7)"),
    ];
    assert_eq!(series(&history, Generation(6)), Generation(6));
    assert_eq!(series(&history, Generation(4)), Generation(3));
    assert_eq!(series(&history, Generation(9)), Generation(6), "of what is there");
    let way = [Passage { history: history.to_vec(), overtaken: Vec::new() }];
    let names: Vec<String> = image_authors(&way, &image(1)).into_iter().map(|author| author.by).collect();
    assert_eq!(names, ["github (ben)", "token ci (192.0.2.7)"], "a rollback makes no author");
}

/// A generation of `dev` that somebody pushed, at a second that is its number.
fn pushed(number: u8, by: &str) -> Entry {
    let revision = CommitId::new(format!("{number:040x}")).ok();
    let at = Timestamp::from_millis(u64::from(number) * 1000);
    Entry { revision, at, ..entry(u64::from(number), number, Origin::Push, by) }
}

/// The same version, as `by` promoted it into another environment as `generation`.
fn promoted(generation: u64, number: u8, by: &str) -> Entry {
    Entry {
        generation: Generation(generation),
        origin: Some(Origin::Promotion),
        by: Some(by.to_owned()),
        ..pushed(number, "")
    }
}

#[test]
fn everyone_whose_work_a_promotion_contains_is_an_author() {
    let dev = Passage {
        history: vec![
            pushed(6, "github (fay)"),
            pushed(5, "github (eve)"),
            Entry { origin: Some(Origin::Rollback), ..pushed(4, "dan") },
            pushed(3, "github (carol)"),
            pushed(2, "github (ben)"),
            pushed(1, "github (anna)"),
        ],
        overtaken: vec![
            OvertakenPush { by: "github (old)".to_owned(), at: Timestamp::from_millis(1500) },
            OvertakenPush { by: "github (quick)".to_owned(), at: Timestamp::from_millis(4800) },
            OvertakenPush { by: "github (later)".to_owned(), at: Timestamp::from_millis(3_600_000) },
        ],
    };
    let test = Passage {
        history: vec![
            promoted(3, 5, "token tess (192.0.2.7)"),
            promoted(2, 3, "token tim (192.0.2.7)"),
            promoted(1, 2, "tom"),
        ],
        overtaken: Vec::new(),
    };
    let of = |number: u8, target: Entry| {
        let entry = test.history.iter().find(|entry| entry.image == Some(image(number))).unwrap();
        let way = [test.clone(), dev.clone()];
        let all = authors(&way, entry, &image(number), &target);
        all.iter()
            .map(|author| author.name().to_owned())
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect::<Vec<_>>()
    };
    let prod = |number: u8| promoted(9, number, "anna");
    assert_eq!(of(5, prod(2)), ["carol", "eve", "quick", "tess", "tim"]);
    assert_eq!(of(5, prod(3)), ["eve", "quick", "tess"], "what the target runs already is over");
    assert_eq!(of(3, prod(5)), ["carol", "tim"], "on the way back, only this version counts");
    let all = ["anna", "ben", "carol", "eve", "old", "quick", "tess", "tim", "tom"];
    assert_eq!(of(5, Entry::default()), all, "nothing runs in the target");
    let elsewhere = Entry { revision: None, ..entry(1, 99, Origin::Set, "x") };
    assert_eq!(of(5, elsewhere), all, "nobody knows what the target contains");
    // The version of the target was recorded again later, so all since its first time may be part of the new one.
    let mut again = dev.clone();
    again.history[2] = Entry { origin: Some(Origin::Set), generation: Generation(4), ..pushed(2, "dan") };
    let names = authors(&[test.clone(), again], &test.history[0], &image(5), &prod(2));
    assert!(names.iter().any(|author| author.name() == "carol"), "{names:?}");
}

#[test]
fn a_burst_of_one_person_hides_no_other_pusher() {
    let mut desired = Desired::empty(name("dev"));
    desired.overtake("github (anna)", Timestamp::from_millis(1));
    for number in 0..1000 {
        desired.overtake("github (ben)", Timestamp::from_millis(number));
    }
    assert_eq!(desired.overtaken.len(), Desired::OVERTAKEN_KEPT);
    assert_eq!(desired.overtaken[0].by, "github (anna)");
    assert_eq!(desired.overtaken.last().unwrap().at, Timestamp::from_millis(999));
}

#[test]
fn a_previous_or_rolled_back_image_is_never_promoted_automatically() {
    let source = entry(7, 1, Origin::Push, "github (ben)");
    let target = Desired { entry: entry(3, 2, Origin::Promotion, "anna"), ..Desired::empty(name("prod")) };
    let objection = |source: &Entry, target: &Desired, history: &[Entry]| {
        auto_objection(source, &image(1), target, history)
    };
    assert_eq!(objection(&source, &target, &[]), None);
    let there = [entry(2, 1, Origin::Promotion, "anna")];
    assert!(objection(&source, &target, &there).is_some(), "a person went on from it");
    let bad = Bad {
        image: image(1),
        generation: Generation(2),
        revision: None,
        reason: Reason::NeverReady,
        message: String::new(),
        at: Timestamp::default(),
    };
    assert!(objection(&source, &Desired { bad: vec![bad], ..target.clone() }, &[]).is_some());
    for origin in [Origin::Rollback, Origin::AutomaticRollback] {
        assert!(objection(&entry(7, 1, origin, "x"), &target, &[]).is_some(), "the source went back");
    }
    let hold = crate::model::desired::Hold {
        reason: "x".to_owned(),
        by: "x".to_owned(),
        since: Timestamp::default(),
        generation: None,
    };
    assert!(objection(&source, &Desired { hold: Some(hold), ..target.clone() }, &[]).is_some());
}

// --- laws -----------------------------------------------------------------------------------------

/// The people of the laws; the last one is the author of every image.
const PEOPLE: [&str; 4] = ["anna", "carol", "token dora (192.0.2.7)", "github (ben)"];

#[derive(Clone, Debug)]
enum GateAction {
    Approve(usize),
    Reject(usize),
    Withdraw(u8),
    Verify(bool),
    Soak(u64),
    Run(u8),
    Edit(u32, bool, u64, bool),
    Restart,
    Promote(usize),
}

fn action() -> impl Strategy<Value = GateAction> {
    prop_oneof![
        4 => (0..4usize).prop_map(GateAction::Approve),
        1 => (0..4usize).prop_map(GateAction::Reject),
        1 => (1..4u8).prop_map(GateAction::Withdraw),
        2 => any::<bool>().prop_map(GateAction::Verify),
        3 => (0..40u64).prop_map(GateAction::Soak),
        2 => (1..4u8).prop_map(GateAction::Run),
        1 => (0..3u32, any::<bool>(), 0..60u64, any::<bool>()).prop_map(|(a, o, s, v)| GateAction::Edit(a, o, s, v)),
        1 => Just(GateAction::Restart),
        3 => (0..4usize).prop_map(GateAction::Promote),
    ]
}

/// What must be true, kept in the plainest way beside the evidence.
#[derive(Default)]
struct Truth {
    /// Who approved the running image under which gates, since it runs. One person may have approved it under several.
    approvals: BTreeSet<(usize, String)>,
    rejected: BTreeSet<u8>,
    verified: Option<bool>,
    soaked: BTreeMap<u8, u64>,
}

struct World {
    gates: Gates,
    history: Vec<Entry>,
    running: u8,
    evidence: Vec<Evidence>,
    truth: Truth,
}

impl World {
    fn run(&mut self, number: u8, origin: Origin) {
        let generation = self.history.first().map_or(1, |entry| entry.generation.0 + 1);
        self.history.insert(0, entry(generation, number, origin, PEOPLE[3]));
        if number != self.running {
            self.running = number;
            (self.truth.approvals, self.truth.verified) = (BTreeSet::new(), None);
        }
    }

    fn add(&mut self, by: Option<&str>, finding: EvidenceFinding) {
        let generation = self.history[0].generation.0;
        let sequence = self.evidence.len() as u64 + 1;
        self.evidence.push(Evidence { sequence, ..found(self.running, generation, by, finding) });
    }

    /// Whether the gates let `by` promote the running image.
    fn may(&self, by: usize) -> bool {
        let (from, to, image, by) =
            (name("test"), name("prod"), image(self.running), Person::named(PEOPLE[by]));
        let way = [Passage { history: self.history.clone(), overtaken: Vec::new() }];
        let authors = authors(&way, &self.history[0], &image, &self.history[0]);
        let candidate = Candidate {
            from,
            to,
            image,
            since: series(&self.history, self.history[0].generation),
            revision: None,
            authors,
            by: Some(by),
            check: Some("check".to_owned()),
            is_healthy: true,
        };
        are_open(&judge(&self.gates, &candidate, &self.evidence, Timestamp::default()))
    }

    /// The same by what is true.
    fn may_in_truth(&self, by: usize) -> bool {
        let Truth { approvals, rejected, verified, soaked } = &self.truth;
        let mark = self.gates.mark();
        let count = approvals.iter().filter(|(person, covered)| {
            let is_own = *person == 3 || *person == by;
            *covered == mark && !(self.gates.others_only && is_own)
        });
        let needed = self.gates.soak.map_or(0, |soak| soak.as_secs());
        count.count() >= self.gates.approvals as usize
            && !rejected.contains(&self.running)
            && (!self.gates.verified || *verified == Some(true))
            && soaked.get(&self.running).copied().unwrap_or_default() >= needed
    }

    fn act(&mut self, action: &GateAction) {
        let gates = BTreeMap::from([(name("prod"), self.gates.mark())]);
        match *action {
            GateAction::Approve(person) => {
                self.add(Some(PEOPLE[person]), EvidenceFinding::Approved { gates });
                self.truth.approvals.insert((person, self.gates.mark()));
            }
            GateAction::Reject(person) => {
                self.add(Some(PEOPLE[person]), EvidenceFinding::Rejected { withdrawn: None });
                self.truth.approvals.retain(|(by, _)| *by != person);
                self.truth.rejected.insert(self.running);
            }
            GateAction::Withdraw(number) => {
                for found in self.evidence.iter_mut().filter(|found| found.is_rejection()) {
                    if found.image == image(number) {
                        let (by, at) = (Person::named("anna"), Timestamp::default());
                        found.finding =
                            EvidenceFinding::Rejected { withdrawn: Some(Withdrawal { by, at, note: None }) };
                    }
                }
                self.truth.rejected.remove(&number);
            }
            GateAction::Verify(passed) => {
                let check = "check".to_owned();
                self.add(
                    None,
                    EvidenceFinding::Verified { passed, check, result: String::new(), output: String::new() },
                );
                self.truth.verified = Some(passed);
            }
            GateAction::Soak(seconds) => {
                let total = self.truth.soaked.entry(self.running).or_default();
                *total += seconds;
                let total = *total;
                let running = image(self.running);
                self.evidence.retain(|found| {
                    !(found.image == running && matches!(found.finding, EvidenceFinding::Healthy { .. }))
                });
                self.evidence.insert(0, healthy(self.running, total));
            }
            GateAction::Run(number) => self.run(number, Origin::Push),
            GateAction::Edit(approvals, others_only, soak, verified) => {
                let soak = (soak > 0).then(|| Duration::from_secs(soak));
                self.gates = Gates { approvals, others_only, soak, verified, ..Gates::default() };
            }
            GateAction::Restart => {
                let stored = serde_json::to_string(&self.evidence).unwrap();
                self.evidence = serde_json::from_str(&stored).unwrap();
            }
            GateAction::Promote(_) => {}
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn a_promotion_is_possible_exactly_if_all_gates_are_open(
        actions in prop::collection::vec(action(), 1..40)
    ) {
        let mut world = World {
            gates: Gates { approvals: 1, others_only: true, ..Gates::default() },
            history: Vec::new(),
            running: 0,
            evidence: Vec::new(),
            truth: Truth::default(),
        };
        world.run(1, Origin::Push);
        for action in &actions {
            world.act(action);
            for person in 0..PEOPLE.len() {
                prop_assert_eq!(world.may(person), world.may_in_truth(person), "{:?}", action);
            }
            if let GateAction::Promote(by) = action
                && world.may(*by)
            {
                // What is there is never promoted there again by abide alone.
                let target = Desired { entry: entry(9, world.running, Origin::Promotion, "x"), ..Desired::empty(name("prod")) };
                prop_assert!(auto_objection(&world.history[0], &image(world.running), &target, &[]).is_some());
            }
        }
    }
}
