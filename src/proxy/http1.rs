//! An agent's HTTP/1.1 connection inside a tunnel, which costs little while it waits.
//!
//! hyper serves while there is something to serve. A connection that says nothing for a moment is
//! taken apart, and only its stream is kept until the next byte comes: most connections of agents
//! wait most of the time, and hyper's buffers are two thirds of what one of them costs.

use std::error::Error;
use std::io::{self, ErrorKind};
use std::mem::MaybeUninit;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, header};
use hyper::body::Incoming;
use hyper::server::conn::http1::{Builder, Connection, UpgradeableConnection};
use hyper::service::{HttpService, service_fn};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until, timeout};

use super::body::Body;
use super::echo::Listening;
use super::inlet::{Answer, Clocks, Inlet, Progress, Refuse, has_left};
use super::interim::Outlet;

/// How long a connection says nothing before it is taken apart. Longer than a client needs that has
/// its next request ready; shorter than a model thinks. To put a connection together again costs a
/// microsecond; to keep the buffers of each would cost 24 KiB.
const QUIET: Duration = Duration::from_millis(50);

/// The most that is read of the next request to see that there is one.
const FIRST_BYTES: usize = 512;

/// The fields of a head for which hyper has room on the stack; for another bound it allocates with
/// each request.
const HYPER_HEADERS: usize = 100;

/// What bounds a connection.
#[derive(Clone, Copy)]
pub(super) struct Bounds {
    /// Bytes of a head.
    pub(super) head_bytes: usize,
    /// Fields of a head.
    pub(super) headers: usize,
    /// For a head, and for an answer that is not taken.
    pub(super) clocks: Clocks,
    /// For the first byte of a head.
    pub(super) idle: Duration,
}

/// Serves `stream` until it ends, answering each request with `answer`, and with `refuse` what
/// cannot be read as one. When `stop` is ready, the request in flight is the last one.
///
/// # Errors
/// When the client broke the protocol or the connection, or was too slow.
pub(super) async fn serve<S, A, F>(
    stream: S,
    bounds: Bounds,
    stop: impl Future<Output = ()>,
    refuse: Refuse,
    answer: A,
) -> Result<(), Box<dyn Error + Send + Sync>>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    A: Fn(Request<Incoming>, Outlet) -> F,
    F: Future<Output = Response<Body>>,
{
    let progress = Arc::<Progress>::default();
    let mut stop = pin!(stop);
    let mut next = Some((stream, Bytes::new()));
    while let Some((stream, unread)) = next.take() {
        let inlet = Inlet::new(stream, Arc::clone(&progress), bounds.clocks, Arc::clone(&refuse));
        let inlet = inlet.spelling().with_unread(unread);
        // In a box, so that a connection that waits is not as large as one that serves.
        let quiet = Box::pin(active(inlet, &progress, bounds, stop.as_mut(), &answer)).await?;
        if let Some(quiet) = quiet {
            next = wait(quiet, bounds.idle, stop.as_mut()).await?;
        }
    }
    Ok(())
}

/// Waits for the first bytes of the next request. None when there will be none.
async fn wait<S>(
    (mut stream, unread): (S, Bytes),
    idle: Duration,
    mut stop: Pin<&mut impl Future<Output = ()>>,
) -> io::Result<Option<(S, Bytes)>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    if !unread.is_empty() {
        return Ok(Some((stream, unread)));
    }
    let first = std::future::poll_fn(|cx| {
        if stop.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Ok(Bytes::new()));
        }
        // TLS may hold the last of an answer; an error shows in the read.
        let _flushed = Pin::new(&mut stream).poll_flush(cx);
        poll_first(&mut stream, cx)
    });
    let first = timeout(idle, first).await.unwrap_or_else(|_| Err(ErrorKind::TimedOut.into()));
    if first.as_ref().is_ok_and(|first| !first.is_empty()) {
        return first.map(|first| Some((stream, first)));
    }
    if !first.as_ref().is_err_and(has_left) {
        // In TLS this says that nothing was cut off. Whether the client hears it is its own matter.
        let _gone = stream.shutdown().await;
    }
    first.map(|_nothing| None)
}

/// Nothing at the end of the stream.
fn poll_first<S: AsyncRead + Unpin>(
    stream: &mut S,
    cx: &mut Context<'_>,
) -> Poll<io::Result<Bytes>> {
    // On the stack, and only while it is looked at: a place in the future would be there for as long
    // as the connection waits.
    let mut space = [MaybeUninit::<u8>::uninit(); FIRST_BYTES];
    let mut first = ReadBuf::uninit(&mut space);
    ready!(Pin::new(stream).poll_read(cx, &mut first))?;
    Poll::Ready(Ok(Bytes::copy_from_slice(first.filled())))
}

