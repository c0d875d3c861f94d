//! The frames that a client sends in a WebSocket (RFC 6455 section 5) whose messages may hold a
//! reference: texts are gathered, everything else passes as it came.

use bytes::Bytes;

/// Two bytes, a length of eight, and a mask of four.
const LONGEST_HEADER: usize = 14;

/// What came of some bytes.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece {
    /// To be passed on as it is.
    Raw(Bytes),
    /// A whole message of text.
    Text {
        /// What it says.
        text: Bytes,
        /// The frames that say it.
        raw: Bytes,
    },
}

/// Why a client's frames cannot be followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unfollowed {
    /// They break the protocol, or use an extension that was not agreed on.
    Malformed,
    /// A text is longer than may be held.
    TooLarge,
}

/// Follows a client's frames.
#[derive(Debug)]
pub struct ClientFrames {
    place: Place,
    /// The text that has begun.
    text: Option<Gathered>,
    /// Whether a message that is no text has begun.
    other: bool,
    /// The most bytes of one text.
    most: usize,
}

#[derive(Debug, Default)]
struct Gathered {
    text: Vec<u8>,
    raw: Vec<u8>,
}

impl Gathered {
    /// Takes bytes that are masked, of which the first is the one at `at` of its frame.
    fn unmask(&mut self, bytes: &[u8], mut mask: [u8; 4], at: usize) {
        mask.rotate_left(at % 4);
        let start = self.text.len();
        self.text.extend_from_slice(bytes);
        for word in self.text[start..].chunks_mut(4) {
            word.iter_mut().zip(mask).for_each(|(byte, key)| *byte ^= key);
        }
    }
}

#[derive(Debug)]
enum Place {
    Header { seen: usize, bytes: [u8; LONGEST_HEADER] },
    Payload { left: u64, kind: Kind, last: bool },
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    /// Held: the mask, and how far in it the next byte is.
    Text { mask: [u8; 4], at: usize },
    /// Passed on; of a message or of none.
    Other { control: bool },
}

impl Place {
    const START: Self = Self::Header { seen: 0, bytes: [0; LONGEST_HEADER] };
}

