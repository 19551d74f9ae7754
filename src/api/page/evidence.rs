//! The evidence about an image, the missing conditions of its promotion, and the forms of those who may judge it.

use askama::Template;
use askama::filters::Safe;

use super::act::{Act, ActionForm, Noted, Notice, Typed, shown_image};
use super::answer::part;
use super::guard::Visit;
use super::text::{PageClock, cut, sentence};
use crate::api::error::ApiError;
use crate::model::desired::Image;
use crate::model::evidence::{CheckState, Evidence, EvidenceFinding, Person};
use crate::model::name::EnvironmentName;
use crate::model::status::Condition;
use crate::model::time::Timestamp;
use crate::model::view::{EnvironmentView, EvidenceView, PromotionView};
use crate::plan::gates::shares;

/// The most pieces of evidence about one image.
const MOST: usize = 20;
/// The most characters of a check's output.
const LONGEST_OUTPUT: usize = 4_000;

/// One line with an icon.
pub(super) struct EvidenceRow {
    pub(super) look: &'static str,
    pub(super) class: &'static str,
    pub(super) text: String,
    /// The beginning of a time that has not ended.
    pub(super) since: Option<Timestamp>,
    /// The moment of the finding.
    pub(super) at: Option<Timestamp>,
    /// The output of a failed check.
    pub(super) output: Option<String>,
}

impl EvidenceRow {
    pub(super) fn new(look: &'static str, class: &'static str, text: String) -> Self {
        Self { look, class, text, since: None, at: None, output: None }
    }

    pub(super) fn good(text: String) -> Self {
        Self::new("ready", "yes", text)
    }

    pub(super) fn bad(text: String) -> Self {
        Self::new("degraded", "no", text)
    }

    pub(super) fn open(text: String) -> Self {
        Self::new("unsure", "soft", text)
    }

    fn of(found: &Evidence) -> Self {
        let what = found.describe();
        let by = found.by.as_ref().map_or_else(|| "abide".to_owned(), |by| by.name().to_owned());
        let colon = if what.is_empty() { "" } else { ": " };
        let row = match &found.finding {
            EvidenceFinding::Healthy { .. } => Self::good(format!("Healthy {what}")),
            EvidenceFinding::Verified { passed: true, .. } => Self::good("Its check passed".to_owned()),
            EvidenceFinding::Verified { output, .. } => Self {
                output: Some(cut(output.trim_end(), LONGEST_OUTPUT)).filter(|output| !output.is_empty()),
                ..Self::bad(format!("Its check {what}"))
            },
            EvidenceFinding::Canary { passed: true, .. } => Self::good(sentence(&what)),
            EvidenceFinding::Canary { .. } => Self::bad(sentence(&what)),
            EvidenceFinding::Approved { .. } => Self::good(format!("Approved by {by}{colon}{what}")),
            EvidenceFinding::Rejected { withdrawn: None } => {
                Self::bad(format!("Rejected by {by}{colon}{what}"))
            }
            EvidenceFinding::Rejected { .. } => Self::open(format!("Rejected by {by}{colon}{what}")),
            EvidenceFinding::Checks { state: CheckState::Passed, .. } => Self::good(what),
            EvidenceFinding::Checks { state: CheckState::Pending, .. } => Self::open(what),
            EvidenceFinding::Checks { state: CheckState::Failed, .. } => Self::bad(what),
            EvidenceFinding::Signed { .. } => Self::good(format!("Signed {what}")),
            EvidenceFinding::Unsigned { .. } => Self::bad(format!("Not signed: {what}")),
        };
        Self { at: Some(found.at), ..row }
    }
}

/// The evidence about an image, newest first.
pub(super) fn about(evidence: &[Evidence], image: Option<&Image>) -> Vec<EvidenceRow> {
    let Some(image) = image else { return Vec::new() };
    let found = evidence.iter().rev().filter(|found| shares(&found.image, image));
    found.take(MOST).map(EvidenceRow::of).collect()
}

/// The gates of a promotion.
pub(super) fn gates(promotion: &PromotionView) -> Vec<EvidenceRow> {
    let row = |gate: &crate::model::evidence::GateAnswer| {
        let text = sentence(&gate.sentence);
        if gate.open { EvidenceRow::good(text) } else { EvidenceRow::new("progress", "wait", text) }
    };
    promotion.gates.iter().map(row).collect()
}

/// The missing conditions of a promotion, as a sentence that does not name its target.
pub(super) fn waiting(to: &EnvironmentName, message: &str) -> String {
    match message.strip_prefix(&format!("{to} is waiting: ")) {
        Some(gates) => format!("Waiting: {gates}."),
        None => sentence(message),
    }
}

#[derive(Template)]
#[template(path = "environment-evidence.html")]
struct EvidencePart<'a> {
    root: &'a str,
    clock: PageClock,
    image: String,
    promotions: Vec<Onward>,
    rows: Vec<EvidenceRow>,
}

/// The promotion of an image to one environment.
struct Onward {
    to: EnvironmentName,
    message: String,
    gates: Vec<EvidenceRow>,
}

