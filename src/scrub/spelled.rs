//! Needles that are spelled out: some of their characters, or all, written as escapes, or with line
//! breaks and NULs between them.
//!
//! There are far too many such forms to look for each. So where a text has an escape in it, it is read
//! as its reader would, character by character, and what is read is searched. Texts have few escapes,
//! and of those nearly all stand for characters that no needle has next to each other.

use std::ops::Range;

use super::needles::{Needle, Needles};

/// How often escapes may be escaped themselves. Twice happens; more is made.
const NESTED: usize = 4;

/// The longest that a character is written, in bytes: the end of a line, and what the next is set in by. Longer than
/// `&amp;amp;amp;amp;DiacriticalGrave;`.
pub(super) const LONGEST_UNIT: usize = INDENT + 3;

const _: () = assert!(1 + 4 * NESTED + 17 <= LONGEST_UNIT);

/// How many NULs and ends of lines may stand between two characters: as many as in UTF-32, or around the end
/// of a line in UTF-16.
pub(super) const GAP: usize = 3;

/// How far a line may be set in.
pub(super) const INDENT: usize = 32;

/// What is looked through for escapes in one go, once all bytes of a window could be a needle's: in an
/// encoded text they go on to be, and need not be looked at one by one.
const STRETCH: usize = 4096;

/// How far back the end of what came is looked at first: a few characters tell of nearly all texts that they are not
/// the beginning of a needle.
pub(super) const LAST: usize = 4 * LONGEST_UNIT;

/// How many characters are read before they are searched for the first time: behind a match the search begins
/// anew, and a text may be full of them.
const FIRST_LOOK: usize = 512;

/// So many of what begins an escape, one behind the other, are passed over at once: more than may stand between two
/// characters, and than twice what backslashes are read together.
const LONG_RUN: usize = 32;

/// Slots of the set of three bytes in a row: of a usual secret's 600 each twentieth slot is taken.
const TRIPLES: usize = 16 * 1024;

/// Slots of the set of pairs, a power of two: of a usual secret's 600 pairs each seventh slot is taken.
const PAIRS: usize = 4096;

/// What the characters of the needles have in common.
pub(super) struct Spelling {
    /// The bytes of the needles.
    alphabet: [bool; 256],
    /// Whether there are others than those of ASCII.
    beyond_ascii: bool,
    /// Those, and what escapes of them are written with.
    written: [bool; 256],
    /// Those, and what lines are set in with.
    indented: [bool; 256],
    /// Which bytes follow each other in a needle, hashed.
    pairs: Box<[u64; PAIRS / 64]>,
    /// Which three.
    triples: Box<[u64; TRIPLES / 64]>,
    /// The bytes that a needle begins with.
    first: [bool; 256],
    /// The shortest needle and the longest.
    shortest: usize,
    longest: usize,
}

/// One character as it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    /// What stands for this byte.
    Byte(u8),
    /// The end of a line: nothing, in an encoded text.
    Break,
    /// A NUL: nothing, in UTF-16.
    Nul,
    /// The text ends before it is known.
    Cut,
}

/// Where a needle was found.
pub(super) struct Spelled<'n> {
    pub(super) place: Range<usize>,
    pub(super) needle: Needle<'n>,
}

/// Finds the first needle in what is said, from a place on, and the longest of those that begin there.
pub(super) type Look<'l, 'n> = &'l dyn Fn(&[u8], usize) -> Option<(usize, Needle<'n>)>;

/// The bytes that needles are written with in a text: found out once for all of it.
pub(super) type Written<'w> = &'w [bool; 256];

/// What a piece of text says: each byte, and where it is written.
#[derive(Default)]
struct Said {
    bytes: Vec<u8>,
    places: Vec<Range<usize>>,
    /// What stands behind the last.
    after: Option<Unit>,
    /// Ends of lines and NULs behind the last.
    gap: usize,
    /// Where the reading began, or the last byte ended that no needle has.
    begun: usize,
    /// Where the reading ended.
    until: usize,
}

impl Said {
    fn from(at: usize) -> Self {
        Self { begun: at, until: at, ..Self::default() }
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.places.clear();
    }

    fn keep_last(&mut self, most: usize) {
        let gone = self.bytes.len().saturating_sub(most);
        self.bytes.drain(..gone);
        self.places.drain(..gone);
    }
}

/// Why the reading ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    /// As much is said as was asked for.
    Full,
    /// At a byte that no needle has.
    Closed,
    /// At the end of the text.
    Over,
}

/// Whether a needle is spelled out at a place.
enum Here {
    /// Up to this byte.
    Until(usize),
    /// As far as the text goes.
    Open,
    No,
}

impl Spelling {
    pub(super) fn new(needles: &Needles) -> Self {
        let mut new = Self {
            alphabet: [false; 256],
            beyond_ascii: false,
            written: [false; 256],
            indented: [false; 256],
            pairs: Box::new([0; PAIRS / 64]),
            triples: Box::new([0; TRIPLES / 64]),
            first: [false; 256],
            shortest: usize::MAX,
            longest: 1,
        };
        for needle in needles.iter() {
            new.shortest = new.shortest.min(needle.bytes.len());
            new.longest = new.longest.max(needle.bytes.len());
            if let Some(first) = needle.bytes.first() {
                new.first[usize::from(*first)] = true;
            }
            for byte in needle.bytes {
                new.alphabet[usize::from(*byte)] = true;
            }
            for pair in needle.bytes.windows(2) {
                let slot = slot(pair[0], pair[1]);
                new.pairs[slot / 64] |= 1 << (slot % 64);
            }
            for three in needle.bytes.windows(3) {
                let slot = triple(three[0], three[1], three[2]);
                new.triples[slot / 64] |= 1 << (slot % 64);
            }
        }
        new.beyond_ascii = new.alphabet[128..].contains(&true);
        new.written = new.alphabet;
        // The letters are those of `\n`, `\u` and of the names of entities. All are in the base64 of nearly all
        // secrets anyhow.
        for byte in 0..=u8::MAX {
            let of_escapes = byte.is_ascii_alphanumeric() || b"%\\&#;=\r\n\0{}".contains(&byte);
            new.written[usize::from(byte)] |= of_escapes;
        }
        new.indented = new.written;
        new.indented[usize::from(b' ')] = true;
        new.indented[usize::from(b'\t')] = true;
        new
    }

