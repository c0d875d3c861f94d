//! Undoing the content codings of an answer (RFC 9110 section 8.4), so that it can be searched.
//!
//! Locum asks for none; some origins answer in one all the same, because an object is stored so. What
//! is undone is passed on undone. Nothing is gathered: a piece is decoded when it is asked for, and the
//! memory is that of each coding's window.

use std::io::Write as _;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use brotli_decompressor::{BrotliDecompressStream, BrotliResult, BrotliState, StandardAlloc};
use bytes::{Buf as _, Bytes};
use flate2::write::MultiGzDecoder;
use flate2::{Decompress, FlushDecompress, Status};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http_body::{Body, Frame, SizeHint};
use zstd_safe::{DCtx, DParameter, InBuffer, OutBuffer};

use super::engine::{ScrubError, Unscrubbable};

/// The most that one step decodes: as much as is read from a connection at once.
const PIECE: usize = 16 * 1024;

/// Codings on top of each other. Two are a mistake that happens, and each costs a window.
const MOST_STACKED: usize = 3;

/// How much longer than what came a text may become, beyond [`BURST`]. Texts that people write shrink to
/// a tenth; Apache's `DeflateInflateRatioLimit` is the same.
pub(super) const RATIO: u64 = 200;

/// What is decoded at any ratio: a long table of zeros is no attack.
pub(super) const BURST: u64 = 16 * 1024 * 1024;

/// The largest window of Zstandard, as a power of two: the 8 MiB that RFC 9659 allows in HTTP. Those of
/// the others end by themselves at 32 KiB (deflate) and 16 MiB (brotli).
const ZSTD_WINDOW: u32 = 23;

/// One content coding that can be undone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Coding {
    Gzip,
    Deflate,
    Brotli,
    Zstd,
}

impl Coding {
    fn named(name: &[u8]) -> Option<Self> {
        const NAMES: [(&[u8], Coding); 5] = [
            (b"gzip", Coding::Gzip),
            // RFC 9110 section 8.4.1.3.
            (b"x-gzip", Coding::Gzip),
            (b"deflate", Coding::Deflate),
            (b"br", Coding::Brotli),
            (b"zstd", Coding::Zstd),
        ];
        let found = NAMES.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map(|(_, coding)| *coding)
    }

    /// What the head says, in the order in which the codings were applied. None of them for `identity`.
    ///
    /// # Errors
    /// For a coding that is not known, or more of them than make sense.
    pub(super) fn all(headers: &HeaderMap) -> Result<Vec<Self>, Unscrubbable> {
        let mut all = Vec::new();
        for value in headers.get_all(header::CONTENT_ENCODING) {
            let names = value.as_bytes().split(|b| *b == b',').map(<[u8]>::trim_ascii);
            for name in names.filter(|n| !n.is_empty() && !n.eq_ignore_ascii_case(b"identity")) {
                all.push(Self::named(name).ok_or(Unscrubbable)?);
            }
        }
        if all.len() > MOST_STACKED { Err(Unscrubbable) } else { Ok(all) }
    }
}

/// Fields that are true of the coded bytes only.
const OF_CODED: [HeaderName; 7] = [
    header::CONTENT_ENCODING,
    header::CONTENT_LENGTH,
    header::ACCEPT_RANGES,
    HeaderName::from_static("content-md5"),
    HeaderName::from_static("digest"),
    HeaderName::from_static("content-digest"),
    HeaderName::from_static("repr-digest"),
];

/// Makes a head say what is true of the decoded bytes. `Vary` stays: the origin chose by it.
pub(super) fn decoded_head(headers: &mut HeaderMap) {
    for name in OF_CODED {
        headers.remove(name);
    }
    // Not byte for byte what the origin's validator stands for (RFC 9110 section 8.8.1).
    if let Some(tag) = headers.get(header::ETAG).filter(|tag| !tag.as_bytes().starts_with(b"W/")) {
        let weak = HeaderValue::from_bytes(&[b"W/", tag.as_bytes()].concat());
        match weak {
            Ok(weak) => headers.insert(header::ETAG, weak),
            Err(_) => headers.remove(header::ETAG),
        };
    }
}

