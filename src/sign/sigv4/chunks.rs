//! Bodies in chunks of which each has a signature (`STREAMING-AWS4-HMAC-SHA256-PAYLOAD`), signed anew as
//! they stream.
//!
//! A chunk's signature stands before its data, so one chunk is held in memory, and no more. Nothing else
//! of the body changes, its length neither.

use bytes::{Buf as _, Bytes, BytesMut};

use super::{OF_NOTHING, SigningKey, sha256};

/// The longest chunk. SDKs send 64 KiB to 1 MiB.
const LONGEST: usize = 8 * 1024 * 1024;

/// The longest line: a size, or a checksum in a trailer.
const LINE: usize = 8 * 1024;

/// The most trailers.
const TRAILERS: usize = 32;

/// Why a body cannot be signed anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChunkError {
    /// It is not in such chunks.
    Malformed,
    /// A chunk, or a line, is too long.
    TooLong,
    /// It ends in the middle.
    Cut,
}

/// Signs the chunks of one body.
pub struct ChunkSigner {
    key: SigningKey,
    time: String,
    /// The signature of what came before: the head's, for the first chunk.
    before: String,
    ahead: BytesMut,
    stage: Stage,
    /// The size of the chunk at hand, as it was written.
    size: Bytes,
    /// Whether trailers come.
    trailers: bool,
    /// The trailers so far, as they are signed.
    signed: String,
    count: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// A line with the size of what follows.
    Size,
    /// Data, and its line end; the size may be 0, for the last.
    Data(usize),
    /// The end of the body, after the last chunk.
    End,
    /// Lines after the last chunk.
    Trailers,
    /// Nothing more.
    Over,
}

const SIGNATURE: &[u8] = b";chunk-signature=";
const TRAILER_SIGNATURE: &[u8] = b"x-amz-trailer-signature:";

impl ChunkSigner {
    /// For the body of a request whose head was signed by `key` at `time`.
    #[must_use]
    pub fn new(key: SigningKey, time: String, signature: String, trailers: bool) -> Self {
        Self {
            key,
            time,
            before: signature,
            ahead: BytesMut::new(),
            stage: Stage::Size,
            size: Bytes::new(),
            trailers,
            signed: String::new(),
            count: 0,
        }
    }

    /// Takes the next piece, and gives what can be sent. Empty when a chunk is not whole yet.
    ///
    /// # Errors
    /// [`ChunkError`]; the body is over then.
    pub fn push(&mut self, piece: &[u8]) -> Result<Bytes, ChunkError> {
        self.ahead.extend_from_slice(piece);
        let mut out = BytesMut::new();
        while self.step(&mut out)? {}
        Ok(out.freeze())
    }

    /// How much memory what is not whole yet takes, in bytes.
    #[must_use]
    pub fn held(&self) -> usize {
        self.ahead.capacity()
    }

    /// Whether the body may end here.
    ///
    /// # Errors
    /// [`ChunkError::Cut`].
    pub fn finish(&self) -> Result<(), ChunkError> {
        let done = matches!(self.stage, Stage::Over | Stage::End | Stage::Trailers);
        if done && self.ahead.is_empty() { Ok(()) } else { Err(ChunkError::Cut) }
    }

    fn step(&mut self, out: &mut BytesMut) -> Result<bool, ChunkError> {
        match self.stage {
            Stage::Size => {
                let Some(line) = self.line()? else { return Ok(false) };
                let at = line.windows(SIGNATURE.len()).position(|w| w == SIGNATURE);
                let at = at.ok_or(ChunkError::Malformed)?;
                let size = hex(&line[..at]).ok_or(ChunkError::Malformed)?;
                if !is_signature(&line[at + SIGNATURE.len()..]) {
                    return Err(ChunkError::Malformed);
                }
                // As it is written, so that the length stays.
                self.size = line.slice(..at);
                if size > LONGEST {
                    return Err(ChunkError::TooLong);
                }
                self.stage = Stage::Data(size);
                Ok(true)
            }
            Stage::Data(size) => self.data(size, out),
            Stage::End => {
                // One line end, after which nothing follows.
                let Some(line) = self.line()? else { return Ok(false) };
                if !line.is_empty() {
                    return Err(ChunkError::Malformed);
                }
                out.extend_from_slice(b"\r\n");
                self.stage = Stage::Over;
                Ok(true)
            }
            Stage::Trailers => self.trailer(out),
            Stage::Over if self.ahead.is_empty() => Ok(false),
            Stage::Over => Err(ChunkError::Malformed),
        }
    }

