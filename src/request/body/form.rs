//! `application/x-www-form-urlencoded`: pairs between `&`.

use std::mem;

use super::{Malformed, Place, See, Seen, Text};

/// Pairs, as far as they have come.
#[derive(Debug)]
pub(super) struct Scanner {
    /// The name that is being read, as it is written, and how long it may be.
    name: Vec<u8>,
    bound: usize,
    /// The place of the value that is being read; none before it begins.
    value: Option<Place>,
    escape: Escape,
    text: Text,
}

/// How much of a percent escape has come.
#[derive(Clone, Copy, Debug)]
enum Escape {
    None,
    Percent,
    Digit(u8),
}

impl Scanner {
    pub(super) fn new(bound: usize) -> Self {
        let (name, text) = (Vec::new(), Text::default());
        Self { name, bound, value: None, escape: Escape::None, text }
    }

    /// Reads on, from the byte `from` of the form.
    pub(super) fn push(
        &mut self,
        piece: &[u8],
        from: usize,
        see: See<'_>,
    ) -> Result<(), Malformed> {
        let mut at = 0;
        while let Some(rest) = piece.get(at..).filter(|rest| !rest.is_empty()) {
            let here = from.wrapping_add(at);
            at += match &self.value {
                None => self.in_name(rest, here, see)?,
                Some(_) => self.in_value(rest, here, see),
            };
        }
        Ok(())
    }

    /// The form is over at `at`, and with it its last pair.
    pub(super) fn finish(&mut self, at: usize, see: See<'_>) {
        if self.value.is_none() {
            self.name_over(at, see);
        }
        self.value_over(at, see);
    }

    /// Where the value is that is being read.
    pub(super) fn place(&self) -> Option<&Place> {
        self.value.as_ref()
    }

    fn in_name(&mut self, rest: &[u8], at: usize, see: See<'_>) -> Result<usize, Malformed> {
        let length = memchr::memchr2(b'=', b'&', rest).unwrap_or(rest.len());
        if length > self.bound - self.name.len() {
            return Err(Malformed);
        }
        self.name.extend_from_slice(&rest[..length]);
        let Some(end) = rest.get(length) else { return Ok(length) };
        let here = at.wrapping_add(length);
        self.name_over(here.wrapping_add(usize::from(*end == b'=')), see);
        if *end == b'&' {
            self.value_over(here, see);
        }
        Ok(length + 1)
    }

    /// A name is over, and its value begins at `at`.
    fn name_over(&mut self, at: usize, see: See<'_>) {
        let place = Place::Form(decode(&mem::take(&mut self.name)));
        see(Seen::Entry(&place));
        self.text.begin(at, false);
        self.value = Some(place);
    }

    fn value_over(&mut self, at: usize, see: See<'_>) {
        self.not_escaped(see);
        if let Some(place) = self.value.take() {
            self.text.end(at, &place, see);
        }
    }

    fn in_value(&mut self, rest: &[u8], at: usize, see: See<'_>) -> usize {
        let first = rest[0];
        match self.escape {
            Escape::None => match memchr::memchr2(b'%', b'&', rest).unwrap_or(rest.len()) {
                0 if first == b'%' => self.escape = Escape::Percent,
                0 => self.value_over(at, see),
                length => {
                    self.say(&rest[..length], see);
                    return length;
                }
            },
            Escape::Percent if first.is_ascii_hexdigit() => self.escape = Escape::Digit(first),
            Escape::Digit(high) if first.is_ascii_hexdigit() => {
                self.escape = Escape::None;
                let digit = |byte| char::from(byte).to_digit(16).unwrap_or_default();
                let code = digit(high) << 4 | digit(first);
                self.say(&[u8::try_from(code).unwrap_or_default()], see);
            }
            Escape::Percent | Escape::Digit(_) => {
                self.not_escaped(see);
                return 0;
            }
        }
        1
    }

    /// What looked like an escape is what it is.
    fn not_escaped(&mut self, see: See<'_>) {
        match mem::replace(&mut self.escape, Escape::None) {
            Escape::None => {}
            Escape::Percent => self.say(b"%", see),
            Escape::Digit(digit) => self.say(&[b'%', digit], see),
        }
    }

    fn say(&mut self, text: &[u8], see: See<'_>) {
        if let Some(place) = &self.value {
            self.text.push(text, place, see);
        }
    }
}

/// A plus is a space, and the rest is percent-encoded.
pub(super) fn decode(text: &[u8]) -> Vec<u8> {
    let spaced: Vec<u8> = text.iter().map(|b| if *b == b'+' { b' ' } else { *b }).collect();
    percent_encoding::percent_decode(&spaced).collect()
}

#[cfg(test)]
mod tests {
    use super::super::{BodyKind, BodyText, Found};
    use super::*;
    use bytes::Bytes;

    fn found(body: &str) -> Vec<(String, String, &str, bool)> {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let one = |f: &Found| match &f.place {
            Place::Form(name) => (text(name), text(&f.text), &body[f.at.clone()], f.ambiguous),
            other => panic!("{other:?}"),
        };
        let read = BodyText::read(Bytes::copy_from_slice(body.as_bytes()), BodyKind::Form);
        read.found().iter().map(one).collect()
    }

    #[test]
    fn values_are_found_by_name() {
        let is = |name: &str, text: &str, raw: &'static str, twice| {
            (name.to_owned(), text.to_owned(), raw, twice)
        };
        assert_eq!(found("a=1&token=locum_x&b"), [is("token", "locum_x", "locum_x", false)]);
        assert_eq!(found("t%6Fken=locum%5Fx"), [is("token", "locum_x", "locum%5Fx", false)]);
        assert_eq!(found("a+b=locum_x+y="), [is("a b", "locum_x y=", "locum_x+y=", false)]);
        assert_eq!(found("token=locum_x&token="), [is("token", "locum_x", "locum_x", true)]);
        assert_eq!(found("locum_x"), [], "a name is no value");
        assert_eq!(found("=locum_x"), [is("", "locum_x", "locum_x", false)]);
        assert_eq!(found("&&=&"), []);
        assert_eq!(found("a=%%6cocum_x%"), [is("a", "%locum_x%", "%%6cocum_x%", false)]);
        assert_eq!(found("a=%locum_x%6"), [is("a", "%locum_x%6", "%locum_x%6", false)]);
        assert_eq!(found("a=1&b=locum_x&a"), [is("b", "locum_x", "locum_x", false)]);
        assert_eq!(found("a=locum_x&b&a"), [is("a", "locum_x", "locum_x", true)]);
    }
}
