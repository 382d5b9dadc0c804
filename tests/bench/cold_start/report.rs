//! The table: a row for each figure, and for each program a column and another one that compares it with the floor.

use std::fmt::{self, Display, Formatter};
use std::time::Duration;

use crate::counts::{Count, Counts, NAMES};
use crate::run::Run;
use crate::shared::figures::{
    NOT_TOLD, Table, grouped, low_median_high, mebibytes, milliseconds, number, spread, three_digits,
};
use crate::shared::subject::Subject;

/// A figure of a run; `None` if the system does not report it.
type Of<T> = fn(&Run) -> Option<T>;

const TIMES: [(&str, Of<Duration>); 13] = [
    ("init", |run| Some(run.health.init)),
    ("first health", |run| Some(run.health.first)),
    ("cold health: init and first", |run| Some(run.health.init + run.health.first)),
    ("first chat", |run| Some(run.chat.first)),
    ("cold chat: init and first", |run| Some(run.chat.init + run.chat.first)),
    ("first chat over TLS", |run| Some(run.chat_tls.first)),
    ("cold chat over TLS: init and first", |run| Some(run.chat_tls.init + run.chat_tls.first)),
    ("warm health", |run| Some(run.health.warm)),
    ("warm chat", |run| Some(run.chat.warm)),
    ("warm chat over TLS", |run| Some(run.chat_tls.warm)),
    ("CPU of a cold health", |run| run.health.cpu),
    ("CPU of a cold chat", |run| run.chat.cpu),
    ("CPU of a cold chat over TLS", |run| run.chat_tls.cpu),
];

const MEMORIES: [(&str, Of<u64>); 3] = [
    ("peak memory, healths", |run| run.health.peak_memory),
    ("peak memory, chats", |run| run.chat.peak_memory),
    ("peak memory, chats over TLS", |run| run.chat_tls.peak_memory),
];

/// The figures of the runs of each of these programs.
pub(crate) struct Report<'a> {
    pub(crate) subjects: &'a [Subject],
    /// The runs of each subject; each has at least one.
    pub(crate) runs: &'a [Vec<Run>],
    /// The counts of each subject, of a first health and of a first chat over TLS.
    pub(crate) counts: &'a [[Counts; 2]],
}

impl Report<'_> {
    /// The time of `true`, such as `0.77 ms (0.70..1.00)`.
    pub(crate) fn of_true(&self) -> String {
        let runs = self.runs.first().into_iter().flatten();
        spread(runs.map(|run| milliseconds(run.of_true)), "ms").trim_start().to_owned()
    }

    /// Adds a row: `cell` gives the text for each subject, and `figures` the values that are compared with the floor's,
    /// one for each run or only one.
    fn row(
        &self,
        table: &mut Table,
        name: &str,
        cell: impl Fn(usize) -> String,
        figures: impl Fn(usize) -> Option<Vec<f64>>,
    ) {
        let floor = self.floor();
        let of_floor = floor.and_then(&figures);
        let mut cells = Vec::new();
        for index in 0..self.subjects.len() {
            cells.push(cell(index));
            if floor.is_some_and(|floor| floor != index) {
                cells.push(times_the_floor(figures(index), of_floor.as_deref()));
            }
        }
        table.row(name, cells);
    }

    fn floor(&self) -> Option<usize> {
        self.subjects.iter().position(Subject::is_floor)
    }

    fn columns(&self) -> Vec<String> {
        let has_floor = self.floor().is_some();
        let columns = |subject: &Subject| {
            let compared = (has_floor && !subject.is_floor()).then(|| "× floor".to_owned());
            [Some(subject.name.clone()), compared].into_iter().flatten()
        };
        self.subjects.iter().flat_map(columns).collect()
    }
}

impl Display for Report<'_> {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        let mut table = Table::new(self.columns());
        for (name, time) in TIMES {
            let figures = |index: usize| self.runs[index].iter().map(|run| Some(time(run)?.as_secs_f64())).collect();
            self.row(&mut table, name, |index| times(&self.runs[index], time), figures);
        }
        for (name, memory) in MEMORIES {
            let figures = |index: usize| self.runs[index].iter().map(|run| Some(number(memory(run)?))).collect();
            self.row(&mut table, name, |index| memories(&self.runs[index], memory), figures);
        }
        for (request, of) in [("first health", 0), ("first chat over TLS", 1)] {
            for (name, count) in NAMES {
                let count = |index: usize| count(&self.counts[index][of]);
                let figures = |index| count(index).ok().map(|count| vec![number(count)]);
                self.row(&mut table, &format!("{name}, {request}"), |index| counted(count(index)), figures);
            }
        }
        let bootstrap = |index: usize| Some(self.subjects[index].program_size);
        let zip = |index: usize| self.subjects[index].zip_size;
        let sizes: [(_, &dyn Fn(usize) -> Option<u64>); 2] = [("bootstrap", &bootstrap), ("zip", &zip)];
        for (name, bytes) in sizes {
            let cell = |index| bytes(index).map_or_else(|| "not in a zip".to_owned(), size);
            self.row(&mut table, name, cell, |index| bytes(index).map(|bytes| vec![number(bytes)]));
        }
        table.fmt(formatter)
    }
}

/// The median of the ratios to the floor's figure in the same run.
fn times_the_floor(figures: Option<Vec<f64>>, of_floor: Option<&[f64]>) -> String {
    let (Some(figures), Some(of_floor)) = (figures, of_floor) else { return String::new() };
    let [_, ratio, _] = low_median_high(figures.iter().zip(of_floor).map(|(figure, of_floor)| figure / of_floor));
    format!("{:>6}×", three_digits(ratio))
}

/// In milliseconds, and the median of the ratios to `true` in the same run.
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

fn counted(count: Count) -> String {
    count.map_or_else(ToOwned::to_owned, |count| format!("{:>10}", grouped(count)))
}

/// A file's size in bytes, in megabytes.
fn size(bytes: u64) -> String {
    format!("{:>6.3} MB", number(bytes) / 1e6)
}
