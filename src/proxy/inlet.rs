//! The agent's end of an HTTP/1.1 connection, below hyper: the clocks that hyper has not, a face for
//! the answers that hyper gives by itself, and an end that does not tear the last answer away.
//!
//! hyper does not tell what it does with a connection, so the two sides of it tell each other: the
//! service says through [`Progress`] when a request begins and when its answer is over.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

use super::Body;
use super::spelling::Speller;
use crate::http1::Spelling;
use crate::outcome::Code;
use crate::request::{Heads, Odd};
use crate::upstream::Gather;

/// How long what an agent still sends is read and thrown away after the last answer. Closed with
/// bytes unread, the kernel would reset the connection, and with it could go the answer that the
/// agent has not yet read. As long as nginx does it (`lingering_time`).
const LINGER: Duration = Duration::from_secs(30);

/// The same for an agent that sends nothing more, and does not close (`lingering_timeout`).
const LINGER_SILENT: Duration = Duration::from_secs(5);

/// Makes, and records, the answer to what hyper could not read.
pub(super) type Refuse = Arc<dyn Fn(Code) -> Response<Body> + Send + Sync>;

/// How long an agent may take.
#[derive(Clone, Copy)]
pub(super) struct Clocks {
    /// From the first byte of a head to its last.
    pub(super) head: Duration,
    /// How long it may take nothing of an answer.
    pub(super) unread: Duration,
}

/// What the service knows of a connection.
#[derive(Default)]
pub(super) struct Progress {
    /// Requests whose head has been read, since the start. Wraps, and is only compared.
    begun: AtomicU32,
    /// How far the answer to the last of them is.
    answer: AtomicU8,
    /// Whether the body of the last one has not been read to its end.
    uploading: AtomicBool,
    /// Whether something came since, which is a head, or the start of one.
    head: AtomicBool,
    /// Whether a request asked for another protocol.
    switches: AtomicBool,
    /// Whether the connection has been made one that can switch.
    can_switch: AtomicBool,
    /// Whether the names in the last head begin their words with capitals.
    titled: AtomicBool,
    /// Whether names came that are written in no one way: from then on hyper keeps each as it is.
    mixed: AtomicBool,
    /// Heads of interim answers that are to go out before the answer.
    interim: Mutex<Vec<u8>>,
    /// Whether there are any.
    has_interim: AtomicBool,
    /// What is odd about a request of this connection, the first that is, and its number.
    odd: AtomicU8,
    odd_at: AtomicU32,
}

/// Of a request that is odd; 0 as long as none was.
const FRAMING: u8 = 1;
const FRAGMENT: u8 = 2;

/// What of interim answers waits for an agent. One head of an origin is no longer; what does not fit
/// is dropped, because the answer does not depend on it.
const INTERIM: usize = 64 * 1024;

/// No answer is due.
const NONE: u8 = 0;
/// One is being made, or handed to hyper.
const DUE: u8 = 1;
/// hyper has all of it, and may not have written it.
const GIVEN: u8 = 2;
/// It was the last: another protocol follows, of which nothing is known here.
const SWITCHED: u8 = 3;

impl Progress {
    /// A request begins; whoever holds what is given back is answering it.
    pub(super) fn begin(
        self: &Arc<Self>,
        mut request: Request<Incoming>,
    ) -> (Answering, Request<Incoming>) {
        let has_body = !request.body().is_end_stream();
        let number = self.begun.fetch_add(1, Ordering::Relaxed);
        if let Some(odd) = self.odd(number) {
            request.extensions_mut().insert(odd);
        }
        self.uploading.store(has_body, Ordering::Relaxed);
        self.answer.store(DUE, Ordering::Relaxed);
        self.head.store(false, Ordering::Relaxed);
        if has_body {
            request.extensions_mut().insert(Reading(Arc::clone(self)));
        }
        // How all names are written, where hyper does not keep each.
        if self.titled.load(Ordering::Relaxed) {
            request.extensions_mut().insert(Spelling::Title);
        }
        (Answering(Arc::clone(self)), request)
    }

