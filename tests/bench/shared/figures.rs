//! Figures: how many values are summarised, and the table that shows them.

use std::fmt::{self, Display, Formatter, Write};
use std::time::Duration;

/// Replaces a figure that the system does not report.
pub(crate) const NOT_TOLD: &str = "told on Linux only";

/// Rows of cells, each row with a name.
pub(crate) struct Table(Vec<(String, Vec<String>)>);

impl Table {
    /// A table with these columns.
    pub(crate) fn new(columns: impl IntoIterator<Item = String>) -> Self {
        Self(vec![(String::new(), columns.into_iter().collect())])
    }

    /// Adds a row, with a cell for each column.
    pub(crate) fn row(&mut self, name: &str, cells: impl IntoIterator<Item = String>) {
        self.0.push((name.to_owned(), cells.into_iter().collect()));
    }
}

impl Display for Table {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        let Self(lines) = self;
        let width = |texts: &mut dyn Iterator<Item = &str>| texts.map(|text| text.chars().count()).max().unwrap_or(0);
        let names = width(&mut lines.iter().map(|(name, _)| name.as_str()));
        let columns = 0..lines.first().map_or(0, |(_, cells)| cells.len());
        let columns: Vec<_> =
            columns.map(|column| width(&mut lines.iter().map(|(_, cells)| cells[column].as_str()))).collect();
        for (name, cells) in lines {
            let mut line = format!("{name:<names$}");
            for (cell, column) in cells.iter().zip(&columns) {
                write!(line, "  {cell:<column$}")?;
            }
            writeln!(formatter, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// The median of `times`; of an even number the mean of the two in the middle.
///
/// # Panics
/// If there is none.
pub(crate) fn median(times: impl Iterator<Item = Duration>) -> Duration {
    let [_, median, _] = low_median_high(times.map(|time| time.as_secs_f64()));
    Duration::from_secs_f64(median)
}

/// The median with the lowest and the highest, such as `0.77 ms (0.70..1.00)`.
///
/// # Panics
/// If there is none.
pub(crate) fn spread(figures: impl Iterator<Item = f64>, unit: &str) -> String {
    let [low, median, high] = low_median_high(figures).map(three_digits);
    format!("{median:>6} {unit} ({low}..{high})")
}

/// # Panics
/// If there is none.
pub(crate) fn low_median_high(figures: impl Iterator<Item = f64>) -> [f64; 3] {
    let mut figures: Vec<_> = figures.collect();
    figures.sort_by(f64::total_cmp);
    let last = figures.len() - 1;
    [figures[0], f64::midpoint(figures[last / 2], figures[last.div_ceil(2)]), figures[last]]
}

pub(crate) fn three_digits(figure: f64) -> String {
    let decimals = match figure.abs() {
        100.0.. => 0,
        10.0.. => 1,
        1.0.. => 2,
        _ => 3,
    };
    format!("{figure:.decimals$}")
}

/// A number with its digits in groups of three, such as `12 345 678`.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let gap = |index: usize| index > 0 && (digits.len() - index).is_multiple_of(3);
    digits.char_indices().flat_map(|(index, digit)| gap(index).then_some(' ').into_iter().chain([digit])).collect()
}

pub(crate) fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

pub(crate) fn mebibytes(bytes: u64) -> f64 {
    number(bytes) / (1024.0 * 1024.0)
}

#[expect(clippy::cast_precision_loss, reason = "the numbers are less than 2^52")]
pub(crate) fn number(number: u64) -> f64 {
    number as f64
}
