//! JSON (RFC 8259), followed as it comes and never built: each value with its place and its bytes.
//!
//! Own code rather than a library, because what is wanted is where a string stands, byte by byte, and
//! nothing else of the document; parsers that give values keep no places, and writing the document
//! anew would change what the client signed or counted.

use std::mem;

use super::{Malformed, Place, See, Seen, Text};

/// How deep a document may be. Deeper ones are refused by most parsers too (`serde_json`: 128, PHP: 512).
const DEPTH: usize = 512;

/// One step on the way from the root of a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// The member of that name, decoded.
    Name(Vec<u8>),
    /// The element at that place.
    At(usize),
}

impl Step {
    /// Whether a token of a JSON pointer names this step.
    #[must_use]
    pub fn is(&self, token: &str) -> bool {
        match self {
            Self::Name(name) => name == token.as_bytes(),
            // `01` is no place (RFC 6901 section 4).
            Self::At(place) => place.to_string() == token,
        }
    }
}

/// A document, as far as it has come.
#[derive(Debug)]
pub(super) struct Scanner {
    /// The way to the value that is due, or was the last.
    place: Place,
    /// The containers that are open: whether each is an object.
    open: Vec<bool>,
    state: State,
    text: Text,
    /// The name that is being read, as it is written.
    name: Vec<u8>,
    /// How long the names on the way are together, and may be.
    names: usize,
    bound: usize,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// A value is due.
    Value,
    /// A list or an object has begun, which may be empty.
    Begun {
        object: bool,
    },
    /// A member's name is due, is being read, is over.
    NameDue,
    Name(Inside),
    NameOver,
    /// A string is being read.
    Text(Inside),
    /// What is left of `true`, `false` or `null`.
    Literal(&'static [u8]),
    Number(Number),
    /// A value is over.
    After,
}

/// Where in a string.
#[derive(Clone, Copy, Debug)]
enum Inside {
    Plain,
    /// Behind a backslash.
    Escape,
    /// Behind `\u`, with so many digits to come.
    Unit {
        left: u8,
        code: u32,
    },
}

/// What of a number was the last (RFC 8259 section 6).
#[derive(Clone, Copy, Debug)]
enum Number {
    Minus,
    Zero,
    Integer,
    Point,
    Fraction,
    E,
    Sign,
    Exponent,
}

impl Number {
    /// What the next byte makes of it; none when it is not of the number.
    fn next(self, byte: u8) -> Option<Self> {
        Some(match (self, byte) {
            (Self::Minus, b'0') => Self::Zero,
            (Self::Minus, b'1'..=b'9') | (Self::Integer, b'0'..=b'9') => Self::Integer,
            (Self::Zero | Self::Integer, b'.') => Self::Point,
            (Self::Point | Self::Fraction, b'0'..=b'9') => Self::Fraction,
            (Self::Zero | Self::Integer | Self::Fraction, b'e' | b'E') => Self::E,
            (Self::E, b'+' | b'-') => Self::Sign,
            (Self::E | Self::Sign | Self::Exponent, b'0'..=b'9') => Self::Exponent,
            _ => return None,
        })
    }

