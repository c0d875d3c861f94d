//! Inside an intercepted tunnel: HTTP/1.1 or HTTP/2, as the handshake agreed, until the agent closes,
//! is idle too long, or we stop.
//!
//! hyper makes a task of each HTTP/2 stream, and each is a request of its own: parsed, decided,
//! recorded and scrubbed as if it were alone.

use std::convert::Infallible;
use std::error::Error;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::body::Body;
use super::distrust::Watch;
use super::exchange::{Route, exchange, unreadable};
use super::http1;
use super::inlet::Refuse;
use super::interim::Outlet;
use super::listener::Alive;
use super::{Gateway, Limits};
use crate::tls::{Alpn, Prefixed};

/// What an agent may send of one request's body before the origin has taken it. Agents are near, so
/// a quarter of a MiB is more than is ever on the way; it is all that a slow origin makes us hold.
const STREAM_WINDOW: u32 = 256 * 1024;

/// The same for all streams of a connection: with fewer than this many windows full of what slow
/// origins do not take, the others do not notice.
const CONNECTION_WINDOW: u32 = 64 * STREAM_WINDOW;

/// What waits on one stream for an agent that does not take it.
const SEND_BUFFER: usize = 128 * 1024;

/// Streams that may be reset before they were looked at, which is one batch of frames (CVE-2023-44487,
/// "rapid reset"). The h2 crate's own number, set here so that an update does not change it unseen.
const RESETS_UNSEEN: usize = 20;

/// Streams that may be reset for errors of the agent in the protocol ("made you reset",
/// CVE-2025-8671). A client that works makes none.
const RESETS_FOR_ERRORS: usize = 100;

/// Streams that an agent may give up within [`SHORT`] of their begin, unless it sees at least as many
/// to their end. Each costs a decision, a record and a call. An agent that cancels all it has under
/// way at once is far below; the number is Envoy's.
const GIVEN_UP: u64 = 500;

/// What is given up sooner than this was not waited for.
const SHORT: Duration = Duration::from_secs(1);

/// How long the answer to a ping may take: a client that is busy, not one that is gone.
const PONG_WITHIN: Duration = Duration::from_secs(20);

/// How long a client may take to answer a GOAWAY that it was sent for being idle.
const GOODBYE: Duration = Duration::from_secs(5);

/// Serves the requests inside a tunnel.
pub(super) async fn serve_inside<S>(gateway: &Arc<Gateway>, route: Route, stream: S, protocol: Alpn)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let route = Arc::new(route);
    let watch = Arc::new(Watch::new(gateway, &route));
    let inside = Inside { gateway: Arc::clone(gateway), route, watch };
    let ended = match protocol {
        Alpn::Http11 => inside.serve_http1(stream).await,
        // In a box, so that a tunnel of HTTP/1.1, which mostly waits, has no room for it.
        Alpn::Http2 => Box::pin(inside.serve_http2(stream)).await,
    };
    let error = ended.as_ref().err().map(|error| &**error as &(dyn Error + 'static));
    inside.watch.ended(error, inside.route.shutdown.has_begun());
    if let Some(error) = error {
        let Route { caller, origin, .. } = &*inside.route;
        tracing::debug!(agent = %caller.identity.agent, %origin, %error, "the agent's connection ended");
    }
}

type Ended = Result<(), Box<dyn Error + Send + Sync>>;

struct Inside {
    gateway: Arc<Gateway>,
    route: Arc<Route>,
    watch: Arc<Watch>,
}

impl Inside {
    async fn serve_http1<S>(&self, stream: S) -> Ended
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let limits = &self.gateway.limits;
        let bounds = http1::Bounds {
            head_bytes: limits.head_bytes,
            headers: limits.headers,
            clocks: limits.clocks(),
            idle: limits.idle_tunnel,
        };
        let refuse: Refuse = {
            let (gateway, route) = (Arc::clone(&self.gateway), Arc::clone(&self.route));
            Arc::new(move |code| unreadable(&gateway, &route, code))
        };
        let stop = self.route.shutdown.reached(Instant::now());
        let answer = async |request, outlet: Outlet| {
            self.watch.spoke();
            exchange(&self.gateway, &self.route, request, &outlet).await
        };
        http1::serve(stream, bounds, stop, refuse, answer).await
    }

    async fn serve_http2<S>(&self, stream: S) -> Ended
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let since = Instant::now();
        let limits = &self.gateway.limits;
        let stream = preface(stream, limits.head_time).await?;
        self.watch.spoke();
        let streams = Arc::new(Streams::new());
        let service = {
            let (gateway, route) = (Arc::clone(&self.gateway), Arc::clone(&self.route));
            let streams = Arc::clone(&streams);
            service_fn(move |mut request: Request<Incoming>| {
                let (gateway, route) = (Arc::clone(&gateway), Arc::clone(&route));
                let open = Open::new(&streams);
                if *request.method() == Method::CONNECT {
                    request.extensions_mut().insert(Stay::new(&streams));
                }
                let head = *request.method() == Method::HEAD;
                async move {
                    let mut response = exchange(&gateway, &route, request, &Outlet::none()).await;
                    // On HTTP/1.1 hyper itself keeps a body from a HEAD.
                    if head {
                        *response.body_mut() = Body::empty();
                    }
                    Ok::<_, Infallible>(followed(response, open))
                }
            })
        };
        let connection = settings(limits, self.route.shutdown.alive())
            .serve_connection(TokioIo::new(stream), service);
        let mut connection = std::pin::pin!(connection);
        tokio::select! {
            ended = connection.as_mut() => return Ok(ended?),
            () = streams.flooded.notified() => return Err("too many streams were given up".into()),
            () = self.route.shutdown.reached(since) => {
                // GOAWAY; the streams that there are go on.
                connection.as_mut().graceful_shutdown();
            }
            () = streams.idle(limits.idle_tunnel) => {
                connection.as_mut().graceful_shutdown();
                let ended = timeout(GOODBYE, connection).await;
                return Ok(ended.unwrap_or(Ok(()))?);
            }
        }
        Ok(connection.await?)
    }
}

