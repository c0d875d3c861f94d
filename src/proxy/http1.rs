//! An agent's HTTP/1.1 connection: hyper's, the clocks that bound it, and two ways out of it.
//!
//! hyper serves while there is something to serve. A connection that says nothing for a while is
//! taken apart, and only its stream is kept until the next byte comes: most connections of agents
//! wait most of the time, and hyper's buffers are two thirds of what one of them costs.
//!
//! hyper's own clock for heads counts from the end of the last answer, so that it cannot tell a slow
//! head from a patient client, and it makes a timer for each request. Here a head has its time from
//! its first byte on, and a timer is set about once a second however many requests there are.

use std::io;
use std::mem::MaybeUninit;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::http1::Builder;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until, timeout};

use super::body::Body;
use super::signal::Signal;

/// How long a connection says nothing before it is taken apart. Longer than a client needs that has
/// its next request ready; shorter than a model thinks. To put a connection together again costs a
/// microsecond; to keep the buffers of each would cost 24 KiB.
const QUIET: Duration = Duration::from_millis(50);

/// The most that is read of the next request to see that there is one.
const FIRST_BYTES: usize = 512;

/// What bounds a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Bytes of a head.
    pub(super) head_bytes: usize,
    /// Fields of a head.
    pub(super) headers: usize,
    /// From the first byte of a head to its end.
    pub(super) head_time: Duration,
    /// For the first byte of a head.
    pub(super) idle: Duration,
}

/// How a connection ended.
pub(super) enum Ended<S> {
    /// By either side, in order, or by a clock.
    Closed,
    /// An answer switched protocols: here is the stream, what had been read of it already, and who
    /// goes on with it.
    Switched {
        /// The stream. The answer's head has been written to it.
        stream: S,
        /// What the client sent right behind its request.
        unread: Bytes,
    },
}

/// Serves `stream` until it ends, answering each request with `answer`. When `stop` is given, the
/// request in flight is the last one.
///
/// # Errors
/// When the client broke the protocol or the connection.
pub(super) async fn serve<S, A, F>(
    stream: S,
    bounds: Bounds,
    mut stop: Signal,
    answer: A,
) -> hyper::Result<Ended<S>>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
    A: Fn(Request<Incoming>) -> F,
    F: Future<Output = Response<Body>>,
{
    let mut stream = Some((stream, Bytes::new()));
    while let Some((next, unread)) = stream.take() {
        // A box, so that a connection that waits is not as large as one that serves.
        match Box::pin(active(next, unread, bounds, &mut stop, &answer)).await? {
            Active::Ended(ended) => return Ok(ended),
            Active::Quiet(quiet) => stream = wait(quiet, bounds.idle, &mut stop).await,
        }
    }
    Ok(Ended::Closed)
}

/// Waits for the first bytes of the next request. None when there will be none.
async fn wait<S>(mut stream: S, idle: Duration, stop: &mut Signal) -> Option<(S, Bytes)>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let first = std::future::poll_fn(|cx| {
        if stop.poll(cx).is_ready() {
            return Poll::Ready(Bytes::new());
        }
        poll_first(&mut stream, cx)
    });
    let first = timeout(idle, first).await.unwrap_or_default();
    if first.is_empty() {
        // In TLS this says that nothing was cut off. Whether the client hears it is its own matter.
        let _gone = stream.shutdown().await;
        return None;
    }
    Some((stream, first))
}

/// Nothing at the end of the stream, and when it broke.
fn poll_first<S: AsyncRead + Unpin>(stream: &mut S, cx: &mut Context<'_>) -> Poll<Bytes> {
    // On the stack, and only while it is looked at: a place in the future would be there for as long
    // as the connection waits.
    let mut space = [MaybeUninit::<u8>::uninit(); FIRST_BYTES];
    let mut first = ReadBuf::uninit(&mut space);
    let _broken = ready!(Pin::new(stream).poll_read(cx, &mut first));
    Poll::Ready(Bytes::copy_from_slice(first.filled()))
}

