//! Searching what a WebSocket brings: the payloads of its frames, and never their headers (RFC 6455
//! section 5.2).
//!
//! A header tells how long its payload is, so a match is overwritten in place, and what a header says
//! is never taken for text. The end of a message holds nothing back: one that ends like the start of
//! a secret would else wait for the next, and the other side perhaps for an answer to it. A control
//! frame in the middle of a message is searched by itself, and waits where text before it does.
//! Compressed messages go on as they are, and the connection ends before a secret would be whole in
//! one.

use std::collections::VecDeque;

use bytes::Bytes;

use super::Unscrubbable;
use super::deflate::{Agreed, Deflate};
use super::search::Scrubber;

/// Two bytes, a length of eight, and a mask of four.
const LONGEST_HEADER: usize = 14;

/// How many headers may wait for the end of a match. A message that is cut into more pieces while its
/// text stands still is there to be held on to.
const MOST_GAPS: usize = 1024;

/// So much of a secret may go on with a control frame, as it may with the end of a message of gRPC.
const SHORT: usize = 8;

/// The longest payload of a control frame (RFC 6455 section 5.5).
const LONGEST_CONTROL: u64 = 125;

/// What says that no data follows.
const CLOSE: u8 = 8;

/// Follows the frames that an origin sends.
pub(super) struct FrameScrubber {
    /// Searches what is not compressed and replaces in it; of what is, a copy, message by message.
    scrubber: Scrubber,
    /// Where the handshake agreed on it.
    deflate: Option<Deflate>,
    gaps: Gaps,
    place: Place,
    /// Whether the message that is under way is compressed.
    compressed: bool,
}

/// Where in a frame the next byte stands.
enum Place {
    /// In its header, of which this many bytes have been seen.
    Header { seen: usize, bytes: [u8; LONGEST_HEADER] },
    /// In its payload, of which so much is to come.
    Payload { left: u64, frame: Frame },
    /// In a control frame, of which so much is to come.
    Control { left: usize, bytes: Vec<u8> },
}

impl Place {
    const START: Self = Self::Header { seen: 0, bytes: [0; LONGEST_HEADER] };
}

/// What a frame is, of which more is to be done at its end.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Frame {
    /// Of a kind that ends the connection when it is read: searched by itself.
    Unknown,
    /// A piece of a message, or its last.
    Data { last: bool },
}

impl FrameScrubber {
    /// Searches payloads with `scrubber`, which must keep their lengths; compressed ones too, if the
    /// handshake agreed on it.
    pub(super) fn new(scrubber: Scrubber, agreed: Option<Agreed>) -> Self {
        Self {
            scrubber,
            deflate: agreed.map(Deflate::new),
            gaps: Gaps::default(),
            place: Place::START,
            compressed: false,
        }
    }

    pub(super) fn scrubber(&self) -> &Scrubber {
        &self.scrubber
    }

    /// Takes the next bytes, and hands on all that is certain, in one piece where frames are short.
    ///
    /// # Errors
    /// A compressed message with a secret in it, or one that cannot be read. Nothing may follow.
    pub(super) fn push(
        &mut self,
        mut chunk: Bytes,
        out: &mut impl FnMut(Bytes),
    ) -> Result<(), Unscrubbable> {
        if self.is_in_the_middle(chunk.len())
            && let Place::Payload { left, .. } = &mut self.place
        {
            *left -= chunk.len() as u64;
            self.scrubber.push(chunk, out);
            return Ok(());
        }
        let mut whole = Vec::with_capacity(chunk.len() + self.scrubber.unshown());
        let mut result = Ok(());
        while !chunk.is_empty() && result.is_ok() {
            result = self.step(&mut chunk, &mut whole);
        }
        if !whole.is_empty() {
            out(whole.into());
        }
        result
    }

    /// Whether the next bytes are nothing but text of one frame, and more will come of it.
    fn is_in_the_middle(&self, length: usize) -> bool {
        match &self.place {
            Place::Payload { left, frame } => {
                let plain = *frame == Frame::Unknown || !self.compressed;
                plain && *left > length as u64 && self.gaps.is_empty()
            }
            Place::Header { .. } | Place::Control { .. } => false,
        }
    }

