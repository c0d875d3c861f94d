//! An answer on its way from an origin: the head, what is said before it, and the body as it comes.
//!
//! Pieces are handed on as they were read, without a copy. What waits for more holds no memory.

use std::io;
use std::mem::MaybeUninit;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::{BufMut as _, Bytes, BytesMut};
use http::{Method, Response, StatusCode, Version};
use http_body::{Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncReadExt as _, ReadBuf};
use zeroize::Zeroize as _;

use super::super::body::BodyError;
use super::super::interim::Hearing;
use super::{LinkError, Outgoing};
use crate::http1::{Chunks, Length, Limits, Piece, Seen, read_response};

/// The longest response head: over 64 KiB they are refused by every server and browser in use. Trailers may
/// be as long.
const HEAD: Limits = Limits { bytes: 64 * 1024, fields: 100 };

/// What is read at first, and the most that is read at once. It grows to that only for a bulk transfer: six
/// TLS records. More would cost less of the kernel's work, and be held for each slow reader.
const READ: (usize, usize) = (4 * 1024, 96 * 1024);

/// The head of an answer, its body to come, and what is still to be sent.
pub(in crate::upstream) struct Answer {
    pub(in crate::upstream) response: Response<()>,
    pub(in crate::upstream) incoming: Incoming,
    /// What is left of the request, if the answer came before it was sent.
    pub(in crate::upstream) rest: Option<Outgoing>,
}

/// Reads one answer.
pub(in crate::upstream) struct Incoming {
    buffer: BytesMut,
    seen: Seen,
    coming: Coming,
    /// Whether another request may follow on the connection.
    keeps_alive: bool,
    /// How much is read next, and whether the last read was far less.
    next: usize,
    less: bool,
}

/// What comes next.
enum Coming {
    Head,
    /// So many bytes more.
    Exact(u64),
    Chunked(Chunks),
    UntilClose,
    /// Nothing: that was all, or nothing that follows can be read.
    Over,
}

impl Incoming {
    pub(super) fn new() -> Self {
        Self {
            buffer: BytesMut::new(),
            seen: Seen::default(),
            coming: Coming::Head,
            keeps_alive: false,
            next: READ.0,
            less: false,
        }
    }

