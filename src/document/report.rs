//! What went wrong, where, and what to do: for people as text with the source line and a caret,
//! for machines as JSON.

use std::fmt;

use super::scalar::hidden;
use super::{Position, Source};

/// One mistake in one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file.
    pub source: Source,
    /// The place, or none when the whole file is meant.
    pub at: Option<Position>,
    /// The way from the top of the file, such as `rules[2].to[0]`; empty for the top itself.
    pub path: String,
    /// What is wrong, in words that name the value's kind rather than the value.
    pub message: String,
    /// What to do about it.
    pub advice: Option<String>,
}

impl Problem {
    /// The same problem with advice.
    #[must_use]
    pub fn help(mut self, advice: impl Into<String>) -> Self {
        self.advice = Some(advice.into());
        self
    }

    fn sort_key(&self) -> (&str, Option<Position>) {
        (self.source.name(), self.at)
    }

    fn to_json(&self) -> serde_json::Value {
        serde_json::json!({
            "file": self.source.name(),
            "line": self.at.map(|at| at.line),
            "column": self.at.map(|at| at.column),
            "path": self.path,
            "message": self.message,
            "help": self.advice,
        })
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.source.name())?;
        if let Some(at) = self.at {
            write!(f, ":{}:{}", at.line, at.column)?;
        }
        if !self.path.is_empty() {
            write!(f, ": {}", self.path)?;
        }
        write!(f, ": {}", self.message)?;
        if let Some(excerpt) = self.at.and_then(|at| Excerpt::of(&self.source, at)) {
            write!(f, "\n{excerpt}")?;
        }
        if let Some(advice) = &self.advice {
            write!(f, "\n  help: {advice}")?;
        }
        Ok(())
    }
}

/// All mistakes that were found. Its `Display` is what a person should see; its problems come in
/// the order of file and place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    problems: Vec<Problem>,
    left_off: usize,
}

/// More problems than this are counted, not kept: nobody reads them, and a hostile file could make
/// millions.
const MOST: usize = 100;

impl Report {
    /// Adds a problem.
    pub fn push(&mut self, problem: Problem) {
        if self.problems.len() < MOST {
            self.problems.push(problem);
        } else {
            self.left_off += 1;
        }
    }

    /// Adds the problems of another report.
    pub fn extend(&mut self, other: Self) {
        self.left_off += other.left_off;
        for problem in other.problems {
            self.push(problem);
        }
    }

    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.problems.is_empty()
    }

    /// Whether further problems are only counted.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.problems.len() >= MOST
    }

    /// How many problems there are, with those that were only counted.
    #[must_use]
    pub fn len(&self) -> usize {
        self.problems.len() + self.left_off
    }

    /// The problems by file and place.
    #[must_use]
    pub fn problems(&self) -> Vec<&Problem> {
        let mut sorted: Vec<&Problem> = self.problems.iter().collect();
        sorted.sort_by(|a, b| a.sort_key().cmp(&b.sort_key()));
        sorted
    }

    /// `Ok` when nothing is wrong.
    ///
    /// # Errors
    /// The report itself, when it has a problem.
    pub fn into_result(self) -> Result<(), Self> {
        if self.is_empty() { Ok(()) } else { Err(self) }
    }

    /// `{"problems": [{"file", "line", "column", "path", "message", "help"}], "left_off": 0}`.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        let problems: Vec<_> = self.problems().into_iter().map(Problem::to_json).collect();
        serde_json::json!({ "problems": problems, "left_off": self.left_off })
    }
}

impl From<Problem> for Report {
    fn from(problem: Problem) -> Self {
        Self { problems: vec![problem], left_off: 0 }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems().into_iter().enumerate() {
            let gap = if index == 0 { "" } else { "\n\n" };
            write!(f, "{gap}{problem}")?;
        }
        if self.left_off > 0 {
            write!(f, "\n\nand {} more", self.left_off)?;
        }
        Ok(())
    }
}

impl std::error::Error for Report {}

/// The source line of a problem with a caret under the place.
struct Excerpt {
    number: u32,
    shown: String,
    /// Characters before the caret; none when what it would point at is not shown.
    caret: Option<usize>,
}

/// Longer lines are cut on both sides of the place.
const WIDEST: usize = 120;

/// Nobody reads a line as long as this, and to judge it for secrets would take time.
const LONGEST: usize = 4096;

impl Excerpt {
    fn of(source: &Source, at: Position) -> Option<Self> {
        let index = usize::try_from(at.line.checked_sub(1)?).ok()?;
        let line = source.lines_from(index).next()?;
        if line.len() > LONGEST {
            return None;
        }
        let caret = usize::try_from(at.column).ok()?.saturating_sub(1);
        let (shown, caret) = match visible(source, index, line)? {
            Visible::All => cut(line, caret),
            Visible::Until(end) => {
                let kept = line.get(..end).unwrap_or_default();
                let (shown, place) = cut(kept, caret);
                (shown + " …", place.filter(|_| caret < kept.chars().count()))
            }
        };
        Some(Self { number: at.line, shown, caret })
    }
}

impl fmt::Display for Excerpt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>4} | {}", self.number, self.shown.trim_end())?;
        match self.caret {
            Some(before) => write!(f, "\n     | {}^", " ".repeat(before)),
            None => Ok(()),
        }
    }
}