    /// The origin has said all: what was held back is final.
    pub(super) fn finish(&mut self, out: &mut impl FnMut(Bytes)) {
        let mut whole = Vec::new();
        let released = match std::mem::replace(&mut self.place, Place::START) {
            Place::Control { bytes, .. } => {
                self.control(&bytes, &mut whole).and_then(|()| self.release(&mut whole))
            }
            // Within a compressed message, it is no part of it.
            Place::Payload { frame: Frame::Unknown, .. } => self.end(Frame::Unknown, &mut whole),
            _ => self.release(&mut whole),
        };
        if released.is_ok() && !whole.is_empty() {
            out(whole.into());
        }
    }

    /// Takes one byte of a header or one run of payload off `chunk`.
    fn step(&mut self, chunk: &mut Bytes, whole: &mut Vec<u8>) -> Result<(), Unscrubbable> {
        match &mut self.place {
            Place::Header { seen, bytes } => {
                bytes[*seen] = chunk.split_to(1)[0];
                *seen += 1;
                let Some(left) = payload_length(&bytes[..*seen]) else { return Ok(()) };
                let header = bytes[..*seen].to_vec();
                self.place = self.begin(header, left, whole)?;
            }
            Place::Control { left, bytes } => {
                let here = (*left).min(chunk.len());
                *left -= here;
                bytes.extend_from_slice(&chunk.split_to(here));
            }
            Place::Payload { left, frame } => {
                let here = usize::try_from(*left).unwrap_or(usize::MAX).min(chunk.len());
                *left -= here as u64;
                let (text, frame) = (chunk.split_to(here), *frame);
                self.payload(frame, text, whole)?;
            }
        }
        match &mut self.place {
            Place::Payload { left: 0, frame } => {
                let frame = *frame;
                self.place = Place::START;
                self.end(frame, whole)
            }
            Place::Control { left: 0, bytes } => {
                let frame = std::mem::take(bytes);
                self.place = Place::START;
                self.control(&frame, whole)
            }
            _ => Ok(()),
        }
    }

    /// Passes a header on, or has it wait for the text before it.
    fn begin(
        &mut self,
        header: Vec<u8>,
        left: u64,
        whole: &mut Vec<u8>,
    ) -> Result<Place, Unscrubbable> {
        // A server that masks has lost its way (RFC 6455 section 5.1), or sends an agent's own frames
        // back, in which a field was filled: no search sees through a mask, and the agent would.
        if header[1] & 0x80 != 0 {
            return Err(Unscrubbable);
        }
        let (opcode, last) = (header[0] & 0x0f, header[0] & 0x80 != 0);
        let control = opcode >= CLOSE && left <= LONGEST_CONTROL;
        // A piece of the message that has begun goes on with its text, and so does what follows a ping.
        if opcode != 0 && (!control || opcode == CLOSE) {
            self.release(whole)?;
        }
        if control {
            let left = usize::try_from(left).unwrap_or_default();
            return Ok(Place::Control { left, bytes: header });
        }
        if matches!(opcode, 1 | 2) {
            self.compressed = header[0] & 0x40 != 0 && self.deflate.is_some();
        }
        let frame = if opcode <= 2 { Frame::Data { last } } else { Frame::Unknown };
        let of_compressed = self.compressed && frame != Frame::Unknown;
        self.pass(header, of_compressed, whole)?;
        Ok(Place::Payload { left, frame })
    }

    /// A control frame that is there, or as much of it as ever will be. Who has sent a ping may wait for
    /// its answer: a few bytes of text do not keep it.
    fn control(&mut self, frame: &[u8], whole: &mut Vec<u8>) -> Result<(), Unscrubbable> {
        let (header, payload) = frame.split_at(2);
        let mut clean = header.to_vec();
        self.scrubber.replace_apart(payload, &mut clean);
        if !self.compressed {
            let gaps = &mut self.gaps;
            self.scrubber.show_short(SHORT, &mut |text| gaps.lay(&text, whole));
        }
        self.pass(clean, self.compressed, whole)
    }

