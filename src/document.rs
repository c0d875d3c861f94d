//! The YAML that people write: read into a tree in which every node knows where it stands, and
//! answered with every mistake at once, each with its file, line, column and a way out.
//!
//! Strict on purpose, because these files decide who may use which key: no anchors, aliases, tags,
//! directives or second documents, no key twice, no key that is not text, and no word that two
//! readers of YAML take for two things (`yes` is text, `012` is text). A file that two programs
//! read in two ways is a policy that nobody has reviewed.
//!
//! ```
//! use locum::document::{Document, Limits, Reader, Source};
//!
//! let source = Source::new("greeting.yaml", "to: [alice, bob]\ntimes: 3\n");
//! let document = Document::parse(source, &Limits::CONFIG)?;
//! let mut reader = document.reader();
//! let greeting = (|| {
//!     let mut map = reader.map(document.root(), &["to", "times"])?;
//!     let to = map.required("to", |r, n| r.list(n, Reader::text));
//!     let times = map.optional("times", |r, n| r.integer(n, 1..=9_u8));
//!     Some((to?, times.unwrap_or(1)))
//! })();
//! assert_eq!(reader.finish(greeting)?, (vec!["alice", "bob"], 3));
//! # Ok::<(), locum::document::Report>(())
//! ```

mod file;
mod reader;
mod report;
mod scalar;
mod suggest;
mod syntax;
mod tree;
mod units;

use std::fmt;
use std::sync::{Arc, OnceLock};

pub use reader::{Map, Reader};
pub use report::{Problem, Report};
pub use suggest::suggest;
pub use units::{UnitError, parse_duration, parse_size, show_duration, show_size};

/// A text and the name under which people know it. Cheap to clone.
#[derive(Clone)]
pub struct Source(Arc<Text>);

struct Text {
    name: Box<str>,
    content: Box<str>,
    /// Where every [`STRIDE`]th line begins; made when the first line is asked for.
    lines: OnceLock<Vec<usize>>,
}

/// A report on a long file asks for many lines; with one mark for so many, none is far.
const STRIDE: usize = 64;

impl Source {
    /// A text with the name to show in messages, such as `policies/first.yaml`. A byte order mark
    /// at the start is dropped, so that columns are those that an editor shows.
    #[must_use]
    pub fn new(name: &str, text: &str) -> Self {
        Self(Arc::new(Text {
            name: name.into(),
            content: text.strip_prefix('\u{feff}').unwrap_or(text).into(),
            lines: OnceLock::new(),
        }))
    }

    /// The name, as shown in messages.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The text, without byte order mark.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.0.content
    }

    /// The lines from one on, counted from 0, without their line ends.
    fn lines_from(&self, index: usize) -> impl Iterator<Item = &str> {
        let marks = self.0.lines.get_or_init(|| marks(self.text()));
        let start = marks.get(index / STRIDE).copied();
        let rest = start.and_then(|start| self.text().get(start..)).unwrap_or("");
        rest.lines().skip(index % STRIDE)
    }
}

fn marks(text: &str) -> Vec<usize> {
    let ends = memchr::memchr_iter(b'\n', text.as_bytes());
    let starts = std::iter::once(0).chain(ends.map(|end| end + 1));
    starts.step_by(STRIDE).collect()
}

impl PartialEq for Source {
    fn eq(&self, other: &Self) -> bool {
        self.name() == other.name() && self.text() == other.text()
    }
}

impl Eq for Source {}

/// The name only: a whole file in a log helps nobody.
impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Source({}, {} bytes)", self.name(), self.text().len())
    }
}

/// What one file may cost to read. A hostile file is refused within these, in linear time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of text.
    pub bytes: usize,
    /// Nodes of the tree; each costs about 40 bytes beside its text.
    pub nodes: usize,
    /// Collections inside collections.
    pub depth: usize,
}

impl Limits {
    /// For files of a page or two. The commented default of `locum.yaml` has 5 KiB and 100 nodes.
    pub const CONFIG: Self = Self { bytes: 1024 * 1024, nodes: 100_000, depth: 32 };

    /// For policies: 100,000 rules take some 25 MiB and 2.5 million nodes.
    pub const POLICY: Self = Self { bytes: 64 * 1024 * 1024, nodes: 6_000_000, depth: 32 };
}

