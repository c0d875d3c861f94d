//! The body of a request, read from the connection by whoever asks for it.

use std::error::Error;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http_body::{Frame, SizeHint};

use crate::http1::{Chunks, ChunksError, Length, Limits, Piece};

type BoxError = Box<dyn Error + Send + Sync>;

/// A connection that a body is read from, and that interim answers go out on.
pub(in crate::proxy) trait Source: Send + Sync {
    /// The next frame; none behind the last.
    fn poll_frame(
        &self,
        framing: &mut Framing,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<Frame<Bytes>>, BoxError>>;

    /// Nobody will read what is left.
    fn give_up(&self);

    /// Has the head of an interim answer go out before the answer.
    fn put_early(&self, head: &[u8]);
}

/// Where a body is.
pub(in crate::proxy) enum Framing {
    /// So much of it is still to come.
    Exact(u64),
    Chunked(Chunks),
}

impl Framing {
    /// The fields behind it are bounded as those of a head.
    pub(super) fn new(length: Length, trailers: Limits) -> Self {
        match length {
            Length::Exact(length) => Self::Exact(length),
            // Of a request none lasts until the connection ends.
            Length::Chunked | Length::UntilClose => Self::Chunked(Chunks::new(trailers)),
        }
    }

    /// Whether nothing more belongs to it.
    pub(super) fn is_over(&self) -> bool {
        match self {
            Self::Exact(left) => *left == 0,
            Self::Chunked(chunks) => chunks.is_over(),
        }
    }

    /// Takes the next frame out of what was read.
    pub(super) fn next(
        &mut self,
        read: &mut BytesMut,
    ) -> Result<Option<Frame<Bytes>>, ChunksError> {
        match self {
            Self::Exact(left) => {
                let here = usize::try_from(*left).map_or(read.len(), |left| left.min(read.len()));
                *left -= here as u64;
                Ok((here > 0).then(|| Frame::data(read.split_to(here).freeze())))
            }
            Self::Chunked(chunks) => Ok(match chunks.read(read)? {
                Some(Piece::Data(data)) => {
                    let _over = chunks.ends(read);
                    Some(Frame::data(data))
                }
                Some(Piece::End(trailers)) if !trailers.is_empty() => {
                    Some(Frame::trailers(trailers))
                }
                Some(Piece::End(_)) | None => None,
            }),
        }
    }
}

/// What comes behind the head of a request.
pub(in crate::proxy) struct WireBody {
    wire: Arc<dyn Source>,
    framing: Framing,
    broken: bool,
}

impl WireBody {
    /// What is still to be read from `wire`.
    pub(super) fn new(wire: Arc<dyn Source>, framing: Framing) -> Self {
        Self { wire, framing, broken: false }
    }

    pub(in crate::proxy) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.broken || self.framing.is_over() {
            return Poll::Ready(None);
        }
        let frame = ready!(self.wire.poll_frame(&mut self.framing, cx));
        self.broken = frame.is_err();
        Poll::Ready(frame.transpose())
    }

    pub(in crate::proxy) fn is_end_stream(&self) -> bool {
        self.framing.is_over()
    }

    pub(in crate::proxy) fn size_hint(&self) -> SizeHint {
        match self.framing {
            Framing::Exact(left) => SizeHint::with_exact(left),
            Framing::Chunked(_) => SizeHint::default(),
        }
    }
}

impl Drop for WireBody {
    fn drop(&mut self) {
        if !self.broken && !self.framing.is_over() {
            self.wire.give_up();
        }
    }
}