    /// The first needle that is spelled out in `text` and begins at `from` or behind it. What it is
    /// spelled with begins before `until`.
    pub(super) fn find<'n>(
        &self,
        needles: &'n Needles,
        (look, written): (Look<'_, 'n>, Written<'_>),
        text: &[u8],
        Range { start: from, end: until }: Range<usize>,
    ) -> Option<Spelled<'n>> {
        // What was read is not read again for each escape in it.
        let (mut at, mut known) = (from, from);
        loop {
            at = self.skip(written, text, at);
            if at >= until {
                return None;
            }
            let mut end = until.min(self.stretch(written, text, at));
            for escape in escapes(&text[at..end]).map(|escape| at + escape) {
                if escape < known || !self.may_be_part(text, from, escape) {
                    // Of a long run none is part of a needle, but for what its end may begin.
                    if text[escape..].starts_with(&[text[escape]; LONG_RUN]) {
                        end = end_of_run(text, escape) - LONG_RUN / 2;
                        break;
                    }
                    continue;
                }
                match self.around((needles, look, written), text, from.max(known)..until, escape) {
                    Ok(found) => return Some(found),
                    Err(until) => known = until.max(escape + 1),
                }
            }
            at = end;
        }
    }

    /// What needles are written with in a text.
    pub(super) fn written(&self, text: &[u8]) -> Written<'_> {
        if is_indented(text) { &self.indented } else { &self.written }
    }

    /// Where the stretch that begins at `at` ends. What is left of a run of bytes that a needle may be
    /// written with belongs to it, where that is too little for a window of its own.
    fn stretch(&self, written: Written<'_>, text: &[u8], at: usize) -> usize {
        let end = text.len().min(at + STRETCH);
        let next = text[end..].iter().take(self.shortest);
        let rest = next.take_while(|b| written[usize::from(**b)]).count();
        if rest < self.shortest { end + rest } else { end }
    }

    /// Moves on from `at` to where as many bytes as the shortest needle has are all ones that a needle is
    /// written with. In prose and JSON there is a blank or a quote in between, which ends all windows
    /// over it, the last of them first.
    fn skip(&self, written: Written<'_>, text: &[u8], mut at: usize) -> usize {
        while let Some(window) = text.get(at..).and_then(|rest| rest.get(..self.shortest)) {
            let Some(last) = window.iter().rposition(|b| !written[usize::from(*b)]) else {
                return at;
            };
            at += last + 1;
        }
        text.len()
    }

    /// Whether the escape at `at` may be part of a needle, by its neighbours.
    fn may_be_part(&self, text: &[u8], from: usize, at: usize) -> bool {
        let before = |at: usize| at.checked_sub(1).filter(|at| *at >= from).map(|at| text[at]);
        // Of most that look like one, the byte beside says that it is none, or not in a needle.
        let beside = text.get(at + 1).copied();
        let may_be = match text[at] {
            b'%' => beside.is_some_and(|b| match b {
                b'0'..=b'7' | b'u' => true,
                // What is no ASCII few needles have.
                b => self.beyond_ascii && b.is_ascii_hexdigit(),
            }),
            b'\\' => match text[at + 1..] {
                [b'u', first, second, ..] => first == b'{' || (first, second) == (b'0', b'0'),
                _ => true,
            },
            b'&' => beside.is_some_and(|b| b.is_ascii_alphanumeric() || b == b'#'),
            b'=' => beside.is_some_and(|b| b.is_ascii_hexdigit() || matches!(b, b'\r' | b'\n')),
            b'\n' | 0 => before(at).is_some_and(|b| b == b'\r' || self.has(b)),
            _ => true,
        };
        if !may_be {
            return false;
        }
        let (unit, length) = Self::unit(&text[at..]);
        match unit {
            Unit::Byte(_) if length == 1 => false,
            Unit::Byte(byte) => {
                let last = before(at).is_some_and(|before| self.has_pair(before, byte));
                self.has(byte) && (last || self.may_go_on(byte, &text[at + length..]))
            }
            Unit::Break | Unit::Nul => {
                let crlf = usize::from(before(at) == Some(b'\r'));
                before(at - crlf).is_some_and(|b| self.has(b))
                    && self.may_go_over(text, at - crlf..at + length)
            }
            Unit::Cut => false,
        }
    }

    /// Whether a needle has `byte` and behind it what `rest` says next.
    pub(super) fn may_go_on(&self, byte: u8, mut rest: &[u8]) -> bool {
        for _ in 0..=GAP {
            let (unit, length) = Self::unit(rest);
            match unit {
                Unit::Byte(next) => return self.has(next) && self.has_pair(byte, next),
                Unit::Break | Unit::Nul => rest = &rest[length..],
                Unit::Cut => return true,
            }
        }
        false
    }

    /// Whether a needle may go on over what stands from `at` to `end`, which says nothing. Of a usual one four
    /// characters stand on one of the two sides: those that are spelled themselves are looked at by themselves.
    fn may_go_over(&self, text: &[u8], Range { start: at, end }: Range<usize>) -> bool {
        let next_to_it = text[..at].last().is_some_and(|b| self.may_go_on(*b, &text[end..]));
        if !next_to_it || self.shortest < 8 {
            return next_to_it;
        }
        let Some(before) = self.four_before(text, at) else { return true };
        let Some(behind) = self.four_behind(&text[end..]) else { return true };
        let [.., b2, b1] = before;
        let [a1, a2, ..] = behind;
        let has = |four: [u8; 4]| {
            self.has_triple(four[0], four[1], four[2]) && self.has_triple(four[1], four[2], four[3])
        };
        (self.has_triple(b2, b1, a1) && has(before)) || (self.has_triple(b1, a1, a2) && has(behind))
    }

    /// The last four characters before `at`, if they are written as they are, and less where there are no more.
    fn four_before(&self, text: &[u8], at: usize) -> Option<[u8; 4]> {
        let (mut four, mut left) = ([0; 4], 4);
        for byte in text[..at].iter().rev().take(4 * (GAP + 1) + INDENT) {
            match byte {
                b'\r' | b'\n' | 0 | b' ' | b'\t' => {}
                byte if is_escape(*byte) => return None,
                byte => {
                    left -= 1;
                    four[left] = *byte;
                }
            }
            if left == 0 || left < 4 && !self.has(four[left]) {
                break;
            }
        }
        Some(four)
    }

    /// The four characters that `rest` begins with, unless its end comes first.
    fn four_behind(&self, mut rest: &[u8]) -> Option<[u8; 4]> {
        let (mut four, mut known, mut gap) = ([0; 4], 0, 0);
        while known < 4 && gap <= GAP {
            let (unit, length) = Self::unit(rest);
            match unit {
                Unit::Byte(byte) => {
                    four[known] = byte;
                    (known, gap) = (known + 1, 0);
                    if !self.has(byte) {
                        break;
                    }
                }
                Unit::Break | Unit::Nul => gap += 1,
                Unit::Cut => return None,
            }
            rest = &rest[length..];
        }
        Some(four)
    }

    /// The first needle that is spelled out in the run of characters that the escape at `at` is part of, and
    /// begins in `within`; or how far there is none. Nothing of the run is read twice.
    fn around<'n>(
        &self,
        (needles, look_for, written): (&'n Needles, Look<'_, 'n>, Written<'_>),
        text: &[u8],
        within: Range<usize>,
        at: usize,
    ) -> Result<Spelled<'n>, usize> {
        let mut said = Said::from(self.reach_back(written, text, within.start, at));
        let mut inside: Option<Spelled<'n>> = None;
        let mut look = FIRST_LOOK.min(2 * self.longest);
        loop {
            let stop = self.read(text, &mut said, (Some(at), look), &mut |place| {
                if inside.is_none() {
                    inside = self.spelled_at(needles, text, place);
                }
            });
            let found = self.first_said(look_for, &said).into_iter().chain(inside.take());
            let found = found.reduce(sooner);
            let open = stop == Stop::Full
                && found
                    .as_ref()
                    .is_some_and(|found| self.may_go_on_before(needles, &said, found.place.start));
            match found {
                Some(found) if !open => return Ok(found),
                // It is found again, if it does not stand in a longer one.
                Some(found) => inside = Some(found),
                None => {}
            }
            said.keep_last(self.longest - 1);
            // What was dropped begins none, and what comes only one that is not asked for.
            let over = said.places.first().is_some_and(|first| first.start >= within.end);
            if stop != Stop::Full || over {
                return inside.ok_or(said.until);
            }
            look = said.bytes.len() + self.longest.max(FIRST_LOOK);
        }
    }

    /// The first needle in what was said that is not written as it is, which the other search finds.
    fn first_said<'n>(&self, look: Look<'_, 'n>, said: &Said) -> Option<Spelled<'n>> {
        let mut from = 0;
        while said.bytes.len() - from >= self.shortest {
            let (start, needle) = look(&said.bytes, from)?;
            let last = start + needle.bytes.len() - 1;
            let place = said.places[start].start..said.places[last].end;
            if place.len() != needle.bytes.len() {
                return Some(Spelled { place, needle });
            }
            from = start + 1;
        }
        None
    }

    /// Whether a needle that begins before `place` may go on behind what was said.
    fn may_go_on_before(&self, needles: &Needles, said: &Said, place: usize) -> bool {
        let first = said.bytes.len().saturating_sub(self.longest - 1);
        let mut before = (first..said.bytes.len()).take_while(|at| said.places[*at].start < place);
        before.any(|at| self.begins_with(needles, &said.bytes[at..]))
    }

    /// Whether `rest` is the beginning of a needle, and not all of it.
    fn begins_with(&self, needles: &Needles, rest: &[u8]) -> bool {
        let begins = |n: Needle<'_>| n.bytes.len() > rest.len() && n.bytes.starts_with(rest);
        rest.first().is_some_and(|first| self.first[usize::from(*first)])
            && needles.iter().any(begins)
    }

    /// The longest needle that is spelled out at `place`, within what was taken for one character: before
    /// a needle may stand what together with its beginning looks like an escape.
    fn spelled_at<'n>(
        &self,
        needles: &'n Needles,
        text: &[u8],
        place: usize,
    ) -> Option<Spelled<'n>> {
        let all = self.that_may_begin(needles, text, place).filter_map(|needle| {
            let Here::Until(end) = here(text, place, needle.bytes) else { return None };
            let spelled = end - place != needle.bytes.len();
            spelled.then_some(Spelled { place: place..end, needle })
        });
        all.reduce(sooner)
    }

    /// Whether a needle may be spelled out at `place` that goes on behind the text.
    fn is_open_at(&self, needles: &Needles, text: &[u8], place: usize) -> bool {
        // Of what is cut nobody knows what it stands for.
        let is_cut = Self::unit(&text[place..]).0 == Unit::Cut && text[place] != b'\r';
        let mut all = self.that_may_begin(needles, text, place);
        is_cut || all.any(|needle| matches!(here(text, place, needle.bytes), Here::Open))
    }

    /// The needles that begin with what is written at `place`.
    fn that_may_begin<'n>(
        &self,
        needles: &'n Needles,
        text: &[u8],
        place: usize,
    ) -> impl Iterator<Item = Needle<'n>> + use<'n> {
        let (unit, length) = Self::unit(&text[place..]);
        let byte = match unit {
            Unit::Byte(byte)
                if self.first[usize::from(byte)]
                    && self.may_go_on(byte, &text[place + length..]) =>
            {
                Some(byte)
            }
            _ => None,
        };
        let all = byte.map(|byte| needles.iter().filter(move |n| n.bytes[0] == byte));
        all.into_iter().flatten()
    }

    /// How many bytes at the end of `text` could be a needle spelled out, of which more is to come.
    pub(super) fn tail(&self, needles: &Needles, text: &[u8]) -> usize {
        let first = text.len().saturating_sub(LONGEST_UNIT * self.longest);
        let mut back = LAST;
        loop {
            let start = text.len().saturating_sub(back).max(first);
            let written = self.written(&text[start..]);
            let run = text[start..].iter().rposition(|b| !written[usize::from(*b)]);
            let begin = run.map_or(start, |at| start + at + 1);
            let (tail, earlier) = self.tail_from(needles, text, begin);
            if !earlier || run.is_some() || start == first {
                return tail;
            }
            back *= 4;
        }
    }

    /// The same for what is written from `start` on; and whether it may have begun before that.
    fn tail_from(&self, needles: &Needles, text: &[u8], start: usize) -> (usize, bool) {
        let mut said = Said::from(start);
        let mut inside = None;
        self.read(text, &mut said, (None, usize::MAX), &mut |place| {
            if inside.is_none() && self.is_open_at(needles, text, place) {
                inside = Some(text.len() - place);
            }
        });
        // What it begins with may be the end of an escape.
        let known = said.places.partition_point(|place| place.start < start + LONGEST_UNIT);
        let mut triples = said.bytes[known..].windows(3);
        let earlier = said.begun < start + LONGEST_UNIT
            && triples.all(|three| self.has_triple(three[0], three[1], three[2]));
        let inside = inside.unwrap_or(0);
        let cut = said.after == Some(Unit::Cut);
        for first in said.bytes.len().saturating_sub(self.longest - 1)..said.bytes.len() {
            let (place, rest) = (&said.places[first], &said.bytes[first..]);
            let spelled = cut || text.len() - place.start != rest.len();
            if spelled && self.begins_with(needles, rest) {
                return (inside.max(text.len() - place.start), earlier);
            }
        }
        let cut = if cut && !text.ends_with(b"\r") { text.len() - said.until } else { 0 };
        (inside.max(cut), earlier)
    }

    /// Where to begin to read, to know what is said at `at`.
    fn reach_back(&self, written: Written<'_>, text: &[u8], from: usize, at: usize) -> usize {
        let start = at.saturating_sub(LONGEST_UNIT * self.longest).max(from);
        let run = text[start..at].iter().rposition(|b| !written[usize::from(*b)]);
        run.map_or(start, |before| start + before + 1)
    }

    /// Reads on what is said, without a byte between that no needle has: the piece that goes on behind `past`,
    /// or the last of all; until so much is said as is asked for. Places within a character that is written
    /// in several bytes go to `inside`.
    fn read(
        &self,
        text: &[u8],
        said: &mut Said,
        (past, most): (Option<usize>, usize),
        inside: &mut dyn FnMut(usize),
    ) -> Stop {
        while said.until < text.len() {
            if said.bytes.len() >= most {
                return Stop::Full;
            }
            let at = said.until;
            let (unit, length) = Self::unit(&text[at..]);
            said.gap = if matches!(unit, Unit::Break | Unit::Nul) { said.gap + 1 } else { 0 };
            let ends = match unit {
                _ if said.gap > GAP => true,
                Unit::Byte(byte) if self.has(byte) => {
                    said.bytes.push(byte);
                    said.places.push(at..at + length);
                    false
                }
                Unit::Byte(_) => true,
                // An empty line is the end of what was encoded, and of an event.
                Unit::Break => said.after == Some(Unit::Break),
                Unit::Nul => false,
                Unit::Cut => {
                    (at + 1..text.len()).for_each(inside);
                    said.after = Some(unit);
                    return Stop::Over;
                }
            };
            (at + 1..at + length).for_each(&mut *inside);
            said.until += length;
            if ends && past.is_some_and(|past| said.until > past) {
                return Stop::Closed;
            }
            if ends {
                said.clear();
                said.begun = said.until;
            }
            said.after = match unit {
                Unit::Byte(_) => None,
                unit => Some(unit),
            };
        }
        Stop::Over
    }

    fn has(&self, byte: u8) -> bool {
        self.alphabet[usize::from(byte)]
    }

    fn has_pair(&self, first: u8, second: u8) -> bool {
        let slot = slot(first, second);
        self.pairs[slot / 64] >> (slot % 64) & 1 == 1
    }

    fn has_triple(&self, first: u8, second: u8, third: u8) -> bool {
        let slot = triple(first, second, third);
        self.triples[slot / 64] >> (slot % 64) & 1 == 1
    }

    /// The character that a text begins with, and how long it is written.
    #[inline]
    pub(super) fn unit(text: &[u8]) -> (Unit, usize) {
        match text.first().copied() {
            None => (Unit::Cut, 0),
            Some(first) if is_escape(first) => Self::escape(first, text),
            Some(first) => (Unit::Byte(first), 1),
        }
    }

    fn escape(first: u8, text: &[u8]) -> (Unit, usize) {
        let read = match first {
            b'%' => percent(text),
            b'\\' => backslash(text),
            b'&' => entity(text),
            b'=' => quoted(text),
            b'\r' if text.len() == 1 => Some((Unit::Cut, 1)),
            b'\r' if text[1] == b'\n' => Some((Unit::Break, 2)),
            b'\n' => Some((Unit::Break, 1)),
            0 => Some((Unit::Nul, 1)),
            _ => None,
        };
        match read {
            // A line may be set in, as in YAML, and in a field that is folded.
            Some((Unit::Break, length)) if matches!(first, b'\r' | b'\n') => {
                (Unit::Break, length + indent(&text[length..]))
            }
            read => read.unwrap_or((Unit::Byte(first), 1)),
        }
    }
}

