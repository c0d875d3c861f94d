//! A request on its way to an origin: its head, and its body as it comes.
//!
//! The head and what of the body is at hand go out in one write. Small pieces are gathered, and large ones are
//! written from where they lie.

use std::hint::black_box;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, TRAILER, TRANSFER_ENCODING};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Request};
use http_body::{Body, Frame};
use tokio::io::AsyncWrite;

use super::super::body::RequestBody;
use crate::http1::{Spelling, done_with, write_end, write_fields, write_request_line, write_size};
use crate::request::one_length;

/// The longest piece that is copied behind what goes before it. A longer one costs less where it lies.
const SMALL: usize = 4 * 1024;

/// The most of small pieces that is gathered before it is written: a TLS record.
const GATHERED: usize = 16 * 1024;

/// So often is written before whoever sends looks again at what has come: an answer in the middle of an upload
/// that always moves would be heard at its end.
const AT_ONCE: usize = 16;

/// What stands around a chunk: two line ends and the digits of its size; and the end of a body behind it.
const AROUND: usize = 4 + 16 + 5;

/// A request, until it is sent or nobody wants it any more.
pub(in crate::upstream) struct Outgoing {
    body: RequestBody,
    end: End,
    outbox: Outbox,
}

/// Where a body ends.
enum End {
    /// After so many bytes more.
    Length(u64),
    /// Where its own coding says, with these fields behind it.
    Chunked(Vec<HeaderName>),
    /// It has ended.
    Over,
}

/// Why a request was not sent to its end.
pub(in crate::upstream) enum Stop {
    /// The agent broke its body off, or it is not as long as its head says.
    Body,
    /// The connection takes no more.
    Wire(io::Error),
}

impl Outgoing {
    /// Nothing of it is sent yet. None when the head says of the body what is not so.
    pub(super) fn new(request: Request<RequestBody>) -> Option<Self> {
        let (mut parts, body) = request.into_parts();
        let end = end_of(&mut parts.headers, &body)?;
        let outbox = Outbox::new(&parts, &body);
        done_with(parts.headers);
        Some(Self { body, end, outbox })
    }

