//! Searching a stream for any of the needles, with no more held back than could still be one.

use std::cell::{Cell, OnceCell};
use std::ops::Range;

use bytes::Bytes;
use http::header::HeaderMap;

use super::alike::Alike;
use super::listed::{Listing, is_of_lists, shortest_list};
use super::needles::{Needle, Needles, Outline, is_of_forms};
use super::spelled::{Spelled, Spelling, Written, is_escape};
use super::table::{BRIEF, Effort, THOROUGH, Table};
use crate::secret::wipe;

/// How a replacement fits where the match stood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fit {
    /// The placeholder, whatever its length.
    Exact,
    /// The placeholder cut, or filled up with `*`, to the length of the match, so that a
    /// `Content-Length` that was already sent stays true.
    InPlace,
}

/// How many characters of a secret may be shown of what could become it, when a stream pauses there. A reader may
/// wait for just these, as behind a prompt, and they tell nothing: keys of one provider have more than that in common,
/// and what ends like more is hardly there by chance.
const TELLING: usize = 3;

/// What may stand before a line break at the end of what came, and be shown for it: fewer characters than any secret
/// has. Who follows lines as they come would else see some without their ends. Should the next line go on with a
/// needle, that is found and replaced; what was shown of it is then all that shows.
const SHORT: usize = 8;

/// So much of a chunk is joined to what is held first. The tests' chunks are short.
const SEAM: usize = if cfg!(test) { 4 } else { 256 };

/// A set of needles to search for.
pub(super) struct Search {
    /// Before they are made, and what is known of them.
    late: Cell<Option<Needles>>,
    outline: Outline,
    made: OnceCell<Made>,
    /// For short texts.
    brief: OnceCell<Table>,
}

/// The needles in all their forms.
struct Made {
    needles: Needles,
    /// The lengths of the shortest and the longest needle.
    shortest: usize,
    longest: usize,
    /// Larger than all else here, and an answer is moved often before it is read.
    spelling: Box<Spelling>,
    listing: Box<Listing>,
    alike: Box<Alike>,
}

/// Where a needle stands in a text, and which.
struct Match<'n> {
    at: usize,
    end: usize,
    needle: Needle<'n>,
}

impl Made {
    fn new(mut needles: Needles, plain: bool) -> Self {
        needles.complete();
        let lengths = || needles.iter().map(|n| n.bytes.len());
        let shortest = lengths().min().unwrap_or(1);
        let longest = lengths().max().unwrap_or(1);
        let spelling = Box::new(Spelling::new(&needles));
        let listing = Box::new(Listing::new(&needles));
        let alike = Box::new(Alike::new(&needles, plain));
        Self { needles, shortest, longest, spelling, listing, alike }
    }

    fn table(&self, effort: Effort) -> Table {
        Table::new(self.needles.iter().map(|needle| needle.bytes), self.shortest, effort)
    }

    /// The first match at or after `from`, as it is, spelled out or listed.
    fn find_any(
        &self,
        (table, written): (&Table, Written<'_>),
        text: &[u8],
        from: usize,
    ) -> Option<Match<'_>> {
        let found = self.find(table, text, from);
        let until = found.as_ref().map_or(text.len(), |(at, _)| *at);
        let look = |said: &[u8], from| self.find(table, said, from);
        // One that begins before the other, or with it, may have its first escape within it or behind it.
        let reach =
            found.as_ref().map_or(until, |(at, needle)| self.reach(text, *at, needle.bytes));
        let spelled = self.spelling.find(&self.needles, (&look, written), text, from..reach);
        // A piece with an escape in it can go on past the other, and hold a needle only there.
        let spelled = spelled.filter(|spelled| spelled.place.start <= until);
        let first = match (spelled, found) {
            // The one that is spelled out begins before the other, or has it in it.
            (Some(spelled), _) => Some(spelled),
            (None, Some((at, needle))) => {
                Some(Spelled { place: at..at + needle.bytes.len(), needle })
            }
            (None, None) => None,
        };
        let until = first.as_ref().map_or(text.len(), |first| first.place.start);
        let listed = self.listing.find(&self.needles, text, from, until);
        let sooner = listed.filter(|listed| {
            first.as_ref().is_none_or(|first| {
                (listed.place.start, first.place.end) < (first.place.start, listed.place.end)
            })
        });
        let Spelled { place: Range { start, end }, needle } = sooner.or(first)?;
        Some(Match { at: start, end, needle })
    }

