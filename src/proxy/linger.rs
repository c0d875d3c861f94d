//! The last moments of an answer that broke off upstream.
//!
//! The agent hears of it by a reset, of its stream or of its connection, for which what has not left yet is
//! thrown away. What came before the break is the agent's, so the break is told when that has left.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep};

use super::stream::Cut;

/// How often it is looked whether bytes have left.
const TICK: Duration = Duration::from_millis(20);

/// How long an agent that does not read is waited for.
const PATIENCE: Duration = Duration::from_secs(5);

/// How a connection shows that what was handed on has left it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Signs {
    /// How long it has to have written nothing, where it could.
    quiet: Duration,
    /// How long the break waits at most, whatever moves.
    at_most: Duration,
}

impl Signs {
    /// A connection that is this answer's own. What the kernel has of it leaves within a few milliseconds; all
    /// that moves is the answer, of which nothing more comes.
    pub(super) const ALONE: Self = Self { quiet: TICK, at_most: Duration::from_mins(1) };

    /// A stream among others (HTTP/2). What waits for the agent to open its window is not handed on before
    /// that, and the break is not looked at before all else was; so here too nothing but the connection holds
    /// it up. What moves may be another stream, and would move for ever.
    pub(super) const AMONG_OTHERS: Self = Self { quiet: TICK, at_most: Duration::from_secs(10) };
}

/// A break that is still to be told.
pub(super) struct Linger<E> {
    why: Option<E>,
    cut: Cut,
    signs: Signs,
    begun: Instant,
    /// How much had been written when it was last looked.
    written: u64,
    moved: Instant,
    tick: Pin<Box<Sleep>>,
}

impl<E> Linger<E> {
    pub(super) fn new(why: E, cut: Cut, signs: Signs) -> Self {
        let (now, written) = (Instant::now(), cut.written());
        let tick = Box::pin(sleep(TICK));
        Self { why: Some(why), cut, signs, begun: now, written, moved: now, tick }
    }

    /// Why it broke off, once all that came before is on its way, or will never be.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<E>> {
        loop {
            ready!(self.tick.as_mut().poll(cx));
            let (now, written) = (Instant::now(), self.cut.written());
            if written != self.written {
                (self.written, self.moved) = (written, now);
            }
            let patience = if self.cut.is_full() { PATIENCE } else { self.signs.quiet };
            if now - self.moved >= patience || now - self.begun >= self.signs.at_most {
                return Poll::Ready(self.why.take());
            }
            self.tick.as_mut().reset(now + TICK);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    /// How long the break waits while `each` is done to the connection in every pause of this length.
    async fn waits(signs: Signs, pause: Duration, mut each: impl FnMut(&Cut, u32)) -> Duration {
        let (cut, begun) = (Cut::default(), Instant::now());
        let mut linger = Linger::new("broken", cut.clone(), signs);
        for round in 0.. {
            let told = poll_fn(|cx| linger.poll(cx));
            if let Ok(why) = tokio::time::timeout(pause, told).await {
                assert_eq!(why, Some("broken"));
                break;
            }
            each(&cut, round);
        }
        begun.elapsed()
    }

    fn wrote(cut: &Cut) {
        cut.note(&Poll::Ready(Ok(1)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_took_all_says_at_once_that_all_has_left() {
        for signs in [Signs::AMONG_OTHERS, Signs::ALONE] {
            let waited = waits(signs, Duration::from_millis(700), |_, _| {}).await;
            assert!(waited <= 2 * TICK, "{waited:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_moves_for_others_does_not_keep_the_break_for_ever() {
        for signs in [Signs::AMONG_OTHERS, Signs::ALONE] {
            // Another stream keeps the connection full, and moves.
            let busy = |cut: &Cut, _| {
                wrote(cut);
                cut.note(&Poll::Pending);
            };
            let pause = Duration::from_millis(10);
            let waited = waits(signs, pause, busy).await;
            let late = waited.checked_sub(signs.at_most).unwrap();
            assert!(late <= 2 * TICK, "{waited:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_agent_that_does_not_read_is_waited_for_as_long_as_ever() {
        for signs in [Signs::AMONG_OTHERS, Signs::ALONE] {
            let full = |cut: &Cut, _| cut.note(&Poll::Pending);
            let waited = waits(signs, Duration::from_millis(10), full).await;
            assert!(waited >= PATIENCE && waited <= PATIENCE + 2 * TICK, "{waited:?}");
        }
    }
}
