//! What commands print: tables for people, JSON for machines, errors with their next step.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde::Serialize;

use crate::app::Failure;

/// Whether a machine reads what a command has done.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(super) struct Json {
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

impl Json {
    /// Prints what was done: as JSON, or in words.
    pub(super) fn tell(
        self,
        done: &impl Serialize,
        words: impl FnOnce() -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        if self.json { json(done) } else { words() }
    }
}

/// Prints a value as JSON, on one line of its own.
pub(super) fn json(value: &impl Serialize) -> Result<(), Failure> {
    line(&json_text(value)?)
}

/// The same, of what is printed this once: a reader that went away is a failure.
pub(super) fn json_for_good(value: &impl Serialize) -> Result<(), Failure> {
    line_for_good(&json_text(value)?)
}

fn json_text(value: &impl Serialize) -> Result<String, Failure> {
    serde_json::to_string_pretty(value)
        .map_err(|e| Failure::new(format!("the output cannot be written as JSON: {e}")))
}

/// Prints a line. A reader that went away (`| head`) is no failure.
pub(super) fn line(text: &str) -> Result<(), Failure> {
    match written(text) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(unwritten(&error)),
        _ => Ok(()),
    }
}

/// The same, of what is printed this once: a reader that went away is a failure.
pub(super) fn line_for_good(text: &str) -> Result<(), Failure> {
    written(text).map_err(|error| unwritten(&error))
}

fn written(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush())
}

fn unwritten(error: &io::Error) -> Failure {
    Failure::new(format!("the output cannot be written: {error}"))
}

/// A table: columns as wide as their widest cell, two spaces between them.
#[derive(Debug)]
pub(super) struct Table {
    rows: Vec<Vec<String>>,
    /// The most characters of a cell.
    most: usize,
}

/// The most characters of a cell with a text from elsewhere, such as a URL: the columns behind it stay in
/// sight. All of it is in `--json`.
const LONG: usize = 72;

impl Table {
    pub(super) fn new(head: &[&str]) -> Self {
        Self { rows: vec![head.iter().map(|cell| (*cell).to_owned()).collect()], most: usize::MAX }
    }

    /// The same; texts that are too long for a table are cut in their middle.
    pub(super) fn of_any_texts(head: &[&str]) -> Self {
        Self { most: LONG, ..Self::new(head) }
    }

    pub(super) fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells.into_iter().map(|cell| cut(cell, self.most)).collect());
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

/// A text of at most so many characters: of a longer one its two ends.
fn cut(text: String, most: usize) -> String {
    let count = text.chars().count();
    if count <= most {
        return text;
    }
    // Two thirds for the beginning, which says more: the host of a URL.
    let begin = most * 2 / 3;
    let end = most.saturating_sub(begin + 1);
    let chars = || text.chars();
    chars().take(begin).chain(['…']).chain(chars().skip(count - end)).collect()
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

/// The same for a machine: the last line of standard error, and an object of JSON.
pub(super) fn report_json(failure: &Failure) {
    let said = serde_json::json!({
        "error": failure.to_string(), "help": failure.advice(), "exit_code": failure.exit() as u8,
    });
    let _ = writeln!(io::stderr().lock(), "{said}");
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

    #[cfg(test)]
    pub(super) fn plain() -> Self {
        Self { colour: false }
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

/// Breaks a text at its spaces.
pub(super) fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
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

/// `1 file`, `2 files`.
pub(super) fn counted(n: u64, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}

/// A text from elsewhere, harmless to print: what could steer a terminal, hide, or turn the reading
/// direction is written as an escape.
pub(super) fn plain(text: &str) -> String {
    let harmless = |c: char| c.is_ascii_graphic() || c == ' ' || c.is_alphanumeric();
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if harmless(c) { shown.push(c) } else { shown.extend(c.escape_unicode()) }
    }
    shown
}

/// Many lines, without a system call for each.
pub(super) struct Lines(io::BufWriter<io::Stdout>);

impl Lines {
    pub(super) fn new() -> Self {
        Self(io::BufWriter::with_capacity(64 * 1024, io::stdout()))
    }

    /// Writes a line. False once the reader went away: then there is no point in going on.
    pub(super) fn line(&mut self, text: &str) -> Result<bool, Failure> {
        still_read(writeln!(self.0, "{text}"))
    }

    /// Brings the lines to the reader now.
    pub(super) fn flush(&mut self) -> Result<bool, Failure> {
        still_read(self.0.flush())
    }
}

fn still_read(written: io::Result<()>) -> Result<bool, Failure> {
    match written {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Failure::new(format!("the output cannot be written: {error}"))),
    }
}

/// How far a long piece of work has come, on one line of the terminal. Says nothing where standard
/// error is no terminal.
pub(super) struct Progress {
    what: &'static str,
    shown: Option<Instant>,
    terminal: bool,
}

impl Progress {
    pub(super) fn new(what: &'static str) -> Self {
        Self { what, shown: None, terminal: io::stderr().is_terminal() }
    }

    /// At most ten times a second: a terminal can be slow.
    pub(super) fn show(&mut self, done: u64, total: u64) {
        const OFTEN: Duration = Duration::from_millis(100);
        if !self.terminal || self.shown.is_some_and(|at| at.elapsed() < OFTEN) {
            return;
        }
        self.shown = Some(Instant::now());
        let percent = done.saturating_mul(100).checked_div(total).unwrap_or(100);
        let _ = write!(io::stderr().lock(), "\r\x1b[K{}: {percent} %", self.what);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.shown.is_some() {
            let _ = write!(io::stderr().lock(), "\r\x1b[K");
        }
    }
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
    fn long_texts_are_cut_in_their_middle() {
        let url = format!("https://api.test/{}/end", "a".repeat(500));
        let mut table = Table::of_any_texts(&["TO", "BY"]);
        table.row(vec![url.clone(), "x".into()]);
        let shown = table.render();
        let row = shown.lines().nth(1).unwrap();
        assert!(row.starts_with("https://api.test/aaa") && row.ends_with("aa/end  x"), "{row}");
        assert_eq!(row.chars().count(), LONG + 3);
        assert_eq!((cut(url.clone(), usize::MAX), cut("äöü".into(), 3)), (url, "äöü".into()));
        assert_eq!(cut("äöüß".into(), 3), "äö…");
    }

    #[test]
    fn texts_from_elsewhere_cannot_steer_the_terminal() {
        assert_eq!(plain("/a b?ä漢"), "/a b?ä漢");
        assert_eq!(plain("\u{1b}[2J\u{202e}\n"), "\\u{1b}[2J\\u{202e}\\u{a}");
    }

    #[test]
    fn counts_are_english() {
        assert_eq!((&*counted(1, "file"), &*counted(0, "rule")), ("1 file", "0 rules"));
    }

    #[test]
    fn texts_are_broken_at_spaces() {
        assert_eq!(wrap("one two three", 7), ["one two", "three"]);
        assert_eq!(wrap("unbreakable", 3), ["unbreakable"]);
    }

    #[test]
    fn times_are_utc() {
        assert_eq!(time(0), "1970-01-01 00:00:00Z");
        assert_eq!(time_or_dash(None), "-");
    }
}
