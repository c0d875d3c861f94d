//! What could be the start of a secret, to somebody who does not know it.
//!
//! What is held back shows: by the pieces in which an answer comes, and by when they do. Were just the beginnings of a
//! secret held back, an agent that has an origin say what it likes, such as the text of a file of its own, would find
//! the secret character by character. So whatever has the first three characters of a form is held back, for as long
//! as it goes on like any secret might: of a key's provider those three tell, and of the key next to nothing.

use super::needles::{Needles, is_of_forms};
use super::spelled::{GAP, INDENT, LAST, LONGEST_UNIT, Spelling, Unit};

/// So many characters of each form can be found out.
pub(super) const KNOWN: usize = 3;

/// How the forms of secrets begin, and what they are made of.
pub(super) struct Alike {
    /// The first characters of each form, and how long the longest is that begins so.
    begins: Vec<([u8; KNOWN], usize)>,
    first: [bool; 256],
    /// What a secret may be made of, in any form.
    of_secrets: [bool; 256],
    longest: usize,
}

impl Alike {
    /// Of secrets of which none has other than the usual bytes (`plain`), or some have any.
    pub(super) fn new(needles: &Needles, plain: bool) -> Self {
        let mut begins: Vec<([u8; KNOWN], usize)> = Vec::new();
        let mut of_secrets = [false; 256];
        for byte in 0..=u8::MAX {
            let printable = byte == b' ' || byte.is_ascii_graphic();
            of_secrets[usize::from(byte)] = is_of_forms(byte) || !plain && printable;
        }
        for needle in needles.iter() {
            for byte in needle.bytes {
                of_secrets[usize::from(*byte)] = true;
            }
            // No form is shorter.
            let Some(begin) = needle.bytes.first_chunk() else { continue };
            let length = needle.bytes.len();
            match begins.iter_mut().find(|(other, _)| other == begin) {
                Some((_, longest)) => *longest = length.max(*longest),
                None => begins.push((*begin, length)),
            }
        }
        let mut first = [false; 256];
        for (begin, _) in &begins {
            first[usize::from(begin[0])] = true;
        }
        let longest = begins.iter().map(|(_, length)| *length).max().unwrap_or(0);
        Self { begins, first, of_secrets, longest }
    }

    /// What a secret may be made of.
    pub(super) fn of_secrets(&self) -> &[bool; 256] {
        &self.of_secrets
    }

    /// How many bytes at the end of `text` are like a secret of which more is to come.
    pub(super) fn tail(&self, text: &[u8]) -> usize {
        let first = text.len().saturating_sub(LONGEST_UNIT * self.longest);
        let mut back = LAST;
        loop {
            let start = text.len().saturating_sub(back).max(first);
            let begin = self.run(text, start);
            let (tail, enough) = self.tail_from(text, begin);
            if enough || begin > start || start == first {
                return tail;
            }
            back *= 4;
        }
    }

    /// Where the bytes begin that `text` ends with and a secret may be made of, or lines be set in with; not before
    /// `start`.
    fn run(&self, text: &[u8], start: usize) -> usize {
        let mut at = text.len();
        while at > start {
            let byte = text[at - 1];
            if !self.of_secrets[usize::from(byte)] {
                let blank = |b: &&u8| matches!(b, b' ' | b'\t');
                let set_in = text[..at].iter().rev().take(INDENT + 1).take_while(blank).count();
                if set_in == 0 || set_in > INDENT || !text[..at - set_in].ends_with(b"\n") {
                    break;
                }
                at -= set_in;
                continue;
            }
            at -= 1;
        }
        at.max(start)
    }