    fn is_whole(self) -> bool {
        matches!(self, Self::Zero | Self::Integer | Self::Fraction | Self::Exponent)
    }
}

/// A bit of a string.
struct Bit {
    /// How many bytes it has.
    length: usize,
    /// Where that leads; none at the end of the string.
    then: Option<Inside>,
    /// What it says: itself, a character, or nothing yet.
    says: Says,
}

enum Says {
    Itself,
    Character(u8),
    Nothing,
}

/// The first bit of `rest`, which is not empty.
fn bit(inside: Inside, rest: &[u8]) -> Result<Bit, Malformed> {
    let one = |then, says| Ok(Bit { length: 1, then, says });
    let first = rest[0];
    match inside {
        Inside::Plain => match plain(rest) {
            0 if first == b'"' => one(None, Says::Nothing),
            0 if first == b'\\' => one(Some(Inside::Escape), Says::Nothing),
            0 => Err(Malformed),
            length => Ok(Bit { length, then: Some(Inside::Plain), says: Says::Itself }),
        },
        Inside::Escape => match first {
            b'"' | b'\\' | b'/' => one(Some(Inside::Plain), Says::Character(first)),
            // Control characters, of which it matters that they are none of a reference.
            b'b' | b'f' | b'n' | b'r' | b't' => one(Some(Inside::Plain), Says::Character(0)),
            b'u' => one(Some(Inside::Unit { left: 4, code: 0 }), Says::Nothing),
            _ => Err(Malformed),
        },
        Inside::Unit { left, code } => {
            let digit = char::from(first).to_digit(16).ok_or(Malformed)?;
            let code = code << 4 | digit;
            if left > 1 {
                return one(Some(Inside::Unit { left: left - 1, code }), Says::Nothing);
            }
            // References are ASCII: whatever else it is ends one.
            let character = u8::try_from(code).ok().filter(u8::is_ascii).unwrap_or(0xff);
            one(Some(Inside::Plain), Says::Character(character))
        }
    }
}

/// How many characters stand for themselves. Most do, in rows that are as long as a file.
fn plain(rest: &[u8]) -> usize {
    let row = &rest[..memchr::memchr2(b'"', b'\\', rest).unwrap_or(rest.len())];
    // Without an end before the end, so that it is one comparison for many characters.
    let least = row.iter().fold(u8::MAX, |least, b| least.min(*b));
    if least >= 0x20 {
        return row.len();
    }
    row.iter().position(|b| *b < 0x20).unwrap_or(row.len())
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}

impl Scanner {
    /// For a document whose values are at places like this one, which is the root. The names on the way to
    /// a value may have `bound` bytes.
    pub(super) fn new(root: Place, bound: usize) -> Self {
        let (open, name, text) = (Vec::new(), Vec::new(), Text::default());
        Self { place: root, open, state: State::Value, text, name, names: 0, bound }
    }

    /// Reads on, from the byte `from` of the document.
    pub(super) fn push(
        &mut self,
        piece: &[u8],
        from: usize,
        see: See<'_>,
    ) -> Result<(), Malformed> {
        let mut at = 0;
        while let Some(rest) = piece.get(at..).filter(|rest| !rest.is_empty()) {
            let here = from.wrapping_add(at);
            at += match self.state {
                State::Text(inside) => self.in_text(inside, rest, here, see)?,
                State::Name(inside) => self.in_name(inside, rest)?,
                State::Literal(left) => self.in_literal(left, rest)?,
                State::Number(number) => self.in_number(number, rest[0])?,
                _ if is_space(rest[0]) => 1,
                State::Value => self.value(rest[0], here, see)?,
                State::Begun { object } => self.begin(object, rest[0]),
                State::NameDue if rest[0] == b'"' => self.go(State::Name(Inside::Plain)),
                State::NameOver if rest[0] == b':' => self.go(State::Value),
                State::NameDue | State::NameOver => return Err(Malformed),
                State::After => self.after(rest[0])?,
            };
        }
        Ok(())
    }

    /// The document is over.
    pub(super) fn finish(&self) -> Result<(), Malformed> {
        let whole = match self.state {
            State::After => true,
            State::Number(number) => number.is_whole(),
            _ => false,
        };
        if whole && self.open.is_empty() { Ok(()) } else { Err(Malformed) }
    }

    /// Whether there is what starts like a reference in the text that is being read.
    pub(super) fn refers(&self) -> bool {
        self.text.refers()
    }

    /// Where the value is that is due, or was the last.
    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    /// Goes on with the byte behind this one.
    fn go(&mut self, state: State) -> usize {
        self.state = state;
        1
    }

    fn path(&mut self) -> &mut Vec<Step> {
        match &mut self.place {
            Place::Json(path) | Place::Message(path) => path,
            Place::Form(_) | Place::Multipart(_) => unreachable!("a document has ways"),
        }
    }

