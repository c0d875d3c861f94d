//! JSON (RFC 8259), walked once and never built: each value with its place and its bytes.
//!
//! Own code rather than a library, because what is wanted is where a string stands, byte by byte, and
//! nothing else of the document; parsers that give values keep no places, and writing the document
//! anew would change what the client signed or counted.

use std::ops::Range;

use super::{Found, Place};
use crate::reference;

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

/// What a value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value {
    /// A string; its bytes are those between the quotes.
    Text,
    /// A number, a literal, or the first byte of a list or an object.
    Other,
}

/// The document breaks the grammar, or is too deep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// Is shown a value: the way to it, what it is, and which bytes it has.
pub type Show<'a> = &'a mut dyn FnMut(&[Step], Value, Range<usize>);

/// Shows every value of a document, a container before what is in it.
///
/// # Errors
/// [`Malformed`], after what came before the fault was shown.
pub fn walk(bytes: &[u8], show: Show<'_>) -> Result<(), Malformed> {
    let mut walker = Walker { bytes, at: 0, path: Vec::new(), open: Vec::new() };
    walker.document(show)
}

struct Walker<'b> {
    bytes: &'b [u8],
    at: usize,
    path: Vec<Step>,
    /// The containers that are open: whether each is an object.
    open: Vec<bool>,
}

impl Walker<'_> {
    fn document(&mut self, show: Show<'_>) -> Result<(), Malformed> {
        loop {
            // A value is due. An empty container has none.
            self.space();
            if !self.value(show)? {
                continue;
            }
            // One is over: what follows it, as often as that closes a container.
            loop {
                self.space();
                let Some(object) = self.open.last().copied() else {
                    return if self.at == self.bytes.len() { Ok(()) } else { Err(Malformed) };
                };
                match self.next()? {
                    b',' => {
                        self.space();
                        self.follow(object)?;
                        break;
                    }
                    b'}' if object => self.close(),
                    b']' if !object => self.close(),
                    _ => return Err(Malformed),
                }
            }
        }
    }

    /// Reads a scalar or opens a container. Whether a value is over with it.
    fn value(&mut self, show: Show<'_>) -> Result<bool, Malformed> {
        let start = self.at;
        match self.next()? {
            b'"' => {
                let text = self.string()?;
                show(&self.path, Value::Text, text);
                Ok(true)
            }
            first @ (b'{' | b'[') => {
                show(&self.path, Value::Other, start..self.at);
                self.begin(first == b'{')
            }
            first => {
                self.scalar(first)?;
                show(&self.path, Value::Other, start..self.at);
                Ok(true)
            }
        }
    }

    /// Goes into a container. Whether it is over already.
    fn begin(&mut self, object: bool) -> Result<bool, Malformed> {
        if self.open.len() == DEPTH {
            return Err(Malformed);
        }
        self.space();
        let end = if object { b'}' } else { b']' };
        if self.bytes.get(self.at) == Some(&end) {
            self.at += 1;
            return Ok(true);
        }
        self.open.push(object);
        if object {
            let name = self.name()?;
            self.path.push(Step::Name(name));
        } else {
            self.path.push(Step::At(0));
        }
        Ok(false)
    }

    /// Goes to the next member or element.
    fn follow(&mut self, object: bool) -> Result<(), Malformed> {
        let step = match self.path.pop() {
            Some(Step::At(place)) if !object => Step::At(place + 1),
            _ => Step::Name(self.name()?),
        };
        self.path.push(step);
        Ok(())
    }

    fn close(&mut self) {
        self.open.pop();
        self.path.pop();
    }

    fn name(&mut self) -> Result<Vec<u8>, Malformed> {
        if self.next()? != b'"' {
            return Err(Malformed);
        }
        let text = self.string()?;
        self.space();
        if self.next()? != b':' {
            return Err(Malformed);
        }
        Ok(unescape(&self.bytes[text]))
    }

    fn next(&mut self) -> Result<u8, Malformed> {
        let byte = *self.bytes.get(self.at).ok_or(Malformed)?;
        self.at += 1;
        Ok(byte)
    }

    fn space(&mut self) {
        let rest = &self.bytes[self.at..];
        let blank = |b: &u8| matches!(b, b' ' | b'\t' | b'\n' | b'\r');
        self.at += rest.iter().take_while(|b| blank(b)).count();
    }

    /// What is between the quotes, of which the first has been read.
    fn string(&mut self) -> Result<Range<usize>, Malformed> {
        let start = self.at;
        loop {
            match self.next()? {
                b'"' => return Ok(start..self.at - 1),
                b'\\' => match self.next()? {
                    b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => {}
                    b'u' => {
                        for _ in 0..4 {
                            if !self.next()?.is_ascii_hexdigit() {
                                return Err(Malformed);
                            }
                        }
                    }
                    _ => return Err(Malformed),
                },
                0..0x20 => return Err(Malformed),
                _ => {}
            }
        }
    }

    fn scalar(&mut self, first: u8) -> Result<(), Malformed> {
        let rest = &self.bytes[self.at - 1..];
        for literal in [&b"true"[..], b"false", b"null"] {
            if rest.starts_with(literal) {
                self.at += literal.len() - 1;
                return Ok(());
            }
        }
        if first != b'-' {
            self.at -= 1;
        }
        // int, frac, exp (RFC 8259 section 6).
        let int = self.digits();
        if int == 0 || (int > 1 && self.bytes[self.at - int] == b'0') {
            return Err(Malformed);
        }
        if self.bytes.get(self.at) == Some(&b'.') {
            self.at += 1;
            if self.digits() == 0 {
                return Err(Malformed);
            }
        }
        if matches!(self.bytes.get(self.at), Some(b'e' | b'E')) {
            self.at += 1;
            self.at += usize::from(matches!(self.bytes.get(self.at), Some(b'+' | b'-')));
            if self.digits() == 0 {
                return Err(Malformed);
            }
        }
        Ok(())
    }

    fn digits(&mut self) -> usize {
        let count = self.bytes[self.at..].iter().take_while(|b| b.is_ascii_digit()).count();
        self.at += count;
        count
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

/// The strings with references in them. Names are not values, and stay what they are.
pub(super) fn find(bytes: &[u8]) -> Result<Vec<Found>, &'static str> {
    let mut found: Vec<Found> = Vec::new();
    let walked = walk(bytes, &mut |path, value, at| {
        if value != Value::Text {
            return;
        }
        let raw = &bytes[at.clone()];
        // Without an escape the raw text says it all.
        let text = if raw.contains(&b'\\') { unescape(raw) } else { raw.to_vec() };
        if reference::occurs(&text) {
            found.push(Found { place: Place::Json(path.to_vec()), text, at, ambiguous: false });
        }
    });
    if walked.is_err() && (!found.is_empty() || reference::occurs(bytes)) {
        return Err(
            "The body is said to be JSON, and is not: it holds a reference that may stand anywhere",
        );
    }
    mark_repeated(bytes, &mut found)?;
    Ok(found)
}