/// Serves requests until there are none for [`QUIET`], and gives the stream back, with what was read
/// of it; or until the connection ends.
async fn active<S, A, F>(
    inlet: Inlet<S>,
    progress: &Arc<Progress>,
    bounds: Bounds,
    mut stop: Pin<&mut impl Future<Output = ()>>,
    answer: &A,
) -> hyper::Result<Option<(S, Bytes)>>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    A: Fn(Request<Incoming>, Outlet) -> F,
    F: Future<Output = Response<Body>>,
{
    let service = service_fn(|request: Request<Incoming>| {
        if request.headers().contains_key(header::UPGRADE) {
            progress.may_switch();
        }
        let (answering, request) = progress.begin(request);
        // Called within: what is captured has a place of its own beside what is awaited.
        async move {
            progress.until_it_can_switch().await;
            let answer = answer(request, Outlet::of(progress)).await;
            Ok::<_, std::convert::Infallible>(answering.until_the_end_of(answer))
        }
    });
    let keeps_names = progress.is_mixed();
    let connection = settings(bounds, keeps_names).serve_connection(TokioIo::new(inlet), service);
    let mut serving = Serving::Http(connection);
    let mut clock = Clock { turn: progress.requests(), since: Instant::now(), quiet: true };
    let mut sleep = pin!(sleep_until(clock.since + QUIET));
    let mut stopping = false;
    let mut listening = Listening::default();
    let over = std::future::poll_fn(|cx| {
        if !stopping && stop.as_mut().poll(cx).is_ready() {
            stopping = true;
            serving.stop();
        }
        if let Poll::Ready(ended) = listening.poll(cx, |cx| serving.poll(cx)) {
            return Poll::Ready(ended.map(|()| false));
        }
        if progress.is_mixed() != keeps_names {
            // Nothing of the head went further, so it is served as if it had come to the next.
            return Poll::Ready(Ok(true));
        }
        if progress.is_to_switch() {
            serving.let_switch();
            progress.made_to_switch();
        }
        clock.poll(progress, serving.patience(bounds), sleep.as_mut(), cx).map(|()| Ok(true))
    })
    .await?;
    Ok(if over { serving.into_stream() } else { None })
}

fn settings(bounds: Bounds, keeps_names: bool) -> Builder {
    let mut builder = Builder::new();
    builder
        // The inlet has a clock that begins with the first byte of a head. hyper's begins with the
        // end of the last answer, and is made anew for each request.
        .header_read_timeout(None)
        .max_buf_size(bounds.head_bytes.max(8192))
        .max_header_size(bounds.head_bytes)
        .preserve_header_case(keeps_names);
    if bounds.headers != HYPER_HEADERS {
        builder.max_headers(bounds.headers);
    }
    builder
}

/// hyper's connection. One that may switch protocols cannot be taken apart any more, so it is made
/// one of those when it has been asked to, and no sooner.
enum Serving<S, V: HttpService<Incoming>> {
    Http(Connection<TokioIo<Inlet<S>>, V>),
    MaySwitch(UpgradeableConnection<TokioIo<Inlet<S>>, V>),
    /// Taken out, or between the two.
    Gone,
}

impl<S, V> Serving<S, V>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    V: HttpService<Incoming, ResBody = Answer>,
    V::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<hyper::Result<()>> {
        match self {
            Self::Http(connection) => Pin::new(connection).poll(cx),
            Self::MaySwitch(connection) => Pin::new(connection).poll(cx),
            Self::Gone => Poll::Ready(Ok(())),
        }
    }

    /// How long it may say nothing.
    fn patience(&self, bounds: Bounds) -> Duration {
        match self {
            Self::Http(_) => QUIET,
            Self::MaySwitch(_) | Self::Gone => bounds.idle,
        }
    }

    fn stop(&mut self) {
        match self {
            Self::Http(connection) => Pin::new(connection).graceful_shutdown(),
            Self::MaySwitch(connection) => Pin::new(connection).graceful_shutdown(),
            Self::Gone => {}
        }
    }

    fn let_switch(&mut self) {
        *self = match std::mem::replace(self, Self::Gone) {
            Self::Http(connection) => Self::MaySwitch(connection.with_upgrades()),
            other => other,
        };
    }

    fn into_stream(self) -> Option<(S, Bytes)> {
        let Self::Http(connection) = self else { return None };
        let parts = connection.into_parts();
        let (stream, ahead) = parts.io.into_inner().into_parts();
        // Both have bytes where a head came in pieces, and the last was held back.
        let unread = match (parts.read_buf.is_empty(), ahead.is_empty()) {
            (true, _) => ahead,
            (false, true) => parts.read_buf,
            (false, false) => [parts.read_buf, ahead].concat().into(),
        };
        Some((stream, held(unread)))
    }
}

