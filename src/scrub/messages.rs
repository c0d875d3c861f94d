//! Searching a stream of messages with their lengths before them: gRPC ("gRPC over HTTP2",
//! "Length-Prefixed-Message"), gRPC-Web and the streams of Connect.
//!
//! A match is overwritten in place, so that lengths stay true, inside a message as well. Where a message
//! ends, what is held back is handed on if it is short: the other side may wait for the whole of it
//! before it says more. It stays part of the search, so that a secret that goes on behind the end is
//! found, and no more of it is shown than that. A body that only says that it has this form gains
//! nothing by it. A message that is marked as compressed, of which the head said nothing, ends the
//! stream: it cannot be searched.

use bytes::Bytes;

use super::engine::Unscrubbable;
use super::search::Scrubber;

/// A byte of flags and four of length.
const PREFIX: usize = 5;

/// The flag of a compressed message.
const COMPRESSED: u8 = 1;

/// How much of what could become a secret may be shown for its being at the end of a message. As much as
/// providers' keys have in common; and what ends like more than that is hardly there by chance.
const SHORT: usize = 8;

/// Follows the messages of one body.
pub(super) struct MessageScrubber {
    scrubber: Scrubber,
    place: Place,
}

enum Place {
    /// In a prefix, of which this many bytes have been seen; and the length so far.
    Prefix(usize, u32),
    /// In a message, of which so much is to come.
    Message(u32),
}

impl MessageScrubber {
    /// Searches with `scrubber`, which must keep lengths.
    pub(super) fn new(scrubber: Scrubber) -> Self {
        Self { scrubber, place: Place::Prefix(0, 0) }
    }

    pub(super) fn scrubber(&self) -> &Scrubber {
        &self.scrubber
    }

    pub(super) fn scrubber_mut(&mut self) -> &mut Scrubber {
        &mut self.scrubber
    }

    /// Takes the next bytes, and hands on all that is certain.
    pub(super) fn push(
        &mut self,
        chunk: Bytes,
        out: &mut impl FnMut(Bytes),
    ) -> Result<(), Unscrubbable> {
        let at_an_end = self.follow(&chunk)?;
        self.scrubber.push(chunk, out);
        // Behind an end of a message in the middle of the chunk, what follows it is known.
        if at_an_end {
            self.scrubber.show_short(SHORT, out);
        }
        Ok(())
    }

