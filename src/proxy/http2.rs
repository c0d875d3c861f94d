//! An agent's HTTP/2 connection inside a tunnel, by the h2 crate.
//!
//! The connection's task moves its bytes and hands each stream to a task of its own ([`stream`]), where it
//! is a request like any other: parsed, decided, recorded and scrubbed as if it were alone.

mod stream;
mod vitals;
mod wire;

use std::error::Error;
use std::future::{Future, poll_fn};
use std::io;
use std::ops::ControlFlow;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::server::{Builder, Connection};
use h2::{Ping, PingPong, Reason};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};
use tokio::time::{Instant, Sleep, sleep_until, timeout};

pub(super) use self::stream::Duplex;

use self::stream::Stream;
use self::vitals::{Open, Vitals};
use self::wire::Wire;
use super::exchange::Route;
use super::{Gateway, Limits};
use crate::tls::Prefixed;

/// What an agent may send of one request's body before the origin has taken it. Agents are near, so
/// a quarter of a MiB is more than is ever on the way; it is all that a slow origin makes us hold.
const STREAM_WINDOW: u32 = 256 * 1024;

/// The same for all streams of a connection. All of them go to one origin, so that there are few that it takes
/// while it leaves so many windows full; and an agent may have thousands of connections.
const CONNECTION_WINDOW: u32 = 16 * STREAM_WINDOW;

/// What waits on one stream for an agent that does not take it.
const SEND_BUFFER: usize = 128 * 1024;

/// How many times `limits.head_bytes` a head may have and still be read, so that its answer says what is
/// wrong and is on record. Over it h2 answers by itself, with a bare 431, and over four times that it ends
/// the connection.
const HEAD_ROOM: usize = 4;

/// Streams that may be reset before they were looked at, which is one batch of frames (CVE-2023-44487,
/// "rapid reset"). The h2 crate's own number, set here so that an update does not change it unseen.
const RESETS_UNSEEN: usize = 20;

/// Streams that may be reset for errors of the agent in the protocol ("made you reset",
/// CVE-2025-8671). A client that works makes none.
const RESETS_FOR_ERRORS: usize = 100;

/// How long the answer to a ping may take: a client that is busy, not one that is gone.
const PONG_WITHIN: Duration = Duration::from_secs(20);

/// How long a client may take to hear that its connection ends.
const GOODBYE: Duration = Duration::from_secs(5);

/// The part of the time for draining in which nothing is said of it. Most answers come to their end
/// within it, and then the connection ends in order for every client: Python's `h2` takes nothing after a
/// GOAWAY, so that one which comes earlier would break off what its agent waits for. What is left of the
/// time is for clients that go elsewhere when they are told.
const QUIET_PART: u32 = 3;

/// What an HTTP/2 client sends first (RFC 9113 section 3.4).
const PREFACE: usize = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".len();

/// How a connection ended.
pub(super) type Ended = Result<(), Box<dyn Error + Send + Sync>>;

/// Serves `stream` until it ends. `spoke` is called when the agent has begun to speak.
///
/// # Errors
/// When the agent broke the protocol or the connection, or is gone.
pub(super) async fn serve<S>(
    gateway: &Arc<Gateway>,
    route: &Arc<Route>,
    stream: S,
    spoke: impl FnOnce(),
) -> Ended
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let since = Instant::now();
    let stream = preface(stream, gateway.limits.head_time).await?;
    spoke();
    let vitals = Arc::new(Vitals::new());
    let wire = Wire::new(stream, Arc::clone(&vitals));
    let connection = settings(&gateway.limits).handshake(wire).await.map_err(told)?;
    let mut serving = Serving::new(gateway, route, connection, vitals);
    let mut stop = pin!(route.shutdown.reached(since));
    poll_fn(|cx| serving.poll(cx, stop.as_mut())).await
}