/// How a connection stopped being served.
enum Active<S> {
    Ended(Ended<S>),
    /// All is answered, all is written, and nothing comes.
    Quiet(S),
}

/// Serves requests, of the first of which `unread` was read already, until there are none for
/// [`QUIET`].
async fn active<S, A, F>(
    stream: S,
    unread: Bytes,
    bounds: Bounds,
    stop: &mut Signal,
    answer: &A,
) -> hyper::Result<Active<S>>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
    A: Fn(Request<Incoming>) -> F,
    F: Future<Output = Response<Body>>,
{
    let state = Arc::new(State::default());
    state.head.store(!unread.is_empty(), Relaxed);
    let service = service_fn(|request: Request<Incoming>| {
        let busy = Busy::new(&state);
        let connect = *request.method() == Method::CONNECT;
        // Called within: what is captured has a place of its own beside what is awaited.
        async move {
            let mut response = answer(request).await;
            let status = response.status();
            if status == StatusCode::SWITCHING_PROTOCOLS || connect && status.is_success() {
                busy.0.switched.store(true, Relaxed);
            }
            response.body_mut().keep_busy(busy);
            Ok::<_, std::convert::Infallible>(response)
        }
    });
    let stream = Watched { inner: stream, unread, state: Arc::clone(&state) };
    let mut connection = settings(bounds).serve_connection(TokioIo::new(stream), service);
    let mut clock = Clock::new(&state, bounds);
    let mut sleep = pin!(sleep_until(Instant::now() + QUIET.min(bounds.head_time)));
    let mut stopping = false;
    let ended = std::future::poll_fn(|cx| {
        if !stopping && stop.poll(cx).is_ready() {
            stopping = true;
            Pin::new(&mut connection).graceful_shutdown();
        }
        if let Poll::Ready(ended) = Pin::new(&mut connection).poll(cx) {
            return Poll::Ready(ended.map(|()| None));
        }
        clock.poll(sleep.as_mut(), cx).map(|over| Ok(Some(over)))
    })
    .await?;
    let switched = state.switched.load(Relaxed);
    match ended {
        None if !switched => return Ok(Active::Ended(Ended::Closed)),
        Some(Over::Time) => return Ok(Active::Ended(Ended::Closed)),
        None | Some(Over::Quiet) => {}
    }
    let parts = connection.into_parts();
    let Watched { inner, unread, .. } = parts.io.into_inner();
    // At most one of the two has bytes: what was put back is read before anything else is.
    let unread = if unread.is_empty() { parts.read_buf } else { unread };
    Ok(if switched {
        Active::Ended(Ended::Switched { stream: inner, unread })
    } else {
        Active::Quiet(inner)
    })
}

fn settings(bounds: Bounds) -> Builder {
    let mut builder = Builder::new();
    builder
        .header_read_timeout(None)
        .max_buf_size(bounds.head_bytes.max(8192))
        .max_headers(bounds.headers)
        .preserve_header_case(true);
    builder
}

/// What a connection is doing, as its stream and the bodies of its answers see it. All in one task;
/// atomic, because tasks move between threads.
#[derive(Debug, Default)]
struct State {
    /// Requests whose answer is not over.
    busy: AtomicUsize,
    /// How many there were.
    turns: AtomicUsize,
    /// Whether something came since the last request.
    head: AtomicBool,
    /// Whether something was written that may still be in a buffer.
    unflushed: AtomicBool,
    /// Whether the last answer ended HTTP.
    switched: AtomicBool,
}

/// A request in flight: from its head to the end of its answer's body.
#[derive(Debug)]
pub(super) struct Busy(Arc<State>);

impl Busy {
    fn new(state: &Arc<State>) -> Self {
        state.head.store(false, Relaxed);
        state.turns.fetch_add(1, Relaxed);
        state.busy.fetch_add(1, Relaxed);
        Self(Arc::clone(state))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.busy.fetch_sub(1, Relaxed);
    }
}