impl ClientFrames {
    /// Texts are gathered up to `most` bytes.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self { place: Place::START, text: None, other: false, most }
    }

    /// How many bytes are held of a text that is not over.
    #[must_use]
    pub fn gathered(&self) -> usize {
        self.text.as_ref().map_or(0, |gathered| gathered.text.len() + gathered.raw.len())
    }

    /// Takes the next bytes.
    ///
    /// # Errors
    /// [`Unfollowed`], and then nothing more may be sent.
    pub fn push(&mut self, mut chunk: Bytes) -> Result<Vec<Piece>, Unfollowed> {
        let mut pieces = Vec::new();
        while !chunk.is_empty() {
            self.step(&mut chunk, &mut pieces)?;
            if let Place::Payload { left: 0, kind, last } = self.place {
                self.place = Place::START;
                self.end(kind, last, &mut pieces);
            }
        }
        Ok(pieces)
    }

    /// Takes one byte of a header or one run of payload off `chunk`.
    fn step(&mut self, chunk: &mut Bytes, pieces: &mut Vec<Piece>) -> Result<(), Unfollowed> {
        match &mut self.place {
            Place::Header { seen, bytes } => {
                bytes[*seen] = chunk.split_to(1)[0];
                *seen += 1;
                let (header, length) = (*bytes, *seen);
                let header = &header[..length];
                let Some(left) = payload_length(header) else { return Ok(()) };
                let kind = self.begin(header, left, pieces)?;
                self.place = Place::Payload { left, kind, last: header[0] & 0x80 != 0 };
            }
            Place::Payload { left, kind, .. } => {
                let here = usize::try_from(*left).unwrap_or(usize::MAX).min(chunk.len());
                *left -= here as u64;
                let run = chunk.split_to(here);
                match kind {
                    Kind::Other { .. } => pieces.push(Piece::Raw(run)),
                    Kind::Text { mask, at } => {
                        let Some(gathered) = &mut self.text else { return Ok(()) };
                        gathered.raw.extend_from_slice(&run);
                        gathered.unmask(&run, *mask, *at);
                        *at += run.len();
                    }
                }
            }
        }
        Ok(())
    }

    /// A header is whole.
    fn begin(
        &mut self,
        header: &[u8],
        length: u64,
        pieces: &mut Vec<Piece>,
    ) -> Result<Kind, Unfollowed> {
        let (first, opcode) = (header[0], header[0] & 0x0f);
        // A client masks what it sends, and no extension was agreed on that uses the other bits.
        if first & 0x70 != 0 || header[1] & 0x80 == 0 {
            return Err(Unfollowed::Malformed);
        }
        let open = self.text.is_some() || self.other;
        match opcode {
            8..=10 if first & 0x80 != 0 && length < 126 => {
                pieces.push(Piece::Raw(Bytes::copy_from_slice(header)));
                return Ok(Kind::Other { control: true });
            }
            0 if open => {}
            1 if !open => self.text = Some(Gathered::default()),
            2 if !open => self.other = true,
            _ => return Err(Unfollowed::Malformed),
        }
        let Some(gathered) = &mut self.text else {
            pieces.push(Piece::Raw(Bytes::copy_from_slice(header)));
            return Ok(Kind::Other { control: false });
        };
        // Counted with its headers: of pieces without text there could be any number.
        let whole = (gathered.raw.len() as u64).saturating_add(length);
        if whole > self.most as u64 {
            return Err(Unfollowed::TooLarge);
        }
        gathered.raw.extend_from_slice(header);
        let mask = header.last_chunk::<4>().copied().unwrap_or_default();
        Ok(Kind::Text { mask, at: 0 })
    }

    /// A frame is over.
    fn end(&mut self, kind: Kind, last: bool, pieces: &mut Vec<Piece>) {
        if matches!(kind, Kind::Other { control: true }) || !last {
            return;
        }
        self.other = false;
        if let Some(Gathered { text, raw }) = self.text.take() {
            pieces.push(Piece::Text { text: text.into(), raw: raw.into() });
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

/// A text in one frame of its own, as a client sends it.
#[must_use]
pub fn text_frame(text: &[u8], mask: [u8; 4]) -> zeroize::Zeroizing<Vec<u8>> {
    let mut frame = zeroize::Zeroizing::new(Vec::with_capacity(LONGEST_HEADER + text.len()));
    frame.push(0x81);
    // With the bit of the mask: 126 and 127 say that a longer length follows.
    match (u8::try_from(text.len()), u16::try_from(text.len())) {
        (Ok(short @ 0..126), _) => frame.push(0x80 | short),
        (_, Ok(long)) => {
            frame.push(0xfe);
            frame.extend_from_slice(&long.to_be_bytes());
        }
        _ => {
            frame.push(0xff);
            frame.extend_from_slice(&(text.len() as u64).to_be_bytes());
        }
    }
    frame.extend_from_slice(&mask);
    frame.extend(text.iter().zip(mask.iter().cycle()).map(|(byte, key)| byte ^ key));
    frame
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = text_frame(payload, [1, 2, 3, 4]).to_vec();
        frame[0] = first;
        frame
    }

    /// What went in, in pieces of this size: all bytes that came out, and the texts among them.
    fn through(bytes: &[u8], size: usize) -> Result<(Vec<u8>, Vec<Vec<u8>>), Unfollowed> {
        let mut frames = ClientFrames::new(1000);
        let (mut out, mut texts) = (Vec::new(), Vec::new());
        for chunk in bytes.chunks(size) {
            for piece in frames.push(Bytes::copy_from_slice(chunk))? {
                match piece {
                    Piece::Raw(raw) => out.extend_from_slice(&raw),
                    Piece::Text { text, raw } => {
                        texts.push(text.to_vec());
                        out.extend_from_slice(&raw);
                    }
                }
            }
        }
        Ok((out, texts))
    }

    #[test]
    fn texts_are_read_and_the_rest_passes() {
        let sent = [
            frame(0x82, b"binary"),
            frame(0x81, b"one"),
            frame(0x89, b"ping"),
            frame(0x81, &[b'x'; 300]),
            frame(0x01, b"th"),
            frame(0x00, b""),
            frame(0x80, b"ree"),
            frame(0x88, b""),
        ]
        .concat();
        for size in [1, 2, 3, 7, sent.len()] {
            let (out, texts) = through(&sent, size).unwrap();
            assert_eq!(out, sent);
            assert_eq!(texts, [b"one".to_vec(), vec![b'x'; 300], b"three".to_vec()]);
        }
    }

    #[test]
    fn a_ping_does_not_wait_for_the_end_of_a_message() {
        let mut frames = ClientFrames::new(1000);
        assert_eq!(frames.push(frame(0x01, b"begun").into()), Ok(vec![]));
        let pieces = frames.push(frame(0x89, b"?").into()).unwrap();
        let raw: Vec<u8> = pieces
            .into_iter()
            .flat_map(|p| match p {
                Piece::Raw(raw) => raw.to_vec(),
                Piece::Text { .. } => panic!("it is not over"),
            })
            .collect();
        assert_eq!(raw, frame(0x89, b"?"));
    }

    #[test]
    fn what_cannot_be_followed_is_an_error() {
        let mut unmasked = frame(0x81, b"x");
        unmasked[1] = 1;
        for (bytes, why) in [
            (unmasked, Unfollowed::Malformed),
            (frame(0xc1, b"compressed"), Unfollowed::Malformed),
            (frame(0x80, b"no begin"), Unfollowed::Malformed),
            ([frame(0x01, b"x"), frame(0x81, b"y")].concat(), Unfollowed::Malformed),
            (frame(0x83, b"no such kind"), Unfollowed::Malformed),
            (frame(0x09, b"ping in pieces"), Unfollowed::Malformed),
            (frame(0x81, &[0; 1001]), Unfollowed::TooLarge),
            ([frame(0x01, b""), frame(0x00, b"").repeat(1000)].concat(), Unfollowed::TooLarge),
        ] {
            assert_eq!(
                through(&bytes, 5),
                Err(why),
                "{}",
                bytes[..9.min(bytes.len())].escape_ascii()
            );
        }
    }

    proptest! {
        /// Whatever is sent, what comes out is the same bytes or an error, for every chunking.
        #[test]
        fn nothing_is_lost_or_added(
            all in prop::collection::vec((0..11u8, any::<bool>(), prop::collection::vec(any::<u8>(), 0..200)), 0..9),
            noise in prop::collection::vec(any::<u8>(), 0..6),
            size in 1..50usize,
        ) {
            let mut sent: Vec<u8> = Vec::new();
            for (opcode, last, payload) in &all {
                sent.extend(frame(opcode | u8::from(*last) << 7, payload));
            }
            sent.extend(noise);
            let whole = through(&sent, sent.len().max(1));
            let pieces = through(&sent, size);
            prop_assert_eq!(whole.is_err(), pieces.is_err());
            if let (Ok((whole, texts)), Ok((pieces, same))) = (whole, pieces) {
                prop_assert!(sent.len() >= whole.len());
                // All but a text that has begun has come out, in some order only pings may change.
                prop_assert_eq!(&texts, &same);
                prop_assert_eq!(whole.len().abs_diff(pieces.len()) < 15, true);
            }
        }
    }
}
