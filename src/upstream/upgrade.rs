//! A connection to an origin that stops speaking HTTP: the handshake of a WebSocket, and the two ways
//! of the stream that it leaves.
//!
//! Each handshake has a new connection. One from the pool would save its opening once for a socket
//! that lives for minutes, and would be gone from the pool afterwards.

use std::fmt;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{Request, Response, StatusCode, Version};
use http_body::{Body, Frame};
use hyper::body::Incoming;
use hyper::client::conn::http1::Parts;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadHalf, WriteHalf};
use tokio::time::{Instant, timeout};

use super::body::RequestBody;
use super::link::{Failure, Link, Stream};
use super::trust::Offer;
use super::{Call, Sent, Timing, Upstream, broken, refusal};
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
        let mut request = request.into_inner().map(|_none| RequestBody::Empty);
        *request.version_mut() = Version::HTTP_11;
        let target = &call.origin.authority;
        let route = self.routes.find(&target.host);
        let (stream, mut timing) =
            self.stream(call.origin, call.principal, route, Offer::Http1).await?;
        let mut link = Link::new(stream).await.map_err(|error| broken(&error, target))?;
        let start = Instant::now();
        let patience = call.response_timeout.unwrap_or(self.timeouts.response);
        let idle = call.idle_timeout.unwrap_or(self.timeouts.idle);
        let answer = timeout(patience, ask(&mut link, request)).await;
        let answer = answer.map_err(|_late| refusal(&Failure::Late, target, None))?;
        let mut response = answer.map_err(|error| broken(&error, target))?;
        timing.head = start.elapsed();
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            let key = self.pool.key(call.origin, route.id, call.principal);
            let response = self.receive(response, Box::new(link), None, key, idle)?;
            return Ok(Upgraded::Declined(Sent { response, reused: false, timing }));
        }
        handshake.check_answer(response.headers()).map_err(|fault| wrong(target, fault))?;
        response.extensions_mut().remove::<hyper::upgrade::OnUpgrade>();
        let (downlink, uplink) =
            take_stream(link).ok_or_else(|| wrong(target, "broke off after its answer"))?;
        let response = response.map(|_none| downlink);
        Ok(Upgraded::Switched(Switched { response, uplink, timing, idle }))
    }
}

fn wrong(target: &Authority, fault: &'static str) -> Refusal {
    Refusal::with_detail(Code::UpstreamFailed, format!("{target} {fault}"))
}

/// Sends a request that may end HTTP, and leaves the connection as its answer wants it.
async fn ask(link: &mut Link, request: Request<RequestBody>) -> hyper::Result<Response<Incoming>> {
    let driver = &mut link.driver;
    let mut answer = pin!(link.sender.send_request(request));
    let mut over = false;
    let answer = std::future::poll_fn(|cx| {
        if let Some(driver) = driver.as_mut().filter(|_| !over) {
            // Not shut down: after a 101 the stream goes on, with other bytes.
            over = driver.poll_without_shutdown(cx).is_ready();
        }
        match answer.as_mut().poll(cx) {
            Poll::Pending if over => {
                // Dropping it hands a waiting answer its error.
                *driver = None;
                answer.as_mut().poll(cx)
            }
            polled => polled,
        }
    });
    let answer = answer.await?;
    if over && answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        *driver = None;
    }
    Ok(answer)
}

/// Takes the stream from under HTTP. What the origin sent right behind its 101 was read already, and
/// comes first. None when the connection has ended.
fn take_stream(link: Link) -> Option<(Downlink, Uplink)> {
    let Parts { io, read_buf, .. } = link.driver?.into_parts();
    let (read, write) = tokio::io::split(io.into_inner().into_inner().stream);
    Some((Downlink(Chunks::new(read, read_buf)), Uplink(write)))
}

/// The way from an origin that has switched protocols: a body without a length, which ends in order
/// when the origin says so, and with an error when the connection breaks.
pub struct Downlink(Chunks<ReadHalf<Stream>>);

impl Body for Downlink {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let chunk = ready!(self.0.poll_next(cx)).transpose();
        Poll::Ready(chunk.map(|chunk| chunk.map(Frame::data)))
    }
}

impl fmt::Debug for Downlink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Downlink").finish_non_exhaustive()
    }
}

/// The way to an origin that has switched protocols.
pub struct Uplink(WriteHalf<Stream>);

impl AsyncWrite for Uplink {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
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
