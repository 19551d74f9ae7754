//! What ran when, as an inline SVG: one lane for each environment, one segment for each version. Text and shapes only,
//! without inline styles, which the policy of the pages forbids. The tables of the pages have the same in words.

use askama::Template;
use askama::filters::Safe;

use super::answer::part;
use super::text::length;
use crate::api::error::ApiError;
use crate::model::desired::{HistoryEntry, Image, Origin, Outcome};
use crate::model::name::{CommitId, Digest};
use crate::model::time::Timestamp;

const MINUTE: u64 = 60 * 1_000;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;
/// The height of one lane, in units.
const LANE: u64 = 44;
/// The narrowest segment that is drawn, and the narrowest with a label.
const NARROWEST: u64 = 3;
const LABELLED: u64 = 60;
/// The width of a letter, and the gap after the longest name.
const LETTER: u64 = 8;
const GAP: u64 = 12;
/// The most segments of one lane; the newest ones.
const MOST: usize = 60;

/// The most lanes of one timeline.
pub(super) const MOST_LANES: usize = 8;

/// One environment and its history, newest first.
pub(super) struct TimelineLane<'a> {
    pub(super) name: &'a str,
    pub(super) history: &'a [HistoryEntry],
}

/// A drawing for one width of screens.
struct TimelineShape {
    class: &'static str,
    /// The width of the drawing, and the least width of the names at its left.
    width: u64,
    names: u64,
    /// The spans to choose from, each with the distance of its lines: the first one that covers every change, else the
    /// last one.
    spans: [(u64, u64); 4],
}

const SHAPES: [TimelineShape; 2] = [
    TimelineShape {
        class: "wide",
        width: 900,
        names: 84,
        spans: [(HOUR, 10 * MINUTE), (6 * HOUR, HOUR), (DAY, 4 * HOUR), (7 * DAY, DAY)],
    },
    TimelineShape {
        class: "narrow",
        width: 360,
        names: 56,
        spans: [(HOUR, 20 * MINUTE), (6 * HOUR, 2 * HOUR), (DAY, 8 * HOUR), (3 * DAY, DAY)],
    },
];

impl TimelineShape {
    /// The width of the names of these lanes: that of the longest one, up to a quarter of the drawing.
    fn names_of(&self, lanes: &[TimelineLane<'_>]) -> u64 {
        let longest = lanes.iter().map(|lane| lane.name.chars().count() as u64).max().unwrap_or_default();
        (longest * LETTER + GAP).clamp(self.names, (self.width / 4).max(self.names))
    }
}

struct Drawing {
    class: &'static str,
    width: u64,
    height: u64,
    bottom: u64,
    title: String,
    lines: Vec<u64>,
    days: Vec<(u64, String)>,
    lanes: Vec<Drawn>,
}

struct Drawn {
    name: String,
    base: u64,
    top: u64,
    segments: Vec<Segment>,
}

struct Segment {
    x: u64,
    width: u64,
    class: &'static str,
    label: Option<String>,
    is_failed: bool,
    is_promoted: bool,
    words: String,
}

#[derive(Template)]
#[template(path = "timeline.html")]
struct Timeline<'a> {
    id: &'a str,
    heading: &'a str,
    drawings: Vec<Drawing>,
}