/// Of two members of one name some readers take the first and some the last, so a place is certain
/// only if each step on the way to it is there once.
fn mark_repeated(bytes: &[u8], found: &mut [Found]) -> Result<(), &'static str> {
    if found.is_empty() {
        return Ok(());
    }
    // For each text, how often each step of its way occurs.
    let mut counts: Vec<Vec<usize>> = found.iter().map(|f| vec![0; depth(f)]).collect();
    let walked = walk(bytes, &mut |path, _, _| {
        for (found, counts) in found.iter().zip(&mut counts) {
            let Place::Json(own) = &found.place else { continue };
            if !path.is_empty() && own.starts_with(path) {
                counts[path.len() - 1] += 1;
            }
        }
    });
    walked.map_err(|Malformed| "The body is not JSON")?;
    for (found, counts) in found.iter_mut().zip(counts) {
        found.ambiguous = counts.iter().any(|count| *count > 1);
    }
    Ok(())
}

fn depth(found: &Found) -> usize {
    match &found.place {
        Place::Json(path) => path.len(),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pointer(path: &[Step]) -> String {
        let token = |step: &Step| match step {
            Step::Name(name) => format!("/{}", String::from_utf8_lossy(name)),
            Step::At(place) => format!("/{place}"),
        };
        path.iter().map(token).collect()
    }

    fn found(text: &str) -> Vec<(String, String, bool)> {
        let one = |f: Found| match &f.place {
            Place::Json(path) => (pointer(path), text[f.at].to_owned(), f.ambiguous),
            other => panic!("{other:?}"),
        };
        find(text.as_bytes()).unwrap().into_iter().map(one).collect()
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
            "",
        ] {
            let refused = find(broken.as_bytes()).is_err();
            assert_eq!(refused, !broken.is_empty(), "{broken}");
            assert_eq!(find(broken.replace("locum_x", "other").as_bytes()), Ok(vec![]), "{broken}");
        }
        let deep = format!("{}\"locum_x\"{}", "[".repeat(DEPTH + 1), "]".repeat(DEPTH + 1));
        assert!(find(deep.as_bytes()).is_err());
        assert_eq!(find(&deep.as_bytes()[1..deep.len() - 1]).unwrap().len(), 1);
    }

    proptest! {
        /// What is JSON to others is JSON here, and the strings are the same ones.
        #[test]
        fn the_walk_agrees_with_a_parser(text in "[\\[\\]{}\",:0-9eE.+ \\\\u/a-f-]{0,24}|\\PC{0,12}") {
            let parsed: Result<serde_json::Value, _> = serde_json::from_str(&text);
            let mut strings = Vec::new();
            let walked = walk(text.as_bytes(), &mut |_, value, at| {
                if value == Value::Text {
                    strings.push(unescape(&text.as_bytes()[at]));
                }
            });
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
            let mut seen = None;
            walk(written.as_bytes(), &mut |path, value, at| {
                if value == Value::Text {
                    seen = Some((path.to_vec(), unescape(&written.as_bytes()[at])));
                }
            }).unwrap();
            let path: Vec<Step> = keys.iter().rev().map(|k| Step::Name(k.clone().into_bytes())).collect();
            prop_assert_eq!(seen, Some((path, text.into_bytes())));
        }
    }
}
