//! Copying a tunnel both ways, without a buffer of its own while nothing moves.
//!
//! What is read goes through a buffer of the thread and is written at once; only what the other side
//! does not take is kept. Where both sides are TCP and a lot moves, the kernel moves it.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::ledger::Uploaded;
#[cfg(target_os = "linux")]
use super::splice::Pipe;
use super::stream::{Io, Stream};
use crate::outcome::Ending;
use crate::upstream::Transport;

/// What is read at once. A larger one costs an idle tunnel nothing, as there is one for each thread.
const BUFFER: usize = 64 * 1024;

/// From here on a read is one of many: the next ones are left to the kernel.
const BULK: usize = 32 * 1024;

/// Below, two calls into the kernel cost more than one copy through a buffer.
const SMALL: usize = 16 * 1024;

thread_local! {
    static SHARED: RefCell<Box<[u8]>> = RefCell::new(vec![0; BUFFER].into_boxed_slice());
}

/// A stream of a tunnel.
pub(super) trait End: AsyncRead + AsyncWrite + Unpin {
    /// The socket itself, where nothing stands between it and the bytes.
    fn tcp(&self) -> Option<&TcpStream>;
}

impl End for Transport {
    fn tcp(&self) -> Option<&TcpStream> {
        match self {
            Self::Tcp(stream) => Some(stream),
            Self::Tls(_) => None,
        }
    }
}

impl End for Stream {
    fn tcp(&self) -> Option<&TcpStream> {
        match &self.io {
            Io::Tcp(stream) => Some(stream),
            Io::Unix(_) | Io::Tls(_) => None,
        }
    }
}

/// Copies until both sides have ended, each passing the other's end on. `early` came from downstream
/// before. What went up and down is counted as it goes.
pub(super) async fn copy<D: End, U: End>(
    mut downstream: D,
    early: Vec<u8>,
    mut upstream: U,
    (up, down): (Uploaded, Uploaded),
) -> Ending {
    let mut upward = Way::new(early, up);
    let mut downward = Way::new(Vec::new(), down);
    let copied = poll_fn(|cx| {
        // Both are asked each time: either may be why we were woken.
        let up = upward.poll(cx, &mut downstream, &mut upstream);
        let up = up.map_err(|side| side.ending(Ending::DownstreamAborted, Ending::UpstreamAborted));
        let up = match up {
            Poll::Ready(Err(ending)) => return Poll::Ready(Err(ending)),
            other => other.is_ready(),
        };
        let down = downward.poll(cx, &mut upstream, &mut downstream);
        let down = ready!(down)
            .map_err(|side| side.ending(Ending::UpstreamAborted, Ending::DownstreamAborted));
        match down {
            Ok(()) if !up => Poll::Pending,
            done => Poll::Ready(done),
        }
    });
    copied.await.err().unwrap_or(Ending::Complete)
}

/// Which side of a way broke.
enum Broken {
    From,
    To,
}

impl Broken {
    fn ending(&self, from: Ending, to: Ending) -> Ending {
        match self {
            Self::From => from,
            Self::To => to,
        }
    }
}

/// One direction.
struct Way {
    /// Read, and not taken by the other side yet.
    kept: Vec<u8>,
    sent: usize,
    /// Whether the last reads were large.
    bulk: bool,
    #[cfg(target_os = "linux")]
    pipe: Option<Pipe>,
    moved: Uploaded,
    unflushed: bool,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Copying,
    /// `from` has ended, and `to` is being told.
    Ending,
    Done,
}

impl Way {
    fn new(early: Vec<u8>, moved: Uploaded) -> Self {
        Self {
            unflushed: !early.is_empty(),
            kept: early,
            sent: 0,
            bulk: false,
            #[cfg(target_os = "linux")]
            pipe: None,
            moved,
            state: State::Copying,
        }
    }