/// Draws the lanes up to `now`; `None` if nothing was ever recorded in them.
pub(super) fn timeline(
    id: &str,
    heading: &str,
    lanes: &[TimelineLane<'_>],
    now: Timestamp,
) -> Result<Option<Safe<String>>, ApiError> {
    if lanes.iter().all(|lane| lane.history.is_empty()) {
        return Ok(None);
    }
    let drawings = SHAPES.iter().map(|shape| draw(shape, lanes, now)).collect();
    part(&Timeline { id, heading, drawings }).map(Some)
}

fn draw(shape: &TimelineShape, lanes: &[TimelineLane<'_>], now: Timestamp) -> Drawing {
    // The right edge moves once a minute, so that a page does not change with every second.
    let end = now.as_millis() / MINUTE * MINUTE;
    let changes = lanes.iter().flat_map(|lane| lane.history.iter().map(|kept| kept.entry.at.as_millis()));
    let age = changes.min().map_or(0, |oldest| end.saturating_sub(oldest));
    let last = shape.spans[shape.spans.len() - 1];
    let (span, step) = shape.spans.into_iter().find(|(span, _)| age < *span).unwrap_or(last);
    // A whole number of steps, of which the last one is in progress.
    let from = (end / step + 1).saturating_mul(step).saturating_sub(span);
    let left = shape.names_of(lanes);
    let scale = Scale { from, span: end.saturating_sub(from).max(1), left, width: shape.width - left - 4 };
    let shown = usize::try_from((left - GAP) / LETTER).unwrap_or_default();
    let starts: Vec<u64> = (0..span / step).map(|index| from + index * step).collect();
    let fits = |(x, label): &(u64, String)| x + LETTER * label.len() as u64 <= shape.width;
    let label = |start: u64| if step >= DAY { day_name(start) } else { time_name(start) };
    let height = LANE * u64::try_from(lanes.len()).unwrap_or_default() + 30;
    let drawn = lanes.iter().zip(0_u64..).map(|(lane, row)| {
        let top = row * LANE + 12;
        Drawn { name: end_of(lane.name, shown), base: top + 17, top, segments: segments(lane, &scale) }
    });
    let names: Vec<&str> = lanes.iter().map(|lane| lane.name).collect();
    Drawing {
        class: shape.class,
        width: shape.width,
        height,
        bottom: height - 24,
        title: format!("Versions of {} in the last {}", names.join(", "), length(span / 1_000)),
        lines: starts.iter().map(|start| scale.x(*start)).collect(),
        days: starts.iter().map(|start| (scale.x(*start) + 4, label(*start))).filter(fits).collect(),
        lanes: drawn.collect(),
    }
}

struct Scale {
    from: u64,
    span: u64,
    left: u64,
    width: u64,
}

impl Scale {
    fn x(&self, at: u64) -> u64 {
        let passed = at.saturating_sub(self.from).min(self.span);
        self.left + passed.saturating_mul(self.width) / self.span
    }
}

/// The segments of a lane, oldest first. A generation that never had an image is none.
fn segments(lane: &TimelineLane<'_>, scale: &Scale) -> Vec<Segment> {
    let mut until = scale.from + scale.span;
    let mut segments = Vec::new();
    for (index, kept) in lane.history.iter().enumerate().take(MOST) {
        let at = kept.entry.at.as_millis();
        if until <= scale.from {
            break;
        }
        let (x, end) = (scale.x(at), scale.x(until));
        let is_current = index == 0;
        let (class, word) = match (&kept.outcome, is_current) {
            (Some(Outcome::Ready), true) => ("now", "runs now"),
            (Some(Outcome::Ready), false) => ("", "was ready"),
            (Some(Outcome::Failed(_)), _) => ("bad", "failed"),
            (Some(Outcome::Superseded), _) => ("", "was overtaken"),
            (None, true) => ("prog", "in progress"),
            (None, false) => ("", "had no outcome"),
        };
        let version = version(kept);
        let width = end.saturating_sub(x).saturating_sub(2).max(NARROWEST);
        let x = x.min(end.saturating_sub(NARROWEST));
        let time = kept.entry.at.to_string();
        segments.push(Segment {
            x,
            width,
            class,
            label: (width >= LABELLED).then(|| version.clone()),
            is_failed: class == "bad",
            is_promoted: kept.entry.origin == Some(Origin::Promotion) && at >= scale.from,
            words: format!(
                "{}: {version}, generation {}, {word}, from {} UTC",
                lane.name,
                kept.entry.generation,
                time.get(..16).unwrap_or_default().replace('T', " ")
            ),
        });
        until = at;
    }
    segments.reverse();
    segments
}

/// The end of a name that is longer than `most` letters. Names of related environments differ at their ends.
fn end_of(name: &str, most: usize) -> String {
    let count = name.chars().count();
    if count <= most {
        return name.to_owned();
    }
    let end: String = name.chars().skip(count + 1 - most.max(1)).collect();
    format!("…{end}")
}

/// The first seven digits of the commit, else of the image.
fn version(kept: &HistoryEntry) -> String {
    let entry = &kept.entry;
    let revision = entry.revision.as_ref().map(CommitId::as_str);
    let digest = entry.image.as_ref().and_then(Image::shown_digest).map(Digest::hex);
    revision.or(digest).and_then(|text| text.get(..7)).unwrap_or("none").to_owned()
}

/// `09:20`.
fn time_name(at: u64) -> String {
    Timestamp::from_millis(at).to_string().get(11..16).unwrap_or_default().to_owned()
}

/// `Sat 28`.
fn day_name(at: u64) -> String {
    const NAMES: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    let day = at / DAY;
    let name = usize::try_from(day % 7).ok().and_then(|day| NAMES.get(day)).copied().unwrap_or_default();
    let text = Timestamp::from_millis(at).to_string();
    let number = text.get(8..10).unwrap_or_default().trim_start_matches('0').to_owned();
    format!("{name} {number}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::desired::Entry;
    use crate::model::name::Generation;

    fn kept(generation: u64, at: &str, outcome: Option<Outcome>, origin: Origin) -> HistoryEntry {
        let revision = CommitId::new(format!("{generation}").repeat(40)).ok();
        let at = Timestamp::parse(at).unwrap();
        let entry = Entry {
            generation: Generation(generation),
            revision,
            at,
            origin: Some(origin),
            ..Entry::default()
        };
        HistoryEntry { entry, outcome }
    }

    #[test]
    fn segments_are_contiguous_and_end_at_the_current_time() {
        let now = Timestamp::parse("2026-11-28T12:00:30Z").unwrap();
        let history = [
            kept(3, "2026-11-28T00:00:00Z", Some(Outcome::Ready), Origin::Promotion),
            kept(2, "2026-11-27T23:00:00Z", Some(Outcome::Failed("x".into())), Origin::Push),
            kept(1, "2026-11-01T00:00:00Z", Some(Outcome::Ready), Origin::Push),
        ];
        let drawing = draw(&SHAPES[0], &[TimelineLane { name: "prod", history: &history }], now);
        let segments = &drawing.lanes[0].segments;
        let classes: Vec<_> = segments.iter().map(|segment| segment.class).collect();
        assert_eq!(classes, ["", "bad", "now"]);
        assert_eq!(segments[0].x, SHAPES[0].names, "it began before the drawing does");
        assert!(segments.windows(2).all(|pair| pair[0].x + pair[0].width <= pair[1].x + NARROWEST));
        let last = &segments[2];
        assert_eq!(last.x + last.width, SHAPES[0].width - 4 - 2);
        assert!(last.is_promoted && !segments[0].is_promoted && segments[1].is_failed);
        assert_eq!(segments[0].label.as_deref(), Some("1111111"));
        assert_eq!(segments[1].label, None, "too narrow");
        assert_eq!(drawing.days[6].1, "Sat 28");
    }

    #[test]
    fn a_young_history_is_drawn_in_minutes() {
        let now = Timestamp::parse("2026-11-28T12:07:30Z").unwrap();
        let history = [kept(1, "2026-11-28T11:50:00Z", Some(Outcome::Ready), Origin::Push)];
        let drawing = draw(&SHAPES[0], &[TimelineLane { name: "prod", history: &history }], now);
        let labels: Vec<&str> = drawing.days.iter().map(|(_, label)| label.as_str()).collect();
        assert_eq!(labels, ["11:10", "11:20", "11:30", "11:40", "11:50", "12:00"]);
        assert_eq!(drawing.lanes[0].segments[0].x, drawing.lines[4]);
    }

    #[test]
    fn long_names_get_more_room_and_are_cut_at_a_quarter() {
        let now = Timestamp::parse("2026-11-28T12:07:30Z").unwrap();
        let history = [kept(1, "2026-11-28T11:50:00Z", Some(Outcome::Ready), Origin::Push)];
        let long = "shop-production-database";
        let draw_of = |shape, name| draw(shape, &[TimelineLane { name, history: &history }], now);
        let (wide, narrow) = (draw_of(&SHAPES[0], long), draw_of(&SHAPES[1], long));
        assert_eq!((wide.lanes[0].name.as_str(), wide.lines[0]), (long, 24 * LETTER + GAP));
        assert_eq!((narrow.lanes[0].name.as_str(), narrow.lines[0]), ("…database", 90));
        assert_eq!(draw_of(&SHAPES[0], "prod").lines[0], SHAPES[0].names);
        for (shape, drawing) in SHAPES.iter().zip([wide, narrow]) {
            let last = drawing.days.last().unwrap();
            assert!(last.0 + LETTER * last.1.len() as u64 <= shape.width, "{last:?} is cut off");
        }
    }

    #[test]
    fn a_clock_set_back_draws_nothing_outside_the_timeline() {
        let now = Timestamp::parse("2026-11-20T12:00:00Z").unwrap();
        let history = [kept(1, "2026-11-28T00:00:00Z", None, Origin::Push)];
        for shape in &SHAPES {
            let drawing = draw(shape, &[TimelineLane { name: "prod", history: &history }], now);
            let segment = &drawing.lanes[0].segments[0];
            assert!(segment.x + segment.width <= shape.width, "{} {}", segment.x, segment.width);
        }
    }
}
