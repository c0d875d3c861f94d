//! The bytes below a connection to an origin: read as far as they go, ended from outside, and heard out.
//!
//! An origin may answer in the middle of an upload and close (`413`). What is sent to it after that is answered
//! by a reset, and the next write fails, while the answer waits to be read. So what an origin still says is read
//! before its end is believed.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::super::gather::Gather;
use super::super::leash::Leash;

/// A stream whose failed writes are told by its reads. A write fails because the other side has
/// gone, and then a read comes to the same end, after all that arrived before it.
pub(super) struct Wire<S> {
    pub(super) stream: S,
    gather: Gather,
    leash: Leash,
    /// Why a write failed. The system tells it once: the read after it could take the reset for an
    /// orderly end, and a cut answer for a whole one.
    failed: Option<io::ErrorKind>,
}

impl<S> Wire<S> {
    pub(super) fn new(stream: S, leash: Leash) -> Self {
        Self { stream, gather: Gather::default(), leash, failed: None }
    }

    /// A write that failed for a reason that a read will give too does not come back.
    fn wait_for_read<T>(&mut self, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        match written {
            Poll::Ready(Err(error))
                if matches!(
                    error.kind(),
                    io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset
                ) =>
            {
                self.failed = Some(error.kind());
                Poll::Pending
            }
            other => other,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Wire<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.leash.check()?;
        let before = buf.filled().len();
        let read = this.gather.poll_read(&mut this.stream, cx, buf);
        if read.is_pending() {
            this.leash.wait(cx)?;
        }
        ready!(read)?;
        match this.failed {
            Some(kind) if buf.filled().len() == before => Poll::Ready(Err(kind.into())),
            _ => Poll::Ready(Ok(())),
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Wire<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.leash.check()?;
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.wait_for_read(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.leash.check()?;
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.wait_for_read(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.leash.check()?;
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        self.wait_for_read(flushed)
    }

    /// Only asked for when the answer is over.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    /// Has something to say, and takes nothing.
    struct Gone {
        said: &'static [u8],
        write: io::ErrorKind,
    }

    impl AsyncRead for Gone {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buf: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            buf.put_slice(std::mem::take(&mut self.said));
            Poll::Ready(Ok(()))
        }
    }

    impl AsyncWrite for Gone {
        fn poll_write(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            _: &[u8],
        ) -> Poll<io::Result<usize>> {
            Poll::Ready(Err(self.write.into()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Err(self.write.into()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    fn wire(stream: Gone) -> Wire<Gone> {
        Wire::new(stream, Leash::default())
    }

    fn polled<T>(future: impl Future<Output = T>) -> Poll<T> {
        let mut future = std::pin::pin!(future);
        future.as_mut().poll(&mut Context::from_waker(std::task::Waker::noop()))
    }

    #[test]
    fn what_was_said_before_the_end_is_heard_and_the_end_is_no_orderly_one() {
        for kind in [io::ErrorKind::BrokenPipe, io::ErrorKind::ConnectionReset] {
            let mut stream = wire(Gone { said: b"413", write: kind });
            assert!(polled(stream.write_all(b"more")).is_pending());
            assert!(polled(stream.flush()).is_pending());
            let mut heard = [0; 8];
            assert!(matches!(polled(stream.read(&mut heard)), Poll::Ready(Ok(3))));
            let Poll::Ready(Err(end)) = polled(stream.read(&mut heard)) else { panic!("an end") };
            assert_eq!(end.kind(), kind);
        }
    }

    #[test]
    fn other_failures_are_told_at_once() {
        let kind = io::ErrorKind::TimedOut;
        let mut stream = wire(Gone { said: b"", write: kind });
        assert!(matches!(polled(stream.write(b"x")), Poll::Ready(Err(e)) if e.kind() == kind));
        assert!(matches!(polled(stream.read(&mut [0; 8])), Poll::Ready(Ok(0))));
    }
}
