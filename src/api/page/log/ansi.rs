//! One line of output as safe HTML: colours become classes, every other escape sequence is dropped, and all text is
//! escaped.

use std::ops::Range;

use askama::filters::{Escaper as _, Safe};

use super::sgr::Style;
use crate::api::page::text::Visible;

/// A line without escape sequences, and the classes of its parts.
pub(super) struct PlainLine {
    pub(super) text: String,
    styles: Vec<(Range<usize>, Style)>,
}

impl PlainLine {
    /// Reads one line of output. A line that was written over shows its last state.
    pub(super) fn new(line: &[u8]) -> Self {
        let text = String::from_utf8_lossy(line);
        let text = text.trim_end_matches(['\r', '\n']).rsplit('\r').next().unwrap_or_default();
        let mut plain = Self { text: String::new(), styles: Vec::new() };
        let (mut style, mut rest) = (Style::default(), text);
        while let Some(at) = rest.find("\u{1b}[") {
            plain.push(&rest[..at], style);
            let after = &rest[at + 2..];
            let end = after.find(|c: char| !(c.is_ascii_digit() || c == ';' || c == ':'));
            rest = match end.filter(|end| after[*end..].starts_with('m')) {
                Some(end) => {
                    style.apply(&after[..end]);
                    &after[end + 1..]
                }
                // Another sequence, which has no colour: only its text remains.
                None => {
                    let end = end.map_or(after.len(), |end| {
                        end + after[end..].chars().next().map_or(0, char::len_utf8)
                    });
                    &after[end..]
                }
            };
        }
        plain.push(rest, style);
        plain
    }

    fn push(&mut self, text: &str, style: Style) {
        let text = anstream::adapter::strip_str(text).to_string();
        let from = self.text.len();
        self.text.push_str(&text);
        if style != Style::default() && !text.is_empty() {
            self.styles.push((from..self.text.len(), style));
        }
    }

    /// Whether the line contains `query`, which is in lower case.
    pub(super) fn has(&self, query: &str) -> bool {
        self.text.to_ascii_lowercase().contains(query)
    }

    /// The line as HTML, with every occurrence of `query` marked.
    pub(super) fn html(&self, query: Option<&str>) -> Safe<String> {
        let marks: Vec<Range<usize>> =
            query.filter(|query| !query.is_empty()).map_or_else(Vec::new, |query| {
                let lower = self.text.to_ascii_lowercase();
                lower.match_indices(query).map(|(at, found)| at..at + found.len()).collect()
            });
        let mut edges: Vec<usize> = vec![0, self.text.len()];
        edges.extend(
            marks.iter().chain(self.styles.iter().map(|(range, _)| range)).flat_map(|it| [it.start, it.end]),
        );
        edges.retain(|at| self.text.is_char_boundary(*at));
        edges.sort_unstable();
        edges.dedup();
        let mut html = String::with_capacity(self.text.len() + 32);
        for pair in edges.windows(2) {
            let &[from, to] = pair else { continue };
            let is_in = |range: &Range<usize>| range.start <= from && to <= range.end;
            let style =
                self.styles.iter().find(|(range, _)| is_in(range)).and_then(|(_, style)| style.classes());
            let is_marked = marks.iter().any(is_in);
            if let Some(classes) = &style {
                html.push_str(&format!("<span class=\"{classes}\">"));
            }
            html.push_str(if is_marked { "<mark>" } else { "" });
            // Writing into a string does not fail.
            let _ = Visible.write_escaped_str(&mut html, &self.text[from..to]);
            html.push_str(if is_marked { "</mark>" } else { "" });
            html.push_str(if style.is_some() { "</span>" } else { "" });
        }
        Safe(html)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn html(line: &str, query: Option<&str>) -> String {
        PlainLine::new(line.as_bytes()).html(query).0
    }

    #[test]
    fn colours_become_classes_and_other_escape_sequences_are_dropped() {
        for (line, expected) in [
            ("\u{1b}[32mok\u{1b}[0m 1", "<span class=\"f2\">ok</span> 1"),
            (
                "\u{1b}[1;91mbad\u{1b}[22m x\u{1b}[39m y",
                "<span class=\"f9 w\">bad</span><span class=\"f9\"> x</span> y",
            ),
            ("\u{1b}[38;5;3mold\u{1b}[38;2;1;31;4mnew\u{1b}[m", "<span class=\"f3\">old</span>new"),
            ("\u{1b}[48;5;196;3mground", "<span class=\"b9 i\">ground</span>"),
            ("10%\r 50%\rdone\r\n", "done"),
            ("a\u{1b}[2Kb\u{1b}[Hc\u{1b}", "abc"),
            ("\u{1b}]8;;http://evil.example\u{7}link\u{1b}]8;;\u{7}", "link"),
            ("\u{1b}[", ""),
            ("\u{1b}[修", ""),
        ] {
            assert_eq!(html(line, None), expected, "{line:?}");
        }
    }

    #[test]
    fn output_is_escaped_regardless_of_colours_and_highlights() {
        let hostile = "\u{1b}[31m<script>alert(1)</script>\u{1b}[0m\" onload=x \u{202e}gpj \u{9b}31m";
        for query in [None, Some("script"), Some("<"), Some("alert(1)</scr")] {
            let html = html(hostile, query);
            let plain = html.replace("<mark>", "").replace("</mark>", "");
            let plain = plain.replace("<span class=\"f1\">", "").replace("</span>", "");
            assert!(!plain.contains(['<', '>', '"', '\u{202e}', '\u{1b}', '\u{9b}']), "{html}");
        }
    }

    #[test]
    fn matches_are_highlighted_case_insensitively_and_across_colours() {
        assert_eq!(
            html("GET /\u{1b}[34mOrders\u{1b}[0m?x", Some("/ord")),
            "GET <mark>/</mark><span class=\"f4\"><mark>Ord</mark></span><span class=\"f4\">ers</span>?x"
        );
        assert!(PlainLine::new(b"\x1b[1mWA\x1b[0mRN").has("warn"));
    }
}
