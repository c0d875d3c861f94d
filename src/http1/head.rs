//! Heads (RFC 9112 sections 2 to 6): read once, when the last of their bytes is there, and without a copy.

use std::error::Error;
use std::fmt;
use std::mem::MaybeUninit;

use bytes::{Buf as _, Bytes, BytesMut};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, Version, header,
};
use httparse::Header;

use super::fields::empty_fields;
use super::spelling::Spelling;

/// The fields of a head for which there is room on the stack; for another bound it is allocated.
const FIELDS: usize = 128;

/// The longest target that is read. What may be sent is bounded by the config, and far below.
const TARGET: usize = u16::MAX as usize;

/// The most bytes of empty lines before a head. Clients that end a body with a line too many send one.
const EMPTY: usize = 16;

/// What bounds a head.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Its bytes, with the empty line at its end.
    pub bytes: usize,
    /// Its fields.
    pub fields: usize,
}

/// Why a head cannot be read. Nothing behind it can be, either.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadError {
    /// It is not HTTP/1.1 or HTTP/1.0.
    Malformed,
    /// The target is longer than 65,535 bytes.
    LongTarget,
    /// It has more bytes, or more fields, than may be.
    TooLarge,
    /// The fields that say where its body ends cannot be believed.
    Framing,
}

impl fmt::Display for HeadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Malformed => "the head is not one of HTTP/1.1",
            Self::LongTarget => "the target is longer than 65,535 bytes",
            Self::TooLarge => "the head is too large",
            Self::Framing => "the head does not say where its body ends",
        })
    }
}

impl Error for HeadError {}

/// How far a buffer has been looked through for the end of a head.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen {
    /// Where its last line begins, as far as is known.
    line: usize,
    /// Whether what has come of it has been read.
    begun: bool,
}

/// Where a body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    /// After so many bytes; none is no body.
    Exact(u64),
    /// Where its own coding says.
    Chunked,
    /// With the connection. Only of answers.
    UntilClose,
}

/// The head of a request.
#[derive(Debug)]
pub struct RequestHead {
    /// Its line and its fields, as they stand there.
    pub request: Request<()>,
    /// Where its body ends.
    pub length: Length,
    /// Whether where it ends could be read in two ways: both a length and a coding, or a length twice.
    /// `length` is nothing to go by then, and nothing that follows is.
    pub two_framings: bool,
    /// Whether the target has a fragment, which has no place there, and which [`Uri`] leaves out.
    pub fragment: bool,
    /// Whether the client may send another request behind it.
    pub keeps_alive: bool,
    /// How it writes the names of its fields.
    pub spelling: Spelling,
}

/// The head of an answer.
#[derive(Debug)]
pub struct ResponseHead {
    /// Its line and its fields, as they stand there; without its reason.
    pub response: Response<()>,
    /// Where its body ends.
    pub length: Length,
    /// Whether the connection goes on after it.
    pub keeps_alive: bool,
}

/// Takes the head of a request out of what was read; None when its end is not there.
///
/// # Errors
/// When it cannot be read, or will be too large.
pub fn read_request(
    from: &mut BytesMut,
    seen: &mut Seen,
    limits: Limits,
) -> Result<Option<RequestHead>, HeadError> {
    if !has_begun(from, *seen)? {
        return Ok(None);
    }
    let before = *seen;
    let Some(head) = take_head(from, &mut seen.line, limits)? else {
        return seen.look(before, || {
            with_room(limits.fields, |room| {
                httparse::Request::new(&mut []).parse_with_uninit_headers(from, room)
            })
        });
    };
    *seen = Seen::default();
    with_room(limits.fields, |room| {
        let mut parsed = httparse::Request::new(&mut []);
        is_all_of(&head, parsed.parse_with_uninit_headers(&head, room))?;
        let (Some(method), Some(path), Some(version)) =
            (parsed.method, parsed.path, parsed.version)
        else {
            return Err(HeadError::Malformed);
        };
        if path.len() > TARGET {
            return Err(HeadError::LongTarget);
        }
        let target = Uri::from_maybe_shared(head.slice_ref(path.as_bytes()));
        let (fields, mut framing) = read_fields(&head, parsed.headers)?;
        let spelling = Spelling::of(&head, parsed.headers);
        let mut request = Request::new(());
        *request.method_mut() =
            Method::from_bytes(method.as_bytes()).map_err(|_| HeadError::Malformed)?;
        *request.uri_mut() = target.map_err(|_| HeadError::Malformed)?;
        *request.version_mut() = version_of(version);
        *request.headers_mut() = fields;
        // HTTP/1.0 knows no coding, and whoever handed it on may have read on behind its head.
        framing.broken |= framing.codings > 0 && (version == 0 || !framing.chunked);
        framing.broken |= framing.listed;
        let two_framings = framing.codings + framing.lengths > 1;
        if framing.broken && !two_framings {
            return Err(HeadError::Framing);
        }
        Ok(Some(RequestHead {
            length: match framing.length {
                _ if framing.chunked => Length::Chunked,
                length => Length::Exact(length.unwrap_or_default()),
            },
            two_framings,
            fragment: path.contains('#'),
            keeps_alive: framing.keeps_alive(version),
            spelling,
            request,
        }))
    })
}