    /// Hands on what is no text of a message, or has it wait behind the text that waits.
    fn pass(
        &mut self,
        bytes: Vec<u8>,
        compressed: bool,
        whole: &mut Vec<u8>,
    ) -> Result<(), Unscrubbable> {
        let idle = self.scrubber.is_idle();
        match &mut self.deflate {
            Some(deflate) if compressed && !idle => deflate.hold(&bytes),
            _ if idle || self.scrubber.unshown() == 0 && self.gaps.is_empty() => {
                whole.extend_from_slice(&bytes);
                Ok(())
            }
            _ => self.gaps.add(bytes, self.scrubber.unshown()),
        }
    }

    fn payload(
        &mut self,
        frame: Frame,
        text: Bytes,
        whole: &mut Vec<u8>,
    ) -> Result<(), Unscrubbable> {
        if self.compressed
            && frame != Frame::Unknown
            && let Some(deflate) = &mut self.deflate
        {
            return deflate.push(&text, &mut self.scrubber, whole);
        }
        self.gaps.note(text.len());
        let gaps = &mut self.gaps;
        self.scrubber.push(text, &mut |text| gaps.lay(&text, whole));
        Ok(())
    }

    fn end(&mut self, frame: Frame, whole: &mut Vec<u8>) -> Result<(), Unscrubbable> {
        match frame {
            // The next piece may go on with what is held back.
            Frame::Data { last: false } => Ok(()),
            Frame::Data { last: true } => {
                if self.compressed
                    && let Some(deflate) = &mut self.deflate
                {
                    deflate.end_message(&mut self.scrubber)?;
                }
                self.release(whole)?;
                self.compressed = false;
                Ok(())
            }
            Frame::Unknown => {
                self.release_text(whole);
                Ok(())
            }
        }
    }

    /// Hands on what is held back, and takes what comes next for something new.
    fn release(&mut self, whole: &mut Vec<u8>) -> Result<(), Unscrubbable> {
        if self.compressed
            && let Some(deflate) = &mut self.deflate
        {
            return deflate.release(&mut self.scrubber, whole);
        }
        self.release_text(whole);
        Ok(())
    }

    fn release_text(&mut self, whole: &mut Vec<u8>) {
        let gaps = &mut self.gaps;
        self.scrubber.finish(&mut |text| gaps.lay(&text, whole));
    }
}

/// Headers that stand between bytes of text that are held back. A match may reach over them, and its
/// replacement is laid around them.
#[derive(Default)]
struct Gaps {
    /// Each with the bytes of text between it and the one before.
    waiting: VecDeque<(usize, Vec<u8>)>,
    /// Bytes of text that came after the last.
    since: usize,
}

impl Gaps {
    fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Has a header wait behind all text so far, of which `held` bytes are not handed on yet.
    fn add(&mut self, header: Vec<u8>, held: usize) -> Result<(), Unscrubbable> {
        if self.waiting.len() == MOST_GAPS {
            return Err(Unscrubbable);
        }
        let before = if self.waiting.is_empty() { held } else { self.since };
        self.waiting.push_back((before, header));
        self.since = 0;
        Ok(())
    }

    /// Counts text that came.
    fn note(&mut self, bytes: usize) {
        self.since += bytes;
    }