/// Waits for the client's first bytes.
async fn preface<S>(mut stream: S, limit: Duration) -> io::Result<Prefixed<S>>
where
    S: AsyncRead + Unpin,
{
    let mut first = vec![0; PREFACE];
    match timeout(limit, stream.read_exact(&mut first)).await {
        Ok(read) => read.map(|_| Prefixed::new(first, stream)),
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}

fn settings(limits: &Limits) -> Builder {
    let mut builder = Builder::new();
    builder
        .max_concurrent_streams(limits.streams)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        // A block of CONTINUATION frames that goes on and on ends the connection with ENHANCE_YOUR_CALM.
        // SETTINGS and PING floods are held by their acknowledgements: the next frame is read when the last
        // one's has been sent.
        .max_header_list_size(u32::try_from(HEAD_ROOM * limits.head_bytes).unwrap_or(u32::MAX))
        .max_send_buffer_size(SEND_BUFFER)
        // WebSockets (RFC 8441). Any other CONNECT is refused.
        .enable_connect_protocol()
        .max_pending_accept_reset_streams(RESETS_UNSEEN)
        .max_local_error_reset_streams(Some(RESETS_FOR_ERRORS));
    builder
}

/// What broke below HTTP/2 is shown as what it is.
fn told(error: h2::Error) -> Box<dyn Error + Send + Sync> {
    if !error.is_io() {
        return error.into();
    }
    error.into_io().map_or_else(|| io::Error::from(io::ErrorKind::Other).into(), Into::into)
}

/// A connection that is served.
struct Serving<'a, S> {
    gateway: &'a Arc<Gateway>,
    route: &'a Arc<Route>,
    connection: Connection<Wire<S>, Bytes>,
    vitals: Arc<Vitals>,
    clock: Clock,
    phase: Phase,
}

/// How near a connection is to its end.
enum Phase {
    /// Streams come and go.
    Open,
    /// The proxy stops. Until then nothing is said, and the connection ends when no stream is left.
    Quiet(Pin<Box<Sleep>>),
    /// The agent was told to open no more streams. Those that there are go on.
    Told,
    /// It was told that this was all, and hears it until then.
    Leaving(Pin<Box<Sleep>>),
}

impl<'a, S: AsyncRead + AsyncWrite + Unpin> Serving<'a, S> {
    fn new(
        gateway: &'a Arc<Gateway>,
        route: &'a Arc<Route>,
        mut connection: Connection<Wire<S>, Bytes>,
        vitals: Arc<Vitals>,
    ) -> Self {
        let clock = Clock::new(connection.ping_pong(), &gateway.limits);
        Self { gateway, route, connection, vitals, clock, phase: Phase::Open }
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        mut stop: Pin<&mut impl Future<Output = ()>>,
    ) -> Poll<Ended> {
        self.vitals.listen(cx);
        loop {
            if let Poll::Ready(ended) = self.poll_accept(cx) {
                return Poll::Ready(ended);
            }
            if self.vitals.is_flooded() {
                // As far as it can be said at once.
                self.connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
                let _said = self.connection.poll_closed(cx);
                return Poll::Ready(Err("too many streams were given up".into()));
            }
            // What is said there goes out in the next round.
            if let ControlFlow::Break(ended) = ready!(self.poll_phase(cx, stop.as_mut())) {
                return Poll::Ready(ended);
            }
        }
    }

