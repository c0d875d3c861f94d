//! An agent's HTTP/1.1 connection, which costs little while it waits.
//!
//! One task reads a head, has it answered, and writes the answer ([`reply`]); the request's body is read from
//! the same stream by whoever asks for it ([`wire`]). A connection that says nothing for a moment is taken apart,
//! and only its stream is kept until the next byte comes: most connections of agents wait most of the time.

mod body;
mod linger;
mod reply;
mod wire;

use std::error::Error;
use std::future::poll_fn;
use std::io::{self, ErrorKind};
use std::mem::MaybeUninit;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::BytesMut;
use http::{Method, Request, Response, Version, header};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until, timeout};

pub(super) use self::body::{Source, WireBody};

use self::body::Framing;
use self::linger::Linger;
use self::reply::{Asked, Sending};
use self::wire::{GoOn, Next, Owner, Upload};
use super::body::Body;
use super::expect::is_expected;
use super::handed::{Hand, Handed};
use super::incoming::Incoming;
use super::interim::Outlet;
use crate::http1::{HeadError, Length, Limits, RequestHead, Spelling};
use crate::outcome::Code;
use crate::request::Odd;

/// How long a connection says nothing before it is taken apart. Longer than a client needs that has
/// its next request ready; shorter than a model thinks. To put a connection together again costs a
/// microsecond; to keep the buffers of each, and its place for an exchange, would cost 24 KiB.
const QUIET: Duration = Duration::from_millis(50);

/// The most that is read of the next request to see that there is one.
const FIRST_BYTES: usize = 512;

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
    /// Whether an agent that ends its side still waits for its answer.
    pub(super) half_close: bool,
}

impl Bounds {
    fn limits(&self) -> Limits {
        Limits { bytes: self.head_bytes, fields: self.headers }
    }
}

/// How long an agent may take.
#[derive(Clone, Copy)]
pub(super) struct Clocks {
    /// From the first byte of a head to its last.
    pub(super) head: Duration,
    /// How long it may take nothing of an answer.
    pub(super) unread: Duration,
}

/// Makes, and records, the answer to what could not be read.
pub(super) type Refuse = Arc<dyn Fn(Code) -> Response<Body> + Send + Sync>;

/// Makes of a stream, and of what was read of it beyond the last request, what goes on without HTTP.
pub(super) type Leave<S, T> = fn(S, Vec<u8>) -> T;

type Ended<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// Serves `stream` until it ends, answering each request with `answer`, and with `refuse` what
/// cannot be read as one. When `stop` is ready, the request in flight is the last one. A request that may end
/// HTTP on it (an upgrade, a CONNECT) has a [`Handed`] of what `leave` makes of the stream then.
///
/// # Errors
/// When the client broke the protocol or the connection, or was too slow.
pub(super) async fn serve<S, T, A, F>(
    stream: S,
    bounds: Bounds,
    stop: impl Future<Output = ()>,
    (refuse, leave): (Refuse, Leave<S, T>),
    answer: A,
) -> Ended<()>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    T: Send + 'static,
    A: Fn(Request<Incoming>, Outlet) -> F,
    F: Future<Output = Response<Body>>,
{
    let mut stop = pin!(stop);
    let mut next = Some((stream, BytesMut::new()));
    while let Some((stream, unread)) = next.take() {
        let wire = Owner::new(stream, unread, bounds);
        let serving = Serving { wire, bounds, refuse: &refuse, leave };
        // In a box, so that a connection that waits is not as large as one that serves.
        let quiet = Box::pin(serving.run(stop.as_mut(), &answer)).await?;
        if let Some(stream) = quiet {
            next = wait(stream, bounds.idle, stop.as_mut()).await?;
        }
    }
    Ok(())
}

