//! The body of a line: one JSON object, safe to show, of bounded length.
//!
//! `{"time":"2026-11-21T12:00:00.000000Z","kind":"access"` and then the record's own fields. Made
//! outside the log's lock; the chain adds the sequence number and the MAC.

use std::cell::RefCell;
use std::io::{self, Write};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;
use serde_json::ser::{CharEscape, Formatter, Serializer};

use super::chain::{SEAL, push_decimal};
use super::fields::Fields;
use crate::record::RequestId;

/// The longest line, with its newline. A record that would be longer has its texts cut.
pub const MAX_LINE: usize = 64 * 1024;

/// What a text that was cut ends with.
pub const CUT: &str = "…[cut]";

/// What a line is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The decision, before the call.
    Access,
    /// The end of the call.
    Outcome,
    /// What is no request.
    Event,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Access, Self::Outcome, Self::Event];

    /// The word in the log.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Access => "access",
            Self::Outcome => "outcome",
            Self::Event => "event",
        }
    }
}

/// Each text of a record is cut to this at first, and to less if the line is still too long.
const LIMITS: [usize; 4] = [usize::MAX, 4096, 512, 64];

/// Writes the body of a line into `out`, in place of what was there.
///
/// # Errors
/// When the record does not serialise, or has so many fields that no cut makes it fit.
pub(super) fn body(
    out: &mut Vec<u8>,
    kind: Kind,
    time: SystemTime,
    record: &impl Fields,
) -> Result<(), serde_json::Error> {
    for limit in LIMITS {
        out.clear();
        out.extend_from_slice(b"{\"time\":\"");
        push_time(out, time);
        out.extend_from_slice(b"\",\"kind\":\"");
        out.extend_from_slice(kind.as_str().as_bytes());
        out.push(b'"');
        record.write(&mut Line { out, limit })?;
        if out.len() + SEAL <= MAX_LINE {
            return Ok(());
        }
    }
    Err(serde::ser::Error::custom("the record has too many fields"))
}

/// A body under way. Names come as they stand on the line, with the comma before and the colon after.
pub(super) struct Line<'o> {
    out: &'o mut Vec<u8>,
    /// How much of each text is kept.
    limit: usize,
}

impl Line<'_> {
    /// The fields of any record: its object without its braces.
    pub(super) fn object<T: Serialize>(&mut self, record: &T) -> serde_json::Result<()> {
        let start = self.out.len();
        self.json(record)?;
        self.out.pop();
        match self.out.get_mut(start) {
            Some(brace) => *brace = b',',
            None => return Err(serde::ser::Error::custom("the record is no object")),
        }
        if self.out.len() == start + 1 {
            self.out.pop();
        }
        Ok(())
    }

    /// A field of any type.
    pub(super) fn value<T: Serialize>(&mut self, name: &[u8], value: &T) -> serde_json::Result<()> {
        self.raw(name);
        self.json(value)
    }

    pub(super) fn text(&mut self, name: &[u8], text: &str) -> serde_json::Result<()> {
        self.raw(name);
        // Nearly all texts have nothing to escape.
        if text.len() <= self.limit && text.bytes().all(is_literal) {
            self.out.reserve(text.len() + 2);
            self.out.push(b'"');
            self.out.extend_from_slice(text.as_bytes());
            self.out.push(b'"');
            return Ok(());
        }
        self.json(text)
    }

    pub(super) fn option(&mut self, name: &[u8], text: Option<&str>) -> serde_json::Result<()> {
        text.map_or(Ok(()), |text| self.text(name, text))
    }

    /// The name comes with the opening quote.
    pub(super) fn id(&mut self, name: &[u8], id: &RequestId) {
        let mut hex = [0; 32];
        data_encoding::HEXLOWER.encode_mut(&id.0, &mut hex);
        self.raw(name);
        self.raw(&hex);
        self.raw(b"\"");
    }

    pub(super) fn number(&mut self, name: &[u8], number: u64) {
        self.raw(name);
        push_decimal(self.out, number);
    }

    /// Bytes that need no escaping.
    pub(super) fn raw(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    fn json<T: Serialize + ?Sized>(&mut self, value: &T) -> serde_json::Result<()> {
        let safe = Safe { limit: self.limit, left: self.limit, cut: false };
        value.serialize(&mut Serializer::with_formatter(&mut *self.out, safe))
    }
}