    /// Ready when `from` has ended and `to` knows.
    fn poll<F: End, T: End>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut F,
        to: &mut T,
    ) -> Poll<Result<(), Broken>> {
        while self.state == State::Copying {
            ready!(self.poll_kept(cx, to)).map_err(|_| Broken::To)?;
            #[cfg(target_os = "linux")]
            if self.bulk
                && let (Some(from), Some(to)) = (from.tcp(), to.tcp())
            {
                ready!(self.poll_spliced(cx, from, to))?;
                continue;
            }
            ready!(self.poll_buffered(cx, from, to))?;
        }
        if self.state == State::Ending {
            ready!(Pin::new(to).poll_shutdown(cx)).map_err(|_| Broken::To)?;
            self.state = State::Done;
        }
        Poll::Ready(Ok(()))
    }

    /// Sends what is kept. Its memory goes with it.
    fn poll_kept<T: End>(&mut self, cx: &mut Context<'_>, to: &mut T) -> Poll<io::Result<()>> {
        while self.sent < self.kept.len() {
            let sent = ready!(Pin::new(&mut *to).poll_write(cx, &self.kept[self.sent..]))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.sent += sent;
            self.moved.add(sent);
        }
        (self.kept, self.sent) = (Vec::new(), 0);
        Poll::Ready(Ok(()))
    }

    /// One read, and what the other side takes of it at once.
    fn poll_buffered<F: End, T: End>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut F,
        to: &mut T,
    ) -> Poll<Result<(), Broken>> {
        SHARED.with_borrow_mut(|shared| {
            let mut buffer = ReadBuf::new(shared);
            match Pin::new(from).poll_read(cx, &mut buffer) {
                Poll::Ready(read) => read.map_err(|_| Broken::From)?,
                Poll::Pending => return self.poll_flush(cx, to),
            }
            let read = buffer.filled();
            if read.is_empty() {
                self.state = State::Ending;
                return Poll::Ready(Ok(()));
            }
            self.bulk = read.len() >= BULK;
            self.unflushed = true;
            let sent = match Pin::new(to).poll_write(cx, read) {
                Poll::Ready(sent) => sent.map_err(|_| Broken::To)?,
                Poll::Pending => 0,
            };
            self.moved.add(sent);
            self.kept.extend_from_slice(&read[sent..]);
            Poll::Ready(Ok(()))
        })
    }

    /// Before waiting for more, what was written is seen on its way. Never ready but with an error:
    /// there is nothing to read.
    fn poll_flush<T: End>(&mut self, cx: &mut Context<'_>, to: &mut T) -> Poll<Result<(), Broken>> {
        if self.unflushed {
            ready!(Pin::new(to).poll_flush(cx)).map_err(|_| Broken::To)?;
            self.unflushed = false;
        }
        Poll::Pending
    }

    /// One turn through a pipe.
    #[cfg(target_os = "linux")]
    fn poll_spliced(
        &mut self,
        cx: &mut Context<'_>,
        from: &TcpStream,
        to: &TcpStream,
    ) -> Poll<Result<(), Broken>> {
        if self.pipe.is_none() {
            // No pipe is held while there is nothing to put into it.
            ready!(from.poll_read_ready(cx)).map_err(|_| Broken::From)?;
            let Some(mut pipe) = Pipe::lend() else {
                self.bulk = false;
                return Poll::Ready(Ok(()));
            };
            match pipe.fill(from) {
                Ok(0) => self.state = State::Ending,
                Ok(filled) => self.bulk = filled >= SMALL,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // A kernel, or a sandbox in its place, that cannot do this: through the buffer, where
                // a real error of the socket shows again.
                Err(_) => self.bulk = false,
            }
            self.pipe = Some(pipe);
        }
        if let Some(pipe) = &mut self.pipe {
            let moved = &self.moved;
            ready!(pipe.poll_drain(cx, to, |bytes| moved.add(bytes))).map_err(|_| Broken::To)?;
        }
        self.pipe.take().into_iter().for_each(Pipe::give_back);
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
    use tokio::net::TcpListener;

    use super::*;

    impl End for TcpStream {
        fn tcp(&self) -> Option<&TcpStream> {
            Some(self)
        }
    }

    impl End for DuplexStream {
        fn tcp(&self) -> Option<&TcpStream> {
            None
        }
    }

    /// Two ends of one TCP connection.
    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap());
        let (near, far) = tokio::join!(near, listener.accept());
        (near.unwrap(), far.unwrap().0)
    }

    /// Bytes that tell their place.
    fn bytes(count: usize) -> Vec<u8> {
        (0..count).map(|at| (at.wrapping_mul(31) >> 3) as u8).collect()
    }

    /// Sends so much both ways at once, in pieces of this size, and compares what comes.
    async fn exchange<A, B>(client: A, origin: B, early: &[u8], count: usize, piece: usize)
    where
        A: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        B: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let send = |mut to: tokio::io::WriteHalf<A>, data: Vec<u8>| async move {
            for piece in data.chunks(piece) {
                to.write_all(piece).await.unwrap();
                to.flush().await.unwrap();
            }
            to.shutdown().await.unwrap();
        };
        let ((mut down, up), (mut far_down, mut far_up)) =
            (tokio::io::split(client), tokio::io::split(origin));
        let data = bytes(count);
        let (mut got_up, mut got_down) = (Vec::new(), Vec::new());
        let back = data.clone();
        tokio::join!(
            send(up, data.clone()),
            async {
                for piece in back.chunks(piece) {
                    far_up.write_all(piece).await.unwrap();
                }
                far_up.shutdown().await.unwrap();
            },
            async { far_down.read_to_end(&mut got_up).await.unwrap() },
            async { down.read_to_end(&mut got_down).await.unwrap() },
        );
        assert!(got_up.strip_prefix(early) == Some(&data), "what went up");
        assert!(got_down == data, "what went down");
    }

    #[tokio::test]
    async fn all_of_it_arrives_whatever_the_sizes() {
        for (count, piece) in [(0, 1), (1, 1), (5_000, 7), (300_000, 4_000), (9_000_000, 900_000)] {
            let (client, near) = pair().await;
            let (far, origin) = pair().await;
            let (up, down) = (Uploaded::counting(), Uploaded::counting());
            let counts = (up.clone(), down.clone());
            let copying = tokio::spawn(copy(near, b"early".to_vec(), far, counts));
            exchange(client, origin, b"early", count, piece).await;
            assert_eq!(copying.await.unwrap(), Ending::Complete);
            assert_eq!((up.bytes(), down.bytes()), (count as u64 + 5, count as u64));
            // The same where the kernel cannot do it, and with a reader that takes little at a time.
            let (client, near) = duplex(1_000);
            let (far, origin) = duplex(64);
            let counts = (Uploaded::counting(), Uploaded::counting());
            let copying = tokio::spawn(copy(near, Vec::new(), far, counts));
            exchange(client, origin, b"", count.min(300_000), piece).await;
            assert_eq!(copying.await.unwrap(), Ending::Complete);
        }
    }

    #[tokio::test]
    async fn one_side_may_end_long_before_the_other() {
        let (mut client, near) = pair().await;
        let (far, mut origin) = pair().await;
        let counts = (Uploaded::counting(), Uploaded::counting());
        let copying = tokio::spawn(copy(near, Vec::new(), far, counts));
        client.write_all(&bytes(200_000)).await.unwrap();
        client.shutdown().await.unwrap();
        let mut all = Vec::new();
        origin.read_to_end(&mut all).await.unwrap();
        assert!(all == bytes(200_000));
        origin.write_all(&bytes(2_000_000)).await.unwrap();
        drop(origin);
        let mut all = Vec::new();
        client.read_to_end(&mut all).await.unwrap();
        assert!(all == bytes(2_000_000));
        assert_eq!(copying.await.unwrap(), Ending::Complete);
    }

    /// Whoever reads slowly slows the sender, and is not read ahead of.
    #[tokio::test]
    async fn a_slow_reader_is_waited_for() {
        let (mut client, near) = pair().await;
        let (far, mut origin) = pair().await;
        let (up, down) = (Uploaded::counting(), Uploaded::counting());
        let counts = (up, down.clone());
        let copying = tokio::spawn(copy(near, Vec::new(), far, counts));
        let sending = tokio::spawn(async move {
            origin.write_all(&bytes(64 << 20)).await.unwrap();
        });
        // As much as the buffers of four sockets and a pipe hold, and no more.
        let mut before = u64::MAX;
        while down.bytes() != before {
            before = down.bytes();
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert!(before < 32 << 20, "{before}");
        let mut all = Vec::new();
        client.read_to_end(&mut all).await.unwrap();
        assert!(all == bytes(64 << 20));
        sending.await.unwrap();
        drop(client);
        let _ending = copying.await.unwrap();
    }

    #[tokio::test]
    async fn who_breaks_off_is_told() {
        for (agent_breaks, ending) in
            [(true, Ending::DownstreamAborted), (false, Ending::UpstreamAborted)]
        {
            let (client, near) = pair().await;
            let (far, origin) = pair().await;
            let counts = (Uploaded::counting(), Uploaded::counting());
            let copying = tokio::spawn(copy(near, Vec::new(), far, counts));
            let (breaks, mut stays) =
                if agent_breaks { (client, origin) } else { (origin, client) };
            stays.write_all(b"unread").await.unwrap();
            breaks.peek(&mut [0]).await.unwrap();
            // Closing with unread bytes is a reset.
            drop(breaks);
            assert_eq!(copying.await.unwrap(), ending);
        }
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn a_pipe_is_lent_for_what_is_large_and_given_back() {
        let (mut client, near) = pair().await;
        let (far, mut origin) = pair().await;
        let counts = (Uploaded::counting(), Uploaded::counting());
        let copying = copy(near, Vec::new(), far, counts);
        let using = async {
            origin.write_all(b"little").await.unwrap();
            client.read_exact(&mut [0; 6]).await.unwrap();
            assert_eq!(crate::proxy::splice::kept(), 0, "a little goes without one");
            for _ in 0..50 {
                let sent = bytes(500_000);
                let mut got = vec![0; sent.len()];
                tokio::join!(async { origin.write_all(&sent).await.unwrap() }, async {
                    client.read_exact(&mut got).await.unwrap()
                },);
                assert!(got == sent);
            }
            // At rest the thread has it again, and one was enough.
            assert_eq!(crate::proxy::splice::kept(), 1);
            drop((client, origin));
        };
        let (ending, ()) = tokio::join!(copying, using);
        assert_eq!(ending, Ending::Complete);
    }
}
