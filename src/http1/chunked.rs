//! The chunked coding (RFC 9112 section 7.1), read strictly and without a copy.

use std::error::Error;
use std::fmt;

use bytes::{Buf as _, Bytes, BytesMut};
use http::HeaderMap;

use super::head::{Limits, read_trailers};

/// The most bytes of extensions in one body. Nobody in use sends any; without a bound they would be a body
/// that no limit counts. As much as hyper takes.
const EXTENSIONS: usize = 16 * 1024;

/// The digits of a size: more than a `u64` holds are no size.
const DIGITS: u32 = 16;

/// What comes next of a body.
#[derive(Debug)]
pub enum Piece {
    /// Some of it; never empty.
    Data(Bytes),
    /// Its end, and the fields behind it.
    End(HeaderMap),
}

/// Why a body cannot be read as chunks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChunksError {
    /// The line with the size of a chunk is none.
    Size,
    /// A chunk is longer or shorter than it said.
    Unended,
    /// There is more in extensions than may be.
    Extensions,
    /// The fields behind it cannot be read, or are too many.
    Trailers,
}

impl fmt::Display for ChunksError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Size => "the size of a chunk cannot be read",
            Self::Unended => "a chunk does not end where its size says",
            Self::Extensions => "there are more than 16 KiB of chunk extensions",
            Self::Trailers => "the trailers cannot be read, or are too many",
        })
    }
}

impl Error for ChunksError {}

/// Reads one body. What is taken of the buffer is taken for good, so it may come in any pieces.
#[derive(Debug)]
pub struct Chunks {
    place: Place,
    /// How much is left for extensions.
    extensions: usize,
    trailers: Limits,
}

/// What the next byte is.
#[derive(Clone, Copy, Debug)]
enum Place {
    /// Of a size, so many digits of which have been read.
    Size {
        size: u64,
        digits: u32,
    },
    /// White space behind a size.
    Space {
        size: u64,
    },
    Extension {
        size: u64,
    },
    /// The LF of a line with a size.
    SizeEnd {
        size: u64,
    },
    /// So much is left of a chunk.
    Data {
        left: u64,
    },
    /// The CR and the LF behind a chunk.
    Cr,
    Lf,
    /// Trailers, of which so many bytes hold no end.
    Trailers {
        seen: usize,
    },
    Over,
}

impl Chunks {
    /// Before the first chunk. Trailers may be as long as `trailers` says.
    #[must_use]
    pub fn new(trailers: Limits) -> Self {
        Self { place: Place::Size { size: 0, digits: 0 }, extensions: EXTENSIONS, trailers }
    }

    /// Whether the end has been given out.
    #[must_use]
    pub fn is_over(&self) -> bool {
        matches!(self.place, Place::Over)
    }

    /// Takes the next piece out of what was read; None when that takes more of it, or the body is over.
    ///
    /// # Errors
    /// When it is not this coding. Nothing behind that can be read.
    pub fn read(&mut self, from: &mut BytesMut) -> Result<Option<Piece>, ChunksError> {
        loop {
            match &mut self.place {
                Place::Over => return Ok(None),
                Place::Data { left } => {
                    if from.is_empty() {
                        return Ok(None);
                    }
                    let here = usize::try_from(*left).map_or(from.len(), |l| l.min(from.len()));
                    *left -= here as u64;
                    if *left == 0 {
                        self.place = Place::Cr;
                    }
                    let data = from.split_to(here).freeze();
                    // What ends the chunk is mostly there, and the task need not come back for it.
                    if matches!(self.place, Place::Cr) && from.starts_with(b"\r\n") {
                        from.advance(2);
                        self.place = Place::Size { size: 0, digits: 0 };
                    }
                    return Ok(Some(Piece::Data(data)));
                }
                Place::Trailers { seen } => {
                    let fields = read_trailers(from, seen, self.trailers);
                    let Some(fields) = fields.map_err(|_| ChunksError::Trailers)? else {
                        return Ok(None);
                    };
                    self.place = Place::Over;
                    return Ok(Some(Piece::End(fields)));
                }
                _ => {
                    let Some(byte) = from.first().copied() else { return Ok(None) };
                    from.advance(1);
                    self.place = self.line(byte)?;
                }
            }
        }
    }

