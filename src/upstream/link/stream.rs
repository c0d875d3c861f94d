//! What a connection to an origin is made of: a socket, with TLS or in the clear.

use std::io;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::super::trust::agreed_on_http2;
use super::super::via::Transport;

/// The bytes below HTTP.
pub(in crate::upstream) enum Stream {
    /// In the clear.
    Plain(Transport),
    /// Verified TLS. Boxed: its state is some ten times that of a socket.
    Tls(Box<TlsStream<Transport>>),
    /// A pipe of the tests.
    #[cfg(test)]
    Memory(tokio::io::DuplexStream),
}

impl Stream {
    /// Whether its TLS agreed on HTTP/2.
    pub(in crate::upstream) fn is_http2(&self) -> bool {
        matches!(self, Self::Tls(tls) if agreed_on_http2(tls))
    }

    /// Has this thread's runtime wait for the socket, in place of the one that did.
    pub(super) fn enter_this_runtime(&mut self) -> io::Result<()> {
        let socket = match self {
            Self::Plain(transport) => transport.socket(),
            Self::Tls(tls) => tls.get_mut().0.socket(),
            #[cfg(test)]
            Self::Memory(_) => return Ok(()),
        };
        // Under another number: the old one is still with the old runtime until it is dropped.
        let again = socket.as_fd().try_clone_to_owned()?;
        *socket = TcpStream::from_std(again.into())?;
        Ok(())
    }
}

/// Calls the same method of whichever stream it is.
macro_rules! either {
    ($self:ident.$method:ident($($argument:expr),*)) => {
        match $self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).$method($($argument),*),
            Self::Tls(stream) => Pin::new(stream).$method($($argument),*),
            #[cfg(test)]
            Self::Memory(stream) => Pin::new(stream).$method($($argument),*),
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        either!(self.poll_read(cx, buf))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        either!(self.poll_write(cx, buf))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self.poll_shutdown(cx))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        either!(self.poll_write_vectored(cx, bufs))
    }

    /// Both kinds do it well: a socket by `writev`, rustls by gathering into one record.
    fn is_write_vectored(&self) -> bool {
        true
    }
}