/// How many blanks there are before what a line says.
fn indent(line: &[u8]) -> usize {
    line.iter().take(INDENT).take_while(|b| matches!(b, b' ' | b'\t')).count()
}

/// Whether a line is set in.
fn is_indented(text: &[u8]) -> bool {
    memchr::memchr_iter(b'\n', text).any(|end| matches!(text.get(end + 1), Some(b' ' | b'\t')))
}

/// The one that begins first; of two, the longer.
fn sooner<'n>(one: Spelled<'n>, other: Spelled<'n>) -> Spelled<'n> {
    let key = |found: &Spelled<'_>| (found.place.start, std::cmp::Reverse(found.place.end));
    if key(&other) < key(&one) { other } else { one }
}

/// Whether `needle` is spelled out from `place` on.
fn here(text: &[u8], place: usize, needle: &[u8]) -> Here {
    let (mut at, mut gap, mut rest) = (place, 0, needle);
    let mut broken = false;
    while let Some((next, others)) = rest.split_first() {
        let (unit, length) = Spelling::unit(&text[at..]);
        match unit {
            Unit::Byte(byte) if byte == *next => (rest, gap, broken) = (others, 0, false),
            Unit::Break if gap < GAP && !broken => (gap, broken) = (gap + 1, true),
            Unit::Nul if gap < GAP => (gap, broken) = (gap + 1, false),
            Unit::Cut => return Here::Open,
            _ => return Here::No,
        }
        at += length;
    }
    Here::Until(at)
}