/// Undoes all codings of one body, piece by piece.
pub(super) struct Decoder {
    /// In the order of undoing: the first takes what comes from the origin.
    stages: Vec<Stage>,
    /// What came in all.
    fed: u64,
}

struct Stage {
    undo: Undo,
    input: Bytes,
    /// Whether it has said all that it knows. A decoder that is asked in vain calls it a fault.
    dry: bool,
    written: u64,
}

impl Decoder {
    /// For codings in the order in which they were applied.
    pub(super) fn new(codings: &[Coding]) -> Self {
        let stage = |coding: &Coding| Stage {
            undo: Undo::new(*coding),
            input: Bytes::new(),
            dry: true,
            written: 0,
        };
        Self { stages: codings.iter().rev().map(stage).collect(), fed: 0 }
    }

    /// Takes what came, once [`Self::next`] has no more.
    fn feed(&mut self, bytes: Bytes) {
        self.fed += bytes.len() as u64;
        if let Some(first) = self.stages.first_mut() {
            first.take(bytes);
        }
    }

    /// The next piece of text; none when more must come first.
    fn next(&mut self) -> Result<Option<Bytes>, Unscrubbable> {
        let most = BURST + RATIO * self.fed;
        pull(&mut self.stages, most)
    }

    /// What came has ended. A text that was cut must not look whole.
    fn finish(&mut self) -> Result<(), Unscrubbable> {
        // An empty body is coded in nothing.
        let whole = self.fed == 0
            || self.stages.iter_mut().all(|stage| stage.input.is_empty() && stage.undo.is_over());
        if whole { Ok(()) } else { Err(Unscrubbable) }
    }
}

impl Stage {
    fn take(&mut self, bytes: Bytes) {
        self.dry = bytes.is_empty();
        self.input = bytes;
    }

    /// Decodes until there is some text, or no more to decode.
    fn step(&mut self, most: u64) -> Result<Option<Bytes>, Unscrubbable> {
        while !self.dry {
            let mut out = Vec::new();
            let had = self.input.len();
            self.undo.step(&mut self.input, &mut out)?;
            self.written += out.len() as u64;
            if self.written > most {
                return Err(Unscrubbable);
            }
            if !out.is_empty() {
                return Ok(Some(out.into()));
            }
            self.dry = self.input.is_empty();
            if !self.dry && self.input.len() == had {
                return Err(Unscrubbable);
            }
        }
        Ok(None)
    }
}

/// The next text of the last stage, by way of those before it.
fn pull(stages: &mut [Stage], most: u64) -> Result<Option<Bytes>, Unscrubbable> {
    let Some((last, before)) = stages.split_last_mut() else { return Ok(None) };
    loop {
        if let Some(text) = last.step(most)? {
            return Ok(Some(text));
        }
        match pull(before, most)? {
            Some(bytes) => last.take(bytes),
            None => return Ok(None),
        }
    }
}

/// The state of one decoder. Each is made when its first byte comes: a window is large.
enum Undo {
    Gzip(Option<Box<MultiGzDecoder<Vec<u8>>>>),
    Deflate(Deflate),
    Brotli { state: Option<Box<Brotli>>, over: bool },
    Zstd { context: Option<Box<DCtx<'static>>>, over: bool },
}

type Brotli = BrotliState<StandardAlloc, StandardAlloc, StandardAlloc>;

impl Undo {
    fn new(coding: Coding) -> Self {
        match coding {
            Coding::Gzip => Self::Gzip(None),
            Coding::Deflate => Self::Deflate(Deflate::default()),
            Coding::Brotli => Self::Brotli { state: None, over: false },
            Coding::Zstd => Self::Zstd { context: None, over: false },
        }
    }

    /// Whether the coded bytes came to their own end.
    fn is_over(&mut self) -> bool {
        match self {
            Self::Gzip(decoder) => {
                decoder.as_mut().is_some_and(|decoder| decoder.try_finish().is_ok())
            }
            Self::Deflate(deflate) => deflate.over,
            Self::Brotli { over, .. } | Self::Zstd { over, .. } => *over,
        }
    }

