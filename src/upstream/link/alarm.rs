//! The clock of one exchange after another, which is seldom touched.

use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use tokio::task::coop::unconstrained;
use tokio::time::{Instant, Sleep, sleep_until};

use super::silent;

/// A timer that is set seldom. Deadlines move with every piece of a body; the timer is left where it
/// is, and looks at the true deadline when it goes off. It stays with the connection, so that a
/// request on a warm connection touches the runtime's timer wheel about once in a timeout.
#[derive(Default)]
pub(in crate::upstream) struct Alarm(Option<Pin<Box<Sleep>>>);

impl Alarm {
    pub(in crate::upstream) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        deadline: Instant,
    ) -> Poll<()> {
        let sleep = self.0.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if sleep.deadline() > deadline {
            sleep.as_mut().reset(deadline);
        }
        // Unconstrained: an origin that always has more to say would take all of the runtime's
        // budget, and no clock would ever be looked at.
        while pin!(unconstrained(sleep.as_mut())).poll(cx).is_ready() {
            if sleep.deadline() >= deadline {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(deadline);
        }
        Poll::Pending
    }

    pub(in crate::upstream) fn is_set(&self) -> bool {
        self.0.is_some()
    }

    /// Lets go of the task that waited last. A waker holds all the memory of its task, and the timer
    /// would hold the waker for as long as the connection waits in the pool.
    pub(in crate::upstream) fn forget_waker(&mut self) {
        if let Some(sleep) = &mut self.0 {
            let _ = sleep.as_mut().poll(&mut silent());
        }
    }
}
