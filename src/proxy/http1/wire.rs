//! The stream of an agent, with what was read of it and what is to be written.
//!
//! The task of the connection and the body of its request work on it in turns: an origin may answer early, and
//! then the rest of the body is read by another task than the one that writes the answer. Neither holds it while
//! it waits.

use std::error::Error;
use std::io::{self, ErrorKind, IoSlice};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf as _, Bytes, BytesMut};
use http_body::Frame;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};

use super::super::unread::Unread;
use super::body::{Framing, Source};
use super::linger::Linger;
use super::reply::SHORT;
use super::{Bounds, has_left};
use crate::http1::{HeadError, RequestHead, Seen, read_request};
use crate::upstream::Gather;

/// What is read at once at first: a head, and the body that comes with it, nearly always.
const ROOM: usize = 4 * 1024;

/// Below, there is no use in another read into what is left of a buffer.
const LEAST_ROOM: usize = 1024;

/// What is read at once of a body that fills each read.
const MOST_ROOM: usize = 64 * 1024;

/// What of interim answers waits for an agent. One head of an origin is no longer; what does not fit
/// is dropped, because the answer does not depend on it.
const INTERIM: usize = 64 * 1024;

const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

type BoxError = Box<dyn Error + Send + Sync>;

/// The connection, for those who share it.
pub(super) struct Wire<S>(Mutex<State<S>>);

/// The end of the task to which the connection belongs: with it goes the stream, whoever shares it still.
pub(super) struct Owner<S>(Arc<Wire<S>>);

struct State<S> {
    /// None when the connection is over, or has been given to somebody else.
    stream: Option<S>,
    gather: Gather,
    read: BytesMut,
    /// How far it was looked through for a head.
    seen: Seen,
    /// What the next read may bring.
    room: usize,
    /// What is to go out before the answer.
    early: Out,
    unread: Unread,
    bounds: Bounds,
    body: Upload,
    go_on: GoOn,
    /// Whether the answer has begun: nothing goes out before it any more.
    answering: bool,
    /// Whether the agent closed its connection without the word by which TLS ends.
    left: bool,
    /// The task of the connection, and that which reads the body.
    owner: Option<Waker>,
    reader: Option<Waker>,
}

/// How far the body of the request has been read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Upload {
    /// To its end, or there is none.
    Over,
    /// There is more, and somebody who may read it.
    Open,
    /// Nobody will.
    GivenUp,
}

/// Whether the agent is to be told to send its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum GoOn {
    /// It sends it, or there is none.
    Unasked,
    /// When somebody asks for it.
    Waits,
    /// Somebody has. Told by the task of the connection, behind what the origin said before.
    Due,
}

/// What is to be written, in this order.
#[derive(Default)]
pub(super) struct Out {
    /// Heads, sizes, and what is short.
    pub(super) front: Vec<u8>,
    /// What is long is not copied.
    pub(super) piece: Bytes,
    /// What ends a chunk, or a body.
    pub(super) back: Vec<u8>,
    /// How much of the front, and of the back, has been written.
    written: [usize; 2],
    /// Whether something may be held back below.
    held: bool,
}

impl Out {
    fn is_empty(&self) -> bool {
        self.front.is_empty() && self.piece.is_empty() && self.back.is_empty()
    }

    /// Whether all that is left is short, and not the beginning of what it is.
    fn has_short_rest(&self) -> bool {
        let left = self.piece.len() + self.back.len() - self.written[1];
        self.front.is_empty() && (1..=SHORT).contains(&left)
    }

    /// Makes what is left the front of what comes next.
    fn gather(&mut self) {
        self.front.extend_from_slice(&std::mem::take(&mut self.piece));
        self.front.extend_from_slice(&self.back[self.written[1]..]);
        self.back.clear();
        self.written = [0, 0];
    }

    fn advance(&mut self, bytes: usize) {
        let [front, back] = &mut self.written;
        let bytes = take(&mut self.front, front, bytes);
        let piece = bytes.min(self.piece.len());
        self.piece.advance(piece);
        if self.piece.is_empty() {
            // Empty, it would hold all of what it was cut from.
            self.piece = Bytes::new();
        }
        take(&mut self.back, back, bytes - piece);
    }
}

