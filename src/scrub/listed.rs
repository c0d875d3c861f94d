//! Needles whose bytes are written one by one, as numbers with something between them; and base32.
//!
//! `73 6b 2d`, `0x73, 0x6b`, `[115, 107]`, `\163\153`, `U+0073 U+006B`, over several lines or not: there are too
//! many ways to have a needle for each. But all of them are long, of very few characters, and of hardly any
//! others: such runs are looked for, which few texts have, and read.

use std::cell::OnceCell;
use std::ops::{Deref, Range};

use data_encoding::BASE32_NOPAD;
use memchr::memmem::Finder;
use zeroize::Zeroizing;

use super::alike::KNOWN;
use super::needles::{Needle, Needles};
use super::spelled::Spelled;
use super::table::{THOROUGH, Table};

/// How much may stand between two numbers: pretty-printers indent, and languages name their escapes.
const BETWEEN: usize = 32;

/// The longest that one byte is written: what stands before it, `0x`, and its digits with zeros before them.
const LONGEST_ITEM: usize = BETWEEN + 2 + DIGITS;

/// The most digits of one number that stands alone: `&#00000115;`.
const DIGITS: usize = 8;

/// NULs that may stand between two bytes, as in UTF-32.
const NULS: usize = 3;

/// Numbers that are kept at once. A longer list is searched in parts: of a list full of texts each is then found
/// before much behind it is read.
const KEPT: usize = 512;

/// How much of a run is read at the least, where some of it has to be.
const PART: usize = 4096;

/// How far back the end of what came is looked at first: a few numbers tell of nearly all lists that they are not
/// the beginning of a text.
const LAST: usize = 4 * LONGEST_ITEM;

/// The most digits that a byte is written with.
const LONGEST_BYTE: usize = 3;

/// How many numbers in a row make a place worth reading: of a dump of anything one in many millions.
const IN_A_ROW: usize = 3;

/// How numbers are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Radix {
    /// More than two digits are pairs: so many bytes.
    Hex,
    Decimal,
    Octal,
}

impl Radix {
    /// The digits of a byte, of which hex has two.
    fn written(self, byte: u8) -> Digits {
        let base = match self {
            Self::Hex => 16,
            Self::Decimal => 10,
            Self::Octal => 8,
        };
        let mut digits = Digits { bytes: [b'0'; 3], first: 3 };
        let mut rest = byte;
        while rest > 0 || digits.first == 3 || self == Self::Hex && digits.first > 1 {
            digits.first -= 1;
            digits.bytes[digits.first] = b"0123456789abcdef"[usize::from(rest % base)];
            rest /= base;
        }
        digits
    }
}

/// As many as a byte has.
struct Digits {
    bytes: [u8; 3],
    first: usize,
}

impl Deref for Digits {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[self.first..]
    }
}

/// The ways to read a list: its radix, and whether `%2C` is something between two numbers and not one itself.
const READINGS: [(Radix, bool); 6] = [
    (Radix::Hex, false),
    (Radix::Decimal, false),
    (Radix::Octal, false),
    (Radix::Hex, true),
    (Radix::Decimal, true),
    (Radix::Octal, true),
];

/// Those of them that make a difference to a text.
fn readings(text: &[u8]) -> &'static [(Radix, bool)] {
    if memchr::memchr(b'%', text).is_some() { &READINGS } else { &READINGS[..3] }
}

/// The same, those of a radix first.
fn readings_by(radix: Radix, text: &[u8]) -> impl Iterator<Item = &'static (Radix, bool)> {
    let of = move |same| readings(text).iter().filter(move |(r, _)| (*r == radix) == same);
    of(true).chain(of(false))
}

/// What lists are written with.
pub(super) fn is_of_lists(byte: u8) -> bool {
    LISTED[usize::from(byte)]
}

static LISTED: [bool; 256] = of(b"0123456789abcdefABCDEF xXuU\t\r\n,;:|-_\"'\\{}[]+&#%=");

const fn of(bytes: &[u8]) -> [bool; 256] {
    let (mut table, mut at) = ([false; 256], 0);
    while at < bytes.len() {
        table[bytes[at] as usize] = true;
        at += 1;
    }
    table
}

