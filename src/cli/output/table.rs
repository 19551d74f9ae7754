//! Aligned columns without borders.

use anstyle::Style;
use unicode_width::UnicodeWidthStr as _;

use super::style::BOLD;
use super::text::{one_line, shorten};

/// Spaces between columns.
const GAP: usize = 2;
/// The minimum width of the last column. On a narrower terminal, texts that do not fit get lines of
/// their own.
const NARROWEST_LAST: usize = 40;
/// The indentation of such lines.
const INDENT: &str = "  ";

/// One cell: text that is safe to print, and its style.
#[derive(Clone, Debug)]
pub(crate) struct Cell {
    text: String,
    style: Style,
}

impl Cell {
    /// A cell with `text` on one line, in `style`.
    pub(crate) fn styled(text: &str, style: Style) -> Self {
        Self { text: one_line(text), style }
    }

    /// A cell with `value`, or a dash if it is missing.
    pub(crate) fn or_dash(value: Option<impl ToString>) -> Self {
        value.map_or_else(|| Self::from("-"), |value| Self::from(value.to_string().as_str()))
    }

    fn width(&self) -> usize {
        self.text.width()
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self::styled(text, Style::new())
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self::from(text.as_str())
    }
}

/// Rows under headers. Every row has as many cells as there are headers.
#[derive(Clone, Debug)]
pub(crate) struct TextTable<const N: usize> {
    header: [&'static str; N],
    rows: Vec<[Cell; N]>,
}

impl<const N: usize> TextTable<N> {
    /// A table without rows.
    pub(crate) fn new(header: [&'static str; N]) -> Self {
        Self { header, rows: Vec::new() }
    }

    /// Adds a row.
    pub(crate) fn row(&mut self, cells: [Cell; N]) {
        self.rows.push(cells);
    }

    /// Renders the lines, styled. If the width of the terminal is known, the last column is cut to fit, or,
    /// on a narrow terminal, wrapped below its row.
    pub(crate) fn render(&self, width: Option<usize>) -> String {
        let header = self.header.map(|title| Cell::styled(title, BOLD));
        let lines: Vec<&[Cell; N]> = std::iter::once(&header).chain(&self.rows).collect();
        let mut widths = [0; N];
        for line in &lines {
            for (widest, cell) in widths.iter_mut().zip(line.iter()) {
                *widest = cell.width().max(*widest);
            }
        }
        let Some(width) = width else {
            return lines.iter().map(|line| render_line(line.as_slice(), &widths, None)).collect();
        };
        let before: usize = widths.iter().rev().skip(1).map(|column| column + GAP).sum();
        let room = width.saturating_sub(before);
        let render = |line: &&[Cell; N]| {
            if room < NARROWEST_LAST {
                render_wrapped(*line, &widths, room, width)
            } else {
                render_line(*line, &widths, Some(room))
            }
        };
        lines.iter().map(render).collect()
    }
}

/// Renders a row; its last cell goes below the row if it does not fit beside it.
fn render_wrapped(cells: &[Cell], widths: &[usize], room: usize, width: usize) -> String {
    let Some((last, others)) = cells.split_last().filter(|(last, _)| last.width() > room) else {
        return render_line(cells, widths, None);
    };
    let wrap = textwrap::Options::new(width).initial_indent(INDENT).subsequent_indent(INDENT);
    let below: String = textwrap::wrap(&last.text, wrap)
        .iter()
        .map(|line| format!("{}\n", super::style::paint(last.style, line)))
        .collect();
    render_line(others, widths, None) + &below
}

/// Writes padding only before another cell, so that no line ends in spaces.
fn render_line(cells: &[Cell], widths: &[usize], room_of_last: Option<usize>) -> String {
    let mut line = String::new();
    let mut pending = 0;
    for (index, (cell, width)) in cells.iter().zip(widths).enumerate() {
        let room = room_of_last.filter(|_| index + 1 == cells.len());
        let text = room.map_or_else(|| cell.text.clone(), |room| shorten(&cell.text, room));
        if !text.is_empty() {
            line.extend(std::iter::repeat_n(' ', pending));
            pending = 0;
            line.push_str(&super::style::paint(cell.style, &text));
        }
        pending += width + GAP - text.width().min(*width);
    }
    line.push('\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(text: &str) -> String {
        anstream::adapter::strip_str(text).to_string()
    }

    #[test]
    fn columns_are_aligned_and_no_line_ends_in_spaces() {
        let mut table = TextTable::new(["NAME", "SIZE", "NOTE"]);
        table.row(["dev".into(), "10".into(), "first".into()]);
        table.row(["production".into(), "9".into(), "".into()]);
        let expected = "NAME        SIZE  NOTE\ndev         10    first\nproduction  9\n";
        assert_eq!(plain(&table.render(None)), expected);
    }

    #[test]
    fn only_the_last_column_is_cut_to_the_terminal() {
        let mut table = TextTable::new(["ENVIRONMENT", "MESSAGE"]);
        table.row(["dev".into(), "0123456789".repeat(8).as_str().into()]);
        let text = plain(&table.render(Some(60)));
        let cut = format!("dev          {}012345…", "0123456789".repeat(4));
        assert_eq!(text.lines().nth(1), Some(cut.as_str()));
        assert!(text.lines().all(|line| line.chars().count() <= 60), "{text}");
    }

    #[test]
    fn on_a_narrow_terminal_a_long_message_is_wrapped_below_its_row() {
        let mut table = TextTable::new(["ENVIRONMENT", "MESSAGE"]);
        table.row(["dev".into(), "the image of generation 7 is pulled from its registry".into()]);
        table.row(["test".into(), "ready".into()]);
        let expected = "ENVIRONMENT  MESSAGE\ndev\n  the image of generation 7 is\n  pulled from its registry\n\
                        test         ready\n";
        assert_eq!(plain(&table.render(Some(32))), expected);
    }

    #[test]
    fn styles_do_not_change_the_alignment() {
        let mut table = TextTable::new(["A", "B"]);
        table.row([Cell::styled("x", BOLD), "y".into()]);
        table.row(["wide".into(), "z".into()]);
        let text = table.render(None);
        assert!(text.contains("\u{1b}[1m"), "the header is not bold: {text:?}");
        assert_eq!(plain(&text), "A     B\nx     y\nwide  z\n");
    }

    #[test]
    fn non_ascii_letters_take_one_column() {
        let mut table = TextTable::new(["A", "B"]);
        table.row(["äöü".into(), "x".into()]);
        table.row(["abc".into(), "y".into()]);
        assert_eq!(plain(&table.render(None)), "A    B\näöü  x\nabc  y\n");
    }

    #[test]
    fn wide_letters_take_two_columns() {
        let mut table = TextTable::new(["A", "B"]);
        table.row(["开发".into(), "x".into()]);
        table.row(["test".into(), "y".into()]);
        assert_eq!(plain(&table.render(None)), "A     B\n开发  x\ntest  y\n");
    }

    #[test]
    fn a_cell_never_breaks_the_line() {
        let mut table = TextTable::new(["A"]);
        table.row(["one\ntwo\u{1b}[2J".into()]);
        assert_eq!(table.render(None).lines().count(), 2);
    }
}
