//! Moving bytes from one socket to another within the kernel (`splice(2)`), through a pipe that is
//! lent for as long as bytes are in it.

use std::cell::RefCell;
use std::io;
use std::os::fd::OwnedFd;
use std::task::{Context, Poll, ready};

use rustix::pipe::{PipeFlags, SpliceFlags, pipe_with, splice};
use tokio::io::Interest;
use tokio::net::TcpStream;

/// The most that is asked for at once. More than a pipe holds, whose 16 places take a page or a
/// fragment of up to 32 KiB each.
const AT_ONCE: usize = 1 << 20;

/// Empty pipes that a thread keeps: making one costs two calls, and few tunnels move bytes in bulk
/// at the same moment on one thread.
const KEPT: usize = 8;

thread_local! {
    static EMPTY: RefCell<Vec<Pipe>> = const { RefCell::new(Vec::new()) };
}

/// A pipe, and how much is in it.
#[derive(Debug)]
pub(super) struct Pipe {
    out: OwnedFd,
    into: OwnedFd,
    held: usize,
}

impl Pipe {
    /// One that is empty; none when there are no descriptors left.
    pub(super) fn lend() -> Option<Self> {
        EMPTY.with_borrow_mut(Vec::pop).or_else(|| {
            let (out, into) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).ok()?;
            Some(Self { out, into, held: 0 })
        })
    }

    /// Gives it back. One with bytes in it is closed: they are nobody's any more.
    pub(super) fn give_back(self) {
        if self.held == 0 {
            EMPTY.with_borrow_mut(|empty| {
                if empty.len() < KEPT {
                    empty.push(self);
                }
            });
        }
    }

    /// Takes what `from` has: so many bytes, or 0 at its end. It must be ready to be read, and the
    /// pipe empty. `WouldBlock` when it was not, and then its readiness is forgotten.
    pub(super) fn fill(&mut self, from: &TcpStream) -> io::Result<usize> {
        let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
        let moved = from.try_io(Interest::READABLE, || {
            Ok(splice(from, None, &self.into, None, AT_ONCE, flags)?)
        })?;
        self.held += moved;
        Ok(moved)
    }

    /// Passes on what it holds; how much went. Ready when it is empty.
    pub(super) fn poll_drain(
        &mut self,
        cx: &mut Context<'_>,
        to: &TcpStream,
        mut moved: impl FnMut(usize),
    ) -> Poll<io::Result<()>> {
        let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
        while self.held > 0 {
            ready!(to.poll_write_ready(cx))?;
            let went = to.try_io(Interest::WRITABLE, || {
                Ok(splice(&self.out, None, to, None, self.held, flags)?)
            });
            match went {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(went) => {
                    self.held -= went;
                    moved(went);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// How many this thread keeps.
#[cfg(test)]
pub(super) fn kept() -> usize {
    EMPTY.with_borrow(Vec::len)
}