/// The two alphabets of base32 (RFC 4648 section 6), of which a text has one.
static UPPER: [bool; 256] = of(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567");
static LOWER: [bool; 256] = of(b"abcdefghijklmnopqrstuvwxyz234567");

/// How long the shortest list is of a text of this length: pairs of digits, and one thing between.
pub(super) fn shortest_list(length: usize) -> usize {
    length.saturating_mul(2).max(1)
}

/// What the texts that may be listed have in common.
pub(super) struct Listing {
    /// The bytes of these texts.
    alphabet: [bool; 256],
    shortest: usize,
    longest: usize,
    /// Made where a text may hold a list, or base32.
    anchors: OnceCell<Anchors>,
    base32: OnceCell<Base32>,
}

/// Of each text one byte as each radix writes it, by which its lists are known among others.
struct Anchors(Vec<Anchor>);

struct Anchor {
    radix: Radix,
    digits: Finder<'static>,
    /// Of which text, and which of its bytes.
    text: usize,
    at: usize,
}

/// The texts in base32, in two cases at five alignments. Made where a text may hold one.
struct Base32 {
    forms: Vec<(Zeroizing<Vec<u8>>, usize)>,
    longest: usize,
    table: Option<Table>,
    /// The characters that a form begins with.
    first: [bool; 256],
}

/// What a list says, and where.
struct Said {
    bytes: Zeroizing<Vec<u8>>,
    places: Vec<Range<usize>>,
    /// With how many it is searched, whether it is over or not.
    look: usize,
    /// The number before the first, which is none of the list; what it ends with may be.
    before: Option<Range<usize>>,
    /// NULs behind the last.
    nuls: usize,
    /// Whether there was more before it that is not of the list.
    is_cut: bool,
}

/// A run of digits, and whether it goes on a list.
struct Token {
    digits: Range<usize>,
    goes_on: bool,
}

/// What a token says.
enum Value {
    /// One byte, or several in pairs of digits.
    Byte(u8),
    Pairs,
    /// No byte.
    None,
}

impl Listing {
    pub(super) fn new(needles: &Needles) -> Self {
        let lengths = || needles.texts().map(|text| text.bytes.len());
        let mut alphabet = [false; 256];
        for byte in needles.texts().flat_map(|text| text.bytes) {
            alphabet[usize::from(*byte)] = true;
        }
        let (shortest, longest) =
            (lengths().min().unwrap_or(usize::MAX), lengths().max().unwrap_or(1));
        Self { alphabet, shortest, longest, anchors: OnceCell::new(), base32: OnceCell::new() }
    }

    /// The first text that is listed, or in base32, at `from` or behind it, and begins no later than `until`.
    pub(super) fn find<'n>(
        &self,
        needles: &'n Needles,
        text: &[u8],
        from: usize,
        until: usize,
    ) -> Option<Spelled<'n>> {
        let listed = self.find_list(needles, text, from, until);
        let until = listed.as_ref().map_or(until, |found| found.place.start);
        let based = self.find_base32(needles, text, from, until);
        [listed, based].into_iter().flatten().reduce(earlier)
    }

    fn find_list<'n>(
        &self,
        needles: &'n Needles,
        text: &[u8],
        from: usize,
        until: usize,
    ) -> Option<Spelled<'n>> {
        // One that begins before `until` may end behind it, and no list is longer than this.
        let text = &text[..text.len().min(until.saturating_add(self.reach()))];
        let mut runs =
            Runs { text, at: from, table: &LISTED, shortest: shortest_list(self.shortest) };
        loop {
            let run = runs.next().filter(|run| run.start <= until)?;
            let found = self.in_run(needles, &text[..run.end], run.start);
            if found.is_some() {
                return found;
            }
        }
    }

    /// The longest that a text is listed.
    fn reach(&self) -> usize {
        LONGEST_ITEM * (self.longest + 1)
    }

    /// The first text that is listed in what is left of `text` from `at`, which is one run. It is read only
    /// around the places where three numbers in a row are those of a text: hardly any run has one.
    fn in_run<'n>(&self, needles: &'n Needles, text: &[u8], start: usize) -> Option<Spelled<'n>> {
        let anchors = self.anchors.get_or_init(|| Anchors::new(needles));
        let mut from = start;
        loop {
            let (place, radix) = anchors.first(needles, text, from)?;
            // As much behind as before, so that no place is read more than a few times.
            let part = self.part_around(text, start, place);
            from = part.end;
            let end = text.len().min(part.end.saturating_add(self.reach()));
            if let Some(found) = self.in_part((needles, radix), &text[..end], part.start) {
                return Some(found);
            }
        }
    }

    /// What is read because of a place: no list that it may be part of begins before its start, and the search
    /// goes on behind its end.
    fn part_around(&self, text: &[u8], start: usize, place: usize) -> Range<usize> {
        let before = place.saturating_sub(self.reach()).max(start);
        begin(text, start, before)..place + PART.max(self.reach())
    }

    /// The first text that is listed there, which is likely to be in this radix.
    fn in_part<'n>(
        &self,
        (needles, likely): (&'n Needles, Radix),
        text: &[u8],
        at: usize,
    ) -> Option<Spelled<'n>> {
        let mut best: Option<Spelled<'n>> = None;
        for (radix, percent) in readings_by(likely, &text[at..]) {
            let mut said = self.said(text.len() - at);
            let mut here: Option<Spelled<'n>> = None;
            let mut rest = at;
            loop {
                let found = [&best, &here].into_iter().flatten().map(|found| found.place.start);
                let first = said.before.as_ref().or(said.places.first()).map(|first| first.start);
                // What begins behind the one that was found is not read.
                let most = match (found.min(), first) {
                    (Some(found), first) => found.checked_sub(first.unwrap_or(rest)),
                    (None, _) => Some(usize::MAX),
                };
                let most = most.map(|most| if first.is_some() { usize::MAX } else { most });
                let Some(token) = most.and_then(|most| token(text, rest, *percent, most)) else {
                    break;
                };
                rest = token.digits.end;
                self.read((needles, *radix), text, token, &mut said, &mut |said| {
                    let found = self.search(needles, *radix, text, said);
                    here = found.into_iter().chain(here.take()).reduce(earlier);
                });
            }
            let last = self.search(needles, *radix, text, &said);
            best = [best, here, last].into_iter().flatten().reduce(earlier);
        }
        best
    }

    fn said(&self, length: usize) -> Said {
        // As much as is ever kept, so that no part of a secret is left in a buffer outgrown.
        let most = (length / 2 + 2).min(KEPT.max(2 * self.longest));
        let bytes = Zeroizing::new(Vec::with_capacity(most));
        let look = most.min(2 * self.longest);
        Said { bytes, places: Vec::new(), look, before: None, nuls: 0, is_cut: false }
    }

    /// Notes what the token says. What was said before is searched when it is over, or is as much as is kept.
    fn read(
        &self,
        (needles, radix): (&Needles, Radix),
        text: &[u8],
        Token { digits, goes_on }: Token,
        said: &mut Said,
        search: &mut dyn FnMut(&Said),
    ) {
        if !goes_on {
            said.over(search);
        }
        let written = &text[digits.clone()];
        if radix != Radix::Hex {
            said.ended_by(needles, radix, text, &digits, search);
        }
        match value(radix, written) {
            Value::Byte(byte) => {
                // Zeros before it tell nothing, and may have been handed on.
                let zeros = written.iter().take_while(|b| **b == b'0').count();
                let own = if radix == Radix::Hex { 2 } else { 1 };
                let before = zeros.min(written.len().saturating_sub(own));
                self.note(byte, digits.start + before..digits.end, said, search);
            }
            Value::Pairs => {
                // Half a pair may stand before the first of them as well.
                let odd = digits.start + 1..digits.end;
                if written.len().is_multiple_of(2) {
                    // Then another is behind the last, and no other number goes on with them.
                    if odd.len() / 2 >= self.shortest {
                        let mut within = self.said(odd.len());
                        self.read_pairs(text, odd, &mut within, search);
                        search(&within);
                    }
                    self.read_pairs(text, digits, said, search);
                } else {
                    self.read_pairs(text, digits, said, search);
                    said.over(search);
                    self.read_pairs(text, odd, said, search);
                }
            }
            Value::None => {
                said.over(search);
                said.before = Some(digits);
            }
        }
    }

    fn read_pairs(
        &self,
        text: &[u8],
        digits: Range<usize>,
        said: &mut Said,
        search: &mut dyn FnMut(&Said),
    ) {
        for (at, pair) in text[digits.clone()].chunks_exact(2).enumerate() {
            let start = digits.start + 2 * at;
            self.note(number(pair, 16).unwrap_or(0), start..start + 2, said, search);
        }
    }

    fn note(&self, byte: u8, place: Range<usize>, said: &mut Said, search: &mut dyn FnMut(&Said)) {
        if byte == 0 && said.nuls < NULS {
            said.nuls += 1;
        } else if self.alphabet[usize::from(byte)] {
            if said.bytes.len() + 1 >= said.look {
                // What is left of it may be the start of a text.
                search(said);
                said.keep_last(self.longest - 1);
                said.look = said.bytes.capacity();
            }
            said.nuls = 0;
            said.bytes.push(byte);
            said.places.push(place);
        } else {
            said.over(search);
            said.before = Some(place);
        }
    }

    /// The first text in what was said.
    fn search<'n>(
        &self,
        needles: &'n Needles,
        radix: Radix,
        text: &[u8],
        said: &Said,
    ) -> Option<Spelled<'n>> {
        // Of the first byte the number may be the end of a longer one.
        if said.bytes.len() + 1 < self.shortest {
            return None;
        }
        let found = needles.texts().filter_map(|needle| {
            let last = needle.bytes.len() - 1;
            let whole = memchr::memmem::find(&said.bytes, needle.bytes)
                .map(|at| said.places[at].start..said.places[at + last].end);
            let glued = said.behind_more(radix, text, needle.bytes);
            let glued = glued.map(|(at, start)| start..said.places[at + last - 1].end);
            let place = [whole, glued].into_iter().flatten().min_by_key(|place| place.start)?;
            Some(Spelled { place, needle })
        });
        found.reduce(earlier)
    }

    fn find_base32<'n>(
        &self,
        needles: &'n Needles,
        text: &[u8],
        from: usize,
        until: usize,
    ) -> Option<Spelled<'n>> {
        let shortest = shortest_base32(self.shortest);
        let text = &text[..text.len().min(until.saturating_add(2 * self.longest + shortest))];
        let mut best: Option<Spelled<'n>> = None;
        for table in [&UPPER, &LOWER] {
            let mut runs = Runs { text, at: from, table, shortest };
            while let Some(run) = runs.next().filter(|run| run.start <= until) {
                let forms = self.base32(needles);
                let end = run.end.min(until.saturating_add(forms.longest));
                let found = forms.find(needles, &text[..end], run.start);
                if found.is_some() {
                    best = found.into_iter().chain(best).reduce(earlier);
                    break;
                }
            }
        }
        best
    }

    fn base32(&self, needles: &Needles) -> &Base32 {
        self.base32.get_or_init(|| Base32::new(needles))
    }

    /// How many bytes at the end of `text` could be the start of a text that is listed, or in base32.
    pub(super) fn tail(&self, needles: &Needles, text: &[u8]) -> usize {
        let Some(last) = text.last().filter(|_| self.shortest < usize::MAX) else { return 0 };
        let based = |table: &[bool; 256]| {
            if table[usize::from(*last)] { self.base32(needles).tail(text, table) } else { 0 }
        };
        self.open(needles, text).0.max(based(&UPPER)).max(based(&LOWER))
    }

    /// How many numbers `held` lists, and nothing else, each by itself.
    pub(super) fn numbers(held: &[u8]) -> Option<usize> {
        let alone = held.iter().all(u8::is_ascii_hexdigit);
        if alone || !held.iter().all(|b| is_of_lists(*b)) {
            return None;
        }
        let mut all = held.split(|b| !b.is_ascii_hexdigit()).filter(|digits| !digits.is_empty());
        all.try_fold(0, |count, digits| (digits.len() <= LONGEST_BYTE).then_some(count + 1))
    }

    /// How many bytes at the end of `text` are like a list of which more is to come, made of such bytes: with the
    /// first three of a text.
    pub(super) fn alike(&self, needles: &Needles, of: &[bool; 256], text: &[u8]) -> usize {
        if self.shortest == usize::MAX || !may_go_on(text) {
            return 0;
        }
        let first = text.len().saturating_sub(self.reach());
        let run = text[first..].iter().rposition(|b| !is_of_lists(*b));
        let begin = run.map_or(first, |at| first + at + 1);
        let one = |reading: &(Radix, bool)| self.alike_in(needles, of, text, begin, *reading);
        readings(&text[begin..]).iter().map(one).max().unwrap_or(0)
    }

    fn alike_in(
        &self,
        needles: &Needles,
        of: &[bool; 256],
        text: &[u8],
        from: usize,
        (radix, percent): (Radix, bool),
    ) -> usize {
        let (mut said, mut places) = (Vec::new(), Vec::new());
        // What stands before the first, and may end with a number of the list.
        let mut before: Option<Range<usize>> = None;
        let mut at = from;
        while let Some(Token { digits, goes_on }) = token(text, at, percent, usize::MAX) {
            at = digits.end;
            if !goes_on {
                said.clear();
                places.clear();
                before = None;
            }
            // Nobody knows what the last will be.
            if at == text.len() && digits.len() <= DIGITS {
                break;
            }
            match value(radix, &text[digits.clone()]) {
                Value::Byte(0) => {}
                Value::Byte(byte) if of[usize::from(byte)] => {
                    said.push(byte);
                    places.push(digits);
                }
                Value::Pairs => {
                    for at in (digits.start + digits.len() % 2..digits.end).step_by(2) {
                        said.push(number(&text[at..at + 2], 16).unwrap_or(0));
                        places.push(at..at + 2);
                    }
                }
                Value::Byte(_) | Value::None => {
                    said.clear();
                    places.clear();
                    before = Some(digits);
                }
            }
        }
        let from = said.len().saturating_sub(self.longest);
        let begins = |needle: Needle<'_>| {
            let known = &needle.bytes[..needle.bytes.len().min(KNOWN)];
            (from..=said.len()).find_map(|at| {
                let rest = &said[at..];
                if rest.len() >= needle.bytes.len() {
                    return None;
                }
                if !rest.is_empty() && is_like(rest, known) {
                    return Some(places[at].start);
                }
                // The first may stand behind other digits.
                let digits = at.checked_sub(1).map_or(before.as_ref(), |at| places.get(at))?;
                let written = radix.written(known[0]);
                let glued = radix != Radix::Hex
                    && digits.len() > written.len()
                    && text[digits.clone()].ends_with(&written)
                    && is_like(rest, &known[1..]);
                glued.then(|| digits.end - written.len())
            })
        };
        let first = needles.texts().filter_map(begins).min();
        first.map_or(0, |first| text.len() - first)
    }

    /// The length of the shortest text.
    pub(super) fn shortest(&self) -> usize {
        self.shortest
    }

    /// The list at the end of `text` that may become a text: its bytes, and how many numbers it has.
    fn open(&self, needles: &Needles, text: &[u8]) -> (usize, usize) {
        if !may_go_on(text) {
            return (0, 0);
        }
        let mut back = LAST;
        loop {
            let first = text.len().saturating_sub(self.reach());
            let start = text.len().saturating_sub(back).max(first);
            let run = text[start..].iter().rposition(|b| !is_of_lists(*b));
            let begin = run.map_or_else(|| begin(text, first, start), |at| start + at + 1);
            let (mut open, mut earlier) = ((0, 0), false);
            for reading in readings(&text[begin..]) {
                let (here, whole) = self.open_from(needles, text, begin, *reading);
                open = (open.0.max(here.0), open.1.max(here.1));
                earlier |= whole;
            }
            if !earlier || run.is_some() || start == first {
                return open;
            }
            back *= 4;
        }
    }

    /// The same in one reading and from a place on; and whether it may have begun before that.
    fn open_from(
        &self,
        needles: &Needles,
        text: &[u8],
        from: usize,
        (radix, percent): (Radix, bool),
    ) -> ((usize, usize), bool) {
        let mut said = self.said(text.len() - from);
        let mut rest = from;
        let last = loop {
            let Some(token) = token(text, rest, percent, usize::MAX) else { break None };
            rest = token.digits.end;
            if rest == text.len() {
                if !token.goes_on {
                    said.clear();
                }
                break Some(token.digits);
            }
            self.read((needles, radix), text, token, &mut said, &mut |_| {});
        };
        if !goes_on(&text[rest..]) {
            return ((0, 0), false);
        }
        let open = said.open(needles, radix, text, last.as_ref());
        // The pairs that more digits cannot change.
        if let Some(digits) = last.filter(|digits| digits.len() > DIGITS) {
            let digits = digits.start..digits.end - 1 - (digits.len() - 1) % 2;
            self.read(
                (needles, radix),
                text,
                Token { digits, goes_on: true },
                &mut said,
                &mut |_| {},
            );
        }
        let is_part = |n: Needle<'_>| memchr::memmem::find(n.bytes, &said.bytes).is_some();
        (open, !said.is_cut && needles.texts().any(is_part))
    }
}

