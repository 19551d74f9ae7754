//! Aligned columns without borders.

use anstyle::Style;

use super::style::BOLD;
use super::text::{one_line, shorten};

/// Spaces between columns.
const GAP: usize = 2;
/// The last column is never cut shorter than this: a terminal so narrow may wrap.
const NARROWEST_LAST: usize = 20;

/// One cell: text that is safe to print, and its style.
#[derive(Clone, Debug)]
pub(crate) struct Cell {
    text: String,
    style: Style,
}

impl Cell {
    /// `text` on one line, in `style`.
    pub(crate) fn styled(text: &str, style: Style) -> Self {
        Self { text: one_line(text), style }
    }

    /// `value`, or a dash where there is none.
    pub(crate) fn or_dash(value: Option<impl ToString>) -> Self {
        value.map_or_else(|| Self::from("-"), |value| Self::from(value.to_string().as_str()))
    }

    fn width(&self) -> usize {
        self.text.chars().count()
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
pub(crate) struct Table<const N: usize> {
    header: [&'static str; N],
    rows: Vec<[Cell; N]>,
}

impl<const N: usize> Table<N> {
    /// A table without rows.
    pub(crate) fn new(header: [&'static str; N]) -> Self {
        Self { header, rows: Vec::new() }
    }

    /// Adds a row.
    pub(crate) fn row(&mut self, cells: [Cell; N]) {
        self.rows.push(cells);
    }

    /// The lines, styled; the last column is cut to fit into `width` columns where that is known.
    pub(crate) fn render(&self, width: Option<usize>) -> String {
        let header = self.header.map(|title| Cell::styled(title, BOLD));
        let lines: Vec<&[Cell; N]> = std::iter::once(&header).chain(&self.rows).collect();
        let mut widths = [0; N];
        for line in &lines {
            for (widest, cell) in widths.iter_mut().zip(line.iter()) {
                *widest = cell.width().max(*widest);
            }
        }
        let room = width.map(|width| room_of_last(&widths, width));
        lines.iter().map(|line| render_line(line.as_slice(), &widths, room)).collect()
    }
}

fn room_of_last(widths: &[usize], width: usize) -> usize {
    let before: usize = widths.iter().rev().skip(1).map(|column| column + GAP).sum();
    width.saturating_sub(before).max(NARROWEST_LAST)
}

/// Padding is written only once something follows it, so that no line ends in spaces.
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
        pending += width + GAP - text.chars().count().min(*width);
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
        let mut table = Table::new(["NAME", "SIZE", "NOTE"]);
        table.row(["dev".into(), "10".into(), "first".into()]);
        table.row(["production".into(), "9".into(), "".into()]);
        let expected = "NAME        SIZE  NOTE\ndev         10    first\nproduction  9\n";
        assert_eq!(plain(&table.render(None)), expected);
    }

    #[test]
    fn only_the_last_column_is_cut_to_the_terminal() {
        let mut table = Table::new(["ENVIRONMENT", "MESSAGE"]);
        table.row(["dev".into(), "0123456789012345678901234567890123456789".into()]);
        let text = plain(&table.render(Some(36)));
        assert_eq!(text.lines().nth(1), Some("dev          0123456789012345678901…"));
        assert!(text.lines().all(|line| line.chars().count() <= 36), "{text}");
    }

    #[test]
    fn styles_do_not_change_the_alignment() {
        let mut table = Table::new(["A", "B"]);
        table.row([Cell::styled("x", BOLD), "y".into()]);
        table.row(["wide".into(), "z".into()]);
        let text = table.render(None);
        assert!(text.contains("\u{1b}[1m"), "the header is not bold: {text:?}");
        assert_eq!(plain(&text), "A     B\nx     y\nwide  z\n");
    }

    #[test]
    fn letters_beyond_ascii_count_once() {
        let mut table = Table::new(["A", "B"]);
        table.row(["äöü".into(), "x".into()]);
        table.row(["abc".into(), "y".into()]);
        assert_eq!(plain(&table.render(None)), "A    B\näöü  x\nabc  y\n");
    }

    #[test]
    fn a_cell_never_breaks_the_line() {
        let mut table = Table::new(["A"]);
        table.row(["one\ntwo\u{1b}[2J".into()]);
        assert_eq!(table.render(None).lines().count(), 2);
    }
}
