//! The agent's connection, whichever door it came through.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::OwnedSemaphorePermit;

use crate::agent::certificate::ClientCertificate;
use crate::tls::{ListenerStream, ListenerTls, client_certificate};

/// A connection, with its place among `limits.connections`: the place is free again when the socket
/// is closed, be it by the HTTP layer or by the tunnel that took it over.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) io: Io,
    cut: Cut,
    _place: OwnedSemaphorePermit,
}

/// Has a connection end with a reset, and not in order: for an answer whose end is the connection's,
/// and which is not whole. A Unix socket knows no reset. Knows too how far its bytes are.
#[derive(Clone, Debug, Default)]
pub(super) struct Cut(Arc<Ends>);

#[derive(Debug, Default)]
struct Ends {
    reset: AtomicBool,
    written: AtomicU64,
    /// Whether the last bytes had to wait for the agent to read.
    full: AtomicBool,
}

impl Cut {
    /// From now on.
    pub(super) fn now(&self) {
        self.0.reset.store(true, Ordering::Relaxed);
    }

    /// How many bytes the connection has taken.
    pub(super) fn written(&self) -> u64 {
        self.0.written.load(Ordering::Relaxed)
    }

    /// Whether it takes no more for now.
    pub(super) fn is_full(&self) -> bool {
        self.0.full.load(Ordering::Relaxed)
    }

    /// What became of a write.
    pub(super) fn note(&self, wrote: &Poll<io::Result<usize>>) {
        match wrote {
            Poll::Ready(Ok(bytes)) => {
                self.0.written.fetch_add(*bytes as u64, Ordering::Relaxed);
                self.0.full.store(false, Ordering::Relaxed);
            }
            Poll::Ready(Err(_)) => self.0.full.store(false, Ordering::Relaxed),
            Poll::Pending => self.0.full.store(true, Ordering::Relaxed),
        }
    }
}

/// What the bytes move on.
#[derive(Debug)]
pub(super) enum Io {
    Tcp(TcpStream),
    Unix(UnixStream),
    /// TLS to the proxy itself. Boxed: its state is a kilobyte, and the other two are a few words.
    Tls(Box<ListenerStream<TcpStream>>),
}

impl Io {
    /// The certificate that the agent showed at the door, if it has TLS; and the door's generation from
    /// before that.
    pub(super) fn certificate(
        &self,
        door: Option<(&Arc<ListenerTls>, u64)>,
    ) -> Option<ClientCertificate> {
        let (door, since) = door?;
        match self {
            Self::Tls(tls) => client_certificate(tls, door, since),
            Self::Tcp(_) | Self::Unix(_) => None,
        }
    }
}

impl Stream {
    pub(super) fn new(io: Io, place: OwnedSemaphorePermit) -> Self {
        Self { io, cut: Cut::default(), _place: place }
    }

    /// What ends it with a reset.
    pub(super) fn cut(&self) -> Cut {
        self.cut.clone()
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if !self.cut.0.reset.load(Ordering::Relaxed) {
            return;
        }
        let tcp = match &self.io {
            Io::Tcp(tcp) => tcp,
            Io::Tls(tls) => tls.get_ref().0,
            Io::Unix(_) => return,
        };
        // Closed with a linger of zero, TCP sends RST (POSIX leaves it open; all systems do it).
        if let Err(error) = tcp.set_zero_linger() {
            tracing::debug!(%error, "a connection that was cut could not be reset");
        }
    }
}

/// Calls a method of whatever stream it is.
macro_rules! each {
    ($this:expr, $stream:ident => $call:expr) => {
        match &mut $this.io {
            Io::Tcp($stream) => $call,
            Io::Unix($stream) => $call,
            Io::Tls($stream) => $call,
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        each!(self.get_mut(), stream => Pin::new(stream).poll_read(cx, buf))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let wrote = each!(this, stream => Pin::new(stream).poll_write(cx, bytes));
        this.cut.note(&wrote);
        wrote
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let wrote = each!(this, stream => Pin::new(stream).poll_write_vectored(cx, bytes));
        this.cut.note(&wrote);
        wrote
    }

    fn is_write_vectored(&self) -> bool {
        match &self.io {
            Io::Tcp(stream) => stream.is_write_vectored(),
            Io::Unix(stream) => stream.is_write_vectored(),
            Io::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self.get_mut(), stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self.get_mut(), stream => Pin::new(stream).poll_shutdown(cx))
    }
}
