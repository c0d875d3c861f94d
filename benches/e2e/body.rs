//! Bodies that both ends of the benchmark send: one piece, a long run of the same text, or events.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::LazyLock;
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::time::{Interval, MissedTickBehavior, interval};

/// What is sent at a time. A file server's usual buffer.
const PIECE: usize = 64 * 1024;

/// JSON as an API sends it: bodies of zeros would flatter a search for secrets.
static TEXT: LazyLock<Bytes> = LazyLock::new(|| {
    let mut text = Vec::with_capacity(PIECE + 256);
    for id in 0_u32.. {
        let line = format!(
            "{{\"id\":\"msg_{id:08x}\",\"object\":\"text\",\"index\":{id},\"content\":\"The quick \
             brown fox, sk-eptical of keys & tokens, reads Bearer bonds at {id}%.\"}}\n"
        );
        text.extend_from_slice(line.as_bytes());
        if text.len() >= PIECE {
            break;
        }
    }
    text.truncate(PIECE);
    text.into()
});

/// Nanoseconds on the machine's clock, which both ends read.
pub(crate) fn now() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}

/// A body of the benchmark.
pub(crate) enum Body {
    /// One piece, or nothing.
    Whole(Option<Bytes>),
    /// So many bytes of text, of announced length.
    Text(u64),
    /// So many server-sent events, at an interval. Boxed: few bodies have a timer.
    Events(u32, Box<Interval>),
}

impl Body {
    /// No bytes.
    pub(crate) fn empty() -> Self {
        Self::Whole(None)
    }

    /// Events, each stamped with the time at which it was handed to the connection.
    pub(crate) fn events(count: u32, every: Duration) -> Self {
        let mut ticks = interval(every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self::Events(count, Box::new(ticks))
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Self::Whole(Some(bytes))
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let data = match &mut *self {
            Self::Whole(bytes) => bytes.take(),
            Self::Text(0) | Self::Events(0, _) => None,
            Self::Text(left) => {
                let length = (*left).min(PIECE as u64);
                *left -= length;
                // A piece is at most `PIECE` long, which is a `usize`.
                Some(TEXT.slice(..usize::try_from(length).unwrap_or(PIECE)))
            }
            Self::Events(left, ticks) => {
                ready!(ticks.poll_tick(cx));
                *left -= 1;
                Some(format!("data: {{\"sent\":{},\"delta\":\"token\"}}\n\n", now()).into())
            }
        };
        Poll::Ready(data.map(|data| Ok(Frame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(None) | Self::Text(0) | Self::Events(0, _))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64))
            }
            Self::Text(left) => SizeHint::with_exact(*left),
            Self::Events(..) => SizeHint::default(),
        }
    }
}