/// Where in a text an escape may begin. A line break's CR is looked at with its LF.
fn escapes(text: &[u8]) -> impl Iterator<Item = usize> + '_ {
    let mut some = memchr::memchr3_iter(b'%', b'\\', b'&', text).peekable();
    let mut others = memchr::memchr3_iter(b'\n', b'=', b'\0', text).peekable();
    std::iter::from_fn(move || match (some.peek(), others.peek()) {
        (Some(a), Some(b)) if a < b => some.next(),
        (Some(_), None) => some.next(),
        _ => others.next(),
    })
}

fn slot(first: u8, second: u8) -> usize {
    (usize::from(first) * 67 + usize::from(second)) % PAIRS
}

fn triple(first: u8, second: u8, third: u8) -> usize {
    let number = u32::from_le_bytes([first, second, third, 0]);
    // Knuth's multiplicative hash; the upper half is the better one.
    (number.wrapping_mul(0x9E37_79B1) >> 16) as usize % TRIPLES
}

/// Where the run of one byte that begins at `at` ends.
fn end_of_run(text: &[u8], at: usize) -> usize {
    let other = text[at..].iter().position(|b| *b != text[at]);
    other.map_or(text.len(), |length| at + length)
}

/// What begins an escape.
pub(super) fn is_escape(byte: u8) -> bool {
    matches!(byte, b'%' | b'\\' | b'&' | b'=' | b'\r' | b'\n' | 0)
}

fn hex(digits: &[u8]) -> Option<u32> {
    let digit = |value: u32, b: &u8| Some(value * 16 + char::from(*b).to_digit(16)?);
    digits.iter().try_fold(0, digit)
}

/// The end of a text in which a number of so many hex digits begins.
fn is_cut(rest: &[u8], digits: usize) -> bool {
    rest.len() < digits && hex(rest).is_some()
}

/// `%73`, and `%2573` where a URL was put into a URL; `%u0073`.
fn percent(text: &[u8]) -> Option<(Unit, usize)> {
    let mut at = 1;
    while at < 1 + 2 * NESTED && text[at..].starts_with(b"25") {
        at += 2;
    }
    if let Some(byte) = text.get(at..at + 2).and_then(hex) {
        return Some((Unit::Byte(byte as u8), at + 2));
    }
    if is_cut(&text[at..], 2) {
        return Some((Unit::Cut, text.len()));
    }
    // Before there was a standard for what is no ASCII (JavaScript's `escape`).
    if let Some(digits) = text[at..].strip_prefix(b"u") {
        if is_cut(digits, 4) {
            return Some((Unit::Cut, text.len()));
        }
        let value = digits.get(..4).and_then(hex).and_then(|value| u8::try_from(value).ok());
        if let Some(byte) = value {
            return Some((Unit::Byte(byte), at + 5));
        }
    }
    // An escaped `%` that begins nothing.
    (at > 1).then_some((Unit::Byte(b'%'), at))
}

