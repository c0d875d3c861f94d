//! Something that happens once and that every connection has to hear of: the proxy stops.
//!
//! A connection is woken thousands of times for each time the signal is given. So asking costs one
//! load: the place among those who wait, which is behind a lock, is taken once and kept.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};

use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;

/// Gives the signal, when dropped too.
#[derive(Debug, Default)]
pub(super) struct Bell(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    rung: AtomicBool,
    waiting: Arc<Notify>,
}

impl Bell {
    /// Somebody who will hear it.
    pub(super) fn signal(&self) -> Signal {
        Signal { shared: Arc::clone(&self.0), place: None }
    }

    /// Gives the signal.
    pub(super) fn ring(&self) {
        // First the flag: who is woken looks at it.
        self.0.rung.store(true, Ordering::Release);
        self.0.waiting.notify_waiters();
    }
}

/// Without a bell nobody could ever end a wait.
impl Drop for Bell {
    fn drop(&mut self) {
        self.ring();
    }
}

/// Waits for the signal.
#[derive(Debug)]
pub(super) struct Signal {
    shared: Arc<Shared>,
    place: Option<Place>,
}

/// Among those who are woken, and who is to be woken.
#[derive(Debug)]
struct Place {
    notified: Pin<Box<OwnedNotified>>,
    waker: Waker,
}

impl Signal {
    /// Whether it was given.
    pub(super) fn is_given(&self) -> bool {
        self.shared.rung.load(Ordering::Acquire)
    }

    /// Ready when it was given. Otherwise the task of `cx` will be woken.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.is_given() {
            return Poll::Ready(());
        }
        if self.place.as_ref().is_some_and(|place| place.waker.will_wake(cx.waker())) {
            return Poll::Pending;
        }
        let mut place = self.place.take().unwrap_or_else(|| Place {
            notified: Box::pin(Arc::clone(&self.shared.waiting).notified_owned()),
            waker: cx.waker().clone(),
        });
        let woken = place.notified.as_mut().poll(cx).is_ready();
        place.waker.clone_from(cx.waker());
        self.place = Some(place);
        // Once more: the bell may have rung between the first look and the place.
        if woken || self.is_given() { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Returns when it was given.
    pub(super) async fn given(&mut self) {
        std::future::poll_fn(|cx| self.poll(cx)).await;
    }
}

impl Clone for Signal {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared), place: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn all_hear_it_before_and_after_it_was_given() {
        let bell = Bell::default();
        let mut early = bell.signal();
        let waiting: Vec<_> = (0..3)
            .map(|_| {
                let mut signal = early.clone();
                tokio::spawn(async move { signal.given().await })
            })
            .collect();
        tokio::task::yield_now().await;
        assert!(!early.is_given());
        bell.ring();
        for task in waiting {
            task.await.unwrap();
        }
        early.given().await;
        bell.signal().given().await;
    }

    #[tokio::test]
    async fn who_moves_to_another_task_is_woken_there() {
        let bell = Bell::default();
        let mut signal = bell.signal();
        let here = std::future::poll_fn(|cx| Poll::Ready(signal.poll(cx))).await;
        assert!(here.is_pending());
        let there = tokio::spawn(async move { signal.given().await });
        tokio::task::yield_now().await;
        drop(bell);
        there.await.unwrap();
    }
}