/// Where to begin to read a list, not to begin within a number or an escape; not before `first`, and no later
/// than `at` but for whole pairs of digits.
fn begin(text: &[u8], first: usize, at: usize) -> usize {
    let digits = text[first..at].iter().rposition(|b| !b.is_ascii_hexdigit());
    let digits = digits.map_or(first, |before| first + before + 1);
    let escaped = digits > first && text[digits - 1] == b'%';
    match at - digits {
        // The number, with what it is escaped by.
        0..=DIGITS => digits - usize::from(escaped),
        // Pairs, and more of them to come than of any number alone.
        within => digits + within / 2 * 2 - 2 * DIGITS.min(within / 2),
    }
}

impl Anchors {
    fn new(needles: &Needles) -> Self {
        let mut anchors = Vec::new();
        for (number, text) in needles.texts().enumerate() {
            // As many bytes come behind it as are compared, and the last, which more digits may follow.
            let most = text.bytes.len().saturating_sub(IN_A_ROW).max(1);
            for radix in [Radix::Hex, Radix::Decimal, Radix::Octal] {
                let rarest = (0..most).max_by_key(|at| rarity(radix, text.bytes[*at]));
                let at = rarest.unwrap_or(0);
                let lower = radix.written(text.bytes[at]);
                let upper = lower.to_ascii_uppercase();
                let other = Some(&upper[..]).filter(|upper| **upper != *lower);
                for digits in [Some(&*lower), other].into_iter().flatten() {
                    let digits = Finder::new(digits).into_owned();
                    anchors.push(Anchor { radix, digits, text: number, at });
                }
            }
        }
        Self(anchors)
    }

