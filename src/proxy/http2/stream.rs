//! One stream of an agent: a request, its answer, and what comes before that. Or the WebSocket that it
//! becomes.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body::{Body as _, Frame};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::timeout;

use super::super::Gateway;
use super::super::body::Body;
use super::super::date;
use super::super::exchange::{Route, exchange, unreadable};
use super::super::expect::{Wanted, is_expected};
use super::super::handed::{Hand, Handed};
use super::super::incoming::{Incoming, StreamBody};
use super::super::interim::Outlet;
use super::super::unread::Unread;
use super::vitals::Open;
use crate::outcome::Code;
use crate::upstream::poll_send;

/// A stream that was opened.
pub(super) struct Stream {
    pub(super) gateway: Arc<Gateway>,
    pub(super) route: Arc<Route>,
    pub(super) open: Open,
    pub(super) respond: SendResponse<Bytes>,
}

/// What becomes of an extended CONNECT: whom its stream is brought to, and the agent's half of it.
type Opening = (Hand<Duplex>, RecvStream);

impl Stream {
    /// Answers the request, and sends the answer as far as the agent takes it.
    pub(super) async fn serve(self, mut request: Request<RecvStream>) {
        let Self { gateway, route, mut open, mut respond } = self;
        if has_connect_body(&request) {
            // Recorded, and not answered: what follows is no HTTP.
            let _unsent = unreadable(&gateway, &route, Code::BadRequest);
            return respond.send_reset(Reason::PROTOCOL_ERROR);
        }
        if says_it_is_empty(&request)
            && !is_empty(request.body_mut(), gateway.limits.head_time).await
        {
            let _unsent = unreadable(&gateway, &route, Code::BadRequest);
            return respond.send_reset(Reason::PROTOCOL_ERROR);
        }
        let is_head = *request.method() == Method::HEAD;
        let (request, wanted, opening) = received(request);
        let outlet = Outlet::of_stream();
        let answer = pin!(exchange(&gateway, &route, request, &outlet));
        let answer = answered(answer, &mut respond, wanted.as_deref(), &outlet).await;
        let Some(mut answer) = answer else { return };
        if is_head {
            // On HTTP/1.1 a HEAD is answered with the length of our own body, too.
            *answer.body_mut() = Body::empty();
        }
        if let Some(opening) = opening.filter(|_| answer.status().is_success()) {
            return become_socket(answer, respond, opening, open);
        }
        let Some(sending) = begun(answer, &mut respond, &mut open) else { return };
        if sending.sent(gateway.limits.idle_reader).await {
            open.finish();
        }
    }
}

/// Whether a CONNECT announces a body, which it cannot have: what follows it is no HTTP.
fn has_connect_body<B>(request: &Request<B>) -> bool {
    let length = request.headers().get(header::CONTENT_LENGTH);
    *request.method() == Method::CONNECT && length.is_some_and(|length| length != "0")
}

/// Whether a request that is not over says that it has no content.
fn says_it_is_empty(request: &Request<RecvStream>) -> bool {
    let length = request.headers().get(header::CONTENT_LENGTH);
    length.is_some_and(|length| length == "0") && !request.body().is_end_stream()
}

/// Waits for the end of a body that is to be empty. An origin of HTTP/1.1 takes its head for the whole
/// request, and one whose content is not as long as it says may not go on (RFC 9113 section 8.1.1).
async fn is_empty(body: &mut RecvStream, limit: Duration) -> bool {
    let over = async {
        loop {
            match poll_fn(|cx| body.poll_data(cx)).await {
                None => return true,
                Some(Ok(data)) if data.is_empty() => {}
                Some(_) => return false,
            }
        }
    };
    timeout(limit, over).await.unwrap_or(false)
}

/// The request as the steps take it, and what belongs to its stream alone.
fn received(
    request: Request<RecvStream>,
) -> (Request<Incoming>, Option<Arc<Wanted>>, Option<Opening>) {
    let (mut parts, stream) = request.into_parts();
    if parts.method == Method::CONNECT {
        let (bring, end) = Handed::new();
        parts.extensions.insert(end);
        return (Request::from_parts(parts, Incoming::Empty), None, Some((bring, stream)));
    }
    let wanted = is_expected(&parts.headers).then(Arc::<Wanted>::default);
    let body = StreamBody::new(stream, &parts.headers, wanted.clone());
    (Request::from_parts(parts, Incoming::Http2(body)), wanted, None)
}