    /// The head of the answer to `method`. What comes before it is told to `hearing`.
    pub(super) fn poll_head(
        &mut self,
        wire: &mut (impl AsyncRead + Unpin),
        cx: &mut Context<'_>,
        (method, hearing): (&Method, &Hearing<'_>),
    ) -> Poll<Result<Response<()>, LinkError>> {
        loop {
            let head = read_response(&mut self.buffer, &mut self.seen, HEAD, method);
            if let Some(head) = head.map_err(LinkError::Head)? {
                let status = head.response.status();
                if status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS {
                    hearing.hear(head.response);
                    continue;
                }
                // An origin of HTTP/1.0 may not know the coding that the next request has.
                self.keeps_alive = head.keeps_alive && head.response.version() == Version::HTTP_11;
                self.coming = match head.length {
                    Length::Exact(0) => Coming::Over,
                    Length::Exact(length) => Coming::Exact(length),
                    Length::Chunked => Coming::Chunked(Chunks::new(HEAD)),
                    Length::UntilClose => Coming::UntilClose,
                };
                return Poll::Ready(Ok(head.response));
            }
            match ready!(self.poll_read(wire, cx)) {
                Ok(0) => return Poll::Ready(Err(LinkError::Closed)),
                Ok(_) => {}
                Err(error) => return Poll::Ready(Err(LinkError::Io(error))),
            }
        }
    }

    /// The next of the body.
    pub(in crate::upstream) fn poll_frame(
        &mut self,
        wire: &mut (impl AsyncRead + Unpin),
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        loop {
            match self.next_frame() {
                Ok(Some(frame)) => return Poll::Ready(Some(Ok(frame))),
                Ok(None) if self.is_over() => return Poll::Ready(None),
                Ok(None) => {}
                Err(error) => return Poll::Ready(Some(Err(BodyError::Broken(error)))),
            }
            match ready!(self.poll_read(wire, cx)) {
                Ok(0) if matches!(self.coming, Coming::UntilClose) => {
                    self.coming = Coming::Over;
                    return Poll::Ready(None);
                }
                Ok(0) => return Poll::Ready(Some(Err(BodyError::Truncated))),
                Ok(_) => {}
                Err(error) => {
                    let error = BodyError::Broken(LinkError::Io(error));
                    return Poll::Ready(Some(Err(error)));
                }
            }
        }
    }

    /// What is at hand.
    fn next_frame(&mut self) -> Result<Option<Frame<Bytes>>, LinkError> {
        let data = match &mut self.coming {
            Coming::Head | Coming::Over => return Ok(None),
            Coming::Exact(_) | Coming::UntilClose if self.buffer.is_empty() => return Ok(None),
            Coming::Exact(left) => {
                let here = usize::try_from(*left).unwrap_or(usize::MAX).min(self.buffer.len());
                *left -= here as u64;
                if *left == 0 {
                    self.coming = Coming::Over;
                }
                self.buffer.split_to(here).freeze()
            }
            Coming::UntilClose => self.buffer.split().freeze(),
            Coming::Chunked(chunks) => {
                match chunks.read(&mut self.buffer).map_err(LinkError::Chunks)? {
                    None => return Ok(None),
                    Some(Piece::Data(data)) => {
                        if chunks.ends(&mut self.buffer) {
                            self.coming = Coming::Over;
                        }
                        data
                    }
                    Some(Piece::End(trailers)) => {
                        self.coming = Coming::Over;
                        return Ok((!trailers.is_empty()).then(|| Frame::trailers(trailers)));
                    }
                }
            }
        };
        Ok(Some(Frame::data(data)))
    }

    fn poll_read(
        &mut self,
        wire: &mut (impl AsyncRead + Unpin),
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let read = match self.poll_read_into(wire, cx)? {
            Poll::Ready(read) => read,
            Poll::Pending => {
                if self.buffer.is_empty() {
                    self.buffer = BytesMut::new();
                }
                return Poll::Pending;
            }
        };
        let less = read < self.next / 2;
        if read >= self.next {
            self.next = (2 * self.next).min(READ.1);
        } else if less && self.less {
            self.next = (self.next / 2).max(READ.0);
        }
        self.less = less;
        Poll::Ready(Ok(read))
    }

    fn poll_read_into(
        &mut self,
        wire: &mut (impl AsyncRead + Unpin),
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        if self.buffer.is_empty() && self.next == READ.0 {
            // Most answers are one short piece: by way of the stack, they take the memory that they need.
            let mut space = [MaybeUninit::<u8>::uninit(); READ.0];
            let mut first = ReadBuf::uninit(&mut space);
            ready!(Pin::new(wire).poll_read(cx, &mut first))?;
            self.buffer = BytesMut::from(first.filled());
            // Nobody else wipes a stack.
            first.filled_mut().zeroize();
            return Poll::Ready(Ok(self.buffer.len()));
        }
        if self.buffer.capacity() - self.buffer.len() < self.next {
            self.buffer.reserve(self.next);
        }
        let mut room = (&mut self.buffer).limit(self.next);
        pin!(wire.read_buf(&mut room)).poll(cx)
    }

    /// Whether all of it has been handed on.
    pub(in crate::upstream) fn is_over(&self) -> bool {
        matches!(self.coming, Coming::Over)
    }

    /// What is known of the length that is to come.
    pub(in crate::upstream) fn size_hint(&self) -> SizeHint {
        match self.coming {
            Coming::Exact(left) => SizeHint::with_exact(left),
            Coming::Over => SizeHint::with_exact(0),
            Coming::Head | Coming::Chunked(_) | Coming::UntilClose => SizeHint::default(),
        }
    }

    /// Whether it ended where it should, and another may follow on the connection.
    pub(in crate::upstream) fn leaves_all_well(&self) -> bool {
        self.is_over() && self.keeps_alive && self.buffer.is_empty()
    }

    /// What came behind the head, of an answer that ended HTTP.
    pub(in crate::upstream) fn into_unread(self) -> Bytes {
        self.buffer.freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::interim::Interims;
    use http::HeaderMap;
    use std::collections::VecDeque;
    use std::pin::Pin;
    use tokio::io::ReadBuf;

    /// Gives one piece for each read, then waits if it is to, and then is at its end.
    struct Pieces {
        left: VecDeque<Vec<u8>>,
        waits: bool,
    }

    impl AsyncRead for Pieces {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buf: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            let Some(mut piece) = self.left.pop_front() else {
                return if self.waits { Poll::Pending } else { Poll::Ready(Ok(())) };
            };
            let rest = piece.split_off(piece.len().min(buf.remaining()));
            buf.put_slice(&piece);
            if !rest.is_empty() {
                self.left.push_front(rest);
            }
            Poll::Ready(Ok(()))
        }
    }

    fn pieces<'p>(pieces: impl IntoIterator<Item = &'p [u8]>) -> Pieces {
        let left = pieces.into_iter().filter(|piece| !piece.is_empty()).map(<[u8]>::to_vec);
        Pieces { left: left.collect(), waits: false }
    }