/// What a connection waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The answer, which has clocks of its own.
    Answer,
    /// The rest of a head.
    Head,
    /// The client, to take the last of an answer.
    Flush,
    /// The next request.
    Nothing,
}

/// Which time is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Over {
    /// The client's.
    Time,
    /// Ours: there is nothing to serve.
    Quiet,
}

/// How long a connection has been in its phase.
struct Clock<'a> {
    state: &'a State,
    bounds: Bounds,
    phase: Phase,
    turn: usize,
    since: Instant,
}

impl<'a> Clock<'a> {
    fn new(state: &'a State, bounds: Bounds) -> Self {
        Self { state, bounds, phase: Phase::Nothing, turn: 0, since: Instant::now() }
    }

    /// Ready when the time of the phase is over. To be called whenever the connection may have
    /// moved.
    fn poll(&mut self, mut sleep: Pin<&mut Sleep>, cx: &mut Context<'_>) -> Poll<Over> {
        self.look();
        let (time, over) = match self.phase {
            Phase::Answer => return Poll::Pending,
            Phase::Head => (self.bounds.head_time, Over::Time),
            Phase::Flush => (self.bounds.idle, Over::Time),
            Phase::Nothing => (QUIET, Over::Quiet),
        };
        let deadline = self.since + time;
        // Later deadlines are left to the timer that is set: it goes off early, and is set anew.
        if sleep.deadline() > deadline {
            sleep.as_mut().reset(deadline);
        }
        loop {
            ready!(sleep.as_mut().poll(cx));
            if sleep.deadline() >= deadline {
                return Poll::Ready(over);
            }
            sleep.as_mut().reset(deadline);
        }
    }

    fn look(&mut self) {
        let turn = self.state.turns.load(Relaxed);
        let phase = if self.state.busy.load(Relaxed) > 0 {
            Phase::Answer
        } else if self.state.head.load(Relaxed) {
            Phase::Head
        } else if self.state.unflushed.load(Relaxed) {
            Phase::Flush
        } else {
            Phase::Nothing
        };
        // A whole request and its answer may lie between two looks.
        if (phase, turn) != (self.phase, self.turn) {
            (self.phase, self.turn) = (phase, turn);
            self.since = Instant::now();
        }
    }
}