/// Waits for the answer, and sends what comes before it. None when the agent has reset the stream: nobody
/// waits any more.
async fn answered(
    mut answer: Pin<&mut impl Future<Output = Response<Body>>>,
    respond: &mut SendResponse<Bytes>,
    wanted: Option<&Wanted>,
    outlet: &Outlet,
) -> Option<Response<Body>> {
    poll_fn(|cx| {
        let answer = answer.as_mut().poll(cx).map(Some);
        let mut early = outlet.take();
        if answer.is_pending() && wanted.is_some_and(|wanted| wanted.is_news(cx)) {
            early.push(go_on());
        }
        // Asked last where nothing came: it is what wakes us.
        if (answer.is_pending() || !early.is_empty()) && respond.poll_reset(cx).is_ready() {
            return Poll::Ready(None);
        }
        for early in early {
            if let Err(error) = respond.send_informational(early) {
                tracing::debug!(%error, "an interim answer was not sent");
            }
        }
        answer
    })
    .await
}

fn go_on() -> Response<()> {
    let mut head = Response::new(());
    *head.status_mut() = StatusCode::CONTINUE;
    head
}

/// Sends the head, and gives back what is still to be sent.
fn begun(
    answer: Response<Body>,
    respond: &mut SendResponse<Bytes>,
    open: &mut Open,
) -> Option<Sending> {
    let (mut head, body) = answer.into_parts();
    let over = body.is_end_stream();
    if let Some(length) = body.size_hint().exact().filter(|_| !over) {
        let told = head.headers.entry(header::CONTENT_LENGTH);
        told.or_insert_with(|| HeaderValue::from(length));
    }
    settle(&mut head.headers);
    let to = send_head(Response::from_parts(head, ()), respond, over)?;
    if over {
        open.finish();
        return None;
    }
    Some(Sending { body, to, waiting: None, unread: Unread::default() })
}

/// Ours close a connection of HTTP/1.1 by a field that HTTP/2 does not have; and a server says when it
/// answers (RFC 9110 section 6.6.1).
fn settle(headers: &mut HeaderMap) {
    headers.remove(header::CONNECTION);
    headers.entry(header::DATE).or_insert_with(date::now);
}

fn send_head(
    head: Response<()>,
    respond: &mut SendResponse<Bytes>,
    over: bool,
) -> Option<SendStream<Bytes>> {
    let sent = respond.send_response(head, over);
    if let Err(error) = &sent {
        tracing::debug!(%error, "the head of an answer was not sent");
        respond.send_reset(Reason::INTERNAL_ERROR);
    }
    sent.ok()
}

/// The origin agreed: the stream is no more HTTP's.
fn become_socket(
    answer: Response<Body>,
    mut respond: SendResponse<Bytes>,
    (bring, receiving): Opening,
    mut open: Open,
) {
    let (mut head, _none) = answer.into_parts();
    // Whoever believed a length would lose the first frames.
    head.headers.remove(header::CONTENT_LENGTH);
    settle(&mut head.headers);
    let Some(sending) = send_head(Response::from_parts(head, ()), &mut respond, false) else {
        return;
    };
    // An answer was given: whatever becomes of the socket, the stream was no flood.
    open.finish();
    let duplex = Duplex { receiving, unread: Bytes::new(), sending, _open: open };
    if let Err(mut nobody) = bring.send(duplex) {
        nobody.sending.send_reset(Reason::CANCEL);
    }
}

/// An answer's body on its way.
struct Sending {
    body: Body,
    to: SendStream<Bytes>,
    /// A piece that waits for the agent to make room, and whether it is the last.
    waiting: Option<(Bytes, bool)>,
    unread: Unread,
}

/// The agent wants no more of it, or takes none of it.
struct GivenUp;

impl Sending {
    /// Whether all of it was handed on.
    async fn sent(mut self, patience: Duration) -> bool {
        poll_fn(|cx| self.poll(cx, patience)).await.is_ok()
    }