/// Waits for the first bytes of the next request. None when there will be none.
async fn wait<S>(
    mut stream: S,
    idle: Duration,
    mut stop: Pin<&mut impl Future<Output = ()>>,
) -> io::Result<Option<(S, BytesMut)>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let first = poll_fn(|cx| {
        if stop.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Ok(BytesMut::new()));
        }
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
) -> Poll<io::Result<BytesMut>> {
    // On the stack, and only while it is looked at: a place in the future would be there for as long
    // as the connection waits.
    let mut space = [MaybeUninit::<u8>::uninit(); FIRST_BYTES];
    let mut first = ReadBuf::uninit(&mut space);
    ready!(Pin::new(stream).poll_read(cx, &mut first))?;
    Poll::Ready(Ok(BytesMut::from(first.filled())))
}

/// A connection that is served.
struct Serving<'a, S, T> {
    wire: Owner<S>,
    bounds: Bounds,
    refuse: &'a Refuse,
    leave: Leave<S, T>,
}

/// How long a connection has waited for a head.
struct Waiting {
    /// Since when nothing has come.
    since: Instant,
    /// Made when the rest of a head is waited for, which for nearly every head is never.
    head: Option<Pin<Box<Sleep>>>,
}

impl<S, T> Serving<'_, S, T>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    T: Send + 'static,
{
    /// Serves requests until there are none for [`QUIET`], and gives the stream back; or until the
    /// connection ends.
    async fn run<A, F>(
        self,
        mut stop: Pin<&mut impl Future<Output = ()>>,
        answer: &A,
    ) -> Ended<Option<S>>
    where
        A: Fn(Request<Incoming>, Outlet) -> F,
        F: Future<Output = Response<Body>>,
    {
        let mut stopping = false;
        let mut quiet = pin!(sleep_until(Instant::now() + QUIET));
        loop {
            let mut waiting = Waiting { since: Instant::now(), head: None };
            let next = poll_fn(|cx| {
                stopping = stopping || stop.as_mut().poll(cx).is_ready();
                self.poll_next(cx, (&mut waiting, quiet.as_mut()), stopping)
            });
            let head = match next.await? {
                Next::Head(head) => head,
                Next::Nothing => return Ok(self.wire.into_stream().map(|(stream, _none)| stream)),
                Next::Begun => return Err(self.give_up().await.into()),
                Next::Unreadable(error) => return Err(self.refused(error).await),
                Next::Over => {
                    self.end().await;
                    return Ok(None);
                }
            };
            let (asked, request, hand) = self.received(head);
            let response = {
                let outlet = Outlet::of(self.wire.share());
                let mut answering = pin!(answer(request, outlet));
                let answered = poll_fn(|cx| match answering.as_mut().poll(cx) {
                    Poll::Ready(answer) => {
                        stopping = stopping || stop.as_mut().poll(cx).is_ready();
                        Poll::Ready(Ok(answer))
                    }
                    Poll::Pending => self.wire.poll_waiting(cx).map(Err),
                });
                answered.await?
            };
            let leaves = asked.leaves_http(response.status());
            let (out, upload) = self.wire.answer();
            let last = stopping || upload != Upload::Over;
            let mut sending = Sending::new(&asked, response, out, last);
            poll_fn(|cx| sending.poll(cx, &self.wire)).await?;
            if leaves {
                return self.left(hand).map(|()| None);
            }
            let keeps_alive = sending.keeps_alive;
            self.wire.reuse(sending.into_out());
            if !keeps_alive {
                self.end().await;
                return Ok(None);
            }
        }
    }