/// A place in a text. Both count from 1; the column counts characters, not bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Position {
    /// Line, from 1.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}", self.line, self.column)
    }
}

/// A value and where it begins.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Where it begins. A block mapping begins at its first key.
    pub at: Position,
    /// What it is.
    pub value: Value,
}

/// The key of a mapping: always text, never twice in one mapping.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// Where it begins.
    pub at: Position,
    /// Its text.
    pub text: Box<str>,
}

/// The kinds of values, by YAML 1.2's JSON schema: what is not exactly a JSON number, `true`,
/// `false`, `null`, `~` or nothing is text.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Nothing, `~` or `null`.
    Null,
    /// `true` or `false`, no other spelling.
    Bool(bool),
    /// A whole number without leading zeros.
    Int(i64),
    /// A decimal number, with or without an exponent.
    Float(f64),
    /// Any other scalar, and every quoted one.
    String(Box<str>),
    /// A list.
    Seq(Vec<Node>),
    /// A mapping, in the order of the file.
    Map(Vec<(Key, Node)>),
    /// A node that the document's problems already name (an alias, a tagged scalar). Readers pass
    /// over it in silence: one mistake, one message.
    Refused,
}

impl Value {
    /// What to call it in a message.
    fn kind(&self) -> &'static str {
        match self {
            Self::Null => "nothing",
            Self::Bool(_) => "a boolean",
            Self::Int(_) | Self::Float(_) => "a number",
            Self::String(_) => "text",
            Self::Seq(_) => "a list",
            Self::Map(_) => "a mapping",
            Self::Refused => "what is not allowed here",
        }
    }
}

/// What a problem is about: a value, or a key. Made from `&Node`, `&Key` or a `Position` (a value).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spot {
    /// The value that begins here.
    Value(Position),
    /// The key that begins here.
    Key(Position),
}

impl Spot {
    fn at(self) -> Position {
        match self {
            Self::Value(at) | Self::Key(at) => at,
        }
    }
}

impl From<&Node> for Spot {
    fn from(node: &Node) -> Self {
        Self::Value(node.at)
    }
}

impl From<&Key> for Spot {
    fn from(key: &Key) -> Self {
        Self::Key(key.at)
    }
}

impl From<Position> for Spot {
    fn from(at: Position) -> Self {
        Self::Value(at)
    }
}

/// A text that was read: its tree, and the mistakes that did not stop the reading.
///
/// What is wrong with the document itself travels to every [`Reader`] made from it, and
/// [`Reader::finish`] fails on it: a tree with a duplicate key in it cannot be used by accident.
#[derive(Clone, Debug)]
pub struct Document {
    source: Source,
    root: Node,
    report: Report,
}

impl Document {
    /// Reads a text into a tree. An empty text is an empty mapping.
    ///
    /// # Errors
    /// The report of what made the text unreadable: over a limit, not YAML, a control character.
    /// Mistakes that leave the tree readable are kept, and reported by [`Reader::finish`] together
    /// with what the reader finds.
    pub fn parse(source: Source, limits: &Limits) -> Result<Self, Report> {
        tree::parse(source, limits)
    }

    /// The text that was read.
    #[must_use]
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// The whole tree. It is sound only once [`Reader::finish`] has said so.
    #[must_use]
    pub fn root(&self) -> &Node {
        &self.root
    }

    /// A reader that gathers problems, beginning with the document's own.
    #[must_use]
    pub fn reader(&self) -> Reader<'_> {
        Reader::new(self)
    }

    /// A problem at a place of this document, for checks that come after the reading (a rule that
    /// can never match, a name that nothing defines).
    #[must_use]
    pub fn problem(&self, spot: impl Into<Spot>, message: impl Into<String>) -> Problem {
        let spot = spot.into();
        Problem {
            source: self.source.clone(),
            at: Some(spot.at()),
            path: self.path(spot),
            message: message.into(),
            advice: None,
        }
    }

    /// How to get from the root to a place, such as `rules[2].to[0]`. Nodes stand in the tree in
    /// the order of the text, so the way down is a binary search at each level, and nobody has to
    /// carry paths about for the rare case that something is wrong.
    #[must_use]
    pub fn path(&self, spot: impl Into<Spot>) -> String {
        let mut path = String::new();
        tree::descend(&self.root, spot.into(), &mut path);
        path
    }
}

#[cfg(test)]
pub(crate) mod tests;
