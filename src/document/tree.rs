//! From text to tree: the events of a YAML 1.2 parser, put together under limits.
//!
//! Events rather than serde, because serde hides what has to be refused here: an unused anchor, a
//! tag, which key came twice. The parser is the one that `serde_yaml` itself stands on.

use granit_parser::{ErrorKind, Event, Marker, Parser, ScalarStyle, ScanError, Span, StrInput};

use super::file::end_of;
use super::report::{inline, is_sensitive, path_index, path_key};
use super::scalar::{Form, form_of, hidden};
use super::syntax::{self, ALIAS_ADVICE, ANCHOR_ADVICE, TAG_ADVICE};
use super::{Document, Key, Limits, Node, Position, Problem, Report, Source, Spot, Value};

/// See [`Document::parse`].
pub(super) fn parse(source: Source, limits: &Limits) -> Result<Document, Report> {
    if source.text().len() > limits.bytes {
        let message = format!("has more than {}", super::show_size(limits.bytes as u64));
        return Err(Report::from(file_problem(&source, None, message)));
    }
    refuse_characters(&source)?;
    let mut builder = Builder::new(source, *limits);
    match builder.run(&builder.source.clone()) {
        Ok(()) => Ok(builder.document()),
        Err(stop) => Err(builder.stopped(stop)),
    }
}

fn file_problem(source: &Source, at: Option<Position>, message: String) -> Problem {
    Problem { source: source.clone(), at, path: String::new(), message, advice: None }
}

fn anchor_problem(source: &Source, at: Position, path: String) -> Problem {
    let problem = file_problem(source, Some(at), "anchors are not supported".to_owned());
    Problem { path, ..problem.help(ANCHOR_ADVICE) }
}

/// How many characters that may not be there are named before the reading stops.
const NAMED_CHARACTERS: usize = 10;

/// Refuses what an editor or a terminal would show as something else: control characters, lone
/// carriage returns, and the characters that reorder or break lines only in some programs
/// (CVE-2021-42574, "Trojan Source").
fn refuse_characters(source: &Source) -> Result<(), Report> {
    let text = source.text();
    let found = text.char_indices().filter(|(at, c)| {
        hidden(*c) && !(*c == '\r' && text.as_bytes().get(at + 1) == Some(&b'\n'))
    });
    let mut report = Report::default();
    for (at, c) in found.take(NAMED_CHARACTERS) {
        let before = text.get(..at).unwrap_or_default();
        let message = format!("the character U+{:04X} is not allowed here", u32::from(c));
        report.push(
            file_problem(source, Some(end_of(before)), message)
                .help("remove it; in a double-quoted text it can be written as an escape"),
        );
    }
    report.into_result()
}

/// A collection that is not closed yet.
struct Frame {
    at: Position,
    kind: Open,
}

enum Open {
    Seq(Vec<Node>),
    Map { entries: Vec<(Key, Node)>, key: Pending },
}

/// What a mapping waits for.
enum Pending {
    /// A key.
    Key,
    /// The value of this key.
    Value(Key),
    /// The value of a key that was refused; it is dropped with it.
    Dropped,
}

struct Builder {
    source: Source,
    limits: Limits,
    open: Vec<Frame>,
    root: Option<Node>,
    nodes: usize,
    documents: usize,
    /// Where anchors stand. The parser names them after their node, when the way to it is only in
    /// the tree.
    anchors: Vec<Position>,
    report: Report,
}

impl Builder {
    fn new(source: Source, limits: Limits) -> Self {
        Self {
            source,
            limits,
            open: Vec::new(),
            root: None,
            nodes: 0,
            documents: 0,
            anchors: Vec::new(),
            report: Report::default(),
        }
    }

    fn document(self) -> Document {
        let top = Position { line: 1, column: 1 };
        let root = self.root.filter(|root| root.value != Value::Null);
        let mut document = Document {
            source: self.source,
            root: root.unwrap_or(Node { at: top, value: Value::Map(Vec::new()) }),
            report: self.report,
        };
        for at in self.anchors {
            let path = document.path(at);
            document.report.push(anchor_problem(&document.source, at, path));
        }
        document
    }

    /// What was found before the text became unreadable, and why it did.
    fn stopped(mut self, stop: Problem) -> Report {
        for at in self.anchors {
            let path = String::new();
            self.report.push(anchor_problem(&self.source, at, path));
        }
        self.report.push(stop);
        self.report
    }

    /// Takes the events one by one. An `Err` is what makes the rest of the text unreadable.
    fn run(&mut self, source: &Source) -> Result<(), Problem> {
        let mut parser = self.parser(source.text());
        while let Some(event) = parser.next_event() {
            let (event, span) = event.map_err(|e| self.syntax(&e))?;
            self.event(event, &span)?;
        }
        Ok(())
    }

