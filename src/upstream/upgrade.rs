//! The handshake of a WebSocket with its origin, and the two ways of the stream that it leaves.
//!
//! Over HTTP/1.1 each handshake has a new connection, which stops speaking HTTP. One from the pool
//! would save its opening once for a socket that lives for minutes, and would be gone from the pool
//! afterwards. Over HTTP/2 it is one more stream (RFC 8441): of a connection that is there and whose
//! origin has said that it takes them, or of a new one where the origin speaks nothing else.

use std::fmt;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use h2::{RecvStream, SendStream};
use http::request::Parts;
use http::{Request, Response, StatusCode, Version};
use http_body::{Body, Frame};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadHalf, WriteHalf};
use tokio::time::Instant;

use super::body::{RequestBody, UpstreamBody};
use super::h2::{NoStream, OpenStream, Seat};
use super::link::{Answer, Link, Patience, Stream};
use super::pool::{Lane, PoolKey};
use super::trust::{Offer, speaks_other};
use super::{Call, Sent, Timing, Upstream, Way, one_framing, refusal};
use crate::host::Authority;
use crate::outcome::{Code, Refusal};
use crate::record::Recorded;
use crate::request::Handshake;

/// The answer to a handshake.
pub enum Upgraded {
    /// The origin goes on as a WebSocket.
    Switched(Switched),
    /// It does not. An answer like any other.
    Declined(Sent),
}

/// A connection that is a WebSocket now.
#[derive(Debug)]
pub struct Switched {
    /// The head of the 101, untouched; its body is all that the origin sends from now on.
    pub response: Response<Downlink>,
    /// The way to the origin.
    pub uplink: Uplink,
    /// Where the time went.
    pub timing: Timing,
    /// How long neither side may say anything.
    pub idle: Duration,
}

/// A handshake, and what it is sent for.
struct Asking<'a> {
    call: Call<'a>,
    way: Way<'a>,
    key: PoolKey,
    handshake: &'a Handshake,
    patience: Patience,
}

impl Asking<'_> {
    fn target(&self) -> &Authority {
        &self.call.origin.authority
    }
}

impl Upstream {
    /// Sends the handshake of a WebSocket, and takes the stream over when the origin agrees.
    ///
    /// # Errors
    /// As [`Upstream::send`]; `upstream-failed` for a 101 that does not answer this handshake.
    pub async fn upgrade<B>(
        &self,
        request: Recorded<Request<B>>,
        call: Call<'_>,
        handshake: &Handshake,
    ) -> Result<Upgraded, Refusal> {
        let (parts, _none) = request.into_inner().into_parts();
        let route = self.routes.find(&call.origin.authority.host);
        let patience = Patience {
            response: call.response_timeout.unwrap_or(self.timeouts.response),
            idle: call.idle_timeout.unwrap_or(self.timeouts.idle),
        };
        let key = self.pool.key(call.origin, route.id, call.principal);
        let way = Way::of(route, &call);
        let asking = Asking { call, way, key, handshake, patience };
        if let Some(seat) = self.pool.socket_seat(&asking.key)
            && let Some(upgraded) = ask_shared(&asking, &parts, seat, Timing::default()).await?
        {
            return Ok(upgraded);
        }
        match self.new_link(&asking).await {
            Err(refusal) if speaks_other(&refusal) && !route.http1_only => {
                let (seat, timing) = self.new_seat(&asking).await?;
                let answer = ask_shared(&asking, &parts, seat, timing).await?;
                answer.ok_or_else(|| no_way(asking.target()))
            }
            opened => self.ask_alone(asking, parts, opened?).await,
        }
    }

    /// A new connection that speaks HTTP/1.1.
    async fn new_link(&self, asking: &Asking<'_>) -> Result<(Box<Link>, Timing), Refusal> {
        let Call { origin, principal, .. } = asking.call;
        let (stream, timing) = self.stream(origin, principal, asking.way, Offer::Http1).await?;
        let leash = self.leashes.hold(principal);
        Ok((Box::new(Link::new(stream, leash)), timing))
    }

    /// A stream of a new connection that speaks HTTP/2, or of one that somebody else opens meanwhile.
    async fn new_seat(&self, asking: &Asking<'_>) -> Result<(Seat, Timing), Refusal> {
        let opening = self.pool.opening(&asking.key);
        let turn = opening.turn().await?;
        if let Some(seat) = self.pool.socket_seat(&asking.key) {
            return Ok((seat, Timing::default()));
        }
        let mut turn = Some(turn);
        let opened = self.open(&asking.key, asking.way, Some(&mut turn)).await;
        if let (Err(refusal), Some(turn)) = (&opened, turn) {
            opening.failed(turn, refusal);
        }
        let (Lane::Shared(seat), timing) = opened? else { return Err(no_way(asking.target())) };
        // The turn is free again when the origin has said what it takes.
        let _heard = opening.turn().await;
        if seat.takes_sockets() { Ok((seat, timing)) } else { Err(no_way(asking.target())) }
    }