    /// The first place at `from` or behind it around which a text may be listed, and in which radix.
    fn first(&self, needles: &Needles, text: &[u8], mut from: usize) -> Option<(usize, Radix)> {
        let mut stretch = PART / 4;
        loop {
            // Of a list full of texts each is found before much behind it is looked at.
            let until = text.len().min(from.saturating_add(stretch));
            let mut first = None;
            for anchor in &self.0 {
                let end = first.map_or(until, |(place, _)| place);
                let found = anchor.first(needles, &text[..end], text, from);
                first = found.map(|place| (place, anchor.radix)).or(first);
            }
            if first.is_some() || until == text.len() {
                return first;
            }
            // One may begin with the last digits.
            from = until - (LONGEST_BYTE - 1);
            stretch *= 4;
        }
    }
}

impl Anchor {
    /// The first place at `from` or behind it, and in `within`, where the byte stands and those behind it.
    fn first(
        &self,
        needles: &Needles,
        within: &[u8],
        text: &[u8],
        mut from: usize,
    ) -> Option<usize> {
        let known = needles.texts().nth(self.text)?.bytes.get(self.at + 1..)?;
        let behind = &known[..known.len().min(IN_A_ROW - 1)];
        loop {
            let place = from + self.digits.find(within.get(from..)?)?;
            if goes_on_with(self.radix, text, place + self.digits.needle().len(), behind) {
                return Some(place);
            }
            from = place + 1;
        }
    }
}

/// How seldom the byte stands in what is no list of a text: digits that differ, and one that only its radix has.
fn rarity(radix: Radix, byte: u8) -> (bool, usize, usize) {
    let written = radix.written(byte);
    let mut distinct = written.to_vec();
    distinct.sort_unstable();
    distinct.dedup();
    let letters = written.iter().any(u8::is_ascii_alphabetic);
    // One digit is no byte, as hex has it.
    (written.len() > 1, distinct.len() + usize::from(letters), written.len())
}

/// Whether the numbers behind the digits that end at `at` are these, in one of the readings.
fn goes_on_with(radix: Radix, text: &[u8], at: usize, numbers: &[u8]) -> bool {
    // No more pairs than the numbers can take, with their NULs.
    let most = 2 * numbers.len() * (NULS + 1);
    let more = text[at..].iter().take(most).take_while(|b| b.is_ascii_hexdigit()).count();
    if more > 0 && radix != Radix::Hex {
        return false;
    }
    let pairs = at..at + more;
    [false, true].into_iter().any(|percent| {
        let mut expected = Expected { numbers, nuls: 0 };
        if !text[pairs.clone()].chunks_exact(2).all(|pair| expected.takes(number(pair, 16))) {
            return false;
        }
        if !pairs.len().is_multiple_of(2) {
            return expected.numbers.is_empty();
        }
        let mut rest = pairs.end;
        while !expected.numbers.is_empty() {
            let Some(Token { digits, goes_on: true }) = token(text, rest, percent, BETWEEN) else {
                return false;
            };
            rest = digits.end;
            let written = &text[digits];
            let all = match value(radix, written) {
                Value::Byte(byte) => expected.takes(Some(byte)),
                Value::Pairs => written.chunks_exact(2).all(|p| expected.takes(number(p, 16))),
                Value::None => false,
            };
            let half = written.len() > 2 && !written.len().is_multiple_of(2);
            if !all || half && radix == Radix::Hex && !expected.numbers.is_empty() {
                return false;
            }
        }
        true
    })
}

/// Numbers that have to come, with NULs between them.
struct Expected<'n> {
    numbers: &'n [u8],
    nuls: usize,
}

impl Expected<'_> {
    /// Whether the list may go on with this.
    fn takes(&mut self, number: Option<u8>) -> bool {
        match (number, self.numbers.split_first()) {
            // All that was asked for has come.
            (_, None) => true,
            (Some(0), _) if self.nuls < NULS => {
                self.nuls += 1;
                true
            }
            (Some(byte), Some((next, rest))) if byte == *next => {
                *self = Self { numbers: rest, nuls: 0 };
                true
            }
            _ => false,
        }
    }
}

impl Said {
    /// The list is over.
    fn over(&mut self, search: &mut dyn FnMut(&Self)) {
        search(self);
        self.clear();
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.places.clear();
        self.before = None;
        self.nuls = 0;
        self.is_cut = true;
    }

    fn keep_last(&mut self, most: usize) {
        let gone = self.bytes.len().saturating_sub(most);
        self.bytes.drain(..gone);
        self.places.drain(..gone);
        self.before = None;
    }