/// Takes the head of an answer to `method` out of what was read; None when its end is not there.
///
/// # Errors
/// When it cannot be read, or will be too large.
pub fn read_response(
    from: &mut BytesMut,
    seen: &mut Seen,
    limits: Limits,
    method: &Method,
) -> Result<Option<ResponseHead>, HeadError> {
    if !has_begun(from, *seen)? {
        return Ok(None);
    }
    let (before, config) = (*seen, httparse::ParserConfig::default());
    let Some(head) = take_head(from, &mut seen.line, limits)? else {
        return seen.look(before, || {
            with_room(limits.fields, |room| {
                let mut parsed = httparse::Response::new(&mut []);
                config.parse_response_with_uninit_headers(&mut parsed, from, room)
            })
        });
    };
    *seen = Seen::default();
    with_room(limits.fields, |room| {
        let mut parsed = httparse::Response::new(&mut []);
        is_all_of(&head, config.parse_response_with_uninit_headers(&mut parsed, &head, room))?;
        let (Some(code), Some(version)) = (parsed.code, parsed.version) else {
            return Err(HeadError::Malformed);
        };
        let (fields, framing) = read_fields(&head, parsed.headers)?;
        let status = StatusCode::from_u16(code).map_err(|_| HeadError::Malformed)?;
        let mut response = Response::new(());
        *response.status_mut() = status;
        *response.version_mut() = version_of(version);
        *response.headers_mut() = fields;
        let (length, clear) = framing.of_answer(method, status, version)?;
        Ok(Some(ResponseHead {
            response,
            length,
            keeps_alive: clear && framing.keeps_alive(version),
        }))
    })
}

/// Takes trailers out of what was read; None when their end is not there.
pub(super) fn read_trailers(
    from: &mut BytesMut,
    seen: &mut usize,
    limits: Limits,
) -> Result<Option<HeaderMap>, HeadError> {
    match &from[..] {
        // The end of none at all.
        [b'\r', b'\n', ..] if *seen == 0 => {
            from.advance(2);
            return Ok(Some(HeaderMap::new()));
        }
        // What follows would be taken for fields by one reader, and for a message by another.
        [b'\n', ..] => return Err(HeadError::Malformed),
        _ => {}
    }
    let Some(head) = take_head(from, seen, limits)? else { return Ok(None) };
    let mut room = vec![httparse::EMPTY_HEADER; limits.fields];
    match httparse::parse_headers(&head, &mut room).map_err(refusal)? {
        httparse::Status::Complete((length, fields)) if length == head.len() => {
            Ok(Some(read_fields(&head, fields)?.0))
        }
        _ => Err(HeadError::Malformed),
    }
}

