//! Searching a stream for any of the needles, with no more held back than could still be one.

use std::sync::Arc;

use bytes::Bytes;
use http::header::HeaderMap;
use zeroize::Zeroize;

use super::needles::{Needle, Needles};

/// How a replacement fits where the match stood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fit {
    /// The placeholder, whatever its length.
    Exact,
    /// The placeholder cut, or filled up with `*`, to the length of the match, so that a
    /// `Content-Length` that was already sent stays true.
    InPlace,
}

/// Slots of the shift table. 4 KiB fits the first-level cache, and is filled in 50 ns.
const SLOTS: usize = 4096;

/// A compiled set of needles.
pub(super) struct Search {
    needles: Needles,
    /// For a block of bytes, how far the window may move on. Bounded by `shortest`.
    shift: Box<[u8; SLOTS]>,
    /// The length of the window.
    shortest: usize,
    /// The length of a block: three bytes, or less for tiny needles.
    block: usize,
    longest: usize,
    /// Which bytes start a needle: a tail without any of them holds nothing back.
    first: [bool; 256],
}

impl Search {
    pub(super) fn new(needles: Needles) -> Self {
        let lengths = || needles.as_slice().iter().map(|n| n.bytes.len());
        // A table entry is one byte, and longer moves would gain nothing.
        let shortest = lengths().min().unwrap_or(1).min(64);
        let longest = lengths().max().unwrap_or(1);
        let block = shortest.min(3);
        let furthest = u8::try_from(shortest - block + 1).unwrap_or(u8::MAX);
        let mut shift = Box::new([furthest; SLOTS]);
        let mut first = [false; 256];
        for needle in needles.as_slice() {
            first[usize::from(needle.bytes[0])] = true;
            for (at, bytes) in needle.bytes[..shortest].windows(block).enumerate() {
                let slot = &mut shift[hash(bytes)];
                *slot = (*slot).min(u8::try_from(shortest - block - at).unwrap_or(0));
            }
        }
        Self { needles, shift, shortest, block, longest, first }
    }

    /// The first match at or after `from`: where it starts, and which needle. The longest needle
    /// wins where several start at one place.
    fn find(&self, text: &[u8], from: usize) -> Option<(usize, &Needle)> {
        let mut window = from;
        while let Some(bytes) = text.get(window..window + self.shortest) {
            let shift = self.shift[hash(&bytes[self.shortest - self.block..])];
            if shift > 0 {
                window += usize::from(shift);
                continue;
            }
            if let Some(needle) = self.longest_at(&text[window..]) {
                return Some((window, needle));
            }
            window += 1;
        }
        None
    }

    fn longest_at(&self, text: &[u8]) -> Option<&Needle> {
        let matching = self.needles.as_slice().iter().filter(|n| text.starts_with(&n.bytes));
        matching.max_by_key(|n| n.bytes.len())
    }

    /// How many bytes at the end of `text` could be the start of a needle, or of a longer one than
    /// the match that a caller would take now.
    fn tail(&self, text: &[u8]) -> usize {
        let start = text.len().saturating_sub(self.longest - 1);
        let could_be = |at: &usize| {
            let rest = &text[*at..];
            self.first[usize::from(rest[0])]
                && self.needles.as_slice().iter().any(|n| n.bytes.starts_with(rest))
        };
        (start..text.len()).find(could_be).map_or(0, |at| text.len() - at)
    }

    /// Whether a field's name has a needle in it. Names come in lower case, whatever the origin wrote.
    pub(super) fn in_name(&self, name: &str) -> bool {
        let found = |needle: &Needle| {
            let mut windows = name.as_bytes().windows(needle.bytes.len());
            windows.any(|window| window.eq_ignore_ascii_case(&needle.bytes))
        };
        // Names are short, and nearly none is as long as a secret.
        name.len() >= self.shortest && self.needles.as_slice().iter().any(found)
    }

    /// Writes `text` with every match replaced to `out`; leaves `out` alone when there is none.
    pub(super) fn replace_all(&self, text: &[u8], fit: Fit, out: &mut Vec<u8>) -> u64 {
        let mut found = 0;
        let mut done = 0;
        while let Some((at, needle)) = self.find(text, done) {
            out.extend_from_slice(&text[done..at]);
            out.extend_from_slice(&replacement(needle, fit));
            done = at + needle.bytes.len();
            found += 1;
        }
        if found > 0 {
            out.extend_from_slice(&text[done..]);
        }
        found
    }
}

