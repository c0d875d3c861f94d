//! What a client speaks inside its tunnel, told from its first byte without losing it.
//!
//! A CONNECT is nearly always followed by TLS. undici sends plain HTTP through a CONNECT to port
//! 80, some protocols send a banner, and some wait for the server to speak first.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

/// Holds any `ClientHello` with a hybrid key share (about 1.8 kB) whole, so that the handshake does
/// not read again. What the TLS library reads at a time; freed once it has been read again.
const READ_BYTES: usize = 4096;

/// The TLS record type of a handshake message (RFC 8446 section 5.1): a `ClientHello`'s first byte.
const TLS_HANDSHAKE: u8 = 22;

/// What the first byte says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FirstByte {
    /// A TLS handshake record.
    Tls,
    /// A capital letter, as every HTTP method in use begins (also the HTTP/2 preface, and a banner
    /// such as `SSH-2.0`, which the HTTP parser then refuses).
    Http,
    /// Neither.
    Other,
    /// The client closed, or the connection broke, before it sent anything.
    Closed,
    /// Nothing came within the limit: gone, or waiting for the server to speak.
    Silent,
}

impl FirstByte {
    fn of(bytes: &[u8]) -> Self {
        match bytes.first() {
            None => Self::Closed,
            Some(&TLS_HANDSHAKE) => Self::Tls,
            Some(byte) if byte.is_ascii_uppercase() => Self::Http,
            Some(_) => Self::Other,
        }
    }
}

/// Waits for the first byte, `limit` at most, and gives the stream back with nothing lost.
pub async fn first_byte<S>(mut stream: S, limit: Duration) -> (FirstByte, Prefixed<S>)
where
    S: AsyncRead + Unpin,
{
    let mut bytes = vec![0; READ_BYTES];
    let read = tokio::time::timeout(limit, stream.read(&mut bytes)).await;
    let (first, length) = match read {
        Ok(Ok(length)) => (FirstByte::of(&bytes[..length]), length),
        Ok(Err(_)) => (FirstByte::Closed, 0),
        Err(_) => (FirstByte::Silent, 0),
    };
    bytes.truncate(length);
    if bytes.is_empty() {
        bytes = Vec::new();
    }
    (first, Prefixed::new(bytes, stream))
}

/// A stream with bytes put back in front of it. Reads give those first; writes go straight through,
/// vectored ones too.
#[derive(Debug)]
pub struct Prefixed<S> {
    /// Emptied and freed when it has been read.
    prefix: Vec<u8>,
    read: usize,
    inner: S,
}

impl<S> Prefixed<S> {
    /// Puts `prefix` in front of `inner`.
    #[must_use]
    pub fn new(prefix: Vec<u8>, inner: S) -> Self {
        Self { prefix, read: 0, inner }
    }

    /// The bytes that were not read again, and the stream: for copying a tunnel without this layer.
    #[must_use]
    pub fn into_parts(mut self) -> (Vec<u8>, S) {
        (self.prefix.split_off(self.read), self.inner)
    }

    /// The stream below.
    #[must_use]
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// Moves what is left of the prefix into `buf`, as far as it fits.
    fn replay(&mut self, buf: &mut ReadBuf<'_>) {
        let left = &self.prefix[self.read..];
        let length = left.len().min(buf.remaining());
        buf.put_slice(&left[..length]);
        self.read += length;
        if self.read == self.prefix.len() {
            self.prefix = Vec::new();
            self.read = 0;
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Prefixed<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.prefix.is_empty() {
            return Pin::new(&mut self.inner).poll_read(cx, buf);
        }
        self.replay(buf);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Prefixed<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    /// What is seen of a client that sends `bytes` and closes, and all that can be read after.
    async fn seen(bytes: &[u8]) -> (FirstByte, Vec<u8>) {
        let (mut client, server) = tokio::io::duplex(64 * 1024);
        client.write_all(bytes).await.unwrap();
        drop(client);
        let (first, mut stream) = first_byte(server, LIMIT).await;
        let mut all = Vec::new();
        stream.read_to_end(&mut all).await.unwrap();
        (first, all)
    }

    #[tokio::test]
    async fn the_first_byte_tells_and_nothing_is_lost() {
        let long = [&b"POST / HTTP/1.1\r\n\r\n"[..], &[7; 10_000]].concat();
        for (bytes, first) in [
            (&b"\x16\x03\x01\x02\x00"[..], FirstByte::Tls),
            (b"\x16", FirstByte::Tls),
            (b"GET / HTTP/1.1\r\n\r\n", FirstByte::Http),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", FirstByte::Http),
            (&long, FirstByte::Http),
            (b"SSH-2.0-x\r\n", FirstByte::Http),
            (b"\0\0\0\x08", FirstByte::Other),
            (b"\x80\x2e\x01", FirstByte::Other),
            (b"get / HTTP/1.1\r\n\r\n", FirstByte::Other),
            (b"", FirstByte::Closed),
        ] {
            assert_eq!(seen(bytes).await, (first, bytes.to_vec()));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_waits_is_silent_and_keeps_its_stream() {
        let (mut client, server) = tokio::io::duplex(64);
        let begin = tokio::time::Instant::now();
        let (first, mut stream) = first_byte(server, LIMIT).await;
        assert_eq!((first, begin.elapsed()), (FirstByte::Silent, LIMIT));
        assert_eq!(stream.prefix.capacity(), 0);
        client.write_all(b"late").await.unwrap();
        let mut late = [0; 4];
        stream.read_exact(&mut late).await.unwrap();
        assert_eq!(&late, b"late");
    }

    #[tokio::test]
    async fn the_prefix_is_read_in_pieces_and_given_up_in_parts() {
        let mut stream = Prefixed::new(b"abcdef".to_vec(), &b"ghi"[..]);
        let mut two = [0; 2];
        stream.read_exact(&mut two).await.unwrap();
        assert_eq!(&two, b"ab");
        let (left, inner) = stream.into_parts();
        assert_eq!((&left[..], inner), (&b"cdef"[..], &b"ghi"[..]));

        let mut stream = Prefixed::new(b"abc".to_vec(), &b"def"[..]);
        let mut all = String::new();
        stream.read_to_string(&mut all).await.unwrap();
        assert_eq!(all, "abcdef");
        assert_eq!(stream.prefix.capacity(), 0, "freed once it was read");
    }

    #[tokio::test]
    async fn writes_go_through_vectored() {
        let (near, mut far) = tokio::io::duplex(64);
        let vectored = near.is_write_vectored();
        let mut stream = Prefixed::new(b"unread".to_vec(), near);
        assert_eq!(stream.is_write_vectored(), vectored);
        let pieces = [IoSlice::new(b"one "), IoSlice::new(b"two")];
        assert_eq!(stream.write_vectored(&pieces).await.unwrap(), 7);
        stream.shutdown().await.unwrap();
        let mut all = String::new();
        far.read_to_string(&mut all).await.unwrap();
        assert_eq!(all, "one two");
    }
}