    /// The first match at or after `from`: where it starts, and which needle. The longest needle
    /// wins where several start at one place.
    fn find(&self, table: &Table, text: &[u8], from: usize) -> Option<(usize, Needle<'_>)> {
        table.find(text, from, &|at| self.longest_at(&text[at..]))
    }

    /// How far behind a needle that stands at `at` another may have its first escape that begins no later.
    fn reach(&self, text: &[u8], at: usize, needle: &[u8]) -> usize {
        let end = at + needle.len();
        let goes_on = needle.last().is_some_and(|b| self.spelling.may_go_on(*b, &text[end..]));
        match needle {
            _ if goes_on => text.len().min(at + self.longest),
            needle if needle.iter().any(|b| is_escape(*b)) => end,
            _ => at,
        }
    }

    /// Whether `held` is the end of a line, with so little before it that it can be shown. As all that shows, this
    /// hangs on what came, and not on what the secrets are.
    fn is_end_of_line(held: &[u8]) -> bool {
        let line = held.strip_suffix(b"\\n").or_else(|| {
            let line = held.strip_suffix(b"\n").unwrap_or(held);
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            (line.len() < held.len()).then_some(line)
        });
        line.is_some_and(|line| match Listing::numbers(line) {
            Some(numbers) => numbers < SHORT,
            None => line.len() < SHORT && !line.iter().any(|b| is_escape(*b)),
        })
    }

    /// Whether `held` has so few characters, however they are written, that it can be shown while nothing more
    /// comes: no more than three, and an eighth of the shortest secret.
    fn tells_little(&self, held: &[u8]) -> bool {
        let most = TELLING.min(self.listing.shortest() / 8);
        let numbers = Listing::numbers(held).is_some_and(|all| all <= most);
        most > 0 && (numbers || Alike::characters(held) <= most)
    }

    fn longest_at(&self, text: &[u8]) -> Option<Needle<'_>> {
        let matching = self.needles.iter().filter(|n| text.starts_with(n.bytes));
        matching.max_by_key(|n| n.bytes.len())
    }
}

impl Search {
    pub(super) fn new(needles: Needles) -> Self {
        let outline = needles.outline();
        let late = Cell::new(Some(needles));
        Self { late, outline, made: OnceCell::new(), brief: OnceCell::new() }
    }

    fn made(&self) -> &Made {
        self.made
            .get_or_init(|| Made::new(self.late.take().unwrap_or_default(), self.outline.plain))
    }

    /// Whether a needle could stand in `text`, by what is known without making one: each would lie in
    /// a run of its bytes as long as the shortest. Nearly all texts have blanks or quotes in between.
    fn may_stand_in(&self, text: &[u8]) -> bool {
        let Outline { shortest, plain } = self.outline;
        if !plain {
            return text.len() >= shortest;
        }
        has_run(text, shortest, is_of_forms)
            || has_run(text, shortest_list(shortest), is_of_lists)
            || has_run_of_lines(text, shortest)
    }

    /// Whether a field's name has a needle in it. Names come in lower case, whatever the origin wrote.
    pub(super) fn in_name(&self, name: &str) -> bool {
        let found = |needle: Needle<'_>| {
            let mut windows = name.as_bytes().windows(needle.bytes.len());
            windows.any(|window| window.eq_ignore_ascii_case(needle.bytes))
        };
        // Names are short, and nearly none is as long as a secret.
        name.len() >= self.outline.shortest && self.made().needles.iter().any(found)
    }

    /// Writes `text` with every match replaced to `out`; leaves `out` alone when there is none.
    pub(super) fn replace_all(&self, text: &[u8], fit: Fit, out: &mut Vec<u8>) -> u64 {
        if !self.may_stand_in(text) {
            return 0;
        }
        let made = self.made();
        let table = self.brief.get_or_init(|| made.table(BRIEF));
        let by = (table, made.spelling.written(text));
        let mut found = 0;
        let mut done = 0;
        while let Some(Match { at, end, needle }) = made.find_any(by, text, done) {
            out.extend_from_slice(&text[done..at]);
            out.extend_from_slice(&replacement(needle, end - at, fit));
            done = end;
            found += 1;
        }
        if found > 0 {
            out.extend_from_slice(&text[done..]);
        }
        found
    }
}

/// Whether a digit of a number stands there.
fn is_number(text: &[u8], at: usize) -> bool {
    text.get(at).is_some_and(u8::is_ascii_hexdigit)
}