    /// Notes that the request with that number will be odd.
    fn note_odd(&self, number: u32, odd: Odd) {
        let odd = match odd {
            Odd::Framing => FRAMING,
            Odd::Fragment => FRAGMENT,
        };
        self.odd_at.store(number, Ordering::Relaxed);
        self.odd.store(odd, Ordering::Relaxed);
    }

    /// What is odd about the request with that number.
    fn odd(&self, number: u32) -> Option<Odd> {
        let odd = match self.odd.load(Ordering::Relaxed) {
            FRAMING => Odd::Framing,
            FRAGMENT => Odd::Fragment,
            _ => return None,
        };
        (self.odd_at.load(Ordering::Relaxed) == number).then_some(odd)
    }

    /// Whether an answer that is given now is the last: the request was not read to its end, or where that
    /// is could be read in two ways.
    fn is_last(&self) -> bool {
        let number = self.requests().wrapping_sub(1);
        self.uploading.load(Ordering::Relaxed) || self.odd(number).is_some()
    }

    /// Has the head of an interim answer go out, when hyper has nothing on its way.
    pub(super) fn put_interim(&self, head: &[u8]) {
        let mut waiting = self.interim.lock();
        if waiting.len() + head.len() <= INTERIM {
            waiting.extend_from_slice(head);
            self.has_interim.store(true, Ordering::Relaxed);
        }
    }

    fn take_interim(&self) -> Vec<u8> {
        let mut waiting = self.interim.lock();
        self.has_interim.store(false, Ordering::Relaxed);
        std::mem::take(&mut *waiting)
    }

    /// Requests so far. Wraps, and is only compared.
    pub(super) fn requests(&self) -> u32 {
        self.begun.load(Ordering::Relaxed)
    }

    /// Whether nothing is under way: all is answered, all that was answered is written, and nothing
    /// has come since. What is still to come of a body is no next request: such a connection ends.
    pub(super) fn is_quiet(&self) -> bool {
        self.answer.load(Ordering::Relaxed) == NONE
            && !self.head.load(Ordering::Relaxed)
            && !self.uploading.load(Ordering::Relaxed)
    }

    /// Notes a request for another protocol.
    pub(super) fn may_switch(&self) {
        self.switches.store(true, Ordering::Relaxed);
    }

    /// Whether there was one, and the connection is not ready for it yet.
    pub(super) fn is_to_switch(&self) -> bool {
        self.switches.load(Ordering::Relaxed) && !self.can_switch.load(Ordering::Relaxed)
    }

    /// Notes that it is ready.
    pub(super) fn made_to_switch(&self) {
        self.can_switch.store(true, Ordering::Relaxed);
    }

