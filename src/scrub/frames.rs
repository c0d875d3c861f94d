//! Searching what a WebSocket brings: the payload of each frame, and never its header (RFC 6455
//! section 5.2).
//!
//! A header tells how long its payload is, so a match is overwritten in place, and what a header says
//! is never taken for text. A frame is also where nothing may be held back any longer: a message that
//! ends like the start of a secret would else wait for the next one, and the other side perhaps for
//! an answer to it. So a secret that is cut by a frame's end is not found.

use bytes::Bytes;

use super::search::Scrubber;

/// Two bytes, a length of eight, and a mask of four.
const LONGEST_HEADER: usize = 14;

/// Follows the frames of one direction of a socket.
pub(super) struct FrameScrubber {
    scrubber: Scrubber,
    place: Place,
}

/// Where in a frame the next byte stands.
enum Place {
    /// In its header, of which this many bytes have been seen.
    Header { seen: usize, bytes: [u8; LONGEST_HEADER] },
    /// In its payload, of which so much is to come.
    Payload(u64),
}

impl Place {
    const START: Self = Self::Header { seen: 0, bytes: [0; LONGEST_HEADER] };
}

impl FrameScrubber {
    /// Searches payloads with `scrubber`, which must keep their lengths.
    pub(super) fn new(scrubber: Scrubber) -> Self {
        Self { scrubber, place: Place::START }
    }

    pub(super) fn scrubber(&self) -> &Scrubber {
        &self.scrubber
    }

    pub(super) fn scrubber_mut(&mut self) -> &mut Scrubber {
        &mut self.scrubber
    }

    /// Takes the next bytes, and hands on all that is certain, in one piece where frames are short.
    pub(super) fn push(&mut self, mut chunk: Bytes, out: &mut impl FnMut(Bytes)) {
        if let Place::Payload(left) = &mut self.place
            && *left > chunk.len() as u64
        {
            *left -= chunk.len() as u64;
            return self.scrubber.push(chunk, out);
        }
        let mut whole = Vec::with_capacity(chunk.len() + self.scrubber.held());
        while !chunk.is_empty() {
            self.step(&mut chunk, &mut whole);
        }
        if !whole.is_empty() {
            out(whole.into());
        }
    }

    /// Takes one header or one run of payload off `chunk`, or as much of it as is there.
    fn step(&mut self, chunk: &mut Bytes, whole: &mut Vec<u8>) {
        match &mut self.place {
            Place::Header { seen, bytes } => {
                let byte = chunk.split_to(1)[0];
                whole.push(byte);
                bytes[*seen] = byte;
                *seen += 1;
                if let Some(length) = payload_length(&bytes[..*seen]) {
                    self.place = Place::Payload(length);
                    self.close_if_over(whole);
                }
            }
            Place::Payload(left) => {
                let here = usize::try_from(*left).unwrap_or(usize::MAX).min(chunk.len());
                *left -= here as u64;
                self.scrubber
                    .push(chunk.split_to(here), &mut |data| whole.extend_from_slice(&data));
                self.close_if_over(whole);
            }
        }
    }

    fn close_if_over(&mut self, whole: &mut Vec<u8>) {
        if matches!(self.place, Place::Payload(0)) {
            self.scrubber.finish(&mut |data| whole.extend_from_slice(&data));
            self.place = Place::START;
        }
    }
}

