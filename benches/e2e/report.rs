//! Figures, as a table for people or as JSON for programs.

use std::fmt::Display;

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
    /// The row that the others are compared with.
    floor: String,
    columns: Vec<Column>,
    rows: Vec<(String, Vec<Vec<Option<f64>>>)>,
}

impl Table {
    pub(crate) fn new(title: impl Into<String>, columns: &[Column]) -> Self {
        let floor = Kind::Tunnel.to_string();
        Self { title: title.into(), floor, columns: columns.to_vec(), rows: Vec::new() }
    }

    /// Compares with another row than the plain tunnel's.
    pub(crate) fn with_floor(self, floor: impl Display) -> Self {
        Self { floor: floor.to_string(), ..self }
    }

    pub(crate) fn title(&self) -> &str {
        &self.title
    }

    /// Adds the figures of one round, one for each column.
    pub(crate) fn add(&mut self, row: impl Display, figures: Vec<Option<f64>>) {
        let row = row.to_string();
        match self.rows.iter_mut().find(|(name, _)| *name == row) {
            Some((_, rounds)) => rounds.push(figures),
            None => self.rows.push((row, vec![figures])),
        }
    }

    /// The figures of a row and column, one for each round.
    pub(crate) fn rounds(&self, row: &str, column: &str) -> Option<Rounds> {
        let at = self.columns.iter().position(|c| c.name == column)?;
        let (_, rounds) = self.rows.iter().find(|(name, _)| name == row)?;
        Some(Rounds(rounds.iter().map(|round| round.get(at).copied().flatten()).collect()))
    }

    fn ratio(&self, row: &str, column: &Column) -> Option<f64> {
        let of = |row| self.rounds(row, column.name);
        of(row)?.against(&of(&self.floor)?, |own, floor| own / floor)
    }

    pub(crate) fn print(&self) {
        let mut lines = vec![vec![self.title.clone()]];
        for column in &self.columns {
            lines[0].push(column.name.to_owned());
            if column.ratio {
                lines[0].push("ratio".to_owned());
            }
        }
        for (row, _) in &self.rows {
            let mut line = vec![row.clone()];
            for column in &self.columns {
                line.push(number(self.figure(row, column), column.digits));
                if column.ratio {
                    line.push(number(self.ratio(row, column), 2));
                }
            }
            lines.push(line);
        }
        print_aligned(&lines);
    }

    pub(crate) fn json(&self) -> Value {
        let rows = self.rows.iter().map(|(name, _)| {
            let mut row = Map::new();
            row.insert("contender".into(), name.clone().into());
            for column in &self.columns {
                row.insert(column.name.into(), self.figure(name, column).into());
                if column.ratio {
                    row.insert(format!("{} ratio", column.name), self.ratio(name, column).into());
                }
            }
            Value::Object(row)
        });
        json!({ "title": self.title, "rows": rows.collect::<Vec<_>>() })
    }

    fn figure(&self, row: &str, column: &Column) -> Option<f64> {
        self.rounds(row, column.name)?.median()
    }
}

/// One figure of each round.
pub(crate) struct Rounds(Vec<Option<f64>>);

impl Rounds {
    pub(crate) fn median(&self) -> Option<f64> {
        median(self.0.iter().copied().flatten().collect())
    }

    /// The median of what the two are to each other within each round, so that a slow moment of the
    /// machine, which hits neighbours alike, cancels out.
    pub(crate) fn against(&self, other: &Self, relation: fn(f64, f64) -> f64) -> Option<f64> {
        let pairs = self.0.iter().zip(&other.0);
        median(pairs.filter_map(|(own, other)| Some(relation((*own)?, (*other)?))).collect())
    }
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

pub(crate) fn number(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"))
}

/// The first column to the left, the others to the right, as a Markdown table.
pub(crate) fn print_aligned(lines: &[Vec<String>]) {
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