    /// Begins a value.
    fn value(&mut self, first: u8, at: usize, see: See<'_>) -> Result<usize, Malformed> {
        let state = match first {
            b'"' => {
                self.text.begin(at.wrapping_add(1), false);
                State::Text(Inside::Plain)
            }
            b'{' | b'[' if self.open.len() == DEPTH => return Err(Malformed),
            b'{' | b'[' => State::Begun { object: first == b'{' },
            b't' => State::Literal(b"rue"),
            b'f' => State::Literal(b"alse"),
            b'n' => State::Literal(b"ull"),
            b'-' => State::Number(Number::Minus),
            b'0' => State::Number(Number::Zero),
            b'1'..=b'9' => State::Number(Number::Integer),
            _ => return Err(Malformed),
        };
        see(Seen::Entry(&self.place));
        Ok(self.go(state))
    }

    /// Goes into a list or an object, if there is anything in it.
    fn begin(&mut self, object: bool, first: u8) -> usize {
        if first == if object { b'}' } else { b']' } {
            return self.go(State::After);
        }
        self.open.push(object);
        if object {
            self.state = State::NameDue;
        } else {
            self.path().push(Step::At(0));
            self.state = State::Value;
        }
        0
    }

    /// What follows a value: another, or the end of what it is in.
    fn after(&mut self, byte: u8) -> Result<usize, Malformed> {
        let object = self.open.last().copied().ok_or(Malformed)?;
        match byte {
            b',' if object => {
                self.leave();
                Ok(self.go(State::NameDue))
            }
            b',' => {
                if let Some(Step::At(place)) = self.path().last_mut() {
                    *place += 1;
                }
                Ok(self.go(State::Value))
            }
            b'}' | b']' if object == (byte == b'}') => {
                self.open.pop();
                self.leave();
                Ok(self.go(State::After))
            }
            _ => Err(Malformed),
        }
    }

    /// Takes the last step back.
    fn leave(&mut self) {
        if let Some(Step::Name(name)) = self.path().pop() {
            self.names -= name.len();
        }
    }

    fn in_text(
        &mut self,
        inside: Inside,
        rest: &[u8],
        at: usize,
        see: See<'_>,
    ) -> Result<usize, Malformed> {
        let Bit { length, then, says } = bit(inside, rest)?;
        match says {
            Says::Itself => self.text.push(&rest[..length], &self.place, see),
            Says::Character(character) => self.text.push(&[character], &self.place, see),
            Says::Nothing => {}
        }
        if then.is_none() {
            self.text.end(at, &self.place, see);
        }
        self.state = then.map_or(State::After, State::Text);
        Ok(length)
    }

    fn in_name(&mut self, inside: Inside, rest: &[u8]) -> Result<usize, Malformed> {
        let Bit { length, then, .. } = bit(inside, rest)?;
        if let Some(then) = then {
            if length > self.bound - self.names - self.name.len() {
                return Err(Malformed);
            }
            self.name.extend_from_slice(&rest[..length]);
            self.state = State::Name(then);
            return Ok(length);
        }
        let name = unescape(&mem::take(&mut self.name));
        self.names += name.len();
        self.path().push(Step::Name(name));
        Ok(self.go(State::NameOver))
    }

    fn in_literal(&mut self, left: &'static [u8], rest: &[u8]) -> Result<usize, Malformed> {
        let length = left.len().min(rest.len());
        if rest[..length] != left[..length] {
            return Err(Malformed);
        }
        let left = &left[length..];
        self.state = if left.is_empty() { State::After } else { State::Literal(left) };
        Ok(length)
    }

    fn in_number(&mut self, number: Number, byte: u8) -> Result<usize, Malformed> {
        if let Some(next) = number.next(byte) {
            return Ok(self.go(State::Number(next)));
        }
        if !number.is_whole() {
            return Err(Malformed);
        }
        self.state = State::After;
        Ok(0)
    }
}

/// A string of well-formed JSON, decoded. Half a surrogate pair is no character, and becomes the one
/// that stands for such.
pub(crate) fn unescape(text: &[u8]) -> Vec<u8> {
    if !text.contains(&b'\\') {
        return text.to_vec();
    }
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'\\' {
            out.push(byte);
            continue;
        }
        let Some((&kind, after)) = rest.split_first() else { break };
        rest = after;
        match kind {
            b'b' => out.push(8),
            b'f' => out.push(12),
            b'n' => out.push(b'\n'),
            b'r' => out.push(b'\r'),
            b't' => out.push(b'\t'),
            b'u' => push_unit(&mut rest, &mut out),
            other => out.push(other),
        }
    }
    out
}

