//! A connection whose peer has to read what is written to it: there are few, and one that never reads would
//! keep its place for good.

use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

/// Fails when what is to be written does not go within a time, from the first of it that has to wait to the
/// last of it: a peer that takes a byte now and then wins nothing.
pub(super) struct Timed<S> {
    inner: S,
    most: Duration,
    alarm: Option<Pin<Box<Sleep>>>,
}

impl<S> Timed<S> {
    pub(super) fn new(inner: S, most: Duration) -> Self {
        Self { inner, most, alarm: None }
    }

    fn timed<T>(
        &mut self,
        cx: &mut Context<'_>,
        result: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if result.is_ready() {
            return result;
        }
        let alarm = self.alarm.get_or_insert_with(|| Box::pin(sleep(self.most)));
        match alarm.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Timed<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Timed<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.inner).poll_write(cx, buf);
        self.timed(cx, result)
    }

    /// hyper flushes when it has nothing more to write.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.inner).poll_flush(cx);
        if result.is_ready() {
            self.alarm = None;
        }
        self.timed(cx, result)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.inner).poll_shutdown(cx);
        self.timed(cx, result)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    const MOST: Duration = Duration::from_secs(30);

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_never_reads_or_reads_a_byte_now_and_then_is_let_go() {
        let (near, mut far) = tokio::io::duplex(64);
        let mut timed = Timed::new(near, MOST);
        let begun = tokio::time::Instant::now();
        let trickle = tokio::spawn(async move {
            for _ in 0..100 {
                tokio::time::sleep(Duration::from_secs(5)).await;
                let _gone = far.read_u8().await;
            }
        });
        let failed = timed.write_all(&[0; 1000]).await.unwrap_err();
        assert_eq!((failed.kind(), begun.elapsed()), (io::ErrorKind::TimedOut, MOST));
        trickle.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_reads_each_answer_stays() {
        let (near, mut far) = tokio::io::duplex(64);
        let mut timed = Timed::new(near, MOST);
        for _ in 0..4 {
            let write = async {
                timed.write_all(&[0; 100]).await.unwrap();
                timed.flush().await.unwrap();
            };
            let read = async {
                tokio::time::sleep(MOST.mul_f32(0.9)).await;
                far.read_exact(&mut [0; 100]).await.unwrap();
            };
            tokio::join!(write, read);
        }
    }
}