/// Whether `length` bytes in a row are of a kind.
fn has_run(text: &[u8], length: usize, is_of_kind: impl Fn(u8) -> bool) -> bool {
    let mut rest = text;
    while let Some(window) = rest.get(..length) {
        // The last byte that is not ends every window over it.
        let Some(at) = window.iter().rposition(|b| !is_of_kind(*b)) else { return true };
        rest = &rest[at + 1..];
    }
    false
}

/// Whether `length` bytes of forms stand in a row, but for what lines are set in with.
fn has_run_of_lines(text: &[u8], length: usize) -> bool {
    let (mut run, mut at_start) = (0, false);
    text.iter().any(|byte| {
        if !(at_start && matches!(byte, b' ' | b'\t')) {
            run = if is_of_forms(*byte) { run + 1 } else { 0 };
            at_start = *byte == b'\n';
        }
        run >= length
    })
}

fn replacement(needle: Needle<'_>, length: usize, fit: Fit) -> Vec<u8> {
    let mut text = needle.replacement.to_vec();
    if fit == Fit::InPlace {
        text.resize(length, b'*');
    }
    text
}

/// Searches a stream chunk by chunk. Holds back only a tail that could still become a match.
pub struct Scrubber {
    search: Box<Search>,
    table: Table,
    /// Which bytes start a needle: a tail without any of them holds nothing back.
    first: [bool; 256],
    fit: Fit,
    held: Vec<u8>,
    /// How much of what is held was handed on already, and must not be again.
    shown: usize,
    replaced: u64,
}

impl Scrubber {
    /// A scrubber for one stream.
    pub(super) fn new(search: Box<Search>, fit: Fit) -> Self {
        let mut first = [false; 256];
        for needle in search.made().needles.iter() {
            first[usize::from(needle.bytes[0])] = true;
        }
        let table = search.made().table(THOROUGH);
        Self { search, table, first, fit, held: Vec::new(), shown: 0, replaced: 0 }
    }

    /// A scrubber for `needles`, outside a response.
    #[must_use]
    pub fn for_needles(needles: Needles, fit: Fit) -> Self {
        Self::new(Box::new(Search::new(needles)), fit)
    }

    /// Takes a chunk, and hands on what is certain. A chunk without a match is handed on as it is.
    pub fn push(&mut self, mut chunk: Bytes, out: &mut impl FnMut(Bytes)) {
        // What is held is mostly a byte or two, and settled by the next few: no reason to copy all of a chunk.
        let mut seam = SEAM;
        while !self.held.is_empty() && chunk.len() / 2 > seam {
            self.take(chunk.split_to(seam), out);
            seam *= 4;
        }
        self.take(chunk, out);
        if !self.held.is_empty() && Made::is_end_of_line(&self.held) {
            self.show_held(out);
        }
    }

    /// Takes what comes behind what is held.
    fn take(&mut self, piece: Bytes, out: &mut impl FnMut(Bytes)) {
        let text = if self.held.is_empty() {
            piece
        } else {
            let mut joined = Vec::with_capacity(self.held.len() + piece.len());
            joined.extend_from_slice(&self.held);
            joined.extend_from_slice(&piece);
            self.release();
            joined.into()
        };
        let end = self.certain(&text, out);
        // A match that is a prefix of a longer needle is decided when the next bytes are there.
        self.held.extend_from_slice(&text[end..]);
    }

    /// Hands on what is held, if it is no more than `short`. It stays part of the search: what
    /// follows it is overwritten, should the two be a match. For [`Fit::InPlace`].
    pub(super) fn show_short(&mut self, short: usize, out: &mut impl FnMut(Bytes)) {
        if self.held.len() <= short {
            self.show_held(out);
        }
    }

    /// Whether what is held tells too little to be held from who waits for it. What has a known length goes on by
    /// itself.
    pub(super) fn waits(&self) -> bool {
        self.fit == Fit::Exact && self.unshown() > 0 && self.search.made().tells_little(&self.held)
    }

    /// Nothing more has come for a while: hands such on. It stays part of the search.
    pub(super) fn pause(&mut self, out: &mut impl FnMut(Bytes)) {
        if self.waits() {
            self.show_held(out);
        }
    }

    fn show_held(&mut self, out: &mut impl FnMut(Bytes)) {
        emit(Bytes::copy_from_slice(&self.held[self.shown..]), out);
        self.shown = self.held.len();
    }