    /// The number before the one at `at`, if it ends as `byte` is written, with more before that: where it does.
    fn glued(&self, radix: Radix, text: &[u8], at: usize, byte: u8) -> Option<usize> {
        let before = match at.checked_sub(1) {
            Some(before) => self.places.get(before),
            None => self.before.as_ref(),
        };
        let digits = before.filter(|_| radix != Radix::Hex)?.clone();
        let written = radix.written(byte);
        let ends = digits.len() > written.len() && text[digits.clone()].ends_with(&written);
        ends.then(|| digits.end - written.len())
    }

    /// Where a text is said whose first number stands behind other digits, and where that begins.
    fn behind_more(&self, radix: Radix, text: &[u8], needle: &[u8]) -> Option<(usize, usize)> {
        let (first, rest) = needle.split_first()?;
        let mut places = memchr::memmem::find_iter(&self.bytes, rest);
        places.find_map(|at| Some((at, self.glued(radix, text, at, *first)?)))
    }

    /// Searches what was said with each number that a text may end with, where that stands before other digits.
    fn ended_by(
        &mut self,
        needles: &Needles,
        radix: Radix,
        text: &[u8],
        digits: &Range<usize>,
        search: &mut dyn FnMut(&Self),
    ) {
        let zeros = text[digits.clone()].iter().take_while(|b| **b == b'0').count();
        let significant = digits.start + zeros..digits.end;
        for needle in needles.texts() {
            let Some((last, most)) = needle.bytes.split_last() else { continue };
            let written = radix.written(*last);
            let ends = significant.len() > written.len()
                && text[significant.clone()].starts_with(&written)
                && self.bytes.ends_with(&most[1.min(most.len())..]);
            if ends {
                self.bytes.push(*last);
                self.places.push(digits.start..significant.start + written.len());
                search(self);
                self.bytes.pop();
                self.places.pop();
            }
        }
    }

    /// The bytes from the first number on with which a text may begin, and how many numbers they are. Of `last`
    /// more digits may come.
    fn open(
        &self,
        needles: &Needles,
        radix: Radix,
        text: &[u8],
        last: Option<&Range<usize>>,
    ) -> (usize, usize) {
        let goes_on = |rest: &[u8], needle: &[u8]| {
            let more = needle.strip_prefix(rest).filter(|more| !more.is_empty());
            more.is_some_and(|more| {
                last.is_none_or(|last| may_become(radix, &text[last.clone()], more))
            })
        };
        let in_last = last.map_or(0, |last| match radix {
            Radix::Hex => last.len().div_ceil(2),
            Radix::Decimal | Radix::Octal => 1,
        });
        for first in 0..=self.bytes.len() {
            let rest = &self.bytes[first..];
            let mut glued = needles.texts().filter_map(|needle| {
                let (byte, more) = needle.bytes.split_first()?;
                self.glued(radix, text, first, *byte).filter(|_| goes_on(rest, more))
            });
            if let Some(start) = glued.next() {
                return (text.len() - start, rest.len() + 1 + in_last);
            }
            let start = self.places.get(first).map(|place| place.start);
            let Some(start) = start.or(last.map(|last| last.start)) else { break };
            if needles.texts().any(|needle| goes_on(rest, needle.bytes)) {
                return (text.len() - start, rest.len() + in_last);
            }
        }
        // The first number may begin within the last, but not with its zeros.
        let digits = last.map_or(0..0, |last| last.start + 1..last.end);
        let mut begins = digits.filter(|at| {
            let rest = &text[*at..];
            needles.texts().any(|needle| {
                rest[0].eq_ignore_ascii_case(&radix.written(needle.bytes[0])[0])
                    && may_become(radix, rest, needle.bytes)
            })
        });
        begins.next().map_or((0, 0), |at| (text.len() - at, in_last))
    }
}

/// Whether the digits, and more behind them, may say what a text goes on with.
fn may_become(radix: Radix, digits: &[u8], more: &[u8]) -> bool {
    let significant = digits.iter().position(|b| *b != b'0').map_or(&[][..], |at| &digits[at..]);
    let written = |value: u8| radix.written(value);
    if radix != Radix::Hex {
        return digits.len() <= DIGITS && written(more[0]).starts_with(significant);
    }
    let own = |digits: &[u8], byte: u8| {
        let written = written(byte);
        written.get(..digits.len()).is_some_and(|own| own.eq_ignore_ascii_case(digits))
    };
    // Pairs, the last of which may be half of one, with NULs between them; or one number with zeros before it.
    let mut pairs = digits.chunks(2).filter(|pair| pair.iter().any(|b| *b != b'0'));
    let alone = digits.len() <= DIGITS && digits.starts_with(b"0") && own(significant, more[0]);
    alone
        || (pairs.clone().count() <= more.len()
            && pairs.by_ref().zip(more).all(|(pair, byte)| own(pair, *byte)))
}

impl Base32 {
    fn new(needles: &Needles) -> Self {
        let mut forms = Vec::new();
        for (number, text) in needles.texts().enumerate() {
            for before in 0..5 {
                let mut padded = Zeroizing::new(Vec::with_capacity(before + text.bytes.len()));
                padded.resize(before, 0);
                padded.extend_from_slice(text.bytes);
                // What depends on the text alone.
                let core = (before * 8).div_ceil(5)..padded.len() * 8 / 5;
                let mut whole = Zeroizing::new(vec![0; BASE32_NOPAD.encode_len(padded.len())]);
                BASE32_NOPAD.encode_mut(&padded, &mut whole);
                let upper = Zeroizing::new(whole.get(core).unwrap_or_default().to_vec());
                if upper.len() < 3 {
                    continue;
                }
                let lower = Zeroizing::new(upper.to_ascii_lowercase());
                forms.extend([(upper, number), (lower, number)]);
            }
        }
        let lengths = || forms.iter().map(|(form, _)| form.len());
        let longest = lengths().max().unwrap_or(0);
        let bytes = || forms.iter().map(|(form, _)| &form[..]);
        let table = lengths().min().map(|shortest| Table::new(bytes(), shortest, THOROUGH));
        let mut first = [false; 256];
        bytes().filter_map(<[u8]>::first).for_each(|b| first[usize::from(*b)] = true);
        Self { forms, longest, table, first }
    }

    fn find<'n>(&self, needles: &'n Needles, text: &[u8], from: usize) -> Option<Spelled<'n>> {
        let longest_at = |at: usize| {
            let here = self.forms.iter().filter(|(form, _)| text[at..].starts_with(form));
            here.max_by_key(|(form, _)| form.len())
        };
        let (start, (form, number)) = self.table.as_ref()?.find(text, from, &longest_at)?;
        let needle = needles.texts().nth(*number)?;
        Some(Spelled { place: start..start + form.len(), needle })
    }

    fn tail(&self, text: &[u8], table: &[bool; 256]) -> usize {
        let start = text.len().saturating_sub(self.longest.saturating_sub(1));
        let run = text[start..].iter().rposition(|b| !table[usize::from(*b)]);
        let start = run.map_or(start, |at| start + at + 1);
        let begins = |at: &usize| {
            self.first[usize::from(text[*at])]
                && self.forms.iter().any(|(form, _)| {
                    text.len() - at < form.len()
                        && is_like(&text[*at..], form.get(..KNOWN).unwrap_or_default())
                })
        };
        (start..text.len()).find(begins).map_or(0, |at| text.len() - at)
    }
}

