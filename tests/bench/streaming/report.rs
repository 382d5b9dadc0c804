//! The table: a row for each figure, two columns for each program: its own, and that of the
//! pass-through beside it.

use std::fmt::{self, Display, Formatter};
use std::time::Duration;

use crate::run::{Both, Cost, First, Run, Series};
use crate::shared::figures::{NOT_TOLD, Table, low_median_high, mebibytes, median, milliseconds, spread, three_digits};
use crate::shared::subject::Subject;

/// A figure of a run.
type Of<T> = fn(&Run) -> &Both<T>;

const FIRSTS: [(&str, Of<First>); 2] =
    [("first delta", |run| &run.first), ("first delta with head", |run| &run.first_with_head)];

const SERIES: [(&str, Of<Series>); 2] =
    [("deltas, one every 2 ms", |run| &run.even), ("deltas, one every 0.2 to 5 ms", |run| &run.random)];

const COSTS: [(&str, Of<Cost>); 2] = [("one by one", |run| &run.one_by_one), ("flood", |run| &run.flood)];

/// For figures that only the function has.
const NONE: &str = "";

/// The figures of the runs of each of these programs.
pub(crate) struct Report<'a> {
    pub(crate) subjects: &'a [Subject],
    /// The runs of each subject; each has at least one.
    pub(crate) runs: &'a [Vec<Run>],
}

impl Display for Report<'_> {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        let columns = self.subjects.iter().flat_map(|subject| [subject.name.clone(), "pass-through".to_owned()]);
        let mut table = Table::new(columns);
        for (name, first) in FIRSTS {
            self.row(&mut table, &format!("{name}, cold"), |runs, way| {
                spread(runs.iter().map(|run| milliseconds(first(run)[way].cold)), "ms")
            });
            let warm = |runs: &[Run], way: usize| -> Vec<Duration> {
                runs.iter().flat_map(|run| first(run)[way].warm.clone()).collect()
            };
            self.row(&mut table, &format!("{name}, warm"), |runs, way| {
                spread(warm(runs, way).into_iter().map(milliseconds), "ms")
            });
            self.row(&mut table, "  over the pass-through", |runs, way| {
                let [function, pass_through] = [0, 1].map(|way| milliseconds(median(warm(runs, way).into_iter())));
                if way == 0 { format!("{:>6} ms", three_digits(function - pass_through)) } else { NONE.to_owned() }
            });
        }
        for (name, series) in SERIES {
            self.row(&mut table, name, |runs, way| {
                latencies(runs.iter().flat_map(|run| series(run)[way].latencies.clone()))
            });
            self.row(&mut table, "  held back by another", |runs, way| {
                let all = runs.iter().map(|run| &series(run)[way]);
                let (held_back, deltas) =
                    all.fold((0, 0), |(held, all), series| (held + series.held_back, all + series.latencies.len()));
                format!("{held_back:>6} of {deltas}")
            });
        }
        for (name, cost) in COSTS {
            self.row(&mut table, &format!("CPU a delta, {name}"), |runs, way| {
                let cpu = runs.iter().map(|run| cost(run)[way].cpu).collect::<Option<Vec<_>>>();
                cpu.map_or_else(
                    || NOT_TOLD.to_owned(),
                    |cpu| spread(cpu.into_iter().map(|cpu| milliseconds(cpu) * 1e3), "µs"),
                )
            });
        }
        for (name, cost) in COSTS {
            let mut memory_row = |name: &str, figure: fn((u64, u64)) -> f64| {
                self.row(&mut table, name, |runs, way| {
                    if way > 0 {
                        return NONE.to_owned();
                    }
                    let memory = runs.iter().map(|run| cost(run)[way].memory.map(figure)).collect::<Option<Vec<_>>>();
                    memory.map_or_else(|| NOT_TOLD.to_owned(), |memory| spread(memory.into_iter(), "MiB"))
                });
            };
            memory_row(&format!("peak memory, short answer, {name}"), |(short, _)| mebibytes(short));
            memory_row(&format!("peak memory, long answer, {name}"), |(_, long)| mebibytes(long));
            memory_row("  over the short one's", |(short, long)| mebibytes(long) - mebibytes(short));
        }
        table.fmt(formatter)
    }
}

impl Report<'_> {
    /// Adds a row, whose cells are made of a program's runs and the number of a way.
    fn row(&self, table: &mut Table, name: &str, cell: impl Fn(&[Run], usize) -> String) {
        table.row(name, self.runs.iter().flat_map(|runs| [0, 1].map(|way| cell(runs, way))));
    }
}

/// The median with the highest of 99 % and of all, in milliseconds.
fn latencies(latencies: impl Iterator<Item = Duration>) -> String {
    let mut latencies: Vec<_> = latencies.map(milliseconds).collect();
    latencies.sort_by(f64::total_cmp);
    let last = latencies.len() - 1;
    let [_, median, highest] = low_median_high(latencies.iter().copied()).map(three_digits);
    let of_99 = three_digits(latencies[(last * 99).div_ceil(100)]);
    format!("{median:>6} ms (99 %: {of_99}, highest: {highest})")
}