    /// Hands on all of `text` that no later byte can change; returns where the rest begins.
    fn certain(&mut self, text: &Bytes, out: &mut impl FnMut(Bytes)) -> usize {
        let mut done = 0;
        let mut tail = text.len() - self.tail(text);
        let made = self.search.made();
        let written = made.spelling.written(text);
        loop {
            let found = made.find_any((&self.table, written), text, done);
            // What a match has taken is not held back any more, and behind it a number begins anew that
            // was part of a longer one. Otherwise it does not change.
            let parts = done > 0 && is_number(text, done - 1) && is_number(text, done);
            if tail < done || parts {
                tail = text.len() - self.tail(&text[done..]).min(text.len() - done);
            }
            let Match { at, end, needle } = match found {
                // A tail that starts no later than the match could grow into a longer match there.
                Some(found) if found.at < tail => found,
                _ => {
                    emit(skip(text.slice(done..tail), &mut self.shown), out);
                    return tail;
                }
            };
            let replaced = replacement(needle, end - at, self.fit);
            emit(skip(text.slice(done..at), &mut self.shown), out);
            emit(instead(replaced, end - at, self.fit, &mut self.shown), out);
            done = end;
            self.replaced += 1;
        }
    }

    /// How many bytes at the end of `text` could be the start of a needle, or of a longer one than
    /// the match that a caller would take now, as far as somebody can tell who does not know the needles.
    fn tail(&self, text: &[u8]) -> usize {
        let made = self.search.made();
        let start = text.len().saturating_sub(made.longest - 1);
        let could_be = |at: &usize| {
            let rest = &text[*at..];
            self.first[usize::from(rest[0])]
                && made
                    .needles
                    .iter()
                    .any(|n| n.bytes.len() > rest.len() && n.bytes.starts_with(rest))
        };
        let tail = (start..text.len()).find(could_be).map_or(0, |at| text.len() - at);
        let spelled = made.spelling.tail(&made.needles, text);
        let tail = tail.max(spelled).max(made.listing.tail(&made.needles, text));
        // What is like one is held back as well, so that it does not show which is one.
        let tail = tail.max(made.alike.tail(text));
        let tail = tail.max(made.listing.alike(&made.needles, made.alike.of_secrets(), text));
        // What digits say depends on what they are escaped by.
        let escaped = match text[..text.len() - tail] {
            [.., b'%'] if tail > 0 => 1,
            [.., b'%', digit] if tail > 0 && digit.is_ascii_hexdigit() => 2,
            _ => 0,
        };
        tail + escaped
    }

    /// The stream has ended: what was held back is final.
    pub fn finish(&mut self, out: &mut impl FnMut(Bytes)) {
        if self.held.is_empty() {
            return;
        }
        let made = self.search.made();
        let table = self.search.brief.get_or_init(|| made.table(BRIEF));
        let text = Bytes::copy_from_slice(&self.held);
        let by = (table, made.spelling.written(&text));
        let mut done = 0;
        while let Some(Match { at, end, needle }) = made.find_any(by, &text, done) {
            let replaced = replacement(needle, end - at, self.fit);
            emit(skip(text.slice(done..at), &mut self.shown), out);
            emit(instead(replaced, end - at, self.fit, &mut self.shown), out);
            done = end;
            self.replaced += 1;
        }
        emit(skip(text.slice(done..), &mut self.shown), out);
        self.release();
    }

    /// The held bytes may be most of a secret.
    fn release(&mut self) {
        wipe(&mut self.held);
        self.held.clear();
    }

    /// Appends `text`, which is no part of the stream, with every match replaced.
    pub(super) fn replace_apart(&mut self, text: &[u8], out: &mut Vec<u8>) {
        let found = self.search.replace_all(text, self.fit, out);
        if found == 0 {
            out.extend_from_slice(text);
        }
        self.replaced += found;
    }

    pub(super) fn scrub_trailers(&mut self, trailers: &mut HeaderMap) {
        self.replaced += super::scrub_fields(trailers, &self.search);
    }

    /// How often a needle was found.
    #[must_use]
    pub fn replaced(&self) -> u64 {
        self.replaced
    }

    /// How many bytes are held back now. Less than the longest needle, however it is spelled.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held.len()
    }

    /// How many of these were not shown yet.
    pub(super) fn unshown(&self) -> usize {
        self.held.len() - self.shown
    }

    /// Whether nothing is held back.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.held.is_empty()
    }

    pub(super) fn fit(&self) -> Fit {
        self.fit
    }
}

impl Drop for Scrubber {
    fn drop(&mut self) {
        self.release();
    }
}

