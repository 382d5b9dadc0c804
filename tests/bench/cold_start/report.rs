//! The table: a row for each figure, a column for each program.

use std::fmt::{self, Display, Formatter};
use std::time::Duration;

use crate::run::Run;
use crate::shared::figures::{NOT_TOLD, Table, low_median_high, mebibytes, milliseconds, number, spread};
use crate::shared::subject::Subject;

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
}

impl Display for Report<'_> {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        let mut table = Table::new(self.subjects.iter().map(|subject| subject.name.clone()));
        for (name, time) in TIMES {
            table.row(name, self.runs.iter().map(|runs| times(runs, time)));
        }
        for (name, memory) in MEMORIES {
            table.row(name, self.runs.iter().map(|runs| memories(runs, memory)));
        }
        table.row("bootstrap", self.subjects.iter().map(|subject| size(subject.program_size)));
        let zip_size = |subject: &Subject| subject.zip_size.map_or_else(|| "not in a zip".to_owned(), size);
        table.row("zip", self.subjects.iter().map(zip_size));
        table.fmt(formatter)
    }
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
    spread(memories.into_iter().map(mebibytes), "MiB")
}

/// A file's size in bytes, in megabytes.
fn size(bytes: u64) -> String {
    format!("{:>6.3} MB", number(bytes) / 1e6)
}