/// How long the shortest text in base32 is, of a text of this length.
fn shortest_base32(length: usize) -> usize {
    // The first and the last character may mix with the neighbours'.
    (length.saturating_mul(8) / 5).saturating_sub(2).max(3)
}

/// The one that begins first; of two, the longer.
fn earlier<'n>(one: Spelled<'n>, other: Spelled<'n>) -> Spelled<'n> {
    let key = |found: &Spelled<'_>| (found.place.start, std::cmp::Reverse(found.place.end));
    if key(&other) < key(&one) { other } else { one }
}

/// The runs of a text that are of some characters alone, and not short.
struct Runs<'t> {
    text: &'t [u8],
    at: usize,
    table: &'t [bool; 256],
    shortest: usize,
}

impl Runs<'_> {
    fn next(&mut self) -> Option<Range<usize>> {
        let is_of = |b: &u8| self.table[usize::from(*b)];
        loop {
            let window = self.text.get(self.at..)?.get(..self.shortest)?;
            // The last byte that is not ends every window over it.
            if let Some(last) = window.iter().rposition(|b| !is_of(b)) {
                self.at += last + 1;
                continue;
            }
            let start = self.at;
            let more = &self.text[start + self.shortest..];
            // Eight at once, because such runs may be long.
            let whole = more.chunks_exact(8).take_while(|eight| eight.iter().all(is_of)).count();
            let rest = &more[8 * whole..];
            let length = rest.iter().position(|b| !is_of(b)).unwrap_or(rest.len());
            self.at = start + self.shortest + 8 * whole + length;
            return Some(start..self.at);
        }
    }
}

/// The next run of digits at or behind `at`, but for those of a percent escape, where that is asked for. It begins
/// no further behind than `most`.
fn token(text: &[u8], at: usize, percent: bool, most: usize) -> Option<Token> {
    let rest = &text[at..];
    let mut first = 0;
    loop {
        let left = most.checked_sub(first)?.saturating_add(1);
        first += rest[first..].iter().take(left).position(u8::is_ascii_hexdigit)?;
        match &rest[first..] {
            // `0x`, which is no number.
            [b'0', b'x' | b'X'] => return None,
            [b'0', b'x' | b'X', next, ..] if next.is_ascii_hexdigit() => first += 2,
            [_] if percent && rest[..first].ends_with(b"%") => return None,
            [_, next, ..]
                if percent && rest[..first].ends_with(b"%") && next.is_ascii_hexdigit() =>
            {
                first += 2;
                continue;
            }
            _ => {}
        }
        break;
    }
    let length = rest[first..].iter().position(|b| !b.is_ascii_hexdigit());
    let end = length.map_or(rest.len(), |length| first + length);
    Some(Token { digits: at + first..at + end, goes_on: goes_on(&rest[..first]) })
}

/// Whether there may be a list at the end of a text. Most end with one no more than with the end of an event.
fn may_go_on(text: &[u8]) -> bool {
    let mut between = text.iter().rev().take(BETWEEN + 1).take_while(|b| is_of_lists(**b));
    let ends = between.position(u8::is_ascii_hexdigit);
    ends.is_some_and(|ends| goes_on(&text[text.len() - ends..]))
}

/// Whether as much as there is of both is the same.
fn is_like(rest: &[u8], known: &[u8]) -> bool {
    let both = rest.len().min(known.len());
    rest[..both] == known[..both]
}

/// Whether a list goes on behind this. An empty line is the end of it, and of an event.
fn goes_on(between: &[u8]) -> bool {
    let has = |empty: &[u8]| memchr::memmem::find(between, empty).is_some();
    between.len() <= BETWEEN && !has(b"\n\n") && !has(b"\n\r\n")
}

fn value(radix: Radix, digits: &[u8]) -> Value {
    let significant = digits.iter().position(|b| *b != b'0').map_or(&[][..], |at| &digits[at..]);
    let alone = digits.len() <= DIGITS;
    let byte = |radix| number(significant, radix).map_or(Value::None, Value::Byte);
    match radix {
        // One digit is a NUL, or no character of a text.
        Radix::Hex
            if alone && significant.len() <= 2 && (digits.len() > 1 || significant.is_empty()) =>
        {
            byte(16)
        }
        Radix::Hex if digits.len() > 2 => Value::Pairs,
        Radix::Decimal if alone => byte(10),
        Radix::Octal if alone => byte(8),
        _ => Value::None,
    }
}

/// Of no digits, 0.
fn number(digits: &[u8], radix: u32) -> Option<u8> {
    let digit = |value: u32, b: &u8| {
        let next = value.checked_mul(radix)?.checked_add(char::from(*b).to_digit(radix)?)?;
        (next < 256).then_some(next)
    };
    digits.iter().try_fold(0, digit).and_then(|value| u8::try_from(value).ok())
}

#[cfg(test)]
mod tests {
    use super::super::{Fit, Needles, Scrubber};
    use crate::secret::Secret;
    use bytes::Bytes;
    use data_encoding::BASE32_NOPAD;
    use proptest::prelude::*;

    /// Keys of letters, of hex digits, and of digits alone.
    const KEYS: [&str; 4] = [
        "sk-Canary_0123456789.abcdef",
        "9f86d081884c7d659a2feaa0",
        "31415926535897932384",
        "p@ss w0rd",
    ];

    fn through(key: &str, chunks: &[&[u8]], fit: Fit) -> (Vec<u8>, u64) {
        let mut needles = Needles::default();
        needles.add(&Secret::new(key.as_bytes().to_vec()), "locum_x");
        let mut scrubber = Scrubber::for_needles(needles, fit);
        let mut seen = Vec::new();
        for chunk in chunks {
            scrubber.push(Bytes::copy_from_slice(chunk), &mut |data| seen.extend_from_slice(&data));
        }
        scrubber.finish(&mut |data| seen.extend_from_slice(&data));
        (seen, scrubber.replaced())
    }

    fn base32(text: &str) -> String {
        BASE32_NOPAD.encode(text.as_bytes())
    }