/// Decodes what stands behind `\u`, with the other half of a pair.
fn push_unit(rest: &mut &[u8], out: &mut Vec<u8>) {
    let high = unit(rest).unwrap_or(0xfffd);
    *rest = rest.get(4..).unwrap_or_default();
    let mut code = high;
    if (0xd800..0xdc00).contains(&high)
        && let Some(low) = rest.strip_prefix(b"\\u").and_then(unit)
        && (0xdc00..0xe000).contains(&low)
    {
        *rest = rest.get(6..).unwrap_or_default();
        code = 0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00);
    }
    let character = char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER);
    out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
}

fn unit(digits: &[u8]) -> Option<u32> {
    let digits = std::str::from_utf8(digits.get(..4)?).ok()?;
    u32::from_str_radix(digits, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::super::{BodyKind, BodyText, find};
    use super::*;
    use bytes::Bytes;
    use proptest::prelude::*;

    fn pointer(path: &[Step]) -> String {
        let token = |step: &Step| match step {
            Step::Name(name) => format!("/{}", String::from_utf8_lossy(name)),
            Step::At(place) => format!("/{place}"),
        };
        path.iter().map(token).collect()
    }

    fn found(text: &str) -> Vec<(String, String, bool)> {
        let body = BodyText::read(Bytes::copy_from_slice(text.as_bytes()), BodyKind::Json);
        assert_eq!(body.fault(), None, "{text}");
        let one = |f: &super::super::Found| match &f.place {
            Place::Json(path) => (pointer(path), text[f.at.clone()].to_owned(), f.ambiguous),
            other => panic!("{other:?}"),
        };
        body.found().iter().map(one).collect()
    }

    /// Every string, with the way to it.
    fn strings(text: &[u8]) -> Result<Vec<(Vec<Step>, Vec<u8>)>, Malformed> {
        let mut all = Vec::new();
        find(text, &BodyKind::Json, &mut |seen| {
            if let Seen::Text { place: Place::Json(path), at, .. } = seen {
                all.push((path.clone(), unescape(&text[at])));
            }
        })?;
        Ok(all)
    }

    #[test]
    fn strings_are_found_by_their_place() {
        let is = |at: &str, raw: &str| (at.to_owned(), raw.to_owned(), false);
        assert_eq!(found(r#"{"key":"locum_a"}"#), [is("/key", "locum_a")]);
        assert_eq!(
            found(
                " {\"a\" : [ 1, {\"b\":\"x\"}, \"locum_a\" ] , \"c\":{}, \"d\":[], \"e\": \"see locum_b\"}\n"
            ),
            [is("/a/2", "locum_a"), is("/e", "see locum_b")]
        );
        assert_eq!(
            found(r#"{"k\u0065y":"\u006cocum\u005fa"}"#),
            [is("/key", r"\u006cocum\u005fa")]
        );
        assert_eq!(found(r#""locum_a""#), [is("", "locum_a")]);
        assert_eq!(found(r#"{"locum_a":1}"#), [], "a name is no value");
        assert_eq!(
            found(r#"[[["locum_a"],[]],"locum_b"]"#),
            [is("/0/0/0", "locum_a"), is("/1", "locum_b")]
        );
    }

    #[test]
    fn what_is_there_twice_is_ambiguous() {
        for (text, ambiguous) in [
            (r#"{"a":"locum_x","a":"y"}"#, true),
            (r#"{"a":"y","\u0061":"locum_x"}"#, true),
            (r#"{"a":{"b":"locum_x"},"a":1}"#, true),
            (r#"{"a":{"b":"locum_x"},"c":{"b":"y"}}"#, false),
            (r#"{"a":["locum_x"],"b":["y"]}"#, false),
            (r#"{"c":1,"c":2,"a":"locum_x"}"#, false),
        ] {
            assert_eq!(found(text)[0].2, ambiguous, "{text}");
        }
    }

    #[test]
    fn what_is_no_json_is_refused_only_with_a_reference_in_it() {
        for broken in [
            r#"{"a":"locum_x""#,
            r#"{"a":"locum_x",}"#,
            r"{'a':'locum_x'}",
            r#"{"a":locum_x}"#,
            r#"{"a":"locum_x"}{}"#,
            "[\"locum_x\" 1]",
            "[\"locum_x\"}",
            "{\"a\":\"locum_x\n\"}",
            r#"["locum_x",01]"#,
            r#"["locum_x",1.]"#,
            r#"["locum_x",+1]"#,
            r#"["locum_x","\x"]"#,
            r#"["locum_x",tru]"#,
            "\u{feff}[\"locum_x\"]",
            r#"["locum_x"] // no"#,
            r#"["locum_x"#,
            "",
        ] {
            let read = |text: &str| {
                BodyText::read(Bytes::copy_from_slice(text.as_bytes()), BodyKind::Json)
            };
            assert_eq!(read(broken).fault().is_some(), !broken.is_empty(), "{broken}");
            let other = read(&broken.replace("locum_x", "other"));
            assert_eq!((other.fault(), other.found()), (None, &[][..]), "{broken}");
        }
        let escaped = Bytes::from_static(br#"["\u006cocum_x"#);
        assert!(BodyText::read(escaped, BodyKind::Json).fault().is_some());
        let deep = format!("{}\"locum_x\"{}", "[".repeat(DEPTH + 1), "]".repeat(DEPTH + 1));
        assert!(strings(deep.as_bytes()).is_err());
        assert_eq!(strings(&deep.as_bytes()[1..deep.len() - 1]).unwrap().len(), 1);
    }

    #[test]
    fn names_on_the_way_have_a_bound() {
        let read = |text: &str, bound| {
            let mut scanner = Scanner::new(Place::Json(Vec::new()), bound);
            scanner.push(text.as_bytes(), 0, &mut |_| {}).and_then(|()| scanner.finish())
        };
        let text = r#"{"abcd":{"efgh":1,"ijkl":{}},"mnopqrst":[{"":""}]}"#;
        assert_eq!(read(text, 8), Ok(()));
        assert_eq!(read(text, 7), Err(Malformed));
    }

    proptest! {
        /// What is JSON to others is JSON here.
        #[test]
        fn the_grammar_is_that_of_a_parser(text in "[\\[\\]{}\",:0-9eE.+ \\\\u/a-f-]{0,24}|\\PC{0,12}") {
            let parsed: Result<serde_json::Value, _> = serde_json::from_str(&text);
            let walked = strings(text.as_bytes()).map(drop);
            // What a number is worth and halves of pairs are the parser's own affair.
            match &parsed {
                Ok(_) => prop_assert_eq!(walked, Ok(())),
                Err(e) if e.to_string().contains("out of range") || e.to_string().contains("surrogate") => {}
                Err(e) if e.to_string().contains("hex escape") => {}
                Err(e) => prop_assert_eq!(walked, Err(Malformed), "{}", e),
            }
        }

        /// Any document, written by another: every string is where it was put.
        #[test]
        fn every_string_of_a_document_is_shown(keys in prop::collection::vec("\\PC{0,4}", 1..5), text in "\\PC{0,9}") {
            let mut value = serde_json::Value::from(text.clone());
            for key in &keys {
                value = serde_json::json!({ key.clone(): value });
            }
            let written = value.to_string();
            let path: Vec<Step> = keys.iter().rev().map(|k| Step::Name(k.clone().into_bytes())).collect();
            prop_assert_eq!(strings(written.as_bytes()), Ok(vec![(path, text.into_bytes())]));
        }
    }
}