    /// Moves what can be moved, and begins what has come.
    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        while let Some(accepted) = ready!(self.connection.poll_accept(cx)) {
            let (request, respond) = accepted.map_err(told)?;
            let stream = Stream {
                gateway: Arc::clone(self.gateway),
                route: Arc::clone(self.route),
                open: Open::new(&self.vitals),
                respond,
            };
            let alive = self.route.shutdown.alive();
            // It keeps the shutdown waiting, and is cut off with its connection.
            tokio::spawn(async move {
                stream.serve(request).await;
                drop(alive);
            });
        }
        Poll::Ready(Ok(()))
    }

    /// Ready with the end, or when the connection is to be moved again.
    fn poll_phase(
        &mut self,
        cx: &mut Context<'_>,
        stop: Pin<&mut impl Future<Output = ()>>,
    ) -> Poll<ControlFlow<Ended>> {
        let again = Poll::Ready(ControlFlow::Continue(()));
        match &mut self.phase {
            // h2 says when it is over, and we when that takes too long.
            Phase::Leaving(end) => {
                return end.as_mut().poll(cx).map(|()| ControlFlow::Break(Ok(())));
            }
            Phase::Open => {
                if stop.poll(cx).is_ready() {
                    let quiet = Instant::now() + self.route.shutdown.drain() / QUIET_PART;
                    self.phase = Phase::Quiet(Box::pin(sleep_until(quiet)));
                    return again;
                }
            }
            _ if !self.connection.has_streams() => {
                self.leave();
                return again;
            }
            Phase::Quiet(until) => {
                if until.as_mut().poll(cx).is_ready() {
                    // GOAWAY, a ping to see how far the agent has read, and another GOAWAY.
                    self.connection.graceful_shutdown();
                    self.phase = Phase::Told;
                    return again;
                }
            }
            Phase::Told => {}
        }
        match ready!(self.clock.poll(cx, &self.vitals)) {
            Due::Gone => {
                let error = "the agent does not answer a ping any more";
                let error = io::Error::new(io::ErrorKind::TimedOut, error);
                Poll::Ready(ControlFlow::Break(Err(error.into())))
            }
            Due::Idle => {
                self.leave();
                again
            }
        }
    }

    /// Says which stream was the last, and that this is all. What comes after that one was not looked at,
    /// and clients know so.
    fn leave(&mut self) {
        self.vitals.linger();
        self.connection.abrupt_shutdown(Reason::NO_ERROR);
        self.phase = Phase::Leaving(Box::pin(sleep_until(Instant::now() + GOODBYE)));
    }
}

/// What is due when a connection has been still for long.
enum Due {
    /// Nobody is there.
    Gone,
    /// Somebody may be there, who wants nothing.
    Idle,
}

/// Looks after a connection on which nothing moves. Its timer is left where it is, goes off early, and is
/// set anew: once in a while, and not with each frame.
struct Clock {
    alarm: Pin<Box<Sleep>>,
    ping: Option<PingPong>,
    /// When it was asked whether somebody is there, since when nothing came.
    asked: Option<Instant>,
    ping_after: Duration,
    idle: Duration,
}

impl Clock {
    fn new(ping: Option<PingPong>, limits: &Limits) -> Self {
        let (ping_after, idle) = (limits.ping_after, limits.idle_tunnel);
        let alarm = Box::pin(sleep_until(Instant::now() + ping_after.min(idle)));
        Self { alarm, ping, asked: None, ping_after, idle }
    }

    fn poll(&mut self, cx: &mut Context<'_>, vitals: &Vitals) -> Poll<Due> {
        loop {
            ready!(self.alarm.as_mut().poll(cx));
            let now = vitals.instant();
            let heard = vitals.heard();
            self.asked = self.asked.filter(|asked| heard < *asked);
            let life = match self.asked {
                Some(asked) if asked + self.pong_within() <= now => return Poll::Ready(Due::Gone),
                Some(asked) => asked + self.pong_within(),
                None if heard + self.ping_after <= now => {
                    self.ask(cx);
                    self.asked = Some(now);
                    now + self.pong_within()
                }
                None => heard + self.ping_after,
            };
            // Where streams are served it is looked again when that time has passed.
            let idle = vitals.idle_since().unwrap_or(now) + self.idle;
            if idle <= now {
                return Poll::Ready(Due::Idle);
            }
            self.alarm.as_mut().reset(life.min(idle));
        }
    }

    fn pong_within(&self) -> Duration {
        PONG_WITHIN.min(self.ping_after)
    }

    fn ask(&mut self, cx: &mut Context<'_>) {
        let Some(ping) = &mut self.ping else { return };
        // Takes the last answer, without which there is no next question. Whatever else comes is a sign of
        // life too, so an agent that never answers is not asked twice.
        let _last = ping.poll_pong(cx);
        let _asked = ping.send_ping(Ping::opaque());
    }
}