impl Onward {
    fn new(promotion: &PromotionView) -> Self {
        // The message begins with the name of an environment, which stays as it is written.
        let message = format!("{}.", promotion.message);
        Self { to: promotion.to.clone(), message, gates: gates(promotion) }
    }
}

/// The evidence of an environment, with what promotions from and to it wait for; `None` if there is nothing of it.
pub(super) fn on_environment(
    root: &str,
    clock: PageClock,
    seen: &EvidenceView,
) -> Result<Option<Safe<String>>, ApiError> {
    let rows = about(&seen.evidence, seen.image.as_ref());
    let promotions: Vec<_> = seen.into.iter().chain(&seen.onward).map(Onward::new).collect();
    if rows.is_empty() && promotions.is_empty() {
        return Ok(None);
    }
    let image = shown_image(seen.image.as_ref());
    part(&EvidencePart { root, clock, image, promotions, rows }).map(Some)
}

#[derive(Template)]
#[template(path = "judge.html")]
struct JudgementForms {
    heading: &'static str,
    name: String,
    forms: Vec<ActionForm>,
}

/// The state that decides how an image, or those of a group, can be judged.
pub(super) struct PossibleJudgement {
    /// Whether one is rejected.
    pub(super) is_rejected: bool,
    /// Whether something is promoted from there.
    pub(super) is_promoted: bool,
    /// Whether all run healthy.
    pub(super) is_ready: bool,
}

impl PossibleJudgement {
    /// The heading of the forms, and what they do; none: nothing can be judged.
    pub(super) fn forms(&self) -> (&'static str, &'static [Act]) {
        match (self.is_rejected, self.is_promoted, self.is_ready) {
            (true, ..) => ("Rejected", &[Act::Withdraw]),
            (false, true, true) => ("Approve or reject", &[Act::Approve, Act::Reject]),
            (false, true, false) => ("Reject", &[Act::Reject]),
            (false, false, _) => ("", &[]),
        }
    }
}

/// Whether an image is rejected, by this evidence.
pub(super) fn is_rejected(image: &Image, seen: &[Evidence]) -> bool {
    seen.iter().any(|found| found.is_rejection() && shares(&found.image, image))
}

/// The forms with which the visitor may judge the image of an environment; `None` if there are none. `back` is the
/// environment whose promotion page they are on.
pub(super) fn judgement(
    visit: &Visit,
    view: &EnvironmentView,
    seen: &[Evidence],
    is_promoted: bool,
    back: Option<&EnvironmentName>,
) -> Result<Option<Safe<String>>, ApiError> {
    let name = &view.environment;
    let Some(image) = view.image.as_ref().filter(|_| visit.may_judge(name)) else { return Ok(None) };
    let judgement = PossibleJudgement {
        is_rejected: is_rejected(image, seen),
        is_promoted,
        is_ready: view.status == Condition::Ready,
    };
    let (heading, acts) = judgement.forms();
    if acts.is_empty() {
        return Ok(None);
    }
    let form = |act: &Act| ActionForm {
        back: back.cloned(),
        ..ActionForm::new(*act, &visit.site.prefix, view, &[], None, Typed::default())
    };
    let forms: Vec<_> = acts.iter().map(form).filter(|form| form.is_possible(view)).collect();
    part(&JudgementForms { heading, name: name.to_string(), forms }).map(Some)
}

/// The notice after the image of `view` was judged.
pub(super) fn notice(noted: &Noted, view: &EnvironmentView, seen: &[Evidence]) -> Option<Notice> {
    let (image, judgement) = (view.image.as_ref()?, NotedJudgement::noted(noted, view, seen)?);
    let text = format!("Image {} of {} is {}", shown_image(Some(image)), view.environment, judgement.words());
    Some(Notice { text, at: Some(judgement.at), back: None })
}

/// What a person found about an image.
pub(super) struct NotedJudgement {
    what: &'static str,
    by: String,
    pub(super) at: Timestamp,
}

impl NotedJudgement {
    /// The newest one about the image of `view`, of the kind that a form has just recorded.
    pub(super) fn noted(noted: &Noted, view: &EnvironmentView, seen: &[Evidence]) -> Option<Self> {
        let (did, image) = (noted.did.as_deref()?, view.image.as_ref()?);
        let mut about = seen.iter().rev().filter(|found| shares(&found.image, image));
        let found = about.find(|found| match &found.finding {
            EvidenceFinding::Approved { .. } => did == "approve",
            EvidenceFinding::Rejected { withdrawn } => {
                did == if withdrawn.is_some() { "withdraw" } else { "reject" }
            }
            _ => false,
        })?;
        let by = |by: Option<&Person>| by.map_or("someone", Person::name).to_owned();
        let (what, by, at) = match &found.finding {
            EvidenceFinding::Rejected { withdrawn: Some(gone) } => {
                ("not rejected any more: withdrawn", by(Some(&gone.by)), gone.at)
            }
            EvidenceFinding::Rejected { .. } => ("rejected", by(found.by.as_ref()), found.at),
            _ => ("approved", by(found.by.as_ref()), found.at),
        };
        Some(Self { what, by, at })
    }

    /// `approved by anna`.
    pub(super) fn words(&self) -> String {
        format!("{} by {}", self.what, self.by)
    }
}