    fn parser<'t>(&self, text: &'t str) -> Parser<'t, StrInput<'t>> {
        let options = granit_parser::options! {
            strict_indentation: true,
            disallow_directives: true,
            emit_unresolved_aliases: true,
            emit_anchor_events: true,
            emit_comments: false,
            flow_nesting_limit: self.limits.depth,
            block_nesting_limit: self.limits.depth,
        };
        Parser::new_from_str_with_options(text, options)
    }

    fn event(&mut self, event: Event<'_>, span: &Span) -> Result<(), Problem> {
        self.refuse_tag(&event, span);
        let at = position(&span.start);
        match event {
            Event::DocumentStart(..) => self.count_document(at),
            Event::Scalar(text, style, _, tag) => {
                let value = match tag {
                    Some(_) => Value::Refused,
                    None => self.scalar(&text, style, at),
                };
                self.place(Node { at, value })
            }
            // Most lists have one item; a vector left to grow would begin with room for four.
            Event::SequenceStart(..) => {
                let at = self.dash(at, &span.start);
                self.open(at, Open::Seq(Vec::with_capacity(1)))
            }
            Event::MappingStart(..) => {
                let (entries, key) = (Vec::new(), Pending::Key);
                self.open(at, Open::Map { entries, key })
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(),
            Event::Anchor(..) => {
                self.anchors.push(at);
                Ok(())
            }
            Event::Alias(_) | Event::UnresolvedAlias(_) => {
                self.refuse(at, "aliases are not supported", ALIAS_ADVICE);
                self.place(Node { at, value: Value::Refused })
            }
            // Stream start and end, document end; comments are switched off.
            _ => Ok(()),
        }
    }

    /// Where a list begins. For one that is not indented under its key, the parser names the place
    /// after the first dash, where the first item may begin.
    fn dash(&self, at: Position, start: &Marker) -> Position {
        let before = start.byte_offset().and_then(|offset| offset.checked_sub(1));
        let bytes = self.source.text().as_bytes();
        let here = before.and_then(|before| bytes.get(before + 1));
        let dash = before.and_then(|before| bytes.get(before)) == Some(&b'-');
        if dash && !matches!(here, Some(b'-' | b'[')) {
            let column = at.column.saturating_sub(1);
            return Position { column, ..at };
        }
        at
    }

    fn count_document(&mut self, at: Position) -> Result<(), Problem> {
        self.documents += 1;
        if self.documents == 1 {
            return Ok(());
        }
        let message = "a second document begins here".to_owned();
        Err(file_problem(&self.source, Some(at), message).help("put it into a file of its own"))
    }

    fn refuse_tag(&mut self, event: &Event<'_>, span: &Span) {
        if event.tag().is_some() {
            let start = span.tag_start().unwrap_or(span.start);
            self.refuse(position(&start), "tags are not supported", TAG_ADVICE);
        }
    }

    /// A mistake that leaves the tree readable.
    fn refuse(&mut self, at: Position, message: impl Into<String>, advice: &str) {
        let path = self.path();
        let problem = file_problem(&self.source, Some(at), message.into());
        self.report.push(Problem { path, ..problem.help(advice) });
    }

    /// The way to what is being read now.
    fn path(&self) -> String {
        let mut path = String::new();
        for frame in &self.open {
            match &frame.kind {
                Open::Seq(items) => path_index(&mut path, items.len()),
                Open::Map { key: Pending::Value(key), .. } => path_key(&mut path, &key.text),
                Open::Map { .. } => {}
            }
        }
        path
    }

    /// What a scalar means. Only what is plain can be other than text, and only in JSON's
    /// spellings.
    fn scalar(&mut self, text: &str, style: ScalarStyle, at: Position) -> Value {
        // The text of the file is clean; what a double-quoted text says with escapes may not be.
        let escaped =
            (style == ScalarStyle::DoubleQuoted).then(|| text.chars().find(|c| hidden(*c)));
        if let Some(c) = escaped.flatten() {
            let message = format!("the character U+{:04X} is not allowed in a text", u32::from(c));
            self.refuse(at, message, "remove it");
            return Value::Refused;
        }
        if style != ScalarStyle::Plain {
            return Value::String(text.into());
        }
        match text {
            "" | "~" | "null" => Value::Null,
            "true" => Value::Bool(true),
            "false" => Value::Bool(false),
            _ => self.number(text, at),
        }
    }

    /// A number by JSON's grammar (RFC 8259 section 6), or text.
    fn number(&mut self, text: &str, at: Position) -> Value {
        let value = match form_of(text) {
            Form::Text => Some(Value::String(text.into())),
            Form::Whole => text.parse().ok().map(Value::Int),
            Form::Decimal => text.parse().ok().filter(|f: &f64| f.is_finite()).map(Value::Float),
        };
        value.unwrap_or_else(|| {
            self.refuse(
                at,
                "the number is larger than any that can be meant",
                "quote it if it is text",
            );
            Value::Refused
        })
    }

    fn open(&mut self, at: Position, kind: Open) -> Result<(), Problem> {
        if self.open.len() >= self.limits.depth {
            return Err(self.too_deep(at));
        }
        self.open.push(Frame { at, kind });
        Ok(())
    }

    fn too_deep(&self, at: Position) -> Problem {
        let message = format!("more than {} levels inside one another", self.limits.depth);
        file_problem(&self.source, Some(at), message)
    }

    fn close(&mut self) -> Result<(), Problem> {
        // The parser closes only what it opened, so the stack has a frame here.
        let Some(Frame { at, kind }) = self.open.pop() else {
            return Ok(());
        };
        let value = match kind {
            Open::Seq(items) => Value::Seq(items),
            Open::Map { entries, .. } => {
                self.refuse_duplicates(&entries);
                Value::Map(entries)
            }
        };
        self.place(Node { at, value })
    }

    /// Puts a finished node where it belongs.
    fn place(&mut self, node: Node) -> Result<(), Problem> {
        self.nodes += 1;
        if self.nodes > self.limits.nodes {
            let message = format!("more than {} values in one file", self.limits.nodes);
            return Err(file_problem(&self.source, Some(node.at), message));
        }
        let Some(frame) = self.open.last_mut() else {
            self.root = Some(node);
            return Ok(());
        };
        match &mut frame.kind {
            Open::Seq(items) => items.push(node),
            Open::Map { entries, key } => match std::mem::replace(key, Pending::Key) {
                Pending::Value(key) => entries.push((key, node)),
                Pending::Dropped => {}
                Pending::Key => {
                    let next = self.key(node);
                    self.expect_value(next);
                }
            },
        }
        Ok(())
    }

    fn expect_value(&mut self, next: Pending) {
        if let Some(Frame { kind: Open::Map { key, .. }, .. }) = self.open.last_mut() {
            *key = next;
        }
    }

    fn key(&mut self, node: Node) -> Pending {
        let Node { at, value } = node;
        let kind = match value {
            Value::String(text) if &*text == "<<" => {
                self.refuse(at, "merge keys are not supported", "write the keys out");
                return Pending::Dropped;
            }
            Value::String(text) if !text.is_empty() => return Pending::Value(Key { at, text }),
            Value::Refused => return Pending::Dropped,
            Value::String(_) => "nothing",
            other => other.kind(),
        };
        self.refuse(at, format!("a key has to be text, this is {kind}"), "put it in quotes");
        Pending::Dropped
    }

    fn refuse_duplicates(&mut self, entries: &[(Key, Node)]) {
        for (first, second) in duplicates(entries) {
            let mut path = self.path();
            let name = if is_sensitive(&path) {
                "a key".to_owned()
            } else {
                path_key(&mut path, &second.text);
                format!("the key `{}`", inline(&second.text))
            };
            let message = format!("{name} was already set at {}", first.at);
            let problem = file_problem(&self.source, Some(second.at), message);
            self.report.push(Problem { path, ..problem.help("keep one of the two") });
        }
    }

    fn syntax(&self, error: &ScanError) -> Problem {
        match error.kind() {
            ErrorKind::RecursionLimitExceeded => self.too_deep(position(error.marker())),
            _ => syntax::problem(&self.source, error),
        }
    }
}