    /// Whether the body is over, of which the end is taken out as well if it is at hand and has no fields:
    /// whoever has the last of the data need not come back for it.
    pub fn ends(&mut self, from: &mut BytesMut) -> bool {
        const END: &[u8] = b"0\r\n\r\n";
        if matches!(self.place, Place::Size { digits: 0, .. }) && from.starts_with(END) {
            from.advance(END.len());
            self.place = Place::Over;
        }
        self.is_over()
    }

    /// The place behind a byte that is neither data nor of a trailer.
    fn line(&mut self, byte: u8) -> Result<Place, ChunksError> {
        Ok(match (self.place, byte) {
            (Place::Size { size, digits }, _) if byte.is_ascii_hexdigit() && digits < DIGITS => {
                let digit = char::from(byte).to_digit(16).unwrap_or_default();
                Place::Size { size: size << 4 | u64::from(digit), digits: digits + 1 }
            }
            (Place::Size { size, digits: 1.. } | Place::Space { size }, b' ' | b'\t') => {
                self.count_extension()?;
                Place::Space { size }
            }
            (Place::Size { size, digits: 1.. } | Place::Space { size }, b';') => {
                Place::Extension { size }
            }
            (
                Place::Size { size, digits: 1.. }
                | Place::Space { size }
                | Place::Extension { size },
                b'\r',
            ) => Place::SizeEnd { size },
            // A line that ends without a CR is where two readers part.
            (Place::Extension { size }, byte) if byte != b'\n' => {
                self.count_extension()?;
                Place::Extension { size }
            }
            (Place::SizeEnd { size: 0 }, b'\n') => Place::Trailers { seen: 0 },
            (Place::SizeEnd { size }, b'\n') => Place::Data { left: size },
            (Place::Cr, b'\r') => Place::Lf,
            (Place::Lf, b'\n') => Place::Size { size: 0, digits: 0 },
            (Place::Cr | Place::Lf, _) => return Err(ChunksError::Unended),
            _ => return Err(ChunksError::Size),
        })
    }

    fn count_extension(&mut self) -> Result<(), ChunksError> {
        self.extensions = self.extensions.checked_sub(1).ok_or(ChunksError::Extensions)?;
        Ok(())
    }
}

const HEX: &[u8; 16] = b"0123456789abcdef";

/// Writes the line that goes before a chunk of `size` bytes, which has to be at least one. Behind the chunk
/// goes `\r\n`.
pub fn write_size(size: usize, out: &mut Vec<u8>) {
    debug_assert!(size > 0, "a chunk of no bytes is the end");
    let digits = (usize::BITS - size.leading_zeros()).div_ceil(4).max(1);
    out.extend((0..digits).rev().map(|at| HEX[size >> (4 * at) & 15]));
    out.extend_from_slice(b"\r\n");
}