/// Takes as many bytes off what is written of `text` from `written` on; gives how many are more than that.
fn take(text: &mut Vec<u8>, written: &mut usize, bytes: usize) -> usize {
    let here = bytes.min(text.len() - *written);
    *written += here;
    if *written == text.len() {
        *written = 0;
        text.clear();
    }
    bytes - here
}

/// What comes of waiting for a head.
pub(super) enum Next {
    Head(RequestHead),
    /// Nothing is there, and nothing of one has come since.
    Nothing,
    /// Some of one.
    Begun,
    /// The agent has ended its side, between two requests.
    Over,
    Unreadable(HeadError),
}

impl<S> Owner<S> {
    /// A stream of which `unread` was read before.
    pub(super) fn new(stream: S, unread: BytesMut, bounds: Bounds) -> Self {
        Self(Arc::new(Wire(Mutex::new(State {
            stream: Some(stream),
            gather: Gather::default(),
            read: unread,
            seen: Seen::default(),
            room: ROOM,
            early: Out::default(),
            unread: Unread::default(),
            bounds,
            body: Upload::Over,
            go_on: GoOn::Unasked,
            answering: false,
            left: false,
            owner: None,
            reader: None,
        }))))
    }

    /// For whoever shares it.
    pub(super) fn share(&self) -> Arc<Wire<S>> {
        Arc::clone(&self.0)
    }

    /// The stream, and what was read of it beyond the last request. None when it is over.
    pub(super) fn into_stream(self) -> Option<(S, BytesMut)> {
        let mut state = self.0.0.lock();
        let read = std::mem::take(&mut state.read);
        state.stream.take().map(|stream| (stream, read))
    }

    /// A request begins.
    pub(super) fn begin(&self, body: Upload, go_on: GoOn) {
        let mut state = self.0.0.lock();
        state.body = body;
        state.go_on = go_on;
        state.answering = false;
        state.room = ROOM;
    }

    /// The answer begins. What was to go out before it goes out with it, or is forgotten when some of it
    /// could not be written yet: in the middle of one nothing else has a place.
    pub(super) fn answer(&self) -> (Out, Upload) {
        let mut state = self.0.0.lock();
        state.answering = true;
        (std::mem::take(&mut state.early), state.body)
    }

    /// What was to be written is, and its memory serves the next.
    pub(super) fn reuse(&self, out: Out) {
        self.0.0.lock().early = out;
    }

    pub(super) fn upload(&self) -> Upload {
        self.0.0.lock().body
    }
}

