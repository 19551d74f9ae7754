//! Reports of the benchmarks: samples, ratios, tables.
// Every benchmark uses only a part of this module.
#![allow(dead_code)]

use std::time::{Duration, Instant};

/// Repeated measurements of the same duration.
#[derive(Clone, Debug, Default)]
pub(crate) struct Samples(Vec<Duration>);

impl Samples {
    /// Adds a sample.
    pub(crate) fn add(&mut self, sample: Duration) {
        self.0.push(sample);
    }

    /// Runs `work` and adds its duration.
    pub(crate) fn time<T>(&mut self, work: impl FnOnce() -> T) -> T {
        let began = Instant::now();
        let done = work();
        self.add(began.elapsed());
        done
    }

    /// The number of samples.
    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    /// The median.
    pub(crate) fn median(&self) -> Duration {
        self.at(0.5)
    }

    /// The 90th percentile.
    pub(crate) fn p90(&self) -> Duration {
        self.at(0.9)
    }

    /// The 99th percentile.
    pub(crate) fn p99(&self) -> Duration {
        self.at(0.99)
    }

    fn at(&self, part: f64) -> Duration {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        // Rounded to the nearest rank; there are far fewer samples than a float can count.
        let rank = ((sorted.len().saturating_sub(1)) as f64 * part).round() as usize;
        sorted.get(rank).copied().unwrap_or_default()
    }
}

impl Extend<Duration> for Samples {
    fn extend<T: IntoIterator<Item = Duration>>(&mut self, samples: T) {
        self.0.extend(samples);
    }
}

/// A Markdown table, with columns aligned for the terminal too.
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// Creates a table with these columns.
    pub(crate) fn new(columns: &[&str]) -> Self {
        Self { rows: vec![columns.iter().map(|&column| column.to_owned()).collect()] }
    }

    /// Adds a row.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// Writes the table to standard output.
    pub(crate) fn print(&self) {
        let columns = self.rows[0].len();
        let width = |column: usize| self.rows.iter().map(|row| row[column].chars().count()).max();
        let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
        for (index, row) in self.rows.iter().enumerate() {
            let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
            println!("| {} |", cells.collect::<Vec<_>>().join(" | "));
            if index == 0 {
                let rule = widths.iter().map(|width| "-".repeat(*width));
                println!("| {} |", rule.collect::<Vec<_>>().join(" | "));
            }
        }
        println!();
    }
}

/// A duration in a suitable unit.
pub(crate) fn shown(duration: Duration) -> String {
    let micros = duration.as_secs_f64() * 1e6;
    match micros {
        _ if micros < 1_000.0 => format!("{micros:.1} µs"),
        _ if micros < 10_000.0 => format!("{:.2} ms", micros / 1e3),
        _ => format!("{:.0} ms", micros / 1e3),
    }
}

/// `of` as a multiple of `limit`.
pub(crate) fn ratio(of: Duration, limit: Duration) -> String {
    format!("{:.2}", of.as_secs_f64() / limit.as_secs_f64())
}

/// Prints the subject of a measurement.
pub(crate) fn title(words: &str) {
    println!("\n## {words}\n");
}

/// Prints whether a goal was met.
pub(crate) fn goal(words: &str, is_met: bool) {
    println!("Goal: {words}: {}\n", if is_met { "met" } else { "MISSED" });
}