    /// Decodes some of `input`, to no more than a few pieces. Gives nothing only when it needs more.
    fn step(&mut self, input: &mut Bytes, out: &mut Vec<u8>) -> Result<(), Unscrubbable> {
        match self {
            Self::Gzip(decoder) => {
                let decoder =
                    decoder.get_or_insert_with(|| Box::new(MultiGzDecoder::new(Vec::new())));
                gunzip(decoder, input, out)
            }
            Self::Deflate(deflate) => deflate.step(input, out),
            Self::Brotli { state, over } => {
                let state = state.get_or_insert_with(|| {
                    let (a, b, c) = (StandardAlloc {}, StandardAlloc {}, StandardAlloc {});
                    // Strict: no larger windows than RFC 7932 has.
                    Box::new(Brotli::new_strict(a, b, c))
                });
                unbrotli(state, over, input, out)
            }
            Self::Zstd { context, over } => {
                if context.is_none() {
                    let mut new = DCtx::create();
                    new.set_parameter(DParameter::WindowLogMax(ZSTD_WINDOW))
                        .map_err(|_| Unscrubbable)?;
                    *context = Some(Box::new(new));
                }
                let Some(context) = context else { return Err(Unscrubbable) };
                unzstd(context, over, input, out)
            }
        }
    }
}

fn gunzip(
    decoder: &mut MultiGzDecoder<Vec<u8>>,
    input: &mut Bytes,
    out: &mut Vec<u8>,
) -> Result<(), Unscrubbable> {
    if !input.is_empty() {
        // Writes what the last call decoded, and decodes what fits its own buffer of 32 KiB.
        let taken = decoder.write(input).map_err(|_| Unscrubbable)?;
        input.advance(taken);
    }
    if input.is_empty() {
        // All is read; the rest of it comes to one window at most.
        decoder.flush().map_err(|_| Unscrubbable)?;
    }
    *out = std::mem::take(decoder.get_mut());
    Ok(())
}

/// `deflate`: with the frame of zlib (RFC 1950), as RFC 9110 section 8.4.1.2 has it, or bare, as some
/// origins do.
#[derive(Default)]
struct Deflate {
    /// The first byte, until the second tells the two apart.
    first: Option<u8>,
    inflate: Option<Decompress>,
    over: bool,
}

impl Deflate {
    fn step(&mut self, input: &mut Bytes, out: &mut Vec<u8>) -> Result<(), Unscrubbable> {
        if self.inflate.is_none() {
            let Some(next) = input.first().copied() else { return Ok(()) };
            let Some(first) = self.first else {
                self.first = Some(next);
                input.advance(1);
                return Ok(());
            };
            let framed = first & 0x0f == 8 && u16::from_be_bytes([first, next]) % 31 == 0;
            let mut inflate = Decompress::new(framed);
            inflate_into(&mut inflate, &[first], out)?;
            self.inflate = Some(inflate);
        }
        let Some(inflate) = &mut self.inflate else { return Ok(()) };
        if self.over {
            return if input.is_empty() { Ok(()) } else { Err(Unscrubbable) };
        }
        let (read, over) = inflate_into(inflate, input, out)?;
        input.advance(read);
        self.over = over;
        Ok(())
    }
}

fn inflate_into(
    inflate: &mut Decompress,
    input: &[u8],
    out: &mut Vec<u8>,
) -> Result<(usize, bool), Unscrubbable> {
    out.reserve(PIECE);
    let before = inflate.total_in();
    let status = inflate.decompress_vec(input, out, FlushDecompress::None);
    let over = match status.map_err(|_| Unscrubbable)? {
        Status::StreamEnd => true,
        Status::Ok | Status::BufError => false,
    };
    let read = usize::try_from(inflate.total_in() - before).unwrap_or(input.len());
    Ok((read.min(input.len()), over))
}

fn unbrotli(
    state: &mut Brotli,
    over: &mut bool,
    input: &mut Bytes,
    out: &mut Vec<u8>,
) -> Result<(), Unscrubbable> {
    if *over {
        return if input.is_empty() { Ok(()) } else { Err(Unscrubbable) };
    }
    out.resize(PIECE, 0);
    let (mut left, mut read) = (input.len(), 0);
    let (mut room, mut written, mut total) = (PIECE, 0, 0);
    let result = BrotliDecompressStream(
        &mut left,
        &mut read,
        input,
        &mut room,
        &mut written,
        out,
        &mut total,
        state,
    );
    input.advance(read);
    out.truncate(written);
    match result {
        BrotliResult::ResultSuccess => *over = true,
        BrotliResult::NeedsMoreInput | BrotliResult::NeedsMoreOutput => {}
        BrotliResult::ResultFailure => return Err(Unscrubbable),
    }
    Ok(())
}

fn unzstd(
    context: &mut DCtx<'_>,
    over: &mut bool,
    input: &mut Bytes,
    out: &mut Vec<u8>,
) -> Result<(), Unscrubbable> {
    if *over && input.is_empty() {
        return Ok(());
    }
    out.resize(PIECE, 0);
    let mut from = InBuffer::around(input);
    let mut to = OutBuffer::around(&mut out[..]);
    // Frames may follow each other (RFC 8878 section 3.1); the end of one is told by a hint of 0.
    let hint = context.decompress_stream(&mut to, &mut from).map_err(|_| Unscrubbable)?;
    let (read, written) = (from.pos(), to.pos());
    input.advance(read);
    out.truncate(written);
    *over = hint == 0;
    Ok(())
}

/// A body as the origin sends it, or without its codings.
pub(super) struct Source<B> {
    body: B,
    undoing: Option<Undoing>,
}

enum End {
    Bare,
    Trailers(HeaderMap),
}

/// What a frame is, and how its error is told.
type Framed<B> = Result<Frame<Bytes>, ScrubError<<B as Body>::Error>>;

struct Undoing {
    decoder: Decoder,
    /// What came behind the last piece: the end, and trailers before it.
    ended: Option<End>,
    over: bool,
}

impl<B> Source<B> {
    /// As it is.
    pub(super) fn plain(body: B) -> Self {
        Self { body, undoing: None }
    }

