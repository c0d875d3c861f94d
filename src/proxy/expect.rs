//! `Expect: 100-continue` (RFC 9110 section 10.1.1): the agent sends its body when the origin has
//! said that it wants it, and keeps it when the origin says no instead.
//!
//! The agent is told to go on when somebody asks for its body (on HTTP/1.1 by the connection, on HTTP/2 by
//! [`Wanted`]), so the body is not asked for before the origin has told us to go on.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use atomic_waker::AtomicWaker;
use http::{HeaderMap, Request, Version, header};
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::upstream::GoOn;

/// How long an origin may take to say it. Many never do, and wait for the body themselves; as long as
/// curl waits before it sends unasked.
const WAIT: Duration = Duration::from_secs(1);

/// Whether the agent waits for a `100 Continue`.
pub(super) fn is_expected(head: &HeaderMap) -> bool {
    let expected = head.get(header::EXPECT);
    expected.is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

/// Whether somebody has asked for the body of a stream whose agent waits to hear it. Who asks may be
/// another task than the one that answers.
#[derive(Default)]
pub(super) struct Wanted {
    asked: AtomicBool,
    answering: AtomicWaker,
}

impl Wanted {
    /// Somebody asks.
    pub(super) fn now(&self) {
        self.asked.store(true, Ordering::Release);
        self.answering.wake();
    }

    /// True once, when somebody has asked. The task of `cx` is woken when somebody does.
    pub(super) fn is_news(&self, cx: &Context<'_>) -> bool {
        self.answering.register(cx.waker());
        self.asked.swap(false, Ordering::Acquire)
    }
}

/// Closed until the origin wants the body, or has said nothing for too long.
pub(super) struct Gate {
    told: oneshot::Receiver<()>,
    /// Begins when the body could be sent: connecting takes no time from it.
    alarm: Option<Pin<Box<Sleep>>>,
}

impl Gate {
    /// The gate of a request that expects one.
    pub(super) fn of<B>(request: &mut Request<B>) -> Option<Self> {
        // HTTP/1.0 knows no interim answers.
        if request.version() < Version::HTTP_11 || !is_expected(request.headers()) {
            return None;
        }
        let (tell, told) = oneshot::channel();
        let tell = Mutex::new(Some(tell));
        request.extensions_mut().insert(GoOn::new(move || {
            // Nobody listens any more when the body is on its way already.
            let _unheard = tell.lock().take().map(|tell| tell.send(()));
        }));
        Some(Self { told, alarm: None })
    }

    /// Ready when the body may be asked for.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if Pin::new(&mut self.told).poll(cx).is_ready() {
            return Poll::Ready(());
        }
        let alarm = || Box::pin(sleep_until(Instant::now() + WAIT));
        self.alarm.get_or_insert_with(alarm).as_mut().poll(cx)
    }
}
