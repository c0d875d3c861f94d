//! An end that does not tear the last answer away.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

/// How long what an agent still sends is read and thrown away after the last answer. Closed with
/// bytes unread, the kernel would reset the connection, and with it could go the answer that the
/// agent has not yet read. As long as nginx does it (`lingering_time`).
const LINGER: Duration = Duration::from_secs(30);

/// The same for an agent that sends nothing more, and does not close (`lingering_timeout`).
const LINGER_SILENT: Duration = Duration::from_secs(5);

/// Waits for the agent's end.
#[derive(Default)]
pub(super) struct Linger(Option<(Instant, Pin<Box<Sleep>>)>);

impl Linger {
    /// Reads and drops what comes. Ready when the agent has ended, too, or for long enough has not.
    pub(super) fn poll<S: AsyncRead + Unpin>(
        &mut self,
        stream: &mut S,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        let mut bytes = [0; 4096];
        let mut heard = false;
        loop {
            let mut buf = ReadBuf::new(&mut bytes);
            match Pin::new(&mut *stream).poll_read(cx, &mut buf) {
                Poll::Ready(Ok(())) if !buf.filled().is_empty() => heard = true,
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => break,
            }
        }
        let now = Instant::now();
        let (until, alarm) = self
            .0
            .get_or_insert_with(|| (now + LINGER, Box::pin(sleep_until(now + LINGER_SILENT))));
        if heard {
            alarm.as_mut().reset((*until).min(now + LINGER_SILENT));
        }
        alarm.as_mut().poll(cx)
    }
}