    fn now<T>(poll: impl FnOnce(&mut Context<'_>) -> Poll<T>) -> T {
        match poll(&mut Context::from_waker(std::task::Waker::noop())) {
            Poll::Ready(ready) => ready,
            Poll::Pending => panic!("all is there"),
        }
    }

    /// Status, body, trailers, and whether another answer may follow; or what is wrong.
    type Read = Result<(u16, Vec<u8>, HeaderMap, bool), String>;

    fn read(method: &Method, mut wire: Pieces) -> Read {
        let mut incoming = Incoming::new();
        let hearing = Hearing::default();
        let head = now(|cx| incoming.poll_head(&mut wire, cx, (method, &hearing)));
        let status = head.map_err(|error| error.to_string())?.status().as_u16();
        let (mut body, mut trailers) = (Vec::new(), HeaderMap::new());
        while let Some(frame) = now(|cx| incoming.poll_frame(&mut wire, cx)) {
            match frame.map_err(|error| error.to_string())?.into_data() {
                Ok(data) => body.extend_from_slice(&data),
                Err(frame) => trailers = frame.into_trailers().unwrap(),
            }
        }
        assert!(incoming.is_over());
        Ok((status, body, trailers, incoming.leaves_all_well()))
    }

    const CHUNKED: &str = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";

    #[test]
    fn an_answer_is_the_same_however_it_comes() {
        let chunked = format!("{CHUNKED}3\r\nabc\r\n2\r\nde\r\n0\r\nX-Sum: 1\r\n\r\n");
        for (text, sum, stays) in [
            ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nabcde", None, true),
            (&*chunked, Some("1"), true),
            (&*format!("{CHUNKED}5\r\nabcde\r\n0\r\n\r\n"), None, true),
            ("HTTP/1.1 103 Hints\r\na: b\r\n\r\nHTTP/1.1 200 OK\r\n\r\nabcde", None, false),
            ("HTTP/1.0 200 OK\r\ncontent-length: 5\r\n\r\nabcde", None, false),
            (
                "HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 5\r\n\r\nabcde",
                None,
                false,
            ),
            ("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 5\r\n\r\nabcde", None, false),
            // More than was asked for.
            ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nabcdefg", None, false),
        ] {
            let same = |wire| {
                let (status, body, trailers, well) = read(&Method::GET, wire).unwrap();
                let got = trailers.get("x-sum").map(|value| value.to_str().unwrap());
                assert_eq!((status, &*body, got, well), (200, &b"abcde"[..], sum, stays), "{text}");
            };
            let bytes = text.as_bytes();
            same(pieces([bytes]));
            if !text.ends_with("fg") {
                same(pieces(bytes.chunks(1)));
                (1..bytes.len()).for_each(|cut| same(pieces([&bytes[..cut], &bytes[cut..]])));
            }
        }
    }

    #[test]
    fn answers_without_content_are_over_with_their_head() {
        for (method, head) in [
            (Method::HEAD, "200 OK\r\ncontent-length: 5"),
            (Method::HEAD, "200 OK\r\ntransfer-encoding: chunked"),
            (Method::GET, "204 No Content\r\ncontent-length: 5"),
            (Method::GET, "304 Not Modified\r\ncontent-length: 5"),
            (Method::GET, "200 OK\r\ncontent-length: 0"),
        ] {
            let text = format!("HTTP/1.1 {head}\r\n\r\n");
            let mut incoming = Incoming::new();
            let hearing = Hearing::default();
            let mut wire = pieces([text.as_bytes()]);
            let got = now(|cx| incoming.poll_head(&mut wire, cx, (&method, &hearing)));
            assert!(got.is_ok() && incoming.is_over() && incoming.leaves_all_well(), "{head}");
        }
    }

    #[test]
    fn what_ends_before_its_end_or_cannot_be_read_is_an_error() {
        let length = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nabcd";
        let chunks = |text: &str| format!("{CHUNKED}{text}");
        let long = format!("HTTP/1.1 200 OK\r\na: {}", "x".repeat(HEAD.bytes));
        let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "a: b\r\n".repeat(HEAD.fields + 1));
        for text in [
            "",
            "HTTP/1.1 200",
            "HTTP/1.1 100 Continue\r\n\r\n",
            length,
            &chunks("5\r\nabcd"),
            &chunks("5\r\nabcde\r\n"),
            &chunks("5\r\nabcde\r\n0\r\n"),
            &chunks("5\r\nabcdef\r\n0\r\n\r\n"),
            &chunks("5\nabcde\r\n0\r\n\r\n"),
            &long,
            &many,
        ] {
            assert!(read(&Method::GET, pieces([text.as_bytes()])).is_err(), "{text:.80}");
            assert!(read(&Method::GET, pieces(text.as_bytes().chunks(1))).is_err(), "{text:.80}");
        }
    }

