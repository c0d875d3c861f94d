//! How long an agent takes nothing of what is there for it.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

/// The timer is made for the first answer that waits, and set anew when it goes off: answers wait for a moment
/// all the time.
#[derive(Default)]
pub(super) struct Unread {
    since: Option<Instant>,
    alarm: Option<Pin<Box<Sleep>>>,
}

impl Unread {
    /// Something was taken.
    pub(super) fn moved(&mut self) {
        self.since = None;
    }

    /// Ready when nothing was for so long.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, patience: Duration) -> Poll<()> {
        let deadline = *self.since.get_or_insert_with(Instant::now) + patience;
        let alarm = self.alarm.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        loop {
            ready!(alarm.as_mut().poll(cx));
            if alarm.deadline() >= deadline {
                return Poll::Ready(());
            }
            alarm.as_mut().reset(deadline);
        }
    }
}