/// What is left of a buffer, without the buffer where nothing is: a piece of no bytes keeps all 8 KiB of
/// hyper's for as long as the connection waits.
fn held(left: Bytes) -> Bytes {
    if left.is_empty() { Bytes::new() } else { left }
}

/// How long there has been nothing to serve.
struct Clock {
    turn: u32,
    quiet: bool,
    since: Instant,
}

impl Clock {
    /// Ready when that was so long. To be called whenever the connection may have moved.
    fn poll(
        &mut self,
        progress: &Progress,
        patience: Duration,
        mut sleep: Pin<&mut Sleep>,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        // A whole request and its answer may lie between two looks.
        let (turn, quiet) = (progress.requests(), progress.is_quiet());
        if (turn, quiet) != (self.turn, self.quiet) {
            (self.turn, self.quiet) = (turn, quiet);
            self.since = Instant::now();
        }
        if !quiet {
            return Poll::Pending;
        }
        let deadline = self.since + patience;
        // The timer is left where it is, goes off early, and is set anew: 20 times a second, and not
        // with each request.
        loop {
            ready!(sleep.as_mut().poll(cx));
            if sleep.deadline() >= deadline {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(deadline);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::signal::Bell;
    use crate::scrub::{Hidden, Interim};
    use bytes::Buf as _;
    use http::StatusCode;
    use tokio::io::{AsyncReadExt, DuplexStream, duplex};
    use tokio::task::JoinHandle;

    const BOUNDS: Bounds = Bounds {
        head_bytes: 8192,
        headers: 10,
        clocks: Clocks { head: Duration::from_secs(15), unread: Duration::from_mins(2) },
        idle: Duration::from_mins(10),
    };

    const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";

    struct Served {
        client: DuplexStream,
        bell: Bell,
        server: JoinHandle<Result<(), Box<dyn Error + Send + Sync>>>,
    }

    /// A connection whose answers have `length` bytes, through a pipe of `room` bytes.
    fn served(length: usize, room: usize) -> Served {
        let (client, far) = duplex(room);
        let bell = Bell::default();
        let mut signal = bell.signal();
        let server = tokio::spawn(async move {
            let answer = async |mut request: Request<Incoming>, outlet: Outlet| {
                if request.uri().path() == "/early" {
                    outlet.send(hint());
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    outlet.send(hint());
                }
                let mut response = Response::new(Body::whole(vec![b'x'; length].into()));
                if request.uri().path() == "/switch" {
                    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
                    let switched = hyper::upgrade::on(&mut request);
                    tokio::spawn(async move {
                        let mut stream = TokioIo::new(switched.await.unwrap());
                        let mut early = [0; 5];
                        stream.read_exact(&mut early).await.unwrap();
                        stream.write_all(&early).await.unwrap();
                    });
                }
                response
            };
            let refuse: Refuse = Arc::new(|_| Response::new(Body::whole("refused".into())));
            let stop = async move { signal.given().await };
            let answer = |request, outlet| Box::pin(answer(request, outlet));
            serve(far, BOUNDS, stop, refuse, answer).await
        });
        Served { client, bell, server }
    }

    /// An interim answer.
    fn hint() -> Interim {
        let head = Response::builder().status(103).header("link", "</a.css>").body(());
        Hidden::from(None).scrub_interim(head.unwrap())
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

    #[test]
    fn a_connection_that_waits_holds_no_buffer() {
        let buffer = Bytes::from(vec![b'x'; 8192]);
        let mut rest = buffer.clone();
        rest.advance(8192);
        let rest = held(rest);
        assert!(rest.is_empty() && buffer.is_unique());
        assert_eq!(held(buffer.slice(8000..)), buffer[8000..]);
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
        let error = served.server.await.unwrap().unwrap_err();
        assert_eq!(error.downcast::<io::Error>().unwrap().kind(), ErrorKind::TimedOut);
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
            assert!(served.server.await.unwrap().is_err());
            assert_eq!(begin.elapsed(), BOUNDS.clocks.head, "after {pause} s");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_behind_a_head_has_its_own_time() {
        let mut served = served(0, 1024);
        served.client.write_all(&[GET, &GET[..5]].concat()).await.unwrap();
        served.answer(0).await;
        tokio::time::sleep(BOUNDS.clocks.head.mul_f32(0.9)).await;
        served.client.write_all(&GET[5..]).await.unwrap();
        served.answer(0).await;
        served.client.write_all(&[GET, &GET[..5]].concat()).await.unwrap();
        served.answer(0).await;
        let begin = Instant::now();
        assert!(served.server.await.unwrap().is_err());
        assert_eq!(begin.elapsed().as_secs(), BOUNDS.clocks.head.as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_is_not_taken_is_kept_until_its_time_is_over() {
        let mut slow = served(5000, 16);
        slow.client.write_all(GET).await.unwrap();
        tokio::time::sleep(BOUNDS.clocks.unread.mul_f32(0.9)).await;
        slow.answer(5000).await;

        let mut never = served(5000, 16);
        never.client.write_all(GET).await.unwrap();
        let begin = Instant::now();
        assert!(never.server.await.unwrap().is_err());
        assert_eq!(begin.elapsed().as_secs(), BOUNDS.clocks.unread.as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn interim_answers_come_before_their_answer_and_fall_into_none() {
        const HINT: &str = "HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\n\r\n";
        const EARLY: &[u8] = b"GET /early HTTP/1.1\r\nhost: a\r\n\r\n";
        // Through a pipe that holds less than one of them, and through one that holds all.
        for room in [7, 1024] {
            let mut served = served(300, room);
            for _ in 0..2 {
                served.client.write_all(EARLY).await.unwrap();
                for _ in 0..2 {
                    let text = served.answer(0).await;
                    assert_eq!(text, HINT);
                }
                assert!(served.answer(300).await.starts_with("HTTP/1.1 200"));
            }
            // Behind a request whose answer may still be on its way: whole, or not at all.
            let (mut read, mut write) = tokio::io::split(served.client);
            let last = b"GET /early HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
            tokio::spawn(async move { write.write_all(&[GET, last].concat()).await });
            let mut all = String::new();
            read.read_to_string(&mut all).await.unwrap();
            let answers = all.replace(HINT, "");
            let answers: Vec<&str> = answers.split("HTTP/1.1 ").collect();
            assert_eq!(answers.len(), 3, "{all}");
            for answer in &answers[1..] {
                let body = "x".repeat(300);
                assert!(answer.starts_with("200") && answer.ends_with(&body), "{all}");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn names_are_written_in_any_way_and_heads_come_in_any_pieces() {
        const HEADS: [&str; 4] = [
            "GET / HTTP/1.1\r\nhost: a\r\nx-a: b\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nX-A: b\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nx-A: b\r\n\r\n",
            "GET / HTTP/1.1\r\nHOST: a\r\nx-a: b\r\n\r\n",
        ];
        for last in HEADS {
            for cut in 1..last.len() {
                let mut served = served(3, 1024);
                for head in [HEADS[0], HEADS[1], last, HEADS[0]] {
                    let (first, rest) = head.split_at(cut);
                    served.client.write_all(first.as_bytes()).await.unwrap();
                    // Time stands still until everybody waits, so the first piece is read alone.
                    tokio::time::sleep(Duration::from_millis(if cut % 2 == 0 { 1 } else { 200 }))
                        .await;
                    served.client.write_all(rest.as_bytes()).await.unwrap();
                    assert!(served.answer(3).await.starts_with("HTTP/1.1 200"), "{head} at {cut}");
                }
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_may_switch_protocols_also_after_it_was_quiet() {
        let switch =
            b"GET /switch HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: x\r\n\r\nearly";
        for pause in [0, 30] {
            let mut served = served(0, 1024);
            tokio::time::sleep(Duration::from_secs(pause)).await;
            served.client.write_all(switch).await.unwrap();
            assert!(served.answer(0).await.starts_with("HTTP/1.1 101"));
            let mut early = [0; 5];
            served.client.read_exact(&mut early).await.unwrap();
            assert_eq!(&early, b"early");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_upgrade_that_was_not_granted_leaves_a_connection_that_serves() {
        let mut served = served(0, 1024);
        let asks = b"GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n";
        served.client.write_all(asks).await.unwrap();
        assert!(served.answer(0).await.starts_with("HTTP/1.1 200"));
        tokio::time::sleep(Duration::from_secs(30)).await;
        served.client.write_all(GET).await.unwrap();
        assert!(served.answer(0).await.starts_with("HTTP/1.1 200"));
        let begin = Instant::now();
        served.server.await.unwrap().unwrap();
        assert_eq!(begin.elapsed().as_secs(), BOUNDS.idle.as_secs());
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
            served.server.await.unwrap().unwrap();
            assert!(begin.elapsed() < Duration::from_secs(1), "after {pause} s");
        }
    }
}
