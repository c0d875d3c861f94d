//! The wake-up that a task would give itself for nothing.
//!
//! hyper wakes whoever reads a body from the connection when a piece of it is taken, so that the next
//! is read. Here the one who takes is the one who reads, and with the last piece there is no next:
//! nearly every request with a body would have its whole connection run once more for nothing.

use std::cell::RefCell;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

thread_local! {
    static TAKING: RefCell<Taking> = const { RefCell::new(Taking::Nothing) };
}

/// Whether this thread takes a piece just now.
#[derive(Default)]
enum Taking {
    #[default]
    Nothing,
    /// And who was to be woken for it so far.
    Piece(Option<Waker>),
}

/// Polls a connection with wakers that can be held back.
#[derive(Default)]
pub(super) struct Listening(Option<(Waker, Waker)>);

impl Listening {
    /// Calls `poll` with a waker for `cx`'s task.
    pub(super) fn poll<T>(
        &mut self,
        cx: &mut Context<'_>,
        poll: impl FnOnce(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        let known = self.0.take().filter(|(task, _)| task.will_wake(cx.waker()));
        let (_, waker) = self.0.insert(known.unwrap_or_else(|| {
            let task = cx.waker().clone();
            (task.clone(), Arc::new(Hushed(task)).into())
        }));
        poll(&mut Context::from_waker(waker))
    }
}

struct Hushed(Waker);

impl Wake for Hushed {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let held = TAKING.with_borrow_mut(|taking| match taking {
            Taking::Piece(held @ None) => {
                *held = Some(Arc::clone(self).into());
                true
            }
            Taking::Piece(Some(_)) | Taking::Nothing => false,
        });
        if !held {
            self.0.wake_by_ref();
        }
    }
}

/// Takes a piece, and wakes nobody for it that was polled by a [`Listening`]. `take` says beside what
/// it took whether more is to come, and they are to be woken all the same.
pub(super) fn hushed<T>(take: impl FnOnce() -> (T, bool)) -> T {
    /// Also when `take` panics, wake-ups are let through again.
    struct Over;
    impl Drop for Over {
        fn drop(&mut self) {
            let _nobody = TAKING.take();
        }
    }
    TAKING.set(Taking::Piece(None));
    let over = Over;
    let (taken, more) = take();
    let held = TAKING.take();
    drop(over);
    if let (true, Taking::Piece(Some(held))) = (more, held) {
        held.wake();
    }
    taken
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn only_what_is_taken_last_wakes_nobody() {
        let count = Arc::<Count>::default();
        let task = Waker::from(Arc::clone(&count));
        let woken = || count.0.load(Ordering::Relaxed);
        let mut waker = None;
        let _ready = Listening::default().poll(&mut Context::from_waker(&task), |cx| {
            waker = Some(cx.waker().clone());
            Poll::Ready(())
        });
        let waker = waker.unwrap();
        waker.wake_by_ref();
        assert_eq!(woken(), 1);
        hushed(|| (waker.wake_by_ref(), false));
        assert_eq!(woken(), 1);
        hushed(|| (waker.wake_by_ref(), true));
        assert_eq!(woken(), 2);
        waker.wake();
        assert_eq!(woken(), 3);
    }

    #[test]
    fn others_are_woken_meanwhile() {
        let count = Arc::<Count>::default();
        let other = Waker::from(Arc::clone(&count));
        hushed(|| (other.wake_by_ref(), false));
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
    }
}