/// The length of the payload, once the header is whole.
fn payload_length(header: &[u8]) -> Option<u64> {
    let second = *header.get(1)?;
    let extended = match second & 0x7f {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    let mask = if second & 0x80 == 0 { 0 } else { 4 };
    if header.len() < 2 + extended + mask {
        return None;
    }
    if extended == 0 {
        return Some(u64::from(second & 0x7f));
    }
    let digits = &header[2..2 + extended];
    Some(digits.iter().fold(0, |length, byte| length << 8 | u64::from(*byte)))
}

#[cfg(test)]
mod tests {
    use super::super::{Fit, Needles};
    use super::*;
    use crate::secret::Secret;
    use proptest::prelude::*;

    const KEY: &[u8] = b"sk-canary-0123456789";

    fn scrubber() -> FrameScrubber {
        let mut needles = Needles::default();
        needles.add(&Secret::new(KEY.to_vec()), "locum_main");
        FrameScrubber::new(Scrubber::for_needles(needles, Fit::InPlace))
    }

    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![first];
        match payload.len() {
            length @ 0..126 => frame.push(u8::try_from(length).unwrap()),
            length @ 126..0x1_0000 => {
                frame.push(126);
                frame.extend_from_slice(&u16::try_from(length).unwrap().to_be_bytes());
            }
            length => {
                frame.push(127);
                frame.extend_from_slice(&(length as u64).to_be_bytes());
            }
        }
        frame.extend_from_slice(payload);
        frame
    }

    fn through(chunks: &[&[u8]]) -> (Vec<u8>, u64) {
        let mut frames = scrubber();
        let mut all = Vec::new();
        for chunk in chunks {
            frames.push(Bytes::copy_from_slice(chunk), &mut |data| all.extend_from_slice(&data));
        }
        (all, frames.scrubber().replaced())
    }

    #[test]
    fn a_payload_is_searched_and_keeps_its_length() {
        for long in [0, 126, 70_000] {
            let text = [&vec![b'.'; long][..], b"key ", KEY, b"!"].concat();
            let clean = [&vec![b'.'; long][..], b"key locum_main**********!"].concat();
            let (seen, replaced) = through(&[&frame(0x81, &text)]);
            assert!(seen == frame(0x81, &clean), "{}", seen[..80.min(seen.len())].escape_ascii());
            assert_eq!(replaced, 1);
        }
    }

    #[test]
    fn the_end_of_a_frame_holds_nothing_back() {
        let mut frames = scrubber();
        for text in [&b"yes"[..], b"that is all, sk", b"sk-canary-012345678"] {
            let sent = frame(0x81, text);
            let mut seen = Vec::new();
            frames.push(sent.clone().into(), &mut |data| seen.extend_from_slice(&data));
            assert_eq!(seen, sent);
        }
    }

    #[test]
    fn a_length_is_no_text() {
        // 0x73 is `s`: read as text, header and payload were a secret.
        let mut payload = b"k-canary-0123456789".to_vec();
        payload.resize(0x73, b'.');
        let sent = frame(0x81, &payload);
        assert!(sent[1..].starts_with(KEY));
        assert_eq!(through(&[&sent]), (sent, 0));
    }

    #[test]
    fn a_mask_is_part_of_the_header() {
        let sent = [&[0x81, 0x80 | 2, 1, 2, 3, 4, 5, 6][..], &frame(0x81, KEY)].concat();
        let (seen, replaced) = through(&[&sent]);
        assert_eq!(
            (&seen[..8], &seen[10..], replaced),
            (&sent[..8], &b"locum_main**********"[..], 1)
        );
    }

    proptest! {
        #[test]
        fn any_chunking_leaves_headers_and_finds_what_stands_in_a_payload(
            payloads in prop::collection::vec(
                prop_oneof![
                    Just(KEY.to_vec()),
                    Just([b"a ", KEY, b" b"].concat()),
                    Just(Vec::new()),
                    Just(b"sk-canary-0123".to_vec()),
                    prop::collection::vec(any::<u8>(), 0..300),
                ],
                0..8,
            ),
            firsts in prop::collection::vec(any::<u8>(), 8),
            size in 1_usize..40,
        ) {
            let (mut sent, mut expected, mut keys) = (Vec::new(), Vec::new(), 0);
            for (payload, first) in payloads.iter().zip(&firsts) {
                sent.extend_from_slice(&frame(*first, payload));
                let at = payload.windows(KEY.len()).position(|window| window == KEY);
                let mut clean = payload.clone();
                if let Some(at) = at {
                    clean[at..at + KEY.len()].copy_from_slice(b"locum_main**********");
                    keys += 1;
                }
                expected.extend_from_slice(&frame(*first, &clean));
            }
            let chunks: Vec<&[u8]> = sent.chunks(size).collect();
            let (seen, replaced) = through(&chunks);
            prop_assert_eq!(replaced, keys);
            prop_assert_eq!(seen, expected);
        }
    }
}