    fn poll(&mut self, cx: &mut Context<'_>, patience: Duration) -> Poll<Result<(), GivenUp>> {
        loop {
            if ready!(self.poll_waiting(cx, patience))? {
                return Poll::Ready(Ok(()));
            }
            let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) else {
                // Nothing else would tell that nobody waits any more.
                return self.to.poll_reset(cx).map(|_reset| Err(GivenUp));
            };
            match frame {
                Some(Ok(frame)) => {
                    if self.put(frame)? {
                        return Poll::Ready(Ok(()));
                    }
                }
                Some(Err(error)) => {
                    tracing::debug!(error = %&*error, "an answer is broken off");
                    // The agent must not take what it has for the whole. The origin's own reason stays
                    // here: REFUSED_STREAM or NO_ERROR would say that nothing had happened.
                    self.to.send_reset(Reason::INTERNAL_ERROR);
                    return Poll::Ready(Err(GivenUp));
                }
                None => return Poll::Ready(self.finish(Bytes::new())),
            }
        }
    }

    /// Sends the piece that waits for room, if there is one, and no more of it than there is room for: so what
    /// is left of the body is not looked at before the agent has made room for all that came before, and its
    /// end, or its break, waits for that. True when it was the last.
    fn poll_waiting(
        &mut self,
        cx: &mut Context<'_>,
        patience: Duration,
    ) -> Poll<Result<bool, GivenUp>> {
        while let Some((mut piece, last)) = self.waiting.take() {
            let room = self.to.capacity();
            if room >= piece.len() {
                self.unread.moved();
                let sent = self.to.send_data(piece, last);
                return Poll::Ready(sent.map(|()| last).map_err(|_reset| GivenUp));
            }
            if room > 0 {
                self.unread.moved();
                let part = piece.split_to(room);
                self.to.send_data(part, false).map_err(|_reset| GivenUp)?;
            }
            // No more than is at hand claims a share of the connection's window.
            self.to.reserve_capacity(piece.len());
            self.waiting = Some((piece, last));
            ready!(self.poll_room(cx, patience))?;
        }
        Poll::Ready(Ok(false))
    }

    /// Ready when the agent has made room, or will not.
    fn poll_room(&mut self, cx: &mut Context<'_>, patience: Duration) -> Poll<Result<(), GivenUp>> {
        while self.to.capacity() == 0 {
            match self.to.poll_capacity(cx) {
                Poll::Ready(Some(Ok(_))) => {}
                Poll::Ready(_) => return Poll::Ready(Err(GivenUp)),
                Poll::Pending => {
                    if self.body.poll_withdrawn(cx).is_ready() {
                        self.to.send_reset(Reason::INTERNAL_ERROR);
                        return Poll::Ready(Err(GivenUp));
                    }
                    ready!(self.unread.poll(cx, patience));
                    tracing::debug!(?patience, "the agent took nothing of its answer");
                    self.to.send_reset(Reason::CANCEL);
                    return Poll::Ready(Err(GivenUp));
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Takes the next piece of the body. True when that was all.
    fn put(&mut self, frame: Frame<Bytes>) -> Result<bool, GivenUp> {
        let piece = match frame.into_data() {
            Ok(piece) => piece,
            Err(frame) => {
                let trailers = frame.into_trailers().unwrap_or_default();
                // What was claimed and not used is for the others.
                self.to.reserve_capacity(0);
                return match self.to.send_trailers(trailers) {
                    Ok(()) => Ok(true),
                    Err(error) => {
                        tracing::debug!(%error, "the end of an answer was not sent");
                        self.to.send_reset(Reason::INTERNAL_ERROR);
                        Err(GivenUp)
                    }
                };
            }
        };
        let last = self.body.is_end_stream();
        if piece.is_empty() {
            return if last { self.finish(piece).map(|()| true) } else { Ok(false) };
        }
        self.to.reserve_capacity(piece.len());
        self.waiting = Some((piece, last));
        Ok(false)
    }

    /// Ends the body with a piece that needs no room, for it is empty.
    fn finish(&mut self, piece: Bytes) -> Result<(), GivenUp> {
        self.to.send_data(piece, true).map_err(|_reset| GivenUp)
    }
}

/// A stream as a WebSocket uses it. Dropped before it was shut down, it breaks off (RFC 8441 section 5).
pub(in crate::proxy) struct Duplex {
    receiving: RecvStream,
    /// What came and has not been read.
    unread: Bytes,
    sending: SendStream<Bytes>,
    /// The connection is not idle.
    _open: Open,
}

impl AsyncRead for Duplex {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.unread.is_empty() {
            match ready!(self.receiving.poll_data(cx)) {
                Some(Ok(data)) => {
                    let _closed = self.receiving.flow_control().release_capacity(data.len());
                    self.unread = data;
                }
                Some(Err(error)) => return Poll::Ready(Err(io::Error::other(error))),
                None => return Poll::Ready(Ok(())),
            }
        }
        let length = self.unread.len().min(buf.remaining());
        buf.put_slice(&self.unread[..length]);
        self.unread.advance(length);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Duplex {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        poll_send(&mut self.sending, cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Its connection has a task that writes what there is.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.sending.send_data(Bytes::new(), true).map_err(io::Error::other))
    }
}