    /// The same for what is written from `start` on; and whether as much was read as could matter.
    fn tail_from(&self, text: &[u8], start: usize) -> (usize, bool) {
        let mut said = Vec::with_capacity(text.len() - start);
        let mut places = Vec::with_capacity(text.len() - start);
        let (mut at, mut gap, mut after) = (start, 0, None);
        // Where one begins within what was taken for one character.
        let mut inside = None;
        while at < text.len() {
            let (unit, length) = Spelling::unit(&text[at..]);
            gap = if matches!(unit, Unit::Break | Unit::Nul) { gap + 1 } else { 0 };
            let ends = match unit {
                _ if gap > GAP => true,
                Unit::Byte(byte) => !self.of_secrets[usize::from(byte)],
                Unit::Break => after == Some(Unit::Break),
                Unit::Nul | Unit::Cut => false,
            };
            let within = at + 1..text.len().min(at + length);
            if ends {
                said.clear();
                places.clear();
                inside = None;
            } else if let Unit::Byte(byte) = unit {
                said.push(byte);
                places.push(at);
            }
            if inside.is_none() {
                inside = within.into_iter().find(|place| self.begins_at(text, *place));
            }
            after = Some(unit);
            at += length;
            if unit == Unit::Cut {
                break;
            }
        }
        let from = said.len().saturating_sub(self.longest);
        let spelled = (from..said.len()).find(|at| self.is_like(&said[*at..]));
        let spelled = spelled.map(|at| places[at]);
        // What has in it what looks like an escape; no secret has the end of a line.
        let from = text.len().saturating_sub(self.longest).max(start);
        let line = text[from..].iter().rposition(|b| matches!(b, b'\n' | b'\r' | 0));
        let from = line.map_or(from, |end| from + end + 1);
        let plain = (from..text.len()).find(|at| self.is_like(&text[*at..]));
        let first = [spelled, plain, inside].into_iter().flatten().min();
        let enough = said.len() >= self.longest + LONGEST_UNIT;
        (first.map_or(0, |first| text.len() - first), enough)
    }

    /// Whether a form begins so, of which more is to come.
    fn is_like(&self, rest: &[u8]) -> bool {
        let known = &rest[..rest.len().min(KNOWN)];
        known.first().is_some_and(|first| self.first[usize::from(*first)])
            && self
                .begins
                .iter()
                .any(|(begin, longest)| rest.len() < *longest && begin[..known.len()] == *known)
    }

    /// Whether a form begins with what is written at a place.
    fn begins_at(&self, text: &[u8], place: usize) -> bool {
        let (mut known, mut read, mut at, mut gap) = ([0; KNOWN], 0, place, 0);
        while read < KNOWN && gap <= GAP {
            let (unit, length) = Spelling::unit(&text[at..]);
            match unit {
                Unit::Byte(byte) => {
                    known[read] = byte;
                    (read, gap) = (read + 1, 0);
                }
                Unit::Break | Unit::Nul => gap += 1,
                Unit::Cut => break,
            }
            at += length;
        }
        read > 0 && self.is_like(&known[..read])
    }

