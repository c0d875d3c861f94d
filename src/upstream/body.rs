//! Bodies on their way: the request's, which tells how far it got, and the answer's, which brings
//! its connection home when it has been read to the end.

use std::error::Error as StdError;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::h2::StreamBody;
use super::link::{Detached, Incoming, Link, LinkError, Outgoing};
use super::pool::{Pool, PoolKey};
use crate::outcome::Refusal;

type BoxError = Box<dyn StdError + Send + Sync>;

/// The body of a request, of one type for all callers, so that one pool holds all connections. The
/// box is made once for a request; a request without a body has none.
pub(super) enum RequestBody {
    Empty,
    Stream(Pin<Box<dyn Body<Data = Bytes, Error = BoxError> + Send>>),
    /// A body of which the first pieces, last first, were taken before and are given again.
    Again(Vec<Bytes>, Box<RequestBody>),
}

impl RequestBody {
    /// Wraps the body, and gives the view of its progress if there is anything to send.
    pub(super) fn new<B>(body: B) -> (Self, Option<Arc<Upload>>)
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<BoxError>,
    {
        if body.is_end_stream() {
            return (Self::Empty, None);
        }
        let upload = Arc::new(Upload::new());
        let tracked = Tracked { inner: body, upload: upload.clone() };
        (Self::Stream(Box::pin(tracked)), Some(upload))
    }

    /// The body as it was before `taken` was taken of it.
    pub(super) fn again(self, mut taken: Vec<Bytes>) -> Self {
        if taken.is_empty() {
            return self;
        }
        taken.reverse();
        Self::Again(taken, Box::new(self))
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Stream(body) => body.as_mut().poll_frame(cx),
            Self::Again(taken, rest) => match taken.pop() {
                Some(piece) => Poll::Ready(Some(Ok(Frame::data(piece)))),
                None => Pin::new(&mut **rest).poll_frame(cx),
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Stream(body) => body.is_end_stream(),
            Self::Again(taken, rest) => taken.is_empty() && rest.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Stream(body) => body.size_hint(),
            Self::Again(taken, rest) => {
                let taken: u64 = taken.iter().map(|piece| piece.len() as u64).sum();
                let hint = rest.size_hint();
                let mut whole = SizeHint::new();
                // The upper bound first: the lower one may not be above it.
                if let Some(upper) = hint.upper() {
                    whole.set_upper(upper + taken);
                }
                whole.set_lower(hint.lower() + taken);
                whole
            }
        }
    }
}

/// How far the body of a request got.
pub(super) struct Upload {
    start: Instant,
    /// Milliseconds from `start` to the last piece that was taken.
    moved: AtomicU64,
    done: AtomicBool,
    /// Why the caller's body broke off, if it said so.
    refusal: Mutex<Option<Refusal>>,
}

impl Upload {
    fn new() -> Self {
        Self {
            start: Instant::now(),
            moved: AtomicU64::new(0),
            done: AtomicBool::new(false),
            refusal: Mutex::new(None),
        }
    }

    fn note(&self, done: bool) {
        let moved = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.moved.store(moved, Ordering::Relaxed);
        self.done.store(done, Ordering::Release);
    }

    /// Whether the last of it was taken.
    pub(super) fn is_done(&self) -> bool {
        self.done.load(Ordering::Acquire)
    }

    /// When a piece was last taken.
    pub(super) fn last_moved(&self) -> Instant {
        self.start + Duration::from_millis(self.moved.load(Ordering::Relaxed))
    }

    /// The refusal with which the body ended, if it ended with one.
    pub(super) fn take_refusal(&self) -> Option<Refusal> {
        self.refusal.lock().take()
    }
}

struct Tracked<B> {
    inner: B,
    upload: Arc<Upload>,
}

impl<B> Body for Tracked<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        let frame = ready!(Pin::new(&mut this.inner).poll_frame(cx));
        // After trailers nobody asks again.
        let more = matches!(&frame, Some(Ok(frame)) if !frame.is_trailers());
        let last = !more || this.inner.is_end_stream();
        this.upload.note(last);
        Poll::Ready(frame.map(|frame| frame.map_err(|error| this.keep_refusal(error.into()))))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl<B> Tracked<B> {
    /// A body may break off with a refusal of its own (a slot in it that may not be filled, say).
    /// HTTP/2 would wrap it where only a reference can be had, so it is kept here for the caller.
    fn keep_refusal(&self, error: BoxError) -> BoxError {
        match error.downcast::<Refusal>() {
            Ok(refusal) => {
                *self.upload.refusal.lock() = Some(*refusal);
                "the request was refused while its body was read".into()
            }
            Err(other) => other,
        }
    }
}

/// Why the body of an answer ended before its end.
#[derive(Debug)]
pub enum BodyError {
    /// The connection broke, or the framing is wrong: the body is not whole.
    Broken(LinkError),
    /// The connection ended inside the body: it is not whole.
    Truncated,
    /// The HTTP/2 stream was reset, or its connection ended: the body is not whole.
    Reset(h2::Error),
    /// Nothing came for the idle time.
    Idle(Duration),
}