    /// Without `codings`.
    pub(super) fn decoded(body: B, codings: &[Coding]) -> Self {
        if codings.is_empty() {
            return Self::plain(body);
        }
        let decoder = Decoder::new(codings);
        Self { body, undoing: Some(Undoing { decoder, ended: None, over: false }) }
    }
}

impl Undoing {
    fn poll_frame<B>(&mut self, body: &mut B, cx: &mut Context<'_>) -> Poll<Option<Framed<B>>>
    where
        B: Body<Data = Bytes> + Unpin,
    {
        if self.over {
            return Poll::Ready(None);
        }
        loop {
            match self.decoder.next() {
                Ok(Some(piece)) => return Poll::Ready(Some(Ok(Frame::data(piece)))),
                Ok(None) => {}
                Err(fault) => return self.fail(fault.into()),
            }
            if let Some(end) = self.ended.take() {
                self.over = true;
                if let Err(fault) = self.decoder.finish() {
                    return self.fail(fault.into());
                }
                return Poll::Ready(match end {
                    End::Bare => None,
                    End::Trailers(trailers) => Some(Ok(Frame::trailers(trailers))),
                });
            }
            match ready!(Pin::new(&mut *body).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.decoder.feed(data),
                    Err(frame) => {
                        let end = frame.into_trailers().map_or(End::Bare, End::Trailers);
                        self.ended = Some(end);
                    }
                },
                Some(Err(error)) => return self.fail(ScrubError::Body(error)),
                None => self.ended = Some(End::Bare),
            }
        }
    }

