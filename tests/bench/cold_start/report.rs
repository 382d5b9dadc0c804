//! The table: a row for each figure, a column for each program.

use std::fmt::{self, Display, Formatter, Write};
use std::time::Duration;

use crate::run::Run;
use crate::subject::Subject;

const NOT_TOLD: &str = "told on Linux only";

/// A figure of a run; `None` where the system does not tell it.
type Of<T> = fn(&Run) -> Option<T>;

const TIMES: [(&str, Of<Duration>); 9] = [
    ("init", |run| Some(run.health.init)),
    ("first health", |run| Some(run.health.first)),
    ("cold health: init and first", |run| Some(run.health.init + run.health.first)),
    ("first chat", |run| Some(run.chat.first)),
    ("cold chat: init and first", |run| Some(run.chat.init + run.chat.first)),
    ("warm health", |run| Some(run.health.warm)),
    ("warm chat", |run| Some(run.chat.warm)),
    ("CPU of a cold health", |run| run.health.cpu),
    ("CPU of a cold chat", |run| run.chat.cpu),
];

const MEMORIES: [(&str, Of<u64>); 2] =
    [("peak memory, healths", |run| run.health.peak_memory), ("peak memory, chats", |run| run.chat.peak_memory)];

/// What the runs of each of these programs showed.
pub(crate) struct Report<'a> {
    pub(crate) subjects: &'a [Subject],
    /// For each subject its runs, of which there is at least one.
    pub(crate) runs: &'a [Vec<Run>],
}

impl Report<'_> {
    /// What `true` took, such as `0.77 ms (0.70..1.00)`.
    pub(crate) fn of_true(&self) -> String {
        let runs = self.runs.first().into_iter().flatten();
        spread(runs.map(|run| milliseconds(run.of_true)), "ms").trim_start().to_owned()
    }

    /// The name of each row and its cells.
    fn rows(&self) -> Vec<(&'static str, Vec<String>)> {
        let times = TIMES.map(|(name, time)| (name, self.runs.iter().map(|runs| times(runs, time)).collect()));
        let memories =
            MEMORIES.map(|(name, memory)| (name, self.runs.iter().map(|runs| memories(runs, memory)).collect()));
        let programs = self.subjects.iter().map(|subject| size(subject.program_size));
        let zips = self.subjects.iter().map(|subject| subject.zip_size.map_or_else(|| "not in a zip".to_owned(), size));
        let sizes = [("bootstrap", programs.collect()), ("zip", zips.collect())];
        times.into_iter().chain(memories).chain(sizes).collect()
    }
}

impl Display for Report<'_> {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        let head = ("", self.subjects.iter().map(|subject| subject.name.clone()).collect());
        let lines: Vec<_> = [head].into_iter().chain(self.rows()).collect();
        let width = |texts: &mut dyn Iterator<Item = &str>| texts.map(|text| text.chars().count()).max().unwrap_or(0);
        let names = width(&mut lines.iter().map(|(name, _)| *name));
        let columns = 0..self.subjects.len();
        let columns: Vec<_> =
            columns.map(|column| width(&mut lines.iter().map(|(_, cells)| cells[column].as_str()))).collect();
        for (name, cells) in &lines {
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
/// When there is none.
pub(crate) fn median(times: impl Iterator<Item = Duration>) -> Duration {
    let [_, median, _] = low_median_high(times.map(|time| time.as_secs_f64()));
    Duration::from_secs_f64(median)
}

/// In milliseconds, and the median of how many times `true` in the same run that is.
fn times(runs: &[Run], time: Of<Duration>) -> String {
    let Some(times) = runs.iter().map(time).collect::<Option<Vec<_>>>() else { return NOT_TOLD.to_owned() };
    let ratios = times.iter().zip(runs).map(|(time, run)| time.as_secs_f64() / run.of_true.as_secs_f64());
    let [_, ratio, _] = low_median_high(ratios);
    let spread = spread(times.into_iter().map(milliseconds), "ms");
    format!("{spread:<26} {:>6}", format!("{ratio:.2}×"))
}

/// In MiB.
fn memories(runs: &[Run], memory: Of<u64>) -> String {
    let Some(memories) = runs.iter().map(memory).collect::<Option<Vec<_>>>() else { return NOT_TOLD.to_owned() };
    spread(memories.into_iter().map(|bytes| number(bytes) / (1024.0 * 1024.0)), "MiB")
}

/// A file's size in bytes, in megabytes.
fn size(bytes: u64) -> String {
    format!("{:>6.3} MB", number(bytes) / 1e6)
}

#[expect(clippy::cast_precision_loss, reason = "the sizes are less than 2^52 bytes")]
fn number(bytes: u64) -> f64 {
    bytes as f64
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// The median with the lowest and the highest.
fn spread(figures: impl Iterator<Item = f64>, unit: &str) -> String {
    let [low, median, high] = low_median_high(figures).map(three_digits);
    format!("{median:>6} {unit} ({low}..{high})")
}

fn low_median_high(figures: impl Iterator<Item = f64>) -> [f64; 3] {
    let mut figures: Vec<_> = figures.collect();
    figures.sort_by(f64::total_cmp);
    let last = figures.len() - 1;
    [figures[0], f64::midpoint(figures[last / 2], figures[last.div_ceil(2)]), figures[last]]
}

fn three_digits(figure: f64) -> String {
    let decimals = match figure {
        100.0.. => 0,
        10.0.. => 1,
        1.0.. => 2,
        _ => 3,
    };
    format!("{figure:.decimals$}")
}