impl<S> Drop for Owner<S> {
    fn drop(&mut self) {
        let (stream, reader) = {
            let mut state = self.0.0.lock();
            if state.body == Upload::Open {
                state.body = Upload::GivenUp;
            }
            (state.stream.take(), state.reader.take())
        };
        drop(stream);
        if let Some(reader) = reader {
            reader.wake();
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Owner<S> {
    /// The next head, or how far it is. The task is woken when there is more of it.
    pub(super) fn poll_head(&self, cx: &mut Context<'_>) -> io::Result<Next> {
        let state = &mut *self.0.0.lock();
        let limits = state.bounds.limits();
        loop {
            if !state.read.is_empty() {
                match read_request(&mut state.read, &mut state.seen, limits) {
                    Ok(Some(head)) => return Ok(Next::Head(head)),
                    Ok(None) => {}
                    Err(error) => return Ok(Next::Unreadable(error)),
                }
            }
            match state.poll_read(cx) {
                Poll::Ready(Ok(0)) if state.read.is_empty() => return Ok(Next::Over),
                Poll::Ready(Ok(0)) => return Err(ErrorKind::UnexpectedEof.into()),
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Pending if state.read.is_empty() => return Ok(Next::Nothing),
                Poll::Pending => return Ok(Next::Begun),
            }
        }
    }

    /// While an answer is made: writes what comes before it. Ready when the agent has gone.
    pub(super) fn poll_waiting(&self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let state = &mut *self.0.0.lock();
        state.listen(cx);
        let mut early = std::mem::take(&mut state.early);
        if state.go_on == GoOn::Due {
            state.go_on = GoOn::Unasked;
            early.front.extend_from_slice(CONTINUE);
        }
        let wrote = state.poll_write(cx, &mut early, false);
        state.early = early;
        if let Poll::Ready(Err(error)) = wrote {
            return Poll::Ready(error);
        }
        state.poll_gone(cx)
    }

    /// Writes all of it, through to the network. `more`: except for a short rest, which what comes next is
    /// written with.
    pub(super) fn poll_write(
        &self,
        cx: &mut Context<'_>,
        out: &mut Out,
        more: bool,
    ) -> Poll<io::Result<()>> {
        self.0.0.lock().poll_write(cx, out, more)
    }

    /// Ready when the agent has gone, whose answer is being written.
    pub(super) fn poll_gone(&self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let state = &mut *self.0.0.lock();
        state.listen(cx);
        state.poll_gone(cx)
    }

    /// Ready when nobody reads a body any more.
    pub(super) fn poll_upload(&self, cx: &mut Context<'_>) -> Poll<Upload> {
        let mut state = self.0.0.lock();
        state.listen(cx);
        if state.body == Upload::Open { Poll::Pending } else { Poll::Ready(state.body) }
    }

    /// Says that this is the end, unless the agent is not there to hear it; and where something may still
    /// come, reads and drops that until the agent ends too.
    pub(super) fn poll_end(
        &self,
        cx: &mut Context<'_>,
        told: &mut bool,
        linger: Option<&mut Linger>,
    ) -> Poll<()> {
        let state = &mut *self.0.0.lock();
        let Some(stream) = &mut state.stream else { return Poll::Ready(()) };
        if !*told && !state.left {
            let shut = Pin::new(&mut *stream).poll_shutdown(cx);
            let patience = state.bounds.clocks.unread;
            match shut {
                Poll::Pending => return state.unread.poll(cx, patience),
                Poll::Ready(Err(_)) => return Poll::Ready(()),
                Poll::Ready(Ok(())) => *told = true,
            }
        }
        linger.map_or(Poll::Ready(()), |linger| linger.poll(stream, cx))
    }
}

impl<S> State<S> {
    /// Has the task of the connection woken when something changes for it.
    fn listen(&mut self, cx: &Context<'_>) {
        keep(&mut self.owner, cx);
    }

    /// The body is read to its end, or never will be.
    fn settle(&mut self, body: Upload, cx: Option<&Context<'_>>) {
        self.body = body;
        self.tell(cx);
    }

    /// Wakes the task of the connection, unless it is the one that runs.
    fn tell(&mut self, cx: Option<&Context<'_>>) {
        let here = |owner: &Waker| cx.is_some_and(|cx| owner.will_wake(cx.waker()));
        if let Some(owner) = self.owner.take_if(|owner| !here(owner)) {
            owner.wake();
        }
    }
}

/// Keeps the waker of a task.
fn keep(place: &mut Option<Waker>, cx: &Context<'_>) {
    match place {
        Some(known) => known.clone_from(cx.waker()),
        None => *place = Some(cx.waker().clone()),
    }
}

/// A stream that gathers.
struct Gathered<'a, S>(&'a mut Gather, &'a mut S);

impl<S: AsyncRead + Unpin> AsyncRead for Gathered<'_, S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self(gather, stream) = self.get_mut();
        gather.poll_read(*stream, cx, buf)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> State<S> {
    /// Reads on; 0 at the end.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let Some(stream) = &mut self.stream else {
            return Poll::Ready(Err(ErrorKind::NotConnected.into()));
        };
        if self.read.capacity() - self.read.len() < LEAST_ROOM.max(self.room / 4) {
            self.read.reserve(self.room);
        }
        let mut gathered = Gathered(&mut self.gather, stream);
        let read = ready!(pin!(gathered.read_buf(&mut self.read)).poll(cx));
        self.left |= read.as_ref().is_err_and(has_left);
        Poll::Ready(read)
    }

    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        out: &mut Out,
        more: bool,
    ) -> Poll<io::Result<()>> {
        let wrote = self.poll_write_out(cx, out, more);
        if wrote.is_ready() {
            self.unread.moved();
            return wrote;
        }
        let patience = self.bounds.clocks.unread;
        ready!(self.unread.poll(cx, patience));
        let message = format!("the agent took nothing of its answer for {patience:?}");
        Poll::Ready(Err(io::Error::new(ErrorKind::TimedOut, message)))
    }