    /// Goes through the prefixes in `bytes`; whether a message ends where they end.
    fn follow(&mut self, mut bytes: &[u8]) -> Result<bool, Unscrubbable> {
        while let [first, rest @ ..] = bytes {
            match &mut self.place {
                Place::Prefix(seen, length) => {
                    if *seen == 0 && first & COMPRESSED != 0 {
                        return Err(Unscrubbable);
                    }
                    // The flags are shifted out by the four bytes behind them.
                    *length = *length << 8 | u32::from(*first);
                    *seen += 1;
                    if *seen == PREFIX {
                        self.place = Place::Message(*length);
                    }
                    bytes = rest;
                }
                Place::Message(left) => {
                    let here = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                    *left -= u32::try_from(here).unwrap_or(*left);
                    bytes = &bytes[here..];
                }
            }
            if matches!(self.place, Place::Message(0)) {
                self.place = Place::Prefix(0, 0);
            }
        }
        Ok(matches!(self.place, Place::Prefix(0, _)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Fit, Needles};
    use super::*;
    use crate::secret::Secret;
    use proptest::prelude::*;

    const KEY: &[u8] = b"sk-canary-0123456789";
    const CLEAN: &[u8] = b"locum_main**********";

    fn scrubber() -> MessageScrubber {
        let mut needles = Needles::default();
        needles.add(&Secret::new(KEY.to_vec()), "locum_main");
        MessageScrubber::new(Scrubber::for_needles(needles, Fit::InPlace))
    }

    fn message(text: &[u8]) -> Vec<u8> {
        let length = u32::try_from(text.len()).unwrap().to_be_bytes();
        [&[0], &length[..], text].concat()
    }

    /// What came out after each chunk, and at the end.
    fn through(chunks: &[&[u8]]) -> Vec<Vec<u8>> {
        let mut messages = scrubber();
        let mut all = Vec::new();
        for chunk in chunks {
            let mut seen = Vec::new();
            let out = &mut |data: Bytes| seen.extend_from_slice(&data);
            messages.push(Bytes::copy_from_slice(chunk), out).unwrap();
            all.push(seen);
        }
        let mut seen = Vec::new();
        messages.scrubber_mut().finish(&mut |data| seen.extend_from_slice(&data));
        all.push(seen);
        all
    }

    #[test]
    fn a_message_keeps_its_length() {
        let sent = message(&[b"key ", KEY, b"!"].concat());
        let clean = message(&[b"key ", CLEAN, b"!"].concat());
        assert_eq!(through(&[&sent, &sent]), [clean.clone(), clean, vec![]]);
    }

    #[test]
    fn the_end_of_a_message_holds_nothing_back() {
        for text in [&b"yes"[..], b"that is all, s", b"sk-canar", b"c2", b""] {
            let sent = message(text);
            let (first, rest) = sent.split_at(2);
            // Only what is over is shown.
            let seen = through(&[first, rest, &sent]);
            assert_eq!(seen[..2].concat(), sent, "{}", text.escape_ascii());
            assert_eq!(seen[2], sent, "{}", text.escape_ascii());
        }
        // In the middle of one it is held back.
        assert_eq!(through(&[&message(b"s..")[..6]])[0], message(b"s..")[..5]);
    }

    #[test]
    fn a_message_that_is_marked_as_compressed_ends_the_stream() {
        let mut messages = scrubber();
        let mut seen = Vec::new();
        let mut push = |bytes: &[u8]| {
            let bytes = Bytes::copy_from_slice(bytes);
            messages.push(bytes, &mut |data| seen.extend_from_slice(&data))
        };
        // The flags of a trailer of gRPC-Web, and of the last message of Connect.
        for flags in [0, 0x80, 2] {
            assert_eq!(push(&[flags, 0, 0, 0, 1, b'.']), Ok(()));
        }
        assert_eq!(push(&[1, 0, 0, 0, 1, b'.']), Err(Unscrubbable));
        assert_eq!(seen.len(), 18);
    }

    #[test]
    fn a_secret_that_runs_over_what_looks_like_an_end_is_found() {
        // The first message would end inside of the secret; the next prefix would be the secret's.
        for (shown, flags) in KEY.iter().enumerate().skip(1) {
            let mut sent = message(&vec![b'.'; 2 + shown]);
            sent.truncate(PREFIX + 2);
            sent.extend_from_slice(KEY);
            let cut = PREFIX + 2 + shown;
            if flags & COMPRESSED != 0 {
                let mut messages = scrubber();
                let mut seen = Vec::new();
                let mut push = |bytes: &[u8]| {
                    let bytes = Bytes::copy_from_slice(bytes);
                    messages.push(bytes, &mut |data| seen.extend_from_slice(&data))
                };
                push(&sent[..cut]).unwrap();
                assert_eq!(push(&sent[cut..]), Err(Unscrubbable));
                assert!(seen.len() <= PREFIX + 2 + SHORT, "{}", seen.escape_ascii());
                continue;
            }
            let seen = through(&[&sent[..cut], &sent[cut..]]).concat();
            assert_eq!(seen.len(), sent.len());
            let seen = &seen[PREFIX + 2..];
            let common = seen.iter().zip(KEY).take_while(|(a, b)| a == b).count();
            assert!(common <= SHORT, "{}", seen.escape_ascii());
            assert_eq!(&seen[common..], &CLEAN[common..], "{shown}");
        }
        // The prefix itself has the start of the secret for a length.
        for own in 1..PREFIX {
            let sent = [&[0; PREFIX][..own], KEY, b"..."].concat();
            let seen = through(&[&sent]).concat();
            assert_eq!(seen, [&[0; PREFIX][..own], CLEAN, b"..."].concat());
        }
    }

    proptest! {
        #[test]
        fn any_chunking_gives_the_same(
            texts in prop::collection::vec(
                prop_oneof![
                    Just(KEY.to_vec()),
                    Just([b"a ", KEY, b" b"].concat()),
                    Just(Vec::new()),
                    Just(b"sk-canary-0123".to_vec()),
                    Just(b"sk-".to_vec()),
                    prop::collection::vec(any::<u8>(), 0..300),
                ],
                0..8,
            ),
            size in 1_usize..40,
        ) {
            let (mut sent, mut expected) = (Vec::new(), Vec::new());
            for text in &texts {
                let mut clean = text.clone();
                if let Some(at) = text.windows(KEY.len()).position(|window| window == KEY) {
                    clean[at..at + KEY.len()].copy_from_slice(CLEAN);
                }
                sent.extend_from_slice(&message(text));
                expected.extend_from_slice(&message(&clean));
            }
            let chunks: Vec<&[u8]> = sent.chunks(size).collect();
            prop_assert_eq!(through(&chunks).concat(), expected);
        }
    }
}