    fn listed(key: &str) -> Vec<(&'static str, String)> {
        let list = |write: fn(u8) -> String, between: &str| -> String {
            key.bytes().map(write).collect::<Vec<_>>().join(between)
        };
        let pairs = |size: usize, between: &str| -> String {
            let groups: Vec<String> =
                key.as_bytes().chunks(size).map(|g| data_encoding::HEXLOWER.encode(g)).collect();
            groups.join(between)
        };
        let escaped = |write: fn(u8) -> String| list(write, "");
        let shifted = |before: &str| base32(&format!("{before}{key}, and more"));
        vec![
            ("hex, blanks", list(|b| format!("{b:02x}"), " ")),
            ("hex, blanks, upper", list(|b| format!("{b:02X}"), " ")),
            ("hex, colons", list(|b| format!("{b:02x}"), ":")),
            ("hex, hyphens", list(|b| format!("{b:02X}"), "-")),
            ("hex, commas", list(|b| format!("{b:02x}"), ",")),
            ("hex, tabs", list(|b| format!("{b:02x}"), "\t")),
            ("0x", list(|b| format!("0x{b:02x}"), ",")),
            ("0x, blanks", list(|b| format!("0x{b:02x}"), ", ")),
            ("0X", list(|b| format!("0X{b:02X}"), " ")),
            ("0x, lines", list(|b| format!("0x{b:02x}"), ",\n")),
            ("strings of hex", list(|b| format!("\"{b:02x}\""), ",")),
            ("code points", list(|b| format!("U+{b:04X}"), " ")),
            ("C", escaped(|b| format!("\\x{b:02x}"))),
            ("CSS", escaped(|b| format!("\\{b:x} "))),
            ("CSS, six digits", escaped(|b| format!("\\{b:06x}"))),
            ("octal", escaped(|b| format!("\\{b:o}"))),
            ("octal, three digits", escaped(|b| format!("\\{b:03o}"))),
            ("octal, blanks", list(|b| format!("{b:03o}"), " ")),
            ("braces", escaped(|b| format!("\\u{{{b:x}}}"))),
            ("HTML without an end", escaped(|b| format!("&#{b}"))),
            ("HTML, hex, without an end", escaped(|b| format!("&#x{b:x}"))),
            ("HTML, zeros", escaped(|b| format!("&#{b:08};"))),
            ("quoted-printable, all", escaped(|b| format!("={b:02X}"))),
            ("numbers", list(|b| format!("{b}"), ",")),
            ("numbers, blanks", list(|b| format!("{b}"), ", ")),
            ("numbers and blanks alone", list(|b| format!("{b}"), " ")),
            ("numbers, one a line", list(|b| format!("{b}"), ",\n        ")),
            ("numbers, one a line, CRLF", list(|b| format!("{b}"), ",\r\n\t")),
            ("numbers in a URL", list(|b| format!("{b}"), "%2C%20")),
            ("hex in a URL", list(|b| format!("{b:02x}"), "%2c")),
            ("numbers of UTF-16", list(|b| format!("{b},0"), ",")),
            ("hex of UTF-16", list(|b| format!("{b:02x}00"), " ")),
            ("words", pairs(2, " ")),
            ("words of four", pairs(4, " ")),
            ("hex in lines", pairs(5, "\n")),
            ("base32", base32(key)),
            ("base32, lower", base32(key).to_lowercase()),
            ("base32, second", shifted("u")),
            ("base32, third", shifted("us")),
            ("base32, fourth, lower", shifted("use").to_lowercase()),
            ("base32, fifth", shifted("user")),
            ("base32, first again", shifted("user:")),
        ]
    }

    #[test]
    fn a_secret_is_known_in_any_list() {
        for key in KEYS {
            for (name, text) in listed(key) {
                for (before, after) in [
                    ("it is [", "]."),
                    ("", ""),
                    ("200, ", "\n\n"),
                    ("a%20", "&b=1"),
                    ("{\"k\": \"", "\"}"),
                ] {
                    let whole = format!("{before}{text}{after}");
                    let (seen, replaced) = through(key, &[whole.as_bytes()], Fit::Exact);
                    let seen = String::from_utf8_lossy(&seen).into_owned();
                    assert_eq!(replaced, 1, "{name}: {whole:?} became {seen:?}");
                    assert!(
                        seen.contains("locum_x") && seen.len() < whole.len(),
                        "{name}: {seen:?}"
                    );
                    let (kept, _) = through(key, &[whole.as_bytes()], Fit::InPlace);
                    assert_eq!(kept.len(), whole.len(), "{name}");
                    let bytes: Vec<&[u8]> = whole.as_bytes().chunks(1).collect();
                    let (pieces, found) = through(key, &bytes, Fit::Exact);
                    assert_eq!(found, 1, "{name}: {whole:?}");
                    // Of lines the first numbers may have been shown.
                    if !text.contains('\n') {
                        assert_eq!(String::from_utf8_lossy(&pieces), seen, "{name}");
                    }
                }
            }
        }
    }

    /// A stream that pauses behind each byte of a list shows three of its numbers at the most.
    #[test]
    fn a_list_that_pauses_shows_what_tells_nothing() {
        let key = KEYS[0];
        for (name, text) in listed(key) {
            if text.contains('\n') {
                // Of lines more may be shown.
                continue;
            }
            let mut needles = Needles::default();
            needles.add(&Secret::new(key.as_bytes().to_vec()), "locum_x");
            let mut scrubber = Scrubber::for_needles(needles, Fit::Exact);
            let mut shown = 0;
            for byte in text.bytes() {
                scrubber.push(Bytes::copy_from_slice(&[byte]), &mut |_| {});
                scrubber.pause(&mut |data| shown += data.len());
            }
            assert!(shown <= 4 * text.len().div_ceil(key.len()), "{name}: {}", &text[..shown]);
            scrubber.finish(&mut |_| {});
            assert_eq!(scrubber.replaced(), 1, "{name}");
        }
    }

    /// A list that comes line by line is shown as long as it says nothing yet.
    #[test]
    fn lines_of_a_list_are_shown_until_they_say_something() {
        let key = KEYS[0];
        let mut needles = Needles::default();
        needles.add(&Secret::new(key.as_bytes().to_vec()), "locum_x");
        let mut scrubber = Scrubber::for_needles(needles, Fit::Exact);
        let mut shown = String::new();
        let mut lines = 0;
        for byte in key.bytes() {
            let before = shown.len();
            scrubber.push(format!("  {byte},\n").into(), &mut |data| {
                shown.push_str(std::str::from_utf8(&data).unwrap());
            });
            lines += usize::from(shown.len() > before);
        }
        assert!((7..=8).contains(&lines), "{shown:?}");
        assert!(shown.ends_with("locum_x,\n"), "{shown:?}");
        for event in [
            "data: 115\n\n",
            "data: {\"n\": 115}\r\n\r\n",
            "115\n\n",
            "{\"a\": [115]}\n",
            "[115,\n",
        ] {
            shown.clear();
            scrubber.push(event.into(), &mut |data| {
                shown.push_str(std::str::from_utf8(&data).unwrap());
            });
            assert_eq!(shown, event);
        }
    }