/// The stream of a connection, with what had been read of it, which tells what moves.
struct Watched<S> {
    inner: S,
    unread: Bytes,
    state: Arc<State>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.unread.is_empty() {
            let length = self.unread.len().min(buf.remaining());
            buf.put_slice(&self.unread.split_to(length));
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(cx, buf))?;
        if buf.filled().len() > before && self.state.busy.load(Relaxed) == 0 {
            self.state.head.store(true, Relaxed);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.state.unflushed.store(true, Relaxed);
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.state.unflushed.store(true, Relaxed);
        Pin::new(&mut self.inner).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    /// hyper flushes when its own buffers are empty, and not before.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.inner).poll_flush(cx))?;
        self.state.unflushed.store(false, Relaxed);
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::signal::Bell;
    use tokio::io::{AsyncReadExt, DuplexStream, duplex};
    use tokio::task::JoinHandle;

    const BOUNDS: Bounds = Bounds {
        head_bytes: 8192,
        headers: 10,
        head_time: Duration::from_secs(15),
        idle: Duration::from_mins(10),
    };

    const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";

    struct Served {
        client: DuplexStream,
        bell: Bell,
        server: JoinHandle<hyper::Result<Ended<DuplexStream>>>,
    }

    /// A connection whose answers have `length` bytes, through a pipe of `room` bytes.
    fn served(length: usize, room: usize) -> Served {
        let (client, far) = duplex(room);
        let bell = Bell::default();
        let stop = bell.signal();
        let server = tokio::spawn(async move {
            let answer = async |request: Request<Incoming>| {
                let mut response = Response::new(Body::whole(vec![b'x'; length].into()));
                if request.uri().path() == "/switch" {
                    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
                }
                response
            };
            serve(far, BOUNDS, stop, |request| Box::pin(answer(request))).await
        });
        Served { client, bell, server }
    }

    impl Served {
        async fn answer(&mut self, length: usize) -> String {
            let mut text = Vec::new();
            while !text.windows(4).any(|w| w == b"\r\n\r\n") {
                text.push(self.client.read_u8().await.unwrap());
            }
            let mut body = vec![0; length];
            self.client.read_exact(&mut body).await.unwrap();
            assert!(body.iter().all(|b| *b == b'x'));
            String::from_utf8(text).unwrap()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_was_quiet_serves_again() {
        let mut served = served(3, 1024);
        for pause in [0, 2, 30, 500] {
            tokio::time::sleep(Duration::from_secs(pause)).await;
            served.client.write_all(GET).await.unwrap();
            assert!(served.answer(3).await.starts_with("HTTP/1.1 200"));
        }
        let begin = Instant::now();
        assert!(matches!(served.server.await.unwrap().unwrap(), Ended::Closed));
        assert_eq!(begin.elapsed().as_secs(), (QUIET + BOUNDS.idle).as_secs());
        assert_eq!(served.client.read(&mut [0]).await.unwrap(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_has_its_time_from_its_first_byte_on() {
        for pause in [0, 1, 400] {
            let mut served = served(0, 1024);
            tokio::time::sleep(Duration::from_secs(pause)).await;
            let begin = Instant::now();
            for byte in &GET[..10] {
                served.client.write_all(&[*byte]).await.unwrap();
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            assert!(matches!(served.server.await.unwrap().unwrap(), Ended::Closed));
            assert_eq!(begin.elapsed(), BOUNDS.head_time, "after {pause} s");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_behind_a_head_has_its_own_time() {
        let mut served = served(0, 1024);
        served.client.write_all(&[GET, &GET[..5]].concat()).await.unwrap();
        served.answer(0).await;
        tokio::time::sleep(BOUNDS.head_time.mul_f32(0.9)).await;
        served.client.write_all(&GET[5..]).await.unwrap();
        served.answer(0).await;
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_is_not_taken_is_kept_until_the_idle_time_is_over() {
        let mut slow = served(5000, 16);
        slow.client.write_all(GET).await.unwrap();
        tokio::time::sleep(BOUNDS.idle.mul_f32(0.9)).await;
        slow.answer(5000).await;

        let mut never = served(5000, 16);
        never.client.write_all(GET).await.unwrap();
        let begin = Instant::now();
        assert!(matches!(never.server.await.unwrap().unwrap(), Ended::Closed));
        assert_eq!(begin.elapsed().as_secs(), BOUNDS.idle.as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn a_switch_of_protocols_gives_the_stream_back() {
        let mut served = served(0, 1024);
        let switch =
            b"GET /switch HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: x\r\n\r\nearly";
        served.client.write_all(switch).await.unwrap();
        assert!(served.answer(0).await.starts_with("HTTP/1.1 101"));
        let Ended::Switched { mut stream, unread } = served.server.await.unwrap().unwrap() else {
            panic!("not switched");
        };
        assert_eq!(unread, &b"early"[..]);
        stream.write_all(b"frames").await.unwrap();
        let mut frames = [0; 6];
        served.client.read_exact(&mut frames).await.unwrap();
        assert_eq!(&frames, b"frames");
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_stops_at_once_when_nothing_is_in_flight() {
        for pause in [0, 30] {
            let mut served = served(1, 1024);
            served.client.write_all(GET).await.unwrap();
            served.answer(1).await;
            tokio::time::sleep(Duration::from_secs(pause)).await;
            let begin = Instant::now();
            served.bell.ring();
            assert!(matches!(served.server.await.unwrap().unwrap(), Ended::Closed));
            assert!(begin.elapsed() < Duration::from_secs(1), "after {pause} s");
        }
    }
}
