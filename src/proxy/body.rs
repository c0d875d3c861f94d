//! Bodies on the agent's side: what is handed on is counted, and the end of it is recorded.

use std::error::Error;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::request::Parts;
use http::{Request, Version};
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;

use super::echo::hushed;
use super::expect::Gate;
use super::inlet::Reading;
use super::ledger::{Tally, Uploaded};
use crate::outcome::{Code, Ending};
use crate::request::{strip_hop_by_hop, strip_own};
use crate::scrub::{ScrubError, ScrubbedBody};
use crate::upstream::UpstreamBody;

type BoxError = Box<dyn Error + Send + Sync>;

/// The body of any answer to an agent.
pub struct Body(Kind);

enum Kind {
    /// Made here, sent in one piece.
    Whole(Option<Bytes>),
    /// The origin's, scrubbed and counted.
    Streamed(Box<Streamed>),
}

struct Streamed {
    inner: ScrubbedBody<UpstreamBody>,
    tally: Tally,
}

impl Body {
    /// A body of our own.
    pub(super) fn whole(bytes: Bytes) -> Self {
        Self(Kind::Whole(Some(bytes)))
    }

    /// No body.
    pub(super) fn empty() -> Self {
        Self(Kind::Whole(None))
    }

    /// The origin's answer on its way.
    pub(super) fn streamed(inner: ScrubbedBody<UpstreamBody>, mut tally: Tally) -> Self {
        tally.unsearched = inner.unsearched();
        let mut streamed = Streamed { inner, tally };
        streamed.close_if_over();
        Self(Kind::Streamed(Box::new(streamed)))
    }

    /// All of a body of our own.
    pub(super) fn as_whole(&self) -> Option<Bytes> {
        match &self.0 {
            Kind::Whole(bytes) => bytes.clone(),
            Kind::Streamed(_) => None,
        }
    }
}

impl Streamed {
    /// hyper does not ask again once the announced length is out, so the end is looked for after
    /// each frame.
    fn close_if_over(&mut self) {
        if self.inner.is_end_stream() {
            self.close(Ending::Complete);
        }
    }

    fn close(&mut self, ending: Ending) {
        self.tally.scrubbed = self.inner.replaced();
        self.tally.close(ending);
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match ready!(Pin::new(&mut self.inner).poll_frame(cx)) {
            Some(Ok(frame)) => {
                self.tally.passed(frame.data_ref().map_or(0, Bytes::len));
                // Nothing follows trailers, and hyper does not ask again.
                if frame.is_trailers() {
                    self.close(Ending::Complete);
                }
                self.close_if_over();
                Poll::Ready(Some(Ok(frame)))
            }
            // The error goes on to hyper, which breaks the connection off: an answer that was cut
            // upstream is cut here, and never ended as if whole.
            Some(Err(error)) => {
                if matches!(error, ScrubError::Unscrubbable) {
                    self.tally.code = Some(Code::Unscrubbable);
                }
                self.close(Ending::UpstreamAborted);
                Poll::Ready(Some(Err(error.into())))
            }
            None => {
                self.close(Ending::Complete);
                Poll::Ready(None)
            }
        }
    }
}

impl Drop for Streamed {
    fn drop(&mut self) {
        self.tally.scrubbed = self.inner.replaced();
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match &mut self.0 {
            Kind::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Kind::Streamed(streamed) => streamed.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Whole(bytes) => bytes.is_none(),
            Kind::Streamed(streamed) => streamed.inner.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Whole(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64))
            }
            Kind::Streamed(streamed) => streamed.inner.size_hint(),
        }
    }
}

/// An agent's body on its way up, counted.
pub(super) struct Upload {
    inner: Incoming,
    /// Whether the end of the stream says that the body was whole.
    told: bool,
    count: Uploaded,
    reading: Option<Reading>,
    gate: Option<Gate>,
}

impl Upload {
    /// The head of a request, and its body, of which nothing is read before it is wanted.
    pub(super) fn of(mut request: Request<Incoming>) -> (Parts, Self, Uploaded) {
        let gate = Gate::of(&mut request);
        let reading = request.extensions_mut().remove();
        let (parts, inner) = request.into_parts();
        let told = parts.version == Version::HTTP_2;
        let count = if inner.is_end_stream() { Uploaded::default() } else { Uploaded::counting() };
        (parts, Self { inner, told, count: count.clone(), reading, gate }, count)
    }

    /// Whether a body that has nothing more was reset. hyper takes a reset with `NO_ERROR` for the
    /// end, and Node's `close()` sends that in the middle of an upload.
    fn was_cut(&self) -> bool {
        self.told && !self.inner.is_end_stream()
    }
}

impl HttpBody for Upload {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Some(gate) = &mut self.gate {
            ready!(gate.poll(cx));
            self.gate = None;
        }
        let inner = &mut self.inner;
        let mut frame = ready!(hushed(|| {
            let frame = Pin::new(&mut *inner).poll_frame(cx);
            (frame, !inner.is_end_stream())
        }));
        if frame.is_none() && self.was_cut() {
            return Poll::Ready(Some(Err("the agent reset its request".into())));
        }
        if let Some(trailers) = frame.as_mut().and_then(|f| f.as_mut().ok()?.trailers_mut()) {
            strip_own(trailers);
            strip_hop_by_hop(trailers);
        }
        if let Some(Ok(frame)) = &frame {
            self.count.add(frame.data_ref().map_or(0, Bytes::len));
        }
        let more = matches!(&frame, Some(Ok(frame)) if !frame.is_trailers());
        let over = !more || self.inner.is_end_stream();
        if let Some(reading) = self.reading.take_if(|_| over) {
            reading.done();
        }
        Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