    /// Ready when all of it is with the system.
    pub(super) fn poll(
        &mut self,
        wire: &mut (impl AsyncWrite + Unpin),
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Stop>> {
        for _ in 0..AT_ONCE {
            let waits = self.fill(cx)?.is_pending();
            let more = !waits && !matches!(self.end, End::Over);
            ready!(self.outbox.poll_write(wire, cx, more)).map_err(Stop::Wire)?;
            if more {
                continue;
            }
            // TLS keeps what the socket had no room for.
            let flushed = Pin::new(&mut *wire).poll_flush(cx).map_err(Stop::Wire)?;
            return if waits { Poll::Pending } else { flushed.map(Ok) };
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Takes of the body as much as there is room for. Pending when that waits for the body.
    fn fill(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, Stop> {
        while !matches!(self.end, End::Over) && self.outbox.has_room() {
            match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => self.put(frame)?,
                Poll::Ready(Some(Err(_))) => return Err(Stop::Body),
                Poll::Ready(None) => self.finish(None)?,
                // It is as long as it should be. That it ends there need not be waited for.
                Poll::Pending if matches!(self.end, End::Length(0)) => self.end = End::Over,
                Poll::Pending => return Ok(Poll::Pending),
            }
        }
        Ok(Poll::Ready(()))
    }

    fn put(&mut self, frame: Frame<Bytes>) -> Result<(), Stop> {
        let piece = match frame.into_data() {
            Ok(piece) => piece,
            Err(frame) => return self.finish(frame.into_trailers().ok()),
        };
        match &mut self.end {
            End::Length(left) => {
                *left = left.checked_sub(piece.len() as u64).ok_or(Stop::Body)?;
                self.outbox.put(piece, false);
            }
            _ => self.outbox.put(piece, true),
        }
        if self.body.is_end_stream() { self.finish(None) } else { Ok(()) }
    }

    fn finish(&mut self, trailers: Option<HeaderMap>) -> Result<(), Stop> {
        match std::mem::replace(&mut self.end, End::Over) {
            End::Length(0) | End::Over => Ok(()),
            // The origin must not take what it has for the whole.
            End::Length(_) => Err(Stop::Body),
            End::Chunked(announced) => {
                let trailers = trailers.map(|fields| only(fields, &announced));
                write_end(trailers.as_ref(), &mut self.outbox.text);
                Ok(())
            }
        }
    }
}

/// Where the body ends, which the head is made to say. None when it says something else.
fn end_of(headers: &mut HeaderMap, body: &RequestBody) -> Option<End> {
    let lengths = headers.get_all(CONTENT_LENGTH).iter().map(HeaderValue::as_bytes);
    let announced = one_length(lengths).ok()?;
    headers.remove(TRANSFER_ENCODING);
    if body.is_end_stream() {
        return announced.is_none_or(|length| length == 0).then_some(End::Over);
    }
    match (announced, body.size_hint().exact()) {
        (Some(announced), Some(exact)) if announced != exact => None,
        (Some(length), _) => Some(End::Length(length)),
        (None, Some(length)) => {
            headers.insert(CONTENT_LENGTH, length.into());
            Some(End::Length(length))
        }
        (None, None) => {
            headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
            Some(End::Chunked(announced_trailers(headers)))
        }
    }
}

/// The fields that the head says will stand behind the body (RFC 9110 section 6.6.2).
fn announced_trailers(headers: &HeaderMap) -> Vec<HeaderName> {
    let values = headers.get_all(TRAILER).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).filter_map(|name| name.trim().parse().ok()).collect()
}

/// The fields with these names. Who announces none wants none: nobody waits for them.
fn only(mut fields: HeaderMap, names: &[HeaderName]) -> HeaderMap {
    let others: Vec<_> = fields.keys().filter(|name| !names.contains(name)).cloned().collect();
    for name in others {
        fields.remove(name);
    }
    fields
}

/// What is to be written next: text, and in it a piece that lies elsewhere.
struct Outbox {
    text: Vec<u8>,
    piece: Bytes,
    /// Where in the text the piece has its place.
    place: usize,
    /// How much of both has been written.
    written: usize,
    /// Whether the head is in the text, and a secret in that.
    secret: bool,
}

impl Outbox {
    /// With the head, and room for a small body behind it: what grows is copied, and the copy that it was
    /// made of is not wiped.
    fn new(parts: &Parts, body: &RequestBody) -> Self {
        let target = parts.uri.path_and_query().map_or("/", |target| target.as_str());
        let fields =
            parts.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4);
        let line = parts.method.as_str().len() + target.len() + " HTTP/1.1\r\n ".len();
        let room = match body.size_hint().exact() {
            Some(length) => usize::try_from(length).ok().filter(|length| *length <= SMALL),
            None => Some(SMALL),
        };
        let size = line + fields.sum::<usize>() + room.unwrap_or_default() + AROUND;
        let mut text = Vec::with_capacity(size);
        write_request_line(&parts.method, target, &mut text);
        let spelling = parts.extensions.get().unwrap_or(&Spelling::Lower);
        write_fields(&parts.headers, spelling, &mut text);
        text.extend_from_slice(b"\r\n");
        Self { text, piece: Bytes::new(), place: 0, written: 0, secret: true }
    }

    fn has_room(&self) -> bool {
        self.piece.is_empty() && self.text.len() < GATHERED
    }

    /// Adds a piece, for which there has to be room; as a chunk, if it is to be one.
    fn put(&mut self, piece: Bytes, chunked: bool) {
        if piece.is_empty() {
            return;
        }
        let small = piece.len() <= SMALL;
        if self.text.is_empty() {
            self.text.reserve(if small { GATHERED } else { AROUND });
        }
        if chunked {
            write_size(piece.len(), &mut self.text);
        }
        if small && self.text.len() + piece.len() + AROUND <= self.text.capacity() {
            self.text.extend_from_slice(&piece);
        } else {
            (self.place, self.piece) = (self.text.len(), piece);
        }
        if chunked {
            self.text.extend_from_slice(b"\r\n");
        }
    }

    /// Ready when all of it has been written. `more`: except for a short rest of the piece and what is behind it,
    /// which what comes next is written with.
    fn poll_write(
        &mut self,
        wire: &mut (impl AsyncWrite + Unpin),
        cx: &mut Context<'_>,
        more: bool,
    ) -> Poll<io::Result<()>> {
        let whole = self.text.len() + self.piece.len();
        while self.written < whole {
            // TLS takes so many whole records at once, and of what is left it would make a small one.
            let in_piece = !self.piece.is_empty() && self.written > self.place;
            if more && in_piece && whole - self.written <= SMALL {
                self.gather();
                return Poll::Ready(Ok(()));
            }
            let wire = Pin::new(&mut *wire);
            let written = if self.piece.is_empty() {
                wire.poll_write(cx, &self.text[self.written..])
            } else {
                let (before, behind) = self.text.split_at(self.place);
                let mut all = [before, &self.piece[..], behind].map(IoSlice::new);
                let mut left = &mut all[..];
                IoSlice::advance_slices(&mut left, self.written);
                wire.poll_write_vectored(cx, left)
            };
            match ready!(written)? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.written += written,
            }
        }
        self.clear();
        Poll::Ready(Ok(()))
    }