    #[test]
    fn what_only_looks_like_a_list_passes() {
        let key = KEYS[0];
        let almost: Vec<String> = key.bytes().map(|b| b.to_string()).collect();
        let (most, last) = almost.split_at(almost.len() - 1);
        for text in [
            format!("{},{}", most.join(","), last[0].parse::<u8>().unwrap() + 1),
            format!("{}\n\n{}", most.join(","), last[0]),
            format!("{}{}{}", most.join(","), " ".repeat(40), last[0]),
            format!("{},z,{}", most.join(","), last[0]),
            "[15339, 1917, 0, 255, 256, -1]".to_owned(),
            "0x 0x0 0xg 00 000000000 \\x \\u{} &#; &#x; %% == 0".to_owned(),
            base32(key).replacen('2', "3", 1),
            "2026-11-22T19:15:00Z 73:6b:2d 1e5, 12.5".to_owned(),
        ] {
            let (seen, replaced) = through(key, &[text.as_bytes()], Fit::Exact);
            assert_eq!((String::from_utf8_lossy(&seen).into_owned(), replaced), (text.clone(), 0));
            let bytes: Vec<&[u8]> = text.as_bytes().chunks(1).collect();
            assert_eq!(through(key, &bytes, Fit::Exact).0, text.as_bytes(), "{text}");
        }
    }

    /// Of long runs of what lists are written with nearly all is passed over, and no list of a text.
    #[test]
    fn what_is_no_list_of_a_text_is_not_read() {
        let dump: String =
            (0..4000_u32).map(|n| format!("{:02x} ", n.wrapping_mul(0x9E37_79B1) >> 24)).collect();
        for key in KEYS {
            let mut needles = Needles::default();
            needles.add(&Secret::new(key.as_bytes().to_vec()), "locum_x");
            let anchors = super::Anchors::new(&needles);
            let first = |text: &str| anchors.first(&needles, text.as_bytes(), 0);
            let runs = ["x", "0", "a", " ", "\n", "12, ", "\\u0430", "%E4%B8"];
            for text in runs.map(|unit| unit.repeat(5000)).iter().chain([&dump]) {
                assert_eq!(first(text), None, "{key} in {:?}", &text[..20]);
            }
            for (name, text) in listed(key).into_iter().filter(|(n, _)| !n.starts_with("base32")) {
                assert!(first(&format!("12, {text}, 0")).is_some(), "{key}: {name}");
            }
        }
    }

    #[test]
    fn digits_beside_a_list_do_not_hide_it() {
        let key = KEYS[0];
        for (name, text) in listed(key).into_iter().filter(|(n, _)| !n.starts_with("base32")) {
            for (before, after) in [("7", ""), ("", "7"), ("41", "15"), ("a", "b"), ("200", "300")]
            {
                let whole = format!("[{before}{text}{after}]");
                let (seen, replaced) = through(key, &[whole.as_bytes()], Fit::Exact);
                assert_eq!(replaced, 1, "{name}: {whole}");
                assert!(seen.len() < 60, "{name}: {}", seen.escape_ascii());
                for cut in 1..whole.len() {
                    let (one, other) = whole.as_bytes().split_at(cut);
                    assert_eq!(
                        through(key, &[one, other], Fit::Exact).1,
                        1,
                        "{name}: {cut} {whole}"
                    );
                }
            }
        }
    }

    /// Lists that are all of the secret's bytes and never the secret, and what could be taken for the start of
    /// one at each byte.
    #[test]
    fn hostile_lists_cost_little_more_than_others() {
        let key = KEYS[0];
        let almost: Vec<String> = key.bytes().take(20).map(|b| b.to_string()).collect();
        let almost = (almost.join(",") + ",").repeat(2000);
        let hex = data_encoding::HEXLOWER.encode(&key.as_bytes()[..20]).repeat(3000) + " ";
        let digits = "115".repeat(50_000);
        let words = "onsxg5dfon2a".repeat(12_000);
        // One escape behind the other, of which no reading but one has numbers.
        let escaped: String = key.bytes().rev().map(|b| format!("%{b:02x}")).collect();
        let texts = [almost, hex, digits, words, escaped.repeat(2000), " ".repeat(150_000)];
        for text in texts.into_iter().chain(["0x".repeat(75_000)]) {
            let start = std::time::Instant::now();
            for size in [text.len(), 16 * 1024, 100] {
                let chunks: Vec<&[u8]> = text.as_bytes().chunks(size).collect();
                assert_eq!(through(key, &chunks, Fit::Exact), (text.clone().into_bytes(), 0));
            }
            // Unoptimised, and beside other tests: quadratic work would take minutes.
            assert!(start.elapsed().as_secs() < 60, "{:?}", start.elapsed());
        }
    }

    #[test]
    fn a_list_longer_than_is_kept_is_searched_over_its_borders() {
        let key = KEYS[0];
        let list: Vec<String> = key.bytes().map(|b| b.to_string()).collect();
        for before in super::KEPT - 30..super::KEPT + 3 {
            let text = "115,".repeat(before) + &list.join(",") + ",115";
            let (seen, replaced) = through(key, &[text.as_bytes()], Fit::Exact);
            assert_eq!(replaced, 1, "behind {before}");
            assert_eq!(seen, format!("{}locum_x,115", "115,".repeat(before)).as_bytes());
        }
    }

    fn fragment() -> impl Strategy<Value = String> {
        prop_oneof![
            prop::sample::select(listed(KEYS[0])).prop_map(|(_, text)| text),
            prop::sample::select(listed(KEYS[0]))
                .prop_map(|(_, text)| text[..text.len() / 2].to_owned()),
            prop::sample::select(listed(KEYS[0]))
                .prop_map(|(_, text)| text[text.len() / 3..].to_owned()),
            "[ -~]{0,12}",
            "[0-9a-fx,: \\\\]{0,12}",
            Just("\n\n".to_owned()),
        ]
    }

    proptest! {
        #[test]
        fn any_chunking_of_what_is_listed_equals_the_whole(
            parts in prop::collection::vec(fragment(), 0..6),
            cuts in prop::collection::vec(0_usize..1500, 0..10),
            in_place in any::<bool>(),
        ) {
            let fit = if in_place { Fit::InPlace } else { Fit::Exact };
            let text = parts.concat();
            let bytes = text.as_bytes();
            // Behind a line break the start of a list may have been shown, if it is short.
            let breaks = |cut: &usize| *cut > 0 && matches!(bytes[cut - 1], b'\r' | b'\n' | b'n');
            let mut cuts: Vec<usize> =
                cuts.into_iter().map(|c| c.min(bytes.len())).filter(|c| !breaks(c)).collect();
            cuts.sort_unstable();
            let (mut chunks, mut last) = (Vec::new(), 0);
            for cut in cuts.into_iter().chain([bytes.len()]) {
                chunks.push(&bytes[last..cut]);
                last = cut;
            }
            let (whole, cut) = (through(KEYS[0], &[bytes], fit), through(KEYS[0], &chunks, fit));
            prop_assert_eq!(String::from_utf8_lossy(&cut.0), String::from_utf8_lossy(&whole.0));
        }
    }
}