impl BodyError {
    /// The HTTP/2 error code with which the origin itself ended the stream, if it did.
    #[must_use]
    pub fn reset_reason(&self) -> Option<u32> {
        match self {
            Self::Reset(error) if error.is_reset() && error.is_remote() => {
                error.reason().map(u32::from)
            }
            _ => None,
        }
    }
}

impl fmt::Display for BodyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Broken(_) | Self::Reset(_) => f.write_str("the host broke off its answer"),
            Self::Truncated => f.write_str("the host closed the connection inside its answer"),
            Self::Idle(time) => write!(f, "the host sent nothing of its answer for {time:?}"),
        }
    }
}

impl StdError for BodyError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::Broken(error) => Some(error),
            // Whoever looks through the sources for what to tell the agent would find REFUSED_STREAM or
            // NO_ERROR, which would be a lie there: an answer had begun.
            Self::Reset(_) | Self::Truncated | Self::Idle(_) => None,
        }
    }
}

/// Where a connection goes when its exchange is over.
pub(super) struct Home {
    pub(super) pool: Arc<Pool>,
    pub(super) key: PoolKey,
    /// How long the origin keeps it, if it said so.
    pub(super) wait: Option<Duration>,
}

/// What the bytes of an answer come over.
enum Engine {
    /// A connection that may be used again.
    Inline(Box<Link>, Box<Home>),
    /// One on which the request is still being sent.
    Detached(Box<Detached>),
    /// Nothing any more: the end was reached, or an error.
    Done,
}

/// The body of an answer, read as it comes. Dropped before its end, it closes the connection, or
/// resets its stream where others share the connection.
pub struct UpstreamBody(Kind);

enum Kind {
    Link(LinkBody),
    Stream(StreamBody),
}

impl UpstreamBody {
    pub(super) fn inline(incoming: Incoming, link: Box<Link>, home: Home, idle: Duration) -> Self {
        Self(Kind::Link(LinkBody::inline(incoming, link, home, idle)))
    }

    pub(super) fn detached(incoming: Incoming, link: Link, rest: Outgoing, idle: Duration) -> Self {
        Self(Kind::Link(LinkBody::detached(incoming, link.detach(rest), idle)))
    }

    pub(super) fn stream(stream: StreamBody) -> Self {
        Self(Kind::Stream(stream))
    }
}

impl Body for UpstreamBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut self.get_mut().0 {
            Kind::Link(body) => body.poll_frame(cx),
            Kind::Stream(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Link(body) => body.incoming.is_over(),
            Kind::Stream(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Link(body) => body.incoming.size_hint(),
            Kind::Stream(body) => body.size_hint(),
        }
    }
}

/// The body of an answer on a connection of its own.
struct LinkBody {
    incoming: Incoming,
    engine: Engine,
    idle: Duration,
    /// Since when there has been nothing to hand on. Time in which nobody asks does not count.
    waiting_since: Option<Instant>,
}

impl LinkBody {
    fn inline(incoming: Incoming, link: Box<Link>, home: Home, idle: Duration) -> Self {
        let mut body = Self {
            incoming,
            engine: Engine::Inline(link, Box::new(home)),
            idle,
            waiting_since: None,
        };
        body.finish_if_over();
        body
    }

    fn detached(incoming: Incoming, link: Detached, idle: Duration) -> Self {
        Self { incoming, engine: Engine::Detached(Box::new(link)), idle, waiting_since: None }
    }

    /// At the end of the body the connection goes home. Some readers never ask for more than the
    /// announced length, so this is looked at after every frame.
    fn finish_if_over(&mut self) {
        if self.incoming.is_over()
            && let Engine::Inline(mut link, home) =
                std::mem::replace(&mut self.engine, Engine::Done)
        {
            if self.incoming.leaves_all_well() && link.is_settled() {
                let Home { pool, key, wait } = *home;
                pool.put(key, link, wait);
            } else {
                link.close();
            }
        }
    }

    /// Ready when nothing has come for too long.
    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let since = *self.waiting_since.get_or_insert_with(Instant::now);
        let deadline = since + self.idle;
        match &mut self.engine {
            Engine::Inline(link, _) => link.poll_alarm(cx, deadline),
            Engine::Detached(link) => link.poll_alarm(cx, deadline),
            Engine::Done => Poll::Ready(()),
        }
    }

    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let next = match &mut self.engine {
            Engine::Inline(link, _) => link.poll_frame(cx, &mut self.incoming),
            Engine::Detached(link) => link.poll_frame(cx, &mut self.incoming),
            Engine::Done if self.incoming.is_over() => return Poll::Ready(None),
            // It broke off before, and stays so.
            Engine::Done => return Poll::Ready(Some(Err(BodyError::Truncated))),
        };
        let error = match next {
            Poll::Ready(Some(Err(error))) => error,
            Poll::Ready(next) => {
                self.waiting_since = None;
                self.finish_if_over();
                return Poll::Ready(next);
            }
            Poll::Pending => {
                ready!(self.poll_idle(cx));
                BodyError::Idle(self.idle)
            }
        };
        // Dropping the connection closes it: nothing after an error can be trusted.
        self.engine = Engine::Done;
        Poll::Ready(Some(Err(error)))
    }
}

impl fmt::Debug for UpstreamBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UpstreamBody").finish_non_exhaustive()
    }
}