/// What stands for a match of `length` bytes of which the first `shown` are out already: the rest of what
/// has its length, or else all of it.
fn instead(replaced: Vec<u8>, length: usize, fit: Fit, shown: &mut usize) -> Bytes {
    match fit {
        Fit::InPlace => skip(replaced.into(), shown),
        Fit::Exact => {
            *shown = shown.saturating_sub(length);
            replaced.into()
        }
    }
}

/// Leaves out the first `shown` bytes, or as many of them as there are.
fn skip(mut data: Bytes, shown: &mut usize) -> Bytes {
    let here = data.len().min(*shown);
    *shown -= here;
    data.split_off(here)
}

fn emit(data: Bytes, out: &mut impl FnMut(Bytes)) {
    if !data.is_empty() {
        out(data);
    }
}

#[cfg(test)]
mod tests {
    use super::super::spelled::LONGEST_UNIT;
    use super::super::table::{FIRST_STRETCH, LANE, LANES};
    use super::*;
    use crate::secret::Secret;
    use proptest::prelude::*;

    fn needles(secrets: &[&[u8]]) -> Needles {
        let mut needles = Needles::default();
        for secret in secrets {
            needles.add(&Secret::new(secret.to_vec()), "locum_x");
        }
        needles
    }

    fn stream(secrets: &[&[u8]], chunks: &[Vec<u8>], fit: Fit) -> Vec<u8> {
        let mut scrubber = Scrubber::for_needles(needles(secrets), fit);
        let longest = scrubber.search.made().longest;
        let mut all = Vec::new();
        for chunk in chunks {
            scrubber.push(chunk.clone().into(), &mut |data| all.extend_from_slice(&data));
            assert!(
                scrubber.held() < LONGEST_UNIT * longest.max(1),
                "holds back more than a needle"
            );
        }
        scrubber.finish(&mut |data| all.extend_from_slice(&data));
        all
    }

    /// As simple as can be: at each place, the longest needle, from left to right.
    fn reference(secrets: &[&[u8]], text: &[u8], fit: Fit) -> Vec<u8> {
        let needles = needles(secrets);
        let mut out = Vec::new();
        let mut at = 0;
        while at < text.len() {
            let hit = needles.iter().filter(|n| text[at..].starts_with(n.bytes));
            if let Some(needle) = hit.max_by_key(|n| n.bytes.len()) {
                out.extend_from_slice(&replacement(needle, needle.bytes.len(), fit));
                at += needle.bytes.len();
            } else {
                out.push(text[at]);
                at += 1;
            }
        }
        out
    }

    #[test]
    fn one_byte_at_a_time_equals_all_at_once() {
        let text = b"x sk-abc/def+ghi y c2stYWJjL2RlZitnaGk= sk-abc/def+gh";
        let single: Vec<_> = text.iter().map(|b| vec![*b]).collect();
        let secret: &[&[u8]] = &[b"sk-abc/def+ghi"];
        let whole = stream(secret, &[text.to_vec()], Fit::Exact);
        assert_eq!(stream(secret, &single, Fit::Exact), whole);
        assert_eq!(whole, reference(secret, text, Fit::Exact));
        assert!(whole.starts_with(b"x locum_x y locum_x"), "{}", whole.escape_ascii());
    }

    #[test]
    fn ordinary_text_is_not_held_back() {
        let mut scrubber = Scrubber::for_needles(needles(&[b"sk-abcdefgh"]), Fit::Exact);
        let mut pieces = 0;
        scrubber.push(Bytes::from_static(b"data: {\"delta\":\"hello\"}\n\n"), &mut |_| pieces += 1);
        assert_eq!((pieces, scrubber.held()), (1, 0));
    }