    /// How many characters `held` has, however they are written.
    pub(super) fn characters(held: &[u8]) -> usize {
        let (mut at, mut all) = (0, 0);
        while at < held.len() {
            let (unit, length) = Spelling::unit(&held[at..]);
            all += usize::from(matches!(unit, Unit::Byte(_) | Unit::Cut));
            at += length.max(1);
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::super::Fit;
    use super::super::search::{Scrubber, Search};
    use super::*;
    use crate::secret::Secret;
    use bytes::Bytes;
    use data_encoding::{BASE32, BASE64, BASE64URL, HEXLOWER, HEXUPPER};

    const KEY: &[u8] = b"sk-proj-Abc0123456789xyzDEFGHIJKLMNOP";
    const PASSWORD: &[u8] = b"correct horse & \"battery\" %41 staple";

    /// What comes out of each piece, by its length, and of the end.
    fn shape(key: &[u8], fit: Fit, pieces: &[&[u8]]) -> Vec<usize> {
        let mut needles = Needles::default();
        needles.add(&Secret::new(key.to_vec()), "locum_main");
        let mut scrubber = Scrubber::for_needles(needles, fit);
        let mut lengths = Vec::new();
        let mut length = 0;
        for piece in pieces {
            scrubber.push(Bytes::copy_from_slice(piece), &mut |out| length += out.len());
            lengths.push(std::mem::take(&mut length));
            scrubber.pause(&mut |out| length += out.len());
            lengths.push(std::mem::take(&mut length));
            lengths.push(scrubber.held());
        }
        lengths
    }

    /// The ways to write a text, as far as each is written byte by byte.
    fn written(text: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
        let each = |f: &dyn Fn(&u8) -> String| text.iter().map(f).collect::<String>().into_bytes();
        let before = |n: usize| [&vec![b'.'; n][..], text].concat();
        let wrapped = |by: &str| {
            let based = BASE64.encode(text);
            let lines: Vec<&str> =
                based.as_bytes().chunks(12).map(|c| str::from_utf8(c).unwrap()).collect();
            lines.join(by).into_bytes()
        };
        vec![
            ("raw", text.to_vec()),
            ("hex", HEXLOWER.encode(text).into_bytes()),
            ("HEX", HEXUPPER.encode(text).into_bytes()),
            ("base64", BASE64.encode(text).into_bytes()),
            ("base64 behind one", BASE64.encode(&before(1)).into_bytes()),
            ("base64 behind two", BASE64.encode(&before(2)).into_bytes()),
            ("base64url", BASE64URL.encode(text).into_bytes()),
            ("base32", BASE32.encode(text).into_bytes()),
            ("base32 behind three", BASE32.encode(&before(3)).into_bytes()),
            ("percent", each(&|b| format!("%{b:02X}"))),
            ("percent twice", each(&|b| format!("%25{b:02x}"))),
            ("JSON", each(&|b| format!("\\u{b:04x}"))),
            ("C", each(&|b| format!("\\x{b:02x}"))),
            ("HTML", each(&|b| format!("&#{b};"))),
            ("HTML in hex", each(&|b| format!("&#x{b:x};"))),
            ("UTF-16", each(&|b| format!("{}\0", char::from(*b)))),
            ("numbers", each(&|b| format!("{b}, "))),
            ("octal", each(&|b| format!("{b:03o} "))),
            ("bytes", each(&|b| format!("0x{b:02x},"))),
            ("lines", wrapped("\n")),
            ("lines of DOS", wrapped("\r\n")),
            ("lines set in", wrapped("\n        ")),
        ]
    }

    /// Whoever has an origin say what may be the beginning of a secret learns nothing by what is held back of it, but
    /// for its first characters: it would be the same if the secret were another.
    #[test]
    fn what_is_held_back_does_not_tell_which_secret_it_is() {
        for key in [KEY, PASSWORD] {
            for wrong_at in [6, 20] {
                let mut other = key.to_vec();
                other[wrong_at] = if other[wrong_at] == b'Q' { b'Z' } else { b'Q' };
                for (form, text) in written(key) {
                    // Of some forms all that hangs on the secret alone is there a few characters before the end.
                    for end in (1..text.len() * 7 / 8).step_by(3) {
                        let text = &text[..end];
                        for around in [(&b"x \""[..], &b"\" and more"[..]), (b"x: |\n", b"\n\n")] {
                            for fit in [Fit::Exact, Fit::InPlace] {
                                let shapes = [key, &other]
                                    .map(|key| shape(key, fit, &[around.0, text, around.1]));
                                let text = text.escape_ascii();
                                assert_eq!(
                                    shapes[0], shapes[1],
                                    "{form}, {wrong_at}, {fit:?}: {text}"
                                );
                            }
                        }
                    }
                }
            }
        }
    }

    /// However wide the lines, and however far they are set in; at once and in two pieces.
    #[test]
    fn lines_that_are_set_in_are_searched() {
        let key: String =
            (0..164_u8).map(|n| n % 25).map(|n| char::from(b'a' + n * 7 % 25)).collect();
        let needles = || {
            let mut needles = Needles::default();
            needles.add(&Secret::new(key.clone().into_bytes()), "locum_main");
            needles
        };
        for (width, blanks) in [(24, 2), (76, 2), (76, 32), (120, 8), (120, 32)] {
            let lines: Vec<_> =
                key.as_bytes().chunks(width).map(|l| str::from_utf8(l).unwrap()).collect();
            let text =
                format!("k: |\n{}\nend: 1\n", lines.join(&format!("\n{}", " ".repeat(blanks))));
            let search = Search::new(needles());
            let mut whole = Vec::new();
            assert_eq!(
                search.replace_all(text.as_bytes(), Fit::Exact, &mut whole),
                1,
                "{width} {blanks}"
            );
            for cut in 1..text.len() {
                let mut scrubber = Scrubber::for_needles(needles(), Fit::Exact);
                let mut seen = Vec::new();
                for piece in [&text[..cut], &text[cut..]] {
                    scrubber.push(Bytes::copy_from_slice(piece.as_bytes()), &mut |out| {
                        seen.extend_from_slice(&out);
                    });
                }
                scrubber.finish(&mut |out| seen.extend_from_slice(&out));
                assert_eq!(seen, b"k: |\nlocum_main\nend: 1\n", "{width} {blanks} cut at {cut}");
            }
        }
    }

    #[test]
    fn what_ends_otherwise_waits_for_nothing() {
        for text in [
            "data: {\"a\": \"sk-\"}\n\n",
            "a sk-proj-x \"",
            "sk-proj-x, ",
            "no\n",
            "data: sk-proj-\n\n",
            "[1, 2, 3]}",
        ] {
            let shape = shape(KEY, Fit::Exact, &[text.as_bytes()]);
            assert_eq!(shape[0], text.len(), "{text}: {shape:?}");
        }
    }
}