/// `\u0073`, `\u{73}`, `\x73` and `\163`, a line break's `\n`, and signs behind a backslash; as many backslashes
/// as quoting has made of one, within reason.
fn backslash(text: &[u8]) -> Option<(Unit, usize)> {
    let most = &text[..text.len().min(2 << NESTED.min(3))];
    let run = most.iter().position(|b| *b != b'\\').unwrap_or(most.len());
    let after = &text[run..];
    if after.is_empty() {
        return Some((Unit::Cut, text.len()));
    }
    if most.len() == run {
        return None;
    }
    let number = |skip: usize, zeros: usize| {
        let digits = after.get(skip..)?;
        let all = zeros + 2;
        if is_cut(digits, all) {
            return Some((Unit::Cut, text.len()));
        }
        let value = hex(digits.get(..all)?).filter(|value| *value < 256)?;
        Some((Unit::Byte(value as u8), run + skip + all))
    };
    match after.first()? {
        b'u' if after[1..].starts_with(b"{") => braced(&after[2..]).map_or_else(
            || Some((Unit::Cut, text.len())),
            |(byte, length)| byte.map(|byte| (Unit::Byte(byte), run + 2 + length)),
        ),
        b'0'..=b'7' => octal(after).map_or_else(
            || Some((Unit::Cut, text.len())),
            |(byte, length)| byte.map(|byte| (Unit::Byte(byte), run + length)),
        ),
        b'u' => number(1, 2),
        b'x' => number(1, 0),
        b'r' if after[1..].starts_with(b"\\n") => Some((Unit::Break, run + 3)),
        b'r' if matches!(&after[1..], b"" | b"\\") => Some((Unit::Cut, text.len())),
        b'n' => Some((Unit::Break, run + 1)),
        sign if sign.is_ascii_punctuation() => Some((Unit::Byte(*sign), run + 1)),
        _ => None,
    }
}

/// What stands between `\u{` and `}`, up to six digits, and how long it is with its end; nothing where the text
/// ends within.
fn braced(text: &[u8]) -> Option<(Option<u8>, usize)> {
    let digits = text.iter().take(6).take_while(|b| b.is_ascii_hexdigit()).count();
    let end = *text.get(digits)?;
    let value = hex(&text[..digits]).filter(|value| digits > 0 && end == b'}' && *value < 256);
    Some((value.map(|value| value as u8), digits + 1))
}

/// Up to three octal digits; nothing where more may come.
fn octal(text: &[u8]) -> Option<(Option<u8>, usize)> {
    let digits = text.iter().take(3).take_while(|b| matches!(b, b'0'..=b'7')).count();
    if digits < 3 && digits == text.len() {
        return None;
    }
    let digit = |value: u32, b: &u8| value * 8 + u32::from(*b - b'0');
    Some((u8::try_from(text[..digits].iter().fold(0, digit)).ok(), digits))
}

/// The names that HTML has for signs of ASCII; no letter and no digit has one. The first [`BARE`] are known
/// without their `;`, too.
const NAMES: [(&[u8], u8); 46] = [
    (b"amp", b'&'),
    (b"AMP", b'&'),
    (b"lt", b'<'),
    (b"LT", b'<'),
    (b"gt", b'>'),
    (b"GT", b'>'),
    (b"quot", b'"'),
    (b"QUOT", b'"'),
    (b"apos", b'\''),
    (b"excl", b'!'),
    (b"num", b'#'),
    (b"dollar", b'$'),
    (b"percnt", b'%'),
    (b"lpar", b'('),
    (b"rpar", b')'),
    (b"ast", b'*'),
    (b"midast", b'*'),
    (b"plus", b'+'),
    (b"comma", b','),
    (b"period", b'.'),
    (b"sol", b'/'),
    (b"colon", b':'),
    (b"semi", b';'),
    (b"equals", b'='),
    (b"quest", b'?'),
    (b"commat", b'@'),
    (b"lsqb", b'['),
    (b"lbrack", b'['),
    (b"bsol", b'\\'),
    (b"rsqb", b']'),
    (b"rbrack", b']'),
    (b"Hat", b'^'),
    (b"lowbar", b'_'),
    (b"UnderBar", b'_'),
    (b"grave", b'`'),
    (b"DiacriticalGrave", b'`'),
    (b"lcub", b'{'),
    (b"lbrace", b'{'),
    (b"verbar", b'|'),
    (b"vert", b'|'),
    (b"VerticalLine", b'|'),
    (b"rcub", b'}'),
    (b"rbrace", b'}'),
    // What is shown in their place where a font has none of them: looked at as the sign that was meant.
    (b"hyphen", b'-'),
    (b"dash", b'-'),
    (b"minus", b'-'),
];

/// Those that HTML had before it asked for a `;`.
const BARE: usize = 8;

/// The most digits of a character's number. Readers take any number of zeros, and nobody writes more.
const DIGITS: usize = 14;

/// `&#115;`, `&#x73;` and the names that HTML has for signs, also where the `&` was escaped, and without the
/// `;` where readers need none.
fn entity(text: &[u8]) -> Option<(Unit, usize)> {
    let mut at = 1;
    while at < 1 + 4 * NESTED && text[at..].starts_with(b"amp;") {
        at += 4;
    }
    let rest = &text[at..];
    let read = if rest.first() == Some(&b'#') { numeric(rest) } else { named(rest) };
    match read {
        Some((Unit::Byte(byte), length)) => Some((Unit::Byte(byte), at + length)),
        Some(_) => Some((Unit::Cut, text.len())),
        // An escaped `&` that begins nothing.
        None => (at > 1).then_some((Unit::Byte(b'&'), at)),
    }
}

fn numeric(text: &[u8]) -> Option<(Unit, usize)> {
    let radix = if matches!(text.get(1), Some(b'x' | b'X')) { 16 } else { 10 };
    let first = if radix == 16 { 2 } else { 1 };
    let digits = text.get(first..)?;
    let is_digit = |b: &&u8| char::from(**b).is_digit(radix);
    let length = digits.iter().take(DIGITS + 1).take_while(is_digit).count();
    if length > DIGITS {
        return None;
    }
    let Some(end) = digits.get(length) else { return Some((Unit::Cut, text.len())) };
    let digits = std::str::from_utf8(&digits[..length]).ok()?;
    let byte =
        u64::from_str_radix(digits, radix).ok().and_then(|value| u8::try_from(value).ok())?;
    Some((Unit::Byte(byte), first + length + usize::from(*end == b';')))
}

