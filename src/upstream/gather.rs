//! Reading on after a full piece, so that bulk costs one pass through the layers above for many
//! TLS records, and not one for each.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, ReadBuf};

/// What is shorter is all there is for now, as events and short answers are: looking for more would
/// find nothing.
const FULL: usize = 1024;

/// Reads a stream as far as it goes without waiting. TLS gives one record for each read, of 16 KiB
/// at most, whatever room there is.
#[derive(Default)]
pub struct Gather {
    /// What came after bytes, and is told after them. Told once: the stream itself may take the next
    /// read for an orderly end.
    failed: Option<io::Error>,
}

impl Gather {
    /// As [`AsyncRead::poll_read`] of `stream`. Waits only when there is nothing at all.
    pub fn poll_read<S: AsyncRead + Unpin>(
        &mut self,
        stream: &mut S,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(error) = self.failed.take() {
            return Poll::Ready(Err(error));
        }
        let mut before = buf.filled().len();
        ready!(Pin::new(&mut *stream).poll_read(cx, buf))?;
        while buf.remaining() > 0 && buf.filled().len() - before >= FULL {
            before = buf.filled().len();
            if let Poll::Ready(Err(error)) = Pin::new(&mut *stream).poll_read(cx, buf) {
                self.failed = Some(error);
            }
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;

    /// Gives one piece for each read; nothing more is the end.
    struct Records(VecDeque<Poll<io::Result<usize>>>);

    impl AsyncRead for Records {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buf: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            let Some(next) = self.0.pop_front() else { return Poll::Ready(Ok(())) };
            let length = ready!(next)?;
            assert!(length <= buf.remaining());
            buf.put_slice(&vec![b'x'; length]);
            Poll::Ready(Ok(()))
        }
    }

    fn record(length: usize) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(length))
    }

    /// What each read gives, until the end or an error.
    fn reads(
        records: impl IntoIterator<Item = Poll<io::Result<usize>>>,
    ) -> Vec<Result<usize, io::ErrorKind>> {
        let mut stream = Records(records.into_iter().collect());
        let mut gather = Gather::default();
        let mut space = vec![0; 40_000];
        let mut all = Vec::new();
        loop {
            let mut buf = ReadBuf::new(&mut space);
            let mut cx = Context::from_waker(std::task::Waker::noop());
            match gather.poll_read(&mut stream, &mut cx, &mut buf) {
                Poll::Ready(Ok(())) => all.push(Ok(buf.filled().len())),
                Poll::Ready(Err(error)) => all.push(Err(error.kind())),
                Poll::Pending => {}
            }
            if matches!(all.last(), Some(Ok(0) | Err(_))) {
                return all;
            }
        }
    }

    #[test]
    fn full_pieces_are_taken_together() {
        assert_eq!(reads([record(16_000), record(16_000), record(100)]), [Ok(32_100), Ok(0)]);
    }

    #[test]
    fn a_short_piece_is_the_last_one() {
        assert_eq!(reads([record(100), record(16_000)]), [Ok(100), Ok(16_000), Ok(0)]);
    }

    #[test]
    fn nothing_is_waited_for_once_there_is_something() {
        let records = [Poll::Pending, record(16_000), Poll::Pending, record(16_000)];
        assert_eq!(reads(records), [Ok(16_000), Ok(16_000), Ok(0)]);
    }

    #[test]
    fn an_error_comes_after_what_came_before_it() {
        let reset = io::ErrorKind::ConnectionAborted;
        assert_eq!(
            reads([record(16_000), Poll::Ready(Err(reset.into())), record(16_000)]),
            [Ok(16_000), Err(reset)]
        );
    }
}