    /// Ready with the next head; with [`Next::Nothing`] when none has begun for [`QUIET`], and with
    /// [`Next::Begun`] when one does not come to its end.
    fn poll_next(
        &self,
        cx: &mut Context<'_>,
        (waiting, quiet): (&mut Waiting, Pin<&mut Sleep>),
        stopping: bool,
    ) -> Poll<io::Result<Next>> {
        let next = self.wire.poll_head(cx)?;
        match &next {
            Next::Nothing if stopping => return Poll::Ready(Ok(Next::Over)),
            Next::Nothing => ready!(poll_quiet(cx, waiting.since + QUIET, quiet)),
            Next::Begun => {
                let within = self.bounds.clocks.head;
                let alarm = || Box::pin(sleep_until(Instant::now() + within));
                ready!(waiting.head.get_or_insert_with(alarm).as_mut().poll(cx));
            }
            Next::Head(_) | Next::Over | Next::Unreadable(_) => {}
        }
        Poll::Ready(Ok(next))
    }

    /// The request as the steps take it, and what is needed of it here.
    fn received(&self, head: RequestHead) -> (Asked, Request<Incoming>, Option<Hand<T>>) {
        let asked = Asked::of(&head);
        let RequestHead { request, length, two_framings, fragment, spelling, .. } = head;
        let (mut parts, ()) = request.into_parts();
        let odd = match (fragment, two_framings) {
            (true, _) => Some(Odd::Fragment),
            (false, true) => Some(Odd::Framing),
            (false, false) => None,
        };
        let body = match length {
            // Nobody knows what follows.
            _ if odd.is_some() => {
                self.wire.begin(Upload::GivenUp, GoOn::Unasked);
                Incoming::Empty
            }
            Length::Exact(0) => {
                self.wire.begin(Upload::Over, GoOn::Unasked);
                Incoming::Empty
            }
            length => {
                // HTTP/1.0 knows no interim answers.
                let waits = parts.version >= Version::HTTP_11 && is_expected(&parts.headers);
                self.wire.begin(Upload::Open, if waits { GoOn::Waits } else { GoOn::Unasked });
                let framing = Framing::new(length, self.bounds.limits());
                Incoming::Http1(WireBody::new(self.wire.share(), framing))
            }
        };
        if let Some(odd) = odd {
            parts.extensions.insert(odd);
        }
        if spelling != Spelling::Lower {
            parts.extensions.insert(spelling);
        }
        let may_leave =
            parts.method == Method::CONNECT || parts.headers.contains_key(header::UPGRADE);
        let hand = may_leave.then(|| {
            let (hand, handed) = Handed::<T>::new();
            parts.extensions.insert(handed);
            hand
        });
        (asked, Request::from_parts(parts, body), hand)
    }

    /// Gives the stream to whoever goes on without HTTP.
    fn left(self, hand: Option<Hand<T>>) -> Ended<()> {
        // Such a request has no body: more of one would be taken for what follows it.
        let over = self.wire.upload() == Upload::Over;
        let (Some(hand), true) = (hand, over) else {
            return Err("nobody asked to leave HTTP".into());
        };
        if let Some((stream, unread)) = self.wire.into_stream() {
            // A copy, because the buffer is far larger, and would live as long.
            let _untaken = hand.send((self.leave)(stream, unread.to_vec()));
        }
        Ok(())
    }

    /// Answers what is no head. What comes behind it is not read.
    async fn refused(&self, error: HeadError) -> Box<dyn Error + Send + Sync> {
        let code = match error {
            HeadError::Malformed | HeadError::Framing => Code::BadRequest,
            HeadError::LongTarget => Code::UrlTooLong,
            HeadError::TooLarge => Code::HeadTooLarge,
        };
        let mut sending = self.own(code);
        match poll_fn(|cx| sending.poll(cx, &self.wire)).await {
            Ok(()) => self.end().await,
            Err(error) => return error,
        }
        error.into()
    }

    /// Tells an agent whose head does not come to its end, as far as that can be told at once.
    async fn give_up(&self) -> io::Error {
        let mut sending = self.own(Code::RequestTimeout);
        poll_fn(|cx| {
            let _told = sending.poll(cx, &self.wire);
            Poll::Ready(())
        })
        .await;
        io::Error::new(ErrorKind::TimedOut, "the head of a request did not come to its end")
    }