    /// What an agent sees that waits for more: nothing is held back from it but what tells something.
    #[test]
    fn a_stream_that_pauses_is_shown_but_for_what_tells_something() {
        let paused = |text: &[u8]| {
            let mut scrubber =
                Scrubber::for_needles(needles(&[b"sk-Canary_0123456789.abcdef"]), Fit::Exact);
            let (mut seen, mut most) = (Vec::new(), 0);
            for (at, byte) in text.iter().enumerate() {
                let byte = Bytes::copy_from_slice(std::slice::from_ref(byte));
                scrubber.push(byte, &mut |data| seen.extend_from_slice(&data));
                scrubber.pause(&mut |data| seen.extend_from_slice(&data));
                most = most.max((at + 1).saturating_sub(seen.len()));
            }
            scrubber.finish(&mut |data| seen.extend_from_slice(&data));
            (seen, scrubber.replaced(), most)
        };
        for text in [
            &b"first"[..],
            b"Password for sk",
            b"what is this? (y/n) s",
            b"[1] a\n[2] b\nchoice: ",
            b"115",
            b"{\"n\": 115, ",
            b"100%",
            b"C:\\",
            b"a &am",
            b"ONV",
            b"c2s",
        ] {
            let held_back = 0;
            assert_eq!(paused(text), (text.to_vec(), 0, held_back), "{}", text.escape_ascii());
        }
        // Of the key itself three characters are shown, and no fourth.
        assert_eq!(paused(b"it is sk-Can").0, b"it is sk-Can");
        assert_eq!(paused(b"it is sk-Can").2, 3);
        let (seen, replaced, _) = paused(b"it is sk-Canary_0123456789.abcdef, so");
        assert_eq!((&seen[..], replaced), (&b"it is sk-locum_x, so"[..], 1));
    }

    #[test]
    fn of_a_short_secret_a_pause_shows_less_or_nothing() {
        for (secret, shown) in [(&b"0123456"[..], 0), (b"01234567", 1), (b"0123456789abcdef", 2)] {
            let mut scrubber = Scrubber::for_needles(needles(&[secret]), Fit::Exact);
            let mut seen = 0;
            for byte in secret {
                let byte = Bytes::copy_from_slice(std::slice::from_ref(byte));
                scrubber.push(byte, &mut |_| {});
                scrubber.pause(&mut |data| seen += data.len());
            }
            assert_eq!(seen, shown, "{}", secret.escape_ascii());
        }
    }

    #[test]
    fn tiny_needles_work() {
        for secret in [&b"abc"[..], b"abcd", b"aaaa"] {
            let text = b"zabcabcd aaaaaaab ab a";
            let expected = reference(&[secret], text, Fit::Exact);
            assert_eq!(stream(&[secret], &[text.to_vec()], Fit::Exact), expected);
        }
    }

    /// The two stand in one run of bytes that needles have: the escape in front belongs to neither.
    #[test]
    fn a_needle_before_one_that_is_spelled_out_is_found_first() {
        let secrets: &[&[u8]] = &[b"abcabcab", b"abab/abab"];
        let text = b"b%2FYWJjYWJjYWIabab%2Fabab".to_vec();
        let seen = stream(secrets, &[text], Fit::Exact);
        assert_eq!(seen, b"b%2Flocum_xIlocum_x");
    }

    /// Where forms overlap themselves and one another, the first of them is found, and of those the longest, wherever
    /// the text is cut.
    #[test]
    fn a_cut_anywhere_in_forms_that_overlap_changes_nothing() {
        let many = |before: &[u8], unit: &str, times: usize, behind: &str| {
            [before, unit.repeat(times).as_bytes(), behind.as_bytes()].concat()
        };
        let backslashes = ["%255", &"\\".repeat(8), "\0", &"\\".repeat(23), ";"].concat();
        let cases: [(&[&[u8]], Vec<u8>); 14] = [
            // One that is spelled out begins before a form, with what it has in common with it.
            (&[&[b'&'; 15]], many(b"&", "\\\\u0026", 15, "")),
            (&[&[0xff; 14]], many(&[0xff], "%25ff", 14, "")),
            (&[&[b'/'; 18]], many(&[b'/'; 19], "%2F", 18, "")),
            (&[&[b'\\'; 8]], backslashes.into_bytes()),
            // The last character of a form is the beginning of an escape.
            (&[b"aa=aaaa="], b"=aa=aaaa=3D".to_vec()),
            (&[&[b'='; 11]], many(b"Y", "=", 11, "3D")),
            (&[b"%%%%=%%%"], b"%2525%2525%2525%2525%253d%2525%2525%2525252525".to_vec()),
            // Of a list the first number has an escape, zeros or digits before it, or half a pair.
            (&[&[b'\\'; 8]], many(b"%5C%5C", "5c", 7, "")),
            (&[&[b'A'; 8]], many(b"%41%41", "41", 7, "")),
            (&[b"00000100", &[b'a'; 8]], many(b"10", "97,", 8, "")),
            (&[&[b'5'; 19]], many(b"353%53", ",53", 18, "N")),
            (&[b"a+a+a+a+"], b"%561%252b%2561%252b0061002b0061002b".to_vec()),
            (&[&[b'/'; 8]], b"22f2f2f2f2f2f2F2F2F0".to_vec()),
            (&[&[0xff; 17]], many(b"%2", "ff", 16, "%25ff")),
        ];
        for (secrets, text) in cases {
            for fit in [Fit::Exact, Fit::InPlace] {
                let whole = stream(secrets, std::slice::from_ref(&text), fit);
                let single: Vec<_> = text.iter().map(|b| vec![*b]).collect();
                let shown = text.escape_ascii();
                assert_eq!(stream(secrets, &single, fit), whole, "{shown}");
                for cut in 1..text.len() {
                    let chunks = [text[..cut].to_vec(), text[cut..].to_vec()];
                    assert_eq!(stream(secrets, &chunks, fit), whole, "{shown} at {cut}");
                }
            }
        }
    }