fn named(text: &[u8]) -> Option<(Unit, usize)> {
    let name = text.iter().take_while(|b| b.is_ascii_alphabetic()).count();
    let (name, end) = (&text[..name], text.get(name));
    let is_open = end.is_none() && NAMES.iter().any(|(known, _)| known.starts_with(name));
    if is_open {
        return Some((Unit::Cut, text.len()));
    }
    let known = NAMES.iter().find(|(known, _)| *known == name).filter(|_| end == Some(&b';'));
    let known = known.map(|(known, byte)| (Unit::Byte(*byte), known.len() + 1));
    let bare = || NAMES[..BARE].iter().find(|(known, _)| name.starts_with(known));
    known.or_else(|| bare().map(|(known, byte)| (Unit::Byte(*byte), known.len())))
}

/// Quoted-printable (RFC 2045 section 6.7): `=5F`, and `=` at the end of a line that goes on. Letters and
/// digits stand for themselves there, and what looks like one is the value of a name.
fn quoted(text: &[u8]) -> Option<(Unit, usize)> {
    match &text[1..] {
        [] | [b'\r'] => Some((Unit::Cut, text.len())),
        [b'\n', ..] => Some((Unit::Break, 2)),
        [b'\r', b'\n', ..] => Some((Unit::Break, 3)),
        rest if is_cut(rest, 2) => Some((Unit::Cut, text.len())),
        rest => {
            let byte = hex(rest.get(..2)?)? as u8;
            byte.is_ascii_punctuation().then_some((Unit::Byte(byte), 3))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Fit, Needles, Scrubber};
    use crate::secret::Secret;
    use bytes::Bytes;
    use data_encoding::{BASE64, HEXLOWER};
    use proptest::prelude::*;

    const KEY: &str = "sk-Canary_0123456789.abcdef";

    /// Keys of few characters have none of those that some escapes are written with.
    const KEYS: [&str; 4] =
        [KEY, "9f86d081884c7d659a2feaa0c55ad015", "AKIAIOSFODNN7EXAMPLE", "31415926535897932384"];

    fn scrubber(key: &str, fit: Fit) -> Scrubber {
        let mut needles = Needles::default();
        needles.add(&Secret::new(key.as_bytes().to_vec()), "locum_x");
        Scrubber::for_needles(needles, fit)
    }

    fn through(chunks: &[&[u8]], fit: Fit) -> (Vec<u8>, u64) {
        of(KEY, chunks, fit)
    }

    fn of(key: &str, chunks: &[&[u8]], fit: Fit) -> (Vec<u8>, u64) {
        let mut scrubber = scrubber(key, fit);
        let mut seen = Vec::new();
        for chunk in chunks {
            scrubber.push(Bytes::copy_from_slice(chunk), &mut |data| seen.extend_from_slice(&data));
        }
        scrubber.finish(&mut |data| seen.extend_from_slice(&data));
        (seen, scrubber.replaced())
    }

    /// What MIME and PEM do to a long base64 text.
    fn lines(text: &str, width: usize, end: &str) -> String {
        let lines: Vec<&str> =
            text.as_bytes().chunks(width).map(|l| std::str::from_utf8(l).unwrap()).collect();
        lines.join(end)
    }

    fn spelled(key: &str) -> Vec<(&'static str, String)> {
        let each = |write: fn(u8) -> String| -> String { key.bytes().map(write).collect() };
        let base64 = BASE64.encode(format!("{}:{key} and more of it", "x".repeat(43)).as_bytes());
        let odd =
            |at: usize| key.bytes().enumerate().map(move |(n, b)| (n % 3 == at, char::from(b)));
        let some = |at, write: fn(char) -> String| -> String {
            odd(at).map(|(yes, c)| if yes { write(c) } else { c.to_string() }).collect()
        };
        let mut all = vec![
            ("percent, all", each(|b| format!("%{b:02X}"))),
            ("percent, all, lower", each(|b| format!("%{b:02x}"))),
            ("percent twice, all", each(|b| format!("%25{b:02X}"))),
            ("percent thrice, all", each(|b| format!("%2525{b:02x}"))),
            ("JSON, all", each(|b| format!("\\u{b:04x}"))),
            ("JSON, all, upper", each(|b| format!("\\u{b:04X}"))),
            ("JSON in JSON, all", each(|b| format!("\\\\u{b:04x}"))),
            ("C", each(|b| format!("\\x{b:02x}"))),
            ("HTML, decimal", each(|b| format!("&#{b};"))),
            ("HTML, decimal with zeros", each(|b| format!("&#{b:04};"))),
            ("HTML, hex", each(|b| format!("&#x{b:x};"))),
            ("HTML, hex, upper", each(|b| format!("&#X{b:X};"))),
            ("HTML twice", each(|b| format!("&amp;#{b};"))),
            ("quoted-printable", key.replace('-', "=2D").replace('_', "=5F").replace('.', "=2E")),
            ("quoted-printable, a soft break", lines(key, 9, "=\r\n")),
            (
                "HTML, names",
                key.replace('_', "&lowbar;").replace('.', "&period;").replace('-', "&hyphen;"),
            ),
            (
                "HTML, another name",
                key.replace('_', "&UnderBar;").replace('.', "&#46").replace('-', "&#45"),
            ),
            ("octal, signs", key.replace('_', "\\137").replace('.', "\\56").replace('-', "\\055")),
            ("octal in JSON", key.replace('_', "\\\\137")),
            ("braces, signs", key.replace('_', "\\u{5F}").replace('.', "\\u{00002e}")),
            ("Markdown", key.replace('-', "\\-").replace('_', "\\_").replace('.', "\\.")),
            ("UTF-16", each(|b| format!("{}\0", char::from(b)))),
            ("UTF-16, big", each(|b| format!("\0{}", char::from(b)))),
            ("UTF-32", each(|b| format!("{}\0\0\0", char::from(b)))),
            ("lines", lines(key, 10, "\n")),
            ("lines, set in", lines(key, 10, "\n    ")),
            ("lines, folded", lines(key, 7, "\r\n\t")),
            ("hex, lines, set in", lines(&HEXLOWER.encode(key.as_bytes()), 16, "\n  ")),
            ("%u", each(|b| format!("%u{b:04x}"))),
            ("%u, upper", each(|b| format!("%u{b:04X}"))),
            ("%25u", each(|b| format!("%25u{b:04x}"))),
            ("hex, lines", lines(&HEXLOWER.encode(key.as_bytes()), 32, "\r\n")),
            ("base64 in JSON", lines(&base64, 76, "\\n")),
            ("base64 in JSON, CRLF", lines(&base64, 76, "\\r\\n")),
            ("colons", each(|b| format!("{b:02x}:"))),
            ("colons, upper", each(|b| format!("{b:02X}:"))),
            ("hyphens", each(|b| format!("{b:02X}-"))),
            ("numbers", each(|b| format!("{b},"))),
        ];
        for width in 58..=76 {
            for end in ["\n", "\r\n", "=\r\n", "\n    ", "\n\t", "\r\n "] {
                all.push(("base64 in lines", lines(&base64, width, end)));
            }
        }
        for at in 0..3 {
            all.push(("percent, some", some(at, |c| format!("%{:02x}", c as u32))));
            all.push(("%u, some", some(at, |c| format!("%u{:04X}", c as u32))));
            all.push(("JSON, some", some(at, |c| format!("\\u{:04x}", c as u32))));
            all.push(("HTML, some", some(at, |c| format!("&#{};", c as u32))));
            all.push(("octal, some", some(at, |c| format!("\\{:03o}", c as u32))));
            all.push(("braces, some", some(at, |c| format!("\\u{{{:x}}}", c as u32))));
            all.push(("HTML, many zeros", some(at, |c| format!("&#{:014};", c as u32))));
            all.push((
                "HTML twice, hex, zeros",
                some(at, |c| format!("&amp;#x{:010x};", c as u32)),
            ));
        }
        all
    }

    fn every() -> Vec<(&'static str, String)> {
        KEYS.iter().flat_map(|key| spelled(key)).collect()
    }

    #[test]
    fn a_secret_is_known_however_it_is_spelled() {
        for (key, (name, text)) in
            KEYS.iter().flat_map(|key| spelled(key).into_iter().map(move |s| (key, s)))
        {
            for (before, after) in [("it is [", "]."), ("", ""), ("%20", "\n\n"), ("key=", "&b=1")]
            {
                // The last separator of a list, and the zeros of the last character, are not its own.
                let whole = format!("{before}{text}{after}");
                let (seen, replaced) = of(key, &[whole.as_bytes()], Fit::Exact);
                let seen = String::from_utf8_lossy(&seen).into_owned();
                assert_eq!(replaced, 1, "{name}: {whole:?} became {seen:?}");
                assert!(seen.starts_with(before) && seen.ends_with(after), "{name}: {seen:?}");
                assert!(seen.contains("locum_x"), "{name}: {seen:?}");
                let (kept, _) = of(key, &[whole.as_bytes()], Fit::InPlace);
                assert_eq!(kept.len(), whole.len(), "{name}");
                let bytes: Vec<&[u8]> = whole.as_bytes().chunks(1).collect();
                if name.contains("lines") || name.contains("break") {
                    // The beginning of it may have been shown, and the rest never.
                    let (pieces, found) = of(key, &bytes, Fit::Exact);
                    let pieces = String::from_utf8_lossy(&pieces).into_owned();
                    assert_eq!(found, 1, "{name}: {whole:?} became {pieces:?}");
                    assert!(pieces.contains("locum_x"), "{name}: {pieces:?}");
                } else {
                    assert_eq!(of(key, &bytes, Fit::Exact), (seen.into_bytes(), 1), "{name}");
                }
            }
        }
    }

    /// Wherever it stands in a long run of what it is written with.
    #[test]
    fn a_secret_is_found_at_the_border_of_what_is_looked_through_in_one_go() {
        for key in KEYS {
            let (most, last) = key.split_at(key.len() - 1);
            let text = format!("{most}\\u{:04x}", last.as_bytes()[0]);
            for before in (0..40).chain(super::STRETCH - 60..super::STRETCH + 20) {
                let whole = format!("\"{}{text}\"", "a".repeat(before));
                assert_eq!(of(key, &[whole.as_bytes()], Fit::Exact).1, 1, "{key} behind {before}");
            }
        }
    }

    #[test]
    fn what_only_looks_like_it_passes() {
        for text in [
            "100% sk-Canary_ and 0123%456789.abcdef",
            "sk-Canary_\n\n0123456789.abcdef",
            "sk-Canary_ \n0123456789.abcdef",
            "<p class=\"a\">&amp;&lt;&nbsp;&#8217;</p>\r\n<p>",
            "{\"a\":\"line\\nline\\tand \\\"more\\\" \\u00e4 \\u2019\"}\n",
            "a=b&c=d%20e&f=%E4%B8%AD",
            "\\\\\\\\\\\\\\\\\\\\\\\\\\\\\\\\\\\\\\\\ % %% %2 &#; &#x; &amp; = == =\r\n",
        ] {
            assert_eq!(through(&[text.as_bytes()], Fit::Exact), (text.as_bytes().to_vec(), 0));
            let bytes: Vec<&[u8]> = text.as_bytes().chunks(1).collect();
            assert_eq!(through(&bytes, Fit::Exact), (text.as_bytes().to_vec(), 0), "{text}");
        }
    }

    #[test]
    fn lines_and_events_are_not_held_back() {
        for text in [
            "data: yes\n\n",
            "data: yes\r\n\r\n",
            "that is s\n",
            "it is sk\r\n",
            "{\"a\": \"s\"}\n",
        ] {
            let mut scrubber = scrubber(KEY, Fit::Exact);
            let mut seen = Vec::new();
            scrubber.push(text.into(), &mut |data| seen.extend_from_slice(&data));
            assert_eq!(seen, text.as_bytes(), "{text:?}");
        }
    }

    /// What was shown of it is short of any secret, and the rest does not come.
    #[test]
    fn a_secret_that_goes_on_in_the_next_line_is_found_though_its_first_line_was_shown() {
        for (lines, seen) in [
            (
                &["it is sk-Can\n", "ary_0123456789.abcdef, then\n"][..],
                "it is sk-Can\nlocum_x, then\n",
            ),
            (&["sk-Can\r\n", "ary_01234", "56789.abcdef\n"], "sk-Can\r\nlocum_x\n"),
            (&["sk-Can\n", "ary_0123456789.abcdef"], "sk-Can\nlocum_x"),
            (&["sk-Can\n", "ary_0123456789.abcdeX"], "sk-Can\nary_0123456789.abcdeX"),
            (&["sk-Can\n", "s\n", "k\n"], "sk-Can\ns\nk\n"),
        ] {
            let chunks: Vec<&[u8]> = lines.iter().map(|line| line.as_bytes()).collect();
            let (exact, _) = through(&chunks, Fit::Exact);
            assert_eq!(String::from_utf8_lossy(&exact), seen, "{lines:?}");
            let (kept, _) = through(&chunks, Fit::InPlace);
            assert_eq!(kept.len(), lines.concat().len(), "{lines:?}");
            assert!(!kept.windows(8).any(|w| w == b"9.abcdef"), "{}", kept.escape_ascii());
        }
    }

    /// Texts that are all escapes of what the secret has, and never the secret.
    #[test]
    fn hostile_texts_cost_little_more_than_others() {
        let all: String = KEY.bytes().map(|b| format!("%{b:02x}")).collect();
        let almost = all[..60].repeat(3000);
        let broken = lines(&BASE64.encode(&KEY.as_bytes()[..24].repeat(6000)), 3, "\n");
        let slashes = "\\".repeat(150_000);
        let breaks = "\\n\\\\".repeat(40_000);
        for text in [almost, broken, slashes, breaks] {
            bounded(KEY, &text, 16 * 1024);
        }
    }

    /// Each character of a long key may stand alone on its line, and each chunk be of a few bytes.
    #[test]
    fn what_is_said_of_a_long_key_is_read_once() {
        let long: String = (0..2000_u32)
            .map(|n| char::from(b"abcdefghijklmnopqrstuvwxyzABCDEF"[(n * n / 7 % 32) as usize]))
            .collect();
        let noise: String =
            (0..64 * 1024_u32).map(|n| char::from(b'a' + (n * n / 11 % 26) as u8)).collect();
        let ids = vec!["0123abcd45ef"; 4000];
        bounded(&long, &lines(&noise, 1, "\n"), 16 * 1024);
        bounded(&long, &ids.join("\n"), 16 * 1024);
        bounded(&long, &"\\n\\\\".repeat(16 * 1024), 16 * 1024);
        bounded(&long, &"as\\n\\\\".repeat(16 * 1024), 16 * 1024);
        bounded(KEY, &lines(&noise[..16 * 1024], 1, "\n"), 7);
        bounded(KEY, &lines(&KEY[..26].repeat(6000), 1, "\n"), 320 * 1024);
        let almost: String = KEY.bytes().map(|b| format!("%{b:02x}")).collect();
        bounded(KEY, &almost[..60].repeat(600), 7);
    }

    /// Unoptimised, and beside other tests: quadratic work would take minutes.
    #[track_caller]
    fn bounded(key: &str, text: &str, size: usize) {
        let start = std::time::Instant::now();
        let chunks: Vec<&[u8]> = text.as_bytes().chunks(size).collect();
        assert_eq!(of(key, &chunks, Fit::Exact).1, 0);
        assert!(start.elapsed().as_secs() < 20, "{:?}", start.elapsed());
    }

    /// Found by the fuzz target of WebSocket frames: `%252a` is a sign to who reads from the left, and ends a
    /// needle before it has begun.
    #[test]
    fn what_stands_before_a_secret_does_not_hide_it() {
        for (key, text) in [
            ("abcabcab+/", "%252abcabcab%252B%252f"),
            ("abcabcab+/", "100%abcabcab%2B%2f"),
            ("nabcabcab+/", "\\nabcabcab\\u002b\\/"),
            ("abcabcab+/", "&#x6abcabcab&#43;&#47;"),
        ] {
            for size in [1, 2, 3, 7, text.len()] {
                let chunks: Vec<&[u8]> = text.as_bytes().chunks(size).collect();
                let (seen, replaced) = of(key, &chunks, Fit::Exact);
                assert_eq!(replaced, 1, "{text} by {size}: {:?}", String::from_utf8_lossy(&seen));
            }
        }
    }

    /// Found by the test of chunks, once in many thousand runs: of an escape behind a backslash the first byte
    /// alone is a sign.
    #[test]
    fn what_is_cut_behind_a_backslash_is_held_back() {
        let text = format!("\\\\&amp;#x0000000073;{}", &KEY[1..]);
        for cut in 1..text.len() {
            let (one, other) = text.as_bytes().split_at(cut);
            let (seen, replaced) = through(&[one, other], Fit::Exact);
            assert_eq!(replaced, 1, "{cut}: {}", seen.escape_ascii());
        }
    }

    fn fragment() -> impl Strategy<Value = String> {
        prop_oneof![
            prop::sample::select(every()).prop_map(|(_, text)| text),
            prop::sample::select(spelled(KEY))
                .prop_map(|(_, text)| text[..text.len() / 2].to_owned()),
            "[ -~]{0,12}",
            "[%\\\\&#;=u0-9a-f]{0,9}",
            Just("\r\n".to_owned()),
        ]
    }

    proptest! {
        /// What is passed over has none: a search that passes over nothing finds the same.
        #[test]
        fn nothing_that_is_spelled_is_passed_over(
            parts in prop::collection::vec(fragment(), 0..6),
            filler in prop::sample::select(vec!["a", "0", "\\", "b%41", "x\n", "q "]),
            (fills, at) in (0_usize..5000, 0_usize..6),
            key in prop::sample::select(KEYS.to_vec()),
        ) {
            let mut needles = Needles::default();
            needles.add(&Secret::new(key.as_bytes().to_vec()), "locum_x");
            let spelling = super::Spelling::new(&needles);
            let mut thorough = super::Spelling::new(&needles);
            (thorough.written, thorough.indented) = ([true; 256], [true; 256]);
            let mut parts: Vec<String> = parts.iter().map(|p| p.replace(KEY, key)).collect();
            parts.insert(at.min(parts.len()), filler.repeat(fills / filler.len()));
            let (text, mut from) = (parts.concat(), 0);
            let look = |said: &[u8], from| {
                let at = |at: &usize| {
                    let at = *at;
                    needles.iter().filter(move |n| said[at..].starts_with(n.bytes))
                };
                let first = (from..said.len()).find(|start| at(start).next().is_some())?;
                Some((first, at(&first).max_by_key(|n| n.bytes.len())?))
            };
            loop {
                let find = |spelling: &super::Spelling| {
                    let look = (&look as super::Look<'_, '_>, spelling.written(text.as_bytes()));
                    let found = spelling.find(&needles, look, text.as_bytes(), from..text.len());
                    found.map(|found| found.place)
                };
                let found = find(&spelling);
                prop_assert_eq!(&found, &find(&thorough), "from {} in {:?}", from, &text);
                let Some(place) = found else { break };
                from = place.end;
            }
        }

        #[test]
        fn any_chunking_of_what_is_spelled_equals_the_whole(
            parts in prop::collection::vec(fragment(), 0..6),
            cuts in prop::collection::vec(0_usize..1500, 0..10),
            in_place in any::<bool>(),
        ) {
            let fit = if in_place { Fit::InPlace } else { Fit::Exact };
            let text = parts.concat();
            let bytes = text.as_bytes();
            // Behind a line break the start of a secret may have been shown, if it is short.
            let breaks = |cut: &usize| {
                *cut > 0 && matches!(bytes[cut - 1], b'\r' | b'\n' | b'n')
            };
            let mut cuts: Vec<usize> =
                cuts.into_iter().map(|c| c.min(bytes.len())).filter(|c| !breaks(c)).collect();
            cuts.sort_unstable();
            let mut chunks = Vec::new();
            let mut last = 0;
            for cut in cuts.into_iter().chain([bytes.len()]) {
                chunks.push(&bytes[last..cut]);
                last = cut;
            }
            let (whole, cut) = (through(&[bytes], fit), through(&chunks, fit));
            prop_assert_eq!(
                String::from_utf8_lossy(&cut.0),
                String::from_utf8_lossy(&whole.0)
            );
        }

        #[test]
        fn noise_passes_as_it_is(noise in "[%\\\\&#;=ux0-9a-fA-Fmp\r\n ]{0,300}", size in 1_usize..40) {
            let chunks: Vec<&[u8]> = noise.as_bytes().chunks(size).collect();
            prop_assert_eq!(through(&chunks, Fit::Exact), (noise.into_bytes(), 0));
        }
    }
}