/// Writes the line of a request, with its target as it is to stand there.
pub fn write_request_line(method: &Method, target: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(method.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(target.as_bytes());
    out.extend_from_slice(b" HTTP/1.1\r\n");
}

/// Writes the line of an answer, with the usual words for its status.
pub fn write_status_line(status: StatusCode, out: &mut Vec<u8>) {
    if status == StatusCode::OK {
        return out.extend_from_slice(b"HTTP/1.1 200 OK\r\n");
    }
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(status.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(status.canonical_reason().unwrap_or_default().as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// Writes fields, and not the empty line behind them.
pub fn write_fields(fields: &HeaderMap, spelling: &Spelling, out: &mut Vec<u8>) {
    for (name, value) in fields {
        spelling.write(name, out);
        out.extend_from_slice(b": ");
        out.extend_from_slice(value.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
}

impl Seen {
    /// That what is there may become a head. `parse` is asked when it comes, and with each line, and not with
    /// each byte; who speaks something else hears so, and is not waited for.
    fn look<T>(
        &mut self,
        before: Self,
        parse: impl FnOnce() -> httparse::Result<usize>,
    ) -> Result<Option<T>, HeadError> {
        if !before.begun || before.line != self.line {
            parse().map_err(refusal)?;
        }
        self.begun = true;
        Ok(None)
    }
}

/// Whether there is more than empty lines, which before a head are as much as nothing (RFC 9112 section 2.2).
/// Until there is, they stay: somebody has begun to speak.
fn has_begun(from: &mut BytesMut, seen: Seen) -> Result<bool, HeadError> {
    if seen.begun {
        return Ok(true);
    }
    let mut empty = 0;
    loop {
        match &from[empty..] {
            _ if empty > EMPTY => return Err(HeadError::Malformed),
            [b'\r', b'\n', ..] => empty += 2,
            [b'\n', ..] => empty += 1,
            [] | [b'\r'] => return Ok(false),
            _ => break,
        }
    }
    from.advance(empty);
    Ok(true)
}

/// Takes everything up to the empty line, when it is there. Heads that come byte by byte are looked through
/// once.
fn take_head(
    from: &mut BytesMut,
    seen: &mut usize,
    limits: Limits,
) -> Result<Option<Bytes>, HeadError> {
    let end = end_of_head(from, seen);
    let length = end.unwrap_or(from.len());
    // One that goes on need not come to its end to have too many lines.
    let goes_on = || memchr::memchr_iter(b'\n', from).nth(limits.fields + 1).is_some();
    if length > limits.bytes || (end.is_none() && goes_on()) {
        return Err(HeadError::TooLarge);
    }
    Ok(end.map(|end| from.split_to(end).freeze()))
}

/// Where the empty line ends, of which nothing lies before `seen`; `seen` goes on to the last line's beginning.
fn end_of_head(text: &[u8], seen: &mut usize) -> Option<usize> {
    while let Some(at) = memchr::memchr(b'\n', &text[*seen..]) {
        let next = *seen + at + 1;
        match &text[next..] {
            [b'\n', ..] => return Some(next + 1),
            [b'\r', b'\n', ..] => return Some(next + 2),
            // What follows may be the rest of the end.
            [] | [b'\r'] => return None,
            _ => *seen = next,
        }
    }
    None
}

/// Calls `read` with room for so many fields.
fn with_room<'h, T>(fields: usize, read: impl FnOnce(&mut [MaybeUninit<Header<'h>>]) -> T) -> T {
    if fields <= FIELDS {
        read(&mut [const { MaybeUninit::uninit() }; FIELDS][..fields])
    } else {
        read(&mut vec![MaybeUninit::uninit(); fields])
    }
}

/// That the parser came to its end where the head does.
fn is_all_of(head: &[u8], parsed: httparse::Result<usize>) -> Result<(), HeadError> {
    match parsed.map_err(refusal)? {
        httparse::Status::Complete(length) if length == head.len() => Ok(()),
        _ => Err(HeadError::Malformed),
    }
}

fn refusal(error: httparse::Error) -> HeadError {
    match error {
        httparse::Error::TooManyHeaders => HeadError::TooLarge,
        _ => HeadError::Malformed,
    }
}

fn version_of(minor: u8) -> Version {
    if minor == 0 { Version::HTTP_10 } else { Version::HTTP_11 }
}

/// What the fields of a head say of where it ends, and of what comes after it.
#[derive(Debug, Default)]
#[allow(clippy::struct_excessive_bools)] // Each is a word that was said or not.
struct Framing {
    /// How many fields give a length, and the length.
    lengths: u32,
    length: Option<u64>,
    /// Whether one of them gives a list. Origins send the same twice (RFC 9112 section 6.3); clients do not.
    listed: bool,
    /// How many fields name codings, and whether the last coding of all is the chunked one.
    codings: u32,
    chunked: bool,
    /// A length that is no number, or one that differs from another.
    broken: bool,
    closes: bool,
    stays: bool,
}

impl Framing {
    /// Takes note of a field.
    fn note(&mut self, name: &HeaderName, value: &HeaderValue) {
        match *name {
            header::CONTENT_LENGTH => {
                for (at, length) in value.as_bytes().split(|byte| *byte == b',').enumerate() {
                    let length = length_of(length.trim_ascii());
                    let again = self.lengths > 0 || at > 0;
                    self.broken |= length.is_none() || (again && length != self.length);
                    (self.length, self.listed) = (length, self.listed || at > 0);
                }
                self.lengths += 1;
            }
            header::TRANSFER_ENCODING => {
                self.codings += 1;
                let last = value.as_bytes().rsplit(|byte| *byte == b',').next().unwrap_or_default();
                self.chunked = last.trim_ascii().eq_ignore_ascii_case(b"chunked");
            }
            header::CONNECTION => {
                for word in value.as_bytes().split(|byte| *byte == b',') {
                    self.closes |= word.trim_ascii().eq_ignore_ascii_case(b"close");
                    self.stays |= word.trim_ascii().eq_ignore_ascii_case(b"keep-alive");
                }
            }
            _ => {}
        }
    }

    /// RFC 9112 section 9.3.
    fn keeps_alive(&self, version: u8) -> bool {
        !self.closes && (version > 0 || self.stays)
    }

    /// Where the body of an answer ends (RFC 9112 section 6.3), and whether that is beyond doubt.
    fn of_answer(
        &self,
        method: &Method,
        status: StatusCode,
        version: u8,
    ) -> Result<(Length, bool), HeadError> {
        let none = status.is_informational()
            || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
            || *method == Method::HEAD
            || (*method == Method::CONNECT && status.is_success());
        if none {
            return Ok((Length::Exact(0), true));
        }
        if self.codings > 0 {
            if version == 0 {
                return Err(HeadError::Framing);
            }
            let length = if self.chunked { Length::Chunked } else { Length::UntilClose };
            return Ok((length, self.lengths == 0));
        }
        match self.length {
            _ if self.broken => Err(HeadError::Framing),
            Some(length) => Ok((Length::Exact(length), true)),
            None => Ok((Length::UntilClose, false)),
        }
    }
}

/// A length: digits alone, and of as many bytes as can be counted.
fn length_of(value: &[u8]) -> Option<u64> {
    let digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(value).ok().filter(|_| digits)?.parse().ok()
}

/// Fields in place of their texts; each value is a piece of the head.
fn read_fields(head: &Bytes, parsed: &[Header<'_>]) -> Result<(HeaderMap, Framing), HeadError> {
    let mut fields = empty_fields(parsed.len());
    let mut framing = Framing::default();
    for field in parsed {
        let name = HeaderName::from_bytes(field.name.as_bytes());
        let name = name.map_err(|_| HeadError::Malformed)?;
        let value = if field.value.is_empty() {
            HeaderValue::from_static("")
        } else {
            let value = HeaderValue::from_maybe_shared(head.slice_ref(field.value));
            value.map_err(|_| HeadError::Malformed)?
        };
        framing.note(&name, &value);
        fields.try_append(name, value).map_err(|_| HeadError::TooLarge)?;
    }
    Ok((fields, framing))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { bytes: 1024, fields: 10 };

    fn request(text: &[u8]) -> Result<Option<RequestHead>, HeadError> {
        read_request(&mut text.into(), &mut Seen::default(), LIMITS)
    }

    fn answer(method: &Method, text: &str) -> Result<ResponseHead, HeadError> {
        let mut text = BytesMut::from(text);
        let head = read_response(&mut text, &mut Seen::default(), LIMITS, method)?;
        Ok(head.expect("a whole head"))
    }

    #[test]
    fn a_head_is_the_same_however_it_comes() {
        let text = b"\r\n\nPOST /a?b=%20 HTTP/1.1\r\nHost: a\r\nX-A:  b \r\nX-A:\r\nContent-Length: 3\r\n\r\nabc";
        for cut in 0..text.len() - 3 {
            let (mut from, mut seen) = (BytesMut::from(&text[..cut]), Seen::default());
            assert!(read_request(&mut from, &mut seen, LIMITS).unwrap().is_none(), "at {cut}");
            from.extend_from_slice(&text[cut..]);
            let head = read_request(&mut from, &mut seen, LIMITS).unwrap().unwrap();
            assert_eq!(&from[..], b"abc");
            assert_eq!(head.request.method(), Method::POST);
            assert_eq!(head.request.uri(), "/a?b=%20");
            let values: Vec<_> = head.request.headers().get_all("x-a").iter().collect();
            assert_eq!(values, ["b", ""]);
            assert_eq!(head.length, Length::Exact(3));
            assert_eq!(head.spelling, Spelling::Title);
            assert!(head.keeps_alive && !head.two_framings && !head.fragment);
        }
    }

    #[test]
    fn what_is_too_large_is_told_before_its_end() {
        let long = |bytes: usize| [b"GET / HTTP/1.1\r\na: ".to_vec(), vec![b'x'; bytes]].concat();
        assert!(request(&long(900)).unwrap().is_none());
        assert_eq!(request(&long(1024)).unwrap_err(), HeadError::TooLarge);
        let fields = |count| format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(count));
        assert!(request(fields(10).as_bytes()).unwrap().is_some());
        assert_eq!(request(fields(11).as_bytes()).unwrap_err(), HeadError::TooLarge);
        let endless = |count| format!("GET / HTTP/1.1\r\n{}", "a: b\r\n".repeat(count));
        assert!(request(endless(10).as_bytes()).unwrap().is_none());
        assert_eq!(request(endless(12).as_bytes()).unwrap_err(), HeadError::TooLarge);
    }

    #[test]
    fn what_could_end_in_two_places_is_told_or_refused() {
        for (fields, length, two) in [
            ("", Length::Exact(0), false),
            ("Content-Length: 7", Length::Exact(7), false),
            ("Transfer-Encoding: chunked", Length::Chunked, false),
            ("Transfer-Encoding: gzip, Chunked ", Length::Chunked, false),
            ("Content-Length: 7\r\nContent-Length: 7", Length::Exact(7), true),
            ("Content-Length: 7\r\nContent-Length: 8", Length::Exact(8), true),
            ("Content-Length: 7\r\ntransfer-encoding: chunked", Length::Chunked, true),
            ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", Length::Chunked, true),
        ] {
            let text = format!(
                "POST / HTTP/1.1\r\n{fields}{}\r\n",
                if fields.is_empty() { "" } else { "\r\n" }
            );
            let head = request(text.as_bytes()).unwrap().unwrap();
            assert_eq!((head.length, head.two_framings), (length, two), "{fields}");
        }
        for fields in [
            "Content-Length: +7",
            "Content-Length: 7, 7",
            "Content-Length: 0x7",
            "Content-Length:",
            "Content-Length: 18446744073709551616",
            "Transfer-Encoding: chunked, gzip",
            "Transfer-Encoding: xchunked",
            "Transfer-Encoding:",
        ] {
            let text = format!("POST / HTTP/1.1\r\n{fields}\r\n\r\n");
            assert_eq!(request(text.as_bytes()).unwrap_err(), HeadError::Framing, "{fields}");
        }
        let old = b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n";
        assert_eq!(request(old).unwrap_err(), HeadError::Framing);
    }

    #[test]
    fn what_is_no_head_is_refused() {
        for text in [
            &b"GET / HTTP/1.1\r\n a: b\r\n\r\n"[..],
            b"GET / HTTP/1.1\r\na: b\r\n c\r\n\r\n",
            b"GET / HTTP/1.1\r\na : b\r\n\r\n",
            b"GET / HTTP/1.1\r\na\r\n\r\n",
            b"GET / HTTP/1.1\r\na: \0\r\n\r\n",
            b"GET / HTTP/1.1\r\na: b\rc: d\r\n\r\n",
            b"GET  / HTTP/1.1\r\n\r\n",
            b"GET / HTTP/2.0\r\n\r\n",
            b"GET /\r\n\r\n",
            b"\rGET / HTTP/1.1\r\n\r\n",
            b"\x16\x03\x01\n\n",
        ] {
            assert!(request(text).is_err(), "{}", text.escape_ascii());
        }
        assert!(request(b"GET /#a HTTP/1.1\r\n\r\n").unwrap().unwrap().fragment);
    }

    #[test]
    fn what_cannot_become_a_head_is_refused_as_soon_as_that_shows() {
        for text in [
            &b"\x16\x03\x01\x02"[..],
            b"\x05\x01\x00",
            b"SSH-2.0-OpenSSH_9.7\r\n",
            b"220 mail ESMTP\r\n",
            b"\0\0\x12\x04",
            b"<html>",
            b"GET / HTTP/1.1\r\nno colon here\r\nx",
            &[b'\n'; EMPTY + 1],
        ] {
            let shown = text.escape_ascii();
            assert!(request(text).is_err(), "{shown}");
            let (mut from, mut seen) = (text.into(), Seen::default());
            let read = read_response(&mut from, &mut seen, LIMITS, &Method::GET);
            assert!(read.is_err(), "{shown}");
        }
        // In two pieces: with the line that breaks it.
        let (mut from, mut seen) = (BytesMut::from("HTTP/1.1 200 OK\r\n"), Seen::default());
        assert!(read_response(&mut from, &mut seen, LIMITS, &Method::GET).unwrap().is_none());
        from.extend_from_slice(b"no colon here\r\nx");
        assert!(read_response(&mut from, &mut seen, LIMITS, &Method::GET).is_err());
        // Who sends an empty line has begun.
        let mut from = BytesMut::from("\r\n\r\n");
        assert!(read_request(&mut from, &mut Seen::default(), LIMITS).unwrap().is_none());
        assert_eq!(&from[..], b"\r\n\r\n");
    }

    #[test]
    fn an_answer_ends_where_its_request_and_its_status_say() {
        let (get, head) = (&Method::GET, &Method::HEAD);
        for (method, text, length, stays) in [
            (get, "200 OK\r\ncontent-length: 5", Length::Exact(5), true),
            (get, "200\r\ncontent-length: 5\r\ncontent-length: 5", Length::Exact(5), true),
            (get, "200 OK\r\ncontent-length: 5, 5", Length::Exact(5), true),
            (get, "200 OK\r\na: b", Length::UntilClose, false),
            (get, "200 OK\r\ntransfer-encoding: chunked", Length::Chunked, true),
            (get, "200 OK\r\ntransfer-encoding: gzip", Length::UntilClose, true),
            (
                get,
                "200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: 3",
                Length::Chunked,
                false,
            ),
            (get, "204 No Content\r\ncontent-length: 5", Length::Exact(0), true),
            (get, "304 Not Modified\r\ncontent-length: 5", Length::Exact(0), true),
            (get, "103 Early Hints\r\na: b", Length::Exact(0), true),
            (head, "200 OK\r\ncontent-length: 5", Length::Exact(0), true),
            (get, "200 OK\r\ncontent-length: 5\r\nconnection: x, Close", Length::Exact(5), false),
        ] {
            let read = answer(method, &format!("HTTP/1.1 {text}\r\n\r\n")).unwrap();
            assert_eq!((read.length, read.keeps_alive), (length, stays), "{text}");
        }
        for text in [
            "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: -5\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 5, 6\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 5,\r\n\r\n",
            "HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
            "HTTP/1.1 20 OK\r\n\r\n",
            "ICY 200 OK\r\n\r\n",
        ] {
            assert!(answer(get, text).is_err(), "{text}");
        }
        assert!(!answer(get, "HTTP/1.0 200 OK\r\ncontent-length: 1\r\n\r\n").unwrap().keeps_alive);
    }

    #[test]
    fn names_are_written_as_they_were_read() {
        for text in [
            "GET / HTTP/1.1\r\nhost: a\r\nx-a: b\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nX-A: b\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nx-API-key: b\r\nTE: c\r\n\r\n",
        ] {
            let head = request(text.as_bytes()).unwrap().unwrap();
            let mut written = Vec::new();
            write_request_line(head.request.method(), head.request.uri().path(), &mut written);
            write_fields(head.request.headers(), &head.spelling, &mut written);
            written.extend_from_slice(b"\r\n");
            assert_eq!(String::from_utf8(written).unwrap(), text);
        }
    }
}