/// Writes the end of a body, with these fields behind it.
pub fn write_end(trailers: Option<&HeaderMap>, out: &mut Vec<u8>) {
    out.extend_from_slice(b"0\r\n");
    if let Some(trailers) = trailers {
        super::write_fields(trailers, &super::Spelling::Lower, out);
    }
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRAILERS: Limits = Limits { bytes: 256, fields: 4 };

    /// All of a body that comes in these pieces: its data, its trailers, and what is left.
    fn read<'p>(
        pieces: impl IntoIterator<Item = &'p [u8]>,
    ) -> Result<(Vec<u8>, Option<HeaderMap>, BytesMut), ChunksError> {
        let (mut chunks, mut from) = (Chunks::new(TRAILERS), BytesMut::new());
        let (mut data, mut end) = (Vec::new(), None);
        for piece in pieces {
            from.extend_from_slice(piece);
            while let Some(piece) = chunks.read(&mut from)? {
                match piece {
                    Piece::Data(more) => {
                        assert!(!more.is_empty());
                        data.extend_from_slice(&more);
                    }
                    Piece::End(fields) => end = Some(fields),
                }
            }
        }
        assert_eq!(chunks.is_over(), end.is_some());
        Ok((data, end, from))
    }

    #[test]
    fn a_body_is_the_same_however_it_comes() {
        let text =
            b"3\r\nabc\r\n0A;x=\"y\"\r\n0123456789\r\n1 \r\nz\r\n000\r\nX-Sum: 1\r\n\r\nGET /";
        let whole = read([&text[..]]).unwrap();
        assert_eq!(whole.0, b"abc0123456789z");
        assert_eq!(whole.1.as_ref().unwrap()["x-sum"], "1");
        assert_eq!(&whole.2[..], b"GET /");
        for cut in 0..text.len() {
            assert_eq!(read([&text[..cut], &text[cut..]]).unwrap(), whole, "at {cut}");
        }
        assert_eq!(read(text.chunks(1)).unwrap(), whole);
        for end in ["0\r\n\r\n", "00;a\r\n\r\n"] {
            let (data, trailers, left) = read(end.as_bytes().chunks(1)).unwrap();
            assert!(data.is_empty() && trailers.unwrap().is_empty() && left.is_empty());
        }
    }

    #[test]
    fn what_two_readers_could_part_over_is_refused() {
        use ChunksError::{Extensions, Size, Trailers, Unended};
        let long = format!("1;{}\r\na\r\n", "x".repeat(EXTENSIONS + 1));
        let many = format!("0\r\n{}\r\n", "a: b\r\n".repeat(7));
        for (text, error) in [
            ("\r\n", Size),
            ("x\r\n", Size),
            ("-1\r\n", Size),
            ("0x1\r\na\r\n", Size),
            ("1\na\r\n", Size),
            ("1;a\nb\r\n", Size),
            ("1\r\r\na", Size),
            ("1 1\r\na", Size),
            (" 1\r\na", Size),
            ("10000000000000000\r\n", Size),
            ("1\r\nab\r\n", Unended),
            ("1\r\na\n", Unended),
            ("1\r\na\rb", Unended),
            ("0\r\n\n", Trailers),
            ("0\r\na b\r\n\r\n", Trailers),
            ("0\r\na: b\r\n c\r\n\r\n", Trailers),
            (&long, Extensions),
            (&many, Trailers),
            (many.trim_end(), Trailers),
        ] {
            assert_eq!(read([text.as_bytes()]).unwrap_err(), error, "{}", text.escape_debug());
            assert_eq!(
                read(text.as_bytes().chunks(1)).unwrap_err(),
                error,
                "{}",
                text.escape_debug()
            );
        }
    }

    #[test]
    fn an_end_that_is_at_hand_is_taken_with_the_data() {
        for (text, ends, left) in [
            (&b"1\r\na\r\n0\r\n\r\nnext"[..], true, &b"next"[..]),
            (b"1\r\na\r\n0\r\n\r", false, b"0\r\n\r"),
            (b"1\r\na\r\n0\r\nx: 1\r\n\r\n", false, b"0\r\nx: 1\r\n\r\n"),
            (b"2\r\na", false, b""),
            // Behind data, and in the place of what ends its chunk.
            (b"1\r\na0\r\n\r\n", false, b"0\r\n\r\n"),
        ] {
            let (mut chunks, mut from) = (Chunks::new(TRAILERS), BytesMut::from(text));
            assert!(matches!(chunks.read(&mut from), Ok(Some(Piece::Data(data))) if data == "a"));
            assert_eq!(
                (chunks.ends(&mut from), &from[..]),
                (ends, left),
                "{}",
                text.escape_ascii()
            );
        }
    }

    #[test]
    fn what_is_written_reads_back() {
        for size in [1, 9, 15, 16, 255, 4096, 70_000] {
            let data = vec![b'x'; size];
            let mut text = Vec::new();
            write_size(size, &mut text);
            assert_eq!(text, format!("{size:x}\r\n").into_bytes());
            text.extend_from_slice(&data);
            text.extend_from_slice(b"\r\n");
            let trailers = HeaderMap::from_iter([("x-sum".parse().unwrap(), "1".parse().unwrap())]);
            write_end(Some(&trailers), &mut text);
            assert_eq!(read([&text[..]]).unwrap(), (data, Some(trailers), BytesMut::new()));
        }
        let mut end = Vec::new();
        write_end(None, &mut end);
        assert_eq!(end, b"0\r\n\r\n");
    }
}