    /// Of one letter, or few, and often the same over and over: their forms overlap.
    fn of_few_letters() -> impl Strategy<Value = Vec<u8>> {
        let letters: [&[u8]; 12] =
            [b"a", b"A", b"0", b"5", b"/", b"ab", b"a1", b"=a", b"%2", b"/+", b"\\&", b"\xff"];
        let letters = prop::sample::select(letters.to_vec());
        let picks = prop::collection::vec(any::<prop::sample::Index>(), 1..16);
        (letters, picks, 8..16_usize).prop_map(|(letters, picks, length)| {
            picks.iter().map(|pick| *pick.get(letters)).cycle().take(length).collect()
        })
    }

    /// A secret, or the end of one and another, as an origin may show it.
    fn shown(secret: &[u8], form: usize) -> Vec<u8> {
        use data_encoding::{BASE32_NOPAD, BASE64, BASE64URL_NOPAD, HEXLOWER, HEXUPPER};
        let each = |write: &dyn Fn(&u8) -> String| secret.iter().map(write).collect::<String>();
        let aligned = [&secret[..form % 3], secret].concat();
        let text = match form / 3 {
            0 => return secret.to_vec(),
            1 => BASE64.encode(&aligned),
            2 => BASE64URL_NOPAD.encode(&aligned),
            3 => BASE32_NOPAD.encode(&aligned),
            4 => HEXLOWER.encode(secret),
            5 => HEXUPPER.encode(secret),
            6 => each(&|b| format!("%{b:02X}")),
            7 => each(&|b| format!("%25{b:02x}")),
            8 => each(&|b| format!("\\u{b:04x}")),
            9 => each(&|b| format!("&#{b};")),
            10 => each(&|b| format!("&#x{b:x};")),
            _ => each(&|b| format!("{b},")),
        };
        text.into_bytes()
    }

