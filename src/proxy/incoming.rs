//! An agent's body as it comes, of whichever version of HTTP.

use std::error::Error;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::RecvStream;
use http::{HeaderMap, header};
use http_body::{Frame, SizeHint};

use super::expect::Wanted;
use super::http1::WireBody;

type BoxError = Box<dyn Error + Send + Sync>;

/// What comes behind the head of a request.
pub(super) enum Incoming {
    /// By HTTP/1.1.
    Http1(WireBody),
    /// On a stream of HTTP/2.
    Http2(StreamBody),
    /// Nothing that belongs to the request.
    Empty,
}

/// A body on a stream, which ends with trailers, with the end of its data, or with a reset.
pub(super) struct StreamBody {
    stream: RecvStream,
    /// What of the announced length is still to come. h2 holds the agent to it.
    length: Option<u64>,
    data_over: bool,
    /// Told when it is first asked for.
    wanted: Option<Arc<Wanted>>,
}

impl StreamBody {
    /// The body behind a head with these fields.
    pub(super) fn new(stream: RecvStream, head: &HeaderMap, wanted: Option<Arc<Wanted>>) -> Self {
        let length = head.get(header::CONTENT_LENGTH);
        let length = length.and_then(|value| value.to_str().ok()?.parse().ok());
        Self { stream, length, data_over: false, wanted }
    }

    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        if let Some(wanted) = self.wanted.take() {
            wanted.now();
        }
        if !self.data_over {
            match ready!(self.stream.poll_data(cx)) {
                Some(Ok(data)) => {
                    // From here on the origin's side holds it, which asks for more when it has room.
                    let _closed = self.stream.flow_control().release_capacity(data.len());
                    self.length = self.length.map(|left| left.saturating_sub(data.len() as u64));
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                // Whatever its reason: Node's `close()` says NO_ERROR in the middle of an upload.
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => self.data_over = true,
            }
        }
        let trailers = ready!(self.stream.poll_trailers(cx));
        Poll::Ready(trailers.map(|trailers| trailers.map(Frame::trailers)).transpose())
    }
}

impl Incoming {
    /// The next piece of it.
    pub(super) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self {
            Self::Http1(body) => body.poll_frame(cx),
            Self::Http2(body) => {
                let frame = ready!(body.poll_frame(cx));
                Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
            }
            Self::Empty => Poll::Ready(None),
        }
    }

    /// Whether there is nothing more, and it ended in order.
    pub(super) fn is_end_stream(&self) -> bool {
        match self {
            Self::Http1(body) => body.is_end_stream(),
            Self::Http2(body) => body.stream.is_end_stream(),
            Self::Empty => true,
        }
    }

    /// How much more is to come, as far as the agent said.
    pub(super) fn size_hint(&self) -> SizeHint {
        match self {
            Self::Http1(body) => body.size_hint(),
            Self::Http2(body) => body.length.map_or_else(SizeHint::default, SizeHint::with_exact),
            Self::Empty => SizeHint::with_exact(0),
        }
    }
}