    /// Over HTTP/1.1.
    async fn ask_alone(
        &self,
        asking: Asking<'_>,
        parts: Parts,
        (mut link, mut timing): (Box<Link>, Timing),
    ) -> Result<Upgraded, Refusal> {
        let Asking { call, key, handshake, patience, .. } = asking;
        call.look_again(&parts.headers)?;
        let target = &call.origin.authority;
        let mut request = Request::from_parts(parts, RequestBody::Empty);
        *request.version_mut() = Version::HTTP_11;
        let start = Instant::now();
        let answer = link.exchange(request, None, patience, None).await;
        let answer = answer.map_err(|failure| refusal(&failure, target, None))?;
        timing.head = start.elapsed();
        if answer.response.status() != StatusCode::SWITCHING_PROTOCOLS {
            let response = self.receive(answer, link, key, patience.idle)?;
            return Ok(Upgraded::Declined(Sent { response, reused: false, timing }));
        }
        let Answer { response, incoming, rest } = answer;
        handshake.check_answer(response.headers()).map_err(|fault| wrong(target, fault))?;
        if rest.is_some() {
            return Err(wrong(target, "switched protocols before it was asked"));
        }
        let (read, write) = tokio::io::split(link.into_stream());
        // What the origin sent right behind its 101 was read already, and comes first.
        let downlink = Downlink(Down::Alone(Chunks::new(read, incoming.into_unread())));
        let response = response.map(|()| downlink);
        let uplink = Uplink(Up::Alone(write));
        Ok(Upgraded::Switched(Switched { response, uplink, timing, idle: patience.idle }))
    }
}

/// Over HTTP/2. None when the origin has not looked at it, and another connection may have it.
async fn ask_shared(
    asking: &Asking<'_>,
    parts: &Parts,
    seat: Seat,
    mut timing: Timing,
) -> Result<Option<Upgraded>, Refusal> {
    let reused = timing.is_reused();
    let idle = asking.patience.idle;
    asking.call.look_again(&parts.headers)?;
    let start = Instant::now();
    let opened = match seat.open_socket(parts, asking.patience).await {
        Ok(opened) => opened,
        Err(NoStream::Elsewhere) => return Ok(None),
        Err(NoStream::Failed(failure)) => return Err(refusal(&failure, asking.target(), None)),
    };
    timing.head = start.elapsed();
    if !opened.response.status().is_success() {
        let mut response = opened.declined().into_body(idle).map(UpstreamBody::stream);
        one_framing(response.headers_mut(), asking.target())?;
        return Ok(Some(Upgraded::Declined(Sent { response, reused, timing })));
    }
    let OpenStream { response, sending, seat } = opened;
    let seat = Arc::new(seat);
    let uplink = Uplink(Up::Shared { stream: sending, _seat: Arc::clone(&seat) });
    let mut response = response.map(|stream| Downlink(Down::Shared { stream, _seat: seat }));
    // What the 2xx of an extended CONNECT stands for.
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    asking.handshake.complete_answer(response.headers_mut());
    Ok(Some(Upgraded::Switched(Switched { response, uplink, timing, idle })))
}

fn no_way(target: &Authority) -> Refusal {
    wrong(target, "speaks HTTP/2 alone, and takes no WebSocket in it")
}

fn wrong(target: &Authority, fault: &'static str) -> Refusal {
    Refusal::with_detail(Code::UpstreamFailed, format!("{target} {fault}"))
}

/// The way from an origin that has switched protocols: a body without a length, which ends in order
/// when the origin says so, and with an error when the connection breaks.
pub struct Downlink(Down);

enum Down {
    /// All that comes over a connection.
    Alone(Chunks<ReadHalf<Stream>>),
    /// What comes on one stream of it, which is held until both ways are over.
    Shared { stream: RecvStream, _seat: Arc<Seat> },
}

impl Body for Downlink {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let chunk = match &mut self.0 {
            Down::Alone(chunks) => ready!(chunks.poll_next(cx)).transpose(),
            Down::Shared { stream, .. } => ready!(stream.poll_data(cx)).map(|data| {
                let data = data.map_err(io::Error::other)?;
                // From here on the agent's side holds it, which asks for more when it has room.
                let _closed = stream.flow_control().release_capacity(data.len());
                Ok(data)
            }),
        };
        Poll::Ready(chunk.map(|chunk| chunk.map(Frame::data)))
    }
}