fn settings(limits: &Limits, alive: Alive) -> http2::Builder<Tasks> {
    let mut builder = http2::Builder::new(Tasks(alive));
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.streams)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        // Over it the stream is answered with 431; a block of CONTINUATION frames that goes on and on
        // ends the connection with ENHANCE_YOUR_CALM. SETTINGS and PING floods are held by their
        // acknowledgements: the next frame is read when the last one's has been sent.
        .max_header_list_size(u32::try_from(limits.head_bytes).unwrap_or(u32::MAX))
        .max_send_buf_size(SEND_BUFFER)
        // What is gone without a word is found, with all that it held: its place, its sockets.
        .keep_alive_interval(limits.ping_after)
        .keep_alive_timeout(PONG_WITHIN.min(limits.ping_after))
        // WebSockets (RFC 8441). Any other CONNECT is refused.
        .enable_connect_protocol()
        .max_pending_accept_reset_streams(RESETS_UNSEEN)
        .max_local_error_reset_streams(RESETS_FOR_ERRORS);
    builder
}

/// The tasks of streams. Each keeps the shutdown waiting; they are cut off with their connection.
#[derive(Clone)]
struct Tasks(Alive);

impl<F> Executor<F> for Tasks
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, task: F) {
        let alive = self.0.clone();
        tokio::spawn(async move {
            task.await;
            drop(alive);
        });
    }
}

/// What an HTTP/2 client sends first (RFC 9113 section 3.4).
const PREFACE: usize = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".len();

/// Waits for the client's first bytes, which hyper would do without a limit.
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

/// The streams of one connection, counted.
struct Streams {
    begin: Instant,
    open: AtomicUsize,
    /// Milliseconds from `begin` to the last change.
    changed: AtomicU64,
    finished: AtomicU64,
    given_up: AtomicU64,
    flooded: Notify,
}

impl Streams {
    fn new() -> Self {
        Self {
            begin: Instant::now(),
            open: AtomicUsize::new(0),
            changed: AtomicU64::new(0),
            finished: AtomicU64::new(0),
            given_up: AtomicU64::new(0),
            flooded: Notify::new(),
        }
    }

    fn note_change(&self) {
        let now = u64::try_from(self.begin.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.changed.store(now, Ordering::Relaxed);
    }

    /// Returns when there was no stream for so long. Looks once in that time.
    async fn idle(&self, time: Duration) {
        loop {
            if self.open.load(Ordering::Relaxed) > 0 {
                sleep(time).await;
                continue;
            }
            let changed = Duration::from_millis(self.changed.load(Ordering::Relaxed));
            let until = self.begin + changed + time;
            if until <= Instant::now() {
                return;
            }
            sleep_until(until).await;
        }
    }

    fn note_given_up(&self) {
        let given_up = self.given_up.fetch_add(1, Ordering::Relaxed) + 1;
        if given_up >= GIVEN_UP && given_up > self.finished.load(Ordering::Relaxed) {
            self.flooded.notify_one();
        }
    }
}

/// One stream, from its request to the end of its answer.
struct Open {
    streams: Arc<Streams>,
    begin: Instant,
    finished: bool,
}

impl Open {
    fn new(streams: &Arc<Streams>) -> Self {
        streams.open.fetch_add(1, Ordering::Relaxed);
        Self { streams: Arc::clone(streams), begin: Instant::now(), finished: false }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.streams.open.fetch_sub(1, Ordering::Relaxed);
        self.streams.note_change();
        if self.finished {
            self.streams.finished.fetch_add(1, Ordering::Relaxed);
        } else if self.begin.elapsed() < SHORT {
            self.streams.note_given_up();
        }
    }
}

/// A stream that goes on after its answer, as a WebSocket. Held by who serves it, so that the
/// connection does not count as idle.
#[derive(Clone)]
pub(super) struct Stay(#[allow(dead_code)] Arc<Open>); // Held for its end.

impl Stay {
    fn new(streams: &Arc<Streams>) -> Self {
        let mut open = Open::new(streams);
        // An answer was given: whatever becomes of the socket, the stream was no flood.
        open.finished = true;
        Self(Arc::new(open))
    }
}

/// A body that knows when its stream is over.
struct Followed {
    body: Body,
    open: Open,
}

fn followed(response: Response<Body>, mut open: Open) -> Response<Followed> {
    open.finished = response.body().is_end_stream();
    response.map(|body| Followed { body, open })
}

impl HttpBody for Followed {
    type Data = Bytes;
    type Error = <Body as HttpBody>::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        self.open.finished = match &frame {
            Poll::Pending | Poll::Ready(Some(Err(_))) => false,
            Poll::Ready(None) => true,
            Poll::Ready(Some(Ok(frame))) => frame.is_trailers() || self.body.is_end_stream(),
        };
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
