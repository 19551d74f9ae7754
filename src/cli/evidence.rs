//! `abide evidence`: lists what is known about the images of an environment, and what promotions wait for.

use super::exit::{CliError, CliExit};
use super::output::table::{Cell, TextTable};
use super::output::text::{ago, one_line, safe_lines};
use super::session::{CliSession, Requirement};
use crate::model::desired::Image;
use crate::model::evidence::{Evidence, EvidenceFinding, Person};
use crate::model::name::{Digest, EnvironmentName};
use crate::model::time::Timestamp;
use crate::model::view::{EvidenceView, PromotionView};

const EXAMPLES: &str = "\
Examples:
  abide evidence test
  abide evidence test -o json

Lists the newest evidence last: approvals, rejections, checks, signatures, and how long each image \
was healthy. Then lists each promotion and what it waits for.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct EvidenceArgs {
    /// Environment whose evidence to list
    environment: EnvironmentName,
}

pub(crate) async fn run(args: &EvidenceArgs, session: &mut CliSession) -> Result<CliExit, CliError> {
    let client = session.client(Requirement::Reading).await?;
    let view = client.evidence(&args.environment).await?;
    session.show(&view, render)?;
    Ok(CliExit::Done)
}

fn render(view: &EvidenceView, now: Timestamp, width: Option<usize>) -> String {
    let mut text = if view.evidence.is_empty() {
        format!("there is no evidence about the images of {}\n", view.environment)
    } else {
        table(&view.evidence, now, width)
    };
    let promotions: Vec<_> = view.into.iter().chain(&view.onward).collect();
    if !promotions.is_empty() {
        text.push('\n');
    }
    promotions.into_iter().for_each(|promotion| text.push_str(&described(promotion)));
    if let Some(output) = failed_output(&view.evidence) {
        text.push_str("\nthe output of the last check, which failed:\n");
        safe_lines(output).for_each(|line| text.push_str(&format!("  {line}\n")));
    }
    text
}

fn table(evidence: &[Evidence], now: Timestamp, width: Option<usize>) -> String {
    let mut table = TextTable::new(["WHEN", "KIND", "GENERATION", "IMAGE", "BY", "WHAT"]);
    for found in evidence {
        table.row([
            ago(now, found.at).into(),
            found.finding.as_str().into(),
            found.generation.to_string().into(),
            Cell::or_dash(Image::shown_digest(&found.image).map(Digest::short)),
            Cell::or_dash(found.by.as_ref().map(Person::name)),
            found.describe().into(),
        ]);
    }
    table.render(width)
}

fn described(promotion: &PromotionView) -> String {
    let mut text = format!("{}\n", one_line(&promotion.message));
    for gate in &promotion.gates {
        let mark = if gate.open { "open  " } else { "closed" };
        text.push_str(&format!("  {mark}  {}\n", one_line(&gate.sentence)));
    }
    text
}

/// The output of the newest check, if it failed.
fn failed_output(evidence: &[Evidence]) -> Option<&str> {
    let checks = evidence.iter().rev();
    let mut checks = checks.filter_map(|found| match &found.finding {
        EvidenceFinding::Verified { passed, output, .. } => Some((*passed, output.as_str())),
        _ => None,
    });
    checks.next().filter(|(passed, output)| !passed && !output.is_empty()).map(|(_, output)| output)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::tests::{NOW, image};
    use crate::model::evidence::{GateAnswer, GateKind};
    use crate::model::name::Generation;

    fn found(by: Option<&str>, note: &str, finding: EvidenceFinding) -> Evidence {
        Evidence {
            sequence: 1,
            environment: EnvironmentName::new("test").unwrap(),
            image: image(),
            generation: Generation(4),
            finding,
            by: by.map(Person::named),
            at: NOW,
            note: (!note.is_empty()).then(|| note.to_owned()),
        }
    }

    #[test]
    fn evidence_is_a_table_followed_by_each_promotions_gates() {
        let check = |passed| EvidenceFinding::Verified {
            passed,
            check: String::new(),
            result: "exit code 1".to_owned(),
            output: "no logo\n".to_owned(),
        };
        let evidence = vec![
            found(None, "", EvidenceFinding::Healthy { millis: 61_000, restarts: 1, since: NOW }),
            found(Some("token anna (192.0.2.7)"), "all good", EvidenceFinding::Approved { gates: [].into() }),
            found(None, "", check(false)),
        ];
        let gate = |gate, open, sentence: &str| GateAnswer {
            gate,
            open,
            sentence: sentence.to_owned(),
            next_change: None,
        };
        let onward = PromotionView {
            from: EnvironmentName::new("test").unwrap(),
            to: EnvironmentName::new("prod").unwrap(),
            generation: Generation(4),
            image: Some(image()),
            revision: None,
            problem: None,
            there: false,
            auto: false,
            open: false,
            gates: vec![
                gate(GateKind::Approvals, true, "1 of 1 approval (anna)"),
                gate(GateKind::Verified, false, "verification in test failed: exit code 1"),
            ],
            message: "prod is waiting: verification in test failed: exit code 1".to_owned(),
            next_change: None,
        };
        let view = EvidenceView {
            environment: EnvironmentName::new("test").unwrap(),
            generation: Generation(4),
            image: Some(image()),
            evidence,
            into: None,
            onward: vec![onward],
        };
        let text = anstream::adapter::strip_str(&render(&view, NOW, None)).to_string();
        let expected = "\
WHEN  KIND      GENERATION  IMAGE         BY    WHAT
now   healthy   4           ab12ab12ab12  -     for 1m 1s, restarted once
now   approved  4           ab12ab12ab12  anna  all good
now   verified  4           ab12ab12ab12  -     failed: exit code 1

prod is waiting: verification in test failed: exit code 1
  open    1 of 1 approval (anna)
  closed  verification in test failed: exit code 1

the output of the last check, which failed:
  no logo
";
        assert_eq!(text, expected);
    }
}
