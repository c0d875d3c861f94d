//! Figures, as a table for people or as JSON for programs.

use serde_json::{Map, Value, json};

use super::contender::Kind;

/// What a figure means.
#[derive(Clone, Copy)]
pub(crate) struct Column {
    pub(crate) name: &'static str,
    pub(crate) digits: usize,
    /// Also shown as a ratio to the plain tunnel.
    pub(crate) ratio: bool,
}

impl Column {
    pub(crate) const fn new(name: &'static str, digits: usize) -> Self {
        Self { name, digits, ratio: false }
    }

    pub(crate) const fn with_ratio(self) -> Self {
        Self { ratio: true, ..self }
    }
}

/// The figures of one scenario: for each contender, one list of figures for each round.
pub(crate) struct Table {
    title: String,
    columns: Vec<Column>,
    rows: Vec<(Kind, Vec<Vec<Option<f64>>>)>,
}

impl Table {
    pub(crate) fn new(title: impl Into<String>, columns: &[Column]) -> Self {
        Self { title: title.into(), columns: columns.to_vec(), rows: Vec::new() }
    }

    /// Adds the figures of one round, one for each column.
    pub(crate) fn add(&mut self, kind: Kind, figures: Vec<Option<f64>>) {
        match self.rows.iter_mut().find(|(k, _)| *k == kind) {
            Some((_, rounds)) => rounds.push(figures),
            None => self.rows.push((kind, vec![figures])),
        }
    }

    /// The median of the ratios within each round, so that a slow moment of the machine, which hits
    /// neighbours alike, cancels out.
    fn ratio(&self, rounds: &[Vec<Option<f64>>], column: usize) -> Option<f64> {
        let (_, floor) = self.rows.iter().find(|(kind, _)| *kind == Kind::Tunnel)?;
        let of = |round: &Vec<Option<f64>>| *round.get(column)?;
        let pairs = rounds.iter().zip(floor);
        median(pairs.filter_map(|(own, floor)| Some(of(own)? / of(floor)?)).collect())
    }

    pub(crate) fn print(&self) {
        let mut lines = vec![vec![self.title.clone()]];
        for column in &self.columns {
            lines[0].push(column.name.to_owned());
            if column.ratio {
                lines[0].push("ratio".to_owned());
            }
        }
        for (kind, rounds) in &self.rows {
            let mut line = vec![kind.to_string()];
            for (at, column) in self.columns.iter().enumerate() {
                line.push(number(figure(rounds, at), column.digits));
                if column.ratio {
                    line.push(number(self.ratio(rounds, at), 2));
                }
            }
            lines.push(line);
        }
        print_aligned(&lines);
    }

    pub(crate) fn json(&self) -> Value {
        let rows = self.rows.iter().map(|(kind, rounds)| {
            let mut row = Map::new();
            row.insert("contender".into(), kind.to_string().into());
            for (at, column) in self.columns.iter().enumerate() {
                row.insert(column.name.into(), figure(rounds, at).into());
                if column.ratio {
                    row.insert(format!("{} ratio", column.name), self.ratio(rounds, at).into());
                }
            }
            Value::Object(row)
        });
        json!({ "title": self.title, "rows": rows.collect::<Vec<_>>() })
    }
}

/// The median over the rounds.
fn figure(rounds: &[Vec<Option<f64>>], column: usize) -> Option<f64> {
    median(rounds.iter().filter_map(|round| *round.get(column)?).collect())
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

fn number(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"))
}

/// The first column to the left, the others to the right, as a Markdown table.
fn print_aligned(lines: &[Vec<String>]) {
    let columns = lines.first().map_or(0, Vec::len);
    let width = |at: usize| lines.iter().map(|l| l[at].chars().count()).max().unwrap_or_default();
    let widths: Vec<usize> = (0..columns).map(width).collect();
    println!();
    for (number, line) in lines.iter().enumerate() {
        let cells = line.iter().zip(&widths).enumerate().map(|(at, (text, width))| match at {
            0 => format!("{text:<width$}"),
            _ => format!("{text:>width$}"),
        });
        println!("| {} |", cells.collect::<Vec<_>>().join(" | "));
        if number == 0 {
            let rules = widths.iter().enumerate().map(|(at, width)| match at {
                0 => "-".repeat(*width),
                _ => format!("{}:", "-".repeat(width.saturating_sub(1))),
            });
            println!("| {} |", rules.collect::<Vec<_>>().join(" | "));
        }
    }
}