    fn fragment() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            Just(b"abcabcab".to_vec()),
            Just(b"abcab".to_vec()),
            Just(b"YWJjYWJjYWI".to_vec()),
            Just(b"6162636162636162".to_vec()),
            Just(b"abab/abab".to_vec()),
            Just(b"abab%2Fabab".to_vec()),
            "[abc/%2F]{0,6}".prop_map(String::into_bytes),
            prop::collection::vec(any::<u8>(), 0..40),
        ]
    }

    proptest! {
        #[test]
        fn any_chunking_of_what_overlaps_equals_the_whole(
            secrets in prop::collection::vec(of_few_letters(), 1..3),
            parts in prop::collection::vec(
                (any::<prop::sample::Index>(), 0..36_usize, 0..8_usize, any::<prop::sample::Index>()),
                1..7,
            ),
            sizes in prop::collection::vec(1..24_usize, 1..12),
            in_place in any::<bool>(),
        ) {
            let fit = if in_place { Fit::InPlace } else { Fit::Exact };
            let mut text = Vec::new();
            for (which, form, piece, cut) in parts {
                let secret: &Vec<u8> = which.get(&secrets);
                let whole = shown(secret, form);
                let cut = cut.index(whole.len());
                text.extend_from_slice(match piece {
                    0 => &whole[..cut],
                    1 => &whole[cut..],
                    2 => [&b" "[..], b"%", b"\\", b"&", b"=", b"0", b"\0", b"%25"][cut % 8],
                    _ => &whole,
                });
            }
            let secrets: Vec<&[u8]> = secrets.iter().map(|secret| &secret[..]).collect();
            let single: Vec<_> = text.iter().map(|b| vec![*b]).collect();
            let (mut chunks, mut rest) = (Vec::new(), &text[..]);
            for size in sizes.iter().cycle() {
                let (chunk, more) = rest.split_at((*size).min(rest.len()));
                chunks.push(chunk.to_vec());
                rest = more;
                if rest.is_empty() {
                    break;
                }
            }
            let whole = stream(&secrets, &[text], fit);
            prop_assert_eq!(stream(&secrets, &single, fit), &whole[..]);
            prop_assert_eq!(stream(&secrets, &chunks, fit), &whole[..]);
            for secret in secrets {
                prop_assert!(!whole.windows(secret.len()).any(|window| window == secret));
            }
        }

        #[test]
        fn any_chunking_equals_the_whole(
            parts in prop::collection::vec(fragment(), 0..12),
            cuts in prop::collection::vec(0usize..200, 0..12),
            in_place in any::<bool>(),
        ) {
            let fit = if in_place { Fit::InPlace } else { Fit::Exact };
            let secrets: &[&[u8]] = &[b"abcabcab", b"abab/abab"];
            let text = parts.concat();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|c| c.min(text.len())).collect();
            cuts.sort_unstable();
            let mut chunks = Vec::new();
            let mut last = 0;
            for cut in cuts.into_iter().chain([text.len()]) {
                chunks.push(text[last..cut].to_vec());
                last = cut;
            }
            let expected = reference(secrets, &text, fit);
            prop_assert_eq!(stream(secrets, &chunks, fit), expected);
        }

        /// Long enough for the lanes, with matches at and across their ends.
        #[test]
        fn long_texts_are_searched_as_the_definition_says(
            parts in prop::collection::vec((fragment(), 0usize..3000), 1..8),
            unit in prop_oneof![Just(&b"The quick brown fox "[..]), Just(&b"YWJj6162"[..])],
        ) {
            let secrets: &[&[u8]] = &[b"abcabcab", b"abab/abab"];
            let mut text = Vec::new();
            for (fragment, between) in parts {
                text.extend(unit.iter().cycle().take(between));
                text.extend(fragment);
            }
            text.extend(unit.iter().cycle().take(LANES * LANE));
            let expected = reference(secrets, &text, Fit::Exact);
            prop_assert_eq!(stream(secrets, &[text], Fit::Exact), expected);
        }

        #[test]
        fn short_texts_are_replaced_as_the_definition_says(
            parts in prop::collection::vec(fragment(), 0..8),
            between in prop_oneof![Just(&b" "[..]), Just(&b""[..]), Just(&b"\""[..])],
            plain in any::<bool>(),
        ) {
            let secrets: &[&[u8]] = if plain { &[b"abcabcab"] } else { &[b"abcabcab", b"abab/abab"] };
            let mut late = Needles::default();
            for secret in secrets {
                late.add_late(Secret::new(secret.to_vec()), &"locum_x".into());
            }
            let text = parts.join(between);
            let mut out = Vec::new();
            let search = Search::new(late);
            if search.replace_all(&text, Fit::Exact, &mut out) == 0 {
                out.extend_from_slice(&text);
            }
            prop_assert_eq!(out, reference(secrets, &text, Fit::Exact));
        }
    }

    #[test]
    fn a_match_is_found_wherever_it_starts_in_a_long_text() {
        let secret: &[&[u8]] = &[b"sk-0123456789"];
        for at in 0..FIRST_STRETCH + 2 * LANES * LANE {
            let mut text = vec![b'.'; FIRST_STRETCH + 2 * LANES * LANE + 20];
            text[at..at + 13].copy_from_slice(secret[0]);
            let out = stream(secret, &[text.clone()], Fit::InPlace);
            text[at..at + 13].copy_from_slice(b"locum_x******");
            assert!(out == text, "at {at}");
        }
    }

    #[test]
    fn no_form_is_made_for_a_text_that_cannot_hold_one() {
        let search = |secret: &[u8]| {
            let mut late = Needles::default();
            late.add_late(Secret::new(secret.to_vec()), &"locum_x".into());
            Search::new(late)
        };
        let (plain, special) = (search(b"sk-0123456789"), search(b"p@ss word 01"));
        let mut out = Vec::new();
        for text in [&b"{\"id\": \"0123456789\", \"object\": \"chat\"}"[..], b"sk-012345678", b""] {
            assert_eq!(plain.replace_all(text, Fit::Exact, &mut out), 0);
        }
        assert!(plain.made.get().is_none());
        assert_eq!(plain.replace_all(b"=sk-0123456789=", Fit::Exact, &mut out), 1);
        assert_eq!(special.replace_all(b"my p@ss word 01", Fit::Exact, &mut out), 1);
        assert_eq!(out, b"=locum_x=my locum_x");
    }
}