    /// Writes text that is certain, and each header in its place.
    fn lay(&mut self, mut text: &[u8], whole: &mut Vec<u8>) {
        while let Some((before, header)) = self.waiting.front_mut() {
            let (now, rest) = text.split_at((*before).min(text.len()));
            whole.extend_from_slice(now);
            *before -= now.len();
            if *before > 0 {
                return;
            }
            whole.append(header);
            self.waiting.pop_front();
            text = rest;
        }
        whole.extend_from_slice(text);
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
    use super::super::codings::{BURST, RATIO};
    use super::super::{Fit, Needles};
    use super::*;
    use crate::secret::Secret;
    use flate2::{Compress, Compression, FlushCompress};
    use proptest::prelude::*;

    const KEY: &[u8] = b"sk-canary-0123456789";

    fn scrubber(agreed: Option<Agreed>) -> FrameScrubber {
        let mut needles = Needles::default();
        needles.add(&Secret::new(KEY.to_vec()), "locum_main");
        FrameScrubber::new(Scrubber::for_needles(needles, Fit::InPlace), agreed)
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

    fn send(frames: &mut FrameScrubber, bytes: &[u8]) -> (Vec<u8>, Result<(), Unscrubbable>) {
        let mut seen = Vec::new();
        let result =
            frames.push(Bytes::copy_from_slice(bytes), &mut |data| seen.extend_from_slice(&data));
        (seen, result)
    }

    fn through(chunks: &[&[u8]]) -> (Vec<u8>, u64) {
        let mut frames = scrubber(None);
        let mut all = Vec::new();
        for chunk in chunks {
            let (seen, result) = send(&mut frames, chunk);
            assert_eq!(result, Ok(()));
            all.extend(seen);
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
    fn the_end_of_a_message_holds_nothing_back() {
        let mut frames = scrubber(None);
        for text in [&b"yes"[..], b"that is all, sk", b"sk-canary-012345678"] {
            let sent = frame(0x81, text);
            assert_eq!(send(&mut frames, &sent), (sent, Ok(())));
        }
    }

    #[test]
    fn a_secret_in_pieces_of_one_message_is_found() {
        for cut in 1..KEY.len() {
            for again in cut..KEY.len() {
                let pieces = [
                    frame(0x01, &[b"key ", &KEY[..cut]].concat()),
                    frame(0x00, &KEY[cut..again]),
                    frame(0x80, &[&KEY[again..], b"!"].concat()),
                ];
                let stars = b"locum_main**********";
                let clean = [
                    frame(0x01, &[b"key ", &stars[..cut]].concat()),
                    frame(0x00, &stars[cut..again]),
                    frame(0x80, &[&stars[again..], b"!"].concat()),
                ];
                let (seen, replaced) = through(&pieces.each_ref().map(Vec::as_slice));
                assert_eq!((seen, replaced), (clean.concat(), 1), "{cut} {again}");
            }
        }
    }

    #[test]
    fn a_ping_between_two_pieces_does_not_wait() {
        let mut frames = scrubber(None);
        let (first, ping, last) = (frame(0x01, b"it is"), frame(0x89, b"?"), frame(0x80, b" all"));
        let (seen, _) = send(&mut frames, &first);
        assert_eq!(seen, first[..first.len() - 1], "the next piece may go on with the secret");
        let (seen, _) = send(&mut frames, &ping);
        assert_eq!(seen, [&first[first.len() - 1..], &ping].concat());
        assert_eq!(send(&mut frames, &last), (last, Ok(())));
    }

    #[test]
    fn a_secret_that_a_ping_cuts_is_found() {
        let stars = b"locum_main**********";
        for cut in 1..KEY.len() {
            let (key, rest) = KEY.split_at(cut);
            let ping = [frame(0x89, b"?"), frame(0x8a, KEY)].concat();
            let sent = [frame(0x01, key), ping, frame(0x00, b""), frame(0x80, rest)].concat();
            let shown = if cut > SHORT { 0 } else { cut };
            let clean = [&KEY[..shown], &stars[shown..]].concat();
            let ping = [frame(0x89, b"?"), frame(0x8a, stars)].concat();
            let (first, rest) = clean.split_at(cut);
            let clean = [frame(0x01, first), ping, frame(0x00, b""), frame(0x80, rest)].concat();
            for size in [1, 3, sent.len()] {
                let chunks: Vec<&[u8]> = sent.chunks(size).collect();
                assert_eq!(
                    through(&chunks),
                    (clean.clone(), 2),
                    "cut at {cut}, in pieces of {size}"
                );
            }
        }
    }

    #[test]
    fn a_close_does_not_wait() {
        let mut frames = scrubber(None);
        let sent = [frame(0x01, &KEY[..12]), frame(0x88, b"\x03\xe8")].concat();
        assert_eq!(send(&mut frames, &sent), (sent, Ok(())));
    }

    #[test]
    fn pings_are_not_gathered_for_ever() {
        for first in [frame(0x01, &KEY[..12]), frame(0x41, &compressed(&[&KEY[..12]])[0])] {
            let mut frames = scrubber(Some(KEEPS));
            let (_, result) = send(&mut frames, &first);
            assert_eq!(result, Ok(()));
            let (seen, result) =
                send(&mut frames, &frame(0x89, &[b'.'; 125]).repeat(MOST_GAPS + 1));
            assert_eq!((seen.len(), result), (0, Err(Unscrubbable)));
        }
    }

    #[test]
    fn pieces_that_say_nothing_are_not_gathered_for_ever() {
        let mut frames = scrubber(None);
        assert_eq!(send(&mut frames, &frame(0x01, b"s")), (vec![0x01, 1], Ok(())));
        let (seen, result) = send(&mut frames, &frame(0x00, b"").repeat(MOST_GAPS));
        assert_eq!((seen.len(), result), (0, Ok(())));
        assert_eq!(send(&mut frames, &frame(0x00, b"")).1, Err(Unscrubbable));
    }

    /// Messages as a server with one context for all would compress them.
    fn compressed(messages: &[&[u8]]) -> Vec<Vec<u8>> {
        let mut deflate = Compress::new(Compression::default(), false);
        let mut compress = |message: &&[u8]| {
            let mut out = Vec::with_capacity(message.len() + 1000);
            deflate.compress_vec(message, &mut out, FlushCompress::Sync).unwrap();
            assert!(out.ends_with(&[0, 0, 0xff, 0xff]), "it is all there");
            out.truncate(out.len() - 4);
            out
        };
        messages.iter().map(&mut compress).collect()
    }

    const KEEPS: Agreed = Agreed { forgets: false };

    #[test]
    fn compressed_messages_pass_as_they_are() {
        let long = b"all work and no play ".repeat(5000);
        let messages: [&[u8]; 6] = [b"hello", &long, b"", b"yes", b"hello", b"sk-canary-01234567"];
        for (agreed, messages) in [
            (KEEPS, compressed(&messages)),
            (Agreed { forgets: true }, messages.map(|m| compressed(&[m]).remove(0)).to_vec()),
        ] {
            let mut frames = scrubber(Some(agreed));
            for message in messages {
                // In three pieces, with a ping between, byte by byte.
                let (first, rest) = message.split_at(message.len() / 3);
                let (second, third) = rest.split_at(rest.len() / 2);
                let sent = [
                    frame(0x41, first),
                    frame(0x89, b"ping"),
                    frame(0x00, second),
                    frame(0x80, third),
                ];
                let sent = sent.concat();
                let seen: Vec<u8> = sent.chunks(1).flat_map(|b| send(&mut frames, b).0).collect();
                assert!(seen == sent, "{} of {} bytes", seen.len(), sent.len());
            }
            // One that is not compressed is searched as ever.
            let (seen, _) = send(&mut frames, &frame(0x81, KEY));
            assert_eq!(seen, frame(0x81, b"locum_main**********"));
        }
    }

    #[test]
    fn compressed_messages_of_any_kind_and_size_pass() {
        let mut random = 1_u32;
        let noise = std::iter::repeat_with(|| {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            random.to_be_bytes()[0]
        });
        let noise: Vec<u8> = noise.take(500_000).collect();
        let long = b"long ".repeat(100_000);
        let mut frames = scrubber(Some(KEEPS));
        for message in compressed(&[b"hello", &long, &noise, &long[..4096], &noise[..8192]]) {
            let sent = frame(0xc1, &message);
            for (number, chunk) in sent.chunks(16 * 1024).enumerate() {
                assert_eq!(send(&mut frames, chunk).1, Ok(()), "{number} of {}", sent.len());
            }
        }
    }

    #[test]
    fn a_compressed_secret_does_not_pass_however_it_is_cut() {
        let text = [b"before it, and then the key: ", KEY, b" and more"].concat();
        // The second time it is hardly more than a reference to the first.
        let messages = compressed(&[b"hello, sk-canary-", &text]);
        for size in 1..messages[1].len() + 2 {
            let mut frames = scrubber(Some(KEEPS));
            assert_eq!(send(&mut frames, &frame(0xc1, &messages[0])).1, Ok(()));
            let mut seen = Vec::new();
            let sent = frame(0xc1, &messages[1]);
            let ended = sent.chunks(size).any(|chunk| {
                let (more, result) = send(&mut frames, chunk);
                seen.extend(more);
                result.is_err()
            });
            assert!(ended && frames.scrubber().replaced() == 1, "in pieces of {size}");
            // What passed holds no more of the key than an ordinary text.
            let mut inflate = flate2::Decompress::new(false);
            let mut told = Vec::with_capacity(1000);
            for part in [&messages[0][..], &[0, 0, 0xff, 0xff], &seen[2.min(seen.len())..]] {
                inflate.decompress_vec(part, &mut told, flate2::FlushDecompress::Sync).unwrap();
            }
            let told = String::from_utf8(told).unwrap();
            let told = told.strip_prefix("hello, sk-canary-").unwrap();
            assert!(!told.contains("sk"), "in pieces of {size}: {told}");
        }
    }

    #[test]
    fn a_compressed_secret_that_pings_cut_does_not_pass() {
        let message = compressed(&[&[b"the key: ", KEY, b"!"].concat()]).remove(0);
        for cut in 1..message.len() {
            let (first, rest) = message.split_at(cut);
            let sent = [frame(0x41, first), frame(0x89, b"?"), frame(0x80, rest)].concat();
            let mut frames = scrubber(Some(KEEPS));
            let (seen, result) = send(&mut frames, &sent);
            assert_eq!(result, Err(Unscrubbable), "cut at {cut}");
            assert!(seen.len() < sent.len() - KEY.len(), "cut at {cut}: {}", seen.escape_ascii());
        }
    }

    /// What an origin sends to have us inflate is held to what texts shrink by, as bodies are.
    #[test]
    fn compressed_messages_that_grow_beyond_all_texts_end() {
        let zeros = vec![b'0'; 64 * 1024 * 1024];
        let message = compressed(&[&zeros]).remove(0);
        let mut frames = scrubber(Some(KEEPS));
        let mut sent = 0_u64;
        let end = frame(0xc1, &message).chunks(512).position(|chunk| {
            sent += chunk.len() as u64;
            send(&mut frames, chunk).1.is_err()
        });
        assert!(end.is_some(), "all of {} bytes", message.len());
        let all = (BURST + RATIO * sent) / 1000;
        assert!(sent < all, "{sent} bytes for {all}");
        // What texts do is far from it.
        let text =
            br#"{"type":"delta","index":0,"text":"of an answer, word by word"}"#.repeat(400_000);
        let mut frames = scrubber(Some(KEEPS));
        for message in compressed(&text.chunks(62).collect::<Vec<_>>()) {
            assert_eq!(send(&mut frames, &frame(0xc1, &message)).1, Ok(()));
        }
    }

    #[test]
    fn what_cannot_be_inflated_does_not_pass() {
        let mut frames = scrubber(Some(KEEPS));
        assert_eq!(send(&mut frames, &frame(0xc1, &[0x07; 20])).1, Err(Unscrubbable));
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
    fn a_frame_that_an_origin_masks_is_refused() {
        let masked = [0x81, 0x80 | 2, 1, 2, 3, 4, 5, 6];
        let sent = [&frame(0x81, b"before")[..], &masked, &frame(0x81, KEY)].concat();
        let mut frames = scrubber(None);
        let (seen, result) = send(&mut frames, &sent);
        assert_eq!((seen, result), (frame(0x81, b"before"), Err(Unscrubbable)));
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
            // Whole messages: what stands in pieces of one is searched as one.
            firsts in prop::collection::vec(any::<u8>().prop_map(|first| first | 0x80), 8),
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