    /// An answer of ours to what is no request.
    fn own(&self, code: Code) -> Sending {
        self.wire.begin(Upload::GivenUp, GoOn::Unasked);
        let (out, _) = self.wire.answer();
        Sending::new(&Asked::unread(), (self.refuse)(code), out, true)
    }

    /// Ends the connection, when nobody reads from it any more.
    async fn end(&self) {
        let upload = poll_fn(|cx| self.wire.poll_upload(cx)).await;
        // Only where something may still come: others are gone as soon as they are answered.
        let mut linger = (upload != Upload::Over).then(Linger::default);
        let mut told = false;
        poll_fn(|cx| self.wire.poll_end(cx, &mut told, linger.as_mut())).await;
    }
}

/// Whether this is the end of a stream in TLS that did not say that it would end. Most clients go so, and
/// none of them reads the end that we would say: it would cost a record, and the reset that it is answered
/// with.
fn has_left(error: &io::Error) -> bool {
    error.kind() == ErrorKind::UnexpectedEof
}

/// Ready at `deadline`. The timer is left where it is, goes off early, and is set anew: 20 times a second,
/// and not with each request.
fn poll_quiet(cx: &mut Context<'_>, deadline: Instant, mut alarm: Pin<&mut Sleep>) -> Poll<()> {
    loop {
        ready!(alarm.as_mut().poll(cx));
        if alarm.deadline() >= deadline {
            return Poll::Ready(());
        }
        alarm.as_mut().reset(deadline);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::signal::Bell;
    use crate::scrub::{Hidden, Interim};
    use crate::tls::Prefixed;
    use http::StatusCode;
    use tokio::io::{AsyncReadExt, DuplexStream, duplex};
    use tokio::task::JoinHandle;

    const BOUNDS: Bounds = Bounds {
        head_bytes: 8192,
        headers: 10,
        clocks: Clocks { head: Duration::from_secs(15), unread: Duration::from_mins(2) },
        idle: Duration::from_mins(10),
        half_close: false,
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
                    let handed =
                        request.extensions_mut().remove::<Handed<Prefixed<DuplexStream>>>();
                    tokio::spawn(async move {
                        let mut stream = handed.unwrap().come().await.unwrap();
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
            let leave = |stream, unread| Prefixed::new(unread, stream);
            serve(far, BOUNDS, stop, (refuse, leave), answer).await
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
        served.server.await.unwrap().unwrap_err();
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

    /// What an agent hears that sends `sent` and then waits: each request is answered by what its path says.
    async fn heard(sent: &str) -> (String, Ended<()>) {
        let (mut client, far) = duplex(1 << 16);
        let server = tokio::spawn(async move {
            let refuse: Refuse = Arc::new(|code| {
                let refused = Response::builder().status(code.status());
                refused.body(Body::whole("refused".into())).unwrap()
            });
            let answer =
                async |request: Request<Incoming>, _: Outlet| answer_by_path(request).await;
            let leave = |stream, unread| Prefixed::new(unread, stream);
            let answer = |request, outlet| Box::pin(answer(request, outlet));
            serve(far, BOUNDS, std::future::pending(), (refuse, leave), answer).await
        });
        client.write_all(sent.as_bytes()).await.unwrap();
        let mut all = Vec::new();
        client.read_to_end(&mut all).await.unwrap();
        (String::from_utf8(all).unwrap(), server.await.unwrap())
    }

    async fn answer_by_path(request: Request<Incoming>) -> Response<Body> {
        let path = request.uri().path().to_owned();
        let (_, mut body) = request.into_parts();
        let mut response = Response::new(Body::whole("abc".into()));
        match path.split_once('=').unwrap_or((&path, "")) {
            ("/status", status) => *response.status_mut() = status.parse().unwrap(),
            ("/length", length) => {
                response.headers_mut().insert(header::CONTENT_LENGTH, length.parse().unwrap());
            }
            ("/echo", _) => {
                let mut all = Vec::new();
                while let Some(frame) = poll_fn(|cx| body.poll_frame(cx)).await {
                    let Ok(frame) = frame else { break };
                    all.extend_from_slice(frame.data_ref().map_or(b"+", |data| data));
                }
                *response.body_mut() = Body::whole(all.into());
            }
            _ => {}
        }
        response
    }

    /// The heads and bodies without the day and its time.
    fn undated(text: &str) -> String {
        let dated = |line: &&str| line.starts_with("date: ");
        let lines: Vec<&str> = text.split_inclusive("\r\n").collect();
        let dates = lines.iter().filter(|line| dated(line)).count();
        assert_eq!(
            dates,
            text.matches("HTTP/1.").count() - text.matches(" 100 ").count(),
            "{text}"
        );
        lines.into_iter().filter(|line| !dated(line)).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn answers_end_where_their_heads_say() {
        let last = "connection: close\r\n";
        for (line, fields, expected) in [
            (
                "GET / HTTP/1.1",
                last,
                "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 3\r\n\r\nabc",
            ),
            (
                "HEAD / HTTP/1.1",
                last,
                "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 3\r\n\r\n",
            ),
            (
                "HEAD /length=9 HTTP/1.1",
                last,
                "HTTP/1.1 200 OK\r\ncontent-length: 9\r\nconnection: close\r\n\r\n",
            ),
            (
                "GET /status=204 HTTP/1.1",
                last,
                "HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n",
            ),
            (
                "GET /status=304 HTTP/1.1",
                last,
                "HTTP/1.1 304 Not Modified\r\nconnection: close\r\n\r\n",
            ),
            (
                "GET /status=299 HTTP/1.1",
                last,
                "HTTP/1.1 299 \r\nconnection: close\r\ncontent-length: 3\r\n\r\nabc",
            ),
            // HTTP/1.0 goes on where it was asked to.
            (
                "GET / HTTP/1.0",
                "",
                "HTTP/1.0 200 OK\r\nconnection: close\r\ncontent-length: 3\r\n\r\nabc",
            ),
            (
                "GET / HTTP/1.0\r\nconnection: keep-alive\r\n\r\nGET / HTTP/1.0",
                "",
                "HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 3\r\n\r\nabc\
                 HTTP/1.0 200 OK\r\nconnection: close\r\ncontent-length: 3\r\n\r\nabc",
            ),
        ] {
            let (text, ended) = heard(&format!("{line}\r\n{fields}\r\n")).await;
            assert_eq!(undated(&text), expected, "{line}");
            ended.unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_is_not_as_long_as_it_says_is_cut() {
        for (length, body) in [(9, "abc"), (2, "")] {
            let get = format!("GET /length={length} HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\n\r\n");
            let (text, ended) = heard(&get).await;
            let expected = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{body}");
            assert_eq!(undated(&text), expected);
            ended.unwrap_err();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn bodies_are_read_to_their_end_and_no_further() {
        let last = "GET / HTTP/1.1\r\nconnection: close\r\n\r\n";
        for (framing, body, echo) in [
            ("content-length: 5", "GET /".to_owned(), "GET /".to_owned()),
            (
                "transfer-encoding: chunked",
                "3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n".into(),
                "abcde".into(),
            ),
            ("transfer-encoding: chunked", "1\r\na\r\n0\r\nx: y\r\n\r\n".into(), "a+".into()),
            ("content-length: 60000", "x".repeat(60_000), "x".repeat(60_000)),
        ] {
            let sent = format!("POST /echo HTTP/1.1\r\n{framing}\r\n\r\n{body}{last}");
            let (text, ended) = heard(&sent).await;
            let length = echo.len();
            assert_eq!(
                undated(&text),
                format!(
                    "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{echo}\
                     HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 3\r\n\r\nabc"
                )
            );
            ended.unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_read_behind_what_has_no_clear_end() {
        let next = "GET /next HTTP/1.1\r\n\r\n";
        for (text, status) in [
            // Answered before it was read.
            ("POST / HTTP/1.1\r\ncontent-length: 5\r\n\r\n123", "200 OK"),
            ("POST / HTTP/1.1\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n", "200 OK"),
            ("POST /echo HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nx\r\n", "200 OK"),
            // Odd. It is for the steps to refuse it.
            ("POST / HTTP/1.1\r\ncontent-length: 0\r\ncontent-length: 0\r\n\r\n", "200 OK"),
            ("GET /#x HTTP/1.1\r\n\r\n", "200 OK"),
            ("GET / HTTP/1.1\r\na b\r\n\r\n", "400 Bad Request"),
            ("GET / HTTP/1.1\r\ntransfer-encoding: gzip\r\n\r\n", "400 Bad Request"),
        ] {
            let (heard, ended) = heard(&format!("{text}{next}")).await;
            assert!(heard.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{text}: {heard}");
            assert!(heard.contains("\r\nconnection: close\r\n"), "{text}: {heard}");
            assert_eq!(heard.matches("HTTP/1.1").count(), 1, "{text}: {heard}");
            assert_eq!(ended.is_err(), status.starts_with('4'), "{text}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_agent_is_told_to_go_on_when_its_body_is_asked_for() {
        let (mut client, far) = duplex(1024);
        let server = tokio::spawn(async move {
            let refuse: Refuse = Arc::new(|_| Response::new(Body::empty()));
            let leave = |stream, unread| Prefixed::new(unread, stream);
            let answer = |request, _: Outlet| {
                Box::pin(async move {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    answer_by_path(request).await
                })
            };
            serve(far, BOUNDS, std::future::pending(), (refuse, leave), answer).await
        });
        let begin = Instant::now();
        for (version, told) in [("1.1", "HTTP/1.1 100 Continue\r\n\r\n"), ("1.0", "")] {
            let head = format!(
                "POST /echo HTTP/{version}\r\nExpect: 100-Continue\r\nconnection: keep-alive\r\n\
                 content-length: 2\r\n\r\n"
            );
            client.write_all(head.as_bytes()).await.unwrap();
            let mut text = vec![0; told.len()];
            client.read_exact(&mut text).await.unwrap();
            assert_eq!(text, told.as_bytes());
            assert_eq!(begin.elapsed().as_secs(), 1);
            client.write_all(b"ab").await.unwrap();
            let mut text = Vec::new();
            while !text.ends_with(b"\r\n\r\nab") {
                text.push(client.read_u8().await.unwrap());
            }
            assert!(text.starts_with(format!("HTTP/{version} 200").as_bytes()));
        }
        drop(client);
        server.await.unwrap().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn an_agent_that_leaves_is_not_answered_any_more() {
        for half_close in [false, true] {
            let (mut client, far) = duplex(1024);
            let (begun, mut begins) = tokio::sync::mpsc::channel::<()>(2);
            let server = tokio::spawn(async move {
                let answer = |_: Request<Incoming>, _: Outlet| {
                    let begun = begun.clone();
                    async move {
                        begun.send(()).await.unwrap();
                        tokio::time::sleep(Duration::from_mins(1)).await;
                        Response::new(Body::empty())
                    }
                };
                let refuse: Refuse = Arc::new(|_| Response::new(Body::empty()));
                let bounds = Bounds { half_close, ..BOUNDS };
                let leave = |stream, unread| Prefixed::new(unread, stream);
                serve(far, bounds, std::future::pending(), (refuse, leave), answer).await
            });
            client.write_all(GET).await.unwrap();
            begins.recv().await.unwrap();
            let begin = Instant::now();
            client.shutdown().await.unwrap();
            let ended = server.await.unwrap();
            assert_eq!((ended.is_ok(), begin.elapsed().as_secs() >= 60), (half_close, half_close));
        }
    }
}
