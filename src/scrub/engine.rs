//! What a streamed body is searched as, and what becomes of one that cannot be scrubbed.

use std::error::Error;
use std::fmt;

use bytes::Bytes;
use http::header::HeaderMap;

use super::frames::FrameScrubber;
use super::messages::MessageScrubber;
use super::search::Scrubber;

/// The kinds of streams.
pub(super) enum Engine {
    /// One run of bytes.
    Bytes(Scrubber),
    /// Messages with their lengths before them.
    Messages(MessageScrubber),
    /// The frames of a WebSocket.
    Frames(FrameScrubber),
}

impl Engine {
    pub(super) fn push(
        &mut self,
        data: Bytes,
        out: &mut impl FnMut(Bytes),
    ) -> Result<(), Unscrubbable> {
        match self {
            Self::Bytes(scrubber) => {
                scrubber.push(data, out);
                Ok(())
            }
            Self::Messages(messages) => messages.push(data, out),
            Self::Frames(frames) => frames.push(data, out),
        }
    }

    /// Whether something is held back that may be shown when nothing more comes. What a message says is of use when
    /// it is whole, and then all of it is known.
    pub(super) fn waits(&self) -> bool {
        matches!(self, Self::Bytes(scrubber) if scrubber.waits())
    }

    /// Nothing more has come for a while.
    pub(super) fn pause(&mut self, out: &mut impl FnMut(Bytes)) {
        if let Self::Bytes(scrubber) = self {
            scrubber.pause(out);
        }
    }

    pub(super) fn finish(&mut self, out: &mut impl FnMut(Bytes)) {
        match self {
            Self::Bytes(scrubber) => scrubber.finish(out),
            Self::Messages(messages) => messages.scrubber_mut().finish(out),
            Self::Frames(frames) => frames.finish(out),
        }
    }

    pub(super) fn scrub_trailers(&mut self, trailers: &mut HeaderMap) {
        match self {
            Self::Bytes(scrubber) => scrubber.scrub_trailers(trailers),
            Self::Messages(messages) => messages.scrubber_mut().scrub_trailers(trailers),
            // What follows a 101 has none.
            Self::Frames(_) => {}
        }
    }

    pub(super) fn scrubber(&self) -> &Scrubber {
        match self {
            Self::Bytes(scrubber) => scrubber,
            Self::Messages(messages) => messages.scrubber(),
            Self::Frames(frames) => frames.scrubber(),
        }
    }
}

/// What came can neither be handed on nor replaced: a compressed message with a secret in it, or one
/// that cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unscrubbable;

/// Why a scrubbed body ended before its end.
#[derive(Debug)]
pub enum ScrubError<E> {
    /// The body itself broke off.
    Body(E),
    /// What came next may not be handed on.
    Unscrubbable,
}

impl<E> From<Unscrubbable> for ScrubError<E> {
    fn from(_: Unscrubbable) -> Self {
        Self::Unscrubbable
    }
}

impl<E> fmt::Display for ScrubError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Body(_) => "the answer broke off",
            Self::Unscrubbable => "what came next cannot be handed on without the secret in it",
        })
    }
}

impl<E: Error + 'static> Error for ScrubError<E> {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Body(error) => Some(error),
            Self::Unscrubbable => None,
        }
    }
}