    /// Makes what is left of the piece, and behind it, the text of what comes next.
    fn gather(&mut self) {
        let of_piece = self.written - self.place;
        let behind = self.place + of_piece.saturating_sub(self.piece.len());
        let mut left = Vec::with_capacity(GATHERED);
        left.extend_from_slice(self.piece.get(of_piece..).unwrap_or_default());
        left.extend_from_slice(&self.text[behind..]);
        self.clear();
        self.text = left;
    }

    fn clear(&mut self) {
        if std::mem::take(&mut self.secret) {
            self.text.fill(0);
            // Or the compiler sees that nobody reads the zeros.
            black_box(&mut self.text);
        }
        self.text.clear();
        self.piece = Bytes::new();
        (self.place, self.written) = (0, 0);
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        self.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;

    /// Gives these frames one by one; what is none is waited for, and at the end that there are no more.
    struct Frames(VecDeque<Option<Frame<Bytes>>>);

    impl Body for Frames {
        type Data = Bytes;
        type Error = io::Error;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
            match self.0.pop_front() {
                None => Poll::Ready(None),
                Some(None) => Poll::Pending,
                Some(frame) => Poll::Ready(frame.map(Ok)),
            }
        }
    }

    /// Takes at most so many bytes at once, and keeps each write.
    struct Writes {
        most: usize,
        all: Vec<Vec<u8>>,
    }

    impl AsyncWrite for Writes {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            let length = bytes.len().min(self.most);
            self.all.push(bytes[..length].to_vec());
            Poll::Ready(Ok(length))
        }