/// At most [`WIDEST`] characters around the caret, harmless to print and one column each.
fn cut(line: &str, caret: usize) -> (String, Option<usize>) {
    let length = line.chars().count();
    if length <= WIDEST {
        return (printable(line.chars()), Some(caret));
    }
    let start = caret.saturating_sub(WIDEST / 2).min(length - WIDEST);
    let mut shown = printable(line.chars().skip(start).take(WIDEST));
    let mut before = caret - start.min(caret);
    if start > 0 {
        shown.insert(0, '…');
        before += 1;
    }
    if start + WIDEST < length {
        shown.push('…');
    }
    (shown, Some(before))
}

fn printable(chars: impl Iterator<Item = char>) -> String {
    chars
        .map(|c| match c {
            '\t' => ' ',
            c if hidden(c) => '\u{fffd}',
            c => c,
        })
        .collect()
}

/// A word from the file, short and harmless enough to stand in a message.
pub(super) fn inline(word: &str) -> String {
    const ENOUGH: usize = 60;
    let mut shown = printable(word.chars().take(ENOUGH)).replace('\n', " ");
    if word.chars().nth(ENOUGH).is_some() {
        shown.push('…');
    }
    shown
}

/// Appends one key to a path: `.name`, or `["*.example.com"]` when it has more than a name has.
pub(super) fn path_key(path: &mut String, key: &str) {
    let simple = key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    if !simple {
        path.push_str("[\"");
        path.push_str(&inline(key));
        path.push_str("\"]");
        return;
    }
    if !path.is_empty() {
        path.push('.');
    }
    path.push_str(&inline(key));
}

/// Appends the place in a list: `[2]`.
pub(super) fn path_index(path: &mut String, index: usize) {
    path.push('[');
    path.push_str(&index.to_string());
    path.push(']');
}

/// Whether a key, or a path of keys, is called so that its value should never be shown. These files should hold no
/// secret; but the mistake that brings one in is the one that gets reported.
pub(super) fn is_sensitive(key: &str) -> bool {
    const NAMES: [&str; 6] = ["token", "secret", "passw", "passphrase", "apikey", "_key"];
    let key = key.to_ascii_lowercase().replace('-', "_");
    NAMES.iter().any(|name| key.contains(name))
}

enum Visible {
    All,
    /// Up to this byte, which is just after a sensitive key's colon.
    Until(usize),
}

/// How much of a line may be shown, judged by the text alone: a file that is no YAML has no tree to
/// ask. `None` when the line belongs to the value of a sensitive key further up, or to a PEM block.
fn visible(source: &Source, index: usize, line: &str) -> Option<Visible> {
    let from = index.saturating_sub(LOOK_BACK);
    let above: Vec<&str> = source.lines_from(from).take(index - from).collect();
    if under_sensitive_key(&above, line) || inside_pem(&above) {
        return None;
    }
    let end = sensitive_key(line).into_iter().chain(userinfo(line)).min();
    Some(end.map_or(Visible::All, Visible::Until))
}

/// Where a URL's user name and password begin: `http://user:password@proxy:3128`.
fn userinfo(line: &str) -> Option<usize> {
    line.match_indices("://").map(|(colon, mark)| colon + mark.len()).find(|start| {
        let authority = line.get(*start..).unwrap_or_default();
        authority.split(['/', '?', '#', ' ']).next().is_some_and(|text| text.contains('@'))
    })
}

/// The end of the first sensitive key of a line, after its colon.
fn sensitive_key(line: &str) -> Option<usize> {
    line.match_indices(':').find_map(|(colon, _)| {
        let before = line.get(..colon)?.trim_end_matches(['"', '\'', ' ']);
        let word = |c: char| c.is_alphanumeric() || "_-.".contains(c);
        let start = before.rfind(|c| !word(c)).map_or(0, |at| at + 1);
        // `rfind` gives the start of a character that may be longer than a byte.
        let key = before.get(start..).unwrap_or(before);
        is_sensitive(key).then_some(colon + 1)
    })
}

/// How far up the lines are searched for a key that a line belongs to.
const LOOK_BACK: usize = 200;

fn under_sensitive_key(above: &[&str], line: &str) -> bool {
    let mut depth = indent(line);
    let mut nearest = true;
    for line in above.iter().rev().filter(|line| !line.trim().is_empty()) {
        let inside = indent(line) < depth || (nearest && line.trim_end().ends_with(':'));
        if inside && (line.len() > LONGEST || sensitive_key(line).is_some()) {
            return true;
        }
        depth = depth.min(indent(line));
        nearest = false;
    }
    false
}

/// Whether a PEM block (RFC 7468) is open: a private key that was pasted in.
fn inside_pem(above: &[&str]) -> bool {
    let mark = above.iter().rev().find(|line| line.contains("-----"));
    mark.is_some_and(|line| line.contains("-----BEGIN"))
}

/// Depth of a line; an item of a list stands one deeper than a key of the same indentation.
fn indent(line: &str) -> usize {
    let text = line.trim_start();
    2 * (line.len() - text.len()) + usize::from(text.starts_with("- ") || text == "-")
}