    fn data(&mut self, size: usize, out: &mut BytesMut) -> Result<bool, ChunkError> {
        let ending = if size == 0 { 0 } else { 2 };
        if self.ahead.len() < size + ending {
            return Ok(false);
        }
        let data = self.ahead.split_to(size);
        let digest = sha256(&data);
        self.before = self.sign("PAYLOAD", &format!("{OF_NOTHING}\n{digest}"));
        out.extend_from_slice(&self.size);
        out.extend_from_slice(SIGNATURE);
        out.extend_from_slice(self.before.as_bytes());
        out.extend_from_slice(b"\r\n");
        if size == 0 {
            self.stage = if self.trailers { Stage::Trailers } else { Stage::End };
            return Ok(true);
        }
        if self.ahead.get(..2) != Some(b"\r\n") {
            return Err(ChunkError::Malformed);
        }
        self.ahead.advance(2);
        out.extend_from_slice(&data);
        out.extend_from_slice(b"\r\n");
        self.stage = Stage::Size;
        Ok(true)
    }

    fn trailer(&mut self, out: &mut BytesMut) -> Result<bool, ChunkError> {
        let Some(line) = self.line()? else { return Ok(false) };
        self.count += 1;
        if self.count > TRAILERS {
            return Err(ChunkError::TooLong);
        }
        if line.is_empty() {
            out.extend_from_slice(b"\r\n");
            self.stage = Stage::Over;
        } else if let Some(signature) = line.strip_prefix(TRAILER_SIGNATURE) {
            if !is_signature(signature) {
                return Err(ChunkError::Malformed);
            }
            let signature = self.sign("TRAILER", &sha256(self.signed.as_bytes()));
            out.extend_from_slice(TRAILER_SIGNATURE);
            out.extend_from_slice(signature.as_bytes());
            out.extend_from_slice(b"\r\n");
        } else {
            let text = std::str::from_utf8(&line).map_err(|_| ChunkError::Malformed)?;
            let (name, value) = text.split_once(':').ok_or(ChunkError::Malformed)?;
            let (name, value) = (name.trim().to_ascii_lowercase(), value.trim());
            self.signed.extend([&*name, ":", value, "\n"]);
            out.extend_from_slice(&line);
            out.extend_from_slice(b"\r\n");
        }
        Ok(true)
    }

    fn sign(&self, what: &str, rest: &str) -> String {
        let Self { key, time, before, .. } = self;
        key.sign_text(&format!("AWS4-HMAC-SHA256-{what}\n{time}\n{}\n{before}\n{rest}", key.scope))
    }

    /// The next line, without its end.
    fn line(&mut self) -> Result<Option<Bytes>, ChunkError> {
        let Some(end) = memchr::memchr(b'\n', &self.ahead) else {
            return if self.ahead.len() > LINE { Err(ChunkError::TooLong) } else { Ok(None) };
        };
        if end > LINE {
            return Err(ChunkError::TooLong);
        }
        let mut line = self.ahead.split_to(end + 1).freeze();
        line.truncate(end);
        line.strip_suffix(b"\r").map(<[u8]>::len).map_or(Err(ChunkError::Malformed), |length| {
            line.truncate(length);
            Ok(Some(line))
        })
    }
}

fn is_signature(text: &[u8]) -> bool {
    text.len() == 64 && text.iter().all(u8::is_ascii_hexdigit)
}