/// Spreads a block of one to three bytes over the table.
fn hash(block: &[u8]) -> usize {
    let mixed = block.iter().fold(0_usize, |h, b| (h << 5) ^ (h >> 7) ^ usize::from(*b));
    mixed % SLOTS
}

fn replacement(needle: &Needle, fit: Fit) -> Vec<u8> {
    let mut text = needle.replacement.as_bytes().to_vec();
    if fit == Fit::InPlace {
        text.resize(needle.bytes.len(), b'*');
    }
    text
}

/// Searches a stream chunk by chunk. Holds back only a tail that could still become a match.
pub struct Scrubber {
    search: Arc<Search>,
    fit: Fit,
    held: Vec<u8>,
    replaced: u64,
}

impl Scrubber {
    /// A scrubber for one stream.
    pub(super) fn new(search: Arc<Search>, fit: Fit) -> Self {
        Self { search, fit, held: Vec::new(), replaced: 0 }
    }

    /// A scrubber for `needles`, outside a response.
    #[must_use]
    pub fn for_needles(needles: Needles, fit: Fit) -> Self {
        Self::new(Arc::new(Search::new(needles)), fit)
    }

    /// Takes a chunk, and hands on what is certain. A chunk without a match is handed on as it is.
    pub fn push(&mut self, chunk: Bytes, out: &mut impl FnMut(Bytes)) {
        let text = if self.held.is_empty() {
            chunk
        } else {
            let mut joined = Vec::with_capacity(self.held.len() + chunk.len());
            joined.extend_from_slice(&self.held);
            joined.extend_from_slice(&chunk);
            self.release();
            joined.into()
        };
        let end = self.certain(&text, out);
        // A match that is a prefix of a longer needle is decided when the next bytes are there.
        self.held.extend_from_slice(&text[end..]);
    }

    /// Hands on all of `text` that no later byte can change; returns where the rest begins.
    fn certain(&mut self, text: &Bytes, out: &mut impl FnMut(Bytes)) -> usize {
        let mut done = 0;
        loop {
            let found = self.search.find(text, done);
            let tail = text.len() - self.search.tail(&text[done..]).min(text.len() - done);
            let (at, needle) = match found {
                // A tail that starts no later than the match could grow into a longer match there.
                Some((at, needle)) if at < tail || needle.bytes.len() == self.search.longest => {
                    (at, needle)
                }
                _ => {
                    emit(text.slice(done..tail), out);
                    return tail;
                }
            };
            emit(text.slice(done..at), out);
            emit(replacement(needle, self.fit).into(), out);
            done = at + needle.bytes.len();
            self.replaced += 1;
        }
    }

    /// The stream has ended: what was held back is final.
    pub fn finish(&mut self, out: &mut impl FnMut(Bytes)) {
        if self.held.is_empty() {
            return;
        }
        let mut text = Vec::with_capacity(self.held.len());
        let found = self.search.replace_all(&self.held, self.fit, &mut text);
        if found == 0 {
            text.extend_from_slice(&self.held);
        }
        self.replaced += found;
        self.release();
        emit(text.into(), out);
    }

    /// The held bytes may be most of a secret.
    fn release(&mut self) {
        self.held.as_mut_slice().zeroize();
        self.held.clear();
    }

    pub(super) fn scrub_trailers(&mut self, trailers: &mut HeaderMap) {
        self.replaced += super::scrub_fields(trailers, &self.search);
    }

    /// How often a needle was found.
    #[must_use]
    pub fn replaced(&self) -> u64 {
        self.replaced
    }

    /// How many bytes are held back now. Less than the longest needle, always.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held.len()
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

fn emit(data: Bytes, out: &mut impl FnMut(Bytes)) {
    if !data.is_empty() {
        out(data);
    }
}

#[cfg(test)]
mod tests {
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
        let longest = scrubber.search.longest;
        let mut all = Vec::new();
        for chunk in chunks {
            scrubber.push(chunk.clone().into(), &mut |data| all.extend_from_slice(&data));
            assert!(scrubber.held() < longest.max(1), "holds back more than a needle");
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
            let hit = needles.as_slice().iter().filter(|n| text[at..].starts_with(&n.bytes));
            if let Some(needle) = hit.max_by_key(|n| n.bytes.len()) {
                out.extend_from_slice(&replacement(needle, fit));
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

    #[test]
    fn tiny_needles_work() {
        for secret in [&b"abc"[..], b"abcd", b"aaaa"] {
            let text = b"zabcabcd aaaaaaab ab a";
            let expected = reference(&[secret], text, Fit::Exact);
            assert_eq!(stream(&[secret], &[text.to_vec()], Fit::Exact), expected);
        }
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
    }
}