/// Whether a byte of a text stands in JSON, and in a terminal, as it is.
fn is_literal(byte: u8) -> bool {
    matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\'
}

/// JSON without any character that a terminal, an editor or a line splitter could be fooled by.
struct Safe {
    limit: usize,
    left: usize,
    cut: bool,
}

impl Formatter for Safe {
    fn begin_string<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.left = self.limit;
        self.cut = false;
        writer.write_all(b"\"")
    }

    fn write_string_fragment<W: ?Sized + Write>(
        &mut self,
        w: &mut W,
        text: &str,
    ) -> io::Result<()> {
        if text.len() > self.left {
            return self.cut(w, text);
        }
        self.left -= text.len();
        write_safely(w, text)
    }

    fn write_char_escape<W: ?Sized + Write>(&mut self, w: &mut W, c: CharEscape) -> io::Result<()> {
        // An escape is up to six bytes on the line.
        if self.left < 6 {
            return self.cut(w, "");
        }
        self.left -= 6;
        Plain.write_char_escape(w, c)
    }
}

impl Safe {
    /// Writes as much of `text` as there is room for, and the mark, once.
    fn cut<W: ?Sized + Write>(&mut self, w: &mut W, text: &str) -> io::Result<()> {
        if self.cut {
            return Ok(());
        }
        let fits = |(at, c): &(usize, char)| at + c.len_utf8() <= self.left;
        let end = text.char_indices().take_while(fits).map(|(at, c)| at + c.len_utf8()).last();
        self.left = 0;
        self.cut = true;
        write_safely(w, text.get(..end.unwrap_or(0)).unwrap_or_default())?;
        w.write_all(CUT.as_bytes())
    }
}

/// `serde_json`'s own formatter, for what it does well.
struct Plain;

impl Formatter for Plain {}

fn write_safely<W: ?Sized + Write>(w: &mut W, text: &str) -> io::Result<()> {
    // Nearly all texts: printable ASCII, which `serde_json` has already seen through.
    if text.is_ascii() && memchr::memchr(0x7f, text.as_bytes()).is_none() {
        return w.write_all(text.as_bytes());
    }
    let mut written = 0;
    for (at, c) in text.char_indices().filter(|(_, c)| is_deceptive(*c)) {
        w.write_all(text.get(written..at).unwrap_or_default().as_bytes())?;
        let mut units = [0; 2];
        for unit in c.encode_utf16(&mut units) {
            write!(w, "\\u{unit:04x}")?;
        }
        written = at + c.len_utf8();
    }
    w.write_all(text.get(written..).unwrap_or_default().as_bytes())
}

/// Characters that change how the text around them is shown or split, or that show as nothing: DEL,
/// C1 controls, line and paragraph separators, bidirectional and zero-width controls, tags.
fn is_deceptive(c: char) -> bool {
    matches!(c,
        '\u{7f}'..='\u{9f}'
        | '\u{ad}'
        | '\u{61c}'
        | '\u{180e}'
        | '\u{200b}'..='\u{200f}'
        | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}'
        | '\u{feff}'
        | '\u{fff9}'..='\u{fffb}'
        | '\u{e0000}'..='\u{e007f}')
}

/// Appends `2026-11-21T12:00:00.000000Z`. The text up to the second is kept for the next record.
fn push_time(out: &mut Vec<u8>, time: SystemTime) {
    thread_local! {
        static SECOND: RefCell<(u64, String)> = const { RefCell::new((u64::MAX, String::new())) };
    }
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    SECOND.with_borrow_mut(|(second, text)| {
        if *second != since.as_secs() {
            *text = to_second(since.as_secs());
            *second = since.as_secs();
        }
        out.extend_from_slice(text.as_bytes());
    });
    let mut micros = since.subsec_micros();
    let mut digits = *b".000000Z";
    for digit in digits.iter_mut().skip(1).take(6).rev() {
        // Invariant: a remainder of ten fits into a byte.
        *digit = b'0' + u8::try_from(micros % 10).unwrap_or(0);
        micros /= 10;
    }
    out.extend_from_slice(&digits);
}

