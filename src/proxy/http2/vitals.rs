//! What the tasks of one connection know of each other: the streams that are open, those that were given
//! up, and when something last came.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::Context;
use std::time::Duration;

use atomic_waker::AtomicWaker;
use tokio::time::Instant;

/// Streams that an agent may give up within [`SHORT`] of their begin, unless it sees at least as many
/// to their end. Each costs a decision, a record and a call. An agent that cancels all it has under
/// way at once is far below; the number is Envoy's.
const GIVEN_UP: u64 = 500;

/// What is given up sooner than this was not waited for.
const SHORT: Duration = Duration::from_secs(1);

/// The state of a connection.
pub(super) struct Vitals {
    begin: Instant,
    /// Milliseconds from `begin` to when something last came.
    heard: AtomicU64,
    open: AtomicUsize,
    /// Milliseconds from `begin` to when a stream last ended.
    changed: AtomicU64,
    finished: AtomicU64,
    given_up: AtomicU64,
    flooded: AtomicBool,
    /// Whether what still comes is to be read when we have ended.
    lingers: AtomicBool,
    connection: AtomicWaker,
}

impl Vitals {
    pub(super) fn new() -> Self {
        Self {
            begin: Instant::now(),
            heard: AtomicU64::new(0),
            open: AtomicUsize::new(0),
            changed: AtomicU64::new(0),
            finished: AtomicU64::new(0),
            given_up: AtomicU64::new(0),
            flooded: AtomicBool::new(false),
            lingers: AtomicBool::new(false),
            connection: AtomicWaker::new(),
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.begin.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn at(&self, when: &AtomicU64) -> Instant {
        self.begin + Duration::from_millis(when.load(Ordering::Relaxed))
    }

    /// Now, as exactly as times are kept here.
    pub(super) fn instant(&self) -> Instant {
        self.begin + Duration::from_millis(self.now())
    }

    /// Has the connection's task woken when it is to look.
    pub(super) fn listen(&self, cx: &Context<'_>) {
        self.connection.register(cx.waker());
    }

    /// Something came.
    pub(super) fn note_heard(&self) {
        self.heard.store(self.now(), Ordering::Relaxed);
    }

    /// When something last came.
    pub(super) fn heard(&self) -> Instant {
        self.at(&self.heard)
    }

    /// Since when no stream is served; none while one is.
    pub(super) fn idle_since(&self) -> Option<Instant> {
        (self.open.load(Ordering::Acquire) == 0).then(|| self.at(&self.changed))
    }

    /// Whether too many streams were given up.
    pub(super) fn is_flooded(&self) -> bool {
        self.flooded.load(Ordering::Relaxed)
    }

    /// Has what still comes read when we have ended.
    pub(super) fn linger(&self) {
        self.lingers.store(true, Ordering::Relaxed);
    }

    pub(super) fn lingers(&self) -> bool {
        self.lingers.load(Ordering::Relaxed)
    }

    fn note_given_up(&self) {
        let given_up = self.given_up.fetch_add(1, Ordering::Relaxed) + 1;
        if given_up >= GIVEN_UP && given_up > self.finished.load(Ordering::Relaxed) {
            self.flooded.store(true, Ordering::Relaxed);
            self.connection.wake();
        }
    }
}

/// One stream, from its request to the end of its answer, or of the socket that it became.
pub(super) struct Open {
    of: Arc<Vitals>,
    begin: Instant,
    finished: bool,
}

impl Open {
    pub(super) fn new(of: &Arc<Vitals>) -> Self {
        of.open.fetch_add(1, Ordering::Relaxed);
        Self { of: Arc::clone(of), begin: Instant::now(), finished: false }
    }

    /// The agent was given all that it asked for.
    pub(super) fn finish(&mut self) {
        self.finished = true;
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.of.changed.store(self.of.now(), Ordering::Relaxed);
        // Who sees that it is none any more, sees since when.
        self.of.open.fetch_sub(1, Ordering::Release);
        if self.finished {
            self.of.finished.fetch_add(1, Ordering::Relaxed);
        } else if self.begin.elapsed() < SHORT {
            self.of.note_given_up();
        }
    }
}
