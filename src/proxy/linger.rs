//! The last moments of an answer that broke off upstream.
//!
//! The agent hears of it by an end that is none, for which hyper throws away what it has not written
//! yet. What came before the break is the agent's, so the break is told when that has left.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep};

use super::stream::Cut;

/// How long what was handed on has to be written where nothing stands in its way: hyper writes it when
/// its task is next run, which on a busy machine is a few milliseconds.
const WRITTEN_WITHIN: Duration = Duration::from_millis(20);

/// How long an agent that does not read is waited for.
const PATIENCE: Duration = Duration::from_secs(5);

/// A break that is still to be told.
pub(super) struct Linger<E> {
    why: Option<E>,
    cut: Cut,
    /// How much had been written when it was last looked.
    written: u64,
    moved: Instant,
    tick: Pin<Box<Sleep>>,
}

impl<E> Linger<E> {
    pub(super) fn new(why: E, cut: Cut) -> Self {
        let written = cut.written();
        let tick = Box::pin(sleep(WRITTEN_WITHIN));
        Self { why: Some(why), cut, written, moved: Instant::now(), tick }
    }

    /// Why it broke off, once all that came before is on its way, or will never be.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<E>> {
        loop {
            ready!(self.tick.as_mut().poll(cx));
            let written = self.cut.written();
            if written != self.written {
                (self.written, self.moved) = (written, Instant::now());
            }
            if !self.cut.is_full() || self.moved.elapsed() >= PATIENCE {
                return Poll::Ready(self.why.take());
            }
            self.tick.as_mut().reset(Instant::now() + WRITTEN_WITHIN);
        }
    }
}