impl fmt::Debug for Downlink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Downlink").finish_non_exhaustive()
    }
}

/// The way to an origin that has switched protocols. Dropped before it was shut down, it breaks off.
pub struct Uplink(Up);

enum Up {
    Alone(WriteHalf<Stream>),
    Shared { stream: SendStream<Bytes>, _seat: Arc<Seat> },
}

/// Sends as much of `bytes` as the other side of a stream has room for.
///
/// # Errors
/// When it takes no more.
pub fn poll_send(
    stream: &mut SendStream<Bytes>,
    cx: &mut Context<'_>,
    bytes: &[u8],
) -> Poll<io::Result<usize>> {
    stream.reserve_capacity(bytes.len());
    while stream.capacity() == 0 && !bytes.is_empty() {
        match ready!(stream.poll_capacity(cx)) {
            Some(Ok(_)) => {}
            Some(Err(error)) => return Poll::Ready(Err(io::Error::other(error))),
            None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }
    let length = stream.capacity().min(bytes.len());
    let sent = stream.send_data(Bytes::copy_from_slice(&bytes[..length]), false);
    Poll::Ready(sent.map(|()| length).map_err(io::Error::other))
}

impl AsyncWrite for Uplink {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.0 {
            Up::Alone(stream) => Pin::new(stream).poll_write(cx, bytes),
            Up::Shared { stream, .. } => poll_send(stream, cx, bytes),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.0 {
            Up::Alone(stream) => Pin::new(stream).poll_flush(cx),
            // Its connection has a task that writes what there is.
            Up::Shared { .. } => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.0 {
            Up::Alone(stream) => Pin::new(stream).poll_shutdown(cx),
            Up::Shared { stream, .. } => {
                Poll::Ready(stream.send_data(Bytes::new(), true).map_err(io::Error::other))
            }
        }
    }
}

impl fmt::Debug for Uplink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Uplink").finish_non_exhaustive()
    }
}

/// The least and the most that is read at once. Most frames are short, and a TLS record is 16 KiB.
const READ: (usize, usize) = (1024, 16 * 1024);

/// The chunks of a stream as they come. A stream that is silent holds no buffer: sockets are many,
/// and wait most of the time.
pub struct Chunks<R> {
    inner: R,
    /// Read before this began.
    early: Bytes,
    /// How much to read next: more while there is more.
    next: usize,
}

impl<R: AsyncRead + Unpin> Chunks<R> {
    /// Of `early`, and then of what `inner` reads.
    pub fn new(inner: R, early: Bytes) -> Self {
        Self { inner, early, next: READ.0 }
    }

    /// The next chunk; none at the end.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        if !self.early.is_empty() {
            return Poll::Ready(Ok(Some(std::mem::take(&mut self.early))));
        }
        let mut buffer = BytesMut::with_capacity(self.next);
        let read = ready!(pin!(self.inner.read_buf(&mut buffer)).poll(cx))?;
        self.next = if read == self.next { (2 * read).min(READ.1) } else { READ.0.max(read) };
        Poll::Ready(Ok((read > 0).then(|| buffer.freeze())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use tokio::io::{AsyncWriteExt, duplex};

    #[tokio::test]
    async fn chunks_are_all_of_the_bytes_in_order_and_a_silent_stream_is_pending() {
        let (near, mut far) = duplex(64 * 1024);
        let mut chunks = Chunks::new(near, Bytes::from_static(b"early"));
        let mut next = async || poll_fn(|cx| chunks.poll_next(cx)).await.unwrap();
        assert_eq!(next().await.unwrap(), "early");
        let sent: Vec<u8> = (0..50_000_u32).flat_map(u32::to_le_bytes).collect();
        let (first, rest) = sent.split_at(60_000);
        far.write_all(first).await.unwrap();
        let mut sizes = Vec::new();
        let mut seen = Vec::new();
        while seen.len() < first.len() {
            let chunk = next().await.unwrap();
            sizes.push(chunk.len());
            seen.extend_from_slice(&chunk);
        }
        assert_eq!(sizes[..5], [1024, 2048, 4096, 8192, 16384], "{sizes:?}");
        let writing = tokio::spawn({
            let rest = rest.to_vec();
            async move { far.write_all(&rest).await }
        });
        while let Some(chunk) = next().await {
            seen.extend_from_slice(&chunk);
        }
        writing.await.unwrap().unwrap();
        assert!(seen == sent, "{} of {} bytes", seen.len(), sent.len());
        assert!(next().await.is_none(), "the end stays the end");
    }
}