    #[test]
    fn what_is_said_before_an_answer_is_heard_and_a_101_is_the_answer() {
        let text = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nlink: a\r\n\r\n\
                    HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\nother bytes";
        let interims = Interims::default();
        let hearing = Hearing { go_on: None, interims: Some(&interims) };
        let (mut wire, mut incoming) = (pieces([text.as_bytes()]), Incoming::new());
        let head = now(|cx| incoming.poll_head(&mut wire, cx, (&Method::GET, &hearing)));
        assert_eq!(head.unwrap().status(), 101);
        assert_eq!(interims.take().unwrap().headers()["link"], "a");
        assert!(interims.take().is_none());
        assert_eq!(incoming.into_unread(), "other bytes");
    }

    #[test]
    fn bulk_is_read_in_large_pieces_and_who_waits_holds_nothing() {
        let head = b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n";
        let mut wire = pieces([&head[..], &vec![b'x'; 900_000]]);
        wire.waits = true;
        let (mut incoming, hearing) = (Incoming::new(), Hearing::default());
        now(|cx| incoming.poll_head(&mut wire, cx, (&Method::GET, &hearing))).unwrap();
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let mut sizes = Vec::new();
        while let Poll::Ready(frame) = incoming.poll_frame(&mut wire, &mut cx) {
            sizes.push(frame.unwrap().unwrap().into_data().unwrap().len());
        }
        assert_eq!(sizes.iter().sum::<usize>(), 900_000);
        assert_eq!(sizes[0], READ.0);
        assert_eq!(sizes.iter().max(), Some(&READ.1));
        assert_eq!(incoming.buffer.capacity(), 0);
        assert_eq!(incoming.size_hint().exact(), Some(100_000));
    }
}
