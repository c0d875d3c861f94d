//! From tree to values: readers that note what is wrong and go on, so that one run finds it all.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use super::report::{inline, is_sensitive};
use super::{
    Document, Key, Node, Problem, Report, Spot, Value, parse_duration, parse_size, show_duration,
    show_size, suggest,
};

/// Reads the nodes of one document and gathers what is wrong with them.
///
/// Every method returns `None` after it has noted a problem, and only then. So a caller may read on
/// to find more, and combine what it has with `?` at the end.
#[derive(Debug)]
pub struct Reader<'d> {
    document: &'d Document,
    report: Report,
}

impl<'d> Reader<'d> {
    pub(super) fn new(document: &'d Document) -> Self {
        Self { document, report: document.report.clone() }
    }

    /// Whether there are more problems than are kept: what is found from now on, nobody hears of.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.report.is_full()
    }

    /// Whether something is wrong right inside a collection that kept it from being read into the tree.
    #[must_use]
    pub fn is_told(&self, node: &Node) -> bool {
        let path = self.document.path(node);
        self.document.report.problems().iter().any(|problem| problem.path == path)
    }

    /// The value, if neither the document nor any reader had a problem.
    ///
    /// # Errors
    /// Everything that is wrong.
    pub fn finish<T>(mut self, value: Option<T>) -> Result<T, Report> {
        match value {
            Some(value) if self.report.is_empty() => Ok(value),
            None if self.report.is_empty() => {
                // A reader of the caller's own gave up without a word; failing is still right.
                self.problem(self.document.root(), "cannot be read");
                Err(self.report)
            }
            _ => Err(self.report),
        }
    }

    /// Notes a problem.
    pub fn problem(&mut self, spot: impl Into<Spot>, message: impl Into<String>) {
        self.report.push(self.document.problem(spot, message));
    }

    /// Notes a problem with advice.
    pub fn problem_with_help(
        &mut self,
        spot: impl Into<Spot>,
        message: impl Into<String>,
        advice: impl Into<String>,
    ) {
        self.push(self.document.problem(spot, message).help(advice));
    }

    /// Notes a problem that was made elsewhere.
    pub fn push(&mut self, problem: Problem) {
        self.report.push(problem);
    }

    /// A mapping with these keys and no others. Those it does not know are noted at once, so that
    /// no early return can forget them.
    pub fn map(&mut self, node: &'d Node, known: &'static [&'static str]) -> Option<Map<'_, 'd>> {
        let entries = self.entries(node)?;
        for (key, _) in entries {
            if !known.contains(&&*key.text) {
                self.unknown_key(node, key, known);
            }
        }
        Some(Map { reader: self, node, entries, known })
    }

    fn unknown_key(&mut self, map: &Node, key: &Key, known: &[&str]) {
        if is_sensitive(&self.document.path(map)) {
            // A mapping where a secret was meant to be: its keys may be the secret.
            let advice = format!("known here: {}", known.join(", "));
            return self.problem_with_help(map, "a key here is unknown", advice);
        }
        let message = format!("unknown key `{}`", inline(&key.text));
        let advice = match suggest(&key.text, known.iter().copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("known here: {}", known.join(", ")),
        };
        self.problem_with_help(key, message, advice);
    }

    /// A mapping whose keys are the writer's own, in the order of the file.
    pub fn entries(&mut self, node: &'d Node) -> Option<&'d [(Key, Node)]> {
        match &node.value {
            Value::Map(entries) => Some(entries),
            _ => self.wrong_kind(node, "a mapping (`key: value` lines)"),
        }
    }

    /// A list. All items are read, also after one that is wrong.
    pub fn list<T>(
        &mut self,
        node: &'d Node,
        mut item: impl FnMut(&mut Self, &'d Node) -> Option<T>,
    ) -> Option<Vec<T>> {
        let Value::Seq(items) = &node.value else {
            return self.wrong_kind(node, "a list");
        };
        let mut values = Vec::with_capacity(items.len());
        for node in items {
            values.extend(item(self, node));
        }
        (values.len() == items.len()).then_some(values)
    }

    /// A list, or a single item that stands for a list of one.
    pub fn one_or_list<T>(
        &mut self,
        node: &'d Node,
        mut item: impl FnMut(&mut Self, &'d Node) -> Option<T>,
    ) -> Option<Vec<T>> {
        match node.value {
            Value::Seq(_) => self.list(node, item),
            _ => item(self, node).map(|value| vec![value]),
        }
    }

    /// Text that is not empty.
    pub fn text(&mut self, node: &'d Node) -> Option<&'d str> {
        match &node.value {
            Value::String(text) if text.is_empty() => {
                self.problem(node, "the text is empty");
                None
            }
            Value::String(text) => Some(text),
            _ => self.wrong_kind(node, "text"),
        }
    }

    /// `true` or `false`.
    pub fn boolean(&mut self, node: &'d Node) -> Option<bool> {
        match node.value {
            Value::Bool(value) => Some(value),
            _ => self.wrong_kind(node, "`true` or `false`"),
        }
    }

    /// A whole number in a range.
    pub fn integer<N>(&mut self, node: &'d Node, range: RangeInclusive<N>) -> Option<N>
    where
        N: TryFrom<i64> + PartialOrd + Display,
    {
        let Value::Int(number) = node.value else {
            return self.wrong_kind(node, "a whole number");
        };
        match N::try_from(number).ok().filter(|number| range.contains(number)) {
            Some(number) => Some(number),
            None => self.outside(node, range.start(), range.end()),
        }
    }

    /// A duration in a range, such as `10s` or `1h30m`.
    pub fn duration(
        &mut self,
        node: &'d Node,
        range: RangeInclusive<Duration>,
    ) -> Option<Duration> {
        let duration = self.unit(node, "a duration with a unit, such as `10s`", parse_duration)?;
        if range.contains(&duration) {
            return Some(duration);
        }
        self.outside(node, show_duration(*range.start()), show_duration(*range.end()))
    }

    /// A size in bytes in a range, such as `64KiB`.
    pub fn size(&mut self, node: &'d Node, range: RangeInclusive<u64>) -> Option<u64> {
        let size = self.unit(node, "a size with a unit, such as `64KiB`", parse_size)?;
        if range.contains(&size) {
            return Some(size);
        }
        self.outside(node, show_size(*range.start()), show_size(*range.end()))
    }

    fn unit<T, E: Display>(
        &mut self,
        node: &'d Node,
        expected: &str,
        parse: fn(&str) -> Result<T, E>,
    ) -> Option<T> {
        match &node.value {
            Value::String(text) => {
                parse(text).map_err(|error| self.problem(node, error.to_string())).ok()
            }
            _ => self.wrong_kind(node, expected),
        }
    }

    fn outside<T>(&mut self, node: &Node, least: impl Display, most: impl Display) -> Option<T> {
        let (least, most) = (least.to_string(), most.to_string());
        let message = if least == most {
            format!("has to be {least}")
        } else {
            format!("has to be from {least} to {most}")
        };
        self.problem(node, message);
        None
    }

    /// Text that is parsed by the type's own `FromStr`; its error is the message.
    pub fn parsed<T>(&mut self, node: &'d Node) -> Option<T>
    where
        T: FromStr<Err: Display>,
    {
        self.parsed_with(node, str::parse)
    }

    /// Text that is parsed by a function; its error is the message.
    pub fn parsed_with<T, E: Display>(
        &mut self,
        node: &'d Node,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Option<T> {
        // What a number would not say in quotes either is not to be put in them.
        if let Value::Int(number) = node.value
            && let Err(error) = parse(&number.to_string())
        {
            self.problem(node, error.to_string());
            return None;
        }
        let text = self.text(node)?;
        parse(text).map_err(|error| self.problem(node, error.to_string())).ok()
    }

    /// One of a few words, each with what it means.
    pub fn choice<T: Copy>(&mut self, node: &'d Node, words: &[(&str, T)]) -> Option<T> {
        let text = self.text(node)?;
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
            return Some(*value);
        }
        let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        let shown = self.shown(node, text);
        let message = format!("{shown} is not one of: {}", known.join(", "));
        match suggest(text, known) {
            Some(near) => {
                self.problem_with_help(node, message, format!("did you mean `{near}`?"));
            }
            None => self.problem(node, message),
        }
        None
    }

    /// Where a place is, as messages begin: `FILE:LINE:COLUMN`.
    #[must_use]
    pub fn place(&self, spot: impl Into<Spot>) -> String {
        let at = spot.into().at();
        format!("{}:{}:{}", self.document.source().name(), at.line, at.column)
    }

    /// A value for a message: itself, unless it stands under a key that is called like a secret.
    #[must_use]
    pub fn shown(&self, node: &Node, text: &str) -> String {
        if is_sensitive(&self.document.path(node)) {
            return "the value".to_owned();
        }
        format!("`{}`", inline(text))
    }

    /// Notes that a node is not of the expected kind, with advice where the slip is a usual one.
    /// Always `None`, so that it can end a reader.
    pub fn wrong_kind<T>(&mut self, node: &Node, expected: &str) -> Option<T> {
        if node.value == Value::Refused {
            return None;
        }
        let message = format!("expected {expected}, found {}", node.value.kind());
        match self.kind_advice(node, expected) {
            Some(advice) => self.problem_with_help(node, message, advice),
            None => self.problem(node, message),
        }
        None
    }

    fn kind_advice(&self, node: &Node, expected: &str) -> Option<String> {
        match (&node.value, expected) {
            (Value::Null, _) => Some("give it a value, or remove the key".to_owned()),
            (Value::String(text), "a list") => Some(format!("write [{}]", self.bare(node, text))),
            (Value::String(text), "a whole number") => spells_number(text),
            (Value::Bool(_) | Value::Int(_) | Value::Float(_), "text") => {
                Some("put it in quotes".to_owned())
            }
            (Value::Seq(_), "text") => Some("give one value, without brackets or dash".to_owned()),
            _ => None,
        }
    }

    fn bare(&self, node: &Node, text: &str) -> String {
        let shown = self.shown(node, text);
        let quote = if text.contains(['*', '&', '!', ',', '[', '{', '"', '`']) { "\"" } else { "" };
        shown.replace('`', quote)
    }
}

fn spells_number(text: &str) -> Option<String> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| "write it without quotes and leading zeros".to_owned())
}

/// A mapping with known keys, while it is being read.
#[derive(Debug)]
pub struct Map<'r, 'd> {
    reader: &'r mut Reader<'d>,
    node: &'d Node,
    entries: &'d [(Key, Node)],
    known: &'static [&'static str],
}

impl<'d> Map<'_, 'd> {
    /// The value of a key, read; `None` when it is absent, or wrong (and noted).
    pub fn optional<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&mut Reader<'d>, &'d Node) -> Option<T>,
    ) -> Option<T> {
        let node = self.node(key)?;
        read(self.reader, node)
    }

    /// The value of a key that has to be there.
    pub fn required<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&mut Reader<'d>, &'d Node) -> Option<T>,
    ) -> Option<T> {
        if !self.has(key) {
            self.reader.problem(self.node, format!("the key `{key}` is missing"));
        }
        self.optional(key, read)
    }

    /// The same, with advice on what to add where it is missing.
    pub fn required_as<T>(
        &mut self,
        key: &'static str,
        advice: &str,
        read: impl FnOnce(&mut Reader<'d>, &'d Node) -> Option<T>,
    ) -> Option<T> {
        if !self.has(key) {
            let message = format!("the key `{key}` is missing");
            self.reader.problem_with_help(self.node, message, advice);
        }
        self.optional(key, read)
    }

    /// The node of a key, if the key is there.
    #[must_use]
    pub fn node(&self, key: &'static str) -> Option<&'d Node> {
        debug_assert!(self.known.contains(&key), "`{key}` is not in the list of known keys");
        let found = self.entries.iter().find(|(name, _)| *name.text == *key);
        found.map(|(_, node)| node)
    }

    /// Whether the key is there, with a value that can be read or not.
    #[must_use]
    pub fn has(&self, key: &'static str) -> bool {
        self.node(key).is_some()
    }

    /// The whole mapping, for problems that are about no single key.
    #[must_use]
    pub fn whole(&self) -> &'d Node {
        self.node
    }

    /// The reader, to note problems that lie between keys.
    pub fn reader(&mut self) -> &mut Reader<'d> {
        self.reader
    }
}