pub(super) fn position(marker: &Marker) -> Position {
    Position {
        line: u32::try_from(marker.line()).unwrap_or(u32::MAX),
        column: u32::try_from(marker.col()).unwrap_or(u32::MAX).saturating_add(1),
    }
}

/// Up to this many keys, comparing each with each is faster than sorting.
const FEW: usize = 16;

/// Each key that came again, after the one that came before it.
fn duplicates(entries: &[(Key, Node)]) -> Vec<(&Key, &Key)> {
    let mut found = Vec::new();
    if entries.len() <= FEW {
        for (index, (key, _)) in entries.iter().enumerate() {
            let earlier = entries[..index].iter().rfind(|(other, _)| other.text == key.text);
            found.extend(earlier.map(|(first, _)| (first, key)));
        }
        return found;
    }
    let mut keys: Vec<&Key> = entries.iter().map(|(key, _)| key).collect();
    keys.sort_by(|a, b| a.text.cmp(&b.text).then(a.at.cmp(&b.at)));
    found.extend(keys.windows(2).filter(|w| w[0].text == w[1].text).map(|w| (w[0], w[1])));
    found
}

/// Writes the way from `node` down to `spot`.
pub(super) fn descend(node: &Node, spot: Spot, path: &mut String) {
    let target = spot.at();
    if node.at == target && matches!(spot, Spot::Value(_)) {
        return;
    }
    match &node.value {
        Value::Seq(items) => {
            let after = items.partition_point(|item| item.at <= target);
            if let Some((index, item)) = after.checked_sub(1).and_then(|i| Some((i, items.get(i)?)))
            {
                path_index(path, index);
                descend(item, spot, path);
            }
        }
        Value::Map(entries) => {
            let after = entries.partition_point(|(key, _)| key.at <= target);
            if let Some((key, value)) = after.checked_sub(1).and_then(|i| entries.get(i)) {
                path_key(path, &key.text);
                if key.at != target && value.at <= target {
                    descend(value, spot, path);
                }
            }
        }
        _ => {}
    }
}
