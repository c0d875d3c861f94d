//! `Expect: 100-continue` (RFC 9110 section 10.1.1): the agent sends its body when the origin has
//! said that it wants it, and keeps it when the origin says no instead.
//!
//! hyper tells the agent to go on when somebody asks for its body, so the body is not asked for
//! before the origin has told us to go on.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Request, Version, header};
use hyper::body::Incoming;
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::upstream::GoOn;

/// How long an origin may take to say it. Many never do, and wait for the body themselves; as long as
/// curl waits before it sends unasked.
const WAIT: Duration = Duration::from_secs(1);

/// Closed until the origin wants the body, or has said nothing for too long.
pub(super) struct Gate {
    told: oneshot::Receiver<()>,
    /// Begins when the body could be sent: connecting takes no time from it.
    alarm: Option<Pin<Box<Sleep>>>,
}

impl Gate {
    /// The gate of a request that expects one.
    pub(super) fn of(request: &mut Request<Incoming>) -> Option<Self> {
        let expected = request.headers().get(header::EXPECT)?;
        if request.version() != Version::HTTP_11
            || !expected.as_bytes().eq_ignore_ascii_case(b"100-continue")
        {
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