    /// Returns when it is ready. hyper may ask for an answer more than once before it gives way, and
    /// one that comes to pass within would find a connection that cannot switch.
    pub(super) async fn until_it_can_switch(&self) {
        std::future::poll_fn(|cx| {
            if !self.is_to_switch() {
                return Poll::Ready(());
            }
            cx.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
    }

    /// Whether hyper is to keep the writing of each name.
    pub(super) fn is_mixed(&self) -> bool {
        self.mixed.load(Ordering::Relaxed)
    }

    /// Goes from one step of an answer to the next, if that is where it is.
    fn turn(&self, from: u8, to: u8) {
        let _elsewhere =
            self.answer.compare_exchange(from, to, Ordering::Relaxed, Ordering::Relaxed);
    }
}

/// Held until hyper has all of an answer.
pub(super) struct Answering(Arc<Progress>);

impl Answering {
    /// Ties itself to the body of the answer. An answer that comes before its request has been read, or to
    /// an odd one, is the last on its connection, and says so.
    pub(super) fn until_the_end_of(self, mut answer: Response<Body>) -> Response<Answer> {
        if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
            self.0.turn(DUE, SWITCHED);
        } else if self.0.is_last() {
            answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        answer.map(|body| Answer { body, _answering: self })
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.turn(DUE, GIVEN);
    }
}

/// Goes with a request, for its body.
#[derive(Clone)]
pub(super) struct Reading(Arc<Progress>);

impl Reading {
    /// The body has been read to its end.
    pub(super) fn done(&self) {
        self.0.uploading.store(false, Ordering::Relaxed);
    }
}

/// An answer's body, and with it the knowledge that it is not over.
pub(super) struct Answer {
    body: Body,
    _answering: Answering,
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = <Body as HttpBody>::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The stream of one agent. Idle, it holds no timer.
pub(super) struct Inlet<S> {
    inner: S,
    gather: Gather,
    /// Read already, and given out before anything else.
    ahead: Bytes,
    progress: Arc<Progress>,
    /// Reads along, where hyper does not keep how each name is written.
    speller: Option<Speller>,
    /// Follows the requests as they come, from the first that hyper will read here.
    heads: Heads,
    first: u32,
    clocks: Clocks,
    refuse: Refuse,
    head: Option<Head>,
    /// Set while the agent takes nothing.
    unread: Option<Pin<Box<Sleep>>>,
    /// The answer that goes out in place of hyper's.
    own: Option<Own>,
    /// Interim answers that go out before hyper's next byte.
    interim: Option<Own>,
    /// Whether all that hyper had to write is written. Only then does something fit in between.
    flushed: bool,
    /// Whether the agent closed its connection without the word by which TLS ends.
    left: bool,
    linger: Option<Linger>,
}

/// An end that waits for the agent's.
struct Linger {
    until: Instant,
    alarm: Pin<Box<Sleep>>,
}

/// A head that has begun to arrive.
struct Head {
    /// Behind how many requests.
    after: u32,
    since: Instant,
    /// Made when the rest of it is waited for, which for nearly every head is never.
    alarm: Option<Pin<Box<Sleep>>>,
}

struct Own {
    text: Vec<u8>,
    written: usize,
}

impl<S> Inlet<S> {
    pub(super) fn new(inner: S, progress: Arc<Progress>, clocks: Clocks, refuse: Refuse) -> Self {
        let (ahead, first) = (Bytes::new(), progress.requests());
        Self {
            inner,
            gather: Gather::default(),
            ahead,
            progress,
            speller: None,
            heads: Heads::default(),
            first,
            clocks,
            refuse,
            head: None,
            unread: None,
            own: None,
            interim: None,
            flushed: true,
            left: false,
            linger: None,
        }
    }

    /// Reads along, unless hyper keeps how each name is written.
    pub(super) fn spelling(mut self) -> Self {
        self.speller = (!self.progress.is_mixed()).then(Speller::default);
        self
    }

    /// Puts back what was read of the stream before.
    pub(super) fn with_unread(mut self, ahead: Bytes) -> Self {
        if !ahead.is_empty() {
            self.note_read();
        }
        self.ahead = ahead;
        self
    }

    /// The stream below, and what was put back and not read again.
    pub(super) fn into_parts(self) -> (S, Bytes) {
        (self.inner, self.ahead)
    }

    /// The stream below, for whoever goes on without HTTP.
    pub(super) fn into_inner(self) -> S {
        self.inner
    }

    /// Whether the last answer is out, to its last byte, and no head after it has been read.
    fn between_requests(&self) -> bool {
        self.progress.answer.load(Ordering::Relaxed) == NONE
    }

    /// Looks at what hyper is about to read.
    fn look(&mut self, bytes: &[u8]) {
        if let Some((head, odd)) = self.heads.push(bytes) {
            self.progress.note_odd(self.first.wrapping_add(head), odd);
        }
    }

    /// Notes the first byte of a head. The start of one that came together with the request before
    /// it goes unseen; it has the time of an idle tunnel.
    fn note_read(&mut self) {
        if !self.between_requests() {
            return;
        }
        self.progress.head.store(true, Ordering::Relaxed);
        let after = self.progress.requests();
        if self.head.as_ref().is_none_or(|head| head.after != after) {
            self.head = Some(Head { after, since: Instant::now(), alarm: None });
            self.speller = self.speller.take().map(|_head_before| Speller::default());
        }
    }

    /// Whether these bytes of a head can go on: all its names so far are written in one way. If not, who
    /// holds the connection hears of it, and has hyper begin anew with the head. A connection that may
    /// change its protocol cannot begin anew, and a request that comes before the one before it is answered
    /// is not looked at: their names go out as those of the last head before.
    fn is_spelt(&mut self, read: &[u8]) -> bool {
        let looks = self.between_requests() && !self.progress.switches.load(Ordering::Relaxed);
        let Some(speller) = self.speller.as_mut().filter(|_| looks) else { return true };
        speller.read(read);
        let Some(spelling) = speller.spelling() else {
            self.progress.mixed.store(true, Ordering::Relaxed);
            return false;
        };
        self.progress.titled.store(spelling == Spelling::Title, Ordering::Relaxed);
        true
    }

    /// Ready when a head has been on its way for too long.
    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let begun = self.progress.begun.load(Ordering::Relaxed);
        let Some(head) = self.head.as_mut().filter(|head| head.after == begun) else {
            self.head = None;
            return Poll::Pending;
        };
        let deadline = head.since + self.clocks.head;
        head.alarm.get_or_insert_with(|| Box::pin(sleep_until(deadline))).as_mut().poll(cx)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Inlet<S> {
    /// Pending, or the end of an agent that takes nothing.
    fn poll_unread<T>(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        let time = self.clocks.unread;
        let alarm = self.unread.get_or_insert_with(|| Box::pin(sleep_until(Instant::now() + time)));
        ready!(alarm.as_mut().poll(cx));
        let message = format!("the agent took nothing of its answer for {time:?}");
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, message)))
    }

    /// What comes of a write: progress stops the clock, standing still starts it.
    fn timed<T>(
        &mut self,
        cx: &mut Context<'_>,
        result: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if result.is_pending() {
            return self.poll_unread(cx);
        }
        self.unread = None;
        result
    }

    /// hyper writes an answer that nobody of us gave: to a head that it could not read. Ours goes
    /// out in its place, which says what is wrong, and is on record.
    fn takes_over(&mut self, text: &[u8]) -> bool {
        if self.own.is_some() {
            return true;
        }
        let code = if self.between_requests() { code_of(text) } else { None };
        if let Some(code) = code {
            self.own = Some(Own { text: plain(&(self.refuse)(code), text), written: 0 });
        }
        code.is_some()
    }

    /// Writes what came before an answer. What could not go out in time is forgotten: behind the
    /// answer it would be taken for the next.
    fn poll_interim(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.interim.is_none() {
            if !self.progress.has_interim.load(Ordering::Relaxed) {
                return Poll::Ready(Ok(()));
            }
            let text = self.progress.take_interim();
            self.interim = self.flushed.then_some(Own { text, written: 0 });
        }
        while let Some(interim) = self.interim.as_mut().filter(|i| i.written < i.text.len()) {
            let result = Pin::new(&mut self.inner).poll_write(cx, &interim.text[interim.written..]);
            let written = ready!(self.timed(cx, result))?;
            match &mut self.interim {
                Some(interim) if written > 0 => interim.written += written,
                _ => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            }
        }
        self.interim = None;
        Poll::Ready(Ok(()))
    }

    fn poll_own(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(own) = self.own.as_mut().filter(|own| own.written < own.text.len()) {
            let result = Pin::new(&mut self.inner).poll_write(cx, &own.text[own.written..]);
            let written = ready!(self.timed(cx, result))?;
            if let Some(own) = &mut self.own {
                own.written += written;
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Tells an agent whose head does not come to its end, as far as that can be told at once.
    fn give_up(&mut self, cx: &mut Context<'_>) -> io::Error {
        if self.between_requests() {
            let text = plain(&(self.refuse)(Code::RequestTimeout), b"");
            self.own = Some(Own { text, written: 0 });
            let _told = self.poll_own(cx);
            let _told = Pin::new(&mut self.inner).poll_flush(cx);
        }
        io::Error::new(io::ErrorKind::TimedOut, "the head of a request did not come to its end")
    }

    /// Reads and drops what comes, until the agent ends too.
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut bytes = [0; 4096];
        let mut heard = false;
        loop {
            let mut buf = ReadBuf::new(&mut bytes);
            match Pin::new(&mut self.inner).poll_read(cx, &mut buf) {
                Poll::Ready(Ok(())) if !buf.filled().is_empty() => heard = true,
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => break,
            }
        }
        let now = Instant::now();
        let linger = self.linger.get_or_insert_with(|| Linger {
            until: now + LINGER,
            alarm: Box::pin(sleep_until(now + LINGER_SILENT)),
        });
        if heard {
            linger.alarm.as_mut().reset(linger.until.min(now + LINGER_SILENT));
        }
        linger.alarm.as_mut().poll(cx)
    }
}

/// Whether this is the end of a stream in TLS that did not say that it would end. Most clients go so, and
/// none of them reads the end that we would say: it would cost a record, and the reset that it is answered
/// with.
pub(super) fn has_left(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::UnexpectedEof
}

/// The code for an answer of hyper's own; it gives three.
fn code_of(text: &[u8]) -> Option<Code> {
    match text.get(..12)? {
        b"HTTP/1.1 400" | b"HTTP/1.0 400" => Some(Code::BadRequest),
        b"HTTP/1.1 414" | b"HTTP/1.0 414" => Some(Code::UrlTooLong),
        b"HTTP/1.1 431" | b"HTTP/1.0 431" => Some(Code::HeadTooLarge),
        _ => None,
    }
}

/// An answer as it goes over the wire, the last of its connection. `instead` is hyper's, of which
/// the date is kept.
fn plain(answer: &Response<Body>, instead: &[u8]) -> Vec<u8> {
    let body = answer.body().as_whole().unwrap_or_default();
    let mut text = format!("HTTP/1.1 {}\r\n", answer.status()).into_bytes();
    for (name, value) in answer.headers().iter().filter(|(name, _)| *name != header::CONNECTION) {
        text.extend_from_slice(name.as_str().as_bytes());
        text.extend_from_slice(b": ");
        text.extend_from_slice(value.as_bytes());
        text.extend_from_slice(b"\r\n");
    }
    let lines = instead.split(|b| *b == b'\n');
    for date in lines.filter(|line| line.starts_with(b"date: ")) {
        text.extend_from_slice(date);
        text.push(b'\n');
    }
    text.extend_from_slice(
        format!("connection: close\r\ncontent-length: {}\r\n\r\n", body.len()).as_bytes(),
    );
    text.extend_from_slice(&body);
    text
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Inlet<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.ahead.is_empty() {
            let length = this.ahead.len().min(buf.remaining());
            let ahead = this.ahead.slice(..length);
            if !this.is_spelt(&ahead) {
                return Poll::Pending;
            }
            this.look(&ahead);
            buf.put_slice(&ahead);
            this.ahead.advance(length);
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        match this.gather.poll_read(&mut this.inner, cx, buf) {
            Poll::Ready(result) => {
                if buf.filled().len() > before {
                    this.note_read();
                    let read = &buf.filled()[before..];
                    if !this.is_spelt(read) {
                        this.ahead = Bytes::copy_from_slice(read);
                        buf.set_filled(before);
                        return Poll::Pending;
                    }
                    this.look(read);
                }
                this.left |= result.as_ref().is_err_and(has_left);
                Poll::Ready(result)
            }
            Poll::Pending => {
                ready!(this.poll_head(cx));
                Poll::Ready(Err(this.give_up(cx)))
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Inlet<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_interim(cx))?;
        this.flushed = false;
        if this.takes_over(buf) {
            ready!(this.poll_own(cx))?;
            return Poll::Ready(Ok(buf.len()));
        }
        let result = Pin::new(&mut this.inner).poll_write(cx, buf);
        this.timed(cx, result)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_interim(cx))?;
        this.flushed = false;
        if this.takes_over(bufs.first().map_or(&[], |buf| &**buf)) {
            ready!(this.poll_own(cx))?;
            return Poll::Ready(Ok(bufs.iter().map(|buf| buf.len()).sum()));
        }
        let result = Pin::new(&mut this.inner).poll_write_vectored(cx, bufs);
        this.timed(cx, result)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    /// hyper flushes when it has nothing more to write.
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.flushed = true;
        ready!(this.poll_interim(cx))?;
        this.progress.turn(GIVEN, NONE);
        let result = Pin::new(&mut this.inner).poll_flush(cx);
        this.timed(cx, result)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.left {
            ready!(Pin::new(&mut this.inner).poll_shutdown(cx))?;
        }
        // Only where something may still come: others are gone as soon as they are answered.
        if this.own.is_some() || this.progress.uploading.load(Ordering::Relaxed) {
            ready!(this.poll_linger(cx));
        }
        Poll::Ready(Ok(()))
    }
}
