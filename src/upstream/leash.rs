//! Connections that can be ended from outside: by a word about whoever they belong to.
//!
//! What a principal's credentials have opened must be closed when one of them is revoked in an emergency,
//! also where nothing moves and nobody would look. A connection is noted once, when it is opened; a
//! request on it pays for one load, and for one place in a slot of its own while it waits.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Waker};

use atomic_waker::AtomicWaker;
use parking_lot::Mutex;

/// All connections that are open.
#[derive(Default)]
pub(super) struct Leashes {
    next: AtomicU64,
    held: Mutex<HashMap<u64, Held>>,
}

/// A connection, by its principal.
type Held = (Arc<str>, Arc<End>);

/// What ends one.
#[derive(Default)]
pub(super) struct End {
    now: AtomicBool,
    waiting: AtomicWaker,
}

/// The connection's side of it. Forgotten with the connection.
#[derive(Default)]
pub(super) struct Leash {
    end: Arc<End>,
    of: Option<(Arc<Leashes>, u64)>,
}

impl Leashes {
    /// Notes a connection of `principal`.
    pub(super) fn hold(self: &Arc<Self>, principal: &Arc<str>) -> Leash {
        let end = Arc::<End>::default();
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.held.lock().insert(number, (Arc::clone(principal), Arc::clone(&end)));
        Leash { end, of: Some((Arc::clone(self), number)) }
    }

    /// Ends the connections of the principals for which `whose` is true, and says how many they are.
    pub(super) fn end(&self, whose: impl Fn(&str) -> bool) -> usize {
        let held = self.held.lock();
        let theirs = held.values().filter(|(principal, _)| whose(principal));
        theirs.map(|(_, end)| end.now()).count()
    }
}

impl End {
    /// Ends the connection.
    pub(super) fn now(&self) {
        // First the word: who is woken looks at it.
        self.now.store(true, Ordering::Release);
        self.waiting.wake();
    }

    /// Lets go of the task that waited last.
    pub(super) fn forget_waker(&self) {
        drop(self.waiting.take());
    }
}

impl Leash {
    /// The part that others may hold.
    pub(super) fn end(&self) -> Arc<End> {
        Arc::clone(&self.end)
    }

    /// An error when the connection was ended.
    pub(super) fn check(&self) -> io::Result<()> {
        if self.end.now.load(Ordering::Acquire) {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        Ok(())
    }

    /// The same for a connection on which nothing has come; its task is woken when it is ended.
    pub(super) fn wait(&self, cx: &Context<'_>) -> io::Result<()> {
        // Who looks without being told later is not to be told, nor to be in the way of who is.
        if !cx.waker().will_wake(Waker::noop()) {
            self.end.waiting.register(cx.waker());
        }
        self.check()
    }
}

impl Drop for Leash {
    fn drop(&mut self) {
        if let Some((leashes, number)) = &self.of {
            leashes.held.lock().remove(number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::Wake;

    struct Woken(AtomicBool);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    #[test]
    fn those_meant_are_ended_and_woken_and_the_others_are_not() {
        let leashes = Arc::<Leashes>::default();
        let [one, two] = ["a+k@1", "a+k@2"].map(|principal| leashes.hold(&principal.into()));
        let woken = [(); 2].map(|()| Arc::new(Woken(AtomicBool::new(false))));
        for (leash, woken) in [&one, &two].into_iter().zip(&woken) {
            let waker = Waker::from(Arc::clone(woken));
            leash.wait(&Context::from_waker(&waker)).unwrap();
            // A look does not take the place of who waits.
            leash.wait(&Context::from_waker(Waker::noop())).unwrap();
        }
        assert_eq!(leashes.end(|principal| principal == "a+k@1"), 1);
        assert_eq!(woken.map(|woken| woken.0.load(Ordering::Relaxed)), [true, false]);
        assert!(one.check().is_err() && two.check().is_ok());
        drop((one, two));
        assert!(leashes.held.lock().is_empty());
        assert_eq!(leashes.end(|_| true), 0);
    }
}
