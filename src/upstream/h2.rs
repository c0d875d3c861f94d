//! One HTTP/2 connection to an origin, shared by many requests of one principal.
//!
//! A task of its own moves the bytes, because no single request may hold up the others. Each request
//! has a [`Seat`]: one of the streams that the origin allows at once. Whoever holds it talks to h2
//! directly, so that an answer costs one wake-up and no message between tasks.
//!
//! A request is sent again only when the origin said, or the count of bytes shows, that it cannot
//! have looked at it: its stream is beyond the last of a GOAWAY, was refused as a whole, or nothing
//! was written since it was handed over.

use std::convert::Infallible;
use std::error::Error as StdError;
use std::fmt;
use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::client::{Builder, Connection, ResponseFuture, SendRequest};
use h2::ext::Protocol;
use h2::{Ping, PingPong, Reason, RecvStream, SendStream};
use http::header::{self, HeaderValue};
use http::request::Parts;
use http::uri::{self, Scheme, Uri};
use http::{Method, Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::runtime;
use tokio::sync::{OwnedMutexGuard, oneshot};
use tokio::time::{Instant, Sleep, sleep};

use super::body::{BodyError, RequestBody, Upload};
use super::interim::Interims;
use super::leash::Leash;
use super::link::{Alarm, Failure, Patience, Stream, here};
use crate::host::Authority;
use crate::outcome::Refusal;

/// What an origin may send of one answer before the agent has taken it. Eight times the protocol's
/// own 64 KiB, which is 80 Mbit/s at 50 ms; all that a slow agent can make us hold of a stream.
const STREAM_WINDOW: u32 = 512 * 1024;

/// The same for all streams of a connection: with fewer than this many windows full of what slow
/// agents do not take, the others do not notice.
const CONNECTION_WINDOW: u32 = 64 * STREAM_WINDOW;

/// The longest head of an answer, as on HTTP/1.1.
const HEAD: u32 = 64 * 1024;

/// What waits to be sent on one stream. A few TLS records, so that a bulk upload is not woken for
/// each of them.
const SEND_BUFFER: usize = 128 * 1024;

/// How much of a request's body is kept until the origin answers, to send it again when the origin
/// says that it did not look at the first copy. Most calls of APIs are shorter; origins that close
/// in order (after a thousand requests, or for a new release) would cost an error for each otherwise.
const REPLAY: usize = 64 * 1024;

/// How long a connection with open streams may be silent before it is asked whether it lives. TCP
/// finds a dead host sooner; this finds a stuck one. Servers of gRPC take more than one ping in five
/// minutes for an attack, and close.
const PING_AFTER: Duration = Duration::from_secs(5 * 60 + 5);

/// How long the answer to a ping may take: an origin under load, not one that is gone.
const PONG_WITHIN: Duration = Duration::from_secs(20);

/// How long others wait to hear how many streams a new connection takes. The origin's first frame
/// says so; one that says nothing for so long serves the one request that is under way.
const SETTINGS_WITHIN: Duration = Duration::from_secs(5);

/// Streams before the origin has said how many it takes: the one for which the connection was opened.
const UNTIL_SETTINGS: usize = 1;

/// The right to open a connection, which others wait for. Held until it can be shared.
pub(super) type Turn = OwnedMutexGuard<Option<(u64, Refusal)>>;

/// A shared connection.
pub(super) struct Multiplex {
    /// Before `_held`: the driver wakes when that is dropped, and must find this gone.
    sender: SendRequest<Bytes>,
    _held: oneshot::Sender<Infallible>,
    /// `:authority` of nearly all requests.
    authority: uri::Authority,
    vitals: Arc<Vitals>,
    /// The runtime whose thread moves the bytes.
    home: Option<runtime::Id>,
    /// Timers of streams that are over, for those to come in the same runtime: a timer belongs to it.
    alarms: Mutex<Vec<(Option<runtime::Id>, Alarm)>>,
}

/// What the driver, the pool and the streams know of a connection.
struct Vitals {
    opened: Instant,
    /// Streams that are under way, or wait for others to end.
    open: AtomicUsize,
    /// How many may be.
    limit: AtomicUsize,
    /// Whether it ended, or ends after the streams that it has.
    closing: AtomicBool,
    served: AtomicBool,
    /// Milliseconds from `opened` to the end of the last stream.
    idle_since: AtomicU64,
    read: AtomicU64,
    written: AtomicU64,
}

impl Multiplex {
    /// Makes an HTTP/2 connection of a stream whose TLS agreed on it. `turn` is let go when it is
    /// known how many streams the origin takes.
    pub(super) async fn open(
        stream: Stream,
        target: &Authority,
        turn: Option<Turn>,
        leash: Leash,
    ) -> Result<Arc<Self>, h2::Error> {
        let vitals = Arc::new(Vitals::new());
        let metered = Metered { inner: stream, leash, vitals: Arc::clone(&vitals) };
        let (sender, connection) = settings().handshake(metered).await?;
        let (held, released) = oneshot::channel();
        let driver = Driver {
            pinger: connection_pinger(connection),
            released: Some(released),
            turn: turn.map(|turn| (turn, Box::pin(sleep(SETTINGS_WITHIN)))),
            vitals: Arc::clone(&vitals),
        };
        tokio::spawn(driver);
        // A host that was parsed is an authority; `*` stands for what cannot be.
        let authority = target.to_string().parse();
        let authority = authority.unwrap_or_else(|_| uri::Authority::from_static("*"));
        let (home, alarms) = (here(), Mutex::default());
        Ok(Arc::new(Self { sender, _held: held, authority, vitals, home, alarms }))
    }

    /// A place for one more stream; none when the origin takes no more, or the connection ends.
    pub(super) fn seat(self: &Arc<Self>) -> Option<Seat> {
        let limit = self.vitals.limit.load(Ordering::Relaxed);
        let one_more = |open: usize| (open < limit).then_some(open + 1);
        let taken = !self.is_closing()
            && self.vitals.open.fetch_update(Ordering::AcqRel, Ordering::Relaxed, one_more).is_ok();
        taken.then(|| Seat::new(self))
    }

    /// The runtime that moves its bytes.
    pub(super) fn home(&self) -> Option<runtime::Id> {
        self.home
    }

    /// A place in the queue of a connection that is full.
    pub(super) fn queue(self: &Arc<Self>) -> Seat {
        self.vitals.open.fetch_add(1, Ordering::AcqRel);
        Seat::new(self)
    }

    /// Whether the origin said that it takes a WebSocket as a stream of this connection (RFC 8441).
    pub(super) fn takes_sockets(&self) -> bool {
        self.sender.is_extended_connect_protocol_enabled()
    }

    fn alarm(&self) -> Alarm {
        let mut alarms = self.alarms.lock();
        let ours = alarms.iter().rposition(|(home, _)| *home == here());
        ours.map(|at| alarms.swap_remove(at).1).unwrap_or_default()
    }

    pub(super) fn is_closing(&self) -> bool {
        self.vitals.closing.load(Ordering::Acquire)
    }

    /// Streams under way.
    pub(super) fn load(&self) -> usize {
        self.vitals.open.load(Ordering::Acquire)
    }

    /// When it was opened.
    pub(super) fn opened(&self) -> Instant {
        self.vitals.opened
    }

    /// Since when it has no stream; none while it has.
    pub(super) fn idle_since(&self) -> Option<Instant> {
        let idle = self.load() == 0;
        let since = Duration::from_millis(self.vitals.idle_since.load(Ordering::Acquire));
        idle.then(|| self.vitals.opened + since)
    }
}

impl Vitals {
    fn new() -> Self {
        Self {
            opened: Instant::now(),
            open: AtomicUsize::new(0),
            limit: AtomicUsize::new(UNTIL_SETTINGS),
            closing: AtomicBool::new(false),
            served: AtomicBool::new(false),
            idle_since: AtomicU64::new(0),
            read: AtomicU64::new(0),
            written: AtomicU64::new(0),
        }
    }
}

fn settings() -> Builder {
    let mut builder = Builder::new();
    builder
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(HEAD)
        .max_send_buffer_size(SEND_BUFFER)
        .initial_max_send_streams(UNTIL_SETTINGS)
        // Nobody asked for what an origin would push, and the policy has not seen it.
        .enable_push(false);
    builder
}

/// One stream of a shared connection, from before its request to the end of its answer.
pub(super) struct Seat {
    of: Arc<Multiplex>,
    alarm: Alarm,
    /// Whether the connection had served before.
    pub(super) reused: bool,
    /// Whether it is another runtime's, once too often.
    pub(super) wants_own: bool,
}

impl Seat {
    /// For a stream that was counted.
    fn new(of: &Arc<Multiplex>) -> Self {
        let reused = of.vitals.served.swap(true, Ordering::Relaxed);
        Self { of: Arc::clone(of), alarm: of.alarm(), reused, wants_own: false }
    }

    /// Leaves the timer to the next stream: the answer is over. Not done on drop, where the runtime
    /// may be gone, and its timers with it.
    fn rest(&mut self) {
        if self.alarm.is_set() {
            self.alarm.forget_waker();
            self.of.alarms.lock().push((here(), std::mem::take(&mut self.alarm)));
        }
    }

    /// Sends the request and waits for the head of the answer; the times are those of a
    /// [`Link`](super::link::Link).
    pub(super) async fn exchange(
        mut self,
        request: Request<RequestBody>,
        upload: Option<&Upload>,
        patience: Patience,
        interims: Option<&Interims>,
    ) -> Result<Answer, Failure> {
        let (parts, body) = request.into_parts();
        let Some(head) = self.of.head(&parts) else { return Err(Failure::Unfit) };
        let ends = body.is_end_stream();
        let written = self.of.vitals.written.load(Ordering::Relaxed);
        let mut outgoing = Outgoing::new(body);
        let (answer, stream) = match self.of.sender.clone().send_request(head, ends) {
            Ok(sent) => sent,
            Err(error) => {
                if !error.is_go_away() && !error.is_io() {
                    return Err(Failure::Stream(error));
                }
                // The connection ends, and the pool has not heard of it yet.
                self.of.vitals.closing.store(true, Ordering::Release);
                return Err(Failure::stream(error, outgoing.back(parts)));
            }
        };
        if !ends {
            outgoing.stream = Some(stream);
        }
        match self.wait(answer, &mut outgoing, upload, patience, interims).await {
            Ok(response) => Ok(Answer { response, rest: outgoing.into_rest(), seat: self }),
            Err(Failure::Stream(error)) => {
                let unwritten = self.of.vitals.written.load(Ordering::Relaxed) == written;
                let http1 = wants_http1(&error);
                let again = http1 || unprocessed(&error) || (unwritten && !error.is_reset());
                let back = if again { outgoing.back(parts) } else { None };
                match back {
                    Some(request) if http1 => Err(Failure::Http1Required(request)),
                    back => Err(Failure::stream(error, back)),
                }
            }
            Err(other) => Err(other),
        }
    }

    /// Whether its connection takes a WebSocket.
    pub(super) fn takes_sockets(&self) -> bool {
        self.of.takes_sockets()
    }

    /// Asks for what the GET of `parts` asks for in HTTP/1.1: a WebSocket (RFC 8441 section 5).
    pub(super) async fn open_socket(
        mut self,
        parts: &Parts,
        patience: Patience,
    ) -> Result<OpenStream, NoStream> {
        let head = self.of.socket_head(parts).ok_or(NoStream::Failed(Failure::Unfit))?;
        let written = self.of.vitals.written.load(Ordering::Relaxed);
        let (answer, sending) = match self.of.sender.clone().send_request(head, false) {
            Ok(sent) => sent,
            Err(error) if error.is_go_away() || error.is_io() => {
                self.of.vitals.closing.store(true, Ordering::Release);
                return Err(NoStream::Elsewhere);
            }
            Err(error) => return Err(NoStream::Failed(Failure::Stream(error))),
        };
        let mut nothing = Outgoing::new(RequestBody::Empty);
        match self.wait(answer, &mut nothing, None, patience, None).await {
            Ok(response) => Ok(OpenStream { response, sending, seat: self }),
            Err(Failure::Stream(error)) => {
                let unwritten = self.of.vitals.written.load(Ordering::Relaxed) == written;
                let again = wants_http1(&error) || unprocessed(&error);
                if again || (unwritten && !error.is_reset()) {
                    return Err(NoStream::Elsewhere);
                }
                Err(NoStream::Failed(Failure::Stream(error)))
            }
            Err(other) => Err(NoStream::Failed(other)),
        }
    }

    async fn wait(
        &mut self,
        mut answer: ResponseFuture,
        outgoing: &mut Outgoing,
        upload: Option<&Upload>,
        patience: Patience,
        interims: Option<&Interims>,
    ) -> Result<Response<RecvStream>, Failure> {
        let sent = Instant::now();
        std::future::poll_fn(|cx| {
            // Before the answer, which may wait for it.
            let broke_off = matches!(outgoing.poll(cx), Poll::Ready(Err(Stop::Body)));
            if broke_off {
                return Poll::Ready(Err(Failure::Unfit));
            }
            if let Some(interims) = interims {
                // Before the answer: h2 drops those that are left when it gives that.
                while let Poll::Ready(Some(Ok(interim))) = answer.poll_informational(cx) {
                    // There is none on HTTP/2 (RFC 9113 section 8.6), and an agent of HTTP/1.1 would take it
                    // for the answer.
                    if interim.status() == StatusCode::SWITCHING_PROTOCOLS {
                        let error = h2::Error::from(Reason::PROTOCOL_ERROR);
                        return Poll::Ready(Err(Failure::Stream(error)));
                    }
                    interims.hear(interim);
                }
            }
            if let Poll::Ready(answer) = Pin::new(&mut answer).poll(cx) {
                return Poll::Ready(answer.map_err(Failure::Stream));
            }
            let (deadline, late) = patience.deadline(sent, upload);
            self.alarm.poll(cx, deadline).map(|()| Err(late))
        })
        .await
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let vitals = &self.of.vitals;
        let now = u64::try_from(vitals.opened.elapsed().as_millis()).unwrap_or(u64::MAX);
        vitals.idle_since.store(now, Ordering::Release);
        vitals.open.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Whether the origin says that it has not looked at the request (RFC 9113 section 8.7). h2 reports
/// a GOAWAY to those streams only that are beyond its last.
fn unprocessed(error: &h2::Error) -> bool {
    let refused = error.is_reset() && error.reason() == Some(Reason::REFUSED_STREAM);
    error.is_remote() && (refused || error.is_go_away())
}

/// Whether the origin serves this over HTTP/1.1 only, as IIS does where it wants a client certificate.
fn wants_http1(error: &h2::Error) -> bool {
    error.is_remote() && error.is_reset() && error.reason() == Some(Reason::HTTP_1_1_REQUIRED)
}

impl Multiplex {
    /// The head as HTTP/2 has it: the Host is `:authority`, and no field belongs to a connection.
    /// The rest was taken out when the request was parsed.
    fn head(&self, parts: &Parts) -> Option<Request<()>> {
        let host = parts.headers.get(header::HOST)?;
        let authority = if host.as_bytes() == self.authority.as_str().as_bytes() {
            self.authority.clone()
        } else {
            uri::Authority::try_from(host.as_bytes()).ok()?
        };
        let mut uri = uri::Parts::default();
        uri.scheme = Some(Scheme::HTTPS);
        uri.authority = Some(authority);
        uri.path_and_query = parts.uri.path_and_query().cloned();
        let mut head = Request::new(());
        *head.method_mut() = parts.method.clone();
        *head.uri_mut() = Uri::from_parts(uri).ok()?;
        let mut fields = parts.headers.clone();
        fields.remove(header::HOST);
        if let Some(te) = fields.get_mut(header::TE) {
            *te = HeaderValue::from_static("trailers");
        }
        *head.headers_mut() = fields;
        Some(head)
    }

    /// The same for a WebSocket: a CONNECT that names the protocol, without the fields by which
    /// HTTP/1.1 asks for it and the key that only it has.
    fn socket_head(&self, parts: &Parts) -> Option<Request<()>> {
        let mut head = self.head(parts)?;
        *head.method_mut() = Method::CONNECT;
        head.extensions_mut().insert(Protocol::from_static("websocket"));
        for name in [header::CONNECTION, header::UPGRADE, header::SEC_WEBSOCKET_KEY] {
            head.headers_mut().remove(name);
        }
        Some(head)
    }
}

/// Why there is no WebSocket on a shared connection.
pub(super) enum NoStream {
    /// The origin has not looked at the request: another connection may have it.
    Elsewhere,
    /// It came to nothing.
    Failed(Failure),
}

/// A stream that stays open both ways after the head of its answer.
pub(super) struct OpenStream {
    pub(super) response: Response<RecvStream>,
    pub(super) sending: SendStream<Bytes>,
    pub(super) seat: Seat,
}

impl OpenStream {
    /// An answer that opens nothing: like any other, to a request that ends here.
    pub(super) fn declined(self) -> Answer {
        let Self { response, mut sending, seat } = self;
        let _the_origin_may_be_gone = sending.send_data(Bytes::new(), true);
        Answer { response, rest: None, seat }
    }
}

/// The head of an answer, what is still to be sent, and the stream that both are on.
pub(super) struct Answer {
    pub(super) response: Response<RecvStream>,
    rest: Option<Outgoing>,
    seat: Seat,
}

impl Answer {
    /// The answer with a body that brings the rest of it.
    pub(super) fn into_body(self, idle: Duration) -> Response<StreamBody> {
        let Self { response, rest, seat } = self;
        let length = response.headers().get(header::CONTENT_LENGTH);
        let length = length.and_then(|v| v.to_str().ok()?.parse().ok());
        response.map(|stream| {
            let mut body = StreamBody {
                // A task, because the reader of the answer may wait for the writer of the request.
                _uploading: rest.map(|rest| Uploading(tokio::spawn(rest))),
                stream,
                seat,
                length,
                idle,
                data_over: false,
                waiting_since: None,
            };
            body.rest_if_over();
            body
        })
    }
}

/// A request's body on its way, until it is sent or nobody wants it any more.
struct Outgoing {
    body: RequestBody,
    /// None before the stream is there, and when all is sent.
    stream: Option<SendStream<Bytes>>,
    /// Whether a piece was taken of it.
    begun: bool,
    /// A piece that waits for room, and whether it is the last.
    waiting: Option<(Bytes, bool)>,
    /// What was taken of the body, while all of it can be had again.
    taken: Option<Vec<Bytes>>,
    taken_bytes: usize,
}

/// Why a body was not sent to its end.
enum Stop {
    /// The agent broke it off.
    Body,
    /// The origin wants no more of it. Its answer says why.
    Origin,
}

impl Outgoing {
    fn new(body: RequestBody) -> Self {
        let taken = Some(Vec::new());
        Self { body, stream: None, begun: false, waiting: None, taken, taken_bytes: 0 }
    }

    /// The request as it was, if all of it is at hand.
    fn back(self, parts: Parts) -> Option<Box<Request<RequestBody>>> {
        let taken = self.taken?;
        Some(Box::new(Request::from_parts(parts, self.body.again(taken))))
    }

    fn into_rest(mut self) -> Option<Self> {
        self.taken = None;
        self.stream.is_some().then_some(self)
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Stop>> {
        let Some(mut stream) = self.stream.take() else { return Poll::Ready(Ok(())) };
        let sent = self.poll_send(&mut stream, cx);
        if sent.is_pending() {
            self.stream = Some(stream);
        }
        sent
    }

    fn poll_send(
        &mut self,
        stream: &mut SendStream<Bytes>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Stop>> {
        loop {
            if stream.poll_reset(cx).is_ready() {
                return Poll::Ready(Err(Stop::Origin));
            }
            if ready!(self.poll_waiting(stream, cx))? {
                return Poll::Ready(Ok(()));
            }
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => {
                    if self.put(frame, stream)? {
                        return Poll::Ready(Ok(()));
                    }
                }
                Some(Err(_)) => {
                    // The origin must not take what it has for the whole.
                    stream.send_reset(Reason::CANCEL);
                    return Poll::Ready(Err(Stop::Body));
                }
                None => return Poll::Ready(finish(stream, Bytes::new()).map(|_last| ())),
            }
        }
    }

    /// Sends the piece that waits for room, if there is one. True when it was the last.
    fn poll_waiting(
        &mut self,
        stream: &mut SendStream<Bytes>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<bool, Stop>> {
        if self.waiting.is_none() {
            return Poll::Ready(Ok(false));
        }
        while stream.capacity() == 0 {
            if !matches!(ready!(stream.poll_capacity(cx)), Some(Ok(_))) {
                return Poll::Ready(Err(Stop::Origin));
            }
        }
        let (piece, last) = self.waiting.take().unwrap_or_default();
        let sent = stream.send_data(piece, last);
        Poll::Ready(sent.map(|()| last).map_err(|_| Stop::Origin))
    }

    /// Takes the next piece of the body. True when that was all.
    fn put(&mut self, frame: Frame<Bytes>, stream: &mut SendStream<Bytes>) -> Result<bool, Stop> {
        let piece = match frame.into_data() {
            Ok(piece) => piece,
            Err(frame) => {
                // Trailers cannot be had again.
                self.taken = None;
                let trailers = frame.into_trailers().unwrap_or_default();
                stream.reserve_capacity(0);
                let sent = stream.send_trailers(trailers);
                return sent.map(|()| true).map_err(|_| Stop::Origin);
            }
        };
        let last = self.body.is_end_stream();
        if piece.is_empty() {
            return if last { finish(stream, piece) } else { Ok(false) };
        }
        self.keep(&piece);
        if !std::mem::replace(&mut self.begun, true) {
            // A new stream has no room before the driver has opened it, and that writes the head. A piece
            // that is at hand goes with it, in one write: h2 holds it until there is room, as we would.
            return stream.send_data(piece, last).map(|()| last).map_err(|_| Stop::Origin);
        }
        // No more than is at hand claims a share of the connection's window.
        stream.reserve_capacity(1);
        self.waiting = Some((piece, last));
        Ok(false)
    }

    fn keep(&mut self, piece: &Bytes) {
        self.taken_bytes += piece.len();
        match &mut self.taken {
            Some(pieces) if self.taken_bytes <= REPLAY => pieces.push(piece.clone()),
            _ => self.taken = None,
        }
    }
}

/// Ends the body with `piece`, which needs no room when it is empty.
fn finish(stream: &mut SendStream<Bytes>, piece: Bytes) -> Result<bool, Stop> {
    stream.send_data(piece, true).map(|()| true).map_err(|_| Stop::Origin)
}

impl Future for Outgoing {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        Outgoing::poll(self.get_mut(), cx).map(|_stopped| ())
    }
}

/// The task that sends the rest of a body. It ends with the answer.
struct Uploading(tokio::task::JoinHandle<()>);

impl Drop for Uploading {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The body of an answer on a stream. Dropped before its end, it resets the stream and leaves the
/// connection to the others.
pub(super) struct StreamBody {
    stream: RecvStream,
    seat: Seat,
    _uploading: Option<Uploading>,
    /// What of the announced length is still to come.
    length: Option<u64>,
    idle: Duration,
    data_over: bool,
    waiting_since: Option<Instant>,
}

impl StreamBody {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        if !self.data_over {
            match ready!(self.stream.poll_data(cx)) {
                Some(Ok(data)) => {
                    // From here on the agent's side holds it, which asks for more when it has room.
                    let _closed = self.stream.flow_control().release_capacity(data.len());
                    self.length = self.length.map(|n| n.saturating_sub(data.len() as u64));
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => self.data_over = true,
            }
        }
        let trailers = ready!(self.stream.poll_trailers(cx));
        Poll::Ready(trailers.map(|trailers| trailers.map(Frame::trailers)).transpose())
    }

    fn rest_if_over(&mut self) {
        if self.stream.is_end_stream() {
            self.seat.rest();
        }
    }
}

impl Body for StreamBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        if let Poll::Ready(next) = this.poll_next(cx) {
            this.waiting_since = None;
            this.rest_if_over();
            return Poll::Ready(next.map(|frame| frame.map_err(BodyError::Reset)));
        }
        let since = *this.waiting_since.get_or_insert_with(Instant::now);
        ready!(this.seat.alarm.poll(cx, since + this.idle));
        Poll::Ready(Some(Err(BodyError::Idle(this.idle))))
    }

    fn is_end_stream(&self) -> bool {
        self.stream.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.length.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

type Wire = Connection<Metered, Bytes>;

/// Moves the bytes of a connection until it ends, or until nobody holds it and its streams are over.
struct Driver {
    pinger: Pinger,
    /// Ready when the last holder has let go.
    released: Option<oneshot::Receiver<Infallible>>,
    /// Others wait behind it for the first SETTINGS.
    turn: Option<(Turn, Pin<Box<Sleep>>)>,
    vitals: Arc<Vitals>,
}

/// A connection, and the timer that asks whether it lives.
struct Pinger {
    connection: Wire,
    ping: Option<PingPong>,
    alarm: Pin<Box<Sleep>>,
    /// What had been read when the timer was set.
    heard: u64,
    asked: bool,
}

fn connection_pinger(mut connection: Wire) -> Pinger {
    let ping = connection.ping_pong();
    Pinger { connection, ping, alarm: Box::pin(sleep(PING_AFTER)), heard: 0, asked: false }
}

impl Driver {
    fn note_settings(&mut self, cx: &mut Context<'_>) {
        let limit = self.pinger.connection.max_concurrent_send_streams();
        self.vitals.limit.store(limit, Ordering::Relaxed);
        let Some((_, patience)) = &mut self.turn else { return };
        // The origin's first frame is its SETTINGS (RFC 9113 section 3.4).
        let heard = limit != UNTIL_SETTINGS || self.vitals.read.load(Ordering::Relaxed) > 0;
        if heard || patience.as_mut().poll(cx).is_ready() {
            self.turn = None;
        }
    }
}

impl Future for Driver {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        loop {
            let over = match Pin::new(&mut this.pinger.connection).poll(cx) {
                Poll::Ready(Ok(())) => true,
                Poll::Ready(Err(error)) => {
                    let error = WithoutWords(&error);
                    tracing::debug!(%error, "an HTTP/2 connection to an origin ended");
                    true
                }
                Poll::Pending => this.pinger.poll(cx, &this.vitals).is_ready(),
            };
            if over {
                this.vitals.closing.store(true, Ordering::Release);
                this.turn = None;
                return Poll::Ready(());
            }
            this.note_settings(cx);
            // h2 does not notice by itself that the last handle is gone.
            let released = this.released.as_mut().map(|released| Pin::new(released).poll(cx));
            if !matches!(released, Some(Poll::Ready(_))) {
                return Poll::Pending;
            }
            this.released = None;
        }
    }
}

/// Shows an error without what the other side of HTTP/2 said beside its reason: the debug data of a GOAWAY, which
/// h2 shows with the error, may be any text, and so what its sender was sent.
pub struct WithoutWords<'a>(pub &'a (dyn StdError + 'static));

impl fmt::Display for WithoutWords<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let error = self.0.downcast_ref::<h2::Error>();
        match error.and_then(|error| Some((error.is_remote(), error.reason()?))) {
            Some((true, reason)) => write!(f, "the other side says: {}", reason.description()),
            Some((false, reason)) => f.write_str(reason.description()),
            None => fmt::Display::fmt(self.0, f),
        }
    }
}

impl Pinger {
    /// Ready when the other side is dead.
    fn poll(&mut self, cx: &mut Context<'_>, vitals: &Vitals) -> Poll<()> {
        loop {
            ready!(self.alarm.as_mut().poll(cx));
            let read = vitals.read.load(Ordering::Relaxed);
            let silent = read == self.heard && vitals.open.load(Ordering::Relaxed) > 0;
            if silent && self.asked {
                tracing::debug!("an origin does not answer a ping any more");
                return Poll::Ready(());
            }
            self.heard = read;
            self.asked = silent && self.ask(cx);
            let next = if self.asked { PONG_WITHIN } else { PING_AFTER };
            self.alarm.as_mut().reset(Instant::now() + next);
        }
    }

    fn ask(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(ping) = &mut self.ping else { return false };
        // Takes the last answer, without which there is no next question.
        let _last = ping.poll_pong(cx);
        ping.send_ping(Ping::opaque()).is_ok()
    }
}

/// Counts what passes, so that it is known whether anything was sent, and when something came.
struct Metered {
    inner: Stream,
    leash: Leash,
    vitals: Arc<Vitals>,
}

impl AsyncRead for Metered {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.leash.check()?;
        let before = buf.filled().len();
        let read = Pin::new(&mut self.inner).poll_read(cx, buf);
        if read.is_pending() {
            self.leash.wait(cx)?;
        }
        ready!(read)?;
        self.vitals.read.fetch_add((buf.filled().len() - before) as u64, Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }
}

impl Metered {
    fn note(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(bytes)) = written {
            self.vitals.written.fetch_add(bytes as u64, Ordering::Relaxed);
        }
        written
    }
}

impl AsyncWrite for Metered {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.leash.check()?;
        let written = Pin::new(&mut self.inner).poll_write(cx, buf);
        self.note(written)
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
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.leash.check()?;
        let written = Pin::new(&mut self.inner).poll_write_vectored(cx, bufs);
        self.note(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::Full;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, duplex};
    use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
    use tokio::time::timeout;

    const PATIENCE: Patience =
        Patience { response: Duration::from_secs(5), idle: Duration::from_secs(5) };

    /// The types of the frames (RFC 9113 section 6) that one write brought.
    fn types(mut bytes: &[u8]) -> Vec<u8> {
        let mut types = Vec::new();
        while let [a, b, c, kind, rest @ ..] = bytes {
            let length = usize::try_from(u32::from_be_bytes([0, *a, *b, *c])).unwrap();
            types.push(*kind);
            bytes = rest.get(5 + length..).unwrap();
        }
        types
    }

    /// What each read of the other end brings, as soon as it is there: by a task of its own, which has its
    /// turn as the connection's driver has.
    fn reads(mut far: ReadHalf<DuplexStream>) -> UnboundedReceiver<Vec<u8>> {
        let (tell, reads) = unbounded_channel();
        tokio::spawn(async move {
            let mut bytes = vec![0; 64 * 1024];
            while let Ok(read @ 1..) = far.read(&mut bytes).await {
                let _nobody_listens = tell.send(bytes[..read].to_vec());
            }
        });
        reads
    }

    #[tokio::test(start_paused = true)]
    async fn a_short_body_goes_with_its_head_in_one_write() {
        const SETTINGS: u8 = 4;
        let (near, far) = duplex(1 << 20);
        let target = Authority::parse("api.test:443", None).unwrap();
        let connection =
            Multiplex::open(Stream::Memory(near), &target, None, Leash::default()).await.unwrap();
        let (far, mut answers) = tokio::io::split(far);
        answers.write_all(&[0, 0, 0, SETTINGS, 0, 0, 0, 0, 0]).await.unwrap();
        let mut reads = reads(far);
        while timeout(Duration::from_millis(10), reads.recv()).await.is_ok() {}
        let (body, upload) = RequestBody::new(Full::new(Bytes::from_static(b"once")));
        let request = Request::post("/pay").header("host", "api.test").body(body).unwrap();
        let seat = connection.seat().unwrap();
        let asking = tokio::spawn(async move {
            seat.exchange(request, upload.as_deref(), PATIENCE, None).await.is_ok()
        });
        assert_eq!(types(&reads.recv().await.unwrap()), [1, 0], "HEADERS and DATA");
        asking.abort();
    }
}