    fn poll_write_out(
        &mut self,
        cx: &mut Context<'_>,
        out: &mut Out,
        more: bool,
    ) -> Poll<io::Result<()>> {
        let Some(stream) = &mut self.stream else {
            return Poll::Ready(Err(ErrorKind::NotConnected.into()));
        };
        while !out.is_empty() {
            let (front, back) = (&out.front[out.written[0]..], &out.back[out.written[1]..]);
            let wrote = if out.piece.is_empty() && back.is_empty() {
                Pin::new(&mut *stream).poll_write(cx, front)
            } else {
                let all = [front, &out.piece, back].map(IoSlice::new);
                let from = usize::from(front.is_empty());
                Pin::new(&mut *stream).poll_write_vectored(cx, &all[from..])
            };
            let wrote = ready!(wrote)?;
            if wrote == 0 {
                return Poll::Ready(Err(ErrorKind::WriteZero.into()));
            }
            self.unread.moved();
            out.advance(wrote);
            out.held = true;
            // TLS takes so many whole records at once, and of what is left it would make a small one.
            if more && out.has_short_rest() {
                out.gather();
                break;
            }
        }
        if out.held {
            ready!(Pin::new(stream).poll_flush(cx))?;
            out.held = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Ready when the agent has ended its side, or its connection has broken. Nothing is read for that once
    /// the next request has begun to come, nor while a body is read.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        if self.bounds.half_close || self.body != Upload::Over || !self.read.is_empty() {
            return Poll::Pending;
        }
        match ready!(self.poll_read(cx)) {
            Ok(0) => Poll::Ready(io::Error::new(
                ErrorKind::ConnectionAborted,
                "the agent left before its answer",
            )),
            Ok(_) => Poll::Pending,
            Err(error) => Poll::Ready(error),
        }
    }

    fn poll_frame(
        &mut self,
        framing: &mut Framing,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<Frame<Bytes>>, BoxError>> {
        if self.go_on == GoOn::Waits {
            self.go_on = GoOn::Due;
            self.tell(Some(cx));
        }
        loop {
            if let Some(frame) = framing.next(&mut self.read)? {
                if framing.is_over() {
                    self.settle(Upload::Over, Some(cx));
                }
                return Poll::Ready(Ok(Some(frame)));
            }
            if framing.is_over() {
                self.settle(Upload::Over, Some(cx));
                return Poll::Ready(Ok(None));
            }
            if self.read.capacity() == self.read.len() && self.room < MOST_ROOM {
                self.room *= 2;
            }
            let Poll::Ready(read) = self.poll_read(cx) else {
                keep(&mut self.reader, cx);
                return Poll::Pending;
            };
            if read? == 0 {
                return Poll::Ready(Err("the agent broke off its request".into()));
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Source for Wire<S> {
    fn poll_frame(
        &self,
        framing: &mut Framing,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<Frame<Bytes>>, BoxError>> {
        let mut state = self.0.lock();
        let frame = state.poll_frame(framing, cx);
        if let Poll::Ready(Err(_)) = frame {
            state.settle(Upload::GivenUp, Some(cx));
        }
        frame
    }

    fn give_up(&self) {
        let mut state = self.0.lock();
        if state.body == Upload::Open {
            state.settle(Upload::GivenUp, None);
        }
    }

    fn put_early(&self, head: &[u8]) {
        let mut state = self.0.lock();
        if !state.answering && state.early.front.len() + head.len() <= INTERIM {
            state.early.front.extend_from_slice(head);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_rest_is_the_front_of_what_comes_next() {
        let all = [&b"f\r\n"[..], b"piece of a body", b"\r\n"];
        let length: usize = all.iter().map(|part| part.len()).sum();
        for written in 1..length {
            let mut out = Out {
                front: all[0].to_vec(),
                piece: Bytes::from_static(all[1]),
                back: all[2].to_vec(),
                ..Out::default()
            };
            out.advance(written);
            // Heads and sizes go out with what they stand before.
            assert_eq!(out.has_short_rest(), written >= all[0].len(), "{written}");
            if out.has_short_rest() {
                out.gather();
                assert_eq!(out.front, &all.concat()[written..]);
                assert!(out.piece.is_empty() && out.back.is_empty() && out.written == [0, 0]);
            }
        }
        let long = Bytes::from(vec![0; SHORT + 1]);
        assert!(!Out { piece: long, ..Out::default() }.has_short_rest());
        assert!(!Out::default().has_short_rest());
    }
}