/// 1 to 8 hex digits.
fn hex(digits: &[u8]) -> Option<usize> {
    if !(1..=8).contains(&digits.len()) || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    usize::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::super::Claim;
    use super::*;

    const SECRET: &str = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";
    const ANY: &str = "0000000000000000000000000000000000000000000000000000000000000000";

    fn signer(seed: &str, trailers: bool) -> ChunkSigner {
        let scope = "AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request";
        let key = SigningKey::derive(SECRET, &Claim::of(scope, "host", ANY).unwrap());
        ChunkSigner::new(key, "20130524T000000Z".to_owned(), seed.to_owned(), trailers)
    }

    fn chunk(size: usize) -> String {
        let end = if size == 0 { "" } else { "\r\n" };
        format!("{size:x};chunk-signature={ANY}\r\n{}{end}", "a".repeat(size))
    }

    /// The example of *Signature Calculations for the Authorization Header: Transferring Payload in
    /// Multiple Chunks*: 65 KiB of `a`, the first 64 of them in one chunk.
    #[test]
    fn the_example_of_amazon_s3_in_any_pieces() {
        let seed = "4f232c4386841ef735655705268965c44a0e4690baa4adea153f7db9fa80a0a9";
        let body = chunk(65536) + &chunk(1024) + &chunk(0) + "\r\n";
        for piece in [1, 7, 4096, body.len()] {
            let mut signer = signer(seed, false);
            let mut out = Vec::new();
            for piece in body.as_bytes().chunks(piece) {
                out.extend_from_slice(&signer.push(piece).unwrap());
            }
            signer.finish().unwrap();
            let text = String::from_utf8(out).unwrap();
            assert_eq!(text.len(), body.len());
            for signature in [
                "10000;chunk-signature=ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485a288648\r\n",
                "400;chunk-signature=0055627c9e194cb4542bae2aa5492e3c1575bbb81b612b7d234b86a503ef5497\r\n",
                "0;chunk-signature=b6c6ea8a5354eaf15b3cb7646744f4275b71ea724fed81ceb9323e279d449df9\r\n",
            ] {
                assert!(text.contains(signature), "{piece}: {signature}");
            }
            assert!(text.ends_with("\r\n\r\n"));
        }
    }

    #[test]
    fn trailers_have_a_signature_too() {
        let body = chunk(0)
            + "x-amz-checksum-crc32c:sOO8/Q==\r\nx-amz-trailer-signature:"
            + ANY
            + "\r\n\r\n";
        let mut signer = signer(ANY, true);
        let out = signer.push(body.as_bytes()).unwrap();
        signer.finish().unwrap();
        let text = std::str::from_utf8(&out).unwrap();
        assert_eq!(text.len(), body.len());
        assert!(text.contains("\r\nx-amz-checksum-crc32c:sOO8/Q==\r\nx-amz-trailer-signature:"));
        assert!(!text.contains(ANY));
    }

    #[test]
    fn what_is_in_no_such_chunks_is_not_sent() {
        let fails = |body: &str, trailers, why| {
            let mut signer = signer(ANY, trailers);
            let end = signer.push(body.as_bytes()).and_then(|_| signer.finish());
            assert_eq!(end, Err(why), "{}", &body[..body.len().min(99)]);
        };
        use ChunkError::{Cut, Malformed, TooLong};
        fails("", false, Cut);
        fails("plain text of no chunk\r\n", false, Malformed);
        fails("5\r\nhello\r\n", false, Malformed);
        fails(&format!("zz;chunk-signature={ANY}\r\n"), false, Malformed);
        fails(&format!("5;chunk-signature={ANY}0\r\nhello\r\n"), false, Malformed);
        fails("0;chunk-signature=\r\n\r\n", false, Malformed);
        fails(&format!("+5;chunk-signature={ANY}\r\n"), false, Malformed);
        fails(&format!("5;chunk-signature={ANY}\nhello\r\n"), false, Malformed);
        fails(&format!("5;chunk-signature={ANY}\r\nhelloXX"), false, Malformed);
        fails(&format!("fffffff;chunk-signature={ANY}\r\n"), false, TooLong);
        fails(&"1".repeat(LINE + 1), false, TooLong);
        fails(&chunk(5), false, Cut);
        fails(&(chunk(5) + &chunk(0) + "\r\nmore"), false, Malformed);
        fails(&(chunk(0) + "x-a\r\n"), true, Malformed);
        fails(&(chunk(0) + "x-amz-trailer-signature:00\r\n"), true, Malformed);
        fails(&(chunk(0) + &"a:b\r\n".repeat(TRAILERS + 1)), true, TooLong);
    }
}