    fn fail<E>(
        &mut self,
        error: ScrubError<E>,
    ) -> Poll<Option<Result<Frame<Bytes>, ScrubError<E>>>> {
        self.over = true;
        Poll::Ready(Some(Err(error)))
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Source<B> {
    type Data = Bytes;
    type Error = ScrubError<B::Error>;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = self.get_mut();
        if let Some(undoing) = &mut this.undoing {
            return undoing.poll_frame(&mut this.body, cx);
        }
        let frame = ready!(Pin::new(&mut this.body).poll_frame(cx));
        Poll::Ready(frame.map(|frame| frame.map_err(ScrubError::Body)))
    }

    fn is_end_stream(&self) -> bool {
        self.undoing.as_ref().map_or_else(|| self.body.is_end_stream(), |undoing| undoing.over)
    }

    fn size_hint(&self) -> SizeHint {
        match &self.undoing {
            None => self.body.size_hint(),
            Some(_) => SizeHint::default(),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use data_encoding::HEXLOWER;
    use flate2::Compression;
    use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
    use proptest::prelude::*;

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    fn zlib(text: &[u8]) -> Vec<u8> {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    fn bare(text: &[u8]) -> Vec<u8> {
        let mut encoder = DeflateEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    fn zstd(text: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(zstd_safe::compress_bound(text.len()));
        zstd_safe::compress(&mut out, text, 3).unwrap();
        out
    }

    /// Brotli as it is without an encoder: text in meta-blocks that are not compressed (RFC 7932
    /// section 9.2). What encoders write is tested against a real one in `tests/reflect.rs`.
    fn brotli(text: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        for (number, block) in text.chunks(0x1_0000).enumerate() {
            // A window of 2^16 (before the first), not the last, four nibbles of length, uncompressed.
            let (bits, before) = if number == 0 { (0, 1) } else { (0, 0) };
            let length = u32::try_from(block.len() - 1).unwrap();
            let head: u32 = bits | length << (before + 3) | 1 << (before + 19);
            out.extend_from_slice(&head.to_le_bytes()[..3]);
            out.extend_from_slice(block);
        }
        // The last, and empty. Before any other, after the window's bit.
        out.push(if text.is_empty() { 0b110 } else { 0b11 });
        out
    }

    pub(in crate::scrub) fn encode(coding: &str, text: &[u8]) -> Vec<u8> {
        match coding {
            "gzip" | "x-gzip" | "GZIP" => gzip(text),
            "deflate" => zlib(text),
            "br" => brotli(text),
            "zstd" => zstd(text),
            other => panic!("no such coding: {other}"),
        }
    }

    fn headers(value: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_ENCODING, value.parse().unwrap());
        headers
    }

    /// The text, or what came before the fault.
    fn decode(codings: &[Coding], chunks: &[&[u8]]) -> (Vec<u8>, Result<(), Unscrubbable>) {
        let mut decoder = Decoder::new(codings);
        let mut text = Vec::new();
        let drain = |decoder: &mut Decoder, text: &mut Vec<u8>| {
            while let Some(piece) = decoder.next()? {
                assert!(piece.len() <= 64 * 1024, "{} at once", piece.len());
                text.extend_from_slice(&piece);
            }
            // Asked in vain, again and again, as a body is that has nothing yet.
            for _ in 0..40 {
                assert_eq!(decoder.next(), Ok(None));
            }
            Ok(())
        };
        for chunk in chunks {
            decoder.feed(Bytes::copy_from_slice(chunk));
            if let Err(fault) = drain(&mut decoder, &mut text) {
                return (text, Err(fault));
            }
        }
        let ending = decoder.finish();
        (text, ending)
    }

    #[test]
    fn what_the_head_says_is_read() {
        for (value, expected) in [
            ("gzip", vec![Coding::Gzip]),
            ("X-GZIP", vec![Coding::Gzip]),
            ("identity", vec![]),
            ("", vec![]),
            ("deflate , br,identity", vec![Coding::Deflate, Coding::Brotli]),
            ("zstd,zstd,gzip", vec![Coding::Zstd, Coding::Zstd, Coding::Gzip]),
        ] {
            assert_eq!(Coding::all(&headers(value)), Ok(expected), "{value}");
        }
        for value in ["compress", "aws-chunked", "gzip;q=1", "gzip br", "br,br,br,br"] {
            assert_eq!(Coding::all(&headers(value)), Err(Unscrubbable), "{value}");
        }
        let mut two = headers("gzip");
        two.append(header::CONTENT_ENCODING, HeaderValue::from_static("br"));
        assert_eq!(Coding::all(&two), Ok(vec![Coding::Gzip, Coding::Brotli]));
    }

    #[test]
    fn the_head_says_what_is_true_of_the_decoded() {
        let mut all = headers("gzip");
        for (name, value) in [
            ("content-length", "20"),
            ("etag", "\"abc\""),
            ("vary", "accept-encoding"),
            ("content-digest", "sha-256=:x:"),
        ] {
            all.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        decoded_head(&mut all);
        assert_eq!(all.len(), 2);
        assert_eq!(
            (&all["etag"], &all["vary"]),
            (&"W/\"abc\"".parse().unwrap(), &"accept-encoding".parse().unwrap())
        );
        decoded_head(&mut all);
        assert_eq!(all["etag"], "W/\"abc\"");
    }

    #[test]
    fn deflate_is_understood_with_and_without_its_frame() {
        let text = b"deflate, as the standard has it, and as some origins do".repeat(40);
        for coded in [zlib(&text), bare(&text)] {
            let bytes: Vec<&[u8]> = coded.chunks(1).collect();
            assert_eq!(decode(&[Coding::Deflate], &bytes), (text.clone(), Ok(())));
        }
    }

    #[test]
    fn members_and_frames_may_follow_each_other() {
        for (coding, name) in [(Coding::Gzip, "gzip"), (Coding::Zstd, "zstd")] {
            let two = [encode(name, b"one, "), encode(name, b"two")].concat();
            assert_eq!(decode(&[coding], &[&two]), (b"one, two".to_vec(), Ok(())), "{name}");
            let bytes: Vec<&[u8]> = two.chunks(1).collect();
            assert_eq!(decode(&[coding], &bytes), (b"one, two".to_vec(), Ok(())), "{name}");
        }
    }

    #[test]
    fn what_is_cut_or_followed_by_something_or_damaged_is_not_whole() {
        for (coding, name) in ALL {
            let coded = encode(name, &b"the whole of it".repeat(9));
            for end in 1..coded.len() {
                assert_eq!(
                    decode(&[coding], &[&coded[..end]]).1,
                    Err(Unscrubbable),
                    "{name} {end}"
                );
            }
            let longer = [&coded[..], b"more"].concat();
            assert_eq!(decode(&[coding], &[&longer]).1, Err(Unscrubbable), "{name}");
            assert_eq!(decode(&[coding], &[b"plain text"]).1, Err(Unscrubbable), "{name}");
            // Nothing at all is coded in nothing: a 200 without a byte.
            assert_eq!(decode(&[coding], &[]), (vec![], Ok(())), "{name}");
        }
        let mut damaged = gzip(b"the whole of it");
        let last = damaged.len() - 5;
        damaged[last] ^= 1;
        assert_eq!(decode(&[Coding::Gzip], &[&damaged]).1, Err(Unscrubbable), "its checksum");
    }

    const ALL: [(Coding, &str); 4] = [
        (Coding::Gzip, "gzip"),
        (Coding::Deflate, "deflate"),
        (Coding::Brotli, "br"),
        (Coding::Zstd, "zstd"),
    ];

    /// 64 MiB of zeros, as the reference encoder has them.
    const BROTLI_ZEROS: &str = "cbffff3ff82700e2b14020f7fe8fffff7ff04f00c4611180eefd1fffffffe09f0088c30200ddfb3ff\
                                effffc13f0110870500baf77ffcffff837f02200e0b0074effff8ffff07ff04401c1600e8defff1ff\
                                ff0ffe0980382c00d0bdffcbffff3ffc1300715800a07bff07";

    #[test]
    fn a_bomb_ends_while_it_is_small() {
        let zeros = vec![0; 64 * 1024 * 1024];
        for (coding, coded) in [
            (Coding::Gzip, gzip(&zeros)),
            (Coding::Zstd, zstd(&zeros)),
            (Coding::Brotli, HEXLOWER.decode(BROTLI_ZEROS.as_bytes()).unwrap()),
        ] {
            let mut decoder = Decoder::new(&[coding]);
            decoder.feed(coded.clone().into());
            let mut seen = 0;
            let ending = loop {
                match decoder.next() {
                    Ok(Some(piece)) => seen += piece.len() as u64,
                    other => break other,
                }
            };
            assert_eq!(ending, Err(Unscrubbable));
            assert!(seen <= BURST + RATIO * coded.len() as u64, "{seen}");
        }
        // Coded twice, the text within counts, though what comes out is short.
        let twice = gzip(&gzip(&zeros));
        let (_, ending) = decode(&[Coding::Gzip, Coding::Gzip], &[&twice]);
        assert_eq!(ending, Err(Unscrubbable));
        // A text of the same length that says something passes.
        let honest: Vec<u8> =
            (0..24_000_000_u32).map(|n| (n.wrapping_mul(0x9E37_79B1) >> 27) as u8).collect();
        let (text, ending) = decode(&[Coding::Gzip], &[&gzip(&honest)]);
        assert_eq!((text.len(), ending), (honest.len(), Ok(())));
    }

    #[test]
    fn a_window_beyond_what_http_allows_is_refused() {
        // Frame header: no size, a window of 2^24 (RFC 8878 section 3.1.1.1.2); then one raw block.
        let frame = |exponent: u8| {
            [&[0x28, 0xb5, 0x2f, 0xfd, 0, (exponent - 10) << 3, 0x11, 0, 0][..], b"ok"].concat()
        };
        assert_eq!(decode(&[Coding::Zstd], &[&frame(23)]), (b"ok".to_vec(), Ok(())));
        assert_eq!(decode(&[Coding::Zstd], &[&frame(24)]).1, Err(Unscrubbable));
        // The large windows that RFC 7932 does not have.
        assert_eq!(decode(&[Coding::Brotli], &[&[0x11, 0x1e, 3]]).1, Err(Unscrubbable));
    }

    #[test]
    fn what_was_flushed_is_given_out_at_once() {
        let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
        let mut zlib = ZlibEncoder::new(Vec::new(), Compression::default());
        let mut context = zstd_safe::CCtx::create();
        let mut decoders = ALL.map(|(coding, _)| Decoder::new(&[coding]));
        for event in ["data: 1\n\n", "data: 2\n\n"] {
            gzip.write_all(event.as_bytes()).unwrap();
            gzip.flush().unwrap();
            zlib.write_all(event.as_bytes()).unwrap();
            zlib.flush().unwrap();
            let mut frame = vec![0; 256];
            let written = {
                let mut to = OutBuffer::around(&mut frame[..]);
                let mut from = InBuffer::around(event.as_bytes());
                context.compress_stream(&mut to, &mut from).unwrap();
                context.flush_stream(&mut to).unwrap();
                to.pos()
            };
            frame.truncate(written);
            let stored = brotli(event.as_bytes());
            let stored = stored[..stored.len() - 1].to_vec();
            let sent =
                [std::mem::take(gzip.get_mut()), std::mem::take(zlib.get_mut()), stored, frame];
            for (decoder, sent) in decoders.iter_mut().zip(sent) {
                // Each event of brotli would begin anew; the first shows that nothing waits.
                if sent.is_empty()
                    || decoder.fed > 0 && matches!(decoder.stages[0].undo, Undo::Brotli { .. })
                {
                    continue;
                }
                decoder.feed(sent.into());
                let mut text = Vec::new();
                while let Some(piece) = decoder.next().unwrap() {
                    text.extend_from_slice(&piece);
                }
                assert_eq!(text, event.as_bytes());
            }
        }
    }

    proptest! {
        #[test]
        fn any_stack_in_any_chunks_gives_the_text(
            text in prop_oneof![
                prop::collection::vec(any::<u8>(), 0..3000),
                "[ab ]{0,4000}".prop_map(String::into_bytes),
            ],
            stack in prop::collection::vec(0_usize..4, 0..=3),
            size in 1_usize..600,
        ) {
            let stack: Vec<_> = stack.iter().map(|n| ALL[*n]).collect();
            let mut coded = text.clone();
            for (_, name) in &stack {
                coded = encode(name, &coded);
            }
            let codings: Vec<Coding> = stack.iter().map(|(coding, _)| *coding).collect();
            prop_assume!(!codings.is_empty());
            let chunks: Vec<&[u8]> = coded.chunks(size).collect();
            prop_assert_eq!(decode(&codings, &chunks), (text, Ok(())));
        }

        /// Whatever comes, there is an end of it.
        #[test]
        fn noise_is_refused_or_read(
            noise in prop::collection::vec(any::<u8>(), 0..400),
            which in 0_usize..4,
            keep in 0_usize..40,
        ) {
            let (coding, name) = ALL[which];
            let mut coded = encode(name, b"some text to begin with, and some more of it");
            coded.truncate(keep);
            coded.extend_from_slice(&noise);
            let _either = decode(&[coding], &[&coded]);
        }
    }
}