/// `2026-11-21T12:00:00`. Times past the year 9999 stay at its end, so that the width is fixed.
fn to_second(seconds: u64) -> String {
    const LAST: i64 = 253_402_300_799;
    let seconds = i64::try_from(seconds).map_or(LAST, |s| s.min(LAST));
    let stamp = jiff::Timestamp::from_second(seconds).unwrap_or_default();
    stamp.to_string().trim_end_matches('Z').to_owned()
}

/// A time as it stands in the log. Texts of this form sort as their times do.
pub(super) fn time_text(time: SystemTime) -> String {
    let mut out = Vec::new();
    push_time(&mut out, time);
    String::from_utf8(out).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[derive(Serialize)]
    struct Texts<'a> {
        a: &'a str,
        b: Vec<&'a str>,
    }

    impl Fields for Texts<'_> {
        fn write(&self, line: &mut Line<'_>) -> serde_json::Result<()> {
            line.object(self)
        }
    }

    fn line(a: &str, b: &[&str]) -> (String, serde_json::Value) {
        let mut out = Vec::new();
        let record = Texts { a, b: b.to_vec() };
        body(&mut out, Kind::Access, UNIX_EPOCH, &record).unwrap();
        let text = String::from_utf8(out).unwrap() + "}";
        let value = serde_json::from_str(&text).unwrap();
        (text, value)
    }

    #[test]
    fn the_body_starts_with_time_and_kind() {
        let (text, value) = line("x", &[]);
        let start = r#"{"time":"1970-01-01T00:00:00.000000Z","kind":"access","a":"x","#;
        assert!(text.starts_with(start), "{text}");
        assert_eq!(value["b"], serde_json::json!([]));
    }

    #[test]
    fn times_have_one_width_and_sort() {
        let at = |micros| time_text(UNIX_EPOCH + Duration::from_micros(micros));
        assert_eq!(at(1_795_262_400_000_001), "2026-11-21T12:00:00.000001Z");
        assert_eq!(at(999_999), "1970-01-01T00:00:00.999999Z");
        assert_eq!(at(u64::MAX).len(), 27);
        assert!(at(1_795_262_400_000_001) < at(1_795_262_400_100_000));
        assert_eq!(time_text(UNIX_EPOCH - Duration::from_secs(1)).len(), 27);
    }

    #[test]
    fn nothing_deceptive_reaches_the_line_and_nothing_is_lost() {
        let nasty = "\r\n\0\u{1b}[2J\u{7f}\u{85}\u{9b}31m\u{2028}\u{2029}\u{202e}\u{2066}\u{200f}\
                     \u{feff}\u{e0041}\u{61c}\u{200b}\"\\ä漢🦀";
        let (text, value) = line(nasty, &[nasty]);
        assert_eq!(value["a"], nasty);
        assert_eq!(value["b"][0], nasty);
        assert!(!text.chars().any(|c| c.is_control() || is_deceptive(c)), "{text}");
        assert!(
            text.contains("ä漢🦀") && text.contains(r"\u2028") && text.contains(r"\udb40\udc41")
        );
    }

    #[test]
    fn long_texts_are_cut_and_the_record_stays() {
        for long in ["x".repeat(1 << 20), "\n".repeat(1 << 18), "ä\u{202e}".repeat(1 << 18)] {
            let (text, value) = line(&long, &["short"]);
            assert!(text.len() + SEAL <= MAX_LINE);
            let a = value["a"].as_str().unwrap();
            assert!(a.ends_with(CUT) && a.matches(CUT).count() == 1, "{}", a.len());
            assert!(a.len() > 512);
            assert_eq!(value["b"][0], "short");
        }
        let many = vec!["y".repeat(3000); 200];
        let (text, value) = line("x", &many.iter().map(String::as_str).collect::<Vec<_>>());
        assert!(text.len() + SEAL <= MAX_LINE);
        assert_eq!(value["b"].as_array().unwrap().len(), 200);
    }

    #[test]
    fn what_cannot_fit_is_an_error() {
        let record = Texts { a: "", b: vec!["z"; 1 << 16] };
        let mut out = Vec::new();
        assert!(body(&mut out, Kind::Event, UNIX_EPOCH, &record).is_err());
    }
}
