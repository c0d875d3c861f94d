//! What commands print: tables for people, JSON for machines, errors with their next step.

use std::io::{self, IsTerminal as _, Write as _};

use jiff::Timestamp;
use serde::Serialize;

use crate::app::Failure;

/// Prints a value as JSON, on one line of its own.
pub(super) fn json(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|e| Failure::new(format!("the output cannot be written as JSON: {e}")))?;
    line(&text)
}

/// Prints a line. A reader that went away (`| head`) is no failure.
pub(super) fn line(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::new(format!("the output cannot be written: {error}")))
        }
        _ => Ok(()),
    }
}

/// A table: columns as wide as their widest cell, two spaces between them.
#[derive(Debug)]
pub(super) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(super) fn new(head: &[&str]) -> Self {
        Self { rows: vec![head.iter().map(|cell| (*cell).to_owned()).collect()] }
    }

    pub(super) fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    pub(super) fn print(&self) -> Result<(), Failure> {
        line(&self.render())
    }

    fn render(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let render = |row: &Vec<String>| {
            let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
            cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
        };
        self.rows.iter().map(render).collect::<Vec<_>>().join("\n")
    }
}

/// Writes a failure to standard error.
pub(super) fn report(failure: &Failure) {
    let (red, bold, reset) = colours();
    let mut err = io::stderr().lock();
    // Nobody is left to tell when standard error is gone.
    let _ = writeln!(err, "{red}error{reset}: {failure}");
    if let Some(advice) = failure.advice() {
        let _ = writeln!(err, "{bold}help{reset}: {advice}");
    }
}

/// Says something to the person, beside the output.
pub(super) fn note(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Colour only on a terminal, and not where `NO_COLOR` is set (no-color.org).
fn colours() -> (&'static str, &'static str, &'static str) {
    let plain = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty());
    if plain || !io::stderr().is_terminal() {
        ("", "", "")
    } else {
        ("\x1b[31;1m", "\x1b[1m", "\x1b[0m")
    }
}

/// Colours for standard output, under the same conditions.
#[derive(Clone, Copy, Debug)]
pub(super) struct Paint {
    colour: bool,
}

impl Paint {
    pub(super) fn for_stdout() -> Self {
        let plain = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty());
        Self { colour: !plain && io::stdout().is_terminal() }
    }

    fn with(self, code: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    pub(super) fn bold(self, text: &str) -> String {
        self.with("1", text)
    }

    pub(super) fn dim(self, text: &str) -> String {
        self.with("2", text)
    }

    pub(super) fn green(self, text: &str) -> String {
        self.with("32;1", text)
    }

    pub(super) fn red(self, text: &str) -> String {
        self.with("31;1", text)
    }

    pub(super) fn yellow(self, text: &str) -> String {
        self.with("33;1", text)
    }
}

/// A time of the vault, as people read it.
pub(super) fn time(unix: i64) -> String {
    let time = Timestamp::from_second(unix).unwrap_or(Timestamp::UNIX_EPOCH);
    time.strftime("%Y-%m-%d %H:%M:%SZ").to_string()
}

/// The same for a time that may not be.
pub(super) fn time_or_dash(unix: Option<i64>) -> String {
    unix.map_or_else(|| "-".to_owned(), time)
}

/// A list in one cell.
pub(super) fn list<T: ToString>(items: impl IntoIterator<Item = T>) -> String {
    let items: Vec<String> = items.into_iter().map(|item| item.to_string()).collect();
    if items.is_empty() { "-".to_owned() } else { items.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_align() {
        let mut table = Table::new(&["NAME", "TO"]);
        table.row(vec!["a".into(), "https://a.test".into()]);
        table.row(vec!["longer".into(), "-".into()]);
        assert_eq!(table.render(), "NAME    TO\na       https://a.test\nlonger  -");
    }

    #[test]
    fn times_are_utc() {
        assert_eq!(time(0), "1970-01-01 00:00:00Z");
        assert_eq!(time_or_dash(None), "-");
    }
}