        fn poll_write_vectored(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bytes: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            let all = bytes.iter().flat_map(|slice| slice.iter().copied());
            let all: Vec<u8> = all.take(self.most).collect();
            let length = all.len();
            self.all.push(all);
            Poll::Ready(Ok(length))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    /// None in its place is a body that waits.
    #[allow(clippy::unnecessary_wraps)]
    fn piece(text: impl Into<Bytes>) -> Option<Frame<Bytes>> {
        Some(Frame::data(text.into()))
    }

    fn request(
        fields: &[(&'static str, &'static str)],
        frames: impl IntoIterator<Item = Option<Frame<Bytes>>>,
    ) -> Request<RequestBody> {
        let mut request = Request::put("/a?b");
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let frames = Frames(frames.into_iter().collect());
        request.body(RequestBody::new(frames).0).unwrap()
    }

    /// What is written, in how many writes, and whether that is all; polled as often as it wants.
    fn written(request: Request<RequestBody>, most: usize) -> (String, usize, Option<bool>) {
        let mut wire = Writes { most, all: Vec::new() };
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let Some(mut outgoing) = Outgoing::new(request) else { return (String::new(), 0, None) };
        let mut polls = 0;
        let whole = loop {
            match outgoing.poll(&mut wire, &mut cx) {
                Poll::Ready(end) => break end.is_ok(),
                Poll::Pending => polls += 1,
            }
            assert!(polls < 100, "nothing moves");
        };
        (String::from_utf8(wire.all.concat()).unwrap(), wire.all.len(), Some(whole))
    }

    const LENGTH: (&str, &str) = ("content-length", "6");

    #[test]
    fn head_and_what_is_at_hand_of_the_body_go_in_one_write() {
        let text = "PUT /a?b HTTP/1.1\r\ncontent-length: 6\r\n\r\nabcdef";
        let sent = written(request(&[LENGTH], [piece("abc"), piece(""), piece("def")]), usize::MAX);
        assert_eq!(sent, (text.to_owned(), 1, Some(true)));
        let sent = written(request(&[LENGTH], [piece("abc"), None, piece("def")]), usize::MAX);
        assert_eq!(sent, (text.to_owned(), 2, Some(true)));
        let text = "PUT /a?b HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
        let sent = written(request(&[], [piece("abc")]), usize::MAX);
        assert_eq!(sent, (text.to_owned(), 1, Some(true)));
        let bare = Request::get("/").body(RequestBody::Empty).unwrap();
        assert_eq!(written(bare, 1), ("GET / HTTP/1.1\r\n\r\n".to_owned(), 18, Some(true)));
    }

    #[test]
    fn pieces_of_any_size_arrive_in_order_however_they_are_taken() {
        let sizes = [1, SMALL, SMALL + 1, 3, GATHERED, 100_000, 2, 5000, 1];
        let texts: Vec<String> =
            ('a'..).zip(sizes).map(|(letter, size)| letter.to_string().repeat(size)).collect();
        let pieces = || texts.iter().map(|text| piece(text.clone()));
        let chunks: String =
            texts.iter().map(|text| format!("{:x}\r\n{text}\r\n", text.len())).collect();
        let chunked =
            format!("PUT /a?b HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n{chunks}0\r\n\r\n");
        let length: usize = sizes.iter().sum();
        let length: &'static str = Box::leak(length.to_string().into());
        for most in [1, 7, 1000, 4096, 5000, 99_000, usize::MAX] {
            assert!(written(request(&[], pieces()), most).0 == chunked, "{most}");
            let (sent, _, whole) = written(request(&[("content-length", length)], pieces()), most);
            let (_, body) = sent.split_once("\r\n\r\n").unwrap();
            assert!(body == texts.concat() && whole == Some(true), "{most}");
        }
        // What does not fit is written with what follows it.
        let long = std::iter::repeat_n((), 10).map(|()| piece(vec![b'x'; 100_001]));
        let (_, writes, _) = written(request(&[], long), 100_000);
        assert_eq!(writes, 11);
        let small = std::iter::repeat_n((), 2000).map(|()| piece("x"));
        let (_, writes, _) = written(request(&[], small), usize::MAX);
        assert!(writes < 8, "{writes} writes for 12 KiB");
    }

    #[test]
    fn a_body_that_is_not_as_long_as_announced_never_ends_as_if_whole() {
        let short = written(request(&[LENGTH], [piece("abc")]), usize::MAX);
        assert_eq!(short.2, Some(false));
        for pieces in [vec![piece("abcdefg")], vec![piece("abc"), None, piece("defg")]] {
            let (sent, _, whole) = written(request(&[LENGTH], pieces), usize::MAX);
            assert!(whole == Some(false) && !sent.ends_with("abcdef"), "{sent}");
        }
        for length in ["7", "5", "0"] {
            let (body, _) = RequestBody::new(http_body_util::Full::from("abcdef"));
            let known = Request::put("/").header("content-length", length).body(body).unwrap();
            assert_eq!(written(known, usize::MAX).2, None, "{length}");
        }
        let none = Request::put("/").header("content-length", "1").body(RequestBody::Empty);
        assert_eq!(written(none.unwrap(), usize::MAX).2, None);
    }

    #[test]
    fn what_follows_a_whole_body_is_not_waited_for() {
        let (sent, _, whole) = written(request(&[LENGTH], [piece("abcdef"), None]), usize::MAX);
        assert!(sent.ends_with("abcdef") && whole == Some(true), "{sent}");
    }

    #[test]
    fn trailers_go_out_if_they_were_announced() {
        let trailers = HeaderMap::from_iter([
            ("x-sum".parse().unwrap(), "1".parse().unwrap()),
            ("x-else".parse().unwrap(), "2".parse().unwrap()),
        ]);
        let frames = || [piece("a"), Some(Frame::trailers(trailers.clone()))];
        let (sent, ..) = written(request(&[("trailer", "X-Gone, X-Sum")], frames()), usize::MAX);
        assert!(sent.ends_with("\r\n\r\n1\r\na\r\n0\r\nx-sum: 1\r\n\r\n"), "{sent}");
        let (sent, ..) = written(request(&[], frames()), usize::MAX);
        assert!(sent.ends_with("\r\n\r\n1\r\na\r\n0\r\n\r\n"), "{sent}");
    }
}
